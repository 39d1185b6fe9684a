//! A small safe layer over DPDK.
//!
//! * [`Eal`] starts the environment once per process.
//! * [`hotplug::attach`] and [`Port`] bring devices up; [`RxQueue`] and
//!   [`TxQueue`] are taken once each and move to the thread that polls them.
//! * [`Mempool`] gives [`Mbuf`]s. An [`Mbuf`] owns exactly one packet, is not
//!   `Clone` and returns its buffers on drop. A [`Burst`] owns up to
//!   [`Burst::CAPACITY`] of them: transmit takes what the driver took and leaves
//!   the rest in it.
//! * [`Ring`] hands mbufs from many threads to one.
//! * [`HashTable`] is DPDK's own hash table, as a peer for benchmarks.
//!
//! Nothing here is freed while something else still uses it: a port cannot stop
//! while its queues are out, the EAL cannot be cleaned up under a pool, and a
//! pool with packets outside is leaked rather than freed.

mod burst;
mod eal;
mod error;
mod flow;
mod gso;
mod hash;
pub mod hotplug;
pub mod log;
mod mbuf;
pub mod memory;
mod mempool;
mod port;
mod queue;
mod ring;
pub mod signals;
pub mod thread;
pub mod wait;

pub use burst::Burst;
pub use eal::Eal;
pub use error::{Error, Reason};
pub use flow::{DropRule, Match};
pub use gso::Gso;
pub use hash::HashTable;
pub use mbuf::{Headers, Mbuf, RxChecksum, Segments, TxRequest};
pub use mempool::{DEFAULT_DATA_ROOM, HEADROOM, Mempool};
pub use port::{Configured, DevInfo, Link, Port, PortConf, PortId, PortStats, offload, rss};
pub use queue::{RxQueue, TxQueue};
pub use ring::{Producer, Ring};
