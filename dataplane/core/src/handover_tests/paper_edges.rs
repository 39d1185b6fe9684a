//! The paper's bare form where something is lost, refused or out of place.

use super::*;
use crate::command::Fail;
use crate::table::Table;
use crate::time::Span;
use dts_proto::block::Reason;

const NONE: Build = Build {
    mss: None,
    sack_permitted: false,
    timestamps: None,
    wscale: None,
    splice: None,
};

fn trusting(node: u16) -> Node {
    let mut v = view(node, 1);
    v.params.paper_form = true;
    Node::new(v)
}

/// A destination whose stack has answered the SYN.
fn open() -> Node {
    let mut b = trusting(2);
    b.rx(Port::Link, syn());
    b.tx(Port::WireHost);
    b.rx(
        Port::WireHost,
        host(8080, 50, 1001, SYN | ACK, 64_240, NONE, b""),
    );
    assert_eq!(b.one(Port::Link).seg.flags, SYN | ACK);
    b
}

/// One that serves the flow.
fn served() -> Node {
    let mut b = open();
    b.rx(Port::Link, bare(1001, 9001, ACK | PSH, NONE, GET));
    let k = 1001 + GET.len() as u32;
    b.rx(Port::WireHost, host(8080, 51, k, ACK, 64_000, NONE, b""));
    b.rx(Port::Link, bare(k, 9001, ACK | FIN, NONE, b""));
    b.tx(Port::Link);
    b.tx(Port::WireHost);
    b.tx(Port::Wire);
    assert_eq!(b.s.counters.replay_paper, 1);
    b
}

/// A source that has sent its splice SYN, and the port that it came from; whether
/// the client has timestamps.
fn spliced(timestamps: bool) -> (Pair, u16) {
    spliced_with(timestamps, true, GET, false)
}

/// The same; whether the form is spoken, the request, and whether the client's FIN is
/// behind it.
fn spliced_with(timestamps: bool, paper: bool, request: &[u8], fin: bool) -> (Pair, u16) {
    let mut v = view(1, 1);
    v.params.paper_form = paper;
    let a = if timestamps {
        established_at(v, 1000, 9000)
    } else {
        let plain = Build {
            mss: Some(1460),
            ..NONE
        };
        established_as(v, 1000, 9000, plain, plain)
    };
    let mut p = Pair::frozen_with(a, Node::new(view(2, 1)), (1000, 9000, 50), request);
    p.splice_fin(2, fin);
    let port = p.a.one(Port::Link).seg.sport;
    (p, port)
}

/// The destination's bare answer.
fn reply(from: u16, dport: u16, seq: u32, ack: u32, flags: u8) -> Vec<u8> {
    Tcp {
        eth_dst: [2, 0, 0, 0, 1, 1],
        eth_src: [2, 0, 0, 0, 1, 2],
        src: on_link(2u16).into(),
        dst: on_link(1u16).into(),
        sport: from,
        dport,
        seq,
        ack,
        flags,
        window: 64_000,
        opts: NONE,
        payload: b"",
    }
    .frame()
}

fn failed(n: &mut Node) -> Fail {
    let e = n.events();
    let [Event::Failed { ticket: 1, fail }] = e[..] else {
        panic!("{e:?}")
    };
    fail
}

#[test]
fn a_syn_that_comes_again_is_answered_again_and_given_once() {
    let mut b = open();
    b.rx(Port::Link, syn());
    assert_eq!(b.one(Port::Link).seg.flags, SYN | ACK);
    assert!(b.silent(), "the stack has it");
}

#[test]
fn before_the_stack_has_answered_so_does_the_filter_not() {
    let mut b = trusting(2);
    b.rx(Port::Link, syn());
    b.tx(Port::WireHost);
    b.rx(Port::Link, syn());
    b.rx(Port::Link, bare(1001, 9001, ACK, NONE, b""));
    assert!(b.silent());
    assert_eq!(b.s.drops.get(Drop::LinkStale), 1);
}

