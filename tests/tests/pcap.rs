//! A capture replayed through `net_pcap` devices gives the expected capture, byte
//! for byte, and every frame that is not in it is counted under its reason.
//!
//! One table says of each frame what becomes of it. What comes out is compared
//! with the table, whose frames and checksums are etherparse's work, and with the
//! reviewed bytes in `golden/`. `DTS_UPDATE_GOLDEN=1` writes these anew from the
//! table, never from what the daemon did, and then fails: look at them first
//! (`text2pcap FILE - | tshark -r - -V` reads them).

#[path = "pcap/v6.rs"]
mod v6;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dts_tests::capture_file::{from_hex, read_pcap, to_hex, write_pcap};
use dts_tests::daemon::{PATIENCE, Process, dtsd, get, metrics_address};
use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, IpHeaders, NetSlice, PacketBuilder,
    PacketBuilderStep, SlicedPacket, TcpHeader, TransportSlice,
};

type Mac = [u8; 6];

/// The first device of the `net_pcap` driver, which is the wire, bears this one.
const NODE: Mac = [0x02, b'p', b'c', b'a', b'p', 0];
const CLUSTER: Mac = [0x02, 0, 0x5e, 0, 0, 0x64];
const CLIENT: Mac = [0x02, 0, 0, 0, 0, 0xc1];
const NEIGHBOUR: Mac = [0x02, 0, 0, 0, 0, 0xa2];
const BROADCAST: Mac = [0xff; 6];
const NOBODY: Mac = [0; 6];
/// Where the twin's kernel sends service traffic; the data plane knows better.
const PINNED_HOP: Mac = [0x02, 0, 0, 0, 0, 0x01];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const VIP: IpAddr = v4(10, 77, 0, 100);
const SELF: IpAddr = v4(10, 77, 0, 1);
const OTHER: IpAddr = v4(10, 77, 0, 2);
/// A client; its ping and ARP belong to node 2, its connections to either.
const HOST_A: IpAddr = v4(10, 77, 0, 201);
/// A client whose ping and ARP belong to node 1, this one.
const HOST_B: IpAddr = v4(10, 77, 0, 202);
/// Addresses of documentation (RFC 5737), which no machine has: the daemon then
/// says no hellos.
const LINK: IpAddr = v4(192, 0, 2, 1);
const PEER: IpAddr = v4(192, 0, 2, 2);

// Ports of HOST_A whose buckets are node 1's, and one of node 2's. All nodes of a
// cluster must agree on these, also across versions; they were found by a second
// implementation of the hash.
const PLAIN: u16 = 40002;
const DIRTY: u16 = 40003;
const SMALL: u16 = 40004;
const CLOSED: u16 = 40009;
const NOT_OURS: u16 = 40001;

const PROXY: u16 = 8001;
/// C-space: the client's first number. Next to the wrap on purpose.
const ISN: u32 = 0xffff_fffe;
/// S-space: the proxy's.
const PROXY_ISN: u32 = 0x7fff_ffff;

/// What a Linux client offers: MSS 1460, SACK, timestamps, window scale 7.
const OPTIONS: [u8; 20] = [
    2, 4, 0x05, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7,
];
/// The same with the request for a Fast Open cookie (kind 34), and without it.
const FAST_OPEN: [u8; 24] = with_tail([34, 2, 1, 1]);
const STRIPPED: [u8; 24] = with_tail([1, 1, 1, 1]);
/// What a stack answers that has scaling and timestamps off: MSS 1460.
const MSS_ONLY: [u8; 4] = [2, 4, 0x05, 0xb4];
/// Option 32 of the paper's table 1: 10.77.0.201:40002, 0x01020304.
const SPLICE: [u8; 12] = [32, 12, 10, 77, 0, 201, 0x9c, 0x42, 1, 2, 3, 4];
/// TCP-MD5 (RFC 2385), padded.
const MD5: [u8; 20] = [
    19, 18, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 1, 1,
];

