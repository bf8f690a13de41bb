//! Queues: dead keys in long rows at either end and in between, and readers of every moment who jump over them.
//!
//! Random histories against a plain model. Long rows come from batches of deletes, from pops at both ends and from
//! values that expire; readers are new ones, snapshots that are held while writing goes on, and views of the past, and
//! each looks from any key in both directions.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "support/dice.rs"]
#[expect(dead_code, reason = "a part of it is for other tests")]
mod dice;

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use chronolith::{Bytes, Error, Keyspace, KeyspaceOptions, Options, Policy, Receipt, View, env};
use dice::Dice;

const KEYS: usize = 600;
const TTL: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Three queues, one behind the other.
fn key(number: usize) -> String {
    format!("queue{}/{:04}", number / (KEYS / 3), number % (KEYS / 3))
}

/// A version of a key: its seqno, its time, and its value.
type Written = (u64, SystemTime, Option<u64>);

struct Queues {
    keyspace: Keyspace,
    ttl: Option<Duration>,
    keys: BTreeMap<String, Vec<Written>>,
}

impl Queues {
    fn write(&mut self, key: String, receipt: Receipt, value: Option<u64>) {
        self.keys.entry(key).or_default().push((receipt.seqno.into(), receipt.time, value));
    }

    /// What a view sees, in order.
    fn seen(&self, view: &View) -> Vec<(&str, u64)> {
        let (seqno, time) = (u64::from(view.seqno()), view.time());
        let state = |versions: &Vec<Written>| {
            let (_, written, value) = versions.iter().rfind(|(at, ..)| *at <= seqno)?;
            value.filter(|_| self.ttl.is_none_or(|ttl| *written + ttl > time))
        };
        self.keys.iter().filter_map(|(key, versions)| Some((key.as_str(), state(versions)?))).collect()
    }
}

fn number((key, value): (Bytes, Bytes)) -> (String, u64) {
    (String::from_utf8(key.to_vec()).unwrap(), u64::from_le_bytes(value[..].try_into().unwrap()))
}

/// A look from any key in one direction, or in both by turns.
fn look(queues: &Queues, view: &View, may_refuse: bool, dice: &mut Dice) -> Result<(), String> {
    let (low, high) = match dice.below(4) {
        0 => (String::new(), "z".to_owned()),
        1 => (format!("queue{}/", dice.below(3)), String::new()),
        _ => (key(dice.below(KEYS)), "z".to_owned()),
    };
    let high = if high.is_empty() { low.replace('/', "0") } else { high };
    let seen = queues.seen(view);
    let wanted: Vec<_> = seen.iter().filter(|(key, _)| low.as_str() <= *key && *key < high.as_str()).collect();
    let mut range = view.range(&queues.keyspace, low.as_str()..high.as_str());
    let (mut front, mut back) = (0, wanted.len());
    let manner = dice.below(3);
    for _ in 0..=dice.below(4) {
        let backward = manner == 1 || manner == 2 && dice.below(2) == 0;
        let told = if backward { range.next_back() } else { range.next() };
        let expected = if front == back {
            None
        } else if backward {
            back -= 1;
            wanted.get(back)
        } else {
            front += 1;
            wanted.get(front - 1)
        };
        match told.map(|item| item.map(number)).transpose() {
            Err(Error::HistoryTrimmed { .. }) if may_refuse => return Ok(()),
            Err(error) => return Err(format!("{low}..{high}: {error}")),
            Ok(told) => {
                let told = told.as_ref().map(|(key, value)| (key.as_str(), *value));
                if told != expected.copied().copied() {
                    return Err(format!(
                        "{low}..{high} at {}, {}: {told:?}, not {expected:?}",
                        view.seqno(),
                        if backward { "backward" } else { "forward" }
                    ));
                }
            }
        }
    }
    Ok(())
}

