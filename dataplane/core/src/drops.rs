//! Every way in which a frame ends here, by name.

use crate::wire::Bad;

macro_rules! drops {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a frame was dropped. Each reason has one counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Drop { $($(#[$doc])* $variant,)* }

        impl Drop {
            /// Every reason, in the order of their indices.
            pub const ALL: &'static [Drop] = &[$(Drop::$variant,)*];
            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();
            /// The value of the `reason` label in metrics.
            pub fn name(self) -> &'static str {
                match self { $(Drop::$variant => $name,)* }
            }
        }
    };
}

drops! {
    /// A SYN whose bucket belongs to another node.
    NotOwner = "not_owner",
    /// A SYN of a service that nobody owns, at the node that speaks for the client's address.
    Unavailable = "unavailable",
    /// A segment to a service that no FCB here knows.
    NoFlow = "no_flow",
    /// A segment of a flow that this node has handed over.
    HandedOver = "handed_over",
    /// VIP traffic of no service, owned by another node.
    NotVipOwner = "not_vip_owner",
    /// Another node's own address.
    OtherNode = "other_node",
    /// A proxy or application port that is no service port, from the wire.
    HiddenPort = "hidden_port",
    /// Option 32 on the wire port.
    Option32OnWire = "option32_on_wire",
    /// A truncated or contradictory header.
    Malformed = "malformed",
    /// IPv6 extension headers: too many, too long, or one out of place.
    ExtensionHeaders = "extension_headers",
    /// An IPv6 routing header of type 0, or with segments left.
    RoutingHeader = "routing_header",
    /// An IPv6 jumbogram.
    Jumbogram = "jumbogram",
    /// An IPv4-mapped address in an IPv6 header.
    MappedAddress = "mapped_address",
    /// A service was asked from a link-local address.
    LinkLocalClient = "link_local_client",
    /// A wrong TCP checksum in a segment that would have changed state.
    BadChecksum = "bad_checksum",
    /// A fragment of TCP to a VIP, to an address of this node, or on the link.
    Fragment = "fragment",
    /// A late duplicate of the SYN of a flow that has a tombstone or an FCB.
    DuplicateSyn = "duplicate_syn",
    /// An acknowledgement that is not of this node's SYN-ACK.
    AckMismatch = "ack_mismatch",
    /// A SYN-ACK of a stack that lost the handshake to another owner.
    Muted = "muted",
    /// The half-open table is full.
    HalfOpenFull = "half_open_full",
    /// The FCB table is full.
    FlowTableFull = "flow_table_full",
    /// A host frame with one of our ports that no FCB permits.
    HostWithoutFlow = "host_without_flow",
    /// A host frame that its FCB's state does not let out.
    HostForbidden = "host_forbidden",
    /// A pure ACK of a local stack that says nothing new and answers nothing.
    AckRepeated = "ack_repeated",
    /// A bare ACK of a storm: both sides answer each other and neither says anything new.
    AckStorm = "ack_storm",
    /// A connection that the host opens from the VIP, whose answers every node hears.
    HostFromVip = "host_from_vip",
    /// A host frame that was consumed by a replay.
    ReplayConsumed = "replay_consumed",
    /// A host ARP message about the VIP, which the data plane speaks for.
    HostArpVip = "host_arp_vip",
    /// A frame from the wire or link that bears this node's own source address.
    OwnEcho = "own_echo",
    /// An ARP request for the VIP, answered here or by another node.
    ArpConsumed = "arp_consumed",
    /// A host's neighbour discovery message about the VIP, which the data plane
    /// speaks for.
    HostNdVip = "host_nd_vip",
    /// Neighbour discovery about a VIP, answered here or by another node, or what
    /// else only a VIP's group or a VIP would get.
    NdConsumed = "nd_consumed",
    /// A neighbour solicitation for a VIP that breaks the rules of RFC 4861.
    NdInvalid = "nd_invalid",
    /// A copy or held frame beyond a cap.
    HoldFull = "hold_full",
    /// A held frame that the cut over made superfluous.
    HoldStale = "hold_stale",
    /// A link segment to an application port that is not a valid message.
    LinkStranger = "link_stranger",
    /// An extension block that is not authentic.
    BlockForged = "block_forged",
    /// An extension block that was seen before.
    BlockReplayed = "block_replayed",
    /// An extension block that names an earlier incarnation of this node.
    BlockIncarnation = "block_incarnation",
    /// The paper's bare form, which the configuration does not trust.
    PaperForm = "paper_form",
    /// A link message that does not fit the state of its flow.
    LinkStale = "link_stale",
    /// A RST for the client of an orphan, or of a service that nobody owns, beyond the
    /// configured rate.
    OrphanRate = "orphan_rate",
    /// No buffer for a frame that had to be made.
    NoBuffer = "no_buffer",
    /// A ring to another worker was full.
    RingFull = "ring_full",
    /// A transmit queue was full.
    TxFull = "tx_full",
    /// A frame without a VLAN tag, or with a priority tag alone, on a port with a VLAN.
    VlanUntagged = "vlan_untagged",
    /// A frame of another VLAN.
    VlanOther = "vlan_other",
    /// A frame above the port's MTU that is nothing to be cut into segments.
    TooLong = "too_long",
    /// A hello of another member on the wire, taken in.
    HelloConsumed = "hello_consumed",
    /// A hello on the wire that is not authentic, was heard before, or is of no member.
    HelloRefused = "hello_refused",
    /// A frame that was to be finished before it is sent, and is neither TCP nor UDP.
    Unfinished = "unfinished",
    /// TCP-MD5 or TCP-AO on a service port.
    TcpAuth = "tcp_auth",
}

impl From<Bad> for Drop {
    fn from(bad: Bad) -> Self {
        match bad {
            Bad::Malformed => Self::Malformed,
            Bad::Extensions => Self::ExtensionHeaders,
            Bad::Routing => Self::RoutingHeader,
            Bad::Jumbogram => Self::Jumbogram,
            Bad::Mapped => Self::MappedAddress,
        }
    }
}

/// One counter per reason.
#[derive(Clone, Debug)]
pub struct Drops(pub [u64; Drop::COUNT]);

impl Default for Drops {
    fn default() -> Self {
        Self([0; Drop::COUNT])
    }
}

impl Drops {
    /// Counts one frame.
    #[inline]
    pub fn count(&mut self, why: Drop) {
        self.0[why as usize] += 1;
    }
    /// Counts `n` frames.
    #[inline]
    pub fn add(&mut self, why: Drop, n: u64) {
        self.0[why as usize] += n;
    }
    /// The count of one reason.
    pub fn get(&self, why: Drop) -> u64 {
        self.0[why as usize]
    }
}
