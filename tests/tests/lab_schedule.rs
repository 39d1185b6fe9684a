//! Three nodes of a layer-4 service whose shares follow their loads, and whose clients are
//! refused, or left without an answer, while no application works.

use dts_tests::cluster::{dtsctl, until};
use dts_tests::lab::{Lab, Setup};
use dts_tests::suite::{self, Group};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::Duration;

const NODES: u16 = 3;
const SETUP: Setup = Setup {
    prefix: "dtss",
    nodes: NODES,
    overlay: "MEGABYTES=128\nL4=1\nSERVICE_POLICY=scheduled\nHEALTH=tcp\nHEALTH_MS=100\n\
              SERVICE_UNAVAILABLE6=drop\nCLOSING_S=1\n",
    client: env!("CARGO_BIN_EXE_labclient"),
    scratch: env!("CARGO_TARGET_TMPDIR"),
};
const PROBE: &str = env!("CARGO_BIN_EXE_synprobe");

fn main() -> ExitCode {
    let cases: Vec<suite::Case> = vec![
        (
            "a_slow_node_gets_less_and_another_scheduler_leaves_it_so",
            a_slow_node_gets_less_and_another_scheduler_leaves_it_so,
        ),
        (
            "without_an_application_clients_are_refused_or_get_no_answer",
            without_an_application_clients_are_refused_or_get_no_answer,
        ),
    ];
    suite::main(vec![Group {
        setup: SETUP,
        suffix: "",
        cases: vec![],
        once: cases,
    }])
}

/// What `dtsctl COMMAND --json` says at a node; null while nobody answers there.
fn ask(lab: &Lab, node: u16, command: &str) -> Value {
    let out = dtsctl(lab, node, &[command, "--json"]);
    serde_json::from_slice(&out.stdout).unwrap_or_default()
}

/// Owners of the first service, as each of `nodes` knows.
fn owners(lab: &Lab, nodes: &[u16], which: &[u16]) -> bool {
    let of = |node: &u16| ask(lab, *node, "nodes");
    let fits = |s: &Value| s["owners"] == Value::from(which);
    nodes.iter().all(|node| {
        let answer = of(node);
        let services = answer["services"].as_array();
        services.is_some_and(|s| s.len() == 2 && s.iter().all(fits))
    })
}

fn settle(lab: &Lab) {
    until("all own", Duration::from_secs(15), || {
        owners(lab, &[1, 2, 3], &[1, 2, 3])
    });
}

/// Buckets of the first service that node `of` owns, as `node` knows.
fn buckets(lab: &Lab, node: u16, of: u16) -> u64 {
    let status = ask(lab, node, "status");
    let found = status["services"][0]["buckets"][of.to_string()].as_u64();
    found.unwrap_or_else(|| panic!("node {node} says {status}"))
}

/// Processes of a program that are stopped (SIGSTOP), its workers too, until this is dropped.
struct Asleep(Vec<Pid>);

impl Asleep {
    fn new(lab: &Lab, node: u16, program: &str) -> Self {
        let name = lab.namespace(&format!("node{node}"));
        let out = Command::new("ip").args(["netns", "pids", &name]).output();
        let out = out.unwrap_or_else(|e| panic!("ip: {e}"));
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let is_it = |pid: &i32| {
            let comm = std::fs::read_to_string(format!("/proc/{pid}/comm"));
            comm.is_ok_and(|c| c.trim() == program)
        };
        let pids = text.lines().filter_map(|l| l.trim().parse().ok());
        let all: Vec<Pid> = pids.filter(is_it).map(Pid::from_raw).collect();
        assert!(!all.is_empty(), "no {program} at node {node}: {text}");
        let asleep = Self(all);
        asleep.signal(Signal::SIGSTOP);
        asleep
    }

    fn signal(&self, signal: Signal) {
        for pid in &self.0 {
            // One that has ended meanwhile is neither slow nor to be woken.
            let _ = kill(*pid, signal);
        }
    }
}

impl Drop for Asleep {
    fn drop(&mut self) {
        self.signal(Signal::SIGCONT);
    }
}

