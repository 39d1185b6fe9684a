//! Four nodes of which some die, freeze, lose their link, are drained, or are kept busy.
//! The environment variable `DTS_ROUNDS` says how often each fault is tried, and
//! `DTS_BUSY_SECONDS` how long the cores are kept busy.

use dts_tests::lab::{Lab, Running, Setup, bin_dir};
use dts_tests::suite::{self, Group};
use serde_json::Value;
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const NODES: u16 = 4;
const SETUP: Setup = Setup {
    prefix: "dtsc",
    nodes: NODES,
    overlay: "MEGABYTES=128\nDRAIN_S=20\nCLOSING_S=1\n",
    client: env!("CARGO_BIN_EXE_labclient"),
    scratch: env!("CARGO_TARGET_TMPDIR"),
};
const PROBE: &str = env!("CARGO_BIN_EXE_synprobe");
/// New connections of a dead node's share are answered by others after this long.
const TAKEN_OVER: f64 = 0.5;

fn main() -> ExitCode {
    // What is told by the clock is no test of every day: `make failover` asks for it.
    let timed: Vec<suite::Case> = vec![
        ("a_killed_daemon_is_replaced", a_killed_daemon_is_replaced),
        ("a_frozen_daemon_is_replaced", a_frozen_daemon_is_replaced),
        (
            "a_cut_link_costs_nobody_an_answer",
            a_cut_link_costs_nobody_an_answer,
        ),
        (
            "a_node_without_power_is_replaced",
            a_node_without_power_is_replaced,
        ),
        (
            "a_daemon_that_is_to_end_drains_itself",
            a_daemon_that_is_to_end_drains_itself,
        ),
    ];
    let always: Vec<suite::Case> = vec![
        ("a_draining_is_waited_for", a_draining_is_waited_for),
        (
            "every_node_is_drained_under_load",
            every_node_is_drained_under_load,
        ),
        ("two_halves_go_on_and_heal", two_halves_go_on_and_heal),
        ("busy_cores_make_nobody_dead", busy_cores_make_nobody_dead),
    ];
    let once = match std::env::var_os("DTS_FAILOVER") {
        Some(_) => timed,
        None => always,
    };
    suite::main(vec![Group {
        setup: SETUP,
        suffix: "",
        cases: vec![],
        once,
    }])
}

fn setting(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |v| {
        v.parse().unwrap_or_else(|e| panic!("{name}: {e}"))
    })
}

fn epoch_now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("the clock is right").as_secs_f64()
}

fn dtsctl(lab: &Lab, node: u16, arguments: &[&str]) -> Output {
    let program = bin_dir().join("dtsctl");
    let socket = lab.dir(node).join("admin.sock");
    let mut command = Command::new(program);
    command.arg("--socket").arg(socket).args(arguments);
    command.output().unwrap_or_else(|e| panic!("dtsctl: {e}"))
}

#[track_caller]
fn must(lab: &Lab, node: u16, arguments: &[&str]) {
    let out = dtsctl(lab, node, arguments);
    assert!(out.status.success(), "{arguments:?}: {out:?}");
}

/// What a node sees; `None` while nobody answers there.
fn nodes(lab: &Lab, node: u16) -> Option<Vec<Value>> {
    let out = dtsctl(lab, node, &["nodes", "--json"]);
    let answer: Value = serde_json::from_slice(&out.stdout).ok()?;
    answer["nodes"].as_array().cloned()
}

/// Whether all nodes see all others and have one epoch.
fn is_whole(lab: &Lab) -> bool {
    let mut epochs = Vec::new();
    for node in lab.nodes() {
        let Some(seen) = nodes(lab, node) else {
            return false;
        };
        if seen
            .iter()
            .any(|n| n["member"] != "alive" || n["state"] != "active")
        {
            return false;
        }
        epochs.extend(seen.iter().map(|n| n["epoch"].to_string()));
    }
    epochs.iter().all(|e| *e == epochs[0])
}

