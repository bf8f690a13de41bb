//! What it costs to cut values anew, beside writing them for the first time, and what a writer loses meanwhile.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use chronolith::Chunking;
use measure::{Random, Result, SEED};

use crate::{
    memory::in_use,
    store::{Store, Way},
    table::{
        Goal::{AtLeast, AtMost},
        Table,
    },
};

const VALUE: usize = 1 << 20;

/// Interval of samples, and time that the writer writes alone.
const EVERY: Duration = Duration::from_millis(20);
const ALONE: Duration = Duration::from_secs(5);

pub fn run(table: &mut Table, megabytes: usize) -> Result<()> {
    beside_writing(table, megabytes)?;
    beside_a_writer(table, megabytes)
}

/// Writes values that are cut the default way, and returns the seconds that it took.
fn fill(store: &Store, megabytes: usize) -> Result<f64> {
    let mut random = Random::new(SEED);
    let mut value = vec![0; VALUE];
    let mut took = Duration::ZERO;
    for number in 0..megabytes {
        random.fill(&mut value);
        let began = Instant::now();
        store.keyspace.put(format!("value {number:06}"), &value)?;
        took += began.elapsed();
    }
    let began = Instant::now();
    store.db.flush()?;
    Ok((took + began.elapsed()).as_secs_f64())
}

fn beside_writing(table: &mut Table, megabytes: usize) -> Result<()> {
    let store = Store::new(Way { fixed: None, level: None })?;
    let bytes = (megabytes * VALUE) as f64;
    let written = bytes / fill(&store, megabytes)? / 1e6;
    let (done, most, allocated) = (AtomicBool::new(false), AtomicU64::new(0), in_use());
    let began = Instant::now();
    let report = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                most.fetch_max((in_use() - allocated).max(0.0) as u64, Relaxed);
                thread::sleep(EVERY);
            }
        });
        let report = store.db.rechunk(&store.keyspace, Chunking::fixed(64 << 10));
        done.store(true, Relaxed);
        report
    })?;
    let cut = bytes / began.elapsed().as_secs_f64() / 1e6;
    if report.values != megabytes as u64 || report.left > 0 {
        return Err(format!("{megabytes} values, but {report}").into());
    }
    table.number("values written, MB per second", written, None);
    table.number("the same cut anew, MB per second", cut, None);
    table.number("ratio of the two", cut / written, Some(AtLeast(0.5)));
    table.number("most memory meanwhile, MiB", most.load(Relaxed) as f64 / f64::from(1 << 20), Some(AtMost(64.0)));
    let began = Instant::now();
    let again = store.db.rechunk(&store.keyspace, Chunking::fixed(64 << 10))?;
    if again.values > 0 {
        return Err(format!("nothing was left to do, but {again}").into());
    }
    table.number("the same call once more, ms", began.elapsed().as_secs_f64() * 1e3, None);
    Ok(store.db.close()?)
}

/// A thread that writes new large values under a few keys, while all others are cut anew.
fn beside_a_writer(table: &mut Table, megabytes: usize) -> Result<()> {
    let store = Store::new(Way { fixed: None, level: None })?;
    fill(&store, megabytes)?;
    let (alone, beside, took) = store.beside_a_writer(|written| -> Result<(f64, f64, f64)> {
        let count = || written.load(Relaxed) as f64;
        thread::sleep(Duration::from_secs(1));
        let (from, began) = (count(), Instant::now());
        thread::sleep(ALONE);
        let alone = (count() - from) / began.elapsed().as_secs_f64();
        let (from, began) = (count(), Instant::now());
        store.db.rechunk(&store.keyspace, Chunking::fixed(64 << 10))?;
        let took = began.elapsed().as_secs_f64();
        Ok((alone, (count() - from) / took, took))
    })?;
    table.number("writer alone, values of 64 KiB per second", alone, None);
    table.number("the same while others are cut anew", beside, None);
    table.number("ratio of the two", beside / alone, Some(AtLeast(0.5)));
    table.number("seconds that took", took, None);
    Ok(store.db.close()?)
}
