//! The link's extension block: what one node tells another inside the payload
//! of a link segment.
//!
//! Layout (all numbers big-endian):
//!
//! ```text
//! 0   magic 0xD75B | version 1 | kind        4 bytes
//! 4   length of the whole block | key id | 0 4 bytes
//! 8   authenticator (SipHash-2-4-128)        16 bytes
//! 24  sender node, worker, incarnation, receiver incarnation, counter
//! 52  flow identity                          64 bytes
//! 116 fields: type (1) | length (1) | value  until `length`
//! ```
//!
//! The authenticator covers the context (addresses, ports, sequence numbers and
//! flags of the segment that carries the block), the block with a zeroed
//! authenticator, and every payload byte behind it. A block takes no TCP
//! sequence space.

use siphasher::sip128::{Hasher128, SipHasher24};
use std::hash::Hasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First two bytes of every block.
pub const MAGIC: u16 = 0xD75B;
/// The version that this code writes and accepts.
pub const VERSION: u8 = 1;
/// Bytes before the first field.
pub const FIXED_LEN: usize = 116;
const MAC_AT: usize = 8;
/// Bytes of an authenticator.
pub const MAC_LEN: usize = 16;

/// What a link message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Source to destination, on a SYN: take this flow.
    Splice = 1,
    /// Destination to source, on a SYN-ACK: the stack has acked the request.
    Accept = 2,
    /// Destination to source: no byte reached an application; see [`Reason`].
    Refuse = 3,
    /// Destination to source: the request so far is here, send from `ack`.
    Continue = 4,
    /// Source to destination: more request bytes.
    Data = 5,
    /// Source to destination: a client frame that the source held.
    Forward = 6,
    /// Source to destination, on a FIN: nothing more will be forwarded.
    EndMark = 7,
    /// Destination to source: the end mark came.
    EndAck = 8,
    /// Source to destination: forget the flow unless it was accepted.
    Abort = 9,
    /// Destination to source: no byte was or will be given to the stack.
    Aborted = 10,
    /// Destination to source: the flow ended.
    FlowEnd = 11,
    /// A bucket's owner to all, on no handover's behalf: who has this flow?
    Who = 12,
    /// The answer: this node has it, or knows who took it.
    Mine = 13,
    /// The answer: this node does not know the flow.
    NotMine = 14,
}

impl Kind {
    fn from_u8(v: u8) -> Option<Self> {
        Some(match v {
            1 => Self::Splice,
            2 => Self::Accept,
            3 => Self::Refuse,
            4 => Self::Continue,
            5 => Self::Data,
            6 => Self::Forward,
            7 => Self::EndMark,
            8 => Self::EndAck,
            9 => Self::Abort,
            10 => Self::Aborted,
            11 => Self::FlowEnd,
            12 => Self::Who,
            13 => Self::Mine,
            14 => Self::NotMine,
            _ => return None,
        })
    }

    /// Whether the source of the handover sends this kind (the destination
    /// sends the others). Who asks is the source of a question.
    pub fn from_source(self) -> bool {
        matches!(
            self,
            Self::Splice | Self::Data | Self::Forward | Self::EndMark | Self::Abort | Self::Who
        )
    }
}

/// Why a destination refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// The local stack answered RST: nobody listens on the application port.
    NobodyListens = 1,
    /// The local stack stayed silent (its accept queue is full).
    Silence = 2,
    /// The stack did not agree to an option that the client was promised.
    Options = 3,
    /// The message names another incarnation of this node.
    Incarnation = 4,
    /// No such service here.
    NoService = 5,
    /// The node has another live connection on this 4-tuple.
    Busy = 6,
    /// Tables or buffers are full.
    NoMemory = 7,
    /// The flow was aborted before.
    Aborted = 8,
    /// The message contradicts itself or an earlier one.
    Malformed = 9,
    /// The request never became complete.
    Incomplete = 10,
}

impl Reason {
    /// The reason for a wire value, if it is one.
    pub fn from_u8(v: u8) -> Option<Self> {
        Some(match v {
            1 => Self::NobodyListens,
            2 => Self::Silence,
            3 => Self::Options,
            4 => Self::Incarnation,
            5 => Self::NoService,
            6 => Self::Busy,
            7 => Self::NoMemory,
            8 => Self::Aborted,
            9 => Self::Malformed,
            10 => Self::Incomplete,
            _ => return None,
        })
    }

