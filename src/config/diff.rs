//! What one configuration changes of another: what a reload would do, key by key.
//!
//! In: two that are right. Compared is what the files say, defaults put in: a value written another way counts as another.
//! Listeners are known by their address, routes and upstreams by their name. The order of routes counts where it decides
//! which one serves. No file that they name is opened.

use std::fmt::{self, Write};

use serde_json::{Value as Json, json};

use super::Loaded;
use super::effective::{HIDDEN, is_secret};
use super::model::{Config, Fate, Route, Server, Upstream};
use super::schema::{Fallback, Holds, Key, ROOT, Table};
use super::tree::{self, Entry, Node, Value};

/// Tables that are read once, at the start.
const AT_THE_START: [&str; 4] = ["runtime", "backend", "log", "admin"];
/// Tables whose entries are known by an address or a name.
const SECTIONS: [&str; 3] = ["listener", "route", "upstream"];
/// Keys of a route that its open sessions follow. The others are read when a session is opened.
const FOLLOWED: [&str; 21] = [
    "heartbeat",
    "idle_timeout",
    "max_age",
    "frame_timeout",
    "slow_timeout",
    "close_timeout",
    "frame_bytes_max",
    "message_bytes_max",
    "fragments_max",
    "ping",
    "strict",
    "limits.messages_per_session",
    "limits.messages_per_client",
    "limits.messages",
    "limits.bytes_per_session",
    "limits.bytes_per_client",
    "limits.bytes",
    "limits.control_per_session",
    "limits.on_excess",
    "heartbeat.interval",
    "heartbeat.timeout",
];

/// What is another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    pub listeners: Changes,
    pub routes: Changes,
    pub upstreams: Changes,
    /// The other tables.
    pub settings: Vec<Change>,
    /// Upstreams that lose servers whose sessions do not stay.
    pub ended: Vec<(String, Fate)>,
}

/// What is another of the listeners, the routes or the upstreams, by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    pub added: Vec<String>,
    pub removed: Vec<String>,
    pub changed: Vec<(String, Vec<Change>)>,
}

/// A value that is another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its path, within its listener, route or upstream where it stands in one.
    pub key: String,
    /// As the file writes it; `None`: nothing, which has no default.
    pub old: Option<String>,
    pub new: Option<String>,
}

impl Diff {
    pub fn between(old: &Loaded, new: &Loaded) -> Diff {
        let mut settings = Vec::new();
        for key in ROOT.keys.iter().filter(|key| !SECTIONS.contains(&key.name)) {
            compare_key(&ROOT, key, "", &old.tree, &new.tree, &mut settings);
        }
        Diff {
            listeners: Changes::between("listener", &listeners(old), &listeners(new)),
            routes: Changes::between("route", &routes(old), &routes(new)).with(reordered(old, new)),
            upstreams: Changes::between("upstream", &upstreams(old), &upstreams(new)),
            settings,
            ended: ended(&old.config, &new.config),
        }
    }

    pub fn is_empty(&self) -> bool {
        *self == Diff::default()
    }

    /// What becomes of the sessions of servers that this upstream loses.
    fn fate(&self, upstream: &str) -> Fate {
        self.ended.iter().find(|(name, _)| name == upstream).map_or(Fate::Keep, |(_, fate)| *fate)
    }
}

/// For people: what a reload would do, a line for each. `restart` is what [`Loaded::keep_from`] kept.
pub fn describe(diff: &Diff, restart: &[Change]) -> String {
    let mut out = String::new();
    let closed = |_: &str| "it is closed; its sessions stay";
    describe_section(&mut out, "listener", &diff.listeners, closed, |_| "");
    let ended = |_: &str| "its sessions are closed with 1012";
    describe_section(&mut out, "route", &diff.routes, ended, |_| ": its sessions stay");
    let gone = |name: &str| match diff.fate(name) {
        Fate::Keep => "its sessions stay with their servers",
        Fate::Drain => "its sessions are closed over drain.window",
        Fate::Close => "its sessions are closed at once",
    };
    let stays = |name: &str| match diff.fate(name) {
        Fate::Keep => ": its sessions stay",
        Fate::Drain => ": sessions of servers that are gone are closed over drain.window, the others stay",
        Fate::Close => ": sessions of servers that are gone are closed at once, the others stay",
    };
    describe_section(&mut out, "upstream", &diff.upstreams, gone, stays);
    for change in &diff.settings {
        let _ = writeln!(out, "~ {change}");
    }
    for change in restart {
        let _ = writeln!(out, "~ {change} (needs a restart)");
    }
    if out.is_empty() { "nothing would change\n".to_owned() } else { out }
}

