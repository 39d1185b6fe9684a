//! Who owns a new connection: a keyed hash into a bucket table that is a pure
//! function of (members, weights, policy, key).
//!
//! Every node computes the table by itself, so only integers are used: a logarithm of
//! the machine's mathematical library may differ in its last bit.

use crate::key::{Addr, FlowKey, HashKey};
use dts_config::Policy;
use siphasher::sip::SipHasher13;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::Hasher;
use std::sync::Arc;

/// Owner of every bucket where no member has a weight: no node has this id.
pub const NOBODY: u16 = 0;

/// A member as the bucket table sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Node id.
    pub node: u16,
    /// 0 (owns nothing) to 100,000; only relations count.
    pub weight: u32,
}

/// Which node owns each bucket.
#[derive(Clone, Debug)]
pub struct BucketTable {
    owner: Arc<[u16]>,
    owned: bool,
    mask: u64,
    key: HashKey,
    policy: Policy,
}

impl BucketTable {
    /// Builds the table of `buckets` (a power of two) buckets.
    ///
    /// `key` is equal on all nodes. With [`Policy::Designated`] every bucket is
    /// `designated`'s. Otherwise each member has its exact share by weight, to one
    /// bucket, and a change of members or weights moves little more than it must: see
    /// [`assign`].
    pub fn new(
        policy: Policy,
        designated: Option<u16>,
        members: &[Share],
        buckets: usize,
        key: [u8; 16],
    ) -> Self {
        let owner = match (policy, designated) {
            (Policy::Designated, Some(node)) => vec![node; buckets].into(),
            _ => assign(members, buckets, &key),
        };
        Self {
            owned: is_owned(&owner),
            owner,
            mask: buckets as u64 - 1,
            key: HashKey::new(key),
            policy,
        }
    }

    /// The same owners for connections that are told apart by another policy, without
    /// computing them anew.
    #[must_use]
    pub fn with_policy(&self, policy: Policy) -> Self {
        Self {
            policy,
            ..self.clone()
        }
    }

    /// The same table, but what `node` owns in `before` it owns here too: for the moment in
    /// which others may not know yet that they own it.
    #[must_use]
    pub fn keeping(&self, node: u16, before: &Self) -> Self {
        let both = self.owner.iter().zip(before.owner.iter());
        let owner = both.map(|(&new, &old)| if old == node { node } else { new });
        let owner: Arc<[u16]> = owner.collect();
        Self {
            owned: is_owned(&owner),
            owner,
            ..self.clone()
        }
    }

    /// The bucket of a new connection.
    #[inline]
    pub fn bucket(&self, k: &FlowKey) -> usize {
        let h = match self.policy {
            Policy::SourceHash => self.key.addr(&k.client),
            Policy::SourceNetHash => self.key.addr(&k.client.net()),
            Policy::FlowHash | Policy::Scheduled | Policy::Designated => self.key.flow(k),
        };
        (h & self.mask) as usize
    }

    /// The owner of a new connection.
    #[inline]
    pub fn owner(&self, k: &FlowKey) -> u16 {
        self.owner[self.bucket(k)]
    }

    /// Whether any bucket has an owner.
    #[inline]
    pub fn is_owned(&self) -> bool {
        self.owned
    }

    /// The owner of each bucket.
    pub fn owners(&self) -> &[u16] {
        &self.owner
    }

    /// The owner of what belongs to no connection (ARP, ICMP, closed ports).
    #[inline]
    pub fn owner_of(&self, a: &Addr) -> u16 {
        self.owner[(self.key.addr(a) & self.mask) as usize]
    }

    /// Buckets by owner.
    pub fn share(&self, node: u16) -> usize {
        self.owner.iter().filter(|&&o| o == node).count()
    }

    /// How many buckets there are.
    pub fn len(&self) -> usize {
        self.owner.len()
    }

    /// Whether there is no bucket.
    pub fn is_empty(&self) -> bool {
        self.owner.is_empty()
    }
}

fn is_owned(owner: &[u16]) -> bool {
    owner.iter().any(|o| *o != NOBODY)
}

