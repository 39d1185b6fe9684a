//! What happens in one run: everything that a seed decides before it begins.

use crate::rng::Rng;
use crate::scenario::Family;
use crate::stack::tcb::Setup;
use dts_proto::block::Kind;

/// A millisecond in nanoseconds.
pub const MS: u64 = 1_000_000;
/// A microsecond in nanoseconds.
pub const US: u64 = 1_000;
/// A second in nanoseconds.
pub const SEC: u64 = 1_000 * MS;

/// What a path does to frames. Chances are per mille.
#[derive(Clone, Copy, Debug, Default)]
pub struct Impair {
    /// Lost.
    pub loss: u32,
    /// Delivered twice.
    pub dup: u32,
    /// Overtaken by later frames.
    pub reorder: u32,
    /// One byte changed.
    pub corrupt: u32,
    /// Extra delay, at most, nanoseconds.
    pub jitter: u64,
}

impl Impair {
    /// Whether a frame may be lost, changed, repeated or overtaken.
    pub fn is_clean(&self) -> bool {
        self.loss + self.dup + self.reorder + self.corrupt == 0
    }
}

/// What a rule does to the link messages of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Lost.
    Lose,
    /// Delivered twice, the second time after so many nanoseconds.
    Twice(u64),
    /// Delivered so many nanoseconds later.
    Late(u64),
}

/// A rule about link messages.
#[derive(Clone, Copy, Debug)]
pub struct LinkRule {
    /// Which kind.
    pub kind: Kind,
    /// The first message that the rule is for, counted from 0.
    pub from: u32,
    /// How many.
    pub count: u32,
    /// What becomes of them.
    pub fate: Fate,
}

/// Something that the run can see happen. Times and places of faults and of a scripted
/// client's acts are tied to these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The run begins.
    Begun,
    /// The client's connection is established.
    Established,
    /// The proxy has read enough and asks.
    Asked,
    /// The worker has frozen the flow.
    Frozen,
    /// The socket was drained.
    Drained,
    /// A splice is on the link.
    Splice,
    /// A replay's SYN was given to a stack.
    Replay,
    /// A stack's SYN-ACK came from the application port.
    Taken,
    /// An accept is on the link.
    Accept,
    /// An end mark is on the link.
    EndMark,
    /// The proxy's socket is buried.
    Buried,
    /// The client has the first byte of its answer.
    Answered,
}

impl Step {
    /// Every step of a connection, in the order of an undisturbed handover.
    pub const ALL: [Step; 11] = [
        Step::Established,
        Step::Asked,
        Step::Frozen,
        Step::Drained,
        Step::Splice,
        Step::Replay,
        Step::Taken,
        Step::Accept,
        Step::EndMark,
        Step::Buried,
        Step::Answered,
    ];
}

/// When something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct When {
    /// The first time that this happens ...
    pub step: Step,
    /// ... and so many nanoseconds later.
    pub after: u64,
}

/// What breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A node stops at once, with all its state.
    Crash(u16),
    /// A stopped node starts, with a new incarnation.
    Restart(u16),
    /// The link between two nodes passes nothing.
    Cut(u16, u16),
    /// It passes again.
    Heal(u16, u16),
    /// A node's application dies: its sockets are reset, nobody listens.
    AppDies(u16),
    /// An ICMP error about the flow comes from the wire.
    Icmp,
    /// A forged segment with option 32 comes from the wire.
    Option32,
    /// Link messages that were heard are sent again by a third party.
    Replayed,
    /// The same, changed so that they look new, by someone without the key.
    Forged,
    /// An option-32 SYN without a block comes from the link.
    BareSplice,
    /// The client's SYN comes once more from the wire, as a network may repeat it.
    OldSyn,
    /// The client's host starts anew and connects from the same port.
    Reopen,
    /// Fragments of a TCP datagram come from the wire.
    Fragments,
    /// SYNs behind IPv6 extension headers that must be dropped come from the wire.
    Routed,
    /// Client and stack say their last acknowledgement again and again, in turn: so
    /// often, with so many nanoseconds between.
    Storm(u64, u64),
    /// How many of so many acknowledgements came through.
    StormOver(u64),
    /// Someone asks for the IPv6 VIP's Ethernet address.
    Solicit,
    /// A node's stack forgets its sockets without a word.
    Forget(u16),
    /// The daemon of a node looks at its sockets.
    Look(u16),
    /// A node must have no flow by now.
    NoFlow(u16),
    /// A node that does not have the client's flow comes to own its bucket, and hears the
    /// client's last segment again and again.
    Moved,
    /// Somebody acknowledges a number that the client was never sent.
    WrongAck,
    /// The link falls into two halves; bit `n` is set for the nodes `n` of one of them.
    Halves(u16),
    /// The whole link passes everything again.
    Whole,
    /// The wire does not reach a node any more, nor does it reach the wire.
    WireCut(u16),
    /// It does again.
    WireHeal(u16),
    /// A node stands still for so many nanoseconds.
    Freeze(u16, u64),
    /// A node is asked to take on nothing new.
    Drain(u16),
    /// It is asked to take its share again.
    Undrain(u16),
    /// All nodes that live must agree by now.
    Agreed,
    /// The halves of the link must have come to terms by now.
    Divided,
}

