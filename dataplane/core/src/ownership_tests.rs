//! Shares, disruption and policies of the bucket table.

use super::*;

const BUCKETS: usize = 4096;

fn members(n: u16) -> Vec<Share> {
    (1..=n).map(|node| Share { node, weight: 100 }).collect()
}

fn table(policy: Policy, m: &[Share]) -> BucketTable {
    BucketTable::new(policy, Some(2), m, BUCKETS, *b"0123456789abcdef")
}

fn key(net: u8, host: u8, port: u16) -> FlowKey {
    FlowKey {
        client: Addr::v4([10, 0, net, host]),
        vip: Addr::v4([10, 0, 0, 1]),
        client_port: port,
        port: 80,
    }
}

/// Buckets with another owner.
fn moved(a: &BucketTable, b: &BucketTable) -> usize {
    (a.owners().iter().zip(b.owners()))
        .filter(|(a, b)| a != b)
        .count()
}

/// What any table with exact shares has to move: what some members have less.
fn ideal(a: &BucketTable, b: &BucketTable, nodes: u16) -> usize {
    (1..=nodes)
        .map(|n| a.share(n).saturating_sub(b.share(n)))
        .sum()
}

#[test]
fn shares_are_exact() {
    for n in [1, 2, 3, 5, 16, 64, 200] {
        let t = table(Policy::FlowHash, &members(n));
        for node in 1..=n {
            let even = BUCKETS / usize::from(n);
            assert!((even..=even + 1).contains(&t.share(node)), "{n} members");
        }
    }
    let weights = [100, 100, 50, 1, 0];
    let m: Vec<Share> = (1..)
        .zip(weights)
        .map(|(node, weight)| Share { node, weight })
        .collect();
    let t = table(Policy::FlowHash, &m);
    let s: Vec<usize> = (1..=5).map(|n| t.share(n)).collect();
    // 4096 * (100, 100, 50, 1) / 251 = 1631.87, 1631.87, 815.94, 16.32.
    assert_eq!(s, [1632, 1632, 816, 16, 0]);
}

#[test]
fn the_order_of_members_does_not_matter() {
    let mut m = members(7);
    let there = table(Policy::FlowHash, &m);
    m.reverse();
    assert_eq!(moved(&there, &table(Policy::FlowHash, &m)), 0);
}

#[test]
fn without_a_weight_nobody_owns() {
    let idle = [Share { node: 1, weight: 0 }];
    assert_eq!(table(Policy::FlowHash, &idle).share(NOBODY), BUCKETS);
    assert_eq!(table(Policy::FlowHash, &[]).owner(&key(0, 1, 1)), NOBODY);
}

#[test]
fn a_change_moves_little_more_than_it_must() {
    for n in [2, 3, 4, 5, 8, 16, 32, 64] {
        let before = table(Policy::FlowHash, &members(n));
        let mut changes = Vec::new();
        for gone in [1, n / 2 + 1, n] {
            let mut m = members(n);
            m.retain(|m| m.node != gone);
            changes.push(m);
        }
        changes.push(members(n + 1));
        for weight in [0, 50, 90] {
            let mut m = members(n);
            m[0].weight = weight;
            changes.push(m);
        }
        for m in changes {
            let after = table(Policy::FlowHash, &m);
            let excess = moved(&before, &after) - ideal(&before, &after, n + 1);
            assert!(
                excess * 50 <= BUCKETS,
                "{n} members, then {m:?}: {excess} buckets beyond the ideal"
            );
        }
    }
}

#[test]
fn the_logarithm_is_one() {
    for (h, log) in [
        (u64::MAX, 0.0),
        (1 << 63, 1.0),
        (1 << 62, 2.0),
        (3 << 62, 0.415_037_499),
        (1, 64.0),
        (0, 64.0),
    ] {
        let is = log2_under_one(h) as f64 / (1u64 << 32) as f64;
        assert!((is - log).abs() < 1e-8, "{h:#x}: {is}");
    }
}

#[test]
fn policies() {
    let m = members(3);
    let owners = |policy, keys: &mut dyn Iterator<Item = FlowKey>| {
        let t = table(policy, &m);
        let mut seen: Vec<u16> = keys.map(|k| t.owner(&k)).collect();
        seen.sort_unstable();
        seen.dedup();
        seen
    };
    let ports = || (0..100).map(|p| key(0, 9, p));
    let hosts = || (0..100).map(|h| key(0, h, 9));
    let nets = || (0..100).map(|n| key(n, 9, 9));
    assert_eq!(owners(Policy::Designated, &mut ports()), [2]);
    assert_eq!(owners(Policy::FlowHash, &mut ports()), [1, 2, 3]);
    assert_eq!(owners(Policy::SourceHash, &mut ports()).len(), 1);
    assert_eq!(owners(Policy::SourceHash, &mut hosts()), [1, 2, 3]);
    assert_eq!(owners(Policy::SourceNetHash, &mut hosts()).len(), 1);
    assert_eq!(owners(Policy::SourceNetHash, &mut nets()), [1, 2, 3]);
}

#[test]
fn a_network_is_24_bits_or_64() {
    let six = |a: &str| Addr::from(a.parse::<std::net::IpAddr>().expect("an address"));
    assert_eq!(six("192.0.2.77").net(), six("192.0.2.0"));
    assert_eq!(six("2001:db8:1:2:3:4:5:6").net(), six("2001:db8:1:2::"));
}

#[test]
fn what_a_node_gives_away_it_keeps_for_a_moment() {
    let members = |weights: &[(u16, u32)]| -> Vec<Share> {
        let share = |&(node, weight)| Share { node, weight };
        weights.iter().map(share).collect()
    };
    let before = table(Policy::FlowHash, &members(&[(1, 100), (2, 100)]));
    let after = table(Policy::FlowHash, &members(&[(1, 100), (2, 100), (3, 100)]));
    let moment = after.keeping(1, &before);
    let all = before
        .owners()
        .iter()
        .zip(after.owners())
        .zip(moment.owners());
    for ((old, new), now) in all {
        assert_eq!(*now, if *old == 1 { 1 } else { *new });
    }
    assert!(moment.share(1) >= before.share(1));
    assert!(moment.share(3) > 0 && moment.share(3) < after.share(3));
}
