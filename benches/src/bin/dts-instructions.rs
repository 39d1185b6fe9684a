//! Counts the instructions of the data plane's steps, and compares them with
//! `benches/instructions.json`.

use anyhow::{Context, Result, bail};
use clap::Parser;
use dts_benches::instructions::{self, Counts};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Parser)]
#[command(about = "Instructions of the data plane's steps, beside those of the baseline")]
struct Args {
    /// One case, uncounted: prints its number of frames. This is what callgrind runs.
    #[arg(long)]
    case: Option<String>,
    /// Writes what was counted as the baseline.
    #[arg(long)]
    update: bool,
    /// Where callgrind's files go.
    #[arg(long, default_value = "target/instructions")]
    out: PathBuf,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("instructions: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<()> {
    if let Some(case) = args.case {
        println!("{}", instructions::run(&case)?);
        return Ok(());
    }
    let baseline = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json");
    let name = "benches/instructions.json";
    let now = instructions::count(&args.out)?;
    if args.update {
        let text = serde_json::to_string_pretty(&now)? + "\n";
        std::fs::write(&baseline, text).context(name)?;
        println!("instructions: {name} is new: {:?}", now.instructions);
        return Ok(());
    }
    let text = std::fs::read_to_string(&baseline).context(name)?;
    let then: Counts = serde_json::from_str(&text).context(name)?;
    let verdict = instructions::compare(&then, &now);
    print!("instructions per frame: {name}, now\n{}", verdict.table);
    if !verdict.faults.is_empty() {
        bail!("not those of {name}:\n  {}", verdict.faults.join("\n  "));
    }
    Ok(())
}
