//! What must hold at every moment of every run.

use crate::model::Model;
use crate::plan::Plan;
use crate::seg::{ACK, FIN, PSH, RST, SYN, Seg, URG, before, later};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// Something that must not happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Virtual time, nanoseconds.
    pub at: u64,
    /// Which invariant.
    pub rule: &'static str,
    /// What was seen.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = self.at as f64 / 1e6;
        write!(f, "{ms:.3} ms: {}: {}", self.rule, self.what)
    }
}

/// One connection as its client's interface shows it.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    open: bool,
    s_next: u32,
    c_isn: u32,
    c_next: u32,
    c_acked: u32,
    window: u16,
    shift: u8,
    ts_last: Option<u32>,
    ts_sent: Option<u32>,
    first_ts: Option<u32>,
    windows: BTreeSet<u32>,
    mss: Option<u16>,
    offered: (bool, bool, Option<u8>),
    agreed: (bool, bool, bool),
    s_isn: u32,
    fin: bool,
    speakers: Vec<u16>,
    spoke: bool,
}

/// The checker.
pub struct Check {
    /// The reference for translated segments.
    pub model: Model,
    /// The first violation.
    pub violation: Option<Violation>,
    seen: BTreeMap<SocketAddr, Seen>,
    executed: BTreeMap<u64, u32>,
    /// Times that a request may be executed.
    executions_most: u32,
    /// The node whose bytes a client got first; where handovers are repeated, nobody else's
    /// may follow.
    answered_by: BTreeMap<SocketAddr, u16>,
    urgent: BTreeSet<u32>,
    clean: bool,
    first_window: u32,
    /// Families in which two owners answer one SYN.
    two_owners: bool,
    /// Segments of earlier connections may come.
    stale: bool,
}

impl Check {
    /// Nothing seen yet.
    pub fn new(plan: &Plan) -> Self {
        Self {
            model: Model::default(),
            violation: None,
            seen: BTreeMap::new(),
            executed: BTreeMap::new(),
            executions_most: 1 + u32::from(plan.repeats),
            answered_by: BTreeMap::new(),
            urgent: BTreeSet::new(),
            clean: plan.expect.clean,
            first_window: plan.first_window,
            two_owners: !plan.other_view.is_empty() || plan.members || plan.expect.stale,
            stale: plan.expect.stale,
        }
    }

    /// Notes a violation; the first one stands.
    pub fn fail(&mut self, at: u64, rule: &'static str, what: impl Into<String>) {
        self.violation.get_or_insert(Violation {
            at,
            rule,
            what: what.into(),
        });
    }

    /// A request was executed.
    pub fn executed(&mut self, at: u64, id: u64) {
        let times = self.executed.entry(id).or_default();
        *times += 1;
        if *times > self.executions_most {
            self.fail(
                at,
                "no request is executed twice",
                format!("request {id:#x}"),
            );
        }
    }

    /// How many requests were executed.
    pub fn executions(&self) -> usize {
        self.executed.len()
    }

    /// Bytes of a node reach a client whose handovers may be repeated.
    pub fn answers(&mut self, at: u64, client: SocketAddr, node: u16) {
        let first = *self.answered_by.entry(client).or_insert(node);
        if first != node && self.executions_most > 1 {
            let what = format!("node {first} has, and node {node} goes on");
            self.fail(at, "one node answers", what);
        }
    }

    /// The last TSval that a client sent.
    pub fn clock_of(&self, client: SocketAddr) -> Option<u32> {
        self.seen.get(&client).and_then(|c| c.ts_sent)
    }

    /// A host gets a segment: an urgent pointer must name a byte that a client named.
    pub fn urgent(&mut self, at: u64, node: u16, s: &Seg) {
        let byte = s.seq.wrapping_add(s.urgent.into());
        if s.has(URG) && !self.urgent.contains(&byte) {
            let what = format!("node {node}: {byte}, not one of {:?}", self.urgent);
            self.fail(at, "the urgent pointer stays on its byte", what);
        }
    }

