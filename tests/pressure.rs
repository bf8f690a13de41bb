//! What holds when something runs out, when nobody calls, and when there are thousands of everything.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use chronolith::{
    Db, Durability, Error, Keyspace, KeyspaceOptions, MergeStrategy, Options, Policy,
    env::{Fault, Loss, Sim},
};

fn sums(db: &Db) -> Keyspace {
    db.keyspace("sums", KeyspaceOptions::new().merge(MergeStrategy::Sum)).unwrap()
}

fn sum(keyspace: &Keyspace) -> i64 {
    keyspace.get("n").unwrap().map_or(0, |sum| i64::from_le_bytes(sum.as_ref().try_into().unwrap()))
}

fn used(sim: &Sim) -> u64 {
    sim.files().iter().map(|path| sim.read_file(path).unwrap().len() as u64).sum()
}

/// A commit with `Sync` had to flush first what an earlier process had left in its log. Where the disk was full, the
/// flush failed behind the append: the commit was told as refused and was there all the same, so that whoever tried
/// again counted twice. Now that flush comes before the append.
#[test]
fn a_synced_commit_that_a_full_disk_refuses_is_not_there() {
    let sim = Sim::new(1);
    let options = Options::new().env(sim.clone()).durability(Durability::Buffered);
    let db = options.open("db").unwrap();
    let keyspace = sums(&db);
    keyspace.merge("n", 1i64.to_le_bytes()).unwrap();
    for i in 0..300 {
        keyspace.merge(format!("other {i}"), 1i64.to_le_bytes()).unwrap();
        db.keyspace("fill", KeyspaceOptions::new()).unwrap().put(format!("{i}"), [7; 1000]).unwrap();
    }
    sim.cut_power_with(Loss::Nothing);
    for room in [0u64, 1000, 10_000, 50_000, 100_000, 200_000] {
        let db = options.open("db").unwrap();
        let keyspace = sums(&db);
        let before = sum(&keyspace);
        sim.set_space(Some(used(&sim) + room));
        let mut batch = db.batch();
        batch.merge(&keyspace, "n", 10i64.to_le_bytes());
        let committed = batch.commit_with(Durability::Sync);
        let expected = match committed {
            Ok(_) => before + 10,
            Err(Error::DiskFull) => before,
            Err(error) => panic!("{room} bytes of room: {error}"),
        };
        assert_eq!(sum(&keyspace), expected, "{room} bytes of room");
        sim.set_space(None);
        drop((keyspace, db));
        assert_eq!(sum(&sums(&options.open("db").unwrap())), expected, "{room} bytes of room, opened again");
        sim.cut_power_with(Loss::Nothing);
    }
}

/// Every call between the beginning of a commit and its return fails once: the answer says whether the commit was
/// applied.
#[test]
fn an_error_of_a_commit_means_that_it_was_not_applied_or_says_that_it_was() {
    for durability in [Durability::Sync, Durability::Interval(Duration::from_millis(1)), Durability::Buffered] {
        for fault in [Fault::Eio, Fault::Enospc, Fault::ShortWrite] {
            for call in 0..40 {
                let sim = Sim::new(5);
                let options = Options::new().env(sim.clone()).memory_budget(4 << 20);
                let db = options.open("db").unwrap();
                let keyspace = sums(&db);
                let value = vec![1; 90_000];
                let fill = db.keyspace("fill", KeyspaceOptions::new()).unwrap();
                // The memtable is about to be full: the next commit but one seals it.
                for i in 0..5 {
                    fill.put(format!("{i}"), &value).unwrap();
                }
                sim.fail_at(sim.calls() + call, fault);
                for step in 0..3 {
                    let before = sum(&keyspace);
                    let mut batch = db.batch();
                    batch.merge(&keyspace, "n", 1i64.to_le_bytes());
                    batch.put(&fill, format!("more {step}"), &value);
                    let committed = batch.commit_with(durability);
                    let applied = match &committed {
                        Ok(_) | Err(Error::NotDurable { .. }) => 1,
                        Err(_) => 0,
                    };
                    let what = format!("{fault:?} at call {call}, {durability:?}, step {step}: {committed:?}");
                    assert_eq!(sum(&keyspace), before + applied, "{what}");
                    if let Ok(receipt) | Err(Error::NotDurable { receipt }) = committed {
                        assert_eq!(receipt.seqno, db.seqno(), "{what}");
                    }
                }
            }
        }
    }
}

