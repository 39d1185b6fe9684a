//! The translation once more, written plainly from the protocol's section on numbers,
//! without any code of `dts-core`. The run compares every segment that a node passes on
//! between client and application with what this says.

use crate::seg::{ACK, FIN, PSH, RST, SYN, Seg, before, later};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// What client and intake agreed on, as seen on the wire.
#[derive(Clone, Debug, Default)]
struct Promise {
    c_isn: u32,
    s_isn: u32,
    shift: u8,
    scaled: bool,
}

/// What one node's application stack said, and what was let out of it.
#[derive(Clone, Debug)]
struct Local {
    l_isn: u32,
    s_isn: u32,
    shift: u8,
    sent: u32,
    tau: Option<u32>,
    edge: Option<u32>,
}

/// The reference.
#[derive(Debug, Default)]
pub struct Model {
    promised: BTreeMap<SocketAddr, Promise>,
    local: BTreeMap<(u16, SocketAddr), Local>,
    /// Highest TSval that a client was sent.
    ts_max: BTreeMap<SocketAddr, u32>,
    /// Highest acknowledgement that a client was sent.
    acked: BTreeMap<SocketAddr, u32>,
    /// Behind the last byte that a client was sent.
    sent: BTreeMap<SocketAddr, u32>,
    /// Clients that began anew while an old flow of theirs may live.
    again: BTreeSet<SocketAddr>,
}

impl Model {
    /// A SYN-ACK reached the client and was taken.
    pub fn synack_on_wire(&mut self, client: SocketAddr, s: &Seg, client_scales: bool) {
        let scaled = client_scales && s.opts.shift.is_some();
        let p = Promise {
            c_isn: s.ack.wrapping_sub(1),
            s_isn: s.seq,
            shift: if scaled {
                s.opts.shift.unwrap_or(0).min(14)
            } else {
                0
            },
            scaled,
        };
        self.promised.insert(client, p);
        self.sent.insert(client, s.end());
        self.ts_max.remove(&client);
        self.ts_sent(client, s);
    }

    /// A node speaks to a client.
    pub fn acked(&mut self, client: SocketAddr, s: &Seg) {
        // A second owner's answer to the SYN is none of the client's numbers.
        let other = |p: &Promise| s.has(SYN) && p.s_isn != s.seq;
        if !s.has(RST) && !self.promised.get(&client).is_some_and(other) {
            let n = self.sent.entry(client).or_insert(s.end());
            *n = later(*n, s.end());
        }
        if s.has(ACK) && !s.has(RST | SYN) {
            let a = self.acked.entry(client).or_insert(s.ack);
            *a = later(*a, s.ack);
        }
    }

    /// The next acknowledgement may be below what was said before.
    pub fn acks_anew(&mut self, client: SocketAddr) {
        self.acked.remove(&client);
    }

    /// Anything else reached the client's side of the wire.
    pub fn ts_sent(&mut self, client: SocketAddr, s: &Seg) {
        if let Some((val, _)) = s.opts.ts {
            let m = self.ts_max.entry(client).or_insert(val);
            *m = later(*m, val);
        }
    }

    /// An application's stack took a replayed SYN.
    pub fn app_synack(&mut self, node: u16, client: SocketAddr, s: &Seg, onward: bool) {
        let Some(p) = self.promised.get(&client) else {
            return;
        };
        let known = self.local.get(&(node, client));
        if known.is_some_and(|l| l.l_isn == s.seq) {
            return;
        }
        // Its first byte follows the last one that the client was sent.
        let sent = self.sent.get(&client).filter(|_| onward);
        let local = Local {
            l_isn: s.seq,
            s_isn: sent.map_or(p.s_isn, |n| n.wrapping_sub(1)),
            shift: if p.scaled {
                s.opts.shift.unwrap_or(0).min(14)
            } else {
                0
            },
            sent: s.seq.wrapping_add(1),
            tau: None,
            edge: None,
        };
        self.local.insert((node, client), local);
    }

    /// An application's segment came from the host port, whatever becomes of it.
    pub fn app_said(&mut self, node: u16, client: SocketAddr, s: &Seg) {
        if let Some(l) = self.local.get_mut(&(node, client))
            && !s.has(RST)
        {
            l.sent = later(l.sent, s.end());
        }
    }

