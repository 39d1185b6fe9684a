//! A handover is repeated where its destination dies before the client has seen a byte of the
//! answer (PROTOCOL, section "How a handover ends"; ADR 0025).
//!
//! The source keeps the request, and what the client sends behind it: every node hears that.
//! When the members agree that the destination is dead, the flow is spliced to another one,
//! from the same c_base and s_base on, so that the client sees the same server go on. Nobody
//! waits for such a handover: the proxy's socket is gone.

use super::source::{Phase, SourceSide};
use crate::fcb::{Fcb, State};
use crate::frame::{Frame, Output};
use crate::key::Addr;
use crate::mutation::{Mutation, broken};
use crate::ownership::NOBODY;
use crate::seq;
use crate::shard::Shard;
use crate::time::{Instant, Span};
use crate::view::{Member, View};
use crate::wire::Ip;
use crate::wire::tcp::{ACK, FIN, RST, SYN, Segment, URG};
use dts_proto::block::SpliceState;

/// The ticket of a handover that nobody waits for.
pub(crate) const NO_TICKET: u64 = u64::MAX;
/// How often it is looked whether a destination lives.
const LOOK: Span = Span::millis(20);
/// With the client's round trip, from the news of a death to the repetition. A byte that left
/// the dead node at its end is acknowledged by then: a stack may hold an acknowledgement back
/// for 500 ms (RFC 9293, section 3.8.6.3), and a death takes more than 170 ms to be found out.
const SETTLE: Span = Span::millis(330);
/// Ticks that a clock of one per millisecond may be ahead of our count of them.
const TICKS_SPARE: u32 = 3;

/// What a source keeps to be able to repeat a handover.
#[derive(Debug)]
pub struct Copy {
    /// What moved first; c_base and s_base hold for every repetition, and its `client_fin` for
    /// the request as it is here.
    state: SpliceState,
    /// The client's bytes from c_base + 1 on.
    request: Vec<u8>,
    /// Repetitions that are left.
    left: u8,
    /// Nodes that died with it, or did not take it.
    lost: Vec<u16>,
    /// The first freeze.
    since: Instant,
    /// When the destination was first seen dead.
    dead_since: Option<Instant>,
}

/// What a client's segment means for a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// Nothing, or it has been added.
    Kept,
    /// The client has seen a byte of the answer, or wants no more.
    Answered,
    /// The copy is not all that the client sent, or too much.
    Lost,
}

impl Copy {
    /// Behind the last byte.
    fn end(&self) -> u32 {
        let len = self.request.len() as u32;
        self.state.c_base.wrapping_add(1).wrapping_add(len)
    }

    /// Whether the client says by `s` that it has seen a byte of the answer. Without SACK a
    /// bare acknowledgement may be a duplicate that asks for the first one of several.
    fn is_answered_by(&self, s: &Segment) -> bool {
        let first = self.state.s_base.wrapping_add(1);
        let acks = s.has(ACK) && seq::lt(first, s.ack) && s.ack.wrapping_sub(first) < 1 << 30;
        let bare = s.seq_len() == 0 && !s.is_keepalive(self.end());
        (acks || s.opts.sack.is_some() || bare && !self.state.sack)
            && !broken(Mutation::RepeatAfterAnswer)
    }

    /// Adds what is new of a client's segment; at most `room` bytes more are kept.
    fn add(&mut self, s: &Segment, frame: &[u8], room: usize) -> Said {
        if s.has(RST | SYN) {
            return if s.has(RST) {
                Said::Answered
            } else {
                Said::Kept
            };
        }
        let end = self.end();
        let behind = s.seq.wrapping_add(s.len() as u32);
        if s.has(URG) || s.seq_len() > 0 && seq::lt(end, s.seq) {
            return Said::Lost;
        }
        if seq::lt(end, behind) {
            let payload = frame.get(s.data..s.end).unwrap_or_default();
            let fresh = payload.get(end.wrapping_sub(s.seq) as usize..);
            let fresh = fresh.unwrap_or_default();
            if self.state.client_fin || fresh.len() > room {
                return Said::Lost;
            }
            if !broken(Mutation::RepeatForgetsLater) {
                self.request.extend_from_slice(fresh);
            }
        }
        self.state.client_fin |= s.has(FIN) && behind == self.end();
        Said::Kept
    }
}

