//! From the wire: who acts, and what the filter does (PROTOCOL, section 2).

use crate::drops::Drop;
use crate::fcb::{Agreed, Fcb, State};
use crate::frame::{Checksum, Frame, Output, Port};
use crate::handover::paper::HeardSyn;
use crate::key::{Addr, FlowKey};
use crate::mutation::{Mutation, broken};
use crate::seq;
use crate::shard::{Shard, hold_copy};
use crate::storm::{Bare, Side};
use crate::time::{Instant, Span, Stamp};
use crate::translate;
use crate::view::View;
use crate::wire::arp::{self, Arp};
use crate::wire::edit::{self, Edit};
use crate::wire::hello::Hello;
use crate::wire::icmp::Quote;
use crate::wire::nd::{self, Advert, Solicit};
use crate::wire::tcp::{ACK, CWR, ECE, FIN, RST, SYN, Segment};
use crate::wire::{self, Ip, L3, Mac, PROTO_TCP};

/// A SYN inside a live flow stops all but the challenge at least so long ...
const CHALLENGE_LEAST: Span = Span::millis(100);
/// ... and then not again for so long: somebody else may have sent it.
const CHALLENGE_REST: Span = Span::millis(800);

impl Shard {
    pub(crate) fn wire_in<O: Output>(
        &mut self,
        v: &View,
        frame: O::Frame,
        now: Instant,
        out: &mut O,
    ) {
        let Some(eth) = wire::eth(frame.head()) else {
            return self.drop_frame(Drop::Malformed);
        };
        if eth.src == v.wire_mac {
            return self.drop_frame(Drop::OwnEcho);
        }
        if eth.src == v.cluster_mac {
            // A switch that learns it gives its frames to one port alone.
            self.counters.cluster_mac_sources += 1;
        }
        let next_hop = eth.src;
        match wire::l3_of(&frame) {
            Err(bad) => self.drop_frame(bad.into()),
            Ok(L3::Arp) => self.wire_arp(v, frame, out),
            Ok(L3::Other) if Hello::is_one(frame.head()) => self.hello_in(v, frame.head(), now),
            Ok(L3::Other) => out.send(Port::WireHost, frame),
            Ok(L3::Ip(ip)) if nd::kind(frame.head(), &ip).is_some() => {
                self.wire_nd(v, frame, &ip, now, out)
            }
            Ok(L3::Ip(ip)) if v.is_vip(&ip.dst) => self.wire_vip(v, frame, &ip, next_hop, now, out),
            Ok(L3::Ip(ip)) => self.wire_node(v, frame, &ip, now, out),
        }
    }

    /// ARP: requests for a VIP are answered here, by the owner of the asker's
    /// hash; everything else is the host's.
    fn wire_arp<O: Output>(&mut self, v: &View, frame: O::Frame, out: &mut O) {
        let Some(a) = Arp::parse(frame.head()) else {
            return out.send(Port::WireHost, frame);
        };
        self.heard_claim(v, &Addr::v4(a.spa), a.sha);
        let vip = Addr::v4(a.tpa);
        if !v.is_vip(&vip) {
            return out.send(Port::WireHost, frame);
        }
        if a.op == arp::REQUEST && a.spa != a.tpa && v.general.owner_of(&Addr::v4(a.spa)) == v.node
        {
            let reply = Arp {
                op: arp::REPLY,
                sha: v.cluster_mac,
                spa: a.tpa,
                tha: a.sha,
                tpa: a.spa,
            };
            self.emit(Port::Wire, &reply.frame(a.sha, v.wire_mac), out);
        }
        self.drop_frame(Drop::ArpConsumed);
    }

