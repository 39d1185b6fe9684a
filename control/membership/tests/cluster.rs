//! A cluster of membership cores in one thread and in no time: lost, late and repeated
//! messages, cuts, crashes, stalls. One seed is one run.

use dts_membership::{
    Datagram, Liveness, Membership, Outcome, Peer, Record, Settings, State, TcpCaps, Time, Version,
    Wish,
};
use dts_proto::block::LinkKey;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::time::Duration;

#[path = "cluster/scheduling.rs"]
mod scheduling;

const KEY: &[u8] = b"0123456789abcdef";
const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
/// The defaults of the daemon.
const SETTINGS: Settings = Settings {
    probe: ms(50),
    answer: ms(20),
    suspect: ms(120),
    gone: ms(3000),
    announce: ms(200),
    minority: ms(30_000),
    schedule: Duration::ZERO,
};

fn link(node: u16) -> IpAddr {
    let [high, low] = node.to_be_bytes();
    [10, 77, high, low].into()
}

fn record(node: u16, incarnation: u64) -> Record {
    Record {
        node,
        incarnation,
        sequence: 0,
        state: State::Active,
        drained: false,
        weight: 100,
        link: link(node),
        link_mac: [2, 0, 0, 0, 0, node as u8],
        tcp: TcpCaps::default(),
        health: u64::MAX,
        load: 0,
        version: Version([0, 1, 0]),
        config: 1,
        epoch: 0,
    }
}

/// What the network does to a message.
#[derive(Clone, Copy)]
struct Net {
    /// Of 1000.
    lost: u32,
    /// Of 1000.
    twice: u32,
    /// Each way, from this ...
    least: Duration,
    /// ... to this.
    most: Duration,
}

const CLEAN: Net = Net {
    lost: 0,
    twice: 0,
    least: Duration::from_micros(50),
    most: Duration::from_micros(300),
};

enum Event {
    Message(u16, IpAddr, Vec<u8>),
    Wake(u16),
}

struct Node {
    core: Option<Membership>,
    boot: u64,
    /// It does not run before this; messages wait.
    frozen_until: Time,
    waiting: Vec<(IpAddr, Vec<u8>)>,
    /// When it is to run next.
    wake: Time,
}

struct World {
    now: Time,
    rng: SmallRng,
    net: Net,
    nodes: Vec<Node>,
    events: BinaryHeap<Reverse<(Time, u64, usize)>>,
    bodies: Vec<Option<Event>>,
    order: u64,
    /// The side of each node; messages between sides are lost.
    sides: Vec<u8>,
    refused: Vec<&'static str>,
    outcomes: Vec<(Time, Outcome)>,
    /// Who was taken for dead by whom, when.
    deaths: Vec<(Time, u16, u16)>,
    settings: Settings,
}

impl World {
    fn new(seed: u64, nodes: u16, net: Net) -> Self {
        let mut w = Self {
            now: ms(1000),
            rng: SmallRng::seed_from_u64(seed),
            net,
            nodes: Vec::new(),
            events: BinaryHeap::new(),
            bodies: Vec::new(),
            order: 0,
            sides: vec![0; usize::from(nodes) + 1],
            refused: Vec::new(),
            outcomes: Vec::new(),
            deaths: Vec::new(),
            settings: SETTINGS,
        };
        let dead = |_| Node {
            core: None,
            boot: 0,
            frozen_until: Time::ZERO,
            waiting: Vec::new(),
            wake: Time::MAX,
        };
        w.nodes = (0..=nodes).map(dead).collect();
        for id in 1..=nodes {
            w.boot(id);
        }
        w
    }

    fn ids(&self) -> impl Iterator<Item = u16> + use<> {
        1..self.nodes.len() as u16
    }

    fn boot(&mut self, id: u16) {
        let peers: Vec<Peer> = self
            .ids()
            .map(|node| Peer {
                node,
                link: link(node),
            })
            .collect();
        let seed = self.rng.random();
        let node = &mut self.nodes[usize::from(id)];
        node.boot += 1;
        let own = record(id, node.boot * 1_000_000);
        let keys = vec![LinkKey::of(KEY)];
        node.core = Some(Membership::new(
            own,
            &peers,
            keys,
            self.settings,
            seed,
            self.now,
        ));
        let late = Duration::from_micros(self.rng.random_range(0..20_000));
        self.wake(id, self.now + late);
    }

