//! What a user of the crate relies on, verb by verb.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, SystemTime};

use chronolith::{
    Db, Durability, Error, Keyspace, KeyspaceOptions, MergeStrategy, Options, Policy, Range,
    env::{self, Fault, Sim},
};

fn db() -> (Db, Keyspace) {
    let db = Options::new().env(env::Memory::new()).open("my.db").unwrap();
    let users = db.keyspace("users", KeyspaceOptions::new()).unwrap();
    (db, users)
}

fn texts(range: Range) -> Vec<String> {
    range.map(|item| item.map(|(k, v)| format!("{}={}", k.escape_ascii(), v.escape_ascii())).unwrap()).collect()
}

#[test]
fn what_was_put_is_got_and_what_was_deleted_is_gone() {
    let (db, users) = db();
    let first = users.put("ann", "25").unwrap();
    users.put("bob", "30").unwrap();
    assert_eq!(users.get("ann").unwrap().unwrap(), b"25");
    assert!(users.contains("bob").unwrap());
    users.delete("bob").unwrap();
    assert_eq!(users.get("bob").unwrap(), None);
    assert_eq!(db.as_of(first.seqno).unwrap().get(&users, "ann").unwrap().unwrap(), b"25");
    assert_eq!(users.get("").unwrap(), None);
    users.put("", "the empty key").unwrap();
    assert_eq!(users.first().unwrap().unwrap().1, b"the empty key");
}

#[test]
fn ranges_run_from_both_ends_and_meet() {
    let (db, users) = db();
    for key in ["a", "b", "c", "d", "e"] {
        users.put(key, "1").unwrap();
    }
    for flushed in [false, true] {
        if flushed {
            db.flush().unwrap();
        }
        assert_eq!(texts(users.range("b".."d")), ["b=1", "c=1"]);
        assert_eq!(texts(users.range("b"..="d")), ["b=1", "c=1", "d=1"]);
        assert_eq!(users.range(..).rev().map(|item| item.unwrap().0.to_vec()).collect::<Vec<_>>().concat(), b"edcba");
        let mut range = users.range(..);
        let mut seen = Vec::new();
        while let Some(front) = range.next() {
            seen.push(front.unwrap().0);
            if let Some(back) = range.next_back() {
                seen.push(back.unwrap().0);
            }
        }
        assert!(range.next_back().is_none());
        assert_eq!(seen.iter().flat_map(|key| key.to_vec()).collect::<Vec<_>>(), b"aebdc");
        assert!(texts(users.range("d".."b")).is_empty());
        assert_eq!(users.range(..).keys().rev().count(), 5);
        assert_eq!(users.last().unwrap().unwrap().0, b"e");
        let mut cursor = users.cursor("c"..);
        let mut keys = Vec::new();
        while let Some((key, _)) = cursor.next_ref().unwrap() {
            keys.extend_from_slice(key);
        }
        assert_eq!(keys, b"cde");
    }
}

#[test]
fn a_prefix_holds_its_keys_and_no_other() {
    let (_db, users) = db();
    for key in [b"u/1".as_slice(), b"u/2", b"u0", b"u", b"\xff\xff1", b"\xff"] {
        users.put(key, "").unwrap();
    }
    assert_eq!(texts(users.prefix("u/")), ["u/1=", "u/2="]);
    assert_eq!(users.prefix(b"\xff").count(), 2);
    assert_eq!(users.prefix("").count(), 6);
}

#[test]
fn a_range_is_deleted_at_once_and_an_inverted_one_not_at_all() {
    let (db, users) = db();
    for key in ["a", "b", "c", "d"] {
        users.put(key, "1").unwrap();
    }
    users.delete_range("d".."a").unwrap();
    assert_eq!(users.range(..).count(), 4);
    users.delete_range("b".."d").unwrap();
    users.put("c", "2").unwrap();
    for step in 0..3 {
        assert_eq!(texts(users.range(..)), ["a=1", "c=2", "d=1"], "step {step}");
        assert_eq!(users.range(..).rev().count(), 3);
        if step == 0 { db.flush().unwrap() } else { db.compact().map(drop).unwrap() }
    }
    users.delete_range(..).unwrap();
    assert_eq!(users.range(..).count(), 0);
}

