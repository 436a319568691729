use std::path::Path;
use std::sync::Barrier;
use std::thread;

use super::member::Condition;
use super::*;
use crate::config;
use crate::relay::registry::About;
use crate::relay::registry::tests::about;

const THREADS: usize = 8;

fn upstream(servers: &str, more: &str) -> Arc<Upstream> {
    let text = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\nupstream = \"app\"\n\
         [upstream.app]\nservers = [{servers}]\n{more}\n"
    );
    let config = config::parse(&text, Path::new("config.toml")).expect("it is right").config;
    config.upstreams["app"].clone()
}

const THREE: &str = "\"ws://a\", \"ws://b\", \"ws://c\"";

fn pool(more: &str) -> Pool {
    Pool::new(upstream(THREE, more), None)
}

/// A session with whom it gets.
fn next(pool: &Pool) -> Chosen {
    pool.choose(None, &[], For::Session).expect("one is open")
}

fn name(chosen: &Chosen) -> String {
    let address = chosen.member.address.map(|address| format!(" {address}")).unwrap_or_default();
    format!("{}{address}", &chosen.member.server.text["ws://".len()..])
}

/// Who gets the next sessions, which end at once.
fn turns(pool: &Pool, times: usize) -> String {
    (0..times).map(|_| name(&next(pool))).collect::<Vec<_>>().join(", ")
}

/// Sessions of each, with its condition where it is not up.
fn shown(pool: &Pool) -> String {
    let show = |server: &ServerStatus| {
        let address = server.address.map(|address| format!(" {address}")).unwrap_or_default();
        let condition = match server.condition {
            Condition::Up => String::new(),
            other => format!(" {}", other.label()),
        };
        format!("{}{address} {}{condition}", &server.server["ws://".len()..], server.sessions)
    };
    pool.servers().iter().map(show).collect::<Vec<_>>().join(", ")
}

