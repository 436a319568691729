//! A folder that is served: types, ranges, conditions, and no way out of it.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use support::client::{KEY, Peer};
use support::gateway::{Gateway, folder};
use support::http::{Reply, ask, status};

const PAGE: &str = "<!doctype html><title>home</title>";
const TEXT: &str = "0123456789abcdef";

/// A folder `public` with a bit of everything, and a secret beside it.
fn site() -> PathBuf {
    let root = folder();
    let public = root.join("public");
    for folder in ["docs/deep", ".git", ".well-known", "empty", "odd.d"] {
        fs::create_dir_all(public.join(folder)).expect("a folder");
    }
    let files = [
        ("index.html", PAGE),
        ("docs/index.html", "<title>docs</title>"),
        ("docs/deep/a.txt", TEXT),
        ("app.js", "export {};"),
        ("app.css", "body {}"),
        ("data.json", "{}"),
        ("module.wasm", "\0asm"),
        ("picture.svg", "<svg/>"),
        ("no-extension", "?"),
        ("with space & \u{fc}.txt", "umlaut"),
        ("nothing", ""),
        (".env", "SECRET"),
        (".git/config", "SECRET"),
        (".well-known/security.txt", "Contact: a@b"),
        ("..data.txt", "SECRET"),
    ];
    for (name, text) in files {
        fs::write(public.join(name), text).expect("a file");
    }
    fs::write(root.join("secret.txt"), "SECRET").expect("a file");
    fs::create_dir(root.join("public-too")).expect("a folder");
    fs::write(root.join("public-too/secret.txt"), "SECRET").expect("a file");
    let links = [
        ("docs/deep/a.txt", "inside.txt"),
        ("docs", "docs-link"),
        ("../secret.txt", "out-relative.txt"),
        ("docs/../../secret.txt", "out-hidden.txt"),
        ("..", "up"),
        ("/etc/passwd", "out-absolute.txt"),
        ("/etc", "etc"),
        ("loop", "loop"),
        ("../public-too", "too"),
        ("gone", "dangling"),
    ];
    for (to, name) in links {
        symlink(to, public.join(name)).expect("a link");
    }
    let absolute = root.join("secret.txt");
    symlink(absolute, public.join("docs/out.txt")).expect("a link");
    support::make_pipe(&public.join("pipe"));
    root
}