#[test]
fn a_batch_is_whole_across_keyspaces_and_its_last_word_counts() {
    let (db, users) = db();
    let hits = db.keyspace("hits", KeyspaceOptions::new()).unwrap();
    users.put("b", "old").unwrap();
    let mut batch = db.batch();
    batch.put(&users, "a", "1");
    batch.put(&users, "a", "2");
    batch.delete(&users, "b");
    batch.put(&hits, "page", "1");
    batch.put(&hits, "gone", "1");
    batch.delete_range(&hits, ..);
    batch.put(&hits, "page", "2");
    let receipt = batch.commit_with(Durability::Sync).unwrap();
    for _ in 0..2 {
        let then = db.as_of(receipt.seqno).unwrap();
        assert_eq!(then.get(&users, "a").unwrap().unwrap(), b"2");
        assert_eq!(then.get(&users, "b").unwrap(), None);
        assert_eq!(texts(then.range(&hits, ..)), ["page=2"]);
        db.compact().unwrap();
    }
    assert!(db.batch().commit().is_ok(), "an empty batch is a batch");
}

#[test]
fn a_view_keeps_what_it_sees_through_flush_and_compaction() {
    let (db, users) = db();
    users.put("k", "one").unwrap();
    let one = db.snapshot();
    users.put("k", "two").unwrap();
    let two = db.snapshot();
    users.delete("k").unwrap();
    let gone = db.snapshot();
    for _ in 0..2 {
        assert_eq!(one.get(&users, "k").unwrap().unwrap(), b"one");
        assert_eq!(two.get(&users, "k").unwrap().unwrap(), b"two");
        assert_eq!(gone.get(&users, "k").unwrap(), None);
        assert_eq!(two.range(&users, ..).rev().count(), 1);
        let compacted = db.compact().unwrap();
        assert_eq!(compacted.still_held_by, [one.seqno(), two.seqno()]);
    }
    drop((one, two));
    assert!(db.compact().unwrap().still_held_by.is_empty());
}

#[test]
fn the_future_and_the_time_before_everything() {
    let (db, users) = db();
    let receipt = users.put("k", "1").unwrap();
    let next = u64::from(receipt.seqno) + 1;
    assert!(matches!(db.as_of(next), Err(Error::InTheFuture)));
    let before = db.as_of(0).unwrap();
    users.delete("k").unwrap();
    db.compact().unwrap();
    assert_eq!(before.get(&users, "k").unwrap(), None);
    assert_eq!(before.range(&users, ..).count(), 0);
    assert_eq!(db.as_of(0).unwrap().get(&users, "k").unwrap(), None);
}

#[test]
fn last_writer_wins_answers_the_past_exactly_or_says_that_it_is_gone() {
    let (db, users) = db();
    let first = users.put("k", "1").unwrap().seqno;
    let second = users.put("k", "2").unwrap().seqno;
    db.flush().unwrap();
    let trimmed = db.as_of(first).unwrap().get(&users, "k").unwrap_err();
    assert!(matches!(trimmed, Error::HistoryTrimmed { oldest } if oldest == second), "{trimmed}");
    assert!(db.as_of(first).unwrap().range(&users, ..).next().unwrap().is_err());
    assert_eq!(db.as_of(second).unwrap().get(&users, "k").unwrap().unwrap(), b"2");
}

#[test]
fn keyspaces_are_listed_dropped_and_born_anew() {
    let (db, users) = db();
    let old = db.keyspace("old", KeyspaceOptions::new().policy(Policy::last_writer_wins())).unwrap();
    old.put("k", "1").unwrap();
    users.put("k", "users").unwrap();
    let before = db.snapshot();
    assert_eq!(db.keyspaces(), ["old", "users"]);
    db.drop_keyspace("old").unwrap();
    assert_eq!(db.keyspaces(), ["users"]);
    assert!(matches!(old.put("k", "2"), Err(Error::Invalid { .. })));
    let new = db.keyspace("old", KeyspaceOptions::new()).unwrap();
    assert_eq!(new.get("k").unwrap(), None);
    for _ in 0..2 {
        assert_eq!(before.get(&old, "k").unwrap().unwrap(), b"1");
        assert_eq!(before.get(&new, "k").unwrap(), None);
        assert!(db.snapshot().get(&old, "k").is_err());
        db.compact().unwrap();
    }
    drop(before);
    db.compact().unwrap();
    assert!(old.get("k").is_err() || old.get("k").unwrap().is_none());
    assert!(matches!(db.drop_keyspace("old?"), Err(Error::Invalid { .. })));
    assert!(matches!(db.keyspace("", KeyspaceOptions::new()), Err(Error::Invalid { .. })));
}

