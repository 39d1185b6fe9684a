//! SipHash-1-3 of several short messages at a time.
//!
//! A burst has up to 64 keys to hash, and nothing of one hash depends on another: in
//! lanes side by side the rounds fill vector registers, and where there are none they
//! hide each other's latency. `siphasher` hashes one message after the other; a test
//! holds this against it, message for message (`docs/adr/0020-hashes-in-lanes.md`).

use crate::key::HashKey;

/// Messages that are hashed side by side: as many 64-bit words as the widest vector
/// registers hold.
pub(crate) const LANES: usize = 8;

/// A word of each lane.
type Words = [u64; LANES];

#[inline(always)]
fn each(a: Words, b: Words, f: impl Fn(u64, u64) -> u64) -> Words {
    std::array::from_fn(|i| f(a[i], b[i]))
}

#[inline(always)]
fn add(a: Words, b: Words) -> Words {
    each(a, b, u64::wrapping_add)
}

#[inline(always)]
fn xor(a: Words, b: Words) -> Words {
    each(a, b, |a, b| a ^ b)
}

#[inline(always)]
fn rotl<const N: u32>(a: Words) -> Words {
    a.map(|x| x.rotate_left(N))
}

/// The state of SipHash (Aumasson and Bernstein, section 2.1), one in each lane.
struct State([Words; 4]);

impl State {
    #[inline(always)]
    fn new([k0, k1]: [u64; 2]) -> Self {
        Self([
            [k0 ^ 0x736f_6d65_7073_6575; LANES],
            [k1 ^ 0x646f_7261_6e64_6f6d; LANES],
            [k0 ^ 0x6c79_6765_6e65_7261; LANES],
            [k1 ^ 0x7465_6462_7974_6573; LANES],
        ])
    }

    #[inline(always)]
    fn round(&mut self) {
        let [mut v0, mut v1, mut v2, mut v3] = self.0;
        v0 = add(v0, v1);
        v1 = xor(rotl::<13>(v1), v0);
        v0 = rotl::<32>(v0);
        v2 = add(v2, v3);
        v3 = xor(rotl::<16>(v3), v2);
        v0 = add(v0, v3);
        v3 = xor(rotl::<21>(v3), v0);
        v2 = add(v2, v1);
        v1 = xor(rotl::<17>(v1), v2);
        v2 = rotl::<32>(v2);
        self.0 = [v0, v1, v2, v3];
    }

    #[inline(always)]
    fn take(&mut self, m: Words) {
        self.0[3] = xor(self.0[3], m);
        self.round();
        self.0[0] = xor(self.0[0], m);
    }

    #[inline(always)]
    fn finish(mut self) -> Words {
        self.0[2] = xor(self.0[2], [0xff; LANES]);
        for _ in 0..3 {
            self.round();
        }
        let [v0, v1, v2, v3] = self.0;
        xor(xor(v0, v1), xor(v2, v3))
    }
}

impl HashKey {
    /// The hashes of messages of 12 bytes: `first` has eight of them and `last` four, in
    /// little endian.
    #[inline]
    pub(crate) fn of_12(&self, first: Words, last: [u32; LANES]) -> Words {
        let mut s = State::new(self.words());
        s.take(first);
        s.take(last.map(|w| u64::from(w) | 12 << 56));
        s.finish()
    }

    /// The hashes of messages of 6 bytes, in little endian.
    #[inline]
    pub(crate) fn of_6(&self, bytes: Words) -> Words {
        let mut s = State::new(self.words());
        s.take(bytes.map(|w| (w & 0xffff_ffff_ffff) | 6 << 56));
        s.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use siphasher::sip::SipHasher13;

    proptest! {
        #[test]
        fn each_lane_is_siphash(
            key: [u8; 16],
            first in prop::array::uniform8(any::<u64>()),
            last in prop::array::uniform8(any::<u32>()),
        ) {
            let one = SipHasher13::new_with_key(&key);
            let (long, short) = (HashKey::new(key).of_12(first, last), HashKey::new(key).of_6(first));
            for i in 0..LANES {
                let bytes = [&first[i].to_le_bytes()[..], &last[i].to_le_bytes()].concat();
                prop_assert_eq!(long[i], one.hash(&bytes));
                prop_assert_eq!(short[i], one.hash(&bytes[..6]));
            }
        }
    }
}
