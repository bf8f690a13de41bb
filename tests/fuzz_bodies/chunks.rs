//! Bodies over large values: recipes, packs, and where values are cut.

use std::{io::Read, path::PathBuf, sync::OnceLock};

use chronolith::{
    Chunking, Compression, Db, Keyspace, KeyspaceOptions,
    env::{Loss, Sim},
};

use super::{damaged, options, past};

/// Which real file or recipe is damaged.
const WHICH: u8 = 4 | 8;
/// Every checksum is computed anew behind the damage.
const RESEAL: u8 = 2;

const HEADER_LEN: usize = 32;
const LOG_RECORD_LEN: usize = 24;
const PACK_RECORD_LEN: usize = 64;
const PACK_TAIL_LEN: usize = 40;

/// Room beside what is there, as in the bodies of the past.
const ROOM: u64 = 1000 << 10;

/// Bytes that are read of a value that says it is longer: a damaged recipe may tell any length, of zeros.
const READ_MAX: u64 = 1 << 20;

fn large(chunk: u64) -> KeyspaceOptions {
    KeyspaceOptions::new().chunk_threshold(512).chunking(Chunking::fixed(chunk))
}

/// Bytes that do not repeat.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}

/// A database whose packs are small: one that a flush sealed and one that only the log knows. Its last batch writes a
/// recipe to the key "z".
struct Template {
    sim: Sim,
    packs: Vec<PathBuf>,
    log: PathBuf,
    /// Recipes as they stand in entries: a list, holes and an origin, and a tree.
    recipes: Vec<Vec<u8>>,
}

fn template() -> &'static Template {
    static TEMPLATE: OnceLock<Template> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let sim = Sim::new(3);
        sim.set_space(Some(2 << 20));
        let db = options(&sim).open("db").expect("a new database");
        let data = db.keyspace("data", large(512)).expect("a keyspace");
        let text: Vec<u8> = b"a line that compresses\n".iter().copied().cycle().take(3000).collect();
        let mut recipes = Vec::new();
        for (key, value) in [("a", noise(1, 1500)), ("b", text), ("c", [noise(1, 512), vec![0; 2048]].concat())] {
            let _receipt = data.put(key, value).expect("a put");
        }
        db.flush().expect("a flush");
        let _receipt = data.put("b", noise(2, 1600)).expect("a put");
        let _receipt = data.put("small", "value").expect("a put");
        let values = [noise(2, 2000), [noise(3, 512), vec![0; 5000], noise(1, 600)].concat(), noise(4, 300 * 512)];
        for (number, value) in values.into_iter().enumerate() {
            let options = chronolith::WriteOptions::new().origin(if number == 1 { "a place" } else { "" });
            let mut writer = data.writer_with("z", options).expect("a writer");
            std::io::Write::write_all(&mut writer, &value).expect("a value");
            let _stored = writer.finish().expect("a value");
            recipes.push(last_recipe(&sim.read_file(&log_of(&sim)).expect("a log")).expect("a recipe").to_vec());
        }
        drop(data);
        sim.cut_power_with(Loss::Nothing);
        drop(db);
        let packs: Vec<_> = sim.files().into_iter().filter(|path| ends_with(path, "pack")).collect();
        assert!(packs.len() >= 2, "{packs:?}");
        let len = |path: &PathBuf| sim.read_file(path).map_or(0, |bytes| bytes.len() as u64);
        sim.set_space(Some(sim.files().iter().map(len).sum::<u64>() + ROOM));
        Template { log: log_of(&sim), packs, recipes, sim }
    })
}

fn ends_with(path: &std::path::Path, end: &str) -> bool {
    path.extension().is_some_and(|there| there == end)
}

fn log_of(sim: &Sim) -> PathBuf {
    sim.files().into_iter().rfind(|path| ends_with(path, "wal")).expect("a log")
}

