//! Which pages may connect, by the request's `Origin` (RFC 6455 section 10.2, RFC 6454).
//!
//! A browser sends the cookies of the target with every WebSocket handshake, whichever page opened it: without this
//! check any page acts in its visitor's name (CVE-2026-112085, CVE-2026-44211).

use http::HeaderMap;
use http::header::ORIGIN;

use crate::config::model::{OriginPattern, Origins};
use crate::proto::fields::Host;
use crate::proto::refusal::Refusal;

/// One origin in normal form (RFC 6454 section 4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Lower case.
    pub scheme: String,
    /// Lower case, no trailing dot, no brackets.
    pub host: String,
    /// The scheme's default filled in; 0 for a scheme that has none (`chrome-extension`).
    pub port: u16,
}

/// Whether the route lets this request's origin connect. `secure` and `host` are what the client itself asked for
/// ([`crate::proto::fields::asked`]).
///
/// # Errors
/// When there is more than one Origin, or one that is malformed, missing or not allowed.
pub fn check(origins: &Origins, headers: &HeaderMap, secure: bool, host: &Host) -> Result<(), Refusal> {
    let mut lines = headers.get_all(ORIGIN).iter();
    let Some(line) = lines.next() else {
        return if origins.any || origins.none { Ok(()) } else { Err(Refusal::OriginMissing) };
    };
    // Even where any may connect: the upstream could read another one than we do.
    let text = line.to_str().ok().filter(|text| is_one_word(text)).ok_or(Refusal::OriginMalformed)?;
    if lines.next().is_some() {
        return Err(Refusal::OriginMalformed);
    }
    if origins.any {
        return Ok(());
    }
    // RFC 6454 section 7.3: `null` is whoever hides where it comes from, a sandboxed frame for one.
    if text == "null" {
        return Err(Refusal::OriginNotAllowed);
    }
    let origin = Origin::parse(text).ok_or(Refusal::OriginMalformed)?;
    let same = origins.same_origin && origin.is_same(secure, host);
    if same || origins.list.iter().any(|pattern| origin.matches(pattern)) {
        Ok(())
    } else {
        Err(Refusal::OriginNotAllowed)
    }
}

/// The port that a scheme implies.
pub fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

impl Origin {
    /// `scheme://host[:port]` and nothing else (RFC 6454 section 7.1); names beyond ASCII come in punycode.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
        // `Host` takes a colon without a port, an origin has none.
        if !is_scheme || authority.ends_with(':') {
            return None;
        }
        let host: Host = authority.parse().ok()?;
        let scheme = scheme.to_ascii_lowercase();
        let port = host.port_or(default_port(&scheme).unwrap_or(0));
        Some(Self { scheme, host: host.name, port })
    }

    fn is_same(&self, secure: bool, host: &Host) -> bool {
        let (scheme, port) = if secure { ("https", 443) } else { ("http", 80) };
        self.scheme == scheme && self.host == host.name && self.port == host.port_or(port)
    }

    fn matches(&self, pattern: &OriginPattern) -> bool {
        let host = if pattern.below { is_below(&self.host, &pattern.host) } else { self.host == pattern.host };
        self.scheme == pattern.scheme && self.port == pattern.port && host
    }
}

/// Whether `name` is a proper subdomain, at any depth: neither `example.com` itself nor `evil-example.com`.
pub(super) fn is_below(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent).and_then(|front| front.strip_suffix('.')).is_some_and(|labels| !labels.is_empty())
}

