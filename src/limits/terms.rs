//! What the sessions of a route are held to: its relay rules and rates, for as long as they hold.
//!
//! A reload puts other [`Terms`] into the route's [`Standing`] and wakes its sessions, which take them then. A rate that
//! stays keeps its purses; one that changed begins with full ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;

use super::clients::Table;
use super::throttle::{Purses, Throttle};
use crate::config::model::{ByteRate, Rate, RelayRules, RouteRates};
use crate::policy::client::{ClientKey, Keys};

/// Rules and rates of a route under one configuration.
#[derive(Debug)]
pub struct Terms {
    pub relay: RelayRules,
    rates: RouteRates,
    purses: Arc<Purses>,
    client_purses: Arc<Table<Purses>>,
}

/// A route, as its sessions know it: the same through all reloads.
#[derive(Debug)]
pub struct Standing {
    terms: ArcSwap<Terms>,
    removed: AtomicBool,
}

/// What one session is held to, and who pays.
#[derive(Debug)]
pub struct Account {
    standing: Arc<Standing>,
    terms: Arc<Terms>,
    keys: Box<[ClientKey]>,
}

impl Terms {
    /// `clients_max`: clients that a rate is counted for at once.
    pub fn new(relay: RelayRules, rates: RouteRates, clients_max: usize) -> Terms {
        let client_purses = Arc::new(Table::new(clients_max));
        Terms { relay, rates, purses: Arc::default(), client_purses }
    }

    /// Those that follow these.
    pub fn renew(&self, relay: RelayRules, rates: RouteRates, clients_max: usize) -> Terms {
        let new = Terms::new(relay, rates, clients_max);
        let kept = |scope: fn(&RouteRates) -> Scope| scope(&self.rates) == scope(&rates);
        Terms {
            purses: if kept(of_route) { self.purses.clone() } else { new.purses },
            client_purses: match kept(of_client) {
                true => Arc::new(self.client_purses.renew(clients_max)),
                false => new.client_purses,
            },
            ..new
        }
    }

    /// What a session pays from whose client has these keys; `None` where no rate applies.
    pub fn throttle(&self, keys: &[ClientKey]) -> Option<Arc<Throttle>> {
        self.throttle_with(Arc::default(), keys)
    }

    fn throttle_with(&self, own: Arc<Purses>, keys: &[ClientKey]) -> Option<Arc<Throttle>> {
        let by_client = of_client(&self.rates) != Scope::default();
        let keys = if by_client { keys } else { &[] };
        let clients: Vec<_> = keys.iter().map(|key| self.client_purses.entry(*key)).collect();
        Throttle::with_own(&self.rates, own, &clients, &self.purses)
    }

    /// Whether a session that follows these instead would notice nothing.
    pub(super) fn are_those_of(&self, other: &Terms) -> bool {
        self.relay == other.relay && self.rates == other.rates
    }

    /// Clients that the rates remember.
    pub(super) fn clients(&self) -> usize {
        self.client_purses.len()
    }

    pub(super) fn sweep(&self) {
        self.client_purses.sweep();
    }
}

/// The rates that are paid from the same purses.
type Scope = (Option<Rate>, Option<ByteRate>);

fn of_session(rates: &RouteRates) -> Scope {
    (rates.messages.session, rates.bytes.session)
}

fn of_client(rates: &RouteRates) -> Scope {
    (rates.messages.client, rates.bytes.client)
}

fn of_route(rates: &RouteRates) -> Scope {
    (rates.messages.route, rates.bytes.route)
}

impl Standing {
    pub fn new(terms: Arc<Terms>) -> Arc<Standing> {
        Arc::new(Standing { terms: ArcSwap::new(terms), removed: AtomicBool::new(false) })
    }

    pub fn current(&self) -> Arc<Terms> {
        self.terms.load_full()
    }

    /// Puts others in their place. The sessions of the route are to be woken then.
    pub fn put(&self, terms: Arc<Terms>) {
        self.terms.store(terms);
    }

    /// The route is no more, for good: one that comes later under its name has a standing of its own.
    pub fn remove(&self) {
        self.removed.store(true, Ordering::SeqCst);
    }

    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::SeqCst)
    }
}

impl Account {
    /// `keys` are those of the session's client. To be made once the session can be woken: what changes later wakes it.
    pub fn new(standing: Arc<Standing>, keys: Keys) -> Account {
        Account { terms: standing.current(), standing, keys: keys.as_slice().into() }
    }

    pub fn rules(&self) -> &RelayRules {
        &self.terms.relay
    }

    pub fn throttle(&self) -> Option<Arc<Throttle>> {
        self.terms.throttle(&self.keys)
    }

    /// Takes the terms that hold now. `None`: they are those that it had.
    pub fn renew(&mut self, before: Option<&Arc<Throttle>>) -> Option<Change> {
        let after = self.standing.current();
        let terms = std::mem::replace(&mut self.terms, after);
        if Arc::ptr_eq(&terms, &self.terms) {
            return None;
        }
        if terms.rates == self.terms.rates {
            return Some(Change::Rules);
        }
        let kept = of_session(&terms.rates) == of_session(&self.terms.rates);
        let own = before.and_then(|before| before.own()).filter(|_| kept).cloned().unwrap_or_default();
        Some(Change::Rates(self.terms.throttle_with(own, &self.keys)))
    }
}

/// What other terms change for a session.
#[derive(Debug)]
pub enum Change {
    /// Its rules alone, at most.
    Rules,
    /// Also what it pays from.
    Rates(Option<Arc<Throttle>>),
}
