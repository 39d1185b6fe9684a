//! Tombstones, reused 4-tuples and orphans (PROTOCOL, section 6).

use super::*;

/// `frame` with another client port.
fn from_port(mut f: Vec<u8>, port: u16) -> Vec<u8> {
    f[L4..L4 + 2].copy_from_slice(&port.to_be_bytes());
    let end = f.len();
    edit::write_tcp_checksum(&mut f, L4, end);
    f
}

/// `frame` of a host to another client port.
fn to_port(mut f: Vec<u8>, port: u16) -> Vec<u8> {
    f[L4 + 2..L4 + 4].copy_from_slice(&port.to_be_bytes());
    let end = f.len();
    edit::write_tcp_checksum(&mut f, L4, end);
    f
}

/// Opens a flow of client port `port` at `a` and hands it over to `b`.
fn hand_over(a: &mut Node, b: &mut Node, port: u16) {
    a.rx(
        Port::Wire,
        from_port(client(1000, 0, SYN, syn_opts(100), b""), port),
    );
    let f = host(
        8001,
        9000,
        1001,
        SYN | ACK,
        65_160,
        synack_opts(5000, 100),
        b"",
    );
    a.rx(Port::WireHost, to_port(f, port));
    a.rx(
        Port::Wire,
        from_port(client(1001, 9001, ACK, ts(120, 5000), b""), port),
    );
    a.rx(
        Port::Wire,
        from_port(client(1001, 9001, ACK | PSH, ts(130, 5000), GET), port),
    );
    a.tx(Port::WireHost);
    a.tx(Port::Wire);
    let ticket = u64::from(port);
    a.command(Command::Freeze {
        ticket,
        client: sock(CLIENT, port),
        local: sock(VIP, 8001),
    });
    a.command(splice(ticket, sock(on_link(2u16), 8080), GET, false));
    carry(a, b);
    b.tx(Port::WireHost);
    let k = 1001 + GET.len() as u32;
    let f = host(8080, 50, k, SYN | ACK, 65_160, synack_opts(777, 130), b"");
    b.rx(Port::WireHost, to_port(f, port));
    carry(a, b);
    b.tx(Port::Wire);
}

pub(super) fn carry(a: &mut Node, b: &mut Node) {
    loop {
        let (x, y) = (a.tx(Port::Link), b.tx(Port::Link));
        if x.is_empty() && y.is_empty() {
            return;
        }
        x.into_iter().for_each(|f| b.rx(Port::Link, f));
        y.into_iter().for_each(|f| a.rx(Port::Link, f));
    }
}

fn done(n: &mut Node) -> Vec<u64> {
    n.events()
        .iter()
        .filter_map(|e| match e {
            Event::Done { ticket, .. } => Some(*ticket),
            _ => None,
        })
        .collect()
}

fn clients(n: &mut Node) -> Vec<u16> {
    n.command(Command::Flows {
        ticket: 0,
        limit: 99,
    });
    let e = n.events();
    let Some(Event::Flows { flows, .. }) = e.last() else {
        panic!("{e:?}")
    };
    let mut p: Vec<u16> = flows.iter().map(|f| f.client.port()).collect();
    p.sort_unstable();
    p
}

#[test]
fn the_cap_evicts_the_oldest_tombstone() {
    let (mut a, mut b) = (Node::new(view(1, 1)), Node::new(view(2, 1)));
    a.v.params.tombstones_max = 3;
    for port in 2001..=2005 {
        hand_over(&mut a, &mut b, port);
    }
    assert_eq!(done(&mut a), [2001, 2002, 2003, 2004, 2005]);
    assert_eq!(clients(&mut a), [2003, 2004, 2005]);
    assert_eq!(clients(&mut b), [2001, 2002, 2003, 2004, 2005]);
    // An evicted one no longer knows the flow's own SYN.
    a.rx(
        Port::Wire,
        from_port(client(1000, 0, SYN, syn_opts(100), b""), 2005),
    );
    assert!(a.silent());
    assert_eq!(a.s.drops.get(Drop::DuplicateSyn), 1);
}

