//! From this node's own stack: what may leave, and as what.

use crate::drops::Drop;
use crate::fcb::State;
use crate::frame::{Frame, Output, Port};
use crate::handover::replay::ClientSegment;
use crate::key::{Addr, FlowKey};
use crate::mutation::{Mutation, broken};
use crate::seq;
use crate::shard::Shard;
use crate::storm::{Bare, Side};
use crate::time::{Instant, Span};
use crate::translate::{self, Outgoing};
use crate::view::View;
use crate::wire::arp::{self, Arp};
use crate::wire::edit::Edit;
use crate::wire::nd;
use crate::wire::options::Build;
use crate::wire::tcp::{ACK, CWR, ECE, FIN, PSH, RST, SYN, Segment};
use crate::wire::{self, Ip, L3};

/// An old socket that is reset is not reset again for so long, in case it cannot be.
const OLD_SOCKET_REST: Span = Span::millis(500);

/// Whether the host may say this about neighbours. Of a VIP it may not speak: the
/// data plane does. It may ask for others in a VIP's name, for a kernel asks with
/// the source of the packet that waits; but the answer would come to all nodes, so
/// the question bears the node's own link-local address.
fn host_nd(v: &View, frame: &mut [u8], ip: &Ip) -> bool {
    if nd::target(frame, ip).is_some_and(|t| v.is_vip(&t)) {
        return false;
    }
    if v.is_vip(&ip.src) {
        if nd::kind(frame, ip) != Some(nd::SOLICIT) {
            return false;
        }
        nd::set_source(frame, ip, &v.link_local());
    }
    true
}

impl Shard {
    pub(crate) fn wire_host_in<O: Output>(
        &mut self,
        v: &View,
        mut frame: O::Frame,
        now: Instant,
        out: &mut O,
    ) {
        match wire::l3_of(&frame) {
            Err(bad) => return self.drop_frame(bad.into()),
            Ok(L3::Arp) => {
                if let Some(a) = Arp::parse(frame.head())
                    && v.is_vip(&Addr::v4(a.spa))
                    && (a.op == arp::REPLY || a.spa == a.tpa)
                {
                    return self.drop_frame(Drop::HostArpVip);
                }
            }
            Ok(L3::Ip(ip)) if nd::kind(frame.head(), &ip).is_some() => {
                if !host_nd(v, frame.head_mut(), &ip) {
                    return self.drop_frame(Drop::HostNdVip);
                }
            }
            Ok(L3::Ip(ip)) if ip.may_be_tcp() => {
                let vip = v.is_vip(&ip.src);
                if ip.fragment {
                    if vip {
                        return self.drop_frame(Drop::Fragment);
                    }
                } else if let Ok(s) = Segment::parse(frame.head(), &ip) {
                    let sport = s.sport;
                    if vip && let Some(service) = v.service_of_local(&ip.src, sport) {
                        return self.host_flow(v, frame, &ip, service, now, out);
                    }
                    if v.is_hidden(sport) || (vip && v.service(&ip.src, sport).is_some()) {
                        return self.drop_frame(Drop::HostWithoutFlow);
                    }
                    if vip && s.has(SYN) && !s.has(ACK) {
                        return self.drop_frame(Drop::HostFromVip);
                    }
                }
            }
            Ok(L3::Ip(_) | L3::Other) => {}
        }
        // Not ours: it only must not teach the switch the cluster MAC.
        wire::set_eth_src(frame.head_mut(), v.wire_mac);
        out.send(Port::Wire, frame);
    }