    /// A client sends a segment.
    pub fn client_sends(&mut self, at: u64, client: SocketAddr, s: &Seg) {
        if s.has(URG) {
            self.urgent.insert(s.seq.wrapping_add(s.urgent.into()));
        }
        if s.has(SYN) && !s.has(ACK) {
            let old = self.seen.get(&client);
            if old.is_none_or(|c| c.c_isn != s.seq || !c.open) {
                let again = old.filter(|c| c.c_isn == s.seq);
                let first_ts = again.and_then(|c| c.first_ts);
                if again.is_some() && self.clean {
                    self.fail(
                        at,
                        "clean wire: no retransmission",
                        "the client repeats its SYN",
                    );
                }
                let fresh = Seen {
                    c_isn: s.seq,
                    c_next: s.end(),
                    first_ts: first_ts.or(s.opts.ts.map(|t| t.0)),
                    ts_sent: s.opts.ts.map(|t| t.0),
                    windows: BTreeSet::from([u32::from(s.window)]),
                    mss: s.opts.mss,
                    offered: (s.opts.ts.is_some(), s.opts.sack_ok, s.opts.shift),
                    ..Seen::default()
                };
                self.seen.insert(client, fresh);
                self.model.forget(client);
            }
            return;
        }
        let clean = self.clean;
        let Some(c) = self.seen.get_mut(&client) else {
            return;
        };
        if let Some((val, _)) = s.opts.ts {
            c.ts_sent = Some(c.ts_sent.map_or(val, |t| later(t, val)));
        }
        let shift = if c.agreed.2 {
            c.offered.2.unwrap_or(0)
        } else {
            0
        };
        c.windows.insert(u32::from(s.window) << shift);
        let again = s.space() > 0 && !s.has(RST) && before(s.seq, c.c_next);
        c.c_next = if s.has(RST) {
            c.c_next
        } else {
            later(c.c_next, s.end())
        };
        if again && clean {
            let what = format!("the client sends {}..{} again", s.seq, s.end());
            self.fail(at, "clean wire: no retransmission", what);
        }
    }

    /// The flow moves on, and may come back to a node that had it.
    pub fn moves(&mut self, client: SocketAddr) {
        if let Some(c) = self.seen.get_mut(&client) {
            c.speakers.clear();
        }
    }

    /// A node lets a segment out on the wire.
    pub fn node_speaks(&mut self, at: u64, node: u16, client: SocketAddr, s: &Seg, by_rule: bool) {
        let Some(c) = self.seen.get_mut(&client) else {
            return;
        };
        if s.has(SYN) && s.has(ACK) && s.ack == c.c_isn.wrapping_add(1) {
            let other = c.open && s.seq != c.s_isn && !self.two_owners;
            if other {
                self.fail(
                    at,
                    "a tombstone answers no SYN",
                    format!("node {node}: {s:?}"),
                );
            } else if u32::from(s.window) > self.first_window {
                let what = format!("window {}", s.window);
                self.fail(
                    at,
                    "the intake promises no more than the first window",
                    what,
                );
            }
            return;
        }
        if s.has(SYN) || by_rule {
            return;
        }
        if s.has(ACK) && s.ack.wrapping_sub(c.c_isn) > 1 << 30 {
            // Of an earlier connection on these ports.
            return;
        }
        if c.speakers.last() != Some(&node) {
            let again = c.speakers.contains(&node);
            c.speakers.push(node);
            if again && !self.stale {
                let what = format!("nodes {:?} speak in turn, {s:?}", c.speakers);
                self.fail(at, "no two nodes speak for one flow", what);
            }
        }
    }

    /// A SYN for an application's port is given to a host: it must be the client's own.
    pub fn replayed(&mut self, at: u64, node: u16, client: SocketAddr, s: &Seg) {
        let Some(c) = self
            .seen
            .get(&client)
            .filter(|c| c.open && s.seq == c.c_isn)
        else {
            return;
        };
        let mut wrong = Vec::new();
        let (ts, sack, scaled) = c.agreed;
        if s.opts.mss != c.mss {
            wrong.push(format!("MSS {:?}, the client's is {:?}", s.opts.mss, c.mss));
        }
        if s.opts.sack_ok != sack || s.opts.shift.is_some() != scaled || s.opts.ts.is_some() != ts {
            wrong.push(format!("{:?}, agreed were {:?}", s.opts, c.agreed));
        }
        if scaled && s.opts.shift != c.offered.2 {
            wrong.push(format!("shift {:?}", s.opts.shift));
        }
        // A Fast Open replay with timestamps keeps the window shut until the stack has
        // been told the round trip.
        let shut = ts && s.window == 0;
        let known = |&w: &u32| w.min(0xffff) == u32::from(s.window);
        if !shut && !c.windows.iter().any(known) {
            wrong.push(format!(
                "window {}, the client's were {:?}",
                s.window, c.windows
            ));
        }
        if let (Some((val, _)), Some(low), Some(high)) = (s.opts.ts, c.first_ts, c.ts_sent)
            && (before(val, low) || before(high, val))
        {
            wrong.push(format!("TSval {val}, the client's were {low} to {high}"));
        }
        if !wrong.is_empty() {
            let what = format!("node {node}: {}", wrong.join("; "));
            self.fail(at, "a replay is what the client said", what);
        }
    }

