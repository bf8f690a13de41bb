//! Point reads in random order: of one sorted level, and through the newest writes.

use std::time::Duration;

use micro_bench::{Bench, VALUE, key, run};

const KEYS: u64 = 300_000;
/// A step that visits every index, far from the one before.
const STRIDE: u64 = 104_729;

fn main() {
    run(|criterion| {
        let mut group = criterion.benchmark_group("get");
        group.sample_size(30).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));

        let bench = Bench::new();
        bench.fill(0..KEYS);
        bench.db.compact().unwrap();
        let mut at = 0;
        let mut index = || {
            at = (at + STRIDE) % KEYS;
            at
        };
        group.bench_function("hit after compact", |b| {
            b.iter(|| bench.keyspace.get(key(index())).unwrap().unwrap());
        });
        group.bench_function("miss after compact", |b| {
            b.iter(|| assert!(bench.keyspace.get(key(KEYS + index())).unwrap().is_none()));
        });
        let snapshot = bench.db.snapshot();
        group.bench_function("hit in a snapshot", |b| {
            b.iter(|| snapshot.get(&bench.keyspace, key(index())).unwrap().unwrap());
        });
        drop(snapshot);

        for index in (0..KEYS).step_by(3) {
            bench.keyspace.put(key(index), VALUE).unwrap();
        }
        group.bench_function("hit after overwriting a third", |b| {
            b.iter(|| bench.keyspace.get(key(index())).unwrap().unwrap());
        });
        group.finish();
    });
}
