//! A certificate chain with its key, for a listener or towards an upstream: read, checked against each other, in date.
//!
//! Also the error type of everything about TLS in the configuration, and the one crypto provider: the process default
//! is never asked, because any dependency could set another.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::sign::{CertifiedKey, SigningKey};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::{PemError, PemProblem};
use crate::config::model::{CertificateFiles, Position};

/// Why TLS cannot be set up as configured. Displays as `path: what is wrong: what to do`; the source has the rest.
#[derive(Debug)]
pub struct TlsError {
    at: Position,
    path: Option<PathBuf>,
    problem: TlsProblem,
}

/// What is wrong with a certificate, a key or another part of TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsProblem {
    #[error(transparent)]
    Pem(PemProblem),
    #[error("certificate {number} in the file cannot be read: get it again from its issuer")]
    Certificate {
        /// Counted from 1.
        number: usize,
        #[source]
        source: x509_parser::error::X509Error,
    },
    #[error("a key of this kind does not serve: use RSA (2048 bits or more), ECDSA (P-256, P-384, P-521) or Ed25519")]
    Key(#[source] rustls::Error),
    #[error("does not belong to {}: name the key with which that certificate was requested", certificate.display())]
    KeyMismatch { certificate: PathBuf },
    #[error("the key belongs to certificate {number} in the file: put that one first, its issuers below it")]
    LeafNotFirst {
        /// Counted from 1.
        number: usize,
    },
    #[error("expired on {}: renew it", date(*.not_after))]
    Expired { not_after: OffsetDateTime },
    #[error("is not valid before {}: wait for that day, or correct this machine's clock", date(*.not_before))]
    NotYetValid { not_before: OffsetDateTime },
    #[error(
        "names no DNS name and no IP address in subjectAltName, without which clients refuse it: \
         request it anew with its names there"
    )]
    NoNames,
    #[error("is missing, but {} is there: restore it, or remove that one too and a new pair is made", other.display())]
    HalfPair { other: PathBuf },
    #[error("is there already and is never overwritten: choose another folder, or move the file away")]
    Exists,
    #[error("cannot be written: name a folder where this user may write, or certificates that are there")]
    Write(#[source] io::Error),
    #[error("name at least one host name or address for the certificate")]
    NoNameGiven,
    #[error("{name:?} is no host name: write it as in chat.example.com, *.example.com, 192.0.2.1 or 2001:db8::1")]
    BadName { name: String },
    #[error("a certificate cannot be made")]
    Make(#[source] rcgen::Error),
    #[error("this system has no root certificates: install the package ca-certificates, or name a file with `ca`")]
    NoRoots(#[source] Option<rustls_native_certs::Error>),
    #[error(
        "{name:?} cannot be verified as a server's name: set `server_name` to the name in the server's certificate"
    )]
    ServerName { name: String },
    #[error("TLS cannot be set up")]
    Rustls(#[source] rustls::Error),
    #[error("these authorities cannot verify client certificates")]
    ClientAuth(#[source] rustls::server::VerifierBuilderError),
}

impl TlsError {
    pub(crate) fn new(at: Position, path: impl Into<Option<PathBuf>>, problem: TlsProblem) -> Self {
        Self { at, path: path.into(), problem }
    }

    pub(crate) fn pem(at: Position, error: PemError) -> Self {
        Self::new(at, error.path, TlsProblem::Pem(error.problem))
    }

    /// Where the configuration names the value; line 0 where it has no place in a file.
    pub fn at(&self) -> Position {
        self.at
    }

    /// The file that this is about.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    pub fn problem(&self) -> &TlsProblem {
        &self.problem
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{}: {}", path.display(), self.problem),
            None => self.problem.fmt(f),
        }
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.problem.source()
    }
}

/// The crypto provider of both legs. Its first key exchange group is X25519MLKEM768, which a recording of today's
/// traffic keeps secret from tomorrow's quantum computers.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A certificate chain and its key.
#[derive(Debug, Clone)]
pub struct Identity {
    pub certified: Arc<CertifiedKey>,
    pub leaf: Leaf,
}

/// What the first certificate of a chain says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// DNS names in lower case (`*.example.com` for wildcards) and IP addresses of subjectAltName. The common name does
    /// not count (RFC 9525 section 2).
    pub names: Vec<String>,
    pub common_name: Option<String>,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
}

