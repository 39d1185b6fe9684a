//! What an operator is told of one flow.

use crate::fcb::State;
use crate::key::FlowKey;
use crate::shard::Shard;
use crate::time::{Instant, Span};
use crate::view::View;

/// What a worker knows of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its FCB's.
    pub state: State,
    /// The node that handed the flow over to this one; `None` at its intake.
    pub from: Option<u16>,
    /// The node that it was handed over to, or is being.
    pub to: Option<u16>,
    /// Since the FCB was made; 0 once that is more than 24 days ago.
    pub age: Span,
    /// Since the flow's last segment.
    pub idle: Span,
}

impl Shard {
    /// Looks a flow up; nothing changes.
    pub(crate) fn look_up(&self, v: &View, k: &FlowKey, now: Instant) -> Option<Found> {
        let slot = self.find(v, k)?;
        let f = &self.slots[slot as usize];
        let source = f.source.as_ref();
        let was = source.and_then(|s| s.was.as_ref()).map(|d| d.flow.source);
        let asked = source.and_then(|s| s.peer.as_ref()).map(|p| p.node);
        let has = f.peer.filter(|_| f.state == State::Tombstone).map(|p| p.0);
        Some(Found {
            state: f.state,
            from: was.or_else(|| self.came_by(v, slot).map(|flow| flow.source)),
            to: has.or(asked),
            age: self.past[slot as usize].born.age(now),
            idle: f.last_seen.age(now),
        })
    }
}
