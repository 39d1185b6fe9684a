//! Four nodes that are drained, kept busy, or of whom some do not hear others.
//! `DTS_BUSY_SECONDS` says how long the cores are kept busy.

use dts_tests::cluster::{
    attempts, download, dtsctl, epoch_now, holder, is_whole, must, nodes, probe, setting, settle,
    until,
};
use dts_tests::lab::{Lab, Setup};
use dts_tests::suite::{self, Group};
use serde_json::Value;
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const NODES: u16 = 4;
const SETUP: Setup = Setup {
    prefix: "dtsc",
    nodes: NODES,
    overlay: "MEGABYTES=128\nDRAIN_S=20\nCLOSING_S=1\n",
    client: env!("CARGO_BIN_EXE_labclient"),
    scratch: env!("CARGO_TARGET_TMPDIR"),
};

fn main() -> ExitCode {
    suite::main(vec![Group {
        setup: SETUP,
        suffix: "",
        cases: vec![],
        once: vec![
            ("a_draining_is_waited_for", a_draining_is_waited_for),
            (
                "a_daemon_that_is_to_end_drains_itself",
                a_daemon_that_is_to_end_drains_itself,
            ),
            (
                "every_node_is_drained_under_load",
                every_node_is_drained_under_load,
            ),
            (
                "two_halves_of_the_link_go_on_and_heal",
                two_halves_of_the_link_go_on_and_heal,
            ),
            (
                "two_halves_of_the_wire_go_on_and_heal",
                two_halves_of_the_wire_go_on_and_heal,
            ),
            ("busy_cores_make_nobody_dead", busy_cores_make_nobody_dead),
        ],
    }])
}

/// Makes a node active again, whatever became of the test.
struct Undrain<'a>(&'a Lab, u16);

impl Drop for Undrain<'_> {
    fn drop(&mut self) {
        dtsctl(self.0, self.1, &["undrain", &self.1.to_string()]);
    }
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

fn two_halves_of_the_link_go_on_and_heal(lab: &Lab) {
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

/// The client is on one half: whoever is there answers for all buckets.
fn two_halves_of_the_wire_go_on_and_heal(lab: &Lab) {
    settle(lab);
    // Its server may be on the other half, where it waits.
    let mut running = download(lab, "/big/100M", "20M");
    let served_by = holder(lab);
    let resets = lab.total("dts_resets_total", &[]);
    let mac = |n: u16| lab.fact(&format!("NODE{n}_WIRE_MAC")).to_owned();
    let (upper, lower) = (
        format!("ether saddr {{ {}, {} }}", mac(3), mac(4)),
        format!("ether saddr != {{ {}, {} }}", mac(3), mac(4)),
    );
    let cuts = [
        lab.lose_at("wc", "egress", &upper),
        lab.lose_at("w1", "egress", &upper),
        lab.lose_at("w2", "egress", &upper),
        lab.lose_at("w3", "egress", &lower),
        lab.lose_at("w4", "egress", &lower),
    ];
    let hears = |node: u16, others: [bool; 4]| {
        let seen = nodes(lab, node).unwrap_or_default();
        seen.iter()
            .map(|n| n["on_wire"] == true)
            .eq(others.iter().copied())
    };
    let (low, high) = ([true, true, false, false], [false, false, true, true]);
    let parted = || hears(1, low) && hears(2, low) && hears(3, high) && hears(4, high);
    until("two halves", Duration::from_secs(3), parted);
    let connections = lab.load(&["count=200", "threads=4", "path=/who/wire-{}"]);
    lab.assert_answered(&connections, 200, None);
    let far = |c: &&dts_tests::client::Connection| ["node3", "node4"].contains(&c.node.as_str());
    assert_eq!(connections.iter().filter(far).count(), 0);
    drop(cuts);
    let healed = until("healing", Duration::from_secs(2), || is_whole(lab));
    println!("two halves of the wire healed after {healed:?}");
    let ended = running.wait();
    assert_eq!(ended, Some(0), "the download from node {served_by}");
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
