//! A listener's address becomes its socket: one that was handed over, or one of our own.

use std::io;

use tokio::net::{TcpListener, UnixListener};

use super::accept::Socket;
use super::inherit;
use super::unix::{self, UnixSocket};
use crate::config::model::{Listener, ListenerAddress};
use crate::socket;

/// A listener's socket.
#[derive(Debug)]
pub struct Open {
    pub socket: Socket,
    /// The one that it really has: port 0 became a port.
    pub address: ListenerAddress,
    pub sharing: Sharing,
}

/// Whether somebody else takes connections at the same address, now or after us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    Alone,
    /// With the same socket (socket activation): what waits in it, waits for the next process, too.
    Handed,
    /// With a socket of its own (SO_REUSEPORT): what waits in ours is lost with it.
    ReusePort,
}

/// Opens the socket of a listener.
///
/// # Errors
/// Those of the system.
pub fn open(listener: &Listener) -> io::Result<Open> {
    match &listener.address {
        ListenerAddress::Tcp(address) => {
            let (socket, sharing) = match inherit::tcp(*address) {
                Some(socket) => (socket::adopt(TcpListener::from_std(socket)?)?, Sharing::Handed),
                None if listener.reuse_port => (socket::listen(*address, true)?, Sharing::ReusePort),
                None => (socket::listen(*address, false)?, Sharing::Alone),
            };
            let address = ListenerAddress::Tcp(socket.local_addr()?);
            Ok(Open { socket: Socket::Tcp(socket), address, sharing })
        }
        ListenerAddress::Unix(path) => {
            let (socket, sharing) = match inherit::unix(path) {
                Some(socket) => (UnixSocket::handed(UnixListener::from_std(socket)?), Sharing::Handed),
                None => (UnixSocket::listen(path, unix::MODE)?, Sharing::Alone),
            };
            Ok(Open { socket: Socket::Unix(socket), address: listener.address.clone(), sharing })
        }
    }
}
