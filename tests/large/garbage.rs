//! Space of chunks that nothing needs comes back without a call.

use super::*;

/// A database whose memtables are small, so that little garbage is worth a collection: two megabytes.
fn open_small(machine: &Sim) -> Db {
    let options = Options::new().env(machine.clone()).memory_budget(4 << 20).durability(Durability::Buffered);
    options.open("/db").unwrap()
}

fn keyspace(db: &Db) -> chronolith::Keyspace {
    db.keyspace("k", KeyspaceOptions::new().compression(Compression::None)).unwrap()
}

/// Lets time pass until background work has nothing more to do.
fn settle(machine: &Sim, db: &Db) {
    for _ in 0..3 {
        machine.set_time(machine.now() + Duration::from_secs(20));
        for _ in 0..200 {
            db.health().unwrap();
        }
    }
}

#[test]
fn space_of_deleted_overwritten_and_abandoned_values_comes_back_by_itself() {
    for way in 0..5 {
        let machine = Sim::new(way);
        let db = open_small(&machine);
        let k = keyspace(&db);
        k.put("kept", noise(100, 1_000_000)).unwrap();
        if way == 4 {
            let mut writer = k.writer("never").unwrap();
            writer.write_all(&noise(1, 10_000_000)).unwrap();
            drop(writer);
        } else {
            for seed in 0..10 {
                k.put(format!("{seed}"), noise(seed, 1_000_000)).unwrap();
            }
        }
        db.flush().unwrap();
        settle(&machine, &db);
        let before = db.stats().space.chunks;
        match way {
            0 => drop((0..10).map(|seed| k.delete(format!("{seed}")).unwrap()).collect::<Vec<_>>()),
            1 => drop((0..10).map(|seed| k.put(format!("{seed}"), "small").unwrap()).collect::<Vec<_>>()),
            2 => drop(k.purge_prefix("").and_then(|_| k.put("kept", noise(100, 1_000_000))).unwrap()),
            3 => drop(k.delete_range(.."kept").unwrap()),
            _ => {}
        }
        db.flush().unwrap();
        settle(&machine, &db);
        let stats = db.stats();
        assert!(way == 4 || before > 10_900_000, "way {way}: {before}");
        assert!(stats.space.chunks < 1_400_000, "way {way}: {stats}");
        assert!(k.get("kept").unwrap().unwrap() == noise(100, 1_000_000) && db.verify().unwrap().is_clean());
    }
}

#[test]
fn space_of_a_dropped_keyspace_and_of_what_a_crash_forgot_comes_back_by_itself() {
    for crashes in [false, true] {
        let machine = Sim::new(1);
        let mut db = open_small(&machine);
        let gone = db.keyspace("gone", KeyspaceOptions::new().compression(Compression::None)).unwrap();
        gone.put("a", noise(1, 500_000)).unwrap();
        keyspace(&db).put("kept", noise(2, 500_000)).unwrap();
        db.flush().unwrap();
        if crashes {
            gone.put("a", "less than what is worth a collection").unwrap();
            db.flush().unwrap();
            settle(&machine, &db);
            assert!(db.stats().space.chunks > 1_000_000 && db.stats().chunks.dropped_bytes == 500_000);
            machine.cut_power_with(Loss::Nothing);
            drop((gone, db));
            db = open_small(&machine);
        } else {
            drop(gone);
            db.drop_keyspace("gone").unwrap();
        }
        settle(&machine, &db);
        let held = db.stats().space.chunks;
        assert!(held < 600_000, "crashes {crashes}: {held} bytes");
        assert!(keyspace(&db).get("kept").unwrap().unwrap() == noise(2, 500_000));
    }
}

/// What a process holds while its garbage is collected by itself.
struct Beside {
    leases: Vec<(chronolith::Lease, Vec<u8>)>,
    staged: chronolith::StagedValue,
    writer: chronolith::ValueWriter,
    view: chronolith::View,
}

