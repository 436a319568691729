//! Rules as tables by section of RFC 6455, each row in one piece, byte by byte and cut at every point; then properties.

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
const UPSTREAM: Rules = Rules {
    masked: false,
    ..CLIENT
};
const DEFLATE: Rules = Rules {
    deflate: true,
    ..CLIENT
};
const STRICT: Rules = Rules {
    strict: true,
    ..CLIENT
};

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
    bytes.extend(
        payload
            .iter()
            .zip(key.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
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

/// Scans the pieces as the relay does, and holds the scanner to its contract while it does.
fn run<'a>(rules: Rules, pieces: impl IntoIterator<Item = &'a [u8]>, until: Until) -> Outcome {
    let mut scanner = Scanner::new(rules);
    let mut passed = Vec::new();
    let mut events = Vec::new();
    let mut boundaries = Vec::new();
    'pieces: for mut input in pieces {
        loop {
            let before = passed.len();
            let Step {
                held,
                pass,
                taken,
                event,
            } = scanner.scan(input, until);
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

/// Hands every way to cut `input` that the tables try to `check`: whole, at every point, byte by byte, with empty pieces.
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
            assert_eq!(
                outcome.events, events,
                "{rule}, {until:?}, pieces of {cuts:?}"
            );
            assert_eq!(
                outcome.passed, passed,
                "{rule}, {until:?}, pieces of {cuts:?}"
            );
        }
    });
}

/// A row whose bytes all pass.
fn passes(rule: &str, rules: Rules, input: &[Vec<u8>]) {
    row(rule, rules, input, input, &[]);
}

/// A row whose last frame is refused, and what was before it passes.
fn refused(rule: &str, rules: Rules, input: &[Vec<u8>], violation: Violation) {
    row(
        rule,
        rules,
        input,
        &input[..input.len() - 1],
        &[Event::Violation(violation)],
    );
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
    passes(
        "a server does not",
        UPSTREAM,
        &[plain(FIN | TEXT, b"Hello")],
    );
    passes(
        "a key of zeros is a key",
        CLIENT,
        &[frame(FIN | BIN, Some([0; 4]), b"x")],
    );
    for (rule, first, payload) in [
        ("text", FIN | TEXT, &b"Hello"[..]),
        ("empty", FIN | BIN, b""),
        ("ping", PING, b"x"),
        ("close", CLOSE, b"\x03\xe8"),
    ] {
        refused(
            rule,
            CLIENT,
            &[masked(FIN | BIN, b"ok"), plain(first, payload)],
            Violation::NotMasked,
        );
        refused(
            rule,
            UPSTREAM,
            &[plain(FIN | BIN, b"ok"), masked(first, payload)],
            Violation::Masked,
        );
    }
}

#[test]
fn section_5_2_reserved_opcodes() {
    for opcode in (3..=7).chain(11..=15) {
        let violation = Violation::ReservedOpcode(opcode);
        refused(
            "reserved opcode",
            CLIENT,
            &[masked(FIN | BIN, b"ok"), masked(FIN | opcode, b"no")],
            violation,
        );
        refused(
            "reserved opcode",
            UPSTREAM,
            &[plain(FIN | opcode, b"")],
            violation,
        );
    }
}

