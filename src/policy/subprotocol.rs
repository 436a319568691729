//! Which of the client's subprotocols the upstream is offered (RFC 6455 section 1.9).

use crate::config::model::Subprotocols;
use crate::proto::handshake::Refusal;

/// The offered names that the route lets through, in the client's order. Names are case-sensitive.
///
/// # Errors
/// When the route requires a subprotocol and none is left.
pub fn filter(rules: &Subprotocols, offered: &[String]) -> Result<Vec<String>, Refusal> {
    let passes = |name: &&String| rules.list.as_ref().is_none_or(|list| list.contains(name));
    let passed: Vec<String> = offered.iter().filter(passes).cloned().collect();
    if rules.require && passed.is_empty() { Err(Refusal::SubprotocolRequired) } else { Ok(passed) }
}
