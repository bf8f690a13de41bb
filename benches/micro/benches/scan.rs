//! Ordered reads: the whole keyspace each way, and short ranges from random keys.

use std::{hint::black_box, time::Duration};

use criterion::Throughput;
use micro_bench::{Bench, key, run};

const KEYS: u64 = 200_000;
const SHORT: u64 = 50;

fn main() {
    run(|criterion| {
        let mut group = criterion.benchmark_group("scan");
        group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(4));

        let bench = Bench::new();
        bench.fill(0..KEYS);
        bench.db.compact().unwrap();
        let keyspace = &bench.keyspace;

        group.throughput(Throughput::Elements(KEYS));
        group.bench_function("forward, lent", |b| {
            b.iter(|| {
                let mut cursor = keyspace.cursor(..);
                let mut count = 0;
                while let Some(entry) = cursor.next_ref().unwrap() {
                    black_box(entry);
                    count += 1;
                }
                assert_eq!(count, KEYS);
            });
        });
        group.bench_function("forward, owned", |b| {
            b.iter(|| {
                for entry in keyspace.range(..) {
                    black_box(entry.unwrap());
                }
            });
        });
        group.bench_function("backward, owned", |b| {
            b.iter(|| {
                for entry in keyspace.range(..).rev() {
                    black_box(entry.unwrap());
                }
            });
        });

        let mut from = 0;
        group.throughput(Throughput::Elements(SHORT));
        group.bench_function("seek and 50", |b| {
            b.iter(|| {
                from = (from + 104_729) % KEYS;
                let mut cursor = keyspace.cursor(key(from)..);
                for _ in 0..SHORT {
                    black_box(cursor.next_ref().unwrap());
                }
            });
        });
        group.finish();
    });
}
