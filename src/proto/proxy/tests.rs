use proptest::prelude::*;

use super::*;

fn whole(address: &str) -> Result<Header, BadHeader> {
    Ok(Header::Client(address.parse().expect("an address")))
}

/// What a reader makes of these bytes when no more come.
fn header(bytes: &[u8]) -> Result<Header, BadHeader> {
    match read(bytes)? {
        Progress::Whole(header, length) => {
            assert_eq!(length, bytes.len(), "all of it is the header");
            Ok(header)
        }
        Progress::Partial(lacks) => panic!("{lacks} bytes are missing of {:?}", String::from_utf8_lossy(bytes)),
    }
}

/// Version 2: a header with this byte for version and command, and for the family.
fn binary(version_and_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("short enough").to_be_bytes();
    [SIGNATURE, &[version_and_command, family], &length, rest].concat()
}

const V4: [u8; 12] = [198, 51, 100, 7, 10, 0, 0, 1, 0x12, 0x34, 0, 80];

fn v6(source: &str) -> Vec<u8> {
    let source: Ipv6Addr = source.parse().expect("an address");
    [&source.octets()[..], &[0; 16], &[0x12, 0x34, 0, 80]].concat()
}

#[test]
fn lines() {
    let longest_known = "PROXY TCP6 ffff:f:f:f:f:f:f:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535";
    let longest =
        "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535";
    assert_eq!(longest.len() + 2, LINE_BYTES_MAX);
    let too_long = format!("{longest}0");
    #[rustfmt::skip]
    let rows: Vec<(&str, &str, Result<Header, BadHeader>)> = vec![
        ("IPv4", "PROXY TCP4 198.51.100.7 10.0.0.1 4711 443", whole("198.51.100.7")),
        ("IPv6", "PROXY TCP6 2001:db8::7 fd00::1 4711 443", whole("2001:db8::7")),
        ("IPv6 at its longest", longest_known, whole("ffff:f:f:f:f:f:f:ffff")),
        ("IPv4 written as IPv6", "PROXY TCP6 ::ffff:198.51.100.7 ::ffff:10.0.0.1 1 2", whole("198.51.100.7")),
        ("port 0 and port 65535", "PROXY TCP4 198.51.100.7 10.0.0.1 0 65535", whole("198.51.100.7")),
        ("unknown", "PROXY UNKNOWN", Ok(Header::Unknown)),
        ("unknown, with what is to be ignored", longest, Ok(Header::Unknown)),
        ("unknown, with text that is no address", "PROXY UNKNOWN x  y", Ok(Header::Unknown)),
        ("longer than a line may be", &too_long, Err(BadHeader::TooLong)),
        ("port 65536", "PROXY TCP4 198.51.100.7 10.0.0.1 65536 443", Err(BadHeader::Line)),
        ("port 65536 of the destination", "PROXY TCP4 198.51.100.7 10.0.0.1 4711 65536", Err(BadHeader::Line)),
        ("a port with a sign", "PROXY TCP4 198.51.100.7 10.0.0.1 +4711 443", Err(BadHeader::Line)),
        ("a negative port", "PROXY TCP4 198.51.100.7 10.0.0.1 -1 443", Err(BadHeader::Line)),
        ("a port with a leading zero", "PROXY TCP4 198.51.100.7 10.0.0.1 04711 443", Err(BadHeader::Line)),
        ("a port in hexadecimal", "PROXY TCP4 198.51.100.7 10.0.0.1 0x50 443", Err(BadHeader::Line)),
        ("no port of the destination", "PROXY TCP4 198.51.100.7 10.0.0.1 4711", Err(BadHeader::Line)),
        ("no ports", "PROXY TCP4 198.51.100.7 10.0.0.1", Err(BadHeader::Line)),
        ("no addresses", "PROXY TCP4", Err(BadHeader::Line)),
        ("no family", "PROXY ", Err(BadHeader::Line)),
        ("an address with leading zeros", "PROXY TCP4 198.051.100.007 10.0.0.1 4711 443", Err(BadHeader::Line)),
        ("an address that is too large", "PROXY TCP4 198.51.100.256 10.0.0.1 4711 443", Err(BadHeader::Line)),
        ("a short address", "PROXY TCP4 198.51.7 10.0.0.1 4711 443", Err(BadHeader::Line)),
        ("an address as a number", "PROXY TCP4 3325256711 10.0.0.1 4711 443", Err(BadHeader::Line)),
        ("a bad destination", "PROXY TCP4 198.51.100.7 10.0.0 4711 443", Err(BadHeader::Line)),
        ("IPv6 as TCP4", "PROXY TCP4 2001:db8::7 fd00::1 4711 443", Err(BadHeader::Line)),
        ("IPv4 as TCP6", "PROXY TCP6 198.51.100.7 10.0.0.1 4711 443", Err(BadHeader::Line)),
        ("two families", "PROXY TCP4 198.51.100.7 fd00::1 4711 443", Err(BadHeader::Line)),
        ("IPv6 in brackets", "PROXY TCP6 [2001:db8::7] fd00::1 4711 443", Err(BadHeader::Line)),
        ("IPv6 with a zone", "PROXY TCP6 fe80::1%eth0 fd00::1 4711 443", Err(BadHeader::Line)),
        ("a host name", "PROXY TCP4 localhost 10.0.0.1 4711 443", Err(BadHeader::Line)),
        ("two spaces", "PROXY TCP4  198.51.100.7 10.0.0.1 4711 443", Err(BadHeader::Line)),
        ("a space at the end", "PROXY TCP4 198.51.100.7 10.0.0.1 4711 443 ", Err(BadHeader::Line)),
        ("a tab", "PROXY TCP4\t198.51.100.7 10.0.0.1 4711 443", Err(BadHeader::Line)),
        ("one more field", "PROXY TCP4 198.51.100.7 10.0.0.1 4711 443 1", Err(BadHeader::Line)),
        ("a family in lower case", "PROXY tcp4 198.51.100.7 10.0.0.1 4711 443", Err(BadHeader::Line)),
        ("another family", "PROXY UDP4 198.51.100.7 10.0.0.1 4711 443", Err(BadHeader::Line)),
        ("a longer word than unknown", "PROXY UNKNOWNS", Err(BadHeader::Line)),
        ("a NUL", "PROXY TCP4 198.51.100.7\0 10.0.0.1 4711 443", Err(BadHeader::Line)),
        ("not ASCII", "PROXY TCP4 198.51.100.７ 10.0.0.1 4711 443", Err(BadHeader::Line)),
        ("a line feed within", "PROXY TCP4 198.51.100.7\n10.0.0.1 4711 443", Err(BadHeader::Line)),
        ("a carriage return within", "PROXY TCP4 198.51.100.7\r10.0.0.1 4711 443", Err(BadHeader::Line)),
        ("the word in lower case", "proxy TCP4 198.51.100.7 10.0.0.1 4711 443", Err(BadHeader::Missing)),
        ("a space before the word", " PROXY TCP4 198.51.100.7 10.0.0.1 4711 443", Err(BadHeader::Missing)),
        ("a longer word", "PROXYING", Err(BadHeader::Missing)),
        ("HTTP", "GET / HTTP/1.1", Err(BadHeader::Missing)),
        ("HTTP with a method that begins like it", "PROPFIND / HTTP/1.1", Err(BadHeader::Missing)),
    ];
    for (name, line, expected) in rows {
        assert_eq!(header(format!("{line}\r\n").as_bytes()), expected, "{name}");
    }
    assert_eq!(header(b"PROXY TCP4 198.51.100.7 10.0.0.1 4711 443\n"), Err(BadHeader::Line), "a bare line feed");
    let garbage = [b"PROXY TCP4 ".as_slice(), &[0xff; 200]].concat();
    assert_eq!(header(&garbage), Err(BadHeader::TooLong), "a line that never ends");
}

