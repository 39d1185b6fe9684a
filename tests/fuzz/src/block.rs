//! The extension block: any bytes, any value, authentic noise, and the window of
//! counters against a plain set.

use crate::input::Input;
use dts_proto::block::{
    self, BlockError, FIXED_LEN, Fields, FlowId, Header, Kind, LinkKey, MAGIC, Reason, Replay,
    ReplayWindow, SpliceState, VERSION,
};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Runs one input: its first byte says which part.
pub fn run(data: &[u8]) {
    let mut u = Input::new(data);
    match u.next::<u8>() & 3 {
        0 => noise(u.rest()),
        1 => value(&mut u),
        2 => authentic_noise(&mut u),
        _ => counters(&mut u),
    }
}

fn keys() -> [LinkKey; 2] {
    [
        LinkKey::new(1, b"0123456789abcdef"),
        LinkKey::new(2, b"fedcba9876543210"),
    ]
}

fn noise(bytes: &[u8]) {
    let peeked = block::peek_client(bytes);
    assert!(peeked.is_none() || block::is_block(bytes));
    // Nobody guesses an authenticator.
    let opened = block::open(bytes, &keys(), b"context");
    assert!(opened.is_err(), "a forgery: {bytes:02x?}");
    if !block::is_block(bytes) {
        assert_eq!(opened, Err(BlockError::Absent));
    }
}

fn address(v4: bool, u: &mut Input<'_>) -> SocketAddr {
    let ip = if v4 {
        IpAddr::V4(Ipv4Addr::from(u.next::<[u8; 4]>()))
    } else {
        let mut b = u.next::<[u8; 16]>();
        // An IPv4-mapped address is IPv4 here.
        b[0] |= 1;
        IpAddr::V6(Ipv6Addr::from(b))
    };
    SocketAddr::new(ip, u.next())
}

fn message(u: &mut Input<'_>) -> (Header, Fields) {
    let b = u.next::<u8>();
    let bit = |n: u8| b & 1 << n != 0;
    let kinds = [
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
    let header = Header {
        kind: u.pick(&kinds),
        key_id: 1 + u8::from(bit(7)),
        sender: u.next(),
        worker: u.next(),
        sender_incarnation: u.next(),
        receiver_incarnation: u.next(),
        counter: u.next(),
        flow: FlowId {
            client: address(bit(0), u),
            vip: address(bit(0), u),
            c_isn: u.next(),
            s_isn: u.next(),
            source: u.next(),
            source_incarnation: u.next(),
            number: u.next(),
        },
    };
    let state = bit(1).then(|| SpliceState {
        c_base: u.next(),
        s_base: u.next(),
        cut: u.next(),
        ts_max: u.next(),
        client_ack: u.next(),
        ts_recent: u.next(),
        rtt_us: u.next(),
        last_ack: u.next(),
        window: u.next(),
        mss: u.next(),
        client_shift: u.next::<u8>() % 15,
        promised_shift: u.next::<u8>() % 15,
        wscale: bit(2),
        sack: bit(3),
        timestamps: bit(4),
        client_fin: bit(5),
        next_hop: u.next(),
    });
    let fields = Fields {
        state,
        reason: Reason::from_u8(u.next::<u8>() % 12),
        replay: [None, Some(Replay::FastOpen), Some(Replay::Handshake)][u.below(3)],
    };
    (header, fields)
}

/// Value, bytes, value; and every change of a byte is found.
fn value(u: &mut Input<'_>) {
    let (header, fields) = message(u);
    let keys = keys();
    let key = &keys[usize::from(header.key_id) - 1];
    let mut p = vec![];
    block::write(&mut p, &header, &fields);
    let len = p.len();
    let (at, x) = (usize::from(u.next::<u16>()), u.next::<u8>());
    p.extend_from_slice(u.rest());
    block::seal(&mut p, key, b"context");
    assert_eq!(
        block::open(&p, &keys, b"context"),
        Ok((header, fields, len))
    );
    assert_eq!(block::peek_client(&p), Some(header.flow.client));
    assert!(block::open(&p, &keys, b"contexu").is_err());
    let at = at % p.len();
    p[at] ^= x;
    assert_eq!(block::open(&p, &keys, b"context").is_ok(), x == 0);
}

/// A member's block may hold what this version does not know.
fn authentic_noise(u: &mut Input<'_>) {
    let keep = u.next::<u8>();
    let mut p = u.rest().to_vec();
    if p.len() < FIXED_LEN {
        return;
    }
    p[..2].copy_from_slice(&MAGIC.to_be_bytes());
    p[2] = VERSION;
    if keep & 1 == 0 {
        let n = p.len() as u16;
        p[4..6].copy_from_slice(&n.to_be_bytes());
    }
    p[6] = 1;
    block::seal(&mut p, &keys()[0], b"context");
    match block::open(&p, &keys(), b"context") {
        Ok((header, fields, len)) => {
            assert!((FIXED_LEN..=p.len()).contains(&len));
            assert_eq!(block::peek_client(&p), Some(header.flow.client));
            let mut again = vec![];
            block::write(&mut again, &header, &fields);
            block::seal(&mut again, &keys()[0], b"context");
            let n = again.len();
            let family = header.flow.client.is_ipv4() == header.flow.vip.is_ipv4();
            if family {
                let opened = block::open(&again, &keys(), b"context");
                assert_eq!(opened, Ok((header, fields, n)));
            }
        }
        Err(why) => assert_eq!(why, BlockError::Malformed),
    }
}

/// A counter is taken once, if it is not too far below the newest.
fn counters(u: &mut Input<'_>) {
    let mut window = ReplayWindow::default();
    let (mut seen, mut newest) = (BTreeSet::new(), 0u64);
    let mut last = 0u64;
    while u.more() {
        let c = match u.next::<u8>() {
            0 => u.next::<u64>(),
            1 => last.wrapping_add(u64::from(u.next::<u16>())),
            2 => last.wrapping_sub(u64::from(u.next::<u16>())),
            3 => last,
            n => last.wrapping_add(u64::from(n)).wrapping_sub(100),
        };
        last = c;
        let fresh = c != 0 && !seen.contains(&c) && (c > newest || newest - c < ReplayWindow::SPAN);
        assert_eq!(window.accept(c), fresh, "counter {c}, newest {newest}");
        if fresh {
            seen.insert(c);
            newest = newest.max(c);
        }
    }
}
