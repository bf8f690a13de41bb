//! Writing: single puts and batches, keys in random order.

use std::{hint::black_box, time::Duration};

use criterion::Throughput;
use micro_bench::{Bench, VALUE, key, run};

const BATCH: u64 = 100;
/// What is there before: an empty database has nothing to flush or compact.
const FILLED: u64 = 100_000;

fn main() {
    run(|criterion| {
        let mut group = criterion.benchmark_group("put");
        group.sample_size(30).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(4));

        let bench = Bench::new();
        bench.fill(0..FILLED);
        let mut next = FILLED;
        group.throughput(Throughput::Elements(1));
        group.bench_function("buffered", |b| {
            b.iter(|| {
                next += 1;
                bench.keyspace.put(key(next), VALUE).unwrap()
            });
        });

        let bench = Bench::new();
        bench.fill(0..FILLED);
        let mut next = FILLED;
        group.throughput(Throughput::Elements(BATCH));
        group.bench_function("batch of 100", |b| {
            b.iter(|| {
                let mut batch = bench.db.batch();
                for index in next..next + BATCH {
                    batch.put(&bench.keyspace, key(index), VALUE);
                }
                next += BATCH;
                black_box(batch.commit().unwrap())
            });
        });
        group.finish();
    });
}
