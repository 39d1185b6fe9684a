//! Frames from memory through a node's worker, beside `dpdk-testpmd` on the same
//! device and file.

use crate::capture::Capture;
use crate::flows;
use crate::hugepages::Reserved;
use crate::node::{self, Counts, Node};
use crate::report::Entry;
use crate::rounds::{Plan, Side, compare};
use crate::testpmd::{self, Testpmd};
use anyhow::{Result, ensure};
use dts_core::frame::Port;
use dts_core::key::Addr;
use dts_core::steer;
use std::path::Path;

/// Packet buffers beside those that hold the capture.
const SPARE: u32 = 16_384;
/// Room of a buffer where millions of them are needed, and from which frames on.
const SMALL_ROOM: u16 = 256;
const SMALL_FROM: u32 = 2 << 20;
/// The usual room of both sides.
const USUAL_ROOM: u16 = 2_176;

/// What the frames are, and what becomes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Frames of other nodes' flows from the wire: dropped.
    Discard,
    /// Frames of clients from the wire: to the host.
    In,
    /// Frames of the own stack: to the wire.
    Out,
}

/// One bench.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// What is sent.
    pub way: Way,
    /// Flows that the node serves.
    pub resident: u32,
    /// Flows to which the frames belong.
    pub active: u32,
}

impl Traffic {
    fn port(&self) -> Port {
        match self.way {
            Way::Out => Port::WireHost,
            Way::Discard | Way::In => Port::Wire,
        }
    }

    fn peer_mode(&self) -> &'static str {
        match self.way {
            Way::Discard => "macswap",
            Way::In | Way::Out => "csum",
        }
    }

    fn room(&self) -> Option<u16> {
        (self.active >= SMALL_FROM).then_some(SMALL_ROOM)
    }

    /// Megabytes of packet memory for `frames` in memory.
    fn megabytes(&self, frames: u32) -> u64 {
        // A buffer's header and descriptor, and pointers to it in two rings.
        let buffer = u64::from(self.room().unwrap_or(USUAL_ROOM)) + 256 + 64;
        ((u64::from(frames + SPARE) * buffer) >> 20) + 96
    }

    fn frame(&self, n: u32) -> Vec<u8> {
        match self.way {
            Way::Discard => flows::bare_ack(n),
            Way::In => flows::client_ack(n),
            Way::Out => flows::server_ack(n),
        }
    }

    /// What a node without workers, frames and memory would be started with.
    fn spec(&self) -> node::Spec {
        node::Spec {
            devices: Port::ALL.map(node::sink),
            cores: vec![1],
            queues: 1,
            mbufs: self.active + SPARE,
            room: self.room(),
            hugepages: false,
            megabytes: self.megabytes(self.active),
            resident: self.resident,
            room_for: self.resident,
        }
    }

    /// The flows of the frames, in an order without a pattern.
    fn active_flows(&self) -> Result<Vec<u32>> {
        Ok(match self.way {
            Way::In | Way::Out => {
                // Any of those that are resident: a regular step through them would meet
                // few of a cache's sets.
                let mut any = flows::shuffled(self.resident);
                any.truncate(self.active as usize);
                any
            }
            Way::Discard => {
                let view = node::view(&self.spec(), [[2; 6], [4; 6]])?;
                let others: Vec<u32> = flows::owned(&view, self.resident, false)
                    .take(self.active as usize)
                    .collect();
                flows::shuffled(self.active)
                    .into_iter()
                    .map(|n| others[n as usize])
                    .collect()
            }
        })
    }

    /// The bench beside `dpdk-testpmd`.
    ///
    /// # Errors
    /// A side does not start, or ours does something else than it should.
    pub fn run(&self, dir: &Path, plan: &Plan) -> Result<Entry> {
        let frames = self.active_flows()?.into_iter().map(|n| self.frame(n));
        let capture = Capture::write(dir, "traffic.pcap", frames)?;
        let device = device(self.port(), &[&capture]);
        let mut spec = self.spec();
        let pages = Reserved::new(spec.megabytes * 2);
        spec.hugepages = pages.is_some();
        spec.devices[self.port().index()] = device.clone();
        let peer = testpmd::Spec {
            devices: vec![device],
            mode: self.peer_mode(),
            cores: [0, 1],
            mbufs: spec.mbufs,
            room: spec.room,
            hugepages: spec.hugepages,
            megabytes: spec.megabytes,
        };
        let mut peer = Peer(Testpmd::start(&peer)?);
        let mut ours = Ours::start(&spec, self.way)?;
        let rounds = compare(&mut ours, &mut peer, plan)?;
        let name = format!("dpdk-testpmd {}", self.peer_mode());
        Ok(Entry::of(&rounds, "frames/s", &name)
            .with("resident", self.resident)
            .with("active", self.active)
            .with("frame_bytes", self.frame(0).len())
            .with("hugepages", spec.hugepages)
            .with("buffer_bytes", spec.room.unwrap_or(USUAL_ROOM)))
    }

    /// Two workers, each with a queue of its own flows, beside one.
    ///
    /// # Errors
    /// Those of [`Traffic::run`].
    pub fn scale(&self, dir: &Path, plan: &Plan) -> Result<Entry> {
        let mut one = self.spec();
        let view = node::view(&one, [[2; 6], [4; 6]])?;
        let all = self.active_flows()?;
        let of_worker = |w: usize| -> Vec<u32> {
            let mine = |n: &u32| {
                let k = flows::flow(*n);
                let client: Addr = k.client;
                steer::worker_of_client(&view, &client, k.client_port, 2) == w
            };
            all.iter().copied().filter(mine).collect()
        };
        let write = |name: &str, flows: &[u32]| {
            Capture::write(dir, name, flows.iter().map(|&n| self.frame(n)))
        };
        let whole = write("all.pcap", &all)?;
        let halves = [
            write("half0.pcap", &of_worker(0))?,
            write("half1.pcap", &of_worker(1))?,
        ];
        let pages = Reserved::new(one.megabytes * 3);
        one.hugepages = pages.is_some();
        let mut two = one.clone();
        one.devices[self.port().index()] = device(self.port(), &[&whole]);
        two.devices[self.port().index()] = device(self.port(), &[&halves[0], &halves[1]]);
        (two.cores, two.queues) = (vec![0, 1], 2);
        two.megabytes *= 2;
        let mut ours = Ours::start(&two, self.way)?;
        let mut peer = Ours::start(&one, self.way)?;
        let rounds = compare(&mut ours, &mut peer, plan)?;
        Ok(Entry::of(&rounds, "frames/s", "dtsd with one worker")
            .with("resident", self.resident)
            .with("active", self.active)
            .with("hugepages", one.hugepages))
    }
}

