use proptest::prelude::*;

use super::*;
use crate::config::model::Log;
use crate::grant::Grant;
use crate::observe::log::Leaves;
use crate::policy::client::Address;
use crate::policy::keys::Key;
use crate::proto::trace::Trace;
use crate::relay::end::{Cause, Traffic};

pub(crate) fn about(registry: &Registry) -> About {
    let way = registry.way("127.0.0.1:8080", "chat", "chat", "ws://a");
    let trace = Trace::of(&http::HeaderMap::new(), false, None, [1; 32]);
    let leaves = Leaves::of(&Log::default(), 0);
    About { way, member: 1, client: Address::Local, secure: false, key: None, trace, leaves }
}

fn enter(registry: &Arc<Registry>) -> Entry {
    registry.enter(about(registry))
}

fn let_in_by(registry: &Arc<Registry>, grant: Option<Arc<Grant>>) -> Entry {
    let key = grant.map(|grant| Key { name: "one".into(), grant });
    registry.enter(About { key, ..about(registry) })
}

fn cause(entry: &Entry) -> Option<Cause> {
    entry.ordered().map(|order| order.cause)
}

#[test]
fn an_order_reaches_living_sessions_and_the_first_counts() {
    let registry = Arc::new(Registry::default());
    let session = enter(&registry);
    assert_eq!(cause(&session), None);
    registry.end_all(Cause::Drain);
    registry.end_all(Cause::RouteRemoved);
    assert_eq!(cause(&session), Some(Cause::Drain));
}

#[test]
fn a_less_patient_order_counts_instead_of_the_first() {
    let registry = Arc::new(Registry::default());
    let order = |cause: Cause, patience| Order { patience: Duration::from_secs(patience), ..cause.into() };
    let session = enter(&registry);
    let orders = [
        (order(Cause::Drain, 30), true),
        (order(Cause::RouteRemoved, 30), false),
        (order(Cause::RouteRemoved, 10), true),
        (Cause::AccessRevoked.into(), true),
        (Cause::UpstreamLost.into(), false),
    ];
    for (order, counts) in orders {
        assert_eq!(session.living().end(order), counts, "{order:?}");
        assert_eq!(cause(&session) == Some(order.cause), counts, "{order:?}");
    }
    let session = enter(&registry);
    session.living().end(order(Cause::RouteRemoved, 30));
    session.living().cut();
    assert!(!session.living().end(Cause::AccessRevoked));
    assert!(session.ordered().is_some_and(|order| order.cut && order.cause == Cause::RouteRemoved));
}

#[test]
fn a_key_that_was_revoked_is_not_waited_for_because_of_a_drain() {
    let registry = Arc::new(Registry::default());
    registry.end_all(Order { patience: Duration::from_secs(30), ..Cause::Drain.into() });
    let revoked = Arc::new(Grant::default());
    revoked.revoke();
    assert_eq!(cause(&let_in_by(&registry, Some(revoked))), Some(Cause::AccessRevoked));
}

#[test]
fn who_has_held_bytes_for_longest_goes_first() {
    let registry = Arc::new(Registry::new(100));
    let begin = registry.began;
    let at = |millis| begin + Duration::from_millis(millis);
    let [mut oldest, mut idle, mut second, mut youngest] = std::array::from_fn(|_| enter(&registry));
    idle.hold(0, at(0));
    oldest.hold(40, at(1));
    youngest.hold(1, at(2));
    youngest.hold(0, at(3));
    second.hold(50, at(4));
    assert!(registry.has_room());
    youngest.hold(60, at(5));
    assert!(!registry.has_room());
    let told = [&oldest, &idle, &second, &youngest].map(|entry| entry.has_to_make_room());
    assert_eq!(told, [true, false, true, false], "without the oldest it would still be too much");
    youngest.hold(101, at(6));
    assert!(!youngest.has_to_make_room(), "those that were told have a moment");
    drop((oldest, second));
    assert_eq!(registry.held_bytes(), 101);
    youngest.hold(102, at(200));
    assert!(youngest.has_to_make_room() && !youngest.has_to_make_room());
    drop(youngest);
    assert_eq!((registry.held_bytes(), registry.has_room()), (0, true));
}

#[test]
fn a_session_that_begins_during_a_drain_is_told_too() {
    let registry = Arc::new(Registry::default());
    registry.end_all(Cause::Drain);
    assert_eq!(cause(&enter(&registry)), Some(Cause::Drain));
}

