//! Edges of single steps: what comes at a moment when nobody expects it.

use super::*;
use crate::time::Span;

#[test]
fn a_flow_that_is_orphaned_while_it_is_buried_is_reported() {
    let mut p = Pair::spliced(1000, 9000, 50);
    let f = p.synack(synack_opts(777, 130));
    p.b.rx(Port::WireHost, f);
    for f in p.b.tx(Port::Link) {
        p.a.rx(Port::Link, f);
    }
    // The end mark is out, and the node that it is for is gone.
    assert!(p.a.events().is_empty(), "not yet buried");
    p.a.tx(Port::Link);
    p.a.v.members[1].gone = true;
    p.a.now = p.a.now + Span::secs(3);
    p.a.pass(1);
    p.a.now = p.a.now + Span::secs(1);
    p.a.pass(1);
    assert_eq!(p.a.s.counters.orphan_resets, 1);
    let ends = p.a.events();
    assert!(
        matches!(ends[..], [Event::Done { ticket: 1, .. }]),
        "{ends:?}"
    );
}

#[test]
fn a_syn_option_of_another_kinds_length_is_stripped() {
    for option in [&[2u8, 2][..], &[3, 4, 7, 7], &[4, 3, 0], &[8, 4, 1, 1]] {
        let mut n = Node::new(view(1, 1));
        let f = client(1000, 0, SYN, Build::default(), b"");
        n.rx(Port::Wire, with_options(&f, option));
        let f = n.tx(Port::WireHost).remove(0);
        let s = seen(&f).seg;
        let o = &f[s.opts_at..s.data];
        assert!(o.iter().all(|b| *b == 1), "{option:02x?} became {o:02x?}");
    }
}

#[test]
fn what_is_no_ip_does_not_hide_a_port_on_the_link() {
    let mut n = Node::new(view(1, 1));
    let mut f = vec![2; 12];
    // An IPv4-mapped source in an IPv6 header.
    f.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
    f.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 77, 1, 1]);
    f.extend([0xfd; 16]);
    f.extend(8080u16.to_be_bytes());
    f.extend([0; 18]);
    f[66] = 0x50;
    n.rx(Port::LinkHost, f);
    assert!(n.silent());
}

#[test]
fn the_nodes_own_frame_from_the_wire_is_an_echo() {
    let mut n = Node::new(view(1, 1));
    let mut f = client(1000, 0, SYN, syn_opts(100), b"");
    f[6..12].copy_from_slice(&n.v.wire_mac.clone());
    n.rx(Port::Wire, f);
    assert!(n.silent());
    assert_eq!((n.s.drops.get(Drop::OwnEcho), n.s.flows()), (1, 0));
}

#[test]
fn a_handshake_replay_carries_the_clients_fin() {
    let mut p = Pair::frozen(1000, 9000, 50);
    p.splice_fin(2, true);
    p.link();
    p.b.tx(Port::WireHost);
    let f = host(
        8080,
        50,
        1001,
        SYN | ACK,
        65_160,
        synack_opts(777, 130),
        b"",
    );
    p.b.rx(Port::WireHost, f);
    let d = p.b.one(Port::WireHost);
    assert_eq!((d.seg.flags, d.payload.as_slice()), (ACK | PSH | FIN, GET));
}

#[test]
fn a_stack_without_what_the_client_was_promised_is_reset_and_refused() {
    for opts in [
        Build {
            timestamps: None,
            ..synack_opts(777, 130)
        },
        Build {
            wscale: None,
            ..synack_opts(777, 130)
        },
    ] {
        let mut p = Pair::spliced(1000, 9000, 50);
        // Had it acknowledged the request, nobody could tell what was executed.
        let f = host(8080, 50, 1001, SYN | ACK, 65_160, opts, b"");
        p.b.rx(Port::WireHost, f);
        let resets = p.b.tx(Port::WireHost);
        assert!(resets.iter().all(|f| seen(f).seg.flags == RST));
        assert_eq!((resets.len(), p.b.s.flows()), (2, 0));
        p.link();
        let e = p.a.events();
        let want = Fail::Refused(Reason::Options);
        assert!(
            matches!(e[..], [Event::Failed { ticket: 1, fail }] if fail == want),
            "{e:?}"
        );
    }
}

#[test]
fn a_splice_that_hangs_not_together_is_refused() {
    // Its first window is smaller than the source's.
    let mut p = Pair::frozen(1000, 9000, 50);
    p.b.v.params.first_window = 10;
    p.splice_to(2);
    p.link();
    let e = p.a.events();
    let want = Fail::Refused(Reason::Malformed);
    assert!(
        matches!(e[..], [Event::Failed { ticket: 1, fail }] if fail == want),
        "{e:?}"
    );
    // No such service there.
    let mut p = Pair::frozen(1000, 9000, 50);
    p.b.v.services.retain(|s| s.port != 80);
    for s in &mut p.a.v.services {
        assert_eq!(s.app_port, 8080);
    }
    p.b.v.services.push(crate::view::Service {
        port: 81,
        ..p.a.v.services[0].clone()
    });
    p.splice_to(2);
    p.link();
    let e = p.a.events();
    let want = Fail::Refused(Reason::NoService);
    assert!(
        matches!(e[..], [Event::Failed { ticket: 1, fail }] if fail == want),
        "{e:?}"
    );
}

#[test]
fn a_member_that_is_no_member_any_more_leaves_orphans() {
    let mut p = Pair::served(1000, 9000, 50);
    p.a.v.members.retain(|m| m.id == 1);
    p.a.pass(3_000);
    assert_eq!(p.a.one(Port::Wire).seg.flags, RST | ACK);
}