#[test]
fn compare_and_swap_update_and_insert_lose_nothing_to_a_race() {
    let (_db, users) = db();
    assert!(users.insert_if_absent("n", "0").unwrap().is_some());
    assert!(users.insert_if_absent("n", "9").unwrap().is_none());
    assert!(users.compare_and_swap("n", Some("1"), Some("2")).unwrap().is_none());
    assert!(users.compare_and_swap("n", Some("0"), Some("0")).unwrap().is_some());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let next = |old: Option<&[u8]>| {
                        let old: u64 = std::str::from_utf8(old.unwrap()).unwrap().parse().unwrap();
                        Some((old + 1).to_string())
                    };
                    while users.update("n", next).is_err() {}
                }
            });
        }
    });
    assert_eq!(users.get("n").unwrap().unwrap(), b"200");
    assert!(users.compare_and_swap("n", Some("200"), None::<&str>).unwrap().is_some());
    assert!(!users.contains("n").unwrap());
}

#[test]
fn after_close_every_handle_says_so_and_bytes_stay() {
    let memory = env::Memory::new();
    let db = Options::new().env(memory.clone()).open("my.db").unwrap();
    let users = db.keyspace("users", KeyspaceOptions::new()).unwrap();
    users.put("k", vec![7; 5000]).unwrap();
    db.flush().unwrap();
    let value = users.get("k").unwrap().unwrap();
    let view = db.snapshot();
    let mut range = users.range(..);
    db.clone().close().unwrap();
    let other = Options::new().env(memory).open("my.db").unwrap();
    assert!(matches!(users.get("k"), Err(Error::Closed)));
    assert!(matches!(users.put("k", "1"), Err(Error::Closed)));
    assert!(matches!(view.get(&users, "k"), Err(Error::Closed)));
    assert!(matches!(range.next(), Some(Err(Error::Closed))));
    assert!(matches!(db.persist(), Err(Error::Closed)));
    assert_eq!(value, vec![7; 5000]);
    drop(other);
}

#[test]
fn a_second_opener_is_told_and_a_reader_changes_nothing() {
    let memory = env::Memory::new();
    let options = Options::new().env(memory.clone());
    let db = options.open("my.db").unwrap();
    let users = db.keyspace("users", KeyspaceOptions::new()).unwrap();
    users.put("k", "1").unwrap();
    let locked = options.open("my.db").unwrap_err();
    assert!(matches!(locked, Error::Locked { pid: Some(pid), .. } if pid == std::process::id()), "{locked}");
    drop((db, users));
    let reader = options.clone().read_only(true).open("my.db").unwrap();
    let another = options.clone().read_only(true).open("my.db").unwrap();
    let users = reader.keyspace("users", KeyspaceOptions::new()).unwrap();
    assert_eq!(users.get("k").unwrap().unwrap(), b"1");
    assert!(matches!(users.put("k", "2"), Err(Error::Invalid { .. })));
    assert!(matches!(reader.keyspace("new", KeyspaceOptions::new()), Err(Error::Invalid { .. })));
    assert!(matches!(options.open("my.db"), Err(Error::Locked { .. })));
    drop((another, reader, users));
    assert!(options.clone().read_only(true).open("other.db").is_err());
    assert!(options.open("my.db").is_ok());
}