/// What a scripted client does at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Sends so many more bytes of what it has to send.
    Send(usize),
    /// So many bytes are on their way and late: they come with the next `Fill`.
    Skip(usize),
    /// Sends what is late, or everything that is not acknowledged.
    Fill,
    /// Its FIN.
    Fin,
    /// A RST with the next number.
    Reset,
    /// A RST inside the window, but not with the next number.
    BlindReset,
    /// A keepalive: one byte below the next number, or none.
    Keepalive(bool),
    /// Everything that it has sent, once more: its acknowledgement got lost.
    Repeat,
    /// A window of zero.
    ZeroWindow,
    /// The window again.
    OpenWindow,
    /// Its SYN again.
    SynAgain,
    /// A SYN of another number on the same 4-tuple.
    OtherSyn,
    /// Urgent data, so many bytes.
    Urgent(usize),
    /// ECN bits on a data segment of so many bytes.
    Ecn(usize),
    /// A segment of so many old and so many new bytes, the last one urgent.
    UrgentAgain(usize, usize),
}

/// One client.
#[derive(Clone, Debug)]
pub struct ClientPlan {
    /// Its stack.
    pub setup: Setup,
    /// It speaks IPv6.
    pub six: bool,
    /// Of its IPv6 frames so many per mille bear extension headers.
    pub extensions: u32,
    /// When it connects, nanoseconds.
    pub start: u64,
    /// One-way delay of the wire, nanoseconds.
    pub delay: u64,
    /// Its requests: bytes of each, and bytes of each answer.
    pub requests: Vec<(usize, usize)>,
    /// Segmentation of what it sends: bytes, and nanoseconds to wait before.
    pub chunks: Vec<(usize, u64)>,
    /// It closes its side behind the last request.
    pub half_close: bool,
    /// It reads this many bytes, then waits so long, nanoseconds; 0 bytes: everything at once.
    pub slow_reader: (usize, u64),
    /// It is scripted, and this is the script.
    pub script: Option<Vec<(When, Act)>>,
    /// ECN bits and a TCP Fast Open cookie request on its SYN.
    pub odd_syn: bool,
    /// It opens a second connection from the same port when the first one ended: after
    /// so many nanoseconds, its number that much above the first one's last.
    pub reuse: Option<(u64, u32)>,
}

/// One run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// The family.
    pub family: Family,
    /// Nodes, 2 to 4.
    pub nodes: u16,
    /// Workers of each node, 1 or 2.
    pub workers: usize,
    /// The only owner; `None` for a hash.
    pub owner: Option<u16>,
    /// Nodes (by id) that take this one for the owner instead.
    pub other_view: Vec<(u16, u16)>,
    /// MTU of wire and link.
    pub mtu: usize,
    /// `first_window`.
    pub first_window: u32,
    /// `replay` is Fast Open.
    pub fast_open: bool,
    /// Host stacks of all nodes: the proxy's connections.
    pub proxy_stack: Setup,
    /// Host stacks of all nodes: the application's connections.
    pub app_stack: Setup,
    /// Application stacks take Fast Open.
    pub app_fast_open: bool,
    /// TIME_WAIT sockets of the application give way to newer SYNs.
    pub recycle: bool,
    /// Nodes whose application does not listen.
    pub no_listener: Vec<u16>,
    /// Nodes whose accept queue is full.
    pub deaf: Vec<u16>,
    /// Nodes whose stack agrees to no timestamps and no window scale.
    pub plain_stack: Vec<u16>,
    /// A TIME_WAIT socket of the client's 4-tuple waits at these nodes.
    pub old_socket: Vec<u16>,
    /// The clients.
    pub clients: Vec<ClientPlan>,
    /// The wire.
    pub wire: Impair,
    /// The link.
    pub link: Impair,
    /// One-way delay of the link, nanoseconds.
    pub link_delay: u64,
    /// Rules of the link.
    pub rules: Vec<LinkRule>,
    /// The proxy asks when it has read so many bytes.
    pub ask_at: usize,
    /// The proxy leaves all but this many bytes unread in its socket.
    pub read_most: usize,
    /// Destinations, in the order in which they are asked.
    pub dests: Vec<u16>,
    /// Longest delay of each step of the daemon, nanoseconds.
    pub rpc_delay: u64,
    /// Longest delay of a frame between worker and host stack, nanoseconds.
    pub host_delay: u64,
    /// Time between request and answer, nanoseconds.
    pub think: u64,
    /// The application closes behind the last answer (else the client does).
    pub app_closes: bool,
    /// The application answers with a RST instead.
    pub app_resets: bool,
    /// The proxy waits so long before it asks another node, nanoseconds.
    pub retry_wait: u64,
    /// The daemon drains a byte less than there is, and does not notice.
    pub short_drain: bool,
    /// What breaks, and when.
    pub faults: Vec<(When, Fault)>,
    /// Nodes that an application hands the flow on to, one for each request behind the
    /// first.
    pub hops: Vec<u16>,
    /// The link's keys change: every other node signs with the new one already.
    pub rotate: bool,
    /// Buffers for held frames, bytes of each worker.
    pub hold: usize,
    /// `hold_flow_max`.
    pub hold_flow: usize,
    /// How often a handover is repeated.
    pub repeats: u8,
    /// The nodes find out by themselves who is there, and owners follow from it.
    pub members: bool,
    /// What must hold.
    pub expect: Expect,
}

