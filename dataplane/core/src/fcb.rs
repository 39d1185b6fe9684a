//! The filter control block: one per logical connection, at each node that
//! takes part in it.

use crate::handover::dest::DestSide;
use crate::handover::repeat::Copy;
use crate::handover::source::SourceSide;
use crate::hold;
use crate::key::{Addr, FlowKey};
use crate::storm::Storm;
use crate::time::{Instant, Span, Stamp};
use crate::view::View;
use crate::wire::Mac;
use std::ops::{Deref, DerefMut};

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

impl Agreed {
    /// None of them.
    pub const NONE: Self = Self {
        mss: 0,
        client_shift: 0,
        promised_shift: 0,
        wscale: false,
        sack: false,
        ts: false,
    };
}

/// The filter control block. Numbers named `c_` are the client's, those named
/// `s_` are server numbers as the client sees them.
///
/// These two cache lines, of which segments change the second one only, are all that most
/// of them need, and all that a flow takes which was handed over some time ago and goes on
/// in good order. What else there is to be known of a flow is in [`More`], which is there
/// from the first thing that is written to it. An `Fcb` is read as if it were its `More`
/// too; a flow without one has [`More::NOTHING`].
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Fcb {
    // What segments ask, and seldom change.
    /// The client's address.
    pub client: Addr,
    more: Option<Box<More>>,
    /// S - L: added to the local stack's numbers on their way out.
    pub delta: u32,
    /// Client-visible TSval - local TSval.
    pub tau: u32,
    /// Lowest acknowledgement that the local stack may be given (S-space).
    pub s_low: u32,
    /// K; equal to `c_isn` + 1 before any handover.
    pub cut: u32,
    /// The client's ISN.
    pub c_isn: u32,
    /// The intake's ISN.
    pub s_isn: u32,
    /// The client's port.
    pub client_port: u16,
    /// Index of the flow's service, and with it VIP and service port.
    pub service: u16,
    /// Port of the local socket that speaks for the flow.
    pub local_port: u16,
    /// Options in force.
    pub agreed: Agreed,
    /// State.
    pub state: State,
    /// Shift of the local stack's windows.
    pub local_shift: u8,

    // What they change.
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
    /// Last segment of the flow.
    pub last_seen: Stamp,
    /// When the client's acknowledgement moved last.
    pub acked_at: Stamp,
    /// The client's last window field.
    pub client_window: u16,
    /// Window field that the client was sent last.
    pub c_window: u16,
    /// The breaker of acknowledgement storms.
    pub(crate) storm: Storm,
    /// Layer-2 next hop towards the client: where its frames come from.
    pub next_hop: Mac,
    /// The local stack was given a segment since it spoke last.
    pub spoken_to: bool,
    /// The client said something that the stack must answer though it is nothing new, and
    /// was sent nothing since.
    pub asked: bool,
}

/// What of a flow is beside its [`Fcb`].
#[derive(Debug)]
pub struct More {
    /// This node takes the flow, or took it lately: [`crate::past`] keeps what is left of
    /// it later.
    pub dest: Option<Box<DestSide>>,
    /// This node hands the flow over.
    pub source: Option<Box<SourceSide>>,
    /// Tombstone, or a handover that is repeated: what it is repeated from.
    pub kept: Option<Box<Copy>>,
    /// Client payload frames above what the local stack has acknowledged.
    pub copies: hold::List,
    /// Client frames held for the cut over.
    pub held: hold::List,
    /// When the SYN-ACK went out, at intake.
    pub synack_at: Option<Instant>,
    /// The client's round-trip time as measured at intake.
    pub rtt: Span,
    /// Tombstone: who has the flow. Served: who gave it.
    pub peer: Option<(u16, u64)>,
    /// Next time that the handover code wants to run.
    pub timer: Option<Instant>,
    /// When the slot is given up, once the flow has ended.
    pub expires: Option<Instant>,
    /// Number behind the client's FIN.
    pub c_fin: Option<u32>,
    /// Number behind the server's FIN (S-space).
    pub s_fin: Option<u32>,
    /// The local stack has acknowledged the client's FIN.
    pub c_fin_acked: bool,
    /// The client has acknowledged the server's FIN.
    pub s_fin_acked: bool,
    /// A RST passed from the local stack, or one was made here: the flow is over.
    pub reset: bool,
    /// The client sent a RST with exactly the number that its stack expects, which
    /// the stack has not contradicted since (RFC 5961, section 3.2).
    pub client_reset: bool,
    /// This node lost the handshake to another owner: its SYN-ACKs stay here.
    pub muted: bool,
    /// A SYN with another ISN that the stack was given: until the client says
    /// something that fits the flow, only a challenge may go out.
    pub challenged: Option<Box<[u8]>>,
    /// By then a client that did send that SYN has answered the challenge.
    pub challenged_until: Option<Instant>,
    /// When a look at the kernel's sockets first did not find the flow's, if none has
    /// found it since.
    pub missed: Option<Stamp>,
}

