//! One node: a shard, its view, and what it was seen to hold.

use super::check::{self, Permit};
use crate::frames;
use crate::input::Input;
use dts_config::{Policy, Replay};
use dts_core::command::{Command, Event};
use dts_core::frame::{Checksum, Frame, Meta, Output, Pool, Port};
use dts_core::key::{Addr, HashKey};
use dts_core::ownership::{BucketTable, Share};
use dts_core::shard::{Shard, Sizes};
use dts_core::steer::Steer;
use dts_core::time::{Instant, Span};
use dts_core::view::{Member, Params, Service, View};
use dts_core::wire::tcp::Segment;
use dts_core::wire::{self, L3, checksum, edit};
use dts_proto::block::LinkKey;
use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// The service address in both families.
pub const VIPS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 77, 0, 100)),
    IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100)),
];
pub const KEY: &[u8] = b"0123456789abcdef";
pub const CLUSTER_MAC: [u8; 6] = [2, 0, 0x5e, 0, 0, 0x64];
/// Ticket of the listing that the checks ask for.
const LISTING: u64 = u64::MAX;
/// Frames that a port's queue keeps for later operations.
const KEPT: usize = 64;
/// More frames than one operation can have a reason for: all held ones, a request in
/// fragments, and what they cause.
const MOST_FRAMES: usize = 2_000;

/// What one input chooses about the cluster.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub nodes: u16,
    pub owner: u16,
    pub replay: Replay,
    pub paper_form: bool,
    pub small: bool,
    pub same_port: bool,
    pub workers: usize,
    pub mtu: usize,
    pub first_window: u32,
    /// Frames come in several pieces.
    pub pieces: bool,
}

impl Settings {
    pub fn new(u: &mut Input<'_>) -> Self {
        let (a, b) = (u.next::<u8>(), u.next::<u8>());
        let bit = |n: u8| a & 1 << n != 0;
        Self {
            nodes: match (bit(0), b & 8 != 0) {
                (true, _) => 1,
                (false, false) => 2,
                (false, true) => 3,
            },
            replay: if bit(1) {
                Replay::Handshake
            } else {
                Replay::FastOpen
            },
            paper_form: bit(2),
            small: bit(3),
            same_port: bit(4),
            workers: if bit(5) { 2 } else { 1 },
            owner: if bit(6) { 2 } else { 1 },
            mtu: if bit(7) { 1280 } else { 1500 },
            pieces: b & 4 != 0,
            first_window: [60_000, 1_000, 65_535, 14_600][usize::from(b & 3)],
        }
    }

    /// The application port of the service `web`.
    pub fn app_port(&self) -> u16 {
        if self.same_port { 80 } else { 8080 }
    }

    /// Members of the cluster; a node that is alone has one that is not there.
    pub fn members(&self) -> u16 {
        self.nodes.max(2)
    }

    fn view(&self, node: u16) -> View {
        let shares: Vec<Share> = (1..=2).map(|node| Share { node, weight: 100 }).collect();
        let policy = Policy::Designated;
        let buckets = BucketTable::new(policy, Some(self.owner), &shares, 16, [7; 16]);
        let buckets = Arc::new(buckets);
        let service = |name: &str, vip: IpAddr, port, proxy_port, app_port| Service {
            name: name.into(),
            vip: vip.into(),
            port,
            proxy_port,
            app_port,
            repeats: 0,
            buckets: buckets.clone(),
            refuses: true,
        };
        View {
            node,
            incarnation: 1000 + u64::from(node),
            wire_mac: [2, 0, 0, 0, 0, node as u8],
            cluster_mac: CLUSTER_MAC,
            host_mac: CLUSTER_MAC,
            igmp: None,
            link_mac: link_mac(node),
            link: link(node),
            own: vec![own(node, true), own(node, false)],
            services: vec![
                service("web", VIPS[0], 80, Some(8001), self.app_port()),
                service("mail", VIPS[0], 25, None, 25),
                service("web6", VIPS[1], 80, Some(8001), self.app_port()),
            ],
            general: buckets.clone(),
            members: (1..=self.members())
                .map(|id| Member {
                    id,
                    link: link(id),
                    known: Some((link_mac(id), 1000 + u64::from(id))),
                    alive: true,
                    gone: false,
                    on_wire: true,
                    takes: u64::MAX,
                })
                .collect(),
            keys: vec![LinkKey::new(1, KEY)],
            steer: Steer::new([9; 16]),
            steer_key: HashKey::new([9; 16]),
            params: Params {
                mtu: self.mtu,
                wire_mtu: self.mtu,
                first_window: self.first_window,
                replay: self.replay,
                paper_form: self.paper_form,
                deadline: Span::millis(150),
                unknown_deadline: Span::millis(2000),
                splice_ports: (61_000, 61_007),
                half_open: Span::secs(10),
                idle: Span::secs(3600),
                closing: Span::secs(5),
                tombstone: Span::secs(60),
                half_open_max: if self.small { 2 } else { 64 },
                tombstones_max: if self.small { 1 } else { 64 },
                announce: false,
                hello: None,
                orphan_resets: true,
                resets_per_s: 1_000,
                repeat_max: 1 << 20,
                repeat_within: Span::secs(30),
                hold_flow_max: if self.small { 8 << 10 } else { 128 << 10 },
            },
        }
    }
}

