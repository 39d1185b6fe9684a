//! A look at the frames of a burst before their turn, so that the memory which each
//! one needs is on its way when its turn comes.
//!
//! [`Shard::look`] reads the tuple of a frame, [`Shard::look_on`] hashes those of a whole
//! burst, [`Shard::look_closer`] asks the table for a flow, and [`Shard::ask_for`] for its
//! FCB. All are hints: they decide nothing, with one exception. A frame of which `look` says that
//! nothing but its flow decides ([`Ahead::plain`]), and whose flow `look_closer` knows not
//! to be here, is what most frames are at a node of a broadcast cluster: another node's.
//! It ends there.
//!
//! When its turn comes, [`Shard::ingress_seen`] takes the frame in one piece where it is
//! what most are of a served flow.

use crate::drops::Drop;
use crate::fcb::Fcb;
use crate::frame::Port;
use crate::key::{Addr, FlowKey};
use crate::lanes::LANES;
use crate::shard::Shard;
use crate::steer::Steer;
use crate::view::View;
use crate::wire::options::kind;
use crate::wire::tcp::{ACK, PSH, SYN};

/// What is known of a frame before its turn.
#[derive(Clone, Copy, Debug)]
pub struct Ahead {
    /// Client and VIP, IPv4, as they lie in memory one behind the other.
    addrs: u64,
    /// Client's port and service port, likewise.
    ports: u32,
    service: u16,
    /// There are a key and a hash, and the flow is this worker's.
    known: bool,
    plain: bool,
    /// The lengths of its headers agree; it is an ACK, perhaps with PSH, and bears no
    /// options but timestamps and SACK blocks.
    usual: bool,
    /// SACK blocks of a usual frame.
    blocks: u8,
    /// A slot that may be the flow's; [`NO_SLOT`] for none.
    slot: u32,
    hash: u64,
}

/// No slot at all.
const NO_SLOT: u32 = u32::MAX;

impl Default for Ahead {
    fn default() -> Self {
        Self {
            addrs: 0,
            ports: 0,
            service: 0,
            known: false,
            plain: false,
            usual: false,
            blocks: 0,
            slot: NO_SLOT,
            hash: 0,
        }
    }
}

impl Ahead {
    /// The frame is a segment of a flow that is this worker's.
    #[inline]
    pub fn is_mine(&self) -> bool {
        self.known
    }

    /// A whole segment to a service, not a SYN, with no option that is an offence:
    /// whether it is dropped is a question of its flow alone.
    #[inline]
    pub fn plain(&self) -> bool {
        self.plain
    }

    /// IPv4 without options; the lengths of the headers agree; an ACK, perhaps with PSH,
    /// and nothing else; no options but timestamps and SACK blocks behind them, aligned.
    #[inline]
    pub fn is_usual(&self) -> bool {
        self.usual
    }

    /// A slot that may be the flow's.
    #[inline]
    pub(crate) fn slot(&self) -> Option<u32> {
        (self.slot != NO_SLOT).then_some(self.slot)
    }

    /// The hash of the flow's key.
    #[inline]
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// SACK blocks of a usual frame, of which there are three at most.
    #[inline]
    pub(crate) fn blocks(&self) -> usize {
        self.blocks.into()
    }

    /// The frame is of this flow.
    #[inline]
    pub(crate) fn is_of(&self, f: &Fcb) -> bool {
        // An IPv4-mapped address, in two halves of which one is 0.
        let client = (self.addrs << 32 | 0xffff_0000).to_le_bytes();
        f.client.0[..8] == [0; 8]
            && f.client.0[8..] == client
            && f.client_port == self.client_port()
            && f.service == self.service
    }

    #[inline]
    fn client(&self) -> Addr {
        let [a, b, c, d, ..] = self.addrs.to_le_bytes();
        Addr::v4([a, b, c, d])
    }

    #[inline]
    fn client_port(&self) -> u16 {
        (self.ports as u16).swap_bytes()
    }

    #[inline]
    fn is(&self, k: &FlowKey) -> bool {
        let [.., a, b, c, d] = self.addrs.to_le_bytes();
        self.known
            && self.client() == k.client
            && Addr::v4([a, b, c, d]) == k.vip
            && self.client_port() == k.client_port
            && ((self.ports >> 16) as u16).swap_bytes() == k.port
    }
}

/// Ethernet, IPv4 and TCP headers without options.
pub(crate) const FIXED: usize = 54;

/// IPv4 without options and TCP, not a fragment.
#[inline]
fn is_tcp4(h: &[u8; FIXED]) -> bool {
    let kind = u32::from_be_bytes([h[12], h[13], h[14], h[23]]);
    kind == 0x0800_4506 && u16::from_be_bytes([h[20], h[21]]) & 0x3fff == 0
}

/// The lengths of its headers and of the frame agree.
#[inline]
fn lengths_agree(h: &[u8; FIXED], head: &[u8]) -> bool {
    let total = usize::from(u16_at(h, 16));
    let header = usize::from(h[46] >> 4) * 4;
    header >= 20 && 20 + header <= total && 14 + total <= head.len()
}

/// Bytes of headers with timestamps.
pub(crate) const WITH_TS: usize = FIXED + 12;

