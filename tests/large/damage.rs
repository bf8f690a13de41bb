//! Damage costs the values that it hits, and can be mended.

use super::*;

/// One flipped byte is the error of the values that need it: the database opens, the others are readable, `verify`
/// lists every victim.
#[test]
fn a_damaged_chunk_is_the_error_of_its_values_alone_and_is_named_in_full() {
    for flushed in [true, false] {
        let machine = Sim::new(1);
        let db = open(&machine);
        let k = db.keyspace("k", KeyspaceOptions::new().compression(Compression::None)).unwrap();
        let shared = noise(1, 100_000);
        k.put("a", &shared).unwrap();
        k.put("b", [&shared[..], &noise(2, 100_000)].concat()).unwrap();
        k.put("c", noise(3, 100_000)).unwrap();
        if flushed {
            db.flush().unwrap();
        } else {
            db.persist().unwrap();
            k.put("d", "behind").unwrap();
        }
        drop(k);
        machine.cut_power_with(Loss::Nothing);
        drop(db);
        let pack = machine.files().into_iter().find(|file| file.to_string_lossy().contains("/packs/")).unwrap();
        let mut bytes = machine.read_file(&pack).unwrap();
        let at = bytes.windows(50).position(|part| part == &shared[200..250]).unwrap();
        bytes[at] ^= 4;
        machine.write_file(&pack, bytes);
        let db = open(&machine);
        let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        assert!(k.get("c").unwrap().unwrap() == noise(3, 100_000));
        for key in ["a", "b"] {
            let Err(Error::CorruptChunk { path, keyspace, key: named, .. }) = k.get(key) else { panic!("{key}") };
            assert_eq!((keyspace.as_str(), named.as_slice()), ("k", key.as_bytes()));
            assert!(path.to_string_lossy().contains("packs"), "{}", path.display());
            assert_eq!(k.stat(key).unwrap().unwrap().bytes, if key == "a" { 100_000 } else { 200_000 });
            assert!(k.contains(key).unwrap());
        }
        let told = db.verify().unwrap().to_string();
        assert!(told.contains("key \"a\"") && told.contains("key \"b\""), "{told}");
        // A flush does not fail over it.
        k.put("e", noise(5, 100_000)).unwrap();
        db.compact().unwrap();
        assert!(k.get("e").unwrap().unwrap() == noise(5, 100_000) && k.get("a").is_err());
    }
}

/// Where chunks are can be told by the packs alone: without its index a database opens, reads, writes, and makes the
/// index anew.
#[test]
fn places_that_are_damaged_or_gone_cost_no_value_and_are_made_anew() {
    for (gone, crashed) in [(true, false), (false, false), (true, true), (false, true)] {
        let machine = Sim::new(1);
        let db = open(&machine);
        let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        for seed in 0..4 {
            k.put(format!("{seed}"), noise(seed, 300_000)).unwrap();
            db.flush().unwrap();
        }
        k.put("unflushed", noise(9, 300_000)).unwrap();
        drop(k);
        if crashed {
            machine.cut_power_with(Loss::Nothing);
            drop(db);
        } else {
            db.close().unwrap();
        }
        // A segment of places names no key of the user: the smallest that holds the id of a chunk.
        let id = {
            let copy = machine.fork();
            let db = Options::new().env(copy).open("/db").unwrap();
            let recipe = db.keyspace("k", KeyspaceOptions::new()).unwrap().recipe("2").unwrap().unwrap();
            recipe.references().next().unwrap().0.unwrap()
        };
        let holds = |file: &PathBuf| {
            let bytes = machine.read_file(file).unwrap();
            let at = bytes.windows(32).position(|part| part == id.as_bytes());
            at.filter(|_| file.extension().is_some_and(|ending| ending == "seg") && bytes.get(32..40).is_some())
        };
        let segments: Vec<_> = machine.files().into_iter().filter(|file| holds(file).is_some()).collect();
        // The value's own segment has its recipe; the other one its places.
        let places = segments
            .iter()
            .min_by_key(|file| machine.read_file(file).unwrap().windows(4).filter(|part| part == b"RCPT").count());
        let places = places.unwrap().clone();
        if gone {
            machine.remove_file(&places);
        } else {
            let mut bytes = machine.read_file(&places).unwrap();
            let at = holds(&places).unwrap();
            bytes[at + 3] ^= 1;
            machine.write_file(&places, bytes);
        }
        let db = open(&machine);
        let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        let all = |k: &chronolith::Keyspace| {
            for seed in 0..4 {
                assert!(k.get(format!("{seed}")).unwrap().unwrap() == noise(seed, 300_000), "{seed}, gone {gone}");
            }
            assert!(k.get("unflushed").unwrap().unwrap() == noise(9, 300_000));
        };
        all(&k);
        assert!(!db.verify().unwrap().is_clean());
        k.put("new", noise(20, 300_000)).unwrap();
        k.put("again", noise(2, 300_000)).unwrap();
        db.flush().unwrap();
        db.compact().unwrap();
        all(&k);
        assert!(k.get("again").unwrap().unwrap() == noise(2, 300_000));
        assert!(db.verify().unwrap().is_clean(), "{}", db.verify().unwrap());
        drop(k);
        db.close().unwrap();
        let db = open(&machine);
        all(&db.keyspace("k", KeyspaceOptions::new()).unwrap());
        db.health().unwrap();
    }
}

