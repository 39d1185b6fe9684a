//! The paper's bare form at the destination: option 32 and nothing else, then
//! data segments with window 0, then a FIN as end mark (DTS paper, sections 2.5
//! and 2.6). Served only where the configuration trusts the link.

use super::dest::{DestSide, Phase};
use super::message::{Head, Peer};
use super::replay::ClientSegment;
use super::round_trip::Overtaking;
use crate::drops::Drop;
use crate::fcb::State;
use crate::frame::{Output, Port};
use crate::key::{Addr, FlowKey};
use crate::mutation::{Mutation, broken};
use crate::seq;
use crate::shard::Shard;
use crate::steer;
use crate::time::Instant;
use crate::view::View;
use crate::wire::options::{Build, SpliceOption};
use crate::wire::tcp::{ACK, FIN, PSH, RST, SYN, Segment};
use crate::wire::{Ip, Mac};
use dts_proto::block::{FlowId, Replay, SpliceState};
use hashbrown::HashMap;
use std::net::SocketAddr;

/// What is peculiar to a source of the bare form.
#[derive(Clone, Copy, Debug, Default)]
pub struct PaperSide {
    /// Window field of the stack's SYN-ACK, once it came.
    pub synack: Option<u16>,
    /// Highest number that the stack has acknowledged.
    pub acked: u32,
    /// The end mark came: K is known.
    pub fin: bool,
}

/// Bare segments name no client: this says whose splice connection they are of.
#[derive(Debug, Default)]
pub struct Aliases {
    map: HashMap<(Addr, u16, u16), (usize, FlowKey)>,
}

/// Most splice connections of the bare form at a time.
const MOST: usize = 1 << 16;

impl Aliases {
    fn put(&mut self, key: (Addr, u16, u16), worker: usize, flow: FlowKey) -> bool {
        let room = self.map.len() < MOST || self.map.contains_key(&key);
        if room {
            self.map.insert(key, (worker, flow));
        }
        room
    }

    /// Forgets the splice connection of a destination that ends.
    pub(crate) fn forget(&mut self, d: &DestSide) {
        if d.paper.is_some() {
            self.map
                .remove(&(d.peer.addr, d.peer.port, d.peer.local_port));
        }
    }
}

