//! The run: events in the order of a virtual clock, and the ways between the parties.

mod clients;
mod hosts;
mod path;

use crate::actors::{self, Stage};
use crate::capture::{Capture, Party};
use crate::check::{Check, Violation};
use crate::client::{Client, Outcome};
use crate::node::{APP_PORT, Node, SERVICE_PORT, wire_mac};
use crate::plan::{Act, Fault, MS, Plan, SEC, Step, US, When};
use crate::rng::Rng;
use crate::seg::{ETH, RST, SYN, Seg};
use dts_core::frame::Port;
use path::impair;
use std::cmp::Reverse;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BinaryHeap};
use std::hash::Hasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A run that has not ended by then never will.
const LONGEST: u64 = 400 * SEC;
/// Frames of one run; more is a storm.
const MOST_FRAMES: u64 = 60_000;

/// The address of client `i`, of either family.
fn client_addr(i: usize, six: bool) -> SocketAddr {
    let ip: IpAddr = if six {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x200 + i as u16).into()
    } else {
        Ipv4Addr::new(10, 77, 0, 200 + i as u8).into()
    };
    SocketAddr::new(ip, 40_000 + i as u16)
}

/// The number of the client with this address.
pub fn client_index(a: SocketAddr) -> usize {
    usize::from(a.port()).saturating_sub(40_000)
}

/// Ethernet address of client `i`.
pub fn client_mac(i: usize) -> [u8; 6] {
    [2, 0, 0, 0, 0, 0xc0 + i as u8]
}

#[derive(Debug)]
pub(crate) enum Ev {
    ToNode(u16, Port, Vec<u8>),
    ToHost(u16, u32, Vec<u8>),
    FromHost(u16, u32, Vec<u8>),
    ToClient(usize, Vec<u8>, bool),
    Tick(u16, u32),
    HostRun(u16, u32),
    ClientRun(usize),
    ClientStart(usize),
    Daemon(u16, u32, SocketAddr),
    Fault(Fault),
    Act(usize, Act),
    Views(u16, Health),
    /// A node hears another one's membership message.
    Hear(u16, u16, Vec<u8>),
    /// Something of a node's membership is due.
    Member(u16, u32),
    /// Who owns what is looked at.
    Look,
}

/// What the other nodes' views say of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Dead,
    Gone,
    Back,
}

/// What a run was like.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The first violation.
    pub violation: Option<Violation>,
    /// Hash of everything that was delivered, and when.
    pub trace: u64,
    /// Handovers that were accepted.
    pub handovers: u64,
    /// Handovers that failed.
    pub failures: u64,
    /// Frames.
    pub frames: u64,
    /// Virtual time at the end, nanoseconds.
    pub end: u64,
}

/// A run under way.
pub struct World {
    pub(crate) plan: Plan,
    pub(crate) now: u64,
    order: u64,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    events: Vec<Option<Ev>>,
    spare: Vec<usize>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) clients: Vec<Option<Client>>,
    pub(crate) check: Check,
    wire_rng: Rng,
    link_rng: Rng,
    host_rng: Rng,
    daemon_rng: Rng,
    chain_rng: Rng,
    reached: BTreeMap<Step, u64>,
    pub(crate) rules_used: Vec<u32>,
    pub(crate) cuts: Vec<(u16, u16)>,
    pub(crate) heard: Vec<Vec<u8>>,
    pub(crate) first_syn: Option<Vec<u8>>,
    last_wire: BTreeMap<(usize, u16, bool), u64>,
    last_link: BTreeMap<(u16, u16), u64>,
    tick_at: Vec<u64>,
    host_at: Vec<u64>,
    client_at: Vec<u64>,
    ends: Vec<Outcome>,
    hash: DefaultHasher,
    pub(crate) report: Report,
    gave: bool,
    app_reset: bool,
    pub(crate) capture: Option<Capture>,
    /// Prints what happens.
    pub verbose: bool,
    epilogue: Option<u64>,
    pub(crate) crashed: bool,
    pub(crate) icmp_sent: bool,
    pub(crate) memory: crate::scripted::Memory,
    pub(crate) watch: crate::members::Watch,
}

