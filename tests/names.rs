//! Names of servers: all their addresses serve, changes are seen in time, and a name server that fails takes nothing away.

mod support;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};

use support::client::{Peer, TEXT, masked, request, unmasked};
use support::dns::{NameServer, Reply};
use support::eventually;
use support::gateway::Gateway;
use support::http::status;
use support::upstream::{field, serve_on, switching};

const NAME: &str = "app.test";

/// Servers on one port of several addresses. Each says in its 101 where it is, and then sends back what it gets.
fn servers(addresses: &[&str]) -> u16 {
    let parsed: Vec<IpAddr> = addresses.iter().map(|text| text.parse().expect("an address")).collect();
    let listen = |(address, port)| TcpListener::bind(SocketAddr::new(address, port)).ok();
    // The port must be free on all of them.
    let listeners = (0..100).find_map(|_| {
        let first = listen((parsed[0], 0))?;
        let port = first.local_addr().ok()?.port();
        let others: Option<Vec<_>> = parsed[1..].iter().map(|address| listen((*address, port))).collect();
        Some(std::iter::once(first).chain(others?).collect::<Vec<_>>())
    });
    let listeners = listeners.expect("a port that is free on all of them");
    let port = listeners[0].local_addr().expect("an address").port();
    for (listener, address) in listeners.into_iter().zip(addresses) {
        let address = (*address).to_owned();
        serve_on(listener, move |mut peer| {
            let head = peer.head();
            peer.write(switching(&head, &format!("X-Server: {address}\r\n")).as_bytes());
            while let Some(frame) = peer.next_frame() {
                if peer.try_write(&unmasked(frame.opcode, &frame.payload)).is_err() {
                    return;
                }
            }
        });
    }
    port
}

fn config(dns: &NameServer, server: &str, port: u16, upstream: &str) -> String {
    format!(
        "[limits]\nhandshakes_per_client = \"off\"\n[dns]\nservers = [\"{}\"]\nttl_min = \"100ms\"\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\nname = \"app\"\nupstream = \"app\"\n\
         [upstream.app]\nservers = [\"ws://{server}:{port}\"]\n{upstream}\n",
        dns.address
    )
}

fn ask(gateway: &Gateway) -> (Peer, String) {
    let mut peer = Peer::connect(gateway.address());
    peer.write(request("/", "").as_bytes());
    let head = peer.head();
    (peer, head)
}

/// Opens a session and says with which address.
fn open(gateway: &Gateway) -> (Peer, String) {
    let (peer, head) = ask(gateway);
    assert_eq!(status(&head), 101, "{head}");
    let server = field(&head, "x-server").expect("it says where it is");
    (peer, server)
}

/// How many of some sessions each address gets.
fn shares(gateway: &Gateway, sessions: usize) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    let held: Vec<_> = (0..sessions).map(|_| open(gateway)).collect();
    held.iter().for_each(|(_, server)| *shares.entry(server.clone()).or_default() += 1);
    shares
}

fn all(shares: &[(&str, usize)]) -> BTreeMap<String, usize> {
    shares.iter().map(|(server, share)| ((*server).to_owned(), *share)).collect()
}

fn echoes(peer: &mut Peer) {
    peer.write(&masked(TEXT, b"still there"));
    assert_eq!(peer.frame().payload, b"still there");
}

/// Waits until a name was asked for anew, both families.
fn asked_again(dns: &NameServer) {
    let before = dns.asked(NAME);
    eventually("it is asked for again", || dns.asked(NAME) >= before + 4);
}

#[test]
fn all_addresses_of_both_families_serve() {
    let port = servers(&["127.0.0.2", "127.0.0.3", "::1"]);
    let dns = NameServer::start();
    dns.lead(NAME, &["127.0.0.3", "127.0.0.2", "::1"]);
    let gateway = Gateway::start(&config(&dns, NAME, port, ""));
    assert_eq!(shares(&gateway, 6), all(&[("127.0.0.2", 2), ("127.0.0.3", 2), ("::1", 2)]));
}

#[test]
fn a_changed_answer_moves_new_sessions_and_leaves_the_others() {
    let port = servers(&["127.0.0.2", "127.0.0.3", "127.0.0.4"]);
    let dns = NameServer::start();
    dns.lead(NAME, &["127.0.0.2", "127.0.0.3"]);
    let gateway = Gateway::start(&config(&dns, NAME, port, ""));
    let mut held: Vec<_> = (0..2).map(|_| open(&gateway)).collect();
    dns.lead(NAME, &["127.0.0.3", "127.0.0.4"]);
    eventually("the change is seen", || gateway.output().contains(&format!("127.0.0.4:{port}")));
    assert_eq!(shares(&gateway, 4), all(&[("127.0.0.3", 2), ("127.0.0.4", 2)]));
    held.iter_mut().for_each(|(peer, _)| echoes(peer));
}

#[test]
fn sessions_of_an_address_that_is_gone_end_where_that_is_wanted() {
    let port = servers(&["127.0.0.2", "127.0.0.3"]);
    let dns = NameServer::start();
    dns.lead(NAME, &["127.0.0.2", "127.0.0.3"]);
    let gateway = Gateway::start(&config(&dns, NAME, port, "on_removed = \"close\""));
    let (mut first, second) = (open(&gateway), open(&gateway));
    assert_eq!([first.1.as_str(), second.1.as_str()], ["127.0.0.2", "127.0.0.3"]);
    dns.lead(NAME, &["127.0.0.2"]);
    let mut gone = second.0;
    assert_eq!(gone.frame().close().0, 1012);
    echoes(&mut first.0);
}

