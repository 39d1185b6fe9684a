//! Playing the client to the local stack (PROTOCOL, section 4, step 5).
//!
//! Fast Open replay: one SYN with the whole request; the client's own first
//! acknowledgement completes the handshake, or the filter's after the client's
//! round-trip time. Handshake replay: SYN, then the request with the ACK.

use super::answers::Answer;
use super::dest::{Phase, to_stack};
use crate::drops::Drop;
use crate::frame::{Frame, Kept, Output};
use crate::mutation::{Mutation, broken};
use crate::seq;
use crate::shard::Shard;
use crate::time::{Instant, Span};
use crate::translate;
use crate::view::View;
use crate::wire::build::Tcp;
use crate::wire::options::Build;
use crate::wire::tcp::{ACK, FIN, PSH, RST, SYN, Segment};
use dts_proto::block::{Reason, Replay};

/// Local segments that wait for the cut over.
const EGRESS_MOST: usize = 64;
/// Their bytes, which a stack with segmentation offload has in few large frames.
const EGRESS_BYTES: usize = 128 << 10;
/// SYNs that the stack is given before an old socket counts as unkillable.
const SYN_TRIES: u32 = 3;

impl Shard {
    /// The request is here, whole: give it to the stack.
    pub(crate) fn begin_replay<O: Output>(
        &mut self,
        v: &View,
        slot: u32,
        now: Instant,
        out: &mut O,
    ) {
        let Some(d) = self.slots[slot as usize].dest.as_mut() else {
            return;
        };
        d.phase = Phase::Syn;
        let fast = v.params.replay == dts_config::Replay::FastOpen && d.paper.is_none();
        d.replay = if fast {
            Replay::FastOpen
        } else {
            Replay::Handshake
        };
        // The source's patience with us is two thirds of the deadline.
        d.due = now + Span(v.params.deadline.0 * 2 / 5);
        let due = d.due;
        self.replay_syn(v, slot, out);
        self.wake(slot, due);
    }

    pub(crate) fn replay_syn<O: Output>(&mut self, v: &View, slot: u32, out: &mut O) {
        let Some(d) = self.slots[slot as usize].dest.as_mut() else {
            return;
        };
        d.tries += 1;
        let st = d.state;
        let tells = d.tells_round_trip();
        let window = if d.paper.is_some() || tells {
            // The answer waits for the ACK that completes the handshake.
            0
        } else if broken(Mutation::SynWindowScaled) {
            st.window
        } else {
            (u32::from(st.window) << st.client_shift).min(0xffff) as u16
        };
        let clock = if broken(Mutation::PawsClock) {
            st.ts_max
        } else {
            st.ts_recent
        };
        let payload = match d.replay {
            Replay::FastOpen => std::mem::take(&mut d.request),
            Replay::Handshake | Replay::Paper => Vec::new(),
        };
        let opts = Build {
            mss: Some(st.mss),
            sack_permitted: st.sack,
            timestamps: st.timestamps.then_some((clock, 0)),
            wscale: st.wscale.then_some(st.client_shift),
            splice: None,
        };
        let head = ClientSegment {
            seq: st.c_base,
            ack: 0,
            flags: SYN,
            window,
            opts,
        };
        self.play(v, slot, head, &payload, out);
        if let Some(d) = &mut self.slots[slot as usize].dest
            && d.replay == Replay::FastOpen
        {
            d.request = payload;
        }
    }

    /// Gives the stack the request bytes that it has not acknowledged, with the ACK
    /// that completes the handshake.
    pub(crate) fn replay_data<O: Output>(&mut self, v: &View, slot: u32, out: &mut O) {
        let Some(d) = self.slots[slot as usize].dest.as_mut() else {
            return;
        };
        let st = d.state;
        let request = std::mem::take(&mut d.request);
        let head = ClientSegment {
            seq: st.cut.wrapping_sub(request.len() as u32),
            ack: d.l_isn.wrapping_add(1),
            flags: ACK
                | PSH
                | if st.client_fin && !broken(Mutation::FinLost) {
                    FIN
                } else {
                    0
                },
            window: st.window,
            opts: Build {
                timestamps: st.timestamps.then_some((st.ts_recent, d.l_tsval)),
                ..Build::default()
            },
        };
        self.play(v, slot, head, &request, out);
        if let Some(d) = &mut self.slots[slot as usize].dest {
            d.request = request;
        }
    }

