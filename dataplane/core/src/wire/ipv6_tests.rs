use super::*;
use crate::wire::{ETHERTYPE_IPV6, L3, l3};
use etherparse::{IpNumber, Ipv6Extensions, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;

const SRC: [u8; 16] = *b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\xc1";
const DST: [u8; 16] = *b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x64";
const NONE: u8 = 59;
const TCP: u8 = 6;

/// A frame with these extension headers, whose next-header bytes are filled in, and
/// a body of 20 bytes; `last` is what the body is.
fn frame(headers: &[(u8, Vec<u8>)], last: u8) -> Vec<u8> {
    let mut body = Vec::new();
    for (i, (_, h)) in headers.iter().enumerate() {
        let at = body.len();
        body.extend_from_slice(h);
        body[at] = headers.get(i + 1).map_or(last, |n| n.0);
    }
    body.extend_from_slice(&[7; 20]);
    let mut f = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2].to_vec();
    f.extend_from_slice(&ETHERTYPE_IPV6.to_be_bytes());
    let next = headers.first().map_or(last, |h| h.0);
    let h = Ipv6Hdr::new(&Addr(SRC), &Addr(DST), next, body.len(), 64);
    f.extend_from_slice(h.as_bytes());
    f.extend_from_slice(&body);
    f
}

/// Options of `units` times eight bytes: padding only.
fn options(units: usize) -> Vec<u8> {
    let mut o = vec![0; units * 8];
    o[1] = (units - 1) as u8;
    o
}

fn routing(ty: u8, left: u8) -> Vec<u8> {
    let mut o = options(1);
    o[2] = ty;
    o[3] = left;
    o
}

fn part(offset: u16, more: bool) -> Vec<u8> {
    let mut o = vec![0; 8];
    o[2..4].copy_from_slice(&(offset | u16::from(more)).to_be_bytes());
    o[7] = 9;
    o
}

fn ip(f: &[u8]) -> Result<Ip, Bad> {
    l3(f).map(|l| match l {
        L3::Ip(ip) => ip,
        other => panic!("{other:?}"),
    })
}

#[test]
fn the_header_is_these_bytes() {
    let h = Ipv6Hdr::new(&Addr(SRC), &Addr(DST), TCP, 20, 64);
    let hex: String = h.as_bytes().iter().map(|b| format!("{b:02x}")).collect();
    let golden = "600000000014064020010db80000000000000000000000c1\
        20010db8000000000000000000000064";
    assert_eq!(hex, golden);
    let ip = ip(&frame(&[], TCP)).unwrap();
    assert_eq!((ip.src, ip.dst), (Addr(SRC), Addr(DST)));
    assert_eq!((ip.proto, ip.fragment), (TCP, false));
    assert_eq!((ip.l4, ip.end), (54, 74));
}

#[test]
fn headers_that_are_walked() {
    let all = [
        (HOP_BY_HOP, options(2)),
        (DESTINATION, options(1)),
        (ROUTING, routing(4, 0)),
        (FRAGMENT, part(0, false)),
        (DESTINATION, options(3)),
    ];
    let f = frame(&all, TCP);
    let ip = ip(&f).unwrap();
    assert_eq!((ip.proto, ip.fragment), (TCP, false), "a whole packet");
    assert_eq!((ip.l4, ip.end), (54 + 64, f.len()));
    // Ethernet padding belongs to nothing.
    let mut padded = f.clone();
    padded.extend_from_slice(&[0; 9]);
    assert_eq!(super::super::l3(&padded), Ok(L3::Ip(ip)));
}

#[test]
fn an_independent_parser_finds_the_same_payload() {
    let exts = Ipv6Extensions {
        hop_by_hop_options: Some(
            etherparse::Ipv6RawExtHeader::new_raw(IpNumber(0), &[1, 4, 0, 0, 0, 0]).unwrap(),
        ),
        destination_options: Some(
            etherparse::Ipv6RawExtHeader::new_raw(IpNumber(0), &[0; 14]).unwrap(),
        ),
        ..Ipv6Extensions::default()
    };
    let header = etherparse::Ipv6Header {
        source: SRC,
        destination: DST,
        hop_limit: 64,
        ..Default::default()
    };
    let mut f = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ip(etherparse::IpHeaders::Ipv6(header, exts))
        .tcp(40_000, 80, 7, 502)
        .write(&mut f, b"GET")
        .unwrap();
    let ip = ip(&f).unwrap();
    let s = crate::wire::tcp::Segment::parse(&f, &ip).unwrap();
    assert!(s.checksum_ok(&f, &ip));
    assert_eq!(&f[s.data..s.end], b"GET");
    let sliced = SlicedPacket::from_ethernet(&f).unwrap();
    let Some(TransportSlice::Tcp(t)) = sliced.transport else {
        panic!("no TCP")
    };
    assert_eq!(t.payload(), b"GET");
}

