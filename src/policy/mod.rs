//! Policy as plain functions: which route, which origin, which client.

pub mod client;
pub mod origin;
pub mod route;
