//! Frames that the data plane makes itself.

use super::ipv6::{self, FRAGMENT_LEN, HEADER_LEN, Ipv6Hdr};
use super::options::Build;
use super::{
    ETH_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, EthHdr, Ipv4Hdr, Mac, PROTO_TCP, TcpHdr, checksum,
    edit,
};
use crate::key::Addr;
use zerocopy::IntoBytes;

/// A TCP segment to be made. Both addresses are of one family.
#[derive(Clone, Copy, Debug)]
pub struct Tcp<'a> {
    /// Ethernet destination.
    pub eth_dst: Mac,
    /// Ethernet source.
    pub eth_src: Mac,
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number (0 without ACK).
    pub ack: u32,
    /// Flags.
    pub flags: u8,
    /// Window field.
    pub window: u16,
    /// Options.
    pub opts: Build,
    /// Payload.
    pub payload: &'a [u8],
}

/// Bytes of Ethernet, IPv6 and TCP headers with all TCP options.
pub const MAX_HEADERS: usize = ETH_LEN + HEADER_LEN + 60;
/// Time to live and hop limit of what we make.
const HOPS: u8 = 64;

fn ipv4(src: [u8; 4], dst: [u8; 4], proto: u8, len: usize, id: u16, frag: u16) -> Ipv4Hdr {
    let mut h = Ipv4Hdr {
        version_ihl: 0x45,
        tos: 0,
        total_len: ((20 + len) as u16).into(),
        id: id.into(),
        frag: frag.into(),
        ttl: HOPS,
        proto,
        checksum: 0.into(),
        src,
        dst,
    };
    h.checksum = (!checksum::fold(checksum::sum(h.as_bytes()))).into();
    h
}

impl Tcp<'_> {
    /// The whole frame; over IPv4 with DF set (RFC 1191: a TCP discovers its path's
    /// MTU), as it always is over IPv6.
    pub fn frame(&self) -> Vec<u8> {
        let (opts, n) = self.opts.bytes();
        let mut f = Vec::with_capacity(MAX_HEADERS + self.payload.len());
        let v4 = self.src.is_v4();
        let eth = EthHdr {
            dst: self.eth_dst,
            src: self.eth_src,
            ethertype: if v4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 }.into(),
        };
        f.extend_from_slice(eth.as_bytes());
        let tcp_len = 20 + n + self.payload.len();
        if v4 {
            let (src, dst) = (self.src.octets_v4(), self.dst.octets_v4());
            f.extend_from_slice(ipv4(src, dst, PROTO_TCP, tcp_len, 0, 0x4000).as_bytes());
        } else {
            let ip = Ipv6Hdr::new(&self.src, &self.dst, PROTO_TCP, tcp_len, HOPS);
            f.extend_from_slice(ip.as_bytes());
        }
        let l4 = f.len();
        let tcp = TcpHdr {
            sport: self.sport.into(),
            dport: self.dport.into(),
            seq: self.seq.into(),
            ack: self.ack.into(),
            off: (((20 + n) / 4) as u8) << 4,
            flags: self.flags,
            window: self.window.into(),
            checksum: 0.into(),
            urgent: 0.into(),
        };
        f.extend_from_slice(tcp.as_bytes());
        f.extend_from_slice(&opts[..n]);
        f.extend_from_slice(self.payload);
        let end = f.len();
        edit::write_tcp_checksum(&mut f, l4, end);
        f
    }
}

