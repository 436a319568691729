//! Accepting connections and TLS.

pub mod accept;
pub mod tls;
