//! What is rewritten once delta and tau are not 0 (PROTOCOL, section 3).

use super::*;
use crate::wire::build::Tcp;

#[test]
fn every_sack_edge_is_shifted_wherever_the_option_lies() {
    for (c, s, l) in ISNS {
        let mut p = Pair::served(c, s, l);
        p.answer(1000);
        let (s1, l1) = (p.s1(), p.l1());
        for pad in 0..4 {
            for n in 1..=4u32 {
                // The first block is a D-SACK: below the acknowledgement.
                let at = |base: u32| -> Vec<(u32, u32)> {
                    let block = |i: u32| {
                        if i == 0 {
                            (10, 60)
                        } else {
                            (200 * i, 200 * i + 50)
                        }
                    };
                    (0..n)
                        .map(block)
                        .map(|(x, y)| (base.wrapping_add(x), base.wrapping_add(y)))
                        .collect()
                };
                let plain = client(p.k(), s1.wrapping_add(100), ACK, Build::default(), b"");
                p.b.rx(Port::Wire, with_options(&plain, &sack(pad, &at(s1))));
                let f = p.b.tx(Port::WireHost).remove(0);
                assert_eq!(sack_of(&f), Some(at(l1)), "pad {pad}, {n} blocks, l {l:#x}");
                assert_eq!(seen(&f).seg.ack, l1.wrapping_add(100));
            }
        }
    }
}

#[test]
fn timestamps_and_sack_together_at_an_odd_offset() {
    let mut p = Pair::served(1000, 9000, 50);
    p.answer(1000);
    let mut o = vec![1, 8, 10, 0, 0, 0, 140];
    o.extend(5012u32.to_be_bytes());
    o.extend(sack(0, &[(9401, 9601), (9701, 9801)]));
    let plain = client(p.k(), 9301, ACK, Build::default(), b"");
    p.b.rx(Port::Wire, with_options(&plain, &o));
    let f = p.b.tx(Port::WireHost).remove(0);
    assert_eq!(sack_of(&f), Some(vec![(451, 651), (751, 851)]));
    // tau = 5010 - 777.
    let t = seen(&f).seg.opts.timestamps.map(|t| (t.0, t.1));
    assert_eq!(t, Some((140, 779)));
}

/// The stack's ACK of another byte, with SACK blocks, as the client sees it.
fn from_host(p: &mut Pair, pad: usize, blocks: &[(u32, u32)]) -> Vec<u8> {
    let served = p.b.s.slots.iter().find(|f| f.dest.is_some());
    let ack = served.expect("a served flow").c_acked.wrapping_add(1);
    let plain = host(8080, p.l1(), ack, ACK, 510, Build::default(), b"");
    p.b.rx(Port::WireHost, with_options(&plain, &sack(pad, blocks)));
    let mut f = p.b.tx(Port::Wire);
    assert_eq!(f.len(), 1);
    f.remove(0)
}

#[test]
fn a_dsack_below_k_is_stripped_and_the_others_survive_in_order() {
    for (c, s, l) in ISNS {
        let mut p = Pair::served(c, s, l);
        let k = p.k();
        let at = |x: u32, y: u32| (k.wrapping_add(x), k.wrapping_add(y));
        let below = (c.wrapping_add(1), k);
        let (two, three) = (at(1000, 1100), at(700, 800));
        for pad in 0..4 {
            assert_eq!(sack_of(&from_host(&mut p, pad, &[below])), None);
            let f = from_host(&mut p, pad, &[below, two]);
            assert_eq!(sack_of(&f), Some(vec![two]));
            let f = from_host(&mut p, pad, &[below, two, three]);
            assert_eq!(sack_of(&f), Some(vec![two, three]));
            assert!(!seen(&f).seg.opts.others, "what is left over is NOPs");
            // The client sent these bytes itself.
            let above = at(0, 100);
            let f = from_host(&mut p, pad, &[above, two]);
            assert_eq!(sack_of(&f), Some(vec![above, two]));
            let straddles = (k.wrapping_sub(5), k.wrapping_add(5));
            assert_eq!(
                sack_of(&from_host(&mut p, pad, &[straddles])),
                Some(vec![straddles])
            );
        }
    }
}

#[test]
fn a_tsecr_of_zero_stays_zero() {
    let mut p = Pair::served(1000, 9000, 50);
    p.answer(10);
    for (given, want) in [(0, 0), (5012, 779), (1, 1u32.wrapping_sub(4233))] {
        p.b.rx(Port::Wire, client(p.k(), 9011, ACK, ts(140, given), b""));
        assert_eq!(p.b.one(Port::WireHost).seg.ts_ecr(), Some(want));
    }
}

#[test]
fn acknowledgements_are_kept_within_what_the_stack_has_sent() {
    for (c, s, l) in ISNS {
        let mut p = Pair::served(c, s, l);
        p.answer(1000);
        let (s1, l1) = (p.s1(), p.l1());
        for (off, want) in [
            (-30_000i32, 0u32),
            (-1, 0),
            (0, 0),
            (1, 1),
            (999, 999),
            (1000, 1000),
            (1001, 1000),
            (50_000, 1000),
        ] {
            let f = client(p.k(), s1.wrapping_add_signed(off), ACK, ts(150, 5012), b"");
            p.b.rx(Port::Wire, f);
            let got = p.b.one(Port::WireHost).seg.ack;
            assert_eq!(
                got,
                l1.wrapping_add(want),
                "offset {off}, s {s:#x}, l {l:#x}"
            );
        }
    }
}