/// Leaves garbage in several packs, beside what is needed of them: by keys, a view, a lease, a staged value, a stream.
fn with_garbage(machine: &Sim) -> (Db, Beside) {
    let db = open_small(machine);
    let k = keyspace(&db);
    for pack in 0..4 {
        k.put(format!("kept {pack}"), noise(100 + pack, 100_000)).unwrap();
        k.put(format!("gone {pack}"), noise(pack, 900_000)).unwrap();
        k.put(format!("old {pack}"), noise(200 + pack, 50_000)).unwrap();
        db.flush().unwrap();
    }
    let chunk = noise(0, 900_000).split_off(880_000);
    let leases = [chunk, noise(300, 20_000)].map(|bytes| (k.chunks().put(&bytes).unwrap(), bytes));
    // The same bytes as a value that goes.
    let staged = k.chunks().put_stream(noise(1, 300_000).as_slice(), Chunking::automatic()).unwrap();
    let mut writer = k.writer("stream").unwrap();
    writer.write_all(&noise(2, 900_000)).unwrap();
    k.delete_range("gone".."gonf").unwrap();
    let view = db.snapshot();
    k.delete_range("old".."ole").unwrap();
    db.flush().unwrap();
    db.persist().unwrap();
    (db, Beside { leases: leases.into(), staged, writer, view })
}

/// What is needed is there: after a crash what the keys need, before one also what was held.
fn check_kept(db: &Db) {
    let k = keyspace(db);
    for pack in 0..4 {
        assert!(k.get(format!("kept {pack}")).unwrap().unwrap() == noise(100 + pack, 100_000), "{pack}");
    }
    assert_eq!(k.range("gone".."ole").keys().count(), 4);
    let report = db.verify().unwrap();
    assert!(report.is_clean(), "{report}");
}

/// A collection that nobody asked for, beside all who hold chunks: a cut of the power at any of its calls.
#[test]
fn a_cut_at_any_call_of_a_collection_of_its_own_accord_costs_no_value_and_no_space() {
    let machine = Sim::new(1);
    let (db, beside) = with_garbage(&machine);
    let (from, before) = (machine.calls(), db.stats().space.chunks);
    settle(&machine, &db);
    let calls = machine.calls() - from;
    let (k, after) = (keyspace(&db), db.stats().space.chunks);
    assert!(after + 700_000 < before, "{after} of {before}: nothing was collected");
    check_kept(&db);
    for (lease, bytes) in &beside.leases {
        assert!(k.chunks().get(&lease.id()).unwrap().unwrap() == bytes[..]);
    }
    assert!(beside.view.get(&k, "old 3").unwrap().unwrap() == noise(203, 50_000));
    let Beside { staged, writer, .. } = beside;
    let mut batch = db.batch();
    batch.adopt(&k, "staged", staged);
    batch.commit().unwrap();
    writer.finish().unwrap();
    db.compact().unwrap();
    assert!(k.get("staged").unwrap().unwrap() == noise(1, 300_000));
    assert!(k.get("stream").unwrap().unwrap() == noise(2, 900_000));
    assert!(calls > 30, "{calls} calls");

    for call in 0..calls {
        let machine = Sim::new(1);
        let (db, beside) = with_garbage(&machine);
        assert_eq!(machine.calls(), from, "the same from the beginning");
        machine.fail_at(from + call, chronolith::env::Fault::Cut);
        for _ in 0..3 {
            machine.set_time(machine.now() + Duration::from_secs(20));
            for _ in 0..200 {
                let _off = db.health();
            }
        }
        let image = machine.fork();
        drop((beside, db));
        image.cut_power();
        let db = open_small(&image);
        check_kept(&db);
        settle(&image, &db);
        let held = db.stats().space.chunks;
        // What is needed takes 400,000. The 200,000 that the view kept may have been dropped behind the last mark.
        assert!(held < 620_000, "call {call}: {held} bytes");
        check_kept(&db);
    }
}

/// A pack of which a little is dead is not worth being copied, except to whoever asks for it.
#[test]
fn a_pack_is_copied_for_a_quarter_of_it_or_on_request() {
    let machine = Sim::new(1);
    let db = open_small(&machine);
    let k = keyspace(&db);
    for pack in 0..6 {
        k.put(format!("kept {pack}"), noise(100 + pack, 9_000_000)).unwrap();
        k.put(format!("gone {pack}"), noise(pack, 1_500_000)).unwrap();
        db.flush().unwrap();
    }
    k.delete_range("gone".."gonf").unwrap();
    db.flush().unwrap();
    settle(&machine, &db);
    let stats = db.stats();
    assert!(stats.space.chunks > 62_000_000 && stats.chunks.copied_bytes == 0, "{stats}");
    let (live, dead) = (stats.chunks.live_bytes, stats.chunks.dead_bytes);
    assert!(live.abs_diff(54_000_000) < 1_000_000 && dead.abs_diff(9_000_000) < 1_000_000, "{live} and {dead}");
    db.compact().unwrap();
    assert!(db.stats().space.chunks < 54_600_000);
}

