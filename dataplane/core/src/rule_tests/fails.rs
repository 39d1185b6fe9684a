//! Every way in which a handover is not begun, and what it leaves behind.

use super::*;

/// The flow goes on at the proxy: what it sends passes, and so does the client.
fn lives_on(p: &mut Pair) {
    assert_eq!(p.a.s.count_states(), [0, 1, 0, 0, 0]);
    let (k, s1) = (p.k(), p.s1());
    p.a.rx(Port::Wire, client(k, s1, ACK | PSH, ts(160, 5010), b"on"));
    let h = p.a.tx(Port::WireHost);
    let h = seen(h.last().expect("reaches the proxy"));
    assert_eq!((h.seg.dport, h.payload.as_slice()), (8001, &b"on"[..]));
    let next = k.wrapping_add(2);
    p.a.rx(
        Port::WireHost,
        host(8001, s1, next, ACK, 500, ts(5020, 160), b""),
    );
    let w = p.a.tx(Port::Wire);
    assert_eq!(seen(w.last().unwrap()).seg.ack, next);
}

fn failed_with(p: &mut Pair) -> Fail {
    match p.a.events()[..] {
        [Event::Failed { ticket: 1, fail }] => fail,
        ref e => panic!("{e:?}"),
    }
}

#[test]
fn each_bad_splice_unfreezes_and_says_why() {
    let here = sock(on_link(2u16), 8080);
    let large = vec![b'x'; 60_001];
    let less = &GET[..GET.len() - 1];
    let cases: [(SocketAddr, &[u8], bool, Fail); 6] = [
        (here, less, false, Fail::Unaccounted),
        (here, b"", true, Fail::Unaccounted),
        (here, &large, false, Fail::TooLarge),
        (sock(on_link(9u16), 8080), GET, false, Fail::BadDestination),
        (sock(on_link(2u16), 80), GET, false, Fail::BadDestination),
        (sock(on_link(2u16), 8001), GET, false, Fail::BadDestination),
    ];
    for (c, s, l) in ISNS {
        for (dest, request, fin, want) in cases {
            let mut p = Pair::frozen(c, s, l);
            p.a.command(splice(1, dest, request, fin));
            assert_eq!(failed_with(&mut p), want);
            assert!(p.a.tx(Port::Link).is_empty(), "nobody was asked");
            lives_on(&mut p);
        }
    }
}

#[test]
fn the_largest_request_and_a_byte_of_fin_are_within_the_limits() {
    let mut p = Pair::frozen(1000, 9000, 50);
    p.a.command(splice(1, sock(on_link(2u16), 8080), &[b'x'; 60_000], false));
    assert!(p.a.events().is_empty());
    assert_eq!(p.a.tx(Port::Link).len(), 1);
    let mut p = Pair::frozen(1000, 9000, 50);
    // K - 1 bytes and the FIN account for everything that was acknowledged.
    let less = &GET[..GET.len() - 1];
    p.a.command(splice(1, sock(on_link(2u16), 8080), less, true));
    assert!(p.a.events().is_empty());
}

#[test]
fn a_dead_member_is_unreachable_and_so_is_one_never_heard_of() {
    for known in [false, true] {
        let mut p = Pair::frozen(1000, 9000, 50);
        p.a.v.members[1].alive = false;
        if !known {
            p.a.v.members[1].known = None;
        }
        p.splice_to(2);
        assert_eq!(failed_with(&mut p), Fail::Unreachable);
        lives_on(&mut p);
    }
}

#[test]
fn a_member_that_takes_nothing_new_is_handed_nothing() {
    let mut p = Pair::frozen(1000, 9000, 50);
    p.a.v.members[1].takes = !1;
    p.splice_to(2);
    assert_eq!(failed_with(&mut p), Fail::Unreachable);
    lives_on(&mut p);
    // What a node has already it may keep.
    let mut p = Pair::frozen(1000, 9000, 50);
    p.a.v.members[0].takes = 0;
    p.splice_to(1);
    p.a.tx(Port::WireHost);
    let f = p.synack(synack_opts(777, 130));
    p.a.rx(Port::WireHost, f);
    assert!(matches!(p.a.events()[..], [Event::Done { node: 1, .. }]));
}

#[test]
fn a_server_byte_that_is_under_way_is_unaccounted() {
    let mut p = Pair::frozen(1000, 9000, 50);
    p.a.command(Command::Unfreeze { ticket: 1 });
    let f = host(8001, 9001, p.k(), ACK | PSH, 500, ts(5020, 130), b"100");
    p.a.rx(Port::WireHost, f);
    p.a.tx(Port::Wire);
    p.a.command(freeze(1));
    p.a.events();
    p.splice_to(2);
    assert_eq!(failed_with(&mut p), Fail::Unaccounted);
}