    /// A few words for logs and error messages.
    pub fn text(self) -> &'static str {
        match self {
            Self::NobodyListens => "nobody listens on the application port",
            Self::Silence => "the application's stack did not answer",
            Self::Options => "the stack did not agree to the promised TCP options",
            Self::Incarnation => "the destination was restarted",
            Self::NoService => "no such service at the destination",
            Self::Busy => {
                "the destination has another connection with this client address and port"
            }
            Self::NoMemory => "the destination's tables are full",
            Self::Aborted => "the handover was aborted before",
            Self::Malformed => "the handover message was malformed",
            Self::Incomplete => "the request did not arrive whole",
        }
    }
}

/// Who a message is about: the 4-tuple, both initial sequence numbers, and which
/// handover of that connection it is (`number` only ever increases at a source).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowId {
    /// The client's address and port.
    pub client: SocketAddr,
    /// The service's address and port as the client sees it.
    pub vip: SocketAddr,
    /// The client's initial sequence number.
    pub c_isn: u32,
    /// The initial sequence number in the intake's SYN-ACK.
    pub s_isn: u32,
    /// Node id of the source of this handover.
    pub source: u16,
    /// The source's incarnation.
    pub source_incarnation: u64,
    /// The source's number of this handover.
    pub number: u32,
}

/// Everything in a block but its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the message says.
    pub kind: Kind,
    /// Which of the valid cluster keys authenticates it.
    pub key_id: u8,
    /// Node id of the sender.
    pub sender: u16,
    /// The sender's worker; counters are per (sender incarnation, worker).
    pub worker: u16,
    /// The sender's incarnation.
    pub sender_incarnation: u64,
    /// The receiver's incarnation as the sender knows it.
    pub receiver_incarnation: u64,
    /// Increases by one with every message of (sender, worker).
    pub counter: u64,
    /// The flow.
    pub flow: FlowId,
}

/// The state that moves with a connection, in the Splice message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SpliceState {
    /// The client byte before the first replayed one.
    pub c_base: u32,
    /// The server byte before the first one that the destination will send.
    pub s_base: u32,
    /// K: the first client byte that the destination takes from the wire.
    pub cut: u32,
    /// Highest TSval that any node has sent to this client.
    pub ts_max: u32,
    /// The client's last acknowledgement (S-space).
    pub client_ack: u32,
    /// TS.Recent as it was when byte K-1 came in order.
    pub ts_recent: u32,
    /// Round-trip time of the client as measured at intake, microseconds.
    pub rtt_us: u32,
    /// Highest acknowledgement that the client has been sent (C-space).
    pub last_ack: u32,
    /// The client's window field, unscaled, as last seen.
    pub window: u16,
    /// MSS that the client announced, bytes.
    pub mss: u16,
    /// The client's own window shift, 0..=14.
    pub client_shift: u8,
    /// The shift that the client was promised for the server's windows, 0..=14.
    pub promised_shift: u8,
    /// Window scaling is in force.
    pub wscale: bool,
    /// SACK is in force.
    pub sack: bool,
    /// Timestamps are in force.
    pub timestamps: bool,
    /// The client has sent its FIN, right behind byte K-1.
    pub client_fin: bool,
    /// Layer-2 next hop towards the client.
    pub next_hop: [u8; 6],
}

/// The fields behind the fixed part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Fields {
    /// Splice: the state that moves.
    pub state: Option<SpliceState>,
    /// Refuse: why.
    pub reason: Option<Reason>,
    /// Accept: how the request was replayed.
    pub replay: Option<Replay>,
}

/// How a destination played the client to its own stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Replay {
    /// One SYN that carried the whole request (RFC 7413).
    FastOpen = 1,
    /// SYN, then the request with the ACK.
    Handshake = 2,
    /// Data segments of the paper's bare form; never said in a block.
    Paper = 3,
}

