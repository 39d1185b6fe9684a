//! Each routing policy of the proxy over real handovers: who serves what, as loads,
//! health and refusals have it.

use dts_tests::client::{Connection, Outcome};
use dts_tests::lab::{Lab, Running, Setup};
use dts_tests::suite::{self, Group};
use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const CLIENT: &str = env!("CARGO_BIN_EXE_labclient");
const SCRATCH: &str = env!("CARGO_TARGET_TMPDIR");
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let setup = |overlay| Setup {
        prefix: "dtsr",
        nodes: 3,
        overlay,
        client: CLIENT,
        scratch: SCRATCH,
    };
    // With one intake for all clients one proxy has given away all there is, and what it
    // counts is exact.
    let one_intake = "POLICY=designated\nDESIGNATED=1\nUNAVAILABLE=503\nLARD_LOW=3\nLARD_HIGH=6\n\
                      REPORT_MS=20\nNODES_MS=20\nROOM_QUEUE_MS=20000\n";
    suite::main(vec![
        Group {
            setup: setup(one_intake),
            suffix: "",
            cases: vec![(
                "a_bounded_hash_spreads_one_path",
                a_bounded_hash_spreads_one_path,
            )],
            once: vec![
                (
                    "lard_moves_a_path_that_is_asked_for_too_often",
                    lard_moves_a_path_that_is_asked_for_too_often,
                ),
                (
                    "lard_with_replication_gives_a_path_one_node_more",
                    lard_with_replication_gives_a_path_one_node_more,
                ),
                (
                    "a_full_pool_lets_wait_and_then_sends_away",
                    a_full_pool_lets_wait_and_then_sends_away,
                ),
                ("a_node_that_refuses", a_node_that_refuses),
                (
                    "backups_serve_while_the_first_is_away",
                    backups_serve_while_the_first_is_away,
                ),
            ],
        },
        Group {
            setup: setup("REPORT_MS=20\nNODES_MS=20\nHEALTH=http\n"),
            suffix: "",
            cases: vec![],
            once: vec![(
                "an_application_that_stops_gets_no_handovers_until_it_is_back",
                an_application_that_stops_gets_no_handovers_until_it_is_back,
            )],
        },
        Group {
            setup: setup("REPORT_MS=20\nNODES_MS=20\n"),
            suffix: "",
            cases: vec![
                (
                    "least_connections_leaves_a_busy_node_alone",
                    least_connections_leaves_a_busy_node_alone,
                ),
                ("cookie_and_source_stick", cookie_and_source_stick),
            ],
            once: vec![
                ("random_reaches_everybody", random_reaches_everybody),
                (
                    "proxies_agree_where_a_path_is",
                    proxies_agree_where_a_path_is,
                ),
            ],
        },
    ])
}

/// Waits for what is about to become true.
#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "it does not happen: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn counter(lab: &Lab, node: u16, name: &str, result: &str) -> u64 {
    lab.metrics(node).sum(name, &[("result", result)]) as u64
}

/// Waits until every proxy knows what the nodes count now.
fn all_know(lab: &Lab) {
    let wait = |name: &str, result: &str, more: u64| {
        let before: Vec<_> = (1..=3).map(|n| counter(lab, n, name, result)).collect();
        for (node, before) in (1..=3).zip(before) {
            until(name, || counter(lab, node, name, result) >= before + more);
        }
    };
    // Two others report to each; the last report of each may be one under way. A proxy
    // that asks for the third time has taken in the second answer.
    wait("dts_peer_reports_total", "accepted", 6);
    wait("dts_rpc_requests_total", "nodes", 3);
}

/// Opens `count` connections, one after the other, that stay open after their answer
/// for the time that `hold` says, and waits until the nodes count them.
fn hold(lab: &Lab, path: &str, count: usize, hold: &str) -> Running {
    let before = held(lab);
    // As many threads as connections, since a thread waits with the one that it holds.
    let (count_key, threads) = (format!("count={count}"), format!("threads={count}"));
    let path = format!("path={path}");
    let hold = format!("hold_ms={hold}");
    let load = lab.start_load(&[&count_key, &threads, &path, &hold, "timeout=20000"]);
    until("all connections are held", || {
        held(lab) >= before + count as u64
    });
    all_know(lab);
    load
}

/// Connections that the applications of the nodes have.
fn held_by_node(lab: &Lab) -> [u64; 3] {
    [1, 2, 3].map(|n| {
        let counts = lab.metrics(n);
        counts.sum("dts_application_connections", &[("port", "80")]) as u64
    })
}

fn held(lab: &Lab) -> u64 {
    held_by_node(lab).iter().sum()
}

fn idle(lab: &Lab) {
    until("no connection is left", || held(lab) == 0);
    all_know(lab);
}

fn by_node(connections: &[Connection]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for c in connections {
        *counts.entry(c.node.as_str()).or_default() += 1;
    }
    counts
}