    /// A segment of a local proxy or application.
    fn host_flow<O: Output>(
        &mut self,
        v: &View,
        frame: O::Frame,
        ip: &Ip,
        service: usize,
        now: Instant,
        out: &mut O,
    ) {
        let Ok(s) = Segment::parse(frame.head(), ip) else {
            return self.drop_frame(Drop::Malformed);
        };
        let svc = &v.services[service];
        let key = FlowKey {
            client: ip.dst,
            vip: ip.src,
            client_port: s.dport,
            port: svc.port,
        };
        let Some(slot) = self.find_in(service, &key) else {
            if broken(Mutation::NoDefaultDrop) {
                return out.send(Port::Wire, frame);
            }
            return self.drop_frame(Drop::HostWithoutFlow);
        };
        let f = &mut self.slots[slot as usize];
        let from_app = s.sport == svc.app_port;
        let over = f.challenged_until.is_some_and(|t| now >= t);
        if over && !broken(Mutation::ChallengeForever) {
            // A client that opened anew would have reset the old connection by now:
            // the SYN was forged, or a late one.
            f.challenged = None;
        }
        // The answer to the flow's own SYN, which the replay gave it, is no news.
        let handed_over = f.state == State::Served || f.dest.is_some();
        let own = s.has(SYN) && handed_over && f.local_isn() == s.seq;
        if f.challenged.is_some() && s.sport == f.local_port && !own {
            if s.has(SYN) {
                return self.stale_flow(v, slot, &s, now, out);
            }
            if s.flags & !PSH != ACK || !s.is_empty() {
                return self.drop_frame(Drop::HostForbidden);
            }
        }
        match f.state {
            State::HalfOpen if s.sport == f.local_port => {
                self.host_half_open(v, frame, &s, slot, now, out)
            }
            State::Intake if s.sport == f.local_port => {
                if !s.has(RST) {
                    self.store.release_below(&mut f.copies, s.ack);
                }
                if let Some(ecr) = s.ts_ecr() {
                    f.ts_echoed = ecr;
                }
                self.send_to_client(v, slot, frame, &s, now, out);
            }
            State::Served if s.sport == f.local_port => {
                self.host_served(v, frame, &s, slot, now, out)
            }
            State::Held if from_app && f.dest.is_some() => {
                self.host_replay(v, &frame, &s, slot, now, out)
            }
            State::Held if s.sport == f.local_port => {
                if let Some(src) = &mut f.source {
                    src.swallow(&frame, &s);
                }
                self.drop_frame(Drop::HostForbidden);
            }
            _ if broken(Mutation::NoDefaultDrop) => {
                self.send_to_client(v, slot, frame, &s, now, out);
            }
            _ => self.drop_frame(Drop::HostForbidden),
        }
    }

    /// The stack took a SYN that it should have challenged: it knows nothing of the
    /// flow any more. What it opened is closed, and the SYN goes where it belongs.
    fn stale_flow<O: Output>(
        &mut self,
        v: &View,
        slot: u32,
        s: &Segment,
        now: Instant,
        out: &mut O,
    ) {
        self.drop_frame(Drop::HostForbidden);
        let f = &mut self.slots[slot as usize];
        let Some(syn) = f.challenged.take() else {
            return;
        };
        let port = f.local_port;
        self.play_to(v, slot, port, ClientSegment::reset(s.ack), &[], out);
        self.remove(v, slot);
        match out.frame(&syn) {
            Some(frame) => self.wire_in(v, frame, now, out),
            None => self.drop_frame(Drop::NoBuffer),
        }
    }

    fn host_half_open<O: Output>(
        &mut self,
        v: &View,
        mut frame: O::Frame,
        s: &Segment,
        slot: u32,
        now: Instant,
        out: &mut O,
    ) {
        let f = &mut self.slots[slot as usize];
        if f.muted {
            return self.drop_frame(Drop::Muted);
        }
        if s.has(SYN) && s.has(ACK) {
            if s.ack != f.c_isn.wrapping_add(1) {
                return self.drop_frame(Drop::HostForbidden);
            }
            if f.synack_at.is_none() || f.s_isn != s.seq {
                f.synack_at = Some(now);
                f.s_isn = s.seq;
                f.s_low = s.seq.wrapping_add(1);
                f.s_nxt = f.s_low;
                f.client_ack = s.seq;
                f.c_acked = s.ack;
                f.c_edge = s.ack;
                f.ts_max = s.ts_val().unwrap_or(0);
                // What the stack did not agree to is not in force.
                let offered = broken(Mutation::OptionsOffered);
                f.agreed.wscale &= s.opts.wscale.is_some() || offered;
                f.agreed.sack &= s.opts.sack_permitted || offered;
                f.agreed.ts &= s.opts.timestamps.is_some() || offered;
                if !f.agreed.wscale {
                    f.agreed.client_shift = 0;
                }
                f.agreed.promised_shift = if f.agreed.wscale {
                    s.opts.wscale.unwrap_or(0)
                } else {
                    0
                };
                f.local_shift = f.agreed.promised_shift;
            } else {
                // Sent again: a client's answer cannot be told from one to the first.
                f.synack_at = Some(now);
            }
            let mut e = Edit::of(&mut frame, s.l4);
            e.flags(s.flags & !(ECE | CWR)).clear_ae().finish();
            let Ok(L3::Ip(ip)) = wire::l3_of(&frame) else {
                return;
            };
            let Ok(s) = Segment::parse(frame.head(), &ip) else {
                return;
            };
            return self.send_to_client(v, slot, frame, &s, now, out);
        }
        if s.has(RST) || f.synack_at.is_some() {
            // A refusal (nobody listens), or a challenge.
            return self.send_to_client(v, slot, frame, s, now, out);
        }
        if s.has(ACK) {
            self.reset_old_socket(v, slot, s, now, out);
        }
        self.drop_frame(Drop::HostForbidden);
    }

