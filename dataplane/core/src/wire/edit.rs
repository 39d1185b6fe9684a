//! Rewriting a TCP segment in place, its checksum by differences only.

use super::checksum::Delta;
use super::options::kind;
use super::tcp::{Segment, URG};
use super::{ETH_LEN, checksum, ipv6};
use crate::frame::Frame;
use crate::mutation::{Mutation, broken};

/// An open change of one segment; [`Edit::finish`] writes the checksum.
pub struct Edit<'a> {
    frame: &'a mut [u8],
    l4: usize,
    delta: Delta,
    /// The field covers the pseudo-header alone, of which nothing here changes.
    partial: bool,
}

impl<'a> Edit<'a> {
    /// Opens the segment at `l4` of `frame`, which has been parsed.
    #[inline]
    pub fn new(frame: &'a mut [u8], l4: usize) -> Self {
        Self {
            frame,
            l4,
            delta: Delta::default(),
            partial: false,
        }
    }

    /// Opens the segment at `l4` of a frame's head, and leaves its checksum alone
    /// where that is partial.
    #[inline]
    pub fn of<F: Frame>(frame: &'a mut F, l4: usize) -> Self {
        let partial = frame.is_partial();
        Self {
            partial,
            ..Self::new(frame.head_mut(), l4)
        }
    }

    #[inline]
    fn put(&mut self, at: usize, new: &[u8]) {
        let at = self.l4 + at;
        let old = &mut self.frame[at..at + new.len()];
        self.delta.replace(at - self.l4, old, new);
        old.copy_from_slice(new);
    }

    #[inline]
    fn put_u16(&mut self, at: usize, new: u16) {
        let Some(field) = self.frame[self.l4 + at..].first_chunk_mut::<2>() else {
            return;
        };
        self.delta.word(u16::from_be_bytes(*field), new);
        *field = new.to_be_bytes();
    }

    #[inline]
    fn put_u32(&mut self, at: usize, new: u32) {
        let Some(field) = self.frame[self.l4 + at..].first_chunk_mut::<4>() else {
            return;
        };
        self.delta.long(at, u32::from_be_bytes(*field), new);
        *field = new.to_be_bytes();
    }

    /// Source port.
    #[inline]
    pub fn sport(&mut self, v: u16) -> &mut Self {
        self.put_u16(0, v);
        self
    }
    /// Destination port.
    #[inline]
    pub fn dport(&mut self, v: u16) -> &mut Self {
        self.put_u16(2, v);
        self
    }
    /// Sequence number.
    #[inline]
    pub fn seq(&mut self, v: u32) -> &mut Self {
        self.put_u32(4, v);
        self
    }
    /// Acknowledgement number.
    #[inline]
    pub fn ack(&mut self, v: u32) -> &mut Self {
        self.put_u32(8, v);
        self
    }
    /// Flags.
    #[inline]
    pub fn flags(&mut self, v: u8) -> &mut Self {
        self.put(13, &[v]);
        self
    }
    /// Clears the AE bit beside the header length (RFC 9768).
    #[inline]
    pub fn clear_ae(&mut self) -> &mut Self {
        let v = self.frame[self.l4 + 12] & !1;
        self.put(12, &[v]);
        self
    }
    /// Window field.
    #[inline]
    pub fn window(&mut self, v: u16) -> &mut Self {
        self.put_u16(14, v);
        self
    }
    /// Four bytes of an option, `at` counted from the start of the options.
    #[inline]
    pub fn option_u32(&mut self, at: usize, v: u32) -> &mut Self {
        self.put_u32(20 + at, v);
        self
    }
    /// One byte of an option.
    #[inline]
    pub fn option_u8(&mut self, at: usize, v: u8) -> &mut Self {
        self.put(20 + at, &[v]);
        self
    }

    /// Four bytes of an option as they stand now.
    #[inline]
    pub fn peek_option_u32(&self, at: usize) -> u32 {
        let at = self.l4 + 20 + at;
        u32::from_be_bytes([
            self.frame[at],
            self.frame[at + 1],
            self.frame[at + 2],
            self.frame[at + 3],
        ])
    }

    /// Writes the checksum.
    #[inline]
    pub fn finish(&mut self) {
        if self.partial {
            return;
        }
        let at = self.l4 + 16;
        let old = u16::from_be_bytes([self.frame[at], self.frame[at + 1]]);
        let new = std::mem::take(&mut self.delta).apply(old);
        self.frame[at..at + 2].copy_from_slice(&new.to_be_bytes());
    }
}

