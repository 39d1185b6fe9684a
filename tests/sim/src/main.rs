//! `sim`: runs seeds of the cluster simulator.

use anyhow::{Context, Result, bail};
use clap::Parser;
use dts_core::mutation::{self, Mutation};
use dts_sim::capture::Capture;
use dts_sim::mutations::hunt;
use dts_sim::plan::Plan;
use dts_sim::scenario::Family;
use dts_sim::world::{Report, World};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Runs a DTS cluster in virtual time, one seed after the other.
#[derive(Parser, Clone)]
struct Args {
    /// One seed, told in detail with --verbose.
    #[arg(long)]
    seed: Option<u64>,
    /// Seeds A..B, B not included.
    #[arg(long, default_value = "0..1000")]
    seeds: String,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: u64,
    /// Only this family of scenarios.
    #[arg(long)]
    scenario: Option<String>,
    /// Breaks a rule of dts-core.
    #[arg(long)]
    mutation: Option<String>,
    /// Breaks every rule in turn and wants each to be caught.
    #[arg(long)]
    mutations: bool,
    /// Seeds of each family that may be spent on one mutation.
    #[arg(long, default_value_t = 60)]
    budget: u64,
    /// Writes what each party saw, with --seed.
    #[arg(long)]
    pcap: Option<PathBuf>,
    /// Lists families and mutations.
    #[arg(long)]
    list: bool,
    /// Prints what happens.
    #[arg(long)]
    verbose: bool,
    /// Goes on after a violation.
    #[arg(long)]
    all: bool,
    /// Runs every seed twice and compares.
    #[arg(long)]
    twice: bool,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    if args.list {
        for f in Family::ALL {
            println!("scenario {:<14}{}", f.name(), f.about());
        }
        for m in Mutation::ALL {
            println!("mutation {:<28}{}", m.name(), m.rule());
        }
        return Ok(ExitCode::SUCCESS);
    }
    let family = match &args.scenario {
        Some(name) => Some(Family::named(name).with_context(|| format!("no scenario {name}"))?),
        None => None,
    };
    let broken = match &args.mutation {
        Some(name) => Some(Mutation::named(name).with_context(|| format!("no mutation {name}"))?),
        None => None,
    };
    if args.mutations {
        return mutations(&args);
    }
    if let Some(seed) = args.seed {
        return one(&args, seed, family, broken);
    }
    many(&args, family, broken)
}

fn one(
    args: &Args,
    seed: u64,
    family: Option<Family>,
    broken: Option<Mutation>,
) -> Result<ExitCode> {
    mutation::set(broken);
    let plan = Plan::new(seed, family);
    if args.verbose {
        eprintln!("{plan:#?}");
    }
    let name = plan.family;
    let mut w = World::new(plan, args.pcap.is_some().then(Capture::default));
    w.verbose = args.verbose;
    let (report, capture) = w.run();
    if let (Some(path), Some(c)) = (&args.pcap, capture) {
        let f = File::create(path).with_context(|| path.display().to_string())?;
        c.write(BufWriter::new(f)).context("writing the capture")?;
        println!("{}: {} frames", path.display(), c.len());
    }
    println!(
        "seed {seed} scenario {}: handovers={} failures={} frames={} virtual={:.3}s trace={:016x}",
        name.name(),
        report.handovers,
        report.failures,
        report.frames,
        report.end as f64 / 1e9,
        report.trace
    );
    if let Some(v) = &report.violation {
        println!("VIOLATION seed {seed} at {v}");
        println!("  again: {}", again(seed, family, broken));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn again(seed: u64, family: Option<Family>, broken: Option<Mutation>) -> String {
    let mut s = format!("cargo run --release -p dts-sim -- --seed {seed}");
    if let Some(f) = family {
        s += &format!(" --scenario {}", f.name());
    }
    if let Some(m) = broken {
        s += &format!(" --mutation {}", m.name());
    }
    s + &format!(" --verbose --pcap /tmp/sim-{seed}.pcapng")
}

fn range(s: &str) -> Result<(u64, u64)> {
    let (a, b) = s.split_once("..").context("seeds are A..B")?;
    let (a, b) = (a.parse()?, b.parse()?);
    if a >= b {
        bail!("no seed in {s}");
    }
    Ok((a, b))
}

#[derive(Default)]
struct Sum {
    handovers: u64,
    failures: u64,
    families: BTreeSet<&'static str>,
    bad: Vec<(u64, &'static str, String)>,
}

fn many(args: &Args, family: Option<Family>, broken: Option<Mutation>) -> Result<ExitCode> {
    let (first, end) = range(&args.seeds)?;
    let next = AtomicU64::new(first);
    let stop = AtomicBool::new(false);
    let sum = Mutex::new(Sum::default());
    std::thread::scope(|s| {
        for _ in 0..args.threads.max(1) {
            s.spawn(|| {
                mutation::set(broken);
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let plan = Plan::new(seed, family);
                    let name = plan.family.name();
                    let report = World::new(plan.clone(), None).run().0;
                    let same = !args.twice || same(&report, &World::new(plan, None).run().0);
                    let Ok(mut sum) = sum.lock() else { return };
                    sum.handovers += report.handovers;
                    sum.failures += report.failures;
                    sum.families.insert(name);
                    if !same {
                        sum.bad.push((seed, name, "two runs differ".into()));
                    }
                    if let Some(v) = report.violation {
                        sum.bad.push((seed, name, v.to_string()));
                        if !args.all {
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let mut sum = sum.into_inner().unwrap_or_default();
    sum.bad.sort();
    for (seed, name, what) in &sum.bad {
        println!("VIOLATION seed {seed} scenario {name} at {what}");
        println!("  again: {}", again(*seed, family, broken));
    }
    let ran = next.load(Ordering::Relaxed).min(end) - first;
    println!(
        "sim: seeds={ran} handovers={} failed_handovers={} scenarios={} violations={} {}",
        sum.handovers,
        sum.failures,
        sum.families.len(),
        sum.bad.len(),
        if sum.bad.is_empty() { "ok" } else { "FAILED" }
    );
    Ok(if sum.bad.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn same(a: &Report, b: &Report) -> bool {
    a.trace == b.trace && a.frames == b.frames && a.end == b.end
}

fn mutations(args: &Args) -> Result<ExitCode> {
    let next = AtomicU64::new(0);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|s| {
        for _ in 0..args.threads.max(1) {
            s.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed) as usize;
                    let Some(&m) = Mutation::ALL.get(i) else {
                        return;
                    };
                    let caught = hunt(m, args.budget);
                    if let Ok(mut r) = results.lock() {
                        r.push((i, m, caught));
                    }
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_default();
    results.sort_by_key(|r| r.0);
    let mut uncaught = 0;
    for (_, m, caught) in &results {
        match caught {
            Some(c) => println!(
                "mutation {:<28} {:<12} seed {:<4} {:<14} {}",
                m.name(),
                m.rule_number(),
                c.seed,
                c.family.name(),
                c.violation.chars().take(110).collect::<String>()
            ),
            None => {
                uncaught += 1;
                println!(
                    "mutation {:<28} {:<12} NOT CAUGHT",
                    m.name(),
                    m.rule_number()
                );
            }
        }
    }
    println!(
        "sim: mutations={} uncaught={uncaught} {}",
        results.len(),
        if uncaught == 0 { "ok" } else { "FAILED" }
    );
    Ok(if uncaught == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
