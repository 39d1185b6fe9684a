//! A whole daemon over capture files with VLAN tags and jumbo frames.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use dts_tests::replay::{Frames, replay, samples};
use etherparse::{PacketBuilder, SlicedPacket, TcpHeader, TransportSlice, VlanId};

type Mac = [u8; 6];

/// The first device of the `net_pcap` driver, which is the wire, bears this one.
const NODE: Mac = [0x02, b'p', b'c', b'a', b'p', 0];
const CLUSTER: Mac = [0x02, 0, 0x5e, 0, 0, 0x64];
const CLIENT: Mac = [0x02, 0, 0, 0, 0, 0xc1];
const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
const HOST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 201);
const SELF: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// A port of HOST whose bucket is node 1's (see `pcap.rs`).
const PORT: u16 = 40002;
const PROXY: u16 = 8001;
const ISN: u32 = 0xffff_fff0;
const PROXY_ISN: u32 = 0x7fff_fff0;
/// MSS 8960.
const JUMBO_MSS: [u8; 4] = [2, 4, 0x23, 0x00];

/// A frame between these machines and ports, with a tag or without.
fn tcp(
    eth: (Mac, Mac),
    vlan: Option<u16>,
    (from, to): ((Ipv4Addr, u16), (Ipv4Addr, u16)),
    header: impl FnOnce(&mut TcpHeader),
    payload: &[u8],
) -> Vec<u8> {
    let mut h = TcpHeader::new(from.1, to.1, 0, 60_000);
    header(&mut h);
    let b = PacketBuilder::ethernet2(eth.0, eth.1);
    let mut out = Vec::new();
    let (src, dst) = (from.0.octets(), to.0.octets());
    match vlan {
        None => b.ipv4(src, dst, 64).tcp_header(h).write(&mut out, payload),
        Some(id) => b
            .single_vlan(VlanId::try_new(id).unwrap())
            .ipv4(src, dst, 64)
            .tcp_header(h)
            .write(&mut out, payload),
    }
    .unwrap();
    out
}

const IN: (Mac, Mac) = (CLIENT, CLUSTER);
const TO_PROXY: ((Ipv4Addr, u16), (Ipv4Addr, u16)) = ((HOST, PORT), (VIP, PROXY));
const TO_SERVICE: ((Ipv4Addr, u16), (Ipv4Addr, u16)) = ((HOST, PORT), (VIP, 80));
const FROM_PROXY: ((Ipv4Addr, u16), (Ipv4Addr, u16)) = ((VIP, PROXY), (HOST, PORT));
const FROM_SERVICE: ((Ipv4Addr, u16), (Ipv4Addr, u16)) = ((VIP, 80), (HOST, PORT));

fn syn(h: &mut TcpHeader) {
    h.sequence_number = ISN;
    h.syn = true;
    h.set_options_raw(&JUMBO_MSS).unwrap();
}

fn syn_ack(h: &mut TcpHeader) {
    h.sequence_number = PROXY_ISN;
    h.acknowledgment_number = ISN.wrapping_add(1);
    (h.syn, h.ack) = (true, true);
    h.window_size = 30_000;
    h.set_options_raw(&JUMBO_MSS).unwrap();
}

fn configuration(wire: &str, devices: [String; 4], dir: &Path, metrics: SocketAddr) -> String {
    let [a, b, c, d] = devices;
    let dir = dir.display();
    format!(
        r#"node: 1
cluster:
  name: golden
  key: "000102030405060708090a0b0c0d0e0f"
  mac: "02:00:5e:00:00:64"
  announce: false
  members:
    - {{ id: 1, name: node1, link: 192.0.2.1 }}
    - {{ id: 2, name: node2, link: 192.0.2.2 }}
services:
  - {{ name: web, vip: {VIP}, port: 80, proxy_port: {PROXY} }}
ports:
  wire: {{ device: "{a}", {wire}host: {{ device: "{b}", addresses: [{SELF}/24] }} }}
  link: {{ device: "{c}", {wire}host: {{ device: "{d}" }} }}
workers: {{ cores: [0], idle_sleep_us: 1000 }}
memory: {{ hugepages: false, megabytes: 64, mbufs: 1024, flows: 1024, half_open: 256, tombstones: 256 }}
timeouts: {{ half_open_s: 3600 }}
peers: {{ hello_ms: 0 }}
control:
  rpc_socket: {dir}/rpc.sock
  admin_socket: {dir}/admin.sock
  metrics: "{metrics}"
"#
    )
}

/// Each frame is a valid one, byte for byte what is wanted.
fn assert_frames(what: &str, found: &[Vec<u8>], wanted: &[Vec<u8>]) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (i, (f, w)) in found.iter().zip(wanted).enumerate() {
        assert!(
            f == w,
            "{what}, frame {i}\nfound  {f:02x?}\nwanted {w:02x?}"
        );
        let s = SlicedPacket::from_ethernet(f).unwrap();
        let (Some(etherparse::NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) =
            (&s.net, &s.transport)
        else {
            continue;
        };
        let (src, dst) = (ip.header().source(), ip.header().destination());
        assert_eq!(tcp.checksum(), tcp.calc_checksum_ipv4(src, dst).unwrap());
    }
}