impl Shard {
    /// The destination has the request, or nobody knows: the source keeps a copy, where the
    /// service's requests may be executed twice and there is room.
    pub(crate) fn keep_request(&mut self, v: &View, slot: u32, now: Instant) {
        let f = &self.slots[slot as usize];
        let service = &v.services[usize::from(f.service)];
        let Some(src) = f.source.as_ref() else { return };
        let elsewhere = src.peer.is_some_and(|p| p.addr != v.link);
        let first = src.was.is_none() && service.proxy_port.is_some();
        if service.repeats == 0 || f.kept.is_some() || !elsewhere || !first {
            return;
        }
        if self.kept_bytes + src.request.len() > v.params.repeat_max {
            self.counters.repeats_given_up += 1;
            return;
        }
        let copy = Copy {
            state: src.state,
            request: src.request.clone(),
            left: service.repeats,
            lost: Vec::new(),
            since: src.started,
            dead_since: None,
        };
        self.kept_bytes += copy.request.len();
        self.slots[slot as usize].kept = Some(Box::new(copy));
        self.wake(slot, now + LOOK);
    }

    /// What was kept is of no use any more.
    pub(crate) fn drop_copy(&mut self, slot: u32) {
        let f = &mut self.slots[slot as usize];
        if f.is_bare() {
            return;
        }
        if let Some(copy) = f.kept.take() {
            self.kept_bytes -= copy.request.len();
        }
    }

    fn give_up_copy(&mut self, slot: u32) {
        self.counters.repeats_given_up += 1;
        self.drop_copy(slot);
    }

    /// The client of a flow that was handed over says something.
    pub(crate) fn keep_segment<F: Frame>(
        &mut self,
        v: &View,
        slot: u32,
        frame: &F,
        ip: &Ip,
        s: &Segment,
    ) {
        let f = &self.slots[slot as usize];
        if f.is_bare() || f.kept.is_none() || !s.intact(frame, ip) {
            return;
        }
        let bytes = frame.to_vec();
        self.keep_more(v, slot, &bytes, s);
    }

    /// The same of a frame that is known to be whole.
    pub(crate) fn keep_more(&mut self, v: &View, slot: u32, frame: &[u8], s: &Segment) {
        let (window, bytes) = (v.params.first_window as usize, self.kept_bytes);
        let Some(copy) = self.slots[slot as usize].kept.as_deref_mut() else {
            return;
        };
        let before = copy.request.len();
        let room = window.saturating_sub(before);
        let room = room.min(v.params.repeat_max.saturating_sub(bytes));
        let said = match copy.is_answered_by(s) {
            true => Said::Answered,
            false => copy.add(s, frame, room),
        };
        self.kept_bytes += copy.request.len() - before;
        match said {
            Said::Kept => {}
            Said::Answered => self.drop_copy(slot),
            Said::Lost => self.give_up_copy(slot),
        }
    }

    /// Looks whether a handover is to be repeated.
    pub(crate) fn repeat_timer<O: Output>(
        &mut self,
        v: &View,
        slot: u32,
        now: Instant,
        out: &mut O,
    ) {
        let f = &mut self.slots[slot as usize];
        if f.is_bare() || f.kept.is_none() {
            return;
        }
        let dest = match f.source.as_ref() {
            None => f.peer,
            Some(src) if matches!(src.phase, Phase::Ending | Phase::Unknown) => {
                src.peer.map(|p| (p.node, p.incarnation))
            }
            // A handover is under way, and has deadlines of its own.
            Some(_) => return,
        };
        let over = f.reset || f.expires.is_some() || f.state == State::Served;
        let Some((node, incarnation)) = dest.filter(|_| !over) else {
            return self.drop_copy(slot);
        };
        let settled = Span(SETTLE.0 + f.rtt.0);
        let Some(copy) = f.kept.as_deref_mut() else {
            return;
        };
        if now - copy.since >= v.params.repeat_within {
            return self.give_up_copy(slot);
        }
        let member = v.member(node);
        let restarted = |m: &Member| m.known.is_some_and(|(_, newest)| newest > incarnation);
        let lives = member.is_some_and(|m| m.alive && !restarted(m));
        self.wake(slot, now + LOOK);
        let Some(copy) = self.slots[slot as usize].kept.as_deref_mut() else {
            return;
        };
        if lives {
            copy.dead_since = None;
            return;
        }
        let since = *copy.dead_since.get_or_insert(now);
        if now - since < settled || self.repeat(v, slot, now, out) {
            return;
        }
        if member.is_none_or(|m| m.gone) {
            // Nobody takes it: the client is an orphan's.
            self.give_up_copy(slot);
        }
    }

