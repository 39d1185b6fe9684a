//! Answers are given again as they were given first, and nothing is executed twice.

use super::*;

/// The frames of `f` that carry this sequence of link flags.
fn link_kind(f: &[u8]) -> u8 {
    let s = seen(f);
    // The block's kind is its fourth byte.
    s.payload[3]
}
const ACCEPT: u8 = 2;
const REFUSE: u8 = 3;
const END_ACK: u8 = 8;
const ABORTED: u8 = 10;

/// What node 2 says when the source sends its SYN, or its abort, again.
fn again(p: &mut Pair, message: &[Vec<u8>]) -> Vec<u8> {
    message.iter().for_each(|f| p.b.rx(Port::Link, f.clone()));
    p.b.tx(Port::Link).iter().map(|f| link_kind(f)).collect()
}

/// Further splice SYNs as the source repeats them without an answer, and aborts.
fn repeats(p: &mut Pair) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut f = vec![];
    for _ in 0..149 {
        p.a.pass(1);
        f.extend(p.a.tx(Port::Link));
    }
    let (syns, aborts): (Vec<_>, Vec<_>) = f.into_iter().partition(|f| link_kind(f) == 1);
    assert!(
        syns.len() >= 3 && aborts.len() >= 2,
        "{} {}",
        syns.len(),
        aborts.len()
    );
    (syns, aborts)
}

#[test]
fn an_accept_is_given_again_also_when_the_fcb_is_gone() {
    let mut p = Pair::spliced(1000, 9000, 50);
    let (syns, aborts) = repeats(&mut p);
    let f = p.synack(synack_opts(777, 130));
    p.b.rx(Port::WireHost, f);
    let first = p.b.one(Port::Link);
    assert_eq!(
        (first.payload[3], first.seg.seq, first.seg.ack),
        (ACCEPT, 9000, p.k())
    );
    assert_eq!(again(&mut p, &syns[..1]), [ACCEPT]);
    assert_eq!(again(&mut p, &aborts[..1]), [ACCEPT], "too late to abort");
    // The flow ends and its FCB goes; the answer is remembered longer.
    let k = p.k();
    p.b.rx(
        Port::WireHost,
        host(8080, 51, k, RST | ACK, 0, Build::default(), b""),
    );
    p.b.pass(5_600);
    assert_eq!(p.b.s.flows(), 0);
    p.b.tx(Port::Link);
    p.b.tx(Port::WireHost);
    p.b.rx(Port::Link, syns[1].clone());
    let late = p.b.one(Port::Link);
    assert_eq!(
        (late.payload[3], late.seg.seq, late.seg.ack),
        (ACCEPT, 9000, k)
    );
    assert_eq!(again(&mut p, &aborts[1..2]), [ACCEPT]);
    assert!(
        p.b.tx(Port::WireHost).is_empty(),
        "nothing is replayed twice"
    );
    assert_eq!(p.b.s.counters.replay_fast_open, 1);
}

#[test]
fn a_refusal_is_given_again_and_stands() {
    let mut p = Pair::spliced(1000, 9000, 50);
    let (syns, aborts) = repeats(&mut p);
    p.b.rx(
        Port::WireHost,
        host(8080, 0, p.k(), RST | ACK, 0, Build::default(), b""),
    );
    assert_eq!(p.b.one(Port::Link).payload[3], REFUSE);
    assert_eq!(p.b.s.flows(), 0);
    for at in 0..2 {
        assert_eq!(again(&mut p, &syns[at..at + 1]), [REFUSE]);
        assert_eq!(again(&mut p, &aborts[at..at + 1]), [REFUSE]);
        p.b.pass(1_000);
    }
    assert!(p.b.tx(Port::WireHost).is_empty());
    assert_eq!(p.b.s.counters.refused, 1);
}

#[test]
fn an_abort_of_what_was_never_seen_stands() {
    let mut p = Pair::frozen(1000, 9000, 50);
    p.splice_to(2);
    let (syns, aborts) = repeats(&mut p);
    assert_eq!(again(&mut p, &aborts), vec![ABORTED; aborts.len()]);
    assert_eq!(again(&mut p, &syns), vec![ABORTED; syns.len()]);
    assert!(p.b.tx(Port::WireHost).is_empty(), "never executed");
    assert_eq!(p.b.s.flows(), 0);
}

#[test]
fn an_abort_while_the_stack_decides_waits_for_the_stack() {
    let mut p = Pair::spliced(1000, 9000, 50);
    let (syns, aborts) = repeats(&mut p);
    assert_eq!(
        again(&mut p, &aborts[..1]),
        [0u8; 0],
        "it may yet be executed"
    );
    assert_eq!(again(&mut p, &syns[..1]), [0u8; 0]);
    let f = p.synack(synack_opts(777, 130));
    p.b.rx(Port::WireHost, f);
    assert_eq!(p.b.one(Port::Link).payload[3], ACCEPT);
}

#[test]
fn an_end_mark_is_acknowledged_every_time() {
    let mut p = Pair::spliced(1000, 9000, 50);
    let f = p.synack(synack_opts(777, 130));
    p.b.rx(Port::WireHost, f);
    let accept = p.b.tx(Port::Link);
    accept.into_iter().for_each(|f| p.a.rx(Port::Link, f));
    let mut marks = p.a.tx(Port::Link);
    while marks.len() < 4 {
        p.a.pass(1);
        marks.extend(p.a.tx(Port::Link));
    }
    assert!(marks.iter().all(|f| seen(f).seg.flags == FIN | ACK));
    assert_eq!(again(&mut p, &marks[..2]), [END_ACK, END_ACK]);
    let k = p.k();
    p.b.rx(
        Port::WireHost,
        host(8080, 51, k, RST | ACK, 0, Build::default(), b""),
    );
    p.b.pass(5_600);
    p.b.tx(Port::Link);
    assert_eq!(p.b.s.flows(), 0);
    p.b.rx(Port::Link, marks[2].clone());
    let r = p.b.one(Port::Link);
    assert_eq!((r.payload[3], r.seg.ack, r.seg.seq), (END_ACK, k + 1, 9001));
}

#[test]
fn a_request_that_the_stack_may_have_is_never_replayed_again_nor_called_aborted() {
    // A patient source, and a stack that took the request and went silent.
    let mut v = view(1, 1);
    v.params.deadline = crate::time::Span::millis(3_000);
    let a = established_at(v, 1000, 9000);
    let mut p = Pair::frozen_on(a, Node::new(view(2, 1)), 1000, 9000, 50);
    p.splice_to(2);
    p.link();
    p.b.tx(Port::WireHost);
    p.b.rx(
        Port::WireHost,
        host(
            8080,
            50,
            1001,
            SYN | ACK,
            65_160,
            synack_opts(777, 130),
            b"",
        ),
    );
    assert_eq!(p.b.one(Port::WireHost).payload, GET, "handshake replay");
    for _ in 0..2_990 {
        p.a.pass(1);
        p.b.pass(1);
        p.link();
        for f in p.b.tx(Port::WireHost) {
            let s = seen(&f);
            assert!(s.seg.flags & SYN == 0, "replayed a second time");
        }
    }
    assert!(
        p.a.events().is_empty(),
        "nobody may say that it was aborted"
    );
    p.a.pass(20);
    assert!(matches!(
        p.a.events()[..],
        [Event::Failed {
            fail: Fail::Unknown,
            ..
        }]
    ));
}
