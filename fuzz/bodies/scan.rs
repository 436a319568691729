//! The frame scanner against a slow reading of RFC 6455 section 5 that sees the whole input at once, and against tungstenite.
//!
//! Whatever the cuts, the scanner lets the same bytes pass, reports the same control frames and refuses the same inputs.

use std::io::{self, Cursor, Read, Write};
use std::num::NonZeroU32;

use arbitrary::Unstructured;
use tidegate::proto::frame::Opcode;
use tidegate::proto::scan::{Event, Rules, Scanner, Until, Violation};
use tungstenite::error::{Error, ProtocolError};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{Message, Role, WebSocketConfig, WebSocketContext};

pub fn run(data: &[u8]) {
    let mut source = Unstructured::new(data);
    let Ok(case) = Case::take(&mut source) else { return };
    let wire = source.take_rest();
    let expected = read(&case.rules, wire);
    check(&case, &expected, &scan(&case, &[wire]), true);
    check(&case, &expected, &scan(&case, &cut(wire, &case.sizes)), false);
    if case.rules.strict && !case.rules.deflate && case.is_unlimited() {
        agree(&expected, &tungstenite(case.rules.masked, wire), wire);
    }
}

struct Case {
    rules: Rules,
    until: Until,
    /// Every message is waited for.
    admits: bool,
    sizes: Vec<usize>,
}

impl Case {
    fn take(source: &mut Unstructured<'_>) -> arbitrary::Result<Case> {
        let flags: u8 = source.arbitrary()?;
        let is = |bit: u8| flags >> bit & 1 == 1;
        let [frame, message]: [u16; 2] = source.arbitrary()?;
        let fragments = NonZeroU32::new(u32::from(source.arbitrary::<u8>()?));
        let pieces = source.int_in_range(0..=15_u8)?;
        let sizes = (0..pieces).map(|_| source.arbitrary::<u8>().map(usize::from)).collect::<Result<_, _>>()?;
        let rules = Rules {
            masked: is(0),
            deflate: is(1),
            strict: is(2),
            frame_bytes_max: if is(3) { frame.into() } else { u64::MAX },
            message_bytes_max: if is(4) { message.into() } else { u64::MAX },
            fragments_max: fragments.filter(|_| is(5)),
        };
        Ok(Case { rules, until: if is(6) { Until::Boundary } else { Until::Event }, admits: is(7), sizes })
    }

    fn is_unlimited(&self) -> bool {
        let Rules { frame_bytes_max, message_bytes_max, fragments_max, .. } = self.rules;
        [frame_bytes_max, message_bytes_max] == [u64::MAX; 2] && fragments_max.is_none()
    }
}

/// Pieces of these sizes, again from the first, empty ones too; the whole where there are none.
fn cut<'a>(mut wire: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    if sizes.iter().any(|size| *size > 0) {
        for size in sizes.iter().cycle() {
            let (piece, rest) = wire.split_at(wire.len().min(*size));
            pieces.push(piece);
            wire = rest;
            if wire.is_empty() {
                break;
            }
        }
    }
    pieces.push(wire);
    pieces
}

#[derive(Debug, Default)]
struct Outcome {
    passed: Vec<u8>,
    controls: Vec<(Opcode, Vec<u8>)>,
    violation: Option<Violation>,
    /// How many bytes had passed where a frame was reported to end.
    boundaries: Vec<usize>,
    messages: u64,
    bytes: u64,
    frames: u64,
    at_boundary: bool,
    mid_frame: bool,
    mid_message: bool,
}

fn scan(case: &Case, pieces: &[&[u8]]) -> Outcome {
    let mut scanner = Scanner::new(case.rules);
    if case.admits {
        scanner.count_messages();
    }
    let mut out = Outcome::default();
    'pieces: for piece in pieces {
        let mut rest = *piece;
        let mut steps = 0;
        loop {
            steps += 1;
            assert!(steps <= 3 * piece.len() + 3, "it goes on without taking anything");
            let step = scanner.scan(rest, case.until);
            assert!(step.pass <= step.taken && step.taken <= rest.len());
            assert!(step.held.as_ref().is_empty() || step.pass > 0, "a header does not pass without its last byte");
            out.passed.extend_from_slice(step.held.as_ref());
            out.passed.extend_from_slice(&rest[..step.pass]);
            rest = &rest[step.taken..];
            match step.event {
                None => {
                    assert!(rest.is_empty(), "it stops before the end without a reason");
                    break;
                }
                Some(Event::Message) => {
                    assert!(case.admits && scanner.at_boundary());
                    scanner.admit();
                }
                Some(Event::Boundary) => {
                    assert!(case.until == Until::Boundary && scanner.at_boundary());
                    out.boundaries.push(out.passed.len());
                }
                Some(Event::Control(control)) => {
                    out.controls.push((control.opcode(), control.payload().to_vec()));
                    if control.opcode() == Opcode::Close {
                        break 'pieces;
                    }
                }
                Some(Event::Violation(violation)) => {
                    out.violation = Some(violation);
                    assert!(rest.is_empty(), "nothing counts behind a fault");
                    let late = scanner.scan(piece, case.until);
                    assert!(
                        late.pass == 0 && late.event.is_none() && late.taken == piece.len(),
                        "it lets bytes pass after a fault"
                    );
                    break 'pieces;
                }
            }
        }
    }
    (out.messages, out.bytes, out.frames) = (scanner.messages(), scanner.bytes(), scanner.frames());
    (out.at_boundary, out.mid_frame) = (scanner.at_boundary(), scanner.mid_frame());
    out.mid_message = scanner.mid_message();
    out
}

