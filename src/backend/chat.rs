//! Chat: what members send and are sent. Rooms are apart by path (`/chat`, `/chat/blue`; the query does not count).
//!
//! Every message from the server is one JSON object with a `type`; times are RFC 3339 in UTC.
//!
//! | to whom | `type` | other members of the object |
//! | --- | --- | --- |
//! | a newcomer | `your-id` | `id` |
//! | | `welcome` | `message`, `userName`, `time` |
//! | | `users` | `users`: all who are there, the newcomer included, each with `id` and `userName`; `onlineCount` |
//! | | `history` | `messages`: the last `chat-message`s, oldest first |
//! | the others | `user-join`, `user-leave` | `userName`, `message`, `onlineCount`, `time`, `id` |
//! | everybody | `chat-message` | `userName`, `message`, `time`, `from` (the sender's id) |
//! | | `user-rename` | `id`, `oldName`, `userName`, `message`, `onlineCount`, `time` |
//! | one member | `private-message` | `from` (the sender's id), `fromName`, `content`, `time` |
//! | who made a mistake | `error` | `message` |
//!
//! A text that begins with `{` is a command; any other is said to the room as it is:
//!
//! | command | does |
//! | --- | --- |
//! | `{"type":"private","to":id,"content":…}` | tells that member alone |
//! | `{"type":"rename","userName":…}` | changes the sender's name |
//! | `{"type":"say","content":…}` | says it to the room: for texts that begin with `{` |
//!
//! Whoever does not read loses the connection (1008), not the room its memory.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Map, Value, json};
use tokio::task::yield_now;
use tokio::time::{Instant, interval_at};
use tokio_util::sync::CancellationToken;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Error, Message, Utf8Bytes};

pub use super::room::Rooms;
use super::room::Seat;
use super::socket::{End, Limits, Socket};

pub const LIMITS: Limits =
    Limits { message_bytes_max: 64 << 10, unsent_bytes_max: 4 << 20, send_buffer_bytes: Some(64 << 10) };

/// Characters of what is said.
pub const MESSAGE_CHARS_MAX: usize = 2_000;
/// Characters of a name.
pub const NAME_CHARS_MAX: usize = 32;
/// A member that was silent for so long is pinged; silent once more, it is gone: the list of who is there stays true.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// What a member did that cannot be done. Its words are the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Mistake {
    #[error("binary messages are not understood; send text")]
    Binary,
    #[error("a message must not be empty")]
    EmptyMessage,
    #[error("a message has at most {MESSAGE_CHARS_MAX} characters")]
    LongMessage,
    #[error("a text that begins with {{ must be one JSON object")]
    BrokenJson,
    #[error("unknown command; \"type\" is \"private\", \"rename\" or \"say\"")]
    UnknownCommand,
    #[error("this command needs \"{0}\", a text")]
    Missing(&'static str),
    #[error("nobody in this room has that id")]
    UnknownMember,
    #[error("a name has 1 to {NAME_CHARS_MAX} characters")]
    NameLength,
    #[error("a name has visible characters and spaces only")]
    NameCharacters,
    #[error("that name is taken; choose another")]
    NameTaken,
}

pub async fn session(socket: &mut Socket, rooms: &Arc<Rooms>, path: &str, stop: &CancellationToken) -> End {
    let Some(mut seat) = rooms.enter(path) else {
        return End::Close(CloseCode::Again, "the room is full");
    };
    let overrun = seat.overrun();
    tokio::select! {
        biased;
        () = stop.cancelled() => {
            rooms.clear();
            End::STOPPING
        }
        () = overrun.cancelled() => End::Close(CloseCode::Policy, "messages were not read"),
        end = talk(socket, &mut seat) => end,
    }
}

async fn talk(socket: &mut Socket, seat: &mut Seat) -> End {
    let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
    let mut pinged = false;
    loop {
        let step = tokio::select! {
            Some(text) = seat.news() => write(socket, text, seat).await,
            _ = heartbeat.tick() => {
                if pinged {
                    return End::Close(CloseCode::Policy, "pings were not answered");
                }
                pinged = true;
                socket.send(Message::Ping(Default::default())).await
            }
            message = socket.next() => match message {
                None => return End::ByPeer,
                Some(Err(error)) => Err(error),
                Some(Ok(message)) => {
                    pinged = false;
                    heartbeat.reset();
                    if let Err(mistake) = hear(seat, &message) {
                        seat.tell(json!({"type": "error", "message": mistake.to_string()}));
                    }
                    // One message, then the others' turn: who talks fast must not fill inboxes that nobody could empty.
                    yield_now().await;
                    Ok(())
                }
            },
        };
        if let Err(error) = step {
            return error.into();
        }
    }
}

/// Writes what waits as one.
async fn write(socket: &mut Socket, first: Utf8Bytes, seat: &mut Seat) -> Result<(), Error> {
    socket.feed(Message::Text(first)).await?;
    while let Some(text) = seat.more_news() {
        socket.feed(Message::Text(text)).await?;
    }
    socket.flush().await
}

fn hear(seat: &Seat, message: &Message) -> Result<(), Mistake> {
    match message {
        Message::Text(text) => match Command::read(text)? {
            Command::Say(message) => seat.say(&message),
            Command::Private { to, content } => seat.whisper(&to, &content),
            Command::Rename(name) => seat.rename(&name),
        },
        Message::Binary(_) => Err(Mistake::Binary),
        _ => Ok(()),
    }
}