#[test]
fn section_5_2_reserved_bits() {
    for rsv in [RSV1, RSV2, RSV3, RSV1 | RSV2, RSV1 | RSV2 | RSV3] {
        for first in [FIN | TEXT, FIN | BIN, BIN, CLOSE, PING, PONG] {
            let refused_frame = [masked(first | rsv, b"\x03\xe8")];
            refused(
                "nobody negotiated",
                CLIENT,
                &refused_frame,
                Violation::ReservedBits,
            );
            if rsv != RSV1 || first & 0x8 != 0 {
                refused(
                    "only RSV1 of data",
                    DEFLATE,
                    &refused_frame,
                    Violation::ReservedBits,
                );
            }
        }
    }
    passes(
        "RSV1 of a message",
        DEFLATE,
        &[
            masked(FIN | RSV1 | TEXT, b"x"),
            masked(FIN | RSV1 | BIN, b"x"),
        ],
    );
    passes(
        "with and without in turn",
        DEFLATE,
        &[masked(FIN | TEXT, b"x"), masked(FIN | RSV1 | BIN, b"x")],
    );
    passes(
        "RSV1 on the first fragment",
        DEFLATE,
        &[masked(RSV1 | TEXT, b"x"), masked(FIN | CONT, b"x")],
    );
    for first in [RSV1, FIN | RSV1, RSV2, RSV3] {
        let frames = [masked(RSV1 | TEXT, b"x"), masked(first | CONT, b"x")];
        refused(
            "none on a continuation",
            DEFLATE,
            &frames,
            Violation::ReservedBits,
        );
    }
}

#[test]
fn section_5_2_lengths() {
    for len in [0, 1, 125, 126, 127, 300] {
        passes(
            "any length",
            UPSTREAM,
            &[plain(FIN | BIN, &vec![7; len]), plain(FIN | BIN, b"next")],
        );
    }
    let key = KEY.as_slice();
    for (rule, header, violation) in [
        (
            "125 in 16 bits",
            &b"\x82\xfe\x00\x7d"[..],
            Violation::LengthNotMinimal,
        ),
        (
            "0 in 16 bits",
            b"\x82\xfe\x00\x00",
            Violation::LengthNotMinimal,
        ),
        (
            "5 in 64 bits",
            b"\x82\xff\0\0\0\0\0\0\0\x05",
            Violation::LengthNotMinimal,
        ),
        (
            "65535 in 64 bits",
            b"\x82\xff\0\0\0\0\0\0\xff\xff",
            Violation::LengthNotMinimal,
        ),
        (
            "control frame, not minimal",
            b"\x89\xfe\x00\x05",
            Violation::LengthNotMinimal,
        ),
        (
            "top bit",
            b"\x82\xff\x80\0\0\0\0\0\0\0",
            Violation::LengthTopBit,
        ),
        (
            "all bits",
            b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            Violation::LengthTopBit,
        ),
    ] {
        refused(
            rule,
            CLIENT,
            &[masked(FIN | BIN, b"ok"), [header, key, b"x"].concat()],
            violation,
        );
    }
}

#[test]
fn a_message_that_claims_all_but_the_top_bit_passes_as_far_as_it_comes() {
    let mut begun = b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff".to_vec();
    begun.extend([0; 40]);
    passes("2^63 - 1 bytes", UPSTREAM, std::slice::from_ref(&begun));
    let outcome = run(UPSTREAM, [&begun[..]], Until::Boundary);
    assert_eq!(
        (outcome.counts, outcome.at_boundary, outcome.mid_frame),
        ([1, 40, 1], false, true)
    );
}

#[test]
fn section_5_4_fragmentation() {
    passes(
        "fragments, empty ones too",
        CLIENT,
        &[
            masked(TEXT, b"a"),
            masked(CONT, b""),
            masked(FIN | CONT, b""),
            masked(FIN | BIN, b"next"),
        ],
    );
    row(
        "control frames between fragments",
        CLIENT,
        &[
            masked(BIN, b"a"),
            masked(PING, b"p"),
            masked(CONT, b"b"),
            masked(PONG, b""),
            masked(FIN | CONT, b"c"),
        ],
        &[
            masked(BIN, b"a"),
            masked(CONT, b"b"),
            masked(FIN | CONT, b"c"),
        ],
        &[control(Opcode::Ping, b"p"), control(Opcode::Pong, b"")],
    );
    for first in [CONT, FIN | CONT] {
        let violation = Violation::ContinuationWithoutStart;
        refused(
            "nothing to continue",
            CLIENT,
            &[masked(first, b"x")],
            violation,
        );
        refused(
            "after a whole message",
            CLIENT,
            &[masked(FIN | TEXT, b"x"), masked(first, b"x")],
            violation,
        );
        let frames = [
            masked(TEXT, b"x"),
            masked(FIN | CONT, b"x"),
            masked(first, b"x"),
        ];
        refused("after a fragmented message", CLIENT, &frames, violation);
        let frames = [
            masked(TEXT, b"x"),
            masked(FIN | CONT, b""),
            masked(first, b""),
        ];
        refused("after an empty last fragment", CLIENT, &frames, violation);
    }
    for first in [TEXT, FIN | TEXT, BIN, FIN | BIN] {
        let violation = Violation::StartInsideMessage;
        refused(
            "inside a message",
            CLIENT,
            &[masked(TEXT, b"x"), masked(first, b"x")],
            violation,
        );
        let frames = [masked(TEXT, b"x"), masked(CONT, b"x"), masked(first, b"")];
        refused("inside a message", CLIENT, &frames, violation);
    }
}

