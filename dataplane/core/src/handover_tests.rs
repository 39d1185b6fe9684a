//! Handovers between two nodes, their stacks played by hand.

use crate::command::{Command, Event, Fail};
use crate::drops::Drop;
use crate::flow_tests::{established, established_at};
use crate::frame::Port;
use crate::testkit::*;
use crate::wire::options::{Build, SpliceOption};
use crate::wire::tcp::{ACK, FIN, PSH, RST, SYN};
use dts_proto::block::{Reason, Replay};
use std::net::SocketAddr;

const GET: &[u8] = b"GET /b/ HTTP/1.1\r\nHost: x\r\n\r\n";

struct Pair {
    a: Node,
    b: Node,
    c: u32,
    req: Vec<u8>,
}

fn sock(a: [u8; 4], p: u16) -> SocketAddr {
    SocketAddr::from((a, p))
}

impl Pair {
    /// The request is at the intake's proxy, acknowledged, and the flow is frozen.
    fn frozen(c: u32, s: u32, req: &[u8]) -> Self {
        Self::frozen_at(established(c, s), c, s, req)
    }

    fn frozen_at(mut a: Node, c: u32, s: u32, req: &[u8]) -> Self {
        let mut at = c.wrapping_add(1);
        for part in req.chunks(1400) {
            a.rx(
                Port::Wire,
                client(at, s.wrapping_add(1), ACK | PSH, ts(130, 5000), part),
            );
            at = at.wrapping_add(part.len() as u32);
            assert_eq!(a.one(Port::WireHost).payload, part);
        }
        a.rx(
            Port::WireHost,
            host(8001, s.wrapping_add(1), at, ACK, 500, ts(5010, 130), b""),
        );
        assert_eq!(a.one(Port::Wire).seg.ack, at);
        a.command(Command::Freeze {
            ticket: 1,
            client: sock(CLIENT, CPORT),
            local: sock(VIP, 8001),
        });
        assert!(matches!(a.events()[..], [Event::Frozen { ticket: 1, .. }]));
        let mut v = view(2, 1);
        v.params = a.v.params;
        let b = Node::new(v);
        Self {
            a,
            b,
            c,
            req: req.to_vec(),
        }
    }

    fn splice_to(&mut self, node: u8, fin: bool) {
        let dest = sock([10, 77, 1, node], 8080);
        self.a.command(Command::Splice {
            ticket: 1,
            dest,
            request: self.req.clone(),
            client_fin: fin,
        });
    }

    /// Carries link frames until both are silent; gives their number.
    fn link(&mut self) -> usize {
        let mut n = 0;
        loop {
            let (x, y) = (self.a.tx(Port::Link), self.b.tx(Port::Link));
            if x.is_empty() && y.is_empty() {
                return n;
            }
            n += x.len() + y.len();
            x.into_iter().for_each(|f| self.b.rx(Port::Link, f));
            y.into_iter().for_each(|f| self.a.rx(Port::Link, f));
        }
    }

    fn k(&self) -> u32 {
        self.c.wrapping_add(1).wrapping_add(self.req.len() as u32)
    }
}

/// Handover by Fast Open replay up to the cut over; `l` is the local ISN.
fn served(c: u32, s: u32, l: u32) -> Pair {
    let mut p = Pair::frozen(c, s, GET);
    p.splice_to(2, false);
    p.link();
    let syn = p.b.one(Port::WireHost);
    assert_eq!((syn.seg.flags, syn.seg.seq, syn.seg.dport), (SYN, c, 8080));
    assert_eq!(syn.payload, GET, "the SYN carries the whole request");
    assert_eq!(
        u32::from(syn.seg.window),
        502 << 7,
        "the client's real window"
    );
    assert_eq!(
        syn.seg.ts_val(),
        Some(130),
        "the client's own clock (rule 1)"
    );
    assert_eq!(syn.seg.opts.wscale, Some(7));
    p.b.rx(
        Port::WireHost,
        host(
            8080,
            l,
            p.k(),
            SYN | ACK,
            65_160,
            synack_opts(777, 130),
            b"",
        ),
    );
    p.link();
    let done = p.a.events();
    assert!(
        matches!(
            done[..],
            [Event::Done {
                ticket: 1,
                node: 2,
                replay: Some(Replay::FastOpen),
                ..
            }]
        ),
        "{done:?}"
    );
    p
}

