//! The parsers of frames against `etherparse`, and what rewrites frames against a
//! recomputation.

use crate::frames::{self, Kind};
use crate::input::Input;
use dts_core::key::Addr;
use dts_core::wire::arp::Arp;
use dts_core::wire::build::{self, Tcp};
use dts_core::wire::checksum;
use dts_core::wire::edit::{self, Edit};
use dts_core::wire::hello::Hello;
use dts_core::wire::icmp::{PROTO_ICMP, Quote};
use dts_core::wire::nd::{self, Solicit};
use dts_core::wire::options::Build;
use dts_core::wire::tcp::{self, Segment};
use dts_core::wire::{self, Ip, L3};
use dts_proto::block::LinkKey;
use etherparse::{
    ArpPacketSlice, EtherType, Ethernet2Header, Ipv4HeaderSlice, Ipv6Slice, TcpHeaderSlice,
};
use std::net::IpAddr;

/// Runs one input: its first byte says which part.
pub fn run(data: &[u8]) {
    let mut u = Input::new(data);
    match u.next::<u8>() & 7 {
        0 | 1 => frame(u.rest()),
        2 => ip_frame(&mut u),
        3 => edits(&mut u),
        4 => cut(&mut u),
        5 => fragments(&mut u),
        6 if u.next::<u8>() & 1 == 0 => arp(u.rest()),
        6 => ip6_frame(&mut u),
        _ => quote(&mut u),
    }
}

/// Any bytes.
fn frame(f: &[u8]) {
    assert_eq!(wire::eth(f).is_some(), f.len() >= 14);
    match wire::l3(f) {
        Err(_) | Ok(L3::Other) => {}
        Ok(L3::Arp) => assert_eq!(f[12..14], [8, 6]),
        Ok(L3::Ip(ip)) => {
            network(f, &ip);
            let _ = Quote::parse(f, &ip);
            let _ = Solicit::parse(f, &ip);
            let _ = nd::target(f, &ip);
        }
    }
    let _ = Arp::parse(f);
    if Hello::is_one(f) {
        // Nobody can sign without the key.
        let key = LinkKey::of(b"of the fuzzer");
        assert!(Hello::parse(f, &[key]).is_err());
    }
    // What etherparse takes for IPv4 is no accident to us.
    if let Ok((eth, rest)) = Ethernet2Header::from_slice(f)
        && eth.ether_type == EtherType::IPV4
        && let Ok(h) = Ipv4HeaderSlice::from_slice(rest)
    {
        let total = usize::from(h.total_len());
        let fair = total >= h.slice().len() && total <= rest.len();
        assert_eq!(wire::l3(f).is_ok(), fair, "{f:02x?}");
    }
}

/// An IPv4 frame, whatever is in it otherwise.
fn ip_frame(u: &mut Input<'_>) {
    let fix = u.next::<u8>();
    let mut f = vec![2; 12];
    f.extend([8, 0]);
    f.extend(u.rest());
    if f.len() < 54 {
        return;
    }
    let n = f.len() - 14;
    f[14] = 0x45 + (fix & 3);
    f[16..18].copy_from_slice(&(n as u16).to_be_bytes());
    if fix & 4 == 0 {
        f[20..22].fill(0);
    }
    f[23] = if fix & 8 == 0 { 6 } else { 1 };
    frame(&f);
}

/// An IPv6 frame with these extension headers and what follows.
fn ip6_frame(u: &mut Input<'_>) {
    let mut f = vec![2; 12];
    f.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0]);
    f.push(u.pick(&[0, 43, 44, 60, 6, 58, 51, 59]));
    f.push(64);
    f.extend(u.next::<[u8; 32]>());
    f[22] |= 0x20;
    f[38] |= 0x20;
    f.extend(u.rest());
    let n = (f.len() - 54) as u16;
    f[18..20].copy_from_slice(&n.to_be_bytes());
    frame(&f);
}

fn network(f: &[u8], ip: &Ip) {
    assert_eq!(ip.src.is_v4(), ip.dst.is_v4());
    if !ip.src.is_v4() {
        return network6(f, ip);
    }
    let h = Ipv4HeaderSlice::from_slice(&f[14..]).expect("IPv4 for etherparse too");
    assert_eq!(ip.src, Addr::v4(h.source()));
    assert_eq!(ip.dst, Addr::v4(h.destination()));
    assert_eq!(ip.proto, h.protocol().0);
    assert_eq!(ip.fragment, h.is_fragmenting_payload());
    assert_eq!(ip.l4, 14 + h.slice().len());
    assert_eq!(ip.end, 14 + usize::from(h.total_len()));
    segments(f, ip, |t, payload| t.calc_checksum_ipv4(&h, payload).ok());
}

