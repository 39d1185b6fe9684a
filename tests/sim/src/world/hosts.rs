//! Host stacks, and the programs of a node.

use super::{Ev, World, client_mac};
use crate::actors::{self, Note};
use crate::capture::Party;
use crate::node::{APP_PORT, CLUSTER_MAC};
use crate::plan::{MS, US};
use crate::seg::{ACK, ETH, SYN, Seg};
use crate::stack::host::Name;
use dts_core::command::Fail;
use std::net::SocketAddr;

impl World {
    pub(super) fn host_gets(&mut self, id: u16, bytes: &[u8]) {
        self.count_frame();
        self.trace(8, id, bytes);
        self.record(Party::Host(id), bytes);
        let now = self.now;
        self.no_fragment(id, bytes);
        self.host_may_see(id, bytes);
        let out = self.node(id).host.input(&bytes[ETH..], now);
        self.host_sends(id, out);
        self.host_runs(id);
    }

    /// What of the wire may reach a stack, and as what.
    pub(super) fn host_may_see(&mut self, id: u16, bytes: &[u8]) {
        let at = self.now;
        let v6 = bytes[ETH] >> 4 == 6;
        let (proto, icmp) = if v6 { (ETH + 6, 58) } else { (ETH + 9, 1) };
        if bytes.get(proto) == Some(&icmp) {
            return self.icmp_at_host(id, bytes);
        }
        let Some(s) = Seg::of_frame(bytes).filter(|_| Seg::checksum_ok(&bytes[ETH..])) else {
            return;
        };
        let client = SocketAddr::new(s.src, s.sport);
        self.check.urgent(at, id, &s);
        if s.flags & (SYN | ACK) != SYN {
            return;
        }
        if s.seq == crate::faults::STRANGER {
            let what = format!("node {id}: {s:?}");
            self.check
                .fail(at, "what must be dropped reaches no host", what);
        }
        if s.dport == APP_PORT {
            self.check.replayed(at, id, client, &s);
        }
        let odd = !s.opts.raw.is_empty() || s.has(crate::seg::ECE | crate::seg::CWR);
        if odd || (s.dport != APP_PORT && !s.payload.is_empty()) {
            let what = format!("node {id}: {s:?}");
            self.check.fail(at, "a SYN reaches a stack clean", what);
        }
    }

    /// An ICMP error must name a socket of this stack, in its own numbers.
    pub(super) fn icmp_at_host(&mut self, id: u16, bytes: &[u8]) {
        let head = if bytes[ETH] >> 4 == 6 { 40 } else { 20 };
        let q = &bytes[ETH + head + 8..];
        if q.len() < head + 8 {
            return;
        }
        let word = |i: usize| u16::from_be_bytes([q[head + i], q[head + i + 1]]);
        let seq = u32::from(word(4)) << 16 | u32::from(word(6));
        let name: Name = (
            word(0),
            self.client_addr(usize::from(word(2)).saturating_sub(40_000)),
        );
        // The socket may be gone by now; then nothing can be said of its numbers.
        let local = [APP_PORT, crate::node::PROXY_PORT].contains(&name.0);
        let known = local
            && self.node(id).host.tcbs.get(&name).is_none_or(|t| {
                !crate::seg::before(seq, t.setup.isn) && !crate::seg::before(t.snd_nxt, seq)
            });
        if !known {
            let what = format!("node {id}: port {}, seq {seq}", name.0);
            self.check
                .fail(self.now, "ICMP errors name the stack's own numbers", what);
        }
    }

    /// Lets sockets, proxy and application of a node run.
    pub(crate) fn host_runs(&mut self, id: u16) {
        if !self.nodes[usize::from(id) - 1].up {
            return;
        }
        let now = self.now;
        let mut notes = Vec::new();
        let plan = &self.plan;
        let node = &mut self.nodes[usize::from(id) - 1];
        actors::run_proxy(node, plan, &mut notes);
        actors::run_app(node, plan, now, &mut notes);
        let complaints = node.host.complaints();
        let out = node.host.poll(now);
        self.complain(id, complaints);
        self.host_sends(id, out);
        self.notes(id, notes);
        let at = self.node(id).host.poll_at(now);
        self.wake_host(id, at.unwrap_or(u64::MAX));
    }

