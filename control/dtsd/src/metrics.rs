//! What the control thread counts itself: handovers, RPCs, messages of the membership.

use crate::board::Said;
use crate::health::HealthMetrics;
use crate::history::{Outcome, StepTimes};
use dts_core::histogram::BOUNDS_NS;
use dts_membership::{Agreed, FULL, Liveness, Refused, Seen};
use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Upper bounds in seconds, the data plane's.
pub(crate) fn buckets() -> Vec<f64> {
    BOUNDS_NS.iter().map(|&ns| seconds(ns)).collect()
}

/// The number that is written like the bound: 0.000075 and not 0.00007500000000000001.
pub(crate) fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// The step before a handover: from the proxy's sending to the daemon's receipt.
const RPC: &str = "rpc";

/// Values of the `result` label of `dts_rpc_requests_total`.
const RPC_RESULTS: [&str; 6] = ["done", "failed", "malformed", "denied", "overload", "nodes"];

fn counters(
    name: &str,
    help: &str,
    label: &str,
    values: &[&str],
) -> prometheus::Result<IntCounterVec> {
    let vec = IntCounterVec::new(Opts::new(name, help), &[label])?;
    for value in values {
        vec.with_label_values(&[*value]);
    }
    Ok(vec)
}

/// Handovers for which this node was asked.
#[derive(Debug)]
pub struct HandoverMetrics {
    results: IntCounterVec,
    duration: Histogram,
    steps: HistogramVec,
}

impl HandoverMetrics {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let names = Outcome::ALL.map(Outcome::name);
        let results = counters(
            "dts_handovers_total",
            "Handovers that this node was asked for, by result.",
            "result",
            &names,
        )?;
        let duration = Histogram::with_opts(
            HistogramOpts::new(
                "dts_handover_duration_seconds",
                "From the receipt of a request to its answer, for handovers that were accepted.",
            )
            .buckets(buckets()),
        )?;
        let steps = HistogramVec::new(
            HistogramOpts::new(
                "dts_handover_step_seconds",
                "Time that each step took, for handovers that were accepted.",
            )
            .buckets(buckets()),
            &["step"],
        )?;
        steps.with_label_values(&[RPC]);
        for (name, _) in StepTimes::default().named() {
            steps.with_label_values(&[name]);
        }
        registry.register(Box::new(results.clone()))?;
        registry.register(Box::new(duration.clone()))?;
        registry.register(Box::new(steps.clone()))?;
        Ok(Self {
            results,
            duration,
            steps,
        })
    }

    /// How long the request for one that was accepted had been on its way.
    pub fn count_rpc(&self, took: Duration) {
        let rpc = self.steps.with_label_values(&[RPC]);
        rpc.observe(took.as_secs_f64());
    }

    /// Counts one that has ended, with its duration and steps where they are
    /// known; times of failures would blur the histograms and are left out.
    pub fn count(&self, outcome: Outcome, times: Option<(Duration, &StepTimes)>) {
        self.results.with_label_values(&[outcome.name()]).inc();
        let Some((took, steps)) = times.filter(|_| outcome == Outcome::Accepted) else {
            return;
        };
        self.duration.observe(took.as_secs_f64());
        let mut before = 0;
        for (name, at) in steps.named() {
            if let Some(at) = at {
                let step = Duration::from_micros(at.saturating_sub(before));
                self.steps
                    .with_label_values(&[name])
                    .observe(step.as_secs_f64());
                before = at;
            }
        }
    }
}

/// Requests on the RPC socket.
#[derive(Debug)]
pub struct RpcMetrics(IntCounterVec);

impl RpcMetrics {
    /// Counts one request, or one connection that was refused.
    pub fn count(&self, result: &'static str) {
        self.0.with_label_values(&[result]).inc();
    }

    /// The count so far.
    #[must_use]
    pub fn get(&self, result: &'static str) -> u64 {
        self.0.with_label_values(&[result]).get()
    }
}

/// The value of the `result` label for a message that was taken.
const ACCEPTED: &str = "accepted";
/// An epoch as a number that a float holds exactly.
const EPOCH_MASK: u64 = (1 << 48) - 1;

