//! The daemon's life: everything is started in order, and stopped in the reverse
//! one.

use crate::admin::{self, Api};
use crate::board::{Board, HealthSink};
use crate::drained::{Flows, Watch};
use crate::fleet_metrics::{FleetCollector, Sample, Source};
use crate::handover::{Handovers, Limits};
use crate::health::{Checks, Refusals};
use crate::life::Life;
use crate::local::{self, Answerer, Layer2, Local};
use crate::members::{Handle, Members};
use crate::metrics::Metrics;
use crate::plane::{Dispatcher, Plane};
use crate::publish::Publisher;
use crate::report::Reports;
use crate::rpc_server::{self, Directory, RpcServer};
use crate::snapshot::{self, Boot};
use crate::sockets::Sockets;
use crate::tcp_caps;
use crate::threads;
use crate::twins::{self, Twins};
use anyhow::Context;
use arc_swap::ArcSwap;
use dts_config::{Config, ConfigError};
use dts_core::command::Command;
use dts_core::view::View;
use dts_membership::{Membership, Record, Seen, State, Wish};
use dts_owners::{OVERLAP, Plan};
use dts_proto::block::derive_key;
use dts_worker::Fleet;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often the daemon looks whether its workers live, and what they have. A service manager's
/// watchdog must have more patience than that.
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
    boot: Boot,
}

/// Runs until SIGTERM or SIGINT, and then, at most for `timeouts.drain_s`, until its last
/// connection has ended.
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
        if let Err(error) = threads::keep_in_memory() {
            tracing::info!(%error, "the process may be moved out of memory");
        }
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
            boot,
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
    let life = Life::start(
        config.timeouts.socket_check,
        Arc::clone(&base.fleet) as Arc<dyn Plane>,
        Arc::clone(&base.views),
    )
    .context("thread")?;
    let life = Arc::new(life);
    let layer2 = Arc::new(Layer2::default());
    let local = Arc::new(Local {
        views: Arc::clone(&base.views),
        plane: Arc::clone(&base.fleet) as Arc<dyn Plane>,
        dispatcher: Arc::clone(&base.dispatcher),
        metrics: Arc::clone(&metrics.members),
        layer2: Arc::clone(&layer2),
    });
    let (members, answerer) = start_members(config, base, &metrics, &local)?.unzip();
    let handle = members.as_ref().map(Members::handle);
    match handle.clone() {
        Some(handle) => base.dispatcher.on_wire(move |m| handle.set_on_wire(m)),
        // A node that knows only itself has nobody to say hello to.
        None => {
            base.views.rcu(|view| {
                let mut view = View::clone(view);
                view.params.hello = None;
                view
            });
        }
    }
    let board = Arc::new(Board::new(Arc::clone(&base.views)));
    let reports = start_reports(config, base, &board, &metrics)?;
    let sink: Arc<dyn HealthSink> = Arc::new(Told {
        board: Arc::clone(&board),
        members: handle.clone(),
        services: config.services.iter().map(|s| s.name.clone()).collect(),
    });
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
        members: handle.clone(),
        life: Arc::clone(&life),
        metrics,
        local,
        plan: Plan::of(config),
        config: config.clone(),
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
        let end = End {
            fleet: &base.fleet,
            layer2: &layer2,
            members: handle,
            node: config.node.0,
            patience: config.timeouts.drain,
        };
        let failure = end.wait(&mut signals).await;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        io::Result::Ok(failure)
    });
    tracing::info!("stopping");
    drop(rpc);
    handovers.stop(rpc_server::patience(handover.deadline));
    drop(checks);
    drop(reports);
    drop(members);
    drop(answerer);
    drop(life);
    drop(admin);
    match ended.context("admin and metrics")? {
        Some(failure) => Err(anyhow::Error::msg(failure).into()),
        None => Ok(()),
    }
}

/// Who is told of the node's own applications: proxies by the board, and the other members,
/// so that a node without a working application owns no new connection of the service.
struct Told {
    board: Arc<Board>,
    members: Option<Handle>,
    /// Names of the services in the order of the configuration.
    services: Vec<String>,
}

impl HealthSink for Told {
    fn set(&self, service: &str, healthy: bool) {
        self.board.set(service, healthy);
        let index = self.services.iter().position(|s| s == service);
        if let (Some(members), Some(index)) = (&self.members, index) {
            members.set_health(index, healthy);
        }
    }
}

