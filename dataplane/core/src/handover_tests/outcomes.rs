//! Refused, aborted, unknown; forgeries; orphans.

use super::*;

#[test]
fn refusals_leave_the_flow_intact() {
    let mut p = Pair::frozen(1000, 9000, 50);
    let k = p.k();
    p.splice_to(2);
    p.link();
    p.b.tx(Port::WireHost);
    let more = client(k, 9001, ACK | PSH, ts(140, 5010), b"more");
    p.a.rx(Port::Wire, more.clone());
    p.a.rx(
        Port::WireHost,
        host(8001, 9001, k, ACK, 400, ts(5050, 130), b""),
    );
    assert!(p.a.silent(), "frozen");
    p.b.rx(
        Port::WireHost,
        host(8080, 0, k, RST | ACK, 0, Build::default(), b""),
    );
    p.link();
    let e = p.a.events();
    assert!(
        matches!(
            e[..],
            [Event::Failed {
                fail: Fail::Refused(Reason::NobodyListens),
                ..
            }]
        ),
        "{e:?}"
    );
    assert_eq!(p.b.s.flows(), 0);
    assert_eq!(
        p.a.one(Port::Wire).seg.window,
        400,
        "the newest swallowed ACK goes out"
    );
    assert_eq!(
        p.a.one(Port::WireHost).payload,
        b"more",
        "and what was held goes in"
    );
    // The same flow can go elsewhere: here, to the node itself.
    p.a.rx(
        Port::WireHost,
        host(8001, 9001, k + 4, ACK, 400, ts(5051, 140), b""),
    );
    p.a.tx(Port::Wire);
    p.a.command(Command::Freeze {
        ticket: 1,
        client: sock(CLIENT, CPORT),
        local: sock(VIP, 8001),
    });
    p.a.events();
    p.req.extend_from_slice(b"more");
    p.splice_to(1);
    let syn = p.a.one(Port::WireHost);
    assert_eq!((syn.seg.dport, syn.payload.len()), (8080, GET.len() + 4));
}

#[test]
fn a_refused_handover_to_the_node_itself_leaves_the_flow_as_it_was() {
    let mut q = Pair::frozen(1000, 9000, 50);
    let k = q.k();
    q.splice_to(1);
    q.a.tx(Port::WireHost);
    q.a.rx(
        Port::WireHost,
        host(8080, 0, k, RST | ACK, 0, Build::default(), b""),
    );
    assert!(matches!(
        q.a.events()[..],
        [Event::Failed {
            fail: Fail::Refused(_),
            ..
        }]
    ));
    q.a.rx(
        Port::Wire,
        client(k, 9001, ACK | PSH, ts(150, 5010), &[b'u'; 1400]),
    );
    let h = q.a.one(Port::WireHost);
    assert_eq!(
        (h.seg.dport, h.seg.ack, h.payload.len()),
        (8001, 9001, 1400)
    );
    q.a.rx(
        Port::WireHost,
        host(8001, 9001, k + 1400, ACK, 400, ts(5060, 150), b""),
    );
    let w = q.a.one(Port::Wire);
    assert_eq!(
        (w.seg.seq, w.seg.ack, w.seg.ts_val()),
        (9001, k + 1400, Some(5060))
    );
}

#[test]
fn silence_is_refused_and_the_half_open_socket_reset() {
    let mut p = Pair::frozen(1000, 9000, 50);
    p.splice_to(2);
    p.link();
    p.b.tx(Port::WireHost);
    p.b.pass(61);
    let r: Vec<Seen> = p.b.tx(Port::WireHost).iter().map(|f| seen(f)).collect();
    assert!(r.iter().all(|s| s.seg.flags == RST));
    assert_eq!(
        r.iter().map(|s| s.seg.seq).collect::<Vec<_>>(),
        [1001, p.k()]
    );
    p.link();
    assert!(matches!(
        p.a.events()[..],
        [Event::Failed {
            fail: Fail::Refused(Reason::Silence),
            ..
        }]
    ));
}

#[test]
fn a_stack_that_breaks_a_promise_is_refused() {
    let mut p = Pair::frozen(1000, 9000, 50);
    p.splice_to(2);
    p.link();
    p.b.tx(Port::WireHost);
    let no_ts = Build {
        timestamps: None,
        ..synack_opts(0, 0)
    };
    p.b.rx(
        Port::WireHost,
        host(8080, 50, 1001, SYN | ACK, 65_160, no_ts, b""),
    );
    p.link();
    assert!(matches!(
        p.a.events()[..],
        [Event::Failed {
            fail: Fail::Refused(Reason::Options),
            ..
        }]
    ));
}

