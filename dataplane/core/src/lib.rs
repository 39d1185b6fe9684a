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

pub mod ahead;
pub mod command;
pub mod drops;
pub mod fcb;
pub mod found;
pub mod frame;
pub mod handover;
mod hello;
pub mod histogram;
pub mod hold;
mod ingress_host;
mod ingress_wire;
pub mod key;
mod lanes;
mod layer2;
pub mod life;
pub mod mutation;
mod orphans;
pub mod ownership;
mod past;
pub mod resident;
pub mod seq;
pub mod shard;
pub mod steer;
mod storm;
pub mod table;
mod tick;
pub mod time;
mod translate;
mod usual;
pub mod view;
pub mod wire;

// What is said of whole shards is tested over each pair of families: the clients'
// and the VIP's, and the link's. The paper's form is IPv4's alone.

#[cfg(test)]
#[path = "."]
mod ipv4 {
    pub const CLIENT_V6: bool = false;
    pub const LINK_V6: bool = false;
    mod ahead_tests;
    mod flow_tests;
    mod handover_tests;
    mod offload_tests;
    #[path = "handover_tests/paper.rs"]
    mod paper_tests;
    mod rule_tests;
    pub mod testkit;
}

#[cfg(test)]
#[path = "."]
#[allow(clippy::duplicate_mod)]
mod ipv6 {
    pub const CLIENT_V6: bool = true;
    pub const LINK_V6: bool = true;
    mod flow_tests;
    mod handover_tests;
    mod neighbour_tests;
    mod offload_tests;
    mod rule_tests;
    pub mod testkit;
}

#[cfg(test)]
#[path = "."]
#[allow(clippy::duplicate_mod)]
mod ipv4_over_ipv6_link {
    pub const CLIENT_V6: bool = false;
    pub const LINK_V6: bool = true;
    mod flow_tests;
    mod handover_tests;
    mod offload_tests;
    #[path = "handover_tests/paper.rs"]
    mod paper_tests;
    mod rule_tests;
    pub mod testkit;
}

#[cfg(test)]
#[path = "."]
#[allow(clippy::duplicate_mod)]
mod ipv6_over_ipv4_link {
    pub const CLIENT_V6: bool = true;
    pub const LINK_V6: bool = false;
    mod flow_tests;
    mod handover_tests;
    mod offload_tests;
    mod rule_tests;
    pub mod testkit;
}

// For tests of single frames, which have no family.
#[cfg(test)]
use ipv4::testkit;