/// Reads the pair and checks it: both readable, the key is the first certificate's, and that one is valid at `now`.
///
/// Only the first certificate's dates are checked: some public chains carry an expired cross-signed root on purpose.
pub fn read(files: &CertificateFiles, now: OffsetDateTime) -> Result<Identity, TlsError> {
    let in_certificate = |problem| TlsError::new(files.certificate_at, files.certificate.clone(), problem);
    let in_key = |problem| TlsError::new(files.key_at, files.key.clone(), problem);

    let chain = super::certificates(&files.certificate).map_err(|e| TlsError::pem(files.certificate_at, e))?;
    let parsed = parse(&chain).map_err(in_certificate)?;
    let leaf = Leaf::of(&parsed[0]);
    let key = super::private_key(&files.key).map_err(|e| TlsError::pem(files.key_at, e))?;
    let key = provider().key_provider.load_private_key(key).map_err(|e| in_key(TlsProblem::Key(e)))?;

    match parsed.iter().position(|certificate| belongs(&*key, certificate)) {
        Some(0) => {}
        Some(index) => {
            return Err(in_certificate(TlsProblem::LeafNotFirst { number: index + 1 }));
        }
        None => {
            let certificate = files.certificate.clone();
            return Err(in_key(TlsProblem::KeyMismatch { certificate }));
        }
    }
    leaf.check_dates(now).map_err(in_certificate)?;
    drop(parsed);
    Ok(Identity { certified: Arc::new(CertifiedKey::new(chain, key)), leaf })
}

impl Leaf {
    /// The first certificate of a PEM file, whatever its dates and wherever its key is.
    pub fn read(path: &Path, at: Position) -> Result<Self, TlsError> {
        let chain = super::certificates(path).map_err(|e| TlsError::pem(at, e))?;
        let parsed = parse(&chain).map_err(|problem| TlsError::new(at, path.to_owned(), problem))?;
        Ok(Self::of(&parsed[0]))
    }

    fn of(certificate: &X509Certificate<'_>) -> Self {
        let validity = certificate.validity();
        Self {
            names: names(certificate),
            common_name: certificate
                .subject()
                .iter_common_name()
                .find_map(|name| name.as_str().ok().map(str::to_owned)),
            not_before: validity.not_before.to_datetime(),
            not_after: validity.not_after.to_datetime(),
        }
    }

    fn check_dates(&self, now: OffsetDateTime) -> Result<(), TlsProblem> {
        let Self { not_before, not_after, .. } = *self;
        if now > not_after {
            return Err(TlsProblem::Expired { not_after });
        }
        if now < not_before {
            return Err(TlsProblem::NotYetValid { not_before });
        }
        Ok(())
    }
}

fn parse<'a>(chain: &'a [CertificateDer<'static>]) -> Result<Vec<X509Certificate<'a>>, TlsProblem> {
    chain
        .iter()
        .zip(1..)
        .map(|(der, number)| match X509Certificate::from_der(der) {
            Ok((_, certificate)) => Ok(certificate),
            Err(error) => Err(TlsProblem::Certificate {
                number,
                source: match error {
                    x509_parser::nom::Err::Error(source) | x509_parser::nom::Err::Failure(source) => source,
                    x509_parser::nom::Err::Incomplete(_) => x509_parser::error::X509Error::InvalidCertificate,
                },
            }),
        })
        .collect()
}

/// Whether the certificate holds the public half of the key. A key that cannot tell its public half passes.
fn belongs(key: &dyn SigningKey, certificate: &X509Certificate<'_>) -> bool {
    key.public_key().is_none_or(|public| public.as_ref() == certificate.public_key().raw)
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    extension
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            GeneralName::IPAddress(octets) => address(octets).map(|address| address.to_string()),
            _ => None,
        })
        .collect()
}

/// RFC 5280 section 4.2.1.6: four octets or sixteen.
fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

/// `3 March 2026`, in UTC.
pub(crate) fn date(moment: OffsetDateTime) -> String {
    let moment = moment.to_offset(time::UtcOffset::UTC);
    format!("{} {} {}", moment.day(), moment.month(), moment.year())
}
