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

use super::dest::DestSide;
use crate::frame::Output;
use crate::mutation::{Mutation, broken};
use crate::seq;
use crate::shard::Shard;
use crate::time::{Instant, Span};
use crate::view::View;
use crate::wire::tcp::Segment;
use dts_proto::block::Replay;

/// A segment that comes by this share of the round trip too early is no early one.
const TOLERANCE: u64 = 8;

/// A shorter round trip cannot be told by a clock of milliseconds; the client's own
/// acknowledgement is not long in coming.
const TOLD_LEAST_US: u32 = 1_000;

const MILLISECOND: u64 = 1_000_000;

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
            self.replay_syn(v, slot, out);
        }
    }
}

/// How long the client's own first acknowledgement is waited for.
pub(crate) fn patience(rtt: Span) -> Span {
    rtt.max(Span::millis(1))
}
