//! The breaker of ACK storms (rule 13), and what must never trip it.

use super::*;

/// Served, the client has acknowledged all that the application sent.
fn quiet(c: u32, s: u32, l: u32) -> Pair {
    let mut p = Pair::served(c, s, l);
    p.answer(100);
    let f = client(p.k(), p.s1().wrapping_add(100), ACK, ts(150, 779), b"");
    p.b.rx(Port::Wire, f);
    p.b.tx(Port::WireHost);
    p
}

/// A bare ACK of either side, `off` from the numbers that the other one expects.
fn from_client(p: &Pair, off: i32, window: u16, t: u32) -> Vec<u8> {
    let seq = p.k().wrapping_add_signed(off);
    let mut f = client(seq, p.s1().wrapping_add(100), ACK, ts(t, 779), b"");
    let end = f.len();
    f[L4 + 14..L4 + 16].copy_from_slice(&window.to_be_bytes());
    edit::write_tcp_checksum(&mut f, L4, end);
    f
}

fn from_stack(p: &Pair, off: i32, window: u16, t: u32) -> Vec<u8> {
    let seq = p.l1().wrapping_add(100).wrapping_add_signed(off);
    host(8080, seq, p.k(), ACK, window, ts(t, 150), b"")
}

/// Both sides in turn, `gap` ms apart; how many frames got through.
fn alternate(p: &mut Pair, turns: u32, gap: u64, off: i32) -> usize {
    let mut through = 0;
    for i in 0..turns {
        let (x, y) = (from_client(p, off, 502, 200 + i), {
            from_stack(p, 0, 510, 800 + i)
        });
        p.b.rx(Port::Wire, x);
        through += p.b.tx(Port::WireHost).len();
        p.b.pass(gap);
        p.b.rx(Port::WireHost, y);
        through += p.b.tx(Port::Wire).len();
        p.b.pass(gap);
    }
    through
}

fn storms(p: &Pair) -> u64 {
    p.b.s.drops.get(Drop::AckStorm)
}

#[test]
fn a_storm_is_cut_off_counted_and_over_after_a_pause_or_progress() {
    for (c, s, l) in ISNS {
        let mut p = quiet(c, s, l);
        let through = alternate(&mut p, 1_000, 0, -7);
        assert!((30..=34).contains(&through), "{through}");
        assert_eq!(through as u64 + storms(&p), 2_000, "every frame is counted");
        // Data passes at once, both ways, and ends it.
        let f = client(
            p.k(),
            p.s1().wrapping_add(100),
            ACK | PSH,
            ts(900, 779),
            b"x",
        );
        p.b.rx(Port::Wire, f);
        assert_eq!(p.b.one(Port::WireHost).payload, b"x");
        let before = storms(&p);
        let f = from_stack(&p, 0, 510, 1_900);
        p.b.rx(Port::WireHost, f);
        assert_eq!((p.b.tx(Port::Wire).len(), storms(&p)), (1, before));
        // So does a number that moves, or a window, in the middle of another one.
        alternate(&mut p, 100, 0, -7);
        let before = storms(&p);
        for f in [from_client(&p, -6, 502, 950), from_client(&p, -6, 501, 951)] {
            p.b.rx(Port::Wire, f);
            assert_eq!(p.b.tx(Port::WireHost).len(), 1);
        }
        assert_eq!(storms(&p), before);
        // And a pause.
        alternate(&mut p, 100, 0, -7);
        let before = storms(&p);
        p.b.pass(200);
        let f = from_client(&p, -7, 502, 990);
        p.b.rx(Port::Wire, f);
        assert_eq!((p.b.tx(Port::WireHost).len(), storms(&p)), (1, before));
    }
}

#[test]
fn a_storm_at_the_intake_is_cut_off_too() {
    let mut n = established(1000, 9000);
    let mut through = 0;
    for i in 0..500 {
        n.rx(Port::Wire, client(990, 9001, ACK, ts(130 + i, 5000), b""));
        through += n.tx(Port::WireHost).len();
        let f = host(8001, 9001, 1001, ACK, 500, ts(5010 + i, 130), b"");
        n.rx(Port::WireHost, f);
        through += n.tx(Port::Wire).len();
    }
    assert!((30..=34).contains(&through), "{through}");
    assert_eq!(n.s.drops.get(Drop::AckStorm), 1_000 - through as u64);
}