/// The records of a log: where each begins, and the length of its payload.
fn records(bytes: &[u8]) -> Vec<(usize, usize)> {
    let (mut at, mut found) = (HEADER_LEN, Vec::new());
    while let Some(len) = past::u32_at(bytes, at + 4)
        && bytes.get(at + 20).is_some_and(|kind| *kind == 1)
        && at + LOG_RECORD_LEN + len <= bytes.len()
    {
        found.push((at, len));
        at = (at + LOG_RECORD_LEN + len).next_multiple_of(8);
    }
    found
}

fn varint(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 127 {
        bytes.push(number.to_le_bytes()[0] | 128);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
    bytes
}

/// What precedes a recipe in a batch of one operation: keyspace 16, key "z".
const OPERATION: [u8; 4] = [5, 16, 1, b'z'];
const BATCH_HEADER_LEN: usize = 24;

/// The recipe in the last record of a log.
fn last_recipe(log: &[u8]) -> Option<&[u8]> {
    let (at, len) = *records(log).last()?;
    let batch = log.get(at + LOG_RECORD_LEN..at + LOG_RECORD_LEN + len)?;
    let value = batch.get(BATCH_HEADER_LEN..)?.strip_prefix(&OPERATION)?;
    let digits = value.iter().position(|byte| *byte < 128)? + 1;
    let len = value.iter().take(digits).rev().fold(0, |len, byte| len << 7 | usize::from(byte & 127));
    value.get(digits..digits + len)
}

/// Puts another value where the recipe of the last record is, as if a release had written it: checksums hold, and the
/// batch asks nothing of any pack.
fn with_recipe(mut log: Vec<u8>, value: &[u8]) -> Vec<u8> {
    let Some((at, _)) = records(&log).last().copied() else { return log };
    let Some(header) = log.get(at..at + LOG_RECORD_LEN + BATCH_HEADER_LEN).map(<[u8]>::to_vec) else { return log };
    log.truncate(at);
    log.extend(header);
    // Not even the bit that says that reaches follow.
    past::put_u32(&mut log, at + LOG_RECORD_LEN + 20, 0);
    log.extend(OPERATION);
    log.extend(varint(value.len()));
    log.extend(value);
    let len = log.len() - at - LOG_RECORD_LEN;
    past::put_u32(&mut log, at + 4, u32::try_from(len).unwrap_or(0));
    log.resize(log.len().next_multiple_of(8), 0);
    past::reseal_records(&mut log);
    log
}

/// Computes the checksums of a pack anew; returns the digest of its table, if it has one.
fn reseal_pack(bytes: &mut [u8]) -> Option<u32> {
    let seed = bytes.get(4..24).map(crc32fast::hash).unwrap_or_default();
    let tail = bytes.len().checked_sub(PACK_TAIL_LEN).filter(|tail| bytes.get(tail + 36..) == Some(b"PAKE"));
    let table = tail.and_then(|tail| past::u32_at(bytes, tail)).filter(|table| Some(*table) <= tail);
    let (mut at, end) = (HEADER_LEN, table.unwrap_or(bytes.len()));
    while at + PACK_RECORD_LEN <= end
        && let Some(len) = past::u32_at(bytes, at + 8)
        && let Some(payload) = bytes.get(at + PACK_RECORD_LEN..(at + PACK_RECORD_LEN).saturating_add(len))
    {
        let sum = crc32fast::hash(payload);
        past::put_u32(bytes, at + 4, sum);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        hasher.update(&(at as u64).to_le_bytes());
        hasher.update(bytes.get(at + 4..at + PACK_RECORD_LEN).unwrap_or_default());
        past::put_u32(bytes, at, hasher.finalize());
        at = (at + PACK_RECORD_LEN + len).next_multiple_of(8);
    }
    let (tail, table) = (tail?, table?);
    let sum = bytes.get(table..tail).map(crc32fast::hash)?;
    past::put_u32(bytes, tail + 16, sum);
    let sum = bytes.get(tail..tail + 32).map(crc32fast::hash)?;
    past::put_u32(bytes, tail + 32, sum);
    bytes.get(table..).map(crc32fast::hash)
}

/// Reads every key in every way. What is told of a value agrees with its bytes, wherever they can be read.
fn read(db: &Db) {
    let _report = db.verify();
    let _stats = db.stats();
    for name in db.keyspaces() {
        let Ok(data) = db.keyspace(&name, KeyspaceOptions::new()) else { return };
        let _scanned = data.range(.."y").count();
        let _back = data.range(.."y").rev().filter(Result::is_err).count();
        for key in ["a", "b", "c", "small", "z"] {
            read_one(&data, key);
        }
    }
}

fn read_one(data: &Keyspace, key: &str) {
    let recipe = data.recipe(key);
    let stat = match (data.stat(key), &recipe) {
        (Ok(Some(stat)), _) => stat,
        // The nodes of a tree may be damaged.
        (stat, recipe) => {
            let is_list =
                recipe.as_ref().is_ok_and(|recipe| recipe.as_ref().is_some_and(|recipe| recipe.height() == 0));
            return assert!(!is_list, "{recipe:?} is there, and {stat:?}");
        }
    };
    let part = data.read_at(key, stat.bytes / 2, 700);
    let Ok(Some(mut reader)) = data.reader(key) else { return };
    assert_eq!(reader.len(), stat.bytes, "reader and description agree on the length");
    let mut streamed = Vec::new();
    if reader.by_ref().take(READ_MAX).read_to_end(&mut streamed).is_err() || stat.bytes > READ_MAX {
        return;
    }
    assert_eq!(streamed.len() as u64, stat.bytes, "a stream is as long as was said");
    if let Ok(value) = data.get(key) {
        assert_eq!(value.as_deref(), Some(streamed.as_slice()), "a get and a stream show the same");
    }
    if let Ok(Some(part)) = part {
        let from = streamed.len() / 2;
        let wanted = streamed.get(from..streamed.len().min(from + 700)).expect("a half");
        assert_eq!(&*part, wanted, "a part is that of the whole");
    }
    if let Ok(Some(recipe)) = recipe {
        let len: u64 = recipe.references().map(|(_, len)| len).sum();
        assert_eq!(len, stat.bytes, "the parts are as long as the whole");
    }
}

/// Reads, then writes over and moves what was read, which may be refused unless all is whole, and reads once more.
fn use_it(sim: &Sim, is_whole: bool) {
    for _ in 0..2 {
        let db = match options(sim).open("db") {
            Ok(db) => db,
            Err(error) => return assert!(!is_whole, "an open of what is whole: {error}"),
        };
        read(&db);
        if is_whole {
            let report = db.verify().expect("a check of what is whole");
            assert!(report.is_clean(), "{report}");
            let data = db.keyspace("data", KeyspaceOptions::new()).expect("a keyspace");
            assert!(data.get("z").expect("a get of what is whole").is_some(), "the last value is there");
        }
        if let Ok(data) = db.keyspace("data", KeyspaceOptions::new()) {
            let _copied = data.copy("z", &data, "z copied");
            if let Ok(Some(recipe)) = data.recipe("z") {
                let _adopted = data.adopt("z adopted", &recipe);
            }
            let _put = data.put("a", noise(1, 1500));
        }
        let (_flushed, _compacted) = (db.flush(), db.compact());
        read(&db);
        if db.close().is_err() {
            return;
        }
    }
}

/// A recipe in a log whose checksums hold: what a later release, or a malicious file, may contain.
pub fn recipe_decode(data: &[u8]) {
    let template = template();
    let which = usize::from(data.first().copied().unwrap_or(0) & WHICH) / 4;
    let Some(recipe) = template.recipes.get(which % template.recipes.len()) else { return };
    let sim = template.sim.fork();
    let log = sim.read_file(&template.log).expect("a log");
    let value = damaged(recipe.clone(), data);
    let is_whole = value == *recipe;
    sim.write_file(&template.log, with_recipe(log, &value));
    use_it(&sim, is_whole);
}

/// A damaged pack.
pub fn pack_open(data: &[u8]) {
    let template = template();
    let how = data.first().copied().unwrap_or(0);
    let which = usize::from(how & WHICH) / 4;
    let Some(path) = template.packs.get(which % template.packs.len()) else { return };
    let sim = template.sim.fork();
    let original = sim.read_file(path).expect("a file that was listed");
    let mut bytes = damaged(original.clone(), data);
    if how & RESEAL != 0 {
        let old = reseal_pack(&mut original.clone());
        if let (Some(old), Some(new)) = (old, reseal_pack(&mut bytes)) {
            let manifest = past::manifest(&sim);
            let mut patched = sim.read_file(&manifest).expect("a manifest");
            past::reseal_manifest(&mut patched, old, new);
            sim.write_file(&manifest, patched);
        }
    }
    let is_whole = bytes == original;
    sim.write_file(path, bytes);
    use_it(&sim, is_whole);
}

/// Values that repeat themselves, cut as `docs/format/chunking.md` defines it, by its words.
pub fn chunker(data: &[u8]) {
    let [size, len, rest @ ..] = data else { return };
    let size = 1024 + u64::from(*size) * 17;
    // Fewer chunks than make a tree.
    let len = usize::from(*len) * 256 + rest.len();
    let period = rest.len().max(1);
    let byte = |at: usize| rest.get(at % period).copied().unwrap_or(0).wrapping_add((at / 7919).to_le_bytes()[0]);
    let value: Vec<u8> = (0..len).map(byte).collect();
    let sim = Sim::new(1);
    sim.set_space(Some(1 << 20));
    let chunking = Chunking::content_defined(size);
    let db = options(&sim).open("db").expect("a new database");
    let how = KeyspaceOptions::new().chunk_threshold(512).chunking(chunking).compression(Compression::None);
    let data = db.keyspace("data", how).expect("a keyspace");
    let _receipt = data.put("k", &value).expect("a put");
    assert_eq!(data.get("k").expect("a get").as_deref(), Some(value.as_slice()), "a value comes back");
    let Some(recipe) = data.recipe("k").expect("a recipe") else {
        assert!(value.len() < 512, "a value of {} bytes is cut", value.len());
        return;
    };
    assert_eq!(recipe.height(), 0, "a list");
    let found: Vec<_> = recipe.references().map(|(id, len)| (id.is_none(), len)).collect();
    let mut wanted: Vec<(bool, u64)> = Vec::new();
    for chunk in cut(usize::try_from(size).unwrap_or(0), &value) {
        let is_hole = chunk.iter().all(|byte| *byte == 0);
        match wanted.last_mut() {
            Some((true, len)) if is_hole => *len += chunk.len() as u64,
            _ => wanted.push((is_hole, chunk.len() as u64)),
        }
    }
    assert_eq!(found, wanted, "{chunking} of {} bytes", value.len());
}

/// The definition of content-defined cuts.
fn cut(size: usize, mut value: &[u8]) -> Vec<&[u8]> {
    let (min, max) = (size / 2, size + size / 2);
    let mut chunks = Vec::new();
    while !value.is_empty() {
        let score = |at: &usize| {
            let x = value.get(at - 4..*at).and_then(<[u8]>::first_chunk).copied().map_or(0, u32::from_le_bytes);
            2_438_952_949u32.wrapping_mul(x).wrapping_add(878_928_995)
        };
        let end = if value.len() <= min {
            value.len()
        } else {
            (min..=max.min(value.len())).min_by_key(score).unwrap_or(min)
        };
        let (chunk, rest) = value.split_at(end);
        chunks.push(chunk);
        value = rest;
    }
    chunks
}

/// The real file, or recipe, that a body damages.
pub(super) fn original(target: &str) -> Option<Vec<u8>> {
    let template = template();
    match target {
        "recipe_decode" => template.recipes.first().cloned(),
        "pack_open" => template.packs.first().and_then(|path| template.sim.read_file(path)),
        _ => None,
    }
}
