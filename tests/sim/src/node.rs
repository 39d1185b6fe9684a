//! One node: its shards, its host stack, and what its ports put out.

use crate::actors::{App, Proxy};
use crate::plan::Plan;
use crate::rng::Rng;
use crate::stack::host::{Host, Listener, Name};
use crate::stack::tcb::Setup;
use dts_config::{Policy, Replay};
use dts_core::ahead::Looked;
use dts_core::command::{Command, Event};
use dts_core::frame::{Checksum, Frame, Output, Pool, Port};
use dts_core::key::{Addr, HashKey};
use dts_core::life::SocketSet;
use dts_core::ownership::{BucketTable, Share};
use dts_core::shard::{Shard, Sizes};
use dts_core::steer::{self, Steer};
use dts_core::time::{Instant, Span};
use dts_core::view::{Member, Params, Service, View};
use dts_core::wire::Mac;
use dts_proto::block::LinkKey;
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

/// What the VIP resolves to.
pub const CLUSTER_MAC: Mac = [2, 0, 0x5e, 0, 0, 0x64];
/// The service address.
pub const VIP: [u8; 4] = [10, 77, 0, 100];
/// The service port.
pub const SERVICE_PORT: u16 = 80;
/// The proxy's port.
pub const PROXY_PORT: u16 = 8001;
/// The application's port.
pub const APP_PORT: u16 = 8080;
/// The service's other address.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x64);
/// The service address for a client of this family.
pub fn vip_for(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => Ipv4Addr::from(VIP).into(),
        IpAddr::V6(_) => VIP6.into(),
    }
}

/// Buckets of each table.
pub const BUCKETS: usize = 64;
/// The key of their hash.
pub const BUCKET_KEY: [u8; 16] = [7; 16];

const KEY: &[u8] = b"0123456789abcdef";
const NEXT_KEY: &[u8] = b"fedcba9876543210";

/// MAC address of a node on the wire.
pub fn wire_mac(node: u16) -> Mac {
    [2, 0, 0, 0, 0, node as u8]
}

/// MAC address of a node on the link.
pub fn link_mac(node: u16) -> Mac {
    [2, 0, 0, 0, 1, node as u8]
}

/// Link address of a node.
pub fn link_addr(node: u16) -> [u8; 4] {
    [10, 77, 1, node as u8]
}

/// Incarnation of a node's start number `boot`.
pub fn incarnation(node: u16, boot: u32) -> u64 {
    1000 * u64::from(boot + 1) + u64::from(node)
}

/// A frame that counts itself, so that one that is never given back is noticed.
pub struct Buf {
    bytes: Vec<u8>,
    live: Rc<Cell<i64>>,
}

impl Drop for Buf {
    fn drop(&mut self) {
        self.live.set(self.live.get() - 1);
    }
}

impl Frame for Buf {
    fn head(&self) -> &[u8] {
        &self.bytes
    }
    fn head_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
    fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
    }
}

/// The ports, and the pool.
#[derive(Default)]
pub struct Out {
    /// Frames that left, in order.
    pub sent: Vec<(Port, Vec<u8>)>,
    handed: VecDeque<(usize, Port, Vec<u8>)>,
    live: Rc<Cell<i64>>,
}

impl Out {
    fn buf(&self, bytes: Vec<u8>) -> Buf {
        self.live.set(self.live.get() + 1);
        Buf {
            bytes,
            live: self.live.clone(),
        }
    }
}

impl Pool for Out {
    type Frame = Buf;
    fn frame(&mut self, bytes: &[u8]) -> Option<Buf> {
        Some(self.buf(bytes.to_vec()))
    }
}

impl Output for Out {
    fn send(&mut self, port: Port, mut frame: Buf) {
        let bytes = std::mem::take(&mut frame.bytes);
        self.sent.push((port, bytes));
    }
    fn hand_off(&mut self, worker: usize, port: Port, mut frame: Buf) {
        let bytes = std::mem::take(&mut frame.bytes);
        self.handed.push_back((worker, port, bytes));
    }
}

/// A node.
pub struct Node {
    /// Its id, from 1.
    pub id: u16,
    /// It runs.
    pub up: bool,
    /// Starts so far.
    pub boot: u32,
    /// Its view.
    pub view: View,
    /// Its workers.
    pub shards: Vec<Shard>,
    /// Its stack.
    pub host: Host,
    /// What its shards put out.
    pub out: Out,
    /// Connections of its proxy, by client.
    pub proxies: BTreeMap<SocketAddr, Proxy>,
    /// Connections of its application, by client.
    pub apps: BTreeMap<SocketAddr, App>,
    /// The next ticket.
    pub ticket: u64,
    /// When the last frame between worker and host stack arrives, either way.
    pub last_in: u64,
    /// The other way.
    pub last_out: u64,
}

