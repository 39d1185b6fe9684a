//! The operations of an input. The first byte of each names it (lower five bits),
//! the node (the next bit) and the connection (the last two). Operation 11 has a second
//! byte: see `more.rs`.

use super::node::{Node, Settings, VIPS, link, link_mac, own};
use super::peers::{self, Client, LENS, MOODS, answer, bytes, mutate, with_options};
use super::said::{self, Way};
use crate::input::Input;
use dts_core::command::Command;
use dts_core::frame::Port;
use dts_core::key::Addr;
use dts_core::time::{Instant, Span};
use dts_core::wire::arp::{self, Arp};
use dts_core::wire::checksum;
use dts_core::wire::icmp;
use dts_core::wire::nd;
use dts_core::wire::options::Build;
use dts_core::wire::tcp::{ACK, FIN, PSH, RST, SYN};
use dts_core::wire::{self, L3};
use std::net::SocketAddr;

const VIP: [u8; 4] = [10, 77, 0, 100];

/// The cluster and its clients.
pub struct World {
    pub settings: Settings,
    pub nodes: Vec<Node>,
    pub clients: [Client; 4],
    pub now: Instant,
    pub tickets: u64,
    said: u64,
    /// Looks at the nodes' sockets.
    pub looks: u64,
    /// Which node an operation's bit names: of three the one or its next.
    pub turn: usize,
}

/// One operation's subject.
#[derive(Clone, Copy, Debug)]
pub struct At {
    pub node: usize,
    pub client: usize,
}

impl World {
    pub fn new(u: &mut Input<'_>) -> Self {
        let settings = Settings::new(u);
        Self {
            nodes: (1..=settings.nodes)
                .map(|n| Node::new(settings, n))
                .collect(),
            settings,
            clients: std::array::from_fn(|n| Client::new(n, u)),
            now: Instant(1_000_000),
            tickets: 0,
            said: 0,
            looks: 0,
            turn: 0,
        }
    }

    pub fn step(&mut self, u: &mut Input<'_>) {
        let b = usize::from(u.next::<u8>());
        let at = At {
            node: ((b >> 5 & 1) + self.turn) % self.nodes.len(),
            client: b >> 6,
        };
        if super::traced() {
            let op = b & 31;
            eprintln!("{} us: operation {op} at {at:?}", self.now.0 / 1000);
        }
        let client = &mut self.clients[at.client];
        match b & 31 {
            0 => {
                client.nxt = client.isn;
                let f = client.say(SYN, 0);
                self.broadcast(f);
            }
            1 => {
                let f = client.say(ACK, 0);
                self.broadcast(f);
            }
            2 => {
                let len = u.pick(&LENS).min(self.settings.mtu - 100);
                let f = client.say(ACK | PSH, len);
                self.broadcast(f);
            }
            3 => {
                let f = client.say(ACK | FIN, 0);
                self.broadcast(f);
            }
            4 => {
                let f = client.segment(client.nxt, client.rcv, RST, &[]);
                self.broadcast(f);
            }
            5 => {
                // Another connection on the same ports.
                client.isn = client.near(u);
                client.nxt = client.isn;
                client.stacks[0] = client.stacks[0].wrapping_add(77_777);
                let f = client.say(SYN, 0);
                self.broadcast(f);
            }
            6 | 7 => {
                let f = self.any_client(at, u);
                if b & 1 == 0 {
                    self.broadcast(f);
                } else {
                    self.rx(at.node, Port::Wire, f);
                }
            }
            8 => self.stack(at, MOODS[0], true),
            9 => {
                let p = u.next::<u8>();
                self.stack(at, MOODS[usize::from(p & 7)], p & 8 == 0);
            }
            10 => {
                let f = self.any_host(at, u);
                self.rx(at.node, Port::WireHost, f);
            }
            11 => self.more(at, u),
            12 => {
                for _ in 0..8 {
                    self.deliver(at.node, false, None);
                }
            }
            13 => {
                let p = u.next::<u8>();
                let change = (p & 1 != 0).then_some(&mut *u);
                self.deliver(at.node, p & 2 != 0, change);
            }
            14 => {
                self.nodes[at.node].to_link.pop_front();
            }
            15 => {
                let queue = &mut self.nodes[at.node].to_link;
                queue.rotate_left(1.min(queue.len()));
            }
            16 => self.freeze(at),
            17 => self.splice(at, u),
            18 => {
                let ticket = self.tickets.saturating_sub(u.below(2) as u64);
                self.nodes[at.node].unfreeze(ticket, self.now);
                self.heard(at.node);
            }
            19 => self.pass(1),
            20 => {
                let ms = u.next::<u8>();
                self.pass(u64::from(ms));
            }
            21 => {
                let n = u64::from(u.next::<u8>());
                self.now = self.now + Span::secs(n * n);
                self.pass(1);
            }
            22 => {
                let way = self.way(at, u);
                let f = said::message(&self.clients[at.client], &way, u);
                self.rx(at.node, Port::Link, f);
            }
            23 => {
                let way = self.way(at, u);
                let f = said::bare(&self.clients[at.client], &way, u);
                self.rx(at.node, Port::Link, f);
            }
            24 => {
                let port = u.pick(&Port::ALL);
                let n = u.below(128);
                let f = u.bytes(n).to_vec();
                self.rx(at.node, port, f);
            }
            25 if u.more() && u.next::<u8>() & 1 == 0 => self.nd(at, u),
            25 => self.arp(at, u),
            26 => self.icmp(at, u),
            27 => self.view(at, u),
            28 => {
                // Handed over as it should be, as far as nobody disturbs it.
                self.freeze(at);
                self.splice_to(at, self.peer_of(at.node), 0);
            }
            29 => {
                let f = self.client_sacks(at, u);
                self.broadcast(f);
            }
            30 => {
                let f = self.stranger(at, u);
                let port = u.pick(&Port::ALL);
                self.rx(at.node, port, f);
            }
            _ => {
                // A round trip of everything that is under way.
                for node in 0..self.nodes.len() {
                    self.stack(At { node, ..at }, MOODS[0], true);
                    self.deliver(node, false, None);
                }
            }
        }
    }

