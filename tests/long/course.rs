//! What an operator does during the run: reloads, new certificates, drains; and what happens to servers.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::load::World;
use crate::support::admin::{call, json};
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::http::Head;
use crate::support::servers::Process;
use crate::support::tls::{self, Authority, Identity, Stream};
use crate::upstream;

/// How often each of them happens.
pub struct Pace {
    pub reload: Duration,
    pub drain: Duration,
    pub kill: Duration,
    pub rotate: Duration,
}

/// The servers, each a process of its own but for those that misbehave.
pub struct Servers {
    steady: Process,
    chat: Process,
    /// To be drained and killed.
    pool: Vec<Process>,
    /// Listens at all addresses of this machine: each reload names another one, as where containers come and go.
    passing: Process,
    plain: SocketAddr,
    flood: SocketAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Reload,
    /// A reload with a new certificate.
    Certificate,
    Drain,
    Kill,
    /// Of the log.
    Rotation,
}

/// What happened, from when to when, in seconds of the run.
#[derive(Default)]
pub struct Happened(Vec<(Event, (f64, f64))>);

impl Happened {
    pub fn spans(&self, wanted: Event) -> Vec<(f64, f64)> {
        self.0.iter().filter(|(event, _)| *event == wanted).map(|(_, span)| *span).collect()
    }

    pub fn count(&self, wanted: Event) -> usize {
        self.spans(wanted).len()
    }
}

impl Servers {
    pub fn start() -> Servers {
        let any = "127.0.0.1:0".parse().expect("an address");
        Servers {
            steady: Process::start(any),
            chat: Process::of("chat", any),
            pool: (0..3).map(|_| Process::start(any)).collect(),
            passing: Process::start("0.0.0.0:0".parse().expect("an address")),
            plain: upstream::plain(),
            flood: upstream::flood(),
        }
    }

    /// The configuration, in one of its variants: a rate, a cap, a heartbeat, a route that is there or not, a server with
    /// an address that none before had.
    pub fn config(&self, variant: usize) -> String {
        let [pool_1, pool_2, pool_3] = [0, 1, 2].map(|index| self.pool[index].address);
        let (rate, interval) = if variant.is_multiple_of(2) { (400, 25) } else { (500, 26) };
        let sessions = 900 + variant % 3;
        let extra = match variant % 4 {
            2 | 3 => "[[route]]\nname = \"extra\"\npath = \"/extra\"\nupstream = \"pool\"\n",
            _ => "",
        };
        let passing = format!("127.1.{}.{}:{}", variant / 256, variant % 256, self.passing.address.port());
        let Servers { steady, chat, plain, flood, .. } = self;
        let (steady, chat) = (steady.address, chat.address);
        format!(
            r#"
[limits]
handshakes_per_client = "20/m"
sessions_per_client = 10

[[listener]]
address = "127.0.0.1:0"
trusted_proxies = ["127.0.0.0/8"]

[[listener]]
address = "127.0.0.2:0"
trusted_proxies = ["127.0.0.0/8"]
tls = {{ certificate = "server.pem", key = "server.key" }}

[admin]
address = "127.0.0.1:0"

[log]
file = "gateway.log"

[drain]
window = "1s"
grace = "5s"

[[route]]
name = "steady"
path = "/steady"
upstream = "steady"
limits = {{ sessions = {sessions} }}

[[route]]
name = "quiet"
path = "/quiet"
upstream = "steady"
heartbeat = {{ interval = "{interval}s", timeout = "25s" }}

[[route]]
name = "pool"
path = "/pool"
upstream = "pool"
limits = {{ messages_per_client = "{rate}/s" }}

[[route]]
name = "chat"
path = "/chat"
upstream = "chat"

[[route]]
name = "plain"
path = "/plain"
upstream = "plain"
http = true

[[route]]
name = "flood"
path = "/flood"
upstream = "flood"
slow_timeout = "3s"

[[route]]
name = "zombie"
path = "/zombie"
upstream = "steady"
heartbeat = {{ interval = "1s", timeout = "1s" }}

[[route]]
name = "small"
path = "/small"
upstream = "steady"
message_bytes_max = "64KiB"

{extra}
[upstream.steady]
servers = ["ws://{steady}"]

[upstream.chat]
servers = ["ws://{chat}"]

[upstream.pool]
servers = ["ws://{pool_1}", "ws://{pool_2}", "ws://{pool_3}", "ws://{passing}"]
on_removed = "drain"
balance = "least-connections"
health = {{ passive = {{ failures = 2, aside = "1s" }}, active = {{ kind = "websocket", interval = "1s", rise = 1 }} }}

[upstream.plain]
servers = ["ws://{plain}"]
sticky = {{ socket_io = true }}

[upstream.flood]
servers = ["ws://{flood}"]
"#
        )
    }
}

/// Puts a new certificate where the gateway finds it.
pub fn certify(authority: &Authority, folder: &Path) -> Identity {
    let identity = authority.issue(&["localhost"]);
    identity.write(folder, "server");
    identity
}

