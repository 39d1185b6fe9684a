//! An mbuf as the data plane sees it.

use dpdk::Mbuf;
use dts_core::frame::{Frame, Port};

/// A packet in one segment.
pub(crate) struct Packet(Mbuf);

impl Packet {
    /// Moves a packet of several segments into its first one; `None`, and the
    /// packet is freed, where that has no room.
    #[inline]
    pub(crate) fn contiguous(mut mbuf: Mbuf) -> Option<Self> {
        if mbuf.nb_segs() > 1 && !mbuf.linearize() {
            return None;
        }
        Some(Self(mbuf))
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
        let surplus = self.0.data().len().saturating_sub(len);
        // One segment of at most 64 KiB: the length fits, and `trim` has it all.
        let cut = u16::try_from(surplus).is_ok_and(|n| self.0.trim(n));
        debug_assert!(cut);
    }

    #[inline]
    fn prefetch(&self) {
        self.0.prefetch();
    }
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
