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
use dts_core::drops::Drop as Reason;
use dts_core::frame::Port;
use dts_core::key::Addr;
use dts_core::steer;
use dts_worker::Stage;
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
    /// Frames of a cluster's clients from the wire: the node's share of them to the host,
    /// those of other nodes' flows dropped.
    Share,
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
    /// Nodes of the cluster.
    pub members: u16,
}

impl Traffic {
    /// In a cluster of three.
    #[must_use]
    pub fn new(way: Way, resident: u32, active: u32) -> Self {
        Self {
            way,
            resident,
            active,
            members: 3,
        }
    }

    /// The same in a cluster of so many nodes.
    #[must_use]
    pub fn in_cluster_of(mut self, members: u16) -> Self {
        self.members = members;
        self
    }

    fn port(&self) -> Port {
        match self.way {
            Way::Out => Port::WireHost,
            Way::Discard | Way::In | Way::Share => Port::Wire,
        }
    }

    fn peer_mode(&self) -> &'static str {
        match self.way {
            Way::Discard | Way::Share => "macswap",
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
            Way::In | Way::Share => flows::client_ack(n),
            Way::Out => flows::server_ack(n),
        }
    }

    /// What a node without workers, frames and memory would be started with.
    fn spec(&self) -> node::Spec {
        node::Spec {
            mbufs: self.active + SPARE,
            room: self.room(),
            megabytes: self.megabytes(self.active),
            members: self.members,
            ..node::Spec::plain(self.resident, 0)
        }
    }

    /// Of the active flows those that the node serves: with [`Way::Share`] as many as a
    /// node of the cluster owns.
    fn served(&self) -> u32 {
        match self.way {
            Way::Discard => 0,
            Way::In | Way::Out => self.active,
            Way::Share => self.active / u32::from(self.members),
        }
    }

    fn lookups(&self) -> String {
        match self.served() {
            0 => "misses".into(),
            all if all == self.active => "hits".into(),
            some => format!("{some} hits, {} misses", self.active - some),
        }
    }

    /// The flows of the frames, in an order without a pattern.
    fn active_flows(&self) -> Result<Vec<u32>> {
        let served = self.served();
        let mut all = flows::spread(served.max(1), self.resident);
        all.truncate(served as usize);
        if served < self.active {
            let view = node::view(&self.spec(), [[2; 6], [4; 6]])?;
            let others = flows::owned(&view, self.resident, false);
            all.extend(others.take((self.active - served) as usize));
            // One kind among the other, without a pattern.
            let order = flows::shuffled(self.active).into_iter();
            all = order.map(|n| all[n as usize]).collect();
        }
        Ok(all)
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
        let mut ours = Ours::start(&spec, self)?;
        let rounds = compare(&mut ours, &mut peer, plan)?;
        let name = format!("dpdk-testpmd {}", self.peer_mode());
        Ok(Entry::of(&rounds, "frames/s", &name)
            .with("cycles_per_frame", ours.cycles_per_frame())
            .with("resident", self.resident)
            .with("active", self.active)
            .with("lookups", self.lookups())
            .with("members", self.members)
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
        let mut ours = Ours::start(&two, self)?;
        let mut peer = Ours::start(&one, self)?;
        let rounds = compare(&mut ours, &mut peer, plan)?;
        Ok(Entry::of(&rounds, "frames/s", "dtsd with one worker")
            .with("resident", self.resident)
            .with("active", self.active)
            .with("lookups", self.lookups())
            .with("hugepages", one.hugepages))
    }
}

