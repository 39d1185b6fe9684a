//! The FCB table: keys to slots.
//!
//! Open addressing over buckets of one cache line: 31 tags of 16 bits, one for each slot
//! that the bucket has. Which slot a tag is of is told by its place, so that a line and an
//! FCB are all that a lookup touches, and the lines of a million flows take a few
//! megabytes, much of which the caches hold: most of what is asked at a node of a broadcast
//! cluster is not here. A full bucket overflows into the next; each counts the entries
//! that passed over it, so that a miss ends at the first bucket that none did, and
//! removal leaves no tombstones behind. The table knows only hashes and slots; whether
//! a slot really holds the key is the caller's question to its slab.

use crate::ahead::{BURST, lowest};
use hostmem::equal_u16;

/// Tags of a bucket.
const WAYS: usize = 31;

/// 31 tags, and how many entries passed over them.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Bucket([u16; WAYS + 1]);

const EMPTY: u16 = 0;

/// Hashes that are looked for side by side.
const GROUP: usize = 16;

impl Bucket {
    /// The ways with this tag, one bit each.
    #[inline]
    fn matches(&self, tag: u16) -> u32 {
        equal_u16(&self.0, tag) & !(1 << WAYS)
    }

    #[inline]
    fn overflow(&self) -> u16 {
        self.0[WAYS]
    }
}

/// Where the entries of a burst's hashes are looked for, and what was found.
#[derive(Debug)]
pub struct Places {
    /// The buckets in which they are looked for first, or were found.
    homes: [u32; BURST],
    tags: [u16; BURST],
    /// The ways that have the tag; and bit [`WAYS`] where the bucket was passed over.
    ways: [u32; BURST],
}

impl Default for Places {
    fn default() -> Self {
        Self {
            homes: [0; BURST],
            tags: [EMPTY; BURST],
            ways: [0; BURST],
        }
    }
}

impl Places {
    /// A slot that may have the `i`-th hash.
    #[inline(always)]
    pub fn slot(&self, i: usize) -> Option<u32> {
        let ways = self.ways[i] & !(1 << WAYS);
        (ways != 0).then(|| self.homes[i] * WAYS as u32 + ways.trailing_zeros())
    }
}

/// A hash table from 64-bit hashes to slots.
pub struct Table {
    buckets: Vec<Bucket>,
    capacity: usize,
    len: usize,
}

