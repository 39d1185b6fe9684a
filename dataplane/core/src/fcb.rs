//! The filter control block: one per logical connection, at each node that
//! takes part in it.

use crate::handover::dest::DestSide;
use crate::handover::source::SourceSide;
use crate::hold;
use crate::key::FlowKey;
use crate::storm::Storm;
use crate::time::{Instant, Span};
use crate::wire::Mac;

/// What the filter does with the flow's segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The slot is not in use.
    Free,
    /// A SYN was given to the stack; the handshake is not complete.
    HalfOpen,
    /// Client and this node's proxy (or, at layer 4, application) talk.
    Intake,
    /// Client segments are held: a handover is under way, at its source, its
    /// destination or both.
    Held,
    /// Client and this node's application talk, translated.
    Served,
    /// The flow was handed over: client segments are dropped.
    Tombstone,
}

impl State {
    /// Every state that a slot in use can have.
    pub const ALL: [State; 5] = [
        State::HalfOpen,
        State::Intake,
        State::Held,
        State::Served,
        State::Tombstone,
    ];

    /// The name in metrics and listings.
    pub fn name(self) -> &'static str {
        match self {
            State::Free => "free",
            State::HalfOpen => "half_open",
            State::Intake => "intake",
            State::Held => "handover",
            State::Served => "served",
            State::Tombstone => "tombstone",
        }
    }
}

/// Options in force: the intersection of the client's SYN and the SYN-ACK that
/// it was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreed {
    /// MSS that the client announced, bytes (536, or 1,220 over IPv6, when it announced none).
    pub mss: u16,
    /// Shift of the client's windows.
    pub client_shift: u8,
    /// Shift that the client was promised for the server's windows.
    pub promised_shift: u8,
    /// Window scaling.
    pub wscale: bool,
    /// SACK.
    pub sack: bool,
    /// Timestamps.
    pub ts: bool,
}

/// Cache lines of an [`Fcb`] that every segment needs.
const HOT_LINES: usize = 4;

/// The filter control block. Numbers named `c_` are the client's, those named
/// `s_` are server numbers as the client sees them.
///
/// What every segment of a served flow needs comes first, in as few cache lines as
/// it takes.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Fcb {
    /// The connection as the client sees it.
    pub key: FlowKey,
    /// Port of the local socket that speaks for the flow.
    pub local_port: u16,
    /// Index of its service.
    pub service: u16,
    /// Layer-2 next hop towards the client: where its frames come from.
    pub next_hop: Mac,
    /// State.
    pub state: State,
    /// The handover to this node lies so far back that its segments need not be held
    /// against [`Self::dest`] any more.
    pub settled: bool,
    /// S - L: added to the local stack's numbers on their way out.
    pub delta: u32,
    /// Client-visible TSval - local TSval.
    pub tau: u32,
    /// Lowest acknowledgement that the local stack may be given (S-space).
    pub s_low: u32,
    /// Highest number that went out to the client (S-space).
    pub s_nxt: u32,
    /// End of what came in order from the client, as far as this filter saw.
    pub c_nxt: u32,
    /// Highest number behind anything that the client sent within its window: above
    /// `c_nxt` where there is a hole.
    pub c_high: u32,
    /// Highest right window edge that the client was promised.
    pub c_edge: u32,
    /// Highest acknowledgement that the client was sent.
    pub c_acked: u32,
    /// The client's last acknowledgement (S-space).
    pub client_ack: u32,
    /// TSval of the segment that moved `c_nxt` last.
    pub ts_in_order: u32,
    /// TSecr that the local stack sent last: its TS.Recent, or older.
    pub ts_echoed: u32,
    /// Highest TSval that the client was sent.
    pub ts_max: u32,
    /// K; equal to `c_isn` + 1 before any handover.
    pub cut: u32,
    /// The client's last window field.
    pub client_window: u16,
    /// Window field that the client was sent last.
    pub c_window: u16,
    /// Last segment of the flow.
    pub last_seen: Instant,
    /// When the client's acknowledgement moved last.
    pub acked_at: Instant,
    /// Options in force.
    pub agreed: Agreed,
    /// Shift of the local stack's windows.
    pub local_shift: u8,
    /// The local stack was given a segment since it spoke last.
    pub spoken_to: bool,
    /// The client said something that the stack must answer though it is nothing new, and
    /// was sent nothing since.
    pub asked: bool,
    /// The client sent a RST with exactly the number that its stack expects, which
    /// the stack has not contradicted since (RFC 5961, section 3.2).
    pub client_reset: bool,
    /// A RST passed from the local stack, or one was made here: the flow is over.
    pub reset: bool,
    /// The local stack has acknowledged the client's FIN.
    pub c_fin_acked: bool,
    /// The client has acknowledged the server's FIN.
    pub s_fin_acked: bool,
    /// This node lost the handshake to another owner: its SYN-ACKs stay here.
    pub muted: bool,
    /// A SYN with another ISN that the stack was given: until the client says
    /// something that fits the flow, only a challenge may go out.
    pub challenged: Option<Box<[u8]>>,
    /// Number behind the client's FIN.
    pub c_fin: Option<u32>,
    /// Number behind the server's FIN (S-space).
    pub s_fin: Option<u32>,
    /// This node takes the flow.
    pub dest: Option<Box<DestSide>>,
    /// This node hands the flow over.
    pub source: Option<Box<SourceSide>>,
    /// Tells this use of the slot from earlier ones.
    pub generation: u32,
    /// The breaker of acknowledgement storms.
    pub(crate) storm: Storm,
    /// When the slot is given up, once the flow has ended.
    pub expires: Option<Instant>,
    /// Hash of `key` in the table.
    pub hash: u64,
    /// The client's ISN.
    pub c_isn: u32,
    /// The intake's ISN.
    pub s_isn: u32,
    /// When the SYN-ACK went out, at intake.
    pub synack_at: Option<Instant>,
    /// The client's round-trip time as measured at intake.
    pub rtt: Span,
    /// By then a client that did send that SYN has answered the challenge.
    pub challenged_until: Option<Instant>,
    /// The last look at the kernel's sockets that this flow was compared with.
    pub looked: u64,
    /// When a look first did not find its socket, if none has found it since.
    pub missed: Option<Instant>,
    /// Next time that the handover code wants to run.
    pub timer: Option<Instant>,
    /// Tombstone: who has the flow. Served: who gave it.
    pub peer: Option<(u16, u64)>,
    /// Client payload frames above what the local stack has acknowledged.
    pub copies: hold::List,
    /// Client frames held for the cut over.
    pub held: hold::List,
}