#[test]
fn fast_open_replay_end_to_end_at_every_wrap() {
    for (c, s, l) in [
        (1000, 9000, 5),
        (u32::MAX - 10, u32::MAX - 2, 0x7fff_fff0),
        (0x7fff_fffa, 0x8000_0000, u32::MAX),
        (5, 0, 1),
    ] {
        let mut p = served(c, s, l);
        assert!(
            p.b.tx(Port::Wire).is_empty(),
            "the client has its ACK already"
        );
        // The answer: local numbers in, the client's view out.
        let l1 = l.wrapping_add(1);
        p.b.rx(
            Port::WireHost,
            host(
                8080,
                l1,
                p.k(),
                ACK | PSH,
                510,
                ts(779, 130),
                b"HTTP/1.1 200 OK",
            ),
        );
        let r = p.b.one(Port::Wire);
        assert_eq!(
            (r.seg.sport, r.seg.seq, r.seg.ack),
            (80, s.wrapping_add(1), p.k())
        );
        assert_eq!(
            r.seg.ts_val(),
            Some(5010 + 2),
            "not below what the intake sent"
        );
        assert_eq!((r.eth_dst, r.eth_src), (CLIENT_MAC, p.b.v.wire_mac));
        // The client's acknowledgement: a tombstone at the source, the stack here.
        let end = s.wrapping_add(16);
        let mut o = ts(150, 5012);
        o.sack_permitted = false;
        let ack = client(p.k(), end, ACK, o, b"");
        p.a.rx(Port::Wire, ack.clone());
        assert!(p.a.silent());
        assert_eq!(p.a.s.drops.get(Drop::HandedOver), 1);
        p.b.rx(Port::Wire, ack);
        let h = p.b.one(Port::WireHost);
        assert_eq!((h.seg.ack, h.seg.dport), (l.wrapping_add(16), 8080));
        assert_eq!(h.seg.ts_ecr(), Some(779), "TSecr back in the stack's clock");
        // A late duplicate of the flow's own SYN dies at both.
        let dup = client(c, 0, SYN, syn_opts(100), b"");
        p.a.rx(Port::Wire, dup.clone());
        p.b.rx(Port::Wire, dup);
        assert!(p.a.silent() && p.b.silent());
        assert_eq!(p.b.s.counters.replay_fast_open, 1);
    }
}

#[test]
fn the_end_of_a_flow_is_told_to_the_intake() {
    let mut p = served(1000, 9000, 50);
    let k = p.k();
    p.b.rx(
        Port::WireHost,
        host(8080, 51, k, ACK | FIN, 510, ts(780, 130), b"bye"),
    );
    p.b.rx(Port::Wire, client(k, 9005, ACK | FIN, ts(160, 5013), b""));
    p.b.tx(Port::WireHost);
    p.b.rx(
        Port::WireHost,
        host(8080, 55, k + 1, ACK, 510, ts(781, 160), b""),
    );
    assert_eq!(p.b.tx(Port::Wire).len(), 2);
    assert!(p.link() >= 1, "FlowEnd");
    p.b.pass(6_500);
    assert_eq!(p.b.s.flows(), 0);
    p.a.pass(58_000);
    assert_eq!(p.a.s.flows(), 1, "2 MSL");
    p.a.pass(4_000);
    assert_eq!(p.a.s.flows(), 0);
    assert_eq!(p.a.s.hold_use().0 + p.b.s.hold_use().0, 0);
}

