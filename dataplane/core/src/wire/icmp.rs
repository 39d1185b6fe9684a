//! ICMP errors that quote one of our TCP segments (RFC 792, RFC 5927).

use super::checksum::Delta;
use super::{ETH_LEN, Ip, Ipv4Hdr, PROTO_TCP};
use crate::key::{Addr, FlowKey};
use zerocopy::FromBytes;

/// IP protocol number of ICMP.
pub const PROTO_ICMP: u8 = 1;

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

impl Quote {
    /// Finds the quote of an ICMP error (destination unreachable, source quench,
    /// time exceeded, parameter problem) about a TCP segment.
    pub fn parse(frame: &[u8], ip: &Ip) -> Option<Self> {
        let icmp = ip.payload(frame);
        if ip.proto != PROTO_ICMP || ip.fragment || !matches!(icmp.first()?, 3 | 4 | 11 | 12) {
            return None;
        }
        let (h, _) = Ipv4Hdr::ref_from_prefix(icmp.get(8..)?).ok()?;
        let ihl = usize::from(h.version_ihl & 0xf) * 4;
        if h.version_ihl >> 4 != 4 || ihl < 20 || h.proto != PROTO_TCP {
            return None;
        }
        let t = icmp.get(8 + ihl..)?.first_chunk::<8>()?;
        Some(Self {
            flow: FlowKey {
                client: Addr::v4(h.dst),
                vip: Addr::v4(h.src),
                client_port: u16::from_be_bytes([t[2], t[3]]),
                port: u16::from_be_bytes([t[0], t[1]]),
            },
            seq: u32::from_be_bytes([t[4], t[5], t[6], t[7]]),
            icmp: ip.l4,
            tcp: ip.l4 + 8 + ihl,
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