impl Table {
    /// For up to `capacity` entries: there are a seventh more slots.
    pub fn new(capacity: usize) -> Self {
        let n = (capacity * 8).div_ceil(7 * WAYS).max(1);
        let mut buckets = hostmem::vec(n);
        buckets.resize(n, Bucket([EMPTY; WAYS + 1]));
        Self {
            buckets,
            capacity,
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

    /// Whether there is room for no more entries.
    pub fn is_full(&self) -> bool {
        self.len == self.capacity
    }

    /// Slots, used or not: every slot that the table gives is below this.
    pub fn slots(&self) -> usize {
        self.buckets.len() * WAYS
    }

    #[inline]
    fn tag(hash: u64) -> u16 {
        // Bits that the bucket's number does not use.
        let tag = (hash >> 48) as u16;
        tag | u16::from(tag == EMPTY)
    }

    /// The bucket that this hash's entries are looked for first.
    #[inline]
    fn home(&self, hash: u64) -> usize {
        // As even as a modulus, without a division.
        (((hash & 0xffff_ffff) * self.buckets.len() as u64) >> 32) as usize
    }

    #[inline]
    fn next(&self, at: usize) -> usize {
        if at + 1 == self.buckets.len() {
            0
        } else {
            at + 1
        }
    }

    /// Asks for what [`Self::guesses`] begins with of these hashes, the first of which is the
    /// `at`-th of the burst.
    #[inline]
    pub fn ask<const N: usize>(&self, places: &mut Places, at: usize, hashes: &[u64; N]) {
        let homes = places.homes[at..].iter_mut();
        for ((home, tag), &hash) in homes.zip(&mut places.tags[at..]).zip(hashes) {
            (*home, *tag) = (self.home(hash) as u32, Self::tag(hash));
        }
        for &home in places.homes[at..].iter().take(N) {
            hostmem::prefetch_nth(&self.buckets, home as usize);
        }
    }

    /// [`Self::guess`] for those of the burst's `hashes` whose bits are set in `which`. Returns
    /// the bits of those that have a slot.
    #[inline]
    pub fn guesses(&self, places: &mut Places, hashes: &[u64; BURST], which: u64) -> u64 {
        let Places { homes, tags, ways } = places;
        let (mut found, mut passed) = (0, 0);
        let groups = homes.as_chunks().0.iter().zip(tags.as_chunks().0);
        for (at, ((homes, tags), ways)) in groups.zip(ways.as_chunks_mut().0).enumerate() {
            let at = at * GROUP;
            if which >> at == 0 {
                break;
            }
            let (here, mut further) = self.guess_first(homes, tags, ways);
            further &= !here & (which >> at) as u32;
            found |= u64::from(here) << at;
            passed |= u64::from(further) << at;
            // On their way while the others are looked at.
            while further != 0 {
                let home = homes[further.trailing_zeros() as usize];
                hostmem::prefetch_nth(&self.buckets, home as usize + 1);
                further &= further - 1;
            }
        }
        while let Some(i) = lowest(&mut passed) {
            if let Some(slot) = self.guess(hashes[i]) {
                (homes[i], ways[i]) = (slot / WAYS as u32, 1 << (slot % WAYS as u32));
                found |= 1 << i;
            }
        }
        found & which
    }

    /// What the first buckets tell of some hashes. Returns the bits of those that may have a slot
    /// there, and of those whose bucket was passed over.
    #[inline(always)]
    fn guess_first(
        &self,
        homes: &[u32; GROUP],
        tags: &[u16; GROUP],
        ways: &mut [u32; GROUP],
    ) -> (u32, u32) {
        // First all lines, then what follows from them, of which the compiler makes vectors.
        for ((&home, &tag), ways) in homes.iter().zip(tags).zip(&mut *ways) {
            let b = &self.buckets[home as usize];
            *ways = b.matches(tag) | u32::from(b.overflow() != 0) << WAYS;
        }
        let (mut found, mut passed) = (0, 0);
        for (i, ways) in ways.iter().enumerate() {
            found |= u32::from(ways & !(1 << WAYS) != 0) << i;
            passed |= (ways >> WAYS) << i;
        }
        (found, passed)
    }

    /// A slot that may have this hash, most often the right one, without a look at it;
    /// `None` where there certainly is none.
    #[inline]
    pub fn guess(&self, hash: u64) -> Option<u32> {
        self.find(hash, |_| true)
    }

    /// The first slot with this hash for which `is_it` holds.
    #[inline]
    pub fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let (tag, home) = (Self::tag(hash), self.home(hash));
        let mut at = home;
        loop {
            let b = &self.buckets[at];
            let mut ways = b.matches(tag);
            while ways != 0 {
                let slot = (at * WAYS) as u32 + ways.trailing_zeros();
                if is_it(slot) {
                    return Some(slot);
                }
                ways &= ways - 1;
            }
            if b.overflow() == 0 {
                return None;
            }
            at = self.next(at);
            if at == home {
                return None;
            }
        }
    }

    /// Gives a slot to a hash; the caller has made sure that its key is not there yet.
    /// `None` when the table is full.
    pub fn insert(&mut self, hash: u64) -> Option<u32> {
        if self.is_full() {
            return None;
        }
        let home = self.home(hash);
        let mut at = home;
        let way = loop {
            let free = self.buckets[at].matches(EMPTY);
            if free != 0 {
                break free.trailing_zeros();
            }
            // A count at its end would take more entries in a row than tags can tell apart.
            if self.buckets[at].overflow() == u16::MAX {
                return None;
            }
            at = self.next(at);
        };
        let mut passed = home;
        while passed != at {
            self.buckets[passed].0[WAYS] += 1;
            passed = self.next(passed);
        }
        self.buckets[at].0[way as usize] = Self::tag(hash);
        self.len += 1;
        Some((at * WAYS) as u32 + way)
    }

    /// Removes the entry of `slot`, which was given to this hash; false when it is not
    /// there.
    pub fn remove(&mut self, hash: u64, slot: u32) -> bool {
        let (at, way) = (slot as usize / WAYS, slot as usize % WAYS);
        let there = self.buckets.get_mut(at).map(|b| &mut b.0[way]);
        let Some(tag) = there.filter(|t| **t == Self::tag(hash)) else {
            return false;
        };
        *tag = EMPTY;
        self.len -= 1;
        let mut passed = self.home(hash);
        while passed != at {
            self.buckets[passed].0[WAYS] -= 1;
            passed = self.next(passed);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        /// Against a plain map, with hashes that collide on purpose: three tags, and homes
        /// close to each other and to the end.
        #[test]
        fn like_a_plain_map(ops in prop::collection::vec((0u8..3, 0u32..256), 1..800)) {
            let hash = |k: u32| u64::from(k % 3) << 48 | u64::from(u32::MAX - k % 5 * 0x1000_0000);
            let mut t = Table::new(200);
            let mut m: HashMap<u32, u32> = HashMap::new();
            for (op, k) in ops {
                match op {
                    0 => if !m.contains_key(&k) {
                        let slot = t.insert(hash(k));
                        prop_assert_eq!(slot.is_none(), m.len() == 200);
                        if let Some(slot) = slot {
                            prop_assert!((slot as usize) < t.slots());
                            prop_assert!(m.values().all(|&s| s != slot));
                            m.insert(k, slot);
                        }
                    }
                    1 => if let Some(slot) = m.remove(&k) {
                        prop_assert!(t.remove(hash(k), slot));
                        prop_assert!(!t.remove(hash(k), slot));
                    }
                    _ => {
                        prop_assert_eq!(t.find(hash(k), |s| m.get(&k) == Some(&s)), m.get(&k).copied());
                        let alike = |k2: &u32| Table::tag(hash(*k2)) == Table::tag(hash(k));
                        let guess = t.guess(hash(k));
                        prop_assert!(guess.is_some() || !m.contains_key(&k));
                        prop_assert!(guess.is_none() || m.keys().any(alike));
                    }
                }
                prop_assert_eq!(t.len(), m.len());
            }
            for (k, slot) in m { t.remove(hash(k), slot); }
            prop_assert!(t.buckets.iter().all(|b| b.0 == [0; WAYS + 1]));
        }
    }

    /// A burst's guesses are those of each hash alone, whatever else there is in its buckets.
    #[test]
    fn a_burst_is_guessed_as_each_one() {
        let mut t = Table::new(1_000);
        let key = siphasher::sip::SipHasher13::new();
        let hash = |k: u64| key.hash(&k.to_le_bytes());
        (0..1_000).for_each(|k| assert!(t.insert(hash(k)).is_some()));
        assert!(t.buckets.iter().any(|b| b.0[WAYS] != 0));
        for which in [u64::MAX, 0, 1 << 17, 0x00f0_0f0f_3333_5555] {
            for from in (0..2_000).step_by(BURST) {
                let hashes = std::array::from_fn(|i| hash(from + i as u64));
                let mut p = Places::default();
                t.ask(&mut p, 0, &hashes);
                let found = t.guesses(&mut p, &hashes, which);
                assert_eq!(found & !which, 0);
                for i in (0..BURST).filter(|i| which >> i & 1 != 0) {
                    let alone = t.guess(hashes[i]);
                    assert_eq!(alone.is_some(), found >> i & 1 != 0);
                    assert_eq!(alone, p.slot(i));
                }
            }
        }
    }

    /// Buckets that all were passed over end a search all the same.
    #[test]
    fn a_search_ends_where_it_began() {
        let mut t = Table::new(40);
        assert_eq!(t.buckets.len(), 2);
        t.buckets.iter_mut().for_each(|b| b.0[WAYS] = u16::MAX);
        assert_eq!(t.find(5 << 48, |_| true), None);
    }

    #[test]
    fn full_is_said() {
        let mut t = Table::new(8);
        let took = (0..100u64).take_while(|k| t.insert(k << 48).is_some());
        assert_eq!(took.count(), 8);
        assert!(t.is_full());
        assert_eq!(t.find(0xdead_0000_0000_0000, |_| true), None);
    }

    /// Whatever the hashes, as many entries as were asked for find a slot, and few of them
    /// stand elsewhere than where they are looked for first. When they are gone nothing is left.
    #[test]
    fn the_last_one_finds_a_slot_too() {
        let mut t = Table::new(100_000);
        let hash = |k: u64| (k + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) ^ k << 48;
        let slots = (0..100_000).map(|k| t.insert(hash(k)).expect("room"));
        let slots: Vec<u32> = slots.collect();
        let elsewhere = (0..).zip(&slots);
        let elsewhere = elsewhere.filter(|&(k, &slot)| slot as usize / WAYS != t.home(hash(k)));
        assert!(elsewhere.count() < 8_000);
        assert_eq!(t.insert(hash(100_000)), None);
        for (k, slot) in (0..).zip(slots) {
            assert!(t.remove(hash(k), slot));
        }
        assert!(t.buckets.iter().all(|b| b.0 == [0; WAYS + 1]));
    }
}
