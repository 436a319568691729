//! Takes values out of a table by the names of its schema; what is left over is refused.
//!
//! A reader never stops at a problem: it notes it and gives `None`, so that one answer tells every problem of a file.

use std::cell::RefCell;

use super::model::Position;
use super::problem::{Problem, Source};
use super::schema::{Fallback, Holds, Key, ROOT, Table};
use super::tree::{self, Entry, Node, Value};
use super::value::{Parsed, Wrong, nearest};
use super::{Files, Inspect};

/// What was found wrong or doubtful so far.
pub(super) struct Findings<'s> {
    pub source: &'s Source,
    inspect: &'s Inspect<'s>,
    problems: RefCell<Vec<Problem>>,
    /// Of things that are not there: dropped when the syntax was wrong, because they may only be unreadable.
    absences: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
}

impl<'s> Findings<'s> {
    pub fn new(source: &'s Source, inspect: &'s Inspect<'s>) -> Self {
        Self {
            source,
            inspect,
            problems: RefCell::default(),
            absences: RefCell::default(),
            warnings: RefCell::default(),
        }
    }

    pub fn wrong(&self, at: Position, key: &str, wrong: Wrong) {
        self.problems.borrow_mut().push(self.source.problem(at, key, wrong.message, wrong.help));
    }

    pub fn absent(&self, at: Position, key: &str, wrong: Wrong) {
        self.absences.borrow_mut().push(self.source.problem(at, key, wrong.message, wrong.help));
    }

    pub fn warn(&self, at: Position, key: &str, wrong: Wrong) {
        self.warnings.borrow_mut().push(self.source.problem(at, key, wrong.message, wrong.help));
    }

    /// Problems, absences, warnings.
    pub fn into_parts(self) -> (Vec<Problem>, Vec<Problem>, Vec<Problem>) {
        (self.problems.into_inner(), self.absences.into_inner(), self.warnings.into_inner())
    }
}

/// One table that is being read.
pub(super) struct Reader<'f, 's> {
    findings: &'f Findings<'s>,
    schema: &'static Table,
    path: String,
    at: Position,
    entries: Vec<Entry>,
    taken: Vec<&'static str>,
}

impl<'f, 's> Reader<'f, 's> {
    pub fn root(findings: &'f Findings<'s>, entries: Vec<Entry>) -> Self {
        Self::new(findings, &ROOT, String::new(), Position::default(), entries)
    }

    fn new(
        findings: &'f Findings<'s>,
        schema: &'static Table,
        path: String,
        at: Position,
        entries: Vec<Entry>,
    ) -> Self {
        Self { findings, schema, path, at, entries, taken: Vec::new() }
    }

    /// Where the table itself stands.
    pub fn at(&self) -> Position {
        self.at
    }

    /// `route[2]`
    pub fn path(&self) -> &str {
        &self.path
    }

    /// `route[2].upstream`
    pub fn path_of(&self, name: &str) -> String {
        match self.path.is_empty() {
            true => name.to_owned(),
            false => format!("{}.{name}", self.path),
        }
    }

    /// Where a key's value stands when the file has it. Ask before the value is taken.
    pub fn written(&self, name: &str) -> Option<Position> {
        self.entries.iter().find(|entry| entry.key == name).map(|entry| entry.node.at)
    }

    /// The keys that the file has and the schema knows, with the places of their values. Ask before they are taken.
    pub fn known_keys(&self) -> impl Iterator<Item = (&str, Position)> {
        let entries = self.entries.iter().filter(|entry| self.schema.key(&entry.key).is_some());
        entries.map(|entry| (entry.key.as_str(), entry.node.at))
    }

    /// A value that is either written or has a default.
    pub fn value<T>(&mut self, name: &'static str, parse: impl Fn(&Node) -> Parsed<T>) -> Option<T> {
        let node = self.take(name)?;
        self.parsed(&self.path_of(name), &node, parse)
    }

    /// Each element is read and refused on its own; one that was refused is `None`.
    /// The list is `None` where it is left out or is no list.
    pub fn list<T>(&mut self, name: &'static str, parse: impl Fn(&Node) -> Parsed<T>) -> Option<Vec<Option<T>>> {
        let node = self.take(name)?;
        let key = self.path_of(name);
        match &node.value {
            Value::List(list) => {
                let path = |index| format!("{key}[{}]", index + 1);
                let read = |(index, node)| self.parsed(&path(index), node, &parse);
                Some(list.iter().enumerate().map(read).collect())
            }
            Value::Broken => None,
            _ => {
                let wrong = Wrong::new(format!("{} stands where a list is wanted", node.kind()));
                self.findings.wrong(node.at, &key, wrong.help("put it in square brackets: [ … ]"));
                None
            }
        }
    }