    /// Neighbour discovery: a solicitation for a VIP is answered here, by the owner of
    /// the asker's hash; nothing about a VIP reaches the host.
    fn wire_nd<O: Output>(
        &mut self,
        v: &View,
        frame: O::Frame,
        ip: &Ip,
        now: Instant,
        out: &mut O,
    ) {
        let target = nd::target(frame.head(), ip);
        if let (Some(target), Some(link)) = (target, nd::advertised(frame.head(), ip)) {
            self.heard_claim(v, &target, link);
        }
        if !target.is_some_and(|t| v.is_vip(&t)) {
            return if v.is_vip(&ip.dst) {
                self.drop_frame(Drop::NdConsumed)
            } else {
                self.wire_node(v, frame, ip, now, out)
            };
        }
        if nd::kind(frame.head(), ip) == Some(nd::SOLICIT) {
            let Ok(s) = Solicit::parse(frame.head(), ip) else {
                return self.drop_frame(Drop::NdInvalid);
            };
            if v.general.owner_of(&s.src) == v.node || broken(Mutation::EveryoneAdvertises) {
                let probe = s.src.is_unspecified();
                let dst = if probe { nd::ALL_NODES } else { s.src };
                let reply = Advert {
                    dst,
                    target: s.target,
                    link: v.cluster_mac,
                    solicited: !probe,
                };
                let eth_dst = match s.link {
                    _ if probe => nd::group_mac(&dst),
                    Some(mac) => mac,
                    None => wire::eth(frame.head()).map_or(wire::BROADCAST, |e| e.src),
                };
                self.emit(Port::Wire, &reply.frame(eth_dst, v.wire_mac), out);
            }
        }
        self.drop_frame(Drop::NdConsumed);
    }

    /// Not for the VIP: the node's own address, or a group of hosts.
    fn wire_node<O: Output>(
        &mut self,
        v: &View,
        frame: O::Frame,
        ip: &Ip,
        now: Instant,
        out: &mut O,
    ) {
        self.igmp_query(v, frame.head(), ip, now);
        let group = frame.head()[0] & 1 != 0;
        if !group && !v.is_own(&ip.dst) {
            return self.drop_frame(Drop::OtherNode);
        }
        if v.is_vip_group(&ip.dst) && nd::icmp_type(frame.head(), ip) != Some(nd::LISTENER_QUERY) {
            return self.drop_frame(Drop::NdConsumed);
        }
        if ip.fragment && ip.may_be_tcp() {
            // A later fragment bears no port, and a stack puts all together.
            return self.drop_frame(Drop::Fragment);
        }
        if ip.proto == PROTO_TCP
            && let Some((_, dport)) = wire::tcp::ports(frame.head(), ip)
            && v.is_hidden(dport)
        {
            return self.drop_frame(Drop::HiddenPort);
        }
        out.send(Port::WireHost, frame);
    }

