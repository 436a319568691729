//! Every table and key of `config.toml`, with its default and its meaning: the one place where these stand.
//!
//! From it come the refusal of unknown keys, the defaults, `check --print-default` and docs/configuration.md.

/// One table of the file.
#[derive(Debug)]
pub(super) struct Table {
    /// As it is headed in the file: `[[listener]]`, `[upstream.NAME]`; for values like `{ … }` the path of the key.
    pub title: &'static str,
    pub doc: &'static str,
    pub keys: &'static [Key],
}

#[derive(Debug)]
pub(super) struct Key {
    pub name: &'static str,
    /// What may stand there, for people.
    pub kind: &'static str,
    pub fallback: Fallback,
    pub doc: &'static str,
    pub holds: Holds,
}

/// What holds where a key is left out.
#[derive(Debug)]
pub(super) enum Fallback {
    /// This TOML value.
    Default(&'static str),
    /// It must be written. With an example.
    Required(&'static str),
    /// It must be written unless its alternative is. With an example.
    Either(&'static str),
    /// Nothing, which means the second. With an example.
    Nothing(&'static str, &'static str),
}

#[derive(Debug)]
pub(super) enum Holds {
    Value,
    /// `[name]` or `name = { … }`
    Table(&'static Table),
    /// `[[name]]` or `name = [{ … }]`
    Tables(&'static Table),
    /// `[name.NAME]`
    Named(&'static Table),
    /// A list of values, each of which may also be written as a table: `name = ["…", { … }]`
    ValuesOrTables(&'static Table),
}

use Fallback::{Default, Either, Nothing, Required};

impl Table {
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

const fn key(name: &'static str, kind: &'static str, fallback: Fallback, doc: &'static str) -> Key {
    Key { name, kind, fallback, doc, holds: Holds::Value }
}

const fn section(name: &'static str, holds: Holds, fallback: Fallback) -> Key {
    let table = match &holds {
        Holds::Table(table) | Holds::Tables(table) | Holds::Named(table) => table,
        Holds::Value | Holds::ValuesOrTables(_) => panic!("a section holds a table"),
    };
    Key { name, kind: "table", fallback, doc: table.doc, holds }
}

const DURATION: &str = "duration";
const DURATION_OR_OFF: &str = "duration or \"off\"";
const COUNT_OR_OFF: &str = "number or \"off\"";
const RATE_OR_OFF: &str = "rate or \"off\"";
const BYTE_RATE_OR_OFF: &str = "bytes in a period, or \"off\"";
const OFF: Fallback = Default("\"off\"");
const FATE: &str = "\"keep\", \"drain\" or \"close\"";
const FILE: &str = "path of a PEM file";

const ALLOW: Key = key(
    "allow",
    "list of networks",
    Nothing("[\"10.0.0.0/8\", \"2001:db8::/32\"]", "everybody"),
    "Which clients are served: networks, addresses, \"unix\" (peers of Unix sockets), \"any\". Others get 403. Behind \
     trusted proxies the address that they give counts. Listener and route must both let a client in.",
);
const DENY: Key = key(
    "deny",
    "list of networks",
    Default("[]"),
    "Which clients are not served, in the same words. Wins over `allow`.",
);

pub(super) static ROOT: Table = Table {
    title: "the file",
    doc: "",
    keys: &[
        section("runtime", Holds::Table(&RUNTIME), Default("{}")),
        section("limits", Holds::Table(&LIMITS), Default("{}")),
        section("listener", Holds::Tables(&LISTENER), Default("[]")),
        section("route", Holds::Tables(&ROUTE), Default("[]")),
        section("upstream", Holds::Named(&UPSTREAM), Default("{}")),
        section("dns", Holds::Table(&DNS), Default("{}")),
        section("backend", Holds::Tables(&BACKEND), Default("[]")),
        section("log", Holds::Table(&LOG), Default("{}")),
        section("drain", Holds::Table(&DRAIN), Default("{}")),
        section("reload", Holds::Table(&RELOAD), Default("{}")),
        section("admin", Holds::Table(&ADMIN), Nothing("{ address = \"127.0.0.1:9090\" }", "no admin interface")),
    ],
};

pub(super) static RUNTIME: Table = Table {
    title: "[runtime]",
    doc: "The process.",
    keys: &[key(
        "workers",
        "number or \"auto\"",
        Default("\"auto\""),
        "Worker threads. \"auto\": one for each processor that the process may use (affinity, cgroup), and no more than its \
         cgroup's CPU quota, rounded down: 2.5 processors make 2 workers, 0.5 makes 1. Read once, at the start, which \
         tells the number.",
    )],
};

pub(super) static LIMITS: Table = Table {
    title: "[limits]",
    doc: "Limits of the whole gateway. A client is an address, or what the route's `client` names.",
    keys: &[
        key("sessions", "number", Default("100000"), "WebSocket sessions open at once."),
        key(
            "connections",
            "number",
            Default("120000"),
            "TCP connections open at once, those whose handshake is not finished included.",
        ),
        key(
            "connections_pending",
            COUNT_OR_OFF,
            OFF,
            "Connections whose handshake is not finished (TLS, request head), open at once.",
        ),
        key("sessions_per_client", COUNT_OR_OFF, Default("1000"), "Sessions open at once from one client."),
        key(
            "handshakes_per_client",
            RATE_OR_OFF,
            Default("\"100/s\""),
            "Opening handshakes of one client; as many may come in one burst.",
        ),
        key(
            "ipv6_prefix",
            "number, 32 to 128",
            Default("64"),
            "Bits of an IPv6 address that make a client: one subscriber has at least a /64.",
        ),
        key(
            "held_bytes",
            "size",
            Default("\"256MiB\""),
            "Bytes held for peers that do not take them, and of senders that wait for a rate. Beyond it the sessions that \
             have held some for longest end, and new ones are refused.",
        ),
    ],
};

pub(super) static LISTENER: Table = Table {
    title: "[[listener]]",
    doc: "An address on which clients are served. At least one.",
    keys: &[
        key(
            "address",
            "IP address and port, or path of a socket",
            Required("\"127.0.0.1:8080\""),
            "Where to listen: \"0.0.0.0:8080\", \"[::]:8080\". Port 0 takes a free port. \"unix:/run/tidegate.sock\" is a \
             Unix socket (mode 0660, removed at the stop).",
        ),
        key(
            "reuse_port",
            "true or false",
            Default("false"),
            "Lets another process of the same user listen at this address, too (SO_REUSEPORT): the next version of this \
             gateway, which takes over. Sockets that systemd hands over need it not. Counts when the listener is opened, not \
             at a reload.",
        ),
        Key {
            name: "tls",
            kind: "table",
            fallback: Nothing("{ certificate = \"certs/localhost.pem\", key = \"certs/localhost.key\" }", "no TLS"),
            doc: "Serves wss:// and https:// here.",
            holds: Holds::Table(&LISTENER_TLS),
        },
        key(
            "trusted_proxies",
            "list of networks, \"unix\"",
            Default("[]"),
            "Peers whose X-Forwarded-* and Forwarded fields and PROXY headers are believed: \"10.0.0.0/8\", \"::1\"; \
             \"unix\": whoever opens this Unix socket.",
        ),
        key(
            "proxy_protocol",
            "true or false",
            Default("false"),
            "Every connection begins with a PROXY header, version 1 or 2, of a trusted proxy. Others are closed.",
        ),
        key("proxy_protocol_timeout", DURATION, Default("\"5s\""), "For the whole PROXY header."),
        key("tls_timeout", DURATION, Default("\"10s\""), "For the whole TLS handshake."),
        key(
            "head_timeout",
            DURATION,
            Default("\"10s\""),
            "From the connection, or the last answer, to a whole request head.",
        ),
        key("head_bytes_max", "size, 8KiB to 1MiB", Default("\"16KiB\""), "Size of a request head."),
        key("headers_max", "number, 16 to 1000", Default("100"), "Header fields of a request."),
        ALLOW,
        DENY,
        section("limits", Holds::Table(&LISTENER_LIMITS), Default("{}")),
    ],
};

pub(super) static LISTENER_LIMITS: Table = Table {
    title: "[listener.limits]",
    doc: "Limits of a listener, below those of the whole gateway.",
    keys: &[
        key("sessions", COUNT_OR_OFF, OFF, "WebSocket sessions open at once."),
        key("connections", COUNT_OR_OFF, OFF, "TCP connections open at once."),
        key("connections_pending", COUNT_OR_OFF, OFF, "Those whose handshake is not finished."),
    ],
};

pub(super) static LISTENER_TLS: Table = Table {
    title: "listener.tls",
    doc: "TLS of a listener: `tls = { … }`, or a table [listener.tls] below its listener.",
    keys: &[
        key("certificate", FILE, Either("\"certs/localhost.pem\""), "The certificate, followed by its chain."),
        key("key", FILE, Either("\"certs/localhost.key\""), "The private key of the certificate."),
        Key {
            name: "certificates",
            kind: "list of { certificate, key }",
            fallback: Default("[]"),
            doc: "More certificates. The name that the client asks for (SNI) chooses; the first one serves the rest.",
            holds: Holds::Tables(&CERTIFICATES),
        },
        key(
            "development",
            "true or false",
            Default("false"),
            "Makes a self-signed certificate at `certificate` and `key` when neither file is there.",
        ),
        key(
            "client_auth",
            "\"off\", \"optional\" or \"required\"",
            Default("\"off\""),
            "Whether a client shows a certificate. \"optional\": it is checked when shown.",
        ),
        key(
            "client_ca",
            FILE,
            Nothing("\"certs/clients.pem\"", "none"),
            "The authorities that sign clients' certificates.",
        ),
        key("min_version", "\"1.2\" or \"1.3\"", Default("\"1.2\""), "The oldest version of TLS that is served."),
    ],
};

pub(super) static CERTIFICATES: Table = Table {
    title: "listener.tls.certificates",
    doc: "One more certificate of a listener.",
    keys: &[
        key("certificate", FILE, Required("\"certs/other.pem\""), "The certificate, followed by its chain."),
        key("key", FILE, Required("\"certs/other.key\""), "Its private key."),
    ],
};

pub(super) static ROUTE: Table = Table {
    title: "[[route]]",
    doc: "Which requests are served, and how. Of the routes that match, the most specific one serves: the exact host wins \
          over \"*.\", that over any; then the exact path, then the longest one, then the one with the most conditions \
          (`headers`, `query`, `subprotocol`), then the first in the file.",
    keys: &[
        key("name", "string", Nothing("\"echo\"", "host and path"), "The route's name in logs. Unique."),
        key(
            "host",
            "host name",
            Nothing("\"chat.example.com\"", "any host"),
            "The host asked for, without port. \"*.example.com\" is any name below example.com.",
        ),
        key(
            "path",
            "path",
            Default("\"/\""),
            "The path and all below it: \"/chat\" serves /chat and /chat/room, not /chatter. \"/\" is any path.",
        ),
        key(
            "path_exact",
            "true or false",
            Default("false"),
            "Serves `path` alone and nothing below it. A trailing slash counts then.",
        ),
        key(
            "headers",
            "table of strings",
            Nothing("{ X-Tenant = \"a\" }", "no condition"),
            "Serves only requests with these header fields, each there once and with this value.",
        ),
        key(
            "query",
            "table of strings",
            Nothing("{ version = \"2\" }", "no condition"),
            "Serves only requests with these parameters in the query, each there once and with this value, decoded.",
        ),
        key(
            "subprotocol",
            "name",
            Nothing("\"mqtt\"", "no condition"),
            "Serves only clients that offer this subprotocol.",
        ),
        key(
            "upstream",
            "name of an upstream",
            Either("\"echo\""),
            "Where sessions go. A route has one target: this, `page`, `redirect`, `respond` or `files`.",
        ),
        key(
            "strip_prefix",
            "true or false",
            Default("false"),
            "Leaves `path` out towards the upstream: /chat/room becomes /room. The rest stays as the client sent it.",
        ),
        Key {
            name: "rewrite",
            kind: "table",
            fallback: Nothing("{ prefix = \"/v2\" }", "the path stays"),
            doc: "Puts another path in the place of `path` towards the upstream.",
            holds: Holds::Table(&REWRITE),
        },
        key(
            "page",
            "\"chat\"",
            Nothing("\"chat\"", "no page"),
            "Answers GET at exactly this path with a page that is built in.",
        ),
        Key {
            name: "redirect",
            kind: "\"https\" or table",
            fallback: Nothing("{ to = \"https://www.example.com{path}\" }", "no redirect"),
            doc: "\"https\": who did not come over TLS is sent there with 308, same host and target; beside another target, or \
                  alone. A table: everybody is sent elsewhere.",
            holds: Holds::Table(&REDIRECT),
        },
        Key {
            name: "respond",
            kind: "table",
            fallback: Nothing("{ status = 404 }", "no fixed answer"),
            doc: "Answers every request, also a handshake, with this.",
            holds: Holds::Table(&RESPOND),
        },
        Key {
            name: "files",
            kind: "table",
            fallback: Nothing("{ folder = \"public\" }", "no files"),
            doc: "Answers GET and HEAD with the files of a folder.",
            holds: Holds::Table(&FILES),
        },
        key(
            "origins",
            "list of origins",
            Default("[\"same-origin\", \"none\"]"),
            "Which web pages may connect: \"https://example.com\", \"https://*.example.com\", \"same-origin\"; \
             \"none\": requests without Origin (not from a browser); \"any\" alone: no check.",
        ),
        key(
            "subprotocols",
            "list of names",
            Nothing("[\"chat.v2\", \"chat.v1\"]", "all pass"),
            "Which of the subprotocols that a client offers reach the upstream.",
        ),
        key("subprotocol_required", "true or false", Default("false"), "Refuses clients that offer none of them."),
        key("encoded_slashes", "true or false", Default("false"), "Accepts %2F in a path."),
        section("request_headers", Holds::Table(&REQUEST_HEADERS), Default("{}")),
        section("response_headers", Holds::Table(&RESPONSE_HEADERS), Default("{}")),
        key(
            "host_header",
            "host, host:port",
            Nothing("\"backend.internal\"", "the client's"),
            "The Host sent upstream.",
        ),
        Key {
            name: "heartbeat",
            kind: "table or \"off\"",
            fallback: Default("{}"),
            doc: "Pings a quiet side, and ends the session of a dead one.",
            holds: Holds::Table(&HEARTBEAT),
        },
        key(
            "idle_timeout",
            DURATION_OR_OFF,
            Default("\"off\""),
            "Ends a session on which no message began or moved on for so long.",
        ),
        key("max_age", DURATION_OR_OFF, Default("\"off\""), "Ends a session of that age."),
        key(
            "frame_timeout",
            DURATION,
            Default("\"60s\""),
            "A frame that has begun must move on by 64 KiB, or end, within it. One that stops has this time from its last byte; \
             one that dribbles is found within twice this time.",
        ),
        key(
            "slow_timeout",
            DURATION_OR_OFF,
            Default("\"30s\""),
            "A side that takes no more bytes must take those that wait for it, up to 64 KiB, within it.",
        ),
        key("close_timeout", DURATION, Default("\"5s\""), "How long the answer to a Close is awaited."),
        key(
            "frame_bytes_max",
            "size or \"off\"",
            Default("\"16MiB\""),
            "Size of one frame. Left out, it is never above `message_bytes_max`.",
        ),
        key("message_bytes_max", "size or \"off\"", Default("\"64MiB\""), "Size of one message, over all its frames."),
        key("fragments_max", "number or \"off\"", Default("\"off\""), "Frames of one message."),
        key(
            "ping",
            "\"answer\" or \"forward\"",
            Default("\"answer\""),
            "\"answer\": pings are answered here. \"forward\": pings and pongs pass to the other side.",
        ),
        key("compression", "\"pass\" or \"off\"", Default("\"pass\""), "Whether permessage-deflate may be agreed on."),
        key("strict", "true or false", Default("false"), "Checks that text messages are UTF-8."),
        key(
            "refuse",
            "\"http\" or \"close\"",
            Default("\"http\""),
            "How a refusal is told: an HTTP status, or a Close right after the handshake, which browsers can read.",
        ),
        key(
            "client",
            "\"address\", \"header:NAME\", \"cookie:NAME\" or \"query:NAME\"",
            Default("\"address\""),
            "What limits count by. A header counts in place of the address, from trusted proxies only; a cookie or query \
             parameter is counted beside the address.",
        ),
        ALLOW,
        DENY,
        Key {
            name: "keys",
            kind: "table",
            fallback: Nothing("{ file = \"keys.txt\", bearer = true }", "no key is needed"),
            doc: "Lets in only clients that have an API key.",
            holds: Holds::Table(&KEYS),
        },
        section("limits", Holds::Table(&ROUTE_LIMITS), Default("{}")),
        key(
            "http",
            "true or false",
            Default("false"),
            "Passes plain HTTP to the upstream too: pages, polling, server-sent events. Without it: 426.",
        ),
        key(
            "request_timeout",
            DURATION_OR_OFF,
            Default("\"60s\""),
            "Plain HTTP: from the end of a request to the head of its answer. Longer than the longest poll.",
        ),
        key(
            "body_timeout",
            DURATION,
            Default("\"60s\""),
            "Plain HTTP: how long a client may send nothing of its request's body, or take nothing of an answer that \
             waits for it.",
        ),
        key(
            "answer_idle_timeout",
            DURATION_OR_OFF,
            Default("\"off\""),
            "Plain HTTP: how long an upstream may send nothing within an answer. It would cut quiet event streams.",
        ),
    ],
};

const REMOVE: Key = key("remove", "list of names", Default("[]"), "Removes these header fields.");

pub(super) static REQUEST_HEADERS: Table = Table {
    title: "[route.request_headers]",
    doc: "Header fields of handshakes and plain requests, towards the upstream. Those that frame, forward or belong to the \
          handshake are the gateway's.",
    keys: &[
        key("set", "table of strings", Default("{}"), "Sets these header fields, in place of the client's."),
        REMOVE,
    ],
};

pub(super) static RESPONSE_HEADERS: Table = Table {
    title: "[route.response_headers]",
    doc: "Header fields of answers, towards the client: of 101s, of plain HTTP, and of the gateway's own answers.",
    keys: &[
        key("set", "table of strings", Default("{}"), "Sets these header fields, in place of the upstream's."),
        REMOVE,
    ],
};

pub(super) static REDIRECT: Table = Table {
    title: "route.redirect",
    doc: "Sends every request of the route elsewhere: `redirect = { … }`.",
    keys: &[
        key(
            "to",
            "address",
            Required("\"https://www.example.com{path}\""),
            "\"{path}\" at its end is path and query of the request, \"{host}\" in the place of the host is the one asked \
             for, without port.",
        ),
        key("status", "301, 302, 303, 307 or 308", Default("308"), "307 and 308 keep the method."),
    ],
};

pub(super) static RESPOND: Table = Table {
    title: "route.respond",
    doc: "A fixed answer: `respond = { … }`.",
    keys: &[
        key("status", "number, 200 to 599", Required("404"), "The HTTP status."),
        key("body", "string", Default("\"\""), "The body. None with 204, 205 and 304."),
        key("content_type", "string", Default("\"text/plain; charset=utf-8\""), "Of the body."),
    ],
};

pub(super) static FILES: Table = Table {
    title: "route.files",
    doc: "A folder that is served: `files = { … }`. What stands behind the route's `path` is looked for in it, in a folder its \
          index.html. A folder without its slash is redirected to it; an API key of the query is not in that redirect. \
          Nothing hidden, nothing that a link puts outside, no listings.",
    keys: &[key("folder", "path of a folder", Required("\"public\""), "The folder.")],
};

pub(super) static REWRITE: Table = Table {
    title: "route.rewrite",
    doc: "The path towards the upstream: `rewrite = { … }`. Each request of the route has it in front of what stands behind \
          `path`.",
    keys: &[key(
        "prefix",
        "path",
        Required("\"/v2\""),
        "Takes the place of `path`; of the whole path with `path_exact`.",
    )],
};

pub(super) static ROUTE_LIMITS: Table = Table {
    title: "[route.limits]",
    doc: "Limits of a route, below those of the whole gateway. Rates of messages, bytes and control frames hold for each \
          direction alone; as much as a rate names may pass at once.",
    keys: &[
        key("sessions", COUNT_OR_OFF, OFF, "Sessions open at once."),
        key("sessions_per_client", COUNT_OR_OFF, OFF, "Sessions open at once from one client."),
        key("handshakes", RATE_OR_OFF, OFF, "Opening handshakes of all clients together."),
        key("handshakes_per_client", RATE_OR_OFF, OFF, "Opening handshakes of one client."),
        key("messages_per_session", RATE_OR_OFF, OFF, "Messages of one session: \"50/s\", \"600/m\"."),
        key("messages_per_client", RATE_OR_OFF, OFF, "Messages of all sessions of one client together."),
        key("messages", RATE_OR_OFF, OFF, "Messages of all sessions of the route together."),
        key("bytes_per_session", BYTE_RATE_OR_OFF, OFF, "Payload bytes of one session: \"64KiB/s\", \"1GiB/h\"."),
        key("bytes_per_client", BYTE_RATE_OR_OFF, OFF, "Payload bytes of all sessions of one client together."),
        key("bytes", BYTE_RATE_OR_OFF, OFF, "Payload bytes of all sessions of the route together."),
        key(
            "control_per_session",
            RATE_OR_OFF,
            Default("\"100/s\""),
            "Pings and pongs that one side of a session sends.",
        ),
        key(
            "on_excess",
            "\"delay\" or \"close\"",
            Default("\"delay\""),
            "\"delay\": who sends more is read no faster than the rates allow; nothing is lost. \"close\": the session ends.",
        ),
    ],
};

pub(super) static HEARTBEAT: Table = Table {
    title: "route.heartbeat",
    doc: "`heartbeat = { interval = …, timeout = … }`, or \"off\".",
    keys: &[
        key("interval", DURATION, Default("\"25s\""), "A side that was quiet for so long gets a ping."),
        key(
            "timeout",
            DURATION,
            Default("\"10s\""),
            "A side from which nothing came for so long after a ping is dead.",
        ),
    ],
};

pub(super) static KEYS: Table = Table {
    title: "route.keys",
    doc: "API keys, and where a client may put its own: at least one place. The upstream never sees it.",
    keys: &[
        key(
            "file",
            "path of a file",
            Required("\"keys.txt\""),
            "On each line `name: key`, or a key alone; `#` begins a comment. Keys have 16 to 512 visible ASCII characters. \
             Read again when it changes: the sessions of a key that is gone end as `access_revoked`.",
        ),
        key(
            "header",
            "name of a field",
            Nothing("\"X-API-Key\"", "not in a field"),
            "The field that holds the key. \"Authorization\" holds it as `Bearer KEY`.",
        ),
        key(
            "query",
            "name of a parameter",
            Nothing("\"key\"", "not in the query"),
            "The parameter that holds the key, in percent-encoding. Proxies in front of this gateway may log it.",
        ),
        key(
            "bearer",
            "true or false",
            Default("false"),
            "Takes the key from the subprotocol `bearer.KEY`, in percent-encoding: the way for web pages. They offer the \
             service's subprotocol beside it, or `bearer` where the service has none.",
        ),
    ],
};

pub(super) static UPSTREAM: Table = Table {
    title: "[upstream.NAME]",
    doc: "A WebSocket service behind the gateway. Routes name it.",
    keys: &[
        Key {
            name: "servers",
            kind: "list of addresses, or of tables",
            fallback: Required("[\"ws://127.0.0.1:9001\"]"),
            doc: "\"ws://host:port\", \"wss://host:port/base\", \"unix:/run/chat.sock\"; or { url = …, weight = … }.",
            holds: Holds::ValuesOrTables(&SERVER),
        },
        key(
            "balance",
            "\"round-robin\", \"least-connections\", \"random-two\", \"hash:client\", \"hash:header:NAME\", \
             \"hash:cookie:NAME\" or \"hash:query:NAME\"",
            Default("\"round-robin\""),
            "Which server is next. \"least-connections\": the one with the fewest open sessions and requests for its \
             weight. \"random-two\": the less loaded of two that are drawn. \"hash:\": always the same one for the same \
             client address, header, cookie or query parameter; for the address where that is missing.",
        ),
        section("sticky", Holds::Table(&STICKY), Default("{}")),
        key(
            "retries",
            "number, up to 10",
            Default("2"),
            "How many other servers are tried when one cannot be reached, does not answer a handshake, or answers 502, 503 \
             or 504. Plain HTTP: only what is safe to repeat, or was not written yet.",
        ),
        key(
            "retry_budget",
            "number, up to 100",
            Default("20"),
            "Retries in percent of all requests, so that they never storm. Ten may be saved. A server that could not be \
             connected to costs none.",
        ),
        key("connect_timeout", DURATION, Default("\"3s\""), "For connecting to a server."),
        key(
            "handshake_timeout",
            DURATION,
            Default("\"5s\""),
            "From there to the whole head of its answer, TLS included. Plain HTTP: to the end of the TLS handshake.",
        ),
        key(
            "keepalive",
            "number, up to 10000",
            Default("64"),
            "Idle connections of plain HTTP that are kept to each server. 0: each request has a connection of its own.",
        ),
        key(
            "keepalive_timeout",
            DURATION,
            Default("\"4s\""),
            "How long they are kept: less than the server does (Node and uvicorn: 5 s), or requests meet its closing.",
        ),
        key(
            "sessions_per_server",
            COUNT_OR_OFF,
            OFF,
            "Sessions open at once with one server. One that has them all is passed over.",
        ),
        key(
            "source_addresses",
            "list of IP addresses",
            Default("[]"),
            "The local addresses of connections to servers, taken in turn: each has all local ports towards each server, \
             some 28,000 with Linux' defaults. None: the system chooses one.",
        ),
        Key {
            name: "tls",
            kind: "table",
            fallback: Default("{}"),
            doc: "TLS towards wss:// servers.",
            holds: Holds::Table(&UPSTREAM_TLS),
        },
        section("health", Holds::Table(&HEALTH), Default("{}")),
        key(
            "slow_start",
            DURATION_OR_OFF,
            OFF,
            "How long a server that comes, or comes back, takes from a tenth of its share to all of it. Not when the gateway \
             starts.",
        ),
        key(
            "on_removed",
            FATE,
            Default("\"keep\""),
            "What becomes of the sessions of a server that is gone from the configuration, or of an address that its name \
             does not lead to any more. As with `on_unhealthy`.",
        ),
    ],
};

pub(super) static STICKY: Table = Table {
    title: "upstream.NAME.sticky",
    doc: "By what a client comes back to the server that it met before, as long as that one serves: `sticky = { … }`. Who \
          has met none goes where `balance` says.",
    keys: &[
        Key {
            name: "cookie",
            kind: "table",
            fallback: Nothing("{ name = \"tidegate\" }", "no cookie"),
            doc: "By a cookie that the gateway sets: signed, and silent about the server.",
            holds: Holds::Table(&STICKY_COOKIE),
        },
        key(
            "socket_io",
            "true or false",
            Default("false"),
            "By Socket.IO's own session id (`sid`), also for clients that keep no cookies. Goes before the cookie.",
        ),
    ],
};

pub(super) static STICKY_COOKIE: Table = Table {
    title: "upstream.NAME.sticky.cookie",
    doc: "`cookie = { … }`. It is HttpOnly, Secure for clients that came over TLS, and ends with the browser's session.",
    keys: &[
        key("name", "name of a cookie", Default("\"tidegate\""), "Its name: another one for each upstream of a host."),
        key("path", "path", Default("\"/\""), "For which paths the browser sends it."),
        key(
            "same_site",
            "\"lax\", \"strict\" or \"none\"",
            Default("\"lax\""),
            "Whether it comes with requests of other sites' pages. \"none\" needs TLS.",
        ),
        key(
            "key_file",
            "path of a file",
            Nothing("\"sticky.key\"", "one that is made at the start"),
            "Holds the key that signs it: 16 to 512 visible ASCII characters. Gateways beside each other need the same \
             one. A key that is made at the start is another one after a restart and in another gateway, and clients \
             may change servers then.",
        ),
    ],
};

pub(super) static HEALTH: Table = Table {
    title: "upstream.NAME.health",
    doc: "Which servers are left alone.",
    keys: &[
        Key {
            name: "passive",
            kind: "table or \"off\"",
            fallback: Default("{}"),
            doc: "Puts a server aside when its handshakes fail. One that is alone never is.",
            holds: Holds::Table(&PASSIVE),
        },
        Key {
            name: "active",
            kind: "table or \"off\"",
            fallback: Nothing("{ kind = \"http\", path = \"/healthz\" }", "nobody asks"),
            doc: "Asks every server again and again whether it is well, and leaves those alone that are not, be it all of \
                  them.",
            holds: Holds::Table(&ACTIVE),
        },
        key(
            "on_unhealthy",
            FATE,
            Default("\"keep\""),
            "What becomes of the sessions of a server whose checks fail (`active`). \"keep\": they live on while both sides \
             do. \"drain\": they end with 1012 over `drain.window`. \"close\": they end with 1011 at once.",
        ),
    ],
};

pub(super) static ACTIVE: Table = Table {
    title: "upstream.NAME.health.active",
    doc: "`active = { kind = …, path = … }`, or \"off\". A wss:// server is checked over TLS.",
    keys: &[
        key(
            "kind",
            "\"tcp\", \"http\" or \"websocket\"",
            Default("\"tcp\""),
            "\"tcp\": it takes a connection. \"http\": it answers a GET with one of `status`. \"websocket\": it agrees on a \
             WebSocket and answers a ping.",
        ),
        key("path", "path, with a query if need be", Default("\"/\""), "Asked for, below the server's own path."),
        key("host", "host, or host and port", Nothing("\"app.internal\"", "the server's own"), "The Host sent."),
        key(
            "headers",
            "table of strings",
            Default("{}"),
            "Further header fields: `{ Origin = \"https://example.com\" }`.",
        ),
        key("subprotocol", "name", Nothing("\"mqtt\"", "none"), "Offered with `kind = \"websocket\"`."),
        key(
            "status",
            "list of statuses or ranges",
            Default("[\"200-399\"]"),
            "Which answers are good with `kind = \"http\"`: `[200, \"300-399\"]`.",
        ),
        key("interval", DURATION, Default("\"5s\""), "From the end of a check to the next."),
        key(
            "jitter",
            "number, up to 50",
            Default("20"),
            "Each interval is longer or shorter by up to so many percent, so that checks do not meet.",
        ),
        key("timeout", DURATION, Default("\"3s\""), "For a whole check: connection, TLS, answer."),
        key("rise", "number, up to 1000", Default("2"), "So many good checks in a row bring a server back."),
        key(
            "fall",
            "number, up to 1000",
            Default("3"),
            "So many failed ones in a row take it out. The first check of all decides alone.",
        ),
        key(
            "initial",
            "\"up\" or \"down\"",
            Default("\"up\""),
            "Whether a server that is new gets sessions before its first check, which comes within a second.",
        ),
    ],
};

pub(super) static PASSIVE: Table = Table {
    title: "upstream.NAME.health.passive",
    doc: "`passive = { failures = …, aside = … }`, or \"off\". What counts: no connection, no TLS, and for a handshake no \
          answer, or 502, 503 or 504.",
    keys: &[
        key("failures", "number, up to 1000", Default("3"), "So many in a row put a server aside."),
        key(
            "aside",
            DURATION,
            Default("\"10s\""),
            "For how long. Then one request tries it: it serves again, or is put aside for twice as long as before.",
        ),
        key("aside_max", DURATION, Default("\"5m\""), "And never longer. Not less than `aside`."),
    ],
};

pub(super) static SERVER: Table = Table {
    title: "upstream.NAME.servers",
    doc: "A server with more than its address: `{ url = …, weight = … }` in the list.",
    keys: &[
        key("url", "address", Required("\"ws://127.0.0.1:9001\""), "Its address, as above."),
        key("weight", "number, up to 1000", Default("1"), "Its share beside the others."),
        key("backup", "true or false", Default("false"), "Used only when none of the others can be."),
    ],
};

pub(super) static UPSTREAM_TLS: Table = Table {
    title: "upstream.NAME.tls",
    doc: "TLS towards the wss:// servers of an upstream: `tls = { … }`, or a table [upstream.NAME.tls].",
    keys: &[
        key("ca", FILE, Nothing("\"certs/ca.pem\"", "the system's"), "The authorities to believe."),
        key(
            "server_name",
            "host name",
            Nothing("\"chat.internal\"", "the server's host"),
            "The name that is asked for and checked.",
        ),
        key(
            "certificate",
            FILE,
            Nothing("\"certs/gateway.pem\"", "none"),
            "Our own certificate, shown when asked for.",
        ),
        key("key", FILE, Nothing("\"certs/gateway.key\"", "none"), "Its private key."),
    ],
};

pub(super) static DNS: Table = Table {
    title: "[dns]",
    doc: "How names of servers become addresses. A name that stands in the hosts file has the addresses that stand there.",
    keys: &[
        key(
            "servers",
            "list of IP addresses, with or without port",
            Default("[]"),
            "The name servers to ask: \"10.0.0.53\", \"[fd00::53]:5353\". None: those of the system, with its search \
             domains (resolv.conf), and where they know nothing, the system's other sources (nsswitch.conf).",
        ),
        key(
            "ttl_min",
            DURATION,
            Default("\"1s\""),
            "An answer is used for its time to live, and not for less than this.",
        ),
        key("ttl_max", DURATION, Default("\"5m\""), "Nor for more than this. Not less than `ttl_min`."),
    ],
};

pub(super) static BACKEND: Table = Table {
    title: "[[backend]]",
    doc: "An embedded WebSocket server, for trying and testing. An upstream reaches it at its address.",
    keys: &[
        key(
            "kind",
            "\"echo\", \"clock\" or \"chat\"",
            Required("\"echo\""),
            "\"echo\" returns every message, \"clock\" pushes the time, \"chat\" is a chat server.",
        ),
        key("listen", "IP address and port", Required("\"127.0.0.1:9001\""), "Where it listens."),
        key("interval", DURATION, Default("\"1s\""), "Between two messages of a clock."),
        key("history", "number, up to 10000", Default("50"), "Messages of a chat room that a newcomer is shown."),
    ],
};

pub(super) static LOG: Table = Table {
    title: "[log]",
    doc: "One line for each plain request, each refused one, and for sessions when they open and end. Read \
          once, at the start.",
    keys: &[
        key("format", "\"human\" or \"json\"", Default("\"human\""), "For people, or one JSON object on a line."),
        key(
            "level",
            "\"error\", \"warn\", \"info\", \"debug\" or \"trace\"",
            Default("\"info\""),
            "What is logged: this and all that is more severe. The lines of requests and sessions are \"info\".",
        ),
        key(
            "file",
            "path of a file",
            Nothing("\"/var/log/tidegate/tidegate.log\"", "standard error"),
            "Where lines are appended (mode 0640). SIGUSR1 opens it again after a rotation. A disk that is too slow holds \
             nobody up: lines beyond 1 MiB are lost, counted and told.",
        ),
        key(
            "access",
            "list of \"requests\", \"opened\", \"ended\"",
            Default("[\"requests\", \"opened\", \"ended\"]"),
            "Which lines are left beside those of refusals: of plain requests when their answer is over, of sessions when \
             they open, of sessions when they end.",
        ),
        key(
            "sample",
            "number, 0 to 100",
            Default("100"),
            "Of 100 requests and sessions, so many leave these lines; a session leaves all of its lines or none. What goes \
             wrong is always told: refusals, answers of 400 and above or that break off, ends for another cause than \
             `client_closed`, `upstream_closed`, `idle`, `max_age`, `drain` and `route_removed`.",
        ),
        key("progress", DURATION_OR_OFF, OFF, "How often a session that lives leaves a line with what passed so far."),
        key(
            "traceparent",
            "\"begin\" or \"pass\"",
            Default("\"begin\""),
            "What becomes of a request without a valid W3C `traceparent`: a trace begins here, marked as sampled where \
             `sample` lets its lines through; or it goes on without. A valid one always passes as it came.",
        ),
    ],
};

pub(super) static DRAIN: Table = Table {
    title: "[drain]",
    doc: "How the gateway stops on SIGTERM and SIGINT, which takes at most the three times together. A second signal ends it \
          at once.",
    keys: &[
        key(
            "delay",
            "duration, also \"0s\"",
            Default("\"0s\""),
            "How long it still serves everybody after it said that it is not ready: as long as your balancer takes to notice.",
        ),
        key(
            "window",
            "duration, also \"0s\"",
            Default("\"10s\""),
            "Then new sessions are refused, and those that are open are closed at an even pace over this time, each between \
             two messages; no slower than ten in a second. Clients get 1012, and as the reason when to come back: \
             `retry-after=8s`, between 1 s and this time.",
        ),
        key(
            "grace",
            "duration, also \"0s\"",
            Default("\"30s\""),
            "How long a message that is on its way is waited for. This long after the window, what is left is cut: sessions, \
             plain requests.",
        ),
    ],
};

pub(super) static RELOAD: Table = Table {
    title: "[reload]",
    doc: "When this file is read again, with the certificates, keys and key files that it names. SIGHUP always does it.",
    keys: &[key(
        "watch",
        "true or false",
        Default("false"),
        "Also when one of these files changes, once all of them have come to rest for half a second. (Files of API keys \
         are watched in any case.)",
    )],
};

pub(super) static ADMIN: Table = Table {
    title: "[admin]",
    doc: "Where operators and Prometheus ask: health, metrics, sessions, drain, reload (docs/admin.md). Without this table \
          nothing listens for them. Read at the start, but for the token's file.",
    keys: &[
        key(
            "address",
            "IP address and port, or path of a socket",
            Required("\"127.0.0.1:9090\""),
            "Where to listen: no port of a listener. Beyond this machine it needs a token or client certificates. \
             \"unix:/run/tidegate-admin.sock\" is a Unix socket.",
        ),
        key("socket_mode", "octal digits", Default("\"0600\""), "Who may open the Unix socket: the mode of its file."),
        key(
            "token",
            "string",
            Nothing("\"${TIDEGATE_ADMIN_TOKEN}\"", "none"),
            "Who asks must send it: `Authorization: Bearer TOKEN`. 16 to 512 visible ASCII characters. /healthz and \
             /readyz are answered without it.",
        ),
        key(
            "token_file",
            "path of a file",
            Nothing("\"admin.token\"", "none"),
            "A file that holds the token and nothing else. It is read with each request, so a new one counts at once.",
        ),
        Key {
            name: "tls",
            kind: "table",
            fallback: Nothing("{ certificate = \"certs/admin.pem\", key = \"certs/admin.key\" }", "no TLS"),
            doc: "Serves https:// here.",
            holds: Holds::Table(&ADMIN_TLS),
        },
        key(
            "hosts",
            "list of host names",
            Default("[]"),
            "Names by which it may be asked for without a token, beside \"localhost\" and IP addresses. Others are refused: a \
             web page could have pointed its own name here.",
        ),
    ],
};

pub(super) static ADMIN_TLS: Table = Table {
    title: "admin.tls",
    doc: "TLS of the admin interface: `tls = { … }`.",
    keys: &[
        key("certificate", FILE, Required("\"certs/admin.pem\""), "The certificate, followed by its chain."),
        key("key", FILE, Required("\"certs/admin.key\""), "Its private key."),
        key(
            "client_ca",
            FILE,
            Nothing("\"certs/operators.pem\"", "clients need no certificate"),
            "Clients must show a certificate that one of these authorities signed.",
        ),
    ],
};