/// Not empty, and without what would make it a list.
fn is_one_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::fields::testing::lines;

    /// `any`, `none`, `same-origin`, or origins as `https://*.example.com`.
    fn rules(text: &str) -> Origins {
        let words: Vec<&str> = text.split_whitespace().collect();
        let list = words.iter().filter(|word| word.contains("://")).map(|word| {
            let below = word.contains("*.");
            let Origin { scheme, host, port } = Origin::parse(&word.replace("*.", "")).unwrap();
            OriginPattern { scheme, host, port, below }
        });
        Origins {
            any: words.contains(&"any"),
            none: words.contains(&"none"),
            same_origin: words.contains(&"same-origin"),
            list: list.collect(),
        }
    }

    #[test]
    fn origins_that_may_connect_and_that_may_not() {
        use Refusal::{OriginMalformed as Malformed, OriginMissing as Missing, OriginNotAllowed as NotAllowed};
        const LIST: &str = "https://chat.example.com https://*.example.org http://[2001:db8::1]:8080";
        #[rustfmt::skip]
        let rows = [
            // name, rules, what was asked for, lines of Origin, verdict
            ("listed", LIST, "https://a", "https://chat.example.com", Ok(())),
            ("listed, with the default port", LIST, "https://a", "https://chat.example.com:443", Ok(())),
            ("listed, in another case", LIST, "https://a", "HTTPS://Chat.Example.COM", Ok(())),
            ("listed, with a trailing dot", LIST, "https://a", "https://chat.example.com.", Ok(())),
            ("listed, IPv6 in another form", LIST, "https://a", "http://[2001:DB8:0::1]:8080", Ok(())),
            ("another host", LIST, "https://a", "https://evil.example", Err(NotAllowed)),
            ("another scheme", LIST, "https://a", "http://chat.example.com", Err(NotAllowed)),
            ("another port", LIST, "https://a", "https://chat.example.com:8443", Err(NotAllowed)),
            ("http on the port of https", LIST, "https://a", "http://chat.example.com:443", Err(NotAllowed)),
            ("the listed one as a prefix", LIST, "https://a", "https://chat.example.com.evil.example", Err(NotAllowed)),
            ("the listed one as a suffix", LIST, "https://a", "https://evilchat.example.com", Err(NotAllowed)),
            ("no list and not the same", "", "https://a", "https://a", Err(NotAllowed)),
            ("a subdomain", LIST, "https://a", "https://a.example.org", Ok(())),
            ("a subdomain of a subdomain", LIST, "https://a", "https://b.a.example.org", Ok(())),
            ("the apex of a wildcard", LIST, "https://a", "https://example.org", Err(NotAllowed)),
            ("a suffix that is no subdomain", LIST, "https://a", "https://evil-example.org", Err(NotAllowed)),
            ("a suffix without its dot", LIST, "https://a", "https://evilexample.org", Err(NotAllowed)),
            ("an empty subdomain", LIST, "https://a", "https://.example.org", Err(Malformed)),
            ("a subdomain with another scheme", LIST, "https://a", "http://a.example.org", Err(NotAllowed)),
            ("a wildcard that is taken literally", LIST, "https://a", "https://*.example.org", Err(Malformed)),
            ("same origin", "same-origin", "https://a.example", "https://a.example", Ok(())),
            ("same origin without TLS", "same-origin", "http://a.example", "http://a.example", Ok(())),
            ("same origin with a port", "same-origin", "http://a.example:8080", "http://a.example:8080", Ok(())),
            ("same origin, default port in the Host", "same-origin", "https://a.example:443", "https://a.example",
                Ok(())),
            ("same origin, IPv6", "same-origin", "http://[::1]:8080", "http://[::1]:8080", Ok(())),
            ("same host, another scheme", "same-origin", "https://a.example", "http://a.example", Err(NotAllowed)),
            ("same host, another port", "same-origin", "https://a.example:8443", "https://a.example", Err(NotAllowed)),
            ("same host, another port of the origin", "same-origin", "http://a.example", "http://a.example:8080",
                Err(NotAllowed)),
            ("a page of the same domain", "same-origin", "https://a.example", "https://b.a.example", Err(NotAllowed)),
            ("wss is not the scheme of a page", "same-origin", "https://a.example", "wss://a.example", Err(NotAllowed)),
            ("same-origin and a request without one", "same-origin", "https://a", "-", Err(Missing)),
            ("none", "none", "https://a", "-", Ok(())),
            ("none, but a page", "none", "https://a", "https://a", Err(NotAllowed)),
            ("no rule and no Origin (CVE-2026-44211)", "", "https://a", "-", Err(Missing)),
            ("null", "same-origin none https://a", "https://a", "null", Err(NotAllowed)),
            ("any", "any", "https://a", "https://evil.example", Ok(())),
            ("any, null", "any", "https://a", "null", Ok(())),
            ("any, none", "any", "https://a", "-", Ok(())),
            ("any, no origin at all", "any", "https://a", "whatever", Ok(())),
            ("any, twice", "any", "https://a", "https://a\nhttps://a", Err(Malformed)),
            ("any, a list", "any", "https://a", "https://a https://b", Err(Malformed)),
            ("any, a list with commas", "any", "https://a", "https://a,https://b", Err(Malformed)),
            ("any, a control byte", "any", "https://a", "https://a\tb", Err(Malformed)),
            ("any, beyond ASCII", "any", "https://a", "https://é", Err(Malformed)),
            ("any, empty", "any", "https://a", "", Err(Malformed)),
            ("twice", LIST, "https://a", "https://chat.example.com\nhttps://evil.example", Err(Malformed)),
            ("twice the same", LIST, "https://a", "https://chat.example.com\nhttps://chat.example.com", Err(Malformed)),
            ("a list", LIST, "https://a", "https://chat.example.com https://evil.example", Err(Malformed)),
            ("userinfo", LIST, "https://a", "https://chat.example.com@evil.example", Err(Malformed)),
            ("userinfo in front", LIST, "https://a", "https://evil@chat.example.com", Err(Malformed)),
            ("a path", LIST, "https://a", "https://chat.example.com/", Err(Malformed)),
            ("a query", LIST, "https://a", "https://chat.example.com?x", Err(Malformed)),
            ("a backslash", LIST, "https://a", "https://evil.example\\.chat.example.com", Err(Malformed)),
            ("no scheme", LIST, "https://a", "chat.example.com", Err(Malformed)),
            ("no host", LIST, "https://a", "file://", Err(Malformed)),
            ("a colon without a port", LIST, "https://a", "https://chat.example.com:", Err(Malformed)),
            ("a port that is none", LIST, "https://a", "https://chat.example.com:x", Err(Malformed)),
            ("IPv6 without brackets", LIST, "https://a", "http://2001:db8::1", Err(Malformed)),
            ("punycode as it is", "https://xn--bcher-kva.example", "https://a", "https://xn--bcher-kva.example",
                Ok(())),
            ("an extension", "chrome-extension://abcdef", "https://a", "chrome-extension://abcdef", Ok(())),
            ("another extension", "chrome-extension://abcdef", "https://a", "chrome-extension://abcdeg",
                Err(NotAllowed)),
        ];
        for (name, origins, asked, sent, expected) in rows {
            let (scheme, host) = asked.split_once("://").unwrap();
            let line = |origin: &str| format!("origin: {origin}\n");
            let sent = sent.split('\n').filter(|origin| *origin != "-").map(line).collect::<String>();
            let verdict = check(&rules(origins), &lines(&sent), scheme == "https", &host.parse().unwrap());
            assert_eq!(verdict, expected, "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_was_read_is_in_normal_form(text in "([a-z+.-]{0,8}://)?[ -~é]{0,40}") {
            if let Some(origin) = Origin::parse(&text) {
                prop_assert_eq!(&origin.host, &origin.host.to_ascii_lowercase());
                prop_assert!(!origin.host.is_empty() && !origin.host.contains(['/', '@', '[', '*']));
            }
        }

        #[test]
        fn a_wildcard_matches_only_below(front in "[a-z.-]{0,12}", parent in "[a-z]{1,5}\\.[a-z]{2,3}") {
            let name = format!("{front}{parent}");
            prop_assert_eq!(is_below(&name, &parent), front.len() > 1 && front.ends_with('.'));
        }
    }
}
