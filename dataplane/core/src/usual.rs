//! The way of most segments of a served flow, in one piece.
//!
//! What [`Shard::wire_in`] and [`Shard::wire_host_in`] ask of a frame has been answered by
//! [`Shard::look`], or is answered here at once: IPv4 without options, an ACK, no options
//! but timestamps and SACK blocks where all stacks put them, a flow of which nothing is
//! to be known but its FCB. Whatever else it is takes the long way; a test holds that both
//! do the same.

use crate::ahead::{Ahead, FIXED, WITH_TS};
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
    pub(super) const TS_VAL: usize = 58;
    pub(super) const TS_ECR: usize = 62;
    pub(super) const SACK: usize = 70;
}

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
    /// Reads a frame that [`Ahead::is_usual`] is said of.
    #[inline(always)]
    fn read(head: &[u8], blocks: usize) -> Option<Self> {
        let h = head.first_chunk::<FIXED>()?;
        let header = usize::from(h[at::OFF] >> 4) * 4;
        let total = usize::from(u16::from_be_bytes([h[16], h[17]]));
        let mut ts = None;
        if header > 20 {
            let o = head.first_chunk::<WITH_TS>()?;
            ts = Some((long(o, at::TS_VAL), long(o, at::TS_ECR)));
        }
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

/// The bytes of a usual frame in one piece, what it says, and whether its checksum is partial.
#[inline(always)]
fn usual_head<'a, F: Frame>(
    frame: &'a mut F,
    ahead: &Ahead,
) -> Option<(&'a mut [u8], Usual, bool)> {
    let (all, partial) = (frame.len(), frame.is_partial());
    let head = frame.head_mut();
    let s = Usual::read(head, ahead.blocks()).filter(|_| all == head.len())?;
    Some((head, s, partial))
}

#[inline(always)]
fn long<const N: usize>(h: &[u8; N], i: usize) -> u32 {
    u32::from_be_bytes([h[i], h[i + 1], h[i + 2], h[i + 3]])
}

/// A frame that is being changed, and what its checksum will have to make up for.
struct Rewrite<'a> {
    head: &'a mut [u8],
    change: Delta,
}

impl Rewrite<'_> {
    #[inline(always)]
    fn word(&mut self, at: usize, new: u16) {
        if let Some(b) = self
            .head
            .get_mut(at..)
            .and_then(|b| b.first_chunk_mut::<2>())
        {
            self.change.word(u16::from_be_bytes(*b), new);
            *b = new.to_be_bytes();
        }
    }

    #[inline(always)]
    fn long(&mut self, at: usize, new: impl FnOnce(u32) -> u32) {
        if let Some(b) = self
            .head
            .get_mut(at..)
            .and_then(|b| b.first_chunk_mut::<4>())
        {
            let old = u32::from_be_bytes(*b);
            let new = new(old);
            self.change.long(0, old, new);
            *b = new.to_be_bytes();
        }
    }

    /// Writes the checksum, unless it is `partial`.
    #[inline(always)]
    fn finish(self, partial: bool) {
        if !partial
            && let Some(b) = self
                .head
                .get_mut(at::CHECKSUM..)
                .and_then(|b| b.first_chunk_mut::<2>())
        {
            *b = self.change.apply(u16::from_be_bytes(*b)).to_be_bytes();
        }
    }
}

impl Shard {
    /// Processes a frame that [`Shard::look_closer`] has left, as [`Shard::ingress`] does.
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
        let left = match port {
            Port::Wire => self.usual_in(v, ahead, frame, now, out),
            Port::WireHost => self.usual_out(v, ahead, frame, now, out),
            Port::Link | Port::LinkHost => Some(frame),
        };
        if let Some(frame) = left {
            self.expect(ahead);
            self.ingress(v, port, frame, now, out);
        }
    }

    /// The FCB of a usual frame, if its flow has been served here for long and nothing else
    /// is to be known of it.
    #[inline(always)]
    fn usual_flow(&mut self, a: &Ahead) -> Option<&mut Fcb> {
        if !a.is_usual() {
            return None;
        }
        let f = self.slots.get_mut(a.slot()? as usize)?;
        (f.state == State::Served && f.is_bare() && a.is_of(f)).then_some(f)
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
        let Some((head, s, partial)) = usual_head(&mut frame, ahead) else {
            return Some(frame);
        };
        let stamp = Stamp::from(now);
        if f.storms(Side::Client, s.bare(), stamp) {
            self.drops.count(Drop::AckStorm);
            return None;
        }
        f.next_hop = [head[6], head[7], head[8], head[9], head[10], head[11]];
        f.note_usual(&s, stamp);
        f.spoken_to = true;
        f.asked |= f.asks(s.seq, s.len) && !broken(Mutation::AskedForgotten);
        let ack = host_ack(f, s.ack);
        let (delta, tau, dport) = (f.delta, f.tau, f.local_port);
        let mut r = Rewrite {
            head,
            change: Delta::default(),
        };
        r.word(at::DPORT, dport);
        r.long(at::ACK, |_| ack);
        if !broken(Mutation::SackUnshifted) {
            for edge in 0..s.blocks * 2 {
                r.long(at::SACK + 4 * edge, |old| old.wrapping_sub(delta));
            }
        }
        if let Some((_, ecr)) = s.ts
            && (ecr != 0 || broken(Mutation::TsecrZeroShifted))
        {
            r.long(at::TS_ECR, |old| old.wrapping_sub(tau));
        }
        r.head[..6].copy_from_slice(&v.host_mac);
        r.finish(partial);
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
        let Some((head, s, partial)) = usual_head(&mut frame, ahead) else {
            return Some(frame);
        };
        let sport = u16::from_be_bytes([head[at::SPORT], head[at::SPORT + 1]]);
        // A D-SACK of replayed bytes is to be taken out.
        let replayed = s.blocks > 0 && {
            let right = head[at::SACK + 4..].first_chunk::<4>();
            right.is_some_and(|b| seq::le(u32::from_be_bytes(*b), f.cut))
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
        let ts_val = s.ts.map(|(val, _)| val.wrapping_add(f.tau));
        if let Some(val) = ts_val {
            f.ts_max = seq::max(f.ts_max, val);
        }
        f.s_nxt = seq::max(f.s_nxt, s.end().wrapping_add(f.delta));
        f.told(s.ack, window, f.agreed.promised_shift);
        let next_hop = f.next_hop;
        let port = v.services[usize::from(f.service)].port;
        let mut r = Rewrite {
            head,
            change: Delta::default(),
        };
        r.word(at::SPORT, port);
        r.long(at::SEQ, |old| if leak { old } else { seq });
        r.word(at::WINDOW, window);
        if let Some(val) = ts_val {
            r.long(at::TS_VAL, |_| val);
        }
        r.head[..6].copy_from_slice(&next_hop);
        r.head[6..12].copy_from_slice(&v.wire_mac);
        r.finish(partial);
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
