//! Orphans: flows whose node is gone. Their clients would wait for an answer until their
//! own patience ends; a RST lets them connect anew at once (PROTOCOL, section 6).
//!
//! The owner of a bucket notes segments whose flow it does not have. One that comes again
//! without progress is asked for on the link ("who has this
//! flow?"). Whoever has an FCB of it, a tombstone too, says so. If every member that lives
//! says no, and no member may live unheard, the owner resets the client.
//!
//! A SYN of a service that nobody owns goes the same way at once: somebody may have its
//! flow, half-open or from before.

use crate::drops::Drop;
use crate::fcb::State;
use crate::frame::{Output, Port};
use crate::handover::message::{Head, Message, Peer};
use crate::key::FlowKey;
use crate::mutation::{Mutation, broken};
use crate::shard::Shard;
use crate::time::{Instant, Span};
use crate::view::{Member, View};
use crate::wire::Mac;
use crate::wire::build::Tcp;
use crate::wire::options::Build;
use crate::wire::tcp::{ACK, RST, SYN, Segment};
use dts_proto::block::{Fields, FlowId, Kind};
use hashbrown::HashMap;
use std::collections::VecDeque;

/// Searches at a time; what is beyond comes again.
const MOST: usize = 2_048;
/// A segment that comes again this long after it came first was not answered: stacks
/// acknowledge data within 40 ms, or 200 ms where they delay it (RFC 9293, section 3.8.6.3,
/// allows 500 ms), and repeat it after 200 ms at the earliest.
const AGAIN: Span = Span::millis(150);
/// The same of a segment without data, as keepalives (RFC 9293, section 3.8.4) and probes of a
/// window are: those of one flow are this far apart, and repeated ACKs are not.
const AGAIN_BARE: Span = Span::secs(1);
/// A member that has not answered by then is asked again ...
const PATIENCE: Span = Span::millis(50);
/// ... so often; then the search is given up until the segment comes again.
const TRIES: u8 = 4;
/// A flow that somebody has is not asked for again for so long.
const CLAIMED: Span = Span::secs(10);
/// A search that nothing was heard of for so long is forgotten.
const FORGOTTEN: Span = Span::secs(5);
/// Segments of unknown flows that are looked at in a millisecond.
const LOOKS: u32 = 16;
/// The same while a member's death, or birth, is news.
const LOOKS_ALERT: u32 = 128;
/// So long it is.
const ALERT: Span = Span::secs(30);

#[derive(Debug)]
enum Stage {
    /// Its segment came; the flow may live elsewhere.
    Noted,
    /// These members have not said yet that they do not have it.
    Asked { waits: Vec<u16>, tries: u8 },
    /// Somebody has it.
    Claimed,
}

#[derive(Debug)]
struct Search {
    stage: Stage,
    service: usize,
    /// It was a SYN, and nobody owns the service.
    refused: bool,
    /// Sequence number, number behind it and acknowledgement of the segment.
    said: (u32, u32, u32),
    /// When it came first.
    since: Instant,
    /// When it, or an answer, came last.
    heard: Instant,
    next_hop: Mac,
}

/// The searches of one worker.
#[derive(Debug, Default)]
pub(crate) struct Orphans {
    all: HashMap<FlowKey, Search>,
    /// When those that were asked for are to be asked for again.
    due: VecDeque<(Instant, FlowKey)>,
    /// Segments that may still be looked at in this millisecond.
    looks: u32,
    /// Resets that may be sent, in millionths.
    credit: u64,
    ticked: Instant,
    swept: Instant,
    alert_until: Instant,
}

impl Orphans {
    /// How many segments of unknown flows may be looked at now.
    #[inline]
    pub(crate) fn looks(&self) -> u32 {
        self.looks
    }
}

/// A member of which this node, just started, has not heard yet.
fn may_live_unheard(m: &Member) -> bool {
    m.known.is_none() && !m.gone
}

impl Shard {
    /// A tombstone of a flow whose node is dead, or does not reach its client.
    pub(crate) fn is_left_behind(&self, v: &View, slot: u32) -> bool {
        let f = &self.slots[slot as usize];
        let reaches = |node| v.member(node).is_some_and(|m| m.alive && m.on_wire);
        f.state == State::Tombstone
            && f.source.is_none()
            && !f.reset
            && f.peer.is_some_and(|(node, _)| !reaches(node))
    }

