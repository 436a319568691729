//! Who is let in: `allow` and `deny`, which listeners and routes share, and the `keys` of a route.

use crate::config::Files;
use crate::config::model::{Access, KeyPlaces, Keys, Network};
use crate::config::problem::Source;
use crate::config::read::Reader;
use crate::config::value::{self, Wrong, boolean, string};

use super::{all, file};

pub(super) fn access(table: &mut Reader<'_, '_>) -> Option<Access> {
    let (allow_at, deny_at) = (table.written("allow"), table.written("deny"));
    let allow = table.list("allow", string(value::clients));
    let deny = table.list("deny", string(value::clients));
    if let (Some(at), Some([])) = (allow_at, allow.as_deref()) {
        let wrong = Wrong::new("an empty list would let everybody in");
        table.wrong(at, "allow", wrong.help("leave it out, or write [\"any\"]; `deny = [\"any\"]` lets nobody in"));
    }
    for (key, at, list) in [("allow", allow_at, &allow), ("deny", deny_at, &deny)] {
        let whole = |v6| {
            let mut networks = list.iter().flatten().flatten();
            networks.any(
                |network| matches!(network, Network::Ip(net) if net.prefix_len() == 0 && net.addr().is_ipv6() == v6),
            )
        };
        if let (true, Some(at)) = (whole(false) != whole(true), at) {
            let wrong = Wrong::new("holds all of one IP version and leaves the other out");
            table.warn(at, key, wrong.help("\"any\" is everybody"));
        }
    }
    let allow = match allow_at {
        Some(_) => all(allow?)?,
        None => Vec::new(),
    };
    Some(Access { allow, deny: all(deny?)? })
}

pub(super) fn keys(mut table: Reader<'_, '_>, source: &Source) -> Option<Keys> {
    let (header_at, query_at) = (table.written("header"), table.written("query"));
    let file = table.value("file", file(source));
    let header = table.value("header", string(value::field_name));
    let query = table.value("query", string(value::parameter));
    let bearer = table.value("bearer", boolean);
    if (header_at, query_at, bearer) == (None, None, Some(false)) {
        let wrong = Wrong::new("no place for a key is given");
        table.wrong_itself(wrong.help("add `bearer = true`, `header = \"X-API-Key\"` or `query = \"key\"`"));
    }
    let build = || {
        let (file, file_at) = file?;
        let header = if header_at.is_some() { Some(header?) } else { None };
        let query = if query_at.is_some() { Some(query?) } else { None };
        Some(Keys { file, file_at, places: KeyPlaces { header, query, bearer: bearer? } })
    };
    let keys = build();
    if let Some(keys) = &keys {
        table.inspect(Files::Keys(keys), |_| "file".to_owned());
    }
    table.finish();
    keys
}
