//! The usual way of a segment is the long one: the same frames leave, the same is
//! counted and the same is noted.

use super::testkit::*;
use crate::ahead::{Ahead, Looked};
use crate::drops::Drop;
use crate::frame::{Checksum, Frame, Meta, Port};
use crate::shard::Shard;
use crate::time::Span;
use crate::wire::edit;
use crate::wire::tcp::{ACK, FIN, PSH, RST, SYN, URG};
use proptest::prelude::*;

/// The ISN of node 2's stack.
const L_ISN: i64 = 50;

/// A flow that node 2 serves since long ago.
fn settled() -> (Node, u32, u32) {
    settled_from((1000, 9000, L_ISN as u32))
}

fn settled_from((c, s, l): (u32, u32, u32)) -> (Node, u32, u32) {
    let mut p = Pair::served(c, s, l);
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
    let mut looked = Looked::default();
    looked.read(&n.v, port, [(frame, true)].into_iter());
    assert_eq!(n.s.look(&n.v, &mut looked), 0);
    n.s.ask_for(&looked, 0);
    let a = looked.ahead(0);
    assert!(a.slot().is_some());
    a
}

/// A frame of either side as both repeat and vary it, in numbers relative to where the
/// flow stands.
#[derive(Clone, Debug)]
struct Said {
    by_host: bool,
    seq: i32,
    ack: i32,
    len: usize,
    flags: u8,
    window: u16,
    ts: Option<(u32, u32)>,
    /// SACK blocks: left edges from K, or from the middle of the answer, and lengths.
    sack: Vec<(i32, i32)>,
    times: usize,
    /// Milliseconds before each.
    pause: u64,
    meta: u8,
    odd: u8,
}

fn said() -> impl Strategy<Value = Said> {
    let near = || prop_oneof![3 => Just(0i32), 1 => -3..4, 1 => -40i32..1200];
    let len = prop_oneof![3 => Just(0usize), 1 => 0usize..3, 1 => 3usize..90];
    let flags = prop_oneof![4 => Just(ACK), 1 => Just(ACK | PSH), 1 => any::<u8>()];
    let window = prop_oneof![3 => Just(510u16), 1 => any::<u16>()];
    let ts = prop_oneof![
        3 => Just(Some((779u32, 130u32))),
        2 => Just(None),
        1 => any::<(u32, u32)>().prop_map(Some),
        1 => any::<u32>().prop_map(|a| Some((a, 0))),
    ];
    let sack = prop_oneof![3 => Just(0usize), 2 => Just(1usize), 1 => 2usize..5]
        .prop_flat_map(|n| prop::collection::vec((-40i32..60, 0i32..40), n));
    let times = prop_oneof![5 => Just(1usize), 1 => 1usize..40];
    let pause = prop_oneof![3 => Just(0u64), 1 => 0u64..400];
    let what = (any::<bool>(), near(), near(), len, flags, window, ts);
    (what, (sack, times, pause, 0u8..12, 0u8..16)).prop_map(|(what, how)| {
        let (by_host, seq, ack, len, flags, window, ts) = what;
        let (sack, times, pause, meta, odd) = how;
        Said {
            by_host,
            seq,
            ack,
            len,
            flags,
            window,
            ts,
            sack,
            times,
            pause,
            meta,
            odd,
        }
    })
}

impl Said {
    fn options(&self, isns: (u32, u32, u32)) -> Vec<u8> {
        let mut o = Vec::new();
        if let Some((val, ecr)) = self.ts {
            o.extend([1, 1, 8, 10]);
            o.extend(val.to_be_bytes());
            o.extend(ecr.to_be_bytes());
        }
        let n = self.sack.len().min(if self.ts.is_some() { 3 } else { 4 });
        if n > 0 {
            o.extend([1, 1, 5, (2 + 8 * n) as u8]);
        }
        for &(left, len) in &self.sack[..n] {
            let base = if self.by_host {
                isns.0.wrapping_add(1 + GET.len() as u32)
            } else {
                isns.1.wrapping_add(500)
            };
            let left = base.wrapping_add(left as u32);
            o.extend(left.to_be_bytes());
            o.extend(left.wrapping_add(len as u32).to_be_bytes());
        }
        o
    }

