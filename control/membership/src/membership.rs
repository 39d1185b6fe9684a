//! The core: SWIM, records, goodbyes and errands, driven by messages and time.

pub(crate) mod errands;

use crate::agreed::{Agreed, Part};
use crate::body::Body;
use crate::envelope::{self, Guard, Kind, Outside, Refused};
use crate::identity::{Codec, Identity};
use crate::record::{Record, State};
use crate::swim::{self, Due, Sink, Swim};
use crate::types::{Datagram, Liveness, Peer, Seen, Settings, Time};
use dts_proto::block::LinkKey;
use errands::Errands;
use foca::Foca;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

#[path = "scheduling.rs"]
mod scheduling;

/// Times that a changed record is told, beside its node's own tellings.
const RECORD_TELLINGS: u8 = 4;
/// Records of others in a message when there is no news.
const USUAL_RECORDS: usize = 3;
/// Announcements to every member after a new identity: whoever knows only the one before
/// is not listened to.
const INTRODUCTIONS: u8 = 4;
/// Goodbyes to each member.
const GOODBYES: usize = 3;

#[derive(Clone, Copy, Debug)]
struct Status {
    liveness: Liveness,
    since: Time,
    gone: bool,
    /// The start and the generation that SWIM speaks of.
    identity: Identity,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    record: Record,
    /// Times that it is still to be told as news.
    tellings: u8,
}

/// One node's part in the membership.
pub struct Membership {
    own: u16,
    incarnation: u64,
    settings: Settings,
    peers: Vec<Peer>,
    keys: Vec<LinkKey>,
    swim: Swim,
    timers: Vec<Due>,
    guard: Guard,
    counter: u64,
    held: BTreeMap<u16, Held>,
    /// Where the turn of records without news stands.
    turn: u16,
    status: BTreeMap<u16, Status>,
    /// When any member was last heard.
    last_heard: Time,
    /// Who was lost without a goodbye, while it is not taken for dead.
    lost: Vec<u16>,
    last_loss: Time,
    /// Nobody was heard for too long.
    isolated: bool,
    errands: Errands,
    outbox: Vec<Datagram>,
    agreed: Agreed,
    /// Which others are on the wire with this node; `None`: nobody looks.
    on_wire: Option<Vec<u16>>,
    scheduling: scheduling::Scheduling,
    changed: bool,
    next_announce: Time,
    /// Announcements to every member that are still to be made.
    introductions: u8,
    /// Some member listens to this node, as far as SWIM knows.
    connected: bool,
    /// A later start of this node, of which another member knows, and when it said so.
    superseded: Option<(u64, Time)>,
    started: Time,
    left: bool,
    last_call: Time,
    stalls: u64,
}

impl Membership {
    /// A node that begins to ask for the others. `own` is what it says of itself, `peers`
    /// all members, itself included; the first one of `keys` signs, all are accepted.
    /// `seed` makes its random numbers.
    #[must_use]
    pub fn new(
        own: Record,
        peers: &[Peer],
        keys: Vec<LinkKey>,
        settings: Settings,
        seed: u64,
        now: Time,
    ) -> Self {
        let identity = Identity {
            incarnation: own.incarnation,
            ..Identity::unknown(own.node)
        };
        let config = swim::config(&settings);
        let swim = Foca::new(identity, config, SmallRng::seed_from_u64(seed), Codec);
        let mut peers = peers.to_vec();
        peers.sort_unstable_by_key(|p| p.node);
        let status = |p: &Peer| {
            let (liveness, identity) = if p.node == own.node {
                (Liveness::Alive, identity)
            } else {
                (Liveness::Unknown, Identity::unknown(p.node))
            };
            let status = Status {
                liveness,
                since: now,
                gone: false,
                identity,
            };
            (p.node, status)
        };
        let mut m = Self {
            own: own.node,
            incarnation: own.incarnation,
            settings,
            status: peers.iter().map(status).collect(),
            peers,
            keys,
            swim,
            timers: Vec::new(),
            guard: Guard::default(),
            counter: 0,
            held: BTreeMap::new(),
            turn: 0,
            last_heard: now,
            lost: Vec::new(),
            last_loss: now,
            isolated: false,
            errands: Errands::default(),
            outbox: Vec::new(),
            agreed: Agreed::default(),
            on_wire: None,
            scheduling: scheduling::Scheduling::default(),
            changed: true,
            next_announce: now,
            introductions: 0,
            connected: false,
            superseded: None,
            started: now,
            left: false,
            last_call: now,
            stalls: 0,
        };
        let tellings = 0;
        let held = Held {
            record: own,
            tellings,
        };
        m.held.insert(own.node, held);
        m.look(now);
        m
    }

