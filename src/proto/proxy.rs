//! The PROXY protocol, versions 1 and 2 (HAProxy's doc/proxy-protocol.txt): whose connection a proxy passes on.
//!
//! In: the first bytes of a connection. Out: a [`Header`] and its length, or how many more bytes belong to it at least,
//! so that a reader which takes no more than those never takes a byte behind the header. No I/O, no clock.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest line of version 1, its end included (section 2.1).
pub const LINE_BYTES_MAX: usize = 107;
/// The longest header of version 2 that is read. An address takes at most 216 bytes; the rest is for extensions.
pub const BINARY_BYTES_MAX: usize = 4096;

/// `PROXY UNKNOWN` and its line end, the shortest header of all.
const SHORTEST: usize = 15;
const LINE_START: &[u8] = b"PROXY ";
/// Section 2.2.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED: usize = 16;

/// What a header says of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// The proxy speaks for itself, as in a health check (`LOCAL`).
    Local,
    /// For a client that has no address which could be told here (`UNKNOWN`, `UNSPEC`, Unix sockets, UDP).
    Unknown,
    /// For the client of this address.
    Client(IpAddr),
}

/// What the first bytes of a connection come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// At least so many bytes of the header are still to come.
    Partial(usize),
    /// The header takes so many bytes.
    Whole(Header, usize),
}

/// Why the first bytes of a connection are no header that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHeader {
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    #[error("its line is malformed")]
    Line,
    #[error("its version is {0}, not 2")]
    Version(u8),
    #[error("its command {0} is unknown")]
    Command(u8),
    #[error("its address family and transport {0:#04x} are unknown")]
    Family(u8),
    #[error("it is too short for its addresses")]
    TooShort,
    #[error("it is too long")]
    TooLong,
    #[error("its extensions do not add up to its length")]
    Extensions,
}

/// Reads a header from the beginning of `bytes`.
///
/// # Errors
/// As soon as the bytes cannot become a header any more; see [`BadHeader`].
pub fn read(bytes: &[u8]) -> Result<Progress, BadHeader> {
    if begins(bytes, SIGNATURE) && !bytes.is_empty() {
        return read_binary(bytes);
    }
    match begins(bytes, LINE_START) {
        true => read_line(bytes),
        false => Err(BadHeader::Missing),
    }
}

/// Whether one of the two is the beginning of the other.
fn begins(bytes: &[u8], signature: &[u8]) -> bool {
    bytes.iter().zip(signature).all(|(byte, expected)| byte == expected)
}

// Version 1: one line of text.

fn read_line(bytes: &[u8]) -> Result<Progress, BadHeader> {
    let within = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = within.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        if within.len() == LINE_BYTES_MAX {
            return Err(BadHeader::TooLong);
        }
        return Ok(Progress::Partial(line_lacks(bytes).min(LINE_BYTES_MAX - bytes.len())));
    };
    match &within[end..] {
        [b'\r', b'\n', ..] => Ok(Progress::Whole(line(&within[..end])?, end + 2)),
        [b'\r'] if within.len() < LINE_BYTES_MAX => Ok(Progress::Partial(1)),
        [b'\r'] => Err(BadHeader::TooLong),
        _ => Err(BadHeader::Line),
    }
}

/// The fewest bytes with which an unfinished line could end.
fn line_lacks(bytes: &[u8]) -> usize {
    const FIELDS: usize = 6;
    const LINE_END: usize = 2;
    let to_the_shortest = SHORTEST.saturating_sub(bytes.len());
    if bytes.len() < SHORTEST || bytes.starts_with(b"PROXY UNKNOWN") {
        return to_the_shortest.max(LINE_END);
    }
    let begun = 1 + bytes.iter().filter(|byte| **byte == b' ').count();
    // A space and one character each, and one for the field that has begun without any.
    2 * FIELDS.saturating_sub(begun) + usize::from(bytes.ends_with(b" ")) + LINE_END
}

