//! Redirects and fixed answers through the real gateway: for plain requests and for handshakes.

mod support;

use support::client::Peer;
use support::gateway::{Gateway, folder};
use support::http::{Head, Reply, ask, reply, status};
use support::tls::{self, Authority};
use support::upstream::{answering, switching};

const ROUTES: &str = r#"
[[route]]
name = "app"
path = "/app"
upstream = "app"
redirect = "https"

[[route]]
name = "moved"
path = "/old"
redirect = { to = "https://new.example:8443/v2{path}", status = 302 }
response_headers = { set = { X-Answered-By = "gateway" } }

[[route]]
name = "port"
path = "/port"
redirect = { to = "https://{host}:8443{path}" }

[[route]]
name = "fixed"
path = "/gone"
respond = { status = 410, body = "<p>gone\n", content_type = "text/html" }

[[route]]
name = "empty"
path = "/empty"
respond = { status = 204 }

[[route]]
name = "hidden"
path = "/hidden"
respond = { status = 200, body = "inside" }
deny = ["any"]

[[route]]
path = "/secure"
redirect = "https"
"#;

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: app.test:8080\r\nConnection: close\r\n\r\n")
}

/// The answers to a plain request and to a handshake.
fn both(gateway: &Gateway, path: &str, more: &str) -> [Reply; 2] {
    let plain = get(path).replace("\r\n\r\n", &format!("\r\n{more}\r\n"));
    let handshake = Head::new(path).set("Host: app.test:8080").text().replace("\r\n\r\n", &format!("\r\n{more}\r\n"));
    [plain, handshake].map(|text| ask(gateway.address(), text.as_bytes()))
}

#[test]
fn redirects_and_fixed_answers() {
    let (upstream, seen) = answering(|head| switching(head, "").into_bytes());
    let folder = folder();
    let authority = Authority::new("test");
    let (certificate, key) = authority.issue(&["localhost"]).write(&folder, "server");
    let text = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\ntls = {{ certificate = {certificate:?}, key = {key:?} }}\n\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.1\"]\n\
         {ROUTES}\n[upstream.app]\nservers = [\"ws://{upstream}\"]\n"
    );
    let gateway = Gateway::start_in(folder, &text, "exec \"$0\" \"$@\"");
    #[rustfmt::skip]
    let rows = [
        ("https", "/app/x?a=b", "", 308, Some("https://app.test/app/x?a=b"), ""),
        ("https, as the client wrote it", "//%61pp//evil.test", "", 308, Some("https://app.test//%61pp//evil.test"), ""),
        ("who is no proxy is not believed", "/app", "X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.test\r\n", 308, Some("https://app.test/app"), ""),
        ("another host", "/old/x?y", "", 302, Some("https://new.example:8443/v2/old/x?y"), ""),
        ("the host is the route's", "/old/@evil.test", "", 302, Some("https://new.example:8443/v2/old/@evil.test"), ""),
        ("a port of its own", "/port", "", 308, Some("https://app.test:8443/port"), ""),
        ("fixed", "/gone/x", "", 410, None, "<p>gone\n"),
        ("no content", "/empty", "", 204, None, ""),
        ("access rules hold", "/hidden", "", 403, None, "this address may not connect\n"),
        ("https and nothing behind it", "/secure", "", 308, Some("https://app.test/secure"), ""),
        ("dot segments", "/old/../x", "", 400, None, "the path holds a dot segment\n"),
    ];
    for (name, path, more, expected, location, body) in rows {
        for reply in both(&gateway, path, more) {
            assert_eq!(reply.status(), expected, "{name}: {reply:?}");
            assert_eq!(reply.all("location"), Vec::from_iter(location), "{name}: {reply:?}");
            if expected < 400 || expected == 410 {
                assert_eq!(reply.text(), body, "{name}: {reply:?}");
            }
            assert_eq!(reply.all("connection"), ["close"], "{name}: {reply:?}");
        }
    }
    let [plain, handshake] = both(&gateway, "/gone", "");
    assert_eq!(
        (plain.all("content-type"), handshake.all("content-type")),
        (vec!["text/html".into()], vec!["text/html".into()])
    );
    assert_eq!(both(&gateway, "/old", "")[0].all("x-answered-by"), ["gateway"]);
    let head = ask(gateway.address(), get("/gone").replace("GET", "HEAD").as_bytes());
    assert_eq!((head.status(), head.body.len()), (410, 0), "{head:?}");
    // No Host, no place to be sent to.
    let nobody = ask(gateway.address(), b"GET /app HTTP/1.1\r\nHost: a.test/@evil.test\r\nConnection: close\r\n\r\n");
    assert_eq!(nobody.status(), 400, "{nobody:?}");
    assert_eq!(seen.connections(), 0, "nothing of it was dialled");

    // Over TLS, or through a proxy that says so, the service itself is reached.
    let mut peer = tls::connect(gateway.addresses()[1], "localhost", &authority.client(None)).expect("TLS");
    peer.write(Head::new("/app").text().as_bytes());
    assert_eq!(status(&peer.head()), 101);
    let mut peer = tls::connect(gateway.addresses()[1], "localhost", &authority.client(None)).expect("TLS");
    peer.write(get("/secure").as_bytes());
    assert_eq!(reply(&mut peer).status(), 404, "over TLS nothing is there");
    let mut peer = Peer::connect(gateway.addresses()[2]);
    peer.write(Head::new("/app").with("X-Forwarded-Proto: https").text().as_bytes());
    assert_eq!(status(&peer.head()), 101);
    let mut peer = Peer::connect(gateway.addresses()[2]);
    peer.write(
        Head::new("/app").with("X-Forwarded-Proto: http").with("X-Forwarded-Host: front.test").text().as_bytes(),
    );
    let redirected = reply(&mut peer);
    assert_eq!((redirected.status(), redirected.all("location")), (308, vec!["https://front.test/app".to_owned()]));
}
