//! What a correct frame is, by an independent parser.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The TCP segment of a frame, as `etherparse` reads it.
#[derive(Clone, Debug)]
pub struct Tcp {
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
    /// SYN.
    pub syn: bool,
    /// FIN.
    pub fin: bool,
    /// RST.
    pub rst: bool,
    /// TSval.
    pub ts: Option<u32>,
    /// Payload bytes.
    pub len: usize,
    /// The IP header's checksum is right.
    pub ip_sound: bool,
    /// Both checksums are right.
    pub sound: bool,
}

impl Tcp {
    /// The number behind the segment.
    pub fn seq_end(&self) -> u32 {
        let n = self.len as u32 + u32::from(self.syn) + u32::from(self.fin);
        self.seq.wrapping_add(n)
    }
}

/// What a frame carries.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A whole TCP segment.
    Tcp(Tcp),
    /// A fragment of a datagram: its source, and a sound header.
    Fragment(IpAddr, bool),
    /// Something else with a sound header.
    Datagram,
    /// Something else, or nothing that can be read.
    Other,
}

/// Reads a frame.
pub fn read(frame: &[u8]) -> Kind {
    let ip = matches!(frame.get(12..14), Some([8, 0] | [0x86, 0xdd]));
    let Ok(p) = SlicedPacket::from_ethernet(frame) else {
        return Kind::Other;
    };
    let (src, dst, ip_sound, part) = match (&p.net, ip) {
        (Some(NetSlice::Ipv4(h)), true) => {
            let h = h.header();
            let right = h.to_header().calc_header_checksum() == h.header_checksum();
            let (src, dst) = (h.source_addr(), h.destination_addr());
            (
                IpAddr::V4(src),
                IpAddr::V4(dst),
                right,
                h.is_fragmenting_payload(),
            )
        }
        (Some(NetSlice::Ipv6(h)), true) => {
            let part = h.is_payload_fragmented();
            let h = h.header();
            let (src, dst) = (h.source_addr(), h.destination_addr());
            (IpAddr::V6(src), IpAddr::V6(dst), true, part)
        }
        _ => return Kind::Other,
    };
    if part {
        return Kind::Fragment(src, ip_sound);
    }
    let Some(TransportSlice::Tcp(tcp)) = &p.transport else {
        return if ip_sound {
            Kind::Datagram
        } else {
            Kind::Other
        };
    };
    let h = tcp.to_header();
    let right = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => sum_v4(&h, src, dst, tcp.payload()),
        (IpAddr::V6(src), IpAddr::V6(dst)) => sum_v6(&h, src, dst, tcp.payload()),
        _ => None,
    };
    let ts = tcp.options_iterator().flatten().find_map(|o| match o {
        etherparse::TcpOptionElement::Timestamp(val, _) => Some(val),
        _ => None,
    });
    Kind::Tcp(Tcp {
        src,
        dst,
        sport: h.source_port,
        dport: h.destination_port,
        seq: h.sequence_number,
        syn: h.syn,
        fin: h.fin,
        rst: h.rst,
        ts,
        len: tcp.payload().len(),
        ip_sound,
        sound: ip_sound && right == Some(h.checksum),
    })
}

fn sum_v4(h: &etherparse::TcpHeader, src: Ipv4Addr, dst: Ipv4Addr, payload: &[u8]) -> Option<u16> {
    let (src, dst) = (src.octets(), dst.octets());
    h.calc_checksum_ipv4_raw(src, dst, payload).ok()
}

fn sum_v6(h: &etherparse::TcpHeader, src: Ipv6Addr, dst: Ipv6Addr, payload: &[u8]) -> Option<u16> {
    let (src, dst) = (src.octets(), dst.octets());
    h.calc_checksum_ipv6_raw(src, dst, payload).ok()
}

/// Where a fragment's data begins, its offset in the datagram, and whether more
/// follows; of a fragment that we made, so without options or other headers.
fn fragment(p: &[u8]) -> Option<(usize, usize, bool)> {
    let word = |at: usize| Some(u16::from_be_bytes([*p.get(at)?, *p.get(at + 1)?]));
    if p.get(12..14)? == [8, 0] {
        let w = word(20)?;
        return Some((34, usize::from(w & 0x1fff) * 8, w & 0x2000 != 0));
    }
    let w = word(56)?;
    Some((62, usize::from(w & 0xfff8), w & 1 != 0))
}

/// What tells the fragments of one datagram from those of another.
pub fn datagram_id(p: &[u8]) -> Vec<u8> {
    let v4 = p.get(12..14) == Some(&[8, 0][..]);
    p.get(if v4 { 18..20 } else { 58..62 })
        .unwrap_or_default()
        .to_vec()
}

/// Puts the fragments of one datagram, given in any order, together again; `None`
/// when they do not make one whole datagram.
pub fn reassemble(parts: &[Vec<u8>]) -> Option<Vec<u8>> {
    let first = parts
        .iter()
        .find(|p| matches!(fragment(p), Some((_, 0, _))))?;
    let v4 = first[12..14] == [8, 0];
    let head = if v4 { 34 } else { 54 };
    let mut whole = first[..head].to_vec();
    let (mut seen, mut total) = (0, None);
    for p in parts {
        let (data, at, more) = fragment(p)?;
        let data = p.get(data..)?;
        let (from, to) = (head + at, head + at + data.len());
        whole.resize(whole.len().max(to), 0);
        whole[from..to].copy_from_slice(data);
        seen += data.len();
        if !more {
            total = Some(at + data.len());
        }
    }
    if v4 {
        whole[20..22].copy_from_slice(&[0x40, 0]);
    } else {
        whole[20] = first[54];
    }
    let n = whole.len() - 14;
    dts_core::wire::edit::set_ip_len(&mut whole, n);
    (total == Some(seen) && whole.len() == head + seen && n <= 0xffff).then_some(whole)
}
