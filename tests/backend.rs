//! The embedded backends, asked by tungstenite clients over loopback.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tidegate::backend;
use tidegate::config::model::BackendKind;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::{WebSocketStream, client_async};
use tokio_util::sync::CancellationToken;
use tungstenite::Message;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};

/// Every wait of these tests ends within it.
const PATIENCE: Duration = Duration::from_secs(20);

type Client = WebSocketStream<TcpStream>;

struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    running: JoinHandle<std::io::Result<()>>,
}

impl Server {
    async fn start(kind: BackendKind) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(backend::run(kind, listener, stop.clone()));
        Self { address, stop, running }
    }

    async fn connect(&self, path: &str) -> Client {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (client, _) = within(client_async(format!("ws://{}{path}", self.address), stream)).await.unwrap();
        client
    }

    /// A client that holds little of what it does not read.
    async fn connect_narrow(&self, path: &str) -> Client {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4 << 10).unwrap();
        let stream = within(socket.connect(self.address)).await.unwrap();
        within(client_async(format!("ws://{}{path}", self.address), stream)).await.unwrap().0
    }
}

const CHAT: BackendKind = BackendKind::Chat { history: 10 };

/// A member of the chat that was welcomed.
struct Member {
    client: Client,
    id: String,
    name: String,
    /// How many were there when it came, itself included.
    online: u64,
}

impl Member {
    async fn join(server: &Server, path: &str) -> Self {
        let mut client = server.connect(path).await;
        let id = news(&mut client, "your-id").await["id"].as_str().unwrap().to_owned();
        let name = news(&mut client, "welcome").await["userName"].as_str().unwrap().to_owned();
        let online = news(&mut client, "users").await["onlineCount"].as_u64().unwrap();
        news(&mut client, "history").await;
        Self { client, id, name, online }
    }

    async fn send(&mut self, text: &str) {
        within(self.client.send(Message::text(text))).await.unwrap();
    }

    async fn command(&mut self, command: Value) {
        self.send(&command.to_string()).await;
    }

    async fn next(&mut self) -> Value {
        heard(&mut self.client).await
    }

    async fn news(&mut self, kind: &str) -> Value {
        news(&mut self.client, kind).await
    }
}

/// Three members of one room who have heard of each other.
async fn three(server: &Server) -> [Member; 3] {
    let mut first = Member::join(server, "/chat").await;
    let mut second = Member::join(server, "/chat").await;
    let third = Member::join(server, "/chat").await;
    first.news("user-join").await;
    first.news("user-join").await;
    second.news("user-join").await;
    [first, second, third]
}

/// The next message, which must be of this type; its time is checked and taken out.
async fn news(client: &mut Client, kind: &str) -> Value {
    let value = heard(client).await;
    assert_eq!(value["type"], kind, "{value}");
    value
}

async fn heard(client: &mut Client) -> Value {
    let Message::Text(text) = receive(client).await else { panic!("the chat speaks text") };
    let mut value: Value = serde_json::from_str(&text).unwrap();
    if !["your-id", "users", "history", "error"].contains(&value["type"].as_str().unwrap()) {
        take_time(&mut value);
    }
    value
}

fn take_time(value: &mut Value) {
    let time = value.as_object_mut().unwrap().remove("time").expect("a time");
    OffsetDateTime::parse(time.as_str().unwrap(), &Rfc3339).expect("a time of RFC 3339");
}

async fn within<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.expect("waited too long")
}

async fn receive(client: &mut Client) -> Message {
    within(client.next()).await.expect("the connection ended").expect("a message")
}

/// The code of the Close that ends this connection; other messages before it are passed over.
async fn close_code(client: &mut Client) -> u16 {
    loop {
        if let Message::Close(frame) = receive(client).await {
            return frame.expect("a Close with a code").code.into();
        }
    }
}

