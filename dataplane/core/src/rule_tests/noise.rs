//! Nothing that comes in by any port makes a shard panic (debug assertions are
//! on in tests), and counts stay consistent.

use super::*;
use crate::key::Addr;
use crate::wire::build::Tcp;
use dts_proto::block::{self, Fields, FlowId, Header, Kind, LinkKey, Replay, SpliceState};
use proptest::prelude::*;

const PORTS: [Port; 4] = [Port::Wire, Port::WireHost, Port::Link, Port::LinkHost];
const SITUATIONS: usize = 12;

/// A node 1 or 2 with the flow in some state.
fn situation(i: usize) -> Node {
    let (c, s, l) = ISNS[i % ISNS.len()];
    match i {
        0 => Node::new(view(1, 1)),
        1 => {
            let mut n = Node::new(view(1, 1));
            n.rx(Port::Wire, client(c, 0, SYN, syn_opts(100), b""));
            n
        }
        2 => established(c, s),
        3 => Pair::frozen(c, s, l).a,
        4 => Pair::spliced(c, s, l).a,
        5 => Pair::spliced(c, s, l).b,
        6 => Pair::served(c, s, l).a,
        7 => Pair::served(c, s, l).b,
        8 => {
            // Handshake replay, the request given.
            let mut p = Pair::spliced(c, s, l);
            let f = host(
                8080,
                l,
                c.wrapping_add(1),
                SYN | ACK,
                65_160,
                synack_opts(7, 130),
                b"",
            );
            p.b.rx(Port::WireHost, f);
            p.b
        }
        9 => {
            let mut p = Pair::frozen(c, s, l);
            p.splice_to(1);
            p.a
        }
        10 => {
            let mut p = Pair::frozen(c, s, l);
            p.splice_to(2);
            p.a.pass(155);
            p.a
        }
        _ => {
            let mut v = view(2, 1);
            v.params.paper_form = true;
            Node::new(v)
        }
    }
}

/// Time passes in whatever state the node is left; its numbers must agree.
fn settle(mut n: Node) {
    n.pass(600);
    n.now = n.now + crate::time::Span::secs(4_000);
    n.pass(2_200);
    n.now = n.now + crate::time::Span::secs(4_000);
    n.pass(1_200);
    let used = n.s.slots.iter().filter(|f| f.state != State::Free).count();
    assert_eq!((n.s.flows(), n.s.table.len()), (used, used));
    let held: usize =
        n.s.slots
            .iter()
            .map(|f| f.copies.buffers() + f.held.buffers())
            .sum();
    assert_eq!(n.s.hold_use().0, held);
    let walked = State::ALL.map(|s| n.s.slots.iter().filter(|f| f.state == s).count() as u64);
    assert_eq!(n.s.count_states(), walked);
    assert_eq!(used, 0, "every flow ends at last");
}

/// A valid frame of each kind that a node may see.
fn valid(
    i: usize,
    (c, s, l): (u32, u32, u32),
    off: (i8, i8),
    flags: u8,
    len: usize,
) -> (Port, Vec<u8>) {
    let k = c.wrapping_add(1 + GET.len() as u32);
    let seq = k.wrapping_add_signed(i32::from(off.0));
    let ack = s.wrapping_add_signed(i32::from(off.1));
    let body = vec![b'n'; len];
    match i {
        0 => (Port::Wire, client(seq, ack, flags, ts(150, 5010), &body)),
        1 => {
            let f = client(seq, ack, flags, Build::default(), &body);
            (
                Port::Wire,
                with_options(&f, &sack(1, &[(ack, seq), (seq, ack)])),
            )
        }
        2 => (
            Port::Wire,
            client(c, ack, flags | SYN, syn_opts(100), &body),
        ),
        3 => {
            let lack = l.wrapping_add_signed(i32::from(off.1));
            (
                Port::WireHost,
                host(8080, lack, seq, flags, 500, ts(800, 130), &body),
            )
        }
        4 => (
            Port::WireHost,
            host(8001, ack, seq, flags, 500, ts(5050, 130), &body),
        ),
        5 => {
            let f = host(8080, l, seq, flags, 500, Build::default(), &body);
            (
                Port::WireHost,
                with_options(&f, &sack(3, &[(c, k), (seq, ack), (ack, seq)])),
            )
        }
        6 => (
            Port::WireHost,
            host(8080, l, seq, SYN | ACK, 65_160, synack_opts(7, 130), &body),
        ),
        _ => {
            let opts = Build {
                mss: Some(1460),
                splice: Some(crate::wire::options::SpliceOption {
                    client: CLIENT_V4,
                    port: CPORT,
                    init_seq: s,
                }),
                ..Build::default()
            };
            let opts = if flags & SYN != 0 {
                opts
            } else {
                Build::default()
            };
            let f = link_segment(3333, 8080, (seq, ack, flags), opts, &body);
            (Port::Link, f)
        }
    }
}

