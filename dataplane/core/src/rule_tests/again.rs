//! A flow that was handed over is handed over again: on to a third node, and back to
//! one that had it (PROTOCOL, section 4).

use super::*;
use crate::time::Span;
use dts_proto::block::Replay;

const NEXT: &[u8] = b"GET /c/ HTTP/1.1\r\n\r\n";

/// Three nodes; the flow is wherever the last handover brought it.
struct Trio {
    n: [Node; 3],
    /// Client's and server's next number, as the client sees them.
    c: u32,
    s: u32,
    /// Local numbers of the node that serves: next one to send.
    l: u32,
    /// Clock of its stack, and what the client saw of clocks last.
    clock: u32,
    seen_clock: u32,
    ticket: u64,
    /// So much time lies between two handovers that nothing is left to be said of the
    /// first one.
    rests: bool,
}

fn wider(mut v: View) -> View {
    v.members.push(crate::view::Member {
        id: 3,
        link: on_link(3u8).into(),
        known: Some(([2, 0, 0, 0, 1, 3], 1003)),
        alive: true,
        gone: false,
        on_wire: true,
        takes: u64::MAX,
    });
    v
}

impl Trio {
    /// Frames on the link go to the node whose MAC they bear.
    fn link(&mut self) {
        loop {
            let all: Vec<_> = self.n.iter_mut().flat_map(|n| n.tx(Port::Link)).collect();
            if all.is_empty() {
                return;
            }
            for f in all {
                self.n[usize::from(f[5]) - 1].rx(Port::Link, f);
            }
        }
    }

    /// Node 2 serves the first request, and has answered it.
    fn new((c, s, l): (u32, u32, u32)) -> Self {
        let mut p = Pair::served(c, s, l);
        let (k, s1) = (p.k(), p.s1());
        p.a.v = wider(p.a.v);
        p.b.v = wider(p.b.v);
        let third = Node::new(wider(view(3, 1)));
        let mut t = Self {
            n: [p.a, p.b, third],
            c: k,
            s: s1,
            l: l.wrapping_add(1),
            clock: 779,
            seen_clock: 5010,
            ticket: 10,
            rests: false,
        };
        t.n[1].pass(60);
        t.n[1].tx(Port::WireHost);
        t.answers(2, 300);
        t
    }

    /// The application on `node` sends `n` bytes; the client gets and acknowledges
    /// them, in the numbers and the clock that it knows.
    fn answers(&mut self, node: usize, n: usize) {
        self.clock += 10;
        let body = vec![b'a'; n];
        let f = host(
            8080,
            self.l,
            self.c,
            ACK | PSH,
            510,
            ts(self.clock, 0),
            &body,
        );
        let x = &mut self.n[node - 1];
        x.rx(Port::WireHost, f);
        let a = x.one(Port::Wire);
        assert_eq!(
            (a.seg.seq, a.seg.ack, a.seg.sport, a.payload.len()),
            (self.s, self.c, 80, n)
        );
        let told = a.seg.ts_val().expect("agreed");
        assert!(
            !crate::seq::lt(told, self.seen_clock),
            "the clock goes back: {told} after {}",
            self.seen_clock
        );
        self.seen_clock = told;
        self.s = self.s.wrapping_add(n as u32);
        self.l = self.l.wrapping_add(n as u32);
        let f = client(self.c, self.s, ACK, ts(300, told), b"");
        for i in 1..=3 {
            self.n[i - 1].rx(Port::Wire, f.clone());
            let got = self.n[i - 1].tx(Port::WireHost);
            assert_eq!(got.len(), usize::from(i == node), "node {i}");
            if i == node {
                let h = seen(&got[0]);
                assert_eq!((h.seg.ack, h.seg.dport), (self.l, 8080));
                assert_eq!(h.seg.ts_ecr(), Some(self.clock), "its own clock again");
            }
        }
    }

    /// The client sends the next request to `node`, whose stack acknowledges it.
    fn asks(&mut self, node: usize) {
        if self.rests {
            self.n[node - 1].pass(11_000);
            self.n[node - 1].tx(Port::WireHost);
        }
        let f = client(self.c, self.s, ACK | PSH, ts(310, self.seen_clock), NEXT);
        self.n[node - 1].rx(Port::Wire, f);
        assert_eq!(self.n[node - 1].one(Port::WireHost).payload, NEXT);
        self.c = self.c.wrapping_add(NEXT.len() as u32);
    }