#[test]
fn tombstones_that_are_gone_do_not_count_towards_the_cap() {
    let (mut a, mut b) = (Node::new(view(1, 1)), Node::new(view(2, 1)));
    a.v.params.tombstones_max = 2;
    for port in 2001..=2002 {
        hand_over(&mut a, &mut b, port);
    }
    // The client uses both ports again, so that their tombstones go.
    for port in 2001..=2002 {
        a.rx(
            Port::Wire,
            from_port(client(500_000, 0, SYN, syn_opts(100), b""), port),
        );
    }
    a.tx(Port::WireHost);
    assert_eq!(a.s.count_states(), [2, 0, 0, 0, 0]);
    hand_over(&mut a, &mut b, 2003);
    assert_eq!(done(&mut a), [2001, 2002, 2003], "each handover has an end");
    assert_eq!(a.s.count_states(), [2, 0, 0, 0, 1], "the newest stays");
}

#[test]
fn a_full_table_takes_its_room_from_tombstones() {
    let (mut a, mut b) = (Node::new(view(1, 1)), Node::new(view(2, 1)));
    hand_over(&mut a, &mut b, 2001);
    hand_over(&mut a, &mut b, 2002);
    a.v.params.half_open_max = 1_000;
    for port in 3000..3063 {
        a.rx(
            Port::Wire,
            from_port(client(1, 0, SYN, syn_opts(100), b""), port),
        );
    }
    assert_eq!(a.s.count_states(), [63, 0, 0, 0, 1]);
    a.rx(
        Port::Wire,
        from_port(client(1, 0, SYN, syn_opts(100), b""), 4000),
    );
    a.rx(
        Port::Wire,
        from_port(client(1, 0, SYN, syn_opts(100), b""), 4001),
    );
    assert_eq!(a.s.count_states(), [64, 0, 0, 0, 0]);
    assert_eq!(a.s.drops.get(Drop::FlowTableFull), 1);
}

#[test]
fn an_eviction_before_the_end_mark_is_acknowledged_still_ends_the_handover() {
    let (mut a, mut b) = (Node::new(view(1, 1)), Node::new(view(2, 1)));
    a.v.params.tombstones_max = 1;
    for port in [2001u16, 2002] {
        a.rx(
            Port::Wire,
            from_port(client(1000, 0, SYN, syn_opts(100), b""), port),
        );
        let f = host(
            8001,
            9000,
            1001,
            SYN | ACK,
            65_160,
            synack_opts(5000, 100),
            b"",
        );
        a.rx(Port::WireHost, to_port(f, port));
        a.rx(
            Port::Wire,
            from_port(client(1001, 9001, ACK | PSH, ts(120, 5000), GET), port),
        );
        let ticket = u64::from(port);
        a.command(Command::Freeze {
            ticket,
            client: sock(CLIENT, port),
            local: sock(VIP, 8001),
        });
        a.command(splice(ticket, sock(on_link(2u16), 8080), GET, false));
        a.tx(Port::Link)
            .into_iter()
            .for_each(|f| b.rx(Port::Link, f));
        let f = host(
            8080,
            50,
            1001 + GET.len() as u32,
            SYN | ACK,
            65_160,
            synack_opts(7, 120),
            b"",
        );
        b.rx(Port::WireHost, to_port(f, port));
    }
    // Both accepts come before either end mark is answered.
    b.tx(Port::Link)
        .into_iter()
        .for_each(|f| a.rx(Port::Link, f));
    carry(&mut a, &mut b);
    a.pass(1_000);
    assert_eq!(done(&mut a), [2001, 2002]);
    assert!(a.s.tickets.is_empty());
}

#[test]
fn a_new_syn_on_a_tombstone_is_its_bucket_owners() {
    // Node 1 has the tombstone; node 2 owns the buckets by now.
    let mut p = Pair::served(1000, 9000, 50);
    p.a.v.services = view(1, 2).services;
    p.a.v.general = view(1, 2).general;
    for isn in [999, 1001, 0x8000_0000, u32::MAX] {
        p.a.rx(Port::Wire, client(isn, 0, SYN, syn_opts(900), b""));
        assert!(p.a.silent(), "not the owner");
    }
    assert_eq!(p.a.s.drops.get(Drop::NotOwner), 4);
    // The flow's own SYN draws no answer here either.
    p.a.rx(Port::Wire, client(1000, 0, SYN, syn_opts(100), b""));
    assert!(p.a.silent());
    // Owner again: a lower ISN is no reason to drop it (clients behind NAT).
    p.a.v.services = view(1, 1).services;
    p.a.rx(Port::Wire, client(999, 0, SYN, syn_opts(900), b""));
    assert_eq!(p.a.one(Port::WireHost).seg.seq, 999);
    assert_eq!(p.a.s.count_states(), [1, 0, 0, 0, 0]);
}

