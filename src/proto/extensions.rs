//! Sec-WebSocket-Extensions (RFC 6455 section 9.1) and the parameters of permessage-deflate (RFC 7692 section 7.1).

/// One offer of, or answer with, `permessage-deflate`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Deflate {
    pub server_no_context_takeover: bool,
    pub client_no_context_takeover: bool,
    pub server_max_window_bits: Option<u8>,
    /// `Some(None)`: offered without a value.
    pub client_max_window_bits: Option<Option<u8>>,
}
