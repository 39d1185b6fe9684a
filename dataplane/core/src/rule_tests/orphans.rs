//! Flows whose node is gone are asked for, and only what nobody has is reset.

use super::*;
use crate::handover::message::context;
use crate::key::FlowKey;
use crate::wire::Mac;
use dts_proto::block::{self, Kind};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

/// Node 1, which owns all buckets and knows no flow, at a time when that is no news.
fn owner() -> Node {
    let mut n = Node::new(view(1, 1));
    n.pass(40_000);
    n
}

/// What a client that waits sends again and again.
fn waits() -> Vec<u8> {
    client(5_000, 7_000, ACK | PSH, ts(900, 777), REQUEST)
}

/// The client sends it, and again when it got no answer.
fn repeated(n: &mut Node) {
    n.rx(Port::Wire, waits());
    assert!(n.silent(), "once is no reason");
    n.pass(210);
    n.rx(Port::Wire, waits());
}

pub(super) fn kind_of(frame: &[u8]) -> Kind {
    let Ok(L3::Ip(ip)) = l3(frame) else {
        panic!("not IP")
    };
    let s = seen(frame).seg;
    let c = context(&ip.src, &ip.dst, s.sport, s.dport, (s.seq, s.ack, s.flags));
    let block = block::open(&frame[s.data..s.end], &view(1, 1).keys, &c);
    block.expect("a block").0.kind
}

/// The question to node 2.
pub(super) fn question(n: &mut Node) -> Vec<u8> {
    let f = n.tx(Port::Link);
    assert_eq!(f.len(), 1);
    assert_eq!(kind_of(&f[0]), Kind::Who);
    f.into_iter().next().expect("one")
}

fn is_reset(n: &mut Node) {
    let r = n.one(Port::Wire);
    assert_eq!((r.seg.flags, r.seg.seq, r.seg.sport), (RST, 7_000, 80));
    assert_eq!(n.s.counters.orphan_resets, 1);
    let gateway: Mac = waits()[6..12].try_into().expect("six");
    assert_eq!(r.eth_dst, gateway);
}

#[test]
fn a_flow_that_nobody_has_is_reset() {
    let (mut a, mut b) = (owner(), Node::new(view(2, 1)));
    repeated(&mut a);
    b.rx(Port::Link, question(&mut a));
    let answer = b.tx(Port::Link).remove(0);
    assert_eq!(kind_of(&answer), Kind::NotMine);
    assert!(a.silent(), "not before the answer");
    a.rx(Port::Link, answer);
    is_reset(&mut a);
    // What was found out is not kept: the client may come again.
    a.rx(Port::Wire, waits());
    assert!(a.silent());
}

#[test]
fn a_flow_that_a_member_has_is_left_alone() {
    let mut p = Pair::served(1000, 9000, 50);
    p.b.tx(Port::WireHost);
    let f = client(p.k(), p.s1(), ACK | PSH, ts(900, 777), REQUEST);
    let mut a = owner();
    // Node 2 has heard of this node before.
    a.s.message_counter = 100;
    a.rx(Port::Wire, f.clone());
    a.pass(210);
    a.rx(Port::Wire, f.clone());
    // The one serves it; the other, its intake, knows who does.
    let q = question(&mut a);
    p.b.tx(Port::Link);
    p.b.rx(Port::Link, q);
    let answer = p.b.tx(Port::Link).remove(0);
    assert_eq!(kind_of(&answer), Kind::Mine);
    a.rx(Port::Link, answer);
    let key = FlowKey::new(sock(CLIENT, CPORT), sock(VIP, 80));
    assert!(p.a.s.find(&p.a.v, &key).is_some());
    for _ in 0..8 {
        a.pass(1_000);
        a.rx(Port::Wire, f.clone());
        assert!(a.silent(), "it is not asked for again so soon");
    }
    assert_eq!(a.s.counters.orphan_resets, 0);
}

#[test]
fn a_member_that_may_live_is_waited_for_and_one_that_is_dead_is_not() {
    let mut a = owner();
    let known = a.v.members[1].known.take();
    a.v.members[1].alive = false;
    repeated(&mut a);
    assert!(a.silent(), "it may live unheard");
    a.v.members[1].known = known;
    a.pass(400);
    a.rx(Port::Wire, waits());
    is_reset(&mut a);
}

#[test]
fn a_member_that_does_not_answer_is_asked_some_times() {
    let mut a = owner();
    repeated(&mut a);
    let mut asked = 0;
    for _ in 0..20 {
        a.pass(25);
        asked += a.tx(Port::Link).len();
    }
    assert_eq!((asked, a.s.counters.orphan_resets), (4, 0));
    assert!(a.silent());
    // It dies while it is waited for.
    a.rx(Port::Wire, waits());
    a.pass(1);
    question(&mut a);
    (a.v.members[1].alive, a.v.members[1].gone) = (false, true);
    a.pass(60);
    is_reset(&mut a);
}

#[test]
fn a_flow_that_came_here_meanwhile_is_not_reset() {
    let (mut a, mut b) = (owner(), Node::new(view(2, 1)));
    repeated(&mut a);
    b.rx(Port::Link, question(&mut a));
    let answer = b.tx(Port::Link).remove(0);
    a.rx(Port::Wire, client(4_999, 0, SYN, syn_opts(100), b""));
    assert_eq!(a.one(Port::WireHost).seg.flags, SYN);
    a.rx(Port::Link, answer);
    assert!(a.silent());
    assert_eq!((a.s.counters.orphan_resets, a.s.flows()), (0, 1));
}

