//! Listening sockets that somebody opened for us: systemd's socket activation (sd_listen_fds(3)).
//!
//! Taken out of the environment once, at the start of the process; a listener finds its own by its address. The socket
//! stays open with who handed it over, so that no connection is lost between two processes.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use listenfd::ListenFd;
use socket2::SockRef;

/// Those that no listener has taken yet.
static SOCKETS: Mutex<Sockets> = Mutex::new(Sockets { tcp: Vec::new(), unix: Vec::new() });

struct Sockets {
    tcp: Vec<(SocketAddr, TcpListener)>,
    unix: Vec<(PathBuf, UnixListener)>,
}

/// Why a descriptor is of no use.
#[derive(Debug, thiserror::Error)]
#[error("descriptor {number} of those handed over (LISTEN_FDS) is no stream socket that listens")]
pub struct NotListening {
    /// From 1 on.
    number: usize,
    source: io::Error,
}

/// Takes what the environment hands over, and clears it. To be called before there is another thread.
///
/// # Errors
/// When one of them is nothing that clients could connect to.
pub fn take_over() -> Result<(), NotListening> {
    let mut given = ListenFd::from_env();
    let mut sockets = lock();
    for index in 0..given.len() {
        sockets.add(&mut given, index).map_err(|source| NotListening { number: index + 1, source })?;
    }
    Ok(())
}

impl Sockets {
    fn add(&mut self, given: &mut ListenFd, index: usize) -> io::Result<()> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        if let Ok(Some(socket)) = given.take_unix_listener(index) {
            listens(&SockRef::from(&socket))?;
            let path = socket.local_addr()?.as_pathname().ok_or_else(missing)?.to_owned();
            self.unix.push((path, socket));
            return Ok(());
        }
        let socket = given.take_tcp_listener(index)?.ok_or_else(missing)?;
        listens(&SockRef::from(&socket))?;
        self.tcp.push((socket.local_addr()?, socket));
        Ok(())
    }
}

/// It does, and nobody waits in it.
fn listens(socket: &SockRef<'_>) -> io::Result<()> {
    if !socket.is_listener()? {
        return Err(io::ErrorKind::NotConnected.into());
    }
    socket.set_nonblocking(true)
}

/// The socket for this address, once.
pub fn tcp(address: SocketAddr) -> Option<TcpListener> {
    let sockets = &mut lock().tcp;
    let index = sockets.iter().position(|(at, _)| serves(*at, address))?;
    Some(sockets.swap_remove(index).1)
}

/// The socket at this path, once.
pub fn unix(path: &Path) -> Option<UnixListener> {
    let sockets = &mut lock().unix;
    let index = sockets.iter().position(|(at, _)| at == path)?;
    Some(sockets.swap_remove(index).1)
}

/// Tells of those that no listener took: their clients would wait for ever.
pub fn warn_of_the_rest() {
    let sockets = lock();
    let tcp = sockets.tcp.iter().map(|(address, _)| address.to_string());
    let unix = sockets.unix.iter().map(|(path, _)| format!("unix:{}", path.display()));
    for address in tcp.chain(unix) {
        tracing::warn!(%address, "a socket was handed over that is no [[listener]]'s: nobody is served there");
    }
}

/// `ListenStream=8080` is `[::]:8080` and serves IPv4, too: whoever writes 0.0.0.0:8080 means it.
fn serves(socket: SocketAddr, address: SocketAddr) -> bool {
    let everywhere = socket.ip().is_unspecified() && address.ip().is_unspecified();
    socket == address || everywhere && socket.port() == address.port()
}

fn lock() -> MutexGuard<'static, Sockets> {
    SOCKETS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_serves_its_address() {
        let rows = [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "0.0.0.0:80", false),
            ("[::]:80", "0.0.0.0:80", true),
            ("[::]:80", "[::]:80", true),
            ("[::]:80", "[::1]:80", false),
            ("[::]:80", "0.0.0.0:81", false),
        ];
        for (socket, address, expected) in rows {
            let parsed = |text: &str| text.parse().expect("an address");
            assert_eq!(serves(parsed(socket), parsed(address)), expected, "{socket} {address}");
        }
    }
}