const fn with_tail(tail: [u8; 4]) -> [u8; 24] {
    let mut all = [0; 24];
    let mut i = 0;
    while i < 24 {
        all[i] = if i < 20 { OPTIONS[i] } else { tail[i - 20] };
        i += 1;
    }
    all
}

/// The daemon's ports in the order in which a worker polls them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Port {
    Wire,
    WireHost,
    Link,
    LinkHost,
}

impl Port {
    const ALL: [Port; 4] = [Port::Wire, Port::WireHost, Port::Link, Port::LinkHost];

    /// In metrics, and with a dash in file names.
    fn name(self) -> &'static str {
        ["wire", "wire_host", "link", "link_host"][self as usize]
    }

    fn file(self) -> String {
        self.name().replace('_', "-")
    }

    /// The other side: host twin or physical port.
    fn twin(self) -> Port {
        [Port::WireHost, Port::Wire, Port::LinkHost, Port::Link][self as usize]
    }
}

/// What becomes of a frame.
enum Fate {
    /// It leaves by the twin as it came.
    Unharmed,
    /// It leaves by the twin as this.
    Becomes(Vec<u8>),
    /// This leaves by the port where it came in, and it is counted as consumed.
    Answered(Vec<u8>, &'static str),
    /// It ends here, for this reason.
    Dropped(&'static str),
}
use Fate::{Answered, Becomes, Dropped, Unharmed};

/// A TCP segment; flags as tcpdump shows them, with `n` for AE.
#[derive(Clone, Copy)]
struct Tcp<'a> {
    from: (IpAddr, u16),
    to: (IpAddr, u16),
    flags: &'a str,
    seq: u32,
    ack: u32,
    window: u16,
    options: &'a [u8],
    payload: &'a [u8],
}

impl Tcp<'_> {
    fn frame(self, src: Mac, dst: Mac) -> Vec<u8> {
        let has = |flag| self.flags.contains(flag);
        let mut header = TcpHeader::new(self.from.1, self.to.1, self.seq, self.window);
        header.acknowledgment_number = self.ack;
        header.syn = has('S');
        header.ack = has('.');
        header.psh = has('P');
        header.rst = has('R');
        header.ece = has('E');
        header.cwr = has('W');
        header.ns = has('n');
        header.set_options_raw(self.options).unwrap();
        let packet = ip(src, dst, self.from.0, self.to.0).tcp_header(header);
        let mut frame = Vec::new();
        packet.write(&mut frame, self.payload).unwrap();
        frame
    }
}

/// Ethernet and IP headers, of the addresses' family.
fn ip(src: Mac, dst: Mac, from: IpAddr, to: IpAddr) -> PacketBuilderStep<IpHeaders> {
    let ethernet = PacketBuilder::ethernet2(src, dst);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        _ => panic!("{from} and {to}"),
    }
}

/// HOST_A's SYN to the service.
fn syn(port: u16) -> Tcp<'static> {
    Tcp {
        from: (HOST_A, port),
        to: (VIP, 80),
        flags: "S",
        seq: ISN,
        ack: 0,
        window: 64240,
        options: &OPTIONS,
        payload: b"",
    }
}

/// The proxy's answer to it, as the kernel made it.
fn syn_ack(port: u16) -> Tcp<'static> {
    Tcp {
        from: (VIP, PROXY),
        to: (HOST_A, port),
        flags: "S.",
        seq: PROXY_ISN,
        ack: ISN.wrapping_add(1),
        window: 65535,
        options: &OPTIONS,
        payload: b"",
    }
}

fn udp(src: (Mac, IpAddr, u16), dst: (Mac, IpAddr, u16), payload: &[u8]) -> Vec<u8> {
    let packet = ip(src.0, dst.0, src.1, dst.1).udp(src.2, dst.2);
    let mut frame = Vec::new();
    packet.write(&mut frame, payload).unwrap();
    frame
}

