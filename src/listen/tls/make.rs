//! Self-signed certificates: the development certificate of a first start, and `tidegate cert`.
//!
//! A key is written for its owner's eyes alone, and a file appears under its name only when it is whole. Nothing is
//! ever overwritten but an expired development certificate that was made here.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::DnsName;
use time::{Duration, OffsetDateTime};

use crate::config::model::{ListenerTls, Position};
use crate::pem::identity::{Leaf, TlsError, TlsProblem, date};

/// The common name by which an expired development certificate is known to be ours to replace.
const DEVELOPMENT: &str = "Tidegate development certificate";
/// What browsers accept at most is 398 days.
const VALID: Duration = Duration::days(397);
const KEY_MODE: u32 = 0o600;
const CERTIFICATE_MODE: u32 = 0o644;

/// A development certificate that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub not_after: OffsetDateTime,
    /// It took the place of an expired one.
    pub renewed: bool,
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = if self.renewed { " (the one there had expired)" } else { "" };
        let (certificate, until) = (self.certificate.display(), date(self.not_after));
        write!(
            f,
            "made a development certificate for localhost in {certificate}{why}, valid until {until}: \
             let clients trust that file, or accept a browser's warning once"
        )
    }
}

/// Makes the certificate of the first pair when the listener asks for a development certificate and has none, or an
/// expired one that was made here. Makes the folder too. `None`: there was nothing to do.
///
/// # Errors
///
/// One file of the pair is there without the other, or a file cannot be written. What is wrong with files that are
/// there is left to [`super::load`].
pub fn ensure_development(tls: &ListenerTls) -> Result<Option<Made>, TlsError> {
    if !tls.development {
        return Ok(None);
    }
    let files = &tls.certificates[0];
    let half = |at, missing: &Path, other: &Path| {
        let other = other.to_owned();
        Err(TlsError::new(at, missing.to_owned(), TlsProblem::HalfPair { other }))
    };
    let renewed = match (exists(&files.certificate), exists(&files.key)) {
        (false, false) => false,
        (true, true) if is_expired_development(&files.certificate) => true,
        (true, true) => return Ok(None),
        (false, true) => return half(files.certificate_at, &files.certificate, &files.key),
        (true, false) => return half(files.key_at, &files.key, &files.certificate),
    };
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let at = files.certificate_at;
    let pair = Pair::new(DEVELOPMENT, &names, at)?;
    // The key first: a start that dies in between leaves a pair that the next one reports or makes anew.
    for (at, path, pem, mode) in
        [(files.key_at, &files.key, &pair.key, KEY_MODE), (at, &files.certificate, &pair.certificate, CERTIFICATE_MODE)]
    {
        replace(path, pem, mode).map_err(|e| TlsError::new(at, path.clone(), TlsProblem::Write(e)))?;
    }
    Ok(Some(Made {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        not_after: pair.not_after,
        renewed,
    }))
}

/// Makes a self-signed certificate for DNS names, wildcards and IP addresses in the folder `out`, which is made too.
/// Returns the paths of the certificate and of the key, called after the first name (`*` becomes `_wildcard`).
///
/// # Errors
///
/// No name, a name that cannot stand in a certificate, a file that is there already, or one that cannot be written.
pub fn make_certificate(names: &[String], out: &Path) -> Result<(PathBuf, PathBuf), TlsError> {
    let nowhere = Position::default();
    let in_file = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| {
            let problem = match error.kind() {
                io::ErrorKind::AlreadyExists => TlsProblem::Exists,
                _ => TlsProblem::Write(error),
            };
            TlsError::new(nowhere, path, problem)
        }
    };
    let first = names.first().ok_or_else(|| TlsError::new(nowhere, None, TlsProblem::NoNameGiven))?;
    let pair = Pair::new("Tidegate self-signed certificate", names, nowhere)?;
    let stem = first.to_ascii_lowercase().replace('*', "_wildcard").replace(':', "_");
    let (certificate, key) = (out.join(format!("{stem}.pem")), out.join(format!("{stem}.key")));

    fs::create_dir_all(out).map_err(|e| TlsError::new(nowhere, out.to_owned(), TlsProblem::Write(e)))?;
    create(&key, &pair.key, KEY_MODE).map_err(in_file(&key))?;
    create(&certificate, &pair.certificate, CERTIFICATE_MODE)
        .inspect_err(|_| drop(fs::remove_file(&key)))
        .map_err(in_file(&certificate))?;
    Ok((certificate, key))
}

/// A certificate and its key as PEM.
struct Pair {
    certificate: String,
    key: String,
    not_after: OffsetDateTime,
}

impl Pair {
    fn new(common_name: &str, names: &[String], at: Position) -> Result<Self, TlsError> {
        let in_name = |problem| TlsError::new(at, None, problem);
        let subject_alt_names =
            names.iter().map(|name| subject_name(name)).collect::<Result<_, _>>().map_err(in_name)?;
        // Since yesterday: the clocks of clients may be late.
        let not_before = OffsetDateTime::now_utc() - Duration::DAY;
        let not_after = not_before + VALID;

        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = subject_alt_names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        (params.not_before, params.not_after) = (not_before, not_after);

        let failed = |error| in_name(TlsProblem::Make(error));
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(Self { certificate: certificate.pem(), key: key.serialize_pem(), not_after })
    }
}

/// A wildcard may only be the whole leftmost label (RFC 9525 section 6.3).
fn subject_name(name: &str) -> Result<SanType, TlsProblem> {
    let bad = || TlsProblem::BadName { name: name.to_owned() };
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let host = name.strip_prefix("*.").unwrap_or(name);
    if host.ends_with('.') || DnsName::try_from(host).is_err() {
        return Err(bad());
    }
    let name = name.to_ascii_lowercase().try_into().map_err(|_| bad())?;
    Ok(SanType::DnsName(name))
}

fn is_expired_development(certificate: &Path) -> bool {
    Leaf::read(certificate, Position::default()).is_ok_and(|leaf| {
        leaf.common_name.as_deref() == Some(DEVELOPMENT) && leaf.not_after < OffsetDateTime::now_utc()
    })
}

/// What may not be looked at counts as there, so that it is never replaced: [`super::load`] says why.
fn exists(path: &Path) -> bool {
    match path.try_exists() {
        Ok(exists) => exists,
        Err(error) => error.kind() != io::ErrorKind::NotADirectory,
    }
}

/// Writes the file under a temporary name and renames it, so that nobody ever reads half of it.
fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.map_or(Ok(()), fs::create_dir_all)?;
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?.to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    // One of a process that died and whose id came back.
    let _ = fs::remove_file(&temporary);
    create(&temporary, text, mode)?;
    fs::rename(&temporary, path).inspect_err(|_| drop(fs::remove_file(&temporary)))
}

/// Writes a file that is not there yet; leaves nothing behind when that fails.
fn create(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).inspect_err(|_| drop(fs::remove_file(path)))
}