#[test]
fn a_port_with_a_vlan_takes_and_sends_its_tag_alone() {
    let ours = Some(77);
    let tagged = |vlan| tcp(IN, vlan, TO_SERVICE, syn, b"");
    let mut with_priority = tagged(ours);
    with_priority[14] |= 0xa0;
    let mut double = tagged(Some(78));
    // An 802.1Q tag of ours behind another: this port's frames are what the outer
    // one says.
    double.splice(12..12, [0x81, 0, 0, 78]);
    // Behind ours one that a stack would pass over.
    let mut nested = tagged(Some(0));
    nested.splice(12..12, [0x81, 0, 0, 77]);
    let ssh = ((SELF, 22), (HOST, PORT));
    let from_link = |vlan| tcp((CLIENT, NODE), vlan, ssh, |h| h.ack = true, b"l");
    let frames: Frames = [
        vec![
            tagged(ours),
            tagged(None),
            tagged(Some(78)),
            with_priority,
            tagged(Some(0)),
            double,
            nested,
        ],
        vec![
            tcp((CLUSTER, CLIENT), None, FROM_PROXY, syn_ack, b""),
            tcp((CLUSTER, CLIENT), None, ssh, |h| h.ack = true, b"hello"),
        ],
        vec![from_link(ours), from_link(None)],
        vec![tcp((CLIENT, NODE), None, ssh, |h| h.ack = true, b"m")],
    ];
    let outcome = replay(
        &frames,
        |d, dir, m| configuration("vlan: 77, ", d, dir, m),
        |drops| drops.values().sum::<u64>() >= 5,
    );
    let drops = [("vlan_other", 2), ("vlan_untagged", 3)];
    assert_eq!(
        outcome.drops,
        drops.map(|(r, n)| (r.to_owned(), n)).into(),
        "{}",
        outcome.log
    );
    let [wire, wire_host, link, link_host] = outcome.sent;
    let clean = tcp(IN, None, TO_PROXY, syn, b"");
    assert_frames(
        "to the host",
        &wire_host,
        &[clean.clone(), clean.clone(), clean],
    );
    assert_frames(
        "to the wire",
        &wire,
        &[
            tcp((NODE, CLIENT), ours, FROM_SERVICE, syn_ack, b""),
            tcp((NODE, CLIENT), ours, ssh, |h| h.ack = true, b"hello"),
        ],
    );
    assert_frames("to the link's host", &link_host, &[from_link(None)]);
    let m = tcp((CLIENT, NODE), ours, ssh, |h| h.ack = true, b"m");
    assert_frames("to the link", &link, &[m]);
    // Who does what is told when the daemon starts, and in its metrics.
    assert!(
        outcome
            .log
            .contains("vlan_strip=software vlan_insert=software"),
        "{}",
        outcome.log
    );
    let by = samples(&outcome.metrics, "dts_port_offload", "what");
    assert_eq!((by["vlan_strip"], by["vlan_insert"]), (2, 2));
}

#[test]
fn jumbo_frames_pass_both_ways_and_longer_ones_do_not() {
    let body: Vec<u8> = (0..9160).map(|i| (i * 7) as u8).collect();
    let data = |h: &mut TcpHeader| {
        h.sequence_number = ISN.wrapping_add(1);
        h.acknowledgment_number = PROXY_ISN.wrapping_add(1);
        (h.ack, h.psh) = (true, true);
    };
    let answer = |h: &mut TcpHeader| {
        h.sequence_number = PROXY_ISN.wrapping_add(1);
        h.acknowledgment_number = ISN.wrapping_add(9161);
        (h.ack, h.psh) = (true, true);
        h.window_size = 20_000;
    };
    let ssh = ((SELF, 22), (HOST, PORT));
    let plain = |h: &mut TcpHeader| h.ack = true;
    // 9176 bytes of payload, and 40 of headers: 9216.
    let longest: Vec<u8> = (0..9176).map(|i| (i * 3) as u8).collect();
    let longer = [&longest[..], b"!"].concat();
    for vlan in [None, Some(5)] {
        // The devices are read in turn, in bursts of 64: what is behind the SYN's
        // burst comes after the SYN-ACK.
        let echo = tcp((NODE, CLUSTER), vlan, TO_SERVICE, syn, b"");
        let mut wire = vec![tcp(IN, vlan, TO_SERVICE, syn, b"")];
        wire.resize(64, echo);
        wire.push(tcp(IN, vlan, TO_SERVICE, data, &body));
        let frames: Frames = [
            wire,
            vec![
                tcp((CLUSTER, CLIENT), None, FROM_PROXY, syn_ack, b""),
                tcp((CLUSTER, CLIENT), None, FROM_PROXY, answer, &body),
                tcp((CLUSTER, CLIENT), None, ssh, plain, &longest),
                tcp((CLUSTER, CLIENT), None, ssh, plain, &longer),
            ],
            vec![],
            vec![],
        ];
        let wire = match vlan {
            Some(id) => format!("mtu: 9216, vlan: {id}, "),
            None => "mtu: 9216, ".to_owned(),
        };
        let outcome = replay(
            &frames,
            |d, dir, m| configuration(&wire, d, dir, m),
            |drops| drops.values().sum::<u64>() == 64,
        );
        let [wire, wire_host, ..] = outcome.sent;
        let wanted = [
            tcp((NODE, CLIENT), vlan, FROM_SERVICE, syn_ack, b""),
            tcp((NODE, CLIENT), vlan, FROM_SERVICE, answer, &body),
            tcp((NODE, CLIENT), vlan, ssh, plain, &longest),
        ];
        assert_frames("to the wire", &wire, &wanted);
        let wanted = [
            tcp(IN, None, TO_PROXY, syn, b""),
            tcp(IN, None, TO_PROXY, data, &body),
        ];
        assert_frames("to the host", &wire_host, &wanted);
        let drops = [("own_echo", 63), ("too_long", 1)];
        assert_eq!(
            outcome.drops,
            drops.map(|(r, n)| (r.to_owned(), n)).into(),
            "{}",
            outcome.log
        );
    }
}
