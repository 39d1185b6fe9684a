//! What happens to the client's segments during a freeze (rules 9, 10 and 15).

use super::*;

fn keepalive(p: &Pair, payload: &[u8]) -> Vec<u8> {
    client(p.k().wrapping_sub(1), p.s1(), ACK, ts(140, 5010), payload)
}

/// The ACK that answers a probe.
fn is_answer(p: &mut Pair) {
    let r = p.b.one(Port::Wire);
    assert_eq!((r.seg.flags, r.seg.seq, r.seg.ack), (ACK, p.s1(), p.k()));
    assert!(r.seg.window > 0 && r.payload.is_empty());
}

#[test]
fn a_probe_after_the_splice_is_answered_at_the_cut_over() {
    for (c, s, l) in ISNS {
        // A keepalive and a zero-window probe look alike: Linux sends both empty,
        // others with the last byte again.
        for payload in [&b""[..], b"\n"] {
            let mut p = Pair::spliced(c, s, l);
            let f = keepalive(&p, payload);
            for n in [&mut p.a, &mut p.b] {
                n.rx(Port::Wire, f.clone());
                assert!(n.silent(), "held");
            }
            p.cut_over();
            is_answer(&mut p);
            assert!(p.a.silent());
        }
    }
}

#[test]
fn a_probe_between_freeze_and_splice_is_answered_at_the_cut_over() {
    for payload in [&b""[..], b"\n"] {
        let mut p = Pair::frozen(1000, 9000, 50);
        let f = keepalive(&p, payload);
        for n in [&mut p.a, &mut p.b] {
            n.rx(Port::Wire, f.clone());
            assert!(n.silent());
        }
        p.splice_to(2);
        p.link();
        p.b.tx(Port::WireHost);
        p.cut_over();
        is_answer(&mut p);
    }
}

/// The proxy's stack had the question, but what it says leaves the node no more.
#[test]
fn what_was_asked_just_before_the_freeze_is_answered_at_the_cut_over() {
    let k = 1001 + GET.len() as u32;
    let again = |seq, payload: &[u8]| client(seq, 9001, ACK, ts(140, 5010), payload);
    for (question, asks) in [
        (again(k - 1, b""), true),
        (again(k - 1, b"\n"), true),
        // Its acknowledgement got lost.
        (again(1001, GET), true),
        (again(k, b""), false),
    ] {
        for said in [false, true] {
            let mut a = established(1000, 9000);
            let get = client(1001, 9001, ACK | PSH, ts(130, 5000), GET);
            a.rx(Port::Wire, get);
            let acks = host(8001, 9001, k, ACK, 500, ts(5010, 130), b"");
            a.rx(Port::WireHost, acks.clone());
            assert_eq!(a.one(Port::Wire).seg.ack, k, "the client knows of all");
            a.tx(Port::WireHost);
            a.rx(Port::Wire, question.clone());
            assert_eq!(a.tx(Port::WireHost).len(), 1, "to the proxy's stack");
            a.command(freeze(1));
            a.events();
            if said {
                a.rx(Port::WireHost, acks);
                assert!(a.silent(), "swallowed");
            }
            let mut p = Pair::of(a, 1000, 9000);
            p.splice_to(2);
            p.link();
            p.b.tx(Port::WireHost);
            p.cut_over();
            if asks {
                is_answer(&mut p);
            }
            assert!(p.b.silent());
        }
    }
}

/// Once is enough: what was answered, or what K's acknowledgement answers, is not asked
/// of the destination.
#[test]
fn what_was_answered_before_the_freeze_is_not_answered_again() {
    let k = 1001 + GET.len() as u32;
    for first in [false, true] {
        let mut a = established(1000, 9000);
        let get = client(1001, 9001, ACK | PSH, ts(130, 5000), GET);
        let acks = host(8001, 9001, k, ACK, 500, ts(5010, 130), b"");
        a.rx(Port::Wire, get);
        if first {
            a.rx(Port::WireHost, acks.clone());
        }
        a.rx(Port::Wire, client(k - 1, 9001, ACK, ts(140, 5000), b"\n"));
        if first {
            a.rx(Port::WireHost, acks);
            assert_eq!(a.tx(Port::Wire).len(), 2, "the second one is the answer");
        }
        a.tx(Port::WireHost);
        a.command(freeze(1));
        a.events();
        let mut p = Pair::of(a, 1000, 9000);
        p.splice_to(2);
        p.link();
        p.b.tx(Port::WireHost);
        p.cut_over();
        assert_eq!(p.b.tx(Port::Wire).len(), usize::from(!first));
    }
}