/// Extension headers are walked by both; behind some only `etherparse` goes on.
fn network6(f: &[u8], ip: &Ip) {
    // AH, mobility, HIP and Shim6 are no way to TCP here, however they look; and what
    // a fragment looks like matters to whoever puts it together.
    let opaque = matches!(ip.proto, 51 | 135 | 139 | 140);
    let Ok(p) = Ipv6Slice::from_slice(&f[14..]) else {
        return assert!(opaque || ip.fragment, "no IPv6 for etherparse: {f:02x?}");
    };
    let h = p.header();
    assert_eq!(ip.src, IpAddr::V6(h.source_addr()).into());
    assert_eq!(ip.dst, IpAddr::V6(h.destination_addr()).into());
    assert_eq!(ip.end, 14 + 40 + usize::from(h.payload_length()));
    assert!(opaque || ip.fragment == p.is_payload_fragmented());
    let theirs = p.payload();
    // An empty packet may be a jumbogram to etherparse.
    if ip.fragment || opaque || h.payload_length() == 0 {
        return;
    }
    assert_eq!(ip.proto, theirs.ip_number.0);
    assert_eq!(f[ip.l4..ip.end], *theirs.payload);
    segments(f, ip, |t, payload| {
        let (src, dst) = (h.source(), h.destination());
        t.calc_checksum_ipv6_raw(src, dst, payload).ok()
    });
}

