//! Destinations that refuse, die, stop or cannot be heard. One node owns every
//! SYN, so that the source of each handover is known: node 2. Pool a is nodes 1
//! and 3, pool b is node 1 alone, pool c is node 3.

use dts_tests::capture::Capture;
use dts_tests::client::{Connection, Outcome};
use dts_tests::lab::{Lab, Setup, bin_dir};
use dts_tests::suite::{self, Group};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

const SETUP: Setup = Setup {
    prefix: "dtsf",
    nodes: 3,
    overlay: "POLICY=designated\nDESIGNATED=2\nPOOL_A=1,3\nPOOL_B=1\nPOOL_C=3\nDEADLINE_MS=150\nUNKNOWN_MS=2000\n",
    client: env!("CARGO_BIN_EXE_labclient"),
    scratch: env!("CARGO_TARGET_TMPDIR"),
};
/// The same with handovers that are repeated.
const REPEATS: Setup = Setup {
    overlay: "POLICY=designated\nDESIGNATED=2\nPOOL_A=1,3\nPOOL_B=1\nPOOL_C=3\nREPEATS=1\n",
    ..SETUP
};
/// The node that owns every SYN.
const SOURCE: u16 = 2;
/// When the client of an unknown outcome is reset, counted from the freeze.
const UNKNOWN_MS: f64 = 2000.0;
/// What a busy machine may add to any deadline.
const MARGIN_MS: f64 = 1000.0;
/// A splice SYN to node 1, as an nftables expression.
const SPLICE_TO_1: &str = "ip daddr 10.77.1.1 tcp flags & (syn | ack | rst) == syn";
/// Every link message to node 1.
const TO_1: &str = "ip daddr 10.77.1.1 ip protocol tcp";
/// Every link message from node 1.
const FROM_1: &str = "ip saddr 10.77.1.1 ip protocol tcp";

fn main() -> ExitCode {
    let faults = Group {
        setup: SETUP,
        suffix: "",
        cases: vec![
            (
                "a_refused_handover_goes_to_another_node",
                a_refused_handover_goes_to_another_node,
            ),
            (
                "a_refusal_by_the_only_node_ends_the_connection",
                a_refusal_by_the_only_node_ends_the_connection,
            ),
            (
                "an_aborted_handover_goes_to_another_node",
                an_aborted_handover_goes_to_another_node,
            ),
            (
                "an_unknown_outcome_resets_the_client_at_its_deadline",
                an_unknown_outcome_resets_the_client_at_its_deadline,
            ),
            (
                "a_stopped_destination_executes_nothing_twice",
                a_stopped_destination_executes_nothing_twice,
            ),
            (
                "a_destination_that_wakes_in_time_is_no_loss",
                a_destination_that_wakes_in_time_is_no_loss,
            ),
            (
                "a_lost_accept_is_proved_by_the_client",
                a_lost_accept_is_proved_by_the_client,
            ),
            (
                "lost_link_messages_are_sent_again",
                lost_link_messages_are_sent_again,
            ),
            (
                "a_dead_daemon_at_the_destination",
                a_dead_daemon_at_the_destination,
            ),
            (
                "a_destination_killed_under_load",
                a_destination_killed_under_load,
            ),
            ("a_restarted_owner_serves", a_restarted_owner_serves),
        ],
        once: vec![],
    };
    let repeats = Group {
        setup: REPEATS,
        suffix: "",
        cases: vec![(
            "what_a_dead_destination_had_is_repeated",
            what_a_dead_destination_had_is_repeated,
        )],
        once: vec![],
    };
    suite::main(vec![faults, repeats])
}

fn outcomes(connections: &[Connection]) -> BTreeMap<Outcome, usize> {
    let mut counts = BTreeMap::new();
    for c in connections {
        *counts.entry(c.outcome).or_default() += 1;
    }
    counts
}

/// No request was executed more than once, and those that were answered were.
#[track_caller]
fn assert_once(lab: &Lab, part: &str, connections: &[Connection]) {
    let executed = lab.executed(part);
    for (path, nodes) in &executed {
        assert_eq!(nodes.len(), 1, "{path} was executed by nodes {nodes:?}");
    }
    for c in connections
        .iter()
        .filter(|c| c.outcome == Outcome::Answered)
    {
        assert!(
            executed.contains_key(&c.path),
            "{} was answered, but no node executed it",
            c.path
        );
    }
}

fn ended(lab: &Lab, result: &str) -> u64 {
    lab.metrics(SOURCE)
        .sum("dts_handovers_total", &[("result", result)]) as u64
}

