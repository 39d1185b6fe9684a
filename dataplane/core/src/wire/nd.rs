//! Neighbour discovery of IPv6 (RFC 4861): what the data plane reads and says.

use super::ipv6::{HEADER_LEN, Ipv6Hdr};
use super::{ETH_LEN, ETHERTYPE_IPV6, EthHdr, Ip, Mac, Malformed, checksum};
use crate::key::Addr;
use zerocopy::IntoBytes;

/// IP protocol number of ICMPv6.
pub const PROTO_ICMPV6: u8 = 58;
/// ICMPv6 type: multicast listener query (RFC 3810).
pub const LISTENER_QUERY: u8 = 130;
/// ICMPv6 type: router solicitation, the first of five about neighbours.
pub const ROUTER_SOLICIT: u8 = 133;
/// ICMPv6 type: neighbour solicitation.
pub const SOLICIT: u8 = 135;
/// ICMPv6 type: neighbour advertisement.
pub const ADVERT: u8 = 136;
/// ICMPv6 type: redirect, the last of five.
pub const REDIRECT: u8 = 137;

const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;
/// Bytes of a solicitation or an advertisement without options.
const FIXED: usize = 24;
/// Hop limit that no router has touched.
const HOP_LIMIT: u8 = 255;

/// All nodes on the link, `ff02::1`.
pub const ALL_NODES: Addr = Addr([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

/// The ICMPv6 type of a whole packet.
#[inline]
pub fn icmp_type(frame: &[u8], ip: &Ip) -> Option<u8> {
    if ip.proto != PROTO_ICMPV6 || ip.fragment || ip.src.is_v4() {
        return None;
    }
    ip.payload(frame).first().copied()
}

/// The type of a message about neighbours or routers: 133 to 137.
#[inline]
pub fn kind(frame: &[u8], ip: &Ip) -> Option<u8> {
    icmp_type(frame, ip).filter(|t| (ROUTER_SOLICIT..=REDIRECT).contains(t))
}

/// Whom a solicitation asks for or an advertisement speaks of; nothing is checked.
pub fn target(frame: &[u8], ip: &Ip) -> Option<Addr> {
    if !matches!(kind(frame, ip)?, SOLICIT | ADVERT) {
        return None;
    }
    let t = ip.payload(frame).get(8..)?.first_chunk::<16>()?;
    Some(Addr(*t))
}

/// Where an advertisement says that its target is, if its first option says so; nothing is
/// checked.
pub fn advertised(frame: &[u8], ip: &Ip) -> Option<Mac> {
    if kind(frame, ip)? != ADVERT {
        return None;
    }
    match *ip.payload(frame).get(24..)?.first_chunk::<8>()? {
        [TARGET_LINK_ADDRESS, 1, mac @ ..] => Some(mac),
        _ => None,
    }
}

/// The group that listens for solicitations of `a` (RFC 4291, section 2.7.1).
pub fn solicited_node(a: &Addr) -> Addr {
    let mut g = [0; 16];
    g[..2].copy_from_slice(&[0xff, 2]);
    g[11..13].copy_from_slice(&[1, 0xff]);
    g[13..].copy_from_slice(&a.0[13..]);
    Addr(g)
}

/// The Ethernet address of a multicast group (RFC 2464, section 7).
pub fn group_mac(group: &Addr) -> Mac {
    let g = &group.0;
    [0x33, 0x33, g[12], g[13], g[14], g[15]]
}

/// The link-local address that belongs to an Ethernet address (RFC 4291, appendix A).
///
/// The wire twins of all nodes bear the cluster MAC, from which a kernel would make
/// the same link-local address everywhere. A node's is made from its wire NIC's.
pub fn link_local(mac: Mac) -> Addr {
    let [a, b, c, d, e, f] = mac;
    Addr([
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        a ^ 2,
        b,
        c,
        0xff,
        0xfe,
        d,
        e,
        f,
    ])
}

/// A valid neighbour solicitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicit {
    /// Who asks; `::` when it wants to know whether the address is free (DAD).
    pub src: Addr,
    /// Whom it asks for.
    pub target: Addr,
    /// The asker's Ethernet address, if it tells.
    pub link: Option<Mac>,
}

impl Solicit {
    /// Reads a solicitation.
    ///
    /// # Errors
    /// [`Malformed`] for one that a host must not answer: RFC 4861, section 7.1.1,
    /// and extension headers, of which none belongs there (RFC 6980).
    pub fn parse(frame: &[u8], ip: &Ip) -> Result<Self, Malformed> {
        let whole = ip.end == ip.l4 + ip.payload(frame).len();
        let plain = ip.l4 == ETH_LEN + HEADER_LEN && kind(frame, ip) == Some(SOLICIT) && whole;
        let bytes = ip.payload(frame);
        if !plain || frame[ETH_LEN + 7] != HOP_LIMIT || bytes.len() < FIXED || bytes[1] != 0 {
            return Err(Malformed);
        }
        let sum = checksum::pseudo(&ip.src, &ip.dst, PROTO_ICMPV6, bytes.len());
        if checksum::fold(sum + checksum::sum(bytes)) != 0xffff {
            return Err(Malformed);
        }
        let target = target(frame, ip).ok_or(Malformed)?;
        let mut link = None;
        let mut options = &bytes[FIXED..];
        while let Some(&[ty, units]) = options.first_chunk::<2>() {
            let len = usize::from(units) * 8;
            let option = options.get(..len).filter(|o| !o.is_empty());
            let option = option.ok_or(Malformed)?;
            if let (SOURCE_LINK_ADDRESS, Some(mac)) = (ty, option[2..].first_chunk::<6>()) {
                link = Some(*mac);
            }
            options = &options[len..];
        }
        let unicast = link.is_none_or(|mac| mac[0] & 1 == 0);
        let probe = ip.src.is_unspecified();
        let fair = !probe || (link.is_none() && ip.dst == solicited_node(&target));
        if !options.is_empty() || target.is_multicast() || ip.src.is_multicast() {
            return Err(Malformed);
        }
        if !unicast || !fair {
            return Err(Malformed);
        }
        Ok(Self {
            src: ip.src,
            target,
            link,
        })
    }
}

/// A neighbour advertisement: `target` is at `link`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advert {
    /// Who is told; all nodes when nobody named himself.
    pub dst: Addr,
    /// Of whom.
    pub target: Addr,
    /// Where it is reached.
    pub link: Mac,
    /// It answers a solicitation of `dst`.
    pub solicited: bool,
}

