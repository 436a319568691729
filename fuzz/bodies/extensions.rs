//! Sec-WebSocket-Extensions on both legs: an offer that passes reads the same again, an answer that counts was offered, and
//! both say what a naive reading of the header says.

use http::header::{HeaderMap, HeaderValue, SEC_WEBSOCKET_EXTENSIONS};
use tidegate::proto::extensions::{BadExtensions, Deflate, answer, offer_value, offers};

/// The lines of the offer, an empty one, the lines of the answer.
pub fn run(data: &[u8]) {
    let mut blocks = data.splitn(2, |byte| *byte == 0);
    let offered = headers(blocks.next().unwrap_or_default());
    let answered = headers(blocks.next().unwrap_or_default());
    let ours = offers(&offered);
    if let Some(expected) = naive(&offered) {
        assert_eq!(ours, expected);
    }
    match offer_value(&ours) {
        None => assert!(ours.is_empty(), "every offer can stand in a header"),
        Some(value) => assert_eq!(offers(&one(value)), ours, "what is offered reads the same again"),
    }
    for offer in &ours {
        for bits in [offer.server_max_window_bits, offer.client_max_window_bits.flatten()].into_iter().flatten() {
            assert!((8..=15).contains(&bits), "RFC 7692 section 7.1.2");
        }
    }
    let found = answer(&answered, &ours);
    match &found {
        Ok(None) => {}
        Ok(Some(deflate)) => {
            assert!(ours.iter().any(|offer| accepts(deflate, offer)), "{deflate} answers none of {ours:?}");
            assert_eq!(answer(&one(value(deflate)), &ours), found, "an answer reads the same again");
            assert_ne!(deflate.client_max_window_bits, Some(None), "RFC 7692 section 7.1.2.2");
        }
        Err(BadExtensions::NotOffered) => {
            let answers = naive(&answered).unwrap_or_default();
            assert!(!answers.iter().any(|deflate| ours.iter().any(|offer| accepts(deflate, offer))), "{answers:?}");
        }
        Err(_) => {}
    }
    // An offer without wishes is answered by itself.
    for offer in ours.iter().filter(|offer| offer.client_max_window_bits != Some(None)) {
        assert_eq!(answer(&one(value(offer)), &ours), Ok(Some(offer.clone())));
    }
}

/// One header line for each line of text that can be one.
fn headers(text: &[u8]) -> HeaderMap {
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.filter_map(|line| Some((SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_bytes(line).ok()?))).collect()
}

fn one(value: HeaderValue) -> HeaderMap {
    HeaderMap::from_iter([(SEC_WEBSOCKET_EXTENSIONS, value)])
}

fn value(deflate: &Deflate) -> HeaderValue {
    HeaderValue::try_from(deflate.to_string()).expect("it has a form")
}

/// RFC 7692 section 7.1, parameter by parameter.
fn accepts(answer: &Deflate, offer: &Deflate) -> bool {
    let server =
        offer.server_max_window_bits.is_none_or(|most| answer.server_max_window_bits.is_some_and(|b| b <= most));
    let client = match answer.client_max_window_bits {
        None => true,
        Some(None) => false,
        Some(Some(bits)) => offer.client_max_window_bits.is_some_and(|most| bits <= most.unwrap_or(15)),
    };
    (answer.server_no_context_takeover || !offer.server_no_context_takeover) && server && client
}

/// The elements that are right, in a header without quotes, spaces or other traps; `None` for one with them.
fn naive(headers: &HeaderMap) -> Option<Vec<Deflate>> {
    let mut all = Vec::new();
    for line in headers {
        let line = line.1.to_str().ok()?;
        if !line.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-=;,".contains(&byte)) {
            return None;
        }
        for element in line.split(',').filter(|element| !element.is_empty()) {
            let mut parts = element.split(';');
            // A malformed element spoils the whole header.
            let is_token = |part: &str| !part.is_empty() && !part.contains('=');
            let is_pair =
                |part: &str| part.split_once('=').is_none_or(|(name, value)| is_token(name) && is_token(value));
            if !parts.clone().all(|part| !part.is_empty() && is_pair(part)) || element.split(';').next()?.contains('=')
            {
                return Some(Vec::new());
            }
            if parts.next()? == "permessage-deflate" {
                all.extend(parameters(parts));
            }
        }
    }
    Some(all)
}

fn parameters<'a>(parts: impl Iterator<Item = &'a str>) -> Option<Deflate> {
    let mut deflate = Deflate::default();
    let mut seen = Vec::new();
    let bits = |text: &str| (8..=15).find(|bits: &u8| bits.to_string() == text);
    for part in parts {
        let (name, value) = part.split_once('=').map_or((part, None), |(name, value)| (name, Some(value)));
        if seen.contains(&name) {
            return None;
        }
        seen.push(name);
        match (name, value) {
            ("server_no_context_takeover", None) => deflate.server_no_context_takeover = true,
            ("client_no_context_takeover", None) => deflate.client_no_context_takeover = true,
            ("server_max_window_bits", Some(value)) => deflate.server_max_window_bits = Some(bits(value)?),
            ("client_max_window_bits", None) => deflate.client_max_window_bits = Some(None),
            ("client_max_window_bits", Some(value)) => deflate.client_max_window_bits = Some(Some(bits(value)?)),
            _ => return None,
        }
    }
    Some(deflate)
}