fn link_segment(
    sport: u16,
    dport: u16,
    (seq, ack, flags): (u32, u32, u8),
    opts: Build,
    payload: &[u8],
) -> Vec<u8> {
    Tcp {
        eth_dst: [2, 0, 0, 0, 1, 2],
        eth_src: [2, 0, 0, 0, 1, 9],
        src: on_link(1u16).into(),
        dst: on_link(2u16).into(),
        sport,
        dport,
        seq,
        ack,
        flags,
        window: 0,
        opts,
        payload,
    }
    .frame()
}

/// A number near one that the flow knows, or any.
fn near(isn: (u32, u32, u32)) -> impl Strategy<Value = u32> + Clone {
    let k = isn.0.wrapping_add(1 + GET.len() as u32);
    prop_oneof![
        any::<u32>(),
        (prop::sample::select(vec![isn.0, isn.1, isn.2, k]), -3i32..4)
            .prop_map(|(b, d)| b.wrapping_add_signed(d)),
    ]
}

#[derive(Clone, Debug)]
struct Said {
    kind: Kind,
    flow: FlowId,
    fields: Fields,
    head: (u32, u32, u8),
    dport: u16,
    body: Vec<u8>,
}

fn said(isn: (u32, u32, u32)) -> impl Strategy<Value = Said> {
    use Kind::*;
    let kinds = vec![
        Splice, Accept, Refuse, Continue, Data, Forward, EndMark, EndAck, Abort, Aborted, FlowEnd,
    ];
    let state = (
        prop::array::uniform8(near(isn)),
        (
            any::<u16>(),
            any::<u16>(),
            0u8..15,
            0u8..15,
            any::<[bool; 4]>(),
        ),
    )
        .prop_map(
            |(n, (window, mss, client_shift, promised_shift, b))| SpliceState {
                c_base: n[0],
                s_base: n[1],
                cut: n[2],
                ts_max: n[3],
                client_ack: n[4],
                ts_recent: n[5],
                rtt_us: n[6],
                last_ack: n[7],
                window,
                mss,
                client_shift,
                promised_shift,
                wscale: b[0],
                sack: b[1],
                timestamps: b[2],
                client_fin: b[3],
                next_hop: CLIENT_MAC,
            },
        );
    // A state that hangs together is let through further.
    let plausible = (state.clone(), 0u32..2_000).prop_map(move |(mut st, n)| {
        st.c_base = isn.0;
        st.s_base = isn.1;
        st.cut = isn.0.wrapping_add(1 + n);
        st
    });
    let flow = (prop::bool::weighted(0.8), near(isn), near(isn), 1u32..4).prop_map(
        move |(own, c, s, number)| FlowId {
            client: sock(CLIENT, CPORT),
            vip: sock(VIP, 80),
            c_isn: if own { isn.0 } else { c },
            s_isn: if own { isn.1 } else { s },
            source: 1,
            source_incarnation: 1001,
            number: if own { 1 } else { number },
        },
    );
    let body = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..80),
        (any::<(i8, i8)>(), any::<u8>(), 0usize..40, 0usize..3)
            .prop_map(move |(off, flags, len, i)| valid(i, isn, off, flags, len).1[14..].to_vec()),
        Just(GET.to_vec()),
    ];
    (
        prop::sample::select(kinds),
        flow,
        prop::option::of(prop_oneof![state, plausible]),
        prop::option::of((1u8..11).prop_map(|r| Reason::from_u8(r).unwrap())),
        prop::option::of(prop::sample::select(vec![
            Replay::FastOpen,
            Replay::Handshake,
        ])),
        (near(isn), near(isn), any::<u8>()),
        prop::sample::select(vec![8080u16, 61_000, 61_001, 8001, 80]),
        body,
    )
        .prop_map(|(kind, flow, state, reason, replay, head, dport, body)| {
            let mut head = head;
            if let Some(st) = state
                && kind == Kind::Splice
            {
                head.0 = st.c_base;
            }
            Said {
                kind,
                flow,
                fields: Fields {
                    state,
                    reason,
                    replay,
                },
                head,
                dport,
                body,
            }
        })
}

