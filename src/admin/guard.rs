//! Who may ask. Pure: the head of a request, and what is known of where it came from.
//!
//! A loopback address keeps other machines out, not the browser on this one. So what a page could send is refused (a
//! request of a page has an Origin, or says that it comes from another site), and without a token so is every Host that a
//! page could have pointed here (DNS rebinding), and what another proxy passed on.

use http::HeaderMap;
use http::StatusCode;
use http::header::{AUTHORIZATION, FORWARDED, HOST, HeaderName, HeaderValue, ORIGIN, VIA};

use super::answer::Problem;
use crate::config::model::Secret;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What an interface demands.
#[derive(Debug)]
pub struct Guard<'a> {
    /// `None`: there is no token.
    pub token: Option<&'a Secret>,
    /// Who comes this way was let in already: by the mode of a Unix socket's file, or by a client certificate.
    pub trusted: bool,
    /// Beside `localhost` and addresses.
    pub hosts: &'a [String],
}

impl Guard<'_> {
    /// # Errors
    /// The first rule that the request breaks.
    pub fn admit(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let forbidden = |reason, detail: &'static str| Err(Problem::new(StatusCode::FORBIDDEN, reason, detail));
        let own_site = |site: &HeaderValue| site == "none" || site == "same-origin";
        if headers.contains_key(ORIGIN) || !headers.get_all(SEC_FETCH_SITE).iter().all(own_site) {
            return forbidden("cross_site", "web pages may not use the admin interface: ask from a program");
        }
        if let Some(token) = self.token {
            return has_token(headers, token);
        }
        if [VIA, FORWARDED, X_FORWARDED_FOR].iter().any(|name| headers.contains_key(name)) {
            return forbidden("proxied", "a proxy passed this on: set `token` in [admin] to allow that");
        }
        if !self.trusted && !self.is_named(headers) {
            return forbidden(
                "host",
                "not the name of this interface: ask for an address, or list the name in [admin] `hosts`",
            );
        }
        Ok(())
    }

    /// A name in DNS can be pointed here by anybody, an address cannot.
    fn is_named(&self, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(HOST).iter();
        let (Some(host), None) = (hosts.next().and_then(|host| host.to_str().ok()), hosts.next()) else { return false };
        let Ok(authority) = host.parse::<http::uri::Authority>() else { return false };
        if host.contains('@') {
            return false;
        }
        let name = authority.host().trim_end_matches('.').to_ascii_lowercase();
        let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(&name);
        let is_address = address.parse::<std::net::IpAddr>().is_ok();
        is_address || name == "localhost" || self.hosts.contains(&name)
    }
}

