//! The destination of a handover: what the source's messages do here.

use super::answers::{Answer, KEPT};
use super::before::Before;
use super::message::{Head, Message, Peer};
use super::paper::PaperSide;
use super::round_trip::Overtaking;
use crate::drops::Drop;
use crate::fcb::{Agreed, State};
use crate::frame::{Kept, Output, Port};
use crate::key::FlowKey;
use crate::mutation::{Mutation, broken};
use crate::seq;
use crate::shard::Shard;
use crate::time::{Instant, Span};
use crate::view::View;
use crate::wire::tcp::{ACK, RST, SYN, Segment};
use crate::wire::{self, L3};
use dts_proto::block::{Fields, FlowId, Kind, Reason, Replay, SpliceState};

/// How far a destination is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// More request bytes must come from the source.
    Gather,
    /// The replay's SYN was given to the stack.
    Syn,
    /// Handshake replay: the request was given to the stack.
    Data,
    /// Cut over: client and stack talk.
    Served,
}

/// What the destination keeps of a handover.
#[derive(Debug)]
pub struct DestSide {
    /// Flow identity.
    pub flow: FlowId,
    /// The source.
    pub peer: Peer,
    /// Phase.
    pub phase: Phase,
    /// State that moved.
    pub state: SpliceState,
    /// The request, as far as it is here.
    pub request: Vec<u8>,
    /// Where the request ended when more was last asked for because of a hole.
    pub asked: Option<usize>,
    /// Data messages that were taken since the source was told how far this is.
    pub untold: u8,
    /// How the request is being replayed.
    pub replay: Replay,
    /// The local stack's ISN.
    pub l_isn: u32,
    /// TSval of its SYN-ACK.
    pub l_tsval: u32,
    /// Bytes of window in its SYN-ACK.
    pub l_window: u32,
    /// When the splice came.
    pub started: Instant,
    /// When the next step is due: the end of the stack's patience, or the client's
    /// round-trip time after the cut over.
    pub due: Instant,
    /// SYNs given to the stack.
    pub tries: u32,
    /// The replayed handshake is complete.
    pub handshake_done: bool,
    /// SYN-ACKs that the stack owes for a SYN that it was given again.
    pub synacks_due: u32,
    /// Duplicate acknowledgements of the first answer, as long as the stack has not
    /// measured anything by it and would be kept from it by them.
    pub overtaking: Overtaking,
    /// Local segments that wait for the cut over.
    pub egress: Vec<Kept>,
    /// Held client payload that the stack was given around the cut over, so that
    /// no copy is given twice.
    pub given: Vec<(u32, u32)>,
    /// When the end mark came: `given` is forgotten some time after it.
    pub ended: Option<Instant>,
    /// End of what the stack was given in order.
    pub taken: u32,
    /// Until then segments from above a hole wait for what the source forwards;
    /// `None` when it has nothing more.
    pub filling: Option<Instant>,
    /// The client's sign of life during the handover was answered.
    pub probe_answered: bool,
    /// The flow's end was told.
    pub end_told: bool,
    /// This node had the flow before.
    pub before: Before,
    /// The source speaks the paper's bare form.
    pub paper: Option<PaperSide>,
}

impl DestSide {
    /// What a splice begins, with as much of the request as came with it; `deadline` is
    /// the time for the rest of it.
    pub(crate) fn new(
        flow: FlowId,
        peer: Peer,
        state: SpliceState,
        request: Vec<u8>,
        now: Instant,
        deadline: Span,
    ) -> Self {
        Self {
            flow,
            peer,
            phase: Phase::Gather,
            state,
            request,
            asked: None,
            untold: 0,
            replay: Replay::FastOpen,
            l_isn: 0,
            l_tsval: 0,
            l_window: 0,
            started: now,
            due: now + deadline,
            tries: 0,
            handshake_done: false,
            synacks_due: 0,
            overtaking: Overtaking::Measured,
            egress: Vec::new(),
            given: Vec::new(),
            ended: None,
            taken: state.cut.wrapping_add(u32::from(state.client_fin)),
            filling: None,
            probe_answered: false,
            end_told: false,
            before: Before::default(),
            paper: None,
        }
    }

