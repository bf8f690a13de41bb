//! The walks of `docs/versions.md`: each scenario file tells histories and what may be answered about them.
//!
//! | step | means |
//! | --- | --- |
//! | `scenario … strategy Sum` | begins anew, with the keyspace `k` under a merge strategy; without one, `LastWins` |
//! | `v@10 k` · `+v@10 k` · `delete@10 k` · `delete_range@10 a z` | a put, a merge, deletes, each the commit 10 |
//! | `batch@10 k 5 +1 delete` | words of one key in a batch; `delete_range` of all, `purge_prefix` of it |
//! | `v@10 k -> Duplicate` | refused, as `Duplicate` or `Invalid` |
//! | `view@12` · `release 12` · `view 12 k -> v` | opens a view and holds it; lets go of it; asks it |
//! | `as_of 15 k -> v` | asks a view that is opened for it |
//! | `flush` · `compact` | |
//! | `scenario … policy mvcc 2 1h` | under a policy, `mvcc` with versions and age |
//! | `… policy tombstones 1h` · `last_writer_wins` · `keep_even` | a custom one keeps even seqnos |
//! | `scenario … ttl 10m` | values live that long; policy, ttl and strategy may stand together, in this order |
//! | `policy mvcc 1 0s` · `ttl 1h` | sets them from now on |
//! | `wait 2h` · `step_wall 2h` · `step_wall -2h` | time passes; the wall clock alone is moved |
//! | `purge@10 k` · `purge_prefix@10 a` | purges |
//! | `pin@10 name` · `unpin@10 name` · `pinned name k -> v` | pins, each a commit of its own; asks the pinned view |
//! | `history k -> (30,None) (20,v2) incomplete` | what the history tells |
//! | `horizon -> 10` | |
//! | `as_of_time 90m k -> v` | asks a view of the time that long after the beginning |
//! | `reopen` | closes and opens; compacts before the keyspace, and so a custom strategy, is given |
//!
//! Values of `Sum` are numbers, `max` and `min` the outermost; a list of `Append` is told with commas; the custom
//! strategy `Joined` puts a bar between two values, and `Short` fails with more than five bytes. Answers: a value,
//! `None`, `Unfoldable` for an error that names the key, `Trimmed`, or `Trimmed{n}` with the oldest readable seqno;
//! `Trimmed/1` leaves the choice.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/strategies.rs"]
#[expect(dead_code, reason = "a part of it is for other tests")]
mod strategies;

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use chronolith::{
    CompactionPolicy, Db, Error, Keyspace, KeyspaceOptions, Options, Policy, Receipt, Result, VersionInfo, View, env,
    merge::append_items,
};
use strategies::Strategy;

/// The strategy that a scenario names.
fn strategy(name: &str) -> Strategy {
    match name {
        "LastWins" => Strategy::LastWins,
        "FirstWins" => Strategy::FirstWins,
        "Sum" => Strategy::Sum,
        "Append" => Strategy::Append,
        "ErrorOnDuplicate" => Strategy::ErrorOnDuplicate,
        "Joined" => Strategy::Joined("|"),
        "Short" => Strategy::Fragile(5),
        _ => panic!("no such strategy: {name}"),
    }
}

struct Walk {
    sim: env::Sim,
    strategy: Strategy,
    db: Db,
    keyspace: Keyspace,
    filler: Keyspace,
    views: BTreeMap<u64, View>,
    /// Since when time is told, and how much of it has passed.
    passed: Duration,
}

const START: Duration = Duration::from_secs(1_700_000_000);

/// `90m`, `2h`, `10s`.
fn duration(word: &str) -> Duration {
    let (number, unit) = word.split_at(word.len() - 1);
    let number: u64 = number.parse().unwrap();
    Duration::from_secs(
        number
            * match unit {
                "s" => 1,
                "m" => 60,
                "h" => 3600,
                "d" => 86_400,
                _ => panic!("no such unit: {word}"),
            },
    )
}

struct KeepEven;

