//! The files that a configuration names, opened: so that a wrong certificate is told with its line.

use crate::admin;
use crate::config::Files;
use crate::config::model::Position;
use crate::keyring::Keyring;
use crate::listen;
use crate::observe::log::chain;
use crate::pem::identity::TlsProblem;
use crate::upstream;

/// What is wrong with files, and which value of the configuration it is about.
pub fn inspect(files: Files<'_>) -> Option<(Position, String)> {
    let error = match files {
        Files::Listener(tls) => {
            let first = &tls.certificates[0];
            // The first start makes them; a check makes nothing.
            if tls.development && !first.certificate.exists() && !first.key.exists() {
                return None;
            }
            let error = listen::tls::load(tls).err()?;
            // It is made anew at the start, where it is ours.
            if tls.development && matches!(error.problem(), TlsProblem::Expired { .. }) {
                return None;
            }
            error
        }
        Files::Upstream(tls) => upstream::tls::client_config(tls).err()?,
        Files::Token(file, at) => return Some((at, chain(&admin::token::read(file).err()?))),
        Files::Keys(keys) => return Some((keys.file_at, chain(&Keyring::load(&keys.file).err()?))),
    };
    Some((error.at(), chain(&error)))
}
