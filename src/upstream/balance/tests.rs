use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn server(name: usize, weight: u32) -> Candidate {
    let name = hash(format!("ws://10.0.0.{name}:9000").as_bytes());
    Candidate { weight, backup: false, load: 0, open: true, name }
}

fn servers(weights: &[u32]) -> Vec<Candidate> {
    weights.iter().enumerate().map(|(name, weight)| server(name, *weight)).collect()
}

fn taken(rule: impl Fn(u64) -> Rule, servers: &[Candidate], times: u64) -> Vec<usize> {
    let mut credit = vec![0; servers.len()];
    (0..times).filter_map(|time| choose(rule(time), servers, &mut credit)).collect()
}

fn counts(taken: &[usize], servers: usize) -> Vec<usize> {
    (0..servers).map(|index| taken.iter().filter(|found| **found == index).count()).collect()
}

#[test]
fn turns() {
    let closed = |mut list: Vec<Candidate>, which: &[usize]| {
        which.iter().for_each(|index| list[*index].open = false);
        list
    };
    let backup = |mut list: Vec<Candidate>, which: usize| {
        list[which].backup = true;
        list
    };
    let rows = [
        ("equal ones in their order", servers(&[1, 1, 1]), vec![0, 1, 2, 0, 1, 2, 0]),
        ("a heavy one is spread out", servers(&[5, 1, 1]), vec![0, 0, 1, 0, 2, 0, 0]),
        ("one that may not be chosen is passed over", closed(servers(&[1, 1, 1]), &[1]), vec![0, 2, 0, 2, 0, 2, 0]),
        ("a backup waits", backup(servers(&[1, 1, 1]), 0), vec![1, 2, 1, 2, 1, 2, 1]),
        ("until nobody else is there", backup(closed(servers(&[1, 1, 1]), &[0, 1]), 2), vec![2; 7]),
        ("and then nobody is", closed(servers(&[1]), &[0]), vec![]),
        ("nobody at all", Vec::new(), vec![]),
    ];
    for (what, servers, expected) in rows {
        assert_eq!(taken(|_| Rule::Turn, &servers, 7), expected, "{what}");
    }
}

#[test]
fn the_least_load() {
    // Loads and weights, and whom it takes.
    let rows = [
        (&[(3, 1), (2, 1), (4, 1)][..], 1),
        (&[(3, 1), (5, 2)], 1),
        (&[(2, 1), (6, 2)], 0),
        (&[(0, 1), (0, 3)], 1),
        (&[(usize::MAX - 1, 1000), (usize::MAX, 1000)], 0),
    ];
    for (loads, expected) in rows {
        let list: Vec<_> = loads.iter().map(|(load, weight)| Candidate { load: *load, ..server(0, *weight) }).collect();
        assert_eq!(choose(Rule::LeastLoad, &list, &mut vec![0; list.len()]), Some(expected), "{loads:?}");
    }
    assert_eq!(taken(|_| Rule::LeastLoad, &servers(&[1, 1, 1]), 6), [0, 1, 2, 0, 1, 2], "as little as each other");
}

#[test]
fn the_same_key_in_every_process() {
    // Of FNV-1a with its finalizer: another number would move every client at an update.
    assert_eq!(hash(b"10.1.2.3"), 0xbedf_7c9a_597e_f9ae);
    let list = servers(&[1, 1, 1]);
    let found: Vec<_> = (0..8_u64).map(|key| choose(Rule::Hash(hash(&[key as u8])), &list, &mut [0; 3])).collect();
    assert_eq!(found.iter().flatten().count(), 8);
    let again: Vec<_> = (0..8_u64).map(|key| choose(Rule::Hash(hash(&[key as u8])), &list, &mut [7; 3])).collect();
    assert_eq!(found, again);
}

/// Every server has its share, within a few standard deviations of fair lots.
#[test]
fn shares_by_weight() {
    const TIMES: u64 = 40_000;
    let weights = [1, 2, 5];
    let list = servers(&weights);
    let random = |time: u64| [mix(time), mix(time ^ u64::MAX)];
    let hashed = |time: u64| Rule::Hash(hash(format!("client-{time}").as_bytes()));
    for (what, found) in [
        ("turns", taken(|_| Rule::Turn, &list, TIMES)),
        ("hash", taken(hashed, &list, TIMES)),
        ("one draw", (0..TIMES).filter_map(|time| draw(&list, 0..3, random(time)[0])).collect()),
    ] {
        for (count, weight) in counts(&found, 3).into_iter().zip(weights) {
            let expected = TIMES as f64 * f64::from(weight) / 8.0;
            assert!((count as f64 - expected).abs() < expected.sqrt() * 5.0, "{what}: {count} of {expected}");
        }
    }
}