    /// Time passes until everything must be over.
    pub fn settle(&mut self) {
        for _ in 0..600 {
            self.now = self.now + Span::millis(5);
            self.tick();
        }
        for _ in 0..4 {
            self.now = self.now + Span::secs(3_700);
            for _ in 0..3 {
                self.now = self.now + Span::millis(600);
                self.tick();
            }
        }
        for n in &self.nodes {
            n.is_empty();
        }
    }

    fn tick(&mut self) {
        for i in 0..self.nodes.len() {
            self.nodes[i].tick(self.now);
            self.heard(i);
        }
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now = self.now + Span::millis(1);
            self.tick();
        }
    }

    pub fn rx(&mut self, node: usize, port: Port, frame: Vec<u8>) {
        self.nodes[node].rx(port, frame, self.now);
        self.heard(node);
    }

    pub fn command(&mut self, node: usize, c: Command) {
        self.nodes[node].command(c, self.now);
        self.heard(node);
    }

    pub fn broadcast(&mut self, frame: Vec<u8>) {
        for i in 0..self.nodes.len() {
            self.rx(i, Port::Wire, frame.clone());
        }
    }

    /// The clients hear what a node sent on the wire.
    pub fn heard(&mut self, node: usize) {
        for f in std::mem::take(&mut self.nodes[node].to_wire) {
            self.clients.iter_mut().for_each(|c| c.hear(&f));
        }
    }

    pub fn any_client(&mut self, at: At, u: &mut Input<'_>) -> Vec<u8> {
        let c = &self.clients[at.client];
        let (seq, ack, flags) = (c.near(u), c.near(u), u.next::<u8>());
        let len = u.pick(&LENS).min(self.settings.mtu - 100);
        let mut f = c.segment(seq, ack, flags, &bytes(seq, len));
        mutate(&mut f, u);
        f
    }

    fn client_sacks(&mut self, at: At, u: &mut Input<'_>) -> Vec<u8> {
        let c = &self.clients[at.client];
        let plain = Client { options: 0, ..*c };
        let f = plain.segment(c.nxt, c.rcv, ACK, &[]);
        let n = 1 + u.below(3);
        let mut o = vec![1, 1, 5, (2 + 8 * n) as u8];
        for _ in 0..2 * n {
            o.extend(c.near(u).to_be_bytes());
        }
        with_options(&f, &o)
    }

    pub fn any_host(&mut self, at: At, u: &mut Input<'_>) -> Vec<u8> {
        let c = &self.clients[at.client];
        let b = u.next::<u8>();
        let app = self.settings.app_port();
        let port = [8001, app, app, 80, 25, 9999, 8001, app][usize::from(b & 7)];
        let (seq, ack, flags) = (c.near(u), c.near(u), u.next::<u8>());
        let len = LENS[usize::from(b >> 3 & 7)].min(self.settings.mtu - 100);
        let syn = flags & SYN != 0;
        let opts = Build {
            mss: syn.then_some(1460),
            sack_permitted: syn,
            timestamps: (b & 0x40 != 0).then(|| (u.next(), c.clock)),
            wscale: (syn && b & 0x80 != 0).then_some(u.next::<u8>() % 16),
            splice: None,
        };
        let mut f = c.host(port, (seq, ack, flags), opts, &bytes(seq, len));
        if !syn && b & 0xc0 == 0x80 {
            let n = u.below(41);
            f = with_options(&f, u.bytes(n));
        }
        mutate(&mut f, u);
        f
    }

    /// The stack of a node answers the oldest segment that it was given.
    fn stack(&mut self, at: At, mood: peers::Mood, take: bool) {
        let node = &mut self.nodes[at.node];
        let frame = if take {
            node.to_stack.pop_front()
        } else {
            node.to_stack.front().cloned()
        };
        let Some(frame) = frame else { return };
        // By the port: the proxy's stack has one first number, the application's
        // another.
        let ports = match wire::l3(&frame) {
            Ok(L3::Ip(ip)) => wire::tcp::ports(&frame, &ip),
            _ => None,
        };
        let proxy = ports.is_some_and(|(_, dport)| dport == 8001);
        let sport = ports.map(|(sport, _)| sport);
        let c = self.clients.iter().find(|c| Some(c.port) == sport);
        let isn = c.map_or(0, |c| c.stacks[usize::from(!proxy)]);
        if let Some(f) = answer(&frame, isn, mood) {
            self.rx(at.node, Port::WireHost, f);
        }
    }

    /// The oldest frame that a node sent on the link reaches the node that it is for.
    fn deliver(&mut self, from: usize, keep: bool, change: Option<&mut Input<'_>>) {
        let queue = &mut self.nodes[from].to_link;
        let frame = if keep {
            queue.front().cloned()
        } else {
            queue.pop_front()
        };
        let Some(mut frame) = frame else { return };
        let to = (1..=self.settings.nodes).find(|n| frame[..6] == link_mac(*n));
        let to = to.map_or(from, |n| usize::from(n) - 1);
        if let Some(u) = change {
            mutate(&mut frame, u);
        }
        self.rx(to, Port::Link, frame);
    }

    /// Id of the node to which a handover of this one goes.
    pub fn peer_of(&self, node: usize) -> u16 {
        ((node + 1) % self.nodes.len()) as u16 + 1
    }

    fn freeze(&mut self, at: At) {
        self.freeze_at(at, 8001);
    }

    /// Freezes the flow of the local socket with this port.
    pub fn freeze_at(&mut self, at: At, port: u16) {
        self.tickets += 1;
        let c = &self.clients[at.client];
        let freeze = Command::Freeze {
            ticket: self.tickets,
            client: SocketAddr::new(c.addr, c.port),
            local: SocketAddr::new(c.vip, port),
        };
        self.command(at.node, freeze);
    }

    fn splice(&mut self, at: At, u: &mut Input<'_>) {
        let b = u.next::<u8>();
        let to = [self.peer_of(at.node), at.node as u16 + 1, 1, 9][usize::from(b & 3)];
        self.splice_to(at, to, b >> 2);
    }

    /// `variant` 0 is what a daemon would ask.
    fn splice_to(&mut self, at: At, to: u16, variant: u8) {
        let c = &self.clients[at.client];
        let sent = c.nxt.wrapping_sub(c.isn.wrapping_add(1));
        let len = if sent > 70_000 { 0 } else { sent as usize };
        let len = match variant & 7 {
            1 => len + 1,
            2 => len.saturating_sub(1),
            3 => 20_000,
            4 => 0,
            5 => 60_000,
            _ => len,
        };
        let port = if variant & 8 == 0 {
            self.settings.app_port()
        } else {
            8001
        };
        let splice = Command::Splice {
            ticket: self.tickets,
            dest: SocketAddr::new(link(to).ip(), port),
            request: bytes(c.isn.wrapping_add(1), len),
            taken: 0,
            client_fin: variant & 16 != 0,
        };
        self.command(at.node, splice);
    }

    /// How a message comes from another node (or one that is not there) to this.
    fn way(&mut self, at: At, u: &mut Input<'_>) -> Way {
        self.said += 1;
        let members = usize::from(self.settings.members());
        let step = if members == 3 { 1 + u.below(2) } else { 1 };
        let other = (at.node + step) % members;
        let from = self.nodes.get(other).map_or(1002, |n| n.v.incarnation);
        Way {
            from: other as u16 + 1,
            to: at.node as u16 + 1,
            incarnations: [from, self.nodes[at.node].v.incarnation],
            counter: self.said,
            app_port: self.settings.app_port(),
        }
    }

    fn arp(&mut self, at: At, u: &mut Input<'_>) {
        let mac = [2, 0, 0, 0, 0, 200];
        let a = Arp {
            op: u.next::<u8>().into(),
            sha: mac,
            spa: u.pick(&[VIP, [10, 77, 0, 200], [10, 77, 0, 1]]),
            tha: [0; 6],
            tpa: u.pick(&[VIP, [10, 77, 0, 1], [10, 77, 0, 9]]),
        };
        assert!(a.op != arp::REQUEST || a.tpa != [0; 4]);
        let port = u.pick(&[Port::Wire, Port::WireHost]);
        self.rx(at.node, port, a.frame([0xff; 6], mac).to_vec());
    }

    /// Neighbour discovery from the wire or from the host.
    fn nd(&mut self, at: At, u: &mut Input<'_>) {
        let b = u.next::<u8>();
        let vip = VIPS[1].into();
        let target = u.pick(&[vip, own(1, false), own(9, false)]);
        let client = self.clients[1].addr.into();
        let mac = [2, 0, 0, 0, 0, 200];
        let mut f = solicit(u.pick(&[client, vip, own(1, false)]), &target, mac);
        if b & 1 != 0 {
            f[54] = u.pick(&[nd::ADVERT, nd::ROUTER_SOLICIT, nd::REDIRECT, 134, 128]);
        }
        if b & 2 != 0 {
            // The unspecified address: is this address in use?
            f[22..38].fill(0);
        }
        if b & 4 != 0 {
            let (i, x) = (usize::from(u.next::<u8>()), u.next::<u8>());
            let i = i % f.len();
            f[i] ^= x;
        }
        if b & 8 == 0 {
            icmp6_checksum(&mut f);
        }
        let port = u.pick(&[Port::Wire, Port::WireHost]);
        self.rx(at.node, port, f);
    }

    fn icmp(&mut self, at: At, u: &mut Input<'_>) {
        let c = &self.clients[at.client];
        let port = u.pick(&[c.to, 8001, 25]);
        let head = (c.near(u), c.near(u), ACK);
        let quoted = c.host(port, head, Build::default(), &[]);
        let mut eth = [0; 14];
        eth.copy_from_slice(&c.segment(0, 0, ACK, &[])[..14]);
        let mut f = if c.addr.is_ipv4() {
            icmp::frag_needed(&eth, [10, 77, 0, 254], &quoted[14..], 1400)
        } else {
            icmp::packet_too_big(&eth, &own(254, false), &quoted[14..], 1400)
        };
        let n = u.below(3);
        for _ in 0..n {
            let (i, x) = (usize::from(u.next::<u8>()), u.next::<u8>());
            let i = i % f.len();
            f[i] ^= x;
        }
        self.rx(at.node, Port::Wire, f);
    }

    /// What a node knows of the members changes, or it starts anew.
    fn view(&mut self, at: At, u: &mut Input<'_>) {
        let b = u.next::<u8>();
        let other = usize::from((b & 1) + (b >> 4 & 1)) % usize::from(self.settings.members());
        let m = &mut self.nodes[at.node].v.members[other];
        match b >> 1 & 7 {
            0 => m.alive = !m.alive,
            1 => m.gone = !m.gone,
            2 => m.known = None,
            3 => {
                if let Some((_, newest)) = &mut m.known {
                    *newest += 1;
                }
            }
            4 => {
                self.nodes[at.node].restart();
                let now = self.nodes[at.node].v.incarnation;
                for n in &mut self.nodes {
                    if let Some((_, newest)) = &mut n.v.members[at.node].known {
                        *newest = now;
                    }
                }
            }
            _ => {
                *m = dts_core::view::Member {
                    known: Some((link_mac(other as u16 + 1), 0)),
                    alive: true,
                    gone: false,
                    on_wire: true,
                    takes: u64::MAX,
                    ..*m
                };
                let now = self.nodes.get(other).map_or(1002, |n| n.v.incarnation);
                if let Some((_, newest)) = &mut self.nodes[at.node].v.members[other].known {
                    *newest = now;
                }
            }
        }
    }

    /// A segment of a client or stack to or from some port of ours or another.
    fn stranger(&mut self, at: At, u: &mut Input<'_>) -> Vec<u8> {
        let mut c = self.clients[at.client];
        c.to = u.pick(&[8001, self.settings.app_port(), 9999, 25, 80, 61_001]);
        c.port = u.pick(&[8001, self.settings.app_port(), c.port, 61_001]);
        let b = u.next::<u8>();
        let mut f = if b & 1 == 0 {
            c.segment(c.nxt, c.rcv, b, &[])
        } else {
            c.host(c.to, (c.nxt, c.rcv, b), Build::default(), &[])
        };
        let node = at.node as u16 + 1;
        let v4 = c.addr.is_ipv4();
        let vip = VIPS[usize::from(!v4)].into();
        let link_local = nd::link_local(self.nodes[at.node].v.wire_mac);
        let fourth = if v4 { own(77, true) } else { link_local };
        let dst = u.pick(&[vip, own(node, v4), link(node), fourth]);
        let l4 = if v4 {
            f[30..34].copy_from_slice(&dst.octets_v4());
            34
        } else {
            f[38..54].copy_from_slice(&dst.0);
            54
        };
        let n = f.len();
        dts_core::wire::edit::set_ip_len(&mut f, n - 14);
        dts_core::wire::edit::write_tcp_checksum(&mut f, l4, n);
        f
    }
}

/// A neighbour solicitation with the sender's address in it (RFC 4861, section 4.3).
fn solicit(src: Addr, target: &Addr, mac: [u8; 6]) -> Vec<u8> {
    let group = nd::solicited_node(target);
    let mut f = nd::group_mac(&group).to_vec();
    f.extend(mac);
    f.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, nd::PROTO_ICMPV6, 255]);
    f.extend(src.0);
    f.extend(group.0);
    f.extend([nd::SOLICIT, 0, 0, 0, 0, 0, 0, 0]);
    f.extend(target.0);
    f.extend([1, 1]);
    f.extend(mac);
    f
}

fn icmp6_checksum(f: &mut [u8]) {
    f[56..58].fill(0);
    let n = f.len() - 54;
    let (mut src, mut dst) = ([0; 16], [0; 16]);
    src.copy_from_slice(&f[22..38]);
    dst.copy_from_slice(&f[38..54]);
    let pseudo = checksum::pseudo(&Addr(src), &Addr(dst), nd::PROTO_ICMPV6, n);
    let c = !checksum::fold(pseudo + checksum::sum(&f[54..]));
    f[56..58].copy_from_slice(&c.to_be_bytes());
}
