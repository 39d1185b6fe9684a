//! The FCB table: keys to slot numbers.
//!
//! Open addressing over buckets of one cache line: eight 16-bit tags and eight
//! slot numbers. A full bucket overflows into the next; `overflow` counts the
//! entries that passed over a bucket, so that a miss ends at the first bucket
//! that none did, and removal leaves no tombstones behind. The table knows only
//! hashes and slot numbers; whether a slot really holds the key is the caller's
//! question to its slab.

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

impl Bucket {
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
        Self {
            buckets,
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
        // Bits that the bucket index does not use; 0 is kept for "empty".
        ((hash >> 48) as u16).max(1)
    }

    #[inline]
    fn home(&self, hash: u64) -> usize {
        hash as usize & self.mask
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
                self.len += 1;
                return true;
            }
            b.overflow += 1;
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
                self.len -= 1;
                let mut passed = home;
                while passed != at {
                    self.buckets[passed].overflow -= 1;
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
                        let alike = |f: &dyn Fn(u32) -> bool| m.keys().any(|&k| f(k));
                        prop_assert!(guess || !alike(&|s| hash(s) == hash(k)));
                        prop_assert!(!guess || alike(&|s| Table::tag(hash(s)) == Table::tag(hash(k))));
                    }
                }
                prop_assert_eq!(t.len(), m.len());
            }
            for k in 0..64 { t.remove(hash(k), k); }
            prop_assert!(t.buckets.iter().all(|b| b.overflow == 0));
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
