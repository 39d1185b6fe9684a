//! The source of a handover: freeze, splice, forward, bury; or unfreeze.

use super::dest::DestSide;
use super::gather::Sending;
use super::message::{Head, Message, Peer};
use crate::command::{Event, Fail, Steps};
use crate::drops::Drop;
use crate::fcb::{Fcb, State};
use crate::frame::{Frame, Kept, Output};
use crate::key::{Addr, FlowKey};
use crate::mutation::{Mutation, broken};
use crate::seq;
use crate::shard::Shard;
use crate::time::{Instant, Span};
use crate::view::View;
use crate::wire::build::Tcp;
use crate::wire::edit;
use crate::wire::options::{Build, SpliceOption};
use crate::wire::tcp::{ACK, FIN, PSH, RST, SYN, Segment};
use crate::wire::{self, L3, Mac};
use dts_proto::block::{Fields, FlowId, Kind, Reason, Replay, SpliceState};
use std::net::SocketAddr;

/// How far a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The control thread drains the socket.
    Frozen,
    /// The splice SYN is out.
    Splicing,
    /// The peer acked only the SYN: the request goes in the paper's form.
    Paper,
    /// No answer in time: an abort is out.
    Aborting,
    /// No answer to the abort either.
    Unknown,
    /// Accepted; the end mark is out.
    Ending,
}

/// What the control thread drained.
#[derive(Debug)]
pub(crate) struct Request {
    /// The bytes that move.
    pub bytes: Vec<u8>,
    /// Bytes that the socket received before them.
    pub taken: u32,
    /// The client's FIN is behind them.
    pub client_fin: bool,
}

/// How far the client's bytes had gone to the stack when the flow was frozen.
#[derive(Clone, Copy, Debug)]
pub struct Given {
    /// Behind the last one in order.
    pub nxt: u32,
    /// Behind the last one at all.
    pub high: u32,
    /// TSval of the one that moved `nxt` last.
    pub ts: u32,
}

/// What the source keeps of a handover.
#[derive(Debug)]
pub struct SourceSide {
    /// The control thread's name for it.
    pub ticket: u64,
    /// Phase.
    pub phase: Phase,
    /// When the freeze was asked.
    pub started: Instant,
    /// Flow identity, once the splice began.
    pub flow: Option<FlowId>,
    /// The destination.
    pub peer: Option<Peer>,
    /// Source port of the splice connection.
    pub port: Option<u16>,
    /// The request.
    pub request: Vec<u8>,
    /// How far the destination is with it.
    pub sending: Sending,
    /// State that moves.
    pub state: SpliceState,
    /// The destination's number before its first byte, in the paper's form.
    pub peer_isn: u32,
    /// The splice was sent more than once: what one copy is answered says nothing
    /// about another one that an earlier incarnation may have had.
    pub repeated: bool,
    /// Retransmissions of the current message.
    pub tries: u32,
    /// When the next one is due.
    pub retry_at: Instant,
    /// The newest segment that the frozen socket tried to send.
    pub swallowed: Option<Kept>,
    /// How the destination replayed.
    pub replay: Option<Replay>,
    /// Step times.
    pub steps: Steps,
    /// The handover by which the flow came here, if this is not its intake.
    pub was: Option<Box<DestSide>>,
    /// K of that one; the client's first byte at an intake.
    pub cut_before: u32,
    /// What the stack was given until the freeze.
    pub given: Given,
    /// From the splice to the first word of the destination.
    pub link_rtt: Span,
}

impl SourceSide {
    /// What a freeze begins, or a repetition. A flow that is served here gives what is known of
    /// the handover by which it came.
    pub(crate) fn new(ticket: u64, f: &mut Fcb, now: Instant) -> Self {
        Self {
            ticket,
            phase: Phase::Frozen,
            started: now,
            flow: None,
            peer: None,
            port: None,
            request: Vec::new(),
            sending: Sending::default(),
            state: SpliceState::default(),
            peer_isn: 0,
            repeated: false,
            tries: 0,
            retry_at: now,
            swallowed: None,
            replay: None,
            steps: Steps::default(),
            was: f.dest.take(),
            cut_before: f.cut,
            given: Given {
                nxt: f.c_nxt,
                high: f.c_high,
                ts: f.ts_in_order,
            },
            link_rtt: Span(0),
        }
    }

