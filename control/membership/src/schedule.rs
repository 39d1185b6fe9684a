//! Policy `scheduled`: how much of its weight each member gets, told by one of them.
//!
//! A [`Schedule`] is one factor by member, and owners are the same pure function of
//! members and weights as under every other policy, with the weights so multiplied. So the
//! word of a scheduler is small, whatever the number of buckets, a bucket of a member that
//! dies has an owner as soon as its death is known, and nothing waits for a scheduler.

use crate::envelope;
use std::collections::BTreeMap;
use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The factor of a member that gets its whole weight, thousandths.
pub const FULL: u16 = 1000;
/// The least factor, thousandths: a member never starves, or nobody would learn that it
/// has become faster.
pub const LEAST: u16 = 125;
/// Most factors of a schedule: what fits a datagram. In a larger cluster the members with
/// the highest factors get their whole weight.
pub const FACTORS: usize =
    (envelope::LEN_MAX - envelope::OVERHEAD - size_of::<Head>()) / size_of::<Entry>();

/// Which of two schedules holds: the later one. A scheduler that takes over begins a term
/// above all that it has heard of, and counts from 1 in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// Rises when another node schedules; 0 as long as none has.
    pub term: u32,
    /// Rises with each schedule of a term.
    pub counter: u32,
    /// Who made it: the higher id holds where two nodes began one term.
    pub scheduler: u16,
}

/// Factors of the members' weights, thousandths, [`LEAST`] to [`FULL`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// Its age.
    pub stamp: Stamp,
    factors: BTreeMap<u16, u16>,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Head {
    term: U32,
    counter: U32,
    scheduler: U16,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Entry {
    node: U16,
    factor: U16,
}

impl Schedule {
    /// Those of `factors` that are no [`FULL`] ones; the lowest ones, if they are more
    /// than [`FACTORS`].
    #[must_use]
    pub fn new(stamp: Stamp, factors: impl IntoIterator<Item = (u16, u16)>) -> Self {
        let kept = factors.into_iter().filter(|(_, f)| *f < FULL);
        let mut kept: Vec<(u16, u16)> = kept.map(|(node, f)| (node, f.max(LEAST))).collect();
        kept.sort_unstable_by_key(|(node, f)| (*f, *node));
        kept.truncate(FACTORS);
        Self {
            stamp,
            factors: kept.into_iter().collect(),
        }
    }

    /// What a member's weight is multiplied by, thousandths.
    #[must_use]
    pub fn factor(&self, node: u16) -> u16 {
        self.factors.get(&node).copied().unwrap_or(FULL)
    }

    /// The members that do not get their whole weight.
    pub fn factors(&self) -> impl Iterator<Item = (u16, u16)> {
        self.factors.iter().map(|(node, f)| (*node, *f))
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let head = Head {
            term: self.stamp.term.into(),
            counter: self.stamp.counter.into(),
            scheduler: self.stamp.scheduler.into(),
        };
        let mut bytes = head.as_bytes().to_vec();
        for (node, factor) in self.factors() {
            let entry = Entry {
                node: node.into(),
                factor: factor.into(),
            };
            bytes.extend_from_slice(entry.as_bytes());
        }
        bytes
    }

    /// `None`: a value out of its range, or members that do not ascend.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, entries) = Head::ref_from_prefix(bytes).ok()?;
        let entries = <[Entry]>::ref_from_bytes(entries).ok()?;
        let stamp = Stamp {
            term: head.term.get(),
            counter: head.counter.get(),
            scheduler: head.scheduler.get(),
        };
        let is_word = stamp.term > 0 && stamp.counter > 0 && stamp.scheduler > 0;
        let ascends = entries
            .windows(2)
            .all(|w| w[0].node.get() < w[1].node.get());
        let in_range = |e: &Entry| e.node.get() > 0 && (LEAST..FULL).contains(&e.factor.get());
        let none = stamp == Stamp::default() && entries.is_empty();
        let valid = none || is_word && ascends && entries.iter().all(in_range);
        if !valid {
            return None;
        }
        let factors = entries.iter().map(|e| (e.node.get(), e.factor.get()));
        Some(Self {
            stamp,
            factors: factors.collect(),
        })
    }
}

/// A member's load: connections that it has, by its weight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) node: u16,
    /// 1 to 100.
    pub(crate) weight: u8,
    pub(crate) connections: u32,
}

