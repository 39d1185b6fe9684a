//! Time as an argument: nanoseconds on a monotonic clock that the caller reads
//! once per burst.

use std::ops::{Add, Sub};

/// A point on the caller's monotonic clock, in nanoseconds since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

/// A span in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub u64);

impl Span {
    /// A span of `n` microseconds.
    pub const fn micros(n: u64) -> Self {
        Self(n * 1_000)
    }
    /// A span of `n` milliseconds.
    pub const fn millis(n: u64) -> Self {
        Self(n * 1_000_000)
    }
    /// A span of `n` seconds.
    pub const fn secs(n: u64) -> Self {
        Self(n * 1_000_000_000)
    }
    /// Whole microseconds.
    pub const fn as_micros(self) -> u64 {
        self.0 / 1_000
    }
}

/// A point in time in four bytes, for what is kept of each flow: in units of 2^20 ns,
/// about a millisecond. What lies more than 26 days back cannot be told from what is to
/// come; no flow lives without a segment so long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp(u32);

impl Stamp {
    const UNIT: u32 = 20;
    /// The beginning of the caller's clock.
    pub const ZERO: Self = Self(0);

    /// The span since then, by a unit too long or too short. What is ahead of `now` by less than
    /// half of that is no time ago.
    #[inline]
    pub fn age(self, now: Instant) -> Span {
        self.until(now.into())
    }

    /// The span until `now`, as [`Self::age`].
    #[inline]
    pub fn until(self, now: Self) -> Span {
        let units = now.0.wrapping_sub(self.0);
        if units > u32::MAX / 2 {
            return Span(0);
        }
        Span(u64::from(units) << Self::UNIT)
    }

    /// The same, or a day before `now` if it lies further back: what is asked for more often
    /// than every 26 days does not come to lie ahead of `now`.
    pub fn within_a_day(self, now: Instant) -> Self {
        const DAY: Span = Span::secs(86_400);
        if self.age(now) <= DAY {
            return self;
        }
        Self::from(Instant(now.0.saturating_sub(DAY.0)))
    }

    /// It lies before `other`, by a unit at least.
    #[inline]
    pub fn is_before(self, other: Self) -> bool {
        crate::seq::lt(self.0, other.0)
    }
}

impl From<Instant> for Stamp {
    #[inline]
    fn from(t: Instant) -> Self {
        Self((t.0 >> Self::UNIT) as u32)
    }
}

impl Add<Span> for Instant {
    type Output = Instant;
    fn add(self, s: Span) -> Instant {
        Instant(self.0.saturating_add(s.0))
    }
}

impl Sub<Instant> for Instant {
    type Output = Span;
    /// The span since `earlier`, zero when that is later.
    fn sub(self, earlier: Instant) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_tell_ages() {
        let unit = Span(1 << 20);
        for start in [0, 5_000_000_000, (1 << 52) - 1, (1 << 52) + 3] {
            let then = Instant(start);
            for span in [Span(0), Span::millis(1), Span::secs(1), Span::secs(86_400)] {
                let age = Stamp::from(then).age(then + span);
                assert!(
                    age.0 <= span.0 + unit.0 && span.0 <= age.0 + unit.0,
                    "{start} {span:?} {age:?}"
                );
            }
            let (early, late) = (Stamp::from(then), Stamp::from(then + unit));
            assert!(early.is_before(late) && !late.is_before(early) && !late.is_before(late));
            assert_eq!(late.age(then), Span(0));
            // However long it is asked for, it stays old.
            let mut old = Stamp::from(then);
            for week in 1..20 {
                let now = then + Span::secs(week * 7 * 86_400);
                old = old.within_a_day(now);
                assert!(old.age(now) >= Span::secs(86_399), "{start} {week}");
            }
            assert_eq!(late.within_a_day(then + unit), late);
        }
    }
}
