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
