//! API keys: the file that holds them, where a request may carry one, and whether it is one of them.
//!
//! In: the text of a file, the head of a request. Out: a [`KeySet`], a request without its key, a name. A key itself is
//! kept nowhere, and nothing here that can be printed holds one.

mod place;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::hmac;

use crate::grant::Grant;

pub use place::{Presented, Taken, holds_key, is_bearer, take};

/// Short keys can be guessed.
const KEY_BYTES_MIN: usize = 16;
const KEY_BYTES_MAX: usize = 512;
const NAME_BYTES_MAX: usize = 80;

type Tag = [u8; 32];

/// The keys of one file.
///
/// They are kept as HMACs under a secret of this process. What somebody sends goes the same way before it is looked up,
/// so the time that takes tells nothing about how near a guess is, and a wrong key costs as much as a right one.
pub struct KeySet {
    secret: hmac::Key,
    keys: HashMap<Tag, Key>,
}

/// What is known of a key besides the key.
#[derive(Debug, Clone)]
pub struct Key {
    /// Its name in the file, or `line 3`.
    pub name: Arc<str>,
    /// Revoked when the key has left the file.
    pub grant: Arc<Grant>,
}

/// What is wrong with a file of keys. Never says a word of the file: any of them could be a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadKeys {
    #[error("it is not UTF-8")]
    NotUtf8,
    #[error("it holds no key: write one on a line, as `name: key`")]
    Empty,
    #[error("line {line}: {fault}")]
    Line { line: usize, fault: Fault },
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("more than a name and a key: a key has no spaces")]
    Words,
    #[error("a colon without a space behind it: write `name: key`")]
    Colon,
    #[error("the name is longer than {NAME_BYTES_MAX} bytes, or not of visible ASCII characters")]
    Name,
    #[error("the key is shorter than {KEY_BYTES_MIN} characters, and could be guessed")]
    Short,
    #[error("the key is longer than {KEY_BYTES_MAX} characters")]
    Long,
    #[error("the key is not of visible ASCII characters")]
    NotVisible,
    #[error("the key stands in line {0} already")]
    Repeated(usize),
}

impl KeySet {
    /// Reads a file: on each line a key, or a name and a key: `name: key`. Empty lines and what follows a `#` do not
    /// count.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(file: &[u8]) -> Result<KeySet, BadKeys> {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<Tag>());
        KeySet::read(file, secret, &HashMap::new())
    }

    /// Reads the file again: what stays in it keeps its [`Grant`]. Nothing is revoked yet.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn successor(&self, file: &[u8]) -> Result<KeySet, BadKeys> {
        KeySet::read(file, self.secret.clone(), &self.keys)
    }

    fn read(file: &[u8], secret: hmac::Key, known: &HashMap<Tag, Key>) -> Result<KeySet, BadKeys> {
        let text = std::str::from_utf8(file).map_err(|_| BadKeys::NotUtf8)?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut keys = HashMap::new();
        let mut lines = HashMap::new();
        for (line, text) in (1..).zip(text.lines()) {
            let Some((name, key)) = entry(text).map_err(|fault| BadKeys::Line { line, fault })? else { continue };
            let tag = tag(&secret, key.as_bytes());
            if let Some(first) = lines.insert(tag, line) {
                return Err(BadKeys::Line { line, fault: Fault::Repeated(first) });
            }
            let name = name.map_or_else(|| format!("line {line}").into(), Arc::from);
            let grant = known.get(&tag).map(|key| key.grant.clone()).unwrap_or_default();
            keys.insert(tag, Key { name, grant });
        }
        if keys.is_empty() { Err(BadKeys::Empty) } else { Ok(KeySet { secret, keys }) }
    }

    /// The key of a request, when it is one of these.
    pub fn find(&self, presented: &Presented) -> Option<&Key> {
        self.keys.get(&tag(&self.secret, presented.reveal()))
    }

    /// Revokes what its successor does not have any more, and says how many keys that were.
    pub fn revoke_missing(&self, successor: &KeySet) -> usize {
        let gone = self.keys.iter().filter(|(tag, _)| !successor.keys.contains_key(*tag));
        gone.map(|(_, key)| key.grant.revoke()).count()
    }

    /// How many keys; never 0.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.keys.len()
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeySet({} keys)", self.keys.len())
    }
}

fn tag(secret: &hmac::Key, key: &[u8]) -> Tag {
    hmac::sign(secret, key).as_ref().try_into().expect("HMAC-SHA-256 has 32 bytes")
}

/// The name and the key of a line.
fn entry(line: &str) -> Result<Option<(Option<&str>, &str)>, Fault> {
    let mut words = line.split_whitespace().take_while(|word| !word.starts_with('#'));
    let (name, key) = match (words.next(), words.next()) {
        (None, _) => return Ok(None),
        (Some(key), None) if key.contains(':') => return Err(Fault::Colon),
        (Some(key), None) => (None, key),
        (Some(name), Some(key)) => (Some(name.strip_suffix(':').unwrap_or(name)), key),
    };
    let is_visible = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if words.next().is_some() {
        return Err(Fault::Words);
    }
    if name.is_some_and(|name| name.is_empty() || name.len() > NAME_BYTES_MAX || !is_visible(name)) {
        return Err(Fault::Name);
    }
    match key.len() {
        _ if !is_visible(key) => Err(Fault::NotVisible),
        ..KEY_BYTES_MIN => Err(Fault::Short),
        KEY_BYTES_MIN..=KEY_BYTES_MAX => Ok(Some((name, key))),
        _ => Err(Fault::Long),
    }
}

#[cfg(test)]
mod tests;
