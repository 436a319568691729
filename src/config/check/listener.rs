//! `[[listener]]` and its TLS.

use std::path::PathBuf;

use crate::config::Files;
use crate::config::model::{CertificateFiles, ClientAuth, Listener, ListenerTls, Position, TlsVersions};
use crate::config::problem::Source;
use crate::config::read::Reader;
use crate::config::value::{self, Wrong, boolean, number, one_of, string};

use super::{Bound, all, each, file};

pub(super) fn listener(mut table: Reader<'_, '_>, source: &Source) -> Bound<Listener> {
    let address = table.value("address", |node| Ok((string(value::socket_address)(node)?, node.at)));
    let tls_written = table.written("tls").is_some();
    let tls = table.table("tls").and_then(|tls| listener_tls(tls, source));
    if let Some(tls) = &tls {
        table.inspect(Files::Listener(tls), |at| format!("tls{}", key_at(tls, at)));
    }
    let everyone = table.written("trusted_proxies");
    let trusted_proxies = table.list("trusted_proxies", string(value::network));
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
    let believed = trusted_proxies.iter().flatten().flatten();
    if let (true, Some(at)) = (believed.into_iter().any(|net| net.prefix_len() == 0), everyone) {
        let wrong = Wrong::new("every client is trusted, so every client can claim any address");
        table.warn(at, "trusted_proxies", wrong.help("list only the networks of your own proxies"));
    }
    if let (Some((address, at)), Some(tls)) = (&address, &tls)
        && tls.development
        && !address.ip().is_loopback()
    {
        let wrong = Wrong::new("a development certificate is believed by nobody else");
        table.warn(*at, "address", wrong.help("use a real certificate, or listen on 127.0.0.1"));
    }
    let key = table.path_of("address");
    table.finish();
    let build = || {
        let (address, address_at) = address?;
        Some(Listener {
            address,
            address_at,
            tls: if tls_written { Some(tls?) } else { None },
            trusted_proxies: all(trusted_proxies?)?,
            tls_timeout: tls_timeout?,
            head_timeout: head_timeout?,
            head_bytes_max: head_bytes_max?,
            headers_max: headers_max? as usize,
        })
    };
    Bound { address, key, value: build() }
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
fn key_at(tls: &ListenerTls, at: Position) -> String {
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
