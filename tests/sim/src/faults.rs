//! What breaks: nodes, links, applications; and what strangers send.

use crate::node::{APP_PORT, CLUSTER_MAC, Node, SERVICE_PORT, link_addr, link_mac, vip_for};
use crate::plan::{Fault, MS, SEC};
use crate::seg::{ACK, Opts, SYN, Seg};
use crate::world::{Ev, Health, World, client_mac};
use dts_core::frame::Port;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The sequence number of SYNs that no client sent.
pub const STRANGER: u32 = 1000;

/// A silent node is no destination any more after this long ...
const DEAD_AFTER: u64 = 40 * MS;
/// ... and its flows are orphans after this.
const GONE_AFTER: u64 = 3 * SEC;
/// A started node is known to the others after this.
const HELLO_AFTER: u64 = 10 * MS;

impl World {
    pub(crate) fn fault(&mut self, f: Fault) {
        self.say(|| format!("fault: {f:?}"));
        match f {
            Fault::Crash(id) => {
                self.crashed = true;
                let n = self.node(id);
                n.up = false;
                n.proxies.clear();
                n.apps.clear();
                n.host.tcbs.clear();
                if self.plan.members {
                    return self.member_dies(id);
                }
                self.push(self.now + DEAD_AFTER, Ev::Views(id, Health::Dead));
                self.push(self.now + GONE_AFTER, Ev::Views(id, Health::Gone));
            }
            Fault::Restart(id) => {
                let boot = self.node(id).boot + 1;
                let mut n = Node::new(&self.plan, id, boot);
                if self.plan.members {
                    *self.node(id) = n;
                    self.restart_ticks(id, boot);
                    return self.member_boots(id);
                }
                // It learns of the others by their hellos.
                for m in &mut n.view.members {
                    let other = &self.nodes[usize::from(m.id) - 1];
                    let boot = if m.id == id { boot } else { other.boot };
                    m.known = Some((link_mac(m.id), crate::node::incarnation(m.id, boot)));
                }
                *self.node(id) = n;
                self.push(self.now + HELLO_AFTER, Ev::Views(id, Health::Back));
                self.restart_ticks(id, boot);
            }
            Fault::Cut(a, b) => self.cuts.push((a, b)),
            Fault::Heal(a, b) => self.cuts.retain(|&c| c != (a, b)),
            Fault::Halves(side) => {
                self.disturb(self.now);
                self.cuts = halves(self.plan.nodes, side);
            }
            Fault::Whole => {
                self.cuts.clear();
                self.disturb(self.now);
                self.watch.healed = self.now;
            }
            Fault::WireCut(id) => {
                self.watch.deaf.insert(id);
            }
            Fault::WireHeal(id) => {
                self.watch.deaf.remove(&id);
            }
            Fault::Freeze(id, span) => self.freeze(id, span),
            Fault::Drain(id) => self.drain(id, true),
            Fault::Undrain(id) => self.drain(id, false),
            Fault::Agreed => self.all_agree(),
            Fault::Divided => self.halves_agree(),
            Fault::AppDies(id) => {
                let n = self.node(id);
                n.host.listen.remove(&APP_PORT);
                for (name, t) in &mut n.host.tcbs {
                    if name.0 == APP_PORT {
                        t.socket().abort();
                    }
                }
                self.note_app_reset();
                self.host_runs(id);
            }
            Fault::Reopen => {
                if let Some(c) = &self.clients[0] {
                    let ahead = c.numbers().1.wrapping_add(70_000);
                    self.plan.clients[0].setup.isn = ahead;
                    self.push(self.now + MS, Ev::ClientStart(0));
                }
            }
            Fault::Fragments => self.fragments(),
            Fault::Storm(rounds, gap) => self.storm(rounds, gap),
            Fault::StormOver(rounds) => self.storm_over(rounds),
            Fault::Solicit => {
                let own = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x2ff);
                self.solicit(own.into());
            }
            Fault::Routed => self.routed(),
            Fault::Forget(id) => self.node(id).host.tcbs.clear(),
            Fault::Look(id) => {
                let now = self.now;
                self.node(id).look(now, now);
            }
            Fault::NoFlow(id) => self.no_flow(id),
            Fault::Moved => self.moved(),
            Fault::Icmp => self.icmp(),
            Fault::Option32 => {
                let mut s = self.stranger(SYN, STRANGER, 0);
                s.opts.raw = option32();
                s.payload = b"GET / HTTP/1.1".to_vec();
                self.broadcast(0, s.frame(CLUSTER_MAC, client_mac(0)));
            }
            Fault::Replayed => {
                for b in self.heard.clone() {
                    let to = u16::from(b[5]);
                    self.push(self.now + MS, Ev::ToNode(to, Port::Link, b));
                }
            }
            Fault::Forged => {
                for b in self.heard.clone() {
                    self.forge(&b);
                }
            }
            Fault::BareSplice => {
                for id in 1..=self.plan.nodes {
                    let mut s = self.stranger(SYN, STRANGER, 0);
                    let from = (id % self.plan.nodes) + 1;
                    s.src = Ipv4Addr::from(link_addr(from)).into();
                    s.dst = Ipv4Addr::from(link_addr(id)).into();
                    s.sport = 61_003;
                    s.dport = APP_PORT;
                    s.opts.raw = option32();
                    let b = s.frame(link_mac(id), link_mac(from));
                    self.push(self.now, Ev::ToNode(id, Port::Link, b));
                }
            }
            Fault::OldSyn => {
                if let Some(b) = self.first_syn.clone() {
                    self.broadcast(0, b);
                }
            }
            Fault::WrongAck => {
                let (isn, _) = self.clients[0].as_ref().map_or((0, 0), |c| c.numbers());
                let mut s = self.stranger(ACK, isn.wrapping_add(1), 0x1234_5678);
                s.opts.ts = self.check.clock_of(self.client_addr(0)).map(|val| (val, 0));
                self.broadcast(0, s.frame(CLUSTER_MAC, client_mac(0)));
            }
        }
    }

    /// A link message with another counter and another handover number.
    fn forge(&mut self, b: &[u8]) {
        let Some(mut s) = Seg::of_frame(b) else {
            return;
        };
        for at in [50, 115] {
            if let Some(x) = s.payload.get_mut(at) {
                *x = x.wrapping_add(1);
            }
        }
        let (mut dst, mut src) = ([0; 6], [0; 6]);
        dst.copy_from_slice(&b[..6]);
        src.copy_from_slice(&b[6..12]);
        let to = u16::from(b[5]);
        self.push(self.now + MS, Ev::ToNode(to, Port::Link, s.frame(dst, src)));
    }

    /// A segment in the name of client 0 that it never sent.
    pub(crate) fn stranger(&self, flags: u8, seq: u32, ack: u32) -> Seg {
        Seg {
            src: self.client_addr(0).ip(),
            dst: vip_for(self.client_addr(0).ip()),
            sport: self.client_addr(0).port(),
            dport: SERVICE_PORT,
            seq,
            ack,
            flags,
            window: 1000,
            urgent: 0,
            opts: Opts::default(),
            payload: Vec::new(),
        }
    }

    /// "Fragmentation needed" about the last segment that the client was sent, and what
    /// becomes of it: the server's stack must find its own numbers in the quote.
    fn icmp(&mut self) {
        let Some((s_isn, _)) = self.check.model.server(self.client_addr(0)) else {
            return;
        };
        let mut q = self.stranger(ACK, s_isn.wrapping_add(1), 0);
        std::mem::swap(&mut q.src, &mut q.dst);
        std::mem::swap(&mut q.sport, &mut q.dport);
        let quote = q.packet();
        let from: IpAddr = match q.src {
            IpAddr::V4(_) => Ipv4Addr::new(10, 77, 0, 254).into(),
            IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x254).into(),
        };
        let f = if q.src.is_ipv4() {
            let icmp = [&[3, 4, 0, 0, 0, 0, 5, 0], &quote[..28]].concat();
            packet(from, q.src, 1, icmp)
        } else {
            let icmp = [&[2, 0, 0, 0, 0, 0, 5, 0], &quote[..60]].concat();
            packet(from, q.src, 58, icmp)
        };
        let f = [&CLUSTER_MAC[..], &client_mac(0), &f].concat();
        self.icmp_sent = true;
        self.broadcast(0, f);
    }

    /// What the others come to think of a node.
    pub(crate) fn views(&mut self, id: u16, h: Health) {
        let (up, boot) = (self.node(id).up, self.node(id).boot);
        if up != (h == Health::Back) {
            return;
        }
        for n in &mut self.nodes {
            for m in n.view.members.iter_mut().filter(|m| m.id == id) {
                m.alive = h == Health::Back;
                m.gone = h == Health::Gone;
                if h == Health::Back {
                    m.known = Some((link_mac(id), crate::node::incarnation(id, boot)));
                }
            }
        }
    }
}

