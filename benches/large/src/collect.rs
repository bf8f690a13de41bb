//! What it costs to let go of chunks: bytes read and memory for each byte that is freed, and what a writer loses
//! meanwhile.

use std::{
    fs,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use measure::{Random, Result, SEED};

use crate::{
    memory::in_use,
    store::{Store, Way},
    table::{
        Goal::{AtLeast, AtMost},
        Table,
    },
};

/// Bytes of a value, and of how many the last is deleted later: three of ten.
const VALUE: usize = 1 << 20;
const DELETED: usize = 3;

/// Interval of samples, and time that the writer writes alone.
const EVERY: Duration = Duration::from_millis(20);
const ALONE: Duration = Duration::from_secs(5);

/// Longest wait for a collection that begins by itself: deletes are cleared out behind ten seconds at most.
const LONGEST: Duration = Duration::from_secs(120);

pub fn run(table: &mut Table, megabytes: usize) -> Result<()> {
    on_request(table, megabytes)?;
    beside_a_writer(table, megabytes)
}

/// Returns a store of which three values in ten are deleted, and in whose packs all are still there.
fn filled(megabytes: usize) -> Result<Store> {
    let store = Store::new(Way { fixed: None, level: None })?;
    let mut random = Random::new(SEED);
    let mut value = vec![0; VALUE];
    for number in 0..megabytes {
        random.fill(&mut value);
        store.keyspace.put(format!("value {number:06}"), &value)?;
    }
    store.db.flush()?;
    Ok(store)
}

fn delete(store: &Store, megabytes: usize) -> Result<()> {
    for number in (0..megabytes).filter(|number| number % 10 < DELETED) {
        store.keyspace.delete(format!("value {number:06}"))?;
    }
    Ok(store.db.flush()?)
}

fn on_request(table: &mut Table, megabytes: usize) -> Result<()> {
    let store = filled(megabytes)?;
    delete(&store, megabytes)?;
    let (packs, read, allocated) = (store.db.stats().space.chunks, read_bytes()?, in_use());
    let (done, most) = (AtomicBool::new(false), AtomicU64::new(0));
    let began = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                most.fetch_max((in_use() - allocated).max(0.0) as u64, Relaxed);
                thread::sleep(EVERY);
            }
        });
        let compacted = store.db.compact();
        done.store(true, Relaxed);
        compacted.map(drop)
    })?;
    let took = began.elapsed().as_secs_f64();
    let freed = packs.saturating_sub(store.db.stats().space.chunks) as f64;
    table.number("compact with 30 % dead, MB freed per second", freed / took / 1e6, None);
    table.number("bytes read for each byte freed", (read_bytes()? - read) / freed, Some(AtMost(3.0)));
    table.number(
        "most memory of a collection, MiB",
        most.load(Relaxed) as f64 / f64::from(1 << 20),
        Some(AtMost(32.0)),
    );
    Ok(store.db.close()?)
}

/// A collection by itself, while a thread writes new large values and deletes them again.
fn beside_a_writer(table: &mut Table, megabytes: usize) -> Result<()> {
    let store = filled(megabytes)?;
    let (alone, beside, took) = store.beside_a_writer(|written| sample(&store, written, megabytes))?;
    table.number("writer alone, values of 64 KiB per second", alone, None);
    table.number("the same beside a collection of its own accord", beside, None);
    table.number("ratio of the two", beside / alone, Some(AtLeast(0.8)));
    table.number("seconds of that collection", took, None);
    Ok(store.db.close()?)
}

/// Returns the rates of the writer before and during the collection that deletes bring about, and how long it took.
fn sample(store: &Store, written: &AtomicU64, megabytes: usize) -> Result<(f64, f64, f64)> {
    let count = || written.load(Relaxed) as f64;
    thread::sleep(Duration::from_secs(1));
    let (from, began) = (count(), Instant::now());
    thread::sleep(ALONE);
    let alone = (count() - from) / began.elapsed().as_secs_f64();
    delete(store, megabytes)?;
    let waited = Instant::now();
    let collects = || store.db.stats().chunks.condemned_packs > 0;
    while !collects() {
        if waited.elapsed() > LONGEST {
            return Err("no collection began by itself".into());
        }
        thread::sleep(EVERY);
    }
    let (from, began) = (count(), Instant::now());
    while collects() {
        thread::sleep(EVERY);
    }
    let took = began.elapsed().as_secs_f64();
    Ok((alone, (count() - from) / took, took))
}

/// Returns the bytes that this process has read by system calls.
fn read_bytes() -> Result<f64> {
    let told = fs::read_to_string("/proc/self/io")?;
    let line = told.lines().find_map(|line| line.strip_prefix("rchar: "));
    Ok(line.ok_or("no rchar in /proc/self/io")?.parse()?)
}
