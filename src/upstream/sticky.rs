//! Which server a client met before: by a cookie of ours, and by the session id of Socket.IO.
//!
//! In: request heads, and of answers that open a Socket.IO session the first bytes. Out: the server to prefer, and the
//! cookie to set. What is remembered is bounded, and whoever opens many sessions loses its own.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, request};
use tokio::time::Instant;

use super::member::name_of;
use crate::config::model::{self, Server, StickyCookie, Upstream};
use crate::file;
use crate::policy::client::ClientKey;
use crate::policy::sticky::{self, BadKey, Found, Key, Look};
use crate::proto::fields::{self, Hop};

/// Signs where no file holds a key. One for the process, so that a reload keeps it.
static MADE: LazyLock<Key> = LazyLock::new(Key::random);

/// Why a file of a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadFile {
    #[error("the key of the cookie in {}", .file.display())]
    File { file: PathBuf, source: file::BadFile },
    #[error("{} cannot be used", .file.display())]
    Key { file: PathBuf, source: BadKey },
}

/// The key that signs this cookie.
///
/// # Errors
/// When its file cannot be used.
pub fn key(cookie: &StickyCookie) -> Result<Key, BadFile> {
    let Some((file, _)) = &cookie.key else { return Ok(MADE.clone()) };
    let bytes = file::read(file).map_err(|source| BadFile::File { file: file.clone(), source })?;
    Key::parse(&bytes).map_err(|source| BadFile::Key { file: file.clone(), source })
}

/// The server that a client's cookie names, where that can be told without the running gateway: it has the key of a file,
/// and the server is not one of several addresses behind a name.
pub fn met<'a>(upstream: &'a Upstream, headers: &HeaderMap) -> Option<&'a Server> {
    let cookie = upstream.sticky.cookie.as_ref().filter(|cookie| cookie.key.is_some())?;
    let name = sticky::server(headers, &cookie.name, &key(cookie).ok()?, &upstream.name)?;
    upstream.servers.iter().find(|server| name_of(server, None) == name)
}

/// How an upstream keeps clients with their servers. Servers go by their names in [`Candidate`](super::balance::Candidate).
#[derive(Debug, Default)]
pub struct Sticky {
    cookie: Option<(StickyCookie, Key)>,
    sids: Option<Arc<Sids>>,
}

/// What a request asks of the choice of a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wish {
    /// What `balance` hashes.
    pub key: Option<u64>,
    /// The server that has the session to which the request belongs: no other can serve it.
    pub owner: Option<u64>,
    /// The server that the client's cookie names: it would rather have this one.
    pub met: Option<u64>,
    /// Who opens a session whose id the answer will tell.
    pub(super) opens: Option<ClientKey>,
    /// The client came over TLS.
    pub(super) secure: bool,
}

impl Wish {
    /// Whether the answer is to be read by us, too.
    pub fn opens_session(&self) -> bool {
        self.opens.is_some()
    }
}

impl Sticky {
    /// # Errors
    /// When the file of the cookie's key cannot be used.
    pub fn new(rules: &model::Sticky) -> Result<Sticky, BadFile> {
        let cookie = rules.cookie.clone().map(|cookie| key(&cookie).map(|key| (cookie, key))).transpose()?;
        Ok(Sticky { cookie, sids: rules.socket_io.then(Arc::default) })
    }

    /// Whether cookies are signed with the same key: its file may have changed.
    pub fn has_key_of(&self, other: &Sticky) -> bool {
        let mark = |sticky: &Sticky| sticky.cookie.as_ref().map(|(_, key)| key.seal("", 0));
        mark(self) == mark(other)
    }

    /// Takes over the sessions that `old` knows.
    pub fn inherit(&mut self, old: &Sticky) {
        if let (Some(sids), Some(old)) = (&mut self.sids, &old.sids) {
            *sids = old.clone();
        }
    }

    /// Sessions whose server is remembered.
    pub fn sessions(&self) -> usize {
        self.sids.as_ref().map_or(0, |sids| sids.len())
    }

    /// Forgets those that nobody asked for in a long time. To be called now and then.
    pub fn sweep(&self) {
        if let Some(sids) = &self.sids {
            sids.sweep(Instant::now());
        }
    }

    /// What a request of `client` says, without what `balance` makes of it.
    pub fn wish(&self, upstream: &str, parts: &request::Parts, client: impl Fn() -> ClientKey, hop: &Hop<'_>) -> Wish {
        let mut wish = Wish::default();
        if let Some((cookie, key)) = &self.cookie {
            wish.met = sticky::server(&parts.headers, &cookie.name, key, upstream);
            wish.secure = fields::asked(&parts.headers, hop).secure;
        }
        if let Some(sids) = &self.sids {
            wish.owner = sticky::sid(parts).and_then(|sid| sids.server(&sid, Instant::now()));
            wish.opens = sticky::opens_polling(parts).then(client);
        }
        wish
    }

    /// The `Set-Cookie` for a client that is served by `server` now; `None` where it knows that already. Who was led by
    /// the id of its session keeps the cookie that it has: of another session, in another tab, maybe.
    pub fn set_cookie(&self, upstream: &str, wish: &Wish, server: u64) -> Option<HeaderValue> {
        let (cookie, key) = self.cookie.as_ref()?;
        let stays = wish.met == Some(server) || (wish.met.is_some() && wish.owner == Some(server));
        (!stays).then(|| sticky::set_cookie(cookie, &key.seal(upstream, server), wish.secure))
    }

