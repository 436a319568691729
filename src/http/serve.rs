//! One connection, from its first byte to the hand-over to the relay, or to its end.
//!
//! hyper parses heads and writes answers; the stream is taken back from it without a shutdown, so that a session gets the
//! bytes behind the head, and a refused client can still read its answer.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Response;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::gate::{self, Body, Handover};
use crate::config::model::Listener;
use crate::gateway::Live;
use crate::limits::Permit;
use crate::observe::log::{self, Refused};
use crate::relay::Stream;
use crate::relay::session::Opened;

/// How long a client may take to read our last answer and end its side.
const LINGER: Duration = Duration::from_secs(2);
/// What it may still send meanwhile.
const LINGER_BYTES: usize = 1024 * 1024;
/// hyper's own minimum.
const HEAD_BUFFER_MIN: usize = 8192;

/// A connection whose transport is ready: TLS, where the listener has it, is done.
pub struct Secured {
    pub stream: Stream,
    pub peer: SocketAddr,
    pub permit: Permit,
    /// Whether the client came over TLS.
    pub secure: bool,
}

/// Serves the connection's requests; a WebSocket goes on in a task of its own, and this one's state is gone.
pub async fn connection(secured: Secured, listener: Arc<Listener>, live: Arc<Live>) {
    let Secured { stream, peer, permit, secure } = secured;
    let handover = Arc::new(Mutex::new(None::<Handover>));
    let visitor = Arc::new(gate::Visitor { peer: peer.ip(), secure, listener: listener.clone() });
    let service = {
        let (handover, live) = (handover.clone(), live.clone());
        service_fn(move |request| {
            let (handover, live, visitor) = (handover.clone(), live.clone(), visitor.clone());
            // Boxed, because hyper wants the future to be Unpin where the stream is to be taken back.
            Box::pin(async move {
                let (response, session) = gate::walk(request, &visitor, &live).await;
                if session.is_some() {
                    *handover.lock().unwrap_or_else(PoisonError::into_inner) = session;
                }
                Ok(response)
            }) as Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>
        })
    };
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(listener.head_timeout)
        .max_headers(listener.headers_max)
        .max_buf_size(listener.head_bytes_max.max(HEAD_BUFFER_MIN))
        // Names keep the upstream's spelling; those that we add look like the RFC's.
        .preserve_header_case(true)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut stopping = pin!(live.drain.begun());
    let mut told = false;
    let result = std::future::poll_fn(|cx| {
        if !told && stopping.as_mut().poll(cx).is_ready() {
            told = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        connection.poll_without_shutdown(cx)
    })
    .await;
    let parts = connection.into_parts();
    let stream = parts.io.into_inner();
    let session = handover.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (session, result) {
        (Some(session), Ok(())) => {
            let opened = Opened { stream, early: parts.read_buf };
            live.drain.spawn(session.run(opened, permit));
        }
        (_, Ok(())) => linger(stream).await,
        (_, Err(error)) => failed(stream, &error, &parts.read_buf, peer).await,
    }
}

/// A head that could not be read. hyper has answered the malformed ones; one that is late is ours to answer.
async fn failed(mut stream: Stream, error: &hyper::Error, read: &[u8], peer: SocketAddr) {
    let (reason, status) = match error {
        error if error.is_timeout() && read.is_empty() => return linger(stream).await,
        error if error.is_timeout() => ("head_timeout", 408),
        error if error.is_parse_too_large() => ("head_too_large", 431),
        error if error.is_parse() => ("malformed_head", 400),
        // The client went away.
        _ => return,
    };
    log::refused(&Refused {
        reason,
        status,
        client: Some(peer.ip()),
        detail: Some(log::chain(error)),
        ..Refused::default()
    });
    if status == 408 {
        let text = "the request head was not complete in time\n";
        let answer = format!(
            "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Type: text/plain\r\n\
             Content-Length: {}\r\n\r\n{text}",
            text.len()
        );
        if tokio::time::timeout(LINGER, stream.write_all(answer.as_bytes())).await.is_err() {
            return;
        }
    }
    linger(stream).await;
}

/// Ends our side and reads what still comes, within bounds: closing a socket with unread bytes would reset it, and the
/// client could lose the answer that it was just sent.
pub async fn linger(mut stream: Stream) {
    let ending = async {
        stream.shutdown().await?;
        let mut left = LINGER_BYTES;
        let mut scrap = [0; 4096];
        while left > 0 {
            match stream.read(&mut scrap).await? {
                0 => break,
                n => left = left.saturating_sub(n),
            }
        }
        std::io::Result::Ok(())
    };
    // Late or broken: it is closed all the same.
    let _ = tokio::time::timeout(LINGER, ending).await;
}