    fn freeze(&mut self, from: usize) {
        self.ticket += 1;
        self.n[from - 1].command(freeze_served(self.ticket));
        let e = self.n[from - 1].events();
        assert!(matches!(e[..], [Event::Frozen { .. }]), "{e:?}");
    }

    fn splice(&mut self, from: usize, to: u8, request: &[u8], taken: usize) {
        self.n[from - 1].command(Command::Splice {
            ticket: self.ticket,
            dest: sock(on_link(to), 8080),
            request: request.to_vec(),
            taken: taken as u32,
            client_fin: false,
        });
    }

    /// Moves the flow with the request that `from` has and has not answered. `taken`:
    /// what its socket had received before.
    fn moves(&mut self, from: usize, to: u8, taken: usize, l: u32, clock: u32) {
        self.freeze(from);
        self.splice(from, to, NEXT, taken);
        self.link();
        let d = &mut self.n[usize::from(to) - 1];
        let syn = d.one(Port::WireHost);
        let base = self.c.wrapping_sub(1 + NEXT.len() as u32);
        assert_eq!(
            (syn.seg.flags, syn.seg.seq),
            (SYN, base),
            "the current edge"
        );
        assert_eq!((&syn.payload[..], syn.seg.dport), (NEXT, 8080));
        assert_eq!(syn.seg.opts.wscale, Some(7), "the client's");
        let o = Build {
            wscale: Some(3),
            ..synack_opts(clock, 310)
        };
        d.rx(
            Port::WireHost,
            host(8080, l, self.c, SYN | ACK, 65_160, o, b""),
        );
        self.link();
        let e = self.n[from - 1].events();
        assert!(
            matches!(
                e[..],
                [Event::Done {
                    node,
                    replay: Some(Replay::FastOpen),
                    ..
                }] if node == u16::from(to)
            ),
            "{e:?}"
        );
        // The client is told that its request is there, in the promised unit.
        let d = &mut self.n[usize::from(to) - 1];
        let a = d.one(Port::Wire);
        assert_eq!((a.seg.seq, a.seg.ack), (self.s, self.c));
        let window = 65_160 - NEXT.len() as u32;
        assert!(u32::from(a.seg.window) << 7 <= window + 127);
        self.seen_clock = a.seg.ts_val().expect("agreed");
        d.pass(60);
        d.tx(Port::WireHost);
        (self.l, self.clock) = (l.wrapping_add(1), clock);
    }
}

#[test]
fn on_to_a_third_node_back_to_the_intake_and_there_again() {
    for (isns, rests) in ISNS.into_iter().flat_map(|i| [(i, false), (i, true)]) {
        let mut t = Trio::new(isns);
        t.rests = rests;
        t.asks(2);
        t.moves(2, 3, GET.len(), 0xffff_fff0, 50);
        t.answers(3, 500);
        let told = [0, 1, 2].map(|i| t.n[i].find().map(|f| (f.from, f.to)));
        let expected = [(None, Some(2)), (Some(1), Some(3)), (Some(2), None)];
        assert_eq!(told, expected.map(Some));
        // Bytes of the replay that the stack tells of twice are not the client's
        // affair, also after a second cut.
        let f = host(8080, t.l, t.c, ACK, 509, Build::default(), b"");
        let twice = (t.c.wrapping_sub(NEXT.len() as u32), t.c);
        t.n[2].rx(Port::WireHost, with_options(&f, &sack(2, &[twice])));
        assert!(
            t.n[2].tx(Port::Wire).is_empty(),
            "and nothing is left to say"
        );
        t.asks(3);
        t.moves(3, 1, NEXT.len(), 0x7fff_ff00, 4_000_000_000);
        t.answers(1, 100);
        t.asks(1);
        t.moves(1, 2, NEXT.len(), 5, 1);
        t.answers(2, 100);
        assert_eq!(t.n[1].s.count_states(), [0, 0, 0, 1, 0]);
        for i in [0, 2] {
            assert_eq!(t.n[i].s.count_states(), [0, 0, 0, 0, 1], "node {}", i + 1);
            // The flow's own SYN still draws no answer, the next one's does.
            t.n[i].rx(Port::Wire, client(isns.0, 0, SYN, syn_opts(1), b""));
            assert!(t.n[i].silent());
        }
    }
}