    // --- what comes in ---

    /// Takes a message that came from `from`.
    ///
    /// # Errors
    /// See [`Refused`]; it has then no effect.
    pub fn hear(&mut self, bytes: &[u8], from: IpAddr, now: Time) -> Result<(), Refused> {
        self.catch_up(now);
        let (outside, body) = envelope::open(bytes, &self.keys)?;
        if outside.receiver != self.own {
            return Err(Refused::Misdirected);
        }
        let peer = self.peer(outside.sender).ok_or(Refused::Stranger)?;
        if outside.sender == self.own || peer.link != from {
            return Err(Refused::DuplicateId);
        }
        let body = Body::read(outside.kind, body).ok_or(Refused::Malformed)?;
        self.guard.accept(&outside)?;
        self.last_heard = now;
        for record in body.records {
            self.note(record, now);
        }
        if let Some(errand) = body.errand {
            self.heard_errand(errand, &outside, now);
        }
        if let Some(schedule) = body.schedule.filter(|_| !self.left) {
            self.hear_schedule(schedule, outside.sender, now);
        }
        let mut result = Ok(());
        if let Some(swim) = body.swim.filter(|_| !self.left) {
            let heard = self.with_swim(now, |foca, sink| foca.handle_data(swim, sink));
            self.tell_the_dead(outside.sender);
            if let Err(foca::Error::Decode(_) | foca::Error::MalformedPacket) = heard {
                result = Err(Refused::Malformed);
            }
        }
        self.look(now);
        result
    }

    /// Does what is due; to be called at [`Membership::next`], and after messages that
    /// were waiting then.
    pub fn tick(&mut self, now: Time) {
        self.catch_up(now);
        if self.left {
            return;
        }
        while let Some(i) = self.first_due(now) {
            let Due { timer, .. } = self.timers.swap_remove(i);
            // A probe that a stall has torn apart is begun anew by foca itself.
            let _ = self.with_swim(now, |foca, sink| foca.handle_timer(timer, sink));
            self.look(now);
        }
        if now >= self.next_announce {
            self.announce(now);
        }
        self.repeat_errands(now);
        self.look(now);
        self.tick_schedule(now);
    }

    /// When [`Membership::tick`] is to be called next.
    #[must_use]
    pub fn next(&self) -> Time {
        if self.left {
            return Time::MAX;
        }
        let gone = self.status.values().filter_map(|s| {
            let waits = s.liveness == Liveness::Dead && !s.gone;
            waits.then(|| s.since + self.settings.gone)
        });
        let times = self.timers.iter().map(|d| d.at);
        let minority = (!self.lost.is_empty()).then(|| self.last_loss + self.settings.minority);
        let silence = self.waits_for_others().then(|| self.silent_at());
        let superseded = self.superseded.map(|(_, at)| at + self.superseded_for());
        let all = times
            .chain(gone)
            .chain(self.errands.next())
            .chain(minority)
            .chain(silence)
            .chain(self.schedule_due())
            .chain(superseded);
        all.fold(self.next_announce, Time::min)
    }

    /// What there is to send.
    pub fn take_outbox(&mut self) -> Vec<Datagram> {
        std::mem::take(&mut self.outbox)
    }

    // --- what this node says ---

    /// Changes what this node says of itself. Identity, sequence and epoch are not the
    /// caller's to change. A change of more than its load is told to all members at once.
    pub fn set_own(&mut self, now: Time, change: impl FnOnce(&mut Record)) {
        let before = *self.own_record();
        let mut after = before;
        change(&mut after);
        after = Record {
            node: before.node,
            incarnation: before.incarnation,
            sequence: before.sequence,
            epoch: before.epoch,
            ..after
        };
        if after == before {
            return;
        }
        after.sequence += 1;
        self.put_own(after);
        let load = after.load;
        let quiet = Record {
            load,
            sequence: after.sequence,
            ..before
        };
        if after != quiet {
            self.look(now);
            self.push();
        }
    }

    /// Says which other members are heard on the wire and hear this node there; `None`:
    /// nobody looks, and all count as such. Each node sees that for itself, so that where
    /// the wire is broken each side answers the clients that it hears.
    pub fn set_on_wire(&mut self, members: Option<Vec<u16>>) {
        self.on_wire = members;
        self.agree();
    }

    /// What this node says of itself.
    #[must_use]
    pub fn own_record(&self) -> &Record {
        // It is put there by `new` and never taken out.
        &self.held[&self.own].record
    }