#[test]
fn a_reset_of_the_client_is_translated_and_its_stack_judges() {
    for (c, s, l) in ISNS {
        let mut p = Pair::served(c, s, l);
        p.answer(100);
        let f = client(
            p.k(),
            p.s1().wrapping_add(100),
            RST | ACK,
            Build::default(),
            b"",
        );
        p.b.rx(Port::Wire, f);
        let r = p.b.one(Port::WireHost);
        assert_eq!(
            (r.seg.flags, r.seg.dport, r.seg.seq),
            (RST | ACK, 8080, p.k())
        );
        assert_eq!(r.seg.ack, p.l1().wrapping_add(100));
        p.b.pass(6_000);
        assert_eq!(
            p.b.s.count_states(),
            [0, 0, 0, 1, 0],
            "no FCB ends on it alone"
        );
        // The stack found it out of order and challenges: the flow lives on.
        let f = host(
            8080,
            p.l1().wrapping_add(100),
            p.k(),
            ACK,
            510,
            ts(7000, 130),
            b"",
        );
        p.b.rx(Port::WireHost, f);
        assert_eq!(p.b.one(Port::Wire).seg.seq, p.s1().wrapping_add(100));
        p.b.pass(40_000);
        assert_eq!(p.b.s.flows(), 1);
    }
}

/// The client's RST comes at `off` from the number that the stack expects; the
/// FCB is then asked to end, by time and by a SYN of another connection.
fn reset_at(p: &mut Pair, off: i32) {
    let at = p.k().wrapping_add_signed(off);
    p.b.rx(Port::Wire, client(at, 0, RST, Build::default(), b""));
    let r = p.b.one(Port::WireHost);
    assert_eq!((r.seg.flags, r.seg.seq), (RST, at), "the stack judges");
}

#[test]
fn a_reset_that_is_not_exact_ends_no_fcb_by_itself_nor_with_a_syn() {
    // In the window, at its edges, below and above it: RFC 5961, section 3.2.
    for off in [1, 60_000, 0x7fff_ffff, -1, -40_000, i32::MIN] {
        let (c, s, l) = (1000, 9000, 50);
        let mut p = Pair::served(c, s, l);
        reset_at(&mut p, off);
        // In the window the stack challenges; the challenge passes.
        if off > 0 {
            let f = host(8080, p.l1(), p.k(), ACK, 510, ts(900, 130), b"");
            p.b.rx(Port::WireHost, f);
            let a = p.b.one(Port::Wire);
            assert_eq!((a.seg.flags, a.seg.seq, a.seg.ack), (ACK, p.s1(), p.k()));
        }
        p.b.pass(40_000);
        assert_eq!(p.b.s.count_states(), [0, 0, 0, 1, 0], "offset {off}");
        // (The filter completed the handshake meanwhile.)
        p.b.tx(Port::WireHost);
        // Whoever forged the RST forges a SYN behind it: the flow keeps its place.
        reset_at(&mut p, off);
        p.b.rx(Port::Wire, client(555, 0, SYN, syn_opts(900), b""));
        assert_eq!(p.b.one(Port::WireHost).seg.dport, 8080);
        assert_eq!(p.b.s.count_states(), [0, 0, 0, 1, 0], "offset {off}");
        let f = client(p.k(), p.s1(), ACK | PSH, ts(200, 900), b"on");
        p.b.rx(Port::Wire, f);
        assert_eq!(p.b.one(Port::WireHost).payload, b"on");
    }
}

#[test]
fn an_exact_reset_makes_room_for_the_clients_next_connection() {
    let mut p = Pair::served(1000, 9000, 50);
    reset_at(&mut p, 0);
    p.b.rx(Port::Wire, client(555, 0, SYN, syn_opts(900), b""));
    assert!(p.b.silent(), "node 1 owns it");
    assert_eq!(p.b.s.flows(), 0);
}

#[test]
fn a_reset_that_the_stack_does_not_contradict_frees_the_fcb_later() {
    let mut p = Pair::served(1000, 9000, 50);
    p.b.rx(Port::Wire, client(p.k(), 0, RST, Build::default(), b""));
    assert_eq!(p.b.one(Port::WireHost).seg.flags, RST);
    p.b.pass(29_000);
    assert_eq!(p.b.s.flows(), 1);
    p.b.pass(3_000);
    assert_eq!(p.b.s.flows(), 0);
}

#[test]
fn an_icmp_quote_is_translated_back_to_the_stacks_numbers() {
    for (c, s, l) in ISNS {
        let mut p = Pair::served(c, s, l);
        p.answer(1000);
        let quoted = Tcp {
            eth_dst: CLIENT_MAC,
            eth_src: p.b.v.wire_mac,
            src: VIP.into(),
            dst: CLIENT.into(),
            sport: 80,
            dport: CPORT,
            seq: p.s1().wrapping_add(300),
            ack: p.k(),
            flags: ACK,
            window: 1,
            opts: Build::default(),
            payload: &[0; 100],
        }
        .frame();
        let f = too_big(&quoted, 1400);
        p.a.rx(Port::Wire, f.clone());
        assert!(p.a.silent(), "the source has handed it over");
        assert_eq!(p.a.s.drops.get(Drop::HandedOver), 1);
        p.b.rx(Port::Wire, f);
        let g = p.b.tx(Port::WireHost).remove(0);
        assert_eq!(g[QUOTED..QUOTED + 2], 8080u16.to_be_bytes());
        assert_eq!(
            g[QUOTED + 4..QUOTED + 8],
            p.l1().wrapping_add(300).to_be_bytes()
        );
        assert!(icmp_checksum_ok(&g));
    }
}