#[tokio::test]
async fn echo_returns_messages_as_they_are() {
    let server = Server::start(BackendKind::Echo).await;
    let mut client = server.connect("/any/path?with=query").await;
    let rows = [
        ("text", Message::text("Grüße, 世界 🌊")),
        ("empty text", Message::text("")),
        ("binary", Message::binary(vec![0, 159, 146, 150])),
        ("empty binary", Message::binary(vec![])),
        ("at the length of 16 bits", Message::binary(vec![7; 65_535])),
        ("at the length of 64 bits", Message::binary(vec![8; 65_536])),
        ("large text", Message::text("é".repeat(1 << 20))),
        ("large binary", Message::binary(vec![9; 5 << 20])),
    ];
    for (name, message) in rows {
        within(client.send(message.clone())).await.unwrap();
        assert!(receive(&mut client).await == message, "{name}");
    }
}

#[tokio::test]
async fn echo_returns_the_largest_message_and_refuses_a_larger_one_with_1009() {
    let server = Server::start(BackendKind::Echo).await;
    let mut client = server.connect("/").await;
    let largest = Message::binary(vec![1; 64 << 20]);
    // Sent and read at once: the server reads no more while its answer is not taken.
    let stream = TcpStream::connect(server.address).await.unwrap();
    let config = tungstenite::protocol::WebSocketConfig::default().max_frame_size(None);
    let url = format!("ws://{}/", server.address);
    let (mut large, _) = within(tokio_tungstenite::client_async_with_config(url, stream, Some(config))).await.unwrap();
    within(large.send(largest.clone())).await.unwrap();
    assert!(receive(&mut large).await == largest);

    let too_large = Message::binary(vec![1; (64 << 20) + 1]);
    // The server may close before it has all of it.
    let _ = within(client.send(too_large)).await;
    assert_eq!(close_code(&mut client).await, 1009);
}

#[tokio::test]
async fn echo_returns_fragments_as_one_message_and_answers_pings_between_them() {
    let server = Server::start(BackendKind::Echo).await;
    let mut client = server.connect("/").await;
    let fragment = |text: &'static str, opcode, last| Message::Frame(Frame::message(text, OpCode::Data(opcode), last));
    within(client.send(fragment("one ", Data::Text, false))).await.unwrap();
    within(client.send(Message::Ping("p".into()))).await.unwrap();
    assert_eq!(receive(&mut client).await, Message::Pong("p".into()));
    within(client.send(fragment("message", Data::Continue, true))).await.unwrap();
    assert_eq!(receive(&mut client).await, Message::text("one message"));
}

#[tokio::test]
async fn echo_keeps_the_order_of_many_messages_sent_at_once() {
    let server = Server::start(BackendKind::Echo).await;
    let client = server.connect("/").await;
    // Small and large ones take different ways through the server.
    let messages: Vec<Message> = (0..200usize).map(|n| Message::binary(vec![n as u8; (n % 10) * 9_000])).collect();
    let (mut sink, mut stream) = client.split();
    let sending = async {
        for message in &messages {
            sink.feed(message.clone()).await.unwrap();
        }
        sink.flush().await.unwrap();
    };
    let receiving = async {
        for message in &messages {
            assert!(stream.next().await.unwrap().unwrap() == *message);
        }
    };
    within(async { tokio::join!(sending, receiving) }).await;
}

#[tokio::test]
async fn a_violation_is_answered_with_its_close_code() {
    let rows: [(&str, &[u8], u16); 3] = [
        ("an unmasked frame", &[0x81, 1, b'a'], 1002),
        ("a reserved opcode", &[0x83, 0x80, 0, 0, 0, 0], 1002),
        ("text that is not UTF-8", &[0x81, 0x81, 0, 0, 0, 0, 0xff], 1007),
    ];
    let server = Server::start(BackendKind::Echo).await;
    for (violation, bytes, code) in rows {
        let mut client = server.connect("/").await;
        within(client.get_mut().write_all(bytes)).await.unwrap();
        assert_eq!(close_code(&mut client).await, code, "{violation}");
    }
}