    /// Notes that the stack was given `s`.
    pub(crate) fn note_taken(&mut self, s: &Segment) {
        if seq::le(s.seq, self.taken) && seq::lt(self.taken, s.seq_end()) {
            self.taken = s.seq_end();
        }
    }

    /// The end mark came so long ago that nothing which the source forwarded can
    /// still be under way, and what was given to the stack need not be remembered.
    pub(crate) fn forwarding_is_over(&self, now: Instant) -> bool {
        self.ended.is_some_and(|t| now - t >= KEPT)
    }

    /// Nothing is left of the handover that a segment of the client could change.
    pub(crate) fn is_quiet(&self) -> bool {
        self.phase == Phase::Served
            && self.handshake_done
            && self.overtaking.until().is_none()
            && self.filling.is_none()
            && self.paper.is_none()
            && self.before.told.is_empty()
    }

    /// Number behind the client's last byte or FIN that the source passed on.
    pub(crate) fn c_end(&self) -> u32 {
        self.state
            .cut
            .wrapping_add(u32::from(self.state.client_fin))
    }
}

impl Shard {
    /// A message from a source.
    pub(crate) fn destination_message<O: Output>(
        &mut self,
        v: &View,
        m: &Message<'_>,
        now: Instant,
        out: &mut O,
    ) {
        let slot = self.find(v, &FlowKey::new(m.header.flow.client, m.header.flow.vip));
        let mine = slot.filter(|&s| self.came_by(v, s) == Some(m.header.flow));
        if let Some(slot) = mine {
            self.recall(v, slot);
        }
        match (m.header.kind, mine) {
            (Kind::Splice, None) => self.splice_came(v, m, slot, now, out),
            (Kind::Splice, Some(slot)) => self.splice_again(v, m, slot, out),
            (Kind::Data, Some(slot)) => self.data_came(v, m, slot, now, out),
            (Kind::Forward, Some(slot)) => self.forward_came(v, m, slot, now, out),
            (Kind::EndMark, mine) => self.end_came(v, m, mine, now, out),
            (Kind::Abort, mine) => self.abort_came(v, m, mine, now, out),
            _ => self.drop_frame(Drop::LinkStale),
        }
    }

    fn splice_came<O: Output>(
        &mut self,
        v: &View,
        m: &Message<'_>,
        slot: Option<u32>,
        now: Instant,
        out: &mut O,
    ) {
        if let Some(answer) = self.answers.get(&m.header.flow) {
            return self.answer(v, m, answer, out);
        }
        let id = m.header.flow;
        let Some(st) = m.fields.state else {
            return self.refuse(v, m, Reason::Malformed, now, out);
        };
        let vip = id.vip.ip().into();
        let service = v.services.iter().position(|s| {
            s.vip == vip && s.port == id.vip.port() && s.app_port == m.peer.local_port
        });
        let Some(service) = service else {
            return self.refuse(v, m, Reason::NoService, now, out);
        };
        let len = st.cut.wrapping_sub(st.c_base.wrapping_add(1)) as usize;
        if len > v.params.first_window as usize || m.body.len() > len || m.seq != st.c_base {
            return self.refuse(v, m, Reason::Malformed, now, out);
        }
        let (slot, before) = match self.seat(v, &id, slot, service, now) {
            Ok(seat) => seat,
            Err(reason) => return self.refuse(v, m, reason, now, out),
        };
        let f = &mut self.slots[slot as usize];
        f.take_over(&st, &id);
        let (request, deadline) = (m.body.to_vec(), v.params.deadline);
        let mut side = DestSide::new(id, m.peer, st, request, now, deadline);
        side.before = before;
        f.dest = Some(Box::new(side));
        self.set_state(slot, State::Held);
        if m.body.len() == len {
            self.begin_replay(v, slot, now, out);
            if broken(Mutation::AcceptEarly) {
                self.send_accept(v, slot, out);
            }
        } else {
            self.wake(slot, now + v.params.deadline);
            self.ask_for_more(v, slot, false, out);
        }
    }

