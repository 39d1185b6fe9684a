//! A node over capture files: its configuration, its view, frames in and out.

#![allow(dead_code)] // Each test uses its part.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dts_config::{Config, Policy, Replay};
use dts_core::frame::Port;
use dts_core::key::{Addr, FlowKey, HashKey};
use dts_core::ownership::{BucketTable, Share};
use dts_core::steer::Steer;
use dts_core::time::Span;
use dts_core::view::{Member, Params, Service, View};
use dts_core::wire::arp::{self, Arp};
use dts_worker::Opened;
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};

pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xc1];
pub const CLUSTER_MAC: [u8; 6] = [2, 0, 0x5e, 0, 0, 0x64];
pub const CLIENT: [u8; 4] = [10, 77, 0, 200];
pub const NODE: [u8; 4] = [10, 77, 0, 1];
pub const VIP: [u8; 4] = [10, 77, 0, 100];

/// Capture files of all ports in a directory: `wire-in.pcap`, `wire-out.pcap`.
pub struct Files(tempfile::TempDir);

impl Files {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// The device string of a port that will receive `queues`' frames.
    pub fn device(&self, port: Port, queues: &[Vec<Vec<u8>>]) -> String {
        let mut text = format!("net_pcap{}", port.index());
        for (q, frames) in queues.iter().enumerate() {
            let path = |way: &str| {
                self.0
                    .path()
                    .join(format!("{}-{q}-{way}.pcap", port.name()))
            };
            write_pcap(&path("in"), frames);
            text += &format!(
                ",rx_pcap={},tx_pcap={}",
                path("in").display(),
                path("out").display()
            );
        }
        text
    }

    /// What was sent by one of a port's queues; complete once the port is closed.
    pub fn sent(&self, port: Port, queue: usize) -> Vec<Vec<u8>> {
        read_pcap(
            &self
                .0
                .path()
                .join(format!("{}-{queue}-out.pcap", port.name())),
        )
    }
}

fn write_pcap(path: &Path, frames: &[Vec<u8>]) {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, 1] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    for frame in frames {
        let len = frame.len() as u32;
        for word in [0, 0, len, len] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(frame);
    }
    fs::write(path, file).unwrap();
}

fn read_pcap(path: &Path) -> Vec<Vec<u8>> {
    let file = fs::read(path).unwrap();
    let (mut at, mut frames) = (24, Vec::new());
    while at < file.len() {
        let len = u32::from_ne_bytes(file[at + 8..at + 12].try_into().unwrap()) as usize;
        frames.push(file[at + 16..at + 16 + len].to_vec());
        at += 16 + len;
    }
    frames
}

