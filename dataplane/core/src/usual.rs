//! The way of most segments of a served flow, in one piece.
//!
//! What [`Shard::wire_in`] and [`Shard::wire_host_in`] ask of a frame has been answered by
//! [`Shard::look`], or is answered here at once: IPv4 without options, an ACK, no options
//! but timestamps and SACK blocks where all stacks put them, a flow of which nothing is
//! to be known but its FCB. Whatever else it is takes the long way; a test holds that both
//! do the same.

use crate::ahead::{Ahead, FIXED};
use crate::drops::Drop;
use crate::fcb::{Fcb, State};
use crate::frame::{Frame, Output, Port};
use crate::mutation::{Mutation, broken};
use crate::seq;
use crate::shard::Shard;
use crate::storm::{Bare, Side};
use crate::time::{Instant, Stamp};
use crate::translate::{host_ack, scaled};
use crate::view::View;
use crate::wire::checksum::Delta;
use crate::wire::tcp::ACK;

/// Offsets in the frame.
mod at {
    pub(super) const SPORT: usize = 34;
    pub(super) const DPORT: usize = 36;
    pub(super) const SEQ: usize = 38;
    pub(super) const ACK: usize = 42;
    pub(super) const OFF: usize = 46;
    pub(super) const FLAGS: usize = 47;
    pub(super) const WINDOW: usize = 48;
    pub(super) const CHECKSUM: usize = 50;
}

/// Bytes of timestamps with two NOPs before them, which come first among the options.
const TS: usize = 12;
/// Where the timestamps lie in them.
mod ts {
    pub(super) const VAL: usize = 4;
    pub(super) const ECR: usize = 8;
}
/// Where SACK blocks lie among the options: behind timestamps, two NOPs, kind and length.
const SACK: usize = TS + 4;

/// What a usual segment says.
#[derive(Clone, Copy)]
struct Usual {
    seq: u32,
    ack: u32,
    /// Payload bytes.
    len: u32,
    window: u16,
    flags: u8,
    /// TSval and TSecr.
    ts: Option<(u32, u32)>,
    /// SACK blocks.
    blocks: usize,
}

impl Usual {
    /// Reads the headers and options of a frame that [`Ahead::is_usual`] is said of.
    #[inline(always)]
    fn read(h: &[u8; FIXED], options: &[u8], blocks: usize) -> Option<Self> {
        let header = usize::from(h[at::OFF] >> 4) * 4;
        let total = usize::from(u16::from_be_bytes([h[16], h[17]]));
        let ts = if header > 20 {
            let o = options.first_chunk::<TS>()?;
            Some((long(o, ts::VAL), long(o, ts::ECR)))
        } else {
            None
        };
        Some(Self {
            seq: long(h, at::SEQ),
            ack: long(h, at::ACK),
            len: (total - 20 - header) as u32,
            window: u16::from_be_bytes([h[at::WINDOW], h[at::WINDOW + 1]]),
            flags: h[at::FLAGS],
            ts,
            blocks,
        })
    }

    #[inline(always)]
    fn end(&self) -> u32 {
        self.seq.wrapping_add(self.len)
    }

    /// What it says, if it is an ACK and nothing else.
    #[inline(always)]
    fn bare(&self) -> Option<Bare> {
        let bare = self.flags == ACK && self.len == 0 && self.blocks == 0;
        bare.then_some(Bare {
            seq: self.seq,
            ack: self.ack,
            window: self.window,
        })
    }
}

#[inline(always)]
fn long<const N: usize>(h: &[u8; N], i: usize) -> u32 {
    u32::from_be_bytes([h[i], h[i + 1], h[i + 2], h[i + 3]])
}

/// A usual frame in one piece, and what its checksum will have to make up for.
struct Rewrite<'a> {
    /// The headers without options.
    h: &'a mut [u8; FIXED],
    /// What lies behind them.
    rest: &'a mut [u8],
    partial: bool,
    change: Delta,
}

impl<'a> Rewrite<'a> {
    /// Of a frame in one piece that [`Ahead::is_usual`] is said of, and what it says.
    #[inline(always)]
    fn of<F: Frame>(frame: &'a mut F, a: &Ahead) -> Option<(Self, Usual)> {
        let (all, partial) = (frame.len(), frame.is_partial());
        let head = frame.head_mut();
        let in_one = all == head.len();
        let (h, rest) = head.split_first_chunk_mut().filter(|_| in_one)?;
        let s = Usual::read(h, rest, a.blocks())?;
        let change = Delta::default();
        Some((
            Self {
                h,
                rest,
                partial,
                change,
            },
            s,
        ))
    }