/// A node's own address on the wire.
pub fn own(node: u16, v4: bool) -> Addr {
    if v4 {
        Addr::v4([10, 77, 0, node as u8])
    } else {
        IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, node)).into()
    }
}

pub fn link(node: u16) -> Addr {
    Addr::v4([10, 77, 1, node as u8])
}

pub fn link_mac(node: u16) -> [u8; 6] {
    [2, 0, 0, 0, 1, node as u8]
}

/// What left a shard in one call.
#[derive(Default)]
struct Out {
    frames: Vec<(Port, Vec<u8>, Meta)>,
    /// New frames are in pieces as well.
    cut: u8,
}

impl Pool for Out {
    type Frame = Pieces;
    fn frame(&mut self, bytes: &[u8]) -> Option<Pieces> {
        Some(Pieces::of(bytes, self.cut))
    }
}

impl Output for Out {
    fn send(&mut self, port: Port, frame: Pieces) {
        let parts = &frame.parts;
        let whole = parts.len() == 1 || parts.iter().all(|p| !p.is_empty());
        assert!(whole, "an empty piece");
        self.frames.push((port, frame.to_vec(), frame.meta));
    }
    fn hand_off(&mut self, worker: usize, _: Port, frame: Pieces) {
        assert!(worker < 2, "worker {worker} of 2");
        let left = frame.meta.checksum == Checksum::Partial;
        assert!(!left, "a frame with work left for another worker");
    }
}

/// A frame in up to 33 pieces, the first of which holds all headers.
#[derive(Debug)]
struct Pieces {
    parts: Vec<Vec<u8>>,
    meta: Meta,
}

