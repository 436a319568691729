//! Limits: of the gateway, a listener, a route. A cap above a wider one is never reached, which is worth a warning.

use crate::config::model::{Limits, ListenerLimits, Position, Rate, RouteLimits};
use crate::config::read::Reader;
use crate::config::value::{self, Wrong, number, or_off, string};

use super::count;
use super::rates::{Rates, rates};

pub(super) fn limits(mut table: Reader<'_, '_>) -> Option<Limits> {
    let sessions_at = table.written("sessions").unwrap_or_default();
    let sessions = table.value("sessions", count);
    let connections = table.value("connections", count);
    let pending = cap(&mut table, "connections_pending");
    let per_client = cap(&mut table, "sessions_per_client");
    let handshakes_per_client = table.value("handshakes_per_client", or_off(string(value::rate)));
    let ipv6_prefix = table.value("ipv6_prefix", number(32..=128));
    let held_bytes = table.value("held_bytes", string(value::size));
    pending.warn_above(&table, "limits.connections", connections);
    per_client.warn_above(&table, "limits.sessions", sessions);
    table.finish();
    Some(Limits {
        sessions: sessions?,
        sessions_at,
        connections: connections?,
        connections_pending: pending.value?,
        sessions_per_client: per_client.value?,
        handshakes_per_client: handshakes_per_client?,
        ipv6_prefix: ipv6_prefix? as u8,
        held_bytes: usize::try_from(held_bytes?).unwrap_or(usize::MAX),
    })
}

/// `wider`: those of the gateway, where they could be read.
pub(super) fn listener_limits(mut table: Reader<'_, '_>, wider: Option<&Limits>) -> Option<ListenerLimits> {
    let sessions = cap(&mut table, "sessions");
    let connections = cap(&mut table, "connections");
    let pending = cap(&mut table, "connections_pending");
    if let Some(wider) = wider {
        sessions.warn_above(&table, "limits.sessions", Some(wider.sessions));
        connections.warn_above(&table, "limits.connections", Some(wider.connections));
        pending.warn_above(&table, "limits.connections_pending", wider.connections_pending);
    }
    pending.warn_above(&table, "connections", connections.number());
    table.finish();
    Some(ListenerLimits {
        sessions: sessions.value?,
        connections: connections.value?,
        connections_pending: pending.value?,
    })
}

/// `wider`: those of the gateway, where they could be read.
pub(super) fn route_limits(mut table: Reader<'_, '_>, wider: Option<&Limits>) -> Option<(RouteLimits, Rates)> {
    let sessions = cap(&mut table, "sessions");
    let per_client = cap(&mut table, "sessions_per_client");
    let handshakes = table.value("handshakes", or_off(string(value::rate)));
    let client_at = table.written("handshakes_per_client");
    let handshakes_per_client = table.value("handshakes_per_client", or_off(string(value::rate)));
    if let Some(wider) = wider {
        sessions.warn_above(&table, "limits.sessions", Some(wider.sessions));
        per_client.warn_above(&table, "limits.sessions_per_client", wider.sessions_per_client);
    }
    per_client.warn_above(&table, "sessions", sessions.number());
    if let (Some(Some(rate)), Some(at)) = (handshakes_per_client, client_at) {
        let of_gateway = wider.and_then(|wider| wider.handshakes_per_client);
        let wider = [("handshakes", handshakes.flatten()), ("limits.handshakes_per_client", of_gateway)];
        for (key, _) in wider.iter().filter(|(_, wider)| wider.is_some_and(|wider| never_reached(rate, wider))) {
            let wrong = Wrong::new(format!("is above `{key}` and never reached"));
            table.warn(at, "handshakes_per_client", wrong.help("lower it, or raise the other"));
        }
    }
    let rates = rates(&mut table);
    table.finish();
    let rates = rates?;
    let limits = RouteLimits {
        sessions: sessions.value?,
        sessions_per_client: per_client.value?,
        handshakes: handshakes?,
        handshakes_per_client: handshakes_per_client?,
        rates: rates.route,
    };
    Some((limits, rates))
}

/// A number of places as the file has it.
pub(super) struct Cap {
    name: &'static str,
    at: Option<Position>,
    /// The inner `None` is `"off"`.
    pub value: Option<Option<usize>>,
}

pub(super) fn cap(table: &mut Reader<'_, '_>, name: &'static str) -> Cap {
    Cap { name, at: table.written(name), value: table.value(name, or_off(count)) }
}

impl Cap {
    fn number(&self) -> Option<usize> {
        self.value.flatten()
    }

    /// Only what stands in the file: a default that is never reached is nobody's mistake.
    pub fn warn_above(&self, table: &Reader<'_, '_>, wider_name: &str, wider: Option<usize>) {
        if let (Some(at), Some(number), Some(wider)) = (self.at, self.number(), wider)
            && number > wider
        {
            let wrong = Wrong::new(format!("{number} is above `{wider_name}` ({wider}) and never reached"));
            table.warn(at, self.name, wrong.help("lower it, or raise the other"));
        }
    }
}

/// Whoever keeps the wider rate keeps this one: its burst is as large, and more than that comes in the same time.
fn never_reached(rate: Rate, wider: Rate) -> bool {
    let scaled = |a: Rate, b: Rate| u128::from(a.count.get()) * b.per.as_nanos();
    rate.count >= wider.count && scaled(rate, wider) > scaled(wider, rate)
}
