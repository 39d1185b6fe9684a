//! Health, room, backups and the queue, apart from sockets and clocks.

use dts_proto::rpc::{Node, NodeState, ServiceState};
use dts_proxy::config::parse;
use dts_proxy::policy::Request;
use dts_proxy::router::{Among, Choice, Router};
use dts_proxy::rules::Route;
use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

const HEAD: &str = "\
listen: 127.0.0.1:8001
local: 10.77.1.3
default_pool: a
pools:
  - name: a
    members:
      - { address: 10.77.1.1:80 }
      - { address: 10.77.1.2:80 }
      - { address: 10.77.1.3:80, weight: 0 }
      - { address: 10.77.1.4:80, backup: true }
      - { address: 10.77.1.5:80, backup: true }
";

const ROUTE: Route = Route { pool: 0, policy: 0 };

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 77, 1, n], 80))
}

fn second(s: u64) -> Duration {
    Duration::from_secs(s)
}

struct Rig {
    router: Router<&'static str>,
    draw: u64,
}

impl Rig {
    fn new(more: &str) -> Self {
        let config = parse(&format!("{HEAD}{more}"), "x").unwrap_or_else(|e| panic!("{e}"));
        Self {
            router: Router::new(Arc::new(config), [7; 16]),
            draw: 0,
        }
    }

    fn request(&mut self) -> Request {
        self.draw += 1;
        Request {
            target: Some(format!("/{}", self.draw).into_bytes()),
            source: Ipv4Addr::LOCALHOST.into(),
            cookie: None,
        }
    }

    fn choose(&mut self, tried: &[u8], now: Duration) -> Choice {
        self.choose_among(tried, Among::All, true, now)
    }

    fn choose_among(&mut self, tried: &[u8], among: Among, patient: bool, now: Duration) -> Choice {
        let tried: Vec<_> = tried.iter().map(|&n| address(n)).collect();
        let request = self.request();
        self.router
            .choose(ROUTE, &request, &tried, among, patient, now, self.draw)
    }

    /// All members that many connections for different targets go to, at one moment.
    fn used(&mut self, tried: &[u8], now: Duration) -> HashSet<SocketAddr> {
        let mut used = HashSet::new();
        for _ in 0..60 {
            match self.choose(tried, now) {
                Choice::Member(to) => {
                    self.router.end(to, false, now);
                    used.insert(to);
                }
                other => panic!("{other:?}"),
            }
        }
        used
    }
}

fn node(n: u8, state: NodeState, healthy: bool, connections: u32, age_ms: u32) -> Node {
    Node {
        id: n.into(),
        link: address(n).ip(),
        state,
        services: vec![ServiceState {
            port: 80,
            healthy,
            connections,
            age_ms,
        }],
    }
}

fn well(n: u8, connections: u32) -> Node {
    node(n, NodeState::Active, true, connections, 0)
}

fn set(nodes: &[u8]) -> HashSet<SocketAddr> {
    nodes.iter().map(|&n| address(n)).collect()
}

#[test]
fn backups_are_used_when_nobody_else_is_healthy() {
    let mut rig = Rig::new("");
    assert_eq!(rig.used(&[], second(0)), set(&[1, 2]));
    let ill = |n| node(n, NodeState::Active, false, 0, 0);
    rig.router
        .tell(vec![well(1, 0), ill(2), well(4, 0), well(5, 0)], second(1));
    assert_eq!(rig.used(&[], second(1)), set(&[1]));
    for state in [NodeState::Dead, NodeState::Draining, NodeState::Standby] {
        let away = node(1, state, true, 0, 0);
        rig.router
            .tell(vec![away, ill(2), well(4, 0), well(5, 0)], second(1));
        assert_eq!(rig.used(&[], second(1)), set(&[4, 5]), "{state:?}");
    }
    rig.router
        .tell(vec![ill(1), ill(2), ill(4), well(5, 0)], second(1));
    assert_eq!(rig.used(&[], second(1)), set(&[5]));
    rig.router
        .tell(vec![ill(1), ill(2), ill(4), ill(5)], second(1));
    assert_eq!(rig.choose(&[], second(1)), Choice::Nobody);
    rig.router
        .tell(vec![well(1, 0), well(2, 0), ill(4), ill(5)], second(2));
    assert_eq!(rig.used(&[], second(2)), set(&[1, 2]), "back again");
}

#[test]
fn who_has_refused_is_not_asked_again_and_the_local_one_comes_last() {
    let mut rig = Rig::new("");
    assert_eq!(rig.used(&[1], second(0)), set(&[2]));
    assert_eq!(rig.used(&[1, 2], second(0)), set(&[4, 5]));
    assert_eq!(rig.choose(&[1, 2, 4, 5], second(0)), Choice::Nobody);
    let local = rig.choose_among(&[1, 2], Among::Local, false, second(0));
    assert_eq!(local, Choice::Nobody, "weight 0 takes none, here too");
    let more = HEAD.replace(", weight: 0", "");
    let config = parse(&more, "x").unwrap();
    rig.router = Router::new(Arc::new(config), [7; 16]);
    let local = rig.choose_among(&[1, 2], Among::Local, false, second(0));
    assert_eq!(local, Choice::Member(address(3)));
}

