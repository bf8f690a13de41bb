//! Puts to one keyspace while another is compacted: nobody waits for a compaction elsewhere, however much it writes.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use chronolith::{Durability, KeyspaceOptions, Options};
use measure::{Directory, Random, Result, goal};

/// So often somebody puts: far less than the machine could take, so that what it waits for is the engine.
const PAUSE: Duration = Duration::from_micros(500);

/// With so many megabytes in the other keyspace, and with twice as many.
pub fn run(megabytes: usize) -> Result<()> {
    println!(
        "\n{:>9} {:>12} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "compacted", "took, ms", "puts", "p50, us", "p99, us", "p99.9, us", "worst, us"
    );
    let (once, twice) = (compact_beside(megabytes)?, compact_beside(2 * megabytes)?);
    println!();
    goal::at_most("p99.9 of a put elsewhere, ms", once[0].max(twice[0]), 50.0);
    goal::at_most("the worst put elsewhere, ms, beside twice the bytes", twice[1], (2.0 * once[1]).max(50.0));
    Ok(())
}

/// Milliseconds of the 99.9th percentile and of the worst put.
fn compact_beside(megabytes: usize) -> Result<[f64; 2]> {
    let directory = Directory::new(&format!("past-bench-beside-{megabytes}"))?;
    let db = Options::new().durability(Durability::Buffered).open(directory.path())?;
    let large = db.keyspace("large", KeyspaceOptions::new())?;
    let small = db.keyspace("small", KeyspaceOptions::new())?;
    let mut random = Random::new(megabytes as u64);
    for _ in 0..megabytes {
        let mut batch = db.batch();
        for _ in 0..1024 {
            let mut value = [0; 1000];
            random.fill(&mut value);
            batch.put(&large, random.next().to_be_bytes(), value);
        }
        batch.commit()?;
    }
    db.flush()?;
    let done = AtomicBool::new(false);
    let mut waits = Vec::new();
    let took = thread::scope(|scope| {
        let compacts = scope.spawn(|| {
            let began = Instant::now();
            let compacted = db.compact();
            done.store(true, Ordering::Release);
            compacted.map(|_| began.elapsed())
        });
        let mut at = 0u64;
        while !done.load(Ordering::Acquire) {
            let began = Instant::now();
            small.put(at.to_be_bytes(), [7; 100])?;
            waits.push(began.elapsed());
            at += 1;
            thread::sleep(PAUSE);
        }
        compacts.join().expect("a compaction does not panic")
    })?;
    waits.sort_unstable();
    let part = |share: f64| {
        let at = (waits.len() as f64 * share) as usize;
        waits.get(at.min(waits.len().saturating_sub(1))).map_or(f64::NAN, |wait| wait.as_secs_f64() * 1e6)
    };
    let [p50, p99, p999, worst] = [0.5, 0.99, 0.999, 1.0].map(part);
    println!(
        "{:>6} MB {:>12.0} {:>10} {p50:>10.1} {p99:>10.1} {p999:>10.1} {worst:>10.1}",
        megabytes,
        took.as_secs_f64() * 1000.0,
        waits.len()
    );
    Ok([p999 / 1000.0, worst / 1000.0])
}
