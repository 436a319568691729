use std::net::Ipv4Addr;

use std::path::Path;

use http::Request;
use http::header::COOKIE;

use super::*;
use crate::config;
use crate::policy::client::{Address, Client};
use crate::proto::fields::Host;
use crate::upstream::member::{Member, State};
use crate::upstream::{Chosen, For, Pool};

fn client(number: u32) -> ClientKey {
    std::net::IpAddr::from(Ipv4Addr::from(number)).into()
}

fn sid(client: u32, number: usize) -> Vec<u8> {
    format!("{client}-{number}").into_bytes()
}

/// How many there are, all where they belong.
fn len(sids: &Sids) -> usize {
    let table = sids.lock();
    assert_eq!(table.places.len(), table.entries.len());
    assert_eq!(table.counts.values().sum::<usize>(), table.entries.len());
    for (sid, at) in &table.places {
        assert_eq!(table.entries[*at].sid, *sid);
    }
    table.entries.len()
}

#[test]
fn a_session_stays_where_it_was_opened() {
    let (sids, now) = (Sids::default(), Instant::now());
    sids.learn(b"a", 7, client(1), now);
    assert_eq!(sids.server(b"a", now), Some(7));
    assert_eq!(sids.server(b"b", now), None);
    sids.learn(b"a", 8, client(2), now);
    assert_eq!(sids.server(b"a", now), Some(7), "nobody moves the session of another");
    assert_eq!(len(&sids), 1);
}

#[test]
fn one_that_is_used_stays_and_one_that_is_not_goes() {
    let (sids, mut now) = (Sids::default(), Instant::now());
    sids.learn(b"used", 1, client(1), now);
    sids.learn(b"left", 1, client(1), now);
    for _ in 0..3 {
        now += SID_IDLE;
        assert_eq!(sids.server(b"used", now), Some(1));
    }
    assert_eq!(sids.server(b"left", now), None);
    assert_eq!(len(&sids), 1);
}

#[test]
fn a_crowd_that_left_is_forgotten_though_nobody_comes() {
    let (sids, start) = (Sids::default(), Instant::now());
    (0..5_000).for_each(|number| sids.learn(&sid(1, number), 1, client(1), start));
    sids.sweep(start + SID_IDLE);
    assert_eq!(len(&sids), 5_000);
    let later = start + 2 * SID_IDLE;
    (0..20_000).for_each(|number| sids.learn(&sid(2, number), 1, client(2), later));
    sids.sweep(later);
    assert_eq!((len(&sids), sids.lock().counts.len()), (20_000, 1));
    sids.lock().entries.iter_mut().for_each(|entry| entry.used = start);
    (0..20_000).for_each(|number| {
        sids.server(&sid(2, number), later);
    });
    assert!(len(&sids) < 100 && sids.lock().entries.capacity() < 1_000, "memory is given back");
}

#[test]
fn a_crowd_of_one_client_costs_that_client() {
    let (sids, mut now) = (Sids::new(1_000), Instant::now());
    // Quiet for longer than any of the crowd's.
    (0..200).for_each(|honest| sids.learn(&sid(honest, 0), 1, client(honest), now));
    for number in 0..20_000 {
        now += Duration::from_micros(50);
        sids.learn(&sid(1_000_000, number), 1, client(1_000_000), now);
    }
    assert_eq!(len(&sids), 1_000);
    let left = (0..200).filter(|honest| sids.server(&sid(*honest, 0), now).is_some()).count();
    assert_eq!(left, 200);
}

#[test]
fn a_crowd_of_many_addresses_has_to_outnumber_everybody() {
    let (sids, mut now) = (Sids::new(1_000), Instant::now());
    (0..200).for_each(|honest| sids.learn(&sid(honest, 0), 1, client(honest), now));
    for number in 0..20_000_u32 {
        now += Duration::from_micros(50);
        let address = 1_000_000 + number % 256;
        sids.learn(&sid(address, number as usize), 1, client(address), now);
    }
    let left = (0..200).filter(|honest| sids.server(&sid(*honest, 0), now).is_some()).count();
    assert_eq!(left, 200, "256 addresses, a thousand places");
}

#[test]
fn among_equals_the_one_used_longest_ago_goes() {
    let (sids, mut now) = (Sids::new(1_000), Instant::now());
    for address in 0..10_000 {
        now += Duration::from_millis(1);
        sids.learn(&sid(address, 0), 1, client(address), now);
        // The first hundred are in use.
        sids.server(&sid(address % 100, 0), now);
    }
    assert_eq!(len(&sids), 1_000);
    let left = (0..100).filter(|used| sids.server(&sid(*used, 0), now).is_some()).count();
    assert_eq!(left, 100);
}

