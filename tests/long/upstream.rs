//! The upstreams that are no WebSocket echo: pages, server-sent events, a flood.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use crate::support::client::{BINARY, Peer, unmasked};
use crate::support::upstream::{field, serve, switching};

/// Bytes of the page.
pub const PAGE: usize = 20_000;

/// Pages, polls of Socket.IO, and events for as long as somebody reads them.
pub fn plain() -> SocketAddr {
    serve(|mut peer| {
        while let Some(head) = peer.try_head() {
            let target = head.split(' ').nth(1).expect("a request line").to_owned();
            if target.ends_with("/events") {
                return events(&mut peer);
            }
            let body = match target.split_once("&n=") {
                Some((_, sid)) => format!("0{{\"sid\":\"{sid}\"}}"),
                None if target.contains("sid=") => "ok".to_owned(),
                None => "a page. ".repeat(PAGE / 8),
            };
            let length = body.len();
            if peer.try_write(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes()).is_err()
            {
                return;
            }
        }
    })
}

fn events(peer: &mut Peer) {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut written = peer.try_write(head.as_bytes());
    for event in 0.. {
        if written.is_err() {
            return;
        }
        let data = format!("data: {event}\n\n");
        written = peer.try_write(format!("{:x}\r\n{data}\r\n", data.len()).as_bytes());
        thread::sleep(Duration::from_millis(250));
    }
}

/// Sends without end to whoever connects, and hears nothing; no faster than a stopped reader needs to be noticed.
pub fn flood() -> SocketAddr {
    serve(|mut peer| {
        let Some(head) = peer.try_head().filter(|head| field(head, "upgrade").is_some()) else { return };
        let message = unmasked(BINARY, &[0; 64 * 1024]);
        if peer.try_write(switching(&head, "").as_bytes()).is_ok() {
            while peer.try_write(&message).is_ok() {
                thread::sleep(Duration::from_millis(10));
            }
        }
    })
}