#[test]
fn a_client_that_gets_on_is_served_by_somebody() {
    let mut a = owner();
    a.rx(Port::Wire, waits());
    for n in 1..10 {
        a.pass(210);
        let f = client(5_000 + n, 7_000 + n, ACK, ts(900, 777), REQUEST);
        a.rx(Port::Wire, f);
        assert!(a.silent());
    }
}

#[test]
fn new_data_with_the_numbers_of_the_last_ack_are_not_repeated() {
    let mut a = owner();
    a.rx(Port::Wire, client(5_000, 7_000, ACK, ts(900, 777), b""));
    a.pass(300);
    repeated(&mut a);
    question(&mut a);
}

#[test]
fn a_keepalive_is_asked_for_and_repeated_acks_are_not() {
    let mut a = owner();
    let keepalive = client(4_999, 7_000, ACK, ts(900, 777), b"");
    for _ in 0..20 {
        a.rx(Port::Wire, keepalive.clone());
        a.pass(40);
        assert!(a.silent());
    }
    a.pass(1_000);
    a.rx(Port::Wire, keepalive);
    question(&mut a);
}

#[test]
fn only_the_owner_asks_and_only_where_it_is_configured() {
    let mut other = Node::new(view(1, 2));
    other.pass(10);
    repeated(&mut other);
    assert!(other.silent());
    let mut off = owner();
    off.v.params.orphan_resets = false;
    off.pass(10);
    repeated(&mut off);
    assert!(off.silent());
    assert_eq!(off.s.drops.get(Drop::NoFlow), 2);
}

#[test]
fn segments_that_a_reset_would_not_answer_are_not_asked_for() {
    let mut a = owner();
    for flags in [RST, RST | ACK, SYN | ACK, FIN] {
        let f = client(5_000, 7_000, flags, ts(900, 777), b"");
        for _ in 0..3 {
            a.rx(Port::Wire, f.clone());
            a.pass(1_100);
        }
        assert!(a.silent(), "{flags:x}");
    }
}

#[test]
fn resets_have_a_rate() {
    let mut a = owner();
    a.v.params.resets_per_s = 1;
    (a.v.members[1].alive, a.v.members[1].gone) = (false, true);
    let from = |port| {
        let mut f = waits();
        let at = tcp_at(&f);
        f[at..at + 2].copy_from_slice(&u16::to_be_bytes(port));
        let end = f.len();
        edit::write_tcp_checksum(&mut f, at, end);
        f
    };
    a.pass(2_000);
    for _ in 0..2 {
        for port in 2_000..2_004 {
            a.rx(Port::Wire, from(port));
        }
        a.pass(210);
    }
    assert_eq!(a.tx(Port::Wire).len(), 1);
    assert_eq!(a.s.drops.get(Drop::OrphanRate), 3);
}

#[test]
fn an_answer_that_nobody_waits_for_is_stale() {
    let (mut a, mut b) = (owner(), Node::new(view(2, 1)));
    repeated(&mut a);
    b.rx(Port::Link, question(&mut a));
    let answer = b.tx(Port::Link).remove(0);
    let mut c = owner();
    c.rx(Port::Link, answer);
    assert!(c.silent());
    assert_eq!(c.s.drops.get(Drop::LinkStale), 1);
}

/// A client of node 2's, whose intake was node 1, waits for an answer.
fn served_by_two() -> (Pair, Vec<u8>) {
    let mut p = Pair::served(1000, 9000, 50);
    p.a.pass(10);
    p.b.tx(Port::WireHost);
    let waits = client(p.k(), p.s1(), ACK | PSH, ts(900, 777), REQUEST);
    (p, waits)
}

fn again(p: &mut Pair, waits: &[u8]) {
    p.a.rx(Port::Wire, waits.to_vec());
    p.a.pass(210);
    p.a.rx(Port::Wire, waits.to_vec());
}

#[test]
fn a_client_of_a_node_that_died_is_reset_by_its_intake_before_that_node_counts_as_gone() {
    let (mut p, waits) = served_by_two();
    again(&mut p, &waits);
    assert!(p.a.silent(), "node 2 is there");
    p.a.v.members[1].alive = false;
    again(&mut p, &waits);
    let r = p.a.one(Port::Wire).seg;
    assert_eq!((r.flags & RST, r.seq), (RST, p.s1()));
    assert_eq!(p.a.s.counters.orphan_resets, 1);
}

#[test]
fn a_client_whose_node_is_off_the_wire_is_reset_if_that_node_knows_it() {
    for alone in [false, true] {
        let (mut p, waits) = served_by_two();
        if alone {
            p.b.v.params.hello = Some(crate::time::Span::millis(100));
            p.b.pass(400);
            p.b.tx(Port::Wire);
        }
        p.a.v.members[1].on_wire = false;
        again(&mut p, &waits);
        let question = p.a.tx(Port::Link).remove(0);
        p.b.tx(Port::Link);
        p.b.rx(Port::Link, question);
        let answer = p.b.tx(Port::Link).remove(0);
        p.a.rx(Port::Link, answer);
        let resets = u64::from(alone);
        assert_eq!(p.a.tx(Port::Wire).len() as u64, resets);
        assert_eq!(p.a.s.counters.orphan_resets, resets);
    }
}
