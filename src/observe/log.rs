//! Log records: one line for each refused handshake, one for each ended session.
//!
//! Values from outside are recorded as fields, which both formats quote and escape: they cannot forge a line.

use std::fmt::Write as _;
use std::io::IsTerminal;

use tracing_subscriber::filter::LevelFilter;

use crate::config::model::{Log, LogFormat, LogLevel};
use crate::policy::client::Address;
use crate::relay::End;
use crate::relay::registry::Living;

/// Begins logging to standard error. A second call changes nothing.
pub fn init(log: &Log) {
    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let lines = tracing_subscriber::fmt().with_max_level(level).with_target(false).with_writer(std::io::stderr);
    let _ = match log.format {
        LogFormat::Human => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).try_init(),
    };
}

/// The record of an ended session.
pub fn session_ended(living: &Living, end: &End) {
    let about = &living.about;
    let detail = end.detail.to_string();
    tracing::info!(
        cause = end.cause.label(),
        side = end.side.label(),
        detail = (!detail.is_empty()).then_some(detail.as_str()),
        session = living.id,
        route = &*about.way.route,
        client = %about.client,
        upstream = &*about.way.server,
        key = about.key.as_ref().map(|key| &*key.name),
        close_to_client = end.client.sent,
        close_from_client = end.client.received,
        close_to_upstream = end.upstream.sent,
        close_from_upstream = end.upstream.received,
        messages_from_client = end.from_client.messages,
        bytes_from_client = end.from_client.bytes,
        messages_from_upstream = end.from_upstream.messages,
        bytes_from_upstream = end.from_upstream.bytes,
        duration_ms = u64::try_from(end.duration.as_millis()).unwrap_or(u64::MAX),
        "session ended"
    );
}

/// A refused handshake. The query stays out: tokens travel in it.
#[derive(Debug, Default)]
pub struct Refused<'a> {
    pub reason: &'a str,
    pub status: u16,
    pub client: Option<Address>,
    pub host: Option<&'a str>,
    pub path: Option<&'a str>,
    pub origin: Option<&'a [u8]>,
    pub route: Option<&'a str>,
    pub upstream: Option<&'a str>,
    /// The name of the API key, never the key.
    pub key: Option<&'a str>,
    pub detail: Option<String>,
}

/// The record of a refused handshake.
pub fn refused(refused: &Refused<'_>) {
    tracing::info!(
        reason = refused.reason,
        status = refused.status,
        client = refused.client.map(tracing::field::display),
        host = refused.host.map(shortened),
        path = refused.path.map(shortened),
        origin = refused.origin.map(|origin| shortened(&String::from_utf8_lossy(origin))),
        route = refused.route,
        upstream = refused.upstream,
        key = refused.key,
        detail = refused.detail,
        "refused"
    );
}

/// A plain request whose answer is on its way.
pub fn passed(route: &str, client: Address, upstream: &str, method: &http::Method, path: &str, status: u16) {
    tracing::debug!(status, %method, path = shortened(path), route, %client, upstream, "passed");
}

/// An error with everything behind it, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

/// A log line stays short and readable whatever a client sends.
///
/// The human format escapes what cannot be printed, JSON has no need to: the controls from U+007F to U+009F and the marks
/// that turn the direction of writing would reach the reader's terminal.
pub fn shortened(text: &str) -> String {
    const CHARACTERS: usize = 200;
    let mut short: String = text.chars().take(CHARACTERS).map(|c| if deceives(c) { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(CHARACTERS).is_some() {
        short.push('…');
    }
    short
}

/// Controls, separators of lines, and the marks of the bidirectional algorithm (UAX #9).
fn deceives(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}
