//! The names as promtool would check them, and the values.

use super::*;
use crate::metrics::Metrics;
use crate::testkit::config;
use dts_core::time::Span;
use dts_worker::PortCounters;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

fn sample(workers: usize, factor: u64) -> Sample {
    let worker = |number: usize| {
        let mut w = WorkerSnapshot {
            worker: number,
            ..WorkerSnapshot::default()
        };
        let n = number as u64 + 1;
        w.ports[0] = PortCounters {
            rx_packets: 10 * factor * n,
            rx_bytes: 1000 * factor * n,
            tx_packets: 7 * factor,
            tx_bytes: 700 * factor,
            handed_over: 3 * factor,
        };
        w.drops.0[Drop::NotOwner as usize] = 3 * factor;
        w.counters.replay_fast_open = factor;
        w.counters.opened = 5 * factor;
        for us in [1, 40, 2_000_000] {
            (0..factor).for_each(|_| w.replays.observe(Span::micros(us)));
        }
        w.counters.orphan_resets = 2 * factor;
        w.states = [1, 2, 3, 4, 5];
        w.mbufs_used = 17;
        w.mbufs_capacity = 100;
        w.ring_capacity = 1023;
        w
    };
    let boot = crate::snapshot::Boot {
        incarnation: 1,
        steer_key: [0; 16],
    };
    Sample {
        workers: (0..workers).map(worker).collect(),
        ports: Default::default(),
        view: Arc::new(crate::snapshot::build(&config(), boot, [2; 6], [4; 6])),
    }
}

/// The daemon's metrics over a sample that can be changed.
fn rig() -> (Metrics, Arc<Mutex<Option<Sample>>>) {
    let metrics = Metrics::new().unwrap();
    let shared = Arc::new(Mutex::new(None));
    let own = Arc::clone(&shared);
    let source: Source = Arc::new(move || own.lock().unwrap().clone());
    metrics
        .registry
        .register(Box::new(FleetCollector::new(source).unwrap()))
        .unwrap();
    (metrics, shared)
}

/// Name, type and samples of each metric, strictly by the text format.
struct Parsed {
    types: BTreeMap<String, String>,
    helps: BTreeSet<String>,
    values: BTreeMap<String, f64>,
}

fn parse(text: &str) -> Parsed {
    let mut p = Parsed {
        types: BTreeMap::new(),
        helps: BTreeSet::new(),
        values: BTreeMap::new(),
    };
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(
                p.types.insert(name.into(), kind.into()).is_none(),
                "{name} twice"
            );
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!help.is_empty());
            p.helps.insert(name.into());
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let value: f64 = value.parse().unwrap();
            assert!(
                p.values.insert(series.into(), value).is_none(),
                "{series} twice"
            );
        }
    }
    p
}

fn scrape(metrics: &Metrics) -> Parsed {
    parse(&metrics.text().unwrap())
}

#[test]
fn names_follow_the_conventions() {
    let (metrics, shared) = rig();
    *shared.lock().unwrap() = Some(sample(2, 1));
    let p = scrape(&metrics);
    assert!(p.types.len() > 25);
    for (name, kind) in &p.types {
        assert!(p.helps.contains(name), "{name} has no help");
        assert!(
            name.starts_with("dts_") || name.starts_with("process_"),
            "{name}"
        );
        assert!(
            name.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
            "{name}"
        );
        let total = name.ends_with("_total");
        assert_eq!(total, kind == "counter", "{name} is a {kind}");
        let last = name.trim_end_matches("_total").rsplit('_').next().unwrap();
        let scaled = [
            "ms",
            "us",
            "ns",
            "milliseconds",
            "microseconds",
            "kib",
            "mib",
            "percent",
        ];
        assert!(!scaled.contains(&last), "{name} is not in a base unit");
        if kind == "histogram" {
            assert!(name.ends_with("_seconds"), "{name}");
        }
    }
    for series in p.values.keys() {
        let base = series.split('{').next().unwrap();
        let stem = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|s| base.strip_suffix(s));
        let known = p.types.contains_key(base) || stem.is_some_and(|s| p.types.contains_key(s));
        assert!(known, "{series} has no type");
        assert!(
            !series.contains("client="),
            "{series} has a client in a label"
        );
    }
}

#[test]
fn every_reason_and_result_is_there_at_0() {
    let (metrics, shared) = rig();
    *shared.lock().unwrap() = Some(sample(1, 0));
    let p = scrape(&metrics);
    for why in Drop::ALL {
        let series = format!("dts_drops_total{{reason=\"{}\",worker=\"0\"}}", why.name());
        assert_eq!(p.values.get(&series), Some(&0.0), "{series}");
    }
    for outcome in crate::history::Outcome::ALL {
        let series = format!("dts_handovers_total{{result=\"{}\"}}", outcome.name());
        assert_eq!(p.values.get(&series), Some(&0.0), "{series}");
    }
    let results = dts_membership::Refused::ALL.map(dts_membership::Refused::name);
    for result in results.iter().chain(&["accepted"]) {
        let series = format!("dts_membership_messages_total{{result=\"{result}\"}}");
        assert_eq!(p.values.get(&series), Some(&0.0), "{series}");
    }
}

