//! Readers that have stopped while the other side goes on sending: what each of them costs a proxy and its kernel.

use std::future::poll_fn;
use std::io;

use tokio::task::JoinSet;

use crate::backend::{Backend, OFFERED, PIECE};
use crate::client::Target;
use crate::codec::{BINARY, client_frame};
use crate::loads::{none_fails, open, still};

/// Who reads nothing; the other side offers 64 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Client,
    Upstream,
}

/// Sessions that stand still. To be dropped before [`Backend::release`].
pub struct Stopped {
    tasks: JoinSet<io::Result<()>>,
    /// What each of them added to the proxy's resident memory and to its sockets in the kernel, in KiB.
    pub resident_kib: f64,
    pub kernel_kib: f64,
}

impl Stopped {
    /// Opens `count` of them and waits until nothing moves any more.
    pub async fn open(
        target: &Target,
        who: Who,
        count: usize,
        resident: &dyn Fn() -> u64,
        kernel: &dyn Fn() -> u64,
    ) -> io::Result<Stopped> {
        let before = (resident(), kernel());
        let mut tasks = JoinSet::new();
        let path = if who == Who::Client { "/flood" } else { "/deaf" };
        for mut client in open(target, path, count).await? {
            tasks.spawn_local(async move {
                let mut frame = Vec::new();
                client_frame(BINARY, &vec![0x5a; PIECE], &mut frame);
                // The first message sets the flood off.
                let messages = if who == Who::Client { 1 } else { OFFERED / PIECE };
                for _ in 0..messages {
                    client.queue(&frame);
                    poll_fn(|cx| client.poll_drain(cx)).await?;
                }
                match who {
                    Who::Client => std::future::pending().await,
                    Who::Upstream => Err(io::Error::other("the proxy took everything that was offered")),
                }
            });
        }
        let both = async { Ok((still(kernel).await, still(resident).await)) };
        let (kernel, resident) = none_fails(&mut tasks, both).await?;
        let each = |now: u64, before: u64| now.saturating_sub(before) as f64 / count as f64;
        Ok(Stopped { tasks, resident_kib: each(resident, before.0), kernel_kib: each(kernel, before.1) })
    }

    /// Lets the sessions go.
    pub async fn leave(mut self, backend: &Backend) {
        self.tasks.shutdown().await;
        backend.release();
    }
}
