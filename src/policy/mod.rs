//! Who may connect and where to: pure decisions over values. No socket, no clock, no global; neither tokio nor hyper.

pub mod access;
pub mod client;
pub mod decide;
pub mod files;
pub mod keys;
pub mod origin;
pub mod redirect;
pub mod route;
pub mod sticky;
pub mod subprotocol;