    /// Says goodbye. What is in the outbox then is all that this node will ever send.
    pub fn leave(&mut self, now: Time) {
        if self.left {
            return;
        }
        self.set_own(now, |r| r.state = State::Left);
        for _ in 1..GOODBYES {
            self.push();
        }
        // SWIM is told nothing: news of a death without the goodbye would overtake it.
        self.left = true;
        self.timers.clear();
        self.look(now);
    }

    // --- what is seen ---

    /// Every member, this node included, by id.
    #[must_use]
    pub fn members(&self) -> Vec<Seen> {
        let seen = |peer: &Peer| {
            let s = self.status[&peer.node];
            Seen {
                peer: *peer,
                liveness: s.liveness,
                since: s.since,
                gone: s.gone,
                generation: s.identity.generation,
                record: self.held.get(&peer.node).map(|h| h.record),
            }
        };
        self.peers.iter().map(seen).collect()
    }

    /// Who is there, and what follows.
    #[must_use]
    pub fn agreed(&self) -> &Agreed {
        &self.agreed
    }

    /// Whether the others have had the time to answer: before, this node may be one of
    /// many and not know it.
    #[must_use]
    pub fn has_joined(&self, now: Time) -> bool {
        let known = |s: &Status| s.liveness != Liveness::Unknown;
        let patience = self.settings.announce + self.settings.probe;
        self.status.values().all(known) || now >= self.started + patience
    }

    /// The incarnation of a later start of this node, of which other members know: its clock
    /// was set back before this start. They refuse what it says, so it owns nothing and has
    /// nobody to hand anything to.
    #[must_use]
    pub fn superseded(&self) -> Option<u64> {
        self.superseded.map(|(incarnation, _)| incarnation)
    }

    /// Whether anything of [`Membership::members`] or [`Membership::agreed`] has changed
    /// since the last call; a record's load, sequence and epoch do not count.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Times that this node was kept from running for longer than it waits for answers.
    #[must_use]
    pub fn stalls(&self) -> u64 {
        self.stalls
    }

    // --- inside ---

    fn peer(&self, node: u16) -> Option<&Peer> {
        self.peers.iter().find(|p| p.node == node)
    }

    /// A node that did not run does not blame others for what it has not heard meanwhile:
    /// its timers stand still, and go on after one more wait for answers.
    fn catch_up(&mut self, now: Time) {
        let expected = self.next().max(self.last_call);
        self.last_call = now;
        let grace = self.settings.answer;
        let Some(lost) = now.checked_sub(expected).filter(|l| *l > grace) else {
            return;
        };
        self.stalls += 1;
        for due in &mut self.timers {
            due.at += lost + grace;
        }
        self.last_heard += lost + grace;
    }

    /// How long word of a later start of this node holds: whoever knows of one says so with
    /// every announcement.
    fn superseded_for(&self) -> Duration {
        self.settings.announce * 5
    }

    /// Whether a silence would have to be noticed: two others at least should be heard.
    fn waits_for_others(&self) -> bool {
        !self.isolated && self.agreed.parts.len() > 2
    }

    /// When this node counts as cut off, if it hears nobody. In a large cluster it would
    /// take long to miss each member by itself.
    fn silent_at(&self) -> Time {
        let s = &self.settings;
        self.last_heard + s.probe * 2 + s.answer + s.suspect
    }

    /// The timer that is due first; among equals foca's own order.
    fn first_due(&self, now: Time) -> Option<usize> {
        let due = self.timers.iter().enumerate().filter(|(_, d)| d.at <= now);
        let first = due.min_by(|(_, a), (_, b)| a.at.cmp(&b.at).then(a.timer.cmp(&b.timer)));
        first.map(|(i, _)| i)
    }

