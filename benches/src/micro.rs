//! The flow table alone, beside `hashbrown` and DPDK's `rte_hash`: from a key to the
//! first bytes of its flow's slot, a burst at a time.
//!
//! All three have the same keys, the same keyed hash (SipHash-1-3 over 12 bytes,
//! computed anew for each lookup) and slots of one cache line each. Ours compares
//! the key in the slot, as the data plane does; the others have keys of their own.

use anyhow::{Result, ensure};
use dts_core::ahead::lowest;
use dts_core::table::{Places, Table};
use hashbrown::HashTable;
use hostmem::{prefetch, vec};
use siphasher::sip::SipHasher13;

/// Keys of one call.
pub const BURST: usize = 64;
/// The key of the hash.
const KEY: [u8; 16] = *b"benchmark key 16";

/// What names a flow: client and service, address and port.
pub type Key = [u8; 12];

/// Hashes as the data plane does.
#[derive(Clone, Copy, Debug)]
pub struct Hash(SipHasher13);

impl Default for Hash {
    fn default() -> Self {
        Self(SipHasher13::new_with_key(&KEY))
    }
}

impl Hash {
    /// Of one key.
    #[inline]
    #[must_use]
    pub fn of(&self, key: &Key) -> u64 {
        self.0.hash(key)
    }
}

/// The key of the `n`-th flow.
#[must_use]
pub fn key(n: u32) -> Key {
    let mut k = [0; 12];
    k[..4].copy_from_slice(&(0x0a00_0000 | n >> 8).to_be_bytes());
    k[4..8].copy_from_slice(&crate::flows::VIP);
    k[8..10].copy_from_slice(&(1024 + (n & 255) as u16).to_be_bytes());
    k[10..].copy_from_slice(&crate::flows::PORT.to_be_bytes());
    k
}

/// A flow's slot: what is beside the key in the first line of it.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Slot {
    key: Key,
    value: u32,
}

/// The slots of the first `n` flows, in their order.
fn slots(n: u32) -> Vec<Slot> {
    let mut all = vec(n as usize);
    all.extend((0..n).map(|i| Slot {
        key: key(i),
        value: 1,
    }));
    all
}

/// Something that finds flows.
pub trait Find {
    /// Its name.
    fn name(&self) -> &'static str;
    /// Looks all keys up, [`BURST`] at most, and adds up what their slots hold: 1 for
    /// each that is there.
    fn find(&mut self, keys: &[Key]) -> u64;
}

/// The data plane's table, in the stages of its worker.
pub struct Staged {
    table: Table,
    slots: Vec<Slot>,
    places: Places,
    hash: Hash,
}

impl Staged {
    /// With the first `n` flows.
    ///
    /// # Panics
    /// The table has less room than it was made with.
    #[must_use]
    pub fn new(n: u32) -> Self {
        let (mut table, hash) = (Table::new(n as usize), Hash::default());
        let mut slots = vec(table.slots());
        let free = Slot {
            key: [0; 12],
            value: 0,
        };
        slots.resize(table.slots(), free);
        for i in 0..n {
            let key = key(i);
            let slot = table.insert(hash.of(&key)).expect("room for all");
            slots[slot as usize] = Slot { key, value: 1 };
        }
        let places = Places::default();
        Self {
            table,
            slots,
            places,
            hash,
        }
    }

    #[inline]
    fn value(&self, key: &Key, hash: u64) -> u64 {
        let is_it = |slot: u32| self.slots[slot as usize].key == *key;
        let found = self.table.find(hash, is_it);
        found.map_or(0, |slot| u64::from(self.slots[slot as usize].value))
    }
}

impl Find for Staged {
    fn name(&self) -> &'static str {
        "dts"
    }

    fn find(&mut self, keys: &[Key]) -> u64 {
        let mut hashes = [0; BURST];
        for (key, hash) in keys.iter().zip(&mut hashes) {
            *hash = self.hash.of(key);
        }
        self.table.ask(&mut self.places, 0, &hashes);
        let all = u64::MAX.checked_shr((BURST - keys.len()) as u32);
        let all = all.unwrap_or(0);
        let mut found = self.table.guesses(&mut self.places, &hashes, all);
        let mut ask = found;
        while let Some(i) = lowest(&mut ask) {
            if let Some(slot) = self.places.slot(i) {
                prefetch(&self.slots[slot as usize]);
            }
        }
        let hits = std::iter::from_fn(|| lowest(&mut found));
        hits.map(|i| self.value(&keys[i], hashes[i])).sum()
    }
}