impl Shard {
    /// A link segment to or from an application port without a block.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn link_bare<O: Output>(
        &mut self,
        v: &View,
        bytes: &[u8],
        ip: &Ip,
        s: &Segment,
        mac: Mac,
        now: Instant,
        out: &mut O,
    ) {
        if v.is_splice_port(s.dport) {
            return self.bare_to_source(v, ip, s, now, out);
        }
        let Some(member) = v.member_at(&ip.src) else {
            return self.drop_frame(Drop::LinkStranger);
        };
        let alias = (ip.src, s.sport, s.dport);
        let peer = Peer {
            node: member.id,
            incarnation: 0,
            mac,
            addr: ip.src,
            port: s.sport,
            local_port: s.dport,
        };
        if !s.has(SYN) {
            let Some(&(worker, flow)) = self.aliases.map.get(&alias) else {
                return self.drop_frame(Drop::LinkStranger);
            };
            if worker != self.worker {
                return self.pass_on(worker, bytes, out);
            }
            return match self.find(v, &flow) {
                Some(slot) => self.bare_came(v, s, &bytes[s.data..s.end], slot, now, out),
                None => self.drop_frame(Drop::LinkStale),
            };
        }
        let Some(opt) = s.opts.splice.filter(|_| !s.has(ACK)) else {
            return self.drop_frame(Drop::LinkStranger);
        };
        // Option 32 has room for an IPv4 address only.
        let mut services = v.services.iter();
        let service = services.position(|x| x.app_port == s.dport && x.vip.is_v4());
        let Some(service) = service.filter(|_| {
            (v.params.paper_form || broken(Mutation::BareFormServed)) && s.opts.timestamps.is_none()
        }) else {
            self.drop_frame(Drop::PaperForm);
            return self.bare_refuse(v, &peer, s.seq, out);
        };
        let vip = v.services[service].vip;
        let flow = FlowKey {
            client: Addr::v4(opt.client),
            vip,
            client_port: opt.port,
            port: v.services[service].port,
        };
        let worker = steer::worker_of_flow(v, &flow, self.workers);
        if !self.aliases.put(alias, worker, flow) {
            return self.drop_frame(Drop::FlowTableFull);
        }
        if worker != self.worker {
            return self.pass_on(worker, bytes, out);
        }
        self.bare_syn(v, s, &opt, flow, service, peer, now, out);
    }

    fn pass_on<O: Output>(&mut self, worker: usize, bytes: &[u8], out: &mut O) {
        match out.frame(bytes) {
            Some(f) => out.hand_off(worker, Port::Link, f),
            None => self.drop_frame(Drop::NoBuffer),
        }
    }

    fn bare_refuse<O: Output>(&mut self, v: &View, peer: &Peer, seq: u32, out: &mut O) {
        let head = Head {
            ack: seq.wrapping_add(1),
            flags: RST | ACK,
            ..Head::default()
        };
        self.say_bare(v, peer, head, &[], out);
    }

    #[allow(clippy::too_many_arguments)]
    fn bare_syn<O: Output>(
        &mut self,
        v: &View,
        s: &Segment,
        opt: &SpliceOption,
        key: FlowKey,
        service: usize,
        peer: Peer,
        now: Instant,
        out: &mut O,
    ) {
        let id = FlowId {
            client: SocketAddr::new(key.client.ip(), key.client_port),
            vip: key.vip(),
            c_isn: s.seq,
            s_isn: opt.init_seq,
            source: peer.node,
            source_incarnation: 0,
            number: u32::from(s.sport),
        };
        let slot = self.find(v, &key);
        if let Some(slot) = slot
            && self.slots[slot as usize]
                .dest
                .as_ref()
                .is_some_and(|d| d.flow == id)
        {
            // The SYN again: our SYN-ACK may be lost.
            return self.paper_accept(v, slot, out);
        }
        let heard = self.heard.get(&key).filter(|h| h.isn == s.seq);
        let (slot, before) = match self.seat(v, &id, slot, service, now) {
            Ok(seat) => seat,
            Err(_) => return self.bare_refuse(v, &peer, s.seq, out),
        };
        let st = SpliceState {
            c_base: s.seq,
            s_base: opt.init_seq,
            cut: s.seq.wrapping_add(1),
            client_ack: opt.init_seq.wrapping_add(1),
            last_ack: s.seq.wrapping_add(1),
            window: heard.map_or(0xffff, |h| h.window) >> s.opts.wscale.unwrap_or(0),
            mss: s.opts.mss.unwrap_or(536),
            client_shift: s.opts.wscale.unwrap_or(0),
            wscale: s.opts.wscale.is_some(),
            sack: s.opts.sack_permitted,
            next_hop: heard.map_or([0xff; 6], |h| h.next_hop),
            ..SpliceState::default()
        };
        let f = &mut self.slots[slot as usize];
        f.take_over(&st, &id);
        f.dest = Some(Box::new(DestSide {
            flow: id,
            peer,
            phase: Phase::Gather,
            state: st,
            request: Vec::new(),
            asked: None,
            untold: 0,
            replay: Replay::Handshake,
            l_isn: 0,
            l_tsval: 0,
            l_window: 0,
            started: now,
            due: now,
            tries: 0,
            handshake_done: true,
            synacks_due: 0,
            overtaking: Overtaking::Measured,
            egress: Vec::new(),
            given: Vec::new(),
            ended: None,
            taken: st.cut,
            filling: None,
            probe_answered: false,
            end_told: false,
            before,
            paper: Some(PaperSide {
                acked: s.seq.wrapping_add(1),
                ..PaperSide::default()
            }),
        }));
        self.set_state(slot, State::Held);
        self.begin_replay(v, slot, now, out);
    }

    /// The stack's SYN-ACK, in the numbers that the source knows.
    pub(crate) fn paper_accept<O: Output>(&mut self, v: &View, slot: u32, out: &mut O) {
        let f = &mut self.slots[slot as usize];
        let Some(d) = f.dest.as_ref() else { return };
        let Some(window) = d.paper.and_then(|p| p.synack) else {
            return;
        };
        let peer = d.peer;
        let head = Head {
            seq: d.state.s_base,
            ack: d.state.c_base.wrapping_add(1),
            flags: SYN | ACK,
            window,
            opts: Build {
                mss: Some(d.state.mss),
                ..Build::default()
            },
        };
        // The paper tells nothing of the promised shift: equal nodes promise alike.
        f.agreed.promised_shift = f.local_shift;
        self.say_bare(v, &peer, head, &[], out);
    }

    /// ACK, data or end mark from the source.
    fn bare_came<O: Output>(
        &mut self,
        v: &View,
        s: &Segment,
        payload: &[u8],
        slot: u32,
        now: Instant,
        out: &mut O,
    ) {
        let d = self.slots[slot as usize].dest.as_mut();
        // The client's flow may have come otherwise, or be on its way to another node.
        let Some(d) = d.filter(|d| d.paper.is_some()) else {
            return self.drop_frame(Drop::LinkStale);
        };
        if d.phase == Phase::Served {
            // Only the acknowledgement of the end mark can be missing over there.
            return self.paper_end_ack(v, slot, out);
        }
        if s.has(RST) {
            // The source gave up; what the stack has of the request it must forget.
            let seq = s.seq;
            self.play(v, slot, ClientSegment::reset(seq), &[], out);
            return self.leave(v, slot);
        }
        if d.phase != Phase::Data || !s.has(ACK) {
            return self.drop_frame(Drop::LinkStale);
        }
        self.counters.link_messages += 1;
        d.tries = 0;
        d.due = now + v.params.deadline;
        let due = d.due;
        if s.has(FIN) {
            d.state.cut = s.seq.wrapping_add(payload.len() as u32);
            if let Some(p) = d.paper.as_mut() {
                p.fin = true;
            }
        }
        let head = ClientSegment {
            seq: s.seq,
            ack: d.l_isn.wrapping_add(1),
            flags: ACK | (s.flags & PSH),
            window: 0,
            opts: Build::default(),
        };
        if !payload.is_empty() || !s.has(FIN) {
            self.play(v, slot, head, payload, out);
        }
        self.wake(slot, due);
        self.paper_check(v, slot, now, out);
    }

    /// The stack's answer to the source's data.
    pub(crate) fn paper_host<O: Output>(
        &mut self,
        v: &View,
        s: &Segment,
        slot: u32,
        now: Instant,
        out: &mut O,
    ) {
        let Some(d) = self.slots[slot as usize].dest.as_mut() else {
            return;
        };
        let (peer, base) = (d.peer, d.state.s_base);
        if s.has(RST) {
            let c_base = d.state.c_base;
            self.leave(v, slot);
            return self.bare_refuse(v, &peer, c_base, out);
        }
        if let Some(p) = d.paper.as_mut() {
            p.acked = seq::max(p.acked, s.ack);
        }
        let head = Head {
            seq: base.wrapping_add(1),
            ack: s.ack,
            flags: ACK,
            window: s.window,
            ..Head::default()
        };
        self.say_bare(v, &peer, head, &[], out);
        self.paper_check(v, slot, now, out);
    }

    /// The end mark is here and the stack has every byte before it: cut over.
    fn paper_check<O: Output>(&mut self, v: &View, slot: u32, now: Instant, out: &mut O) {
        let f = &mut self.slots[slot as usize];
        let Some(d) = f.dest.as_mut() else { return };
        let Some(p) = d.paper else { return };
        debug_assert_eq!(d.phase, Phase::Data, "as the callers have seen");
        if !p.fin || seq::lt(p.acked, d.state.cut) {
            return;
        }
        d.l_window = u32::from(p.synack.unwrap_or(0));
        let (cut, ack) = (d.state.cut, d.l_isn.wrapping_add(1));
        let acked = d.state.c_base.wrapping_add(1);
        (f.c_nxt, f.c_high, f.c_acked) = (cut, cut, acked);
        let window = f.client_window;
        self.cut_over(v, slot, true, now, out);
        // The source's window 0 must not outlive the cut over.
        let open = ClientSegment {
            seq: cut,
            ack,
            flags: ACK,
            window,
            opts: Build::default(),
        };
        self.play(v, slot, open, &[], out);
        self.paper_end_ack(v, slot, out);
    }

    fn paper_end_ack<O: Output>(&mut self, v: &View, slot: u32, out: &mut O) {
        let Some(d) = self.slots[slot as usize].dest.as_ref() else {
            return;
        };
        let (peer, seq, ack) = (
            d.peer,
            d.state.s_base.wrapping_add(1),
            d.state.cut.wrapping_add(1),
        );
        self.say_bare(
            v,
            &peer,
            Head {
                seq,
                ack,
                flags: ACK,
                ..Head::default()
            },
            &[],
            out,
        );
    }
}

