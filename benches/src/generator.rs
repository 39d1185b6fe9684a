//! Clients and the own stack of a node, in a process of their own: requests by one memif
//! port, the responses to what comes out of the other, and a flood of SYNs beside them.
//!
//! Requests go in a closed loop, a window of them being on their way, or at a fixed
//! pace. They stand in a queue before the flood's: what is left of a ring's room is the
//! flood's.

use crate::child::{self, Talker};
use crate::exchange::{Exchanges, FRAME, Seen};
use crate::flows;
use crate::node;
use anyhow::{Context, Result, ensure};
use dpdk::{Burst, Eal, Mbuf, Mempool, Port, PortConf, RxQueue, TxQueue, hotplug};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// Packet buffers.
const BUFFERS: u32 = 16_383;
/// Frames that are kept to be filled again.
const STOCK: usize = 1_024;
/// What is still on its way this long after the last request is lost.
const DRAIN: Duration = Duration::from_millis(500);
/// Turns between two looks at the orders, and at the counters from outside.
const TURNS: u32 = 64;

/// How requests are sent.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Pace {
    /// So many are on their way at any time.
    Window(u32),
    /// So many per second, whatever comes back.
    PerSecond(u32),
}

/// What it is started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// Abstract socket of both ports.
    pub socket: String,
    /// Its core.
    pub core: u16,
    /// Hugepages, or pages of the usual size.
    pub hugepages: bool,
    /// Megabytes of packet memory.
    pub megabytes: u64,
    /// Flows that the node serves.
    pub resident: u32,
    /// Flows that ask.
    pub active: u32,
    /// What is between translates.
    pub translated: bool,
    /// How requests are sent.
    pub pace: Pace,
    /// Different SYNs of the flood, of clients that the node owns; 0 for none.
    pub syns: u32,
}

/// Device strings of the other ends of its ports: the wire's and its twin's.
#[must_use]
pub fn devices(socket: &str) -> [String; 2] {
    [0, 1].map(|id| device("client", socket, id))
}

fn device(role: &str, socket: &str, id: usize) -> String {
    format!("net_memif{id},role={role},id={id},socket={socket}")
}

/// What it has counted, since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests that were to be sent by now.
    pub due: u64,
    /// Requests sent.
    pub requests: u64,
    /// Responses that came to the wire as they should be.
    pub done: u64,
    /// Frames that came out otherwise than they should.
    pub strays: u64,
    /// SYNs of the flood that went into the wire.
    pub syns: u64,
    /// SYNs that came to the host.
    pub passed: u64,
    /// Bursts of the flood of which the wire's ring did not take all: what is behind it
    /// was busy.
    pub full: u64,
}

impl Counts {
    const FIELDS: usize = 7;

    fn array(self) -> [u64; Self::FIELDS] {
        [
            self.due,
            self.requests,
            self.done,
            self.strays,
            self.syns,
            self.passed,
            self.full,
        ]
    }

    fn of([due, requests, done, strays, syns, passed, full]: [u64; Self::FIELDS]) -> Self {
        Self {
            due,
            requests,
            done,
            strays,
            syns,
            passed,
            full,
        }
    }

    /// What was counted since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        let (now, then) = (self.array(), before.array());
        Self::of(std::array::from_fn(|i| now[i] - then[i]))
    }
}

/// What the thread that polls shares with the one that listens to the parent.
#[derive(Debug, Default)]
struct Shared {
    go: AtomicBool,
    /// Nothing is on its way.
    idle: AtomicBool,
    over: AtomicBool,
    counts: [AtomicU64; Counts::FIELDS],
}

/// One port's queues and what waits to be sent.
struct End {
    rx: RxQueue,
    tx: TxQueue,
    waiting: Burst,
    // Closed after its queues are given back.
    _port: Port,
}

impl End {
    fn new(device: &str, pool: &Mempool) -> Result<Self> {
        let port = hotplug::attach_one(device)?;
        port.configure(&PortConf::default())?;
        port.setup_queues(std::slice::from_ref(pool))?;
        port.start()?;
        Ok(Self {
            rx: port.rx_queue(0)?,
            tx: port.tx_queue(0)?,
            waiting: Burst::new(),
            _port: port,
        })
    }
}

struct Generator {
    pace: Pace,
    exchanges: Exchanges,
    flood: Vec<Vec<u8>>,
    pool: Mempool,
    wire: End,
    host: End,
    /// SYNs that the wire's ring did not take.
    syns: Burst,
    stock: Vec<Mbuf>,
    next: usize,
    next_syn: usize,
    counts: Counts,
    /// Requests that had no response in time.
    lost: u64,
    /// When it was let go, and the requests that were due then.
    since: (Instant, u64),
}

