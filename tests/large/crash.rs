//! What a crash leaves of large values.

use super::*;

/// L4 and L3: what was only in an unnamed pack survives a crash of the process, is copied once, and a power cut leaves
/// a prefix.
#[test]
fn large_values_survive_the_death_of_the_process_and_a_power_cut_as_small_ones_do() {
    for synced in [false, true] {
        let machine = Sim::new(3);
        let durability = if synced { Durability::Sync } else { Durability::Buffered };
        let open = || Options::new().env(machine.clone()).durability(durability).open("/db").unwrap();
        for round in 0..4u64 {
            let db = open();
            let k = db.keyspace("k", KeyspaceOptions::new().compression(Compression::None)).unwrap();
            for before in 0..round {
                for at in 0..5 {
                    let value = k.get(format!("{before}/{at}")).unwrap();
                    assert!(value.unwrap() == noise(before * 10 + at, 100_000), "{before}/{at} in round {round}");
                }
            }
            for at in 0..5 {
                k.put(format!("{round}/{at}"), noise(round * 10 + at, 100_000)).unwrap();
            }
            if synced {
                machine.cut_power();
                assert!(k.put("x", "y").is_err());
            } else {
                machine.cut_power_with(Loss::Nothing);
            }
        }
        let db = open();
        assert!(db.verify().unwrap().is_clean());
        db.compact().unwrap();
        assert_eq!(db.keyspace("k", KeyspaceOptions::new()).unwrap().range(..).keys().count(), 20);
    }
}

/// L1: what a log says to be on the disk has its chunks there. The system may write a log back and not the packs: at
/// every point of a sync such an image has each value whole, or not at all.
#[test]
fn a_log_that_reaches_the_disk_before_the_packs_never_shows_a_value_without_its_chunks() {
    for point in ["sync: positions, then files", "sync: logs, then packs", "sync: files, then marks"] {
        let machine = Sim::new(1);
        let db = open(&machine);
        let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        k.put("before", noise(1, 100_000)).unwrap();
        let (other, at_point) = (k.clone(), machine.clone());
        let image = Arc::new(Mutex::new(None));
        let taken = Arc::clone(&image);
        once_at(&machine, point, move || {
            other.put("beside", noise(2, 100_000)).unwrap();
            other.put("small", "behind").unwrap();
            *taken.lock().unwrap() = Some(at_point.fork());
        });
        db.persist().unwrap();
        machine.ignore_points();
        k.put("after", "a record with the mark of the sync").unwrap();
        let at_point = image.lock().unwrap().take().unwrap();
        for (when, whole) in [("at the point", at_point), ("behind the sync", machine.fork())] {
            let image = whole.fork();
            image.cut_power_with(Loss::Everything);
            // Whatever was not synced is lost, but for the logs.
            for log in whole.files().into_iter().filter(|file| file.extension().is_some_and(|ending| ending == "wal")) {
                image.write_file(&log, whole.read_file(&log).unwrap());
            }
            let db = open(&image);
            let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
            for (key, seed) in [("before", 1), ("beside", 2)] {
                if let Some(value) = k.get(key).unwrap_or_else(|error| panic!("{key} {when} {point}: {error}")) {
                    assert!(value == noise(seed, 100_000), "{key} {when} {point}");
                } else {
                    assert!(when == "at the point" || key == "beside", "{key} was synced");
                }
            }
            assert!(db.verify().unwrap().is_clean());
        }
    }
}

/// L3: a pack without a name is a leftover unless a batch tells of it. One that was collected, and whose file a reader
/// had kept, is not copied by the recovery; nor are copies that nothing came to name.
#[test]
fn what_was_collected_before_a_crash_is_gone_behind_it() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new().compression(Compression::None)).unwrap();
    for seed in 0..10 {
        k.put(format!("{seed}"), noise(seed, 2_000_000)).unwrap();
        db.flush().unwrap();
    }
    let reader = k.reader("0").unwrap().unwrap();
    for seed in 0..10 {
        k.delete(format!("{seed}")).unwrap();
    }
    db.compact().unwrap();
    assert_eq!(db.stats().space.chunks, 0);
    k.put("large", noise(20, 100_000)).unwrap();
    db.persist().unwrap();
    machine.cut_power_with(Loss::Nothing);
    drop((reader, k, db));
    assert!(bytes_of(&machine, &packs(&machine)) > 20_000_000, "the reader kept them");
    machine.set_space(Some(bytes_of(&machine, &machine.files()) + 1_000_000));
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    assert_eq!(packs(&machine).len(), 1, "that of the value that was not flushed");
    k.put("other", noise(21, 100_000)).unwrap();
    db.flush().unwrap();
    for (key, seed) in [("large", 20), ("other", 21)] {
        assert!(k.get(key).unwrap().unwrap() == noise(seed, 100_000), "{key}");
    }
    let held = db.stats().space.chunks;
    assert!(held < 210_000, "{held} bytes");
}