/// Why a payload is not a valid block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The payload does not start with the magic: no block at all.
    #[error("no extension block")]
    Absent,
    /// Too short, a bad length, an unknown version or kind, or a bad field.
    #[error("malformed extension block")]
    Malformed,
    /// The key id is unknown or the authenticator does not match.
    #[error("the extension block is not authentic")]
    Forged,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawFixed {
    magic: U16,
    version: u8,
    kind: u8,
    length: U16,
    key_id: u8,
    zero: u8,
    mac: [u8; MAC_LEN],
    sender: U16,
    worker: U16,
    sender_incarnation: U64,
    receiver_incarnation: U64,
    counter: U64,
    family: u8,
    zero2: u8,
    client_port: U16,
    vip_port: U16,
    zero3: U16,
    client: [u8; 16],
    vip: [u8; 16],
    c_isn: U32,
    s_isn: U32,
    source: U16,
    zero4: U16,
    source_incarnation: U64,
    number: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawState {
    c_base: U32,
    s_base: U32,
    cut: U32,
    ts_max: U32,
    client_ack: U32,
    ts_recent: U32,
    rtt_us: U32,
    last_ack: U32,
    window: U16,
    mss: U16,
    client_shift: u8,
    promised_shift: u8,
    flags: u8,
    zero: u8,
    next_hop: [u8; 6],
}

const FIELD_STATE: u8 = 1;
const FIELD_REASON: u8 = 2;
const FIELD_REPLAY: u8 = 3;
const F_WSCALE: u8 = 1;
const F_SACK: u8 = 2;
const F_TS: u8 = 4;
const F_FIN: u8 = 8;

const _: () = assert!(size_of::<RawFixed>() == FIXED_LEN);

/// A 128-bit key of the link, derived from the cluster key.
#[derive(Clone)]
pub struct LinkKey {
    /// Number that blocks name it by.
    pub id: u8,
    key: [u8; 16],
}

impl std::fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Derives an independent 128-bit key from the cluster key for the use that
/// `label` names, so that no two uses share one.
pub fn derive_key(cluster_key: &[u8], label: &str) -> [u8; 16] {
    let mut h = SipHasher24::new_with_key(b"DTS key derived\0");
    h.write(&(label.len() as u64).to_be_bytes());
    h.write(label.as_bytes());
    h.write(cluster_key);
    h.finish128().as_bytes()
}

impl LinkKey {
    /// The link key of a cluster. Its number follows from the key, so that nodes
    /// which know two keys need not agree on which one is the first.
    pub fn of(cluster_key: &[u8]) -> Self {
        let [id, ..] = derive_key(cluster_key, "link key id v1");
        Self::new(id, cluster_key)
    }

    /// The link key of a cluster under the number `id`.
    pub fn new(id: u8, cluster_key: &[u8]) -> Self {
        Self {
            id,
            key: derive_key(cluster_key, "link block v1"),
        }
    }

    /// The authenticator of `payload` (its MAC field counted as zero) in `context`.
    fn mac(&self, context: &[u8], payload: &[u8]) -> [u8; MAC_LEN] {
        let mut h = SipHasher24::new_with_key(&self.key);
        h.write(&(context.len() as u64).to_be_bytes());
        h.write(context);
        h.write(&payload[..MAC_AT]);
        h.write(&[0; MAC_LEN]);
        h.write(&payload[MAC_AT + MAC_LEN..]);
        h.finish128().as_bytes()
    }

    /// An authenticator over any bytes, for messages that are not blocks.
    pub fn tag(&self, context: &[u8], message: &[u8]) -> [u8; MAC_LEN] {
        let mut h = SipHasher24::new_with_key(&self.key);
        h.write(&(context.len() as u64).to_be_bytes());
        h.write(context);
        h.write(message);
        h.finish128().as_bytes()
    }

    /// Whether `tag` is [`Self::tag`] of these bytes.
    pub fn is_tag(&self, tag: &[u8], context: &[u8], message: &[u8]) -> bool {
        let right = self.tag(context, message);
        tag.first_chunk()
            .is_some_and(|t| tag.len() == MAC_LEN && equal(t, &right))
    }
}

/// Looks at every byte, so that its time does not tell how many are right.
fn equal(a: &[u8; MAC_LEN], b: &[u8; MAC_LEN]) -> bool {
    a.iter().zip(b).fold(0, |differ, (x, y)| differ | (x ^ y)) == 0
}

fn to_16(a: IpAddr) -> [u8; 16] {
    match a {
        IpAddr::V4(v) => v.to_ipv6_mapped().octets(),
        IpAddr::V6(v) => v.octets(),
    }
}

/// An address has one form only: an IPv4-mapped one is no IPv6 address.
fn from_16(family: u8, b: [u8; 16]) -> Option<IpAddr> {
    let v6 = Ipv6Addr::from(b);
    match (family, v6.to_ipv4_mapped()) {
        (4, Some(v4)) => Some(IpAddr::V4(v4)),
        (6, None) => Some(IpAddr::V6(v6)),
        _ => None,
    }
}

/// Appends a block to `out`; its authenticator is filled by [`seal`].
pub fn write(out: &mut Vec<u8>, h: &Header, f: &Fields) {
    let at = out.len();
    let raw = RawFixed {
        magic: MAGIC.into(),
        version: VERSION,
        kind: h.kind as u8,
        length: 0.into(),
        key_id: h.key_id,
        zero: 0,
        mac: [0; MAC_LEN],
        sender: h.sender.into(),
        worker: h.worker.into(),
        sender_incarnation: h.sender_incarnation.into(),
        receiver_incarnation: h.receiver_incarnation.into(),
        counter: h.counter.into(),
        family: if h.flow.client.is_ipv4() { 4 } else { 6 },
        zero2: 0,
        client_port: h.flow.client.port().into(),
        vip_port: h.flow.vip.port().into(),
        zero3: 0.into(),
        client: to_16(h.flow.client.ip()),
        vip: to_16(h.flow.vip.ip()),
        c_isn: h.flow.c_isn.into(),
        s_isn: h.flow.s_isn.into(),
        source: h.flow.source.into(),
        zero4: 0.into(),
        source_incarnation: h.flow.source_incarnation.into(),
        number: h.flow.number.into(),
    };
    out.extend_from_slice(raw.as_bytes());
    if let Some(s) = &f.state {
        let raw = RawState {
            c_base: s.c_base.into(),
            s_base: s.s_base.into(),
            cut: s.cut.into(),
            ts_max: s.ts_max.into(),
            client_ack: s.client_ack.into(),
            ts_recent: s.ts_recent.into(),
            rtt_us: s.rtt_us.into(),
            last_ack: s.last_ack.into(),
            window: s.window.into(),
            mss: s.mss.into(),
            client_shift: s.client_shift,
            promised_shift: s.promised_shift,
            flags: (s.wscale as u8 * F_WSCALE)
                | (s.sack as u8 * F_SACK)
                | (s.timestamps as u8 * F_TS)
                | (s.client_fin as u8 * F_FIN),
            zero: 0,
            next_hop: s.next_hop,
        };
        out.push(FIELD_STATE);
        out.push(size_of::<RawState>() as u8);
        out.extend_from_slice(raw.as_bytes());
    }
    if let Some(r) = f.reason {
        out.extend_from_slice(&[FIELD_REASON, 1, r as u8]);
    }
    if let Some(r) = f.replay {
        out.extend_from_slice(&[FIELD_REPLAY, 1, r as u8]);
    }
    let len = (out.len() - at) as u16;
    out[at + 4..at + 6].copy_from_slice(&len.to_be_bytes());
}

/// Fills the authenticator of the block that `payload` begins with.
pub fn seal(payload: &mut [u8], key: &LinkKey, context: &[u8]) {
    let mac = key.mac(context, payload);
    payload[MAC_AT..MAC_AT + MAC_LEN].copy_from_slice(&mac);
}

/// Whether `payload` claims to begin with a block.
pub fn is_block(payload: &[u8]) -> bool {
    payload.len() >= FIXED_LEN && payload[..2] == MAGIC.to_be_bytes()
}

/// The flow that a block claims to be about, unauthenticated: for steering only.
pub fn peek_client(payload: &[u8]) -> Option<SocketAddr> {
    if !is_block(payload) {
        return None;
    }
    let (raw, _) = RawFixed::ref_from_prefix(payload).ok()?;
    Some(SocketAddr::new(
        from_16(raw.family, raw.client)?,
        raw.client_port.get(),
    ))
}

/// Parses and authenticates the block at the start of `payload`; also gives its
/// length, behind which the message's own bytes begin.
///
/// # Errors
/// [`BlockError`]; nothing is said about replay, which the caller judges by
/// `counter`.
pub fn open(
    payload: &[u8],
    keys: &[LinkKey],
    context: &[u8],
) -> Result<(Header, Fields, usize), BlockError> {
    if !is_block(payload) {
        return Err(BlockError::Absent);
    }
    let (raw, _) = RawFixed::ref_from_prefix(payload).map_err(|_| BlockError::Malformed)?;
    let len = raw.length.get() as usize;
    if raw.version != VERSION || len < FIXED_LEN || len > payload.len() {
        return Err(BlockError::Malformed);
    }
    let kind = Kind::from_u8(raw.kind).ok_or(BlockError::Malformed)?;
    // Two keys may have one number.
    let mut named = keys.iter().filter(|k| k.id == raw.key_id);
    if !named.any(|k| equal(&k.mac(context, payload), &raw.mac)) {
        return Err(BlockError::Forged);
    }
    let client = from_16(raw.family, raw.client).ok_or(BlockError::Malformed)?;
    let vip = from_16(raw.family, raw.vip).ok_or(BlockError::Malformed)?;
    let header = Header {
        kind,
        key_id: raw.key_id,
        sender: raw.sender.get(),
        worker: raw.worker.get(),
        sender_incarnation: raw.sender_incarnation.get(),
        receiver_incarnation: raw.receiver_incarnation.get(),
        counter: raw.counter.get(),
        flow: FlowId {
            client: SocketAddr::new(client, raw.client_port.get()),
            vip: SocketAddr::new(vip, raw.vip_port.get()),
            c_isn: raw.c_isn.get(),
            s_isn: raw.s_isn.get(),
            source: raw.source.get(),
            source_incarnation: raw.source_incarnation.get(),
            number: raw.number.get(),
        },
    };
    let fields = read_fields(&payload[FIXED_LEN..len])?;
    Ok((header, fields, len))
}

fn read_fields(mut b: &[u8]) -> Result<Fields, BlockError> {
    let mut f = Fields::default();
    while !b.is_empty() {
        let (&[ty, n], rest) = b.split_first_chunk::<2>().ok_or(BlockError::Malformed)?;
        let value = rest.get(..n as usize).ok_or(BlockError::Malformed)?;
        match ty {
            FIELD_STATE => {
                let (s, _) = RawState::ref_from_prefix(value).map_err(|_| BlockError::Malformed)?;
                if s.client_shift > 14 || s.promised_shift > 14 {
                    return Err(BlockError::Malformed);
                }
                f.state = Some(SpliceState {
                    c_base: s.c_base.get(),
                    s_base: s.s_base.get(),
                    cut: s.cut.get(),
                    ts_max: s.ts_max.get(),
                    client_ack: s.client_ack.get(),
                    ts_recent: s.ts_recent.get(),
                    rtt_us: s.rtt_us.get(),
                    last_ack: s.last_ack.get(),
                    window: s.window.get(),
                    mss: s.mss.get(),
                    client_shift: s.client_shift,
                    promised_shift: s.promised_shift,
                    wscale: s.flags & F_WSCALE != 0,
                    sack: s.flags & F_SACK != 0,
                    timestamps: s.flags & F_TS != 0,
                    client_fin: s.flags & F_FIN != 0,
                    next_hop: s.next_hop,
                });
            }
            FIELD_REASON => {
                let &[r] = value else {
                    return Err(BlockError::Malformed);
                };
                f.reason = Some(Reason::from_u8(r).ok_or(BlockError::Malformed)?);
            }
            FIELD_REPLAY => {
                f.replay = Some(match value {
                    [1] => Replay::FastOpen,
                    [2] => Replay::Handshake,
                    _ => return Err(BlockError::Malformed),
                });
            }
            // A field of a later version: its length lets us pass over it.
            _ => {}
        }
        b = &rest[n as usize..];
    }
    Ok(f)
}

/// Which counters of one sender were seen: the newest, and the 1,024 below it.
///
/// A counter that was seen, or that lies too far below the newest, is a replay
/// (the anti-replay window of RFC 4303, section 3.4.3, made wider).
#[derive(Clone, Debug, Default)]
pub struct ReplayWindow {
    newest: u64,
    seen: [u64; 16],
}

impl ReplayWindow {
    /// Counters that the window spans.
    pub const SPAN: u64 = 1024;

    /// Takes `counter` (from 1 on); false when it is a replay or too old.
    pub fn accept(&mut self, counter: u64) -> bool {
        if counter == 0 {
            return false;
        }
        if counter > self.newest {
            let ahead = counter - self.newest;
            if ahead >= Self::SPAN {
                self.seen = [0; 16];
            } else {
                for c in self.newest + 1..=counter {
                    self.clear(c);
                }
            }
            self.newest = counter;
        } else if self.newest - counter >= Self::SPAN || self.get(counter) {
            return false;
        }
        self.set(counter);
        true
    }

    fn at(c: u64) -> (usize, u64) {
        (((c % Self::SPAN) / 64) as usize, 1 << (c % 64))
    }
    fn get(&self, c: u64) -> bool {
        let (w, b) = Self::at(c);
        self.seen[w] & b != 0
    }
    fn set(&mut self, c: u64) {
        let (w, b) = Self::at(c);
        self.seen[w] |= b;
    }
    fn clear(&mut self, c: u64) {
        let (w, b) = Self::at(c);
        self.seen[w] &= !b;
    }
}

/// Convenience for tests and tools: an IPv4 socket address.
pub fn v4(a: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from(a)), port)
}

#[cfg(test)]
#[path = "block_tests.rs"]
mod tests;