    fn frame(&self, isns: (u32, u32, u32)) -> Pieces {
        let opts = self.options(isns);
        let payload = [opts.clone(), vec![7; self.len]].concat();
        let k = isns.0.wrapping_add(1 + GET.len() as u32);
        let answered = if self.odd < 12 { 1001 } else { 1 };
        let none = Default::default();
        let mut f = if self.by_host {
            let seq = isns.2.wrapping_add(answered).wrapping_add(self.seq as u32);
            let ack = k.wrapping_add(self.ack as u32);
            host(8080, seq, ack, self.flags, self.window, none, &payload)
        } else {
            let seq = k.wrapping_add(self.seq as u32);
            let ack = isns.1.wrapping_add(answered).wrapping_add(self.ack as u32);
            client(seq, ack, self.flags, none, &payload)
        };
        f[46] += (opts.len() as u8 / 4) << 4;
        // AE (RFC 9768).
        f[46] |= u8::from(self.odd == 3);
        let end = f.len();
        edit::write_tcp_checksum(&mut f, L4, end);
        if self.odd == 5 && f.len() < 80 {
            f.resize(80, 0);
        }
        let mut pieces = if self.meta == 7 {
            Pieces::of(&f, 5)
        } else {
            Pieces::cut(&f, &[])
        };
        let checksum = match self.meta {
            1 if self.by_host => Checksum::Partial,
            2 => Checksum::Bad,
            3 => Checksum::Good,
            _ => pieces.meta().checksum,
        };
        let large = self.meta == 1 && self.by_host && self.len > 20;
        let tso = large.then_some(10);
        pieces.set_meta(Meta { checksum, tso });
        pieces
    }
}

/// Gives both what is said; they do the same, and tell of it alike.
fn both(short: &mut Node, long: &mut Node, isns: (u32, u32, u32), x: &Said) {
    let port = if x.by_host {
        Port::WireHost
    } else {
        Port::Wire
    };
    for _ in 0..x.times {
        short.now = short.now + Span::millis(x.pause);
        long.now = short.now;
        let pieces = x.frame(isns);
        short.rx_pieces(port, pieces.clone());
        long.s
            .ingress(&long.v, port, pieces, long.now, &mut long.out);
        for port in Port::ALL {
            let metas = |n: &Node| n.out.metas[port.index()].clone();
            assert_eq!(metas(short), metas(long), "{x:?}");
            assert_eq!(short.tx(port), long.tx(port), "{x:?}");
        }
        assert_eq!(all_of(&short.s), all_of(&long.s), "{x:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    /// The same in rows, with pauses, next to the wraps of all numbers.
    #[test]
    fn and_so_it_is_in_rows(
        isns in prop::sample::select(ISNS.to_vec()),
        mut all in prop::collection::vec(said(), 1..25),
        alternating in 0usize..40,
    ) {
        let ((mut short, ..), (mut long, ..)) = (settled_from(isns), settled_from(isns));
        for i in 0..alternating {
            let mut x = all[i % 2 % all.len()].clone();
            (x.times, x.by_host) = (1, i % 2 == 0);
            x.pause %= 3;
            all.push(x);
        }
        for x in &all {
            both(&mut short, &mut long, isns, x);
        }
    }
}

#[test]
fn storms_and_repetitions_end_alike() {
    let isns = ISNS[0];
    let ((mut short, ..), (mut long, ..)) = (settled_from(isns), settled_from(isns));
    let ack = |by_host| Said {
        by_host,
        seq: 0,
        ack: 0,
        len: 0,
        flags: ACK,
        window: 510,
        ts: Some((779, 130)),
        sack: Vec::new(),
        times: 1,
        pause: 0,
        meta: 0,
        odd: 0,
    };
    for x in [ack(true), ack(true)] {
        both(&mut short, &mut long, isns, &x);
    }
    assert!(short.s.drops.get(Drop::AckRepeated) > 0);
    for i in 0..100 {
        both(&mut short, &mut long, isns, &ack(i % 2 == 0));
    }
    assert!(short.s.drops.get(Drop::AckStorm) > 0);
}
