//! A TCP segment as a value, read and written without any code of `dts-core`:
//! the shims, the reference model and the checks share it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// FIN.
pub const FIN: u8 = 1;
/// SYN.
pub const SYN: u8 = 2;
/// RST.
pub const RST: u8 = 4;
/// PSH.
pub const PSH: u8 = 8;
/// ACK.
pub const ACK: u8 = 16;
/// URG.
pub const URG: u8 = 32;
/// ECE.
pub const ECE: u8 = 64;
/// CWR.
pub const CWR: u8 = 128;

/// Bytes of an Ethernet header.
pub const ETH: usize = 14;

/// `a` lies before `b`, modulo 2^32.
pub fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// The later of two numbers.
pub fn later(a: u32, b: u32) -> u32 {
    if before(a, b) { b } else { a }
}

/// TCP options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opts {
    /// Maximum segment size.
    pub mss: Option<u16>,
    /// Window shift.
    pub shift: Option<u8>,
    /// SACK permitted.
    pub sack_ok: bool,
    /// TSval and TSecr.
    pub ts: Option<(u32, u32)>,
    /// SACK blocks.
    pub sack: Vec<(u32, u32)>,
    /// Options of other kinds, as they stand.
    pub raw: Vec<u8>,
}

/// A segment with its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seg {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Flags.
    pub flags: u8,
    /// Window field.
    pub window: u16,
    /// Urgent pointer.
    pub urgent: u16,
    /// Options.
    pub opts: Opts,
    /// Payload.
    pub payload: Vec<u8>,
}

fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|c| u32::from(u16::from_be_bytes([c[0], *c.get(1).unwrap_or(&0)])))
        .fold(0u32, |a, b| {
            let s = a + b;
            (s & 0xffff) + (s >> 16)
        })
}

fn fold(mut s: u32) -> u16 {
    while s > 0xffff {
        s = (s & 0xffff) + (s >> 16);
    }
    s as u16
}

fn pseudo(src: &IpAddr, dst: &IpAddr, len: usize) -> u32 {
    let tail = 6 + len as u32;
    match (src, dst) {
        (IpAddr::V4(a), IpAddr::V4(b)) => sum(&a.octets()) + sum(&b.octets()) + tail,
        (IpAddr::V6(a), IpAddr::V6(b)) => sum(&a.octets()) + sum(&b.octets()) + tail,
        _ => 0,
    }
}

fn be16(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

fn be32(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// Where the TCP header of an IP packet begins and its datagram ends, and the addresses;
/// `None` for anything else than an unfragmented TCP datagram.
fn ip(p: &[u8]) -> Option<(IpAddr, IpAddr, usize, usize)> {
    match p.first()? >> 4 {
        4 if p.len() >= 20 => {
            let l4 = usize::from(p[0] & 15) * 4;
            let end = usize::from(be16(p, 2));
            if p[9] != 6 || be16(p, 6) & 0x3fff != 0 || l4 < 20 || end > p.len() || end < l4 + 20 {
                return None;
            }
            let a: [u8; 4] = p[12..16].try_into().ok()?;
            let b: [u8; 4] = p[16..20].try_into().ok()?;
            Some((Ipv4Addr::from(a).into(), Ipv4Addr::from(b).into(), l4, end))
        }
        6 if p.len() >= 60 => {
            let end = 40 + usize::from(be16(p, 4));
            let (l4, proto) = crate::extensions::payload(p)?;
            if proto != 6 || end > p.len() || end < l4 + 20 {
                return None;
            }
            let a: [u8; 16] = p[8..24].try_into().ok()?;
            let b: [u8; 16] = p[24..40].try_into().ok()?;
            Some((Ipv6Addr::from(a).into(), Ipv6Addr::from(b).into(), l4, end))
        }
        _ => None,
    }
}

impl Seg {
    /// Reads an IP packet; `None` when it is no whole TCP segment.
    pub fn parse(p: &[u8]) -> Option<Self> {
        let (src, dst, l4, end) = ip(p)?;
        let t = &p[l4..end];
        let data = usize::from(t[12] >> 4) * 4;
        if data < 20 || data > t.len() {
            return None;
        }
        Some(Self {
            src,
            dst,
            sport: be16(t, 0),
            dport: be16(t, 2),
            seq: be32(t, 4),
            ack: be32(t, 8),
            flags: t[13],
            window: be16(t, 14),
            urgent: be16(t, 18),
            opts: Opts::parse(&t[20..data]),
            payload: t[data..].to_vec(),
        })
    }

    /// Reads an Ethernet frame.
    pub fn of_frame(f: &[u8]) -> Option<Self> {
        Self::parse(f.get(ETH..)?)
    }

    /// Whether the TCP checksum of an IP packet is right.
    pub fn checksum_ok(p: &[u8]) -> bool {
        let Some((src, dst, l4, end)) = ip(p) else {
            return false;
        };
        fold(pseudo(&src, &dst, end - l4) + sum(&p[l4..end])) == 0xffff
    }

    /// The segment as an IP packet.
    pub fn packet(&self) -> Vec<u8> {
        let opts = self.opts.bytes();
        let len = 20 + opts.len() + self.payload.len();
        let mut p = Vec::with_capacity(60 + len);
        match (self.src, self.dst) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                p.extend_from_slice(&[0x45, 0]);
                p.extend_from_slice(&((20 + len) as u16).to_be_bytes());
                p.extend_from_slice(&[0, 0, 0x40, 0, 64, 6, 0, 0]);
                p.extend_from_slice(&a.octets());
                p.extend_from_slice(&b.octets());
                let c = !fold(sum(&p));
                p[10..12].copy_from_slice(&c.to_be_bytes());
            }
            (a, b) => {
                let six = |x: IpAddr| match x {
                    IpAddr::V4(v) => v.to_ipv6_mapped(),
                    IpAddr::V6(v) => v,
                };
                p.extend_from_slice(&[0x60, 0, 0, 0]);
                p.extend_from_slice(&(len as u16).to_be_bytes());
                p.extend_from_slice(&[6, 64]);
                p.extend_from_slice(&six(a).octets());
                p.extend_from_slice(&six(b).octets());
            }
        }
        let l4 = p.len();
        p.extend_from_slice(&self.sport.to_be_bytes());
        p.extend_from_slice(&self.dport.to_be_bytes());
        p.extend_from_slice(&self.seq.to_be_bytes());
        p.extend_from_slice(&self.ack.to_be_bytes());
        p.push((((20 + opts.len()) / 4) as u8) << 4);
        p.push(self.flags);
        p.extend_from_slice(&self.window.to_be_bytes());
        p.extend_from_slice(&[0, 0]);
        p.extend_from_slice(&self.urgent.to_be_bytes());
        p.extend_from_slice(&opts);
        p.extend_from_slice(&self.payload);
        let c = !fold(pseudo(&self.src, &self.dst, len) + sum(&p[l4..]));
        p[l4 + 16..l4 + 18].copy_from_slice(&c.to_be_bytes());
        p
    }

    /// The segment as an Ethernet frame.
    pub fn frame(&self, dst: [u8; 6], src: [u8; 6]) -> Vec<u8> {
        let mut f = Vec::with_capacity(ETH + 60 + self.payload.len());
        f.extend_from_slice(&dst);
        f.extend_from_slice(&src);
        let v4 = self.src.is_ipv4();
        f.extend_from_slice(if v4 { &[8, 0] } else { &[0x86, 0xdd] });
        f.extend_from_slice(&self.packet());
        f
    }

    /// Whether any of these flags is set.
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    /// Sequence space that it takes.
    pub fn space(&self) -> u32 {
        self.payload.len() as u32 + u32::from(self.has(SYN)) + u32::from(self.has(FIN))
    }

    /// The number behind it.
    pub fn end(&self) -> u32 {
        self.seq.wrapping_add(self.space())
    }

    /// A bare segment that answers this one.
    pub fn answer(&self, flags: u8, seq: u32, ack: u32) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            sport: self.dport,
            dport: self.sport,
            seq,
            ack,
            flags,
            window: 0,
            urgent: 0,
            opts: Opts::default(),
            payload: Vec::new(),
        }
    }
}

