//! Large values: cut, stored once, read back whatever happens (rules L1 to L14 of `docs/chunks.md`).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{io::Write as _, time::Duration};

use chronolith::{
    Bytes, Chunking, Compression, Db, Durability, Error, KeyspaceOptions, Options, Policy,
    env::{Loss, Memory, Sim},
};

const HOUR: Duration = Duration::from_secs(3600);

/// Bytes that look random.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

fn text(seed: u64, len: usize) -> Vec<u8> {
    noise(seed, len).iter().map(|byte| b'a' + byte % 4).collect()
}

/// Values of several natures and lengths around every bound.
fn values() -> Vec<Vec<u8>> {
    let mut values: Vec<Vec<u8>> =
        [1, 511, 512, 4095, 4096, 4097, 40_000, 300_000].map(|len| noise(len as u64, len)).into();
    values.push(vec![0; 100_000]);
    values.push([text(1, 100_000), vec![0; 200_000], text(2, 50_000)].concat());
    values.push(text(3, 3 << 20));
    // Above 256 references: a tree.
    values.push(noise(4, 2 << 20));
    values.push(Vec::new());
    values
}

fn policies() -> [KeyspaceOptions; 4] {
    let new = || KeyspaceOptions::new().chunk_threshold(4096).chunking(Chunking::content_defined(2048));
    [new(), new().policy(Policy::tombstones(HOUR)), new().policy(Policy::mvcc(9, HOUR)), new().ttl(HOUR)]
}

fn open(machine: &Sim) -> Db {
    Options::new().env(machine.clone()).durability(Durability::Buffered).open("/db").unwrap()
}

#[test]
fn values_of_every_length_and_nature_read_back_under_every_policy_before_and_behind_flush_compaction_and_restart() {
    for options in policies() {
        let machine = Sim::new(1);
        let mut db = open(&machine);
        let k = db.keyspace("k", options.clone()).unwrap();
        let keys: Vec<String> = (0..values().len()).map(|at| format!("key{at:02}")).collect();
        for (key, value) in keys.iter().zip(values()) {
            k.put(key, value).unwrap();
        }
        drop(k);
        for step in 0..5 {
            let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
            for (key, value) in keys.iter().zip(values()) {
                assert!(k.get(key).unwrap().unwrap() == value, "{key} of {} bytes at step {step}", value.len());
            }
            assert!(k.range(..).map(|item| item.unwrap().1.to_vec()).eq(values()));
            assert_eq!(k.range(..).keys().count(), keys.len());
            assert!(db.verify().unwrap().is_clean());
            drop(k);
            match step {
                0 => db.flush().unwrap(),
                1 => drop(db.compact().unwrap()),
                _ => {
                    db.close().unwrap();
                    db = open(&machine);
                }
            }
        }
    }
}

#[test]
fn equal_bytes_are_stored_once_for_all_keyspaces_of_a_scope_and_once_again_for_those_of_another() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let value = noise(7, 1 << 20);
    let size = |db: &Db| db.stats().space.chunks;
    let open = |name: &str, options: KeyspaceOptions| db.keyspace(name, options).unwrap();
    let plain = open("plain", KeyspaceOptions::new());
    plain.put("a", &value).unwrap();
    db.flush().unwrap();
    let once = size(&db);
    assert!(once > 1 << 20 && once < (1 << 20) + (1 << 16), "{once}");
    plain.put("b", &value).unwrap();
    open("other", KeyspaceOptions::new()).put("a", &value).unwrap();
    db.flush().unwrap();
    assert_eq!(size(&db), once);
    let tenant = open("tenant", KeyspaceOptions::new().dedup_scope("tenant 7"));
    tenant.put("a", &value).unwrap();
    db.flush().unwrap();
    let twice = size(&db);
    assert!(twice > 2 * once - (1 << 12), "{twice}");
    open("tenant, too", KeyspaceOptions::new().dedup_scope("tenant 7")).put("a", &value).unwrap();
    db.flush().unwrap();
    assert_eq!(size(&db), twice);
    assert!(tenant.get("a").unwrap().unwrap() == value);
    let refused = db.keyspace("tenant", KeyspaceOptions::new().dedup_scope("tenant 8")).unwrap_err();
    assert!(refused.to_string().contains("\"tenant 7\""), "{refused}");
    let refused = db.keyspace("plain", KeyspaceOptions::new().dedup_scope("tenant 8")).unwrap_err();
    assert!(refused.to_string().contains("default dedup scope"), "{refused}");
}

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

