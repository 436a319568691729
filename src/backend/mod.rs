//! Embedded servers (echo, clock, chat): real WebSocket servers on ports of their own, for trying and testing.
//!
//! The gateway reaches them like any other upstream, and `tidegate backend` runs one as a process of its own.
//! tungstenite drives them, not our scanner, so that each checks the other. Every path is served, no Origin is checked:
//! they belong on loopback addresses, behind a gateway.

mod chat;
mod clock;
mod echo;
mod room;
mod socket;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::config::model::BackendKind;

/// From the accepted connection to the end of the opening handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// What sessions get to end once we are stopping; what is left then is dropped.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Pause after an accept that failed; doubled up to the second while they go on failing.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Serves `kind` on `listener` until `stop`, then closes every session with 1001 and returns within six seconds.
///
/// Dropping the future drops its sessions too. It selects the first subprotocol that a client offers (echo, clock and
/// chat have none of their own, but browsers fail a connection on which none of theirs was selected).
///
/// # Errors
///
/// Only when the listener can never accept again; a shortage (no descriptors left) is waited out.
pub fn run(
    kind: BackendKind,
    listener: TcpListener,
    stop: CancellationToken,
) -> impl Future<Output = io::Result<()>> + Send {
    serve(Service::new(kind), listener, stop)
}

/// What all sessions of one server share.
#[derive(Clone)]
enum Service {
    Echo,
    Clock { interval: Duration },
    Chat(Arc<chat::Rooms>),
}

impl Service {
    fn new(kind: BackendKind) -> Self {
        match kind {
            BackendKind::Echo => Self::Echo,
            BackendKind::Clock { interval } => Self::Clock { interval },
            BackendKind::Chat { history } => Self::Chat(Arc::new(chat::Rooms::new(history))),
        }
    }

    fn limits(&self) -> socket::Limits {
        match self {
            Self::Echo => echo::LIMITS,
            Self::Clock { .. } => clock::LIMITS,
            Self::Chat(_) => chat::LIMITS,
        }
    }
}

async fn serve(service: Service, listener: TcpListener, stop: CancellationToken) -> io::Result<()> {
    let mut sessions = JoinSet::new();
    let mut pause = ACCEPT_PAUSE;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = sessions.join_next() => {
                report(ended);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                pause = ACCEPT_PAUSE;
                sessions.spawn(session(service.clone(), stream, stop.clone()));
            }
            Err(problem) if is_of_one_connection(&problem) => {
                debug!(%problem, "a connection ended before it was accepted")
            }
            Err(problem) if problem.kind() == io::ErrorKind::InvalidInput => return Err(problem),
            Err(problem) => {
                warn!(%problem, "a backend cannot accept connections; trying again in {pause:?}");
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = sleep(pause) => pause = (pause * 2).min(ACCEPT_PAUSE_MAX),
                }
            }
        }
    }
    // Refuses newcomers while the sessions end: nobody connects to a server that will not answer.
    drop(listener);
    let all_ended = async {
        while let Some(ended) = sessions.join_next().await {
            report(ended);
        }
    };
    if timeout(STOP_GRACE, all_ended).await.is_err() {
        debug!(left = sessions.len(), "sessions that did not end in time were dropped");
    }
    sessions.shutdown().await;
    Ok(())
}

/// accept(2) also reports what happened to a connection that was still waiting; the next one may be fine.
fn is_of_one_connection(problem: &io::Error) -> bool {
    matches!(
        problem.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(problem) = ended
        && problem.is_panic()
    {
        error!(%problem, "a backend's session panicked");
    }
}

async fn session(service: Service, stream: TcpStream, stop: CancellationToken) {
    let opening = timeout(HANDSHAKE_TIMEOUT, socket::open(stream, service.limits()));
    let opened = tokio::select! {
        () = stop.cancelled() => return,
        opened = opening => opened,
    };
    let (mut socket, path) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(problem)) => return debug!(%problem, "a handshake with a backend failed"),
        Err(_) => return debug!("a handshake with a backend took too long"),
    };
    let end = match service {
        Service::Echo => echo::session(&mut socket, &stop).await,
        Service::Clock { interval } => clock::session(&mut socket, interval, &stop).await,
        Service::Chat(rooms) => chat::session(&mut socket, &rooms, &path, &stop).await,
    };
    socket::finish(socket, end).await;
}
