//! Handovers whose destination dies before it answers are repeated from the source's copy.

use super::*;
use crate::time::Span;
use crate::view::Member;
use dts_proto::block::{self, Kind, SpliceState};

/// How long after its death a destination's flow is spliced to another node, at most.
const SOON: u64 = 330 + 20 + 300;

fn third() -> Member {
    Member {
        id: 3,
        link: on_link(3u8).into(),
        known: Some(([2, 0, 0, 0, 1, 3], 1003)),
        alive: true,
        on_wire: true,
        gone: false,
        takes: u64::MAX,
    }
}

/// Node 2 has the flow and has not answered; node 1, which repeats handovers, knows node 3,
/// and itself takes nothing.
fn thinking() -> Pair {
    let mut p = Pair::frozen(1000, 9000, 50);
    for s in &mut p.a.v.services {
        s.repeats = 1;
    }
    p.a.v.members.push(third());
    p.a.v.members[0].takes = 0;
    p.splice_to(2);
    p.link();
    p.b.tx(Port::WireHost);
    p.cut_over();
    assert_eq!(p.a.s.kept_bytes(), p.req.len());
    p
}

fn dies(p: &mut Pair) {
    p.a.v.members[1].alive = false;
    p.a.pass(SOON);
}

/// The splice that left for node 3, with its state and what it carries of the request.
fn spliced(p: &mut Pair) -> Option<(SpliceState, Vec<u8>)> {
    let all = p.a.tx(Port::Link);
    let f = all.iter().find(|f| f[5] == 3)?;
    let s = seen(f).seg;
    let Ok(L3::Ip(ip)) = l3(f) else {
        panic!("not IP")
    };
    let head = (s.seq, s.ack, s.flags);
    let c = crate::handover::message::context(&ip.src, &ip.dst, s.sport, s.dport, head);
    let (header, fields, body) = block::open(&f[s.data..s.end], &p.a.v.keys, &c).expect("a block");
    assert_eq!(header.kind, Kind::Splice);
    Some((
        fields.state.expect("a splice"),
        f[s.data + body..s.end].to_vec(),
    ))
}

/// Nothing is repeated, and nothing is kept any more.
fn nothing(p: &mut Pair, given_up: u64) {
    dies(p);
    assert!(spliced(p).is_none());
    let c = &p.a.s.counters;
    assert_eq!((c.repeats, c.repeats_given_up), (0, given_up));
    assert_eq!(p.a.s.kept_bytes(), 0);
}

#[test]
fn the_next_destination_begins_where_the_first_one_did() {
    let mut p = thinking();
    dies(&mut p);
    let (k, req) = (p.k(), p.req.clone());
    let (st, body) = spliced(&mut p).expect("node 3 gets it");
    assert_eq!((st.c_base, st.s_base, st.cut), (1000, 9000, k));
    assert_eq!(body, req);
    assert!(st.ts_max > 5010 + 330, "the dead node's clock went on");
    assert_eq!(p.a.s.counters.repeats, 1);
    assert!(p.a.tx(Port::Wire).is_empty());
}

#[test]
fn what_the_client_sent_behind_the_request_goes_with_it() {
    let mut p = thinking();
    let (k, s1) = (p.k(), p.s1());
    p.a.rx(Port::Wire, client(k, s1, ACK | PSH, ts(200, 5010), b"more"));
    p.a.rx(
        Port::Wire,
        client(k + 2, s1, ACK | FIN, ts(201, 5010), b"re!"),
    );
    dies(&mut p);
    let (st, body) = spliced(&mut p).expect("node 3 gets it");
    assert_eq!(body, [&p.req[..], b"more!"].concat());
    assert_eq!((st.cut, st.client_fin, st.ts_recent), (k + 5, true, 201));
}

#[test]
fn a_client_that_has_seen_a_byte_is_left_alone() {
    let p = thinking();
    let (k, s1) = (p.k(), p.s1());
    let sacks = with_options(
        &client(k, s1, ACK, Build::default(), b""),
        &sack(0, &[(s1 + 100, s1 + 200)]),
    );
    for f in [client(k, s1 + 1, ACK, ts(200, 5010), b""), sacks] {
        let mut p = thinking();
        p.a.rx(Port::Wire, f);
        nothing(&mut p, 0);
    }
}