#[test]
fn many_small_packs_are_put_together() {
    let machine = Sim::new(1);
    let db = open_small(&machine);
    let k = keyspace(&db);
    let mut most = 0;
    for seed in 0..300 {
        k.put(format!("{seed}"), noise(seed, 40_000)).unwrap();
        db.flush().unwrap();
        if seed % 20 == 0 {
            settle(&machine, &db);
        }
        most = most.max(db.stats().chunks.packs);
    }
    settle(&machine, &db);
    let stats = db.stats();
    assert!(most < 100 && stats.chunks.packs < 70, "{most} packs at most, {} at the end", stats.chunks.packs);
    assert!(stats.chunks.copied_bytes < 6 * 300 * 40_000, "each chunk is copied a few times: {stats}");
    assert!((0..300).all(|seed| k.get(format!("{seed}")).unwrap().unwrap() == noise(seed, 40_000)));
    assert!(db.verify().unwrap().is_clean());
}

/// What nobody can read stops collection, and `health` says which value it is.
#[test]
fn a_value_that_keeps_chunks_from_being_collected_is_told_by_health() {
    let machine = Sim::new(1);
    let db = open_small(&machine);
    let options = KeyspaceOptions::new().compression(Compression::None).chunking(Chunking::fixed(512));
    let k = db.keyspace("k", options).unwrap();
    k.put("tree", noise(1, 300_000)).unwrap();
    let node = k.recipe("tree").unwrap().unwrap().references().next().unwrap().0.unwrap();
    k.put("gone", noise(2, 5_000_000)).unwrap();
    db.flush().unwrap();
    drop(k);
    db.close().unwrap();
    for pack in packs(&machine) {
        let mut bytes = machine.read_file(&pack).unwrap();
        if let Some(at) = bytes.windows(32).position(|part| part == node.as_bytes()) {
            *bytes.get_mut(at + 40).unwrap() ^= 1;
            machine.write_file(&pack, bytes);
        }
    }
    let db = open_small(&machine);
    let k = keyspace(&db);
    k.delete("gone").unwrap();
    db.flush().unwrap();
    let mut told = None;
    for _ in 0..20 {
        machine.set_time(machine.now() + Duration::from_secs(20));
        for _ in 0..50 {
            told = db.health().err().or(told);
        }
    }
    let told = told.unwrap();
    assert!(matches!(&told, Error::CorruptChunk { key, .. } if key == b"tree"), "{told}");
    // Once it is gone, `health` finds out by itself, although nothing else is worth a collection.
    k.delete("tree").unwrap();
    db.flush().unwrap();
    k.compact().unwrap();
    machine.set_time(machine.now() + Duration::from_secs(20));
    assert!((0..200).any(|_| db.health().is_ok()));
    settle(&machine, &db);
    assert_eq!(db.stats().space.chunks, 0);
}

/// What a key alone has: not what other keys, versions of them, or writers under way refer to.
#[test]
fn freeable_is_what_a_delete_frees() {
    for flushed in [false, true] {
        let machine = Sim::new(1);
        let db = open_small(&machine);
        let k = keyspace(&db);
        let (shared, own) = (noise(1, 500_000), noise(2, 400_000));
        k.put("a", [shared.clone(), own.clone()].concat()).unwrap();
        k.put("a", [own.clone(), noise(3, 300_000)].concat()).unwrap();
        k.put("b", &shared).unwrap();
        k.put("small", "value").unwrap();
        if flushed {
            db.flush().unwrap();
        }
        let told = k.freeable("a").unwrap();
        // Versions that no flush has dropped yet count.
        assert!((700_000..800_000).contains(&told), "{told}");
        let of_b = k.freeable("b").unwrap();
        assert!(if flushed { of_b > 450_000 } else { of_b < 50_000 }, "{of_b}: an older version of a has the rest");
        assert_eq!((k.freeable("small").unwrap(), k.freeable("absent").unwrap()), (0, 0));
        let mut writer = k.writer("c").unwrap();
        writer.write_all(&own).unwrap();
        let staged = writer.stage().unwrap();
        assert!(k.freeable("a").unwrap() < told - 350_000, "a staged value refers to them");
        drop(staged);
        db.compact().unwrap();
        let (told, before) = (k.freeable("a").unwrap(), db.stats().space.chunks);
        k.delete("a").unwrap();
        db.compact().unwrap();
        let freed = before - db.stats().space.chunks;
        assert!(told.abs_diff(freed) < 5_000, "{told} told, {freed} freed");
    }
}

