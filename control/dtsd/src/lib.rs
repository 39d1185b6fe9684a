//! The DTS daemon: it starts the data plane and is its control thread.
//!
//! [`daemon::run`] is its whole life. Handovers come in by [`rpc_server`] and are
//! conducted by [`handover`], which talks to the workers through [`plane`];
//! [`members`] speaks with the other nodes, [`publish`] makes views of what they agree on;
//! [`health`] checks applications; [`report`] tells of health and load, which [`board`] keeps for
//! proxies; [`life`] looks at the kernel's sockets; [`admin`] tells operators and Prometheus.
//! [`local`] says what this node knows, also to other daemons ([`ask`]); [`explain`],
//! [`what_if`] and [`doctor`] make answers for operators of it.

pub mod admin;
pub mod ask;
pub mod board;
pub mod daemon;
pub mod doctor;
pub mod drain;
pub mod drained;
pub mod explain;
pub mod fleet_metrics;
pub mod handover;
pub mod health;
pub mod history;
pub mod life;
pub mod local;
pub mod logging;
pub mod members;
pub mod metrics;
pub mod plane;
pub mod publish;
pub mod report;
pub mod routes;
pub mod rpc_server;
pub mod snapshot;
pub mod sockets;
pub mod tcp_caps;
pub mod threads;
pub mod twins;
pub mod what_if;

#[cfg(test)]
mod testkit;