/// Overwrites every option but MSS, window scale, SACK-permitted and timestamps
/// with NOPs; one of these kinds with another kind's length goes too.
pub fn strip_options(frame: &mut [u8], s: &Segment) {
    let opts: Vec<(usize, usize)> = foreign_options(&frame[s.opts_at..s.data]).collect();
    let mut e = Edit::new(frame, s.l4);
    for (at, len) in opts {
        for i in at..at + len {
            e.option_u8(i, kind::NOP);
        }
    }
    e.finish();
}

fn foreign_options(o: &[u8]) -> impl Iterator<Item = (usize, usize)> + '_ {
    let mut i = 0;
    std::iter::from_fn(move || {
        while i < o.len() {
            match o[i] {
                kind::END => return None,
                kind::NOP => i += 1,
                k => {
                    let at = i;
                    let len = o.get(i + 1).map_or(0, |&l| usize::from(l));
                    if len < 2 || i + len > o.len() {
                        // A malformed tail: nothing behind it is read by anyone.
                        i = o.len();
                        return Some((at, o.len() - at));
                    }
                    i += len;
                    if !matches!(
                        (k, len),
                        (kind::MSS, 4)
                            | (kind::WSCALE, 3)
                            | (kind::SACK_PERMITTED, 2)
                            | (kind::TIMESTAMPS, 10)
                    ) {
                        return Some((at, len));
                    }
                }
            }
        }
        None
    })
}

/// Cuts the payload of a TCP frame: `front` bytes are removed at its beginning
/// (the sequence number moves with them) and at most `keep` of the rest stay.
/// Returns the new frame length. Both checksums are recomputed.
pub fn cut_payload(frame: &mut [u8], s: &Segment, front: usize, keep: usize) -> usize {
    let len = s.len();
    let front = front.min(len);
    let keep = keep.min(len - front);
    frame.copy_within(s.data + front..s.data + front + keep, s.data);
    let end = s.data + keep;
    let seq = s.seq.wrapping_add(front as u32);
    frame[s.l4 + 4..s.l4 + 8].copy_from_slice(&seq.to_be_bytes());
    if s.has(URG) {
        // It counts from the sequence number (RFC 9293, section 3.8.5).
        let at = s.l4 + 18;
        let urgent = usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
        let moved = if broken(Mutation::UrgentUnmoved) {
            0
        } else {
            front
        };
        let left = urgent.saturating_sub(moved) as u16;
        frame[at..at + 2].copy_from_slice(&left.to_be_bytes());
        if left == 0 {
            frame[s.l4 + 13] &= !URG;
        }
    }
    set_ip_len(frame, end - ETH_LEN);
    write_tcp_checksum(frame, s.l4, end);
    end
}

/// Whether the IP header of a parsed frame is IPv6's.
#[inline]
fn is_v6(frame: &[u8]) -> bool {
    frame[ETH_LEN] >> 4 == 6
}

/// Writes the length of the datagram, its IP header included: IPv6's payload
/// length, or IPv4's total length and header checksum.
pub fn set_ip_len(frame: &mut [u8], total: usize) {
    if is_v6(frame) {
        let len = (total - ipv6::HEADER_LEN) as u16;
        frame[ETH_LEN + 4..ETH_LEN + 6].copy_from_slice(&len.to_be_bytes());
        return;
    }
    frame[ETH_LEN + 2..ETH_LEN + 4].copy_from_slice(&(total as u16).to_be_bytes());
    frame[ETH_LEN + 10..ETH_LEN + 12].fill(0);
    let ihl = usize::from(frame[ETH_LEN] & 0xf) * 4;
    let c = !checksum::fold(checksum::sum(&frame[ETH_LEN..ETH_LEN + ihl]));
    frame[ETH_LEN + 10..ETH_LEN + 12].copy_from_slice(&c.to_be_bytes());
}

/// Computes and writes the TCP checksum of the segment at `l4..end`.
pub fn write_tcp_checksum(frame: &mut [u8], l4: usize, end: usize) {
    // Both addresses lie side by side, and the sum does not ask where one ends.
    let addresses = if is_v6(frame) { 8..40 } else { 12..20 };
    let addresses = checksum::sum(&frame[ETH_LEN..][addresses]);
    frame[l4 + 16..l4 + 18].fill(0);
    let s = addresses
        + u64::from(super::PROTO_TCP)
        + (end - l4) as u64
        + checksum::sum(&frame[l4..end]);
    let c = !checksum::fold(s);
    frame[l4 + 16..l4 + 18].copy_from_slice(&c.to_be_bytes());
}
