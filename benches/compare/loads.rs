//! The loads. Each opens its sessions, warms up, measures for a window, and drops them.
//!
//! What a proxy used is read around the window by `cpu` (nanoseconds), so that opening and closing sessions do not count.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::task::{JoinSet, yield_now};
use tokio::time::{sleep, timeout};

use crate::backend::Backend;
use crate::client::{Client, Target, tls};
use crate::codec::{BINARY, PING, PONG, client_frame, server_frame};

/// How many sessions are opened at a time.
const OPENING: usize = 32;
/// For what must happen soon.
const PATIENCE: Duration = Duration::from_secs(30);

/// What one window of a load came to.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Messages there and back, pings answered, deliveries, handshakes.
    pub count: u64,
    pub cpu_ns: u64,
    pub time: Duration,
}

impl Window {
    pub fn cpu_us(&self) -> f64 {
        self.cpu_ns as f64 / 1e3 / self.count as f64
    }

    pub fn per_second(&self) -> f64 {
        self.count as f64 / self.time.as_secs_f64()
    }
}

/// How long a window is, and how long it is warmed up.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub warm: Duration,
    pub window: Duration,
}

pub type Cpu<'a> = &'a dyn Fn() -> u64;

/// Opens `count` sessions.
pub async fn open(target: &Target, path: &'static str, count: usize) -> io::Result<Vec<Client>> {
    let mut clients = Vec::with_capacity(count);
    let mut opening = JoinSet::new();
    while clients.len() < count {
        while opening.len() < OPENING && opening.len() + clients.len() < count {
            let target = target.clone();
            opening.spawn_local(async move { Client::open(&target, path).await });
        }
        if let Some(opened) = opening.join_next().await {
            clients.push(opened.map_err(io::Error::other)??);
        }
    }
    Ok(clients)
}

/// Measures how far `counter` comes within a window.
pub async fn window(times: Times, cpu: Cpu<'_>, counter: &Cell<u64>) -> io::Result<Window> {
    sleep(times.warm).await;
    let (began, used, counted) = (Instant::now(), cpu(), counter.get());
    sleep(times.window).await;
    let window = Window { count: counter.get() - counted, cpu_ns: cpu() - used, time: began.elapsed() };
    if window.count == 0 {
        return Err(io::Error::other("nothing came back"));
    }
    Ok(window)
}

/// Sessions that send a batch of `deep` messages and wait for all of them.
#[derive(Debug, Clone, Copy)]
pub struct Echo {
    pub sessions: usize,
    pub bytes: usize,
    pub deep: usize,
}

pub async fn echo(target: &Target, load: Echo, times: Times, cpu: Cpu<'_>) -> io::Result<Window> {
    let mut batch = Vec::new();
    for _ in 0..load.deep {
        client_frame(BINARY, &vec![0x5a; load.bytes], &mut batch);
    }
    let batch: Rc<[u8]> = batch.into();
    let counter = Rc::new(Cell::new(0));
    let mut tasks = JoinSet::new();
    for mut client in open(target, "/", load.sessions).await? {
        let (batch, counter) = (batch.clone(), counter.clone());
        tasks.spawn_local(async move {
            loop {
                client.queue(&batch);
                client.receive(load.deep).await?;
                counter.set(counter.get() + load.deep as u64);
            }
        });
    }
    none_fails(&mut tasks, window(times, cpu, &counter)).await
}

/// Runs `work` beside tasks that have no end but a failure.
pub async fn none_fails<T>(
    tasks: &mut JoinSet<io::Result<()>>,
    work: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    tokio::select! {
        done = work => done,
        Some(ended) = tasks.join_next() => {
            Err(ended.map_err(io::Error::other)?.err().unwrap_or_else(|| io::Error::other("a session ended")))
        }
    }
}

/// What is sent on time, whatever comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Of 128 bytes.
    Message,
    Ping,
}

#[derive(Debug, Clone, Copy)]
pub struct OnTime {
    pub kind: Kind,
    pub sessions: usize,
    pub per_second: u32,
}

/// Sends at a steady rate and measures each answer from when its message was due, so that a stall is seen by all that
/// it holds up. The latencies are in nanoseconds, in order of size.
pub async fn on_time(target: &Target, load: OnTime, times: Times, cpu: Cpu<'_>) -> io::Result<(Window, Vec<u32>)> {
    let opcode = if load.kind == Kind::Ping { PING } else { BINARY };
    let bytes = if load.kind == Kind::Ping { 8 } else { 128 };
    let began = Instant::now();
    let latencies = Rc::new(RefCell::new(Vec::new()));
    let counter = Rc::new(Cell::new(0));
    let mut tasks = JoinSet::new();
    let mut clients = Vec::new();
    for client in open(target, "/", load.sessions).await? {
        let client = Rc::new(RefCell::new(client));
        clients.push(client.clone());
        let (latencies, counter) = (latencies.clone(), counter.clone());
        tasks.spawn_local(poll_fn(move |cx| {
            let mut each = |opcode: u8, front: &[u8]| {
                let Ok(due) = front.try_into().map(u64::from_le_bytes) else { return };
                if opcode == PONG || opcode == BINARY {
                    let late = (began.elapsed().as_nanos() as u64).saturating_sub(due);
                    latencies.borrow_mut().push(late.min(u64::from(u32::MAX)) as u32);
                    counter.set(counter.get() + 1);
                }
            };
            loop {
                match client.borrow_mut().poll_receive(cx, &mut each) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Pending,
                }
            }
        }));
    }
    // Turns with the reading tasks instead of sleeping: a timer is a millisecond coarse.
    let driver = async {
        let every = Duration::from_secs(1) / load.per_second;
        let mut due = began.elapsed();
        let mut frame = Vec::new();
        let mut payload = vec![0; bytes];
        for client in clients.iter().cycle() {
            while began.elapsed() < due {
                yield_now().await;
            }
            payload[..8].copy_from_slice(&(due.as_nanos() as u64).to_le_bytes());
            frame.clear();
            client_frame(opcode, &payload, &mut frame);
            client.borrow_mut().queue(&frame);
            // A failure is told to the task that reads.
            let _ = poll_fn(|cx| client.borrow_mut().poll_drain(cx)).await;
            due += every;
        }
    };
    let measured = async {
        sleep(times.warm).await;
        latencies.borrow_mut().clear();
        window(Times { warm: Duration::ZERO, ..times }, cpu, &counter).await
    };
    let measured = none_fails(&mut tasks, async {
        tokio::select! {
            measured = measured => measured,
            () = driver => Err(io::Error::other("no sessions")),
        }
    });
    let measured = measured.await?;
    let mut latencies = latencies.take();
    latencies.sort_unstable();
    Ok((measured, latencies))
}

