//! Who is on the wire: heard there, and hearing this node.

use super::*;
use crate::wire::hello::Hello;

const EVERY: u64 = 100;

/// Nodes 1 to 3 on one wire.
struct Wire {
    nodes: Vec<Node>,
    /// `(from, to)`: whose frames do not reach whom.
    cut: Vec<(u16, u16)>,
    /// The last that each said of who is on the wire.
    told: Vec<Option<Vec<u16>>>,
    hellos: Vec<Vec<u8>>,
    /// The node that stands still, and what waits for it.
    still: Option<u16>,
    waits: Vec<Vec<u8>>,
}

fn node(id: u16, incarnation: u64) -> Node {
    let mut v = view(id, 1);
    let two = v.members[1];
    v.members.push(crate::view::Member { id: 3, ..two });
    for m in &mut v.members {
        m.known = Some(([2; 6], 5));
    }
    v.incarnation = incarnation;
    v.params.hello = Some(crate::time::Span::millis(EVERY));
    Node::new(v)
}

impl Wire {
    fn new() -> Self {
        Self {
            nodes: (1..=3).map(|id| node(id, 5)).collect(),
            cut: Vec::new(),
            told: vec![None; 3],
            hellos: Vec::new(),
            still: None,
            waits: Vec::new(),
        }
    }

    /// A node that stood still goes on, with what came meanwhile.
    fn wakes(&mut self, ms: u64) {
        let Some(id) = self.still.take() else { return };
        let n = &mut self.nodes[usize::from(id) - 1];
        n.now = n.now + crate::time::Span::millis(ms);
        let waits: Vec<_> = self.waits.drain(..).collect();
        waits.into_iter().for_each(|f| n.rx(Port::Wire, f));
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms {
            for i in 0..3 {
                let from = self.nodes[i].v.node;
                if self.still == Some(from) {
                    continue;
                }
                self.nodes[i].pass(1);
                for frame in self.nodes[i].tx(Port::Wire) {
                    self.hellos.push(frame.clone());
                    for to in self.nodes.iter_mut().filter(|n| n.v.node != from) {
                        if self.cut.contains(&(from, to.v.node)) {
                        } else if self.still == Some(to.v.node) {
                            self.waits.push(frame.clone());
                        } else {
                            to.rx(Port::Wire, frame.clone());
                        }
                    }
                }
                for event in self.nodes[i].s.take_events() {
                    let Event::OnWire { members } = event else {
                        panic!("{event:?}")
                    };
                    assert_ne!(self.told[i], members, "no news");
                    self.told[i] = members;
                }
            }
        }
    }

    fn is(&self, told: [&[u16]; 3]) {
        let told = told.map(|t| Some(t.to_vec()));
        assert_eq!(self.told, told);
    }
}

#[test]
fn all_are_on_the_wire_until_it_is_known_that_somebody_is_not() {
    let mut w = Wire::new();
    w.cut = vec![(1, 2), (1, 3), (2, 1), (3, 1)];
    w.pass(3 * EVERY);
    assert_eq!(w.told, [None, None, None]);
    w.pass(1);
    w.is([&[], &[3], &[2]]);
}

#[test]
fn who_is_cut_off_is_missed_and_found_again() {
    let mut w = Wire::new();
    w.pass(4 * EVERY);
    w.is([&[2, 3], &[1, 3], &[1, 2]]);
    w.cut = vec![(1, 2), (1, 3), (2, 1), (3, 1)];
    w.pass(3 * EVERY + 1);
    w.is([&[], &[3], &[2]]);
    w.cut.clear();
    w.pass(2 * EVERY + 1);
    w.is([&[2, 3], &[1, 3], &[1, 2]]);
}

#[test]
fn one_way_is_not_enough() {
    // Node 1 is heard by nobody: its cable, or its switch, takes nothing.
    let mut w = Wire::new();
    w.pass(4 * EVERY);
    w.cut = vec![(1, 2), (1, 3)];
    w.pass(4 * EVERY + 1);
    w.is([&[], &[3], &[2]]);
    // A switch that has learned where the cluster's address is: all goes to node 1.
    let mut w = Wire::new();
    w.pass(4 * EVERY);
    w.cut = vec![(1, 2), (1, 3), (2, 3), (3, 2)];
    w.pass(4 * EVERY + 1);
    w.is([&[], &[], &[]]);
}