#[test]
fn every_node_that_had_the_flow_hears_of_its_end() {
    for rests in [false, true] {
        let mut t = Trio::new(ISNS[0]);
        t.rests = rests;
        t.asks(2);
        t.moves(2, 3, GET.len(), 700, 50);
        let f = host(8080, t.l, t.c, RST | ACK, 0, ts(60, 310), b"");
        t.n[2].rx(Port::WireHost, f);
        assert_eq!(t.n[2].one(Port::Wire).seg.seq, t.s);
        t.link();
        // Two minutes, though `idle` is an hour: both tombstones know.
        for n in &mut t.n {
            n.pass(62_000);
            assert_eq!(n.s.flows(), 0, "node {}", n.v.node);
        }
    }
}

/// The first request's node has the flow a second time when it ends.
#[test]
fn every_node_hears_of_the_end_of_a_flow_that_came_back() {
    for rests in [false, true] {
        let mut t = Trio::new(ISNS[0]);
        t.rests = rests;
        t.asks(2);
        t.moves(2, 3, GET.len(), 700, 50);
        t.answers(3, 10);
        t.asks(3);
        t.moves(3, 2, NEXT.len(), 0x4000_0000, 9_000);
        let f = host(8080, t.l, t.c, RST | ACK, 0, ts(9_100, 310), b"");
        t.n[1].rx(Port::WireHost, f);
        t.n[1].one(Port::Wire);
        assert_eq!(t.n[1].s.count_states(), [0, 0, 0, 1, 0]);
        t.link();
        // The intake is told by nobody else: node 3 had the flow from node 2 only.
        for n in &mut t.n {
            n.pass(62_000);
            assert_eq!(n.s.flows(), 0, "node {}", n.v.node);
        }
    }
}

/// A node that had the flow refuses it: it is the tombstone that it was, and passes
/// the news of the end on to the node before it.
#[test]
fn a_refusal_by_a_node_that_had_the_flow_leaves_its_tombstone() {
    for rests in [false, true] {
        let mut t = Trio::new(ISNS[0]);
        t.rests = rests;
        t.asks(2);
        t.moves(2, 3, GET.len(), 700, 50);
        t.answers(3, 10);
        t.asks(3);
        for to in [2, 1] {
            let n = usize::from(to);
            t.freeze(3);
            t.splice(3, to, NEXT, NEXT.len());
            t.link();
            t.n[n - 1].tx(Port::WireHost);
            let f = host(8080, 0, t.c, RST | ACK, 0, Build::default(), b"");
            t.n[n - 1].rx(Port::WireHost, f);
            t.link();
            let e = t.n[2].events();
            let refused = Fail::Refused(Reason::NobodyListens);
            assert!(
                matches!(e[..], [Event::Failed { fail, .. }] if fail == refused),
                "{e:?}"
            );
            assert_eq!(t.n[n - 1].s.count_states(), [0, 0, 0, 0, 1], "node {to}");
            // A late copy of the flow's own SYN.
            let syn = client(ISNS[0].0, 0, SYN, syn_opts(1), b"");
            t.n[n - 1].rx(Port::Wire, syn);
            assert!(t.n[n - 1].silent(), "node {to}");
        }
        t.n[2].tx(Port::WireHost);
        let f = host(8080, t.l, t.c, RST | ACK, 0, ts(60, 310), b"");
        t.n[2].rx(Port::WireHost, f);
        t.n[2].one(Port::Wire);
        t.link();
        for n in &mut t.n {
            n.pass(62_000);
            assert_eq!(n.s.flows(), 0, "node {}", n.v.node);
        }
    }
}

#[test]
fn late_messages_of_the_first_handover_are_answered_behind_the_second() {
    let mut p = Pair::spliced(1000, 9000, 50);
    let f = p.synack(synack_opts(777, 130));
    p.b.rx(Port::WireHost, f);
    // The accept arrives, all end marks are lost: the source keeps repeating.
    let accept = p.b.tx(Port::Link);
    accept.into_iter().for_each(|f| p.a.rx(Port::Link, f));
    let mark = p.a.tx(Port::Link).pop().expect("an end mark");
    p.b.pass(60);
    p.b.tx(Port::WireHost);
    let f = host(8080, 51, p.k(), ACK, 510, ts(800, 130), b"");
    p.b.rx(Port::WireHost, f);
    p.b.command(freeze_served(9));
    p.b.rx(Port::Link, mark);
    assert_eq!(p.b.tx(Port::Link).len(), 1, "acknowledged all the same");
}