#[track_caller]
fn until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < limit, "{what}: not in {limit:?}");
        sleep(Duration::from_millis(20));
    }
    start.elapsed()
}

#[track_caller]
fn settle(lab: &Lab) {
    until("the cluster is whole", Duration::from_secs(15), || {
        is_whole(lab)
    });
}

/// Attempts to connect: when each was begun, seconds since the epoch, and whether its first
/// SYN was answered.
fn attempts(out: &Output) -> Vec<(f64, bool)> {
    assert!(out.status.success(), "{out:?}");
    let text = String::from_utf8_lossy(&out.stdout);
    let line = |l: &str| {
        let (time, how) = l.split_once(' ')?;
        assert_ne!(how, "refused", "somebody answered with a reset");
        Some((time.parse().ok()?, how != "silence"))
    };
    text.lines()
        .map(|l| line(l).expect("a line of synprobe"))
        .collect()
}

/// The next port of the client's that no probe has used.
static PORT: AtomicU16 = AtomicU16::new(FIRST_PORT);
/// Below the kernel's own choice for a client (`ip_local_port_range`).
const FIRST_PORT: u16 = 2000;
const LAST_PORT: u16 = 31_000;
/// Ports of one probe, which makes fewer connections.
const PORTS: u16 = 600;

fn probe(lab: &Lab, seconds: &str) -> Child {
    let next = |p: u16| {
        Some(if p >= LAST_PORT {
            FIRST_PORT
        } else {
            p + PORTS
        })
    };
    let first = PORT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    let first = format!("first={}", first.unwrap_or(FIRST_PORT));
    let mut command = Command::new("ip");
    let (to, seconds) = (
        format!("to={}", lab.service()),
        format!("seconds={seconds}"),
    );
    command
        .args([
            "netns",
            "exec",
            &lab.namespace("client"),
            PROBE,
            &to,
            &seconds,
        ])
        .args(["gap_us=5000", "timeout=400", &first])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command.spawn().unwrap_or_else(|e| panic!("synprobe: {e}"))
}

/// Tries a fault on each node in turn: how long nobody answered for a part of the buckets,
/// seconds, in each round.
fn rounds(lab: &Lab, what: &str, fault: fn(&Lab, u16), repair: fn(&Lab, u16)) -> Vec<f64> {
    let mut gaps = Vec::new();
    for round in 0..setting("DTS_ROUNDS", 4) {
        settle(lab);
        let node = 1 + (round % u64::from(NODES)) as u16;
        let running = probe(lab, "2.5");
        sleep(Duration::from_millis(800));
        let at = epoch_now();
        fault(lab, node);
        let out = running.wait_with_output().expect("synprobe ends");
        repair(lab, node);
        let attempts = attempts(&out);
        assert!(attempts.len() > 300, "only {} attempts", attempts.len());
        let silent: Vec<f64> = attempts.iter().filter(|a| !a.1).map(|a| a.0 - at).collect();
        let early = silent.iter().filter(|t| **t < -0.05).count();
        assert_eq!(early, 0, "{what}: silence before the fault: {silent:?}");
        let ms: Vec<i32> = silent.iter().map(|t| (t * 1e3) as i32).collect();
        println!(
            "{what}, node {node}: {} of {} unanswered, begun at ms {ms:?}",
            ms.len(),
            attempts.len()
        );
        gaps.push(silent.last().copied().unwrap_or(0.0).max(0.0));
    }
    let ms: Vec<u32> = gaps.iter().map(|g| (g * 1e3) as u32).collect();
    println!("{what}: last unanswered connection begun after, ms: {ms:?}");
    gaps
}

#[track_caller]
fn assert_short(gaps: &[f64]) {
    assert!(gaps.iter().all(|g| *g < TAKEN_OVER), "{gaps:?}");
}

