//! What the micro-benchmarks share: the peer of the flow table.

use dts_core::key::HashKey;
use siphasher::sip::SipHasher13;
use std::hash::{BuildHasher, Hasher};

/// The key of both hashes.
pub const KEY: [u8; 16] = *b"benchmark key 16";

/// The data plane's hash of a flow.
#[must_use]
pub fn hash_key() -> HashKey {
    HashKey::new(KEY)
}

/// The same keyed hash for the standard map: SipHash-1-3.
#[derive(Clone, Debug)]
pub struct Sip;

impl BuildHasher for Sip {
    type Hasher = SipHasher13;
    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_key(&KEY)
    }
}

/// A step through `0..n` that visits the numbers in no cache-friendly order.
#[must_use]
pub fn scatter(i: u32, n: u32) -> u32 {
    let mut h = SipHasher13::new_with_key(&KEY);
    h.write_u32(i);
    (h.finish() % u64::from(n)) as u32
}
