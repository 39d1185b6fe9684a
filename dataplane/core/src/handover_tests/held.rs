//! Held, copied and lost segments.

use super::*;

#[test]
fn lost_link_messages_are_repaired() {
    let req: Vec<u8> = vec![b'x'; 9_000];
    let mut p = Pair::frozen_with(
        established(1000, 9000),
        Node::new(view(2, 1)),
        (1000, 9000, 50),
        &req,
    );
    p.splice_to(2);
    assert_eq!(p.a.tx(Port::Link).len(), 1, "the first SYN is lost");
    let mut lost = 0;
    let mut accepted = false;
    for round in 0..100 {
        p.a.pass(1);
        p.b.pass(1);
        for (i, f) in p.a.tx(Port::Link).into_iter().enumerate() {
            if (i + round) % 3 == 0 {
                lost += 1
            } else {
                p.b.rx(Port::Link, f)
            }
        }
        for (i, f) in p.b.tx(Port::Link).into_iter().enumerate() {
            if (i + round) % 4 == 1 {
                lost += 1
            } else {
                p.a.rx(Port::Link, f)
            }
        }
        if !p.b.tx(Port::WireHost).is_empty() && !accepted {
            accepted = true;
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
        }
    }
    assert!(lost > 3);
    let e = p.a.events();
    assert!(matches!(e[..], [Event::Done { .. }]), "{e:?}");
    assert_eq!(p.b.s.counters.replay_fast_open, 1, "executed once");
}

#[test]
fn held_frames_are_released_once_and_only_from_k_on() {
    let mut p = Pair::frozen(1000, 9000, 50);
    let k = p.k();
    // While frozen: a segment that straddles K, and one behind it, then a pure ACK.
    let straddle = client(
        k.wrapping_sub(5),
        9001,
        ACK | PSH,
        ts(140, 5010),
        b"\n\r\n\r\nBODY1",
    );
    let behind = client(k + 5, 9001, ACK | PSH, ts(141, 5010), b"-BODY2");
    p.a.rx(Port::Wire, straddle.clone());
    p.splice_to(2);
    p.link();
    p.b.tx(Port::WireHost);
    for n in [&mut p.a, &mut p.b] {
        n.rx(Port::Wire, behind.clone());
    }
    assert!(p.a.tx(Port::WireHost).is_empty(), "held at the source");
    p.b.rx(
        Port::WireHost,
        host(8080, 50, k, SYN | ACK, 65_160, synack_opts(777, 130), b""),
    );
    p.link();
    p.b.told();
    let mut got: Vec<(u32, Vec<u8>)> =
        p.b.tx(Port::WireHost)
            .iter()
            .map(|f| seen(f))
            .map(|s| (s.seg.seq, s.payload))
            .collect();
    got.sort();
    assert_eq!(
        got,
        [(k, b"BODY1"[..].to_vec()), (k + 5, b"-BODY2".to_vec())]
    );
    assert_eq!(p.a.s.hold_use().0 + p.b.s.hold_use().0, 0);
}

#[test]
fn what_the_stack_had_not_processed_is_forwarded_from_the_copies() {
    let mut a = established(1000, 9000);
    a.rx(
        Port::Wire,
        client(1001, 9001, ACK | PSH, ts(130, 5000), GET),
    );
    a.rx(
        Port::WireHost,
        host(
            8001,
            9001,
            1001 + GET.len() as u32,
            ACK,
            500,
            ts(5010, 130),
            b"",
        ),
    );
    // This one is on its way to the stack when the drain reads the socket.
    let k = 1001 + GET.len() as u32;
    a.rx(
        Port::Wire,
        client(k, 9001, ACK | PSH, ts(131, 5010), b"late body"),
    );
    a.tx(Port::WireHost);
    a.tx(Port::Wire);
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
        host(8080, 50, k, SYN | ACK, 65_160, synack_opts(777, 130), b""),
    );
    p.link();
    p.b.told();
    let f = p.b.one(Port::WireHost);
    assert_eq!((f.seg.seq, f.payload.as_slice()), (k, &b"late body"[..]));
}

