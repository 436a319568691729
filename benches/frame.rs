//! What the scanner costs per frame, beside tungstenite's header parser on the same bytes.
//!
//! `cargo bench --bench frame`. Names carry the payload's size; `elem` is one frame, or one header.

use std::hint::black_box;
use std::io::Cursor;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use tidegate::proto::frame::{self, HEADER_MAX, Header, Opcode, Parsed};
use tidegate::proto::scan::{Rules, Scanner, Until};
use tungstenite::protocol::frame::FrameHeader;

/// What the relay reads at once.
const INPUT: usize = 64 * 1024;
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

const CLIENT: Rules = Rules {
    masked: true,
    deflate: false,
    frame_bytes_max: 1 << 20,
    message_bytes_max: 1 << 24,
    fragments_max: None,
    strict: false,
};
const STRICT: Rules = Rules { strict: true, ..CLIENT };

fn text_frame(key: Option<[u8; 4]>, payload_len: usize) -> Vec<u8> {
    let header = Header { fin: true, rsv: 0, opcode: Opcode::Text, mask: key, payload_len: payload_len as u64 };
    let mut head = [0; HEADER_MAX];
    let len = header.format(&mut head);
    let mut payload: Vec<u8> = (b' '..b'~').cycle().take(payload_len).collect();
    if let Some(key) = key {
        frame::mask(key, 0, &mut payload);
    }
    [&head[..len], &payload].concat()
}

/// As many whole frames as an input has room for, and how many those are.
fn input_of_frames(key: Option<[u8; 4]>, payload_len: usize) -> (Vec<u8>, u64) {
    let frame = text_frame(key, payload_len);
    let count = INPUT / frame.len();
    (frame.repeat(count), count as u64)
}

fn scan(scanner: &mut Scanner, input: &[u8]) {
    let step = scanner.scan(black_box(input), Until::Event);
    assert!(step.pass == input.len() && step.event.is_none());
}

fn frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("scan");
    for (name, rules) in
        [("frames", CLIENT), ("strict", STRICT), ("strict_unmasked", Rules { masked: false, ..STRICT })]
    {
        for payload_len in [32, 128, 1024] {
            let (input, count) = input_of_frames(rules.masked.then_some(KEY), payload_len);
            group.throughput(Throughput::Elements(count));
            group.bench_function(BenchmarkId::new(name, payload_len), |b| {
                let mut scanner = Scanner::new(rules);
                b.iter(|| scan(&mut scanner, &input));
            });
        }
    }
    // One message per read: the fixed cost of a step.
    let single = text_frame(Some(KEY), 128);
    group.throughput(Throughput::Elements(1));
    group.bench_function(BenchmarkId::new("one_frame", 128), |b| {
        let mut scanner = Scanner::new(CLIENT);
        b.iter(|| scan(&mut scanner, &single));
    });
    let cut = text_frame(Some(KEY), 128);
    group.bench_function(BenchmarkId::new("cut_in_header", 128), |b| {
        let mut scanner = Scanner::new(CLIENT);
        b.iter(|| {
            let first = scanner.scan(black_box(&cut[..3]), Until::Event);
            let second = scanner.scan(black_box(&cut[3..]), Until::Event);
            assert!(first.pass == 0 && second.pass == cut.len() - 3 && second.held.as_ref().len() == 3);
        });
    });
    group.finish();
}

fn stream(c: &mut Criterion) {
    let mut group = c.benchmark_group("scan_1MiB_frame_in_64KiB_pieces");
    let frame = text_frame(Some(KEY), 1 << 20);
    group.throughput(Throughput::Bytes(frame.len() as u64));
    for (name, rules) in [("frame", CLIENT), ("strict", STRICT)] {
        group.bench_function(name, |b| {
            let mut scanner = Scanner::new(rules);
            b.iter(|| frame.chunks(INPUT).for_each(|piece| scan(&mut scanner, piece)));
        });
    }
    group.finish();
}

fn mask(c: &mut Criterion) {
    let mut group = c.benchmark_group("mask");
    for len in [16, 128, 1024, INPUT] {
        let mut bytes = vec![0x5a; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::from_parameter(len), |b| {
            b.iter(|| frame::mask(black_box(KEY), 1, black_box(&mut bytes)));
        });
    }
    group.finish();
}

fn headers(c: &mut Criterion) {
    let mut group = c.benchmark_group("header_parse");
    for (name, payload_len) in [("7-bit", 64), ("16-bit", 1024), ("64-bit", 1 << 20)] {
        let bytes = text_frame(Some(KEY), payload_len);
        let bytes = &bytes[..HEADER_MAX];
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("ours", name), |b| {
            b.iter(|| {
                let parsed = Header::parse(black_box(bytes));
                assert!(matches!(parsed, Parsed::Whole(..)));
                parsed
            });
        });
        group.bench_function(BenchmarkId::new("tungstenite", name), |b| {
            b.iter(|| {
                FrameHeader::parse(&mut Cursor::new(black_box(bytes))).expect("a good header").expect("a whole header")
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
        .configure_from_args();
    frames(&mut criterion);
    stream(&mut criterion);
    mask(&mut criterion);
    headers(&mut criterion);
    criterion.final_summary();
}