/// New connections to every pool work, at the latest after `patience`.
#[track_caller]
fn assert_recovers(lab: &Lab, tag: &str, patience: Duration) {
    let deadline = Instant::now() + patience;
    let mut round = 0;
    loop {
        round += 1;
        let connections: Vec<_> = ["a", "b", "c"]
            .into_iter()
            .flat_map(|pool| {
                lab.load(&[
                    "count=10",
                    "timeout=3000",
                    &format!("path=/{pool}/{tag}-{round}-{{}}"),
                ])
            })
            .collect();
        if connections.iter().all(|c| c.outcome == Outcome::Answered) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "after {patience:?}: {:?}",
            outcomes(&connections)
        );
        sleep(Duration::from_millis(200));
    }
}

fn a_refused_handover_goes_to_another_node(lab: &Lab) {
    let before = ended(lab, "refused");
    let down = lab.without(1, "nginx");
    let connections = lab.load(&["count=60", "threads=2", "path=/a/refused-{}"]);
    lab.assert_answered(&connections, 60, Some("node3"));
    // By consistent hashing half of the paths would be node 1's: 60 paths all hash
    // elsewhere once in 10^18.
    assert!(ended(lab, "refused") > before, "nobody was refused");
    assert_once(lab, "/a/refused-", &connections);
    let record = lab
        .handovers(SOURCE)
        .into_iter()
        .find(|h| h.outcome == "refused")
        .expect("a record of a refusal");
    assert_eq!((record.source, record.destination), (SOURCE, Some(1)));
    assert!(record.duration_us < 150_000, "{record:?}");
    drop(down);
    assert_recovers(lab, "after-refused", Duration::from_secs(5));
}

fn a_refusal_by_the_only_node_ends_the_connection(lab: &Lab) {
    let before = ended(lab, "refused");
    let down = lab.without(1, "nginx");
    let connections = lab.load(&["count=10", "path=/b/only-{}", "timeout=3000"]);
    for c in &connections {
        assert!(
            matches!(c.outcome, Outcome::Closed | Outcome::Reset),
            "{c:?}"
        );
        assert!(c.total_ms < 150.0 + MARGIN_MS, "{c:?}");
    }
    // Once the proxy has heard of the first ones, it does not even try.
    let refused = ended(lab, "refused") - before;
    assert!((1..=10).contains(&refused), "{refused} were refused");
    drop(down);
    assert_recovers(lab, "after-only", Duration::from_secs(5));
}

fn an_aborted_handover_goes_to_another_node(lab: &Lab) {
    let before = ended(lab, "aborted");
    // The splice is lost and the abort is not: node 1 says that it never saw it.
    let losing = lab.lose("l2", SPLICE_TO_1);
    let connections = lab.load(&["count=40", "threads=4", "path=/a/aborted-{}"]);
    drop(losing);
    lab.assert_answered(&connections, 40, Some("node3"));
    assert_once(lab, "/a/aborted-", &connections);
    assert!(ended(lab, "aborted") > before, "nothing was aborted");
    let record = lab
        .handovers(SOURCE)
        .into_iter()
        .find(|h| h.outcome == "aborted")
        .expect("a record of an abort");
    assert_eq!((record.source, record.destination), (SOURCE, Some(1)));
    assert_recovers(lab, "after-aborted", Duration::from_secs(5));
}

/// Requests for node 1 alone of which nothing is ever heard again.
fn unknown(lab: &Lab, tag: &str) -> Vec<Connection> {
    const COUNT: u64 = 8;
    let (before, resets) = (
        ended(lab, "unknown"),
        lab.metrics(SOURCE)
            .sum("dts_resets_total", &[("reason", "unknown")]),
    );
    let path = format!("path=/b/{tag}-{{}}");
    let (capture, connections) = lab.capture("client", "wire0", tag, || {
        lab.load(&["count=8", "threads=8", &path, "timeout=6000"])
    });
    for c in &connections {
        assert_eq!(c.outcome, Outcome::Reset, "{c:?}");
        assert!(
            (UNKNOWN_MS - 50.0..UNKNOWN_MS + MARGIN_MS).contains(&c.total_ms),
            "{c:?}"
        );
    }
    assert_eq!(ended(lab, "unknown") - before, COUNT);
    assert_eq!(
        lab.metrics(SOURCE)
            .sum("dts_resets_total", &[("reason", "unknown")])
            - resets,
        COUNT as f64
    );
    let capture = Capture::read(lab, &capture);
    assert!(
        capture.streams.values().all(|s| s.answered.is_none()),
        "{capture}"
    );
    connections
}

