//! What stacks, clients and devices do seldom.

use super::*;
use crate::fcb::Fcb;
use crate::time::Span;
use crate::wire::arp::{self, Arp};

/// The request was given by handshake replay, and is not acknowledged.
fn given(c: u32, s: u32, l: u32) -> Pair {
    let mut p = Pair::spliced(c, s, l);
    let first = c.wrapping_add(1);
    let f = host(
        8080,
        l,
        first,
        SYN | ACK,
        65_160,
        synack_opts(777, 130),
        b"",
    );
    p.b.rx(Port::WireHost, f);
    assert_eq!(p.b.one(Port::WireHost).payload, GET);
    p
}

/// A link's frame to the node itself.
fn on_the_link(dport: u16, sport: u16) -> Vec<u8> {
    crate::wire::build::Tcp {
        eth_dst: [2, 0, 0, 0, 1, 1],
        eth_src: [2, 0, 0, 0, 1, 2],
        src: on_link(2u8).into(),
        dst: on_link(1u8).into(),
        sport,
        dport,
        seq: 1,
        ack: 1,
        flags: ACK,
        window: 0,
        opts: Build::default(),
        payload: b"0123456789",
    }
    .frame()
}

/// A frame whose datagram ends two bytes behind its IP header.
fn two_bytes(mut f: Vec<u8>) -> Vec<u8> {
    f.truncate(tcp_at(&f) + 2);
    let n = f.len() - 14;
    edit::set_ip_len(&mut f, n);
    f
}

#[test]
fn a_refusal_names_the_replays_number() {
    let (c, s, l) = (1000, 9000, 50);
    for (ack, refused) in [
        (c + 1, true),
        (c + 1 + GET.len() as u32, true),
        (c + 7, false),
    ] {
        let mut p = Pair::spliced(c, s, l);
        let rst = host(8080, 0, ack, RST | ACK, 0, Build::default(), b"");
        p.b.rx(Port::WireHost, rst);
        p.link();
        let why = Fail::Refused(Reason::NobodyListens);
        let e = p.a.events();
        let told = matches!(e[..], [Event::Failed { fail, .. }] if fail == why);
        assert_eq!(told, refused, "{ack}: {e:?}");
        assert_eq!(p.b.s.flows(), usize::from(!refused));
        assert_eq!(p.b.s.drops.get(Drop::ReplayConsumed), 1);
    }
}

#[test]
fn an_acknowledgement_of_what_the_stack_was_not_given_accepts_nothing() {
    let mut p = Pair::frozen(1000, 9000, 50);
    p.b.v.params.replay = dts_config::Replay::Handshake;
    p.splice_to(2);
    for f in p.a.tx(Port::Link) {
        p.b.rx(Port::Link, f);
    }
    let syn = p.b.one(Port::WireHost);
    assert!(syn.payload.is_empty());
    let f = p.synack(synack_opts(777, 130));
    p.b.rx(Port::WireHost, f);
    assert!(p.b.tx(Port::Link).is_empty(), "no accept");
}

#[test]
fn a_stack_that_resets_with_the_request_in_hand_has_answered() {
    let mut p = given(1000, 9000, 50);
    let rst = host(8080, p.l1(), p.c + 1, RST | ACK, 0, Build::default(), b"");
    p.b.rx(Port::WireHost, rst);
    let out = p.b.one(Port::Wire).seg;
    assert_eq!((out.flags, out.seq, out.sport), (RST | ACK, p.s1(), 80));
    p.link();
    assert!(matches!(p.a.events()[..], [Event::Done { .. }]));
}

#[test]
fn what_a_stack_sends_before_the_cut_over_waits_within_bounds() {
    for (len, fit) in [(1, 64), (60_000, 2)] {
        let mut p = given(1000, 9000, 50);
        let body = vec![b'a'; len];
        for i in 0..fit + 2 {
            let seq = p.l1() + i * len as u32;
            let f = host(8080, seq, p.c + 1, ACK, 500, ts(778, 130), &body);
            p.b.rx(Port::WireHost, f);
        }
        assert!(p.b.silent());
        assert_eq!(p.b.s.drops.get(Drop::HoldFull), 2);
        let f = host(8080, p.l1(), p.k(), ACK, 500, ts(778, 130), b"");
        p.b.rx(Port::WireHost, f);
        let out = p.b.tx(Port::Wire);
        let kept = out.iter().filter(|f| seen(f).payload == body).count();
        assert_eq!(kept, fit as usize, "in order, the first ones");
    }
}

