//! The same over IPv6: a VIP, a link and clients of IPv6, neighbour discovery in
//! the place of ARP, and extension headers.

use super::*;
use std::net::Ipv6Addr;

const fn v6(last: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last))
}

// Addresses of documentation (RFC 3849), which no machine has.
const VIP: IpAddr = v6(0x100);
const SELF: IpAddr = v6(1);
const OTHER: IpAddr = v6(2);
/// A client; its ping and its questions belong to node 2, its connections to either.
const HOST_A: IpAddr = v6(0x201);
/// A client whose ping and questions belong to node 1, this one.
const HOST_B: IpAddr = v6(0x203);
const LINK: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 1));
const PEER: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 2));
/// What is made of the wire's MAC: the node's link-local address.
const LINK_LOCAL: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0x70, 0x63ff, 0xfe61, 0x7000));
const ALL_NODES: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
const ALL_LISTENERS: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16));
const UNSPECIFIED: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

// Ports of HOST_A whose buckets are node 1's, and one of node 2's, found by a second
// implementation of the hash.
const PLAIN: u16 = 40002;
const DIRTY: u16 = 40003;
const OPTIONED: u16 = 40006;
const ATOMIC: u16 = 40007;
const CLOSED: u16 = 40009;
const NOT_OURS: u16 = 40001;

// Types of ICMPv6 (RFC 4443, RFC 4861, RFC 3810).
const LISTENER_QUERY: u8 = 130;
const ROUTER_ADVERT: u8 = 134;
const SOLICIT: u8 = 135;
const ADVERT: u8 = 136;
const LISTENER_REPORT: u8 = 143;

// Next headers (RFC 8200).
const HOP_BY_HOP: u8 = 0;
const TCP: u8 = 6;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ICMP: u8 = 58;
const DESTINATION: u8 = 60;

pub(super) fn set() -> Set {
    Set {
        name: "v6-",
        vip: VIP,
        own: (SELF, 64),
        links: [LINK, PEER],
        cases: [from_wire(), from_wire_host(), from_link(), from_link_host()],
    }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(address) => address.octets(),
        IpAddr::V4(_) => panic!("{address}"),
    }
}

/// The group that listens for solicitations of an address, and its MAC.
fn group_of(address: IpAddr) -> (Mac, IpAddr) {
    let [.., a, b, c] = octets(address);
    let low = u16::from_be_bytes([b, c]);
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), low);
    ([0x33, 0x33, 0xff, a, b, c], group.into())
}

/// An ICMPv6 message that no router has touched.
fn icmp(eth: (Mac, Mac), ips: (IpAddr, IpAddr), kind: u8, word: [u8; 4], body: &[u8]) -> Vec<u8> {
    let packet = PacketBuilder::ethernet2(eth.0, eth.1)
        .ipv6(octets(ips.0), octets(ips.1), 255)
        .icmpv6_raw(kind, 0, word);
    let mut frame = Vec::new();
    packet.write(&mut frame, body).unwrap();
    frame
}

/// A solicitation as a kernel multicasts it; `link` is the address that it names.
fn who_has(eth: Mac, from: IpAddr, link: Mac, target: IpAddr) -> Vec<u8> {
    let (mac, group) = group_of(target);
    let mut body = octets(target).to_vec();
    // A probe for duplicates names no address.
    if from != UNSPECIFIED {
        body.extend([1, 1]);
        body.extend(link);
    }
    icmp((eth, mac), (from, group), SOLICIT, [0; 4], &body)
}

/// An advertisement of `target` by itself, with these flags.
fn is_at(eth: (Mac, Mac), target: IpAddr, link: Mac, to: IpAddr, flags: u8) -> Vec<u8> {
    let mut body = octets(target).to_vec();
    body.extend([2, 1]);
    body.extend(link);
    icmp(eth, (target, to), ADVERT, [flags, 0, 0, 0], &body)
}

/// Puts an extension header between IPv6 and what follows it.
fn extended(mut frame: Vec<u8>, kind: u8, header: &[u8]) -> Vec<u8> {
    assert_eq!(frame[20], header[0], "the header names what follows");
    frame[20] = kind;
    let len = u16::from_be_bytes([frame[18], frame[19]]) + header.len() as u16;
    frame[18..20].copy_from_slice(&len.to_be_bytes());
    frame.splice(54..54, header.iter().copied());
    frame
}