/// Without a kernel's side of the link nobody may have the address to speak
/// from, and the node then knows only itself.
fn start_members(
    config: &Config,
    base: &Base,
    metrics: &Metrics,
    local: &Arc<Local>,
) -> Result<Option<(Members, Answerer)>, RunError> {
    let view = base.views.load_full();
    let own = snapshot::own_record(config, &base.boot, view.link_mac, tcp_caps::read());
    let peers = snapshot::peers(config);
    let start = Instant::now();
    let now = start.elapsed();
    // Random per boot, and not to be guessed from what it decides.
    let random = derive_key(&base.boot.steer_key, "membership seed");
    let seed = u128::from_le_bytes(random) as u64;
    let core = Membership::new(
        own,
        &peers,
        snapshot::link_keys(config),
        snapshot::settings(config),
        seed,
        now,
    );
    metrics
        .members
        .show(&core.members(), core.own_record().epoch, core.agreed());
    let port = config.peers.port;
    let link = config.this_member().link;
    let socket = match UdpSocket::bind((link, port)) {
        Ok(socket) => socket,
        Err(error)
            if error.kind() == io::ErrorKind::AddrNotAvailable
                && config.ports.link.host.interface.is_none() =>
        {
            tracing::warn!("no link address on this host: other members stay unknown");
            return Ok(None);
        }
        Err(error) => {
            let reason = format!("{link}:{port}: {error}");
            return Err(config.error_at("peers.port", reason).into());
        }
    };
    let publisher = Publisher::start(Plan::of(config), Arc::clone(&base.views));
    let publisher = publisher.context("thread")?;
    let (mail, asked) = local::mailbox();
    let members = Members::start(
        core,
        start,
        socket,
        port,
        Arc::clone(&metrics.members),
        publisher,
        mail,
    );
    let members = members.context("thread")?;
    let answerer = Answerer::start(Arc::clone(local), asked, members.handle());
    Ok(Some((members, answerer.context("thread")?)))
}

/// As [`start_members`]: without an address nothing is told and nothing is heard.
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

    /// Somebody wants an end.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// What the daemon needs to know when to end.
struct End<'a> {
    fleet: &'a Shared,
    layer2: &'a Layer2,
    members: Option<Handle>,
    node: u16,
    /// Longest wait for connections.
    patience: Duration,
}

/// How often each worker's loop had turned at the last look.
#[derive(Default)]
struct Turns(Vec<u64>);

impl Turns {
    /// Whether each worker has turned since the last call; an idle one does, as it sleeps for
    /// some milliseconds at most.
    fn all_go_on(&mut self, now: impl Iterator<Item = u64>) -> bool {
        let now: Vec<u64> = now.collect();
        let go_on = now.len() == self.0.len() && now.iter().zip(&self.0).all(|(n, b)| n > b);
        self.0 = now;
        go_on
    }
}

impl End<'_> {
    /// Until somebody wants an end and the last connection has ended, or a worker has
    /// died: its reason. Whoever wants an end a second time does not wait for connections.
    async fn wait(&self, signals: &mut Signals) -> Option<String> {
        let mut look = tokio::time::interval(LOOK);
        let mut watch = Watch::default();
        let mut drains: Option<Instant> = None;
        let mut turns = Turns::default();
        loop {
            tokio::select! {
                () = signals.next() => {
                    if drains.is_some() || self.patience.is_zero() || !self.drain().await {
                        return None;
                    }
                    drains = Some(Instant::now());
                }
                _ = look.tick() => {
                    let (failure, flows) = self.look(&mut turns)?;
                    if failure.is_some() {
                        return failure;
                    }
                    let over = self.tell(flows, &mut watch).await;
                    let Some(since) = drains.map(|d| d.elapsed()) else { continue };
                    // Whoever has nothing waits only until the others know.
                    if over || (flows.entries == 0 && since >= OVERLAP) {
                        return None;
                    }
                    if since >= self.patience {
                        tracing::warn!(connections = flows.connections, "connections remain");
                        return None;
                    }
                }
            }
        }
    }

    /// Why a worker has died, and what the workers have. Feeds the service manager's watchdog
    /// if all have turned since the last look.
    fn look(&self, turns: &mut Turns) -> Option<(Option<String>, Flows)> {
        let fleet = self.fleet.lock();
        let fleet = fleet.as_ref()?;
        let stats = fleet.stats();
        if turns.all_go_on(stats.iter().map(|w| w.loops)) {
            // Nobody is told where there is no service manager.
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        }
        self.layer2.look(&stats);
        Some((fleet.failed(), Flows::of(&stats)))
    }

    /// Tells the other members what this node has; true when its draining is over.
    async fn tell(&self, flows: Flows, watch: &mut Watch) -> bool {
        let Some(members) = &self.members else {
            return false;
        };
        let Some(roster) = members.look().await else {
            return false;
        };
        let own = roster.members.iter().find(|m| m.peer.node == self.node);
        let state = own.and_then(|m: &Seen| m.record).map(|r: Record| r.state);
        let over = state.is_some_and(|state: State| watch.is_over(state, flows, Instant::now()));
        members.set_load(flows.connections, over);
        over
    }

    /// Takes on nothing new; false where nobody else could.
    async fn drain(&self) -> bool {
        let Some(members) = &self.members else {
            return false;
        };
        tracing::info!("draining");
        members.wish(self.node, Wish::Drain).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::Turns;

    #[test]
    fn the_watchdog_is_fed_while_every_worker_goes_on() {
        let mut turns = Turns::default();
        for (now, fed) in [
            ([5, 5], false),
            ([6, 9], true),
            ([7, 9], false),
            ([7, 10], false),
            ([8, 11], true),
        ] {
            assert_eq!(turns.all_go_on(now.into_iter()), fed, "{now:?}");
        }
    }
}
