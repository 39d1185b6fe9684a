//! The DTS data plane without a NIC, a clock or a thread.
//!
//! A [`shard::Shard`] is what one worker runs: frames go in by
//! [`shard::Shard::ingress`] with the port that they came from, frames come out
//! through an [`frame::Output`], and time is an argument. The same code runs
//! over DPDK mbufs in the daemon and over `Vec<u8>` in tests.
//!
//! The way of a packet: [`wire`] parses it, `ingress_wire`, `ingress_host` or
//! [`handover::message`] decides, [`table`] finds its [`fcb::Fcb`], `translate` rewrites
//! it in place. [`handover`] holds both ends of a handover.

pub mod command;
pub mod drops;
pub mod fcb;
pub mod frame;
pub mod handover;
pub mod hold;
mod ingress_host;
mod ingress_wire;
pub mod key;
pub mod life;
pub mod ownership;
pub mod seq;
pub mod shard;
pub mod steer;
mod storm;
pub mod table;
mod tick;
pub mod time;
mod translate;
pub mod view;
pub mod wire;

#[cfg(test)]
mod flow_tests;
#[cfg(test)]
mod handover_tests;
#[cfg(test)]
mod offload_tests;
#[cfg(test)]
mod rule_tests;
#[cfg(test)]
mod testkit;
