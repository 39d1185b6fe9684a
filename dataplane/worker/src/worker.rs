//! One worker's loop.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use crossbeam::channel::{Receiver, Sender, TrySendError};
use crossbeam::utils::CachePadded;
use dpdk::wait::Waiter;
use dpdk::{Burst, Mbuf, Ring, RxQueue};
use dts_config::Idle;
use dts_core::ahead::{Ahead, BURST, Looked, lowest};
use dts_core::command::{Command, Event};
use dts_core::drops::{Drop, Drops};
use dts_core::frame::Port;
use dts_core::shard::Shard;
use dts_core::steer;
use dts_core::time::{Instant, Span};
use dts_core::view::View;

use crate::egress::Egress;
use crate::offload;
use crate::packet::{Packet, Passage};
use crate::stats::{Block, Laps, Stage, Traffic, WorkerSnapshot};

/// How often timers run and counters are published.
const TICK: Span = Span::millis(1);
/// How often the FCBs are counted by state, which walks them all.
const CENSUS: Span = Span::secs(1);
/// Turns between two looks at the command queue.
const COMMAND_TURNS: u64 = 4;
/// Commands per look.
const COMMANDS: usize = 16;
/// Bursts that are taken from the ring in one turn.
const RING_BURSTS: usize = 4;
/// Longest sleep while something waits for room elsewhere.
const RETRY: Duration = Duration::from_micros(100);
/// Frames whose FCBs are asked for before their turn: enough of them for the way to memory,
/// and no more than a core keeps count of.
const LEAD: usize = 16;
/// Frames whose FCBs are asked for together, so that the walks through the page tables go on
/// side by side: a core does not go on over many instructions while one is under way.
const TOGETHER: usize = 8;
/// Empty turns before an idle worker sleeps.
const PATIENCE: u32 = 64;

/// The clock that all workers and the control thread share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(std::time::Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(std::time::Instant::now())
    }

    #[inline]
    pub(crate) fn now(&self) -> Instant {
        // 64 bits of nanoseconds last 584 years.
        Instant(self.0.elapsed().as_nanos() as u64)
    }
}

/// Looks at all frames of a burst, so that what their turns need is on its way, and takes
/// those out that are certainly other nodes'. Returns the others' bits in what was seen.
#[inline]
fn look_ahead(
    shard: &mut Shard,
    view: &View,
    port: Port,
    burst: &mut Burst,
    looked: &mut Looked,
) -> u64 {
    const { assert!(Burst::CAPACITY == BURST) };
    let own_stack = is_own_stack(port);
    let frames = burst.iter().map(|mbuf| {
        let intact = mbuf.is_plain() || (!mbuf.is_bad() && (own_stack || mbuf.is_finished()));
        (mbuf.data(), intact)
    });
    looked.read(view, port, frames);
    let all = u64::MAX.checked_shr((BURST - burst.len()) as u32);
    let gone = shard.look(view, looked);
    burst.discard(gone);
    all.unwrap_or(0) & !gone
}

/// What comes in by this port is the own stack's.
#[inline(always)]
fn is_own_stack(port: Port) -> bool {
    matches!(port, Port::WireHost | Port::LinkHost)
}

/// Takes the tags of a port's VLAN off, and out those frames that do not bear it.
fn untag(burst: &mut Burst, id: u16, drops: &mut Drops) {
    let mut others = 0_u64;
    for (i, mbuf) in burst.iter_mut().enumerate() {
        if let Err(why) = offload::untag(mbuf, id) {
            drops.count(why);
            others |= 1 << i;
        }
    }
    burst.discard(others);
}

/// Takes priority tags off a frame from outside, and fills in what its checksum lacks.
fn prepare(mbuf: &mut Mbuf) -> Result<(), Drop> {
    offload::strip_priority(mbuf)?;
    if !mbuf.is_finished() {
        offload::complete_received(mbuf);
    }
    Ok(())
}

/// A frame that is not what most are: processed by the `number`-th of the workers, or handed
/// on to the one whose it is.
#[allow(clippy::too_many_arguments)]
#[inline(never)]
fn rest(
    shard: &mut Shard,
    out: &mut Egress,
    view: &View,
    port: Port,
    ahead: Ahead,
    mut mbuf: Mbuf,
    now: Instant,
    [number, workers]: [usize; 2],
) {
    if !is_own_stack(port)
        && !ahead.is_usual()
        && let Err(why) = prepare(&mut mbuf)
    {
        return out.drops.count(why);
    }
    let Some(packet) = Packet::new(mbuf) else {
        return out.drops.count(Drop::Malformed);
    };
    let worker = if ahead.is_mine() {
        number
    } else {
        steer::worker_of_frame(view, port, &packet, workers)
    };
    if worker == number {
        shard.ingress_rest(view, port, &ahead, packet, now, out);
    } else {
        out.pass(worker, Passage::In(port), packet.into_mbuf());
    }
}

