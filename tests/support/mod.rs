//! What the end-to-end tests share: the real binary, a raw client that may misbehave, upstreams that do.
//!
//! Everything is blocking and bounded: no read waits longer than [`PATIENCE`], and what a test started ends with it.

#![allow(dead_code, reason = "each test file uses its part")]

pub mod admin;
pub mod client;
pub mod dice;
pub mod dns;
pub mod exposition;
pub mod gateway;
pub mod http;
pub mod servers;
pub mod tls;
pub mod upstream;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tidegate::config::model::Log;
use tidegate::observe::log::Leaves;
use tidegate::policy::client::Address;
use tidegate::proto::trace::Trace;
use tidegate::relay::registry::{About, Registry};

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Makes a pipe with a name: whoever opens it waits for who writes.
pub fn make_pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo runs").success());
}

/// Waits for a condition.
///
/// # Panics
/// When it does not come true within [`PATIENCE`].
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A session for a registry, as if a client had opened it.
pub fn about(registry: &Registry) -> About {
    About {
        way: registry.way("listener", "route", "upstream", "server"),
        member: 1,
        client: Address::Local,
        secure: false,
        key: None,
        trace: Trace::of(&::http::HeaderMap::new(), false, None, [1; 32]),
        leaves: Leaves::of(&Log::default(), 0),
    }
}
