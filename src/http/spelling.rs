//! The RFC's spelling of the names that hyper would write otherwise: `Sec-WebSocket-Accept`, not `Sec-Websocket-Accept`.
//!
//! hyper keeps spellings in a type of its own in a message's extensions, which nobody else can make. So it is given a
//! message to read in which the names stand as the RFC writes them, and what it noted is lent to the answers of ours.

use std::future::Future;
use std::pin::pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Extensions, Request};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

/// Every name of an answer of ours that hyper's title case would spoil.
const MESSAGE: &[u8] = b"HTTP/1.1 204 No Content\r\nSec-WebSocket-Accept: x\r\nSec-WebSocket-Version: x\r\nSec-WebSocket-Protocol: x\r\n\r\n";
/// Nothing here waits for the outside: few polls are enough, and it ends in any case.
const POLLS: usize = 100;

static SPELLINGS: LazyLock<Extensions> = LazyLock::new(|| read().unwrap_or_default());

/// The extensions of an answer whose names are ours.
pub fn rfc() -> Extensions {
    SPELLINGS.clone()
}

/// `None` would leave hyper's title case.
fn read() -> Option<Extensions> {
    let mut reading = pin!(async {
        let (near, mut far) = duplex(1024);
        let near = TokioIo::new(near);
        let (mut sender, connection) =
            http1::Builder::new().preserve_header_case(true).handshake::<_, Empty<Bytes>>(near).await.ok()?;
        let answering = async {
            // hyper refuses an answer that is there before the request was written.
            far.read_u8().await.ok()?;
            far.write_all(MESSAGE).await.ok()
        };
        let answer = sender.send_request(Request::new(Empty::new()));
        let (answer, ..) = tokio::select! {
            all = async { tokio::join!(answer, answering) } => all,
            _ = connection => return None,
        };
        Some(answer.ok()?.into_parts().0.extensions)
    });
    let mut cx = Context::from_waker(Waker::noop());
    (0..POLLS).find_map(|_| match reading.as_mut().poll(&mut cx) {
        Poll::Ready(extensions) => Some(extensions),
        Poll::Pending => None,
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hyper_still_notes_spellings_in_the_extensions() {
        assert!(read().is_some_and(|extensions| !extensions.is_empty()));
    }
}