#[test]
fn a_revoked_grant_ends_its_sessions_and_no_other() {
    let registry = Arc::new(Registry::default());
    let [good, bad] = [0, 1].map(|_| Arc::new(Grant::default()));
    let sessions = [Some(good), Some(bad.clone()), None, Some(bad.clone())].map(|grant| let_in_by(&registry, grant));
    registry.end_revoked();
    assert!(sessions.iter().all(|session| session.ordered().is_none()));
    bad.revoke();
    registry.end_revoked();
    let revoked = Some(Cause::AccessRevoked);
    assert_eq!(sessions.each_ref().map(cause), [None, revoked, None, revoked]);
}

#[test]
fn a_session_whose_grant_was_revoked_while_it_began_is_told_too() {
    let registry = Arc::new(Registry::default());
    let grant = Arc::new(Grant::default());
    grant.revoke();
    registry.end_revoked();
    assert_eq!(cause(&let_in_by(&registry, Some(grant))), Some(Cause::AccessRevoked));
}

#[test]
fn a_dropped_session_is_off_the_list() {
    let registry = Arc::new(Registry::default());
    let sessions: Vec<_> = (0..100).map(|_| enter(&registry)).collect();
    assert_eq!(registry.len(), 100);
    drop(sessions);
    assert!(registry.is_empty());
}

#[test]
fn what_a_selector_selects() {
    let registry = Arc::new(Registry::default());
    let key = Some(Key { name: "partner".into(), grant: Arc::default() });
    let plain = About { client: Address::Ip([10, 0, 0, 7].into()), ..about(&registry) };
    let way = registry.way("127.0.0.1:8443", "feed", "feeds", "ws://b");
    let other = About { way, member: 2, secure: true, key, ..about(&registry) };
    let text = |text: &str| Some(text.to_owned());
    let all = Selector::default;
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let clients = |text: &str| Some(text.parse().expect("clients"));
    let table = [
        ("everything", all(), [true, true]),
        ("its id", Selector { id: Some(1), ..all() }, [true, false]),
        ("its route", Selector { route: text("feed"), ..all() }, [false, true]),
        ("a route whose name begins alike", Selector { route: text("fee"), ..all() }, [false, false]),
        ("its upstream", Selector { upstream: text("chat"), ..all() }, [true, false]),
        ("its server", Selector { server: text("ws://b"), ..all() }, [false, true]),
        ("its member", Selector { member: Some(2), ..all() }, [false, true]),
        ("its listener", Selector { listener: text("127.0.0.1:8080"), ..all() }, [true, false]),
        ("its address", Selector { client: clients("10.0.0.7"), ..all() }, [true, false]),
        ("its address, as IPv6 writes it", Selector { client: clients("::ffff:10.0.0.7"), ..all() }, [true, false]),
        ("another address", Selector { client: clients("10.0.0.8"), ..all() }, [false, false]),
        ("its network", Selector { client: clients("10.0.0.0/8"), ..all() }, [true, false]),
        ("behind a Unix socket", Selector { client: clients("local"), ..all() }, [false, true]),
        ("its key", Selector { key: text("partner"), ..all() }, [false, true]),
        ("older", Selector { older_than: seconds(4), ..all() }, [true, false]),
        ("just as old is not older", Selector { older_than: seconds(5), ..all() }, [false, false]),
        ("more messages", Selector { messages_above: Some(1.0), ..all() }, [false, true]),
        ("more bytes", Selector { bytes_above: Some(10.0), ..all() }, [true, false]),
        ("all of it", Selector { route: text("chat"), older_than: seconds(4), ..all() }, [true, false]),
        ("no more than one of two", Selector { route: text("chat"), id: Some(2), ..all() }, [false, false]),
    ];
    let first =
        Seen { id: 1, about: &plain, age: Duration::from_secs(5), rate: PerSecond { messages: 1.0, bytes: 11.0 } };
    let second =
        Seen { id: 2, about: &other, age: Duration::from_secs(3), rate: PerSecond { messages: 2.0, bytes: 10.0 } };
    for (name, selector, expected) in table {
        assert_eq!([&first, &second].map(|seen| selector.matches(seen)), expected, "{name}");
    }
}

#[test]
fn clients_are_addresses_networks_and_local() {
    for (text, written) in [("local", "local"), ("10.0.0.1", "10.0.0.1/32"), ("2001:db8::/32", "2001:db8::/32")] {
        assert_eq!(text.parse().map(|clients: Clients| clients.to_string()), Ok(written.to_owned()));
    }
    for text in ["", "Local", "10.0.0", "10.0.0.0/33", "example.com"] {
        assert_eq!(text.parse::<Clients>(), Err(NoClients), "{text}");
    }
}