fn an_unknown_outcome_resets_the_client_at_its_deadline(lab: &Lab) {
    let losing = lab.lose("l2", TO_1);
    unknown(lab, "unknown");
    drop(losing);
    assert!(
        lab.executed("/b/unknown-").is_empty(),
        "executed, but nobody could know of it"
    );
    let record = lab
        .handovers(SOURCE)
        .into_iter()
        .find(|h| h.outcome == "unknown")
        .expect("a record of an unknown outcome");
    assert_eq!((record.source, record.destination), (SOURCE, Some(1)));
    assert!(
        record.duration_us as f64 / 1e3 < 150.0 + MARGIN_MS,
        "{record:?}"
    );
    assert_recovers(lab, "after-unknown", Duration::from_secs(5));
}

fn a_stopped_destination_executes_nothing_twice(lab: &Lab) {
    let paused = lab.paused(1, "dtsd");
    // Before the silence is noticed: these still go to node 1.
    let connections = unknown(lab, "stopped");
    drop(paused);
    sleep(Duration::from_millis(500));
    // What waited in node 1's queues may be executed now, once; nobody repeated it.
    assert_once(lab, "/b/stopped-", &connections);
    assert_recovers(lab, "after-stopped", Duration::from_secs(5));
}

fn a_destination_that_wakes_in_time_is_no_loss(lab: &Lab) {
    let paused = lab.paused(1, "dtsd");
    let load = lab.start_load(&["count=8", "threads=8", "path=/b/woken-{}", "timeout=6000"]);
    sleep(Duration::from_millis(600));
    drop(paused);
    let connections = load.connections();
    for c in &connections {
        assert!(
            matches!(c.outcome, Outcome::Answered | Outcome::Reset),
            "{c:?}"
        );
        assert!(c.total_ms < UNKNOWN_MS + MARGIN_MS, "{c:?}");
    }
    assert_once(lab, "/b/woken-", &connections);
    assert_recovers(lab, "after-woken", Duration::from_secs(5));
}

fn a_lost_accept_is_proved_by_the_client(lab: &Lab) {
    let before = ended(lab, "accepted");
    let losing = lab.lose("l1", FROM_1);
    let connections = lab.load(&["count=20", "threads=2", "path=/b/proved-{}", "timeout=4000"]);
    drop(losing);
    lab.assert_answered(&connections, 20, Some("node1"));
    assert_once(lab, "/b/proved-", &connections);
    // The source counts a handover when it is buried: when its end mark is
    // acknowledged, or was sent eight times without an answer.
    let deadline = Instant::now() + Duration::from_secs(10);
    while ended(lab, "accepted") - before < 20 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    let known = ended(lab, "accepted") - before;
    let of_these = |c: &Connection| lab.handover_of_port(c.port);
    let told: Vec<_> = connections.iter().map(of_these).collect();
    assert_eq!(known, 20, "{told:#?}");
    assert_recovers(lab, "after-proved", Duration::from_secs(5));
}

/// Requests while of every four messages from node 2, and of every four from node 1,
/// one is lost.
fn lossy(lab: &Lab, path: &str, count: usize, arguments: &[&str]) {
    let repeats = || {
        lab.metrics(SOURCE)
            .sum("dts_link_repeats_total", &[("worker", "0")])
    };
    let before = repeats();
    let fourth = "ip protocol tcp numgen inc mod 4 == 0";
    let losing = (lab.lose("l2", fourth), lab.lose("l1", fourth));
    let (path_of, count_of) = (format!("path={path}{{}}"), format!("count={count}"));
    let fixed = [&path_of, &count_of, "threads=2", "timeout=5000"];
    let connections = lab.load(&[&fixed, arguments].concat());
    drop(losing);
    // Eleven splices fit between the freeze and the abort, seven where there is more to
    // send, and each is in vain with a probability of 1 - (3/4)^2. A handover to node 1
    // may still be aborted, which is no error: then node 3 has it, of whose
    // messages none is lost.
    lab.assert_answered(&connections, count, None);
    assert_once(lab, path, &connections);
    let by_1 = connections.iter().filter(|c| c.node == "node1").count();
    assert!(by_1 > count / 4, "only {by_1} of {count} by node 1");
    assert!(repeats() > before, "nothing was sent again");
}

fn lost_link_messages_are_sent_again(lab: &Lab) {
    lossy(lab, "/a/lossy-small-", 200, &[]);
    // Six data segments each.
    lossy(lab, "/a/lossy-large-", 120, &["pad=7000"]);
}

