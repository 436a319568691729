//! The PROXY protocol: a header is found whatever the cuts, no byte behind it is asked for, and it says what a naive
//! reading says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tidegate::proto::proxy::{BINARY_BYTES_MAX, BadHeader, Header, Progress, read};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

pub fn run(data: &[u8]) {
    let whole = read(data);
    naive(data, &whole);
    // Fed as the listener feeds it: never more than is known to be missing.
    let mut have = 0;
    let piecewise = loop {
        match read(&data[..have]) {
            Ok(Progress::Partial(lacks)) => {
                assert!(lacks > 0, "it asks for nothing");
                if have + lacks > data.len() {
                    break Ok(Progress::Partial(lacks));
                }
                have += lacks;
            }
            other => break other,
        }
    };
    match (&whole, &piecewise) {
        (Ok(Progress::Whole(header, len)), Ok(Progress::Whole(same, at))) => {
            assert_eq!((header, len), (same, at));
            assert_eq!(have, *len, "a byte behind the header was taken");
        }
        (Ok(Progress::Partial(_)), Ok(Progress::Partial(_))) | (Err(_), Err(_)) => {}
        // A fault shows with a byte that was not asked for yet.
        (Err(_), Ok(Progress::Partial(_))) => {}
        _ => panic!("{whole:?} at once, {piecewise:?} in pieces"),
    }
    cuts(data, &whole);
}

/// Every beginning of the input comes to the same.
fn cuts(data: &[u8], whole: &Result<Progress, BadHeader>) {
    let end = match whole {
        Ok(Progress::Whole(_, len)) => *len,
        _ => data.len(),
    };
    // All of them where that is quick, else those about the ends.
    let cuts = (0..end.min(240)).chain(end.saturating_sub(16).max(240)..end);
    let mut failed = false;
    for cut in cuts {
        let found = read(&data[..cut]);
        match found {
            Ok(Progress::Partial(lacks)) => {
                assert!(!failed, "a fault went away");
                assert!(lacks > 0);
                if matches!(whole, Ok(Progress::Whole(..))) {
                    assert!(cut + lacks <= end, "{lacks} more are asked for at {cut} of {end}");
                }
            }
            Ok(Progress::Whole(..)) => panic!("a header within a header: {cut} of {end}"),
            Err(_) => {
                assert!(whole.is_err(), "a beginning is refused, the whole is not");
                failed = true;
            }
        }
    }
}

fn naive(data: &[u8], found: &Result<Progress, BadHeader>) {
    let expected = if data.starts_with(SIGNATURE) { binary(data) } else { line(data) };
    match (expected, found) {
        (Some((header, len)), Ok(Progress::Whole(same, at))) => assert_eq!((&header, &len), (same, at)),
        (None, Ok(Progress::Whole(header, len))) => panic!("{header:?} of {len} bytes is none"),
        (Some(header), other) => panic!("{header:?} was not seen: {other:?}"),
        (None, _) => {}
    }
}

/// Section 2.1.
fn line(data: &[u8]) -> Option<(Header, usize)> {
    let end = data.iter().take(107).position(|byte| *byte == b'\n')?;
    let line = std::str::from_utf8(&data[..=end]).ok()?.strip_suffix("\r\n")?;
    if line.contains('\r') {
        return None;
    }
    let rest = line.strip_prefix("PROXY ")?;
    let len = end + 1;
    if rest == "UNKNOWN" || rest.starts_with("UNKNOWN ") {
        return Some((Header::Unknown, len));
    }
    let fields: Vec<&str> = rest.split(' ').collect();
    let [family, source, destination, from, to] = fields.as_slice() else { return None };
    for port in [from, to] {
        let number: u16 = port.parse().ok()?;
        if number.to_string() != **port {
            return None;
        }
    }
    let addresses = [source.parse::<IpAddr>().ok()?, destination.parse::<IpAddr>().ok()?];
    let fits = match *family {
        "TCP4" => addresses.iter().all(IpAddr::is_ipv4),
        "TCP6" => addresses.iter().all(IpAddr::is_ipv6),
        _ => false,
    };
    fits.then(|| (Header::Client(addresses[0].to_canonical()), len))
}

/// Section 2.2.
fn binary(data: &[u8]) -> Option<(Header, usize)> {
    let behind = &data[SIGNATURE.len()..];
    let (command, family) = (*behind.first()?, *behind.get(1)?);
    let length = usize::from(*behind.get(2)?) * 256 + usize::from(*behind.get(3)?);
    let len = SIGNATURE.len() + 4 + length;
    let payload = behind.get(4..4 + length)?;
    if len > BINARY_BYTES_MAX {
        return None;
    }
    match command {
        0x20 => return Some((Header::Local, len)),
        0x21 => {}
        _ => return None,
    }
    let (addresses, header) = match family {
        0x00 => return Some((Header::Unknown, len)),
        0x11 => (12, Header::Client(Ipv4Addr::from(*payload.first_chunk::<4>()?).into())),
        0x21 => (36, Header::Client(IpAddr::from(Ipv6Addr::from(*payload.first_chunk::<16>()?)).to_canonical())),
        0x12 => (12, Header::Unknown),
        0x22 => (36, Header::Unknown),
        0x31 | 0x32 => (216, Header::Unknown),
        _ => return None,
    };
    let mut extensions = payload.get(addresses..)?;
    while !extensions.is_empty() {
        let value = usize::from(*extensions.get(1)?) * 256 + usize::from(*extensions.get(2)?);
        extensions = extensions.get(3 + value..)?;
    }
    Some((header, len))
}
