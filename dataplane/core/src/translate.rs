//! The rewriting of an established flow's segments, both ways (PROTOCOL,
//! section 3). At intake delta and tau are 0 and only ports change.

use crate::fcb::Fcb;
use crate::frame::Frame;
use crate::mutation::{Mutation, broken};
use crate::seq;
use crate::wire::edit::Edit;
use crate::wire::options::kind;
use crate::wire::tcp::{ACK, RST, SYN, Segment};

/// Rewrites a client's segment for the local stack.
#[inline]
pub(crate) fn to_host<F: Frame>(f: &Fcb, frame: &mut F, s: &Segment) {
    let mut e = Edit::of(frame, s.l4);
    if s.dport != f.local_port {
        e.dport(f.local_port);
    }
    if s.has(ACK) {
        let a = host_ack(f, s.ack);
        if a != s.ack {
            e.ack(a);
        }
    }
    if f.delta != 0
        && !broken(Mutation::SackUnshifted)
        && let Some((at, blocks)) = s.opts.sack
    {
        for edge in 0..blocks * 2 {
            let at = at + edge * 4;
            let v = e.peek_option_u32(at);
            e.option_u32(at, v.wrapping_sub(f.delta));
        }
    }
    if f.tau != 0
        && let Some((_, ecr, at)) = s.opts.timestamps
        && (ecr != 0 || broken(Mutation::TsecrZeroShifted))
    {
        e.option_u32(at + 4, ecr.wrapping_sub(f.tau));
    }
    e.finish();
}

/// The acknowledgement that the local stack is given for the client's `ack`:
/// within what the stack has sent, in its own numbers.
#[inline]
pub(crate) fn host_ack(f: &Fcb, ack: u32) -> u32 {
    if broken(Mutation::AckUnclamped) {
        return ack.wrapping_sub(f.delta);
    }
    seq::clamp(ack, f.s_low, f.s_nxt).wrapping_sub(f.delta)
}

/// What goes out to the client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing {
    /// The service port.
    pub port: u16,
    /// Bytes of window that the client may be promised in all, from `c_isn` + 1
    /// on; `None` without a limit.
    pub window_limit: Option<u32>,
}

/// Rewrites a local stack's segment for the client and notes in the FCB what the
/// client is told by it. False when it tells nothing: Linux now and then sends the
/// same pure ACK twice within microseconds, and a client would count the second
/// one as a sign of loss (RFC 5681, section 2).
pub(crate) fn to_wire<F: Frame>(f: &mut Fcb, frame: &mut F, s: &Segment, o: Outgoing) -> bool {
    let (mut raised, own_ack) = (*s, s.ack);
    // A FIN that the intake has acknowledged reaches this stack only with the end of
    // its handshake. Until then it would take that back, and a client in FIN-WAIT
    // drops a segment with an old acknowledgement, data and all.
    if f.dest.is_some()
        && s.has(ACK)
        && !s.has(RST)
        && seq::lt(s.ack, f.c_acked)
        && !broken(Mutation::AckTakenBack)
    {
        raised.ack = f.c_acked;
    }
    let s = &raised;
    let window = window(f, s, o.window_limit);
    let pure = s.flags == ACK && s.is_empty() && s.opts.sack.is_none();
    let known = s.ack == f.c_acked && window == f.c_window;
    // A stack that was given the request again by a replay tells that in a D-SACK; to
    // the client, which sent it once, what is left of it would be a duplicate ACK.
    let bare = s.flags == ACK && s.is_empty();
    let replayed = bare && only_replayed(f, frame.head(), s) && !broken(Mutation::ReplayedAckLeft);
    // If it did send that again, it wants to be told.
    let news = (f.spoken_to || !pure) && (f.asked || !replayed);
    if !news && known && s.seq.wrapping_add(f.delta) == f.s_nxt {
        return false;
    }
    f.c_window = window;
    f.spoken_to = false;
    f.asked = false;
    let mut e = Edit::of(frame, s.l4);
    if s.sport != o.port {
        e.sport(o.port);
    }
    let seq = s.seq.wrapping_add(f.delta);
    let probe = s.len() <= 1 && seq::lt(seq, f.s_nxt);
    if f.delta != 0 && !(probe && broken(Mutation::KeepaliveLeak)) {
        e.seq(seq);
    }
    if own_ack != s.ack {
        e.ack(s.ack);
    }
    if window != s.window {
        e.window(window);
    }
    if let Some((val, _, at)) = s.opts.timestamps {
        let val = val.wrapping_add(f.tau);
        if f.tau != 0 {
            e.option_u32(at, val);
        }
        f.ts_max = seq::max(f.ts_max, val);
    }
    if let Some((at, blocks)) = s.opts.sack
        && !broken(Mutation::DsackLeft)
    {
        strip_dsack(&mut e, f.cut, at, blocks);
    }
    e.finish();
    if !s.has(RST) {
        f.s_nxt = seq::max(f.s_nxt, s.seq_end().wrapping_add(f.delta));
    }
    if s.has(ACK) && !s.has(RST) {
        let shift = if s.has(SYN) {
            0
        } else {
            f.agreed.promised_shift
        };
        f.told(s.ack, window, shift);
    }
    true
}