    /// A table whose names are the file's own. Each entry is read and refused on its own; one that was refused is `None`.
    pub fn pairs<T>(&mut self, name: &'static str, parse: impl Fn(&Entry) -> Parsed<T>) -> Option<Vec<Option<T>>> {
        let node = self.take(name)?;
        let key = self.path_of(name);
        match &node.value {
            Value::Table(entries) => {
                let read = |entry: &Entry| self.parsed(&format!("{key}.{}", entry.key), &entry.node, |_| parse(entry));
                Some(entries.iter().map(read).collect())
            }
            Value::Broken => None,
            _ => {
                let wrong = Wrong::new(format!("{} stands where a table is wanted", node.kind()));
                self.findings.wrong(node.at, &key, wrong.help("like { NAME = \"value\" }"));
                None
            }
        }
    }

    /// [`list`](Self::list), where an element may also be a table.
    pub fn values_or_tables<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&Node) -> Parsed<T>,
        read: impl Fn(Reader<'f, 's>) -> Option<T>,
    ) -> Option<Vec<Option<T>>> {
        let nodes = self.list(name, |node| Ok(node.clone()))?;
        let key = self.path_of(name);
        let element = |(index, node): (usize, Option<Node>)| {
            let (node, path) = (node?, format!("{key}[{}]", index + 1));
            match node.value {
                Value::Table(_) => self.below(name, path, node).and_then(&read),
                _ => self.parsed(&path, &node, &parse),
            }
        };
        Some(nodes.into_iter().enumerate().map(element).collect())
    }

    /// A table below this one; `None` where it is left out or `"off"`.
    pub fn table(&mut self, name: &'static str) -> Option<Reader<'f, 's>> {
        let off = self.key(name).kind.contains("\"off\"");
        let node = self.take(name)?;
        match &node.value {
            Value::Text(text) if off && text == "off" => None,
            _ => self.below(name, self.path_of(name), node),
        }
    }

    /// A table below this one, or (`Some(None)`) a word in its place; `None` where it is left out or neither.
    pub fn table_or(&mut self, name: &'static str, word: &str) -> Option<Option<Reader<'f, 's>>> {
        let node = self.take(name)?;
        let key = self.path_of(name);
        match &node.value {
            Value::Text(text) if text == word => Some(None),
            Value::Text(text) => {
                let wrong = Wrong::new(format!("{text:?} is neither {word:?} nor a table"));
                self.findings.wrong(node.at, &key, wrong.help(format!("write {word:?}, or {{ … }}")));
                None
            }
            _ => self.below(name, key, node).map(Some),
        }
    }

    /// A list of tables; `None` where it is something else.
    pub fn tables(&mut self, name: &'static str) -> Option<Vec<Reader<'f, 's>>> {
        let node = self.take(name)?;
        let key = self.path_of(name);
        match node.value {
            Value::List(list) => {
                let path = |index| format!("{key}[{}]", index + 1);
                let nodes = list.into_iter().enumerate();
                Some(nodes.filter_map(|(index, node)| self.below(name, path(index), node)).collect())
            }
            Value::Broken => None,
            _ => {
                let wrong = format!("{} stands where a list of tables is wanted", node.kind());
                self.findings.wrong(node.at, &key, Wrong::new(wrong).help(format!("write [[{key}]]")));
                None
            }
        }
    }

    /// Tables by name, with the place of each name. What is no table has its problem reported and is `None`.
    pub fn named(&mut self, name: &'static str) -> Vec<(String, Position, Option<Reader<'f, 's>>)> {
        let Some(node) = self.take(name) else {
            return Vec::new();
        };
        let key = self.path_of(name);
        match node.value {
            Value::Table(entries) => entries
                .into_iter()
                .map(|entry| {
                    let path = format!("{key}.{}", entry.key);
                    let table = self.below(name, path, entry.node);
                    (entry.key, entry.at, table)
                })
                .collect(),
            Value::Broken => Vec::new(),
            _ => {
                let wrong = format!("{} stands where named tables are wanted", node.kind());
                let help = format!("write [{key}.NAME]");
                self.findings.wrong(node.at, &key, Wrong::new(wrong).help(help));
                Vec::new()
            }
        }
    }

    /// A problem of the table as a whole.
    /// Has files opened; `key` names the value that stands at a position.
    pub fn inspect(&self, files: Files<'_>, key: impl Fn(Position) -> String) {
        if let Some((at, message)) = (self.findings.inspect)(files) {
            self.wrong(at, &key(at), Wrong::new(message));
        }
    }

    pub fn wrong_itself(&self, wrong: Wrong) {
        self.findings.wrong(self.at, &self.path, wrong);
    }

    pub fn wrong(&self, at: Position, name: &str, wrong: Wrong) {
        self.findings.wrong(at, &self.path_of(name), wrong);
    }

    pub fn absent(&self, at: Position, name: &str, wrong: Wrong) {
        self.findings.absent(at, &self.path_of(name), wrong);
    }

    pub fn warn(&self, at: Position, name: &str, wrong: Wrong) {
        self.findings.warn(at, &self.path_of(name), wrong);
    }

    /// Refuses what nobody took. To be called once everything was asked for.
    pub fn finish(mut self) {
        let unread: Vec<_> = self.schema.keys.iter().filter(|key| !self.taken.contains(&key.name)).collect();
        debug_assert!(unread.is_empty(), "{}: nobody reads {unread:?}", self.schema.title);
        for entry in std::mem::take(&mut self.entries) {
            let wrong = self.unknown(&entry.key);
            self.findings.wrong(entry.at, &self.path_of(&entry.key), wrong);
        }
    }

    fn unknown(&self, name: &str) -> Wrong {
        let wrong = Wrong::new(format!("unknown key in {}", self.schema.title));
        if let Some(near) = nearest(name, self.schema.keys.iter().map(|key| key.name)) {
            return wrong.help(format!("did you mean `{near}`?"));
        }
        match home(&ROOT, name) {
            Some(table) => wrong.help(format!("`{name}` is a key of {table}")),
            None => {
                let names: Vec<_> = self.schema.keys.iter().map(|key| key.name).collect();
                wrong.help(format!("known: {}", names.join(", ")))
            }
        }
    }

    fn key(&self, name: &'static str) -> &'static Key {
        self.schema.key(name).unwrap_or_else(|| panic!("{} has no key {name:?} in its schema", self.schema.title))
    }

    /// What is written, or else the default.
    fn take(&mut self, name: &'static str) -> Option<Node> {
        let key = self.key(name);
        self.taken.push(name);
        if let Some(index) = self.entries.iter().position(|entry| entry.key == name) {
            return Some(self.entries.remove(index).node);
        }
        match key.fallback {
            Fallback::Default(text) => Some(tree::constant(text, self.at)),
            Fallback::Required(example) => {
                let wrong = Wrong::new("is missing").help(format!("add `{name} = {example}`"));
                self.absent(self.at, name, wrong);
                None
            }
            Fallback::Either(_) | Fallback::Nothing(..) => None,
        }
    }

    fn parsed<T>(&self, key: &str, node: &Node, parse: impl Fn(&Node) -> Parsed<T>) -> Option<T> {
        if matches!(node.value, Value::Broken) {
            return None;
        }
        parse(node).map_err(|wrong| self.findings.wrong(node.at, key, wrong)).ok()
    }

    fn below(&self, name: &'static str, path: String, node: Node) -> Option<Reader<'f, 's>> {
        let schema = match self.key(name).holds {
            Holds::Table(schema) | Holds::Tables(schema) | Holds::Named(schema) | Holds::ValuesOrTables(schema) => {
                schema
            }
            Holds::Value => panic!("{name:?} holds no table in its schema"),
        };
        match node.value {
            Value::Table(entries) => Some(Reader::new(self.findings, schema, path, node.at, entries)),
            Value::Broken => None,
            _ => {
                let wrong = Wrong::new(format!("{} stands where a table is wanted", node.kind()));
                let help = match self.key(name).holds {
                    Holds::Named(_) => format!("write [{name}.NAME] and its keys below"),
                    _ if matches!(node.value, Value::List(_)) => {
                        format!("there is one only: write [{name}]")
                    }
                    _ => format!("like {{ {} = … }}", schema.keys[0].name),
                };
                self.findings.wrong(node.at, &path, wrong.help(help));
                None
            }
        }
    }
}

/// The table that has a key of this name: a key that stands below the wrong header is a frequent slip.
fn home(table: &'static Table, name: &str) -> Option<&'static str> {
    let below = |key: &'static Key| match key.holds {
        Holds::Table(table) | Holds::Tables(table) | Holds::Named(table) | Holds::ValuesOrTables(table) => Some(table),
        Holds::Value => None,
    };
    let tables = || table.keys.iter().filter_map(below);
    tables()
        .find(|table| table.key(name).is_some())
        .map(|table| table.title)
        .or_else(|| tables().find_map(|table| home(table, name)))
}