/// Who serves a path now.
fn server_of(lab: &Lab, path: &str) -> String {
    let path = format!("path={path}");
    let connections = lab.load(&["count=1", &path]);
    lab.assert_answered(&connections, 1, None);
    connections[0].node.clone()
}

fn a_bounded_hash_spreads_one_path(lab: &Lab) {
    idle(lab);
    let plain = lab.load(&["count=12", "path=/p/same"]);
    assert_eq!(by_node(&plain).len(), 1, "one path, one node: {plain:?}");
    idle(lab);
    let alone = server_of(lab, "/bounded/same");
    idle(lab);
    // One after the other, since each must be seen before the next is decided on.
    let mut loads = Vec::new();
    for i in 0..12 {
        loads.push(lab.start_load(&[
            "count=1",
            "path=/bounded/same",
            "hold_ms=60000",
            "timeout=20000",
        ]));
        until("the next connection is held", || held(lab) == i + 1);
        all_know(lab);
    }
    // Each was within (1 + 0.25) of its share, rounded up, when it came: 5 of 12.
    let counts = held_by_node(lab);
    assert_eq!(counts.iter().sum::<u64>(), 12);
    assert!(counts.iter().all(|&n| n <= 5), "{counts:?}");
    drop(loads);
    for _ in 0..3 {
        idle(lab);
        assert_eq!(
            server_of(lab, "/bounded/same"),
            alone,
            "alone it moves nowhere"
        );
    }
}

fn lard_moves_a_path_that_is_asked_for_too_often(lab: &Lab) {
    idle(lab);
    let first = server_of(lab, "/lard/hot");
    // At T_high, 6, it stays; above, and with others below T_low, it moves, once.
    let six = hold(lab, "/lard/hot", 6, "60000");
    assert_eq!(server_of(lab, "/lard/hot"), first);
    idle_but(lab, 6);
    let seventh = hold(lab, "/lard/hot", 1, "60000");
    let second = server_of(lab, "/lard/hot");
    assert_ne!(second, first);
    drop((six, seventh));
    idle(lab);
    let after = lab.load(&["count=10", "path=/lard/hot"]);
    lab.assert_answered(&after, 10, Some(&second));
}

/// Waits until this many connections are held, and everybody knows.
fn idle_but(lab: &Lab, left: u64) {
    until("short connections have ended", || held(lab) == left);
    all_know(lab);
}

fn lard_with_replication_gives_a_path_one_node_more(lab: &Lab) {
    idle(lab);
    let first = server_of(lab, "/lardr/hot");
    idle(lab);
    let seven = hold(lab, "/lardr/hot", 7, "60000");
    let second = server_of(lab, "/lardr/hot");
    assert_ne!(second, first);
    drop(seven);
    idle(lab);
    // Now it has both: while one is busy the other one serves, and the other way round.
    let numbers = ["/a/x", "/b/x", "/c/x"];
    for busy in [&first, &second] {
        let number: usize = busy["node".len()..].parse().expect("a node's name");
        let load = hold(lab, numbers[number - 1], 4, "60000");
        let server = server_of(lab, "/lardr/hot");
        let other = if busy == &first { &second } else { &first };
        assert_eq!(&server, other, "{busy} is busy");
        drop(load);
        idle(lab);
    }
}

fn a_full_pool_lets_wait_and_then_sends_away(lab: &Lab) {
    idle(lab);
    // Room for two at each of three nodes.
    let six = hold(lab, "/room/{}", 6, "9000");
    assert_eq!(held_by_node(lab), [2, 2, 2]);
    // One of these waits until one of the six is closed, the other one finds the queue full.
    let start = Instant::now();
    let two = lab.load(&[
        "count=2",
        "threads=2",
        "path=/room/more-{}",
        "timeout=20000",
    ]);
    let took = start.elapsed();
    let mut statuses: Vec<_> = two.iter().map(|c| (c.outcome, c.status)).collect();
    statuses.sort();
    assert_eq!(
        statuses,
        [(Outcome::Answered, 200), (Outcome::Answered, 503)],
        "{two:?}"
    );
    let waited = two
        .iter()
        .find(|c| c.status == 200)
        .map(|c| c.first_byte_ms);
    let sent_away = two
        .iter()
        .find(|c| c.status == 503)
        .map(|c| c.first_byte_ms);
    assert!(sent_away < waited, "{two:?}");
    assert!(took < PATIENCE, "{took:?}");
    lab.assert_answered(&six.connections(), 6, None);
}

fn a_node_that_refuses(lab: &Lab) {
    idle(lab);
    let nginx = lab.without(2, "nginx");
    // Its only member refuses.
    let refused = lab.load(&["count=20", "path=/b/{}"]);
    for c in &refused {
        assert_eq!((c.outcome, c.status), (Outcome::Answered, 503), "{c:?}");
    }
    // Others take what it refuses.
    let fallen_back = lab.load(&["count=60", "path=/p/refused-{}"]);
    lab.assert_answered(&fallen_back, 60, None);
    assert!(!by_node(&fallen_back).contains_key("node2"));
    drop(nginx);
    until("it serves again", || {
        lab.load(&["count=1", "path=/b/again"])[0].status == 200
    });
}