/// Whom many who come at once get.
fn at_once(pool: &Pool) -> Vec<Chosen> {
    let barrier = Barrier::new(THREADS);
    thread::scope(|scope| {
        let choose = || {
            barrier.wait();
            next(pool)
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(choose)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

#[test]
fn many_at_once_see_each_other() {
    let pool = pool("balance = \"least-connections\"");
    for _ in 0..200 {
        let chosen = at_once(&pool);
        let loads: Vec<_> = pool.servers().iter().map(|server| server.sessions).collect();
        assert!(loads.iter().all(|load| (2..=3).contains(load)), "{loads:?}");
        drop(chosen);
        assert_eq!(pool.sessions(), 0);
    }
}

#[test]
fn many_at_once_try_a_server_once_after_its_time() {
    for _ in 0..50 {
        let pool = pool("health = { passive = { failures = 1, aside = \"1ms\", aside_max = \"1ms\" } }");
        let first = pool.set().members[0].clone();
        pool.failed(&first, "on purpose");
        while pool.servers()[0].condition == Condition::Aside {
            thread::yield_now();
        }
        let tries = at_once(&pool).iter().filter(|chosen| chosen.member.is(&first)).count();
        assert_eq!(tries, 1);
    }
}

#[test]
fn a_reload_keeps_what_is_known_of_the_servers_that_stay() {
    let old = pool("balance = \"least-connections\"");
    let mut sessions: Vec<_> = (0..6).map(|_| next(&old)).collect();
    sessions.retain(|session| session.member.server.text != "ws://c");
    assert!(old.set_state("ws://a", None, State::Drain));
    assert_eq!(shown(&old), "a 2 drain, b 2, c 0");

    let changed = "\"ws://c\", {url = \"ws://a\", weight = 7}, \"ws://d\"";
    let new = old.renew(upstream(changed, "balance = \"least-connections\""), None);
    assert_eq!(shown(&new), "c 0, a 2 drain, d 0, b 2 leaving");
    assert_eq!(new.servers()[1].weight, 7);
    assert_eq!(shown(&old), "a 2 drain, b 2, c 0", "the old one is as it was");
    assert_eq!(turns(&new, 4), "c, d, c, d");
    let again = new.renew(upstream(THREE, "balance = \"least-connections\""), None);
    assert_eq!(shown(&again), "a 2 drain, b 2, c 0", "who comes back before its last session ended was never away");
    drop(sessions);
    assert_eq!((shown(&new), new.sessions()), ("c 0, a 0 drain, d 0".to_owned(), 0));
}

#[test]
fn a_reload_goes_on_with_the_turns() {
    let mut pool = pool("");
    let mut taken = String::new();
    for _ in 0..7 {
        taken += &turns(&pool, 1);
        pool = pool.renew(upstream(THREE, ""), None);
    }
    assert_eq!(taken, "abcabca");
}

#[test]
fn a_cap_counts_sessions_of_older_configurations() {
    let old = pool("sessions_per_server = 2");
    let sessions: Vec<_> = (0..6).map(|_| next(&old)).collect();
    let new = old.renew(upstream(THREE, "sessions_per_server = 3"), None);
    let more: Vec<_> = (0..3).map(|_| next(&new)).collect();
    assert!(matches!(new.choose(None, &[], For::Session), Err(Refusal::SessionsUpstream)));
    assert_eq!(shown(&new), "a 3, b 3, c 3");
    drop((sessions, more));
    assert_eq!(new.sessions(), 0);
}

#[test]
fn addresses_of_a_name_come_and_go() {
    let at = |n: u8| SocketAddr::from(([10, 0, 0, n], 80));
    let pool = pool("");
    pool.set_addresses("ws://b", &[at(1), at(2)]);
    pool.set_addresses("ws://nobody", &[at(9)]);
    assert_eq!(turns(&pool, 5), "a, b 10.0.0.1:80, b 10.0.0.2:80, c, a");
    let sessions: Vec<_> = (0..4).map(|_| next(&pool)).collect();
    pool.set_addresses("ws://b", &[at(2), at(3)]);
    assert_eq!(shown(&pool), "a 1, b 10.0.0.2:80 1, b 10.0.0.3:80 0, c 1, b 10.0.0.1:80 1 leaving");
    pool.set_addresses("ws://b", &[]);
    assert_eq!(shown(&pool.renew(upstream(THREE, ""), None)), shown(&pool), "a reload keeps what a name led to");
    drop(sessions);
    assert_eq!(shown(&pool), "a 0, b 10.0.0.2:80 0, b 10.0.0.3:80 0, c 0");
}

#[test]
fn by_hand() {
    let pool = pool("");
    assert!(!pool.set_state("ws://nobody", None, State::Down));
    assert!(pool.set_state("ws://a", None, State::Down) && pool.set_state("ws://b", None, State::Drain));
    assert_eq!((turns(&pool, 2), shown(&pool)), ("c, c".to_owned(), "a 0 down, b 0 drain, c 0".to_owned()));
    pool.set_state("ws://c", None, State::Drain);
    let refusal = pool.choose(None, &[], For::Session).expect_err("nobody is left");
    assert!(matches!(refusal, Refusal::NoHealthyServer { retry_after } if retry_after == BY_HAND));
    pool.set_state("ws://a", None, State::Up);
    assert_eq!(turns(&pool, 2), "a, a");
}

/// How often each is taken of a hundred times.
fn shares(pool: &Pool) -> [usize; 3] {
    let taken = turns(pool, 100);
    ["a", "b", "c"].map(|name| taken.matches(name).count())
}

#[tokio::test(start_paused = true)]
async fn slow_start() {
    let pool = pool("slow_start = \"30s\"");
    assert_eq!(shares(&pool), [34, 33, 33], "not when all begin");
    pool.set_state("ws://b", None, State::Down);
    pool.set_state("ws://b", None, State::Up);
    let mut grown = vec![shares(&pool)[1]];
    for _ in 0..3 {
        tokio::time::advance(Duration::from_secs(10)).await;
        grown.push(shares(&pool)[1]);
    }
    // Of 10, 40, 70 and 100 beside twice 100.
    assert_eq!(grown, [5, 17, 26, 33]);

    let more = format!("{THREE}, \"ws://d\"");
    let pool = pool.renew(upstream(&more, "slow_start = \"30s\""), None);
    assert_eq!(turns(&pool, 31).matches('d').count(), 1, "one that comes later");
}

#[tokio::test(start_paused = true)]
async fn slow_start_moves_keys_to_it_and_no_others() {
    let pool = pool("balance = \"hash:client\"\nslow_start = \"30s\"");
    let of = |pool: &Pool| -> Vec<_> {
        let of = |key| pool.choose(Some(hash(&[key])), &[], For::Session).expect("one is open");
        (0..=255).map(|key| name(&of(key))).collect()
    };
    let before = of(&pool);
    pool.set_state("ws://b", None, State::Down);
    let without = of(&pool);
    pool.set_state("ws://b", None, State::Up);
    let mut last = without.clone();
    let mut moved = Vec::new();
    for _ in 0..=3 {
        let now = of(&pool);
        assert!(now.iter().zip(&last).all(|(now, last)| now == last || now == "b"), "each moves once, and to it");
        moved.push(now.iter().filter(|name| *name == "b").count());
        last = now;
        tokio::time::advance(Duration::from_secs(10)).await;
    }
    assert!(moved.is_sorted() && moved[0] > 0 && moved[0] < moved[3] / 2, "{moved:?}");
    assert_eq!(last, before);
}

#[test]
fn an_unhealthy_server_gets_nothing_even_if_it_is_alone() {
    let upstream = upstream("\"ws://a\"", "health = { active = { interval = \"7s\" } }");
    let rules = upstream.active.clone().expect("it is there");
    let pool = Pool::new(upstream, None);
    let check = |failure: Option<&str>| {
        pool.members()[0].vitals.health().checked(failure.map(str::to_owned), &rules, Instant::now());
    };
    check(Some("why"));
    let refusal = pool.choose(None, &[], For::Session).expect_err("it is down");
    assert!(matches!(refusal, Refusal::NoHealthyServer { retry_after } if retry_after == Duration::from_secs(7)));
    assert_eq!((shown(&pool), pool.servers()[0].failure.as_deref()), ("a 0 unhealthy".to_owned(), Some("why")));
    (0..2).for_each(|_| check(None));
    assert_eq!(turns(&pool, 1), "a");
}

fn drain_rules() -> model::Drain {
    model::Drain { grace: Duration::ZERO }
}

/// Whether somebody connects from now on, within several intervals of a check.
async fn is_checked(listener: &tokio::net::TcpListener) -> bool {
    let accepted = async |millis| tokio::time::timeout(Duration::from_millis(millis), listener.accept()).await.is_ok();
    // Those that have waited to be accepted.
    while accepted(5).await {}
    accepted(200).await
}

#[tokio::test]
async fn checks_begin_and_end_with_the_pool() {
    let listeners = [0, 1].map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a port"));
    let [one, two] = listeners.map(|listener| {
        listener.set_nonblocking(true).expect("an option");
        tokio::net::TcpListener::from_std(listener).expect("a runtime")
    });
    let server = |listener: &tokio::net::TcpListener| format!("\"ws://{}\"", listener.local_addr().expect("bound"));
    let active = "health = { active = { interval = \"20ms\" } }";
    let drain = Drain::new(0);
    let pool = Arc::new(Pool::new(upstream(&server(&one), active), None));
    pool.start(&drain, &drain_rules());
    assert!(is_checked(&one).await);

    let new = Arc::new(pool.renew(upstream(&format!("{}, {}", server(&one), server(&two)), active), None));
    new.start(&drain, &drain_rules());
    assert!(is_checked(&one).await && is_checked(&two).await);
    let new = {
        let last = Arc::new(new.renew(upstream(&server(&two), active), None));
        last.start(&drain, &drain_rules());
        last
    };
    assert!(is_checked(&two).await && !is_checked(&one).await, "nobody asks for who is gone");

    let off = Arc::new(new.renew(upstream(&server(&two), ""), None));
    off.start(&drain, &drain_rules());
    assert!(!is_checked(&two).await, "though the old pool is there");
    let again = Arc::new(off.renew(upstream(&server(&two), active), None));
    again.start(&drain, &drain_rules());
    assert!(is_checked(&two).await);
    let stopped = Arc::new(Pool::new(upstream(&server(&one), active), None));
    let stop = Drain::new(0);
    stopped.start(&stop, &drain_rules());
    assert!(is_checked(&one).await);
    stop.drain(Duration::ZERO).await;
    assert!(!is_checked(&one).await, "the gateway stops");
    drop(again);
    assert!(!is_checked(&two).await, "the pool is gone");
}

#[tokio::test]
async fn sessions_of_servers_that_go_end_by_rule() {
    let at = |n: u8| SocketAddr::from(([10, 0, 0, n], 80));
    for (fate, ends) in [("keep", None), ("drain", Some(Cause::Drain)), ("close", Some(Cause::Drain))] {
        let more = format!("on_removed = \"{fate}\"");
        let drain = Drain::new(usize::MAX);
        let pool = Arc::new(pool(&more));
        pool.start(&drain, &drain_rules());
        pool.set_addresses("ws://b", &[at(1), at(2)]);
        let chosen: Vec<_> = (0..4).map(|_| next(&pool)).collect();
        let sessions = drain.sessions();
        let enter = |chosen: &Chosen| {
            let way = sessions.way("listener", "route", "app", &chosen.member.server.text);
            let about = About { way, member: chosen.member.id(), ..about(sessions) };
            let entry = sessions.enter(about);
            if let Some(cause) = pool.ends(&chosen.member) {
                entry.living().end(cause);
            }
            entry
        };
        let entries: Vec<_> = chosen.iter().map(enter).collect();
        let ordered = |at: usize| entries[at].ordered().map(|order| order.cause);
        assert_eq!(chosen.iter().map(name).collect::<Vec<_>>(), ["a", "b 10.0.0.1:80", "b 10.0.0.2:80", "c"]);

        pool.set_addresses("ws://b", &[at(2), at(3)]);
        while !chosen[1].member.vitals.gone.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!([0, 1, 2, 3].map(ordered), [None, ends, None, None], "{fate}");
        assert_eq!(enter(&chosen[1]).ordered().map(|order| order.cause), ends, "one whose handshake was under way");

        let new = Arc::new(pool.renew(upstream("\"ws://a\", \"ws://b\"", &more), None));
        assert_eq!(ordered(3), None, "the new configuration is not in service");
        new.start(&drain, &drain_rules());
        while !chosen[3].member.vitals.gone.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!([0, 1, 2, 3].map(ordered), [None, ends, None, ends], "{fate}");
        pool.set_addresses("ws://b", &[at(1)]);
        assert_eq!(enter(&chosen[1]).ordered(), None, "who comes back is as welcome as before");
    }
}
