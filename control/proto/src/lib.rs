//! What the processes of DTS say to each other, free of DPDK: the handover
//! RPC between a proxy and the daemon of its node, and the extension block that
//! nodes put into the payload of their link segments.

pub mod block;
pub mod rpc;