#[test]
fn an_order_reaches_whom_it_is_meant_for_and_counts_them_once() {
    let registry = Arc::new(Registry::default());
    let feed = registry.way("127.0.0.1:8080", "feed", "feeds", "ws://b");
    let chats = [0; 40].map(|_| enter(&registry));
    let feeds = [0; 30].map(|_| registry.enter(About { way: feed.clone(), ..about(&registry) }));
    let chat = Selector { route: Some("chat".to_owned()), ..Selector::default() };
    let patience = Duration::from_secs(30);
    let order = Order { cause: Cause::Drain, retry_after: 8, patience, cut: false };
    assert_eq!(registry.sessions_of("chat").len(), 40);
    assert_eq!(registry.end_where(&chat, order), 40);
    let later = Order { cause: Cause::RouteRemoved, ..order };
    assert_eq!(registry.end_where(&chat, later), 0, "the first order counts");
    assert!(chats.iter().all(|chat| chat.ordered() == Some(order)));
    assert!(feeds.iter().all(|feed| feed.ordered().is_none()));
}

#[test]
fn pages_follow_each_other_in_the_order_of_ids() {
    let registry = Arc::new(Registry::default());
    let gone: Vec<_> = (0..50).map(|_| enter(&registry)).collect();
    let sessions: Vec<_> = (0..100).map(|_| enter(&registry)).collect();
    drop(gone);
    let mut after = 0;
    let mut ids = Vec::new();
    loop {
        let page = registry.page(&Selector::default(), Page { after, limit: 10 });
        assert_eq!(page.total, 100);
        ids.extend(page.ids);
        // The tenth page is the last one, and says so.
        let Some(next) = page.next else { break };
        after = next;
    }
    assert_eq!(ids, sessions.iter().map(|session| session.living().id).collect::<Vec<_>>());
}

#[test]
fn a_session_tells_who_it_is_and_what_it_carries() {
    let registry = Arc::new(Registry::default());
    let mut session = let_in_by(&registry, Some(Arc::default()));
    let traffic = |messages, bytes| Traffic { messages, bytes };
    let flow = Flow {
        from_client: traffic(3, 300),
        from_upstream: traffic(4, 400),
        texts: Texts { from_client: 2, from_upstream: 0 },
    };
    session.publish(flow, Instant::now());
    session.hold(50, Instant::now());
    let page = registry.page(&Selector::default(), Page::default());
    assert_eq!(page, Selected { total: 1, ids: vec![1], next: None });
    let info = registry.info(1).expect("it lives");
    assert_eq!((info.id, &*info.way.route, &*info.way.server, info.client), (1, "chat", "ws://a", Address::Local));
    assert_eq!((info.key.as_deref(), info.flow, info.held, info.ordered), (Some("one"), flow, 50, None));
    assert!(info.age < Duration::from_secs(60) && info.opened <= SystemTime::now());
    drop(session);
    assert_eq!(registry.info(1), None);
}

#[test]
fn a_way_is_shared() {
    let registry = Registry::default();
    let way = |server| registry.way("127.0.0.1:8080", "chat", "chat", server);
    assert!(Arc::ptr_eq(&way("ws://a"), &way("ws://a")));
    assert_ne!(way("ws://a").number, way("ws://b").number);
}

#[test]
fn totals_are_those_of_the_ended_and_of_the_living() {
    let registry = Arc::new(Registry::default());
    let other = registry.way("127.0.0.1:8080", "chat", "chat", "ws://b");
    let traffic = |messages, bytes| Traffic { messages, bytes };
    let flow = |messages| Flow {
        from_client: traffic(messages, 10 * messages),
        from_upstream: traffic(1, 1),
        ..Flow::default()
    };
    let sessions: Vec<_> = (0..50)
        .map(|number| {
            let session = match number % 2 {
                0 => enter(&registry),
                _ => registry.enter(About { way: other.clone(), ..about(&registry) }),
            };
            session.publish(flow(number), Instant::now());
            session
        })
        .collect();
    let sum = |totals: Vec<(Arc<Way>, Total)>| {
        let of = |server| {
            let (_, total) = totals.iter().find(|(way, _)| &*way.server == server).expect("it is there");
            (total.open, total.ended, total.flow.from_client, total.flow.from_upstream)
        };
        [of("ws://a"), of("ws://b")]
    };
    let (even, odd) = (traffic(600, 6000), traffic(625, 6250));
    assert_eq!(sum(registry.traffic()), [(25, 0, even, traffic(25, 25)), (25, 0, odd, traffic(25, 25))]);
    let left: Vec<_> = sessions.into_iter().skip(20).collect();
    assert_eq!(sum(registry.traffic()), [(15, 10, even, traffic(25, 25)), (15, 10, odd, traffic(25, 25))]);
    drop(left);
    assert_eq!(sum(registry.traffic()), [(0, 25, even, traffic(25, 25)), (0, 25, odd, traffic(25, 25))]);
}

