//! Bodies over perfect-hash functions and map files. The bits of an input's first byte:
//!
//! ```text
//!  1   the rest is the whole file; without it patches of a real one
//!  2   every checksum is computed anew behind the damage: else few inputs pass the first check
//!  12  which real file
//! ```

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use chronolith::{
    Error,
    merge::append_items,
    phash::{Hash, Map, MapBuilder, MergeOptions, Mphf, merge_to},
};

use super::{damaged, strategies::Strategy};

const WHOLE: u8 = 1;
const RESEAL: u8 = 2;

const MAP_HEADER_LEN: usize = 32;
const MAP_TAIL_LEN: usize = 40;
const LINE_LEN: usize = 24;

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// The first byte, and which of the real files it asks for.
fn how(data: &[u8]) -> (u8, usize) {
    let how = data.first().copied().unwrap_or(0);
    (how, usize::from(how >> 2 & 3))
}

fn number_at(bytes: &[u8], at: usize) -> Option<usize> {
    let eight: [u8; 8] = bytes.get(at..)?.first_chunk().copied()?;
    usize::try_from(u64::from_le_bytes(eight)).ok()
}

/// Writes the checksum of `from..to` at `at`, if all of that is inside.
fn seal(bytes: &mut [u8], from: usize, to: usize, at: usize) {
    let Some(sum) = bytes.get(from..to).map(crc32fast::hash) else { return };
    if let Some(room) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *room = sum.to_le_bytes();
    }
}

// ---------------------------------------------------------------- the bare function

fn hashes(count: u64) -> Vec<Hash> {
    (0..count).map(|number| Hash::of(&number.to_le_bytes())).collect()
}

/// The keys of all functions, and some more.
fn asked() -> &'static [Hash] {
    static HASHES: OnceLock<Vec<Hash>> = OnceLock::new();
    HASHES.get_or_init(|| hashes(9100))
}

/// Functions over few keys and over several partitions of keys.
fn functions() -> &'static [Vec<u8>; 4] {
    static FUNCTIONS: OnceLock<[Vec<u8>; 4]> = OnceLock::new();
    FUNCTIONS.get_or_init(|| {
        [100, 9000, 1, 0].map(|count| Mphf::build(&hashes(count), count).expect("a function").as_bytes().to_vec())
    })
}

/// Damaged bytes of a function: refused, or every number is below the number of keys.
pub fn mphf_open(data: &[u8]) {
    let (how, which) = how(data);
    let original = functions().get(which).cloned().unwrap_or_default();
    let mut bytes = damaged(original.clone(), data);
    if how & RESEAL != 0 {
        let end = bytes.len().saturating_sub(4);
        seal(&mut bytes, 0, end, end);
    }
    let Ok(function) = Mphf::open(&bytes) else {
        assert!(bytes != original, "what was built opens");
        return;
    };
    assert_eq!(function.as_bytes(), bytes, "a function is its bytes");
    let extremes = [0, 1, u64::MAX, 1 << 63, 0xffff_ffff].map(Hash::from);
    let mut seen = vec![false; if bytes == original { 9000 } else { 0 }];
    for hash in asked().iter().copied().chain(extremes).chain((0..128).map(|bit| Hash::from(1_u128 << bit))) {
        let index = function.index(hash);
        assert!(index.is_none_or(|index| index < function.len()), "every number is below the number of keys");
        if let Some(place) = index.and_then(|index| seen.get_mut(usize::try_from(index).unwrap_or(usize::MAX))) {
            *place = true;
        }
    }
    if bytes == original {
        let numbers = seen.iter().filter(|place| **place).count() as u64;
        assert_eq!(numbers, function.len(), "an undamaged function gives every number");
    }
}

// ---------------------------------------------------------------- map files

/// A folder for the files of one run, gone with it; in memory where there is such a place.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let shared = Path::new("/dev/shm");
        let base = if shared.is_dir() { shared.to_path_buf() } else { std::env::temp_dir() };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("chronolith-maps-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("a folder");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("a file").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _best_effort = fs::remove_dir_all(&self.0);
    }
}

/// What stands in the real maps. Their keys have some in common, the first two are of numbers.
fn contents() -> &'static [Content; 4] {
    static CONTENTS: OnceLock<[Content; 4]> = OnceLock::new();
    CONTENTS.get_or_init(|| {
        let numbers = |keys: std::ops::Range<u32>| -> Content {
            keys.map(|key| (key.to_le_bytes().to_vec(), i64::from(key).to_le_bytes().to_vec())).collect()
        };
        let text = |key: u32| key.to_le_bytes().iter().copied().cycle().take(key as usize % 23).collect();
        let mixed = |keys: std::ops::Range<u32>| -> Content {
            keys.map(|key| (key.to_le_bytes().iter().copied().take(key as usize % 4 + 1).collect(), text(key)))
                .collect()
        };
        let mut few = mixed(0..3);
        few.insert(Vec::new(), Vec::new());
        [numbers(0..150), numbers(100..230), mixed(90..200), few]
    })
}

