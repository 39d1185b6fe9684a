//! `dtsd --config FILE`: see the library.

use clap::Parser;
use dtsd::daemon::{self, RunError};
use dtsd::logging;
use std::path::PathBuf;
use std::process::ExitCode;

/// Exit code for a configuration that cannot work.
const BAD_CONFIG: u8 = 2;

/// Node of a DTS cluster: every node gets every packet and decides alone.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Configuration file (YAML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration and exit: 0 when it is good, else 2.
    #[arg(long)]
    check: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let refuse = |error: &dts_config::ConfigError| {
        eprintln!("{error}");
        Ok(ExitCode::from(BAD_CONFIG))
    };
    let config = match dts_config::load(&arguments.config) {
        Ok(config) => config,
        Err(error) => return refuse(&error),
    };
    if arguments.check {
        println!("{}: ok", arguments.config.display());
        return Ok(ExitCode::SUCCESS);
    }
    logging::start(&config.log);
    match daemon::run(&config) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(RunError::Config(error)) => refuse(&error),
        Err(RunError::Failed(error)) => Err(error),
    }
}
