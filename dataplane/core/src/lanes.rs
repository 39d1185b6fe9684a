//! SipHash-1-3 of several short messages at a time.
//!
//! A burst has up to 64 keys to hash, and nothing of one hash depends on another: in
//! lanes side by side the rounds fill vector registers, and where there are none they
//! hide each other's latency. `siphasher` hashes one message after the other; a test
//! holds this against it, message for message (`docs/adr/0020-hashes-in-lanes.md`).

use crate::key::HashKey;

/// Messages that are hashed side by side: as many 64-bit words as fill the vector
/// registers, and hide each other's latency.
pub(crate) const LANES: usize = if cfg!(target_feature = "avx512f") {
    16
} else {
    8
};

/// A word of each lane.
type Words = [u64; LANES];

/// The state of SipHash (Aumasson and Bernstein, section 2.1).
#[derive(Clone, Copy)]
struct State([u64; 4]);

impl State {
    #[inline(always)]
    fn new([k0, k1]: [u64; 2]) -> Self {
        Self([
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ])
    }

    #[inline(always)]
    fn round(&mut self) {
        let [mut v0, mut v1, mut v2, mut v3] = self.0;
        v0 = v0.wrapping_add(v1);
        v1 = v1.rotate_left(13) ^ v0;
        v0 = v0.rotate_left(32);
        v2 = v2.wrapping_add(v3);
        v3 = v3.rotate_left(16) ^ v2;
        v0 = v0.wrapping_add(v3);
        v3 = v3.rotate_left(21) ^ v0;
        v2 = v2.wrapping_add(v1);
        v1 = v1.rotate_left(17) ^ v2;
        v2 = v2.rotate_left(32);
        self.0 = [v0, v1, v2, v3];
    }

    #[inline(always)]
    fn take(mut self, m: u64) -> Self {
        self.0[3] ^= m;
        self.round();
        self.0[0] ^= m;
        self
    }

    #[inline(always)]
    fn finish(mut self) -> u64 {
        self.0[2] ^= 0xff;
        for _ in 0..3 {
            self.round();
        }
        self.0[0] ^ self.0[1] ^ self.0[2] ^ self.0[3]
    }
}

impl HashKey {
    /// The hashes of messages of 12 bytes: `first` has eight bytes of each and `last` four, in
    /// little endian.
    #[inline]
    pub(crate) fn of_12(&self, first: &Words, last: &[u32; LANES]) -> Words {
        let s = State::new(self.words());
        let mut hashes = [0; LANES];
        // One long loop, of which the compiler makes vectors; short ones it unrolls first.
        for i in 0..LANES {
            let last = u64::from(last[i]) | 12 << 56;
            hashes[i] = s.take(first[i]).take(last).finish();
        }
        hashes
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
            all in prop::array::uniform::<_, LANES>((any::<u64>(), any::<u32>())),
        ) {
            let one = SipHasher13::new_with_key(&key);
            let (first, last) = (all.map(|m| m.0), all.map(|m| m.1));
            let long = HashKey::new(key).of_12(&first, &last);
            for i in 0..LANES {
                let bytes = [&first[i].to_le_bytes()[..], &last[i].to_le_bytes()].concat();
                prop_assert_eq!(long[i], one.hash(&bytes));
            }
        }
    }
}
