//! TLS towards upstream servers.
