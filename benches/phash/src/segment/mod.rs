//! Point reads: a compacted keyspace beside the best classic read path and beside a plain hash table of entry places.
//!
//! Every path computes XXH3 of the key itself, compares the full key, and reads the first eight bytes of the value.
//! Every sum of answers is held against the right one. Each measurement draws queries of its own, so that none finds
//! the entries of the one before in a cache.

mod classic;
mod keyspace;
mod lines;
mod pages;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    hint::black_box,
    path::Path,
};

use chronolith::Keyspace;
use measure::{
    Directory, Random, Result, SEED, chained,
    clock::{each, median},
    goal, independent,
};

use self::{classic::Classic, keyspace::Filled, lines::Lines, pages::Pages};
use crate::data::{self, Key};

const QUERIES: usize = 300_000;
const ROUNDS: usize = 5;

/// Length of a value.
const VALUE_LEN: usize = 100;

/// What a path answers for an absent key.
const ABSENT: u64 = 0x5555_5555_5555_5555;

const OURS: &str = "chronolith";
const OURS_MANY: &str = "chronolith, multi_get of 64";
const CLASSIC: &str = "C2 bloom, fences, in-page search";
const BLOOM: &str = "blocked bloom alone";

/// Measures one million keys, then as many as asked.
pub fn run(keys: usize) -> Result<()> {
    let directory = Directory::new("phash-bench")?;
    let mut measured = BTreeMap::new();
    for count in BTreeSet::from([keys.min(1_000_000), keys]) {
        measured.insert(count, measure(count, &directory.path().join(count.to_string()))?);
    }
    println!();
    for (count, rows) in &measured {
        let (ours, many, classic, bloom) = (rows[OURS], rows[OURS_MANY], rows[CLASSIC], rows[BLOOM]);
        let of = |what: &str| format!("{what} at {count} keys");
        if *count >= 10_000_000 {
            goal::at_least(&of("rate of hits by C2, independent, multi_get"), classic.hit / many.hit, 2.0);
            goal::at_least(&of("rate of hits by C2, independent, get by get"), classic.hit / ours.hit, 2.0);
        }
        if *count == 1_000_000 {
            goal::at_most(&of("latency of hits by C2, chained"), ours.hit_chained / classic.hit_chained, 1.0 / 1.2);
        }
        goal::at_most(&of("misses by the bloom alone, independent, multi_get"), many.miss / bloom.miss, 1.5);
        goal::at_most(&of("misses by the bloom alone, chained"), ours.miss_chained / bloom.miss_chained, 1.5);
    }
    Ok(())
}

/// The value of a key: random bytes, which nothing compresses, and the first eight of them known from the key.
fn value(key: &Key) -> [u8; VALUE_LEN] {
    let mut random = Random::new(head(key));
    let mut value = [0; VALUE_LEN];
    random.fill(&mut value);
    value[..8].copy_from_slice(&head(key).to_le_bytes());
    value
}

/// The first eight bytes of the value of a key.
fn head(key: &Key) -> u64 {
    data::hash(key, 1)
}

/// The first eight bytes of a value that was found.
#[inline(always)]
fn head_of(value: &[u8]) -> u64 {
    value.first_chunk().map_or(ABSENT, |bytes| u64::from_le_bytes(*bytes))
}

/// A way to read. Each has loops of its own: calls through a pointer would hide differences.
trait Reads {
    fn independent(&self, queries: &[Key]) -> u64;
    fn chained(&self, queries: &[Key]) -> u64;
}

struct Of<F>(F);

/// Reads of many keys in one call; chained they are single ones.
struct Many<'a>(&'a Keyspace);

impl Reads for Many<'_> {
    fn independent(&self, queries: &[Key]) -> u64 {
        let mut sum = 0u64;
        for some in queries.chunks(64) {
            for value in self.0.multi_get(some).unwrap_or_default() {
                sum = sum.wrapping_add(value.map_or(ABSENT, |value| head_of(&value)));
            }
        }
        sum
    }

    fn chained(&self, queries: &[Key]) -> u64 {
        chained(queries, |key: &Key| match self.0.get(key) {
            Ok(Some(value)) => head_of(&value),
            _ => ABSENT,
        })
    }
}

impl<F: Fn(&Key) -> u64> Reads for Of<F> {
    fn independent(&self, queries: &[Key]) -> u64 {
        independent(queries, &self.0)
    }

    fn chained(&self, queries: &[Key]) -> u64 {
        chained(queries, &self.0)
    }
}

/// What was measured of one path: nanoseconds of a lookup.
#[derive(Clone, Copy, Debug)]
struct Row {
    hit: f64,
    hit_chained: f64,
    miss: f64,
    miss_chained: f64,
}

