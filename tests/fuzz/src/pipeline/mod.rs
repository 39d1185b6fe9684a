//! Sequences of operations on up to three nodes: frames on every port, clients and
//! stacks that behave or do not, link messages lost, repeated, changed and forged,
//! commands, time.
//!
//! What is promised, whatever comes in:
//! - nothing panics and no number overflows;
//! - a frame leaves on the wire with a VIP's service port only when an FCB permits
//!   it, never with a proxy or application port, and always with the node's own
//!   Ethernet source;
//! - nothing reaches a stack at a proxy or application port without an FCB, and
//!   nothing of a service at all on the link's twin;
//! - what is sent is well-formed: lengths and checksums are right by an
//!   independent parser, fragments make a whole datagram, and what is left to an
//!   offload is what the stack left;
//! - every handover that was begun is reported to have ended, once;
//! - when time has passed, every flow and every buffer is free again.

mod check;
mod more;
mod node;
mod ops;
mod peers;
mod said;

use crate::input::Input;

/// Most operations of one input.
const OPERATIONS: usize = 400;

/// Whether what happens is printed (`DTS_FUZZ_TRACE` is set): for a look at an input
/// that was found.
fn traced() -> bool {
    static TRACED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *TRACED.get_or_init(|| std::env::var_os("DTS_FUZZ_TRACE").is_some())
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut u = Input::new(data);
    let mut w = ops::World::new(&mut u);
    for _ in 0..OPERATIONS {
        if !u.more() {
            break;
        }
        w.step(&mut u);
    }
    w.settle();
}