/// The process: it works until its standard input ends.
///
/// # Errors
/// It cannot start, or its parent is gone.
pub fn run(spec: &Spec) -> Result<()> {
    let shared = Arc::new(Shared::default());
    // The EAL pins the calling thread and those that it starts later.
    let (ready, is_ready) = mpsc::channel();
    let ours = Arc::clone(&shared);
    let listener = std::thread::spawn(move || listen(&ours, &is_ready));
    let prefix = format!("dtsgen{}", std::process::id());
    let mut options: Vec<String> = ["--no-telemetry", "--no-pci", "--file-prefix", &prefix]
        .map(str::to_owned)
        .into();
    options.extend(["-m".into(), spec.megabytes.to_string()]);
    options.extend(["--lcores".into(), format!("0@{}", spec.core)]);
    if spec.hugepages {
        options.push("--in-memory".into());
    } else {
        options.extend(["--no-huge".into(), "--no-shconf".into()]);
    }
    dpdk::log::set_target(dpdk::log::Target::Quiet);
    let _eal = Eal::init(&options)?;
    let pool = Mempool::new("generator", BUFFERS, 256, dpdk::DEFAULT_DATA_ROOM, None)?;
    let mut generator = Generator {
        pace: spec.pace,
        exchanges: Exchanges::new(spec.active, spec.resident, spec.translated),
        flood: flood(spec)?,
        wire: End::new(&device("server", &spec.socket, 0), &pool)?,
        host: End::new(&device("server", &spec.socket, 1), &pool)?,
        pool,
        syns: Burst::new(),
        stock: Vec::with_capacity(STOCK),
        next: 0,
        next_syn: 0,
        counts: Counts::default(),
        lost: 0,
        since: (Instant::now(), 0),
    };
    ready.send(()).context("nobody listens")?;
    generator.work(&shared);
    listener.join().expect("it does not panic")
}

/// SYNs of flows that the node owns and does not know.
fn flood(spec: &Spec) -> Result<Vec<Vec<u8>>> {
    let view = node::view(&node::Spec::plain(spec.resident, 0), [[2; 6], [4; 6]])?;
    let owned = flows::owned(&view, spec.resident, true);
    Ok(owned
        .take(spec.syns as usize)
        .map(flows::bare_syn)
        .collect())
}

