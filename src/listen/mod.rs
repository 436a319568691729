//! Accepting connections, PROXY headers and TLS.

pub mod accept;
pub mod proxy;
pub mod tls;
pub mod unix;