/// A writer that outlives its database writes nothing into the directory, which may be another one's by then.
#[test]
fn a_writer_that_outlives_its_database_writes_nothing_into_that_of_the_next() {
    for begun in [false, true] {
        let machine = Sim::new(1);
        let db = open(&machine);
        let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        let mut writer = k.writer("old").unwrap();
        writer.write_all(&noise(1, if begun { 5 << 20 } else { 1 << 20 })).unwrap();
        drop(k);
        db.close().unwrap();
        let next = open(&machine);
        let files = || machine.files().into_iter().map(|file| (machine.read_file(&file), file)).collect::<Vec<_>>();
        let before = files();
        let staged = writer.stage();
        let same = files() == before;
        let k = next.keyspace("k", KeyspaceOptions::new()).unwrap();
        let put = k.put("new", noise(3, 300_000)).and_then(|_| next.flush());
        assert!(put.is_ok(), "begun {begun}: the next database is told {put:?}");
        assert!(same, "begun {begun}: files have changed");
        assert!(matches!(staged, Err(Error::Closed)), "begun {begun}");
    }
}

/// L3: a stream stores chunks in one epoch and ends in the next. If the pack of one of the two does not reach the disk,
/// the value is not there, although its log is.
#[test]
fn a_value_whose_chunks_were_stored_in_two_epochs_is_there_with_both_packs_or_not_at_all() {
    let mut tried = 0;
    for seed in 0..8 {
        let machine = Sim::new(seed);
        let db = open(&machine);
        let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        let mut writer = k.writer("a").unwrap();
        writer.write_all(&noise(1, 9 << 20)).unwrap();
        let (at_point, image) = (machine.clone(), Arc::new(Mutex::new(None)));
        let taken = Arc::clone(&image);
        once_at(&machine, "flush: sealed, then flushed", move || {
            writer.finish().unwrap();
            *taken.lock().unwrap() = Some(at_point.fork());
        });
        db.flush().unwrap();
        machine.ignore_points();
        let whole = image.lock().unwrap().take().unwrap();
        let of = |folder: &str| -> Vec<_> {
            whole.files().into_iter().filter(|file| file.to_string_lossy().contains(folder)).collect()
        };
        let (logs, packs) = (of("/wal/"), of("/packs/"));
        if logs.len() < 2 {
            // The turn of background work behind the commit has flushed the first epoch.
            continue;
        }
        tried += 1;
        assert_eq!(packs.len(), 2, "one of each epoch");
        for (survives, whether) in [(vec![], false), (vec![0], false), (vec![1], false), (vec![0, 1], true)] {
            let image = whole.fork();
            image.cut_power_with(Loss::Everything);
            for file in logs.iter().chain(survives.iter().map(|at: &usize| &packs[*at])) {
                image.write_file(file, whole.read_file(file).unwrap());
            }
            let db = open(&image);
            let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
            let value = k.get("a").unwrap();
            assert_eq!(value.is_some(), whether, "packs {survives:?}");
            assert!(value.is_none_or(|value| value == noise(1, 9 << 20)) && db.verify().unwrap().is_clean());
        }
    }
    assert!(tried > 0);
}

/// L1: a log that a clean close gave an exact end has its chunks on the disk.
#[test]
fn a_clean_close_leaves_large_values_on_the_disk() {
    for flushed in [false, true] {
        let machine = Sim::new(1);
        let db = open(&machine);
        let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        k.put("a", noise(1, 100_000)).unwrap();
        if flushed {
            db.flush().unwrap();
            k.put("b", noise(2, 100_000)).unwrap();
        }
        drop(k);
        db.close().unwrap();
        machine.cut_power_with(Loss::Everything);
        let db = open(&machine);
        let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        assert!(k.get("a").unwrap().unwrap() == noise(1, 100_000));
        assert!(!flushed || k.get("b").unwrap().unwrap() == noise(2, 100_000));
    }
}

