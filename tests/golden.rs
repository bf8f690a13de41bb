//! Format 1, pinned: small databases, a perfect-hash function and map files. This release must write the very same
//! bytes, and every later one must open them.
//!
//! `CHRONOLITH_GOLDEN=write cargo test --test golden` writes the files anew; that is a new format.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use chronolith::{
    ChunkId, Chunking, Compression, Durability, Error, Have, HaveYou, KeyspaceOptions, MergeStrategy, Options, Policy,
    ReadStep, WriteOptions, env,
    merge::append_items,
    phash::{Hash, Map, MapBuilder, MergeOptions, Mphf, merge_to},
};

const DATABASE: &str = "/golden.db";

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Whether the files are to be written anew.
fn writes() -> bool {
    std::env::var_os("CHRONOLITH_GOLDEN").is_some()
}

/// That these bytes are the ones that are kept.
fn pin(golden: &Path, bytes: &[u8]) {
    if writes() {
        fs::create_dir_all(golden.parent().unwrap()).unwrap();
        fs::write(golden, bytes).unwrap();
    }
    assert!(fs::read(golden).unwrap() == bytes, "{} is written differently", golden.display());
}

/// A database without strategies and indexes: two keyspaces, versions kept for a view, tombstones of both kinds,
/// gaps, two levels, a log with a batch in it, a clean end.
fn build() -> env::Sim {
    let machine = env::Sim::new(7);
    let db = Options::new().env(machine.clone()).durability(Durability::Buffered).open(DATABASE).unwrap();
    let users = db.keyspace("users", KeyspaceOptions::new()).unwrap();
    let files = db.keyspace("files", KeyspaceOptions::new()).unwrap();
    for i in 0..200u32 {
        users.put(format!("user/{i:04}"), format!("value {}", i * i)).unwrap();
    }
    db.compact().unwrap();
    let view = db.snapshot();
    users.put("user/0007", "seven").unwrap();
    users.put("user/0007", "seven again").unwrap();
    users.delete("user/0008").unwrap();
    users.delete_range("user/0100".."user/0150").unwrap();
    files.put("large", vec![42; 3000]).unwrap();
    db.flush().unwrap();
    drop(view);
    let mut batch = db.batch();
    batch.put(&users, "", "the empty key");
    batch.delete_range(&files, "m"..);
    batch.commit().unwrap();
    db.close().unwrap();
    machine
}

/// What that database says.
fn check(machine: &env::Sim) {
    let db = Options::new().env(machine.clone()).open(DATABASE).unwrap();
    assert_eq!(db.keyspaces(), ["files", "users"]);
    let users = db.keyspace("users", KeyspaceOptions::new()).unwrap();
    let files = db.keyspace("files", KeyspaceOptions::new()).unwrap();
    assert_eq!(users.range(..).count(), 200 - 1 - 50 + 1);
    assert_eq!(users.get("user/0007").unwrap().unwrap(), b"seven again");
    assert_eq!(users.get("user/0008").unwrap(), None);
    assert_eq!(users.get("user/0120").unwrap(), None);
    assert_eq!(users.get("").unwrap().unwrap(), b"the empty key");
    assert_eq!(files.get("large").unwrap().unwrap(), vec![42; 3000]);
    let then = db.as_of(202).unwrap();
    assert_eq!(then.get(&users, "user/0120").unwrap().unwrap(), b"value 14400");
    assert_eq!(then.get(&users, "user/0007").unwrap().unwrap(), b"value 49");
    let between = db.as_of(203).unwrap().get(&users, "user/0007");
    assert!(matches!(between, Err(Error::HistoryTrimmed { .. })), "{between:?}");
    let report = db.verify().unwrap();
    assert!(report.is_clean(), "{report}");
}

const fn number(number: i64) -> [u8; 8] {
    number.to_le_bytes()
}

