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

/// One packet, from the Ethernet header on, in one contiguous piece.
pub trait Frame: Sized {
    /// All bytes.
    fn head(&self) -> &[u8];
    /// All bytes, to be rewritten in place.
    fn head_mut(&mut self) -> &mut [u8];
    /// Cuts the frame to its first `len` bytes; longer is left as it is.
    fn truncate(&mut self, len: usize);
    /// A hint that the head will be read soon.
    fn prefetch(&self) {}
}

/// Where new frames come from.
pub trait Pool {
    /// The frames of this pool.
    type Frame: Frame;
    /// A frame with these bytes; `None` when the pool is empty or the bytes do
    /// not fit into one buffer.
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
