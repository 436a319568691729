//! What is looked at again and again while a gateway lives: files that may change, certificates that expire.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Weak;
use std::time::Duration;

use time::OffsetDateTime;

use super::Gateway;
use crate::keyring::LOOK;
use crate::stamp::Stamp;

/// A certificate that expires within this time is told of every day.
const WARNING: time::Duration = time::Duration::days(14);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How files were at a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Stamps(HashMap<PathBuf, Option<Stamp>>);

impl Stamps {
    pub fn of(files: &[PathBuf]) -> Stamps {
        Stamps(files.iter().map(|file| (file.clone(), Stamp::of(file))).collect())
    }

    /// Those of files that are not in it yet.
    pub fn add(&mut self, files: &[PathBuf]) {
        for file in files {
            self.0.entry(file.clone()).or_insert_with(|| Stamp::of(file));
        }
    }

    /// Forgets all others.
    pub fn retain(&mut self, files: &[PathBuf]) {
        self.0.retain(|file, _| files.contains(file));
    }

    fn again(&self) -> Stamps {
        Stamps(self.0.keys().map(|file| (file.clone(), Stamp::of(file))).collect())
    }
}

/// Reads API keys again when their files change, and ends the sessions of those that are gone.
pub(super) async fn keys(gateway: Weak<Gateway>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(gateway) = gateway.upgrade() else { return };
        // Beside a reload, which may wait for other files for long: a key that is gone must not.
        let live = gateway.current();
        if live.keyrings.is_empty() {
            continue;
        }
        let drain = live.drain.clone();
        // Files block, on a network's share for long.
        let Ok(revoked) = tokio::task::spawn_blocking(move || live.keyrings.look()).await else { return };
        if revoked {
            drain.sessions().end_revoked();
        }
    }
}

/// Reloads when a file has changed and all have come to rest, where the configuration says so.
pub(super) async fn files(gateway: Weak<Gateway>) {
    let mut seen = Stamps::default();
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(gateway) = gateway.upgrade() else { return };
        if !gateway.current().config.reload.watch {
            continue;
        }
        let read = gateway.running.lock().await.stamps.clone();
        let Ok((read, now)) =
            tokio::task::spawn_blocking(move || (read.again(), read)).await.map(|(now, read)| (read, now))
        else {
            return;
        };
        let quiet = std::mem::replace(&mut seen, now.clone()) == now;
        if quiet && now != read {
            // Told in the log.
            let _ = gateway.reload().await;
        }
    }
}

/// Warns of certificates that expire soon.
pub(super) async fn certificates(gateway: Weak<Gateway>) {
    loop {
        let Some(living) = gateway.upgrade() else { return };
        living.warn_of_expiry();
        drop(living);
        tokio::time::sleep(DAY).await;
    }
}

impl Gateway {
    pub(super) fn warn_of_expiry(&self) {
        let now = OffsetDateTime::now_utc();
        for shown in self.current().certificates() {
            let left = shown.not_after - now;
            if left < WARNING {
                let (at, names) = (shown.at, shown.names.join(", "));
                let expires = crate::pem::identity::date(shown.not_after);
                tracing::warn!(days_left = left.whole_days(), %at, names, expires, "a certificate expires soon: renew it and reload");
            }
        }
    }
}
