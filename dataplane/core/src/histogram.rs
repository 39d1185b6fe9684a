//! Spans by size, for metrics: plain integers that one worker counts.

use crate::time::Span;

/// Upper bounds of the buckets, nanoseconds: 1 us to 1 s, six in each decade.
pub const BOUNDS_NS: [u64; 37] = bounds();

const fn bounds() -> [u64; 37] {
    // Tenths of the decade.
    const STEPS: [u64; 6] = [10, 15, 20, 30, 50, 75];
    let mut all = [0; 37];
    let (mut i, mut unit) = (0, 100);
    while i < all.len() {
        all[i] = STEPS[i % STEPS.len()] * unit;
        i += 1;
        if i % STEPS.len() == 0 {
            unit *= 10;
        }
    }
    all
}

/// Number of values of a [`Histogram`] as an array.
pub const VALUES: usize = BOUNDS_NS.len() + 2;

/// How many spans were seen of each size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// Spans up to each bound and above the one before it; the last ones are longer
    /// than any bound.
    pub counts: [u64; BOUNDS_NS.len() + 1],
    /// The sum of all, nanoseconds.
    pub sum_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: [0; BOUNDS_NS.len() + 1],
            sum_ns: 0,
        }
    }
}

impl Histogram {
    /// Counts one span.
    pub fn observe(&mut self, span: Span) {
        self.counts[BOUNDS_NS.partition_point(|&b| b < span.0)] += 1;
        self.sum_ns = self.sum_ns.wrapping_add(span.0);
    }

    /// The counts, then the sum.
    #[must_use]
    pub fn to_array(&self) -> [u64; VALUES] {
        std::array::from_fn(|i| self.counts.get(i).copied().unwrap_or(self.sum_ns))
    }

    /// The reverse of [`Histogram::to_array`].
    #[must_use]
    pub fn from_array(values: [u64; VALUES]) -> Self {
        let mut h = Self::default();
        let n = h.counts.len();
        h.counts.copy_from_slice(&values[..n]);
        h.sum_ns = values[n];
        h
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_six_a_decade_from_a_microsecond_to_a_second() {
        assert_eq!(BOUNDS_NS[..7], [1000, 1500, 2000, 3000, 5000, 7500, 10_000]);
        assert_eq!(BOUNDS_NS[36], 1_000_000_000);
        assert!(BOUNDS_NS.is_sorted());
    }

    #[test]
    fn a_bound_belongs_to_the_bucket_below_it() {
        let mut h = Histogram::default();
        for ns in [0, 1000, 1001, 1_000_000_000, 1_000_000_001] {
            h.observe(Span(ns));
        }
        assert_eq!((h.counts[0], h.counts[1]), (2, 1));
        assert_eq!((h.counts[36], h.counts[37]), (1, 1));
        assert_eq!(h.sum_ns, 2_000_002_002);
        assert_eq!(Histogram::from_array(h.to_array()), h);
    }
}
