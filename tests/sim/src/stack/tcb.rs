//! One end of one connection: a smoltcp socket on an interface of its own, behind
//! the shims that give it what smoltcp has no switch for.
//!
//! The shims, each as a real stack would behave:
//! - **numbers**: the initial sequence number and the timestamp clock are the
//!   scenario's; numbers are shifted on their way in and out.
//! - **options**: window scale, SACK and timestamps can be off; the window shift is
//!   the scenario's (smoltcp itself always has shift 0, its buffers being at most
//!   65,535 bytes; a window is rounded down to what the shift can say; the
//!   right edge that was told does not retreat while there is room for it, and never
//!   lies beyond what smoltcp takes, which would wait a minute for bytes cut off there).
//! - **RFC 7323, section 5**: PAWS, TS.Recent; a segment without agreed timestamps is
//!   dropped. smoltcp has neither.
//! - **RFC 5961**: a RST ends the connection only with exactly the next number; a RST
//!   elsewhere in the window, and a SYN, get a challenge ACK.
//! - **D-SACK** (RFC 2883): a segment that came before is told in the next acknowledgement.
//! - **old acknowledgements**: a segment whose acknowledgement is older than another one
//!   that came is taken in ESTABLISHED and CLOSE-WAIT (RFC 9293, section 3.10.7.4);
//!   smoltcp drops it, data and all. In the closing states it is dropped, as by Linux.
//! - **a forgotten FIN**: smoltcp 0.14 can end up in CLOSING without a timer, its FIN
//!   unacknowledged; the shim repeats that FIN every second.
//! - **Fast Open listener** ([`super::fastopen`]).

use super::clock;
use super::device::Queues;
use super::fastopen::FastOpen;
use crate::seg::{ACK, FIN, RST, SYN, Seg, URG, before, later};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::time::Duration;
use smoltcp::wire::{HardwareAddress, IpCidr, IpEndpoint};
use std::net::SocketAddr;

/// How far below a stack's first TSval an echo may lie, milliseconds.
const OLD_ECHO: u32 = 120_000;

/// Between two repetitions of a forgotten FIN, nanoseconds.
const FIN_AGAIN: u64 = 1_000_000_000;

/// How a stack is set up for one connection.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Initial sequence number.
    pub isn: u32,
    /// Added to the millisecond clock: TSval.
    pub ts_offset: u32,
    /// Timestamps.
    pub ts: bool,
    /// SACK.
    pub sack: bool,
    /// Window shift; `None` without window scaling.
    pub shift: Option<u8>,
    /// MTU, bytes: MSS plus 40, or 60 over IPv6.
    pub mtu: usize,
    /// Receive buffer, 1 to 65,535 bytes.
    pub rx: usize,
    /// Send buffer, bytes.
    pub tx: usize,
    /// Longest delay of an ACK, milliseconds; 0 for none.
    pub ack_delay_ms: u64,
    /// Keepalive interval, milliseconds; 0 for none.
    pub keepalive_ms: u64,
    /// Urgent bytes are not in line: reading leaves them out, as without `SO_OOBINLINE`.
    pub out_of_band: bool,
}

/// What a segment may tell about whoever rewrote it. Never right, whatever was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint(pub String);

/// One end of a connection.
pub struct Tcb {
    iface: Interface,
    dev: Queues,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    pub(crate) setup: Setup,
    /// Own address.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Added to smoltcp's numbers; known from its SYN on.
    offset: Option<u32>,
    scaled: bool,
    ts_agreed: bool,
    synced: bool,
    /// Number behind everything that was sent.
    pub snd_nxt: u32,
    /// The peer's initial number.
    pub peer_isn: u32,
    una: u32,
    fin_at: u64,
    sack_agreed: bool,
    again: Option<(u32, u32)>,
    pub(crate) rcv_nxt: u32,
    acked: u32,
    edge: u32,
    urgent: Vec<u32>,
    /// Bytes of the peer that left the receive buffer.
    delivered: u32,
    ts_recent: u32,
    first_ts: u32,
    last_ts: u32,
    pub(super) synack: Option<Seg>,
    pub(super) fast: Option<FastOpen>,
    /// Segments that PAWS rejected.
    pub paws: u32,
    /// The connection ended by a RST of the peer.
    pub was_reset: bool,
    /// Impossible segments.
    pub complaints: Vec<Complaint>,
}

