//! What each policy promises.

use dts_proxy::policy::bounded::capacity;
use dts_proxy::policy::lard::{Assign, Params, Table};
use dts_proxy::policy::sticky::By;
use dts_proxy::policy::{Candidate, Memory, Policy, Request, hash};
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

const NOW: Duration = Duration::from_secs(1000);

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 77, 1, n], 80))
}

/// Members 1, 2, ... of full weight with these loads.
fn loaded(loads: &[u32]) -> Vec<Candidate<'static>> {
    let member = |(load, n): (&u32, u8)| Candidate {
        address: address(n),
        name: None,
        weight: 100,
        load: *load,
    };
    loads.iter().zip(1..).map(member).collect()
}

fn asks(target: &str) -> Request {
    Request {
        target: Some(target.as_bytes().to_vec()),
        source: Ipv4Addr::new(192, 0, 2, 1).into(),
        cookie: None,
    }
}

/// Who is chosen by a policy that remembers nothing.
fn chosen(policy: &Policy, request: &Request, from: &[Candidate<'_>], draw: u64) -> usize {
    policy
        .choose(&mut Memory::None, request, from, NOW, draw)
        .expect("there are members")
}

// --- the hash ---

#[test]
fn removal_moves_only_the_keys_of_the_removed_member() {
    let before = loaded(&[0; 4]);
    let mut after = before.clone();
    let removed = after.remove(1).address;
    let mut moved = HashMap::<SocketAddr, u32>::new();
    for i in 0..4000 {
        let key = format!("/p{i}");
        let old = hash::order(&before, key.as_bytes());
        let new = after[chosen(&Policy::PathHash, &asks(&key), &after, 0)].address;
        if before[old[0]].address == removed {
            assert_eq!(new, before[old[1]].address, "the second best");
            *moved.entry(new).or_default() += 1;
        } else {
            assert_eq!(new, before[old[0]].address);
        }
    }
    assert_eq!(moved.len(), 3, "spread over all that are left: {moved:?}");
    assert!(moved.values().all(|&keys| keys > 250), "{moved:?}");
}

#[test]
fn weights_are_shares() {
    let mut members = loaded(&[0, 0]);
    (members[0].weight, members[1].weight) = (10, 30);
    for policy in [Policy::PathHash, Policy::Weight] {
        let first = (0..8000)
            .filter(|i| chosen(&policy, &asks(&format!("/{i}")), &members, *i) == 0)
            .count();
        // Fixed keys and draws, so no chance in the test.
        assert!((1850..2150).contains(&first), "{policy:?}: {first} of 8000");
    }
    // At random means whatever is asked for; by hash means whatever is drawn.
    let spread = |policy: &Policy| {
        let one = asks("/same");
        (0..50)
            .map(|draw| chosen(policy, &one, &members, draw))
            .collect::<HashSet<_>>()
            .len()
    };
    assert_eq!((spread(&Policy::PathHash), spread(&Policy::Weight)), (1, 2));
}

#[test]
fn placement_is_the_same_on_every_node_and_version() {
    let members = loaded(&[0; 4]);
    let placed = ["/a/1", "/a/2", "/a/3", "/a/4", "/a/5", "/a/6"]
        .map(|key| 1 + chosen(&Policy::PathHash, &asks(key), &members, 0));
    // Computed apart from this code, by a SipHash-2-4 in Python.
    assert_eq!(placed, [3, 2, 4, 4, 1, 4]);
}

// --- bounded loads ---

#[test]
fn a_bounded_hash_is_the_hash_until_a_member_is_full() {
    let bounded = Policy::BoundedHash { slack_percent: 25 };
    let even = loaded(&[100; 4]);
    let mut displaced = 0;
    let full = loaded(&[126, 92, 91, 91]);
    for i in 0..2000 {
        let request = asks(&format!("/p{i}"));
        let first = chosen(&Policy::PathHash, &request, &even, 0);
        assert_eq!(chosen(&bounded, &request, &even, 0), first);
        // Of 401 connections each may have 126 = ceil(1.25 * 401 / 4).
        let now = chosen(&bounded, &request, &full, 0);
        if first == 0 {
            displaced += 1;
            let second = hash::order(&full, request.target.as_deref().unwrap())[1];
            assert_eq!(now, second, "the next one in the key's own order");
        } else {
            assert_eq!(now, first, "nobody else moves");
        }
    }
    assert!(displaced > 400, "{displaced}");
}

#[test]
fn capacities() {
    // ceil((1 + 0.25) * 401 / 4) and, by weight, of 10 of 40.
    assert_eq!(capacity(401, 100, 400, 25), 126);
    assert_eq!(capacity(401, 10, 40, 25), 126);
    assert_eq!(
        capacity(1, 1, 400, 25),
        1,
        "an idle pool takes a connection"
    );
    assert_eq!(capacity(u64::MAX, 100, 100, 1000), u64::MAX);
}

proptest! {
    /// Connections that come and go, to members of any weights: no member ever gets one
    /// that takes it above (1 + epsilon) of its share, rounded up.
    #[test]
    fn no_member_exceeds_its_bound(
        weights in prop::collection::vec(1u8..=100, 1..12),
        slack in 1u32..200,
        steps in prop::collection::vec((0u8..40, any::<bool>()), 1..400),
    ) {
        let mut members = loaded(&vec![0; weights.len()]);
        for (member, weight) in members.iter_mut().zip(&weights) {
            member.weight = *weight;
        }
        let all: u64 = weights.iter().map(|&w| u64::from(w)).sum();
        let policy = Policy::BoundedHash { slack_percent: slack };
        for (key, leaves) in steps {
            if leaves {
                let at = usize::from(key) % members.len();
                members[at].load = members[at].load.saturating_sub(1);
                continue;
            }
            let at = chosen(&policy, &asks(&format!("/{key}")), &members, 0);
            members[at].load += 1;
            let total: u64 = members.iter().map(|m| u64::from(m.load)).sum();
            let exact = total as f64 * f64::from(members[at].weight) / all as f64;
            let bound = (exact * (1.0 + f64::from(slack) / 100.0) - 1e-9).ceil();
            prop_assert!(f64::from(members[at].load) <= bound, "{} of {bound}", members[at].load);
        }
    }

    /// A member that joins takes keys and moves none between the others, as long as
    /// nobody is full.
    #[test]
    fn who_joins_only_takes(keys in prop::collection::vec("/[a-z]{1,8}", 1..50), n in 1usize..8) {
        let policy = Policy::BoundedHash { slack_percent: 100 };
        let (before, after) = (loaded(&vec![50; n]), loaded(&vec![50; n + 1]));
        for key in keys {
            let old = chosen(&policy, &asks(&key), &before, 0);
            let new = chosen(&policy, &asks(&key), &after, 0);
            prop_assert!(new == old || new == n, "from {old} to {new}");
        }
    }

    #[test]
    fn the_least_loaded_for_its_weight(
        members in prop::collection::vec((0u32..2000, 1u8..=100), 1..12), draw: u64,
    ) {
        let mut from = loaded(&vec![0; members.len()]);
        for (member, (load, weight)) in from.iter_mut().zip(&members) {
            (member.load, member.weight) = (*load, *weight);
        }
        let at = chosen(&Policy::LeastConnections, &asks("/"), &from, draw);
        let per_weight = |c: &Candidate<'_>| c.load * 10_000 / u32::from(c.weight);
        prop_assert!(from.iter().all(|c| per_weight(c) >= per_weight(&from[at])));
    }

    /// Whatever LARD is told, it chooses one of those that it may, and remembers it.
    #[test]
    fn lard_stays_within_its_members_and_its_table(
        steps in prop::collection::vec(
            (0u8..30, prop::collection::vec((1u8..6, 0u32..200), 1..6), 0u64..40), 1..200),
        replicated: bool,
        assign in prop_oneof![Just(Assign::Hash), Just(Assign::LeastLoaded)],
    ) {
        let params = Params { assign, targets: 8, ..params(replicated.then_some(20)) };
        let mut table = Table::new(params.targets, [7; 16]);
        let mut now = Duration::ZERO;
        for (target, members, later) in steps {
            now += Duration::from_secs(later);
            let mut from: Vec<Candidate<'_>> = Vec::new();
            for (n, load) in members {
                if from.iter().all(|c| c.address != address(n)) {
                    from.push(Candidate { address: address(n), load, name: None, weight: 100 });
                }
            }
            let target = [target];
            let at = table.choose(&params, &target, &from, now).unwrap();
            let servers = table.servers(&target);
            prop_assert!(servers.contains(&from[at].address));
            prop_assert!(servers.iter().all(|s| from.iter().any(|c| c.address == *s)));
            let unique: HashSet<_> = servers.iter().collect();
            prop_assert_eq!(unique.len(), servers.len());
            prop_assert!(replicated || servers.len() == 1);
            prop_assert!(table.len() <= 8);
        }
    }
}

#[test]
fn equally_loaded_members_take_turns_by_chance() {
    let members = loaded(&[3, 7, 3, 3]);
    let mut counts = [0; 4];
    for draw in 0..3000 {
        counts[chosen(&Policy::LeastConnections, &asks("/same"), &members, draw)] += 1;
    }
    assert_eq!(counts[1], 0);
    assert!(
        [0, 2, 3].iter().all(|&i| (900..1100).contains(&counts[i])),
        "{counts:?}"
    );
}

// --- LARD ---

fn params(replica_s: Option<u64>) -> Params {
    Params {
        low: 25,
        high: 65,
        replicas: replica_s.map(Duration::from_secs),
        targets: 100,
        assign: Assign::LeastLoaded,
    }
}

/// A table in which the target's nodes are these, changed at second 1000.
fn table(replica_s: Option<u64>, nodes: &[u8]) -> (Params, Table) {
    let params = params(replica_s);
    let mut table = Table::new(params.targets, [7; 16]);
    for (i, node) in nodes.iter().enumerate() {
        // The set grows to a node that is the least loaded one while the rest of the
        // set is overloaded.
        let member = |n: u8| Candidate {
            address: address(n),
            name: None,
            weight: 100,
            load: if n == *node { 0 } else { 130 },
        };
        let from: Vec<_> = nodes[..=i].iter().map(|&n| member(n)).collect();
        table.choose(&params, b"/t", &from, NOW).unwrap();
    }
    assert_eq!(table.servers(b"/t").len(), nodes.len());
    (params, table)
}

/// The target's nodes, in order.
fn set(table: &Table) -> Vec<u8> {
    let number = |at: &SocketAddr| match at.ip() {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(_) => unreachable!("the test has no IPv6"),
    };
    let mut set: Vec<_> = table.servers(b"/t").iter().map(number).collect();
    set.sort_unstable();
    set
}

/// Figure 2 of the paper, case by case: loads, the target's node before, and after.
#[test]
fn basic_lard_by_the_papers_rules() {
    #[rustfmt::skip]
    let cases: &[(&[u32], &[u8], u8, &str)] = &[
        (&[30, 10, 20],   &[],  2, "a new target goes to the least loaded node"),
        (&[65, 0, 0],     &[1], 1, "at T_high a node is not above it"),
        (&[66, 25, 30],   &[1], 1, "above T_high, and nobody is below T_low"),
        (&[66, 24, 30],   &[1], 2, "above T_high, and node 2 is below T_low"),
        (&[66, 24, 3],    &[1], 3, "it moves to the least loaded one"),
        (&[129, 25, 30],  &[1], 1, "below twice T_high, and nobody is below T_low"),
        (&[130, 90, 80],  &[1], 3, "at twice T_high it moves in any case"),
        (&[130, 140, 135], &[1], 1, "the least loaded node may be its own"),
        (&[24, 10, 0],    &[1], 1, "below T_low it stays, however idle others are"),
    ];
    for (loads, before, after, why) in cases {
        let (params, mut table) = table(None, before);
        let at = table.choose(&params, b"/t", &loaded(loads), NOW).unwrap();
        assert_eq!(at + 1, usize::from(*after), "{why}");
        assert_eq!(set(&table), [*after], "{why}");
    }
}

/// Figure 3: loads, the set before, seconds since it changed, who gets the request, and
/// the set after.
#[test]
fn lard_with_replication_by_the_papers_rules() {
    type Case = (
        &'static [u32],
        &'static [u8],
        u64,
        u8,
        &'static [u8],
        &'static str,
    );
    #[rustfmt::skip]
    let cases: &[Case] = &[
        (&[30, 10, 20],   &[],     0,  2, &[2],       "a new target goes to the least loaded node"),
        (&[30, 10, 20],   &[1, 3], 5,  3, &[1, 3],    "the least loaded one of its set"),
        (&[66, 24, 80],   &[1, 3], 5,  2, &[1, 2, 3], "overloaded, and node 2 has time: it joins"),
        (&[66, 25, 80],   &[1, 3], 5,  1, &[1, 3],    "nobody is below T_low"),
        (&[130, 90, 140], &[1, 3], 5,  2, &[1, 2, 3], "twice T_high: the least loaded joins in any case"),
        (&[30, 10, 20],   &[1, 3], 20, 3, &[1, 3],    "after K, not yet longer than it"),
        (&[30, 10, 20],   &[1, 3], 21, 3, &[3],       "longer than K: the most loaded one leaves"),
        (&[30, 10, 20],   &[1],    21, 1, &[1],       "the last one never leaves"),
        (&[66, 24, 80],   &[1, 3], 21, 2, &[1, 2],    "one joins and the most loaded one leaves"),
        (&[130, 130, 130], &[1, 2], 5, 0, &[],        "all as loaded: any, see below"),
    ];
    for (loads, before, age, chosen, after, why) in cases {
        let (params, mut table) = table(Some(20), before);
        let now = NOW + Duration::from_secs(*age);
        let at = table.choose(&params, b"/t", &loaded(loads), now).unwrap();
        let set = set(&table);
        if *chosen == 0 {
            assert!(set.contains(&(at as u8 + 1)), "{why}: {at} of {set:?}");
            continue;
        }
        assert_eq!(at + 1, usize::from(*chosen), "{why}");
        assert_eq!(set, *after, "{why}");
    }
}

#[test]
fn a_change_of_the_set_starts_its_time_anew() {
    let (params, mut table) = table(Some(20), &[1]);
    let second = |s| NOW + Duration::from_secs(s);
    // It grows at 15, so that at 30 it is settled for 15 s only.
    let busy = loaded(&[70, 0, 0]);
    table.choose(&params, b"/t", &busy, second(15)).unwrap();
    let grown = set(&table);
    assert_eq!(grown.len(), 2);
    let quiet = loaded(&[9, 8, 7]);
    table.choose(&params, b"/t", &quiet, second(30)).unwrap();
    assert_eq!(set(&table), grown);
    table.choose(&params, b"/t", &quiet, second(36)).unwrap();
    assert_eq!(set(&table).len(), 1);
}

#[test]
fn targets_of_a_node_that_is_no_more_go_elsewhere() {
    for replica_s in [None, Some(20)] {
        let (params, mut table) = table(replica_s, &[1]);
        let others = &loaded(&[0, 9, 8])[1..];
        let at = table.choose(&params, b"/t", others, NOW).unwrap();
        assert_eq!(others[at].address, address(3));
        assert_eq!(set(&table), [3]);
        assert!(table.choose(&params, b"/t", &[], NOW).is_none());
        assert_eq!(set(&table), [3], "nobody to choose from changes nothing");
    }
}

#[test]
fn what_was_asked_for_least_recently_is_forgotten() {
    let params = Params {
        targets: 2,
        ..params(None)
    };
    let mut table = Table::new(2, [7; 16]);
    let members = loaded(&[0, 0]);
    for target in ["/1", "/2", "/1", "/3"] {
        table
            .choose(&params, target.as_bytes(), &members, NOW)
            .unwrap();
    }
    let known = ["/1", "/2", "/3"].map(|t| !table.servers(t.as_bytes()).is_empty());
    assert_eq!(known, [true, false, true]);
}

/// Each node's proxy has a table of its own. While nobody is busy all agree by hash, not by
/// their moment's loads.
#[test]
fn proxies_agree_about_new_targets() {
    let hash = Params {
        assign: Assign::Hash,
        ..params(None)
    };
    let (mut one, mut other) = (Table::new(100, [1; 16]), Table::new(100, [2; 16]));
    let mut used = HashSet::new();
    for i in 0..50 {
        let target = format!("/{i}");
        let target = target.as_bytes();
        let here = one.choose(&hash, target, &loaded(&[3, 20, 24]), NOW);
        let there = other.choose(&hash, target, &loaded(&[24, 0, 5]), NOW);
        assert_eq!(here, there, "{i}");
        used.insert(here);
        // One at T_low or above gets nothing new, and where all are, the least loaded does.
        let busy = format!("/busy/{i}");
        let at = one.choose(&hash, busy.as_bytes(), &loaded(&[25, 0, 60]), NOW);
        assert_eq!(at, Some(1));
        let full = format!("/full/{i}");
        let at = one.choose(&hash, full.as_bytes(), &loaded(&[40, 50, 30]), NOW);
        assert_eq!(at, Some(2));
    }
    assert_eq!(used.len(), 3);
}

#[test]
fn thresholds_are_those_of_a_member_of_full_weight() {
    let params = params(None);
    let mut members = loaded(&[33, 30]);
    // A quarter: 33 connections are as 132 of a member of full weight.
    members[0].weight = 25;
    let mut table = Table::new(10, [7; 16]);
    let only = &members[..1];
    assert_eq!(table.choose(&params, b"/t", only, NOW), Some(0));
    assert_eq!(table.choose(&params, b"/t", &members, NOW), Some(1));
}

// --- sticky ---

fn named<'a>(names: &[&'a str]) -> Vec<Candidate<'a>> {
    let mut members: Vec<Candidate<'a>> = loaded(&vec![0; names.len()]);
    for (member, name) in members.iter_mut().zip(names) {
        member.name = Some(name);
    }
    members
}