/// `removed` and `stays` say what becomes of the sessions of the one with that name.
fn describe_section(
    out: &mut String,
    section: &str,
    changes: &Changes,
    removed: impl Fn(&str) -> &'static str,
    stays: impl Fn(&str) -> &'static str,
) {
    for name in &changes.added {
        let _ = writeln!(out, "+ {section} {name}");
    }
    for name in &changes.removed {
        let _ = writeln!(out, "- {section} {name}: {}", removed(name));
    }
    for (name, list) in &changes.changed {
        let _ = writeln!(out, "~ {section} {name}{}", stays(name));
        for change in list {
            let whom = match section {
                "route" if change.is_followed() => " (open sessions too)",
                "route" => " (new sessions)",
                _ => "",
            };
            let _ = writeln!(out, "    {change}{whom}");
        }
    }
}

/// For programs: the same as JSON.
pub fn json(diff: &Diff, restart: &[Change]) -> Json {
    let change = |change: &Change| json!({ "key": change.key, "old": change.old, "new": change.new });
    let list = |list: &[Change]| list.iter().map(change).collect::<Vec<_>>();
    let changes = |changes: &Changes| {
        let changed = changes.changed.iter().map(|(name, changes)| json!({ "name": name, "changes": list(changes) }));
        json!({ "added": changes.added, "removed": changes.removed, "changed": changed.collect::<Vec<_>>() })
    };
    json!({
        "listeners": changes(&diff.listeners),
        "routes": changes(&diff.routes),
        "upstreams": changes(&diff.upstreams),
        "settings": list(&diff.settings),
        "ended": diff.ended.iter().map(|(name, fate)| json!({ "upstream": name, "how": fate.label() })).collect::<Vec<_>>(),
        "restart": list(restart),
    })
}

impl Loaded {
    /// Keeps what the configuration in service can change only by a restart, and tells what that is.
    pub fn keep_from(&mut self, old: &Loaded) -> Vec<Change> {
        let mut kept = Vec::new();
        for name in AT_THE_START {
            let key = ROOT.key(name).expect("a table of the file");
            compare_key(&ROOT, key, "", &old.tree, &self.tree, &mut kept);
            self.tree.retain(|entry| entry.key != name);
            self.tree.extend(old.tree.iter().find(|entry| entry.key == name).cloned());
        }
        self.config.runtime = old.config.runtime.clone();
        self.config.backends = old.config.backends.clone();
        self.config.log = old.config.log.clone();
        self.config.admin = old.config.admin.clone();
        for name in AT_THE_START {
            // One that is not there is null for both.
            self.config.shown[name] = old.config.shown[name].clone();
        }
        kept
    }
}

impl Changes {
    fn between(section: &str, old: &[Named<'_>], new: &[Named<'_>]) -> Changes {
        let key = ROOT.key(section).expect("a table of the file");
        let (Holds::Tables(table) | Holds::Named(table)) = key.holds else { panic!("{section} holds tables") };
        let mut changes = Changes::default();
        for (name, entries) in new {
            match old.iter().find(|(known, _)| known == name) {
                None => changes.added.push(name.clone()),
                Some((_, before)) => {
                    let mut list = Vec::new();
                    compare(table, "", before, entries, &mut list);
                    if !list.is_empty() {
                        changes.changed.push((name.clone(), list));
                    }
                }
            }
        }
        let is_gone = |(name, _): &&Named<'_>| !new.iter().any(|(known, _)| known == name);
        changes.removed = old.iter().filter(is_gone).map(|(name, _)| name.clone()).collect();
        changes
    }

    /// With further changes of entries that stay.
    fn with(mut self, more: impl Iterator<Item = (String, Change)>) -> Changes {
        for (name, change) in more {
            match self.changed.iter_mut().find(|(known, _)| *known == name) {
                Some((_, list)) => list.push(change),
                None => self.changed.push((name, vec![change])),
            }
        }
        self
    }

