//! The membership core of each node, on the simulated link and clock, and the views that
//! follow from it: what `control/dtsd/src/members.rs` and `publish.rs` do with threads.
//!
//! [`Watch`] holds what all nodes together make of it against the rules.

use crate::node::{self, link_addr, link_mac};
use crate::plan::{MS, Plan, SEC, US};
use crate::rng::Rng;
use crate::world::{Ev, World};
use dts_config::Policy;
use dts_core::mutation::{Mutation, broken};
use dts_membership::{Membership, Peer, Record, Settings, State, TcpCaps, Time, Version, Wish};
use dts_owners::Follower;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// A bucket has an owner again after this long at most: the defaults of a daemon, and what
/// losses of probes add to them.
const UNOWNED_MOST: u64 = 600 * MS;
/// Between two looks at who owns what.
const LOOK: u64 = 5 * MS;
/// A node that stands still for longer is taken for dead, and its flows with it.
pub const FREEZE_SHORT: u64 = 120 * MS;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// The times of a daemon's configuration.
fn settings() -> Settings {
    Settings {
        probe: ms(50),
        answer: ms(20),
        suspect: ms(120),
        gone: ms(3_000),
        announce: if broken(Mutation::NeverAnnounced) {
            ms(3_600_000)
        } else {
            ms(200)
        },
        minority: ms(30_000),
        schedule: Duration::ZERO,
    }
}

/// The bucket tables of all nodes: as [`node::Node`] begins with.
pub(crate) fn owners(buckets: usize, key: [u8; 16]) -> dts_owners::Plan {
    dts_owners::Plan {
        buckets,
        key,
        general: (Policy::FlowHash, None),
        services: vec![(Policy::FlowHash, None); 2],
    }
}

/// One node's part in the membership.
pub(crate) struct Speaker {
    core: Membership,
    follower: Follower,
    joined: bool,
    wake: u64,
}

fn link(node: u16) -> IpAddr {
    Ipv4Addr::from(link_addr(node)).into()
}

fn time(now: u64) -> Time {
    Duration::from_nanos(now)
}

impl Speaker {
    fn new(plan: &Plan, id: u16, boot: u32, now: u64) -> Self {
        let own = Record {
            node: id,
            incarnation: node::incarnation(id, boot),
            sequence: 0,
            state: State::Active,
            drained: false,
            weight: 100,
            link: link(id),
            link_mac: link_mac(id),
            tcp: TcpCaps::default(),
            health: u64::MAX,
            load: 0,
            version: Version([0, 1, 0]),
            config: 1,
            epoch: 0,
        };
        let peer = |node| Peer {
            node,
            link: link(node),
        };
        let peers: Vec<Peer> = (1..=plan.nodes).map(peer).collect();
        let seed = Rng::new(plan.seed, 300 + u64::from(id) * 8 + u64::from(boot)).next();
        let keys = node::keys(plan, id);
        Self {
            core: Membership::new(own, &peers, keys, settings(), seed, time(now)),
            follower: Follower::new(owners(node::BUCKETS, node::BUCKET_KEY)),
            joined: false,
            wake: u64::MAX,
        }
    }
}

/// What is known of all nodes and clients together, and by no node.
#[derive(Default)]
pub(crate) struct Watch {
    /// By node: its part, while it runs.
    speakers: BTreeMap<u16, Speaker>,
    /// Until when a node stands still.
    frozen: BTreeMap<u16, u64>,
    /// Nodes that the wire does not reach.
    pub(crate) deaf: BTreeSet<u16>,
    /// Nodes that take on nothing new, because they were asked to.
    draining: BTreeSet<u16>,
    /// By client: the starts of nodes that had a part in its connection.
    touched: BTreeMap<SocketAddr, BTreeSet<(u16, u32)>>,
    /// Starts of nodes that stood still too long.
    late: BTreeSet<(u16, u32)>,
    /// Clients of handovers whose outcome nobody knew, because of a cut.
    unknown: BTreeSet<SocketAddr>,
    /// By table and bucket: since when it has no owner.
    unowned: BTreeMap<(usize, usize), u64>,
    /// Looks and checks that are still to come.
    pub(crate) checks: usize,
    /// Until then something that nobody planned may have left buckets without an owner.
    calm_from: u64,
    /// When the link was whole again.
    pub(crate) healed: u64,
    /// The run lasts at least until then.
    pub(crate) quiet: u64,
    rng: Option<Rng>,
}

