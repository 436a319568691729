//! The rates of `[route.limits]`: what the relay is to be paid for.

use crate::config::model::{OnExcess, Rate, RouteRates, Scoped};
use crate::config::read::Reader;
use crate::config::tree::Node;
use crate::config::value::{self, Parsed, one_of, or_off, string};

pub(super) struct Rates {
    pub route: RouteRates,
    pub control_per_session: Option<Rate>,
    pub on_excess: OnExcess,
}

pub(super) fn rates(table: &mut Reader<'_, '_>) -> Option<Rates> {
    let names = ["messages_per_session", "messages_per_client", "messages"];
    let messages = scoped(table, names, string(value::rate));
    let bytes = scoped(table, ["bytes_per_session", "bytes_per_client", "bytes"], string(value::byte_rate));
    let control_per_session = table.value("control_per_session", or_off(string(value::rate)));
    let on_excess = table.value("on_excess", one_of(&[("delay", OnExcess::Delay), ("close", OnExcess::Close)]));
    Some(Rates {
        route: RouteRates { messages: messages?, bytes: bytes? },
        control_per_session: control_per_session?,
        on_excess: on_excess?,
    })
}

fn scoped<T>(
    table: &mut Reader<'_, '_>,
    [session, client, route]: [&'static str; 3],
    parse: impl Fn(&Node) -> Parsed<T>,
) -> Option<Scoped<T>> {
    let [session, client, route] = [session, client, route].map(|name| table.value(name, or_off(&parse)));
    Some(Scoped { session: session?, client: client?, route: route? })
}
