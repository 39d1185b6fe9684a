//! Neighbour discovery at a node, and what else is peculiar to IPv6 on the wire.

use super::testkit::*;
use crate::drops::Drop;
use crate::frame::Port;
use crate::key::Addr;
use crate::wire::nd::{self, Advert};
use crate::wire::options::Build;
use crate::wire::tcp::{ACK, PSH, SYN};
use crate::wire::{L3, Mac, edit, ipv6, l3};
use etherparse::{Icmpv6Type, PacketBuilder};
use std::net::IpAddr;

const NONE: Addr = Addr([0; 16]);

fn addr(ip: impl Into<IpAddr>) -> Addr {
    ip.into().into()
}

fn asker() -> Addr {
    "fe80::c1".parse::<IpAddr>().unwrap().into()
}

/// An ICMPv6 message, checksum and all by another implementation.
fn icmp(mac: Mac, src: Addr, dst: Addr, ty: u8, body: &[u8], hops: u8) -> Vec<u8> {
    let eth_dst = if dst.is_multicast() {
        nd::group_mac(&dst)
    } else {
        CLUSTER_MAC
    };
    let mut head = [0; 4];
    head.copy_from_slice(&body[..4]);
    let ty = Icmpv6Type::Unknown {
        type_u8: ty,
        code_u8: 0,
        bytes5to8: head,
    };
    let mut f = Vec::new();
    PacketBuilder::ethernet2(mac, eth_dst)
        .ipv6(src.0, dst.0, hops)
        .icmpv6(ty)
        .write(&mut f, &body[4..])
        .unwrap();
    f
}

fn ask_as(mac: Mac, src: Addr, dst: Addr, target: Addr) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend_from_slice(&target.0);
    if !src.is_unspecified() {
        body.extend_from_slice(&[1, 1]);
        body.extend_from_slice(&mac);
    }
    icmp(mac, src, dst, nd::SOLICIT, &body, 255)
}

fn ask(src: Addr, target: Addr) -> Vec<u8> {
    ask_as(CLIENT_MAC, src, nd::solicited_node(&target), target)
}

/// A host's word about `target`.
fn tell(src: Addr, dst: Addr, target: Addr) -> Vec<u8> {
    let mut body = vec![0x20, 0, 0, 0];
    body.extend_from_slice(&target.0);
    icmp(CLUSTER_MAC, src, dst, nd::ADVERT, &body, 255)
}

fn nodes() -> (Node, Node) {
    (Node::new(view(1, 1)), Node::new(view(2, 1)))
}

#[test]
fn a_solicitation_for_the_vip_has_one_answer() {
    let (mut a, mut b) = nodes();
    for n in [&mut a, &mut b] {
        n.rx(Port::Wire, ask(asker(), addr(VIP)));
        assert!(n.tx(Port::WireHost).is_empty(), "no host answers as well");
        assert_eq!(n.s.drops.get(Drop::NdConsumed), 1);
    }
    let f = a.tx(Port::Wire);
    let want = Advert {
        dst: asker(),
        target: addr(VIP),
        link: CLUSTER_MAC,
        solicited: true,
    };
    assert_eq!(f, [want.frame(CLIENT_MAC, a.v.wire_mac).to_vec()]);
    assert!(b.silent(), "one answer in the cluster");
    // Whether it is still there is asked at the cluster MAC.
    a.rx(
        Port::Wire,
        ask_as(CLIENT_MAC, asker(), addr(VIP), addr(VIP)),
    );
    assert_eq!(a.tx(Port::Wire), f);
}

#[test]
fn who_names_no_link_layer_address_is_answered_where_the_question_came_from() {
    let mut n = Node::new(view(1, 1));
    let mut body = vec![0; 4];
    body.extend_from_slice(&addr(VIP).0);
    // Unicast: the asker knows the address and wants it confirmed.
    let f = icmp(CLIENT_MAC, asker(), addr(VIP), nd::SOLICIT, &body, 255);
    n.rx(Port::Wire, f);
    let reply = n.tx(Port::Wire).remove(0);
    assert_eq!(reply[..6], CLIENT_MAC);
    assert!(n.silent());
}

