//! The breaker of acknowledgement storms (rule 13).
//!
//! Two ends that each hold the other's numbers for wrong answer every bare ACK with
//! a bare ACK, as fast as the network carries them, for ever. No stack does that in
//! good order: keepalives and window probes are far apart, and everything else moves
//! a number, opens a window or tells of a hole.

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
#[repr(C)]
pub(crate) struct Storm {
    row: u8,
    last: Side,
    /// Sequence number, acknowledgement and window of each side's last bare ACK.
    said: [(u32, u32, u16); 2],
    at: Instant,
}

impl Default for Storm {
    fn default() -> Self {
        Self {
            said: [(0, 0, 0); 2],
            last: Side::Client,
            at: Instant(0),
            row: 0,
        }
    }
}

impl Storm {
    /// Notes a segment of `side`, in its sender's own numbers. True when it belongs
    /// to a storm and is to be dropped; the first segment that says something new
    /// passes, and so does the first one after a pause.
    #[inline]
    pub(crate) fn note(&mut self, side: Side, s: &Segment, now: Instant) -> bool {
        if s.flags != ACK || !s.is_empty() || s.opts.sack.is_some() {
            self.row = 0;
            return false;
        }
        let said = (s.seq, s.ack, s.window);
        let news = std::mem::replace(&mut self.said[side as usize], said) != said;
        let alternates = std::mem::replace(&mut self.last, side) != side;
        let pause = now - std::mem::replace(&mut self.at, now);
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
