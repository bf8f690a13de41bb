//! Merge strategies and point reads as users meet them: what each verb answers, what is refused, where a read looks.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/strategies.rs"]
#[expect(dead_code, reason = "a part of it is for other tests")]
mod strategies;

use chronolith::{
    Bytes, Db, Error, Keyspace, KeyspaceOptions, MergeStrategy, Options, ReadOutcome, Result, env, merge::append_items,
};
use strategies::{Custom, Strategy};

fn db() -> Db {
    Options::new().env(env::Memory::new()).open("my.db").unwrap()
}

fn with(db: &Db, strategy: MergeStrategy) -> Keyspace {
    let name = format!("{strategy:?}");
    db.keyspace(name, KeyspaceOptions::new().merge(strategy).point_index(true)).unwrap()
}

fn number(value: Option<Bytes>) -> Option<i64> {
    value.map(|value| i64::from_le_bytes(value[..].try_into().unwrap()))
}

fn add(keyspace: &Keyspace, key: &str, amount: i64) {
    keyspace.merge(key, amount.to_le_bytes()).unwrap();
}

/// Order matters to it, and grouping does not.
const JOINED: Custom = Custom(Strategy::Joined(","));

#[test]
fn the_first_value_stays_until_it_is_deleted_also_inside_a_batch() {
    let db = db();
    let firsts = with(&db, MergeStrategy::FirstWins);
    let one = firsts.put("k", "1").unwrap();
    let two = firsts.put("k", "2").unwrap();
    assert!(two.seqno > one.seqno, "a write that changes nothing has a moment of its own");
    firsts.merge("k", "3").unwrap();
    assert_eq!(firsts.get("k").unwrap().unwrap(), "1");
    assert_eq!(db.as_of(two.seqno).unwrap().get(&firsts, "k").unwrap().unwrap(), "1");

    let swapped = firsts.compare_and_swap("k", Some("1"), Some("2"));
    assert!(matches!(swapped, Err(Error::Invalid { what }) if what.contains("delete it first")));
    assert!(firsts.update("k", |_| Some("2")).is_err() && firsts.insert_if_absent("k", "2").unwrap().is_none());

    let mut batch = db.batch();
    batch.put(&firsts, "k", "4");
    batch.delete(&firsts, "k");
    batch.put(&firsts, "k", "5");
    batch.put(&firsts, "k", "6");
    batch.delete_range(&firsts, "m".."n");
    batch.put(&firsts, "m", "7");
    batch.put(&firsts, "m", "8");
    batch.commit().unwrap();
    assert_eq!(firsts.get("k").unwrap().unwrap(), "5");
    assert_eq!(firsts.get("m").unwrap().unwrap(), "7");
}

#[test]
fn a_duplicate_refuses_the_whole_batch() {
    let db = db();
    let unique = with(&db, MergeStrategy::ErrorOnDuplicate);
    let plain = db.keyspace("plain", KeyspaceOptions::new()).unwrap();
    unique.put("k", "1").unwrap();
    for flushed in [false, true] {
        if flushed {
            db.compact().unwrap();
        }
        let mut batch = db.batch();
        batch.put(&plain, "a", "1");
        batch.merge(&unique, "k", "2");
        assert!(matches!(batch.commit(), Err(Error::Duplicate { key }) if key == b"k"));
        assert_eq!(plain.get("a").unwrap(), None);
    }
    let mut twice = db.batch();
    twice.put(&unique, "new", "1");
    twice.put(&unique, "new", "2");
    assert!(matches!(twice.commit(), Err(Error::Duplicate { key }) if key == b"new"));
    let mut afresh = db.batch();
    afresh.delete(&unique, "k");
    afresh.put(&unique, "k", "3");
    afresh.commit().unwrap();
    assert_eq!(unique.get("k").unwrap().unwrap(), "3");
}

#[test]
fn of_many_who_write_a_key_first_exactly_one_does() {
    let db = db();
    let firsts = with(&db, MergeStrategy::FirstWins);
    let unique = with(&db, MergeStrategy::ErrorOnDuplicate);
    let winners: usize = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|me: u32| {
                let (firsts, unique) = (&firsts, &unique);
                scope.spawn(move || {
                    (0..50)
                        .filter(|round: &u32| {
                            firsts.put(round.to_le_bytes(), me.to_le_bytes()).unwrap();
                            match unique.put(round.to_le_bytes(), me.to_le_bytes()) {
                                Ok(_) => true,
                                Err(Error::Duplicate { .. }) => false,
                                Err(other) => panic!("{other}"),
                            }
                        })
                        .count()
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).sum()
    });
    assert_eq!(winners, 50);
    assert_eq!(firsts.range(..).count(), 50);
    let before: Vec<_> = firsts.range(..).map(Result::unwrap).collect();
    db.compact().unwrap();
    assert_eq!(firsts.range(..).map(Result::unwrap).collect::<Vec<_>>(), before);
}