#[test]
fn all_nodes_hear_that_the_vip_is_taken() {
    let (mut a, mut b) = nodes();
    a.rx(Port::Wire, ask(NONE, addr(VIP)));
    b.rx(Port::Wire, ask(NONE, addr(VIP)));
    let want = Advert {
        dst: nd::ALL_NODES,
        target: addr(VIP),
        link: CLUSTER_MAC,
        solicited: false,
    };
    let f = a.tx(Port::Wire);
    assert_eq!(
        f,
        [want.frame([0x33, 0x33, 0, 0, 0, 1], a.v.wire_mac).to_vec()]
    );
    assert!(b.silent() && a.silent());
    // The other nodes hear it too. Their stacks must not: the VIP is theirs as well.
    b.rx(Port::Wire, f[0].clone());
    assert!(b.silent());
    assert_eq!(b.s.drops.get(Drop::NdConsumed), 2);
}

#[test]
fn what_breaks_the_rules_is_not_answered() {
    let (mut a, _) = nodes();
    let group = nd::solicited_node(&addr(VIP));
    let mut body = vec![0; 4];
    body.extend_from_slice(&addr(VIP).0);
    let routed = icmp(CLIENT_MAC, asker(), group, nd::SOLICIT, &body, 254);
    let mut wrong = ask(asker(), addr(VIP));
    wrong[57] ^= 1;
    // Behind an extension header, where no node puts it (RFC 6980).
    let mut hidden = ask(asker(), addr(VIP));
    hidden.splice(54..54, [nd::PROTO_ICMPV6, 0, 1, 4, 0, 0, 0, 0]);
    hidden[20] = ipv6::DESTINATION;
    let len = hidden.len() - 14;
    edit::set_ip_len(&mut hidden, len);
    for f in [routed, wrong, hidden] {
        a.rx(Port::Wire, f);
        assert!(a.silent());
    }
    assert_eq!(a.s.drops.get(Drop::NdInvalid), 3);
}

#[test]
fn other_neighbours_are_the_hosts_business() {
    let (_, mut b) = nodes();
    let own = addr(on_wire(2));
    let link_local = nd::link_local(b.v.wire_mac);
    let all_routers: Addr = "ff02::2".parse::<IpAddr>().unwrap().into();
    let query = icmp(
        CLIENT_MAC,
        asker(),
        nd::solicited_node(&addr(VIP)),
        nd::LISTENER_QUERY,
        &[0; 24],
        1,
    );
    for f in [
        ask(asker(), own),
        ask(asker(), link_local),
        ask_as(CLIENT_MAC, asker(), own, own),
        ask_as(CLIENT_MAC, asker(), link_local, link_local),
        ask(asker(), addr(on_wire(77))),
        tell(asker(), nd::ALL_NODES, asker()),
        tell(asker(), own, asker()),
        tell(asker(), link_local, asker()),
        icmp(CLIENT_MAC, asker(), nd::ALL_NODES, 134, &[0; 12], 255),
        icmp(CLIENT_MAC, asker(), all_routers, 133, &[0; 4], 255),
        // Switches that listen to listeners must go on hearing of the VIP's group.
        query,
    ] {
        b.rx(Port::Wire, f.clone());
        assert_eq!(b.tx(Port::WireHost), [f]);
    }
    // What goes to another node's address, and what only a VIP's group or a VIP gets.
    b.rx(
        Port::Wire,
        ask_as(CLIENT_MAC, asker(), addr(on_wire(1)), addr(on_wire(1))),
    );
    assert_eq!(b.s.drops.get(Drop::OtherNode), 1);
    let group = nd::solicited_node(&addr(VIP));
    b.rx(
        Port::Wire,
        icmp(CLIENT_MAC, asker(), group, 128, &[0; 8], 64),
    );
    b.rx(Port::Wire, tell(asker(), addr(VIP), asker()));
    b.rx(
        Port::Wire,
        icmp(CLIENT_MAC, asker(), addr(VIP), 137, &[0; 36], 255),
    );
    assert_eq!(b.s.drops.get(Drop::NdConsumed), 3);
    assert!(b.silent());
}

/// A node whose own address has the VIP's last three bytes listens to that group.
#[test]
fn a_group_that_is_shared_with_an_own_address() {
    let mut v = view(2, 1);
    let mut twin = addr(VIP);
    twin.0[8] = 9;
    v.own.push(twin);
    let mut n = Node::new(v);
    let f = ask(asker(), twin);
    n.rx(Port::Wire, f.clone());
    assert_eq!(n.tx(Port::WireHost), [f]);
    n.rx(Port::Wire, ask(asker(), addr(VIP)));
    assert!(n.silent());
}

