//! What an operator sees: log records and metrics, and their names.

pub mod log;
pub mod metrics;
pub mod process;
mod writer;
