//! What a worker counts, and how others read it.
//!
//! A worker counts in plain integers. About every millisecond it stores them in
//! a [`Block`] of its own, which the control thread reads: no counter is ever
//! written by two threads, and no cache line either.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use dts_core::drops::{Drop, Drops};
use dts_core::histogram::{self, Histogram};
use dts_core::shard::Counters;

/// Frames and their bytes (without FCS).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

/// Frames through one port, as one worker counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Frames received by this worker's queues, steered on or not.
    pub rx_packets: u64,
    /// Their bytes, without FCS.
    pub rx_bytes: u64,
    /// Frames that the driver took from this worker.
    pub tx_packets: u64,
    /// Their bytes, without FCS.
    pub tx_bytes: u64,
    /// Frames received by another worker's queue that came to this one by its ring.
    pub handed_over: u64,
}

/// What a worker does in a turn of its loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A driver gives frames.
    Receive,
    /// Their tuples are read and hashed, and those of other nodes' flows end.
    Look,
    /// Each has its turn: FCB, rewriting.
    Act,
    /// Drivers take frames; what no frame is concerned with in a turn that had some.
    Send,
    /// Turns without a frame, sleeps included.
    Idle,
}

impl Stage {
    /// All, in the order of [`WorkerSnapshot::cycles`].
    pub const ALL: [Stage; 5] = [
        Stage::Receive,
        Stage::Look,
        Stage::Act,
        Stage::Send,
        Stage::Idle,
    ];

    /// The name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Stage::Receive => "receive",
            Stage::Look => "look",
            Stage::Act => "act",
            Stage::Send => "send",
            Stage::Idle => "idle",
        }
    }
}

/// Where a worker's cycles go, told by the counter that runs at one pace whatever the
/// core's clock does (DPDK programmer's guide, `rte_rdtsc`).
#[derive(Debug)]
pub(crate) struct Laps {
    last: u64,
    pub(crate) cycles: [u64; 5],
}

impl Laps {
    pub(crate) fn start() -> Self {
        Self {
            last: dpdk::thread::cycles(),
            cycles: [0; 5],
        }
    }

    /// All since the last call was for `stage`.
    #[inline]
    pub(crate) fn lap(&mut self, stage: Stage) {
        let now = dpdk::thread::cycles();
        self.cycles[stage as usize] += now.wrapping_sub(self.last);
        self.last = now;
    }
}

/// One worker at a moment, at most about a millisecond old.
#[derive(Clone, Debug, Default)]
pub struct WorkerSnapshot {
    /// Its number, from 0.
    pub worker: usize,
    /// The core that it is pinned to.
    pub core: u16,
    /// Traffic, by [`Port::index`](dts_core::frame::Port::index).
    pub ports: [PortCounters; 4],
    /// Dropped frames.
    pub drops: Drops,
    /// What else the shard counts.
    pub counters: Counters,
    /// Destination: from the splice to the cut over.
    pub replays: Histogram,
    /// FCBs by state, in the order of `State::ALL`; at most a second old.
    pub states: [u64; 5],
    /// Cycles of the time-stamp counter by [`Stage`].
    pub cycles: [u64; 5],
    /// FCBs in use.
    pub flows: u64,
    /// FCBs in all.
    pub flows_capacity: u64,
    /// Buffers for held frames that are in use.
    pub hold_used: u64,
    /// Buffers for held frames in all.
    pub hold_capacity: u64,
    /// Frames in the ring from other workers.
    pub ring: u64,
    /// Frames that fit into that ring.
    pub ring_capacity: u64,
    /// Frames that no driver has taken yet.
    pub tx_waiting: u64,
    /// Checksums that devices were asked to fill in.
    pub checksum_device: u64,
    /// Checksums that were filled in here.
    pub checksum_software: u64,
    /// Large frames that devices were asked to cut into segments.
    pub tso_device: u64,
    /// Large frames that were cut into segments here.
    pub tso_software: u64,
    /// Turns of the loop.
    pub loops: u64,
    /// Turns that found something to do.
    pub busy_loops: u64,
    /// Sleeps of an idle worker.
    pub sleeps: u64,
    /// Packet buffers outside the worker's pool: in queues, rings and tables.
    pub mbufs_used: u64,
    /// Packet buffers of the worker's pool.
    pub mbufs_capacity: u64,
}