    fn with_swim(
        &mut self,
        now: Time,
        act: impl FnOnce(&mut Swim, &mut Sink<'_>) -> Result<(), foca::Error>,
    ) -> Result<(), foca::Error> {
        let mut sink = Sink {
            now,
            sends: Vec::new(),
            timers: &mut self.timers,
            news: false,
            rejoined: false,
            connected: &mut self.connected,
        };
        let result = act(&mut self.swim, &mut sink);
        // News goes on at once, not with the next probe.
        if sink.news {
            let _ = self.swim.gossip(&mut sink);
        }
        if sink.rejoined {
            self.introductions = INTRODUCTIONS;
            self.next_announce = now;
        }
        for (to, swim) in sink.sends {
            self.send_swim(to, &swim);
        }
        result
    }

    /// Tells a member that is taken for dead of it, so that it can rejoin. foca could do so
    /// itself, and tells those too who have just spoken up against a suspicion.
    fn tell_the_dead(&mut self, node: u16) {
        let dead = self
            .swim
            .iter_membership_state()
            .filter(|m| m.state() == foca::State::Down)
            .map(|m| *m.id())
            .find(|id| id.node == node);
        let Some(dst) = dead else {
            return;
        };
        let header = foca::Header {
            src: *self.swim.identity(),
            // The lowest: it says nothing against a suspicion of this node.
            src_incarnation: 0,
            dst,
            message: foca::Message::TurnUndead,
        };
        let mut bytes = Vec::new();
        if foca::Codec::encode_header(&mut Codec, &header, &mut bytes).is_ok() {
            self.send_swim(node, &bytes);
        }
    }

    fn send_swim(&mut self, to: u16, swim: &[u8]) {
        let Ok(len) = u16::try_from(swim.len()) else {
            return;
        };
        let mut body = Vec::with_capacity(envelope::LEN_MAX);
        body.extend_from_slice(&len.to_be_bytes());
        body.extend_from_slice(swim);
        self.add_records(&mut body, to);
        self.send(to, Kind::Swim, &body);
    }

    fn send(&mut self, to: u16, kind: Kind, body: &[u8]) {
        let link = self.peer(to).map(|p| p.link);
        let (Some(link), Some(key)) = (link, self.keys.first()) else {
            return;
        };
        self.counter += 1;
        let outside = Outside {
            kind,
            sender: self.own,
            receiver: to,
            incarnation: self.incarnation,
            counter: self.counter,
        };
        let bytes = envelope::seal(&outside, body, key);
        self.outbox.push(Datagram { to: link, bytes });
    }

    /// This node's own record, those that are news, and some of the others in turn.
    fn add_records(&mut self, body: &mut Vec<u8>, to: u16) {
        let room = envelope::LEN_MAX - envelope::OVERHEAD;
        let add = |body: &mut Vec<u8>, r: &Record| {
            let fits = body.len() + Record::LEN <= room;
            if fits {
                r.encode(body);
            }
            fits
        };
        add(body, &self.held[&self.own].record);
        let own = self.own;
        // Whoever is asked to join must know if its clock is behind its last start.
        let is_there = |s: &Status| s.liveness.is_there();
        if let Some(held) = self.held.get(&to)
            && !self.status.get(&to).is_some_and(is_there)
        {
            add(body, &held.record);
        }
        let others = |node: &u16| *node != own && *node != to;
        for (node, held) in &mut self.held {
            if others(node) && held.tellings > 0 && add(body, &held.record) {
                held.tellings -= 1;
            }
        }
        let turn = self.turn;
        let after = self.held.range(turn..).chain(self.held.range(..turn));
        let told: Vec<u16> = after
            .filter(|(node, h)| others(node) && h.tellings == 0)
            .take(USUAL_RECORDS)
            .take_while(|(_, h)| add(body, &h.record))
            .map(|(node, _)| *node)
            .collect();
        if let Some(last) = told.last() {
            self.turn = last.wrapping_add(1);
        }
    }

    /// Tells every member that is there of this node's own record.
    fn push(&mut self) {
        let mut body = Vec::with_capacity(Record::LEN);
        self.own_record().encode(&mut body);
        let there = |s: &Status| s.liveness.is_there();
        let there: Vec<u16> = self
            .status
            .iter()
            .filter(|(node, s)| **node != self.own && there(s))
            .map(|(node, _)| *node)
            .collect();
        for node in there {
            self.send(node, Kind::Records, &body);
        }
    }

    fn put_own(&mut self, record: Record) {
        if let Some(held) = self.held.get_mut(&self.own) {
            held.record = record;
        }
    }

    /// Takes a record if it is newer than what is known; nobody else speaks for this node.
    fn note(&mut self, record: Record, now: Time) {
        if record.node == self.own && record.incarnation > self.incarnation {
            self.superseded = Some((record.incarnation, now));
        }
        if record.node == self.own || self.peer(record.node).is_none() {
            return;
        }
        let known = self.held.get(&record.node).map(|h| h.record);
        if known.is_some_and(|k| k.age() >= record.age()) {
            return;
        }
        let held = Held {
            record,
            tellings: RECORD_TELLINGS,
        };
        self.held.insert(record.node, held);
        let same = |k: Record| {
            Record {
                load: record.load,
                sequence: record.sequence,
                epoch: record.epoch,
                ..k
            } == record
        };
        self.changed |= !known.is_some_and(same);
    }

    /// Asks those who are not there to join; all, as long as nobody listens to this node.
    fn announce(&mut self, now: Time) {
        let all = self.introductions > 0 || !self.connected;
        self.introductions = self.introductions.saturating_sub(1);
        let again = if all {
            self.settings.probe
        } else {
            self.settings.announce
        };
        self.next_announce = now + again;
        let asked: Vec<u16> = self
            .status
            .iter()
            .filter(|(node, s)| **node != self.own && (all || !s.liveness.is_there()))
            .map(|(node, _)| *node)
            .collect();
        for node in asked {
            let _ = self.with_swim(now, |foca, sink| {
                foca.announce(Identity::unknown(node), sink)
            });
        }
    }

    /// Brings everything that follows from SWIM's state and the records up to date.
    fn look(&mut self, now: Time) {
        let mut found: BTreeMap<u16, (Liveness, Identity)> = BTreeMap::new();
        for m in self.swim.iter_membership_state() {
            let liveness = match m.state() {
                foca::State::Alive => Liveness::Alive,
                foca::State::Suspect => Liveness::Suspect,
                foca::State::Down => Liveness::Dead,
            };
            found.insert(m.id().node, (liveness, *m.id()));
        }
        let mut suspicion = false;
        let mut dead = Vec::new();
        for (node, status) in &mut self.status {
            let record = self.held.get(node).map(|h| h.record);
            let (mut liveness, identity) = match found.get(node) {
                _ if *node == self.own => (Liveness::Alive, *self.swim.identity()),
                Some((l, id)) => (*l, *id),
                None => (status.liveness, status.identity),
            };
            let of_this_start = |r: &Record| r.incarnation >= identity.incarnation;
            if record.is_some_and(|r| r.state == State::Left && of_this_start(&r)) {
                liveness = Liveness::Left;
            }
            status.identity = identity;
            if liveness != status.liveness {
                let lost = status.liveness.is_there() && liveness == Liveness::Dead;
                self.lost.retain(|l| l != node);
                if lost {
                    self.lost.push(*node);
                    self.last_loss = now;
                }
                suspicion |= liveness == Liveness::Suspect;
                if liveness == Liveness::Dead {
                    dead.push(*node);
                }
                (status.liveness, status.since, status.gone) = (liveness, now, false);
                self.changed = true;
            }
            let dead = liveness == Liveness::Dead && now >= status.since + self.settings.gone;
            let gone = dead || liveness == Liveness::Left;
            self.changed |= gone != status.gone;
            status.gone = gone;
        }
        if now >= self.last_loss + self.settings.minority {
            self.lost.clear();
        }
        if suspicion && !self.left {
            // The suspect must hear of it soon to be able to speak up.
            let _ = self.with_swim(now, |foca, sink| foca.gossip(sink));
        }
        for node in dead {
            self.tell_the_dead(node);
        }
        self.isolated = now >= self.silent_at();
        let patience = self.superseded_for();
        self.superseded.take_if(|(_, at)| now >= *at + patience);
        self.agree();
        self.appoint(now);
    }

    fn agree(&mut self) {
        let superseded = self.superseded.is_some();
        let part = |(node, status): (&u16, &Status)| {
            let r = &self.held.get(node)?.record;
            // Nobody listens to a start that is not the last one.
            if superseded && *node != self.own {
                return None;
            }
            // Of a start that is only known by name nothing is known yet.
            let is_there =
                status.liveness.is_there() && r.incarnation >= status.identity.incarnation;
            if !is_there {
                return None;
            }
            Some(Part {
                node: *node,
                incarnation: r.incarnation,
                state: r.state,
                weight: r.weight,
                health: r.health,
                on_wire: *node == self.own
                    || (self.on_wire.as_ref()).is_none_or(|on| on.contains(node)),
            })
        };
        let parts: Vec<Part> = self.status.iter().filter_map(part).collect();
        let isolated = self.isolated && parts.len() > 2;
        let is_there = |node| parts.iter().any(|p| p.node == node);
        let factors = self.scheduling.schedule.factors();
        let agreed = Agreed {
            minority: superseded || isolated || parts.len() < self.lost.len(),
            factors: factors.filter(|(node, _)| is_there(*node)).collect(),
            parts,
        };
        if agreed != self.agreed {
            self.agreed = agreed;
            self.changed = true;
        }
        let own = *self.own_record();
        let epoch = self.agreed.epoch(own.config);
        if epoch != own.epoch {
            let sequence = own.sequence + 1;
            self.put_own(Record {
                epoch,
                sequence,
                ..own
            });
        }
    }
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