    /// A segment of a flow that is not here.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn stray<O: Output>(
        &mut self,
        v: &View,
        s: &Segment,
        key: &FlowKey,
        service: usize,
        next_hop: Mac,
        now: Instant,
        out: &mut O,
    ) {
        if !v.params.orphan_resets
            || self.orphans.looks == 0
            || !s.has(ACK)
            || s.has(SYN)
            || s.has(RST)
        {
            return;
        }
        self.orphans.looks -= 1;
        if v.services[service].buckets.owner(key) != v.node {
            return;
        }
        // New data bear the numbers of the last bare acknowledgement: the end tells them apart.
        let end = match broken(Mutation::OrphansByNumber) {
            true => s.seq,
            false => s.seq_end(),
        };
        let said = (s.seq, end, s.ack);
        let bare = s.seq == s.seq_end();
        let again = if bare { AGAIN_BARE } else { AGAIN };
        let Some(search) = self.orphans.all.get_mut(key) else {
            // Most bare ones want no answer at all.
            if self.orphans.all.len() < if bare { MOST / 2 } else { MOST } {
                let search = Search {
                    stage: Stage::Noted,
                    service,
                    refused: false,
                    said,
                    since: now,
                    heard: now,
                    next_hop,
                };
                self.orphans.all.insert(*key, search);
            }
            return;
        };
        if matches!(search.stage, Stage::Claimed) {
            return;
        }
        search.heard = now;
        if search.said != said {
            // Somebody has answered it.
            (search.stage, search.said, search.since) = (Stage::Noted, said, now);
        } else if matches!(search.stage, Stage::Noted) && now - search.since >= again {
            self.ask_members(v, key, 0, now, out);
        }
    }

    /// A SYN of a service that nobody owns: refused, unless a member has a flow of it.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn refuse_client<O: Output>(
        &mut self,
        v: &View,
        s: &Segment,
        key: &FlowKey,
        service: usize,
        next_hop: Mac,
        now: Instant,
        out: &mut O,
    ) {
        let known = self.orphans.all.get(key);
        let waits = |k: &Search| k.refused && !matches!(k.stage, Stage::Noted);
        let full = known.is_none() && self.orphans.all.len() >= MOST;
        if self.orphans.looks == 0 || full || known.is_some_and(waits) {
            return;
        }
        self.orphans.looks -= 1;
        let search = Search {
            stage: Stage::Noted,
            service,
            refused: true,
            said: (s.seq, s.seq_end(), 0),
            since: now,
            heard: now,
            next_hop,
        };
        self.orphans.all.insert(*key, search);
        self.ask_members(v, key, 0, now, out);
    }

    /// Asks all members that live, or those of them that have not answered yet.
    fn ask_members<O: Output>(
        &mut self,
        v: &View,
        key: &FlowKey,
        tries: u8,
        now: Instant,
        out: &mut O,
    ) {
        let Some(search) = self.orphans.all.get_mut(key) else {
            return;
        };
        let asked = match std::mem::replace(&mut search.stage, Stage::Noted) {
            Stage::Asked { waits, .. } => Some(waits),
            Stage::Noted | Stage::Claimed => None,
        };
        if tries == TRIES || v.members.iter().any(may_live_unheard) {
            search.since = now;
            return;
        }
        let others = v.members.iter().filter(|m| m.id != v.node && m.alive);
        let others = others.filter(|m| asked.as_ref().is_none_or(|w| w.contains(&m.id)));
        let others: Vec<&Member> = match broken(Mutation::OrphansUnasked) {
            true => Vec::new(),
            false => others.collect(),
        };
        if others.is_empty() {
            return self.reset_orphan(v, key, now, out);
        }
        let port = v.services[search.service].app_port;
        let waits = others.iter().map(|m| m.id).collect();
        let tries = tries + 1;
        search.stage = Stage::Asked { waits, tries };
        self.orphans.due.push_back((now + PATIENCE, *key));
        for m in others {
            // A member that lives was heard of.
            if let Some((mac, incarnation)) = m.known {
                let to = Peer {
                    node: m.id,
                    incarnation,
                    mac,
                    addr: m.link,
                    port,
                    local_port: v.params.splice_ports.0 + self.worker as u16,
                };
                self.say_of(v, &to, Kind::Who, key, out);
            }
        }
    }

    /// Says something of a flow as a whole, whatever its handovers.
    fn say_of<O: Output>(&mut self, v: &View, to: &Peer, kind: Kind, key: &FlowKey, out: &mut O) {
        let flow = FlowId {
            client: key.client(),
            vip: key.vip(),
            c_isn: 0,
            s_isn: 0,
            source: v.node,
            source_incarnation: v.incarnation,
            number: 0,
        };
        let head = Head {
            flags: ACK,
            ..Head::default()
        };
        self.say(v, to, kind, flow, &Fields::default(), head, &[], out);
    }

    /// Another node asks who has a flow. One that is alone on the wire cannot serve what it
    /// has; and whom a tombstone points to speaks for itself.
    pub(crate) fn who_has<O: Output>(&mut self, v: &View, m: &Message<'_>, out: &mut O) {
        let key = FlowKey::new(m.header.flow.client, m.header.flow.vip);
        let serves = |slot: u32| {
            let f = &self.slots[slot as usize];
            f.state != State::Tombstone || f.source.is_some()
        };
        let kind = match self.find(v, &key) {
            Some(slot) if serves(slot) && !self.hellos.alone() => Kind::Mine,
            _ => Kind::NotMine,
        };
        self.say_of(v, &m.peer, kind, &key, out);
    }

    /// A member's answer.
    pub(crate) fn claimed<O: Output>(
        &mut self,
        v: &View,
        m: &Message<'_>,
        now: Instant,
        out: &mut O,
    ) {
        let key = FlowKey::new(m.header.flow.client, m.header.flow.vip);
        let Some(search) = self.orphans.all.get_mut(&key) else {
            return self.drop_frame(Drop::LinkStale);
        };
        search.heard = now;
        if m.header.kind == Kind::Mine {
            search.stage = Stage::Claimed;
            return;
        }
        let Stage::Asked { waits, .. } = &mut search.stage else {
            return;
        };
        waits.retain(|id| *id != m.header.sender);
        if waits.is_empty() {
            self.reset_orphan(v, &key, now, out);
        }
    }

    /// A RST with the number that the client expects next, if the rate allows it. The
    /// client's segment says which number that is (RFC 9293, section 3.5.2); one without an
    /// acknowledgement is acknowledged instead.
    fn reset_orphan<O: Output>(&mut self, v: &View, key: &FlowKey, now: Instant, out: &mut O) {
        let Some(search) = self.orphans.all.remove(key) else {
            return;
        };
        let slot = self.find_in(search.service, key);
        let taken = search.refused && v.services[search.service].buckets.is_owned();
        if taken || slot.is_some_and(|slot| search.refused || !self.is_left_behind(v, slot)) {
            // It came here meanwhile, or somebody takes the next SYN.
            return;
        }
        let Some(credit) = self.orphans.credit.checked_sub(1_000_000) else {
            return self.drop_frame(Drop::OrphanRate);
        };
        self.orphans.credit = credit;
        if let Some(slot) = slot {
            self.counters.orphan_resets += 1;
            return self.reset_client(v, slot, now, out);
        }
        let (seq, ack, flags) = if search.refused {
            self.counters.unavailable_resets += 1;
            (0, search.said.1, RST | ACK)
        } else {
            self.counters.orphan_resets += 1;
            (search.said.2, 0, RST)
        };
        let rst = Tcp {
            eth_dst: search.next_hop,
            eth_src: v.wire_mac,
            src: key.vip,
            dst: key.client,
            sport: key.port,
            dport: key.client_port,
            seq,
            ack,
            flags,
            window: 0,
            opts: Build::default(),
            payload: &[],
        };
        self.emit(Port::Wire, &rst.frame(), out);
    }

    /// What is due of searches; `members_changed` since the last tick.
    pub(crate) fn orphans_tick<O: Output>(
        &mut self,
        v: &View,
        members_changed: bool,
        now: Instant,
        out: &mut O,
    ) {
        let o = &mut self.orphans;
        let micros = (now - std::mem::replace(&mut o.ticked, now)).0 / 1_000;
        let per_second = u64::from(v.params.resets_per_s);
        o.credit = (o.credit.saturating_add(micros.saturating_mul(per_second)))
            .min(per_second * 1_000_000);
        if members_changed {
            o.alert_until = now + ALERT;
        }
        o.looks = if now < o.alert_until {
            LOOKS_ALERT
        } else {
            LOOKS
        };
        if now - o.swept >= Span::secs(1) {
            o.swept = now;
            o.all.retain(|_, s| {
                let life = match s.stage {
                    Stage::Claimed => CLAIMED,
                    Stage::Noted | Stage::Asked { .. } => FORGOTTEN,
                };
                now - s.heard < life
            });
        }
        while let Some((at, key)) = self.orphans.due.front().copied() {
            if at > now {
                break;
            }
            self.orphans.due.pop_front();
            let stage = self.orphans.all.get(&key).map(|s| &s.stage);
            if let Some(&Stage::Asked { tries, .. }) = stage {
                self.ask_members(v, &key, tries, now, out);
            }
        }
    }
}
