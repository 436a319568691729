//! What came out: Markdown tables for people, JSON with every repetition for programs.

use std::fmt::Write;
use std::fs;

use serde_json::{Value, json};

use crate::peers::{Kind, Place};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    MicrosPerMessage,
    MicrosPerHandshake,
    MicrosPerDelivery,
    MicrosPerPing,
    MicrosPerRequest,
    Micros,
    ThousandsPerSecond,
    KibPerSession,
    KibPerStopped,
    MicrosBeside,
    Mib,
}

impl Unit {
    fn text(self) -> &'static str {
        match self {
            Unit::MicrosPerMessage => "µs of the proxy's processor per message, there and back",
            Unit::MicrosPerHandshake => "µs of the proxy's processor per opening handshake",
            Unit::MicrosPerDelivery => "µs of the proxy's processor per delivery",
            Unit::MicrosPerPing => "µs of the proxy's processor per ping of a client",
            Unit::MicrosPerRequest => {
                "µs of the proxy's processor per request of plain HTTP, over 64 connections that are kept"
            }
            Unit::Micros => "µs from when a message was due to its return; 5,000 messages a second over 200 sessions",
            Unit::ThousandsPerSecond => "thousands a second",
            Unit::KibPerSession => "resident KiB per idle session",
            Unit::KibPerStopped => "KiB per session of 50, each offered 64 MiB: resident, and in the proxy's sockets",
            Unit::MicrosBeside => "µs of those who go on, alone and beside 50 sessions whose clients have stopped",
            Unit::Mib => {
                "resident MiB with a round's sessions open, and after they left; the two ratios are last / first"
            }
        }
    }

    fn more_is_better(self) -> bool {
        self == Unit::ThousandsPerSecond
    }
}

struct Table {
    title: String,
    unit: Unit,
    columns: Vec<String>,
    /// Of each column and peer, every repetition.
    figures: Vec<(usize, Kind, Vec<f64>)>,
}

pub struct Report {
    kinds: Vec<Kind>,
    about: Value,
    tables: Vec<Table>,
}

impl Report {
    pub fn new(place: &Place, kinds: &[Kind], missing: &[Kind], quick: bool, repetitions: usize) -> Report {
        let versions: Value = kinds
            .iter()
            .filter(|kind| kind.speaks_tls())
            .map(|kind| (kind.name().to_owned(), json!(place.version(*kind))))
            .collect::<serde_json::Map<_, _>>()
            .into();
        let missing: Vec<_> = missing.iter().map(|kind| kind.name()).collect();
        let about = json!({
            "processor": processor(), "kernel": kernel(), "quick": quick, "repetitions": repetitions,
            "versions": versions, "missing": missing,
        });
        Report { kinds: kinds.to_vec(), about, tables: Vec::new() }
    }

    pub fn add(&mut self, title: &str, unit: Unit, column: &str, kind: Kind, figure: f64) {
        let table = match self.tables.iter().position(|table| table.title == title) {
            Some(at) => &mut self.tables[at],
            None => {
                self.tables.push(Table { title: title.to_owned(), unit, columns: Vec::new(), figures: Vec::new() });
                self.tables.last_mut().expect("it was pushed")
            }
        };
        let column = table.columns.iter().position(|name| name == column).unwrap_or_else(|| {
            table.columns.push(column.to_owned());
            table.columns.len() - 1
        });
        match table.figures.iter_mut().find(|(at, of, _)| (*at, *of) == (column, kind)) {
            Some((_, _, list)) => list.push(figure),
            None => table.figures.push((column, kind, vec![figure])),
        }
    }

    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for table in &self.tables {
            // Writing to a String cannot fail.
            let _ = table.markdown(&self.kinds, &mut text);
        }
        text
    }

    pub fn json(&self) -> String {
        let tables: Vec<Value> = self.tables.iter().map(Table::json).collect();
        format!("{:#}\n", json!({ "about": self.about, "tables": tables }))
    }
}

impl Table {
    fn best(&self, column: usize, kind: Kind) -> Option<f64> {
        let (_, _, list) = self.figures.iter().find(|(at, of, _)| (*at, *of) == (column, kind))?;
        list.iter().copied().reduce(if self.unit.more_is_better() { f64::max } else { f64::min })
    }

    fn best_rival(&self, column: usize) -> Option<f64> {
        let rivals = Kind::ALL.into_iter().filter(|kind| kind.rival()).filter_map(|kind| self.best(column, kind));
        rivals.reduce(if self.unit.more_is_better() { f64::max } else { f64::min })
    }

    fn markdown(&self, kinds: &[Kind], text: &mut String) -> std::fmt::Result {
        writeln!(text, "\n**{}** ({})\n", self.title, self.unit.text())?;
        writeln!(text, "| | {} |", self.columns.join(" | "))?;
        writeln!(text, "|---|{}", "---:|".repeat(self.columns.len()))?;
        let columns = 0..self.columns.len();
        for kind in kinds.iter().filter(|kind| columns.clone().any(|at| self.best(at, **kind).is_some())) {
            let cells = columns.clone().map(|at| self.best(at, *kind).map_or("–".to_owned(), short));
            writeln!(text, "| {} | {} |", kind.title(), cells.collect::<Vec<_>>().join(" | "))?;
        }
        let ratios = columns.map(|at| match (self.best(at, Kind::Tidegate), self.best_rival(at)) {
            (Some(ours), Some(theirs)) if theirs > 0.0 => format!("{:.2}", ours / theirs),
            _ => "–".to_owned(),
        });
        writeln!(text, "| *tidegate / best peer* | {} |", ratios.collect::<Vec<_>>().join(" | "))
    }

    fn json(&self) -> Value {
        let figures: Vec<Value> = self
            .figures
            .iter()
            .map(|(at, kind, list)| json!({ "column": self.columns[*at], "peer": kind.name(), "repetitions": list }))
            .collect();
        json!({ "title": self.title, "unit": self.unit.text(), "figures": figures })
    }
}

/// Three digits that count.
fn short(figure: f64) -> String {
    match figure {
        figure if figure >= 100.0 || figure == 0.0 => format!("{figure:.0}"),
        figure if figure >= 10.0 => format!("{figure:.1}"),
        figure => format!("{figure:.2}"),
    }
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let count = text.lines().filter(|line| line.starts_with("processor")).count();
    format!("{count} × {}", model.map_or("unknown", |(_, name)| name))
}

fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}