#[test]
fn keepalives_and_their_answers_do_not_trip() {
    let mut p = quiet(1000, 9000, 50);
    // Every second for ten minutes (the least that Linux allows), from both sides.
    assert_eq!(alternate(&mut p, 300, 1_000, -1), 600);
    assert_eq!(storms(&p), 0);
}

#[test]
fn window_probes_do_not_trip() {
    // The first one after 5 ms, as with a retransmission timer of a data centre.
    let mut p = quiet(1000, 9000, 50);
    let mut gap = 5;
    for i in 0..24 {
        let (x, y) = (
            from_client(&p, -1, 502, 200 + i),
            from_stack(&p, 0, 0, 800 + i),
        );
        p.b.rx(Port::Wire, x);
        assert_eq!(p.b.tx(Port::WireHost).len(), 1, "probe {i}");
        p.b.rx(Port::WireHost, y);
        assert_eq!(p.b.tx(Port::Wire).len(), 1, "answer {i}");
        p.b.pass(gap);
        gap = (gap * 2).min(2_000);
    }
    assert_eq!(storms(&p), 0);
}

#[test]
fn window_updates_do_not_trip() {
    let mut p = quiet(1000, 9000, 50);
    for i in 0..500u16 {
        let x = from_client(&p, 0, 400 + i, 200);
        p.b.rx(Port::Wire, x);
        assert_eq!(p.b.tx(Port::WireHost).len(), 1);
        let y = from_stack(&p, 0, 400 + i, 800);
        p.b.rx(Port::WireHost, y);
        assert_eq!(p.b.tx(Port::Wire).len(), 1);
    }
    assert_eq!(storms(&p), 0);
}

#[test]
fn duplicate_acks_of_a_loss_do_not_trip() {
    // Without SACK: many equal ACKs of the client, data of the application between.
    let mut p = quiet(1000, 9000, 50);
    let body = [b'd'; 100];
    for i in 0..200u32 {
        let seq = p.l1().wrapping_add(100 + i * 100);
        let f = host(8080, seq, p.k(), ACK, 510, ts(800, 150), &body);
        p.b.rx(Port::WireHost, f);
        assert_eq!(p.b.tx(Port::Wire).len(), 1);
        let x = from_client(&p, 0, 502, 200);
        p.b.rx(Port::Wire, x);
        assert_eq!(p.b.tx(Port::WireHost).len(), 1);
    }
    // And many in a row, with nothing from the other side.
    for _ in 0..200 {
        let x = from_client(&p, 0, 502, 200);
        p.b.rx(Port::Wire, x);
        assert_eq!(p.b.tx(Port::WireHost).len(), 1);
    }
    assert_eq!(storms(&p), 0);
}

#[test]
fn sack_and_dsack_do_not_trip() {
    let mut p = quiet(1000, 9000, 50);
    for i in 0..200u32 {
        let edge = p.s1().wrapping_add(200);
        let f = client(p.k(), p.s1().wrapping_add(100), ACK, Build::default(), b"");
        let f = with_options(&f, &sack(2, &[(edge, edge.wrapping_add(100))]));
        p.b.rx(Port::Wire, f);
        assert_eq!(p.b.tx(Port::WireHost).len(), 1, "{i}");
        // The stack tells of a duplicate above K.
        let k = p.k();
        let f = host(
            8080,
            p.l1().wrapping_add(100),
            k,
            ACK,
            510,
            Build::default(),
            b"",
        );
        let f = with_options(&f, &sack(2, &[(k.wrapping_sub(1), k.wrapping_add(1))]));
        p.b.rx(Port::WireHost, f);
        assert_eq!(p.b.tx(Port::Wire).len(), 1, "{i}");
    }
    assert_eq!(storms(&p), 0);
}
