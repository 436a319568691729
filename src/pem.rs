//! Certificates and keys in PEM files: the one place that calls rustls-pemfile (see deny.toml).
//!
//! In comes a path, out come DER values or a [`PemError`] that says what is wrong with the file and what to do about
//! it. [`identity`] puts a certificate and its key together and checks them against each other.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls_pemfile::Item;

use crate::file::{self, BadFile};

pub mod identity;

/// A PEM file that cannot be used. Displays as `path: what is wrong: what to do`.
#[derive(Debug)]
pub struct PemError {
    pub path: PathBuf,
    pub problem: PemProblem,
}

/// What is wrong with a PEM file.
#[derive(Debug, thiserror::Error)]
pub enum PemProblem {
    #[error("there is no such file: correct the path")]
    NotFound,
    #[error("this user may not read it: let the user that runs tidegate read the file and enter its folder")]
    Unreadable,
    #[error(transparent)]
    File(BadFile),
    #[error("the file is empty")]
    Empty,
    #[error("a PEM block in it is damaged: copy the file anew, whole, as text")]
    Damaged(#[source] io::Error),
    #[error("holds DER, not PEM: convert it with `openssl {command} -inform der -in FILE -out FILE.pem`")]
    Der { command: &'static str },
    #[error("holds no {0}: a PEM file has one between its BEGIN and END lines")]
    Nothing(Kind),
    #[error("holds a private key, not a certificate: this looks swapped with `key`")]
    KeyForCertificate,
    #[error("holds a certificate, not a private key: this looks swapped with `certificate`")]
    CertificateForKey,
    #[error("holds {0} private keys: leave the one that belongs to the certificate")]
    SeveralKeys(usize),
    #[error("the private key is encrypted: decrypt it with `openssl pkey -in FILE -out FILE.plain` and name that file")]
    EncryptedKey,
    #[error("certificate {number} in the file cannot be used as an authority")]
    Authority {
        /// Counted from 1.
        number: usize,
        #[source]
        source: rustls::Error,
    },
}

/// What was looked for in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Certificate,
    PrivateKey,
}

/// The certificates of a file in its order, at least one. Private keys beside them are passed over.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    read_blocks(path).and_then(|bytes| find_certificates(&bytes)).map_err(|problem| problem.of(path))
}

/// The one private key of a file: PKCS#8, PKCS#1 (RSA) or SEC1 (EC). Certificates beside it are passed over.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    read_blocks(path).and_then(|bytes| find_private_key(&bytes)).map_err(|problem| problem.of(path))
}

/// The certificates of a file as authorities to trust, at least one; each has to be usable.
pub fn roots(path: &Path) -> Result<RootCertStore, PemError> {
    let mut roots = RootCertStore::empty();
    for (index, certificate) in certificates(path)?.into_iter().enumerate() {
        let number = index + 1;
        roots.add(certificate).map_err(|source| PemProblem::Authority { number, source }.of(path))?;
    }
    Ok(roots)
}

fn read_blocks(path: &Path) -> Result<Vec<u8>, PemProblem> {
    let bytes = file::read(path).map_err(unreadable)?;
    if bytes.trim_ascii().is_empty() {
        return Err(PemProblem::Empty);
    }
    Ok(bytes)
}

