//! All workers of a node, from the outside.

use std::any::Any;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use core_affinity::CoreId;
use crossbeam::channel::{Sender, TrySendError, bounded};
use crossbeam::utils::CachePadded;
use dpdk::{Producer, Ring};
use dts_core::command::{Command, Event};
use dts_core::frame::Port;
use dts_core::shard::{Shard, Sizes};
use dts_core::steer;
use dts_core::time::Instant;
use dts_core::view::View;

use crate::egress::{Egress, Route, Tx};
use crate::start::{Opened, StartError};
use crate::stats::{Block, Laps, PortSnapshot, WorkerSnapshot};
use crate::worker::{Clock, Worker};
use dpdk::wait::{Waiter, Waker};

/// Commands that may wait for a worker.
const COMMANDS: usize = 256;
/// Frames that may wait for a worker in its ring.
const RING: u32 = 1024;
/// Frames that may wait for a transmit queue, and their share of a pool.
const BACKLOG: usize = 512;
const BACKLOG_SHARE: usize = 16;
/// A worker's sleeps end this many nanoseconds late at most, apart from
/// scheduling; the kernel's default is 50 us.
const TIMER_SLACK_NS: u64 = 1_000;

/// Longest sleep of a worker that is woken by whatever comes: counters and the walk
/// over all FCBs do not wait longer.
const LONGEST_SLEEP: Duration = Duration::from_millis(10);

/// One worker as its fleet sees it.
struct Member {
    thread: JoinHandle<()>,
    commands: Sender<Command>,
    waker: Waker,
    block: Arc<CachePadded<Block>>,
}

/// The running workers of a node and the ports under them. Dropping it without
/// [`Fleet::stop`] stops the workers too, but leaves the EAL up.
pub struct Fleet {
    members: Vec<Member>,
    opened: Option<Opened>,
    views: Arc<ArcSwap<View>>,
    clock: Clock,
    stop: Arc<AtomicBool>,
    failure: Arc<Mutex<Option<String>>>,
}

impl Fleet {
    /// Starts one worker per configured core. Each sends its events, with its
    /// number, to `events`; a worker never waits for room there.
    ///
    /// # Errors
    /// A ring or a thread cannot be made, or a thread not be pinned. Everything
    /// is undone then, the EAL included.
    pub fn spawn(
        opened: Opened,
        views: Arc<ArcSwap<View>>,
        events: Sender<(usize, Event)>,
    ) -> Result<Self, StartError> {
        Self::spawn_with(opened, views, events, |_, _| ())
    }

    /// As [`Fleet::spawn`]; `fill` sees each worker's number and its empty shard
    /// before the first frame does. Benchmarks enter their flows there.
    ///
    /// # Errors
    /// Those of [`Fleet::spawn`].
    pub fn spawn_with(
        opened: Opened,
        views: Arc<ArcSwap<View>>,
        events: Sender<(usize, Event)>,
        mut fill: impl FnMut(usize, &mut Shard),
    ) -> Result<Self, StartError> {
        let mut fleet = Fleet {
            members: Vec::new(),
            opened: None,
            views,
            clock: Clock::start(),
            stop: Arc::default(),
            failure: Arc::default(),
        };
        let result = fleet.spawn_all(&opened, &events, &mut fill);
        fleet.opened = Some(opened);
        if let Err(error) = result {
            // The first error is the one to tell.
            let _ = fleet.stop();
            return Err(error);
        }
        Ok(fleet)
    }

