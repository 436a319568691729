//! Who the client is: the peer, or the address that a trusted proxy gives.
