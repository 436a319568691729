//! What `tidegate ctl` asks, and how the answers look to people: tables, and numbers in the units that they read.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http::Method;
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use super::client::{CallError, Client};
use crate::config::model::ListenerAddress;
use crate::config::show;
use crate::relay::end::Traffic;

/// Sessions that are asked for at once.
const PAGE: usize = 1000;

/// Which sessions: each that is set must fit. The words are those of the query.
#[derive(Debug, Clone, Default)]
pub struct Filters(Vec<(&'static str, String)>);

impl Filters {
    pub fn set(&mut self, name: &'static str, value: Option<String>) {
        self.0.extend(value.map(|value| (name, value)));
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn query(&self, more: &[(&'static str, String)]) -> String {
        let pairs = self.0.iter().chain(more).map(|(name, value)| format!("{name}={}", encoded(value)));
        let pairs: Vec<String> = pairs.collect();
        if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
    }
}

/// What is asked.
#[derive(Debug)]
pub enum Command {
    /// At most so many sessions.
    Sessions(Filters, Option<usize>),
    Session(u64),
    Close {
        id: Option<u64>,
        filters: Filters,
        all: bool,
        cause: Option<String>,
        dry_run: bool,
    },
    Drain(Value),
    Reload,
    Status,
    Upstreams,
    /// Name, number, state.
    SetServer(String, u32, String),
}

/// What the gateway answered.
#[derive(Debug)]
pub enum Told {
    Sessions(Sessions),
    Other(Value),
}

/// Many: each stays as it came until it is printed.
#[derive(Debug, Default, Deserialize)]
pub struct Sessions {
    total: u64,
    sessions: Vec<Box<RawValue>>,
    #[serde(default)]
    next: Option<u64>,
}

/// What people see of a session; what a gateway of another version does not tell stays empty.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Shown<'a> {
    id: u64,
    #[serde(borrow)]
    route: Cow<'a, str>,
    #[serde(borrow)]
    client: Cow<'a, str>,
    #[serde(borrow)]
    server: Cow<'a, str>,
    age_seconds: f64,
    from_client: Traffic,
    from_upstream: Traffic,
    messages_per_second: f64,
    #[serde(borrow)]
    ending: Option<Cow<'a, str>>,
}

/// The address to connect to for one that is listened on: that of every interface is none.
pub fn reachable(address: &ListenerAddress) -> ListenerAddress {
    match address {
        ListenerAddress::Tcp(address) if address.ip().is_unspecified() => {
            let ip: IpAddr = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            ListenerAddress::Tcp(SocketAddr::new(ip, address.port()))
        }
        address => address.clone(),
    }
}

/// Asks.
///
/// # Errors
/// When the gateway cannot be reached, or says no.
pub async fn ask(client: &Client, command: &Command) -> Result<Told, CallError> {
    let (method, target, body) = match command {
        Command::Sessions(filters, limit) => {
            return sessions(client, filters, limit.unwrap_or(usize::MAX)).await.map(Told::Sessions);
        }
        Command::Session(id) => (Method::GET, format!("/sessions/{id}"), None),
        Command::Close { id: Some(id), cause, .. } => {
            (Method::DELETE, format!("/sessions/{id}{}", one("cause", cause.clone()).query(&[])), None)
        }
        Command::Close { id: None, filters, all, cause, dry_run } => {
            let flag = |name, set: bool| set.then(|| (name, "true".to_owned()));
            let more: Vec<_> = [flag("all", *all), flag("dry_run", *dry_run)].into_iter().flatten().collect();
            let mut filters = filters.clone();
            filters.set("cause", cause.clone());
            (Method::DELETE, format!("/sessions{}", filters.query(&more)), None)
        }
        Command::Drain(what) => (Method::POST, "/drain".to_owned(), Some(what.clone())),
        Command::Reload => (Method::POST, "/reload".to_owned(), None),
        Command::Status => (Method::GET, "/status".to_owned(), None),
        Command::Upstreams => (Method::GET, "/upstreams".to_owned(), None),
        Command::SetServer(name, number, state) => {
            let target = format!("/upstreams/{}/servers/{number}", encoded(name));
            (Method::PUT, target, Some(json!({ "state": state })))
        }
    };
    client.call(method, &target, body.as_ref()).await.map(Told::Other)
}

fn one(name: &'static str, value: Option<String>) -> Filters {
    let mut filters = Filters::default();
    filters.set(name, value);
    filters
}

/// Page by page, as one list.
async fn sessions(client: &Client, filters: &Filters, limit: usize) -> Result<Sessions, CallError> {
    let mut all = Sessions::default();
    let mut after = 0;
    loop {
        let page = PAGE.min(limit - all.sessions.len());
        let more = [("limit", page.to_string()), ("after", after.to_string())];
        let page: Sessions = client.call(Method::GET, &format!("/sessions{}", filters.query(&more)), None).await?;
        all.total = page.total;
        all.sessions.extend(page.sessions);
        match page.next {
            Some(next) if all.sessions.len() < limit => after = next,
            _ => return Ok(all),
        }
    }
}

/// RFC 3986 section 2.3: what is unreserved stays.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => _ = write!(out, "%{byte:02X}"),
        }
    }
    out
}

impl Told {
    /// For programs. A long list has a line for each session.
    pub fn json(&self) -> String {
        match self {
            Told::Sessions(list) => {
                let lines: Vec<&str> = list.sessions.iter().map(|session| session.get()).collect();
                format!("{{\"total\": {}, \"sessions\": [\n{}\n]}}\n", list.total, lines.join(",\n"))
            }
            Told::Other(answer) => format!("{answer:#}\n"),
        }
    }

    /// For people.
    pub fn text(&self, command: &Command) -> String {
        match self {
            Told::Sessions(list) => session_list(list),
            Told::Other(answer) => show(command, answer),
        }
    }
}

fn show(command: &Command, answer: &Value) -> String {
    match command {
        Command::Sessions(..) | Command::Session(_) => session_list(&Sessions::one(answer)),
        Command::Close { dry_run, .. } => {
            let verb = if *dry_run { "would be" } else { "are" };
            format!("{} closed\n", counted(number(&answer["selected"]), "session", verb))
        }
        Command::Drain(_) => {
            let seconds = show_age(answer["window_seconds"].as_f64().unwrap_or(0.0));
            format!("{} closed over {seconds}\n", counted(number(&answer["sessions"]), "session", "are"))
        }
        Command::Reload => reload(answer),
        Command::Status => status(answer),
        Command::Upstreams => upstreams(answer),
        Command::SetServer(..) => format!("{} is now {}\n", text(&answer["server"]), text(&answer["state"])),
    }
}

impl Sessions {
    fn one(session: &Value) -> Sessions {
        Sessions { total: 1, sessions: to_raw_value(session).into_iter().collect(), next: None }
    }
}

fn session_list(list: &Sessions) -> String {
    let rows = list.sessions.iter().map(|session| {
        let session: Shown<'_> = serde_json::from_str(session.get()).unwrap_or_default();
        let sent = |sent: Traffic| format!("{} / {}", sent.messages, bytes(sent.bytes));
        vec![
            session.id.to_string(),
            session.route.into_owned(),
            session.client.into_owned(),
            session.server.into_owned(),
            show_age(session.age_seconds),
            sent(session.from_client),
            sent(session.from_upstream),
            format!("{:.1}", session.messages_per_second),
            session.ending.unwrap_or_default().into_owned(),
        ]
    });
    let head = ["ID", "ROUTE", "CLIENT", "SERVER", "AGE", "FROM CLIENT", "FROM UPSTREAM", "MESSAGES/S", "ENDING"];
    let count = list.sessions.len();
    let mut out = if count == 0 { String::new() } else { show::table(&head, rows) + "\n" };
    let of_all = if (count as u64) < list.total { format!("{count} of ") } else { String::new() };
    let _ = writeln!(out, "{of_all}{}", counted(list.total, "session", "").trim_end());
    out
}

fn upstreams(answer: &Value) -> String {
    let list = answer["upstreams"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows = list.iter().flat_map(|upstream| {
        let servers = upstream["servers"].as_array().map(Vec::as_slice).unwrap_or_default();
        servers.iter().map(|server| {
            vec![
                text(&upstream["name"]),
                server["number"].as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string()),
                text(&server["server"]),
                server["address"].as_str().unwrap_or("-").to_owned(),
                text(&server["condition"]),
                show_age(server["since_seconds"].as_f64().unwrap_or(0.0)),
                number(&server["sessions"]).to_string(),
                number(&server["requests"]).to_string(),
                server["failure"].as_str().unwrap_or_default().to_owned(),
            ]
        })
    });
    show::table(&["UPSTREAM", "N", "SERVER", "ADDRESS", "STATE", "SINCE", "SESSIONS", "REQUESTS", "WHY"], rows)
}

fn status(answer: &Value) -> String {
    let mut out = String::new();
    let ready = if answer["ready"] == true { "ready" } else { "not ready: draining" };
    let up = show_age(answer["uptime_seconds"].as_f64().unwrap_or(0.0));
    let _ = writeln!(out, "tidegate {}, up for {up}, {ready}", text(&answer["version"]));
    let _ = writeln!(
        out,
        "{}, {}",
        counted(number(&answer["sessions"]), "session", "").trim_end(),
        counted(number(&answer["connections"]), "connection", "").trim_end(),
    );
    let _ = writeln!(out, "{} held for slow peers", bytes(number(&answer["held_bytes"])));
    let loaded = show_age(answer["config"]["loaded_seconds_ago"].as_f64().unwrap_or(0.0));
    let _ = writeln!(out, "configuration loaded {loaded} ago from {}", text(&answer["config"]["file"]));
    if let Some(error) = answer["config"]["last_reload_error"].as_str() {
        let _ = writeln!(out, "the last reload failed, and the configuration from before it runs:\n{error}");
    }
    for certificate in answer["certificates"].as_array().into_iter().flatten() {
        let left = certificate["expires_in_seconds"].as_f64().unwrap_or(0.0);
        let when = if left > 0.0 { format!("expires in {}", show_age(left)) } else { "has expired".to_owned() };
        let _ = writeln!(out, "certificate {} of {} {when}", text(&certificate["file"]), text(&certificate["at"]));
    }
    out
}

fn reload(answer: &Value) -> String {
    let lines = |name: &str| -> Vec<String> {
        answer[name].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut changes = lines("changes");
    match number(&answer["certificates"]) {
        0 => {}
        count => changes.push(format!("~ {}", counted(count, "certificate", "").trim_end())),
    }
    let warnings = lines("warnings").into_iter().map(|warning| format!("warning: {warning}\n"));
    let told = match changes.is_empty() {
        true => "reloaded: nothing has changed\n".to_owned(),
        false => format!("reloaded:\n{}\n", changes.join("\n")),
    };
    warnings.chain([told]).collect()
}

fn counted(count: u64, thing: &str, verb: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    let verb = if count == 1 && verb == "are" { "is" } else { verb };
    format!("{count} {thing}{plural} {verb}")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// `1.5 MiB`
fn bytes(count: u64) -> String {
    let (mut left, mut units) = (count as f64, ["B", "KiB", "MiB", "GiB", "TiB"].into_iter());
    let mut unit = units.next().unwrap_or_default();
    while left >= 1024.0
        && let Some(next) = units.next()
    {
        (left, unit) = (left / 1024.0, next);
    }
    if unit == "B" { format!("{left} B") } else { format!("{left:.1} {unit}") }
}

/// The two largest units: `2d 3h`, `4m 5s`.
fn show_age(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default().as_secs();
    let parts = [(whole / 86_400, "d"), (whole / 3_600 % 24, "h"), (whole / 60 % 60, "m"), (whole % 60, "s")];
    let first = parts.iter().position(|(count, _)| *count > 0).unwrap_or(3);
    let shown = parts[first..].iter().take(2).filter(|(count, unit)| *count > 0 || *unit == "s" && first == 3);
    shown.map(|(count, unit)| format!("{count}{unit}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_that_people_read() {
        for (seconds, expected) in [
            (0.0, "0s"),
            (0.9, "0s"),
            (61.0, "1m 1s"),
            (60.0, "1m"),
            (3_600.0, "1h"),
            (90_061.0, "1d 1h"),
            (f64::NAN, "0s"),
        ] {
            assert_eq!(show_age(seconds), expected, "{seconds}");
        }
        for (count, expected) in
            [(0_u64, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 40, "1.0 TiB"), (1 << 52, "4096.0 TiB")]
        {
            assert_eq!(bytes(count), expected);
        }
        assert_eq!(encoded("a b/ü"), "a%20b%2F%C3%BC");
    }

    #[test]
    fn lists_are_tables() {
        let session = json!({
            "id": 7, "route": "chat", "client": "192.0.2.1", "server": "ws://a", "age_seconds": 61.5,
            "from_client": { "messages": 2, "bytes": 2048 }, "from_upstream": { "messages": 0, "bytes": 0 },
            "messages_per_second": 0.25,
        });
        let list = Sessions { total: 5, ..Sessions::one(&session) };
        assert_eq!(
            session_list(&list),
            "ID  ROUTE  CLIENT     SERVER  AGE    FROM CLIENT  FROM UPSTREAM  MESSAGES/S  ENDING\n\
             7   chat   192.0.2.1  ws://a  1m 1s  2 / 2.0 KiB  0 / 0 B        0.2\n\n1 of 5 sessions\n"
        );
        assert_eq!(session_list(&Sessions::default()), "0 sessions\n");
        let parsed: Value = serde_json::from_str(&Told::Sessions(list).json()).expect("JSON");
        assert_eq!(parsed, json!({ "total": 5, "sessions": [session] }));
    }
}
