//! IPv6 extension headers on frames of clients (RFC 8200, section 4).

use crate::rng::Rng;
use crate::seg::ETH;

/// Next header: hop-by-hop options.
const HOP_BY_HOP: u8 = 0;
/// Next header: routing.
const ROUTING: u8 = 43;
/// Next header: fragment.
pub const FRAGMENT: u8 = 44;
/// Next header: destination options.
const DESTINATION: u8 = 60;

/// Extension headers in order: the kind of each, and its bytes behind the first one.
pub type Chain = Vec<(u8, Vec<u8>)>;

/// Options that say nothing, `n` times 8 bytes.
fn padding(n: u8) -> Vec<u8> {
    let mut b = vec![n - 1, 1, n * 8 - 4];
    b.resize(usize::from(n) * 8 - 1, 0);
    b
}

/// A routing header of this type with so many segments left.
fn routing(kind: u8, left: u8) -> Vec<u8> {
    let mut b = vec![2, kind, left];
    b.resize(23, 0);
    b
}

/// `frame` with `chain` behind its IPv6 header.
pub fn with(frame: &[u8], chain: &Chain) -> Vec<u8> {
    let mut f = frame[..ETH + 40].to_vec();
    let last = f[ETH + 6];
    let kinds = chain.iter().map(|c| c.0).chain([last]);
    for (i, next) in kinds.enumerate() {
        match i {
            0 => f[ETH + 6] = next,
            _ => {
                f.push(next);
                f.extend_from_slice(&chain[i - 1].1);
            }
        }
    }
    let len = (f.len() - ETH - 40 + frame.len() - ETH - 40) as u16;
    f[ETH + 4..ETH + 6].copy_from_slice(&len.to_be_bytes());
    f.extend_from_slice(&frame[ETH + 40..]);
    f
}

/// `frame` behind extension headers that every node walks.
pub fn walked(frame: &[u8], r: &mut Rng) -> Vec<u8> {
    let mut chain = Chain::new();
    if r.permille(400) {
        chain.push((HOP_BY_HOP, padding(r.range(1, 3) as u8)));
    }
    for _ in 0..r.range(1, 3) {
        chain.push(match r.below(3) {
            0 => (DESTINATION, padding(r.range(1, 4) as u8)),
            // Arrived: nothing is left to route.
            1 => (ROUTING, routing(4, 0)),
            // The fragment header of a whole packet (RFC 6946).
            _ => (FRAGMENT, vec![0, 0, 0, 0, 0, 0, 7]),
        });
    }
    with(frame, &chain)
}

/// Chains that every node drops.
pub fn refused() -> Vec<Chain> {
    vec![
        vec![(ROUTING, routing(4, 1))],
        vec![(ROUTING, routing(0, 0))],
        vec![(DESTINATION, padding(1)), (ROUTING, routing(253, 2))],
        vec![(DESTINATION, padding(1)); 9],
    ]
}

/// Where the payload of the IPv6 packet `p` begins, and its protocol; `None` in a fragment.
pub fn payload(p: &[u8]) -> Option<(usize, u8)> {
    let (mut at, mut next) = (40, p[6]);
    while matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION) {
        let h = p.get(at..at + 8)?;
        if next == FRAGMENT && u16::from_be_bytes([h[2], h[3]]) & 0xfff9 != 0 {
            return None;
        }
        at += match next {
            FRAGMENT => 8,
            _ => 8 + usize::from(h[1]) * 8,
        };
        next = h[0];
    }
    Some((at, next))
}
