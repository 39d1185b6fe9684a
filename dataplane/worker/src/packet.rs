//! An mbuf as the data plane sees it.

use dpdk::{Mbuf, RxChecksum};
use dts_core::frame::{Checksum, Frame, Meta, Port};
use dts_core::wire;

/// Bytes that hold all headers.
const HEADERS: u16 = wire::HEADERS_MOST as u16;

/// A packet whose first segment has all headers.
pub(crate) struct Packet(Mbuf);

impl Packet {
    /// Moves the headers into the first segment; `None`, and the packet is freed,
    /// where that has no room.
    #[inline]
    pub(crate) fn new(mut mbuf: Mbuf) -> Option<Self> {
        if mbuf.nb_segs() > 1 && !gather(&mut mbuf) {
            return None;
        }
        Some(Self(mbuf))
    }

    /// A packet that is all in its first segment; gives another one back.
    #[inline(always)]
    pub(crate) fn in_one(mbuf: Mbuf) -> Result<Self, Mbuf> {
        if mbuf.nb_segs() == 1 {
            Ok(Self(mbuf))
        } else {
            Err(mbuf)
        }
    }

    #[inline]
    pub(crate) fn into_mbuf(self) -> Mbuf {
        self.0
    }
}

impl Frame for Packet {
    #[inline]
    fn head(&self) -> &[u8] {
        self.0.data()
    }

    #[inline]
    fn head_mut(&mut self) -> &mut [u8] {
        self.0.data_mut()
    }

    fn truncate(&mut self, len: usize) {
        self.0.truncate(u32::try_from(len).unwrap_or(u32::MAX));
    }

    #[inline]
    fn len(&self) -> usize {
        self.0.pkt_len() as usize
    }

    #[inline]
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.0.segments()
    }

    #[inline]
    fn meta(&self) -> Meta {
        let checksum = match self.0.l4_checksum() {
            _ if self.0.ip_checksum() == RxChecksum::Bad => Checksum::Bad,
            RxChecksum::Unknown => Checksum::Unknown,
            RxChecksum::Good => Checksum::Good,
            RxChecksum::Bad => Checksum::Bad,
            RxChecksum::Partial => Checksum::Partial,
        };
        Meta {
            checksum,
            tso: self.0.segment_size(),
        }
    }

    #[inline]
    fn is_partial(&self) -> bool {
        !self.0.is_plain() && self.meta().checksum == Checksum::Partial
    }

    fn set_meta(&mut self, meta: Meta) {
        self.0.set_l4_checksum(match meta.checksum {
            Checksum::Unknown => RxChecksum::Unknown,
            Checksum::Good => RxChecksum::Good,
            Checksum::Bad => RxChecksum::Bad,
            Checksum::Partial => RxChecksum::Partial,
        });
        self.0.set_segment_size(meta.tso);
    }

    #[inline]
    fn prefetch(&self) {
        self.0.prefetch();
    }
}

#[cold]
fn gather(mbuf: &mut Mbuf) -> bool {
    // At most HEADERS.
    let want = mbuf.pkt_len().min(HEADERS.into()) as u16;
    mbuf.data().len() >= want.into() || mbuf.pull(want)
}

/// What a ring has to say of a frame in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passage {
    /// It came in by this port and waits to be processed.
    In(Port),
    /// It was processed and waits to be sent.
    Out(Port),
}

impl Passage {
    /// The mbuf's tag: 0 to 3 inwards, 4 to 7 outwards.
    #[inline]
    pub(crate) fn tag(self) -> u32 {
        match self {
            Passage::In(port) => port.index() as u32,
            Passage::Out(port) => (Port::ALL.len() + port.index()) as u32,
        }
    }

    /// From a tag that [`Passage::tag`] made.
    #[inline]
    pub(crate) fn of(tag: u32) -> Self {
        let port = Port::ALL[tag as usize % Port::ALL.len()];
        if (tag as usize) < Port::ALL.len() {
            Passage::In(port)
        } else {
            Passage::Out(port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_and_back() {
        let mut seen = Vec::new();
        for port in Port::ALL {
            for p in [Passage::In(port), Passage::Out(port)] {
                assert_eq!(Passage::of(p.tag()), p);
                seen.push(p.tag());
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..8).collect::<Vec<_>>());
    }
}
