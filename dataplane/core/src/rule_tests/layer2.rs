//! What the wire is told of the cluster, and what is heard of it there.

use super::*;
use crate::key::Addr;
use crate::wire::arp::{self, Arp};
use crate::wire::nd::{self, Advert};
use crate::wire::{BROADCAST, Mac, igmp};

const GROUP: [u8; 4] = [239, 255, 7, 9];

fn announcing(node: u16, owner: u16) -> Node {
    let mut v = view(node, owner);
    v.params.announce = true;
    Node::new(v)
}

/// What a frame claims: an address, and where it is.
fn claim(f: &[u8]) -> (Addr, Mac) {
    if let Some(a) = Arp::parse(f).filter(|_| f[12..14] == [8, 6]) {
        assert_eq!((a.op, a.spa, a.tha), (arp::REQUEST, a.tpa, [0; 6]));
        assert_eq!(f[..6], BROADCAST);
        return (Addr::v4(a.spa), a.sha);
    }
    let Ok(L3::Ip(ip)) = l3(f) else {
        panic!("not IP: {f:02x?}")
    };
    let target = nd::target(f, &ip).expect("an advertisement");
    assert_eq!(f[..6], nd::group_mac(&nd::ALL_NODES));
    (target, nd::advertised(f, &ip).expect("an address"))
}

#[test]
fn each_vip_is_announced_by_one_node_when_it_starts_and_when_members_change() {
    let vips = |n: &mut Node| -> Vec<(Addr, Mac)> {
        let all = n.tx(Port::Wire);
        assert!(all.iter().all(|f| f[6..12] == n.v.wire_mac));
        all.iter().map(|f| claim(f)).collect()
    };
    let (mut a, mut b) = (announcing(1, 1), announcing(2, 1));
    let expected: Vec<_> = a.v.services.iter().map(|s| (s.vip, CLUSTER_MAC)).collect();
    a.pass(1);
    b.pass(1);
    assert_eq!(vips(&mut a), expected);
    assert!(b.silent(), "not its own");
    // Three times in all, and then no more.
    a.pass(5_000);
    assert_eq!(vips(&mut a).len(), 2 * expected.len());
    a.v.members[1].alive = false;
    a.pass(1);
    assert_eq!(vips(&mut a), expected);
    // A worker speaks for the node.
    let mut c = announcing(1, 1);
    (c.s.worker, c.s.workers) = (1, 2);
    c.pass(5_000);
    assert!(c.silent());
    // It can be turned off.
    let mut d = Node::new(view(1, 1));
    d.pass(5_000);
    assert!(d.silent());
}

#[test]
fn a_node_joins_its_group_and_stays_in_it() {
    let mut n = Node::new(view(1, 1));
    (n.v.cluster_mac, n.v.igmp) = (igmp::group_mac(GROUP), Some(GROUP));
    let mut sent = Vec::new();
    for second in 0..130 {
        n.pass(1_000);
        for f in n.tx(Port::Wire) {
            assert_eq!((&f[..6], f[14 + 9]), (&igmp::group_mac(GROUP)[..], 2));
            assert_eq!(f[14 + 16..14 + 20], GROUP);
            sent.push(second);
        }
    }
    assert_eq!(sent, [0, 1, 61, 121]);
}

#[test]
fn a_router_that_asks_for_the_group_is_answered_in_time() {
    let mut n = Node::new(view(1, 1));
    (n.v.cluster_mac, n.v.igmp) = (igmp::group_mac(GROUP), Some(GROUP));
    n.pass(5_000);
    n.tx(Port::Wire);
    let query = |group: [u8; 4]| {
        let mut f = igmp::report(
            [1, 0, 0x5e, 0, 0, 1],
            [2, 9, 9, 9, 9, 9],
            [10, 0, 0, 1],
            group,
        );
        let at = 14 + 24;
        (f[at], f[at + 1], f[at + 2], f[at + 3]) = (0x11, 10, 0, 0);
        let sum = !crate::wire::checksum::fold(crate::wire::checksum::sum(&f[at..at + 8]));
        f[at + 2..at + 4].copy_from_slice(&sum.to_be_bytes());
        f.to_vec()
    };
    for (group, answers) in [([0; 4], 1), (GROUP, 1), ([239, 255, 7, 8], 0)] {
        n.rx(Port::Wire, query(group));
        n.tx(Port::WireHost);
        n.pass(1_000);
        assert_eq!(n.tx(Port::Wire).len(), answers, "{group:?}");
    }
}

#[test]
fn frames_for_the_host_bear_its_own_address() {
    let mut n = Node::new(view(1, 1));
    n.v.cluster_mac = [3, 0, 0x5e, 0, 0, 0x64];
    n.v.host_mac = [2, 0, 0x5e, 0, 0, 0x64];
    let mut f = client(1_000, 0, SYN, syn_opts(100), b"");
    f[..6].copy_from_slice(&n.v.cluster_mac);
    n.rx(Port::Wire, f);
    assert_eq!(n.one(Port::WireHost).eth_dst, n.v.host_mac);
}

#[test]
fn another_cluster_with_the_vip_and_a_leak_of_its_address_are_counted() {
    let mut n = Node::new(view(1, 1));
    let other: Mac = [2, 0xbb, 0, 0, 0, 1];
    let vip = Addr::v4([192, 0, 2, 77]);
    n.v.services[0].vip = vip;
    for (sha, spa, counted) in [
        (other, vip.octets_v4(), 1),
        (n.v.cluster_mac, vip.octets_v4(), 1),
        (other, [192, 0, 2, 78], 1),
    ] {
        for tpa in [spa, [192, 0, 2, 1]] {
            let a = Arp {
                op: arp::REPLY,
                sha,
                spa,
                tha: [0; 6],
                tpa,
            };
            n.rx(Port::Wire, a.frame(BROADCAST, other).to_vec());
        }
        assert_eq!(n.s.counters.vip_conflicts, 2 * counted);
    }
    let vip = Addr([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    n.v.services[0].vip = vip;
    let a = Advert {
        dst: nd::ALL_NODES,
        target: vip,
        link: other,
        solicited: false,
    };
    n.rx(
        Port::Wire,
        a.frame([0x33, 0x33, 0, 0, 0, 1], other).to_vec(),
    );
    assert_eq!(n.s.counters.vip_conflicts, 3);
    assert_eq!(n.s.counters.cluster_mac_sources, 0);
    let mut f = client(1_000, 0, SYN, syn_opts(100), b"");
    f[6..12].copy_from_slice(&n.v.cluster_mac);
    n.rx(Port::Wire, f);
    assert_eq!(n.s.counters.cluster_mac_sources, 1);
}
