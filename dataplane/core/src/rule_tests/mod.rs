//! The rules of PROTOCOL, sections 3 to 6, one by one, on two nodes whose stacks
//! are played by hand.

use crate::command::{Command, Event, Fail};
use crate::drops::Drop;
use crate::fcb::State;
use crate::flow_tests::established;
use crate::frame::Port;
use crate::testkit::*;
use crate::view::View;
use crate::wire::options::Build;
use crate::wire::tcp::{ACK, FIN, PSH, RST, SYN};
use crate::wire::{L3, edit, l3, tcp::Segment};
use dts_proto::block::Reason;
use std::net::SocketAddr;

mod answers;
mod fails;
mod held;
mod leaks;
mod noise;
mod options;
mod seats;
mod steering;
mod tombstones;
mod translation;
mod windows;

const GET: &[u8] = b"GET /b/ HTTP/1.1\r\nHost: x\r\n\r\n";

/// Client ISN, server ISN at the intake, and at the destination: far from the
/// wraps, on both sides of 2^31, of 2^32, and with delta 0.
const ISNS: [(u32, u32, u32); 6] = [
    (1000, 9000, 50),
    (0x7fff_ffe8, 0x7fff_fffd, 0xffff_fffa),
    (0xffff_ffe8, 0xffff_fffd, 0x7fff_fffa),
    (u32::MAX, 0, u32::MAX),
    (0x8000_0000, u32::MAX, 0),
    (7, 0x8000_0000, 0x8000_0000),
];

fn sock(a: [u8; 4], p: u16) -> SocketAddr {
    SocketAddr::from((a, p))
}

/// Two nodes and one flow.
struct Pair {
    a: Node,
    b: Node,
    c: u32,
    s: u32,
    l: u32,
    req: Vec<u8>,
}

fn freeze(ticket: u64) -> Command {
    Command::Freeze {
        ticket,
        client: sock(CLIENT, CPORT),
        local: sock(VIP, 8001),
    }
}

fn splice(ticket: u64, dest: SocketAddr, request: &[u8], client_fin: bool) -> Command {
    Command::Splice {
        ticket,
        dest,
        request: request.to_vec(),
        client_fin,
    }
}

/// The flow with these options in the client's SYN and the proxy's SYN-ACK.
fn established_as(v: View, c: u32, s: u32, syn: Build, synack: Build) -> Node {
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
    fn frozen_on(mut a: Node, mut b: Node, c: u32, s: u32, l: u32) -> Self {
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
        a.rx(Port::Wire, client(c1, s1, ACK | PSH, t(130, 5000), GET));
        assert_eq!(a.one(Port::WireHost).payload, GET);
        let k = c1.wrapping_add(GET.len() as u32);
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
            req: GET.to_vec(),
        }
    }

    fn frozen(c: u32, s: u32, l: u32) -> Self {
        Self::frozen_on(established(c, s), Node::new(view(2, 1)), c, s, l)
    }

    fn splice_to(&mut self, node: u8) {
        let dest = sock([10, 77, 1, node], 8080);
        self.a.command(splice(1, dest, &self.req.clone(), false));
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

    /// The splice is at the destination, whose stack has got the replayed SYN.
    fn spliced(c: u32, s: u32, l: u32) -> Self {
        let mut p = Self::frozen(c, s, l);
        p.splice_to(2);
        p.link();
        assert_eq!(p.b.one(Port::WireHost).seg.flags, SYN);
        p
    }

    /// The destination's stack takes the whole SYN.
    fn synack(&self, opts: Build) -> Vec<u8> {
        host(8080, self.l, self.k(), SYN | ACK, 65_160, opts, b"")
    }

    fn cut_over(&mut self) {
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
    }

    fn served(c: u32, s: u32, l: u32) -> Self {
        let mut p = Self::spliced(c, s, l);
        p.cut_over();
        assert!(p.b.tx(Port::Wire).is_empty(), "the client has its ACK");
        p
    }

    fn k(&self) -> u32 {
        self.c.wrapping_add(1).wrapping_add(self.req.len() as u32)
    }
    /// The first server number, as the client and as the destination's stack see it.
    fn s1(&self) -> u32 {
        self.s.wrapping_add(1)
    }
    fn l1(&self) -> u32 {
        self.l.wrapping_add(1)
    }

    /// The application sends `n` bytes; the client has not acknowledged them.
    fn answer(&mut self, n: usize) {
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

/// `frame`, which has no options, with these raw ones; NOPs fill them up.
fn with_options(frame: &[u8], opts: &[u8]) -> Vec<u8> {
    let Ok(L3::Ip(ip)) = l3(frame) else {
        panic!("not IP")
    };
    let s = Segment::parse(frame, &ip).expect("TCP");
    assert_eq!(s.data, s.opts_at, "no options yet");
    let mut o = opts.to_vec();
    o.resize(opts.len().next_multiple_of(4), 1);
    let mut f = [&frame[..s.opts_at], &o, &frame[s.data..s.end]].concat();
    f[s.l4 + 12] = ((20 + o.len()) / 4 << 4) as u8;
    let end = f.len();
    edit::set_ip_len(&mut f, end - 14);
    edit::write_tcp_checksum(&mut f, s.l4, end);
    f
}

/// A SACK option of these blocks behind `pad` NOPs.
fn sack(pad: usize, blocks: &[(u32, u32)]) -> Vec<u8> {
    let mut o = vec![1; pad];
    o.extend([5, (2 + blocks.len() * 8) as u8]);
    for (left, right) in blocks {
        o.extend(left.to_be_bytes());
        o.extend(right.to_be_bytes());
    }
    o
}

/// The SACK blocks of a frame; its checksum is verified too.
fn sack_of(frame: &[u8]) -> Option<Vec<(u32, u32)>> {
    let s = seen(frame).seg;
    let (at, n) = s.opts.sack?;
    let word = |i: usize| {
        let at = s.opts_at + at + i * 4;
        u32::from_be_bytes(frame[at..at + 4].try_into().unwrap())
    };
    Some((0..n).map(|i| (word(2 * i), word(2 * i + 1))).collect())
}
