//! The opening handshake (RFC 6455 section 4): reading the client's offer, checking the upstream's answer.

use http::{HeaderMap, StatusCode, request, response};

use super::extensions::Deflate;

/// A request that asks for a WebSocket, checked. Serves HTTP/1.1 Upgrade; later extended CONNECT (RFC 8441, 9220).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// `Sec-WebSocket-Key` as it came.
    pub key: String,
    /// In the client's order.
    pub subprotocols: Vec<String>,
    /// The offers of `permessage-deflate`, in the client's order, strictly parsed. Everything else was dropped.
    pub deflate: Vec<Deflate>,
}

/// Why a request was refused. Each knows its status, its label for logs and metrics, and its words for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    Placeholder,
}

impl Refusal {
    pub fn status(&self) -> StatusCode {
        todo!()
    }
}

/// Whether the request tries an upgrade of any kind: its connection is never used for another request.
pub fn tries_upgrade(_parts: &request::Parts) -> bool {
    todo!()
}

/// Method, version, body, Upgrade, Connection, Sec-WebSocket-Version and -Key, in the order of the design.
pub fn read(_parts: &request::Parts) -> Result<Offer, Refusal> {
    todo!()
}

/// `Sec-WebSocket-Accept` for a key (section 4.2.2).
pub fn accept(_key: &str) -> String {
    todo!()
}

/// What both ends agreed on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Agreement {
    pub subprotocol: Option<String>,
    pub deflate: bool,
}

/// Checks an upstream's 101 against what was offered to it (section 4.1).
pub fn check_answer(_parts: &response::Parts, _key: &str, _subprotocols: &[String], _deflate: &[Deflate]) -> Result<Agreement, BadAnswer> {
    todo!()
}

/// Why an upstream's 101 does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadAnswer {
    Placeholder,
}

#[allow(unused)]
fn keep(_: HeaderMap) {}
