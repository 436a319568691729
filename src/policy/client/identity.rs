//! What a request says of who sent it: a header, a cookie or a query parameter, as a key and never as it is.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};

use http::header::COOKIE;
use http::request;

use super::{ClientKey, Who};
use crate::config::model::ClientBy;

/// A longer value is no identity.
const BYTES_MAX: usize = 4096;

/// Turns identities into keys, by a hash (SipHash) whose own key is random and this process's.
///
/// An identity may be a secret, so it is not kept and cannot be had back. Of a million clients, two share a hash of 64
/// bits by a chance of 1 to 37 million, and would share their limits; nobody can look for such a pair without the key.
#[derive(Debug, Clone, Default)]
pub struct Identities(RandomState);

impl Identities {
    /// `None` where the request has no such identity, an empty one, one that is too long, or more than one.
    pub(super) fn key(&self, by: &ClientBy, parts: &request::Parts) -> Option<ClientKey> {
        // The kind and the name count, too: the "bob" of a header is not the "bob" that anybody can write in a query.
        let (kind, name) = match by {
            ClientBy::Address => return None,
            ClientBy::Header(name) => (0, name.as_str()),
            ClientBy::Cookie(name) => (1, name.as_str()),
            ClientBy::Query(name) => (2, name.as_str()),
        };
        let value = value(by, parts)?;
        Some(ClientKey(Who::Identity(self.0.hash_one((kind, name, &*value)).to_be_bytes())))
    }
}

/// What a request has there. `None` where it has nothing, an empty value, one that is too long, or more than one.
pub fn value<'a>(by: &ClientBy, parts: &'a request::Parts) -> Option<Cow<'a, [u8]>> {
    let value = match by {
        ClientBy::Address => return None,
        ClientBy::Header(name) => header(parts, name.as_str())?.into(),
        ClientBy::Cookie(name) => cookie(parts, name)?.into(),
        ClientBy::Query(name) => parameter(parts, name)?,
    };
    (1..=BYTES_MAX).contains(&value.len()).then_some(value)
}

fn header<'a>(parts: &'a request::Parts, name: &str) -> Option<&'a [u8]> {
    let value = only(parts.headers.get_all(name).iter())?.as_bytes();
    // A list is several lines in one (RFC 9110 section 5.3): what a proxy appended to its client's own.
    (!value.contains(&b',')).then_some(value)
}

/// RFC 6265 section 4.2.1.
fn cookie<'a>(parts: &'a request::Parts, name: &str) -> Option<&'a [u8]> {
    let lines = parts.headers.get_all(COOKIE).iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';')).map(<[u8]>::trim_ascii);
    only(pairs.filter_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")))
}

/// Decoded, for some clients write `=` as it is and some as %3D.
pub(in crate::policy) fn parameter<'a>(parts: &'a request::Parts, name: &str) -> Option<Cow<'a, [u8]>> {
    let pairs = parts.uri.query()?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    only(pairs.filter(|(found, _)| *decoded(found) == *name.as_bytes())).map(|(_, value)| decoded(value))
}

/// What is encoded wrongly stays as it is: the value is compared with itself and nothing else.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    if !text.contains('%') {
        return text.as_bytes().into();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        let digit = |at: usize| behind.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high << 4 | low) as u8);
                rest = &behind[2..];
            }
            _ => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    bytes.into()
}

/// The only one. Two of a name are read in different ways: the first by some, the last by others.
pub(in crate::policy) fn only<T>(mut values: impl Iterator<Item = T>) -> Option<T> {
    values.next().filter(|_| values.next().is_none())
}