impl CompactionPolicy for KeepEven {
    fn keep(&self, version: &VersionInfo, _now: SystemTime) -> bool {
        u64::from(version.seqno).is_multiple_of(2)
    }
}

/// Options out of words such as `policy mvcc 2 1h ttl 10m`; the rest of the words comes back.
fn options<'w>(mut words: &'w [&'w str]) -> (KeyspaceOptions, &'w [&'w str]) {
    let mut options = KeyspaceOptions::new();
    loop {
        (options, words) = match words {
            ["policy", "mvcc", versions, age, rest @ ..] => {
                (options.policy(Policy::mvcc(versions.parse().unwrap(), duration(age))), rest)
            }
            ["policy", "tombstones", age, rest @ ..] => (options.policy(Policy::tombstones(duration(age))), rest),
            ["policy", "last_writer_wins", rest @ ..] => (options.policy(Policy::last_writer_wins()), rest),
            ["policy", "keep_even", rest @ ..] => (options.policy(Policy::custom("keep even", KeepEven)), rest),
            ["ttl", ttl, rest @ ..] => (options.ttl(duration(ttl)), rest),
            _ => return (options, words),
        };
    }
}

impl Walk {
    fn new(words: &[&str]) -> Self {
        let (options, rest) = options(words);
        let strategy = strategy(if let ["strategy", named] = rest { named } else { "LastWins" });
        let sim = env::Sim::new(1);
        sim.set_time(SystemTime::UNIX_EPOCH + START);
        let db = Options::new().env(sim.clone()).open("walk.db").unwrap();
        let keyspace = db.keyspace("k", options.merge(strategy.option())).unwrap();
        let filler = db.keyspace("filler", KeyspaceOptions::new()).unwrap();
        let passed = Duration::ZERO;
        Self { sim, strategy, db, keyspace, filler, views: BTreeMap::new(), passed }
    }

    fn reopen(&mut self) {
        self.views.clear();
        self.db.clone().close().unwrap();
        self.db = Options::new().env(self.sim.clone()).open("walk.db").unwrap();
        drop(self.db.compact().unwrap());
        self.keyspace = self.db.keyspace("k", KeyspaceOptions::new().merge(self.strategy.option())).unwrap();
        self.filler = self.db.keyspace("filler", KeyspaceOptions::new()).unwrap();
    }

    /// A value as the strategy takes it.
    fn value(&self, word: &str) -> Vec<u8> {
        match (self.strategy, word) {
            (Strategy::Sum, "max") => i64::MAX.to_le_bytes().to_vec(),
            (Strategy::Sum, "min") => i64::MIN.to_le_bytes().to_vec(),
            (Strategy::Sum, number) => number.parse::<i64>().unwrap().to_le_bytes().to_vec(),
            _ => word.as_bytes().to_vec(),
        }
    }

    /// A value in the scenario's words.
    fn word(&self, value: &[u8]) -> String {
        match self.strategy {
            Strategy::Sum => i64::from_le_bytes(value.try_into().unwrap()).to_string(),
            Strategy::Append => {
                let items = append_items(value).map(|item| String::from_utf8(item.unwrap().to_vec()).unwrap());
                items.collect::<Vec<_>>().join(",")
            }
            _ => String::from_utf8(value.to_vec()).unwrap(),
        }
    }

    /// Commits elsewhere until the next commit is `seqno`.
    fn up_to(&self, seqno: u64) {
        while u64::from(self.db.snapshot().seqno()) + 1 < seqno {
            self.filler.put("f", "f").unwrap();
        }
    }

    fn step(&mut self, words: &[&str]) {
        match words {
            ["flush"] => self.db.flush().unwrap(),
            ["compact"] => drop(self.db.compact().unwrap()),
            ["reopen"] => self.reopen(),
            ["policy" | "ttl", ..] => {
                let (options, _) = options(words);
                drop(self.db.keyspace("k", options.merge(self.strategy.option())).unwrap());
            }
            ["wait", time] => {
                self.passed += duration(time);
                self.sim.set_time(SystemTime::UNIX_EPOCH + START + self.passed);
            }
            ["step_wall", time] => match time.strip_prefix('-') {
                Some(back) => self.sim.step_wall_back(duration(back)),
                None => self.sim.step_wall(duration(time)),
            },
            ["history", key, "->", expected @ ..] => {
                let mut history = self.keyspace.history(key);
                let mut told: Vec<String> = Vec::new();
                for version in history.by_ref() {
                    let version = version.unwrap();
                    let value = version.value.map_or("None".to_owned(), |value| self.word(&value));
                    told.push(format!("({},{value})", version.seqno));
                }
                if !history.is_complete() {
                    told.push("incomplete".to_owned());
                }
                assert_eq!(told, expected);
            }
            ["horizon", "->", expected] => assert_eq!(self.keyspace.horizon().to_string(), *expected),
            ["pinned", name, key, "->", expected] => {
                let view = self.db.pinned(name).unwrap();
                self.ask(&view, key, expected);
            }
            ["as_of_time", time, key, "->", expected] => {
                match self.db.as_of_time(SystemTime::UNIX_EPOCH + START + duration(time)) {
                    Ok(view) => self.ask(&view, key, expected),
                    Err(Error::InTheFuture) => assert_eq!(*expected, "InTheFuture"),
                    // Before the window the timeline is a sample (C2): the time itself may be refused.
                    Err(Error::HistoryTrimmed { .. }) => assert!(expected.contains("Trimmed"), "refused: {expected}"),
                    Err(error) => panic!("{error}"),
                }
            }
            ["release", seqno] => drop(self.views.remove(&seqno.parse().unwrap()).unwrap()),
            [at] if at.starts_with("view@") => {
                let seqno = at.strip_prefix("view@").unwrap().parse().unwrap();
                self.up_to(seqno + 1);
                self.views.insert(seqno, self.db.as_of(seqno).unwrap());
            }
            ["as_of", seqno, key, "->", expected] => {
                let seqno: u64 = seqno.parse().unwrap();
                self.up_to(seqno + 1);
                let view = self.db.as_of(seqno).unwrap();
                self.ask(&view, key, expected);
            }
            ["view", seqno, key, "->", expected] => {
                let view = self.views.get(&seqno.parse().unwrap()).unwrap().clone();
                self.ask(&view, key, expected);
            }
            [write, arguments @ ..] => self.write(write, arguments),
            [] => {}
        }
    }

    /// Makes a commit, which must get the seqno behind its `@`, or be refused as told.
    fn write(&self, write: &str, arguments: &[&str]) {
        let (what, seqno) = write.split_once('@').unwrap();
        self.up_to(seqno.parse().unwrap());
        let (arguments, expected) = match arguments {
            [arguments @ .., "->", expected] => (arguments, *expected),
            arguments => (arguments, seqno),
        };
        let receipt = match (what, arguments) {
            ("delete", [key]) => self.keyspace.delete(key),
            ("purge", [key]) => self.keyspace.purge(key),
            ("purge_prefix", [prefix]) => self.keyspace.purge_prefix(prefix),
            ("pin", [name]) => self.db.pin(name).map(|seqno| Receipt { seqno, time: SystemTime::UNIX_EPOCH }),
            ("unpin", [name]) => {
                let unpinned = self.db.unpin(name);
                let (seqno, time) = (self.db.seqno(), SystemTime::UNIX_EPOCH);
                unpinned.map(|()| Receipt { seqno, time })
            }
            ("delete_range", [start, end]) => self.keyspace.delete_range(*start..*end),
            ("batch", [key, parts @ ..]) => {
                let mut batch = self.db.batch();
                for part in parts {
                    match (*part, part.strip_prefix('+')) {
                        ("delete", _) => batch.delete(&self.keyspace, key),
                        ("delete_range", _) => batch.delete_range(&self.keyspace, ..),
                        ("purge", _) => batch.purge(&self.keyspace, key),
                        ("purge_prefix", _) => batch.purge_prefix(&self.keyspace, key),
                        (_, Some(operand)) => batch.merge(&self.keyspace, key, self.value(operand)),
                        (value, None) => batch.put(&self.keyspace, key, self.value(value)),
                    }
                }
                batch.commit()
            }
            (value, [key]) => match value.strip_prefix('+') {
                Some(operand) => self.keyspace.merge(key, self.value(operand)),
                None => self.keyspace.put(key, self.value(value)),
            },
            _ => panic!("no such step: {write} {arguments:?}"),
        };
        let outcome = match receipt {
            Ok(receipt) => receipt.seqno.to_string(),
            Err(Error::Duplicate { .. }) => "Duplicate".to_owned(),
            Err(Error::Invalid { .. }) => "Invalid".to_owned(),
            Err(error) => error.to_string(),
        };
        assert_eq!(outcome, expected, "the scenario counts wrong, or the write should have gone otherwise");
    }

    /// A point read and a scan of just that key must both give the expected answer.
    fn ask(&self, view: &View, key: &str, expected: &str) {
        let right = |got: Result<Option<chronolith::Bytes>>, how: &str| {
            let (got, at) = (got.map(|value| value.map(|value| self.word(&value))), view.seqno());
            let right = expected.split('/').any(|expected| said(&got, key, expected) == expected);
            assert!(right, "{how} at {at} gives {got:?}, not {expected}");
        };
        right(view.get(&self.keyspace, key), "get");
        let mut scan = view.range(&self.keyspace, key..=key);
        for (direction, item) in
            [("forward", scan.next()), ("backward", view.range(&self.keyspace, key..=key).next_back())]
        {
            // A scan may be refused for the sake of a neighbour, as a whole; it must not answer otherwise.
            match item.transpose() {
                Err(Error::HistoryTrimmed { .. }) => {}
                scanned => right(scanned.map(|item| item.map(|(_, value)| value)), &format!("a {direction} scan")),
            }
        }
    }
}

fn said(got: &Result<Option<String>>, key: &str, expected: &str) -> String {
    match got {
        Ok(None) => "None".into(),
        Ok(Some(value)) => value.clone(),
        Err(Error::HistoryTrimmed { oldest }) if expected.contains('{') => format!("Trimmed{{{oldest}}}"),
        Err(Error::HistoryTrimmed { .. }) => "Trimmed".into(),
        Err(Error::Invalid { what }) if what.contains(&format!("key \"{key}\"")) => "Unfoldable".into(),
        Err(error) => error.to_string(),
    }
}

fn run(text: &str) {
    let mut walk = Walk::new(&[]);
    let mut count = 0;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line.starts_with("scenario ") {
            let words: Vec<&str> = line.split_whitespace().collect();
            // The title may have such words too: options are what can be read to the end.
            let reads = |from: &usize| matches!(options(words.get(*from..).unwrap()).1, [] | ["strategy", _]);
            let from = (0..words.len()).find(reads).unwrap_or(words.len());
            walk = Walk::new(words.get(from..).unwrap());
            count += 1;
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let stepped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| walk.step(&words)));
        assert!(stepped.is_ok(), "line {}: {line}", number + 1);
    }
    assert!(count > 0);
}

#[test]
fn last_writer_wins_answers_as_the_walks_say() {
    run(include_str!("scenarios/last_writer_wins.txt"));
}

#[test]
fn policies_that_keep_the_past_answer_as_the_walks_say() {
    run(include_str!("scenarios/past.txt"));
}

#[test]
fn merge_strategies_answer_as_the_walks_say() {
    run(include_str!("scenarios/strategies.txt"));
}

/// For whoever looks into a history: walks of their own.
#[test]
fn walks_of_ones_own_are_run() {
    if let Ok(path) = std::env::var("CHRONOLITH_WALKS") {
        run(&std::fs::read_to_string(path).unwrap());
    }
}
