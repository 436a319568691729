//! TLS of a listener: from its configuration to the `ServerConfig` that its handshakes run on.
//!
//! Certificates are chosen by SNI (RFC 6066 section 3) among the names in subjectAltName. Everything that can be wrong
//! with a file is a [`TlsError`] here, before the first connection. Nothing in this file touches a socket.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::TrustAnchor;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};
use time::OffsetDateTime;

use crate::config::model::{CertificateFiles, ClientAuth, ListenerTls, Position, TlsVersions};
use crate::pem;
use crate::pem::identity::{self, Identity, TlsProblem};

mod make;

pub use crate::pem::identity::TlsError;
pub use make::{Made, ensure_development, make_certificate};

/// A certificate that a listener serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// DNS names in lower case, wildcards as `*.example.com`, and IP addresses.
    pub names: Vec<String>,
    pub not_after: OffsetDateTime,
}

/// What the handshakes of a listener run on.
#[derive(Debug)]
pub struct Served {
    pub config: Arc<ServerConfig>,
    /// In the order of the listener.
    pub certificates: Vec<Certificate>,
    keys: Vec<Arc<CertifiedKey>>,
    versions: TlsVersions,
    guard: Option<Guard>,
}

/// Whose certificates clients have to show.
#[derive(Debug, PartialEq, Eq)]
struct Guard {
    roots: Vec<TrustAnchor<'static>>,
    optional: bool,
}

/// Builds what the listener's handshakes run on: see [`Served::load`].
pub fn load(tls: &ListenerTls) -> Result<Arc<ServerConfig>, TlsError> {
    Served::load(tls, None).map(|served| served.config.clone())
}

impl Served {
    /// Certificates by SNI, ALPN `http/1.1` alone, TLS 1.3 (and 1.2), tickets.
    ///
    /// What follows `before` on the same listener keeps its ticket keys, so that clients resume their sessions under a new
    /// certificate too. Where nothing has changed it is the same.
    ///
    /// # Errors
    ///
    /// The first file that is missing, unreadable, of the wrong kind, expired, not yet valid, without names, or whose key
    /// is not the certificate's.
    pub fn load(tls: &ListenerTls, before: Option<&Arc<Served>>) -> Result<Arc<Served>, TlsError> {
        let guard = Guard::of(&tls.client_auth)?;
        let verifier = guard.as_ref().map_or_else(
            || Ok(WebPkiClientVerifier::no_client_auth()),
            |(guard, ca, at)| {
                guard.verifier().map_err(|error| TlsError::new(*at, (*ca).clone(), TlsProblem::ClientAuth(error)))
            },
        )?;
        let guard = guard.map(|(guard, ..)| guard);
        let identities = identities(tls)?;
        let keys: Vec<_> = identities.iter().map(|identity| identity.certified.clone()).collect();
        // A ticket must not carry a client past other rules for client certificates.
        let before = before.filter(|before| before.guard == guard);
        if let Some(before) = before.filter(|before| before.versions == tls.versions && before.shows(&keys)) {
            return Ok(before.clone());
        }
        let certificates = identities.iter().map(Certificate::of).collect();
        let whole = |error| TlsError::new(tls.certificates[0].certificate_at, None, TlsProblem::Rustls(error));
        let versions: &[_] = match tls.versions {
            TlsVersions::From12 => &[&TLS13, &TLS12],
            TlsVersions::Only13 => &[&TLS13],
        };
        let mut config = ServerConfig::builder_with_provider(identity::provider())
            .with_protocol_versions(versions)
            .map_err(whole)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(ByName::new(identities)));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Sessions are resumed from tickets, which the clients keep, so nothing is stored here. Every listener has
        // ticket keys of its own: a ticket must not carry a client past the client certificate rules of another one
        // (CVE-2025-23419).
        config.ticketer = match before {
            Some(before) => before.config.ticketer.clone(),
            None => Ticketer::new().map_err(whole)?,
        };
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(Served { config: Arc::new(config), certificates, keys, versions: tls.versions, guard }))
    }

    /// Whether it shows exactly these chains. Each has its key, or would not have been read.
    fn shows(&self, keys: &[Arc<CertifiedKey>]) -> bool {
        self.keys.iter().map(|key| &key.cert).eq(keys.iter().map(|key| &key.cert))
    }
}

impl Certificate {
    fn of(identity: &Identity) -> Self {
        Certificate { names: identity.leaf.names.clone(), not_after: identity.leaf.not_after }
    }
}

/// The certificates of a listener in their order, with the checks of [`load`]: for what start-up prints.
pub fn certificates(tls: &ListenerTls) -> Result<Vec<Certificate>, TlsError> {
    Ok(identities(tls)?.iter().map(Certificate::of).collect())
}

/// What a client that speaks plain HTTP to a TLS port is told, whole, before the connection is closed.
pub const PLAIN_HTTP_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 46\r\n\
    Connection: close\r\n\
    \r\n\
    This port speaks TLS: use wss:// or https://.\n";

