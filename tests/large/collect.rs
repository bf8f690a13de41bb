//! Chunks that nothing needs go, and no others.

use super::*;

/// L8 and L9: what nothing refers to any more goes, from packs that hold other chunks too; what anything does refer to
/// stays.
#[test]
fn compact_lets_go_of_chunks_that_nothing_needs_and_of_no_others() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new().compression(Compression::None)).unwrap();
    let versions = db.keyspace("v", KeyspaceOptions::new().policy(Policy::mvcc(2, Duration::ZERO))).unwrap();
    let chunks = |db: &Db| db.stats().space.chunks;
    let value = |seed: u64| noise(seed, 300_000);
    let holds = |machine: &Sim, seed: u64| {
        let mark = &value(seed)[150_000..150_100];
        machine.files().iter().any(|file| {
            let bytes = machine.read_file(file).unwrap_or_default();
            bytes.windows(mark.len()).any(|part| part == mark)
        })
    };
    for seed in 0..6 {
        k.put(format!("{seed}"), value(seed)).unwrap();
    }
    k.copy("5", &k, "copy of 5").unwrap();
    for seed in 10..14 {
        versions.put("key", value(seed)).unwrap();
    }
    db.compact().unwrap();
    assert!((0..6).chain([12, 13]).all(|seed| holds(&machine, seed)));
    assert!(!holds(&machine, 10) && !holds(&machine, 11), "versions beyond the policy");
    let view = db.snapshot();
    let mut reader = k.reader("3").unwrap().unwrap();
    k.delete("0").unwrap();
    k.purge("1").unwrap();
    k.put("2", "small").unwrap();
    k.delete("3").unwrap();
    k.delete("5").unwrap();
    db.drop_keyspace("v").unwrap();
    drop(versions);
    db.compact().unwrap();
    // The view and the copy keep theirs.
    assert!(view.get(&k, "0").unwrap().unwrap() == value(0) && view.get(&k, "2").unwrap().unwrap() == value(2));
    assert!(k.get("copy of 5").unwrap().unwrap() == value(5));
    let before = chunks(&db);
    // A reader keeps its value, in files that no version names any more.
    drop(view);
    db.compact().unwrap();
    let mut read = Vec::new();
    std::io::Read::read_to_end(&mut reader, &mut read).unwrap();
    assert!(read == value(3) && holds(&machine, 3));
    drop(reader);
    db.compact().unwrap();
    for (seed, kept) in [(0, false), (1, false), (2, false), (3, false), (4, true), (5, true), (12, false), (13, false)]
    {
        assert_eq!(holds(&machine, seed), kept, "{seed}");
    }
    let after = chunks(&db);
    assert!(after < before && after < 700_000, "{after} of {before} bytes");
    assert!(db.verify().unwrap().is_clean());
    drop(k);
    db.close().unwrap();
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    assert!(k.get("copy of 5").unwrap().unwrap() == value(5) && k.get("4").unwrap().unwrap() == value(4));
    // What went is new again.
    k.put("again", value(0)).unwrap();
    assert!(k.get("again").unwrap().unwrap() == value(0));
    assert!(db.verify().unwrap().is_clean());
}

/// A writer that began before a collection keeps what it has found; one that began later stores it anew.
#[test]
fn writers_under_way_keep_the_chunks_that_they_have_found() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    let value = noise(1, 300_000);
    k.put("a", &value).unwrap();
    db.flush().unwrap();
    // Found in three ways, and then deleted under each.
    let mut batch = db.batch();
    batch.put(&k, "b", &value);
    let mut writer = k.writer("c").unwrap();
    std::io::Write::write_all(&mut writer, &value).unwrap();
    let staged = writer.stage().unwrap();
    k.delete("a").unwrap();
    db.compact().unwrap();
    let mut late = k.writer("d").unwrap();
    std::io::Write::write_all(&mut late, &value).unwrap();
    late.finish().unwrap();
    k.delete("d").unwrap();
    db.compact().unwrap();
    batch.adopt(&k, "c", staged);
    batch.commit().unwrap();
    for key in ["b", "c"] {
        assert!(k.get(key).unwrap().unwrap() == value, "{key}");
    }
    db.compact().unwrap();
    assert!(k.get("b").unwrap().unwrap() == value && db.verify().unwrap().is_clean());
    assert!(db.stats().space.chunks < 320_000, "{:?}", db.stats().space);
}