#[test]
fn a_served_flow_lives_on_when_its_second_handover_fails() {
    for rests in [false, true] {
        let mut t = Trio::new(ISNS[1]);
        t.rests = rests;
        t.asks(2);
        t.freeze(2);
        // Its egress is swallowed, its client held.
        let f = host(8080, t.l, t.c, ACK, 500, ts(t.clock, 310), b"");
        t.n[1].rx(Port::WireHost, f);
        let f = client(t.c, t.s, ACK | PSH, ts(320, t.seen_clock), b"more");
        t.n[1].rx(Port::Wire, f);
        assert!(t.n[1].silent());
        t.splice(2, 3, NEXT, GET.len());
        t.link();
        t.n[2].tx(Port::WireHost);
        let base = t.c.wrapping_sub(NEXT.len() as u32);
        let f = host(8080, 0, t.c, RST | ACK, 0, Build::default(), b"");
        t.n[2].rx(Port::WireHost, f);
        assert_ne!(base, t.c);
        t.link();
        let e = t.n[1].events();
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
        assert_eq!(t.n[1].one(Port::Wire).seg.ack, t.c, "what was swallowed");
        assert_eq!(t.n[1].one(Port::WireHost).payload, b"more", "what was held");
        t.c = t.c.wrapping_add(4);
        assert_eq!(t.n[1].s.count_states(), [0, 0, 0, 1, 0]);
        t.answers(2, 50);
        // A block of replayed bytes is still told apart from the client's own.
        let slot = t.n[1].s.slots.iter().position(|f| f.dest.is_some());
        let f = &t.n[1].s.slots[slot.expect("served")];
        assert_eq!(f.cut, ISNS[1].0.wrapping_add(1 + GET.len() as u32));
    }
}

#[test]
fn what_is_not_in_the_request_or_not_yet_acknowledged_stops_a_second_handover() {
    type Spoil = fn(&mut Trio);
    let cases: [(Spoil, usize); 4] = [
        // A client byte that the stack has and the application has not told of.
        (
            |t| {
                let f = client(t.c, t.s, ACK | PSH, ts(320, t.seen_clock), b"x");
                t.n[1].rx(Port::Wire, f);
            },
            GET.len(),
        ),
        // One above a hole: SACKed, and in no drain.
        (
            |t| {
                let at = t.c.wrapping_add(3);
                let f = client(at, t.s, ACK | PSH, ts(320, t.seen_clock), b"x");
                t.n[1].rx(Port::Wire, f);
            },
            GET.len(),
        ),
        // A server byte that the client has not acknowledged.
        (
            |t| {
                let f = host(8080, t.l, t.c, ACK | PSH, 510, ts(t.clock, 310), b"y");
                t.n[1].rx(Port::WireHost, f);
            },
            GET.len(),
        ),
        // A count that does not add up.
        (|_| {}, GET.len() - 1),
    ];
    for (i, (spoil, taken)) in cases.into_iter().enumerate() {
        let mut t = Trio::new(ISNS[0]);
        t.asks(2);
        spoil(&mut t);
        t.freeze(2);
        t.splice(2, 3, NEXT, taken);
        let e = t.n[1].events();
        assert!(
            matches!(
                e[..],
                [Event::Failed {
                    fail: Fail::Unaccounted,
                    ..
                }]
            ),
            "case {i}: {e:?}"
        );
        assert!(t.n[1].tx(Port::Link).is_empty());
        assert_eq!(t.n[1].s.count_states(), [0, 0, 0, 1, 0]);
    }
}

#[test]
fn a_stack_cannot_take_over_from_itself() {
    let mut t = Trio::new(ISNS[0]);
    t.asks(2);
    t.freeze(2);
    t.splice(2, 2, NEXT, GET.len());
    let e = t.n[1].events();
    assert!(
        matches!(
            e[..],
            [Event::Failed {
                fail: Fail::BadDestination,
                ..
            }]
        ),
        "{e:?}"
    );
    t.answers(2, 10);
}