#[test]
fn what_is_not_heard_for_long_is_no_news() {
    let mut rig = Rig::new("nodes: { interval_ms: 100, stale_ms: 500 }\n");
    let dead = |n| node(n, NodeState::Dead, true, 70, 0);
    rig.router.tell(vec![dead(1), well(2, 70)], second(1));
    let at = |ms| Duration::from_millis(ms);
    assert_eq!(rig.used(&[], at(1500)), set(&[2]));
    assert_eq!(rig.router.loads().load(address(2), at(1500)), 70);
    assert_eq!(rig.used(&[], at(1501)), set(&[1, 2]));
    assert_eq!(rig.router.loads().load(address(2), at(1501)), 0);
}

#[test]
fn a_load_is_what_was_counted_and_what_was_given_since() {
    let mut rig = Rig::new("");
    let at = |ms| Duration::from_millis(ms);
    let load = |rig: &Rig, ms| rig.router.loads().load(address(1), at(ms));
    let give = |rig: &mut Rig, ms| match rig.choose(&[2], at(ms)) {
        Choice::Member(to) => assert_eq!(to, address(1)),
        other => panic!("{other:?}"),
    };
    rig.router.tell(vec![well(1, 10)], at(1000));
    give(&mut rig, 1010);
    give(&mut rig, 1020);
    give(&mut rig, 1030);
    assert_eq!(load(&rig, 1030), 13, "those under way count");
    rig.router.end(address(1), true, at(1040));
    rig.router.end(address(1), false, at(1050));
    assert_eq!(load(&rig, 1050), 12, "one has moved, one is under way");
    rig.router.end(address(1), true, at(1090));
    // Counted at 1060: the one that moved at 1040 is in it, that of 1090 is not.
    rig.router
        .tell(vec![node(1, NodeState::Active, true, 11, 40)], at(1100));
    assert_eq!(load(&rig, 1100), 12);
    rig.router.tell(vec![well(1, 7)], at(1200));
    assert_eq!(load(&rig, 1200), 7);
    // A node that counts nothing: what was given in the last second.
    rig.router.tell(vec![], at(1300));
    give(&mut rig, 1300);
    rig.router.end(address(1), true, at(1300));
    assert_eq!((load(&rig, 2300), load(&rig, 2301)), (1, 0));
}

#[test]
fn of_short_connections_few_are_thought_to_be_there() {
    let mut rig = Rig::new("    max_connections: 20\n");
    let at = |ms| Duration::from_millis(ms);
    let give = |rig: &mut Rig, count, ms| {
        for _ in 0..count {
            assert_eq!(rig.choose(&[2], at(ms)), Choice::Member(address(1)));
            rig.router.end(address(1), true, at(ms));
        }
    };
    let both = |rig: &Rig, ms| {
        let loads = rig.router.loads();
        (
            loads.load(address(1), at(ms)),
            loads.most(address(1), at(ms)),
        )
    };
    rig.router.tell(vec![well(1, 0)], at(1000));
    give(&mut rig, 10, 1010);
    assert_eq!(
        both(&rig, 1010),
        (10, 10),
        "nothing is known of how long they last"
    );
    rig.router.tell(vec![well(1, 2)], at(1100));
    assert_eq!(both(&rig, 1100), (2, 2));
    give(&mut rig, 6, 1110);
    // Two of ten were there: of six it will be two. Room is reckoned with all of them.
    assert_eq!(both(&rig, 1110), (4, 8));
    give(&mut rig, 12, 1120);
    assert_eq!(rig.choose(&[2], at(1120)), Choice::Full);
    // Nothing was given meanwhile: what is known of how long they last remains.
    rig.router.tell(vec![well(1, 5)], at(1200));
    rig.router.tell(vec![well(1, 0)], at(1300));
    give(&mut rig, 9, 1310);
    assert_eq!(both(&rig, 1310), (3, 9));
    // All that were given are there.
    rig.router.tell(vec![well(1, 40)], at(1400));
    rig.router.tell(vec![well(1, 0)], at(1500));
    give(&mut rig, 3, 1510);
    assert_eq!(both(&rig, 1510), (3, 3));
}