/// One with strategies and indexes: operands kept apart for a view, in segments and in a log; a sum too wide for its
/// type; a segment with an index, and one with a filter before it.
fn build_folding() -> env::Sim {
    let machine = env::Sim::new(8);
    let db = Options::new().env(machine.clone()).durability(Durability::Buffered).open(DATABASE).unwrap();
    let words = db.keyspace("words", KeyspaceOptions::new().point_index(true)).unwrap();
    let hits = KeyspaceOptions::new().merge(MergeStrategy::Sum).point_index(true);
    let hits = db.keyspace("hits", hits).unwrap();
    let tags = db.keyspace("tags", KeyspaceOptions::new().merge(MergeStrategy::Append)).unwrap();
    let names = db.keyspace("names", KeyspaceOptions::new().merge(MergeStrategy::FirstWins)).unwrap();
    let mut batch = db.batch();
    for i in 0..120u32 {
        batch.put(&words, format!("word/{i:03}"), "x".repeat(i as usize % 7));
    }
    batch.commit().unwrap();
    hits.put("wide", number(i64::MAX)).unwrap();
    hits.merge("wide", number(2)).unwrap();
    hits.merge("page", number(1)).unwrap();
    tags.merge("page", "red").unwrap();
    db.compact().unwrap();
    let view = db.snapshot();
    hits.merge("page", number(10)).unwrap();
    tags.merge("page", "").unwrap();
    names.put("id", "first").unwrap();
    words.put("word/007", "seven").unwrap();
    words.put("word/zzz", "last").unwrap();
    words.delete("word/008").unwrap();
    db.flush().unwrap();
    hits.merge("page", number(-100)).unwrap();
    tags.merge("page", "round").unwrap();
    names.merge("id", "second").unwrap();
    drop(view);
    db.close().unwrap();
    machine
}

/// What that one says.
fn check_folding(machine: &env::Sim) {
    let db = Options::new().env(machine.clone()).open(DATABASE).unwrap();
    assert_eq!(db.keyspaces(), ["hits", "names", "tags", "words"]);
    let [hits, names, tags, words] =
        ["hits", "names", "tags", "words"].map(|name| db.keyspace(name, KeyspaceOptions::new()).unwrap());
    assert_eq!(hits.get("page").unwrap().unwrap(), number(-89));
    let then = db.as_of(9).unwrap();
    assert_eq!(then.get(&hits, "page").unwrap().unwrap(), number(1));
    let list = tags.get("page").unwrap().unwrap();
    let items: Vec<&[u8]> = append_items(&list).map(Result::unwrap).collect();
    assert_eq!(items, [b"red".as_slice(), b"", b"round"]);
    assert_eq!(names.get("id").unwrap().unwrap(), b"first");
    assert_eq!(words.range(..).count(), 120);
    assert_eq!(words.get("word/007").unwrap().unwrap(), b"seven");
    assert_eq!(words.get("word/008").unwrap(), None);
    // Both segments are asked through their indexes, the upper one behind its filter.
    let asked = words.explain("word/009").unwrap();
    let filters = asked.steps.iter().filter(|step| matches!(step, ReadStep::Segment { filter: Some(_), .. })).count();
    let slots = asked.steps.iter().filter(|step| matches!(step, ReadStep::Segment { slot: Some(_), .. })).count();
    assert_eq!((asked.segments(), filters, slots), (2, 1, 1), "{asked}");
    let report = db.verify().unwrap();
    assert!(report.is_clean(), "{report}");
    let wide = hits.get("wide").unwrap_err();
    assert!(matches!(wide, Error::Invalid { .. }) && wide.to_string().contains("9223372036854775809"), "{wide}");
    hits.merge("wide", number(-3)).unwrap();
    assert_eq!(hits.get("wide").unwrap().unwrap(), number(i64::MAX - 1));
    let other = db.keyspace("hits", KeyspaceOptions::new().merge(MergeStrategy::Append));
    assert!(matches!(other, Err(Error::Invalid { .. })), "{other:?}");
}

/// When the commits of the next database happen.
fn minute(minute: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + 60 * minute)
}