#[test]
fn a_live_flow_of_this_node_is_not_replaced() {
    let mut b = served();
    // The same connection by another splice.
    let mut again = syn();
    let l4 = if again[12..14] == [8, 0] { 34 } else { 54 };
    again[l4..l4 + 2].copy_from_slice(&3334u16.to_be_bytes());
    let end = again.len();
    crate::wire::edit::write_tcp_checksum(&mut again, l4, end);
    b.rx(Port::Link, again);
    let r = b.one(Port::Link).seg;
    assert_eq!((r.flags, r.dport), (RST | ACK, 3334));
    assert_eq!(b.s.flows(), 1);
}

#[test]
fn a_source_that_gives_up_resets_what_the_stack_has() {
    let mut b = open();
    b.rx(Port::Link, bare(1001, 9001, RST, NONE, b""));
    let r = b.one(Port::WireHost).seg;
    assert_eq!((r.flags, r.seq, r.dport), (RST, 1001, 8080));
    assert_eq!(b.s.flows(), 0);
    b.rx(Port::Link, bare(1001, 9001, ACK, NONE, b"late"));
    assert!(b.silent(), "nobody knows the flow");
}

#[test]
fn a_stack_that_resets_is_a_refusal() {
    let mut b = open();
    b.rx(Port::Link, bare(1001, 9001, ACK | PSH, NONE, GET));
    b.tx(Port::WireHost);
    let f = host(8080, 51, 1001, RST | ACK, 0, NONE, b"");
    b.rx(Port::WireHost, f);
    assert_eq!(b.one(Port::Link).seg.flags, RST | ACK);
    assert_eq!(b.s.flows(), 0);
}

#[test]
fn what_has_no_ack_or_comes_after_the_end_is_not_given() {
    let mut b = open();
    b.rx(Port::Link, bare(1001, 9001, PSH, NONE, GET));
    assert!(b.silent());
    let mut b = served();
    let k = 1001 + GET.len() as u32;
    b.rx(Port::Link, bare(k, 9001, ACK | FIN, NONE, b""));
    assert_eq!(
        b.one(Port::Link).seg.ack,
        k + 1,
        "the acknowledgement again"
    );
    assert!(b.silent());
}

#[test]
fn an_end_mark_waits_for_the_stack() {
    let mut b = open();
    b.rx(Port::Link, bare(1001, 9001, ACK | PSH | FIN, NONE, GET));
    assert_eq!(b.one(Port::WireHost).payload, GET);
    assert!(b.silent(), "not acknowledged by the stack");
    let k = 1001 + GET.len() as u32;
    b.rx(Port::WireHost, host(8080, 51, 1010, ACK, 64_000, NONE, b""));
    assert_eq!(b.one(Port::Link).seg.ack, 1010);
    b.rx(Port::WireHost, host(8080, 51, k, ACK, 64_000, NONE, b""));
    let acks: Vec<u32> = b.tx(Port::Link).iter().map(|f| seen(f).seg.ack).collect();
    assert_eq!(acks, [k, k + 1]);
    assert_eq!(b.s.counters.replay_paper, 1);
}

#[test]
fn a_segment_for_another_worker_is_passed_on() {
    let mut there = None;
    for worker in 0..2 {
        let mut b = trusting(2);
        b.s.worker = worker;
        b.s.workers = 2;
        b.rx(Port::Link, syn());
        if !b.out.handed.is_empty() {
            assert!(b.silent());
            b.rx(Port::Link, bare(1001, 9001, ACK, NONE, b""));
            there = Some((worker, b.out.handed));
        }
    }
    let (worker, handed) = there.expect("one of two workers has not the flow");
    assert_eq!(handed.len(), 2, "the SYN, and what follows it");
    assert!(
        handed
            .iter()
            .all(|(w, port, _)| (*w, *port) == (1 - worker, Port::Link))
    );
}

#[test]
fn a_source_takes_a_reset_for_a_refusal() {
    let (mut p, port) = spliced(false);
    p.a.rx(Port::Link, reply(8080, port, 0, 1001, RST | ACK));
    assert_eq!(failed(&mut p.a), Fail::Refused(Reason::NobodyListens));
}