/// L8: a chunk that a writer has just stored anew, in a pack that is on no disk, is not yet the one that older recipes
/// live by.
#[test]
fn a_collection_beside_a_writer_that_stores_a_chunk_anew_costs_no_durable_value() {
    for staged in [false, true] {
        let machine = Sim::new(1);
        let db = open(&machine);
        let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        let value = noise(1, 300_000);
        k.put("a", &value).unwrap();
        k.put("junk", noise(2, 300_000)).unwrap();
        db.flush().unwrap();
        k.delete("junk").unwrap();
        let (other, same, kept) = (k.clone(), value.clone(), Arc::new(Mutex::new(None)));
        let keeps = Arc::clone(&kept);
        once_at(&machine, "collect: condemned, then marked again", move || {
            if staged {
                let mut writer = other.writer("b").unwrap();
                std::io::Write::write_all(&mut writer, &same).unwrap();
                *keeps.lock().unwrap() = Some(writer.stage().unwrap());
            } else {
                other.put("b", &same).unwrap();
            }
        });
        db.compact().unwrap();
        machine.ignore_points();
        // Also while the new copy is in memory alone.
        assert!(k.get("a").unwrap().unwrap() == value);
        assert!(db.verify().unwrap().is_clean());
        machine.cut_power_with(if staged { Loss::Nothing } else { Loss::Everything });
        drop((k, kept, db));
        let db = open(&machine);
        let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        assert!(k.get("a").unwrap().unwrap() == value);
        assert!(db.verify().unwrap().is_clean());
    }
}

/// A live value can be adopted also while a writer keeps a collection from its end.
#[test]
fn a_live_value_is_adopted_whatever_is_condemned() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    for key in ["a", "junk"] {
        k.put(key, noise(key.len() as u64, 5 << 20)).unwrap();
    }
    db.flush().unwrap();
    k.delete("junk").unwrap();
    let recipe = k.recipe("a").unwrap().unwrap();
    assert!(recipe.height() > 0, "a tree");
    let other = k.clone();
    once_at(&machine, "collect: condemned, then marked again", move || {
        other.adopt("b", &recipe).unwrap();
        other.copy("a", &other, "c").unwrap().unwrap();
    });
    db.compact().unwrap();
    machine.ignore_points();
    for key in ["a", "b", "c"] {
        assert!(k.get(key).unwrap().unwrap() == noise(1, 5 << 20), "{key}");
    }
    k.delete("a").unwrap();
    k.delete("b").unwrap();
    db.compact().unwrap();
    assert!(k.get("c").unwrap().unwrap() == noise(1, 5 << 20) && db.verify().unwrap().is_clean());
    k.delete("c").unwrap();
    let gone = k.recipe("c").unwrap();
    assert!(gone.is_none() && db.compact().is_ok());
    assert_eq!(db.stats().space.chunks, 0);
}

/// L9: an adoption that began before packs were condemned is waited for, so that nothing it needs goes.
#[test]
fn a_live_value_is_adopted_while_collections_begin_and_end() {
    let db = Options::new().env(Memory::new()).open("/db").unwrap();
    let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    k.put("a", noise(1, 8 << 20)).unwrap();
    k.put("junk", noise(2, 300_000)).unwrap();
    db.flush().unwrap();
    let recipe = k.recipe("a").unwrap().unwrap();
    let rounds = 30;
    std::thread::scope(|scope| {
        let collecting = scope.spawn(|| {
            for round in 0..rounds {
                // Garbage beside what is needed, in the newest pack.
                k.put("junk", noise(3 + round, 300_000)).unwrap();
                k.copy("a", &k, "a").unwrap().unwrap();
                db.flush().unwrap();
                k.delete("junk").unwrap();
                db.compact().unwrap();
            }
        });
        while !collecting.is_finished() {
            k.adopt("b", &recipe).unwrap();
        }
    });
    assert!(k.get("b").unwrap().unwrap() == noise(1, 8 << 20));
}