#[test]
fn a_lesson_ends_with_the_id() {
    let sids = Arc::new(Sids::default());
    let mut lesson = Lesson { look: Look::default(), sids: sids.clone(), server: 3, client: client(1) };
    assert!(lesson.read(b"0{\"sid\":\"abc"));
    assert!(!lesson.read(b"def\",\"upgrades\":[]}"));
    assert_eq!(sids.server(b"abcdef", Instant::now()), Some(3));
}

fn pool(servers: &str, sticky: &str) -> Pool {
    let text = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\nupstream = \"app\"\n\
         [upstream.app]\nservers = [{servers}]\nsticky = {sticky}\n"
    );
    let config = config::parse(&text, Path::new("config.toml")).expect("it is right").config;
    let upstream = config.upstreams["app"].clone();
    let sticky = Sticky::new(&upstream.sticky).expect("no file");
    Pool::new(upstream, None, sticky)
}

const BOTH: &str = "{ cookie = {}, socket_io = true }";

/// A client of the pool, with the cookies that it was given.
struct Visitor<'a> {
    pool: &'a Pool,
    cookie: Option<String>,
}

impl Visitor<'_> {
    fn wish(&self, target: &str) -> Wish {
        let mut request = Request::builder().uri(target);
        if let Some(cookie) = &self.cookie {
            request = request.header(COOKIE, cookie);
        }
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        let address: Address = std::net::IpAddr::from([192, 0, 2, 1]).into();
        let host = Host { name: "a.test".to_owned(), port: None };
        let hop = Hop { peer: address.ip(), trusted_peer: false, tls: false, host: &host };
        self.pool.wish(&parts, &Client { address, trusted_peer: false }, 64, &hop)
    }

    fn get(&mut self, target: &str, what: For, tried: &[Arc<Member>]) -> Chosen {
        let wish = self.wish(target);
        let chosen = self.pool.choose(&wish, tried, what).expect("one is open");
        if let Some(cookie) = self.pool.set_cookie(&wish, &chosen.member) {
            self.cookie = Some(cookie.to_str().unwrap().split(';').next().unwrap().to_owned());
        }
        if let Some(mut lesson) = self.pool.lesson(&wish, &chosen.member) {
            assert!(!lesson.read(format!("0{{\"sid\":\"of-{}\"}}", &chosen.member.server.text[5..]).as_bytes()));
        }
        chosen
    }

    /// The server of a plain request.
    fn ask(&mut self, target: &str) -> String {
        self.get(target, For::Request, &[]).member.server.text[5..].to_owned()
    }
}

const THREE: &str = "\"ws://a\", \"ws://b\", \"ws://c\"";
const OPENS: &str = "/socket.io/?EIO=4&transport=polling";

#[test]
fn a_cookie_leads_back() {
    let pool = pool(THREE, "{ cookie = {} }");
    let [mut ann, mut bob] = [(); 2].map(|()| Visitor { pool: &pool, cookie: None });
    assert_eq!([ann.ask("/"), bob.ask("/")], ["a", "b"]);
    let cookies = [ann.cookie.clone(), bob.cookie.clone()];
    for _ in 0..4 {
        assert_eq!([ann.ask("/"), bob.ask("/")], ["a", "b"]);
    }
    assert_eq!([ann.cookie, bob.cookie], cookies, "nothing is set again");
}

