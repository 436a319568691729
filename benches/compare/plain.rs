//! Plain HTTP over connections that are kept: a request, 1 KiB back, and again. Both ends of it.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::client::{Io, Target};
use crate::loads::{Cpu, Times, Window, none_fails, window};

/// The peers tell by the path that it is no WebSocket.
const REQUEST: &[u8] = b"GET /http HTTP/1.1\r\nHost: localhost\r\nUser-Agent: compare\r\nAccept: */*\r\n\r\n";
/// Bytes of an answer's body.
const BODY: usize = 1024;

/// Each connection asks, waits for the whole answer, and asks again.
pub async fn load(target: &Target, connections: usize, times: Times, cpu: Cpu<'_>) -> io::Result<Window> {
    let counter = Rc::new(Cell::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let mut stream = Io::connect(target).await?;
        let counter = counter.clone();
        tasks.spawn_local(async move {
            let mut answer = Vec::with_capacity(4 * BODY);
            loop {
                exchange(&mut stream, &mut answer).await?;
                counter.set(counter.get() + 1);
            }
        });
    }
    none_fails(&mut tasks, window(times, cpu, &counter)).await
}

async fn exchange(stream: &mut Io, answer: &mut Vec<u8>) -> io::Result<()> {
    stream.send(REQUEST).await?;
    answer.clear();
    let mut whole = None;
    while whole.is_none_or(|whole| answer.len() < whole) {
        stream.receive(answer).await?;
        if whole.is_none()
            && let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n")
        {
            let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
            if !head.starts_with("http/1.1 200 ") || !head.contains("\r\ncontent-length: 1024") {
                return Err(io::Error::other(head));
            }
            whole = Some(end + 4 + BODY);
        }
    }
    Ok(())
}

/// Answers the request whose head was read, and those after it.
pub async fn answer(mut stream: TcpStream, mut head: Vec<u8>) -> io::Result<()> {
    let mut answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n".to_vec();
    answer.resize(answer.len() + BODY, b'x');
    loop {
        stream.write_all(&answer).await?;
        head.clear();
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        }
    }
}
