//! The flows of the benchmarks: each one's numbers are a function of its index.

use dts_core::handover::message::Peer;
use dts_core::key::{Addr, FlowKey};
use dts_core::resident::Resident;
use dts_core::view::View;
use dts_core::wire::Mac;
use dts_core::wire::build::Tcp;
use dts_core::wire::options::{Build, kind};
use dts_core::wire::tcp::{ACK, SYN};
use dts_proto::block::{FlowId, SpliceState};

/// The service.
pub const VIP: [u8; 4] = [192, 0, 2, 1];
/// Its port.
pub const PORT: u16 = 80;
/// The application's port.
pub const APP_PORT: u16 = 8080;
/// The router between the node and its clients.
pub const ROUTER: Mac = [2, 0, 0, 0, 0, 0xc1];
/// The cluster's MAC.
pub const CLUSTER_MAC: Mac = [2, 0, 0x5e, 0, 0, 0x64];
/// Bytes that each flow's application has sent.
const SENT: u32 = 100_000;
/// Bytes of the request that was replayed.
const REQUEST: u32 = 100;
/// The local stack's TSval at the handover, and the highest that the client was sent.
const TS_LOCAL: u32 = 0x0100_0000;
const TS_SENT: u32 = 0x2000_0000;
/// The client's clock.
const TS_CLIENT: u32 = 0x3000_0000;

/// The `n`-th client of the service.
#[must_use]
pub fn flow(n: u32) -> FlowKey {
    let [a, b, c, d] = n.to_be_bytes();
    FlowKey {
        client: Addr::v4([10, a, b, c]),
        vip: Addr::v4(VIP),
        client_port: 1024 + u16::from(d),
        port: PORT,
    }
}

/// The initial sequence numbers of client, intake and this node's stack.
fn isns(n: u32) -> (u32, u32, u32) {
    let c = n.wrapping_mul(0x9e37_79b1);
    (c, c ^ 0x5bd1_e995, !c.rotate_left(16))
}

/// The `n`-th flow as this node serves it since node 2 handed it over.
#[must_use]
pub fn resident(n: u32) -> Resident {
    let key = flow(n);
    let (c_isn, s_isn, l_isn) = isns(n);
    let cut = c_isn.wrapping_add(1 + REQUEST);
    Resident {
        id: FlowId {
            client: key.client(),
            vip: key.vip(),
            c_isn,
            s_isn,
            source: 2,
            source_incarnation: 1,
            number: n,
        },
        state: SpliceState {
            c_base: c_isn,
            s_base: s_isn,
            cut,
            ts_max: TS_SENT,
            client_ack: s_isn.wrapping_add(1),
            ts_recent: TS_CLIENT,
            rtt_us: 20_000,
            last_ack: cut,
            window: 502,
            mss: 1460,
            client_shift: 7,
            promised_shift: 7,
            wscale: true,
            sack: true,
            timestamps: true,
            client_fin: false,
            next_hop: ROUTER,
        },
        peer: Peer {
            node: 2,
            incarnation: 1,
            mac: [2, 0, 0, 0, 1, 2],
            addr: Addr::v4([10, 77, 1, 2]),
            port: 61_000,
            local_port: APP_PORT,
        },
        stack: (l_isn, TS_LOCAL, 65_160, 8),
        sent: SENT,
    }
}

/// A frame of the `n`-th flow, of 78 bytes: an ACK with timestamps and a SACK block.
/// From the client all of ports, acknowledgement, SACK block and TSecr are rewritten.
#[must_use]
pub fn client_ack(n: u32) -> Vec<u8> {
    let (c_isn, s_isn, _) = isns(n);
    let acked = s_isn.wrapping_add(1 + SENT);
    let sack = acked.wrapping_add(2_000);
    sacked(&Tcp {
        eth_dst: CLUSTER_MAC,
        eth_src: ROUTER,
        src: flow(n).client,
        dst: Addr::v4(VIP),
        sport: flow(n).client_port,
        dport: PORT,
        seq: c_isn.wrapping_add(1 + REQUEST),
        ack: acked,
        flags: ACK,
        window: 502,
        opts: Build {
            timestamps: Some((TS_CLIENT + 10, TS_SENT + 5)),
            ..Build::default()
        },
        payload: &sack_bytes(sack),
    })
}

/// The same from this node's stack: port, sequence number, window and TSval are
/// rewritten.
#[must_use]
pub fn server_ack(n: u32) -> Vec<u8> {
    let (c_isn, _, l_isn) = isns(n);
    let acked = c_isn.wrapping_add(1 + REQUEST);
    sacked(&Tcp {
        eth_dst: [2, 0, 0, 0, 0, 1],
        eth_src: CLUSTER_MAC,
        src: Addr::v4(VIP),
        dst: flow(n).client,
        sport: APP_PORT,
        dport: flow(n).client_port,
        seq: l_isn.wrapping_add(1 + SENT),
        ack: acked,
        flags: ACK,
        window: 510,
        opts: Build {
            timestamps: Some((TS_LOCAL + 20, TS_CLIENT + 10)),
            ..Build::default()
        },
        payload: &sack_bytes(acked.wrapping_add(3_000)),
    })
}