#[test]
fn a_stack_that_waits_for_its_handshake_is_not_frozen() {
    let (mut p, synack) = Pair::frozen_without_timestamps();
    p.splice_to(2);
    p.link();
    let f = p.synack(synack);
    p.b.rx(Port::WireHost, f);
    p.link();
    // Its SYN-ACK again is not answered for the client before its round trip is over.
    let f = p.synack(synack);
    p.b.tx(Port::Wire);
    p.b.tx(Port::WireHost);
    p.b.rx(Port::WireHost, f);
    assert!(p.b.silent());
    let again = |ticket| Command::Freeze {
        ticket,
        client: sock(CLIENT, CPORT),
        local: sock(VIP, 8080),
    };
    p.b.command(again(7));
    let e = p.b.events();
    assert!(
        matches!(
            e[..],
            [Event::Failed {
                ticket: 7,
                fail: Fail::Busy
            }]
        ),
        "{e:?}"
    );
    p.b.pass(25);
    p.b.command(again(8));
    assert!(matches!(
        p.b.events()[..],
        [Event::Frozen { ticket: 8, .. }]
    ));
}

/// An intake whose proxy has sent its FIN, which the client has acknowledged; with
/// `both` the client has closed too.
fn half_closed(both: bool) -> Node {
    let mut n = established(1000, 9000);
    let fin = host(8001, 9001, 1001, ACK | FIN, 500, ts(5010, 120), b"");
    n.rx(Port::WireHost, fin);
    let flags = if both { ACK | FIN } else { ACK };
    n.rx(Port::Wire, client(1001, 9002, flags, ts(130, 5010), b""));
    if both {
        let last = host(8001, 9002, 1002, ACK, 500, ts(5020, 130), b"");
        n.rx(Port::WireHost, last);
    }
    n.tx(Port::Wire);
    n.tx(Port::WireHost);
    n
}

#[test]
fn a_server_that_has_closed_is_not_handed_over() {
    let mut n = half_closed(false);
    n.command(freeze(1));
    n.events();
    n.command(splice(1, sock(on_link(2u8), 8080), b"", false));
    assert!(matches!(
        n.events()[..],
        [Event::Failed {
            fail: Fail::Unaccounted,
            ..
        }]
    ));
    assert!(n.tx(Port::Link).is_empty());
}

#[test]
fn a_flow_that_is_over_stays_while_it_is_frozen() {
    let mut n = half_closed(true);
    n.pass(4_990);
    n.command(freeze(1));
    n.events();
    n.pass(100);
    assert_eq!((n.s.flows(), n.s.count(State::Held)), (1, 1));
    n.pass(1_000);
    assert!(matches!(
        n.events()[..],
        [Event::Failed {
            fail: Fail::Aborted,
            ..
        }]
    ));
    assert_eq!(n.s.flows(), 0);
}

#[test]
fn a_tombstone_stays_until_its_end_mark_is_answered() {
    let mut p = Pair::spliced(1000, 9000, 50);
    p.a.v.params.tombstone = Span::millis(5);
    let f = p.synack(synack_opts(777, 130));
    p.b.rx(Port::WireHost, f);
    let rst = host(8080, p.l1(), p.k(), RST | ACK, 0, Build::default(), b"");
    p.b.rx(Port::WireHost, rst);
    // The accept and the flow's end arrive, and no answer to an end mark.
    for f in p.b.tx(Port::Link) {
        p.a.rx(Port::Link, f);
    }
    let slot = p.a.s.slots.iter().find(|f| f.state == State::Tombstone);
    assert!(slot.is_some_and(|f| f.expires.is_some() && f.source.is_some()));
    p.a.pass(60);
    // The slow walk comes to it now.
    let slot = p.a.s.slots.iter().position(|f| f.state == State::Tombstone);
    p.a.s.sweep_at = slot.expect("a tombstone");
    p.a.pass(20);
    assert_eq!(p.a.s.flows(), 1, "its handover has not ended");
    assert!(p.a.events().is_empty());
    p.a.pass(1_000);
    assert!(matches!(p.a.events()[..], [Event::Done { .. }]));
    assert_eq!(p.a.s.flows(), 0);
}

#[test]
fn without_room_for_a_single_tombstone_clients_are_reset_all_the_same() {
    let mut p = Pair::frozen(1000, 9000, 50);
    p.a.v.params.tombstones_max = 0;
    p.splice_to(2);
    p.a.pass(2_100);
    assert_eq!(p.a.one(Port::Wire).seg.flags, RST | ACK);
    assert_eq!(p.a.s.flows(), 0);
    assert!(matches!(
        p.a.events()[..],
        [Event::Failed {
            fail: Fail::Unknown,
            ..
        }]
    ));
}