#[test]
fn a_forged_cookie_counts_for_nothing_and_is_replaced() {
    let pool = pool(THREE, "{ cookie = {} }");
    let mut client = Visitor { pool: &pool, cookie: Some("tidegate=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned()) };
    let forged = client.cookie.clone();
    assert_eq!(client.ask("/"), "a");
    assert_ne!(client.cookie, forged);
    assert_eq!(client.ask("/"), "a");
}

#[test]
fn a_server_that_cannot_serve_is_left_and_the_next_one_kept() {
    let pool = pool(THREE, "{ cookie = {} }\nsessions_per_server = 1");
    let mut client = Visitor { pool: &pool, cookie: None };
    let held = client.get("/", For::Session, &[]);
    let name = |chosen: &Chosen| chosen.member.server.text.clone();
    let full = client.get("/", For::Session, &[]);
    assert_eq!([name(&held), name(&full)], ["ws://a", "ws://b"], "it is full");
    drop((held, full));
    assert_eq!(client.ask("/"), "b");
    for (state, expected) in [(State::Down, "c"), (State::Up, "c")] {
        pool.set_state("ws://b", None, state);
        assert_eq!(client.ask("/"), expected);
    }
    let tried = client.get("/", For::Session, &[]);
    let next = client.get("/", For::Session, std::slice::from_ref(&tried.member));
    assert_ne!(name(&tried), name(&next), "it has just failed");
    assert_eq!(format!("ws://{}", client.ask("/")), name(&next));
}

#[test]
fn a_backup_is_left_when_others_are_back() {
    let pool = pool("\"ws://a\", { url = \"ws://z\", backup = true }", BOTH);
    let mut client = Visitor { pool: &pool, cookie: None };
    pool.set_state("ws://a", None, State::Down);
    assert_eq!(client.ask(OPENS), "z");
    pool.set_state("ws://a", None, State::Up);
    assert_eq!(client.ask("/"), "a");
    assert_eq!(client.ask("/socket.io/?EIO=4&transport=polling&sid=of-z"), "z", "its session is there");
}

#[test]
fn a_session_of_socket_io_stays_without_cookies() {
    let pool = pool(THREE, BOTH);
    for round in 0..6 {
        let mut client = Visitor { pool: &pool, cookie: None };
        let server = client.ask(OPENS);
        let [polling, websocket] = ["polling", "websocket"]
            .map(|transport| format!("/socket.io/?EIO=4&transport={transport}&sid=of-{server}"));
        for _ in 0..4 {
            client.cookie = None;
            assert_eq!(client.ask(&polling), server, "{round}");
        }
        client.cookie = None;
        assert_eq!(client.get(&websocket, For::Session, &[]).member.server.text, format!("ws://{server}"), "{round}");
    }
}

#[test]
fn the_session_goes_before_the_cookie_which_stays() {
    let pool = pool(THREE, BOTH);
    let mut client = Visitor { pool: &pool, cookie: None };
    assert_eq!(client.ask(OPENS), "a");
    client.cookie = None;
    assert_eq!(client.ask("/"), "b");
    let cookie = client.cookie.clone();
    assert_eq!(client.ask("/socket.io/?sid=of-a"), "a");
    assert_eq!(client.cookie, cookie, "it is another tab's");
    assert_eq!(client.ask("/"), "b");
    assert_eq!(client.ask("/socket.io/?sid=unknown"), "b", "an id that nobody told");
}

#[test]
fn a_server_that_drains_keeps_its_sessions_and_nobody_else() {
    let pool = pool(THREE, BOTH);
    let mut client = Visitor { pool: &pool, cookie: None };
    assert_eq!(client.ask(OPENS), "a");
    pool.set_state("ws://a", None, State::Drain);
    assert_eq!(client.ask("/socket.io/?sid=of-a"), "a");
    assert_eq!(client.ask("/"), "b", "the cookie alone");
    pool.set_state("ws://a", None, State::Down);
    assert_ne!(client.ask("/socket.io/?sid=of-a"), "a");
}

#[test]
fn a_reload_keeps_clients_where_they_are() {
    let old = pool(THREE, BOTH);
    let mut client = Visitor { pool: &old, cookie: None };
    assert_eq!(client.ask(OPENS), "a");
    let new = pool("\"ws://c\", \"ws://b\", \"ws://a\"", BOTH);
    let new = old.renew(new.upstream.clone(), None, Sticky::new(&new.upstream.sticky).unwrap());
    let mut client = Visitor { pool: &new, ..client };
    assert_eq!(client.ask("/"), "a");
    client.cookie = None;
    assert_eq!(client.ask("/socket.io/?sid=of-a"), "a");
}

#[test]
fn keys_from_files() {
    let folder = std::env::temp_dir().join(format!("tidegate-sticky-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("key");
    let same_site = model::SameSite::Lax;
    let cookie = |file: &Path| StickyCookie {
        name: "c".to_owned(),
        path: "/".to_owned(),
        same_site,
        key: Some((file.to_owned(), model::Position::default())),
    };
    std::fs::write(&file, "0123456789abcdef0123456789abcdef\n").unwrap();
    let sealed = key(&cookie(&file)).unwrap().seal("app", 1);
    assert_eq!(key(&cookie(&file)).unwrap().open("app", sealed.as_bytes()), Some(1));
    std::fs::write(&file, "short").unwrap();
    assert!(matches!(key(&cookie(&file)), Err(BadFile::Key { source: BadKey::Short, .. })));
    assert!(matches!(key(&cookie(&folder.join("none"))), Err(BadFile::File { .. })));
    std::fs::remove_dir_all(folder).unwrap();
}
