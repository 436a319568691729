//! Log records: of plain requests, refused handshakes and sessions.
//!
//! Values from outside are recorded as fields, which both formats quote and escape: they cannot forge a line. No query, no
//! header but Host and Origin, and no path parameter is ever recorded: tokens travel there.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::LevelFilter;

use super::writer::{Lines, Target};
use crate::config::model::{AccessLog, Log, LogFormat, LogLevel};
use crate::policy::client::Address;
use crate::proto::trace::Trace;
use crate::relay::registry::Living;
use crate::relay::{Cause, End};

/// Where the lines of this process go.
static LINES: OnceLock<Lines> = OnceLock::new();

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("cannot open the log file {} (its folder must be there, and be ours to write)", .0.display())]
    File(PathBuf, #[source] io::Error),
    #[error("cannot begin to log")]
    Thread(#[source] io::Error),
}

/// Begins logging, to the file of `log` or to standard error. A second call changes nothing.
///
/// # Errors
/// See [`LogError`].
pub fn init(log: &Log) -> Result<(), LogError> {
    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let target = match &log.file {
        Some(path) => Target::file(path).map_err(|error| LogError::File(path.clone(), error))?,
        None => Target::Stream(Box::new(io::stderr())),
    };
    let colours = log.file.is_none() && io::stderr().is_terminal();
    let lines = Lines::to(target).map_err(LogError::Thread)?;
    if LINES.set(lines.clone()).is_err() {
        return Ok(());
    }
    let subscriber = tracing_subscriber::fmt().with_max_level(level).with_target(false).with_writer(lines);
    let _ = match log.format {
        LogFormat::Human => subscriber.with_ansi(colours).try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).with_current_span(false).try_init(),
    };
    Ok(())
}

/// Waits until every line is written, at most a second: to be called at the end of the process.
pub fn flush() {
    if let Some(lines) = LINES.get() {
        lines.flush();
    }
}

/// How many lines were lost because they came faster than they could be written.
pub fn lost() -> u64 {
    LINES.get().map_or(0, Lines::lost)
}

/// Opens the log file again at each SIGUSR1, for as long as it is polled: somebody has moved it away.
///
/// # Errors
/// When the signal cannot be listened for.
pub fn rotation() -> io::Result<impl Future<Output = ()>> {
    let mut signals = signal(SignalKind::user_defined1())?;
    Ok(async move {
        while signals.recv().await.is_some() {
            if let Some(lines) = LINES.get() {
                lines.reopen();
            }
        }
    })
}

/// Which lines a request or a session leaves, as `log.access` and `log.sample` decide when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaves {
    access: AccessLog,
    /// `log.sample` let it through. What goes wrong is told whatever this says.
    sampled: bool,
}

impl Leaves {
    /// `luck` is random, from 0 to 99.
    pub fn of(log: &Log, luck: u32) -> Leaves {
        Leaves { access: log.access, sampled: luck < log.sample }
    }

    /// Also what a trace that begins here says of itself: what stands in the log can be looked up there.
    pub fn sampled(self) -> bool {
        self.sampled
    }
}

/// The record of a session that begins.
pub fn session_opened(living: &Living) {
    let about = &living.about;
    if !(about.leaves.access.opened && about.leaves.sampled) {
        return;
    }
    tracing::info!(
        session = living.id,
        route = &*about.way.route,
        client = %about.client,
        upstream = &*about.way.server,
        key = about.key.as_ref().map(|key| &*key.name),
        request = %about.trace.request,
        trace = about.trace.id().map(tracing::field::display),
        "session opened"
    );
}

/// The record of a session that goes on.
pub fn session_lives(living: &Living) {
    let about = &living.about;
    if !about.leaves.sampled {
        return;
    }
    let flow = living.flow();
    tracing::info!(
        session = living.id,
        route = &*about.way.route,
        client = %about.client,
        upstream = &*about.way.server,
        key = about.key.as_ref().map(|key| &*key.name),
        messages_from_client = flow.from_client.messages,
        bytes_from_client = flow.from_client.bytes,
        messages_from_upstream = flow.from_upstream.messages,
        bytes_from_upstream = flow.from_upstream.bytes,
        duration_ms = millis(living.opened.elapsed()),
        request = %about.trace.request,
        trace = about.trace.id().map(tracing::field::display),
        "session lives"
    );
}

