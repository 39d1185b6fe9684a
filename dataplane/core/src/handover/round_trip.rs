//! The round-trip time that the local stack measures (PROTOCOL, section 5, rule 5).
//!
//! A stack takes the time from its SYN-ACK to the segment that completes the handshake
//! for the path's. After a Fast Open replay that is the client's first acknowledgement
//! of an answer, which takes a round trip. But where the client was still sending when
//! its connection moved, its next segments come at once. A stack that believes in a
//! path of no length takes every delay for a loss: its probes come before any
//! acknowledgement can, and a segment that is overtaken by microseconds is sent again.

use crate::frame::Output;
use crate::seq;
use crate::shard::Shard;
use crate::time::{Instant, Span};
use crate::view::View;
use crate::wire::edit::Edit;
use crate::wire::tcp::Segment;
use dts_proto::block::Replay;

/// A segment that comes by this share of the round trip too early is no early one.
const TOLERANCE: u64 = 8;

const MILLISECOND: u64 = 1_000_000;

impl Shard {
    /// Where a segment of the client is about to complete the replayed handshake
    /// before the client's round trip is over: denies the stack its sample, and returns
    /// the TSecr, in the stack's clock, by which that round trip has just passed.
    ///
    /// The SYN is given again. A stack whose SYN-ACK was repeated takes no time from it
    /// (Karn's rule, RFC 6298 section 3), but that of the segment's TSecr (RFC 7323,
    /// section 4.1). Without timestamps it measures its first answer.
    pub(crate) fn early<O: Output>(
        &mut self,
        v: &View,
        slot: u32,
        s: &Segment,
        now: Instant,
        out: &mut O,
    ) -> Option<u32> {
        let f = &mut self.slots[slot as usize];
        let rtt = f.rtt;
        let d = f.dest.as_mut()?;
        if d.replay != Replay::FastOpen || rtt == Span(0) {
            return None;
        }
        // What acknowledges this stack's own bytes has made the round trip.
        if seq::lt(d.state.s_base.wrapping_add(1), s.ack) {
            return None;
        }
        // As `cut_over` set `due`.
        let rtt = patience(rtt);
        let left = d.due - now;
        if left.0 <= rtt.0 / TOLERANCE {
            return None;
        }
        // The stack's clock ticks in milliseconds and stands at this, or one more: what
        // it reckons is never below the round trip.
        let gone = rtt.0.saturating_sub(left.0) / MILLISECOND;
        let back = rtt.0.div_ceil(MILLISECOND);
        let ts_ecr = d
            .l_tsval
            .wrapping_add(gone as u32)
            .wrapping_sub(back as u32);
        d.synacks_due += 1;
        self.replay_syn(v, slot, out);
        Some(ts_ecr)
    }
}

/// How long the client's own first acknowledgement is waited for.
pub(crate) fn patience(rtt: Span) -> Span {
    rtt.max(Span::millis(1))
}

/// Writes a TSecr into a client's segment that is not translated yet; returns the
/// segment with it.
pub(crate) fn backdate(frame: &mut [u8], s: &Segment, ts_ecr: u32) -> Option<Segment> {
    let (val, _, at) = s.opts.timestamps?;
    let mut e = Edit::new(frame, s.l4);
    e.option_u32(at + 4, ts_ecr);
    e.finish();
    let mut s = *s;
    s.opts.timestamps = Some((val, ts_ecr, at));
    Some(s)
}