    /// Until the current message is sent again, by how often it was; not less than
    /// the destination took to answer before. There are fewer doublings while the
    /// destination has not decided, for time is short then, and fewest where it is one
    /// message that is sent again.
    pub(crate) fn pause(&self) -> Span {
        let most = match self.phase {
            Phase::Aborting => 1,
            Phase::Splicing if self.sending.sent == 0 => 1,
            Phase::Splicing => 2,
            Phase::Frozen | Phase::Paper | Phase::Unknown | Phase::Ending => 3,
        };
        let pause = Span(RETRY.0 << self.tries.min(most));
        pause.max(Span(self.link_rtt.0 * 2))
    }

    /// Keeps the newest acknowledgement, or the RST, of a frozen socket.
    pub(crate) fn swallow<F: Frame>(&mut self, frame: &F, s: &Segment) {
        let had_rst = self
            .swallowed
            .as_ref()
            .and_then(|k| segment(&k.bytes))
            .is_some_and(|s| s.has(RST));
        if !had_rst || s.has(RST) {
            self.swallowed = Some(Kept::of(frame));
        }
    }
}

pub(crate) fn segment(frame: &[u8]) -> Option<Segment> {
    match wire::l3(frame) {
        Ok(L3::Ip(ip)) => Segment::parse(frame, &ip).ok(),
        _ => None,
    }
}

/// First retransmission of a link message; doubled each time, up to a limit.
pub(crate) const RETRY: Span = Span::millis(5);
/// End marks that are sent before the source buries without an answer.
const END_MARKS: u32 = 8;

impl Shard {
    /// Step 2. The answer is [`Event::Frozen`] or [`Event::Failed`].
    pub(crate) fn freeze(
        &mut self,
        v: &View,
        ticket: u64,
        client: SocketAddr,
        local: SocketAddr,
        now: Instant,
    ) {
        let vip = local.ip().into();
        let service = v.service_of_local(&vip, local.port());
        let slot = service.and_then(|s| {
            let port = v.services[s].port;
            self.find(v, &FlowKey::new(client, SocketAddr::new(local.ip(), port)))
        });
        let Some(slot) = slot else {
            return self.fail(ticket, Fail::NoFlow);
        };
        self.recall(v, slot);
        let f = &mut self.slots[slot as usize];
        match f.state {
            State::Intake | State::Served if !f.reset && f.local_port == local.port() => {}
            State::Held => return self.fail(ticket, Fail::Busy),
            _ => return self.fail(ticket, Fail::NoFlow),
        }
        if f.dest.as_ref().is_some_and(|d| !d.handshake_done) {
            // Its stack still waits for the end of the replayed handshake.
            return self.fail(ticket, Fail::Busy);
        }
        self.forget_duplicates(slot);
        let f = &mut self.slots[slot as usize];
        let source = SourceSide::new(ticket, f, now);
        f.source = Some(Box::new(source));
        self.set_state(slot, State::Held);
        self.tickets.insert(ticket, slot);
        self.counters.asked += 1;
        self.wake(slot, now + v.params.deadline);
        self.events.push(Event::Frozen { ticket, at: now });
    }

