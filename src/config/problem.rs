//! What can be wrong with a configuration, shown with its place in the file, and the text it is shown from.
//!
//! In: a position, the path of a key, what is wrong. Out: lines for people. Never decides what is wrong.

use std::fmt;
use std::path::{Path, PathBuf};

use super::model::Position;

/// The text of a configuration file, kept to show the line of a problem that is found after parsing.
#[derive(Clone)]
pub struct Source {
    file: PathBuf,
    text: String,
    /// Where each line begins: a file of thousands of routes asks for as many places.
    lines: Vec<usize>,
}

/// Without the text, which may hold secrets.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Source {
    /// `file` is the name that problems show; relative paths in the text start from its folder.
    pub fn new(file: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        let text = text.into();
        // A byte order mark stands in no column.
        let first = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        let breaks = text.match_indices('\n').map(|(newline, _)| newline + 1);
        let lines = std::iter::once(first).chain(breaks).collect();
        Self { file: file.into(), text, lines }
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// A path as the file means it: relative to the file's own folder.
    pub fn resolve(&self, path: impl AsRef<Path>) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(path)
    }

    /// A problem at a place of this file. A default position speaks of the file as a whole; `key` may be empty.
    pub fn problem(
        &self,
        at: Position,
        key: impl Into<String>,
        message: impl Into<String>,
        help: Option<String>,
    ) -> Problem {
        Problem {
            file: self.file.clone(),
            at,
            key: key.into(),
            message: message.into(),
            help,
            line: self.line(at.line).to_owned(),
        }
    }

    /// The place of a byte of the text.
    pub(super) fn position(&self, offset: usize) -> Position {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let line = self.lines.partition_point(|start| *start <= offset).max(1);
        let before = self.text.get(self.lines[line - 1]..offset).unwrap_or("");
        Position { line, column: before.chars().count() + 1 }
    }

    fn line(&self, number: usize) -> &str {
        let start = number.checked_sub(1).and_then(|index| self.lines.get(index));
        let rest = start.and_then(|start| self.text.get(*start..));
        rest.and_then(|rest| rest.lines().next()).unwrap_or("")
    }
}

/// One thing that is wrong (or, as a warning, doubtful) in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub file: PathBuf,
    /// The default position speaks of the file as a whole.
    pub at: Position,
    /// Path of the key, `route[2].upstream`, elements counted from 1; empty where there is none.
    pub key: String,
    pub message: String,
    /// The next step.
    pub help: Option<String>,
    /// The line of the file.
    pub line: String,
}

impl Problem {
    /// On one line: `config.toml:31:12 route[2].upstream: no upstream "chat2" (help)`.
    pub fn line(&self) -> String {
        let place = match self.at.line {
            0 => String::new(),
            line => format!(":{line}:{}", self.at.column),
        };
        let key = if self.key.is_empty() { String::new() } else { format!(" {}", self.key) };
        let help = self.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
        let text = format!("{}{place}{key}: {}{help}", self.file.display(), self.message);
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        match self.at.line {
            0 => write!(f, ": ")?,
            line => write!(f, ":{line}:{} ", self.at.column)?,
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", visible(&self.key))?;
        }
        write!(f, "{}", visible(&self.message))?;
        let gutter = self.at.line.to_string().len().max(3);
        if !self.line.trim().is_empty() {
            let (shown, indent, width) = excerpt(&self.line, self.at.column.saturating_sub(1));
            write!(f, "\n{:>gutter$} | {shown}", self.at.line)?;
            write!(f, "\n{:>gutter$} | {indent}{}", "", "^".repeat(width))?;
        }
        match &self.help {
            Some(help) => write!(f, "\n{:>gutter$} = help: {}", "", visible(help)),
            None => Ok(()),
        }
    }
}

/// Every problem of one configuration: at least one, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// `None` when there is no problem.
    pub fn collect(problems: impl IntoIterator<Item = Problem>) -> Option<Self> {
        let mut list: Vec<Problem> = problems.into_iter().collect();
        list.sort_by_key(|problem| (problem.at.line, problem.at.column));
        (!list.is_empty()).then_some(Self(list))
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }

    /// How many; never 0.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A file that is not a configuration at all must not fill the terminal.
        const SHOWN: usize = 100;
        for problem in self.0.iter().take(SHOWN) {
            writeln!(f, "{problem}\n")?;
        }
        match self.0.len() {
            1 => write!(f, "1 problem"),
            count if count <= SHOWN => write!(f, "{count} problems"),
            count => write!(f, "{count} problems, the first {SHOWN} are shown"),
        }
    }
}

impl std::error::Error for Problems {}

/// Text of the file must not reach a terminal with control characters in it.
fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// The part of a line around `column` (from 0), the indentation below it and the width of what stands there.
fn excerpt(line: &str, column: usize) -> (String, String, usize) {
    const WIDTH: usize = 110;
    const LEAD: usize = 60;
    let chars: Vec<char> = line.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let column = column.min(chars.len());
    let start = if chars.len() > WIDTH { column.saturating_sub(LEAD) } else { 0 };
    let end = chars.len().min(start + WIDTH);
    let width = token_width(&chars[column..]).min(end.saturating_sub(column)).max(1);
    (chars[start..end].iter().collect(), " ".repeat(column - start), width)
}

/// How many characters of the line the value or key at its beginning takes.
fn token_width(rest: &[char]) -> usize {
    let until = |end: &dyn Fn(usize) -> bool| (1..rest.len()).find(|&i| end(i)).unwrap_or(rest.len());
    match rest.first() {
        Some('"') => until(&|i| rest[i] == '"' && rest[i - 1] != '\\') + 1,
        Some('\'') => until(&|i| rest[i] == '\'') + 1,
        Some('[') => until(&|i| rest[i] != '[' && rest[i - 1] == ']'),
        Some('{' | '$') => until(&|i| rest[i] == '}') + 1,
        Some(_) => until(&|i| !(rest[i].is_alphanumeric() || "_-.:+".contains(rest[i]))),
        None => 1,
    }
}
