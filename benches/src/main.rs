//! Runs the benchmarks, one after the other, and writes `summary.json`.

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use dts_benches::report::{self, Entry, Summary};
use dts_benches::rounds::Plan;
use dts_benches::traffic::{self, Traffic, Way};
use dts_benches::{handover, node, spin, svg};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The flows of the sizes in the benches' names.
const SMALL: u32 = 32_768;
const MILLION: u32 = 1 << 20;
const TEN_MILLION: u32 = 10_000_000;

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
    /// Seconds for all benches: what has not begun by then is left out, and said.
    #[arg(long, default_value_t = 840)]
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
    /// A node's data plane, driven by its parent.
    #[command(hide = true)]
    Node {
        /// What it is started with.
        spec: String,
    },
}

type Bench = (&'static str, fn(&Path, &Plan) -> Result<Entry>);

/// All benches, the important ones first.
const BENCHES: &[Bench] = &[
    ("discard_32k", |d, p| {
        run(Way::Discard, MILLION, SMALL, d, p)
    }),
    ("translate_in_32k", |d, p| {
        run(Way::In, MILLION, SMALL, d, p)
    }),
    ("translate_out_32k", |d, p| {
        run(Way::Out, MILLION, SMALL, d, p)
    }),
    ("translate_in_1m", |d, p| {
        run(Way::In, MILLION, MILLION, d, p)
    }),
    ("translate_out_1m", |d, p| {
        run(Way::Out, MILLION, MILLION, d, p)
    }),
    ("scale", |d, p| {
        Traffic {
            way: Way::In,
            resident: MILLION,
            active: SMALL,
        }
        .scale(d, p)
    }),
    ("handover", |_, p| handover::run(p)),
    ("memory", |_, _| traffic::memory(TEN_MILLION)),
    ("translate_in_10m", |d, p| {
        run(Way::In, TEN_MILLION, TEN_MILLION, d, p)
    }),
    ("translate_out_10m", |d, p| {
        run(Way::Out, TEN_MILLION, TEN_MILLION, d, p)
    }),
];

fn run(way: Way, resident: u32, active: u32, dir: &Path, plan: &Plan) -> Result<Entry> {
    Traffic {
        way,
        resident,
        active,
    }
    .run(dir, plan)
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
        let entry = run(way_of(&way)?, resident, active, &scratch, &plan)?;
        let name = format!("{way} {active} of {resident}");
        print!("{}", report::table(&[(name, entry)].into()));
        return Ok(());
    }
    let (start, limit) = (Instant::now(), Duration::from_secs(args.limit));
    let mut failed = Vec::new();
    for (name, bench) in BENCHES.iter().filter(|(name, _)| name.starts_with(only)) {
        if start.elapsed() > limit {
            failed.push(format!("{name}: no time left"));
            continue;
        }
        eprintln!("{name} ...");
        match bench(&scratch, &plan) {
            Ok(entry) => {
                eprint!(
                    "{}",
                    report::table(&[((*name).to_owned(), entry.clone())].into())
                );
                let entry = entry
                    .with("cpu", cpu())
                    .with("target_cpu", args.target_cpu.as_str());
                summary.insert((*name).to_owned(), entry);
                report::write(&path, &summary)?;
            }
            Err(e) => failed.push(format!("{name}: {e:#}")),
        }
    }
    if only.is_empty() || "http".starts_with(only) || only.starts_with("http") {
        match http(&scratch, start, limit) {
            Ok(more) => summary.extend(more),
            Err(e) => failed.push(format!("http: {e:#}")),
        }
    }
    report::write(&path, &summary)?;
    std::fs::write(args.out.join("ratios.svg"), svg::ratios(&summary))?;
    if let Some(picture) = svg::growth(&summary) {
        std::fs::write(args.out.join("growth.svg"), picture)?;
    }
    print!("{}", report::table(&summary));
    if !failed.is_empty() {
        bail!("not measured:\n  {}", failed.join("\n  "));
    }
    Ok(())
}

/// The bench of whole requests in the lab, a program of its own.
fn http(scratch: &Path, start: Instant, limit: Duration) -> Result<Summary> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("http/run");
    if !program.exists() || start.elapsed() > limit {
        return Ok(Summary::new());
    }
    let out = scratch.join("http.json");
    let left = (limit - start.elapsed()).as_secs().min(240).to_string();
    let status = Command::new(&program).arg(&out).arg(left).status()?;
    if !status.success() {
        bail!("{} ended with {status}", program.display());
    }
    report::read(&out)
}

/// What the numbers were measured on.
fn cpu() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("model name"));
    line.map_or("unknown", |l| l.trim_start_matches([' ', '\t', ':']))
        .to_owned()
}
