//! The rooms of the chat: who is in them, what was said, and a bounded inbox for each member. No socket and no waiting.
//!
//! A room exists while somebody is in it. One lock guards all rooms: what happens under it is short and never waits,
//! and it makes what everybody sees one order.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tungstenite::Utf8Bytes;

use super::chat::Mistake;
use super::clock::now;

/// Members of one room: a newcomer's list of them stays below what a session may hold unsent.
pub const MEMBERS_MAX: usize = 10_000;
/// Of the messages that wait for one member; they are shared by all who wait for them. Not a matter of their number: in a
/// busy runtime a session that reads may be a thousand messages behind before it is its turn. A newcomer's list of a full
/// room has a place in it.
const INBOX_BYTES_MAX: usize = 4 << 20;
/// Of the messages that a room keeps for newcomers, beside the number that is configured.
const HISTORY_BYTES_MAX: usize = 256 << 10;

pub struct Rooms {
    /// Messages that a room keeps for newcomers.
    history: usize,
    by_path: Mutex<HashMap<String, Room>>,
}

#[derive(Default)]
struct Room {
    members: HashMap<String, Member>,
    history: VecDeque<Utf8Bytes>,
}

struct Member {
    name: String,
    inbox: Inbox,
}

/// Where the messages for one member wait until its session writes them.
#[derive(Clone)]
struct Inbox {
    messages: mpsc::UnboundedSender<Utf8Bytes>,
    /// Of what waits.
    bytes: Arc<AtomicUsize>,
    /// Cancelled when they were too many: the session ends.
    overrun: CancellationToken,
}

/// A session's place in a room. It leaves the room when it is dropped, whatever ended the session.
pub struct Seat {
    rooms: Arc<Rooms>,
    path: String,
    id: String,
    inbox: Inbox,
    messages: mpsc::UnboundedReceiver<Utf8Bytes>,
}

impl Rooms {
    pub fn new(history: usize) -> Self {
        Self { history, by_path: Mutex::default() }
    }

    /// Takes a seat in the room of `path` under a name of our choice; `None` when the room is full.
    pub fn enter(self: &Arc<Self>, path: &str) -> Option<Seat> {
        let path = normal_form(path);
        let (sender, messages) = mpsc::unbounded_channel();
        let inbox = Inbox { messages: sender, bytes: Arc::default(), overrun: CancellationToken::new() };
        let mut rooms = self.lock();
        let room = rooms.entry(path.clone()).or_default();
        if room.members.len() >= MEMBERS_MAX {
            return None;
        }
        let id = format!("{:016x}", rand::random::<u64>());
        let name = room.free_guest_name();
        room.members.insert(id.clone(), Member { name: name.clone(), inbox: inbox.clone() });
        inbox.put(json!({"type": "your-id", "id": id}));
        inbox.put(json!({
            "type": "welcome", "message": format!("Welcome, {name}!"), "userName": name, "time": now(),
        }));
        inbox.put(room.users());
        inbox.put_text(room.past());
        room.tell_of(&id, "user-join", &name, format!("{name} joined the room"));
        Some(Seat { rooms: Arc::clone(self), path, id, inbox, messages })
    }

    /// Empties every room without a word: when the server stops, nobody needs to hear that everybody leaves.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Room>> {
        // A panic under the lock cost one session; the maps themselves are whole.
        self.by_path.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Says `message` to everybody in the room, this member included.
    pub fn say(&self, message: &str) -> Result<(), Mistake> {
        self.in_room(|room| {
            let name = room.name_of(&self.id);
            let text = Utf8Bytes::from(
                json!({
                    "type": "chat-message", "userName": name, "message": message, "time": now(), "from": self.id,
                })
                .to_string(),
            );
            room.remember(text.clone(), self.rooms.history);
            room.tell_all(&text);
            Ok(())
        })
    }

    /// Says `content` to the member `to` alone.
    pub fn whisper(&self, to: &str, content: &str) -> Result<(), Mistake> {
        self.in_room(|room| {
            let recipient = room.members.get(to).ok_or(Mistake::UnknownMember)?;
            recipient.inbox.put(json!({
                "type": "private-message", "from": self.id, "fromName": room.name_of(&self.id),
                "content": content, "time": now(),
            }));
            Ok(())
        })
    }

    /// Takes another name, and tells everybody, this member included.
    pub fn rename(&self, name: &str) -> Result<(), Mistake> {
        self.in_room(|room| {
            if room.is_taken(name, &self.id) {
                return Err(Mistake::NameTaken);
            }
            let Some(member) = room.members.get_mut(&self.id) else { return Ok(()) };
            let old = std::mem::replace(&mut member.name, name.to_owned());
            let news = json!({
                "type": "user-rename", "id": self.id, "oldName": old, "userName": name,
                "message": format!("{old} is now {name}"), "onlineCount": room.members.len(), "time": now(),
            });
            room.tell_all(&news.to_string().into());
            Ok(())
        })
    }