/// One that ended would take packs back that the other has condemned, and writers would refer to what is about to go.
#[test]
fn a_collection_waits_for_the_one_that_is_under_way() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    k.put("a", noise(1, 300_000)).unwrap();
    db.flush().unwrap();
    k.delete("a").unwrap();
    let (other, begun) = (db.clone(), Arc::new(Mutex::new(None)));
    let second = Arc::clone(&begun);
    once_at(&machine, "collect: condemned, then marked again", move || {
        let (ended, ends) = std::sync::mpsc::channel();
        let collects = std::thread::spawn(move || {
            other.compact().unwrap();
            let _told = ended.send(());
        });
        assert!(ends.recv_timeout(Duration::from_millis(200)).is_err(), "a second collection beside the first");
        *second.lock().unwrap() = Some(collects);
    });
    db.compact().unwrap();
    let second = begun.lock().unwrap().take();
    second.unwrap().join().unwrap();
    assert_eq!(db.stats().space.chunks, 0);
}

/// Packs of which nothing is needed go first: their room serves for copies of what is needed of others.
#[test]
fn a_full_disk_is_emptied_by_deleting() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new().compression(Compression::None)).unwrap();
    k.put("kept", noise(100, 3_000_000)).unwrap();
    for seed in 0..10 {
        k.put(format!("{seed}"), noise(seed, 2_000_000)).unwrap();
        db.flush().unwrap();
    }
    // Room for less than is needed of the oldest pack.
    machine.set_space(Some(bytes_of(&machine, &machine.files()) + 2_000_000));
    for seed in 0..10 {
        k.delete(format!("{seed}")).unwrap();
    }
    db.compact().unwrap();
    let left = bytes_of(&machine, &packs(&machine));
    assert!(left < 3_200_000, "{left} bytes of packs");
    assert!(k.get("kept").unwrap().unwrap() == noise(100, 3_000_000));
    assert!(db.verify().unwrap().is_clean());
}

/// A collection that fails leaves nothing condemned: what stays is found again by writers.
#[test]
fn a_collection_without_room_fails_costs_nothing_and_can_be_repeated() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new().compression(Compression::None)).unwrap();
    k.put("kept", noise(1, 3_000_000)).unwrap();
    k.put("gone", noise(2, 100_000)).unwrap();
    db.flush().unwrap();
    k.delete("gone").unwrap();
    db.flush().unwrap();
    let full = bytes_of(&machine, &machine.files()) + 1_000_000;
    machine.set_space(Some(full));
    assert!(matches!(db.compact(), Err(Error::DiskFull)));
    k.put("again", noise(1, 3_000_000)).unwrap();
    let used = bytes_of(&machine, &machine.files());
    assert!(used < full, "{used} of {full} bytes: the same value takes no room");
    for key in ["kept", "again"] {
        assert!(k.get(key).unwrap().unwrap() == noise(1, 3_000_000), "{key}");
    }
    machine.set_space(None);
    db.compact().unwrap();
    let left = bytes_of(&machine, &packs(&machine));
    assert!(left < 3_100_000, "{left} bytes of packs");
    assert!(db.verify().unwrap().is_clean());
}

/// Places of packs that are gone go with them, whether chunks come back or not.
#[test]
fn places_of_packs_that_are_gone_take_no_space() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let options = KeyspaceOptions::new().compression(Compression::None).chunking(Chunking::fixed(512));
    let k = db.keyspace("k", options).unwrap();
    k.put("kept", noise(1, 100_000)).unwrap();
    let mut most = 0;
    for round in 0..5 {
        // The first value comes back each time.
        for seed in [100, 200 + round] {
            k.put(format!("{seed}"), noise(seed, 1 << 20)).unwrap();
        }
        db.flush().unwrap();
        most = most.max(db.stats().space.places);
        k.delete_range(.."kept").unwrap();
        db.compact().unwrap();
        let left = db.stats().space.places;
        assert!(left < 40_000, "{left} bytes of places for 200 chunks, of {most} at most");
    }
    assert!(most > 200_000, "{most}");
    assert!(k.get("kept").unwrap().unwrap() == noise(1, 100_000) && db.verify().unwrap().is_clean());
}

