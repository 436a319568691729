//! The grammar that header fields share: tokens, quoted strings, lists and parameters (RFC 9110 section 5.6).

use std::borrow::Cow;

use http::header::{AsHeaderName, HeaderMap, HeaderValue};

/// One member of a list of `name[=value]` joined by `;`.
pub(crate) type Element<'a> = Vec<Parameter<'a>>;
pub(crate) type Parameter<'a> = (&'a str, Option<Cow<'a, str>>);

/// Whether one of the field's lines holds this token in its list, whatever its case.
pub(crate) fn holds_token(headers: &HeaderMap, name: impl AsHeaderName, token: &str) -> bool {
    members(headers, name).any(|member| member.eq_ignore_ascii_case(token.as_bytes()))
}

/// The members of a list without quoted strings, over all lines of the field; empty ones are skipped (section 5.6.1.2).
pub(crate) fn members(headers: &HeaderMap, name: impl AsHeaderName) -> impl DoubleEndedIterator<Item = &[u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(trim)
        .filter(|member| !member.is_empty())
}

/// Whether this is a token (section 5.6.2).
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_byte)
}

/// A line like `a; b=c, d; e="f"`. Serves both Sec-WebSocket-Extensions (RFC 6455 section 9.1) and Forwarded (RFC 7239
/// section 4). Empty list members are skipped; `None` when the line is anything else.
pub(crate) fn elements(line: &HeaderValue) -> Option<Vec<Element<'_>>> {
    let mut cursor = Cursor(line.as_bytes());
    let mut elements = Vec::new();
    loop {
        cursor.skip_whitespace();
        if cursor.0.is_empty() {
            return Some(elements);
        }
        if cursor.eat(b',') {
            continue;
        }
        elements.push(cursor.element()?);
        if !cursor.0.is_empty() && !cursor.eat(b',') {
            return None;
        }
    }
}

/// What is left to read.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn element(&mut self) -> Option<Element<'a>> {
        let mut parameters = Vec::new();
        loop {
            self.skip_whitespace();
            let name = self.token()?;
            let value = if self.eat(b'=') { Some(self.value()?) } else { None };
            parameters.push((name, value));
            self.skip_whitespace();
            if !self.eat(b';') {
                return Some(parameters);
            }
        }
    }

    fn value(&mut self) -> Option<Cow<'a, str>> {
        if self.eat(b'"') { self.quoted().map(Cow::Owned) } else { self.token().map(Cow::Borrowed) }
    }

    /// The rest of a quoted string, unescaped (section 5.6.4). ASCII only: nothing that we read needs more.
    fn quoted(&mut self) -> Option<String> {
        let mut text = String::new();
        loop {
            let byte = match self.next()? {
                b'"' => return Some(text),
                b'\\' => self.next()?,
                byte => byte,
            };
            match byte {
                b'\t' | b' '..=b'~' => text.push(char::from(byte)),
                _ => return None,
            }
        }
    }

    fn token(&mut self) -> Option<&'a str> {
        let len = self.0.iter().take_while(|byte| is_token_byte(**byte)).count();
        let (token, rest) = self.0.split_at(len);
        self.0 = rest;
        if len == 0 { None } else { std::str::from_utf8(token).ok() }
    }

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.0.first() == Some(&byte);
        if found {
            self.0 = &self.0[1..];
        }
        found
    }

    fn skip_whitespace(&mut self) {
        while self.eat(b' ') || self.eat(b'\t') {}
    }
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Without optional whitespace (section 5.6.3) at both ends.
fn trim(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|byte| !is_whitespace(*byte)).unwrap_or(bytes.len());
    let end = bytes.iter().rposition(|byte| !is_whitespace(*byte)).map_or(start, |last| last + 1);
    &bytes[start..end]
}

fn is_whitespace(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}
