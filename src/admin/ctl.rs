//! What `tidegate ctl` asks, and how the answers look to people: tables, and numbers in the units that they read.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::client::{CallError, Client};
use crate::config::model::ListenerAddress;
use crate::config::show;

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

/// Asks, and returns the answer as JSON.
///
/// # Errors
/// When the gateway cannot be reached, or says no.
pub async fn ask(client: &Client, command: &Command) -> Result<Value, CallError> {
    match command {
        Command::Sessions(filters, limit) => sessions(client, filters, limit.unwrap_or(usize::MAX)).await,
        Command::Session(id) => client.call(Method::GET, &format!("/sessions/{id}"), None).await,
        Command::Close { id: Some(id), cause, .. } => {
            let query = one("cause", cause.clone()).query(&[]);
            client.call(Method::DELETE, &format!("/sessions/{id}{query}"), None).await
        }
        Command::Close { id: None, filters, all, cause, dry_run } => {
            let flag = |name, set: bool| set.then(|| (name, "true".to_owned()));
            let more: Vec<_> = [flag("all", *all), flag("dry_run", *dry_run)].into_iter().flatten().collect();
            let mut filters = filters.clone();
            filters.set("cause", cause.clone());
            client.call(Method::DELETE, &format!("/sessions{}", filters.query(&more)), None).await
        }
        Command::Drain(what) => client.call(Method::POST, "/drain", Some(what)).await,
        Command::Reload => client.call(Method::POST, "/reload", None).await,
        Command::Status => client.call(Method::GET, "/status", None).await,
        Command::Upstreams => client.call(Method::GET, "/upstreams", None).await,
        Command::SetServer(name, number, state) => {
            let target = format!("/upstreams/{}/servers/{number}", encoded(name));
            client.call(Method::PUT, &target, Some(&json!({ "state": state }))).await
        }
    }
}

fn one(name: &'static str, value: Option<String>) -> Filters {
    let mut filters = Filters::default();
    filters.set(name, value);
    filters
}

/// Page by page, as one list.
async fn sessions(client: &Client, filters: &Filters, limit: usize) -> Result<Value, CallError> {
    let mut all = Vec::new();
    let mut after = 0;
    loop {
        let page = PAGE.min(limit - all.len());
        let more = [("limit", page.to_string()), ("after", after.to_string())];
        let mut answer = client.call(Method::GET, &format!("/sessions{}", filters.query(&more)), None).await?;
        if let Some(Value::Array(list)) = answer.get_mut("sessions").map(Value::take) {
            all.extend(list);
        }
        match answer["next"].as_u64() {
            Some(next) if all.len() < limit => after = next,
            _ => return Ok(json!({ "total": answer["total"], "sessions": all })),
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

/// An answer for people.
pub fn show(command: &Command, answer: &Value) -> String {
    match command {
        Command::Sessions(..) => session_list(answer),
        Command::Session(_) => session_list(&json!({ "total": 1, "sessions": [answer] })),
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

fn session_list(answer: &Value) -> String {
    let list = answer["sessions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows = list.iter().map(|session| {
        let sent = |side: &str| format!("{} / {}", number(&session[side]["messages"]), bytes(&session[side]["bytes"]));
        vec![
            number(&session["id"]).to_string(),
            text(&session["route"]),
            text(&session["client"]),
            text(&session["server"]),
            show_age(session["age_seconds"].as_f64().unwrap_or(0.0)),
            sent("from_client"),
            sent("from_upstream"),
            format!("{:.1}", session["messages_per_second"].as_f64().unwrap_or(0.0)),
            session["ending"].as_str().unwrap_or_default().to_owned(),
        ]
    });
    let head = ["ID", "ROUTE", "CLIENT", "SERVER", "AGE", "FROM CLIENT", "FROM UPSTREAM", "MESSAGES/S", "ENDING"];
    let total = number(&answer["total"]);
    let mut out = if list.is_empty() { String::new() } else { show::table(&head, rows) + "\n" };
    let of_all = if (list.len() as u64) < total { format!("{} of ", list.len()) } else { String::new() };
    let _ = writeln!(out, "{of_all}{}", counted(total, "session", "").trim_end());
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
            ]
        })
    });
    show::table(&["UPSTREAM", "N", "SERVER", "ADDRESS", "STATE", "SINCE", "SESSIONS", "REQUESTS"], rows)
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
    let _ = writeln!(out, "{} held for slow peers", bytes(&answer["held_bytes"]));
    let loaded = show_age(answer["config"]["loaded_seconds_ago"].as_f64().unwrap_or(0.0));
    let _ = writeln!(out, "configuration loaded {loaded} ago from {}", text(&answer["config"]["file"]));
    if let Some(error) = answer["config"]["last_reload_error"].as_str() {
        let _ = writeln!(out, "the last reload failed, and the configuration from before it runs:\n{error}");
    }
    for certificate in answer["certificates"].as_array().into_iter().flatten() {
        let left = certificate["expires_in_seconds"].as_f64().unwrap_or(0.0);
        let when = if left > 0.0 { format!("expires in {}", show_age(left)) } else { "has expired".to_owned() };
        let _ = writeln!(out, "certificate {} {when}", text(&certificate["file"]));
    }
    out
}

fn reload(answer: &Value) -> String {
    let changes: Vec<&str> = answer["changes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match changes.is_empty() {
        true => "reloaded: nothing has changed\n".to_owned(),
        false => format!("reloaded:\n  {}\n", changes.join("\n  ")),
    }
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
fn bytes(value: &Value) -> String {
    let (mut left, mut units) = (number(value) as f64, ["B", "KiB", "MiB", "GiB", "TiB"].into_iter());
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
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 40, "1.0 TiB"), (1 << 52, "4096.0 TiB")]
        {
            assert_eq!(bytes(&json!(count)), expected);
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
        let answer = json!({ "total": 5, "sessions": [session] });
        assert_eq!(
            show(&Command::Sessions(Filters::default(), None), &answer),
            "ID  ROUTE  CLIENT     SERVER  AGE    FROM CLIENT  FROM UPSTREAM  MESSAGES/S  ENDING\n\
             7   chat   192.0.2.1  ws://a  1m 1s  2 / 2.0 KiB  0 / 0 B        0.2\n\n1 of 5 sessions\n"
        );
        let none = json!({ "total": 0, "sessions": [] });
        assert_eq!(show(&Command::Sessions(Filters::default(), None), &none), "0 sessions\n");
    }
}
