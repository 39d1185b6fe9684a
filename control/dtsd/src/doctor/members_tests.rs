//! Three nodes that are well, and one trouble at a time.

use super::super::Verdict;
use super::*;
use dts_membership::{Agreed, Part, Peer, TcpCaps, Version};
use std::time::Duration;

/// Three nodes, all well.
pub(in super::super) struct Cluster {
    roster: Roster,
    told: Vec<(u16, Told)>,
}

impl Cluster {
    pub(in super::super) fn new() -> Self {
        let nodes = [1u16, 2, 3];
        let link = |node: u16| IpAddr::from([10, 77, 1, node as u8]);
        let seen = |node: u16| Seen {
            peer: Peer {
                node,
                link: link(node),
            },
            liveness: Liveness::Alive,
            since: Duration::ZERO,
            gone: false,
            generation: 0,
            record: Some(Record {
                node,
                incarnation: 5,
                sequence: 1,
                state: State::Active,
                drained: false,
                weight: 100,
                link: link(node),
                link_mac: [2; 6],
                tcp: TcpCaps {
                    timestamps: true,
                    sack: true,
                    window_shift: Some(7),
                },
                health: u64::MAX,
                load: 0,
                version: Version([0, 1, 0]),
                config: 1,
                epoch: 2,
            }),
        };
        let part = |node: u16| Part {
            node,
            incarnation: 5,
            state: State::Active,
            weight: 100,
            health: u64::MAX,
            on_wire: true,
        };
        let told = |node: u16| {
            let facts = Facts {
                clock_us: 0,
                tcp_rmem: vec![4096, 131_072, 6_291_456],
                keys: vec![7],
                minority: false,
                refused: Vec::new(),
                vip_conflicts: Count::default(),
                cluster_mac_sources: Count::default(),
            };
            let told = Told::Facts {
                facts,
                ahead_us: 400,
                within_us: 200,
            };
            (node, told)
        };
        Self {
            roster: Roster {
                members: nodes.map(seen).into(),
                agreed: Agreed {
                    parts: nodes.map(part).into(),
                    minority: false,
                    factors: Default::default(),
                },
                superseded: None,
                schedule: Default::default(),
                now: Duration::ZERO,
            },
            told: nodes.map(told).into(),
        }
    }

    pub(in super::super) fn look(&self) -> Look<'_> {
        Look {
            own: 1,
            services: vec!["web".into(), "mail".into()],
            roster: &self.roster,
            told: &self.told,
        }
    }

    pub(in super::super) fn seen(&mut self, node: u16) -> &mut Seen {
        &mut self.roster.members[usize::from(node) - 1]
    }

    fn record(&mut self, node: u16) -> &mut Record {
        self.seen(node).record.as_mut().unwrap()
    }

    pub(in super::super) fn facts(&mut self, node: u16) -> &mut Facts {
        match &mut self.told[usize::from(node) - 1].1 {
            Told::Facts { facts, .. } => facts,
            other => panic!("{other:?}"),
        }
    }

    /// What is not well, and how badly.
    fn troubles(&self) -> Vec<(&'static str, Verdict, String)> {
        let checks = self.look().checks();
        let bad = checks.into_iter().filter(|c| c.verdict != Verdict::Ok);
        bad.map(|c| {
            assert!(c.todo.is_some(), "{c:?}");
            (c.check, c.verdict, c.found)
        })
        .collect()
    }
}

/// Changes a cluster that is well; the one trouble that follows.
fn trouble(change: impl FnOnce(&mut Cluster)) -> (&'static str, Verdict, String) {
    let mut c = Cluster::new();
    assert_eq!(c.troubles(), []);
    change(&mut c);
    let mut troubles = c.troubles();
    assert_eq!(troubles.len(), 1, "{troubles:?}");
    troubles.remove(0)
}