impl Tcb {
    fn new(setup: Setup, local: SocketAddr, remote: SocketAddr, now: u64) -> Self {
        let mut dev = Queues::new(setup.mtu);
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = u64::from(setup.isn) | 1 << 40;
        let mut iface = Interface::new(config, &mut dev, clock::instant(now));
        iface.update_ip_addrs(|a| {
            let own = IpCidr::new(local.ip().into(), if local.is_ipv4() { 32 } else { 128 });
            a.push(own).expect("room for one address");
        });
        let mut socket = tcp::Socket::new(
            tcp::SocketBuffer::new(vec![0; setup.rx.clamp(1, 65_535)]),
            tcp::SocketBuffer::new(vec![0; setup.tx]),
        );
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(match setup.ack_delay_ms {
            0 => None,
            ms => Some(Duration::from_millis(ms)),
        });
        if setup.keepalive_ms > 0 {
            socket.set_keep_alive(Some(Duration::from_millis(setup.keepalive_ms)));
        }
        if setup.ts {
            socket.set_tsval_generator(Some(clock::tsval));
        }
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        Self {
            iface,
            dev,
            sockets,
            handle,
            setup,
            local,
            remote,
            offset: None,
            scaled: false,
            ts_agreed: false,
            synced: false,
            snd_nxt: setup.isn,
            peer_isn: 0,
            fin_at: 0,
            sack_agreed: false,
            again: None,
            una: setup.isn.wrapping_add(1),
            rcv_nxt: 0,
            acked: 0,
            edge: 0,
            urgent: Vec::new(),
            delivered: 0,
            ts_recent: 0,
            first_ts: 0,
            last_ts: 0,
            synack: None,
            fast: None,
            paws: 0,
            was_reset: false,
            complaints: Vec::new(),
        }
    }

    /// A client that connects; [`Self::poll`] gives its SYN.
    pub fn connect(setup: Setup, local: SocketAddr, remote: SocketAddr, now: u64) -> Self {
        let mut t = Self::new(setup, local, remote, now);
        let to: IpEndpoint = remote.into();
        let socket = t.sockets.get_mut::<tcp::Socket<'_>>(t.handle);
        socket
            .connect(t.iface.context(), to, IpEndpoint::from(local))
            .expect("a fresh socket connects");
        t
    }

    /// A server's socket for a SYN. With `fast_open` and a payload the SYN's bytes are
    /// acknowledged at once, as by Linux with `tcp_fastopen` = 1539.
    pub fn accept(setup: Setup, syn: &Seg, fast_open: bool, now: u64) -> (Self, Vec<Seg>) {
        let local = SocketAddr::new(syn.dst, syn.dport);
        let remote = SocketAddr::new(syn.src, syn.sport);
        let mut t = Self::new(setup, local, remote, now);
        t.peer_isn = syn.seq;
        t.rcv_nxt = syn.seq.wrapping_add(1);
        t.acked = t.rcv_nxt;
        t.ts_recent = syn.opts.ts.map_or(0, |x| x.0);
        t.ts_agreed = setup.ts && syn.opts.ts.is_some();
        t.scaled = setup.shift.is_some() && syn.opts.shift.is_some();
        t.sack_agreed = setup.sack && syn.opts.sack_ok;
        let socket = t.sockets.get_mut::<tcp::Socket<'_>>(t.handle);
        socket
            .listen(IpEndpoint::from(local))
            .expect("a fresh socket listens");
        let out = if fast_open && !syn.payload.is_empty() {
            t.fast_open(syn, now)
        } else {
            let mut bare = syn.clone();
            bare.payload.clear();
            t.feed(&bare);
            t.poll(now)
        };
        (t, out)
    }

    /// What the stack took for the round trip when a Fast Open handshake ended, nanoseconds.
    pub fn first_rtt(&self) -> Option<u64> {
        self.fast.as_ref().and_then(|f| f.rtt)
    }

    /// The segment that ended a Fast Open handshake left the window shut.
    pub fn is_shut(&self) -> bool {
        self.fast.as_ref().is_some_and(|f| f.done && f.window == 0)
    }

    /// The smoltcp socket.
    pub fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// The smoltcp state.
    pub fn state(&mut self) -> tcp::State {
        self.socket().state()
    }

    /// The server's end of the handshake is open: no acknowledgement of its SYN-ACK yet.
    pub fn half_open(&mut self) -> bool {
        self.fast.as_ref().is_some_and(|f| !f.done) || self.state() == tcp::State::SynReceived
    }

