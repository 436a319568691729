//! stub
use super::socket::{End, Limits, Socket};
pub const LIMITS: Limits = Limits {
    message_bytes_max: 64 << 10,
    unsent_bytes_max: 64 << 10,
    send_buffer_bytes: Some(16 << 10),
};
pub struct Rooms;
impl Rooms {
    pub fn new(_h: usize) -> Self {
        Rooms
    }
}
pub async fn session(
    _s: &mut Socket,
    _r: &Rooms,
    _p: &str,
    _stop: &tokio_util::sync::CancellationToken,
) -> End {
    End::ByPeer
}