fn backups_serve_while_the_first_is_away(lab: &Lab) {
    idle(lab);
    let all = |node: Option<&str>, tag: &str| {
        let path = format!("path=/spare/{tag}-{{}}");
        let connections = lab.load(&["count=30", &path]);
        lab.assert_answered(&connections, 30, node);
        connections
            .iter()
            .map(|c| c.node.clone())
            .collect::<BTreeSet<_>>()
    };
    all(Some("node1"), "before");
    let nginx = lab.without(1, "nginx");
    assert_eq!(
        all(None, "away"),
        BTreeSet::from(["node2".into(), "node3".into()])
    );
    drop(nginx);
    until("it serves again", || {
        server_of(lab, "/spare/again") == "node1"
    });
    all(Some("node1"), "after");
}

fn least_connections_leaves_a_busy_node_alone(lab: &Lab) {
    idle(lab);
    let busy = hold(lab, "/b/{}", 12, "60000");
    let free = lab.load(&["count=60", "path=/least/{}"]);
    lab.assert_answered(&free, 60, None);
    let counts = by_node(&free);
    assert_eq!(counts.get("node2"), None, "{counts:?}");
    assert!(counts["node1"] > 5 && counts["node3"] > 5, "{counts:?}");
    drop(busy);
    idle(lab);
    let counts = lab.load(&["count=90", "path=/least/{}"]);
    assert_eq!(by_node(&counts).len(), 3);
}

fn cookie_and_source_stick(lab: &Lab) {
    for node in ["node1", "node2", "node3"] {
        let cookie = format!("header=Cookie: a=b; id=5f3a.{node}");
        let connections = lab.load(&["count=20", "path=/cookie/{}", &cookie]);
        lab.assert_answered(&connections, 20, Some(node));
    }
    let hashed = lab.load(&["count=20", "path=/cookie/{}", "header=Cookie: id=5f3a"]);
    lab.assert_answered(&hashed, 20, Some(&hashed[0].node));
    let source = lab.load(&["count=20", "path=/source/{}"]);
    lab.assert_answered(&source, 20, Some(&source[0].node));
}

fn random_reaches_everybody(lab: &Lab) {
    let connections = lab.load(&["count=150", "threads=2", "path=/random/same"]);
    lab.assert_answered(&connections, 150, None);
    let counts = by_node(&connections);
    // Each is missed with a chance of (2/3)^150.
    assert_eq!(counts.len(), 3, "{counts:?}");
}

/// Three intakes with a table each, and each path asked for at all of them.
fn proxies_agree_where_a_path_is(lab: &Lab) {
    idle(lab);
    for policy in ["lard", "lardr"] {
        let path = format!("path=/{policy}/agreed-{{}}");
        for _ in 0..6 {
            let connections = lab.load(&["count=24", &path]);
            lab.assert_answered(&connections, 24, None);
        }
        let executed = lab.executed(&format!("/{policy}/agreed-"));
        assert_eq!(executed.len(), 24);
        let mut used = BTreeSet::new();
        for (path, nodes) in &executed {
            assert_eq!(nodes.len(), 6, "{path}");
            assert!(nodes.iter().all(|n| *n == nodes[0]), "{path} by {nodes:?}");
            used.insert(nodes[0]);
        }
        assert_eq!(used.len(), 3);
    }
    let sources: BTreeSet<u16> = (1..=3)
        .filter(|&n| lab.handovers(n).iter().any(|h| h.outcome == "accepted"))
        .collect();
    assert_eq!(sources.len(), 3, "all three had a part of the connections");
}

fn an_application_that_stops_gets_no_handovers_until_it_is_back(lab: &Lab) {
    let healthy = |services: &[&str], value: f64| {
        let of = |s| lab.metrics(2).sum("dts_service_healthy", &[("service", s)]);
        services.iter().all(|s| of(*s) == value)
    };
    let both = ["web", "web6"];
    until("both services are healthy", || healthy(&both, 1.0));
    all_know(lab);
    let before = lab.load(&["count=60", "path=/p/before-{}"]);
    lab.assert_answered(&before, 60, None);
    assert!(by_node(&before).contains_key("node2"));
    let nginx = lab.without(2, "nginx");
    until("the checks see it", || healthy(&both, 0.0));
    all_know(lab);
    let refused = || lab.total("dts_handovers_total", &[("result", "refused")]);
    let so_far = refused();
    let away = lab.load(&["count=100", "path=/p/away-{}"]);
    lab.assert_answered(&away, 100, None);
    assert!(!by_node(&away).contains_key("node2"));
    assert_eq!(refused(), so_far, "nobody asks it");
    drop(nginx);
    until("the checks see it again", || healthy(&both, 1.0));
    all_know(lab);
    let after = lab.load(&["count=60", "path=/p/after-{}"]);
    lab.assert_answered(&after, 60, None);
    assert!(by_node(&after).contains_key("node2"));
    // Checks are no connections of clients.
    idle(lab);
}