fn a_killed_daemon_is_replaced(lab: &Lab) {
    let kill = |lab: &Lab, node: u16| {
        lab.lab(&["kill", &node.to_string(), "dtsd"]);
    };
    let start = |lab: &Lab, node: u16| {
        let port_is_free = || {
            let name = format!("node{node}");
            lab.exec(&name, &["ss", "-Hltn", "sport = :9464"])
                .is_empty()
        };
        until(
            "the killed daemon has ended",
            Duration::from_secs(10),
            port_is_free,
        );
        lab.lab(&["start", &node.to_string(), "dtsd"]);
    };
    assert_short(&rounds(lab, "kill -9", kill, start));
}

fn a_frozen_daemon_is_replaced(lab: &Lab) {
    let stop = |lab: &Lab, node: u16| {
        lab.lab(&["kill", &node.to_string(), "dtsd", "STOP"]);
    };
    let go_on = |lab: &Lab, node: u16| {
        lab.lab(&["kill", &node.to_string(), "dtsd", "CONT"]);
    };
    assert_short(&rounds(lab, "SIGSTOP", stop, go_on));
}

fn plug(lab: &Lab, port: &str, state: &str) {
    lab.exec("sw", &["ip", "link", "set", port, state]);
}

fn a_cut_link_costs_nobody_an_answer(lab: &Lab) {
    let cut = |lab: &Lab, node: u16| plug(lab, &format!("l{node}"), "down");
    let mend = |lab: &Lab, node: u16| plug(lab, &format!("l{node}"), "up");
    assert_short(&rounds(lab, "link cut", cut, mend));
}

/// The processes of a node.
fn processes(lab: &Lab, node: u16) -> Vec<i32> {
    let name = lab.namespace(&format!("node{node}"));
    let out = Command::new("ip").args(["netns", "pids", &name]).output();
    let out = out.unwrap_or_else(|e| panic!("ip: {e}"));
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.lines().filter_map(|l| l.trim().parse().ok()).collect()
}

fn a_node_without_power_is_replaced(lab: &Lab) {
    let off = |lab: &Lab, node: u16| {
        plug(lab, &format!("w{node}"), "down");
        plug(lab, &format!("l{node}"), "down");
        // All of them: a master that is killed leaves its workers.
        for pid in processes(lab, node) {
            let pid = nix::unistd::Pid::from_raw(pid);
            // One that has ended meanwhile is as good.
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    };
    let on = |lab: &Lab, node: u16| {
        until("all have ended", Duration::from_secs(10), || {
            processes(lab, node).is_empty()
        });
        plug(lab, &format!("w{node}"), "up");
        plug(lab, &format!("l{node}"), "up");
        for role in ["dtsd", "nginx", "proxy"] {
            lab.lab(&["start", &node.to_string(), role]);
        }
    };
    assert_short(&rounds(lab, "power off", off, on));
}

/// Makes a node active again, whatever became of the test.
struct Undrain<'a>(&'a Lab, u16);

impl Drop for Undrain<'_> {
    fn drop(&mut self) {
        dtsctl(self.0, self.1, &["undrain", &self.1.to_string()]);
    }
}

/// A download that takes a while, in the client's namespace.
fn download(lab: &Lab, path: &str, rate: &str) -> Running {
    let url = lab.url(path);
    lab.spawn(
        "client",
        &[
            "curl",
            "-s",
            "-S",
            "-f",
            "-o",
            "/dev/null",
            "--limit-rate",
            rate,
            &url,
        ],
    )
}

/// The node that has the one connection that there is.
fn holder(lab: &Lab) -> u16 {
    let served = |node: &u16| {
        let labels = [("state", "served")];
        lab.metrics(*node).sum("dts_flows", &labels) >= 1.0
    };
    let mut found = None;
    until(
        "some node serves the connection",
        Duration::from_secs(5),
        || {
            found = lab.nodes().find(served);
            found.is_some()
        },
    );
    found.expect("just found")
}

