//! SYNs of a service that no member takes connections for.

use super::orphans::{kind_of, question};
use super::*;
use crate::ownership::BucketTable;
use dts_config::Policy;
use dts_proto::block::Kind;
use std::sync::Arc;

const ISN: u32 = 5_000;

fn nobodys() -> Arc<BucketTable> {
    Arc::new(BucketTable::new(Policy::FlowHash, None, &[], 256, [7; 16]))
}

/// Node `node` of two, of which node 1 speaks for the client's address; nobody owns the
/// service.
fn without_owner(node: u16) -> Node {
    let mut n = Node::new(view(node, 1));
    for s in &mut n.v.services {
        s.buckets = nobodys();
    }
    n.pass(10);
    n
}

fn syn() -> Vec<u8> {
    client(ISN, 0, SYN, syn_opts(100), b"")
}

#[track_caller]
fn refused(n: &mut Node) {
    let r = n.one(Port::Wire);
    // RFC 9293, section 3.5.2: a segment without ACK is acknowledged.
    assert_eq!((r.seg.flags, r.seg.seq, r.seg.ack), (RST | ACK, 0, ISN + 1));
    assert_eq!((r.seg.sport, r.seg.dport), (80, CPORT));
    let gateway: [u8; 6] = syn()[6..12].try_into().expect("six");
    assert_eq!(r.eth_dst, gateway);
    assert_eq!(n.s.flows(), 0);
}

#[test]
fn exactly_one_node_refuses_and_asks_before() {
    let (mut a, mut b) = (without_owner(1), without_owner(2));
    a.rx(Port::Wire, syn());
    b.rx(Port::Wire, syn());
    assert!(b.silent());
    assert_eq!(b.s.drops.get(Drop::NotOwner), 1);
    assert_eq!(a.s.drops.get(Drop::Unavailable), 1);
    b.rx(Port::Link, question(&mut a));
    let answer = b.tx(Port::Link).remove(0);
    assert_eq!(kind_of(&answer), Kind::NotMine);
    assert!(a.silent(), "not before the answer");
    // The same SYN once more is no other question.
    a.rx(Port::Wire, syn());
    assert!(a.silent());
    a.rx(Port::Link, answer);
    refused(&mut a);
    assert_eq!(
        (a.s.counters.unavailable_resets, a.s.counters.orphan_resets),
        (1, 0)
    );
    // Its next one is answered too.
    a.rx(Port::Wire, syn());
    question(&mut a);
}

#[test]
fn a_node_that_is_alone_refuses_at_once() {
    let mut a = without_owner(1);
    (a.v.members[1].alive, a.v.members[1].gone) = (false, true);
    a.rx(Port::Wire, syn());
    refused(&mut a);
    // Fast Open data counts.
    a.rx(Port::Wire, client(ISN, 0, SYN, syn_opts(100), b"GET"));
    assert_eq!(a.one(Port::Wire).seg.ack, ISN + 4);
}

#[test]
fn orphans_that_are_left_alone_are_another_matter() {
    let mut a = without_owner(1);
    a.v.params.orphan_resets = false;
    (a.v.members[1].alive, a.v.members[1].gone) = (false, true);
    a.rx(Port::Wire, syn());
    refused(&mut a);
}

#[test]
fn where_it_is_configured_the_syn_is_dropped_and_counted() {
    let mut a = without_owner(1);
    a.v.services.iter_mut().for_each(|s| s.refuses = false);
    (a.v.members[1].alive, a.v.members[1].gone) = (false, true);
    a.rx(Port::Wire, syn());
    assert!(a.silent());
    assert_eq!(a.s.drops.get(Drop::Unavailable), 1);
    assert_eq!(a.s.counters.unavailable_resets, 0);
}

#[test]
fn a_flow_that_a_member_has_is_not_refused() {
    let (mut a, mut b) = (without_owner(1), Node::new(view(2, 2)));
    // Node 2 took the SYN when it still owned the service; the client did not hear of it.
    b.rx(Port::Wire, syn());
    assert_eq!(b.one(Port::WireHost).seg.flags, SYN);
    b.v.services.iter_mut().for_each(|s| s.buckets = nobodys());
    a.rx(Port::Wire, syn());
    b.rx(Port::Wire, syn());
    assert_eq!(b.one(Port::WireHost).seg.flags, SYN, "it goes on with it");
    b.rx(Port::Link, question(&mut a));
    let answer = b.tx(Port::Link).remove(0);
    assert_eq!(kind_of(&answer), Kind::Mine);
    a.rx(Port::Link, answer);
    assert!(a.silent());
    for _ in 0..8 {
        a.pass(1_000);
        a.rx(Port::Wire, syn());
        assert!(a.silent());
    }
}

#[test]
fn whoever_has_the_flow_itself_goes_on_with_it() {
    let mut a = Node::new(view(1, 1));
    a.rx(Port::Wire, syn());
    assert_eq!(a.one(Port::WireHost).seg.flags, SYN);
    a.v.services.iter_mut().for_each(|s| s.buckets = nobodys());
    (a.v.members[1].alive, a.v.members[1].gone) = (false, true);
    a.rx(Port::Wire, syn());
    assert_eq!(a.one(Port::WireHost).seg.flags, SYN);
    assert!(a.silent());
    assert_eq!(a.s.drops.get(Drop::Unavailable), 0);
}

#[test]
fn a_minority_and_a_node_that_has_not_heard_of_all_say_nothing() {
    // A minority owns nothing in the general table either.
    let mut a = without_owner(1);
    a.v.general = nobodys();
    (a.v.members[1].alive, a.v.members[1].gone) = (false, true);
    a.rx(Port::Wire, syn());
    assert!(a.silent());
    assert_eq!(a.s.drops.get(Drop::NotOwner), 1);
    // Who may live unheard may have the flow, or the service.
    let mut a = without_owner(1);
    (a.v.members[1].alive, a.v.members[1].known) = (false, None);
    a.rx(Port::Wire, syn());
    assert!(a.silent());
}

#[test]
fn a_service_that_is_taken_again_meanwhile_is_not_refused() {
    let (mut a, mut b) = (without_owner(1), without_owner(2));
    a.rx(Port::Wire, syn());
    b.rx(Port::Link, question(&mut a));
    let answer = b.tx(Port::Link).remove(0);
    a.v.services = view(1, 2).services;
    a.rx(Port::Link, answer);
    assert!(a.silent());
    a.rx(Port::Wire, syn());
    assert!(a.silent());
    assert_eq!(a.s.drops.get(Drop::NotOwner), 1);
}

#[test]
fn refusals_have_the_rate_of_resets() {
    let mut a = without_owner(1);
    a.v.params.resets_per_s = 1;
    (a.v.members[1].alive, a.v.members[1].gone) = (false, true);
    a.pass(2_000);
    for _ in 0..4 {
        a.rx(Port::Wire, syn());
    }
    assert_eq!(a.tx(Port::Wire).len(), 1);
    assert_eq!(a.s.drops.get(Drop::OrphanRate), 3);
}
