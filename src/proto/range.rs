//! The `Range` field (RFC 9110 section 14): what part of a file a request asks for.
//!
//! In: a request's header fields. Out: the one part, spelled as tower-http reads it: it knows no unit but a lower-case
//! `bytes`, no number above 64 bits and no zero in front, and refuses what it does not know.

use http::header::RANGE;
use http::{HeaderMap, HeaderValue};

/// The part that is asked for; `None` is all of it: another unit has to be ignored, several parts and several lines may be
/// (section 14.2). A part that is none stays as it came, to be refused.
pub fn part(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut lines = headers.get_all(RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return None };
    let Some((unit, set)) = line.to_str().ok().and_then(|text| text.split_once('=')) else {
        return Some(line.clone());
    };
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    // A list, whose empty members do not count (section 5.6.1.2).
    let mut members = set.split(',').map(str::trim).filter(|member| !member.is_empty());
    match (members.next(), members.next()) {
        (Some(member), None) => spelled(member).or_else(|| Some(line.clone())),
        (None, _) => Some(line.clone()),
        _ => None,
    }
}

/// Whether it is counted from the end: where the file is shorter than that, it is the whole file (section 14.1.2).
pub fn is_suffix(part: &HeaderValue) -> bool {
    part.as_bytes().starts_with(b"bytes=-") && part != "bytes=-0"
}

fn spelled(part: &str) -> Option<HeaderValue> {
    let (first, last) = part.split_once('-')?;
    let text = match (first, last) {
        ("", last) => format!("bytes=-{}", number(last)?),
        (first, "") => format!("bytes={}-", number(first)?),
        (first, last) => format!("bytes={}-{}", number(first)?, number(last)?),
    };
    HeaderValue::try_from(text).ok()
}

/// One that is too big lies behind the end of any file.
fn number(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_that_is_asked_for() {
        #[rustfmt::skip]
        let rows: &[(&str, &[&str], Option<&str>)] = &[
            ("none", &[], None),
            ("from, to", &["bytes=0-4"], Some("bytes=0-4")),
            ("from", &["bytes=5-"], Some("bytes=5-")),
            ("the last ones", &["bytes=-5"], Some("bytes=-5")),
            ("a unit in another case", &["Bytes=0-4"], Some("bytes=0-4")),
            ("another unit", &["items=0-5"], None),
            ("another unit, whatever it means by it", &["seconds=a/b"], None),
            ("several", &["bytes=0-1,4-5"], None),
            ("several lines", &["bytes=0-1", "bytes=4-5"], None),
            ("empty members", &["bytes=, 0-4 ,"], Some("bytes=0-4")),
            ("zeros in front", &["bytes=00-004"], Some("bytes=0-4")),
            ("more than 64 bits", &["bytes=0-99999999999999999999"], Some("bytes=0-18446744073709551615")),
            ("from beyond 64 bits", &["bytes=99999999999999999999-"], Some("bytes=18446744073709551615-")),
            ("the last ones, more than 64 bits", &["bytes=-99999999999999999999"], Some("bytes=-18446744073709551615")),
            ("no unit", &["0-4"], Some("0-4")),
            ("nothing", &["bytes="], Some("bytes=")),
            ("no number", &["bytes=a-b"], Some("bytes=a-b")),
            ("a sign", &["bytes=+0-4"], Some("bytes=+0-4")),
            ("no dash", &["bytes=5"], Some("bytes=5")),
            ("a dash alone", &["bytes=-"], Some("bytes=-")),
        ];
        for (name, lines, expected) in rows {
            let mut headers = HeaderMap::new();
            for line in *lines {
                headers.append(RANGE, HeaderValue::from_static(line));
            }
            assert_eq!(part(&headers), expected.map(HeaderValue::from_static), "{name}");
        }
    }
}
