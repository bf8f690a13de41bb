//! Ten versions of each key beside one: what the past costs the present, what reading it costs, and what it takes on
//! the disk.

use std::hint::black_box;

use chronolith::{Db, Policy};
use measure::{
    Random, Result, chained,
    clock::{each, median},
    goal, independent, keys,
};

use crate::data::{Filled, KEY_LEN, Key, Reader, VALUE_LEN, WEEK, answer, value};

const VERSIONS: usize = 10;
const AS_OF: usize = 5;

const QUERIES: usize = 100_000;
const ROUNDS: usize = 9;
const SCAN_ROUNDS: usize = 5;

const LATEST: usize = 0;
const ALONE: usize = 1;
const PAST: usize = 2;

/// Measures so many keys.
pub fn run(count: usize) -> Result<()> {
    let keys = keys(count);
    let mut many = Filled::new("many", Policy::mvcc(1, WEEK))?;
    many.fill(&keys, VERSIONS)?;
    many.settle()?;
    let mvcc = Written::by(&many.db);
    many.compact()?;

    let mut newest_only = Filled::new("newest", Policy::last_writer_wins())?;
    newest_only.fill(&keys, VERSIONS)?;
    newest_only.settle()?;
    let plain = Written::by(&newest_only.db);
    drop(newest_only);

    // The value that is the newest in the other one too.
    let mut alone = Filled::new("alone", Policy::mvcc(1, WEEK))?;
    alone.fill(&keys, 1)?;
    alone.compact()?;

    println!("{count} keys of {KEY_LEN} bytes with values of {VALUE_LEN}, {VERSIONS} versions\n");
    println!("{:<34} {:>9} {:>11} {:>9}", "bytes written by raw bytes", "main tree", "history tier", "log");
    for (name, written) in [("mvcc", &mvcc), ("last_writer_wins", &plain)] {
        let by = |bytes: u64| bytes as f64 / many.raw as f64;
        println!("{name:<34} {:>9.2} {:>11.2} {:>9.2}", by(written.main), by(written.past), by(written.log));
    }
    let space = many.db.stats().space;
    let old = (count * (VERSIONS - 1)) as f64;
    let (per_old, raw) = (space.history as f64 / old, (KEY_LEN + VALUE_LEN) as f64);
    let live = space.live as f64 / count as f64;
    println!("\nbytes on disk: {live:.1} for each key, {per_old:.1} for each old version");
    println!("timeline: {:.2} bytes for each commit", space.timeline as f64 / many.db.stats().commits as f64);

    let names = [
        "latest, 10 versions",
        "latest, 1 version",
        "as of 5",
        "as of 9",
        "as of 1",
        "as of 10, a view of the present",
    ];
    let readers = [
        many.reader(None)?,
        alone.reader(None)?,
        many.reader(Some(AS_OF))?,
        many.reader(Some(9))?,
        many.reader(Some(1))?,
        many.reader(Some(VERSIONS))?,
    ];
    let gets = gets(&keys, &readers);
    let scans = scans(&keys, &readers[..5])?;
    println!("\n{:<34} {:>9} {:>11} {:>9}", "ns", "get loop", "get chained", "scan");
    for (at, name) in names.iter().enumerate() {
        let of = |times: &Vec<Vec<f64>>| times.get(at).map_or(f64::NAN, |times| median(times));
        println!("{name:<34} {:>9.0} {:>11.0} {:>9.1}", of(&gets[0]), of(&gets[1]), of(&scans));
    }

    println!();
    let slower = |times: &[Vec<f64>], which: usize, than: usize| {
        let ratios: Vec<f64> = times[which].iter().zip(&times[than]).map(|(which, than)| which / than).collect();
        median(&ratios)
    };
    goal::at_most("latest get of 10 versions by 1, loop", slower(&gets[0], LATEST, ALONE), 1.05);
    goal::at_most("latest get of 10 versions by 1, chained", slower(&gets[1], LATEST, ALONE), 1.05);
    goal::at_most("latest scan of 10 versions by 1", slower(&scans, LATEST, ALONE), 1.05);
    goal::at_most("get as of 5 by latest, loop", slower(&gets[0], PAST, LATEST), 1.5);
    goal::at_most("get as of 5 by latest, chained", slower(&gets[1], PAST, LATEST), 1.5);
    goal::at_most("scan as of 5 by latest", slower(&scans, PAST, LATEST), 3.0);
    goal::at_most("bytes of an old version by raw bytes", per_old / raw, 0.5);
    goal::at_most(
        "bytes written to the main tree by those of last_writer_wins",
        mvcc.main as f64 / plain.main as f64,
        1.1,
    );
    Ok(())
}

/// Bytes written to files.
struct Written {
    main: u64,
    past: u64,
    log: u64,
}

impl Written {
    /// What flushes wrote counts for the main tree: of keys written once in a memtable, all of it is.
    fn by(db: &Db) -> Self {
        let stats = db.stats();
        Self {
            main: stats.flushed_bytes + stats.compacted_out_bytes,
            past: stats.history_out_bytes,
            log: stats.log_bytes,
        }
    }
}

/// Nanoseconds of a get of a present key: in a loop and chained, by reader, by round.
fn gets(keys: &[Key], readers: &[Reader]) -> [Vec<Vec<f64>>; 2] {
    let mut times = [const { Vec::new() }; 2].map(|_: Vec<f64>| vec![Vec::new(); readers.len()]);
    let mut random = Random::new(7);
    // The round before the first is for the pages: they are verified when they are touched first.
    for round in 0..=ROUNDS {
        for (chain, times) in times.iter_mut().enumerate() {
            for (reader, times) in readers.iter().zip(times) {
                let mut sum = 0u64;
                let mut draw = || {
                    let key = keys[random.below(keys.len())];
                    sum = sum.wrapping_add(answer(&value(&key, reader.version)));
                    key
                };
                let queries: Vec<Key> = (0..QUERIES).map(|_| draw()).collect();
                let (answered, time) = each(QUERIES, || match chain {
                    0 => independent(&queries, |key| reader.ask(key)),
                    _ => chained(&queries, |key| reader.ask(key)),
                });
                assert_eq!(answered, sum, "every answer is right");
                if round > 0 {
                    times.push(time);
                }
            }
        }
    }
    times
}

/// Nanoseconds of an entry in a scan of everything: by reader, by round.
fn scans(keys: &[Key], readers: &[Reader]) -> Result<Vec<Vec<f64>>> {
    let mut times = vec![Vec::new(); readers.len()];
    let right = |version: usize| {
        let of = |key: &Key| answer(&value(key, version)).wrapping_add(u64::from(key[KEY_LEN - 1]));
        keys.iter().fold(0u64, |sum, key| sum.wrapping_add(of(key)))
    };
    let sums: Vec<u64> = readers.iter().map(|reader| right(reader.version)).collect();
    for round in 0..=SCAN_ROUNDS {
        for ((reader, sum), times) in readers.iter().zip(&sums).zip(&mut times) {
            let (scanned, time) = each(keys.len(), || black_box(reader.scan()));
            assert_eq!(scanned?, (*sum, keys.len()), "every entry is right");
            if round > 0 {
                times.push(time);
            }
        }
    }
    Ok(times)
}
