//! A node's data plane in a process of its own: real configuration, real workers,
//! resident flows. The parent lets it work, stops it while others are measured, and
//! asks it for its counters.

use crate::child::{self, Talker};
use crate::flows;
use anyhow::{Context, Result, bail, ensure};
use arc_swap::ArcSwap;
use dts_core::drops::Drop as Reason;
use dts_core::frame::Port;
use dts_core::key::Addr;
use dts_core::steer;
use dts_core::time::Instant;
use dts_core::view::View;
use dts_worker::{Fleet, start};
use dtsd::snapshot::{self, Boot};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// Secret of all runs: which worker a client belongs to.
const STEER: [u8; 16] = *b"benchmark steer.";

/// What a node is started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// Device strings of wire, its twin, link and its twin.
    pub devices: [String; 4],
    /// Cores of the workers.
    pub cores: Vec<u16>,
    /// Queues of the wire.
    pub queues: u16,
    /// Packet buffers of each worker.
    pub mbufs: u32,
    /// Bytes of a buffer, where not those of the MTU.
    pub room: Option<u16>,
    /// Hugepages, or pages of the usual size.
    pub hugepages: bool,
    /// Megabytes of packet memory.
    pub megabytes: u64,
    /// Flows that are served when it starts, of all workers.
    pub resident: u32,
    /// FCBs of each worker, at least.
    pub room_for: u32,
    /// Nodes of the cluster, of which this is the first; each owns as many flows.
    pub members: u16,
}

/// Devices for a port that nothing comes from, and that takes everything.
#[must_use]
pub fn sink(port: Port) -> String {
    format!("net_null{},no-rx=1", port.index())
}

impl Spec {
    /// A node of three with one worker on core 1 whose ports are connected to nothing, pages
    /// of the usual size, `resident` flows and room for `more`.
    #[must_use]
    pub fn plain(resident: u32, more: u32) -> Self {
        Self {
            devices: Port::ALL.map(sink),
            cores: vec![1],
            queues: 1,
            mbufs: 16_384,
            room: None,
            hugepages: false,
            megabytes: 128,
            resident,
            room_for: resident + more,
            members: 3,
        }
    }