fn a_slow_node_gets_less_and_another_scheduler_leaves_it_so(lab: &Lab) {
    settle(lab);
    let equal = buckets(lab, 1, 3);
    assert!((1365..=1366).contains(&equal), "{equal}");
    let resets = lab.total("dts_resets_total", &[]);
    // Its kernel takes connections, and its application does nothing with them.
    let slow = Asleep::new(lab, 3, "nginx");
    let load = |count: u32, path: &str| {
        let (count, threads) = (format!("count={count}"), format!("threads={count}"));
        let path = format!("path={path}");
        lab.start_load(&[&count, &threads, &path, "timeout=40000"])
    };
    let first = load(600, "/who/first-{}");
    let took = until("its share falls", Duration::from_secs(12), || {
        buckets(lab, 1, 3) < equal * 7 / 10
    });
    let share = buckets(lab, 1, 3);
    println!("a slow node's share fell from {equal} to {share} buckets in {took:?}");
    let answer = ask(lab, 2, "nodes");
    assert_eq!(
        (&answer["scheduler"], &answer["schedule"]["by"]),
        (&1.into(), &1.into())
    );
    // What it has given away it answers for as well, as long as others may not know.
    sleep(Duration::from_millis(400));
    let second = load(300, "/who/second-{}");
    // Its own connections are over, and those that wait are node 3's.
    let waits = || {
        let of = |node| {
            let metrics = lab.metrics(node);
            ["intake", "served"].map(|s| metrics.sum("dts_flows", &[("state", s)]))
        };
        of(1).into_iter().chain(of(2)).sum::<f64>()
    };
    until("the others have answered", Duration::from_secs(6), || {
        waits() == 0.0
    });
    let before = ask(lab, 2, "nodes")["nodes"][2]["share"]
        .as_f64()
        .expect("a number");
    let killed = lab.killed(1, "dtsd");
    let took = until("another one schedules", Duration::from_secs(3), || {
        owners(lab, &[2, 3], &[2, 3]) && ask(lab, 2, "nodes")["scheduler"] == 2
    });
    println!("another scheduler after {took:?}");
    // Nobody's buckets but the dead one's moved, and they have owners.
    let ratio = buckets(lab, 2, 3) as f64 / buckets(lab, 2, 2) as f64;
    assert!(
        (ratio / before).ln().abs() < 0.35,
        "{before} became {ratio}"
    );
    sleep(Duration::from_millis(2500));
    let ratio = buckets(lab, 3, 3) as f64 / buckets(lab, 3, 2) as f64;
    assert!(ratio < 0.8, "{before} became {ratio}");
    assert_eq!(buckets(lab, 3, 3) + buckets(lab, 3, 2), 4096);
    // Whoever waited is served: no flow has moved.
    drop(slow);
    let (first, second) = (first.connections(), second.connections());
    lab.assert_answered(&first, 600, None);
    lab.assert_answered(&second, 300, None);
    let of_slow = second.iter().filter(|c| c.node == "node3").count();
    println!("of 300 new connections {of_slow} were the slow node's");
    assert!((20..90).contains(&of_slow), "{of_slow}");
    drop(killed);
    settle(lab);
    assert_eq!(lab.total("dts_resets_total", &[]), resets);
}

/// How each of 200 connections a second begins, for a second.
fn probe(lab: &Lab, to: &str, first: u16) -> Vec<String> {
    let (to, first) = (format!("to={to}"), format!("first={first}"));
    let text = lab.exec(
        "client",
        &[
            PROBE,
            &to,
            "seconds=1",
            "gap_us=5000",
            "timeout=400",
            &first,
        ],
    );
    let how = |l: &str| l.split_once(' ').map(|(_, how)| how.to_owned());
    let all: Vec<String> = text.lines().filter_map(how).collect();
    assert!(all.len() > 100, "{text}");
    all
}

fn without_an_application_clients_are_refused_or_get_no_answer(lab: &Lab) {
    settle(lab);
    let v6 = format!("[{}]:80", lab.fact("VIP6"));
    let stopped: Vec<_> = lab.nodes().map(|n| lab.without(n, "nginx")).collect();
    let took = until("nobody owns", Duration::from_secs(5), || {
        owners(lab, &[1, 2, 3], &[])
    });
    println!("the last application stopped: no owner after {took:?}");
    // What was owned is kept for a moment.
    sleep(Duration::from_millis(400));
    let refusals = || lab.total("dts_resets_total", &[("reason", "unavailable")]);
    let dropped = || lab.total("dts_drops_total", &[("reason", "unavailable")]);
    let before = (refusals(), dropped());
    let all = probe(lab, &lab.service(), 2_000);
    assert!(all.iter().all(|how| how == "refused"), "{all:?}");
    // By one node each.
    let many = all.len() as u64;
    assert_eq!((refusals() - before.0, dropped() - before.1), (many, many));
    let all = probe(lab, &v6, 3_000);
    assert!(all.iter().all(|how| how == "silence"), "{all:?}");
    let both = many + all.len() as u64;
    assert_eq!((refusals() - before.0, dropped() - before.1), (many, both));
    for node in lab.nodes() {
        let owners = lab
            .metrics(node)
            .sum("dts_service_owners", &[("service", "web")]);
        assert_eq!(owners, 0.0, "node {node}");
    }
    drop(stopped);
    settle(lab);
    let connections = lab.load(&["count=60", "threads=4", "path=/who/again-{}"]);
    lab.assert_answered(&connections, 60, None);
    for to in [lab.service(), v6] {
        let all = probe(lab, &to, 4_000);
        let failed = all.iter().filter(|how| how.parse::<f64>().is_err()).count();
        assert_eq!(failed, 0, "{all:?}");
    }
}
