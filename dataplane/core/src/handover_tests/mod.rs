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

mod held;
mod outcomes;
mod paper;
mod replays;
