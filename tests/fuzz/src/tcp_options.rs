//! TCP options: the reader against `etherparse`, the writer against the reader,
//! and what the filter strips from a SYN.

use crate::frames::{self, Kind};
use crate::input::Input;
use dts_core::key::Addr;
use dts_core::wire::build::Tcp;
use dts_core::wire::options::{Build, Options, SpliceOption, kind};
use dts_core::wire::tcp::{SYN, Segment};
use dts_core::wire::{L3, edit, l3};
use etherparse::{TcpOptionElement as Element, TcpOptionsIterator};

/// Runs one input: its first byte says which part, the rest is options.
pub fn run(data: &[u8]) {
    let mut u = Input::new(data);
    if u.next::<u8>() & 1 == 0 {
        let o = u.bytes(40);
        read(o);
        strip(o);
    } else {
        written(&mut u);
    }
}

/// What both readers understand they understand alike.
fn read(o: &[u8]) {
    let ours = Options::parse(o);
    let mut theirs = Options::default();
    for element in TcpOptionsIterator::from_slice(o) {
        match element {
            // It stops at the first kind that it does not know; then only what came
            // before can be compared, and a later one may overrule it.
            Err(_) => return,
            Ok(Element::Noop) => {}
            Ok(Element::MaximumSegmentSize(v)) => theirs.mss = Some(v),
            Ok(Element::WindowScale(v)) => theirs.wscale = Some(v.min(14)),
            Ok(Element::SelectiveAcknowledgementPermitted) => theirs.sack_permitted = true,
            Ok(Element::SelectiveAcknowledgement(_, more)) => {
                theirs.sack = Some((0, 1 + more.iter().flatten().count()));
            }
            Ok(Element::Timestamp(val, ecr)) => theirs.timestamps = Some((val, ecr, 0)),
        }
    }
    let places = Options {
        timestamps: ours.timestamps.map(|(val, ecr, _)| (val, ecr, 0)),
        sack: ours.sack.map(|(_, n)| (0, n)),
        ..ours
    };
    assert_eq!(places, theirs, "options {o:02x?}");
    if let Some((val, _, at)) = ours.timestamps {
        assert_eq!(o[at..at + 4], val.to_be_bytes());
    }
    if let Some((at, n)) = ours.sack {
        assert_eq!(usize::from(o[at - 1]), 2 + n * 8);
    }
}

/// Stripped options keep what may pass and nothing else, and the checksum is right.
fn strip(o: &[u8]) {
    let mut o = o.to_vec();
    o.resize(o.len().next_multiple_of(4), kind::END);
    let base = Tcp {
        eth_dst: [2; 6],
        eth_src: [4; 6],
        src: Addr::v4([10, 0, 0, 1]),
        dst: Addr::v4([10, 0, 0, 2]),
        sport: 1,
        dport: 2,
        seq: 3,
        ack: 0,
        flags: SYN,
        window: 5,
        opts: Build::default(),
        payload: &o,
    };
    let mut f = base.frame();
    f[46] = (((20 + o.len()) / 4) << 4) as u8;
    let end = f.len();
    edit::write_tcp_checksum(&mut f, 34, end);
    let parse = |f: &[u8]| {
        let Ok(L3::Ip(ip)) = l3(f) else {
            panic!("no IP in {f:02x?}")
        };
        Segment::parse(f, &ip).expect("a segment")
    };
    let before = parse(&f);
    edit::strip_options(&mut f, &before);
    let after = parse(&f).opts;
    let kept = Options {
        sack: None,
        splice_kind: false,
        splice: None,
        auth: false,
        others: false,
        ..before.opts
    };
    assert_eq!(after, kept, "options {o:02x?}");
    assert!(matches!(frames::read(&f), Kind::Tcp(t) if t.sound));
}

/// What we write, both readers read.
fn written(u: &mut Input<'_>) {
    let b = u.next::<u8>();
    let splice = SpliceOption {
        client: u.next(),
        port: u.next(),
        init_seq: u.next(),
    };
    let build = Build {
        mss: (b & 1 != 0).then(|| u.next()),
        sack_permitted: b & 2 != 0,
        timestamps: (b & 4 != 0).then(|| (u.next(), u.next())),
        wscale: (b & 8 != 0).then(|| u.next::<u8>() % 15),
        splice: (b & 16 != 0).then_some(splice),
    };
    let (bytes, n) = build.bytes();
    assert_eq!(n % 4, 0);
    let o = Options::parse(&bytes[..n]);
    let again = Build {
        mss: o.mss,
        sack_permitted: o.sack_permitted,
        timestamps: o.timestamps.map(|(val, ecr, _)| (val, ecr)),
        wscale: o.wscale,
        splice: o.splice,
    };
    assert_eq!(again, build);
    read(&bytes[..n]);
}
