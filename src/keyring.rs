//! The files of API keys while the gateway runs: read at the start, and again when they change.
//!
//! A file that cannot be used any more changes nothing: the keys that were good stay, and the log says why. The sessions
//! of a key that is gone are told to end.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use crate::config::model::{self, Config};
use crate::file;
use crate::observe::log;
use crate::policy::keys::{BadKeys, KeySet};
use crate::stamp::Stamp;

/// How often the files are looked at. A change counts once a file has looked the same twice, so that one that is just
/// being written is not read in half: half of its keys would be revoked.
pub const LOOK: Duration = Duration::from_millis(500);

/// Why a file of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadFile {
    #[error(transparent)]
    File(#[from] file::BadFile),
    #[error("cannot be used")]
    Keys(#[from] BadKeys),
}

/// One file of keys, as it was when it was last good.
#[derive(Debug)]
pub struct Keyring {
    file: PathBuf,
    current: RwLock<Arc<KeySet>>,
    looks: Mutex<Looks>,
}

/// What was seen of a file.
#[derive(Debug)]
struct Looks {
    /// At the last look. `None`: there was no file.
    seen: Option<Stamp>,
    /// When it was last read, also in vain.
    read: Option<Stamp>,
}

/// The files of one configuration. Routes that name the same one share it.
#[derive(Debug, Default)]
pub struct Keyrings(HashMap<PathBuf, Arc<Keyring>>);

/// Files that were read again, and not yet put in the place of what they were before.
#[derive(Debug, Default)]
#[must_use]
pub struct Reread(Vec<(Arc<Keyring>, Successor)>);

/// What a file holds now, and the keys that it follows.
#[derive(Debug)]
struct Successor {
    before: Arc<KeySet>,
    now: Arc<KeySet>,
}

impl Keyring {
    /// Reads a file for the first time.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn load(file: &Path) -> Result<Keyring, BadFile> {
        // Before the file is read: a change that comes between the two is seen as one.
        let first = Stamp::of(file);
        let current = RwLock::new(Arc::new(KeySet::parse(&file::read(file)?)?));
        Ok(Keyring { file: file.to_owned(), current, looks: Mutex::new(Looks { seen: first, read: first }) })
    }

    /// The keys as they are now.
    pub fn current(&self) -> Arc<KeySet> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the file holds now.
    fn reread(&self) -> Result<Successor, BadFile> {
        let before = self.current();
        let now = Arc::new(before.successor(&file::read(&self.file)?)?);
        Ok(Successor { before, now })
    }

    /// Puts these keys in the place of those from before. Returns how many were revoked; `None`: others came first, and
    /// nothing is changed.
    fn put(&self, Successor { before, now }: Successor) -> Option<usize> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        // A reload and a look do not wait for each other's files. Whoever read first may come last, with a key that is gone.
        if !Arc::ptr_eq(&current, &before) {
            return None;
        }
        *current = now.clone();
        drop(current);
        // Behind the swap: who found a key before it holds the grant that is revoked here.
        Some(before.revoke_missing(&now))
    }

    /// Reads the file when it has changed and come to rest. Returns whether a key was revoked.
    fn look(&self) -> bool {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Stamp::of(&self.file);
        let quiet = now == looks.seen;
        looks.seen = now;
        if !quiet || now == looks.read {
            return false;
        }
        let file = self.file.display();
        let reread = self.reread();
        let keys = reread.as_ref().map_or(0, |successor| successor.now.len());
        match reread.map(|successor| self.put(successor)) {
            Ok(Some(revoked)) => {
                looks.read = now;
                tracing::info!(%file, keys, revoked, "API keys were read again");
                revoked > 0
            }
            // At the next look.
            Ok(None) => false,
            Err(error) => {
                looks.read = now;
                let error = log::chain(&error);
                tracing::error!(%file, error, "API keys were not read again: those from before stay");
                false
            }
        }
    }
}

impl Reread {
    /// Puts what was read in its place. Returns whether a key was revoked.
    pub fn put(self) -> bool {
        self.0.into_iter().fold(false, |revoked, (ring, keys)| ring.put(keys) > Some(0) || revoked)
    }
}

impl Keyrings {
    /// Reads every file that a route names.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn load(config: &Config) -> Result<Keyrings, (PathBuf, BadFile)> {
        Keyrings::default().renew(config).map(|(rings, _)| rings)
    }

    /// The files of another configuration: those that it names as well are read again.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn renew(&self, config: &Config) -> Result<(Keyrings, Reread), (PathBuf, BadFile)> {
        let (mut rings, mut reread) = (HashMap::new(), Vec::new());
        for keys in config.routes.iter().filter_map(|route| route.keys.as_ref()) {
            let at = |error| (keys.file.clone(), error);
            if rings.contains_key(&keys.file) {
                continue;
            }
            let ring = match self.0.get(&keys.file) {
                Some(ring) => {
                    reread.push((ring.clone(), ring.reread().map_err(at)?));
                    ring.clone()
                }
                None => Arc::new(Keyring::load(&keys.file).map_err(at)?),
            };
            rings.insert(keys.file.clone(), ring);
        }
        Ok((Keyrings(rings), Reread(reread)))
    }

    /// The keys of a route, as they are now.
    pub fn current(&self, keys: &model::Keys) -> Arc<KeySet> {
        self.0.get(&keys.file).expect("every file of the configuration was read").current()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads what has changed. Returns whether a key was revoked. Blocks as files do.
    pub fn look(&self) -> bool {
        // All of them, so not `any`, which stops at the first.
        self.0.values().filter(|ring| ring.look()).count() > 0
    }
}

#[cfg(test)]
mod tests;