fn ping(src: (Mac, IpAddr), dst: (Mac, IpAddr), reply: bool) -> Vec<u8> {
    let ip = ip(src.0, dst.0, src.1, dst.1);
    let (mut frame, said) = (Vec::new(), b"who is there");
    match (src.1.is_ipv4(), reply) {
        (true, false) => ip.icmpv4_echo_request(7, 1).write(&mut frame, said),
        (true, true) => ip.icmpv4_echo_reply(7, 1).write(&mut frame, said),
        (false, false) => ip.icmpv6_echo_request(7, 1).write(&mut frame, said),
        (false, true) => ip.icmpv6_echo_reply(7, 1).write(&mut frame, said),
    }
    .unwrap();
    frame
}

/// An ARP message in a frame of Ethernet's minimum length.
fn arp(
    eth: (Mac, Mac),
    operation: ArpOperation,
    sender: (Mac, IpAddr),
    target: (Mac, IpAddr),
) -> Vec<u8> {
    let octets = |address| match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(_) => panic!("ARP is IPv4's"),
    };
    let message = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        operation,
        &sender.0,
        &octets(sender.1),
        &target.0,
        &octets(target.1),
    );
    let packet = PacketBuilder::ethernet2(eth.0, eth.1).arp(message.unwrap());
    let mut frame = Vec::new();
    packet.write(&mut frame).unwrap();
    frame.resize(60, 0);
    frame
}

fn who_has(asker: (Mac, IpAddr), target: IpAddr) -> Vec<u8> {
    let eth = (asker.0, BROADCAST);
    arp(eth, ArpOperation::REQUEST, asker, (NOBODY, target))
}

fn raw(dst: Mac, src: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&dst[..], &src, &ethertype.to_be_bytes(), payload].concat()
}

/// The second half of a datagram: more than nothing before it.
fn fragment(mut frame: Vec<u8>) -> Vec<u8> {
    frame[14 + 6..14 + 8].copy_from_slice(&[0, 100]);
    let mut header = etherparse::Ipv4Header::from_slice(&frame[14..]).unwrap().0;
    header.header_checksum = header.calc_header_checksum();
    frame[14..34].copy_from_slice(&header.to_bytes());
    frame
}