fn run(seed: u64) -> Result<(), String> {
    let sim = env::Sim::new(seed);
    let mut dice = Dice(seed);
    let db = Options::new().env(sim.clone()).memory_budget(4 << 20).open("my.db").unwrap();
    let lww = KeyspaceOptions::new;
    let mvcc = || KeyspaceOptions::new().policy(Policy::mvcc(1, HOUR));
    let all = [(lww(), None), (mvcc(), None), (lww().ttl(TTL), Some(TTL)), (mvcc().ttl(TTL), Some(TTL))];
    let mut all: Vec<Queues> = (0u8..)
        .zip(all)
        .map(|(name, (options, ttl))| {
            let keyspace = db.keyspace(format!("{name}"), options).unwrap();
            Queues { keyspace, ttl, keys: BTreeMap::new() }
        })
        .collect();
    let mut views: Vec<(View, bool)> = Vec::new();
    let mut value = 0;
    for _ in 0..400 {
        let queues = &mut all[dice.below(4)];
        match dice.below(16) {
            0..4 => {
                // A row of keys is put or deleted, in one commit.
                let (from, len) = (dice.below(KEYS), 1 + dice.below(150));
                let puts = dice.below(3) > 0;
                let mut batch = db.batch();
                let row: Vec<String> = (from..(from + len).min(KEYS)).map(key).collect();
                value += 1;
                for key in &row {
                    if puts {
                        batch.put(&queues.keyspace, key, u64::to_le_bytes(value));
                    } else {
                        batch.delete(&queues.keyspace, key);
                    }
                }
                let receipt = batch.commit().unwrap();
                for key in row {
                    queues.write(key, receipt, puts.then_some(value));
                }
            }
            4..7 => {
                // Pops at one end.
                let (prefix, backward) = (format!("queue{}/", dice.below(3)), dice.below(2) == 0);
                for _ in 0..dice.below(40) {
                    let mut range = queues.keyspace.prefix(&prefix);
                    let told = if backward { range.next_back() } else { range.next() };
                    let Some((key, _)) = told.transpose().unwrap().map(number) else { break };
                    let receipt = queues.keyspace.delete(&key).unwrap();
                    queues.write(key, receipt, None);
                }
            }
            7..10 => {
                // Keys of a short life, each begun with a look.
                for _ in 0..dice.below(10) {
                    let (view, key) = (db.snapshot(), key(dice.below(KEYS)));
                    look(queues, &view, false, &mut dice)?;
                    value += 1;
                    let receipt = queues.keyspace.put(&key, value.to_le_bytes()).unwrap();
                    queues.write(key.clone(), receipt, Some(value));
                    look(queues, &db.snapshot(), false, &mut dice)?;
                    if dice.below(2) == 0 {
                        let receipt = queues.keyspace.delete(&key).unwrap();
                        queues.write(key, receipt, None);
                    }
                }
            }
            10 => sim.set_time(sim.now() + Duration::from_secs(dice.next() % 50)),
            11 => views.push((db.snapshot(), false)),
            12 => {
                let now = u64::from(db.seqno());
                match db.as_of(now - dice.next() % now.min(60)) {
                    Ok(view) => views.push((view, true)),
                    Err(error) => assert!(matches!(error, Error::HistoryTrimmed { .. }), "{error}"),
                }
            }
            13 if dice.below(3) == 0 => db.flush().unwrap(),
            14 if dice.below(6) == 0 => drop(db.compact().unwrap()),
            _ => {
                if views.len() > 6 {
                    drop(views.swap_remove(dice.below(6)));
                }
            }
        }
        for (view, may_refuse) in [(db.snapshot(), false)].iter().chain(&views) {
            for queues in &all {
                look(queues, view, *may_refuse, &mut dice)?;
            }
        }
    }
    Ok(())
}

#[test]
fn whatever_is_dead_around_it_every_reader_finds_the_key_that_is_next_for_it() {
    let (first, seeds) = match std::env::var("CHRONOLITH_HEADS_SEED") {
        Ok(seed) => (seed.parse().unwrap(), 1),
        Err(_) => (1, 16),
    };
    for seed in first..first + seeds {
        if let Err(wrong) = run(seed) {
            panic!("seed {seed}: {wrong}");
        }
    }
}