/// One that keeps its past: differences and whole values in the history tier, a tombstone without an end, range
/// tombstones with times, states of sums, values that expire, purges of both kinds, a pin.
fn build_past() -> env::Sim {
    let machine = env::Sim::new(9);
    machine.set_time(minute(0));
    let db = Options::new().env(machine.clone()).durability(Durability::Buffered).open(DATABASE).unwrap();
    let hour = Policy::mvcc(3, Duration::from_secs(3600));
    let users = db.keyspace("users", KeyspaceOptions::new().policy(hour.clone())).unwrap();
    let hits = db.keyspace("hits", KeyspaceOptions::new().policy(hour).merge(MergeStrategy::Sum)).unwrap();
    let kept = KeyspaceOptions::new().policy(Policy::tombstones(Duration::from_secs(60)));
    let mail = db.keyspace("mail", kept.ttl(Duration::from_secs(600))).unwrap();
    for version in 0..40u32 {
        machine.set_time(minute(u64::from(version)));
        users.put("ann", format!("name=ann age={version} city=somewhere-over-the-rainbow")).unwrap();
        hits.merge("page", number(i64::from(version))).unwrap();
        if version == 20 {
            users.put("bob", "25").unwrap();
            users.delete("bob").unwrap();
            users.put("cid", "30").unwrap();
            db.pin("twenty").unwrap();
            users.delete_range("c".."d").unwrap();
            mail.put("a", "first").unwrap();
            mail.put("b/1", "second").unwrap();
        }
        if version % 15 == 14 {
            db.flush().unwrap();
        }
    }
    db.compact().unwrap();
    machine.set_time(minute(40));
    users.put("ann", "the newest").unwrap();
    mail.purge("a").unwrap();
    mail.purge_prefix("b/").unwrap();
    users.delete_range("x"..).unwrap();
    db.flush().unwrap();
    db.close().unwrap();
    machine
}

/// What that one says.
fn check_past(machine: &env::Sim) {
    machine.set_time(minute(41));
    let db = Options::new().env(machine.clone()).open(DATABASE).unwrap();
    let [users, hits, mail] = ["users", "hits", "mail"].map(|name| db.keyspace(name, KeyspaceOptions::new()).unwrap());
    for version in [0, 7, 20, 39] {
        let then = db.as_of_time(minute(version)).unwrap();
        let ann = format!("name=ann age={version} city=somewhere-over-the-rainbow");
        assert_eq!(then.get(&users, "ann").unwrap().unwrap(), ann.as_bytes());
        let sum = i64::try_from(version * (version + 1) / 2).unwrap();
        assert_eq!(then.get(&hits, "page").unwrap().unwrap(), number(sum));
    }
    assert_eq!(db.as_of_time(minute(39)).unwrap().get(&mail, "a").unwrap(), None);
    assert_eq!(mail.range(..).count(), 0);
    let mut history = users.history("ann");
    assert_eq!((history.by_ref().count(), history.is_complete()), (41, true));
    assert_eq!(users.history("bob").map(|version| version.unwrap().value.is_some()).collect::<Vec<_>>(), [false, true]);
    let pinned = db.pinned("twenty").unwrap();
    assert_eq!(pinned.get(&users, "cid").unwrap().unwrap(), b"30");
    assert_eq!(users.get("cid").unwrap(), None);
    assert_eq!(pinned.time(), minute(20));
    // The keyspaces and the pin are no commits.
    assert_eq!(db.commits(..).map(Result::unwrap).filter(|commit| commit.writes == 1).count(), 2 * 40 + 6 + 4);
    let report = db.verify().unwrap();
    assert!(report.is_clean(), "{report}");
}

#[test]
fn the_past_of_format_1_is_read_and_goes_on() {
    check_past(&read("format-1-past"));
    check_past(&build_past());
}

#[test]
fn this_release_writes_format_1_to_the_byte() {
    let databases = [("format-1", build()), ("format-1-folding", build_folding()), ("format-1-past", build_past())];
    for (name, machine) in databases {
        let mut count = 0;
        for path in machine.files() {
            if path.ends_with("LOCK") {
                continue;
            }
            pin(&folder(name).join(path.strip_prefix(DATABASE).unwrap()), &machine.read_file(&path).unwrap());
            count += 1;
        }
        assert!(count >= 4, "only {count} files");
    }
}