    /// Whether anything of this one is another.
    pub fn touches(&self, name: &str) -> bool {
        let changed = self.changed.iter().map(|(changed, _)| changed);
        changed.chain(&self.added).chain(&self.removed).any(|touched| touched == name)
    }
}

/// `+1 -0 ~2`: added, removed, changed.
impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{} -{} ~{}", self.added.len(), self.removed.len(), self.changed.len())
    }
}

impl Change {
    /// Whether the open sessions of a route follow this change of it.
    pub fn is_followed(&self) -> bool {
        FOLLOWED.contains(&self.key.as_str())
    }
}

/// `heartbeat.interval: "25s" -> "10s"`
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
        write!(f, "{}: {} -> {}", self.key, shown(&self.old), shown(&self.new))
    }
}

/// Routes that come now before others which they came behind, where the order of the file decides between them.
fn reordered(old: &Loaded, new: &Loaded) -> impl Iterator<Item = (String, Change)> {
    let place = |route: &Route| old.config.routes.iter().position(|known| known.name == route.name);
    let routes = &new.config.routes;
    let pairs = routes.iter().enumerate().flat_map(move |(index, first)| {
        routes[index + 1..]
            .iter()
            .map(move |second| (first, second))
            .filter(|(first, second)| are_equals(first, second))
    });
    pairs.filter_map(move |(first, second)| {
        let change = |second: &Route| Change {
            key: "order".to_owned(),
            old: Some(format!("behind {}", second.name)),
            new: Some(format!("before {}", second.name)),
        };
        (place(first)? > place(second)?).then(|| (first.name.clone(), change(second)))
    })
}

/// Whether two routes may match the same request, and neither is the more specific one.
fn are_equals(one: &Route, other: &Route) -> bool {
    let place = |route: &Route| (route.host.clone(), route.path.clone(), route.path_exact, route.conditions.count());
    place(one) == place(other) && !one.conditions.exclude(&other.conditions)
}

/// Upstreams that lose servers whose sessions end.
fn ended(old: &Config, new: &Config) -> Vec<(String, Fate)> {
    let fate = |name: &String, upstream: &Upstream| match new.upstreams.get(name) {
        None => upstream.on_removed,
        Some(now) => {
            let stays = |server: &Server| now.servers.iter().any(|known| known.text == server.text);
            if upstream.servers.iter().all(stays) { Fate::Keep } else { now.on_removed }
        }
    };
    let all = old.upstreams.iter().map(|(name, upstream)| (name.clone(), fate(name, upstream)));
    all.filter(|(_, fate)| *fate != Fate::Keep).collect()
}

/// The entries of a listener, a route or an upstream, with its name.
type Named<'a> = (String, &'a [Entry]);

/// Several may be at the same address: port 0 is another port each time.
fn listeners(loaded: &Loaded) -> Vec<Named<'_>> {
    let mut named: Vec<Named<'_>> = Vec::new();
    for (listener, entries) in loaded.config.listeners.iter().zip(tables(loaded, "listener")) {
        let address = listener.address.to_string();
        let others = (2..).map(|count| format!("{address}#{count}"));
        let free =
            std::iter::once(address.clone()).chain(others).find(|name| named.iter().all(|(taken, _)| taken != name));
        named.push((free.unwrap_or(address), entries));
    }
    named
}

fn routes(loaded: &Loaded) -> Vec<Named<'_>> {
    let names = loaded.config.routes.iter().map(|route| route.name.clone());
    names.zip(tables(loaded, "route")).collect()
}

fn upstreams(loaded: &Loaded) -> Vec<Named<'_>> {
    match loaded.tree.iter().find(|entry| entry.key == "upstream").map(|entry| &entry.node.value) {
        Some(Value::Table(entries)) => entries.iter().map(|entry| (entry.key.clone(), table(&entry.node))).collect(),
        _ => Vec::new(),
    }
}

/// The tables of a list, in the order of the file, which is that of the configuration.
fn tables<'a>(loaded: &'a Loaded, name: &str) -> impl Iterator<Item = &'a [Entry]> {
    let list = match loaded.tree.iter().find(|entry| entry.key == name).map(|entry| &entry.node.value) {
        Some(Value::List(list)) => list.as_slice(),
        _ => &[],
    };
    list.iter().map(table)
}

