//! Link messages that a member says, authentic and of any content.

use super::node::{KEY, link, link_mac};
use super::peers::Client;
use crate::input::Input;
use dts_core::handover::message::context;
use dts_core::key::Addr;
use dts_core::wire::build::Tcp;
use dts_core::wire::options::{Build, SpliceOption};
use dts_proto::block::{self, Fields, FlowId, Header, Kind, LinkKey, Reason, Replay, SpliceState};
use std::net::SocketAddr;

const KINDS: [Kind; 14] = [
    Kind::Splice,
    Kind::Accept,
    Kind::Refuse,
    Kind::Continue,
    Kind::Data,
    Kind::Forward,
    Kind::EndMark,
    Kind::EndAck,
    Kind::Abort,
    Kind::Aborted,
    Kind::FlowEnd,
    Kind::Who,
    Kind::Mine,
    Kind::NotMine,
];

/// From which node, to which, and how many messages were said before.
pub struct Way {
    pub from: u16,
    pub to: u16,
    pub incarnations: [u64; 2],
    pub counter: u64,
    pub app_port: u16,
}

fn state(c: &Client, u: &mut Input<'_>) -> SpliceState {
    let b = u.next::<u8>();
    // What hangs together is let through further.
    let fair = b & 0x80 == 0;
    let bit = |n: u8| b & n != 0;
    SpliceState {
        c_base: if fair { c.isn } else { c.near(u) },
        s_base: if fair { c.stacks[0] } else { c.near(u) },
        cut: if fair { c.nxt } else { c.near(u) },
        ts_max: u.next(),
        client_ack: c.near(u),
        ts_recent: u.next(),
        rtt_us: u.next(),
        last_ack: c.near(u),
        window: u.next(),
        mss: u.next(),
        client_shift: u.next::<u8>() % 15,
        promised_shift: u.next::<u8>() % 15,
        wscale: bit(1),
        sack: bit(2),
        timestamps: bit(4),
        client_fin: bit(8),
        next_hop: [2, 0, 0, 0, 0, 200],
    }
}

/// A sealed message in its frame.
pub fn message(c: &Client, way: &Way, u: &mut Input<'_>) -> Vec<u8> {
    let kind = u.pick(&KINDS);
    let b = u.next::<u8>();
    let bit = |n: u8| b & 1 << n != 0;
    let flow = FlowId {
        client: SocketAddr::new(c.addr, c.port),
        vip: SocketAddr::new(c.vip, c.to),
        c_isn: if bit(0) { c.near(u) } else { c.isn },
        s_isn: if bit(1) { c.near(u) } else { c.stacks[0] },
        source: if kind.from_source() { way.from } else { way.to },
        source_incarnation: way.incarnations[usize::from(!kind.from_source())],
        number: if bit(2) { u.next() } else { 1 },
    };
    let fields = Fields {
        state: (kind == Kind::Splice || bit(3)).then(|| state(c, u)),
        reason: Reason::from_u8(u.next::<u8>() % 12),
        replay: [None, Some(Replay::FastOpen), Some(Replay::Handshake)][u.below(3)],
    };
    let head = (
        fields.state.map_or_else(|| c.near(u), |s| s.c_base),
        c.near(u),
        u.next::<u8>(),
    );
    let dport = if kind.from_source() {
        way.app_port
    } else {
        61_000 + u.below(4) as u16
    };
    let body = match u.below(3) {
        0 => vec![],
        1 => c.segment(c.near(u), c.near(u), u.next(), &[b'f'; 30])[14..].to_vec(),
        _ => {
            let n = u.below(64);
            u.bytes(n).to_vec()
        }
    };
    let header = Header {
        kind,
        key_id: 1,
        sender: way.from,
        // Its counters must not make those of the real node look old.
        worker: 7,
        sender_incarnation: way.incarnations[0],
        receiver_incarnation: way.incarnations[1].wrapping_sub(u64::from(bit(4))),
        counter: way.counter,
        flow,
    };
    let mut payload = vec![];
    block::write(&mut payload, &header, &fields);
    payload.extend(&body);
    let ports = if kind.from_source() {
        (61_000 + u.below(4) as u16, dport)
    } else {
        (way.app_port, dport)
    };
    let (from, to) = (link(way.from), link(way.to));
    let ctx = context(&from, &to, ports.0, ports.1, head);
    block::seal(&mut payload, &LinkKey::new(1, KEY), &ctx);
    segment(way, ports, head, Build::default(), &payload)
}

/// A segment of the paper's bare form.
pub fn bare(c: &Client, way: &Way, u: &mut Input<'_>) -> Vec<u8> {
    let b = u.next::<u8>();
    let to_dest = b & 0x80 == 0;
    let splice = SpliceOption {
        client: Addr::from(c.addr).octets_v4(),
        port: c.port,
        init_seq: c.stacks[0],
    };
    let opts = Build {
        mss: Some(1460),
        wscale: (b & 0x40 != 0).then_some(7),
        splice: (b & 0x02 != 0 && b & 0x20 == 0).then_some(splice),
        ..Build::default()
    };
    let port = 61_000 + u.below(4) as u16;
    let ports = if to_dest {
        (port, way.app_port)
    } else {
        (way.app_port, port)
    };
    let seq = if b & 0x02 != 0 { c.isn } else { c.near(u) };
    let n = u.below(64);
    segment(way, ports, (seq, c.near(u), b & 0x1f), opts, u.bytes(n))
}

fn segment(
    way: &Way,
    ports: (u16, u16),
    head: (u32, u32, u8),
    opts: Build,
    payload: &[u8],
) -> Vec<u8> {
    Tcp {
        eth_dst: link_mac(way.to),
        eth_src: link_mac(way.from),
        src: link(way.from),
        dst: link(way.to),
        sport: ports.0,
        dport: ports.1,
        seq: head.0,
        ack: head.1,
        flags: head.2,
        window: 0,
        opts,
        payload,
    }
    .frame()
}