    /// Gives smoltcp a segment in its own numbers.
    pub(super) fn feed(&mut self, s: &Seg) {
        let mut s = s.clone();
        let offset = self.offset.unwrap_or(0);
        if s.has(ACK) {
            s.ack = s.ack.wrapping_sub(offset);
        }
        for (l, r) in &mut s.opts.sack {
            *l = l.wrapping_sub(offset);
            *r = r.wrapping_sub(offset);
        }
        if s.has(SYN) {
            if !self.setup.sack {
                s.opts.sack_ok = false;
            }
            if self.setup.shift.is_none() {
                s.opts.shift = None;
            }
        }
        s.flags &= 0x3f;
        self.dev.rx.push_back(s.packet());
    }

    /// A segment from the network.
    pub fn input(&mut self, s: &Seg, now: u64) -> Vec<Seg> {
        if self.fast.as_ref().is_some_and(|f| !f.done) && !self.fast_input(s, now) {
            return self.fast_answer(s);
        }
        if s.has(SYN) && !s.has(ACK) && self.synack.is_some() {
            if self.half_open() && s.seq == self.peer_isn {
                return self.synack.clone().into_iter().collect();
            }
            return vec![self.challenge()];
        }
        if self.synced {
            self.examine(s);
            if s.has(RST) && s.seq != self.rcv_nxt {
                let ahead = s.seq.wrapping_sub(self.rcv_nxt);
                let inside = ahead < self.edge.wrapping_sub(self.rcv_nxt).max(1) && ahead < 1 << 30;
                return if inside {
                    vec![self.challenge()]
                } else {
                    Vec::new()
                };
            }
        }
        let begun = self.synced || self.synack.is_some();
        if begun && !self.timestamps_fit(s) {
            let answer = s.space() > 0;
            return if answer {
                vec![self.challenge()]
            } else {
                Vec::new()
            };
        }
        if s.has(SYN) && s.has(ACK) && s.ack == self.snd_nxt && !self.synced {
            self.peer_isn = s.seq;
            self.rcv_nxt = s.seq.wrapping_add(1);
            self.ts_recent = s.opts.ts.map_or(0, |x| x.0);
            self.ts_agreed = self.setup.ts && s.opts.ts.is_some();
            self.scaled = self.setup.shift.is_some() && s.opts.shift.is_some();
            self.sack_agreed = self.setup.sack && s.opts.sack_ok;
            self.synced = true;
        } else if s.has(ACK) && !s.has(RST | SYN) && !self.synced {
            let low = self.setup.isn.wrapping_add(1);
            self.synced = !before(s.ack, low) && !before(self.snd_nxt, s.ack);
        }
        if self.sack_agreed && !s.payload.is_empty() && !before(self.rcv_nxt, s.end()) {
            self.again = Some((s.seq, s.end()));
        }
        self.note_order(s);
        if s.has(RST) {
            let opens = !self.synced && self.synack.is_none();
            if opens && !(s.has(ACK) && s.ack == self.snd_nxt) {
                // In SYN-SENT only one that acknowledges the SYN counts (RFC 9293,
                // section 3.10.7.3).
                return Vec::new();
            }
            self.was_reset = true;
        }
        let open = matches!(
            self.state(),
            tcp::State::Established | tcp::State::CloseWait
        );
        if s.has(ACK) && before(s.ack, self.una) && open && !s.has(RST) {
            let mut s = s.clone();
            s.ack = self.una;
            self.feed(&s);
            return self.poll(now);
        }
        if s.has(ACK) && !before(self.snd_nxt, s.ack) {
            self.una = later(self.una, s.ack);
        }
        self.feed(s);
        self.poll(now)
    }

    /// What no network can do to a segment: numbers that were never sent.
    fn examine(&mut self, s: &Seg) {
        let low = self.setup.isn.wrapping_add(1);
        let mut complain = |what: String| self.complaints.push(Complaint(what));
        if s.has(ACK) && !s.has(SYN | RST) {
            if before(self.snd_nxt, s.ack) || before(s.ack, low) {
                complain(format!("ack {} outside [{low}, {}]", s.ack, self.snd_nxt));
            }
            for &(l, r) in &s.opts.sack {
                // A keepalive's byte lies one below, and a D-SACK may name it, or what another
                // node's stack sent before this one had the flow.
                let other = before(l, self.setup.isn) && before(s.ack, r);
                if before(self.snd_nxt, r) || other || !before(l, r) {
                    complain(format!("SACK {l}..{r} outside [{low}, {}]", self.snd_nxt));
                }
            }
        }
        if self.ts_agreed && !s.has(RST) {
            match s.opts.ts {
                None => complain("agreed timestamps are missing".into()),
                Some((_, ecr)) => {
                    // The client may still echo what the intake's stack said before.
                    let oldest = self.first_ts.wrapping_sub(OLD_ECHO);
                    let known = !before(ecr, oldest) && !before(self.last_ts, ecr);
                    // A segment that was sent before anything was heard echoes 0.
                    if s.has(ACK) && ecr != 0 && !known {
                        let (a, b) = (self.first_ts, self.last_ts);
                        complain(format!("TSecr {ecr} outside [{a}, {b}]"));
                    }
                }
            }
        } else if !self.ts_agreed && s.opts.ts.is_some() && !s.has(RST | SYN) {
            complain("timestamps were not agreed".into());
        }
    }

