//! Echo: text and binary messages come back as they are, each as one frame; pings are answered by tungstenite.
//!
//! What is not read by the client is not read from it either, so a session holds at most one message.

use std::pin::pin;

use bytes::{Buf, Bytes};
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::frame::{Frame, FrameHeader};
use tungstenite::{Error, Message};

use super::socket::{End, Limits, Socket};

pub const LIMITS: Limits = Limits { message_bytes_max: 64 << 20, unsent_bytes_max: 256 << 10, send_buffer_bytes: None };

/// From this size on a message goes around tungstenite's write buffer, which moves all that is left at every partial
/// write (quadratic) and keeps its capacity for the session's life.
const LARGE_BYTES: usize = 64 << 10;

pub async fn session(socket: &mut Socket, stop: &CancellationToken) -> End {
    let mut stopped = pin!(stop.cancelled());
    loop {
        let message = tokio::select! {
            biased;
            // Only here, between frames: a large one that is stuck is dropped with the server's grace.
            () = &mut stopped => return End::STOPPING,
            message = next(socket) => message,
        };
        let sent = match message {
            Some(Ok(Message::Text(text))) => send(socket, Data::Text, text.into()).await,
            Some(Ok(Message::Binary(payload))) => send(socket, Data::Binary, payload).await,
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(error),
            None => return End::ByPeer,
        };
        if let Err(error) = sent {
            return error.into();
        }
    }
}

/// The next message. Replies are flushed only when there is none yet: those to messages that came together leave
/// together.
async fn next(socket: &mut Socket) -> Option<Result<Message, Error>> {
    if let Some(message) = socket.next().now_or_never() {
        return message;
    }
    if let Err(error) = socket.flush().await {
        return Some(Err(error));
    }
    socket.next().await
}

async fn send(socket: &mut Socket, kind: Data, payload: Bytes) -> Result<(), Error> {
    if payload.len() < LARGE_BYTES {
        return socket.feed(Message::Frame(Frame::message(payload, OpCode::Data(kind), true))).await;
    }
    socket.flush().await?;
    let mut header = Vec::with_capacity(10);
    FrameHeader { opcode: OpCode::Data(kind), ..FrameHeader::default() }.format(payload.len() as u64, &mut header)?;
    socket.get_mut().write_all_buf(&mut header.as_slice().chain(payload)).await?;
    Ok(())
}