#[test]
fn a_flow_comes_back_to_a_node_whose_old_socket_still_lives() {
    for isns in ISNS {
        let mut t = Trio::new(isns);
        let old = t.l;
        t.asks(2);
        t.moves(2, 3, GET.len(), 700, 50);
        t.answers(3, 10);
        t.asks(3);
        t.freeze(3);
        t.splice(3, 2, NEXT, NEXT.len());
        t.link();
        let n = &mut t.n[1];
        let base = t.c.wrapping_sub(1 + NEXT.len() as u32);
        assert_eq!(n.one(Port::WireHost).seg.seq, base);
        // What lay in the old socket's queue is nobody's: data, FIN, and the RST of
        // one that was closed. None of it is taken for an answer to the replay.
        let edge = base.wrapping_sub(9);
        for (flags, body) in [(ACK | PSH, &b"old"[..]), (ACK | FIN, b""), (RST, b"")] {
            n.rx(
                Port::WireHost,
                host(8080, old, edge, flags, 500, ts(900, 310), body),
            );
        }
        let again: Vec<_> = n.tx(Port::WireHost).iter().map(|f| seen(f)).collect();
        assert!(n.tx(Port::Wire).is_empty(), "the client hears none of it");
        // The stack's ACK says that the old socket lives: it is killed at the very
        // number that it names, and asked again. Only a new one can answer that.
        assert!(!again.is_empty(), "the old socket spoke");
        for pair in again.chunks(2) {
            assert_eq!((pair[0].seg.flags, pair[0].seg.seq), (RST, edge));
            assert_eq!((pair[1].seg.flags, pair[1].seg.seq), (SYN, base));
        }
        n.rx(
            Port::WireHost,
            host(
                8080,
                0x4000_0000,
                t.c,
                SYN | ACK,
                65_160,
                synack_opts(9_000, 310),
                b"",
            ),
        );
        t.link();
        assert!(matches!(t.n[2].events()[..], [Event::Done { node: 2, .. }]));
        let a = t.n[1].one(Port::Wire);
        assert_eq!((a.seg.seq, a.seg.ack), (t.s, t.c));
        t.seen_clock = a.seg.ts_val().unwrap();
        t.n[1].pass(60);
        t.n[1].tx(Port::WireHost);
        (t.l, t.clock) = (0x4000_0001, 9_000);
        t.answers(2, 20);
    }
}

#[test]
fn a_handover_to_the_node_itself_keeps_its_own_end() {
    let mut p = Pair::frozen(1000, 9000, 50);
    p.splice_to(1);
    p.a.tx(Port::WireHost);
    let f = p.synack(synack_opts(777, 130));
    p.a.rx(Port::WireHost, f);
    p.a.pass(50);
    assert!(matches!(p.a.events()[..], [Event::Done { node: 1, .. }]));
    assert_eq!(p.a.s.count_states(), [0, 0, 0, 1, 0]);
    let f = p.a.s.slots.iter().find(|f| f.state == State::Served);
    assert!(f.unwrap().dest.is_some() && f.unwrap().source.is_none());
}

/// The flow comes back before the end mark of the handover that took it away is
/// answered.
#[test]
fn a_flow_comes_back_to_a_source_that_still_waits() {
    let mut p = Pair::spliced(1000, 9000, 50);
    let f = p.synack(synack_opts(777, 130));
    p.b.rx(Port::WireHost, f);
    for f in p.b.tx(Port::Link) {
        p.a.rx(Port::Link, f);
    }
    p.a.tx(Port::Link);
    p.b.told();
    let k = p.k();
    let f = client(k, p.s1(), ACK | PSH, ts(140, 5010), NEXT);
    p.b.rx(Port::Wire, f);
    assert_eq!(p.b.one(Port::WireHost).payload, NEXT);
    let end = k + NEXT.len() as u32;
    let f = host(8080, p.l1(), end, ACK, 500, ts(779, 140), b"");
    p.b.rx(Port::WireHost, f);
    p.b.command(freeze_served(2));
    p.b.command(Command::Splice {
        ticket: 2,
        dest: sock(on_link(1u8), 8080),
        request: NEXT.to_vec(),
        taken: GET.len() as u32,
        client_fin: false,
    });
    assert_eq!(p.a.s.count_states(), [0, 0, 0, 0, 1]);
    for f in p.b.tx(Port::Link) {
        p.a.rx(Port::Link, f);
    }
    let syn = p.a.one(Port::WireHost);
    assert_eq!((syn.seg.flags, syn.payload.as_slice()), (SYN, NEXT));
    assert!(
        matches!(p.a.events()[..], [Event::Done { ticket: 1, .. }]),
        "the first handover has its end"
    );
    // Refused, the intake is a tombstone again, and the flow lives on at node 2.
    let rst = host(8080, 0, end, RST | ACK, 0, Build::default(), b"");
    p.a.rx(Port::WireHost, rst);
    p.link();
    assert_eq!(p.a.s.count_states(), [0, 0, 0, 0, 1]);
    assert_eq!(p.b.s.count_states(), [0, 0, 0, 1, 0]);
}

