//! Whatever the outcome, a shard gets back all that a handover took.

use super::*;
use crate::wire::build::Tcp;

/// Splice ports that are free.
fn free_ports(n: &mut Node) -> usize {
    n.s.ports.unused()
}

/// Nothing of any handover is left: tickets, ports, buffers.
fn nothing_taken(n: &mut Node) {
    assert!(n.s.tickets.is_empty());
    assert_eq!(free_ports(n), 1000);
    assert_eq!(n.s.hold_use().0, 0);
    assert!(n.s.loopback.is_empty());
    assert!(n.s.slots.iter().all(|f| f.source.is_none()));
}

/// And no flow either.
fn empty(n: &mut Node) {
    nothing_taken(n);
    assert_eq!(
        (n.s.flows(), n.s.table.len(), n.s.count(State::HalfOpen)),
        (0, 0, 0)
    );
    assert!(
        n.s.slots
            .iter()
            .all(|f| f.state == State::Free && f.dest.is_none())
    );
    n.pass(1_000);
    assert!(n.s.timers.is_empty(), "no timer outlives its slot");
}

/// Client and server of the flow at `a` are done.
fn ends_here(p: &mut Pair) {
    let k = p.k();
    p.a.rx(
        Port::WireHost,
        host(8001, 9001, k, RST | ACK, 0, Build::default(), b""),
    );
    p.a.pass(5_600);
}

fn more_from_the_client(p: &mut Pair) {
    let f = client(p.k(), p.s1(), ACK | PSH, ts(140, 5010), b"more");
    p.a.rx(Port::Wire, f.clone());
    p.b.rx(Port::Wire, f);
}

#[test]
fn accepted() {
    let mut p = Pair::spliced(1000, 9000, 50);
    assert_eq!(free_ports(&mut p.a), 999);
    more_from_the_client(&mut p);
    assert!(p.a.s.hold_use().0 > 0 && p.b.s.hold_use().0 > 0);
    p.cut_over();
    nothing_taken(&mut p.a);
    nothing_taken(&mut p.b);
    p.b.rx(
        Port::WireHost,
        host(8080, 51, p.k(), RST | ACK, 0, Build::default(), b""),
    );
    p.link();
    p.b.pass(5_600);
    p.a.pass(60_600);
    empty(&mut p.a);
    empty(&mut p.b);
}

#[test]
fn accepted_by_the_node_itself() {
    let mut p = Pair::frozen(1000, 9000, 50);
    p.splice_to(1);
    p.a.tx(Port::WireHost);
    more_from_the_client(&mut p);
    let f = p.synack(synack_opts(777, 130));
    p.a.rx(Port::WireHost, f);
    assert!(matches!(p.a.events()[..], [Event::Done { node: 1, .. }]));
    nothing_taken(&mut p.a);
    p.a.rx(
        Port::WireHost,
        host(8080, 51, p.k(), RST | ACK, 0, Build::default(), b""),
    );
    p.a.pass(5_600);
    empty(&mut p.a);
}

#[test]
fn refused() {
    for node in [1, 2] {
        let mut p = Pair::frozen(1000, 9000, 50);
        p.splice_to(node);
        p.link();
        more_from_the_client(&mut p);
        let rst = host(8080, 0, p.k(), RST | ACK, 0, Build::default(), b"");
        if node == 1 { &mut p.a } else { &mut p.b }.rx(Port::WireHost, rst);
        p.link();
        let e = p.a.events();
        assert!(
            matches!(
                e[..],
                [Event::Failed {
                    fail: Fail::Refused(_),
                    ..
                }]
            ),
            "{e:?}"
        );
        p.a.rx(
            Port::WireHost,
            host(8001, 9001, p.k() + 4, ACK, 500, ts(5020, 140), b""),
        );
        nothing_taken(&mut p.a);
        empty(&mut p.b);
        ends_here(&mut p);
        empty(&mut p.a);
    }
}

#[test]
fn unfrozen_before_any_splice() {
    let mut p = Pair::frozen(1000, 9000, 50);
    more_from_the_client(&mut p);
    p.a.command(Command::Unfreeze { ticket: 1 });
    p.a.rx(
        Port::WireHost,
        host(8001, 9001, p.k() + 4, ACK, 500, ts(5020, 140), b""),
    );
    nothing_taken(&mut p.a);
    ends_here(&mut p);
    empty(&mut p.a);
}

#[test]
fn aborted() {
    let mut p = Pair::frozen(1000, 9000, 50);
    p.splice_to(2);
    p.a.pass(101);
    let abort = p.a.tx(Port::Link).pop().unwrap();
    p.b.rx(Port::Link, abort);
    p.link();
    let e = p.a.events();
    assert!(
        matches!(
            e[..],
            [Event::Failed {
                fail: Fail::Aborted,
                ..
            }]
        ),
        "{e:?}"
    );
    nothing_taken(&mut p.a);
    empty(&mut p.b);
    ends_here(&mut p);
    empty(&mut p.a);
}

