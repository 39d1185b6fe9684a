//! A node's own stack as the host port shows it: sockets of the proxy and of the
//! application at the VIP, and what Linux says where there is none.

use super::tcb::{Complaint, Setup, Tcb};
use crate::rng::Rng;
use crate::seg::{ACK, RST, SYN, Seg, before};
use smoltcp::socket::tcp::State;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// A listening port.
#[derive(Clone, Copy, Debug)]
pub struct Listener {
    /// Takes the payload of a SYN.
    pub fast_open: bool,
    /// The accept queue is full: SYNs are dropped without a word.
    pub full: bool,
}

/// A connection's name at a host: own port, and the client.
pub type Name = (u16, SocketAddr);

/// A node's stack.
pub struct Host {
    /// How its sockets are set up; the ISN is drawn for each.
    pub setup: Setup,
    /// The same for the proxy's port.
    pub proxy_setup: Setup,
    /// Sockets in TIME_WAIT give way to a SYN with a higher number or clock, as Linux's do.
    pub recycle: bool,
    /// Listening ports.
    pub listen: BTreeMap<u16, Listener>,
    /// Live connections.
    pub tcbs: BTreeMap<Name, Tcb>,
    fragments: BTreeMap<u32, Vec<(usize, Vec<u8>, bool)>>,
    rng: Rng,
    id: u32,
    taken: u32,
    /// RSTs that this stack sent because it had no socket.
    pub stray_resets: u32,
}

impl Host {
    /// A stack without listeners.
    /// `id` is the node's, so that no two connections have the same initial number.
    pub fn new(setup: Setup, id: u16, rng: Rng) -> Self {
        Self {
            setup,
            proxy_setup: setup,
            recycle: false,
            listen: BTreeMap::new(),
            tcbs: BTreeMap::new(),
            fragments: BTreeMap::new(),
            rng,
            id: u32::from(id),
            taken: 0,
            stray_resets: 0,
        }
    }

    /// A frame from the host port, without its Ethernet header.
    pub fn input(&mut self, packet: &[u8], now: u64) -> Vec<Seg> {
        let Some(whole) = self.whole(packet) else {
            return Vec::new();
        };
        if !Seg::checksum_ok(&whole) {
            return Vec::new();
        }
        let Some(s) = Seg::parse(&whole) else {
            return Vec::new();
        };
        self.segment(&s, now)
    }

    fn segment(&mut self, s: &Seg, now: u64) -> Vec<Seg> {
        let name = (s.dport, SocketAddr::new(s.src, s.sport));
        if let Some(t) = self.tcbs.get_mut(&name) {
            let fresh = s.has(SYN) && !s.has(ACK);
            let waits = t.state() == State::TimeWait;
            let recycled = fresh && waits && self.recycle && newer(t, s);
            if t.is_dead() || recycled {
                self.tcbs.remove(&name);
            } else {
                return t.input(s, now);
            }
        }
        if s.has(RST) {
            return Vec::new();
        }
        if s.has(SYN)
            && !s.has(ACK)
            && let Some(l) = self.listen.get(&s.dport)
        {
            if l.full {
                return Vec::new();
            }
            let fast_open = l.fast_open;
            self.taken += 1;
            let setup = Setup {
                isn: self.rng.edge_u32(4000) & !0x7ff | (self.taken & 0xff) << 3 | self.id,
                ..if s.dport == crate::node::PROXY_PORT {
                    self.proxy_setup
                } else {
                    self.setup
                }
            };
            let (t, out) = Tcb::accept(setup, s, fast_open, now);
            self.tcbs.insert(name, t);
            return out;
        }
        self.stray_resets += 1;
        vec![if s.has(ACK) {
            s.answer(RST, s.ack, 0)
        } else {
            s.answer(RST | ACK, 0, s.end())
        }]
    }

    /// Puts a datagram together from its fragments, which the filter emits in order.
    fn whole(&mut self, p: &[u8]) -> Option<Vec<u8>> {
        let Some((head, data, id, at, more)) = fragment(p) else {
            return Some(p.to_vec());
        };
        let parts = self.fragments.entry(id).or_default();
        parts.push((at, p[data..].to_vec(), more));
        if more {
            return None;
        }
        let mut parts = self.fragments.remove(&id)?;
        parts.sort_by_key(|x| x.0);
        let mut whole = p[..head].to_vec();
        for (at, bytes, _) in parts {
            if whole.len() != head + at {
                return None;
            }
            whole.extend_from_slice(&bytes);
        }
        if head == 20 {
            let len = (whole.len() as u16).to_be_bytes();
            whole[2..4].copy_from_slice(&len);
            whole[6..8].copy_from_slice(&[0, 0]);
        } else {
            let len = (whole.len() as u16 - 40).to_be_bytes();
            whole[4..6].copy_from_slice(&len);
            whole[6] = p[40];
        }
        Some(whole)
    }

    /// Lets all sockets run.
    pub fn poll(&mut self, now: u64) -> Vec<Seg> {
        let mut out = Vec::new();
        for t in self.tcbs.values_mut() {
            out.extend(t.poll(now));
        }
        self.tcbs
            .retain(|_, t| !t.is_dead() || !t.complaints.is_empty());
        out
    }

    /// When the next socket wants to run.
    pub fn poll_at(&mut self, now: u64) -> Option<u64> {
        self.tcbs.values_mut().filter_map(|t| t.poll_at(now)).min()
    }

    /// Ends the socket with this initial number without a segment.
    pub fn bury(&mut self, name: &Name, isn: u32) {
        if self.tcbs.get(name).is_some_and(|t| t.setup.isn == isn) {
            self.tcbs.remove(name);
        }
    }

    /// What was wrong with segments since the last call.
    pub fn complaints(&mut self) -> Vec<(Name, Complaint)> {
        let all = self.tcbs.iter_mut();
        all.flat_map(|(n, t)| t.complaints.drain(..).map(|c| (*n, c)).collect::<Vec<_>>())
            .collect()
    }
}

/// Of a fragment: bytes of its IP header, where its data begin, the datagram's number,
/// the data's offset, and whether more follow. Clients send none but whole packets.
fn fragment(p: &[u8]) -> Option<(usize, usize, u32, usize, bool)> {
    let word = |at: usize| u16::from_be_bytes([p[at], p[at + 1]]);
    match p.first()? >> 4 {
        4 if p.len() >= 20 => {
            let w = word(6);
            let (more, at) = (w & 0x2000 != 0, usize::from(w & 0x1fff) * 8);
            (more || at > 0).then(|| (20, 20, word(4).into(), at, more))
        }
        6 if p.len() >= 48 && p[6] == crate::extensions::FRAGMENT => {
            let w = word(42);
            let (more, at) = (w & 1 != 0, usize::from(w & 0xfff8));
            let id = u32::from(word(44)) << 16 | u32::from(word(46));
            (more || at > 0).then_some((40, 48, id, at, more))
        }
        _ => None,
    }
}

/// A SYN that Linux takes in TIME_WAIT: a higher number, or a later clock.
fn newer(t: &Tcb, s: &Seg) -> bool {
    before(t.rcv_nxt, s.seq)
}