/// One whose range tombstones are told whole: nested ones that a policy owes, over what an older segment holds; with
/// gaps, and with a purge.
fn build_ranges() -> env::Sim {
    let machine = env::Sim::new(11);
    machine.set_time(minute(0));
    let options = || Options::new().env(machine.clone()).durability(Durability::Buffered).l0_threshold(100);
    let db = options().open(DATABASE).unwrap();
    let hour = Policy::mvcc(1, Duration::from_secs(3600));
    let log = db.keyspace("log", KeyspaceOptions::new().policy(hour)).unwrap();
    let plain = db.keyspace("plain", KeyspaceOptions::new()).unwrap();
    for keyspace in [&log, &plain] {
        for i in 0..100u32 {
            keyspace.put(format!("{i:04}"), "value").unwrap();
        }
    }
    db.flush().unwrap();
    for i in 1..=60u32 {
        machine.set_time(minute(u64::from(2 * i)));
        log.delete_range(..format!("{i:04}")).unwrap();
        plain.delete_range(format!("{i:04}")..format!("{:04}", 100 - i / 2)).unwrap();
    }
    log.purge_prefix("007").unwrap();
    log.delete_range("0098"..).unwrap();
    db.flush().unwrap();
    db.close().unwrap();
    machine
}

/// What that one says.
fn check_ranges(machine: &env::Sim) {
    machine.set_time(minute(121));
    let db = Options::new().env(machine.clone()).open(DATABASE).unwrap();
    let [log, plain] = ["log", "plain"].map(|name| db.keyspace(name, KeyspaceOptions::new()).unwrap());
    let check = || {
        let keys = |range: chronolith::Range| {
            range.map(|item| String::from_utf8(item.unwrap().0.to_vec()).unwrap()).collect::<Vec<_>>()
        };
        let left: Vec<String> = (60..98).filter(|i| i / 10 != 7).map(|i| format!("{i:04}")).collect();
        assert_eq!(keys(log.range(..)), left);
        assert_eq!(keys(plain.range(..)), ["0000"]);
        // Ranges that are older than an hour are noted on those that are left.
        for i in 31..=60 {
            let then = db.as_of_time(minute(2 * i)).unwrap();
            let first = then.first(&log).unwrap().unwrap().0;
            assert_eq!(first, format!("{i:04}").as_bytes());
        }
    };
    check();
    let report = db.verify().unwrap();
    assert!(report.is_clean(), "{report}");
    db.compact().unwrap();
    check();
}

#[test]
fn whole_ranges_of_format_1_are_written_to_the_byte_and_go_on() {
    let machine = build_ranges();
    let mut whole = 0;
    for path in machine.files().into_iter().filter(|path| !path.ends_with("LOCK")) {
        let bytes = machine.read_file(&path).unwrap();
        whole += usize::from(bytes.windows(4).any(|tag| tag == b"RANW"));
        pin(&folder("format-1-ranges").join(path.strip_prefix(DATABASE).unwrap()), &bytes);
    }
    assert!(whole > 0, "no segment tells them whole");
    check_ranges(&read("format-1-ranges"));
    check_ranges(&machine);
}

/// Blocks of 512 bytes by their numbers, of which no two are equal; 0 is all zeros.
fn blocks(numbers: impl IntoIterator<Item = u16>) -> Vec<u8> {
    numbers.into_iter().flat_map(|number| number.to_le_bytes().repeat(256)).collect()
}