#[test]
fn what_the_host_says_of_neighbours() {
    let (mut a, _) = nodes();
    let (own, vip, router) = (addr(on_wire(1)), addr(VIP), addr(on_wire(254)));
    let link_local = nd::link_local(a.v.wire_mac);
    let ask = |src, target| ask_as(CLUSTER_MAC, src, nd::solicited_node(&target), target);
    // Of itself, and its questions: under the node's MAC.
    for f in [
        tell(own, asker(), own),
        tell(link_local, nd::ALL_NODES, own),
        ask(own, router),
        ask(link_local, router),
        ask(NONE, link_local),
        icmp(CLUSTER_MAC, link_local, nd::ALL_NODES, 133, &[0; 4], 255),
    ] {
        a.rx(Port::WireHost, f.clone());
        let g = a.tx(Port::Wire).remove(0);
        assert_eq!((&g[..6], &g[6..12]), (&f[..6], &a.v.wire_mac[..]));
        assert_eq!(g[12..], f[12..], "nothing else is changed");
    }
    // A kernel asks with the source of the packet that waits. Answers to a VIP would
    // come to all nodes.
    a.rx(Port::WireHost, ask(vip, router));
    let g = a.tx(Port::Wire).remove(0);
    let Ok(L3::Ip(ip)) = l3(&g) else { panic!() };
    let s = nd::Solicit::parse(&g, &ip).expect("valid");
    assert_eq!((s.src, s.target), (link_local, router));
    // Another link-local address of the node's will do.
    let mine: Addr = "fe80::9".parse::<IpAddr>().unwrap().into();
    a.v.own.push(mine);
    a.rx(Port::WireHost, ask(vip, router));
    let g = a.tx(Port::Wire).remove(0);
    assert_eq!(g[22..38], mine.0);
    // Of the VIP the data plane speaks.
    for f in [
        tell(vip, asker(), vip),
        tell(own, nd::ALL_NODES, vip),
        ask(NONE, vip),
        ask(own, vip),
        tell(vip, asker(), own),
        icmp(CLUSTER_MAC, vip, nd::ALL_NODES, 133, &[0; 4], 255),
    ] {
        a.rx(Port::WireHost, f);
    }
    assert!(a.silent());
    assert_eq!(a.s.drops.get(Drop::HostNdVip), 6);
}

/// A SYN with these extension headers in front, the first of kind `first`, each
/// naming the next.
fn syn_behind(first: u8, headers: &[u8]) -> Vec<u8> {
    let mut f = client(1000, 0, SYN, syn_opts(100), b"");
    f.splice(54..54, headers.iter().copied());
    f[20] = first;
    let len = f.len() - 14;
    edit::set_ip_len(&mut f, len);
    f
}

#[test]
fn a_flow_behind_extension_headers() {
    // Hop-by-hop and destination options on every frame of the client.
    let wrap = |f: Vec<u8>| {
        let mut f = f;
        f.splice(
            54..54,
            [
                60, 0, 1, 4, 0, 0, 0, 0, 6, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            ],
        );
        f[20] = 0;
        let len = f.len() - 14;
        edit::set_ip_len(&mut f, len);
        f
    };
    let mut n = Node::new(view(1, 1));
    n.rx(
        Port::Wire,
        wrap(client(1000, 0, SYN, syn_opts(100), b"early")),
    );
    let s = n.one(Port::WireHost);
    assert_eq!((s.seg.l4, s.seg.dport, s.payload.len()), (78, 8001, 0));
    let f = host(
        8001,
        9000,
        1001,
        SYN | ACK,
        65_160,
        synack_opts(5000, 100),
        b"",
    );
    n.rx(Port::WireHost, f);
    assert_eq!(n.one(Port::Wire).seg.sport, 80);
    n.pass(20);
    n.rx(
        Port::Wire,
        wrap(client(1001, 9001, ACK | PSH, ts(130, 5000), GET)),
    );
    assert_eq!(n.one(Port::WireHost).payload, GET);
    // A handover forwards what was held, whatever stands in front of it.
    let k = 1001 + GET.len() as u32;
    n.rx(
        Port::WireHost,
        host(8001, 9001, k, ACK, 500, ts(5010, 130), b""),
    );
    n.tx(Port::Wire);
    let mut p = Pair::of(n, 1000, 9000);
    p.a.command(freeze(1));
    p.a.events();
    p.a.rx(
        Port::Wire,
        wrap(client(k, 9001, ACK | PSH, ts(140, 5010), &[b'x'; 1000])),
    );
    p.splice_to(2);
    p.link();
    assert_eq!(p.b.one(Port::WireHost).payload, GET);
    p.cut_over();
    let got: Vec<u8> =
        p.b.tx(Port::WireHost)
            .iter()
            .flat_map(|f| seen(f).payload)
            .collect();
    assert_eq!(got, [b'x'; 1000]);
}

