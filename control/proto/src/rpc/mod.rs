//! The handover RPC: a proxy asks the daemon of its own node to move a live
//! TCP connection to another node, and which nodes there are.
//!
//! The transport is a Unix `SOCK_SEQPACKET` socket: the kernel keeps message
//! boundaries, so a bad message never costs the connection its framing. One
//! request is answered by one answer before the next is sent; a client that
//! wants several handovers under way opens several connections. The TCP
//! socket's descriptor travels with the request as `SCM_RIGHTS`.
//!
//! A message is one version byte and a [postcard] value. Postcard is used
//! because it has a written wire specification, is compact (a request costs
//! some ten bytes beside its payload), and decodes without reflection.
//!
//! The daemon peeks at the socket and takes nothing from it, so after every
//! failure but [`FailCode::Unknown`] the socket and its unread data are exactly
//! as before the call.
//!
//! [postcard]: https://postcard.jamesmunns.com/wire-format

mod client;
mod codec;
mod server;

pub use client::{Client, ClientError};
pub use codec::{
    CodecError, decode_answer, decode_request, encode_answer, encode_nodes_request, encode_request,
};
pub use server::{Connection, PeerCredentials, RecvError, Server};

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// First byte of every message. Another value is refused with
/// [`CodecError::Version`].
pub const VERSION: u8 = 2;

/// Largest message in bytes, version byte included, in either direction.
pub const MAX_MESSAGE: usize = 128 * 1024;

/// Largest `request` of a [`Request::Handover`] in bytes, such that the message
/// around it stays within [`MAX_MESSAGE`] whatever the destination is.
pub const MAX_REQUEST: usize = MAX_MESSAGE - 64;

/// Longest `reason` of an [`Answer::Failed`] in bytes; a longer one is cut when
/// it is encoded.
pub const MAX_REASON: usize = 1024;

/// Where the daemon listens unless its configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/dts/rpc.sock";

/// Nanoseconds of `CLOCK_MONOTONIC`, the clock of `sent_ns`.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Neither part is ever negative.
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// What a proxy asks.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Move the connection whose socket travels with this message.
    Handover {
        /// Link address of the destination node and its application port.
        /// IPv6 flow label and scope id do not travel.
        dest: SocketAddr,
        /// When it was asked: nanoseconds of `CLOCK_MONOTONIC`, which both sides
        /// share. Only metrics look at it.
        sent_ns: u64,
        /// Every byte that the proxy has read from the socket, at most
        /// [`MAX_REQUEST`].
        #[serde(with = "serde_bytes")]
        request: Vec<u8>,
    },
    /// Tell what is known of the nodes. No descriptor.
    Nodes,
}

/// Shows the length of the client's bytes, never the bytes.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handover { dest, request, .. } => f
                .debug_struct("Handover")
                .field("dest", dest)
                .field("request_bytes", &request.len())
                .finish(),
            Self::Nodes => f.write_str("Nodes"),
        }
    }
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The destination has the connection; the proxy closes its socket.
    Done(Done),
    /// The connection was not moved, or nobody can tell.
    Failed {
        /// What to do about it.
        code: FailCode,
        /// For a log, at most [`MAX_REASON`] bytes.
        reason: String,
    },
    /// The answer to [`Request::Nodes`]: every member, this node included.
    Nodes(Vec<Node>),
}

/// A node as the daemon that is asked knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its id, 1..=65535.
    pub id: u16,
    /// Its address on the link, as destinations name it.
    pub link: IpAddr,
    /// Whether it is there, and wants connections.
    pub state: NodeState,
    /// What it says of its application ports; empty until it has said something.
    pub services: Vec<ServiceState>,
}

/// Whether a node takes connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NodeState {
    /// It is heard and takes connections.
    Active,
    /// It is heard, and takes no new ones: it is to be emptied.
    Draining,
    /// It is heard, and takes none unless it is asked for.
    Standby,
    /// It has not been heard for too long, or not yet.
    Dead,
}

/// What a node says of one application port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceState {
    /// The application port, 1..=65535.
    pub port: u16,
    /// No check and no handover says that the application is down.
    pub healthy: bool,
    /// Connections of clients that the application has now.
    pub connections: u32,
    /// How long ago they were counted, milliseconds.
    pub age_ms: u32,
}

impl Node {
    /// Whether connections may go to the application at `port`: the node is active,
    /// and does not call that application unhealthy.
    #[must_use]
    pub fn takes(&self, port: u16) -> bool {
        let unhealthy = |s: &ServiceState| s.port == port && !s.healthy;
        self.state == NodeState::Active && !self.services.iter().any(unhealthy)
    }
}

/// Facts about a handover that succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Node that has the connection now, 1..=65535.
    pub node: u16,
    /// How the destination's filter gave the request to its stack.
    pub replay: Replay,
    /// From the daemon's receipt of the request to the accept, in microseconds.
    pub micros: u64,
}

/// How the destination replays the client to its own stack (PROTOCOL section
/// 4, step 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Replay {
    /// One SYN that carries the whole request.
    FastOpen,
    /// SYN, ACK, then data.
    Handshake,
    /// As the DTS paper has it, to a peer that speaks nothing else.
    Paper,
    /// The destination has the connection; its word on the replay was lost.
    Unknown,
}

impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FastOpen => "fast-open",
            Self::Handshake => "handshake",
            Self::Paper => "paper",
            Self::Unknown => "unknown",
        })
    }
}

/// Why a handover failed, in terms of what the proxy may do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FailCode {
    /// The destination said no; nothing reached an application there.
    Refused,
    /// The destination is dead or no node of this cluster.
    Unreachable,
    /// No answer in time, and the destination confirmed that no byte was or
    /// will be given to its stack.
    Aborted,
    /// Nobody can tell whether the destination executed the request. It must
    /// not be repeated; the daemon resets the client at its deadline.
    Unknown,
    /// This connection cannot be handed over now: request too large, bytes
    /// unaccounted for, urgent data, unsent data, no such flow, not TCP.
    NotEligible,
    /// The connection is in a handover already, or the daemon is at its limit.
    Busy,
    /// The daemon's configuration does not allow this peer to ask.
    Denied,
    /// The daemon could not make sense of the message.
    Malformed,
}

impl FailCode {
    /// Every code, in wire order.
    pub const ALL: [Self; 8] = [
        Self::Refused,
        Self::Unreachable,
        Self::Aborted,
        Self::Unknown,
        Self::NotEligible,
        Self::Busy,
        Self::Denied,
        Self::Malformed,
    ];

    /// Whether another destination may succeed where this one failed, and
    /// asking it cannot execute the request twice.
    #[must_use]
    pub const fn retry_elsewhere(self) -> bool {
        matches!(self, Self::Refused | Self::Unreachable | Self::Aborted)
    }

    /// The code as a word for logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Aborted => "aborted",
            Self::Unknown => "unknown",
            Self::NotEligible => "not-eligible",
            Self::Busy => "busy",
            Self::Denied => "denied",
            Self::Malformed => "malformed",
        }
    }
}

impl fmt::Display for FailCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