#[test]
fn a_stack_that_breaks_a_promise_with_the_request_in_hand_decides_nothing() {
    let mut p = Pair::frozen(1000, 9000, 50);
    p.splice_to(2);
    p.link();
    p.b.tx(Port::WireHost);
    let no_ts = Build {
        timestamps: None,
        ..synack_opts(0, 0)
    };
    p.b.rx(
        Port::WireHost,
        host(8080, 50, p.k(), SYN | ACK, 65_160, no_ts, b""),
    );
    p.link();
    assert!(p.a.events().is_empty(), "the application may have read it");
    p.a.pass(200);
    assert!(matches!(
        p.a.events()[..],
        [Event::Failed {
            fail: Fail::Unknown,
            ..
        }]
    ));
}

#[test]
fn an_abort_is_confirmed_and_a_late_syn_refused() {
    let mut p = Pair::frozen(1000, 9000, 50);
    p.splice_to(2);
    let late = p.a.tx(Port::Link);
    p.a.pass(101);
    let sent = p.a.tx(Port::Link);
    let abort = sent.last().unwrap().clone();
    p.b.rx(Port::Link, abort);
    p.link();
    assert!(matches!(
        p.a.events()[..],
        [Event::Failed {
            fail: Fail::Aborted,
            ..
        }]
    ));
    late.into_iter().for_each(|f| p.b.rx(Port::Link, f));
    assert!(p.b.tx(Port::WireHost).is_empty(), "never executed");
}

#[test]
fn unknown_resets_the_client_at_the_deadline_and_never_tries_again() {
    let mut p = Pair::frozen(1000, 9000, 50);
    p.splice_to(2);
    p.a.pass(152);
    p.a.tx(Port::Link);
    assert!(matches!(
        p.a.events()[..],
        [Event::Failed {
            fail: Fail::Unknown,
            ..
        }]
    ));
    p.a.pass(1_800);
    assert!(p.a.tx(Port::Wire).is_empty());
    p.a.pass(60);
    let r = p.a.one(Port::Wire);
    assert_eq!((r.seg.flags, r.seg.seq), (RST | ACK, 9001));
    p.a.rx(Port::Wire, client(p.k(), 9001, ACK, ts(200, 5010), b"x"));
    assert_eq!(
        p.a.one(Port::Wire).seg.flags,
        RST | ACK,
        "and again, should that be lost"
    );
    assert_eq!(p.a.s.counters.unknown_resets, 1);
}

#[test]
fn the_clients_acknowledgement_proves_acceptance() {
    let mut p = Pair::frozen(1000, 9000, 50);
    p.splice_to(2);
    p.a.pass(152);
    p.a.events();
    p.a.rx(Port::Wire, client(p.k(), 9500, ACK, ts(200, 5010), b""));
    p.a.pass(2_500);
    assert!(
        p.a.tx(Port::Wire).is_empty(),
        "no reset: somebody serves it"
    );
}

#[test]
fn forged_replayed_and_foreign_messages() {
    let mut p = Pair::frozen(1000, 9000, 50);
    p.splice_to(2);
    let syn = p.a.tx(Port::Link).remove(0);
    let mut forged = syn.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let (l4, end) = (tcp_at(&forged), forged.len());
    crate::wire::edit::write_tcp_checksum(&mut forged, l4, end);
    p.b.rx(Port::Link, forged);
    assert!(p.b.silent());
    assert_eq!(p.b.s.drops.get(Drop::BlockForged), 1);
    p.b.rx(Port::Link, syn.clone());
    assert_eq!(p.b.tx(Port::WireHost).len(), 1);
    p.b.rx(Port::Link, syn.clone());
    assert!(p.b.silent());
    assert_eq!(p.b.s.drops.get(Drop::BlockReplayed), 1);
    // Another start of this node knows nothing of it, and says so.
    let mut v = view(2, 1);
    v.incarnation = 99_999;
    let mut again = Node::new(v);
    again.rx(Port::Link, syn.clone());
    assert!(again.tx(Port::WireHost).is_empty());
    assert_eq!(again.one(Port::Link).seg.flags, RST | ACK);
    assert_eq!(again.s.drops.get(Drop::BlockIncarnation), 1);
    // Not a member: not heard.
    let mut v = view(2, 1);
    v.members.retain(|m| m.id != 1);
    let mut alone = Node::new(v);
    alone.rx(Port::Link, syn);
    assert!(alone.silent());
    assert_eq!(alone.s.drops.get(Drop::LinkStranger), 1);
}

#[test]
fn orphans_of_a_restarted_node_are_reset() {
    let mut p = served(1000, 9000, 50);
    p.a.rx(Port::Wire, client(p.k(), 9100, ACK, ts(150, 5012), b""));
    p.a.pass(1_000);
    p.a.v.members[1].known = Some(([2, 0, 0, 0, 1, 2], 2_000_000));
    p.a.pass(500);
    assert!(
        p.a.silent(),
        "its acknowledgements moved: somebody may serve it"
    );
    p.a.pass(2_500);
    let r = p.a.one(Port::Wire);
    assert_eq!((r.seg.flags, r.seg.seq), (RST | ACK, 9100));
    assert_eq!(p.a.s.counters.orphan_resets, 1);
}