    fn crash(&mut self, id: u16) {
        let node = &mut self.nodes[usize::from(id)];
        node.core = None;
        node.waiting.clear();
    }

    fn core(&self, id: u16) -> &Membership {
        self.nodes[usize::from(id)].core.as_ref().expect("it runs")
    }

    /// Lets node `id` do something of its own.
    fn act(&mut self, id: u16, what: impl FnOnce(&mut Membership, Time)) {
        let now = self.now;
        let core = self.nodes[usize::from(id)].core.as_mut();
        what(core.expect("it runs"), now);
        self.after(id);
    }

    /// Lets a node have so many connections.
    fn load(&mut self, id: u16, connections: u32) {
        self.act(id, |m, now| m.set_own(now, |r| r.load = connections));
    }

    /// How much of its weight `of` gets, as node `id` knows.
    fn factor(&self, id: u16, of: u16) -> u16 {
        self.core(id).schedule().factor(of)
    }

    fn push(&mut self, at: Time, event: Event) {
        let slot = self.bodies.len();
        self.bodies.push(Some(event));
        self.order += 1;
        self.events.push(Reverse((at, self.order, slot)));
    }

    fn wake(&mut self, id: u16, at: Time) {
        self.nodes[usize::from(id)].wake = at;
        self.push(at, Event::Wake(id));
    }

    fn send(&mut self, from: u16, d: Datagram) {
        let to = self.ids().find(|id| link(*id) == d.to).expect("a member");
        let cut = self.sides[usize::from(from)] != self.sides[usize::from(to)];
        let copies = 1 + u32::from(self.rng.random_range(0..1000) < self.net.twice);
        for _ in 0..copies {
            if cut || self.rng.random_range(0..1000) < self.net.lost {
                continue;
            }
            let way = self.rng.random_range(self.net.least..=self.net.most);
            let event = Event::Message(to, link(from), d.bytes.clone());
            self.push(self.now + way, event);
        }
    }

    /// What a core left to be done.
    fn after(&mut self, id: u16) {
        let now = self.now;
        let node = &mut self.nodes[usize::from(id)];
        let core = node.core.as_mut().expect("it runs");
        let out = core.take_outbox();
        let next = core.next();
        let outcomes = core.take_outcomes();
        if core.take_changed() {
            for m in core.members() {
                let new = m.liveness == Liveness::Dead && m.since == now;
                if new && !self.deaths.contains(&(now, id, m.peer.node)) {
                    self.deaths.push((now, id, m.peer.node));
                }
            }
        }
        self.outcomes.extend(outcomes.into_iter().map(|o| (now, o)));
        for d in out {
            self.send(id, d);
        }
        if next != self.nodes[usize::from(id)].wake && next != Time::MAX {
            self.wake(id, next);
        }
    }

    fn run_node(&mut self, id: u16, wakes: bool) {
        let now = self.now;
        let node = &mut self.nodes[usize::from(id)];
        let Some(core) = &mut node.core else { return };
        if now < node.frozen_until {
            if wakes {
                let at = node.frozen_until;
                self.wake(id, at);
            }
            return;
        }
        let waiting = std::mem::take(&mut node.waiting);
        for (from, bytes) in waiting {
            if let Err(why) = core.hear(&bytes, from, now) {
                self.refused.push(why.name());
            }
        }
        if now >= core.next() {
            core.tick(now);
        }
        self.after(id);
    }

    fn run(&mut self, until: Time) {
        while let Some(Reverse((at, _, slot))) = self.events.peek().copied() {
            if at > until {
                break;
            }
            self.events.pop();
            self.now = self.now.max(at);
            match self.bodies[slot].take() {
                Some(Event::Message(to, from, bytes)) => {
                    let node = &mut self.nodes[usize::from(to)];
                    if node.core.is_some() {
                        node.waiting.push((from, bytes));
                    }
                    self.run_node(to, false);
                }
                Some(Event::Wake(id)) if self.nodes[usize::from(id)].wake == at => {
                    self.run_node(id, true);
                }
                Some(Event::Wake(_)) | None => {}
            }
        }
        self.now = until;
    }

