//! TLS of a listener: certificates by SNI, client certificates, development certificates.