/// With as many sessions as come, and none that go.
#[test]
fn loads_even_out() {
    for rule in [|_| Rule::LeastLoad, |time| Rule::OfTwo([mix(time), mix(!time)])] {
        let mut list = servers(&[1, 1, 2]);
        let mut credit = [0; 3];
        for time in 0..4_000 {
            let found = choose(rule(time), &list, &mut credit).expect("one is open");
            list[found].load += 1;
        }
        let loads: Vec<_> = list.iter().map(|server| server.load).collect();
        let fair = [1_000, 1_000, 2_000];
        assert!(loads.iter().zip(fair).all(|(load, fair)| load.abs_diff(fair) < 40), "{loads:?}");
    }
}

fn any_servers() -> impl Strategy<Value = Vec<Candidate>> {
    let any = (1..=1000_u32, any::<bool>(), 0..50_usize, prop::bool::weighted(0.7));
    vec(any, 1..12).prop_map(|list| {
        let build = |(index, (weight, backup, load, open))| Candidate { backup, load, open, ..server(index, weight) };
        list.into_iter().enumerate().map(build).collect()
    })
}

fn any_rule() -> impl Strategy<Value = Rule> {
    prop_oneof![
        Just(Rule::Turn),
        Just(Rule::LeastLoad),
        any::<[u64; 2]>().prop_map(Rule::OfTwo),
        any::<u64>().prop_map(Rule::Hash),
    ]
}

proptest! {
    /// Somebody whenever somebody may be; a backup only when nobody else may.
    #[test]
    fn whoever_is_chosen_may_be(list in any_servers(), rule in any_rule()) {
        let found = choose(rule, &list, &mut vec![0; list.len()]);
        prop_assert_eq!(found.is_some(), list.iter().any(|server| server.open));
        if let Some(found) = found {
            prop_assert!(list[found].open);
            prop_assert!(!list[found].backup || list.iter().all(|server| server.backup || !server.open));
        }
    }

    #[test]
    fn least_load_never_takes_a_fuller_one(list in any_servers()) {
        if let Some(found) = choose(Rule::LeastLoad, &list, &mut vec![0; list.len()]) {
            let peers = list.iter().filter(|server| server.open && server.backup == list[found].backup);
            for peer in peers {
                prop_assert!(fuller(&list[found], peer).is_le());
                prop_assert!(list[found].load <= peer.load || list[found].weight > peer.weight);
            }
        }
    }

    /// Of two that may be chosen, never the fuller.
    #[test]
    fn the_fullest_is_not_of_two(list in any_servers(), random in any::<[u64; 2]>()) {
        let open: Vec<_> = list.iter().filter(|server| server.open && !server.backup).collect();
        if let [_, _, ..] = open[..] {
            let found = choose(Rule::OfTwo(random), &list, &mut vec![0; list.len()]).expect("some are open");
            let others = open.iter().filter(|server| server.name != list[found].name);
            prop_assert!(others.into_iter().any(|other| fuller(&list[found], other).is_le()));
        }
    }

    /// When a server goes, its keys move and no others; when it is back, they are.
    #[test]
    fn only_the_keys_of_who_goes_move(weights in vec(1..10_u32, 2..8), gone in any::<prop::sample::Index>()) {
        let before = servers(&weights);
        let mut after = before.clone();
        let gone = gone.index(before.len());
        after[gone].open = false;
        for key in 0..200_u64 {
            let rule = Rule::Hash(hash(&key.to_be_bytes()));
            let was = choose(rule, &before, &mut vec![0; before.len()]);
            let is = choose(rule, &after, &mut vec![0; before.len()]);
            prop_assert_eq!(is == was, was != Some(gone));
        }
    }

    /// No turn is missed, whatever set is open in between: credits stay as small as the weights.
    #[test]
    fn credits_stay_bounded(weights in vec(1..=1000_u32, 1..6), opens in vec(any::<u8>(), 0..200)) {
        let mut list = servers(&weights);
        let mut credit = vec![0; list.len()];
        let all: i64 = weights.iter().map(|weight| i64::from(*weight)).sum();
        for open in opens {
            for (index, server) in list.iter_mut().enumerate() {
                server.open = open >> index & 1 == 1;
            }
            choose(Rule::Turn, &list, &mut credit);
            prop_assert_eq!(credit.iter().sum::<i64>(), 0);
            prop_assert!(credit.iter().all(|credit| credit.abs() <= all * weights.len() as i64), "{:?}", credit);
        }
    }
}