#[test]
fn a_compaction_counts_packs_in_its_report_and_its_progress_and_can_be_cancelled_there() {
    use std::ops::ControlFlow;
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new().compression(Compression::None)).unwrap();
    for seed in 0..4 {
        k.put(format!("{seed}"), noise(seed, 1_000_000)).unwrap();
        db.flush().unwrap();
    }
    for seed in 0..3 {
        k.delete(format!("{seed}")).unwrap();
    }
    let cancelled = db.compact_with(|progress| {
        let packs_are_left = progress.done * 10 > progress.total && progress.total > 4_000_000;
        if packs_are_left { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(cancelled, Err(Error::Cancelled)), "{cancelled:?}");
    k.put("again", noise(3, 1_000_000)).unwrap();
    let report = db.compact().unwrap();
    let freed = report.bytes_before.saturating_sub(report.bytes_after);
    assert!(report.bytes_before < 4_100_000 && report.bytes_after < 1_100_000, "{report}, {freed} freed");
    assert!(k.get("again").unwrap().unwrap() == noise(3, 1_000_000) && db.verify().unwrap().is_clean());
}

/// L6: a place goes with its chunk: an id says what a value was to whoever can guess it.
#[test]
fn the_places_of_chunks_that_went_go_too() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let options = KeyspaceOptions::new().compression(Compression::None).chunking(Chunking::fixed(512));
    let k = db.keyspace("k", options).unwrap();
    k.put("a", noise(1, 512 * 2000)).unwrap();
    k.put("secret", noise(2, 100_000)).unwrap();
    let id = k.recipe("secret").unwrap().unwrap().references().next().unwrap().0.unwrap();
    db.flush().unwrap();
    k.purge("a").unwrap();
    k.purge("secret").unwrap();
    for _ in 0..3 {
        db.compact().unwrap();
    }
    assert_eq!(db.stats().space.chunks, 0);
    let files = machine.files();
    let holds = |file: &PathBuf| machine.read_file(file).unwrap().windows(32).any(|part| part == id.as_bytes());
    let (places, holding): (u64, Vec<_>) = (db.stats().space.places, files.iter().filter(|file| holds(file)).collect());
    assert!(holding.is_empty() && places < 5000, "{places} bytes of places, the id in {holding:?}");
}

/// L9: whatever is written while its chunks are about to go is found by the second mark, or stored anew.
#[test]
fn what_is_written_at_any_moment_of_a_collection_keeps_its_chunks() {
    let points = [
        "collect: marked, then condemned",
        "collect: condemned, then marked again",
        "collect: writers, then files",
        "collect under the right to flush: written, then installed",
    ];
    for (at, point) in (0..5).flat_map(|at| points.map(|point| (at, point))) {
        let machine = Sim::new(1);
        let undrawn = Options::new().env(doubt::Broken::new(&machine)).durability(Durability::Buffered);
        let db = undrawn.open("/db").unwrap();
        let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        k.put("a", noise(1, 300_000)).unwrap();
        k.put("junk", noise(2, 300_000)).unwrap();
        db.flush().unwrap();
        let recipe = k.recipe("a").unwrap().unwrap();
        k.delete("junk").unwrap();
        let view = db.snapshot();
        k.delete("a").unwrap();
        if at < 3 {
            drop(view);
        }
        // Begun before, or at the point.
        let mut early = k.writer("b").unwrap();
        early.write_all(&noise(1, 10_000)).unwrap();
        let other = (db.clone(), k.clone());
        once_at(&machine, point, move || {
            let (db, k) = other;
            match at {
                0 => {
                    k.put("b", noise(1, 300_000)).unwrap();
                }
                1 => {
                    let mut writer = k.writer("b").unwrap();
                    writer.write_all(&noise(1, 300_000)).unwrap();
                    writer.finish().unwrap();
                }
                2 => {
                    early.write_all(&noise(1, 300_000)[10_000..]).unwrap();
                    early.finish().unwrap();
                }
                3 => {
                    k.adopt("b", &recipe).unwrap();
                }
                _ => {
                    let mut batch = db.batch();
                    batch.put(&k, "b", noise(1, 300_000));
                    batch.commit().unwrap();
                }
            }
        });
        db.compact().unwrap();
        machine.ignore_points();
        assert!(k.contains("b").unwrap(), "{at}, {point}");
        for _ in 0..2 {
            assert!(k.get("b").unwrap().unwrap() == noise(1, 300_000), "{at}, {point}");
            db.compact().unwrap();
        }
        drop(k);
        db.close().unwrap();
        let db = open(&machine);
        let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        assert!(k.get("b").unwrap().unwrap() == noise(1, 300_000), "{at}, {point}");
        assert!(db.verify().unwrap().is_clean(), "{at}, {point}");
    }
}

