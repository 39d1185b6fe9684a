//! Both replays, the cut over and the end of a flow.

use super::*;
use crate::histogram::Histogram;
use crate::time::Span;
use crate::wire::edit::Edit;

#[test]
fn fast_open_replay_end_to_end_at_every_wrap() {
    for (c, s, l) in [
        (1000, 9000, 5),
        (u32::MAX - 10, u32::MAX - 2, 0x7fff_fff0),
        (0x7fff_fffa, 0x8000_0000, u32::MAX),
        (5, 0, 1),
    ] {
        let mut p = served(c, s, l);
        assert!(
            p.b.tx(Port::Wire).is_empty(),
            "the client has its ACK already"
        );
        // The answer: local numbers in, the client's view out.
        let l1 = l.wrapping_add(1);
        p.b.rx(
            Port::WireHost,
            host(
                8080,
                l1,
                p.k(),
                ACK | PSH,
                510,
                ts(779, 130),
                b"HTTP/1.1 200 OK",
            ),
        );
        let r = p.b.one(Port::Wire);
        assert_eq!(
            (r.seg.sport, r.seg.seq, r.seg.ack),
            (80, s.wrapping_add(1), p.k())
        );
        assert_eq!(
            r.seg.ts_val(),
            Some(5010 + 2),
            "not below what the intake sent"
        );
        assert_eq!((r.eth_dst, r.eth_src), (CLIENT_MAC, p.b.v.wire_mac));
        // The client's acknowledgement: a tombstone at the source, the stack here.
        let end = s.wrapping_add(16);
        let mut o = ts(150, 5012);
        o.sack_permitted = false;
        let ack = client(p.k(), end, ACK, o, b"");
        p.a.rx(Port::Wire, ack.clone());
        assert!(p.a.silent());
        assert_eq!(p.a.s.drops.get(Drop::HandedOver), 1);
        p.b.rx(Port::Wire, ack);
        let h = p.b.one(Port::WireHost);
        assert_eq!((h.seg.ack, h.seg.dport), (l.wrapping_add(16), 8080));
        assert_eq!(h.seg.ts_ecr(), Some(779), "TSecr back in the stack's clock");
        // A late duplicate of the flow's own SYN dies at both.
        let dup = client(c, 0, SYN, syn_opts(100), b"");
        p.a.rx(Port::Wire, dup.clone());
        p.b.rx(Port::Wire, dup);
        assert!(p.a.silent() && p.b.silent());
        assert_eq!(p.b.s.counters.replay_fast_open, 1);
    }
}

#[test]
fn a_replay_is_timed_from_the_splice_to_the_cut_over() {
    let mut p = Pair::spliced(1000, 9000, 50);
    assert_eq!(p.b.s.replays, Histogram::default());
    p.b.now = p.b.now + Span::micros(30);
    p.cut_over();
    let mut once = Histogram::default();
    once.observe(Span::micros(30));
    assert_eq!(p.b.s.replays, once);
    assert_eq!(
        p.a.s.replays,
        Histogram::default(),
        "the source replays nothing"
    );
}

#[test]
fn the_end_of_a_flow_is_told_to_the_intake() {
    let mut p = served(1000, 9000, 50);
    let k = p.k();
    p.b.rx(
        Port::WireHost,
        host(8080, 51, k, ACK | FIN, 510, ts(780, 130), b"bye"),
    );
    p.b.rx(Port::Wire, client(k, 9005, ACK | FIN, ts(160, 5013), b""));
    p.b.tx(Port::WireHost);
    p.b.rx(
        Port::WireHost,
        host(8080, 55, k + 1, ACK, 510, ts(781, 160), b""),
    );
    assert_eq!(p.b.tx(Port::Wire).len(), 2);
    assert!(p.link() >= 1, "FlowEnd");
    p.b.pass(6_500);
    assert_eq!(p.b.s.flows(), 0);
    p.a.pass(58_000);
    assert_eq!(p.a.s.flows(), 1, "2 MSL");
    p.a.pass(4_000);
    assert_eq!(p.a.s.flows(), 0);
    assert_eq!(p.a.s.hold_use().0 + p.b.s.hold_use().0, 0);
}