impl Pieces {
    /// `bytes`, cut behind the headers of a TCP segment and at places of its payload
    /// that follow from `cut`; 0 leaves the frame whole.
    fn of(bytes: &[u8], cut: u8) -> Self {
        let headers = match wire::l3(bytes) {
            Ok(L3::Ip(ip)) => Segment::parse(bytes, &ip).map_or(bytes.len(), |s| s.data),
            _ => bytes.len(),
        };
        let (head, mut rest) = bytes.split_at(if cut == 0 { bytes.len() } else { headers });
        let mut parts = vec![head.to_vec()];
        let mut x = u32::from(cut);
        for _ in 0..cut & 31 {
            x = x.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
            // As small as a byte, as large as a buffer.
            let n = [1, 3, 37, 2048][(x >> 30) as usize].min(rest.len());
            let (part, tail) = rest.split_at(n);
            parts.push(part.to_vec());
            rest = tail;
        }
        parts.push(rest.to_vec());
        parts.retain(|p| !p.is_empty());
        if parts.is_empty() {
            parts.push(vec![]);
        }
        let meta = Meta::default();
        Self { parts, meta }
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

/// Begin and end of a frame's TCP segment, and what its checksum field holds when it
/// is left to an offload: the sum of the pseudo-header.
fn partial(f: &[u8]) -> Option<(usize, usize, u16)> {
    let Ok(L3::Ip(ip)) = wire::l3(f) else {
        return None;
    };
    if ip.fragment || ip.proto != wire::PROTO_TCP {
        return None;
    }
    Segment::parse(f, &ip).ok()?;
    let sum = checksum::pseudo(&ip.src, &ip.dst, ip.proto, ip.end - ip.l4);
    Some((ip.l4, ip.end, checksum::fold(sum)))
}

/// One node.
pub struct Node {
    pub v: View,
    s: Shard,
    /// Sent to its stack and not answered yet; datagrams whole.
    pub to_stack: VecDeque<Vec<u8>>,
    /// Sent on the link and not delivered yet.
    pub to_link: VecDeque<Vec<u8>>,
    /// Sent on the wire in the last call.
    pub to_wire: Vec<Vec<u8>>,
    /// Handovers that are frozen and not reported to have ended.
    open: BTreeSet<u64>,
    /// Handovers that were asked to be let go: an end is reported only if it was too
    /// late for that.
    let_go: BTreeSet<u64>,
    permits: Vec<Permit>,
    /// Something came in that was not well-formed: what goes out may not be either.
    pub dirty: bool,
    settings: Settings,
}

impl Node {
    pub fn new(settings: Settings, node: u16) -> Self {
        let v = settings.view(node);
        Self {
            s: shard(&settings, &v),
            v,
            to_stack: VecDeque::new(),
            to_link: VecDeque::new(),
            to_wire: Vec::new(),
            open: BTreeSet::new(),
            let_go: BTreeSet::new(),
            permits: Vec::new(),
            dirty: false,
            settings,
        }
    }

    /// A new start: nothing is known of before.
    pub fn restart(&mut self) {
        self.v.incarnation += 1000;
        self.s = shard(&self.settings, &self.v);
        self.open.clear();
        self.let_go.clear();
        self.permits.clear();
        self.to_stack.clear();
    }

    pub fn rx(&mut self, port: Port, frame: Vec<u8>, now: Instant) {
        self.receive(port, frame, Meta::default(), now);
    }

    /// The node's stack leaves the checksum, and the cutting into segments of `tso`
    /// bytes, to who sends the frame.
    pub fn rx_unfinished(&mut self, mut frame: Vec<u8>, tso: Option<u16>, now: Instant) {
        let Some((l4, _, sum)) = partial(&frame) else {
            // A device takes no other frame that is longer than its MTU.
            if frame.len() <= self.v.params.mtu + wire::ETH_LEN {
                self.rx(Port::WireHost, frame, now);
            }
            return;
        };
        frame[l4 + 16..l4 + 18].copy_from_slice(&sum.to_be_bytes());
        let meta = Meta {
            checksum: Checksum::Partial,
            tso,
        };
        self.receive(Port::WireHost, frame, meta, now);
    }

    /// A frame of which something is known beside its bytes.
    pub fn receive(&mut self, port: Port, frame: Vec<u8>, meta: Meta, now: Instant) {
        // What a device says of a checksum is believed.
        let believed = matches!(meta.checksum, Checksum::Partial | Checksum::Good);
        self.dirty |= match frames::read(&frame) {
            frames::Kind::Tcp(t) => !(t.sound || believed && t.ip_sound),
            frames::Kind::Datagram => false,
            frames::Kind::Fragment(..) | frames::Kind::Other => true,
        };
        self.dirty |= meta.checksum == Checksum::Good && !is_sound(&frame);
        let last = frame.last().copied().unwrap_or_default();
        let cut = if self.settings.pieces { last } else { 0 };
        let mut out = Out {
            cut,
            ..Out::default()
        };
        let mut frame = Pieces::of(&frame, cut);
        frame.meta = meta;
        self.s.ingress(&self.v, port, frame, now, &mut out);
        self.collect(out, Some(port), now);
    }

    pub fn unfreeze(&mut self, ticket: u64, now: Instant) {
        if self.open.remove(&ticket) {
            self.let_go.insert(ticket);
        }
        self.command(Command::Unfreeze { ticket }, now);
    }

    pub fn command(&mut self, c: Command, now: Instant) {
        let mut out = Out::default();
        self.s.command(&self.v, c, now, &mut out);
        self.collect(out, None, now);
    }

    pub fn tick(&mut self, now: Instant) {
        let mut out = Out::default();
        self.s.tick(&self.v, now, &mut out);
        self.collect(out, None, now);
        if let Some(next) = self.s.next_timer() {
            assert!(next > now, "a deadline that is over waits");
        }
    }

    fn collect(&mut self, out: Out, from: Option<Port>, now: Instant) {
        let n = out.frames.len();
        assert!(n < MOST_FRAMES, "{n} frames for one call");
        let events: Vec<Event> = self.s.take_events().collect();
        for e in events {
            if super::traced() {
                eprintln!("  node {}: {e:?}", self.v.node);
            }
            match e {
                Event::Frozen { ticket, .. } => {
                    assert!(self.open.insert(ticket), "frozen twice: {ticket}");
                }
                Event::Done { ticket, .. } => {
                    let known = self.open.remove(&ticket) || self.let_go.remove(&ticket);
                    assert!(known, "done without a freeze: {ticket}");
                }
                // A splice whose freeze is over is reported as well.
                Event::Failed { ticket, .. } => {
                    self.open.remove(&ticket);
                }
                Event::Flows { .. } | Event::Found { .. } | Event::OnWire { .. } => {}
            }
        }
        let now_there = self.list(now);
        let before = std::mem::replace(&mut self.permits, now_there);
        if super::traced() && before != self.permits {
            eprintln!("  node {}: {:?}", self.v.node, self.permits);
        }
        let permits = check::Permits {
            before: &before,
            after: &self.permits,
        };
        self.to_wire.clear();
        let mut parts: Vec<Vec<u8>> = Vec::new();
        for (port, mut frame, meta) in out.frames {
            if super::traced() {
                let kind = frames::read(&frame);
                eprintln!("  node {} sends on {}: {kind:?}", self.v.node, port.name());
            }
            if meta.checksum == Checksum::Partial {
                assert_eq!(port, Port::Wire, "work left for a stack or another node");
                finish(&mut frame);
            }
            let large = meta.tso.is_some();
            check::frame(&self.v, &permits, port, from, &frame, (self.dirty, large));
            match port {
                Port::Wire => self.to_wire.push(frame),
                Port::Link => keep(&mut self.to_link, frame),
                Port::LinkHost => {}
                Port::WireHost if matches!(frames::read(&frame), frames::Kind::Fragment(..)) => {
                    parts.push(frame);
                }
                Port::WireHost => keep(&mut self.to_stack, frame),
            }
        }
        for whole in check::datagrams(&parts, self.dirty) {
            keep(&mut self.to_stack, whole);
        }
    }

    /// The flows and what they let out.
    fn list(&mut self, now: Instant) -> Vec<Permit> {
        let ask = Command::Flows {
            ticket: LISTING,
            limit: usize::MAX,
        };
        let mut out = Out::default();
        self.s.command(&self.v, ask, now, &mut out);
        assert!(out.frames.is_empty(), "a listing sends nothing");
        let flows = self.s.take_events().find_map(|e| match e {
            Event::Flows { flows, .. } => Some(flows),
            _ => None,
        });
        let flows = flows.expect("a listing");
        assert_eq!(flows.len(), self.s.flows(), "listed and counted");
        flows
            .into_iter()
            .map(|f| Permit {
                client: f.client,
                vip: f.vip,
                state: f.state,
            })
            .collect()
    }

    /// Nothing is left of any flow.
    pub fn is_empty(&self) {
        assert_eq!(self.s.flows(), 0, "flows outlive their time");
        assert_eq!(self.s.hold_use().0, 0, "held buffers are lost");
        assert_eq!(self.s.count_states(), [0; 5]);
        assert!(self.open.is_empty(), "no end reported: {:?}", self.open);
    }
}

fn shard(settings: &Settings, v: &View) -> Shard {
    let sizes = Sizes {
        worker: 0,
        workers: settings.workers,
        flows: if settings.small { 4 } else { 64 },
        hold: if settings.small { 16 << 10 } else { 256 << 10 },
    };
    Shard::new(sizes, HashKey::new([5; 16]), v)
}

fn is_sound(frame: &[u8]) -> bool {
    matches!(frames::read(frame), frames::Kind::Tcp(t) if t.sound)
}

/// Does what is left to be done to a frame with a partial checksum: panics where the
/// field is not the sum of the pseudo-header any more.
fn finish(frame: &mut [u8]) {
    let (l4, end, sum) = partial(frame).expect("TCP as it came");
    let field = &frame[l4 + 16..l4 + 18];
    assert_eq!(field, sum.to_be_bytes(), "a partial checksum");
    edit::write_tcp_checksum(frame, l4, end);
}

fn keep(queue: &mut VecDeque<Vec<u8>>, frame: Vec<u8>) {
    if queue.len() == KEPT {
        queue.pop_front();
    }
    queue.push_back(frame);
}
