//! Authentic messages that no correct node sends, or that come when they mean nothing
//! any more: each is dropped with its reason and changes nothing.

use super::*;
use crate::handover::message::{Head, Peer};
use crate::time::Span;
use dts_proto::block::{Fields, FlowId, Kind, Replay};

/// What `from` says to `to`, sealed as its own messages are.
fn said(
    from: &mut Node,
    (to, flow): (Peer, FlowId),
    kind: Kind,
    fields: &Fields,
    head: Head,
    body: &[u8],
) -> Vec<u8> {
    let Node { v, s, out, .. } = from;
    s.say(v, &to, kind, flow, fields, head, body, out);
    from.tx(Port::Link).pop().expect("a message")
}

fn plain(from: &mut Node, way: (Peer, FlowId), kind: Kind) -> Vec<u8> {
    said(from, way, kind, &Fields::default(), Head::default(), b"")
}

/// How the source of the handover at `n` speaks to its destination.
fn from_source(n: &Node) -> (Peer, FlowId) {
    let src = n.s.slots.iter().find_map(|f| f.source.as_ref());
    let src = src.expect("a source");
    (src.peer.expect("spliced"), src.flow.expect("spliced"))
}

/// How its destination speaks to the source.
fn from_dest(n: &Node) -> (Peer, FlowId) {
    let d = n.s.slots.iter().find_map(|f| f.dest.as_ref());
    let d = d.expect("a destination");
    (d.peer, d.flow)
}

fn stale(n: &Node) -> u64 {
    n.s.drops.get(Drop::LinkStale)
}

/// A handover with all that its source said so far lost.
fn unheard() -> Pair {
    let mut p = Pair::frozen(1000, 9000, 50);
    p.splice_to(2);
    p.a.tx(Port::Link);
    p
}

fn forward(p: &mut Pair, way: (Peer, FlowId), frame: &[u8]) {
    let f = said(
        &mut p.a,
        way,
        Kind::Forward,
        &Fields::default(),
        Head::default(),
        &frame[14..],
    );
    p.b.rx(Port::Link, f);
}

#[test]
fn only_this_clients_segments_are_forwarded_and_in_time() {
    let mut p = Pair::spliced(1000, 9000, 50);
    let way = from_source(&p.a);
    let more = client(p.k(), p.s1(), ACK | PSH, ts(140, 5010), b"x");
    forward(&mut p, way, &more);
    assert_eq!(stale(&p.b), 1, "before the accept");
    p.cut_over();
    p.b.tx(Port::Wire);
    let others = [
        from(more.clone(), on_wire(201), CPORT),
        from(more.clone(), CLIENT, CPORT + 1),
        to(more.clone(), on_wire(101), 80),
        to(more.clone(), VIP, 81),
        with_proto(more.clone(), 17),
    ];
    for (i, f) in others.iter().enumerate() {
        forward(&mut p, way, f);
        assert_eq!(stale(&p.b), 2 + i as u64);
    }
    // A header that is longer than its segment.
    let mut bent = more.clone();
    bent[L4 + 12] = 0xf0;
    forward(&mut p, way, &bent);
    assert_eq!(p.b.s.drops.get(Drop::HoldStale), 1);
    assert!(p.b.silent());
    forward(&mut p, way, &more);
    assert_eq!(p.b.one(Port::WireHost).payload, b"x");
    p.b.now = p.b.now + Span::secs(11);
    let behind = client(p.k() + 1, p.s1(), ACK | PSH, ts(141, 5010), b"y");
    forward(&mut p, way, &behind);
    assert!(p.b.silent(), "nothing can be under way so long");
    assert_eq!(stale(&p.b), 7);
}

#[test]
fn more_ranges_than_are_remembered_still_reach_the_stack() {
    let mut p = Pair::spliced(1000, 9000, 50);
    let way = from_source(&p.a);
    p.cut_over();
    let (k, s1) = (p.k(), p.s1());
    for i in 0..300 {
        let f = client(k + i, s1, ACK | PSH, ts(140, 5010), b"x");
        forward(&mut p, way, &f);
        assert_eq!(p.b.one(Port::WireHost).payload, b"x");
        // Known by its numbers, whether its range was noted or not.
        forward(&mut p, way, &f);
        assert!(p.b.silent());
    }
    let given = p.b.s.slots.iter().find_map(|f| f.dest.as_ref());
    assert_eq!(given.expect("served").given.len(), 256);
}

