//! Who schedules, and how its word comes to all.

use super::{Held, Membership};
use crate::envelope::Kind;
use crate::record::{Record, State};
use crate::schedule::{Controller, Load, Schedule, Stamp};
use crate::types::Time;
use std::time::Duration;

/// Until a schedule is told again to those who do not work by it.
const AGAIN: Duration = Duration::from_millis(50);
/// So often, before it is told with each look only.
const TELLINGS: u8 = 5;

/// A node's part in scheduling.
#[derive(Debug, Default)]
pub(super) struct Scheduling {
    /// The latest one that it has heard of.
    pub(super) schedule: Schedule,
    /// It is this node's own, of this term.
    own: bool,
    /// There as long as this node schedules.
    controller: Option<Controller>,
    next_look: Time,
    next_telling: Time,
    tellings: u8,
}

impl Membership {
    /// The latest schedule that this node has heard of.
    #[must_use]
    pub fn schedule(&self) -> &Schedule {
        &self.scheduling.schedule
    }

    /// Whether this node schedules. Nobody is elected: that follows from the agreed view.
    fn schedules(&self) -> bool {
        let wanted = !self.settings.schedule.is_zero() && !self.left;
        wanted && self.agreed.scheduler() == Some(self.own)
    }

    /// Begins or ends to schedule, as the view says.
    pub(super) fn appoint(&mut self, now: Time) {
        let schedules = self.schedules();
        let s = &mut self.scheduling;
        if !schedules {
            s.controller = None;
        } else if s.controller.is_none() {
            s.controller = Some(Controller::default());
            // The first telling asks: whoever knows a later one answers with it. The first
            // look comes behind the answers.
            (s.tellings, s.next_telling) = (TELLINGS, now);
            s.next_look = now + self.settings.schedule;
        }
    }

    /// When there is something to do for the scheduler.
    pub(super) fn schedule_due(&self) -> Option<Time> {
        let s = &self.scheduling;
        let telling = (s.tellings > 0).then_some(s.next_telling);
        let look = s.controller.is_some().then_some(s.next_look);
        look.map(|l| telling.map_or(l, |t| t.min(l)))
    }

    pub(super) fn tick_schedule(&mut self, now: Time) {
        if self.scheduling.controller.is_none() {
            return;
        }
        if now >= self.scheduling.next_look {
            self.scheduling.next_look = now + self.settings.schedule;
            if self.has_joined(now) {
                self.look_at_loads(now);
            }
            self.scheduling.tellings = self.scheduling.tellings.max(1);
            self.scheduling.next_telling = now;
        }
        let s = &mut self.scheduling;
        if s.tellings > 0 && now >= s.next_telling {
            s.tellings -= 1;
            s.next_telling = now + AGAIN;
            self.tell_schedule();
        }
    }

    fn look_at_loads(&mut self, now: Time) {
        let takes = |p: &&crate::agreed::Part| p.state == State::Active && p.weight > 0;
        let load = |p: &crate::agreed::Part| {
            Some(Load {
                node: p.node,
                weight: p.weight,
                connections: self.held.get(&p.node)?.record.load,
            })
        };
        let parts = self.agreed.parts.iter();
        let loads: Vec<Load> = parts.filter(takes).filter_map(load).collect();
        let s = &mut self.scheduling;
        let (Some(controller), false) = (&mut s.controller, loads.is_empty()) else {
            return;
        };
        let Some(factors) = controller.look(&loads, &s.schedule) else {
            return;
        };
        let before = s.schedule.stamp;
        let (term, counter) = if s.own {
            (before.term, before.counter.saturating_add(1))
        } else {
            (before.term.saturating_add(1), 1)
        };
        let stamp = Stamp {
            term,
            counter,
            scheduler: self.own,
        };
        s.schedule = Schedule::new(stamp, factors);
        (s.own, s.tellings) = (true, TELLINGS);
        self.look(now);
    }

    /// Tells those whose owners are others than this node's.
    fn tell_schedule(&mut self) {
        let epoch = self.own_record().epoch;
        let works = |h: &Held| h.record.epoch == epoch;
        let parts = self.agreed.parts.iter().map(|p| p.node);
        let others = parts.filter(|n| *n != self.own && !self.held.get(n).is_some_and(works));
        let others: Vec<u16> = others.collect();
        let body = self.scheduling.schedule.encode();
        for node in others {
            self.send(node, Kind::Schedule, &body);
        }
    }

    /// Takes a schedule if it is later than what is known; else says what is.
    pub(super) fn hear_schedule(&mut self, schedule: Schedule, from: u16, now: Time) {
        let s = &mut self.scheduling;
        let known = s.schedule.stamp;
        if schedule.stamp < known {
            let body = s.schedule.encode();
            return self.send(from, Kind::Schedule, &body);
        }
        if schedule.stamp > known {
            (s.schedule, s.own, s.controller) = (schedule, false, None);
            self.look(now);
        }
        // Whoever told it learns from the epoch that it came.
        let mut body = Vec::with_capacity(Record::LEN);
        self.own_record().encode(&mut body);
        self.send(from, Kind::Records, &body);
    }
}
