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
use crate::table::Places;
use crate::view::View;
use crate::wire::options::kind;
use crate::wire::tcp::{ACK, PSH, SYN};

/// Frames of a burst, at most.
pub const BURST: usize = 64;

/// A burst as it was seen before its turn. What is asked of all frames lies side by side, and
/// what is true of some is a bit of each.
#[derive(Debug)]
pub struct Looked {
    len: usize,
    /// There are a key and a hash, and the flow is this worker's.
    known: u64,
    /// A whole segment to a service, not a SYN, with no option that is an offence: whether it
    /// is dropped is a question of its flow alone.
    plain: u64,
    /// IPv4 without options; the lengths of the headers agree; an ACK, perhaps with PSH, and
    /// nothing else; no options but timestamps and SACK blocks behind them, aligned.
    usual: u64,
    /// Client and VIP, IPv4, as they lie in memory one behind the other.
    addrs: [u64; BURST],
    /// Client's port and service port, likewise.
    ports: [u32; BURST],
    hashes: [u64; BURST],
    places: Places,
    services: [u16; BURST],
    /// SACK blocks of a usual frame.
    blocks: [u8; BURST],
}

impl Default for Looked {
    fn default() -> Self {
        Self {
            len: 0,
            known: 0,
            plain: 0,
            usual: 0,
            addrs: [0; BURST],
            ports: [0; BURST],
            hashes: [0; BURST],
            places: Places::default(),
            services: [0; BURST],
            blocks: [0; BURST],
        }
    }
}

/// What segments of one service have in common between the EtherType and the ports: IPv4
/// without options and TCP, not a fragment, and the service's own address and port.
struct Alike {
    mask: [u64; 4],
    /// With a bit that `mask` has not where nothing is like it.
    want: [u64; 4],
    service: u16,
    /// The service port as it lies in a frame.
    port: u16,
}

impl Alike {
    /// Where it begins in a frame.
    const AT: usize = 12;

    const NOTHING: Self = Self {
        mask: [0; 4],
        want: [1; 4],
        service: 0,
        port: 0,
    };

    #[inline(always)]
    fn is(&self, h: &[u8; FIXED]) -> bool {
        let differs = |i| raw::<8>(h, Self::AT + 8 * i) & self.mask[i] ^ self.want[i];
        differs(0) | differs(1) | differs(2) | differs(3) == 0
    }

    /// Becomes what this frame is like; false where it is no segment of a service.
    #[cold]
    fn learn(&mut self, v: &View, port: Port, h: &[u8; FIXED]) -> bool {
        // EtherType, version and header length; of fragment, TTL and protocol all but "don't
        // fragment" and the TTL.
        let mut mask = [0_u8; 32];
        mask[..3].fill(0xff);
        mask[8..12].copy_from_slice(&[0x3f, 0xff, 0, 0xff]);
        let (addr, at) = match port {
            Port::Wire => (30, 36),
            Port::WireHost => (26, 34),
            Port::Link | Port::LinkHost => return false,
        };
        let vip = Addr::v4([h[addr], h[addr + 1], h[addr + 2], h[addr + 3]]);
        let number = u16::from_be_bytes([h[at], h[at + 1]]);
        let found = match port {
            Port::Wire => v.service(&vip, number),
            _ => v.service_of_local(&vip, number),
        };
        let Some(service) = found.filter(|_| is_tcp4(h)) else {
            return false;
        };
        mask[addr - Self::AT..][..4].fill(0xff);
        mask[at - Self::AT..][..2].fill(0xff);
        for (i, mask) in mask.as_chunks::<8>().0.iter().enumerate() {
            self.mask[i] = u64::from_le_bytes(*mask);
            self.want[i] = raw::<8>(h, Self::AT + 8 * i) & self.mask[i];
        }
        self.service = service as u16;
        self.port = v.services[service].port.to_be();
        true
    }
}

/// What is known of a frame before its turn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ahead {
    addrs: u64,
    ports: u32,
    slot: Option<u32>,
    hash: u64,
    service: u16,
    blocks: u8,
    known: bool,
    usual: bool,
}