/// A close that could not write its seal returned before it had synced, so what the last interval had acknowledged
/// stayed unsynced without bound.
#[test]
fn a_close_that_cannot_end_cleanly_syncs_all_the_same() {
    for call in 0..20 {
        let sim = Sim::new(9);
        let options = Options::new().env(sim.clone());
        let db = options.open("db").unwrap();
        db.keyspace("k", KeyspaceOptions::new()).unwrap().put("n", "1").unwrap();
        let first = sim.calls();
        sim.fail_at(first + call, Fault::EnospcForever);
        let closed = db.close();
        sim.cut_power_with(Loss::Everything);
        sim.clear_faults();
        let db = options.open("db").unwrap();
        let there = db.keyspace("k", KeyspaceOptions::new()).unwrap().contains("n").unwrap();
        // The first call of the close is the sync.
        assert!(there || call == 0 && closed.is_err(), "call {call}: {closed:?}");
    }
}

/// Gives background work its turns while time passes, as threads would have them.
fn idle(sim: &Sim, db: &Db, seconds: u64) {
    for _ in 0..seconds {
        sim.set_time(sim.now() + Duration::from_secs(1));
        let _turn = db.health();
    }
}

fn bytes_of_segments(sim: &Sim) -> u64 {
    let segments = sim.files().into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "seg"));
    segments.map(|path| sim.read_file(&path).unwrap().len() as u64).sum()
}

/// Space of what had expired, been deleted or been dropped waited for the next write, or for ever.
#[test]
fn an_idle_database_gives_back_the_space_of_what_is_dead_within_half_a_minute() {
    type Kill = fn(&Sim, &Db, &Keyspace);
    let kills: [(&str, KeyspaceOptions, Kill); 6] = [
        ("expired", KeyspaceOptions::new().ttl(Duration::from_secs(5)), |sim, db, _| idle(sim, db, 5)),
        ("range-deleted", KeyspaceOptions::new(), |_, db, keyspace| {
            keyspace.delete_range(..).unwrap();
            db.flush().unwrap();
        }),
        ("deleted one by one", KeyspaceOptions::new(), |_, db, keyspace| {
            (0..50).for_each(|i| drop(keyspace.delete(format!("{i:02}"))));
            db.flush().unwrap();
        }),
        ("dropped", KeyspaceOptions::new(), |_, db, _| db.drop_keyspace("k").unwrap()),
        (
            "out of its window",
            KeyspaceOptions::new().policy(Policy::mvcc(1, Duration::from_secs(5))),
            |sim, db, keyspace| {
                (0..50).for_each(|i| drop(keyspace.put(format!("{i:02}"), "1")));
                db.flush().unwrap();
                idle(sim, db, 5);
            },
        ),
        (
            "deleted out of its window",
            KeyspaceOptions::new().policy(Policy::tombstones(Duration::from_secs(5))),
            |sim, db, keyspace| {
                keyspace.delete_range(..).unwrap();
                db.flush().unwrap();
                idle(sim, db, 5);
            },
        ),
    ];
    for (what, options, kill) in kills {
        for compacted in [false, true] {
            let sim = Sim::new(13);
            let db = Options::new().env(sim.clone()).open("db").unwrap();
            let keyspace = db.keyspace("k", options.clone()).unwrap();
            for i in 0..50 {
                keyspace.put(format!("{i:02}"), [7; 2000]).unwrap();
            }
            db.flush().unwrap();
            if compacted {
                db.compact().unwrap();
            }
            assert!(bytes_of_segments(&sim) > 100_000);
            kill(&sim, &db, &keyspace);
            idle(&sim, &db, 30);
            let left = bytes_of_segments(&sim);
            assert!(left < 20_000, "{what}, compacted before: {compacted}: {left} bytes are left");
        }
    }
}

/// An iterator and a view let their files go: the files are removed without a write.
#[test]
fn files_go_when_their_last_reader_goes() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path().join("db")).unwrap();
    let keyspace = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    (0..50).for_each(|i| drop(keyspace.put(format!("{i:02}"), [7; 2000])));
    db.flush().unwrap();
    let mut iterator = keyspace.range(..);
    assert!(iterator.next().is_some());
    (0..50).for_each(|i| drop(keyspace.put(format!("{i:02}"), "1")));
    db.compact().unwrap();
    let garbage = || db.stats().space.garbage;
    assert!(garbage() > 100_000, "the iterator reads it");
    drop(iterator);
    assert!(wait(|| garbage() == 0));
}

