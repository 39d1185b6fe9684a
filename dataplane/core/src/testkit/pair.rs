//! Two nodes with one flow, at each step of its handover.

use super::*;
use crate::command::{Command, Event};
use crate::fcb::State;
use crate::wire::tcp::{ACK, PSH, SYN};
use std::net::SocketAddr;

pub const GET: &[u8] = b"GET /b/ HTTP/1.1\r\nHost: x\r\n\r\n";

/// Client ISN, server ISN at the intake, and at the destination: far from the
/// wraps, on both sides of 2^31, of 2^32, and with delta 0.
pub const ISNS: [(u32, u32, u32); 6] = [
    (1000, 9000, 50),
    (0x7fff_ffe8, 0x7fff_fffd, 0xffff_fffa),
    (0xffff_ffe8, 0xffff_fffd, 0x7fff_fffa),
    (u32::MAX, 0, u32::MAX),
    (0x8000_0000, u32::MAX, 0),
    (7, 0x8000_0000, 0x8000_0000),
];

pub fn sock(a: impl Into<IpAddr>, p: u16) -> SocketAddr {
    SocketAddr::new(a.into(), p)
}

/// Two nodes and one flow.
pub struct Pair {
    pub a: Node,
    pub b: Node,
    pub c: u32,
    pub s: u32,
    pub l: u32,
    pub req: Vec<u8>,
}

pub fn freeze(ticket: u64) -> Command {
    Command::Freeze {
        ticket,
        client: sock(CLIENT, CPORT),
        local: sock(VIP, 8001),
    }
}

/// Freezes the same flow where an application serves it.
pub fn freeze_served(ticket: u64) -> Command {
    Command::Freeze {
        ticket,
        client: sock(CLIENT, CPORT),
        local: sock(VIP, 8080),
    }
}

pub fn splice(ticket: u64, dest: SocketAddr, request: &[u8], client_fin: bool) -> Command {
    Command::Splice {
        ticket,
        dest,
        request: request.to_vec(),
        taken: 0,
        client_fin,
    }
}

/// The flow with these options in the client's SYN and the proxy's SYN-ACK.
pub fn established_as(v: View, c: u32, s: u32, syn: Build, synack: Build) -> Node {
    let mut n = Node::new(v);
    n.rx(Port::Wire, client(c, 0, SYN, syn, b""));
    n.tx(Port::WireHost);
    let c1 = c.wrapping_add(1);
    n.rx(
        Port::WireHost,
        host(8001, s, c1, SYN | ACK, 65_160, synack, b""),
    );
    n.tx(Port::Wire);
    n.pass(20);
    let o = if syn.timestamps.is_some() && synack.timestamps.is_some() {
        ts(120, 5000)
    } else {
        Build::default()
    };
    n.rx(Port::Wire, client(c1, s.wrapping_add(1), ACK, o, b""));
    assert_eq!(n.tx(Port::WireHost).len(), 1);
    n
}

impl Pair {
    /// The request has reached the proxy's stack of `a`, which acknowledged it,
    /// and the flow is frozen.
    pub fn frozen_on(a: Node, b: Node, c: u32, s: u32, l: u32) -> Self {
        Self::frozen_with(a, b, (c, s, l), GET)
    }

    /// The same with another request than [`GET`].
    pub fn frozen_with(mut a: Node, mut b: Node, (c, s, l): (u32, u32, u32), req: &[u8]) -> Self {
        let (c1, s1) = (c.wrapping_add(1), s.wrapping_add(1));
        let slot = a.s.slots.iter().position(|f| f.state == State::Intake);
        let with_ts = a.s.slots[slot.expect("an established flow")].agreed.ts;
        let t = |val, ecr| {
            if with_ts {
                ts(val, ecr)
            } else {
                Build::default()
            }
        };
        let mut k = c1;
        for part in req.chunks(1400) {
            a.rx(Port::Wire, client(k, s1, ACK | PSH, t(130, 5000), part));
            assert_eq!(a.one(Port::WireHost).payload, part);
            k = k.wrapping_add(part.len() as u32);
        }
        a.rx(
            Port::WireHost,
            host(8001, s1, k, ACK, 500, t(5010, 130), b""),
        );
        assert_eq!(a.one(Port::Wire).seg.ack, k);
        a.command(freeze(1));
        assert!(matches!(a.events()[..], [Event::Frozen { ticket: 1, .. }]));
        b.v.params = a.v.params;
        Self {
            a,
            b,
            c,
            s,
            l,
            req: req.to_vec(),
        }
    }

    /// Node 1 as it is, a fresh node 2 and [`GET`]; the local ISN is 50.
    pub fn of(a: Node, c: u32, s: u32) -> Self {
        Self {
            a,
            b: Node::new(view(2, 1)),
            c,
            s,
            l: 50,
            req: GET.to_vec(),
        }
    }

    pub fn frozen(c: u32, s: u32, l: u32) -> Self {
        Self::frozen_on(established(c, s), Node::new(view(2, 1)), c, s, l)
    }

    /// The same without timestamps, and the options of its SYN-ACKs.
    pub fn frozen_without_timestamps() -> (Self, Build) {
        Self::frozen_bare(true)
    }

