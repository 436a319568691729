//! Rules as tables by section of RFC 6455, each row in one piece, byte by byte and cut at every point; then properties.

use std::io::{self, Cursor, Read, Write};

use proptest::prelude::*;
use proptest::sample::Index;
use tungstenite::Message as Theirs;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};

use super::*;

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

const CLIENT: Rules = Rules {
    masked: true,
    deflate: false,
    frame_bytes_max: u64::MAX,
    message_bytes_max: u64::MAX,
    fragments_max: None,
    strict: false,
};
const UPSTREAM: Rules = Rules { masked: false, ..CLIENT };
const DEFLATE: Rules = Rules { deflate: true, ..CLIENT };
const STRICT: Rules = Rules { strict: true, ..CLIENT };

// The first byte of a frame: FIN and RSV bits, then the opcode.
const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const RSV2: u8 = 0x20;
const RSV3: u8 = 0x10;
const CONT: u8 = 0x0;
const TEXT: u8 = 0x1;
const BIN: u8 = 0x2;
const CLOSE: u8 = FIN | 0x8;
const PING: u8 = FIN | 0x9;
const PONG: u8 = FIN | 0xA;

/// A frame on the wire; made here by hand, so that the tests do not lean on what they test.
fn frame(first: u8, key: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let masked = if key.is_some() { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match payload.len() {
        len @ ..126 => bytes.push(masked | len as u8),
        len @ ..65_536 => {
            bytes.push(masked | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(masked | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(key.iter().flatten());
    let key = key.unwrap_or_default();
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// A client's frame.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    frame(first, Some(KEY), payload)
}

/// A server's frame.
fn plain(first: u8, payload: &[u8]) -> Vec<u8> {
    frame(first, None, payload)
}

/// What became of some bytes.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    passed: Vec<u8>,
    /// All but boundaries.
    events: Vec<Event>,
    /// Where in `passed` a boundary was reported.
    boundaries: Vec<usize>,
    counts: [u64; 3],
    at_boundary: bool,
    mid_frame: bool,
    mid_message: bool,
}

/// Scans the pieces as the relay does, and holds the scanner to its contract while it does; also with messages that are
/// admitted one by one.
fn run<'a>(rules: Rules, pieces: impl IntoIterator<Item = &'a [u8]>, until: Until) -> Outcome {
    let pieces = Vec::from_iter(pieces);
    let outcome = scan_all(Scanner::new(rules), &pieces, until);
    let mut counting = Scanner::new(rules);
    counting.count_messages();
    assert_eq!(scan_all(counting, &pieces, until), outcome, "to wait for a message changes nothing");
    outcome
}

fn scan_all(mut scanner: Scanner, pieces: &[&[u8]], until: Until) -> Outcome {
    let mut passed = Vec::new();
    let mut events = Vec::new();
    let mut boundaries = Vec::new();
    'pieces: for mut input in pieces.iter().copied() {
        loop {
            let before = passed.len();
            let Step { held, pass, taken, event } = scanner.scan(input, until);
            assert!(pass <= taken && taken <= input.len());
            assert!(held.as_ref().is_empty() || pass > 0);
            passed.extend(held.as_ref());
            passed.extend(&input[..pass]);
            input = &input[taken..];
            match event {
                None => {
                    assert!(input.is_empty(), "a step without an event takes everything");
                    break;
                }
                Some(Event::Message) => {
                    assert!(scanner.at_boundary() && !input.is_empty());
                    let again = scanner.scan(input, until);
                    assert_eq!((again.pass, again.taken, again.event), (0, 0, Some(Event::Message)), "it stays there");
                    scanner.admit();
                    continue;
                }
                Some(Event::Boundary) => {
                    assert!(scanner.at_boundary() && !scanner.mid_frame());
                    assert!(until == Until::Boundary && passed.len() > before);
                    boundaries.push(passed.len());
                }
                Some(event) => {
                    let ends = match &event {
                        Event::Control(control) => control.opcode() == Opcode::Close,
                        _ => true,
                    };
                    events.push(event);
                    if ends {
                        break 'pieces;
                    }
                }
            }
            assert!(taken > 0, "a step takes bytes or has no event");
        }
    }
    Outcome {
        passed,
        events,
        boundaries,
        counts: [scanner.messages(), scanner.bytes(), scanner.frames()],
        at_boundary: scanner.at_boundary(),
        mid_frame: scanner.mid_frame(),
        mid_message: scanner.mid_message(),
    }
}

/// Hands `check` every way to cut `input` that the tables try: whole, at every point, byte by byte, with empty pieces.
fn each_cut(input: &[u8], mut check: impl FnMut(Vec<&[u8]>)) {
    check(vec![input]);
    check(input.chunks(1).collect());
    check(input.chunks(1).flat_map(|byte| [byte, &[]]).collect());
    for cut in 0..=input.len() {
        let (first, second) = input.split_at(cut);
        check(vec![first, second]);
    }
}

/// One row: what passes, and what comes out, however the bytes are cut.
fn row(rule: &str, rules: Rules, input: &[Vec<u8>], passed: &[Vec<u8>], events: &[Event]) {
    let input = input.concat();
    let passed = passed.concat();
    each_cut(&input, |pieces| {
        for until in [Until::Event, Until::Boundary] {
            let outcome = run(rules, pieces.iter().copied(), until);
            let cuts: Vec<usize> = pieces.iter().map(|piece| piece.len()).collect();
            assert_eq!(outcome.events, events, "{rule}, {until:?}, pieces of {cuts:?}");
            assert_eq!(outcome.passed, passed, "{rule}, {until:?}, pieces of {cuts:?}");
        }
    });
}

/// A row whose bytes all pass.
fn passes(rule: &str, rules: Rules, input: &[Vec<u8>]) {
    row(rule, rules, input, input, &[]);
}

/// A row whose last frame is refused, and what was before it passes.
fn refused(rule: &str, rules: Rules, input: &[Vec<u8>], violation: Violation) {
    row(rule, rules, input, &input[..input.len() - 1], &[Event::Violation(violation)]);
}

fn control(opcode: Opcode, payload: &[u8]) -> Event {
    Event::Control(Control::new(opcode, payload))
}

#[test]
fn size() {
    assert!(size_of::<Scanner>() <= 128, "{}", size_of::<Scanner>());
}

#[test]
fn section_5_1_masking() {
    passes("a client masks", CLIENT, &[masked(FIN | TEXT, b"Hello")]);
    passes("a server does not", UPSTREAM, &[plain(FIN | TEXT, b"Hello")]);
    passes("a key of zeros is a key", CLIENT, &[frame(FIN | BIN, Some([0; 4]), b"x")]);
    for (rule, first, payload) in [
        ("text", FIN | TEXT, &b"Hello"[..]),
        ("empty", FIN | BIN, b""),
        ("ping", PING, b"x"),
        ("close", CLOSE, b"\x03\xe8"),
    ] {
        refused(rule, CLIENT, &[masked(FIN | BIN, b"ok"), plain(first, payload)], Violation::NotMasked);
        refused(rule, UPSTREAM, &[plain(FIN | BIN, b"ok"), masked(first, payload)], Violation::Masked);
    }
}

#[test]
fn section_5_2_reserved_opcodes() {
    for opcode in (3..=7).chain(11..=15) {
        let violation = Violation::ReservedOpcode(opcode);
        refused("reserved opcode", CLIENT, &[masked(FIN | BIN, b"ok"), masked(FIN | opcode, b"no")], violation);
        refused("reserved opcode", UPSTREAM, &[plain(FIN | opcode, b"")], violation);
    }
}

#[test]
fn section_5_2_reserved_bits() {
    for rsv in [RSV1, RSV2, RSV3, RSV1 | RSV2, RSV1 | RSV2 | RSV3] {
        for first in [FIN | TEXT, FIN | BIN, BIN, CLOSE, PING, PONG] {
            let refused_frame = [masked(first | rsv, b"\x03\xe8")];
            refused("nobody negotiated", CLIENT, &refused_frame, Violation::ReservedBits);
            if rsv != RSV1 || first & 0x8 != 0 {
                refused("only RSV1 of data", DEFLATE, &refused_frame, Violation::ReservedBits);
            }
        }
    }
    passes("RSV1 of a message", DEFLATE, &[masked(FIN | RSV1 | TEXT, b"x"), masked(FIN | RSV1 | BIN, b"x")]);
    passes("with and without in turn", DEFLATE, &[masked(FIN | TEXT, b"x"), masked(FIN | RSV1 | BIN, b"x")]);
    passes("RSV1 on the first fragment", DEFLATE, &[masked(RSV1 | TEXT, b"x"), masked(FIN | CONT, b"x")]);
    for first in [RSV1, FIN | RSV1, RSV2, RSV3] {
        let frames = [masked(RSV1 | TEXT, b"x"), masked(first | CONT, b"x")];
        refused("none on a continuation", DEFLATE, &frames, Violation::ReservedBits);
    }
}

#[test]
fn section_5_2_lengths() {
    for len in [0, 1, 125, 126, 127, 300] {
        passes("any length", UPSTREAM, &[plain(FIN | BIN, &vec![7; len]), plain(FIN | BIN, b"next")]);
    }
    let key = KEY.as_slice();
    for (rule, header, violation) in [
        ("125 in 16 bits", &b"\x82\xfe\x00\x7d"[..], Violation::LengthNotMinimal),
        ("0 in 16 bits", b"\x82\xfe\x00\x00", Violation::LengthNotMinimal),
        ("5 in 64 bits", b"\x82\xff\0\0\0\0\0\0\0\x05", Violation::LengthNotMinimal),
        ("65535 in 64 bits", b"\x82\xff\0\0\0\0\0\0\xff\xff", Violation::LengthNotMinimal),
        ("control frame, not minimal", b"\x89\xfe\x00\x05", Violation::LengthNotMinimal),
        ("top bit", b"\x82\xff\x80\0\0\0\0\0\0\0", Violation::LengthTopBit),
        ("all bits", b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff", Violation::LengthTopBit),
    ] {
        refused(rule, CLIENT, &[masked(FIN | BIN, b"ok"), [header, key, b"x"].concat()], violation);
    }
}

#[test]
fn a_message_that_claims_all_but_the_top_bit_passes_as_far_as_it_comes() {
    let mut begun = b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff".to_vec();
    begun.extend([0; 40]);
    passes("2^63 - 1 bytes", UPSTREAM, std::slice::from_ref(&begun));
    let outcome = run(UPSTREAM, [&begun[..]], Until::Boundary);
    assert_eq!((outcome.counts, outcome.at_boundary, outcome.mid_frame), ([1, 40, 1], false, true));
}

#[test]
fn section_5_4_fragmentation() {
    passes(
        "fragments, empty ones too",
        CLIENT,
        &[masked(TEXT, b"a"), masked(CONT, b""), masked(FIN | CONT, b""), masked(FIN | BIN, b"next")],
    );
    row(
        "control frames between fragments",
        CLIENT,
        &[masked(BIN, b"a"), masked(PING, b"p"), masked(CONT, b"b"), masked(PONG, b""), masked(FIN | CONT, b"c")],
        &[masked(BIN, b"a"), masked(CONT, b"b"), masked(FIN | CONT, b"c")],
        &[control(Opcode::Ping, b"p"), control(Opcode::Pong, b"")],
    );
    for first in [CONT, FIN | CONT] {
        let violation = Violation::ContinuationWithoutStart;
        refused("nothing to continue", CLIENT, &[masked(first, b"x")], violation);
        refused("after a whole message", CLIENT, &[masked(FIN | TEXT, b"x"), masked(first, b"x")], violation);
        let frames = [masked(TEXT, b"x"), masked(FIN | CONT, b"x"), masked(first, b"x")];
        refused("after a fragmented message", CLIENT, &frames, violation);
        let frames = [masked(TEXT, b"x"), masked(FIN | CONT, b""), masked(first, b"")];
        refused("after an empty last fragment", CLIENT, &frames, violation);
    }
    for first in [TEXT, FIN | TEXT, BIN, FIN | BIN] {
        let violation = Violation::StartInsideMessage;
        refused("inside a message", CLIENT, &[masked(TEXT, b"x"), masked(first, b"x")], violation);
        let frames = [masked(TEXT, b"x"), masked(CONT, b"x"), masked(first, b"")];
        refused("inside a message", CLIENT, &frames, violation);
    }
}

#[test]
fn section_5_5_control_frames() {
    for (first, opcode) in [(PING, Opcode::Ping), (PONG, Opcode::Pong)] {
        for len in [0, 1, 125] {
            let payload: Vec<u8> = (0..len).collect();
            let frames = [masked(FIN | BIN, b"a"), masked(first, &payload), masked(FIN | BIN, b"b")];
            let data = [frames[0].clone(), frames[2].clone()];
            row("never passes", CLIENT, &frames, &data, &[control(opcode, &payload)]);
            row("unmasked", UPSTREAM, &[plain(first, &payload)], &[], &[control(opcode, &payload)]);
        }
    }
    let two = [control(Opcode::Ping, b"1"), control(Opcode::Ping, b"2")];
    row("in order", CLIENT, &[masked(PING, b"1"), masked(PING, b"2")], &[], &two);
    for first in [CLOSE, PING, PONG] {
        let ok = || masked(FIN | BIN, b"ok");
        refused("126 bytes", CLIENT, &[ok(), masked(first, &[0; 126])], Violation::ControlTooLong);
        refused("fragmented", CLIENT, &[ok(), masked(first & !FIN, b"x")], Violation::ControlFragmented);
        let inside = [masked(BIN, b"x"), masked(first & !FIN, b"x")];
        refused("fragmented, inside a message", CLIENT, &inside, Violation::ControlFragmented);
    }
}

#[test]
fn section_5_5_1_close() {
    let behind = || masked(FIN | BIN, b"after close");
    for payload in [&b""[..], b"\x03\xe8", b"\x03\xe9going", b"\x0f\xa0\xe2\x82\xac", b"\x03\xf6"] {
        let close = [control(Opcode::Close, payload)];
        row("a close", CLIENT, &[masked(CLOSE, payload), behind()], &[], &close);
        row("a close of a server", UPSTREAM, &[plain(CLOSE, payload)], &[], &close);
        let inside = [masked(TEXT, b"x"), masked(CLOSE, payload)];
        row("inside a message", CLIENT, &inside, &inside[..1], &close);
    }
    for (rule, payload, violation) in [
        ("one byte", &b"\x03"[..], Violation::CloseOneByte),
        ("code 0", b"\x00\x00", Violation::CloseCode(0)),
        ("code 999", b"\x03\xe7", Violation::CloseCode(999)),
        ("code 1004", b"\x03\xec", Violation::CloseCode(1004)),
        ("code 1005", b"\x03\xed", Violation::CloseCode(1005)),
        ("code 1006", b"\x03\xee", Violation::CloseCode(1006)),
        ("code 1015", b"\x03\xf7", Violation::CloseCode(1015)),
        ("code 1016", b"\x03\xf8", Violation::CloseCode(1016)),
        ("code 2999", b"\x0b\xb7", Violation::CloseCode(2999)),
        ("code 5000", b"\x13\x88why", Violation::CloseCode(5000)),
        ("reason not UTF-8", b"\x03\xe8\xce\xba\xff", Violation::CloseReasonNotUtf8),
        ("reason cut", b"\x03\xe8\xe2\x82", Violation::CloseReasonNotUtf8),
    ] {
        refused(rule, CLIENT, &[masked(FIN | BIN, b"ok"), masked(CLOSE, payload)], violation);
        refused(rule, UPSTREAM, &[plain(CLOSE, payload)], violation);
    }
}

#[test]
fn limits() {
    let limited = Rules { frame_bytes_max: 4, message_bytes_max: 6, fragments_max: NonZeroU32::new(3), ..CLIENT };
    passes("just a frame's limit", limited, &[masked(FIN | BIN, &[0; 4]), masked(FIN | BIN, &[0; 4])]);
    refused("frame", limited, &[masked(FIN | BIN, b"ok"), masked(FIN | BIN, &[0; 5])], Violation::FrameTooBig);
    refused("frame before message", limited, &[masked(BIN, &[0; 4]), masked(CONT, &[0; 5])], Violation::FrameTooBig);
    passes("just a message's limit", limited, &[masked(BIN, &[0; 3]), masked(CONT, &[0; 3]), masked(FIN | CONT, b"")]);
    refused(
        "message, summed over its fragments",
        limited,
        &[masked(BIN, &[0; 3]), masked(CONT, &[0; 3]), masked(FIN | CONT, b"x")],
        Violation::MessageTooBig,
    );
    passes(
        "each message begins at nothing",
        limited,
        &[masked(BIN, &[0; 3]), masked(FIN | CONT, &[0; 3]), masked(BIN, &[0; 3]), masked(FIN | CONT, &[0; 3])],
    );
    refused(
        "fragments",
        limited,
        &[masked(BIN, b""), masked(CONT, b""), masked(CONT, b""), masked(FIN | CONT, b"")],
        Violation::TooManyFragments,
    );
    let message_only = Rules { message_bytes_max: 3, ..CLIENT };
    refused("one frame over a message's limit", message_only, &[masked(FIN | BIN, &[0; 4])], Violation::MessageTooBig);
    let ping = [control(Opcode::Ping, &[0; 125])];
    row("control frames are not counted", limited, &[masked(PING, &[0; 125])], &[], &ping);
    let claim = [&b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff"[..], &KEY].concat();
    refused("2^63 - 1 bytes claimed", limited, &[claim], Violation::FrameTooBig);
    let claim = [&b"\x02\xff\x7f\xff\xff\xff\xff\xff\xff\xff"[..], &KEY].concat();
    refused(
        "the limit of a message alone",
        Rules { frame_bytes_max: u64::MAX, ..limited },
        &[claim],
        Violation::MessageTooBig,
    );
}

#[test]
fn kinds_and_close_codes() {
    for (violation, kind, code) in [
        (Violation::NotMasked, ViolationKind::Protocol, 1002),
        (Violation::CloseOneByte, ViolationKind::Protocol, 1002),
        (Violation::CloseCode(1005), ViolationKind::Protocol, 1002),
        (Violation::CloseReasonNotUtf8, ViolationKind::InvalidPayload, 1007),
        (Violation::TextNotUtf8, ViolationKind::InvalidPayload, 1007),
        (Violation::FrameTooBig, ViolationKind::FrameTooBig, 1009),
        (Violation::MessageTooBig, ViolationKind::MessageTooBig, 1009),
        (Violation::TooManyFragments, ViolationKind::MessageTooBig, 1009),
    ] {
        assert_eq!((violation.kind(), violation.close_code()), (kind, code), "{violation}");
        assert!(violation.to_string().len() <= CONTROL_MAX - 2, "fits a close reason");
    }
}

/// A row of `strict`: as `refused`, but what passes depends on the cuts. All before the refused frame passes, and of
/// that frame only what was valid when it came, or nothing where it came at once.
fn not_utf8(rule: &str, rules: Rules, before: &[Vec<u8>], last: &[u8]) {
    let before = before.concat();
    let input = [&before, last].concat();
    each_cut(&input, |pieces| {
        let cuts: Vec<usize> = pieces.iter().map(|piece| piece.len()).collect();
        let rule = format!("{rule}, pieces of {cuts:?}");
        let outcome = run(rules, pieces.iter().copied(), Until::Event);
        assert_eq!(outcome.events, [Event::Violation(Violation::TextNotUtf8)], "{rule}");
        assert!(input.starts_with(&outcome.passed), "{rule}");
        assert!((before.len()..input.len()).contains(&outcome.passed.len()), "{rule}");
        assert_eq!(outcome.at_boundary, outcome.passed.len() == before.len(), "{rule}");
        if pieces.len() == 1 {
            assert_eq!(outcome.passed, before, "{rule}");
        }
    });
}

#[test]
fn section_8_1_utf8() {
    let text = "κόσμε 🌊€".as_bytes();
    passes("one frame", STRICT, &[masked(FIN | TEXT, text), masked(FIN | TEXT, b""), masked(FIN | TEXT, text)]);
    passes("unmasked", Rules { strict: true, ..UPSTREAM }, &[plain(FIN | TEXT, text)]);
    for cut in 0..=text.len() {
        let (first, second) = text.split_at(cut);
        let frames = [masked(TEXT, first), masked(CONT, b""), masked(FIN | CONT, second)];
        passes("fragments that cut a character", STRICT, &frames);
    }
    let frames = [masked(TEXT, &text[..1]), masked(PING, b"\xff"), masked(FIN | CONT, &text[1..])];
    let data = [frames[0].clone(), frames[2].clone()];
    row("a ping inside a character", STRICT, &frames, &data, &[control(Opcode::Ping, b"\xff")]);

    passes("not strict", CLIENT, &[masked(FIN | TEXT, b"\xff")]);
    passes("binary", STRICT, &[masked(FIN | BIN, b"\xff"), masked(BIN, b"\xff"), masked(FIN | CONT, b"\xff")]);
    let compressed = Rules { deflate: true, ..STRICT };
    passes("compressed", compressed, &[masked(RSV1 | TEXT, b"\xff"), masked(FIN | CONT, b"\xff")]);

    let ok = || masked(FIN | TEXT, text);
    not_utf8("a byte that never occurs", STRICT, &[ok()], &masked(FIN | TEXT, b"ab\xffcd"));
    not_utf8("a surrogate", STRICT, &[ok()], &masked(FIN | TEXT, b"\xed\xa0\x80"));
    not_utf8("overlong", STRICT, &[], &masked(FIN | TEXT, b"\xc0\x80"));
    not_utf8("above U+10FFFF", STRICT, &[], &masked(FIN | TEXT, b"\xf4\x90\x80\x80"));
    not_utf8("cut by the end of the message", STRICT, &[ok()], &masked(FIN | TEXT, b"\xe2\x82"));
    let first = || masked(TEXT, b"\xe2\x82");
    not_utf8("cut by an empty last fragment", STRICT, &[first()], &masked(FIN | CONT, b""));
    not_utf8("broken by the next fragment", STRICT, &[first()], &masked(FIN | CONT, b"\x28"));
    not_utf8("unmasked", Rules { strict: true, ..UPSTREAM }, &[plain(FIN | TEXT, text)], &plain(FIN | TEXT, b"a\xff"));
}

#[test]
fn a_text_is_refused_before_its_frame_ends() {
    let frame = masked(FIN | TEXT, &[b"a\xff", &[b'x'; 2000][..]].concat());
    let outcome = run(STRICT, [&frame[..8], &frame[8..10]], Until::Event);
    assert_eq!(outcome.events, [Event::Violation(Violation::TextNotUtf8)]);
    // Two bytes, a 16-bit length, the key: the first input was the header.
    assert_eq!((outcome.passed, outcome.at_boundary), (frame[..8].to_vec(), false));
}

#[test]
fn after_a_violation_everything_is_taken_and_nothing_passes() {
    let mut scanner = Scanner::new(CLIENT);
    let step = scanner.scan(&plain(FIN | BIN, b"x"), Until::Event);
    assert_eq!((step.pass, step.taken, step.event), (0, 3, Some(Event::Violation(Violation::NotMasked))));
    let good = masked(FIN | BIN, b"x");
    let step = scanner.scan(&good, Until::Boundary);
    assert_eq!((step.pass, step.taken, step.event), (0, good.len(), None));
    assert!(scanner.at_boundary() && !scanner.mid_frame());
}

#[test]
fn only_a_cut_control_frame_is_kept_and_only_until_it_is_whole() {
    let mut scanner = Scanner::new(CLIENT);
    let ping = masked(PING, b"Hello");
    assert_eq!(scanner.scan(&ping, Until::Event).event, Some(control(Opcode::Ping, b"Hello")));
    assert!(matches!(scanner.open, Open::Nothing), "whole: nothing is kept");
    for cut in 1..ping.len() {
        let step = scanner.scan(&ping[..cut], Until::Event);
        assert_eq!((step.pass, step.taken, step.event), (0, cut, None));
        assert_eq!(matches!(scanner.open, Open::Control(_)), cut >= 6, "the header is held, the payload boxed");
        assert!(scanner.mid_frame() && scanner.at_boundary());
        assert_eq!(scanner.scan(&ping[cut..], Until::Event).event, Some(control(Opcode::Ping, b"Hello")));
        assert!(matches!(scanner.open, Open::Nothing) && !scanner.mid_frame());
    }
}

#[test]
fn a_boundary_is_reported_where_the_input_ends_just_there() {
    let mut scanner = Scanner::new(CLIENT);
    let frame = masked(FIN | BIN, b"Hello");
    let step = scanner.scan(&frame, Until::Boundary);
    assert_eq!((step.pass, step.taken, step.event), (frame.len(), frame.len(), Some(Event::Boundary)));
    let step = scanner.scan(b"", Until::Boundary);
    assert_eq!((step.pass, step.taken, step.event), (0, 0, None));
}

#[test]
fn a_frame_is_counted_once_however_it_dribbles_in() {
    let mut scanner = Scanner::new(CLIENT);
    let frame = masked(BIN, b"Hello");
    for (at, byte) in frame.iter().enumerate() {
        scanner.scan(&[*byte], Until::Event);
        assert_eq!(scanner.frames(), 1);
        assert_eq!(scanner.messages(), u64::from(at >= 5), "counted when the header is whole");
        assert_eq!(scanner.bytes(), at.saturating_sub(5) as u64);
        assert_eq!(scanner.mid_frame(), at + 1 < frame.len());
        assert_eq!(scanner.mid_message(), at >= 5);
    }
    // The last fragment's header does not end the message, its last byte does.
    let last = masked(FIN | CONT, b"!");
    scanner.scan(&last[..6], Until::Event);
    assert!(scanner.mid_message());
    scanner.scan(&last[6..], Until::Event);
    assert_eq!((scanner.mid_message(), scanner.messages(), scanner.frames()), (false, 1, 2));
}

/// A frame to be written; all but its length is free.
#[derive(Debug, Clone)]
struct Spec {
    first: u8,
    key: Option<[u8; 4]>,
    payload: Vec<u8>,
}

impl Spec {
    fn is_data(&self) -> bool {
        self.first & 0x8 == 0
    }

    fn wire(&self) -> Vec<u8> {
        frame(self.first, self.key, &self.payload)
    }
}

fn wire(frames: &[Spec]) -> Vec<u8> {
    frames.iter().flat_map(Spec::wire).collect()
}

fn bytes(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), len)
}

fn any_payload() -> impl Strategy<Value = (u8, Vec<u8>)> {
    prop_oneof![
        6 => any::<String>().prop_map(|text| (TEXT, text.into_bytes())),
        6 => bytes(0..150).prop_map(|bytes| (BIN, bytes)),
        1 => (65_530..65_540_usize).prop_map(|len| (BIN, vec![0x5a; len])),
    ]
}

fn any_pings() -> impl Strategy<Value = Vec<Spec>> {
    let ping = (prop::sample::select(vec![PING, PONG]), bytes(0..126));
    prop::collection::vec(ping.prop_map(|(first, payload)| Spec { first, key: None, payload }), 0..3)
}

/// One message in fragments, with control frames before each of them.
fn any_message() -> impl Strategy<Value = Vec<Spec>> {
    let fragments = prop::collection::vec((any::<Index>(), any_pings()), 1..4);
    (any_payload(), fragments).prop_map(|((opcode, payload), fragments)| {
        let mut ends: Vec<usize> = fragments.iter().map(|(end, _)| end.index(payload.len() + 1)).collect();
        ends.sort_unstable();
        let last = ends.len() - 1;
        ends[last] = payload.len();
        let mut frames = Vec::new();
        let mut start = 0;
        for (at, ((_, pings), end)) in fragments.into_iter().zip(ends).enumerate() {
            frames.extend(pings);
            let fin = if at == last { FIN } else { 0 };
            let opcode = if at == 0 { opcode } else { CONT };
            frames.push(Spec { first: fin | opcode, key: None, payload: payload[start..end].to_vec() });
            start = end;
        }
        frames
    })
}

fn any_close() -> impl Strategy<Value = Option<Spec>> {
    let payload = prop_oneof![
        Just(Vec::new()),
        (prop::sample::select(vec![1000_u16, 1001, 1011, 3000, 4999]), "[a-zé€]{0,20}").prop_map(|(code, text)| [
            &code.to_be_bytes(),
            text.as_bytes()
        ]
        .concat()),
    ];
    prop::option::of(payload.prop_map(|payload| Spec { first: CLOSE, key: None, payload }))
}

/// What a well-behaved client (true) or server sends.
fn any_frames() -> impl Strategy<Value = (bool, Vec<Spec>)> {
    let keys = prop::collection::vec(any::<[u8; 4]>(), 4);
    (any::<bool>(), prop::collection::vec(any_message(), 0..5), any_close(), keys).prop_map(
        |(client, messages, close, keys)| {
            let mut frames: Vec<Spec> = messages.into_iter().flatten().chain(close).collect();
            for (frame, key) in frames.iter_mut().zip(keys.iter().cycle()) {
                frame.key = client.then_some(*key);
            }
            (client, frames)
        },
    )
}

/// Frames of which some break a rule: a first byte, a mask, a payload changed, a frame lost, doubled or invented.
fn any_bad_frames() -> impl Strategy<Value = (bool, Vec<Spec>)> {
    let change = (0..6_u8, any::<Index>(), any::<u8>(), bytes(0..130));
    (any_frames(), prop::collection::vec(change, 1..3)).prop_map(|((client, mut frames), changes)| {
        for (what, at, byte, payload) in changes {
            if frames.is_empty() {
                break;
            }
            let at = at.index(frames.len());
            let frame = &mut frames[at];
            match what {
                0 => frame.first = byte,
                1 => frame.key = if frame.key.is_some() { None } else { Some([byte; 4]) },
                2 => frame.payload.splice(..frame.payload.len().min(2), payload).for_each(drop),
                3 => drop(frames.remove(at)),
                4 => frames.insert(at, frames[at].clone()),
                _ => {
                    let key = client.then_some([byte; 4]);
                    frames.insert(at, Spec { first: byte, key, payload });
                }
            }
        }
        (client, frames)
    })
}

fn any_cuts() -> impl Strategy<Value = Vec<Index>> {
    prop::collection::vec(any::<Index>(), 0..12)
}

fn cut<'a>(input: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
    ends.sort_unstable();
    ends.push(input.len());
    let starts = std::iter::once(0).chain(ends.iter().copied());
    starts.zip(&ends).map(|(start, &end)| &input[start..end]).collect()
}

fn rules(client: bool) -> Rules {
    if client { CLIENT } else { UPSTREAM }
}

/// The messages that whole frames are, decoded by hand.
fn messages(mut wire: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    let mut open = Vec::new();
    while let Parsed::Whole(header, start) = Header::parse(wire) {
        let end = start + header.payload_len as usize;
        let Some(payload) = wire.get(start..end) else {
            break;
        };
        let key = header.mask.unwrap_or_default();
        open.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        if header.fin {
            messages.push(std::mem::take(&mut open));
        }
        wire = &wire[end..];
    }
    messages
}

/// What tungstenite makes of the same bytes.
struct Verdict {
    messages: Vec<Vec<u8>>,
    controls: Vec<Event>,
    refused: bool,
}

/// The bytes to read; what is written is dropped.
struct Wire<'a>(Cursor<&'a [u8]>);

