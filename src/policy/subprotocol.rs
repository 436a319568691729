//! Which of the client's subprotocols the upstream is offered (RFC 6455 section 1.9).

use crate::config::model::Subprotocols;
use crate::proto::refusal::Refusal;

/// The offered names that the route lets through, in the client's order. Names are case-sensitive.
///
/// # Errors
/// When the route requires a subprotocol and none is left.
pub fn filter(rules: &Subprotocols, offered: &[String]) -> Result<Vec<String>, Refusal> {
    let passes = |name: &&String| rules.list.as_ref().is_none_or(|list| list.contains(name));
    let passed: Vec<String> = offered.iter().filter(passes).cloned().collect();
    if rules.require && passed.is_empty() { Err(Refusal::SubprotocolRequired) } else { Ok(passed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_of_an_offer() {
        use Refusal::SubprotocolRequired as Required;
        #[rustfmt::skip]
        let rows = [
            ("no list passes everything", None, false, "b a", Ok("b a")),
            ("the client's order counts", Some("a b c"), false, "c a", Ok("c a")),
            ("others are dropped", Some("a"), false, "b a", Ok("a")),
            ("names are case-sensitive", Some("a"), false, "A", Ok("")),
            ("an empty list passes nothing", Some(""), false, "a", Ok("")),
            ("nothing offered", Some("a"), false, "", Ok("")),
            ("required and there", Some("a"), true, "b a", Ok("a")),
            ("required and not offered", Some("a"), true, "b", Err(Required)),
            ("required, any name will do", None, true, "b", Ok("b")),
            ("required, none offered", None, true, "", Err(Required)),
        ];
        let names = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for (name, list, require, offered, expected) in rows {
            let rules = Subprotocols { list: list.map(names), require };
            assert_eq!(filter(&rules, &names(offered)), expected.map(names), "{name}");
        }
    }
}
