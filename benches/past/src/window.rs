//! A sliding window: each turn appends a key, trims what is old, and looks for the oldest that is left. Trimmed by
//! ranges beside trimmed key by key.

use chronolith::Policy;
use measure::{
    Result,
    clock::{each, median},
    goal,
};

use crate::data::{Filled, VALUE_LEN, WEEK};

/// Keys alive at a time, in the second kind of window.
const LIVE: u64 = 1000;

const ROUNDS: usize = 3;

/// Windows of up to so many turns.
pub fn run(turns: usize) -> Result<()> {
    let mut worst: f64 = 0.0;
    println!(
        "\n{:<22} {:>6} {:>8} {:>12} {:>12} {:>8}",
        "policy", "live", "turns", "points, us", "ranges, us", "ratio"
    );
    for (name, policy) in [("last_writer_wins", Policy::last_writer_wins()), ("mvcc(1, a week)", Policy::mvcc(1, WEEK))]
    {
        for live in [1, LIVE] {
            for count in [100, 300, 1000, 3000, 10_000, 20_000, 100_000]
                .into_iter()
                .filter(|count| *count <= turns && *count as u64 > live)
            {
                let mut took = [Vec::new(), Vec::new()];
                for _ in 0..ROUNDS {
                    took[0].push(slide(&policy, count as u64, live, false)?);
                    took[1].push(slide(&policy, count as u64, live, true)?);
                }
                let [points, ranges] = took.map(|took| median(&took) / 1000.0);
                let ratio = ranges / points;
                worst = worst.max(ratio);
                println!("{name:<22} {live:>6} {count:>8} {points:>12.2} {ranges:>12.2} {ratio:>8.2}");
            }
        }
    }
    println!();
    goal::at_most("a window trimmed by ranges, times that of points", worst, 2.0);
    Ok(())
}

/// Nanoseconds of a turn.
fn slide(policy: &Policy, turns: u64, live: u64, ranges: bool) -> Result<f64> {
    let window = Filled::new("window", policy.clone())?;
    let keyspace = &window.keyspace;
    let (slid, time) = each(turns as usize, || {
        for turn in 0..turns {
            keyspace.put(key(turn), [7; VALUE_LEN])?;
            let Some(gone) = turn.checked_sub(live) else { continue };
            if ranges {
                keyspace.delete_range(..key(gone + 1))?;
            } else {
                keyspace.delete(key(gone))?;
            }
            let first = keyspace.first()?.map(|(key, _)| key.to_vec());
            assert_eq!(first.as_deref(), Some(&key(gone + 1)[..]), "the oldest that is left");
        }
        Ok(())
    });
    slid.map(|()| time)
}

fn key(turn: u64) -> [u8; 16] {
    u128::from(turn).to_be_bytes()
}