    fn wire_vip<O: Output>(
        &mut self,
        v: &View,
        mut frame: O::Frame,
        ip: &Ip,
        next_hop: Mac,
        now: Instant,
        out: &mut O,
    ) {
        if ip.fragment
            && (ip.proto == PROTO_TCP || v.is_replayed_to(&ip.dst))
            && !broken(Mutation::FragmentsPass)
        {
            return self.drop_frame(Drop::Fragment);
        }
        if ip.proto == PROTO_TCP {
            let Ok(s) = Segment::parse(frame.head(), ip) else {
                return self.drop_frame(Drop::Malformed);
            };
            if let Some(service) = v.service(&ip.dst, s.dport) {
                return self.wire_service(v, frame, ip, &s, service, next_hop, now, out);
            }
            if v.is_hidden(s.dport) {
                return self.drop_frame(Drop::HiddenPort);
            }
        } else if let Some(q) = Quote::parse(frame.head(), ip)
            && v.service(&q.flow.vip, q.flow.port).is_some()
        {
            let Some(slot) = self.find(v, &q.flow) else {
                return self.drop_frame(Drop::NoFlow);
            };
            let f = &self.slots[slot as usize];
            if !matches!(f.state, State::Intake | State::Served) {
                return self.drop_frame(Drop::HandedOver);
            }
            if !broken(Mutation::IcmpUntranslated) {
                q.rewrite(frame.head_mut(), f.local_port, q.seq.wrapping_sub(f.delta));
            }
            return out.send(Port::WireHost, frame);
        }
        if v.general.owner_of(&ip.src) == v.node {
            out.send(Port::WireHost, frame);
        } else {
            self.drop_frame(Drop::NotVipOwner);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn wire_service<O: Output>(
        &mut self,
        v: &View,
        frame: O::Frame,
        ip: &Ip,
        s: &Segment,
        service: usize,
        next_hop: Mac,
        now: Instant,
        out: &mut O,
    ) {
        if ip.src.is_link_local() {
            return self.drop_frame(Drop::LinkLocalClient);
        }
        if frame.meta().checksum == Checksum::Bad {
            return self.drop_frame(Drop::BadChecksum);
        }
        if s.opts.splice_kind && !broken(Mutation::Option32Passes) {
            return self.drop_frame(Drop::Option32OnWire);
        }
        if s.opts.auth {
            return self.drop_frame(Drop::TcpAuth);
        }
        let key = FlowKey {
            client: ip.src,
            vip: ip.dst,
            client_port: s.sport,
            port: s.dport,
        };
        let slot = self.find_in(service, &key);
        if s.has(SYN) && !s.has(ACK) {
            // Its options are kept for the life of the flow, and cutting its payload
            // off makes a new checksum: it must be what was sent.
            if !s.intact(&frame, ip) && !broken(Mutation::DamagedSyn) {
                return self.drop_frame(Drop::BadChecksum);
            }
            return self.wire_syn(v, frame, s, key, slot, service, next_hop, now, out);
        }
        let Some(slot) = slot else {
            self.stray(v, s, &key, service, next_hop, now, out);
            return self.drop_frame(Drop::NoFlow);
        };
        let state = self.slots[slot as usize].state;
        if matches!(state, State::Intake | State::Held)
            || (state == State::HalfOpen && !s.is_empty())
        {
            // What changes state, or waits in a buffer, must be what was sent.
            if !s.intact(&frame, ip) && !broken(Mutation::HeldUnverified) {
                return self.drop_frame(Drop::BadChecksum);
            }
        }
        if s.has(RST) && broken(Mutation::ResetEnds) {
            return self.remove(v, slot);
        }
        match state {
            State::HalfOpen => self.wire_half_open(v, frame, s, slot, now, out),
            State::Intake => self.wire_intake(v, frame, s, slot, next_hop, now, out),
            State::Held => self.wire_held(v, frame, s, slot, now, out),
            State::Served => self.wire_served(v, frame, s, slot, next_hop, now, out),
            State::Tombstone | State::Free => {
                self.keep_segment(v, slot, &frame, ip, s);
                let f = &mut self.slots[slot as usize];
                f.observe_client(s, now);
                if f.reset && !s.has(RST) {
                    self.send_reset(v, slot, out);
                } else if self.is_left_behind(v, slot) {
                    self.stray(v, s, &key, service, next_hop, now, out);
                }
                self.drop_frame(Drop::HandedOver);
            }
        }
    }

    /// A SYN: FCB and tombstone are asked before the bucket (PROTOCOL, section 6).
    #[allow(clippy::too_many_arguments)]
    fn wire_syn<O: Output>(
        &mut self,
        v: &View,
        mut frame: O::Frame,
        s: &Segment,
        key: FlowKey,
        slot: Option<u32>,
        service: usize,
        next_hop: Mac,
        now: Instant,
        out: &mut O,
    ) {
        let svc = &v.services[service];
        let owner = svc.buckets.owner(&key) == v.node;
        self.heard.note(HeardSyn {
            key,
            isn: s.seq,
            window: s.window,
            next_hop,
        });
        if let Some(slot) = slot {
            let rtt = self.rtt_of(slot);
            let f = &mut self.slots[slot as usize];
            match f.state {
                State::HalfOpen if s.seq == f.c_isn => {
                    f.last_seen = now.into();
                    clean_syn(&mut frame, s);
                    return self.give_syn(v, slot, frame, out);
                }
                _ if s.seq == f.c_isn => return self.drop_frame(Drop::DuplicateSyn),
                // Owner or not: what follows on this 4-tuple belongs to the new
                // connection, and must not reach the old one's stack.
                _ if f.gives_way() => self.remove(v, slot),
                // The flow lives: its stack challenges (RFC 5961, section 4).
                State::Intake | State::Served => {
                    if f.challenged_until.is_some_and(|t| now < t + CHALLENGE_REST) {
                        return self.drop_frame(Drop::DuplicateSyn);
                    }
                    if !broken(Mutation::ChallengeOff) {
                        f.challenged = Some(frame.to_vec().into());
                    }
                    f.challenged_until = Some(now + Span(rtt.0 * 2).max(CHALLENGE_LEAST));
                    clean_syn(&mut frame, s);
                    return self.give_syn(v, slot, frame, out);
                }
                _ => return self.drop_frame(Drop::DuplicateSyn),
            }
        }
        if !owner {
            // One node speaks where nobody owns anything: the client's in the general table,
            // where a node of a minority, or one that starts, does not find itself.
            if svc.buckets.is_owned() || v.general.owner_of(&key.client) != v.node {
                return self.drop_frame(Drop::NotOwner);
            }
            if svc.refuses {
                self.refuse_client(v, s, &key, service, next_hop, now, out);
            }
            return self.drop_frame(Drop::Unavailable);
        }
        if self.count(State::HalfOpen) >= v.params.half_open_max {
            return self.drop_frame(Drop::HalfOpenFull);
        }
        let Some(slot) = self.create(v, key, service, now) else {
            return self.drop_frame(Drop::FlowTableFull);
        };
        self.set_state(slot, State::HalfOpen);
        let f = &mut self.slots[slot as usize];
        f.local_port = svc.intake_port();
        f.next_hop = next_hop;
        f.c_isn = s.seq;
        f.c_nxt = s.seq.wrapping_add(1);
        f.c_high = f.c_nxt;
        f.cut = f.c_nxt;
        f.client_window = s.window;
        f.ts_in_order = s.ts_val().unwrap_or(0);
        f.ts_echoed = f.ts_in_order;
        f.agreed = Agreed {
            mss: s.opts.mss.unwrap_or(least_mss(&key.client)),
            client_shift: s.opts.wscale.unwrap_or(0),
            promised_shift: 0,
            wscale: s.opts.wscale.is_some(),
            sack: s.opts.sack_permitted,
            ts: s.opts.timestamps.is_some(),
        };
        clean_syn(&mut frame, s);
        self.give_syn(v, slot, frame, out);
    }

    fn wire_half_open<O: Output>(
        &mut self,
        v: &View,
        frame: O::Frame,
        s: &Segment,
        slot: u32,
        now: Instant,
        out: &mut O,
    ) {
        let f = &mut self.slots[slot as usize];
        let mine = f.synack_at.is_some() && s.ack == f.s_isn.wrapping_add(1);
        if s.has(RST) {
            // The stack judges a RST by its sequence number.
            return self.forward(v, slot, frame, s, out);
        }
        if !mine && broken(Mutation::MismatchToStack) {
            return self.forward(v, slot, frame, s, out);
        }
        if !s.has(ACK) || !mine {
            // The client took another owner's SYN-ACK, or this is forged: be
            // silent, but let the right acknowledgement still win.
            f.muted |= s.has(ACK);
            return self.drop_frame(Drop::AckMismatch);
        }
        f.muted = false;
        if let Some(t) = f.synack_at {
            f.rtt = now - t;
        }
        self.set_state(slot, State::Intake);
        self.counters.opened += 1;
        let hop = self.slots[slot as usize].next_hop;
        self.wire_intake(v, frame, s, slot, hop, now, out);
    }

    #[allow(clippy::too_many_arguments)]
    fn wire_intake<O: Output>(
        &mut self,
        v: &View,
        frame: O::Frame,
        s: &Segment,
        slot: u32,
        next_hop: Mac,
        now: Instant,
        out: &mut O,
    ) {
        let max = v.params.hold_flow_max;
        let f = &mut self.slots[slot as usize];
        if f.storms(Side::Client, Bare::of(s), now.into()) {
            return self.drop_frame(Drop::AckStorm);
        }
        f.confirm(s);
        let proxied = v.services[f.service as usize].proxy_port.is_some();
        if proxied && s.seq_len() > 0 && !s.has(RST) {
            if seq::lt(f.c_edge, s.seq_end().wrapping_sub(u32::from(s.has(FIN)))) {
                // Beyond what was promised: a stack would not take it either, and
                // a copy of it would push out one that counts.
                return self.drop_frame(Drop::HoldFull);
            }
            if seq::lt(f.c_acked, s.seq_end())
                && !broken(Mutation::NoCopies)
                && !hold_copy(
                    &mut self.store,
                    &mut f.copies,
                    &mut self.drops,
                    max,
                    &frame,
                    s.seq,
                    s.seq_end(),
                )
            {
                return;
            }
        }
        f.next_hop = next_hop;
        f.observe_client(s, now);
        if s.has(RST) {
            self.revisit(slot);
        }
        self.forward(v, slot, frame, s, out);
        self.yield_to_new(v, slot, s, now, out);
        self.check_end(v, slot, now, out);
    }

    #[allow(clippy::too_many_arguments)]
    fn wire_served<O: Output>(
        &mut self,
        v: &View,
        frame: O::Frame,
        s: &Segment,
        slot: u32,
        next_hop: Mac,
        now: Instant,
        out: &mut O,
    ) {
        let f = &mut self.slots[slot as usize];
        if f.storms(Side::Client, Bare::of(s), now.into()) {
            return self.drop_frame(Drop::AckStorm);
        }
        f.confirm(s);
        f.next_hop = next_hop;
        let window = f.client_window;
        f.observe_client(s, now);
        if s.has(RST) {
            self.revisit(slot);
        }
        let settled = self.slots[slot as usize].dest.is_none();
        if !settled {
            if self.is_overtaking(slot, &frame, s, window, now) {
                return;
            }
            if self.waits(slot, s) {
                return self.wait(v, slot, &frame, s);
            }
            if let Some(d) = self.slots[slot as usize].dest.as_mut() {
                d.note_taken(s);
            }
            self.complete_handshake(v, slot, s, now, out);
        }
        self.forward(v, slot, frame, s, out);
        self.yield_to_new(v, slot, s, now, out);
        if !settled && !self.slots[slot as usize].held.is_empty() {
            self.fill(v, slot, now, out);
        }
        self.check_end(v, slot, now, out);
        self.slots[slot as usize].tidy();
    }

    /// The client has sent a SYN of another ISN, and the RST that the old stack's challenge
    /// asks for: the flow is over. Its stack, which is none any more, would answer what the
    /// client says next with RST, in the very number that the new connection, perhaps
    /// another node's, expects.
    fn yield_to_new<O: Output>(
        &mut self,
        v: &View,
        slot: u32,
        s: &Segment,
        now: Instant,
        out: &mut O,
    ) {
        let f = &mut self.slots[slot as usize];
        let anew = s.has(RST) && s.seq == f.c_acked && f.challenged.is_some();
        if !anew || broken(Mutation::AnewToOld) {
            return;
        }
        f.challenged = None;
        f.expires = Some(now + v.params.closing);
        self.tell_end(v, slot, out);
        self.entomb(v, slot);
    }

    /// Translates a client's segment and gives it to the local stack.
    #[inline]
    pub(crate) fn forward<O: Output>(
        &mut self,
        v: &View,
        slot: u32,
        mut frame: O::Frame,
        s: &Segment,
        out: &mut O,
    ) {
        self.slots[slot as usize].give(v, &mut frame, s);
        out.send(Port::WireHost, frame);
    }

    /// Gives a SYN to the local stack.
    fn give_syn<O: Output>(&mut self, v: &View, slot: u32, mut frame: O::Frame, out: &mut O) {
        let f = &mut self.slots[slot as usize];
        f.spoken_to = true;
        let Ok(L3::Ip(ip)) = wire::l3_of(&frame) else {
            return;
        };
        Edit::of(&mut frame, ip.l4).dport(f.local_port).finish();
        wire::set_eth(frame.head_mut(), v.host_mac, f.next_hop);
        out.send(Port::WireHost, frame);
    }
}

/// The MSS of a SYN that names none (RFC 9293, section 3.7.1).
fn least_mss(client: &Addr) -> u16 {
    if client.is_v4() { 536 } else { 1_220 }
}

/// What of a client's SYN may reach a stack: MSS, window scale, SACK-permitted
/// and timestamps; no payload, no ECN (rules 6 and 7).
fn clean_syn<F: Frame>(frame: &mut F, s: &Segment) {
    let uncleaned = broken(Mutation::SynUncleaned);
    if s.opts.others && !uncleaned {
        edit::strip_options(frame.head_mut(), s);
    }
    if !s.is_empty() && !uncleaned {
        let n = edit::cut_payload(frame.head_mut(), s, 0, 0);
        frame.truncate(n);
    }
    if broken(Mutation::EcnLeft) {
        return;
    }
    let mut e = Edit::of(frame, s.l4);
    e.flags(s.flags & !(ECE | CWR)).clear_ae().finish();
}

impl Fcb {
    /// Makes a client's segment one for the local stack, which is about to get it.
    #[inline]
    pub(crate) fn give<F: Frame>(&mut self, v: &View, frame: &mut F, s: &Segment) {
        self.spoken_to = true;
        self.asked |= self.is_asked_by(s) && !broken(Mutation::AskedForgotten);
        translate::to_host(self, frame, s);
        wire::set_eth(frame.head_mut(), v.host_mac, self.next_hop);
    }

    /// The stack owes the client an acknowledgement of `s` although it is nothing new: a
    /// sign of life is asked for, or the acknowledgement of these bytes got lost (RFC
    /// 9293, section 3.10.7.4).
    pub(crate) fn is_asked_by(&self, s: &Segment) -> bool {
        s.has(ACK) && !s.has(SYN | RST) && self.asks(s.seq, s.seq_len())
    }

    /// [`Self::is_asked_by`] for an ACK of `len` numbers from `seq` on.
    #[inline]
    pub(crate) fn asks(&self, seq: u32, len: u32) -> bool {
        if len == 0 {
            return seq == self.c_acked.wrapping_sub(1);
        }
        seq::le(seq.wrapping_add(len), self.c_acked)
    }

    /// Notes what a client's segment tells. It has not been judged by a stack:
    /// acknowledgements and windows are taken only when they are plausible.
    #[inline]
    pub(crate) fn observe_client(&mut self, s: &Segment, now: Instant) {
        self.last_seen = now.into();
        if s.has(RST) {
            // Anybody can send one that is somewhere in the window: no stack obeys it,
            // and a SYN behind it must not take the flow's place.
            self.client_reset |= s.seq == self.c_nxt || s.seq == self.c_acked;
            return;
        }
        if self.client_reset {
            self.client_reset = false;
        }
        let known = seq::le(s.seq, self.c_nxt) || !matches!(self.state, State::Intake);
        if s.has(ACK) && known && seq::le(self.client_ack, s.ack) {
            if self.state == State::Tombstone || seq::le(s.ack, self.s_nxt) {
                self.acks(s.ack, s.window, now.into());
            }
            if self.s_fin.is_some_and(|fin| seq::le(fin, s.ack)) {
                self.s_fin_acked = true;
            }
        }
        if broken(Mutation::TimestampAboveHole) {
            self.ts_in_order = s.ts_val().unwrap_or(self.ts_in_order);
            self.ts_echoed = self.ts_in_order;
        }
        self.advances(s.seq, s.seq_end(), s.ts_val());
        if s.has(FIN) {
            self.c_fin = Some(s.seq_end());
        }
    }

    /// The client acknowledges, and says how much it has room for.
    #[inline]
    pub(crate) fn acks(&mut self, ack: u32, window: u16, now: Stamp) {
        if self.client_ack != ack {
            self.acked_at = now;
        }
        self.client_ack = ack;
        self.client_window = window;
    }

    /// The client sends what lies from `seq` to `end`, at its time `ts_val`.
    #[inline]
    pub(crate) fn advances(&mut self, seq: u32, end: u32, ts_val: Option<u32>) {
        if seq::le(seq, self.c_nxt) && seq::lt(self.c_nxt, end) {
            self.c_nxt = end;
            self.ts_in_order = ts_val.unwrap_or(self.ts_in_order);
        }
        // A FIN takes a number behind the window's last byte.
        if seq::le(end, self.c_edge.wrapping_add(1)) {
            self.c_high = seq::max(self.c_high, end);
        }
        self.c_high = seq::max(self.c_high, self.c_nxt);
    }
}