/// The data plane's table, one key after the other.
pub struct Single(pub Staged);

impl Find for Single {
    fn name(&self) -> &'static str {
        "dts unstaged"
    }

    fn find(&mut self, keys: &[Key]) -> u64 {
        let each = keys.iter();
        each.map(|key| self.0.value(key, self.0.hash.of(key))).sum()
    }
}

/// `hashbrown`, which has no way to look several keys up at once.
pub struct Hashbrown {
    table: HashTable<(Key, u32)>,
    slots: Vec<Slot>,
    hash: Hash,
}

impl Hashbrown {
    /// With the first `n` flows.
    #[must_use]
    pub fn new(n: u32) -> Self {
        let (mut table, hash) = (HashTable::with_capacity(n as usize), Hash::default());
        for i in 0..n {
            let k = key(i);
            table.insert_unique(hash.of(&k), (k, i), |(k, _)| hash.of(k));
        }
        let slots = slots(n);
        Self { table, slots, hash }
    }
}

impl Find for Hashbrown {
    fn name(&self) -> &'static str {
        "hashbrown"
    }

    fn find(&mut self, keys: &[Key]) -> u64 {
        let mut sum = 0;
        for key in keys {
            let found = self.table.find(self.hash.of(key), |(k, _)| k == key);
            sum += found.map_or(0, |(_, slot)| u64::from(self.slots[*slot as usize].value));
        }
        sum
    }
}

/// `rte_hash`'s bulk lookup with hashes given to it. Needs a running EAL.
pub struct RteHash {
    table: dpdk::HashTable<12>,
    slots: Vec<Slot>,
    hash: Hash,
}

impl RteHash {
    /// With the first `n` flows.
    ///
    /// # Errors
    /// There is no room for them in the EAL's memory, or its positions are not given in
    /// order.
    pub fn new(n: u32) -> Result<Self> {
        // Two keys of the same buckets may be one too many: some room helps.
        let name = format!("flows{n}");
        let mut table = dpdk::HashTable::new(&name, n + n / 8)?;
        let hash = Hash::default();
        for i in 0..n {
            let k = key(i);
            let at = table.add(&k, hash.of(&k) as u32);
            // Then a position is the number of a slot, at no further cost.
            ensure!(at == Some(i), "flow {i} of {n} has the position {at:?}");
        }
        let slots = slots(n);
        Ok(Self { table, slots, hash })
    }
}

impl Find for RteHash {
    fn name(&self) -> &'static str {
        "rte_hash"
    }

    fn find(&mut self, keys: &[Key]) -> u64 {
        let (mut hashes, mut at) = ([0; BURST], [0; BURST]);
        for (key, hash) in keys.iter().zip(&mut hashes) {
            *hash = self.hash.of(key) as u32;
        }
        let n = keys.len();
        let asked = self.table.find(keys, &hashes[..n], &mut at[..n]);
        debug_assert!(asked);
        for position in &at[..n] {
            if let Ok(slot) = usize::try_from(*position) {
                prefetch(&self.slots[slot]);
            }
        }
        let mut sum = 0;
        for position in &at[..n] {
            if let Ok(slot) = usize::try_from(*position) {
                sum += u64::from(self.slots[slot].value);
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_find_the_same() {
        let n = 1_000;
        let mut finders: [Box<dyn Find>; 3] = [
            Box::new(Staged::new(n)),
            Box::new(Single(Staged::new(n))),
            Box::new(Hashbrown::new(n)),
        ];
        let keys: Vec<Key> = (n - 40..n + 24).map(key).collect();
        for f in &mut finders {
            assert_eq!(f.find(&keys), 40, "{}", f.name());
            assert_eq!(f.find(&keys[..3]), 3, "{}", f.name());
            assert_eq!(f.find(&[]), 0, "{}", f.name());
        }
    }

    #[test]
    fn keys_are_those_of_the_flows() {
        let flow = crate::flows::flow(0x01_02_03);
        assert_eq!(key(0x01_02_03)[..4], flow.client.octets_v4());
        assert_eq!(key(0x01_02_03)[8..10], flow.client_port.to_be_bytes());
        let hash = dts_core::key::HashKey::new(KEY);
        assert_eq!(
            Hash::default().of(&key(77)),
            hash.slot(&crate::flows::flow(77))
        );
    }
}