fn config(more: &str) -> String {
    format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n\n[[route]]\nfiles = {{ folder = \"public\" }}\n{more}\n\n\
         [[route]]\npath = \"/static\"\nfiles = {{ folder = \"public\" }}\n"
    )
}

fn start(more: &str) -> Gateway {
    Gateway::start_in(site(), &config(more), "exec \"$0\" \"$@\"")
}

fn get(gateway: &Gateway, target: &str) -> Reply {
    send(gateway, "GET", target, "")
}

fn send(gateway: &Gateway, method: &str, target: &str, more: &str) -> Reply {
    let text = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n");
    ask(gateway.address(), text.as_bytes())
}

fn one(reply: &Reply, name: &str) -> String {
    reply.all(name).join("|")
}

#[test]
fn files_with_their_types() {
    let gateway = start("");
    #[rustfmt::skip]
    let rows = [
        ("/", "text/html; charset=utf-8", PAGE),
        ("/index.html", "text/html; charset=utf-8", PAGE),
        ("/?v=1", "text/html; charset=utf-8", PAGE),
        ("/docs/", "text/html; charset=utf-8", "<title>docs</title>"),
        ("/docs/deep/a.txt", "text/plain; charset=utf-8", TEXT),
        ("//docs//deep//a.txt", "text/plain; charset=utf-8", TEXT),
        ("/%64ocs/deep/%61.txt", "text/plain; charset=utf-8", TEXT),
        ("/app.js", "text/javascript; charset=utf-8", "export {};"),
        ("/app.js?v=%2F..%2F", "text/javascript; charset=utf-8", "export {};"),
        ("/app.css", "text/css; charset=utf-8", "body {}"),
        ("/data.json", "application/json", "{}"),
        ("/module.wasm", "application/wasm", "\0asm"),
        ("/picture.svg", "image/svg+xml", "<svg/>"),
        ("/no-extension", "application/octet-stream", "?"),
        ("/with%20space%20&%20%C3%BC.txt", "text/plain; charset=utf-8", "umlaut"),
        ("/nothing", "application/octet-stream", ""),
        ("/.well-known/security.txt", "text/plain; charset=utf-8", "Contact: a@b"),
        ("/inside.txt", "text/plain; charset=utf-8", TEXT),
        ("/docs-link/deep/a.txt", "text/plain; charset=utf-8", TEXT),
        ("/static/", "text/html; charset=utf-8", PAGE),
        ("/static/app.js", "text/javascript; charset=utf-8", "export {};"),
    ];
    for (target, kind, body) in rows {
        let reply = get(&gateway, target);
        assert_eq!((reply.status(), reply.text().as_str()), (200, body), "{target}: {}", reply.head);
        assert_eq!(one(&reply, "content-type"), kind, "{target}");
        assert_eq!(one(&reply, "content-length"), body.len().to_string(), "{target}");
        assert_eq!(one(&reply, "x-content-type-options"), "nosniff", "{target}");
        let head = send(&gateway, "HEAD", target, "Range: bytes=0-0\r\n");
        assert_eq!((head.status(), head.body.len()), (200, 0), "HEAD {target}: {}", head.head);
        for name in ["content-type", "content-length", "etag", "last-modified"] {
            assert_eq!(one(&head, name), one(&reply, name), "HEAD {target}: {name}");
        }
    }
}

#[test]
fn no_way_out_and_nothing_hidden() {
    let gateway = start("encoded_slashes = true");
    #[rustfmt::skip]
    let rows = [
        // Dot segments, in every writing.
        ("/../secret.txt", 400), ("/docs/../../secret.txt", 400), ("/%2e%2e/secret.txt", 400), ("/.%2E/secret.txt", 400),
        ("/..%2fsecret.txt", 400), ("/%2e%2e%2fsecret.txt", 400), ("/docs/..%2f..%2fsecret.txt", 400), ("/..;/secret.txt", 400),
        ("/..\\secret.txt", 400), ("/..%5csecret.txt", 400), ("/%252e%252e/secret.txt", 404), ("/%252e%252e%252fsecret.txt", 404),
        ("/%c0%ae%c0%ae/secret.txt", 404), ("/..%c0%afsecret.txt", 404), ("/\u{2025}/secret.txt", 404), ("/.../secret.txt", 404),
        ("/static/../secret.txt", 400), ("/static/..", 400), ("/static..", 404), ("/static../secret.txt", 404),
        // A beginning that is the folder's.
        ("/../public-too/secret.txt", 400), ("/-too/secret.txt", 404), ("/static-too/secret.txt", 404),
        // Paths from the root.
        ("//etc/passwd", 404), ("/%2Fetc/passwd", 404), ("/%2F%2Fetc%2Fpasswd", 404), ("/file:///etc/passwd", 404),
        ("/docs//etc/passwd", 404), ("/C:/windows/win.ini", 404),
        // Links that lead out, or nowhere.
        ("/out-relative.txt", 404), ("/out-hidden.txt", 404), ("/out-absolute.txt", 404), ("/docs/out.txt", 404),
        ("/etc/passwd", 404), ("/etc/", 404), ("/etc", 404), ("/up/secret.txt", 404), ("/up/public/index.html", 404), ("/up", 404),
        ("/too/secret.txt", 404), ("/loop", 404), ("/loop/a", 404), ("/dangling", 404), ("/docs-link/out.txt", 404),
        // NUL and other control bytes, names that are too long.
        ("/index.html%00", 400), ("/index.html%00.txt", 400), ("/%0aindex.html", 400), ("/index.html%7f", 400),
        // Hidden.
        ("/.env", 404), ("/%2eenv", 404), ("/.git/config", 404), ("/.git/", 404), ("/%2Egit/config", 404), ("/..data.txt", 404),
        ("/docs%2F..%2F.env", 400), ("/docs%2F.env", 404), ("/static/.env", 404), ("/.", 400), ("/.well-known/.env", 404),
        // No file: no listing, no folder as a file, no pipe.
        ("/empty/", 404), ("/docs/deep/", 404), ("/index.html/", 404), ("/index.html/a", 404), ("/pipe", 404), ("/none", 404),
    ];
    let mut wrong = Vec::new();
    for (target, expected) in rows {
        for method in ["GET", "HEAD"] {
            let reply = send(&gateway, method, target, "");
            if reply.status() != expected {
                wrong.push(format!("{method} {target:?}: {}, not {expected}", reply.status()));
            }
            assert!(
                !reply.text().contains("SECRET") && !reply.text().contains("root:"),
                "{target:?}: {}",
                reply.text()
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let long = get(&gateway, &format!("/{}", "x".repeat(300)));
    assert_eq!(long.status(), 404);
    let refused = gateway.log("/out-absolute.txt");
    assert!(refused.contains("file_not_found") && refused.contains("outside"), "{refused}");
}

#[test]
fn refusals_are_those_of_the_gateway() {
    let gateway = start("response_headers = { set = { X-Site = \"a\" } }\nallow = [\"any\"]");
    let missing = send(&gateway, "GET", "/none", "Accept: application/json\r\n");
    assert_eq!(one(&missing, "content-type"), "application/problem+json");
    assert!(missing.text().contains("\"reason\":\"file_not_found\""), "{}", missing.text());
    assert_eq!(get(&gateway, "/none").text(), "there is no such file here\n");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PROPFIND", "TRACE"] {
        let reply = send(&gateway, method, "/index.html", "Content-Length: 0\r\n");
        assert_eq!((reply.status(), one(&reply, "allow").as_str()), (405, "GET, HEAD"), "{method}");
    }
    for target in ["/", "/none"] {
        assert_eq!(one(&get(&gateway, target), "x-site"), "a", "{target}");
    }
    let upgrade = format!(
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
    );
    let text = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{upgrade}\r\n");
    assert_eq!(ask(gateway.address(), text.as_bytes()).status(), 404, "no WebSocket is there");
    let closed = start("deny = [\"any\"]");
    assert_eq!([get(&closed, "/").status(), get(&closed, "/none").status()], [403, 403]);
}

#[test]
fn keys_hold_for_files_too() {
    let root = site();
    fs::write(root.join("keys.txt"), "ada: 0123456789abcdef0123456789abcdef\n").expect("a file");
    let text = config("keys = { file = \"keys.txt\", header = \"X-API-Key\", query = \"key\" }");
    let gateway = Gateway::start_in(root, &text, "exec \"$0\" \"$@\"");
    assert_eq!(get(&gateway, "/").status(), 401);
    assert_eq!(get(&gateway, "/none").status(), 401, "nobody learns what is there");
    let reply = send(&gateway, "GET", "/", "X-API-Key: 0123456789abcdef0123456789abcdef\r\n");
    assert_eq!(reply.text(), PAGE);
    let redirect = get(&gateway, "/docs?a=b&key=0123456789abcdef0123456789abcdef&c=d");
    assert_eq!((redirect.status(), one(&redirect, "location").as_str()), (307, "/docs/?a=b&c=d"), "no key is printed");
}

#[test]
fn a_folder_is_sent_to_its_slash_and_to_no_other_host() {
    let gateway = start("");
    #[rustfmt::skip]
    let rows = [
        ("/docs", "/docs/"), ("/docs?v=1", "/docs/?v=1"), ("/static/docs", "/static/docs/"),
        ("//docs", "/docs/"), ("//static/docs", "/static/docs/"), ("/empty", "/empty/"),
        ("/static", "/static/"), ("/static?v=1&w", "/static/?v=1&w"), ("//st%61tic", "/static/"),
    ];
    for (target, expected) in rows {
        let reply = get(&gateway, target);
        assert_eq!((reply.status(), one(&reply, "location").as_str()), (307, expected), "{target}");
    }
}

#[test]
fn conditions_and_ranges() {
    let gateway = start("");
    let target = "/docs/deep/a.txt";
    let first = get(&gateway, target);
    let (etag, modified) = (one(&first, "etag"), one(&first, "last-modified"));
    assert!(etag.starts_with('"') && !modified.is_empty(), "{}", first.head);
    assert_eq!(one(&first, "accept-ranges"), "bytes");
    let (long_ago, far) = ("Mon, 01 Jan 2001 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT");
    let range = |range: &str| format!("Range: {range}\r\n");
    #[rustfmt::skip]
    let rows = [
        ("the same tag", format!("If-None-Match: {etag}\r\n"), 304, ""),
        ("the same tag, weakly", format!("If-None-Match: W/{etag}\r\n"), 304, ""),
        ("one of a list", format!("If-None-Match: \"a\", {etag}\r\n"), 304, ""),
        ("one of two lines", format!("If-None-Match: \"a\"\r\nIf-None-Match: {etag}\r\n"), 304, ""),
        ("any", "If-None-Match: *\r\n".into(), 304, ""),
        ("another tag", "If-None-Match: \"a\"\r\n".into(), 200, TEXT),
        ("another tag wins over the date", format!("If-None-Match: \"a\"\r\nIf-Modified-Since: {modified}\r\n"), 200, TEXT),
        ("not modified since", format!("If-Modified-Since: {modified}\r\n"), 304, ""),
        ("not modified since then", format!("If-Modified-Since: {far}\r\n"), 304, ""),
        ("modified since", format!("If-Modified-Since: {long_ago}\r\n"), 200, TEXT),
        ("no date", "If-Modified-Since: yesterday\r\n".into(), 200, TEXT),
        ("if it is the same", format!("If-Match: {etag}\r\n"), 200, TEXT),
        ("if it is one of two lines", format!("If-Match: \"a\"\r\nIf-Match: {etag}\r\n"), 200, TEXT),
        ("if it is another", "If-Match: \"a\"\r\n".into(), 412, ""),
        ("if unmodified", format!("If-Unmodified-Since: {long_ago}\r\n"), 412, ""),
        ("the beginning", range("bytes=0-3"), 206, "0123"),
        ("from there on", range("bytes=10-"), 206, "abcdef"),
        ("the end", range("bytes=-4"), 206, "cdef"),
        ("more than there is", range("bytes=10-100"), 206, "abcdef"),
        ("behind the end", range("bytes=16-"), 416, ""),
        ("more of the end than there is", range("bytes=-999"), 206, TEXT),
        ("none of the end", range("bytes=-0"), 416, ""),
        ("more than 64 bits", range("bytes=10-99999999999999999999"), 206, "abcdef"),
        ("another unit", range("items=0-5"), 200, TEXT),
        ("a unit in another case", range("Bytes=0-3"), 206, "0123"),
        ("no range", range("bytes=abc"), 416, ""),
        ("backwards", range("bytes=5-2"), 416, ""),
        ("several", range("bytes=0-1,4-5"), 200, TEXT),
        ("a range, if it is the same", format!("{}If-Range: {etag}\r\n", range("bytes=0-3")), 206, "0123"),
        ("a range, if it is another", format!("{}If-Range: \"a\"\r\n", range("bytes=0-3")), 200, TEXT),
        ("a range, weakly the same", format!("{}If-Range: W/{etag}\r\n", range("bytes=0-3")), 200, TEXT),
        ("a range, by date", format!("{}If-Range: {modified}\r\n", range("bytes=0-3")), 200, TEXT),
        ("a range of what is there already", format!("{}If-None-Match: {etag}\r\n", range("bytes=0-3")), 304, ""),
    ];
    for (name, more, expected, body) in rows {
        let reply = send(&gateway, "GET", target, &more);
        assert_eq!((reply.status(), reply.text().as_str()), (expected, body), "{name}: {}", reply.head);
        if [200, 206, 304].contains(&expected) {
            assert_eq!(one(&reply, "etag"), etag, "{name}");
        }
    }
    assert_eq!(one(&send(&gateway, "GET", target, &range("bytes=2-5")), "content-range"), "bytes 2-5/16");
    assert_eq!(one(&send(&gateway, "GET", target, &range("bytes=16-")), "content-range"), "bytes */16");
    assert_eq!(one(&send(&gateway, "GET", target, &range("bytes=-999")), "content-range"), "bytes 0-15/16");
    for part in ["bytes=0-", "bytes=0-0", "bytes=5-", "bytes=-5"] {
        let reply = send(&gateway, "GET", "/nothing", &range(part));
        assert_eq!((reply.status(), one(&reply, "content-range").as_str()), (200, ""), "{part} of an empty file");
    }
    fs::write(gateway.directory.join("public").join(&target[1..]), "changed").expect("a file");
    let changed = send(&gateway, "GET", target, &format!("If-None-Match: {etag}\r\n"));
    assert_eq!((changed.status(), changed.text().as_str()), (200, "changed"));
}

/// As curl offers it with its first request (RFC 9110 section 7.8).
#[test]
fn an_offer_of_h2c_gets_files_and_pages() {
    let gateway = start("\n[[route]]\npath = \"/page\"\npage = \"chat\"\n");
    let offer = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";
    for (target, begin) in [("/app.js", "export"), ("/static/app.js", "export"), ("/page", "<!doctype html>")] {
        let text = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{offer}\r\nGET /smuggled HTTP/1.1\r\n\r\n");
        let reply = ask(gateway.address(), text.as_bytes());
        assert_eq!((reply.status(), one(&reply, "connection").as_str()), (200, "close"), "{target}: {}", reply.head);
        assert!(reply.text().starts_with(begin) && !reply.text().contains("HTTP/1.1"), "{target}: {}", reply.text());
    }
}

#[test]
fn a_connection_serves_many_files() {
    let gateway = start("");
    let mut peer = Peer::connect(gateway.address());
    for _ in 0..20 {
        peer.write(b"GET /app.js HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(status(&peer.head()), 200);
        assert_eq!(peer.bytes("export {};".len()), b"export {};");
    }
}

#[test]
fn a_new_release_may_take_the_folders_place() {
    let root = folder();
    for (release, text) in [("one", "1"), ("two", "2")] {
        fs::create_dir(root.join(release)).expect("a folder");
        fs::write(root.join(release).join("a"), text).expect("a file");
    }
    let point = |root: &Path, to: &str| {
        symlink(to, root.join("next")).expect("a link");
        fs::rename(root.join("next"), root.join("public")).expect("it takes its place");
    };
    point(&root, "one");
    let gateway = Gateway::start_in(root, &config(""), "exec \"$0\" \"$@\"");
    assert_eq!(get(&gateway, "/a").text(), "1");
    point(&gateway.directory, "two");
    assert_eq!(get(&gateway, "/a").text(), "2");
}

#[test]
fn a_large_file_needs_no_more_memory_than_a_small_one() {
    const LENGTH: u64 = 1 << 30;
    let gateway = start("");
    let file = fs::File::create(gateway.directory.join("public/large")).expect("a file");
    file.set_len(LENGTH).expect("a hole");
    get(&gateway, "/app.js");
    let before = gateway.resident();
    let mut stream = TcpStream::connect(gateway.address()).expect("it listens");
    stream.set_read_timeout(Some(support::PATIENCE)).expect("a timeout");
    stream.write_all(b"GET /large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("it is written");
    let (mut read, mut most) = (0_u64, 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match stream.read(&mut buffer).expect("in time") {
            0 => break,
            n => read += n as u64,
        }
        if read % (64 << 20) < buffer.len() as u64 {
            most = most.max(gateway.resident());
        }
    }
    assert!(read > LENGTH && read < LENGTH + 1000, "{read}");
    assert!(most.saturating_sub(before) < 8 << 20, "{before} grew to {most}");
}

#[test]
fn a_folder_that_is_not_there_is_told_with_its_line() {
    let root = folder();
    fs::write(root.join("config.toml"), config("")).expect("written");
    fs::write(root.join("public"), "a file").expect("written");
    let check = || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let output = command.args(["check", "--config"]).arg(root.join("config.toml")).output().expect("it runs");
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
    };
    let told = check();
    assert!(told.contains("5:20 route[1].files.folder:") && told.contains("is no folder"), "{told}");
    fs::remove_file(root.join("public")).expect("removed");
    let told = check();
    assert!(told.contains("cannot be served: No such file or directory"), "{told}");
    fs::remove_dir_all(root).expect("removed");
}