/// The members, and the messages of their protocol.
#[derive(Debug)]
pub struct MemberMetrics {
    messages: IntCounterVec,
    members: IntGaugeVec,
    on_wire: IntGauge,
    changes: IntCounterVec,
    epoch: IntGauge,
    minority: IntGauge,
    scheduler: IntGauge,
    factors: GaugeVec,
    stalls: IntCounter,
    /// Where the last message that was refused for a reason came from, and when.
    last: Mutex<HashMap<Refused, (IpAddr, Instant)>>,
}

impl MemberMetrics {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let mut results = vec![ACCEPTED];
        results.extend(Refused::ALL.map(Refused::name));
        let messages = counters(
            "dts_membership_messages_total",
            "Messages of the membership protocol that came in, by result.",
            "result",
            &results,
        )?;
        let members = IntGaugeVec::new(
            Opts::new(
                "dts_members",
                "Members, this node included, by what is known of them.",
            ),
            &["state"],
        )?;
        let on_wire = IntGauge::new(
            "dts_members_on_wire",
            "Members that are there and hear this node on the wire as it hears them, this node included.",
        )?;
        registry.register(Box::new(on_wire.clone()))?;
        let names = Liveness::ALL.map(Liveness::name);
        for name in names {
            members.with_label_values(&[name]);
        }
        let changes = counters(
            "dts_member_changes_total",
            "Times that a member was found to be in a state, by the state.",
            "state",
            &names,
        )?;
        let epoch = IntGauge::new(
            "dts_epoch",
            "The low 48 bits of the epoch: nodes with the same one have the same owners.",
        )?;
        let minority = IntGauge::new(
            "dts_minority",
            "1: this node lost more members at once than it still sees, and owns nothing.",
        )?;
        let scheduler = IntGauge::new(
            "dts_scheduler",
            "The node that would schedule, or does: the lowest id of the active members; 0: none.",
        )?;
        let factors = GaugeVec::new(
            Opts::new(
                "dts_member_schedule_ratio",
                "How much of its weight a member gets of scheduled services.",
            ),
            &["node"],
        )?;
        let stalls = IntCounter::new(
            "dts_membership_stalls_total",
            "Times that the membership thread was kept from running for longer than it waits for answers.",
        )?;
        registry.register(Box::new(messages.clone()))?;
        registry.register(Box::new(members.clone()))?;
        registry.register(Box::new(changes.clone()))?;
        registry.register(Box::new(epoch.clone()))?;
        registry.register(Box::new(minority.clone()))?;
        registry.register(Box::new(scheduler.clone()))?;
        registry.register(Box::new(factors.clone()))?;
        registry.register(Box::new(stalls.clone()))?;
        Ok(Self {
            messages,
            members,
            on_wire,
            changes,
            epoch,
            minority,
            scheduler,
            factors,
            stalls,
            last: Mutex::default(),
        })
    }

    /// Counts a message that was taken.
    pub fn accepted(&self) {
        self.messages.with_label_values(&[ACCEPTED]).inc();
    }

    /// Counts a message that was not, and remembers who sent it.
    pub fn refused(&self, why: Refused, from: IpAddr) {
        self.messages.with_label_values(&[why.name()]).inc();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.insert(why, (from, Instant::now()));
    }

    /// Where the last message came from that was refused for this reason, and when.
    #[must_use]
    pub fn last_refused(&self, why: Refused) -> Option<(IpAddr, Instant)> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.get(&why).copied()
    }

    /// Shows who is there.
    pub fn show(&self, members: &[Seen], epoch: u64, agreed: &Agreed) {
        for liveness in Liveness::ALL {
            let count = members.iter().filter(|m| m.liveness == liveness).count();
            let gauge = self.members.with_label_values(&[liveness.name()]);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.epoch.set((epoch & EPOCH_MASK) as i64);
        self.minority.set(agreed.minority.into());
        let on_wire = agreed.parts.iter().filter(|p| p.on_wire).count();
        self.on_wire.set(i64::try_from(on_wire).unwrap_or(i64::MAX));
        self.scheduler.set(agreed.scheduler().unwrap_or(0).into());
        for m in members {
            let factor = agreed.factors.get(&m.peer.node).copied().unwrap_or(FULL);
            let gauge = self.factors.with_label_values(&[m.peer.node.to_string()]);
            gauge.set(f64::from(factor) / f64::from(FULL));
        }
    }

    /// Counts a member that was found to be in another state than before.
    pub fn changed(&self, to: Liveness) {
        self.changes.with_label_values(&[to.name()]).inc();
    }

    /// Shows how often the thread was kept from running, from its start on.
    pub fn stalls(&self, count: u64) {
        self.stalls.inc_by(count.saturating_sub(self.stalls.get()));
    }

    /// Messages with this result so far.
    #[must_use]
    pub fn get(&self, result: &str) -> u64 {
        self.messages.with_label_values(&[result]).get()
    }
}

