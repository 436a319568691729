//! What the service manager is told (sd_notify): ready, reloading, stopping, alive, and a line for `systemctl status`.
//!
//! Nothing of it does anything where NOTIFY_SOCKET is not set. What cannot be told is logged and no reason to stop.

use std::ffi::OsStr;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use sd_notify::NotifyState;

/// How often the status line is written where no watchdog wants to hear more often.
const STATUS: Duration = Duration::from_secs(10);
/// How long a message may wait for a manager that does not read.
const PATIENCE: Duration = Duration::from_millis(500);

/// Every listener is open; or a reload is over, well or badly.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// A reload begins; [`ready`] has to follow. `Type=notify-reload` wants to know when.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "there is no monotonic time to tell the service manager"),
    }
}

/// The process is about to end.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Tells again and again that the runtime lives (at half of WATCHDOG_USEC, where that is set) and how it goes. Ends at once
/// where nobody listens.
pub async fn keep_telling(status: impl Fn() -> String) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let watchdog = sd_notify::watchdog_enabled().map(|patience| patience / 2);
    let mut ticks = tokio::time::interval(watchdog.map_or(STATUS, |half| half.min(STATUS)));
    loop {
        ticks.tick().await;
        let status = status();
        let alive = watchdog.is_some();
        // A manager that does not read would hold a worker up.
        let told = tokio::task::spawn_blocking(move || {
            let states = [NotifyState::Status(&status), NotifyState::Watchdog];
            tell(if alive { &states } else { &states[..1] });
        });
        if told.await.is_err() {
            return;
        }
    }
}

/// The crate's own way to send would wait for ever for a manager that stands still, and hold up our end.
fn tell(states: &[NotifyState<'_>]) {
    let Some(manager) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let message: String = states.iter().map(|state| format!("{state}\n")).collect();
    if let Err(error) = send(&manager, message.as_bytes()) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}

fn send(manager: &OsStr, message: &[u8]) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.send_to(message, manager).map(drop)
}
