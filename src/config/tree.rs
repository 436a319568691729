//! TOML text becomes a tree of values that know their place, with the environment put in.
//!
//! In: a [`Source`]. Out: the tree and the problems of syntax. What the values mean is not decided here.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::model::Position;
use super::problem::{Problem, Source};

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub at: Position,
    /// The text came, at least in part, from the environment: it may stand for a number or a bool as well.
    pub substituted: bool,
    pub value: Value,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    Integer(i128),
    Bool(bool),
    /// A TOML type that no option has.
    Other(&'static str),
    List(Vec<Node>),
    /// In the order of the file.
    Table(Vec<Entry>),
    /// Its problem has been reported.
    Broken,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: String,
    pub at: Position,
    pub node: Node,
}

impl Node {
    /// What it is, in words: `a number`.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Text(_) => "a string",
            Value::Integer(_) => "a number",
            Value::Bool(_) => "true or false",
            Value::Other(kind) => kind,
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
            Value::Broken => "nothing",
        }
    }
}

/// What is left of a file after its syntax has been read.
pub(super) struct Tree {
    pub root: Vec<Entry>,
    pub problems: Vec<Problem>,
    /// Syntax was wrong, so what seems to be missing may only be unreadable.
    pub incomplete: bool,
    /// Lines from here on were read inside a bracket that never closes: what they seem to say is not what they say.
    pub trusted_before: usize,
}

/// `env` gives the value of an environment variable.
pub(super) fn parse(source: &Source, env: &dyn Fn(&str) -> Option<String>) -> Tree {
    let (root, errors) = DeTable::parse_recoverable(source.text());
    let (mut problems, trusted_before) = syntax(source, root.get_ref(), &errors);
    let mut grow = Grow { source, env, problems: Vec::new() };
    let root = grow.table(root.get_ref());
    problems.extend(grow.problems);
    Tree { root, problems, incomplete: errors.iter().any(|error| loses_keys(error.message())), trusted_before }
}

/// The value of a default, which is ours and so known to be right.
pub(super) fn constant(text: &'static str, at: Position) -> Node {
    let source = Source::new("default", text);
    let value = DeValue::parse(text).expect("defaults are TOML values; a test reads them all");
    let mut node = Grow { source: &source, env: &|_| None, problems: Vec::new() }.node(&value);
    node.place(at);
    node
}

impl Node {
    fn place(&mut self, at: Position) {
        self.at = at;
        match &mut self.value {
            Value::List(list) => list.iter_mut().for_each(|node| node.place(at)),
            Value::Table(table) => table.iter_mut().for_each(|entry| entry.node.place(at)),
            _ => {}
        }
    }
}

const UNQUOTED: &str = "string values must be quoted";

/// Whether keys may be unread because of an error. A value that is wrong in itself hides no other.
fn loses_keys(message: &str) -> bool {
    message != "duplicate key" && !message.starts_with(UNQUOTED)
}

/// The errors of the TOML parser, without those that only follow from an earlier one, and the line before which
/// everything was read as it was meant.
fn syntax(source: &Source, root: &DeTable<'_>, errors: &[toml::de::Error]) -> (Vec<Problem>, usize) {
    let start = |error: &toml::de::Error| error.span().map_or(0, |span| span.start);
    let mut found: Vec<(usize, &str)> = errors.iter().map(|error| (start(error), error.message())).collect();
    found.sort_by_key(|(offset, _)| *offset);

    // A bracket that is never closed swallows the lines after it: it is the one thing to tell.
    let swallows = |(_, message): &(usize, &str)| {
        message.starts_with("unclosed array, ") || message.starts_with("unclosed inline table")
    };
    let bracket = found.iter().find(|error| swallows(error)).and_then(|_| {
        let first = found.first()?.0;
        opened(root, first).map(|offset| source.position(offset))
    });
    let trusted_before = bracket.map_or(usize::MAX, |at| at.line);
    let mut found: Vec<_> = found
        .into_iter()
        .map(|(offset, message)| (source.position(offset), message))
        .filter(|(at, _)| at.line < trusted_before)
        .collect();
    found.dedup_by_key(|(at, _)| at.line);

    let told = found.into_iter().map(|(at, message)| {
        let help = match message {
            "duplicate key" => Some("a key stands once in a table: remove one of them"),
            _ if message.starts_with(UNQUOTED) => Some("put strings, durations and sizes in quotes"),
            _ => None,
        };
        let message = message.strip_suffix(", expected literal string").unwrap_or(message);
        let message = format!("not valid TOML: {message}");
        source.problem(at, "", message, help.map(str::to_owned))
    });
    let unclosed = bracket.map(|at| {
        let help = "close it; what follows could not be read".to_owned();
        source.problem(at, "", "not valid TOML: this bracket is not closed", Some(help))
    });
    (told.chain(unclosed).collect(), trusted_before)
}