/// What was damaged is whole again once a read has found the damage and the same bytes are written.
#[test]
fn a_value_that_is_written_again_heals() {
    let value = noise(1, 200_000);
    let machine = damaged(&value);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    assert!(k.get("a").is_err());
    k.put("a", &value).unwrap();
    for _ in 0..2 {
        assert!(k.get("a").unwrap().unwrap() == value && k.get("b").unwrap().unwrap() == value);
        db.compact().unwrap();
    }
    assert!(db.verify().unwrap().is_clean());
}

/// Returns a machine with a value in two keys, and a damaged chunk of it.
fn damaged(value: &[u8]) -> Sim {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new().compression(Compression::None)).unwrap();
    k.put("a", value).unwrap();
    k.put("b", value).unwrap();
    db.flush().unwrap();
    drop(k);
    db.close().unwrap();
    damage_packs(&machine);
    machine
}

/// L4: what was stored anew because the other copy is damaged is not left out where that copy would do.
#[test]
fn a_healed_value_stays_whole_through_crash_recovery_close_and_checkpoints_of_views() {
    let value = noise(1, 200_000);
    for crashes in [false, true] {
        let machine = damaged(&value);
        let db = open(&machine);
        let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        assert!(k.get("a").is_err());
        k.put("a", &value).unwrap();
        db.persist().unwrap();
        let view = db.snapshot();
        view.checkpoint("/copy").unwrap();
        drop((view, k));
        if crashes {
            machine.cut_power_with(Loss::Nothing);
            drop(db);
        } else {
            db.close().unwrap();
        }
        let open_copy = || Options::new().env(machine.fork()).open("/copy").unwrap();
        // Whatever has been read is in the cache: each look is a database of its own.
        let check = |db: &Db, when: &str| {
            let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
            for key in ["a", "b"] {
                assert!(k.get(key).is_ok_and(|read| read.unwrap() == value), "{key} {when}, crashes {crashes}");
            }
        };
        check(&open_copy(), "in the copy");
        check(&open(&machine.fork()), "behind the restart");
        let db = open(&machine);
        db.flush().unwrap();
        check(&db, "behind the flush of what was recovered");
        db.compact().unwrap();
        drop(db);
        check(&open(&machine), "behind a compaction");
    }
}

/// A failed read leaves nothing behind that could be taken for the value: zeros were, once.
#[test]
fn a_reader_that_failed_and_went_back_reads_the_same_bytes() {
    use std::io::{Read, Seek, SeekFrom};
    let machine = Sim::new(1);
    let db = open(&machine);
    let options = KeyspaceOptions::new().compression(Compression::None).chunking(Chunking::fixed(4096));
    let k = db.keyspace("k", options).unwrap();
    let value = noise(1, 100_000);
    k.put("a", &value).unwrap();
    db.flush().unwrap();
    let mut reader = k.reader("a").unwrap().unwrap();
    let mut room = vec![0; 1000];
    for back in [0, 8, 4095, 4097, 8192] {
        reader.seek(SeekFrom::Start(0)).unwrap();
        reader.read_exact(&mut room).unwrap();
        machine.fail_read_at(machine.reads());
        reader.seek(SeekFrom::Start(4096)).unwrap();
        assert!(reader.read(&mut room).is_err());
        machine.clear_faults();
        reader.seek(SeekFrom::Start(back)).unwrap();
        reader.read_exact(&mut room).unwrap();
        let at = usize::try_from(back).unwrap();
        assert!(room == value[at..at + 1000], "from {back}");
    }
}

/// Returns the keys that verification names, and how many findings there are beside them.
fn told(db: &Db) -> (Vec<String>, usize) {
    let findings = db.verify().unwrap().findings;
    let key_of = |what: &str| what.strip_prefix("key \"")?.split('"').next().map(str::to_owned);
    let mut keys: Vec<String> = findings.iter().filter_map(|finding| key_of(&finding.what)).collect();
    let others = findings.len() - keys.len();
    keys.sort();
    for finding in &findings {
        let path = finding.path.display().to_string();
        assert!(!finding.what.contains(&path), "the path is told twice: {finding:?}");
    }
    (keys, others)
}

