//! The Origin check (RFC 6455 section 10.2, RFC 6454).