impl Read for Wire<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn oracle(client: bool, rules: Rules, input: &[u8]) -> Verdict {
    let role = if client { Role::Server } else { Role::Client };
    let config = WebSocketConfig::default()
        .read_buffer_size(4096)
        .write_buffer_size(0)
        .max_frame_size(Some(rules.frame_bytes_max as usize))
        .max_message_size(Some(rules.message_bytes_max as usize));
    let mut context = WebSocketContext::new(role, Some(config));
    let mut stream = Wire(Cursor::new(input));
    let mut verdict = Verdict { messages: Vec::new(), controls: Vec::new(), refused: false };
    loop {
        use tungstenite::error::{Error, ProtocolError};
        match context.read(&mut stream) {
            Ok(Theirs::Text(text)) => verdict.messages.push(text.as_bytes().to_vec()),
            Ok(Theirs::Binary(bytes)) => verdict.messages.push(bytes.to_vec()),
            Ok(Theirs::Ping(payload)) => verdict.controls.push(control(Opcode::Ping, &payload)),
            Ok(Theirs::Pong(payload)) => verdict.controls.push(control(Opcode::Pong, &payload)),
            Ok(Theirs::Close(Some(close)))
                if close.code == CloseCode::Protocol && close.reason.as_str() == "Protocol violation" =>
            {
                // How it reports a code that must not be sent.
                verdict.refused = true;
                return verdict;
            }
            Ok(Theirs::Close(close)) => {
                let close = close.map_or(Control::new(Opcode::Close, b""), |close| {
                    Control::close(close.code.into(), close.reason.as_str())
                });
                verdict.controls.push(Event::Control(close));
                return verdict;
            }
            Ok(Theirs::Frame(_)) => unreachable!("never read"),
            // The end of the input.
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => return verdict,
            Err(Error::Protocol(_) | Error::Utf8(_) | Error::Capacity(_)) => {
                verdict.refused = true;
                return verdict;
            }
            Err(error) => panic!("unexpected: {error}"),
        }
    }
}

