//! What each fuzz target checks, as functions of bytes: libFuzzer calls them (../targets), and so does
//! tests/fuzz_corpus.rs with every committed input. Each panics where a promise is broken, and only there.

#![allow(dead_code, reason = "each binary calls one of them")]

pub mod answer;
pub mod config;
pub mod extensions;
pub mod fields;
mod head;
pub mod offer;
pub mod proxy;
pub mod relay;
pub mod route;
pub mod scan;

/// Every target by its name, which is also that of its folder in ../corpus.
pub const ALL: &[(&str, fn(&[u8]))] = &[
    ("answer", answer::run),
    ("config", config::run),
    ("extensions", extensions::run),
    ("fields", fields::run),
    ("offer", offer::run),
    ("proxy", proxy::run),
    ("relay", relay::run),
    ("route", route::run),
    ("scan", scan::run),
];