#[test]
fn each_trouble_is_found_alone_and_names_the_node() {
    use Verdict::{Fault, Warning};
    type Change = fn(&mut Cluster);
    let cases: [(&str, Verdict, Change); 13] = [
        ("members", Fault, |c| c.seen(2).liveness = Liveness::Dead),
        ("members", Fault, |c| c.seen(2).liveness = Liveness::Unknown),
        ("members", Warning, |c| c.seen(2).liveness = Liveness::Left),
        ("members", Warning, |c| {
            c.seen(2).liveness = Liveness::Suspect
        }),
        ("answers", Warning, |c| c.told[1].1 = Told::NoAnswer),
        ("answers", Warning, |c| c.told[1].1 = Told::Unclear),
        ("version", Warning, |c| {
            c.record(2).version = Version([0, 2, 0])
        }),
        ("configuration", Fault, |c| c.record(2).config = 9),
        ("cluster_key", Warning, |c| c.facts(2).keys = vec![8, 7]),
        ("tcp_options", Fault, |c| c.record(2).tcp.timestamps = false),
        ("tcp_rmem", Warning, |c| c.facts(2).tcp_rmem[2] = 1 << 20),
        ("minority", Fault, |c| c.facts(2).minority = true),
        ("applications", Warning, |c| c.record(2).health = !0b10),
    ];
    for (name, verdict, change) in cases {
        let (check, how, found) = trouble(change);
        assert_eq!((check, how), (name, verdict), "{found}");
        assert!(found.contains("node 2"), "{found}");
    }
}

#[test]
fn clocks_are_judged_beyond_what_the_answer_leaves_open() {
    let off = |ahead: i64, within: u64| {
        move |c: &mut Cluster| {
            let Told::Facts {
                ahead_us,
                within_us,
                ..
            } = &mut c.told[2].1
            else {
                panic!()
            };
            (*ahead_us, *within_us) = (ahead, within);
        }
    };
    let (check, verdict, found) = trouble(off(-7_250_000, 300));
    assert_eq!((check, verdict), ("clock", Verdict::Warning));
    assert_eq!(found, "node 3's is 7.2 s behind this node's");
    assert!(trouble(off(1_000_301, 300)).2.contains("ahead of"));
    let mut c = Cluster::new();
    off(1_000_300, 300)(&mut c);
    assert_eq!(c.troubles(), []);
    off(1_900_000, 1_000_000)(&mut c);
    assert_eq!(c.troubles(), []);
}

#[test]
fn a_later_start_is_a_fault() {
    let (check, verdict, found) = trouble(|c| c.roster.superseded = Some(5 + 12_300_000));
    assert_eq!((check, verdict), ("start", Verdict::Fault));
    assert!(found.contains("12.3 s later"), "{found}");
}

#[test]
fn views_that_differ_are_a_fault() {
    let (check, verdict, found) = trouble(|c| c.record(3).epoch = 9);
    assert_eq!((check, verdict), ("views", Verdict::Fault));
    assert!(found.ends_with("0000000000000002 on nodes 1, 2; 0000000000000009 on node 3"));
    // Of who is not there nothing is asked.
    let mut c = Cluster::new();
    (c.record(3).epoch, c.seen(3).liveness) = (9, Liveness::Dead);
    assert!(c.troubles().iter().all(|t| t.0 != "views"));
}

#[test]
fn a_service_without_an_owner_is_a_fault_with_its_reasons() {
    let (check, verdict, found) = trouble(|c| {
        let parts = &mut c.roster.agreed.parts;
        parts[0].state = State::Draining;
        parts[1].weight = 0;
        parts[2].health = !0b10;
    });
    assert_eq!((check, verdict), ("owners", Verdict::Fault));
    assert_eq!(
        found,
        "nobody takes new connections of mail (node 1: draining, node 2: weight_0, node 3: ill)"
    );
}

#[test]
fn faults_of_layer_2_are_over_after_a_while() {
    let lately = |age_s| Count {
        count: 4,
        age_s: Some(age_s),
    };
    let (check, verdict, found) = trouble(|c| c.facts(3).vip_conflicts = lately(3));
    assert_eq!((check, verdict), ("vip_claims", Verdict::Fault));
    assert!(
        found.starts_with("node 3 saw") && found.ends_with("(4 in all)"),
        "{found}"
    );
    let (check, ..) = trouble(|c| c.facts(1).cluster_mac_sources = lately(0));
    assert_eq!(check, "cluster_mac");
    let mut c = Cluster::new();
    c.facts(1).vip_conflicts = lately(RECENT + 1);
    assert_eq!(c.troubles(), []);
}
