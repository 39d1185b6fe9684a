//! What a valid configuration says, in plain types.
//!
//! Every value here has been checked and every default is filled in: a reader
//! of [`Config`] never has to ask again whether a port is zero or an address is
//! free.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::origin::Origins;
use crate::scalar::{
    ClusterKey, HostOffloads, Idle, IpPrefix, Layer2, LogFormat, LogLevel, MacAddr, NodeId,
    Offloads, Policy, PortRange, Replay, Unavailable,
};

/// The configuration of one node: the whole of dtsd's YAML file.
///
/// Made by [`crate::load`] or [`crate::parse`]. Two configurations are equal
/// when they say the same, wherever in their files they say it.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// This node; always one of [`Cluster::members`].
    pub node: NodeId,
    /// What all nodes of the cluster must agree on.
    pub cluster: Cluster,
    /// The services behind the VIPs; may be empty.
    pub services: Vec<Service>,
    /// The two data-plane ports.
    pub ports: Ports,
    /// The polling threads.
    pub workers: Workers,
    /// Sizes of tables and buffers.
    pub memory: Memory,
    /// Deadlines and limits of handovers.
    pub handover: Handover,
    /// The membership protocol between nodes.
    pub peers: Peers,
    /// What nodes tell each other of their applications.
    pub reports: Reports,
    /// Life times of flow entries.
    pub timeouts: Timeouts,
    /// What becomes of connections whose node is gone.
    pub orphans: Orphans,
    /// Sockets of the control thread.
    pub control: Control,
    /// The daemon's own log.
    pub log: Log,
    pub(crate) origins: Origins,
}

/// What all nodes of the cluster must agree on.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Name of the cluster, for logs and metrics.
    pub name: String,
    /// The shared secret that authenticates handovers.
    pub key: ClusterKey,
    /// A second secret that is accepted and never used to sign: the next one or the
    /// last one, while nodes change from one to the other. Not equal to
    /// [`Cluster::key`].
    pub other_key: Option<ClusterKey>,
    /// The secret that ownership is derived from, if not [`Cluster::key`]. Nodes with
    /// different ones disagree about owners.
    pub bucket_key: Option<ClusterKey>,
    /// The address that VIPs resolve to, of the kind that `layer2` wants: unicast and locally
    /// administered, multicast, or 01:00:5e:7f:X:Y, which is the group 239.255.X.Y.
    pub mac: MacAddr,
    /// How every node comes to hear what is sent to it.
    pub layer2: Layer2,
    /// VIPs are announced at the start, and when members come or go.
    pub announce: bool,
    /// The ownership policy of services that name none.
    pub policy: Policy,
    /// The owner under [`Policy::Designated`]; a member.
    pub designated: Option<NodeId>,
    /// Number of ownership buckets: a power of two in 16..=65536.
    pub buckets: u32,
    /// Whether splice SYNs that carry only the paper's option 32, and thus no
    /// authenticator, are served. Trusts everyone on the link.
    pub accept_paper_form: bool,
    /// All nodes, this one included; ids and link addresses are unique.
    pub members: Vec<Member>,
}

impl Cluster {
    /// The address of the wire's twin, of which the node's own stack takes what is for the
    /// cluster: a stack has no multicast address.
    #[must_use]
    pub fn host_mac(&self) -> MacAddr {
        let [_, rest @ ..] = self.mac.0;
        let [b, c, d, e, f] = rest;
        match self.layer2 {
            Layer2::Unicast => self.mac,
            Layer2::Multicast | Layer2::Igmp => MacAddr([2, b, c, d, e, f]),
        }
    }

    /// The group that all nodes join on the wire.
    #[must_use]
    pub fn group(&self) -> Option<[u8; 4]> {
        let [.., x, y] = self.mac.0;
        (self.layer2 == Layer2::Igmp).then_some([239, 255, x, y])
    }
}

/// One node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Unique id.
    pub id: NodeId,
    /// Name for logs and metrics; unique.
    pub name: String,
    /// Address on the link; unique, and of the same family as every other member's.
    pub link: IpAddr,
    /// Share of the buckets, 0..=100; not every member has 0.
    pub weight: u8,
}