#[test]
fn a_source_stays_and_sources_spread() {
    let policy = Policy::Sticky(By::Source);
    let members = loaded(&[0, 500, 0]);
    let from = |source: IpAddr, target: &str| Request {
        source,
        ..asks(target)
    };
    let mut counts = [0; 3];
    for i in 0..=255 {
        for source in [
            IpAddr::from([192, 0, 2, i]),
            IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(i)]),
        ] {
            let at = chosen(&policy, &from(source, "/1"), &members, 1);
            assert_eq!(at, chosen(&policy, &from(source, "/2"), &members, 2));
            counts[at] += 1;
            // Others stay where they are when one goes.
            let left: Vec<_> = members
                .iter()
                .filter(|m| m.address != address(3))
                .copied()
                .collect();
            let then = left[chosen(&policy, &from(source, "/1"), &left, 1)].address;
            assert!(at == 2 || then == members[at].address);
        }
    }
    assert!(counts.iter().all(|&n| n > 120), "{counts:?}");
}

#[test]
fn a_cookie_names_a_member_or_is_hashed() {
    let policy = Policy::Sticky(By::Cookie("id".into()));
    let members = named(&["node1", "node2", "node3"]);
    let with = |cookie: &str| Request {
        cookie: Some(cookie.into()),
        ..asks("/")
    };
    let at = |cookie: &str, from: &[Candidate<'_>], draw| {
        from[chosen(&policy, &with(cookie), from, draw)].address
    };
    for draw in 0..20 {
        assert_eq!(at("5f3a.node2", &members, draw), address(2));
        assert_eq!(at("5f.3a.node3", &members, draw), address(3));
        assert_eq!(at("5f3a", &members, draw), at("5f3a", &members, 0));
        // A part of a name, or the name alone, is no name.
        assert_eq!(at("node2", &members, draw), at("node2", &members, 0));
    }
    let spread: HashSet<_> = (0..40).map(|i| at(&format!("v{i}"), &members, 0)).collect();
    assert_eq!(spread.len(), 3);
    let spread: HashSet<_> = (0..40)
        .map(|i| at(&format!("v{i}.node9"), &members, 0))
        .collect();
    assert_eq!(spread.len(), 3, "a member that is not there any more");
    // The named one is ill: its clients go to one and the same place.
    let left = [members[0], members[2]];
    assert_eq!(at("5f3a.node2", &left, 1), at("5f3a.node2", &left, 2));
    // Without the cookie: anywhere.
    let anywhere: HashSet<_> = (0..40)
        .map(|draw| chosen(&policy, &asks("/"), &members, draw))
        .collect();
    assert_eq!(anywhere.len(), 3);
}

#[test]
fn without_a_target_the_choice_is_by_chance_or_load() {
    let none = Request {
        target: None,
        ..asks("/")
    };
    let members = loaded(&[9, 1, 9]);
    let spread = |policy: &Policy| {
        (0..40)
            .map(|draw| chosen(policy, &none, &members, draw))
            .collect::<HashSet<_>>()
    };
    assert_eq!(spread(&Policy::PathHash).len(), 3);
    assert_eq!(spread(&Policy::Lard(params(None))), HashSet::from([1]));
    for policy in [
        Policy::PathHash,
        Policy::BoundedHash { slack_percent: 1 },
        Policy::Lard(params(None)),
        Policy::LeastConnections,
        Policy::Weight,
        Policy::Sticky(By::Source),
    ] {
        let at = policy.choose(&mut Memory::None, &none, &[], NOW, 1);
        assert_eq!(at, None, "{policy:?}");
    }
}