#[test]
fn bad_arguments_are_named_and_change_nothing() {
    let (db, users) = db();
    let invalid = |error: Error| matches!(error, Error::Invalid { .. });
    assert!(invalid(users.put(vec![0; 65_537], "").unwrap_err()));
    assert!(users.put(vec![0; 65_536], "").is_ok());
    // A value of any length is one write; what is combined is never cut, and has to fit a batch.
    users.put("k", vec![0; 65 << 20]).unwrap();
    assert_eq!(users.stat("k").unwrap().unwrap().bytes, 65 << 20);
    users.delete("k").unwrap();
    let lists = db.keyspace("lists", KeyspaceOptions::new().merge(MergeStrategy::Append)).unwrap();
    assert!(invalid(lists.merge("k", vec![0; 65 << 20]).unwrap_err()));
    let (other, theirs) = self::db();
    assert!(invalid(other.snapshot().get(&users, "k").unwrap_err()));
    assert!(other.snapshot().range(&users, ..).next().unwrap().is_err_and(invalid));
    let mut batch = db.batch();
    batch.put(&users, "fine", "1");
    batch.put(&theirs, "k", "1");
    assert!(invalid(batch.commit().unwrap_err()));
    assert!(!users.contains("fine").unwrap());
    assert!(invalid(Options::new().memory_budget(1).open("x").unwrap_err()));
    assert!(invalid(Options::new().level_ratio(1).open("x").unwrap_err()));
    assert!(invalid(Options::new().durability(Durability::Interval(Duration::ZERO)).open("x").unwrap_err()));
}

#[test]
fn a_checkpoint_is_a_database_of_its_own() {
    let (db, users) = db();
    let receipt = users.put("k", "1").unwrap();
    db.checkpoint("copy.db").unwrap();
    users.put("k", "2").unwrap();
    assert!(matches!(db.checkpoint("copy.db"), Err(Error::Invalid { .. })));
    assert!(db.verify().unwrap().is_clean());
    let _ = receipt;
}

#[test]
fn stats_speak_to_people_and_programs_and_account_for_every_byte() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path().join("my.db")).unwrap();
    let users = db.keyspace("a \"quoted\" name", KeyspaceOptions::new()).unwrap();
    for i in 0..1000u32 {
        users.put(i.to_be_bytes(), [7; 100]).unwrap();
    }
    db.flush().unwrap();
    let stats = db.stats();
    assert_eq!(stats.levels.iter().map(|level| level.entries).sum::<u64>(), 1000);
    assert!(stats.to_json().contains("\"space\":{\"live\":"));
    assert!(stats.to_prometheus().contains("keyspace=\"a \\\"quoted\\\" name\""));
    assert!(stats.to_string().contains("1000 entries"));
    let space = stats.space;
    let mut on_disk = 0;
    for sub in ["", "wal", "segments"] {
        for entry in std::fs::read_dir(dir.path().join("my.db").join(sub)).unwrap() {
            let metadata = entry.unwrap().metadata().unwrap();
            on_disk += if metadata.is_file() { metadata.len() } else { 0 };
        }
    }
    let causes = [
        space.live,
        space.history,
        space.dropped,
        space.timeline,
        space.chunks,
        space.places,
        space.garbage,
        space.log,
        space.manifest,
    ];
    assert_eq!(causes.iter().sum::<u64>(), on_disk);
    assert_eq!(users.approximate_len(), 1000);
}

#[test]
fn a_close_beside_busy_threads_is_clean() {
    // A compaction that another thread had asked for once committed behind the seal: the database did not open again.
    for round in 0..20 {
        let memory = env::Memory::new();
        let options = Options::new().env(memory.clone()).memory_budget(4 << 20).l0_threshold(1);
        let db = options.open("my.db").unwrap();
        let users = db.keyspace("users", KeyspaceOptions::new()).unwrap();
        let acknowledged = std::thread::scope(|scope| {
            let writer =
                scope.spawn(|| (0..u32::MAX).take_while(|n| users.put(n.to_be_bytes(), [7; 3000]).is_ok()).count());
            for _ in 0..2 {
                scope.spawn(|| while db.compact().is_ok() {});
            }
            scope.spawn(|| while db.flush().is_ok() {});
            std::thread::sleep(Duration::from_millis(5 + round * 3));
            db.clone().close().unwrap();
            writer.join().unwrap()
        });
        let db = options.open("my.db").unwrap();
        let users = db.keyspace("users", KeyspaceOptions::new()).unwrap();
        assert_eq!(users.range(..).count(), acknowledged, "round {round}");
        assert!(db.verify().unwrap().is_clean());
    }
}