    /// Finds or makes the FCB for a flow that comes here, with what is known of it.
    pub(crate) fn seat(
        &mut self,
        v: &View,
        id: &FlowId,
        slot: Option<u32>,
        service: usize,
        now: Instant,
    ) -> Result<(u32, Before), Reason> {
        let mut before = Before::default();
        if let Some(slot) = slot {
            let f = &mut self.slots[slot as usize];
            // A handover to the node itself: both ends share the FCB.
            if f.source.as_ref().is_some_and(|s| s.flow == Some(*id)) {
                return Ok((slot, before));
            }
            // A live flow under the same name is another one only if its ISN says so;
            // then the client is done with it, for it opened this one.
            let same = f.c_isn == id.c_isn && f.s_isn == id.s_isn;
            let live =
                matches!(f.state, State::Intake | State::Served | State::Held) && !f.is_over();
            if live && same {
                return Err(Reason::Busy);
            }
            if same && f.state == State::Tombstone {
                self.recall(v, slot);
                before = Before::of_tombstone(&mut self.slots[slot as usize]);
            }
            self.remove(v, slot);
        }
        let key = FlowKey::new(id.client, id.vip);
        let slot = self.create(v, key, service, now).ok_or(Reason::NoMemory)?;
        Ok((slot, before))
    }

    /// The source sent its SYN again: it has not heard our answer.
    fn splice_again<O: Output>(&mut self, v: &View, m: &Message<'_>, slot: u32, out: &mut O) {
        let Some(d) = self.slots[slot as usize].dest.as_ref() else {
            return;
        };
        match d.phase {
            Phase::Gather => self.ask_for_more(v, slot, false, out),
            Phase::Syn | Phase::Data => {}
            Phase::Served => {
                if let Some(a) = self.answers.get(&m.header.flow) {
                    self.answer(v, m, a, out);
                } else {
                    self.send_accept(v, slot, out);
                }
            }
        }
    }

    fn forward_came<O: Output>(
        &mut self,
        v: &View,
        m: &Message<'_>,
        slot: u32,
        now: Instant,
        out: &mut O,
    ) {
        let f = &self.slots[slot as usize];
        let mut frame = Vec::with_capacity(wire::ETH_LEN + m.body.len());
        frame.extend_from_slice(&v.host_mac);
        frame.extend_from_slice(&f.next_hop);
        let ethertype = if f.client.is_v4() {
            wire::ETHERTYPE_IPV4
        } else {
            wire::ETHERTYPE_IPV6
        };
        frame.extend_from_slice(&ethertype.to_be_bytes());
        frame.extend_from_slice(m.body);
        // It must be what it says it is: a segment of this client to this service.
        let Ok(L3::Ip(ip)) = wire::l3(&frame) else {
            return self.drop_frame(Drop::LinkStale);
        };
        let right = ip.src == f.client
            && ip.dst == f.key(v).vip
            && ip.proto == wire::PROTO_TCP
            && wire::tcp::ports(&frame, &ip) == Some((f.client_port, f.key(v).port));
        let over = f.dest.as_ref().is_none_or(|d| d.forwarding_is_over(now));
        if !right || f.state != State::Served || over {
            return self.drop_frame(Drop::LinkStale);
        }
        if let Ok(s) = Segment::parse(&frame, &ip)
            && s.is_keepalive(f.cut)
        {
            // Heard here as well, most often.
            let again = f.dest.as_ref().is_some_and(|d| d.probe_answered);
            return if again {
                self.drop_frame(Drop::HoldStale)
            } else {
                self.ack_cut(v, slot, out)
            };
        }
        if let Ok(s) = Segment::parse(&frame, &ip)
            && f.dest
                .as_ref()
                .is_some_and(|d| seq::le(s.seq_end(), d.taken))
            && !s.has(RST)
            && !broken(Mutation::GivenTwice)
            && !broken(Mutation::BelowCut)
        {
            // Heard here as well, since the splice.
            return self.drop_frame(Drop::HoldStale);
        }
        self.release(v, slot, &frame, now, out);
        if !self.slots[slot as usize].held.is_empty() {
            self.fill(v, slot, now, out);
        }
    }

