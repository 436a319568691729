//! The configuration from outside: whole files, every mistake with its place, and the command line that tells them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use proptest::prelude::*;
use tidegate::config::model::{
    BackendKind, ClientAuth, ClientBy, Config, Drain, HostPattern, KeyPlaces, ListenerAddress, Network, Page, Position,
    Refuse, ServerAddress, Target, TlsVersions,
};
use tidegate::config::{self, Loaded, Problems, Source};

const FILE: &str = "conf/config.toml";

/// A gateway that works: what a row appends or changes is all that can be wrong.
const LISTENER: &str = "[[listener]]\naddress = \"127.0.0.1:8080\"\n";
const ROUTE: &str = "[[route]]\nupstream = \"echo\"\n";
const UPSTREAM: &str = "[upstream.echo]\nservers = [\"ws://127.0.0.1:9001\"]\n";

fn parse(text: &str) -> Result<Loaded, Problems> {
    let known = BTreeMap::from([("PORT", "9100"), ("COUNT", "7"), ("ON", "true"), ("EVIL", "\"\n[admin]\nx = 1")]);
    config::parse_with(text, Path::new(FILE), &|name| known.get(name).map(|value| (*value).to_owned()), &|_| None)
}

#[track_caller]
fn right(text: &str) -> Loaded {
    parse(text).unwrap_or_else(|problems| panic!("{text}\n{problems}"))
}

/// `line:column key: message`, one for each problem.
#[track_caller]
fn wrong(text: &str) -> Vec<String> {
    let problems = parse(text).err().unwrap_or_else(|| panic!("this was accepted:\n{text}"));
    problems.iter().map(|p| format!("{}:{} {}: {}", p.at.line, p.at.column, p.key, p.message)).collect()
}

