//! `[[listener]]` and its TLS.

use std::path::PathBuf;

use ipnet::IpNet;

use crate::config::Files;
use crate::config::model::{
    CertificateFiles, ClientAuth, Limits, Listener, ListenerAddress, ListenerTls, Position, TlsVersions, TrustedProxies,
};
use crate::config::problem::Source;
use crate::config::read::Reader;
use crate::config::value::{self, Parsed, Wrong, boolean, number, one_of, string};

use super::access::access;
use super::limits::listener_limits;
use super::{Bound, all, each, file};

pub(super) fn listener(mut table: Reader<'_, '_>, source: &Source, wider: Option<&Limits>) -> Bound<Listener> {
    let address = table.value("address", |node| Ok((string(value::listener_address)(node)?, node.at)));
    let (reuse_port_at, reuse_port) = (table.written("reuse_port"), table.value("reuse_port", boolean));
    let (tls_at, proxy_protocol_at) = (table.written("tls"), table.written("proxy_protocol"));
    let tls = table.table("tls").and_then(|tls| listener_tls(tls, source));
    if let Some(tls) = &tls {
        table.inspect(Files::Listener(tls), |at| format!("tls{}", key_at(tls, at)));
    }
    let everyone = table.written("trusted_proxies");
    let trusted_proxies = table.list("trusted_proxies", string(trusted));
    let trusted_proxies = trusted_proxies.and_then(all).map(|list| TrustedProxies {
        unix: list.contains(&Trusted::Unix),
        networks: list.into_iter().filter_map(Trusted::network).collect(),
    });
    let proxy_protocol = table.value("proxy_protocol", boolean);
    let proxy_protocol_timeout = table.value("proxy_protocol_timeout", string(value::duration));
    let tls_timeout = table.value("tls_timeout", string(value::duration));
    let head_timeout = table.value("head_timeout", string(value::duration));
    // hyper takes no smaller buffer than 8 KiB.
    let head_bytes_max = table.value("head_bytes_max", |node| {
        let bytes = string(value::size)(node)?;
        match (8 << 10..=1 << 20).contains(&bytes) {
            true => Ok(bytes as usize),
            false => Err(Wrong::new(format!("{} is not allowed", value::show_size(bytes))).help("from 8KiB to 1MiB")),
        }
    });
    let headers_max = table.value("headers_max", number(16..=1000));
    let access = access(&mut table);
    let limits = table.table("limits").and_then(|table| listener_limits(table, wider));
    let mut believed = trusted_proxies.iter().flat_map(|proxies| &proxies.networks);
    if let (true, Some(at)) = (believed.any(|net| net.prefix_len() == 0), everyone) {
        let wrong = Wrong::new("every client is trusted, so every client can claim any address");
        table.warn(at, "trusted_proxies", wrong.help("list only the networks of your own proxies"));
    }
    if let (Some((ListenerAddress::Tcp(address), at)), Some(tls)) = (&address, &tls)
        && tls.development
        && !address.ip().is_loopback()
    {
        let wrong = Wrong::new("a development certificate is believed by nobody else");
        table.warn(*at, "address", wrong.help("use a real certificate, or listen on 127.0.0.1"));
    }
    let unix = matches!(address, Some((ListenerAddress::Unix(_), _)));
    if let (true, Some(at)) = (unix, tls_at) {
        let wrong = Wrong::new("TLS is not served on a Unix socket, where nobody could listen in");
        table.wrong(at, "tls", wrong.help("remove it, and let the proxy in front speak TLS to the clients"));
    }
    if let (true, Some(true), Some(at)) = (unix, reuse_port, reuse_port_at) {
        let wrong = Wrong::new("a Unix socket has no port to share");
        table.wrong(at, "reuse_port", wrong.help("remove it, or let systemd open the socket for both processes"));
    }
    if let (Some(_), Some(proxies)) = (&address, &trusted_proxies) {
        believers_can_come(&table, unix, proxies, everyone);
        let somebody = if unix { proxies.unix } else { !proxies.networks.is_empty() };
        if let (Some(true), false, Some(at)) = (proxy_protocol, somebody, proxy_protocol_at) {
            let wrong = Wrong::new("no trusted proxy can connect here, and nobody else may say who its client is");
            let example = if unix { "[\"unix\"]" } else { "[\"10.0.0.0/8\"]" };
            table.wrong(at, "proxy_protocol", wrong.help(format!("add `trusted_proxies = {example}`")));
        }
    }
    let key = table.path_of("address");
    table.finish();
    let build = || {
        let (address, address_at) = address.clone()?;
        Some(Listener {
            address,
            address_at,
            reuse_port: reuse_port?,
            tls: if tls_at.is_some() { Some(tls?) } else { None },
            trusted_proxies: trusted_proxies?,
            proxy_protocol: proxy_protocol?.then_some(proxy_protocol_timeout?),
            tls_timeout: tls_timeout?,
            head_timeout: head_timeout?,
            head_bytes_max: head_bytes_max?,
            headers_max: headers_max? as usize,
            access: access?,
            limits: limits?,
        })
    };
    let value = build();
    Bound { address, key, value }
}

/// One entry of `trusted_proxies`.
#[derive(PartialEq)]
enum Trusted {
    Network(IpNet),
    Unix,
}