    fn run_for(&mut self, span: Duration) {
        self.run(self.now + span);
    }

    /// Runs until `done`, at most for `limit`: how long it took.
    fn until(&mut self, limit: Duration, what: &str, done: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        while !done(self) {
            assert!(
                self.now < start + limit,
                "{what}: not after {limit:?}\n{}",
                self.tell()
            );
            self.run_for(ms(5));
        }
        self.now - start
    }

    fn alive_at(&self, id: u16) -> Vec<u16> {
        self.core(id)
            .agreed()
            .parts
            .iter()
            .map(|p| p.node)
            .collect()
    }

    /// Every node of `nodes` sees exactly these, and has the same epoch.
    fn agree(&self, nodes: &[u16]) -> bool {
        let epoch = |id: &u16| self.core(*id).own_record().epoch;
        nodes
            .iter()
            .all(|id| self.alive_at(*id) == nodes && epoch(id) == epoch(&nodes[0]))
    }

    fn all(&self) -> Vec<u16> {
        self.ids().collect()
    }

    fn joined(seed: u64, nodes: u16, net: Net) -> Self {
        let mut w = Self::new(seed, nodes, net);
        let all = w.all();
        w.until(ms(2000), "join", |w| w.agree(&all));
        w
    }

    fn tell(&self) -> String {
        let of = |id: u16| match &self.nodes[usize::from(id)].core {
            Some(_) => format!("{id} sees {:?}", self.alive_at(id)),
            None => format!("{id} is down"),
        };
        self.ids().take(8).map(of).collect::<Vec<_>>().join("\n")
    }
}

/// The sizes of the clusters that are run, small ones more often.
fn size(seed: u64) -> u16 {
    match seed % 256 {
        0 => 64,
        1 => 33,
        2..=4 => 16,
        n => 2 + (n % 7) as u16,
    }
}

fn noisy(seed: u64) -> Net {
    Net {
        lost: [0, 10, 50][(seed % 3) as usize],
        twice: [0, 0, 20][(seed / 3 % 3) as usize],
        least: Duration::from_micros(50),
        most: [ms(1), ms(5)][(seed / 9 % 2) as usize],
    }
}

fn percentile(spans: &mut [Duration], of_100: usize) -> Duration {
    spans.sort_unstable();
    spans[(spans.len() - 1) * of_100 / 100]
}

#[test]
fn nodes_find_each_other_and_stay() {
    for seed in 0..600 {
        let mut w = World::joined(seed, size(seed), noisy(seed));
        w.run_for(ms(3000));
        let all = w.all();
        assert!(w.agree(&all), "seed {seed}\n{}", w.tell());
        assert_eq!(w.deaths, [], "seed {seed}");
    }
}

#[test]
fn a_dead_node_is_found_out() {
    let mut spans = Vec::new();
    for seed in 0..1500 {
        let n = size(seed);
        let mut w = World::joined(seed, n, noisy(seed));
        w.run_for(ms(seed % 211));
        let dead = 1 + (seed % u64::from(n)) as u16;
        w.crash(dead);
        let rest: Vec<u16> = w.ids().filter(|id| *id != dead).collect();
        let what = format!("seed {seed}: the death of {dead}");
        spans.push(w.until(ms(1000), &what, |w| w.agree(&rest)));
        assert!(
            w.deaths.iter().all(|d| d.2 == dead),
            "seed {seed}: {:?}",
            w.deaths
        );
    }
    let (mid, high) = (percentile(&mut spans, 50), percentile(&mut spans, 99));
    println!(
        "all know of a death: median {mid:?}, 99 of 100 {high:?}, worst {:?}",
        spans.last()
    );
    assert!(mid < ms(300) && high < ms(450), "{mid:?} {high:?}");
}