/// The same as files: entries alike long under two seeds, entries of many lengths, very few.
fn files() -> &'static [Vec<u8>; 4] {
    static FILES: OnceLock<[Vec<u8>; 4]> = OnceLock::new();
    FILES.get_or_init(|| {
        let folder = Folder::new();
        let mut number = 0;
        contents().each_ref().map(|content| {
            number += 1;
            let path = folder.file(&format!("{number}"));
            let seed = u64::from(number % 2 == 0);
            let _map = MapBuilder::new().seed(seed).threads(1).build_to(&path, content).expect("a map");
            fs::read(&path).expect("a file just written")
        })
    })
}

/// Computes every checksum of a map file anew, as far as there is a place for it.
fn reseal_map(bytes: &mut [u8]) {
    seal(bytes, 0, MAP_HEADER_LEN - 4, MAP_HEADER_LEN - 4);
    let Some(tail_at) = bytes.len().checked_sub(MAP_TAIL_LEN) else { return };
    let directory_at = number_at(bytes, tail_at + 8).unwrap_or(usize::MAX);
    let lines = tail_at.checked_sub(directory_at).and_then(|len| len.checked_sub(LINE_LEN));
    if let Some(partitions) = lines.map(|len| len / (LINE_LEN + 4)) {
        let sums_at = directory_at + (partitions + 1) * LINE_LEN;
        for partition in 0..partitions {
            let at = |line: usize| number_at(bytes, directory_at + line * LINE_LEN + 8);
            if let Some((from, to)) = at(partition).zip(at(partition + 1)) {
                seal(bytes, from, to, sums_at + 4 * partition);
            }
        }
        seal(bytes, directory_at, tail_at, tail_at + MAP_TAIL_LEN - 12);
    }
    seal(bytes, tail_at, tail_at + MAP_TAIL_LEN - 8, tail_at + MAP_TAIL_LEN - 8);
}

/// The file that an input makes, and the content that it must have if nothing is told; nothing where the damage may
/// be beyond checksums.
fn damaged_map(data: &[u8]) -> (Vec<u8>, Option<&'static Content>) {
    let (how, which) = how(data);
    let original = files().get(which).cloned().unwrap_or_default();
    let mut bytes = damaged(original.clone(), data);
    if how & RESEAL != 0 {
        reseal_map(&mut bytes);
    }
    // One patch of up to four bytes is always found; more of them may hit a checksum together with what it is of.
    let is_small = data.len() <= 8 && how & (WHOLE | RESEAL) == 0;
    let sure = is_small || bytes == original;
    (bytes, sure.then(|| contents().get(which)).flatten())
}

/// What a map says that calls itself whole; nothing where anything was told.
fn read(map: &Map, expected: Option<&Content>) -> Option<Content> {
    let mut is_well = true;
    let absent = [vec![], vec![0; 9], b"never".to_vec()];
    for key in contents().iter().flat_map(BTreeMap::keys).chain(&absent) {
        match map.get(key) {
            Err(error) => {
                is_well = false;
                assert!(matches!(error, Error::Corrupt { .. }), "{error}");
            }
            Ok(found) => {
                if let Some(content) = expected {
                    let wanted = content.get(key).map(Vec::as_slice);
                    assert_eq!(found.as_deref(), wanted, "a get shows what was written");
                }
            }
        }
    }
    let known = || contents().iter().flat_map(BTreeMap::keys);
    if let Ok(together) = map.multi_get(known()) {
        for (key, value) in known().zip(together) {
            let one = map.get(key).expect("a get of what was got together with others");
            assert_eq!(one, value, "keys together and one by one");
        }
    }
    let all: Vec<_> = map.iter().collect();
    assert_eq!(all.len() as u64, map.len(), "an item for each key");
    let mut backwards: Vec<_> = map.iter().rev().collect();
    backwards.reverse();
    for (one, other) in all.iter().zip(&backwards) {
        match (one, other) {
            (Ok(one), Ok(other)) => assert_eq!(one, other, "both directions show the same"),
            (one, other) => assert!(one.is_err() && other.is_err(), "both directions tell the same"),
        }
    }
    let (mut both, mut count) = (map.iter(), 0);
    while both.next().is_some() {
        count += 1 + u64::from(both.next_back().is_some());
    }
    assert_eq!(count, map.len(), "both ends meet once");
    let verified = map.verify();
    if verified.is_err() || !is_well {
        return None;
    }
    let mut content = Content::new();
    for item in all {
        let (key, value) = item.expect("an item of a map that verifies");
        let found = map.get(&key).expect("a get of a map that verifies");
        assert_eq!(found.as_ref(), Some(&value), "a get shows what the iteration shows");
        content.insert(key.to_vec(), value.to_vec());
    }
    assert_eq!(content.len() as u64, map.len(), "a map that verifies has each key once");
    if let Some(expected) = expected {
        assert!(content == *expected, "a map that verifies holds what was written");
    }
    Some(content)
}