    fn end_came<O: Output>(
        &mut self,
        v: &View,
        m: &Message<'_>,
        mine: Option<u32>,
        now: Instant,
        out: &mut O,
    ) {
        if let Some(slot) = mine {
            self.stop_filling(v, slot, now, out);
        }
        if let Some(d) = mine.and_then(|s| self.slots[s as usize].dest.as_mut()) {
            d.ended.get_or_insert(now);
        }
        let head = Head {
            seq: m.ack,
            ack: m.seq.wrapping_add(1),
            flags: ACK,
            ..Head::default()
        };
        self.say(
            v,
            &m.peer,
            Kind::EndAck,
            m.header.flow,
            &Fields::default(),
            head,
            &[],
            out,
        );
    }

    fn abort_came<O: Output>(
        &mut self,
        v: &View,
        m: &Message<'_>,
        mine: Option<u32>,
        now: Instant,
        out: &mut O,
    ) {
        let id = m.header.flow;
        if let Some(slot) = mine {
            let Some(d) = self.slots[slot as usize].dest.as_ref() else {
                return;
            };
            // A payload that lies in the stack's queue may yet be executed: then
            // only the stack's own answer decides.
            let given =
                d.phase == Phase::Data || (d.phase == Phase::Syn && d.replay == Replay::FastOpen);
            match d.phase {
                Phase::Served => return self.send_accept(v, slot, out),
                _ if given && !broken(Mutation::AbortConfirmed) => return,
                _ => {
                    self.kill_half_open(v, slot, out);
                    self.leave(v, slot);
                }
            }
        }
        self.answers.put(id, Answer::Aborted, now);
        if let Some(a) = self.answers.get(&id) {
            self.answer(v, m, a, out);
        }
    }

    /// Gives an earlier answer again.
    fn answer<O: Output>(&mut self, v: &View, m: &Message<'_>, a: Answer, out: &mut O) {
        let Some((kind, fields, head)) = answer_parts(a, m.seq) else {
            return;
        };
        if kind == Kind::Refuse && broken(Mutation::RefusalSilent) {
            return;
        }
        self.say(v, &m.peer, kind, m.header.flow, &fields, head, &[], out);
    }

    /// Refuses a splice, and remembers that.
    pub(crate) fn refuse<O: Output>(
        &mut self,
        v: &View,
        m: &Message<'_>,
        why: Reason,
        now: Instant,
        out: &mut O,
    ) {
        self.counters.refused += 1;
        self.answers.put(m.header.flow, Answer::Refused(why), now);
        self.answer(v, m, Answer::Refused(why), out);
    }

    /// The stack did not take the flow: refuse it and forget it.
    pub(crate) fn refuse_slot<O: Output>(
        &mut self,
        v: &View,
        slot: u32,
        why: Reason,
        now: Instant,
        out: &mut O,
    ) {
        let Some(d) = self.slots[slot as usize].dest.as_ref() else {
            return;
        };
        let (peer, flow, seq, paper) = (d.peer, d.flow, d.state.c_base, d.paper.is_some());
        self.counters.refused += 1;
        self.leave(v, slot);
        if paper {
            let head = Head {
                seq: 0,
                ack: seq.wrapping_add(1),
                flags: RST | ACK,
                ..Head::default()
            };
            return self.say_bare(v, &peer, head, &[], out);
        }
        self.answers.put(flow, Answer::Refused(why), now);
        let Some((kind, fields, head)) = answer_parts(Answer::Refused(why), seq) else {
            return;
        };
        if broken(Mutation::RefusalSilent) {
            return;
        }
        self.say(v, &peer, kind, flow, &fields, head, &[], out);
    }