impl Said {
    /// As node `from` says it to node `to`, authentic.
    fn frame(&self, from: u16, to: u16, counter: u64) -> Vec<u8> {
        let header = Header {
            kind: self.kind,
            key_id: 1,
            sender: from,
            worker: 0,
            sender_incarnation: 1000 + u64::from(from),
            receiver_incarnation: 1000 + u64::from(to),
            counter,
            flow: self.flow,
        };
        let mut payload = vec![];
        block::write(&mut payload, &header, &self.fields);
        payload.extend(&self.body);
        let ip = |n: u16| Addr::from(on_link(n));
        let c = crate::handover::message::context(&ip(from), &ip(to), 8080, self.dport, self.head);
        block::seal(&mut payload, &LinkKey::new(1, KEY), &c);
        Tcp {
            eth_dst: [2, 0, 0, 0, 1, to as u8],
            eth_src: [2, 0, 0, 0, 1, from as u8],
            src: ip(from),
            dst: ip(to),
            sport: 8080,
            dport: self.dport,
            seq: self.head.0,
            ack: self.head.1,
            flags: self.head.2,
            window: 0,
            opts: Build::default(),
            payload: &payload,
        }
        .frame()
    }
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn random_bytes(i in 0..SITUATIONS, frames in prop::collection::vec((0usize..4, prop::collection::vec(any::<u8>(), 0..120)), 1..12)) {
        let mut n = situation(i);
        for (port, f) in frames {
            n.rx(PORTS[port], f);
        }
        settle(n);
    }

    #[test]
    fn mutated_frames(
        i in 0..SITUATIONS,
        frames in prop::collection::vec(
            (0usize..8, any::<(i8, i8)>(), any::<u8>(), 0usize..40, prop::collection::vec((0usize..100, any::<u8>()), 0..4), any::<bool>(), prop::option::of(0usize..110), 0u64..40),
            1..16),
    ) {
        let isn = ISNS[i % ISNS.len()];
        let mut n = situation(i);
        for (kind, off, flags, len, flips, repair, cut, wait) in frames {
            let (port, mut f) = valid(kind, isn, off, flags, len);
            let (l4, end) = (tcp_at(&f), f.len());
            for (at, v) in flips {
                f[at % end] ^= v;
            }
            if repair {
                edit::write_tcp_checksum(&mut f, l4, end);
            }
            if let Some(cut) = cut {
                f.truncate(cut);
            }
            n.rx(port, f);
            n.pass(wait);
        }
        settle(n);
    }

    #[test]
    fn authentic_messages_of_any_content(
        (i, said) in (0..SITUATIONS).prop_flat_map(|i| (Just(i), prop::collection::vec((said(ISNS[i % ISNS.len()]), 0u64..60, 0usize..8, any::<(i8, i8)>(), any::<u8>()), 1..16))),
    ) {
        let isn = ISNS[i % ISNS.len()];
        let mut n = situation(i);
        let me = n.v.node;
        for (at, (m, wait, kind, off, flags)) in said.into_iter().enumerate() {
            n.rx(Port::Link, m.frame(3 - me, me, 5_000 + at as u64));
            let (port, f) = valid(kind, isn, off, flags, 10);
            n.rx(port, f);
            n.pass(wait);
        }
        settle(n);
    }
}