impl Traffic {
    /// Frames that went where they belong. All must: a bench of a node that drops for
    /// another reason measures nothing.
    fn check(&self, done: &Counts) -> Result<u64> {
        let came = done.rx[self.port().index()];
        let to_host = done.tx[Port::WireHost.index()];
        let unknown = done.dropped(Reason::NoFlow);
        let went = match self.way {
            Way::Out => done.tx[Port::Wire.index()],
            Way::In => to_host,
            Way::Discard => unknown,
            Way::Share => to_host + unknown,
        };
        // Counters are published between two turns of the loop.
        let slack = 256 + came / 1_000;
        ensure!(
            went.abs_diff(came) <= slack,
            "{came} frames came and {went} went where they belong: {:?}",
            done.drops
        );
        // The capture is replayed as a whole, but for the last time.
        let active = u64::from(self.active);
        let served = came * u64::from(self.served()) / active;
        ensure!(
            self.way != Way::Share || to_host.abs_diff(served) <= slack + active,
            "{came} frames came and {to_host} went to the host, not {served}"
        );
        Ok(went)
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
    traffic: Traffic,
    first: Option<Counts>,
    /// What it had done at the first look since it was let go.
    mark: Option<Counts>,
    /// What it did between looks, and in how many frames.
    cycles: [u64; 5],
    frames: u64,
}

impl Ours {
    /// Starts it, paused.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(spec: &node::Spec, traffic: &Traffic) -> Result<Self> {
        Ok(Self {
            node: Node::start(spec)?,
            traffic: *traffic,
            first: None,
            mark: None,
            cycles: [0; 5],
            frames: 0,
        })
    }

    /// Of the time-stamp counter, by stage. The time that it was stopped is not in it.
    fn cycles_per_frame(&self) -> serde_json::Value {
        let stages = Stage::ALL.iter().zip(self.cycles);
        stages
            .map(|(stage, n)| {
                (
                    stage.name().to_owned(),
                    (n as f64 / self.frames as f64).into(),
                )
            })
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    fn check(&self, before: &Counts, now: &Counts) -> Result<u64> {
        self.traffic.check(&now.since(before))
    }
}

impl Side for Ours {
    fn resume(&mut self) -> Result<()> {
        self.mark = None;
        self.node.resume()
    }

    fn pause(&mut self) -> Result<()> {
        self.node.pause()
    }

    fn done(&mut self) -> Result<u64> {
        let now = self.node.counts()?;
        if let Some(mark) = self.mark.replace(now.clone()) {
            let done = now.since(&mark);
            self.frames += done.rx.iter().sum::<u64>();
            for (sum, n) in self.cycles.iter_mut().zip(done.cycles) {
                *sum += n;
            }
        }
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
    let t = Traffic::new(Way::In, flows, 1);
    let node = Node::start(&t.spec())?;
    let bytes = node.ready.bytes as f64 / f64::from(flows);
    let (goal, floor) = (128.0, 192.0);
    let entry = Entry::of(&[(bytes, floor)], "bytes/FCB", "the floor");
    Ok(entry
        .with("resident", flows)
        .with("active", 0)
        .with("lookups", "none")
        .with("goal", goal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_frames_is_the_nodes_own() {
        let t = Traffic::new(Way::Share, 10_000, 640).in_cluster_of(64);
        let flows = t.active_flows().unwrap();
        assert_eq!(flows.len(), 640);
        assert_eq!(flows.iter().filter(|&&n| n < 10_000).count(), 10);
        assert!(flows[..320].iter().any(|&n| n < 10_000));
        assert_eq!(t.lookups(), "10 hits, 630 misses");
        let t = Traffic::new(Way::Discard, 10_000, 64);
        assert!(t.active_flows().unwrap().iter().all(|&n| n >= 10_000));
    }

    #[test]
    fn frames_that_go_elsewhere_are_found() {
        let t = Traffic::new(Way::Share, 10_000, 64).in_cluster_of(4);
        let mut c = Counts::default();
        c.rx[Port::Wire.index()] = 1_000_000;
        c.tx[Port::WireHost.index()] = 250_000;
        c.drops = vec![("no_flow".into(), 750_000)];
        assert_eq!(t.check(&c).unwrap(), 1_000_000);
        c.drops[0].1 -= 2_000;
        t.check(&c).unwrap_err();
        c.drops[0].1 = 760_000;
        c.tx[Port::WireHost.index()] = 240_000;
        t.check(&c).unwrap_err();
    }
}