#[test]
fn without_sack_a_bare_acknowledgement_may_tell_of_an_answer() {
    let (mut p, synack) = Pair::frozen_bare(false);
    for s in &mut p.a.v.services {
        s.repeats = 1;
    }
    p.a.v.members.push(third());
    p.splice_to(2);
    p.link();
    p.b.tx(Port::WireHost);
    let f = p.synack(Build {
        timestamps: None,
        ..synack
    });
    p.b.rx(Port::WireHost, f);
    p.link();
    let (k, s1) = (p.k(), p.s1());
    assert!(p.a.s.kept_bytes() > 0);
    p.a.rx(Port::Wire, client(k - 1, s1, ACK, Build::default(), b""));
    assert!(p.a.s.kept_bytes() > 0, "a keepalive says nothing");
    p.a.rx(Port::Wire, client(k, s1, ACK, Build::default(), b""));
    nothing(&mut p, 0);
}

#[test]
fn what_is_not_all_or_too_much_or_too_late_is_not_repeated() {
    let far = |p: &Pair| client(p.k() + 1, p.s1(), ACK | PSH, ts(200, 5010), b"hole");
    let mut p = thinking();
    p.a.rx(Port::Wire, far(&p));
    nothing(&mut p, 1);
    let mut p = thinking();
    p.a.v.params.repeat_max = p.req.len() + 3;
    let f = client(p.k(), p.s1(), ACK | PSH, ts(200, 5010), b"four");
    p.a.rx(Port::Wire, f);
    nothing(&mut p, 1);
    let mut p = thinking();
    p.a.v.params.repeat_within = Span::millis(500);
    p.a.pass(600);
    nothing(&mut p, 1);
    // There was no room from the beginning.
    let mut p = Pair::frozen(1000, 9000, 50);
    for s in &mut p.a.v.services {
        s.repeats = 1;
    }
    p.a.v.params.repeat_max = p.req.len() - 1;
    p.splice_to(2);
    p.link();
    p.b.tx(Port::WireHost);
    p.cut_over();
    nothing(&mut p, 1);
}

#[test]
fn a_node_that_comes_back_in_time_keeps_the_flow_and_one_that_is_new_does_not() {
    let mut p = thinking();
    p.a.v.members[1].alive = false;
    p.a.pass(200);
    p.a.v.members[1].alive = true;
    p.a.pass(1_000);
    assert!(spliced(&mut p).is_none());
    p.a.v.members[1].known = Some(([2, 0, 0, 0, 1, 2], 2002));
    p.a.pass(SOON);
    assert!(
        spliced(&mut p).is_some(),
        "another incarnation knows nothing of it"
    );
}

#[test]
fn a_minority_repeats_nothing_and_where_nobody_is_left_the_client_is_reset() {
    let mut p = thinking();
    let nobody =
        crate::ownership::BucketTable::new(dts_config::Policy::FlowHash, None, &[], 256, [7; 16]);
    for s in &mut p.a.v.services {
        s.buckets = std::sync::Arc::new(nobody.clone());
    }
    dies(&mut p);
    assert!(spliced(&mut p).is_none());
    assert!(p.a.s.kept_bytes() > 0, "it may yet become one of many");
    p.a.v.members[1].gone = true;
    p.a.pass(3_000);
    assert_eq!(p.a.s.kept_bytes(), 0);
    assert_eq!(p.a.one(Port::Wire).seg.flags, RST | ACK);
}

#[test]
fn an_end_or_a_reset_leaves_nothing_to_be_repeated() {
    let mut p = thinking();
    let f = client(p.k(), p.s1(), RST, Build::default(), b"");
    p.a.rx(Port::Wire, f);
    nothing(&mut p, 0);
    let mut p = thinking();
    let f = host(8080, p.l1(), p.k(), RST | ACK, 0, Build::default(), b"");
    p.b.rx(Port::WireHost, f);
    p.link();
    nothing(&mut p, 0);
}