/// The number of SACK blocks in the options of a frame whose lengths agree, where it bears
/// none others but timestamps before them, aligned (RFC 7323, appendix A).
#[inline(always)]
fn usual_options(h: &[u8; FIXED], head: &[u8]) -> Option<u8> {
    let header = usize::from(h[46] >> 4) * 4;
    if header == 20 {
        return Some(0);
    }
    let ts = head.get(FIXED..)?.first_chunk::<4>()?;
    if header < 32 || *ts != [kind::NOP, kind::NOP, kind::TIMESTAMPS, 10] {
        return None;
    }
    if header == 32 {
        return Some(0);
    }
    // One to three blocks, two NOPs before them.
    let blocks = header.checked_sub(36)? / 8;
    let sack = head.get(WITH_TS..)?.first_chunk::<4>()?;
    let right = [kind::NOP, kind::NOP, kind::SACK, 2 + 8 * blocks as u8];
    (header == 36 + 8 * blocks && blocks > 0 && *sack == right).then_some(blocks as u8)
}

impl Shard {
    /// Reads the tuple of a frame with this `head`. `intact` says that no device has found
    /// its checksum wrong, and that no tag is to be taken off first.
    #[inline]
    pub fn look(&self, v: &View, port: Port, head: &[u8], intact: bool) -> Ahead {
        let mut a = Ahead::default();
        let Some(h) = head.first_chunk::<FIXED>().filter(|h| is_tcp4(h)) else {
            return a;
        };
        let at = |i: usize| Addr::v4([h[i], h[i + 1], h[i + 2], h[i + 3]]);
        let (sport, dport) = (u16_at(h, 34), u16_at(h, 36));
        let mut addrs = [0; 8];
        addrs.copy_from_slice(&h[26..34]);
        let addrs = u64::from_le_bytes(addrs);
        match port {
            Port::Wire => {
                let Some(service) = v.service(&at(30), dport) else {
                    return a;
                };
                a.service = service as u16;
                a.addrs = addrs;
                a.ports = u32::from_le_bytes([h[34], h[35], h[36], h[37]]);
                let strange = !intact || h[6..12] == v.wire_mac;
                if !strange
                    && lengths_agree(h, head)
                    && let Some(blocks) = usual_options(h, head)
                {
                    a.plain = h[47] & SYN == 0;
                    a.usual = h[47] & !PSH == ACK;
                    a.blocks = blocks;
                }
            }
            Port::WireHost => {
                let Some(service) = v.service_of_local(&at(26), sport) else {
                    return a;
                };
                a.service = service as u16;
                a.addrs = addrs.rotate_left(32);
                let [p, q] = v.services[service].port.to_be_bytes();
                a.ports = u32::from_le_bytes([h[36], h[37], p, q]);
                if intact
                    && lengths_agree(h, head)
                    && let Some(blocks) = usual_options(h, head)
                {
                    a.usual = h[47] & !PSH == ACK;
                    a.blocks = blocks;
                }
            }
            Port::Link | Port::LinkHost => return a,
        }
        a.known = true;
        a
    }

    /// Hashes what [`Self::look`] has seen of a burst, and asks for what is known of these
    /// flows.
    #[inline]
    pub fn look_on(&self, v: &View, burst: &mut [Ahead]) {
        let (chunks, rest) = burst.as_chunks_mut::<LANES>();
        for chunk in chunks {
            self.look_on_lanes(v, chunk);
        }
        if !rest.is_empty() {
            let mut lanes = [Ahead::default(); LANES];
            lanes[..rest.len()].copy_from_slice(rest);
            self.look_on_lanes(v, &mut lanes);
            let n = rest.len();
            rest.copy_from_slice(&lanes[..n]);
        }
    }

    #[inline]
    fn look_on_lanes(&self, v: &View, lanes: &mut [Ahead; LANES]) {
        if self.workers > 1 {
            for a in lanes.iter_mut() {
                // Both are as they lie in the frame.
                let (client, port) = ((a.addrs as u32).swap_bytes(), (a.ports as u16).swap_bytes());
                let value = v.steer.client_v4(client, port);
                a.known &= Steer::part(value, self.workers) == self.worker;
            }
        }
        let first = lanes.each_ref().map(|a| a.addrs);
        let hashes = self
            .hash_key
            .of_12(&first, &lanes.each_ref().map(|a| a.ports));
        for (a, hash) in lanes.iter_mut().zip(hashes) {
            a.hash = hash;
            self.table.prefetch(hash);
        }
    }

    /// Finds the slot of a frame that [`Self::look_on`] has seen. True when the frame is another
    /// node's and was counted as [`Drop::NoFlow`]: it has had its turn.
    #[inline]
    pub fn look_closer(&mut self, a: &mut Ahead) -> bool {
        if !a.known {
            return false;
        }
        if let Some(slot) = self.table.guess(a.hash) {
            a.slot = slot;
            return false;
        }
        if a.plain {
            self.drops.count(Drop::NoFlow);
        }
        a.plain
    }

    /// Asks for the FCB of a frame that [`Self::look_closer`] has left.
    #[inline]
    pub fn ask_for(&self, a: &Ahead) {
        if let Some(f) = self.slots.get(a.slot as usize) {
            f.prefetch();
        }
    }

    /// The frame whose turn comes was seen as this.
    #[inline]
    pub(crate) fn expect(&mut self, a: &Ahead) {
        self.seen = *a;
    }

    /// The hash of a key, which is most often the expected one.
    #[inline]
    pub(crate) fn hash_of(&self, k: &FlowKey) -> u64 {
        if self.seen.is(k) {
            self.seen.hash
        } else {
            self.hash_key.slot(k)
        }
    }
}

#[inline]
fn u16_at(h: &[u8; FIXED], i: usize) -> u16 {
    u16::from_be_bytes([h[i], h[i + 1]])
}
