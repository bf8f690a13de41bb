//! Open files, maps and room that run out, on a simulated machine: nothing is lost, nothing is left behind, and
//! everything goes on afterwards.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, path::Path};

use chronolith::{
    Db, Durability, Error, Keyspace, KeyspaceOptions, Options, Policy, Result,
    env::{Env, Fault, Sim},
};

/// Files that are open whatever happens: the directory, a log, the manifest, and what a job writes.
const OWN: usize = 12;

fn options(sim: &Sim) -> Options {
    Options::new().env(sim.clone()).durability(Durability::Buffered).memory_budget(4 << 20).l0_threshold(2)
}

fn keyspace(db: &Db, number: u32) -> Result<Keyspace> {
    let policy =
        if number.is_multiple_of(3) { Policy::mvcc(3, std::time::Duration::ZERO) } else { Policy::last_writer_wins() };
    db.keyspace(format!("k{number}"), KeyspaceOptions::new().policy(policy).point_index(true))
}

/// Writes to 60 keyspaces and reads all of them in every way; gives what went through.
fn work(db: &Db, copy: &Path, written: &mut BTreeMap<(u32, u32), u32>) -> Result<()> {
    for round in 0..4 {
        for number in 0..60 {
            let keyspace = keyspace(db, number)?;
            for key in 0..3 {
                keyspace.put(key.to_string(), round.to_string())?;
                written.insert((number, key), round);
            }
        }
        db.flush()?;
        read(db, written)?;
    }
    db.compact()?;
    read(db, written)?;
    let report = db.verify()?;
    assert!(report.is_clean(), "{report}");
    assert!(db.stats().space.live > 0);
    db.checkpoint(copy)?;
    db.drop_keyspace("k7")?;
    written.retain(|(number, _), _| *number != 7);
    db.snapshot().checkpoint(copy.with_extension("view"))
}

/// That everything that was written is there.
fn read(db: &Db, written: &BTreeMap<(u32, u32), u32>) -> Result<()> {
    for ((number, key), round) in written {
        let keyspace = keyspace(db, *number)?;
        assert_eq!(keyspace.get(key.to_string())?.unwrap(), round.to_string().as_str());
        for item in keyspace.range(..).rev() {
            item?;
        }
    }
    Ok(())
}

#[test]
fn a_database_of_many_segments_lives_with_few_open_files() {
    for (mmap, limit) in [(true, 40), (false, 40), (true, OWN), (false, OWN)] {
        let sim = Sim::new(1);
        // The smallest limit of the database is above the last limits of the machine.
        sim.set_open_files(Some(limit));
        let mut written = BTreeMap::new();
        let db = options(&sim).mmap(mmap).max_open_files(32).open("db").unwrap();
        work(&db, Path::new("copy"), &mut written).unwrap();
        db.close().unwrap();
        assert_eq!(sim.open_files(), 0, "closed is closed");
        for path in ["db", "copy"] {
            let db = options(&sim).mmap(mmap).open(path).unwrap();
            read(&db, &written).unwrap();
        }
    }
}

#[test]
fn no_more_files_are_open_than_the_option_says() {
    for mmap in [true, false] {
        let sim = Sim::new(2);
        let db = options(&sim).mmap(mmap).max_open_files(32).open("db").unwrap();
        sim.set_open_files(Some(32));
        let mut written = BTreeMap::new();
        // Were it ever more, this would close files, and it could not be told; so it is looked at after each step.
        for round in 0..30 {
            for number in 0..60 {
                keyspace(&db, number).unwrap().put("0", round.to_string()).unwrap();
                written.insert((number, 0), round);
            }
            db.flush().unwrap();
            sim.set_open_files(None);
            read(&db, &written).unwrap();
            assert!(sim.open_files() <= 32, "{} are open", sim.open_files());
            let open = sim.open_files();
            assert!(db.verify().unwrap().is_clean());
            assert!(sim.open_files() <= open, "a check leaves {} open, before it were {open}", sim.open_files());
        }
    }
}