fn syn(port: u16) -> Tcp<'static> {
    Tcp {
        from: (HOST_A, port),
        to: (VIP, 80),
        ..super::syn(port)
    }
}

fn syn_ack(port: u16) -> Tcp<'static> {
    Tcp {
        from: (VIP, PROXY),
        to: (HOST_A, port),
        ..super::syn_ack(port)
    }
}

fn from_wire() -> Vec<Case> {
    let frame = |t: Tcp| t.frame(CLIENT, CLUSTER);
    let given = |t: Tcp| {
        let to = (t.to.0, PROXY);
        Tcp { to, ..t }.frame(CLIENT, CLUSTER)
    };
    let to_host = |t: Tcp| Becomes(given(t));
    let data = Tcp {
        flags: "P.",
        ack: 1,
        options: &[],
        payload: b"GET / HTTP/1.1\r\n\r\n",
        ..syn(40018)
    };
    let dirty = Tcp {
        flags: "SEWn",
        options: &FAST_OPEN,
        payload: b"early",
        ..syn(DIRTY)
    };
    let clean = Tcp {
        flags: "S",
        options: &STRIPPED,
        payload: b"",
        ..dirty
    };
    // Its payload is cut off, but that must not make it right again.
    let mut damaged = frame(dirty);
    *damaged.last_mut().unwrap() ^= 1;
    let to = |to: (IpAddr, u16)| Tcp { to, ..syn(PLAIN) };
    let from = |from: IpAddr| Tcp {
        from: (from, PLAIN),
        ..syn(PLAIN)
    };
    let option32 = Tcp {
        options: &SPLICE,
        ..syn(PLAIN)
    };
    let (a, b) = ((CLIENT, HOST_A), (CLIENT, HOST_B));
    let asked = |asker: (Mac, IpAddr), target| who_has(asker.0, asker.1, asker.0, target);
    let reply = is_at((NODE, CLIENT), VIP, CLUSTER, HOST_B, 0x60);
    let claim = is_at(
        (CLIENT, [0x33, 0x33, 0, 0, 0, 1]),
        VIP,
        CLIENT,
        ALL_NODES,
        0x20,
    );
    let query = icmp(
        (CLIENT, [0x33, 0x33, 0, 0, 0, 1]),
        (LINK_LOCAL, ALL_NODES),
        LISTENER_QUERY,
        [0; 4],
        &[0; 20],
    );
    let router = icmp(
        (CLIENT, [0x33, 0x33, 0, 0, 0, 1]),
        (LINK_LOCAL, ALL_NODES),
        ROUTER_ADVERT,
        [64, 0, 0, 180],
        &[0; 8],
    );
    let vip = |src| ping(src, (CLUSTER, VIP), false);
    let padding = [TCP, 0, 1, 4, 0, 0, 0, 0];
    let optioned = |frame| extended(frame, DESTINATION, &padding);
    let part = |offset: u8| [TCP, 0, 0, offset, 0, 0, 0, 7];
    let route = |kind, left| [TCP, 0, kind, left, 0, 0, 0, 0];
    let late_hop_by_hop = extended(
        extended(frame(syn(PLAIN)), HOP_BY_HOP, &padding),
        DESTINATION,
        &[HOP_BY_HOP, 0, 1, 4, 0, 0, 0, 0],
    );
    let mut jumbo = extended(
        frame(syn(PLAIN)),
        HOP_BY_HOP,
        &[TCP, 0, 0xc2, 4, 0, 1, 0, 0],
    );
    jumbo[18..20].copy_from_slice(&[0, 0]);
    let mapped = IpAddr::V6(Ipv4Addr::new(10, 77, 0, 201).to_ipv6_mapped());
    let neighbour = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xc1));
    #[rustfmt::skip]
    let cases = vec![
        ("question for the VIP, asker ours", asked(b, VIP), Answered(reply, "nd_consumed")),
        ("question for the VIP, asker node 2's", asked(a, VIP), Dropped("nd_consumed")),
        ("advertisement that claims the VIP", claim, Dropped("nd_consumed")),
        ("question for the node's own address", asked(a, SELF), Unharmed),
        ("question for its link-local address", asked(a, LINK_LOCAL), Unharmed),
        ("listener query", query, Unharmed),
        ("router advertisement", router, Unharmed),
        ("SYN, bucket ours", frame(syn(PLAIN)), to_host(syn(PLAIN))),
        ("SYN, bucket node 2's", frame(syn(NOT_OURS)), Dropped("not_owner")),
        ("SYN with Fast Open, payload and ECN", frame(dirty), to_host(clean)),
        ("SYN with payload, damaged", damaged, Dropped("bad_checksum")),
        ("SYN behind destination options", optioned(frame(syn(OPTIONED))), Becomes(optioned(given(syn(OPTIONED))))),
        ("SYN in an atomic fragment", extended(frame(syn(ATOMIC)), FRAGMENT, &part(0)), Becomes(extended(given(syn(ATOMIC)), FRAGMENT, &part(0)))),
        ("SYN that the stack will refuse", frame(syn(CLOSED)), to_host(syn(CLOSED))),
        ("data without a flow", frame(data), Dropped("no_flow")),
        ("option 32", frame(option32), Dropped("option32_on_wire")),
        ("second fragment to the service", extended(frame(data), FRAGMENT, &part(8)), Dropped("fragment")),
        ("first of several fragments", extended(frame(syn(PLAIN)), FRAGMENT, &part(1)), Dropped("fragment")),
        ("routing header of type 0", extended(frame(syn(PLAIN)), ROUTING, &route(0, 0)), Dropped("routing_header")),
        ("routing header with a segment left", extended(frame(syn(PLAIN)), ROUTING, &route(4, 1)), Dropped("routing_header")),
        ("hop-by-hop options in the second place", late_hop_by_hop, Dropped("extension_headers")),
        ("jumbogram", jumbo, Dropped("jumbogram")),
        ("IPv4-mapped client", frame(from(mapped)), Dropped("mapped_address")),
        ("link-local client", frame(from(neighbour)), Dropped("link_local_client")),
        ("proxy port of the VIP", frame(to((VIP, PROXY))), Dropped("hidden_port")),
        ("closed port of the VIP, client node 2's", frame(to((VIP, 81))), Dropped("not_vip_owner")),
        ("closed port of the VIP, client ours", frame(Tcp { from: (HOST_B, 40002), ..to((VIP, 81)) }), Unharmed),
        ("ping to the VIP, client ours", vip(b), Unharmed),
        ("ping to the VIP, client node 2's", vip(a), Dropped("not_vip_owner")),
        ("SSH to the node", to((SELF, 22)).frame(CLIENT, NODE), Unharmed),
        ("SSH to node 2", to((OTHER, 22)).frame(CLIENT, NEIGHBOUR), Dropped("other_node")),
    ];
    cases
}

