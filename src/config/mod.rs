//! Configuration: `config.toml` becomes a [`model::Config`] that cannot be wrong once it exists, or every problem at once.

pub mod model;
