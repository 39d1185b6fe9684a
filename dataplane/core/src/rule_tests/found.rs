//! What an operator is told of one flow, at each step of its handover.

use super::*;
use crate::time::Span;

#[test]
fn a_flow_is_told_as_it_is_at_each_step() {
    let (c, s, l) = ISNS[0];
    assert_eq!(Node::new(view(1, 1)).find(), None);
    let mut half = Node::new(view(1, 1));
    half.rx(Port::Wire, client(c, 0, SYN, syn_opts(100), b""));
    assert_eq!(half.find().map(|f| f.state), Some(State::HalfOpen));

    let mut p = Pair::frozen(c, s, l);
    let told = |n: &mut Node| n.find().map(|f| (f.state, f.from, f.to));
    assert_eq!(told(&mut p.a), Some((State::Held, None, None)));
    p.splice_to(2);
    p.link();
    assert_eq!(told(&mut p.a), Some((State::Held, None, Some(2))));
    assert_eq!(told(&mut p.b), Some((State::Held, Some(1), None)));
    p.b.one(Port::WireHost);
    p.cut_over();
    for wait in [0, 2_000] {
        // Also once nothing is left to be said of the handover.
        p.a.pass(wait);
        p.b.pass(wait);
        assert_eq!(told(&mut p.a), Some((State::Tombstone, None, Some(2))));
        assert_eq!(told(&mut p.b), Some((State::Served, Some(1), None)));
    }
    let f = p.b.find().expect("served");
    let about = |span: Span, ms: u64| span.as_micros().abs_diff(ms * 1000) <= 200_000;
    assert!(about(f.age, 2_000) && about(f.idle, 2_000), "{f:?}");
    let age = p.a.find().expect("a tombstone").age;
    p.a.pass(1_000);
    let later = p.a.find().expect("a tombstone").age;
    assert!(about(Span(later.0 - age.0), 1_000), "{age:?} {later:?}");
}
