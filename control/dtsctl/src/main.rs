//! `dtsctl`: asks a DTS daemon what it does, and checks its configuration.

mod client;
mod table;

use clap::{Parser, Subcommand};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Exit code for a configuration that cannot work, as dtsd's.
const BAD_CONFIG: u8 = 2;

/// Asks a DTS daemon what it does, and checks its configuration.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The daemon's admin socket.
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/run/dts/admin.sock",
        global = true
    )]
    socket: PathBuf,
    /// Print the daemon's JSON instead of tables.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The node, its workers, ports, services and members.
    Status,
    /// Connections that the data plane knows.
    Flows {
        /// Most entries.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// The last handovers that this node was asked for, the newest first.
    Handovers {
        /// Most entries, at most 1000.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Configuration files.
    #[command(subcommand)]
    Config(Config),
}

#[derive(Subcommand)]
enum Config {
    /// Checks a file of dtsd; exit code 2 when it cannot work.
    Check {
        /// The file.
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Command::Config(Config::Check { file }) = &arguments.command {
        return match dts_config::load(file) {
            Ok(_) => say(&format!("{}: ok\n", file.display())),
            Err(error) => {
                eprintln!("{error}");
                ExitCode::from(BAD_CONFIG)
            }
        };
    }
    match ask(&arguments) {
        Ok(text) => say(&text),
        Err(error) => {
            eprintln!("dtsctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn ask(arguments: &Arguments) -> anyhow::Result<String> {
    let target = match &arguments.command {
        Command::Flows { limit } => format!("/v1/flows?limit={limit}"),
        Command::Handovers { limit } => format!("/v1/handovers?limit={limit}"),
        Command::Status | Command::Config(_) => "/v1/status".to_owned(),
    };
    let answer = client::get(&arguments.socket, &target)?;
    if arguments.json {
        return Ok(format!("{answer}\n"));
    }
    Ok(match &arguments.command {
        Command::Flows { .. } => {
            let fields = [
                ("CLIENT", "client"),
                ("SERVICE", "vip"),
                ("STATE", "state"),
                ("PEER", "peer"),
                ("DELTA", "delta"),
                ("IDLE MS", "idle_ms"),
            ];
            table::list(&answer, &fields)
        }
        Command::Handovers { .. } => {
            let fields = [
                ("TIME", "time"),
                ("CLIENT", "client"),
                ("SERVICE", "service"),
                ("FROM", "source"),
                ("TO", "destination"),
                ("OUTCOME", "outcome"),
                ("REPLAY", "replay"),
                ("BYTES", "bytes"),
                ("US", "duration_us"),
                ("REASON", "reason"),
            ];
            table::list(&answer, &fields)
        }
        Command::Status | Command::Config(_) => table::status(&answer),
    })
}

/// Prints; a reader that has closed its end, as `head` does, is no error.
fn say(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("dtsctl: {e}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}
