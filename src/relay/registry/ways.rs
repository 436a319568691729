//! The ways that sessions go, each with a number, which is its place among the totals. Numbers of ways that are forgotten
//! are given again: servers come and go with the configuration for as long as the process lives.

use std::collections::HashMap;
use std::sync::Arc;

use super::living::Way;

#[derive(Debug, Default)]
pub(super) struct Ways {
    by_route: HashMap<Box<str>, Vec<Arc<Way>>>,
    /// How many numbers there are, and those of them that no way has.
    numbers: usize,
    free: Vec<usize>,
}

/// The total of a way that was forgotten is to be added to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Move {
    pub from: usize,
    pub to: usize,
}

impl Ways {
    pub fn find(&self, route: &str, [listener, upstream, server]: [&str; 3]) -> Option<&Arc<Way>> {
        let same = |way: &&Arc<Way>| [&*way.listener, &*way.upstream, &*way.server] == [listener, upstream, server];
        self.by_route.get(route)?.iter().find(same)
    }

    /// The way of these names, which may be new.
    pub fn way(&mut self, route: &str, names: [&str; 3]) -> Arc<Way> {
        if let Some(way) = self.find(route, names) {
            return way.clone();
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.numbers += 1;
            self.numbers - 1
        });
        let [listener, upstream, server] = names.map(Box::from);
        let way = Arc::new(Way { listener, route: route.into(), upstream, server, number });
        self.by_route.entry(route.into()).or_default().push(way.clone());
        way
    }

    pub fn all(&self) -> Vec<Arc<Way>> {
        self.by_route.values().flatten().cloned().collect()
    }

    /// Takes out the ways that are gone and that nobody holds. Each of them is merged into the rest of its route.
    pub fn forget(&mut self, is_gone: impl Fn(&Way) -> bool) -> Vec<Move> {
        let mut forgotten = Vec::new();
        for ways in self.by_route.values_mut() {
            let is_unheld = |way: &mut Arc<Way>| Arc::strong_count(way) == 1 && !way.is_rest() && is_gone(way);
            forgotten.extend(ways.extract_if(.., is_unheld));
        }
        let merge = |way: Arc<Way>| {
            let to = self.way(&way.route, Way::REST).number;
            self.free.push(way.number);
            Move { from: way.number, to }
        };
        forgotten.into_iter().map(merge).collect()
    }
}
