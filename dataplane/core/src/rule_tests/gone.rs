//! The life of a flow follows its socket, and nothing leaks behind it (rule 20).

use super::*;
use crate::life::SocketSet;
use crate::time::Span;
use std::sync::Arc;

/// A look that finds the sockets of these local ports.
fn look(n: &mut Node, number: u64, ports: &[u16]) {
    let client = sock(CLIENT, CPORT);
    let set = SocketSet::new(number, ports.iter().map(|&p| (sock(VIP, p), client)));
    assert_eq!((set.len(), set.is_empty()), (ports.len(), ports.is_empty()));
    n.command(Command::Sockets { set: Arc::new(set) });
    // The walk passes every slot in half a second.
    n.pass(600);
}

#[test]
fn a_flow_without_a_socket_at_two_looks_is_over_and_its_intake_hears_of_it() {
    for isns in ISNS {
        let mut p = Pair::served(isns.0, isns.1, isns.2);
        p.b.pass(60);
        p.b.tx(Port::WireHost);
        look(&mut p.b, 1, &[]);
        assert_eq!(p.b.s.count_states(), [0, 0, 0, 1, 0], "one look is none");
        // The same look once more says nothing new.
        p.b.pass(2_000);
        assert_eq!(p.b.s.counters.sockets_gone, 0);
        look(&mut p.b, 2, &[]);
        assert_eq!(p.b.s.counters.sockets_gone, 1);
        p.link();
        // A client that is still there is told at once, with the number that it expects.
        let f = client(p.k(), p.s1(), ACK | PSH, ts(900, 777), b"there?");
        p.b.rx(Port::Wire, f);
        let r = p.b.one(Port::Wire);
        assert_eq!((r.seg.flags & RST, r.seg.seq), (RST, p.s1()));
        assert!(p.b.tx(Port::WireHost).is_empty());
        for n in [&mut p.a, &mut p.b] {
            n.pass(62_000);
            assert_eq!(n.s.flows(), 0, "node {}", n.v.node);
        }
    }
}

#[test]
fn a_flow_with_a_socket_or_with_a_segment_lives() {
    let mut p = Pair::served(1000, 9000, 50);
    p.b.pass(60);
    p.b.tx(Port::WireHost);
    // Found again in between: the count begins anew.
    for (number, ports) in [(1, &[][..]), (2, &[8080]), (3, &[]), (4, &[8080, 8001])] {
        look(&mut p.b, number, ports);
    }
    // The proxy's socket of the same client is another one.
    look(&mut p.b, 5, &[8001]);
    // A segment since the first look that missed it: it is asked once more.
    let f = client(p.k(), p.s1(), ACK | PSH, ts(900, 777), b"x");
    p.b.rx(Port::Wire, f);
    p.b.tx(Port::WireHost);
    look(&mut p.b, 6, &[8001]);
    assert_eq!(p.b.s.counters.sockets_gone, 0);
    assert_eq!(p.b.s.count_states(), [0, 0, 0, 1, 0]);
    look(&mut p.b, 7, &[8001]);
    assert_eq!(p.b.s.counters.sockets_gone, 1);
}

#[test]
fn an_intake_is_asked_by_its_proxys_port_and_a_handover_is_left_alone() {
    let mut n = established(1000, 9000);
    for number in 1..4 {
        look(&mut n, number, &[8001]);
    }
    assert_eq!(n.s.count_states(), [0, 1, 0, 0, 0]);
    for number in 4..6 {
        look(&mut n, number, &[8080]);
    }
    assert_eq!(n.s.count_states(), [0, 0, 0, 0, 1]);
    // Half-open, frozen, handed over: none of them has a socket that it speaks for.
    let mut half = Node::new(view(1, 1));
    half.rx(Port::Wire, client(1000, 0, SYN, syn_opts(1), b""));
    let mut frozen = Pair::frozen(1000, 9000, 50).a;
    frozen.v.params.deadline = crate::time::Span::secs(60);
    frozen.command(Command::Unfreeze { ticket: 1 });
    frozen.command(freeze(2));
    let tombstone = Pair::served(1000, 9000, 50).a;
    for (mut n, state) in [(half, 0), (frozen, 2), (tombstone, 4)] {
        for number in 1..4 {
            look(&mut n, number, &[]);
        }
        assert_eq!(n.s.count_states()[state], 1);
        assert_eq!(n.s.counters.sockets_gone, 0);
    }
}

#[test]
fn a_keepalive_never_leaks_local_numbers() {
    for isns in ISNS {
        // The socket outlives the FCB: both ends ask for a sign of life.
        let mut p = Pair::served(isns.0, isns.1, isns.2);
        p.b.pass(60);
        p.b.tx(Port::WireHost);
        let stack = |p: &Pair, back: u32| {
            let seq = p.l1().wrapping_sub(back);
            host(8080, seq, p.k(), ACK, 510, ts(9_000, 130), b"")
        };
        // While the flow lives it goes out, translated.
        let f = stack(&p, 1);
        p.b.rx(Port::WireHost, f);
        assert_eq!(p.b.one(Port::Wire).seg.seq, p.s1().wrapping_sub(1));
        for number in 1..3 {
            look(&mut p.b, number, &[]);
        }
        p.b.tx(Port::Link);
        // A tombstone, and then nothing at all.
        for (why, n) in [(Drop::HostForbidden, 1), (Drop::HostWithoutFlow, 1)] {
            let f = stack(&p, 1);
            p.b.rx(Port::WireHost, f);
            assert!(p.b.silent(), "{}", why.name());
            assert_eq!(p.b.s.drops.get(why), n);
            p.b.pass(62_000);
        }
        // Nor does the proxy's old socket at the intake get a word out.
        let f = host(8001, p.s, p.k(), ACK, 510, ts(9_000, 130), b"");
        p.a.rx(Port::WireHost, f);
        assert!(p.a.silent());
    }
}

