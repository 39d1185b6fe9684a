//! Locality-aware request distribution beside other policies, as `benches/lard/run` calls
//! it: three servers with a small cache each, a working set that fits into all of them
//! together and into none alone, and clients that ask by Zipf's law. It raises a lab of its
//! own and prints a table.
//!
//! Arguments are KEY=VALUE, see [`Plan`].

use dts_tests::client::{Connection, Outcome};
use dts_tests::lab::{Lab, Running, Setup, bin_dir};
use dts_tests::stacks::ahead_of_others;
use serde::Deserialize;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Policies by the path that leads to them in the lab's proxies.
const POLICIES: [(&str, &str); 6] = [
    ("/random/", "weight (random)"),
    ("/least/", "least-connections"),
    ("/p/", "path-hash"),
    ("/bounded/", "bounded-hash"),
    ("/lard/", "lard"),
    ("/lardr/", "lard-replication"),
];
const NODES: u16 = 3;

struct Plan {
    /// `seconds`: of each policy's measurement; half of it goes before, unmeasured.
    seconds: f64,
    /// `files` that are asked for, and `zipf`: the exponent.
    files: usize,
    zipf: f64,
    /// `entries` of each server's cache, `hit_us`: what its processor takes for a request,
    /// and `miss_us`: what its disk takes for one that is not in the cache.
    entries: usize,
    hit_us: usize,
    miss_us: usize,
    /// `low` and `high`: LARD's thresholds.
    low: usize,
    high: usize,
    /// `clients` at once, each with one request after the other.
    clients: usize,
    /// `intakes=one|all`: whether one node reads all requests, as the paper's front end, or
    /// each its share.
    one_intake: bool,
    /// `only`: a part of the policies' names.
    only: String,
}