    /// The stack challenges the SYN of a half-open flow (RFC 5961, section 4): it still has a
    /// socket of this 4-tuple, which no FCB knows, as after a restart of the data plane. Nobody
    /// else speaks to it; it gets the client's answer, a RST that it cannot refuse, and the
    /// SYN again.
    fn reset_old_socket<O: Output>(
        &mut self,
        v: &View,
        slot: u32,
        s: &Segment,
        now: Instant,
        out: &mut O,
    ) {
        let f = &mut self.slots[slot as usize];
        if s.ack == f.c_nxt || f.challenged_until.is_some_and(|t| now < t) {
            return;
        }
        f.challenged_until = Some(now + OLD_SOCKET_REST);
        let (port, a) = (f.local_port, f.agreed);
        let syn = ClientSegment {
            seq: f.c_isn,
            ack: 0,
            flags: SYN,
            window: f.client_window,
            opts: Build {
                mss: Some(a.mss),
                sack_permitted: a.sack,
                timestamps: a.ts.then_some((f.ts_in_order, 0)),
                wscale: a.wscale.then_some(a.client_shift),
                splice: None,
            },
        };
        self.play_to(v, slot, port, ClientSegment::reset(s.ack), &[], out);
        self.play_to(v, slot, port, syn, &[], out);
    }

    fn host_served<O: Output>(
        &mut self,
        v: &View,
        frame: O::Frame,
        s: &Segment,
        slot: u32,
        now: Instant,
        out: &mut O,
    ) {
        if s.has(SYN) {
            // The stack waits for the end of the replayed handshake; the client
            // has had its SYN-ACK from the intake.
            self.answer_synack(v, slot, s, out);
            return self.drop_frame(Drop::ReplayConsumed);
        }
        if let Some(ecr) = s.ts_ecr() {
            self.slots[slot as usize].ts_echoed = ecr;
        }
        self.send_to_client(v, slot, frame, s, now, out);
    }

    /// Translates a local segment and lets it out.
    pub(crate) fn send_to_client<O: Output>(
        &mut self,
        v: &View,
        slot: u32,
        mut frame: O::Frame,
        s: &Segment,
        now: Instant,
        out: &mut O,
    ) {
        let f = &mut self.slots[slot as usize];
        let svc = &v.services[f.service as usize];
        let served = f.state == State::Served;
        let limited = !served && svc.proxy_port.is_some();
        let o = Outgoing {
            port: svc.port,
            window_limit: limited.then_some(v.params.first_window),
        };
        if f.storms(Side::Stack, Bare::of(s), now.into()) {
            return self.drop_frame(Drop::AckStorm);
        }
        f.last_seen = now.into();
        if !translate::to_wire(f, &mut frame, s, o) {
            return self.drop_frame(Drop::AckRepeated);
        }
        if f.client_reset {
            f.client_reset = false;
        }
        if s.has(FIN) {
            f.s_fin = Some(s.seq_end().wrapping_add(f.delta));
        }
        if s.has(ACK) && f.c_fin.is_some_and(|fin| seq::le(fin, s.ack)) {
            f.c_fin_acked = true;
        }
        if s.has(RST) {
            f.reset = true;
        }
        wire::set_eth(frame.head_mut(), f.next_hop, v.wire_mac);
        out.send(Port::Wire, frame);
        self.check_end(v, slot, now, out);
    }
}
