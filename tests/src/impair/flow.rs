//! What a TCP connection sent over a cable, and what of it arrived, counted at the
//! cable: the same way for every stack, handed over or not.

use super::frame::Tcp;
use super::model::Fate;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Counts of one direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Direction {
    /// Frames that came in.
    pub frames: u64,
    /// Of these, those with payload.
    pub data: u64,
    /// Payload bytes, repeated ones too.
    pub bytes: u64,
    /// Frames with payload that begin below what was sent before: sent again.
    pub again: u64,
    /// Of these, those whose every byte had been let through: sent again for nothing.
    pub needless: u64,
    /// From the first sending of a byte to its first needless repetition, microseconds.
    pub needless_after_us: Option<u64>,
    /// SYNs or SYN-ACKs after the first.
    pub syn_again: u64,
    /// RSTs.
    pub resets: u64,
    /// Lost here.
    pub lost: u64,
    /// Sent twice here.
    pub duplicated: u64,
    /// Sent at once here, past others.
    pub hurried: u64,
    /// Damaged here.
    pub damaged: u64,
    /// From the first payload frame that was lost here to the moment when all payload
    /// that was lost until then had been let through, microseconds.
    pub repaired_us: Option<u64>,
}

/// Counts of a connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The end at the first interface of the cable.
    pub near: SocketAddr,
    /// The other end.
    pub far: SocketAddr,
    /// From the near end.
    pub out: Direction,
    /// To the near end.
    pub back: Direction,
}

/// One direction while it is counted.
#[derive(Clone, Debug, Default)]
pub struct Counter {
    /// The counts.
    pub counts: Direction,
    base: Option<u32>,
    /// Behind the last byte that was sent, relative to `base`.
    end: u32,
    /// Ranges that were let through, in order, apart.
    through: Vec<(u32, u32)>,
    /// First sendings: first byte, time.
    sent: Vec<(u32, u64)>,
    first_loss_us: Option<u64>,
    lost_end: u32,
    syns: u64,
}

/// First sendings that are remembered, for `needless_after_us`.
const SENT_MOST: usize = 4096;

impl Counter {
    fn relative(&mut self, seq: u32) -> u32 {
        seq.wrapping_sub(*self.base.get_or_insert(seq))
    }

    /// Whether the payload of `s` begins below what was sent before.
    pub fn is_again(&mut self, s: &Tcp) -> bool {
        let from = self.relative(s.seq.wrapping_add(u32::from(s.syn)));
        s.len > 0 && (from.wrapping_sub(self.end) as i32) < 0
    }

    /// Counts a segment and what becomes of it. `now` in microseconds.
    pub fn note(&mut self, s: &Tcp, fate: &Fate, now: u64) {
        let again = self.is_again(s);
        let from = self.relative(s.seq.wrapping_add(u32::from(s.syn)));
        let to = from.wrapping_add(s.len);
        let c = &mut self.counts;
        c.frames += 1;
        c.data += u64::from(s.len > 0);
        c.bytes += u64::from(s.len);
        c.resets += u64::from(s.rst);
        if s.syn {
            self.syns += 1;
            c.syn_again = self.syns - 1;
        }
        c.lost += u64::from(fate.copies.is_empty());
        c.duplicated += u64::from(fate.copies.len() > 1);
        c.hurried += u64::from(fate.hurried && !fate.copies.is_empty());
        c.damaged += u64::from(fate.flip.is_some() && !fate.copies.is_empty());
        if s.len == 0 {
            return;
        }
        if again {
            c.again += 1;
            // A part below `end` is what counts: a probe may carry new bytes too.
            let known = to.min(self.end);
            let needless = self
                .through
                .iter()
                .any(|(low, high)| *low <= from && known <= *high);
            if needless {
                c.needless += 1;
                let first = self.sent.iter().rev().find(|(at, _)| *at <= from);
                c.needless_after_us = c.needless_after_us.or(first.map(|(_, t)| now - t));
            }
        } else if self.sent.len() < SENT_MOST {
            self.sent.push((from, now));
        }
        if (to.wrapping_sub(self.end) as i32) > 0 {
            self.end = to;
        }
        if fate.arrives() {
            self.pass(from, to);
        } else if c.repaired_us.is_none() {
            self.first_loss_us.get_or_insert(now);
            self.lost_end = self.lost_end.max(to);
        }
        if let Some(start) = self.first_loss_us
            && self.counts.repaired_us.is_none()
            && self
                .through
                .first()
                .is_some_and(|(low, high)| *low == 0 && self.lost_end <= *high)
        {
            self.counts.repaired_us = Some(now - start);
        }
    }