#[test]
fn the_client_gets_its_ack_at_cut_over_unless_it_has_it() {
    // The proxy's stack never acknowledged the request (it delays its ACK).
    let mut a = established(1000, 9000);
    a.rx(
        Port::Wire,
        client(1001, 9001, ACK | PSH, ts(130, 5000), GET),
    );
    a.tx(Port::WireHost);
    a.command(Command::Freeze {
        ticket: 1,
        client: sock(CLIENT, CPORT),
        local: sock(VIP, 8001),
    });
    a.events();
    let mut p = Pair {
        a,
        b: Node::new(view(2, 1)),
        c: 1000,
        req: GET.to_vec(),
    };
    p.splice_to(2, false);
    p.link();
    p.b.tx(Port::WireHost);
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
    let ack = p.b.one(Port::Wire);
    assert_eq!(
        (ack.seg.flags, ack.seg.seq, ack.seg.ack),
        (ACK, 9001, p.k())
    );
    assert_eq!(
        ack.seg.opts.timestamps.map(|t| (t.0, t.1)),
        Some((5000, 130))
    );
    assert_eq!(
        u32::from(ack.seg.window) << 7,
        (65_160 - GET.len() as u32) >> 7 << 7
    );
    p.link();
}

#[test]
fn the_filter_completes_the_handshake_after_the_clients_round_trip() {
    let mut p = served(1000, 9000, 50);
    p.b.pass(19);
    assert!(p.b.silent(), "the client's own ACK would be the better one");
    p.b.pass(2);
    let ack = p.b.one(Port::WireHost);
    assert_eq!((ack.seg.flags, ack.seg.seq, ack.seg.ack), (ACK, p.k(), 51));
    assert_eq!(
        ack.seg.opts.timestamps.map(|t| (t.0, t.1)),
        Some((130, 777))
    );
    // The stack repeats its SYN-ACK when that one is lost.
    p.b.rx(
        Port::WireHost,
        host(
            8080,
            50,
            p.k(),
            SYN | ACK,
            65_160,
            synack_opts(1777, 130),
            b"",
        ),
    );
    assert_eq!(p.b.one(Port::WireHost).seg.ack, 51);
    assert!(p.b.tx(Port::Wire).is_empty());
}