    /// A segment reaches a client; `intact` says that the wire has not damaged it.
    pub fn client_gets(&mut self, at: u64, client: SocketAddr, s: &Seg, scales: bool) {
        let clean = self.clean;
        let w = self.first_window;
        let Some(c) = self.seen.get_mut(&client) else {
            return;
        };
        if s.has(SYN) {
            if !c.open && s.ack == c.c_isn.wrapping_add(1) {
                c.open = true;
                c.s_isn = s.seq;
                c.agreed = (
                    s.opts.ts.is_some() && c.offered.0,
                    s.opts.sack_ok && c.offered.1,
                    s.opts.shift.is_some() && c.offered.2.is_some(),
                );
                c.s_next = s.end();
                c.c_acked = s.ack;
                c.window = s.window;
                c.shift = if scales {
                    s.opts.shift.unwrap_or(0).min(14)
                } else {
                    0
                };
                c.ts_last = s.opts.ts.map(|t| t.0);
                self.model.synack_on_wire(client, s, scales);
            } else if clean {
                self.fail(at, "clean wire: no retransmission", "a second SYN-ACK");
            }
            return;
        }
        if !c.open {
            return;
        }
        if s.has(RST) {
            return;
        }
        let mut wrong: Option<(&'static str, String)> = None;
        if before(c.c_next, s.ack) {
            wrong = Some((
                "no number that was never sent",
                format!("ack {} beyond the client's {}", s.ack, c.c_next),
            ));
        }
        for &(l, r) in &s.opts.sack {
            if before(c.c_next, r) || before(l, c.c_isn) || !before(l, r) {
                let what = format!("SACK {l}..{r}, the client sent up to {}", c.c_next);
                wrong = Some(("no number that was never sent", what));
            } else if !before(s.ack, r) && clean {
                wrong = Some(("no D-SACK of replayed bytes", format!("{l}..{r}")));
            }
        }
        if let Some((val, _)) = s.opts.ts {
            if clean && c.ts_last.is_some_and(|t| before(val, t)) {
                let what = format!("TSval {val} after {:?}", c.ts_last);
                wrong = Some(("timestamps never go back", what));
            }
            c.ts_last = Some(c.ts_last.map_or(val, |t| later(t, val)));
        }
        let edge = s.ack.wrapping_add(u32::from(s.window) << c.shift);
        let promise = c.c_isn.wrapping_add(1).wrapping_add(w);
        if c.speakers.len() <= 1 && !c.spoke && s.payload.is_empty() && before(promise, edge) {
            c.spoke = true;
            let served = c.speakers.is_empty();
            if !served && c.shift < 14 && self.model.served_by(client).is_none() {
                wrong = Some((
                    "the intake promises no more than the first window",
                    format!("edge {edge}, bound {promise}"),
                ));
            }
        }
        if clean && wrong.is_none() {
            let talk = s.space() > 0;
            if talk && s.seq != c.s_next {
                let what = format!("{}..{} where {} was due", s.seq, s.end(), c.s_next);
                wrong = Some(("clean wire: in order, once", what));
            }
            let pure = s.flags & !PSH == ACK && s.payload.is_empty() && s.opts.sack.is_empty();
            if pure && s.ack == c.c_acked && s.window == c.window && before(s.ack, c.c_next) {
                wrong = Some(("clean wire: no duplicate ACK", format!("ack {}", s.ack)));
            }
            let filled = !before(s.ack, promise.wrapping_sub(2 << c.shift));
            if s.window == 0 && !filled && c.shift < 10 {
                wrong = Some(("clean wire: no zero window", format!("ack {}", s.ack)));
            }
        }
        c.s_next = later(c.s_next, s.end());
        c.c_acked = later(c.c_acked, s.ack);
        c.window = s.window;
        c.fin |= s.has(FIN);
        self.model.ts_sent(client, s);
        if let Some((rule, what)) = wrong.filter(|_| !self.stale) {
            self.fail(at, rule, what);
        }
    }
}