/// One port at a moment, as its driver tells.
#[derive(Clone, Debug, Default)]
pub struct PortSnapshot {
    /// The device's name.
    pub device: String,
    /// Its driver.
    pub driver: String,
    /// Queues each way.
    pub queues: u16,
    /// What is done to its frames beside forwarding, and by whom: name, and
    /// `device`, `software`, `on` or `off`.
    pub offloads: Vec<(&'static str, &'static str)>,
    /// Frames that the device's rules have dropped, by what they are for, where it
    /// counts them.
    pub dropped: Vec<(&'static str, u64)>,
    /// True if the link is up.
    pub up: bool,
    /// Its speed in Mbit/s, where the driver knows it.
    pub mbps: Option<u32>,
    /// The driver's counters; all 0 where it has none.
    pub eth: dpdk::PortStats,
}

macro_rules! block {
    ($($name:ident),*) => {
        /// The shared form of a [`WorkerSnapshot`].
        pub(crate) struct Block {
            ports: [[AtomicU64; 5]; 4],
            drops: [AtomicU64; Drop::COUNT],
            counters: [AtomicU64; COUNTERS],
            replays: [AtomicU64; histogram::VALUES],
            states: [AtomicU64; 5],
            cycles: [AtomicU64; 5],
            $($name: AtomicU64,)*
        }

        impl Default for Block {
            fn default() -> Self {
                Self {
                    ports: Default::default(),
                    drops: zeroes(),
                    counters: zeroes(),
                    replays: zeroes(),
                    states: zeroes(),
                    cycles: zeroes(),
                    $($name: AtomicU64::new(0),)*
                }
            }
        }

        impl Block {
            /// Publishes all but `worker`, `core` and the pool, which the reader
            /// knows better. Only the one worker calls it.
            pub(crate) fn store(&self, s: &WorkerSnapshot) {
                for (to, from) in self.ports.iter().zip(&s.ports) {
                    let PortCounters { rx_packets, rx_bytes, tx_packets, tx_bytes, handed_over } = *from;
                    put(to, &[rx_packets, rx_bytes, tx_packets, tx_bytes, handed_over]);
                }
                put(&self.drops, &s.drops.0);
                put(&self.counters, &array(&s.counters));
                put(&self.replays, &s.replays.to_array());
                put(&self.states, &s.states);
                put(&self.cycles, &s.cycles);
                $(self.$name.store(s.$name, Relaxed);)*
            }

            /// The last published values.
            pub(crate) fn load(&self) -> WorkerSnapshot {
                let mut s = WorkerSnapshot::default();
                for (to, from) in s.ports.iter_mut().zip(&self.ports) {
                    let [rx_packets, rx_bytes, tx_packets, tx_bytes, handed_over] = get(from);
                    *to = PortCounters { rx_packets, rx_bytes, tx_packets, tx_bytes, handed_over };
                }
                s.drops = Drops(get(&self.drops));
                s.counters = counters(get(&self.counters));
                s.replays = Histogram::from_array(get(&self.replays));
                s.states = get(&self.states);
                s.cycles = get(&self.cycles);
                $(s.$name = self.$name.load(Relaxed);)*
                s
            }
        }
    };
}

block!(
    flows,
    flows_capacity,
    hold_used,
    hold_capacity,
    ring,
    ring_capacity,
    tx_waiting,
    checksum_device,
    checksum_software,
    tso_device,
    tso_software,
    loops,
    busy_loops,
    sleeps
);

fn zeroes<const N: usize>() -> [AtomicU64; N] {
    std::array::from_fn(|_| AtomicU64::new(0))
}

fn put<const N: usize>(to: &[AtomicU64; N], from: &[u64; N]) {
    for (to, &from) in to.iter().zip(from) {
        to.store(from, Relaxed);
    }
}

fn get<const N: usize>(from: &[AtomicU64; N]) -> [u64; N] {
    std::array::from_fn(|i| from[i].load(Relaxed))
}

macro_rules! counters {
    ($($name:ident),*) => {
        const COUNTERS: usize = [$(stringify!($name)),*].len();

        // No `..` in either: a counter that is new there must be added here.
        fn array(c: &Counters) -> [u64; COUNTERS] {
            let &Counters { $($name),* } = c;
            [$($name),*]
        }

        fn counters(a: [u64; COUNTERS]) -> Counters {
            let [$($name),*] = a;
            Counters { $($name),* }
        }
    };
}

counters!(
    opened,
    asked,
    replay_fast_open,
    replay_handshake,
    replay_paper,
    refused,
    unknown_resets,
    orphan_resets,
    unavailable_resets,
    vip_conflicts,
    cluster_mac_sources,
    sockets_gone,
    link_messages,
    data_segments,
    link_repeats,
    repeats,
    repeats_given_up
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_keeps_every_value() {
        let block = Block::default();
        let mut next = 0;
        let mut n = || {
            next += 1;
            next
        };
        let mut s = WorkerSnapshot::default();
        for p in &mut s.ports {
            *p = PortCounters {
                rx_packets: n(),
                rx_bytes: n(),
                tx_packets: n(),
                tx_bytes: n(),
                handed_over: n(),
            };
        }
        s.drops.0.fill_with(&mut n);
        s.counters = counters(std::array::from_fn(|_| n()));
        s.replays = Histogram::from_array(std::array::from_fn(|_| n()));
        s.states.fill_with(&mut n);
        s.cycles.fill_with(&mut n);
        for field in [
            &mut s.flows,
            &mut s.flows_capacity,
            &mut s.hold_used,
            &mut s.hold_capacity,
            &mut s.ring,
            &mut s.ring_capacity,
            &mut s.tx_waiting,
            &mut s.checksum_device,
            &mut s.checksum_software,
            &mut s.tso_device,
            &mut s.tso_software,
            &mut s.loops,
            &mut s.busy_loops,
            &mut s.sleeps,
        ] {
            *field = n();
        }
        block.store(&s);
        assert_eq!(format!("{:?}", block.load()), format!("{s:?}"));
    }
}
