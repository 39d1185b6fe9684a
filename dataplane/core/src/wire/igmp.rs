//! IGMP, version 2 (RFC 2236): reports, and the questions that they answer.

use super::{ETH_LEN, ETHERTYPE_IPV4, EthHdr, Ip, Mac, checksum};
use crate::time::Span;
use zerocopy::IntoBytes;

/// Membership query.
const QUERY: u8 = 0x11;
/// Membership report.
const REPORT: u8 = 0x16;
/// The protocol's number.
pub const PROTO_IGMP: u8 = 2;
/// An IPv4 header with the router alert option (RFC 2113).
const IP_LEN: usize = 24;
/// A message.
const LEN: usize = 8;

/// The Ethernet address of a group (RFC 1112, section 6.4).
#[must_use]
pub fn group_mac([_, b, c, d]: [u8; 4]) -> Mac {
    [1, 0, 0x5e, b & 0x7f, c, d]
}

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// The group, or 0.0.0.0 for all.
    pub group: [u8; 4],
    /// Answers are wanted within this time.
    pub within: Span,
}

/// Reads a query of any version; `None` where the packet is none, or damaged.
#[must_use]
pub fn query(frame: &[u8], ip: &Ip) -> Option<Query> {
    let m = frame.get(ip.l4..ip.end)?;
    let (&[kind, code, ..], Some(&[a, b, c, d])) = (
        m.first_chunk::<4>()?,
        m.get(4..).and_then(|g| g.first_chunk::<4>()),
    ) else {
        return None;
    };
    if ip.proto != PROTO_IGMP || kind != QUERY || checksum::fold(checksum::sum(m)) != 0xffff {
        return None;
    }
    // Tenths of a second; version 1 has none and means ten seconds, and version 3's floating
    // values are longer than this reading of them.
    let tenths = if code == 0 { 100 } else { code };
    Some(Query {
        group: [a, b, c, d],
        within: Span::millis(u64::from(tenths) * 100),
    })
}

/// A report of a group, padded to the Ethernet minimum of 60 bytes.
#[must_use]
pub fn report(dst: Mac, src: Mac, from: [u8; 4], group: [u8; 4]) -> [u8; 60] {
    let mut f = [0; 60];
    let eth = EthHdr {
        dst,
        src,
        ethertype: ETHERTYPE_IPV4.into(),
    };
    f[..ETH_LEN].copy_from_slice(eth.as_bytes());
    let ip = &mut f[ETH_LEN..ETH_LEN + IP_LEN];
    // Version 4, six words; internetwork control; TTL 1.
    (ip[0], ip[1], ip[3]) = (0x46, 0xc0, (IP_LEN + LEN) as u8);
    (ip[8], ip[9]) = (1, PROTO_IGMP);
    ip[12..16].copy_from_slice(&from);
    ip[16..20].copy_from_slice(&group);
    ip[20..24].copy_from_slice(&[0x94, 4, 0, 0]);
    let sum = !checksum::fold(checksum::sum(ip));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let m = &mut f[ETH_LEN + IP_LEN..ETH_LEN + IP_LEN + LEN];
    m[0] = REPORT;
    m[4..].copy_from_slice(&group);
    let sum = !checksum::fold(checksum::sum(m));
    m[2..4].copy_from_slice(&sum.to_be_bytes());
    f
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{L3, l3};

    #[test]
    fn a_report_is_what_the_standard_says() {
        let group = [239, 255, 7, 9];
        let f = report(group_mac(group), [2, 0, 0, 0, 0, 1], [10, 0, 0, 1], group);
        let parsed = etherparse::SlicedPacket::from_ethernet(&f).expect("a packet");
        let Some(etherparse::NetSlice::Ipv4(ip)) = parsed.net else {
            panic!("IPv4")
        };
        let h = ip.header().to_header();
        assert_eq!((h.time_to_live, h.protocol.0), (1, 2));
        assert_eq!(h.header_checksum, h.calc_header_checksum());
        assert_eq!(h.options.as_slice(), [0x94, 4, 0, 0]);
        assert_eq!((h.source, h.destination), ([10, 0, 0, 1], group));
        let m = ip.payload().payload;
        assert_eq!((m.len(), m[0], &m[4..]), (8, 0x16, &group[..]));
        assert_eq!(checksum::fold(checksum::sum(m)), 0xffff);
        assert_eq!(f[..6], [1, 0, 0x5e, 0x7f, 7, 9]);
    }

    #[test]
    fn questions_are_told_from_what_is_none() {
        let group = [239, 255, 7, 9];
        let mut f = report(group_mac(group), [2, 0, 0, 0, 0, 1], [10, 0, 0, 1], group);
        let read = |f: &[u8]| match l3(f) {
            Ok(L3::Ip(ip)) => query(f, &ip),
            _ => None,
        };
        assert_eq!(read(&f), None, "a report");
        let at = ETH_LEN + IP_LEN;
        (f[at], f[at + 1]) = (QUERY, 20);
        assert_eq!(read(&f), None, "its checksum is wrong");
        f[at + 2..at + 4].copy_from_slice(&[0, 0]);
        let sum = !checksum::fold(checksum::sum(&f[at..at + LEN]));
        f[at + 2..at + 4].copy_from_slice(&sum.to_be_bytes());
        let within = Span::millis(2_000);
        assert_eq!(read(&f), Some(Query { group, within }));
    }
}