    /// The same without timestamps, with SACK or not.
    pub fn frozen_bare(sack: bool) -> (Self, Build) {
        let bare = |o: Build| Build {
            timestamps: None,
            sack_permitted: sack,
            ..o
        };
        let (syn, synack) = (bare(syn_opts(100)), bare(synack_opts(5000, 100)));
        let a = established_as(view(1, 1), 1000, 9000, syn, synack);
        let p = Self::frozen_on(a, Node::new(view(2, 1)), 1000, 9000, 50);
        (p, synack)
    }

    pub fn splice_to(&mut self, node: u8) {
        self.splice_fin(node, false);
    }

    /// Splices; `fin` says that the client has sent its FIN behind the request.
    pub fn splice_fin(&mut self, node: u8, fin: bool) {
        let dest = sock(on_link(node), 8080);
        self.a.command(splice(1, dest, &self.req.clone(), fin));
    }

    /// Carries link frames until both are silent; gives their number.
    pub fn link(&mut self) -> usize {
        let mut n = 0;
        loop {
            let (x, y) = (self.a.tx(Port::Link), self.b.tx(Port::Link));
            if x.is_empty() && y.is_empty() {
                return n;
            }
            n += x.len() + y.len();
            let most = crate::wire::ETH_LEN + self.a.v.params.mtu;
            assert!(x.iter().chain(&y).all(|f| f.len() <= most), "over the MTU");
            x.into_iter().for_each(|f| self.b.rx(Port::Link, f));
            y.into_iter().for_each(|f| self.a.rx(Port::Link, f));
        }
    }

    /// The splice is at the destination, whose stack has got the replayed SYN.
    pub fn spliced(c: u32, s: u32, l: u32) -> Self {
        let mut p = Self::frozen(c, s, l);
        p.splice_to(2);
        p.link();
        assert_eq!(p.b.one(Port::WireHost).seg.flags, SYN);
        p
    }

    /// The destination's stack takes the whole SYN.
    pub fn synack(&self, opts: Build) -> Vec<u8> {
        host(8080, self.l, self.k(), SYN | ACK, 65_160, opts, b"")
    }

    pub fn cut_over(&mut self) {
        let f = self.synack(synack_opts(777, 130));
        self.b.rx(Port::WireHost, f);
        self.link();
        let e = self.a.events();
        assert!(
            matches!(
                e[..],
                [Event::Done {
                    ticket: 1,
                    node: 2,
                    ..
                }]
            ),
            "{e:?}"
        );
        self.b.told();
    }

    pub fn served(c: u32, s: u32, l: u32) -> Self {
        let mut p = Self::spliced(c, s, l);
        p.cut_over();
        assert!(p.b.tx(Port::Wire).is_empty(), "the client has its ACK");
        p
    }

    pub fn k(&self) -> u32 {
        self.c.wrapping_add(1).wrapping_add(self.req.len() as u32)
    }
    /// The first server number, as the client and as the destination's stack see it.
    pub fn s1(&self) -> u32 {
        self.s.wrapping_add(1)
    }
    pub fn l1(&self) -> u32 {
        self.l.wrapping_add(1)
    }

    /// The application sends `n` bytes; the client has not acknowledged them.
    pub fn answer(&mut self, n: usize) {
        let body = vec![b'a'; n];
        let f = host(
            8080,
            self.l1(),
            self.k(),
            ACK | PSH,
            510,
            ts(779, 130),
            &body,
        );
        self.b.rx(Port::WireHost, f);
        assert_eq!(self.b.one(Port::Wire).seg.seq, self.s1());
    }
}

/// Client and intake shake hands; gives the node with an established flow.
pub fn established(c_isn: u32, s_isn: u32) -> Node {
    established_at(view(1, 1), c_isn, s_isn)
}

pub fn established_at(v: crate::view::View, c_isn: u32, s_isn: u32) -> Node {
    let mut n = Node::new(v);
    n.rx(Port::Wire, client(c_isn, 0, SYN, syn_opts(100), b""));
    let s = n.one(Port::WireHost);
    assert_eq!(
        (s.seg.dport, s.seg.seq, s.eth_dst),
        (8001, c_isn, CLUSTER_MAC)
    );
    n.rx(
        Port::WireHost,
        host(
            8001,
            s_isn,
            c_isn.wrapping_add(1),
            SYN | ACK,
            65_160,
            synack_opts(5000, 100),
            b"",
        ),
    );
    let s = n.one(Port::Wire);
    assert_eq!((s.seg.sport, s.seg.seq, s.eth_dst), (80, s_isn, CLIENT_MAC));
    assert_eq!(
        s.eth_src, n.v.wire_mac,
        "the cluster MAC never leaves as a source"
    );
    assert_eq!(s.seg.window, 59_776, "rule 4: no more than W");
    n.now = n.now + crate::time::Span::millis(20);
    n.rx(
        Port::Wire,
        client(
            c_isn.wrapping_add(1),
            s_isn.wrapping_add(1),
            ACK,
            ts(120, 5000),
            b"",
        ),
    );
    assert_eq!(n.one(Port::WireHost).seg.dport, 8001);
    n
}