#[test]
fn a_splice_that_contradicts_itself_is_refused() {
    let st = |p: &Pair| {
        let src = p.a.s.slots.iter().find_map(|f| f.source.as_ref());
        src.expect("a source").state
    };
    for (off, extra) in [(1, 0), (0, 1)] {
        let mut p = unheard();
        let way = from_source(&p.a);
        let fields = Fields {
            state: Some(st(&p)),
            ..Fields::default()
        };
        let head = Head {
            seq: p.c + off,
            flags: SYN,
            ..Head::default()
        };
        let body = [GET, &b"!!"[..extra]].concat();
        let f = said(&mut p.a, way, Kind::Splice, &fields, head, &body);
        p.b.rx(Port::Link, f);
        assert_eq!(p.b.s.counters.refused, 1);
        assert!(p.b.tx(Port::WireHost).is_empty());
        p.link();
        assert!(matches!(
            p.a.events()[..],
            [Event::Failed {
                fail: Fail::Refused(Reason::Malformed),
                ..
            }]
        ));
    }
}

#[test]
fn a_splice_that_comes_when_its_answer_is_forgotten_is_accepted_again() {
    let mut p = Pair::spliced(1000, 9000, 50);
    let way = from_source(&p.a);
    p.cut_over();
    p.b.tx(Port::Wire);
    p.b.now = p.b.now + Span::secs(11);
    p.b.pass(1);
    p.b.tx(Port::WireHost);
    let f = plain(&mut p.a, way, Kind::Splice);
    p.b.rx(Port::Link, f);
    let accept = p.b.one(Port::Link).seg;
    assert_eq!((accept.flags, accept.seq), (SYN | ACK, p.s));
    assert_eq!(accept.ack, p.k());
    assert!(p.b.silent(), "nothing is replayed again");
}

#[test]
fn the_end_of_an_earlier_connection_ends_no_tombstone() {
    let mut p = Pair::served(1000, 9000, 50);
    let (to, flow) = from_dest(&p.b);
    let tombstone = |p: &Pair| {
        let f = p.a.s.slots.iter().find(|f| f.state == State::Tombstone);
        f.expect("a tombstone").expires
    };
    for earlier in [
        FlowId { c_isn: 999, ..flow },
        FlowId {
            s_isn: 8999,
            ..flow
        },
    ] {
        let f = plain(&mut p.b, (to, earlier), Kind::FlowEnd);
        p.a.rx(Port::Link, f);
        assert_eq!(tombstone(&p), None);
    }
    let f = plain(&mut p.b, (to, flow), Kind::FlowEnd);
    p.a.rx(Port::Link, f);
    assert!(tombstone(&p).is_some());
}

#[test]
fn nothing_is_gathered_or_acknowledged_beyond_the_request() {
    let (a, b) = (established(1000, 9000), Node::new(view(2, 1)));
    let request = vec![b'x'; 3_000];
    let mut p = Pair::frozen_with(a, b, (1000, 9000, 50), &request);
    p.splice_to(2);
    for f in p.a.tx(Port::Link) {
        p.b.rx(Port::Link, f);
    }
    p.b.tx(Port::Link);
    let (there, back) = (from_source(&p.a), from_dest(&p.b));
    let head = |seq, ack| Head {
        seq,
        ack,
        flags: ACK,
        ..Head::default()
    };
    let nothing = Fields::default();
    let f = said(
        &mut p.a,
        there,
        Kind::Data,
        &nothing,
        head(1001, 0),
        &[1; 3_001],
    );
    p.b.rx(Port::Link, f);
    assert_eq!((stale(&p.b), p.b.silent()), (1, true));
    let f = said(
        &mut p.b,
        back,
        Kind::Continue,
        &nothing,
        head(0, 4_002),
        b"",
    );
    p.a.rx(Port::Link, f);
    assert_eq!((stale(&p.a), p.a.silent()), (1, true));
    p.a.pass(6);
    p.link();
    assert!(!p.b.tx(Port::WireHost).is_empty(), "the request is whole");
}

#[test]
fn a_members_block_from_another_address_is_a_strangers() {
    let mut p = unheard();
    let way = from_source(&p.a);
    p.a.v.link = on_link(3u8).into();
    let f = plain(&mut p.a, way, Kind::Abort);
    p.b.rx(Port::Link, f);
    assert_eq!(p.b.s.drops.get(Drop::LinkStranger), 1);
    assert!(p.b.silent());
}

