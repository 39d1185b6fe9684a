//! Two nodes, a client and their stacks, played by hand: what the tests of the
//! handover need.

use crate::command::{Command, Event};
use crate::frame::{Output, Pool, Port};
use crate::key::{Addr, HashKey};
use crate::ownership::{BucketTable, Share};
use crate::shard::{Shard, Sizes};
use crate::time::{Instant, Span};
use crate::view::{Member, Params, Service, View};
use crate::wire::build::Tcp;
use crate::wire::options::Build;
use crate::wire::tcp::{ACK, FIN, SYN, Segment};
use crate::wire::{self, L3, Mac};
use dts_config::{Policy, Replay};
use dts_proto::block::LinkKey;
use std::collections::VecDeque;
use std::sync::Arc;

mod pair;
pub use pair::*;

pub const CLUSTER_MAC: Mac = [2, 0, 0x5e, 0, 0, 0x64];
pub const CLIENT_MAC: Mac = [2, 0, 0, 0, 0, 0xc1];
pub const CLIENT: [u8; 4] = [10, 77, 0, 200];
pub const VIP: [u8; 4] = [10, 77, 0, 100];
pub const CPORT: u16 = 40_000;
pub const KEY: &[u8] = b"0123456789abcdef";

/// What left a shard.
#[derive(Default)]
pub struct Out {
    pub ports: [VecDeque<Vec<u8>>; 4],
    pub handed: Vec<(usize, Port, Vec<u8>)>,
}

impl Pool for Out {
    type Frame = Vec<u8>;
    fn frame(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        Some(bytes.to_vec())
    }
}

impl Output for Out {
    fn send(&mut self, port: Port, frame: Vec<u8>) {
        self.ports[port.index()].push_back(frame);
    }
    fn hand_off(&mut self, worker: usize, port: Port, frame: Vec<u8>) {
        self.handed.push((worker, port, frame));
    }
}

pub fn params() -> Params {
    Params {
        mtu: 1500,
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
        hold_flow_max: 128 << 10,
    }
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
        link_mac: [2, 0, 0, 0, 1, node as u8],
        link: Addr::v4([10, 77, 1, node as u8]),
        own: vec![Addr::v4([10, 77, 0, node as u8])],
        services: vec![Service {
            name: "web".into(),
            vip: Addr::v4(VIP),
            port: 80,
            proxy_port: Some(8001),
            app_port: 8080,
            buckets: buckets.clone(),
        }],
        general: buckets,
        members: (1..=2u16)
            .map(|id| Member {
                id,
                link: Addr::v4([10, 77, 1, id as u8]),
                known: Some(([2, 0, 0, 0, 1, id as u8], 1000 + u64::from(id))),
                alive: true,
                gone: false,
            })
            .collect(),
        keys: vec![LinkKey::new(1, KEY)],
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
        self.s
            .ingress(&self.v, port, frame, self.now, &mut self.out);
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
        src: Addr::v4(CLIENT),
        dst: Addr::v4(VIP),
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
        src: Addr::v4(VIP),
        dst: Addr::v4(CLIENT),
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
