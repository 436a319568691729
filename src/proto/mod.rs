//! Protocol rules without I/O: values in, verdicts out. No socket, no clock, no global; neither tokio nor hyper.

pub mod close;
pub mod extensions;
pub mod fields;
pub mod frame;
pub mod handshake;
pub mod plain;
pub mod proxy;
pub mod range;
pub mod refusal;
pub mod scan;
pub mod trace;
mod utf8;