#[tokio::test]
async fn requests_are_answered_by_rule() {
    let upgrade = "Host: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";
    let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    let rows = [
        ("a handshake", format!("GET / HTTP/1.1\r\n{upgrade}{key}\r\n"), "101", accept),
        (
            "the first subprotocol is selected",
            format!("GET / HTTP/1.1\r\n{upgrade}{key}Sec-WebSocket-Protocol: b.v2, a\r\n\r\n"),
            "101",
            "Sec-WebSocket-Protocol: b.v2\r\n",
        ),
        ("no upgrade", "GET / HTTP/1.1\r\nHost: h\r\n\r\n".into(), "426", "Upgrade: websocket\r\n"),
        (
            "another version",
            format!("GET / HTTP/1.1\r\n{upgrade}{}\r\n", key.replace("13", "8")),
            "426",
            "Sec-WebSocket-Version: 13\r\n",
        ),
        ("no key", format!("GET / HTTP/1.1\r\n{upgrade}Sec-WebSocket-Version: 13\r\n\r\n"), "400", ""),
        ("a short key", format!("GET / HTTP/1.1\r\n{upgrade}{}\r\n", key.replace("dGhl", "")), "400", ""),
        ("POST", format!("POST / HTTP/1.1\r\n{upgrade}{key}\r\n"), "405", "Allow: GET\r\n"),
        ("HTTP/1.0", format!("GET / HTTP/1.0\r\n{upgrade}{key}\r\n"), "400", ""),
        ("no HTTP", "hello there\r\n\r\n".into(), "400", ""),
        ("an endless head", format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(40_000)), "431", ""),
    ];
    let server = Server::start(BackendKind::Echo).await;
    for (rule, request, status, field) in rows {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        within(stream.write_all(request.as_bytes())).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") && within(stream.read_buf(&mut answer)).await.unwrap() > 0 {}
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{rule}: {answer}");
        assert!(answer.contains(field), "{rule}: {answer}");
    }
}

