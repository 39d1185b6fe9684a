//! Wire formats: checked views over bytes, and frames built from values.

pub mod arp;
pub mod build;
pub mod checksum;
pub mod edit;
pub mod hello;
pub mod icmp;
pub mod igmp;
pub mod ipv6;
pub mod nd;
pub mod options;
pub mod tcp;

use crate::frame::Frame;
use crate::key::Addr;
use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of an Ethernet header without a VLAN tag.
pub const ETH_LEN: usize = 14;
/// Bytes from the start of a frame within which every header lies that is read: the
/// longest are those of an ICMPv6 error with all extension headers, and of its quote
/// with as many, up to the quoted sequence number.
pub const HEADERS_MOST: usize = ETH_LEN + 2 * (ipv6::HEADER_LEN + ipv6::EXT_BYTES_MOST + 8);
/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// IP protocol number of TCP.
pub const PROTO_TCP: u8 = 6;

/// An Ethernet address.
pub type Mac = [u8; 6];
/// The Ethernet broadcast address.
pub const BROADCAST: Mac = [0xff; 6];

/// The Ethernet header (IEEE 802.3).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct EthHdr {
    /// Destination address.
    pub dst: Mac,
    /// Source address.
    pub src: Mac,
    /// What follows.
    pub ethertype: U16,
}

/// The IPv4 header without options (RFC 791, section 3.1).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct Ipv4Hdr {
    /// Version (4) and header length in 32-bit words.
    pub version_ihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Bytes of header and payload.
    pub total_len: U16,
    /// Identification of a datagram's fragments.
    pub id: U16,
    /// Flags and fragment offset in units of 8 bytes.
    pub frag: U16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload.
    pub proto: u8,
    /// Header checksum.
    pub checksum: U16,
    /// Source address.
    pub src: [u8; 4],
    /// Destination address.
    pub dst: [u8; 4],
}

/// The TCP header without options (RFC 9293, section 3.1).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct TcpHdr {
    /// Source port.
    pub sport: U16,
    /// Destination port.
    pub dport: U16,
    /// Sequence number.
    pub seq: U32,
    /// Acknowledgement number.
    pub ack: U32,
    /// Header length in the upper four bits (32-bit words), reserved bits, AE.
    pub off: u8,
    /// CWR, ECE, URG, ACK, PSH, RST, SYN, FIN.
    pub flags: u8,
    /// Window.
    pub window: U16,
    /// Checksum.
    pub checksum: U16,
    /// Urgent pointer.
    pub urgent: U16,
}

/// An IPv4 or IPv6 header found in a frame, and where its payload lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Protocol of the payload; of an IPv6 fragment, what follows its fragment
    /// header.
    pub proto: u8,
    /// The datagram is a fragment (not whole).
    pub fragment: bool,
    /// Offset of the payload in the frame, behind options and extension headers.
    pub l4: usize,
    /// Offset behind the payload; what follows is Ethernet padding. In a frame of
    /// several pieces it lies behind the head.
    pub end: usize,
}

impl Ip {
    /// Bytes of an IP header without options or extension headers, in the family
    /// of `a`.
    #[inline]
    pub fn header_len(a: &Addr) -> usize {
        if a.is_v4() { 20 } else { ipv6::HEADER_LEN }
    }

    /// TCP, or a fragment that may turn out to be TCP: in IPv6 there may be more
    /// extension headers behind the fragment header.
    #[inline]
    pub fn may_be_tcp(&self) -> bool {
        let hidden = matches!(self.proto, ipv6::ROUTING | ipv6::FRAGMENT)
            || matches!(self.proto, ipv6::HOP_BY_HOP | ipv6::DESTINATION);
        self.proto == PROTO_TCP || (self.fragment && !self.src.is_v4() && hidden)
    }

    /// The datagram's payload as far as it lies in `head`.
    #[inline]
    pub fn payload<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        head.get(self.l4..self.end.min(head.len()))
            .unwrap_or_default()
    }
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L3 {
    /// An IPv4 or IPv6 datagram.
    Ip(Ip),
    /// ARP.
    Arp,
    /// Anything else.
    Other,
}

/// A header is truncated or contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed frame")]
pub struct Malformed;

/// Why the network layer of a frame is not processed, on any port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// A header is truncated or contradicts itself.
    #[error("malformed frame")]
    Malformed,
    /// Too many or too long IPv6 extension headers, or one out of place.
    #[error("IPv6 extension headers out of bounds")]
    Extensions,
    /// An IPv6 routing header of type 0 (RFC 5095) or with segments left.
    #[error("IPv6 routing header")]
    Routing,
    /// An IPv6 jumbogram (RFC 2675).
    #[error("IPv6 jumbogram")]
    Jumbogram,
    /// An IPv4-mapped address in an IPv6 header (RFC 4038, section 4.2).
    #[error("IPv4-mapped address in IPv6")]
    Mapped,
}

/// The Ethernet header of a frame.
#[inline]
pub fn eth(frame: &[u8]) -> Option<&EthHdr> {
    EthHdr::ref_from_prefix(frame).ok().map(|(h, _)| h)
}

/// Writes both Ethernet addresses of a frame that has passed [`l3`].
#[inline]
pub fn set_eth(frame: &mut [u8], dst: Mac, src: Mac) {
    frame[..6].copy_from_slice(&dst);
    frame[6..12].copy_from_slice(&src);
}

/// Writes the Ethernet source address.
#[inline]
pub fn set_eth_src(frame: &mut [u8], src: Mac) {
    frame[6..12].copy_from_slice(&src);
}

/// Finds the network layer of a frame in one piece.
///
/// # Errors
/// [`Bad::Malformed`] for a frame shorter than its headers say; what else there is
/// of [`Bad`] is peculiar to IPv6.
#[inline]
pub fn l3(frame: &[u8]) -> Result<L3, Bad> {
    l3_in(frame, frame.len())
}

/// Finds the network layer of a frame of any number of pieces.
///
/// # Errors
/// Those of [`l3`].
#[inline]
pub fn l3_of<F: Frame>(frame: &F) -> Result<L3, Bad> {
    l3_in(frame.head(), frame.len())
}

/// Finds the network layer in `head`, the beginning of a frame of `len` bytes.
#[inline]
fn l3_in(head: &[u8], len: usize) -> Result<L3, Bad> {
    let (e, rest) = EthHdr::ref_from_prefix(head).map_err(|_| Bad::Malformed)?;
    match e.ethertype.get() {
        ETHERTYPE_ARP => Ok(L3::Arp),
        ETHERTYPE_IPV6 => ipv6::parse(rest, len - ETH_LEN).map(L3::Ip),
        ETHERTYPE_IPV4 => {
            let (h, _) = Ipv4Hdr::ref_from_prefix(rest).map_err(|_| Bad::Malformed)?;
            let ihl = usize::from(h.version_ihl & 0xf) * 4;
            let total = usize::from(h.total_len.get());
            if h.version_ihl >> 4 != 4 || ihl < 20 || total < ihl || ETH_LEN + total > len {
                return Err(Bad::Malformed);
            }
            Ok(L3::Ip(Ip {
                src: Addr::v4(h.src),
                dst: Addr::v4(h.dst),
                proto: h.proto,
                // More fragments, or an offset; the reserved and DF bits say nothing.
                fragment: h.frag.get() & 0x3fff != 0,
                l4: ETH_LEN + ihl,
                end: ETH_LEN + total,
            }))
        }
        _ => Ok(L3::Other),
    }
}
