//! Clock: pushes the current time as text (RFC 3339, UTC) at once and then at every interval; what comes in is ignored.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use time::OffsetDateTime;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tungstenite::Message;
use tungstenite::protocol::frame::coding::CloseCode;

use super::socket::{End, Limits, Socket};

pub const LIMITS: Limits =
    Limits { message_bytes_max: 64 << 10, unsent_bytes_max: 64 << 10, send_buffer_bytes: Some(16 << 10) };

/// A client takes each time within it, or is dropped.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

pub async fn session(socket: &mut Socket, every: Duration, stop: &CancellationToken) -> End {
    // An interval of zero would panic.
    let mut ticks = interval(every.max(Duration::from_millis(1)));
    // A reader that was slow gets the time that it is, not all that it missed.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let step = tokio::select! {
            () = stop.cancelled() => return End::STOPPING,
            _ = ticks.tick() => timeout(WRITE_TIMEOUT, socket.send(Message::text(now()))).await,
            message = socket.next() => match message {
                Some(message) => Ok(message.map(drop)),
                None => return End::ByPeer,
            },
        };
        match step {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error.into(),
            Err(_) => return End::Close(CloseCode::Policy, "the time was not read"),
        }
    }
}

/// The current time, in milliseconds: `2026-11-03T08:15:30.250Z`.
pub fn now() -> String {
    rfc3339(OffsetDateTime::now_utc())
}

/// Always with three digits behind the point, so that texts compare as times do.
fn rfc3339(utc: OffsetDateTime) -> String {
    let (year, month, day) = utc.to_calendar_date();
    let (hour, minute, second, millisecond) = utc.to_hms_milli();
    let month = u8::from(month);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc3339_with_milliseconds() {
        let rows = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_007, "2000-02-29T00:00:00.007Z"),
            (1_793_693_730_250, "2026-11-03T08:15:30.250Z"),
        ];
        for (unix_ms, text) in rows {
            let time = OffsetDateTime::from_unix_timestamp_nanos(unix_ms * 1_000_000).unwrap();
            assert_eq!(rfc3339(time), text);
        }
    }
}
