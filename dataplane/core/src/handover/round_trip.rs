//! The round-trip time that the local stack measures (PROTOCOL, section 5, rule 5).
//!
//! A stack takes the time from its SYN-ACK to the segment that completes the handshake
//! for the path's, and between filter and stack that is nothing. A stack that believes in
//! a path of no length takes every delay for a loss: its probes come before any
//! acknowledgement can, and a segment that is overtaken by microseconds is sent again.
//!
//! With timestamps the filter tells the stack the client's round trip, as the intake
//! measured it, before the first byte of the answer leaves
//! (`docs/adr/0017-round-trip-by-timestamp.md`). Without them the client's own first
//! acknowledgement of an answer completes the handshake; but where the client was still
//! sending when its connection moved, its next segments come at once, and the stack must
//! not measure those.
//!
//! Such a stack measures its first answer. Without SACK, three duplicate acknowledgements
//! make it send the answer's first segment again, and then it may not take the time
//! (Karn's rule), nor knows any for a round trip to come; a congestion control that paces
//! does not until then. Where the segment was only overtaken, its acknowledgement is close
//! behind: duplicates of the first answer wait for it a little.

use super::dest::DestSide;
use super::source::segment;
use crate::drops::Drop;
use crate::frame::{Frame, Kept, Output};
use crate::mutation::{Mutation, broken};
use crate::seq;
use crate::shard::Shard;
use crate::time::{Instant, Span};
use crate::view::View;
use crate::wire::tcp::{ACK, Segment};
use dts_proto::block::Replay;

/// A segment that comes by this share of the round trip too early is no early one.
const TOLERANCE: u64 = 8;

/// A shorter round trip cannot be told by a clock of milliseconds; the client's own
/// acknowledgement is not long in coming.
const TOLD_LEAST_US: u32 = 1_000;

const MILLISECOND: u64 = 1_000_000;

/// A segment is taken for lost rather than overtaken when its duplicate acknowledgements
/// are this share of the round trip old: the reordering window of RFC 8985, section 6.2.
const REORDERING: u64 = 4;

/// Duplicate acknowledgements that wait at most: more segments than most initial windows
/// have.
const OVERTAKING_MOST: u8 = 64;

/// Whether the stack has a round-trip time, and what must not keep it from taking one.
#[derive(Debug)]
pub enum Overtaking {
    /// It has one, or takes it from the handshake.
    Measured,
    /// It has none, and no acknowledgement of its answer has come.
    Unmeasured,
    /// Only duplicate ones have.
    Waiting {
        /// The first one. A client without timestamps and SACK says the same each time.
        frame: Kept,
        /// How many came.
        count: u8,
        /// The stack is given them then.
        until: Instant,
    },
}

impl Overtaking {
    /// When those that wait are given to the stack, if any wait.
    pub(crate) fn until(&self) -> Option<Instant> {
        match self {
            Self::Waiting { until, .. } => Some(*until),
            Self::Measured | Self::Unmeasured => None,
        }
    }
}

impl DestSide {
    /// Whether the filter completes the handshake and tells the round-trip time by it.
    pub(crate) fn tells_round_trip(&self) -> bool {
        let st = &self.state;
        // Without a request the SYN is an ordinary one, and a stack may hold the TSecr
        // of what follows against the TSval of its SYN-ACK.
        let request = st.cut != st.c_base.wrapping_add(1);
        let asked = self.replay == Replay::FastOpen && request && !broken(Mutation::AckAtOnce);
        asked && st.timestamps && st.rtt_us >= TOLD_LEAST_US
    }
}

impl Shard {
    /// Completes the replayed handshake with an ACK that tells the client's round-trip
    /// time.
    ///
    /// The SYN is given again first: a stack whose SYN-ACK was repeated takes no time
    /// from it (Karn's rule, RFC 6298 section 3), but that of the ACK's TSecr (RFC 7323,
    /// section 4.1). The ACK opens the window that the SYN kept shut, so the stack knows
    /// the time when it sends its first byte.
    pub(crate) fn tell_round_trip<O: Output>(&mut self, v: &View, slot: u32, out: &mut O) {
        let f = &mut self.slots[slot as usize];
        let (rtt, window) = (f.rtt, f.client_window);
        let Some(d) = f.dest.as_mut() else { return };
        d.handshake_done = true;
        d.synacks_due += 1;
        // The stack's clock ticks in milliseconds and stands at its SYN-ACK's, or one
        // more. Rounded down: where a probe's answer comes sooner than the smallest round
        // trip that it knows, Linux takes it for an answer to the original, and waits.
        let back = (rtt.0 / MILLISECOND) as u32;
        let window = if broken(Mutation::WindowZero) {
            0
        } else {
            window
        };
        let (ack, ts_ecr) = (d.l_isn.wrapping_add(1), d.l_tsval.wrapping_sub(back));
        // What is held is older than what was heard last, and must not be too old.
        let ts_val = Some(d.state.ts_recent);
        self.replay_syn(v, slot, out);
        self.play_ack(v, slot, ack, window, (ts_val, ts_ecr), out);
    }