/// A stack that was given the request by a replay calls the client's own copy a
/// duplicate. The client sent it again because it was told nothing: it is told now.
#[test]
fn a_request_that_the_client_repeats_after_the_cut_over_is_acknowledged() {
    for (c, s, l) in ISNS {
        let mut p = Pair::served(c, s, l);
        let (first, k) = (c.wrapping_add(1), p.k());
        let told = |p: &mut Pair| {
            let f = host(8080, p.l1(), k, ACK, 510, Build::default(), b"");
            let f = with_options(&f, &sack(2, &[(first, k)]));
            p.b.rx(Port::WireHost, f);
            p.b.tx(Port::Wire)
        };
        // The first one tells the window; the replay alone is no news after it.
        told(&mut p);
        assert!(told(&mut p).is_empty(), "the client did not ask");
        let again = client(first, p.s1(), ACK | PSH, ts(900, 5010), GET);
        p.b.rx(Port::Wire, again);
        assert_eq!(p.b.one(Port::WireHost).payload, GET);
        let out = told(&mut p);
        assert_eq!(out.len(), 1, "the client waits for it");
        assert_eq!(seen(&out[0]).seg.ack, k);
        assert_eq!(sack_of(&out[0]), None);
    }
}

#[test]
fn a_reset_between_freeze_and_splice_reaches_the_destinations_stack() {
    let mut p = Pair::frozen(1000, 9000, 50);
    let f = client(p.k(), 0, RST, Build::default(), b"");
    for n in [&mut p.a, &mut p.b] {
        n.rx(Port::Wire, f.clone());
        assert!(n.silent());
    }
    p.splice_to(2);
    p.link();
    p.b.tx(Port::WireHost);
    p.cut_over();
    let r = p.b.one(Port::WireHost);
    assert_eq!((r.seg.flags, r.seg.seq, r.seg.dport), (RST, p.k(), 8080));
}

#[test]
fn probes_reach_the_proxys_stack_after_an_unfreeze() {
    for payload in [&b""[..], b"\n"] {
        let mut p = Pair::frozen(1000, 9000, 50);
        let f = keepalive(&p, payload);
        p.a.rx(Port::Wire, f);
        assert!(p.a.silent());
        p.a.command(Command::Unfreeze { ticket: 1 });
        let h = p.a.one(Port::WireHost);
        assert_eq!((h.seg.seq, h.seg.dport), (p.k().wrapping_sub(1), 8001));
        assert_eq!(h.payload, payload);
        let f = host(8001, 9001, p.k(), ACK, 500, ts(5030, 140), b"");
        p.a.rx(Port::WireHost, f);
        assert_eq!(p.a.one(Port::Wire).seg.ack, p.k());
        assert_eq!(p.a.s.hold_use().0, 0);
    }
}

#[test]
fn a_fin_after_k_is_held_and_released_once_behind_its_bytes() {
    for (c, s, l) in ISNS {
        for at_source in [false, true] {
            let mut p = Pair::frozen(c, s, l);
            let k = p.k();
            let data = client(k, p.s1(), ACK | PSH, ts(140, 5010), b"tail");
            let fin = client(k.wrapping_add(4), p.s1(), ACK | FIN, ts(141, 5010), b"");
            let hear = |p: &mut Pair| {
                for f in [&data, &fin, &fin] {
                    p.a.rx(Port::Wire, f.clone());
                    p.b.rx(Port::Wire, f.clone());
                }
            };
            if at_source {
                hear(&mut p);
            }
            p.splice_to(2);
            p.link();
            assert_eq!(p.b.one(Port::WireHost).seg.flags, SYN, "no FIN before K");
            if !at_source {
                hear(&mut p);
            }
            assert!(p.b.silent());
            p.cut_over();
            let got: Vec<_> = p.b.tx(Port::WireHost).iter().map(|f| seen(f)).collect();
            let got: Vec<_> = got
                .iter()
                .map(|s| (s.seg.seq, s.seg.flags & FIN, s.payload.as_slice()))
                .collect();
            assert_eq!(
                got,
                [(k, 0, &b"tail"[..]), (k.wrapping_add(4), FIN, b"")],
                "heard at the source alone: {at_source}, c {c:#x}"
            );
            assert_eq!(p.a.s.hold_use().0 + p.b.s.hold_use().0, 0);
        }
    }
}