/// One service: a VIP and port, and where its connections go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Unique name, for logs and metrics.
    pub name: String,
    /// The address that clients use, of either family.
    pub vip: IpAddr,
    /// The port that clients use.
    pub port: u16,
    /// Where the node's proxy listens; `None` for a layer-4 service, whose SYNs
    /// go straight to [`Service::application_port`].
    pub proxy_port: Option<u16>,
    /// Where the node's application listens.
    pub application_port: u16,
    /// Ownership policy: the service's own, else the cluster's.
    pub policy: Policy,
    /// The owner, exactly when [`Service::policy`] is [`Policy::Designated`].
    pub designated: Option<NodeId>,
    /// What a client gets while no member takes connections of the service.
    pub unavailable: Unavailable,
    /// How often a handover is repeated, to another node, whose destination dies before the
    /// client has seen a byte of the answer, 0..=3. Only services with a proxy have more than 0.
    pub repeats: u8,
    /// How this node checks its own application; `None`: not at all.
    pub health: Option<Health>,
}

/// How a node checks the application of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What is done.
    pub check: Check,
    /// From the start of one check to that of the next, 50 ms to 10 min.
    pub interval: Duration,
    /// A check that takes longer has failed; 10 ms to 1 min.
    pub timeout: Duration,
    /// Checks in a row that must succeed until an unhealthy application is healthy
    /// again, 1..=100.
    pub rise: u8,
    /// Checks in a row that must fail until a healthy one is unhealthy, 1..=100.
    pub fall: u8,
}

/// What is done to find out whether an application works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// A connection is opened, and closed.
    Tcp,
    /// A request is sent, and the status looked at.
    Http {
        /// Path and query, from the slash on.
        path: String,
        /// Value of the Host field; `None`: the VIP.
        host: Option<String>,
        /// What counts as success, 100..=599 each; not empty.
        status: Vec<u16>,
    },
    /// A program is run, which succeeds with exit code 0. Its path, then its arguments.
    Command(Vec<String>),
}

/// The two data-plane ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Towards the clients; carries the VIPs.
    pub wire: PortConfig,
    /// Towards the other nodes; carries handovers.
    pub link: PortConfig,
}

/// One data-plane port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// A DPDK vdev string or PCI address; unique among all devices.
    pub device: String,
    /// Receive and transmit queues wanted, at least 1; the device may have
    /// fewer. Defaults to the number of workers.
    pub queues: u16,
    /// Largest IP packet, bytes, 576..=9216; from 1,280 on where there is IPv6.
    pub mtu: u16,
    /// The VLAN whose frames this port takes and sends, 1..=4094 (IEEE 802.1Q);
    /// `None` for untagged frames.
    pub vlan: Option<u16>,
    /// What the device is asked to do.
    pub offloads: Offloads,
    /// The way to the node's own kernel.
    pub host: HostPort,
}

/// The host twin of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A DPDK vdev string (TAP or virtio-user).
    pub device: String,
    /// What the kernel may leave to be done when it sends, where the device can
    /// tell of it.
    pub offloads: HostOffloads,
    /// Name of the kernel's side; `None` when there is no kernel side to set
    /// up, as with capture files.
    pub interface: Option<String>,
    /// The node's own addresses there, VIPs not included.
    pub addresses: Vec<IpPrefix>,
}

/// The polling threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workers {
    /// One worker is pinned to each of these cores; unique, at least one.
    pub cores: Vec<u16>,
    /// What a worker does when there is nothing to do.
    pub idle: Idle,
    /// Longest sleep of an idle worker under [`Idle::Backoff`], 50 us to 10 ms.
    pub idle_sleep: Duration,
}

/// Sizes of tables and buffers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Whether DPDK takes hugepages; otherwise ordinary memory (`--no-huge`).
    pub hugepages: bool,
    /// DPDK's memory, MiB, 16..=1048576.
    pub megabytes: u32,
    /// Packet buffers per worker, 512..=16777215.
    pub mbufs: u32,
    /// Flow entries (FCBs) per worker, 16..=16777216.
    pub flows: u32,
    /// Half-open connections per worker, 16..=16777216.
    pub half_open: u32,
    /// Tombstones per worker, 16..=16777216.
    pub tombstones: u32,
    /// Held copies of all workers together, KiB, 1..=67108864. Shared out evenly: see
    /// [`Config::hold_kib_per_worker`].
    pub hold_node_kib: u32,
    /// Held copies per worker, KiB, 1..=4194304.
    pub hold_kib: u32,
    /// Held copies per flow, KiB, 1..=[`Memory::hold_kib`].
    pub hold_flow_kib: u32,
    /// Requests that are kept to be handed over again, KiB per worker, 1..=4194304.
    pub repeat_kib: u32,
}