#[test]
fn servers_that_come_and_go_for_ever_leave_nothing_but_their_traffic() {
    let registry = Arc::new(Registry::default());
    let way = |server: &str| registry.way("127.0.0.1:8080", "chat", "chat", server);
    let flow = Flow { from_client: Traffic { messages: 3, bytes: 30 }, ..Flow::default() };
    let session = |server: &str| {
        let session = registry.enter(About { way: way(server), ..about(&registry) });
        session.publish(flow, Instant::now());
        session
    };
    let stays = session("ws://stays");
    for turn in 0..100 {
        let passing = format!("ws://{turn}");
        let held = session(&passing);
        drop(session(&passing));
        registry.forget(|_, server| server == "ws://stays");
        assert_eq!(registry.traffic().len(), 3, "a session is with the server that is gone");
        drop(held);
        registry.forget(|_, server| server == "ws://stays");
        let totals = registry.traffic();
        assert_eq!(totals.len(), 2, "the one that stays, and the rest");
        let sum = |of: fn(&Total) -> u64| totals.iter().map(|(_, total)| of(total)).sum::<u64>();
        let sessions = 2 * (turn as u64 + 1);
        assert_eq!((sum(|total| total.ended), sum(|total| total.open as u64)), (sessions, 1));
        assert_eq!(sum(|total| total.flow.from_client.messages), 3 * (sessions + 1));
        assert!(way("ws://next").number < 6, "numbers are given again");
    }
    drop(stays);
}

#[test]
fn a_rate_is_that_of_the_last_ten_seconds() {
    let registry = Arc::new(Registry::default());
    let session = enter(&registry);
    let at = |seconds: f64| registry.began + Duration::from_secs_f64(seconds);
    let rate = |seconds: f64| session.living().rate(registry.began, at(seconds)).messages;
    let publish = |messages, seconds| {
        let from_client = Traffic { messages, bytes: 0 };
        session.publish(Flow { from_client, ..Flow::default() }, at(seconds));
    };
    assert_eq!(rate(1.0), 0.0);
    publish(10, 0.5);
    assert!((rate(2.0) - 5.0).abs() < 0.1, "two seconds old: {}", rate(2.0));
    publish(100, 9.9);
    assert!((rate(10.0) - 10.0).abs() < 0.2, "{}", rate(10.0));
    assert!((rate(15.0) - 5.0).abs() < 0.2, "half of it is too old: {}", rate(15.0));
    publish(200, 16.0);
    assert!((rate(19.9) - 10.0).abs() < 0.2, "{}", rate(19.9));
    assert_eq!(rate(40.0), 0.0);
    publish(210, 40.0);
    assert!((rate(49.9) - 1.0).abs() < 0.1, "nothing of long ago: {}", rate(49.9));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the times of messages: a rate is never more than twice what passed in the twenty seconds before, nor
    /// anything when nothing did.
    #[test]
    fn a_rate_comes_from_the_last_two_windows(
        steps in prop::collection::vec((0_u64..30_000, 1_u64..100), 1..30),
        pause in 0_u64..30_000,
    ) {
        let registry = Arc::new(Registry::default());
        let session = enter(&registry);
        let mut now = registry.began + Duration::from_secs(20);
        let (mut messages, mut sent) = (0, Vec::new());
        for (pause, more) in steps {
            now += Duration::from_millis(pause);
            messages += more;
            sent.push((now, more));
            session.publish(Flow { from_client: Traffic { messages, bytes: 0 }, ..Flow::default() }, now);
        }
        now += Duration::from_millis(pause);
        let recent: u64 =
            sent.iter().filter(|(at, _)| now - *at < 2 * Duration::from_secs(10)).map(|(_, more)| more).sum();
        let rate = session.living().rate(registry.began, now).messages;
        prop_assert!(rate >= 0.0 && rate <= recent as f64 / 10.0 + 1e-9, "{} of {}", rate, recent);
    }
}

#[test]
fn a_list_is_read_while_sessions_come_and_go() {
    let registry = Arc::new(Registry::default());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let session = enter(&registry);
                        let from_client = Traffic { messages: 1, bytes: 1 };
                        session.publish(Flow { from_client, ..Flow::default() }, Instant::now());
                    }
                })
            })
            .collect();
        let mut before = 0;
        while workers.iter().any(|worker| !worker.is_finished()) {
            let messages = registry.traffic().iter().map(|(_, total)| total.flow.from_client.messages).sum();
            assert!(messages >= before, "a sum went back from {before} to {messages}");
            before = messages;
            let page = Page { after: 0, limit: usize::MAX };
            let selected = registry.page(&Selector::default(), page);
            assert_eq!((selected.total, selected.next), (selected.ids.len(), None));
            assert!(selected.ids.is_sorted());
        }
    });
    let [(_, total)] = &registry.traffic()[..] else { panic!("one way") };
    assert_eq!((total.open, total.ended, total.flow.from_client.messages), (0, 2000, 2000));
}
