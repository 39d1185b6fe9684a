//! What becomes of a frame: a pure function of the seed, the flow, the direction and
//! the frame's number within them.

use super::{Burst, Impairment, Script};
use siphasher::sip::SipHasher13;
use std::hash::Hasher;

/// What to do with one frame: send each of `copies` after its delay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// Delays, microseconds: none where the frame is lost, two where it is duplicated.
    pub copies: Vec<u64>,
    /// The bit to flip, counted from the first one behind the IP header.
    pub flip: Option<usize>,
    /// It was sent at once.
    pub hurried: bool,
}

impl Fate {
    /// Whether at least one undamaged copy arrives.
    #[must_use]
    pub fn arrives(&self) -> bool {
        !self.copies.is_empty() && self.flip.is_none()
    }
}

/// The random sequence of one direction of one flow.
#[derive(Clone, Debug)]
pub struct Sequence {
    key: u64,
    number: u64,
    bad: bool,
    last_us: u64,
}

#[derive(Clone, Copy)]
enum Draw {
    Loss,
    Chain,
    ChainLoss,
    Reorder,
    Duplicate,
    Corrupt,
    Bit,
    Delay,
    CopyDelay,
}

impl Sequence {
    /// The sequence of `flow`, which two connections that are to meet the same fate
    /// share.
    #[must_use]
    pub fn new(seed: u64, cable: usize, back: bool, flow: u64) -> Self {
        let mut hash = SipHasher13::new_with_keys(seed, (cable as u64) << 1 | u64::from(back));
        hash.write_u64(flow);
        Self {
            key: hash.finish(),
            number: 0,
            bad: false,
            last_us: 0,
        }
    }