    fn spawn_all(
        &mut self,
        o: &Opened,
        events: &Sender<(usize, Event)>,
        fill: &mut impl FnMut(usize, &mut Shard),
    ) -> Result<(), StartError> {
        let workers = o.cores.len();
        let rings = (0..workers)
            .map(|w| Ring::new(&format!("dts_ring{w}"), RING))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| StartError::new("memory.megabytes", e))?;
        let producers: Vec<Producer> = rings.iter().map(Ring::producer).collect();
        let (ready, readiness) = bounded(workers);
        for (number, ring) in rings.into_iter().enumerate() {
            let (commands, inbox) = bounded(COMMANDS);
            let block = Arc::new(CachePadded::new(Block::default()));
            let sizes = Sizes {
                worker: number,
                workers,
                flows: o.flows,
                hold: o.hold,
            };
            let view = self.views.load_full();
            // The key is random per boot and known to nobody else; the two
            // uses hash messages of different length.
            let mut shard = Shard::new(sizes, view.steer_key, &view);
            fill(number, &mut shard);
            let rx = rx_queues(o, number)?;
            let (mut waiter, waker) =
                Waiter::new().map_err(|e| StartError::new("workers.idle", e.to_string()))?;
            let mut woken = true;
            for (port, queue) in &rx {
                woken &= waiter.watch(queue, o.info(*port));
            }
            // The ring from another worker wakes nobody.
            let idle_sleep = if woken && workers == 1 {
                LONGEST_SLEEP
            } else {
                o.idle_sleep
            };
            let worker = Worker {
                number,
                workers,
                clock: self.clock,
                rx,
                vlans: Port::ALL.map(|p| o.finish(p).vlan),
                ring,
                egress: Egress::new(
                    o.pools[number].clone(),
                    o.gso.get(number).map(dpdk::Gso::share),
                    routes(o, number)?,
                    producers.clone(),
                ),
                shard,
                views: Cache::new(Arc::clone(&self.views)),
                commands: inbox,
                events: events.clone(),
                unsent: VecDeque::new(),
                block: Arc::clone(&block),
                received: Default::default(),
                counts: WorkerSnapshot::default(),
                idle: o.idle,
                idle_sleep,
                waiter,
                stop: Arc::clone(&self.stop),
                looked: Box::default(),
                laps: Laps::start(),
            };
            let (core, signals) = (o.cores[number], o.has_tap());
            let (ready, failure) = (ready.clone(), Arc::clone(&self.failure));
            let thread = thread::Builder::new()
                .name(format!("dts-worker{number}"))
                .spawn(move || {
                    guard(number, &failure, || {
                        // Dropped after the worker: its buffers go to the pool's
                        // cache of this thread's lcore.
                        let _lcore = match enter(core, signals) {
                            Ok(lcore) => lcore,
                            Err(error) => return drop(ready.send(Err(error))),
                        };
                        // A spawner that does not wait has failed, and stops us.
                        let _ = ready.send(Ok(()));
                        // It waits for the end of the last sender.
                        drop(ready);
                        // It takes the queues along before the lcore ends.
                        worker.run();
                    });
                })
                .map_err(|e| StartError::new("workers.cores", format!("no thread: {e}")))?;
            self.members.push(Member {
                thread,
                commands,
                waker,
                block,
            });
        }
        drop(ready);
        for result in readiness {
            result?;
        }
        Ok(())
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.members.len()
    }

    /// The worker that has the flows of a client's address and port.
    pub fn worker_of(&self, client: SocketAddr) -> usize {
        let view = self.views.load();
        steer::worker_of_client(&view, &client.ip().into(), client.port(), self.workers())
    }

    /// Asks a worker for something; it looks within microseconds, and an idle one
    /// is woken.
    ///
    /// # Errors
    /// The command, where the worker's queue is full, the worker is gone, or
    /// there is no such worker.
    pub fn command(&self, worker: usize, command: Command) -> Result<(), Command> {
        match self.members.get(worker) {
            None => Err(command),
            Some(m) => match m.commands.try_send(command) {
                Ok(()) => {
                    m.waker.wake();
                    Ok(())
                }
                Err(TrySendError::Full(c) | TrySendError::Disconnected(c)) => Err(c),
            },
        }
    }

    /// The time as the workers see it, as in the times of events.
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Every worker's counters.
    pub fn stats(&self) -> Vec<WorkerSnapshot> {
        let opened = self.opened.as_ref();
        let snapshot = |(worker, m): (usize, &Member)| {
            let mut s = m.block.load();
            s.worker = worker;
            if let Some(o) = opened {
                s.core = o.cores[worker];
                s.mbufs_used = o.pools[worker].in_use().into();
                s.mbufs_capacity = o.pools[worker].capacity().into();
            }
            s
        };
        self.members.iter().enumerate().map(snapshot).collect()
    }

    /// What the drivers of the ports say, by [`Port::index`].
    pub fn ports(&self) -> [PortSnapshot; 4] {
        match &self.opened {
            Some(o) => Port::ALL.map(|p| o.snapshot(p)),
            None => Default::default(),
        }
    }

    /// Why a worker is gone, if one is; the node cannot go on without it.
    pub fn failed(&self) -> Option<String> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.clone()
    }

    /// Stops: every worker leaves its queues, then ports, pools and the EAL go.
    ///
    /// # Errors
    /// The first thing that could not be ended. The others are ended all the
    /// same; after such an error packet buffers are lost or a device is stuck,
    /// and only the end of the process helps.
    pub fn stop(mut self) -> Result<(), dpdk::Error> {
        self.join();
        match self.opened.take() {
            Some(opened) => opened.close(),
            None => Ok(()),
        }
    }

    fn join(&mut self) {
        self.stop.store(true, Relaxed);
        for member in self.members.drain(..) {
            // A panic was noted by the thread itself.
            let _ = member.thread.join();
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.join();
    }
}

