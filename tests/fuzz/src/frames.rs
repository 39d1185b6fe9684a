//! What a correct frame is, by an independent parser.

use etherparse::{EtherType, Ethernet2Header, Ipv4HeaderSlice, TcpHeaderSlice};

/// The TCP segment of a frame, as `etherparse` reads it.
#[derive(Clone, Debug)]
pub struct Tcp {
    /// Source address.
    pub src: [u8; 4],
    /// Destination address.
    pub dst: [u8; 4],
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
    /// A whole TCP segment over IPv4.
    Tcp(Tcp),
    /// A fragment of TCP over IPv4: source, sound header.
    Fragment([u8; 4], bool),
    /// Something else, or nothing that can be read.
    Other,
}

/// Reads a frame.
pub fn read(frame: &[u8]) -> Kind {
    let Ok((eth, rest)) = Ethernet2Header::from_slice(frame) else {
        return Kind::Other;
    };
    if eth.ether_type != EtherType::IPV4 {
        return Kind::Other;
    }
    let Ok(slice) = Ipv4HeaderSlice::from_slice(rest) else {
        return Kind::Other;
    };
    let ip = slice.to_header();
    let head = slice.slice().len();
    let total = usize::from(ip.total_len);
    if ip.protocol.0 != 6 || total < head || total > rest.len() {
        return Kind::Other;
    }
    let ip_sound = ip.header_checksum == ip.calc_header_checksum();
    if ip.is_fragmenting_payload() {
        return Kind::Fragment(ip.source, ip_sound);
    }
    let body = &rest[head..total];
    let Ok(slice) = TcpHeaderSlice::from_slice(body) else {
        return Kind::Other;
    };
    let tcp = slice.to_header();
    let payload = &body[slice.slice().len()..];
    let right = tcp.calc_checksum_ipv4(&ip, payload);
    let ts = slice.options_iterator().flatten().find_map(|o| match o {
        etherparse::TcpOptionElement::Timestamp(val, _) => Some(val),
        _ => None,
    });
    Kind::Tcp(Tcp {
        src: ip.source,
        dst: ip.destination,
        sport: tcp.source_port,
        dport: tcp.destination_port,
        seq: tcp.sequence_number,
        syn: tcp.syn,
        fin: tcp.fin,
        rst: tcp.rst,
        ts,
        len: payload.len(),
        sound: ip_sound && right == Ok(tcp.checksum),
    })
}

/// Puts the fragments of one datagram, given in any order, together again; `None`
/// when they do not make one whole datagram.
pub fn reassemble(parts: &[Vec<u8>]) -> Option<Vec<u8>> {
    let offset = |p: &[u8]| usize::from(u16::from_be_bytes([p[20], p[21]]) & 0x1fff) * 8;
    let more = |p: &[u8]| p[20] & 0x20 != 0;
    let last = parts.iter().find(|p| !more(p))?;
    let total = offset(last) + last.len() - 34;
    let mut whole = parts.iter().find(|p| offset(p) == 0)?[..34].to_vec();
    whole.resize(34 + total, 0);
    let mut seen = 0;
    for p in parts {
        let at = 34 + offset(p);
        whole
            .get_mut(at..at + p.len() - 34)?
            .copy_from_slice(&p[34..]);
        seen += p.len() - 34;
    }
    whole[20..22].copy_from_slice(&[0x40, 0]);
    let n = whole.len() - 14;
    dts_core::wire::edit::set_ip_len(&mut whole, n);
    (seen == total && n <= 0xffff).then_some(whole)
}
