//! TCP stacks: smoltcp behind shims, and a node's host stack made of them.

pub mod clock;
pub mod device;
mod fastopen;
pub mod host;
pub mod tcb;