fn check(case: &Case, expected: &Reading, found: &Outcome, whole: bool) {
    assert_eq!(found.controls, expected.controls);
    match found.violation {
        None => assert_eq!(expected.faults, []),
        Some(violation) => assert!(expected.faults.contains(&violation), "{violation:?} of {:?}", expected.faults),
    }
    // A message that is refused in its first frame counts where some of it had passed before.
    let uncounted = expected.refused_first && found.passed.len() == expected.passed.len();
    assert_eq!((found.messages + u64::from(uncounted), found.frames), (expected.messages, expected.frames));
    assert!(!found.mid_frame || found.violation.is_none());
    if found.violation == Some(Violation::TextNotUtf8) {
        // How much of the text had passed depends on the cuts, but in one piece it is nothing.
        let Reading { passed, refused, .. } = expected;
        assert!(found.passed.starts_with(passed) && [&passed[..], refused].concat().starts_with(&found.passed));
        assert!(!whole || found.passed == *passed);
        return;
    }
    assert!(found.passed == expected.passed, "other bytes have passed");
    assert_eq!(found.bytes, expected.bytes);
    assert_eq!((found.at_boundary, found.mid_frame), (expected.at_boundary, expected.mid_frame));
    if found.violation.is_none() {
        assert_eq!(found.mid_message, expected.mid_message);
    }
    let boundaries = if case.until == Until::Boundary { &expected.boundaries[..] } else { &[] };
    assert_eq!(found.boundaries, boundaries);
}

/// What section 5 says of an input, read naively.
#[derive(Debug, Default)]
pub struct Reading {
    pub passed: Vec<u8>,
    /// What is there of a frame that was refused for its text.
    refused: Vec<u8>,
    /// It is the first one of its message.
    refused_first: bool,
    pub controls: Vec<(Opcode, Vec<u8>)>,
    /// Every fault of the frame that is refused.
    pub faults: Vec<Violation>,
    boundaries: Vec<usize>,
    /// Payloads of whole messages.
    whole: Vec<Vec<u8>>,
    messages: u64,
    bytes: u64,
    frames: u64,
    at_boundary: bool,
    mid_frame: bool,
    mid_message: bool,
    /// The longest length that a frame claimed.
    longest: u64,
}

impl Reading {
    /// Also what may have gone before it was seen that a text is none.
    pub fn may_have_passed(&self) -> Vec<u8> {
        [&self.passed[..], &self.refused].concat()
    }

    /// Those that were counted, and one that was refused at its header.
    pub fn messages_begun(&self) -> u64 {
        self.messages
    }
}

struct Open {
    text: bool,
    claimed: u64,
    fragments: u32,
    payload: Vec<u8>,
}

