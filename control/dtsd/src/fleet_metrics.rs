//! What the data plane counts, read at each scrape.

use crate::metrics::seconds;
use dts_core::drops::Drop;
use dts_core::fcb::State;
use dts_core::frame::Port;
use dts_core::histogram::BOUNDS_NS;
use dts_core::ownership::NOBODY;
use dts_core::view::{Service, View};
use dts_worker::{PortSnapshot, Stage, WorkerSnapshot};
use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, MetricFamily};
use prometheus::{IntCounterVec, IntGaugeVec, Opts};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// The data plane at a moment.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Every worker's counters.
    pub workers: Vec<WorkerSnapshot>,
    /// The drivers' counters.
    pub ports: [PortSnapshot; 4],
    /// Who is a member, and heard of.
    pub view: Arc<View>,
}

/// Where samples come from; `None` while the data plane is not up.
pub type Source = Arc<dyn Fn() -> Option<Sample> + Send + Sync>;

/// The collector over a [`Source`].
pub struct FleetCollector {
    source: Source,
    // `desc` returns references.
    descs: Vec<Desc>,
}

impl FleetCollector {
    /// A collector that samples at each scrape.
    ///
    /// # Errors
    /// A metric has an invalid name, which a test would find.
    pub fn new(source: Source) -> prometheus::Result<Self> {
        let mut descs = Families::new()?.desc();
        descs.push(replay_desc()?);
        Ok(Self { source, descs })
    }
}

impl Collector for FleetCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // The names are the same ones that `new` has checked.
        let (Some(sample), Ok(families)) = ((self.source)(), Families::new()) else {
            return Vec::new();
        };
        families.fill(&sample);
        let mut all = families.collect();
        all.push(replays(&sample));
        all
    }
}

macro_rules! families {
    ($($field:ident: $kind:ident, $name:literal, $help:literal, [$($label:literal),*];)*) => {
        /// Every metric, empty; made anew for each scrape.
        struct Families { $($field: $kind,)* }

        impl Families {
            fn new() -> prometheus::Result<Self> {
                Ok(Self { $($field: $kind::new(Opts::new($name, $help), &[$($label),*])?,)* })
            }

            fn desc(&self) -> Vec<Desc> {
                let mut all = Vec::new();
                $(all.extend(self.$field.desc().into_iter().cloned());)*
                all
            }

            fn collect(&self) -> Vec<MetricFamily> {
                let mut all = Vec::new();
                $(all.extend(self.$field.collect());)*
                all
            }
        }
    };
}