impl Advert {
    /// Bytes of the frame.
    pub const LEN: usize = ETH_LEN + HEADER_LEN + FIXED + 8;

    /// The frame, from the target itself, with the override flag (RFC 4861, section
    /// 4.4) and the target's link-layer address.
    pub fn frame(&self, eth_dst: Mac, eth_src: Mac) -> [u8; Self::LEN] {
        let mut f = [0; Self::LEN];
        let eth = EthHdr {
            dst: eth_dst,
            src: eth_src,
            ethertype: ETHERTYPE_IPV6.into(),
        };
        let l4 = ETH_LEN + HEADER_LEN;
        let len = Self::LEN - l4;
        let ip = Ipv6Hdr::new(&self.target, &self.dst, PROTO_ICMPV6, len, HOP_LIMIT);
        f[..ETH_LEN].copy_from_slice(eth.as_bytes());
        f[ETH_LEN..l4].copy_from_slice(ip.as_bytes());
        let m = &mut f[l4..];
        m[0] = ADVERT;
        m[4] = if self.solicited { 0x60 } else { 0x20 };
        m[8..24].copy_from_slice(&self.target.0);
        m[24..26].copy_from_slice(&[TARGET_LINK_ADDRESS, 1]);
        m[26..].copy_from_slice(&self.link);
        let sum = checksum::pseudo(&self.target, &self.dst, PROTO_ICMPV6, len);
        let c = !checksum::fold(sum + checksum::sum(m));
        m[2..4].copy_from_slice(&c.to_be_bytes());
        f
    }
}

/// Gives an ICMPv6 packet another source address.
pub fn set_source(frame: &mut [u8], ip: &Ip, src: &Addr) {
    let mut d = checksum::Delta::default();
    d.replace(0, &ip.src.0, &src.0);
    frame[ETH_LEN + 8..ETH_LEN + 24].copy_from_slice(&src.0);
    let at = ip.l4 + 2;
    if let Some(c) = frame.get(at..at + 2) {
        let c = d.apply(u16::from_be_bytes([c[0], c[1]]));
        frame[at..at + 2].copy_from_slice(&c.to_be_bytes());
    }
}

#[cfg(test)]
#[path = "nd_tests.rs"]
mod tests;