/// Splits a frame that we made, and whose datagram exceeds `mtu`, into IP fragments
/// (RFC 791, section 2.3; RFC 8200, section 4.5); a smaller one is given as it is.
/// `id` tells the datagrams apart; IPv4 takes its lower half.
///
/// A replay's SYN carries the whole request, up to 60,000 bytes; the stack
/// reassembles the fragments, so no port needs jumbo frames. `mtu` is at least 1,280
/// for IPv6: Linux takes no smaller fragment but the last one.
pub fn fragment(frame: &[u8], mtu: usize, id: u32, mut emit: impl FnMut(&[u8])) {
    if frame.len() <= ETH_LEN + mtu {
        return emit(frame);
    }
    let (eth, ip) = frame.split_at(ETH_LEN);
    let v6 = ip[0] >> 4 == 6;
    let headers = if v6 { HEADER_LEN + FRAGMENT_LEN } else { 20 };
    let data = &ip[if v6 { HEADER_LEN } else { 20 }..];
    let step = (mtu - headers) / 8 * 8;
    let mut out = Vec::with_capacity(ETH_LEN + mtu);
    for (i, part) in data.chunks(step).enumerate() {
        let more = (i + 1) * step < data.len();
        let at = i * step;
        out.clear();
        out.extend_from_slice(eth);
        if v6 {
            out.extend_from_slice(&ip[..HEADER_LEN]);
            edit::set_ip_len(&mut out, headers + part.len());
            out[ETH_LEN + 6] = ipv6::FRAGMENT;
            out.extend_from_slice(&[ip[6], 0]);
            out.extend_from_slice(&(at as u16 | u16::from(more)).to_be_bytes());
            out.extend_from_slice(&id.to_be_bytes());
        } else {
            let mut src = [0; 4];
            let mut dst = [0; 4];
            src.copy_from_slice(&ip[12..16]);
            dst.copy_from_slice(&ip[16..20]);
            let frag = (at / 8) as u16 | if more { 0x2000 } else { 0 };
            out.extend_from_slice(ipv4(src, dst, ip[9], part.len(), id as u16, frag).as_bytes());
        }
        out.extend_from_slice(part);
        emit(&out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::options::SpliceOption;
    use crate::wire::tcp::{ACK, PSH, SYN, Segment};
    use crate::wire::{L3, l3};

    fn tcp(payload: &[u8]) -> Tcp<'_> {
        Tcp {
            eth_dst: [2, 0, 0, 0, 0, 1],
            eth_src: [2, 0, 0, 0, 0, 2],
            src: Addr::v4([10, 77, 1, 1]),
            dst: Addr::v4([10, 77, 1, 2]),
            sport: 61000,
            dport: 80,
            seq: 0x0102_0304,
            ack: 0,
            flags: SYN,
            window: 0,
            opts: Build {
                mss: Some(1460),
                sack_permitted: true,
                timestamps: Some((1, 0)),
                wscale: Some(7),
                splice: Some(SpliceOption {
                    client: [10, 77, 0, 200],
                    port: 40000,
                    init_seq: 0xaabb_ccdd,
                }),
            },
            payload,
        }
    }

    /// The paper's SYN: figure 5 and table 1, beside the client's SYN options.
    #[test]
    fn splice_syn_golden_bytes() {
        let hex: String = tcp(b"")
            .frame()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        let golden = "02000000000102000000000208004500004800004000400623\
            c20a4d01010a4d0102ee48005001020304000000 00d002000063c40000\
            020405b40402080a000000010000000001030307200c0a4d00c89c40aabbccdd";
        let golden: String = golden.split_whitespace().collect();
        // The two checksums are proved by etherparse below; everything else is literal.
        let mask = |s: &str| {
            let mut b: Vec<u8> = s.bytes().collect();
            b[48..52].fill(b'x');
            b[100..104].fill(b'x');
            String::from_utf8(b).unwrap()
        };
        assert_eq!(mask(&hex), mask(&golden));
    }

    fn tcp6(payload: &[u8]) -> Tcp<'_> {
        let ip = |text: &str| text.parse::<std::net::IpAddr>().unwrap().into();
        let t = tcp(payload);
        Tcp {
            src: ip("fd00:77:1::1"),
            dst: ip("fd00:77:1::2"),
            opts: Build {
                splice: None,
                ..t.opts
            },
            ..t
        }
    }

    /// Of an IPv6 client the option has no address: the block tells it.
    #[test]
    fn splice_syn_over_ipv6_golden_bytes() {
        let f = tcp6(b"").frame();
        let hex: String = f.iter().map(|b| format!("{b:02x}")).collect();
        let golden = "02000000000102000000000286dd\
            6000000000280640fd000077000100000000000000000001fd000077000100000000000000000002\
            ee48005001020304000000 00a0020000----0000020405b40402080a000000010000000001030307";
        let golden = golden.replace(' ', "");
        let at = golden.find('-').unwrap();
        assert_eq!(
            (&hex[..at], &hex[at + 4..]),
            (&golden[..at], &golden[at + 4..])
        );
        let p = etherparse::PacketHeaders::from_ethernet_slice(&f).unwrap();
        let Some(etherparse::NetHeaders::Ipv6(ip, _)) = p.net else {
            panic!("no IPv6")
        };
        let Some(etherparse::TransportHeader::Tcp(h)) = p.transport else {
            panic!("no TCP")
        };
        assert_eq!(h.checksum, h.calc_checksum_ipv6(&ip, b"").unwrap());
    }

    /// Every non-final part has at least 1,280 bytes and a multiple of eight, and
    /// another parser puts them together.
    #[test]
    fn ipv6_fragments_reassemble_to_the_datagram() {
        let body: Vec<u8> = (0..60_000u32).map(|i| (i * 7) as u8).collect();
        let f = tcp6(&body).frame();
        for mtu in [1280, 1281, 1400, 1500, 9000] {
            let mut data = Vec::new();
            let mut ended = false;
            fragment(&f, mtu, 0x0102_0304, |p| {
                assert!(p.len() <= ETH_LEN + mtu && !ended);
                let Ok(L3::Ip(ip)) = l3(p) else { panic!() };
                assert!(ip.fragment && ip.may_be_tcp() && ip.end == p.len());
                let s = etherparse::SlicedPacket::from_ethernet(p).unwrap();
                let Some(etherparse::NetSlice::Ipv6(v6)) = s.net else {
                    panic!("no IPv6")
                };
                let Some(etherparse::Ipv6ExtensionSlice::Fragment(h)) =
                    v6.extensions().clone().into_iter().next()
                else {
                    panic!("no fragment header")
                };
                assert_eq!(h.identification(), 0x0102_0304);
                assert_eq!(h.next_header().0, PROTO_TCP);
                assert_eq!(usize::from(h.fragment_offset().value()) * 8, data.len());
                data.extend_from_slice(&p[ip.l4..ip.end]);
                ended = !h.more_fragments();
                if !ended {
                    assert!((ip.end - ip.l4) % 8 == 0 && p.len() - ETH_LEN >= 1280);
                }
            });
            assert!(ended);
            assert_eq!(data, f[54..]);
        }
        let small = tcp6(b"x").frame();
        fragment(&small, 1280, 1, |p| assert_eq!(p, small));
    }

    #[test]
    fn an_independent_parser_agrees() {
        let mut t = tcp(b"hello");
        t.flags = ACK | PSH;
        t.ack = 77;
        let f = t.frame();
        let p = etherparse::PacketHeaders::from_ethernet_slice(&f).unwrap();
        let Some(etherparse::NetHeaders::Ipv4(ip, _)) = p.net else {
            panic!("no IPv4")
        };
        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
        let Some(etherparse::TransportHeader::Tcp(h)) = p.transport else {
            panic!("no TCP")
        };
        assert_eq!(h.checksum, h.calc_checksum_ipv4(&ip, b"hello").unwrap());
        assert_eq!(
            (h.source_port, h.destination_port, h.acknowledgment_number),
            (61000, 80, 77)
        );
        let Ok(L3::Ip(ip)) = l3(&f) else { panic!() };
        let s = Segment::parse(&f, &ip).unwrap();
        assert!(s.checksum_ok(&f, &ip));
        assert_eq!(s.len(), 5);
    }

    #[test]
    fn fragments_reassemble_to_the_datagram() {
        let body: Vec<u8> = (0..60_000u32).map(|i| i as u8).collect();
        let f = tcp(&body).frame();
        let mut data = vec![0u8; f.len() - 34];
        let mut last_seen = false;
        let mut n = 0;
        fragment(&f, 1500, 9, |p| {
            assert!(p.len() <= 1514);
            let Ok(L3::Ip(ip)) = l3(p) else { panic!() };
            assert!(ip.fragment);
            let frag = u16::from_be_bytes([p[20], p[21]]);
            let at = usize::from(frag & 0x1fff) * 8;
            data[at..at + ip.end - ip.l4].copy_from_slice(&p[ip.l4..ip.end]);
            last_seen |= frag & 0x2000 == 0;
            n += 1;
        });
        assert!(last_seen && n > 40);
        assert_eq!(data, f[34..]);
    }
}