    /// Step 4: checks what the control thread drained, and opens the splice.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn splice<O: Output>(
        &mut self,
        v: &View,
        ticket: u64,
        dest: SocketAddr,
        request: Request,
        now: Instant,
        out: &mut O,
    ) {
        let Some(&slot) = self.tickets.get(&ticket) else {
            // The freeze ran out of time before the drain was done.
            return self.fail(ticket, Fail::Aborted);
        };
        if !self.is_frozen(slot) {
            // The first splice cannot be recalled: its request may be executed.
            return;
        }
        if let Err(fail) = self.prepare(v, slot, dest, request, now) {
            self.tickets.remove(&ticket);
            self.unfreeze(v, slot, now, out);
            return self.fail(ticket, fail);
        }
        self.send_splice(v, slot, out);
        self.wake(slot, now + RETRY);
    }

    /// The flow waits for its splice, and nothing has left the node.
    pub(crate) fn is_frozen(&self, slot: u32) -> bool {
        let src = self.slots[slot as usize].source.as_ref();
        src.is_some_and(|s| s.phase == Phase::Frozen)
    }

    fn prepare(
        &mut self,
        v: &View,
        slot: u32,
        dest: SocketAddr,
        request: Request,
        now: Instant,
    ) -> Result<(), Fail> {
        let Some(mut src) = self.slots[slot as usize].source.take() else {
            return Err(Fail::Busy);
        };
        let prepared = self.prepare_source(v, slot, &mut src, dest, request, now);
        self.slots[slot as usize].source = Some(src);
        prepared
    }

    fn prepare_source(
        &mut self,
        v: &View,
        slot: u32,
        src: &mut SourceSide,
        dest: SocketAddr,
        request: Request,
        now: Instant,
    ) -> Result<(), Fail> {
        let Request {
            bytes: request,
            taken,
            client_fin,
        } = request;
        let f = &mut self.slots[slot as usize];
        let member = v.member_at(&dest.ip().into()).ok_or(Fail::BadDestination)?;
        let service = f.service;
        let svc = &v.services[usize::from(service)];
        if dest.port() != svc.app_port {
            return Err(Fail::BadDestination);
        }
        if member.link == v.link && f.local_port == svc.app_port {
            // One stack cannot have two sockets of one 4-tuple.
            return Err(Fail::BadDestination);
        }
        let (mac, incarnation) = member
            .known
            .filter(|_| member.id == v.node || member.takes(usize::from(service)))
            .ok_or(Fail::Unreachable)?;
        if request.len() > v.params.first_window as usize {
            return Err(Fail::TooLarge);
        }
        let base = src.was.as_ref().map_or(f.c_isn, |d| d.state.c_base);
        let c_base = base.wrapping_add(taken);
        let cut = c_base.wrapping_add(1).wrapping_add(request.len() as u32);
        let c_end = cut.wrapping_add(u32::from(client_fin));
        // Nothing may have been acknowledged to the client that does not move, and
        // nothing of the server's may be on its way.
        let acked_more = seq::lt(c_end, f.c_acked) && !broken(Mutation::DrainUnchecked);
        if acked_more || f.client_ack != f.s_nxt || f.s_fin.is_some() {
            return Err(Fail::Unaccounted);
        }
        // Where no copies were kept, all that the client sent must be in the request.
        let copied = src.was.is_none() && svc.proxy_port.is_some();
        let given = src.given;
        if !copied && (given.nxt != c_end || given.high != c_end) {
            return Err(Fail::Unaccounted);
        }
        let port = self.ports.take(slot).ok_or(Fail::Busy)?;
        src.request = request;
        let to = (member.id, incarnation, mac, member.link, dest.port());
        self.address(v, slot, src, to, port, now);
        let f = &mut self.slots[slot as usize];
        src.state = SpliceState {
            c_base,
            s_base: f.s_nxt.wrapping_sub(1),
            cut,
            // The TSval of a segment from above a hole would make the stack reject
            // the delayed one (RFC 7323, section 5.3); an older one is always safe.
            ts_recent: if given.nxt == c_end {
                given.ts
            } else {
                f.ts_echoed
            },
            rtt_us: f.rtt_us(),
            client_fin,
            ..f.state_now()
        };
        src.steps.spliced = now - src.started;
        f.cut = cut;
        Ok(())
    }

    /// Names the handover, and its destination by id, incarnation, link addresses and
    /// application port.
    pub(crate) fn address(
        &mut self,
        v: &View,
        slot: u32,
        src: &mut SourceSide,
        (node, incarnation, mac, addr, port): (u16, u64, Mac, Addr, u16),
        local_port: u16,
        now: Instant,
    ) {
        let f = &self.slots[slot as usize];
        self.handover_number = self.handover_number.wrapping_add(1);
        src.port = Some(local_port);
        src.phase = Phase::Splicing;
        src.retry_at = now + RETRY;
        src.flow = Some(FlowId {
            client: f.key(v).client(),
            vip: f.key(v).vip(),
            c_isn: f.c_isn,
            s_isn: f.s_isn,
            source: v.node,
            source_incarnation: v.incarnation,
            number: self.handover_number,
        });
        src.peer = Some(Peer {
            node,
            incarnation,
            mac,
            addr,
            port,
            local_port,
        });
    }

    pub(crate) fn send_splice<O: Output>(&mut self, v: &View, slot: u32, out: &mut O) {
        let f = &mut self.slots[slot as usize];
        let (client, port) = (f.client.octets_v4(), f.client_port);
        let Some(src) = f.source.as_mut() else { return };
        let (Some(peer), Some(flow)) = (src.peer, src.flow) else {
            return;
        };
        let st = src.state;
        let fields = Fields {
            state: Some(st),
            ..Fields::default()
        };
        let opts = Build {
            mss: Some(st.mss),
            sack_permitted: st.sack,
            timestamps: st.timestamps.then_some((st.ts_recent, 0)),
            wscale: st.wscale.then_some(st.client_shift),
            splice: flow.client.is_ipv4().then_some(SpliceOption {
                client,
                port,
                init_seq: st.s_base,
            }),
        };
        let n = Self::room(v, &opts, &fields).min(src.request.len());
        // The request leaves the FCB while it is sent, and comes back.
        let request = std::mem::take(&mut src.request);
        let head = Head {
            seq: st.c_base,
            flags: SYN,
            opts,
            ..Head::default()
        };
        self.say(
            v,
            &peer,
            Kind::Splice,
            flow,
            &fields,
            head,
            &request[..n],
            out,
        );
        if let Some(src) = &mut self.slots[slot as usize].source {
            src.request = request;
        }
    }

    fn send_plain<O: Output>(&mut self, v: &View, slot: u32, kind: Kind, flags: u8, out: &mut O) {
        let Some(src) = self.slots[slot as usize].source.as_ref() else {
            return;
        };
        let (Some(peer), Some(flow)) = (src.peer, src.flow) else {
            return;
        };
        let head = Head {
            seq: src.state.cut,
            ack: src.state.s_base.wrapping_add(1),
            flags,
            ..Head::default()
        };
        self.say(v, &peer, kind, flow, &Fields::default(), head, &[], out);
    }

    /// A message from a destination.
    pub(crate) fn source_message<O: Output>(
        &mut self,
        v: &View,
        m: &Message<'_>,
        now: Instant,
        out: &mut O,
    ) {
        if m.header.kind == Kind::FlowEnd {
            return self.flow_ended(v, m, now, out);
        }
        let slot = self.ports.slot(m.peer.local_port);
        let src = slot.and_then(|s| self.slots[s as usize].source.as_mut());
        let (Some(slot), Some(src)) = (slot, src.filter(|s| s.flow == Some(m.header.flow))) else {
            return self.drop_frame(Drop::LinkStale);
        };
        let undecided = matches!(
            src.phase,
            Phase::Splicing | Phase::Aborting | Phase::Unknown
        );
        match m.header.kind {
            Kind::Accept if undecided => {
                src.replay = m.fields.replay;
                self.accepted(v, slot, now, out);
            }
            // The client's acknowledgement has told it before.
            Kind::Accept if src.phase == Phase::Ending => src.replay = m.fields.replay,
            Kind::Continue if src.phase == Phase::Splicing => {
                self.continue_came(v, m, slot, now, out);
            }
            Kind::Refuse if undecided => {
                let reason = m.fields.reason.unwrap_or(Reason::Malformed);
                let earlier = reason == Reason::Incarnation && src.repeated;
                if earlier && !broken(Mutation::IncarnationTrusted) {
                    // The incarnation that is gone may have executed the request.
                    if src.phase != Phase::Unknown {
                        self.outcome_unknown(v, slot, now);
                    }
                    return;
                }
                self.give_up(v, slot, Fail::Refused(reason), now, out);
            }
            Kind::Aborted if undecided => self.give_up(v, slot, Fail::Aborted, now, out),
            Kind::EndAck if src.phase == Phase::Ending => self.bury(slot, now),
            _ => self.drop_frame(Drop::LinkStale),
        }
    }

    /// The destination has the flow: forward what was held, then the end mark.
    pub(crate) fn accepted<O: Output>(&mut self, v: &View, slot: u32, now: Instant, out: &mut O) {
        self.keep_request(v, slot, now);
        let f = &mut self.slots[slot as usize];
        let (acked, mut asked) = (f.c_acked, f.asked);
        let Some(src) = f.source.as_mut() else { return };
        src.steps.accepted = now - src.started;
        src.phase = Phase::Ending;
        src.tries = 0;
        src.retry_at = now + RETRY;
        let cut = src.state.cut;
        let c_end = cut.wrapping_add(u32::from(src.state.client_fin));
        // Where ACK(K) is news to the client, it answers whatever was asked.
        let knows = seq::le(c_end, acked) || broken(Mutation::CopyAsProbe);
        let peer = src.peer.map(|p| (p.node, p.incarnation));
        f.peer = peer;
        let mut frames = Vec::new();
        let mut lists = [
            (std::mem::take(&mut f.copies), false),
            (std::mem::take(&mut f.held), true),
        ];
        for (list, held) in &mut lists {
            while let Some(h) = self.store.pop(list) {
                frames.push((h, *held));
            }
        }
        for (h, held) in frames {
            let Some(seg) = segment(&h.frame) else {
                continue;
            };
            let fresh = h.seq != h.seq_end && seq::lt(cut, h.seq_end);
            if broken(Mutation::HeldLost) {
                continue;
            }
            if fresh || seg.has(RST) {
                self.forward_held(v, slot, &h.frame, &seg, out);
                self.keep_more(v, slot, &h.frame, &seg);
            }
            // A copy of one byte below the cut is the request's last one.
            asked |= held && self.slots[slot as usize].is_asked_by(&seg)
                || broken(Mutation::CopyAsProbe) && seg.is_keepalive(cut);
        }
        if asked && knows && !broken(Mutation::ProbeLost) {
            self.forward_question(v, slot, out);
        }
        self.send_plain(v, slot, Kind::EndMark, FIN | ACK, out);
        if self.slots[slot as usize].state == State::Held {
            if broken(Mutation::NoTombstone) {
                return self.remove(v, slot);
            }
            self.entomb(v, slot);
        }
        self.kept_until_answered(slot, &v.link, now);
        self.wake(slot, now + RETRY);
    }

    /// What the client asked before or during the freeze, and this node's socket cannot
    /// answer any more, the destination answers: as a keepalive, whatever it was.
    fn forward_question<O: Output>(&mut self, v: &View, slot: u32, out: &mut O) {
        let f = &self.slots[slot as usize];
        let Some(src) = f.source.as_ref() else { return };
        let frame = Tcp {
            eth_dst: v.host_mac,
            eth_src: f.next_hop,
            src: f.client,
            dst: f.key(v).vip,
            sport: f.client_port,
            dport: f.key(v).port,
            seq: src.state.cut.wrapping_sub(1),
            ack: f.client_ack,
            flags: ACK,
            window: f.client_window,
            opts: Build::default(),
            payload: &[],
        }
        .frame();
        if let Some(s) = segment(&frame) {
            self.forward_held(v, slot, &frame, &s, out);
        }
    }

    /// Sends a client's frame to the destination, in pieces that fit.
    fn forward_held<O: Output>(
        &mut self,
        v: &View,
        slot: u32,
        frame: &[u8],
        s: &Segment,
        out: &mut O,
    ) {
        let Some(src) = self.slots[slot as usize].source.as_ref() else {
            return;
        };
        let (Some(peer), Some(flow)) = (src.peer, src.flow) else {
            return;
        };
        let headers = s.data - wire::ETH_LEN;
        let room = Self::room(v, &Build::default(), &Fields::default()) - headers;
        let head = Head {
            seq: src.state.cut,
            ack: src.state.s_base.wrapping_add(1),
            flags: ACK,
            ..Head::default()
        };
        let mut at = 0;
        loop {
            let mut piece = frame.to_vec();
            let n = edit::cut_payload(&mut piece, s, at, room);
            piece.truncate(n);
            at += room;
            let last = at >= s.len();
            if !last {
                // The FIN belongs behind the last byte.
                edit::Edit::new(&mut piece, s.l4)
                    .flags(s.flags & !(FIN | PSH))
                    .finish();
            }
            self.say(
                v,
                &peer,
                Kind::Forward,
                flow,
                &Fields::default(),
                head,
                &piece[wire::ETH_LEN..],
                out,
            );
            if last {
                return;
            }
        }
    }

    /// Step 8: the end mark was acknowledged, or nobody answers it any more.
    pub(crate) fn bury(&mut self, slot: u32, now: Instant) {
        let f = &mut self.slots[slot as usize];
        let Some(mut src) = f.source.take() else {
            return;
        };
        src.steps.buried = now - src.started;
        // Late messages of the handover that brought the flow here are still answered,
        // and its source is told when the flow ends.
        if f.dest.is_none() {
            f.dest = src.was.take();
        }
        self.close_source(&src);
    }

    /// Gives back what a source held and reports its end, if that was not done yet.
    pub(crate) fn close_source(&mut self, src: &SourceSide) {
        self.ports.give_back(src.port);
        let fail = match src.phase {
            Phase::Ending => None,
            Phase::Frozen => Some(Fail::Aborted),
            Phase::Splicing | Phase::Paper | Phase::Aborting | Phase::Unknown => {
                Some(Fail::Unknown)
            }
        };
        if let Some(fail) = fail {
            if self.tickets.remove(&src.ticket).is_some() {
                self.fail(src.ticket, fail);
            }
            return;
        }
        if self.tickets.remove(&src.ticket).is_some() {
            let node = src.peer.map_or(0, |p| p.node);
            self.events.push(Event::Done {
                ticket: src.ticket,
                node,
                replay: src.replay,
                steps: src.steps,
            });
        }
    }

    /// The deadlines and retransmissions of a source.
    pub(crate) fn source_timer<O: Output>(
        &mut self,
        v: &View,
        slot: u32,
        now: Instant,
        out: &mut O,
    ) {
        let p = v.params;
        let Some(src) = self.slots[slot as usize].source.as_mut() else {
            return;
        };
        let deadline = src.started + p.deadline;
        // A third of the time is for the abort and its answer.
        let abort_at = src.started + Span(p.deadline.0 / 3 * 2);
        let due = now >= src.retry_at;
        if due && !matches!(src.phase, Phase::Frozen | Phase::Unknown) {
            self.counters.link_repeats += 1;
            src.tries += 1;
            src.retry_at = now + src.pause();
        }
        match src.phase {
            Phase::Frozen if now >= deadline => {
                return self.give_up(v, slot, Fail::Aborted, now, out);
            }
            Phase::Frozen => return self.wake(slot, deadline),
            Phase::Splicing if now >= abort_at => {
                src.phase = Phase::Aborting;
                src.tries = 0;
                src.retry_at = now + RETRY;
                self.send_plain(v, slot, Kind::Abort, RST | ACK, out);
            }
            Phase::Splicing if due => {
                src.repeated = true;
                self.send_splice(v, slot, out);
                self.data_again(v, slot, out);
            }
            Phase::Paper if now >= deadline => return self.paper_gives_up(v, slot, now, out),
            Phase::Paper if due => self.send_paper(v, slot, true, out),
            Phase::Aborting if now >= deadline && broken(Mutation::UnknownRepeated) => {
                return self.give_up(v, slot, Fail::Aborted, now, out);
            }
            Phase::Aborting if now >= deadline => return self.outcome_unknown(v, slot, now),
            Phase::Aborting if due => self.send_plain(v, slot, Kind::Abort, RST | ACK, out),
            Phase::Unknown if broken(Mutation::UnknownSilent) => return,
            Phase::Unknown if now >= src.started + p.unknown_deadline => {
                self.counters.unknown_resets += 1;
                return self.reset_client(v, slot, now, out);
            }
            Phase::Unknown => {
                let at = src.started + p.unknown_deadline;
                return self.wake(slot, at);
            }
            Phase::Ending if src.tries > END_MARKS => return self.bury(slot, now),
            Phase::Ending if due => self.send_plain(v, slot, Kind::EndMark, FIN | ACK, out),
            Phase::Splicing | Phase::Paper | Phase::Aborting | Phase::Ending => {}
        }
        if let Some(src) = &self.slots[slot as usize].source {
            let next = match src.phase {
                Phase::Splicing => abort_at.min(src.retry_at),
                Phase::Aborting | Phase::Paper => deadline.min(src.retry_at),
                _ => src.retry_at,
            };
            self.wake(slot, next);
        }
    }
}
