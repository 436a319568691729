//! TCP sockets with our options, on both legs: bounded kernel buffers, no waiting for more bytes.

use std::io;
use std::net::SocketAddr;

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
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if address.is_ipv6() {
        // "[::]:80" beside "0.0.0.0:80" must not collide, whatever the system's default is.
        socket2::SockRef::from(&socket).set_only_v6(true)?;
    }
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(reuse_port)?;
    // Accepted sockets inherit both; the receive buffer has to be set before the window is negotiated.
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
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

/// Connects to `address` with the same bounds.
///
/// # Errors
/// Those of the system.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    let stream = socket.connect(address).await?;
    tune(&stream);
    Ok(stream)
}

/// Small frames leave at once. Failing to set an option is no reason to refuse a peer.
pub fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = socket2::SockRef::from(stream).set_tcp_notsent_lowat(NOTSENT_BYTES);
}