#[test]
fn a_restarted_node_is_another_one() {
    for seed in 0..500 {
        let n = size(seed);
        let mut w = World::joined(seed, n, noisy(seed));
        let (id, all) = (1 + (seed % u64::from(n)) as u16, w.all());
        w.crash(id);
        w.run_for(ms(seed % 600));
        w.boot(id);
        let is_new = |w: &World, at: u16| {
            let part = w.core(at).agreed().part(id);
            part.is_some_and(|p| p.incarnation == 2_000_000)
        };
        let what = format!("seed {seed}: {id} is back");
        w.until(ms(2000), &what, |w| {
            w.agree(&all) && w.ids().all(|at| is_new(w, at))
        });
    }
}

#[test]
fn a_cut_heals_within_two_seconds() {
    let mut spans = Vec::new();
    for seed in 0..1500 {
        let n = size(seed);
        let mut w = World::joined(seed, n, noisy(seed));
        let cut = 1 + (seed / 7 % u64::from(n - 1)) as usize;
        for (i, side) in w.sides.iter_mut().enumerate() {
            *side = u8::from(i > cut);
        }
        let (a, b): (Vec<u16>, Vec<u16>) = w.ids().partition(|id| usize::from(*id) <= cut);
        // Few nodes take long to miss many others, but soon know that they lost most.
        let what = format!("seed {seed}: cut");
        let small = if a.len() < b.len() { a[0] } else { b[0] };
        let limit = ms(700) + ms(15) * u32::from(n);
        if a.len() != b.len() {
            w.until(limit, &what, |w| w.core(small).agreed().minority);
        }
        w.until(ms(1000) + ms(100) * u32::from(n), &what, |w| {
            w.agree(&a) && w.agree(&b)
        });
        // Whoever lost more than are left gives way; in a tie both go on.
        for (side, other) in [(&a, &b), (&b, &a)] {
            let gives_way = w.core(side[0]).agreed().minority;
            assert_eq!(gives_way, side.len() < other.len(), "seed {seed}");
            assert_eq!(w.core(side[0]).agreed().shares(0).is_empty(), gives_way);
        }
        w.run_for(ms(seed % 1000));
        w.sides.fill(0);
        let all = w.all();
        spans.push(w.until(ms(2000), &format!("seed {seed}: healing"), |w| {
            w.agree(&all)
        }));
        assert!(!w.core(1).agreed().minority);
    }
    let (mid, high) = (percentile(&mut spans, 50), percentile(&mut spans, 99));
    println!(
        "healed: median {mid:?}, 99 of 100 {high:?}, worst {:?}",
        spans.last()
    );
}

#[test]
fn a_lone_survivor_takes_over_after_its_patience() {
    for seed in 0..50 {
        let mut w = World::new(seed, 4, CLEAN);
        w.settings.minority = ms(5000);
        for id in w.ids() {
            w.boot(id);
        }
        let all = w.all();
        w.until(ms(2000), "join", |w| w.agree(&all));
        for id in 2..=4 {
            w.crash(id);
        }
        w.until(ms(1000), "deaths", |w| w.agree(&[1]));
        assert!(w.core(1).agreed().minority && w.core(1).agreed().shares(0).is_empty());
        let took = w.until(ms(6000), "patience", |w| !w.core(1).agreed().minority);
        assert!(took > ms(4500), "{took:?}");
        assert_eq!(w.core(1).agreed().shares(0).len(), 1);
    }
}

#[test]
fn whoever_leaves_is_gone_at_once_and_no_loss() {
    for seed in 0..500 {
        let n = size(seed).max(3);
        let mut w = World::joined(
            seed,
            n,
            Net {
                lost: 0,
                ..noisy(seed)
            },
        );
        // All but one, one after the other: that is no cut.
        for id in 2..=n.min(6) {
            w.act(id, Membership::leave);
            w.run_for(ms(20));
            let rest: Vec<u16> = w.ids().filter(|i| *i == 1 || *i > id).collect();
            assert!(
                rest.iter().all(|i| w.alive_at(*i) == rest),
                "seed {seed}\n{}",
                w.tell()
            );
            assert!(!w.core(1).agreed().minority);
            let left = w.core(1).members()[usize::from(id) - 1];
            assert_eq!((left.liveness, left.gone), (Liveness::Left, true));
            w.crash(id);
        }
        assert_eq!(w.deaths, [], "seed {seed}");
    }
}