    pub(super) fn wake_host(&mut self, id: u16, at: u64) {
        let slot = usize::from(id) - 1;
        if at < u64::MAX && at < self.host_at[slot] {
            let at = at.max(self.now + 10 * US);
            self.host_at[slot] = at;
            let boot = self.node(id).boot;
            self.push(at, Ev::HostRun(id, boot));
        }
    }

    pub(super) fn complain(&mut self, id: u16, list: Vec<(Name, crate::stack::tcb::Complaint)>) {
        for (name, c) in list {
            if self.plan.expect.stale {
                continue;
            }
            let what = format!("host of node {id}, port {}: {}", name.0, c.0);
            self.check
                .fail(self.now, "a stack is told only what can be", what);
        }
        if !self.plan.expect.clean {
            return;
        }
        self.first_rtts(id);
        let paws: u32 = self.node(id).host.tcbs.values().map(|t| t.paws).sum();
        if paws > 0 {
            let what = format!("host of node {id} rejects a timestamp");
            self.check
                .fail(self.now, "clean wire: no PAWS rejection", what);
        }
    }

    /// Where nothing but the client's acknowledgement ends a Fast Open handshake, the
    /// stack must have measured the client's round trip by it.
    pub(super) fn first_rtts(&mut self, id: u16) {
        let c = &self.plan.clients[0];
        let one = self.plan.clients.len() == 1 && c.requests.len() == 1;
        let plain = one && c.chunks.is_empty() && !c.half_close && c.script.is_none();
        if !plain || c.reuse.is_some() || self.plan.ask_at != c.requests[0].0 {
            return;
        }
        let shut = |t: &crate::stack::tcb::Tcb| t.is_shut();
        let node = &self.nodes[usize::from(id) - 1];
        if node.host.tcbs.values().any(shut) {
            let what = format!("node {id}: a window of 0");
            self.check.fail(
                self.now,
                "the client's window holds from the cut over",
                what,
            );
            return;
        }
        let c = &self.plan.clients[0];
        // The clock ticks in milliseconds, and the filter rounds down.
        let least = (c.delay * 2 * 9 / 10).saturating_sub(2 * MS);
        let all = self.nodes[usize::from(id) - 1].host.tcbs.iter();
        let short = all
            .filter(|(n, _)| n.0 == APP_PORT)
            .find_map(|(_, t)| t.first_rtt().filter(|&r| r < least));
        if let Some(rtt) = short {
            let what = format!(
                "node {id}: {} us, the client's is {} us",
                rtt / US,
                c.delay * 2 / US
            );
            self.check
                .fail(self.now, "the stack measures the client's round trip", what);
        }
    }

    pub(super) fn host_sends(&mut self, id: u16, out: Vec<Seg>) {
        for s in out {
            let bytes = s.frame(client_mac(0), CLUSTER_MAC);
            let delay = self.host_rng.range(US, self.plan.host_delay.max(US));
            let now = self.now;
            let n = self.node(id);
            n.last_out = n.last_out.max(now + delay);
            let (at, boot) = (n.last_out, n.boot);
            self.push(at, Ev::FromHost(id, boot, bytes));
        }
    }

    pub(super) fn notes(&mut self, id: u16, notes: Vec<Note>) {
        for note in notes {
            self.say(|| format!("node {id}: {note:?}"));
            match note {
                Note::Step(step) => self.reach(step),
                Note::Due(_) | Note::Later(..) => {
                    let (client, wait) = match note {
                        Note::Later(client, wait) => (client, wait),
                        Note::Due(client) => (client, 0),
                        _ => continue,
                    };
                    let delay = self.daemon_rng.range(US, self.plan.rpc_delay.max(US));
                    let boot = self.node(id).boot;
                    self.push(self.now + wait + delay, Ev::Daemon(id, boot, client));
                }
                Note::Accepted(_) => self.report.handovers += 1,
                Note::Failed(client, fail) => {
                    self.report.failures += 1;
                    if fail == Fail::Unknown {
                        self.unknown_to_all(client);
                    }
                }
                Note::Executed(request) => self.check.executed(self.now, request),
                Note::Wake(at) => self.wake_host(id, at),
                Note::Gave => {
                    self.gave = true;
                    self.app_reset |= self.plan.app_resets;
                }
                Note::Wrong(what) => self.check.fail(self.now, "requests arrive as sent", what),
            }
        }
    }

    /// A proxy or an application ended a connection on its own.
    pub(crate) fn note_app_reset(&mut self) {
        self.gave = true;
        self.app_reset = true;
    }
}