#[test]
fn a_sum_adds_up_through_flushes_views_and_reopening() {
    let machine = env::Memory::new();
    let open = || Options::new().env(machine.clone()).open("my.db").unwrap();
    let db = open();
    let hits = with(&db, MergeStrategy::Sum);
    hits.put("k", 100i64.to_le_bytes()).unwrap();
    let mut views = Vec::new();
    for i in 1..=40 {
        add(&hits, "k", i);
        add(&hits, "alone", -i);
        if i % 7 == 0 {
            views.push((db.snapshot(), 100 + i * (i + 1) / 2));
            db.flush().unwrap();
        }
        if i % 20 == 0 {
            db.compact().unwrap();
        }
    }
    for (view, sum) in &views {
        assert_eq!(number(view.get(&hits, "k").unwrap()), Some(*sum));
        let both: Vec<_> = view.range(&hits, ..).rev().map(|item| number(Some(item.unwrap().1)).unwrap()).collect();
        assert_eq!(both, [*sum, 100 - sum]);
    }
    assert_eq!(number(hits.get("k").unwrap()), Some(100 + 820));
    drop(views);
    db.close().unwrap();
    let db = open();
    let hits = with(&db, MergeStrategy::Sum);
    db.compact().unwrap();
    assert_eq!(
        hits.multi_get(["k", "alone"]).unwrap().into_iter().map(number).collect::<Vec<_>>(),
        [Some(920), Some(-820)]
    );
    hits.delete("k").unwrap();
    add(&hits, "k", 5);
    assert_eq!(number(hits.get("k").unwrap()), Some(5));
}

#[test]
fn a_sum_that_does_not_fit_is_an_error_that_loses_nothing() {
    let db = db();
    let sums = with(&db, MergeStrategy::Sum);
    sums.put("k", i64::MAX.to_le_bytes()).unwrap();
    add(&sums, "k", 1);
    for compacted in [false, true] {
        if compacted {
            db.compact().unwrap();
        }
        assert!(sums.get("k").unwrap_err().to_string().contains("\"k\""));
        assert!(sums.range(..).next().unwrap().is_err());
    }
    add(&sums, "k", -1);
    assert_eq!(number(sums.get("k").unwrap()), Some(i64::MAX));

    let mut seen = db.batch();
    seen.put(&sums, "other", i64::MIN.to_le_bytes());
    seen.merge(&sums, "other", (-1i64).to_le_bytes());
    assert!(matches!(seen.commit(), Err(Error::Invalid { .. })));
    let mut back = db.batch();
    back.put(&sums, "other", i64::MIN.to_le_bytes());
    back.merge(&sums, "other", (-1i64).to_le_bytes());
    back.merge(&sums, "other", 2i64.to_le_bytes());
    back.commit().unwrap();
    assert_eq!(number(sums.get("other").unwrap()), Some(i64::MIN + 1));
    assert!(matches!(sums.merge("k", "three"), Err(Error::Invalid { what }) if what.contains("8 bytes")));
}

#[test]
fn an_appended_list_keeps_its_order_and_a_custom_strategy_its_name() {
    let machine = env::Memory::new();
    let db = Options::new().env(machine.clone()).open("my.db").unwrap();
    let lists = with(&db, MergeStrategy::Append);
    let joined = with(&db, MergeStrategy::custom("joined", JOINED));
    let items = |value: Bytes| append_items(&value).map(|item| item.unwrap().to_vec()).collect::<Vec<_>>();
    for i in 0..600u32 {
        lists.merge("k", i.to_le_bytes()).unwrap();
        joined.merge("k", format!("{i}")).unwrap();
        if i % 151 == 0 {
            db.flush().unwrap();
        }
    }
    let expected: Vec<_> = (0..600u32).map(|i| i.to_le_bytes().to_vec()).collect();
    let words = (0..600).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    for compacted in [false, true] {
        if compacted {
            db.compact().unwrap();
        }
        assert_eq!(items(lists.get("k").unwrap().unwrap()), expected);
        assert_eq!(joined.get("k").unwrap().unwrap(), words);
    }
    lists.put("k", "one").unwrap();
    assert_eq!(items(lists.get("k").unwrap().unwrap()), [b"one"]);
    joined.merge("k", "last").unwrap();
    db.close().unwrap();

    let db = Options::new().env(machine).open("my.db").unwrap();
    db.compact().unwrap();
    let name = "custom \"joined\"";
    let refused = |options: KeyspaceOptions| db.keyspace(name, options).unwrap_err().to_string();
    assert!(refused(KeyspaceOptions::new()).contains("none was given"));
    assert!(refused(KeyspaceOptions::new().merge(MergeStrategy::Sum)).contains("Sum was given"));
    assert!(refused(KeyspaceOptions::new().merge(MergeStrategy::custom("other", JOINED))).contains("\"other\""));
    let joined = with(&db, MergeStrategy::custom("joined", JOINED));
    assert_eq!(joined.get("k").unwrap().unwrap(), format!("{words},last"));
}

