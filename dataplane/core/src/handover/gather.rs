//! A request that is larger than the splice: the source sends the rest in Data
//! messages, the destination gathers it.
//!
//! At most [`WINDOW`] of them are under way for one handover. The destination says
//! Continue after every [`NEWS_EVERY`]th one, and Continue with PSH where something
//! is missing: the source then goes back to that place, once for each place until its
//! own timer runs. So neither a loss nor a busy destination makes a source
//! send everything many times over.

use super::message::{Head, Message};
use crate::drops::Drop;
use crate::frame::Output;
use crate::shard::Shard;
use crate::time::Instant;
use crate::view::View;
use crate::wire::options::Build;
use crate::wire::tcp::{ACK, PSH};
use dts_proto::block::{Fields, Kind};

/// Most Data messages of one handover that no Continue has answered.
pub(crate) const WINDOW: usize = 16;
/// Data messages in order after which the destination says how far it is. Less than
/// [`WINDOW`], or the source would wait for its timer.
const NEWS_EVERY: u8 = 8;

/// How far a source is with its request; offsets in bytes from its beginning.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sending {
    /// The destination has all before this.
    pub acked: usize,
    /// All before this was sent at least once since the last going back.
    pub sent: usize,
    /// Where the source went back to last, until its timer runs again.
    pub back: Option<usize>,
}

impl Shard {
    /// The destination has the request up to the message's acknowledgement.
    pub(crate) fn continue_came<O: Output>(
        &mut self,
        v: &View,
        m: &Message<'_>,
        slot: u32,
        now: Instant,
        out: &mut O,
    ) {
        let Some(src) = self.slots[slot as usize].source.as_mut() else {
            return;
        };
        let got = m.ack.wrapping_sub(src.state.c_base.wrapping_add(1)) as usize;
        let s = &mut src.sending;
        let news = got > s.acked || s.sent == 0;
        let back = m.flags & PSH != 0 && s.back != Some(got);
        if got > src.request.len() || got < s.acked || !(news || back) {
            return self.drop_frame(Drop::LinkStale);
        }
        if s.sent == 0 && src.tries == 0 {
            src.link_rtt = now - (src.started + src.steps.spliced);
        }
        s.acked = got;
        if back {
            s.sent = got;
            s.back = Some(got);
        }
        s.sent = s.sent.max(got);
        src.tries = 0;
        src.retry_at = now + src.pause();
        self.send_data(v, slot, WINDOW, out);
    }

    /// Nothing was heard for a while: the first part of what may be missing, so much
    /// that the destination says how far it is.
    pub(crate) fn data_again<O: Output>(&mut self, v: &View, slot: u32, out: &mut O) {
        if let Some(src) = self.slots[slot as usize].source.as_mut()
            && src.sending.sent > 0
        {
            src.sending.sent = src.sending.acked;
            src.sending.back = None;
            self.send_data(v, slot, NEWS_EVERY.into(), out);
        }
    }

    /// Sends of the request up to `window` segments behind what the destination has.
    fn send_data<O: Output>(&mut self, v: &View, slot: u32, window: usize, out: &mut O) {
        let Some(src) = self.slots[slot as usize].source.as_mut() else {
            return;
        };
        let (Some(peer), Some(flow)) = (src.peer, src.flow) else {
            return;
        };
        let (st, s) = (src.state, src.sending);
        let room = Self::room(v, &Build::default(), &Fields::default());
        let end = src.request.len().min(s.acked + window * room);
        // The request leaves the FCB while it is sent, and comes back.
        let request = std::mem::take(&mut src.request);
        let mut at = s.sent;
        while at < end {
            let n = room.min(request.len() - at);
            let head = Head {
                seq: st.c_base.wrapping_add(1).wrapping_add(at as u32),
                ack: st.s_base.wrapping_add(1),
                flags: ACK | PSH,
                ..Head::default()
            };
            let body = &request[at..at + n];
            let nothing = Fields::default();
            self.say(v, &peer, Kind::Data, flow, &nothing, head, body, out);
            self.counters.data_segments += 1;
            at += n;
        }
        if let Some(src) = &mut self.slots[slot as usize].source {
            src.request = request;
            src.sending.sent = at;
        }
    }

    /// Says how far the request is here; `again`: what came behind it is not.
    pub(crate) fn ask_for_more<O: Output>(
        &mut self,
        v: &View,
        slot: u32,
        again: bool,
        out: &mut O,
    ) {
        let Some(d) = self.slots[slot as usize].dest.as_mut() else {
            return;
        };
        d.untold = 0;
        let (peer, flow) = (d.peer, d.flow);
        let first = d.state.c_base.wrapping_add(1);
        let head = Head {
            seq: d.state.s_base.wrapping_add(1),
            ack: first.wrapping_add(d.request.len() as u32),
            flags: if again { ACK | PSH } else { ACK },
            ..Head::default()
        };
        let nothing = Fields::default();
        self.say(v, &peer, Kind::Continue, flow, &nothing, head, &[], out);
    }

    /// More of a request.
    pub(crate) fn data_came<O: Output>(
        &mut self,
        v: &View,
        m: &Message<'_>,
        slot: u32,
        now: Instant,
        out: &mut O,
    ) {
        let Some(d) = self.slots[slot as usize].dest.as_mut() else {
            return;
        };
        let at = m.seq.wrapping_sub(d.state.c_base.wrapping_add(1)) as usize;
        let len = d.state.cut.wrapping_sub(d.state.c_base.wrapping_add(1)) as usize;
        let end = at + m.body.len();
        if d.phase != super::dest::Phase::Gather || end > len || end <= d.request.len() {
            return self.drop_frame(Drop::LinkStale);
        }
        if at > d.request.len() {
            // A hole: the source starts again from what we have. One question for
            // each hole; the source's own timer repeats.
            if d.asked.replace(d.request.len()) == Some(d.request.len()) {
                return self.drop_frame(Drop::LinkStale);
            }
            return self.ask_for_more(v, slot, true, out);
        }
        d.request.extend_from_slice(&m.body[d.request.len() - at..]);
        d.untold += 1;
        if d.request.len() == len {
            self.begin_replay(v, slot, now, out);
        } else if d.untold >= NEWS_EVERY {
            self.ask_for_more(v, slot, false, out);
        }
    }
}
