//! A stack with offloads on a node's host port: `net_vhost` is the twin, and this
//! test is the stack, by `net_virtio_user` on the same socket. It sends frames of up
//! to 64 KiB in many buffers with unfinished checksums, as a kernel does over
//! vhost-net; what leaves by the wire is read from a capture.

mod common;

use std::sync::Arc;

use arc_swap::ArcSwap;
use common::*;
use crossbeam::channel;
use dpdk::{Burst, DEFAULT_DATA_ROOM, Mempool, PortConf, TxRequest, hotplug, offload};
use dts_core::drops::Drop;
use dts_core::frame::Port;
use dts_worker::{Fleet, start};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TransportSlice};

const BODY: usize = 64_000;
const SEQ: u32 = 0xffff_8000;

/// A frame from the node's SSH server, which is none of the cluster's business.
fn frame(ipv6: bool, body: &[u8]) -> Vec<u8> {
    let mut tcp = TcpHeader::new(22, 40_000, SEQ, 500);
    (tcp.ack, tcp.psh, tcp.fin) = (true, true, true);
    let b = PacketBuilder::ethernet2(CLUSTER_MAC, CLIENT_MAC);
    let mut out = Vec::new();
    if ipv6 {
        let b = b.ipv6([0x20; 16], [0x30; 16], 64);
        b.tcp_header(tcp).write(&mut out, body).unwrap();
    } else {
        let b = b.ipv4(NODE, CLIENT, 64);
        b.tcp_header(tcp).write(&mut out, body).unwrap();
    }
    out
}

#[test]
fn large_frames_of_a_stack_leave_as_segments() {
    let files = Files::new();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("vhost");
    let devices = [
        files.device(Port::Wire, &[vec![]]),
        format!("net_vhost0,iface={},tso=1", socket.display()),
        files.device(Port::Link, &[vec![]]),
        files.device(Port::LinkHost, &[vec![]]),
    ];
    let mut config = config(&devices, 1, 1);
    config.memory.mbufs = 1023;
    config.ports.wire.vlan = Some(33);
    let opened = start::open(&config).unwrap();
    let views = Arc::new(ArcSwap::from_pointee(view(&opened)));
    let (events, _inbox) = channel::unbounded();
    let fleet = Fleet::spawn(opened, views, events).unwrap();
    let host = &fleet.ports()[Port::WireHost.index()];
    assert_eq!(host.offloads, [("host_checksum", "on"), ("host_tso", "on")]);
    let wire = &fleet.ports()[Port::Wire.index()];
    for what in ["tx_checksum", "tx_tso", "vlan_insert"] {
        assert!(wire.offloads.contains(&(what, "software")), "{wire:?}");
    }

    let pool = Mempool::new("stack", 511, 0, DEFAULT_DATA_ROOM, None).unwrap();
    let text = format!("net_virtio_user9,path={},queues=1", socket.display());
    let stack = hotplug::attach_one(&text).unwrap();
    let tx = offload::TX_TCP_TSO | offload::TX_TCP_CKSUM | offload::TX_MULTI_SEGS;
    let done = stack
        .configure(&PortConf {
            rx_offloads: 0,
            tx_offloads: tx,
            rx_desc: 256,
            tx_desc: 256,
            ..PortConf::default()
        })
        .unwrap();
    assert_eq!(done.tx_offloads, tx, "the twin takes large frames");
    stack.setup_queues(std::slice::from_ref(&pool)).unwrap();
    stack.start().unwrap();
    let mut queue = stack.tx_queue(0).unwrap();

    let body: Vec<u8> = (0..BODY).map(|i| (i * 13 + i / 253) as u8).collect();
    let mut burst = Burst::new();
    for ipv6 in [false, true] {
        let mut large = pool.alloc_all(&frame(ipv6, &body)).unwrap();
        assert!(large.nb_segs() > 30);
        let h = large.headers().unwrap();
        large.request(&h, TxRequest::Segment(1400));
        assert!(queue.prepare(&mut large));
        burst.push(large).unwrap();
    }
    let mut small = pool.alloc_all(&frame(false, b"small")).unwrap();
    let h = small.headers().unwrap();
    small.request(&h, TxRequest::Checksum);
    assert!(queue.prepare(&mut small));
    burst.push(small).unwrap();
    wait_for("the peer", || {
        queue.burst(&mut burst);
        burst.is_empty()
    });
    let segments = BODY.div_ceil(1400);
    let expected = 2 * segments as u64 + 1;
    wait_for("segments", || {
        fleet.stats()[0].ports[Port::Wire.index()].tx_packets == expected
    });
    let s = fleet.stats().remove(0);
    assert_eq!(s.ports[Port::WireHost.index()].rx_packets, 3);
    assert_eq!((s.tso_software, s.tso_device), (2, 0));
    assert_eq!((s.checksum_software, s.checksum_device), (expected, 0));
    assert_eq!(s.drops.0.iter().sum::<u64>(), 0, "{:?}", s.drops);
    assert_eq!(s.drops.get(Drop::TooLong), 0);

    drop(queue);
    stack.stop().unwrap();
    stack.detach().unwrap();
    assert_eq!(pool.in_use(), 0);
    drop(pool);
    // It succeeds only if every packet buffer is back in its pool.
    fleet.stop().unwrap();

    let sent = files.sent(Port::Wire, 0);
    assert_eq!(sent.len() as u64, expected);
    let mut joined = [Vec::new(), Vec::new()];
    for frame in &sent {
        assert!(frame.len() <= 1518, "{} bytes on the wire", frame.len());
        let p = SlicedPacket::from_ethernet(frame).unwrap();
        assert_eq!(p.vlan_ids().first().map(|v| v.value()), Some(33));
        let Some(TransportSlice::Tcp(tcp)) = &p.transport else {
            panic!("no TCP")
        };
        let (sum, family) = match p.net.as_ref().unwrap() {
            NetSlice::Ipv4(ip) => {
                let h = ip.header();
                assert_eq!(h.header_checksum(), h.to_header().calc_header_checksum());
                let sum = tcp.calc_checksum_ipv4(h.source(), h.destination());
                (sum, 0)
            }
            NetSlice::Ipv6(ip) => {
                let h = ip.header().to_header();
                (tcp.calc_checksum_ipv6(h.source, h.destination), 1)
            }
            NetSlice::Arp(_) => panic!("ARP"),
        };
        assert_eq!(tcp.checksum(), sum.unwrap());
        if tcp.payload() == b"small" {
            continue;
        }
        let joined: &mut Vec<u8> = &mut joined[family];
        assert_eq!(tcp.sequence_number(), SEQ.wrapping_add(joined.len() as u32));
        joined.extend_from_slice(tcp.payload());
        let last = joined.len() == BODY;
        assert_eq!((tcp.psh(), tcp.fin()), (last, last));
    }
    assert!(joined.iter().all(|j| *j == body), "all bytes, in order");
}
