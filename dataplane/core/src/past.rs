//! What is left of the handover that brought a flow here, once everything has been said
//! about it: 28 bytes for each slot, beside the FCBs, where [`DestSide`] takes some
//! hundred.

use crate::fcb::Fcb;
use crate::handover::dest::{DestSide, Phase};
use crate::handover::message::Peer;
use crate::shard::Shard;
use crate::time::{Instant, Span, Stamp};
use crate::view::View;
use dts_proto::block::{FlowId, Replay, SpliceState};
use hashbrown::HashMap;

/// A node that flows come from. There are few: one for each start of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Origin {
    node: u16,
    incarnation: u64,
    mac: [u8; 6],
    addr: [u8; 16],
    /// Our port of the splice connection.
    local_port: u16,
}

/// All of them.
#[derive(Default)]
pub(crate) struct Origins {
    all: Vec<Origin>,
    index: HashMap<Origin, u16>,
}

impl Origins {
    /// The number of an origin; `None` when there are more than can be numbered.
    fn number(&mut self, o: Origin) -> Option<u16> {
        if let Some(&n) = self.index.get(&o) {
            return Some(n);
        }
        let n = u16::try_from(self.all.len()).ok().filter(|&n| n < NONE)?;
        self.all.push(o);
        self.index.insert(o, n);
        Some(n)
    }
}

/// No origin.
const NONE: u16 = u16::MAX;

/// What is kept for each slot, whatever its state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Past {
    /// The source's number of the handover.
    number: u32,
    /// The byte before the first one that was replayed.
    c_base: u32,
    /// The client's round-trip time as measured at intake, microseconds.
    rtt_us: u32,
    /// Tells this use of the slot from earlier ones.
    pub(crate) generation: u32,
    /// When the slot was given to the flow.
    pub(crate) born: Stamp,
    origin: u16,
    /// The source's port of the splice connection.
    port: u16,
    /// The last look at the kernel's sockets that this flow was compared with, its low
    /// bits.
    pub(crate) looked: u8,
    /// How the request was replayed.
    replay: Replay,
}

impl Past {
    pub(crate) const NEW: Self = Self {
        number: 0,
        c_base: 0,
        rtt_us: 0,
        generation: 0,
        born: Stamp::ZERO,
        origin: NONE,
        port: 0,
        looked: 0,
        replay: Replay::FastOpen,
    };

    /// The same slot, used for another flow.
    pub(crate) fn next(self) -> Self {
        Self {
            generation: self.generation.wrapping_add(1),
            ..Self::NEW
        }
    }
}

impl Shard {
    /// Everything has been said about the handover that brought the flow here: keeps what
    /// may still be asked for, and gives its record back.
    pub(crate) fn settle(&mut self, slot: u32) {
        let f = &mut self.slots[slot as usize];
        let Some(d) = f.dest.as_deref() else { return };
        let p = &d.peer;
        debug_assert_eq!(
            (p.node, p.incarnation),
            (d.flow.source, d.flow.source_incarnation),
            "a message of its source alone is heard"
        );
        let origin = self.origins.number(Origin {
            node: p.node,
            incarnation: p.incarnation,
            mac: p.mac,
            addr: p.addr.0,
            local_port: p.local_port,
        });
        let Some(origin) = origin else { return };
        let past = &mut self.past[slot as usize];
        (past.origin, past.port) = (origin, p.port);
        (past.number, past.c_base) = (d.flow.number, d.state.c_base);
        past.rtt_us = f.rtt_us();
        past.replay = d.replay;
        f.dest = None;
        f.tidy();
    }

    /// Which handover brought the flow here, if one did and it was not undone.
    pub(crate) fn came_by(&self, v: &View, slot: u32) -> Option<FlowId> {
        let f = &self.slots[slot as usize];
        match f.dest.as_ref() {
            Some(d) => Some(d.flow),
            None => self.remembered(v, slot).map(|(_, flow)| flow),
        }
    }

    fn remembered(&self, v: &View, slot: u32) -> Option<(Peer, FlowId)> {
        let past = &self.past[slot as usize];
        let o = self.origins.all.get(usize::from(past.origin))?;
        let f = &self.slots[slot as usize];
        let key = f.key(v);
        let peer = Peer {
            node: o.node,
            incarnation: o.incarnation,
            mac: o.mac,
            addr: crate::key::Addr(o.addr),
            port: past.port,
            local_port: o.local_port,
        };
        let flow = FlowId {
            client: key.client(),
            vip: key.vip(),
            c_isn: f.c_isn,
            s_isn: f.s_isn,
            source: o.node,
            source_incarnation: o.incarnation,
            number: past.number,
        };
        Some((peer, flow))
    }

    /// Makes a settled flow's record anew, as far as it is known, and forgets what was
    /// kept instead. False where the flow has its record, or no handover brought it here.
    pub(crate) fn recall(&mut self, v: &View, slot: u32) -> bool {
        let Some((peer, flow)) = self.remembered(v, slot) else {
            return false;
        };
        let past = &mut self.past[slot as usize];
        past.origin = NONE;
        let (c_base, replay) = (past.c_base, past.replay);
        let rtt = Span::micros(past.rtt_us.into());
        let f = &mut self.slots[slot as usize];
        let state = SpliceState {
            c_base,
            s_base: f.s_low.wrapping_sub(1),
            cut: f.cut,
            ts_recent: f.ts_in_order,
            rtt_us: past.rtt_us,
            ..f.state_now()
        };
        let mut d = DestSide::new(flow, peer, state, Vec::new(), Instant(0), Span(0));
        d.phase = Phase::Served;
        d.handshake_done = true;
        d.replay = replay;
        d.l_isn = f.local_isn();
        d.taken = f.c_nxt;
        d.ended = Some(Instant(0));
        f.peer = Some((flow.source, flow.source_incarnation));
        f.rtt = rtt;
        f.dest = Some(Box::new(d));
        // It may soon be settled again.
        self.revisit(slot);
        true
    }

    /// The client's round-trip time as measured at intake.
    pub(crate) fn rtt_of(&self, slot: u32) -> Span {
        let past = &self.past[slot as usize];
        if past.origin != NONE {
            return Span::micros(past.rtt_us.into());
        }
        self.slots[slot as usize].rtt
    }

    /// Who gave the flow to this node, or has it from this node.
    pub(crate) fn peer_of(&self, slot: u32) -> Option<u16> {
        let past = &self.past[slot as usize];
        let origin = self.origins.all.get(usize::from(past.origin));
        let f = &self.slots[slot as usize];
        f.peer.map(|p| p.0).or(origin.map(|o| o.node))
    }
}

impl Fcb {
    /// The ISN of the local stack of a flow that was handed over to this node.
    pub(crate) fn local_isn(&self) -> u32 {
        self.s_low.wrapping_sub(1).wrapping_sub(self.delta)
    }
}
