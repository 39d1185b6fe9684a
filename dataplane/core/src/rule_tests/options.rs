//! Options in force, and options that are not let in (rules 3 and 6).

use super::*;
use crate::wire::options::kind;
use dts_proto::block;

/// The state in a splice SYN.
fn state_of(f: &[u8]) -> block::SpliceState {
    let Ok(L3::Ip(ip)) = l3(f) else {
        panic!("not IP")
    };
    let s = Segment::parse(f, &ip).unwrap();
    let head = (s.seq, s.ack, s.flags);
    let c = crate::handover::message::context(&ip.src, &ip.dst, s.sport, s.dport, head);
    let keys = [block::LinkKey::new(1, KEY)];
    let (_, fields, _) = block::open(&f[s.data..s.end], &keys, &c).unwrap();
    fields.state.unwrap()
}

#[test]
fn what_the_stack_did_not_agree_to_is_not_in_force() {
    let full = synack_opts(5000, 100);
    let cases = [
        (full, (true, true, true)),
        (
            Build {
                sack_permitted: false,
                ..full
            },
            (false, true, true),
        ),
        (
            Build {
                timestamps: None,
                ..full
            },
            (true, false, true),
        ),
        (
            Build {
                wscale: None,
                ..full
            },
            (true, true, false),
        ),
        (
            Build {
                mss: Some(1460),
                ..Build::default()
            },
            (false, false, false),
        ),
    ];
    for (synack, (sack, stamps, wscale)) in cases {
        let a = established_as(view(1, 1), 1000, 9000, syn_opts(100), synack);
        let mut p = Pair::frozen_on(a, Node::new(view(2, 1)), 1000, 9000, 50);
        p.splice_to(2);
        let f = p.a.tx(Port::Link).remove(0);
        let st = state_of(&f);
        assert_eq!((st.sack, st.timestamps, st.wscale), (sack, stamps, wscale));
        let shift = if wscale { 7 } else { 0 };
        assert_eq!((st.client_shift, st.promised_shift), (shift, shift));
        p.b.rx(Port::Link, f.clone());
        let replayed = p.b.one(Port::WireHost);
        for o in [seen(&f).seg.opts, replayed.seg.opts] {
            let has = (o.sack_permitted, o.timestamps.is_some(), o.wscale.is_some());
            assert_eq!(has, (sack, stamps, wscale));
            assert_eq!(o.mss, Some(1460));
        }
        // Shut where the round trip can be told (rule 5); never scaled (rule 3).
        let window = match (stamps, wscale) {
            (true, _) => 0,
            (false, true) => 64_256,
            (false, false) => 502,
        };
        assert_eq!(replayed.seg.window, window);
        // The destination's stack agrees to what it is offered: the flow moves.
        let o = Build {
            sack_permitted: sack,
            timestamps: stamps.then_some((777, 130)),
            wscale: wscale.then_some(9),
            ..full
        };
        let f = p.synack(o);
        p.b.rx(Port::WireHost, f);
        p.link();
        assert!(matches!(p.a.events()[..], [Event::Done { .. }]));
        let t = if stamps {
            ts(778, 130)
        } else {
            Build::default()
        };
        p.b.rx(
            Port::WireHost,
            host(8080, 51, p.k(), ACK | PSH, 64, t, b"200"),
        );
        let r = p.b.one(Port::Wire);
        assert_eq!(r.seg.window, if wscale { 256 } else { 64 });
        assert_eq!(r.seg.ts_val(), stamps.then_some(5011));
    }
}

#[test]
fn what_the_client_did_not_offer_is_not_in_force() {
    let bare = Build {
        mss: Some(1200),
        ..Build::default()
    };
    let a = established_as(view(1, 1), 1000, 9000, bare, bare);
    let mut p = Pair::frozen_on(a, Node::new(view(2, 1)), 1000, 9000, 50);
    p.splice_to(2);
    let st = state_of(&p.a.tx(Port::Link).remove(0));
    assert!(!st.sack && !st.timestamps && !st.wscale);
    assert_eq!((st.mss, st.client_shift, st.promised_shift), (1200, 0, 0));
}