impl Opts {
    fn parse(o: &[u8]) -> Self {
        let mut r = Self::default();
        let mut i = 0;
        while i < o.len() {
            if o[i] == 0 {
                break;
            }
            if o[i] == 1 {
                i += 1;
                continue;
            }
            let len = usize::from(*o.get(i + 1).unwrap_or(&0));
            if len < 2 || i + len > o.len() {
                break;
            }
            let v = &o[i..i + len];
            match (o[i], len) {
                (2, 4) => r.mss = Some(be16(v, 2)),
                (3, 3) => r.shift = Some(v[2]),
                (4, 2) => r.sack_ok = true,
                (5, n) if n >= 10 => {
                    r.sack = v[2..]
                        .chunks_exact(8)
                        .map(|b| (be32(b, 0), be32(b, 4)))
                        .collect();
                }
                (8, 10) => r.ts = Some((be32(v, 2), be32(v, 6))),
                _ => r.raw.extend_from_slice(v),
            }
            i += len;
        }
        r
    }

    fn bytes(&self) -> Vec<u8> {
        let mut b = Vec::with_capacity(40);
        if let Some(m) = self.mss {
            b.extend_from_slice(&[2, 4, (m >> 8) as u8, m as u8]);
        }
        if self.sack_ok {
            b.extend_from_slice(&[4, 2]);
        }
        if let Some((val, ecr)) = self.ts {
            b.extend_from_slice(&[8, 10]);
            b.extend_from_slice(&val.to_be_bytes());
            b.extend_from_slice(&ecr.to_be_bytes());
        }
        if let Some(s) = self.shift {
            b.extend_from_slice(&[3, 3, s]);
        }
        if !self.sack.is_empty() {
            b.extend_from_slice(&[5, (2 + self.sack.len() * 8) as u8]);
            for (l, r) in &self.sack {
                b.extend_from_slice(&l.to_be_bytes());
                b.extend_from_slice(&r.to_be_bytes());
            }
        }
        b.extend_from_slice(&self.raw);
        while b.len() % 4 != 0 {
            b.push(1);
        }
        b
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_bytes_value() {
        for v6 in [false, true] {
            let (src, dst): (IpAddr, IpAddr) = if v6 {
                (
                    "2001:db8::1".parse().unwrap(),
                    "2001:db8::2".parse().unwrap(),
                )
            } else {
                ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap())
            };
            let s = Seg {
                src,
                dst,
                sport: 1,
                dport: 2,
                seq: 0xffff_fff0,
                ack: 0x8000_0001,
                flags: ACK | PSH,
                window: 7,
                urgent: 0,
                opts: Opts {
                    mss: Some(1460),
                    shift: Some(14),
                    sack_ok: true,
                    ts: Some((1, 2)),
                    sack: vec![(3, 4)],
                    raw: Vec::new(),
                },
                payload: b"hello".to_vec(),
            };
            let p = s.packet();
            assert!(Seg::checksum_ok(&p));
            assert_eq!(Seg::parse(&p), Some(s));
            let mut bad = p.clone();
            let last = bad.len() - 1;
            bad[last] ^= 1;
            assert!(!Seg::checksum_ok(&bad));
        }
    }
}
