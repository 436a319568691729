//! The configuration that holds, as JSON: what the file says, and every default beside it. Secrets stay out.
//!
//! What came from the environment is shown as the file writes it, `${NAME}`: it is there because it is secret, or because
//! it differs from machine to machine.

use serde_json::{Map, Value as Json};

use super::model::Position;
use super::problem::Source;
use super::schema::{Fallback, Holds, ROOT, Table};
use super::tree::{self, Entry, Node, Value};

/// What stands in the place of a secret.
pub(super) const HIDDEN: &str = "hidden";

/// Values that may be secrets, by the title of their table and their key: tokens, header fields that a service is told,
/// and conditions, which some use as passwords.
const SECRETS: &[(&str, &str)] =
    &[("[admin]", "token"), ("[[route]]", "headers"), ("[[route]]", "query"), ("[route.request_headers]", "set")];

/// The whole configuration of a file that is right.
pub fn effective(source: &Source) -> Json {
    let as_written = |name: &str| Some(format!("${{{name}}}"));
    let tree = tree::parse(source, &as_written);
    table(&ROOT, tree.root)
}

/// Whether a value may be a secret.
pub(super) fn is_secret(schema: &Table, key: &str) -> bool {
    SECRETS.contains(&(schema.title, key))
}

/// The keys in the order of the reference.
fn table(schema: &'static Table, mut entries: Vec<Entry>) -> Json {
    let mut out = Map::new();
    for key in schema.keys {
        let written =
            entries.iter().position(|entry| entry.key == key.name).map(|index| entries.swap_remove(index).node);
        let default = match key.fallback {
            Fallback::Default(text) => Some(tree::constant(text, Position::default())),
            _ => None,
        };
        let Some(node) = written.or(default) else { continue };
        out.insert(
            key.name.to_owned(),
            if is_secret(schema, key.name) { hidden(node) } else { held(&key.holds, node) },
        );
    }
    Json::Object(out)
}

fn held(holds: &Holds, node: Node) -> Json {
    match (holds, node.value) {
        (Holds::Table(schema), Value::Table(entries)) => table(schema, entries),
        (Holds::Named(schema), Value::Table(entries)) => {
            entries.into_iter().map(|entry| (entry.key, held(&Holds::Table(schema), entry.node))).collect()
        }
        (Holds::Tables(schema) | Holds::ValuesOrTables(schema), Value::List(list)) => {
            list.into_iter().map(|node| held(&Holds::Table(schema), node)).collect()
        }
        (_, value) => plain(value),
    }
}

fn plain(value: Value) -> Json {
    match value {
        Value::Text(text) => text.into(),
        Value::Integer(number) => i64::try_from(number).map_or_else(|_| number.to_string().into(), Json::from),
        Value::Bool(value) => value.into(),
        Value::List(list) => list.into_iter().map(|node| plain(node.value)).collect(),
        Value::Table(entries) => entries.into_iter().map(|entry| (entry.key, plain(entry.node.value))).collect(),
        Value::Other(_) | Value::Broken => Json::Null,
    }
}

/// The names stay, so that it can be seen what is set.
fn hidden(node: Node) -> Json {
    match node.value {
        Value::Table(entries) => entries.into_iter().map(|entry| (entry.key, hidden(entry.node))).collect(),
        Value::Text(text) if text.starts_with("${") => text.into(),
        _ => HIDDEN.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_there_and_secrets_are_not() {
        let text = "[[listener]]\naddress = \"127.0.0.1:${PORT}\"\n\
                    [[route]]\nupstream = \"a\"\nheaders = { X-Pass = \"geheim\" }\n\
                    request_headers = { set = { Authorization = \"geheim\" } }\n\
                    [upstream.a]\nservers = [\"ws://a\", { url = \"ws://b\", weight = 2 }]\n\
                    [admin]\naddress = \"127.0.0.1:9090\"\ntoken = \"geheimgeheimgeheim\"\n";
        let json = effective(&Source::new("config.toml", text));
        assert!(!json.to_string().contains("geheim"), "{json}");
        assert_eq!(json["listener"][0]["address"], "127.0.0.1:${PORT}");
        assert_eq!(json["listener"][0]["head_timeout"], "10s");
        assert_eq!(json["route"][0]["heartbeat"]["interval"], "25s");
        assert_eq!(json["route"][0]["request_headers"]["set"]["Authorization"], HIDDEN);
        assert_eq!(
            json["upstream"]["a"]["servers"],
            serde_json::json!(["ws://a", { "url": "ws://b", "weight": 2, "backup": false }])
        );
        assert_eq!(json["admin"]["token"], HIDDEN);
        assert_eq!(json["limits"]["sessions"], 100_000);
        assert_eq!(json["admin"]["socket_mode"], "0600");
    }

    #[test]
    fn what_is_hidden_exists() {
        fn has(table: &'static Table, title: &str, name: &str) -> bool {
            let below = |key: &super::super::schema::Key| match key.holds {
                Holds::Table(table) | Holds::Tables(table) | Holds::Named(table) | Holds::ValuesOrTables(table) => {
                    has(table, title, name)
                }
                Holds::Value => false,
            };
            (table.title == title && table.key(name).is_some()) || table.keys.iter().any(below)
        }
        for (title, name) in SECRETS {
            assert!(has(&ROOT, title, name), "{title} {name}");
        }
    }
}