/// Deadlines and limits of handovers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// By then a handover is known to be refused, accepted or aborted;
    /// 10 ms to 10 s.
    pub deadline: Duration,
    /// By then the client of an unknown outcome is reset; from
    /// [`Handover::deadline`] to 60 s.
    pub unknown_deadline: Duration,
    /// W of PROTOCOL rule 4, the window that the destination is first shown,
    /// bytes, 4096..=60000.
    pub first_window: u16,
    /// The replay to try first.
    pub replay: Replay,
    /// By when a handover may be repeated, 1 s to 10 min.
    pub repeat_within: Duration,
    /// Source ports of splice connections: at least one per worker, apart from
    /// every service's ports.
    pub splice_ports: PortRange,
}

/// The membership protocol between nodes, UDP over the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peers {
    /// Each node probes one other in this time, 10 ms to 60 s.
    pub probe: Duration,
    /// When others are asked to try in its place, 2 ms to 30 s; at most half of
    /// [`Peers::probe`].
    pub answer: Duration,
    /// How long a suspect may take to speak up before it counts as dead, 20 ms to 10 min.
    pub suspect: Duration,
    /// After this long dead, what a node had counts as lost, 100 ms to 1 h.
    pub gone: Duration,
    /// How long a node that lost most others at once owns nothing, before it takes them
    /// for dead; 0 (not at all) to 1 h.
    pub minority: Duration,
    /// Time between two hellos on the wire, 10 ms to 10 s; `None` (0): nobody looks who is
    /// heard there.
    pub hello: Option<Duration>,
    /// UDP port.
    pub port: u16,
}

/// Reports of the applications' health and load between nodes, UDP over the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reports {
    /// Time between reports, 10 ms to 10 s.
    pub interval: Duration,
    /// UDP port, not [`Peers::port`].
    pub port: u16,
}

/// Life times of flow entries, 1 s to 7 days each where nothing else is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A connection whose handshake does not finish.
    pub half_open: Duration,
    /// An established connection without traffic.
    pub idle: Duration,
    /// A connection after its end.
    pub closing: Duration,
    /// The memory of a connection that was handed over.
    pub tombstone: Duration,
    /// Between two looks at the kernel's sockets. A connection that is idle and has
    /// no socket at two looks is forgotten.
    pub socket_check: Duration,
    /// How long the daemon waits at its end for the connections that it has; 0 (not at
    /// all) to 7 days.
    pub drain: Duration,
}

/// What becomes of the clients of connections that no node has any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orphans {
    /// They are asked for, and reset.
    pub reset: bool,
    /// Resets per second and worker, at most; 1 to 1,000,000. Those of clients whose service
    /// is unavailable ([`Unavailable::Rst`]) count too.
    pub resets_per_s: u32,
}

/// Sockets of the control thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Unix socket of the handover RPC; at most 107 bytes.
    pub rpc_socket: PathBuf,
    /// Who may ask for a handover.
    pub rpc_allow: RpcAllow,
    /// Unix socket of the admin API; at most 107 bytes.
    pub admin_socket: PathBuf,
    /// Address of the Prometheus endpoint.
    pub metrics: SocketAddr,
}

/// Who may ask for a handover: a peer whose user or group is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcAllow {
    /// User ids.
    pub uids: Vec<u32>,
    /// Group ids.
    pub gids: Vec<u32>,
}

/// The daemon's own log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Least severity that is written.
    pub level: LogLevel,
    /// Form of a line.
    pub format: LogFormat,
}

impl Config {
    /// Held copies of one worker, KiB: its own cap, or its share of the node's where
    /// that is less. Workers share nothing, so none takes what another one leaves.
    #[must_use]
    pub fn hold_kib_per_worker(&self) -> u32 {
        let workers = u32::try_from(self.workers.cores.len().max(1)).unwrap_or(u32::MAX);
        self.memory
            .hold_kib
            .min(self.memory.hold_node_kib / workers)
    }

    /// This node's own entry in [`Cluster::members`].
    ///
    /// # Panics
    ///
    /// Panics if `node` was changed to an id that is no member's.
    #[must_use]
    pub fn this_member(&self) -> &Member {
        self.cluster
            .member(self.node)
            .expect("a validated configuration has its own node among the members")
    }
}

impl Cluster {
    /// The member with this id.
    #[must_use]
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }
}
