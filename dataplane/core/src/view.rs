//! What a worker needs to know of the node and the cluster: an immutable
//! snapshot, published by the control thread and read once per burst.

use crate::frame::Port;
use crate::key::{Addr, HashKey};
use crate::ownership::BucketTable;
use crate::steer::Steer;
use crate::time::Span;
use crate::wire::{Mac, nd};
use dts_config::Replay;
use dts_proto::block::LinkKey;
use std::sync::Arc;

/// The paper's Configuration: one per service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name in configuration and metrics.
    pub name: String,
    /// Address that clients use.
    pub vip: Addr,
    /// Port that clients use.
    pub port: u16,
    /// Port of the request inspector; `None` for a layer-4 service.
    pub proxy_port: Option<u16>,
    /// Port of the server application.
    pub app_port: u16,
    /// How often a handover is repeated whose destination dies before it answers: requests
    /// may then be executed more than once, and by any node that takes connections.
    pub repeats: u8,
    /// Who owns new connections.
    pub buckets: Arc<BucketTable>,
    /// While nobody owns any of it, its SYNs are answered with RST.
    pub refuses: bool,
}

impl Service {
    /// Where a new connection goes at its intake.
    pub fn intake_port(&self) -> u16 {
        self.proxy_port.unwrap_or(self.app_port)
    }
}

/// A member of the cluster as last heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Node id.
    pub id: u16,
    /// Link address.
    pub link: Addr,
    /// Link MAC and incarnation, once it has been heard of.
    pub known: Option<(Mac, u64)>,
    /// It is there. A dead member is no destination.
    pub alive: bool,
    /// This node and it hear each other on the wire.
    pub on_wire: bool,
    /// It has been dead so long that its flows count as orphans, or has left.
    pub gone: bool,
    /// Bit `i`: it may be handed flows of the service with index `i`. Services from 63 on
    /// share the last bit.
    pub takes: u64,
}

impl Member {
    /// Whether it may be handed flows of the service with index `i`. What a node has
    /// already it may keep, whatever this says.
    pub fn takes(&self, i: usize) -> bool {
        self.alive && self.takes >> i.min(u64::BITS as usize - 1) & 1 != 0
    }
}

/// Limits and times.
#[derive(Clone, Copy, Debug)]
pub struct Params {
    /// The smaller one of the MTUs of wire and link, bytes.
    pub mtu: usize,
    /// MTU of the wire, bytes: held frames have at most these and their Ethernet
    /// header.
    pub wire_mtu: usize,
    /// W of rule 4: bytes that an intake may let a client send before cut over.
    pub first_window: u32,
    /// Which replay is tried first.
    pub replay: Replay,
    /// Serve splice SYNs of the paper's bare form, and accept bare answers.
    pub paper_form: bool,
    /// By when the outcome of a handover is known, from the freeze on.
    pub deadline: Span,
    /// By when the client of an unknown outcome is reset, from the freeze on.
    pub unknown_deadline: Span,
    /// First and last source port of splice connections.
    pub splice_ports: (u16, u16),
    /// Life of a half-open flow.
    pub half_open: Span,
    /// Life of an established flow without a segment.
    pub idle: Span,
    /// Life of an FCB after both sides are done.
    pub closing: Span,
    /// Life of a tombstone after its flow ended.
    pub tombstone: Span,
    /// Most half-open flows.
    pub half_open_max: usize,
    /// Most tombstones.
    pub tombstones_max: usize,
    /// VIPs are announced at the start, and when members come or go.
    pub announce: bool,
    /// Time between two hellos on the wire; `None`: there are none.
    pub hello: Option<Span>,
    /// Clients of flows that nobody has are reset.
    pub orphan_resets: bool,
    /// RSTs per second, at most, to such clients and to those of services that nobody owns.
    pub resets_per_s: u32,
    /// Most held bytes of one flow.
    pub hold_flow_max: usize,
    /// Most bytes of requests that are kept to be handed over again.
    pub repeat_max: usize,
    /// By when a handover may be repeated, from its freeze on.
    pub repeat_within: Span,
}