impl World {
    /// Lets all nodes speak, where the plan has them do so.
    pub(crate) fn members_begin(&mut self) {
        if !self.plan.members {
            return;
        }
        self.watch.rng = Some(Rng::new(self.plan.seed, 8));
        for id in 1..=self.plan.nodes {
            self.member_boots(id);
        }
        self.push(LOOK, Ev::Look);
    }

    fn member_rng(&mut self) -> &mut Rng {
        let seed = self.plan.seed;
        self.watch.rng.get_or_insert_with(|| Rng::new(seed, 8))
    }

    /// A node starts.
    pub(crate) fn member_boots(&mut self, id: u16) {
        self.disturb(self.now);
        let boot = self.node(id).boot;
        let late = self.member_rng().below(20 * MS);
        let speaker = Speaker::new(&self.plan, id, boot, self.now);
        self.watch.speakers.insert(id, speaker);
        self.watch.draining.remove(&id);
        self.wake_member(id, self.now + late);
    }

    /// Something happens that no node could prepare for, or it is over.
    pub(crate) fn disturb(&mut self, until: u64) {
        self.watch.calm_from = self.watch.calm_from.max(until + SEC);
    }

    /// A node is no more.
    pub(crate) fn member_dies(&mut self, id: u16) {
        self.disturb(self.now);
        self.watch.speakers.remove(&id);
        self.watch.frozen.remove(&id);
    }

    /// A node stands still for so long; what comes for it waits.
    pub(crate) fn freeze(&mut self, id: u16, span: u64) {
        self.watch.frozen.insert(id, self.now + span);
        self.disturb(self.now + span);
        if span > FREEZE_SHORT {
            let boot = self.node(id).boot;
            self.watch.late.insert((id, boot));
        }
    }

    /// When an event that a node stands still for is to happen.
    pub(crate) fn waits_for(&self, e: &Ev) -> Option<u64> {
        let (id, last) = match e {
            Ev::ToNode(id, ..) | Ev::FromHost(id, ..) | Ev::Tick(id, _) => (id, 0),
            Ev::Daemon(id, ..) | Ev::Hear(id, ..) => (id, 0),
            // The clock is looked at when all messages that waited are read.
            Ev::Member(id, _) => (id, 1),
            _ => return None,
        };
        let until = *self.watch.frozen.get(id)?;
        (self.now < until).then_some(until + last)
    }

    /// Asks a node to take on nothing new, or to do so again.
    pub(crate) fn drain(&mut self, id: u16, drains: bool) {
        let now = time(self.now);
        let Some(s) = self.watch.speakers.get_mut(&id) else {
            return;
        };
        let wish = if drains { Wish::Drain } else { Wish::Activate };
        s.core.wish(0, id, wish, ms(1), now);
        if drains {
            self.watch.draining.insert(id);
        } else {
            self.watch.draining.remove(&id);
        }
        self.member_acts(id);
    }

    pub(crate) fn member_hears(&mut self, id: u16, from: u16, bytes: &[u8]) {
        let now = time(self.now);
        let Some(s) = self.watch.speakers.get_mut(&id) else {
            return;
        };
        // What is refused has no effect: messages of earlier starts, and those that came twice.
        let _ = s.core.hear(bytes, link(from), now);
        self.trace(10, id, bytes);
        self.member_acts(id);
    }