type Case = (&'static str, Vec<u8>, Fate);

fn from_wire() -> Vec<Case> {
    let (a, b) = ((CLIENT, HOST_A), (CLIENT, HOST_B));
    let to_host = |t: Tcp| {
        let to = (t.to.0, PROXY);
        Becomes(Tcp { to, ..t }.frame(CLIENT, CLUSTER))
    };
    let same_but = |t: Tcp| t.frame(CLIENT, CLUSTER);
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
    let reply = arp(
        (NODE, CLIENT),
        ArpOperation::REPLY,
        (CLUSTER, VIP),
        (CLIENT, HOST_B),
    );
    let gratuitous = arp(
        (CLIENT, BROADCAST),
        ArpOperation::REQUEST,
        (CLIENT, VIP),
        (NOBODY, VIP),
    );
    let to = |to: (IpAddr, u16)| Tcp { to, ..syn(PLAIN) };
    let mut cut_short = same_but(syn(PLAIN));
    cut_short.truncate(14 + 20 + 12);
    let lldp = raw(
        [0x01, 0x80, 0xc2, 0, 0, 0x0e],
        CLIENT,
        0x88cc,
        &[
            2, 7, 4, 2, 0, 0, 0, 0, 0xc1, 4, 3, 7, b'p', b'1', 6, 2, 0, 120, 0, 0,
        ],
    );
    let echo = syn(PLAIN).frame(NODE, CLUSTER);
    let option32 = Tcp {
        options: &SPLICE,
        ..syn(PLAIN)
    };
    let md5 = Tcp {
        options: &MD5,
        ..syn(PLAIN)
    };
    let reset = Tcp {
        flags: "R",
        payload: b"",
        ..data
    };
    let vip = |src| ping(src, (CLUSTER, VIP), false);
    // Its payload is cut off, but that must not make it right again.
    let mut damaged = same_but(dirty);
    *damaged.last_mut().unwrap() ^= 1;
    #[rustfmt::skip]
    let cases = vec![
        ("ARP for the VIP, asker ours", who_has(b, VIP), Answered(reply, "arp_consumed")),
        ("ARP for the VIP, asker node 2's", who_has(a, VIP), Dropped("arp_consumed")),
        ("gratuitous ARP that claims the VIP", gratuitous, Dropped("arp_consumed")),
        ("ARP for the node's own address", who_has(a, SELF), Unharmed),
        ("SYN, bucket ours", same_but(syn(PLAIN)), to_host(syn(PLAIN))),
        ("SYN, bucket node 2's", same_but(syn(NOT_OURS)), Dropped("not_owner")),
        ("SYN with Fast Open, payload and ECN", same_but(dirty), to_host(clean)),
        ("SYN again", same_but(syn(PLAIN)), to_host(syn(PLAIN))),
        ("SYN of a third flow", same_but(syn(SMALL)), to_host(syn(SMALL))),
        ("SYN that the stack will refuse", same_but(syn(CLOSED)), to_host(syn(CLOSED))),
        ("SYN with payload, damaged", damaged, Dropped("bad_checksum")),
        ("data without a flow", same_but(data), Dropped("no_flow")),
        ("RST without a flow", same_but(reset), Dropped("no_flow")),
        ("option 32", same_but(option32), Dropped("option32_on_wire")),
        ("TCP-MD5", same_but(md5), Dropped("tcp_auth")),
        ("second fragment to the service", fragment(same_but(data)), Dropped("fragment")),
        ("TCP header cut short", cut_short, Dropped("malformed")),
        ("proxy port of the VIP", same_but(to((VIP, PROXY))), Dropped("hidden_port")),
        ("proxy port of the node", to((SELF, PROXY)).frame(CLIENT, NODE), Dropped("hidden_port")),
        ("closed port of the VIP, client node 2's", same_but(to((VIP, 81))), Dropped("not_vip_owner")),
        ("closed port of the VIP, client ours", same_but(Tcp { from: (HOST_B, 40002), ..to((VIP, 81)) }), Unharmed),
        ("ping to the VIP, client ours", vip(b), Unharmed),
        ("ping to the VIP, client node 2's", vip(a), Dropped("not_vip_owner")),
        ("SSH to the node", to((SELF, 22)).frame(CLIENT, NODE), Unharmed),
        ("SSH to node 2", to((OTHER, 22)).frame(CLIENT, NEIGHBOUR), Dropped("other_node")),
        ("LLDP", lldp, Unharmed),
        ("what this node sent itself", echo, Dropped("own_echo")),
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
    let unscaled = Tcp {
        flags: "S.E",
        options: &MSS_ONLY,
        ..syn_ack(DIRTY)
    };
    let without_ecn = Tcp {
        flags: "S.",
        ..unscaled
    };
    let small = Tcp {
        window: 29200,
        ..syn_ack(SMALL)
    };
    let wrong = Tcp {
        ack: ISN,
        ..syn_ack(SMALL)
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
    let own = (CLUSTER, SELF);
    let mut question = who_has(own, HOST_A);
    let asked = question.clone();
    question[6..12].copy_from_slice(&NODE);
    let announcement = arp(
        (CLUSTER, BROADCAST),
        ArpOperation::REQUEST,
        (CLUSTER, VIP),
        (NOBODY, VIP),
    );
    let answer = arp(
        (CLUSTER, CLIENT),
        ArpOperation::REPLY,
        (CLUSTER, VIP),
        (CLIENT, HOST_A),
    );
    let datagram = |src| udp((src, SELF, 5000), (CLIENT, HOST_A, 5001), b"?");
    let pong = |src| ping((src, VIP), (CLIENT, HOST_B), true);
    let ssh = Tcp {
        to: (HOST_A, PLAIN),
        ..from((SELF, 22), "S.")
    };
    let ssh_out = Becomes(ssh.frame(NODE, CLIENT));
    #[rustfmt::skip]
    let cases = vec![
        ("SYN-ACK, window scale 7", from_stack(syn_ack(PLAIN)), clamped(syn_ack(PLAIN), 59776)),
        ("SYN-ACK with ECE, no window scale", from_stack(unscaled), clamped(without_ecn, 59999)),
        ("SYN-ACK again", from_stack(syn_ack(PLAIN)), clamped(syn_ack(PLAIN), 59776)),
        ("SYN-ACK of another SYN", from_stack(wrong), Dropped("host_forbidden")),
        ("SYN-ACK with a small window", from_stack(small), to_client(small)),
        ("refusal by the stack", from_stack(refusal), to_client(refusal)),
        ("the node asks by ARP", asked, Becomes(question)),
        ("the node announces the VIP", announcement, Dropped("host_arp_vip")),
        ("the node answers ARP for the VIP", answer, Dropped("host_arp_vip")),
        ("RST from the service port, no flow", from_stack(from((VIP, 80), "R")), Dropped("host_without_flow")),
        ("segment from the proxy port, no flow", from_stack(from((VIP, PROXY), ".")), Dropped("host_without_flow")),
        ("segment from the node's own proxy port", from_stack(from((SELF, PROXY), ".")), Dropped("host_without_flow")),
        ("connection that the host opens from the VIP", from_stack(from((VIP, 45000), "S")), Dropped("host_from_vip")),
        ("SSH from the node", ssh.frame(CLUSTER, CLIENT), ssh_out),
        ("UDP from the node", datagram(CLUSTER), Becomes(datagram(NODE))),
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
    let hello = udp((NEIGHBOUR, PEER, 7946), (BROADCAST, LINK, 7946), b"hello");
    #[rustfmt::skip]
    let cases = vec![
        ("ARP on the link", who_has((NEIGHBOUR, PEER), LINK), Unharmed),
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
        ("ARP to the link", who_has((own, LINK), PEER), Unharmed),
        ("UDP to the link", hello, Unharmed),
        ("segment from the application port", tcp((LINK, 80), (PEER, 40000)), Dropped("host_without_flow")),
        ("SYN from a splice port", tcp((LINK, 61000), (PEER, 80)), Dropped("host_without_flow")),
        ("SSH to the link", tcp((LINK, 40000), (PEER, 22)), Unharmed),
    ];
    cases
}

/// What must leave by each port, in order, with what it is.
fn expected(cases: &[Vec<Case>; 4]) -> [Vec<(&'static str, Vec<u8>)>; 4] {
    let mut out: [Vec<_>; 4] = Default::default();
    for (port, cases) in Port::ALL.into_iter().zip(cases) {
        for (what, frame, fate) in cases {
            let (by, frame) = match fate {
                Unharmed => (port.twin(), frame),
                Becomes(other) => (port.twin(), other),
                Answered(other, _) => (port, other),
                Dropped(_) => continue,
            };
            out[by as usize].push((*what, frame.clone()));
        }
    }
    out
}

/// How often each reason must be counted; those not named, never.
fn expected_drops(cases: &[Vec<Case>; 4]) -> BTreeMap<String, u64> {
    let mut drops = BTreeMap::new();
    for (_, _, fate) in cases.iter().flatten() {
        if let Answered(_, reason) | Dropped(reason) = fate {
            *drops.entry((*reason).to_owned()).or_default() += 1;
        }
    }
    drops
}

fn golden(set: &Set, port: Port) -> PathBuf {
    let name = format!("golden/{}{}.hex", set.name, port.file());
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Compares captures frame by frame, so that a failure shows which one differs.
fn assert_frames(port: Port, found: &[Vec<u8>], wanted: &[Vec<u8>], labels: &[&str]) {
    for (number, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let what = format!("frame {} out by {port:?}: {}", number + 1, labels[number]);
        let hex = |frame: &Vec<u8>| to_hex(&[("", frame.clone())]);
        assert!(
            found == wanted,
            "{what}\nfound\n{}wanted\n{}",
            hex(found),
            hex(wanted)
        );
    }
    let (found, wanted) = (found.len(), wanted.len());
    assert_eq!(found, wanted, "frames out by {port:?}");
}

/// Every checksum of a frame, computed anew.
fn assert_checksums(frame: &[u8], what: &str) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap_or_else(|e| panic!("{what}: {e}"));
    match (&packet.net, &packet.transport) {
        (Some(NetSlice::Ipv4(ip)), transport) => {
            let header = ip.header().to_header();
            let sum = header.calc_header_checksum();
            assert_eq!(header.header_checksum, sum, "{what}");
            if let Some(TransportSlice::Tcp(tcp)) = transport {
                let sum = tcp.calc_checksum_ipv4(header.source, header.destination);
                assert_eq!(tcp.checksum(), sum.unwrap(), "{what}");
            }
        }
        (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Tcp(tcp))) => {
            let header = ip.header().to_header();
            let sum = tcp.calc_checksum_ipv6(header.source, header.destination);
            assert_eq!(tcp.checksum(), sum.unwrap(), "{what}");
        }
        (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(icmp))) => {
            let header = ip.header().to_header();
            let valid = icmp.is_checksum_valid(header.source, header.destination);
            assert!(valid, "{what}");
        }
        _ => {}
    }
}

/// One run: what goes in and what becomes of it, by port.
struct Set {
    /// Stands in front of the names of its golden captures.
    name: &'static str,
    vip: IpAddr,
    /// The node's own address on the wire, with its prefix length.
    own: (IpAddr, u8),
    links: [IpAddr; 2],
    cases: [Vec<Case>; 4],
}

/// Node 1 of two on four capture devices, with nothing in the kernel.
fn configuration(set: &Set, dir: &Path, metrics: SocketAddr) -> String {
    let Set {
        vip, own, links, ..
    } = set;
    let device = |port: Port| {
        let (at, name) = (dir.display(), port.file());
        let number = port as usize;
        format!("\"net_pcap{number},rx_pcap={at}/{name}.in,tx_pcap={at}/{name}.out\"")
    };
    let [wire, wire_host, link, link_host] = Port::ALL.map(device);
    let dir = dir.display();
    format!(
        r#"node: 1
cluster:
  name: golden
  key: "000102030405060708090a0b0c0d0e0f"
  mac: "02:00:5e:00:00:64"
  announce: false
  members:
    - {{ id: 1, name: node1, link: "{}" }}
    - {{ id: 2, name: node2, link: "{}" }}
services:
  - {{ name: web, vip: "{vip}", port: 80, proxy_port: {PROXY} }}
ports:
  wire:
    device: {wire}
    host: {{ device: {wire_host}, addresses: ["{}/{}"] }}
  link:
    device: {link}
    host: {{ device: {link_host} }}
workers: {{ cores: [0], idle_sleep_us: 1000 }}
memory: {{ hugepages: false, megabytes: 64, mbufs: 2048, flows: 1024, half_open: 256, tombstones: 256 }}
timeouts: {{ half_open_s: 3600 }}
peers: {{ hello_ms: 0 }}
control:
  rpc_socket: {dir}/rpc.sock
  admin_socket: {dir}/admin.sock
  metrics: "{metrics}"
"#,
        links[0], links[1], own.0, own.1,
    )
}

/// The samples of one metric whose value is not 0, by the value of one label.
fn samples(text: &str, metric: &str, label: &str) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    let key = format!("{label}=\"");
    for line in text.lines() {
        let Some(rest) = line.strip_prefix(metric).and_then(|l| l.strip_prefix('{')) else {
            continue;
        };
        let (labels, value) = rest.rsplit_once("} ").unwrap();
        let name = labels.split(',').find_map(|l| l.strip_prefix(key.as_str()));
        let name = name.unwrap().trim_end_matches('"').to_owned();
        *all.entry(name).or_default() += value.parse::<u64>().unwrap();
    }
    all.retain(|_, count| *count > 0);
    all
}

/// The text of `/metrics`; `None` while nobody answers.
fn scrape(metrics: SocketAddr) -> Option<String> {
    let stream = TcpStream::connect(metrics).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let (status, text) = get(stream, "/metrics")?;
    (status == 200).then_some(text)
}

#[test]
fn a_replayed_capture_gives_the_expected_one() {
    replay(&Set {
        name: "",
        vip: VIP,
        own: (SELF, 24),
        links: [LINK, PEER],
        cases: [from_wire(), from_wire_host(), from_link(), from_link_host()],
    });
}

#[test]
fn a_replayed_capture_of_ipv6_gives_the_expected_one() {
    replay(&v6::set());
}

fn replay(set: &Set) {
    let cases = &set.cases;
    let wanted = expected(cases);
    if std::env::var_os("DTS_UPDATE_GOLDEN").is_some() {
        for port in Port::ALL {
            let path = golden(set, port);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, to_hex(&wanted[port as usize])).unwrap();
        }
        panic!("the golden captures were written: review them, then run without DTS_UPDATE_GOLDEN");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |port: Port, end: &str| dir.path().join(format!("{}.{end}", port.file()));
    let mut received = BTreeMap::new();
    for (port, cases) in Port::ALL.into_iter().zip(cases) {
        // One burst per port: the wire's is processed before the host's, whose
        // frames answer it.
        assert!(cases.len() < 32);
        let frames: Vec<Vec<u8>> = cases.iter().map(|(_, frame, _)| frame.clone()).collect();
        write_pcap(&path(port, "in"), &frames);
        received.insert(port.name().to_owned(), cases.len() as u64);
    }

    let metrics = metrics_address();
    let file = dir.path().join("dtsd.yaml");
    fs::write(&file, configuration(set, dir.path(), metrics)).unwrap();
    let log = fs::File::create(dir.path().join("log")).unwrap();
    let mut daemon = Process::spawn(&mut dtsd(&file), log.try_clone().unwrap(), log);
    let drops = expected_drops(cases);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = scrape(metrics).unwrap_or_default();
        let found = (
            samples(&text, "dts_port_rx_packets_total", "port"),
            samples(&text, "dts_drops_total", "reason"),
        );
        if found.0 == received && found.1 == drops {
            break;
        }
        let ended = daemon.ended();
        if ended.is_some() || Instant::now() > deadline {
            let log = fs::read_to_string(dir.path().join("log")).unwrap();
            assert_eq!(ended, None, "dtsd has ended:\n{log}");
            let wanted = (received, drops);
            assert_eq!(found, wanted, "\n{log}");
            unreachable!("they differed");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let status = daemon.terminate();
    assert!(status.success(), "dtsd: {status}");

    for port in Port::ALL {
        let (labels, wanted): (Vec<_>, Vec<_>) = wanted[port as usize].iter().cloned().unzip();
        let found = read_pcap(&path(port, "out"));
        assert_frames(port, &found, &wanted, &labels);
        let text = fs::read_to_string(golden(set, port)).unwrap();
        assert_frames(port, &found, &from_hex(&text), &labels);
        for (frame, what) in found.iter().zip(labels) {
            assert_checksums(frame, what);
        }
    }
}
