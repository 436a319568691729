//! Servers of an upstream: in processes of their own, to be killed, stopped and brought back.

use std::net::SocketAddr;

use super::client::{Peer, close_payload, masked};

/// As the list of an upstream's servers.
pub fn list(servers: &[SocketAddr]) -> String {
    servers.iter().map(|server| format!("\"ws://{server}\"")).collect::<Vec<_>>().join(", ")
}

/// An address where nobody listens.
pub fn closed() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}

/// Ends a session in good order.
pub fn leave(mut peer: Peer) {
    peer.write(&masked(8, &close_payload(1000, "")));
    peer.rest();
}

/// A server in a process of its own, to be killed, stopped and brought back.
pub struct Process {
    child: std::process::Child,
    pub address: SocketAddr,
}

impl Process {
    pub fn start(listen: SocketAddr) -> Process {
        Process::of("echo", listen)
    }

    /// Of this kind: `echo`, `clock`, `chat`.
    pub fn of(kind: &str, listen: SocketAddr) -> Process {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["backend", kind, "--listen", &listen.to_string()])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("the binary starts");
        let mut line = String::new();
        let mut output = std::io::BufReader::new(child.stdout.take().expect("piped"));
        std::io::BufRead::read_line(&mut output, &mut line).expect("it says where it listens");
        let address = line.trim().rsplit('/').next().and_then(|text| text.parse().ok()).expect("an address");
        Process { child, address }
    }

    pub fn signal(&self, name: &str) {
        let status = std::process::Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("it lives");
        self.child.wait().expect("it ends");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// So many of them, and their list.
pub fn processes(count: usize) -> (Vec<Process>, String) {
    let any = "127.0.0.1:0".parse().expect("an address");
    let processes: Vec<_> = (0..count).map(|_| Process::start(any)).collect();
    let servers = list(&processes.iter().map(|process| process.address).collect::<Vec<_>>());
    (processes, servers)
}

/// Sends a message and awaits its echo.
pub fn echoes(peer: &mut Peer, text: &[u8]) {
    peer.write(&masked(1, text));
    assert_eq!(peer.frame().payload, text);
}

/// Established connections to a port, as the kernel sees them.
pub fn connections_to(address: SocketAddr) -> usize {
    let wanted = format!("0100007F:{:04X}", address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").expect("a Linux");
    let established = |line: &&str| line.split_whitespace().skip(2).take(2).eq([wanted.as_str(), "01"]);
    table.lines().filter(established).count()
}
