//! The breaker of acknowledgement storms (rule 13).
//!
//! Two ends that each hold the other's numbers for wrong answer every bare ACK with
//! a bare ACK, as fast as the network carries them, for ever. No stack does that in
//! good order: keepalives and window probes are far apart, and everything else moves
//! a number, opens a window or tells of a hole.

use crate::fcb::Fcb;
use crate::mutation::{Mutation, broken};
use crate::time::{Instant, Span};
use crate::wire::tcp::{ACK, Segment};

/// Bare ACKs that pass in a row, alternately from both sides and with nothing new.
const MOST: u8 = 30;
/// A pause that ends the row. Linux waits 200 ms or more between window probes and
/// 1 s or more between keepalives (`tcp(7)`); a shorter first pause doubles with each
/// probe and is longer than this well before [`MOST`].
const PAUSE: Span = Span::millis(200);

/// Who sent a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Stack,
}

/// What the breaker remembers of a flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Storm {
    /// Of sequence number, acknowledgement and window of each side's last bare ACK. Two
    /// that differ look alike once in 65,536 times, and a row of them never.
    said: [u16; 2],
    row: u8,
    last: Side,
}

impl Storm {
    /// Nothing was said.
    pub(crate) const NEW: Self = Self {
        said: [0; 2],
        row: 0,
        last: Side::Client,
    };

    /// Notes a segment of `side`, in its sender's own numbers, `pause` after the flow's
    /// last one. True when it belongs to a storm and is to be dropped; the first segment
    /// that says something new passes, and so does the first one after a pause.
    #[inline]
    fn note(&mut self, side: Side, s: &Segment, pause: Span) -> bool {
        if s.flags != ACK || !s.is_empty() || s.opts.sack.is_some() {
            self.row = 0;
            return false;
        }
        let said = digest(s);
        let news = std::mem::replace(&mut self.said[side as usize], said) != said;
        let alternates = std::mem::replace(&mut self.last, side) != side;
        if news || !alternates || pause >= PAUSE {
            self.row = 0;
            return false;
        }
        self.row = self.row.saturating_add(1);
        let most = if broken(Mutation::StormAtOnce) {
            0
        } else {
            MOST
        };
        self.row > most && !broken(Mutation::StormGoesOn)
    }
}

/// Sixteen bits of what a bare ACK says, by multiplicative hashing (Knuth, volume 3,
/// section 6.4): who could forge one to match has the flow's numbers already.
#[inline]
fn digest(s: &Segment) -> u16 {
    let x = u64::from(s.seq) << 32 | u64::from(s.ack);
    let x = (x ^ u64::from(s.window).rotate_right(16)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x >> 48) as u16
}

impl Fcb {
    /// Notes a segment of `side`, in its sender's own numbers; true when it belongs to a
    /// storm and is to be dropped.
    #[inline]
    pub(crate) fn storms(&mut self, side: Side, s: &Segment, now: Instant) -> bool {
        let storms = self.storm.note(side, s, self.last_seen.age(now));
        if storms {
            // What is dropped makes no pause either.
            self.last_seen = now.into();
        }
        storms
    }
}