/// L8: a keyspace that was dropped keeps its chunks as long as a pin keeps its values.
#[test]
fn the_chunks_of_a_dropped_keyspace_stay_with_the_pin_that_reads_it_and_go_with_it() {
    let machine = Sim::new(1);
    let mut db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    k.put("a", noise(1, 300_000)).unwrap();
    db.pin("before").unwrap();
    db.drop_keyspace("k").unwrap();
    drop(k);
    for _ in 0..2 {
        db.compact().unwrap();
        let then = db.pinned("before").unwrap();
        let k = then.keyspace("k").unwrap();
        assert!(then.get(&k, "a").unwrap().unwrap() == noise(1, 300_000));
        assert!(db.verify().unwrap().is_clean());
        drop((then, k));
        db.close().unwrap();
        db = open(&machine);
    }
    db.unpin("before").unwrap();
    db.compact().unwrap();
    assert_eq!(db.stats().space.chunks, 0);
}

/// L8: a recipe that is in a memtable alone keeps chunks in packs that are older.
#[test]
fn a_value_that_was_written_again_just_before_a_mark_keeps_its_chunks() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    for (key, seed) in [("a", 1), ("junk", 2)] {
        k.put(key, noise(seed, 300_000)).unwrap();
    }
    db.flush().unwrap();
    k.delete("a").unwrap();
    k.delete("junk").unwrap();
    let other = k.clone();
    once_at(&machine, "compact: installed, then reclaimed", move || {
        other.put("b", noise(1, 300_000)).unwrap();
    });
    db.compact().unwrap();
    machine.ignore_points();
    assert!(k.get("b").unwrap().unwrap() == noise(1, 300_000));
    db.compact().unwrap();
    assert!(k.get("b").unwrap().unwrap() == noise(1, 300_000) && db.verify().unwrap().is_clean());
}

/// L8: `compact` leaves no chunk that nothing needs, however small its part of its pack.
#[test]
fn a_chunk_that_was_purged_leaves_a_pack_of_many_others() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let options = KeyspaceOptions::new().compression(Compression::None).chunking(Chunking::fixed(4096));
    let k = db.keyspace("k", options.chunk_threshold(4096)).unwrap();
    k.put("kept", noise(1, 4096 * 200)).unwrap();
    let secret = noise(2, 4096);
    k.put("secret", &secret).unwrap();
    db.flush().unwrap();
    let holds = |mark: &[u8]| {
        let files = machine.files();
        files.iter().any(|file| machine.read_file(file).unwrap().windows(mark.len()).any(|part| part == mark))
    };
    assert!(holds(&secret[100..200]));
    k.purge("secret").unwrap();
    db.compact().unwrap();
    assert!(!holds(&secret[100..200]), "the chunk");
    assert!(k.get("kept").unwrap().unwrap() == noise(1, 4096 * 200));
}

/// L12: what a tree repeats is followed once by a mark, however often it is referred to.
#[test]
fn a_mark_follows_a_node_once_however_often_a_value_repeats_it() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new().chunking(Chunking::fixed(512))).unwrap();
    k.put("a", noise(1, 512).repeat(256 * 200)).unwrap();
    assert!(k.recipe("a").unwrap().unwrap().height() == 1);
    db.flush().unwrap();
    let read = |db: &Db| db.stats().chunks.cache_hits + db.stats().chunks.cache_misses;
    let before = read(&db);
    db.compact().unwrap();
    assert!(read(&db) - before < 20, "{} nodes", read(&db) - before);
}

/// L6: nobody reads places of the past, whatever views are open.
#[test]
fn places_that_were_superseded_go_whatever_views_are_open() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let options = KeyspaceOptions::new().compression(Compression::None).chunking(Chunking::fixed(512));
    let k = db.keyspace("k", options).unwrap();
    k.put("kept", noise(1, 512 * 2000)).unwrap();
    db.compact().unwrap();
    let (before, mut views) = (db.stats().space.places, Vec::new());
    for round in 0..6 {
        k.put("kept too", noise(10 + round, 40_000)).unwrap();
        db.flush().unwrap();
        k.put("kept", [noise(1, 512 * 2000), noise(50 + round, 512)].concat()).unwrap();
        k.delete("kept too").unwrap();
        views.push(db.snapshot());
        db.compact().unwrap();
    }
    db.compact().unwrap();
    let after = db.stats().space.places;
    assert!(after < before * 3 / 2, "{after} of {before} bytes");
}

