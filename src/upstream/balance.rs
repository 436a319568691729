//! Which server is next: a pure choice among servers as they are at this moment.
//!
//! In: a rule and what is known of each server. Out: an index. No socket, no clock and no count here: who may be chosen
//! at all (a place is free, it is healthy, it was not tried before) is the caller's to say.

use std::cmp::Ordering;

/// One server as the choice sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its share, by what the others have; at least 1.
    pub weight: u32,
    /// Chosen only when no other may be.
    pub backup: bool,
    /// Sessions that are open or being dialled, and requests on their way.
    pub load: usize,
    /// It may be chosen.
    pub open: bool,
    /// [`hash`] of its address: what it is called in [`Rule::Hash`].
    pub name: u64,
}

/// By what a server is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Taken in turn, each as often as its weight says.
    Turn,
    /// The one with the least load for its weight; those that have as little as each other in turn.
    LeastLoad,
    /// The one with less load of two that are drawn by weight with these random numbers.
    OfTwo([u64; 2]),
    /// The one to which this [`hash`] belongs: the same for as long as it may be chosen.
    Hash(u64),
}

/// The server of that name, when it may be chosen now. A backup may not as long as others may.
pub fn find(name: u64, servers: &[Candidate]) -> Option<usize> {
    let backup = only_backups(servers);
    servers.iter().position(|server| server.name == name && server.open && server.backup == backup)
}

fn only_backups(servers: &[Candidate]) -> bool {
    !servers.iter().any(|server| server.open && !server.backup)
}

/// Chooses among `servers`. `credit` has one number for each of them, zero at the start: what turns remember.
pub fn choose(rule: Rule, servers: &[Candidate], credit: &mut [i64]) -> Option<usize> {
    let backup = only_backups(servers);
    let may = |index: &usize| servers[*index].open && servers[*index].backup == backup;
    let open = || (0..servers.len()).filter(may);
    match rule {
        Rule::Turn => turn(servers, open(), credit),
        Rule::LeastLoad => {
            let least = open().min_by(|a, b| fuller(&servers[*a], &servers[*b]))?;
            let as_little = |index: &usize| fuller(&servers[*index], &servers[least]).is_eq();
            turn(servers, open().filter(as_little), credit)
        }
        Rule::OfTwo([first, second]) => {
            let first = draw(servers, open(), first)?;
            let Some(second) = draw(servers, open().filter(|index| *index != first), second) else {
                return Some(first);
            };
            Some(if fuller(&servers[second], &servers[first]).is_lt() { second } else { first })
        }
        Rule::Hash(key) => open().max_by(|a, b| score(key, &servers[*a]).total_cmp(&score(key, &servers[*b]))),
    }
}

/// Smooth turns, as nginx takes them: everybody earns its weight, the richest pays for all. With weights 5, 1, 1 the heavy
/// one is not taken five times in a row.
fn turn(servers: &[Candidate], open: impl Iterator<Item = usize>, credit: &mut [i64]) -> Option<usize> {
    let (mut paid, mut richest) = (0, None);
    for index in open {
        let weight = i64::from(servers[index].weight);
        paid += weight;
        credit[index] += weight;
        if richest.is_none_or(|best| credit[index] > credit[best]) {
            richest = Some(index);
        }
    }
    credit[richest?] -= paid;
    richest
}

/// By what each would have for its weight if it were chosen: so a heavy one is preferred among idle ones, too.
fn fuller(a: &Candidate, b: &Candidate) -> Ordering {
    let share = |of: &Candidate, other: &Candidate| (of.load as u128 + 1) * u128::from(other.weight);
    share(a, b).cmp(&share(b, a))
}

fn draw(servers: &[Candidate], open: impl Iterator<Item = usize> + Clone, random: u64) -> Option<usize> {
    let all: u64 = open.clone().map(|index| u64::from(servers[index].weight)).sum();
    let mut left = random.checked_rem(all)?;
    for index in open {
        match left.checked_sub(servers[index].weight.into()) {
            Some(less) => left = less,
            None => return Some(index),
        }
    }
    None
}

/// Rendezvous hashing with weights: each server draws a lot for each key, and the best lot wins. When a server goes, only
/// its keys move, and to all others by their weights.
fn score(key: u64, server: &Candidate) -> f64 {
    // In (0, 1]: an exponential lot, the longer the smaller its logarithm.
    let drawn = ((mix(key ^ server.name) >> 11) + 1) as f64 / (1_u64 << 53) as f64;
    f64::from(server.weight) / -drawn.ln()
}

/// A number for a value (FNV-1a): the same in every process, so that gateways beside each other agree. Nobody is kept
/// from finding values that meet: whoever chooses its own key chooses its server.
pub fn hash(value: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    mix(value.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// Spreads what differs in a few bits over all of them (the finalizer of SplitMix64).
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests;