fn segments(f: &[u8], ip: &Ip, sum: impl Fn(&TcpHeaderSlice<'_>, &[u8]) -> Option<u16>) {
    let body = &f[ip.l4..ip.end];
    let ours = Segment::parse(f, ip);
    let theirs = TcpHeaderSlice::from_slice(body);
    assert_eq!(ours.is_ok(), theirs.is_ok(), "{body:02x?}");
    let (Ok(s), Ok(t)) = (ours, theirs) else {
        return;
    };
    assert_eq!(tcp::ports(f, ip), Some((s.sport, s.dport)));
    assert_eq!(
        (s.sport, s.dport, s.seq, s.ack, s.window),
        (
            t.source_port(),
            t.destination_port(),
            t.sequence_number(),
            t.acknowledgment_number(),
            t.window_size()
        )
    );
    let flags = [
        t.fin(),
        t.syn(),
        t.rst(),
        t.psh(),
        t.ack(),
        t.urg(),
        t.ece(),
        t.cwr(),
    ];
    for (i, set) in flags.into_iter().enumerate() {
        assert_eq!(s.has(1 << i), set, "flag {i}");
    }
    assert_eq!(s.data, ip.l4 + t.slice().len());
    assert_eq!(s.end, ip.end);
    if ip.proto == 6 {
        let right = sum(&t, &f[s.data..s.end]);
        let ok = right == Some(t.checksum());
        // 0 and 0xffff are the same number of ones' complement.
        let zero = matches!(t.checksum(), 0 | 0xffff) && matches!(right, Some(0 | 0xffff));
        assert_eq!(s.checksum_ok(f, ip), ok || zero, "{f:02x?}");
    }
}

fn segment<'a>(u: &mut Input<'_>, payload: &'a [u8]) -> Tcp<'a> {
    let b = u.next::<u8>();
    let v6 = u.next::<u8>() & 1 != 0;
    let mut address = || {
        if v6 {
            let mut a = u.next::<[u8; 16]>();
            a[0] = 0xfd;
            Addr(a)
        } else {
            Addr::v4(u.next())
        }
    };
    let (src, dst) = (address(), address());
    Tcp {
        eth_dst: [2; 6],
        eth_src: [4; 6],
        src,
        dst,
        sport: u.next(),
        dport: u.next(),
        seq: u.next(),
        ack: u.next(),
        flags: u.next(),
        window: u.next(),
        opts: Build {
            mss: (b & 1 != 0).then_some(1460),
            sack_permitted: b & 2 != 0,
            timestamps: (b & 4 != 0).then(|| (u.next(), u.next())),
            wscale: (b & 8 != 0).then_some(b >> 4),
            splice: None,
        },
        payload,
    }
}

fn sound(f: &[u8]) -> frames::Tcp {
    let Kind::Tcp(t) = frames::read(f) else {
        panic!("no TCP in {f:02x?}")
    };
    assert!(t.sound, "checksums of {f:02x?}");
    t
}

fn parsed(f: &[u8]) -> Segment {
    let Ok(L3::Ip(ip)) = wire::l3(f) else {
        panic!("no IP in {f:02x?}")
    };
    let s = Segment::parse(f, &ip).expect("a segment");
    assert!(s.checksum_ok(f, &ip));
    s
}

/// Changes by differences are a recomputation.
fn edits(u: &mut Input<'_>) {
    let n = u.below(64);
    let payload = u.bytes(n);
    let t = segment(u, payload);
    let mut f = t.frame();
    sound(&f);
    let s = parsed(&f);
    let mut e = Edit::new(&mut f, s.l4);
    while u.more() {
        match u.below(8) {
            0 => e.sport(u.next()),
            1 => e.dport(u.next()),
            2 => e.seq(u.next()),
            3 => e.ack(u.next()),
            4 => e.flags(u.next()),
            5 => e.window(u.next()),
            6 => e.clear_ae(),
            _ => {
                let at = u.below(37);
                if at + 4 <= s.data - s.opts_at {
                    e.option_u32(at, u.next())
                } else {
                    e.sport(1)
                }
            }
        };
    }
    e.finish();
    parsed(&f);
    let end = f.len();
    let mut again = f.clone();
    edit::write_tcp_checksum(&mut again, s.l4, end);
    let (a, b) = (&f[s.l4 + 16..s.l4 + 18], &again[s.l4 + 16..s.l4 + 18]);
    let zero = |c: &[u8]| c == [0, 0] || c == [0xff, 0xff];
    assert!(a == b || zero(a) && zero(b), "{a:02x?} {b:02x?}");
}

/// A cut payload is the right piece of it.
fn cut(u: &mut Input<'_>) {
    let (front, keep) = (u.below(100), u.below(100));
    let n = u.below(96);
    let payload = u.bytes(n);
    let t = segment(u, payload);
    let mut f = t.frame();
    let s = parsed(&f);
    let n = edit::cut_payload(&mut f, &s, front, keep);
    f.truncate(n);
    let after = sound(&f);
    let from = front.min(payload.len());
    let to = (from + keep).min(payload.len());
    assert_eq!(f[s.data..], payload[from..to]);
    assert_eq!(after.seq, t.seq.wrapping_add(from as u32));
}

/// Fragments make the datagram again and respect the MTU.
fn fragments(u: &mut Input<'_>) {
    let mtu = 1_280 + usize::from(u.next::<u16>() % 300);
    let n = usize::from(u.next::<u16>()) % 5_000;
    let id = u.next();
    let payload: Vec<u8> = (0..n).map(|i| (i * 7) as u8).collect();
    let t = segment(u, &payload);
    let f = t.frame();
    let mut parts = vec![];
    build::fragment(&f, mtu, id, |p| parts.push(p.to_vec()));
    if let [whole] = &parts[..] {
        return assert_eq!(whole, &f);
    }
    for p in &parts {
        assert!(p.len() <= 14 + mtu, "{} bytes, MTU {mtu}", p.len());
        assert!(matches!(frames::read(p), Kind::Fragment(_, true)));
    }
    let whole = frames::reassemble(&parts).expect("one datagram");
    let head = if t.src.is_v4() { 34 } else { 54 };
    assert_eq!(whole[head..], f[head..]);
    sound(&whole);
}

fn arp(bytes: &[u8]) {
    let mut f = vec![0xff; 12];
    f.extend([8, 6]);
    f.extend(bytes);
    let ours = Arp::parse(&f);
    let theirs = ArpPacketSlice::from_slice(&f[14..]).ok();
    let ethernet = theirs.as_ref().is_some_and(|a| {
        (a.hw_addr_type().0, a.proto_addr_type().0) == (1, 0x0800)
            && (a.hw_addr_size(), a.proto_addr_size()) == (6, 4)
    });
    assert_eq!(ours.is_some(), ethernet, "{f:02x?}");
    let (Some(a), Some(t)) = (ours, theirs) else {
        return;
    };
    assert_eq!(a.op, t.operation().0);
    assert_eq!(
        (&a.sha[..], &a.spa[..]),
        (t.sender_hw_addr(), t.sender_protocol_addr())
    );
    assert_eq!(
        (&a.tha[..], &a.tpa[..]),
        (t.target_hw_addr(), t.target_protocol_addr())
    );
    assert_eq!(Arp::parse(&a.frame(a.sha, a.tha)), Some(a));
}

/// A quote is rewritten in place, its checksum by differences.
fn quote(u: &mut Input<'_>) {
    let (port, seq) = (u.next::<u16>(), u.next::<u32>());
    let kind = u.pick(&[3u8, 4, 11, 12, 0, 8]);
    let fix = u.next::<u8>();
    let mut body = u.rest().to_vec();
    if body.len() < 34 {
        return;
    }
    if fix & 1 == 0 {
        body[4] = 0x45;
        body[13] = 6;
    }
    let mut f = vec![2; 12];
    f.extend([8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, PROTO_ICMP, 0, 0]);
    f.extend([10, 0, 0, 1, 10, 0, 0, 2, kind, 0, 0, 0]);
    f.extend(&body);
    let total = f.len() - 14;
    edit::set_ip_len(&mut f, total);
    let c = !checksum::fold(checksum::sum(&f[34..]));
    f[36..38].copy_from_slice(&c.to_be_bytes());
    let Ok(L3::Ip(ip)) = wire::l3(&f) else {
        panic!("no IP in {f:02x?}")
    };
    let Some(q) = Quote::parse(&f, &ip) else {
        return;
    };
    q.rewrite(&mut f, port, seq);
    let now = Quote::parse(&f, &ip).expect("still a quote");
    assert_eq!((now.flow.port, now.seq), (port, seq));
    assert_eq!((now.flow.client, now.flow.vip), (q.flow.client, q.flow.vip));
    assert_eq!(now.flow.client_port, q.flow.client_port);
    assert_eq!(checksum::fold(checksum::sum(&f[34..])), 0xffff);
}