#[test]
fn section_5_5_control_frames() {
    for (first, opcode) in [(PING, Opcode::Ping), (PONG, Opcode::Pong)] {
        for len in [0, 1, 125] {
            let payload: Vec<u8> = (0..len).collect();
            let frames = [
                masked(FIN | BIN, b"a"),
                masked(first, &payload),
                masked(FIN | BIN, b"b"),
            ];
            let data = [frames[0].clone(), frames[2].clone()];
            row(
                "never passes",
                CLIENT,
                &frames,
                &data,
                &[control(opcode, &payload)],
            );
            row(
                "unmasked",
                UPSTREAM,
                &[plain(first, &payload)],
                &[],
                &[control(opcode, &payload)],
            );
        }
    }
    let two = [control(Opcode::Ping, b"1"), control(Opcode::Ping, b"2")];
    row(
        "in order",
        CLIENT,
        &[masked(PING, b"1"), masked(PING, b"2")],
        &[],
        &two,
    );
    for first in [CLOSE, PING, PONG] {
        let ok = || masked(FIN | BIN, b"ok");
        refused(
            "126 bytes",
            CLIENT,
            &[ok(), masked(first, &[0; 126])],
            Violation::ControlTooLong,
        );
        refused(
            "fragmented",
            CLIENT,
            &[ok(), masked(first & !FIN, b"x")],
            Violation::ControlFragmented,
        );
        let inside = [masked(BIN, b"x"), masked(first & !FIN, b"x")];
        refused(
            "fragmented, inside a message",
            CLIENT,
            &inside,
            Violation::ControlFragmented,
        );
    }
}

#[test]
fn section_5_5_1_close() {
    let behind = || masked(FIN | BIN, b"after close");
    for payload in [
        &b""[..],
        b"\x03\xe8",
        b"\x03\xe9going",
        b"\x0f\xa0\xe2\x82\xac",
        b"\x03\xf6",
    ] {
        let close = [control(Opcode::Close, payload)];
        row(
            "a close",
            CLIENT,
            &[masked(CLOSE, payload), behind()],
            &[],
            &close,
        );
        row(
            "a close of a server",
            UPSTREAM,
            &[plain(CLOSE, payload)],
            &[],
            &close,
        );
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
        (
            "reason not UTF-8",
            b"\x03\xe8\xce\xba\xff",
            Violation::CloseReasonNotUtf8,
        ),
        (
            "reason cut",
            b"\x03\xe8\xe2\x82",
            Violation::CloseReasonNotUtf8,
        ),
    ] {
        refused(
            rule,
            CLIENT,
            &[masked(FIN | BIN, b"ok"), masked(CLOSE, payload)],
            violation,
        );
        refused(rule, UPSTREAM, &[plain(CLOSE, payload)], violation);
    }
}

