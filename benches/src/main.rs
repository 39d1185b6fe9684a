//! Runs the benchmarks, one after the other, and writes `summary.json`.

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use dts_benches::report::{self, Summary};
use dts_benches::rounds::Plan;
use dts_benches::suite::{self, Place};
use dts_benches::traffic::{Traffic, Way};
use dts_benches::{generator, node, spin, svg};
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[derive(Parser)]
#[command(about = "Benchmarks of the data plane, each beside a peer in the same run")]
struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// Only benches whose names begin with this; a `*` at its end changes nothing.
    #[arg(long, default_value = "")]
    only: String,
    /// Where the summary goes.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// What the program was compiled for, to be written down.
    #[arg(long, default_value = "unknown")]
    target_cpu: String,
    /// Rounds of each bench.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds that each side is measured in a round.
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// Seconds for all benches: what would not end by then is left out, and said.
    #[arg(long, default_value_t = 870)]
    limit: u64,
}

#[derive(Subcommand)]
enum What {
    /// The shard alone over frames in the caches, for profilers.
    Spin {
        /// `in`, `out` or `discard`.
        way: String,
        /// Bursts of 64 frames.
        bursts: u32,
    },
    /// One comparison with testpmd, with other numbers of flows; nothing is written.
    One {
        /// `in`, `out` or `discard`.
        way: String,
        /// Flows that the node serves.
        resident: u32,
        /// Flows to which the frames belong.
        active: u32,
    },
    /// Clients and the own stack of a node, driven by their parent.
    #[command(hide = true)]
    Generator {
        /// What it is started with.
        spec: String,
    },
    /// A node's data plane, driven by its parent.
    #[command(hide = true)]
    Node {
        /// What it is started with.
        spec: String,
    },
}

fn way_of(name: &str) -> Result<Way> {
    Ok(match name {
        "in" => Way::In,
        "out" => Way::Out,
        "discard" => Way::Discard,
        other => bail!("{other}: neither in nor out nor discard"),
    })
}

fn main() -> Result<()> {
    let args = Args::parse();
    match args.what {
        Some(What::Node { spec }) => return node::run(&serde_json::from_str(&spec)?),
        Some(What::Generator { spec }) => return generator::run(&serde_json::from_str(&spec)?),
        Some(What::Spin { way, bursts }) => {
            println!("{:.1} ns per frame", spin::run(way_of(&way)?, bursts)?);
            return Ok(());
        }
        _ => {}
    }
    let only = args.only.trim_end_matches('*');
    let scratch = args.out.join("scratch");
    std::fs::create_dir_all(&scratch).with_context(|| format!("{}", scratch.display()))?;
    let path = args.out.join("summary.json");
    // One bench renews its own entry; a whole run starts anew.
    let mut summary = if only.is_empty() {
        Summary::new()
    } else {
        report::read(&path)?
    };
    let plan = Plan {
        rounds: args.rounds,
        warm_up: Duration::from_millis(300),
        measured: Duration::from_secs_f64(args.seconds),
    };
    if let Some(What::One {
        way,
        resident,
        active,
    }) = args.what
    {
        let traffic = Traffic::new(way_of(&way)?, resident, active);
        let entry = traffic.run(&scratch, &plan)?;
        let name = format!("{way} {active} of {resident}");
        print!("{}", report::table(&[(name, entry)].into()));
        return Ok(());
    }
    let place = Place {
        scratch: &scratch,
        plan,
        only,
    };
    let (start, limit) = (Instant::now(), Duration::from_secs(args.limit));
    let mut failed = Vec::new();
    for bench in suite::BENCHES.iter().filter(|b| b.is_wanted(only)) {
        let name = bench.name;
        if !suite::is_time_for(bench, start.elapsed(), limit) {
            failed.push(format!("{name}: no time left"));
            continue;
        }
        eprintln!("{name} ...");
        match bench.run(&place) {
            Ok(entries) => {
                eprint!("{}", report::table(&entries));
                for (name, entry) in entries {
                    let mut entry = entry.with("cpu", report::cpu());
                    let compiled = entry.more.entry("target_cpu".to_owned());
                    compiled.or_insert_with(|| args.target_cpu.as_str().into());
                    summary.insert(name, entry);
                }
                report::write(&path, &summary)?;
            }
            Err(e) => failed.push(format!("{name}: {e:#}")),
        }
    }
    report::write(&path, &summary)?;
    for (name, picture) in svg::all(&summary) {
        std::fs::write(args.out.join(name), picture)?;
    }
    print!("{}", report::table(&summary));
    eprintln!("{} s", start.elapsed().as_secs());
    if !failed.is_empty() {
        bail!("not measured:\n  {}", failed.join("\n  "));
    }
    Ok(())
}
