//! Stickiness: what a request says of the server that its client met before, and what the client is told of it.
//!
//! In: heads, the first bytes of an answer. Out: servers, a `Set-Cookie`, session ids of Socket.IO. What a cookie holds
//! tells nothing of the server, nobody can make it up, and gateways with one key agree on it.

use std::borrow::Cow;
use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::header::{CACHE_CONTROL, COOKIE};
use http::{HeaderMap, HeaderValue, Method, request};

use super::client::identity::parameter;
use crate::config::model::{SameSite, StickyCookie};
use crate::proto::fields::grammar;

/// Short keys can be guessed.
const KEY_BYTES_MIN: usize = 16;
const KEY_BYTES_MAX: usize = 512;

const MAC_BYTES: usize = 16;
/// MAC and server, in base64url.
const SEALED_CHARS: usize = (MAC_BYTES + 8) / 3 * 4;
/// Cookies of our name that are looked at: a request with hundreds of them is nobody's mistake.
const COOKIES_MAX: usize = 4;

/// Longer than any session id of Engine.IO: 20 characters, or what a service makes itself.
const SID_BYTES_MAX: usize = 128;

/// What cookies are signed with.
#[derive(Clone)]
pub struct Key(hmac::Key);

/// Why a file holds no key. Never says a word of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    #[error("it holds more than one word, or none: write one key, like that of `openssl rand -hex 32`")]
    Words,
    #[error("the key is shorter than {KEY_BYTES_MIN} characters, and could be guessed")]
    Short,
    #[error("the key is longer than {KEY_BYTES_MAX} characters")]
    Long,
    #[error("the key is not of visible ASCII characters")]
    NotVisible,
}

impl Key {
    /// Another one at each call.
    pub fn random() -> Key {
        Key(hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>()))
    }

    /// Reads a file that holds a key and nothing else, but for white space around it.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(file: &[u8]) -> Result<Key, BadKey> {
        let mut words = file.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let (Some(key), None) = (words.next(), words.next()) else { return Err(BadKey::Words) };
        match key.len() {
            _ if !key.iter().all(u8::is_ascii_graphic) => Err(BadKey::NotVisible),
            ..KEY_BYTES_MIN => Err(BadKey::Short),
            KEY_BYTES_MIN..=KEY_BYTES_MAX => Ok(Key(hmac::Key::new(hmac::HMAC_SHA256, key))),
            _ => Err(BadKey::Long),
        }
    }

    /// What a cookie of `upstream` holds for `server`: its MAC, and the server under a pad that the MAC makes (as in
    /// RFC 5297). Always the same for the same server, so that nothing has to be set again.
    pub fn seal(&self, upstream: &str, server: u64) -> String {
        let mac = self.mac(upstream, server);
        let hidden = server ^ self.pad(&mac);
        BASE64_URL_SAFE_NO_PAD.encode([&mac[..], &hidden.to_be_bytes()].concat())
    }

    /// The server that a cookie names, when it was sealed for this upstream with this key.
    pub fn open(&self, upstream: &str, value: &[u8]) -> Option<u64> {
        if value.len() != SEALED_CHARS {
            return None;
        }
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(value).ok()?;
        let (mac, hidden) = bytes.split_first_chunk::<MAC_BYTES>()?;
        let server = u64::from_be_bytes(hidden.try_into().ok()?) ^ self.pad(mac);
        verify_slices_are_equal(&self.mac(upstream, server), mac).ok().map(|()| server)
    }

    fn mac(&self, upstream: &str, server: u64) -> [u8; MAC_BYTES] {
        self.sign(&[b"mac\0", &server.to_be_bytes(), upstream.as_bytes()])
    }

    fn pad(&self, mac: &[u8; MAC_BYTES]) -> u64 {
        u64::from_be_bytes(self.sign(&[b"pad\0", mac]))
    }

    fn sign<const N: usize>(&self, parts: &[&[u8]]) -> [u8; N] {
        *hmac::sign(&self.0, &parts.concat()).as_ref().first_chunk().expect("HMAC-SHA-256 has 32 bytes")
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// The server that the request's cookie of this name stands for. There may be several: one of an older path, one that
/// somebody else planted. The first that was sealed counts.
pub fn server(headers: &HeaderMap, name: &str, key: &Key, upstream: &str) -> Option<u64> {
    let lines = headers.get_all(COOKIE).iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';')).map(<[u8]>::trim_ascii);
    let values = pairs.filter_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    values.take(COOKIES_MAX).find_map(|value| key.open(upstream, value))
}

