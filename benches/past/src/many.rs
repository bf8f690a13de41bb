//! Many small keyspaces beside one of the same bytes: making them, a flush that touches all, reads, a compaction,
//! opening again.

use std::time::{Duration, Instant};

use chronolith::{Db, Durability, Keyspace, KeyspaceOptions, Options};
use measure::{Directory, Result, clock::median, goal};

/// Bytes of all values that a flush writes.
const BYTES: usize = 8 << 20;

const ROUNDS: usize = 3;

/// What one database took, in milliseconds.
#[derive(Default)]
struct Took {
    make: f64,
    flush: Vec<f64>,
    compact: f64,
    reopen: f64,
}

/// 1, 10, … and `keyspaces` of them.
pub fn run(keyspaces: usize) -> Result<()> {
    println!(
        "\n{:>9} {:>12} {:>12} {:>12} {:>12} {:>10}",
        "keyspaces", "make, ms", "flush, ms", "compact, ms", "reopen, ms", "of one"
    );
    let mut one = f64::NAN;
    let mut last = f64::NAN;
    let counts = [1, 10, 100, 1000, 10_000];
    for count in counts.into_iter().filter(|count| *count < keyspaces).chain([keyspaces]) {
        let Took { make, flush, compact, reopen } = fill(count)?;
        let flush = median(&flush);
        if count == 1 {
            one = flush;
        }
        last = flush / one;
        println!("{count:>9} {make:>12.1} {flush:>12.1} {compact:>12.1} {reopen:>12.1} {last:>10.2}");
    }
    println!();
    goal::at_most("a flush that touches them all, times that of one file of the same bytes", last, 10.0);
    Ok(())
}

fn fill(count: usize) -> Result<Took> {
    let directory = Directory::new(&format!("past-bench-many-{count}"))?;
    // One memtable holds all that a flush writes, and nothing compacts behind its back.
    let options = || Options::new().durability(Durability::Buffered).memory_budget(1 << 30).l0_threshold(1000);
    let db = options().open(directory.path())?;
    let mut took = Took::default();
    let open = |db: &Db| -> Result<Vec<Keyspace>> {
        Ok((0..count)
            .map(|at| db.keyspace(format!("k{at}"), KeyspaceOptions::new()))
            .collect::<chronolith::Result<_>>()?)
    };
    let began = Instant::now();
    let keyspaces = open(&db)?;
    took.make = ms(began.elapsed());
    let each = BYTES / count / 100;
    for round in 0..ROUNDS as u64 {
        for keyspace in &keyspaces {
            let mut batch = db.batch();
            for at in 0..each as u64 {
                batch.put(keyspace, (at * ROUNDS as u64 + round).to_be_bytes(), [7; 92]);
            }
            batch.commit()?;
        }
        let began = Instant::now();
        db.flush()?;
        took.flush.push(ms(began.elapsed()));
    }
    let began = Instant::now();
    db.compact()?;
    took.compact = ms(began.elapsed());
    db.close()?;
    let began = Instant::now();
    let db = options().open(directory.path())?;
    took.reopen = ms(began.elapsed());
    for keyspace in open(&db)? {
        assert_eq!(keyspace.get(0u64.to_be_bytes())?.as_deref(), Some(&[7; 92][..]), "what was written");
    }
    db.close()?;
    Ok(took)
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}