/// What must hold at a plan's end, beyond what always must.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expect {
    /// The wire is perfect: the client must notice nothing at all.
    pub clean: bool,
    /// Every client gets its whole answer.
    pub complete: bool,
    /// A rule may reset the client (unknown outcome, orphan, a proxy that gives up).
    pub may_reset: bool,
    /// Some client may be left without an end: its owner or server is dead.
    pub may_hang: bool,
    /// At least one handover must have been accepted.
    pub handover: bool,
    /// Segments of an earlier connection may reach a new one, as they may on any network;
    /// only its end counts then.
    pub stale: bool,
}

impl Plan {
    /// The run of `seed`, of this family or of the one that the seed picks.
    pub fn new(seed: u64, family: Option<Family>) -> Self {
        let mut r = Rng::new(seed, 1);
        let drawn = r.pick(Family::ALL);
        let family = family.unwrap_or(drawn);
        let mut p = base(seed, family, &mut r);
        family.shape(&mut p, &mut r);
        // Numbers of their own: one seed is nearly the same run over either family.
        let mut r = Rng::new(seed, 7);
        for c in &mut p.clients {
            if r.permille(500) {
                c.six = true;
                c.setup.mtu = (c.setup.mtu + 20).min(p.mtu);
                c.extensions = r.pick(&[0, 0, 100, 1000]);
            }
        }
        p
    }

    /// Bytes of all requests of client `i`.
    pub fn request_bytes(&self, i: usize) -> usize {
        self.clients[i].requests.iter().map(|r| r.0).sum()
    }
}

/// A stack of the usual kind.
pub fn usual_stack(r: &mut Rng) -> Setup {
    Setup {
        isn: (r.next() >> 32) as u32,
        ts_offset: (r.next() >> 32) as u32,
        ts: true,
        sack: true,
        shift: Some(7),
        mtu: 1500,
        rx: 65_535,
        tx: 65_535,
        ack_delay_ms: r.pick(&[0, 10, 40]),
        keepalive_ms: 0,
        out_of_band: false,
    }
}

/// A client that sends one request in one piece.
pub fn usual_client(r: &mut Rng) -> ClientPlan {
    ClientPlan {
        setup: Setup {
            rx: r.pick(&[20_000, 65_535]),
            ..usual_stack(r)
        },
        six: false,
        extensions: 0,
        start: r.range(1, 5) * MS,
        delay: r.pick(&[50 * US, 500 * US, 2 * MS, 12 * MS, 50 * MS]),
        requests: vec![(r.range(24, 1200) as usize, r.range(1, 30_000) as usize)],
        chunks: Vec::new(),
        half_close: false,
        slow_reader: (0, 0),
        script: None,
        odd_syn: false,
        reuse: None,
    }
}

fn base(seed: u64, family: Family, r: &mut Rng) -> Plan {
    let nodes = r.range(2, 4) as u16;
    let client = usual_client(r);
    let request = client.requests[0].0;
    let owner = r.range(1, u64::from(nodes)) as u16;
    let dest = (owner % nodes) + 1;
    Plan {
        seed,
        family,
        nodes,
        workers: r.range(1, 2) as usize,
        owner: Some(owner),
        other_view: Vec::new(),
        mtu: 1500,
        first_window: 60_000,
        fast_open: true,
        proxy_stack: usual_stack(r),
        app_stack: usual_stack(r),
        app_fast_open: true,
        recycle: r.permille(500),
        no_listener: Vec::new(),
        deaf: Vec::new(),
        plain_stack: Vec::new(),
        old_socket: Vec::new(),
        clients: vec![client],
        wire: Impair::default(),
        link: Impair::default(),
        link_delay: r.pick(&[5 * US, 20 * US, 100 * US]),
        rules: Vec::new(),
        ask_at: request,
        read_most: usize::MAX,
        dests: vec![dest],
        rpc_delay: r.pick(&[10 * US, 100 * US, MS, 5 * MS]),
        host_delay: r.pick(&[2 * US, 20 * US, 200 * US]),
        think: r.pick(&[0, 100 * US, 3 * MS, 60 * MS]),
        app_closes: r.permille(500),
        app_resets: false,
        retry_wait: 0,
        short_drain: false,
        faults: Vec::new(),
        hops: Vec::new(),
        rotate: false,
        hold: 96 << 10,
        hold_flow: 64 << 10,
        repeats: 0,
        members: false,
        expect: Expect {
            clean: true,
            complete: true,
            may_reset: false,
            may_hang: false,
            handover: true,
            stale: false,
        },
    }
}
