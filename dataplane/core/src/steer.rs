//! Which worker a frame belongs to: a pure function of the client's address and
//! port, whatever the tuple looks like on wire, link or host.

use crate::frame::{Frame, Port};
use crate::key::{Addr, FlowKey};
use crate::view::View;
use crate::wire::icmp::Quote;
use crate::wire::{self, Ip, L3, PROTO_TCP, tcp};
use dts_proto::block;

/// The worker of a client, of `workers` in all.
#[inline]
pub fn worker_of_client(view: &View, client: &Addr, port: u16, workers: usize) -> usize {
    of_hash(view.steer_key.client(client, port), workers)
}

/// The worker of a hash that [`crate::key::HashKey::client`] gave: as many hashes fall to
/// each.
#[inline]
pub(crate) fn of_hash(hash: u64, workers: usize) -> usize {
    ((u128::from(hash) * workers as u128) >> 64) as usize
}

/// The worker that must process `frame`. What belongs to no flow stays on
/// worker 0.
#[inline]
pub fn worker_of_frame<F: Frame>(view: &View, port: Port, frame: &F, workers: usize) -> usize {
    if workers == 1 {
        return 0;
    }
    let Ok(L3::Ip(ip)) = wire::l3_of(frame) else {
        return 0;
    };
    if ip.proto != PROTO_TCP || ip.fragment {
        // An error about one of our segments goes where its connection is.
        return match Quote::parse(frame.head(), &ip) {
            Some(q) if port == Port::Wire => worker_of_flow(view, &q.flow, workers),
            _ => 0,
        };
    }
    let Some((sport, dport)) = tcp::ports(frame.head(), &ip) else {
        return 0;
    };
    match port {
        Port::Wire => worker_of_client(view, &ip.src, sport, workers),
        Port::WireHost => worker_of_client(view, &ip.dst, dport, workers),
        Port::Link => worker_of_link(view, frame, &ip, sport, dport, workers),
        Port::LinkHost => 0,
    }
}

fn worker_of_link<F: Frame>(
    view: &View,
    frame: &F,
    ip: &Ip,
    sport: u16,
    dport: u16,
    workers: usize,
) -> usize {
    if view.is_splice_port(dport) {
        // The source's worker chose the port so that its answers come back to it.
        return usize::from(dport - view.params.splice_ports.0) % workers;
    }
    let Ok(s) = tcp::Segment::parse(frame.head(), ip) else {
        return 0;
    };
    // The fixed part of a block, which may lie in other pieces than the headers.
    let mut block = [0; block::FIXED_LEN];
    let block = &mut block[..s.len().min(block::FIXED_LEN)];
    let client = match frame.head().get(s.data..s.data + block.len()) {
        Some(bytes) => block::peek_client(bytes),
        None if frame.copy_out(s.data, block) => block::peek_client(block),
        None => None,
    };
    match client {
        Some(c) => worker_of_client(view, &c.ip().into(), c.port(), workers),
        None => worker_of_link_tuple(view, &ip.src, sport, workers),
    }
}

/// The worker that knows where the flow of a bare splice connection lives.
pub fn worker_of_link_tuple(view: &View, source: &Addr, sport: u16, workers: usize) -> usize {
    worker_of_client(view, source, sport, workers)
}

/// The worker of a flow.
pub fn worker_of_flow(view: &View, k: &FlowKey, workers: usize) -> usize {
    worker_of_client(view, &k.client, k.client_port, workers)
}