    /// Who learns, from the answer of `server`, the id of the session that the request opens.
    pub fn lesson(&self, wish: &Wish, server: u64) -> Option<Lesson> {
        let (sids, client) = (self.sids.clone()?, wish.opens?);
        Some(Lesson { look: Look::default(), sids, server, client })
    }
}

/// Session ids that are remembered for one upstream.
const SIDS_MAX: usize = 65_536;
/// One that no request named for so long is gone: polls and pings come every 25 s, and a poll that takes longer than
/// `request_timeout` ends anyway.
const SID_IDLE: Duration = Duration::from_secs(300);
/// Entries that are looked at, drawn by chance, when one has to go.
const DRAWN: usize = 32;

/// Which server has which Socket.IO session.
///
/// Ids are learned from the servers' own answers alone. When there are too many, that of a client which has most of those
/// that are looked at goes, and of these the one used longest ago: a crowd of ids from one client costs that client.
#[derive(Debug)]
pub struct Sids {
    max: usize,
    hasher: RandomState,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// In no order, so that some can be drawn by chance.
    entries: Vec<Entry>,
    /// Where the entry of an id stands.
    places: HashMap<u64, usize>,
    /// How many a client has.
    counts: HashMap<ClientKey, usize>,
}

#[derive(Debug)]
struct Entry {
    /// A keyed hash: nobody finds another id with the same one.
    sid: u64,
    server: u64,
    /// Who opened it.
    client: ClientKey,
    used: Instant,
}

impl Default for Sids {
    fn default() -> Self {
        Sids::new(SIDS_MAX)
    }
}

impl Sids {
    fn new(max: usize) -> Self {
        Sids { max, hasher: RandomState::new(), table: Mutex::default() }
    }

    /// The server of a session. It is remembered for longer now.
    pub fn server(&self, sid: &[u8], now: Instant) -> Option<u64> {
        let sid = self.hasher.hash_one(sid);
        let mut table = self.lock();
        let at = *table.places.get(&sid)?;
        let entry = &mut table.entries[at];
        if now.saturating_duration_since(entry.used) > SID_IDLE {
            table.remove(at);
            return None;
        }
        entry.used = now;
        Some(entry.server)
    }

    /// `server` has opened a session with `client`. One that is known already stays where it is.
    pub fn learn(&self, sid: &[u8], server: u64, client: ClientKey, now: Instant) {
        let sid = self.hasher.hash_one(sid);
        let mut table = self.lock();
        if table.places.contains_key(&sid) {
            return;
        }
        if table.entries.len() >= self.max {
            table.make_room();
        }
        table.insert(Entry { sid, server, client, used: now });
    }

    /// Forgets those that nobody named for long, and gives their memory back. To be called now and then.
    fn sweep(&self, now: Instant) {
        let mut table = self.lock();
        // From behind: what takes the place of one that goes was looked at.
        for at in (0..table.entries.len()).rev() {
            if now.saturating_duration_since(table.entries[at].used) > SID_IDLE {
                table.remove(at);
            }
        }
    }

    fn len(&self) -> usize {
        self.lock().entries.len()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn insert(&mut self, entry: Entry) {
        *self.counts.entry(entry.client).or_default() += 1;
        self.places.insert(entry.sid, self.entries.len());
        self.entries.push(entry);
    }

    fn remove(&mut self, at: usize) {
        let gone = self.entries.swap_remove(at);
        self.places.remove(&gone.sid);
        if let Some(moved) = self.entries.get(at) {
            self.places.insert(moved.sid, at);
        }
        if let Some(count) = self.counts.get_mut(&gone.client) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&gone.client);
            }
        }
        self.shrink();
    }

    fn make_room(&mut self) {
        let drawn = (0..DRAWN).map(|_| rand::random_range(0..self.entries.len()));
        let rank = |at: &usize| {
            let entry = &self.entries[*at];
            (self.counts.get(&entry.client).copied(), std::cmp::Reverse(entry.used))
        };
        if let Some(at) = drawn.max_by_key(rank) {
            self.remove(at);
        }
    }

    /// Gives back what a crowd once needed.
    fn shrink(&mut self) {
        let len = self.entries.len();
        if self.entries.capacity() > 64 && len < self.entries.capacity() / 4 {
            self.entries.shrink_to(len * 2);
            self.places.shrink_to(len * 2);
            self.counts.shrink_to(len * 2);
        }
    }
}

/// Learns the id of a session from the answer that opens it.
#[derive(Debug)]
pub struct Lesson {
    look: Look,
    sids: Arc<Sids>,
    server: u64,
    client: ClientKey,
}

impl Lesson {
    /// Takes bytes of the answer, before the client gets them. Returns whether it has to see more.
    pub fn read(&mut self, bytes: &[u8]) -> bool {
        match self.look.read(bytes) {
            Found::Sid(sid) => {
                self.sids.learn(&sid, self.server, self.client, Instant::now());
                false
            }
            Found::NotYet => true,
            Found::Nothing => false,
        }
    }
}

#[cfg(test)]
mod tests;
