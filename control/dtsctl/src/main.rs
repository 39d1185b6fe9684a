//! `dtsctl`: asks a DTS daemon what it does, and checks its configuration.

mod client;
mod doctor;
mod drain;
mod explain;
mod table;
mod what_if;

use clap::{Parser, Subcommand};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Exit code for a configuration that cannot work, as dtsd's.
const BAD_CONFIG: u8 = 2;

/// Exit code when a draining was waited for and is not over in time.
const CONNECTIONS_REMAIN: u8 = 3;

/// Exit code of `doctor` when it found a fault.
const FAULT: u8 = 4;

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
    /// The members of the cluster, as this node sees them.
    Nodes,
    /// Lets a node take nothing new; its connections live on.
    ///
    /// Exit code 3: it was waited for, and connections remain.
    Drain {
        /// The node's id.
        node: u16,
        /// Wait until its last connection has ended.
        #[arg(long)]
        wait: bool,
        /// Longest wait, seconds; without it there is no limit.
        #[arg(long, value_name = "SECONDS", requires = "wait")]
        timeout: Option<u64>,
    },
    /// Lets a node take its share of what is new.
    Undrain {
        /// The node's id.
        node: u16,
    },
    /// Lets a node take nothing new as long as any active node could.
    Standby {
        /// The node's id.
        node: u16,
    },
    /// Changes a node's share of what is new, until it is started anew.
    Weight {
        /// The node's id.
        node: u16,
        /// 0 to 100.
        #[arg(value_parser = clap::value_parser!(u8).range(0..=100))]
        weight: u8,
    },
    /// Who owns a connection and why, and what each member knows of it.
    Explain {
        /// The client's address and port.
        #[arg(value_name = "CLIENT:PORT")]
        client: SocketAddr,
        /// The service's.
        #[arg(value_name = "VIP:PORT")]
        vip: SocketAddr,
    },
    /// What share of new connections a change would move, and where. Changes nothing.
    #[command(subcommand)]
    WhatIf(what_if::Change),
    /// Checks this node and the cluster as it sees it, and says what to do.
    ///
    /// Exit code 4: there is a fault.
    Doctor,
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
        Ok(Said::Text(text)) => say(&text),
        Ok(Said::Fault(text)) => {
            say(&text);
            ExitCode::from(FAULT)
        }
        Ok(Said::Remaining(text)) => {
            eprintln!("dtsctl: {text}");
            ExitCode::from(CONNECTIONS_REMAIN)
        }
        Err(error) => {
            eprintln!("dtsctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What there is to tell.
enum Said {
    Text(String),
    /// The same, with a fault in it.
    Fault(String),
    /// A draining is not over: what remains.
    Remaining(String),
}

fn ask(arguments: &Arguments) -> anyhow::Result<Said> {
    let socket = &arguments.socket;
    let become_ = |node: &u16, what: &str| {
        client::post(socket, &format!("/v1/nodes/{node}/{what}")).map(|_| Said::Text(String::new()))
    };
    let target = match &arguments.command {
        Command::Drain {
            node,
            wait,
            timeout,
        } => {
            become_(node, "drain")?;
            if !wait {
                return Ok(Said::Text(String::new()));
            }
            let timeout = timeout.map(Duration::from_secs);
            return Ok(match drain::wait(socket, *node, timeout)? {
                drain::End::Over => Said::Text(String::new()),
                drain::End::Remaining(text) => Said::Remaining(text),
            });
        }
        Command::Undrain { node } => return become_(node, "undrain"),
        Command::Standby { node } => return become_(node, "standby"),
        Command::Weight { node, weight } => {
            return become_(node, &format!("weight?value={weight}"));
        }
        Command::Nodes => "/v1/nodes".to_owned(),
        Command::Flows { limit } => format!("/v1/flows?limit={limit}"),
        Command::Handovers { limit } => format!("/v1/handovers?limit={limit}"),
        Command::Explain { client, vip } => explain::target(*client, *vip),
        Command::WhatIf(change) => what_if::target(*change),
        Command::Doctor => "/v1/doctor".to_owned(),
        Command::Status | Command::Config(_) => "/v1/status".to_owned(),
    };
    let answer = client::get(socket, &target)?;
    let text = if arguments.json {
        format!("{answer}\n")
    } else {
        show(&arguments.command, &answer)
    };
    let is_ill = matches!(arguments.command, Command::Doctor) && !doctor::is_well(&answer);
    Ok(if is_ill {
        Said::Fault(text)
    } else {
        Said::Text(text)
    })
}

fn show(command: &Command, answer: &serde_json::Value) -> String {
    match command {
        Command::Flows { .. } => {
            let fields = [
                ("CLIENT", "client"),
                ("SERVICE", "vip"),
                ("STATE", "state"),
                ("PEER", "peer"),
                ("DELTA", "delta"),
                ("IDLE MS", "idle_ms"),
            ];
            table::list(answer, &fields)
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
            table::list(answer, &fields)
        }
        Command::Nodes => table::nodes(answer),
        Command::Explain { .. } => explain::show(answer),
        Command::WhatIf(_) => what_if::show(answer),
        Command::Doctor => doctor::show(answer),
        _ => table::status(answer),
    }
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