fn params(plan: &Plan) -> Params {
    Params {
        mtu: plan.mtu,
        wire_mtu: plan.mtu,
        first_window: plan.first_window,
        replay: if plan.fast_open {
            Replay::FastOpen
        } else {
            Replay::Handshake
        },
        paper_form: false,
        deadline: Span::millis(150),
        unknown_deadline: Span::millis(2000),
        splice_ports: (61_000, 61_015),
        half_open: Span::secs(10),
        idle: Span::secs(100),
        closing: Span::secs(5),
        tombstone: Span::secs(20),
        half_open_max: 16,
        tombstones_max: 16,
        announce: false,
        hello: None,
        orphan_resets: true,
        resets_per_s: 1_000,
        repeat_max: 64 << 10,
        repeat_within: Span::secs(30),
        hold_flow_max: plan.hold_flow,
    }
}

/// A table in which this node owns all buckets.
pub fn sole_owner(id: u16) -> Arc<BucketTable> {
    let share = Share {
        node: id,
        weight: 100,
    };
    let table = BucketTable::new(Policy::Designated, Some(id), &[share], BUCKETS, BUCKET_KEY);
    Arc::new(table)
}

fn view(plan: &Plan, id: u16, boot: u32) -> View {
    let shares: Vec<Share> = (1..=plan.nodes)
        .map(|node| Share { node, weight: 100 })
        .collect();
    let mine = plan.other_view.iter().find(|o| o.0 == id).map(|o| o.1);
    let owner = mine.or(plan.owner);
    let policy = if owner.is_some() {
        Policy::Designated
    } else {
        Policy::FlowHash
    };
    let buckets = Arc::new(BucketTable::new(
        policy, owner, &shares, BUCKETS, BUCKET_KEY,
    ));
    let mut steer = [9; 16];
    steer[..8].copy_from_slice(
        &Rng::new(plan.seed, 200 + u64::from(id))
            .next()
            .to_be_bytes(),
    );
    View {
        node: id,
        incarnation: incarnation(id, boot),
        wire_mac: wire_mac(id),
        cluster_mac: CLUSTER_MAC,
        host_mac: CLUSTER_MAC,
        igmp: None,
        link_mac: link_mac(id),
        link: Addr::v4(link_addr(id)),
        own: vec![Addr::v4([10, 77, 0, id as u8])],
        services: [Addr::v4(VIP), IpAddr::V6(VIP6).into()]
            .map(|vip| Service {
                name: "web".into(),
                vip,
                port: SERVICE_PORT,
                proxy_port: Some(PROXY_PORT),
                app_port: APP_PORT,
                repeats: plan.repeats,
                buckets: buckets.clone(),
                refuses: true,
            })
            .into(),
        general: buckets,
        members: (1..=plan.nodes)
            .map(|m| Member {
                id: m,
                link: Addr::v4(link_addr(m)),
                // A node that speaks with the others begins without knowing them.
                known: match plan.members && m != id {
                    true => None,
                    false => Some((link_mac(m), incarnation(m, if m == id { boot } else { 0 }))),
                },
                alive: !plan.members || m == id,
                gone: false,
                on_wire: true,
                takes: u64::MAX,
            })
            .collect(),
        keys: keys(plan, id),
        steer: Steer::new(steer),
        steer_key: HashKey::new(steer),
        params: params(plan),
    }
}

/// The link's keys; the first one signs.
pub(crate) fn keys(plan: &Plan, id: u16) -> Vec<LinkKey> {
    let mut keys = vec![LinkKey::new(1, KEY)];
    if plan.rotate {
        keys.insert(usize::from(id % 2), LinkKey::new(2, NEXT_KEY));
    }
    keys
}