#[test]
fn the_client_gets_its_ack_at_cut_over_unless_it_has_it() {
    // The proxy's stack never acknowledged the request (it delays its ACK).
    let mut a = established(1000, 9000);
    a.rx(
        Port::Wire,
        client(1001, 9001, ACK | PSH, ts(130, 5000), GET),
    );
    a.tx(Port::WireHost);
    a.command(Command::Freeze {
        ticket: 1,
        client: sock(CLIENT, CPORT),
        local: sock(VIP, 8001),
    });
    a.events();
    let mut p = Pair::of(a, 1000, 9000);
    p.splice_to(2);
    p.link();
    p.b.tx(Port::WireHost);
    p.b.rx(
        Port::WireHost,
        host(
            8080,
            50,
            p.k(),
            SYN | ACK,
            65_160,
            synack_opts(777, 130),
            b"",
        ),
    );
    let ack = p.b.one(Port::Wire);
    assert_eq!(
        (ack.seg.flags, ack.seg.seq, ack.seg.ack),
        (ACK, 9001, p.k())
    );
    assert_eq!(
        ack.seg.opts.timestamps.map(|t| (t.0, t.1)),
        Some((5000, 130))
    );
    assert_eq!(
        u32::from(ack.seg.window) << 7,
        (65_160 - GET.len() as u32) >> 7 << 7
    );
    p.link();
}

/// The same flow without timestamps, up to the cut over.
fn served_without_timestamps() -> Pair {
    served_bare(true)
}

fn served_bare(sack: bool) -> Pair {
    let (mut p, synack) = Pair::frozen_bare(sack);
    p.splice_to(2);
    p.link();
    let syn = p.b.one(Port::WireHost).seg;
    assert_eq!(u32::from(syn.window), 502 << 7, "the client's real window");
    let f = p.synack(synack);
    p.b.rx(Port::WireHost, f);
    p.link();
    assert!(matches!(p.a.events()[..], [Event::Done { .. }]));
    p
}

#[test]
fn the_round_trip_is_told_once() {
    let mut p = served(1000, 9000, 50);
    // The SYN-ACK that was asked for by the SYN given again.
    let f = p.synack(synack_opts(777, 130));
    p.b.rx(Port::WireHost, f);
    p.b.pass(50);
    assert!(p.b.silent(), "nothing is left to complete");
    // The stack repeats its SYN-ACK when the ACK is lost.
    let f = p.synack(synack_opts(1777, 130));
    p.b.rx(Port::WireHost, f);
    assert_eq!(p.b.one(Port::WireHost).seg.ack, 51);
    assert!(p.b.tx(Port::Wire).is_empty());
}

#[test]
fn the_filter_completes_the_handshake_after_the_clients_round_trip() {
    let mut p = served_without_timestamps();
    p.b.pass(19);
    assert!(p.b.silent(), "the client's own ACK would be the better one");
    p.b.pass(2);
    let ack = p.b.one(Port::WireHost);
    assert_eq!((ack.seg.flags, ack.seg.seq, ack.seg.ack), (ACK, p.k(), 51));
    assert!(p.b.tx(Port::Wire).is_empty());
}

/// A stack that is told nothing better takes the time to such a segment for the
/// client's round trip, and repeats what is not lost.
#[test]
fn what_the_client_sent_meanwhile_gives_no_round_trip_time() {
    // 20 ms were measured at the intake; 5 ms after the cut over comes more of a body.
    let mut p = served_without_timestamps();
    p.b.pass(5);
    let more = client(p.k(), 9001, ACK | PSH, Build::default(), b"body");
    p.b.rx(Port::Wire, more);
    let to_stack = p.b.tx(Port::WireHost);
    assert_eq!(to_stack.len(), 2);
    let [syn, body] = [0, 1].map(|i| seen(&to_stack[i]));
    assert_eq!((syn.seg.flags, syn.seg.seq), (SYN, 1000));
    assert!(syn.payload.is_empty());
    assert_eq!((body.seg.ack, &body.payload[..]), (51, &b"body"[..]));
    // Its repeated SYN-ACK is what was asked for; nobody answers it.
    let again = p.synack(Build {
        timestamps: None,
        ..synack_opts(0, 0)
    });
    p.b.rx(Port::WireHost, again);
    p.b.pass(40);
    assert!(p.b.silent(), "the handshake is complete");
}

#[test]
fn a_segment_that_took_the_round_trip_completes_the_handshake_alone() {
    for (ms, ack) in [(18, 9001), (5, 9002)] {
        let mut p = served_without_timestamps();
        if ack > 9001 {
            p.b.rx(
                Port::WireHost,
                host(8080, 51, p.k(), ACK | PSH, 510, Build::default(), b"a"),
            );
        }
        p.b.pass(ms);
        let more = client(p.k(), ack, ACK | PSH, Build::default(), b"body");
        p.b.rx(Port::Wire, more);
        assert_eq!(p.b.one(Port::WireHost).payload, b"body");
    }
}