    /// The configuration file.
    #[must_use]
    pub fn yaml(&self) -> String {
        let [wire, wire_host, link, link_host] = &self.devices;
        let cores: Vec<String> = self.cores.iter().map(u16::to_string).collect();
        let members: String = (1..=self.members)
            .map(|n| format!("    - {{ id: {n}, name: n{n}, link: 10.77.1.{n} }}\n"))
            .collect();
        format!(
            "node: 1
cluster:
  name: bench
  key: 00112233445566778899aabbccddeeff
  mac: 02:00:5e:00:00:64
  members:
{members}services: [{{ name: web, vip: 192.0.2.1, port: 80, proxy_port: 8001, application_port: {app} }}]
ports:
  wire: {{ device: \"{wire}\", queues: {queues}, host: {{ device: \"{wire_host}\" }} }}
  link: {{ device: \"{link}\", host: {{ device: \"{link_host}\" }} }}
workers: {{ cores: [{cores}], idle: spin }}
# The other members are names.
peers: {{ hello_ms: 0 }}
memory:
  hugepages: {huge}
  megabytes: {megabytes}
  mbufs: {mbufs}
  flows: {flows}
",
            app = flows::APP_PORT,
            queues = self.queues,
            cores = cores.join(", "),
            huge = self.hugepages,
            megabytes = self.megabytes,
            mbufs = self.mbufs,
            flows = self.resident.max(self.room_for).max(1024),
        )
    }
}

/// The view of a node with this configuration.
///
/// # Errors
/// The configuration is not valid.
pub fn view(spec: &Spec, macs: [[u8; 6]; 2]) -> Result<View> {
    let config = dts_config::parse(&spec.yaml(), "bench.yaml").context("the configuration")?;
    let boot = Boot {
        incarnation: 1,
        steer_key: STEER,
    };
    Ok(snapshot::build(&config, boot, macs[0], macs[1]))
}

/// A node's counters at a moment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    /// When, nanoseconds of its clock.
    pub at: u64,
    /// Frames received, by port.
    pub rx: [u64; 4],
    /// Frames sent, by port.
    pub tx: [u64; 4],
    /// Drops by reason, those that are not 0.
    pub drops: Vec<(String, u64)>,
    /// FCBs in use.
    pub flows: u64,
    /// Cycles by [`Stage`](dts_worker::Stage), all workers together.
    pub cycles: [u64; 5],
}

impl Counts {
    /// Frames dropped for one reason.
    #[must_use]
    pub fn dropped(&self, reason: Reason) -> u64 {
        let entry = self.drops.iter().find(|(name, _)| name == reason.name());
        entry.map_or(0, |(_, n)| *n)
    }

    /// What came since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let minus = |now: &[u64; 4], then: &[u64; 4]| std::array::from_fn(|i| now[i] - then[i]);
        let earlier = |name: &str| {
            let entry = before.drops.iter().find(|(n, _)| n == name);
            entry.map_or(0, |(_, n)| *n)
        };
        let drops = self.drops.iter();
        Self {
            at: self.at - before.at,
            rx: minus(&self.rx, &before.rx),
            tx: minus(&self.tx, &before.tx),
            drops: drops
                .map(|(name, n)| (name.clone(), n - earlier(name)))
                .collect(),
            flows: self.flows,
            cycles: std::array::from_fn(|i| self.cycles[i] - before.cycles[i]),
        }
    }
}

/// What a node says once it works.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ready {
    /// Resident flows.
    pub flows: u64,
    /// Bytes by which the process grew for its tables and flows.
    pub bytes: u64,
}

/// The node's process: it works until its standard input ends.
///
/// # Errors
/// It cannot start, or its parent is gone.
pub fn run(spec: &Spec) -> Result<()> {
    let config = dts_config::parse(&spec.yaml(), "bench.yaml").context("the configuration")?;
    let opened = match spec.room {
        Some(room) => start::open_with(&config, room),
        None => start::open(&config),
    }?;
    let view = view(spec, [opened.wire_mac, opened.link_mac])?;
    let (workers, filled) = (spec.cores.len(), spec.resident);
    let (events, _inbox) = crossbeam_channel::unbounded();
    let before = resident_bytes()?;
    let mut missing = 0u64;
    let filling = view.clone();
    let fleet = Fleet::spawn_with(
        opened,
        Arc::new(ArcSwap::from_pointee(view)),
        events,
        |worker, shard| {
            for n in 0..filled {
                let r = flows::resident(n);
                let (client, port) = (Addr::from(r.id.client.ip()), r.id.client.port());
                if workers == 1
                    || steer::worker_of_client(&filling, &client, port, workers) == worker
                {
                    missing += u64::from(!shard.enter(&filling, &r, Instant(0)));
                }
            }
        },
    )?;
    ensure!(missing == 0, "{missing} flows found no room");
    std::thread::sleep(Duration::from_millis(20));
    let ready = Ready {
        flows: u64::from(filled),
        bytes: resident_bytes()?.saturating_sub(before),
    };
    child::say(&ready)?;
    for line in std::io::stdin().lines() {
        line?;
        if let Some(why) = fleet.failed() {
            bail!(why);
        }
        child::say(&counts(&fleet))?;
    }
    fleet.stop()?;
    Ok(())
}

fn counts(fleet: &Fleet) -> Counts {
    let mut all = Counts {
        at: fleet.now().0,
        ..Counts::default()
    };
    for s in fleet.stats() {
        for (i, p) in s.ports.iter().enumerate() {
            all.rx[i] += p.rx_packets;
            all.tx[i] += p.tx_packets;
        }
        all.flows += s.flows;
        for (sum, n) in all.cycles.iter_mut().zip(s.cycles) {
            *sum += n;
        }
        for why in Reason::ALL.iter().filter(|&&w| s.drops.get(w) > 0) {
            let (name, n) = (why.name().to_owned(), s.drops.get(*why));
            match all.drops.iter_mut().find(|(have, _)| *have == name) {
                Some((_, sum)) => *sum += n,
                None => all.drops.push((name, n)),
            }
        }
    }
    all
}

/// Bytes of memory that this process has in use, apart from hugepages.
fn resident_bytes() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib = line.and_then(|l| l.trim().strip_suffix(" kB"));
    Ok(kib.context("no VmRSS")?.trim().parse::<u64>()? * 1024)
}

/// A node's process as its parent sees it. It does not run but between
/// [`Node::resume`] and [`Node::pause`].
#[derive(Debug)]
pub struct Node {
    process: Talker,
    /// What it said when it was ready.
    pub ready: Ready,
}

impl Node {
    /// Starts it, fills it and stops it.
    ///
    /// # Errors
    /// What it says on standard error; or it says nothing.
    pub fn start(spec: &Spec) -> Result<Self> {
        let mut process = Talker::start("node", spec)?;
        let ready = process.hear()?;
        let node = Self { process, ready };
        node.pause()?;
        Ok(node)
    }

    /// Stops all of it, and the polling with it.
    ///
    /// # Errors
    /// It is gone.
    pub fn pause(&self) -> Result<()> {
        self.process.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// It is gone.
    pub fn resume(&self) -> Result<()> {
        self.process.signal(Signal::SIGCONT)
    }

    /// Its counters now; it must not be paused.
    ///
    /// # Errors
    /// It is gone.
    pub fn counts(&mut self) -> Result<Counts> {
        self.process.ask("counts")
    }
}
