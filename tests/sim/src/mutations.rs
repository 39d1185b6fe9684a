//! Rules broken on purpose: each must be caught by some seed.

use crate::run;
use crate::scenario::Family;
use dts_core::mutation::{self, Mutation};

/// What caught a mutation.
#[derive(Clone, Debug)]
pub struct Caught {
    /// The family of the seed.
    pub family: Family,
    /// The seed.
    pub seed: u64,
    /// What was violated.
    pub violation: String,
}

/// Families in which a mutation is likely to show, asked first.
fn likely(m: Mutation) -> &'static [Family] {
    let _ = m;
    Family::ALL
}

/// Runs seeds with the rule broken until one shows it, at most `budget` of each family.
pub fn hunt(m: Mutation, budget: u64) -> Option<Caught> {
    for seed in 0..budget {
        for &family in likely(m) {
            mutation::set(Some(m));
            let report = run(seed, Some(family));
            mutation::set(None);
            // A seed that fails with the rule kept shows nothing.
            if let Some(v) = report.violation
                && run(seed, Some(family)).violation.is_none()
            {
                return Some(Caught {
                    family,
                    seed,
                    violation: format!("{}: {}", v.rule, v.what),
                });
            }
        }
    }
    None
}
