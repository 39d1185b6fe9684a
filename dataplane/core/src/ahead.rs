//! A look at the frames of a burst before their turn, so that the memory which each
//! one needs is on its way when its turn comes.
//!
//! [`Shard::look`] reads the tuple of every frame of a burst, hashes it and asks for
//! its bucket; [`Shard::look_closer`] asks for its FCB. Both are hints: they decide
//! nothing, with one exception. A frame of which `look` says that nothing but its flow
//! decides ([`Ahead::plain`]), and whose flow `look_closer` knows not to be here, is
//! what most frames are at a node of a broadcast cluster: another node's. It ends there.

use crate::drops::Drop;
use crate::fcb::State;
use crate::frame::{Frame, Output, Port};
use crate::key::{Addr, FlowKey};
use crate::shard::Shard;
use crate::steer;
use crate::storm::Side;
use crate::time::Instant;
use crate::view::View;
use crate::wire::options::{Options, kind};
use crate::wire::tcp::{ACK, PSH, SYN, Segment};

/// What is known of a frame before its turn.
#[derive(Clone, Copy, Debug)]
pub struct Ahead {
    key: FlowKey,
    hash: u64,
    /// There are a key and a hash, and the flow is this worker's.
    known: bool,
    plain: bool,
    /// The lengths of its headers agree; it is an ACK, perhaps with PSH, and bears
    /// timestamps and SACK blocks at most.
    usual: bool,
}

