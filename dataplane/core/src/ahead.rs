//! A look at the frames of a burst before their turn, so that the memory which each
//! one needs is on its way when its turn comes.
//!
//! [`Looked::read`] reads the tuples of a burst, [`Shard::look`] hashes them and finds their
//! slots, and [`Shard::ask_for`] asks for an FCB. All are hints: they decide nothing, with
//! one exception. A frame of which nothing but its flow decides whether it is dropped, and
//! whose flow is known not to be here, is what most frames are at a node of a broadcast
//! cluster: another node's. It ends there, but for a few that may be an orphan's.
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

/// Frames of a burst, at most.
pub const BURST: usize = 64;

/// There are a key and a hash, and the flow is this worker's.
const KNOWN: u8 = 1;
/// A whole segment to a service, not a SYN, with no option that is an offence: whether it
/// is dropped is a question of its flow alone.
const PLAIN: u8 = 2;
/// IPv4 without options; the lengths of the headers agree; an ACK, perhaps with PSH, and
/// nothing else; no options but timestamps and SACK blocks behind them, aligned.
const USUAL: u8 = 4;

/// No slot at all.
const NO_SLOT: u32 = u32::MAX;

/// What is known of a frame beside its tuple.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// A slot that may be the flow's; [`NO_SLOT`] for none.
    slot: u32,
    service: u16,
    /// [`KNOWN`], [`PLAIN`], [`USUAL`].
    kind: u8,
    /// SACK blocks of a usual frame.
    blocks: u8,
}

impl Mark {
    const NONE: Self = Self {
        slot: NO_SLOT,
        service: 0,
        kind: 0,
        blocks: 0,
    };
}

/// The service of the last frame: the next one is most often for it too.
struct Last {
    /// Address and port as they lie in the frame.
    at: u64,
    service: u16,
    /// The service port as it lies in a frame.
    port: u16,
}

impl Last {
    const NONE: Self = Self {
        at: u64::MAX,
        service: 0,
        port: 0,
    };

    /// It is the service at this address and port, or becomes it; false where there is none.
    #[inline(always)]
    fn is(&mut self, v: &View, at: u64, find: impl FnOnce(&Addr, u16) -> Option<usize>) -> bool {
        if self.at == at {
            return true;
        }
        let [a, b, c, d, p, q, ..] = at.to_le_bytes();
        let found = find(&Addr::v4([a, b, c, d]), u16::from_be_bytes([p, q]));
        if let Some(service) = found {
            *self = Self {
                at,
                service: service as u16,
                port: v.services[service].port.to_be(),
            };
        }
        found.is_some()
    }
}

/// A burst as it was seen before its turn. What is hashed lies side by side.
#[derive(Debug)]
pub struct Looked {
    len: usize,
    /// Client and VIP, IPv4, as they lie in memory one behind the other.
    addrs: [u64; BURST],
    /// Client's port and service port, likewise.
    ports: [u32; BURST],
    hashes: [u64; BURST],
    marks: [Mark; BURST],
}

impl Default for Looked {
    fn default() -> Self {
        Self {
            len: 0,
            addrs: [0; BURST],
            ports: [0; BURST],
            hashes: [0; BURST],
            marks: [Mark::NONE; BURST],
        }
    }
}

/// What is known of a frame before its turn.
#[derive(Clone, Copy, Debug)]
pub struct Ahead {
    addrs: u64,
    ports: u32,
    hash: u64,
    mark: Mark,
}

impl Default for Ahead {
    fn default() -> Self {
        Self {
            addrs: 0,
            ports: 0,
            hash: 0,
            mark: Mark::NONE,
        }
    }
}

impl Ahead {
    /// The frame is a segment of a flow that is this worker's.
    #[inline]
    pub fn is_mine(&self) -> bool {
        self.mark.kind & KNOWN != 0
    }

    /// IPv4 without options; the lengths of the headers agree; an ACK, perhaps with PSH,
    /// and nothing else; no options but timestamps and SACK blocks behind them, aligned.
    #[inline]
    pub fn is_usual(&self) -> bool {
        self.mark.kind & USUAL != 0
    }

    /// A slot that may be the flow's.
    #[inline]
    pub(crate) fn slot(&self) -> Option<u32> {
        (self.mark.slot != NO_SLOT).then_some(self.mark.slot)
    }

    /// SACK blocks of a usual frame, of which there are three at most.
    #[inline]
    pub(crate) fn blocks(&self) -> usize {
        self.mark.blocks.into()
    }

    /// The frame is of this flow.
    #[inline]
    pub(crate) fn is_of(&self, f: &Fcb) -> bool {
        // An IPv4-mapped address, in two halves of which one is 0.
        let client = (self.addrs << 32 | 0xffff_0000).to_le_bytes();
        f.client.0[..8] == [0; 8]
            && f.client.0[8..] == client
            && f.client_port == self.client_port()
            && f.service == self.mark.service
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
        self.is_mine()
            && self.client() == k.client
            && Addr::v4([a, b, c, d]) == k.vip
            && self.client_port() == k.client_port
            && ((self.ports >> 16) as u16).swap_bytes() == k.port
    }
}

/// Ethernet, IPv4 and TCP headers without options.
pub(crate) const FIXED: usize = 54;

/// The bytes from `i` on as they lie in memory.
#[inline(always)]
fn raw<const N: usize>(h: &[u8; FIXED], i: usize) -> u64 {
    let mut b = [0; 8];
    b[..N].copy_from_slice(&h[i..i + N]);
    u64::from_le_bytes(b)
}

