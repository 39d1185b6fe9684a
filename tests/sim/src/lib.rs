//! A DTS cluster in one thread and in no time: real `dts-core` shards, clients and host
//! stacks by smoltcp, a virtual clock, and a network that loses, repeats, reorders, delays
//! and damages what its seed says. One seed is one run, bit for bit.
//!
//! [`plan::Plan::new`] turns a seed into what will happen, [`world::World`] lets it
//! happen, [`check::Check`] watches. [`mutations`] breaks rules of `dts-core` on purpose
//! and wants to see each of them caught.

pub mod actors;
pub mod capture;
pub mod check;
pub mod client;
mod extensions;
mod faults;
mod members;
pub mod model;
pub mod mutations;
pub mod node;
pub mod plan;
pub mod rng;
pub mod scenario;
mod scripted;
pub mod seg;
pub mod stack;
pub mod talk;
pub mod world;

use plan::Plan;
use scenario::Family;
use world::{Report, World};

/// Runs one seed, of this family or of the one that it picks.
pub fn run(seed: u64, family: Option<Family>) -> Report {
    World::new(Plan::new(seed, family), None).run().0
}