#[test]
fn fragments_are_told() {
    for (offset, more) in [(0, true), (8, false), (1480, true)] {
        let f = frame(&[(FRAGMENT, part(offset, more))], TCP);
        let ip = ip(&f).unwrap();
        assert!(ip.fragment && ip.may_be_tcp());
        assert_eq!((ip.proto, ip.l4), (TCP, 62));
    }
    // What hides behind it is not known before it is whole.
    let hidden = frame(&[(FRAGMENT, part(0, true)), (DESTINATION, options(1))], TCP);
    let ip1 = ip(&hidden).unwrap();
    assert_eq!((ip1.proto, ip1.may_be_tcp()), (DESTINATION, true));
    let udp = ip(&frame(&[(FRAGMENT, part(0, true))], 17)).unwrap();
    assert!(udp.fragment && !udp.may_be_tcp());
}

#[test]
fn bounds() {
    let chain = |n: usize| frame(&vec![(DESTINATION, options(1)); n], TCP);
    assert_eq!(ip(&chain(EXT_MOST)).unwrap().proto, TCP);
    assert_eq!(ip(&chain(EXT_MOST + 1)), Err(Bad::Extensions));
    let long = |units| frame(&[(DESTINATION, options(units))], TCP);
    assert_eq!(ip(&long(EXT_BYTES_MOST / 8)).unwrap().proto, TCP);
    assert_eq!(ip(&long(EXT_BYTES_MOST / 8 + 1)), Err(Bad::Extensions));
    let mut whole = long(EXT_BYTES_MOST / 8);
    (whole[54], whole[19]) = (FRAGMENT, whole[19].wrapping_add(8));
    whole.splice(54 + EXT_BYTES_MOST..54 + EXT_BYTES_MOST, part(0, false));
    whole[54 + EXT_BYTES_MOST] = TCP;
    assert_eq!(ip(&whole), Err(Bad::Extensions), "a fragment header counts");
    let late = frame(&[(DESTINATION, options(1)), (HOP_BY_HOP, options(1))], TCP);
    assert_eq!(ip(&late), Err(Bad::Extensions));
}

#[test]
fn routing_headers() {
    for (ty, left) in [(0, 0), (0, 1), (2, 1), (4, 3)] {
        let f = frame(&[(ROUTING, routing(ty, left))], TCP);
        assert_eq!(ip(&f), Err(Bad::Routing), "type {ty}, {left} left");
    }
}

#[test]
fn what_is_not_tcp_is_not_looked_into() {
    for proto in [NONE, 50, 51, 135, 41, 58] {
        let ip = ip(&frame(&[(DESTINATION, options(1))], proto)).unwrap();
        assert_eq!((ip.proto, ip.l4), (proto, 62));
        assert!(!ip.may_be_tcp());
    }
}

#[test]
fn jumbograms_mapped_addresses_and_lies() {
    let mut jumbo = frame(&[(HOP_BY_HOP, b"\0\0\xc2\x04\0\x01\0\0".to_vec())], TCP);
    assert!(ip(&jumbo).is_ok(), "a length makes it ordinary");
    jumbo[18..20].fill(0);
    assert_eq!(ip(&jumbo), Err(Bad::Jumbogram));
    for at in [22, 38] {
        let mut f = frame(&[], TCP);
        f[at..at + 16].copy_from_slice(&Addr::v4([10, 0, 0, 1]).0);
        assert_eq!(ip(&f), Err(Bad::Mapped));
    }
    let good = frame(&[(DESTINATION, options(2))], TCP);
    let mut version = good.clone();
    version[14] = 0x45;
    let mut beyond = good.clone();
    beyond[19] += 1;
    let mut chain = good.clone();
    chain[55] = 5;
    for f in [version, beyond, chain] {
        assert_eq!(ip(&f), Err(Bad::Malformed));
    }
    for n in 14..good.len() {
        assert_eq!(ip(&good[..n]), Err(Bad::Malformed), "{n} bytes");
    }
}

proptest! {
    /// Whatever comes in, what is found lies within the frame.
    #[test]
    fn noise(next: u8, body in prop::collection::vec(any::<u8>(), 0..400), len in 0u16..420) {
        let mut f = frame(&[], next);
        f.truncate(54);
        f.extend_from_slice(&body);
        f[18..20].copy_from_slice(&len.to_be_bytes());
        if let Ok(ip) = ip(&f) {
            prop_assert!(ip.l4 <= ip.end && ip.end <= f.len());
            let _ = crate::wire::tcp::Segment::parse(&f, &ip);
            let _ = crate::wire::tcp::ports(&f, &ip);
            let _ = crate::wire::icmp::Quote::parse(&f, &ip);
            let _ = crate::wire::nd::Solicit::parse(&f, &ip);
        }
    }

    #[test]
    fn chains_of_noise(kinds in prop::collection::vec(0usize..4, 0..10), last: u8,
                       noise in prop::collection::vec(any::<u8>(), 80)) {
        let kind = |k| [HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION][k];
        let headers: Vec<_> = kinds.iter().enumerate()
            .map(|(i, &k)| (kind(k), noise[i * 8..i * 8 + 8].to_vec())).collect();
        if let Ok(ip) = ip(&frame(&headers, last)) {
            prop_assert!(ip.l4 <= ip.end);
        }
    }
}
