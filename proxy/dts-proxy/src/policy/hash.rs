//! Weighted rendezvous hashing (highest random weight, Thaler and Ravishankar, with
//! the logarithm of Schindelhauer and Schomaker): each member is first for a share of
//! keys in proportion to its weight, and taking one away moves only the keys that it
//! was first for. With a random key it is a choice at random, by weight.

use super::Candidate;
use siphasher::sip::SipHasher24;
use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};

/// Key of the placement hash. It is no secret and must be the same on every
/// node, since all of them are to choose the same member for a path.
const PLACEMENT_KEY: [u8; 16] = *b"dts-proxy/place1";

/// The member that is first for `key`.
#[must_use]
pub fn choose(candidates: &[Candidate<'_>], key: &[u8]) -> Option<usize> {
    order(candidates, key).first().copied()
}

/// All members, the one that is first for `key` first. Equal costs are told apart by
/// the address, so that nodes agree.
#[must_use]
pub fn order(candidates: &[Candidate<'_>], key: &[u8]) -> Vec<usize> {
    let scored = candidates.iter().enumerate();
    let mut scored: Vec<_> = scored
        .map(|(i, c)| (cost(c.address, c.weight, key), c.address, i))
        .collect();
    scored.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    scored.into_iter().map(|(_, _, i)| i).collect()
}

/// Exponentially distributed with rate `weight`; the least one wins.
#[must_use]
pub fn cost(address: SocketAddr, weight: u8, key: &[u8]) -> f64 {
    let mut hasher = SipHasher24::new_with_key(&PLACEMENT_KEY);
    match address.ip() {
        IpAddr::V4(ip) => hasher.write(&ip.octets()),
        IpAddr::V6(ip) => hasher.write(&ip.octets()),
    }
    hasher.write(&address.port().to_be_bytes());
    hasher.write(key);
    // 53 bits fill the mantissa; the half keeps it off 0 and 1.
    let uniform = ((hasher.finish() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -uniform.ln() / f64::from(weight)
}