/// Waits for something that a background thread does, ten seconds at most.
fn wait(done: impl Fn() -> bool) -> bool {
    let (_keep, ticks) = std::sync::mpsc::channel::<()>();
    (0..1000).any(|_| {
        let _passed = ticks.recv_timeout(Duration::from_millis(10));
        done()
    })
}

/// Views that nobody asked kept the memtables and files of their birth.
#[test]
fn idle_views_keep_versions_and_neither_memtables_nor_files() {
    let dir = tempfile::tempdir().unwrap();
    let db = Options::new().memory_budget(8 << 20).open(dir.path().join("db")).unwrap();
    let keyspace = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    let mut views = Vec::new();
    for round in 0..20 {
        for i in 0..500 {
            keyspace.put(format!("{i:03}"), vec![round; 1000]).unwrap();
        }
        if round == 0 {
            views.push(db.snapshot());
        }
        db.flush().unwrap();
    }
    db.compact().unwrap();
    let space = || db.stats().space;
    assert!(wait(|| space().garbage == 0), "{:?}", space());
    assert!(space().live < 1_500_000, "the newest version, and that of the view: {:?}", space());
    assert_eq!(views[0].get(&keyspace, "000").unwrap().unwrap(), [0; 1000]);
}

/// A pin or view kept every keyspace that was born and dropped after it, although nobody could read it.
#[test]
fn keyspaces_that_come_and_go_under_an_old_pin_leave_nothing() {
    let sim = Sim::new(17);
    let db = Options::new().env(sim.clone()).open("db").unwrap();
    let kept = db.keyspace("kept", KeyspaceOptions::new()).unwrap();
    kept.put("n", [7; 2000]).unwrap();
    let view = db.snapshot();
    db.pin("before").unwrap();
    let mut handle = None;
    for _ in 0..10 {
        let keyspace = db.keyspace("temporary", KeyspaceOptions::new()).unwrap();
        keyspace.put("n", vec![7; 100_000]).unwrap();
        db.flush().unwrap();
        db.drop_keyspace("temporary").unwrap();
        handle = Some(keyspace);
    }
    let compacted = db.compact().unwrap();
    assert!(bytes_of_segments(&sim) < 20_000, "{compacted:?}");
    assert_eq!(view.get(&handle.unwrap(), "n").unwrap(), None, "as of before its birth it is empty, forgotten or not");
    db.drop_keyspace("kept").unwrap();
    assert_eq!(db.compact().unwrap().still_held_by.len(), 2, "the view and the pin hold the one that they read");
    let pinned = db.pinned("before").unwrap();
    assert!(pinned.contains(&pinned.keyspace("kept").unwrap(), "n").unwrap());
}

/// Compacting merged the timeline into one segment, of which no part was ever old enough as a whole.
#[test]
fn the_timeline_is_thinned_however_often_the_database_is_compacted() {
    let sim = Sim::new(19);
    let db = Options::new().env(sim.clone()).open("db").unwrap();
    let keyspace = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    let mut sizes = Vec::new();
    for _ in 0..8 {
        for _ in 0..5_000 {
            keyspace.put("n", "1").unwrap();
        }
        sim.set_time(sim.now() + Duration::from_secs(3600));
        db.compact().unwrap();
        sizes.push(db.stats().space.timeline);
    }
    assert!(sizes[7] < 2 * sizes[1], "{sizes:?}");
    assert!(db.commits(..).count() <= 5_001);
}

