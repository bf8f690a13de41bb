//! More and more versions of each key, as many in all: what a read of the one in the middle costs.

use chronolith::Policy;
use measure::{
    Random, Result, chained,
    clock::{each, median},
    goal, independent, keys,
};

use crate::data::{Filled, Key, Reader, WEEK, answer, value};

const DEPTHS: [usize; 3] = [10, 100, 1000];
const QUERIES: usize = 100_000;
const ROUNDS: usize = 7;

/// Measures so many versions in all.
pub fn run(total: usize) -> Result<()> {
    let mut filled = Vec::new();
    for depth in DEPTHS {
        let keys = keys(total / depth);
        let mut database = Filled::new(&format!("depth-{depth}"), Policy::mvcc(1, WEEK))?;
        database.fill(&keys, depth)?;
        database.compact()?;
        let readers = [database.reader(None)?, database.reader(Some(depth / 2))?, database.reader(Some(1))?];
        filled.push((database, keys, readers));
    }
    // By depth, reader, loop or chained, round.
    let mut times = DEPTHS.map(|_| [const { [const { Vec::new() }; 2] }; 3]);
    let mut random = Random::new(11);
    for round in 0..=ROUNDS {
        for ((_, keys, readers), times) in filled.iter().zip(&mut times) {
            for (reader, times) in readers.iter().zip(times) {
                for (chain, times) in times.iter_mut().enumerate() {
                    let time = ask(keys, reader, chain == 1, &mut random);
                    if round > 0 {
                        times.push(time);
                    }
                }
            }
        }
    }

    println!("\n{total} versions in all\n");
    let heads = ["latest loop", "chained", "middle loop", "chained", "oldest loop", "chained"];
    println!("{:<20} {}", "ns for each get", heads.map(|head| format!("{head:>12}")).concat());
    for (depth, times) in DEPTHS.iter().zip(&times) {
        let cells: String = times.iter().flatten().map(|times| format!("{:>12.0}", median(times))).collect();
        println!("{:<20} {cells}", format!("{depth} versions a key"));
    }
    println!();
    for (which, name) in [(1, "middle"), (2, "oldest")] {
        for (chain, how) in ["loop", "chained"].iter().enumerate() {
            for (deeper, depth) in [(1, 100), (2, 1000)] {
                let pairs = times[deeper][which][chain].iter().zip(&times[0][which][chain]);
                let ratios: Vec<f64> = pairs.map(|(deep, shallow)| deep / shallow).collect();
                goal::at_most(
                    &format!("get of the {name} of {depth} versions by that of 10, {how}"),
                    median(&ratios),
                    1.25,
                );
            }
        }
    }
    Ok(())
}

/// Nanoseconds of a get.
fn ask(keys: &[Key], reader: &Reader, chain: bool, random: &mut Random) -> f64 {
    let mut sum = 0u64;
    let mut draw = || {
        let key = keys[random.below(keys.len())];
        sum = sum.wrapping_add(answer(&value(&key, reader.version)));
        key
    };
    let queries: Vec<Key> = (0..QUERIES).map(|_| draw()).collect();
    let (answered, time) = each(QUERIES, || match chain {
        false => independent(&queries, |key| reader.ask(key)),
        true => chained(&queries, |key| reader.ask(key)),
    });
    assert_eq!(answered, sum, "every answer is right");
    time
}
