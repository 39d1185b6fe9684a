//! What happens without a frame: deadlines, and the slow walk over all slots.

use crate::fcb::State;
use crate::frame::Output;
use crate::mutation::{Mutation, broken};
use crate::shard::Shard;
use crate::time::{Instant, Span};
use crate::view::View;
use std::cmp::Reverse;

/// The walk visits every slot once in this time.
const SWEEP: Span = Span::millis(500);
/// A flow whose client sent a RST, and whose stack said nothing since, is over.
const AFTER_RESET: Span = Span::secs(30);
/// A client whose acknowledgements moved so lately is being served by someone.
const PROGRESS: Span = Span::secs(2);

/// When the slow walk is to look at a slot, in units of 2^29 ns (half a second): a
/// walk over these is short, where one over the FCBs would take their memory's whole
/// bandwidth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Due(u32);

impl Due {
    /// At the next walk.
    pub(crate) const NOW: Self = Self(0);
    /// Not at all: the slot is free.
    pub(crate) const NEVER: Self = Self(u32::MAX);

    /// At the walk that is over at `at`, or earlier.
    fn at(at: Instant) -> Self {
        Self((at.0 >> 29).min(u64::from(u32::MAX - 1)) as u32)
    }
}

impl Shard {
    /// Runs what is due at `now`. Call it every millisecond or so, and not later
    /// than [`Self::next_timer`] says.
    pub fn tick<O: Output>(&mut self, v: &View, now: Instant, out: &mut O) {
        while let Some(&Reverse((at, slot, generation))) = self.timers.peek() {
            if at > now {
                break;
            }
            self.timers.pop();
            let f = &mut self.slots[slot as usize];
            if self.past[slot as usize].generation != generation || f.timer != Some(at) {
                continue;
            }
            f.timer = None;
            self.source_timer(v, slot, now, out);
            if self.past[slot as usize].generation == generation {
                self.dest_timer(v, slot, now, out);
            }
            if self.past[slot as usize].generation == generation {
                self.repeat_timer(v, slot, now, out);
            }
        }
        self.sweep(v, now, out);
        self.ports.rest(v.params.paper_form, now);
        self.answers.purge(now);
        let members = v.members_digest();
        let before = self.members.replace(members);
        let changed = before.is_some_and(|b| b != members);
        self.orphans_tick(v, changed, now, out);
        self.layer2_tick(v, changed || before.is_none(), now, out);
        self.hello_tick(v, now, out);
        self.drain_loopback(v, now, out);
    }

    /// When the next deadline is, if any.
    pub fn next_timer(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((at, _, _))| *at)
    }

    fn sweep<O: Output>(&mut self, v: &View, now: Instant, out: &mut O) {
        let total = self.slots.len();
        let since = (now - self.last_sweep).0.min(SWEEP.0);
        let n = (total as u64 * since / SWEEP.0) as usize;
        if n == 0 {
            return;
        }
        self.last_sweep = now;
        let lives = (v.params.half_open, v.params.idle);
        if std::mem::replace(&mut self.sweep_lives, lives) != lives {
            self.sweep_all = total;
        }
        let due = Due::at(now);
        for _ in 0..n {
            let slot = self.sweep_at as u32;
            self.sweep_at = (self.sweep_at + 1) % total;
            let at = self.due[slot as usize];
            let all = self.sweep_all > 0;
            self.sweep_all -= usize::from(all);
            if at <= due || (all && at != Due::NEVER) {
                self.visit(v, slot, now, out);
                if self.due[slot as usize] != Due::NEVER {
                    self.due[slot as usize] = self.next_visit(v, slot, now);
                }
            }
        }
    }

    /// When a slot in use needs to be looked at again, if nothing happens to it that
    /// calls for an earlier look ([`Self::revisit`]).
    fn next_visit(&self, v: &View, slot: u32, now: Instant) -> Due {
        let f = &self.slots[slot as usize];
        let life = match f.state {
            State::HalfOpen => v.params.half_open,
            State::Intake | State::Served => {
                if f.client_reset {
                    AFTER_RESET
                } else {
                    v.params.idle
                }
            }
            // Handovers are short, and tombstones watch their members.
            State::Free | State::Held | State::Tombstone => return Due::NOW,
        };
        if f.source.is_some() || f.dest.is_some() {
            return Due::NOW;
        }
        let left = Span(life.0.saturating_sub(f.last_seen.age(now).0));
        let end = now + left;
        Due::at(f.expires.map_or(end, |t| t.min(end)))
    }

    /// Something has shortened the life of a slot.
    pub(crate) fn revisit(&mut self, slot: u32) {
        self.due[slot as usize] = Due::NOW;
    }

    fn visit<O: Output>(&mut self, v: &View, slot: u32, now: Instant, out: &mut O) {
        let f = &self.slots[slot as usize];
        let idle = f.last_seen.age(now);
        let p = &v.params;
        let old = match f.state {
            State::Free | State::Held => false,
            State::HalfOpen => idle > p.half_open && !broken(Mutation::HalfOpenStays),
            _ if broken(Mutation::IdleStays) => false,
            State::Intake | State::Served => {
                idle > if f.client_reset { AFTER_RESET } else { p.idle }
            }
            State::Tombstone => f.source.is_none() && idle > p.idle,
        };
        if old
            || (f.expires.is_some_and(|t| now > t) && f.state != State::Held && f.source.is_none())
        {
            return self.remove(v, slot);
        }
        self.look_for_socket(v, slot, now, out);
        let f = &mut self.slots[slot as usize];
        f.acked_at = f.acked_at.within_a_day(now);
        if f.dest.is_some()
            && let served = f.state == State::Served
            && let Some(d) = f.dest.as_mut()
            && d.forwarding_is_over(now)
        {
            d.given = Vec::new();
            if served && d.is_quiet() {
                self.settle(slot);
            }
        }
        let f = &self.slots[slot as usize];
        if f.state == State::Tombstone && !f.reset && self.is_orphan(v, slot, now) {
            self.counters.orphan_resets += 1;
            self.reset_client(v, slot, now, out);
        }
    }

    /// The node that took this flow is gone, or was started anew, and the client is
    /// not being served: it would wait for ever.
    fn is_orphan(&self, v: &View, slot: u32, now: Instant) -> bool {
        let f = &self.slots[slot as usize];
        let Some((node, incarnation)) = f.peer else {
            return false;
        };
        // The bare form knows no incarnation: 0 tells nothing of a new start.
        if incarnation == 0 || f.expires.is_some() || f.acked_at.age(now) < PROGRESS {
            return false;
        }
        // Its handover is about to be repeated.
        if f.kept.is_some() && !broken(Mutation::OrphanBeforeRepeat) {
            return false;
        }
        if broken(Mutation::OrphansHang) {
            return false;
        }
        match v.member(node) {
            None => true,
            Some(m) => m.gone || m.known.is_some_and(|(_, newest)| newest > incarnation),
        }
    }
}