#[test]
fn headers_that_are_dropped_have_a_reason_each() {
    let mut long = vec![0u8; 264];
    (long[0], long[1]) = (6, 32);
    let cases = [
        (
            ipv6::ROUTING,
            vec![6, 0, 0, 0, 0, 0, 0, 0],
            Drop::RoutingHeader,
        ),
        (
            ipv6::ROUTING,
            vec![6, 0, 4, 1, 0, 0, 0, 0],
            Drop::RoutingHeader,
        ),
        (ipv6::DESTINATION, long, Drop::ExtensionHeaders),
        (
            ipv6::DESTINATION,
            vec![0, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0],
            Drop::ExtensionHeaders,
        ),
        (ipv6::FRAGMENT, vec![6, 0, 0, 1, 0, 0, 0, 9], Drop::Fragment),
        (
            ipv6::FRAGMENT,
            vec![58, 0, 0, 1, 0, 0, 0, 9],
            Drop::Fragment,
        ),
        (
            ipv6::DESTINATION,
            vec![6, 9, 1, 4, 0, 0, 0, 0],
            Drop::Malformed,
        ),
    ];
    let (mut a, mut b) = nodes();
    for (first, headers, why) in cases {
        for n in [&mut a, &mut b] {
            let before = n.s.drops.get(why);
            n.rx(Port::Wire, syn_behind(first, &headers));
            assert!(n.silent());
            assert_eq!(n.s.drops.get(why), before + 1, "{headers:?}");
        }
    }
    let mut mapped = client(1000, 0, SYN, syn_opts(100), b"");
    mapped[22..38].copy_from_slice(&Addr::v4(CLIENT_V4).0);
    let mut jumbo = syn_behind(0, &[6, 0, 0xc2, 4, 0, 1, 0, 0]);
    jumbo[18..20].fill(0);
    let local = from(client(1000, 0, SYN, syn_opts(100), b""), asker().ip(), 5);
    for (f, why) in [
        (mapped, Drop::MappedAddress),
        (jumbo, Drop::Jumbogram),
        (local, Drop::LinkLocalClient),
    ] {
        a.rx(Port::Wire, f);
        assert!(a.silent());
        assert_eq!(a.s.drops.get(why), 1);
    }
}

/// AH and ESP are looked into by nobody without an agreement: one host may judge.
#[test]
fn what_is_hidden_from_all_goes_to_one_owner() {
    let (mut a, mut b) = nodes();
    for proto in [50, 51, 59] {
        let f = syn_behind(ipv6::DESTINATION, &[proto, 0, 1, 4, 0, 0, 0, 0]);
        a.rx(Port::Wire, f.clone());
        b.rx(Port::Wire, f.clone());
        assert_eq!(a.tx(Port::WireHost), [f]);
        assert_eq!(b.s.drops.get(Drop::NotVipOwner), 1);
        b.s.drops = Default::default();
    }
}

/// Linux quotes what it sent, with what stood in front of it.
#[test]
fn a_quote_with_extension_headers_is_translated() {
    let mut n = established(100, 900);
    let mut quoted = host(80, 901, 101, ACK, 1, Build::default(), &[0; 50]);
    quoted.splice(54..54, [6, 0, 1, 4, 0, 0, 0, 0]);
    quoted[20] = ipv6::DESTINATION;
    let len = quoted.len() - 14;
    edit::set_ip_len(&mut quoted, len);
    for ty in 1..=4u8 {
        let mut f = too_big(&quoted, 1400);
        let c = u16::from_be_bytes([f[56], f[57]]);
        let mut d = crate::wire::checksum::Delta::default();
        d.replace(0, &f[54..55], &[ty]);
        f[54] = ty;
        f[56..58].copy_from_slice(&d.apply(c).to_be_bytes());
        assert!(icmp_checksum_ok(&f));
        n.rx(Port::Wire, f);
        let g = n.tx(Port::WireHost).remove(0);
        assert!(icmp_checksum_ok(&g));
        assert_eq!(g[QUOTED + 8..QUOTED + 10], 8001u16.to_be_bytes());
    }
    // Other messages quote nothing.
    let mut echo = too_big(&quoted, 1400);
    echo[54] = 128;
    n.rx(Port::Wire, echo.clone());
    assert_eq!(n.tx(Port::WireHost), [echo]);
}

#[test]
fn a_syn_without_mss_gets_its_familys_least() {
    let mut n = Node::new(view(1, 1));
    n.rx(Port::Wire, client(1, 0, SYN, Build::default(), b""));
    assert_eq!(n.s.slots.iter().map(|f| f.agreed.mss).max(), Some(1_220));
}