/// What a thread does before it may poll.
fn enter(core: u16, signals: bool) -> Result<dpdk::thread::Registered, StartError> {
    let fail = |reason: String| StartError::new("workers.cores", reason);
    let lcore = dpdk::thread::register().map_err(|e| fail(e.to_string()))?;
    if !core_affinity::set_for_current(CoreId { id: core.into() }) {
        return Err(fail(format!("a thread cannot be pinned to core {core}")));
    }
    nix::sys::prctl::set_timerslack(TIMER_SLACK_NS)
        .map_err(|e| fail(format!("the timer slack cannot be set: {e}")))?;
    if signals {
        dpdk::signals::unblock_realtime().map_err(|e| fail(e.to_string()))?;
    }
    Ok(lcore)
}

fn rx_queues(o: &Opened, worker: usize) -> Result<Vec<(Port, dpdk::RxQueue)>, StartError> {
    let mut queues = Vec::new();
    for port in Port::ALL {
        for q in (0..o.queues(port)).filter(|&q| usize::from(q) % o.cores.len() == worker) {
            let queue = o.port(port).rx_queue(q);
            queues.push((port, queue.map_err(|e| StartError::of_port(port, e))?));
        }
    }
    Ok(queues)
}

fn routes(o: &Opened, worker: usize) -> Result<[Route; 4], StartError> {
    let backlog = BACKLOG.min(o.mbufs / BACKLOG_SHARE);
    let route = |port: Port| -> Result<Route, StartError> {
        let queues = usize::from(o.queues(port));
        if worker >= queues {
            return Ok(Route::Via(worker % queues));
        }
        let queue = o.port(port).tx_queue(worker as u16);
        let queue = queue.map_err(|e| StartError::of_port(port, e))?;
        Ok(Route::Own(Box::new(Tx::new(
            queue,
            backlog,
            o.finish(port),
        ))))
    };
    let [a, b, c, d] = Port::ALL.map(route);
    Ok([a?, b?, c?, d?])
}

/// Runs a worker and notes its panic, the first one of all workers.
fn guard(number: usize, failure: &Mutex<Option<String>>, run: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
        let text = format!("worker {number} panicked: {}", message(&*panic));
        let mut slot = failure.lock().unwrap_or_else(PoisonError::into_inner);
        slot.get_or_insert(text);
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_panic_is_kept() {
        let failure = Mutex::default();
        guard(3, &failure, || {});
        assert_eq!(*failure.lock().unwrap(), None);
        guard(1, &failure, || panic!("at {}", 7));
        guard(0, &failure, || panic!("later"));
        assert_eq!(
            failure.lock().unwrap().as_deref(),
            Some("worker 1 panicked: at 7")
        );
    }
}
