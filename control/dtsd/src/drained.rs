//! Whether a node that takes nothing new has lost its last connection.

use dts_core::fcb::State as FlowState;
use dts_membership::State;
use dts_worker::WorkerSnapshot;
use std::time::{Duration, Instant};

/// A count of flows by state is at most a second old (`WorkerSnapshot::states`); and a SYN
/// may be on its way that was sent before others knew.
const SETTLED: Duration = Duration::from_millis(1200);

/// What a node has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flows {
    /// Connections. What was handed over is not counted, nor are handshakes: many of them
    /// are those of SYNs that another node has answered as well, and live until their
    /// time-out.
    pub connections: u32,
    /// Entries of any kind.
    pub entries: u64,
}

impl Flows {
    /// The sum over all workers.
    #[must_use]
    pub fn of(workers: &[WorkerSnapshot]) -> Self {
        let live = |w: &WorkerSnapshot| -> u64 {
            let states = FlowState::ALL.iter().zip(w.states);
            let ends = [FlowState::HalfOpen, FlowState::Tombstone];
            let live = states.filter(|(s, _)| !ends.contains(s));
            live.map(|(_, n)| n).sum()
        };
        let connections: u64 = workers.iter().map(live).sum();
        Self {
            connections: u32::try_from(connections).unwrap_or(u32::MAX),
            entries: workers.iter().map(|w| w.flows).sum(),
        }
    }
}

/// Watches a draining.
#[derive(Debug, Default)]
pub struct Watch {
    since: Option<Instant>,
}

impl Watch {
    /// Whether the draining is over, for a node in `state` that has `flows` now.
    pub fn is_over(&mut self, state: State, flows: Flows, now: Instant) -> bool {
        if state != State::Draining {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert(now);
        let settled = now.saturating_duration_since(since) >= SETTLED;
        flows.connections == 0 && settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_may_be_old_is_not_believed() {
        let mut watch = Watch::default();
        let start = Instant::now();
        let none = Flows::default();
        let some = Flows {
            connections: 1,
            entries: 1,
        };
        let ms = |n| start + Duration::from_millis(n);
        assert!(!watch.is_over(State::Active, none, ms(0)));
        assert!(!watch.is_over(State::Draining, none, ms(10)));
        assert!(!watch.is_over(State::Draining, none, ms(1209)));
        assert!(watch.is_over(State::Draining, none, ms(1210)));
        assert!(!watch.is_over(State::Draining, some, ms(1300)));
        // A new draining has a new beginning.
        assert!(!watch.is_over(State::Standby, none, ms(1400)));
        assert!(!watch.is_over(State::Draining, none, ms(1500)));
    }

    #[test]
    fn tombstones_and_handshakes_are_no_connections() {
        let mut states = [0; 5];
        for (i, state) in FlowState::ALL.iter().enumerate() {
            states[i] = if *state == FlowState::Tombstone {
                100
            } else {
                2
            };
        }
        let worker = WorkerSnapshot {
            states,
            flows: 108,
            ..WorkerSnapshot::default()
        };
        let flows = Flows::of(&[worker.clone(), worker]);
        assert_eq!((flows.connections, flows.entries), (12, 216));
    }
}