#[test]
fn timestamps_do_not_go_by_the_bare_form() {
    let (mut p, port) = spliced(true);
    p.a.rx(Port::Link, reply(8080, port, 9000, 1001, SYN | ACK));
    assert_eq!(p.a.one(Port::Link).seg.flags, RST);
    assert_eq!(failed(&mut p.a), Fail::PaperForm);
}

#[test]
fn who_is_not_the_destination_is_not_heard() {
    let (mut p, port) = spliced(false);
    p.a.rx(Port::Link, reply(80, port, 9000, 1001, SYN | ACK));
    p.a.rx(Port::Link, reply(8081, port, 0, 1001, RST | ACK));
    // An answer to something else.
    p.a.rx(Port::Link, reply(8080, port, 9000, 1002, SYN | ACK));
    p.a.rx(Port::Link, reply(8080, port, 9000, 1001, SYN));
    assert!(p.a.events().is_empty());
    assert!(p.a.silent());
}

#[test]
fn data_is_sent_again_until_the_deadline_and_then_nobody_knows() {
    let (mut p, port) = spliced(false);
    p.a.rx(Port::Link, reply(8080, port, 9000, 1001, SYN | ACK));
    assert_eq!(p.a.one(Port::Link).payload, GET);
    p.a.rx(Port::Link, reply(8080, port, 9001, 1001, ACK));
    p.a.rx(Port::Link, reply(8080, port, 9001, 1001, PSH));
    p.a.pass(40);
    let again = p.a.tx(Port::Link);
    assert!(!again.is_empty());
    assert!(again.iter().all(|f| seen(f).payload == GET));
    // Part of it is there: only the rest is sent again.
    p.a.rx(Port::Link, reply(8080, port, 9001, 1011, ACK));
    p.a.tx(Port::Link);
    p.a.pass(40);
    assert!(
        p.a.tx(Port::Link)
            .iter()
            .all(|f| seen(f).payload == GET[10..])
    );
    p.a.now = p.a.now + Span::millis(150);
    p.a.pass(1);
    assert_eq!(
        seen(p.a.tx(Port::Link).last().expect("a RST")).seg.flags,
        RST
    );
    assert_eq!(failed(&mut p.a), Fail::Unknown);
}

#[test]
fn a_reset_after_data_leaves_the_outcome_unknown() {
    let (mut p, port) = spliced(false);
    p.a.rx(Port::Link, reply(8080, port, 9000, 1001, SYN | ACK));
    p.a.rx(Port::Link, reply(8080, port, 9001, 1001, RST | ACK));
    assert_eq!(failed(&mut p.a), Fail::Unknown);
}

#[test]
fn a_clients_fin_does_not_go_by_the_bare_form() {
    let (mut p, port) = spliced_with(false, true, GET, true);
    p.a.rx(Port::Link, reply(8080, port, 9000, 1001, SYN | ACK));
    assert_eq!(p.a.one(Port::Link).seg.flags, RST);
    assert_eq!(failed(&mut p.a), Fail::PaperForm);
}

#[test]
fn where_the_form_is_off_only_a_syn_ack_tells_that_the_peer_knows_no_other() {
    let (mut p, port) = spliced_with(false, false, GET, false);
    for flags in [ACK, SYN, RST | ACK] {
        p.a.rx(Port::Link, reply(8080, port, 9000, 1001, flags));
        assert!(p.a.silent() && p.a.events().is_empty());
    }
    p.a.rx(Port::Link, reply(8080, port, 9000, 1001, SYN | ACK));
    assert_eq!(p.a.one(Port::Link).seg.flags, RST);
    assert_eq!(failed(&mut p.a), Fail::PaperForm);
    assert_eq!(p.a.s.drops.get(Drop::PaperForm), 4);
}