/// The run of events, until the load is told to stop.
pub struct Course<'a> {
    pub gateway: &'a Gateway,
    pub world: &'a World,
    pub authority: &'a Authority,
    pub servers: Servers,
    pub began: Instant,
    pub happened: Happened,
}

impl Course<'_> {
    pub fn run(&mut self, pace: &Pace) {
        let every = [
            (Event::Reload, pace.reload),
            (Event::Drain, pace.drain),
            (Event::Kill, pace.kill),
            (Event::Rotation, pace.rotate),
        ];
        // Not all at once at the beginning.
        let mut due = every.map(|(event, every)| (event, every / 2, every, 0));
        while !self.world.stopped() {
            for (event, next, every, turn) in &mut due {
                if self.began.elapsed() >= *next {
                    *next += *every;
                    *turn += 1;
                    let event = if *event == Event::Reload && *turn % 3 == 0 { Event::Certificate } else { *event };
                    self.act(event, *turn);
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn act(&mut self, event: Event, turn: usize) {
        let from = self.now();
        let server = turn % self.servers.pool.len();
        match event {
            Event::Reload => self.reload(turn),
            Event::Certificate => self.new_certificate(),
            Event::Drain => self.drain(server),
            Event::Kill => self.kill(server),
            Event::Rotation => self.rotate_log(),
        }
        self.happened.0.push((event, (from, self.now())));
    }

    fn now(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Another variant; the route that comes and goes serves, or is not there.
    fn reload(&self, variant: usize) {
        let text = self.servers.config(variant);
        fs::write(self.gateway.directory.join("config.toml"), &text).expect("written");
        self.reloaded();
        let extra = Head::new("/extra").with(&format!("X-Forwarded-For: 10.5.0.{}", variant % 256));
        assert_eq!(extra.opens(self.world.plain), text.contains("/extra"), "the route that comes and goes");
    }

    fn reloaded(&self) {
        let reply = call(self.gateway.admin(), "POST /reload", &[], "");
        assert_eq!(reply.status(), 200, "a reload: {}", reply.text());
    }

    /// A new one, which the next connection is shown.
    fn new_certificate(&self) {
        let identity = certify(self.authority, &self.gateway.directory);
        self.reloaded();
        // A client that was not here before: others take up their session, and are shown none.
        let stranger = self.authority.client(None);
        let mut peer = tls::connect(self.world.secure, "localhost", &stranger).expect("no TLS handshake fails");
        let Stream::Client(stream) = peer.tls() else { panic!("a client's stream") };
        let shown = stream.conn.peer_certificates().and_then(<[_]>::first);
        assert_eq!(shown, Some(identity.leaf()), "the new certificate");
    }

    /// Takes a server out, moves its sessions to the others, and brings it back.
    fn drain(&self, index: usize) {
        let server = format!("ws://{}", self.servers.pool[index].address);
        let set = |state: &str| {
            let request = format!("PUT /upstreams/pool/servers/{}", index + 1);
            let reply = call(self.gateway.admin(), &request, &[], &format!("{{\"state\": \"{state}\"}}"));
            assert_eq!(reply.status(), 200, "{}", reply.text());
        };
        set("drain");
        let reply = call(self.gateway.admin(), "POST /drain", &[], &format!("{{\"server\": \"{server}\"}}"));
        assert_eq!(reply.status(), 202, "{}", reply.text());
        eventually("a drained server has no sessions", || {
            json(self.gateway.admin(), &format!("GET /sessions?limit=1&server={server}"))["total"] == 0
        });
        set("up");
    }

    /// Kills a server and brings it back at its address.
    fn kill(&mut self, index: usize) {
        let server = &mut self.servers.pool[index];
        server.kill();
        std::thread::sleep(Duration::from_secs(2));
        *server = Process::start(server.address);
        let admin = self.gateway.admin();
        eventually("a server that is back gets sessions", || {
            let upstreams = json(admin, "GET /upstreams");
            let all = upstreams["upstreams"].as_array().expect("a list");
            let pool = all.iter().find(|upstream| upstream["name"] == "pool").expect("the pool");
            pool["servers"].as_array().expect("a list").iter().all(|server| server["condition"] == "up")
        });
    }

    /// As logrotate does; what went is looked through.
    fn rotate_log(&self) {
        let [now, old] = ["gateway.log", "gateway.log.1"].map(|name| self.gateway.directory.join(name));
        fs::rename(&now, &old).expect("it is there");
        self.gateway.signal("USR1");
        eventually("there is a new log", || now.exists());
        look_through(&old);
        fs::remove_file(&old).expect("removed");
    }
}

/// Nothing is in the log that must not happen.
pub fn look_through(log: &Path) {
    let log = fs::read_to_string(log).expect("it is there");
    let wrong = log.lines().find(|line| line.contains(" ERROR ") || line.contains("panicked"));
    assert_eq!(wrong, None);
}