#[test]
fn binaries() {
    let crc_that_is_wrong = [&V4[..], &[3, 0, 4, 0xde, 0xad, 0xbe, 0xef]].concat();
    let extensions = [&V4[..], &[2, 0, 3, b'a', b'.', b'b', 4, 0, 0, 0xea, 0, 1, 0xff]].concat();
    let cut_extension = [&V4[..], &[2, 0, 9, b'a']].concat();
    let cut_head = [&V4[..], &[2, 0]].concat();
    let padding = BINARY_BYTES_MAX - FIXED - V4.len() - 3;
    let padded = [&V4[..], &[4], &u16::try_from(padding).expect("short").to_be_bytes(), &vec![0; padding]].concat();
    let unix = [&b"/run/client.sock"[..], &[0; 200]].concat();
    #[rustfmt::skip]
    let rows: Vec<(&str, Vec<u8>, Result<Header, BadHeader>)> = vec![
        ("TCP over IPv4", binary(0x21, 0x11, &V4), whole("198.51.100.7")),
        ("TCP over IPv6", binary(0x21, 0x21, &v6("2001:db8::7")), whole("2001:db8::7")),
        ("IPv4 written as IPv6", binary(0x21, 0x21, &v6("::ffff:198.51.100.7")), whole("198.51.100.7")),
        ("a Unix socket", binary(0x21, 0x31, &unix), Ok(Header::Unknown)),
        ("UDP over IPv4", binary(0x21, 0x12, &V4), Ok(Header::Unknown)),
        ("UDP over IPv6", binary(0x21, 0x22, &v6("2001:db8::7")), Ok(Header::Unknown)),
        ("a Unix datagram", binary(0x21, 0x32, &unix), Ok(Header::Unknown)),
        ("unspecified", binary(0x21, 0x00, &[]), Ok(Header::Unknown)),
        ("unspecified, with bytes to ignore", binary(0x21, 0x00, &[1, 2, 3]), Ok(Header::Unknown)),
        ("local", binary(0x20, 0x00, &[]), Ok(Header::Local)),
        ("local, with addresses to ignore", binary(0x20, 0x11, &V4), Ok(Header::Local)),
        ("local, with a family that is none", binary(0x20, 0xff, &[7; 5]), Ok(Header::Local)),
        ("extensions", binary(0x21, 0x11, &extensions), whole("198.51.100.7")),
        ("an extension with a checksum: not looked at", binary(0x21, 0x11, &crc_that_is_wrong), whole("198.51.100.7")),
        ("an extension up to the longest header", binary(0x21, 0x11, &padded), whole("198.51.100.7")),
        ("an extension that is cut", binary(0x21, 0x11, &cut_extension), Err(BadHeader::Extensions)),
        ("an extension without its length", binary(0x21, 0x11, &cut_head), Err(BadHeader::Extensions)),
        ("one byte behind the addresses", binary(0x21, 0x11, &[&V4[..], &[0]].concat()), Err(BadHeader::Extensions)),
        ("one byte too short for IPv4", binary(0x21, 0x11, &V4[..11]), Err(BadHeader::TooShort)),
        ("nothing where IPv4 is promised", binary(0x21, 0x11, &[]), Err(BadHeader::TooShort)),
        ("IPv4 where IPv6 is promised", binary(0x21, 0x21, &V4), Err(BadHeader::TooShort)),
        ("a short Unix address", binary(0x21, 0x31, &[b'/'; 215]), Err(BadHeader::TooShort)),
        ("version 1 in binary", binary(0x11, 0x11, &V4), Err(BadHeader::Version(1))),
        ("version 3", binary(0x31, 0x11, &V4), Err(BadHeader::Version(3))),
        ("version 0", binary(0x01, 0x11, &V4), Err(BadHeader::Version(0))),
        ("another command", binary(0x22, 0x11, &V4), Err(BadHeader::Command(2))),
        ("the last command", binary(0x2f, 0x11, &V4), Err(BadHeader::Command(15))),
        ("a family without a transport", binary(0x21, 0x10, &V4), Err(BadHeader::Family(0x10))),
        ("a transport without a family", binary(0x21, 0x01, &V4), Err(BadHeader::Family(0x01))),
        ("another transport", binary(0x21, 0x13, &V4), Err(BadHeader::Family(0x13))),
        ("another family", binary(0x21, 0x41, &V4), Err(BadHeader::Family(0x41))),
        ("4,081 bytes behind the head", binary(0x21, 0x11, &[0; 4081]), Err(BadHeader::TooLong)),
        ("the longest length that can be written", binary(0x20, 0x00, &[0; 65_535]), Err(BadHeader::TooLong)),
        ("another signature", [b"\r\n\r\n\0\r\nQUIT\r".as_slice(), &[0x21, 0x11, 0, 12], &V4].concat(),
            Err(BadHeader::Missing)),
        ("an empty line", b"\r\n\r\nGET / HTTP/1.1\r\n".to_vec(), Err(BadHeader::Missing)),
    ];
    for (name, bytes, expected) in rows {
        assert_eq!(header(&bytes), expected, "{name}");
    }
}

