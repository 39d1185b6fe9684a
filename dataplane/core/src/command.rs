//! What the control thread asks of a worker, and what the worker reports.

use crate::found::Found;
use crate::key::FlowKey;
use crate::life::SocketSet;
use crate::time::{Instant, Span};
use dts_proto::block::{Reason, Replay};
use std::net::SocketAddr;
use std::sync::Arc;

/// A request to the worker that has the flow.
#[derive(Debug)]
pub enum Command {
    /// Step 2: stop the proxy socket's egress and hold the client's segments.
    Freeze {
        /// Names this handover in commands and events.
        ticket: u64,
        /// The client (the socket's peer).
        client: SocketAddr,
        /// The socket's own address: VIP and proxy port; or the application port,
        /// where the flow has been handed over before.
        local: SocketAddr,
    },
    /// Step 4: open the splice to a member.
    Splice {
        /// The ticket of the freeze.
        ticket: u64,
        /// Link address and application port of the destination.
        dest: SocketAddr,
        /// Every request byte that the socket has received and not answered.
        request: Vec<u8>,
        /// Client bytes that the socket received before those: 0 in a first handover.
        taken: u32,
        /// The client's FIN was received behind them.
        client_fin: bool,
    },
    /// A check failed: let the flow go on here.
    Unfreeze {
        /// The ticket of the freeze.
        ticket: u64,
    },
    /// The control thread has looked at the kernel's sockets. No answer.
    Sockets {
        /// What it saw.
        set: Arc<SocketSet>,
    },
    /// List up to `limit` FCBs.
    Flows {
        /// Comes back in the event.
        ticket: u64,
        /// Most entries.
        limit: usize,
    },
    /// Look one flow up; nothing changes.
    Find {
        /// Comes back in the event.
        ticket: u64,
        /// The flow.
        key: FlowKey,
    },
}

/// Why a handover did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fail {
    /// This worker has no such established flow.
    NoFlow,
    /// The flow is already being handed over, or a limit is reached.
    Busy,
    /// Not a member, or its port is not this service's application port.
    BadDestination,
    /// The member is not alive.
    Unreachable,
    /// The request is larger than the first window allows.
    TooLarge,
    /// More was acknowledged to the client than was drained.
    Unaccounted,
    /// The peer speaks only the paper's form, which cannot carry this flow.
    PaperForm,
    /// The destination refused.
    Refused(Reason),
    /// Timed out; the destination confirmed that nothing was executed.
    Aborted,
    /// Timed out; nobody knows. The client will be reset.
    Unknown,
}

/// When the steps of a handover were done, each from the freeze on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// The splice SYN was queued.
    pub spliced: Span,
    /// The accept arrived.
    pub accepted: Span,
    /// The end mark was acknowledged.
    pub buried: Span,
}

/// One FCB as an operator sees it.
#[derive(Clone, Debug)]
pub struct FlowInfo {
    /// Client address and port.
    pub client: SocketAddr,
    /// Service address and port.
    pub vip: SocketAddr,
    /// State name.
    pub state: &'static str,
    /// The other node of its handover, if any.
    pub peer: Option<u16>,
    /// S - L, modulo 2^32.
    pub delta: u32,
    /// Since its last segment.
    pub idle: Span,
}

/// A report to the control thread.
#[derive(Debug)]
pub enum Event {
    /// The freeze is done: the control thread may drain.
    Frozen {
        /// The ticket.
        ticket: u64,
        /// When.
        at: Instant,
    },
    /// The destination has the flow; the socket may be buried.
    Done {
        /// The ticket.
        ticket: u64,
        /// Which node has it.
        node: u16,
        /// How the request was replayed, when the destination said so.
        replay: Option<Replay>,
        /// Times.
        steps: Steps,
    },
    /// The handover did not happen; but for `Fail::Unknown` the flow lives on here.
    Failed {
        /// The ticket.
        ticket: u64,
        /// Why.
        fail: Fail,
    },
    /// Who is on the wire has changed.
    OnWire {
        /// Their ids, in order, without this node's; `None`: nobody looks any more.
        members: Option<Vec<u16>>,
    },
    /// The answer to [`Command::Flows`].
    Flows {
        /// The ticket.
        ticket: u64,
        /// The list.
        flows: Vec<FlowInfo>,
    },
    /// The answer to [`Command::Find`].
    Found {
        /// The ticket.
        ticket: u64,
        /// What is known of it; `None`: nothing.
        found: Option<Found>,
    },
}