/// A seqno that was no commit had the time of the commit before it: what had expired since was shown, and drops were
/// seen at another moment.
#[test]
fn every_seqno_has_its_own_time_also_that_of_a_pin_or_a_keyspace() {
    let sim = Sim::new(23);
    let options = Options::new().env(sim.clone());
    let pass = |seconds| sim.set_time(sim.now() + Duration::from_secs(seconds));
    let mut db = options.open("db").unwrap();
    let short = db.keyspace("short", KeyspaceOptions::new().ttl(Duration::from_secs(10))).unwrap();
    short.put("n", "ann").unwrap();
    pass(60);
    let pinned_at = sim.now();
    let pin = db.pin("p").unwrap();
    pass(60);
    let born_at = sim.now();
    db.keyspace("born", KeyspaceOptions::new()).unwrap();
    pass(60);
    for _ in 0..3 {
        let short = db.keyspace("short", KeyspaceOptions::new()).unwrap();
        let view = db.as_of(pin).unwrap();
        assert_eq!(view.time(), pinned_at);
        assert_eq!(view.get(&short, "n").unwrap(), None);
        assert_eq!(db.as_of_time(born_at).unwrap().keyspaces(), ["born", "short"]);
        assert_eq!(db.as_of_time(born_at - Duration::from_secs(1)).unwrap().keyspaces(), ["short"]);
        assert_eq!(db.commits(..).count(), 1, "no commit");
        db.flush().unwrap();
        db.close().unwrap();
        db = options.open("db").unwrap();
    }
}

/// What one compaction met stopped those of every keyspace, and the writers of all: a damaged segment of one was
/// enough.
#[test]
fn a_keyspace_that_cannot_be_compacted_holds_up_no_other_and_is_told_until_it_can() {
    let sim = Sim::new(5);
    let db = Options::new().env(sim.clone()).l0_threshold(1).open("db").unwrap();
    let keyspaces = ["damaged", "whole"].map(|name| db.keyspace(name, KeyspaceOptions::new()).unwrap());
    let [damaged, whole] = &keyspaces;
    damaged.put("k", [7; 5000]).unwrap();
    let others: Vec<_> = sim.files();
    db.flush().unwrap();
    let made = sim.files().into_iter().filter(|file| !others.contains(file));
    let segment = made.max_by_key(|file| sim.read_file(file).unwrap().len()).unwrap();
    let good = sim.read_file(&segment).unwrap();
    let mut bad = good.clone();
    bad[3000] ^= 1;
    sim.write_file(&segment, bad);
    let l0_of = |name: &str| {
        let levels = db.stats().levels;
        levels.iter().find(|level| level.keyspace == name && level.level == 0).map_or(0, |level| level.segments)
    };
    for round in 0..40_u8 {
        damaged
            .put("k", [round])
            .map(drop)
            .or_else(|error| if l0_of("damaged") >= 8 { Ok(()) } else { Err(error) })
            .unwrap();
        whole.put("k", [round]).unwrap();
        db.flush().unwrap();
    }
    for _ in 0..50 {
        let _told = db.health();
    }
    assert!(l0_of("whole") <= 1, "{}", l0_of("whole"));
    let trouble = db.health().unwrap_err().to_string();
    assert!(trouble.contains("corrupt"), "{trouble}");
    assert_eq!(damaged.put("k", "more").unwrap_err().to_string(), trouble, "those who wait for it are told");
    // Where there is nothing to do, nothing is mended.
    damaged.compact_range("x"..).unwrap();
    whole.compact().unwrap();
    assert_eq!(db.stats().trouble.unwrap(), trouble);
    sim.write_file(&segment, good);
    for _ in 0..50 {
        let _told = db.health();
    }
    db.health().unwrap();
    damaged.put("k", "more").unwrap();
    assert!(l0_of("damaged") <= 1, "{}", l0_of("damaged"));
}

/// A view took its time before it was registered: what expired between, and was dropped, it told as absent of a time
/// at which it was alive.
#[test]
fn a_view_tells_what_was_alive_at_its_time_whatever_expires_while_it_is_opened() {
    let ttl = Duration::from_secs(10);
    for compacts in [false, true] {
        let sim = Sim::new(6);
        let db = Options::new().env(sim.clone()).open("db").unwrap();
        let keyspace = db.keyspace("k", KeyspaceOptions::new().ttl(ttl)).unwrap();
        let put = keyspace.put("n", "1").unwrap();
        let (machine, other) = (sim.clone(), db.clone());
        let mut passed = false;
        sim.on_point(move |point| {
            if point == "view: moment, then registered" && !std::mem::replace(&mut passed, true) {
                machine.set_time(machine.now() + 6 * ttl);
                if compacts {
                    other.compact().unwrap();
                }
            }
        });
        let view = db.snapshot();
        sim.ignore_points();
        let lives = put.time + ttl > view.time();
        assert_eq!(view.get(&keyspace, "n").unwrap().is_some(), lives, "{:?} after {:?}", view.time(), put.time);
        assert!(!lives, "the clock was read once it was registered");
    }
}