impl World {
    /// A world at time 0. `capture` collects what each party sees.
    pub fn new(plan: Plan, capture: Option<Capture>) -> Self {
        let nodes: Vec<Node> = (1..=plan.nodes).map(|id| Node::new(&plan, id, 0)).collect();
        let (n, c) = (nodes.len(), plan.clients.len());
        let mut w = Self {
            now: 0,
            order: 0,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            spare: Vec::new(),
            nodes,
            clients: (0..c).map(|_| None).collect(),
            check: Check::new(&plan),
            wire_rng: Rng::new(plan.seed, 2),
            link_rng: Rng::new(plan.seed, 3),
            host_rng: Rng::new(plan.seed, 4),
            daemon_rng: Rng::new(plan.seed, 5),
            chain_rng: Rng::new(plan.seed, 6),
            reached: BTreeMap::new(),
            rules_used: vec![0; plan.rules.len()],
            cuts: Vec::new(),
            heard: Vec::new(),
            first_syn: None,
            last_wire: BTreeMap::new(),
            last_link: BTreeMap::new(),
            tick_at: vec![0; n],
            host_at: vec![u64::MAX; n],
            client_at: vec![u64::MAX; c],
            ends: vec![Outcome::Running; c],
            hash: DefaultHasher::new(),
            report: Report::default(),
            gave: false,
            app_reset: false,
            capture,
            verbose: false,
            epilogue: None,
            crashed: false,
            icmp_sent: false,
            memory: Default::default(),
            watch: Default::default(),
            plan,
        };
        for i in 0..w.plan.clients.len() {
            w.push(w.plan.clients[i].start, Ev::ClientStart(i));
        }
        for id in 1..=w.plan.nodes {
            w.push(MS, Ev::Tick(id, 0));
        }
        let checks = |f: &&(When, Fault)| matches!(f.1, Fault::Agreed | Fault::Divided);
        w.watch.checks = w.plan.faults.iter().filter(checks).count();
        if w.plan.members {
            // What dead nodes had must count as lost before the end.
            let last = w.plan.faults.iter().map(|f| f.0.after).max();
            w.watch.quiet = last.unwrap_or(0) + 4 * SEC;
        }
        w.members_begin();
        w.reach(Step::Begun);
        w
    }

    pub(crate) fn push(&mut self, at: u64, e: Ev) {
        self.order += 1;
        let i = match self.spare.pop() {
            Some(i) => {
                self.events[i] = Some(e);
                i
            }
            None => {
                self.events.push(Some(e));
                self.events.len() - 1
            }
        };
        self.queue.push(Reverse((at.max(self.now), self.order, i)));
    }

    /// Runs to the end.
    pub fn run(mut self) -> (Report, Option<Capture>) {
        while let Some(Reverse((at, _, i))) = self.queue.pop() {
            let Some(e) = self.events[i].take() else {
                continue;
            };
            self.spare.push(i);
            self.now = at;
            self.handle(e);
            if self.check.violation.is_some() || self.finished() {
                break;
            }
        }
        self.report.violation = self.check.violation.clone();
        self.report.trace = self.hash.finish();
        self.report.end = self.now;
        (self.report, self.capture)
    }

