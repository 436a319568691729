//! What joins the records of client, gateway and upstream: a request id, and the trace of W3C Trace Context. No I/O.
//!
//! In: the head of a request, whether a trusted proxy sent it, random bytes. Out: a [`Trace`], which writes itself into the
//! request to the upstream and into the answer. Nothing that does not look like an id is ever kept.

use std::fmt;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use super::fields::folded;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longer ids of others are not taken over.
const REQUEST_ID_MAX: usize = 128;
/// `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits (Trace Context section 3.2.2).
const TRACEPARENT_BYTES: usize = 55;

/// What a request, and the session that comes of it, is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    pub request: RequestId,
    pub parent: Parent,
}

/// Of one request, in every record of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestId {
    /// Random, written as 32 hex digits.
    Made([u8; 16]),
    /// A trusted proxy's.
    Given(Box<str>),
}

/// The trace that a request belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    None,
    /// It passes as it came: we record no span of our own that could stand between.
    Given(TraceId),
    Begun {
        id: TraceId,
        sampled: bool,
    },
}

/// Never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId([u8; 16]);

impl Trace {
    /// Of a request. `begin`: what a new trace says of its being sampled; `None` begins none.
    pub fn of(headers: &HeaderMap, trusted: bool, begin: Option<bool>, random: [u8; 32]) -> Trace {
        let [request, trace] = [0, 16].map(|at| std::array::from_fn(|i| random[at + i]));
        let given = if trusted { only(headers, &X_REQUEST_ID).and_then(request_id) } else { None };
        let parent = match (only(headers, &TRACEPARENT).and_then(trace_id), begin) {
            (Some(id), _) => Parent::Given(id),
            (None, Some(sampled)) => TraceId::new(trace).map_or(Parent::None, |id| Parent::Begun { id, sampled }),
            (None, None) => Parent::None,
        };
        Trace { request: given.map_or(RequestId::Made(request), RequestId::Given), parent }
    }

    /// In the records.
    pub fn id(&self) -> Option<TraceId> {
        match self.parent {
            Parent::None => None,
            Parent::Given(id) | Parent::Begun { id, .. } => Some(id),
        }
    }

    /// Writes it into the request to the upstream. To be called when everything was stripped.
    pub fn pass(&self, headers: &mut HeaderMap) {
        let known = [&X_REQUEST_ID, &TRACEPARENT, &TRACESTATE];
        let unwanted: Vec<HeaderName> = headers
            .keys()
            // An application may read `X_Request_Id` as ours.
            .filter(|name| !known.contains(name) && known.iter().any(|known| folded(name) == known.as_str()))
            .cloned()
            .collect();
        for name in unwanted {
            headers.remove(name);
        }
        self.answer(headers);
        match self.parent {
            Parent::Given(_) => return,
            Parent::Begun { id, sampled } => headers.insert(TRACEPARENT, traceparent(id, sampled)),
            Parent::None => headers.remove(TRACEPARENT),
        };
        // Section 3.3: it belongs to the traceparent that it came with.
        headers.remove(TRACESTATE);
    }

    /// Tells the id in an answer, so that whoever got it can name it.
    pub fn answer(&self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::try_from(self.request.to_string()) {
            headers.insert(X_REQUEST_ID, value);
        }
    }
}

/// The field's value, where it is there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?;
    lines.next().is_none().then(|| first.as_bytes())
}

