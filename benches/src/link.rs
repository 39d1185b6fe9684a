//! Requests and responses through a node and the processes on both sides of it, over
//! memif: beside `dpdk-testpmd io` in the node's place.

use crate::generator::{self, Clients, Pace};
use crate::hugepages::Reserved;
use crate::node::{self, Counts, Node};
use crate::report::Entry;
use crate::rounds::{Plan, Side, compare};
use crate::testpmd::{self, Testpmd};
use anyhow::{Result, ensure};
use dts_core::frame::Port;

/// Requests that are on their way at a time; a ring holds 1,024 frames.
const WINDOW: u32 = 512;
/// Megabytes of packet memory of a generator.
pub const MEGABYTES: u64 = 96;
/// Cores of generator and node.
const CORES: [u16; 2] = [0, 1];

/// A socket's name of this run.
#[must_use]
pub fn socket(which: &str) -> String {
    format!("/dts-bench-{}-{which}", std::process::id())
}

/// A generator for the node of `spec`.
#[must_use]
pub fn clients(which: &str, spec: &node::Spec, active: u32, pace: Pace) -> generator::Spec {
    generator::Spec {
        socket: socket(which),
        core: CORES[0],
        hugepages: spec.hugepages,
        megabytes: MEGABYTES,
        resident: spec.resident,
        active,
        translated: true,
        pace,
        syns: 0,
    }
}

/// The node of `spec` with a generator at its ports.
///
/// # Errors
/// One of them does not start.
pub fn between(spec: &node::Spec, clients: &generator::Spec) -> Result<(Clients, Node)> {
    let mut spec = spec.clone();
    let [wire, host] = generator::devices(&clients.socket);
    spec.devices[Port::Wire.index()] = wire;
    spec.devices[Port::WireHost.index()] = host;
    // The listening end comes first.
    let clients = Clients::start(clients)?;
    Ok((clients, Node::start(&spec)?))
}

struct Ours {
    clients: Clients,
    node: Node,
    before: Counts,
}

impl Side for Ours {
    fn resume(&mut self) -> Result<()> {
        self.node.resume()?;
        self.before = self.node.counts()?;
        self.clients.go()
    }

    fn pause(&mut self) -> Result<()> {
        let turn = self.clients.halt(false)?;
        // Counters are published every millisecond.
        std::thread::sleep(std::time::Duration::from_millis(5));
        let node = self.node.counts()?.since(&self.before);
        let came = node.rx[Port::Wire.index()];
        ensure!(
            came.abs_diff(turn.requests) <= 64 + turn.requests / 1_000,
            "{came} frames came of {}: {:?}",
            turn.requests,
            node.drops
        );
        self.node.pause()
    }

    fn done(&mut self) -> Result<u64> {
        Ok(self.clients.counts()?.done)
    }
}

struct Peer {
    clients: Clients,
    testpmd: Testpmd,
}

impl Side for Peer {
    fn resume(&mut self) -> Result<()> {
        self.testpmd.resume()?;
        self.clients.go()
    }

    fn pause(&mut self) -> Result<()> {
        self.clients.halt(false)?;
        self.testpmd.pause()
    }

    fn done(&mut self) -> Result<u64> {
        Ok(self.clients.counts()?.done)
    }
}

/// Request and response through two processes, of `active` flows of `resident` ones.
///
/// # Errors
/// A side does not start, or a frame does not go where it belongs.
pub fn run(resident: u32, active: u32, plan: &Plan) -> Result<Entry> {
    let mut spec = node::Spec::plain(resident, 0);
    let pages = Reserved::new(2 * (MEGABYTES + spec.megabytes));
    spec.hugepages = pages.is_some();
    let pace = Pace::Window(WINDOW);
    let mut passed_on = clients("peer", &spec, active, pace);
    passed_on.translated = false;
    let peer = testpmd::Spec {
        devices: generator::devices(&passed_on.socket).into(),
        mode: "io",
        cores: CORES,
        mbufs: spec.mbufs,
        room: None,
        hugepages: spec.hugepages,
        megabytes: spec.megabytes,
    };
    let mut peer = Peer {
        clients: Clients::start(&passed_on)?,
        testpmd: Testpmd::start(&peer)?,
    };
    let (clients, node) = between(&spec, &clients("ours", &spec, active, pace))?;
    let mut ours = Ours {
        clients,
        node,
        before: Counts::default(),
    };
    let rounds = compare(&mut ours, &mut peer, plan)?;
    Ok(
        Entry::of(&rounds, "exchanges/s", "dpdk-testpmd io over memif")
            .with("resident", resident)
            .with("active", active)
            .with("lookups", "hits")
            .with("window", WINDOW)
            .with("frame_bytes", crate::exchange::FRAME)
            .with("hugepages", spec.hugepages),
    )
}