#[test]
fn a_live_flow_gets_a_syn_of_another_isn_in_any_case() {
    // The destination does not own the bucket, but has the FCB.
    for (c, s, l) in ISNS {
        let mut p = Pair::served(c, s, l);
        p.b.rx(
            Port::Wire,
            client(c.wrapping_add(77), 0, SYN, syn_opts(900), b""),
        );
        let syn = p.b.one(Port::WireHost);
        assert_eq!((syn.seg.flags, syn.seg.dport), (SYN, 8080));
        p.b.rx(
            Port::WireHost,
            host(8080, p.l1(), p.k(), ACK, 510, ts(780, 130), b""),
        );
        let challenge = p.b.one(Port::Wire);
        assert_eq!(
            (challenge.seg.flags, challenge.seg.seq, challenge.seg.ack),
            (ACK, p.s1(), p.k())
        );
    }
}

/// The client's host starts anew while node 2 serves its old connection; node 1 owns the
/// new one.
#[test]
fn what_a_client_says_that_opened_anew_does_not_reach_its_old_stack() {
    for (c, s, l) in ISNS {
        for exact in [true, false] {
            let mut p = Pair::served(c, s, l);
            let isn = c.wrapping_add(70_000);
            p.b.rx(Port::Wire, client(isn, 0, SYN, syn_opts(900), b""));
            p.b.tx(Port::WireHost);
            let challenge = host(8080, p.l1(), p.k(), ACK, 510, ts(780, 130), b"");
            p.b.rx(Port::WireHost, challenge);
            let at = p.b.one(Port::Wire).seg.ack;
            let at = if exact { at } else { at.wrapping_add(9) };
            p.b.rx(Port::Wire, client(at, 0, RST, Build::default(), b""));
            let rst = p.b.one(Port::WireHost);
            assert_eq!((rst.seg.flags, rst.seg.seq), (RST, at), "the stack judges");
            let ends = p.b.tx(Port::Link).len();
            assert_eq!(ends, usize::from(exact), "the intake hears of the end");
            // The new connection's number lies where the old one's were.
            let first = isn.wrapping_add(1);
            let f = client(first, p.s1(), ACK | PSH, ts(905, 780), b"GET /");
            p.b.rx(Port::Wire, f);
            assert_eq!(p.b.tx(Port::WireHost).len(), usize::from(!exact));
            let f = host(8080, p.l1(), 0, RST, 0, Build::default(), b"");
            p.b.rx(Port::WireHost, f);
            assert_eq!(p.b.tx(Port::Wire).len(), usize::from(!exact));
            if exact {
                p.b.pass(6_000);
                assert_eq!(p.b.s.flows(), 0);
            }
        }
    }
}

#[test]
fn orphans_of_a_node_that_is_gone_are_reset_and_of_one_that_is_late_not() {
    let mut p = Pair::served(1000, 9000, 50);
    p.a.v.members[1].alive = false;
    p.a.pass(4_000);
    assert!(p.a.silent(), "dead is not yet gone");
    p.a.v.members[1].gone = true;
    p.a.pass(1_000);
    let r = p.a.one(Port::Wire);
    assert_eq!(
        (r.seg.flags, r.seg.seq, r.seg.ack),
        (RST | ACK, 9001, p.k())
    );
    // It was lost: the client speaks again and gets another.
    p.a.rx(Port::Wire, client(p.k(), 9001, ACK, ts(200, 5010), b"x"));
    assert_eq!(p.a.one(Port::Wire).seg.flags, RST | ACK);
    p.a.rx(Port::Wire, client(p.k(), 9001, RST, Build::default(), b""));
    assert!(p.a.silent(), "never RST against RST");
    p.a.pass(7_000);
    assert_eq!((p.a.s.counters.orphan_resets, p.a.s.flows()), (1, 0));
}
