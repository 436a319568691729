//! Accepting connections, PROXY headers and TLS.

pub mod accept;
pub mod inherit;
pub mod open;
pub mod proxy;
pub mod tls;
pub mod unix;
