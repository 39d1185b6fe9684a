//! The usual way of a segment is the long one: the same frames leave, the same is
//! counted and the same is noted.

use super::testkit::*;
use crate::ahead::Ahead;
use crate::frame::{Checksum, Frame, Meta, Port};
use crate::shard::Shard;
use crate::wire::edit;
use crate::wire::tcp::{ACK, FIN, PSH, RST, SYN, URG};
use proptest::prelude::*;

/// The ISN of node 2's stack.
const L_ISN: i64 = 50;

/// A flow that node 2 serves since long ago.
fn settled() -> (Node, u32, u32) {
    let mut p = Pair::served(1000, 9000, L_ISN as u32);
    p.answer(1000);
    let (c, s) = (p.k(), p.s1());
    let slot = p.b.s.slots.iter().position(|f| f.dest.is_some()).unwrap();
    p.b.s.slots[slot].held = Default::default();
    p.b.s.slots[slot].timer = None;
    p.b.s.settle(slot as u32);
    assert!(p.b.s.slots[slot].is_bare());
    (p.b, c, s)
}

/// What a shard has become, as far as it can be seen.
fn all_of(s: &Shard) -> String {
    format!("{:?} {:?} {:?}", s.slots, s.drops, s.count_states())
}

fn options() -> impl Strategy<Value = Vec<u8>> {
    let ts = |a: u32, b: u32| {
        let mut o = vec![1, 1, 8, 10];
        o.extend(a.to_be_bytes());
        o.extend(b.to_be_bytes());
        o
    };
    let sack = |l: u32| {
        let mut o = vec![1, 1, 5, 10];
        o.extend(l.to_be_bytes());
        o.extend(l.wrapping_add(500).to_be_bytes());
        o
    };
    prop_oneof![
        Just(Vec::new()),
        (100u32..200, 0u32..9000).prop_map(move |(a, b)| ts(a, b)),
        (100u32..200, 0u32..9000, 8000u32..11000)
            .prop_map(move |(a, b, l)| [ts(a, b), sack(l)].concat()),
        (8000u32..11000).prop_map(sack),
        Just([&[32, 12][..], &[0; 10]].concat()),
        Just([&[19, 18][..], &[0; 18]].concat()),
        Just(vec![1, 1, 1, 3]),
        prop::collection::vec(any::<u8>(), 0..10).prop_map(|mut o| {
            o.resize(o.len().next_multiple_of(4), 0);
            o
        }),
    ]
}

/// A frame of the client, or nearly so.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let flags = prop_oneof![
        5 => Just(ACK),
        3 => Just(ACK | PSH),
        1 => prop_oneof![Just(ACK | FIN), Just(RST), Just(SYN), Just(ACK | URG), any::<u8>()],
    ];
    let numbers = (-3i64..1500, -3i64..1500, 0usize..40);
    let damage = prop_oneof![4 => Just(None), 1 => (0usize..60, any::<u8>()).prop_map(Some)];
    (flags, numbers, options(), damage, any::<bool>()).prop_map(
        |(flags, (ds, da, len), opts, damage, pad)| {
            let (seq, ack) = (1029i64 + ds.min(9), 9001 + da);
            let payload = [opts.clone(), vec![7; len]].concat();
            let none = Default::default();
            let mut f = client(seq as u32, ack as u32, flags, none, &payload);
            f[46] += (opts.len() as u8 / 4) << 4;
            let end = f.len();
            edit::write_tcp_checksum(&mut f, L4, end);
            if pad && f.len() < 60 {
                f.resize(60, 0);
            }
            if let Some((at, v)) = damage
                && at < f.len()
            {
                f[at] = v;
            }
            f
        },
    )
}

/// A frame of the stack of node 2, or nearly so.
fn answers() -> impl Strategy<Value = Vec<u8>> {
    let flags = prop_oneof![
        5 => Just(ACK),
        3 => Just(ACK | PSH),
        1 => prop_oneof![Just(ACK | FIN), Just(RST), Just(SYN | ACK), Just(ACK | URG), any::<u8>()],
    ];
    let numbers = (-3i64..1500, -3i64..40, 0usize..40, 0u16..600);
    let damage = prop_oneof![4 => Just(None), 1 => (0usize..60, any::<u8>()).prop_map(Some)];
    (flags, numbers, options(), damage).prop_map(|(flags, (ds, da, len, window), opts, damage)| {
        let (seq, ack) = (L_ISN + 1 + ds, 1029i64 + da.min(9));
        let payload = [opts.clone(), vec![7; len]].concat();
        let none = Default::default();
        let mut f = host(8080, seq as u32, ack as u32, flags, window, none, &payload);
        f[46] += (opts.len() as u8 / 4) << 4;
        let end = f.len();
        edit::write_tcp_checksum(&mut f, L4, end);
        if let Some((at, v)) = damage
            && at < f.len()
        {
            f[at] = v;
        }
        f
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn the_usual_way_is_the_long_one(
        frames in prop::collection::vec(
            prop_oneof![
                frames().prop_map(|f| (Port::Wire, f)),
                answers().prop_map(|f| (Port::WireHost, f)),
            ],
            1..12,
        ),
        partial in prop_oneof![3 => Just(false), 1 => Just(true)],
    ) {
        let ((mut short, ..), (mut long, ..)) = (settled(), settled());
        prop_assert_eq!(all_of(&short.s), all_of(&long.s));
        for (port, f) in frames {
            let mut pieces = Pieces::of(&f, short.out.seed);
            prop_assert_eq!(pieces.len(), f.len());
            if partial && port == Port::WireHost {
                let meta = pieces.meta();
                pieces.set_meta(Meta { checksum: Checksum::Partial, ..meta });
            }
            short.rx_pieces(port, pieces.clone());
            long.s.ingress(&long.v, port, pieces, long.now, &mut long.out);
            for port in Port::ALL {
                prop_assert_eq!(short.tx(port), long.tx(port), "{:02x?}", f);
            }
            prop_assert_eq!(all_of(&short.s), all_of(&long.s), "{:02x?}", f);
        }
    }
}

#[test]
fn most_segments_take_the_usual_way() {
    let (mut n, c, s) = settled();
    let f = client(c, s, ACK, ts(140, 777), b"");
    let a = ahead(&mut n, Port::Wire, &f);
    let left =
        n.s.usual_in(&n.v, &a, Pieces::cut(&f, &[]), n.now, &mut n.out);
    assert!(left.is_none(), "{a:?}");
    assert_eq!(n.one(Port::WireHost).seg.dport, 8080);
}

#[test]
fn most_answers_take_the_usual_way() {
    let (mut n, c, _) = settled();
    let seq = L_ISN as u32 + 1;
    let f = host(8080, seq, c, ACK, 500, ts(60, 140), b"an answer");
    let a = ahead(&mut n, Port::WireHost, &f);
    let left =
        n.s.usual_out(&n.v, &a, Pieces::cut(&f, &[]), n.now, &mut n.out);
    assert!(left.is_none(), "{a:?}");
    assert_eq!(n.one(Port::Wire).seg.sport, 80);
}

fn ahead(n: &mut Node, port: Port, frame: &[u8]) -> Ahead {
    let mut a = n.s.look(&n.v, port, frame, true);
    n.s.look_on(&n.v, std::slice::from_mut(&mut a));
    assert!(!n.s.look_closer(&a));
    n.s.ask_for(&mut a);
    assert!(a.slot().is_some());
    a
}
