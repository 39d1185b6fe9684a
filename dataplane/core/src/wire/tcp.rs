//! A TCP segment inside a frame.

use super::options::Options;
use super::{Ip, Malformed, TcpHdr, checksum};
use crate::frame::{Checksum, Frame};
use zerocopy::FromBytes;

/// FIN.
pub const FIN: u8 = 0x01;
/// SYN.
pub const SYN: u8 = 0x02;
/// RST.
pub const RST: u8 = 0x04;
/// PSH.
pub const PSH: u8 = 0x08;
/// ACK.
pub const ACK: u8 = 0x10;
/// URG.
pub const URG: u8 = 0x20;
/// ECE (RFC 3168).
pub const ECE: u8 = 0x40;
/// CWR (RFC 3168).
pub const CWR: u8 = 0x80;

/// What a segment says, and where its parts lie in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Flags, ECE and CWR included.
    pub flags: u8,
    /// Window field as it stands.
    pub window: u16,
    /// Options.
    pub opts: Options,
    /// Offset of the TCP header.
    pub l4: usize,
    /// Offset of the options (behind the fixed header).
    pub opts_at: usize,
    /// Offset of the payload.
    pub data: usize,
    /// Offset behind the payload.
    pub end: usize,
}

impl Segment {
    /// Reads the segment of an unfragmented TCP datagram from the frame's head.
    ///
    /// # Errors
    /// [`Malformed`] when the header is longer than the datagram.
    #[inline]
    pub fn parse(frame: &[u8], ip: &Ip) -> Result<Self, Malformed> {
        let bytes = ip.payload(frame);
        let (h, rest) = TcpHdr::ref_from_prefix(bytes).map_err(|_| Malformed)?;
        let off = usize::from(h.off >> 4) * 4;
        if off < 20 || off > bytes.len() {
            return Err(Malformed);
        }
        Ok(Self {
            sport: h.sport.get(),
            dport: h.dport.get(),
            seq: h.seq.get(),
            ack: h.ack.get(),
            flags: h.flags,
            window: h.window.get(),
            opts: Options::parse(&rest[..off - 20]),
            l4: ip.l4,
            opts_at: ip.l4 + 20,
            data: ip.l4 + off,
            end: ip.end,
        })
    }

    /// Whether any of these flags is set.
    #[inline]
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    /// Payload bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.end - self.data
    }

    /// No payload.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.data == self.end
    }

    /// Sequence space that the segment takes.
    #[inline]
    pub fn seq_len(&self) -> u32 {
        self.len() as u32 + u32::from(self.has(SYN)) + u32::from(self.has(FIN))
    }

    /// A sign of life is asked for: a segment of at most one byte just below `next`
    /// (RFC 9293, section 3.8.4).
    #[inline]
    pub fn is_keepalive(&self, next: u32) -> bool {
        self.has(ACK)
            && !self.has(SYN | RST | FIN)
            && self.len() <= 1
            && self.seq == next.wrapping_sub(1)
    }

    /// The number behind the segment.
    #[inline]
    pub fn seq_end(&self) -> u32 {
        self.seq.wrapping_add(self.seq_len())
    }

    /// TSval, if there is one.
    #[inline]
    pub fn ts_val(&self) -> Option<u32> {
        self.opts.timestamps.map(|t| t.0)
    }

    /// TSecr, if there is one.
    #[inline]
    pub fn ts_ecr(&self) -> Option<u32> {
        self.opts.timestamps.map(|t| t.1)
    }

    /// Whether the TCP checksum is right.
    pub fn checksum_ok(&self, frame: &[u8], ip: &Ip) -> bool {
        self.sum_ok(ip, checksum::sum(&frame[self.l4..self.end]))
    }

    /// Whether what came is what was sent: by the word of the device where it has
    /// one, else by the TCP checksum.
    pub fn intact<F: Frame>(&self, frame: &F, ip: &Ip) -> bool {
        match frame.meta().checksum {
            Checksum::Good | Checksum::Partial => true,
            Checksum::Bad => false,
            Checksum::Unknown => {
                self.sum_ok(ip, checksum::sum_pieces(frame.pieces(), self.l4, self.end))
            }
        }
    }

    fn sum_ok(&self, ip: &Ip, sum: u64) -> bool {
        let s = checksum::pseudo(&ip.src, &ip.dst, ip.proto, self.end - self.l4);
        checksum::fold(s + sum) == 0xffff
    }
}

/// The ports of a TCP or UDP datagram, without reading the rest.
#[inline]
pub fn ports(frame: &[u8], ip: &Ip) -> Option<(u16, u16)> {
    let b = ip.payload(frame).first_chunk::<4>()?;
    Some((
        u16::from_be_bytes([b[0], b[1]]),
        u16::from_be_bytes([b[2], b[3]]),
    ))
}