fn a_draining_is_waited_for(lab: &Lab) {
    settle(lab);
    let quiet = || {
        let live = |node| {
            let of = |s| lab.metrics(node).sum("dts_flows", &[("state", s)]);
            ["half_open", "intake", "handover", "served"]
                .into_iter()
                .map(of)
                .sum::<f64>()
        };
        lab.nodes().map(live).sum::<f64>() == 0.0
    };
    until("old connections end", Duration::from_secs(30), quiet);
    let running = download(lab, "/big/100M", "2M");
    let node = holder(lab);
    let name = node.to_string();
    let _undrain = Undrain(lab, node);
    // Another node forwards what is asked of it.
    let asked = 1 + node % NODES;
    let out = dtsctl(lab, asked, &["drain", &name, "--wait", "--timeout", "2"]);
    assert_eq!(out.status.code(), Some(3), "{out:?}");
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        text.contains(&format!("node {node} has 1 connections")),
        "{text}"
    );
    // It takes nothing new meanwhile, neither as owner nor as destination.
    let connections = lab.load(&["count=60", "threads=4", "path=/who/drain-{}"]);
    lab.assert_answered(&connections, 60, None);
    let of_drained = connections
        .iter()
        .filter(|c| c.node == format!("node{node}"))
        .count();
    assert_eq!(of_drained, 0);
    drop(running);
    must(lab, asked, &["drain", &name, "--wait", "--timeout", "20"]);
    must(lab, asked, &["undrain", &name]);
    settle(lab);
}

fn a_daemon_that_is_to_end_drains_itself(lab: &Lab) {
    settle(lab);
    let mut running = download(lab, "/big/100M", "25M");
    let node = holder(lab);
    let syns = probe(lab, "2.5");
    sleep(Duration::from_millis(300));
    let at = epoch_now();
    lab.lab(&["kill", &node.to_string(), "dtsd", "TERM"]);
    let syns = attempts(&syns.wait_with_output().expect("synprobe ends"));
    // What it had comes to its end, and then it ends itself.
    let downloaded = running.wait();
    let ended = || {
        let name = format!("node{node}");
        lab.exec(&name, &["ss", "-Hltn", "sport = :9464"])
            .is_empty()
    };
    until("the daemon ends", Duration::from_secs(10), ended);
    let others = nodes(lab, 1 + node % NODES).expect("it runs");
    let log = std::fs::read_to_string(lab.dir(node).join("dtsd.log")).expect("a log");
    lab.lab(&["start", &node.to_string(), "dtsd"]);
    assert_eq!(others[usize::from(node) - 1]["member"], "left", "{log}");
    assert_eq!(downloaded, Some(0));
    let silent: Vec<f64> = syns.iter().filter(|a| !a.1).map(|a| a.0 - at).collect();
    assert!(
        silent.is_empty(),
        "of {} connections: {silent:?}",
        syns.len()
    );
    settle(lab);
}

