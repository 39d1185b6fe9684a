//! Looking up flows: the data plane's table beside `hashbrown`, in one run, with
//! the same keys and the same keyed hash. Misses are other nodes' segments, which
//! are most of what a node of a broadcast cluster sees.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dts_benches::flows::flow;
use dts_benches::micro::{Sip, hash_key, scatter};
use dts_core::key::FlowKey;
use dts_core::table::Table;
use hashbrown::HashMap;
use std::hint::black_box;

/// Lookups per measured call.
const LOOKUPS: u32 = 4096;

fn lookups(c: &mut Criterion) {
    for resident in [32_768u32, 1_048_576] {
        let keys: Vec<FlowKey> = (0..resident).map(flow).collect();
        let hash = hash_key();
        let mut ours = Table::new(resident as usize);
        let mut peer: HashMap<FlowKey, u32, Sip> =
            HashMap::with_capacity_and_hasher(resident as usize, Sip);
        for (slot, key) in keys.iter().enumerate() {
            assert!(
                ours.insert(hash.flow(key), slot as u32),
                "the table is full"
            );
            peer.insert(*key, slot as u32);
        }
        for (what, base) in [("hit", 0), ("miss", resident)] {
            let ask: Vec<FlowKey> = (0..LOOKUPS)
                .map(|i| flow(base + scatter(i, resident)))
                .collect();
            let mut group = c.benchmark_group(format!("flow_table_{what}"));
            group.throughput(Throughput::Elements(u64::from(LOOKUPS)));
            group.bench_function(BenchmarkId::new("dts", resident), |b| {
                b.iter(|| {
                    for key in &ask {
                        black_box(ours.find(hash.flow(key), |s| keys[s as usize] == *key));
                    }
                });
            });
            group.bench_function(BenchmarkId::new("hashbrown", resident), |b| {
                b.iter(|| {
                    for key in &ask {
                        black_box(peer.get(key));
                    }
                });
            });
            group.finish();
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = lookups
}
criterion_main!(benches);
