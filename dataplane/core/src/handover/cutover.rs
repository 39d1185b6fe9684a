//! The cut over: from here on the client and the destination talk directly
//! (PROTOCOL, section 4, step 7).

use super::answers::Answer;
use super::dest::Phase;
use super::round_trip::patience;
use super::source::segment;
use crate::drops::Drop;
use crate::fcb::State;
use crate::frame::{Frame, Output, Port};
use crate::mutation::{Mutation, broken};
use crate::seq;
use crate::shard::{Shard, hold_copy};
use crate::time::{Instant, Span};
use crate::translate;
use crate::view::View;
use crate::wire::build::Tcp;
use crate::wire::edit;
use crate::wire::options::Build;
use crate::wire::tcp::{ACK, FIN, RST, Segment};
use dts_proto::block::Replay;

/// Ranges of held payload that are remembered as given to the stack.
const GIVEN_MOST: usize = 256;
/// How long a segment from above a hole waits at most for what the source forwards;
/// the end mark, of which the second one is sent after 5 ms, ends the wait.
const FILLING: Span = Span::millis(10);

impl Shard {
    /// A client's segment while a handover is under way.
    pub(crate) fn wire_held<O: Output>(
        &mut self,
        v: &View,
        frame: O::Frame,
        s: &Segment,
        slot: u32,
        now: Instant,
        out: &mut O,
    ) {
        let max = v.params.hold_flow_max;
        let f = &mut self.slots[slot as usize];
        if hold_copy(
            &mut self.store,
            &mut f.held,
            &mut self.drops,
            max,
            &frame,
            s.seq,
            s.seq_end(),
        ) {
            f.observe_client(s, now);
        }
        self.client_proves(v, slot, s, now, out);
    }

    /// The stack has the whole request: the flow is this node's now. `bare` says
    /// that no local segment follows at once which tells the client the same.
    pub(crate) fn cut_over<O: Output>(
        &mut self,
        v: &View,
        slot: u32,
        bare: bool,
        now: Instant,
        out: &mut O,
    ) {
        let app_port = v.services[self.slots[slot as usize].service as usize].app_port;
        let f = &mut self.slots[slot as usize];
        let rtt = f.rtt;
        let Some(d) = f.dest.as_mut() else { return };
        d.phase = Phase::Served;
        let took = now - d.started;
        d.request = Vec::new();
        d.before.taken();
        let cut = d.state.cut;
        // The client's first acknowledgement may be long in coming: the stack then
        // gets the filter's, after the round trip that the client would have needed.
        d.due = now + patience(rtt);
        if broken(Mutation::AckAtOnce) {
            // Together with `tells_round_trip`.
            d.due = now;
        }
        d.filling = d.paper.is_none().then(|| now + FILLING);
        let (due, flow, paper) = (d.due, d.flow, d.paper.is_some());
        let answer = Answer::Accepted {
            seq: d.state.s_base,
            ack: d.state.cut,
            replay: d.replay,
        };
        let (c_end, handshake_done, fast, tells) = (
            d.c_end(),
            d.handshake_done,
            d.replay == Replay::FastOpen,
            d.tells_round_trip(),
        );
        let egress = std::mem::take(&mut d.egress);
        f.local_port = app_port;
        f.cut = cut;
        // A challenge that is awaited is one of the socket that had the flow.
        f.challenged = None;
        self.set_state(slot, State::Served);
        self.replays.observe(took);
        match (paper, fast) {
            (true, _) => self.counters.replay_paper += 1,
            (false, true) => self.counters.replay_fast_open += 1,
            (false, false) => self.counters.replay_handshake += 1,
        }
        if tells {
            self.tell_round_trip(v, slot, out);
        }
        if !paper {
            self.answers.put(flow, answer, now);
            self.send_accept(v, slot, out);
        }
        let keepalive = self.release_held(v, slot, now, out);
        if let Some(d) = self.slots[slot as usize].dest.as_mut() {
            d.probe_answered = keepalive;
        }
        let knows = seq::le(c_end, self.slots[slot as usize].c_acked);
        let tells = !knows && (bare || egress.is_empty());
        if (keepalive || tells) && !broken(Mutation::NoAckOfCut) {
            self.ack_cut(v, slot, out);
        }
        if !handshake_done && !tells {
            self.wake(slot, due);
        }
        for kept in egress {
            match kept.again(out) {
                Some(frame) => self.wire_host_in(v, frame, now, out),
                None => self.drop_frame(Drop::NoBuffer),
            }
        }
    }

