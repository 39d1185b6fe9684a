//! The daemon's life: everything is started in order, and stopped in the reverse
//! one.

use crate::admin::{self, Api};
use crate::board::{Board, HealthSink};
use crate::fleet_metrics::{FleetCollector, Sample, Source};
use crate::handover::{Handovers, Limits};
use crate::health::{Checks, Refusals};
use crate::life::Life;
use crate::metrics::Metrics;
use crate::peers::{Heard, Peers};
use crate::plane::{Dispatcher, Plane};
use crate::report::Reports;
use crate::rpc_server::{self, Directory, RpcServer};
use crate::snapshot::{self, Boot};
use crate::sockets::Sockets;
use crate::threads;
use crate::twins::{self, Twins};
use anyhow::Context;
use arc_swap::ArcSwap;
use dts_config::{Config, ConfigError};
use dts_core::command::Command;
use dts_core::view::View;
use dts_worker::Fleet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often the daemon looks whether its workers live.
const LOOK: Duration = Duration::from_millis(200);

/// Why the daemon ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration asks for what cannot be had; nothing is left started.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Anything else.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// The running workers, until they are stopped.
struct Shared(Mutex<Option<Fleet>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<Fleet>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Plane for Shared {
    fn workers(&self) -> usize {
        self.lock().as_ref().map_or(0, Fleet::workers)
    }

    fn worker_of(&self, client: SocketAddr) -> usize {
        self.lock().as_ref().map_or(0, |f| f.worker_of(client))
    }

    fn command(&self, worker: usize, command: Command) -> Result<(), Command> {
        match &*self.lock() {
            Some(fleet) => fleet.command(worker, command),
            None => Err(command),
        }
    }
}

/// The part that is there as soon as the data plane runs.
struct Base {
    fleet: Arc<Shared>,
    views: Arc<ArcSwap<View>>,
    dispatcher: Arc<Dispatcher>,
    events: JoinHandle<()>,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// See [`RunError`].
pub fn run(config: &Config) -> Result<(), RunError> {
    let started = Instant::now();
    threads::prepare_process()?;
    // From here on a signal is a wish to stop in order, however far the start is.
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .context("runtime")?;
    let signals = runtime
        .block_on(async { Signals::new() })
        .context("signals")?;
    let sockets = Sockets::bind(config)?;
    let metrics = Arc::new(Metrics::new().context("metrics")?);
    let base = Base::start(config)?;
    let result = serve(config, &runtime, &base, sockets, metrics, started, signals);
    let stopped = base.stop();
    result?;
    stopped.context("stopping the data plane")?;
    tracing::info!("stopped");
    Ok(())
}

impl Base {
    fn start(config: &Config) -> Result<Self, RunError> {
        let blame = |e: dts_worker::StartError| config.error_at(&e.path, e.reason);
        let opened = dts_worker::start::open(config).map_err(blame)?;
        threads::unpin();
        let boot = Boot::now(opened.steer_key)?;
        let view = snapshot::build(config, boot, opened.wire_mac, opened.link_mac);
        let views = Arc::new(ArcSwap::from_pointee(view));
        let (sender, receiver) = crossbeam_channel::unbounded();
        let dispatcher = Arc::new(Dispatcher::default());
        let own = Arc::clone(&dispatcher);
        let events = threads::spawn("dts-events", move || own.run(&receiver)).context("thread")?;
        let fleet = Fleet::spawn(opened, Arc::clone(&views), sender).map_err(blame)?;
        let fleet = Arc::new(Shared(Mutex::new(Some(fleet))));
        Ok(Self {
            fleet,
            views,
            dispatcher,
            events,
        })
    }

    fn stop(self) -> anyhow::Result<()> {
        let fleet = self.fleet.lock().take();
        if let Some(fleet) = fleet {
            fleet.stop()?;
        }
        // The workers had the only senders.
        let _ = self.events.join();
        Ok(())
    }

    /// Handovers that this node refused as destination.
    fn refusals(&self) -> Refusals {
        let fleet = Arc::clone(&self.fleet);
        Arc::new(move || {
            let fleet = fleet.lock();
            let workers = fleet.as_ref().map(Fleet::stats).unwrap_or_default();
            workers.iter().map(|w| w.counters.refused).sum()
        })
    }

    fn source(&self) -> Source {
        let (fleet, views) = (Arc::clone(&self.fleet), Arc::clone(&self.views));
        Arc::new(move || {
            let fleet = fleet.lock();
            let fleet = fleet.as_ref()?;
            Some(Sample {
                workers: fleet.stats(),
                ports: fleet.ports(),
                view: views.load_full(),
            })
        })
    }
}

fn serve(
    config: &Config,
    runtime: &Runtime,
    base: &Base,
    sockets: Sockets,
    metrics: Arc<Metrics>,
    started: Instant,
    signals: Signals,
) -> Result<(), RunError> {
    let twins = runtime
        .block_on(twins::set_up(config, base.views.load().wire_mac))
        .map_err(|e| config.error_at(&e.path, e.reason))?;
    let result = serve_on_twins(config, runtime, base, sockets, metrics, started, signals);
    runtime.block_on(Twins::tear_down(twins));
    result
}

fn serve_on_twins(
    config: &Config,
    runtime: &Runtime,
    base: &Base,
    sockets: Sockets,
    metrics: Arc<Metrics>,
    started: Instant,
    mut signals: Signals,
) -> Result<(), RunError> {
    let source = base.source();
    let collector = FleetCollector::new(Arc::clone(&source)).context("metrics")?;
    metrics
        .registry
        .register(Box::new(collector))
        .context("metrics")?;
    let heard = Arc::new(Heard::default());
    let life = Life::start(
        config.timeouts.socket_check,
        Arc::clone(&base.fleet) as Arc<dyn Plane>,
        Arc::clone(&base.views),
    )
    .context("thread")?;
    let life = Arc::new(life);
    let peers = start_peers(config, base, &heard, &metrics)?;
    let board = Arc::new(Board::new(Arc::clone(&base.views)));
    let reports = start_reports(config, base, &board, &metrics)?;
    let sink: Arc<dyn HealthSink> = Arc::clone(&board) as _;
    let checks =
        Checks::start(config, &sink, &metrics.health, &base.refusals()).context("health checks")?;
    let plane: Arc<dyn Plane> = Arc::clone(&base.fleet) as Arc<dyn Plane>;
    let handover = &config.handover;
    let limits = Limits {
        deadline: handover.deadline,
        first_window: usize::from(handover.first_window),
    };
    let handovers = Arc::new(Handovers::new(
        Arc::clone(&plane),
        Arc::clone(&base.dispatcher),
        Arc::clone(&base.views),
        limits,
        Arc::clone(&metrics.handovers),
    ));
    let told = Arc::clone(&board);
    handovers.on_refusal(Box::new(move |dest, reason| {
        told.refused(dest, reason, Instant::now());
    }));
    let directory: Directory = Arc::new(move || board.nodes(Instant::now()));
    let allow = config.control.rpc_allow.clone();
    let Sockets {
        rpc,
        admin,
        metrics: listener,
    } = sockets;
    let rpc = RpcServer::start(
        rpc,
        allow,
        Arc::clone(&handovers),
        directory,
        Arc::clone(&metrics.rpc),
    )
    .context("RPC server")?;
    let api = Arc::new(Api {
        started,
        source,
        plane,
        dispatcher: Arc::clone(&base.dispatcher),
        history: Arc::clone(&handovers.history),
        heard,
        life: Arc::clone(&life),
        metrics,
    });
    let ended = runtime.block_on(async {
        let http = tokio::net::UnixListener::from_std(admin.listener()?)?;
        tokio::spawn(axum::serve(http, admin::admin(Arc::clone(&api))).into_future());
        listener.set_nonblocking(true)?;
        let http = tokio::net::TcpListener::from_std(listener)?;
        tokio::spawn(axum::serve(http, admin::metrics(api)).into_future());
        // Nobody is told where there is no service manager.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        tracing::info!(node = config.node.0, cluster = config.cluster.name, "ready");
        let failure = wait(&base.fleet, &mut signals).await;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        io::Result::Ok(failure)
    });
    tracing::info!("stopping");
    drop(rpc);
    handovers.stop(rpc_server::patience(handover.deadline));
    drop(checks);
    drop(reports);
    drop(peers);
    drop(life);
    drop(admin);
    match ended.context("admin and metrics")? {
        Some(failure) => Err(anyhow::Error::msg(failure).into()),
        None => Ok(()),
    }
}

/// Without a kernel's side of the link nobody may have the address to speak
/// from, and the node then knows only itself.
fn start_peers(
    config: &Config,
    base: &Base,
    heard: &Arc<Heard>,
    metrics: &Metrics,
) -> Result<Option<Peers>, RunError> {
    let views = Arc::clone(&base.views);
    match Peers::start(
        &config.peers,
        views,
        Arc::clone(heard),
        Arc::clone(&metrics.peers),
    ) {
        Ok(peers) => Ok(Some(peers)),
        Err(error)
            if error.kind() == io::ErrorKind::AddrNotAvailable
                && config.ports.link.host.interface.is_none() =>
        {
            tracing::warn!("no link address on this host: other members stay unknown");
            Ok(None)
        }
        Err(error) => {
            let link = config.this_member().link;
            let reason = format!("{link}:{}: {error}", config.peers.port);
            Err(config.error_at("peers.port", reason).into())
        }
    }
}

/// As [`start_peers`]: without an address nothing is told and nothing is heard.
fn start_reports(
    config: &Config,
    base: &Base,
    board: &Arc<Board>,
    metrics: &Metrics,
) -> Result<Option<Reports>, RunError> {
    let (views, board) = (Arc::clone(&base.views), Arc::clone(board));
    match Reports::start(&config.reports, views, board, Arc::clone(&metrics.reports)) {
        Ok(reports) => Ok(Some(reports)),
        Err(error)
            if error.kind() == io::ErrorKind::AddrNotAvailable
                && config.ports.link.host.interface.is_none() =>
        {
            Ok(None)
        }
        Err(error) => {
            let link = config.this_member().link;
            let reason = format!("{link}:{}: {error}", config.reports.port);
            Err(config.error_at("reports.port", reason).into())
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self {
            terminate,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

/// Until somebody wants an end, or a worker has died: its reason.
async fn wait(fleet: &Shared, signals: &mut Signals) -> Option<String> {
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return None,
            _ = signals.interrupt.recv() => return None,
            _ = look.tick() => {
                let failure = fleet.lock().as_ref().and_then(Fleet::failed);
                if failure.is_some() {
                    return failure;
                }
            }
        }
    }
}
