//! What a node keeps of its earlier part in a flow that comes back to it.

use super::dest::DestSide;
use super::message::Peer;
use crate::fcb::{Fcb, State};
use crate::mutation::{Mutation, broken};
use crate::shard::Shard;
use crate::view::View;
use dts_proto::block::FlowId;

/// A node's earlier part in a flow.
#[derive(Debug, Default)]
pub struct Before {
    /// Who brought the flow here before, and by which handover: they are told of its end
    /// too, or their tombstones would not hear of it. One entry for each member at most.
    pub told: Vec<(Peer, FlowId)>,
    /// The flow had left this node: what its tombstone had of the handover that brought
    /// it here before, which is nothing at its intake. For as long as the flow may be
    /// refused.
    tombstone: Option<Option<Box<DestSide>>>,
}

impl Before {
    /// Takes what a tombstone of the flow knows. It is about to be removed.
    pub(crate) fn of_tombstone(f: &mut Fcb) -> Self {
        let was = f.source.as_mut().and_then(|s| s.was.take());
        // Nobody can be told in the paper's form.
        let old = f.dest.take_if(|d| d.paper.is_none()).or(was);
        Self {
            told: old
                .as_deref()
                .map(DestSide::told_of_end)
                .unwrap_or_default(),
            tombstone: Some(old),
        }
    }

    /// The flow is this node's: it will not be refused any more.
    pub(crate) fn taken(&mut self) {
        self.tombstone = None;
    }
}

impl DestSide {
    /// Who hears of the flow's end: its source, and those that brought it here before.
    pub(crate) fn told_of_end(&self) -> Vec<(Peer, FlowId)> {
        let mut all = Vec::new();
        if !broken(Mutation::EarlierForgotten) {
            all.extend_from_slice(&self.before.told);
        }
        if self.paper.is_none() {
            all.retain(|(p, _)| p.node != self.peer.node);
            all.push((self.peer, self.flow));
        }
        all
    }
}

impl Shard {
    /// The node that a flow came back to does not take it: what it was before, a
    /// tombstone. False where it was none.
    pub(crate) fn tombstone_again(&mut self, v: &View, slot: u32) -> bool {
        let f = &mut self.slots[slot as usize];
        let old = f.dest.as_mut().and_then(|d| d.before.tombstone.take());
        let Some(old) = old.filter(|_| !broken(Mutation::RefusalForgets)) else {
            return false;
        };
        debug_assert_eq!(f.state, State::Held);
        if let Some(d) = std::mem::replace(&mut f.dest, old) {
            self.aliases.forget(&d);
        }
        self.entomb(v, slot);
        true
    }
}
