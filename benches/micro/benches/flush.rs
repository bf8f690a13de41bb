//! Flushing what is in memory: one memtable, and the memtables of many keyspaces with as many entries in all.

use std::time::Duration;

use chronolith::{Keyspace, KeyspaceOptions};
use criterion::{BatchSize, Throughput};
use micro_bench::{Bench, run};

/// Entries of a flush: they fit one memtable, so nothing flushes them before they are asked for.
const ENTRIES: u64 = 50_000;
const KEYSPACES: u64 = 100;

fn main() {
    run(|criterion| {
        let mut group = criterion.benchmark_group("flush");
        group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(5));
        group.throughput(Throughput::Elements(ENTRIES));
        for (name, keyspaces) in [("one keyspace", 1), ("100 keyspaces", KEYSPACES)] {
            group.bench_function(name, |b| {
                b.iter_batched(
                    || filled(keyspaces),
                    |(bench, keyspaces)| {
                        bench.db.flush().unwrap();
                        // Handed back: closing it is not what is measured.
                        (bench, keyspaces)
                    },
                    BatchSize::PerIteration,
                );
            });
        }
        group.finish();
    });
}

/// Makes a database whose entries are all in memory, spread evenly over so many keyspaces.
fn filled(count: u64) -> (Bench, Vec<Keyspace>) {
    let bench = Bench::new();
    let keyspaces: Vec<Keyspace> =
        (0..count).map(|at| bench.db.keyspace(format!("flush {at}"), KeyspaceOptions::new()).unwrap()).collect();
    for keyspace in &keyspaces {
        bench.fill_in(keyspace, 0..ENTRIES / count);
    }
    let stats = bench.db.stats();
    assert_eq!((stats.flushes, stats.sealed_memtables), (0, 0), "a memtable was full before the flush");
    (bench, keyspaces)
}