#[test]
fn what_is_no_header_is_seen_at_its_first_wrong_byte() {
    #[rustfmt::skip]
    let rows: [(&[u8], BadHeader); 8] = [
        (b"G", BadHeader::Missing),
        (&[22], BadHeader::Missing),
        (b"PROXYx", BadHeader::Missing),
        (b"\r\n\r\nG", BadHeader::Missing),
        (b"PROXY \n", BadHeader::Line),
        (b"PROXY TCP4\r\n", BadHeader::Line),
        (b"\r\n\r\n\0\r\nQUIT\n\x31", BadHeader::Version(3)),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", BadHeader::TooLong),
    ];
    for (bytes, expected) in rows {
        assert_eq!(read(bytes), Err(expected), "{bytes:?}");
        for cut in 0..bytes.len() {
            assert!(matches!(read(&bytes[..cut]), Ok(Progress::Partial(1..))), "{cut} bytes of {bytes:?}");
        }
    }
}

#[test]
fn nothing_yet_is_as_much_as_the_shortest_header() {
    assert_eq!(read(b""), Ok(Progress::Partial(SHORTEST)));
}

/// Each step is a system call of the reader's.
#[test]
fn a_line_takes_few_steps() {
    let long = "PROXY TCP6 ffff:f:f:f:f:f:f:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    for (line, most) in [("PROXY TCP4 198.51.100.7 10.0.0.1 4711 443\r\n", 8), (long, 18), ("PROXY UNKNOWN\r\n", 1)] {
        let (mut taken, mut steps) = (0, 0);
        while let Ok(Progress::Partial(lacks)) = read(&line.as_bytes()[..taken]) {
            (taken, steps) = (taken + lacks, steps + 1);
        }
        assert!(taken == line.len() && steps <= most, "{steps} steps for {line}");
    }
}

