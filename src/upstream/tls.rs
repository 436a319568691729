//! TLS towards `wss://` upstreams: from the configuration to a `ClientConfig` and the name to verify.
//!
//! The server's certificate is always verified: against the system's authorities, or against a file of authorities
//! alone.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::{ServerName, TrustAnchor};
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};
use time::OffsetDateTime;

use crate::config::model::{Position, UpstreamTls};
use crate::pem;
use crate::pem::identity::{self, Identity, TlsProblem};

pub use crate::pem::identity::TlsError;

/// Sessions kept for resumption: an upstream has few servers.
const SESSIONS_KEPT: usize = 64;

/// What the handshakes with an upstream's servers run on.
#[derive(Debug)]
pub struct Trusted {
    pub config: Arc<ClientConfig>,
    roots: Vec<TrustAnchor<'static>>,
    /// Our own certificate, where there is one.
    pub identity: Option<Identity>,
}

/// Builds what the handshakes with an upstream's servers run on: see [`Trusted::load`].
pub fn client_config(tls: &UpstreamTls) -> Result<Arc<ClientConfig>, TlsError> {
    Trusted::load(tls, None).map(|trusted| trusted.config.clone())
}

impl Trusted {
    /// TLS 1.3 and 1.2, ALPN `http/1.1`, resumption. Where nothing has changed since `before` it is the same, with the
    /// sessions that it can resume.
    ///
    /// Call it for upstreams with a `wss://` server only: others do not need the system's authorities, which may be
    /// missing.
    ///
    /// # Errors
    ///
    /// No authorities, or a file that is missing, unreadable, of the wrong kind, expired, or whose key is not the
    /// certificate's.
    pub fn load(tls: &UpstreamTls, before: Option<&Arc<Trusted>>) -> Result<Arc<Trusted>, TlsError> {
        let roots = match &tls.ca {
            Some((path, at)) => pem::roots(path).map_err(|error| TlsError::pem(*at, error))?,
            None => gather(rustls_native_certs::load_native_certs())?,
        };
        let now = OffsetDateTime::now_utc();
        let identity = tls.client.as_ref().map(|files| identity::read(files, now)).transpose()?;
        if let Some(before) = before.filter(|before| before.is(&roots, identity.as_ref())) {
            return Ok(before.clone());
        }
        let kept = roots.roots.clone();
        let builder = ClientConfig::builder_with_provider(identity::provider())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| TlsError::new(Position::default(), None, TlsProblem::Rustls(error)))?
            .with_root_certificates(roots);
        let mut config = match &identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified.clone())))
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::in_memory_sessions(SESSIONS_KEPT);
        Ok(Arc::new(Trusted { config: Arc::new(config), roots: kept, identity }))
    }

    fn is(&self, roots: &RootCertStore, identity: Option<&Identity>) -> bool {
        let chain = |identity: &Identity| identity.certified.cert.clone();
        self.roots == roots.roots && self.identity.as_ref().map(chain) == identity.map(chain)
    }
}

/// The name to send as SNI and to verify: the configured one, or else the server's host (a name or an IP address).
///
/// # Errors
///
/// It is neither a DNS name in ASCII nor an IP address.
pub fn server_name(tls: &UpstreamTls, host: &str) -> Result<ServerName<'static>, TlsError> {
    let name = tls.server_name.as_deref().unwrap_or(host);
    // The dot of an absolute name belongs to DNS alone: neither SNI nor certificates have it (RFC 6066 section 3).
    let name = name.strip_suffix('.').unwrap_or(name);
    ServerName::try_from(name.to_owned()).map_err(|_| {
        let name = name.to_owned();
        TlsError::new(Position::default(), None, TlsProblem::ServerName { name })
    })
}

/// A system's store may hold a certificate that webpki refuses; the others serve.
fn gather(found: rustls_native_certs::CertificateResult) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    match added {
        0 => {
            let problem = TlsProblem::NoRoots(found.errors.into_iter().next());
            Err(TlsError::new(Position::default(), None, problem))
        }
        _ => Ok(roots),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_without_roots_is_told_what_to_do() {
        let error = gather(rustls_native_certs::CertificateResult::default()).unwrap_err();
        assert!(error.to_string().contains("install the package ca-certificates, or name a file with `ca`"), "{error}");
        assert_eq!(error.path(), None);
    }

    #[test]
    fn server_names() {
        let configured = Some("inner.example.com");
        let rows = [
            ("a host name", None, "chat.example.com", Some("chat.example.com")),
            ("an absolute name", None, "chat.example.com.", Some("chat.example.com")),
            ("an IPv4 address", None, "192.0.2.1", Some("192.0.2.1")),
            ("an IPv6 address", None, "2001:db8::1", Some("2001:db8::1")),
            ("a configured name wins", configured, "192.0.2.1", configured),
            ("a name that is not ASCII", None, "b\u{fc}cher.example", None),
            ("nothing", None, "", None),
            ("a name with a port", None, "example.com:443", None),
        ];
        for (what, server_name_, host, expected) in rows {
            let tls = UpstreamTls { server_name: server_name_.map(str::to_owned), ..UpstreamTls::default() };
            let found = server_name(&tls, host).map(|name| name.to_str().into_owned());
            match expected {
                Some(expected) => assert_eq!(found.unwrap(), expected, "{what}"),
                None => assert!(found.unwrap_err().to_string().contains("set `server_name`"), "{what}"),
            }
        }
    }
}
