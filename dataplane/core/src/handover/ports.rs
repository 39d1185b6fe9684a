//! Source ports of splice connections. A worker owns every port whose offset in
//! the range is its number modulo the number of workers, so that answers find
//! it. After use a port is in quarantine (rule 19): what comes late for the handover
//! that had it must find nobody, and not another handover.

use crate::mutation::{Mutation, broken};
use crate::time::{Instant, Span};
use std::collections::VecDeque;

/// Longer than the pause between two repetitions of a link message. Anything later
/// than that is told apart by the flow identity in its block.
const QUARANTINE: Span = Span::millis(100);
/// In the paper's form a segment names its flow by the port alone.
const QUARANTINE_BARE: Span = Span::secs(2);

/// One worker's ports.
#[derive(Debug)]
pub struct SplicePorts {
    free: VecDeque<u16>,
    used: hashbrown::HashMap<u16, u32>,
    /// In quarantine, and since when; `None` since the last call of [`Self::rest`].
    resting: VecDeque<(u16, Option<Instant>)>,
}

impl SplicePorts {
    /// The share of `worker` of `workers` in the range, both ends included.
    pub fn new((first, last): (u16, u16), worker: usize, workers: usize) -> Self {
        let free = (first..=last)
            .filter(|p| usize::from(p - first) % workers == worker)
            .collect();
        Self {
            free,
            used: hashbrown::HashMap::new(),
            resting: VecDeque::new(),
        }
    }

    /// The port that has been free for longest, for the handover of `slot`.
    pub fn take(&mut self, slot: u32) -> Option<u16> {
        let p = self.free.pop_front()?;
        self.used.insert(p, slot);
        Some(p)
    }

    /// The slot that uses `port`.
    pub fn slot(&self, port: u16) -> Option<u32> {
        self.used.get(&port).copied()
    }

    /// Ends the use of `port`, if there was one; its quarantine begins.
    pub fn give_back(&mut self, port: Option<u16>) {
        if let Some(p) = port
            && self.used.remove(&p).is_some()
        {
            if broken(Mutation::PortAtOnce) {
                return self.free.push_front(p);
            }
            self.resting.push_back((p, None));
        }
    }

    /// Time passes: ports whose quarantine is over can be taken again. `bare` says
    /// that the paper's form is spoken.
    pub fn rest(&mut self, bare: bool, now: Instant) {
        for (_, since) in self.resting.iter_mut().rev() {
            if since.is_some() {
                break;
            }
            *since = Some(now);
        }
        let time = if bare { QUARANTINE_BARE } else { QUARANTINE };
        while let Some(&(p, Some(since))) = self.resting.front()
            && now - since >= time
        {
            self.resting.pop_front();
            self.free.push_back(p);
        }
    }

    /// Ports that are neither in use nor lost: free, or in quarantine.
    #[cfg(test)]
    pub(crate) fn unused(&self) -> usize {
        self.free.len() + self.resting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_not_used_again_at_once() {
        for (bare, quarantine) in [(false, 100), (true, 2_000)] {
            let mut p = SplicePorts::new((61_000, 61_003), 1, 2);
            let at = |ms: u64| Instant(0) + Span::millis(ms);
            assert_eq!((p.take(7), p.take(8)), (Some(61_001), Some(61_003)));
            assert_eq!(p.take(9), None, "the others are another worker's");
            p.give_back(Some(61_003));
            assert_eq!((p.slot(61_001), p.slot(61_003)), (Some(7), None));
            p.rest(bare, at(5));
            p.give_back(Some(61_001));
            p.give_back(Some(61_001));
            p.rest(bare, at(10));
            p.rest(bare, at(4 + quarantine));
            assert_eq!(p.take(9), None, "in quarantine");
            p.rest(bare, at(5 + quarantine));
            assert_eq!((p.take(9), p.take(9)), (Some(61_003), None));
            p.rest(bare, at(10 + quarantine));
            assert_eq!((p.take(9), p.take(9)), (Some(61_001), None));
        }
    }
}
