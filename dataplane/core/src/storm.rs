//! The breaker of acknowledgement storms (rule 13).
//!
//! Two ends that each hold the other's numbers for wrong answer every bare ACK with
//! a bare ACK, as fast as the network carries them, for ever. No stack does that in
//! good order: keepalives and window probes are far apart, and everything else moves
//! a number, opens a window or tells of a hole.

use crate::fcb::Fcb;
use crate::mutation::{Mutation, broken};
use crate::time::{Span, Stamp};
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
#[repr(C)]
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

    /// Notes a segment of `side`, what it says if it is a bare ACK, `pause` after the flow's
    /// last one. True when it belongs to a storm and is to be dropped; the first segment
    /// that says something new passes, and so does the first one after a pause.
    #[inline]
    fn note(&mut self, side: Side, bare: Option<Bare>, pause: impl FnOnce() -> Span) -> bool {
        let Some(bare) = bare else {
            self.row = 0;
            return false;
        };
        let said = bare.digest();
        let news = std::mem::replace(&mut self.said[side as usize], said) != said;
        let alternates = std::mem::replace(&mut self.last, side) != side;
        if news || !alternates || pause() >= PAUSE {
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

/// What a bare ACK says, in its sender's own numbers.
#[derive(Clone, Copy)]
pub(crate) struct Bare {
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) window: u16,
}

impl Bare {
    /// What `s` says, if it is one.
    #[inline]
    pub(crate) fn of(s: &Segment) -> Option<Self> {
        let bare = s.flags == ACK && s.is_empty() && s.opts.sack.is_none();
        bare.then_some(Self {
            seq: s.seq,
            ack: s.ack,
            window: s.window,
        })
    }

    /// Sixteen bits of it, by multiplicative hashing (Knuth, volume 3, section 6.4): who
    /// could forge one to match has the flow's numbers already.
    #[inline]
    fn digest(self) -> u16 {
        let x = u64::from(self.seq) << 32 | u64::from(self.ack);
        let x = (x ^ u64::from(self.window).rotate_right(16)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (x >> 48) as u16
    }
}

impl Fcb {
    /// Notes a segment of `side`, what it says if it is a bare ACK; true when it belongs to
    /// a storm and is to be dropped.
    #[inline]
    pub(crate) fn storms(&mut self, side: Side, bare: Option<Bare>, now: Stamp) -> bool {
        let last = self.last_seen;
        let storms = self.storm.note(side, bare, || last.until(now));
        if storms {
            // What is dropped makes no pause either.
            self.last_seen = now;
        }
        storms
    }
}