/// One with large values: lists, a tree, holes and an origin; two scopes; recipes in both tiers, in segments and in a
/// log, and a pack of each.
fn build_large(compression: Compression) -> env::Sim {
    use std::io::Write as _;
    let machine = env::Sim::new(12);
    machine.set_time(minute(0));
    let db = Options::new().env(machine.clone()).durability(Durability::Buffered).open(DATABASE).unwrap();
    let large = || KeyspaceOptions::new().chunk_threshold(512).compression(compression);
    let hour = Policy::mvcc(3, Duration::from_secs(3600));
    let disks = db.keyspace("disks", large().chunking(Chunking::fixed(512)).policy(hour)).unwrap();
    let tenant = db.keyspace("tenant", large().chunking(Chunking::content_defined(1024)).dedup_scope("seven")).unwrap();
    disks.put("list", blocks([1, 2, 0, 0, 3])).unwrap();
    disks.put("tree", blocks((0..300).map(|number| number % 5 + 1))).unwrap();
    tenant.put("list", blocks(1..9)).unwrap();
    db.flush().unwrap();
    machine.set_time(minute(1));
    let mut writer = disks.writer_with("list", WriteOptions::new().origin("a machine")).unwrap();
    writer.write_all(&blocks([1, 2, 7])).unwrap();
    writer.finish().unwrap();
    disks.copy("tree", &disks, "copy").unwrap();
    db.flush().unwrap();
    machine.set_time(minute(2));
    disks.put("list", blocks([5, 6])).unwrap();
    tenant.put("log", blocks(5..12)).unwrap();
    db.close().unwrap();
    machine
}

/// What that one says.
fn check_large(machine: &env::Sim) {
    machine.set_time(minute(3));
    let db = Options::new().env(machine.clone()).open(DATABASE).unwrap();
    let [disks, tenant] = ["disks", "tenant"].map(|name| db.keyspace(name, KeyspaceOptions::new()).unwrap());
    let check = || {
        let versions: Vec<Vec<u8>> =
            disks.history("list").map(|version| version.unwrap().value.unwrap().to_vec()).collect();
        assert_eq!(versions, [blocks([5, 6]), blocks([1, 2, 7]), blocks([1, 2, 0, 0, 3])]);
        let then = db.as_of_time(minute(1)).unwrap();
        assert_eq!(then.stat(&disks, "list").unwrap().unwrap().origin.as_deref(), Some("a machine"));
        for key in ["tree", "copy"] {
            assert_eq!(disks.get(key).unwrap().unwrap(), blocks((0..300).map(|number| number % 5 + 1)));
            assert_eq!(disks.recipe(key).unwrap().unwrap().height(), 1);
        }
        assert_eq!(tenant.get("list").unwrap().unwrap(), blocks(1..9));
        assert_eq!(tenant.get("log").unwrap().unwrap(), blocks(5..12));
        let report = db.verify().unwrap();
        assert!(report.is_clean(), "{report}");
    };
    check();
    // What is there is found: by its ids, of which those of a scope have the database's secret in them.
    let before = db.stats().chunks.new_chunks;
    disks.put("again", blocks([3, 1, 4, 5])).unwrap();
    tenant.put("again", blocks(1..9)).unwrap();
    assert_eq!(db.stats().chunks.new_chunks, before);
    db.compact().unwrap();
    check();
}

/// Chunks that are stored raw: what zstd makes of bytes is not of this format, that it is read is.
#[test]
fn large_values_of_format_1_are_written_to_the_byte_and_go_on() {
    let machine = build_large(Compression::None);
    let mut packs = 0;
    for path in machine.files().into_iter().filter(|path| !path.ends_with("LOCK")) {
        packs += usize::from(path.extension().is_some_and(|end| end == "pack"));
        let bytes = machine.read_file(&path).unwrap();
        pin(&folder("format-1-large").join(path.strip_prefix(DATABASE).unwrap()), &bytes);
    }
    assert_eq!(packs, 3, "two that a flush sealed, and one of the log");
    check_large(&read("format-1-large"));
    check_large(&machine);
}

