//! Frames as devices with offloads deliver them: in several pieces, with partial
//! checksums, and as large as 64 KiB.

use super::testkit::*;
use crate::drops::Drop;
use crate::frame::{Checksum, Meta, Port};
use crate::seq;
use crate::wire::checksum;
use crate::wire::tcp::{ACK, FIN, PSH, SYN, Segment};
use crate::wire::{L3, l3};
use proptest::prelude::*;

const PARTIAL: Meta = Meta {
    checksum: Checksum::Partial,
    tso: Some(1448),
};

/// The field of a checksum that is left to an offload, as a stack fills it in: the
/// sum of the pseudo-header, not complemented.
fn pseudo(f: &[u8]) -> u16 {
    let Ok(L3::Ip(ip)) = l3(f) else {
        panic!("not IP")
    };
    checksum::fold(checksum::pseudo(&ip.src, &ip.dst, 6, ip.end - ip.l4))
}

/// `frame` as a stack hands it to a device with offloads.
fn unfinished(mut f: Vec<u8>) -> Vec<u8> {
    let Ok(L3::Ip(ip)) = l3(&f) else {
        panic!("not IP")
    };
    let sum = pseudo(&f);
    f[ip.l4 + 16..ip.l4 + 18].copy_from_slice(&sum.to_be_bytes());
    f
}

fn parsed(f: &[u8]) -> Segment {
    let Ok(L3::Ip(ip)) = l3(f) else {
        panic!("not IP")
    };
    Segment::parse(f, &ip).unwrap()
}

/// An intake's node that has sent 65,160 bytes in one frame.
#[test]
fn a_64_kib_frame_with_a_partial_checksum_is_translated_in_place() {
    for (c, s) in [(7, 9), (0xffff_fff0, 0x7fff_8000), (1, 0xffff_0010)] {
        let mut n = established(c, s);
        let body: Vec<u8> = (0..65_160u32).map(|i| (i * 7) as u8).collect();
        let (s1, c1) = (s.wrapping_add(1), c.wrapping_add(1));
        let f = host(8001, s1, c1, ACK | PSH, 502, ts(5001, 120), &body);
        let f = unfinished(f);
        n.rx_pieces(Port::WireHost, Pieces::of(&f, 3).with(PARTIAL));
        let out = n.out.ports[Port::Wire.index()].pop_front().unwrap();
        let meta = n.out.metas[Port::Wire.index()].pop_front().unwrap();
        assert_eq!(meta, PARTIAL, "what is left to do is known to the port");
        let seg = parsed(&out);
        assert_eq!((seg.sport, seg.seq, seg.len()), (80, s1, 65_160));
        assert_eq!(out[seg.data..], body[..], "not one byte is touched");
        assert_eq!(
            u16::from_be_bytes([out[seg.l4 + 16], out[seg.l4 + 17]]),
            pseudo(&out),
            "neither ports nor windows are in the pseudo-header"
        );
        // The client acknowledges the middle of it, then all of it.
        let end = s1.wrapping_add(65_160);
        for ack in [s1.wrapping_add(30_000), end] {
            n.rx(Port::Wire, client(c1, ack, ACK, ts(130, 5001), b""));
            assert_eq!(n.one(Port::WireHost).seg.ack, ack);
        }
        // Beyond what was sent an acknowledgement is brought back.
        let beyond = end.wrapping_add(5);
        n.rx(Port::Wire, client(c1, beyond, ACK, ts(131, 5001), b""));
        assert_eq!(n.one(Port::WireHost).seg.ack, end);
        // FIN counts behind the last byte of a large frame.
        let f = host(8001, end, c1, ACK | FIN, 502, ts(5002, 131), &body);
        n.rx_pieces(Port::WireHost, Pieces::of(&unfinished(f), 5).with(PARTIAL));
        let slot = n.s.slots.iter().find(|f| f.s_fin.is_some()).unwrap();
        let fin = end.wrapping_add(65_161);
        assert_eq!((slot.s_fin, slot.s_nxt), (Some(fin), fin));
        assert!(seq::lt(end, fin));
    }
}

/// The stack's SYN-ACK loses its ECN bits, which a checksum would cover.
#[test]
fn a_partial_syn_ack_keeps_its_field() {
    let mut n = Node::new(view(1, 1));
    n.rx(Port::Wire, client(7, 0, SYN, syn_opts(100), b""));
    n.one(Port::WireHost);
    let ecn = crate::wire::tcp::ECE;
    let f = host(
        8001,
        9,
        8,
        SYN | ACK | ecn,
        65_160,
        synack_opts(5000, 100),
        b"",
    );
    let meta = Meta {
        tso: None,
        ..PARTIAL
    };
    n.rx_pieces(Port::WireHost, Pieces::cut(&unfinished(f), &[]).with(meta));
    let out = n.tx(Port::Wire).remove(0);
    let seg = parsed(&out);
    assert_eq!((seg.flags, seg.window), (SYN | ACK, 59_776));
    assert_eq!(
        u16::from_be_bytes([out[L4 + 16], out[L4 + 17]]),
        pseudo(&out)
    );
}