#[test]
fn a_moment_without_open_files_fails_calls_and_stops_nothing() {
    let mut refusals = 0;
    for limit in 1..OWN {
        let sim = Sim::new(limit as u64);
        let mut written = BTreeMap::new();
        let db = options(&sim).open("db").unwrap();
        for number in 0..10 {
            keyspace(&db, number).unwrap();
        }
        sim.set_open_files(Some(limit));
        if let Err(error) = work(&db, Path::new("copy"), &mut written) {
            refusals += 1;
            let told = error.to_string();
            assert!(matches!(error, Error::Io { .. }) && told.contains("max_open_files"), "limit {limit}: {told}");
            assert!(db.verify().is_ok_and(|report| report.is_clean()) || db.verify().is_err());
        }
        sim.set_open_files(None);
        // A failed put may or may not be there: it is written again.
        for ((number, key), round) in &written {
            keyspace(&db, *number).unwrap().put(key.to_string(), round.to_string()).unwrap();
        }
        db.flush().unwrap();
        db.health().unwrap();
        work(&db, Path::new("second"), &mut written).unwrap();
        db.close().unwrap();
        read(&options(&sim).open("db").unwrap(), &written).unwrap();
    }
    assert!(refusals > 3, "only {refusals} of the limits were too small");
}

#[test]
fn a_sync_of_names_that_could_not_begin_poisons_nothing() {
    let sim = Sim::new(1);
    let db = options(&sim).open("db").unwrap();
    let keyspace = keyspace(&db, 1).unwrap();
    let mut refused = 0;
    // Twice at each call of a flush: the first time, files are closed, and it is tried again.
    for ahead in 0..12 {
        keyspace.put("a", ahead.to_string()).unwrap();
        sim.fail_at(sim.calls() + ahead, Fault::Emfile);
        sim.fail_at(sim.calls() + ahead + 1, Fault::Emfile);
        let flushed = db.flush();
        sim.clear_faults();
        if let Err(error) = flushed {
            refused += 1;
            if matches!(db.health(), Err(Error::Poisoned { .. })) {
                // Only what appends to the log or manifest or syncs them may.
                assert!(error.to_string().contains("MANIFEST") || error.to_string().contains("append"), "{error}");
                return;
            }
            db.flush().unwrap();
        }
    }
    assert!(refused > 0);
}

#[test]
fn a_segment_whose_map_is_refused_is_read_by_position() {
    let sim = Sim::new(1);
    let mut written = BTreeMap::new();
    let db = options(&sim).open("db").unwrap();
    sim.refuse_maps(true);
    work(&db, Path::new("copy"), &mut written).unwrap();
    sim.refuse_maps(false);
    // Some by position, those that are opened from now on through maps.
    for (number, key) in [(1, 1), (2, 2)] {
        keyspace(&db, number).unwrap().put(key.to_string(), "9").unwrap();
        written.insert((number, key), 9);
    }
    db.flush().unwrap();
    read(&db, &written).unwrap();
    let stats = db.stats();
    assert!(stats.levels.iter().any(|level| level.index_bytes > 0), "the index of a mapped segment is used");
    assert!(db.verify().unwrap().is_clean());
}

#[test]
fn what_says_nothing_about_the_bytes_is_no_finding() {
    let sim = Sim::new(1);
    let db = options(&sim).open("db").unwrap();
    let mut written = BTreeMap::new();
    work(&db, Path::new("copy"), &mut written).unwrap();
    for (call, fault) in [(0, Fault::Emfile), (9, Fault::Eio), (40, Fault::Eio)] {
        sim.fail_read_with(sim.reads() + call, fault);
        // The first refusal of an open file is not the last word.
        sim.fail_read_with(sim.reads() + call + 1, fault);
        assert!(matches!(db.verify(), Err(Error::Io { .. })), "{fault:?} at reading call {call}");
        sim.clear_faults();
    }
    let segment = sim.files().into_iter().find(|path| path.starts_with("db/segments")).unwrap();
    let bytes = sim.read_file(&segment).unwrap();
    sim.remove_file(&segment);
    let report = db.verify().unwrap();
    assert_eq!(report.findings.len(), 1, "{report}");
    assert!(report.findings[0].what.contains("missing"), "{report}");
    sim.write_file(&segment, bytes);
    assert!(db.verify().unwrap().is_clean());
}

#[test]
fn a_thousand_refused_edits_on_a_full_disk_leave_nothing() {
    let sim = Sim::new(1);
    let db = options(&sim).open("db").unwrap();
    keyspace(&db, 1).unwrap().put("a", "b").unwrap();
    db.flush().unwrap();
    let used = || sim.files().iter().map(|path| sim.read_file(path).unwrap().len() as u64).sum::<u64>();
    // From no room at all to room for some of what an edit writes.
    for spare in [0, 1, 30, 40, 60, 100, 200, 300, 400, 600] {
        let before = sim.files().len();
        sim.set_space(Some(used() + spare));
        let mut refused = 0;
        for round in 0..100 {
            refused += u32::from(db.keyspace(format!("new {spare} {round}"), KeyspaceOptions::new()).is_err());
            refused += u32::from(keyspace(&db, 1).and_then(|k| k.put("a", vec![7; 1000])).is_err());
        }
        let after = sim.files();
        assert!(refused > 0, "with {spare} bytes to spare nothing was refused");
        assert!(after.len() <= before + 1, "{refused} refusals with {spare} bytes to spare left {after:?}");
        sim.set_space(None);
        keyspace(&db, 1).unwrap().put("a", "c").unwrap();
        db.flush().unwrap();
    }
    db.close().unwrap();
}

