//! A source, and a destination, that know nothing but the paper: option 32, data
//! with window 0, FIN.

use super::testkit::*;
use crate::command::{Command, Event};
use crate::drops::Drop;
use crate::frame::Port;
use crate::wire::build::Tcp;
use crate::wire::options::{Build, SpliceOption};
use crate::wire::tcp::{ACK, FIN, PSH, RST, SYN};
use dts_proto::block::Replay;

#[path = "paper_edges.rs"]
mod edges;

fn bare(seq: u32, ack: u32, flags: u8, opts: Build, payload: &[u8]) -> Vec<u8> {
    Tcp {
        eth_dst: [2, 0, 0, 0, 1, 2],
        eth_src: [2, 0, 0, 0, 1, 1],
        src: on_link(1u16).into(),
        dst: on_link(2u16).into(),
        sport: 3333,
        dport: 8080,
        seq,
        ack,
        flags,
        window: 0,
        opts,
        payload,
    }
    .frame()
}

fn syn() -> Vec<u8> {
    let opts = Build {
        mss: Some(1460),
        splice: Some(SpliceOption {
            client: CLIENT_V4,
            port: CPORT,
            init_seq: 9000,
        }),
        ..Build::default()
    };
    bare(1000, 0, SYN, opts, b"")
}

#[test]
fn is_served_where_the_link_is_trusted() {
    let mut v = view(2, 1);
    v.params.paper_form = true;
    let mut b = Node::new(v);
    b.rx(
        Port::Wire,
        client(
            1000,
            0,
            SYN,
            Build {
                mss: Some(1460),
                ..Build::default()
            },
            b"",
        ),
    );
    b.rx(Port::Link, syn());
    let s = b.one(Port::WireHost);
    assert_eq!(
        (s.seg.flags, s.seg.seq, s.seg.window, s.seg.dport),
        (SYN, 1000, 0, 8080)
    );
    let mss = Build {
        mss: Some(1460),
        ..Build::default()
    };
    b.rx(
        Port::WireHost,
        host(8080, 50, 1001, SYN | ACK, 64_240, mss, b""),
    );
    let s = b.one(Port::Link);
    assert_eq!(
        (s.seg.flags, s.seg.seq, s.seg.ack, s.seg.window),
        (SYN | ACK, 9000, 1001, 64_240)
    );
    b.rx(Port::Link, bare(1001, 9001, ACK, Build::default(), b""));
    assert_eq!(b.one(Port::WireHost).seg.ack, 51);
    b.rx(
        Port::Link,
        bare(1001, 9001, ACK | PSH, Build::default(), GET),
    );
    let d = b.one(Port::WireHost);
    assert_eq!(
        (d.payload.as_slice(), d.seg.window),
        (GET, 0),
        "the application may not speak yet"
    );
    let k = 1001 + GET.len() as u32;
    b.rx(
        Port::WireHost,
        host(8080, 51, k, ACK, 64_000, Build::default(), b""),
    );
    assert_eq!(b.one(Port::Link).seg.ack, k);
    b.rx(Port::Link, bare(k, 9001, ACK | FIN, Build::default(), b""));
    assert_eq!(
        b.one(Port::Link).seg.ack,
        k + 1,
        "the end mark is acknowledged by the filter"
    );
    let open = b.one(Port::WireHost);
    assert_eq!((open.seg.flags, open.seg.seq), (ACK, k), "not the FIN");
    assert_eq!(
        open.seg.window, 502,
        "the client's real window holds from here"
    );
    assert_eq!(b.one(Port::Wire).seg.ack, k);
    b.rx(
        Port::WireHost,
        host(8080, 51, k, ACK | PSH, 64_000, Build::default(), b"200"),
    );
    let r = b.one(Port::Wire);
    assert_eq!((r.seg.seq, r.seg.sport, r.eth_dst), (9001, 80, CLIENT_MAC));
    assert_eq!(b.s.counters.replay_paper, 1);
}

#[test]
fn is_refused_and_counted_where_it_is_not() {
    let mut b = Node::new(view(2, 1));
    b.rx(Port::Link, syn());
    assert_eq!(b.one(Port::Link).seg.flags, RST | ACK);
    assert!(b.silent());
    assert_eq!(b.s.drops.get(Drop::PaperForm), 1);
    b.rx(
        Port::Link,
        bare(1001, 9001, ACK | PSH, Build::default(), GET),
    );
    assert!(b.silent(), "nothing unauthenticated reaches the host");
}

#[test]
fn a_destination_of_the_bare_form_gets_data_and_a_fin() {
    let mut v = view(1, 1);
    v.params.paper_form = true;
    let mut a = Node::new(v);
    let plain = Build {
        mss: Some(1460),
        ..Build::default()
    };
    a.rx(Port::Wire, client(1000, 0, SYN, plain, b""));
    a.rx(
        Port::WireHost,
        host(8001, 9000, 1001, SYN | ACK, 64_240, plain, b""),
    );
    a.rx(Port::Wire, client(1001, 9001, ACK, Build::default(), b""));
    a.tx(Port::Wire);
    a.tx(Port::WireHost);
    let mut p = Pair::of(a, 1000, 9000);
    p.a.rx(
        Port::Wire,
        client(1001, 9001, ACK | PSH, Build::default(), GET),
    );
    p.a.rx(
        Port::WireHost,
        host(8001, 9001, p.k(), ACK, 64_000, Build::default(), b""),
    );
    p.a.tx(Port::Wire);
    p.a.tx(Port::WireHost);
    p.a.command(Command::Freeze {
        ticket: 1,
        client: sock(CLIENT, CPORT),
        local: sock(VIP, 8001),
    });
    p.splice_to(2);
    p.a.events();
    let syn = p.a.one(Port::Link);
    let reply = |seq, ack, flags| {
        Tcp {
            eth_dst: [2, 0, 0, 0, 1, 1],
            eth_src: [2, 0, 0, 0, 1, 2],
            src: on_link(2u16).into(),
            dst: on_link(1u16).into(),
            sport: 8080,
            dport: syn.seg.sport,
            seq,
            ack,
            flags,
            window: 64_000,
            opts: Build::default(),
            payload: b"",
        }
        .frame()
    };
    p.a.rx(Port::Link, reply(9000, 1001, SYN | ACK));
    let d = p.a.one(Port::Link);
    assert_eq!(
        (d.seg.seq, d.seg.window, d.payload.as_slice()),
        (1001, 0, GET)
    );
    assert_eq!(d.seg.flags, ACK | PSH | FIN, "the end mark");
    p.a.rx(Port::Link, reply(9001, p.k() + 1, ACK));
    assert!(matches!(
        p.a.events()[..],
        [Event::Done {
            node: 2,
            replay: Some(Replay::Paper),
            ..
        }]
    ));
}
