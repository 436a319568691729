//! A name server on loopback whose answers a test can change. By hand: it answers A and AAAA (RFC 1035 section 4.1).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;

/// What is said of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Its addresses, and for how many seconds they are good.
    Addresses(Vec<IpAddr>, u32),
    /// There is no such name.
    NoName,
    /// SERVFAIL for AAAA, these for A.
    Half(Vec<IpAddr>, u32),
    Fail,
    Silence,
}

/// A running name server. It lives as long as the test's process.
#[derive(Debug, Clone)]
pub struct NameServer {
    pub address: SocketAddr,
    names: Arc<Mutex<HashMap<String, Reply>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl NameServer {
    pub fn start() -> NameServer {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = socket.local_addr().expect("an address");
        let server = NameServer { address, names: Arc::default(), asked: Arc::default() };
        let told = server.clone();
        thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                if let Some(answer) = told.answer(&buffer[..length]) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        server
    }

    pub fn say(&self, name: &str, reply: Reply) {
        self.names.lock().expect("not poisoned").insert(name.to_owned(), reply);
    }

    /// [`say`](Self::say) with addresses, good for a second.
    pub fn lead(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|text| text.parse().expect("an address")).collect();
        self.say(name, Reply::Addresses(addresses, 1));
    }

    /// How often a name was asked for, of both families.
    pub fn asked(&self, name: &str) -> usize {
        self.asked.lock().expect("not poisoned").iter().filter(|asked| *asked == name).count()
    }

    pub fn asked_at_all(&self) -> bool {
        !self.asked.lock().expect("not poisoned").is_empty()
    }

    fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        const A: u16 = 1;
        const AAAA: u16 = 28;
        let (name, end) = question(query)?;
        self.asked.lock().expect("not poisoned").push(name.clone());
        let kind = u16::from_be_bytes([query[end], query[end + 1]]);
        let reply = self.names.lock().expect("not poisoned").get(&name).cloned().unwrap_or(Reply::NoName);
        let (code, addresses, ttl) = match reply {
            Reply::Addresses(addresses, ttl) => (0, addresses, ttl),
            Reply::Half(addresses, ttl) if kind == A => (0, addresses, ttl),
            Reply::NoName => (3, Vec::new(), 0),
            Reply::Half(..) | Reply::Fail => (2, Vec::new(), 0),
            Reply::Silence => return None,
        };
        let fit: Vec<_> = addresses.into_iter().filter(|ip| kind == if ip.is_ipv4() { A } else { AAAA }).collect();
        let mut answer = query[..2].to_vec();
        // A response, recursion desired and available.
        answer.extend([0x81, 0x80 | code, 0, 1, 0, u8::try_from(fit.len()).expect("few"), 0, 0, 0, 0]);
        answer.extend(&query[12..end + 4]);
        for ip in fit {
            let data = match ip {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            // The name of the question, class IN.
            answer.extend([0xc0, 12]);
            answer.extend(kind.to_be_bytes());
            answer.extend([0, 1]);
            answer.extend(ttl.to_be_bytes());
            answer.extend([0, u8::try_from(data.len()).expect("4 or 16")]);
            answer.extend(data);
        }
        Some(answer)
    }
}

/// The name of the only question, and where its type stands.
fn question(query: &[u8]) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    query.get(at..at + 4).map(|_| (labels.join("."), at))
}
