use super::*;
use crate::wire::{L3, l3};
use etherparse::{Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice, icmpv6};

const ASKER: Mac = [2, 0, 0, 0, 0, 0xc1];
const CLUSTER: Mac = [2, 0, 0x5e, 0, 0, 0x64];

fn addr(text: &str) -> Addr {
    text.parse::<std::net::IpAddr>().unwrap().into()
}

fn hex(b: &[u8]) -> String {
    b.iter().map(|b| format!("{b:02x}")).collect()
}

/// A solicitation as Linux sends it, checksum by etherparse.
fn solicit(src: Addr, dst: Addr, target: Addr, options: &[u8], hops: u8) -> Vec<u8> {
    let mut payload = target.0.to_vec();
    payload.extend_from_slice(options);
    let mut f = Vec::new();
    PacketBuilder::ethernet2(ASKER, group_mac(&dst))
        .ipv6(src.0, dst.0, hops)
        .icmpv6(Icmpv6Type::NeighborSolicitation)
        .write(&mut f, &payload)
        .unwrap();
    f
}

fn parse(f: &[u8]) -> Result<Solicit, Malformed> {
    let Ok(L3::Ip(ip)) = l3(f) else {
        panic!("not IP")
    };
    Solicit::parse(f, &ip)
}

fn source_option() -> [u8; 8] {
    let mut o = [SOURCE_LINK_ADDRESS, 1, 0, 0, 0, 0, 0, 0];
    o[2..].copy_from_slice(&ASKER);
    o
}

#[test]
fn addresses() {
    let vip = addr("2001:db8::1:2364");
    assert_eq!(solicited_node(&vip), addr("ff02::1:ff01:2364"));
    assert_eq!(
        group_mac(&solicited_node(&vip)),
        [0x33, 0x33, 0xff, 1, 0x23, 0x64]
    );
    assert_eq!(group_mac(&ALL_NODES), [0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!(link_local([2, 0, 0, 0, 1, 9]), addr("fe80::ff:fe00:109"));
    assert_eq!(
        link_local([0x52, 0x54, 0, 0xab, 1, 9]),
        addr("fe80::5054:ff:feab:109")
    );
}

#[test]
fn a_solicitation_is_read() {
    let (src, target) = (addr("fe80::c1"), addr("2001:db8::64"));
    let group = solicited_node(&target);
    let f = solicit(src, group, target, &source_option(), 255);
    let s = Solicit {
        src,
        target,
        link: Some(ASKER),
    };
    assert_eq!(parse(&f), Ok(s));
    // Is it still there? To the target itself, and without an option.
    let f = solicit(src, target, target, &[], 255);
    assert_eq!(parse(&f), Ok(Solicit { link: None, ..s }));
    // Is the address free? With a nonce (RFC 7527), which says nothing to us.
    let f = solicit(
        Addr([0; 16]),
        group,
        target,
        &[14, 1, 1, 2, 3, 4, 5, 6],
        255,
    );
    let probe = Solicit {
        src: Addr([0; 16]),
        target,
        link: None,
    };
    assert_eq!(parse(&f), Ok(probe));
}

/// RFC 4861, section 7.1.1, point by point.
#[test]
fn what_no_host_answers() {
    let (src, target) = (addr("fe80::c1"), addr("2001:db8::64"));
    let (group, none) = (solicited_node(&target), Addr([0; 16]));
    let o = source_option();
    let mut forged = solicit(src, group, target, &o, 255);
    forged[60] ^= 1;
    let mut code = solicit(src, group, target, &[], 255);
    code[55] = 1;
    let c = u16::from_be_bytes([code[56], code[57]]).wrapping_sub(1);
    code[56..58].copy_from_slice(&c.to_be_bytes());
    let mut multicast = o;
    multicast[2] |= 1;
    let cases = [
        ("hop limit", solicit(src, group, target, &o, 254)),
        ("checksum", forged),
        ("code", code),
        ("short", {
            let mut f = Vec::new();
            PacketBuilder::ethernet2(ASKER, group_mac(&group))
                .ipv6(src.0, group.0, 255)
                .icmpv6(Icmpv6Type::NeighborSolicitation)
                .write(&mut f, &target.0[..15])
                .unwrap();
            f
        }),
        ("multicast target", solicit(src, group, group, &o, 255)),
        (
            "option of no length",
            solicit(src, group, target, &[1, 0, 0, 0, 0, 0, 0, 0], 255),
        ),
        (
            "option cut off",
            solicit(src, group, target, &[1, 2, 0, 0, 0, 0, 0, 0], 255),
        ),
        ("half an option", solicit(src, group, target, &[1], 255)),
        (
            "probe with an address",
            solicit(none, group, target, &o, 255),
        ),
        ("probe to one node", solicit(none, target, target, &[], 255)),
        (
            "group as answer",
            solicit(src, group, target, &multicast, 255),
        ),
        (
            "group as source",
            solicit(ALL_NODES, group, target, &o, 255),
        ),
    ];
    for (what, f) in cases {
        assert_eq!(parse(&f), Err(Malformed), "{what}");
    }
}

#[test]
fn the_answer_is_these_bytes() {
    let a = Advert {
        dst: addr("fe80::c1"),
        target: addr("2001:db8::64"),
        link: CLUSTER,
        solicited: true,
    };
    let f = a.frame(ASKER, [2, 0, 0, 0, 0, 1]);
    let golden = "0200000000c102000000000186dd\
        6000000000203aff20010db8000000000000000000000064fe8000000000000000000000000000c1\
        8800----6000000020010db8000000000000000000000064020102005e000064";
    let mut shown = hex(&f);
    shown.replace_range(112..116, "----");
    assert_eq!(&shown[..108], &golden[..108]);
    assert_eq!(&shown[108..112], "8800");
    assert_eq!(&shown[116..], &golden[116..]);

    // The checksum is proved by another implementation.
    let p = SlicedPacket::from_ethernet(&f).unwrap();
    let (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(m))) = (p.net, p.transport) else {
        panic!("no ICMPv6")
    };
    assert!(m.is_checksum_valid(ip.header().source(), ip.header().destination()));
    assert_eq!(ip.header().hop_limit(), 255);
    assert_eq!(m.type_u8(), icmpv6::TYPE_NEIGHBOR_ADVERTISEMENT);

    let probe = Advert {
        dst: ALL_NODES,
        solicited: false,
        ..a
    };
    let f = probe.frame(group_mac(&ALL_NODES), [2, 0, 0, 0, 0, 1]);
    assert_eq!(f[58], 0x20, "override alone");
    let Ok(L3::Ip(ip)) = l3(&f) else { panic!() };
    assert_eq!(super::target(&f, &ip), Some(a.target));
    assert_eq!(kind(&f, &ip), Some(ADVERT));
}

#[test]
fn another_source() {
    let (vip, target) = (addr("2001:db8::64"), addr("2001:db8::fe"));
    let mut f = solicit(vip, solicited_node(&target), target, &source_option(), 255);
    let Ok(L3::Ip(ip)) = l3(&f) else { panic!() };
    set_source(&mut f, &ip, &addr("fe80::1"));
    let s = parse(&f).expect("its checksum is right");
    assert_eq!(s.src, addr("fe80::1"));
}