/// All that one worker owns.
pub(crate) struct Worker {
    pub(crate) number: usize,
    pub(crate) workers: usize,
    pub(crate) clock: Clock,
    pub(crate) rx: Vec<(Port, RxQueue)>,
    /// The VLANs of the ports.
    pub(crate) vlans: [Option<u16>; 4],
    pub(crate) ring: Ring,
    pub(crate) egress: Egress,
    pub(crate) shard: Shard,
    pub(crate) views: Cache<Arc<ArcSwap<View>>, Arc<View>>,
    pub(crate) commands: Receiver<Command>,
    pub(crate) events: Sender<(usize, Event)>,
    pub(crate) unsent: VecDeque<Event>,
    pub(crate) block: Arc<CachePadded<Block>>,
    pub(crate) received: [Traffic; 4],
    pub(crate) counts: WorkerSnapshot,
    pub(crate) laps: Laps,
    pub(crate) idle: Idle,
    /// Longest sleep of an idle worker.
    pub(crate) idle_sleep: Duration,
    pub(crate) waiter: Waiter,
    pub(crate) stop: Arc<AtomicBool>,
    /// What was seen of the frames of a burst before their turns.
    pub(crate) looked: Box<Looked>,
}

impl Worker {
    /// Works until `stop`. What it has not sent by then is freed with it.
    pub(crate) fn run(mut self) {
        let mut burst = Burst::new();
        let (mut next_tick, mut next_census) = (Instant(0), Instant(0));
        let mut empty = 0;
        self.laps = Laps::start();
        while !self.stop.load(Relaxed) {
            let mut busy = false;
            let now = self.clock.now();
            let mut rx = std::mem::take(&mut self.rx);
            for (port, queue) in &mut rx {
                if queue.burst(&mut burst) > 0 {
                    self.laps.lap(Stage::Receive);
                    busy = true;
                    self.receive(*port, &mut burst, now);
                }
            }
            self.rx = rx;
            busy |= self.drain_ring(&mut burst, now);
            let look = empty > 0 || self.counts.loops.is_multiple_of(COMMAND_TURNS);
            if look && !self.commands.is_empty() {
                busy = true;
                self.obey(now);
            }
            if now >= next_tick || self.shard.next_timer().is_some_and(|t| now >= t) {
                next_tick = now + TICK;
                let view = self.views.load();
                self.shard.tick(view, now, &mut self.egress);
                let census = now >= next_census;
                if census {
                    next_census = now + CENSUS;
                }
                self.publish(census);
            }
            self.report();
            self.egress.flush();

            self.counts.loops += 1;
            if busy {
                self.laps.lap(Stage::Send);
                self.counts.busy_loops += 1;
                empty = 0;
            } else {
                self.laps.lap(Stage::Idle);
                empty += 1;
                // What the driver did not take is no reason to spin: it is
                // offered again after the sleep.
                if empty > PATIENCE && self.idle == Idle::Backoff {
                    self.sleep(now);
                } else {
                    std::hint::spin_loop();
                }
            }
        }
        self.egress.flush();
        self.publish(true);
    }

    /// A burst from a port: each frame is processed here or handed on.
    fn receive(&mut self, port: Port, burst: &mut Burst, now: Instant) {
        let view = self.views.load();
        let traffic = &mut self.received[port.index()];
        traffic.packets += burst.len() as u64;
        for mbuf in &*burst {
            mbuf.prefetch();
            traffic.bytes += u64::from(mbuf.pkt_len());
        }
        if let Some(id) = self.vlans[port.index()] {
            untag(burst, id, &mut self.egress.drops);
        }
        let mut turns = look_ahead(&mut self.shard, view, port, burst, &mut self.looked);
        self.laps.lap(Stage::Look);
        let mut asked = turns;
        for i in std::iter::from_fn(|| lowest(&mut asked)).take(LEAD) {
            self.shard.ask_for(&self.looked, i);
        }
        for (n, mbuf) in burst.drain().enumerate() {
            if n % TOGETHER == TOGETHER - 1 {
                for i in std::iter::from_fn(|| lowest(&mut asked)).take(TOGETHER) {
                    self.shard.ask_for(&self.looked, i);
                }
            }
            // As many as there are frames.
            let Some(i) = lowest(&mut turns) else {
                break;
            };
            let ahead = self.looked.ahead(i);
            let (shard, out) = (&mut self.shard, &mut self.egress);
            let left = match Packet::in_one(mbuf) {
                // Usual frames are this worker's.
                Ok(packet) if ahead.is_usual() => shard
                    .usual(view, port, &ahead, packet, now, out)
                    .map(Packet::into_mbuf),
                Ok(packet) => Some(packet.into_mbuf()),
                Err(mbuf) => Some(mbuf),
            };
            if let Some(mbuf) = left {
                rest(
                    shard,
                    out,
                    view,
                    port,
                    ahead,
                    mbuf,
                    now,
                    [self.number, self.workers],
                );
            }
        }
        self.laps.lap(Stage::Act);
    }