#[test]
fn what_overtook_the_end_mark_or_came_behind_it_is_given_once() {
    for (c, s, l) in ISNS {
        // The FIN comes twice, and from above a hole, so that order does not tell.
        let mut p = Pair::frozen(c, s, l);
        let at = p.k().wrapping_add(4);
        for t in [141, 142] {
            let fin = client(at, p.s1(), ACK | FIN, ts(t, 5010), b"ab");
            p.a.rx(Port::Wire, fin);
        }
        p.splice_to(2);
        p.a.tx(Port::Link)
            .into_iter()
            .for_each(|f| p.b.rx(Port::Link, f));
        p.b.tx(Port::WireHost);
        let f = p.synack(synack_opts(777, 130));
        p.b.rx(Port::WireHost, f);
        p.b.tx(Port::Link)
            .into_iter()
            .for_each(|f| p.a.rx(Port::Link, f));
        let said = p.a.tx(Port::Link);
        assert_eq!(said.len(), 3, "two copies and the end mark");
        for i in [0, 2] {
            p.b.rx(Port::Link, said[i].clone());
        }
        p.b.told();
        let got = p.b.one(Port::WireHost);
        assert_eq!((got.seg.seq, got.seg.flags), (at, ACK | FIN));
        p.b.rx(Port::Link, said[1].clone());
        assert!(p.b.tx(Port::WireHost).is_empty(), "no second FIN");
        assert_eq!(p.b.s.drops.get(Drop::HoldStale), 1);
        // Long after the end mark nothing is remembered, and nothing let in.
        p.b.pass(11_000);
        assert!(p.b.s.slots.iter().all(|f| f.dest.is_none()));
        p.b.rx(Port::Link, said[1].clone());
        assert!(p.b.tx(Port::WireHost).is_empty(), "no third FIN");
    }
}

#[test]
fn the_cap_per_flow_counts_and_spares_other_flows() {
    let mut p = Pair::frozen(1000, 9000, 50);
    p.a.v.params.hold_flow_max = 4 * 1536;
    // Another flow of the same worker, in peace.
    let f = |seq, flags, o, data: &[u8]| {
        let mut f = client(seq, 9001, flags, o, data);
        f[L4..L4 + 2].copy_from_slice(&50_000u16.to_be_bytes());
        let end = f.len();
        edit::write_tcp_checksum(&mut f, L4, end);
        f
    };
    p.a.rx(Port::Wire, f(1000, SYN, syn_opts(100), b""));
    let mut h = host(
        8001,
        9000,
        1001,
        SYN | ACK,
        65_160,
        synack_opts(5000, 100),
        b"",
    );
    h[L4 + 2..L4 + 4].copy_from_slice(&50_000u16.to_be_bytes());
    let end = h.len();
    edit::write_tcp_checksum(&mut h, L4, end);
    p.a.rx(Port::WireHost, h);
    p.a.rx(Port::Wire, f(1001, ACK, ts(120, 5000), b""));
    p.a.tx(Port::WireHost);
    p.a.tx(Port::Wire);
    for i in 0..10u32 {
        let seg = client(
            p.k() + i * 10,
            9001,
            ACK | PSH,
            ts(140, 5010),
            b"0123456789",
        );
        p.a.rx(Port::Wire, seg);
    }
    assert_eq!(p.a.s.drops.get(Drop::HoldFull), 6);
    assert_eq!(p.a.s.hold_use().0, 4);
    p.a.rx(Port::Wire, f(1001, ACK | PSH, ts(140, 5010), b"other"));
    assert_eq!(p.a.one(Port::WireHost).payload, b"other");
    assert_eq!(
        p.a.s.drops.0.iter().sum::<u64>(),
        6,
        "nothing else was dropped"
    );
    // What was held is let go in order; the client sends the rest again.
    p.a.command(Command::Unfreeze { ticket: 1 });
    let got: Vec<u32> =
        p.a.tx(Port::WireHost)
            .iter()
            .map(|f| seen(f).seg.seq)
            .collect();
    assert_eq!(got, (0..4).map(|i| p.k() + i * 10).collect::<Vec<_>>());
}

#[test]
fn the_cap_per_worker_counts_and_pure_acks_of_an_intake_need_no_buffer() {
    let mut n = established(1000, 9000);
    n.s.store = crate::hold::Store::new(3 * 1536, 1536);
    for i in 0..5u32 {
        let f = client(1001 + i * 4, 9001, ACK | PSH, ts(130, 5000), b"abcd");
        n.rx(Port::Wire, f);
    }
    assert_eq!(n.tx(Port::WireHost).len(), 3);
    assert_eq!((n.s.drops.get(Drop::HoldFull), n.s.hold_use()), (2, (3, 3)));
    n.rx(Port::Wire, client(1021, 9001, ACK, ts(131, 5000), b""));
    n.rx(Port::Wire, client(1021, 0, RST, Build::default(), b""));
    assert_eq!(n.tx(Port::WireHost).len(), 2);
    // The stack's acknowledgement makes room again.
    n.rx(
        Port::WireHost,
        host(8001, 9001, 1013, ACK, 500, ts(5010, 130), b""),
    );
    assert_eq!(n.s.hold_use(), (0, 3));
    n.rx(
        Port::Wire,
        client(1013, 9001, ACK | PSH, ts(132, 5010), b"abcd"),
    );
    assert_eq!(n.tx(Port::WireHost).len(), 1);
    assert_eq!(n.s.drops.0.iter().sum::<u64>(), 2);
}