impl Ahead {
    /// The frame is a segment of a flow that is this worker's.
    #[inline]
    pub fn is_mine(&self) -> bool {
        self.known
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
        self.slot
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
        let [a, b, c, d, e, f_, g, h, i @ ..] = f.client.0;
        let low = u64::from_le_bytes([a, b, c, d, e, f_, g, h]);
        let other = u64::from_le_bytes(i) ^ (self.addrs << 32 | 0xffff_0000);
        let ports = f.client_port ^ self.client_port() | f.service ^ self.service;
        low | other | u64::from(ports) == 0
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

/// Bytes of headers with timestamps.
const WITH_TS: usize = FIXED + 12;

/// The number of SACK blocks in the options of a frame whose lengths agree, where it bears
/// none others but timestamps before them, aligned (RFC 7323, appendix A).
#[inline(always)]
fn usual_options(header: usize, head: &[u8]) -> Option<u8> {
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

/// What [`Looked`] has as bits of all frames, as bits of one.
const KNOWN: u8 = 1;
const PLAIN: u8 = 2;
const USUAL: u8 = 4;

/// Which of the bytes have the bit `kind`: the i-th is bit i.
#[inline(always)]
fn bits(kinds: &[u8; BURST], kind: u8) -> u64 {
    const LOWEST: u64 = u64::MAX / 0xff;
    // Bit 8 i comes to lie at 56 + i.
    const GATHER: u64 = 0x0102_0408_1020_4080;
    let eights = kinds.as_chunks::<8>().0.iter().enumerate();
    eights.fold(0, |all, (i, eight)| {
        let each = u64::from_le_bytes(*eight) >> kind.trailing_zeros() & LOWEST;
        all | each.wrapping_mul(GATHER) >> 56 << (8 * i)
    })
}

/// The lowest of these bits, which is then no longer one of them.
#[inline(always)]
pub fn lowest(bits: &mut u64) -> Option<usize> {
    let lowest = bits.trailing_zeros();
    *bits &= bits.wrapping_sub(1);
    (lowest < u64::BITS).then_some(lowest as usize)
}

impl Looked {
    /// What is known of the `i`-th frame.
    #[inline(always)]
    pub fn ahead(&self, i: usize) -> Ahead {
        Ahead {
            addrs: self.addrs[i],
            ports: self.ports[i],
            slot: self.places.slot(i),
            hash: self.hashes[i],
            service: self.services[i],
            blocks: self.blocks[i],
            known: self.known >> i & 1 != 0,
            usual: self.usual >> i & 1 != 0,
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
        (self.known, self.plain, self.usual) = (0, 0, 0);
        self.len = match port {
            Port::Wire => self.read_some::<true>(v, frames),
            Port::WireHost => self.read_some::<false>(v, frames),
            Port::Link | Port::LinkHost => frames.take(BURST).count(),
        };
    }

    /// Reads frames from the wire, or from the own stack. Returns how many.
    #[inline(always)]
    fn read_some<'a, const WIRE: bool>(
        &mut self,
        v: &View,
        frames: impl Iterator<Item = (&'a [u8], bool)>,
    ) -> usize {
        let port = if WIRE { Port::Wire } else { Port::WireHost };
        let [a, b, c, d, e, f] = v.wire_mac;
        let wire_mac = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
        // Another view may have other services.
        let mut alike = Alike::NOTHING;
        // Bytes side by side: bits in registers would make each frame wait for the one before.
        let mut kinds = [0_u8; BURST];
        let tuples = self.addrs.iter_mut().zip(&mut self.ports);
        let rest = self.services.iter_mut().zip(&mut self.blocks);
        let rest = rest.zip(&mut kinds);
        let mut len = 0;
        for (((addrs, ports), ((service, blocks), kind)), (head, intact)) in
            tuples.zip(rest).zip(frames)
        {
            len += 1;
            let Some(h) = head.first_chunk::<FIXED>() else {
                continue;
            };
            if !alike.is(h) && !alike.learn(v, port, h) {
                continue;
            }
            if WIRE {
                (*addrs, *ports) = (raw::<8>(h, 26), raw::<4>(h, 34) as u32);
            } else {
                *addrs = raw::<8>(h, 26).rotate_left(32);
                *ports = raw::<2>(h, 36) as u32 | u32::from(alike.port) << 16;
            }
            (*service, *kind) = (alike.service, KNOWN);
            let header = usize::from(h[46] >> 4) * 4;
            let total = usize::from((raw::<2>(h, 16) as u16).swap_bytes());
            // The lengths of the headers and of the frame agree, and it is no echo.
            let whole = (header >= 20)
                & (20 + header <= total)
                & (14 + total <= head.len())
                & (intact & !(WIRE & (raw::<8>(h, 4) >> 16 == wire_mac)));
            if whole && let Some(n) = usual_options(header, head) {
                *blocks = n;
                let plain = u8::from(WIRE & (h[47] & SYN == 0)) * PLAIN;
                *kind = KNOWN | plain | (u8::from(h[47] & !PSH == ACK) * USUAL);
            }
        }
        self.known = bits(&kinds, KNOWN);
        self.plain = bits(&kinds, PLAIN);
        self.usual = bits(&kinds, USUAL);
        len
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
        for (at, ((addrs, ports), hashes)) in lanes.take(l.len.div_ceil(LANES)).enumerate() {
            *hashes = self.hash_key.of_12(addrs, ports);
            self.table.ask(&mut l.places, at * LANES, hashes);
        }
        if self.workers > 1 {
            self.forget_others(v, l);
        }
        let found = self.table.guesses(&mut l.places, &l.hashes, l.known);
        let mut gone = l.known & !found;
        // Some of the unknown ones have a turn: one may be an orphan's.
        let mut spared = self.orphans.looks();
        while spared > 0 && lowest(&mut gone).is_some() {
            spared -= 1;
        }
        gone &= l.plain;
        self.drops.add(Drop::NoFlow, u64::from(gone.count_ones()));
        gone
    }

    /// Takes out what other workers have to find.
    fn forget_others(&self, v: &View, l: &mut Looked) {
        let tuples = l.addrs.iter().zip(&l.ports);
        for (i, (addrs, ports)) in tuples.enumerate().take(l.len) {
            // Both are as they lie in the frame.
            let (client, port) = ((*addrs as u32).swap_bytes(), (*ports as u16).swap_bytes());
            let value = v.steer.client_v4(client, port);
            if Steer::part(value, self.workers) != self.worker {
                l.known &= !(1 << i);
            }
        }
        (l.plain, l.usual) = (l.plain & l.known, l.usual & l.known);
    }

    /// Asks for the FCB of a frame that [`Self::look`] has left.
    #[inline(always)]
    pub fn ask_for(&self, l: &Looked, i: usize) {
        if l.known >> i & 1 != 0
            && let Some(slot) = l.places.slot(i)
            && let Some(f) = self.slots.get(slot as usize)
        {
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