#[test]
fn a_node_that_did_not_run_blames_nobody() {
    let mut w = Wire::new();
    w.pass(4 * EVERY);
    let one = &mut w.nodes[0];
    one.now = one.now + crate::time::Span::secs(2);
    w.pass(1);
    w.is([&[2, 3], &[1, 3], &[1, 2]]);
    w.pass(10 * EVERY);
    w.is([&[2, 3], &[1, 3], &[1, 2]]);
}

#[test]
fn a_node_that_was_missed_meanwhile_does_not_take_itself_for_alone() {
    for ms in [EVERY, 3 * EVERY + 50, 20 * EVERY] {
        let mut w = Wire::new();
        w.pass(4 * EVERY);
        w.still = Some(1);
        w.pass(ms);
        w.wakes(ms);
        for _ in 0..6 * EVERY {
            w.pass(1);
            assert_eq!(w.told[0], Some(vec![2, 3]), "after {ms} ms");
        }
        w.is([&[2, 3], &[1, 3], &[1, 2]]);
    }
}

#[test]
fn a_restarted_node_is_heard_at_once_and_its_former_self_is_not() {
    let mut w = Wire::new();
    w.pass(4 * EVERY);
    let old = w.hellos.clone();
    w.nodes[1] = node(2, 6);
    w.told[1] = None;
    // Another node that takes itself for node 2, as long as the membership knows of no
    // later start.
    w.pass(4 * EVERY);
    w.is([&[3], &[], &[1]]);
    for n in &mut w.nodes {
        n.v.members[1].known = Some(([2; 6], 6));
    }
    w.pass(4 * EVERY);
    w.is([&[2, 3], &[1, 3], &[1, 2]]);
    // All that was ever said, again: nothing is taken in.
    w.cut = vec![(2, 1)];
    let one = &mut w.nodes[0];
    let (drops, n) = (&one.s.drops.0, old.len() as u64);
    let refused = drops[Drop::HelloRefused as usize];
    let own = old.iter().filter(|f| f[6..12] == one.v.wire_mac).count() as u64;
    old.iter().for_each(|f| one.rx(Port::Wire, f.clone()));
    assert_eq!(
        one.s.drops.0[Drop::HelloRefused as usize],
        refused + n - own
    );
    w.pass(3 * EVERY + 1);
    assert_eq!(w.told[0], Some(vec![3]));
}

#[test]
fn a_hello_of_no_member_or_without_the_key_is_refused() {
    let mut n = node(1, 5);
    let hello = |id| Hello {
        node: id,
        incarnation: 5,
        number: 9,
        hears: [1].into_iter().collect(),
    };
    let stranger = dts_proto::block::LinkKey::new(1, b"another key");
    let forged = hello(2).frame(CLUSTER_MAC, [2, 0, 0, 0, 0, 2], &stranger);
    let key = n.v.keys[0].clone();
    let unknown = hello(4).frame(CLUSTER_MAC, [2, 0, 0, 0, 0, 4], &key);
    let own = hello(1).frame(CLUSTER_MAC, [2, 0, 0, 0, 0, 9], &key);
    for frame in [forged, unknown, own] {
        n.rx(Port::Wire, frame);
    }
    assert_eq!(n.s.drops.0[Drop::HelloRefused as usize], 3);
    // Whoever else uses the EtherType goes on doing so.
    let mut other = hello(2).frame(CLUSTER_MAC, [2, 0, 0, 0, 0, 2], &key);
    other[14] ^= 1;
    n.rx(Port::Wire, other.clone());
    assert_eq!(n.tx(Port::WireHost), [other]);
    // Without hellos of its own a node takes none in.
    n.v.params.hello = None;
    n.rx(
        Port::Wire,
        hello(2).frame(CLUSTER_MAC, [2, 0, 0, 0, 0, 2], &key),
    );
    assert_eq!(n.s.drops.0[Drop::HelloRefused as usize], 4);
}

#[test]
fn one_worker_says_hello_and_it_can_be_turned_off() {
    let mut other = node(1, 5);
    (other.s.worker, other.s.workers) = (1, 2);
    other.pass(10 * EVERY);
    assert!(other.silent() && other.s.take_events().next().is_none());
    let mut n = node(1, 5);
    n.pass(4 * EVERY);
    assert_eq!(n.tx(Port::Wire).len(), 4);
    let told = |n: &mut Node| match n.s.take_events().last() {
        Some(Event::OnWire { members }) => members,
        other => panic!("{other:?}"),
    };
    assert_eq!(told(&mut n), Some(vec![]));
    n.v.params.hello = None;
    n.pass(10 * EVERY);
    assert_eq!(told(&mut n), None);
    assert!(n.silent());
}