    /// One ACK of everything that was replayed, with the stack's window and clock,
    /// so that the client's retransmission timer does not wait for a slow
    /// application.
    pub(crate) fn ack_cut<O: Output>(&mut self, v: &View, slot: u32, out: &mut O) {
        let f = &mut self.slots[slot as usize];
        let Some(d) = f.dest.as_ref() else { return };
        // A FIN of the client may still wait for the end of the handshake.
        let ack = if d.replay == Replay::Handshake {
            d.c_end()
        } else {
            d.state.cut
        };
        let ack = seq::max(ack, f.c_acked);
        // The stack's first window starts at c_base, not at K.
        let start = d.state.c_base.wrapping_add(1);
        let bytes = start.wrapping_add(d.l_window).wrapping_sub(ack) as i32;
        let l_tsval = d.l_tsval;
        let window = translate::scaled(f, ack, bytes.max(0) as u32, f.agreed.promised_shift);
        f.asked = false;
        f.c_acked = ack;
        f.c_window = window;
        f.c_edge = seq::max(
            f.c_edge,
            ack.wrapping_add(u32::from(window) << f.agreed.promised_shift),
        );
        let ts_val = l_tsval.wrapping_add(f.tau);
        f.ts_max = seq::max(f.ts_max, ts_val);
        let frame = Tcp {
            eth_dst: f.next_hop,
            eth_src: v.wire_mac,
            src: f.key(v).vip,
            dst: f.client,
            sport: f.key(v).port,
            dport: f.client_port,
            seq: f.s_nxt,
            ack,
            flags: ACK,
            window,
            opts: Build {
                timestamps: (f.agreed.ts && !broken(Mutation::NoTimestamps))
                    .then_some((ts_val, f.ts_in_order)),
                ..Build::default()
            },
            payload: &[],
        }
        .frame();
        self.emit(Port::Wire, &frame, out);
    }

    /// Gives the stack what was heard on the wire since the splice. True when the
    /// client asked for a sign of life meanwhile.
    fn release_held<O: Output>(&mut self, v: &View, slot: u32, now: Instant, out: &mut O) -> bool {
        let mut held = std::mem::take(&mut self.slots[slot as usize].held);
        let cut = self.slots[slot as usize].cut;
        let mut newest_ack: Option<Vec<u8>> = None;
        let mut keepalive = false;
        while let Some(h) = self.store.pop(&mut held) {
            let Some(s) = segment(&h.frame) else { continue };
            keepalive |= s.is_keepalive(cut) && !broken(Mutation::ProbeLost);
            if self.waits(slot, &s) {
                self.wait(v, slot, &h.frame, &s);
            } else if s.is_empty() && !s.has(RST | FIN) {
                newest_ack = Some(h.frame);
            } else {
                self.release(v, slot, &h.frame, now, out);
            }
        }
        // Of pure acknowledgements only the newest counts, and one that tells the
        // stack nothing new would only falsify its first round-trip time.
        if let Some(frame) = newest_ack
            && let Some(s) = segment(&frame)
        {
            let low = self.slots[slot as usize].s_low;
            if seq::lt(low, s.ack) {
                self.give(v, slot, &frame, now, out);
            } else {
                self.drop_frame(Drop::HoldStale);
            }
        }
        keepalive
    }