/// Appended to the right tables, each row gives exactly this one problem.
#[track_caller]
fn rows(before: &str, after: &str, rows: &[(&str, &str)]) {
    for (text, expected) in rows {
        assert_eq!(wrong(&format!("{before}{text}\n{after}")), [*expected], "{text}");
    }
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    let path = repository().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

// Files that are right.

#[test]
fn one_listener_one_route_and_one_upstream_are_a_gateway() {
    let Loaded { config, warnings, .. } = right(&format!("{LISTENER}{ROUTE}{UPSTREAM}"));
    assert_eq!(warnings, []);
    assert_eq!(config.runtime.workers, None);
    assert_eq!((config.limits.sessions, config.limits.connections), (100_000, 120_000));
    let route = &config.routes[0];
    assert_eq!((route.name.as_str(), &route.host, route.path.as_str()), ("/", &HostPattern::Any, "/"));
    let origins = &route.origins;
    assert_eq!((origins.any, origins.none, origins.same_origin, origins.list.len()), (false, true, true, 0));
    assert_eq!(route.refuse, Refuse::Http);
    let heartbeat = route.relay.heartbeat.expect("on by default");
    assert_eq!((heartbeat.interval, heartbeat.timeout), (Duration::from_secs(25), Duration::from_secs(10)));
    assert_eq!((route.relay.frame_bytes_max, route.relay.message_bytes_max), (16 << 20, 64 << 20));
    let Drain { delay, window, grace } = config.drain;
    assert_eq!([delay, window, grace].map(|time| time.as_secs()), [0, 10, 30]);
}

#[test]
fn the_example_is_right() {
    let Loaded { config, warnings, .. } = right(&read("config.toml"));
    assert_eq!(warnings, []);
    let targets: Vec<_> = config
        .routes
        .iter()
        .map(|route| match &route.target {
            Target::Upstream(upstream) => (route.path.as_str(), upstream.name.as_str()),
            Target::Page(Page::Chat) => (route.path.as_str(), "the page"),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(targets, [("/", "the page"), ("/chat", "chat"), ("/echo", "echo"), ("/clock", "clock")]);
    for backend in &config.backends {
        let server = ServerAddress::Tcp { host: backend.listen.ip().to_string(), port: backend.listen.port() };
        let name = match backend.kind {
            BackendKind::Echo => "echo",
            BackendKind::Clock { .. } => "clock",
            BackendKind::Chat { .. } => "chat",
        };
        assert_eq!(config.upstreams[name].servers[0].address, server);
    }
    let tls = config.listeners[1].tls.as_ref().expect("the second listener is wss");
    assert!(config.listeners[0].tls.is_none() && tls.development);
}

#[test]
fn the_printed_defaults_are_the_defaults() {
    let printed = right(&config::defaults()).config;
    let backend = "[[backend]]\nkind = \"echo\"\nlisten = \"127.0.0.1:9001\"\n";
    let bare = right(&format!("{LISTENER}{ROUTE}{UPSTREAM}{backend}")).config;
    assert_eq!(without_places(&printed), without_places(&bare));
}

/// Places differ between two files that mean the same.
fn without_places(config: &Config) -> String {
    let lines = format!("{config:#?}");
    let place = |line: &&str| !(line.trim().starts_with("line: ") || line.trim().starts_with("column: "));
    lines.lines().filter(place).collect::<Vec<_>>().join("\n")
}

/// Takes the `#` away from every option that is left out by default.
fn every_option() -> String {
    let option = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()) => rest.to_owned(),
        _ => line.to_owned(),
    };
    config::defaults().lines().map(|line| option(line) + "\n").collect()
}

#[test]
fn every_option_is_read() {
    let text = every_option();
    assert!(!text.contains("\n#["), "tables are no longer behind #");
    // One route has one target, `client_ca` wants clients to be checked, and a token stands in one place.
    let checked = text.replace("client_auth = \"off\"", "client_auth = \"required\"");
    let checked = checked.replace("token = \"${TIDEGATE_ADMIN_TOKEN}\"\n", "");
    let checked = checked.replace("page = \"chat\"\n", "#page\n");
    let targets = ["[route.redirect]", "[route.respond]", "[route.files]"];
    // All but the one at this place.
    let but = |left: usize| {
        let others = targets.iter().enumerate().filter(|(at, _)| *at != left);
        others.fold(checked.clone(), |text, (_, header)| without(&text, header))
    };
    let plain = but(targets.len());
    let Loaded { config, .. } = right(&plain);
    let tls = config.listeners[0].tls.as_ref().expect("tls is written");
    assert_eq!(tls.certificates.len(), 2);
    assert!(matches!(&tls.client_auth, ClientAuth::Required { ca, .. } if ca == Path::new("conf/certs/clients.pem")));
    assert_eq!(tls.versions, TlsVersions::From12);
    let upstream = &config.upstreams["echo"];
    assert!(upstream.tls.ca.is_some() && upstream.tls.client.is_some());
    assert_eq!(upstream.tls.server_name.as_deref(), Some("chat.internal"));
    let route = &config.routes[0];
    assert_eq!((route.name.as_str(), route.host_header.as_deref()), ("echo", Some("backend.internal")));
    assert_eq!(route.host, HostPattern::Exact("chat.example.com".to_owned()));
    assert_eq!(route.subprotocols.list.as_deref(), Some(&["chat.v2".to_owned(), "chat.v1".to_owned()][..]));

    let target = |text: &str| right(&text.replace("upstream = \"echo\"\n", "")).config.routes[0].target.clone();
    assert!(matches!(target(&plain.replace("#page\n", "page = \"chat\"\n")), Target::Page(Page::Chat)));
    assert!(matches!(target(&but(0)), Target::Redirect(redirect) if redirect.status == 308));
    assert!(matches!(target(&but(1)), Target::Respond(respond) if respond.status == 404));
    assert!(matches!(target(&but(2)), Target::Files(folder) if folder.path == Path::new("conf/public")));
}

/// The text without a table.
#[track_caller]
fn without(text: &str, header: &str) -> String {
    let (before, rest) = text.split_once(header).unwrap_or_else(|| panic!("no {header}"));
    let end = rest.find("\n[").expect("another table behind it");
    format!("{before}{}", &rest[end + 1..])
}

#[test]
fn the_reference_is_up_to_date() {
    assert!(
        read("docs/configuration.md") == config::reference(),
        "docs/configuration.md differs from the code: cargo run -- check --print-reference > docs/configuration.md"
    );
}

#[test]
fn every_option_stands_in_the_reference() {
    let reference = config::reference();
    let keys = every_option();
    let keys = keys.lines().filter_map(|line| Some(line.split_once(" = ")?.0)).filter(|key| !key.starts_with('#'));
    let missing: Vec<_> = keys.filter(|key| !reference.contains(&format!("| `{key}` |"))).collect();
    assert_eq!(missing, [""; 0]);
}

#[test]
fn off_is_no_limit() {
    let text = format!(
        "[limits]\nsessions_per_client = \"off\"\nhandshakes_per_client = \"off\"\n{LISTENER}{ROUTE}heartbeat = \"off\"\n\
         frame_bytes_max = \"off\"\nmessage_bytes_max = \"off\"\n{UPSTREAM}"
    );
    let config = right(&text).config;
    assert_eq!(config.limits.sessions_per_client, None);
    assert_eq!(config.limits.handshakes_per_client, None);
    let relay = &config.routes[0].relay;
    assert_eq!((relay.heartbeat, relay.frame_bytes_max, relay.message_bytes_max), (None, u64::MAX, u64::MAX));
}

#[test]
fn a_lower_message_lowers_the_frame_that_is_left_out() {
    let config = right(&format!("{LISTENER}{ROUTE}message_bytes_max = \"1MiB\"\n{UPSTREAM}")).config;
    assert_eq!(config.routes[0].relay.frame_bytes_max, 1 << 20);
}

#[test]
fn a_part_of_the_heartbeat_leaves_the_rest_at_its_default() {
    let config = right(&format!("{LISTENER}{ROUTE}heartbeat = {{ interval = \"60s\" }}\n{UPSTREAM}")).config;
    let heartbeat = config.routes[0].relay.heartbeat.expect("it is on");
    assert_eq!((heartbeat.interval.as_secs(), heartbeat.timeout.as_secs()), (60, 10));
}

#[test]
fn who_the_client_is() {
    let text = format!(
        "[limits]\nipv6_prefix = 56\n[[listener]]\naddress = \"unix:/run/tidegate.sock\"\n\
         trusted_proxies = [\"::ffff:10.1.2.3/104\", \"unix\", \"fd00::1\"]\nproxy_protocol = true\n\
         proxy_protocol_timeout = \"2s\"\n{LISTENER}"
    );
    let rows = [
        ("address", ClientBy::Address),
        ("header:X-User", ClientBy::Header("x-user".parse().expect("a name"))),
        ("cookie:SID", ClientBy::Cookie("SID".to_owned())),
        ("query:token", ClientBy::Query("token".to_owned())),
    ];
    for (client, expected) in rows {
        let Loaded { config, warnings, .. } = right(&format!("{text}{ROUTE}client = \"{client}\"\n{UPSTREAM}"));
        assert_eq!(config.routes[0].client, expected);
        assert_eq!(warnings, []);
        assert_eq!(config.limits.ipv6_prefix, 56);
        let [unix, tcp] = &config.listeners[..] else { panic!("two listeners") };
        assert_eq!(unix.address, ListenerAddress::Unix("/run/tidegate.sock".into()));
        let networks: Vec<String> = unix.trusted_proxies.networks.iter().map(ToString::to_string).collect();
        assert_eq!((networks.join(" "), unix.trusted_proxies.unix), ("10.0.0.0/8 fd00::1/128".to_owned(), true));
        assert_eq!((unix.proxy_protocol, tcp.proxy_protocol), (Some(Duration::from_secs(2)), None));
    }
}

#[test]
fn mistakes_in_who_the_client_is() {
    rows(
        &format!("{LISTENER}{ROUTE}"),
        UPSTREAM,
        &[
            ("client = \"ip\"", "5:10 route[1].client: \"ip\" tells no clients apart"),
            ("client = \"address:x\"", "5:10 route[1].client: \"address:x\" tells no clients apart"),
            ("client = \"header\"", "5:10 route[1].client: \"\" is not the name of a header"),
            ("client = \"header:X User\"", "5:10 route[1].client: \"X User\" is not the name of a header"),
            ("client = \"cookie:\"", "5:10 route[1].client: \"\" is not the name of a cookie"),
            ("client = \"query:a=b\"", "5:10 route[1].client: \"a=b\" is not the name of a query"),
        ],
    );
}

#[test]
fn routes_without_a_name_get_one_of_their_own() {
    let text = format!(
        "{LISTENER}[[route]]\nname = \"/b\"\npath = \"/a\"\nupstream = \"echo\"\n[[route]]\npath = \"/b\"\nupstream = \"echo\"\n\
         [[route]]\nhost = \"*.Example.com\"\npath = \"/b\"\nupstream = \"echo\"\n{UPSTREAM}"
    );
    let config = right(&text).config;
    let names: Vec<_> = config.routes.iter().map(|route| route.name.as_str()).collect();
    assert_eq!(names, ["/b", "/b#2", "*.example.com/b"]);
}

#[test]
fn files_are_relative_to_the_configuration() {
    let text = "[[listener]]\naddress = \"[::]:0\"\ntls = { certificate = \"a.pem\", key = \"/etc/a.key\" }\n";
    let config = right(&format!("{text}{ROUTE}{UPSTREAM}")).config;
    let pair = &config.listeners[0].tls.as_ref().expect("tls is written").certificates[0];
    assert_eq!((&*pair.certificate, &*pair.key), (Path::new("conf/a.pem"), Path::new("/etc/a.key")));
    assert_eq!(pair.certificate_at, Position { line: 3, column: 23 });
    assert_eq!(pair.key_at, Position { line: 3, column: 38 });
}

#[test]
fn a_byte_order_mark_and_crlf_are_no_problem() {
    let text = format!("\u{feff}{LISTENER}{ROUTE}{UPSTREAM}").replace('\n', "\r\n");
    assert_eq!(right(&text).config.listeners[0].address_at, Position { line: 2, column: 11 });
    assert_eq!(wrong("\u{feff}admn = 1")[2], "1:1 admn: unknown key in the file");
}

// The environment.

#[test]
fn the_environment_is_put_in() {
    let text = format!(
        "[limits]\nsessions = \"${{COUNT}}\"\n{LISTENER}{ROUTE}strict = \"${{ON}}\"\nname = \"a$${{b}} ${{COUNT}}${{COUNT}} $x\"\n\
         [upstream.echo]\nservers = [\"ws://127.0.0.1:${{PORT}}\"]\n"
    );
    let config = right(&text).config;
    assert_eq!(config.limits.sessions, 7);
    assert!(config.routes[0].relay.strict);
    assert_eq!(config.routes[0].name, "a${b} 77 $x");
    assert_eq!(
        config.upstreams["echo"].servers[0].address,
        ServerAddress::Tcp { host: "127.0.0.1".into(), port: 9100 }
    );
}

#[test]
fn what_comes_from_the_environment_is_never_toml() {
    let problems = wrong(&format!("{LISTENER}{ROUTE}name = \"${{EVIL}}\"\n{UPSTREAM}"));
    assert_eq!(problems, ["5:8 route[1].name: \"\\\"\\n[admin]\\nx = 1\" cannot be a name"]);
}

#[test]
fn the_environment_in_wrong_places() {
    rows(
        &format!("{LISTENER}{ROUTE}"),
        UPSTREAM,
        &[
            ("name = \"a ${NOPE}\"", "5:11 : the environment variable NOPE is not set"),
            ("name = \"${}\"", "5:9 : \"${\" begins no variable name"),
            ("name = \"${A-B}\"", "5:9 : \"${\" begins no variable name"),
            ("name = \"${COUNT\"", "5:9 : \"${\" begins no variable name"),
            ("name = \"\\u0024{NOPE}\"", "5:8 : the environment variable NOPE is not set"),
            ("strict = \"${COUNT}\"", "5:10 route[1].strict: \"7\" is neither true nor false"),
        ],
    );
}

// Mistakes: each row is one, with its line, its column and its key.

#[test]
fn mistakes_in_limits_and_the_small_tables() {
    rows(
        "",
        &format!("{LISTENER}{ROUTE}{UPSTREAM}"),
        &[
            ("[runtime]\nworkers = 0", "2:11 runtime.workers: 0 is not allowed"),
            ("[runtime]\nworkers = \"many\"", "2:11 runtime.workers: \"many\" is not a number"),
            ("[limits]\nsessions = -1", "2:12 limits.sessions: -1 is not allowed"),
            (
                "[limits]\nsessions = 1.5",
                "2:12 limits.sessions: a number with a fraction stands where a number is wanted",
            ),
            ("[limits]\nsessions = \"9\"", "2:12 limits.sessions: \"9\" is a string"),
            ("[dns]\nservers = [\"ns.test\"]", "2:12 dns.servers[1]: \"ns.test\" is not the address of a name server"),
            ("[dns]\nservers = [\"0.0.0.0\"]", "2:12 dns.servers[1]: \"0.0.0.0\" is not the address of a name server"),
            ("[dns]\nttl_min = \"0s\"", "2:11 dns.ttl_min: a duration of zero makes no sense here"),
            ("[dns]\nttl_min = \"2s\"\nttl_max = \"1s\"", "3:11 dns.ttl_max: less than `ttl_min`"),
            ("[limits]\nipv6_prefix = 16", "2:15 limits.ipv6_prefix: 16 is not allowed"),
            ("[limits]\nipv6_prefix = 129", "2:15 limits.ipv6_prefix: 129 is not allowed"),
            ("[limits]\nsession = 9", "2:1 limits.session: unknown key in [limits]"),
            ("[limits]\nhandshakes_per_client = 5", "2:25 limits.handshakes_per_client: \"5\" is not a rate"),
            (
                "[log]\nlevel = \"information\"",
                "2:9 log.level: \"information\" is not one of \"error\", \"warn\", \"info\", \
          \"debug\", \"trace\"",
            ),
            ("[log]\nsample = 101", "2:10 log.sample: 101 is not allowed"),
            ("[log]\nsample = \"5%\"", "2:10 log.sample: \"5%\" is not a number"),
            (
                "[log]\naccess = [\"refused\"]",
                "2:11 log.access[1]: \"refused\" is not one of \"requests\", \"opened\", \"ended\"",
            ),
            ("[log]\nprogress = \"0s\"", "2:12 log.progress: a duration of zero makes no sense here"),
            ("[log]\ntraceparent = \"new\"", "2:15 log.traceparent: \"new\" is not one of \"begin\", \"pass\""),
            ("[log]\nfile = \"\"", "2:8 log.file: the path of a file is wanted"),
            ("[drain]\ngrace = \"off\"", "2:9 drain.grace: \"off\" is not a duration"),
            ("[drain]\nwindow = \"off\"", "2:10 drain.window: \"off\" is not a duration"),
            ("[admin]\nhosts = []", "1:1 admin.address: is missing"),
            (
                "[admin]\naddress = \"0.0.0.0:9090\"",
                "2:11 admin.address: whoever reaches this address could end every session",
            ),
            (
                "[admin]\naddress = \"[::]:9090\"\ntls = { certificate = \"a.pem\", key = \"a.key\" }",
                "2:11 admin.address: whoever reaches this address could end every session",
            ),
            (
                "[admin]\naddress = \"127.0.0.1:9090\"\ntoken = \"short\"",
                "3:9 admin.token: a token has 16 to 512 visible ASCII characters",
            ),
            (
                "[admin]\naddress = \"127.0.0.1:9090\"\ntoken = \"0123456789abcdef\"\ntoken_file = \"t\"",
                "4:14 admin.token_file: stands beside `token`",
            ),
            (
                "[admin]\naddress = \"127.0.0.1:9090\"\nsocket_mode = \"0999\"",
                "3:15 admin.socket_mode: \"0999\" is no mode of a file",
            ),
            (
                "[admin]\naddress = \"unix:/run/a.sock\"\ntls = { certificate = \"a.pem\", key = \"a.key\" }",
                "3:7 admin.tls: TLS is not served on a Unix socket, where nobody could listen in",
            ),
            (
                "[admin]\naddress = \"127.0.0.1:9001\"",
                "7:11 upstream.echo.servers: ws://127.0.0.1:9001 is the admin interface: clients could reach it",
            ),
            ("log = \"info\"", "1:7 log: a string stands where a table is wanted"),
            ("[[log]]\nlevel = \"info\"", "1:1 log: a list stands where a table is wanted"),
            ("[[backend]]\nkind = \"echo\"", "1:1 backend[1].listen: is missing"),
            (
                "[[backend]]\nkind = \"ecko\"\nlisten = \"127.0.0.1:1\"",
                "2:8 backend[1].kind: \"ecko\" is not one of \"echo\", \
          \"clock\", \"chat\"",
            ),
            (
                "[[backend]]\nkind = \"clock\"\nlisten = \"127.0.0.1:1\"\ninterval = \"0s\"",
                "4:12 backend[1].interval: a duration of zero makes no sense here",
            ),
            (
                "[[backend]]\nkind = \"echo\"\nlisten = \"127.0.0.1:8080\"",
                "5:11 listener[1].address: 127.0.0.1:8080 is taken in line 3 already",
            ),
        ],
    );
}

#[test]
fn mistakes_in_listeners() {
    rows(
        "[[listener]]\naddress = \"127.0.0.1:8443\"\n",
        &format!("{ROUTE}{UPSTREAM}"),
        &[
            (
                "proxy_protocol = true",
                "3:18 listener[1].proxy_protocol: no trusted proxy can connect here, and nobody else may say who its \
                 client is",
            ),
            (
                "proxy_protocol = true\ntrusted_proxies = [\"unix\"]",
                "3:18 listener[1].proxy_protocol: no trusted proxy can connect here, and nobody else may say who its \
                 client is",
            ),
            ("proxy_protocol = \"v2\"", "3:18 listener[1].proxy_protocol: \"v2\" is neither true nor false"),
            ("reuse_port = \"yes\"", "3:14 listener[1].reuse_port: \"yes\" is neither true nor false"),
            (
                "[[listener]]\naddress = \"unix:/a\"\nreuse_port = true",
                "5:14 listener[2].reuse_port: a Unix socket has no port to share",
            ),
            ("proxy_protocol_timeout = 5", "3:26 listener[1].proxy_protocol_timeout: \"5\" is not a duration"),
            ("trusted_proxies = [\"local\"]", "3:20 listener[1].trusted_proxies[1]: \"local\" is not a network"),
            (
                "[[listener]]\naddress = \"unix:run/a.sock\"",
                "4:11 listener[2].address: \"unix:run/a.sock\" is not an absolute path",
            ),
            (
                "[[listener]]\naddress = \"unix:/a\"\n[[listener]]\naddress = \"unix:/a\"",
                "6:11 listener[3].address: unix:/a is taken in line 4 already",
            ),
            (
                "[[listener]]\naddress = \"unix:/a\"\ntls = { certificate = \"a\", key = \"b\" }",
                "5:7 listener[2].tls: TLS is not served on a Unix socket, where nobody could listen in",
            ),
            (
                "[[listener]]\naddress = \"unix:/a\"\nproxy_protocol = true\ntrusted_proxies = [\"unix\"]\n\
                 [[listener]]\naddress = \"unix:/b\"\nproxy_protocol = true",
                "9:18 listener[3].proxy_protocol: no trusted proxy can connect here, and nobody else may say who its \
                 client is",
            ),
            ("head_bytes_max = \"4KiB\"", "3:18 listener[1].head_bytes_max: 4KiB is not allowed"),
            ("headers_max = 5000", "3:15 listener[1].headers_max: 5000 is not allowed"),
            (
                "trusted_proxies = \"10.0.0.0/8\"",
                "3:19 listener[1].trusted_proxies: a string stands where a list is wanted",
            ),
            ("tls_timeout = \"0s\"", "3:15 listener[1].tls_timeout: a duration of zero makes no sense here"),
            ("tls = true", "3:7 listener[1].tls: true or false stands where a table is wanted"),
            ("tls = {}", "3:7 listener[1].tls.certificate: no certificate"),
            (
                "tls = { certificate = \"a\" }",
                "3:23 listener[1].tls.key: is missing: a certificate needs its private key",
            ),
            ("tls = { key = \"a\" }", "3:15 listener[1].tls.certificate: is missing: a key needs its certificate"),
            ("tls = { certificate = \"a\", key = \"\" }", "3:34 listener[1].tls.key: the path of a file is wanted"),
            (
                "tls = { development = true }",
                "3:23 listener[1].tls.development: needs `certificate` and `key`: where the certificate is to be made",
            ),
            (
                "tls = { certificates = [{ certificate = \"a\" }] }",
                "3:25 listener[1].tls.certificates[1].key: is missing",
            ),
            (
                "tls = { certificate = \"a\", key = \"b\", client_auth = \"required\" }",
                "3:53 listener[1].tls.client_ca: is missing: `client_auth` needs to know whom to believe",
            ),
            (
                "tls = { certificate = \"a\", key = \"b\", client_ca = \"c\" }",
                "3:51 listener[1].tls.client_ca: is given, but `client_auth` is \"off\": no client would be checked",
            ),
            (
                "tls = { certificate = \"a\", key = \"b\", min_version = 1.3 }",
                "3:53 listener[1].tls.min_version: a number with a fraction stands where a string is wanted",
            ),
            (
                "[[listener]]\naddress = \"127.0.0.1:8443\"",
                "4:11 listener[2].address: 127.0.0.1:8443 is taken in line 2 already",
            ),
            (
                "[[listener]]\naddress = \"0.0.0.0:8443\"",
                "4:11 listener[2].address: 0.0.0.0:8443 cannot be opened beside 127.0.0.1:8443 in line 2",
            ),
            (
                "[admin]\naddress = \"0.0.0.0:8443\"\ntoken = \"0123456789abcdef\"",
                "4:11 admin.address: 0.0.0.0:8443 cannot be opened beside 127.0.0.1:8443 in line 2",
            ),
            ("[[listener]]", "3:1 listener[2].address: is missing"),
        ],
    );
}

#[test]
fn mistakes_in_access_rules() {
    rows(
        &format!("{LISTENER}[[route]]\nupstream = \"echo\"\n"),
        UPSTREAM,
        &[
            ("allow = []", "5:9 route[1].allow: an empty list would let everybody in"),
            ("allow = [\"10.0.0.0/33\"]", "5:10 route[1].allow[1]: \"10.0.0.0/33\" is not a network"),
            ("deny = \"any\"", "5:8 route[1].deny: a string stands where a list is wanted"),
            ("keys = \"keys.txt\"", "5:8 route[1].keys: a string stands where a table is wanted"),
            ("keys = { file = \"k\" }", "5:8 route[1].keys: no place for a key is given"),
            ("keys = { file = \"k\", bearer = false }", "5:8 route[1].keys: no place for a key is given"),
            ("keys = { bearer = true }", "5:8 route[1].keys.file: is missing"),
            ("keys = { file = \"\", bearer = true }", "5:17 route[1].keys.file: the path of a file is wanted"),
            (
                "keys = { file = \"k\", header = \"a b\" }",
                "5:31 route[1].keys.header: \"a b\" is not the name of a header field",
            ),
            (
                "keys = { file = \"k\", header = \"Sec-WebSocket-Key\" }",
                "5:31 route[1].keys.header: \"Sec-WebSocket-Key\" has a meaning of its own",
            ),
            (
                "keys = { file = \"k\", header = \"X_Forwarded_For\" }",
                "5:31 route[1].keys.header: \"X_Forwarded_For\" has a meaning of its own",
            ),
            (
                "keys = { file = \"k\", query = \"a=b\" }",
                "5:30 route[1].keys.query: \"a=b\" is not the name of a parameter",
            ),
        ],
    );
    let route = |rules: &str| right(&format!("{LISTENER}[[route]]\nupstream = \"echo\"\n{rules}\n{UPSTREAM}"));
    let loaded = route(
        "allow = [\"any\"]\ndeny = [\"unix\", \"::ffff:10.0.0.0/104\"]\nkeys = { file = \"k\", query = \"key\" }",
    );
    let access = &loaded.config.routes[0].access;
    assert_eq!(access.allow, [Network::Any]);
    assert_eq!(access.deny, [Network::Unix, Network::Ip("10.0.0.0/8".parse().expect("a network"))]);
    let keys = loaded.config.routes[0].keys.as_ref().expect("keys");
    assert_eq!(keys.file, Path::new("conf/k"), "beside the configuration");
    let places = KeyPlaces { query: Some("key".to_owned()), ..KeyPlaces::default() };
    assert_eq!((&keys.places, keys.file_at), (&places, Position { line: 7, column: 17 }));
    for (rules, warned) in
        [("\"0.0.0.0/0\"", true), ("\"::/0\"", true), ("\"0.0.0.0/0\", \"::/0\"", false), ("\"any\"", false)]
    {
        assert_eq!(!route(&format!("deny = [{rules}]")).warnings.is_empty(), warned, "{rules}");
    }
}

#[test]
fn mistakes_in_routes() {
    rows(
        &format!("{LISTENER}[[route]]\nupstream = \"echo\"\n"),
        UPSTREAM,
        &[
            ("page = \"chat\"", "5:8 route[1].page: stands beside `upstream`: a route has one target"),
            ("http = \"yes\"", "5:8 route[1].http: \"yes\" is neither true nor false"),
            ("[route.limits]\nsessions = 0", "6:12 route[1].limits.sessions: 0 is not allowed"),
            ("limits = { sesions = 5 }", "5:12 route[1].limits.sesions: unknown key in [route.limits]"),
            ("limits = { handshakes = 5 }", "5:25 route[1].limits.handshakes: \"5\" is not a rate"),
            (
                "[route.limits]\nmessages = \"0/s\"",
                "6:12 route[1].limits.messages: a rate of zero would refuse everyone",
            ),
            ("[route.limits]\nbytes = \"10/s\"", "6:9 route[1].limits.bytes: \"10\" is not a size"),
            ("[route.limits]\nbytes = \"1MiB\"", "6:9 route[1].limits.bytes: \"1MiB\" is not a rate of bytes"),
            (
                "limits.on_excess = \"drop\"",
                "5:20 route[1].limits.on_excess: \"drop\" is not one of \"delay\", \"close\"",
            ),
            ("hearbeat = \"off\"", "5:1 route[1].hearbeat: unknown key in [[route]]"),
            ("heartbeat = false", "5:13 route[1].heartbeat: true or false stands where a table is wanted"),
            (
                "heartbeat = { interval = \"1s\", timout = \"1s\" }",
                "5:32 route[1].heartbeat.timout: unknown key in route.heartbeat",
            ),
            ("host = \"*\"", "5:8 route[1].host: \"*\" is not a host"),
            ("path = \"/a/\"", "5:8 route[1].path: \"/a/\" is not in normal form"),
            ("origins = []", "5:11 route[1].origins: an empty list would refuse everyone"),
            (
                "origins = [\"any\", \"none\"]",
                "5:11 route[1].origins: \"any\" stands beside others, which it would make meaningless",
            ),
            ("origins = [\"none\", \"https://a/b\"]", "5:20 route[1].origins[2]: an origin has no path"),
            ("subprotocols = [\"a\", \"a\"]", "5:22 route[1].subprotocols: \"a\" stands twice in the list"),
            (
                "subprotocols = []\nsubprotocol_required = true",
                "5:16 route[1].subprotocols: an empty list and `subprotocol_required` refuse everyone",
            ),
            ("host_header = \"a b\"", "5:15 route[1].host_header: \"a b\" is not a host name"),
            ("idle_timeout = 30", "5:16 route[1].idle_timeout: \"30\" is not a duration"),
            (
                "frame_bytes_max = \"128MiB\"",
                "5:19 route[1].frame_bytes_max: 128MiB is above `message_bytes_max` (64MiB, the default)",
            ),
            (
                "frame_bytes_max = \"off\"",
                "5:19 route[1].frame_bytes_max: off is above `message_bytes_max` (64MiB, the default)",
            ),
            ("fragments_max = 0", "5:17 route[1].fragments_max: 0 is not allowed"),
            ("ping = \"pass\"", "5:8 route[1].ping: \"pass\" is not one of \"answer\", \"forward\""),
            ("name = \"a\\nb\"", "5:8 route[1].name: \"a\\nb\" cannot be a name"),
            ("name = \"a\\u202Eb\"", "5:8 route[1].name: \"a\\u{202e}b\" cannot be a name"),
            ("name = \"a\\u2028b\"", "5:8 route[1].name: \"a\\u{2028}b\" cannot be a name"),
            ("name = \"a\\u200Db\"", "5:8 route[1].name: \"a\\u{200d}b\" cannot be a name"),
            (
                "[[route]]\npath = \"/x\"\nupstream = \"eco\"",
                "7:12 route[2].upstream: no upstream \"eco\" (known: echo)",
            ),
            ("[[route]]\npath = \"/x\"", "5:1 route[2].upstream: is missing: a route needs a target"),
            (
                "[[route]]\nupstream = \"echo\"",
                "5:1 route[2]: any host with path / belongs to the route in line 3 already",
            ),
            (
                "host = \"A.com\"\n[[route]]\nhost = \"a.com.\"\npage = \"chat\"",
                "6:1 route[2]: host a.com with path / belongs to the route in line 3 already",
            ),
            (
                "query = { b = \"1\", a = \"2\" }\n[[route]]\nupstream = \"echo\"\nquery = { a = \"2\", b = \"1\" }",
                "6:1 route[2]: any host with path / and these conditions belongs to the route in line 3 already",
            ),
            (
                "strip_prefix = true\nrewrite = { prefix = \"/x\" }",
                "6:11 route[1].rewrite: stands beside `strip_prefix`: both take the place of `path`",
            ),
            ("rewrite = { prefix = \"x\" }", "5:22 route[1].rewrite.prefix: \"x\" does not begin with \"/\""),
            ("rewrite = { prefix = \"/x/\" }", "5:22 route[1].rewrite.prefix: \"/x/\" is not in normal form"),
            (
                "rewrite = { prefix = \"/../x\" }",
                "5:22 route[1].rewrite.prefix: \".\" and \"..\" cannot be segments of a path",
            ),
            ("rewrite = {}", "5:11 route[1].rewrite.prefix: is missing"),
            (
                "request_headers = { set = { Host = \"a\" } }",
                "5:36 route[1].request_headers.set.Host: Host is what `host_header` is for",
            ),
            (
                "request_headers = { remove = [\"TE\"] }",
                "5:31 route[1].request_headers.remove[1]: TE belongs to one connection and is the gateway's to write",
            ),
            (
                "request_headers = { remove = [\"X_Forwarded-For\"] }",
                "5:31 route[1].request_headers.remove[1]: X_Forwarded-For tells who the client is and is the gateway's to write",
            ),
            (
                "request_headers = { remove = [\"Content-Length\"] }",
                "5:31 route[1].request_headers.remove[1]: Content-Length frames the body",
            ),
            (
                "response_headers = { remove = [\"Sec-WebSocket-Accept\"] }",
                "5:32 route[1].response_headers.remove[1]: Sec-WebSocket-Accept belongs to the handshake",
            ),
            (
                "response_headers = { set = { Transfer-Encoding = \"chunked\" } }",
                "5:50 route[1].response_headers.set.Transfer-Encoding: Transfer-Encoding belongs to one connection and is the gateway's to write",
            ),
            (
                "request_headers = { set = { X = \"a\\r\\nY: b\" } }",
                "5:33 route[1].request_headers.set.X: \"a\\r\\nY: b\" is not the value of a header field",
            ),
            (
                "request_headers = { set = { X = \"1\", x = \"2\" } }",
                "5:27 route[1].request_headers.set: x stands twice: its case does not count",
            ),
            (
                "request_headers = { set = { X = \"1\" }, remove = [\"x\"] }",
                "5:49 route[1].request_headers.remove: x is set, so that what was there is gone",
            ),
            (
                "request_headers = { add = {} }",
                "5:21 route[1].request_headers.add: unknown key in [route.request_headers]",
            ),
            ("page = \"chat\"", "5:8 route[1].page: stands beside `upstream`: a route has one target"),
            ("respond = { status = 404 }", "5:11 route[1].respond: stands beside `upstream`: a route has one target"),
            (
                "redirect = { to = \"https://a{path}\" }",
                "5:12 route[1].redirect: stands beside `upstream`: a route has one target",
            ),
            ("path = \"= /x\"", "5:8 route[1].path: \"=\" stands in no path"),
            ("headers = [\"x\"]", "5:11 route[1].headers: a list stands where a table is wanted"),
            ("headers = { X = 1 }", "5:17 route[1].headers.X: a number stands where a string is wanted"),
            ("headers = { X = \" a\" }", "5:17 route[1].headers.X: \" a\" is not the value of a header field"),
            ("headers = { \"X Y\" = \"a\" }", "5:21 route[1].headers.X Y: \"X Y\" is not the name of a header field"),
            ("headers = { Host = \"a\" }", "5:20 route[1].headers.Host: \"Host\" has a meaning of its own"),
            (
                "headers = { X-Forwarded-For = \"a\" }",
                "5:31 route[1].headers.X-Forwarded-For: \"X-Forwarded-For\" has a meaning of its own",
            ),
            ("headers = { X = \"1\", x = \"2\" }", "5:11 route[1].headers: x stands twice: its case does not count"),
            ("query = { \"a b\" = \"1\" }", "5:19 route[1].query.a b: \"a b\" is not the name of a parameter"),
            ("query = { a = true }", "5:15 route[1].query.a: true or false stands where a string is wanted"),
            ("subprotocol = \"a b\"", "5:15 route[1].subprotocol: \"a b\" is not the name of a subprotocol"),
            (
                "name = \"x\"\n[[route]]\nname = \"x\"\npath = \"/x\"\npage = \"chat\"",
                "7:8 route[2].name: the name \"x\" is taken in line 5 already",
            ),
        ],
    );
}

#[test]
fn mistakes_in_redirects_and_fixed_answers() {
    let key = |key: &str, message: &str| format!("4:{message}").replacen(' ', &format!(" route[1].{key}: "), 1);
    #[rustfmt::skip]
    let table = [
        ("redirect = \"htps\"", key("redirect", "12 \"htps\" is neither \"https\" nor a table")),
        ("redirect = {}", key("redirect.to", "12 is missing")),
        ("redirect = { to = \"/x\" }", key("redirect.to", "19 \"/x\" is no address to send a client to")),
        ("redirect = { to = \"//x\" }", key("redirect.to", "19 \"//x\" is no address to send a client to")),
        ("redirect = { to = \"javascript:x\" }", key("redirect.to", "19 \"javascript:x\" is no address to send a client to")),
        ("redirect = { to = \"https://a/{path}\" }", key("redirect.to", "19 \"{path}\" begins with \"/\"")),
        ("redirect = { to = \"https://a/x/{path}\" }", key("redirect.to", "19 \"/x/\" is not in normal form")),
        ("redirect = { to = \"https://a/{path}/x\" }", key("redirect.to", "19 \"/{path}/x\" cannot stand in an address")),
        ("redirect = { to = \"https://a/b c\" }", key("redirect.to", "19 \"/b c\" cannot stand in an address")),
        ("redirect = { to = \"https://{host}:0{path}\" }", key("redirect.to", "19 \"0\" is not a port")),
        ("redirect = { to = \"https://a{path}\", status = 200 }", key("redirect.status", "47 200 is not allowed")),
        ("redirect = { to = \"https://a{path}\", status = 304 }", key("redirect.status", "47 304 leads nowhere")),
        ("respond = {}", key("respond.status", "11 is missing")),
        ("respond = { status = 101 }", key("respond.status", "22 101 is not allowed")),
        ("respond = { status = 304, body = \"x\" }", key("respond.body", "34 an answer of this status has no body")),
        ("respond = { status = 404, content_type = \"a\\nb\" }", key("respond.content_type", "42 \"a\\nb\" is not the value of a header field")),
        ("page = \"chat\"\nrespond = { status = 404 }", "5:11 route[1].respond: stands beside `page`: a route has one target".to_owned()),
    ];
    for (text, expected) in table {
        assert_eq!(wrong(&format!("{LISTENER}[[route]]\n{text}\n")), [expected], "{text}");
    }
    for text in ["respond = { status = 404 }\norigins = [\"any\"]", "redirect = \"https\"\norigins = [\"any\"]"] {
        let Loaded { warnings, .. } = right(&format!("{LISTENER}[[route]]\n{text}\n"));
        let told: Vec<_> = warnings.iter().map(|problem| problem.message.as_str()).collect();
        let kind = text.split(' ').next().expect("a key");
        assert_eq!(told, [format!("has no effect beside `{kind}`")], "{text}");
    }
}

#[test]
fn mistakes_in_upstreams() {
    rows(
        &format!("{LISTENER}{ROUTE}"),
        "",
        &[
            ("[upstream.echo]", "5:1 upstream.echo.servers: is missing"),
            ("[upstream.echo]\nservers = []", "6:11 upstream.echo.servers: at least one server is needed"),
            (
                "[upstream.echo]\nservers = \"ws://a\"",
                "6:11 upstream.echo.servers: a string stands where a list is wanted",
            ),
            (
                "[upstream.echo]\nservers = [\"http://a\"]",
                "6:12 upstream.echo.servers[1]: http:// is not a WebSocket scheme",
            ),
            (
                "[upstream.echo]\nservers = [\"ws://a\", \"ws://A:80/\"]",
                "6:22 upstream.echo.servers: ws://A:80/ stands twice in the list",
            ),
            (
                "[upstream.echo]\nservers = [\"ws://a\"]\nbalance = \"random\"",
                "7:11 upstream.echo.balance: \"random\" is no way to balance",
            ),
            (
                "[upstream.echo]\nservers = [\"ws://a\"]\nsticky.cookie = { name = \"a b\" }",
                "7:26 upstream.echo.sticky.cookie.name: \"a b\" is not the name of a cookie",
            ),
            (
                "[upstream.echo]\nservers = [\"ws://a\"]\nsticky.cookie = { path = \"/; Domain=b\" }",
                "7:26 upstream.echo.sticky.cookie.path: \"/; Domain=b\" is not the path of a cookie",
            ),
            (
                "[upstream.echo]\nservers = [\"ws://a\"]\nsticky = { cookie = \"a\" }",
                "7:21 upstream.echo.sticky.cookie: a string stands where a table is wanted",
            ),
            (
                "[upstream.echo]\nservers = [\"ws://a\"]\nsticky = { cookie = { same_site = \"no\" } }",
                "7:35 upstream.echo.sticky.cookie.same_site: \"no\" is not one of \"lax\", \"strict\", \"none\"",
            ),
            (
                "[upstream.echo]\nservers = [\"ws://a\"]\nbalance = \"hash:cookie:\"",
                "7:11 upstream.echo.balance: \"\" is not the name of a cookie",
            ),
            (
                "[upstream.echo]\nservers = [\"ws://a\"]\nhealth.passive = { aside = \"2s\", aside_max = \"1s\" }",
                "7:46 upstream.echo.health.passive.aside_max: less than `aside`",
            ),
            (
                "[upstream.echo]\nservers = [\"ws://a\"]\nhealth.active = \"tcp\"",
                "7:17 upstream.echo.health.active: a string stands where a table is wanted",
            ),
            (
                "[upstream.echo]\nservers = [\"ws://a\"]\nhealth.active = { kind = \"ping\" }",
                "7:26 upstream.echo.health.active.kind: \"ping\" is not one of \"tcp\", \"http\", \"websocket\"",
            ),
            (
                "[upstream.echo]\nservers = [\"ws://a\"]\nhealth.active = { kind = \"http\", path = \"health\" }",
                "7:41 upstream.echo.health.active.path: \"health\" is not a path",
            ),
            (
                "[upstream.echo]\nservers = [\"ws://a\"]\nhealth.active = { kind = \"http\", path = \"/a b\" }",
                "7:41 upstream.echo.health.active.path: \"/a b\" is not a path",
            ),
            (
                "[upstream.echo]\nservers = [\"ws://a\"]\nhealth.active = { kind = \"http\", status = [\"299-200\"] }",
                "7:44 upstream.echo.health.active.status[1]: 299-200 is no final status",
            ),
            (
                "[upstream.echo]\nservers = [\"ws://a\"]\nhealth.active = { kind = \"http\", status = [101] }",
                "7:44 upstream.echo.health.active.status[1]: 101 is no final status",
            ),
            (
                "[upstream.echo]\nservers = [\"ws://a\"]\nhealth.active = { kind = \"http\", status = [] }",
                "7:43 upstream.echo.health.active.status: no answer would be good",
            ),
            (
                "[upstream.echo]\nservers = [\"ws://a\"]\nhealth.active = { kind = \"http\", headers = { Host = \"a\" } }",
                "7:55 upstream.echo.health.active.headers.Host: Host is what `host` is for",
            ),
            (
                "[upstream.echo]\nservers = [\"ws://a\"]\nhealth.active = { fall = 0 }",
                "7:26 upstream.echo.health.active.fall: 0 is not allowed",
            ),
            (
                "[upstream.echo]\nservers = [\"ws://a\"]\nhealth.on_unhealthy = \"end\"",
                "7:23 upstream.echo.health.on_unhealthy: \"end\" is not one of \"keep\", \"drain\", \"close\"",
            ),
            (
                "[upstream.echo]\nservers = [\"ws://a\", { weight = 2 }]",
                "6:22 upstream.echo.servers[2].url: is missing",
            ),
            (
                "[upstream.echo]\nservers = [{ url = \"ws://a\", weight = 0 }]",
                "6:39 upstream.echo.servers[1].weight: 0 is not allowed",
            ),
            (
                "[upstream.echo]\nservers = [{ url = \"ws://a\", wait = 1 }]",
                "6:30 upstream.echo.servers[1].wait: unknown key in upstream.NAME.servers",
            ),
            (
                "[upstream.echo]\nservers = [{ url = \"ws://a:80\" }, \"ws://a\"]",
                "6:35 upstream.echo.servers: ws://a stands twice in the list",
            ),
            (
                "[upstream.echo]\nservers = [\"wss://a\"]\ntls = { certificate = \"a\" }",
                "7:23 upstream.echo.tls.key: is missing: a certificate needs its private key",
            ),
            (
                "[upstream.echo]\nservers = [\"wss://a\"]\ntls = { server_name = \"a b\" }",
                "7:23 upstream.echo.tls.server_name: \"a b\" is not a host name",
            ),
            ("upstream.echo = \"ws://a\"", "5:1 route[1].upstream: unknown key in [[route]]"),
        ][..15],
    );
    let named = wrong(&format!("upstream.echo = \"ws://a\"\n{LISTENER}{ROUTE}"));
    assert_eq!(named, ["1:17 upstream.echo: a string stands where a table is wanted"]);
    let unnamed = wrong(&format!("[upstream]\nservers = [\"ws://a\"]\n{LISTENER}{ROUTE}"));
    assert!(
        unnamed.contains(&"2:11 upstream.servers: a list stands where a table is wanted".to_owned()),
        "{unnamed:?}"
    );
}

#[test]
fn mistakes_in_source_addresses() {
    rows(
        &format!("{LISTENER}{ROUTE}[upstream.echo]\nservers = [\"ws://10.0.0.1\", \"ws://app\"]\nsource_addresses = "),
        "",
        &[
            ("[\"eth0\"]", "7:21 upstream.echo.source_addresses[1]: \"eth0\" is not an IP address"),
            ("[\"10.0.0.0/8\"]", "7:21 upstream.echo.source_addresses[1]: \"10.0.0.0/8\" is not an IP address"),
            ("[\"0.0.0.0\"]", "7:21 upstream.echo.source_addresses[1]: nothing can be sent from 0.0.0.0"),
            ("[\"224.0.0.1\"]", "7:21 upstream.echo.source_addresses[1]: nothing can be sent from 224.0.0.1"),
            ("[\"fe80::1\"]", "7:21 upstream.echo.source_addresses[1]: nothing can be sent from fe80::1"),
            (
                "[\"10.0.0.2\", \"::ffff:10.0.0.2\"]",
                "7:33 upstream.echo.source_addresses: 10.0.0.2 stands twice in the list",
            ),
            (
                "[\"fd00::2\"]",
                "7:20 upstream.echo.source_addresses: has no IPv4 address, and ws://10.0.0.1 can be reached from no other",
            ),
            (
                "[\"127.0.0.2\"]",
                "7:21 upstream.echo.source_addresses: 127.0.0.2 reaches this machine alone, not ws://10.0.0.1",
            ),
        ],
    );
    let unix = "[upstream.echo]\nservers = [\"unix:/run/a\"]\nsource_addresses = [\"10.0.0.2\"]";
    assert_warnings(
        &format!("{LISTENER}{ROUTE}{unix}"),
        "7:20 upstream.echo.source_addresses: has no effect: all servers are Unix sockets",
    );
}

#[test]
fn nothing_to_serve() {
    let expected = ["0:0 : no [[listener]]: nothing would be served", "0:0 : no [[route]]: nothing would be served"];
    assert_eq!(wrong(""), expected);
    assert_eq!(wrong("listener = []\nroute = []"), expected);
    assert_eq!(
        wrong(&format!("route = 3\n{LISTENER}")),
        ["1:9 route: a number stands where a list of tables is wanted"]
    );
}

#[test]
fn helps() {
    let help = |text: &str| {
        let problems = parse(&format!("{LISTENER}{ROUTE}{text}\n{UPSTREAM}")).expect_err("a mistake");
        problems.iter().next().and_then(|problem| problem.help.clone())
    };
    let rows = [
        ("hearbeat = \"off\"", "did you mean `heartbeat`?"),
        ("sessions_per_client = 3", "`sessions_per_client` is a key of [limits]"),
        ("interval = \"3s\"", "`interval` is a key of [[backend]]"),
        ("[listner]", "did you mean `listener`?"),
        ("[[route]]\npath = \"/x\"\nupstream = \"ecko\"", "did you mean \"echo\"?"),
        ("[[route]]\npath = \"/x\"\nupstream = \"storage\"", "add [upstream.storage]"),
        ("compression = \"of\"", "did you mean \"off\"?"),
        ("idle_timeout = 30", "write \"30s\", or \"off\""),
    ];
    for (text, expected) in rows {
        assert_eq!(help(text).as_deref(), Some(expected), "{text}");
    }
}

#[test]
fn warnings_are_no_problems() {
    let rows = [
        (
            format!("{LISTENER}{ROUTE}{UPSTREAM}[upstream.spare]\nservers = [\"ws://b\"]"),
            "7:11 upstream.spare: no route goes there",
        ),
        (
            format!("{LISTENER}trusted_proxies = [\"0.0.0.0/0\"]\n{ROUTE}{UPSTREAM}"),
            "3:19 listener[1].trusted_proxies: every client is trusted, so every client can claim any address",
        ),
        (
            format!("{LISTENER}trusted_proxies = [\"unix\"]\n{ROUTE}{UPSTREAM}"),
            "3:19 listener[1].trusted_proxies: \"unix\" has no effect: this listener is no Unix socket",
        ),
        (
            format!("[[listener]]\naddress = \"unix:/a\"\ntrusted_proxies = [\"10.0.0.1\"]\n{ROUTE}{UPSTREAM}"),
            "3:19 listener[1].trusted_proxies: has no effect: peers of a Unix socket have no address",
        ),
        (
            format!("{LISTENER}{ROUTE}client = \"header:X-User\"\n{UPSTREAM}"),
            "5:10 route[1].client: has no effect: no listener trusts a proxy that could send x-user",
        ),
        (
            format!("[[listener]]\naddress = \"unix:/a\"\n{ROUTE}[upstream.echo]\nservers = [\"unix:/a\"]"),
            "5:11 upstream.echo.servers: unix:/a is this gateway's own listener",
        ),
        (
            format!("{LISTENER}{ROUTE}heartbeat = {{ interval = \"5s\", timeout = \"1m\" }}\n{UPSTREAM}"),
            "5:13 route[1].heartbeat: `timeout` is longer than `interval`: a dead peer is noticed after 65s",
        ),
        (
            format!("{LISTENER}[[route]]\npage = \"chat\"\norigins = [\"any\"]\nstrict = true"),
            "5:11 route[1].origins: has no effect on a page\n6:10 route[1].strict: has no effect on a page",
        ),
        (
            format!("{LISTENER}{ROUTE}subprotocols = [\"chat\"]\nsubprotocol = \"mqtt\"\n{UPSTREAM}"),
            "5:16 route[1].subprotocols: \"mqtt\", which every client of this route offers, does not pass",
        ),
        (
            format!("{LISTENER}{ROUTE}strip_prefix = true\n{UPSTREAM}"),
            "5:16 route[1].strip_prefix: has no effect: `path` is \"/\"",
        ),
        (
            format!("{LISTENER}[[route]]\npage = \"chat\"\nsubprotocol = \"mqtt\""),
            "5:15 route[1].subprotocol: never holds: who asks for a page offers no subprotocol",
        ),
        (
            format!("{LISTENER}{ROUTE}request_timeout = \"off\"\n{UPSTREAM}"),
            "5:19 route[1].request_timeout: has no effect without `http = true`",
        ),
        (
            format!("{LISTENER}{ROUTE}[upstream.echo]\nservers = [{{ url = \"ws://a\", backup = true }}]"),
            "6:12 upstream.echo.servers: ws://a and all others are backups",
        ),
        (
            format!("{LISTENER}{ROUTE}[upstream.echo]\nservers = [\"ws://127.0.0.1:8080\"]"),
            "5:11 upstream.echo.servers: ws://127.0.0.1:8080 is this gateway's own listener",
        ),
        (
            format!("{LISTENER}{ROUTE}{UPSTREAM}[[backend]]\nkind = \"echo\"\nlisten = \"0.0.0.0:9001\"\nhistory = 3"),
            "10:11 backend[1].history: has no effect: it is for kind = \"chat\"\n\
             9:10 backend[1].listen: an embedded server has no access rules of its own",
        ),
        (
            format!(
                "[[listener]]\naddress = \"0.0.0.0:1\"\ntls = {{ certificate = \"a\", key = \"b\", development = true }}\n\
                 {ROUTE}{UPSTREAM}tls = {{ ca = \"x\" }}"
            ),
            "2:11 listener[1].address: a development certificate is believed by nobody else\n\
             8:7 upstream.echo.tls: has no effect: no server is wss://",
        ),
        (
            format!("{LISTENER}{ROUTE}{UPSTREAM}health.on_unhealthy = \"close\""),
            "7:23 upstream.echo.health.on_unhealthy: has no effect: nobody checks the servers",
        ),
        (
            format!("{LISTENER}{ROUTE}{UPSTREAM}health.active = {{ path = \"/\", status = [200] }}"),
            "7:26 upstream.echo.health.active.path: has no effect with this `kind`\n\
             7:40 upstream.echo.health.active.status: has no effect with this `kind`",
        ),
        (
            format!("{LISTENER}{ROUTE}{UPSTREAM}health.active = {{ kind = \"http\", subprotocol = \"mqtt\" }}"),
            "7:48 upstream.echo.health.active.subprotocol: has no effect with this `kind`",
        ),
    ];
    for (text, expected) in rows {
        assert_warnings(&text, expected);
    }
}

/// A cap above a wider one, as far as it stands in the file.
#[test]
fn caps_that_are_never_reached_are_warned_of() {
    let rows = [
        ("sessions = 10", "", "", ""),
        (
            "sessions = 10\nsessions_per_client = 11",
            "sessions = 12",
            "sessions = 13, sessions_per_client = 14",
            "3:23 limits.sessions_per_client: 11 is above `limits.sessions` (10) and never reached\n\
             6:23 listener[1].limits.sessions: 12 is above `limits.sessions` (10) and never reached\n\
             9:23 route[1].limits.sessions: 13 is above `limits.sessions` (10) and never reached\n\
             9:49 route[1].limits.sessions_per_client: 14 is above `limits.sessions_per_client` (11) and never reached\n\
             9:49 route[1].limits.sessions_per_client: 14 is above `sessions` (13) and never reached",
        ),
        (
            "connections = 10\nconnections_pending = 11",
            "connections = 9, connections_pending = 10",
            "",
            "3:23 limits.connections_pending: 11 is above `limits.connections` (10) and never reached\n\
             6:51 listener[1].limits.connections_pending: 10 is above `connections` (9) and never reached",
        ),
        (
            "handshakes_per_client = \"10/s\"\nsessions = 9",
            "",
            "handshakes_per_client = \"20/s\", handshakes = \"600/m\"",
            "9:36 route[1].limits.handshakes_per_client: is above `limits.handshakes_per_client` and never reached",
        ),
    ];
    for (gateway, listener, route, expected) in rows {
        let text = format!(
            "[limits]\n{gateway}\n[[listener]]\naddress = \"127.0.0.1:8080\"\nlimits = {{ {listener} }}\n\
             [[route]]\nupstream = \"echo\"\nlimits = {{ {route} }}\n{UPSTREAM}"
        );
        assert_warnings(&text, expected);
    }
    let server = format!("[limits]\nsessions = 5\n{LISTENER}{ROUTE}{UPSTREAM}sessions_per_server = 6\n");
    let told: String = right(&server).warnings.iter().map(|warning| warning.message.clone()).collect();
    assert_eq!(told, "6 is above `limits.sessions` (5) and never reached");
}

fn assert_warnings(text: &str, expected: &str) {
    let warnings = right(text).warnings;
    let told = warnings.iter().map(|p| format!("{}:{} {}: {}", p.at.line, p.at.column, p.key, p.message));
    let mut told: Vec<_> = told.collect();
    told.sort();
    assert_eq!(told.join("\n"), expected, "{text}");
}

// What start-up says.

fn bound(address: &str) -> ListenerAddress {
    ListenerAddress::Tcp(address.parse().expect("an address"))
}

#[test]
fn start_up_names_the_bound_addresses_the_routes_and_the_page() {
    let config = right(&read("config.toml")).config;
    let bound = ["127.0.0.1:43211", "[::1]:43212"].map(bound);
    assert_eq!(
        config::show::start_up(&config, &bound, None, 2),
        "listening on ws://127.0.0.1:43211\n\
         listening on wss://[::1]:43212\n\
         workers: 2 (auto)\n\
         \n\
         ROUTE   HOST  PATH    GOES TO         ORIGINS\n\
         /       any   /       page chat       -\n\
         /chat   any   /chat   upstream chat   same-origin, none\n\
         /echo   any   /echo   upstream echo   same-origin, none\n\
         /clock  any   /clock  upstream clock  same-origin, none\n\
         \n\
         open http://127.0.0.1:43211/ in a browser\n"
    );
}

#[test]
fn the_page_to_open_is_one_that_this_machine_reaches() {
    let tls = "tls = { certificate = \"a\", key = \"b\" }\n";
    let page = "[[route]]\npath = \"/talk\"\npage = \"chat\"\n";
    let rows = [
        (format!("[[listener]]\naddress = \"0.0.0.0:0\"\n{page}"), "0.0.0.0:81", Some("http://127.0.0.1:81/talk")),
        (format!("[[listener]]\naddress = \"[::]:0\"\n{page}"), "[::]:81", Some("http://[::1]:81/talk")),
        (format!("{LISTENER}{tls}{page}"), "10.0.0.1:81", Some("https://10.0.0.1:81/talk")),
        (format!("{LISTENER}{page}host = \"chat.test\""), "127.0.0.1:81", Some("http://chat.test:81/talk")),
        (format!("{LISTENER}{page}host = \"[::1]\""), "[::1]:81", Some("http://[::1]:81/talk")),
        (format!("{LISTENER}{ROUTE}{UPSTREAM}"), "127.0.0.1:81", None),
    ];
    for (text, address, expected) in rows {
        let told = config::show::start_up(&right(&text).config, &[bound(address)], None, 1);
        let open = told.lines().find_map(|line| line.strip_prefix("open ")?.strip_suffix(" in a browser"));
        assert_eq!(open, expected, "{text}");
    }
}

// What is not TOML.

#[test]
fn syntax_is_told_with_its_line_and_hides_only_what_it_touches() {
    let cases = [
        // The value alone is wrong, the rest is still checked.
        (
            format!("{LISTENER}[[route]]\nname = chat\nupstream = \"eco\"\n{UPSTREAM}"),
            vec![
                "4:8 : not valid TOML: string values must be quoted",
                "5:12 route[1].upstream: no upstream \"eco\" (known: echo)",
            ],
        ),
        (
            format!("{LISTENER}{ROUTE}strict = true\nstrict = false\n{UPSTREAM}"),
            vec!["6:1 : not valid TOML: duplicate key"],
        ),
        // What seems to be missing may only be unreadable.
        (
            format!("[[listener\naddress = \"127.0.0.1:1\"\n{ROUTE}{UPSTREAM}"),
            vec!["1:11 : not valid TOML: unclosed array table, expected `]]`"],
        ),
        (
            format!("{LISTENER}head_timeout = 3\n{ROUTE}origins = [\"any\"\n{UPSTREAM}"),
            vec![
                "3:16 listener[1].head_timeout: \"3\" is not a duration",
                "6:11 : not valid TOML: this bracket is not closed",
            ],
        ),
        (
            format!("{LISTENER}{ROUTE}name = \"a\n{UPSTREAM}"),
            vec!["5:10 : not valid TOML: invalid basic string, expected `\"`"],
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(wrong(&text), expected, "{text}");
    }
}

#[test]
fn a_problem_shows_its_line() {
    let problems = parse(&format!("{LISTENER}{ROUTE}\tping = \"a\u{1b}\\u001b\"\n{UPSTREAM}")).expect_err("a mistake");
    assert!(!problems.to_string().contains('\u{1b}'), "control characters reach the terminal: {problems:?}");
    let problems = parse(&format!("{LISTENER}{ROUTE}[upstream.\"a\\u001b\"]\nservers = [7]\n")).expect_err("a mistake");
    assert!(!problems.to_string().contains('\u{1b}'), "nor those of a name: {problems:?}");

    let long = format!("{LISTENER}{ROUTE}subprotocols = [{} \"b c\"]\n{UPSTREAM}", "\"aaaaaaa\", ");
    assert!(parse(&long).expect_err("a mistake").to_string().contains("^^^^^\n"));
    let names: Vec<String> = (0..500).map(|n| format!("\"name{n}\"")).collect();
    let long = format!("{LISTENER}{ROUTE}subprotocols = [{}, \"b c\"]\n{UPSTREAM}", names.join(", "));
    let shown = parse(&long).expect_err("a mistake").to_string();
    assert!(shown.lines().all(|line| line.chars().count() < 140), "{shown}");
    let caret = shown.lines().nth(2).and_then(|line| line.find('^')).expect("a caret");
    assert_eq!(shown.lines().nth(1).map(|line| &line[caret..caret + 5]), Some("\"b c\""));
}

#[test]
fn later_problems_point_into_the_same_file() {
    let Loaded { source, .. } = right(&format!("{LISTENER}{ROUTE}{UPSTREAM}"));
    let problem = source.problem(
        Position { line: 2, column: 11 },
        "listener[1].address",
        "is in use",
        Some("stop the other".into()),
    );
    assert_eq!(
        problem.to_string(),
        "conf/config.toml:2:11 listener[1].address: is in use\n  \
           2 | address = \"127.0.0.1:8080\"\n    \
             |           ^^^^^^^^^^^^^^^^\n    \
             = help: stop the other"
    );
    let nowhere = Source::new("x.toml", "").problem(Position::default(), "", "is empty", None);
    assert_eq!(Problems::from(nowhere).to_string(), "x.toml: is empty\n\n1 problem");
}

proptest! {
    #[test]
    fn no_text_panics(text in "(\\PC|[\\[\\]{}=\"#.\n$]){0,80}") {
        let _ = parse(&text).map_err(|problems| problems.to_string());
    }

    /// A right file with some of it overwritten: refused or accepted, but each problem has a place in the file.
    #[test]
    fn damage_is_told_in_its_place(at in 0..1500usize, with in "[\\[\\]{}=\"'#a1 \n,.é]{1,4}") {
        let text = read("config.toml");
        let kept: Vec<char> = text.chars().collect();
        let (at, end) = (at.min(kept.len()), (at + with.chars().count()).min(kept.len()));
        let damaged = format!("{}{with}{}", kept[..at].iter().collect::<String>(), kept[end..].iter().collect::<String>());
        if let Err(problems) = parse(&damaged) {
            for problem in problems.iter() {
                prop_assert!(problem.at.line <= damaged.lines().count() + 1, "{problem}");
            }
        }
    }
}

// The command line.

fn tidegate(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(args)
        .current_dir(folder)
        .env_remove("TIDEGATE_TEST_UNSET")
        .output()
        .expect("the binary starts")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// A folder of its own, gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("config-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder for the test");
        Self(path)
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.0.join(file), text).expect("a file for the test");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn check_reports_every_mistake_of_a_file_at_once() {
    let output = tidegate(&repository().join("tests/config"), &["check", "--config", "ten_mistakes.toml"]);
    assert_eq!((output.status.code(), out(&output)), (Some(1), String::new()));
    let told = err(&output);

    let text = read("tests/config/ten_mistakes.toml");
    let numbered =
        |line: &&str| line.rsplit_once("# ").is_some_and(|(_, end)| end.ends_with(|c: char| c.is_ascii_digit()));
    let mistaken: Vec<usize> =
        text.lines().enumerate().filter(|(_, line)| numbered(line)).map(|(index, _)| index + 1).collect();
    assert!(mistaken.len() >= 10);
    for line in mistaken {
        assert!(told.contains(&format!("ten_mistakes.toml:{line}:")), "line {line} is not told:\n{told}");
    }
    assert_eq!(
        told,
        read("tests/config/ten_mistakes.txt"),
        "the answer changed; when rightly so: cd tests/config && tidegate check --config ten_mistakes.toml 2> ten_mistakes.txt"
    );
}

#[test]
fn a_missing_certificate_is_told_beside_the_other_mistakes() {
    let folder = Folder::new("beside");
    folder.write(
        "config.toml",
        "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = { certificate = \"no.pem\", key = \"no.key\" }\n\n\
         [[route]]\nupstream = \"echo\"\n\n\
         [upstream.echo]\nservers = [\"wss://a\"]\ntls = { ca = \"none.pem\" }\nconect_timeout = \"1s\"\n",
    );
    let output = tidegate(&folder.0, &["check"]);
    let told = err(&output);
    assert_eq!(output.status.code(), Some(1));
    for place in [
        "config.toml:3:23 listener[1].tls.certificate: no.pem",
        "config.toml:10:14 upstream.echo.tls.ca: none.pem",
        "config.toml:11:1 upstream.echo.conect_timeout: unknown key",
    ] {
        assert!(told.contains(place), "{place:?} is not in:\n{told}");
    }
}

#[test]
fn check_tells_where_the_start_could_make_no_file() {
    let folder = Folder::new("places");
    let here = folder.0.display();
    let admin = format!("[admin]\naddress = \"unix:{here}/none/admin.sock\"\n");
    let listener = format!("[[listener]]\naddress = \"unix:{here}/none/app.sock\"\n");
    for (more, expected) in [
        (admin.as_str(), "admin.address: "),
        (listener.as_str(), "listener.address: "),
        ("[log]\nfile = \"none/log\"\n", "log.file: "),
        ("[log]\nfile = \".\"\n", "is a directory"),
    ] {
        folder.write("config.toml", &format!("{LISTENER}{ROUTE}{UPSTREAM}{more}"));
        let output = tidegate(&folder.0, &["check"]);
        let told = err(&output);
        assert_eq!(output.status.code(), Some(0), "another machine may have it: {told}");
        assert!(told.contains(expected) && told.contains("the start fails"), "{expected} {told}");
    }
    folder.write("config.toml", &format!("{LISTENER}{ROUTE}{UPSTREAM}{admin}"));
    let told = err(&tidegate(&folder.0, &["run"]));
    assert!(told.contains("(its folder is missing: make it, or choose another path)"), "{told}");
}

#[test]
fn names_may_have_letters_of_any_language_and_quotes() {
    for name in ["chat", "größe 2", "日本語", "it's \\\"this\\\"", "e\u{301}te\u{301}", "🦀"] {
        right(&format!("{LISTENER}{ROUTE}name = \"{name}\"\n{UPSTREAM}"));
    }
}

#[test]
fn check_says_what_would_be_done() {
    let folder = Folder::new("summary");
    folder.write("config.toml", &read("config.toml"));
    let output = tidegate(&folder.0, &["check"]);
    // The limits of a default may be more than this machine has files for.
    let about_files = |text: &&str| text.starts_with("warning: config.toml: limits: may need ");
    let warnings = err(&output);
    let others: Vec<_> = warnings.split_terminator("\n\n").filter(|text| !about_files(text)).collect();
    assert_eq!((output.status.code(), others), (Some(0), vec![]));
    let told = out(&output);
    let lines = [
        "config.toml is right",
        "would listen on ws://127.0.0.1:8080",
        "ROUTE   HOST  PATH    GOES TO         ORIGINS",
        "/chat   any   /chat   upstream chat   same-origin, none",
        "clock     ws://127.0.0.1:9002  3s + 5s",
        "clock, every 1s      127.0.0.1:9002",
    ];
    for line in lines {
        assert!(told.lines().any(|told| told == line), "{line:?} is not in:\n{told}");
    }
    assert!(!folder.0.join("certs").exists(), "a check makes nothing");
}

#[test]
fn check_without_a_file_looks_at_the_built_in_example() {
    let folder = Folder::new("built-in");
    let output = tidegate(&folder.0, &["check"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(err(&output).contains("no config.toml here"), "{}", err(&output));
    assert!(out(&output).contains("would listen on ws://127.0.0.1:8080"));
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let folder = Folder::new("missing");
    for args in [&["check", "--config", "nope.toml"][..], &["run", "--config", "nope.toml"], &["--config", "nope.toml"]]
    {
        let output = tidegate(&folder.0, args);
        assert_eq!((output.status.code(), out(&output)), (Some(1), String::new()), "{args:?}");
        assert!(err(&output).starts_with("nope.toml: cannot be read: "), "{}", err(&output));
    }
}

#[test]
fn check_waits_for_no_pipe_and_reads_no_device() {
    let folder = Folder::new("pipes");
    let status = Command::new("mkfifo").arg(folder.0.join("pipe")).status();
    assert!(status.expect("mkfifo runs").success());
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\n";
    let route = "[[route]]\nrespond = { status = 204 }\n";
    let token = "[admin]\naddress = \"127.0.0.1:0\"\ntoken_file = \"pipe\"\n";
    folder.write("token.toml", &format!("{listener}{route}{token}"));
    for (name, certificate) in [("pipe.toml", "pipe"), ("zero.toml", "/dev/zero")] {
        let tls = format!("tls = {{ certificate = \"{certificate}\", key = \"pipe\" }}\n");
        folder.write(name, &format!("{listener}{tls}{route}"));
    }
    for config in ["pipe", "token.toml", "pipe.toml", "zero.toml"] {
        let output = tidegate(&folder.0, &["check", "--config", config]);
        assert_eq!(output.status.code(), Some(1), "{config}: {}", err(&output));
        assert!(err(&output).contains("is no regular file"), "{config}: {}", err(&output));
    }
}

#[test]
fn a_file_that_is_no_text_is_told() {
    let folder = Folder::new("bytes");
    std::fs::write(folder.0.join("config.toml"), b"[log]\nlevel = \"\xff\"\n").expect("a file for the test");
    let output = tidegate(&folder.0, &["check"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).starts_with("config.toml:2:10 not UTF-8"), "{}", err(&output));
    let output = tidegate(&folder.0, &["check", "--config", "."]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).starts_with(".: is a directory"), "{}", err(&output));
}

#[test]
fn check_loads_certificates_and_points_at_what_named_them() {
    let folder = Folder::new("tls");
    let tls = "tls = { certificate = \"nope.pem\", key = \"nope.key\" }\n";
    folder.write("config.toml", &format!("{LISTENER}{tls}{ROUTE}{UPSTREAM}"));
    let output = tidegate(&folder.0, &["check"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).starts_with("config.toml:3:23 listener[1].tls.certificate: "), "{}", err(&output));
    assert!(err(&output).contains("  3 | tls = { certificate = \"nope.pem\""), "{}", err(&output));
}

#[test]
fn check_prints_warnings_and_is_content() {
    let folder = Folder::new("warnings");
    folder.write("config.toml", &format!("{LISTENER}{ROUTE}{UPSTREAM}[upstream.spare]\nservers = [\"ws://b\"]\n"));
    let output = tidegate(&folder.0, &["check"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(
        err(&output).starts_with("warning: config.toml:7:11 upstream.spare: no route goes there"),
        "{}",
        err(&output)
    );
}

#[test]
fn the_printed_defaults_can_be_used() {
    let folder = Folder::new("defaults");
    let output = tidegate(&folder.0, &["check", "--print-default"]);
    assert_eq!((output.status.code(), out(&output)), (Some(0), config::defaults()));
    folder.write("config.toml", &out(&output));
    let output = tidegate(&folder.0, &["check"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
}

#[test]
fn version_help_and_completions() {
    let root = repository();
    let version = tidegate(&root, &["--version"]);
    assert_eq!(out(&version), format!("tidegate {}\n", env!("CARGO_PKG_VERSION")));
    for command in ["run", "check", "backend", "cert", "completions"] {
        assert!(out(&tidegate(&root, &["--help"])).contains(&format!("\n  {command} ")), "{command}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let output = tidegate(&root, &["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(out(&output).contains("print-default"), "{shell}");
    }
}

#[test]
fn wrong_usage_ends_with_2() {
    let root = repository();
    let rows: [&[&str]; 6] = [
        &["serve"],
        &["--confg", "x"],
        &["backend", "echo"],
        &["backend", "ecko", "--listen", "127.0.0.1:0"],
        &["backend", "echo", "--listen", "localhost"],
        &["cert", "--out", "x"],
    ];
    for args in rows {
        let output = tidegate(&root, args);
        assert_eq!((output.status.code(), out(&output)), (Some(2), String::new()), "{args:?}");
    }
}

#[test]
fn a_backend_whose_port_is_taken_says_so() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let output = tidegate(&repository(), &["backend", "echo", "--listen", &address]);
    assert_eq!((output.status.code(), out(&output)), (Some(1), String::new()));
    let told = err(&output);
    assert!(told.starts_with(&format!("error: cannot listen on {address}: ")), "{told}");
    assert!(told.contains("\n  because: "), "{told}");
}
