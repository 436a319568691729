//! What an operator sees: log records and their names.

pub mod log;
mod writer;
