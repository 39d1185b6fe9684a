//! Two nodes, a client and their stacks, played by hand: what the tests of the
//! handover need.

use super::{CLIENT_V6, LINK_V6};
use crate::ahead::Looked;
use crate::command::{Command, Event};
use crate::found::Found;
use crate::frame::{Checksum, Frame, Meta, Output, Pool, Port};
use crate::key::{Addr, FlowKey, HashKey};
use crate::ownership::{BucketTable, Share};
use crate::shard::{Shard, Sizes};
use crate::steer::Steer;
use crate::time::{Instant, Span};
use crate::view::{Member, Params, Service, View};
use crate::wire::build::Tcp;
use crate::wire::options::Build;
use crate::wire::tcp::{ACK, FIN, SYN, Segment};
use crate::wire::{self, L3, Mac, checksum, edit, icmp};
use dts_config::{Policy, Replay};
use dts_proto::block::LinkKey;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

mod pair;
pub use pair::*;

pub const CLUSTER_MAC: Mac = [2, 0, 0x5e, 0, 0, 0x64];
pub const CLIENT_MAC: Mac = [2, 0, 0, 0, 0, 0xc1];
/// The client of option 32, which has room for no other family.
pub const CLIENT_V4: [u8; 4] = [10, 77, 0, 200];
/// A second service's, where the first one is IPv6's.
pub const VIP_V4: [u8; 4] = [10, 77, 0, 100];
pub const CLIENT: IpAddr = on_wire(200);
pub const VIP: IpAddr = on_wire(100);
/// Offset of the TCP header in a frame of the client without extension headers.
pub const L4: usize = if CLIENT_V6 { 54 } else { 34 };
/// Offset of the quoted TCP header in an ICMP error.
pub const QUOTED: usize = L4 + 8 + L4 - wire::ETH_LEN;

const fn net(v6: bool, net: u16, host: u8) -> IpAddr {
    if v6 {
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0x77, net, 0, 0, 0, 0, host as u16))
    } else {
        IpAddr::V4(Ipv4Addr::new(10, 77, net as u8, host))
    }
}

/// An address of the wire's network.
pub const fn on_wire(host: u8) -> IpAddr {
    net(CLIENT_V6, 0, host)
}

/// A node's link address.
pub fn on_link(node: impl Into<u16>) -> IpAddr {
    net(LINK_V6, 1, node.into() as u8)
}
pub const CPORT: u16 = 40_000;
pub const KEY: &[u8] = b"0123456789abcdef";

/// A frame in pieces, as a device may deliver it.
#[derive(Clone, Debug, Default)]
pub struct Pieces {
    parts: Vec<Vec<u8>>,
    meta: Meta,
}

impl Pieces {
    /// `bytes` in pieces of these lengths; the last one has the rest.
    pub fn cut(bytes: &[u8], lengths: &[usize]) -> Self {
        let mut parts = Vec::new();
        let mut rest = bytes;
        for &n in lengths.iter().filter(|n| **n > 0) {
            if n >= rest.len() {
                break;
            }
            let (part, tail) = rest.split_at(n);
            parts.push(part.to_vec());
            rest = tail;
        }
        parts.push(rest.to_vec());
        Self {
            parts,
            meta: Meta::default(),
        }
    }

