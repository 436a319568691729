//! Sessions as JSON, written from what the registry tells: a list of 9,000 is three megabytes.

use std::fmt::{self, Display};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::policy::client::Address;
use crate::relay::Cause;
use crate::relay::end::Traffic;
use crate::relay::registry::SessionInfo;

/// One session, as docs/openapi.yaml has it.
#[derive(Debug, Serialize)]
pub struct Session<'a> {
    id: u64,
    route: &'a str,
    listener: &'a str,
    upstream: &'a str,
    server: &'a str,
    #[serde(serialize_with = "text")]
    client: Address,
    tls: bool,
    key: Option<&'a str>,
    #[serde(serialize_with = "text")]
    opened: Date,
    age_seconds: f64,
    from_client: Traffic,
    from_upstream: Traffic,
    messages_per_second: f64,
    bytes_per_second: f64,
    held_bytes: usize,
    ending: Option<&'static str>,
}

/// RFC 3339, in milliseconds, which are fine enough for people.
#[derive(Debug)]
struct Date(SystemTime);

/// A page of sessions, in parts of which none takes long to send.
#[derive(Debug)]
pub struct List {
    parts: Vec<Bytes>,
    part: Vec<u8>,
    /// What stands before the next session.
    separator: &'static str,
}

impl<'a> Session<'a> {
    pub fn of(info: &'a SessionInfo) -> Session<'a> {
        Session {
            id: info.id,
            route: &info.way.route,
            listener: &info.way.listener,
            upstream: &info.way.upstream,
            server: &info.way.server,
            client: info.client,
            tls: info.secure,
            key: info.key.as_deref(),
            opened: Date(info.opened),
            age_seconds: info.age.as_secs_f64(),
            from_client: info.flow.from_client,
            from_upstream: info.flow.from_upstream,
            messages_per_second: info.rate.messages,
            bytes_per_second: info.rate.bytes,
            held_bytes: info.held,
            ending: info.ordered.map(Cause::label),
        }
    }
}

impl List {
    /// `next`: behind which id the next page begins.
    pub fn begin(total: usize, next: Option<u64>) -> List {
        let next = next.map_or_else(|| "null".to_owned(), |next| next.to_string());
        let part = format!("{{\"total\":{total},\"next\":{next},\"sessions\":[").into_bytes();
        List { parts: Vec::new(), part, separator: "" }
    }

    pub fn push(&mut self, session: &Session<'_>) {
        self.part.extend_from_slice(self.separator.as_bytes());
        self.separator = ",";
        serde_json::to_writer(&mut self.part, session).expect("nothing in it can fail");
    }

    /// What was pushed so far is sent by itself.
    pub fn end_part(&mut self) {
        self.parts.push(std::mem::take(&mut self.part).into());
    }

    /// The whole answer.
    pub fn end(mut self) -> Vec<Bytes> {
        self.part.extend_from_slice(b"]}\n");
        self.end_part();
        self.parts
    }
}

impl Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let whole = SystemTime::UNIX_EPOCH + Duration::from_millis(since.as_millis() as u64);
        f.write_str(&OffsetDateTime::from(whole).format(&Rfc3339).unwrap_or_default())
    }
}

fn text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