impl Trusted {
    fn network(self) -> Option<IpNet> {
        match self {
            Trusted::Network(network) => Some(network),
            Trusted::Unix => None,
        }
    }
}

fn trusted(text: &str) -> Parsed<Trusted> {
    match text {
        "unix" => Ok(Trusted::Unix),
        _ => value::network(text).map(Trusted::Network),
    }
}

/// Trust in peers that cannot connect here is hardly meant.
fn believers_can_come(table: &Reader<'_, '_>, unix: bool, proxies: &TrustedProxies, at: Option<Position>) {
    let Some(at) = at else { return };
    if proxies.unix && !unix {
        let wrong = Wrong::new("\"unix\" has no effect: this listener is no Unix socket");
        table.warn(at, "trusted_proxies", wrong.help("list the networks of your proxies"));
    }
    if unix && !proxies.unix && !proxies.networks.is_empty() {
        let wrong = Wrong::new("has no effect: peers of a Unix socket have no address");
        table.warn(at, "trusted_proxies", wrong.help("add \"unix\" to trust whoever opens the socket"));
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Auth {
    Off,
    Optional,
    Required,
}

fn listener_tls(mut table: Reader<'_, '_>, source: &Source) -> Option<ListenerTls> {
    let first = certificate_pair(&mut table, source);
    let more = each(table.tables("certificates"), |mut table| {
        let certificate = table.value("certificate", file(source));
        let key = table.value("key", file(source));
        table.finish();
        Some(pair(certificate?, key?))
    });
    let development_at = table.written("development");
    let development = table.value("development", boolean);
    let auth_at = table.written("client_auth");
    let auth = table.value(
        "client_auth",
        one_of(&[("off", Auth::Off), ("optional", Auth::Optional), ("required", Auth::Required)]),
    );
    let ca_at = table.written("client_ca");
    let ca = table.value("client_ca", file(source));
    let versions = table.value("min_version", one_of(&[("1.2", TlsVersions::From12), ("1.3", TlsVersions::Only13)]));

    match (auth, ca_at) {
        (Some(Auth::Off), Some(at)) => {
            let wrong = Wrong::new("is given, but `client_auth` is \"off\": no client would be checked");
            table.wrong(at, "client_ca", wrong.help("add `client_auth = \"required\"`, or remove it"));
        }
        (Some(Auth::Optional | Auth::Required), None) => {
            let wrong = Wrong::new("is missing: `client_auth` needs to know whom to believe");
            table.absent(auth_at.unwrap_or(table.at()), "client_ca", wrong.help("add `client_ca = \"FILE.pem\"`"));
        }
        _ => {}
    }
    let none_given = matches!(first, Ok(None)) && more.is_empty();
    if development == Some(true) && matches!(first, Ok(None)) {
        let wrong = Wrong::new("needs `certificate` and `key`: where the certificate is to be made");
        table.absent(development_at.unwrap_or(table.at()), "development", wrong);
    } else if none_given {
        let wrong = Wrong::new("no certificate").help("add `certificate = \"FILE.pem\"` and `key = \"FILE.key\"`");
        table.absent(table.at(), "certificate", wrong);
    }
    table.finish();

    let certificates = first.ok()?.into_iter().map(Some).chain(more).collect::<Option<Vec<_>>>()?;
    let client_auth = match (auth?, ca) {
        (Auth::Off, _) => ClientAuth::Off,
        (Auth::Optional, ca) => ca.map(|(ca, ca_at)| ClientAuth::Optional { ca, ca_at })?,
        (Auth::Required, ca) => ca.map(|(ca, ca_at)| ClientAuth::Required { ca, ca_at })?,
    };
    Some(ListenerTls { certificates, development: development?, client_auth, versions: versions? })
}

/// Which key of `tls` stands at a position.
pub(super) fn key_at(tls: &ListenerTls, at: Position) -> String {
    for (index, files) in tls.certificates.iter().enumerate() {
        let pair = if index == 0 { String::new() } else { format!(".certificates[{index}]") };
        if files.certificate_at == at {
            return format!("{pair}.certificate");
        }
        if files.key_at == at {
            return format!("{pair}.key");
        }
    }
    match &tls.client_auth {
        ClientAuth::Optional { ca_at, .. } | ClientAuth::Required { ca_at, .. } if *ca_at == at => {
            ".client_ca".to_owned()
        }
        _ => String::new(),
    }
}

/// A pair that is wrong, with its problem reported.
pub(super) struct Refused;

/// `certificate` and `key`, which come together or not at all.
pub(super) fn certificate_pair(
    table: &mut Reader<'_, '_>,
    source: &Source,
) -> Result<Option<CertificateFiles>, Refused> {
    let (certificate_at, key_at) = (table.written("certificate"), table.written("key"));
    let certificate = table.value("certificate", file(source));
    let key = table.value("key", file(source));
    match (certificate_at, key_at) {
        (Some(at), None) => table.absent(at, "key", Wrong::new("is missing: a certificate needs its private key")),
        (None, Some(at)) => table.absent(at, "certificate", Wrong::new("is missing: a key needs its certificate")),
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {}
    }
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some(pair(certificate, key))),
        _ => Err(Refused),
    }
}

fn pair((certificate, certificate_at): (PathBuf, Position), (key, key_at): (PathBuf, Position)) -> CertificateFiles {
    CertificateFiles { certificate, certificate_at, key, key_at }
}
