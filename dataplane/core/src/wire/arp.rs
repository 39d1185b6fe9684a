//! ARP for IPv4 over Ethernet (RFC 826).

use super::{ETH_LEN, ETHERTYPE_ARP, EthHdr, Mac};
use zerocopy::byteorder::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Operation "request".
pub const REQUEST: u16 = 1;
/// Operation "reply".
pub const REPLY: u16 = 2;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct Raw {
    htype: U16,
    ptype: U16,
    hlen: u8,
    plen: u8,
    op: U16,
    sha: Mac,
    spa: [u8; 4],
    tha: Mac,
    tpa: [u8; 4],
}

/// An ARP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// [`REQUEST`] or [`REPLY`].
    pub op: u16,
    /// Sender's hardware address.
    pub sha: Mac,
    /// Sender's protocol address.
    pub spa: [u8; 4],
    /// Target's hardware address.
    pub tha: Mac,
    /// Target's protocol address.
    pub tpa: [u8; 4],
}

impl Arp {
    /// Reads an ARP frame; `None` when it is not IPv4 over Ethernet or too short.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let (r, _) = Raw::ref_from_prefix(frame.get(ETH_LEN..)?).ok()?;
        let right = (r.htype.get(), r.ptype.get(), r.hlen, r.plen) == (1, 0x0800, 6, 4);
        right.then_some(Self {
            op: r.op.get(),
            sha: r.sha,
            spa: r.spa,
            tha: r.tha,
            tpa: r.tpa,
        })
    }

    /// The frame, padded to the Ethernet minimum of 60 bytes (without FCS).
    pub fn frame(&self, dst: Mac, src: Mac) -> [u8; 60] {
        let mut f = [0u8; 60];
        let e = EthHdr {
            dst,
            src,
            ethertype: ETHERTYPE_ARP.into(),
        };
        f[..ETH_LEN].copy_from_slice(e.as_bytes());
        let r = Raw {
            htype: 1.into(),
            ptype: 0x0800.into(),
            hlen: 6,
            plen: 4,
            op: self.op.into(),
            sha: self.sha,
            spa: self.spa,
            tha: self.tha,
            tpa: self.tpa,
        };
        f[ETH_LEN..ETH_LEN + 28].copy_from_slice(r.as_bytes());
        f
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_bytes_value_and_short_ones() {
        let a = Arp {
            op: REPLY,
            sha: [2; 6],
            spa: [10, 0, 0, 1],
            tha: [4; 6],
            tpa: [10, 0, 0, 2],
        };
        let f = a.frame([4; 6], [9; 6]);
        assert_eq!(Arp::parse(&f), Some(a));
        assert_eq!(f[..12], [4, 4, 4, 4, 4, 4, 9, 9, 9, 9, 9, 9]);
        for n in 0..42 {
            assert_eq!(Arp::parse(&f[..n]), None);
        }
    }
}
