//! The PROXY header in front of a connection: read within its deadline, and not one byte behind it.
//!
//! In: a connection of a listener that demands the header. Out: who speaks on it. Only trusted proxies are listened to,
//! and they have to send it: nobody may choose.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::config::model::TrustedProxies;
use crate::policy::client::Peer;
use crate::proto::proxy::{self, BadHeader, Header, Progress};

/// Why a connection is closed before its first request.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("only trusted_proxies may connect to this listener")]
    NotTrusted,
    #[error("no whole PROXY header within proxy_protocol_timeout")]
    Timeout,
    /// Balancers connect and leave to see whether we live.
    #[error("the connection ended without a byte")]
    Nothing,
    #[error("the connection ended within its PROXY header")]
    Ended,
    #[error(transparent)]
    Header(#[from] BadHeader),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl ProxyError {
    /// The log's `reason`.
    pub fn label(&self) -> &'static str {
        match self {
            ProxyError::NotTrusted => "proxy_not_trusted",
            ProxyError::Timeout => "proxy_header_timeout",
            ProxyError::Header(BadHeader::Missing) => "proxy_header_missing",
            ProxyError::Header(_) => "proxy_header_malformed",
            ProxyError::Nothing | ProxyError::Ended | ProxyError::Io(_) => "client_lost",
        }
    }
}

/// Who speaks on a connection of `peer`, by its PROXY header.
///
/// # Errors
/// See [`ProxyError`]; the connection is to be closed then.
pub async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    peer: Peer,
    proxies: &TrustedProxies,
    timeout: Duration,
) -> Result<Peer, ProxyError> {
    if !peer.trusted {
        return Err(ProxyError::NotTrusted);
    }
    let header = tokio::time::timeout(timeout, header(stream)).await.unwrap_or(Err(ProxyError::Timeout))?;
    Ok(peer.behind(header, proxies))
}

/// Takes no more than is known to belong to the header: a line of version 1 comes in a few reads, which is what it costs
/// that TLS and HTTP find their bytes where they look for them.
async fn header(stream: &mut (impl AsyncRead + Unpin)) -> Result<Header, ProxyError> {
    let mut bytes = Vec::new();
    loop {
        match proxy::read(&bytes)? {
            Progress::Whole(header, _) => return Ok(header),
            Progress::Partial(lacks) => {
                if stream.take(lacks as u64).read_buf(&mut bytes).await? == 0 {
                    return Err(if bytes.is_empty() { ProxyError::Nothing } else { ProxyError::Ended });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use tokio::io::AsyncWriteExt;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn proxies() -> TrustedProxies {
        TrustedProxies { networks: vec!["10.0.0.0/8".parse().expect("a network")], unix: false }
    }

    fn peer(address: &str) -> Peer {
        Peer::new(address.parse::<std::net::IpAddr>().expect("an address").into(), &proxies())
    }

    #[tokio::test]
    async fn what_stands_behind_the_header_is_left_where_it_is() {
        let headers: [&[u8]; 4] = [
            b"PROXY TCP4 198.51.100.7 10.0.0.1 4711 443\r\n",
            b"PROXY UNKNOWN\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc6\x33\x64\x07\x0a\0\0\x01\x12\x34\0\x50",
            b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
        ];
        for header in headers {
            let mut stream = Cursor::new([header, b"\x16\x03\x01 what follows"].concat());
            read(&mut stream, peer("10.0.0.1"), &proxies(), PATIENCE).await.expect("a right header");
            assert_eq!(stream.position(), header.len() as u64, "{header:?}");
        }
    }

    #[tokio::test]
    async fn a_header_comes_in_any_pieces() {
        let (mut near, mut far) = tokio::io::duplex(1);
        let sending = tokio::spawn(async move {
            far.write_all(b"PROXY TCP6 2001:db8::7 fd00::1 4711 443\r\nG").await.expect("it is read");
            far
        });
        let found = read(&mut near, peer("10.0.0.1"), &proxies(), PATIENCE).await.expect("a right header");
        assert_eq!(found, peer("2001:db8::7"));
        assert_eq!(near.read_u8().await.expect("the byte behind it"), b'G');
        drop(sending.await);
    }

    #[tokio::test]
    async fn who_is_closed_and_why() {
        let rows: [(&str, &[u8], &str); 6] = [
            ("192.0.2.1", b"PROXY TCP4 198.51.100.7 10.0.0.1 4711 443\r\n", "proxy_not_trusted"),
            ("192.0.2.1", b"GET / HTTP/1.1\r\n\r\n", "proxy_not_trusted"),
            ("10.0.0.1", b"GET / HTTP/1.1\r\n\r\n", "proxy_header_missing"),
            ("10.0.0.1", b"PROXY TCP4 198.51.100.7\r\n", "proxy_header_malformed"),
            ("10.0.0.1", b"PROXY TCP4 198.51.100.7 ", "client_lost"),
            ("10.0.0.1", b"", "client_lost"),
        ];
        for (address, bytes, label) in rows {
            let error = read(&mut &bytes[..], peer(address), &proxies(), PATIENCE).await.expect_err(label);
            assert_eq!(error.label(), label, "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_that_does_not_come_in_time() {
        let (mut near, mut far) = tokio::io::duplex(64);
        far.write_all(b"PROXY TCP4").await.expect("there is room");
        let error = read(&mut near, peer("10.0.0.1"), &proxies(), PATIENCE).await.expect_err("it is late");
        assert_eq!(error.label(), "proxy_header_timeout");
    }
}