/// Room for what is needed of one pack serves for many, one after the other.
#[test]
fn a_full_disk_with_room_for_one_pack_at_a_time_is_emptied() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new().compression(Compression::None)).unwrap();
    for seed in 0..10 {
        k.put(format!("kept {seed}"), noise(100 + seed, 1_000_000)).unwrap();
        k.put(format!("gone {seed}"), noise(seed, 1_000_000)).unwrap();
        db.flush().unwrap();
    }
    for seed in 0..10 {
        k.delete(format!("gone {seed}")).unwrap();
    }
    db.flush().unwrap();
    machine.set_space(Some(bytes_of(&machine, &machine.files()) + 3_000_000));
    db.compact().unwrap();
    let left = bytes_of(&machine, &packs(&machine));
    assert!(left < 11_000_000, "{left} bytes of packs");
    assert!(db.verify().unwrap().is_clean());
}

/// Packs get shorter as the disk fills: of one long pack that holds everything, half of it needed, nothing could be let
/// go of with 4 MiB left.
#[test]
fn a_disk_that_was_filled_to_the_end_is_emptied_by_deleting_with_4_mib_left() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new().compression(Compression::None)).unwrap();
    machine.set_space(Some(bytes_of(&machine, &machine.files()) + 48_000_000));
    let mut count = 0;
    let full = loop {
        let key = if count % 2 == 0 { "kept" } else { "gone" };
        match k.put(format!("{key} {count}"), noise(count, 500_000)) {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, Error::DiskFull) && count > 70, "{count}: {full}");
    // What was refused is nobody's, and the rest can be read.
    assert!(k.get("kept 0").unwrap().unwrap() == noise(0, 500_000));
    let used = bytes_of(&machine, &machine.files());
    machine.set_space(Some(used + (4 << 20)));
    k.delete_range("gone".."gonf").unwrap();
    db.compact().unwrap();
    let left = bytes_of(&machine, &packs(&machine));
    assert!(left < count / 2 * 500_000 + 3_000_000, "{left} bytes of packs for {count} values");
    for seed in (0..count).step_by(2) {
        assert!(k.get(format!("kept {seed}")).unwrap().unwrap() == noise(seed, 500_000));
    }
    k.put("more", noise(1, 10_000_000)).unwrap();
    assert!(db.verify().unwrap().is_clean());
}

/// A stream meets the end of the disk, is given up, and leaves nothing behind.
#[test]
fn a_stream_that_filled_the_disk_is_given_back_whole_with_4_mib_left() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new().compression(Compression::None)).unwrap();
    k.put("kept", noise(1, 1_000_000)).unwrap();
    db.flush().unwrap();
    machine.set_space(Some(bytes_of(&machine, &machine.files()) + 30_000_000));
    let mut writer = k.writer("stream").unwrap();
    let mut written = 0u64;
    while writer.write_all(&noise(written + 2, 250_000)).is_ok() {
        written += 250_000;
    }
    assert!(written > 20_000_000 && k.writer("other").is_ok(), "{written}");
    writer.abort();
    machine.set_space(Some(bytes_of(&machine, &machine.files()) + (4 << 20)));
    db.compact().unwrap();
    let left = bytes_of(&machine, &packs(&machine));
    assert!(left < 1_100_000, "{left} bytes of packs");
    assert!(k.get("kept").unwrap().unwrap() == noise(1, 1_000_000) && k.get("stream").unwrap().is_none());
    k.put("more", noise(2, 10_000_000)).unwrap();
    assert!(db.verify().unwrap().is_clean());
}

/// After a crash on a full disk, what nothing needs can still be let go.
#[test]
fn a_full_disk_is_emptied_after_a_crash() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new().compression(Compression::None)).unwrap();
    for seed in 0..10 {
        k.put(format!("{seed}"), noise(seed, 2_000_000)).unwrap();
        db.flush().unwrap();
    }
    for seed in 0..10 {
        k.delete(format!("{seed}")).unwrap();
    }
    db.flush().unwrap();
    k.put("unflushed", noise(20, 3_000_000)).unwrap();
    db.persist().unwrap();
    machine.cut_power_with(Loss::Nothing);
    drop((k, db));
    machine.set_space(Some(bytes_of(&machine, &machine.files()) + 2_000_000));
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    k.delete("unflushed").unwrap();
    db.compact().unwrap();
    let left = bytes_of(&machine, &packs(&machine));
    assert!(left < 1_000_000, "{left} bytes of packs");
}

