//! Compacting two segments of the same span, whose keys interleave.

use std::{hint::black_box, time::Duration};

use criterion::{BatchSize, Throughput};
use micro_bench::{Bench, run};

/// Entries of one half: they fit one memtable, so each half is one segment.
const HALF: u64 = 50_000;

fn main() {
    run(|criterion| {
        let mut group = criterion.benchmark_group("compaction");
        group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(8));
        group.throughput(Throughput::Elements(2 * HALF));
        group.bench_function("two overlapping halves", |b| {
            b.iter_batched(
                || {
                    let bench = Bench::new();
                    for half in [0..HALF, HALF..2 * HALF] {
                        bench.fill(half);
                        bench.db.flush().unwrap();
                    }
                    bench
                },
                |bench| {
                    black_box(bench.db.compact().unwrap());
                    // Handed back: closing it is not what is measured.
                    bench
                },
                BatchSize::PerIteration,
            );
        });
        group.finish();
    });
}
