//! `make bench-micro`: the flow table beside `hashbrown` and `rte_hash`'s bulk lookup, in
//! turns, for hits and misses and three sizes. Misses are other nodes' segments, which
//! are most of what a node of a broadcast cluster sees.
//!
//! Arguments: the beginning of the names that are wanted, as `hit_1m`. What is printed
//! goes to `target/bench/flow_table.json` too.

use anyhow::{Context, Result, ensure};
use dts_benches::flows::shuffled;
use dts_benches::hugepages::Reserved;
use dts_benches::micro::{BURST, Find, Hashbrown, Key, RteHash, Single, Staged, key};
use dts_benches::report::{self, Entry, Summary};
use std::time::{Duration, Instant};

const SIZES: [(&str, u32); 3] = [("32k", 32_768), ("1m", 1 << 20), ("10m", 10_000_000)];
/// Different keys that are asked in a round: all of them, where there are fewer.
const ASKED: u32 = 1 << 21;
/// Rounds, in each of which every table has its turn.
const ROUNDS: usize = 5;
/// A turn, at least.
const TURN: Duration = Duration::from_millis(200);

fn main() -> Result<()> {
    // `cargo bench` has an argument of its own.
    let only = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    let only = only.unwrap_or_default();
    let largest = SIZES.iter().rev().find(|(size, _)| wanted(size, &only));
    let (_, largest) = largest.context("no such size")?;
    // 96 bytes an entry and some for the buckets, all sizes one after the other.
    let megabytes = ((u64::from(*largest) * 160) >> 20) + 64;
    let pages = Reserved::new(megabytes);
    let _eal = start(megabytes, pages.is_some())?;
    let mut summary = Summary::new();
    for (size, n) in SIZES {
        if !wanted(size, &only) {
            continue;
        }
        let mut finders: Vec<Box<dyn Find>> = vec![
            Box::new(Staged::new(n)),
            Box::new(Single(Staged::new(n))),
            Box::new(Hashbrown::new(n)),
            Box::new(RteHash::new(n)?),
        ];
        let asked = ASKED.min(n);
        for (what, base, hits) in [("hit", 0, true), ("miss", n, false)] {
            if !format!("{what}_{size}").starts_with(&only) {
                continue;
            }
            let step = n / asked;
            let keys: Vec<Key> = shuffled(asked)
                .into_iter()
                .map(|i| key(base + i * step))
                .collect();
            let rates = measure(&mut finders, &keys, hits)?;
            for (i, peer) in finders.iter().enumerate().skip(1) {
                let rounds: Vec<(f64, f64)> = rates.iter().map(|r| (r[0], r[i])).collect();
                let entry = Entry::of(&rounds, "lookups/s", peer.name())
                    .with("cpu", report::cpu())
                    .with("target_cpu", target_cpu())
                    .with("resident", n)
                    .with("active", asked)
                    .with("lookups", if hits { "hits" } else { "misses" })
                    .with("hugepages", pages.is_some());
                let peer = peer.name().replace(' ', "_");
                summary.insert(format!("{what}_{size}_{peer}"), entry);
            }
        }
    }
    print!("{}", report::table(&summary));
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    std::fs::create_dir_all(&dir)?;
    report::write(&dir.join("flow_table.json"), &summary)
}

fn wanted(size: &str, only: &str) -> bool {
    ["hit", "miss"]
        .iter()
        .any(|what| format!("{what}_{size}").starts_with(only))
}

/// Lookups per second of each table, for each round.
fn measure(finders: &mut [Box<dyn Find>], keys: &[Key], hits: bool) -> Result<Vec<Vec<f64>>> {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let mut rates = Vec::new();
        for finder in &mut *finders {
            let (mut asked, mut found, start) = (0, 0, Instant::now());
            while start.elapsed() < TURN {
                for burst in keys.chunks(BURST) {
                    found += finder.find(burst);
                }
                asked += keys.len() as u64;
            }
            rates.push(asked as f64 / start.elapsed().as_secs_f64());
            let right = if hits { asked } else { 0 };
            ensure!(found == right, "{}: {found} of {right}", finder.name());
        }
        rounds.push(rates);
    }
    Ok(rounds)
}

fn start(megabytes: u64, hugepages: bool) -> Result<dpdk::Eal> {
    let prefix = format!("dtsmicro{}", std::process::id());
    let mut options: Vec<String> = ["--no-telemetry", "--no-pci", "--file-prefix", &prefix]
        .map(str::to_owned)
        .into();
    options.extend([
        "--lcores".into(),
        "0@0".into(),
        "-m".into(),
        megabytes.to_string(),
    ]);
    if hugepages {
        options.push("--in-memory".into());
    } else {
        options.extend(["--no-huge".into(), "--no-shconf".into()]);
    }
    dpdk::log::set_target(dpdk::log::Target::Quiet);
    Ok(dpdk::Eal::init(&options)?)
}

/// What `make` compiled it for.
fn target_cpu() -> String {
    std::env::var("BENCH_CPU").unwrap_or_else(|_| "unknown".into())
}