#[test]
fn streams_take_any_length_in_any_pieces_and_give_the_same_bytes_and_chunks() {
    use std::io::{Read, Seek, SeekFrom, Write};
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new().chunk_threshold(4096)).unwrap();
    for (number, value) in values().into_iter().enumerate() {
        k.put("put", &value).unwrap();
        for step in [1000, 70_001, 10 << 20] {
            let mut writer = k.writer("stream").unwrap();
            for part in value.chunks(step) {
                writer.write_all(part).unwrap();
            }
            let stored = writer.finish().unwrap();
            assert_eq!((stored.bytes, stored.new_chunks), (value.len() as u64, 0), "value {number} by {step}");
            assert_eq!(k.recipe("stream").unwrap(), k.recipe("put").unwrap(), "value {number} by {step}");
            let stat = k.stat("stream").unwrap().unwrap();
            assert_eq!((stat.bytes, stat.chunks), (stored.bytes, stored.chunks));
            let mut reader = k.reader("stream").unwrap().unwrap();
            let (mut read, mut room) = (Vec::new(), vec![0; step]);
            loop {
                match reader.read(&mut room).unwrap() {
                    0 => break,
                    count => read.extend_from_slice(&room[..count]),
                }
            }
            assert!(read == value, "value {number} by {step}");
        }
        // From any place.
        let mut reader = k.reader("put").unwrap().unwrap();
        for at in
            [0, 1, value.len() / 3, value.len() / 2 + 7, value.len().saturating_sub(1), value.len(), value.len() + 9]
        {
            assert_eq!(reader.seek(SeekFrom::Start(at as u64)).unwrap(), at as u64);
            let mut room = vec![0; 50_000];
            let mut filled = 0;
            while filled < room.len() {
                match reader.read(&mut room[filled..]).unwrap() {
                    0 => break,
                    count => filled += count,
                }
            }
            let expected = value.get(at..).map_or(&[][..], |rest| &rest[..rest.len().min(50_000)]);
            assert!(room[..filled] == *expected, "value {number} from {at}");
            let part = k.read_at("put", at as u64, 50_000).unwrap().unwrap();
            assert!(part == *expected, "value {number} at {at}");
        }
        assert!(reader.seek(SeekFrom::Current(-(1 << 40))).is_err());
    }
    assert!(k.reader("none").unwrap().is_none() && k.read_at("none", 0, 1).unwrap().is_none());
    assert!(k.stat("none").unwrap().is_none() && k.copy("none", &k, "x").unwrap().is_none());
    // An abandoned writer leaves nothing under its key.
    k.writer("nothing").unwrap().write_all(&noise(99, 5 << 20)).unwrap();
    k.writer("nothing").unwrap().abort();
    assert!(!k.contains("nothing").unwrap());
}

/// Copies hold recipes as recipes, with the packs that those need: also of a moment, also of what no flush has named.
#[test]
fn checkpoints_of_the_present_of_views_and_of_read_only_databases_hold_large_values() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new().policy(Policy::mvcc(5, HOUR))).unwrap();
    let tenant = db.keyspace("t", KeyspaceOptions::new().dedup_scope("tenant 7")).unwrap();
    for seed in 0..3 {
        k.put("key", noise(seed, 200_000)).unwrap();
        tenant.put(format!("{seed}"), noise(seed, 2 << 20)).unwrap();
        if seed < 2 {
            db.flush().unwrap();
        }
    }
    let then = db.snapshot();
    k.put("key", noise(3, 200_000)).unwrap();
    let check = |path: &str, newest: u64| {
        let copy = Options::new().env(machine.clone()).open(path).unwrap();
        let k = copy.keyspace("k", KeyspaceOptions::new()).unwrap();
        assert!(k.get("key").unwrap().unwrap() == noise(newest, 200_000), "{path}");
        let tenant = copy.keyspace("t", KeyspaceOptions::new()).unwrap();
        for seed in 0..3 {
            assert!(tenant.get(format!("{seed}")).unwrap().unwrap() == noise(seed, 2 << 20), "{path}");
        }
        assert!(copy.verify().unwrap().is_clean(), "{path}");
        // It goes on by itself, with chunks of its own.
        k.put("new", noise(50, 200_000)).unwrap();
        tenant.put("new", noise(0, 2 << 20)).unwrap();
        copy.flush().unwrap();
        k.put("more", noise(51, 200_000)).unwrap();
        copy.compact().unwrap();
        assert!(k.get("new").unwrap().unwrap() == noise(50, 200_000));
        assert!(copy.verify().unwrap().is_clean(), "{path}");
    };
    then.checkpoint("/then").unwrap();
    check("/then", 2);
    db.checkpoint("/now").unwrap();
    check("/now", 3);
    k.put("key", noise(4, 200_000)).unwrap();
    drop((k, tenant, then));
    machine.cut_power_with(Loss::Nothing);
    drop(db);
    let reader = Options::new().env(machine.clone()).read_only(true).open("/db").unwrap();
    reader.checkpoint("/read").unwrap();
    check("/read", 4);
    drop(reader);
    check("/db", 4);
}

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
        let holds = |file: &std::path::PathBuf| {
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
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new().compression(Compression::None)).unwrap();
    let value = noise(1, 200_000);
    k.put("a", &value).unwrap();
    k.put("b", &value).unwrap();
    db.flush().unwrap();
    drop(k);
    db.close().unwrap();
    let pack = machine.files().into_iter().find(|file| file.to_string_lossy().contains("/packs/")).unwrap();
    let mut bytes = machine.read_file(&pack).unwrap();
    bytes[100_000] ^= 4;
    machine.write_file(&pack, bytes);
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