#[test]
fn nothing_may_have_been_acknowledged_that_does_not_move() {
    // One byte less was drained than the client was acknowledged; with its FIN, which
    // takes a number of its own, the sum is right again.
    for (c, s, l) in ISNS {
        for (missing, fin, fails) in [(0, false, false), (1, false, true), (1, true, false)] {
            let mut p = Pair::frozen(c, s, l);
            p.req.truncate(GET.len() - missing);
            p.splice_fin(2, fin);
            if fails {
                assert_eq!(failed_with(&mut p), Fail::Unaccounted);
                assert!(p.a.tx(Port::Link).is_empty(), "nothing left the node");
                p.req = GET.to_vec();
                lives_on(&mut p);
            } else {
                assert_eq!(p.a.tx(Port::Link).len(), 1);
                assert!(p.a.events().is_empty());
            }
        }
    }
}

#[test]
fn unknown_flows_cannot_be_frozen() {
    let mut n = Node::new(view(1, 1));
    n.command(freeze(7));
    assert!(matches!(
        n.events()[..],
        [Event::Failed {
            ticket: 7,
            fail: Fail::NoFlow
        }]
    ));
    let mut n = established(1000, 9000);
    for (client, local) in [
        (sock(CLIENT, CPORT + 1), sock(VIP, 8001)),
        (sock(CLIENT, CPORT), sock(VIP, 80)),
        (sock(CLIENT, CPORT), sock(VIP, 8080)),
        (sock(CLIENT, CPORT), sock(on_wire(1), 8001)),
    ] {
        n.command(Command::Freeze {
            ticket: 8,
            client,
            local,
        });
        assert!(matches!(
            n.events()[..],
            [Event::Failed {
                ticket: 8,
                fail: Fail::NoFlow
            }]
        ));
    }
    // Half-open, served and handed over flows are nobody's to freeze.
    let mut n = Node::new(view(1, 1));
    n.rx(Port::Wire, client(1000, 0, SYN, syn_opts(100), b""));
    n.command(freeze(7));
    assert!(matches!(
        n.events()[..],
        [Event::Failed {
            fail: Fail::NoFlow,
            ..
        }]
    ));
    let mut p = Pair::served(1000, 9000, 50);
    for n in [&mut p.a, &mut p.b] {
        n.command(freeze(7));
        assert!(matches!(
            n.events()[..],
            [Event::Failed {
                fail: Fail::NoFlow,
                ..
            }]
        ));
    }
}

#[test]
fn a_second_freeze_is_busy_and_harms_nothing() {
    let mut p = Pair::frozen(1000, 9000, 50);
    p.a.command(freeze(2));
    assert!(matches!(
        p.a.events()[..],
        [Event::Failed {
            ticket: 2,
            fail: Fail::Busy
        }]
    ));
    p.splice_to(2);
    p.a.command(freeze(3));
    assert!(matches!(
        p.a.events()[..],
        [Event::Failed {
            ticket: 3,
            fail: Fail::Busy
        }]
    ));
    p.link();
    assert_eq!(p.b.one(Port::WireHost).seg.flags, SYN);
    p.cut_over();
}

#[test]
fn a_second_splice_or_an_unfreeze_cannot_recall_the_first() {
    // The destination may have given the request to its application: to go on here
    // as well would execute it twice.
    for recall in [
        Command::Unfreeze { ticket: 1 },
        splice(1, sock(on_link(1u16), 8080), GET, false),
    ] {
        let mut p = Pair::spliced(1000, 9000, 50);
        let text = format!("{recall:?}");
        p.a.command(recall);
        assert_eq!(
            p.a.s.count_states(),
            [0, 0, 1, 0, 0],
            "still held after {text}"
        );
        assert!(p.a.tx(Port::WireHost).is_empty());
        p.a.events();
        p.cut_over();
    }
}

#[test]
fn a_splice_behind_the_deadline_of_its_freeze_was_aborted() {
    let mut p = Pair::frozen(1000, 9000, 50);
    p.a.pass(149);
    assert!(p.a.events().is_empty());
    p.a.pass(2);
    assert_eq!(failed_with(&mut p), Fail::Aborted);
    p.splice_to(2);
    assert_eq!(failed_with(&mut p), Fail::Aborted);
    lives_on(&mut p);
}

#[test]
fn no_free_splice_port_is_busy() {
    let mut v = view(1, 1);
    v.params.splice_ports = (61_000, 61_000);
    let a = established_at(v, 1000, 9000);
    let mut p = Pair::frozen_on(a, Node::new(view(2, 1)), 1000, 9000, 50);
    p.a.s.ports.take(99);
    p.splice_to(2);
    assert_eq!(failed_with(&mut p), Fail::Busy);
    lives_on(&mut p);
}