impl More {
    /// Of a flow about which there is nothing more to be known.
    pub const NOTHING: Self = Self {
        dest: None,
        source: None,
        kept: None,
        copies: hold::List::NEW,
        held: hold::List::NEW,
        synack_at: None,
        rtt: Span(0),
        peer: None,
        timer: None,
        expires: None,
        c_fin: None,
        s_fin: None,
        c_fin_acked: false,
        s_fin_acked: false,
        reset: false,
        client_reset: false,
        muted: false,
        challenged: None,
        challenged_until: None,
        missed: None,
    };

    /// Nothing in it matters to a flow that is served here and was handed over long ago.
    /// [`crate::past`] has its round-trip time.
    fn is_void(&self) -> bool {
        self.dest.is_none()
            && self.source.is_none()
            && self.kept.is_none()
            && self.copies.is_empty()
            && self.held.is_empty()
            && self.timer.is_none()
            && self.expires.is_none()
            && self.c_fin.is_none()
            && self.s_fin.is_none()
            && !(self.c_fin_acked || self.s_fin_acked || self.reset || self.client_reset)
            && self.challenged.is_none()
            && self.challenged_until.is_none()
            && self.missed.is_none()
    }
}

impl Deref for Fcb {
    type Target = More;

    #[inline]
    fn deref(&self) -> &More {
        static NOTHING: More = More::NOTHING;
        self.more.as_deref().unwrap_or(&NOTHING)
    }
}

impl DerefMut for Fcb {
    fn deref_mut(&mut self) -> &mut More {
        self.more.get_or_insert_with(|| Box::new(More::NOTHING))
    }
}

impl Fcb {
    /// A slot that is not in use.
    pub const FREE: Self = Self {
        client: Addr([0; 16]),
        client_port: 0,
        service: 0,
        local_port: 0,
        next_hop: [0; 6],
        state: State::Free,
        spoken_to: false,
        asked: false,
        local_shift: 0,
        agreed: Agreed::NONE,
        delta: 0,
        tau: 0,
        s_low: 0,
        s_nxt: 0,
        c_nxt: 0,
        c_high: 0,
        c_edge: 0,
        c_acked: 0,
        client_ack: 0,
        ts_in_order: 0,
        ts_echoed: 0,
        ts_max: 0,
        cut: 0,
        c_isn: 0,
        s_isn: 0,
        client_window: 0,
        c_window: 0,
        last_seen: Stamp::ZERO,
        acked_at: Stamp::ZERO,
        storm: Storm::NEW,
        more: None,
    };

    /// The connection as the client sees it.
    #[inline]
    pub fn key(&self, v: &View) -> FlowKey {
        let service = &v.services[self.service as usize];
        FlowKey {
            client: self.client,
            vip: service.vip,
            client_port: self.client_port,
            port: service.port,
        }
    }

    /// It is this client's, of this service.
    #[inline]
    pub(crate) fn is(&self, client: &Addr, client_port: u16, service: usize) -> bool {
        self.client == *client
            && self.client_port == client_port
            && usize::from(self.service) == service
    }

    /// There is no [`More`]: nothing but what this block says matters to the flow.
    #[inline]
    pub(crate) fn is_bare(&self) -> bool {
        self.more.is_none()
    }

    /// Gives a served flow's [`More`] back in which there is nothing. An intake's round trip
    /// stands nowhere else.
    pub(crate) fn tidy(&mut self) {
        if self.state == State::Served && self.more.as_ref().is_some_and(|m| m.is_void()) {
            self.more = None;
        }
    }

    /// Asks for all of it.
    #[inline]
    pub(crate) fn prefetch(&self) {
        hostmem::prefetch_line(self, 0);
        hostmem::prefetch_line(self, 1);
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
    fn a_flow_is_two_cache_lines_of_which_segments_change_one() {
        assert_eq!(size_of::<Fcb>(), 128);
        assert_eq!(offset_of!(Fcb, s_nxt), 64);
    }

    #[test]
    fn what_is_written_makes_room_and_what_is_nothing_gives_it_back() {
        let mut f = Fcb::FREE;
        f.state = State::Served;
        assert!(f.is_bare() && !f.is_over() && f.dest.is_none());
        f.tidy();
        assert!(f.is_bare());
        f.reset = true;
        f.tidy();
        assert!(!f.is_bare() && f.is_over());
        f.reset = false;
        f.rtt = Span::millis(7);
        f.state = State::Intake;
        f.tidy();
        assert_eq!(f.rtt, Span::millis(7));
        f.state = State::Served;
        f.tidy();
        assert!(f.is_bare());
    }
}