#[test]
fn a_handover_to_itself_whose_stack_is_silent_with_the_request_is_unknown() {
    let mut p = Pair::frozen(1000, 9000, 50);
    p.splice_to(1);
    p.a.tx(Port::WireHost);
    let f = host(
        8080,
        50,
        1001,
        SYN | ACK,
        65_160,
        synack_opts(777, 130),
        b"",
    );
    p.a.rx(Port::WireHost, f);
    p.a.pass(155);
    let e = p.a.events();
    assert!(
        matches!(
            e[..],
            [Event::Failed {
                fail: Fail::Unknown,
                ..
            }]
        ),
        "{e:?}"
    );
}

#[test]
fn what_waits_behind_a_hole_is_given_when_the_client_fills_it() {
    let mut p = Pair::spliced(1000, 9000, 50);
    let f = p.synack(synack_opts(777, 130));
    p.b.rx(Port::WireHost, f);
    p.b.told();
    let k = p.k();
    let part = |at: u32, body: &[u8]| client(k + at, 9001, ACK | PSH, ts(140, 5010), body);
    p.b.rx(Port::Wire, part(4, b"5678"));
    assert!(p.b.tx(Port::WireHost).is_empty(), "the source may fill it");
    p.b.rx(Port::Wire, part(0, b"1234"));
    let got: Vec<_> = p.b.tx(Port::WireHost);
    let got: Vec<_> = got.iter().map(|f| seen(f).payload).collect();
    assert_eq!(got, [b"1234", b"5678"]);
    assert_eq!(p.b.s.hold_use().0, 0);
}

#[test]
fn other_protocols_and_their_fragments_pass_the_link() {
    let f = with_proto(on_the_link(9, 9), 17);
    let part = as_fragment(on_the_link(9, 9), 0x2000, 17);
    let short = two_bytes(on_the_link(9, 9));
    for f in [f.clone(), part, short.clone()] {
        let mut n = Node::new(view(1, 1));
        n.rx(Port::Link, f.clone());
        assert_eq!(n.tx(Port::LinkHost), [f]);
    }
    for f in [f, short] {
        let mut n = Node::new(view(1, 1));
        n.rx(Port::LinkHost, f.clone());
        assert_eq!(n.tx(Port::Link), [f]);
    }
}

#[test]
fn a_local_program_on_a_splice_port_reaches_no_application() {
    let mut n = Node::new(view(1, 1));
    n.rx(Port::LinkHost, on_the_link(8080, 61_001));
    assert!(n.silent());
    assert_eq!(n.s.drops.get(Drop::HostWithoutFlow), 1);
    n.rx(Port::LinkHost, on_the_link(9, 61_001));
    assert_eq!(n.tx(Port::Link).len(), 1);
}

#[test]
fn a_bent_header_on_a_port_of_the_link_is_malformed() {
    let mut n = Node::new(view(1, 1));
    let mut f = on_the_link(8080, 61_001);
    let at = tcp_at(&f) + 12;
    f[at] = 0xf0;
    n.rx(Port::Link, f);
    assert!(n.silent());
    assert_eq!(n.s.drops.get(Drop::Malformed), 1);
}

#[test]
fn what_the_wires_host_says_of_itself_passes() {
    let own = on_wire(1);
    let f = from(host(9999, 1, 1, ACK, 500, Build::default(), GET), own, 9999);
    let part = as_fragment(f.clone(), 0x2000, 6);
    let mut n = Node::new(view(1, 1));
    n.rx(Port::WireHost, part.clone());
    let out = n.tx(Port::Wire).remove(0);
    assert_eq!((&out[6..12], &out[12..]), (&n.v.wire_mac[..], &part[12..]));
    // Two bytes of TCP for the node itself hide no port.
    let f = to(client(1, 1, ACK, Build::default(), b""), own, 9999);
    let short = two_bytes(f);
    n.rx(Port::Wire, short.clone());
    assert_eq!(n.tx(Port::WireHost), [short]);
}

#[test]
fn arp_of_a_vip() {
    let ask = |op, spa, tpa| {
        let (sha, tha) = (CLIENT_MAC, [0; 6]);
        Arp {
            op,
            sha,
            spa,
            tha,
            tpa,
        }
        .frame([0xff; 6], sha)
        .to_vec()
    };
    let other = [10, 77, 0, 9];
    let mut n = Node::new(view(1, 1));
    // Somebody announces a VIP as its own: neither answered nor believed.
    n.rx(Port::Wire, ask(arp::REQUEST, VIP_V4, VIP_V4));
    assert!(n.silent());
    assert_eq!(n.s.drops.get(Drop::ArpConsumed), 1);
    // The host asks for a neighbour with the VIP as sender.
    n.rx(Port::WireHost, ask(arp::REQUEST, VIP_V4, other));
    assert_eq!(n.tx(Port::Wire).len(), 1);
    // And announces it.
    n.rx(Port::WireHost, ask(arp::REQUEST, VIP_V4, VIP_V4));
    assert!(n.silent());
    // ARP of another kind than IPv4's over Ethernet is not ours.
    let mut f = ask(arp::REQUEST, VIP_V4, VIP_V4);
    f[14..16].copy_from_slice(&6u16.to_be_bytes());
    n.rx(Port::Wire, f.clone());
    assert_eq!(n.tx(Port::WireHost), [f.clone()]);
    n.rx(Port::WireHost, f);
    assert_eq!(n.tx(Port::Wire).len(), 1);
}