/// Ids as proxies write them: UUIDs, hex, base64, ULIDs.
fn request_id(value: &[u8]) -> Option<Box<str>> {
    let text = std::str::from_utf8(value).ok()?;
    let fits = (1..=REQUEST_ID_MAX).contains(&text.len());
    (fits && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=@~".contains(&byte))).then(|| text.into())
}

/// The trace-id of a valid `traceparent` (sections 3.2.2 and 4.3): a later version may have more behind another `-`.
fn trace_id(value: &[u8]) -> Option<TraceId> {
    let (known, more) = value.split_at_checked(TRACEPARENT_BYTES)?;
    let [version, trace, parent, flags] =
        <[&[u8]; 4]>::try_from(known.split(|b| *b == b'-').collect::<Vec<_>>()).ok()?;
    let lengths = [version, trace, parent, flags].map(<[u8]>::len) == [2, 32, 16, 2];
    let digits = known.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'));
    let versioned = match version {
        b"ff" => false,
        b"00" => more.is_empty(),
        _ => more.is_empty() || more[0] == b'-',
    };
    let parented = parent.iter().any(|digit| *digit != b'0');
    (lengths && digits && versioned && parented).then_some(())?;
    let digit = |byte: u8| (byte as char).to_digit(16).unwrap_or_default() as u8;
    TraceId::new(std::array::from_fn(|i| digit(trace[2 * i]) << 4 | digit(trace[2 * i + 1])))
}

/// Nobody records the span whose id stands in it, so any that is not zero will do.
fn traceparent(id: TraceId, sampled: bool) -> HeaderValue {
    let parent = &id.0[8..];
    let parent = if parent.iter().all(|byte| *byte == 0) { &id.0[..8] } else { parent };
    HeaderValue::try_from(format!("00-{id}-{}-0{}", Hex(parent), u8::from(sampled))).expect("digits are a valid value")
}

impl TraceId {
    fn new(bytes: [u8; 16]) -> Option<TraceId> {
        (bytes != [0; 16]).then_some(TraceId(bytes))
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestId::Made(bytes) => Hex(bytes).fmt(f),
            RequestId::Given(id) => f.write_str(id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANDOM: [u8; 32] = [0xab; 32];
    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| (name.parse().expect("a name"), value.parse().expect("a value"));
        lines.iter().map(pair).collect::<Vec<(HeaderName, HeaderValue)>>().into_iter().fold(
            HeaderMap::new(),
            |mut map, (name, value)| {
                map.append(name, value);
                map
            },
        )
    }

    fn all(headers: &HeaderMap, name: &str) -> Vec<String> {
        headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
    }

    /// What becomes of a traceparent: it passes, or is one that nobody knows.
    #[test]
    fn traceparent() {
        const ZEROS: &str = "00000000000000000000000000000000";
        let rows = [
            ("version 00", VALID.to_owned(), true),
            ("not sampled", VALID.replace("-01", "-00"), true),
            ("flags that nobody knows yet", VALID.replace("-01", "-ff"), true),
            ("a later version", VALID.replacen("00", "cc", 1), true),
            ("a later version with more behind it", VALID.replacen("00", "cc", 1) + "-what.comes", true),
            ("version 00 with more behind it", VALID.to_owned() + "-00", false),
            ("a later version with more and no dash", VALID.replacen("00", "cc", 1) + ".x", false),
            ("version ff", VALID.replacen("00", "ff", 1), false),
            ("upper case", VALID.to_uppercase(), false),
            ("a trace-id of zeros", VALID.replace("4bf92f3577b34da6a3ce929d0e0e4736", ZEROS), false),
            ("a parent-id of zeros", VALID.replace("00f067aa0ba902b7", &ZEROS[..16]), false),
            ("too short", VALID[..54].to_owned(), false),
            ("dashes elsewhere", VALID.replace("4736-", "473-6"), false),
            ("no hex", VALID.replace("4bf9", "4bg9"), false),
            ("empty", String::new(), false),
            ("a secret", "Bearer s3cret".to_owned(), false),
        ];
        for (name, value, passes) in rows {
            let mut map = headers(&[("traceparent", &value), ("tracestate", "a=1"), ("tracestate", "b=2")]);
            let trace = Trace::of(&map, false, Some(true), RANDOM);
            trace.pass(&mut map);
            let (parent, state) = (all(&map, "traceparent"), all(&map, "tracestate"));
            if passes {
                assert_eq!((parent, state), (vec![value.clone()], vec!["a=1".to_owned(), "b=2".to_owned()]), "{name}");
                assert_eq!(trace.id().map(|id| id.to_string()).as_deref(), Some(&VALID[3..35]), "{name}");
            } else {
                let begun = "00-abababababababababababababababab-abababababababab-01".to_owned();
                assert_eq!((parent, state), (vec![begun], vec![]), "{name}");
            }
            let mut map = headers(&[("traceparent", &value), ("tracestate", "a=1")]);
            Trace::of(&map, false, None, RANDOM).pass(&mut map);
            assert_eq!(all(&map, "traceparent").len(), usize::from(passes), "{name}: none is begun");
        }
        let mut twice = headers(&[("traceparent", VALID), ("traceparent", VALID)]);
        Trace::of(&twice, true, Some(false), RANDOM).pass(&mut twice);
        assert_eq!(all(&twice, "traceparent"), ["00-abababababababababababababababab-abababababababab-00"]);
    }

    #[test]
    fn request_ids() {
        let (fine, long) = ("0af7651916cd43dd8448eb211c80319c", "x".repeat(REQUEST_ID_MAX + 1));
        let rows = [
            ("hex", fine, true),
            ("a UUID", "7c9e6679-7425-40de-944b-e07fc1f90ae7", true),
            ("base64", "AbC+/9==", true),
            ("as long as may be", &long[1..], true),
            ("too long", &long, false),
            ("empty", "", false),
            ("a quote", "a\"b", false),
            ("a space", "a b", false),
            ("a list", "a,b", false),
        ];
        for (name, value, fits) in rows {
            for trusted in [true, false] {
                let mut map = headers(&[("x-request-id", value), ("x_request_id", "forged")]);
                Trace::of(&map, trusted, None, RANDOM).pass(&mut map);
                let expected = if fits && trusted { value.to_owned() } else { "ab".repeat(16) };
                assert_eq!(all(&map, "x-request-id"), [expected], "{name}, trusted: {trusted}");
                assert!(!map.contains_key("x_request_id"), "{name}");
            }
        }
        let twice = headers(&[("x-request-id", "a"), ("x-request-id", "b")]);
        assert_eq!(Trace::of(&twice, true, None, RANDOM).request, RequestId::Made([0xab; 16]));
    }
}