/// Carries out the parent's orders.
fn listen(shared: &Shared, ready: &mpsc::Receiver<()>) -> Result<()> {
    if ready.recv().is_err() {
        // What the other thread has to say of it is on standard error.
        return Ok(());
    }
    child::say(&Counts::default())?;
    for line in std::io::stdin().lines() {
        match line?.as_str() {
            "go" => {
                shared.idle.store(false, Relaxed);
                shared.go.store(true, Relaxed);
            }
            "halt" => {
                shared.go.store(false, Relaxed);
                while !shared.idle.load(Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            _ => {}
        }
        let counts = std::array::from_fn(|i| shared.counts[i].load(Relaxed));
        child::say(&Counts::of(counts))?;
    }
    shared.go.store(false, Relaxed);
    shared.over.store(true, Relaxed);
    Ok(())
}

impl Generator {
    fn work(&mut self, shared: &Shared) {
        let mut going = false;
        let mut last = Instant::now();
        while !shared.over.load(Relaxed) {
            let go = shared.go.load(Relaxed);
            if go && !going {
                self.since = (Instant::now(), self.counts.due);
            }
            if go || going {
                last = Instant::now();
            }
            going = go;
            for _ in 0..TURNS {
                self.turn(going);
            }
            for (cell, n) in shared.counts.iter().zip(self.counts.array()) {
                cell.store(n, Relaxed);
            }
            if !going && (self.on_the_way() == 0 || last.elapsed() > DRAIN) {
                // What is lost does not come any more, and nobody waits for it.
                self.lost += self.on_the_way();
                self.wire.waiting.clear();
                self.syns.clear();
                shared.idle.store(true, Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }

    fn on_the_way(&self) -> u64 {
        self.counts
            .requests
            .saturating_sub(self.counts.done + self.lost)
    }

    fn turn(&mut self, going: bool) {
        self.answer();
        self.take_responses();
        if going {
            self.ask();
            self.flood();
        }
    }

    /// The own stack: a response to each request that came out.
    fn answer(&mut self) {
        let mut came = Burst::new();
        self.host.rx.burst(&mut came);
        for mut frame in came.drain() {
            match self.exchanges.at_host(frame.data()) {
                Seen::Due(i) => {
                    frame.data_mut().copy_from_slice(self.exchanges.response(i));
                    if let Err(_full) = self.host.waiting.push(frame) {
                        self.counts.strays += 1;
                    }
                }
                Seen::Syn => self.counts.passed += 1,
                Seen::Stray => self.counts.strays += 1,
            }
        }
        // The ring is larger than any window: it does not stay full.
        while self.host.tx.burst(&mut self.host.waiting) > 0 {}
    }

    fn take_responses(&mut self) {
        let mut came = Burst::new();
        self.wire.rx.burst(&mut came);
        for frame in came.drain() {
            match self.exchanges.at_wire(frame.data()) {
                Seen::Due(_) => {
                    self.counts.done += 1;
                    if self.stock.len() < STOCK {
                        self.stock.push(frame);
                    }
                }
                Seen::Syn | Seen::Stray => self.counts.strays += 1,
            }
        }
    }

    /// Sends what requests are due.
    fn ask(&mut self) {
        let room = self.wire.waiting.room() as u64;
        let queued = self.wire.waiting.len() as u64;
        let more = match self.pace {
            Pace::Window(w) => {
                let more = u64::from(w).saturating_sub(self.on_the_way() + queued);
                self.counts.due += more.min(room);
                more
            }
            Pace::PerSecond(rate) => {
                let (start, before) = self.since;
                let elapsed = start.elapsed().as_nanos();
                let due = (elapsed * u128::from(rate) / 1_000_000_000) as u64;
                self.counts.due = before + due;
                self.counts
                    .due
                    .saturating_sub(self.counts.requests + queued)
            }
        };
        for _ in 0..more.min(room) {
            let frame = self.stock.pop().or_else(|| self.blank());
            let Some(mut frame) = frame else { break };
            frame
                .data_mut()
                .copy_from_slice(self.exchanges.request(self.next));
            self.next = (self.next + 1) % self.exchanges.count();
            // Room was asked for.
            let _ = self.wire.waiting.push(frame);
        }
        self.counts.requests += self.wire.tx.burst(&mut self.wire.waiting) as u64;
    }

    fn blank(&self) -> Option<Mbuf> {
        let mut frame = self.pool.alloc()?;
        frame.append(FRAME as u16)?;
        Some(frame)
    }

    /// Fills what is left of the wire's ring with SYNs.
    fn flood(&mut self) {
        if self.flood.is_empty() {
            return;
        }
        while !self.syns.is_full() {
            let Some(frame) = self.pool.alloc_from(&self.flood[self.next_syn]) else {
                break;
            };
            self.next_syn = (self.next_syn + 1) % self.flood.len();
            // Room was asked for.
            let _ = self.syns.push(frame);
        }
        self.counts.syns += self.wire.tx.burst(&mut self.syns) as u64;
        self.counts.full += u64::from(!self.syns.is_empty());
    }
}

/// The process as its parent sees it, halted at first.
#[derive(Debug)]
pub struct Clients {
    process: Talker,
    started: Option<Counts>,
}

impl Clients {
    /// Starts it; its ports are there then for others to connect to.
    ///
    /// # Errors
    /// What it says on standard error.
    pub fn start(spec: &Spec) -> Result<Self> {
        let mut process = Talker::start("generator", spec)?;
        let _: Counts = process.hear()?;
        Ok(Self {
            process,
            started: None,
        })
    }

    /// Lets it send.
    ///
    /// # Errors
    /// It is gone.
    pub fn go(&mut self) -> Result<()> {
        self.started = Some(self.process.ask("go")?);
        Ok(())
    }

    /// What it has counted by now.
    ///
    /// # Errors
    /// It is gone.
    pub fn counts(&mut self) -> Result<Counts> {
        self.process.ask("counts")
    }

    /// Lets it send no more and waits for what is on its way.
    ///
    /// # Errors
    /// It is gone; or more than one request in a thousand since [`Clients::go`] has no
    /// response, or other frames came out. `lossy` allows for lost ones.
    pub fn halt(&mut self, lossy: bool) -> Result<Counts> {
        let now: Counts = self.process.ask("halt")?;
        let turn = now.since(self.started.take().unwrap_or_default());
        let lost = turn.requests.abs_diff(turn.done);
        ensure!(
            (lossy || lost <= turn.requests / 1_000) && turn.strays <= turn.requests / 1_000,
            "of {} requests {} have their response, and {} frames came out otherwise",
            turn.requests,
            turn.done,
            turn.strays
        );
        Ok(turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_what_came_since() {
        let then = Counts::of([1, 2, 3, 4, 5, 6, 7]);
        let now = Counts::of([11, 12, 13, 14, 15, 16, 17]);
        assert_eq!(now.since(then), Counts::of([10; 7]));
        assert_eq!(Counts::of(now.array()), now);
    }

    #[test]
    fn the_flood_is_of_clients_that_the_node_owns() {
        let spec = Spec {
            socket: "none".into(),
            core: 0,
            hugepages: false,
            megabytes: 0,
            resident: 10,
            active: 10,
            translated: true,
            pace: Pace::Window(1),
            syns: 50,
        };
        let frames = flood(&spec).unwrap();
        assert_eq!(frames.len(), 50);
        let first = flows::bare_syn(9);
        assert!(frames.iter().all(|f| f.len() == first.len() && *f != first));
    }
}
