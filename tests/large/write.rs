//! Large values are cut the same way whoever writes them, and each chunk is stored once.

use super::*;

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
struct KeepsLong(Arc<Mutex<Vec<usize>>>);

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

#[test]
fn what_a_keyspace_does_with_large_values_can_be_asked() {
    let db = Options::new().env(Memory::new()).open("/db").unwrap();
    let plain = db.keyspace("plain", KeyspaceOptions::new()).unwrap();
    assert_eq!((plain.chunk_threshold(), plain.chunking()), (Some(32 << 10), Some(Chunking::automatic())));
    assert_eq!((plain.compression(), plain.dedup_scope()), (Some(Compression::Zstd(1)), None));
    let options = KeyspaceOptions::new().chunk_threshold(5000).chunking(Chunking::fixed(4096)).dedup_scope("tenant 7");
    let own = db.keyspace("own", options.compression(Compression::None)).unwrap();
    assert_eq!((own.chunk_threshold(), own.chunking()), (Some(5000), Some(Chunking::fixed(4096))));
    assert_eq!((own.compression(), own.dedup_scope().as_deref()), (Some(Compression::None), Some("tenant 7")));
    let sums = db.keyspace("sums", KeyspaceOptions::new().merge(chronolith::MergeStrategy::Sum)).unwrap();
    assert_eq!((sums.chunk_threshold(), sums.chunking(), sums.compression()), (None, None, None));
}

#[test]
fn ratios_say_what_they_are_where_nothing_was_new_and_where_all_was() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new().compression(Compression::None)).unwrap();
    assert!((db.stats().chunks.dedup_ratio() - 1.0).abs() < 1e-9);
    k.put("a", noise(1, 1_000_000)).unwrap();
    db.flush().unwrap();
    let stats = db.stats();
    assert!((stats.chunks.dedup_ratio() - 1.0).abs() < 1e-3, "{stats}");
    assert!((1.0..1.2).contains(&stats.write_amplification()), "each chunk is written once: {stats}");
    drop(k);
    db.close().unwrap();
    let db = open(&machine);
    db.keyspace("k", KeyspaceOptions::new()).unwrap().put("b", noise(1, 1_000_000)).unwrap();
    assert!(db.stats().chunks.dedup_ratio().is_infinite());
    assert!(db.stats().to_json().contains("\"new_chunk_lengths\":[0,0,0,0,0,0,0,0,0,0,0]"));
}

#[test]
fn errors_of_streams_have_the_kind_and_name_the_value() {
    use std::io::{ErrorKind, Read, Seek, SeekFrom};
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("o\"d", KeyspaceOptions::new().compression(Compression::None)).unwrap();
    k.put("a", noise(1, 100_000)).unwrap();
    let recipe = k.recipe("a").unwrap().unwrap();
    let other = Options::new().env(Memory::new()).open("/other").unwrap();
    let refused = other.keyspace("k", KeyspaceOptions::new()).unwrap().adopt("new\n", &recipe).unwrap_err().to_string();
    assert!(refused.starts_with("keyspace \"k\": key \"new\\n\": chunk "), "{refused}");

    let mut reader = k.reader("a").unwrap().unwrap();
    let before = reader.seek(SeekFrom::Current(-5)).unwrap_err();
    assert_eq!(
        (before.kind(), before.to_string().as_str()),
        (ErrorKind::InvalidInput, "cannot seek to 0-5: a value begins at byte 0")
    );
    machine.set_space(Some(bytes_of(&machine, &machine.files()) + 1000));
    let mut writer = k.writer("b").unwrap();
    let full = writer.write_all(&noise(2, 8 << 20)).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
    drop(writer);
    machine.set_space(None);
    damage_packs(&machine);
    let damaged = reader.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(damaged.kind(), ErrorKind::InvalidData);
    let told = damaged.downcast::<Error>().unwrap().to_string();
    assert!(
        told.contains("of key \"a\" in keyspace \"o\\\"d\" is damaged") && told.contains("write the value again"),
        "{told}"
    );
}

/// L9: whoever adopts a recipe has every chunk of it here, and in its own scope: an id is made of the content by the
/// key of the scope.
#[test]
fn a_recipe_whose_chunks_are_elsewhere_is_refused_and_a_copy_into_another_scope_stands_by_itself() {
    // A list of chunks, and a tree.
    for len in [300_000, 5 << 20] {
        refuse_elsewhere(len);
    }
}

fn refuse_elsewhere(len: usize) {
    let (machine, elsewhere) = (Sim::new(1), open(&Sim::new(2)));
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    let tenant = db.keyspace("t", KeyspaceOptions::new().dedup_scope("tenant 7")).unwrap();
    let value = noise(1, len);
    let there = elsewhere.keyspace("k", KeyspaceOptions::new()).unwrap();
    there.put("a", &value).unwrap();
    for shared in [0, len / 2] {
        k.put("part", value.get(..shared).unwrap()).unwrap();
        let refused = k.adopt("a", &there.recipe("a").unwrap().unwrap()).unwrap_err();
        assert!(matches!(&refused, Error::Invalid { what } if what.contains("not stored here")), "{refused}");
        assert!(!k.contains("a").unwrap());
    }
    k.put("b", &value).unwrap();
    k.adopt("a", &there.recipe("a").unwrap().unwrap()).unwrap();
    let recipe = k.recipe("a").unwrap().unwrap();
    assert!(matches!(tenant.adopt("a", &recipe), Err(Error::Invalid { .. })));
    let mut writer = k.writer("c").unwrap();
    writer.write_all(&value).unwrap();
    let staged = writer.stage().unwrap();
    let mut batch = db.batch();
    batch.adopt(&tenant, "a", staged);
    assert!(matches!(batch.commit(), Err(Error::Invalid { .. })));
    assert!(!tenant.contains("a").unwrap());
    k.copy("a", &tenant, "a").unwrap().unwrap();
    for key in ["a", "b", "part"] {
        k.delete(key).unwrap();
    }
    db.compact().unwrap();
    assert!(tenant.get("a").unwrap().unwrap() == value && db.verify().unwrap().is_clean());
}