/// L1: also the sync before an edit of the manifest says of no log that it is on the disk before its packs are.
#[test]
fn an_edit_of_the_manifest_raises_no_mark_of_a_log_above_what_its_packs_hold() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    k.put("a", noise(1, 100_000)).unwrap();
    db.keyspace("another", KeyspaceOptions::new()).unwrap();
    k.put("after", "a record with the mark of the sync").unwrap();
    let image = machine.fork();
    image.cut_power_with(Loss::Everything);
    for log in machine.files().into_iter().filter(|file| file.extension().is_some_and(|ending| ending == "wal")) {
        image.write_file(&log, machine.read_file(&log).unwrap());
    }
    let db = open(&image);
    let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    assert!(k.get("a").unwrap().unwrap() == noise(1, 100_000));
    assert!(k.contains("after").unwrap() && db.verify().unwrap().is_clean());
}

/// A database that is open for reading after a crash reads large values, and changes no byte.
#[test]
fn a_reader_behind_a_crash_reads_large_values_and_changes_no_file() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    k.put("flushed", noise(1, 100_000)).unwrap();
    db.flush().unwrap();
    k.put("in the log", noise(2, 100_000)).unwrap();
    db.persist().unwrap();
    machine.cut_power_with(Loss::Nothing);
    drop((k, db));
    let files = || machine.files().into_iter().map(|file| (machine.read_file(&file), file)).collect::<Vec<_>>();
    let before = files();
    let db = Options::new().env(machine.clone()).read_only(true).open("/db").unwrap();
    let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    assert!(k.get("flushed").unwrap().unwrap() == noise(1, 100_000));
    assert!(k.get("in the log").unwrap().unwrap() == noise(2, 100_000));
    assert!(db.verify().unwrap().is_clean());
    drop(k);
    db.close().unwrap();
    assert!(files() == before);
}

/// L3: below the mark of a log, and where a later log was synced, a chunk that is damaged is damage of its value: no
/// commit behind it is lost, and the database opens.
#[test]
fn a_damaged_chunk_in_a_log_that_a_synced_one_follows_costs_its_value_alone() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new().compression(Compression::None)).unwrap();
    k.put("large", noise(1, 100_000)).unwrap();
    k.put("small", "value").unwrap();
    let (other, image, at_point) = ((db.clone(), k.clone()), Arc::new(Mutex::new(None)), machine.clone());
    let taken = Arc::clone(&image);
    once_at(&machine, "flush: sealed, then flushed", move || {
        let (db, k) = other;
        k.put("later", "value").unwrap();
        db.persist().unwrap();
        k.put("last", "a record with the mark of the sync").unwrap();
        *taken.lock().unwrap() = Some(at_point.fork());
    });
    db.flush().unwrap();
    let image = image.lock().unwrap().take().unwrap();
    damage_packs(&image);
    let db = open(&image);
    let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    assert!(matches!(k.get("large"), Err(Error::CorruptChunk { .. })));
    for key in ["small", "later", "last"] {
        assert!(k.contains(key).unwrap(), "{key}");
    }
}

/// L11: whoever waits for a chunk that another fails to store is told, and stores it itself or fails too.
#[test]
fn two_writers_of_one_value_on_a_full_disk_leave_no_value_without_its_chunks() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new().compression(Compression::None)).unwrap();
    for round in 0..20u64 {
        let value = noise(round, 2 << 20);
        machine.set_space(Some(bytes_of(&machine, &machine.files()) + 500_000 + round * 100_000));
        let put = |key: &str| match k.put(key, &value) {
            Ok(_) => true,
            Err(error) => {
                assert!(matches!(error, Error::DiskFull), "{error}");
                false
            }
        };
        let (one, two) = std::thread::scope(|scope| {
            let two = scope.spawn(|| put("two"));
            (put("one"), two.join().unwrap())
        });
        machine.set_space(None);
        for (key, is_there) in [("one", one), ("two", two)] {
            assert!(!is_there || k.get(key).unwrap().unwrap() == value, "{key} in round {round}");
        }
        assert!(db.verify().unwrap().is_clean(), "round {round}");
        assert!(put("one") && k.get("one").unwrap().unwrap() == value);
    }
}