    /// Splices the flow to another node; false when there is none.
    fn repeat<O: Output>(&mut self, v: &View, slot: u32, now: Instant, out: &mut O) -> bool {
        let Some((member, mac, incarnation)) = self.another(v, slot) else {
            return false;
        };
        let f = &self.slots[slot as usize];
        let app_port = v.services[usize::from(f.service)].app_port;
        let seen = f.kept.as_ref().is_none_or(|copy| {
            let first = copy.state.s_base.wrapping_add(1);
            copy.left == 0 || seq::lt(first, f.client_ack) && !broken(Mutation::RepeatAfterAnswer)
        });
        if seen {
            return false;
        }
        let Some(port) = self.ports.take(slot) else {
            return false;
        };
        let died = self.destination(slot);
        // What the end mark would have said is said to nobody.
        if let Some(old) = self.slots[slot as usize].source.take() {
            self.close_source(&old);
        }
        let f = &mut self.slots[slot as usize];
        let mut src = SourceSide::new(NO_TICKET, f, now);
        let Some((state, request)) = f.again(died, now) else {
            return false;
        };
        (src.state, src.request) = (state, request);
        f.cut = state.cut;
        let dest = (member.id, incarnation, mac, member.link, app_port);
        self.address(v, slot, &mut src, dest, port, now);
        self.slots[slot as usize].source = Some(Box::new(src));
        self.set_state(slot, State::Held);
        self.counters.repeats += 1;
        self.send_splice(v, slot, out);
        self.wake(slot, now + LOOK.min(super::source::RETRY));
        true
    }

    /// Who has the flow, or is to have it.
    fn destination(&self, slot: u32) -> Option<u16> {
        let f = &self.slots[slot as usize];
        let source = f.source.as_ref().and_then(|s| s.peer).map(|p| p.node);
        source.or(f.peer.map(|p| p.0))
    }

    /// A node that takes connections of the flow's service, and has not had this one. The same
    /// one at every look, and another one for another flow.
    fn another(&self, v: &View, slot: u32) -> Option<(Member, [u8; 6], u64)> {
        let f = &self.slots[slot as usize];
        let copy = f.kept.as_deref()?;
        let service = usize::from(f.service);
        let (table, key) = (&v.services[service].buckets, f.key(v));
        // A minority cannot tell who is dead: the others may have the flow.
        if table.owner(&key) == NOBODY {
            return None;
        }
        let died = self.destination(slot);
        let fits =
            |m: &&Member| m.takes(service) && Some(m.id) != died && !copy.lost.contains(&m.id);
        let all: Vec<&Member> = v.members.iter().filter(fits).collect();
        let member = **all.get(table.bucket(&key) % all.len().max(1))?;
        let (mac, incarnation) = member.known?;
        Some((member, mac, incarnation))
    }

    /// A destination did not take a repeated handover, and nothing reached its application:
    /// the next one, or nobody can serve the client.
    pub(crate) fn repeat_failed<O: Output>(
        &mut self,
        v: &View,
        slot: u32,
        now: Instant,
        out: &mut O,
    ) {
        let f = &mut self.slots[slot as usize];
        let source = f.source.take();
        if let (Some(copy), Some(src)) = (f.kept.as_deref_mut(), source.as_ref()) {
            copy.lost.extend(src.peer.map(|p| p.node));
            copy.left += 1;
        }
        if let Some(src) = source {
            self.ports.give_back(src.port);
        }
        if !self.repeat(v, slot, now, out) {
            self.counters.repeats_given_up += 1;
            self.counters.unknown_resets += 1;
            self.reset_client(v, slot, now, out);
        }
    }

    /// The flow has a destination again, or has it for the first time.
    pub(crate) fn kept_until_answered(&mut self, slot: u32, link: &Addr, now: Instant) {
        let f = &mut self.slots[slot as usize];
        if f.is_bare() {
            return;
        }
        let here = f
            .source
            .as_ref()
            .and_then(|s| s.peer)
            .is_some_and(|p| p.addr == *link);
        let Some(copy) = f.kept.as_deref_mut() else {
            return;
        };
        copy.dead_since = None;
        if here || copy.left == 0 {
            return self.drop_copy(slot);
        }
        self.wake(slot, now + LOOK);
    }
}

impl Fcb {
    /// State and request for the next destination.
    fn again(&mut self, lost: Option<u16>, now: Instant) -> Option<(SpliceState, Vec<u8>)> {
        let (c_nxt, ts_in_order) = (self.c_nxt, self.ts_in_order);
        let (window, client_ack) = (self.client_window, self.client_ack);
        let copy = self.kept.as_deref_mut()?;
        copy.left = copy.left.saturating_sub(1);
        copy.lost.extend(lost);
        copy.dead_since = None;
        let cut = copy.end();
        let c_end = cut.wrapping_add(u32::from(copy.state.client_fin));
        // The dead node's clock has gone on from `ts_max`, at most one tick a millisecond (RFC
        // 7323, section 5.4), and what is not above what it said last the client rejects.
        let ticks = (now - copy.since).as_micros() / 1_000;
        let ticks = match broken(Mutation::RepeatClockBack) {
            true => 0,
            false => (ticks as u32).wrapping_add(TICKS_SPARE),
        };
        let state = SpliceState {
            cut,
            ts_max: copy.state.ts_max.wrapping_add(ticks),
            ts_recent: if c_nxt == c_end {
                ts_in_order
            } else {
                copy.state.ts_recent
            },
            client_ack,
            window,
            ..copy.state
        };
        Some((state, copy.request.clone()))
    }
}