/// L2: an epoch ends with so many new chunks, and with so many bytes of them, also under a stream that commits nothing;
/// the stream waits for flushes as commits do.
#[test]
fn a_stream_that_commits_nothing_ends_epochs_and_waits_for_their_flushes() {
    for (chunking, len, bound) in [(Chunking::fixed(512), 48 << 20, 40_000), (Chunking::whole(), 400 << 20, 330)] {
        let machine = Sim::new(1);
        let db = Options::new().env(machine).memory_budget(16 << 20).open("/db").unwrap();
        let options = KeyspaceOptions::new().compression(Compression::None).chunking(chunking);
        let k = db.keyspace("k", options).unwrap();
        let mut writer = k.writer("stream").unwrap();
        let (mut most, mut part) = (0, noise(1, 1 << 20));
        for number in 0..len >> 20 {
            for block in part.chunks_mut(512) {
                block[..8].copy_from_slice(&u64::try_from(number).unwrap().to_le_bytes());
            }
            writer.write_all(&part).unwrap();
            most = most.max(db.stats().chunks.unflushed_chunks);
        }
        assert!(db.stats().chunks.packs > 1, "{chunking}");
        assert!(most < bound, "{most} chunks were in memory at once, {chunking}");
    }
}

/// A writer that outlives its database ends with an error, and keeps nobody from closing.
#[test]
fn a_writer_that_is_alive_at_a_close_is_told_so() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    let [mut one, mut two] = ["one", "two"].map(|key| k.writer(key).unwrap());
    one.write_all(&noise(1, 5 << 20)).unwrap();
    two.write_all(&noise(2, 100)).unwrap();
    let staged = k.writer("three").unwrap().stage().unwrap();
    let mut batch = db.batch();
    batch.adopt(&k, "three", &staged);
    db.close().unwrap();
    let told = |error: std::io::Error| matches!(error.get_ref().unwrap().downcast_ref(), Some(Error::Closed));
    assert!(told(one.write_all(b"more").unwrap_err()));
    assert!(matches!(two.finish(), Err(Error::Closed)) && matches!(batch.commit(), Err(Error::Closed)));
    let db = open(&machine);
    assert!(db.keyspace("k", KeyspaceOptions::new()).unwrap().is_empty().unwrap());
}

/// A difference is one of bytes: how they are kept, and how they are cut, is none.
#[test]
fn equal_values_are_equal_however_they_are_kept() {
    let db = open(&Sim::new(1));
    let new = KeyspaceOptions::new;
    let value = noise(1, 100_000);
    let ways = [
        new().chunk_threshold(u64::MAX),
        new().chunk_threshold(4096).chunking(Chunking::fixed(4096)),
        new().chunk_threshold(4096).chunking(Chunking::content_defined(2048)),
    ];
    let mut views = Vec::new();
    for way in ways {
        let k = db.keyspace("k", way).unwrap();
        k.put("k", &value).unwrap();
        views.push(db.snapshot());
    }
    let k = db.keyspace("k", new()).unwrap();
    for (before, after) in [(0, 1), (1, 2), (0, 2), (2, 0)] {
        assert_eq!(db.diff(&views[before], &views[after], &k).count(), 0, "{before} to {after}");
    }
    assert!(k.compare_and_swap("k", Some(&value), Some("new")).unwrap().is_some());
}

/// A longest key with a longest list is an entry like any other.
#[test]
fn the_longest_key_has_the_longest_list_of_chunks() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k =
        db.keyspace("k", KeyspaceOptions::new().chunking(Chunking::fixed(512)).policy(Policy::mvcc(3, HOUR))).unwrap();
    let keys = ["a".repeat(65_536), "b".repeat(65_536)];
    for version in 0..2u64 {
        for key in &keys {
            k.put(key, noise(version, 512 * 256)).unwrap();
        }
    }
    assert_eq!(k.recipe(&keys[0]).unwrap().unwrap().references().len(), 256);
    for step in 0..3 {
        for key in &keys {
            assert!(k.get(key).unwrap().unwrap() == noise(1, 512 * 256), "{step}");
            let versions: Vec<Bytes> = k.history(key).map(|version| version.unwrap().value.unwrap()).collect();
            assert!(versions.len() == 2 && versions[1] == noise(0, 512 * 256), "{step}");
        }
        assert!(db.verify().unwrap().is_clean());
        if step == 0 { db.flush().unwrap() } else { drop(db.compact().unwrap()) }
    }
}
