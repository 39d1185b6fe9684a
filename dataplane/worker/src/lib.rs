//! The run-to-completion loop over DPDK ports, and all of DPDK that a node needs
//! to start and to stop.
//!
//! [`start::open`] turns a configuration into an [`Opened`]: EAL, packet pools,
//! four started ports. [`Fleet::spawn`] gives these to one [thread](worker) per
//! core; [`Fleet::stop`] takes them back and ends everything.
//!
//! # The way of a packet
//!
//! ```text
//! rx queue -> tag off, headers in one piece? -> steer::worker_of_frame
//!                 | no: Malformed           |
//!                                  mine     |     another's
//!                 Shard::ingress  <---------+--------->  its ring (tag = port)
//!                       |      ^                               | full: RingFull
//!          Output::send |      +-------------------------------+
//!                       v
//!       my tx queue of that port? -> checksum, segments, tag -> burst -> driver;
//!                       |                                   rest: backlog, TxFull
//!                       | none: ring of the worker that has one (tag = 4 + port)
//! ```
//!
//! A worker owns its receive queues (queue q belongs to worker q modulo their
//! number), its transmit queues, a packet pool, a [`Shard`](dts_core::shard::Shard)
//! and the consuming end of one ring. Nothing of these is shared, so there is
//! no lock on the way; the clock is read and the [`View`](dts_core::view::View) is
//! looked up once per burst. A device with fewer queues than there are workers
//! costs its frames a second ring: worker w sends on queue w modulo the queues.
//!
//! Every frame that ends here has a [`Drop`](dts_core::drops::Drop) reason.

mod egress;
mod fleet;
mod offload;
mod packet;
pub mod start;
mod stats;
mod worker;

pub use fleet::Fleet;
pub use start::{Opened, StartError};
pub use stats::{PortCounters, PortSnapshot, Stage, WorkerSnapshot};