    /// Ends this node's part as destination before any cut over.
    pub(crate) fn leave(&mut self, v: &View, slot: u32) {
        let f = &mut self.slots[slot as usize];
        if f.source.is_some() {
            // The source of a handover to itself goes on with the flow, in the
            // proxy's numbers.
            f.delta = 0;
            f.tau = 0;
            f.local_shift = f.agreed.promised_shift;
            if let Some(d) = f.dest.take() {
                self.aliases.forget(&d);
            }
        } else if !self.tombstone_again(v, slot) {
            self.remove(v, slot);
        }
    }

    pub(crate) fn send_accept<O: Output>(&mut self, v: &View, slot: u32, out: &mut O) {
        let Some(d) = self.slots[slot as usize].dest.as_ref() else {
            return;
        };
        let (peer, flow) = (d.peer, d.flow);
        let answer = Answer::Accepted {
            seq: d.state.s_base,
            ack: d.state.cut,
            replay: d.replay,
        };
        let Some((kind, fields, head)) = answer_parts(answer, 0) else {
            return;
        };
        self.say(v, &peer, kind, flow, &fields, head, &[], out);
    }

    /// When both sides are done, the FCB lingers, and the source is told.
    pub(crate) fn check_end<O: Output>(&mut self, v: &View, slot: u32, now: Instant, out: &mut O) {
        let f = &mut self.slots[slot as usize];
        if !f.is_over() || f.expires.is_some() {
            return;
        }
        if broken(Mutation::EndedStays) {
            return;
        }
        f.expires = Some(now + v.params.closing);
        self.revisit(slot);
        self.tell_end(v, slot, out);
    }

    /// Says to the nodes that the flow came from that it is over, once.
    pub(crate) fn tell_end<O: Output>(&mut self, v: &View, slot: u32, out: &mut O) {
        self.recall(v, slot);
        let f = &mut self.slots[slot as usize];
        let d = if f.dest.is_some() {
            f.dest.as_mut()
        } else {
            f.source.as_mut().and_then(|s| s.was.as_mut())
        };
        let Some(d) = d else { return };
        if d.end_told || broken(Mutation::EndUntold) {
            return;
        }
        d.end_told = true;
        let head = Head {
            flags: ACK,
            ..Head::default()
        };
        let nothing = Fields::default();
        for (peer, flow) in d.told_of_end() {
            if peer.addr != v.link {
                self.say(v, &peer, Kind::FlowEnd, flow, &nothing, head, &[], out);
            }
        }
    }

    /// The deadlines of a destination.
    pub(crate) fn dest_timer<O: Output>(&mut self, v: &View, slot: u32, now: Instant, out: &mut O) {
        let filling = self.slots[slot as usize]
            .dest
            .as_ref()
            .and_then(|d| d.filling);
        match filling {
            Some(t) if now >= t => self.stop_filling(v, slot, now, out),
            Some(t) => self.wake(slot, t),
            None => {}
        }
        self.overtaking_timer(v, slot, now, out);
        let Some(d) = self.slots[slot as usize].dest.as_mut() else {
            return;
        };
        if now < d.due {
            let at = d.due;
            if !(d.phase == Phase::Served && d.handshake_done) {
                self.wake(slot, at);
            }
            return;
        }
        match d.phase {
            Phase::Gather => self.refuse_slot(v, slot, Reason::Incomplete, now, out),
            Phase::Syn => {
                // The stack drops without a word when its accept queue is full.
                self.kill_half_open(v, slot, out);
                self.refuse_slot(v, slot, Reason::Silence, now, out);
            }
            Phase::Data if d.tries < 8 => {
                d.tries += 1;
                d.due = now + Span::millis(20);
                let at = d.due;
                if d.paper.is_none() {
                    self.replay_data(v, slot, out);
                }
                self.wake(slot, at);
            }
            Phase::Data => {
                // The stack has part of the request and does not go on: nobody can
                // say what was executed. Silence lets the source find "unknown".
                let flow = d.flow;
                self.answers.put(flow, Answer::Undecided, now);
                self.leave(v, slot);
            }
            Phase::Served if !d.handshake_done => self.finish_handshake(v, slot, out),
            Phase::Served => {}
        }
    }
}