/// The pairs of nodes that a link in two halves keeps apart.
fn halves(nodes: u16, side: u16) -> Vec<(u16, u16)> {
    let on = |n: u16| side >> n & 1;
    let pairs = (1..=nodes).flat_map(|a| (1..a).map(move |b| (a, b)));
    pairs.filter(|&(a, b)| on(a) != on(b)).collect()
}

fn option32() -> Vec<u8> {
    vec![32, 12, 10, 77, 0, 200, 0x9c, 0x40, 0, 0, 0, 1]
}

/// An ICMP message with its checksum, as an IP packet behind its Ethernet type.
pub(crate) fn packet(src: IpAddr, dst: IpAddr, proto: u8, mut icmp: Vec<u8>) -> Vec<u8> {
    let n = icmp.len();
    match (src, dst) {
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let mut all = [a.octets(), b.octets()].concat();
            all.extend_from_slice(&[0, 0, (n >> 8) as u8, n as u8, 0, 0, 0, proto]);
            all.extend_from_slice(&icmp);
            let c = checksum(&all);
            icmp[2..4].copy_from_slice(&c.to_be_bytes());
            let mut p = vec![0x86, 0xdd, 0x60, 0, 0, 0, (n >> 8) as u8, n as u8, proto];
            p.push(255);
            p.extend_from_slice(&a.octets());
            p.extend_from_slice(&b.octets());
            p.extend_from_slice(&icmp);
            p
        }
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let c = checksum(&icmp);
            icmp[2..4].copy_from_slice(&c.to_be_bytes());
            let mut ip = vec![0x45, 0, 0, (20 + n) as u8, 0, 0, 0, 0, 64, proto, 0, 0];
            ip.extend_from_slice(&a.octets());
            ip.extend_from_slice(&b.octets());
            let c = checksum(&ip);
            ip[10..12].copy_from_slice(&c.to_be_bytes());
            [&[8, 0], &ip[..], &icmp].concat()
        }
        _ => Vec::new(),
    }
}

pub(crate) fn checksum(b: &[u8]) -> u16 {
    let mut s: u32 = b
        .chunks(2)
        .map(|c| u32::from(u16::from_be_bytes([c[0], *c.get(1).unwrap_or(&0)])))
        .sum();
    while s > 0xffff {
        s = (s & 0xffff) + (s >> 16);
    }
    !(s as u16)
}