/// Loads are told apart as if every member had so many connections more: few connections
/// are no load, and their number is mostly chance.
const FEW: f64 = 32.0;
/// Of a new look at the loads, so much goes into the smoothed one.
const SMOOTH: f64 = 0.25;
/// A load within this of the mean is as it should be (a logarithm: 16 % above, 14 % below).
const BAND: f64 = 0.15;
/// How hard a load above the band brakes at once. A member below it is not given more at
/// once: it may be one that has just started.
const BRAKE: f64 = 0.8;
/// How much a load outside the band moves the lasting part, each time.
const DRIFT: f64 = 0.02;
/// A load that comes so much nearer to the mean each time needs no more: where connections
/// last long, it takes its time.
const MENDING: f64 = 0.002;
/// The most that a factor changes each time (a logarithm: 28 %).
const STEP: f64 = 0.25;
/// Factors that are nearer to the ones told are not told (a logarithm: 5 %).
const WORTH: f64 = 0.05;

#[derive(Clone, Copy, Debug)]
struct Loop {
    /// Smoothed logarithm of the load over the mean.
    error: f64,
    /// The lasting part of the factor, a logarithm.
    lasting: f64,
    /// The factor, a logarithm, 0 or less.
    factor: f64,
}

/// The control loop of a scheduler: proportional and integral, on logarithms, one by
/// member. It is stable whether connections last a moment or an hour, because what acts
/// at once goes by the load as it is, not by a sum of former ones.
#[derive(Debug, Default)]
pub(crate) struct Controller {
    loops: BTreeMap<u16, Loop>,
}

fn lowest() -> f64 {
    (f64::from(LEAST) / f64::from(FULL)).ln()
}

/// What of an error is outside the band.
fn beyond(error: f64) -> f64 {
    error - error.clamp(-BAND, BAND)
}

impl Controller {
    /// One look at the loads of the members that take new connections; `told` is what
    /// holds. `None` if it may stay.
    pub(crate) fn look(&mut self, loads: &[Load], told: &Schedule) -> Option<BTreeMap<u16, u16>> {
        let count = loads.len() as f64;
        let total: f64 = loads.iter().map(|l| f64::from(l.connections)).sum();
        let weights: f64 = loads.iter().map(|l| f64::from(l.weight)).sum();
        let mean = total / count + FEW;
        let mut loops = BTreeMap::new();
        for l in loads {
            // As many connections as a member of the mean weight would have for it.
            let fair = weights / count / f64::from(l.weight);
            let seen = ((f64::from(l.connections) * fair + FEW) / mean).ln();
            let known = self.loops.get(&l.node).copied();
            let mut at = known.unwrap_or_else(|| {
                let factor = (f64::from(told.factor(l.node)) / f64::from(FULL)).ln();
                // Another scheduler changes nothing by itself.
                let brakes = told.stamp != Stamp::default();
                let held = if brakes { beyond(seen).max(0.0) } else { 0.0 };
                let lasting = factor + BRAKE * held;
                Loop {
                    error: seen,
                    lasting,
                    factor,
                }
            });
            let before = at.error.abs();
            at.error += SMOOTH * (seen - at.error);
            let beyond = beyond(at.error);
            if at.error.abs() > before - MENDING {
                at.lasting = (at.lasting - DRIFT * beyond).clamp(lowest(), -lowest());
            }
            let wanted = at.lasting - BRAKE * beyond.max(0.0);
            at.factor += (wanted - at.factor).clamp(-STEP, STEP);
            loops.insert(l.node, at);
        }
        // Only the relations count: whoever gets most gets its whole weight.
        let most = loops.values().map(|l| l.factor).fold(f64::MIN, f64::max);
        for at in loops.values_mut() {
            at.lasting -= most;
            at.factor = (at.factor - most).max(lowest());
        }
        self.loops = loops;
        let now = |l: &Loop| (l.factor.exp() * f64::from(FULL)).round() as u16;
        let differs = |(node, l): (&u16, &Loop)| {
            let told = f64::from(told.factor(*node)) / f64::from(FULL);
            (l.factor - told.ln()).abs() >= WORTH
        };
        if !self.loops.iter().any(differs) {
            return None;
        }
        // Who is not there keeps what it had.
        let mut all: BTreeMap<u16, u16> = told.factors().collect();
        all.extend(self.loops.iter().map(|(node, l)| (*node, now(l))));
        Some(all)
    }
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
