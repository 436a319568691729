//! What is looked at every second: the process from outside, and what the admin interface says.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::admin::metrics;
use crate::support::exposition::Exposition;
use crate::support::gateway::Gateway;

/// A column: its name in the file, and the value.
pub const COLUMNS: [&str; 15] = [
    "seconds",
    "resident_bytes",
    "descriptors",
    "threads",
    "sessions",
    "connections",
    "pending",
    "held_bytes",
    "clients_with_sessions",
    "clients_with_rates",
    "sticky_sessions",
    "series",
    "servers",
    "cpu_percent",
    "messages_per_second",
];

/// Every value of each column.
pub struct Samples {
    began: Instant,
    columns: [Vec<f64>; COLUMNS.len()],
    /// When, processor seconds and messages of the sample before.
    last: (f64, f64, f64),
}

impl Samples {
    pub fn new(began: Instant) -> Samples {
        Samples { began, columns: Default::default(), last: (0.0, 0.0, 0.0) }
    }

    pub fn take(&mut self, gateway: &Gateway) {
        let now = self.began.elapsed().as_secs_f64();
        let (resident, cpu) = (gateway.resident() as f64, gateway.processor_time().as_secs_f64());
        let (descriptors, threads) = (gateway.count("fd") as f64, gateway.count("task") as f64);
        let found = Exposition::parse(&metrics(gateway.admin()));
        let of = |name| found.sum(name, &[]);
        let table = |table| found.sum("tidegate_client_entries", &[("table", table)]);
        let messages = of("tidegate_messages_total");
        let (then, cpu_then, messages_then) = std::mem::replace(&mut self.last, (now, cpu, messages));
        let per_second = |more: f64| if self.columns[0].is_empty() { 0.0 } else { more / (now - then) };
        let values = [
            now,
            resident,
            descriptors,
            threads,
            of("tidegate_sessions_open"),
            of("tidegate_connections_open"),
            of("tidegate_connections_pending"),
            of("tidegate_held_bytes"),
            table("sessions"),
            table("rates"),
            table("sticky"),
            found.series() as f64,
            servers(&found),
            per_second((cpu - cpu_then) * 100.0),
            per_second(messages - messages_then),
        ];
        for (column, value) in self.columns.iter_mut().zip(values) {
            column.push(value);
        }
    }

    /// One after the other until it is over.
    pub fn take_until(&mut self, gateway: &Gateway, every: Duration, over: impl Fn() -> bool) {
        let mut next = Instant::now();
        while !over() {
            self.take(gateway);
            next = (next + every).max(Instant::now());
            std::thread::sleep(next - Instant::now());
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.columns[0].len()
    }

    pub fn last_line(&self) -> String {
        let last = |column: &Vec<f64>| column.last().copied().unwrap_or_default();
        COLUMNS.iter().zip(&self.columns).map(|(name, column)| format!("{name} {} ", last(column))).collect()
    }

    pub fn column(&self, name: &str) -> &[f64] {
        let index = COLUMNS.iter().position(|column| *column == name);
        &self.columns[index.unwrap_or_else(|| panic!("no column {name}"))]
    }

    pub fn write(&self, file: &Path) {
        let mut text = COLUMNS.join(",") + "\n";
        for row in 0..self.len() {
            let values: Vec<String> = self.columns.iter().map(|column| format!("{}", round(column[row]))).collect();
            writeln!(text, "{}", values.join(",")).expect("a String takes everything");
        }
        std::fs::write(file, text).expect("written");
    }
}

fn round(value: f64) -> f64 {
    // An empty sum is a negative zero.
    (value * 100.0).round() / 100.0 + 0.0
}

/// How many servers of upstreams the series tell of.
fn servers(found: &Exposition) -> f64 {
    let labels = found.0.values().flat_map(|family| &family.samples).map(|(_, labels, _)| labels);
    labels.filter_map(|labels| labels.get("server")).collect::<BTreeSet<_>>().len() as f64
}