/// The device string of a port that replays captures for ever, one per queue.
#[must_use]
pub fn device(port: Port, captures: &[&Capture]) -> String {
    let files: Vec<String> = captures
        .iter()
        .map(|c| format!("rx_pcap={}", c.path().display()))
        .collect();
    format!("net_pcap{},{},infinite_rx=1", port.index(), files.join(","))
}

/// A node of which all is watched that it does with the frames.
#[derive(Debug)]
pub struct Ours {
    node: Node,
    way: Way,
    first: Option<Counts>,
}

impl Ours {
    /// Starts it, paused.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(spec: &node::Spec, way: Way) -> Result<Self> {
        Ok(Self {
            node: Node::start(spec)?,
            way,
            first: None,
        })
    }

    /// Every frame must have gone where it belongs: a bench of a node that drops for
    /// another reason measures nothing.
    fn check(&self, before: &Counts, now: &Counts) -> Result<u64> {
        let (from, to) = match self.way {
            Way::Out => (Port::WireHost, Some(Port::Wire)),
            Way::In => (Port::Wire, Some(Port::WireHost)),
            Way::Discard => (Port::Wire, None),
        };
        let came = now.rx[from.index()] - before.rx[from.index()];
        let went = match to {
            Some(port) => now.tx[port.index()] - before.tx[port.index()],
            None => {
                let dropped = |c: &Counts| {
                    let entry = c.drops.iter().find(|(name, _)| name == "no_flow");
                    entry.map_or(0, |(_, n)| *n)
                };
                dropped(now) - dropped(before)
            }
        };
        // Counters are published between two turns of the loop.
        ensure!(
            went.abs_diff(came) <= 256 + came / 1_000,
            "{came} frames came and {went} went where they belong: {:?}",
            now.drops
        );
        Ok(went)
    }
}

impl Side for Ours {
    fn resume(&mut self) -> Result<()> {
        self.node.resume()
    }

    fn pause(&mut self) -> Result<()> {
        self.node.pause()
    }

    fn done(&mut self) -> Result<u64> {
        let now = self.node.counts()?;
        let first = self.first.get_or_insert_with(Counts::default).clone();
        self.check(&first, &now)
    }
}

/// `dpdk-testpmd` as the other side.
#[derive(Debug)]
pub struct Peer(pub Testpmd);

impl Side for Peer {
    fn resume(&mut self) -> Result<()> {
        self.0.resume()
    }

    fn pause(&mut self) -> Result<()> {
        self.0.pause()
    }

    fn done(&mut self) -> Result<u64> {
        self.0.received()
    }
}

/// Bytes per resident FCB, all included.
///
/// # Errors
/// The node does not start.
pub fn memory(flows: u32) -> Result<Entry> {
    let t = Traffic {
        way: Way::In,
        resident: flows,
        active: 1,
    };
    let node = Node::start(&t.spec())?;
    let bytes = node.ready.bytes as f64 / f64::from(flows);
    let (goal, floor) = (128.0, 192.0);
    let entry = Entry::of(&[(bytes, floor)], "bytes/FCB", "the floor");
    Ok(entry.with("resident", flows).with("goal", goal))
}
