//! What must not get in: fragments (rule 14), and strangers on the link (rule 19).

use super::*;
use crate::wire::build::Tcp;
use crate::wire::options::SpliceOption;
use std::net::IpAddr;

/// Don't-fragment and the reserved bit make no fragment.
const FIRST: u16 = 0x2000;
const MIDDLE: u16 = 0x2000 | 3;
const LAST: u16 = 7;

#[test]
fn fragments_of_tcp_to_a_vip_are_dropped_alike_on_every_node() {
    let (owner, other) = (established(1000, 9000), Node::new(view(2, 1)));
    for mut n in [owner, other] {
        let mut fragments = 0;
        for flags in [SYN, ACK, ACK | PSH, RST] {
            for field in [FIRST, MIDDLE, LAST] {
                let f = client(1001, 9001, flags, Build::default(), GET);
                n.rx(Port::Wire, as_fragment(f, field, 6));
                fragments += 1;
                assert!(n.silent(), "{field:#x}");
                assert_eq!(n.s.drops.get(Drop::Fragment), fragments);
            }
        }
    }
    // And the stack's own.
    let mut n = established(1000, 9000);
    let f = host(8001, 9001, 1001, ACK, 500, Build::default(), GET);
    n.rx(Port::WireHost, as_fragment(f, LAST, 6));
    assert!(n.silent());
}

#[test]
fn fragments_of_anything_else_to_a_vip_meet_at_the_one_owner() {
    // A first fragment of UDP or ICMP has ports and a type, a later one has neither:
    // one node gets all, whatever a fragment contains. IPv6's fragments of one client
    // mix whatever they contain, so none may.
    let pass = usize::from(CLIENT.is_ipv4());
    let kinds = [1u8, 17, 58, 132];
    for proto in kinds {
        let (mut owner, mut other) = (Node::new(view(1, 1)), Node::new(view(2, 1)));
        for field in [FIRST, MIDDLE, LAST] {
            let f = client(1001, 9001, ACK, Build::default(), GET);
            let f = as_fragment(f, field, proto);
            owner.rx(Port::Wire, f.clone());
            assert_eq!(owner.tx(Port::WireHost), vec![f.clone(); pass], "as it was");
            other.rx(Port::Wire, f);
            assert!(other.silent());
        }
        let why = if pass == 1 {
            Drop::NotVipOwner
        } else {
            Drop::Fragment
        };
        assert_eq!(other.s.drops.get(why), 3);
    }
}

#[test]
fn a_fragment_of_an_icmp_error_is_not_taken_for_a_quote() {
    let mut n = established(1000, 9000);
    let quoted = host(80, 9001, 1001, ACK, 500, Build::default(), GET);
    let f = too_big(&quoted, 1_400);
    n.rx(Port::Wire, f.clone());
    let whole = n.tx(Port::WireHost);
    assert_ne!(whole[0], f, "a whole one is translated");
    let f = as_fragment(f, FIRST, if CLIENT.is_ipv4() { 1 } else { 58 });
    n.rx(Port::Wire, f.clone());
    let passed = vec![f; usize::from(CLIENT.is_ipv4())];
    assert_eq!(
        n.tx(Port::WireHost),
        passed,
        "a fragment goes by its sender"
    );
}

/// A segment as it comes by the link from node 1 to `dst`.
fn by_link(dst: IpAddr, dport: u16, flags: u8, opts: Build, payload: &[u8]) -> Vec<u8> {
    let link = on_link(1u16);
    let src = if link.is_ipv4() == dst.is_ipv4() {
        link
    } else {
        on_wire(1)
    };
    Tcp {
        eth_dst: [2, 0, 0, 0, 1, 2],
        eth_src: [2, 0, 0, 0, 1, 1],
        src: src.into(),
        dst: dst.into(),
        sport: 61_000,
        dport,
        seq: 1000,
        ack: 0,
        flags,
        window: 100,
        opts,
        payload,
    }
    .frame()
}

#[test]
fn nothing_unauthenticated_reaches_an_application_by_the_link() {
    let link = on_link(2u16);
    let option_32 = Build {
        mss: Some(1460),
        splice: Some(SpliceOption {
            client: CLIENT_V4,
            port: CPORT,
            init_seq: 9000,
        }),
        ..Build::default()
    };
    let mut forged = vec![0xd7, 0x5b, 1, 1, 0, 116, 1, 0];
    forged.resize(200, 0xaa);
    // Link address, the VIP and the node's wire address: the stack knows them all, and
    // takes what is for them by any interface.
    for dst in [link, VIP, on_wire(2)] {
        for dport in [8001, 8080] {
            for flags in [SYN, SYN | ACK, ACK, ACK | FIN, RST, 0] {
                for opts in [Build::default(), syn_opts(1), option_32] {
                    for payload in [&b""[..], GET, &forged] {
                        let mut n = Node::new(view(2, 1));
                        let f = by_link(dst, dport, flags, opts, payload);
                        n.rx(Port::Link, f.clone());
                        assert!(n.tx(Port::LinkHost).is_empty(), "{dst:?} {dport}");
                        assert!(n.tx(Port::WireHost).is_empty());
                        assert_eq!((n.s.flows(), n.s.drops.0.iter().sum::<u64>()), (0, 1));
                        for field in [FIRST, LAST] {
                            n.rx(Port::Link, as_fragment(f.clone(), field, 6));
                            assert!(n.tx(Port::LinkHost).is_empty());
                        }
                        assert_eq!(n.s.drops.get(Drop::Fragment), 2);
                    }
                }
            }
        }
    }
    // The service's own port on the VIP is not reached by the link either.
    let mut n = Node::new(view(2, 1));
    n.rx(Port::Link, by_link(VIP, 80, SYN, syn_opts(1), b""));
    assert!(n.silent());
    // Nor do fragments of a client get in among those of its replay.
    if VIP.is_ipv6() {
        let f = by_link(VIP, 80, ACK, Build::default(), GET);
        n.rx(Port::Link, as_fragment(f, LAST, 58));
        assert!(n.silent());
    }
    // What is the node's own passes: another port, at its link address.
    let f = by_link(link, 22, SYN, syn_opts(1), b"");
    n.rx(Port::Link, f.clone());
    assert_eq!(n.tx(Port::LinkHost), [f]);
}

#[test]
fn hidden_ports_are_not_reached_by_fragments_to_the_node_itself() {
    let mut n = Node::new(view(1, 1));
    let own = |dport: u16| to(client(1, 0, SYN, syn_opts(1), b""), on_wire(1), dport);
    for dport in [8001, 8080] {
        n.rx(Port::Wire, own(dport));
        for field in [FIRST, LAST] {
            n.rx(Port::Wire, as_fragment(own(dport), field, 6));
        }
    }
    assert!(n.silent());
    assert_eq!(
        (
            n.s.drops.get(Drop::HiddenPort),
            n.s.drops.get(Drop::Fragment)
        ),
        (2, 4)
    );
    n.rx(Port::Wire, own(22));
    assert_eq!(n.tx(Port::WireHost).len(), 1);
    // UDP in fragments is the host's own affair.
    let f = as_fragment(own(8001), LAST, 17);
    n.rx(Port::Wire, f.clone());
    assert_eq!(n.tx(Port::WireHost), [f]);
}