/// A configuration of node 1 of 2 over these devices, in the ports' order.
pub fn config(devices: &[String; 4], workers: usize, queues: u16) -> Config {
    let [wire, wire_host, link, link_host] = devices;
    let cores: Vec<String> = core_affinity::get_core_ids()
        .unwrap()
        .iter()
        .take(workers)
        .map(|c| c.id.to_string())
        .collect();
    assert_eq!(cores.len(), workers, "this test needs {workers} cores");
    let text = format!(
        "node: 1
cluster:
  name: test
  key: 00112233445566778899aabbccddeeff
  mac: 02:00:5e:00:00:64
  members: [{{ id: 1, name: a, link: 10.77.1.1 }}, {{ id: 2, name: b, link: 10.77.1.2 }}]
services: [{{ name: web, vip: 10.77.0.100, port: 80, proxy_port: 8001, application_port: 8080 }}]
ports:
  wire: {{ device: \"{wire}\", queues: {queues}, host: {{ device: \"{wire_host}\" }} }}
  link: {{ device: \"{link}\", queues: {queues}, host: {{ device: \"{link_host}\" }} }}
workers: {{ cores: [{}], idle: backoff, idle_sleep_us: 100 }}
memory: {{ hugepages: false, megabytes: 64, mbufs: 2047, flows: 1024, half_open: 1024, hold_kib: 256 }}
",
        cores.join(", ")
    );
    dts_config::parse(&text, "test.yaml").unwrap_or_else(|e| panic!("{e}"))
}

pub fn buckets() -> BucketTable {
    let shares = [1, 2].map(|node| Share { node, weight: 100 });
    BucketTable::new(Policy::FlowHash, None, &shares, 256, [7; 16])
}

pub fn view(opened: &Opened) -> View {
    let buckets = Arc::new(buckets());
    View {
        node: 1,
        incarnation: 1001,
        wire_mac: opened.wire_mac,
        cluster_mac: CLUSTER_MAC,
        host_mac: CLUSTER_MAC,
        igmp: None,
        link_mac: opened.link_mac,
        link: Addr::v4([10, 77, 1, 1]),
        own: vec![Addr::v4(NODE)],
        services: vec![Service {
            name: "web".into(),
            vip: Addr::v4(VIP),
            port: 80,
            proxy_port: Some(8001),
            app_port: 8080,
            repeats: 0,
            buckets,
            refuses: true,
        }],
        general: Arc::new(BucketTable::new(
            Policy::Designated,
            Some(1),
            &[],
            16,
            [7; 16],
        )),
        members: vec![Member {
            id: 1,
            link: Addr::v4([10, 77, 1, 1]),
            known: Some((opened.link_mac, 1001)),
            alive: true,
            gone: false,
            on_wire: true,
            takes: u64::MAX,
        }],
        keys: vec![dts_proto::block::LinkKey::new(1, &[3; 16])],
        steer: Steer::new([9; 16]),
        steer_key: HashKey::new([9; 16]),
        params: Params {
            mtu: 1500,
            wire_mtu: 1500,
            first_window: 60_000,
            replay: Replay::FastOpen,
            paper_form: false,
            deadline: Span::millis(150),
            unknown_deadline: Span::millis(2000),
            splice_ports: (61_000, 61_999),
            half_open: Span::secs(60),
            idle: Span::secs(3600),
            closing: Span::secs(5),
            tombstone: Span::secs(60),
            half_open_max: 1024,
            tombstones_max: 64,
            announce: false,
            hello: None,
            orphan_resets: true,
            resets_per_s: 1_000,
            repeat_max: 1 << 20,
            repeat_within: Span::secs(30),
            hold_flow_max: 128 << 10,
        },
    }
}

/// Client ports in order whose connections belong to `node`.
pub fn ports_of(node: u16, count: usize) -> Vec<u16> {
    let table = buckets();
    let key = |client_port| FlowKey {
        client: Addr::v4(CLIENT),
        vip: Addr::v4(VIP),
        client_port,
        port: 80,
    };
    (40_000..)
        .filter(|&p| table.owner(&key(p)) == node)
        .take(count)
        .collect()
}

pub fn arp_request(tpa: [u8; 4]) -> Vec<u8> {
    let a = Arp {
        op: arp::REQUEST,
        sha: CLIENT_MAC,
        spa: CLIENT,
        tha: [0; 6],
        tpa,
    };
    a.frame([0xff; 6], CLIENT_MAC).to_vec()
}

pub fn syn(client_port: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, CLUSTER_MAC)
        .ipv4(CLIENT, VIP, 64)
        .tcp(client_port, 80, 1000, 64_240)
        .syn();
    let mut frame = Vec::new();
    builder.write(&mut frame, &[]).unwrap();
    frame
}

pub fn udp(src: [u8; 4], dst: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(CLUSTER_MAC, CLIENT_MAC)
        .ipv4(src, dst, 64)
        .udp(1, 2);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// Source and destination port of a TCP frame whose checksum is right.
pub fn tcp_ports(frame: &[u8]) -> (u16, u16) {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(etherparse::NetSlice::Ipv4(ip)) = &sliced.net else {
        panic!("no IPv4")
    };
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else {
        panic!("no TCP")
    };
    let header = ip.header();
    let sum = tcp
        .calc_checksum_ipv4(header.source(), header.destination())
        .unwrap();
    assert_eq!(sum, tcp.checksum());
    (tcp.source_port(), tcp.destination_port())
}

/// Waits for something that must happen soon; the limit only ends a failed test.
pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "no {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