families! {
    rx_packets: IntCounterVec, "dts_port_rx_packets_total", "Frames received.", ["port", "worker"];
    rx_bytes: IntCounterVec, "dts_port_rx_bytes_total", "Bytes received, FCS not counted.", ["port", "worker"];
    tx_packets: IntCounterVec, "dts_port_tx_packets_total", "Frames sent.", ["port", "worker"];
    tx_bytes: IntCounterVec, "dts_port_tx_bytes_total", "Bytes sent, FCS not counted.", ["port", "worker"];
    missed: IntCounterVec, "dts_port_rx_missed_packets_total",
        "Frames that the device dropped because no descriptor or no buffer was free.", ["port"];
    errors: IntCounterVec, "dts_port_errors_total", "Frames that the device reports as bad.", ["port", "direction"];
    owners: IntGaugeVec, "dts_service_owners",
        "Nodes that own new connections of the service; 0: it is unavailable, or this node is of a minority.", ["service"];
    up: IntGaugeVec, "dts_port_up", "1 if the link is up.", ["port"];
    layer2_faults: IntCounterVec, "dts_layer2_faults_total",
        "What was heard on the wire that takes the cluster's frames elsewhere.", ["fault", "worker"];
    drops: IntCounterVec, "dts_drops_total", "Frames that ended here, by reason.", ["reason", "worker"];
    replays: IntCounterVec, "dts_replays_total",
        "Handovers that this node accepted as destination, by replay.", ["replay"];
    refusals: IntCounterVec, "dts_refusals_total", "Handovers that this node refused as destination.", ["worker"];
    opened: IntCounterVec, "dts_connections_opened_total", "Connections that were opened at this intake.", ["worker"];
    repeats: IntCounterVec, "dts_handover_repeats_total",
        "Handovers whose destination died before it answered: repeated; and those that could not be.", ["result", "worker"];
    resets: IntCounterVec, "dts_resets_total",
        "Clients that were reset: their handover has an unknown outcome, their node is gone, or no node takes connections of their service.", ["reason", "worker"];
    link_messages: IntCounterVec, "dts_link_messages_total", "Link messages that were taken.", ["worker"];
    data_segments: IntCounterVec, "dts_link_data_segments_total",
        "Segments of large requests sent behind a splice, repetitions too.", ["worker"];
    link_repeats: IntCounterVec, "dts_link_repeats_total",
        "Times that a source sent again because no answer came in time.", ["worker"];
    sockets_gone: IntCounterVec, "dts_sockets_gone_total",
        "Flows that ended because the kernel no longer had their socket.", ["worker"];
    flows: IntGaugeVec, "dts_flows", "Flow entries in use, by state.", ["state", "worker"];
    flows_capacity: IntGaugeVec, "dts_flows_capacity", "Flow entries in all.", ["worker"];
    ring_used: IntGaugeVec, "dts_ring_used", "Frames that wait in the ring from other workers.", ["worker"];
    ring_capacity: IntGaugeVec, "dts_ring_capacity", "Frames that fit into that ring.", ["worker"];
    mbufs_used: IntGaugeVec, "dts_mempool_used", "Packet buffers in use.", ["worker"];
    mbufs_capacity: IntGaugeVec, "dts_mempool_capacity", "Packet buffers in all.", ["worker"];
    hold_used: IntGaugeVec, "dts_hold_buffers_used", "Buffers for held frames in use.", ["worker"];
    hold_capacity: IntGaugeVec, "dts_hold_buffers_capacity", "Buffers for held frames in all.", ["worker"];
    tx_waiting: IntGaugeVec, "dts_tx_waiting", "Frames that no driver has taken yet.", ["worker"];
    finished: IntCounterVec, "dts_offload_frames_total",
        "Frames of the own stack whose checksum was filled in or that were cut into segments, by whom.",
        ["what", "by", "worker"];
    offloads: IntGaugeVec, "dts_port_offload",
        "1: what is done to a port's frames, and by whom.", ["port", "what", "by"];
    rules: IntCounterVec, "dts_port_rule_drops_total",
        "Frames that a NIC's rules have dropped, where it counts them.", ["port", "rule"];
    handed_over: IntCounterVec, "dts_port_handed_over_total",
        "Frames received by another worker's queue that came to this worker by its ring.", ["port", "worker"];
    cycles: IntCounterVec, "dts_worker_cycles_total",
        "Cycles of the time-stamp counter, by what the worker did.", ["stage", "worker"];
    loops: IntCounterVec, "dts_worker_loops_total", "Turns of the worker's loop, by what they found.", ["found", "worker"];
    sleeps: IntCounterVec, "dts_worker_sleeps_total", "Sleeps of an idle worker.", ["worker"];
}

const REPLAY: &str = "dts_replay_seconds";
const REPLAY_HELP: &str =
    "Destination: from the splice to the cut over, when the own stack had the whole request.";

fn replay_desc() -> prometheus::Result<Desc> {
    let labels = vec!["worker".to_owned()];
    Desc::new(REPLAY.into(), REPLAY_HELP.into(), labels, HashMap::new())
}

/// The workers' histograms. The library's own type takes single observations only.
fn replays(sample: &Sample) -> MetricFamily {
    let metric = |w: &WorkerSnapshot| {
        let mut sum = 0;
        let mut bucket = |(&bound, &count): (&u64, &u64)| {
            sum += count;
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(seconds(bound));
            bucket.set_cumulative_count(sum);
            bucket
        };
        let buckets = BOUNDS_NS.iter().zip(&w.replays.counts);
        let buckets: Vec<_> = buckets.map(&mut bucket).collect();
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(w.replays.counts.iter().sum());
        histogram.set_sample_sum(seconds(w.replays.sum_ns));
        let mut label = proto::LabelPair::default();
        label.set_name("worker".into());
        label.set_value(w.worker.to_string());
        let mut metric = proto::Metric::from_label(vec![label]);
        metric.set_histogram(histogram);
        metric
    };
    let mut family = MetricFamily::default();
    family.set_name(REPLAY.into());
    family.set_help(REPLAY_HELP.into());
    family.set_field_type(proto::MetricType::HISTOGRAM);
    family.set_metric(sample.workers.iter().map(metric).collect());
    family
}

fn set(vec: &IntGaugeVec, labels: &[&str], value: u64) {
    vec.with_label_values(labels)
        .set(i64::try_from(value).unwrap_or(i64::MAX));
}

fn add(vec: &IntCounterVec, labels: &[&str], value: u64) {
    vec.with_label_values(labels).inc_by(value);
}