#[test]
fn handshake_replay_where_fast_open_is_off() {
    let mut p = Pair::frozen(1000, 9000, GET);
    p.splice_to(2, false);
    p.link();
    p.b.tx(Port::WireHost);
    p.b.rx(
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
    let d = p.b.one(Port::WireHost);
    assert_eq!(
        (d.seg.seq, d.seg.ack, d.payload.as_slice()),
        (1001, 51, GET)
    );
    assert!(
        p.a.events().is_empty(),
        "not accepted before the stack has it"
    );
    // The application answers before the stack acks anything by itself.
    p.b.rx(
        Port::WireHost,
        host(8080, 51, p.k(), ACK | PSH, 510, ts(778, 130), b"200"),
    );
    let r = p.b.one(Port::Wire);
    assert_eq!((r.seg.seq, r.payload.as_slice()), (9001, &b"200"[..]));
    p.link();
    assert!(matches!(
        p.a.events()[..],
        [Event::Done {
            replay: Some(Replay::Handshake),
            ..
        }]
    ));
    assert_eq!(p.b.s.counters.replay_handshake, 1);
}

#[test]
fn large_requests_come_in_pieces_and_leave_as_one_datagram() {
    let req: Vec<u8> = (0..50_000u32).map(|i| (i % 251) as u8).collect();
    let mut p = Pair::frozen(1000, 9000, &req);
    p.splice_to(2, false);
    assert!(p.link() > 36);
    let frags = p.b.tx(Port::WireHost);
    assert!(frags.len() > 30);
    let mut data = Vec::new();
    for f in &frags {
        assert!(f.len() <= 1514);
        data.extend_from_slice(&f[34..]);
    }
    assert_eq!(data[data.len() - 50_000..], req);
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
    p.link();
    assert!(matches!(p.a.events()[..], [Event::Done { .. }]));
}

#[test]
fn lost_link_messages_are_repaired() {
    let req: Vec<u8> = vec![b'x'; 9_000];
    let mut p = Pair::frozen(1000, 9000, &req);
    p.splice_to(2, false);
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
    let mut p = Pair::frozen(1000, 9000, GET);
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
    p.splice_to(2, false);
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
    let mut p = Pair {
        a,
        b: Node::new(view(2, 1)),
        c: 1000,
        req: GET.to_vec(),
    };
    p.splice_to(2, false);
    p.link();
    p.b.tx(Port::WireHost);
    p.b.rx(
        Port::WireHost,
        host(8080, 50, k, SYN | ACK, 65_160, synack_opts(777, 130), b""),
    );
    p.link();
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
    let mut p = Pair {
        a,
        b: Node::new(view(2, 1)),
        c: 1000,
        req: GET.to_vec(),
    };
    p.splice_to(2, true);
    p.link();
    p.b.tx(Port::WireHost);
    p.b.rx(
        Port::WireHost,
        host(8080, 50, k, SYN | ACK, 65_160, synack_opts(777, 130), b""),
    );
    p.link();
    p.b.rx(
        Port::WireHost,
        host(8080, 51, k, ACK | PSH, 510, ts(779, 130), b"200"),
    );
    assert_eq!(p.b.one(Port::Wire).seg.seq, 9001);
    // The client's ACK ends the handshake; its FIN is played first.
    p.b.rx(Port::Wire, client(k + 1, 9004, ACK, ts(150, 5012), b""));
    let f: Vec<Seen> = p.b.tx(Port::WireHost).iter().map(|f| seen(f)).collect();
    assert_eq!(f.len(), 2);
    assert_eq!(
        (f[0].seg.flags, f[0].seg.seq, f[0].seg.ack),
        (ACK | FIN, k, 54)
    );
    assert_eq!((f[1].seg.seq, f[1].seg.ack), (k + 1, 54));
}

#[test]
fn refusals_leave_the_flow_intact() {
    let mut p = Pair::frozen(1000, 9000, GET);
    let k = p.k();
    p.splice_to(2, false);
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
    p.splice_to(1, false);
    let syn = p.a.one(Port::WireHost);
    assert_eq!((syn.seg.dport, syn.payload.len()), (8080, GET.len() + 4));
}

#[test]
fn a_handover_to_the_node_itself_is_the_same_code() {
    let mut p = Pair::frozen(1000, 9000, GET);
    let k = p.k();
    p.splice_to(1, false);
    assert!(p.a.tx(Port::Link).is_empty());
    let syn = p.a.one(Port::WireHost);
    assert_eq!((syn.seg.dport, syn.payload.as_slice()), (8080, GET));
    // A late ACK of the old socket goes nowhere.
    p.a.rx(
        Port::WireHost,
        host(8001, 9001, k, ACK, 500, ts(5011, 130), b""),
    );
    assert!(p.a.silent());
    p.a.rx(
        Port::WireHost,
        host(8080, 50, k, SYN | ACK, 65_160, synack_opts(777, 130), b""),
    );
    assert!(matches!(p.a.events()[..], [Event::Done { node: 1, .. }]));
    p.a.rx(
        Port::WireHost,
        host(8001, 9001, k, RST, 0, Build::default(), b""),
    );
    assert!(p.a.silent(), "the dying socket is not heard");
    p.a.rx(
        Port::WireHost,
        host(8080, 51, k, ACK | PSH, 510, ts(778, 130), b"200"),
    );
    assert_eq!(p.a.one(Port::Wire).seg.seq, 9001);
    p.a.rx(Port::Wire, client(k, 9004, ACK, ts(150, 5011), b""));
    assert_eq!(p.a.one(Port::WireHost).seg.ack, 54);
}

#[test]
fn a_refused_handover_to_the_node_itself_leaves_the_flow_as_it_was() {
    let mut q = Pair::frozen(1000, 9000, GET);
    let k = q.k();
    q.splice_to(1, false);
    q.a.tx(Port::WireHost);
    q.a.rx(Port::WireHost, host(8080, 0, k, RST | ACK, 0, Build::default(), b""));
    assert!(matches!(q.a.events()[..], [Event::Failed { fail: Fail::Refused(_), .. }]));
    q.a.rx(Port::Wire, client(k, 9001, ACK | PSH, ts(150, 5010), &[b'u'; 1400]));
    let h = q.a.one(Port::WireHost);
    assert_eq!((h.seg.dport, h.seg.ack, h.payload.len()), (8001, 9001, 1400));
    q.a.rx(Port::WireHost, host(8001, 9001, k + 1400, ACK, 400, ts(5060, 150), b""));
    let w = q.a.one(Port::Wire);
    assert_eq!((w.seg.seq, w.seg.ack, w.seg.ts_val()), (9001, k + 1400, Some(5060)));
}

#[test]
fn copies_are_released_in_a_handover_to_the_node_itself() {
    let mut a = established(1000, 9000);
    let k = 1001 + GET.len() as u32;
    a.rx(Port::Wire, client(1001, 9001, ACK | PSH, ts(130, 5000), GET));
    a.rx(Port::Wire, client(k, 9001, ACK | PSH, ts(131, 5000), b"late"));
    a.tx(Port::WireHost);
    a.command(Command::Freeze { ticket: 1, client: sock(CLIENT, CPORT), local: sock(VIP, 8001) });
    a.events();
    a.rx(Port::Wire, client(k + 4, 9001, ACK | PSH, ts(132, 5000), b"r"));
    let mut p = Pair { a, b: Node::new(view(2, 1)), c: 1000, req: GET.to_vec() };
    p.splice_to(1, false);
    p.a.tx(Port::WireHost);
    p.a.rx(Port::WireHost, host(8080, 50, k, SYN | ACK, 65_160, synack_opts(777, 130), b""));
    let mut got: Vec<_> = p.a.tx(Port::WireHost).iter().map(|f| seen(f)).map(|s| (s.seg.seq, s.payload)).collect();
    got.sort();
    assert_eq!(got, [(k, b"late".to_vec()), (k + 4, b"r".to_vec())]);
}

#[test]
fn silence_is_refused_and_the_half_open_socket_reset() {
    let mut p = Pair::frozen(1000, 9000, GET);
    p.splice_to(2, false);
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
fn an_old_time_wait_socket_is_reset_and_the_syn_given_again() {
    let mut p = Pair::frozen(1000, 9000, GET);
    p.splice_to(2, false);
    p.link();
    p.b.tx(Port::WireHost);
    p.b.rx(
        Port::WireHost,
        host(8080, 123, 456, ACK, 500, ts(1, 1), b""),
    );
    let f: Vec<Seen> = p.b.tx(Port::WireHost).iter().map(|f| seen(f)).collect();
    assert_eq!((f[0].seg.flags, f[0].seg.seq), (RST, 456));
    assert_eq!((f[1].seg.flags, f[1].seg.seq), (SYN, 1000));
}

#[test]
fn a_stack_that_breaks_a_promise_is_refused() {
    let mut p = Pair::frozen(1000, 9000, GET);
    p.splice_to(2, false);
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
    assert!(matches!(
        p.a.events()[..],
        [Event::Failed {
            fail: Fail::Refused(Reason::Options),
            ..
        }]
    ));
}

#[test]
fn an_abort_is_confirmed_and_a_late_syn_refused() {
    let mut p = Pair::frozen(1000, 9000, GET);
    p.splice_to(2, false);
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
    let mut p = Pair::frozen(1000, 9000, GET);
    p.splice_to(2, false);
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
    let mut p = Pair::frozen(1000, 9000, GET);
    p.splice_to(2, false);
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
    let mut p = Pair::frozen(1000, 9000, GET);
    p.splice_to(2, false);
    let syn = p.a.tx(Port::Link).remove(0);
    let mut forged = syn.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let end = forged.len();
    crate::wire::edit::write_tcp_checksum(&mut forged, 34, end);
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

/// A source that knows nothing but the paper: option 32, data with window 0, FIN.
mod paper {
    use super::*;
    use crate::key::Addr;
    use crate::wire::build::Tcp;

    fn bare(seq: u32, ack: u32, flags: u8, opts: Build, payload: &[u8]) -> Vec<u8> {
        Tcp {
            eth_dst: [2, 0, 0, 0, 1, 2],
            eth_src: [2, 0, 0, 0, 1, 1],
            src: Addr::v4([10, 77, 1, 1]),
            dst: Addr::v4([10, 77, 1, 2]),
            sport: 3333,
            dport: 8080,
            seq,
            ack,
            flags,
            window: 0,
            opts,
            payload,
        }
        .frame()
    }

    fn syn() -> Vec<u8> {
        let opts = Build {
            mss: Some(1460),
            splice: Some(SpliceOption {
                client: CLIENT,
                port: CPORT,
                init_seq: 9000,
            }),
            ..Build::default()
        };
        bare(1000, 0, SYN, opts, b"")
    }

    #[test]
    fn is_served_where_the_link_is_trusted() {
        let mut v = view(2, 1);
        v.params.paper_form = true;
        let mut b = Node::new(v);
        b.rx(
            Port::Wire,
            client(
                1000,
                0,
                SYN,
                Build {
                    mss: Some(1460),
                    ..Build::default()
                },
                b"",
            ),
        );
        b.rx(Port::Link, syn());
        let s = b.one(Port::WireHost);
        assert_eq!(
            (s.seg.flags, s.seg.seq, s.seg.window, s.seg.dport),
            (SYN, 1000, 0, 8080)
        );
        let mss = Build {
            mss: Some(1460),
            ..Build::default()
        };
        b.rx(
            Port::WireHost,
            host(8080, 50, 1001, SYN | ACK, 64_240, mss, b""),
        );
        let s = b.one(Port::Link);
        assert_eq!(
            (s.seg.flags, s.seg.seq, s.seg.ack, s.seg.window),
            (SYN | ACK, 9000, 1001, 64_240)
        );
        b.rx(Port::Link, bare(1001, 9001, ACK, Build::default(), b""));
        assert_eq!(b.one(Port::WireHost).seg.ack, 51);
        b.rx(
            Port::Link,
            bare(1001, 9001, ACK | PSH, Build::default(), GET),
        );
        let d = b.one(Port::WireHost);
        assert_eq!(
            (d.payload.as_slice(), d.seg.window),
            (GET, 0),
            "the application may not speak yet"
        );
        let k = 1001 + GET.len() as u32;
        b.rx(
            Port::WireHost,
            host(8080, 51, k, ACK, 64_000, Build::default(), b""),
        );
        assert_eq!(b.one(Port::Link).seg.ack, k);
        b.rx(Port::Link, bare(k, 9001, ACK | FIN, Build::default(), b""));
        assert_eq!(
            b.one(Port::Link).seg.ack,
            k + 1,
            "the end mark is acknowledged by the filter"
        );
        let open = b.one(Port::WireHost);
        assert_eq!((open.seg.flags, open.seg.seq), (ACK, k), "not the FIN");
        assert_eq!(
            open.seg.window, 502,
            "the client's real window holds from here"
        );
        assert_eq!(b.one(Port::Wire).seg.ack, k);
        b.rx(
            Port::WireHost,
            host(8080, 51, k, ACK | PSH, 64_000, Build::default(), b"200"),
        );
        let r = b.one(Port::Wire);
        assert_eq!((r.seg.seq, r.seg.sport, r.eth_dst), (9001, 80, CLIENT_MAC));
        assert_eq!(b.s.counters.replay_paper, 1);
    }

    #[test]
    fn is_refused_and_counted_where_it_is_not() {
        let mut b = Node::new(view(2, 1));
        b.rx(Port::Link, syn());
        assert_eq!(b.one(Port::Link).seg.flags, RST | ACK);
        assert!(b.silent());
        assert_eq!(b.s.drops.get(Drop::PaperForm), 1);
        b.rx(
            Port::Link,
            bare(1001, 9001, ACK | PSH, Build::default(), GET),
        );
        assert!(b.silent(), "nothing unauthenticated reaches the host");
    }

    #[test]
    fn a_destination_of_the_bare_form_gets_data_and_a_fin() {
        let mut v = view(1, 1);
        v.params.paper_form = true;
        let mut a = Node::new(v);
        let plain = Build {
            mss: Some(1460),
            ..Build::default()
        };
        a.rx(Port::Wire, client(1000, 0, SYN, plain, b""));
        a.rx(
            Port::WireHost,
            host(8001, 9000, 1001, SYN | ACK, 64_240, plain, b""),
        );
        a.rx(Port::Wire, client(1001, 9001, ACK, Build::default(), b""));
        a.tx(Port::Wire);
        a.tx(Port::WireHost);
        let mut p = Pair {
            a,
            b: Node::new(view(2, 1)),
            c: 1000,
            req: GET.to_vec(),
        };
        p.a.rx(
            Port::Wire,
            client(1001, 9001, ACK | PSH, Build::default(), GET),
        );
        p.a.rx(
            Port::WireHost,
            host(8001, 9001, p.k(), ACK, 64_000, Build::default(), b""),
        );
        p.a.tx(Port::Wire);
        p.a.tx(Port::WireHost);
        p.a.command(Command::Freeze {
            ticket: 1,
            client: sock(CLIENT, CPORT),
            local: sock(VIP, 8001),
        });
        p.splice_to(2, false);
        p.a.events();
        let syn = p.a.one(Port::Link);
        let reply = |seq, ack, flags| {
            Tcp {
                eth_dst: [2, 0, 0, 0, 1, 1],
                eth_src: [2, 0, 0, 0, 1, 2],
                src: Addr::v4([10, 77, 1, 2]),
                dst: Addr::v4([10, 77, 1, 1]),
                sport: 8080,
                dport: syn.seg.sport,
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
        let d = p.a.one(Port::Link);
        assert_eq!(
            (d.seg.seq, d.seg.window, d.payload.as_slice()),
            (1001, 0, GET)
        );
        assert_eq!(d.seg.flags, ACK | PSH | FIN, "the end mark");
        p.a.rx(Port::Link, reply(9001, p.k() + 1, ACK));
        assert!(matches!(
            p.a.events()[..],
            [Event::Done {
                node: 2,
                replay: None,
                ..
            }]
        ));
    }
}

#[test]
fn a_served_flow_ends_and_its_port_is_used_again() {
    let mut p = served(1000, 9000, 50);
    // The same client port, another ISN: the intake has a tombstone, and owns it.
    p.a.rx(Port::Wire, client(500_000, 0, SYN, syn_opts(900), b""));
    assert_eq!(p.a.one(Port::WireHost).seg.dport, 8001);
    let again = established_at(view(1, 1), 500_000, 77_000);
    let mut q = Pair::frozen_at(again, 500_000, 77_000, GET);
    std::mem::swap(&mut q.b, &mut p.b);
    q.a.s.message_counter = 1_000;
    q.splice_to(2, false);
    q.link();
    let syn = q.b.one(Port::WireHost);
    assert_eq!(
        syn.seg.seq, 500_000,
        "the old flow gives way to the new one"
    );
}