#[test]
fn a_keyspace_that_a_full_disk_refuses_stops_nothing_for_good() {
    let machine = Sim::new(3);
    let db = Options::new().env(machine.clone()).durability(Durability::Sync).open("my.db").unwrap();
    let users = db.keyspace("users", KeyspaceOptions::new()).unwrap();
    users.put("k", "1").unwrap();
    machine.set_space(Some(0));
    assert!(matches!(db.keyspace("new", KeyspaceOptions::new()), Err(Error::DiskFull)));
    assert!(matches!(db.drop_keyspace("users"), Err(Error::DiskFull)));
    assert!(matches!(users.put("k", "2"), Err(Error::DiskFull)));
    assert_eq!(users.get("k").unwrap().unwrap(), b"1");
    machine.set_space(None);
    users.put("k", "3").unwrap();
    db.health().unwrap();
    machine.cut_power();
    let db = Options::new().env(machine).open("my.db").unwrap();
    assert_eq!(db.keyspaces(), ["users"]);
    assert_eq!(db.keyspace("users", KeyspaceOptions::new()).unwrap().get("k").unwrap().unwrap(), b"3");
}

#[test]
fn more_versions_than_are_decided_about_at_once_are_all_there() {
    let hour = Duration::from_secs(3600);
    for before in [250, 254, 255, 256, 257, 510, 511, 512] {
        let db = Options::new().env(env::Memory::new()).open("my.db").unwrap();
        let keyspace = db.keyspace("k", KeyspaceOptions::new().policy(Policy::mvcc(1, hour))).unwrap();
        let first = keyspace.put("k", "first").unwrap().seqno;
        let deleted = keyspace.delete_range("a".."z").unwrap().seqno;
        for number in 0..before {
            keyspace.put("k", number.to_string()).unwrap();
        }
        db.compact().unwrap();
        assert_eq!(db.as_of(first).unwrap().get(&keyspace, "k").unwrap().unwrap(), b"first", "{before}");
        assert_eq!(db.as_of(deleted).unwrap().get(&keyspace, "k").unwrap(), None, "{before}");
        assert_eq!(keyspace.history("k").count(), before + 2);
    }
}

#[test]
fn a_copy_of_a_past_moment_is_whole_and_takes_settings_of_its_own() {
    let hour = Duration::from_secs(3600);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy.db");
    let db = Db::open(folder.path().join("source.db")).unwrap();
    let keyspace = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    let then = keyspace.put("a", "1").unwrap().seqno;
    let view = db.snapshot();
    for number in 0..30 {
        keyspace.put("b", number.to_string()).unwrap();
    }
    keyspace.delete("b").unwrap();
    db.compact().unwrap();
    db.keyspace("k", KeyspaceOptions::new().ttl(hour)).unwrap();
    assert_eq!(view.seqno(), then);
    // Opened behind the compaction and the setting: what those left does not concern the copy.
    db.as_of(then).unwrap().checkpoint(folder.path().join("refused.db")).unwrap_err();
    drop(view);
    let moment = keyspace.put("a", "2").unwrap().seqno;
    db.keyspace("k", KeyspaceOptions::new().ttl(3 * hour)).unwrap();
    db.as_of(moment).unwrap().checkpoint(&path).unwrap();
    for round in 0..2 {
        let copy = Db::open(&path).unwrap();
        let copied = copy.keyspace("k", KeyspaceOptions::new().ttl(2 * hour)).unwrap();
        assert_eq!(copied.get("a").unwrap().unwrap(), b"2");
        let newest = copied.put("c", "3").unwrap().seqno;
        let view = copy.as_of(newest).unwrap();
        assert_eq!(view.get(&copied, "never written").unwrap(), None, "{round}");
        assert_eq!(view.range(&copied, ..).count(), 2, "{round}");
        drop((view, copied));
        copy.close().unwrap();
    }
}