/// Whether both say the same about whole frames, up to the first that one of them refuses.
fn agrees_with_tungstenite(client: bool, limits: Rules, frames: &[Spec]) -> Result<(), TestCaseError> {
    // It has no permessage-deflate, and always checks UTF-8.
    let rules = Rules { masked: client, strict: true, ..limits };
    let input = wire(frames);
    let ours = run(rules, [&input[..]], Until::Event);
    let theirs = oracle(client, rules, &input);
    let (controls, violations): (Vec<Event>, Vec<Event>) =
        ours.events.into_iter().partition(|event| matches!(event, Event::Control(_)));
    // Known exception: it takes 1014 for a code that must not be sent, though the registry has it.
    if let Some(Event::Control(last)) = controls.last()
        && last.close_reason().is_some_and(|reason| reason.code == 1014)
    {
        prop_assert!(theirs.refused);
        return Ok(());
    }
    prop_assert_eq!(messages(&ours.passed), theirs.messages);
    prop_assert_eq!(controls, theirs.controls);
    prop_assert_eq!(!violations.is_empty(), theirs.refused, "{:?}", violations);
    Ok(())
}

/// Known exceptions, where we are stricter: tungstenite accepts lengths that are not minimal. And where it is: 1014.
#[test]
fn where_tungstenite_differs() {
    let longer = [&b"\x82\xfe\x00\x05"[..], &[0; 4], b"Hello"].concat();
    let ours = run(CLIENT, [&longer[..]], Until::Event);
    assert_eq!(ours.events, [Event::Violation(Violation::LengthNotMinimal)]);
    let theirs = oracle(true, CLIENT, &longer);
    assert_eq!((theirs.refused, theirs.messages), (false, vec![b"Hello".to_vec()]));

    let bad_gateway = masked(CLOSE, b"\x03\xf6");
    assert!(oracle(true, CLIENT, &bad_gateway).refused);
    let ours = run(CLIENT, [&bad_gateway[..]], Until::Event);
    assert_eq!(ours.events, [control(Opcode::Close, b"\x03\xf6")]);
}