    /// As a device does at its worst: behind the headers of a TCP segment a piece
    /// ends anywhere. Where, is a function of the bytes and `seed`; 0 leaves the
    /// frame whole.
    pub fn of(bytes: &[u8], seed: u64) -> Self {
        let headers = match wire::l3(bytes) {
            Ok(L3::Ip(ip)) => Segment::parse(bytes, &ip).map_or(bytes.len(), |s| s.data),
            _ => bytes.len(),
        };
        let mut x = bytes.iter().fold(seed, |x, b| {
            (x ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        if seed == 0 || x >> 61 == 0 {
            return Self::cut(bytes, &[]);
        }
        let mut lengths = vec![headers];
        for _ in 0..x >> 60 {
            x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            lengths.push((x >> 33) as usize % 37 * if x >> 63 == 0 { 1 } else { 41 });
        }
        Self::cut(bytes, &lengths)
    }

    /// The frame with this known of it.
    pub fn with(mut self, meta: Meta) -> Self {
        self.meta = meta;
        self
    }
}

impl Frame for Pieces {
    fn head(&self) -> &[u8] {
        &self.parts[0]
    }
    fn head_mut(&mut self) -> &mut [u8] {
        &mut self.parts[0]
    }
    fn truncate(&mut self, len: usize) {
        let mut left = len;
        self.parts.retain_mut(|p| {
            p.truncate(left);
            left -= p.len();
            !p.is_empty()
        });
    }
    fn len(&self) -> usize {
        self.parts.iter().map(Vec::len).sum()
    }
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().map(Vec::as_slice)
    }
    fn meta(&self) -> Meta {
        self.meta
    }
    fn set_meta(&mut self, meta: Meta) {
        self.meta = meta;
    }
}

/// What left a shard, in one piece.
pub struct Out {
    pub ports: [VecDeque<Vec<u8>>; 4],
    /// What was known of the frames of `ports`.
    pub metas: [VecDeque<Meta>; 4],
    pub handed: Vec<(usize, Port, Vec<u8>)>,
    /// How frames come in pieces, see [`Pieces::of`].
    pub seed: u64,
    /// No buffer is free.
    pub dry: bool,
}

impl Default for Out {
    fn default() -> Self {
        Self {
            ports: Default::default(),
            metas: Default::default(),
            handed: Vec::new(),
            seed: 1,
            dry: false,
        }
    }
}

impl Pool for Out {
    type Frame = Pieces;
    fn frame(&mut self, bytes: &[u8]) -> Option<Pieces> {
        (!self.dry).then(|| Pieces::of(bytes, self.seed))
    }
}

impl Output for Out {
    fn send(&mut self, port: Port, frame: Pieces) {
        self.ports[port.index()].push_back(frame.to_vec());
        self.metas[port.index()].push_back(frame.meta);
    }
    fn hand_off(&mut self, worker: usize, port: Port, frame: Pieces) {
        self.handed.push((worker, port, frame.to_vec()));
    }
}

pub fn params() -> Params {
    Params {
        mtu: 1500,
        wire_mtu: 1500,
        first_window: 60_000,
        replay: Replay::FastOpen,
        paper_form: false,
        deadline: Span::millis(150),
        unknown_deadline: Span::millis(2000),
        splice_ports: (61_000, 61_999),
        half_open: Span::secs(10),
        idle: Span::secs(3600),
        closing: Span::secs(5),
        tombstone: Span::secs(60),
        half_open_max: 64,
        tombstones_max: 64,
        announce: false,
        hello: None,
        orphan_resets: true,
        resets_per_s: 1_000,
        repeat_max: 1 << 20,
        repeat_within: Span::secs(30),
        hold_flow_max: 128 << 10,
    }
}

/// The client's service; where it is IPv6's, IPv4's with the same ports beside it.
fn services(buckets: &Arc<BucketTable>) -> Vec<Service> {
    let service = |name: &str, vip| Service {
        name: name.into(),
        vip,
        port: 80,
        proxy_port: Some(8001),
        app_port: 8080,
        repeats: 0,
        buckets: buckets.clone(),
        refuses: true,
    };
    let mut all = vec![service("web", VIP.into())];
    if CLIENT_V6 {
        all.push(service("web4", Addr::v4(VIP_V4)));
    }
    all
}

/// A view of node `node` of two; node `owner` owns every bucket.
pub fn view(node: u16, owner: u16) -> View {
    let shares: Vec<Share> = (1..=2).map(|node| Share { node, weight: 100 }).collect();
    let buckets = Arc::new(BucketTable::new(
        Policy::Designated,
        Some(owner),
        &shares,
        256,
        [7; 16],
    ));
    View {
        node,
        incarnation: 1000 + u64::from(node),
        wire_mac: [2, 0, 0, 0, 0, node as u8],
        cluster_mac: CLUSTER_MAC,
        host_mac: CLUSTER_MAC,
        igmp: None,
        link_mac: [2, 0, 0, 0, 1, node as u8],
        link: on_link(node).into(),
        own: vec![on_wire(node as u8).into()],
        services: services(&buckets),
        general: buckets,
        members: (1..=2u16)
            .map(|id| Member {
                id,
                link: on_link(id).into(),
                known: Some(([2, 0, 0, 0, 1, id as u8], 1000 + u64::from(id))),
                alive: true,
                gone: false,
                on_wire: true,
                takes: u64::MAX,
            })
            .collect(),
        keys: vec![LinkKey::new(1, KEY)],
        steer: Steer::new([9; 16]),
        steer_key: HashKey::new([9; 16]),
        params: params(),
    }
}

/// One node.
pub struct Node {
    pub v: View,
    pub s: Shard,
    pub out: Out,
    pub now: Instant,
}

impl Node {
    pub fn new(v: View) -> Self {
        let sizes = Sizes {
            worker: 0,
            workers: 1,
            flows: 64,
            hold: 1 << 20,
        };
        let s = Shard::new(sizes, HashKey::new([5; 16]), &v);
        Self {
            v,
            s,
            out: Out::default(),
            now: Instant(1_000_000),
        }
    }

    pub fn rx(&mut self, port: Port, frame: Vec<u8>) {
        self.rx_pieces(port, Pieces::of(&frame, self.out.seed));
    }

    /// As a worker does it: with a look ahead.
    pub fn rx_pieces(&mut self, port: Port, frame: Pieces) {
        let intact = frame.meta.checksum != Checksum::Bad;
        let mut looked = Looked::default();
        looked.read(&self.v, port, [(frame.head(), intact)].into_iter());
        if self.s.look(&self.v, &mut looked) != 0 {
            return;
        }
        let ahead = looked.ahead(0);
        self.s
            .ingress_seen(&self.v, port, &ahead, frame, self.now, &mut self.out);
    }

    pub fn command(&mut self, c: Command) {
        self.s.command(&self.v, c, self.now, &mut self.out);
    }

    /// Moves the clock and runs what is due, in steps of a millisecond.
    pub fn pass(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now = self.now + Span::millis(1);
            self.s.tick(&self.v, self.now, &mut self.out);
        }
    }

    pub fn tx(&mut self, port: Port) -> Vec<Vec<u8>> {
        self.out.metas[port.index()].clear();
        self.out.ports[port.index()].drain(..).collect()
    }

    /// The only frame that left by `port`, parsed.
    pub fn one(&mut self, port: Port) -> Seen {
        let f = self.tx(port);
        assert_eq!(f.len(), 1, "frames on {}", port.name());
        seen(&f[0])
    }

    /// Takes the two frames by which the filter tells the stack the client's round trip
    /// of 20 ms: the SYN again, and the ACK that completes the handshake.
    pub fn told(&mut self) -> Seen {
        let queue = &mut self.out.ports[Port::WireHost.index()];
        let [syn, ack] = [0, 1].map(|_| seen(&queue.pop_front().expect("the filter tells it")));
        assert_eq!((syn.seg.flags, syn.seg.window), (SYN, 0));
        assert!(syn.payload.is_empty(), "the request once only");
        assert_eq!(ack.seg.flags & !FIN, ACK);
        assert_eq!(ack.seg.window, 502, "the client's");
        assert_eq!(ack.seg.ts_ecr(), Some(777 - 20), "the stack reckons 20 ms");
        assert!(ack.seg.ts_val() <= Some(130), "not above what is held");
        ack
    }

    /// What an operator is told of the client's flow.
    pub fn find(&mut self) -> Option<Found> {
        let key = FlowKey::new(sock(CLIENT, CPORT), sock(VIP, 80));
        self.command(Command::Find { ticket: 77, key });
        match self.events().pop() {
            Some(Event::Found { ticket: 77, found }) => found,
            e => panic!("{e:?}"),
        }
    }

    pub fn events(&mut self) -> Vec<Event> {
        self.s.take_events().collect()
    }

    pub fn silent(&self) -> bool {
        self.out.ports.iter().all(|p| p.is_empty())
    }
}

/// A TCP frame, taken apart; its checksum was verified.
#[derive(Clone, Debug)]
pub struct Seen {
    pub seg: Segment,
    pub payload: Vec<u8>,
    pub eth_dst: Mac,
    pub eth_src: Mac,
}

pub fn seen(f: &[u8]) -> Seen {
    let Ok(L3::Ip(ip)) = wire::l3(f) else {
        panic!("not IP: {f:02x?}")
    };
    let seg = Segment::parse(f, &ip).expect("TCP");
    assert!(seg.checksum_ok(f, &ip), "checksum of {seg:?}");
    let e = wire::eth(f).unwrap();
    Seen {
        seg,
        payload: f[seg.data..seg.end].to_vec(),
        eth_dst: e.dst,
        eth_src: e.src,
    }
}

/// A client's segment as it comes from the wire.
pub fn client(seq: u32, ack: u32, flags: u8, opts: Build, payload: &[u8]) -> Vec<u8> {
    Tcp {
        eth_dst: CLUSTER_MAC,
        eth_src: CLIENT_MAC,
        src: CLIENT.into(),
        dst: VIP.into(),
        sport: CPORT,
        dport: 80,
        seq,
        ack,
        flags,
        window: 502,
        opts,
        payload,
    }
    .frame()
}

/// A local stack's segment as it comes from the host port.
pub fn host(
    port: u16,
    seq: u32,
    ack: u32,
    flags: u8,
    window: u16,
    opts: Build,
    payload: &[u8],
) -> Vec<u8> {
    Tcp {
        eth_dst: [2, 0, 0, 0, 0, 1],
        eth_src: CLUSTER_MAC,
        src: VIP.into(),
        dst: CLIENT.into(),
        sport: port,
        dport: CPORT,
        seq,
        ack,
        flags,
        window,
        opts,
        payload,
    }
    .frame()
}

/// Offset of the TCP header of any frame without extension headers.
pub fn tcp_at(f: &[u8]) -> usize {
    if f[12..14] == wire::ETHERTYPE_IPV6.to_be_bytes() {
        54
    } else {
        34
    }
}

/// `frame` with this source (at 0) or destination (at 1) instead.
fn readdress(mut f: Vec<u8>, which: usize, ip: IpAddr, port: u16) -> Vec<u8> {
    let bytes = Addr::from(ip).0;
    let (first, bytes) = if CLIENT_V6 {
        (22, &bytes[..])
    } else {
        (26, &bytes[12..])
    };
    let at = first + which * bytes.len();
    f[at..at + bytes.len()].copy_from_slice(bytes);
    f[L4 + 2 * which..L4 + 2 * which + 2].copy_from_slice(&port.to_be_bytes());
    let end = f.len();
    edit::set_ip_len(&mut f, end - wire::ETH_LEN);
    edit::write_tcp_checksum(&mut f, L4, end);
    f
}

/// A frame as if it came from there.
pub fn from(f: Vec<u8>, ip: IpAddr, port: u16) -> Vec<u8> {
    readdress(f, 0, ip, port)
}

/// A frame as if it went there.
pub fn to(f: Vec<u8>, ip: IpAddr, port: u16) -> Vec<u8> {
    readdress(f, 1, ip, port)
}

/// A frame that says that it carries another protocol.
pub fn with_proto(f: Vec<u8>, proto: u8) -> Vec<u8> {
    as_fragment(f, 0, proto)
}

/// The first fragment of a frame's datagram.
pub fn first_fragment(f: Vec<u8>) -> Vec<u8> {
    as_fragment(f, 0x2000, 6)
}

/// `frame` as the fragment with this field (flags and offset, as IPv4 writes them) and
/// protocol; 0 makes no fragment.
pub fn as_fragment(mut f: Vec<u8>, field: u16, proto: u8) -> Vec<u8> {
    if tcp_at(&f) == 34 {
        f[20..22].copy_from_slice(&field.to_be_bytes());
        f[23] = proto;
    } else if field == 0 {
        f[20] = proto;
    } else {
        let more = u8::from(field & 0x2000 != 0);
        let [high, low] = ((field & 0x1fff) << 3).to_be_bytes();
        f.splice(54..54, [proto, 0, high, low | more, 0, 0, 0, 9]);
        f[20] = wire::ipv6::FRAGMENT;
    }
    let total = f.len() - wire::ETH_LEN;
    edit::set_ip_len(&mut f, total);
    f
}

/// What a router says of a frame that is larger than its next link.
pub fn too_big(quoted: &[u8], mtu: u16) -> Vec<u8> {
    let mut eth = [0u8; wire::ETH_LEN];
    eth[..6].copy_from_slice(&CLUSTER_MAC);
    eth[6..12].copy_from_slice(&CLIENT_MAC);
    eth[12..].copy_from_slice(&quoted[12..14]);
    let quoted = &quoted[wire::ETH_LEN..];
    match on_wire(254) {
        IpAddr::V4(router) => icmp::frag_needed(&eth, router.octets(), quoted, mtu),
        router => icmp::packet_too_big(&eth, &router.into(), quoted, mtu.into()),
    }
}

/// Whether an ICMP checksum is right; ICMPv6's covers the addresses.
pub fn icmp_checksum_ok(f: &[u8]) -> bool {
    let Ok(L3::Ip(ip)) = wire::l3(f) else {
        panic!("not IP: {f:02x?}")
    };
    let pseudo = if CLIENT_V6 {
        checksum::pseudo(&ip.src, &ip.dst, ip.proto, ip.end - ip.l4)
    } else {
        0
    };
    checksum::fold(pseudo + checksum::sum(&f[ip.l4..ip.end])) == 0xffff
}

pub fn syn_opts(ts: u32) -> Build {
    Build {
        mss: Some(1460),
        sack_permitted: true,
        timestamps: Some((ts, 0)),
        wscale: Some(7),
        splice: None,
    }
}

pub fn synack_opts(ts: u32, ecr: u32) -> Build {
    Build {
        timestamps: Some((ts, ecr)),
        ..syn_opts(0)
    }
}

pub fn ts(val: u32, ecr: u32) -> Build {
    Build {
        timestamps: Some((val, ecr)),
        ..Build::default()
    }
}