fn table(node: &Node) -> &[Entry] {
    match &node.value {
        Value::Table(entries) => entries,
        _ => &[],
    }
}

fn compare(table: &'static Table, path: &str, old: &[Entry], new: &[Entry], changes: &mut Vec<Change>) {
    for key in table.keys {
        compare_key(table, key, path, old, new, changes);
    }
}

fn compare_key(within: &Table, key: &'static Key, path: &str, old: &[Entry], new: &[Entry], changes: &mut Vec<Change>) {
    let path = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
    let (old, new) = (effective(key, old), effective(key, new));
    let values = (old.as_ref().map(|node| &node.value), new.as_ref().map(|node| &node.value));
    match (&key.holds, values) {
        (Holds::Table(table), (Some(Value::Table(old)), Some(Value::Table(new)))) => {
            compare(table, &path, old, new, changes);
        }
        (Holds::Tables(below), (Some(Value::List(old)), Some(Value::List(new)))) if old.len() == new.len() => {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                compare(below, &format!("{path}[{}]", index + 1), table(old), table(new), changes);
            }
        }
        (_, (None, None)) => {}
        (_, (Some(old), Some(new))) if same(old, new) => {}
        _ => {
            let shown = |node: &Option<Node>| match is_secret(within, key.name) {
                true => node.as_ref().map(|_| HIDDEN.to_owned()),
                false => node.as_ref().map(show),
            };
            changes.push(Change { key: path, old: shown(&old), new: shown(&new) });
        }
    }
}

/// What is written, or else the default.
fn effective(key: &'static Key, entries: &[Entry]) -> Option<Node> {
    match (entries.iter().find(|entry| entry.key == key.name), &key.fallback) {
        (Some(entry), _) => Some(entry.node.clone()),
        (None, Fallback::Default(text)) => Some(tree::constant(text, Default::default())),
        _ => None,
    }
}

/// Whether two values are the same, wherever they stand.
fn same(old: &Value, new: &Value) -> bool {
    match (old, new) {
        (Value::Text(old), Value::Text(new)) => old == new,
        (Value::Integer(old), Value::Integer(new)) => old == new,
        (Value::Bool(old), Value::Bool(new)) => old == new,
        (Value::List(old), Value::List(new)) => {
            old.len() == new.len() && old.iter().zip(new).all(|(old, new)| same(&old.value, &new.value))
        }
        (Value::Table(old), Value::Table(new)) => {
            let is_in =
                |entry: &Entry| new.iter().any(|new| new.key == entry.key && same(&entry.node.value, &new.node.value));
            old.len() == new.len() && old.iter().all(is_in)
        }
        _ => false,
    }
}

