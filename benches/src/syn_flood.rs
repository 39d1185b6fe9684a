//! Established flows while SYNs of clients that the node owns fill the wire: beside the
//! same flows without a flood.
//!
//! The flows ask at a fixed pace far below what a node carries, and stand in a queue of
//! their own before the flood's. What counts is the part of their requests that comes
//! back as a response, translated both ways.

use crate::generator::{self, Clients, Pace};
use crate::hugepages::Reserved;
use crate::link;
use crate::node::{self, Counts, Node};
use crate::report::Entry;
use crate::rounds::{Plan, Side, compare, median};
use anyhow::{Result, ensure};
use dts_core::drops::Drop as Reason;
use dts_core::frame::Port;
use std::time::{Duration, Instant};

/// Established flows that ask.
const FLOWS: u32 = 1_024;
/// Their requests per second.
const PACE: u32 = 100_000;
/// Different SYNs: more than the half-open table holds, so that few are those of
/// connections that are half open already.
const SYNS: u32 = 1 << 18;
/// Half-open connections that the configuration allows if it says nothing.
const HALF_OPEN: u32 = 8_192;

/// A node under a flood, or without one.
struct Flows {
    clients: Clients,
    node: Node,
    before: Counts,
    /// When this turn began.
    since: Instant,
    turns: Vec<Turn>,
    /// Requests due and responses that came, in all turns.
    due: u64,
    done: u64,
}

/// What one turn did.
#[derive(Clone, Debug)]
struct Turn {
    seconds: f64,
    clients: generator::Counts,
    node: Counts,
}

impl Flows {
    fn start(spec: &node::Spec, clients: &generator::Spec) -> Result<Self> {
        let (clients, node) = link::between(spec, clients)?;
        Ok(Self {
            clients,
            node,
            before: Counts::default(),
            since: Instant::now(),
            turns: Vec::new(),
            due: 0,
            done: 0,
        })
    }

    /// The part of the requests due that came back.
    fn share(&self) -> f64 {
        self.done as f64 / self.due as f64
    }

    /// A median over all turns, per second.
    fn rate(&self, of: impl Fn(&Turn) -> u64) -> f64 {
        median(self.turns.iter().map(|t| of(t) as f64 / t.seconds))
    }
}

/// Frames that a node has dropped for reasons that a flood of SYNs explains: the half-open
/// table was full, or the SYN's connection is in it.
fn refused(c: &Counts) -> u64 {
    c.dropped(Reason::HalfOpenFull) + c.dropped(Reason::DuplicateSyn)
}

impl Side for Flows {
    fn resume(&mut self) -> Result<()> {
        self.node.resume()?;
        self.before = self.node.counts()?;
        self.since = Instant::now();
        self.clients.go()
    }

    fn pause(&mut self) -> Result<()> {
        // What is lost of the flows' own is what the bench is about.
        let clients = self.clients.halt(true)?;
        let seconds = self.since.elapsed().as_secs_f64();
        // Counters are published every millisecond.
        std::thread::sleep(Duration::from_millis(5));
        let node = self.node.counts()?.since(&self.before);
        let turn = Turn {
            seconds,
            clients,
            node,
        };
        turn.check()?;
        self.due += clients.due;
        self.done += clients.done;
        self.turns.push(turn);
        self.node.pause()
    }

    fn done(&mut self) -> Result<u64> {
        Ok(self.clients.counts()?.done)
    }
}

impl Turn {
    /// Every frame that went in came out, or was refused as a SYN of the flood.
    fn check(&self) -> Result<()> {
        let (c, n) = (&self.clients, &self.node);
        let came = n.rx[Port::Wire.index()];
        let sent = c.requests + c.syns;
        let slack = 256 + sent / 1_000;
        ensure!(
            came.abs_diff(sent) <= slack,
            "{came} frames came of {sent}: {:?}",
            n.drops
        );
        let out = n.tx[Port::WireHost.index()] + refused(n);
        ensure!(
            out.abs_diff(came) <= slack,
            "{came} frames came, {out} went to the host or were refused: {:?}",
            n.drops
        );
        ensure!(
            c.syns.abs_diff(c.passed + refused(n)) <= slack,
            "of {} SYNs {} came to the host and {} were refused",
            c.syns,
            c.passed,
            refused(n)
        );
        Ok(())
    }
}

/// What of the flows' requests comes back, with the flood and without, of `resident`
/// flows that the node serves.
///
/// # Errors
/// A side does not start, or a frame does not go where it belongs.
pub fn run(resident: u32, plan: &Plan) -> Result<Entry> {
    let mut spec = node::Spec::plain(resident, 2 * HALF_OPEN);
    let pages = Reserved::new(2 * (link::MEGABYTES + spec.megabytes));
    spec.hugepages = pages.is_some();
    let pace = Pace::PerSecond(PACE);
    let quiet = link::clients("quiet", &spec, FLOWS, pace);
    let mut flooded = link::clients("flooded", &spec, FLOWS, pace);
    flooded.syns = SYNS;
    let mut peer = Flows::start(&spec, &quiet)?;
    let mut ours = Flows::start(&spec, &flooded)?;
    let rounds = compare(&mut ours, &mut peer, plan)?;
    ensure!(
        peer.share() > 0.999,
        "without a flood {} of {} requests came back: {PACE} a second are too many here",
        peer.done,
        peer.due
    );
    let full = median(ours.turns.iter().map(|t| {
        let bursts = t.clients.syns as f64 / 64.0;
        t.clients.full as f64 / (t.clients.full as f64).max(bursts)
    }));
    let entry = Entry::of(&rounds, "exchanges/s", "the same flows without flood")
        .with("offered_per_s", PACE)
        .with("share_with_flood", ours.share())
        .with("share_without", peer.share())
        .with("syns_per_s", ours.rate(|t| t.clients.syns))
        .with("syns_passed_per_s", ours.rate(|t| t.clients.passed))
        .with("ring_full_share", full)
        .with("half_open_max", HALF_OPEN)
        .with("resident", resident)
        .with("active", FLOWS)
        .with("lookups", "the flows' hit, the flood's miss")
        .with("hugepages", spec.hugepages);
    Ok([
        ("dropped_half_open_full_per_s", Reason::HalfOpenFull),
        ("dropped_duplicate_syn_per_s", Reason::DuplicateSyn),
    ]
    .into_iter()
    .fold(entry, |e, (name, why)| {
        e.with(name, ours.rate(|t| t.node.dropped(why)))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(passed: u64, full: u64) -> Turn {
        let clients = generator::Counts {
            due: 1_000,
            requests: 1_000,
            done: 1_000,
            syns: 100_000,
            passed,
            ..generator::Counts::default()
        };
        let mut node = Counts::default();
        node.rx[Port::Wire.index()] = 101_000;
        node.tx[Port::WireHost.index()] = 1_000 + passed;
        node.drops = vec![(Reason::HalfOpenFull.name().into(), full)];
        Turn {
            seconds: 1.0,
            clients,
            node,
        }
    }

    #[test]
    fn every_syn_is_passed_or_refused() {
        turn(8_000, 92_000).check().unwrap();
        turn(8_000, 91_000).check().unwrap_err();
        let mut lost = turn(8_000, 92_000);
        lost.clients.passed = 1_000;
        lost.check().unwrap_err();
        lost = turn(8_000, 92_000);
        lost.node.rx[0] -= 1_000;
        lost.check().unwrap_err();
    }
}