/// An ACK without options, of 60 bytes with Ethernet padding.
#[must_use]
pub fn bare_ack(n: u32) -> Vec<u8> {
    let (c_isn, s_isn, _) = isns(n);
    plain(n, c_isn.wrapping_add(1), s_isn.wrapping_add(1), ACK)
}

/// A SYN without options, of 60 bytes with Ethernet padding.
#[must_use]
pub fn bare_syn(n: u32) -> Vec<u8> {
    plain(n, isns(n).0, 0, SYN)
}

fn plain(n: u32, seq: u32, ack: u32, flags: u8) -> Vec<u8> {
    let mut frame = Tcp {
        eth_dst: CLUSTER_MAC,
        eth_src: ROUTER,
        src: flow(n).client,
        dst: Addr::v4(VIP),
        sport: flow(n).client_port,
        dport: PORT,
        seq,
        ack,
        flags,
        window: 502,
        opts: Build::default(),
        payload: &[],
    }
    .frame();
    frame.resize(60, 0);
    frame
}

/// A SACK option of one block, padded.
fn sack_bytes(left: u32) -> [u8; 12] {
    let mut b = [kind::NOP; 12];
    (b[2], b[3]) = (kind::SACK, 10);
    b[4..8].copy_from_slice(&left.to_be_bytes());
    b[8..].copy_from_slice(&left.wrapping_add(1_448).to_be_bytes());
    b
}

/// The frame with its payload of 12 bytes made a part of its options.
fn sacked(t: &Tcp<'_>) -> Vec<u8> {
    const L4: usize = 34;
    let mut frame = t.frame();
    frame[L4 + 12] += 3 << 4;
    let end = frame.len();
    dts_core::wire::edit::write_tcp_checksum(&mut frame, L4, end);
    frame
}

/// Numbers in the frames of one exchange, by which is told where they have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// Destination port and acknowledgement of the request at the host.
    pub request: (u16, u32),
    /// Source port and sequence number of the response at the wire.
    pub response: (u16, u32),
}

/// What [`client_ack`] and [`server_ack`] bear at the far side of what is between
/// them: a node that translates them, or something that does not.
#[must_use]
pub fn marks(n: u32, translated: bool) -> Marks {
    let (_, s_isn, l_isn) = isns(n);
    let at = |isn: u32| isn.wrapping_add(1 + SENT);
    if translated {
        Marks {
            request: (APP_PORT, at(l_isn)),
            response: (PORT, at(s_isn)),
        }
    } else {
        Marks {
            request: (PORT, at(s_isn)),
            response: (APP_PORT, at(l_isn)),
        }
    }
}

/// Of `resident` flows `active` ones, any one of each `resident / active` neighbours, in an
/// order without a pattern. A regular step through them would meet few of a cache's sets.
#[must_use]
pub fn spread(active: u32, resident: u32) -> Vec<u32> {
    let step = (resident / active).max(1);
    let any = |n: u32| (n.wrapping_mul(0x9e37_79b9) >> 8) % step;
    let mut all = shuffled(active);
    all.iter_mut().for_each(|n| *n = *n * step + any(*n));
    all
}

/// The flows from `first` on whose buckets belong to this node, or to others.
pub fn owned(view: &View, first: u32, by_this_node: bool) -> impl Iterator<Item = u32> + '_ {
    let buckets = &view.services[0].buckets;
    (first..).filter(move |&n| (buckets.owner(&flow(n)) == view.node) == by_this_node)
}

/// The numbers below `n` in an order that no cache can foresee, the same at each run.
#[must_use]
pub fn shuffled(n: u32) -> Vec<u32> {
    let mut all: Vec<u32> = (0..n).collect();
    let mut x = 0x2545_f491_4f6c_dd1d_u64;
    for i in (1..all.len()).rev() {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        all.swap(i, (x % (i as u64 + 1)) as usize);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn active_flows_are_spread_over_the_resident_ones() {
        let mut flows = spread(100, 1_000);
        assert_ne!(flows[..3], [0, 10, 20]);
        flows.sort_unstable();
        assert!((0..10).all(|last| flows.iter().any(|n| n % 10 == last)));
        assert!((0..100).eq(flows.iter().map(|n| n / 10)));
    }

    #[test]
    fn untranslated_frames_bear_their_own_marks() {
        let m = marks(7, false);
        let at = |frame: &[u8], from: usize| {
            u32::from_be_bytes(frame[from..from + 4].try_into().unwrap())
        };
        let (request, response) = (client_ack(7), server_ack(7));
        assert_eq!(at(&request, 34) as u16, m.request.0);
        assert_eq!(at(&request, 42), m.request.1);
        assert_eq!((at(&response, 34) >> 16) as u16, m.response.0);
        assert_eq!(at(&response, 38), m.response.1);
        assert_ne!(marks(7, true), m);
    }
}
