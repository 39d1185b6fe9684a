//! Edges of single steps: what comes at a moment when nobody expects it.

use super::*;
use crate::frame::Pool;
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