#[test]
fn compressed_chunks_of_format_1_are_read_and_go_on() {
    let machine = build_large(Compression::Zstd(1));
    if writes() {
        for path in machine.files().into_iter().filter(|path| !path.ends_with("LOCK")) {
            let golden = folder("format-1-zstd").join(path.strip_prefix(DATABASE).unwrap());
            fs::create_dir_all(golden.parent().unwrap()).unwrap();
            fs::write(golden, machine.read_file(&path).unwrap()).unwrap();
        }
    }
    let kept = read("format-1-zstd");
    let len = |machine: &env::Sim| {
        let packs = machine.files().into_iter().filter(|path| path.extension().is_some_and(|end| end == "pack"));
        packs.map(|path| machine.read_file(&path).unwrap().len()).sum::<usize>()
    };
    assert!(len(&kept) < len(&build_large(Compression::None)) / 2, "{} bytes of packs", len(&kept));
    check_large(&kept);
    check_large(&machine);
}

/// The files of a database that was kept.
fn read(name: &str) -> env::Sim {
    let machine = env::Sim::new(1);
    let mut folders = vec![folder(name)];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let inside = Path::new(DATABASE).join(path.strip_prefix(folder(name)).unwrap());
                machine.write_file(&inside, fs::read(&path).unwrap());
            }
        }
    }
    machine
}

#[test]
fn strategies_and_indexes_of_format_1_are_read_and_go_on() {
    check_folding(&read("format-1-folding"));
    check_folding(&build_folding());
}

/// Keys of several partitions.
fn hashes() -> Vec<Hash> {
    (0..9000u32).map(|i| Hash::of(&i.to_le_bytes())).collect()
}

#[test]
fn the_bare_function_of_format_1_is_written_to_the_byte_and_read() {
    let golden = folder("phash-1/function");
    pin(&golden, Mphf::build(&hashes(), 7).unwrap().as_bytes());
    let function = Mphf::open(fs::read(golden).unwrap()).unwrap();
    let mut numbers: Vec<_> = hashes().iter().map(|hash| function.index(*hash).unwrap()).collect();
    // Which key has which number is part of the format: others keep things by it.
    assert_eq!(numbers[..6], [5479, 354, 3917, 404, 8326, 5327]);
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..9000));
}

#[test]
fn map_files_of_format_1_are_written_to_the_byte_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let alike = |i: u32| (i.to_be_bytes().to_vec(), number(i64::from(i) * 3).to_vec());
    let mixed = |i: u32| (format!("{}/{i}", "k".repeat(i as usize % 5)).into_bytes(), vec![b'v'; i as usize % 11]);
    let largest = (b"large".to_vec(), vec![42; 300]);
    let kept = |name: &str, built: Map| {
        let golden = folder("phash-1").join(name);
        pin(&golden, &fs::read(built.path()).unwrap());
        // A copy: what is kept may lie where nothing can be mapped or changed.
        let copy = dir.path().join(format!("{name} that was kept"));
        fs::copy(golden, &copy).unwrap();
        let map = Map::open(copy).unwrap();
        map.verify().unwrap();
        assert_eq!(map.get("no such key").unwrap(), None);
        map
    };
    let built = MapBuilder::new().seed(7).build_to(dir.path().join("a"), (0..200).map(alike)).unwrap();
    let one = kept("alike.pphm", built);
    assert!((0..200).map(alike).all(|(key, value)| one.get(key).unwrap().unwrap() == value));
    assert_eq!((one.len(), one.seed()), (200, 7));
    let entries = (0..150).map(mixed).chain([largest.clone()]);
    let two = kept("mixed.pphm", MapBuilder::new().build_to(dir.path().join("b"), entries).unwrap());
    assert!((0..150).map(mixed).chain([largest]).all(|(key, value)| two.get(key).unwrap().unwrap() == value));
    assert_eq!((two.len(), two.seed()), (151, 0));
    // A merge of maps with two seeds into one with a third.
    let options = MergeOptions::default().seed(9);
    let merged = merge_to(dir.path().join("c"), &[&one, &two, &one], &MergeStrategy::Append, options).unwrap();
    let lists = kept("merged.pphm", merged);
    assert_eq!(lists.len(), 351);
    let list = lists.get(7u32.to_be_bytes()).unwrap().unwrap();
    let items: Vec<&[u8]> = append_items(&list).map(Result::unwrap).collect();
    assert_eq!(items, [number(21), number(21)]);
}

