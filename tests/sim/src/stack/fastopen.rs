//! A Fast Open listener (RFC 7413) around smoltcp, which has none, as Linux with
//! `net.ipv4.tcp_fastopen` = 1539 behaves: a SYN's payload is taken without a cookie,
//! the SYN-ACK acknowledges all of it, the application reads at once and may answer
//! before the handshake ends; the SYN-ACK is repeated until it is acknowledged.
//!
//! The shim plays a whole handshake and the payload to smoltcp and swallows what it
//! answers. The SYN-ACK's window counts from the byte behind the SYN, as in Linux.

use super::tcb::Tcb;
use crate::seg::{ACK, PSH, RST, SYN, Seg, before};

/// First repetition of the SYN-ACK, nanoseconds (RFC 6298); then twice as long each time.
const RTO: u64 = 1_000_000_000;
/// Repetitions.
const MOST: u32 = 5;

/// The listener's half of a handshake.
#[derive(Clone, Debug)]
pub struct FastOpen {
    /// The client has acknowledged the SYN-ACK.
    pub done: bool,
    /// What the SYN-ACK acknowledged.
    ack: u32,
    tries: u32,
    began: u64,
    /// From the SYN-ACK to its acknowledgement: what the stack takes for the round trip.
    pub rtt: Option<u64>,
    due: u64,
    /// The SYN's window was 0.
    shut: bool,
    /// Window field of the segment that ended the handshake.
    pub window: u16,
    /// The SYN was repeated once already: Linux answers that only now and then.
    answered: bool,
}

impl FastOpen {
    /// Whether a segment of smoltcp's goes out: the pure acknowledgement of the
    /// payload does not, the SYN-ACK has said it.
    pub fn admit(&mut self, s: &Seg) -> bool {
        // With a window of 0 in the SYN smoltcp may probe at once; Linux waits.
        if self.shut && !self.done && !s.payload.is_empty() {
            return false;
        }
        let bare = s.flags & !PSH == ACK && s.payload.is_empty();
        !(bare && !self.done && s.ack == self.ack)
    }

    /// When the SYN-ACK is sent again, nanoseconds.
    pub fn due(&self) -> Option<u64> {
        (!self.done && self.tries < MOST).then_some(self.due)
    }
}

impl Tcb {
    /// Takes a SYN with payload; gives its SYN-ACK.
    pub(super) fn fast_open(&mut self, syn: &Seg, now: u64) -> Vec<Seg> {
        let mut bare = syn.clone();
        bare.payload.clear();
        self.feed(&bare);
        let Some(mut synack) = self
            .run(now)
            .first()
            .and_then(|p| Seg::parse(p))
            .map(|s| self.outbound(s))
        else {
            return Vec::new();
        };
        let room = usize::from(synack.window).min(syn.payload.len());
        let shift = syn.opts.shift.filter(|_| self.setup.shift.is_some());
        let mut first = syn.clone();
        first.seq = syn.seq.wrapping_add(1);
        first.flags = ACK | PSH;
        first.ack = synack.seq.wrapping_add(1);
        first.window = syn.window >> shift.unwrap_or(0);
        first.opts = crate::seg::Opts {
            ts: syn.opts.ts.filter(|_| self.setup.ts).map(|t| (t.0, 0)),
            ..Default::default()
        };
        first.payload.truncate(room);
        self.feed(&first);
        let swallowed = self.run(now);
        for p in swallowed {
            if let Some(s) = Seg::parse(&p) {
                self.outbound(s);
            }
        }
        self.rcv_nxt = first.end();
        synack.ack = first.end();
        self.fast = Some(FastOpen {
            done: false,
            ack: synack.ack,
            tries: 0,
            began: now,
            rtt: None,
            window: 0,
            shut: syn.window == 0,
            due: now + RTO,
            answered: false,
        });
        self.synack = Some(synack.clone());
        vec![synack]
    }

    /// Before the handshake ends: whether smoltcp gets `s`.
    pub(super) fn fast_input(&mut self, s: &Seg, now: u64) -> bool {
        let (isn, clock) = (self.setup.isn, self.tsval());
        if s.has(RST) {
            return s.seq == self.rcv_nxt;
        }
        let fits = s.has(ACK) && !s.has(SYN) && before(isn, s.ack) && !before(self.snd_nxt, s.ack);
        if fits && let Some(f) = &mut self.fast {
            f.done = true;
            // A SYN-ACK that was repeated gives no sample but by its echo (Karn's rule).
            f.rtt = match (f.answered, s.opts.ts) {
                (false, _) => Some(now - f.began),
                (true, Some((_, ecr))) => Some(u64::from(clock.wrapping_sub(ecr)) * 1_000_000),
                (true, None) => None,
            };
            f.window = s.window;
        }
        fits
    }

    /// What a segment that smoltcp did not get is answered with.
    pub(super) fn fast_answer(&mut self, s: &Seg) -> Vec<Seg> {
        let repeated = s.has(SYN) && !s.has(ACK) && s.seq == self.peer_isn;
        let Some(f) = self.fast.as_mut().filter(|_| repeated) else {
            return Vec::new();
        };
        if std::mem::replace(&mut f.answered, true) {
            return Vec::new();
        }
        self.synack.clone().into_iter().collect()
    }

    /// The SYN-ACK again, when it is due.
    pub(super) fn fast_timer(&mut self, now: u64) -> Option<Seg> {
        let f = self.fast.as_mut()?;
        if f.due().is_none_or(|t| now < t) {
            return None;
        }
        f.tries += 1;
        f.due = now + (RTO << f.tries);
        self.synack.clone()
    }
}