/// Reads as far as a Close, a fault, or the end.
pub fn read(rules: &Rules, wire: &[u8]) -> Reading {
    let mut out = Reading { at_boundary: true, ..Reading::default() };
    let mut open: Option<Open> = None;
    let mut rest = wire;
    while !rest.is_empty() {
        out.frames += 1;
        let (head, len) = match head(rest) {
            Head::Faulty(fault) => {
                out.faults = vec![fault];
                return out;
            }
            Head::Incomplete => {
                out.mid_frame = true;
                break;
            }
            Head::Whole(head, len) => (head, len),
        };
        out.longest = out.longest.max(head.claimed);
        out.faults = faults(rules, &head, open.as_ref());
        if !out.faults.is_empty() {
            return out;
        }
        let there = usize::try_from(head.claimed).unwrap_or(usize::MAX).min(rest.len() - len);
        let is_whole = there as u64 == head.claimed;
        let mut payload = rest[len..len + there].to_vec();
        for (at, byte) in payload.iter_mut().enumerate() {
            *byte ^= head.key.map_or(0, |key| key[at % 4]);
        }
        let (frame, behind) = rest.split_at(len + there);
        rest = behind;
        if head.opcode >= 8 {
            if !is_whole {
                out.mid_frame = true;
                break;
            }
            if head.opcode == 8 {
                out.faults.extend(close_fault(&payload));
                if !out.faults.is_empty() {
                    return out;
                }
            }
            out.controls.push((Opcode::from_bits(head.opcode).expect("not reserved"), payload));
            if head.opcode == 8 {
                break;
            }
            continue;
        }
        if head.opcode != 0 {
            out.messages += 1;
            let text = head.opcode == 1 && head.rsv == 0 && rules.strict;
            open = Some(Open { text, claimed: 0, fragments: 0, payload: Vec::new() });
        }
        let message = open.as_mut().expect("a continuation has a message");
        message.claimed += head.claimed;
        message.fragments += 1;
        message.payload.extend(payload);
        let is_over = is_whole && head.fin;
        if message.text && !is_text(&message.payload, is_over) {
            out.faults = vec![Violation::TextNotUtf8];
            out.refused = frame.to_vec();
            out.refused_first = head.opcode != 0;
            return out;
        }
        out.passed.extend_from_slice(frame);
        out.bytes += there as u64;
        out.mid_message = !is_over && (!head.fin || head.opcode == 0);
        if !is_whole {
            (out.at_boundary, out.mid_frame) = (false, true);
            break;
        }
        out.boundaries.push(out.passed.len());
        if is_over {
            out.whole.extend(open.take().map(|message| message.payload));
        }
    }
    out
}

struct Frame {
    fin: bool,
    rsv: u8,
    opcode: u8,
    key: Option<[u8; 4]>,
    claimed: u64,
}

enum Head {
    Faulty(Violation),
    Incomplete,
    Whole(Frame, usize),
}

/// Section 5.2, field by field; a fault shows with the byte that makes it one.
fn head(wire: &[u8]) -> Head {
    let opcode = wire[0] % 16;
    if ![0, 1, 2, 8, 9, 10].contains(&opcode) {
        return Head::Faulty(Violation::ReservedOpcode(opcode));
    }
    if wire.len() < 2 {
        return Head::Incomplete;
    }
    let extended = match wire[1] % 128 {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mut len = 2 + extended;
    if wire.len() < len {
        return Head::Incomplete;
    }
    let claimed = match extended {
        0 => u64::from(wire[1] % 128),
        _ => wire[2..len].iter().fold(0, |length, byte| length * 256 + u64::from(*byte)),
    };
    match extended {
        8 if claimed >= 1 << 63 => return Head::Faulty(Violation::LengthTopBit),
        8 if claimed < 65_536 => return Head::Faulty(Violation::LengthNotMinimal),
        2 if claimed < 126 => return Head::Faulty(Violation::LengthNotMinimal),
        _ => {}
    }
    let mut key = None;
    if wire[1] >= 128 {
        len += 4;
        if wire.len() < len {
            return Head::Incomplete;
        }
        key = Some([wire[len - 4], wire[len - 3], wire[len - 2], wire[len - 1]]);
    }
    Head::Whole(Frame { fin: wire[0] >= 128, rsv: wire[0] / 16 % 8, opcode, key, claimed }, len)
}

/// Everything that is wrong with a frame, as its header tells.
fn faults(rules: &Rules, head: &Frame, open: Option<&Open>) -> Vec<Violation> {
    let (claimed, fragments) = open.map_or((0, 0), |open| (open.claimed, open.fragments));
    let is_control = head.opcode >= 8;
    let compressed = head.rsv == 4 && rules.deflate && (head.opcode == 1 || head.opcode == 2);
    let is_first = !is_control && head.opcode != 0;
    [
        (head.rsv != 0 && !compressed, Violation::ReservedBits),
        (rules.masked && head.key.is_none(), Violation::NotMasked),
        (!rules.masked && head.key.is_some(), Violation::Masked),
        (is_control && !head.fin, Violation::ControlFragmented),
        (is_control && head.claimed > 125, Violation::ControlTooLong),
        (head.opcode == 0 && open.is_none(), Violation::ContinuationWithoutStart),
        (is_first && open.is_some(), Violation::StartInsideMessage),
        (!is_control && head.claimed > rules.frame_bytes_max, Violation::FrameTooBig),
        (
            !is_control && claimed.checked_add(head.claimed).is_none_or(|sum| sum > rules.message_bytes_max),
            Violation::MessageTooBig,
        ),
        (
            head.opcode == 0 && rules.fragments_max.is_some_and(|max| fragments + 1 > max.get()),
            Violation::TooManyFragments,
        ),
    ]
    .into_iter()
    .filter_map(|(holds, fault)| holds.then_some(fault))
    .collect()
}

/// Sections 5.5.1 and 7.4.
fn close_fault(payload: &[u8]) -> Option<Violation> {
    let code = match payload {
        [] => return None,
        [_] => return Some(Violation::CloseOneByte),
        [high, low, ..] => u16::from(*high) * 256 + u16::from(*low),
    };
    let registered = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014];
    if !registered.contains(&code) && !(3000..5000).contains(&code) {
        return Some(Violation::CloseCode(code));
    }
    std::str::from_utf8(&payload[2..]).is_err().then_some(Violation::CloseReasonNotUtf8)
}

