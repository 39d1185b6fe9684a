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

/// Families in which a mutation is likely to show, asked first and longest.
fn likely(m: Mutation) -> &'static [Family] {
    use Mutation as M;
    match m {
        M::IncarnationUnchecked | M::IncarnationTrusted | M::OrphansHang | M::NoTombstone => {
            &[Family::DestDies]
        }
        M::AbortConfirmed | M::ProofIgnored => &[Family::Steps],
        M::AnewToOld => &[Family::Reopen],
        M::ChallengeOff => &[Family::Reopen, Family::ClientActs],
        M::ChallengeForever | M::ProbeLost | M::AskedForgotten => &[Family::ClientActs],
        M::HeldUnverified | M::DamagedSyn => &[Family::Noise],
        M::WindowRetreats | M::OptionsOffered => &[Family::Options],
        M::UrgentUnmoved
        | M::UrgentUnchecked
        | M::StormGoesOn
        | M::StormAtOnce
        | M::FragmentsPass
        | M::HoldGrows
        | M::FirstKeyOnly
        | M::SocketGoneStays
        | M::EveryoneAdvertises
        | M::OrphansUnasked => &[Family::Rules],
        M::EarlierForgotten | M::RefusalForgets => &[Family::Again],
        M::MinorityOwns
        | M::DeadKeepBuckets
        | M::GivenAwayAtOnce
        | M::NeverAnnounced
        | M::OrphansByNumber => &[Family::Split],
        M::RepeatAfterAnswer
        | M::RepeatClockBack
        | M::RepeatForgetsLater
        | M::OrphanBeforeRepeat => &[Family::Repeat],
        M::RoutingWalked => &[Family::Attacks],
        M::PortAtOnce => &[Family::Refusals],
        M::DrainUnchecked => &[Family::ShortDrain],
        M::SwallowedLost => &[Family::Refusals],
        M::CopyAsProbe => &[Family::Plain],
        M::HoleUnfilled => &[Family::Pipelined],
        M::ReplayedAckLeft => &[Family::Handshake],
        _ => &[],
    }
}

/// Runs seeds with the rule broken until one shows it: at most ten times `budget` of the
/// likely families, then `budget` of each.
pub fn hunt(m: Mutation, budget: u64) -> Option<Caught> {
    let first = (0..10 * budget).flat_map(|s| likely(m).iter().map(move |&f| (s, f)));
    let then = (0..budget).flat_map(|s| Family::ALL.iter().map(move |&f| (s, f)));
    first.chain(then).find_map(|(seed, family)| {
        mutation::set(Some(m));
        let report = run(seed, Some(family));
        mutation::set(None);
        let v = report.violation?;
        // A seed that fails with the rule kept shows nothing.
        run(seed, Some(family)).violation.is_none().then(|| Caught {
            family,
            seed,
            violation: format!("{}: {}", v.rule, v.what),
        })
    })
}
