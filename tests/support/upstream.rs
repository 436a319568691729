//! Upstream servers in threads: a script for each connection, and the ones that misbehave by name.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use super::client::{KEY, Peer};
use super::tls;

/// A server on a loopback port that runs `script` for each connection, one thread each.
///
/// It lives as long as the test's process: a thread that waits in `accept` holds nothing.
pub fn serve(script: impl Fn(Peer) + Send + Sync + 'static) -> SocketAddr {
    listen(move |socket| script(Peer::new(socket)))
}

/// The same over TLS; clients that do not get through its handshake are dropped.
pub fn serve_tls(config: Arc<rustls::ServerConfig>, script: impl Fn(Peer) + Send + Sync + 'static) -> SocketAddr {
    listen(move |socket| {
        if let Ok(peer) = tls::accept(socket, config.clone()) {
            script(peer);
        }
    })
}

/// The same where the test listens itself.
pub fn serve_on(listener: TcpListener, script: impl Fn(Peer) + Send + Sync + 'static) -> SocketAddr {
    run(listener, move |socket| script(Peer::new(socket)))
}

fn listen(script: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    run(TcpListener::bind("127.0.0.1:0").expect("a port"), script)
}

fn run(listener: TcpListener, script: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let address = listener.local_addr().expect("an address");
    let script = Arc::new(script);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let script = script.clone();
            thread::spawn(move || script(stream));
        }
    });
    address
}

/// A server whose connections the test itself plays: each arrives on the channel with its request head read and
/// answered by a 101.
pub fn scripted() -> (SocketAddr, Receiver<(Peer, String)>) {
    let (sender, receiver) = channel();
    let sender: Mutex<Sender<_>> = sender.into();
    let address = serve(move |mut peer| {
        let head = peer.head();
        peer.write(switching(&head, "").as_bytes());
        let _ = sender.lock().expect("not poisoned").send((peer, head));
    });
    (address, receiver)
}

/// The right 101 for a request head; `more` are further header lines.
pub fn switching(head: &str, more: &str) -> String {
    let key = field(head, "sec-websocket-key").unwrap_or_else(|| KEY.to_owned());
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{more}\r\n"
    )
}

/// The first value of a field, by its name in lower case.
pub fn field(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.to_ascii_lowercase() == name).then(|| value.trim().to_owned())
    })
}

/// What an upstream saw: how many connections, and the heads of their requests.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    connections: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Seen {
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("not poisoned").clone()
    }

    pub fn last(&self) -> String {
        self.heads().pop().expect("a request")
    }
}

/// A server that answers with what `answer` makes of the request's head, as it is, and then reads to the end.
pub fn answering(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> (SocketAddr, Seen) {
    let seen = Seen::default();
    let told = seen.clone();
    let address = serve(move |mut peer| {
        told.connections.fetch_add(1, Ordering::SeqCst);
        let Some(head) = peer.try_head() else { return };
        told.heads.lock().expect("not poisoned").push(head.clone());
        if peer.try_write(&answer(&head)).is_ok() {
            peer.drain();
        }
    });
    (address, seen)
}

/// A server that agrees to everything and says nothing.
pub fn agreeing() -> (SocketAddr, Seen) {
    answering(|head| switching(head, "").into_bytes())
}