/// Runs `verb` once, at the first pass of a point.
fn once_at(machine: &Sim, point: &'static str, verb: impl FnOnce() + Send + 'static) {
    let mut verb = Some(verb);
    machine.on_point(move |at| {
        if at == point
            && let Some(verb) = verb.take()
        {
            verb();
        }
    });
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
        let (other, same, kept) = (k.clone(), value.clone(), std::sync::Arc::new(std::sync::Mutex::new(None)));
        let keeps = std::sync::Arc::clone(&kept);
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

/// L7: all parts of a copy are of one superversion, whatever is collected meanwhile.
#[test]
fn a_view_is_copied_whole_beside_a_collection() {
    let machine = Sim::new(1);
    let db = open(&machine);
    for name in ["a", "b"] {
        let k = db.keyspace(name, KeyspaceOptions::new()).unwrap();
        k.put("key", noise(1, 300_000)).unwrap();
        k.put("junk", noise(2, 300_000)).unwrap();
    }
    db.flush().unwrap();
    let view = db.snapshot();
    for name in ["a", "b"] {
        db.keyspace(name, KeyspaceOptions::new()).unwrap().delete("junk").unwrap();
    }
    let copied = db.snapshot();
    drop(view);
    let other = db.clone();
    once_at(&machine, "view checkpoint: one keyspace, then the next", move || drop(other.compact().unwrap()));
    copied.checkpoint("/copy").unwrap();
    machine.ignore_points();
    let copy = Options::new().env(machine.clone()).open("/copy").unwrap();
    for name in ["a", "b"] {
        let k = copy.keyspace(name, KeyspaceOptions::new()).unwrap();
        assert!(k.get("key").unwrap().unwrap() == noise(1, 300_000), "{name}");
    }
    assert!(copy.verify().unwrap().is_clean());
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

/// L11 and L13: however many threads store a value, and whoever else stores a neighbour of it at the same time, cuts
/// and ids are the same, and each chunk is stored once.
#[test]
fn writers_of_neighbouring_versions_store_each_chunk_once_and_cut_as_one_thread_does() {
    let versions: Vec<Vec<u8>> = (0..8usize)
        .map(|version| {
            let mut value = noise(1, 6 << 20);
            value.splice(version * 700_000..version * 700_000, noise(100 + version as u64, 5000));
            value
        })
        .collect();
    let alone = open(&Sim::new(1));
    let expected = alone.keyspace("k", KeyspaceOptions::new()).unwrap();
    let db = Options::new().env(Memory::new()).open("/db").unwrap();
    let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    for (number, version) in versions.iter().enumerate() {
        expected.put(format!("{number}"), version).unwrap();
    }
    std::thread::scope(|scope| {
        for (number, version) in versions.iter().enumerate() {
            let k = &k;
            scope.spawn(move || {
                if number % 2 == 0 {
                    k.put(format!("{number}"), version).unwrap();
                } else {
                    let mut writer = k.writer(format!("{number}")).unwrap();
                    version.chunks(333_333).for_each(|part| writer.write_all(part).unwrap());
                    writer.finish().unwrap();
                }
            });
        }
    });
    for (number, version) in versions.iter().enumerate() {
        let key = format!("{number}");
        assert_eq!(k.recipe(&key).unwrap(), expected.recipe(&key).unwrap());
        assert!(k.get(&key).unwrap().unwrap() == *version);
    }
    let (many, one) = (db.stats().chunks, alone.stats().chunks);
    assert_eq!((many.new_chunks, many.new_bytes), (one.new_chunks, one.new_bytes));
    assert!(db.verify().unwrap().is_clean());
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
        let image = std::sync::Arc::new(std::sync::Mutex::new(None));
        let taken = std::sync::Arc::clone(&image);
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

/// L11: short pieces are gathered and long ones are cut where they are, in any order.
#[test]
fn pieces_short_and_long_in_any_order_are_cut_as_the_whole_is() {
    let db = open(&Sim::new(1));
    let value = [noise(1, 3 << 20), vec![0; 1_500_000], noise(2, 2_000_003)].concat();
    let longest = Chunking::content_defined(512 << 10);
    for chunking in [Chunking::automatic(), longest, Chunking::fixed(4096), Chunking::whole()] {
        let k = db.keyspace("k", KeyspaceOptions::new().chunking(chunking)).unwrap();
        k.put("put", &value).unwrap();
        for steps in [[1 << 20, 1, 1 << 20], [1, 1 << 20, 700_000], [40_000, (1 << 20) + 13, 1 << 21], [1 << 21, 9, 0]]
        {
            let mut writer = k.writer("stream").unwrap();
            let (mut rest, mut steps) = (value.as_slice(), steps.iter().cycle());
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at(rest.len().min(*steps.next().unwrap()));
                writer.write_all(piece).unwrap();
                rest = behind;
            }
            writer.finish().unwrap();
            assert_eq!(k.recipe("stream").unwrap(), k.recipe("put").unwrap(), "{chunking}, pieces of {steps:?}");
            assert!(k.get("stream").unwrap().unwrap() == value, "{chunking}");
        }
    }
    // A value that is not long enough is kept in its entry, however long its pieces are.
    let k = db.keyspace("uncut", KeyspaceOptions::new().chunk_threshold(u64::MAX)).unwrap();
    let mut writer = k.writer("k").unwrap();
    writer.write_all(&value[..1 << 20]).unwrap();
    writer.finish().unwrap();
    assert_eq!(k.stat("k").unwrap().unwrap().chunks, 0);
}

/// Keeps what is longer than 100,000 bytes, and counts what else it is asked about.
#[derive(Clone, Default)]
struct KeepsLong(std::sync::Arc<std::sync::Mutex<Vec<usize>>>);

impl chronolith::CompactionPolicy for KeepsLong {
    fn keep(&self, version: &chronolith::VersionInfo, _now: std::time::SystemTime) -> bool {
        self.0.lock().unwrap().push(version.bytes);
        version.bytes > 100_000
    }
}

/// A recipe has some hundred bytes, whatever hangs on it: what asks for the length of a version means the value.
#[test]
fn a_policy_and_the_space_of_a_pin_count_a_large_value_by_its_own_length() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let asked = KeepsLong::default();
    let long = KeyspaceOptions::new().policy(Policy::custom("keeps long", asked.clone()));
    let (k, brief) = (db.keyspace("k", long).unwrap(), db.keyspace("brief", KeyspaceOptions::new()).unwrap());
    for len in [200_000, 50_000, 10, 300_000, 7] {
        k.put("k", noise(len as u64, len)).unwrap();
    }
    brief.put("k", noise(1, 400_000)).unwrap();
    let _seqno = db.pin("a pin").unwrap();
    brief.put("k", "short").unwrap();
    for _ in 0..2 {
        db.compact().unwrap();
        let kept: Vec<usize> = k.history("k").map(|version| version.unwrap().value.unwrap().len()).collect();
        assert!(kept.starts_with(&[7]) && kept.ends_with(&[300_000, 200_000]), "{kept:?}");
        assert!(!kept.contains(&50_000) && !kept.contains(&10), "{kept:?}");
        // Flushes ask, and so do merges within the history tier, where only what was kept is left.
        k.put("k", noise(7, 7)).unwrap();
    }
    let asked = asked.0.lock().unwrap().clone();
    for len in [200_001, 50_001, 11, 300_001] {
        assert!(asked.contains(&len), "{len} of {asked:?}");
    }
    assert!(asked.iter().all(|len| [200_001, 50_001, 11, 300_001, 8].contains(len)), "{asked:?}");
    assert!(db.stats().pins.iter().any(|pin| pin.bytes > 400_000), "{:?}", db.stats().pins);
}

#[test]
fn options_out_of_bounds_and_options_of_keyspaces_that_combine_values_are_refused_by_name() {
    let db = Options::new().env(Sim::new(1)).open("/db").unwrap();
    let new = KeyspaceOptions::new;
    for (options, what) in [
        (new().chunking(Chunking::fixed(511)), "fixed(511)"),
        (new().chunking(Chunking::content_defined(1 << 20)), "content_defined(1048576)"),
        (new().compression(Compression::Zstd(23)), "not 23"),
        (new().compression(Compression::Zstd(0)), "not 0"),
        (new().dedup_scope(""), "not 0"),
        (new().dedup_scope("x".repeat(256)), "not 256"),
        (new().merge(chronolith::MergeStrategy::Sum).chunk_threshold(4096), "combines values"),
    ] {
        let Err(Error::Invalid { what: told }) = db.keyspace("k", options) else { panic!("{what}") };
        assert!(told.contains("\"k\"") && told.contains(what), "{told}");
    }
    let _bytes: Bytes = Bytes::default();
}