/// A pure acknowledgement by the client.
fn pure(p: &Pair, ack: u32, window: u16) -> Vec<u8> {
    let mut f = client(p.k() + 4, ack, ACK, Build::default(), b"");
    let l4 = seen(&f).seg.l4;
    Edit::of(&mut f, l4).window(window).finish();
    f
}

/// As far as an answer of three segments, by a stack that could not measure anything.
fn answered_unmeasured(sack: bool) -> Pair {
    let mut p = served_bare(sack);
    // As on any wire where segments overtake each other, those of the body do.
    p.b.pass(15);
    for (at, part) in [(2, b"dy"), (0, b"bo")] {
        let more = client(p.k() + at, 9001, ACK | PSH, Build::default(), part);
        p.b.rx(Port::Wire, more);
    }
    let given = p.b.tx(Port::WireHost);
    assert_eq!(given.len(), 3, "the SYN again, and the body");
    for i in 0..3 {
        let f = host(8080, 51 + i, p.k() + 4, ACK, 510, Build::default(), b"a");
        p.b.rx(Port::WireHost, f);
    }
    assert!(!p.b.tx(Port::Wire).is_empty());
    p
}

/// Three of them would make the stack send its first segment again, and what was sent
/// twice gives no round-trip time.
#[test]
fn duplicates_of_the_first_answer_wait_for_what_was_overtaken() {
    let mut p = answered_unmeasured(false);
    for _ in 0..3 {
        let f = pure(&p, 9001, 502);
        p.b.rx(Port::Wire, f);
        p.b.pass(1);
    }
    assert!(p.b.tx(Port::WireHost).is_empty());
    let f = pure(&p, 9004, 502);
    p.b.rx(Port::Wire, f);
    assert_eq!(p.b.one(Port::WireHost).seg.ack, 54, "and nothing before it");
    // From here on the stack has a round-trip time.
    let f = pure(&p, 9004, 502);
    p.b.rx(Port::Wire, f);
    assert_eq!(p.b.one(Port::WireHost).seg.ack, 54);
}

#[test]
fn duplicates_of_a_lost_first_answer_wait_no_longer_than_reordering_lasts() {
    let mut p = answered_unmeasured(false);
    for _ in 0..2 {
        let f = pure(&p, 9001, 502);
        p.b.rx(Port::Wire, f);
    }
    p.b.pass(4);
    assert!(p.b.tx(Port::WireHost).is_empty());
    // A quarter of 20 ms.
    p.b.pass(2);
    let given = p.b.tx(Port::WireHost);
    assert_eq!(given.len(), 2);
    assert!(given.iter().all(|f| seen(f).seg.ack == 51));
    let f = pure(&p, 9001, 502);
    p.b.rx(Port::Wire, f);
    assert_eq!(p.b.one(Port::WireHost).seg.ack, 51, "none waits any more");
}

#[test]
fn no_more_duplicates_wait_than_a_window_has_segments() {
    for dry in [false, true] {
        let mut p = answered_unmeasured(false);
        for _ in 0..70 {
            let f = pure(&p, 9001, 502);
            p.b.rx(Port::Wire, f);
        }
        assert!(p.b.tx(Port::WireHost).is_empty());
        // The next look at the clock, not a quarter of the round trip.
        p.b.out.dry = dry;
        p.b.pass(1);
        assert_eq!(p.b.tx(Port::WireHost).len(), if dry { 0 } else { 70 });
        let lost = if dry { 70 } else { 0 };
        assert_eq!(p.b.s.drops.get(Drop::NoBuffer), lost);
    }
}

#[test]
fn a_far_clients_duplicates_wait_longer_than_what_is_forwarded() {
    let mut p = answered_unmeasured(false);
    let slot = p.b.s.slots.iter().position(|f| f.dest.is_some()).unwrap();
    p.b.s.slots[slot].rtt = Span::millis(1_600);
    let f = pure(&p, 9001, 502);
    p.b.rx(Port::Wire, f);
    p.b.pass(399);
    assert!(p.b.tx(Port::WireHost).is_empty());
    p.b.pass(2);
    assert_eq!(p.b.one(Port::WireHost).seg.ack, 51);
}