impl Fcb {
    /// A slot that is not in use.
    pub fn free() -> Self {
        use crate::key::Addr;
        let zero = Addr([0; 16]);
        Self {
            state: State::Free,
            generation: 0,
            hash: 0,
            key: FlowKey {
                client: zero,
                vip: zero,
                client_port: 0,
                port: 0,
            },
            service: 0,
            local_port: 0,
            next_hop: [0; 6],
            agreed: Agreed::default(),
            delta: 0,
            tau: 0,
            local_shift: 0,
            c_isn: 0,
            s_isn: 0,
            s_low: 0,
            s_nxt: 0,
            cut: 0,
            client_ack: 0,
            client_window: 0,
            c_nxt: 0,
            c_high: 0,
            ts_in_order: 0,
            ts_echoed: 0,
            c_acked: 0,
            c_edge: 0,
            c_window: 0,
            spoken_to: false,
            asked: false,
            ts_max: 0,
            synack_at: None,
            rtt: Span(0),
            muted: false,
            c_fin: None,
            s_fin: None,
            c_fin_acked: false,
            s_fin_acked: false,
            reset: false,
            client_reset: false,
            challenged: None,
            storm: Storm::default(),
            challenged_until: None,
            acked_at: Instant(0),
            last_seen: Instant(0),
            looked: 0,
            missed: None,
            expires: None,
            timer: None,
            peer: None,
            copies: hold::List::default(),
            held: hold::List::default(),
            source: None,
            dest: None,
            settled: false,
        }
    }

    /// Asks for the part that every segment needs.
    #[inline]
    pub(crate) fn prefetch(&self) {
        for line in 0..HOT_LINES {
            hostmem::prefetch_line(self, line);
        }
    }

    /// Both sides are done, or the stack has reset the flow.
    pub fn is_over(&self) -> bool {
        self.reset || (self.c_fin_acked && self.s_fin_acked)
    }

    /// A new SYN of the client may replace the flow: it is over here, or the client
    /// itself has said that it is.
    pub(crate) fn gives_way(&self) -> bool {
        match self.state {
            State::Free | State::HalfOpen | State::Tombstone => true,
            State::Intake | State::Served => self.is_over() || self.client_reset,
            State::Held => false,
        }
    }

    /// Ends the challenge of [`Self::challenged`] when the client's segment fits.
    pub(crate) fn confirm(&mut self, s: &crate::wire::tcp::Segment) {
        use crate::seq;
        if self.challenged.is_some()
            && s.has(crate::wire::tcp::ACK)
            && !s.has(crate::wire::tcp::RST)
            && seq::le(self.client_ack, s.ack)
            && seq::le(s.ack, self.s_nxt)
            && (s.seq.wrapping_sub(self.c_nxt) as i32).unsigned_abs() < 1 << 20
        {
            self.challenged = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn the_hot_part_is_first() {
        assert_eq!(offset_of!(Fcb, c_nxt), 64);
        assert_eq!(offset_of!(Fcb, local_shift), 128);
        assert!(offset_of!(Fcb, storm) + size_of::<Storm>() <= HOT_LINES * 64);
    }
}
