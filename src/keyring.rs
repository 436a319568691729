//! The files of API keys while the gateway runs: read at the start, and again when they change.
//!
//! A file that cannot be used any more changes nothing: the keys that were good stay, and the log says why. The sessions
//! of a key that is gone are told to end.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use crate::config::model::{self, Config};
use crate::observe::log;
use crate::policy::keys::{BadKeys, KeySet};
use crate::stamp::Stamp;

/// How often the files are looked at. A change counts once a file has looked the same twice, so that one that is just
/// being written is not read in half: half of its keys would be revoked.
pub const LOOK: Duration = Duration::from_millis(500);

/// A file of keys has a line for each; a device or a log given by mistake is larger.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Why a file of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadFile {
    #[error("cannot be read")]
    Unreadable(#[from] io::Error),
    #[error("is no regular file")]
    NoFile,
    #[error("is larger than 16MiB")]
    TooLarge,
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
pub struct Reread(Vec<(Arc<Keyring>, Arc<KeySet>)>);

impl Keyring {
    /// Reads a file for the first time.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn load(file: &Path) -> Result<Keyring, BadFile> {
        // Before the file is read: a change that comes between the two is seen as one.
        let first = Stamp::of(file);
        let current = RwLock::new(Arc::new(KeySet::parse(&read(file)?)?));
        Ok(Keyring { file: file.to_owned(), current, looks: Mutex::new(Looks { seen: first, read: first }) })
    }

    /// The keys as they are now.
    pub fn current(&self) -> Arc<KeySet> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the file holds now.
    fn reread(&self) -> Result<Arc<KeySet>, BadFile> {
        Ok(Arc::new(self.current().successor(&read(&self.file)?)?))
    }

    /// Puts these keys in the place of those from before. Returns how many were revoked.
    fn put(&self, now: Arc<KeySet>) -> usize {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *current, now.clone());
        drop(current);
        // Behind the swap: who found a key before it holds the grant that is revoked here.
        before.revoke_missing(&now)
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
        looks.read = now;
        let file = self.file.display();
        match self.reread() {
            Ok(keys) => {
                let (keys, revoked) = (keys.len(), self.put(keys));
                tracing::info!(%file, keys, revoked, "API keys were read again");
                revoked > 0
            }
            Err(error) => {
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
        self.0.into_iter().fold(false, |revoked, (ring, keys)| ring.put(keys) > 0 || revoked)
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
        self.0.values().fold(false, |revoked, ring| ring.look() || revoked)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, BadFile> {
    // A pipe would be waited for, and gives what it holds only once.
    if !path.metadata()?.is_file() {
        return Err(BadFile::NoFile);
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX { Err(BadFile::TooLarge) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests;
