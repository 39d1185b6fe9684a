//! Ours and peer in turns, and what is said of the rounds.

use anyhow::Result;
use std::time::{Duration, Instant};

/// How long the rounds are.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Rounds; an odd number has a median.
    pub rounds: usize,
    /// Each side runs so long in a round before it is measured.
    pub warm_up: Duration,
    /// Each side is measured so long in a round.
    pub measured: Duration,
}

/// One side: it can be let go, stopped, and asked how much it has done.
pub trait Side {
    /// Lets it go.
    ///
    /// # Errors
    /// It is gone.
    fn resume(&mut self) -> Result<()>;
    /// Stops it.
    ///
    /// # Errors
    /// It is gone.
    fn pause(&mut self) -> Result<()>;
    /// What it has done since it started.
    ///
    /// # Errors
    /// It is gone, or does something else than it should.
    fn done(&mut self) -> Result<u64>;
}

/// Units per second of one turn.
fn turn(side: &mut dyn Side, plan: &Plan) -> Result<f64> {
    side.resume()?;
    std::thread::sleep(plan.warm_up);
    let (before, start) = (side.done()?, Instant::now());
    std::thread::sleep(plan.measured);
    let (after, took) = (side.done()?, start.elapsed());
    side.pause()?;
    Ok((after - before) as f64 / took.as_secs_f64())
}

/// The rates of ours and of the peer in each round.
///
/// # Errors
/// A side is gone.
pub fn compare(ours: &mut dyn Side, peer: &mut dyn Side, plan: &Plan) -> Result<Vec<(f64, f64)>> {
    (0..plan.rounds)
        .map(|_| Ok((turn(ours, plan)?, turn(peer, plan)?)))
        .collect()
}

/// The middle value; of an even number the mean of the two in the middle.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut v: Vec<f64> = values.into_iter().collect();
    v.sort_by(f64::total_cmp);
    match v.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => v[n / 2],
        n => f64::midpoint(v[n / 2 - 1], v[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert!(median([]).is_nan());
        assert_eq!(median([3.0]), 3.0);
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