#[test]
fn a_reload_looks_up_new_names_and_keeps_what_is_known() {
    let port = servers(&["127.0.0.2", "127.0.0.3"]);
    let dns = NameServer::start();
    dns.lead(NAME, &["127.0.0.2"]);
    dns.lead("other.test", &["127.0.0.3"]);
    let before = config(&dns, NAME, port, "");
    let gateway = Gateway::start(&before);
    let mut session = open(&gateway).0;
    dns.say(NAME, Reply::Silence);
    let servers = format!("servers = [\"ws://{NAME}:{port}\", \"ws://other.test:{port}\"]");
    let after = before.replace(&format!("servers = [\"ws://{NAME}:{port}\"]"), &servers);
    std::fs::write(gateway.directory.join("config.toml"), after).expect("written");
    gateway.signal("HUP");
    gateway.log("reloaded: ");
    assert_eq!(shares(&gateway, 4), all(&[("127.0.0.2", 2), ("127.0.0.3", 2)]));
    echoes(&mut session);
}

#[test]
fn a_name_server_that_fails_takes_nothing_away() {
    let port = servers(&["127.0.0.2", "127.0.0.3", "::1"]);
    let dns = NameServer::start();
    dns.lead(NAME, &["127.0.0.2", "::1"]);
    let gateway = Gateway::start(&config(&dns, NAME, port, ""));
    for reply in [Reply::Fail, Reply::NoName, Reply::Addresses(Vec::new(), 1)] {
        let told = gateway.output().matches("cannot be resolved").count();
        dns.say(NAME, reply.clone());
        eventually("it is told", || gateway.output().matches("cannot be resolved").count() > told);
        assert_eq!(shares(&gateway, 2), all(&[("127.0.0.2", 1), ("::1", 1)]), "{reply:?}");
        dns.lead(NAME, &["127.0.0.2", "::1"]);
        let again = told + 1;
        eventually("it is well again", || gateway.output().matches("resolved again").count() == again);
    }
    dns.say(NAME, Reply::Silence);
    asked_again(&dns);
    assert_eq!(shares(&gateway, 2), all(&[("127.0.0.2", 1), ("::1", 1)]), "silence");
}

#[test]
fn what_one_family_does_not_tell_stays() {
    let port = servers(&["127.0.0.2", "127.0.0.3", "::1"]);
    let dns = NameServer::start();
    dns.lead(NAME, &["127.0.0.2", "::1"]);
    let gateway = Gateway::start(&config(&dns, NAME, port, ""));
    dns.say(NAME, Reply::Half(vec!["127.0.0.3".parse().expect("an address")], 1));
    eventually("the change is seen", || gateway.output().contains(&format!("127.0.0.3:{port}")));
    assert_eq!(shares(&gateway, 2), all(&[("127.0.0.3", 1), ("::1", 1)]));
}

#[test]
fn a_name_that_is_not_known_yet_keeps_nobody_from_starting() {
    let port = servers(&["127.0.0.2"]);
    let dns = NameServer::start();
    let gateway = Gateway::start(&config(&dns, NAME, port, ""));
    gateway.log("cannot be resolved");
    let (_, head) = ask(&gateway);
    assert_eq!(status(&head), 502, "{head}");
    assert!(gateway.log("refused").contains("upstream_resolve"), "{}", gateway.output());
    dns.lead(NAME, &["127.0.0.2"]);
    eventually("it is served", || status(&ask(&gateway).1) == 101);
}

#[test]
fn an_answer_is_asked_for_when_its_time_is_over_and_not_before() {
    let port = servers(&["127.0.0.2"]);
    let (short, long) = (NameServer::start(), NameServer::start());
    let address = vec!["127.0.0.2".parse().expect("an address")];
    short.say(NAME, Reply::Addresses(address.clone(), 0));
    long.say(NAME, Reply::Addresses(address, 3600));
    let hurried = Gateway::start(&config(&short, NAME, port, ""));
    let patient = Gateway::start(&config(&long, NAME, port, ""));
    // `ttl_min` is 100 ms.
    eventually("it is asked for again and again", || short.asked(NAME) >= 10);
    assert_eq!(long.asked(NAME), 2, "once for each family");
    open(&hurried);
    open(&patient);
    let bounded = Gateway::start(&config(&long, NAME, port, "").replace("[dns]", "[dns]\nttl_max = \"200ms\""));
    eventually("`ttl_max` is the longest", || long.asked(NAME) >= 8);
    open(&bounded);
}

#[test]
fn a_family_that_cannot_be_reached_refuses_nobody() {
    let port = servers(&["127.0.0.2"]);
    let dns = NameServer::start();
    // Documentation addresses (RFC 3849): no route, or nobody there.
    dns.lead(NAME, &["127.0.0.2", "2001:db8::1"]);
    let gateway = Gateway::start(&config(&dns, NAME, port, "connect_timeout = \"200ms\""));
    assert_eq!(shares(&gateway, 6), all(&[("127.0.0.2", 6)]));
}

#[test]
fn sources_choose_among_the_families() {
    let port = servers(&["127.0.0.2", "::1"]);
    let dns = NameServer::start();
    dns.lead(NAME, &["127.0.0.2", "::1"]);
    let gateway = Gateway::start(&config(&dns, NAME, port, "source_addresses = [\"127.0.0.9\"]\nretries = 0"));
    assert_eq!(shares(&gateway, 4), all(&[("127.0.0.2", 4)]));
}

#[test]
fn numbers_and_localhost_are_asked_of_nobody() {
    let dns = NameServer::start();
    for (server, address) in [("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("[::1]", "::1")] {
        let port = servers(&[address]);
        let gateway = Gateway::start(&config(&dns, server, port, ""));
        assert_eq!(shares(&gateway, 2), all(&[(address, 2)]), "{server}");
    }
    assert!(!dns.asked_at_all());
}