#[test]
fn what_expired_about_a_moment_of_which_only_a_sample_is_left_is_refused() {
    let at = |ms: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + ms);
    let sim = Sim::new(1);
    sim.set_time(at(0));
    let db = Options::new().env(sim.clone()).l0_threshold(1000).open("my.db").unwrap();
    let newest = KeyspaceOptions::new().policy(Policy::mvcc(5, Duration::from_secs(1)));
    let sessions = db.keyspace("sessions", newest.ttl(Duration::from_millis(500))).unwrap();
    let others = db.keyspace("others", KeyspaceOptions::new()).unwrap();
    sim.set_time(at(10_000));
    sessions.put("ann", "1").unwrap();
    sim.set_time(at(10_700));
    let moment = others.put("x", "1").unwrap().seqno;
    assert_eq!(db.as_of(moment).unwrap().get(&sessions, "ann").unwrap(), None);
    sim.set_time(at(10_800));
    sessions.put("ann", "2").unwrap();
    for hour in 1..60 {
        sim.set_time(at(hour * 3_600_000));
        others.put("x", "2").unwrap();
        db.flush().unwrap();
    }
    assert!(db.as_of_time(at(10_700)).is_err(), "the times of then are a sample by now");
    let view = db.as_of(moment).unwrap();
    assert!(matches!(view.get(&sessions, "ann"), Err(Error::HistoryTrimmed { .. })));
    assert!(matches!(view.first(&sessions), Err(Error::HistoryTrimmed { .. })));
    assert!(sessions.horizon() > moment);
}

#[test]
fn a_compaction_names_the_iterators_that_still_read_older_files() {
    let (db, users) = db();
    users.put("ann", "25").unwrap();
    users.put("bob", "30").unwrap();
    db.flush().unwrap();
    let purged = users.purge("ann").unwrap().seqno;
    let mut range = users.range(..);
    range.next().unwrap().unwrap();
    assert_eq!(db.compact().unwrap().still_held_by, [purged]);
    drop(range);
    let mut history = users.history("bob");
    history.next().unwrap().unwrap();
    assert_eq!(db.compact().unwrap().still_held_by, [purged]);
    drop(history);
    let view = db.snapshot();
    assert!(db.compact().unwrap().still_held_by.is_empty(), "a view that nobody iterates over goes on to newer files");
    drop(view);
}

#[test]
fn a_write_of_nothing_syncs_nothing_and_counts_as_nothing() {
    let sim = Sim::new(1);
    let db = Options::new().env(sim.clone()).durability(Durability::Buffered).open("my.db").unwrap();
    let users = db.keyspace("users", KeyspaceOptions::new()).unwrap();
    let newest = users.put("ann", "25").unwrap();
    let (calls, commits) = (sim.calls(), db.stats().commits);
    // A sync would fail, and poison the database.
    sim.fail_at(calls, Fault::Eio);
    assert_eq!(db.batch().commit_with(Durability::Sync).unwrap(), newest);
    assert_eq!(users.delete_range("b".."a").unwrap(), newest);
    assert_eq!((sim.calls(), db.stats().commits), (calls, commits));
}

#[test]
fn a_purge_of_one_key_makes_reads_of_the_past_of_another_no_dearer() {
    let db = Options::new().env(env::Memory::new()).open("my.db").unwrap();
    let week = Policy::mvcc(1, Duration::from_secs(7 * 86_400));
    let users = db.keyspace("users", KeyspaceOptions::new().policy(week)).unwrap();
    users.put("bob", "30").unwrap();
    for key in ["ann", "cid", "ann", "cid"] {
        users.put(key, "1").unwrap();
    }
    let at = db.seqno();
    users.put("ann", "2").unwrap();
    users.put("cid", "2").unwrap();
    db.compact().unwrap();
    users.purge("zoe").unwrap();
    db.flush().unwrap();
    // The one version of bob is in the main tree, where a purge of him would be: the history tier is not asked.
    let probes = db.stats().block_probes;
    assert_eq!(db.as_of(at).unwrap().get(&users, "bob").unwrap().unwrap(), b"30");
    assert_eq!(db.stats().block_probes - probes, 1);
    assert_eq!(db.as_of(at).unwrap().get(&users, "ann").unwrap().unwrap(), b"1");
}