/// Where the innermost bracket that a place is in was opened.
fn opened(table: &DeTable<'_>, offset: usize) -> Option<usize> {
    table.iter().find_map(|(_, value)| opened_in(value, offset))
}

fn opened_in(value: &Spanned<DeValue<'_>>, offset: usize) -> Option<usize> {
    let span = value.span();
    let inner = match value.get_ref() {
        DeValue::Array(list) => list.iter().find_map(|value| opened_in(value, offset)),
        DeValue::Table(table) => opened(table, offset),
        _ => return None,
    };
    inner.or_else(|| (span.start < offset && offset <= span.end).then_some(span.start))
}

struct Grow<'a> {
    source: &'a Source,
    env: &'a dyn Fn(&str) -> Option<String>,
    problems: Vec<Problem>,
}

impl Grow<'_> {
    fn table(&mut self, table: &DeTable<'_>) -> Vec<Entry> {
        // The parser sorts by name; problems are told in the order of the file.
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        entries
            .into_iter()
            .map(|(key, value)| Entry {
                key: key.get_ref().to_string(),
                at: self.source.position(key.span().start),
                node: self.node(value),
            })
            .collect()
    }

    fn node(&mut self, value: &Spanned<DeValue<'_>>) -> Node {
        let at = self.source.position(value.span().start);
        let mut substituted = false;
        let value = match value.get_ref() {
            DeValue::String(text) if text.contains("${") => match self.substitute(text, value.span()) {
                Some(text) => {
                    substituted = true;
                    Value::Text(text)
                }
                None => Value::Broken,
            },
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(number) => {
                Value::Integer(i128::from_str_radix(number.as_str(), number.radix()).unwrap_or(i128::MAX))
            }
            DeValue::Boolean(value) => Value::Bool(*value),
            DeValue::Float(_) => Value::Other("a number with a fraction"),
            DeValue::Datetime(_) => Value::Other("a date"),
            DeValue::Array(list) => Value::List(list.iter().map(|node| self.node(node)).collect()),
            DeValue::Table(table) => Value::Table(self.table(table)),
        };
        Node { at, substituted, value }
    }

    /// Puts the environment in for each `${NAME}`; `$${` stands for `${`. The result is never read as TOML again.
    fn substitute(&mut self, text: &str, span: Range<usize>) -> Option<String> {
        let mut out = String::new();
        let mut rest = text;
        let mut sound = true;
        while let Some(start) = rest.find("${") {
            if rest[..start].ends_with('$') {
                out.push_str(&rest[..start - 1]);
                out.push_str("${");
                rest = &rest[start + 2..];
                continue;
            }
            out.push_str(&rest[..start]);
            let name = rest[start + 2..].split_once('}').map(|(name, after)| {
                rest = after;
                name
            });
            match name {
                Some(name) if is_variable(name) => match (self.env)(name) {
                    Some(value) => out.push_str(&value),
                    None => {
                        let message = format!("the environment variable {name} is not set");
                        self.refuse(&format!("${{{name}}}"), &span, message, format!("set it: export {name}=…"));
                        sound = false;
                    }
                },
                _ => {
                    let help = "write ${NAME} for an environment variable, $${ for a literal ${";
                    self.refuse("${", &span, "\"${\" begins no variable name".to_owned(), help.to_owned());
                    return None;
                }
            }
        }
        out.push_str(rest);
        sound.then_some(out)
    }

    /// Points at `part` of the string where it stands there as it is, or else at the string.
    fn refuse(&mut self, part: &str, span: &Range<usize>, message: String, help: String) {
        let written = self.source.text().get(span.clone()).unwrap_or("");
        let at = self.source.position(span.start + written.find(part).unwrap_or(0));
        self.problems.push(self.source.problem(at, "", message, Some(help)));
    }
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
