//! Range tombstones by the ten thousand. Nothing here measures time; with anything quadratic these tests do not end,
//! or not within memory.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use chronolith::{Db, Keyspace, KeyspaceOptions, MergeStrategy, Options, Policy, View, env};

const HOUR: Duration = Duration::from_secs(3600);

fn key(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

fn open(env: &env::Memory) -> Db {
    Options::new().env(env.clone()).open("my.db").unwrap()
}

/// Keys counted from both ends, and the first and the last of them.
fn ends(view: &View, keyspace: &Keyspace) -> (usize, Option<[u8; 8]>, Option<[u8; 8]>) {
    let whole = |item: Option<_>| item.map(|(key, _): (chronolith::Bytes, _)| <[u8; 8]>::try_from(&*key).unwrap());
    let count = view.range(keyspace, ..).map(Result::unwrap).count();
    assert_eq!(view.range(keyspace, ..).rev().map(Result::unwrap).count(), count);
    (count, whole(view.first(keyspace).unwrap()), whole(view.last(keyspace).unwrap()))
}

#[test]
fn twenty_thousand_nested_ranges_are_read_before_and_after_every_flush_and_compaction() {
    let n = 20_000;
    for policy in [Policy::last_writer_wins(), Policy::tombstones(HOUR), Policy::mvcc(1, HOUR)] {
        let env = env::Memory::new();
        let db = open(&env);
        let keyspace = db.keyspace("log", KeyspaceOptions::new().policy(policy.clone())).unwrap();
        for i in (0..=2 * n).step_by(40) {
            keyspace.put(key(i), "v").unwrap();
        }
        if policy == Policy::mvcc(1, HOUR) {
            // With something below the tombstones stay in their segments.
            db.flush().unwrap();
        }
        let all = db.snapshot();
        let mut half = None;
        for i in 1..=n {
            keyspace.delete_range(key(i)..key(2 * n - i / 2)).unwrap();
            if i == n / 2 {
                half = Some(db.snapshot());
            }
        }
        let half = half.unwrap();
        let check = |db: &Db, keyspace: &Keyspace| {
            // From 1 to before 2n; of the tombstones each later one covers less.
            let left = (2, Some(key(0)), Some(key(2 * n)));
            assert_eq!(ends(&db.snapshot(), keyspace), left);
            assert_eq!(keyspace.get(key(n + 400)).unwrap(), None);
            assert_eq!(keyspace.get(key(0)).unwrap().unwrap(), b"v");
            let told = keyspace.history(key(n + 400)).map(Result::unwrap).count();
            assert!(told <= 1 + usize::try_from(n).unwrap());
        };
        let check_views = || {
            assert_eq!(ends(&all, &keyspace).0, usize::try_from(2 * n / 40 + 1).unwrap());
            assert_eq!(ends(&half, &keyspace), (2, Some(key(0)), Some(key(2 * n))));
            assert_eq!(all.get(&keyspace, key(n + 400)).unwrap().unwrap(), b"v");
            assert_eq!(half.get(&keyspace, key(n + 400)).unwrap(), None);
        };
        check(&db, &keyspace);
        check_views();
        db.flush().unwrap();
        check(&db, &keyspace);
        check_views();
        keyspace.delete_range(key(40)..key(80)).unwrap();
        let compacted = db.compact().unwrap();
        assert!(compacted.bytes_after < n * 100, "{policy:?}: {} bytes", compacted.bytes_after);
        check(&db, &keyspace);
        check_views();
        assert!(db.stats().index_bytes < n * 400, "{policy:?}: {} bytes of memory", db.stats().index_bytes);
        let report = db.verify().unwrap();
        assert!(report.is_clean(), "{report}");
        drop((all, half));
        db.close().unwrap();
        let db = open(&env);
        let keyspace = db.keyspace("log", KeyspaceOptions::new()).unwrap();
        check(&db, &keyspace);
    }
}

#[test]
fn a_log_that_is_trimmed_all_the_time_answers_now_and_as_of_every_moment_of_its_window() {
    let (n, live) = (12_000u64, 200);
    for policy in [Policy::last_writer_wins(), Policy::mvcc(1, HOUR)] {
        let env = env::Memory::new();
        let db = open(&env);
        let keyspace = db.keyspace("log", KeyspaceOptions::new().policy(policy.clone())).unwrap();
        let mut moments = Vec::new();
        for i in 1..=n {
            keyspace.put(key(i), i.to_string()).unwrap();
            keyspace.delete_range(..key(i.saturating_sub(live))).unwrap();
            if i % 1000 == 0 {
                assert_eq!(keyspace.first().unwrap().unwrap().0, key(i.saturating_sub(live).max(1)));
                moments.push((i, db.seqno()));
            }
            if i % 4000 == 0 {
                db.flush().unwrap();
            }
        }
        let check = |db: &Db, keyspace: &Keyspace| {
            assert_eq!(ends(&db.snapshot(), keyspace), (201, Some(key(n - live)), Some(key(n))));
            for (i, moment) in moments.iter().filter(|_| policy == Policy::mvcc(1, HOUR)) {
                let then = db.as_of(*moment).unwrap();
                assert_eq!(ends(&then, keyspace), (201, Some(key(i - live)), Some(key(*i))));
                assert_eq!(then.get(keyspace, key(i - 50)).unwrap().unwrap(), (i - 50).to_string().as_bytes());
            }
            let mut history = keyspace.history(key(500));
            let oldest = history.by_ref().map(Result::unwrap).last();
            if policy == Policy::mvcc(1, HOUR) {
                assert_eq!(oldest.unwrap().value.unwrap(), b"500");
                assert!(history.is_complete());
            }
        };
        check(&db, &keyspace);
        let compacted = db.compact().unwrap();
        assert!(compacted.bytes_after < n * 200, "{policy:?}: {} bytes", compacted.bytes_after);
        check(&db, &keyspace);
        db.close().unwrap();
        let db = open(&env);
        let keyspace = db.keyspace("log", KeyspaceOptions::new()).unwrap();
        check(&db, &keyspace);
    }
}

#[test]
fn a_batch_deletes_a_hundred_thousand_ranges_and_is_recovered() {
    let env = env::Memory::new();
    let db = open(&env);
    let keyspace = db.keyspace("many", KeyspaceOptions::new()).unwrap();
    let n = 100_000;
    for i in 0..1000 {
        keyspace.put(key(i * 300), "v").unwrap();
    }
    let mut batch = db.batch();
    for i in 0..n {
        batch.delete_range(&keyspace, key(i)..key(i + n));
    }
    batch.put(&keyspace, key(7), "after");
    batch.commit().unwrap();
    let left = (1 + 1000 - 200_000usize.div_ceil(300), Some(key(7)), Some(key(999 * 300)));
    assert_eq!(ends(&db.snapshot(), &keyspace), left);
    drop((keyspace, db));
    let db = open(&env);
    let keyspace = db.keyspace("many", KeyspaceOptions::new()).unwrap();
    assert_eq!(ends(&db.snapshot(), &keyspace), left);
    db.compact().unwrap();
    assert_eq!(ends(&db.snapshot(), &keyspace), left);
}

#[test]
fn a_batch_that_is_decided_by_what_is_there_looks_at_each_of_its_ranges_once() {
    let db = open(&env::Memory::new());
    let first = db.keyspace("first", KeyspaceOptions::new().merge(MergeStrategy::FirstWins)).unwrap();
    let sums = db.keyspace("sums", KeyspaceOptions::new().merge(MergeStrategy::Sum)).unwrap();
    let n = 20_000;
    let mut batch = db.batch();
    for i in 0..n {
        batch.put(&first, key(i), "first");
        batch.put(&sums, key(i), i64::MAX.to_le_bytes());
        batch.delete_range(&first, key(i / 2)..key(i));
        batch.delete_range(&sums, key(i / 2)..key(i + 1));
        batch.put(&first, key(i / 3), "again");
        batch.merge(&sums, key(i), 1i64.to_le_bytes());
    }
    batch.commit().unwrap();
    assert_eq!(first.get(key(n - 1)).unwrap().unwrap(), b"first");
    assert_eq!(first.get(key(1)).unwrap().unwrap(), b"again");
    assert_eq!(first.get(key(n / 2 + 1)).unwrap(), None);
    assert_eq!(sums.get(key(5)).unwrap(), None);
    assert_eq!(sums.get(key(n - 1)).unwrap().unwrap(), 1i64.to_le_bytes());
    let mut batch = db.batch();
    batch.put(&sums, key(1), i64::MAX.to_le_bytes());
    batch.delete_range(&sums, key(2)..);
    batch.merge(&sums, key(1), 1i64.to_le_bytes());
    assert!(batch.commit().is_err(), "a sum whose base is in the batch does not fit");
}

#[test]
fn ranges_count_towards_the_size_that_seals_a_memtable() {
    let db = Options::new().env(env::Memory::new()).memory_budget(8 << 20).open("my.db").unwrap();
    let keyspace = db.keyspace("log", KeyspaceOptions::new()).unwrap();
    for i in 0..10_000 {
        keyspace.delete_range(..key(i)).unwrap();
    }
    let stats = db.stats();
    assert!(stats.flushes + stats.sealed_memtables > 0, "{stats}");
}

/// Of a row of range tombstones a flush judges the newest and the oldest. A view between them was refused by scans:
/// one of them was taken for newer than the interval in which it lies, and a jump over what it hides passed the
/// history tier by.
#[test]
fn a_scan_inside_a_row_of_range_tombstones_sees_what_a_get_sees() {
    let db = open(&env::Memory::new());
    let options = KeyspaceOptions::new().policy(Policy::mvcc(1, HOUR)).merge(MergeStrategy::Sum);
    let keyspace = db.keyspace("k", options).unwrap();
    keyspace.merge([0xfe], 7i64.to_le_bytes()).unwrap();
    db.flush().unwrap();
    keyspace.merge([0xff], 8i64.to_le_bytes()).unwrap();
    let mut views = vec![db.snapshot()];
    for start in ["", "aaa", "zz", "zzz"] {
        keyspace.delete_range(start..).unwrap();
        views.push(db.snapshot());
    }
    db.flush().unwrap();
    for view in views {
        let get = |key: u8| view.get(&keyspace, [key]).unwrap();
        let there = [0xfe, 0xff].into_iter().filter(|key| get(*key).is_some()).count();
        let all: Vec<_> = view.range(&keyspace, ..).collect::<Result<_, _>>().unwrap();
        let mut back: Vec<_> = view.range(&keyspace, ..).rev().collect::<Result<_, _>>().unwrap();
        back.reverse();
        assert_eq!((all.len(), &all), (there, &back), "as of {}", view.seqno());
    }
}