    pub(crate) fn say(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            eprintln!("{:>12.3} ms  {}", self.now as f64 / 1e6, what());
        }
    }

    /// The address of client `i`.
    pub(crate) fn client_addr(&self, i: usize) -> SocketAddr {
        client_addr(i, self.plan.clients.get(i).is_some_and(|c| c.six))
    }

    pub(crate) fn node(&mut self, id: u16) -> &mut Node {
        &mut self.nodes[usize::from(id) - 1]
    }

    /// A node that starts anew has timers of its own.
    pub(crate) fn restart_ticks(&mut self, id: u16, boot: u32) {
        self.tick_at[usize::from(id) - 1] = self.now + MS;
        self.host_at[usize::from(id) - 1] = u64::MAX;
        self.push(self.now + MS, Ev::Tick(id, boot));
    }

    fn alive(&self, id: u16, boot: u32) -> bool {
        let n = &self.nodes[usize::from(id) - 1];
        n.up && n.boot == boot
    }

    pub(crate) fn trace(&mut self, tag: u8, who: u16, bytes: &[u8]) {
        self.hash.write_u64(self.now);
        self.hash.write_u8(tag);
        self.hash.write_u16(who);
        self.hash.write(bytes);
    }

    fn record(&mut self, party: Party, bytes: &[u8]) {
        if let Some(c) = &mut self.capture {
            c.frame(party, self.now, bytes);
        }
    }

    fn handle(&mut self, e: Ev) {
        if let Some(at) = self.waits_for(&e) {
            return self.push(at, e);
        }
        match e {
            // The epilogue is about what is left of connections.
            Ev::Hear(..) | Ev::Member(..) | Ev::Look if self.epilogue.is_some() => {}
            Ev::Hear(id, from, bytes) => self.member_hears(id, from, &bytes),
            Ev::Member(id, boot) if self.alive(id, boot) => self.member_runs(id),
            Ev::Member(..) => {}
            Ev::Look => self.looks(),
            Ev::ToNode(id, port, bytes) => self.node_gets(id, port, bytes),
            Ev::FromHost(id, boot, bytes) if self.alive(id, boot) => {
                self.node_gets(id, Port::WireHost, bytes)
            }
            Ev::ToHost(id, boot, bytes) if self.alive(id, boot) => self.host_gets(id, &bytes),
            Ev::FromHost(..) | Ev::ToHost(..) => {}
            Ev::ToClient(i, bytes, intact) => self.client_gets(i, &bytes, intact),
            Ev::Tick(id, boot) => {
                if self.alive(id, boot) && self.tick_at[usize::from(id) - 1] <= self.now {
                    let now = self.now;
                    self.node(id).tick(now);
                    self.after_node(id, true);
                }
            }
            Ev::HostRun(id, boot) => {
                if self.alive(id, boot) && self.host_at[usize::from(id) - 1] <= self.now {
                    self.host_at[usize::from(id) - 1] = u64::MAX;
                    self.host_runs(id);
                }
            }
            Ev::ClientRun(i) => {
                if self.client_at[i] <= self.now {
                    self.client_at[i] = u64::MAX;
                    self.client_runs(i);
                }
            }
            Ev::ClientStart(i) => self.client_starts(i),
            Ev::Daemon(id, boot, client) if self.alive(id, boot) => {
                let (now, mut notes) = (self.now, Vec::new());
                let plan = self.plan.clone();
                actors::step(self.node(id), &plan, client, now, &mut notes);
                self.notes(id, notes);
                self.after_node(id, false);
                self.host_runs(id);
            }
            Ev::Daemon(..) => {}
            Ev::Fault(f) => self.fault(f),
            Ev::Act(i, act) => {
                self.say(|| format!("client {i}: {act:?}"));
                let now = self.now;
                let out = self.clients[i].as_mut().map(|c| c.act(act, now));
                self.client_sends(i, out.unwrap_or_default());
                self.client_runs(i);
            }
            Ev::Views(id, h) => self.views(id, h),
        }
    }

    // --- nodes ---

    fn node_gets(&mut self, id: u16, port: Port, bytes: Vec<u8>) {
        if !self.nodes[usize::from(id) - 1].up {
            return;
        }
        self.count_frame();
        self.trace(port.index() as u8, id, &bytes);
        self.record(Party::Node(id, port), &bytes);
        // While a flow is held, what comes out is no plain translation of what came in.
        let plain = self.node(id).states()[2] == 0;
        let before = Seg::of_frame(&bytes).filter(|_| plain);
        let synack = Seg::of_frame(&bytes).filter(|s| s.sport == APP_PORT && s.has(SYN));
        if let Some(s) = synack.filter(|_| port == Port::WireHost) {
            let client = SocketAddr::new(s.dst, s.dport);
            let onward = !self.plan.hops.is_empty();
            let before = self.check.model.served_by(client);
            self.check.model.app_synack(id, client, &s, onward);
            if onward || self.plan.repeats > 0 {
                self.check.moves(client);
            }
            if self.plan.repeats > 0 && before.is_some_and(|n| n != id) {
                // What the dead node acknowledged, its source cannot know.
                self.check.model.acks_anew(client);
            }
            self.reach(Step::Taken);
        }
        if let Some(s) = Seg::of_frame(&bytes).filter(|s| s.sport == APP_PORT && !s.has(SYN)) {
            let client = SocketAddr::new(s.dst, s.dport);
            self.check.model.app_said(id, client, &s);
            if port == Port::WireHost {
                self.memory.stack_said(id, &s);
            }
        }
        let now = self.now;
        self.node(id).ingress(port, bytes, now);
        if let Some(s) = before {
            self.compare(id, port, &s);
        }
        self.after_node(id, false);
    }

    /// Holds what a node did to a segment against the reference.
    fn compare(&mut self, id: u16, port: Port, i: &Seg) {
        let client = match port {
            Port::Wire => SocketAddr::new(i.src, i.sport),
            Port::WireHost => SocketAddr::new(i.dst, i.dport),
            Port::Link | Port::LinkHost => return,
        };
        let mut sent = std::mem::take(&mut self.node(id).out.sent);
        let of_port: Vec<&(Port, Vec<u8>)> = sent.iter().filter(|s| s.0 == port.twin()).collect();
        let mut result = Ok(());
        if port == Port::WireHost && i.sport == APP_PORT && !i.has(SYN) {
            for (_, o) in &of_port {
                if let Some(o) = Seg::of_frame(o)
                    && o.payload.len() == i.payload.len()
                    && of_port.len() == 1
                {
                    result = self.check.model.to_wire(id, client, i, &o);
                }
            }
        } else if port == Port::Wire
            && !i.has(SYN)
            && of_port.len() == 1
            && let Some(o) = Seg::of_frame(&of_port[0].1)
            && o.dport == APP_PORT
            && o.payload.len() == i.payload.len()
            && o.flags == i.flags
        {
            result = self.check.model.to_host(id, client, i, &o);
        }
        let node = self.node(id);
        sent.append(&mut node.out.sent);
        node.out.sent = sent;
        if let Err(what) = result
            && !self.plan.expect.stale
        {
            let at = self.now;
            let what = format!("node {id}, {}: {what}; {i:?}", port.name());
            self.check
                .fail(at, "translation as the reference says", what);
        }
    }

    /// Takes what a node's shards put out, and sees to its timers.
    pub(crate) fn after_node(&mut self, id: u16, ticked: bool) {
        let now = self.now;
        let sent = std::mem::take(&mut self.node(id).out.sent);
        for (port, bytes) in sent {
            self.node_sends(id, port, bytes);
        }
        let events = self.node(id).events();
        let mut notes = Vec::new();
        let plan = &self.plan;
        let node = &mut self.nodes[usize::from(id) - 1];
        for e in events {
            actors::event(node, plan, e, &mut notes);
        }
        let again = !notes.is_empty();
        self.notes(id, notes);
        if self.node(id).live_frames() != 0 {
            let n = self.node(id).live_frames();
            self.check
                .fail(now, "every buffer is returned", format!("{n} at node {id}"));
        }
        self.hold_caps(id);
        let grain = if self.epilogue.is_some() {
            250 * MS
        } else {
            5 * MS
        };
        let next = self.node(id).next_timer().unwrap_or(u64::MAX);
        let next = next.max(now + 1).min(now + grain);
        let slot = usize::from(id) - 1;
        if ticked || next < self.tick_at[slot] {
            self.tick_at[slot] = next;
            let boot = self.node(id).boot;
            self.push(next, Ev::Tick(id, boot));
        }
        if again {
            self.host_runs(id);
        }
    }

    /// No flow has more held than its cap: once as copies, once as held.
    fn hold_caps(&mut self, id: u16) {
        let slot = (self.plan.mtu + ETH + 8).next_multiple_of(64);
        let most = 2 * (self.plan.hold_flow / slot) * self.plan.clients.len();
        let used: usize = self.node(id).shards.iter().map(|s| s.hold_use().0).sum();
        let node = self.plan.hold / slot * self.plan.workers;
        let most = most.min(node);
        if used > most {
            let what = format!("{used} buffers at node {id}, the cap is {most}");
            self.check.fail(self.now, "held frames are capped", what);
        }
    }

    fn node_sends(&mut self, id: u16, port: Port, bytes: Vec<u8>) {
        self.record(Party::Node(id, port), &bytes);
        match port {
            Port::Wire => self.node_on_wire(id, bytes),
            Port::WireHost => {
                let delay = self.host_rng.range(US, self.plan.host_delay.max(US));
                let now = self.now;
                let n = self.node(id);
                n.last_in = n.last_in.max(now + delay);
                let (at, boot) = (n.last_in, n.boot);
                if let Some(s) = Seg::of_frame(&bytes)
                    && s.has(SYN)
                    && s.dport == APP_PORT
                {
                    self.reach(Step::Replay);
                }
                self.push(at, Ev::ToHost(id, boot, bytes));
            }
            Port::Link => self.node_on_link(id, bytes),
            // A damaged frame is the host's, which verifies its checksum.
            Port::LinkHost if !Seg::checksum_ok(&bytes[ETH..]) => {}
            Port::LinkHost => {
                let at = self.now;
                let what = format!("node {id}: a link frame reached the host");
                self.check
                    .fail(at, "splice ports never reach the host", what);
            }
        }
    }

    fn node_on_wire(&mut self, id: u16, bytes: Vec<u8>) {
        let at = self.now;
        let s = Seg::of_frame(&bytes);
        self.memory.left(&bytes, s.as_ref());
        let Some(s) = s else {
            return;
        };
        if bytes[6..12] != wire_mac(id) {
            self.check.fail(
                at,
                "no frame bears another source address",
                format!("node {id}"),
            );
        }
        let client = SocketAddr::new(s.dst, s.dport);
        let i = client_index(client);
        if s.sport != SERVICE_PORT || i >= self.clients.len() || bytes[..6] != client_mac(i) {
            let what = format!("node {id}: {s:?}");
            self.check
                .fail(at, "the host's traffic leaves only as the service's", what);
            return;
        }
        self.touches(client, id);
        self.check.model.acked(client, &s);
        if s.has(RST) {
            self.judge_reset(id, client, &s);
        }
        let by_rule = s.has(RST) && self.node(id).resets() > 0;
        self.check.node_speaks(at, id, client, &s, by_rule);
        if self.watch.deaf.contains(&id) {
            return;
        }
        let delay = self.plan.clients[i].delay;
        for (t, b, intact) in self.pass(i, id, false, delay, bytes) {
            self.push(t, Ev::ToClient(i, b, intact));
        }
    }

    /// A RST must be an application's, a proxy's that gave up, or a rule's.
    fn judge_reset(&mut self, id: u16, client: SocketAddr, s: &Seg) {
        let rule = self.node(id).resets() > 0 || self.plan.expect.stale;
        if rule || self.app_reset || (self.plan.expect.may_reset && self.crashed) {
            return;
        }
        let c = self
            .clients
            .get(client_index(client))
            .and_then(Option::as_ref);
        if c.is_none_or(|c| c.outcome != Outcome::Running) {
            return;
        }
        let at = self.now;
        let what = format!("node {id} lets {s:?} out");
        self.check
            .fail(at, "no RST that no endpoint or rule sent", what);
    }

    /// What the wire does to a frame between client `i` and node `id`.
    fn pass(
        &mut self,
        i: usize,
        id: u16,
        up: bool,
        delay: u64,
        b: Vec<u8>,
    ) -> Vec<(u64, Vec<u8>, bool)> {
        let last = self.last_wire.entry((i, id, up)).or_default();
        impair(
            &mut self.wire_rng,
            &self.plan.wire,
            self.now,
            delay,
            last,
            b,
        )
    }

    // --- link ---

    fn node_on_link(&mut self, id: u16, bytes: Vec<u8>) {
        let to = u16::from(bytes[5]);
        if bytes[4] != 1 || to == 0 || to > self.plan.nodes {
            return;
        }
        let kind = crate::scenario::link_kind(&bytes);
        if let Some(k) = kind {
            self.say(|| format!("link {id} -> {to}: {k:?}"));
            self.link_step(k);
            if k.from_source()
                && let Some(s) = Seg::of_frame(&bytes)
            {
                self.port_rests(id, &s);
            }
            if self.heard.len() < 64 {
                self.heard.push(bytes.clone());
            }
        }
        if kind == Some(dts_proto::block::Kind::Splice)
            && let Some(client) = crate::scenario::client_of(&bytes)
        {
            self.touches(client, to);
        }
        if self.is_cut(id, to) {
            return;
        }
        let mut delay = self.plan.link_delay;
        let mut twice = None;
        for (n, r) in self.plan.rules.iter().enumerate() {
            if Some(r.kind) != kind {
                continue;
            }
            let nth = self.rules_used[n];
            self.rules_used[n] += 1;
            if nth < r.from || nth >= r.from + r.count {
                continue;
            }
            match r.fate {
                crate::plan::Fate::Lose => return,
                crate::plan::Fate::Late(t) => delay += t,
                crate::plan::Fate::Twice(t) => twice = Some(t),
            }
        }
        if let Some(t) = twice {
            self.push(
                self.now + delay + t,
                Ev::ToNode(to, Port::Link, bytes.clone()),
            );
        }
        let late = delay != self.plan.link_delay;
        let mut free = 0;
        let last = if late {
            &mut free
        } else {
            self.last_link.entry((id, to)).or_default()
        };
        for (t, b, _) in impair(
            &mut self.link_rng,
            &self.plan.link,
            self.now,
            delay,
            last,
            bytes,
        ) {
            self.push(t, Ev::ToNode(to, Port::Link, b));
        }
    }

    /// The link passes nothing between two nodes.
    pub(crate) fn is_cut(&self, a: u16, b: u16) -> bool {
        self.cuts.contains(&(a, b)) || self.cuts.contains(&(b, a))
    }

    fn link_step(&mut self, kind: dts_proto::block::Kind) {
        use dts_proto::block::Kind;
        match kind {
            Kind::Splice => self.reach(Step::Splice),
            Kind::Accept => self.reach(Step::Accept),
            Kind::EndMark => self.reach(Step::EndMark),
            _ => {}
        }
    }

    // --- steps, ends ---

    pub(crate) fn reach(&mut self, step: Step) {
        if self.reached.contains_key(&step) {
            return;
        }
        self.reached.insert(step, self.now);
        self.say(|| format!("step {step:?}"));
        let due = |w: &When| w.step == step;
        let faults: Vec<(u64, Fault)> = (self.plan.faults.iter())
            .filter(|f| due(&f.0))
            .map(|f| (f.0.after, f.1))
            .collect();
        for (after, f) in faults {
            self.push(self.now + after, Ev::Fault(f));
        }
        for i in 0..self.plan.clients.len() {
            let script = self.plan.clients[i].script.clone().unwrap_or_default();
            for (w, act) in script.into_iter().filter(|a| due(&a.0)) {
                self.push(self.now + w.after, Ev::Act(i, act));
            }
        }
    }

    fn count_frame(&mut self) {
        self.report.frames += 1;
        if self.report.frames > MOST_FRAMES {
            self.check
                .fail(self.now, "no storm of segments", "too many frames");
        }
    }

    /// Whether all is over; checks what must hold then.
    fn finished(&mut self) -> bool {
        if self.watch.checks > 0 || self.now < self.watch.quiet {
            return false;
        }
        let running = self.clients.iter().enumerate().any(|(i, c)| {
            let owed = c.as_ref().is_none_or(|c| !self.is_excused(c.local));
            owed && c.as_ref().is_none_or(|c| c.outcome == Outcome::Running)
                || self.plan.clients[i].reuse.is_some()
        });
        if running && self.now < LONGEST {
            return false;
        }
        if running && !self.plan.expect.may_hang && !self.only_closing() {
            let at = self.now;
            let what = self.who_waits();
            self.check.fail(at, "no client hangs", what);
            return true;
        }
        let Some(begun) = self.epilogue else {
            self.epilogue = Some(self.now);
            return false;
        };
        self.nothing_is_left(begun)
    }

    /// Every client has all its answers; a wire that loses may have lost the last
    /// acknowledgements of its FIN until nobody was left to repeat them.
    fn only_closing(&self) -> bool {
        let mut all = self.clients.iter().flatten();
        !self.plan.wire.is_clean() && all.all(|c| c.got == c.whole())
    }

    /// The states of all sockets, for the report of a hang.
    fn who_waits(&mut self) -> String {
        let mut s = String::new();
        for (i, c) in self.clients.iter_mut().enumerate() {
            if let Some(c) = c {
                s += &format!(
                    "client {i} {:?} {} of {} bytes, ",
                    c.state(),
                    c.got,
                    c.whole()
                );
            }
        }
        for n in &mut self.nodes {
            let id = n.id;
            for (name, t) in &mut n.host.tcbs {
                s += &format!("node {id} port {} {:?}, ", name.0, t.state());
            }
            s += &format!("node {id} FCBs {:?}; ", n.states());
        }
        s
    }

    /// After the end of all clients, everything is given back within its bound.
    fn nothing_is_left(&mut self, begun: u64) -> bool {
        let p = self.nodes[0].view.params;
        let idle = p.idle.0 + p.closing.0 + p.tombstone.0 + p.half_open.0 + 45 * SEC;
        let soon = p.closing.0 + p.tombstone.0 + p.half_open.0 + 5 * SEC;
        let bound = if self.plan.expect.clean { soon } else { idle };
        let late = self.now > begun + bound;
        let up: Vec<&Node> = self.nodes.iter().filter(|n| n.up).collect();
        let flows: usize = up.iter().flat_map(|n| &n.shards).map(|s| s.flows()).sum();
        let held: usize = up
            .iter()
            .flat_map(|n| &n.shards)
            .map(|s| s.hold_use().0)
            .sum();
        let asking = up
            .iter()
            .flat_map(|n| n.proxies.values())
            .any(|p| !matches!(p.stage, Stage::Reading | Stage::GaveUp));
        if flows == 0 && held == 0 && !asking {
            self.solicited();
            if self.plan.expect.handover && self.report.handovers == 0 {
                self.check
                    .fail(self.now, "the scenario happens", "no handover was accepted");
            }
            let (all, n) = (1 + self.plan.hops.len() as u64, self.report.handovers);
            let refused = !self.plan.no_listener.is_empty();
            if all > 1 && self.plan.expect.clean && !refused && n != all {
                let what = format!("{n} of {all} handovers were accepted");
                self.check.fail(self.now, "the scenario happens", what);
            }
            return true;
        }
        if late {
            let states: Vec<[u64; 5]> = up.iter().map(|n| n.states()).collect();
            let what = format!("{flows} FCBs {states:?}, {held} hold buffers, asking: {asking}");
            self.check
                .fail(self.now, "nothing outlives its bound", what);
        }
        late
    }
}