/// Whatever of a pack is damaged, every value that cannot be read is named, and none that can.
#[test]
fn verify_names_every_value_that_a_damaged_pack_costs_and_no_other() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new().compression(Compression::None)).unwrap();
    for key in ["a", "b"] {
        k.put(key, noise(key.len() as u64 + u64::from(key.as_bytes()[0]), 100_000)).unwrap();
    }
    db.flush().unwrap();
    k.put("other", noise(9, 100_000)).unwrap();
    db.flush().unwrap();
    drop(k);
    db.close().unwrap();
    let pack = packs(&machine).into_iter().next().unwrap();
    let whole = machine.read_file(&pack).unwrap();
    let len = whole.len();
    // The header, a record, the table, the tail, the length.
    for (at, costs_values) in [(9, true), (50_000, true), (len - 100, false), (len - 20, true), (len, true)] {
        let copy = machine.fork();
        let mut bytes = whole.clone();
        match bytes.get_mut(at) {
            Some(byte) => *byte ^= 4,
            None => bytes.push(0),
        }
        copy.write_file(&pack, bytes);
        let db = open(&copy);
        let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        let unreadable: Vec<String> =
            ["a", "b", "other"].into_iter().filter(|key| k.get(key).is_err()).map(str::to_owned).collect();
        assert_eq!(unreadable.is_empty(), !costs_values, "byte {at}: {unreadable:?}");
        let (named, others) = told(&db);
        assert_eq!((named, others), (unreadable, 1), "byte {at} of {len}");
    }
    // Missing altogether: of a database that is open.
    let db = open(&machine);
    machine.remove_file(&pack);
    assert_eq!(told(&db), (vec!["a".to_owned(), "b".to_owned()], 1));
}

/// Chunks that no flush has named yet are read as well.
#[test]
fn verify_reads_packs_that_are_not_flushed_yet() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new().compression(Compression::None)).unwrap();
    k.put("a", noise(1, 100_000)).unwrap();
    let report = db.verify().unwrap();
    assert!(report.is_clean() && report.bytes > 100_000 && report.chunks > 3, "{report}");
    damage_packs(&machine);
    assert_eq!(told(&db), (vec!["a".to_owned()], 0));
    // What verification has found is mended by writing it again.
    k.put("a", noise(1, 100_000)).unwrap();
    db.flush().unwrap();
    assert_eq!(told(&db).0.len(), 0);
    assert!(k.get("a").unwrap().unwrap() == noise(1, 100_000));
}

/// Nobody knows what a value refers to whose list of chunks is damaged: nothing goes, and whoever asked is told which
/// value to write again or to delete.
#[test]
fn a_damaged_node_stops_collection_by_name_until_its_value_is_gone() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let options = KeyspaceOptions::new().compression(Compression::None).chunking(Chunking::fixed(512));
    let k = db.keyspace("k", options).unwrap();
    k.put("tree", noise(1, 300_000)).unwrap();
    k.put("gone", noise(2, 300_000)).unwrap();
    db.flush().unwrap();
    assert!(k.recipe("tree").unwrap().unwrap().height() > 0);
    let node = k.recipe("tree").unwrap().unwrap().references().next().unwrap().0.unwrap();
    drop(k);
    db.close().unwrap();
    for pack in packs(&machine) {
        let mut bytes = machine.read_file(&pack).unwrap();
        let at = bytes.windows(32).position(|part| part == node.as_bytes()).unwrap();
        *bytes.get_mut(at + 40).unwrap() ^= 1;
        machine.write_file(&pack, bytes);
    }
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    k.delete("gone").unwrap();
    let failed = db.compact().unwrap_err();
    assert!(matches!(&failed, Error::CorruptChunk { key, chunk, .. } if key == b"tree" && *chunk == node), "{failed}");
    assert!(db.stats().space.chunks > 600_000 && db.health().is_ok());
    k.delete("tree").unwrap();
    db.compact().unwrap();
    assert_eq!(db.stats().space.chunks, 0);
}