/// What a node knows of a flow that was handed to it long ago is enough to hand it on, to
/// answer late messages, and to tell of its end.
#[test]
fn a_flow_that_rests_keeps_what_may_be_asked_for() {
    let mut p = Pair::served(1000, 9000, 50);
    p.answer(1000);
    let slot = p.b.s.slots.iter().position(|f| f.dest.is_some()).unwrap();
    p.b.s.slots[slot].rtt = Span::millis(80);
    p.b.pass(60);
    p.b.tx(Port::WireHost);
    let number = slot as u32;
    let before = p.b.s.slots[slot].dest.as_ref().unwrap();
    let (flow, peer, c_base) = (before.flow, before.peer, before.state.c_base);
    let (replay, l_isn) = (before.replay, before.l_isn);
    p.b.pass(11_000);
    assert!(p.b.s.slots[slot].is_bare());
    assert_eq!(p.b.s.rtt_of(number), Span::millis(80));
    assert_eq!(p.b.s.peer_of(number), Some(1));
    assert_eq!(p.b.s.came_by(&p.b.v, number), Some(flow));
    p.b.s.recall(&p.b.v, number);
    let f = &p.b.s.slots[slot];
    let d = f.dest.as_ref().unwrap();
    assert_eq!(
        (d.flow, d.peer.addr, d.peer.port),
        (flow, peer.addr, peer.port)
    );
    assert_eq!((d.state.c_base, d.replay, d.l_isn), (c_base, replay, l_isn));
    assert_eq!((f.rtt, d.state.rtt_us), (Span::millis(80), 80_000));
    // It rests again.
    p.b.pass(600);
    assert!(p.b.s.slots[slot].is_bare());
    assert_eq!(p.b.s.came_by(&p.b.v, number), Some(flow));
}

#[test]
fn a_flow_that_rests_moves_with_its_round_trip() {
    let mut p = Pair::served(1000, 9000, 50);
    p.b.pass(12_000);
    p.b.tx(Port::WireHost);
    assert!(
        p.b.s
            .slots
            .iter()
            .any(|f| f.state == State::Served && f.is_bare())
    );
    let f = client(p.k(), p.s1(), ACK, ts(300, 777), b"");
    p.b.rx(Port::Wire, f);
    p.b.command(freeze_served(9));
    p.b.command(Command::Splice {
        ticket: 9,
        dest: sock(on_link(1u8), 8080),
        request: vec![],
        taken: GET.len() as u32,
        client_fin: false,
    });
    let f = p.b.s.slots.iter().find(|f| f.source.is_some()).unwrap();
    assert_eq!(f.source.as_ref().unwrap().state.rtt_us, 20_000);
}

#[test]
fn a_challenge_waits_for_the_round_trip_of_a_flow_that_rests() {
    let mut p = Pair::served(1000, 9000, 50);
    let slot = p.b.s.slots.iter().position(|f| f.dest.is_some()).unwrap();
    p.b.s.slots[slot].rtt = Span::millis(300);
    p.b.pass(12_000);
    p.b.tx(Port::WireHost);
    p.b.rx(Port::Wire, client(77_777, 0, SYN, syn_opts(150), b""));
    let left = p.b.s.slots[slot].challenged_until.unwrap() - p.b.now;
    assert!(left >= Span::millis(600), "{left:?}");
}

/// The last segment of the replayed handshake was lost, every time: the stack asks again,
/// also long after the handover.
#[test]
fn a_stack_that_repeats_its_synack_is_answered_though_the_flow_rests() {
    let mut p = Pair::served(1000, 9000, 50);
    p.b.pass(12_000);
    p.b.tx(Port::WireHost);
    let f = p.synack(synack_opts(800, 130));
    p.b.rx(Port::WireHost, f);
    let a = p.b.one(Port::WireHost);
    assert_eq!((a.seg.flags, a.seg.ack), (ACK, 51));
    assert_eq!(a.seg.ts_ecr(), Some(800));
}