impl Fcb {
    /// The client is told that what lies before `ack` has come, and of room for more.
    #[inline]
    pub(crate) fn told(&mut self, ack: u32, window: u16, shift: u8) {
        self.c_acked = seq::max(self.c_acked, ack);
        let edge = ack.wrapping_add(u32::from(window) << shift);
        self.c_edge = seq::max(self.c_edge, edge);
    }
}

/// The window field for the client: the local stack's window in units of the
/// promised shift, within the limit of rule 4, and rounded so that the right edge
/// never retreats by the rounding.
fn window(f: &Fcb, s: &Segment, limit: Option<u32>) -> u16 {
    if s.has(RST) || !s.has(ACK) || broken(Mutation::WindowUnscaled) {
        return s.window;
    }
    let limit = limit.filter(|_| !broken(Mutation::FirstWindowOff));
    let (local, promised) = if s.has(SYN) {
        (0, 0)
    } else {
        (f.local_shift, f.agreed.promised_shift)
    };
    let mut bytes = u32::from(s.window) << local;
    if let Some(w) = limit {
        // One unit below W, so that the rounding below cannot pass it.
        let shift = f.agreed.promised_shift;
        let w = (w >> shift).saturating_sub(1) << shift;
        let edge = f.c_isn.wrapping_add(1).wrapping_add(w);
        let room = edge.wrapping_sub(s.ack) as i32;
        bytes = bytes.min(room.max(0) as u32);
    }
    scaled(f, s.ack, bytes, promised)
}

/// `bytes` of window from `ack` on, as a window field of shift `promised`.
#[inline]
pub(crate) fn scaled(f: &Fcb, ack: u32, bytes: u32, promised: u8) -> u16 {
    let mut w = bytes >> promised;
    let edge = ack.wrapping_add(w << promised);
    let unit = 1u32 << promised;
    let retreats = seq::lt(edge, f.c_edge) && bytes & (unit - 1) != 0;
    if retreats && !broken(Mutation::WindowRetreats) {
        w += 1;
    }
    w.min(0xffff) as u16
}

/// The only SACK block is a D-SACK of bytes below the cut.
fn only_replayed(f: &Fcb, frame: &[u8], s: &Segment) -> bool {
    let Some((at, 1)) = s.opts.sack else {
        return false;
    };
    let at = s.opts_at + at + 4;
    let right = frame.get(at..at + 4).and_then(|b| b.try_into().ok());
    right.is_some_and(|b| seq::le(u32::from_be_bytes(b), f.cut))
}

/// Removes a D-SACK block that lies wholly below the cut: it tells of replayed
/// bytes, which the client sent once (RFC 2883 puts it first).
fn strip_dsack(e: &mut Edit<'_>, cut: u32, at: usize, blocks: usize) {
    let right = e.peek_option_u32(at + 4);
    if seq::lt(cut, right) {
        return;
    }
    for i in 0..(blocks - 1) * 2 {
        let v = e.peek_option_u32(at + 8 + i * 4);
        e.option_u32(at + i * 4, v);
    }
    let len = 2 + blocks * 8;
    let stays = if blocks == 1 { 0 } else { len - 8 };
    if stays > 0 {
        e.option_u8(at - 1, stays as u8);
    }
    for i in stays..len {
        e.option_u8(at - 2 + i, kind::NOP);
    }
}