/// A purge is over when no file has the bytes: what keeps them is told.
#[test]
fn a_compaction_tells_what_readers_and_damage_keep() {
    let machine = Sim::new(1);
    let db = open_small(&machine);
    let k = keyspace(&db);
    for (key, seed) in [("secret", 1), ("other", 2)] {
        k.put(key, noise(seed, 200_000)).unwrap();
    }
    db.flush().unwrap();
    let reader = k.reader("secret").unwrap().unwrap();
    k.purge("secret").unwrap();
    let report = db.compact().unwrap();
    assert!(report.still_read > 400_000 && report.to_string().contains("are still read"), "{report}");
    drop(reader);
    let report = db.compact().unwrap();
    assert!(report.still_read == 0 && report.damaged_packs.is_empty(), "{report}");
    // In one pack, whatever is flushed in between.
    let mut batch = db.batch();
    batch.put(&k, "more", noise(3, 200_000));
    batch.put(&k, "gone", noise(4, 50_000));
    batch.commit().unwrap();
    db.flush().unwrap();
    k.delete("gone").unwrap();
    damage_packs(&machine);
    let report = db.compact().unwrap();
    assert_eq!(report.damaged_packs.len(), 1, "{report}");
    assert!(packs(&machine).contains(&report.damaged_packs[0]) && report.to_string().contains("is damaged and stays"));
}

/// Returns the bytes of packs once background work has nothing more to do.
fn settled(machine: &Sim, db: &Db) -> u64 {
    db.flush().unwrap();
    settle(machine, db);
    db.stats().space.chunks
}

/// What was dropped before a clean close is known after it.
#[test]
fn many_short_lives_of_a_database_leave_no_more_garbage_than_a_long_one() {
    let machine = Sim::new(1);
    for life in 0..12 {
        let db = open_small(&machine);
        let k = keyspace(&db);
        k.put("key", noise(life, 1_500_000)).unwrap();
        k.compact().unwrap();
        drop(k);
        db.close().unwrap();
    }
    let held = settled(&machine, &open_small(&machine));
    assert!(held < 5_000_000, "{held} bytes for a value of 1.5 MB");
}

/// A value that a first one keeps out leaves chunks that no recipe ever refers to.
#[test]
fn values_that_a_first_value_keeps_out_take_no_space_for_long() {
    for streamed in [false, true] {
        let machine = Sim::new(1);
        let db = open_small(&machine);
        let first = KeyspaceOptions::new().compression(Compression::None).merge(chronolith::MergeStrategy::FirstWins);
        let k = db.keyspace("first", first).unwrap();
        for seed in 0..12 {
            if streamed {
                let mut writer = k.writer("key").unwrap();
                writer.write_all(&noise(seed, 1_000_000)).unwrap();
                writer.finish().unwrap();
            } else {
                k.put("key", noise(seed, 1_000_000)).unwrap();
            }
        }
        let held = settled(&machine, &db);
        assert!(held < 5_000_000, "{held} bytes for a value of 1 MB, streamed {streamed}");
        assert!(k.get("key").unwrap().unwrap() == noise(0, 1_000_000));
    }
}

/// What is dropped while a collection looks for something else is not forgotten with that.
#[test]
fn what_is_dropped_beside_a_collection_is_collected_by_the_next() {
    let machine = Sim::new(1);
    let undrawn = Options::new().env(doubt::Broken::new(&machine)).memory_budget(4 << 20);
    let db = undrawn.durability(Durability::Buffered).open("/db").unwrap();
    let k = keyspace(&db);
    for seed in 0..12 {
        k.put(format!("{seed:02}"), noise(seed, 1_000_000)).unwrap();
        db.flush().unwrap();
    }
    k.delete("00").unwrap();
    let of = k.clone();
    once_at(&machine, "collect: copied, then placed", move || {
        of.delete_range("01"..).unwrap();
        of.compact().unwrap();
    });
    db.compact().unwrap();
    machine.ignore_points();
    assert!(k.is_empty().unwrap() && db.stats().chunks.dropped_bytes >= 11_000_000, "{}", db.stats());
    drop((k, db));
    let held = settled(&machine, &open_small(&machine));
    assert!(held < 5_000_000, "{held} bytes for nothing");
}

