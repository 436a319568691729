//! What is asked, answered. Here the interface meets what runs; nothing here knows of connections.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::ACCEPT;
use http::{HeaderMap, StatusCode};
use serde_json::json;

use super::answer::{Answer, Problem};
use super::query::Query;
use super::table::Call;
use crate::config;
use crate::live::Live;
use crate::observe::metrics::{CertificateNow, Format, Now};
use crate::observe::process::unix_seconds;

/// What a request brings.
#[derive(Debug)]
pub struct Ask {
    /// Of its path, in their order.
    pub variables: Vec<String>,
    pub query: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What answers.
#[derive(Debug)]
pub struct Desk {
    live: Arc<Live>,
    began: SystemTime,
}

impl Desk {
    pub fn new(live: Arc<Live>) -> Self {
        Desk { live, began: SystemTime::now() }
    }

    /// # Errors
    /// When what is asked cannot be answered.
    pub async fn answer(self: Arc<Self>, call: Call, ask: Ask) -> Result<Answer, Problem> {
        match call {
            Call::Health => Ok(Answer::json(&json!({ "status": "ok" }))),
            Call::Ready => Ok(self.ready()),
            // Sums over all sessions, and long lists: not on a thread that relays.
            _ => tokio::task::spawn_blocking(move || self.look(call, ask)).await.unwrap_or_else(|_| {
                Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", "the gateway's log says why"))
            }),
        }
    }

    fn look(&self, call: Call, ask: Ask) -> Result<Answer, Problem> {
        let query = Query::read(&ask.query)?;
        match call {
            Call::Metrics => {
                query.finish()?;
                let format =
                    Format::wanted(ask.headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or(""));
                Ok(Answer::text(format.content_type(), self.live.metrics.expose(self.now(), format)))
            }
            Call::Config => {
                query.finish()?;
                Ok(Answer::json(&config::effective(&self.live.config.source)))
            }
            _ => Err(Problem::not_found("not yet")),
        }
    }

    fn ready(&self) -> Answer {
        match self.live.drain.has_begun() {
            false => Answer::json(&json!({ "ready": true })),
            true => {
                Answer::json(&json!({ "ready": false, "reason": "draining" })).with(StatusCode::SERVICE_UNAVAILABLE)
            }
        }
    }

    fn now(&self) -> Now {
        let taken = self.live.taken();
        Now {
            version: env!("CARGO_PKG_VERSION"),
            sessions: Vec::new(),
            connections: taken.connections,
            connections_pending: taken.pending,
            held_bytes: self.live.drain.sessions().held_bytes(),
            draining: self.live.drain.has_begun(),
            servers: Vec::new(),
            config_loaded: unix_seconds(self.began),
            config_ok: true,
            certificates: self.certificates(),
        }
    }

    fn certificates(&self) -> Vec<CertificateNow> {
        let tls = self.live.config.listeners.iter().filter_map(|listener| listener.tls.as_ref());
        let mut found: Vec<CertificateNow> = Vec::new();
        for files in tls.flat_map(|tls| &tls.certificates) {
            let file = files.certificate.display().to_string();
            if found.iter().any(|known| known.file == file) {
                continue;
            }
            if let Some(expires) = crate::listen::tls::expiry(files) {
                found.push(CertificateNow { file, expires: expires.unix_timestamp() as f64 });
            }
        }
        found
    }
}