    /// A segment from above a hole that the source may yet fill. The stack would ask
    /// for what is on the link already, and the client would send it again.
    pub(crate) fn waits(&self, slot: u32, s: &Segment) -> bool {
        let d = self.slots[slot as usize].dest.as_ref();
        !s.has(RST)
            && !broken(Mutation::HoleUnfilled)
            && s.seq_len() > 0
            && d.is_some_and(|d| d.filling.is_some() && seq::lt(d.taken, s.seq))
    }

    /// Keeps a segment of which [`Self::waits`] holds.
    pub(crate) fn wait<F: Frame>(&mut self, v: &View, slot: u32, frame: &F, s: &Segment) {
        let max = v.params.hold_flow_max;
        let held = &mut self.slots[slot as usize].held;
        hold_copy(
            &mut self.store,
            held,
            &mut self.drops,
            max,
            frame,
            s.seq,
            s.seq_end(),
        );
        let until = self.slots[slot as usize]
            .dest
            .as_ref()
            .and_then(|d| d.filling);
        if let Some(t) = until {
            self.wake(slot, t);
        }
    }

    /// Gives the stack those waiting segments to which there is no hole any more.
    pub(crate) fn fill<O: Output>(&mut self, v: &View, slot: u32, now: Instant, out: &mut O) {
        let mut held = std::mem::take(&mut self.slots[slot as usize].held);
        while let Some(h) = self.store.pop(&mut held) {
            match segment(&h.frame) {
                Some(s) if self.waits(slot, &s) => self.wait(v, slot, &h.frame, &s),
                _ => self.release(v, slot, &h.frame, now, out),
            }
        }
    }

    /// The source has forwarded everything, or takes too long.
    pub(crate) fn stop_filling<O: Output>(
        &mut self,
        v: &View,
        slot: u32,
        now: Instant,
        out: &mut O,
    ) {
        let f = &mut self.slots[slot as usize];
        let Some(d) = f.dest.as_mut() else { return };
        d.filling = None;
        if f.state == State::Served {
            self.fill(v, slot, now, out);
        }
    }

    /// Gives the stack a held or forwarded client frame: nothing below K, nothing
    /// twice.
    pub(crate) fn release<O: Output>(
        &mut self,
        v: &View,
        slot: u32,
        frame: &[u8],
        now: Instant,
        out: &mut O,
    ) {
        let Some(s) = segment(frame) else {
            return self.drop_frame(Drop::HoldStale);
        };
        let f = &mut self.slots[slot as usize];
        if s.has(RST) {
            return self.give(v, slot, frame, now, out);
        }
        let cut = f.cut;
        let Some(d) = f.dest.as_mut() else { return };
        let again = d.given.contains(&(s.seq, s.seq_end())) && !broken(Mutation::GivenTwice);
        let below = !seq::lt(cut, s.seq_end()) && !broken(Mutation::BelowCut);
        if below || again {
            return self.drop_frame(Drop::HoldStale);
        }
        if d.given.len() < GIVEN_MOST {
            d.given.push((s.seq, s.seq_end()));
        }
        if seq::lt(s.seq, cut) && !broken(Mutation::BelowCut) {
            let mut trimmed = frame.to_vec();
            let front = cut.wrapping_sub(s.seq) as usize;
            let n = edit::cut_payload(&mut trimmed, &s, front, usize::MAX);
            trimmed.truncate(n);
            return self.give(v, slot, &trimmed, now, out);
        }
        self.give(v, slot, frame, now, out);
    }

    fn give<O: Output>(&mut self, v: &View, slot: u32, frame: &[u8], now: Instant, out: &mut O) {
        let (Some(copy), Some(s)) = (out.frame(frame), segment(frame)) else {
            return self.drop_frame(Drop::NoBuffer);
        };
        debug_assert_eq!(copy.len(), frame.len());
        let f = &mut self.slots[slot as usize];
        f.observe_client(&s, now);
        if let Some(d) = f.dest.as_mut() {
            d.note_taken(&s);
        }
        if s.has(RST) {
            self.revisit(slot);
        }
        self.complete_handshake(v, slot, &s, now, out);
        self.forward(v, slot, copy, &s, out);
        self.check_end(v, slot, now, out);
    }
}