    /// RFC 7323, sections 3.2 and 5.
    fn timestamps_fit(&mut self, s: &Seg) -> bool {
        if !self.ts_agreed || s.has(RST) {
            return true;
        }
        let Some((val, _)) = s.opts.ts else {
            return false;
        };
        if before(val, self.ts_recent) {
            self.paws += 1;
            return false;
        }
        // Not by what is outside the window (section 5.3, R2), as another owner's SYN-ACK is.
        if !before(self.acked, s.seq) && !s.has(SYN) {
            self.ts_recent = later(self.ts_recent, val);
        }
        true
    }

    fn note_order(&mut self, s: &Seg) {
        if self.setup.out_of_band && s.has(URG) && s.urgent > 0 {
            // The pointer names the byte behind it (RFC 6093, section 3.1).
            self.urgent
                .push(s.seq.wrapping_add(s.urgent.into()).wrapping_sub(1));
        }
        if !s.has(RST) && !before(self.rcv_nxt, s.seq) && before(self.rcv_nxt, s.end()) {
            self.rcv_nxt = s.end();
        }
    }

    /// An acknowledgement of what is here, which nothing but a doubt calls for.
    pub(super) fn challenge(&mut self) -> Seg {
        let mut s = self.own(ACK, self.snd_nxt, self.rcv_nxt);
        let window = self.edge.wrapping_sub(self.rcv_nxt);
        let shift = if self.scaled {
            self.setup.shift.unwrap_or(0)
        } else {
            0
        };
        s.window = (window >> shift).min(0xffff) as u16;
        if self.ts_agreed {
            s.opts.ts = Some((self.tsval(), self.ts_recent));
            self.last_ts = later(self.last_ts, self.tsval());
        }
        s
    }

    pub(super) fn own(&self, flags: u8, seq: u32, ack: u32) -> Seg {
        Seg {
            src: self.local.ip(),
            dst: self.remote.ip(),
            sport: self.local.port(),
            dport: self.remote.port(),
            seq,
            ack,
            flags,
            window: 0,
            urgent: 0,
            opts: crate::seg::Opts::default(),
            payload: Vec::new(),
        }
    }

    pub(super) fn tsval(&self) -> u32 {
        clock::tsval().wrapping_add(self.setup.ts_offset)
    }

    /// Lets smoltcp run; gives what it sends, in the scenario's numbers.
    pub fn poll(&mut self, now: u64) -> Vec<Seg> {
        let mut out = Vec::new();
        for p in self.run(now) {
            let s = Seg::parse(&p).expect("smoltcp sends TCP");
            let s = self.outbound(s);
            if let Some(f) = &mut self.fast
                && !f.admit(&s)
            {
                continue;
            }
            out.push(s);
        }
        if let Some(s) = self.fast_timer(now) {
            out.push(s);
        }
        if self.forgets_fin(now) && now >= self.fin_at {
            if self.fin_at > 0 {
                let mut fin = self.challenge();
                fin.seq = self.snd_nxt.wrapping_sub(1);
                fin.flags |= FIN;
                out.push(fin);
            }
            self.fin_at = now + FIN_AGAIN;
        }
        out
    }

    /// smoltcp has sent its FIN, has no acknowledgement of it, and waits for nothing.
    fn forgets_fin(&mut self, now: u64) -> bool {
        use tcp::State::{Closing, FinWait1, LastAck};
        let closing = matches!(self.state(), Closing | FinWait1 | LastAck);
        let at = self.iface.poll_at(clock::instant(now), &self.sockets);
        closing && self.una != self.snd_nxt && at.is_none()
    }

    /// smoltcp's own packets.
    pub(super) fn run(&mut self, now: u64) -> Vec<Vec<u8>> {
        clock::set(now);
        self.iface
            .poll(clock::instant(now), &mut self.dev, &mut self.sockets);
        self.dev.tx.drain(..).collect()
    }

