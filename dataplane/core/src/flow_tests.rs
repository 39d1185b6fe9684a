//! What the filter does with single frames, before any handover.

use super::testkit::*;
use crate::drops::Drop;
use crate::frame::Port;
use crate::wire::arp::{self, Arp};
use crate::wire::build::Tcp;
use crate::wire::options::{Build, SpliceOption};
use crate::wire::tcp::{ACK, CWR, ECE, FIN, PSH, RST, SYN};
use std::net::IpAddr;

fn owner() -> Node {
    Node::new(view(1, 1))
}

#[test]
fn the_handshake_and_the_first_window() {
    for (c, s) in [(7, 9), (u32::MAX - 3, 0x7fff_fffe), (0x7fff_ffff, u32::MAX)] {
        let mut n = established(c, s);
        let c1 = c.wrapping_add(1);
        // 10,000 bytes acked, the stack's window of 512 << 7 would end at c+1+75,536.
        n.rx(
            Port::WireHost,
            host(
                8001,
                s.wrapping_add(1),
                c1.wrapping_add(10_000),
                ACK,
                512,
                ts(5001, 120),
                b"",
            ),
        );
        let w = n.one(Port::Wire).seg.window;
        let edge = 10_000 + (u32::from(w) << 7);
        assert!(edge <= 60_000, "within c_isn + 1 + W");
        assert!(edge >= 59_776, "never behind what the SYN-ACK promised");
    }
}

#[test]
fn who_owns_a_syn() {
    let mut other = Node::new(view(2, 1));
    other.rx(Port::Wire, client(1, 0, SYN, syn_opts(1), b""));
    assert!(other.silent());
    assert_eq!(other.s.drops.get(Drop::NotOwner), 1);
    other.rx(Port::Wire, client(2, 1, ACK, ts(1, 1), b"x"));
    assert!(
        other.silent(),
        "never to the host: its stack would answer RST"
    );
    assert_eq!(other.s.drops.get(Drop::NoFlow), 1);
}

#[test]
fn a_syn_reaches_the_stack_clean() {
    let mut n = owner();
    let f = client(1, 0, SYN | ECE | CWR, syn_opts(1), b"early data");
    n.rx(Port::Wire, f);
    let s = n.one(Port::WireHost);
    assert_eq!(s.seg.flags, SYN);
    assert!(s.payload.is_empty());
    let splice = Build {
        splice: Some(SpliceOption {
            client: CLIENT_V4,
            port: 1,
            init_seq: 2,
        }),
        ..syn_opts(1)
    };
    n.rx(Port::Wire, client(1, 0, SYN, splice, b""));
    n.rx(
        Port::Wire,
        client(
            1,
            0,
            ACK,
            Build {
                splice: splice.splice,
                ..Build::default()
            },
            b"",
        ),
    );
    assert!(n.silent());
    assert_eq!(n.s.drops.get(Drop::Option32OnWire), 2);
}

#[test]
fn nothing_of_ours_leaves_without_a_flow() {
    let mut n = owner();
    for port in [80, 8001, 8080] {
        n.rx(
            Port::WireHost,
            host(port, 1, 1, RST | ACK, 0, Build::default(), b""),
        );
    }
    assert!(n.silent());
    assert_eq!(n.s.drops.get(Drop::HostWithoutFlow), 3);
    // Hidden ports are not to be had from outside either.
    for port in [8001, 8080] {
        let mut f = client(1, 0, SYN, syn_opts(1), b"");
        f[L4 + 2..L4 + 4].copy_from_slice(&u16::to_be_bytes(port));
        n.rx(Port::Wire, f);
    }
    assert!(n.silent());
    assert_eq!(n.s.drops.get(Drop::HiddenPort), 2);
}