    /// An application's segment `i` left on the wire as `o`.
    ///
    /// # Errors
    /// What differs from the reference.
    pub fn to_wire(
        &mut self,
        node: u16,
        client: SocketAddr,
        i: &Seg,
        o: &Seg,
    ) -> Result<(), String> {
        let Some(p) = self.promised.get(&client).cloned() else {
            return Err("a segment for a client that nobody answered".into());
        };
        let Some(l) = self.local.get_mut(&(node, client)) else {
            if self.again.contains(&client) {
                return Ok(());
            }
            return Err("a segment of an application that took no SYN".into());
        };
        let delta = l.s_isn.wrapping_sub(l.l_isn);
        if !i.has(RST) {
            equal("seq", i.seq.wrapping_add(delta), o.seq)?;
        }
        // What the client was acknowledged is never taken back.
        let said = self.acked.get(&client).copied();
        let ack = said
            .filter(|_| i.has(ACK) && !i.has(RST))
            .map_or(i.ack, |a| later(a, i.ack));
        equal("ack", ack, o.ack)?;
        equal(
            "flags",
            i.flags & (SYN | FIN | RST | ACK),
            o.flags & (SYN | FIN | RST | ACK),
        )?;
        if i.payload != o.payload {
            return Err("payload changed".into());
        }
        equal("source port", crate::node::SERVICE_PORT, o.sport)?;
        if let (Some((iv, ie)), Some((ov, oe))) = (i.opts.ts, o.opts.ts) {
            equal("TSecr", ie, oe)?;
            let tau = ov.wrapping_sub(iv);
            equal("tau", *l.tau.get_or_insert(tau), tau)?;
        }
        if i.opts.ts.is_some() != o.opts.ts.is_some() {
            return Err("timestamps came or went".into());
        }
        if i.has(RST) || !i.has(ACK) {
            return Ok(());
        }
        let unit = 1u64 << p.shift;
        let (have, told) = (
            u64::from(i.window) << l.shift,
            u64::from(o.window) << p.shift,
        );
        let most = 65_535 << p.shift;
        if told + unit <= have.min(most) || told >= have + unit {
            return Err(format!(
                "window {have} was told as {told} in units of {unit}"
            ));
        }
        let own_edge = i.ack.wrapping_add(have.min(most) as u32);
        let edge = o.ack.wrapping_add(told as u32);
        if let Some(before_it) = l.edge
            && !before(own_edge, before_it)
            && before(edge, before_it)
        {
            return Err(format!(
                "the window's edge went back from {before_it} to {edge}"
            ));
        }
        l.edge = Some(l.edge.map_or(edge, |e| later(e, edge)));
        Ok(())
    }

    /// A client's segment `i` was given to an application's stack as `o`.
    ///
    /// # Errors
    /// What differs from the reference.
    pub fn to_host(&self, node: u16, client: SocketAddr, i: &Seg, o: &Seg) -> Result<(), String> {
        let Some(l) = self.local.get(&(node, client)) else {
            return Ok(());
        };
        let delta = l.s_isn.wrapping_sub(l.l_isn);
        equal("seq", i.seq, o.seq)?;
        equal("flags", i.flags & !(PSH | 0xc0), o.flags & !(PSH | 0xc0))?;
        equal("window", i.window, o.window)?;
        if i.payload != o.payload {
            return Err("payload changed".into());
        }
        if i.has(ACK) {
            let low = l.l_isn.wrapping_add(1);
            let a = i.ack.wrapping_sub(delta);
            let a = if before(l.sent, a) { l.sent } else { a };
            equal("ack", if before(a, low) { low } else { a }, o.ack)?;
        }
        let edges = |s: &Seg| s.opts.sack.clone();
        let moved: Vec<(u32, u32)> = (edges(i).into_iter())
            .map(|(a, b)| (a.wrapping_sub(delta), b.wrapping_sub(delta)))
            .collect();
        if moved != edges(o) {
            return Err(format!("SACK {:?} became {:?}", i.opts.sack, o.opts.sack));
        }
        if let (Some((iv, ie)), Some((ov, oe))) = (i.opts.ts, o.opts.ts) {
            equal("TSval", iv, ov)?;
            let tau = l.tau.unwrap_or_else(|| ie.wrapping_sub(oe));
            equal("TSecr", if ie == 0 { 0 } else { ie.wrapping_sub(tau) }, oe)?;
        }
        Ok(())
    }

    /// The client's first number, as its server knows it.
    pub fn c_isn(&self, client: SocketAddr) -> Option<u32> {
        self.promised.get(&client).map(|p| p.c_isn)
    }

    /// The first number of the server that the client sees, and the promised shift.
    pub fn server(&self, client: SocketAddr) -> Option<(u32, u8)> {
        self.promised.get(&client).map(|p| (p.s_isn, p.shift))
    }

    /// A new connection on the same 4-tuple, or a node that starts anew.
    pub fn forget(&mut self, client: SocketAddr) {
        self.local.retain(|k, _| k.1 != client);
        self.acked.remove(&client);
        self.sent.remove(&client);
        if self.promised.contains_key(&client) {
            self.again.insert(client);
        }
    }
}

fn equal<T: PartialEq + std::fmt::Display>(what: &str, expected: T, got: T) -> Result<(), String> {
    if expected == got {
        Ok(())
    } else {
        Err(format!("{what} is {got}, the reference says {expected}"))
    }
}

impl Model {
    /// A node whose application took the client's flow, if one did.
    pub fn served_by(&self, client: SocketAddr) -> Option<u16> {
        self.local.keys().find(|k| k.1 == client).map(|k| k.0)
    }
}