#[test]
fn without_a_request_the_syn_alone_is_the_replay() {
    let a = established(1000, 9000);
    let mut p = Pair::of(a, 1000, 9000);
    p.req = Vec::new();
    p.b.v.params.replay = dts_config::Replay::Handshake;
    p.a.command(freeze(1));
    p.a.events();
    p.splice_to(2);
    p.link();
    assert_eq!(p.b.one(Port::WireHost).seg.flags, SYN);
    let f = p.synack(synack_opts(777, 120));
    p.b.rx(Port::WireHost, f);
    p.link();
    assert!(matches!(p.a.events()[..], [Event::Done { .. }]));
    // The client's first word completes the handshake by itself.
    p.b.rx(
        Port::Wire,
        client(1001, 9001, ACK | PSH, ts(140, 5000), GET),
    );
    let got: Vec<Seen> = p.b.tx(Port::WireHost).iter().map(|f| seen(f)).collect();
    assert_eq!(got.len(), 1, "no SYN again: {got:?}");
    assert_eq!((got[0].payload.as_slice(), got[0].seg.ack), (GET, 51));
}

#[test]
fn what_finds_no_buffer_is_counted() {
    let none = |n: &Node| n.s.drops.get(Drop::NoBuffer);
    // An unfreeze: what the socket sent last, and what the client did.
    let mut p = Pair::frozen(1000, 9000, 50);
    let f = client(p.k(), 9001, ACK | PSH, ts(140, 5010), b"more");
    p.a.rx(Port::Wire, f);
    let f = host(8001, 9001, p.k(), ACK, 500, ts(5020, 130), b"");
    p.a.rx(Port::WireHost, f);
    p.a.out.dry = true;
    p.a.command(Command::Unfreeze { ticket: 1 });
    assert_eq!((none(&p.a), p.a.silent()), (2, true));
    assert_eq!(p.a.s.hold_use().0, 0);
    // A cut over: the accept, the stack's answer, and what was held.
    let mut p = given(1000, 9000, 50);
    let f = client(p.k(), 9001, ACK | PSH, ts(140, 5010), b"more");
    p.b.rx(Port::Wire, f);
    let f = host(8080, p.l1(), p.c + 1, ACK, 500, ts(778, 130), b"early");
    p.b.rx(Port::WireHost, f);
    p.b.out.dry = true;
    let f = host(8080, p.l1(), p.k(), ACK, 500, ts(778, 130), b"");
    p.b.rx(Port::WireHost, f);
    assert_eq!((none(&p.b), p.b.silent()), (3, true));
    assert_eq!(p.b.s.hold_use().0, 0);
    // A SYN whose flow the stack had forgotten.
    let mut n = established(1000, 9000);
    n.rx(Port::Wire, client(77_777, 0, SYN, syn_opts(150), b""));
    n.tx(Port::WireHost);
    n.out.dry = true;
    let f = host(
        8001,
        4000,
        77_778,
        SYN | ACK,
        65_160,
        synack_opts(1, 150),
        b"",
    );
    n.rx(Port::WireHost, f);
    assert_eq!((none(&n), n.silent(), n.s.flows()), (2, true, 0));
}

#[test]
fn a_handover_is_not_settled_before_a_very_far_clients_round_trip() {
    let (mut p, synack) = Pair::frozen_without_timestamps();
    p.a.s.slots.iter_mut().for_each(|f| f.rtt = Span::secs(12));
    p.splice_to(2);
    p.link();
    let f = p.synack(synack);
    p.b.rx(Port::WireHost, f);
    p.link();
    p.b.tx(Port::WireHost);
    let settled = |p: &Pair| {
        let served = |f: &&Fcb| f.state == State::Served;
        p.b.s
            .slots
            .iter()
            .find(served)
            .is_some_and(|f| f.dest.is_none())
    };
    p.b.pass(11_500);
    assert!(p.b.tx(Port::WireHost).is_empty() && !settled(&p));
    p.b.pass(1_100);
    assert_eq!(
        p.b.one(Port::WireHost).seg.flags,
        ACK,
        "in the client's name"
    );
    assert!(settled(&p));
}