/// A line without its end. Strict: one space between two fields, addresses and ports in their one form.
fn line(line: &[u8]) -> Result<Header, BadHeader> {
    let line = std::str::from_utf8(line).map_err(|_| BadHeader::Line)?;
    let fields: Vec<&str> = line.split(' ').collect();
    match fields[..] {
        // What stands behind the word is to be ignored.
        ["PROXY", "UNKNOWN", ..] => Ok(Header::Unknown),
        ["PROXY", "TCP4", source, destination, from, to] => {
            both(source.parse::<Ipv4Addr>(), destination.parse::<Ipv4Addr>(), from, to)
        }
        ["PROXY", "TCP6", source, destination, from, to] => {
            both(source.parse::<Ipv6Addr>(), destination.parse::<Ipv6Addr>(), from, to)
        }
        _ => Err(BadHeader::Line),
    }
}

/// Source and destination must be right; the source is what counts.
fn both<A: Into<IpAddr>, E>(
    source: Result<A, E>,
    destination: Result<A, E>,
    from: &str,
    to: &str,
) -> Result<Header, BadHeader> {
    match (source, destination) {
        (Ok(source), Ok(_)) if is_port(from) && is_port(to) => Ok(client(source)),
        _ => Err(BadHeader::Line),
    }
}

/// Digits without a sign or leading zeros, up to 65535.
fn is_port(text: &str) -> bool {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits && (text == "0" || !text.starts_with('0')) && text.parse::<u16>().is_ok()
}

fn client(address: impl Into<IpAddr>) -> Header {
    Header::Client(address.into().to_canonical())
}

// Version 2: binary.

fn read_binary(bytes: &[u8]) -> Result<Progress, BadHeader> {
    let version_and_command = bytes.get(SIGNATURE.len()).copied();
    if let Some(version) = version_and_command.map(|byte| byte >> 4).filter(|version| *version != 2) {
        return Err(BadHeader::Version(version));
    }
    let Some(fixed) = bytes.get(..FIXED) else {
        // Nothing but a whole signature tells that more than the shortest header may be asked for.
        let wanted = if bytes.len() < SIGNATURE.len() { SHORTEST } else { FIXED };
        return Ok(Progress::Partial(wanted - bytes.len()));
    };
    let [.., command, family, high, low] = *fixed else { unreachable!("it is that long") };
    let end = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if end > BINARY_BYTES_MAX {
        return Err(BadHeader::TooLong);
    }
    // The proxy's own connection: family and addresses are ignored, whatever they are.
    let local = match command & 0x0f {
        0 => true,
        1 => false,
        other => return Err(BadHeader::Command(other)),
    };
    if !local && family_bytes(family)? > end - FIXED {
        return Err(BadHeader::TooShort);
    }
    match bytes.get(FIXED..end) {
        None => Ok(Progress::Partial(end - bytes.len())),
        Some(_) if local => Ok(Progress::Whole(Header::Local, end)),
        Some(rest) => Ok(Progress::Whole(addresses(family, rest)?, end)),
    }
}

/// How many bytes the addresses of a family take.
fn family_bytes(family: u8) -> Result<usize, BadHeader> {
    match family {
        0x00 => Ok(0),
        0x11 | 0x12 => Ok(12),
        0x21 | 0x22 => Ok(36),
        0x31 | 0x32 => Ok(216),
        other => Err(BadHeader::Family(other)),
    }
}

/// `rest` is everything behind the fixed part, and long enough for the family.
fn addresses(family: u8, rest: &[u8]) -> Result<Header, BadHeader> {
    let (addresses, extensions) = rest.split_at(family_bytes(family)?);
    // With UNSPEC nothing tells where extensions would begin.
    if family != 0x00 && !add_up(extensions) {
        return Err(BadHeader::Extensions);
    }
    Ok(match (family, addresses) {
        (0x11, [a, b, c, d, ..]) => client(Ipv4Addr::new(*a, *b, *c, *d)),
        (0x21, _) => addresses.first_chunk::<16>().map_or(Header::Unknown, |source| client(Ipv6Addr::from(*source))),
        // Not TCP: nobody could have come that way to a proxy that passes a byte stream on.
        _ => Header::Unknown,
    })
}

/// Whether extensions (a type, a length of two bytes, a value) fill their place to its end. Section 2.2: what they say
/// may be skipped.
fn add_up(mut extensions: &[u8]) -> bool {
    while let [_, high, low, rest @ ..] = extensions {
        match rest.get(usize::from(u16::from_be_bytes([*high, *low]))..) {
            Some(behind) => extensions = behind,
            None => return false,
        }
    }
    extensions.is_empty()
}

#[cfg(test)]
mod tests;