/// The SYNs that this worker heard last, its own node's or not: where a client is
/// reached, and its first window. The paper's option tells neither.
#[derive(Debug)]
pub struct Heard {
    slots: Box<[Option<HeardSyn>]>,
}

/// One SYN.
#[derive(Clone, Copy, Debug)]
pub struct HeardSyn {
    /// Whose.
    pub key: FlowKey,
    /// Its sequence number.
    pub isn: u32,
    /// Its window.
    pub window: u16,
    /// The frame's Ethernet source.
    pub next_hop: Mac,
}

impl Default for Heard {
    fn default() -> Self {
        Self {
            slots: vec![None; 4096].into_boxed_slice(),
        }
    }
}

impl Heard {
    fn at(key: &FlowKey) -> usize {
        // Direct-mapped by port: a collision only costs a paper-form flow its hint.
        usize::from(key.client_port) % 4096
    }

    /// Notes a SYN.
    pub fn note(&mut self, syn: HeardSyn) {
        self.slots[Self::at(&syn.key)] = Some(syn);
    }

    /// The last SYN of `key`.
    pub fn get(&self, key: &FlowKey) -> Option<HeardSyn> {
        self.slots[Self::at(key)].filter(|h| h.key == *key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_cap_only_known_connections_are_taken() {
        let flow = FlowKey {
            client: Addr::v4([10, 0, 0, 1]),
            vip: Addr::v4([10, 0, 0, 2]),
            client_port: 1,
            port: 80,
        };
        let key = |i: usize| (Addr::v4([10, 0, 1, (i >> 16) as u8]), i as u16, 8080);
        let mut a = Aliases::default();
        assert!((0..MOST).all(|i| a.put(key(i), 0, flow)));
        assert!(!a.put(key(MOST), 0, flow), "one more");
        assert!(a.put(key(7), 1, flow), "a known one again");
        assert_eq!(a.map.len(), MOST);
    }
}
