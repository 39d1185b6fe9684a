use super::*;

fn header(kind: Kind) -> Header {
    Header {
        kind,
        key_id: 1,
        sender: 2,
        worker: 3,
        sender_incarnation: 0x1122_3344_5566_7788,
        receiver_incarnation: 0x99aa_bbcc_ddee_ff00,
        counter: 42,
        flow: FlowId {
            client: v4([10, 77, 0, 200], 40000),
            vip: v4([10, 77, 0, 100], 80),
            c_isn: 0xffff_fff0,
            s_isn: 0x7fff_ffff,
            source: 2,
            source_incarnation: 0x1122_3344_5566_7788,
            number: 7,
        },
    }
}

fn state() -> SpliceState {
    SpliceState {
        c_base: 0xffff_fff0,
        s_base: 0x7fff_ffff,
        cut: 0x50,
        ts_max: 9,
        client_ack: 0x8000_0000,
        ts_recent: 5,
        rtt_us: 1234,
        last_ack: 0x40,
        window: 502,
        mss: 1460,
        client_shift: 7,
        promised_shift: 7,
        wscale: true,
        sack: true,
        timestamps: true,
        client_fin: false,
        next_hop: [2, 0, 0, 0, 0, 9],
    }
}

fn sealed(kind: Kind, body: &[u8]) -> (Vec<u8>, LinkKey) {
    let key = LinkKey::new(1, b"0123456789abcdef");
    let mut p = Vec::new();
    write(
        &mut p,
        &header(kind),
        &Fields {
            state: Some(state()),
            reason: Some(Reason::Busy),
            replay: Some(Replay::Handshake),
        },
    );
    p.extend_from_slice(body);
    seal(&mut p, &key, b"ctx");
    (p, key)
}

#[test]
fn value_bytes_value() {
    let (p, key) = sealed(Kind::Splice, b"GET / HTTP/1.1\r\n");
    let (h, f, len) = open(&p, &[key], b"ctx").unwrap();
    assert_eq!(h, header(Kind::Splice));
    assert_eq!(f.state, Some(state()));
    assert_eq!(f.reason, Some(Reason::Busy));
    assert_eq!(f.replay, Some(Replay::Handshake));
    assert_eq!(&p[len..], b"GET / HTTP/1.1\r\n");
    assert_eq!(peek_client(&p), Some(v4([10, 77, 0, 200], 40000)));
}

#[test]
fn the_fixed_part_is_these_bytes() {
    let mut p = Vec::new();
    write(&mut p, &header(Kind::EndMark), &Fields::default());
    let golden =
        "d75b010700740100000000000000000000000000000000000002000311223344556677889 9aabbccddeeff00\
        000000000000002a04009c4000500000\
        00000000000000000000ffff0a4d00c800000000000000000000ffff0a4d0064\
        fffffff07fffffff00020000112233445566778800000007"
            .replace([' ', '\n'], "");
    let hex: String = p.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, golden);
}

#[test]
fn every_flipped_bit_is_a_forgery_or_malformed() {
    let (p, key) = sealed(Kind::Data, b"xyz");
    for bit in 0..p.len() * 8 {
        let mut q = p.clone();
        q[bit / 8] ^= 1 << (bit % 8);
        assert!(
            open(&q, std::slice::from_ref(&key), b"ctx").is_err(),
            "bit {bit}"
        );
    }
    assert_eq!(
        open(&p, std::slice::from_ref(&key), b"other"),
        Err(BlockError::Forged)
    );
    assert_eq!(
        open(&p, &[LinkKey::new(1, b"another key here")], b"ctx"),
        Err(BlockError::Forged)
    );
}

#[test]
fn truncation_never_panics() {
    let (p, key) = sealed(Kind::Splice, b"abc");
    for n in 0..p.len() {
        assert!(open(&p[..n], std::slice::from_ref(&key), b"ctx").is_err());
    }
}

#[test]
fn replays_and_old_counters_are_refused_and_reordering_is_not() {
    let mut w = ReplayWindow::default();
    assert!(!w.accept(0));
    for c in [1, 3, 2, 10, 5] {
        assert!(w.accept(c), "{c}");
        assert!(!w.accept(c), "{c} again");
    }
    assert!(w.accept(5000));
    assert!(!w.accept(5000 - ReplayWindow::SPAN));
    assert!(w.accept(5001 - ReplayWindow::SPAN));
    assert!(w.accept(4999));
    assert!(!w.accept(4999));
    assert!(w.accept(5000 + ReplayWindow::SPAN));
    assert!(w.accept(5001));
    assert!(!w.accept(5000));
}

fn v6_header() -> Header {
    let mut h = header(Kind::EndMark);
    h.flow.client = "[2001:db8::c1]:40000".parse().unwrap();
    h.flow.vip = "[2001:db8::64]:80".parse().unwrap();
    h
}

#[test]
fn an_ipv6_flow_is_these_bytes_and_comes_back() {
    let key = LinkKey::new(1, b"0123456789abcdef");
    let mut p = Vec::new();
    write(&mut p, &v6_header(), &Fields::default());
    let hex: String = p[52..100].iter().map(|b| format!("{b:02x}")).collect();
    let golden = "06009c4000500000\
        20010db80000000000000000000000c120010db8000000000000000000000064\
        fffffff07fffffff";
    assert_eq!(hex, golden);
    seal(&mut p, &key, b"ctx");
    let (h, _, len) = open(&p, &[key], b"ctx").unwrap();
    assert_eq!((h, len), (v6_header(), p.len()));
    assert_eq!(peek_client(&p), Some(v6_header().flow.client));
}

/// One address has one name: otherwise one connection could have two flows.
#[test]
fn a_family_that_is_not_the_address_s_is_malformed() {
    let key = LinkKey::new(1, b"0123456789abcdef");
    for (h, family) in [(header(Kind::EndMark), 6), (v6_header(), 4)] {
        let mut p = Vec::new();
        write(&mut p, &h, &Fields::default());
        p[52] = family;
        seal(&mut p, &key, b"ctx");
        let opened = open(&p, std::slice::from_ref(&key), b"ctx");
        assert_eq!(opened, Err(BlockError::Malformed));
        assert_eq!(peek_client(&p), None);
    }
}
