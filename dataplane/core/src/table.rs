//! The FCB table: keys to slot numbers.
//!
//! Open addressing over buckets of one cache line: eight 16-bit tags and eight
//! slot numbers. A full bucket overflows into the next; `overflow` counts the
//! entries that passed over a bucket, so that a miss ends at the first bucket
//! that none did, and removal leaves no tombstones behind. The table knows only
//! hashes and slot numbers; whether a slot really holds the key is the caller's
//! question to its slab.
//!
//! Before the buckets stands a filter for misses: eight bytes for each, the lower halves
//! of its tags. It is an eighth of the buckets, so that much more of it is in the caches,
//! and most of what is asked at a node of a broadcast cluster is not here.

const WAYS: usize = 8;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Bucket {
    tags: [u16; WAYS],
    slots: [u32; WAYS],
    /// Entries whose home chain passes over this bucket.
    overflow: u32,
}

const EMPTY: u16 = 0;

/// The filter's word of a bucket that entries pass over: anything may be found behind it.
const ANY: u64 = u64::MAX;

impl Bucket {
    /// The filter's word.
    fn digest(&self) -> u64 {
        if self.overflow > 0 {
            return ANY;
        }
        u64::from_le_bytes(self.tags.map(|t| t as u8))
    }

    /// The ways with this tag, one bit each.
    #[inline]
    fn matches(&self, tag: u16) -> u32 {
        // Without a branch, so that the compiler makes vector instructions of it. Most
        // buckets that are asked have no such way.
        if !self.tags.iter().fold(false, |any, &t| any | (t == tag)) {
            return 0;
        }
        let mut ways = 0;
        for (i, &t) in self.tags.iter().enumerate() {
            ways |= u32::from(t == tag) << i;
        }
        ways
    }
}

/// A hash table from 64-bit hashes to slot numbers.
pub struct Table {
    buckets: Vec<Bucket>,
    /// The filter.
    digests: Vec<u64>,
    mask: usize,
    len: usize,
}

impl Table {
    /// For up to `capacity` entries at a load of at most three quarters.
    pub fn new(capacity: usize) -> Self {
        let n = (capacity * 4 / 3).div_ceil(WAYS).next_power_of_two().max(2);
        let empty = Bucket {
            tags: [EMPTY; WAYS],
            slots: [0; WAYS],
            overflow: 0,
        };
        let mut buckets = hostmem::vec(n);
        buckets.resize(n, empty);
        let mut digests = hostmem::vec(n);
        digests.resize(n, 0);
        Self {
            buckets,
            digests,
            mask: n - 1,
            len: 0,
        }
    }

