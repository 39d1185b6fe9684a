//! The paper's bare form at the source: the peer acknowledged only the SYN and
//! sent no block, so the request goes as data segments with window 0 and a FIN.

use super::gather::WINDOW;
use super::message::Head;
use super::source::Phase;
use crate::command::Fail;
use crate::drops::Drop;
use crate::frame::Output;
use crate::seq;
use crate::shard::Shard;
use crate::time::{Instant, Span};
use crate::view::View;
use crate::wire::Ip;
use crate::wire::tcp::{ACK, FIN, PSH, RST, SYN, Segment};
use dts_proto::block::{Reason, Replay};

impl Shard {
    /// A segment without a block from a destination.
    pub(crate) fn bare_to_source<O: Output>(
        &mut self,
        v: &View,
        ip: &Ip,
        s: &Segment,
        now: Instant,
        out: &mut O,
    ) {
        let slot = self.ports.slot(s.dport);
        let Some(slot) = slot else {
            return self.drop_frame(Drop::LinkStale);
        };
        let Some(src) = self.slots[slot as usize].source.as_mut() else {
            return self.drop_frame(Drop::LinkStale);
        };
        if !src
            .peer
            .is_some_and(|p| p.addr == ip.src && p.port == s.sport)
        {
            return self.drop_frame(Drop::LinkStranger);
        }
        if !v.params.paper_form {
            // Without a block nothing on the link is believed; a peer that cannot
            // do better is told so.
            let splicing = src.phase == Phase::Splicing;
            self.drop_frame(Drop::PaperForm);
            if splicing && s.has(SYN) && s.has(ACK) {
                self.bare_reset(v, slot, out);
                self.give_up(v, slot, Fail::PaperForm, now, out);
            }
            return;
        }
        let st = src.state;
        let first = st.c_base.wrapping_add(1);
        match src.phase {
            Phase::Splicing if s.has(RST) => {
                self.give_up(v, slot, Fail::Refused(Reason::NobodyListens), now, out);
            }
            Phase::Splicing if s.has(SYN) && s.has(ACK) && s.ack == first => {
                let v4 = src.flow.is_some_and(|f| f.client.is_ipv4());
                if st.timestamps || st.client_fin || !v4 {
                    self.bare_reset(v, slot, out);
                    return self.give_up(v, slot, Fail::PaperForm, now, out);
                }
                src.phase = Phase::Paper;
                src.peer_isn = s.seq;
                src.tries = 0;
                src.retry_at = now + Span::millis(10);
                let at = src.retry_at;
                self.send_paper(v, slot, false, out);
                self.wake(slot, at);
            }
            Phase::Paper if s.has(RST) => self.outcome_unknown(v, slot, now),
            Phase::Paper if s.has(ACK) => {
                let acked = s.ack.wrapping_sub(first);
                if seq::lt(st.cut, s.ack) && acked as usize == src.request.len() + 1 {
                    return self.paper_done(v, slot, now);
                }
                let acked = acked as usize;
                if acked <= src.request.len() && acked > src.sending.acked {
                    src.sending.acked = acked;
                    src.retry_at = now + Span::millis(10);
                    self.send_paper(v, slot, false, out);
                }
            }
            _ => self.drop_frame(Drop::LinkStale),
        }
    }

    fn bare_reset<O: Output>(&mut self, v: &View, slot: u32, out: &mut O) {
        let Some(src) = self.slots[slot as usize].source.as_ref() else {
            return;
        };
        let Some(peer) = src.peer else { return };
        let head = Head {
            seq: src.state.c_base.wrapping_add(1),
            flags: RST,
            ..Head::default()
        };
        self.say_bare(v, &peer, head, &[], out);
    }

    /// Sends what the window allows, and the end mark behind the last byte; `again`:
    /// from what the peer has acknowledged.
    pub(crate) fn send_paper<O: Output>(&mut self, v: &View, slot: u32, again: bool, out: &mut O) {
        let Some(src) = self.slots[slot as usize].source.as_mut() else {
            return;
        };
        let Some(peer) = src.peer else { return };
        let (st, s) = (src.state, src.sending);
        let mut at = if again { s.acked } else { s.sent.max(s.acked) };
        let request = std::mem::take(&mut src.request);
        let ack = src.peer_isn.wrapping_add(1);
        let room = usize::from(st.mss).min(v.params.mtu - Ip::header_len(&v.link) - 20);
        let end = request.len().min(s.acked + WINDOW * room);
        // Up to the end of the request the mark goes with the last byte; where all
        // was sent before, it goes alone.
        while at < end || (again && at == request.len()) {
            let n = room.min(request.len() - at);
            let last = at + n == request.len();
            let head = Head {
                seq: st.c_base.wrapping_add(1).wrapping_add(at as u32),
                ack,
                flags: ACK | PSH | if last { FIN } else { 0 },
                ..Head::default()
            };
            self.say_bare(v, &peer, head, &request[at..at + n], out);
            at += n;
            if last {
                break;
            }
        }
        if let Some(src) = &mut self.slots[slot as usize].source {
            src.request = request;
            src.sending.sent = at;
        }
    }

    /// The end mark was acknowledged: the peer has the flow.
    fn paper_done(&mut self, v: &View, slot: u32, now: Instant) {
        let f = &mut self.slots[slot as usize];
        if let Some(src) = f.source.as_mut() {
            src.steps.accepted = now - src.started;
            src.phase = Phase::Ending;
            src.replay = Some(Replay::Paper);
            f.peer = src.peer.map(|p| (p.node, p.incarnation));
        }
        self.entomb(v, slot);
        self.bury(slot, now);
    }

    /// No end in time. Part of the request may have been executed.
    pub(crate) fn paper_gives_up<O: Output>(
        &mut self,
        v: &View,
        slot: u32,
        now: Instant,
        out: &mut O,
    ) {
        self.bare_reset(v, slot, out);
        self.outcome_unknown(v, slot, now);
    }
}