/// A condemned pack of which everything is needed after all stays as it is: copying it gives nothing back, and on a
/// full disk it fails.
#[test]
fn a_pack_that_proves_to_be_needed_whole_is_not_copied() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new().compression(Compression::None)).unwrap();
    let value = noise(1, 3_000_000);
    k.put("a", &value).unwrap();
    db.flush().unwrap();
    // A writer that began before the collection, and commits in the midst of it.
    let mut batch = db.batch();
    batch.put(&k, "b", &value);
    k.delete("a").unwrap();
    db.flush().unwrap();
    let before = packs(&machine);
    machine.set_space(Some(bytes_of(&machine, &machine.files()) + 1_000_000));
    let batch = Arc::new(Mutex::new(Some(batch)));
    machine.on_point(move |point| {
        if point == "collect: condemned, then marked again"
            && let Some(batch) = batch.lock().unwrap().take()
        {
            batch.commit().unwrap();
        }
    });
    db.compact().unwrap();
    assert_eq!(packs(&machine), before);
}

/// L9: a stream that goes on for hours keeps what it has met, and nothing else.
#[test]
fn a_long_stream_keeps_the_chunks_that_it_has_met_and_no_others() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new().compression(Compression::None)).unwrap();
    let mut writer = k.writer("stream").unwrap();
    writer.write_all(&noise(1, 5 << 20)).unwrap();
    k.put("junk", noise(2, 5 << 20)).unwrap();
    db.flush().unwrap();
    k.delete("junk").unwrap();
    db.compact().unwrap();
    let held = db.stats().space.chunks;
    assert!(held < 6 << 20, "{held} bytes of chunks beside a stream of 5 MiB");
    writer.finish().unwrap();
    assert!(k.get("stream").unwrap().unwrap() == noise(1, 5 << 20));
}

/// L9: what a stream has met stays until its value is there, whatever goes meanwhile, also beneath nodes.
#[test]
fn a_stream_finds_everything_that_it_has_met_however_often_chunks_are_collected() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let options = KeyspaceOptions::new().compression(Compression::None).chunking(Chunking::fixed(512));
    let k = db.keyspace("k", options).unwrap();
    // Twice as many chunks as a writer holds by themselves.
    let value = noise(1, 512 * 9000);
    let mut writer = k.writer("stream").unwrap();
    for (round, part) in value.chunks(1 << 20).enumerate() {
        // Each part is there already, and goes from under the stream.
        k.put("part", part).unwrap();
        db.flush().unwrap();
        writer.write_all(part).unwrap();
        k.put("part", noise(100 + round as u64, 10_000)).unwrap();
        db.compact().unwrap();
    }
    let staged = writer.stage().unwrap();
    db.compact().unwrap();
    let mut batch = db.batch();
    batch.adopt(&k, "stream", staged);
    db.compact().unwrap();
    batch.commit().unwrap();
    db.compact().unwrap();
    assert!(k.get("stream").unwrap().unwrap() == value && db.verify().unwrap().is_clean());
    assert_eq!(db.stats().chunks.writers, 0);
    k.delete("stream").unwrap();
    k.delete("part").unwrap();
    db.compact().unwrap();
    assert_eq!(db.stats().space.chunks, 0);
}

/// L9: what was stored for a commit stays until that commit, also if its pack gets a name and is looked through before.
#[test]
fn what_is_about_to_be_committed_is_not_collected() {
    for at in 0..4 {
        let machine = Sim::new(1);
        let undrawn = Options::new().env(doubt::Broken::new(&machine)).durability(Durability::Buffered);
        let db = undrawn.open("/db").unwrap();
        let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        k.put("old", noise(1, 300_000)).unwrap();
        k.put("small", "value").unwrap();
        let other = db.clone();
        once_at(&machine, "commit: checked, then locked", move || drop(other.compact().unwrap()));
        match at {
            0 => {
                k.put("b", noise(2, 300_000)).unwrap();
            }
            1 => {
                k.update("b", |_| Some(noise(2, 300_000))).unwrap();
            }
            2 => {
                let mut batch = db.batch();
                batch.put(&k, "b", noise(2, 300_000));
                batch.put(&k, "c", noise(3, 300_000));
                batch.commit().unwrap();
            }
            _ => {
                let mut writer = k.writer("b").unwrap();
                writer.write_all(&noise(2, 300_000)).unwrap();
                writer.finish().unwrap();
            }
        }
        machine.ignore_points();
        assert!(k.get("b").unwrap().unwrap() == noise(2, 300_000), "{at}");
        assert!(db.verify().unwrap().is_clean(), "{at}");
    }
}
