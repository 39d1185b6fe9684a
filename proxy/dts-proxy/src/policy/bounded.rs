//! Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, SODA
//! 2018): with m connections in all, the new one included, a member has room for the
//! (1 + epsilon)-fold of its share of m, rounded up. A key goes to the first member of
//! its order that has room. Since the rooms add up to more than m, one always has.
//!
//! The order is that of [`super::hash`] in place of the paper's ring: of either, the
//! paper needs no more than an order for each key that is consistent as members come
//! and go.

use super::{Candidate, hash};

/// The first member of `key`'s order that has room.
#[must_use]
pub fn choose(candidates: &[Candidate<'_>], key: &[u8], slack_percent: u32) -> Option<usize> {
    let weights: u64 = candidates.iter().map(|c| u64::from(c.weight)).sum();
    let total = 1 + candidates.iter().map(|c| u64::from(c.load)).sum::<u64>();
    let order = hash::order(candidates, key);
    let room = |&i: &usize| {
        let c = &candidates[i];
        u64::from(c.load) < capacity(total, c.weight, weights, slack_percent)
    };
    order.iter().copied().find(room)
}

/// The most connections of a member of weight `weight` of `weights` when there are
/// `total` in all.
#[must_use]
pub fn capacity(total: u64, weight: u8, weights: u64, slack_percent: u32) -> u64 {
    let share = u128::from(total) * u128::from(weight) * u128::from(100 + slack_percent);
    let capacity = share.div_ceil(100 * u128::from(weights.max(1)));
    u64::try_from(capacity).unwrap_or(u64::MAX)
}