#[test]
fn values_follow_the_workers() {
    let (metrics, shared) = rig();
    let absent = scrape(&metrics);
    assert!(!absent.types.contains_key("dts_drops_total"));
    for factor in [1, 4] {
        *shared.lock().unwrap() = Some(sample(2, factor));
        let p = scrape(&metrics);
        let expect = [
            (
                "dts_port_rx_packets_total{port=\"wire\",worker=\"0\"}",
                10 * factor,
            ),
            (
                "dts_port_rx_packets_total{port=\"wire\",worker=\"1\"}",
                20 * factor,
            ),
            (
                "dts_port_rx_bytes_total{port=\"wire\",worker=\"1\"}",
                2000 * factor,
            ),
            (
                "dts_port_tx_packets_total{port=\"wire\",worker=\"1\"}",
                7 * factor,
            ),
            (
                "dts_port_tx_bytes_total{port=\"wire\",worker=\"0\"}",
                700 * factor,
            ),
            (
                "dts_port_handed_over_total{port=\"wire\",worker=\"0\"}",
                3 * factor,
            ),
            ("dts_port_rx_packets_total{port=\"link\",worker=\"0\"}", 0),
            (
                "dts_drops_total{reason=\"not_owner\",worker=\"1\"}",
                3 * factor,
            ),
            ("dts_replays_total{replay=\"fast_open\"}", 2 * factor),
            ("dts_replays_total{replay=\"paper\"}", 0),
            (
                "dts_replay_seconds_bucket{worker=\"0\",le=\"0.000001\"}",
                factor,
            ),
            (
                "dts_replay_seconds_bucket{worker=\"0\",le=\"0.00005\"}",
                2 * factor,
            ),
            ("dts_replay_seconds_count{worker=\"1\"}", 3 * factor),
            ("dts_connections_opened_total{worker=\"0\"}", 5 * factor),
            (
                "dts_resets_total{reason=\"orphan\",worker=\"0\"}",
                2 * factor,
            ),
            ("dts_flows{state=\"half_open\",worker=\"0\"}", 1),
            ("dts_flows{state=\"tombstone\",worker=\"1\"}", 5),
            ("dts_mempool_used{worker=\"0\"}", 17),
            ("dts_mempool_capacity{worker=\"0\"}", 100),
            ("dts_ring_capacity{worker=\"1\"}", 1023),
        ];
        for (series, value) in expect {
            assert_eq!(p.values.get(series), Some(&(value as f64)), "{series}");
        }
    }
}

#[test]
fn hand_counted_metrics_follow_too() {
    let (metrics, _) = rig();
    let steps = crate::history::StepTimes {
        frozen_us: Some(40),
        drained_us: Some(90),
        ..Default::default()
    };
    let took = std::time::Duration::from_micros(400);
    metrics
        .handovers
        .count(crate::history::Outcome::Accepted, Some((took, &steps)));
    metrics
        .handovers
        .count(crate::history::Outcome::Refused, Some((took, &steps)));
    metrics
        .handovers
        .count_rpc(std::time::Duration::from_micros(20));
    metrics.rpc.count("malformed");
    let p = scrape(&metrics);
    let expect = [
        ("dts_handovers_total{result=\"accepted\"}", 1.0),
        ("dts_handovers_total{result=\"refused\"}", 1.0),
        ("dts_handover_duration_seconds_bucket{le=\"0.0003\"}", 0.0),
        ("dts_handover_duration_seconds_bucket{le=\"0.0005\"}", 1.0),
        ("dts_handover_duration_seconds_sum", 0.0004),
        // 50 us for the drain itself, not the 90 since the request.
        (
            "dts_handover_step_seconds_bucket{step=\"drain\",le=\"0.00005\"}",
            1.0,
        ),
        ("dts_handover_step_seconds_count{step=\"bury\"}", 0.0),
        (
            "dts_handover_step_seconds_bucket{step=\"rpc\",le=\"0.000015\"}",
            0.0,
        ),
        (
            "dts_handover_step_seconds_bucket{step=\"rpc\",le=\"0.00002\"}",
            1.0,
        ),
        ("dts_rpc_requests_total{result=\"malformed\"}", 1.0),
    ];
    for (series, value) in expect {
        assert_eq!(p.values.get(series), Some(&value), "{series}");
    }
}