/// The snapshot.
#[derive(Clone, Debug)]
pub struct View {
    /// This node's id.
    pub node: u16,
    /// This start of the node.
    pub incarnation: u64,
    /// Source address of everything that leaves on the wire.
    pub wire_mac: Mac,
    /// The address that the VIPs resolve to.
    pub cluster_mac: Mac,
    /// The wire twin's address: `cluster_mac`, unless that is a multicast address.
    pub host_mac: Mac,
    /// The IPv4 group that this node joins on the wire.
    pub igmp: Option<[u8; 4]>,
    /// This node's address on the link, equal to the link twin's.
    pub link_mac: Mac,
    /// This node's link address.
    pub link: Addr,
    /// The node's own addresses on the wire.
    pub own: Vec<Addr>,
    /// The services.
    pub services: Vec<Service>,
    /// Who speaks for the VIP where there is no connection.
    pub general: Arc<BucketTable>,
    /// All members, this node included.
    pub members: Vec<Member>,
    /// Valid link keys; the first one signs.
    pub keys: Vec<LinkKey>,
    /// Which worker a client belongs to; random per boot.
    pub steer: Steer,
    /// Key of the workers' tables; random per boot.
    pub steer_key: HashKey,
    /// Limits and times.
    pub params: Params,
}

impl View {
    /// The service at a VIP and port.
    #[inline]
    pub fn service(&self, vip: &Addr, port: u16) -> Option<usize> {
        self.services
            .iter()
            .position(|s| s.port == port && s.vip == *vip)
    }

    /// The service of a frame from the host: by proxy or application port.
    #[inline]
    pub fn service_of_local(&self, vip: &Addr, port: u16) -> Option<usize> {
        self.services
            .iter()
            .position(|s| s.vip == *vip && (s.proxy_port == Some(port) || s.app_port == port))
    }

    /// A proxy or application port that is no service port.
    #[inline]
    pub fn is_hidden(&self, port: u16) -> bool {
        self.services
            .iter()
            .any(|s| s.proxy_port == Some(port) || s.app_port == port)
            && !self.services.iter().any(|s| s.port == port)
    }

    /// An application port.
    #[inline]
    pub fn is_app_port(&self, port: u16) -> bool {
        self.services.iter().any(|s| s.app_port == port)
    }

    /// Whether `a` is a service address.
    #[inline]
    pub fn is_vip(&self, a: &Addr) -> bool {
        self.services.iter().any(|s| s.vip == *a)
    }

    /// Whether fragments to `a` from outside could mix with those of a replay: IPv6
    /// names a datagram's fragments without its protocol (RFC 8200, section 4.5).
    #[inline]
    pub fn is_replayed_to(&self, a: &Addr) -> bool {
        !a.is_v4() && self.is_vip(a)
    }

    /// Whether `a` is this node's own address on the wire; its link-local one, made
    /// from [`View::wire_mac`], always is.
    #[inline]
    pub fn is_own(&self, a: &Addr) -> bool {
        self.own.contains(a) || *a == nd::link_local(self.wire_mac)
    }

    /// The address that stands in for a VIP as the source of neighbour discovery.
    pub fn link_local(&self) -> Addr {
        let given = self.own.iter().find(|a| a.is_link_local());
        given.copied().unwrap_or(nd::link_local(self.wire_mac))
    }

    /// Whether `group` is where a VIP is asked for, and no own address is.
    pub fn is_vip_group(&self, group: &Addr) -> bool {
        let asks = |a: &Addr| nd::solicited_node(a) == *group;
        group.is_multicast()
            && self.services.iter().any(|s| !s.vip.is_v4() && asks(&s.vip))
            && !self.own.iter().any(asks)
            && !asks(&nd::link_local(self.wire_mac))
    }

    /// Tells one set of living members, and their incarnations, from another.
    #[must_use]
    pub fn members_digest(&self) -> u64 {
        self.members.iter().fold(1, |sum: u64, m| {
            let known = m.known.map_or(0, |(_, incarnation)| incarnation);
            let one = u64::from(m.id) << 1 | u64::from(m.alive);
            (sum ^ one ^ known.rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        })
    }

    /// A member by id.
    pub fn member(&self, id: u16) -> Option<&Member> {
        self.members.iter().find(|m| m.id == id)
    }

    /// A member by link address.
    pub fn member_at(&self, link: &Addr) -> Option<&Member> {
        self.members.iter().find(|m| m.link == *link)
    }

    /// Whether `port` is one of the source ports of splice connections.
    #[inline]
    pub fn is_splice_port(&self, port: u16) -> bool {
        (self.params.splice_ports.0..=self.params.splice_ports.1).contains(&port)
    }

    /// The Ethernet source that frames bear when they leave by `port`.
    pub fn mac(&self, port: Port) -> Mac {
        match port {
            Port::Wire => self.wire_mac,
            Port::WireHost => self.host_mac,
            Port::Link | Port::LinkHost => self.link_mac,
        }
    }
}