/// A device's word counts for as much as a sum, either way.
#[test]
fn what_a_device_says_of_a_checksum_is_believed() {
    let data = || client(8, 10, ACK | PSH, ts(130, 5000), b"GET / HTTP/1.1\r\n\r\n");
    let mut wrong = data();
    let last = wrong.len() - 1;
    wrong[last] ^= 1;
    let said = |checksum| Meta {
        checksum,
        tso: None,
    };
    for (frame, said, passes) in [
        (data(), said(Checksum::Unknown), true),
        (wrong.clone(), said(Checksum::Unknown), false),
        (data(), said(Checksum::Bad), false),
        (wrong.clone(), said(Checksum::Bad), false),
        (wrong, said(Checksum::Good), true),
    ] {
        let mut n = established(7, 9);
        n.rx_pieces(Port::Wire, Pieces::of(&frame, 7).with(said));
        assert_eq!(n.tx(Port::WireHost).len(), usize::from(passes), "{said:?}");
        assert_eq!(n.s.drops.get(Drop::BadChecksum), u64::from(!passes));
    }
}

/// Everything that left the nodes of one handover whose frames came in pieces by
/// `seed`, and their drops.
type Trace = (Vec<Vec<u8>>, Vec<u64>);

fn handover(seed: u64, body: &[u8], answer: &[u8]) -> Trace {
    let mut trace = Vec::new();
    let mut nodes = [Node::new(view(1, 1)), Node::new(view(2, 1))];
    nodes.iter_mut().for_each(|n| n.out.seed = seed);
    let [a, b] = &mut nodes;
    let step = |n: &mut Node, port, frame: Vec<u8>, trace: &mut Vec<Vec<u8>>| {
        n.rx(port, frame);
        for p in [Port::Wire, Port::WireHost] {
            trace.extend(n.tx(p));
        }
    };
    let (c, s, l) = (0xffff_fff0u32, 0x7fff_fff0u32, 77u32);
    let (c1, s1) = (c.wrapping_add(1), s.wrapping_add(1));
    let k = c1.wrapping_add(body.len() as u32);
    step(
        a,
        Port::Wire,
        client(c, 0, SYN, syn_opts(100), b""),
        &mut trace,
    );
    let f = host(8001, s, c1, SYN | ACK, 65_160, synack_opts(5000, 100), b"");
    step(a, Port::WireHost, f, &mut trace);
    a.pass(20);
    step(
        a,
        Port::Wire,
        client(c1, s1, ACK, ts(120, 5000), b""),
        &mut trace,
    );
    for (i, part) in body.chunks(1448).enumerate() {
        let at = c1.wrapping_add(1448 * i as u32);
        step(
            a,
            Port::Wire,
            client(at, s1, ACK | PSH, ts(130, 5000), part),
            &mut trace,
        );
    }
    step(
        a,
        Port::WireHost,
        host(8001, s1, k, ACK, 500, ts(5010, 130), b""),
        &mut trace,
    );
    let (client_at, local) = (sock(CLIENT, CPORT), sock(VIP, 8001));
    a.command(crate::command::Command::Freeze {
        ticket: 1,
        client: client_at,
        local,
    });
    // Held at the source, forwarded at the cut over.
    let late = client(
        k,
        s1,
        ACK | PSH,
        ts(131, 5010),
        &body[..body.len().min(1448)],
    );
    step(a, Port::Wire, late, &mut trace);
    a.command(crate::command::Command::Splice {
        ticket: 1,
        dest: sock(on_link(2u16), 8080),
        request: body.to_vec(),
        taken: 0,
        client_fin: false,
    });
    let mut carry = |a: &mut Node, b: &mut Node| {
        loop {
            let (x, y) = (a.tx(Port::Link), b.tx(Port::Link));
            if x.is_empty() && y.is_empty() {
                return;
            }
            x.into_iter().for_each(|f| b.rx(Port::Link, f));
            y.into_iter().for_each(|f| a.rx(Port::Link, f));
            for n in [&mut *a, &mut *b] {
                for p in [Port::Wire, Port::WireHost] {
                    trace.extend(n.tx(p));
                }
            }
        }
    };
    carry(a, b);
    let f = host(8080, l, k, SYN | ACK, 65_160, synack_opts(777, 130), b"");
    b.rx(Port::WireHost, f);
    // Above the hole that the forwarded frame fills: it waits.
    let above = k.wrapping_add(body.len().min(1448) as u32);
    let behind = client(
        above,
        s1,
        ACK | PSH,
        ts(132, 5010),
        &body[..body.len().min(700)],
    );
    b.rx(Port::Wire, behind);
    carry(a, b);
    assert!(
        a.events()
            .iter()
            .any(|e| matches!(e, crate::command::Event::Done { .. })),
        "the handover is done"
    );
    let f = host(8080, l + 1, k, ACK | PSH, 510, ts(779, 130), answer);
    step(b, Port::WireHost, f, &mut trace);
    let end = s1.wrapping_add(answer.len() as u32);
    step(
        b,
        Port::Wire,
        client(k, end, ACK, ts(140, 800), b""),
        &mut trace,
    );
    let drops = nodes.iter().flat_map(|n| n.s.drops.0).collect();
    (trace, drops)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// In how many pieces frames come changes nothing at all.
    #[test]
    fn pieces_change_nothing(
        seed in 1u64.., body in 1usize..9000, answer in 1usize..65_000,
    ) {
        let body: Vec<u8> = (0..body).map(|i| i as u8 | 1).collect();
        let answer: Vec<u8> = (0..answer).map(|i| (i / 3) as u8).collect();
        // Not `prop_assert_eq`, which would print every byte.
        let (pieces, whole) = (handover(seed, &body, &answer), handover(0, &body, &answer));
        prop_assert_eq!(&pieces.1, &whole.1, "drops");
        let lengths = |t: &Trace| t.0.iter().map(Vec::len).collect::<Vec<_>>();
        prop_assert_eq!(lengths(&pieces), lengths(&whole));
        prop_assert!(pieces.0 == whole.0, "the same lengths, other bytes");
    }
}

