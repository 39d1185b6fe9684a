//! A client that plays a script of raw segments, for what no stack does on request.
//!
//! It opens with a SYN of its own, acknowledges what comes in order at once, sends only
//! what the script says, and repeats what is not acknowledged after a second. Timestamps
//! are its own millisecond clock, as RFC 7323 wants them.

use super::Outcome;
use crate::plan::{Act, ClientPlan, SEC};
use crate::seg::{ACK, ECE, FIN, Opts, PSH, RST, SYN, Seg, URG, before};
use crate::stack::clock;
use crate::stack::tcb::Setup;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// An answer to a keepalive that takes longer is none, nanoseconds.
const PATIENCE: u64 = 300_000_000;

/// The client.
pub struct Raw {
    setup: Setup,
    local: SocketAddr,
    vip: SocketAddr,
    stream: Vec<u8>,
    /// End of what the script has let go, in bytes of the stream.
    let_go: usize,
    una: u32,
    nxt: u32,
    rcv: u32,
    later: BTreeMap<u32, Vec<u8>>,
    fresh: Vec<u8>,
    open: bool,
    fin: bool,
    their_fin: bool,
    reset: bool,
    left: bool,
    zero: bool,
    ts: Option<u32>,
    shift: u8,
    rto_at: Option<u64>,
    backoff: u32,
    delayed: Vec<Seg>,
    probe_at: Option<u64>,
    start: bool,
    half_close: bool,
    /// What was wrong with segments.
    pub complaints: Vec<String>,
}

impl Raw {
    pub fn new(plan: &ClientPlan, local: SocketAddr, vip: SocketAddr, stream: Vec<u8>) -> Self {
        let isn = plan.setup.isn;
        Self {
            setup: plan.setup,
            local,
            vip,
            stream,
            let_go: 0,
            una: isn,
            nxt: isn,
            rcv: 0,
            later: BTreeMap::new(),
            fresh: Vec::new(),
            open: false,
            fin: false,
            their_fin: false,
            reset: false,
            left: false,
            zero: false,
            ts: None,
            shift: 0,
            rto_at: None,
            backoff: 0,
            delayed: Vec::new(),
            probe_at: None,
            start: true,
            half_close: plan.half_close,
            complaints: Vec::new(),
        }
    }

    pub fn established(&self) -> bool {
        self.open
    }

    pub fn numbers(&self) -> (u32, u32) {
        (self.setup.isn, self.nxt)
    }

    /// Bytes of IP and TCP header without options.
    fn headers(&self) -> usize {
        if self.local.is_ipv4() { 40 } else { 60 }
    }

    fn first(&self) -> u32 {
        self.setup.isn.wrapping_add(1)
    }

    fn seg(&self, flags: u8, seq: u32, payload: &[u8]) -> Seg {
        let syn = flags & SYN != 0;
        let tsval = clock::tsval().wrapping_add(self.setup.ts_offset);
        let ts = if syn {
            self.setup.ts.then_some(0)
        } else {
            self.ts
        };
        let window = if self.zero { 0 } else { self.setup.rx as u32 };
        Seg {
            src: self.local.ip(),
            dst: self.vip.ip(),
            sport: self.local.port(),
            dport: self.vip.port(),
            seq,
            ack: if flags & ACK != 0 { self.rcv } else { 0 },
            flags,
            window: (window >> if syn { 0 } else { self.shift }).min(0xffff) as u16,
            urgent: 0,
            opts: Opts {
                mss: syn.then_some((self.setup.mtu - self.headers()) as u16),
                shift: self.setup.shift.filter(|_| syn),
                sack_ok: syn && self.setup.sack,
                ts: ts.filter(|_| flags & RST == 0).map(|e| (tsval, e)),
                ..Opts::default()
            },
            payload: payload.to_vec(),
        }
    }

    fn data(&self, from: usize, to: usize) -> Vec<Seg> {
        let mss = self.setup.mtu.min(1500) - self.headers() - 20;
        let to = to.min(self.stream.len());
        let mut out = Vec::new();
        let mut at = from;
        while at < to {
            let end = to.min(at + mss);
            let seq = self.first().wrapping_add(at as u32);
            let piece = &self.stream[at..end];
            out.push(self.seg(ACK | PSH, seq, piece));
            at = end;
        }
        out
    }

    fn advance(&mut self, end: usize) {
        self.let_go = self.let_go.max(end.min(self.stream.len()));
        let nxt = self.first().wrapping_add(self.let_go as u32);
        if before(self.nxt, nxt) {
            self.nxt = nxt;
        }
    }