fn from_wire_host() -> Vec<Case> {
    let from_stack = |t: Tcp| t.frame(CLUSTER, PINNED_HOP);
    let to_client = |t: Tcp| {
        let from = (t.from.0, 80);
        Becomes(Tcp { from, ..t }.frame(NODE, CLIENT))
    };
    // Rule 4 with W = 60,000: one unit of the promised scale below it.
    let clamped = |t, window| to_client(Tcp { window, ..t });
    let without_scale = Tcp {
        options: &MSS_ONLY,
        ..syn_ack(DIRTY)
    };
    let refusal = Tcp {
        flags: "R.",
        seq: 0,
        window: 0,
        options: &[],
        ..syn_ack(CLOSED)
    };
    let from = |from: (IpAddr, u16), flags| Tcp {
        from,
        to: (HOST_A, 50000),
        flags,
        ..syn_ack(0)
    };
    let ask = |eth, source| who_has(eth, source, CLUSTER, HOST_A);
    let probe = who_has(CLUSTER, UNSPECIFIED, CLUSTER, VIP);
    let answer = is_at((CLUSTER, CLIENT), VIP, CLUSTER, HOST_A, 0x60);
    let alert = [ICMP, 0, 5, 2, 0, 0, 1, 0];
    let report = |eth| {
        let eth = (eth, [0x33, 0x33, 0, 0, 0, 0x16]);
        // One record: the group of the VIP is listened to (RFC 3810, section 5.2).
        let record = [&[4, 0, 0, 0][..], &octets(group_of(VIP).1)].concat();
        let ips = (LINK_LOCAL, ALL_LISTENERS);
        let message = icmp(eth, ips, LISTENER_REPORT, [0, 0, 0, 1], &record);
        extended(message, HOP_BY_HOP, &alert)
    };
    let pong = |src| ping((src, VIP), (CLIENT, HOST_B), true);
    let ssh = Tcp {
        to: (HOST_A, PLAIN),
        ..from((SELF, 22), "S.")
    };
    let ssh_out = Becomes(ssh.frame(NODE, CLIENT));
    #[rustfmt::skip]
    let cases = vec![
        ("SYN-ACK, window scale 7", from_stack(syn_ack(PLAIN)), clamped(syn_ack(PLAIN), 59776)),
        ("SYN-ACK, no window scale", from_stack(without_scale), clamped(without_scale, 59999)),
        ("SYN-ACK to a SYN with options before it", from_stack(syn_ack(OPTIONED)), clamped(syn_ack(OPTIONED), 59776)),
        ("refusal by the stack", from_stack(refusal), to_client(refusal)),
        ("the node asks for a neighbour", ask(CLUSTER, SELF), Becomes(ask(NODE, SELF))),
        ("the node asks in the VIP's name", ask(CLUSTER, VIP), Becomes(ask(NODE, LINK_LOCAL))),
        ("the node looks for a second VIP", probe, Dropped("host_nd_vip")),
        ("the node answers for the VIP", answer, Dropped("host_nd_vip")),
        ("the node reports what it listens to", report(CLUSTER), Becomes(report(NODE))),
        ("RST from the service port, no flow", from_stack(from((VIP, 80), "R")), Dropped("host_without_flow")),
        ("segment from the proxy port, no flow", from_stack(from((VIP, PROXY), ".")), Dropped("host_without_flow")),
        ("connection that the host opens from the VIP", from_stack(from((VIP, 45000), "S")), Dropped("host_from_vip")),
        ("SSH from the node", ssh.frame(CLUSTER, CLIENT), ssh_out),
        ("answer to a ping of the VIP", pong(CLUSTER), Becomes(pong(NODE))),
    ];
    cases
}