    /// A local application's segment before the cut over.
    pub(crate) fn host_replay<O: Output>(
        &mut self,
        v: &View,
        frame: &O::Frame,
        s: &Segment,
        slot: u32,
        now: Instant,
        out: &mut O,
    ) {
        let Some(d) = self.slots[slot as usize].dest.as_mut() else {
            return;
        };
        match d.phase {
            Phase::Syn if s.has(SYN) && s.has(ACK) => self.replay_synack(v, s, slot, now, out),
            Phase::Syn if s.has(RST) => {
                // The answer to this very SYN, with its payload or without; an old
                // socket's RST names something else.
                let first = d.state.c_base.wrapping_add(1);
                if s.has(ACK) && (s.ack == first || s.ack == d.state.cut) {
                    self.refuse_slot(v, slot, Reason::NobodyListens, now, out);
                }
            }
            Phase::Syn
                if s.has(ACK) && d.tries < SYN_TRIES && !broken(Mutation::TimeWaitNotReset) =>
            {
                // An old socket of this 4-tuple, in TIME_WAIT or forgotten: the RST
                // that it cannot refuse, then the SYN again.
                let seq = s.ack;
                self.play(v, slot, ClientSegment::reset(seq), &[], out);
                self.replay_syn(v, slot, out);
            }
            Phase::Data => return self.host_data(v, frame, s, slot, now, out),
            _ => {}
        }
        self.drop_frame(Drop::ReplayConsumed);
    }

    fn replay_synack<O: Output>(
        &mut self,
        v: &View,
        s: &Segment,
        slot: u32,
        now: Instant,
        out: &mut O,
    ) {
        let f = &mut self.slots[slot as usize];
        let Some(d) = f.dest.as_mut() else { return };
        let st = d.state;
        let len = st.cut.wrapping_sub(st.c_base.wrapping_add(1));
        let acked = s.ack.wrapping_sub(st.c_base.wrapping_add(1));
        if acked > len {
            return;
        }
        if (st.timestamps && s.opts.timestamps.is_none()) || (st.wscale && s.opts.wscale.is_none())
        {
            let flow = d.flow;
            self.kill_half_open(v, slot, out);
            if acked == 0 || broken(Mutation::RefusedTooLate) {
                return self.refuse_slot(v, slot, Reason::Options, now, out);
            }
            // The application may have read what was acknowledged: nobody may
            // repeat it.
            self.answers.put(flow, Answer::Undecided, now);
            return self.leave(v, slot);
        }
        d.l_isn = s.seq;
        d.l_tsval = s.ts_val().unwrap_or(0);
        d.l_window = u32::from(s.window);
        let l_tsval = d.l_tsval;
        f.delta = if broken(Mutation::DeltaZero) {
            0
        } else {
            st.s_base.wrapping_sub(s.seq)
        };
        // The destination's first TSval is the highest that the client has seen.
        f.tau = if st.timestamps && !broken(Mutation::TauZero) {
            st.ts_max.wrapping_sub(l_tsval)
        } else {
            0
        };
        f.local_shift = if st.wscale {
            s.opts.wscale.unwrap_or(0)
        } else {
            0
        };
        let Some(d) = f.dest.as_mut() else { return };
        if let Some(p) = d.paper.as_mut() {
            p.synack = Some(s.window);
            d.phase = Phase::Data;
            d.due = now + v.params.deadline;
            let due = d.due;
            self.wake(slot, due);
            return self.paper_accept(v, slot, out);
        }
        if acked == len && (d.replay == Replay::FastOpen || len == 0) {
            return self.cut_over(v, slot, true, now, out);
        }
        // Fast Open was not to be had (off, or its queue is full).
        d.replay = Replay::Handshake;
        d.request.drain(..acked as usize);
        d.phase = Phase::Data;
        d.handshake_done = true;
        d.tries = 0;
        d.due = now + Span::millis(20);
        let due = d.due;
        self.replay_data(v, slot, out);
        self.wake(slot, due);
    }

    fn host_data<O: Output>(
        &mut self,
        v: &View,
        frame: &O::Frame,
        s: &Segment,
        slot: u32,
        now: Instant,
        out: &mut O,
    ) {
        let Some(d) = self.slots[slot as usize].dest.as_mut() else {
            return;
        };
        let paper = d.paper.is_some();
        if s.has(SYN) {
            self.drop_frame(Drop::ReplayConsumed);
            return if !paper {
                self.replay_data(v, slot, out)
            } else {
                self.paper_accept(v, slot, out)
            };
        }
        if paper {
            self.drop_frame(Drop::ReplayConsumed);
            return self.paper_host(v, s, slot, now, out);
        }
        // A RST after bytes of the request were given is the application's answer.
        let whole = s.has(RST) || (s.has(ACK) && seq::le(d.state.cut, s.ack));
        if !s.is_empty() || s.has(FIN | RST) {
            let kept: usize = d.egress.iter().map(|k| k.bytes.len()).sum();
            if d.egress.len() < EGRESS_MOST && kept + frame.len() <= EGRESS_BYTES {
                d.egress.push(Kept::of(frame));
            } else {
                self.drop_frame(Drop::HoldFull);
            }
        } else {
            self.drop_frame(Drop::ReplayConsumed);
        }
        if whole {
            self.cut_over(v, slot, s.is_empty(), now, out);
        }
    }

