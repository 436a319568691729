//! TCP sockets with our options, on both legs: bounded kernel buffers, no waiting for more bytes.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections that the kernel keeps for us while we are busy.
pub(crate) const BACKLOG: u32 = 4096;
/// Kernel buffers of one socket, before the kernel doubles them: a reader that has stopped must not cost megabytes.
const SOCKET_BUFFER_BYTES: u32 = 256 * 1024;
/// Unsent bytes that the kernel takes before it says "not writable": keeps pings and Closes close to the front.
const NOTSENT_BYTES: u32 = 128 * 1024;

/// Binds a listening socket. `reuse_port`: others of ours may listen there beside it.
///
/// # Errors
/// Those of the system: the address is in use, or not ours, or the port needs a privilege.
pub fn listen(address: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = open(address)?;
    if address.is_ipv6() {
        // "[::]:80" beside "0.0.0.0:80" must not collide, whatever the system's default is.
        socket2::SockRef::from(&socket).set_only_v6(true)?;
    }
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(reuse_port)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Gives a listening socket that others opened the bounds of ours.
///
/// # Errors
/// Those of the system.
pub fn adopt(listener: TcpListener) -> io::Result<TcpListener> {
    let socket = socket2::SockRef::from(&listener);
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES as usize)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES as usize)?;
    Ok(listener)
}

/// Accepted sockets inherit both sizes; that of receiving has to be set before the window is negotiated.
fn open(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    Ok(socket)
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("no socket can be opened (is the limit of open files too low?)")]
    Socket(#[source] io::Error),
    #[error("`source_addresses` has none for {0}: add an address of its family")]
    Family(SocketAddr),
    #[error("{address}, one of `source_addresses`, is no address of this machine")]
    Source { address: IpAddr, source: io::Error },
    #[error("no local port is left for {to}: add `source_addresses` or servers, or widen net.ipv4.ip_local_port_range")]
    NoPort { to: SocketAddr, source: io::Error },
    #[error("connecting to {to} failed")]
    Connect { to: SocketAddr, source: io::Error },
}

/// `source_addresses`: the local addresses of connections to servers, taken in turn. Each has all local ports towards each
/// server. With none the system chooses.
#[derive(Debug, Default)]
pub struct Sources {
    ipv4: Box<[IpAddr]>,
    ipv6: Box<[IpAddr]>,
    turn: AtomicUsize,
}

impl Sources {
    pub fn new(addresses: &[IpAddr]) -> Self {
        let (ipv4, ipv6): (Vec<_>, Vec<_>) = addresses.iter().partition(|address| address.is_ipv4());
        Sources { ipv4: ipv4.into(), ipv6: ipv6.into(), turn: AtomicUsize::new(0) }
    }

    /// Whether a server at `address` can be reached from them at all.
    pub fn fit(&self, address: IpAddr) -> bool {
        self.ipv4.len() + self.ipv6.len() == 0 || !self.of_family(address).is_empty()
    }

    fn of_family(&self, address: IpAddr) -> &[IpAddr] {
        if address.is_ipv4() { &self.ipv4 } else { &self.ipv6 }
    }

    /// All that can reach `address`, beginning with the one whose turn it is.
    fn towards(&self, address: IpAddr) -> impl Iterator<Item = IpAddr> {
        let sources = self.of_family(address);
        let first = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(sources.len()).unwrap_or(0);
        sources[first..].iter().chain(&sources[..first]).copied()
    }
}

/// Connects to `address` with the same bounds, from one of `sources`; from the next one when that one has no port left.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect(address: SocketAddr, sources: &Sources) -> Result<TcpStream, ConnectError> {
    if !sources.fit(address.ip()) {
        return Err(ConnectError::Family(address));
    }
    let mut failure = None;
    for source in sources.towards(address.ip()) {
        match connect_from(Some(source), address).await {
            Err(error @ (ConnectError::NoPort { .. } | ConnectError::Source { .. })) => failure = Some(error),
            result => return result,
        }
    }
    match failure {
        Some(failure) => Err(failure),
        None => connect_from(None, address).await,
    }
}

async fn connect_from(source: Option<IpAddr>, to: SocketAddr) -> Result<TcpStream, ConnectError> {
    let socket = open(to).map_err(ConnectError::Socket)?;
    if let Some(address) = source {
        bind_late(&socket, address).map_err(|source| ConnectError::Source { address, source })?;
    }
    let stream = socket.connect(to).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrNotAvailable => ConnectError::NoPort { to, source },
        _ => ConnectError::Connect { to, source },
    })?;
    tune(&stream);
    Ok(stream)
}

/// Binds to an address alone. The port is chosen by `connect`, which knows the other end: one local port may then serve
/// connections to many servers, while `bind` would give it to a single one.
fn bind_late(socket: &TcpSocket, address: IpAddr) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
        setsockopt(socket, IpBindAddressNoPort, &true)?;
    }
    socket.bind(SocketAddr::new(address, 0))
}

/// Small frames leave at once. Failing to set an option is no reason to refuse a peer.
pub fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = socket2::SockRef::from(stream).set_tcp_notsent_lowat(NOTSENT_BYTES);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(addresses: &[&str]) -> Sources {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().expect("an address")).collect();
        Sources::new(&addresses)
    }

    fn towards(sources: &Sources, address: &str) -> Vec<String> {
        sources.towards(address.parse().expect("an address")).map(|source| source.to_string()).collect()
    }

    #[test]
    fn each_has_its_turn_and_the_others_follow() {
        let sources = sources(&["10.0.0.1", "2001:db8::1", "10.0.0.2"]);
        assert_eq!(towards(&sources, "10.9.9.9"), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(towards(&sources, "10.9.9.9"), ["10.0.0.2", "10.0.0.1"]);
        assert_eq!(towards(&sources, "2001:db8::9"), ["2001:db8::1"]);
    }

    #[test]
    fn a_family_without_a_source_does_not_fit() {
        let ipv4 = sources(&["10.0.0.1"]);
        let server = |text: &str| text.parse().expect("an address");
        assert!(ipv4.fit(server("10.9.9.9")));
        assert!(!ipv4.fit(server("2001:db8::9")));
        assert!(Sources::default().fit(server("2001:db8::9")));
    }

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn the_port_is_bound_late() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server = listener.local_addr().expect("an address");
        let socket = open(server).expect("a socket");
        bind_late(&socket, server.ip()).expect("127.0.0.1 is ours");
        assert_eq!(socket.local_addr().expect("an address").port(), 0, "not before the server is known");
        let stream = socket.connect(server).await.expect("it listens");
        assert_ne!(stream.local_addr().expect("an address").port(), 0);
    }

    #[tokio::test]
    async fn a_source_that_is_not_ours_is_passed_over_and_named_when_it_is_alone() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server = listener.local_addr().expect("an address");
        // TEST-NET-1 (RFC 5737).
        let both = sources(&["192.0.2.1", "127.0.0.1"]);
        for _ in 0..2 {
            connect(server, &both).await.expect("from the other one");
        }
        let error = connect(server, &sources(&["192.0.2.1"])).await.expect_err("it is not ours");
        assert!(matches!(error, ConnectError::Source { .. }), "{error:?}");
        let error = connect(server, &sources(&["::1"])).await.expect_err("another family");
        assert!(matches!(error, ConnectError::Family(_)), "{error:?}");
    }
}