impl Plan {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut plan = Self {
            seconds: 12.0,
            files: 900,
            zipf: 1.0,
            entries: 300,
            hit_us: 6_000,
            miss_us: 50_000,
            low: 12,
            high: 32,
            clients: 48,
            one_intake: false,
            only: String::new(),
        };
        for argument in arguments {
            let (key, value) = argument.split_once('=').ok_or("not KEY=VALUE")?;
            let bad = |e: &dyn std::fmt::Display| format!("{argument}: {e}");
            let number = || value.parse::<usize>().map_err(|e| bad(&e));
            match key {
                "seconds" => plan.seconds = value.parse().map_err(|e| bad(&e))?,
                "files" => plan.files = number()?,
                "zipf" => plan.zipf = value.parse().map_err(|e| bad(&e))?,
                "entries" => plan.entries = number()?,
                "hit_us" => plan.hit_us = number()?,
                "miss_us" => plan.miss_us = number()?,
                "low" => plan.low = number()?,
                "high" => plan.high = number()?,
                "clients" => plan.clients = number()?,
                "intakes" => plan.one_intake = value == "one",
                "only" => plan.only = value.into(),
                _ => return Err(format!("{key}: unknown key")),
            }
        }
        Ok(plan)
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct Stats {
    hits: u64,
    misses: u64,
}

/// One policy's result.
struct Row {
    name: &'static str,
    per_second: f64,
    hit_rate: f64,
    /// Requests that each server got.
    shares: Vec<u64>,
    median_ms: f64,
    p99_ms: f64,
    failed: usize,
}

fn servers(lab: &Lab, plan: &Plan) -> Vec<Running> {
    let program = bin_dir().join("cacheserver");
    let program = program.to_string_lossy();
    let start = |node| {
        let arguments = [
            program.to_string(),
            format!("node=node{node}"),
            format!("entries={}", plan.entries),
            format!("hit_us={}", plan.hit_us),
            format!("miss_us={}", plan.miss_us),
        ];
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        lab.spawn(&format!("node{node}"), &arguments)
    };
    (1..=NODES).map(start).collect()
}

fn stats(lab: &Lab, node: u16) -> Result<Stats, String> {
    let url = "http://127.0.0.1:80/stats";
    let text = lab.exec(&format!("node{node}"), &["curl", "-sf", "-m", "5", url]);
    serde_json::from_str(&text).map_err(|e| format!("{url}: {e}: {text}"))
}

/// Waits until the servers answer and no connection of an earlier load is left.
fn ready(lab: &Lab) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(20);
    for node in 1..=NODES {
        let name = format!("node{node}");
        let up = || {
            let found = lab.try_exec(
                &name,
                &["curl", "-sf", "-m", "5", "http://127.0.0.1:80/stats"],
            );
            let held = lab
                .metrics(node)
                .sum("dts_application_connections", &[("port", "80")]);
            found.status.success() && held == 0.0
        };
        while !up() {
            if Instant::now() >= deadline {
                return Err(format!("{name} is not ready"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

fn load(lab: &Lab, plan: &Plan, prefix: &str, seconds: f64) -> Vec<Connection> {
    lab.load(&[
        &format!("path={prefix}{{}}"),
        &format!("zipf={}:{}", plan.files, plan.zipf),
        &format!("threads={}", plan.clients),
        &format!("seconds={seconds}"),
        "count=1000000000",
        "timeout=20000",
    ])
}

fn measure(lab: &Lab, plan: &Plan, policy: (&str, &'static str)) -> Result<Row, String> {
    // Each begins with cold caches, and warms them up for itself.
    let servers = servers(lab, plan);
    ready(lab)?;
    load(lab, plan, policy.0, plan.seconds / 2.0);
    let all = || {
        (1..=NODES)
            .map(|node| stats(lab, node))
            .collect::<Result<Vec<_>, _>>()
    };
    let before = all()?;
    let connections = load(lab, plan, policy.0, plan.seconds);
    let after = all()?;
    drop(servers);
    let sum = |stats: &[Stats], of: fn(&Stats) -> u64| stats.iter().map(of).sum::<u64>();
    let hits = sum(&after, |s| s.hits) - sum(&before, |s| s.hits);
    let misses = sum(&after, |s| s.misses) - sum(&before, |s| s.misses);
    let good = |c: &&Connection| c.outcome == Outcome::Answered && c.status == 200;
    let mut times: Vec<f64> = connections
        .iter()
        .filter(good)
        .map(|c| c.total_ms)
        .collect();
    times.sort_by(f64::total_cmp);
    let quantile = |q: f64| {
        let at = (times.len() as f64 * q) as usize;
        times.get(at.min(times.len().saturating_sub(1))).copied()
    };
    let shares = before.iter().zip(&after);
    let shares = shares.map(|(b, a)| a.hits + a.misses - b.hits - b.misses);
    Ok(Row {
        name: policy.1,
        per_second: times.len() as f64 / plan.seconds,
        hit_rate: hits as f64 / (hits + misses).max(1) as f64,
        shares: shares.collect(),
        median_ms: quantile(0.5).ok_or("no connection was answered")?,
        p99_ms: quantile(0.99).ok_or("no connection was answered")?,
        failed: connections.len() - times.len(),
    })
}

fn table(plan: &Plan, rows: &[Row]) -> String {
    let mut text = format!(
        "{} files by Zipf's law ({}), caches of {} each, {} ms for a request, {} more for a miss, {} clients, LARD {} to {}, {}\n\n\
         | Policy | Requests/s | Hits | Busiest server's share | Median, ms | 99 %, ms | Failed |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
        plan.files,
        plan.zipf,
        plan.entries,
        plan.hit_us as f64 / 1e3,
        plan.miss_us as f64 / 1e3,
        plan.clients,
        plan.low,
        plan.high,
        if plan.one_intake {
            "one intake"
        } else {
            "every node an intake"
        },
    );
    for row in rows {
        let all: u64 = row.shares.iter().sum();
        let most = row.shares.iter().max().copied().unwrap_or(0);
        // A string takes all there is.
        let _ = writeln!(
            text,
            "| {} | {:.0} | {:.1} % | {:.0} % | {:.1} | {:.1} | {} |",
            row.name,
            row.per_second,
            row.hit_rate * 100.0,
            most as f64 * 100.0 / all.max(1) as f64,
            row.median_ms,
            row.p99_ms,
            row.failed
        );
    }
    text
}

fn run() -> Result<(), String> {
    let plan = Plan::parse(std::env::args().skip(1))?;
    ahead_of_others()?;
    let intakes = match plan.one_intake {
        true => "POLICY=designated\nDESIGNATED=1\n",
        false => "",
    };
    // Live for as long as the program.
    let overlay: &'static str = format!(
        "{intakes}REPORT_MS=20\nNODES_MS=20\nLARD_LOW={}\nLARD_HIGH={}\n",
        plan.low, plan.high
    )
    .leak();
    let client: &'static str = bin_dir()
        .join("labclient")
        .to_string_lossy()
        .into_owned()
        .leak();
    let scratch = std::env::temp_dir().join(format!("dts-lard-{}", std::process::id()));
    let scratch: &'static str = scratch.to_string_lossy().into_owned().leak();
    let lab = Lab::up(&Setup {
        prefix: "dtsl",
        nodes: 3,
        overlay,
        client,
        scratch,
    })?;
    // The client closes first: without this its ports would be used up within seconds.
    for setting in [
        "net.ipv4.tcp_tw_reuse=1",
        "net.ipv4.ip_local_port_range=1024 65535",
    ] {
        lab.exec("client", &["sysctl", "-q", "-w", setting]);
    }
    let nginx: Vec<_> = (1..=NODES).map(|node| lab.without(node, "nginx")).collect();
    let mut rows = Vec::new();
    for policy in POLICIES {
        if policy.1.contains(&plan.only) {
            rows.push(measure(&lab, &plan, policy)?);
            eprintln!(
                "{}: {:.0} requests/s",
                policy.1,
                rows[rows.len() - 1].per_second
            );
        }
    }
    println!("{}", table(&plan, &rows));
    drop(nginx);
    drop(lab);
    std::fs::remove_dir_all(scratch).map_err(|e| format!("{scratch}: {e}"))
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lardbench: {error}");
            ExitCode::FAILURE
        }
    }
}