#[test]
fn authenticated_tcp_is_dropped_and_counted() {
    let md5 = [[kind::MD5, 18].as_slice(), &[0xaa; 16]].concat();
    let ao = [[kind::AO, 16].as_slice(), &[0xaa; 14]].concat();
    for o in [md5, ao] {
        let mut n = Node::new(view(1, 1));
        let syn = client(1000, 0, SYN, Build::default(), b"");
        n.rx(Port::Wire, with_options(&syn, &o));
        assert!(n.silent());
        assert_eq!((n.s.drops.get(Drop::TcpAuth), n.s.flows()), (1, 0));
        // On a flow that began without it: a forgery or an error, never the stack's.
        let mut n = established(1000, 9000);
        let data = client(1001, 9001, ACK | PSH, Build::default(), GET);
        n.rx(Port::Wire, with_options(&data, &o));
        assert!(n.silent());
        assert_eq!(n.s.drops.get(Drop::TcpAuth), 1);
        assert_eq!(n.s.hold_use().0, 0);
    }
}

#[test]
fn splice_option_on_the_wire_is_dropped_in_every_state() {
    let o = [[kind::SPLICE, 12].as_slice(), &[0x11; 10]].concat();
    let mut p = Pair::served(1000, 9000, 50);
    let plain = client(p.k(), 9001, ACK | PSH, Build::default(), b"x");
    for f in [
        with_options(&plain, &o),
        with_options(&plain, &[kind::SPLICE, 3, 0]),
    ] {
        for n in [&mut p.a, &mut p.b] {
            n.rx(Port::Wire, f.clone());
            assert!(n.silent());
        }
    }
    assert_eq!(p.a.s.drops.get(Drop::Option32OnWire), 2);
    assert_eq!(p.b.s.drops.get(Drop::Option32OnWire), 2);
}

/// Bits that ECN and its successor use in a TCP header: ECE, CWR, and AE beside the
/// header's length.
fn with_ecn(mut f: Vec<u8>, bits: u8) -> Vec<u8> {
    f[L4 + 12] |= bits >> 2 & 1;
    f[L4 + 13] |= (bits & 3) << 6;
    let end = f.len();
    edit::write_tcp_checksum(&mut f, L4, end);
    f
}

/// Both IP bits of ECN.
fn with_codepoint(mut f: Vec<u8>, bits: u8) -> Vec<u8> {
    if CLIENT.is_ipv6() {
        f[15] |= bits << 4;
    } else {
        f[15] |= bits;
        let total = f.len() - 14;
        edit::set_ip_len(&mut f, total);
    }
    f
}

#[test]
fn ecn_is_cleared_on_syns_both_ways_and_nothing_else_is_touched() {
    for bits in 0..8 {
        for code in 0..4 {
            let mut n = Node::new(view(1, 1));
            let clean = client(1000, 0, SYN, syn_opts(100), b"");
            let f = with_codepoint(with_ecn(clean.clone(), bits), code);
            n.rx(Port::Wire, f);
            let got = n.tx(Port::WireHost).remove(0);
            seen(&got);
            // But for the port and the addresses below IP, as if it had not been there.
            let mut want = with_codepoint(clean, code);
            want[L4 + 2..L4 + 4].copy_from_slice(&8001u16.to_be_bytes());
            let end = want.len();
            edit::write_tcp_checksum(&mut want, L4, end);
            assert_eq!(got[14..], want[14..], "SYN, {bits:#05b}, {code}");

            let clean = host(8001, 9000, 1001, SYN | ACK, 500, synack_opts(1, 100), b"");
            let f = with_codepoint(with_ecn(clean.clone(), bits), code);
            n.rx(Port::WireHost, f);
            let got = n.tx(Port::Wire).remove(0);
            seen(&got);
            let mut want = with_codepoint(clean, code);
            want[L4..L4 + 2].copy_from_slice(&80u16.to_be_bytes());
            edit::write_tcp_checksum(&mut want, L4, end);
            assert_eq!(got[14..], want[14..], "SYN-ACK, {bits:#05b}, {code}");

            // Nothing was agreed, so what comes later says nothing; it passes.
            let f = with_ecn(client(1001, 9001, ACK, ts(120, 1), b""), bits);
            let f = with_codepoint(f, code);
            n.rx(Port::Wire, f.clone());
            let got = n.tx(Port::WireHost).remove(0);
            seen(&got);
            assert_eq!(
                (got[15], &got[L4 + 12..L4 + 14]),
                (f[15], &f[L4 + 12..L4 + 14])
            );
        }
    }
}