#[test]
fn every_close_code_but_1014_as_tungstenite() {
    for code in (0..=u16::MAX).filter(|&code| code != 1014) {
        let close = masked(CLOSE, &code.to_be_bytes());
        assert_eq!(oracle(true, CLIENT, &close).refused, !close::may_be_sent(code), "{code}");
    }
}

proptest! {
    #[test]
    fn good_frames_pass_and_controls_come_out_in_order(
        (client, frames) in any_frames(),
        cuts in any_cuts(),
        strict: bool,
    ) {
        let input = wire(&frames);
        let data: Vec<&Spec> = frames.iter().filter(|frame| frame.is_data()).collect();
        let ends: Vec<usize> = data
            .iter()
            .scan(0, |end, frame| {
                *end += frame.wire().len();
                Some(*end)
            })
            .collect();
        let expected = Outcome {
            passed: data.iter().flat_map(|frame| frame.wire()).collect(),
            events: frames
                .iter()
                .filter(|frame| !frame.is_data())
                .map(|frame| control(Opcode::from_bits(frame.first & 0xF).expect("a control frame"), &frame.payload))
                .collect(),
            boundaries: ends,
            counts: [
                data.iter().filter(|frame| frame.first & 0xF != CONT).count() as u64,
                data.iter().map(|frame| frame.payload.len() as u64).sum(),
                frames.len() as u64,
            ],
            at_boundary: true,
            mid_frame: false,
            mid_message: false,
        };
        let rules = Rules { strict, ..rules(client) };
        // Every end of a data frame is reported, once, and nothing else is.
        prop_assert_eq!(&run(rules, cut(&input, &cuts), Until::Boundary), &expected);
        let unbounded = Outcome { boundaries: Vec::new(), ..expected };
        prop_assert_eq!(&run(rules, cut(&input, &cuts), Until::Event), &unbounded);
    }

    #[test]
    fn a_cut_changes_nothing(
        (client, frames) in prop_oneof![any_frames(), any_bad_frames()],
        end in any::<Index>(),
        cuts in any_cuts(),
        strict: bool,
    ) {
        let mut input = wire(&frames);
        input.truncate(end.index(input.len() + 1));
        let rules = Rules { strict, ..rules(client) };
        for until in [Until::Event, Until::Boundary] {
            let whole = run(rules, [&input[..]], until);
            let pieces = run(rules, cut(&input, &cuts), until);
            if whole.events.last() == Some(&Event::Violation(Violation::TextNotUtf8)) {
                // How much of the refused frame had passed depends on the cuts.
                prop_assert_eq!(pieces.events, whole.events);
                prop_assert!(pieces.passed.starts_with(&whole.passed));
            } else {
                prop_assert_eq!(pieces, whole);
            }
        }
    }

    #[test]
    fn garbage_is_no_danger(
        input in bytes(0..400),
        sizes in prop::collection::vec(0..20_usize, 1..10),
        masked: bool,
        deflate: bool,
        strict: bool,
        frame_bytes_max in prop_oneof![Just(u64::MAX), 0..100_u64],
        message_bytes_max in prop_oneof![Just(u64::MAX), 0..100_u64],
        fragments_max in 0..4_u32,
    ) {
        let fragments_max = NonZeroU32::new(fragments_max);
        let rules = Rules { masked, deflate, frame_bytes_max, message_bytes_max, fragments_max, strict };
        let mut pieces = Vec::new();
        let mut rest = &input[..];
        for size in sizes {
            let (piece, behind) = rest.split_at(size.min(rest.len()));
            pieces.push(piece);
            rest = behind;
        }
        pieces.push(rest);
        let whole = run(rules, [&input[..]], Until::Boundary);
        let pieces = run(rules, pieces, Until::Boundary);
        prop_assert_eq!(pieces.events, whole.events);
        prop_assert!(pieces.passed.starts_with(&whole.passed));
    }

    #[test]
    fn tungstenite_agrees_on_good_frames((client, frames) in any_frames()) {
        agrees_with_tungstenite(client, CLIENT, &frames)?;
    }

    #[test]
    fn tungstenite_agrees_on_bad_frames((client, frames) in any_bad_frames()) {
        agrees_with_tungstenite(client, CLIENT, &frames)?;
    }

    #[test]
    fn tungstenite_agrees_on_limits(
        (client, frames) in any_frames(),
        frame_bytes_max in 125..300_u64,
        message_bytes_max in 0..300_u64,
    ) {
        // At least 125: it applies the limit of a frame to control frames too.
        agrees_with_tungstenite(client, Rules { frame_bytes_max, message_bytes_max, ..CLIENT }, &frames)?;
    }
}
