//! ICMP and ICMPv6 errors that quote one of our TCP segments (RFC 792, RFC 4443,
//! RFC 5927).

use super::checksum::Delta;
use super::ipv6::{self, Ipv6Hdr};
use super::{ETH_LEN, Ip, Ipv4Hdr, PROTO_TCP, nd};
use crate::key::{Addr, FlowKey};
use zerocopy::{FromBytes, IntoBytes};

/// IP protocol number of ICMP.
pub const PROTO_ICMP: u8 = 1;
/// Bytes of an error in front of its quote, in both families.
const HEADER_LEN: usize = 8;

/// The quoted segment, which this cluster sent to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// The connection that the quote names.
    pub flow: FlowKey,
    /// Its sequence number, as the client sees it.
    pub seq: u32,
    icmp: usize,
    tcp: usize,
}

/// Addresses of a quoted datagram that carries TCP, and the bytes of its headers.
fn quoted(b: &[u8], v4: bool) -> Option<(Addr, Addr, usize)> {
    if v4 {
        let (h, _) = Ipv4Hdr::ref_from_prefix(b).ok()?;
        let ihl = usize::from(h.version_ihl & 0xf) * 4;
        let right = h.version_ihl >> 4 == 4 && ihl >= 20 && h.proto == PROTO_TCP;
        // Behind the first fragment there is no header to be read.
        let first = h.frag.get() & 0x1fff == 0;
        return (right && first).then_some((Addr::v4(h.src), Addr::v4(h.dst), ihl));
    }
    let (h, rest) = Ipv6Hdr::ref_from_prefix(b).ok()?;
    // The quote is cut off where the error had no more room, whatever its length says.
    let chain = ipv6::walk(h.next, rest).ok()?;
    let right = h.version_class_flow.get() >> 28 == 6 && chain.proto == PROTO_TCP;
    (right && !chain.fragment).then_some((Addr(h.src), Addr(h.dst), ipv6::HEADER_LEN + chain.len))
}

impl Quote {
    /// Finds the quote of an ICMP error about a TCP segment: destination
    /// unreachable, source quench, time exceeded, parameter problem; in IPv6 also
    /// packet too big.
    pub fn parse(frame: &[u8], ip: &Ip) -> Option<Self> {
        let icmp = ip.payload(frame);
        let ty = *icmp.first()?;
        let v4 = ip.src.is_v4();
        let error = if v4 {
            ip.proto == PROTO_ICMP && matches!(ty, 3 | 4 | 11 | 12)
        } else {
            ip.proto == nd::PROTO_ICMPV6 && matches!(ty, 1..=4)
        };
        if !error || ip.fragment {
            return None;
        }
        let quote = icmp.get(HEADER_LEN..)?;
        let (src, dst, len) = quoted(quote, v4)?;
        let t = quote.get(len..)?.first_chunk::<8>()?;
        Some(Self {
            flow: FlowKey {
                client: dst,
                vip: src,
                client_port: u16::from_be_bytes([t[2], t[3]]),
                port: u16::from_be_bytes([t[0], t[1]]),
            },
            seq: u32::from_be_bytes([t[4], t[5], t[6], t[7]]),
            icmp: ip.l4,
            tcp: ip.l4 + HEADER_LEN + len,
        })
    }

    /// Rewrites the quoted source port and sequence number, so that the local
    /// stack recognises its own segment.
    pub fn rewrite(&self, frame: &mut [u8], port: u16, seq: u32) {
        let mut d = Delta::default();
        let mut put = |at: usize, new: &[u8]| {
            d.replace(at - self.icmp, &frame[at..at + new.len()], new);
            frame[at..at + new.len()].copy_from_slice(new);
        };
        put(self.tcp, &port.to_be_bytes());
        put(self.tcp + 4, &seq.to_be_bytes());
        // ICMPv6's checksum covers addresses too, which stay as they are.
        let c = u16::from_be_bytes([frame[self.icmp + 2], frame[self.icmp + 3]]);
        frame[self.icmp + 2..self.icmp + 4].copy_from_slice(&d.apply(c).to_be_bytes());
    }
}

/// Makes a "fragmentation needed" frame; for tests and tools.
pub fn frag_needed(eth: &[u8; ETH_LEN], router: [u8; 4], quoted: &[u8], mtu: u16) -> Vec<u8> {
    let mut icmp = vec![3, 4, 0, 0, 0, 0];
    icmp.extend_from_slice(&mtu.to_be_bytes());
    icmp.extend_from_slice(&quoted[..quoted.len().min(28)]);
    let c = !super::checksum::fold(super::checksum::sum(&icmp));
    icmp[2..4].copy_from_slice(&c.to_be_bytes());
    let mut f = eth.to_vec();
    f.extend_from_slice(&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, PROTO_ICMP, 0, 0]);
    f.extend_from_slice(&router);
    f.extend_from_slice(&quoted[12..16]);
    f.extend_from_slice(&icmp);
    let total = f.len() - ETH_LEN;
    super::edit::set_ip_len(&mut f, total);
    f
}

/// Makes a "packet too big" frame (RFC 4443, section 3.2); for tests and tools.
pub fn packet_too_big(eth: &[u8; ETH_LEN], router: &Addr, quoted: &[u8], mtu: u32) -> Vec<u8> {
    let mut icmp = vec![2, 0, 0, 0];
    icmp.extend_from_slice(&mtu.to_be_bytes());
    icmp.extend_from_slice(&quoted[..quoted.len().min(ipv6::MIN_MTU - ipv6::HEADER_LEN - 8)]);
    let mut dst = [0; 16];
    dst.copy_from_slice(&quoted[8..24]);
    let dst = Addr(dst);
    let pseudo = super::checksum::pseudo(router, &dst, nd::PROTO_ICMPV6, icmp.len());
    let c = !super::checksum::fold(pseudo + super::checksum::sum(&icmp));
    icmp[2..4].copy_from_slice(&c.to_be_bytes());
    let mut f = eth.to_vec();
    let ip = Ipv6Hdr::new(router, &dst, nd::PROTO_ICMPV6, icmp.len(), 64);
    f.extend_from_slice(ip.as_bytes());
    f.extend_from_slice(&icmp);
    f
}