#[test]
fn two_owners_for_a_moment() {
    let mut n = owner();
    n.rx(Port::Wire, client(10, 0, SYN, syn_opts(1), b""));
    n.tx(Port::WireHost);
    let synack = || host(8001, 500, 11, SYN | ACK, 65_160, synack_opts(7, 1), b"");
    n.rx(Port::WireHost, synack());
    n.tx(Port::Wire);
    // The client took the other owner's SYN-ACK.
    n.rx(Port::Wire, client(11, 901, ACK, ts(2, 3), b""));
    assert!(n.silent(), "the stack must not see it: it would answer RST");
    n.rx(Port::WireHost, synack());
    assert!(n.silent(), "muted");
    assert_eq!(
        (n.s.drops.get(Drop::AckMismatch), n.s.drops.get(Drop::Muted)),
        (1, 1)
    );
    // A forged ACK must not kill the right owner: the matching one still wins.
    n.rx(Port::Wire, client(11, 501, ACK, ts(2, 7), b""));
    assert_eq!(n.one(Port::WireHost).seg.ack, 501);
    assert_eq!(n.s.counters.opened, 1);
    let mut late = owner();
    late.rx(Port::Wire, client(10, 0, SYN, syn_opts(1), b""));
    late.pass(11_000);
    assert_eq!(late.s.flows(), 0, "half-open flows time out");
}

#[test]
fn the_half_open_table_is_bounded() {
    let mut n = owner();
    n.v.params.half_open_max = 3;
    for p in 0..5u16 {
        let mut f = client(1, 0, SYN, syn_opts(1), b"");
        f[L4..L4 + 2].copy_from_slice(&(1000 + p).to_be_bytes());
        let end = f.len();
        crate::wire::edit::write_tcp_checksum(&mut f, L4, end);
        n.rx(Port::Wire, f);
    }
    assert_eq!(n.tx(Port::WireHost).len(), 3);
    assert_eq!(n.s.drops.get(Drop::HalfOpenFull), 2);
}

#[test]
fn duplicate_syns_and_reused_ports() {
    let mut n = established(100, 900);
    n.rx(Port::Wire, client(100, 0, SYN, syn_opts(100), b""));
    assert!(n.silent());
    assert_eq!(n.s.drops.get(Drop::DuplicateSyn), 1);
    // Another ISN on a live flow: the stack challenges, and only it decides.
    n.rx(Port::Wire, client(7777, 0, SYN, syn_opts(100), b""));
    assert_eq!(n.one(Port::WireHost).seg.dport, 8001);
    for flags in [RST, ACK | FIN, ACK | PSH] {
        n.rx(
            Port::WireHost,
            host(8001, 901, 101, flags, 500, ts(1, 1), b"x"),
        );
    }
    assert!(n.silent(), "only the challenge may go out");
    n.rx(
        Port::WireHost,
        host(8001, 901, 101, ACK, 500, ts(1, 1), b""),
    );
    assert_eq!(n.one(Port::Wire).seg.sport, 80);
    // The client answers the challenge: it knows nothing of that connection.
    n.rx(Port::Wire, client(101, 0, RST, Build::default(), b""));
    n.tx(Port::WireHost);
    n.rx(Port::Wire, client(7777, 0, SYN, syn_opts(100), b""));
    assert_eq!(n.one(Port::WireHost).seg.seq, 7777);
    n.rx(
        Port::WireHost,
        host(8001, 60, 7778, SYN | ACK, 65_160, synack_opts(1, 100), b""),
    );
    assert_eq!(n.one(Port::Wire).seg.seq, 60, "a new connection");
}

#[test]
fn a_challenge_ends_when_the_client_goes_on() {
    let mut n = established(100, 900);
    n.rx(Port::Wire, client(7777, 0, SYN, syn_opts(100), b""));
    n.rx(
        Port::Wire,
        client(101, 901, ACK | PSH, ts(130, 5000), b"GET"),
    );
    assert_eq!(n.tx(Port::WireHost).len(), 2);
    n.rx(
        Port::WireHost,
        host(8001, 901, 104, ACK | FIN, 500, ts(5001, 130), b""),
    );
    assert_eq!(n.one(Port::Wire).seg.flags, ACK | FIN);
}

