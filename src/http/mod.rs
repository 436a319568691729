//! HTTP/1.1 towards the client: serving a connection, the walk of one request, built-in pages.

mod files;
mod fixed;
pub mod gate;
mod held;
pub mod marks;
pub mod page;
mod pass;
pub mod serve;
mod spelling;