/// The owner of each bucket: weighted rendezvous hashing with exact quotas.
///
/// A bucket ranks the members by weighted rendezvous (highest random weight), and a
/// member may own [`quotas`] buckets, of which it prefers those with the higher hash.
/// Deferred acceptance (Gale and Shapley, 1962) finds the one assignment in which no
/// bucket and member would both rather have each other. Plain rendezvous moves exactly
/// what it must and spreads by chance; this spreads evenly and moves little more
/// (`make ownership`, `docs/ownership.md`).
fn assign(members: &[Share], buckets: usize, key: &[u8; 16]) -> Arc<[u16]> {
    let mut members: Vec<Share> = members.iter().copied().filter(|m| m.weight > 0).collect();
    members.sort_unstable_by_key(|m| m.node);
    let quota = quotas(&members, buckets, key);
    let hash = |bucket: usize, m: &Share| {
        let mut h = SipHasher13::new_with_key(key);
        h.write_u64(bucket as u64);
        h.write_u16(m.node);
        h.finish()
    };
    // Best first; the first member that has not refused the bucket is at the end.
    let mut wishes: Vec<Vec<u16>> = (0..buckets)
        .map(|b| {
            let cost = |m: &Share| (log2_under_one(hash(b, m)) << 16) / u64::from(m.weight);
            let mut by_cost: Vec<(u64, u16)> =
                (0..).zip(&members).map(|(i, m)| (cost(m), i)).collect();
            by_cost.sort_unstable_by_key(|&c| Reverse(c));
            by_cost.into_iter().map(|(_, i)| i).collect()
        })
        .collect();
    let mut held: Vec<BinaryHeap<Reverse<(u64, usize)>>> = vec![BinaryHeap::new(); members.len()];
    let mut free: Vec<usize> = (0..buckets).collect();
    while let Some(b) = free.pop() {
        let Some(i) = wishes[b].pop().map(usize::from) else {
            // Nobody has a weight: the quotas add up to the buckets otherwise.
            continue;
        };
        held[i].push(Reverse((hash(b, &members[i]), b)));
        if held[i].len() > quota[i]
            && let Some(Reverse((_, refused))) = held[i].pop()
        {
            free.push(refused);
        }
    }
    let mut owner = vec![NOBODY; buckets];
    for (m, kept) in members.iter().zip(&held) {
        for Reverse((_, b)) in kept {
            owner[*b] = m.node;
        }
    }
    owner.into()
}

/// How many buckets each member owns: its share by weight, rounded by largest
/// remainder; equal remainders by a keyed hash of the member.
fn quotas(members: &[Share], buckets: usize, key: &[u8; 16]) -> Vec<usize> {
    let total: u64 = members.iter().map(|m| u64::from(m.weight)).sum();
    let share = |m: &Share| buckets as u64 * u64::from(m.weight);
    let mut quota: Vec<usize> = members
        .iter()
        .map(|m| (share(m) / total) as usize)
        .collect();
    let mut remainder: Vec<(u64, u64, usize)> = (0..)
        .zip(members)
        .map(|(i, m)| {
            let mut h = SipHasher13::new_with_key(key);
            h.write_u16(m.node);
            (share(m) % total, h.finish(), i)
        })
        .collect();
    remainder.sort_unstable_by_key(|&r| Reverse(r));
    let left = (buckets - quota.iter().sum::<usize>()).min(remainder.len());
    for (_, _, i) in &remainder[..left] {
        quota[*i] += 1;
    }
    quota
}

/// `-log2((h + 1) / 2^64)` with 32 fractional bits, the last few of them rounded down:
/// the rendezvous cost of a hash, exponentially distributed.
fn log2_under_one(h: u64) -> u64 {
    let h = h.max(1);
    let zeros = h.leading_zeros();
    // In [1, 2), 63 fractional bits. Squaring doubles the logarithm: its integer part is
    // the next bit (Knuth, The Art of Computer Programming 1, section 1.2.2, exercise 25).
    let mut x = h << zeros;
    let mut bits = 0u64;
    for _ in 0..32 {
        let square = u128::from(x) * u128::from(x);
        let carry = (square >> 127) as u64;
        bits = bits << 1 | carry;
        x = (square >> (63 + carry)) as u64;
    }
    ((u64::from(zeros) + 1) << 32) - bits
}

#[cfg(test)]
#[path = "ownership_tests.rs"]
mod tests;