#[test]
fn a_stack_that_forgot_the_flow_does_not_take_the_next_one() {
    let mut n = established(100, 900);
    n.rx(Port::Wire, client(7777, 0, SYN, syn_opts(100), b""));
    n.tx(Port::WireHost);
    n.rx(
        Port::WireHost,
        host(8001, 60, 7778, SYN | ACK, 65_160, synack_opts(1, 100), b""),
    );
    let f: Vec<Seen> = n.tx(Port::WireHost).iter().map(|f| seen(f)).collect();
    assert_eq!(
        (f[0].seg.flags, f[0].seg.seq, f[0].seg.dport),
        (RST, 7778, 8001)
    );
    assert_eq!(
        (f[1].seg.flags, f[1].seg.seq, f[1].seg.dport),
        (SYN, 7777, 8001)
    );
    assert!(n.tx(Port::Wire).is_empty());
}

#[test]
fn a_reused_port_does_not_wake_an_old_flow_on_another_node() {
    // Node 2 served the old connection; the new one is node 1's.
    let mut v = view(2, 2);
    let mut n = established_at(v.clone(), 100, 900);
    n.rx(Port::Wire, client(101, 0, RST, Build::default(), b""));
    n.tx(Port::WireHost);
    v = view(2, 1);
    n.v = v;
    n.rx(Port::Wire, client(7777, 0, SYN, syn_opts(100), b""));
    n.rx(Port::Wire, client(7778, 61, ACK, ts(1, 1), b""));
    assert!(n.silent(), "its stack would answer RST");
    assert_eq!(n.s.flows(), 0);
}

#[test]
fn corrupt_segments_change_no_state() {
    let mut n = established(100, 900);
    let mut f = client(101, 901, ACK | PSH, ts(130, 5000), b"GET / HTTP/1.1\r\n");
    let last = f.len() - 1;
    f[last] ^= 0x40;
    n.rx(Port::Wire, f);
    assert!(n.silent());
    assert_eq!(n.s.drops.get(Drop::BadChecksum), 1);
}

#[test]
fn arp_for_the_vip() {
    let ask = |tpa: [u8; 4]| {
        Arp {
            op: arp::REQUEST,
            sha: CLIENT_MAC,
            spa: CLIENT_V4,
            tha: [0; 6],
            tpa,
        }
        .frame([0xff; 6], CLIENT_MAC)
        .to_vec()
    };
    let mut n = owner();
    n.rx(Port::Wire, ask(VIP_V4));
    let f = n.tx(Port::Wire);
    assert_eq!(f.len(), 1);
    let a = Arp::parse(&f[0]).unwrap();
    assert_eq!(
        (a.op, a.sha, a.spa, a.tha, a.tpa),
        (arp::REPLY, CLUSTER_MAC, VIP_V4, CLIENT_MAC, CLIENT_V4)
    );
    assert_eq!(
        f[0][..12],
        [CLIENT_MAC, n.v.wire_mac].concat()[..],
        "own source, not the cluster's"
    );
    let mut other = Node::new(view(2, 1));
    other.rx(Port::Wire, ask(VIP_V4));
    assert!(other.silent(), "one answer in the cluster");
    other.rx(Port::Wire, ask([10, 77, 0, 2]));
    assert_eq!(
        other.tx(Port::WireHost).len(),
        1,
        "the node's own address is the host's"
    );
    // The host's own requests are let out under the node's MAC; what it says of the VIP is not.
    let req = Arp {
        op: arp::REQUEST,
        sha: CLUSTER_MAC,
        spa: [10, 77, 0, 1],
        tha: [0; 6],
        tpa: CLIENT_V4,
    };
    n.rx(Port::WireHost, req.frame([0xff; 6], CLUSTER_MAC).to_vec());
    assert_eq!(n.tx(Port::Wire)[0][6..12], n.v.wire_mac);
    let rep = Arp {
        op: arp::REPLY,
        sha: CLUSTER_MAC,
        spa: VIP_V4,
        tha: CLIENT_MAC,
        tpa: CLIENT_V4,
    };
    n.rx(Port::WireHost, rep.frame(CLIENT_MAC, CLUSTER_MAC).to_vec());
    assert!(n.silent());
}