/// A chunk that goes bad after it was found good stops neither the flush that copies it nor the collection that moves
/// its pack.
#[test]
fn a_chunk_that_is_damaged_under_an_open_database_stops_no_flush_and_no_collection() {
    for recovered in [true, false] {
        let machine = Sim::new(1);
        let mut db = open(&machine);
        let options = KeyspaceOptions::new().compression(Compression::None);
        let k = db.keyspace("k", options).unwrap();
        let [bad, good, junk] = [1, 2, 3].map(|seed| noise(seed, 100_000));
        for (key, value) in [("bad", &bad), ("good", &good), ("junk", &junk)] {
            k.put(key, value).unwrap();
        }
        drop(k);
        if recovered {
            machine.cut_power_with(Loss::Nothing);
            drop(db);
            db = open(&machine);
        } else {
            db.flush().unwrap();
        }
        let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        let pack = packs(&machine).into_iter().next().unwrap();
        let mut bytes = machine.read_file(&pack).unwrap();
        let at = bytes.windows(50).position(|part| part == &bad[200..250]).unwrap();
        bytes[at] ^= 4;
        machine.write_file(&pack, bytes);
        k.delete("junk").unwrap();
        for _ in 0..2 {
            db.flush().unwrap();
            db.compact().unwrap();
            assert!(k.get("good").unwrap().unwrap() == good, "recovered {recovered}");
            assert!(matches!(k.get("bad"), Err(Error::CorruptChunk { .. })), "recovered {recovered}");
        }
        db.health().unwrap();
        k.put("more", noise(4, 100_000)).unwrap();
        db.flush().unwrap();
    }
}

/// Changes a byte in the longest segment of places: without one of those a database opens, without another it does not.
fn flip_places(machine: &Sim) {
    let is_of_places = |file: &PathBuf| {
        let copy = machine.fork();
        copy.cut_power_with(Loss::Nothing);
        copy.remove_file(file);
        Options::new().env(copy).open("/db").is_ok()
    };
    let all = machine.files().into_iter().filter(|file| file.starts_with("/db/segments")).filter(is_of_places);
    let (len, longest) = all.map(|file| (machine.read_file(&file).unwrap().len(), file)).max().unwrap();
    flip(machine, &longest, len / 4);
}

fn flip(machine: &Sim, file: &std::path::Path, at: usize) {
    let mut bytes = machine.read_file(file).unwrap();
    *bytes.get_mut(at).unwrap() ^= 4;
    machine.write_file(file, bytes);
}

/// Places that are made anew beside a collection must not move a chunk into a pack that the mark of the collection has
/// not met it in.
#[test]
fn places_made_anew_between_the_mark_and_the_edit_of_a_collection_cost_no_value() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new().compression(Compression::None)).unwrap();
    let (x, y) = (noise(1, 100_000), noise(2, 100_000));
    k.put("a", &x).unwrap();
    k.put("y", &y).unwrap();
    k.put("junk", noise(3, 100_000)).unwrap();
    db.flush().unwrap();
    k.delete("junk").unwrap();
    // Stored anew in the pack of an epoch, which is older than the pack of copies, but flushed after it.
    let (other, same) = (k.clone(), x.clone());
    once_at(&machine, "collect: condemned, then marked again", move || {
        other.put("b", &same).unwrap();
    });
    db.compact().unwrap();
    machine.ignore_points();
    db.flush().unwrap();
    // Garbage of which nothing is needed: the first group of the next collection. That of the pack of copies, of which
    // x is not needed and y is, comes after it.
    k.put("junk", noise(4, 100_000)).unwrap();
    db.flush().unwrap();
    k.delete("junk").unwrap();
    let (other, beside, at_point) = (k.clone(), db.clone(), machine.clone());
    let second = Arc::new(Mutex::new(None));
    let began = Arc::clone(&second);
    machine.on_point(move |point| match point {
        // A second segment of places.
        "collect: condemned, then marked again" => {
            other.put("c", noise(5, 100_000)).unwrap();
            beside.flush().unwrap();
        }
        "collect under the right to flush: written, then installed" => {
            let mut began = began.lock().unwrap();
            if began.is_none() {
                flip_places(&at_point);
                let beside = beside.clone();
                *began = Some(std::thread::spawn(move || drop(beside.compact().unwrap())));
                // It waits for the right to flush by then.
                std::thread::sleep(Duration::from_millis(500));
            }
        }
        _ => {}
    });
    db.compact().unwrap();
    machine.ignore_points();
    let second = second.lock().unwrap().take();
    second.unwrap().join().unwrap();
    for (key, value) in [("a", &x), ("b", &x), ("y", &y), ("c", &noise(5, 100_000))] {
        let read = k.get(key).unwrap();
        assert!(read.unwrap() == value[..], "{key}");
    }
    assert!(db.verify().unwrap().is_clean());
}