    pub fn act(&mut self, act: Act, now: u64) -> Vec<Seg> {
        clock::set(now);
        if self.reset || self.left || (!self.open && act != Act::SynAgain) {
            return Vec::new();
        }
        let out = match act {
            Act::Send(n) => {
                let from = self.let_go;
                self.advance(from + n);
                self.data(from, self.let_go)
            }
            Act::Skip(n) => {
                let from = self.let_go;
                self.advance(from + n);
                self.delayed = self.data(from, self.let_go);
                Vec::new()
            }
            Act::Fill if self.delayed.is_empty() => self.again(),
            Act::Fill => std::mem::take(&mut self.delayed),
            Act::Fin if self.fin => Vec::new(),
            Act::Fin => {
                let from = self.let_go;
                self.advance(self.stream.len());
                let mut out = self.data(from, self.let_go);
                out.push(self.seg(FIN | ACK, self.nxt, &[]));
                self.nxt = self.nxt.wrapping_add(1);
                self.fin = true;
                out
            }
            Act::Reset => {
                self.left = true;
                vec![self.seg(RST | ACK, self.nxt, &[])]
            }
            Act::BlindReset => vec![self.seg(RST, self.nxt.wrapping_add(77), &[])],
            Act::Keepalive(byte) => {
                let payload: &[u8] = if byte { &[0] } else { &[] };
                self.probe_at = Some(now);
                vec![self.seg(ACK, self.nxt.wrapping_sub(1), payload)]
            }
            Act::Repeat => {
                self.probe_at = Some(now);
                self.data(0, self.let_go)
            }
            Act::ZeroWindow => {
                self.zero = true;
                vec![self.seg(ACK, self.nxt, &[])]
            }
            Act::OpenWindow => {
                self.zero = false;
                vec![self.seg(ACK, self.nxt, &[])]
            }
            Act::SynAgain => vec![self.syn()],
            Act::OtherSyn => {
                let mut s = self.syn();
                s.seq = self.nxt.wrapping_add(100_000);
                vec![s]
            }
            Act::Urgent(n) => {
                let from = self.let_go;
                self.advance(from + n);
                let mut out = self.data(from, self.let_go);
                if let Some(s) = out.last_mut() {
                    s.flags |= URG;
                    s.urgent = s.payload.len() as u16;
                }
                out
            }
            Act::UrgentAgain(back, n) => {
                let from = self.let_go.saturating_sub(back);
                self.advance(self.let_go + n);
                let mut out = self.data(from, self.let_go);
                if let Some(s) = out.last_mut() {
                    s.flags |= URG;
                    s.urgent = s.payload.len() as u16;
                }
                out
            }
            Act::Ecn(n) => {
                let from = self.let_go;
                self.advance(from + n);
                let mut out = self.data(from, self.let_go);
                out.iter_mut().for_each(|s| s.flags |= ECE);
                out
            }
        };
        if self.una != self.nxt && self.rto_at.is_none() {
            self.rto_at = Some(now + SEC);
        }
        out
    }

    fn syn(&self) -> Seg {
        let mut s = self.seg(SYN, self.setup.isn, &[]);
        s.ack = 0;
        s
    }

    /// Everything that was let go and is not acknowledged.
    fn again(&self) -> Vec<Seg> {
        let una = self.una.wrapping_sub(self.first()) as usize;
        let mut out = self.data(una.min(self.let_go), self.let_go);
        if self.fin {
            out.push(self.seg(FIN | ACK, self.nxt.wrapping_sub(1), &[]));
        }
        out
    }

    pub fn input(&mut self, s: &Seg, now: u64) -> Vec<Seg> {
        clock::set(now);
        if self.left || self.reset {
            return Vec::new();
        }
        self.probe_at = None;
        if s.has(RST) {
            if !self.open || s.seq == self.rcv {
                self.reset = true;
            }
            return Vec::new();
        }
        if s.has(SYN) {
            return self.synack(s, now);
        }
        if !self.open || !s.has(ACK) {
            return Vec::new();
        }
        if before(self.nxt, s.ack) {
            self.complaints
                .push(format!("ack {} beyond {}", s.ack, self.nxt));
            return Vec::new();
        }
        if let (Some(_), None) = (self.ts, s.opts.ts) {
            self.complaints.push("agreed timestamps are missing".into());
        }
        if before(self.una, s.ack) {
            self.una = s.ack;
            self.backoff = 0;
            self.rto_at = (self.una != self.nxt).then_some(now + SEC);
        }
        if let Some((val, _)) = s.opts.ts
            && !before(self.rcv, s.seq)
        {
            self.ts = Some(val);
        }
        let takes = s.space() > 0;
        if takes {
            self.take(s);
        }
        // A probe, or bytes: both want an answer.
        if takes || before(s.seq, self.rcv) {
            return vec![self.seg(ACK, self.nxt, &[])];
        }
        Vec::new()
    }