/// A pack is worth by its bytes: a few large chunks weigh more than many small ones.
#[test]
fn large_dead_chunks_between_small_needed_ones_are_let_go() {
    let machine = Sim::new(1);
    let db = open_small(&machine);
    let plain = || KeyspaceOptions::new().compression(Compression::None);
    let large = db.keyspace("large", plain().chunking(Chunking::fixed(1 << 18))).unwrap();
    let small = db.keyspace("small", plain().chunk_threshold(512)).unwrap();
    for seed in 0..15 {
        large.put(format!("{seed}"), noise(seed, 1_000_000)).unwrap();
        for number in 0..100 {
            small.put(format!("{seed} {number}"), noise(1000 + seed * 100 + number, 520)).unwrap();
        }
    }
    large.delete_range(..).unwrap();
    db.flush().unwrap();
    large.compact().unwrap();
    let held = settled(&machine, &db);
    assert!(held < 6_000_000, "{held} bytes for 0.8 MB");
}

/// A collection gives way to whoever waits for its end; if that one then gives up, the rest is not forgotten.
#[test]
fn what_a_collection_leaves_to_a_compaction_that_is_cancelled_is_collected_later() {
    use std::{
        ops::ControlFlow,
        sync::atomic::{AtomicBool, Ordering::SeqCst},
        thread,
    };
    let machine = Sim::new(1);
    let db = open_small(&machine);
    let k = keyspace(&db);
    for pack in 0..20 {
        if pack > 2 {
            k.put(format!("kept {pack}"), noise(100 + pack, 500_000)).unwrap();
        }
        k.put(format!("gone {pack}"), noise(pack, 1_000_000)).unwrap();
        db.flush().unwrap();
    }
    settle(&machine, &db);
    k.delete_range("gone".."gonf").unwrap();
    db.flush().unwrap();
    k.compact().unwrap();
    let (cancels, waiting) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
    let (told, other, threads) = (Arc::clone(&cancels), db.clone(), Arc::clone(&waiting));
    once_at(&machine, "collect: writers, then files", move || {
        let is_cancelled = Arc::clone(&told);
        let compact = move || {
            let go_on = |_| if is_cancelled.load(SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
            assert!(matches!(other.compact_with(go_on), Err(Error::Cancelled)));
        };
        *threads.lock().unwrap() = Some(thread::spawn(compact));
        // By then it waits for the end of this collection.
        thread::sleep(Duration::from_millis(500));
        told.store(true, SeqCst);
    });
    machine.set_time(machine.now() + Duration::from_secs(20));
    for _ in 0..10_000 {
        db.health().unwrap();
        if cancels.load(SeqCst) {
            break;
        }
    }
    machine.ignore_points();
    let compacts = waiting.lock().unwrap().take();
    compacts.unwrap().join().unwrap();
    let held = settled(&machine, &db);
    assert!(held < 12_000_000, "{held} bytes for 8.5 MB");
}

/// Dead packs make room for copies also in a collection that nobody has asked for: their files go before its end.
#[test]
fn a_full_disk_is_emptied_by_itself() {
    let machine = Sim::new(1);
    let db = open_small(&machine);
    let k = keyspace(&db);
    let mut batch = db.batch();
    batch.put(&k, "kept", noise(100, 6_000_000));
    batch.put(&k, "gone", noise(101, 6_000_000));
    batch.commit().unwrap();
    db.flush().unwrap();
    for seed in 0..8 {
        k.put(format!("gone {seed}"), noise(seed, 2_000_000)).unwrap();
        db.flush().unwrap();
    }
    settle(&machine, &db);
    k.delete_range("gone".."gonf").unwrap();
    // Room for less than is needed of the oldest pack.
    machine.set_space(Some(bytes_of(&machine, &machine.files()) + 1_000_000));
    let held = settled(&machine, &db);
    assert!(held < 6_400_000, "{held} bytes");
    assert!(k.get("kept").unwrap().unwrap() == noise(100, 6_000_000));
}
