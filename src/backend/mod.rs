//! The embedded servers: echo, clock and chat, real servers on loopback ports (tungstenite), reached like any upstream.