#[test]
fn another_member_or_another_answer_is_not_heard() {
    let (mut p, port) = spliced(false);
    let mut f = reply(8080, port, 9000, 1001, SYN | ACK);
    let l4 = tcp_at(&f);
    // From node 3 instead of 2: the last byte of the source address.
    let last = if l4 == 34 { 29 } else { 37 };
    f[last] = 3;
    let end = f.len();
    crate::wire::edit::set_ip_len(&mut f, end - 14);
    crate::wire::edit::write_tcp_checksum(&mut f, l4, end);
    p.a.rx(Port::Link, f);
    assert_eq!(p.a.s.drops.get(Drop::LinkStranger), 1);
    p.a.rx(Port::Link, reply(8080, port, 9001, 1001, ACK));
    assert_eq!(p.a.s.drops.get(Drop::LinkStale), 1);
    assert!(p.a.silent() && p.a.events().is_empty());
}

#[test]
fn an_acknowledgement_beyond_the_end_mark_ends_nothing() {
    let (mut p, port) = spliced(false);
    p.a.rx(Port::Link, reply(8080, port, 9000, 1001, SYN | ACK));
    p.a.tx(Port::Link);
    let k = p.k();
    p.a.rx(Port::Link, reply(8080, port, 9001, k + 2, ACK));
    assert!(p.a.silent() && p.a.events().is_empty());
    p.a.rx(Port::Link, reply(8080, port, 9001, k + 1, ACK));
    assert!(matches!(p.a.events()[..], [Event::Done { .. }]));
}

#[test]
fn a_request_of_several_segments_ends_with_one_mark_and_the_mark_is_repeated_alone() {
    let request = vec![b'r'; 4_000];
    let (mut p, port) = spliced_with(false, true, &request, false);
    p.a.rx(Port::Link, reply(8080, port, 9000, 1001, SYN | ACK));
    let sent: Vec<Seen> = p.a.tx(Port::Link).iter().map(|f| seen(f)).collect();
    let flags: Vec<u8> = sent.iter().map(|s| s.seg.flags & FIN).collect();
    assert_eq!(flags, [0, 0, FIN]);
    let bytes: Vec<u8> = sent.into_iter().flat_map(|s| s.payload).collect();
    assert_eq!(bytes, request);
    let k = p.k();
    p.a.rx(Port::Link, reply(8080, port, 9001, k, ACK));
    assert!(p.a.silent(), "the mark is under way");
    p.a.pass(12);
    let mark = p.a.one(Port::Link);
    assert_eq!((mark.seg.flags & FIN, mark.seg.seq), (FIN, k));
    assert!(mark.payload.is_empty());
}

#[test]
fn a_stack_that_repeats_its_syn_ack_opens_the_source_again() {
    let mut b = open();
    let f = host(8080, 50, 1001, SYN | ACK, 64_240, NONE, b"");
    b.rx(Port::WireHost, f);
    let again = b.one(Port::Link).seg;
    assert_eq!((again.flags, again.seq, again.ack), (SYN | ACK, 9000, 1001));
    assert!(b.silent());
}

#[test]
fn a_source_that_knows_only_the_paper_hears_of_no_end() {
    let mut b = served();
    let k = 1001 + GET.len() as u32;
    b.rx(Port::WireHost, host(8080, 51, k, RST | ACK, 0, NONE, b""));
    assert_eq!(b.one(Port::Wire).seg.flags, RST | ACK);
    assert!(b.silent());
}

#[test]
fn a_bare_segment_of_a_flow_that_came_otherwise_is_stale() {
    let mut p = Pair::spliced(1000, 9000, 50);
    p.b.v.params.paper_form = true;
    p.cut_over();
    // The same client by a bare splice: refused, for it is served.
    p.b.rx(Port::Link, syn());
    assert_eq!(p.b.one(Port::Link).seg.flags, RST | ACK);
    let before = p.b.s.drops.get(Drop::LinkStale);
    p.b.rx(Port::Link, bare(1001, 9001, ACK, NONE, b"x"));
    assert!(p.b.tx(Port::WireHost).is_empty());
    assert_eq!(p.b.s.drops.get(Drop::LinkStale), before + 1);
    // And while it is frozen for another handover.
    p.b.command(Command::Freeze {
        ticket: 2,
        client: sock(CLIENT, CPORT),
        local: sock(VIP, 8080),
    });
    p.b.rx(Port::Link, bare(1001, 9001, ACK, NONE, b"x"));
    assert!(p.b.tx(Port::WireHost).is_empty());
    assert_eq!(p.b.s.drops.get(Drop::LinkStale), before + 2);
}