    pub(super) fn outbound(&mut self, mut s: Seg) -> Seg {
        if s.has(SYN) {
            self.offset = Some(self.setup.isn.wrapping_sub(s.seq));
            s.opts.sack_ok &= self.setup.sack;
            s.opts.shift = s.opts.shift.and(self.setup.shift);
        }
        s.seq = s.seq.wrapping_add(self.offset.unwrap_or(0));
        if let Some((val, ecr)) = &mut s.opts.ts {
            *val = val.wrapping_add(self.setup.ts_offset);
            // smoltcp echoes the last TSval that it saw, RFC 7323 wants TS.Recent.
            if s.flags & ACK != 0 {
                *ecr = self.ts_recent;
            }
            if s.flags & SYN != 0 {
                self.first_ts = *val;
                self.last_ts = *val;
            }
            self.last_ts = later(self.last_ts, *val);
        }
        if s.has(RST) {
            return s;
        }
        self.snd_nxt = later(self.snd_nxt, s.end());
        if !s.has(ACK) {
            return s;
        }
        if s.has(SYN) {
            self.synack = Some(s.clone());
            self.edge = s.ack.wrapping_add(u32::from(s.window));
            return s;
        }
        if let Some(block) = self.again.take() {
            s.opts.sack.insert(0, block);
            s.opts.sack.truncate(3);
        }
        self.acked = later(self.acked, s.ack);
        self.rcv_nxt = later(self.rcv_nxt, s.ack);
        let shift = if self.scaled {
            self.setup.shift.unwrap_or(0)
        } else {
            0
        };
        let unit = 1u32 << shift;
        let usable = u32::from(s.window).saturating_sub(unit - 1);
        let mut w = usable >> shift;
        while before(s.ack.wrapping_add(w << shift), self.edge)
            && (w + 1) << shift <= u32::from(s.window)
        {
            w += 1;
        }
        self.edge = later(self.edge, s.ack.wrapping_add(w << shift));
        s.window = w.min(0xffff) as u16;
        s
    }

    /// When smoltcp or the Fast Open shim wants to run again, nanoseconds.
    pub fn poll_at(&mut self, now: u64) -> Option<u64> {
        let own = self
            .iface
            .poll_at(clock::instant(now), &self.sockets)
            .map(|t| (t.total_micros().max(0) as u64) * 1_000);
        let fast = self.fast.as_ref().and_then(FastOpen::due);
        let fin = self.forgets_fin(now).then_some(self.fin_at);
        own.into_iter().chain(fast).chain(fin).min()
    }

    /// What can be read now.
    pub fn read(&mut self, most: usize) -> Vec<u8> {
        let socket = self.socket();
        let mut b = vec![0; socket.recv_queue().min(most)];
        let n = socket.recv_slice(&mut b).unwrap_or(0);
        b.truncate(n);
        let from = self.delivered;
        self.delivered += n as u32;
        self.in_line(b, from)
    }

    /// Bytes of the stream from number `from` on, without urgent ones.
    fn in_line(&self, mut b: Vec<u8>, from: u32) -> Vec<u8> {
        let first = self.peer_isn.wrapping_add(1).wrapping_add(from);
        let mut at = first;
        b.retain(|_| {
            at = at.wrapping_add(1);
            !self.urgent.contains(&at.wrapping_sub(1))
        });
        b
    }

    /// Bytes that came in order, urgent ones too: `tcpi_bytes_received`.
    pub fn received(&mut self) -> usize {
        self.delivered as usize + self.socket().recv_queue()
    }

    /// What could be read, left where it is.
    pub fn peek(&mut self) -> Vec<u8> {
        let socket = self.socket();
        let mut b = vec![0; socket.recv_queue()];
        let n = socket.peek_slice(&mut b).unwrap_or(0);
        b.truncate(n);
        self.in_line(b, self.delivered)
    }

    /// The peer's FIN came in order (bytes before it may still be unread).
    pub fn peer_closed(&mut self) -> bool {
        use tcp::State::{CloseWait, Closed, Closing, LastAck, TimeWait};
        matches!(
            self.state(),
            CloseWait | LastAck | Closing | TimeWait | Closed
        )
    }

    /// Writes what there is room for; gives its length.
    pub fn write(&mut self, b: &[u8]) -> usize {
        self.socket().send_slice(b).unwrap_or(0)
    }

    /// Whether `s` is a FIN or carries data; for readers of traces.
    pub fn is_talk(s: &Seg) -> bool {
        s.has(FIN) || !s.payload.is_empty()
    }

    /// Nothing is left of the connection. (A RST in SYN-RECEIVED makes smoltcp's socket
    /// listen again; a real listener is a socket of its own.)
    pub fn is_dead(&mut self) -> bool {
        let s = self.socket();
        let none = matches!(s.state(), tcp::State::Closed | tcp::State::Listen);
        none && s.remote_endpoint().is_none()
    }
}
