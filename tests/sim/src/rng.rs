//! The seed's numbers. Splitmix64 (Steele, Lea and Flood, 2014), written out
//! so that a seed means the same run whatever library versions are in use.

/// A stream of numbers that a seed determines.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The stream of `seed`; `stream` tells the users of one seed apart.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut r = Self(seed ^ stream.wrapping_mul(0xd134_2543_de82_ef95));
        r.next();
        r
    }

    /// 64 bits.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `n` - 1; 0 when `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.next() % n }
    }

    /// `low` to `high`, both included.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True in `n` of a thousand cases.
    pub fn permille(&mut self, n: u32) -> bool {
        n > 0 && self.below(1000) < u64::from(n)
    }

    /// One of `of`.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// A sequence number that likes the neighbourhood of 2^31 and 2^32.
    pub fn edge_u32(&mut self, reach: u64) -> u32 {
        match self.below(4) {
            0 => (self.next() >> 32) as u32,
            1 => 0x8000_0000u32
                .wrapping_sub(reach as u32 / 2)
                .wrapping_add(self.below(reach) as u32),
            2 => 0u32
                .wrapping_sub(reach as u32 / 2)
                .wrapping_add(self.below(reach) as u32),
            _ => 0u32.wrapping_sub(self.below(4) as u32),
        }
    }
}
