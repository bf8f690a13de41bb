//! Maps by themselves: merging several, and looking up in the result, beside a `HashMap` of the standard library.
//!
//! Each merge runs in a process of its own, on the files that one process made for all. Time is wall time, since the
//! merge of maps has two threads. Memory is the peak of what the allocator has handed out; the file of the result
//! counts as memory too, in full.

use std::{collections::HashMap, hint::black_box, path::Path, process::Command, time::Instant};

use chronolith::{
    MergeStrategy,
    phash::{Map, MapBuilder, MergeOptions, merge_to},
};
use measure::{
    Directory, Random, Result, SEED, chained,
    clock::{each, median},
    goal, independent,
};

use crate::{
    data::{self, Key},
    heap,
};

const ROUNDS: usize = 3;
const LOOKUP_ROUNDS: usize = 5;
const QUERIES: usize = 2_000_000;
const THREADS: usize = 2;

/// What is answered for an absent key.
const ABSENT: u64 = 0x5555_5555_5555_5555;

/// The command of a process that does one side.
pub const SIDE: &str = "merge-side";

type Table = HashMap<[u8; 16], [u8; 8]>;

/// Merges so many maps of so many keys, of which neighbours share a tenth.
pub fn run(keys: usize, maps: usize) -> Result<()> {
    let directory = Directory::new("phash-bench")?;
    let union = first_of(maps - 1, keys) + keys;
    let all = data::keys(union);
    for map in 0..maps {
        let own = &all[first_of(map, keys)..][..keys];
        let builder = MapBuilder::new().threads(THREADS);
        builder.build_to(directory.path().join(format!("{map}.pphm")), own.iter().map(|key| (key, value(key, map))))?;
    }

    let (mut merged, mut inserted) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        merged.push(side("map", directory.path(), maps)?);
        inserted.push(side("table", directory.path(), maps)?);
    }
    let of = |sides: &[Side], what: fn(&Side) -> f64| median(&sides.iter().map(what).collect::<Vec<_>>());
    let (map_s, table_s) = (of(&merged, |side| side.seconds), of(&inserted, |side| side.seconds));
    let (map_peak, table_peak) = (of(&merged, |side| side.peak), of(&inserted, |side| side.peak));
    let (map_kept, table_kept) = (of(&merged, |side| side.kept), of(&inserted, |side| side.kept));
    println!("{maps} maps of {keys} keys of 16 bytes with values of 8, {union} different keys");
    println!("\n{:<34} {:>9} {:>13} {:>13} {:>10}", "", "merge s", "peak bytes/key", "kept bytes/key", "ns/entry");
    for (name, seconds, peak, kept) in [
        ("merge_to, two threads", map_s, map_peak, map_kept),
        ("HashMap, inserting all", table_s, table_peak, table_kept),
    ] {
        let (peak, kept, entry) = (peak / union as f64, kept / union as f64, seconds * 1e9 / (maps * keys) as f64);
        println!("{name:<34} {seconds:>9.2} {peak:>14.1} {kept:>14.1} {entry:>10.0}");
    }

    let map = Map::open(directory.path().join("all.pphm"))?;
    assert_eq!(map.len(), union as u64, "each key once");
    let (ours, many, table) = look_up(&map, &all, &|at| last_map_of(at, keys, maps))?;
    println!();
    goal::at_least("merging, times faster", table_s / map_s, 2.5);
    goal::at_most("peak memory by the table's", map_peak / table_peak, 0.67);
    goal::at_least("present keys, independent, times faster, multi_get", table[0] / many[0], 1.5);
    goal::at_least("present keys, independent, times faster, get by get", table[0] / ours[0], 1.5);
    goal::at_most("absent keys by present ones, independent", ours[2] / ours[0], 1.0);
    Ok(())
}

/// Where the keys of a map begin among all.
fn first_of(map: usize, keys: usize) -> usize {
    map * (keys - keys / 10)
}

/// The last map that holds a key: its value is the one that stays.
fn last_map_of(at: usize, keys: usize, maps: usize) -> usize {
    (at / (keys - keys / 10)).min(maps - 1)
}

fn value(key: &Key, map: usize) -> [u8; 8] {
    data::hash(key, map as u64).to_le_bytes()
}

/// What one process measured.
#[derive(Clone, Copy, Debug)]
struct Side {
    seconds: f64,
    /// Bytes at the highest, and those that the result takes.
    peak: f64,
    kept: f64,
}

/// Runs one side in a process of its own.
fn side(which: &str, directory: &Path, maps: usize) -> Result<Side> {
    let program = std::env::current_exe()?;
    let output = Command::new(program).arg(SIDE).arg(which).arg(directory).arg(maps.to_string()).output()?;
    let text = String::from_utf8(output.stdout)?;
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    let [seconds, peak, kept] = numbers[..] else { return Err(String::from_utf8(output.stderr)?.into()) };
    Ok(Side { seconds, peak, kept })
}

