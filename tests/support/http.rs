//! Requests that can be wrong in every way, and the answers to them.

use std::net::SocketAddr;

use super::client::{KEY, Peer};

/// An upgrade request, correct until it is edited.
#[derive(Debug, Clone)]
pub struct Head {
    line: String,
    fields: Vec<String>,
}

impl Head {
    pub fn new(path: &str) -> Head {
        let fields = [
            "Host: localhost",
            "Upgrade: websocket",
            "Connection: Upgrade",
            &format!("Sec-WebSocket-Key: {KEY}"),
            "Sec-WebSocket-Version: 13",
        ];
        Head { line: format!("GET {path} HTTP/1.1"), fields: fields.map(str::to_owned).into() }
    }

    /// Another request line.
    pub fn line(mut self, line: &str) -> Head {
        self.line = line.to_owned();
        self
    }

    /// Leaves out every line of that name.
    pub fn without(mut self, name: &str) -> Head {
        self.fields.retain(|field| !field.split(':').next().is_some_and(|found| found.eq_ignore_ascii_case(name)));
        self
    }

    /// One more line: `Name: value`.
    pub fn with(mut self, field: &str) -> Head {
        self.fields.push(field.to_owned());
        self
    }

    /// This line in place of those of its name.
    pub fn set(self, field: &str) -> Head {
        let name = field.split(':').next().expect("a name").to_owned();
        self.without(&name).with(field)
    }

    pub fn text(&self) -> String {
        let fields: String = self.fields.iter().map(|field| format!("{field}\r\n")).collect();
        format!("{}\r\n{fields}\r\n", self.line)
    }

    /// Sends it and reads the answer to the end of the stream.
    pub fn ask(&self, address: SocketAddr) -> Reply {
        ask(address, self.text().as_bytes())
    }

    /// Whether it is answered by a 101; the session is left at once.
    pub fn opens(&self, address: SocketAddr) -> bool {
        let mut peer = Peer::connect(address);
        peer.write(self.text().as_bytes());
        status(&peer.head()) == 101
    }
}

/// An answer that was not a 101, read until the gateway ended the stream.
#[derive(Debug)]
pub struct Reply {
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn status(&self) -> u16 {
        status(&self.head)
    }

    /// Every value of a field, whatever its spelling.
    pub fn all(&self, name: &str) -> Vec<String> {
        let fields = self.head.lines().filter_map(|line| line.split_once(':'));
        fields.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).collect()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub fn status(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("a status line: {head:?}"))
}

/// Sends these bytes and reads until the gateway ends the stream.
pub fn ask(address: SocketAddr, bytes: &[u8]) -> Reply {
    let mut peer = Peer::connect(address);
    // It may have answered, and closed, before all is written.
    let _ = peer.try_write(bytes);
    reply(&mut peer)
}

pub fn reply(peer: &mut Peer) -> Reply {
    let head = peer.head();
    Reply { head, body: peer.rest() }
}
