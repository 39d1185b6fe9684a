//! Least connections: the member with the least load for its weight. Of equal ones the
//! one that comes first for a key (see [`super::hash`]), which is random or the target.

use super::{Candidate, hash};

/// The least loaded member.
#[must_use]
pub fn choose(candidates: &[Candidate<'_>], key: &[u8]) -> Option<usize> {
    let least = candidates.iter().map(Candidate::relative_load).min()?;
    let order = hash::order(candidates, key);
    order
        .into_iter()
        .find(|&i| candidates[i].relative_load() == least)
}
