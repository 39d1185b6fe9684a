//! What must not get in: fragments (rule 14), and strangers on the link (rule 19).

use super::*;
use crate::key::Addr;
use crate::wire::build::Tcp;
use crate::wire::options::SpliceOption;

/// `frame` as the fragment with this field: flags and offset.
fn fragment(mut f: Vec<u8>, field: u16, proto: u8) -> Vec<u8> {
    f[20..22].copy_from_slice(&field.to_be_bytes());
    f[23] = proto;
    let total = f.len() - 14;
    edit::set_ip_len(&mut f, total);
    f
}

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
                n.rx(Port::Wire, fragment(f, field, 6));
                fragments += 1;
                assert!(n.silent(), "{field:#x}");
                assert_eq!(n.s.drops.get(Drop::Fragment), fragments);
            }
        }
    }
    // And the stack's own.
    let mut n = established(1000, 9000);
    let f = host(8001, 9001, 1001, ACK, 500, Build::default(), GET);
    n.rx(Port::WireHost, fragment(f, LAST, 6));
    assert!(n.silent());
}

#[test]
fn fragments_of_anything_else_to_a_vip_meet_at_the_one_owner() {
    // A first fragment of UDP or ICMP has ports and a type, a later one has neither:
    // one node gets all, whatever a fragment contains.
    let kinds = [1u8, 17, 132];
    for proto in kinds {
        let (mut owner, mut other) = (Node::new(view(1, 1)), Node::new(view(2, 1)));
        for field in [FIRST, MIDDLE, LAST] {
            let f = client(1001, 9001, ACK, Build::default(), GET);
            let f = fragment(f, field, proto);
            owner.rx(Port::Wire, f.clone());
            assert_eq!(owner.tx(Port::WireHost)[0], f, "as it was");
            other.rx(Port::Wire, f);
            assert!(other.silent());
        }
        assert_eq!(other.s.drops.get(Drop::NotVipOwner), 3);
    }
}

#[test]
fn a_fragment_of_an_icmp_error_is_not_taken_for_a_quote() {
    let mut n = established(1000, 9000);
    let quoted = host(80, 9001, 1001, ACK, 500, Build::default(), GET);
    let eth: [u8; 14] = client(0, 0, ACK, Build::default(), b"")[..14]
        .try_into()
        .unwrap();
    let f = crate::wire::icmp::frag_needed(&eth, [10, 77, 0, 1], &quoted[14..], 1_400);
    n.rx(Port::Wire, f.clone());
    let whole = n.tx(Port::WireHost);
    assert_ne!(whole[0], f, "a whole one is translated");
    let f = fragment(f, FIRST, 1);
    n.rx(Port::Wire, f.clone());
    assert_eq!(n.tx(Port::WireHost), [f], "a fragment goes by its sender");
}

/// A segment as it comes by the link from node 1 to `dst`.
fn by_link(dst: [u8; 4], dport: u16, flags: u8, opts: Build, payload: &[u8]) -> Vec<u8> {
    Tcp {
        eth_dst: [2, 0, 0, 0, 1, 2],
        eth_src: [2, 0, 0, 0, 1, 1],
        src: Addr::v4([10, 77, 1, 1]),
        dst: Addr::v4(dst),
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
    let link = [10, 77, 1, 2];
    let option_32 = Build {
        mss: Some(1460),
        splice: Some(SpliceOption {
            client: CLIENT,
            port: CPORT,
            init_seq: 9000,
        }),
        ..Build::default()
    };
    let mut forged = vec![0xd7, 0x5b, 1, 1, 0, 116, 1, 0];
    forged.resize(200, 0xaa);
    // Link address, the VIP and the node's wire address: the stack knows them all, and
    // takes what is for them by any interface.
    for dst in [link, VIP, [10, 77, 0, 2]] {
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
                            n.rx(Port::Link, fragment(f.clone(), field, 6));
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
    // What is the node's own passes: another port, at its link address.
    let f = by_link(link, 22, SYN, syn_opts(1), b"");
    n.rx(Port::Link, f.clone());
    assert_eq!(n.tx(Port::LinkHost), [f]);
}

#[test]
fn hidden_ports_are_not_reached_by_fragments_to_the_node_itself() {
    let mut n = Node::new(view(1, 1));
    let own = |dport: u16| {
        let mut f = client(1, 0, SYN, syn_opts(1), b"");
        f[30..34].copy_from_slice(&[10, 77, 0, 1]);
        f[36..38].copy_from_slice(&dport.to_be_bytes());
        fragment(f, 0, 6)
    };
    for dport in [8001, 8080] {
        n.rx(Port::Wire, own(dport));
        for field in [FIRST, LAST] {
            n.rx(Port::Wire, fragment(own(dport), field, 6));
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
    let f = fragment(own(8001), LAST, 17);
    n.rx(Port::Wire, f.clone());
    assert_eq!(n.tx(Port::WireHost), [f]);
}
