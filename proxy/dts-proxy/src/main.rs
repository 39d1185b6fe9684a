//! `dts-proxy --config FILE`: see the library.

use anyhow::Context;
use clap::Parser;
use dts_proxy::config::{self, Config, ConfigError};
use dts_proxy::serve::{Counters, listen, serve};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

/// Exit code for a configuration that cannot work.
const BAD_CONFIG: u8 = 2;

/// Reads the requests of a DTS service and has each connection moved to the
/// node that shall answer it.
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
    let config = match config::load(&arguments.config) {
        Ok(config) => config,
        Err(error) => return Ok(refuse(&error)),
    };
    if arguments.check {
        return Ok(ExitCode::SUCCESS);
    }
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let code = runtime.block_on(run(config, arguments.config.display().to_string()));
    // A thread may still wait for the daemon; the process need not.
    runtime.shutdown_background();
    code
}

fn refuse(error: &ConfigError) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(BAD_CONFIG)
}

async fn run(config: Config, file: String) -> anyhow::Result<ExitCode> {
    // Before the port is open: whoever sees it open may send the signal.
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let listener = match listen(config.listen) {
        Ok(listener) => listener,
        Err(error) => {
            return Ok(refuse(&ConfigError {
                file,
                line: Some(config.listen_line),
                reason: format!("listen: {}: {error}", config.listen),
            }));
        }
    };
    tracing::info!(listen = %config.listen, rpc_socket = %config.rpc_socket.display(), "ready");
    let (stop, stopped) = watch::channel(false);
    let counters = Arc::new(Counters::default());
    let serving = tokio::spawn(serve(config, listener, Arc::clone(&counters), stopped));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.send_replace(true);
    serving.await.context("serving")?;
    tracing::info!(?counters, "stopped");
    Ok(ExitCode::SUCCESS)
}

/// `limits.connections` may exceed the usual soft limit of 1024 descriptors.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "descriptor limit not raised");
    }
}