#[test]
fn what_is_no_service_goes_to_one_owner_and_other_nodes_are_left_alone() {
    let ping = |dst: IpAddr| {
        let f = to(client(0, 0, 0, Build::default(), b""), dst, 80);
        with_proto(f, if dst.is_ipv4() { 1 } else { 58 })
    };
    let (mut a, mut b) = (owner(), Node::new(view(2, 1)));
    a.rx(Port::Wire, ping(VIP));
    b.rx(Port::Wire, ping(VIP));
    assert_eq!(
        (a.tx(Port::WireHost).len(), b.tx(Port::WireHost).len()),
        (1, 0)
    );
    b.rx(Port::Wire, ping(on_wire(2)));
    assert_eq!(b.tx(Port::WireHost).len(), 1);
    b.rx(Port::Wire, ping(on_wire(1)));
    assert_eq!(b.s.drops.get(Drop::OtherNode), 1);
    // Unknown EtherTypes pass both ways unharmed but for the source address.
    let mut raw = vec![0xff; 60];
    raw[6..14].copy_from_slice(&[2, 0, 0, 0, 0, 0xc1, 0x88, 0xcc]);
    b.rx(Port::Wire, raw.clone());
    assert_eq!(b.tx(Port::WireHost), vec![raw.clone()]);
    b.rx(Port::LinkHost, raw.clone());
    assert_eq!(b.tx(Port::Link), vec![raw]);
}

#[test]
fn icmp_errors_reach_the_stack_in_its_own_numbers() {
    let mut n = established(100, 900);
    let quoted = Tcp {
        eth_dst: CLIENT_MAC,
        eth_src: n.v.wire_mac,
        src: VIP.into(),
        dst: CLIENT.into(),
        sport: 80,
        dport: CPORT,
        seq: 901,
        ack: 101,
        flags: ACK,
        window: 1,
        opts: Build::default(),
        payload: &[0; 100],
    }
    .frame();
    let f = too_big(&quoted, 1400);
    n.rx(Port::Wire, f.clone());
    let g = n.tx(Port::WireHost).remove(0);
    assert_eq!(
        g[QUOTED..QUOTED + 2],
        8001u16.to_be_bytes(),
        "the quote names the local port"
    );
    assert!(icmp_checksum_ok(&g));
    let mut other = Node::new(view(2, 1));
    other.rx(Port::Wire, f);
    assert!(other.silent());
}

#[test]
fn a_flow_that_ends_at_the_intake_is_forgotten() {
    let mut n = established(100, 900);
    n.rx(Port::Wire, client(101, 901, ACK | FIN, ts(130, 5000), b""));
    n.rx(
        Port::WireHost,
        host(8001, 901, 102, ACK | FIN, 500, ts(5001, 130), b""),
    );
    n.rx(Port::Wire, client(102, 902, ACK, ts(131, 5001), b""));
    n.pass(4_000);
    assert_eq!(n.s.flows(), 1);
    n.pass(2_000);
    assert_eq!(n.s.flows(), 0);
}

#[test]
fn an_ack_that_says_nothing_and_answers_nothing_stays_here() {
    let mut n = established(100, 900);
    let ack = |w, t| host(8001, 901, 104, ACK, w, ts(t, 130), b"");
    n.rx(
        Port::Wire,
        client(101, 901, ACK | PSH, ts(130, 5000), b"GET"),
    );
    n.rx(Port::WireHost, ack(400, 5001));
    n.rx(Port::WireHost, ack(400, 5001));
    assert_eq!(n.tx(Port::Wire).len(), 1);
    assert_eq!(n.s.drops.get(Drop::AckRepeated), 1);
    n.rx(Port::WireHost, ack(410, 5001));
    assert_eq!(n.tx(Port::Wire).len(), 1, "a window update");
    // An answer to a segment is one even when it repeats: a duplicate came, or a probe.
    n.rx(
        Port::Wire,
        client(101, 901, ACK | PSH, ts(131, 5001), b"GET"),
    );
    n.rx(Port::WireHost, ack(410, 5002));
    assert_eq!(n.tx(Port::Wire).len(), 1);
    // A keepalive of the stack lies below what it sent.
    n.rx(
        Port::WireHost,
        host(8001, 900, 104, ACK, 410, ts(5003, 131), b""),
    );
    assert_eq!(n.tx(Port::Wire).len(), 1);
}