#[test]
fn format_1_is_read_and_goes_on() {
    let machine = read("format-1");
    check(&machine.fork());
    check(&build());

    // A header that says format 2, correctly, belongs to a later release: refused, and not one byte touched.
    let segment = machine.files().into_iter().find(|path| path.ends_with("CURRENT")).unwrap();
    let mut bytes = machine.read_file(&segment).unwrap();
    bytes[24] = 2;
    let sum = crc32fast::hash(&bytes[..28]);
    bytes[28..32].copy_from_slice(&sum.to_le_bytes());
    machine.write_file(&segment, bytes);
    let files = |machine: &env::Sim| -> Vec<_> {
        machine.files().into_iter().map(|path| (machine.read_file(&path), path)).collect()
    };
    let before = files(&machine);
    let refused = Options::new().env(machine.clone()).open(DATABASE).unwrap_err();
    assert!(matches!(refused, Error::NewerFormat { version: 2, .. }), "{refused}");
    assert_eq!(files(&machine), before);
}

/// What another language must read and write too: the vectors of `docs/format/exchange.md`.
#[test]
fn questions_about_chunks_and_their_answers_are_those_of_the_format() {
    let hex = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
    };
    let byte = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
    let mut text = "\
# Messages of format 1 between stores, encoded as hexadecimal digits. The ids of a question follow each other; an answer
# has a digit for each id, in their order. What is refused is no encoding of any message.
"
    .to_owned();
    let id = |byte: u8| {
        ChunkId::from_bytes(std::array::from_fn(|at| byte.wrapping_mul(31).wrapping_add(at.to_le_bytes()[0])))
    };
    for count in [1u8, 2, 9] {
        let question = HaveYou::new((0..count).map(id)).unwrap();
        let ids: Vec<String> = question.ids().iter().map(ToString::to_string).collect();
        writeln!(text, "question | {} | {}", ids.join(" "), hex(&question.encode())).unwrap();
        assert_eq!(HaveYou::decode(&question.encode()).unwrap(), question);
    }
    // An answer is made by a database.
    let db = Options::new().env(env::Sim::new(1)).open("/db").unwrap();
    for count in [1u8, 8, 9, 20] {
        let mut ids = Vec::new();
        let mut leases = Vec::new();
        for at in 0..count {
            let lease = db.chunks().put([at, count]).unwrap();
            ids.push(if at % 3 == 0 { lease.id() } else { id(at) });
            leases.push(lease);
        }
        let answer = db.chunks().answer(&HaveYou::new(ids).unwrap()).unwrap();
        let bits: String = answer.iter().map(|has| if has { '1' } else { '0' }).collect();
        writeln!(text, "answer | {bits} | {}", hex(&answer.encode())).unwrap();
    }
    let one = hex(id(1).as_bytes());
    for (what, bytes) in [
        ("question", format!("0a1f{}", one.get(2..).unwrap())),
        ("question", format!("0aa000{one}")),
        ("question", format!("0a20{one}0a20{one}")),
        ("question", format!("0a20{one}1001")),
        ("question", format!("1220{one}")),
        ("answer", "120101".to_owned()),
        ("answer", "0801".to_owned()),
        ("answer", "08011202".to_owned() + "0100"),
        ("answer", "08011201".to_owned() + "03"),
        ("answer", "0808120100".to_owned() + "1801"),
        ("answer", "080112010108".to_owned()),
        ("answer", "0881800412010a".to_owned()),
    ] {
        let raw: Vec<u8> = bytes.as_bytes().chunks(2).map(byte).collect();
        assert!(
            if what == "question" { HaveYou::decode(&raw).is_err() } else { Have::decode(&raw).is_err() },
            "{bytes}"
        );
        writeln!(text, "refused {what} | {bytes}").unwrap();
    }
    pin(&folder("have-you-1.txt"), text.as_bytes());
}