/// As a file writes it. What came from the environment may be a secret.
fn show(node: &Node) -> String {
    let list = |shown: Vec<String>| shown.join(", ");
    match &node.value {
        _ if node.substituted => "(from the environment)".to_owned(),
        Value::Text(text) => format!("{text:?}"),
        Value::Integer(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::List(nodes) => format!("[{}]", list(nodes.iter().map(show).collect())),
        Value::Table(entries) => {
            let one = |entry: &Entry| format!("{} = {}", entry.key, show(&entry.node));
            format!("{{ {} }}", list(entries.iter().map(one).collect()))
        }
        Value::Other(kind) => (*kind).to_owned(),
        Value::Broken => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::schema::ROUTE;

    const BASE: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nservers = [\"ws://127.0.0.1:9000\"]\n";

    fn loaded(text: &str) -> Loaded {
        let environment = |name: &str| (name == "SECRET").then(|| "0123456789abcdef".to_owned());
        let text = format!("{BASE}{text}");
        super::super::parse_with(&text, Path::new("config.toml"), &environment, &|_| None).expect("it is right")
    }

    fn diff(old: &str, new: &str) -> String {
        let (old, mut new) = (loaded(old), loaded(new));
        let restart = new.keep_from(&old);
        describe(&Diff::between(&old, &new), &restart)
    }

    #[test]
    fn what_is_another_and_what_only_looks_so() {
        let route = "[[route]]\nname = \"app\"\nupstream = \"app\"\n";
        let other = "[[route]]\nname = \"other\"\npath = \"/other\"\nupstream = \"app\"\n";
        let same = "nothing would change\n";
        let header = |name: &str, field: &str| {
            format!("[[route]]\nname = \"{name}\"\nupstream = \"app\"\nheaders = {{ {field} = \"{name}\" }}\n")
        };
        let rows = [
            ("nothing", route.to_owned(), route.to_owned(), same),
            ("a default that is written", route.into(), format!("{route}ping = \"answer\"\nlimits = {{}}\n"), same),
            ("an order that decides nothing", format!("{route}{other}"), format!("{other}{route}"), same),
            (
                "an order that decides who serves",
                format!("{}{}", header("a", "A"), header("b", "B")),
                format!("{}{}", header("b", "B"), header("a", "A")),
                "~ route b: its sessions stay\n    order: behind a -> before a (new sessions)\n",
            ),
            (
                "an order of routes that exclude each other",
                format!("{}{}", header("a", "A"), header("b", "A")),
                format!("{}{}", header("b", "A"), header("a", "A")),
                same,
            ),
            (
                "a server that goes with its sessions",
                format!("{route}[upstream.two]\nservers = [\"ws://127.0.0.1:1\"]\n"),
                format!("{route}[upstream.two]\nservers = [\"ws://127.0.0.1:2\"]\non_removed = \"drain\"\n"),
                "~ upstream two: sessions of servers that are gone are closed over drain.window, the others stay\n\
                 \x20   servers: [\"ws://127.0.0.1:1\"] -> [\"ws://127.0.0.1:2\"]\n\
                 \x20   on_removed: \"keep\" -> \"drain\"\n",
            ),
            (
                "an upstream that goes with its sessions",
                format!("{route}[upstream.two]\nservers = [\"ws://127.0.0.1:1\"]\non_removed = \"close\"\n"),
                route.into(),
                "- upstream two: its sessions are closed at once\n",
            ),
            (
                "a route with a name that moves",
                route.into(),
                format!("{route}path = \"/b\"\n"),
                "~ route app: its sessions stay\n    path: \"/\" -> \"/b\" (new sessions)\n",
            ),
            (
                "one without a name that moves",
                "[[route]]\nupstream = \"app\"\npath = \"/a\"\n".into(),
                "[[route]]\nupstream = \"app\"\npath = \"/b\"\n".into(),
                "+ route /b\n- route /a: its sessions are closed with 1012\n",
            ),
            (
                "a rate",
                route.into(),
                format!("{route}limits = {{ messages_per_session = \"5/s\" }}\n"),
                "~ route app: its sessions stay\n    limits.messages_per_session: \"off\" -> \"5/s\" (open sessions too)\n",
            ),
            (
                "a secret",
                format!("{route}request_headers = {{ set = {{ X-Token = \"one\" }} }}\n"),
                format!("{route}request_headers = {{ set = {{ X-Token = \"two\" }} }}\n"),
                "~ route app: its sessions stay\n    request_headers.set: hidden -> hidden (new sessions)\n",
            ),
            (
                "a value of the environment",
                format!("{route}host_header = \"a\"\n"),
                format!("{route}host_header = \"${{SECRET}}\"\n"),
                "~ route app: its sessions stay\n    host_header: \"a\" -> (from the environment) (new sessions)\n",
            ),
            (
                "two that wait for a restart",
                route.into(),
                format!("{route}[runtime]\nworkers = 2\n[[backend]]\nkind = \"echo\"\nlisten = \"127.0.0.1:9001\"\n"),
                "~ runtime.workers: \"auto\" -> 2 (needs a restart)\n\
                 ~ backend: [] -> [{ kind = \"echo\", listen = \"127.0.0.1:9001\" }] (needs a restart)\n",
            ),
            (
                "a setting of the gateway",
                route.into(),
                format!("{route}[limits]\nsessions = 5\n"),
                "~ limits.sessions: 100000 -> 5\n",
            ),
        ];
        for (what, old, new, expected) in rows {
            assert_eq!(diff(&old, &new), expected, "{what}");
        }
    }

    #[test]
    fn what_open_sessions_follow_are_keys_of_a_route() {
        for path in FOLLOWED {
            let mut table = Some(&ROUTE);
            for name in path.split('.') {
                let key = table.and_then(|table| table.key(name)).unwrap_or_else(|| panic!("{path} is no key"));
                table = match key.holds {
                    Holds::Table(below) => Some(below),
                    _ => None,
                };
            }
        }
    }
}