impl Default for Ahead {
    fn default() -> Self {
        let zero = Addr([0; 16]);
        let key = FlowKey {
            client: zero,
            vip: zero,
            client_port: 0,
            port: 0,
        };
        Self {
            key,
            hash: 0,
            known: false,
            plain: false,
            usual: false,
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
}

/// Ethernet, IPv4 and TCP headers without options.
const FIXED: usize = 54;
/// The same with timestamps as all stacks write them (RFC 7323, appendix A).
const WITH_TIMESTAMPS: usize = FIXED + 12;

/// IPv4 without options and TCP, not a fragment.
#[inline]
fn is_tcp4(h: &[u8; FIXED]) -> bool {
    let kind = u32::from_be_bytes([h[12], h[13], h[14], h[23]]);
    kind == 0x0800_4506 && u16::from_be_bytes([h[20], h[21]]) & 0x3fff == 0
}

/// Its lengths agree, and it says nothing but ACK and PSH.
#[inline]
fn is_usual_tcp4(h: &[u8; FIXED], head: &[u8]) -> bool {
    let total = usize::from(u16::from_be_bytes([h[16], h[17]]));
    let header = usize::from(h[46] >> 4) * 4;
    header >= 20 && 20 + header <= total && 14 + total <= head.len() && h[47] & !PSH == ACK
}

/// Its lengths agree, and it bears no options but timestamps.
#[inline]
fn is_plain_tcp4(h: &[u8; FIXED], head: &[u8]) -> bool {
    let total = usize::from(u16::from_be_bytes([h[16], h[17]]));
    let header = usize::from(h[46] >> 4) * 4;
    let options = match header {
        20 => true,
        32 => {
            head.len() >= WITH_TIMESTAMPS
                && head[FIXED..FIXED + 4] == [kind::NOP, kind::NOP, kind::TIMESTAMPS, 10]
        }
        _ => false,
    };
    options && 20 + header <= total && 14 + total <= head.len() && h[47] & SYN == 0
}

impl Shard {
    /// Looks at a frame's `head` and asks for what its flow's bucket holds. `intact`
    /// says that no device has found its checksum wrong, and that no tag is to be taken
    /// off first.
    #[inline]
    pub fn look(&self, v: &View, port: Port, head: &[u8], intact: bool) -> Ahead {
        let mut a = Ahead::default();
        let Some(h) = head.first_chunk::<FIXED>().filter(|h| is_tcp4(h)) else {
            return a;
        };
        let at = |i: usize| Addr::v4([h[i], h[i + 1], h[i + 2], h[i + 3]]);
        let (src, dst) = (at(26), at(30));
        let sport = u16::from_be_bytes([h[34], h[35]]);
        let dport = u16::from_be_bytes([h[36], h[37]]);
        match port {
            Port::Wire => {
                a.key = FlowKey {
                    client: src,
                    vip: dst,
                    client_port: sport,
                    port: dport,
                };
                if v.service(&dst, dport).is_none() {
                    return a;
                }
                let strange = !intact || h[6..12] == v.wire_mac;
                a.plain = !strange && is_plain_tcp4(h, head);
                a.usual = !strange && is_usual_tcp4(h, head);
            }
            Port::WireHost => {
                let Some(service) = v.service_of_local(&src, sport) else {
                    return a;
                };
                a.key = FlowKey {
                    client: dst,
                    vip: src,
                    client_port: dport,
                    port: v.services[service].port,
                };
            }
            Port::Link | Port::LinkHost => return a,
        }
        if self.workers > 1 {
            let (client, port) = (&a.key.client, a.key.client_port);
            if steer::worker_of_client(v, client, port, self.workers) != self.worker {
                return a;
            }
        }
        a.known = true;
        a.hash = self.hash_key.slot(&a.key);
        self.table.prefetch(a.hash);
        a
    }

    /// Asks for the FCB of a frame that [`Self::look`] has seen. True when the frame
    /// is another node's and was counted as [`Drop::NoFlow`]: it has had its turn.
    #[inline]
    pub fn look_closer(&mut self, a: &Ahead) -> bool {
        if !a.known {
            return false;
        }
        match self.table.guess(a.hash) {
            Ok(slot) => {
                self.slots[slot as usize].prefetch();
                false
            }
            Err(certain) => {
                let ends = certain && a.plain;
                if ends {
                    self.drops.count(Drop::NoFlow);
                }
                ends
            }
        }
    }

    /// The way of most client segments of a served flow, in one piece: that of
    /// [`Shard::wire_in`] without the questions that [`Self::look`] has answered. Gives
    /// the frame back where it is not one.
    #[inline]
    pub(crate) fn usual_in<O: Output>(
        &mut self,
        v: &View,
        frame: O::Frame,
        now: Instant,
        out: &mut O,
    ) -> Option<O::Frame> {
        if !self.seen.usual {
            return Some(frame);
        }
        let Ok(slot) = self.table.guess(self.seen.hash) else {
            return Some(frame);
        };
        let f = &mut self.slots[slot as usize];
        if f.state != State::Served || !f.settled || f.challenged.is_some() {
            return Some(frame);
        }
        let head = frame.head();
        let Some(h) = head.first_chunk::<FIXED>() else {
            return Some(frame);
        };
        if f.key != self.seen.key || frame.len() != head.len() {
            return Some(frame);
        }
        let data = 34 + usize::from(h[46] >> 4) * 4;
        let opts = Options::parse(&head[FIXED..data]);
        if opts.others || opts.splice_kind {
            return Some(frame);
        }
        let u16_at = |i: usize| u16::from_be_bytes([h[i], h[i + 1]]);
        let u32_at = |i: usize| u32::from_be_bytes([h[i], h[i + 1], h[i + 2], h[i + 3]]);
        let s = Segment {
            sport: u16_at(34),
            dport: u16_at(36),
            seq: u32_at(38),
            ack: u32_at(42),
            flags: h[47],
            window: u16_at(48),
            opts,
            l4: 34,
            opts_at: FIXED,
            data,
            end: 14 + usize::from(u16_at(16)),
        };
        let next_hop = [h[6], h[7], h[8], h[9], h[10], h[11]];
        if f.storm.note(Side::Client, &s, now) {
            self.drop_frame(Drop::AckStorm);
            return None;
        }
        f.next_hop = next_hop;
        f.observe_client(&s, now);
        self.forward(v, slot, frame, &s, out);
        if self.slots[slot as usize].is_over() {
            self.check_end(v, slot, now, out);
        }
        None
    }

    /// The frame whose turn comes was seen as this.
    #[inline]
    pub fn expect(&mut self, a: &Ahead) {
        self.seen = *a;
    }

    /// The hash of a key, which is most often the expected one.
    #[inline]
    pub(crate) fn hash_of(&self, k: &FlowKey) -> u64 {
        if self.seen.known && self.seen.key == *k {
            self.seen.hash
        } else {
            self.hash_key.slot(k)
        }
    }
}