#[test]
fn a_large_request_is_repeated_a_window_at_a_time() {
    let request = vec![b'r'; 40_000];
    let (mut p, port) = spliced_with(false, true, &request, false);
    p.a.rx(Port::Link, reply(8080, port, 9000, 1001, SYN | ACK));
    assert_eq!(p.a.tx(Port::Link).len(), 16);
    p.a.pass(12);
    let again = p.a.tx(Port::Link);
    assert_eq!(again.len(), 16);
    assert!(again.iter().all(|f| !seen(f).seg.has(FIN)));
}

#[test]
fn a_bare_answer_to_an_abort_tells_nothing_where_the_form_is_off() {
    let (mut p, port) = spliced_with(false, false, GET, false);
    p.a.pass(102);
    p.a.tx(Port::Link);
    p.a.rx(Port::Link, reply(8080, port, 9000, 1001, SYN | ACK));
    assert!(p.a.silent() && p.a.events().is_empty());
    assert_eq!(p.a.s.drops.get(Drop::PaperForm), 1);
}

#[test]
fn a_splice_that_found_no_room_leaves_no_flow() {
    let mut b = trusting(2);
    b.s.table = Table::new(0);
    b.rx(Port::Link, syn());
    assert_eq!(b.one(Port::Link).seg.flags, RST | ACK);
    b.rx(Port::Link, bare(1001, 9001, ACK, NONE, b"x"));
    assert!(b.silent());
    assert_eq!(b.s.drops.get(Drop::LinkStale), 1);
}

#[test]
fn a_segment_for_another_worker_that_finds_no_buffer_is_counted() {
    let mut lost = 0;
    for worker in 0..2 {
        let mut b = trusting(2);
        (b.s.worker, b.s.workers, b.out.dry) = (worker, 2, true);
        b.rx(Port::Link, syn());
        assert!(b.out.handed.is_empty());
        lost += b.s.drops.get(Drop::NoBuffer);
    }
    // At the right one it is the replay that finds none.
    assert_eq!(lost, 2);
}

/// Node 2, which has the flow, hands it back in the bare form, and it is refused.
#[test]
fn a_tombstone_that_refused_a_bare_splice_is_no_orphan() {
    let mut p = Pair::served(1000, 9000, 50);
    p.a.v.params.paper_form = true;
    let back = Tcp {
        eth_dst: p.a.v.link_mac,
        eth_src: p.b.v.link_mac,
        src: p.b.v.link,
        dst: p.a.v.link,
        sport: 3333,
        dport: 8080,
        seq: 1000,
        ack: 0,
        flags: SYN,
        window: 0,
        opts: Build {
            mss: Some(1460),
            splice: Some(SpliceOption {
                client: CLIENT_V4,
                port: CPORT,
                init_seq: 9000,
            }),
            ..NONE
        },
        payload: b"",
    };
    p.a.rx(Port::Link, back.frame());
    assert_eq!(p.a.one(Port::WireHost).seg.flags, SYN);
    p.a.rx(Port::WireHost, host(8080, 0, 1001, RST | ACK, 0, NONE, b""));
    assert_eq!(p.a.one(Port::Link).seg.flags, RST | ACK);
    assert_eq!(p.a.s.count_states(), [0, 0, 0, 0, 1], "as it was");
    p.a.pass(5_000);
    assert!(p.a.silent(), "the client is served by node 2");
    assert_eq!(p.a.s.count_states(), [0, 0, 0, 0, 1]);
}