#[test]
fn duplicates_that_wait_are_counted_when_the_flow_moves_on_or_ends() {
    for moves in [false, true] {
        let mut p = answered_unmeasured(false);
        for _ in 0..2 {
            let f = pure(&p, 9001, 502);
            p.b.rx(Port::Wire, f);
        }
        if moves {
            p.b.command(freeze_served(9));
            assert!(matches!(p.b.events()[..], [Event::Frozen { .. }]));
        } else {
            let slot = p.b.s.slots.iter().position(|f| f.dest.is_some()).unwrap();
            p.b.s.remove(&p.b.v, slot as u32);
        }
        assert_eq!(p.b.s.drops.get(Drop::HoldStale), 2);
        p.b.pass(50);
        assert!(p.b.tx(Port::WireHost).is_empty());
    }
}

#[test]
fn only_duplicates_wait_and_only_without_sack() {
    let mut p = answered_unmeasured(false);
    let data = client(p.k() + 4, 9001, ACK, Build::default(), b"more");
    p.b.rx(Port::Wire, data);
    assert_eq!(p.b.one(Port::WireHost).payload, b"more");
    let mut p = answered_unmeasured(false);
    let f = pure(&p, 9001, 501);
    p.b.rx(Port::Wire, f);
    assert_eq!(p.b.one(Port::WireHost).seg.ack, 51, "it tells a window");
    let mut p = answered_unmeasured(true);
    let f = pure(&p, 9001, 502);
    p.b.rx(Port::Wire, f);
    assert_eq!(p.b.one(Port::WireHost).seg.ack, 51);
}

#[test]
fn handshake_replay_where_fast_open_is_off() {
    let mut p = Pair::frozen(1000, 9000, 50);
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
    let d = p.b.one(Port::WireHost);
    assert_eq!(
        (d.seg.seq, d.seg.ack, d.payload.as_slice()),
        (1001, 51, GET)
    );
    assert!(
        p.a.events().is_empty(),
        "not accepted before the stack has it"
    );
    // The application answers before the stack acks anything by itself.
    p.b.rx(
        Port::WireHost,
        host(8080, 51, p.k(), ACK | PSH, 510, ts(778, 130), b"200"),
    );
    let r = p.b.one(Port::Wire);
    assert_eq!((r.seg.seq, r.payload.as_slice()), (9001, &b"200"[..]));
    p.link();
    assert!(matches!(
        p.a.events()[..],
        [Event::Done {
            replay: Some(Replay::Handshake),
            ..
        }]
    ));
    assert_eq!(p.b.s.counters.replay_handshake, 1);
}

#[test]
fn large_requests_come_in_pieces_and_leave_as_one_datagram() {
    let req: Vec<u8> = (0..50_000u32).map(|i| (i % 251) as u8).collect();
    let mut p = Pair::frozen_with(
        established(1000, 9000),
        Node::new(view(2, 1)),
        (1000, 9000, 50),
        &req,
    );
    p.splice_to(2);
    let room = crate::wire::ETH_LEN + p.a.v.params.mtu;
    let syn = p.a.out.ports[Port::Link.index()].front();
    assert_eq!(syn.map(Vec::len), Some(room), "not a byte of room is lost");
    assert!(p.link() > 36);
    let frags = p.b.tx(Port::WireHost);
    assert!(frags.len() > 30);
    const FRAGMENT: usize = if L4 == 34 { 0 } else { 8 };
    let mut data = Vec::new();
    for f in &frags {
        assert!(f.len() <= 1514);
        data.extend_from_slice(&f[L4 + FRAGMENT..]);
    }
    assert_eq!(data[data.len() - 50_000..], req);
    p.b.rx(
        Port::WireHost,
        host(
            8080,
            50,
            p.k(),
            SYN | ACK,
            65_160,
            synack_opts(777, 130),
            b"",
        ),
    );
    p.link();
    assert!(matches!(p.a.events()[..], [Event::Done { .. }]));
}