fn unreadable(error: BadFile) -> PemProblem {
    let kind = match &error {
        BadFile::Unreadable(error) => Some(error.kind()),
        _ => None,
    };
    match kind {
        Some(io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => PemProblem::NotFound,
        Some(io::ErrorKind::PermissionDenied) => PemProblem::Unreadable,
        _ => PemProblem::File(error),
    }
}

fn find_certificates(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemProblem> {
    let Found { certificates, keys } = Found::parse(bytes)?;
    if !certificates.is_empty() {
        return Ok(certificates);
    }
    Err(match keys.is_empty() && !is_encrypted(bytes) {
        true => nothing(bytes, Kind::Certificate),
        false => PemProblem::KeyForCertificate,
    })
}

fn find_private_key(bytes: &[u8]) -> Result<PrivateKeyDer<'static>, PemProblem> {
    // Looked for first: the headers of an encrypted PKCS#1 key would be reported as damaged base64.
    if is_encrypted(bytes) {
        return Err(PemProblem::EncryptedKey);
    }
    let Found { certificates, mut keys } = Found::parse(bytes)?;
    match (keys.len(), certificates.is_empty()) {
        (1, _) => Ok(keys.remove(0)),
        (0, true) => Err(nothing(bytes, Kind::PrivateKey)),
        (0, false) => Err(PemProblem::CertificateForKey),
        // Taking the first would end in "does not match the certificate" half of the time.
        (several, _) => Err(PemProblem::SeveralKeys(several)),
    }
}

#[derive(Default)]
struct Found {
    certificates: Vec<CertificateDer<'static>>,
    keys: Vec<PrivateKeyDer<'static>>,
}

impl Found {
    fn parse(mut bytes: &[u8]) -> Result<Self, PemProblem> {
        let mut found = Self::default();
        for item in rustls_pemfile::read_all(&mut bytes) {
            match item.map_err(PemProblem::Damaged)? {
                Item::X509Certificate(certificate) => found.certificates.push(certificate),
                Item::Pkcs8Key(key) => found.keys.push(key.into()),
                Item::Pkcs1Key(key) => found.keys.push(key.into()),
                Item::Sec1Key(key) => found.keys.push(key.into()),
                _ => {}
            }
        }
        Ok(found)
    }
}

/// PKCS#8's own label (RFC 7468 section 11), or the header of the older PEM encryption (RFC 1421 section 4.6.1.1).
fn is_encrypted(bytes: &[u8]) -> bool {
    let holds = |mark: &[u8]| bytes.windows(mark.len()).any(|window| window == mark);
    holds(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || holds(b"Proc-Type: 4,ENCRYPTED")
}

fn nothing(bytes: &[u8], kind: Kind) -> PemProblem {
    // DER begins with SEQUENCE (X.690 section 8.9), which is the character 0 in text.
    let der = bytes.starts_with(&[0x30]) && std::str::from_utf8(bytes).is_err();
    match (der, kind) {
        (true, Kind::Certificate) => PemProblem::Der { command: "x509" },
        (true, Kind::PrivateKey) => PemProblem::Der { command: "pkey" },
        (false, _) => PemProblem::Nothing(kind),
    }
}

impl PemProblem {
    fn of(self, path: &Path) -> PemError {
        PemError { path: path.to_owned(), problem: self }
    }
}

impl fmt::Display for PemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.problem)
    }
}

impl std::error::Error for PemError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.problem.source()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate => "certificate",
            Self::PrivateKey => "private key",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_file_cannot_be_opened() {
        use io::ErrorKind;
        let rows = [
            (ErrorKind::NotFound, "there is no such file: correct the path"),
            (ErrorKind::NotADirectory, "there is no such file: correct the path"),
            (ErrorKind::PermissionDenied, "this user may not read it: let the user that runs tidegate read"),
            (ErrorKind::TimedOut, "cannot be read"),
        ];
        for (kind, message) in rows {
            let problem = unreadable(io::Error::from(kind).into());
            assert!(problem.to_string().starts_with(message), "{kind:?}: {problem}");
        }
    }

    #[test]
    fn what_a_file_holds_instead_of_a_private_key() {
        let rows: [(&str, &[u8], &str); 6] = [
            ("text", b"not a key\n", "holds no private key: "),
            ("a number", b"0.5\n", "holds no private key: "),
            ("DER", &[0x30, 0x82, 4, 0, 2, 1, 0], "holds DER, not PEM: convert it with `openssl pkey -inform der"),
            (
                "an encrypted PKCS#8 key",
                b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n",
                "the private key is encrypted: decrypt it with `openssl pkey -in",
            ),
            (
                "an encrypted PKCS#1 key",
                b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nMIIB\n\
                  -----END RSA PRIVATE KEY-----\n",
                "the private key is encrypted: decrypt it with `openssl pkey -in",
            ),
            ("half a key", b"-----BEGIN PRIVATE KEY-----\nMIIB\n", "a PEM block in it is damaged"),
        ];
        for (what, bytes, message) in rows {
            let problem = find_private_key(bytes).unwrap_err();
            assert!(problem.to_string().starts_with(message), "{what}: {problem}");
        }
    }
}