fn a_dead_daemon_at_the_destination(lab: &Lab) {
    let killed = lab.killed(1, "dtsd");
    let first = lab.load(&[
        "count=10",
        "threads=10",
        "path=/a/dead-first-{}",
        "timeout=6000",
    ]);
    for c in &first {
        // Node 1's share is of unknown outcome until its silence is noticed.
        assert!(
            matches!(c.outcome, Outcome::Answered | Outcome::Reset),
            "{c:?}"
        );
        assert!(c.total_ms < UNKNOWN_MS + MARGIN_MS, "{c:?}");
    }
    assert_once(lab, "/a/dead-first-", &first);
    sleep(Duration::from_millis(1500));
    // Now it has: the proxies know, and ask the other node alone.
    let asked = ended(lab, "unreachable");
    let connections = lab.load(&["count=60", "threads=2", "path=/a/dead-{}", "timeout=6000"]);
    lab.assert_answered(&connections, 60, Some("node3"));
    assert!(
        connections.iter().all(|c| c.first_byte_ms < MARGIN_MS),
        "{connections:?}"
    );
    assert_eq!(ended(lab, "unreachable"), asked);
    drop(killed);
    assert_recovers(lab, "after-dead", Duration::from_secs(10));
}

fn a_destination_killed_under_load(lab: &Lab) {
    let load = lab.start_load(&[
        "count=1000000",
        "seconds=6",
        "threads=8",
        "path=/b/killed-{}",
        "timeout=12000",
    ]);
    sleep(Duration::from_millis(1500));
    let killed = lab.killed(1, "dtsd");
    let connections = load.connections();
    let counts = outcomes(&connections);
    let before: Vec<_> = connections
        .iter()
        .filter(|c| c.outcome == Outcome::Answered)
        .collect();
    assert!(before.len() > 50, "{counts:?}");
    for c in &connections {
        // Answered; reset as unknown; or, once node 1 is known to be dead, closed at
        // once because the pool has no other node. A connection that was accepted
        // before the kill and whose answer was not out yet is reset as an orphan,
        // when node 1 has been dead for gone_ms.
        assert!(
            matches!(
                c.outcome,
                Outcome::Answered | Outcome::Reset | Outcome::Closed
            ),
            "{c:?} of {counts:?}"
        );
        assert!(
            c.total_ms < 3.0 * 1000.0 + UNKNOWN_MS + MARGIN_MS,
            "{c:?} of {counts:?}"
        );
    }
    assert!(
        counts.contains_key(&Outcome::Reset),
        "no handover was under way: {counts:?}"
    );
    assert_once(lab, "/b/killed-", &connections);
    drop(killed);
    assert_recovers(lab, "after-killed", Duration::from_secs(10));
}

fn a_restarted_owner_serves(lab: &Lab) {
    // The node that owns every SYN: nobody can connect while it is away.
    drop(lab.killed(SOURCE, "dtsd"));
    assert_recovers(lab, "after-owner", Duration::from_secs(10));
    lab.lab(&["restart", "2", "dtsd"]);
    assert_recovers(lab, "after-restart", Duration::from_secs(10));
}

/// Requests lie at node 1, whose application thinks about them, when it dies. Their clients
/// get the answers of other nodes, and notice nothing.
fn what_a_dead_destination_had_is_repeated(lab: &Lab) {
    const COUNT: usize = 20;
    let repeated = || {
        let labels = [("result", "repeated")];
        lab.metrics(SOURCE)
            .sum("dts_handover_repeats_total", &labels) as usize
    };
    let resets = || [2, 3].map(|n| lab.metrics(n).sum("dts_resets_total", &[]));
    let before = (repeated(), resets(), ended(lab, "accepted"));
    let down = lab.without(1, "nginx");
    let records = lab.dir(1).join("records-held");
    let thinker = lab.spawn(
        "node1",
        &[
            &bin_dir().join("labserver").to_string_lossy(),
            "listen=[::]:80",
            &format!("records={}", records.display()),
            "node=node1",
            "delay_ms=60000",
        ],
    );
    let listens = Instant::now() + Duration::from_secs(5);
    while lab
        .exec("node1", &["ss", "-Hltn", "sport = :80"])
        .is_empty()
    {
        assert!(Instant::now() < listens, "no server at node 1");
        sleep(Duration::from_millis(10));
    }
    let load = lab.start_load(&[
        &format!("count={COUNT}"),
        &format!("threads={COUNT}"),
        "path=/b/held-{}",
        "method=POST",
        "body=3000",
        "timeout=12000",
    ]);
    let taken = Instant::now() + Duration::from_secs(5);
    while ended(lab, "accepted") < before.2 + COUNT as u64 {
        assert!(Instant::now() < taken, "node 1 does not take them all");
        sleep(Duration::from_millis(20));
    }
    let killed = lab.killed(1, "dtsd");
    let connections = load.connections();
    lab.assert_answered(&connections, COUNT, None);
    for c in &connections {
        assert!(c.node != "node1" && c.total_ms < 6_000.0, "{c:?}");
    }
    assert_eq!(repeated() - before.0, COUNT);
    assert_eq!(resets(), before.1, "a client was reset");
    drop(thinker);
    drop(down);
    drop(killed);
    assert_recovers(lab, "after-repeats", Duration::from_secs(10));
}