    /// Tells this member alone.
    pub fn tell(&self, message: Value) {
        self.inbox.put(message);
    }

    /// What this member is to be told next, once there is something.
    pub async fn news(&mut self) -> Option<Utf8Bytes> {
        let text = self.messages.recv().await?;
        self.inbox.taken(&text);
        Some(text)
    }

    /// The same where it is there already.
    pub fn more_news(&mut self) -> Option<Utf8Bytes> {
        let text = self.messages.try_recv().ok()?;
        self.inbox.taken(&text);
        Some(text)
    }

    /// Cancelled when this member did not take its messages.
    pub fn overrun(&self) -> CancellationToken {
        self.inbox.overrun.clone()
    }

    fn in_room(&self, act: impl FnOnce(&mut Room) -> Result<(), Mistake>) -> Result<(), Mistake> {
        // Only `clear` takes a room away from somebody who sits in it.
        self.rooms.lock().get_mut(&self.path).map_or(Ok(()), act)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut rooms = self.rooms.lock();
        let Entry::Occupied(mut room) = rooms.entry(std::mem::take(&mut self.path)) else {
            return;
        };
        let Some(Member { name, .. }) = room.get_mut().members.remove(&self.id) else {
            return;
        };
        if room.get().members.is_empty() {
            room.remove();
        } else {
            room.get_mut().tell_of(&self.id, "user-leave", &name, format!("{name} left the room"));
        }
    }
}

impl Inbox {
    fn taken(&self, text: &Utf8Bytes) {
        self.bytes.fetch_sub(text.len(), Ordering::Relaxed);
    }

    fn put(&self, message: Value) {
        self.put_text(message.to_string().into());
    }

    /// A full inbox loses its member, not the message of others: the session sees the token and gives up its seat.
    fn put_text(&self, text: Utf8Bytes) {
        let bytes = text.len();
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > INBOX_BYTES_MAX {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return self.overrun.cancel();
        }
        // Nobody takes it any more when the session has just ended.
        let _ = self.messages.send(text);
    }
}

impl Room {
    fn tell_all(&self, text: &Utf8Bytes) {
        for member in self.members.values() {
            member.inbox.put_text(text.clone());
        }
    }

    /// Tells everybody but `id` what `id` did.
    fn tell_of(&self, id: &str, kind: &str, name: &str, message: String) {
        let online = self.members.len();
        let news = json!({
            "type": kind, "userName": name, "message": message, "onlineCount": online, "time": now(), "id": id,
        });
        let text = Utf8Bytes::from(news.to_string());
        for (_, member) in self.members.iter().filter(|(member, _)| *member != id) {
            member.inbox.put_text(text.clone());
        }
    }

    fn users(&self) -> Value {
        let users: Vec<Value> =
            self.members.iter().map(|(id, member)| json!({"id": id, "userName": member.name})).collect();
        json!({"type": "users", "users": users, "onlineCount": users.len()})
    }

