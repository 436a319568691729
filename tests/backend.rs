//! The embedded backends, asked by tungstenite clients over loopback.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tidegate::backend;
use tidegate::config::model::BackendKind;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::{WebSocketStream, client_async};
use tokio_util::sync::CancellationToken;
use tungstenite::Message;

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
async fn stop_closes_every_session_with_1001() {
    let server = Server::start(BackendKind::Echo).await;
    let mut clients = [server.connect("/a").await, server.connect("/b").await];
    server.stop.cancel();
    for client in &mut clients {
        assert_eq!(close_code(client).await, 1001);
    }
    within(server.running).await.unwrap().unwrap();
}