impl Families {
    fn fill(&self, sample: &Sample) {
        for service in &sample.view.services {
            let owners = owners(service).len();
            set(&self.owners, &[&service.name], owners as u64);
        }
        sample.workers.iter().for_each(|w| self.worker(w));
        for (port, s) in Port::ALL.iter().zip(&sample.ports) {
            let port = port.name();
            add(&self.missed, &[port], s.eth.rx_missed + s.eth.rx_nombuf);
            add(&self.errors, &[port, "rx"], s.eth.rx_errors);
            add(&self.errors, &[port, "tx"], s.eth.tx_errors);
            set(&self.up, &[port], u64::from(s.up));
            for &(what, by) in &s.offloads {
                set(&self.offloads, &[port, what, by], 1);
            }
            for &(rule, frames) in &s.dropped {
                add(&self.rules, &[port, rule], frames);
            }
        }
    }

    fn worker(&self, w: &WorkerSnapshot) {
        let number = w.worker.to_string();
        let number = number.as_str();
        for (port, c) in Port::ALL.iter().zip(&w.ports) {
            let labels = [port.name(), number];
            add(&self.rx_packets, &labels, c.rx_packets);
            add(&self.rx_bytes, &labels, c.rx_bytes);
            add(&self.tx_packets, &labels, c.tx_packets);
            add(&self.tx_bytes, &labels, c.tx_bytes);
            add(&self.handed_over, &labels, c.handed_over);
        }
        for why in Drop::ALL {
            add(&self.drops, &[why.name(), number], w.drops.get(*why));
        }
        add(&self.replays, &["fast_open"], w.counters.replay_fast_open);
        add(&self.replays, &["handshake"], w.counters.replay_handshake);
        add(&self.replays, &["paper"], w.counters.replay_paper);
        add(&self.refusals, &[number], w.counters.refused);
        add(&self.opened, &[number], w.counters.opened);
        add(&self.sockets_gone, &[number], w.counters.sockets_gone);
        add(&self.link_messages, &[number], w.counters.link_messages);
        add(&self.data_segments, &[number], w.counters.data_segments);
        add(&self.link_repeats, &[number], w.counters.link_repeats);
        add(&self.repeats, &["repeated", number], w.counters.repeats);
        add(
            &self.repeats,
            &["given_up", number],
            w.counters.repeats_given_up,
        );
        add(&self.resets, &["orphan", number], w.counters.orphan_resets);
        add(
            &self.resets,
            &["unavailable", number],
            w.counters.unavailable_resets,
        );
        add(
            &self.layer2_faults,
            &["vip_conflict", number],
            w.counters.vip_conflicts,
        );
        add(
            &self.layer2_faults,
            &["cluster_mac_source", number],
            w.counters.cluster_mac_sources,
        );
        add(
            &self.resets,
            &["unknown", number],
            w.counters.unknown_resets,
        );
        for (state, count) in State::ALL.iter().zip(w.states) {
            set(&self.flows, &[state.name(), number], count);
        }
        set(&self.flows_capacity, &[number], w.flows_capacity);
        set(&self.ring_used, &[number], w.ring);
        set(&self.ring_capacity, &[number], w.ring_capacity);
        set(&self.mbufs_used, &[number], w.mbufs_used);
        set(&self.mbufs_capacity, &[number], w.mbufs_capacity);
        set(&self.hold_used, &[number], w.hold_used);
        set(&self.hold_capacity, &[number], w.hold_capacity);
        set(&self.tx_waiting, &[number], w.tx_waiting);
        for (what, by, value) in [
            ("checksum", "device", w.checksum_device),
            ("checksum", "software", w.checksum_software),
            ("tso", "device", w.tso_device),
            ("tso", "software", w.tso_software),
        ] {
            add(&self.finished, &[what, by, number], value);
        }
        for (stage, cycles) in Stage::ALL.iter().zip(w.cycles) {
            add(&self.cycles, &[stage.name(), number], cycles);
        }
        add(&self.loops, &["work", number], w.busy_loops);
        add(
            &self.loops,
            &["nothing", number],
            w.loops.saturating_sub(w.busy_loops),
        );
        add(&self.sleeps, &[number], w.sleeps);
    }
}

/// The nodes that own new connections of a service, by id.
#[must_use]
pub fn owners(service: &Service) -> BTreeSet<u16> {
    let owners = service.buckets.owners().iter().copied();
    owners.filter(|o| *o != NOBODY).collect()
}

/// A member's state as a word: `alive`, `dead`, `gone`, or `unknown` as long as
/// it has not been heard of.
#[must_use]
pub fn peer_state(m: &dts_core::view::Member) -> &'static str {
    match (m.alive, m.gone, m.known.is_some()) {
        (true, ..) => "alive",
        (false, true, _) => "gone",
        (false, false, true) => "dead",
        (false, false, false) => "unknown",
    }
}

#[cfg(test)]
#[path = "fleet_metrics_tests.rs"]
mod tests;