#[test]
fn a_handover_to_the_node_itself_is_the_same_code() {
    let mut p = Pair::frozen(1000, 9000, 50);
    let k = p.k();
    p.splice_to(1);
    assert!(p.a.tx(Port::Link).is_empty());
    let syn = p.a.one(Port::WireHost);
    assert_eq!((syn.seg.dport, syn.payload.as_slice()), (8080, GET));
    // A late ACK of the old socket goes nowhere.
    p.a.rx(
        Port::WireHost,
        host(8001, 9001, k, ACK, 500, ts(5011, 130), b""),
    );
    assert!(p.a.silent());
    p.a.rx(
        Port::WireHost,
        host(8080, 50, k, SYN | ACK, 65_160, synack_opts(777, 130), b""),
    );
    p.a.told();
    assert!(matches!(p.a.events()[..], [Event::Done { node: 1, .. }]));
    p.a.rx(
        Port::WireHost,
        host(8001, 9001, k, RST, 0, Build::default(), b""),
    );
    assert!(p.a.silent(), "the dying socket is not heard");
    p.a.rx(
        Port::WireHost,
        host(8080, 51, k, ACK | PSH, 510, ts(778, 130), b"200"),
    );
    assert_eq!(p.a.one(Port::Wire).seg.seq, 9001);
    p.a.rx(Port::Wire, client(k, 9004, ACK, ts(150, 5011), b""));
    assert_eq!(p.a.one(Port::WireHost).seg.ack, 54);
}

/// A forged SYN was given to the proxy's socket, and its challenge is still awaited.
#[test]
fn a_challenge_that_the_old_socket_owes_is_not_asked_of_the_new_one() {
    let mut p = Pair::frozen(1000, 9000, 50);
    let k = p.k();
    let f = p.a.s.slots.iter_mut().find(|f| f.source.is_some());
    f.expect("a frozen flow").challenged = Some(Box::from(&b"a SYN"[..]));
    p.splice_to(1);
    p.a.tx(Port::WireHost);
    let synack = || host(8080, 50, k, SYN | ACK, 65_160, synack_opts(777, 130), b"");
    p.a.rx(Port::WireHost, synack());
    p.a.told();
    // The answer to the SYN that tells the round trip, and the application's.
    p.a.rx(Port::WireHost, synack());
    p.a.rx(
        Port::WireHost,
        host(8080, 51, k, ACK | PSH, 510, ts(778, 130), b"200"),
    );
    assert_eq!(p.a.one(Port::Wire).payload, b"200");
    assert_eq!(p.a.s.flows(), 1);
}

/// The stack still owes the answer to the SYN that told it the round trip.
#[test]
fn a_forged_syn_right_after_the_cut_over_ends_nothing() {
    let mut p = Pair::spliced(1000, 9000, 50);
    let synack = || {
        host(
            8080,
            50,
            1001 + GET.len() as u32,
            SYN | ACK,
            65_160,
            synack_opts(777, 130),
            b"",
        )
    };
    p.b.rx(Port::WireHost, synack());
    p.link();
    p.b.rx(Port::Wire, client(77_777, 0, SYN, syn_opts(150), b""));
    p.b.tx(Port::WireHost);
    p.b.rx(Port::WireHost, synack());
    assert!(p.b.tx(Port::WireHost).is_empty(), "no reset");
    assert_eq!((p.b.s.flows(), p.k()), (1, 1001 + GET.len() as u32));
}

#[test]
fn an_old_time_wait_socket_is_reset_and_the_syn_given_again() {
    let mut p = Pair::frozen(1000, 9000, 50);
    p.splice_to(2);
    p.link();
    p.b.tx(Port::WireHost);
    p.b.rx(
        Port::WireHost,
        host(8080, 123, 456, ACK, 500, ts(1, 1), b""),
    );
    let f: Vec<Seen> = p.b.tx(Port::WireHost).iter().map(|f| seen(f)).collect();
    assert_eq!((f[0].seg.flags, f[0].seg.seq), (RST, 456));
    assert_eq!((f[1].seg.flags, f[1].seg.seq), (SYN, 1000));
}

#[test]
fn a_served_flow_ends_and_its_port_is_used_again() {
    let mut p = served(1000, 9000, 50);
    // The same client port, another ISN: the intake has a tombstone, and owns it.
    p.a.rx(Port::Wire, client(500_000, 0, SYN, syn_opts(900), b""));
    assert_eq!(p.a.one(Port::WireHost).seg.dport, 8001);
    let again = established_at(view(1, 1), 500_000, 77_000);
    let mut q = Pair::frozen_on(again, Node::new(view(2, 1)), 500_000, 77_000, 50);
    std::mem::swap(&mut q.b, &mut p.b);
    q.a.s.message_counter = 1_000;
    q.splice_to(2);
    q.link();
    let syn = q.b.one(Port::WireHost);
    assert_eq!(
        syn.seg.seq, 500_000,
        "the old flow gives way to the new one"
    );
}