#[test]
fn a_keyspace_keeps_its_strategy_and_last_wins_takes_a_merge_for_a_put() {
    let db = db();
    let plain = db.keyspace("plain", KeyspaceOptions::new()).unwrap();
    plain.put("k", "1").unwrap();
    plain.merge("k", "2").unwrap();
    assert_eq!(plain.get("k").unwrap().unwrap(), "2");
    let other = db.keyspace("plain", KeyspaceOptions::new().merge(MergeStrategy::Append));
    assert!(matches!(other, Err(Error::Invalid { what }) if what.contains("LastWins") && what.contains("Append")));
    let sums = with(&db, MergeStrategy::Sum);
    add(&sums, "k", 1);
    let again = db.keyspace("Sum", KeyspaceOptions::new()).unwrap();
    add(&again, "k", 1);
    assert_eq!(number(sums.get("k").unwrap()), Some(2));
}

#[test]
fn a_key_of_a_compacted_keyspace_is_read_from_exactly_one_block() {
    let db = db();
    let keys = |i: u32| format!("user/{:06}", i * 2);
    let fill = |name: &str, options: KeyspaceOptions| {
        let keyspace = db.keyspace(name, options).unwrap();
        for i in 0..20_000 {
            keyspace.put(keys(i), [7; 100]).unwrap();
        }
        keyspace
    };
    let users = fill("users", KeyspaceOptions::new());
    let ranges = fill("ranges only", KeyspaceOptions::new().point_index(false));
    db.compact().unwrap();
    let mut missed = 0;
    for i in 0..20_000 {
        let there = users.explain(keys(i)).unwrap();
        assert_eq!((there.blocks(), there.segments(), there.outcome), (1, 1, ReadOutcome::Value), "{there}");
        let absent = users.explain(format!("user/{:06}", i * 2 + 1)).unwrap();
        assert_eq!(absent.outcome, ReadOutcome::Absent);
        missed += absent.blocks();
    }
    assert!((20..200).contains(&missed), "{missed} of 20000 absent keys had the fingerprint of another");
    assert!(ranges.explain(keys(5)).unwrap().to_string().contains("searched by fences"));
    for keyspace in [&users, &ranges] {
        assert!(keyspace.contains(keys(77)).unwrap() && !keyspace.contains("user/000001").unwrap());
    }

    let stats = db.stats();
    let level = |name: &str| stats.levels.iter().find(|level| level.keyspace == name).unwrap();
    assert!((4.0..4.6).contains(&level("users").index_bytes_per_key()), "{}", level("users").index_bytes_per_key());
    assert_eq!((level("users").filter_bytes, level("ranges only").index_bytes), (0, 0));
    assert!(db.verify().unwrap().is_clean());
}

#[test]
fn newer_segments_are_passed_by_their_filters() {
    let db = Options::new().env(env::Memory::new()).l0_threshold(20).open("my.db").unwrap();
    let users = db.keyspace("users", KeyspaceOptions::new()).unwrap();
    let key = |i: u32| format!("user/{:06}", i * 7919 % 100_000);
    for i in 0..10_000 {
        users.put(key(i), "old").unwrap();
        if i % 2000 == 1999 {
            db.flush().unwrap();
        }
    }
    for i in 0..10_000 {
        assert_eq!(users.get(key(i)).unwrap().unwrap(), "old");
    }
    let keys: Vec<String> = (0..300).map(|i| if i % 3 == 0 { format!("absent/{i}") } else { key(i) }).collect();
    let one_by_one: Vec<_> = keys.iter().map(|key| users.get(key).unwrap()).collect();
    assert_eq!(users.multi_get(&keys).unwrap(), one_by_one);
    assert_eq!(db.snapshot().multi_get(&users, &keys).unwrap(), one_by_one);
    let stats = db.stats();
    assert!(stats.filter_rejections > 15_000, "{stats}");
    assert!(stats.filter_false_positive_rate() < 0.02, "{stats}");
    assert!(stats.blocks_per_get() < 1.2, "{stats}");
    let level = &stats.levels[0];
    let filter_per_key = level.filter_bytes * 100 / level.indexed_keys;
    assert!(level.index_bytes_per_key() < 5.5 && filter_per_key <= 125, "{stats}");
    let told = users.explain(key(1)).unwrap().to_string();
    assert!(told.contains("the filter rules it out") || told.contains("another fingerprint"), "{told}");
}

#[test]
fn a_long_chain_of_operands_is_read_in_some_hundreds_whoever_looks_on() {
    let db = db();
    let hits = with(&db, MergeStrategy::Sum);
    let mut views = Vec::new();
    for i in 0..5000 {
        add(&hits, "k", 1);
        if i % 100 == 0 {
            views.push(db.snapshot());
        }
    }
    let folded = |hits: &Keyspace| match hits.explain("k").unwrap().outcome {
        ReadOutcome::Folded(operands) => operands,
        _ => 0,
    };
    assert!(folded(&hits) <= 256, "{}", folded(&hits));
    db.flush().unwrap();
    assert!(folded(&hits) <= 256, "{}", folded(&hits));
    for (view, sum) in views.iter().zip((1..).step_by(100)) {
        assert_eq!(number(view.get(&hits, "k").unwrap()), Some(sum));
    }
    assert_eq!(number(hits.get("k").unwrap()), Some(5000));
}
