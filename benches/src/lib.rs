//! Benchmarks of the data plane, each beside a peer in the same run.
//!
//! [`traffic`] and the modules beside it measure; [`node`] is a node's data plane in a
//! process of its own, [`testpmd`] its peer; [`rounds`] lets them take turns, and
//! [`report`] writes down what came out. [`instructions`] are counted, not timed.

pub mod capture;
pub mod child;
pub mod counted;
pub mod exchange;
pub mod flows;
pub mod generator;
pub mod handover;
pub mod hugepages;
pub mod instructions;
pub mod link;
pub mod micro;
pub mod node;
pub mod report;
pub mod rounds;
pub mod spin;
pub mod suite;
pub mod svg;
pub mod syn_flood;
pub mod testpmd;
pub mod traffic;
