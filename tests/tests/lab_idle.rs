//! An idle cluster: what it costs, and how long the first frame of a pause waits.

use dts_tests::lab::{Lab, Setup};
use dts_tests::suite::{self, Group};
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Of a core, for a whole daemon: workers, control threads, hellos.
const MOST: f64 = 0.02;
/// How long the cluster is watched. A machine that is busy with other things pollutes
/// caches, so the best of some looks counts.
const LOOK: Duration = Duration::from_secs(4);
const LOOKS: usize = 4;
/// Single pings, one at a time: the workers sleep between any two of them.
const PINGS: usize = 60;
const PAUSE: &str = "0.05";
/// An address of the switch itself: the way there leads past all nodes.
const DIRECT: &str = "10.77.0.250";

fn main() -> ExitCode {
    suite::main(vec![Group {
        setup: Setup {
            prefix: "dtsi",
            nodes: 3,
            overlay: "",
            client: env!("CARGO_BIN_EXE_labclient"),
            scratch: env!("CARGO_TARGET_TMPDIR"),
        },
        suffix: "",
        cases: vec![],
        once: vec![
            (
                "an_idle_node_takes_next_to_nothing",
                an_idle_node_takes_next_to_nothing,
            ),
            (
                "the_first_frame_of_a_pause_is_not_left_waiting",
                the_first_frame_of_a_pause_is_not_left_waiting,
            ),
        ],
    }])
}

/// The process of a node's daemon.
fn daemon(lab: &Lab, node: u16) -> u32 {
    let name = lab.namespace(&format!("node{node}"));
    let output = Command::new("ip").args(["netns", "pids", &name]).output();
    let pids = output.expect("ip netns pids").stdout;
    let pids = String::from_utf8_lossy(&pids);
    let is_daemon = |pid: &&str| {
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        comm.is_ok_and(|c| c.trim() == "dtsd")
    };
    let pid = pids.split_whitespace().find(is_daemon);
    pid.unwrap_or_else(|| panic!("no dtsd in {name}"))
        .parse()
        .expect("a pid is a number")
}

/// Nanoseconds of processor time of all threads of a process
/// (`Documentation/scheduler/sched-stats.rst`); `stat` counts in hundredths of a second.
fn cpu_time(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the daemon lives");
    let of = |path: std::path::PathBuf| -> u64 {
        // A thread that ends meanwhile has no file.
        let text = std::fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        let first = text.split_whitespace().next();
        first.map_or(0, |n| n.parse().expect("a number"))
    };
    tasks.map(|t| of(t.expect("an entry").path())).sum()
}

fn an_idle_node_takes_next_to_nothing(lab: &Lab) {
    let nodes = [1, 2, 3].map(|node| (node, daemon(lab, node)));
    let mut best = [f64::MAX; 3];
    for _ in 0..LOOKS {
        let (start, before) = (Instant::now(), nodes.map(|(_, pid)| cpu_time(pid)));
        sleep(LOOK);
        let after = nodes.map(|(_, pid)| cpu_time(pid));
        let wall = start.elapsed().as_nanos() as f64;
        for (best, (a, b)) in best.iter_mut().zip(before.into_iter().zip(after)) {
            assert!(b > a, "an idle daemon still says hello");
            *best = best.min((b - a) as f64 / wall);
        }
        if best.iter().all(|b| *b < MOST) {
            break;
        }
    }
    let percent = best.map(|b| format!("{:.2} %", b * 100.0));
    println!("idle: nodes take {} of a core", percent.join(", "));
    assert!(best.iter().all(|b| *b < MOST), "{percent:?} of a core");
}

/// Sorted round trips to `to`, in microseconds.
fn pings(lab: &Lab, to: &str) -> Vec<f64> {
    let count = PINGS.to_string();
    let text = lab.exec("client", &["ping", "-c", &count, "-i", PAUSE, to]);
    let times = text.lines().filter_map(|l| {
        let (_, rest) = l.split_once("time=")?;
        rest.split_whitespace().next()?.parse::<f64>().ok()
    });
    let mut times: Vec<f64> = times.map(|ms| ms * 1e3).collect();
    times.sort_by(f64::total_cmp);
    assert!(times.len() > PINGS / 2, "{text}");
    times
}

/// Prints what the way through a node adds, and fails only where no load beside it can
/// be to blame: at the sleep of a worker that nothing wakes.
fn the_first_frame_of_a_pause_is_not_left_waiting(lab: &Lab) {
    lab.exec(
        "sw",
        &[
            "ip",
            "addr",
            "add",
            &format!("{DIRECT}/24"),
            "dev",
            "brwire",
        ],
    );
    let quartiles = |t: &[f64]| [1, 2, 3].map(|q| t[t.len() * q / 4]);
    let mut added = Vec::new();
    for node in [1, 2, 3] {
        let (direct, through) = (pings(lab, DIRECT), pings(lab, &lab.on_wire(node)));
        let ([a, b, c], [x, y, z]) = (quartiles(&direct), quartiles(&through));
        println!(
            "idle: node {node}: {y:.0} us ({x:.0} to {z:.0}), directly {b:.0} ({a:.0} to {c:.0}); \
             in the median {:.0} us more, for two frames",
            y - b
        );
        added.push(y - b);
    }
    lab.exec(
        "sw",
        &[
            "ip",
            "addr",
            "del",
            &format!("{DIRECT}/24"),
            "dev",
            "brwire",
        ],
    );
    let least = added.into_iter().fold(f64::MAX, f64::min);
    assert!(
        least < 5_000.0,
        "two frames wait {least:.0} us at the best node"
    );
}
