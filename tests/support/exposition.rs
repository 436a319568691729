//! Reads Prometheus' text format (version 0.0.4) strictly, with the checks that `promtool check metrics` makes and more.

use std::collections::{BTreeMap, BTreeSet};

/// Labels by their names.
pub type Labels = BTreeMap<String, String>;

#[derive(Debug, Default)]
pub struct Family {
    pub help: String,
    pub kind: String,
    /// The name of the sample, its labels, its value.
    pub samples: Vec<(String, Labels, f64)>,
}

/// Every family by its name.
#[derive(Debug, Default)]
pub struct Exposition(pub BTreeMap<String, Family>);

impl Exposition {
    /// # Panics
    /// When the text breaks a rule of the format or a convention of its names.
    pub fn parse(text: &str) -> Exposition {
        assert!(text.ends_with('\n'), "the last line ends");
        let mut found = Exposition::default();
        let (mut current, mut series) = (String::new(), BTreeSet::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap_or_else(|| panic!("no text: {line}"));
                assert!(!help.trim().is_empty(), "no text: {line}");
                let known = found.0.insert(name.to_owned(), Family { help: help.to_owned(), ..Family::default() });
                assert!(known.is_none(), "twice: {line}");
                current = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap_or_else(|| panic!("no type: {line}"));
                assert_eq!(name, current, "TYPE follows HELP");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                found.0.get_mut(name).expect("just described").kind = kind.to_owned();
            } else {
                assert!(!line.starts_with('#') && !line.is_empty(), "neither a comment nor a sample: {line:?}");
                let (name, labels, value) = sample(line);
                assert!(series.insert((name.clone(), labels.clone())), "a series twice: {line}");
                let family = found.0.get_mut(&current).unwrap_or_else(|| panic!("not described: {line}"));
                let suffixes: &[&str] = if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
                assert!(suffixes.iter().any(|suffix| name == format!("{current}{suffix}")), "not of {current}: {line}");
                family.samples.push((name, labels, value));
            }
        }
        found.check();
        found
    }

    fn check(&self) {
        for (name, family) in &self.0 {
            assert!(!family.kind.is_empty(), "{name} has no type");
            assert!(
                name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'),
                "{name}"
            );
            assert_eq!(name.ends_with("_total"), family.kind == "counter", "{name} is a {}", family.kind);
            for word in ["milliseconds", "_ms", "kib", "mib", "percent"] {
                assert!(!name.contains(word), "{name} has no base unit");
            }
            for (sample, labels, value) in &family.samples {
                assert!(!value.is_nan(), "{sample}{labels:?}");
                assert!(family.kind == "gauge" || *value >= 0.0, "{sample}{labels:?} is {value}");
            }
            if family.kind == "histogram" {
                histogram(name, family);
            }
        }
    }

    /// How many series there are.
    pub fn series(&self) -> usize {
        self.0.values().map(|family| family.samples.len()).sum()
    }

    /// The sum over all series of that name whose labels hold these.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let holds = |has: &Labels| labels.iter().all(|(name, value)| has.get(*name).is_some_and(|has| has == value));
        let samples = self.0.values().flat_map(|family| &family.samples);
        samples.filter(|(sample, has, _)| sample == name && holds(has)).map(|(.., value)| value).sum()
    }
}

/// Buckets grow to the count, for each set of labels.
fn histogram(name: &str, family: &Family) {
    let mut series: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
    let mut counts = BTreeMap::new();
    for (sample, labels, value) in &family.samples {
        let mut labels = labels.clone();
        let bound = labels.remove("le");
        match sample.strip_prefix(name) {
            Some("_bucket") => {
                let bound = match bound.expect("a bucket has a bound").as_str() {
                    "+Inf" => f64::INFINITY,
                    bound => bound.parse().expect("a number"),
                };
                series.entry(labels).or_default().push((bound, *value));
            }
            Some("_count") => _ = counts.insert(labels, *value),
            _ => {}
        }
    }
    assert_eq!(series.len(), counts.len(), "{name}");
    for (labels, buckets) in series {
        let grows = |pair: &[(f64, f64)]| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1;
        assert!(buckets.windows(2).all(grows), "{name}{labels:?}: {buckets:?}");
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, counts[&labels])), "{name}{labels:?}");
    }
}

fn sample(line: &str) -> (String, Labels, f64) {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no value: {line}"));
    let (name, mut rest) = line.split_at(end);
    let mut labels = Labels::new();
    if let Some(open) = rest.strip_prefix('{') {
        rest = open;
        loop {
            if let Some(closed) = rest.strip_prefix('}') {
                rest = closed;
                break;
            }
            let (label, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
            assert!(label.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
            let (value, after) = quoted(value).unwrap_or_else(|| panic!("no end of a value: {line}"));
            assert!(labels.insert(label.to_owned(), value).is_none(), "a label twice: {line}");
            rest = after.strip_prefix(',').unwrap_or(after);
        }
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("no value: {line}"));
    let value = if value == "+Inf" { f64::INFINITY } else { value.parse().unwrap_or_else(|_| panic!("{line}")) };
    (name.to_owned(), labels, value)
}

/// A value up to its closing quote, and what stands behind that.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                escaped @ ('\\' | '"') => value.push(escaped),
                other => panic!("\\{other} is no escape: {text}"),
            },
            _ => value.push(character),
        }
    }
    None
}