#[test]
fn states_and_weights_reach_everybody() {
    let mut spans = Vec::new();
    for seed in 0..500 {
        let n = size(seed);
        let mut w = World::joined(seed, n, noisy(seed));
        let (asker, target) = (1, n);
        let wishes = [Wish::Drain, Wish::Weight(7), Wish::Standby, Wish::Activate];
        for (ticket, wish) in wishes.into_iter().enumerate() {
            w.act(asker, |m, now| {
                m.wish(ticket as u64, target, wish, ms(1000), now)
            });
            let what = format!("seed {seed}: {wish:?}");
            let fits = |w: &World, id: u16| {
                let p = w.core(id).agreed().part(target).copied().expect("there");
                match wish {
                    Wish::Drain => p.state == State::Draining,
                    Wish::Standby => p.state == State::Standby,
                    Wish::Activate => p.state == State::Active,
                    Wish::Weight(x) => p.weight == x,
                }
            };
            spans.push(w.until(ms(2000), &what, |w| w.ids().all(|id| fits(w, id))));
            let all = w.all();
            w.until(ms(1000), &what, |w| w.agree(&all));
            w.until(ms(1000), &what, |w| w.outcomes.len() > ticket);
            assert_eq!(w.outcomes[ticket].1, (ticket as u64, Ok(vec![])));
        }
        assert_eq!(w.core(1).agreed().part(target).expect("there").weight, 7);
    }
    println!(
        "known to all: 99 of 100 within {:?}",
        percentile(&mut spans, 99)
    );
}

#[test]
fn a_stall_is_no_reason_to_blame_others() {
    for seed in 0..600 {
        let n = size(seed);
        let mut w = World::joined(seed, n, CLEAN);
        // Every node stops for a while, each at another time; nobody for as long as a
        // suspect has.
        for round in 0..30 {
            let id = 1 + w.rng.random_range(0..n);
            let span = ms(w.rng.random_range(10..110));
            let (now, node) = (w.now, &mut w.nodes[usize::from(id)]);
            if now > node.frozen_until + ms(60) {
                node.frozen_until = now + span;
            }
            w.run_for(ms(60 + round));
        }
        let all = w.all();
        assert_eq!(w.deaths, [], "seed {seed}");
        w.until(ms(500), "calm", |w| w.agree(&all));
    }
}

#[test]
fn a_frozen_node_is_dead_and_comes_back_as_itself() {
    for seed in 0..300 {
        let n = size(seed).max(3);
        let mut w = World::joined(seed, n, CLEAN);
        w.nodes[1].frozen_until = w.now + ms(1500);
        let rest: Vec<u16> = (2..=n).collect();
        w.until(ms(700), "frozen", |w| w.agree(&rest));
        w.run(w.nodes[1].frozen_until);
        let all = w.all();
        let took = w.until(ms(2000), &format!("seed {seed}: thaw"), |w| w.agree(&all));
        assert!(took < ms(1000), "seed {seed}: {took:?}");
        let seen = w.core(2).members()[0];
        assert!(seen.generation > 0);
        assert_eq!(seen.record.expect("known").incarnation, 1_000_000);
        // It did not take the others for dead.
        assert!(
            w.deaths.iter().all(|d| d.2 == 1),
            "seed {seed}: {:?}",
            w.deaths
        );
    }
}

#[test]
fn repeated_messages_are_refused_and_do_no_harm() {
    for seed in 0..100 {
        let net = Net {
            twice: 500,
            ..CLEAN
        };
        let mut w = World::joined(seed, size(seed), net);
        w.run_for(ms(1000));
        let all = w.all();
        assert!(w.agree(&all));
        assert!(w.refused.len() > 10 && w.refused.iter().all(|r| *r == "replayed"));
        assert_eq!(w.deaths, []);
    }
}

#[test]
fn one_seed_is_one_run() {
    let run = || {
        let mut w = scheduling::skewed(17, 7, noisy(17));
        w.crash(3);
        w.crash(1);
        w.run_for(ms(5000));
        assert_eq!(w.core(7).schedule().stamp.scheduler, 2);
        (w.order, w.deaths, w.rng.random::<u64>())
    };
    assert_eq!(run(), run());
}
