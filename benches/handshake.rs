//! What the pure part of an opening handshake costs: every check between a parsed head and the dial, and the limits.
//!
//! `cargo bench --bench handshake`. A browser's request against a configuration of 1 or 100 routes.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion};
use http::request::Parts;
use http::{Request, Version};
use tidegate::config::{
    self,
    model::{ClientBy, Config, TrustedProxies},
};
use tidegate::limits::{Asking, Limits};
use tidegate::policy::client::{self, ClientKey, Identities, Peer};
use tidegate::policy::{origin, route};
use tidegate::proto::fields::{self, Hop, Passed};
use tidegate::proto::handshake;

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

/// What Chromium sends, with a cookie.
fn request(path: &str) -> Parts {
    let request = Request::builder()
        .uri(path)
        .version(Version::HTTP_11)
        .header("Host", "chat.example.com")
        .header("Connection", "Upgrade")
        .header("Pragma", "no-cache")
        .header("Cache-Control", "no-cache")
        .header("User-Agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0")
        .header("Upgrade", "websocket")
        .header("Origin", "https://chat.example.com")
        .header("Sec-WebSocket-Version", "13")
        .header("Accept-Encoding", "gzip, deflate, br, zstd")
        .header("Accept-Language", "en-GB,en;q=0.9")
        .header("Cookie", "session=4f1c0f6b7a1d4b1e9f5d2a6c8e0b3d57")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")
        .header("Sec-WebSocket-Protocol", "chat.v2, chat.v1");
    request.body(()).expect("a request").into_parts().0
}

fn configuration(routes: usize) -> Config {
    let mut text = "[limits]\nsessions_per_client = 1000\nhandshakes_per_client = \"1000000/s\"\n\
                    [[listener]]\naddress = \"127.0.0.1:0\"\n[upstream.a]\nservers = [\"ws://127.0.0.1:1\"]\n"
        .to_owned();
    for number in 1..=routes {
        text += &format!(
            "[[route]]\nhost = \"chat.example.com\"\npath = \"/room-{number}\"\nupstream = \"a\"\n\
             origins = [\"https://*.example.com\"]\nsubprotocols = [\"chat.v1\", \"chat.v2\"]\n"
        );
    }
    config::parse(&text, Path::new("bench.toml")).expect("a right configuration").config
}

/// The walk of `http::gate` up to the dial, without its sockets.
fn checks(mut parts: Parts, config: &Config) -> Parts {
    let host = fields::host(&parts).expect("a host");
    let route = route::find(&config.routes, &host, &parts).expect("a route");
    let nobody = TrustedProxies::default();
    let client = client::identify(Peer::new(PEER.into(), &nobody), &nobody, &parts.headers);
    black_box(client.keys(&ClientBy::Address, &parts, 64, &Identities::default()));
    let hop = Hop { peer: Some(PEER), trusted_peer: client.trusted_peer, tls: true, host: &host };
    let offer = handshake::read(&parts).expect("an offer");
    let asked = fields::asked(&parts.headers, &hop);
    origin::check(&route.origins, &parts.headers, asked.secure, &asked.host).expect("an allowed origin");
    let passed = Passed { host: None, subprotocols: &offer.subprotocols, deflate: &offer.deflate };
    fields::upstream_headers(&mut parts.headers, &hop, &passed);
    parts
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let mut group = criterion.benchmark_group("handshake");
    for routes in [1, 100] {
        let config = configuration(routes);
        let path = format!("/room-{routes}/garden?token=abc");
        group.bench_function(BenchmarkId::new("checks", format!("{routes} routes")), |bench| {
            bench.iter_batched(|| request(&path), |parts| checks(parts, &config), BatchSize::SmallInput);
        });
    }
    let parts = request("/room-1");
    group.bench_function("read the offer", |bench| bench.iter(|| handshake::read(black_box(&parts))));
    group.bench_function("accept key", |bench| bench.iter(|| handshake::accept(black_box("dGhlIHNhbXBsZSBub25jZQ=="))));
    let config = configuration(1);
    let limits = Limits::new(&config);
    let (keys, listener) = ([ClientKey::from(PEER)], limits.listener(0));
    let asking = Asking { keys: &keys, listener: &listener, route: limits.route(&config.routes[0].name) };
    group.bench_function("limits, taken and given back", |bench| {
        bench.iter(|| limits.enter(black_box(&asking)).is_ok())
    });
    group.finish();
    criterion.final_summary();
}
