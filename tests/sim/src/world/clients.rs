//! Clients, and the wire on their side.

use super::{Ev, World, client_mac, impair};
use crate::capture::Party;
use crate::client::{Client, Outcome};
use crate::extensions;
use crate::node::{CLUSTER_MAC, SERVICE_PORT, vip_for};
use crate::plan::{Impair, Step, US};
use crate::seg::{ACK, ETH, SYN, Seg};
use dts_core::frame::Port;
use std::net::SocketAddr;

impl World {
    pub(super) fn client_starts(&mut self, i: usize) {
        let plan = self.plan.clients[i].clone();
        let own = self.client_addr(i);
        let vip = SocketAddr::new(vip_for(own.ip()), SERVICE_PORT);
        if plan.six && self.plan.expect.clean {
            self.solicit(own.ip());
        }
        let round = u64::from(self.clients[i].is_some());
        let id = self.plan.seed << 20 | (i as u64) << 8 | round;
        let c = Client::new(plan, own, vip, id, self.now);
        self.clients[i] = Some(c);
        self.ends[i] = Outcome::Running;
        self.client_runs(i);
    }

    pub(super) fn client_gets(&mut self, i: usize, bytes: &[u8], intact: bool) {
        self.count_frame();
        self.trace(9, i as u16, bytes);
        self.record(Party::Client(i), bytes);
        let ok = Seg::checksum_ok(&bytes[ETH..]);
        if intact && !ok {
            let what = format!("client {i} got a wrong checksum");
            self.check.fail(self.now, "checksums stay right", what);
        }
        let Some(s) = Seg::of_frame(bytes).filter(|_| ok) else {
            return;
        };
        let Some(c) = self.clients[i].as_mut() else {
            return;
        };
        let scales = c.plan.setup.shift.is_some();
        let own = c.local;
        if c.outcome == Outcome::Running {
            self.check.client_gets(self.now, own, &s, scales);
        }
        let now = self.now;
        let out = c.input(&s, now);
        if !s.payload.is_empty() {
            self.check.answers(now, own, u16::from(bytes[11]));
            self.reach(Step::Answered);
        }
        self.client_sends(i, out);
        self.client_runs(i);
    }

    pub(super) fn client_runs(&mut self, i: usize) {
        let now = self.now;
        let Some(c) = self.clients[i].as_mut() else {
            return;
        };
        let out = c.drive(now);
        let (at, wrong, complaints) = (c.at(now), c.wrong.clone(), c.complaints());
        let (outcome, paws) = (c.outcome.clone(), c.paws());
        self.client_sends(i, out);
        if let Some(what) = wrong {
            self.check
                .fail(now, "answers arrive as sent", format!("client {i}: {what}"));
        }
        for what in complaints.into_iter().filter(|_| !self.plan.expect.stale) {
            self.check.fail(
                now,
                "a stack is told only what can be",
                format!("client {i}: {what}"),
            );
        }
        if paws > 0 && (self.plan.expect.clean || self.plan.repeats > 0) {
            self.check
                .fail(now, "clean wire: no PAWS rejection", format!("client {i}"));
        }
        if outcome != self.ends[i] {
            self.ends[i] = outcome.clone();
            self.say(|| format!("client {i}: {outcome:?}"));
            self.client_ended(i, &outcome);
        }
        if let Some(at) = at {
            let at = at.max(now + 10 * US);
            if at < self.client_at[i] {
                self.client_at[i] = at;
                self.push(at, Ev::ClientRun(i));
            }
        }
    }

    pub(super) fn client_ended(&mut self, i: usize, outcome: &Outcome) {
        let e = self.plan.expect;
        let at = self.now;
        let broken_off = matches!(outcome, Outcome::Reset | Outcome::Cut);
        if self.plan.members && broken_off && !self.is_excused(self.client_addr(i)) {
            let what = format!("client {i}: {outcome:?}");
            self.check
                .fail(at, "no flow is broken off whose nodes live", what);
        }
        match outcome {
            Outcome::Reset if (e.complete || !e.may_reset) && !self.app_reset && !self.ruled() => {
                self.check.fail(
                    at,
                    "every client is answered",
                    format!("client {i} was reset"),
                );
            }
            Outcome::Cut if e.complete || !self.gave => {
                self.check.fail(
                    at,
                    "every client is answered",
                    format!("client {i} was cut off"),
                );
            }
            _ => {}
        }
        if let Some((wait, ahead)) = self.plan.clients[i].reuse.take()
            && let Some(c) = &self.clients[i]
        {
            let (_, last) = c.numbers();
            self.plan.clients[i].setup.isn = last.wrapping_add(ahead);
            self.push(at + wait, Ev::ClientStart(i));
        }
    }

    /// A rule had a client reset: nobody knew what became of its request.
    pub(super) fn ruled(&self) -> bool {
        !self.plan.expect.complete && self.nodes.iter().any(|n| n.resets() > 0)
    }

    pub(crate) fn client_sends(&mut self, i: usize, out: Vec<Seg>) {
        for s in out {
            let own = self.clients[i].as_ref().map(|c| c.numbers().0);
            if !s.has(SYN) || own == Some(s.seq) {
                let own = self.client_addr(i);
                self.check.client_sends(self.now, own, &s);
            }
            let mut bytes = s.frame(CLUSTER_MAC, client_mac(i));
            if self.chain_rng.permille(self.plan.clients[i].extensions) {
                let longer = extensions::walked(&bytes, &mut self.chain_rng);
                if longer.len() <= ETH + self.plan.mtu {
                    bytes = longer;
                }
            }
            self.record(Party::Client(i), &bytes);
            self.memory.client_said(&s);
            if s.flags & (SYN | ACK) == SYN {
                self.first_syn.get_or_insert_with(|| bytes.clone());
            }
            self.broadcast(i, bytes);
        }
    }

    /// Every node hears what a client sends.
    pub(crate) fn broadcast(&mut self, i: usize, bytes: Vec<u8>) {
        let delay = self.plan.clients[i].delay;
        // Half of what the wire does happens before the switch, to all nodes alike.
        let common = self.wire_rng.permille(500);
        if common && self.wire_rng.permille(self.plan.wire.loss) {
            return;
        }
        for id in 1..=self.plan.nodes {
            if self.watch.deaf.contains(&id) {
                continue;
            }
            let bytes = bytes.clone();
            let copies = if common {
                let calm = Impair {
                    loss: 0,
                    ..self.plan.wire
                };
                let last = self.last_wire.entry((i, id, true)).or_default();
                impair(&mut self.wire_rng, &calm, self.now, delay, last, bytes)
            } else {
                self.pass(i, id, true, delay, bytes)
            };
            for (t, b, _) in copies {
                self.push(t, Ev::ToNode(id, Port::Wire, b));
            }
        }
    }
}