    /// Entries in the table.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    fn tag(hash: u64) -> u16 {
        // Bits that the bucket index does not use; the lower half is not 0, which is kept
        // for "empty".
        let tag = (hash >> 48) as u16;
        tag | u16::from(tag as u8 == 0)
    }

    #[inline]
    fn home(&self, hash: u64) -> usize {
        hash as usize & self.mask
    }

    /// Asks for what a later [`Self::may_have`] reads.
    #[inline]
    pub fn prefetch_filter(&self, hash: u64) {
        hostmem::prefetch(&self.digests[self.home(hash)]);
    }

    /// Whether there may be an entry with this hash: false where there certainly is none.
    #[inline]
    pub fn may_have(&self, hash: u64) -> bool {
        const ONES: u64 = u64::from_le_bytes([1; 8]);
        let digest = self.digests[self.home(hash)];
        // A byte of it that is 0 is one that is equal (Mycroft's test).
        let x = digest ^ (ONES * u64::from(Self::tag(hash) as u8));
        digest == ANY || x.wrapping_sub(ONES) & !x & (ONES << 7) != 0
    }

    /// Asks for the bucket that a later [`Self::find`] begins with.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        hostmem::prefetch(&self.buckets[self.home(hash)]);
    }

    /// A slot that may have this hash, most often the right one, without a look at it;
    /// `None` where there is none.
    #[inline]
    pub fn guess(&self, hash: u64) -> Option<u32> {
        let tag = Self::tag(hash);
        let mut at = self.home(hash);
        loop {
            let b = &self.buckets[at];
            let ways = b.matches(tag);
            if ways != 0 {
                return Some(b.slots[ways.trailing_zeros() as usize]);
            }
            if b.overflow == 0 {
                return None;
            }
            at = (at + 1) & self.mask;
        }
    }

    /// The first slot with this hash for which `is_it` holds.
    #[inline]
    pub fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let tag = Self::tag(hash);
        let mut at = self.home(hash);
        loop {
            let b = &self.buckets[at];
            let mut ways = b.matches(tag);
            while ways != 0 {
                let slot = b.slots[ways.trailing_zeros() as usize];
                if is_it(slot) {
                    return Some(slot);
                }
                ways &= ways - 1;
            }
            if b.overflow == 0 {
                return None;
            }
            at = (at + 1) & self.mask;
        }
    }

    /// Enters `slot`; the caller has made sure that its key is not there yet.
    /// False when the table is full.
    pub fn insert(&mut self, hash: u64, slot: u32) -> bool {
        if self.len >= self.buckets.len() * WAYS * 7 / 8 {
            return false;
        }
        let tag = Self::tag(hash);
        let mut at = self.home(hash);
        loop {
            let b = &mut self.buckets[at];
            if let Some(i) = b.tags.iter().position(|&t| t == EMPTY) {
                b.tags[i] = tag;
                b.slots[i] = slot;
                self.digests[at] = b.digest();
                self.len += 1;
                return true;
            }
            b.overflow += 1;
            self.digests[at] = ANY;
            at = (at + 1) & self.mask;
        }
    }

    /// Removes the entry of `slot`; false when it is not there.
    pub fn remove(&mut self, hash: u64, slot: u32) -> bool {
        let tag = Self::tag(hash);
        let home = self.home(hash);
        let mut at = home;
        loop {
            let b = &mut self.buckets[at];
            if let Some(i) = (0..WAYS).find(|&i| b.tags[i] == tag && b.slots[i] == slot) {
                b.tags[i] = EMPTY;
                self.digests[at] = b.digest();
                self.len -= 1;
                let mut passed = home;
                while passed != at {
                    let b = &mut self.buckets[passed];
                    b.overflow -= 1;
                    self.digests[passed] = b.digest();
                    passed = (passed + 1) & self.mask;
                }
                return true;
            }
            if b.overflow == 0 {
                return false;
            }
            at = (at + 1) & self.mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        /// Against a plain map, with hashes that collide on purpose.
        #[test]
        fn like_a_plain_map(ops in prop::collection::vec((0u8..3, 0u32..64), 1..400)) {
            let hash = |k: u32| (u64::from(k % 7) << 48) | u64::from(k % 3);
            let mut t = Table::new(64);
            let mut m: HashMap<u32, ()> = HashMap::new();
            for (op, k) in ops {
                match op {
                    0 => if m.insert(k, ()).is_none() { prop_assert!(t.insert(hash(k), k)); },
                    1 => prop_assert_eq!(t.remove(hash(k), k), m.remove(&k).is_some()),
                    _ => {
                        prop_assert_eq!(t.find(hash(k), |s| s == k).is_some(), m.contains_key(&k));
                        let guess = t.guess(hash(k)).is_some();
                        prop_assert!(t.may_have(hash(k)) || !guess);
                        let alike = |f: &dyn Fn(u32) -> bool| m.keys().any(|&k| f(k));
                        prop_assert!(guess || !alike(&|s| hash(s) == hash(k)));
                        prop_assert!(!guess || alike(&|s| Table::tag(hash(s)) == Table::tag(hash(k))));
                    }
                }
                prop_assert_eq!(t.len(), m.len());
            }
            for k in 0..64 { t.remove(hash(k), k); }
            prop_assert!(t.buckets.iter().all(|b| b.overflow == 0));
            prop_assert!(t.digests.iter().all(|&d| d == 0));
        }
    }

    #[test]
    fn full_is_said() {
        let mut t = Table::new(8);
        let took = (0..100u32)
            .take_while(|&k| t.insert(u64::from(k) << 48, k))
            .count();
        assert_eq!(took, 14);
        assert_eq!(t.find(0xdead_0000_0000_0000, |_| true), None);
    }
}