#[test]
fn limits() {
    let limited = Rules {
        frame_bytes_max: 4,
        message_bytes_max: 6,
        fragments_max: NonZeroU32::new(3),
        ..CLIENT
    };
    passes(
        "just a frame's limit",
        limited,
        &[masked(FIN | BIN, &[0; 4]), masked(FIN | BIN, &[0; 4])],
    );
    refused(
        "frame",
        limited,
        &[masked(FIN | BIN, b"ok"), masked(FIN | BIN, &[0; 5])],
        Violation::FrameTooBig,
    );
    refused(
        "frame before message",
        limited,
        &[masked(BIN, &[0; 4]), masked(CONT, &[0; 5])],
        Violation::FrameTooBig,
    );
    passes(
        "just a message's limit",
        limited,
        &[
            masked(BIN, &[0; 3]),
            masked(CONT, &[0; 3]),
            masked(FIN | CONT, b""),
        ],
    );
    refused(
        "message, summed over its fragments",
        limited,
        &[
            masked(BIN, &[0; 3]),
            masked(CONT, &[0; 3]),
            masked(FIN | CONT, b"x"),
        ],
        Violation::MessageTooBig,
    );
    passes(
        "each message begins at nothing",
        limited,
        &[
            masked(BIN, &[0; 3]),
            masked(FIN | CONT, &[0; 3]),
            masked(BIN, &[0; 3]),
            masked(FIN | CONT, &[0; 3]),
        ],
    );
    refused(
        "fragments",
        limited,
        &[
            masked(BIN, b""),
            masked(CONT, b""),
            masked(CONT, b""),
            masked(FIN | CONT, b""),
        ],
        Violation::TooManyFragments,
    );
    let message_only = Rules {
        message_bytes_max: 3,
        ..CLIENT
    };
    refused(
        "one frame over a message's limit",
        message_only,
        &[masked(FIN | BIN, &[0; 4])],
        Violation::MessageTooBig,
    );
    let ping = [control(Opcode::Ping, &[0; 125])];
    row(
        "control frames are not counted",
        limited,
        &[masked(PING, &[0; 125])],
        &[],
        &ping,
    );
    let claim = [&b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff"[..], &KEY].concat();
    refused(
        "2^63 - 1 bytes claimed",
        limited,
        &[claim],
        Violation::FrameTooBig,
    );
    let claim = [&b"\x02\xff\x7f\xff\xff\xff\xff\xff\xff\xff"[..], &KEY].concat();
    refused(
        "the limit of a message alone",
        Rules {
            frame_bytes_max: u64::MAX,
            ..limited
        },
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
        (
            Violation::CloseReasonNotUtf8,
            ViolationKind::InvalidPayload,
            1007,
        ),
        (Violation::TextNotUtf8, ViolationKind::InvalidPayload, 1007),
        (Violation::FrameTooBig, ViolationKind::FrameTooBig, 1009),
        (Violation::MessageTooBig, ViolationKind::MessageTooBig, 1009),
        (
            Violation::TooManyFragments,
            ViolationKind::MessageTooBig,
            1009,
        ),
    ] {
        assert_eq!(
            (violation.kind(), violation.close_code()),
            (kind, code),
            "{violation}"
        );
        assert!(
            violation.to_string().len() <= CONTROL_MAX - 2,
            "fits a close reason"
        );
    }
}

/// A row of `strict`: as `refused`, but what passes depends on the cuts. All before the refused frame passes, and of that
/// frame only what was valid when it came, or nothing where it came at once.
fn not_utf8(rule: &str, rules: Rules, before: &[Vec<u8>], last: &[u8]) {
    let before = before.concat();
    let input = [&before, last].concat();
    each_cut(&input, |pieces| {
        let cuts: Vec<usize> = pieces.iter().map(|piece| piece.len()).collect();
        let rule = format!("{rule}, pieces of {cuts:?}");
        let outcome = run(rules, pieces.iter().copied(), Until::Event);
        assert_eq!(
            outcome.events,
            [Event::Violation(Violation::TextNotUtf8)],
            "{rule}"
        );
        assert!(input.starts_with(&outcome.passed), "{rule}");
        assert!(
            (before.len()..input.len()).contains(&outcome.passed.len()),
            "{rule}"
        );
        assert_eq!(
            outcome.at_boundary,
            outcome.passed.len() == before.len(),
            "{rule}"
        );
        if pieces.len() == 1 {
            assert_eq!(outcome.passed, before, "{rule}");
        }
    });
}

#[test]
fn section_8_1_utf8() {
    let text = "κόσμε 🌊€".as_bytes();
    passes(
        "one frame",
        STRICT,
        &[
            masked(FIN | TEXT, text),
            masked(FIN | TEXT, b""),
            masked(FIN | TEXT, text),
        ],
    );
    passes(
        "unmasked",
        Rules {
            strict: true,
            ..UPSTREAM
        },
        &[plain(FIN | TEXT, text)],
    );
    for cut in 0..=text.len() {
        let (first, second) = text.split_at(cut);
        let frames = [
            masked(TEXT, first),
            masked(CONT, b""),
            masked(FIN | CONT, second),
        ];
        passes("fragments that cut a character", STRICT, &frames);
    }
    let frames = [
        masked(TEXT, &text[..1]),
        masked(PING, b"\xff"),
        masked(FIN | CONT, &text[1..]),
    ];
    let data = [frames[0].clone(), frames[2].clone()];
    row(
        "a ping inside a character",
        STRICT,
        &frames,
        &data,
        &[control(Opcode::Ping, b"\xff")],
    );

    passes("not strict", CLIENT, &[masked(FIN | TEXT, b"\xff")]);
    passes(
        "binary",
        STRICT,
        &[
            masked(FIN | BIN, b"\xff"),
            masked(BIN, b"\xff"),
            masked(FIN | CONT, b"\xff"),
        ],
    );
    let compressed = Rules {
        deflate: true,
        ..STRICT
    };
    passes(
        "compressed",
        compressed,
        &[masked(RSV1 | TEXT, b"\xff"), masked(FIN | CONT, b"\xff")],
    );

    let ok = || masked(FIN | TEXT, text);
    not_utf8(
        "a byte that never occurs",
        STRICT,
        &[ok()],
        &masked(FIN | TEXT, b"ab\xffcd"),
    );
    not_utf8(
        "a surrogate",
        STRICT,
        &[ok()],
        &masked(FIN | TEXT, b"\xed\xa0\x80"),
    );
    not_utf8("overlong", STRICT, &[], &masked(FIN | TEXT, b"\xc0\x80"));
    not_utf8(
        "above U+10FFFF",
        STRICT,
        &[],
        &masked(FIN | TEXT, b"\xf4\x90\x80\x80"),
    );
    not_utf8(
        "cut by the end of the message",
        STRICT,
        &[ok()],
        &masked(FIN | TEXT, b"\xe2\x82"),
    );
    let first = || masked(TEXT, b"\xe2\x82");
    not_utf8(
        "cut by an empty last fragment",
        STRICT,
        &[first()],
        &masked(FIN | CONT, b""),
    );
    not_utf8(
        "broken by the next fragment",
        STRICT,
        &[first()],
        &masked(FIN | CONT, b"\x28"),
    );
    not_utf8(
        "unmasked",
        Rules {
            strict: true,
            ..UPSTREAM
        },
        &[plain(FIN | TEXT, text)],
        &plain(FIN | TEXT, b"a\xff"),
    );
}

#[test]
fn a_text_is_refused_before_its_frame_ends() {
    let frame = masked(FIN | TEXT, &[b"a\xff", &[b'x'; 2000][..]].concat());
    let outcome = run(STRICT, [&frame[..8], &frame[8..10]], Until::Event);
    assert_eq!(outcome.events, [Event::Violation(Violation::TextNotUtf8)]);
    // Two bytes, a 16-bit length, the key: the first input was the header.
    assert_eq!(
        (outcome.passed, outcome.at_boundary),
        (frame[..8].to_vec(), false)
    );
}
