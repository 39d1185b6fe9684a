//! A cluster as its operator sees it, and as connections of its client do.

use crate::lab::{Lab, Running, bin_dir};
use serde_json::Value;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The number in an environment variable.
///
/// # Panics
/// It is none.
#[must_use]
pub fn setting(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |v| {
        v.parse().unwrap_or_else(|e| panic!("{name}: {e}"))
    })
}

/// Seconds since the epoch.
///
/// # Panics
/// The clock stands before it.
#[must_use]
pub fn epoch_now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("the clock is right").as_secs_f64()
}

/// Runs `dtsctl` for a node's daemon.
///
/// # Panics
/// It cannot be run.
pub fn dtsctl(lab: &Lab, node: u16, arguments: &[&str]) -> Output {
    let program = bin_dir().join("dtsctl");
    let socket = lab.dir(node).join("admin.sock");
    let mut command = Command::new(program);
    command.arg("--socket").arg(socket).args(arguments);
    command.output().unwrap_or_else(|e| panic!("dtsctl: {e}"))
}

/// The same, which has to succeed.
///
/// # Panics
/// It does not.
#[track_caller]
pub fn must(lab: &Lab, node: u16, arguments: &[&str]) {
    let out = dtsctl(lab, node, arguments);
    assert!(out.status.success(), "{arguments:?}: {out:?}");
}

/// What a node sees; `None` while nobody answers there.
#[must_use]
pub fn nodes(lab: &Lab, node: u16) -> Option<Vec<Value>> {
    let out = dtsctl(lab, node, &["nodes", "--json"]);
    let answer: Value = serde_json::from_slice(&out.stdout).ok()?;
    answer["nodes"].as_array().cloned()
}

/// Whether all nodes see all others and have one epoch.
#[must_use]
pub fn is_whole(lab: &Lab) -> bool {
    let mut epochs = Vec::new();
    for node in lab.nodes() {
        let Some(seen) = nodes(lab, node) else {
            return false;
        };
        if seen
            .iter()
            .any(|n| n["member"] != "alive" || n["state"] != "active" || n["on_wire"] != true)
        {
            return false;
        }
        epochs.extend(seen.iter().map(|n| n["epoch"].to_string()));
    }
    epochs.iter().all(|e| *e == epochs[0])
}

/// Waits for what is about to become true; how long it took.
///
/// # Panics
/// It does not within `limit`.
#[track_caller]
pub fn until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < limit, "{what}: not in {limit:?}");
        sleep(Duration::from_millis(20));
    }
    start.elapsed()
}

/// Waits until all nodes see all others, and own what they own then and no more.
///
/// # Panics
/// They do not within 15 seconds.
#[track_caller]
pub fn settle(lab: &Lab) {
    until("the cluster is whole", Duration::from_secs(15), || {
        is_whole(lab)
    });
    // What nodes gave away when the last one came they keep for 300 ms.
    sleep(Duration::from_millis(350));
}

/// Attempts to connect: when each was begun, seconds since the epoch, and whether its first
/// SYN was answered.
///
/// # Panics
/// `synprobe` failed, or somebody answered with a reset.
#[must_use]
pub fn attempts(out: &Output) -> Vec<(f64, bool)> {
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

/// A download that takes a while, in the client's namespace.
#[must_use]
pub fn download(lab: &Lab, path: &str, rate: &str) -> Running {
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
///
/// # Panics
/// Nobody has it within 5 seconds.
pub fn holder(lab: &Lab) -> u16 {
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

/// The next port of the client's that no probe has used.
static PORT: AtomicU16 = AtomicU16::new(FIRST_PORT);
/// Below the kernel's own choice for a client (`ip_local_port_range`).
const FIRST_PORT: u16 = 2000;
const LAST_PORT: u16 = 31_000;
/// Ports of one probe, which makes fewer connections.
const PORTS: u16 = 600;

/// Begins a connection every 5 ms for so long; see `synprobe`.
///
/// # Panics
/// It cannot be run.
#[must_use]
pub fn probe(lab: &Lab, seconds: &str) -> Child {
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
    let program = bin_dir().join("synprobe");
    command
        .args(["netns", "exec", &lab.namespace("client")])
        .arg(program)
        .args([&to, &seconds])
        .args(["gap_us=5000", "timeout=400", &first])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command.spawn().unwrap_or_else(|e| panic!("synprobe: {e}"))
}
