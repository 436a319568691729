//! What an operator sees: log records and metrics, and their names.

pub mod log;
pub mod metrics;
pub mod process;
pub mod progress;
mod writer;