    fn pass(&mut self, from: u32, to: u32) {
        let (mut low, mut high) = (from, to);
        self.through.retain(|(l, h)| {
            let apart = *h < low || high < *l;
            if !apart {
                low = low.min(*l);
                high = high.max(*h);
            }
            apart
        });
        let at = self.through.partition_point(|(l, _)| *l < low);
        self.through.insert(at, (low, high));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(seq: u32, len: u32) -> Tcp {
        let end = "10.0.0.1:80".parse().expect("an address");
        Tcp {
            from: end,
            to: end,
            seq,
            len,
            syn: false,
            fin: false,
            rst: false,
        }
    }

    fn syn(seq: u32) -> Tcp {
        Tcp {
            syn: true,
            ..segment(seq, 0)
        }
    }

    const LOST: Fate = Fate {
        copies: Vec::new(),
        flip: None,
        hurried: false,
    };

    fn passed() -> Fate {
        Fate {
            copies: vec![0],
            ..LOST
        }
    }

    #[test]
    fn needed_and_needless_repetitions_across_the_wrap() {
        let isn = u32::MAX - 50;
        let mut counter = Counter::default();
        let at = |offset: u32| isn.wrapping_add(1).wrapping_add(offset);
        counter.note(&syn(isn), &passed(), 0);
        counter.note(&segment(at(0), 100), &passed(), 10);
        counter.note(&segment(at(100), 100), &LOST, 20);
        counter.note(&segment(at(200), 100), &passed(), 30);
        assert_eq!(counter.counts.again, 0);
        assert_eq!(counter.counts.repaired_us, None);
        // A keepalive probe has no payload and is nothing new.
        counter.note(&segment(at(299), 0), &passed(), 35);
        counter.note(&segment(at(100), 100), &passed(), 40);
        assert_eq!((counter.counts.again, counter.counts.needless), (1, 0));
        assert_eq!(counter.counts.repaired_us, Some(20));
        counter.note(&segment(at(200), 100), &passed(), 530);
        assert_eq!((counter.counts.again, counter.counts.needless), (2, 1));
        assert_eq!(counter.counts.needless_after_us, Some(500));
        assert_eq!(counter.counts.lost, 1);
        assert_eq!(counter.counts.data, 5);
    }

    #[test]
    fn a_flight_is_repaired_when_all_of_it_is() {
        let mut counter = Counter::default();
        counter.note(&syn(9), &passed(), 0);
        for i in 0..3 {
            counter.note(&segment(10 + i * 100, 100), &LOST, 100 + u64::from(i));
        }
        // The tail first, as a probe, then the rest.
        for (i, now) in [(2, 400), (0, 500), (1, 501)] {
            assert_eq!(counter.counts.repaired_us, None);
            counter.note(&segment(10 + i * 100, 100), &passed(), now);
        }
        assert_eq!(counter.counts.repaired_us, Some(401));
        assert_eq!((counter.counts.again, counter.counts.needless), (3, 0));
    }

    #[test]
    fn a_damaged_segment_has_not_arrived() {
        let mut counter = Counter::default();
        let damaged = Fate {
            flip: Some(3),
            ..passed()
        };
        counter.note(&segment(0, 10), &damaged, 0);
        counter.note(&segment(0, 10), &passed(), 5);
        assert_eq!(
            (
                counter.counts.again,
                counter.counts.needless,
                counter.counts.damaged
            ),
            (1, 0, 1)
        );
        // A SYN that carries payload, and the same bytes behind the handshake.
        let mut counter = Counter::default();
        let with_data = Tcp {
            syn: true,
            ..segment(100, 20)
        };
        counter.note(&with_data, &passed(), 0);
        counter.note(&segment(101, 20), &passed(), 7);
        assert_eq!((counter.counts.again, counter.counts.syn_again), (1, 0));
    }
}