#[test]
fn a_full_member_is_passed_over_and_who_finds_no_room_waits_in_turn() {
    let mut rig = Rig::new("    max_connections: 2\n    queue: { length: 2, timeout_ms: 50 }\n");
    let now = second(1);
    rig.router.tell(vec![well(1, 1), well(2, 0)], now);
    let mut taken = Vec::new();
    for _ in 0..3 {
        match rig.choose(&[], now) {
            Choice::Member(to) => taken.push(to),
            other => panic!("{other:?}"),
        }
    }
    taken.sort();
    assert_eq!(taken, [address(1), address(2), address(2)]);
    assert_eq!(
        rig.choose(&[], now),
        Choice::Full,
        "backups are for illness"
    );
    let [first, second_, third] = ["first", "second", "third"].map(|who| {
        let request = rig.request();
        rig.router.wait(ROUTE, request, who)
    });
    assert_eq!(third, Err("third"), "two may wait");
    let (Ok(first), Ok(_)) = (first, second_) else {
        panic!("both wait");
    };
    assert!(rig.router.admit(now, 0).is_empty());
    // A place is free. Those who wait come before a newcomer.
    rig.router.end(taken[0], false, now);
    assert_eq!(rig.choose(&[], now), Choice::Full);
    let admitted = rig.router.admit(now, 0);
    assert_eq!(admitted, [("first", Choice::Member(taken[0]))]);
    assert!(!rig.router.give_up(0, first), "it is not there any more");
    // By a count of the node's.
    rig.router.end(taken[0], true, now);
    rig.router.tell(vec![well(1, 2), well(2, 1)], second(2));
    assert_eq!(rig.router.waiting(0), 1);
    let admitted = rig.router.admit(second(2), 0);
    assert_eq!(admitted.len(), 0, "two are still under way at node 2");
    rig.router.end(address(2), true, second(2));
    rig.router.end(address(2), true, second(2));
    rig.router.tell(vec![well(1, 2), well(2, 1)], second(3));
    let admitted = rig.router.admit(second(3), 0);
    assert_eq!(admitted, [("second", Choice::Member(address(2)))]);
    assert_eq!(rig.router.waiting(0), 0);
}

#[test]
fn who_gives_up_is_not_admitted() {
    let mut rig = Rig::new("    max_connections: 1\n    queue: { length: 9 }\n");
    rig.router.tell(vec![well(1, 1), well(2, 1)], second(1));
    let numbers: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .map(|who| {
            let request = rig.request();
            rig.router.wait(ROUTE, request, who).unwrap()
        })
        .collect();
    assert!(rig.router.give_up(0, numbers[1]));
    rig.router.tell(vec![well(1, 0), well(2, 0)], second(2));
    let admitted: Vec<_> = rig
        .router
        .admit(second(2), 0)
        .into_iter()
        .map(|a| a.0)
        .collect();
    assert_eq!(admitted, ["a", "c"]);
}

#[test]
fn who_waits_is_told_when_nobody_is_left() {
    let mut rig = Rig::new("    max_connections: 1\n    queue: { length: 9 }\n");
    rig.router.tell(vec![well(1, 1), well(2, 1)], second(1));
    let request = rig.request();
    rig.router.wait(ROUTE, request, "a").unwrap();
    let dead = |n| node(n, NodeState::Dead, true, 0, 0);
    rig.router.tell([1, 2, 4, 5].map(dead).to_vec(), second(2));
    assert_eq!(rig.router.admit(second(2), 0), [("a", Choice::Nobody)]);
}

#[test]
fn with_wait_each_waits_for_its_own_member() {
    let more = "    max_connections: 1\n    full: wait\n    queue: { length: 9 }\n";
    let mut rig = Rig::new(more);
    let now = second(1);
    rig.router.tell(vec![well(1, 1), well(2, 0)], now);
    // Targets for either member, by what an empty pool would choose.
    let mut idle = Rig::new("");
    let mut target = |n: u8| loop {
        let request = idle.request();
        let chosen = idle
            .router
            .choose(ROUTE, &request, &[], Among::All, true, now, 0);
        if chosen == Choice::Member(address(n)) {
            return request;
        }
    };
    let (of_one, of_two) = (target(1), target(2));
    let choose = |rig: &mut Rig, request: &Request, patient| {
        rig.router
            .choose(ROUTE, request, &[], Among::All, patient, now, 0)
    };
    assert_eq!(
        choose(&mut rig, &of_one, true),
        Choice::Full,
        "node 2 has room, and is not asked"
    );
    rig.router.wait(ROUTE, of_one.clone(), "one").unwrap();
    assert!(rig.router.admit(now, 0).is_empty());
    // Another one's wait is no matter to whom node 2 would take.
    rig.router.wait(ROUTE, of_two.clone(), "two").unwrap();
    assert_eq!(
        rig.router.admit(now, 0),
        [("two", Choice::Member(address(2)))]
    );
    rig.router.end(address(2), false, now);
    // After its time, or where no more may wait, any one will do.
    assert_eq!(choose(&mut rig, &of_one, false), Choice::Member(address(2)));
    rig.router.tell(vec![well(1, 0), well(2, 0)], now);
    assert_eq!(
        rig.router.admit(now, 0),
        [("one", Choice::Member(address(1)))]
    );
    assert_eq!(choose(&mut rig, &of_one, false), Choice::Full);
}