/// A link answer's kind, fields and header, if it is given at all.
fn answer_parts(a: Answer, c_base: u32) -> Option<(Kind, Fields, Head)> {
    let bare = Head::default();
    Some(match a {
        Answer::Accepted { seq, ack, replay } => (
            Kind::Accept,
            Fields {
                replay: Some(replay),
                ..Fields::default()
            },
            Head {
                seq,
                ack,
                flags: SYN | ACK,
                ..bare
            },
        ),
        Answer::Refused(why) => (
            Kind::Refuse,
            Fields {
                reason: Some(why),
                ..Fields::default()
            },
            Head {
                ack: c_base.wrapping_add(1),
                flags: RST | ACK,
                ..bare
            },
        ),
        Answer::Aborted => (
            Kind::Aborted,
            Fields::default(),
            Head {
                ack: c_base.wrapping_add(1),
                flags: RST | ACK,
                ..bare
            },
        ),
        Answer::Undecided => return None,
    })
}

impl crate::fcb::Fcb {
    /// The part of the state that moves which is the flow's as it stands.
    pub(crate) fn state_now(&self) -> SpliceState {
        SpliceState {
            ts_max: self.ts_max,
            client_ack: self.client_ack,
            last_ack: self.c_acked,
            window: self.client_window,
            mss: self.agreed.mss,
            client_shift: self.agreed.client_shift,
            promised_shift: self.agreed.promised_shift,
            wscale: self.agreed.wscale,
            sack: self.agreed.sack,
            timestamps: self.agreed.ts,
            next_hop: self.next_hop,
            ..SpliceState::default()
        }
    }

    /// The client's round-trip time, microseconds.
    pub(crate) fn rtt_us(&self) -> u32 {
        self.rtt.as_micros().min(u64::from(u32::MAX)) as u32
    }

    /// Takes the state that moved.
    pub(crate) fn take_over(&mut self, st: &SpliceState, id: &FlowId) {
        self.next_hop = st.next_hop;
        self.agreed = Agreed {
            mss: st.mss,
            client_shift: st.client_shift,
            promised_shift: st.promised_shift,
            wscale: st.wscale,
            sack: st.sack,
            ts: st.timestamps,
        };
        self.c_isn = id.c_isn;
        self.s_isn = id.s_isn;
        self.s_low = st.s_base.wrapping_add(1);
        self.s_nxt = self.s_low;
        self.cut = st.cut;
        self.client_ack = seq::max(st.client_ack, st.s_base);
        self.client_window = st.window;
        let c_end = st.cut.wrapping_add(u32::from(st.client_fin));
        self.c_fin = st.client_fin.then_some(c_end);
        if self.source.is_none() {
            self.c_nxt = c_end;
            self.c_high = c_end;
            self.c_edge = st.last_ack;
        }
        self.c_acked = st.last_ack;
        self.ts_in_order = st.ts_recent;
        self.ts_echoed = st.ts_recent;
        self.ts_max = st.ts_max;
        self.rtt = Span::micros(u64::from(st.rtt_us));
        self.peer = Some((id.source, id.source_incarnation));
    }
}

/// Queues a frame for the local stack, in IP fragments where it exceeds the MTU.
pub(crate) fn to_stack<O: Output>(shard: &mut Shard, v: &View, frame: &[u8], out: &mut O) {
    shard.fragment_id = shard.fragment_id.wrapping_add(1);
    let id = shard.fragment_id;
    crate::wire::build::fragment(frame, v.params.mtu, id, |part| {
        shard.emit(Port::WireHost, part, out)
    });
}