#[test]
fn opening_again_and_again_on_a_full_disk_leaves_nothing() {
    let mut refused = 0;
    for spare in [0, 10, 31, 50, 100, 200, 300, 400, 500, 700] {
        let sim = Sim::new(1);
        let db = options(&sim).open("db").unwrap();
        keyspace(&db, 1).unwrap().put("a", "b").unwrap();
        drop(db);
        let used = sim.files().iter().map(|path| sim.read_file(path).unwrap().len() as u64).sum::<u64>();
        sim.set_space(Some(used + spare));
        let before = sim.files().len();
        // An open that succeeds begins a log, and where there is no room for the flush of the older ones they all stay.
        let opened = (0..50).filter(|_| options(&sim).open("db").is_ok()).count();
        assert!(sim.files().len() <= before + 1 + opened, "with {spare} bytes to spare: {:?}", sim.files());
        refused += 50 - opened;
        sim.set_space(None);
        let db = options(&sim).open("db").unwrap();
        assert_eq!(keyspace(&db, 1).unwrap().get("a").unwrap().unwrap(), "b");
    }
    assert!(refused > 200, "only {refused} opens were refused");
}

#[test]
fn a_limit_of_open_files_that_is_too_small_is_invalid() {
    let told = options(&Sim::new(1)).max_open_files(31).open("db").unwrap_err();
    assert!(
        matches!(&told, Error::Invalid { what } if what.contains("max_open_files is at least 32, not 31")),
        "{told}"
    );
    options(&Sim::new(1)).max_open_files(usize::MAX).open("db").unwrap();
}

#[test]
fn a_copy_that_fails_leaves_an_empty_directory_and_can_be_made_again() {
    let sim = Sim::new(1);
    let db = options(&sim).open("db").unwrap();
    let mut written = BTreeMap::new();
    for number in 0..5 {
        keyspace(&db, number).unwrap().put("0", "7").unwrap();
        written.insert((number, 0), 7);
    }
    db.flush().unwrap();
    let view = db.snapshot();
    let made = || sim.files().into_iter().filter(|file| file.starts_with("copy")).collect::<Vec<_>>();
    let clear = || {
        for file in made() {
            sim.remove_file(&file);
        }
        let dir = sim.open_dir(Path::new("copy"), false).unwrap();
        for sub in ["wal", "segments"] {
            dir.remove_dir(sub).unwrap();
        }
    };
    for of_view in [false, true] {
        let mut failures = 0;
        for call in 0.. {
            let first = sim.calls();
            sim.fail_at(first + call, Fault::Eio);
            let copied = if of_view { view.checkpoint("copy") } else { db.checkpoint("copy") };
            let reached = sim.calls() > first + call;
            sim.clear_faults();
            if copied.is_ok() {
                // Not every call that fails makes the copy fail: where links do not reach, bytes are copied.
                read(&options(&sim).open("copy").unwrap(), &written).unwrap();
                clear();
                if !reached {
                    break;
                }
            } else {
                // What failed is tried again in the same directory.
                assert_eq!(made(), Vec::<std::path::PathBuf>::new(), "call {call} of a copy failed");
                failures += 1;
            }
        }
        assert!(failures > 15, "only {failures} calls failed");
    }
}

#[test]
fn an_open_that_fails_leaves_no_log_behind() {
    let mut refused = 0;
    for call in 0..40 {
        let sim = Sim::new(1);
        let db = options(&sim).open("db").unwrap();
        keyspace(&db, 1).unwrap().put("a", "b").unwrap();
        db.close().unwrap();
        let logs = || sim.files().iter().filter(|file| file.starts_with("db/wal")).count();
        let before = logs();
        for _ in 0..5 {
            sim.fail_at(sim.calls() + call, Fault::Eio);
            let opened = options(&sim).open("db");
            sim.clear_faults();
            if let Ok(db) = opened {
                let _closed = db.close();
                break;
            }
            refused += 1;
            assert_eq!(logs(), before, "call {call} of an open fails");
        }
        let db = options(&sim).open("db").unwrap();
        assert_eq!(keyspace(&db, 1).unwrap().get("a").unwrap().unwrap(), "b");
    }
    assert!(refused > 30, "only {refused} opens failed");
}