/// Whether these bytes can be the beginning of a text, or are a whole one.
fn is_text(bytes: &[u8], whole: bool) -> bool {
    match std::str::from_utf8(bytes) {
        Ok(_) => true,
        Err(error) => !whole && error.error_len().is_none(),
    }
}

/// What tungstenite makes of the same bytes.
#[derive(Debug, Default)]
struct Theirs {
    messages: Vec<Vec<u8>>,
    controls: Vec<(Opcode, Vec<u8>)>,
    refused: bool,
}

/// The bytes to read; what is written is dropped.
pub struct Tape<'a>(pub Cursor<&'a [u8]>);

impl Read for Tape<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out)
    }
}

impl Write for Tape<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Beyond this, tungstenite refuses a frame; no input is as long.
const THEIR_MAX: u64 = 1 << 20;

fn tungstenite(masked: bool, wire: &[u8]) -> Theirs {
    let role = if masked { Role::Server } else { Role::Client };
    let config = WebSocketConfig::default()
        .read_buffer_size(4096)
        .write_buffer_size(0)
        .max_frame_size(Some(THEIR_MAX as usize))
        .max_message_size(None);
    let mut context = WebSocketContext::new(role, Some(config));
    let mut tape = Tape(Cursor::new(wire));
    let mut theirs = Theirs::default();
    loop {
        match context.read(&mut tape) {
            Ok(Message::Text(text)) => theirs.messages.push(text.as_bytes().to_vec()),
            Ok(Message::Binary(bytes)) => theirs.messages.push(bytes.to_vec()),
            Ok(Message::Ping(payload)) => theirs.controls.push((Opcode::Ping, payload.to_vec())),
            Ok(Message::Pong(payload)) => theirs.controls.push((Opcode::Pong, payload.to_vec())),
            // How it reports a code that must not be sent.
            Ok(Message::Close(Some(close)))
                if close.code == CloseCode::Protocol && close.reason.as_str() == "Protocol violation" =>
            {
                theirs.refused = true;
                return theirs;
            }
            Ok(Message::Close(close)) => {
                let payload = close.map_or(Vec::new(), |close| {
                    [&u16::from(close.code).to_be_bytes(), close.reason.as_bytes()].concat()
                });
                theirs.controls.push((Opcode::Close, payload));
                return theirs;
            }
            Ok(Message::Frame(_)) => unreachable!("never read"),
            // The end of the input.
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => return theirs,
            Err(Error::Protocol(_) | Error::Utf8(_) | Error::Capacity(_)) => {
                theirs.refused = true;
                return theirs;
            }
            Err(error) => panic!("unexpected: {error}"),
        }
    }
}

/// The known differences: tungstenite refuses 1014 and accepts lengths that are not minimal; it looks at a frame once it is
/// whole, we at each byte.
fn agree(ours: &Reading, theirs: &Theirs, wire: &[u8]) {
    let has_1014 = ours
        .controls
        .last()
        .is_some_and(|(opcode, payload)| *opcode == Opcode::Close && payload.starts_with(&1014_u16.to_be_bytes()));
    let said_as_much = ours.controls.iter().any(|(_, payload)| payload.ends_with(b"Protocol violation"));
    if has_1014 || said_as_much || ours.longest > THEIR_MAX || ours.faults.contains(&Violation::LengthNotMinimal) {
        return;
    }
    let _ = wire;
    assert!(!theirs.refused || !ours.faults.is_empty(), "tungstenite refuses what we let pass: {ours:?}");
    assert!(theirs.controls.starts_with(&ours.controls), "{theirs:?}, ours {ours:?}");
    assert!(theirs.messages.starts_with(&ours.whole), "{theirs:?}, ours {ours:?}");
    if ours.faults.is_empty() {
        assert_eq!((&theirs.controls, &theirs.messages), (&ours.controls, &ours.whole));
    } else if !theirs.refused {
        // It waits for more of a frame that we have seen enough of.
        assert_eq!((theirs.controls.len(), theirs.messages.len()), (ours.controls.len(), ours.whole.len()));
    }
}