    fn synack(&mut self, s: &Seg, now: u64) -> Vec<Seg> {
        if self.open || s.ack != self.first() {
            return if self.open {
                vec![self.seg(ACK, self.nxt, &[])]
            } else {
                Vec::new()
            };
        }
        self.open = true;
        self.una = s.ack;
        self.nxt = s.ack;
        self.rcv = s.seq.wrapping_add(1);
        self.ts = s.opts.ts.filter(|_| self.setup.ts).map(|t| t.0);
        self.shift = s.opts.shift.and(self.setup.shift).unwrap_or(0);
        self.rto_at = None;
        let _ = now;
        vec![self.seg(ACK, self.nxt, &[])]
    }

    fn take(&mut self, s: &Seg) {
        if self.zero && !s.payload.is_empty() {
            return;
        }
        let mut bytes = s.payload.clone();
        if s.has(FIN) {
            bytes.push(0);
            self.later.insert(s.end().wrapping_sub(1), Vec::new());
        }
        let fin_at = s.has(FIN).then(|| s.end().wrapping_sub(1));
        if fin_at.is_some() {
            bytes.pop();
        }
        if !bytes.is_empty() {
            self.later.insert(s.seq, bytes);
        }
        // Whatever is in order now.
        while let Some((&seq, _)) = self.later.iter().find(|(q, b)| {
            !before(self.rcv, **q)
                && (b.is_empty() && **q == self.rcv
                    || before(self.rcv, q.wrapping_add(b.len() as u32)))
        }) {
            let b = self.later.remove(&seq).unwrap_or_default();
            if b.is_empty() {
                self.rcv = self.rcv.wrapping_add(1);
                self.their_fin = true;
                continue;
            }
            let skip = self.rcv.wrapping_sub(seq) as usize;
            self.fresh.extend_from_slice(&b[skip..]);
            self.rcv = seq.wrapping_add(b.len() as u32);
        }
        let rcv = self.rcv;
        self.later
            .retain(|q, b| before(rcv, q.wrapping_add(b.len().max(1) as u32)));
    }

    pub fn drive(&mut self, got: usize, whole: usize, now: u64) -> (Vec<Seg>, Vec<u8>) {
        clock::set(now);
        let mut out = Vec::new();
        if std::mem::replace(&mut self.start, false) {
            self.rto_at = Some(now + SEC);
            out.push(self.syn());
        }
        let fresh = std::mem::take(&mut self.fresh);
        if self.probe_at.is_some_and(|t| now >= t + PATIENCE) {
            self.complaints.push("a keepalive was not answered".into());
            self.probe_at = None;
        }
        let all = self.let_go == self.stream.len();
        let done = got + fresh.len() >= whole || self.their_fin || self.half_close;
        if self.open && all && done && !self.fin && !self.left && !self.reset {
            out.extend(self.act(Act::Fin, now));
        }
        if self.rto_at.is_some_and(|t| now >= t) && !self.left && !self.reset && self.backoff < 6 {
            self.backoff += 1;
            self.rto_at = Some(now + (SEC << self.backoff));
            out.extend(if self.open {
                self.again()
            } else {
                vec![self.syn()]
            });
        }
        (out, fresh)
    }

    pub fn at(&self) -> Option<u64> {
        let live = !self.left && !self.reset && self.backoff < 6;
        let probe = self.probe_at.map(|t| t + PATIENCE);
        self.rto_at.filter(|_| live).into_iter().chain(probe).min()
    }

    pub fn outcome(&self, got: usize, whole: usize) -> Outcome {
        if self.left {
            Outcome::Left
        } else if self.reset {
            if got >= whole {
                Outcome::Done
            } else {
                Outcome::Reset
            }
        } else if self.their_fin && got < whole {
            Outcome::Cut
        } else if self.their_fin && self.fin && self.una == self.nxt {
            Outcome::Done
        } else {
            Outcome::Running
        }
    }
}
