//! Two workers, and ports with one queue or two: frames reach the worker of their
//! flow by the rings, and come back by them to the queue that sends.

mod common;

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use common::*;
use crossbeam::channel;
use dts_core::drops::Drop;
use dts_core::frame::Port;
use dts_worker::{Fleet, start};

const FLOWS: usize = 400;

#[test]
fn rings_join_the_workers() {
    let files = Files::new();
    let mine = ports_of(1, FLOWS);
    let others = ports_of(2, 50);
    // Both receive queues of the wire hold flows of both workers; the hosts have
    // one queue each, which is worker 0's.
    let mut queues = [Vec::new(), Vec::new()];
    for (i, port) in mine.iter().chain(&others).enumerate() {
        queues[i % 2].push(syn(*port));
    }
    let devices = [
        files.device(Port::Wire, &queues),
        files.device(Port::WireHost, &[vec![]]),
        files.device(Port::Link, &[vec![]]),
        files.device(Port::LinkHost, &[vec![]]),
    ];
    let opened = start::open(&config(&devices, 2, 4)).unwrap();
    assert_eq!(
        Port::ALL.map(|p| opened.queues(p)),
        [2, 1, 1, 1],
        "no more than device and workers have"
    );
    let views = Arc::new(ArcSwap::from_pointee(view(&opened)));
    let (events, _inbox) = channel::unbounded();
    let fleet = Fleet::spawn(opened, views, events).unwrap();
    wait_for("frames", || {
        let s = fleet.stats();
        s[0].ports[1].tx_packets == FLOWS as u64 && s.iter().all(|s| s.mbufs_used == 0)
    });
    let mut by_worker = HashMap::new();
    for port in &mine {
        *by_worker
            .entry(fleet.worker_of((CLIENT, *port).into()))
            .or_insert(0u64) += 1;
    }
    wait_for("counters", || {
        fleet.stats().iter().map(|s| s.flows).sum::<u64>() == FLOWS as u64
    });
    let stats = fleet.stats();
    for (w, s) in stats.iter().enumerate() {
        assert_eq!(s.worker, w);
        assert_eq!(s.ports[0].rx_packets, 225, "each polls its own queue");
        assert_eq!(s.flows, by_worker[&w], "each flow is at its worker");
        assert!(s.flows > 100);
        assert_eq!(s.drops.0.iter().sum::<u64>(), s.drops.get(Drop::NotOwner));
    }
    assert_ne!(stats[0].core, stats[1].core);
    assert_eq!(
        stats
            .iter()
            .map(|s| s.drops.get(Drop::NotOwner))
            .sum::<u64>(),
        50
    );
    assert_eq!(
        stats[1].ports[1].tx_packets, 0,
        "worker 1 has no queue there"
    );
    fleet.stop().unwrap();

    let mut seen: Vec<u16> = files
        .sent(Port::WireHost, 0)
        .iter()
        .map(|f| match tcp_ports(f) {
            (client, 8001) => client,
            other => panic!("{other:?}"),
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, mine);
}