/// `frame` with URG and this pointer.
fn urgent(mut f: Vec<u8>, pointer: u16) -> Vec<u8> {
    f[L4 + 13] |= URG;
    f[L4 + 18..L4 + 20].copy_from_slice(&pointer.to_be_bytes());
    let end = f.len();
    edit::write_tcp_checksum(&mut f, L4, end);
    f
}

#[test]
fn the_urgent_pointer_stays_on_its_byte() {
    for (c, s, l) in ISNS {
        // Held at the freeze, with bytes below K before the urgent one; behind K in
        // whole; and the urgent byte itself below K, which the drain has refused or
        // taken: then it is not told again.
        for (front, pointer, want) in [(5, 8, Some(3)), (0, 2, Some(2)), (5, 5, None)] {
            let mut p = Pair::frozen(c, s, l);
            let at = p.k().wrapping_sub(front);
            let f = client(at, p.s1(), ACK | PSH, ts(140, 5010), b"12345678");
            let f = urgent(f, pointer);
            p.a.rx(Port::Wire, f);
            p.splice_to(2);
            p.link();
            p.b.tx(Port::WireHost);
            p.cut_over();
            let got = p.b.tx(Port::WireHost);
            let data: Vec<_> = got.iter().filter(|f| seen(f).payload.len() < 9).collect();
            let got = data.iter().find(|f| !seen(f).payload.is_empty());
            let got = got.expect("what was held");
            let s = seen(got);
            assert_eq!((s.seg.seq, s.payload.len() as u32), (p.k(), 8 - front));
            let field = u16::from_be_bytes([got[L4 + 18], got[L4 + 19]]);
            let told = s.seg.has(URG).then_some(field);
            assert_eq!(told, want, "front {front}, pointer {pointer}");
        }
        // Served: as it is, both ways.
        let mut p = Pair::served(c, s, l);
        let f = client(p.k(), p.s1(), ACK | PSH, ts(150, 777), b"abc");
        p.b.rx(Port::Wire, urgent(f, 3));
        let got = p.b.tx(Port::WireHost).remove(0);
        assert_eq!(
            (seen(&got).seg.has(URG), got[L4 + 18..L4 + 20].to_vec()),
            (true, vec![0, 3])
        );
        let f = host(8080, p.l1(), p.k(), ACK | PSH, 510, ts(779, 130), b"xyz");
        p.b.rx(Port::WireHost, urgent(f, 1));
        let got = p.b.tx(Port::Wire).remove(0);
        assert_eq!(
            (seen(&got).seg.has(URG), got[L4 + 18..L4 + 20].to_vec()),
            (true, vec![0, 1])
        );
    }
}

#[test]
fn an_old_socket_is_killed_at_its_own_number_and_asked_again_so_often() {
    for (c, s, l) in ISNS {
        for with_ts in [true, false] {
            let o = |val, ecr| match with_ts {
                true => ts(val, ecr),
                false => Build::default(),
            };
            let opts = Build {
                timestamps: with_ts.then_some((100, 0)),
                ..syn_opts(0)
            };
            let synack = Build {
                timestamps: with_ts.then_some((5000, 100)),
                ..syn_opts(0)
            };
            let a = established_as(view(1, 1), c, s, opts, synack);
            let mut p = Pair::frozen_on(a, Node::new(view(2, 1)), c, s, l);
            p.splice_to(2);
            p.link();
            let syn = p.b.one(Port::WireHost);
            // TIME_WAIT answers with the numbers of the connection that was.
            let old = c.wrapping_sub(77_777);
            for _ in 0..2 {
                p.b.rx(Port::WireHost, host(8080, 5, old, ACK, 500, o(1, 1), b""));
                let got = p.b.tx(Port::WireHost);
                let (rst, again) = (seen(&got[0]), seen(&got[1]));
                assert_eq!((rst.seg.flags, rst.seg.seq), (RST, old));
                assert!(rst.payload.is_empty());
                assert_eq!((again.seg.flags, again.seg.seq), (SYN, c));
                assert_eq!(
                    (again.payload, again.seg.ts_val()),
                    (syn.payload.clone(), syn.seg.ts_val())
                );
            }
            // Three SYNs are enough: whatever that is, it cannot be killed.
            p.b.rx(Port::WireHost, host(8080, 5, old, ACK, 500, o(1, 1), b""));
            assert!(p.b.tx(Port::WireHost).is_empty());
            p.b.pass(70);
            p.link();
            assert!(matches!(
                p.a.events()[..],
                [Event::Failed {
                    fail: Fail::Refused(Reason::Silence),
                    ..
                }]
            ));
        }
    }
}
