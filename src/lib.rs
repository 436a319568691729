//! Tidegate: a WebSocket reverse proxy and gateway that understands frames for the whole life of a connection.
//!
//! # The path of one connection
//!
//! ```text
//!  accept ─► tls ─► http ─► gate ─────────────────────────────► relay ─► end record
//!  permit    SNI    h1      read offer → route → policy → limits   frames    one line, one cause
//!  per conn  ALPN   timers  → dial upstream → answer 101           both ways
//! ```
//!
//! Each room hands the next a new type that proves what has been done:
//!
//! | room | takes | gives | file |
//! | --- | --- | --- | --- |
//! | [`listen`] | a socket | `Accepted`, `Secured` | `accept.rs`, `proxy.rs`, `tls.rs` |
//! | [`http`] | a byte stream | a checked request, an answer | `serve.rs`, `gate.rs` |
//! | [`proto`], [`policy`] | values | `Offer`, a `Plan`, or who is denied and why: no socket, no clock | `handshake.rs`, `decide.rs` |
//! | [`limits`] | a client | `Permits` that free themselves | `permit.rs`, `rate.rs` |
//! | [`upstream`] | a server and an offer | a stream on which both sides said 101 | `dial.rs` |
//! | [`relay`] | both streams | `End`: who ended it and why | `session.rs`, `clock.rs`, `end.rs` |
//!
//! [`gateway`] builds the rooms from a [`config::model::Config`], starts and stops them. [`backend`] holds the embedded
//! servers (echo, clock, chat), which are reached like any other upstream. Dependencies point one way:
//! `gateway → listen → http → {policy, limits, upstream, relay} → proto`.

#![forbid(unsafe_code)]

pub mod admin;
pub mod backend;
pub mod config;
pub mod drain;
pub mod explain;
pub mod file;
pub mod gateway;
pub mod grant;
pub mod http;
pub mod keyring;
pub mod limits;
pub mod listen;
pub mod live;
pub mod machine;
pub mod notify;
pub mod observe;
pub mod pem;
pub mod policy;
pub mod proto;
pub mod relay;
pub mod socket;
pub mod stamp;
pub mod upstream;