/// IPv4 without options and TCP, not a fragment.
#[inline(always)]
fn is_tcp4(h: &[u8; FIXED]) -> bool {
    // EtherType, version and header length; behind them of fragment and protocol all but
    // "don't fragment" and the TTL.
    const KIND: u64 = u64::from_le_bytes([8, 0, 0x45, 0, 0, 0, 0, 0]);
    let kind = raw::<4>(h, 12) & 0x00ff_ffff ^ KIND;
    let whole = raw::<4>(h, 20) & 0xff00_ff3f ^ 0x0600_0000;
    kind | whole == 0
}

/// The lengths of its headers and of the frame agree.
#[inline(always)]
fn lengths_agree(h: &[u8; FIXED], head: &[u8]) -> bool {
    let total = usize::from((raw::<2>(h, 16) as u16).swap_bytes());
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

impl Looked {
    /// What is known of the `i`-th frame.
    #[inline(always)]
    pub fn ahead(&self, i: usize) -> Ahead {
        Ahead {
            addrs: self.addrs[i],
            ports: self.ports[i],
            hash: self.hashes[i],
            mark: self.marks[i],
        }
    }

    /// Reads the tuples of frames that came in by `port`, [`BURST`] of them at most, and
    /// forgets those before. Of each frame there is its head, and whether it is intact: no
    /// device has found its checksum wrong, and no tag is to be taken off first.
    #[inline(always)]
    pub fn read<'a>(
        &mut self,
        v: &View,
        port: Port,
        frames: impl Iterator<Item = (&'a [u8], bool)>,
    ) {
        let marks = self.marks.iter_mut();
        let tuples = marks.zip(&mut self.addrs).zip(&mut self.ports);
        // Another view may have other services.
        let (mut len, mut last) = (0, Last::NONE);
        for (((mark, addrs), ports), (head, intact)) in tuples.zip(frames) {
            len += 1;
            *mark = Mark::NONE;
            let Some(h) = head.first_chunk::<FIXED>().filter(|h| is_tcp4(h)) else {
                continue;
            };
            if port == Port::Wire {
                let at = raw::<4>(h, 30) | raw::<2>(h, 36) << 32;
                if !last.is(v, at, |vip, port| v.service(vip, port)) {
                    continue;
                }
                (*addrs, *ports) = (raw::<8>(h, 26), raw::<4>(h, 34) as u32);
            } else if port == Port::WireHost {
                let at = raw::<4>(h, 26) | raw::<2>(h, 34) << 32;
                if !last.is(v, at, |vip, port| v.service_of_local(vip, port)) {
                    continue;
                }
                *addrs = raw::<8>(h, 26).rotate_left(32);
                *ports = raw::<2>(h, 36) as u32 | u32::from(last.port) << 16;
            } else {
                continue;
            }
            (mark.service, mark.kind) = (last.service, KNOWN);
            let echo = port == Port::Wire && h[6..12] == v.wire_mac;
            if intact
                && !echo
                && lengths_agree(h, head)
                && let Some(blocks) = usual_options(h, head)
            {
                let plain = port == Port::Wire && h[47] & SYN == 0;
                let usual = h[47] & !PSH == ACK;
                mark.kind |= (u8::from(plain) * PLAIN) | (u8::from(usual) * USUAL);
                mark.blocks = blocks;
            }
        }
        self.len = len;
    }
}

impl Shard {
    /// Finds the slots of a burst's frames. Those whose bits are set in the answer are other
    /// nodes' and were counted as [`Drop::NoFlow`]: they have had their turn.
    #[inline]
    pub fn look(&mut self, v: &View, l: &mut Looked) -> u64 {
        let lanes = l.addrs.as_chunks::<LANES>().0.iter();
        let lanes = lanes.zip(l.ports.as_chunks::<LANES>().0);
        let lanes = lanes.zip(l.hashes.as_chunks_mut::<LANES>().0);
        for ((addrs, ports), hashes) in lanes.take(l.len.div_ceil(LANES)) {
            *hashes = self.hash_key.of_12(addrs, ports);
            hashes.iter().for_each(|&hash| self.table.prefetch(hash));
        }
        if self.workers > 1 {
            self.forget_others(v, l);
        }
        let mut gone = 0;
        // Some of the unknown ones have a turn: one may be an orphan's.
        let mut spared = self.orphans.looks();
        let each = l.marks[..l.len].iter_mut().zip(&l.hashes).enumerate();
        for (i, (mark, hash)) in each {
            if mark.kind & KNOWN == 0 {
                continue;
            }
            match self.table.guess(*hash) {
                Some(slot) => mark.slot = slot,
                None if spared > 0 => spared -= 1,
                None => gone |= u64::from(mark.kind & PLAIN != 0) << i,
            }
        }
        self.drops.add(Drop::NoFlow, u64::from(gone.count_ones()));
        gone
    }

    /// Takes out what other workers have to find.
    fn forget_others(&self, v: &View, l: &mut Looked) {
        let tuples = l.addrs.iter().zip(&l.ports);
        for (mark, (addrs, ports)) in l.marks[..l.len].iter_mut().zip(tuples) {
            // Both are as they lie in the frame.
            let (client, port) = ((*addrs as u32).swap_bytes(), (*ports as u16).swap_bytes());
            let value = v.steer.client_v4(client, port);
            if Steer::part(value, self.workers) != self.worker {
                mark.kind &= !KNOWN;
            }
        }
    }

    /// Asks for the FCB of a frame that [`Self::look`] has left.
    #[inline(always)]
    pub fn ask_for(&self, l: &Looked, i: usize) {
        if let Some(f) = self.slots.get(l.marks[i].slot as usize) {
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
