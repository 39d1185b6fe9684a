//! What the data plane needs of a packet buffer, a buffer pool and the ports.

/// The ports of a node: two physical ones and the host twin of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Port {
    /// The broadcast NIC.
    Wire,
    /// The wire's twin towards this node's own stack.
    WireHost,
    /// The internal NIC.
    Link,
    /// The link's twin towards this node's own stack.
    LinkHost,
}

impl Port {
    /// Every port, in the order of their indices.
    pub const ALL: [Port; 4] = [Port::Wire, Port::WireHost, Port::Link, Port::LinkHost];

    /// 0 to 3.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The port on the other side of the filter.
    pub fn twin(self) -> Port {
        match self {
            Port::Wire => Port::WireHost,
            Port::WireHost => Port::Wire,
            Port::Link => Port::LinkHost,
            Port::LinkHost => Port::Link,
        }
    }

    /// The name in configuration and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Port::Wire => "wire",
            Port::WireHost => "wire_host",
            Port::Link => "link",
            Port::LinkHost => "link_host",
        }
    }
}

/// What is known of a frame's TCP or UDP checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// Nothing: who needs it right must verify it.
    #[default]
    Unknown,
    /// A device has found it right.
    Good,
    /// A device has found it wrong.
    Bad,
    /// The field holds the sum of the pseudo-header alone, and the bytes are intact:
    /// this node's own stack leaves the rest to who sends the frame. Rewriting ports,
    /// numbers and options leaves such a field as it is.
    Partial,
}

/// What is known of a frame beside its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The TCP or UDP checksum.
    pub checksum: Checksum,
    /// Payload bytes of each segment into which the frame is to be cut before it
    /// is sent (TSO); `None` for a frame that is sent as it is.
    pub tso: Option<u16>,
}

/// One packet, from the Ethernet header on. It may lie in several pieces; the first
/// one holds all headers, up to the end of TCP's options or of an ICMP quote.
#[allow(clippy::len_without_is_empty)] // No frame is empty.
pub trait Frame: Sized {
    /// The bytes of the first piece: all headers, and often the whole frame.
    fn head(&self) -> &[u8];
    /// The first piece, to be rewritten in place.
    fn head_mut(&mut self) -> &mut [u8];
    /// Cuts the frame to its first `len` bytes; longer is left as it is.
    fn truncate(&mut self, len: usize);
    /// Bytes of all pieces.
    fn len(&self) -> usize {
        self.head().len()
    }
    /// All pieces in order; none is empty but perhaps the only one.
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(self.head())
    }
    /// What is known beside the bytes.
    fn meta(&self) -> Meta {
        Meta::default()
    }
    /// The checksum is [`Checksum::Partial`].
    #[inline]
    fn is_partial(&self) -> bool {
        self.meta().checksum == Checksum::Partial
    }
    /// Sets what is known, as for a frame that was made of kept bytes. Frames
    /// whose checksums are always whole have nothing to note.
    fn set_meta(&mut self, _meta: Meta) {}
    /// A hint that the head will be read soon.
    fn prefetch(&self) {}

    /// Copies `out.len()` bytes from offset `at`; false, and `out` unspecified,
    /// where the frame is shorter.
    fn copy_out(&self, at: usize, out: &mut [u8]) -> bool {
        let (mut skip, mut done) = (at, 0);
        for piece in self.pieces() {
            let Some(piece) = piece.get(skip..) else {
                skip -= piece.len();
                continue;
            };
            skip = 0;
            let n = piece.len().min(out.len() - done);
            out[done..done + n].copy_from_slice(&piece[..n]);
            done += n;
            if done == out.len() {
                return true;
            }
        }
        out.is_empty() && skip == 0
    }

    /// A copy of all bytes.
    fn to_vec(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.len());
        self.pieces().for_each(|p| all.extend_from_slice(p));
        all
    }
}

/// A frame that waits outside any packet buffer: its bytes and what is known of it.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// All bytes.
    pub bytes: Vec<u8>,
    /// What was known.
    pub meta: Meta,
}

impl Kept {
    /// A copy of `frame`.
    pub fn of<F: Frame>(frame: &F) -> Self {
        Self {
            bytes: frame.to_vec(),
            meta: frame.meta(),
        }
    }

    /// The frame again; `None` when the pool is empty.
    pub fn again<P: Pool>(&self, pool: &mut P) -> Option<P::Frame> {
        let mut frame = pool.frame(&self.bytes)?;
        frame.set_meta(self.meta);
        Some(frame)
    }
}

/// Where new frames come from.
pub trait Pool {
    /// The frames of this pool.
    type Frame: Frame;
    /// A frame with these bytes, in as many pieces as it takes; `None` when the
    /// pool is empty.
    fn frame(&mut self, bytes: &[u8]) -> Option<Self::Frame>;
}

/// Where frames go.
pub trait Output: Pool {
    /// Queues `frame` for transmission on `port`.
    fn send(&mut self, port: Port, frame: Self::Frame);
    /// Gives `frame`, received on `port`, to another worker of this node.
    fn hand_off(&mut self, worker: usize, port: Port, frame: Self::Frame);
}

impl Frame for Vec<u8> {
    fn head(&self) -> &[u8] {
        self
    }
    fn head_mut(&mut self) -> &mut [u8] {
        self
    }
    fn truncate(&mut self, len: usize) {
        Vec::truncate(self, len)
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
