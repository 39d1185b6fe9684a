//! A destination whose window shift is not the one that the client was promised
//! (rules 3 and 4).

use super::*;
use proptest::prelude::*;

/// Served by a stack of shift `local` where the client was promised `promised`.
fn served_with(local: u8, promised: u8) -> Pair {
    let synack = Build {
        wscale: Some(promised),
        ..synack_opts(5000, 100)
    };
    let a = established_as(view(1, 1), 1000, 9000, syn_opts(100), synack);
    let mut p = Pair::frozen_on(a, Node::new(view(2, 1)), 1000, 9000, 50);
    p.splice_to(2);
    p.link();
    let syn = p.b.one(Port::WireHost);
    assert_eq!((syn.seg.flags, syn.seg.window), (SYN, 0), "rule 5");
    let o = Build {
        wscale: Some(local),
        ..synack_opts(777, 130)
    };
    let f = p.synack(o);
    p.b.rx(Port::WireHost, f);
    p.link();
    assert!(matches!(p.a.events()[..], [Event::Done { .. }]));
    p.b.told();
    p.b.tx(Port::Wire);
    p
}

/// The window field that the client gets for the stack's.
fn told(p: &mut Pair, ack: u32, window: u16) -> u16 {
    // As if it answered a segment: an unasked repetition would stay here.
    p.b.s.slots.iter_mut().for_each(|f| f.spoken_to = true);
    p.b.rx(
        Port::WireHost,
        host(8080, 51, ack, ACK, window, ts(780, 130), b""),
    );
    p.b.one(Port::Wire).seg.window
}

#[test]
fn windows_are_told_in_the_promised_unit() {
    for (local, promised, cases) in [
        (7, 7, [(510u16, 510u16), (1, 1), (65_535, 65_535)]),
        (10, 7, [(100, 800), (8_191, 65_528), (8_192, 65_535)]),
        (2, 7, [(32_000, 1_000), (32_768, 1_024), (65_535, 2_047)]),
        (0, 7, [(32_000, 250), (64_000, 500), (65_535, 511)]),
        (0, 14, [(32_768, 2), (49_152, 3), (65_535, 3)]),
        (14, 0, [(1, 16_384), (3, 49_152), (4, 65_535)]),
    ] {
        let mut p = served_with(local, promised);
        // Far behind what was promised before, so that only the units count.
        let mut ack = p.k();
        for (window, want) in cases {
            ack = ack.wrapping_add(1 << 21);
            assert_eq!(
                told(&mut p, ack, window),
                want,
                "{local} told as {promised}"
            );
        }
    }
}

#[test]
fn a_closed_window_is_told_as_closed() {
    for (local, promised) in [(7, 7), (10, 7), (2, 7), (0, 14)] {
        let mut p = served_with(local, promised);
        let k = p.k();
        assert!(told(&mut p, k.wrapping_add(100_000), 65_535) > 0);
        assert_eq!(
            told(&mut p, k.wrapping_add(100_000 + (65_535 << local)), 0),
            0
        );
    }
}

#[test]
fn the_window_of_a_synack_is_never_scaled() {
    let mut n = Node::new(view(1, 1));
    n.v.params.first_window = 60_000;
    n.rx(Port::Wire, client(1000, 0, SYN, syn_opts(100), b""));
    n.tx(Port::WireHost);
    for (w, want) in [(1_000, 1_000), (29_200, 29_200), (65_160, 59_776)] {
        n.rx(
            Port::WireHost,
            host(8001, 9000, 1001, SYN | ACK, w, synack_opts(5000, 100), b""),
        );
        assert_eq!(n.one(Port::Wire).seg.window, want);
    }
}

#[test]
fn the_windows_of_client_segments_pass_as_they_are() {
    let mut p = served_with(2, 7);
    let f = client(p.k(), 9001, ACK, ts(140, 5012), b"");
    p.b.rx(Port::Wire, f);
    assert_eq!(p.b.one(Port::WireHost).seg.window, 502);
}

/// Against a plain model without any modulus: what the client is told is the stack's
/// window in whole units, rounded up only where rounding down would take back what was
/// told before. The edge is then never a unit beyond the stack's, and it never retreats
/// by a unit; where the stack's unit is not the finer one, it never retreats at all.
/// (More is not to be had: an edge that never retreats although acknowledgements open
/// nothing would run away from the stack's by a part of a unit with each of them.)
fn walk(local: u8, promised: u8, steps: &[(u32, u32)]) -> Result<(), TestCaseError> {
    let mut p = served_with(local, promised);
    let (base, unit) = (p.k(), 1i64 << promised);
    let slot =
        p.b.s
            .slots
            .iter()
            .position(|f| f.state == State::Served)
            .unwrap();
    // All counted from K. The edges that the SYN-ACK and the cut over promised.
    let mut ack = 0i64;
    let mut right = 65_160 - GET.len() as i64;
    let mut most = i64::from(p.b.s.slots[slot].c_edge.wrapping_sub(base) as i32);
    let mut told_edge = 0;
    for &(more, open) in steps {
        ack += i64::from(more).min(right - ack);
        // The stack's edge in the stack's own unit; it never retreats.
        let room = (right + i64::from(open) - ack).clamp(0, 65_535 << local);
        let field = ((room + (1 << local) - 1) >> local).min(65_535);
        let bytes = field << local;
        right = ack + bytes;
        let w = i64::from(told(&mut p, base.wrapping_add(ack as u32), field as u16));
        let (down, up) = (bytes / unit, (bytes + unit - 1) / unit);
        let want = if ack + down * unit < most { up } else { down };
        prop_assert_eq!(
            w,
            want.min(65_535),
            "ack {}, {} bytes, most {}",
            ack,
            bytes,
            most
        );
        let edge = ack + w * unit;
        prop_assert!(
            edge < right + unit,
            "{} beyond the stack's edge",
            edge - right
        );
        prop_assert!(told_edge - edge < unit, "retreats by {}", told_edge - edge);
        prop_assert!(
            local < promised || edge >= told_edge,
            "retreats by {}",
            told_edge - edge
        );
        told_edge = edge;
        most = most.max(edge);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_right_edge_never_retreats_by_rounding(
        shifts in (0u8..=14, 0u8..=14),
        steps in prop::collection::vec((0u32..3_000, prop_oneof![Just(0u32), 0u32..4_000]), 1..120),
    ) {
        walk(shifts.0, shifts.1, &steps)?;
    }
}

/// Chance alone would leave some pairs out.
#[test]
fn the_right_edge_keeps_its_bound_for_every_pair_of_shifts() {
    let steps: Vec<_> = (0..40u32)
        .map(|i| (i * 797 % 3_000, i * 1_237 % 4_001 * (i % 3)))
        .collect();
    for local in 0..=14 {
        for promised in 0..=14 {
            walk(local, promised, &steps).unwrap_or_else(|e| panic!("{local}, {promised}: {e}"));
        }
    }
}