    #[inline(always)]
    fn word(&mut self, at: usize, new: u16) {
        let old = u16::from_be_bytes([self.h[at], self.h[at + 1]]);
        self.change.word(old, new);
        self.h[at..at + 2].copy_from_slice(&new.to_be_bytes());
    }

    #[inline(always)]
    fn long(&mut self, at: usize, old: u32, new: u32) {
        self.change.long(0, old, new);
        self.h[at..at + 4].copy_from_slice(&new.to_be_bytes());
    }

    /// One of the timestamps becomes `new`.
    #[inline(always)]
    fn timestamp(&mut self, at: usize, old: u32, new: u32) {
        if let Some(o) = self.rest.first_chunk_mut::<TS>() {
            self.change.long(0, old, new);
            o[at..at + 4].copy_from_slice(&new.to_be_bytes());
        }
    }

    /// `blocks` SACK blocks behind timestamps lie `delta` lower.
    #[inline(always)]
    fn sack(&mut self, blocks: usize, delta: u32) {
        let all = self.rest.get_mut(SACK..).unwrap_or_default();
        for block in all.as_chunks_mut::<8>().0.iter_mut().take(blocks) {
            for edge in [0, 4] {
                let old = long(block, edge);
                let new = old.wrapping_sub(delta);
                self.change.long(0, old, new);
                block[edge..edge + 4].copy_from_slice(&new.to_be_bytes());
            }
        }
    }

    /// Writes the checksum, unless it is partial.
    #[inline(always)]
    fn finish(self) {
        if !self.partial {
            let old = u16::from_be_bytes([self.h[at::CHECKSUM], self.h[at::CHECKSUM + 1]]);
            let new = self.change.apply(old).to_be_bytes();
            self.h[at::CHECKSUM..at::CHECKSUM + 2].copy_from_slice(&new);
        }
    }
}

impl Shard {
    /// Processes a frame that [`Shard::look`] has left, as [`Shard::ingress`] does.
    #[inline]
    pub fn ingress_seen<O: Output>(
        &mut self,
        v: &View,
        port: Port,
        ahead: &Ahead,
        frame: O::Frame,
        now: Instant,
        out: &mut O,
    ) {
        if let Some(frame) = self.usual(v, port, ahead, frame, now, out) {
            self.ingress_rest(v, port, ahead, frame, now, out);
        }
    }

    /// Processes a frame if it is what most are of a served flow; gives it back otherwise, for
    /// [`Shard::ingress_rest`].
    #[inline(always)]
    pub fn usual<O: Output>(
        &mut self,
        v: &View,
        port: Port,
        ahead: &Ahead,
        frame: O::Frame,
        now: Instant,
        out: &mut O,
    ) -> Option<O::Frame> {
        match port {
            Port::Wire => self.usual_in(v, ahead, frame, now, out),
            Port::WireHost => self.usual_out(v, ahead, frame, now, out),
            Port::Link | Port::LinkHost => Some(frame),
        }
    }

    /// Processes a frame that [`Shard::usual`] has left.
    pub fn ingress_rest<O: Output>(
        &mut self,
        v: &View,
        port: Port,
        ahead: &Ahead,
        frame: O::Frame,
        now: Instant,
        out: &mut O,
    ) {
        self.expect(ahead);
        self.ingress(v, port, frame, now, out);
    }

    /// The FCB of a usual frame, if its flow has been served here for long and nothing else
    /// is to be known of it.
    #[inline(always)]
    fn usual_flow(&mut self, a: &Ahead) -> Option<&mut Fcb> {
        if !a.is_usual() {
            return None;
        }
        let f = self.slots.get_mut(a.slot()? as usize)?;
        let settled = (f.state == State::Served) & f.is_bare();
        (settled & a.is_of(f)).then_some(f)
    }