    /// Ends a half-open replay at the stack, at the two numbers where it may be.
    pub(crate) fn kill_half_open<O: Output>(&mut self, v: &View, slot: u32, out: &mut O) {
        let Some(d) = self.slots[slot as usize].dest.as_ref() else {
            return;
        };
        if d.phase != Phase::Syn {
            return;
        }
        let (base, cut) = (d.state.c_base.wrapping_add(1), d.state.cut);
        self.play(v, slot, ClientSegment::reset(base), &[], out);
        if cut != base {
            self.play(v, slot, ClientSegment::reset(cut), &[], out);
        }
    }

    /// The client's acknowledgement completes the replayed handshake by itself; a
    /// FIN that it sent before the cut goes first.
    pub(crate) fn complete_handshake<O: Output>(
        &mut self,
        v: &View,
        slot: u32,
        s: &Segment,
        now: Instant,
        out: &mut O,
    ) {
        let f = &mut self.slots[slot as usize];
        let (ack, window) = (translate::host_ack(f, s.ack), s.window);
        let Some(d) = f.dest.as_mut().filter(|d| !d.handshake_done) else {
            return;
        };
        if !s.has(ACK) || s.has(RST) {
            return;
        }
        d.handshake_done = true;
        let (fin, ts_ecr) = (d.state.client_fin, d.l_tsval);
        self.deny_early(v, slot, s, now, out);
        if fin {
            self.play_ack(v, slot, ack, window, (s.ts_val(), ts_ecr), out);
        }
    }

    /// The client's round-trip time is over and it has said nothing.
    pub(crate) fn finish_handshake<O: Output>(&mut self, v: &View, slot: u32, out: &mut O) {
        let f = &mut self.slots[slot as usize];
        let window = f.client_window;
        let Some(d) = f.dest.as_mut() else { return };
        d.handshake_done = true;
        let (ack, ts_ecr) = (d.l_isn.wrapping_add(1), d.l_tsval);
        self.play_ack(v, slot, ack, window, (None, ts_ecr), out);
    }

    /// The stack repeats its SYN-ACK although the client's round trip is over: the
    /// ACK got lost between us.
    pub(crate) fn answer_synack<O: Output>(
        &mut self,
        v: &View,
        slot: u32,
        s: &Segment,
        out: &mut O,
    ) {
        let recalled = self.recall(v, slot);
        let dest = self.slots[slot as usize].dest.as_mut();
        let Some(d) = dest.filter(|d| d.handshake_done && d.l_isn == s.seq) else {
            return;
        };
        if recalled {
            d.l_tsval = s.ts_val().unwrap_or(0);
        }
        if d.synacks_due > 0 {
            // The answer to the SYN that was given again; what completes the handshake
            // is behind it.
            d.synacks_due -= 1;
            return;
        }
        self.finish_handshake(v, slot, out);
    }

    pub(super) fn play_ack<O: Output>(
        &mut self,
        v: &View,
        slot: u32,
        ack: u32,
        window: u16,
        (ts_val, ts_ecr): (Option<u32>, u32),
        out: &mut O,
    ) {
        let f = &self.slots[slot as usize];
        let Some(d) = f.dest.as_ref() else { return };
        let st = d.state;
        let fin = if st.client_fin && !broken(Mutation::FinLost) {
            FIN
        } else {
            0
        };
        let ts = ts_val.unwrap_or(f.ts_in_order);
        let head = ClientSegment {
            seq: st.cut,
            ack,
            flags: ACK | fin,
            window,
            opts: Build {
                timestamps: st.timestamps.then_some((ts, ts_ecr)),
                ..Build::default()
            },
        };
        self.play(v, slot, head, &[], out);
    }

    /// Gives the application's stack a segment that looks as if it came from the
    /// client.
    pub(crate) fn play<O: Output>(
        &mut self,
        v: &View,
        slot: u32,
        head: ClientSegment,
        payload: &[u8],
        out: &mut O,
    ) {
        let port = v.services[self.slots[slot as usize].service as usize].app_port;
        self.play_to(v, slot, port, head, payload, out);
    }

    /// The same for any local port of the flow.
    pub(crate) fn play_to<O: Output>(
        &mut self,
        v: &View,
        slot: u32,
        port: u16,
        head: ClientSegment,
        payload: &[u8],
        out: &mut O,
    ) {
        let f = &mut self.slots[slot as usize];
        f.spoken_to = true;
        let frame = Tcp {
            eth_dst: v.host_mac,
            eth_src: f.next_hop,
            src: f.client,
            dst: f.key(v).vip,
            sport: f.client_port,
            dport: port,
            seq: head.seq,
            ack: head.ack,
            flags: head.flags,
            window: head.window,
            opts: head.opts,
            payload,
        }
        .frame();
        to_stack(self, v, &frame, out);
    }
}

/// The TCP header of a segment that the filter sends in the client's name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientSegment {
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub opts: Build,
}

impl ClientSegment {
    /// A bare RST.
    pub(crate) fn reset(seq: u32) -> Self {
        Self {
            seq,
            ack: 0,
            flags: RST,
            window: 0,
            opts: Build::default(),
        }
    }
}