/// Reports from other nodes, and what this one says in its own.
#[derive(Debug)]
pub struct ReportMetrics {
    results: IntCounterVec,
    connections: IntGaugeVec,
}

impl ReportMetrics {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let results = counters(
            "dts_peer_reports_total",
            "Reports of health and load from other nodes, by result.",
            "result",
            &crate::report::RESULTS,
        )?;
        let connections = IntGaugeVec::new(
            Opts::new(
                "dts_application_connections",
                "Connections of clients that the application at a port has.",
            ),
            &["port"],
        )?;
        registry.register(Box::new(results.clone()))?;
        registry.register(Box::new(connections.clone()))?;
        Ok(Self {
            results,
            connections,
        })
    }

    /// Counts one report.
    pub fn count(&self, result: &'static str) {
        self.results.with_label_values(&[result]).inc();
    }

    /// The count so far.
    #[must_use]
    pub fn get(&self, result: &'static str) -> u64 {
        self.results.with_label_values(&[result]).get()
    }

    /// What this node says of itself.
    pub fn show(&self, said: &[Said]) {
        for said in said {
            let port = said.port.to_string();
            let gauge = self.connections.with_label_values(&[port.as_str()]);
            gauge.set(said.connections.into());
        }
    }
}

/// The registry and what is counted by hand.
#[derive(Debug)]
pub struct Metrics {
    /// Everything that `/metrics` shows.
    pub registry: Registry,
    /// See [`HandoverMetrics`].
    pub handovers: Arc<HandoverMetrics>,
    /// See [`RpcMetrics`].
    pub rpc: Arc<RpcMetrics>,
    /// See [`MemberMetrics`].
    pub members: Arc<MemberMetrics>,
    /// See [`ReportMetrics`].
    pub reports: Arc<ReportMetrics>,
    /// See [`HealthMetrics`].
    pub health: Arc<HealthMetrics>,
}

impl Metrics {
    /// All counters at 0.
    ///
    /// # Errors
    /// Two metrics of one name, which a test would find.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let handovers = Arc::new(HandoverMetrics::new(&registry)?);
        let rpc = counters(
            "dts_rpc_requests_total",
            "Requests on the RPC socket, by result.",
            "result",
            &RPC_RESULTS,
        )?;
        registry.register(Box::new(rpc.clone()))?;
        let members = Arc::new(MemberMetrics::new(&registry)?);
        let reports = Arc::new(ReportMetrics::new(&registry)?);
        let health = Arc::new(HealthMetrics::new(&registry)?);
        let build = IntGaugeVec::new(
            Opts::new(
                "dts_build_info",
                "Always 1; the labels say what is running.",
            ),
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(build))?;
        let process = prometheus::process_collector::ProcessCollector::for_self();
        registry.register(Box::new(process))?;
        let rpc = Arc::new(RpcMetrics(rpc));
        Ok(Self {
            registry,
            handovers,
            rpc,
            members,
            reports,
            health,
        })
    }

    /// The text of `/metrics`.
    ///
    /// # Errors
    /// A metric that Prometheus would not take.
    pub fn text(&self) -> prometheus::Result<String> {
        prometheus::TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}