#[test]
fn window_probes_reach_the_right_end_of_a_served_flow_and_are_answered() {
    for isns in ISNS {
        let mut p = Pair::served(isns.0, isns.1, isns.2);
        p.answer(100);
        let (k, s, l) = (p.k(), p.s1().wrapping_add(100), p.l1().wrapping_add(100));
        // The client's window is closed: the stack probes with a number that was
        // acknowledged before, and the client answers.
        let f = host(8080, l.wrapping_sub(1), k, ACK, 510, ts(900, 130), b"");
        p.b.rx(Port::WireHost, f);
        let probe = p.b.one(Port::Wire);
        assert_eq!((probe.seg.seq, probe.seg.ack), (s.wrapping_sub(1), k));
        p.b.rx(Port::Wire, client(k, s, ACK, ts(950, 900), b""));
        assert_eq!(p.b.one(Port::WireHost).seg.ack, l);
        // The stack's window is closed: the client probes, empty or with its last
        // byte, and the stack answers with a window of 0 and then with an open one.
        for (i, body) in [&b""[..], b"\n"].into_iter().enumerate() {
            let f = client(k.wrapping_sub(1), s, ACK, ts(960, 900), body);
            p.b.rx(Port::Wire, f);
            let probe = p.b.one(Port::WireHost);
            assert_eq!((probe.seg.seq, probe.payload.len()), (k.wrapping_sub(1), i));
            let f = host(8080, l, k, ACK, 0, ts(910, 960), b"");
            p.b.rx(Port::WireHost, f);
            assert_eq!(p.b.one(Port::Wire).seg.window, 0);
        }
        p.b.rx(
            Port::WireHost,
            host(8080, l, k, ACK, 300, ts(920, 960), b""),
        );
        assert_eq!(p.b.one(Port::Wire).seg.window, 300);
    }
}

#[test]
fn an_intake_keeps_the_round_trip_when_its_socket_is_found() {
    let mut n = Node::new(view(1, 1));
    let look = |n: &mut Node, number: u64, ports: &[u16]| {
        let client = sock(CLIENT, CPORT);
        let set = SocketSet::new(number, ports.iter().map(|&p| (sock(VIP, p), client)));
        n.command(Command::Sockets { set: Arc::new(set) });
        n.pass(600);
    };
    look(&mut n, 1, &[]);
    n.rx(Port::Wire, client(1000, 0, SYN, syn_opts(100), b""));
    let opts = synack_opts(5000, 100);
    let f = host(8001, 9000, 1001, SYN | ACK, 65_160, opts, b"");
    n.rx(Port::WireHost, f);
    n.now = n.now + Span::millis(20);
    n.rx(Port::Wire, client(1001, 9001, ACK, ts(120, 5000), b""));
    let rtt = |n: &Node| {
        let open = |f: &&crate::fcb::Fcb| f.state == State::Intake;
        n.s.slots.iter().find(open).unwrap().rtt
    };
    assert_eq!(rtt(&n), Span::millis(20));
    n.pass(600);
    look(&mut n, 2, &[8001]);
    assert_eq!(rtt(&n), Span::millis(20));
}

/// A data plane that was started anew, over a stack that still has a socket of the 4-tuple.
#[test]
fn an_old_socket_is_reset_and_gets_the_syn_again() {
    let mut n = Node::new(view(1, 1));
    let syn = client(1_000, 0, SYN, syn_opts(700), b"");
    n.rx(Port::Wire, syn.clone());
    let given = n.one(Port::WireHost);
    // RFC 5961, section 4: "send an ACK ... regardless of the sequence number".
    let challenge = || host(8001, 77_000, 55_000, ACK, 500, ts(1, 2), b"");
    n.rx(Port::WireHost, challenge());
    let told: Vec<_> = n.tx(Port::WireHost).iter().map(|f| seen(f)).collect();
    let [rst, again] = &told[..] else {
        panic!("{} frames", told.len())
    };
    assert_eq!((rst.seg.flags, rst.seg.seq), (RST, 55_000));
    let of = |s: &Segment| (s.flags, s.seq, s.window, s.sport, s.dport);
    assert_eq!(of(&again.seg), of(&given.seg));
    let opts = |s: &Segment| (s.opts.mss, s.opts.wscale, s.opts.sack_permitted);
    assert_eq!(opts(&again.seg), opts(&given.seg));
    assert_eq!(again.seg.ts_val(), given.seg.ts_val());
    // One that cannot be reset is left in peace.
    n.rx(Port::WireHost, challenge());
    assert!(n.silent());
    // The stack's answer opens the connection.
    let synack = host(8001, 9_000, 1_001, SYN | ACK, 500, synack_opts(5, 700), b"");
    n.rx(Port::WireHost, synack);
    assert_eq!(n.one(Port::Wire).seg.flags, SYN | ACK);
    // From then on what the stack challenges is the client's to answer.
    n.pass(1_000);
    n.rx(Port::WireHost, challenge());
    assert_eq!(n.one(Port::Wire).seg.flags, ACK);
}