/// One side, in its process: prints what [`side`] reads.
pub fn run_side(arguments: &[String]) -> Result<()> {
    let [which, directory, maps] = arguments else { return Err("a side, a directory and a number of maps".into()) };
    let directory = Path::new(directory);
    heap::count();
    let maps = (0..maps.parse()?).map(|map: usize| Map::open(directory.join(format!("{map}.pphm"))));
    let maps = maps.collect::<chronolith::Result<Vec<Map>>>()?;
    let before = heap::now();
    let start = Instant::now();
    let (seconds, file) = if which == "map" {
        let path = directory.join("all.pphm");
        if path.exists() {
            std::fs::remove_file(&path)?;
        }
        let start = Instant::now();
        let maps: Vec<&Map> = maps.iter().collect();
        let merged = merge_to(&path, &maps, &MergeStrategy::LastWins, MergeOptions::default().threads(THREADS))?;
        let seconds = start.elapsed().as_secs_f64();
        black_box(&merged);
        (seconds, std::fs::metadata(&path)?.len() as f64)
    } else {
        let table = table(&maps)?;
        let seconds = start.elapsed().as_secs_f64();
        let kept = (heap::now() - before) as f64;
        drop(black_box(table));
        (seconds, kept)
    };
    let peak = (heap::peak() - before) as f64;
    println!("{seconds} {} {file}", if which == "map" { peak + file } else { peak });
    Ok(())
}

/// All entries of all maps, those of later maps in place of earlier ones.
fn table(maps: &[Map]) -> Result<Table> {
    let mut table = Table::new();
    for map in maps {
        for entry in map {
            let (key, value) = entry?;
            table.insert(key[..].try_into()?, value[..].try_into()?);
        }
    }
    Ok(table)
}

/// Nanoseconds of look-ups: in the map one by one, in the map many at once, in a table.
type Lookups = ([f64; 4], [f64; 4], [f64; 4]);

/// Nanoseconds of a look-up in the map and in a table of the same entries: present independent and chained, absent
/// alike.
fn look_up(map: &Map, all: &[Key], last_map: &dyn Fn(usize) -> usize) -> Result<Lookups> {
    map.verify()?;
    let table = table(std::slice::from_ref(map))?;
    let in_map = |key: &Key| match map.get(key) {
        Ok(Some(value)) => value.first_chunk().map_or(ABSENT, |bytes| u64::from_le_bytes(*bytes)),
        _ => ABSENT,
    };
    let in_table = |key: &Key| table.get(&key.0).map_or(ABSENT, |value| u64::from_le_bytes(*value));
    let mut random = Random::new(!SEED);
    let in_map_many = |queries: &[Key]| {
        queries.chunks(64).fold(0u64, |sum, some| {
            let values = map.multi_get(some).unwrap_or_default();
            values.iter().fold(sum, |sum, value| {
                let bytes = value.as_ref().and_then(|value| value.first_chunk());
                sum.wrapping_add(bytes.map_or(ABSENT, |bytes| u64::from_le_bytes(*bytes)))
            })
        })
    };
    let mut times = [const { [const { Vec::new() }; 4] }; 3];
    for _ in 0..LOOKUP_ROUNDS {
        for present in [true, false] {
            for (side, times) in times.iter_mut().enumerate() {
                for chain in [false, true] {
                    let mut sum = 0u64;
                    let queries: Vec<Key> = (0..QUERIES)
                        .map(|_| {
                            let at = random.below(all.len());
                            let mut key = all[at];
                            if present {
                                sum = sum.wrapping_add(u64::from_le_bytes(value(&key, last_map(at))));
                            } else {
                                sum = sum.wrapping_add(ABSENT);
                                key.0[8..].copy_from_slice(&random.next().to_le_bytes());
                            }
                            key
                        })
                        .collect();
                    let (answered, time) = each(QUERIES, || match (side, chain) {
                        (0, false) => independent(&queries, in_map),
                        (0, true) => chained(&queries, in_map),
                        (1, false) => independent(&queries, in_table),
                        (1, true) => chained(&queries, in_table),
                        (_, false) => in_map_many(&queries),
                        // A chain is of single look-ups, whoever is asked.
                        (_, true) => chained(&queries, in_map),
                    });
                    assert_eq!(answered, sum, "every answer is right");
                    times[usize::from(!present) * 2 + usize::from(chain)].push(time);
                }
            }
        }
    }
    let [ours, others, many] = times.map(|side| side.map(|times| median(&times)));
    println!(
        "\n{:<34} {:>9} {:>11} {:>9} {:>12}",
        "ns for each lookup", "hit loop", "hit chained", "miss loop", "miss chained"
    );
    for (name, [hit, hit_chained, miss, miss_chained]) in
        [("Map", ours), ("Map, multi_get of 64", many), ("HashMap", others)]
    {
        println!("{name:<34} {hit:>9.0} {hit_chained:>11.0} {miss:>9.0} {miss_chained:>12.0}");
    }
    Ok((ours, many, others))
}
