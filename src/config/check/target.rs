//! What a route does with its requests: its target, and the path towards the upstream.

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use crate::config::Files;
use crate::config::model::{Folder, Page, Position, Redirect, Respond, Target};
use crate::config::problem::Source;
use crate::config::read::Reader;
use crate::config::tree::Node;
use crate::config::value::{self, Parsed, Wrong, boolean, nearest, number, one_of, string};

use super::{Upstreams, file};

/// Without an upstream no session is opened and nothing passes: what rules those has no effect.
pub(super) fn warn_of_idle_keys(table: &Reader<'_, '_>) {
    #[rustfmt::skip]
    const USED: [&str; 15] = [
        "name", "host", "path", "path_exact", "headers", "query", "encoded_slashes", "allow", "deny", "files", "page",
        "redirect", "respond", "response_headers", "subprotocol",
    ];
    if table.written("upstream").is_some() {
        return;
    }
    let Some(kind) = ["page", "respond", "files", "redirect"].into_iter().find(|kind| table.written(kind).is_some())
    else {
        return;
    };
    for (key, at) in table.known_keys() {
        match key {
            "subprotocol" if kind == "page" => {
                table.warn(at, key, Wrong::new("never holds: who asks for a page offers no subprotocol"));
            }
            _ if USED.contains(&key) || (kind, key) == ("files", "keys") => {}
            _ if kind == "page" => table.warn(at, key, Wrong::new("has no effect on a page")),
            _ => table.warn(at, key, Wrong::new(format!("has no effect beside `{kind}`"))),
        }
    }
}

/// The name of the upstream, even where there is none of that name; `https_only`; the target.
pub(super) fn target(
    table: &mut Reader<'_, '_>,
    upstreams: &Upstreams,
    source: &Source,
) -> (Option<String>, Option<bool>, Option<Target>) {
    let written = ["upstream", "page", "respond", "files", "redirect"].map(|key| (key, table.written(key)));
    let upstream = table.value("upstream", |node| Ok((value::text(node)?.to_owned(), node.at)));
    let page = table.value("page", one_of(&[("chat", Page::Chat)]));
    let respond = table.table("respond").and_then(respond);
    let files = table.table("files").and_then(|table| folder(table, source));
    let redirect = table.table_or("redirect", "https");
    let https_only = matches!(redirect, Some(None));
    let redirect = redirect.flatten().and_then(redirected);

    let counts = |(key, at): &(&'static str, Option<Position>)| Some((*key, (*at)?));
    let mut targets = written.iter().filter_map(counts).filter(|(key, _)| *key != "redirect" || !https_only);
    let first = targets.next();
    if let (Some((first, _)), Some((second, at))) = (first, targets.next()) {
        let wrong = Wrong::new(format!("stands beside `{first}`: a route has one target"));
        table.wrong(at, second, wrong.help("remove one of them"));
    }
    let target = match first {
        Some(("upstream", _)) => match &upstream {
            Some((name, at)) => found(table, upstreams, name, *at),
            None => None,
        },
        Some(("page", _)) => page.map(Target::Page),
        Some(("respond", _)) => respond.map(Target::Respond),
        Some(("files", _)) => files.map(Target::Files),
        Some(_) => redirect.map(Target::Redirect),
        None if https_only => Some(Target::Nothing),
        None => {
            let wrong = Wrong::new("is missing: a route needs a target");
            table.absent(
                table.at(),
                "upstream",
                wrong.help("add `upstream = \"NAME\"`; or `redirect`, `respond`, `files` or `page`"),
            );
            None
        }
    };
    (upstream.map(|(name, _)| name), Some(https_only), target)
}

fn found(table: &Reader<'_, '_>, upstreams: &Upstreams, name: &str, at: Position) -> Option<Target> {
    match upstreams.get(name) {
        Some((_, upstream)) => upstream.clone().map(Target::Upstream),
        None => {
            let known: Vec<&str> = upstreams.keys().map(String::as_str).collect();
            let known_list = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let wrong = Wrong::new(format!("no upstream {name:?} (known: {known_list})"));
            let wrong = match nearest(name, known) {
                Some(near) => wrong.help(format!("did you mean {near:?}?")),
                None => wrong.help(format!("add [upstream.{name}]")),
            };
            table.absent(at, "upstream", wrong);
            None
        }
    }
}

fn redirected(mut table: Reader<'_, '_>) -> Option<Redirect> {
    let to = table.value("to", string(value::location));
    let status = table.value("status", |node| match number(300..=399)(node)? {
        code @ (301 | 302 | 303 | 307 | 308) => status(code),
        code => Err(Wrong::new(format!("{code} leads nowhere")).help("301, 302, 303, 307 or 308")),
    });
    table.finish();
    Some(Redirect { to: to?, status: status? })
}

fn respond(mut table: Reader<'_, '_>) -> Option<Respond> {
    let body_at = table.written("body");
    let status = table.value("status", |node| status(number(200..=599)(node)?));
    let body = table.value("body", |node: &Node| Ok(Bytes::from(value::text(node)?.to_owned())));
    let content_type = table.value("content_type", |node| {
        let text = string(value::field_value)(node)?;
        HeaderValue::try_from(text).map_err(|_| Wrong::new("is not the value of a header field"))
    });
    // RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5.
    let bodiless = status.is_some_and(|status| [204, 205, 304].contains(&status.as_u16()));
    if let (true, Some(body), Some(at)) = (bodiless, &body, body_at)
        && !body.is_empty()
    {
        table.wrong(at, "body", Wrong::new("an answer of this status has no body").help("leave it out"));
    }
    table.finish();
    Some(Respond { status: status?, body: body?, content_type: content_type? })
}

fn folder(mut table: Reader<'_, '_>, source: &Source) -> Option<Folder> {
    let folder = table.value("folder", file(source)).map(|(path, at)| Folder { path, at });
    if let Some(folder) = &folder {
        table.inspect(Files::Folder(folder), |_| "folder".to_owned());
    }
    table.finish();
    folder
}

fn status(code: u64) -> Parsed<StatusCode> {
    let code = u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok());
    code.ok_or_else(|| Wrong::new("is not a status"))
}

/// `Some(None)`: the path stays.
pub(super) fn rewrite(
    table: &mut Reader<'_, '_>,
    path: Option<&str>,
    encoded_slashes: bool,
    exact: bool,
) -> Option<Option<String>> {
    let (strip_at, rewrite_at) = (table.written("strip_prefix"), table.written("rewrite"));
    let strip = table.value("strip_prefix", boolean);
    let prefix = table.table("rewrite").and_then(|mut table| {
        let prefix = table.value("prefix", string(|text| value::path(text, encoded_slashes, exact)));
        table.finish();
        prefix
    });
    if let (Some(true), Some(at)) = (strip, rewrite_at) {
        let wrong = Wrong::new("stands beside `strip_prefix`: both take the place of `path`");
        table.wrong(at, "rewrite", wrong.help("remove one of them"));
    }
    if let (Some(true), Some("/"), Some(at)) = (strip, path, strip_at) {
        table.warn(at, "strip_prefix", Wrong::new("has no effect: `path` is \"/\""));
    }
    match rewrite_at {
        Some(_) => prefix.map(|prefix| Some(if prefix == "/" { String::new() } else { prefix })),
        None => strip.map(|strip| strip.then(String::new)),
    }
}