/// A pack whose table is damaged still has its records, which tell where each of them is. If they do not, it stays as
/// long as a value misses a chunk.
#[test]
fn a_pack_with_a_damaged_table_is_not_removed_because_places_are_damaged_too() {
    for damages_a_record in [false, true] {
        let machine = Sim::new(1);
        let db = open(&machine);
        let k = db.keyspace("k", KeyspaceOptions::new().compression(Compression::None)).unwrap();
        let value = noise(1, 300_000);
        k.put("a", &value).unwrap();
        db.flush().unwrap();
        let pack = packs(&machine).pop().unwrap();
        k.put("b", noise(2, 300_000)).unwrap();
        db.compact().unwrap();
        drop(k);
        db.close().unwrap();
        let len = machine.read_file(&pack).unwrap().len();
        flip(&machine, &pack, len - 100);
        let db = open(&machine);
        let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        assert!(k.get("a").unwrap().unwrap() == value, "the table is not needed");
        drop(k);
        db.close().unwrap();
        flip_places(&machine);
        if damages_a_record {
            flip(&machine, &pack, 50_000);
        }
        let db = open(&machine);
        let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        k.put("c", noise(3, 300_000)).unwrap();
        db.compact().unwrap();
        let bytes = machine.read_file(&pack).unwrap_or_default();
        assert!(bytes.windows(100).any(|part| part == &value[1000..1100]), "the records of a value in force");
        let read = k.get("a");
        assert_eq!(read.is_err(), damages_a_record, "{read:?}");
        assert!(read.is_err() || read.unwrap().unwrap() == value);
        k.delete("a").unwrap();
        db.compact().unwrap();
        let left = db.stats().space.chunks;
        assert!(left < 620_000, "{left} bytes");
        assert!(db.verify().unwrap().is_clean());
    }
}

/// A chunk that was healed stays healed when places are made anew: of two copies the one that is whole counts.
#[test]
fn places_made_anew_name_the_copy_of_a_chunk_that_is_whole() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new().compression(Compression::None)).unwrap();
    let (x, y) = (noise(1, 100_000), noise(2, 100_000));
    k.put("a", &x).unwrap();
    k.put("y", &y).unwrap();
    k.put("junk", noise(3, 100_000)).unwrap();
    db.flush().unwrap();
    k.delete("junk").unwrap();
    // The pack of this epoch has a smaller number than the pack of copies.
    let other = k.clone();
    once_at(&machine, "collect: condemned, then marked again", move || {
        other.put("c", noise(5, 100_000)).unwrap();
    });
    db.compact().unwrap();
    machine.ignore_points();
    // The copy is damaged; a read finds it, and the value is written again: into the pack of the epoch.
    let copy = packs(&machine).into_iter().find_map(|file| {
        let bytes = machine.read_file(&file).unwrap();
        bytes.windows(100).position(|part| part == &x[50_000..50_100]).map(|at| (file, at))
    });
    let (copy, at) = copy.unwrap();
    flip(&machine, &copy, at);
    assert!(k.get("a").is_err());
    k.put("a", &x).unwrap();
    db.flush().unwrap();
    assert!(k.get("a").unwrap().unwrap() == x, "healed");
    k.put("d", noise(6, 100_000)).unwrap();
    drop(k);
    db.close().unwrap();
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    assert!(k.get("a").unwrap().unwrap() == x, "healed for good");
    drop(k);
    db.close().unwrap();
    flip_places(&machine);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    db.compact().unwrap();
    assert!(k.get("a").unwrap().unwrap() == x, "behind places that were made anew");
}

/// Damage that a read has found is mended by writing the value again, also before its pack has a name.
#[test]
fn a_damaged_chunk_in_a_pack_without_a_name_is_stored_anew() {
    for recovered in [false, true] {
        let machine = Sim::new(1);
        let mut db = open(&machine);
        let mut k = db.keyspace("k", KeyspaceOptions::new().compression(Compression::None)).unwrap();
        let value = noise(1, 100_000);
        k.put("a", &value).unwrap();
        if recovered {
            drop(k);
            db.close().unwrap();
            db = open(&machine);
            k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        } else {
            db.persist().unwrap();
        }
        let pack = packs(&machine).pop().unwrap();
        let mut bytes = machine.read_file(&pack).unwrap();
        let at = bytes.windows(100).position(|part| part == &value[50_000..50_100]).unwrap();
        *bytes.get_mut(at).unwrap() ^= 4;
        machine.write_file(&pack, bytes);
        assert!(k.get("a").is_err());
        let mut batch = db.batch();
        batch.put(&k, "a", &value);
        batch.commit_with(Durability::Sync).unwrap();
        db.flush().unwrap();
        assert!(k.get("a").unwrap().unwrap() == value, "recovered {recovered}");
    }
}