fn from_link() -> Vec<Case> {
    let tcp = |from, to, options| {
        let t = Tcp {
            from,
            to,
            options,
            ..syn(0)
        };
        t.frame(NEIGHBOUR, CLUSTER)
    };
    let hello = udp((NEIGHBOUR, PEER, 7946), (CLUSTER, LINK, 7946), b"hello");
    #[rustfmt::skip]
    let cases = vec![
        ("question on the link", who_has(NEIGHBOUR, PEER, NEIGHBOUR, LINK), Unharmed),
        ("UDP on the link", hello, Unharmed),
        ("SSH on the link", tcp((PEER, 40000), (LINK, 22), &OPTIONS), Unharmed),
        ("SYN to the application, no block", tcp((PEER, 61000), (LINK, 80), &OPTIONS), Dropped("link_stranger")),
        ("option 32 from no member", tcp((HOST_A, 61000), (LINK, 80), &SPLICE), Dropped("link_stranger")),
    ];
    cases
}

fn from_link_host() -> Vec<Case> {
    let own: Mac = [0x02, 0, 0, 0, 0, 0x11];
    let tcp = |from, to| {
        let t = Tcp { from, to, ..syn(0) };
        t.frame(own, NEIGHBOUR)
    };
    let hello = udp((own, LINK, 7946), (NEIGHBOUR, PEER, 7946), b"hello");
    #[rustfmt::skip]
    let cases = vec![
        ("question to the link", who_has(own, LINK, own, PEER), Unharmed),
        ("UDP to the link", hello, Unharmed),
        ("segment from the application port", tcp((LINK, 80), (PEER, 40000)), Dropped("host_without_flow")),
        ("SYN from a splice port", tcp((LINK, 61000), (PEER, 80)), Dropped("host_without_flow")),
        ("SSH to the link", tcp((LINK, 40000), (PEER, 22)), Unharmed),
    ];
    cases
}