#[tokio::test]
async fn frames_behind_the_head_are_not_lost() {
    let server = Server::start(BackendKind::Echo).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let mut bytes = b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        .to_vec();
    bytes.extend_from_slice(&[0x82, 0x82, 0, 0, 0, 0, 7, 8]);
    within(stream.write_all(&bytes)).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(&[0x82, 2, 7, 8]) {
        assert!(within(stream.read_buf(&mut answer)).await.unwrap() > 0, "the echo of the early frame");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_no_request_is_dropped() {
    let server = Server::start(BackendKind::Echo).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn clock_pushes_rfc3339_times_and_ignores_what_comes_in() {
    let interval = Duration::from_millis(50);
    let server = Server::start(BackendKind::Clock { interval }).await;
    let begin = Instant::now();
    let mut client = server.connect("/").await;
    within(client.send(Message::text("what time is it?"))).await.unwrap();
    within(client.send(Message::binary(vec![0]))).await.unwrap();
    let mut last = OffsetDateTime::UNIX_EPOCH;
    for _ in 0..4 {
        let Message::Text(text) = receive(&mut client).await else { panic!("a time is text") };
        let time = OffsetDateTime::parse(&text, &Rfc3339).unwrap();
        assert!(text.ends_with('Z') && time > last, "{text}");
        last = time;
    }
    assert!(begin.elapsed() >= 3 * interval, "the first at once, the others an interval apart");
    assert!((OffsetDateTime::now_utc() - last).whole_seconds().abs() < 20);
    within(client.close(None)).await.unwrap();
    while within(client.next()).await.is_some_and(|message| message.is_ok()) {}
}

#[tokio::test]
async fn clock_drops_a_client_that_does_not_read() {
    let server = Server::start(BackendKind::Clock { interval: Duration::ZERO }).await;
    let mut client = server.connect_narrow("/").await;
    receive(&mut client).await;
    // From here on time jumps to the next timer whenever everybody waits; nothing else is read.
    tokio::time::pause();
    let begin = tokio::time::Instant::now();
    let ping = [0x89, 0x80, 0, 0, 0, 0];
    while client.get_mut().write_all(&ping).await.is_ok() {
        assert!(begin.elapsed() < Duration::from_secs(600), "dropped within ten minutes of its time");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test]
async fn chat_welcomes_a_newcomer_and_tells_the_others() {
    let server = Server::start(CHAT).await;
    let mut ann = server.connect("/chat").await;
    let Value::String(id) = news(&mut ann, "your-id").await["id"].take() else { panic!("an id is text") };
    let welcome = news(&mut ann, "welcome").await;
    let name = welcome["userName"].as_str().unwrap().to_owned();
    assert!(name.starts_with("Guest-") && name.len() == 10, "{name}");
    assert_eq!(welcome, json!({"type": "welcome", "message": format!("Welcome, {name}!"), "userName": name}));
    let users = json!([{"id": id, "userName": name}]);
    assert_eq!(news(&mut ann, "users").await, json!({"type": "users", "users": users, "onlineCount": 1}));
    assert_eq!(news(&mut ann, "history").await, json!({"type": "history", "messages": []}));

    let bob = Member::join(&server, "/chat").await;
    assert!(bob.id != id && bob.name != name);
    let join = json!({
        "type": "user-join", "userName": bob.name, "message": format!("{} joined the room", bob.name),
        "onlineCount": 2, "id": bob.id,
    });
    assert_eq!(news(&mut ann, "user-join").await, join);

    // Without a Close: the member's process is gone.
    drop(bob.client);
    let leave = json!({
        "type": "user-leave", "userName": bob.name, "message": format!("{} left the room", bob.name),
        "onlineCount": 1, "id": bob.id,
    });
    assert_eq!(news(&mut ann, "user-leave").await, leave);
}

#[tokio::test]
async fn chat_tells_everybody_what_is_said() {
    let server = Server::start(CHAT).await;
    let [mut ann, mut bob, mut eve] = three(&server).await;
    // JSON that is no object is plain text too; markup is text like any other.
    for text in ["hello", "  two\nlines ", "123", "\"hi\"", "[1,2]", "null", "<b>&amp;</b>", "🌊\u{0}"] {
        ann.send(text).await;
        let said = json!({"type": "chat-message", "userName": ann.name, "message": text, "from": ann.id});
        for member in [&mut ann, &mut bob, &mut eve] {
            assert_eq!(member.news("chat-message").await, said);
        }
    }
    ann.command(json!({"type": "say", "content": "{not a command}"})).await;
    assert_eq!(bob.news("chat-message").await["message"], "{not a command}");
}

#[tokio::test]
async fn chat_tells_a_private_message_to_one_alone() {
    let server = Server::start(CHAT).await;
    let [mut ann, mut bob, mut eve] = three(&server).await;
    ann.command(json!({"type": "private", "to": bob.id, "content": "for you"})).await;
    let private = json!({"type": "private-message", "from": ann.id, "fromName": ann.name, "content": "for you"});
    assert_eq!(bob.news("private-message").await, private);
    // What comes next to the others is what is said next: nothing was between.
    ann.send("for all").await;
    assert_eq!(ann.news("chat-message").await["message"], "for all");
    assert_eq!(eve.news("chat-message").await["message"], "for all");
    // And a newcomer's history holds no private message.
    let mut late = server.connect("/chat").await;
    for kind in ["your-id", "welcome", "users"] {
        news(&mut late, kind).await;
    }
    let history = news(&mut late, "history").await;
    assert_eq!(history["messages"].as_array().unwrap().len(), 1, "{history}");
}

#[tokio::test]
async fn chat_renames_and_tells_everybody() {
    let server = Server::start(CHAT).await;
    let [mut ann, mut bob, _eve] = three(&server).await;
    ann.command(json!({"type": "rename", "userName": " Ann Lee "})).await;
    let rename = json!({
        "type": "user-rename", "id": ann.id, "oldName": ann.name, "userName": "Ann Lee",
        "message": format!("{} is now Ann Lee", ann.name), "onlineCount": 3,
    });
    assert_eq!(ann.news("user-rename").await, rename);
    assert_eq!(bob.news("user-rename").await, rename);
    ann.send("it is me").await;
    assert_eq!(bob.news("chat-message").await["userName"], "Ann Lee");

    bob.command(json!({"type": "rename", "userName": "ann lee"})).await;
    assert_eq!(bob.news("error").await["message"], "that name is taken; choose another");
    ann.command(json!({"type": "rename", "userName": "ANN LEE"})).await;
    assert_eq!(bob.news("user-rename").await["userName"], "ANN LEE", "one's own name in another case is free");
}

#[tokio::test]
async fn chat_answers_a_mistake_with_an_error_that_hurts_nobody() {
    let server = Server::start(CHAT).await;
    let [mut ann, mut bob, _eve] = three(&server).await;
    let private = |to: &str, content: &str| json!({"type": "private", "to": to, "content": content}).to_string();
    let rename = |name: &str| json!({"type": "rename", "userName": name}).to_string();
    let rows = [
        ("broken JSON", Message::text("{\"type\":")),
        ("broken JSON behind a space", Message::text(" {x}")),
        ("endless nesting", Message::text("{\"a\":".repeat(5_000))),
        ("no type", Message::text("{}")),
        ("an unknown command", Message::text("{\"type\":\"chat-message\",\"message\":\"forged\"}")),
        ("an unknown id", Message::text(private("0000000000000000", "x"))),
        ("a private message that is empty", Message::text(private(&bob.id, ""))),
        ("a private message that is too long", Message::text(private(&bob.id, &"x".repeat(2_001)))),
        (
            "a private message to an id that is no text",
            Message::text("{\"type\":\"private\",\"to\":{},\"content\":\"x\"}"),
        ),
        ("an empty name", Message::text(rename(" "))),
        ("a long name", Message::text(rename(&"x".repeat(33)))),
        ("a name of two lines", Message::text(rename("a\nb"))),
        ("an empty text", Message::text("")),
        ("a long text", Message::text("x".repeat(2_001))),
        ("a binary message", Message::binary(vec![1, 2, 3])),
    ];
    for (mistake, message) in rows {
        within(ann.client.send(message)).await.unwrap();
        let error = ann.news("error").await;
        assert!(error["message"].as_str().is_some_and(|words| !words.is_empty()), "{mistake}: {error}");
        assert_eq!(error.as_object().unwrap().len(), 2, "{mistake}: {error}");
    }
    ann.send("still here").await;
    assert_eq!(bob.news("chat-message").await["message"], "still here", "nothing of the mistakes came to others");
}

#[tokio::test]
async fn chat_closes_with_1009_on_a_message_that_no_member_could_mean() {
    let server = Server::start(CHAT).await;
    let [mut ann, mut bob, _eve] = three(&server).await;
    ann.send(&"x".repeat((64 << 10) + 1)).await;
    assert_eq!(close_code(&mut ann.client).await, 1009);
    assert_eq!(bob.news("user-leave").await["id"], ann.id.as_str());
}

#[tokio::test]
async fn chat_shows_a_newcomer_the_last_messages_of_its_room() {
    let server = Server::start(BackendKind::Chat { history: 3 }).await;
    let mut ann = Member::join(&server, "/chat").await;
    for number in 1..=5 {
        ann.send(&format!("message {number}")).await;
        ann.news("chat-message").await;
    }
    let mut late = server.connect("/chat/?room=does-not-count").await;
    for kind in ["your-id", "welcome", "users"] {
        news(&mut late, kind).await;
    }
    let mut history = news(&mut late, "history").await;
    let messages = history["messages"].as_array_mut().unwrap();
    messages.iter_mut().for_each(take_time);
    let said = |number| {
        json!({
            "type": "chat-message", "userName": ann.name, "message": format!("message {number}"), "from": ann.id,
        })
    };
    assert_eq!(*messages, [said(3), said(4), said(5)]);
}

#[tokio::test]
async fn chat_keeps_rooms_apart() {
    let server = Server::start(CHAT).await;
    let mut lobby = Member::join(&server, "/chat").await;
    let mut blue = Member::join(&server, "/chat/blue").await;
    let mut blue_too = Member::join(&server, "//chat/%62lue/").await;
    assert_eq!(blue.news("user-join").await["id"], blue_too.id.as_str());
    lobby.send("in the lobby").await;
    blue.send("in the blue room").await;
    assert_eq!(lobby.news("chat-message").await["message"], "in the lobby");
    assert_eq!(blue_too.news("chat-message").await["message"], "in the blue room");
    lobby.command(json!({"type": "private", "to": blue.id, "content": "through the wall"})).await;
    assert_eq!(lobby.news("error").await["message"], "nobody in this room has that id");
}

#[tokio::test]
async fn chat_drops_a_member_that_does_not_read_and_the_others_go_on() {
    let server = Server::start(CHAT).await;
    let mut slow = server.connect_narrow("/chat").await;
    let slow_id = news(&mut slow, "your-id").await["id"].clone();
    let mut ann = Member::join(&server, "/chat").await;
    let mut bob = Member::join(&server, "/chat").await;
    ann.news("user-join").await;
    let long = "x".repeat(1_500);
    let mut said = 0;
    let left = loop {
        assert!(said < 3_000, "the member that does not read is dropped");
        said += 1;
        ann.send(&long).await;
        let heard = ann.next().await;
        if heard["type"] == "user-leave" {
            break heard;
        }
        assert_eq!(heard["message"], long.as_str());
        assert_eq!(bob.next().await["message"], long.as_str());
    };
    assert_eq!(left["id"], slow_id);
    // It had room for some; then it gets the reason, or a reset where it did not even take that.
    let mut held = 0;
    while let Some(Ok(message)) = within(slow.next()).await {
        held += 1;
        if let Message::Close(frame) = message {
            assert_eq!(u16::from(frame.unwrap().code), 1008);
        }
    }
    assert!(held < said, "{held} of {said}");
    bob.send("we go on").await;
    while ann.next().await["message"] != "we go on" {}
}

#[tokio::test]
async fn chat_notices_a_member_that_is_gone_without_a_word() {
    let server = Server::start(CHAT).await;
    let mut silent = Member::join(&server, "/chat").await;
    tokio::time::pause();
    // Reads, so that all fits, but answers no ping.
    let mut bytes = [0; 1024];
    while silent.client.get_mut().read(&mut bytes).await.is_ok_and(|length| length > 0) {}
    assert_eq!(Member::join(&server, "/chat").await.online, 1);
}

#[tokio::test]
async fn stop_closes_every_session_with_1001_and_refuses_newcomers() {
    for kind in [BackendKind::Echo, BackendKind::Clock { interval: Duration::from_millis(5) }, CHAT] {
        let server = Server::start(kind).await;
        let mut clients = [server.connect("/a").await, server.connect("/a").await, server.connect("/b").await];
        server.stop.cancel();
        for client in &mut clients {
            assert_eq!(close_code(client).await, 1001, "{kind:?}");
        }
        drop(clients);
        within(server.running).await.unwrap().unwrap();
        assert!(TcpStream::connect(server.address).await.is_err(), "{kind:?}");
    }
}

#[tokio::test]
async fn stop_of_echo_returns_in_time_whatever_clients_do() {
    stop_returns_in_time(BackendKind::Echo).await;
}

#[tokio::test]
async fn stop_of_clock_returns_in_time_whatever_clients_do() {
    stop_returns_in_time(BackendKind::Clock { interval: Duration::from_millis(1) }).await;
}

#[tokio::test]
async fn stop_of_chat_returns_in_time_whatever_clients_do() {
    stop_returns_in_time(CHAT).await;
}

async fn stop_returns_in_time(kind: BackendKind) {
    let server = Server::start(kind).await;
    let _no_handshake = TcpStream::connect(server.address).await.unwrap();
    let _answers_no_close = server.connect("/").await;
    let mut reads_nothing = server.connect_narrow("/").await;
    // Fills every buffer on the way to the echo, until neither side can go on.
    let flood = Message::binary(vec![0; 1 << 20]);
    let pause = Duration::from_millis(200);
    while timeout(pause, reads_nothing.send(flood.clone())).await.is_ok_and(|sent| sent.is_ok()) {}
    let begin = Instant::now();
    server.stop.cancel();
    within(server.running).await.unwrap().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
}