    /// A client's segment. Gives the frame back where it is not a usual one.
    #[inline(always)]
    pub(crate) fn usual_in<O: Output>(
        &mut self,
        v: &View,
        ahead: &Ahead,
        mut frame: O::Frame,
        now: Instant,
        out: &mut O,
    ) -> Option<O::Frame> {
        let Some(f) = self.usual_flow(ahead) else {
            return Some(frame);
        };
        let Some((mut r, s)) = Rewrite::of(&mut frame, ahead) else {
            return Some(frame);
        };
        let stamp = Stamp::from(now);
        if f.storms(Side::Client, s.bare(), stamp) {
            self.drops.count(Drop::AckStorm);
            return None;
        }
        f.next_hop = [r.h[6], r.h[7], r.h[8], r.h[9], r.h[10], r.h[11]];
        f.note_usual(&s, stamp);
        f.spoken_to = true;
        f.asked |= f.asks(s.seq, s.len) && !broken(Mutation::AskedForgotten);
        let ack = host_ack(f, s.ack);
        let (delta, tau, dport) = (f.delta, f.tau, f.local_port);
        r.word(at::DPORT, dport);
        r.long(at::ACK, s.ack, ack);
        if !broken(Mutation::SackUnshifted) {
            r.sack(s.blocks, delta);
        }
        if let Some((_, ecr)) = s.ts
            && (ecr != 0 || broken(Mutation::TsecrZeroShifted))
        {
            r.timestamp(ts::ECR, ecr, ecr.wrapping_sub(tau));
        }
        r.h[..6].copy_from_slice(&v.host_mac);
        r.finish();
        out.send(Port::WireHost, frame);
        None
    }

    /// A segment of the local stack. Gives the frame back where it is not a usual one.
    #[inline(always)]
    pub(crate) fn usual_out<O: Output>(
        &mut self,
        v: &View,
        ahead: &Ahead,
        mut frame: O::Frame,
        now: Instant,
        out: &mut O,
    ) -> Option<O::Frame> {
        let Some(f) = self.usual_flow(ahead) else {
            return Some(frame);
        };
        let Some((mut r, s)) = Rewrite::of(&mut frame, ahead) else {
            return Some(frame);
        };
        let sport = u16::from_be_bytes([r.h[at::SPORT], r.h[at::SPORT + 1]]);
        // A D-SACK of replayed bytes is to be taken out.
        let replayed = s.blocks > 0 && {
            let right = r.rest.get(SACK..).and_then(|b| b.first_chunk::<8>());
            right.is_some_and(|b| seq::le(long(b, 4), f.cut))
        };
        if sport != f.local_port || replayed {
            return Some(frame);
        }
        let stamp = Stamp::from(now);
        if let Some((_, ecr)) = s.ts {
            f.ts_echoed = ecr;
        }
        if f.storms(Side::Stack, s.bare(), stamp) {
            self.drops.count(Drop::AckStorm);
            return None;
        }
        f.last_seen = stamp;
        let window = if broken(Mutation::WindowUnscaled) {
            s.window
        } else {
            let bytes = u32::from(s.window) << f.local_shift;
            scaled(f, s.ack, bytes, f.agreed.promised_shift)
        };
        let seq = s.seq.wrapping_add(f.delta);
        let known = s.ack == f.c_acked && window == f.c_window && seq == f.s_nxt;
        if known && s.bare().is_some() && !f.spoken_to {
            self.drops.count(Drop::AckRepeated);
            return None;
        }
        f.c_window = window;
        (f.spoken_to, f.asked) = (false, false);
        let probe = s.len <= 1 && seq::lt(seq, f.s_nxt);
        let leak = probe && broken(Mutation::KeepaliveLeak);
        let tau = f.tau;
        if let Some((val, _)) = s.ts {
            f.ts_max = seq::max(f.ts_max, val.wrapping_add(tau));
        }
        f.s_nxt = seq::max(f.s_nxt, s.end().wrapping_add(f.delta));
        f.told(s.ack, window, f.agreed.promised_shift);
        let next_hop = f.next_hop;
        let port = v.services[usize::from(f.service)].port;
        r.word(at::SPORT, port);
        r.long(at::SEQ, s.seq, if leak { s.seq } else { seq });
        r.word(at::WINDOW, window);
        if let Some((old, _)) = s.ts {
            r.timestamp(ts::VAL, old, old.wrapping_add(tau));
        }
        r.h[..6].copy_from_slice(&next_hop);
        r.h[6..12].copy_from_slice(&v.wire_mac);
        r.finish();
        out.send(Port::Wire, frame);
        None
    }
}

impl Fcb {
    /// What [`Fcb::observe_client`] notes of such a segment.
    #[inline(always)]
    fn note_usual(&mut self, s: &Usual, now: Stamp) {
        self.last_seen = now;
        if seq::le(self.client_ack, s.ack) && seq::le(s.ack, self.s_nxt) {
            self.acks(s.ack, s.window, now);
        }
        self.advances(s.seq, s.end(), s.ts.map(|t| t.0));
    }
}