/// What a member asks for, checked.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Say(String),
    Private { to: String, content: String },
    Rename(String),
}

impl Command {
    fn read(text: &str) -> Result<Self, Mistake> {
        if !text.trim_start().starts_with('{') {
            return Ok(Self::Say(message(text)?));
        }
        let object: Map<String, Value> = serde_json::from_str(text).map_err(|_| Mistake::BrokenJson)?;
        match object.get("type").and_then(Value::as_str) {
            Some("private") => {
                let content = message(field(&object, "content")?)?;
                Ok(Self::Private { to: field(&object, "to")?.to_owned(), content })
            }
            Some("rename") => Ok(Self::Rename(name(field(&object, "userName")?)?)),
            Some("say") => Ok(Self::Say(message(field(&object, "content")?)?)),
            _ => Err(Mistake::UnknownCommand),
        }
    }
}

fn field<'a>(object: &'a Map<String, Value>, key: &'static str) -> Result<&'a str, Mistake> {
    object.get(key).and_then(Value::as_str).ok_or(Mistake::Missing(key))
}

fn message(text: &str) -> Result<String, Mistake> {
    if text.trim().is_empty() {
        return Err(Mistake::EmptyMessage);
    }
    if text.chars().count() > MESSAGE_CHARS_MAX {
        return Err(Mistake::LongMessage);
    }
    Ok(text.to_owned())
}

fn name(text: &str) -> Result<String, Mistake> {
    let name = text.trim();
    if name.is_empty() || name.chars().count() > NAME_CHARS_MAX {
        return Err(Mistake::NameLength);
    }
    if name.chars().any(is_invisible) {
        return Err(Mistake::NameCharacters);
    }
    Ok(name.to_owned())
}

/// Characters with which one name could look like another, or turn the line around it.
fn is_invisible(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{3164}')
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(character, '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_by_rule() {
        let say = |text: &str| Ok(Command::Say(text.to_owned()));
        let private = |to: &str, content: &str| Ok(Command::Private { to: to.to_owned(), content: content.to_owned() });
        let rename = |name: &str| Ok(Command::Rename(name.to_owned()));
        let long = "é".repeat(MESSAGE_CHARS_MAX);
        let longer = "é".repeat(MESSAGE_CHARS_MAX + 1);
        let rows = [
            ("plain text", "hello", say("hello")),
            ("plain text keeps its spaces", "  a  ", say("  a  ")),
            ("a number is plain text", "123", say("123")),
            ("a JSON string is plain text", r#""hi""#, say(r#""hi""#)),
            ("a JSON array is plain text", "[1]", say("[1]")),
            ("empty text", "", Err(Mistake::EmptyMessage)),
            ("blank text", " \n\t", Err(Mistake::EmptyMessage)),
            ("the longest text, in characters", &long, say(&long)),
            ("a longer text", &longer, Err(Mistake::LongMessage)),
            ("broken JSON", "{", Err(Mistake::BrokenJson)),
            ("broken JSON behind spaces", "  {no", Err(Mistake::BrokenJson)),
            ("two objects", r#"{"type":"say","content":"a"}{}"#, Err(Mistake::BrokenJson)),
            ("endless nesting", &r#"{"a":"#.repeat(10_000), Err(Mistake::BrokenJson)),
            ("no type", "{}", Err(Mistake::UnknownCommand)),
            ("a type that is no text", r#"{"type":1}"#, Err(Mistake::UnknownCommand)),
            ("an unknown type", r#"{"type":"shout","content":"a"}"#, Err(Mistake::UnknownCommand)),
            ("private", r#"{"type":"private","to":"ab","content":"x"}"#, private("ab", "x")),
            ("private to nobody", r#"{"type":"private","content":"x"}"#, Err(Mistake::Missing("to"))),
            ("private to a number", r#"{"type":"private","to":7,"content":"x"}"#, Err(Mistake::Missing("to"))),
            ("private without content", r#"{"type":"private","to":"ab"}"#, Err(Mistake::Missing("content"))),
            ("private and empty", r#"{"type":"private","to":"ab","content":" "}"#, Err(Mistake::EmptyMessage)),
            ("rename", r#"{"type":"rename","userName":" Ann Lee "}"#, rename("Ann Lee")),
            ("rename without a name", r#"{"type":"rename"}"#, Err(Mistake::Missing("userName"))),
            ("rename to nothing", r#"{"type":"rename","userName":" "}"#, Err(Mistake::NameLength)),
            ("rename to two lines", r#"{"type":"rename","userName":"a\nb"}"#, Err(Mistake::NameCharacters)),
            ("rename to reversed text", r#"{"type":"rename","userName":"a\u202eb"}"#, Err(Mistake::NameCharacters)),
            ("say", r#"{"type":"say","content":"{x}"}"#, say("{x}")),
            ("spaces around a command", " {\"type\":\"say\",\"content\":\"a\"} ", say("a")),
        ];
        for (rule, text, command) in rows {
            assert_eq!(Command::read(text), command, "{rule}");
        }
        let name = |length| format!(r#"{{"type":"rename","userName":"{}"}}"#, "ü".repeat(length));
        assert_eq!(Command::read(&name(NAME_CHARS_MAX)), rename(&"ü".repeat(NAME_CHARS_MAX)));
        assert_eq!(Command::read(&name(NAME_CHARS_MAX + 1)), Err(Mistake::NameLength));
    }
}