fn has_token(headers: &HeaderMap, token: &Secret) -> Result<(), Problem> {
    let denied = |reason, detail: &'static str| Problem::new(StatusCode::UNAUTHORIZED, reason, detail);
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else {
        let detail = "a token is needed: send `Authorization: Bearer TOKEN`";
        return Err(denied("token_missing", detail).challenge("Bearer"));
    };
    let credentials = field.as_bytes();
    let guess = credentials.split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
    match guess {
        Some((_, guess)) if token.is(guess.trim_ascii()) => Ok(()),
        _ => Err(denied("token_wrong", "this is not the token").challenge("Bearer error=\"invalid_token\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Fields<'a> = &'a [(&'a str, &'a str)];

    const TOKEN: &str = "0123456789abcdef";

    fn asked(guard: &Guard<'_>, fields: &[(&str, &str)]) -> &'static str {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name = HeaderName::try_from(*name).expect("a name");
            headers.append(name, HeaderValue::try_from(*value).expect("a value"));
        }
        guard.admit(&headers).map_or_else(|problem| problem.reason, |()| "admitted")
    }

    #[test]
    fn without_a_token_only_programs_that_name_an_address() {
        let hosts = ["gateway.internal".to_owned()];
        let guard = Guard { token: None, trusted: false, hosts: &hosts };
        let rows: [(&str, Fields<'_>, &str); 20] = [
            ("an address", &[("host", "127.0.0.1:9090")], "admitted"),
            ("an address of IPv6", &[("host", "[::1]:9090")], "admitted"),
            ("localhost", &[("host", "LocalHost:9090")], "admitted"),
            ("a name that is listed", &[("host", "gateway.internal")], "admitted"),
            ("with the dot of the root", &[("host", "gateway.internal.:9090")], "admitted"),
            ("a name that a page pointed here", &[("host", "evil.example:9090")], "host"),
            ("one below localhost", &[("host", "a.localhost")], "host"),
            ("an address as part of a name", &[("host", "127.0.0.1.evil.example")], "host"),
            ("no Host", &[], "host"),
            ("two", &[("host", "127.0.0.1"), ("host", "evil.example")], "host"),
            ("no valid one", &[("host", "127.0.0.1 evil")], "host"),
            ("somebody before it", &[("host", "evil.example@127.0.0.1")], "host"),
            ("a page", &[("host", "127.0.0.1:9090"), ("origin", "https://evil.example")], "cross_site"),
            ("a page without an origin to name", &[("host", "127.0.0.1"), ("origin", "null")], "cross_site"),
            ("a page of the same address", &[("host", "127.0.0.1"), ("origin", "http://127.0.0.1")], "cross_site"),
            ("a link from another site", &[("host", "127.0.0.1"), ("sec-fetch-site", "cross-site")], "cross_site"),
            ("from another port", &[("host", "127.0.0.1"), ("sec-fetch-site", "same-site")], "cross_site"),
            ("typed by hand", &[("host", "127.0.0.1"), ("sec-fetch-site", "none")], "admitted"),
            ("through this gateway", &[("host", "127.0.0.1"), ("via", "1.1 tidegate")], "proxied"),
            ("through another", &[("host", "127.0.0.1"), ("x-forwarded-for", "192.0.2.1")], "proxied"),
        ];
        for (what, fields, expected) in rows {
            assert_eq!(asked(&guard, fields), expected, "{what}");
        }
    }

    #[test]
    fn with_a_token_whoever_has_it() {
        let token = Secret(TOKEN.to_owned());
        let guard = Guard { token: Some(&token), trusted: false, hosts: &[] };
        let right = "Bearer 0123456789abcdef";
        let rows: [(&str, Fields<'_>, &str); 9] = [
            ("none", &[("host", "127.0.0.1")], "token_missing"),
            ("the right one", &[("host", "127.0.0.1"), ("authorization", right)], "admitted"),
            ("by any name", &[("host", "gateway"), ("authorization", right)], "admitted"),
            ("in lower case", &[("authorization", "bearer 0123456789abcdef")], "admitted"),
            ("a wrong one", &[("authorization", "Bearer 0123456789abcdee")], "token_wrong"),
            ("another scheme", &[("authorization", "Basic 0123456789abcdef")], "token_wrong"),
            ("nothing behind the scheme", &[("authorization", "Bearer ")], "token_wrong"),
            ("two", &[("authorization", right), ("authorization", right)], "token_missing"),
            ("a page that has it", &[("authorization", right), ("origin", "https://evil.example")], "cross_site"),
        ];
        for (what, fields, expected) in rows {
            assert_eq!(asked(&guard, fields), expected, "{what}");
        }
    }

    #[test]
    fn behind_a_socket_or_a_certificate_the_name_does_not_count() {
        let guard = Guard { token: None, trusted: true, hosts: &[] };
        assert_eq!(asked(&guard, &[("host", "anything")]), "admitted");
        assert_eq!(asked(&guard, &[("host", "anything"), ("origin", "https://evil.example")]), "cross_site");
        assert_eq!(asked(&guard, &[("host", "anything"), ("via", "1.1 tidegate")]), "proxied");
    }
}