#[test]
fn what_decides_nothing_any_more_is_stale() {
    // An acknowledgement of an end mark that was not said yet.
    let mut p = Pair::spliced(1000, 9000, 50);
    let back = from_dest(&p.b);
    let f = plain(&mut p.b, back, Kind::EndAck);
    p.a.rx(Port::Link, f);
    assert_eq!((stale(&p.a), p.a.silent()), (1, true));
    // Accepted, and the answers to an abort or a repeated splice come late.
    let f = p.synack(synack_opts(777, 130));
    p.b.rx(Port::WireHost, f);
    for f in p.b.tx(Port::Link) {
        p.a.rx(Port::Link, f);
    }
    p.a.tx(Port::Link);
    for (i, kind) in [Kind::Aborted, Kind::Refuse].into_iter().enumerate() {
        let f = plain(&mut p.b, back, kind);
        p.a.rx(Port::Link, f);
        assert_eq!((stale(&p.a), p.a.silent()), (2 + i as u64, true));
    }
    p.a.pass(6);
    p.link();
    assert!(matches!(p.a.events()[..], [Event::Done { .. }]));
}

#[test]
fn a_block_decides_nothing_where_the_bare_form_is_spoken() {
    let plain_opts = Build {
        mss: Some(1460),
        ..Build::default()
    };
    let mut v = view(1, 1);
    v.params.paper_form = true;
    let a = established_as(v, 1000, 9000, plain_opts, plain_opts);
    let mut p = Pair::frozen_on(a, Node::new(view(2, 1)), 1000, 9000, 50);
    p.splice_to(2);
    let port = p.a.s.slots.iter().find_map(|f| f.source.as_ref()?.port);
    let port = port.expect("spliced");
    let bare = crate::wire::build::Tcp {
        eth_dst: p.a.v.link_mac,
        eth_src: p.b.v.link_mac,
        src: p.b.v.link,
        dst: p.a.v.link,
        sport: 8080,
        dport: port,
        seq: 9000,
        ack: 1001,
        flags: SYN | ACK,
        window: 64_000,
        opts: Build::default(),
        payload: b"",
    };
    // The block does not go with the SYN to a node that has not said it speaks so.
    let splice = p.a.tx(Port::Link);
    p.a.rx(Port::Link, bare.frame());
    if CLIENT.is_ipv6() {
        assert_eq!(p.a.one(Port::Link).seg.flags, RST);
        assert!(matches!(
            p.a.events()[..],
            [Event::Failed {
                fail: Fail::PaperForm,
                ..
            }]
        ));
        return;
    }
    assert_eq!(p.a.one(Port::Link).payload, GET);
    // The same node, upgraded, hears the first SYN late.
    splice.into_iter().for_each(|f| p.b.rx(Port::Link, f));
    let back = from_dest(&p.b);
    for (i, kind) in [Kind::Accept, Kind::Refuse, Kind::Aborted, Kind::EndAck]
        .into_iter()
        .enumerate()
    {
        let f = plain(&mut p.b, back, kind);
        p.a.rx(Port::Link, f);
        assert_eq!((stale(&p.a), p.a.silent()), (1 + i as u64, true));
    }
    assert!(p.a.events().is_empty());
}

#[test]
fn another_incarnation_decides_nothing_about_a_splice_that_was_repeated() {
    let mut p = Pair::frozen(1000, 9000, 50);
    p.splice_to(2);
    p.a.pass(6);
    // The first of the two may be what an earlier incarnation has executed.
    p.b.v.incarnation += 1;
    p.link();
    assert_eq!(p.b.s.counters.refused, 2);
    assert!(matches!(
        p.a.events()[..],
        [Event::Failed {
            fail: Fail::Unknown,
            ..
        }]
    ));
    p.a.pass(1_900);
    assert!(p.a.silent(), "and the client is not served here any more");
    p.a.pass(200);
    assert_eq!(p.a.one(Port::Wire).seg.flags, RST | ACK);
}

#[test]
fn an_abort_that_meets_a_handshake_replay_waits_for_the_stack() {
    let mut p = Pair::spliced(1000, 9000, 50);
    let c1 = p.c + 1;
    let f = host(8080, p.l, c1, SYN | ACK, 65_160, synack_opts(777, 130), b"");
    p.b.rx(Port::WireHost, f);
    assert_eq!(p.b.one(Port::WireHost).payload, GET, "given");
    p.a.pass(101);
    assert_eq!(p.link(), p.a.s.counters.link_repeats as usize + 1);
    assert!(p.a.events().is_empty(), "nobody says that it was aborted");
    let f = host(8080, p.l1(), p.k(), ACK, 500, ts(778, 130), b"");
    p.b.rx(Port::WireHost, f);
    p.link();
    assert!(matches!(
        p.a.events()[..],
        [Event::Done {
            replay: Some(Replay::Handshake),
            ..
        }]
    ));
}
