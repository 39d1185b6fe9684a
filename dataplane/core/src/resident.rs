//! Flows that were handed over some time ago, entered without a handover: what
//! benchmarks fill a shard with. The FCB is meant to be the one that a handover leaves
//! behind some time after its source has said everything.

use crate::fcb::State;
use crate::handover::dest::{DestSide, Phase};
use crate::handover::message::Peer;
use crate::key::FlowKey;
use crate::seq;
use crate::shard::Shard;
use crate::time::{Instant, Span};
use crate::view::View;
use dts_proto::block::{FlowId, SpliceState};

/// A flow that this node's application serves.
#[derive(Clone, Copy, Debug)]
pub struct Resident {
    /// Its identity; the service is the one at its VIP.
    pub id: FlowId,
    /// What its source told.
    pub state: SpliceState,
    /// The source's address and ports on the link.
    pub peer: Peer,
    /// The local stack's ISN, TSval and window (bytes) in its SYN-ACK, and the shift of
    /// its windows.
    pub stack: (u32, u32, u32, u8),
    /// Bytes that the application has sent since, all acknowledged.
    pub sent: u32,
}

impl Shard {
    /// Enters a flow as served here. False where there is no such service, or no room.
    pub fn enter(&mut self, v: &View, r: &Resident, now: Instant) -> bool {
        let key = FlowKey::new(r.id.client, r.id.vip);
        let Some(service) = v.service(&key.vip, key.port) else {
            return false;
        };
        let Some(slot) = self.create(v, key, service, now) else {
            return false;
        };
        let app_port = v.services[service].app_port;
        let f = &mut self.slots[slot as usize];
        f.take_over(&r.state, &r.id);
        let mut d = DestSide::new(r.id, r.peer, r.state, Vec::new(), now, Span(0));
        let (isn, ts_val, window, shift) = r.stack;
        d.phase = Phase::Served;
        d.handshake_done = true;
        (d.l_isn, d.l_tsval, d.l_window) = (isn, ts_val, window);
        d.ended = Some(now);
        f.dest = Some(Box::new(d));
        f.local_port = app_port;
        f.local_shift = shift;
        f.delta = r.state.s_base.wrapping_sub(isn);
        f.tau = r.state.ts_max.wrapping_sub(ts_val);
        f.ts_max = seq::max(f.ts_max, ts_val.wrapping_add(f.tau));
        f.s_nxt = f.s_low.wrapping_add(r.sent);
        f.client_ack = f.s_nxt;
        f.c_acked = f.c_nxt;
        f.c_edge = f.c_nxt.wrapping_add(window);
        f.acked_at = now.into();
        self.set_state(slot, State::Served);
        self.settle(slot);
        true
    }
}
