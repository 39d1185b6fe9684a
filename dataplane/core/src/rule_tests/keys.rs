//! Two link keys are valid while nodes change from one to the other (rule 18).

use super::*;
use dts_proto::block::LinkKey;

const OLD: &[u8] = b"0123456789abcdef";
const NEW: &[u8] = b"another secret, also long enough";

fn keys(of: &[&[u8]]) -> Vec<LinkKey> {
    of.iter().map(|k| LinkKey::of(k)).collect()
}

/// A whole handover between nodes that know these keys; whether it was accepted.
fn hand_over(a: &[LinkKey], b: &[LinkKey]) -> bool {
    let mut p = Pair::frozen(1000, 9000, 50);
    p.a.v.keys = a.to_vec();
    p.b.v.keys = b.to_vec();
    p.splice_to(2);
    p.link();
    if p.b.tx(Port::WireHost).is_empty() {
        assert!(p.b.s.drops.get(Drop::BlockForged) > 0);
        return false;
    }
    let f = p.synack(synack_opts(777, 130));
    p.b.rx(Port::WireHost, f);
    p.link();
    matches!(p.a.events()[..], [Event::Done { node: 2, .. }])
}

#[test]
fn every_step_of_a_rotation_works_between_nodes_that_are_one_step_apart() {
    let steps: [&[&[u8]]; 4] = [&[OLD], &[OLD, NEW], &[NEW, OLD], &[NEW]];
    for (i, a) in steps.iter().enumerate() {
        for (j, b) in steps.iter().enumerate() {
            // Two steps apart one of them signs with what the other does not know.
            let works = i.abs_diff(j) < 2;
            assert_eq!(hand_over(&keys(a), &keys(b)), works, "steps {i} and {j}");
        }
    }
}

#[test]
fn two_keys_of_one_number_are_both_tried() {
    let both = |first, second| vec![LinkKey::new(7, first), LinkKey::new(7, second)];
    assert!(hand_over(&both(OLD, NEW), &both(NEW, OLD)));
    assert!(!hand_over(&both(OLD, NEW), &[LinkKey::new(7, NEW)]));
}