impl Node {
    /// A node at its start number `boot`.
    pub fn new(plan: &Plan, id: u16, boot: u32) -> Self {
        let view = view(plan, id, boot);
        let mut r = Rng::new(plan.seed, 100 + u64::from(id) * 8 + u64::from(boot));
        let mut key = [5; 16];
        key[..8].copy_from_slice(&r.next().to_be_bytes());
        let shards = (0..plan.workers)
            .map(|worker| {
                let sizes = Sizes {
                    worker,
                    workers: plan.workers,
                    flows: 64,
                    hold: plan.hold,
                };
                Shard::new(sizes, HashKey::new(key), &view)
            })
            .collect();
        let mut host = Host::new(plan.app_stack, id, r);
        host.recycle = plan.recycle;
        host.proxy_setup = plan.proxy_stack;
        if plan.plain_stack.contains(&id) {
            host.setup = Setup {
                ts: false,
                shift: None,
                ..host.setup
            };
        }
        let proxy = Listener {
            fast_open: false,
            full: false,
        };
        host.listen.insert(PROXY_PORT, proxy);
        if !plan.no_listener.contains(&id) {
            let app = Listener {
                fast_open: plan.app_fast_open,
                full: plan.deaf.contains(&id),
            };
            host.listen.insert(APP_PORT, app);
        }
        Self {
            id,
            up: true,
            boot,
            view,
            shards,
            host,
            out: Out::default(),
            proxies: BTreeMap::new(),
            apps: BTreeMap::new(),
            ticket: u64::from(boot) * 1000,
            last_in: 0,
            last_out: 0,
        }
    }

    /// Gives a frame to the worker that it belongs to.
    pub fn ingress(&mut self, port: Port, bytes: Vec<u8>, now: u64) {
        let n = self.shards.len();
        let worker = steer::worker_of_frame(&self.view, port, &bytes, n);
        self.give(worker, port, bytes, now);
        while let Some((worker, port, bytes)) = self.out.handed.pop_front() {
            self.give(worker, port, bytes, now);
        }
    }

    fn give(&mut self, worker: usize, port: Port, bytes: Vec<u8>, now: u64) {
        let buf = self.out.buf(bytes);
        // As a worker does it: with a look ahead.
        let shard = &mut self.shards[worker];
        let intact = buf.meta().checksum != Checksum::Bad;
        let mut looked = Looked::default();
        looked.read(&self.view, port, [(buf.head(), intact)].into_iter());
        if shard.look(&self.view, &mut looked) != 0 {
            return;
        }
        let ahead = looked.ahead(0);
        shard.ingress_seen(&self.view, port, &ahead, buf, Instant(now), &mut self.out);
    }

    /// Asks the worker of a client for something.
    pub fn command(&mut self, client: SocketAddr, c: Command, now: u64) {
        let n = self.shards.len();
        let worker = steer::worker_of_client(&self.view, &client.ip().into(), client.port(), n);
        self.shards[worker].command(&self.view, c, Instant(now), &mut self.out);
    }

    /// Tells the workers which sockets there are; `number` rises from look to look.
    pub fn look(&mut self, number: u64, now: u64) {
        let local = |n: &Name| SocketAddr::new(vip_for(n.1.ip()), n.0);
        let all = self.host.tcbs.keys().map(|n| (local(n), n.1));
        let set = Arc::new(SocketSet::new(number, all));
        for s in &mut self.shards {
            let c = Command::Sockets { set: set.clone() };
            s.command(&self.view, c, Instant(now), &mut self.out);
        }
    }

    /// Deadlines.
    pub fn tick(&mut self, now: u64) {
        for s in &mut self.shards {
            s.tick(&self.view, Instant(now), &mut self.out);
        }
    }

    /// When the next deadline is.
    pub fn next_timer(&self) -> Option<u64> {
        let all = self.shards.iter();
        all.filter_map(|s| s.next_timer()).map(|t| t.0).min()
    }

    /// What the workers report.
    pub fn events(&mut self) -> Vec<Event> {
        let all = self.shards.iter_mut();
        all.flat_map(|s| s.take_events().collect::<Vec<_>>())
            .collect()
    }

    /// Frames of its pool that nobody gave back.
    pub fn live_frames(&self) -> i64 {
        self.out.live.get()
    }

    /// FCBs by state.
    pub fn states(&self) -> [u64; 5] {
        let mut n = [0; 5];
        for s in &self.shards {
            for (n, m) in n.iter_mut().zip(s.count_states()) {
                *n += m;
            }
        }
        n
    }

    /// Clients that a rule made this node reset.
    pub fn resets(&self) -> u64 {
        let all = self.shards.iter();
        all.map(|s| s.counters.unknown_resets + s.counters.orphan_resets + s.counters.sockets_gone)
            .sum()
    }
}