/// Whether the first bytes of a connection begin an HTTP request rather than a ClientHello, which begins with the
/// content type handshake, 22 (RFC 8446 section 5.1). The bytes may be fewer than a method has.
pub fn looks_like_http(first_bytes: &[u8]) -> bool {
    const METHODS: [&[u8]; 10] = [
        b"GET ",
        b"POST ",
        b"HEAD ",
        b"PUT ",
        b"OPTIONS ",
        b"CONNECT ",
        b"PATCH ",
        b"DELETE ",
        b"TRACE ",
        // The preface of HTTP/2 (RFC 9113 section 3.4).
        b"PRI ",
    ];
    let begins = |method: &&[u8]| {
        let common = method.len().min(first_bytes.len());
        method[..common] == first_bytes[..common]
    };
    !first_bytes.is_empty() && METHODS.iter().any(begins)
}

fn identities(tls: &ListenerTls) -> Result<Vec<Identity>, TlsError> {
    let now = OffsetDateTime::now_utc();
    tls.certificates.iter().map(|files| server_identity(files, now)).collect()
}

fn server_identity(files: &CertificateFiles, now: OffsetDateTime) -> Result<Identity, TlsError> {
    let identity = identity::read(files, now)?;
    match identity.leaf.names.is_empty() {
        true => Err(TlsError::new(files.certificate_at, files.certificate.clone(), TlsProblem::NoNames)),
        false => Ok(identity),
    }
}

impl Guard {
    /// With the file of the authorities and its place; `None` where nothing is asked of clients.
    fn of(client_auth: &ClientAuth) -> Result<Option<(Guard, &PathBuf, Position)>, TlsError> {
        let (ca, at, optional) = match client_auth {
            ClientAuth::Off => return Ok(None),
            ClientAuth::Optional { ca, ca_at } => (ca, *ca_at, true),
            ClientAuth::Required { ca, ca_at } => (ca, *ca_at, false),
        };
        let roots = pem::roots(ca).map_err(|error| TlsError::pem(at, error))?.roots;
        Ok(Some((Guard { roots, optional }, ca, at)))
    }

    fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, VerifierBuilderError> {
        let roots = RootCertStore { roots: self.roots.clone() };
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), identity::provider());
        if self.optional { builder.allow_unauthenticated() } else { builder }.build()
    }
}

/// Chooses the certificate of a handshake: exact names, then wildcards, then the first certificate.
///
/// Several certificates may share a name (RSA beside ECDSA): the first that the client can verify serves.
#[derive(Debug)]
struct ByName {
    first: Arc<CertifiedKey>,
    /// By name in lower case.
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// By what stands behind `*.`.
    below: HashMap<String, Vec<Arc<CertifiedKey>>>,
}

impl ByName {
    /// `identities` holds at least one.
    fn new(identities: Vec<Identity>) -> Self {
        let first = identities[0].certified.clone();
        let (mut exact, mut below) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        for Identity { certified, leaf } in identities {
            for name in leaf.names {
                match name.strip_prefix("*.") {
                    Some(parent) => below.entry(parent.to_owned()).or_default().push(certified.clone()),
                    None => exact.entry(name).or_default().push(certified.clone()),
                }
            }
        }
        Self { first, exact, below }
    }

    /// The certificates for a name. A wildcard stands for exactly one label, the leftmost (RFC 6125 section 6.4.3).
    fn named(&self, name: &str) -> &[Arc<CertifiedKey>] {
        let name = name.to_ascii_lowercase();
        let wildcard = || name.split_once('.').and_then(|(_, parent)| self.below.get(parent));
        self.exact.get(&name).or_else(wildcard).map_or(&[], Vec::as_slice)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().map_or(&[][..], |name| self.named(name));
        let verifiable = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let chosen = named.iter().find(verifiable).or(named.first()).unwrap_or(&self.first);
        Some(chosen.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_plain_http_has_the_length_that_it_claims() {
        let answer = std::str::from_utf8(PLAIN_HTTP_ANSWER).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}, body {}", body.len());
        assert!(head.lines().all(|line| !line.starts_with(' ')), "{head}");
    }

    #[test]
    fn first_bytes_are_told_apart() {
        let rows: [(&str, &[u8], bool); 11] = [
            ("a request", b"GET / HTTP/1.1\r\n", true),
            ("its first byte alone", b"G", true),
            ("part of a method", b"OPTIO", true),
            ("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n", true),
            ("nothing yet", b"", false),
            ("a ClientHello", &[22, 3, 1, 2, 0, 1, 0, 1], false),
            ("a ClientHello of SSL 2", &[0x80, 0x2e, 1, 0, 2], false),
            ("a method in lower case", b"get / HTTP/1.1", false),
            ("a longer word", b"GETTING", false),
            ("another protocol", b"SSH-2.0-OpenSSH_9.6\r\n", false),
            ("a PROXY header", b"PROXY TCP4 192.0.2.1", false),
        ];
        for (what, bytes, http) in rows {
            assert_eq!(looks_like_http(bytes), http, "{what}");
        }
    }
}
