//! How a source's part ends: unfrozen, unknown, proved by the client, reset, over.

use super::message::Message;
use super::repeat::NO_TICKET;
use super::source::Phase;
use crate::command::Fail;
use crate::drops::Drop;
use crate::fcb::State;
use crate::frame::{Output, Port};
use crate::key::FlowKey;
use crate::mutation::{Mutation, broken};
use crate::seq;
use crate::shard::Shard;
use crate::time::Instant;
use crate::view::View;
use crate::wire::build::Tcp;
use crate::wire::options::Build;
use crate::wire::tcp::{ACK, RST, Segment};

impl Shard {
    /// Refused or aborted: the flow lives on here.
    pub(crate) fn give_up<O: Output>(
        &mut self,
        v: &View,
        slot: u32,
        fail: Fail,
        now: Instant,
        out: &mut O,
    ) {
        let Some(src) = self.slots[slot as usize].source.as_ref() else {
            return;
        };
        let (ticket, phase) = (src.ticket, src.phase);
        let kept = self.slots[slot as usize].kept.is_some();
        if ticket == NO_TICKET || (phase == Phase::Unknown && kept) {
            return self.repeat_failed(v, slot, now, out);
        }
        if phase == Phase::Unknown {
            // The proxy was told that nobody knows, and its socket is gone: the
            // client cannot be served here any more, but it need not wait.
            self.counters.unknown_resets += 1;
            return self.reset_client(v, slot, now, out);
        }
        self.tickets.remove(&ticket);
        self.unfreeze(v, slot, now, out);
        self.fail(ticket, fail);
    }

    /// Lets a frozen flow go on: its newest swallowed segment goes out, and what
    /// was held goes in.
    pub(crate) fn unfreeze<O: Output>(&mut self, v: &View, slot: u32, now: Instant, out: &mut O) {
        let f = &mut self.slots[slot as usize];
        let Some(src) = f.source.take() else { return };
        self.ports.give_back(src.port);
        f.cut = src.cut_before;
        f.dest = src.was;
        let state = match f.dest {
            Some(_) => State::Served,
            None => State::Intake,
        };
        let mut held = std::mem::take(&mut f.held);
        self.set_state(slot, state);
        if let Some(kept) = src.swallowed
            && !broken(Mutation::SwallowedLost)
        {
            match kept.again(out) {
                Some(frame) => self.wire_host_in(v, frame, now, out),
                None => self.drop_frame(Drop::NoBuffer),
            }
        }
        while let Some(h) = self.store.pop(&mut held) {
            match out.frame(&h.frame) {
                _ if broken(Mutation::UnfreezeEmpty) => {}
                Some(frame) => self.wire_in(v, frame, now, out),
                None => self.drop_frame(Drop::NoBuffer),
            }
        }
    }

    /// Resets the client of a flow that nobody can serve, and keeps answering it
    /// with RST for a while.
    pub(crate) fn reset_client<O: Output>(
        &mut self,
        v: &View,
        slot: u32,
        now: Instant,
        out: &mut O,
    ) {
        self.drop_copy(slot);
        let f = &mut self.slots[slot as usize];
        if let Some(src) = f.source.take() {
            // Whoever still waits for the end of the handover is told.
            self.close_source(&src);
        }
        let f = &mut self.slots[slot as usize];
        f.reset = true;
        f.expires = Some(now + v.params.closing);
        if f.state != State::Tombstone {
            self.entomb(v, slot);
        }
        self.send_reset(v, slot, out);
    }

    /// A RST with exactly the number that the client expects next.
    pub(crate) fn send_reset<O: Output>(&mut self, v: &View, slot: u32, out: &mut O) {
        let f = &self.slots[slot as usize];
        let rst = Tcp {
            eth_dst: f.next_hop,
            eth_src: v.wire_mac,
            src: f.key(v).vip,
            dst: f.client,
            sport: f.key(v).port,
            dport: f.client_port,
            seq: f.client_ack,
            ack: f.c_nxt,
            flags: RST | ACK,
            window: 0,
            opts: Build::default(),
            payload: &[],
        };
        self.emit(Port::Wire, &rst.frame(), out);
    }

    pub(crate) fn outcome_unknown(&mut self, v: &View, slot: u32, now: Instant) {
        self.keep_request(v, slot, now);
        self.wake(slot, now);
        let Some(src) = self.slots[slot as usize].source.as_mut() else {
            return;
        };
        src.phase = Phase::Unknown;
        let ticket = src.ticket;
        let at = src.started + v.params.unknown_deadline;
        self.tickets.remove(&ticket);
        self.fail(ticket, Fail::Unknown);
        self.wake(slot, at.max(now));
    }

    /// A client's segment that acknowledges a byte which only the destination can
    /// have sent proves that it accepted.
    pub(crate) fn client_proves<O: Output>(
        &mut self,
        v: &View,
        slot: u32,
        s: &Segment,
        now: Instant,
        out: &mut O,
    ) {
        let Some(src) = self.slots[slot as usize].source.as_ref() else {
            return;
        };
        let waits = matches!(
            src.phase,
            Phase::Splicing | Phase::Aborting | Phase::Unknown
        );
        let first = src.state.s_base.wrapping_add(1);
        let valid = s.has(ACK) && seq::lt(first, s.ack) && s.ack.wrapping_sub(first) < 1 << 30;
        let in_window =
            seq::le(src.state.cut, s.seq) && s.seq.wrapping_sub(src.state.cut) < 1 << 20;
        // In a handover of the node to itself the two ends see the same client.
        let remote = src.peer.is_some_and(|p| p.addr != v.link);
        if waits && valid && in_window && remote && !broken(Mutation::ProofIgnored) {
            self.accepted(v, slot, now, out);
            self.drop_copy(slot);
        }
    }

    /// The destination says that a flow ended: its tombstone's time begins.
    pub(crate) fn flow_ended<O: Output>(
        &mut self,
        v: &View,
        m: &Message<'_>,
        now: Instant,
        out: &mut O,
    ) {
        let id = m.header.flow;
        let Some(slot) = self.find(v, &FlowKey::new(id.client, id.vip)) else {
            return;
        };
        let f = &mut self.slots[slot as usize];
        if f.state == State::Tombstone && f.c_isn == id.c_isn && f.s_isn == id.s_isn {
            f.expires.get_or_insert(now + v.params.tombstone);
            self.drop_copy(slot);
            self.tell_end(v, slot, out);
        }
    }
}