    pub(crate) fn member_runs(&mut self, id: u16) {
        let now = self.now;
        let Some(s) = self.watch.speakers.get_mut(&id).filter(|s| s.wake <= now) else {
            return;
        };
        s.wake = u64::MAX;
        if time(now) >= s.core.next() {
            s.core.tick(time(now));
        }
        if let Some(view) = s
            .follower
            .let_go(&self.nodes[usize::from(id) - 1].view, time(now))
        {
            self.node(id).view = view;
            self.look_at_owners();
        }
        self.member_acts(id);
    }

    fn wake_member(&mut self, id: u16, at: u64) {
        let at = at.max(self.now + 1);
        let Some(s) = self.watch.speakers.get_mut(&id) else {
            return;
        };
        if at < s.wake {
            s.wake = at;
            let boot = self.node(id).boot;
            self.push(at, Ev::Member(id, boot));
        }
    }

    /// What a core left to be done.
    fn member_acts(&mut self, id: u16) {
        let now = time(self.now);
        let Some(s) = self.watch.speakers.get_mut(&id) else {
            return;
        };
        let mut changed = false;
        let outbox = s.core.take_outbox();
        let joins = !s.joined && s.core.has_joined(now);
        s.joined |= joins;
        if s.core.take_changed() || joins {
            let (members, agreed) = (s.core.members(), s.core.agreed().clone());
            let node = &mut self.nodes[usize::from(id) - 1];
            node.view = (s.follower).follow(&node.view, &members, &agreed, s.joined, now);
            changed = true;
        }
        let mut next = s.core.next();
        next = s.follower.due().map_or(next, |t| next.min(t));
        if !s.joined {
            next = next.min(now + ms(20));
        }
        for d in outbox {
            let IpAddr::V4(to) = d.to else { continue };
            self.member_says(id, u16::from(to.octets()[3]), d.bytes);
        }
        if changed {
            self.look_at_owners();
        }
        let next = u64::try_from(next.as_nanos()).unwrap_or(u64::MAX);
        if next < u64::MAX {
            self.wake_member(id, next);
        }
    }

    fn member_says(&mut self, id: u16, to: u16, bytes: Vec<u8>) {
        if self.is_cut(id, to) {
            return;
        }
        let (link, delay) = (self.plan.link, self.plan.link_delay);
        let r = self.member_rng();
        let copies = 1 + usize::from(r.permille(link.dup));
        let mut way = |_| {
            (
                delay + r.below(link.jitter + 200 * US),
                r.permille(link.loss),
            )
        };
        let ways: Vec<(u64, bool)> = (0..copies).map(&mut way).collect();
        for (way, _) in ways.into_iter().filter(|w| !w.1) {
            self.push(self.now + way, Ev::Hear(to, id, bytes.clone()));
        }
    }

    // --- what is checked ---

    /// A start of a node has a part in a client's connection.
    pub(crate) fn touches(&mut self, client: SocketAddr, id: u16) {
        if self.plan.members {
            let boot = self.node(id).boot;
            self.watch
                .touched
                .entry(client)
                .or_default()
                .insert((id, boot));
        }
    }

    /// Nobody can know what became of a client's request.
    pub(crate) fn unknown_to_all(&mut self, client: SocketAddr) {
        let deadline = self.nodes[0].view.params.deadline.0;
        if !self.cuts.is_empty() || self.now < self.watch.healed + deadline {
            self.watch.unknown.insert(client);
        }
    }

    /// A node that had a part in the client's connection is dead or was taken for it, or its
    /// handover was cut in two: nobody owes it an answer.
    pub(crate) fn is_excused(&self, client: SocketAddr) -> bool {
        let lives = |(id, boot): &(u16, u32)| {
            let n = &self.nodes[usize::from(*id) - 1];
            n.up && n.boot == *boot && !self.watch.late.contains(&(*id, *boot))
        };
        let touched = self.watch.touched.get(&client);
        self.watch.unknown.contains(&client) || touched.is_some_and(|t| !t.iter().all(lives))
    }

    fn runs(&self, id: u16) -> bool {
        let frozen = self.watch.frozen.get(&id).is_some_and(|&t| self.now < t);
        self.nodes[usize::from(id) - 1].up && !frozen
    }