fn measure(count: usize, directory: &Path) -> Result<BTreeMap<&'static str, Row>> {
    fs::create_dir(directory)?;
    let keys = data::keys(count);
    println!("\n{count} keys of 16 bytes with values of {VALUE_LEN}");

    let pages = Pages::write(&directory.join("pages"), &keys)?;
    let (classic, classic_time) = each(count, || Classic::new(&pages, &keys));
    let (lines, lines_time) = each(count, || Lines::new(&pages));
    println!("built from sorted pages: C2 {classic_time:.0} ns/key, T1 {lines_time:.0} ns/key");
    let filled = Filled::new(&directory.join("db"), &keys)?;

    let mut paths: Vec<(&str, Box<dyn Reads + '_>)> = Vec::new();
    for (name, keyspace) in &filled.keyspaces {
        paths.push((
            name,
            Box::new(Of(|key: &Key| match keyspace.get(key) {
                Ok(Some(value)) => head_of(&value),
                _ => ABSENT,
            })),
        ));
    }
    paths.extend(
        filled.keyspaces.first().map(|(_, keyspace)| (OURS_MANY, Box::new(Many(keyspace)) as Box<dyn Reads + '_>)),
    );
    paths.push((CLASSIC, Box::new(Of(|key: &Key| classic.get(&pages, key)))));
    paths.push(("T1 table of lines, direct entry", Box::new(Of(|key: &Key| lines.get(&pages, key)))));
    let blooms = Box::new(Of(|key: &Key| if classic.may_hold(key) { ABSENT + 1 } else { ABSENT }));
    paths.push((BLOOM, blooms));

    let rows = ask(&paths, &keys);
    println!("index of C2 {:.2} bytes/key, of T1 {:.2}", classic.bytes() / count as f64, lines.bytes() / count as f64);
    println!(
        "\n{:<34} {:>9} {:>11} {:>9} {:>12}",
        "ns for each lookup", "hit loop", "hit chained", "miss loop", "miss chained"
    );
    for (name, _) in &paths {
        let Row { hit, hit_chained, miss, miss_chained } = rows[name];
        println!("{name:<34} {hit:>9.0} {hit_chained:>11.0} {miss:>9.0} {miss_chained:>12.0}");
    }
    drop(paths);
    filled.close()?;
    fs::remove_dir_all(directory)?;
    Ok(rows)
}

/// Asks every path in turn, in several rounds.
fn ask<'a>(paths: &[(&'a str, Box<dyn Reads + '_>)], keys: &[Key]) -> BTreeMap<&'a str, Row> {
    let mut random = Random::new(!SEED ^ keys.len() as u64);
    let mut times = vec![[const { Vec::new() }; 4]; paths.len()];
    // The first round touches every page and is not counted.
    for round in 0..=ROUNDS {
        for ((name, path), times) in paths.iter().zip(&mut times) {
            for (what, times) in times.iter_mut().enumerate() {
                let present = what < 2;
                if present && *name == BLOOM {
                    continue;
                }
                let (queries, sum) = if round == 0 && what == 0 {
                    (keys.to_vec(), keys.iter().map(head).fold(0, u64::wrapping_add))
                } else {
                    queries(keys, present, &mut random)
                };
                let ask = || if what % 2 == 0 { path.independent(&queries) } else { path.chained(&queries) };
                let (answered, time) = each(queries.len(), || black_box(ask()));
                // The bloom takes some absent keys for present ones, and answers one more for each.
                let wrong = answered.wrapping_sub(sum);
                assert!(wrong == 0 || *name == BLOOM && wrong < QUERIES as u64 / 20, "{name} answers wrongly");
                if round > 0 {
                    times.push(time);
                }
            }
        }
    }
    let rows = times.iter().map(|[hit, hit_chained, miss, miss_chained]| Row {
        hit: median(hit),
        hit_chained: median(hit_chained),
        miss: median(miss),
        miss_chained: median(miss_chained),
    });
    paths.iter().map(|(name, _)| *name).zip(rows).collect()
}

/// Random keys, and the sum of the right answers. Absent keys begin like a present one.
fn queries(keys: &[Key], present: bool, random: &mut Random) -> (Vec<Key>, u64) {
    let mut sum = 0u64;
    let queries = (0..QUERIES).map(|_| {
        let key = keys[random.below(keys.len())];
        if present {
            sum = sum.wrapping_add(head(&key));
            return key;
        }
        sum = sum.wrapping_add(ABSENT);
        // That this half is the one of the present key has a probability of 2⁻⁶⁴.
        let mut absent = key;
        absent.0[8..].copy_from_slice(&random.next().to_le_bytes());
        absent
    });
    (queries.collect(), sum)
}