/// The `Set-Cookie` of what a server was sealed to; `secure`: the client came over TLS.
pub fn set_cookie(cookie: &StickyCookie, sealed: &str, secure: bool) -> HeaderValue {
    let StickyCookie { name, path, same_site, .. } = cookie;
    let same_site = match same_site {
        SameSite::Lax => "; SameSite=Lax",
        SameSite::Strict => "; SameSite=Strict",
        // Browsers drop it without `Secure`: there they do as they like, which is mostly Lax.
        SameSite::None if !secure => "",
        SameSite::None => "; SameSite=None",
    };
    let secure = if secure { "; Secure" } else { "" };
    let text = format!("{name}={sealed}; Path={path}; HttpOnly{same_site}{secure}");
    HeaderValue::try_from(text).expect("name and path of a configured cookie are visible characters")
}

/// Whether an answer is meant for shared caches (RFC 9111 section 5.2.2): a cookie in it would be everybody's.
pub fn is_shared(answer: &HeaderMap) -> bool {
    let is_public = |directive: &[u8]| {
        directive.eq_ignore_ascii_case(b"public") || directive.to_ascii_lowercase().starts_with(b"s-maxage")
    };
    grammar::members(answer, CACHE_CONTROL).any(is_public)
}

/// Keeps an answer that has the cookie from shared caches: they may keep others than those that are meant for them, and no
/// cookie hinders them (RFC 9111 sections 3 and 7.3).
pub fn keep_private(answer: &mut HeaderMap) {
    let is_kept =
        |directive: &[u8]| directive.eq_ignore_ascii_case(b"private") || directive.eq_ignore_ascii_case(b"no-store");
    if !grammar::members(answer, CACHE_CONTROL).any(is_kept) {
        answer.append(CACHE_CONTROL, HeaderValue::from_static("private"));
    }
}

/// The session of Engine.IO that a request belongs to.
pub fn sid(parts: &request::Parts) -> Option<Cow<'_, [u8]>> {
    parameter(parts, "sid").filter(|sid| (1..=SID_BYTES_MAX).contains(&sid.len()))
}

/// Whether a request opens a session of Engine.IO by polling: its answer tells the session's id.
pub fn opens_polling(parts: &request::Parts) -> bool {
    let is = |name, value: &[u8]| parameter(parts, name).is_some_and(|found| *found == *value);
    parts.method == Method::GET
        && is("transport", b"polling")
        && parameter(parts, "EIO").is_some()
        && parameter(parts, "sid").is_none()
}

/// Looks for the session id in the first bytes of the answer that opens a session, as they stream by:
/// `0{"sid":"lv_VI97HAXpY6yYWAAAB","upgrades":…`, with a length in front in version 3, with backslashes in JSONP.
#[derive(Debug, Default)]
pub struct Look {
    seen: Vec<u8>,
}

/// What a [`Look`] has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Sid(Vec<u8>),
    /// There may be one in what comes next.
    NotYet,
    Nothing,
}

/// Every server writes the id first.
const LOOK_BYTES_MAX: usize = 512;

impl Look {
    /// More of the body. After another answer than [`Found::NotYet`] the look is over.
    pub fn read(&mut self, bytes: &[u8]) -> Found {
        let room = LOOK_BYTES_MAX - self.seen.len();
        self.seen.extend_from_slice(&bytes[..bytes.len().min(room)]);
        match told_sid(&self.seen) {
            Some(sid) => Found::Sid(sid.to_vec()),
            None if self.seen.len() < LOOK_BYTES_MAX => Found::NotYet,
            None => Found::Nothing,
        }
    }
}

fn told_sid(body: &[u8]) -> Option<&[u8]> {
    const NAME: &[u8] = b"\"sid";
    let at = body.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
    let is_between = |byte: &u8| matches!(byte, b'"' | b'\\' | b':') || byte.is_ascii_whitespace();
    let start = at + body[at..].iter().position(|byte| !is_between(byte))?;
    let length = body[start..].iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
    (length <= SID_BYTES_MAX).then(|| &body[start..start + length])
}

#[cfg(test)]
mod tests;
