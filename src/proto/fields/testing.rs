//! Header fields as text, for the tables of the rules.

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Lines of `name: value`.
pub(crate) fn lines(text: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in text.split('\n').filter(|line| !line.is_empty()) {
        let (name, value) = field(line);
        headers.append(name, value);
    }
    headers
}

/// Replaces the fields that stand in `text`; `-name` removes one.
pub(crate) fn change(headers: &mut HeaderMap, text: &str) {
    let (gone, new): (Vec<&str>, Vec<&str>) = text.split('\n').partition(|line| line.starts_with('-'));
    for name in gone {
        headers.remove(&name[1..]);
    }
    let new = lines(&new.join("\n"));
    for name in new.keys() {
        headers.remove(name);
    }
    for (name, value) in &new {
        headers.append(name, value.clone());
    }
}

/// `name: value`, sorted: what a test compares.
pub(crate) fn text(headers: &HeaderMap) -> Vec<String> {
    let line =
        |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()));
    let mut lines: Vec<String> = headers.iter().map(line).collect();
    lines.sort();
    lines
}

fn field(line: &str) -> (HeaderName, HeaderValue) {
    let (name, value) = line.split_once(": ").expect("a test's line is `name: value`");
    let name = HeaderName::from_bytes(name.as_bytes()).expect("a test's name is a token");
    (name, HeaderValue::from_bytes(value.as_bytes()).expect("a test's value is a field value"))
}
