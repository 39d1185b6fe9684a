//! What the relay has to know of a frame.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use std::net::SocketAddr;
use std::ops::Range;

/// A TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Who sent it.
    pub from: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// Its sequence number.
    pub seq: u32,
    /// Bytes of payload.
    pub len: u32,
    /// SYN is set.
    pub syn: bool,
    /// FIN is set.
    pub fin: bool,
    /// RST is set.
    pub rst: bool,
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What is behind the IP header, as a range of the frame; empty where there is no IP.
    pub behind_ip: Range<usize>,
    /// The segment, if it is a whole one.
    pub tcp: Option<Tcp>,
}

impl Frame {
    /// Reads an Ethernet frame. What cannot be read is no IP.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let nothing = Self {
            behind_ip: 0..0,
            tcp: None,
        };
        let Ok(packet) = SlicedPacket::from_ethernet(bytes) else {
            return nothing;
        };
        let (source, destination, payload) = match &packet.net {
            Some(NetSlice::Ipv4(ip)) => (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
                ip.payload().payload,
            ),
            Some(NetSlice::Ipv6(ip)) => (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
                ip.payload().payload,
            ),
            _ => return nothing,
        };
        // The slice lies within the frame: padding may follow it.
        let start = payload.as_ptr().addr() - bytes.as_ptr().addr();
        let tcp = match &packet.transport {
            Some(TransportSlice::Tcp(tcp)) => Some(Tcp {
                from: SocketAddr::new(source, tcp.source_port()),
                to: SocketAddr::new(destination, tcp.destination_port()),
                seq: tcp.sequence_number(),
                len: tcp.payload().len() as u32,
                syn: tcp.syn(),
                fin: tcp.fin(),
                rst: tcp.rst(),
            }),
            _ => None,
        };
        Self {
            behind_ip: start..start + payload.len(),
            tcp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    #[test]
    fn a_segment_and_what_is_none() {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(1000, 80, 77, 100)
            .fin();
        let mut bytes = Vec::new();
        builder.write(&mut bytes, b"hello").expect("a frame");
        // What Ethernet adds to short frames is no payload.
        bytes.resize(80, 0);
        let frame = Frame::parse(&bytes);
        assert_eq!(frame.behind_ip, 34..59);
        let tcp = frame.tcp.expect("TCP");
        assert_eq!((tcp.seq, tcp.len, tcp.fin, tcp.syn), (77, 5, true, false));
        assert_eq!(tcp.from, "10.0.0.1:1000".parse().expect("an address"));
        assert_eq!(tcp.to, "10.0.0.2:80".parse().expect("an address"));
        assert_eq!(Frame::parse(&bytes[..20]).behind_ip, 0..0);
        assert_eq!(Frame::parse(&[]).tcp, None);
    }
}