/// A right header and what it says.
fn headers() -> impl Strategy<Value = (Vec<u8>, Header)> {
    let v4 = any::<(u32, u32, u16, u16)>();
    let v6 = any::<(u128, u128, u16, u16)>();
    let extensions = prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..300)), 0..4);
    let extensions = extensions.prop_map(|list| {
        let bytes = |(kind, value): (u8, Vec<u8>)| {
            [&[kind], &u16::try_from(value.len()).expect("short").to_be_bytes()[..], &value].concat()
        };
        list.into_iter().flat_map(bytes).collect::<Vec<u8>>()
    });
    let says = |address: IpAddr| Header::Client(address.to_canonical());
    prop_oneof![
        v4.prop_map(move |(source, destination, from, to)| {
            let [source, destination] = [source, destination].map(Ipv4Addr::from);
            (format!("PROXY TCP4 {source} {destination} {from} {to}\r\n").into_bytes(), says(source.into()))
        }),
        v6.prop_map(move |(source, destination, from, to)| {
            let [source, destination] = [source, destination].map(Ipv6Addr::from);
            (format!("PROXY TCP6 {source} {destination} {from} {to}\r\n").into_bytes(), says(source.into()))
        }),
        "[ -~]{0,91}".prop_map(|rest| (format!("PROXY UNKNOWN {rest}\r\n").into_bytes(), Header::Unknown)),
        (any::<(u32, [u8; 8])>(), extensions.clone()).prop_map(move |((source, rest), extensions)| {
            let source = Ipv4Addr::from(source);
            (binary(0x21, 0x11, &[&source.octets()[..], &rest, &extensions].concat()), says(source.into()))
        }),
        (any::<(u128, [u8; 20])>(), extensions).prop_map(move |((source, rest), extensions)| {
            let source = Ipv6Addr::from(source);
            (binary(0x21, 0x21, &[&source.octets()[..], &rest, &extensions].concat()), says(source.into()))
        }),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(|rest| (binary(0x20, 0, &rest), Header::Local)),
    ]
}

proptest! {
    #[test]
    fn a_header_is_found_whatever_stands_behind_it((bytes, says) in headers(), behind: Vec<u8>) {
        let stream = [&bytes[..], &behind].concat();
        prop_assert_eq!(read(&stream), Ok(Progress::Whole(says, bytes.len())));
    }

    #[test]
    fn no_more_is_asked_for_than_belongs_to_the_header((bytes, _) in headers()) {
        for cut in 0..bytes.len() {
            match read(&bytes[..cut]) {
                Ok(Progress::Partial(lacks)) => prop_assert!((1..=bytes.len() - cut).contains(&lacks), "{} at {}", lacks, cut),
                other => prop_assert!(false, "{:?} at {}", other, cut),
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(start in 0..4usize, bytes: Vec<u8>) {
        let starts: [&[u8]; 4] = [b"", b"PROXY TCP4 ", SIGNATURE, &[SIGNATURE, &[0x21, 0x11, 0]].concat()];
        let bytes = [starts[start], &bytes].concat();
        match read(&bytes) {
            Ok(Progress::Whole(_, length)) => prop_assert!(length <= bytes.len() && length <= BINARY_BYTES_MAX),
            Ok(Progress::Partial(lacks)) => prop_assert!(lacks > 0 && bytes.len() + lacks <= BINARY_BYTES_MAX),
            Err(_) => {}
        }
    }

    /// Text that is nearly right: the sums of its length are what could go wrong.
    #[test]
    fn any_line_is_read_or_refused(line in "PROXY (TCP4|TCP6|UNKNOWN|.{0,9}) [0-9a-f.: ]{0,120}(\r\n|\r|\n)?") {
        match read(line.as_bytes()) {
            Ok(Progress::Whole(_, length)) => prop_assert!(length <= LINE_BYTES_MAX),
            Ok(Progress::Partial(lacks)) => prop_assert!(lacks > 0 && line.len() + lacks <= LINE_BYTES_MAX),
            Err(_) => {}
        }
    }
}