fn wrk(lab: &Lab, seconds: u64) -> Child {
    let mut command = Command::new("ip");
    command
        .args([
            "netns",
            "exec",
            &lab.namespace("client"),
            "wrk",
            "-t2",
            "-c16",
        ])
        .args([
            "-H",
            "Connection: close",
            &format!("-d{seconds}s"),
            &lab.url("/who"),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command.spawn().unwrap_or_else(|e| panic!("wrk: {e}"))
}

/// What wrk counted, if it counted failures.
fn failures(out: &Output) -> (String, Option<String>) {
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let failed = |l: &&str| l.contains("Socket errors") || l.contains("Non-2xx");
    let failed: Vec<&str> = text.lines().filter(failed).collect();
    let failed = (!failed.is_empty()).then(|| failed.join("; "));
    let served = text
        .lines()
        .find(|l| l.contains("requests in"))
        .unwrap_or_default();
    (served.trim().to_owned(), failed)
}

fn every_node_is_drained_under_load(lab: &Lab) {
    settle(lab);
    let load = wrk(lab, 24);
    sleep(Duration::from_secs(1));
    let start = Instant::now();
    for node in lab.nodes() {
        let name = node.to_string();
        let _undrain = Undrain(lab, node);
        must(
            lab,
            1 + node % NODES,
            &["drain", &name, "--wait", "--timeout", "10"],
        );
        must(lab, 1 + node % NODES, &["undrain", &name]);
    }
    let took = start.elapsed();
    let (served, failed) = failures(&load.wait_with_output().expect("wrk ends"));
    println!("rolling drain in {took:?} under load: {served}, failures: {failed:?}");
    assert!(
        took < Duration::from_secs(22),
        "the load ended before the drains"
    );
    assert!(!served.starts_with('0'), "{served}");
    assert_eq!(failed, None);
    settle(lab);
}

fn two_halves_go_on_and_heal(lab: &Lab) {
    settle(lab);
    let at = |n: u16| lab.fact(&format!("NODE{n}_LINK")).to_owned();
    let to = |a: u16, b: u16| format!("ip daddr {{ {}, {} }}", at(a), at(b));
    let (upper, lower) = (to(3, 4), to(1, 2));
    let running = download(lab, "/big/100M", "20M");
    holder(lab);
    let resets = lab.total("dts_resets_total", &[]);
    let cuts = [
        lab.lose("l1", &upper),
        lab.lose("l2", &upper),
        lab.lose("l3", &lower),
        lab.lose("l4", &lower),
    ];
    // As the workers see it, who decide on handovers.
    let sees = |node: u16, others: &[u16]| {
        let out = dtsctl(lab, node, &["status", "--json"]);
        let status: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
        let members = status["members"].as_array().cloned().unwrap_or_default();
        let alive = members.iter().filter(|m| m["alive"] == true);
        let alive: Vec<u64> = alive.filter_map(|m| m["id"].as_u64()).collect();
        alive
            .iter()
            .copied()
            .eq(others.iter().map(|o| u64::from(*o)))
    };
    let parted = || sees(1, &[1, 2]) && sees(2, &[1, 2]) && sees(3, &[3, 4]) && sees(4, &[3, 4]);
    until("two halves", Duration::from_secs(3), parted);
    // Each connection has two owners now, and the client one server.
    let connections = lab.load(&["count=200", "threads=4", "path=/who/halves-{}"]);
    lab.assert_answered(&connections, 200, None);
    drop(cuts);
    let healed = until("healing", Duration::from_secs(2), || is_whole(lab));
    println!("two halves healed after {healed:?}");
    let mut running = running;
    assert_eq!(running.wait(), Some(0), "the download of before the cut");
    assert_eq!(lab.total("dts_resets_total", &[]), resets);
}

fn busy_cores_make_nobody_dead(lab: &Lab) {
    settle(lab);
    let dead = || lab.total("dts_member_changes_total", &[("state", "dead")]);
    let suspected = || lab.total("dts_member_changes_total", &[("state", "suspect")]);
    let before = (
        dead(),
        suspected(),
        lab.total("dts_membership_stalls_total", &[]),
    );
    let spin = || {
        let mut command = Command::new("sh");
        command.args(["-c", "while :; do :; done"]);
        Spinning(command.spawn().unwrap_or_else(|e| panic!("sh: {e}")))
    };
    let spinning: Vec<Spinning> = (0..4).map(|_| spin()).collect();
    let seconds = setting("DTS_BUSY_SECONDS", 15);
    let load = wrk(lab, seconds);
    let (served, failed) = failures(&load.wait_with_output().expect("wrk ends"));
    drop(spinning);
    let after = (
        dead(),
        suspected(),
        lab.total("dts_membership_stalls_total", &[]),
    );
    println!(
        "{seconds} s of busy cores: {} dead, {} suspected, {} stalls; {served}, failures: {failed:?}",
        after.0 - before.0,
        after.1 - before.1,
        after.2 - before.2
    );
    assert_eq!(after.0, before.0, "somebody was taken for dead");
    settle(lab);
}

/// A program that takes a core.
struct Spinning(Child);

impl Drop for Spinning {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
