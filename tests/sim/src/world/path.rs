//! What wires and links do to frames.

use crate::plan::{Impair, US};
use crate::rng::Rng;
use crate::seg::ETH;

/// What a path does to one frame: copies with their time of arrival, and whether each is
/// as it was sent. `last` keeps frames in order unless the path reorders.
pub(super) fn impair(
    r: &mut Rng,
    m: &Impair,
    now: u64,
    delay: u64,
    last: &mut u64,
    b: Vec<u8>,
) -> Vec<(u64, Vec<u8>, bool)> {
    let mut out = Vec::new();
    if r.permille(m.loss) {
        return out;
    }
    let copies = if r.permille(m.dup) { 2 } else { 1 };
    for _ in 0..copies {
        let mut at = now + delay + r.below(m.jitter + 1);
        if r.permille(m.reorder) {
            at += r.range(delay / 8, delay.max(200 * US));
        } else {
            at = at.max(*last);
            *last = at;
        }
        let mut bytes = b.clone();
        let hit = r.permille(m.corrupt) && bytes.len() > ETH + 20;
        if hit {
            // Behind the IP header: that has a checksum of its own, which NICs verify.
            let n = r.range(ETH as u64 + 20, bytes.len() as u64 - 1) as usize;
            bytes[n] ^= 1 << r.below(8);
        }
        out.push((at, bytes, !hit));
    }
    out
}
