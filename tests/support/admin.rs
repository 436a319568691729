//! Requests to the admin interface, and what they are answered.

use std::net::SocketAddr;

use serde_json::Value;

use super::http::{Reply, ask};

/// Asks with these further header lines and this body.
pub fn call(address: SocketAddr, request: &str, fields: &[&str], body: &str) -> Reply {
    let mut text = format!("{request} HTTP/1.1\r\nHost: {address}\r\n");
    for field in fields {
        text.push_str(&format!("{field}\r\n"));
    }
    if !body.is_empty() {
        text.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
    }
    ask(address, format!("{text}\r\n{body}").as_bytes())
}

/// Asks for JSON that has to come with 200.
pub fn json(address: SocketAddr, request: &str) -> Value {
    let reply = call(address, request, &[], "");
    assert_eq!(reply.status(), 200, "{request}: {}", reply.text());
    serde_json::from_slice(&reply.body).expect("JSON")
}

/// What Prometheus would read.
pub fn metrics(address: SocketAddr) -> String {
    let reply = call(address, "GET /metrics", &[], "");
    assert_eq!(reply.status(), 200, "{}", reply.text());
    reply.text()
}
