//! PEM files: the one place that reads them (rustls-pemfile, see deny.toml).