    /// Uniform in 0 to 1, without 1.
    fn draw(&self, what: Draw) -> f64 {
        let mut hash = SipHasher13::new_with_keys(self.key, self.number);
        hash.write_u8(what as u8);
        // The 53 bits that a double has.
        (hash.finish() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn delay(&self, i: &Impairment, what: Draw) -> u64 {
        let low = i.delay_us.saturating_sub(i.jitter_us);
        low + (self.draw(what) * (2 * i.jitter_us) as f64) as u64
    }

    fn chain(&mut self, b: &Burst, now_us: u64) -> bool {
        self.bad &= now_us.saturating_sub(self.last_us) < Burst::QUIET_US;
        let turn = if self.bad { b.to_good } else { b.to_bad };
        if self.draw(Draw::Chain) < turn {
            self.bad = !self.bad;
        }
        let loss = if self.bad { b.bad_loss } else { b.good_loss };
        self.draw(Draw::ChainLoss) < loss
    }

    /// The fate of the next frame, which came at `now_us` (microseconds) and has `bits`
    /// bits behind its IP header.
    pub fn next(&mut self, i: &Impairment, bits: usize, now_us: u64) -> Fate {
        let mut fate = Fate::default();
        // As in netem: a copy makes up for a loss.
        let mut count = 1 + i32::from(self.draw(Draw::Duplicate) < i.duplicate);
        let burst = i.burst.is_some_and(|b| self.chain(&b, now_us));
        if burst || self.draw(Draw::Loss) < i.loss {
            count -= 1;
        }
        if bits > 0 && self.draw(Draw::Corrupt) < i.corrupt {
            fate.flip = Some((self.draw(Draw::Bit) * bits as f64) as usize);
        }
        fate.hurried = self.draw(Draw::Reorder) < i.reorder;
        for what in [Draw::Delay, Draw::CopyDelay]
            .into_iter()
            .take(count as usize)
        {
            fate.copies
                .push(if fate.hurried { 0 } else { self.delay(i, what) });
        }
        self.number += 1;
        self.last_us = now_us;
        fate
    }
}

/// Where a flow's direction stands in a script.
#[derive(Clone, Debug, Default)]
pub struct Play {
    payloads: u64,
    repeated: bool,
}

impl Play {
    /// Changes the fate of a frame with payload. `again` says that its first byte was
    /// sent before.
    pub fn act(&mut self, script: Script, again: bool, fate: &mut Fate) {
        self.payloads += 1;
        self.repeated |= again;
        match script {
            Script::LoseFlight => {
                if !self.repeated {
                    fate.copies.clear();
                }
            }
            Script::SecondFirst { by_us } => {
                if self.payloads == 2 && !self.repeated {
                    fate.hurried = true;
                    for delay in &mut fate.copies {
                        *delay = delay.saturating_sub(by_us);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: usize = 200_000;

    fn fates(i: &Impairment) -> Vec<Fate> {
        let mut sequence = Sequence::new(1, 0, false, 5);
        (0..N).map(|_| sequence.next(i, 800, 0)).collect()
    }

    fn share(fates: &[Fate], of: impl Fn(&Fate) -> bool) -> f64 {
        fates.iter().filter(|f| of(f)).count() as f64 / N as f64
    }

    #[test]
    fn nothing_happens_without_impairment() {
        let untouched = Fate {
            copies: vec![0],
            ..Fate::default()
        };
        assert!(
            fates(&Impairment::default())
                .iter()
                .all(|f| *f == untouched)
        );
    }

    #[test]
    fn shares_are_what_was_asked_for() {
        let i = Impairment {
            delay_us: 25_000,
            jitter_us: 5_000,
            loss: 0.01,
            reorder: 0.05,
            duplicate: 0.01,
            corrupt: 0.001,
            ..Impairment::default()
        };
        let fates = fates(&i);
        let near = |a: f64, b: f64| assert!((a - b).abs() < b * 0.15, "{a} is not {b}");
        near(share(&fates, |f| f.copies.is_empty()), 0.01 * 0.99);
        near(share(&fates, |f| f.copies.len() == 2), 0.01 * 0.99);
        near(share(&fates, |f| f.hurried), 0.05);
        near(share(&fates, |f| f.flip.is_some()), 0.001);
        assert!(fates.iter().all(|f| f.flip.is_none_or(|bit| bit < 800)));
        let delays: Vec<u64> = fates
            .iter()
            .filter(|f| !f.hurried)
            .flat_map(|f| f.copies.clone())
            .collect();
        assert!(delays.iter().all(|d| (20_000..30_000).contains(d)));
        near(
            delays.iter().sum::<u64>() as f64 / delays.len() as f64,
            25_000.0,
        );
        assert!(
            fates
                .iter()
                .all(|f| !f.hurried || f.copies.iter().all(|d| *d == 0))
        );
    }

    #[test]
    fn losses_come_in_bursts() {
        let i = Impairment {
            burst: Some(Burst {
                to_bad: 0.005,
                to_good: 0.25,
                bad_loss: 1.0,
                good_loss: 0.0,
            }),
            ..Impairment::default()
        };
        let lost: Vec<bool> = fates(&i).iter().map(|f| f.copies.is_empty()).collect();
        let total = lost.iter().filter(|l| **l).count() as f64;
        let bursts = lost.windows(2).filter(|w| !w[0] && w[1]).count() as f64;
        // The chain's own figures: share p / (p + r), mean length 1 / r.
        assert!(
            (total / N as f64 - 0.005 / 0.255).abs() < 0.003,
            "{total} lost"
        );
        assert!((total / bursts - 4.0).abs() < 0.5, "{bursts} bursts");
    }

    #[test]
    fn a_burst_does_not_outlast_a_pause() {
        let i = Impairment {
            burst: Some(Burst {
                to_bad: 1.0,
                to_good: 0.0,
                bad_loss: 1.0,
                good_loss: 0.0,
            }),
            ..Impairment::default()
        };
        let calm = Impairment {
            burst: i.burst.map(|b| Burst { to_bad: 0.0, ..b }),
            ..Impairment::default()
        };
        let mut s = Sequence::new(1, 0, false, 5);
        let lost = |fate: Fate| fate.copies.is_empty();
        assert!(lost(s.next(&i, 8, 1)));
        assert!(lost(s.next(&calm, 8, Burst::QUIET_US)));
        assert!(!lost(s.next(&calm, 8, 2 * Burst::QUIET_US)));
    }

    #[test]
    fn a_seed_is_a_sequence() {
        let i = Impairment {
            loss: 0.5,
            ..Impairment::default()
        };
        let run = |seed, cable, back, flow| {
            let mut s = Sequence::new(seed, cable, back, flow);
            (0..64).map(|_| s.next(&i, 8, 0)).collect::<Vec<_>>()
        };
        let first = run(1, 0, false, 7);
        assert_eq!(first, run(1, 0, false, 7));
        for other in [
            run(2, 0, false, 7),
            run(1, 1, false, 7),
            run(1, 0, true, 7),
            run(1, 0, false, 8),
        ] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn scripts() {
        let sent = || Fate {
            copies: vec![900],
            ..Fate::default()
        };
        let mut play = Play::default();
        let lost: Vec<bool> = [false, false, true, false]
            .into_iter()
            .map(|again| {
                let mut fate = sent();
                play.act(Script::LoseFlight, again, &mut fate);
                fate.copies.is_empty()
            })
            .collect();
        assert_eq!(lost, [true, true, false, false]);
        let mut play = Play::default();
        let delays: Vec<u64> = (0..3)
            .map(|_| {
                let mut fate = sent();
                play.act(Script::SecondFirst { by_us: 200 }, false, &mut fate);
                fate.copies[0]
            })
            .collect();
        assert_eq!(delays, [900, 700, 900]);
    }
}