fn open(folder: &Folder, name: &str, data: &[u8]) -> Option<(Map, Option<Content>)> {
    let (bytes, expected) = damaged_map(data);
    let path = folder.file(name);
    fs::write(&path, &bytes).expect("a file");
    let map = Map::open(&path);
    match map {
        Ok(map) => {
            let content = read(&map, expected);
            Some((map, content))
        }
        Err(error) => {
            let told = matches!(error, Error::Corrupt { .. } | Error::NewerFormat { .. });
            assert!(told, "{error}");
            assert!(!files().contains(&bytes), "what was built opens: {error}");
            None
        }
    }
}

/// A damaged map file.
pub fn map_open(data: &[u8]) {
    let folder = Folder::new();
    let _read = open(&folder, "map", data);
}

// ---------------------------------------------------------------- merges

fn items(list: &[u8]) -> Vec<Vec<u8>> {
    append_items(list).map(|item| item.expect("a list").to_vec()).collect()
}

/// Checks what came of merging maps that verify.
fn check_merged(strategy: Strategy, maps: &[&Content; 2], merged: chronolith::Result<Map>) {
    let mut all: BTreeMap<&Vec<u8>, Vec<&Vec<u8>>> = BTreeMap::new();
    for (key, value) in maps.iter().copied().flatten() {
        all.entry(key).or_default().push(value);
    }
    let is_refused = all.values().any(|values| strategy.fold(values).is_none());
    let merged = match merged {
        Ok(merged) => merged,
        Err(Error::Duplicate { key }) => {
            assert!(all.get(&key).is_some_and(|values| values.len() > 1), "a duplicate is one");
            return assert!(strategy == Strategy::ErrorOnDuplicate, "only one strategy minds duplicates");
        }
        Err(error) => return assert!(is_refused, "{strategy:?}: {error}"),
    };
    assert!(!is_refused, "{strategy:?} takes what it cannot combine");
    assert_eq!(merged.len(), all.len() as u64, "every key once");
    for (key, values) in all {
        let found = merged.get(key).expect("a get of a new map").expect("a key of the maps");
        if strategy == Strategy::Append {
            assert_eq!(items(&found), values.into_iter().cloned().collect::<Vec<_>>(), "a list of the values");
            continue;
        }
        let wanted = strategy.fold(&values).expect("checked above");
        assert_eq!(found, wanted.as_slice(), "{strategy:?}");
    }
}

/// Two damaged map files, merged with every strategy. The input is that of the first behind its length of two bytes,
/// then that of the second; the first byte of all says what else: 1, the result has the seed of neither; the other
/// bits which strategy, 0 all of them.
pub fn map_merge(data: &[u8]) {
    let Some(([options, low, high], rest)) = data.split_first_chunk() else { return };
    let (first, second) = rest.split_at(usize::from(u16::from_le_bytes([*low, *high])).min(rest.len()));
    let folder = Folder::new();
    let Some((one, one_content)) = open(&folder, "one", first) else { return };
    let Some((two, two_content)) = open(&folder, "two", second) else { return };
    let strategies = [
        Strategy::LastWins,
        Strategy::FirstWins,
        Strategy::Sum,
        Strategy::Append,
        Strategy::ErrorOnDuplicate,
        Strategy::Longest,
    ];
    let only = usize::from(options >> 1) % (strategies.len() + 1);
    let wanted = strategies.into_iter().enumerate().filter(|(at, _)| only == 0 || only == at + 1);
    for (_, strategy) in wanted {
        let path = folder.file("merged");
        let seed = if options & 1 == 0 { one.seed() } else { 77 };
        let how = MergeOptions::default().memory_budget(1).threads(2).seed(seed);
        let merged = merge_to(&path, &[&one, &two], &strategy.option(), how);
        match &merged {
            // Whatever went in, what is written is sound.
            Ok(merged) => merged.verify().expect("a new map"),
            Err(_) => assert_eq!(folder.names(), ["one", "two"], "what failed leaves nothing"),
        }
        if let (Some(one), Some(two)) = (&one_content, &two_content) {
            check_merged(strategy, &[one, two], merged);
        }
        if path.exists() {
            fs::remove_file(path).expect("the merged map");
        }
        assert_eq!(folder.names(), ["one", "two"], "a merge leaves nothing beside its result");
    }
}

/// The real bytes that a body damages.
pub(super) fn original(target: &str) -> Option<Vec<u8>> {
    match target {
        "mphf_open" => functions().first().cloned(),
        "map_open" => files().first().cloned(),
        _ => None,
    }
}