#[test]
fn half_close_before_the_cut() {
    let mut a = established(1000, 9000);
    a.rx(
        Port::Wire,
        client(1001, 9001, ACK | PSH | FIN, ts(130, 5000), GET),
    );
    let k = 1001 + GET.len() as u32;
    a.rx(
        Port::WireHost,
        host(8001, 9001, k + 1, ACK, 500, ts(5010, 130), b""),
    );
    a.tx(Port::Wire);
    a.tx(Port::WireHost);
    a.command(Command::Freeze {
        ticket: 1,
        client: sock(CLIENT, CPORT),
        local: sock(VIP, 8001),
    });
    a.events();
    let mut p = Pair::of(a, 1000, 9000);
    p.splice_fin(2, true);
    p.link();
    p.b.tx(Port::WireHost);
    p.b.rx(
        Port::WireHost,
        host(8080, 50, k, SYN | ACK, 65_160, synack_opts(777, 130), b""),
    );
    p.link();
    let fin = p.b.told().seg;
    assert_eq!((fin.flags, fin.seq, fin.ack), (ACK | FIN, k, 51));
    p.b.rx(
        Port::WireHost,
        host(8080, 51, k, ACK | PSH, 510, ts(779, 130), b"200"),
    );
    assert_eq!(p.b.one(Port::Wire).seg.seq, 9001);
    p.b.rx(Port::Wire, client(k + 1, 9004, ACK, ts(150, 5012), b""));
    let ack = p.b.one(Port::WireHost).seg;
    assert_eq!((ack.seq, ack.ack), (k + 1, 54));
}

#[test]
fn copies_are_released_in_a_handover_to_the_node_itself() {
    let mut a = established(1000, 9000);
    let k = 1001 + GET.len() as u32;
    a.rx(
        Port::Wire,
        client(1001, 9001, ACK | PSH, ts(130, 5000), GET),
    );
    a.rx(
        Port::Wire,
        client(k, 9001, ACK | PSH, ts(131, 5000), b"late"),
    );
    a.tx(Port::WireHost);
    a.command(Command::Freeze {
        ticket: 1,
        client: sock(CLIENT, CPORT),
        local: sock(VIP, 8001),
    });
    a.events();
    a.rx(
        Port::Wire,
        client(k + 4, 9001, ACK | PSH, ts(132, 5000), b"r"),
    );
    let mut p = Pair::of(a, 1000, 9000);
    p.splice_to(1);
    p.a.tx(Port::WireHost);
    p.a.rx(
        Port::WireHost,
        host(8080, 50, k, SYN | ACK, 65_160, synack_opts(777, 130), b""),
    );
    p.a.told();
    let mut got: Vec<_> =
        p.a.tx(Port::WireHost)
            .iter()
            .map(|f| seen(f))
            .map(|s| (s.seg.seq, s.payload))
            .collect();
    got.sort();
    assert_eq!(got, [(k, b"late".to_vec()), (k + 4, b"r".to_vec())]);
}

/// The splice of a request of `len` bytes has come, and more of it was asked for.
fn asked_for_more(len: usize) -> Pair {
    let req: Vec<u8> = vec![b'x'; len];
    let mut p = Pair::frozen_with(
        established(1000, 9000),
        Node::new(view(2, 1)),
        (1000, 9000, 50),
        &req,
    );
    p.splice_to(2);
    p.a.tx(Port::Link)
        .into_iter()
        .for_each(|f| p.b.rx(Port::Link, f));
    p.b.tx(Port::Link)
        .into_iter()
        .for_each(|f| p.a.rx(Port::Link, f));
    p
}

#[test]
fn a_hole_in_a_large_request_is_asked_for_once() {
    let mut p = asked_for_more(50_000);
    let mut data = p.a.tx(Port::Link);
    assert_eq!(data.len(), 16, "a window, and no more");
    data.remove(3);
    data.into_iter().for_each(|f| p.b.rx(Port::Link, f));
    let asked = p.b.tx(Port::Link);
    assert_eq!(asked.len(), 1, "one question for one hole");
    asked.into_iter().for_each(|f| p.a.rx(Port::Link, f));
    p.link();
    assert!(
        p.a.s.counters.data_segments <= 16 + 36,
        "sent again from the hole on, once: {}",
        p.a.s.counters.data_segments
    );
    assert_eq!(p.a.s.counters.link_repeats, 0);
    assert!(!p.b.tx(Port::WireHost).is_empty(), "the request is whole");
}

#[test]
fn a_destination_that_is_slow_to_answer_is_not_flooded() {
    let mut p = asked_for_more(59_000);
    // It hears everything, and what it says waits.
    let mut most = 0;
    let mut waiting = Vec::new();
    for _ in 0..60 {
        p.a.pass(1);
        let x = p.a.tx(Port::Link);
        most = most.max(x.len());
        x.into_iter().for_each(|f| p.b.rx(Port::Link, f));
        waiting.extend(p.b.tx(Port::Link));
    }
    // A window, then a splice and half a window after 5, 15, 35 and 55 ms.
    assert_eq!(most, 16);
    assert_eq!(p.a.s.counters.link_repeats, 4);
    assert_eq!(p.a.s.counters.data_segments, 16 + 4 * 8);
    waiting.into_iter().for_each(|f| p.a.rx(Port::Link, f));
    p.link();
    assert!(!p.b.tx(Port::WireHost).is_empty(), "the request is whole");
    assert!(p.a.s.counters.data_segments < 16 + 4 * 8 + 16 + 44);
}