/// One message of 128 bytes to all of `sessions`, again when all have it.
pub async fn fan_out(
    target: &Target,
    backend: &Backend,
    sessions: usize,
    times: Times,
    cpu: Cpu<'_>,
) -> io::Result<Window> {
    let counter = Rc::new(Cell::new(0));
    let mut tasks = JoinSet::new();
    for mut client in open(target, "/fan", sessions).await? {
        let counter = counter.clone();
        tasks.spawn_local(async move {
            loop {
                client.receive(1).await?;
                counter.set(counter.get() + 1);
            }
        });
    }
    until("the backend has every session", || backend.fans() == sessions).await?;
    let mut frame = Vec::new();
    server_frame(BINARY, &[0x5a; 128], &mut frame);
    let driver = async {
        let mut due = 0;
        loop {
            due += sessions as u64;
            backend.fan(&frame).await;
            while counter.get() < due {
                yield_now().await;
            }
        }
    };
    none_fails(&mut tasks, async {
        tokio::select! {
            measured = window(times, cpu, &counter) => measured,
            () = driver => unreachable!("it has no end"),
        }
    })
    .await
}

/// How a session is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hello {
    Plain,
    Full,
    /// Full, with the key exchange that browsers prefer.
    PostQuantum,
    Resumed,
}

/// Opens `count` sessions; closing them is not part of it.
pub async fn handshakes(target: &Target, hello: Hello, count: usize, cpu: Cpu<'_>) -> io::Result<Window> {
    // A ticket serves once, and comes before the 101: each lane has its own, from the session before.
    let lanes = OPENING.min(count);
    let mut targets = Vec::new();
    let mut first = Vec::new();
    for _ in 0..lanes {
        let tls = target.tls.as_ref().map(|_| tls(hello == Hello::PostQuantum, hello == Hello::Resumed));
        let target = Target { tls, ..target.clone() };
        if hello == Hello::Resumed {
            first.push(Client::open(&target, "/").await?);
        }
        targets.push(target);
    }
    let (began, used) = (Instant::now(), cpu());
    let mut tasks = JoinSet::new();
    for target in targets {
        tasks.spawn_local(async move {
            let mut clients = Vec::new();
            for _ in 0..count / lanes {
                clients.push(Client::open(&target, "/").await?);
            }
            io::Result::Ok(clients)
        });
    }
    let mut opened = Vec::new();
    while let Some(lane) = tasks.join_next().await {
        opened.extend(lane.map_err(io::Error::other)??);
    }
    let window = Window { count: opened.len() as u64, cpu_ns: cpu() - used, time: began.elapsed() };
    if opened.iter().any(|client| client.resumed() != (hello == Hello::Resumed)) {
        return Err(io::Error::other("TLS sessions were not resumed"));
    }
    Ok(window)
}

/// A message there and back.
pub async fn exchange(client: &mut Client) -> io::Result<()> {
    let mut frame = Vec::new();
    client_frame(BINARY, &[0x5a; 128], &mut frame);
    client.queue(&frame);
    client.receive(1).await
}

/// What `count` sessions that have exchanged a message and then rest add to `resident` (KiB), for each of them.
pub async fn idle(target: &Target, count: usize, resident: &dyn Fn() -> u64) -> io::Result<f64> {
    // The first sessions pay for what the process keeps anyway.
    let mut first = Client::open(target, "/").await?;
    exchange(&mut first).await?;
    drop(first);
    sleep(Duration::from_millis(200)).await;
    let before = resident();
    let mut tasks = JoinSet::new();
    for mut client in open(target, "/", count).await? {
        exchange(&mut client).await?;
        tasks.spawn_local(async move {
            client.hold().await;
            Ok(())
        });
    }
    let after = none_fails(&mut tasks, async { Ok(still(resident).await) }).await?;
    Ok(after.saturating_sub(before) as f64 / count as f64)
}

/// The figure that `read` settles on, within bounds.
pub async fn still(read: &dyn Fn() -> u64) -> u64 {
    let mut last = read();
    for _ in 0..20 {
        sleep(Duration::from_millis(500)).await;
        let now = read();
        if now == last {
            break;
        }
        last = now;
    }
    last
}

/// Waits for `condition`, within bounds.
pub async fn until(what: &str, condition: impl Fn() -> bool) -> io::Result<()> {
    let waiting = async {
        while !condition() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waiting).await.map_err(|_| io::Error::other(format!("waited in vain: {what}")))
}
