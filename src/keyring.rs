//! The files of API keys while the gateway runs: read at the start, and again when they change.
//!
//! A file that cannot be used any more changes nothing: the keys that were good stay, and the log says why. The sessions
//! of a key that is gone are told to end.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::config::model::{self, Config};
use crate::observe::log;
use crate::policy::keys::{BadKeys, KeySet};

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
    /// Of the file when it was first read.
    first: Option<Stamp>,
}

/// The files of one configuration. Routes that name the same one share it.
#[derive(Debug, Default)]
pub struct Keyrings(HashMap<PathBuf, Arc<Keyring>>);

/// What changes when a file is written, replaced by a rename, or reached through another symlink. The change time is in
/// it because the modification time can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<&Metadata> for Stamp {
    fn from(file: &Metadata) -> Self {
        Stamp {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

impl Keyring {
    /// Reads a file for the first time.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn load(file: &Path) -> Result<Keyring, BadFile> {
        // Before the file is read: a change that comes between the two is seen as one.
        let first = stamp(file);
        let current = RwLock::new(Arc::new(KeySet::parse(&read(file)?)?));
        Ok(Keyring { file: file.to_owned(), current, first })
    }

    /// The keys as they are now.
    pub fn current(&self) -> Arc<KeySet> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the file again. Returns how many keys are left, and how many were revoked.
    fn reload(&self) -> Result<(usize, usize), BadFile> {
        let before = self.current();
        let now = Arc::new(before.successor(&read(&self.file)?)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = now.clone();
        // Behind the swap: who found a key before it holds the grant that is revoked here.
        Ok((now.len(), before.revoke_missing(&now)))
    }
}

impl Keyrings {
    /// Reads every file that a route names.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn load(config: &Config) -> Result<Keyrings, (PathBuf, BadFile)> {
        let mut rings = HashMap::new();
        for keys in config.routes.iter().filter_map(|route| route.keys.as_ref()) {
            if !rings.contains_key(&keys.file) {
                let ring = Keyring::load(&keys.file).map_err(|error| (keys.file.clone(), error))?;
                rings.insert(keys.file.clone(), Arc::new(ring));
            }
        }
        Ok(Keyrings(rings))
    }

    /// The keys of a route, as they are now.
    pub fn current(&self, keys: &model::Keys) -> Arc<KeySet> {
        self.0.get(&keys.file).expect("every file of the configuration was read").current()
    }

    /// Somebody who looks whether the files have changed; `None` where there is none.
    pub fn watch(&self) -> Option<Watch> {
        let one = |ring: &Arc<Keyring>| Watched { ring: ring.clone(), seen: ring.first, read: ring.first };
        let watched: Vec<_> = self.0.values().map(one).collect();
        (!watched.is_empty()).then_some(Watch(watched))
    }
}

/// Looks at files, again and again. Blocks as files do.
#[derive(Debug)]
pub struct Watch(Vec<Watched>);

#[derive(Debug)]
struct Watched {
    ring: Arc<Keyring>,
    /// At the last look. `None`: there was no file.
    seen: Option<Stamp>,
    /// When it was last read, also in vain.
    read: Option<Stamp>,
}

impl Watch {
    /// Reads what has changed. Returns whether a key was revoked.
    pub fn look(&mut self) -> bool {
        let mut revoked = false;
        for file in &mut self.0 {
            revoked |= file.look();
        }
        revoked
    }
}

impl Watched {
    fn look(&mut self) -> bool {
        let now = stamp(&self.ring.file);
        let quiet = now == self.seen;
        self.seen = now;
        if !quiet || now == self.read {
            return false;
        }
        self.read = now;
        let file = self.ring.file.display();
        match self.ring.reload() {
            Ok((keys, revoked)) => {
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

fn stamp(file: &Path) -> Option<Stamp> {
    file.metadata().ok().map(|metadata| Stamp::from(&metadata))
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