    /// Where a segment of the client is about to complete the replayed handshake before
    /// the client's round trip is over: denies the stack its sample, by giving it the SYN
    /// again. It measures its first answer then.
    pub(crate) fn deny_early<O: Output>(
        &mut self,
        v: &View,
        slot: u32,
        s: &Segment,
        now: Instant,
        out: &mut O,
    ) {
        let f = &mut self.slots[slot as usize];
        let rtt = f.rtt;
        let Some(d) = f.dest.as_mut() else { return };
        if d.replay != Replay::FastOpen || rtt == Span(0) {
            return;
        }
        // What acknowledges this stack's own bytes has made the round trip.
        if seq::lt(d.state.s_base.wrapping_add(1), s.ack) {
            return;
        }
        // As `cut_over` set `due`.
        if (d.due - now).0 > patience(rtt).0 / TOLERANCE {
            d.synacks_due += 1;
            if !d.state.sack {
                d.overtaking = Overtaking::Unmeasured;
            }
            self.replay_syn(v, slot, out);
        }
    }

    /// Whether a client's segment is a duplicate acknowledgement of the first answer that
    /// waits for a better one; it is kept then. `window` is what the client said before.
    pub(crate) fn is_overtaking<F: Frame>(
        &mut self,
        slot: u32,
        frame: &F,
        s: &Segment,
        window: u16,
        now: Instant,
    ) -> bool {
        let f = &mut self.slots[slot as usize];
        // Not `c_nxt`, which stays behind where a body was reordered.
        let (low, high, next, rtt) = (f.s_low, f.s_nxt, f.c_high, f.rtt);
        let Some(d) = f.dest.as_mut() else {
            return false;
        };
        if matches!(d.overtaking, Overtaking::Measured) || !s.has(ACK) {
            return false;
        }
        if seq::lt(low, s.ack) {
            // The stack measures this one. It is newer than those that wait.
            self.forget_duplicates(slot);
            return false;
        }
        // As RFC 5681 has it, section 2. With anything else in it, it is for the stack.
        let duplicate = s.flags == ACK
            && s.is_empty()
            && (s.seq, s.ack, s.window) == (next, low, window)
            && seq::lt(low, high);
        if !duplicate {
            return false;
        }
        match &mut d.overtaking {
            Overtaking::Waiting { count, until, .. } => {
                *count = count.saturating_add(1);
                if *count >= OVERTAKING_MOST {
                    *until = now;
                    self.wake(slot, now);
                }
            }
            other => {
                let until = now + Span(rtt.0 / REORDERING);
                *other = Overtaking::Waiting {
                    frame: Kept::of(frame),
                    count: 1,
                    until,
                };
                self.wake(slot, until);
            }
        }
        true
    }

    /// Gives the stack the duplicate acknowledgements that have waited long enough.
    pub(crate) fn overtaking_timer<O: Output>(
        &mut self,
        v: &View,
        slot: u32,
        now: Instant,
        out: &mut O,
    ) {
        let f = &mut self.slots[slot as usize];
        let Some(d) = f.dest.as_mut() else { return };
        let Some(until) = d.overtaking.until() else {
            return;
        };
        if now < until {
            return self.wake(slot, until);
        }
        let waiting = std::mem::replace(&mut d.overtaking, Overtaking::Measured);
        let Overtaking::Waiting { frame, count, .. } = waiting else {
            return;
        };
        let Some(s) = segment(&frame.bytes) else {
            return;
        };
        for _ in 0..count {
            match frame.again(out) {
                Some(copy) => self.forward(v, slot, copy, &s, out),
                None => self.drop_frame(Drop::NoBuffer),
            }
        }
    }

    /// The duplicate acknowledgements that wait are of no use any more: what they waited for
    /// has come, or the flow is about to move, and the client says it again.
    pub(crate) fn forget_duplicates(&mut self, slot: u32) {
        let Some(d) = self.slots[slot as usize].dest.as_mut() else {
            return;
        };
        let waiting = std::mem::replace(&mut d.overtaking, Overtaking::Measured);
        if let Overtaking::Waiting { count, .. } = waiting {
            for _ in 0..count {
                self.drop_frame(Drop::HoldStale);
            }
        }
    }
}

/// How long the client's own first acknowledgement is waited for.
pub(crate) fn patience(rtt: Span) -> Span {
    rtt.max(Span::millis(1))
}
