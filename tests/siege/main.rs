//! Hostile peers by name against the real binary, one case at a time. Each has its bounds on memory and time; all of them
//! assert that descriptors come back, that the processor is idle again, and that honest clients were served meanwhile.
//!
//! `cargo test --test siege` runs the short form; `TIDEGATE_SIEGE=full` the whole. What was measured is printed with
//! `--nocapture`.

#[path = "../support/mod.rs"]
mod support;

mod camp;
mod chat;
mod descriptors;
mod frames;
mod handshakes;
mod integrity;
mod partition;
mod storms;
mod tls;
mod upstreams;