    /// What other workers have for this one. True if there was anything.
    fn drain_ring(&mut self, burst: &mut Burst, now: Instant) -> bool {
        for round in 0..RING_BURSTS {
            if self.ring.dequeue_burst(burst) == 0 {
                return round > 0;
            }
            let view = self.views.load();
            burst.iter().for_each(Mbuf::prefetch);
            for mbuf in burst.drain() {
                match Passage::of(mbuf.tag()) {
                    Passage::Out(port) => self.egress.send_mbuf(port, mbuf),
                    Passage::In(port) => {
                        self.counts.ports[port.index()].handed_over += 1;
                        // It was one when it went into the ring.
                        if let Some(packet) = Packet::new(mbuf) {
                            self.shard
                                .ingress(view, port, packet, now, &mut self.egress);
                        }
                    }
                }
            }
        }
        true
    }

    fn obey(&mut self, now: Instant) {
        let view = self.views.load();
        for command in self.commands.try_iter().take(COMMANDS) {
            self.shard.command(view, command, now, &mut self.egress);
        }
    }

    /// Tells the control thread what happened; it must not make a worker wait.
    fn report(&mut self) {
        self.unsent.extend(self.shard.take_events());
        while let Some(event) = self.unsent.pop_front() {
            match self.events.try_send((self.number, event)) {
                Ok(()) => {}
                Err(TrySendError::Full((_, event))) => {
                    self.unsent.push_front(event);
                    break;
                }
                // Nobody listens any more: the node is stopping.
                Err(TrySendError::Disconnected(_)) => self.unsent.clear(),
            }
        }
    }

    fn publish(&mut self, census: bool) {
        let c = &mut self.counts;
        for (to, (rx, tx)) in c
            .ports
            .iter_mut()
            .zip(self.received.iter().zip(&self.egress.sent))
        {
            (to.rx_packets, to.rx_bytes) = (rx.packets, rx.bytes);
            (to.tx_packets, to.tx_bytes) = (tx.packets, tx.bytes);
        }
        let of_shard = self.shard.drops.0.iter();
        for (to, (a, b)) in c.drops.0.iter_mut().zip(of_shard.zip(&self.egress.drops.0)) {
            *to = a + b;
        }
        c.counters = self.shard.counters.clone();
        c.replays = self.shard.replays;
        c.cycles = self.laps.cycles;
        c.flows = self.shard.flows() as u64;
        c.flows_capacity = self.shard.flows_most() as u64;
        if census {
            c.states = self.shard.count_states();
        }
        let (used, capacity) = self.shard.hold_use();
        (c.hold_used, c.hold_capacity) = (used as u64, capacity as u64);
        (c.ring, c.ring_capacity) = (self.ring.len() as u64, self.ring.capacity() as u64);
        c.tx_waiting = self.egress.waiting() as u64;
        let done = self.egress.offload.counts;
        c.checksum_device = done.checksum_device;
        c.checksum_software = done.checksum_software;
        c.tso_device = done.tso_device;
        c.tso_software = done.tso_software;
        self.block.store(c);
    }

    /// Sleeps until a frame or a command comes, where both can be waited for, but
    /// not beyond the next deadline.
    fn sleep(&mut self, now: Instant) {
        let mut span = self.idle_sleep;
        if self.egress.waiting() > 0 || !self.unsent.is_empty() {
            span = span.min(RETRY);
        }
        if let Some(deadline) = self.shard.next_timer() {
            span = span.min(Duration::from_nanos((deadline - now).0));
        }
        if span.is_zero() {
            return;
        }
        self.counts.sleeps += 1;
        let commands = &self.commands;
        self.waiter.wait(span, || commands.is_empty());
    }
}