    fn live(&self) -> Vec<u16> {
        (1..=self.plan.nodes).filter(|&id| self.runs(id)).collect()
    }

    /// Every bucket has an owner that lives; where a node died or stood still, it had one a
    /// moment ago.
    fn look_at_owners(&mut self) {
        let now = self.now;
        let mut worst = None;
        for table in 0..2 {
            for bucket in 0..node::BUCKETS {
                let owns = |id: &u16| self.owners_at(*id, table)[bucket] == *id;
                if self.live().iter().any(owns) {
                    self.watch.unowned.remove(&(table, bucket));
                    continue;
                }
                let since = *self.watch.unowned.entry((table, bucket)).or_insert(now);
                let calm = self.cuts.is_empty() && now >= self.watch.calm_from;
                if calm || now - since > UNOWNED_MOST {
                    worst = Some(format!("bucket {bucket}, {} ms", (now - since) / MS));
                }
            }
        }
        if let Some(what) = worst {
            self.check.fail(now, "no bucket is without an owner", what);
        }
    }

    /// A look, and the next one.
    pub(crate) fn looks(&mut self) {
        self.look_at_owners();
        if self.watch.checks > 0 {
            self.push(self.now + LOOK, Ev::Look);
        }
    }

    fn owners_at(&self, id: u16, table: usize) -> &[u16] {
        let v = &self.nodes[usize::from(id) - 1].view;
        match table {
            0 => v.general.owners(),
            n => v.services[n - 1].buckets.owners(),
        }
    }

    /// All nodes that live see each other and nobody else, and have the same owners.
    pub(crate) fn all_agree(&mut self) {
        self.watch.checks -= 1;
        let live = self.live();
        self.sees_itself(&live, &live, false);
    }

    /// The link is in two halves, and both have come to terms with it: the smaller one owns
    /// nothing, the larger one or both of equal size own everything.
    pub(crate) fn halves_agree(&mut self) {
        self.watch.checks -= 1;
        let live = self.live();
        let Some(&first) = live.first() else { return };
        let (a, b): (Vec<u16>, Vec<u16>) = live
            .iter()
            .partition(|&&id| id == first || !self.is_cut(first, id));
        let (smaller_a, smaller_b) = (a.len() < b.len(), b.len() < a.len());
        self.sees_itself(&a, &a, smaller_a);
        self.sees_itself(&b, &b, smaller_b);
    }

    fn sees_itself(&mut self, side: &[u16], seen: &[u16], minority: bool) {
        let mut wrong = Vec::new();
        let active: BTreeSet<u16> = (seen.iter().copied())
            .filter(|id| !self.watch.draining.contains(id))
            .collect();
        let mut epochs = BTreeSet::new();
        for &id in side {
            let Some(s) = self.watch.speakers.get(&id) else {
                continue;
            };
            let parts: Vec<u16> = s.core.agreed().parts.iter().map(|p| p.node).collect();
            if parts != seen {
                wrong.push(format!("node {id} sees {parts:?}, there are {seen:?}"));
            }
            epochs.insert(s.core.own_record().epoch);
            for table in 0..2 {
                let owners = self.owners_at(id, table);
                if owners != self.owners_at(side[0], table) {
                    wrong.push(format!("node {id} has other owners than {}", side[0]));
                }
                let all: BTreeSet<u16> = owners.iter().copied().collect();
                let right = match minority {
                    true => all == BTreeSet::from([dts_core::ownership::NOBODY]),
                    false => all == active,
                };
                if !right {
                    wrong.push(format!("node {id} knows owners {all:?} of {active:?}"));
                }
            }
        }
        if epochs.len() > 1 {
            wrong.push(format!("{} epochs", epochs.len()));
        }
        if !wrong.is_empty() {
            let at = self.now;
            self.check
                .fail(at, "nodes that hear each other agree", wrong.join("; "));
        }
    }
}
