//! What a splice finds on its tuple, and who gives way (PROTOCOL, section 6).

use super::tombstones::carry;
use super::*;
use dts_proto::block;

/// Splices a fresh flow of node 1 to `b` and gives what `b`'s stack got.
fn splice_onto(mut b: Node, c: u32, s: u32) -> (Pair, Vec<Vec<u8>>) {
    b.tx(Port::Wire);
    b.tx(Port::WireHost);
    b.tx(Port::Link);
    b.events();
    let mut p = Pair::frozen_on(established(c, s), b, c, s, 50);
    // The source's counters go on where those of earlier handovers ended.
    p.a.s.message_counter = 1_000;
    p.a.s.handover_number = 1_000;
    p.splice_to(2);
    p.link();
    let got = p.b.tx(Port::WireHost);
    (p, got)
}

/// A node 2 that owns the buckets, with a live flow of this 4-tuple.
fn live(c: u32, s: u32) -> Node {
    established_as(view(2, 2), c, s, syn_opts(100), synack_opts(5000, 100))
}

#[test]
fn a_splice_takes_the_place_of_a_tombstone() {
    // The tombstone of an older flow of node 2 that node 1 serves.
    let mut v = view(2, 2);
    v.link = on_link(2u16).into();
    let mut b = Node::new(v);
    let mut other = Node::new(view(1, 2));
    hand_over_between(&mut b, &mut other);
    assert_eq!(b.s.count_states(), [0, 0, 0, 0, 1]);
    let (mut p, got) = splice_onto(b, 70_000, 80_000);
    assert_eq!(seen(&got[0]).seg.seq, 70_000);
    p.cut_over();
    assert_eq!(p.b.s.count_states(), [0, 0, 0, 1, 0]);
    assert_eq!(p.b.s.flows(), 1);
}

/// Hands a flow of CLIENT:CPORT over from node 2 to node 1.
fn hand_over_between(from: &mut Node, to: &mut Node) {
    from.rx(Port::Wire, client(1000, 0, SYN, syn_opts(100), b""));
    from.rx(
        Port::WireHost,
        host(
            8001,
            9000,
            1001,
            SYN | ACK,
            65_160,
            synack_opts(5000, 100),
            b"",
        ),
    );
    from.rx(
        Port::Wire,
        client(1001, 9001, ACK | PSH, ts(120, 5000), GET),
    );
    from.command(freeze(1));
    from.command(splice(1, sock(on_link(1u16), 8080), GET, false));
    carry(from, to);
    let k = 1001 + GET.len() as u32;
    to.rx(
        Port::WireHost,
        host(8080, 50, k, SYN | ACK, 65_160, synack_opts(777, 120), b""),
    );
    carry(from, to);
}

#[test]
fn a_splice_takes_the_place_of_a_half_open_loser() {
    let mut b = Node::new(view(2, 2));
    b.rx(Port::Wire, client(1000, 0, SYN, syn_opts(100), b""));
    b.rx(
        Port::WireHost,
        host(
            8001,
            4444,
            1001,
            SYN | ACK,
            65_160,
            synack_opts(1, 100),
            b"",
        ),
    );
    let (mut p, got) = splice_onto(b, 1000, 9000);
    assert_eq!(
        (seen(&got[0]).seg.seq, seen(&got[0]).seg.dport),
        (1000, 8080)
    );
    assert_eq!(p.b.s.count(State::HalfOpen), 0);
    // The loser's stack goes on with its SYN-ACKs: to nobody.
    p.b.rx(
        Port::WireHost,
        host(
            8001,
            4444,
            1001,
            SYN | ACK,
            65_160,
            synack_opts(2, 100),
            b"",
        ),
    );
    assert!(p.b.silent());
    p.cut_over();
}

#[test]
fn a_splice_takes_the_place_of_a_live_flow_with_another_isn() {
    for (c, s) in [(70_000, 9000), (1000, 80_000)] {
        let (mut p, got) = splice_onto(live(1000, 9000), c, s);
        assert_eq!(seen(&got[0]).seg.seq, c);
        p.cut_over();
        assert_eq!((p.b.s.flows(), p.b.s.hold_use().0), (1, 0));
    }
}

#[test]
fn the_ticket_of_a_flow_that_gave_way_gets_an_end() {
    let mut b = live(1000, 9000);
    b.command(freeze(5));
    let mut p = Pair::frozen_on(
        established(70_000, 80_000),
        Node::new(view(2, 1)),
        70_000,
        80_000,
        50,
    );
    assert!(matches!(b.events()[..], [Event::Frozen { ticket: 5, .. }]));
    p.b = b;
    p.splice_to(2);
    p.link();
    assert!(matches!(
        p.b.events()[..],
        [Event::Failed { ticket: 5, .. }]
    ));
    assert!(p.b.s.tickets.is_empty());
}

#[test]
fn a_splice_of_a_flow_that_lives_here_is_refused_as_busy() {
    let (mut p, got) = splice_onto(live(1000, 9000), 1000, 9000);
    assert!(got.is_empty());
    let e = p.a.events();
    assert!(
        matches!(
            e[..],
            [Event::Failed {
                fail: Fail::Refused(Reason::Busy),
                ..
            }]
        ),
        "{e:?}"
    );
    assert_eq!(p.b.s.count_states(), [0, 1, 0, 0, 0]);
    p.b.rx(Port::Wire, client(1001, 9001, ACK, ts(150, 5000), b""));
    assert_eq!(
        p.b.one(Port::WireHost).seg.dport,
        8001,
        "the live one is as it was"
    );
}

#[test]
fn a_splice_in_another_nodes_name_is_not_taken_for_a_handover_to_itself() {
    // The flow identity is one that this node has given out as source.
    let mut p = Pair::frozen(1000, 9000, 50);
    p.splice_to(2);
    let f = p.a.tx(Port::Link).remove(0);
    let s = seen(&f);
    let c = |from: u8, to: u8, sport, dport| {
        let ip = |n: u8| crate::key::Addr::from(on_link(n));
        let head = (s.seg.seq, s.seg.ack, s.seg.flags);
        crate::handover::message::context(&ip(from), &ip(to), sport, dport, head)
    };
    let keys = [block::LinkKey::new(1, KEY)];
    let (mut h, fields, n) = block::open(&s.payload, &keys, &c(1, 2, s.seg.sport, 8080)).unwrap();
    (h.sender, h.sender_incarnation, h.receiver_incarnation) = (2, 1002, 1001);
    let mut payload = vec![];
    block::write(&mut payload, &h, &fields);
    payload.extend(&s.payload[n..]);
    block::seal(&mut payload, &keys[0], &c(2, 1, 4000, 8080));
    let back = crate::wire::build::Tcp {
        eth_dst: [2, 0, 0, 0, 1, 1],
        eth_src: [2, 0, 0, 0, 1, 2],
        src: on_link(2u16).into(),
        dst: on_link(1u16).into(),
        sport: 4000,
        dport: 8080,
        seq: s.seg.seq,
        ack: s.seg.ack,
        flags: s.seg.flags,
        window: 0,
        opts: Build::default(),
        payload: &payload,
    };
    p.a.rx(Port::Link, back.frame());
    assert!(p.a.tx(Port::WireHost).is_empty(), "nothing is replayed");
    assert_eq!(p.a.one(Port::Link).payload[3], 3, "refused");
}
