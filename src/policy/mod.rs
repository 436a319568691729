//! Who may connect and where to: pure decisions over values. No socket, no clock, no global; neither tokio nor hyper.

pub mod client;
pub mod decide;
pub mod origin;
pub mod route;
pub mod subprotocol;