/// The application answers before the replay is acknowledged: its frame waits with
/// all that is known of it, and leaves whole behind the cut over.
#[test]
fn a_large_early_answer_waits_with_its_metadata() {
    let mut a = established(1000, 9000);
    let mut b = Node::new(view(2, 1));
    let body = vec![b'r'; 3000];
    for (i, part) in body.chunks(1448).enumerate() {
        let at = 1001 + 1448 * i as u32;
        a.rx(Port::Wire, client(at, 9001, ACK | PSH, ts(130, 5000), part));
    }
    a.rx(
        Port::WireHost,
        host(8001, 9001, 4001, ACK, 500, ts(5010, 130), b""),
    );
    a.command(crate::command::Command::Freeze {
        ticket: 1,
        client: sock(CLIENT, CPORT),
        local: sock(VIP, 8001),
    });
    a.command(crate::command::Command::Splice {
        ticket: 1,
        dest: sock(on_link(2u16), 8080),
        request: body,
        taken: 0,
        client_fin: false,
    });
    for f in a.tx(Port::Link) {
        b.rx(Port::Link, f);
    }
    for f in b.tx(Port::Link) {
        a.rx(Port::Link, f);
    }
    for f in a.tx(Port::Link) {
        b.rx(Port::Link, f);
    }
    b.tx(Port::WireHost);
    // Fast Open is off: the SYN alone is acknowledged, and the data follows.
    b.rx(
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
    assert!(!b.tx(Port::WireHost).is_empty());
    let answer = vec![b'a'; 14_480];
    let f = unfinished(host(8080, 51, 4001, ACK | PSH, 510, ts(779, 130), &answer));
    b.rx_pieces(Port::WireHost, Pieces::of(&f, 9).with(PARTIAL));
    let sent: Vec<Vec<u8>> = b.out.ports[Port::Wire.index()].iter().cloned().collect();
    let at = sent.iter().position(|f| parsed(f).len() == answer.len());
    let at = at.expect("the answer left at the cut over");
    assert_eq!(b.out.metas[Port::Wire.index()][at], PARTIAL);
    let seg = parsed(&sent[at]);
    assert_eq!((seg.sport, seg.seq, seg.ack), (80, 9001, 4001));
    assert_eq!(
        u16::from_be_bytes([sent[at][L4 + 16], sent[at][L4 + 17]]),
        pseudo(&sent[at])
    );
}

/// What a frozen socket sent last goes out on an unfreeze as it came.
#[test]
fn a_swallowed_large_frame_goes_out_whole() {
    let mut n = established(7, 9);
    n.command(crate::command::Command::Freeze {
        ticket: 1,
        client: sock(CLIENT, CPORT),
        local: sock(VIP, 8001),
    });
    let body = vec![b'z'; 5000];
    let f = unfinished(host(8001, 10, 8, ACK | PSH, 500, ts(5010, 120), &body));
    n.rx_pieces(Port::WireHost, Pieces::of(&f, 4).with(PARTIAL));
    assert!(n.tx(Port::Wire).is_empty());
    n.command(crate::command::Command::Unfreeze { ticket: 1 });
    assert_eq!(n.out.metas[Port::Wire.index()], [PARTIAL]);
    let out = n.tx(Port::Wire).remove(0);
    assert_eq!((parsed(&out).len(), parsed(&out).sport), (5000, 80));
}

/// Held frames of a wire with jumbo frames fit, whatever the link's MTU.
#[test]
fn jumbo_frames_are_held_over_a_link_without() {
    let mut v = view(1, 1);
    v.params.wire_mtu = 9000;
    let mut n = established_at(v, 7, 9);
    let body = vec![b'j'; 9000 - (L4 - 14) - 32];
    n.rx(Port::Wire, client(8, 10, ACK | PSH, ts(130, 5000), &body));
    assert_eq!(n.one(Port::WireHost).payload, body);
    assert_eq!((n.s.hold_use().0, n.s.drops.get(Drop::HoldFull)), (1, 0));
}