#[test]
fn unknown() {
    let mut p = Pair::frozen(1000, 9000, 50);
    p.splice_to(2);
    p.a.pass(152);
    assert!(matches!(
        p.a.events()[..],
        [Event::Failed {
            fail: Fail::Unknown,
            ..
        }]
    ));
    more_from_the_client(&mut p);
    p.a.pass(1_900);
    nothing_taken(&mut p.a);
    p.a.pass(5_600);
    empty(&mut p.a);
}

#[test]
fn an_end_mark_that_nobody_answers() {
    let mut p = Pair::spliced(1000, 9000, 50);
    let f = p.synack(synack_opts(777, 130));
    p.b.rx(Port::WireHost, f);
    p.b.tx(Port::Link)
        .into_iter()
        .for_each(|f| p.a.rx(Port::Link, f));
    p.a.pass(1_000);
    assert!(matches!(p.a.events()[..], [Event::Done { .. }]));
    nothing_taken(&mut p.a);
}

#[test]
fn incomplete_at_the_destination() {
    let a = established(1000, 9000);
    let mut p = Pair::frozen_on(a, Node::new(view(2, 1)), 1000, 9000, 50);
    let large = vec![b'x'; 20_000];
    p.a.command(splice(1, sock(on_link(2u16), 8080), &large, false));
    let syn = p.a.tx(Port::Link).remove(0);
    p.b.rx(Port::Link, syn);
    p.b.tx(Port::Link);
    let f = client(p.k(), p.s1(), ACK | PSH, ts(140, 5010), b"more");
    p.b.rx(Port::Wire, f);
    assert_eq!(p.b.s.hold_use().0, 1);
    p.b.pass(152);
    empty(&mut p.b);
}

#[test]
fn the_papers_form() {
    let plain = Build {
        mss: Some(1460),
        ..Build::default()
    };
    for (accept, trusted) in [(true, true), (false, true), (true, false)] {
        let mut v = view(1, 1);
        v.params.paper_form = trusted;
        let a = established_as(v, 1000, 9000, plain, plain);
        let mut p = Pair::frozen_on(a, Node::new(view(2, 1)), 1000, 9000, 50);
        p.splice_to(2);
        let port = p.a.one(Port::Link).seg.sport;
        let reply = |seq, ack, flags| {
            Tcp {
                eth_dst: [2, 0, 0, 0, 1, 1],
                eth_src: [2, 0, 0, 0, 1, 2],
                src: on_link(2u16).into(),
                dst: on_link(1u16).into(),
                sport: 8080,
                dport: port,
                seq,
                ack,
                flags,
                window: 64_000,
                opts: Build::default(),
                payload: b"",
            }
            .frame()
        };
        p.a.rx(Port::Link, reply(9000, 1001, SYN | ACK));
        if accept {
            p.a.rx(Port::Link, reply(9001, p.k() + 1, ACK));
        } else {
            p.a.rx(Port::Link, reply(0, 1001, RST | ACK));
        }
        let e = p.a.events();
        // Option 32 has no room for an IPv6 client: the peer cannot know whom it serves.
        match (accept, trusted && CLIENT.is_ipv4()) {
            (true, true) => assert!(matches!(e[..], [Event::Done { .. }]), "{e:?}"),
            (false, true) => {
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
                p.a.pass(2_000);
            }
            (_, false) => assert!(
                matches!(
                    e[..],
                    [Event::Failed {
                        fail: Fail::PaperForm,
                        ..
                    }]
                ),
                "{e:?}"
            ),
        }
        nothing_taken(&mut p.a);
    }
}

#[test]
fn a_bare_source_that_gives_up() {
    let mut v = view(2, 1);
    v.params.paper_form = true;
    let mut b = Node::new(v);
    let bare = |seq, flags, opts| {
        Tcp {
            eth_dst: [2, 0, 0, 0, 1, 2],
            eth_src: [2, 0, 0, 0, 1, 1],
            src: on_link(1u16).into(),
            dst: on_link(2u16).into(),
            sport: 3333,
            dport: 8080,
            seq,
            ack: 0,
            flags,
            window: 0,
            opts,
            payload: b"",
        }
        .frame()
    };
    let splice = Build {
        mss: Some(1460),
        splice: Some(crate::wire::options::SpliceOption {
            client: CLIENT_V4,
            port: CPORT,
            init_seq: 9000,
        }),
        ..Build::default()
    };
    for _ in 0..3 {
        b.rx(Port::Link, bare(1000, SYN, splice));
        assert_eq!(b.s.flows(), 1);
        b.rx(Port::Link, bare(1001, RST, Build::default()));
        empty(&mut b);
        // Its alias is gone as well: nothing more is known of that connection.
        let before = b.s.drops.get(Drop::LinkStranger);
        b.rx(Port::Link, bare(1001, ACK, Build::default()));
        assert_eq!(b.s.drops.get(Drop::LinkStranger), before + 1);
    }
}