    /// The history as one message. Its parts are JSON already.
    fn past(&self) -> Utf8Bytes {
        let messages: Vec<&str> = self.history.iter().map(Utf8Bytes::as_str).collect();
        format!(r#"{{"type":"history","messages":[{}]}}"#, messages.join(",")).into()
    }

    fn remember(&mut self, text: Utf8Bytes, kept: usize) {
        self.history.push_back(text);
        let mut bytes: usize = self.history.iter().map(|text| text.len()).sum();
        while self.history.len() > kept || bytes > HISTORY_BYTES_MAX {
            bytes -= self.history.pop_front().map_or(0, |text| text.len());
        }
    }

    fn name_of(&self, id: &str) -> Option<&str> {
        self.members.get(id).map(|member| member.name.as_str())
    }

    /// Names that differ in case alone would pass for each other.
    fn is_taken(&self, name: &str, by_other_than: &str) -> bool {
        let name = name.to_lowercase();
        self.members.iter().any(|(id, member)| id != by_other_than && member.name.to_lowercase() == name)
    }

    /// Ends: there are six times as many names as members of a full room.
    fn free_guest_name(&self) -> String {
        loop {
            let name = format!("Guest-{:04X}", rand::random::<u16>());
            if !self.is_taken(&name, "") {
                return name;
            }
        }
    }
}

/// One spelling for each room, as routes match: unreserved characters decoded (RFC 3986 section 6.2.2), other escapes
/// in upper case, no empty segments, so `/chat`, `/chat/` and `//%63hat` are one.
fn normal_form(path: &str) -> String {
    let mut normal = String::with_capacity(path.len());
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        normal.push('/');
        let mut rest = segment;
        while let Some(at) = rest.find('%') {
            normal.push_str(&rest[..at]);
            rest = &rest[at..];
            let length = match rest.get(1..3).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                    normal.push(byte.into());
                    3
                }
                Some(_) => {
                    normal.push_str(&rest[..3].to_ascii_uppercase());
                    3
                }
                None => {
                    normal.push('%');
                    1
                }
            };
            rest = &rest[length..];
        }
        normal.push_str(rest);
    }
    if normal.is_empty() { "/".to_owned() } else { normal }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_have_one_spelling() {
        let rows = [
            ("/", "/"),
            ("", "/"),
            ("/chat", "/chat"),
            ("/chat/", "/chat"),
            ("//chat///blue", "/chat/blue"),
            ("/%63hat/%7eann", "/chat/~ann"),
            ("/chat/gr%c3%bcn", "/chat/gr%C3%BCn"),
            ("/chat%2fblue", "/chat%2Fblue"),
            ("/100%", "/100%"),
            ("/%zz%4", "/%zz%4"),
            ("/%+1", "/%+1"),
            ("/Chat", "/Chat"),
        ];
        for (path, normal) in rows {
            assert_eq!(normal_form(path), normal, "{path}");
        }
    }

    #[test]
    fn a_room_is_gone_with_its_last_member() {
        let rooms = Arc::new(Rooms::new(10));
        let seats = [rooms.enter("/a").unwrap(), rooms.enter("/a").unwrap(), rooms.enter("/b").unwrap()];
        seats[0].say("kept for newcomers").unwrap();
        assert_eq!(rooms.lock().len(), 2);
        drop(seats);
        assert_eq!(rooms.lock().len(), 0);
    }

    #[test]
    fn history_is_bounded_in_number_and_bytes() {
        let rooms = Arc::new(Rooms::new(3));
        let seat = rooms.enter("/a").unwrap();
        (0..5).for_each(|number| seat.say(&number.to_string()).unwrap());
        assert_eq!(rooms.lock()["/a"].history.len(), 3);

        let rooms = Arc::new(Rooms::new(usize::MAX));
        let seat = rooms.enter("/a").unwrap();
        (0..100).for_each(|_| seat.say(&"x".repeat(8_000)).unwrap());
        let bytes: usize = rooms.lock()["/a"].history.iter().map(|text| text.len()).sum();
        assert!((HISTORY_BYTES_MAX - 10_000..=HISTORY_BYTES_MAX).contains(&bytes), "{bytes}");
    }

    #[test]
    fn a_member_that_takes_no_message_is_overrun_and_holds_no_more_than_its_inbox() {
        let rooms = Arc::new(Rooms::new(0));
        let mut slow = rooms.enter("/a").unwrap();
        let mut quick = rooms.enter("/a").unwrap();
        let long = "x".repeat(1_000);
        for _ in 0..INBOX_BYTES_MAX / long.len() {
            quick.say(&long).unwrap();
            while quick.more_news().is_some() {}
        }
        assert!(slow.overrun().is_cancelled());
        assert!(!quick.overrun().is_cancelled());
        let held: usize = std::iter::from_fn(|| slow.more_news()).map(|text| text.len()).sum();
        assert!((INBOX_BYTES_MAX - 2 * long.len()..=INBOX_BYTES_MAX).contains(&held), "{held}");
        assert_eq!(slow.inbox.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_member_that_waits_for_its_turn_is_not_taken_for_one_that_does_not_read() {
        let rooms = Arc::new(Rooms::new(0));
        let mut late = rooms.enter("/a").unwrap();
        let mut others: Vec<_> = (0..200).map(|_| rooms.enter("/a").unwrap()).collect();
        for number in 0..2_000 {
            others[number % 200].say(&number.to_string()).unwrap();
            others.iter_mut().for_each(|other| while other.more_news().is_some() {});
        }
        assert!(!late.overrun().is_cancelled());
        let heard = std::iter::from_fn(|| late.more_news()).filter(|text| text.contains("chat-message")).count();
        assert_eq!(heard, 2_000);
    }

    #[test]
    fn a_full_room_takes_nobody_and_another_room_does() {
        let rooms = Arc::new(Rooms::new(0));
        let _seat = rooms.enter("/a").unwrap();
        {
            // Members without a session of their own: ten thousand joins would each be told to all before.
            let mut all = rooms.lock();
            let room = all.get_mut("/a").unwrap();
            let inbox = room.members.values().next().unwrap().inbox.clone();
            for number in room.members.len()..MEMBERS_MAX {
                room.members.insert(number.to_string(), Member { name: number.to_string(), inbox: inbox.clone() });
            }
        }
        assert!(rooms.enter("/a").is_none());
        assert!(rooms.enter("/b").is_some());
    }
}