/// The record of an ended session.
pub fn session_ended(living: &Living, end: &End) {
    let about = &living.about;
    if !(about.leaves.access.ended && (about.leaves.sampled || is_trouble(end.cause))) {
        return;
    }
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
        duration_ms = millis(end.duration),
        request = %about.trace.request,
        trace = about.trace.id().map(tracing::field::display),
        "session ended"
    );
}

/// Whether a session ended otherwise than sessions are meant to: such ends are never sampled away.
fn is_trouble(cause: Cause) -> bool {
    use Cause::{ClientClosed, Drain, Idle, MaxAge, RouteRemoved, UpstreamClosed};
    !matches!(cause, ClientClosed | UpstreamClosed | Idle | MaxAge | Drain | RouteRemoved)
}

/// A request that was refused.
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
    pub trace: Option<&'a Trace>,
}

/// The record of a refused request. Never sampled away.
pub fn refused(refused: &Refused<'_>) {
    tracing::info!(
        reason = refused.reason,
        status = refused.status,
        client = refused.client.map(tracing::field::display),
        host = refused.host.map(anonymous).map(shortened),
        path = refused.path.map(path),
        origin = refused.origin.map(|origin| shortened(anonymous(&String::from_utf8_lossy(origin)))),
        route = refused.route,
        upstream = refused.upstream,
        key = refused.key,
        detail = refused.detail,
        request = refused.trace.map(|trace| tracing::field::display(&trace.request)),
        trace = refused.trace.and_then(Trace::id).map(tracing::field::display),
        "refused"
    );
}

/// A plain request, answered by us or by its upstream.
#[derive(Debug, Clone)]
pub struct Request {
    pub route: Box<str>,
    pub client: Address,
    pub method: http::Method,
    pub host: Option<Box<str>>,
    pub path: Box<str>,
    pub upstream: Option<Box<str>>,
    pub trace: Trace,
    pub leaves: Leaves,
}

/// What was answered to it.
#[derive(Debug, Clone, Copy)]
pub struct Answered {
    /// `None` when the client left before there was one.
    pub status: Option<u16>,
    /// Of the body.
    pub bytes: u64,
    /// All of it was there to be sent.
    pub whole: bool,
    pub duration: Duration,
}

impl Request {
    /// Whether anything can come of it: else it need not be made.
    pub fn is_wanted(leaves: Leaves) -> bool {
        leaves.access.requests && tracing::enabled!(tracing::Level::INFO)
    }

    /// The record, when the answer is over. What failed is never sampled away.
    pub fn answered(&self, answer: Answered) {
        let failed = answer.status.is_some_and(|status| status >= 400) || !answer.whole;
        if !(self.leaves.access.requests && (self.leaves.sampled || failed)) {
            return;
        }
        tracing::info!(
            status = answer.status,
            method = shortened(self.method.as_str()),
            host = self.host.as_deref().map(anonymous).map(shortened),
            path = path(&self.path),
            route = &*self.route,
            client = %self.client,
            upstream = self.upstream.as_deref(),
            bytes = answer.bytes,
            broke_off = (!answer.whole).then_some(true),
            duration_ms = millis(answer.duration),
            request = %self.trace.request,
            trace = self.trace.id().map(tracing::field::display),
            "request"
        );
    }
}

/// Waits for the answer to a request. A client that leaves meanwhile ends the wait, by a drop: that is in its record.
pub async fn unless_left<T>(record: Option<Request>, answer: impl Future<Output = T>) -> (T, Option<Request>) {
    let mut left = Left { record, begun: Instant::now() };
    let answer = answer.await;
    (answer, left.record.take())
}

struct Left {
    record: Option<Request>,
    begun: Instant,
}

impl Drop for Left {
    fn drop(&mut self) {
        if let Some(record) = &self.record {
            record.answered(Answered { status: None, bytes: 0, whole: false, duration: self.begun.elapsed() });
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A host or an origin without the name and password that may stand before it (RFC 3986 section 3.2.1).
fn anonymous(host: &str) -> &str {
    host.rsplit('@').next().unwrap_or_default()
}

/// Without path parameters: Java services keep session ids in them, `/shop;jsessionid=…`.
fn path(path: &str) -> String {
    if !path.contains(';') {
        return shortened(path);
    }
    let segments = path.split('/').map(|segment| match segment.split_once(';') {
        Some((name, _)) => format!("{name};…"),
        None => segment.to_owned(),
    });
    shortened(&segments.collect::<Vec<_>>().join("/"))
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
