//! What the tests of whole labs share: raising a lab, asking its nodes, making
//! requests from its client, and reading captures.
//!
//! A lab is network namespaces, so the tests need root (or a kernel that lets
//! users have namespaces). Where they cannot have it they fail with the lab's own
//! reason; nothing is skipped.

pub mod capture;
pub mod capture_file;
pub mod client;
pub mod cluster;
pub mod daemon;
pub mod impair;
pub mod lab;
pub mod metrics;
pub mod replay;
pub mod stacks;
pub mod suite;
