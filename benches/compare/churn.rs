//! Sessions that come and leave in rounds: what a process keeps of those who are gone.

use std::io;

use tokio::task::JoinSet;

use crate::backend::Backend;
use crate::client::Target;
use crate::loads::{exchange, none_fails, open, still, until};

/// Resident memory of a round, in KiB.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// While its sessions are open.
    pub open: u64,
    /// After all of them left.
    pub left: u64,
}

/// Opens `sessions`, has each exchange a message and rest, and drops them; `rounds` times.
pub async fn churn(
    target: &Target,
    backend: &Backend,
    sessions: usize,
    rounds: usize,
    resident: &dyn Fn() -> u64,
) -> io::Result<Vec<Round>> {
    let mut done = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let mut tasks = JoinSet::new();
        for mut client in open(target, "/", sessions).await? {
            exchange(&mut client).await?;
            tasks.spawn_local(async move {
                client.hold().await;
                Ok(())
            });
        }
        let open = none_fails(&mut tasks, async { Ok(still(resident).await) }).await?;
        tasks.shutdown().await;
        until("the backend's sessions are gone", || backend.live() == 0).await?;
        done.push(Round { open, left: still(resident).await });
    }
    Ok(done)
}
