//! Perfect-hash maps by themselves: what goes in comes out, whatever the order, the memory, the threads and the damage.
//!
//! Entries are drawn, built over and merged, and held against a map in memory. `CHRONOLITH_MAPS_SEED` sets another
//! seed, `CHRONOLITH_MAPS_CASES` how many cases each property gets, `CHRONOLITH_MAPS_FULL=1` flips every bit instead
//! of one in each byte.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/damage.rs"]
#[expect(dead_code, reason = "a part of it is for other tests")]
mod damage;
#[path = "support/dice.rs"]
#[expect(dead_code, reason = "a part of it is for other tests")]
mod dice;
#[path = "support/strategies.rs"]
#[expect(dead_code, reason = "a part of it is for other tests")]
mod strategies;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use chronolith::{
    Error, KeyspaceOptions, Merge, MergeStrategy, Options, env,
    merge::append_items,
    phash::{Hash, Map, MapBuilder, MergeOptions, Mphf, merge_to},
};
use damage::Damage;
use dice::Dice;
use strategies::Strategy;

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// The least that may be asked for.
const SMALL_BUDGET: u64 = 1 << 20;

fn number_of(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

fn seed() -> u64 {
    number_of("CHRONOLITH_MAPS_SEED", 1)
}

/// The numbers of one case.
fn dice_of(case: u64) -> Dice {
    Dice(seed() << 32 ^ case)
}

/// Lengths that the keys or the values of a map have.
#[derive(Clone, Copy, Debug)]
enum Lengths {
    Alike(usize),
    Mixed(usize),
}

impl Lengths {
    fn draw(self, dice: &mut Dice) -> usize {
        match self {
            Self::Alike(len) => len,
            Self::Mixed(most) => dice.below(most + 1),
        }
    }
}

/// Drawn entries; keys are numbered from a small pool, so that maps have some in common.
fn draw_content(dice: &mut Dice, count: usize, keys: Lengths, values: Lengths) -> Content {
    let mut content = Content::new();
    let mut tries = 0;
    while content.len() < count && tries < 4 * count + 8 {
        tries += 1;
        let number = dice.below(2 * count);
        let len = keys.draw(dice);
        // Keys with nothing but a beginning in common, and keys with all but an end.
        let mut key = number.to_le_bytes().to_vec();
        if number.is_multiple_of(3) {
            key.reverse();
        }
        key.resize(len.max(if len == 0 { 0 } else { 4 }), 7);
        let value = values.draw(dice);
        content.insert(key, dice.bytes(value));
    }
    if dice.one_in(50) && count > 0 {
        let largest = dice.bytes(300_000);
        content.insert(vec![9; 65_536], largest);
    }
    content
}

/// A size class: mostly small ones, some with several partitions, some that do not fit the least memory.
fn draw_count(dice: &mut Dice) -> usize {
    match dice.below(16) {
        0 => 0,
        1..=3 => 1 + dice.below(3),
        4..=9 => dice.below(300),
        10..=13 => dice.below(9000),
        _ => 30_000 + dice.below(20_000),
    }
}

fn draw_lengths(dice: &mut Dice) -> (Lengths, Lengths) {
    let keys = match dice.below(4) {
        0 => Lengths::Mixed(60),
        1 => Lengths::Mixed(4),
        2 => Lengths::Alike(8),
        _ => Lengths::Alike(40),
    };
    let values = match dice.below(5) {
        0 => Lengths::Alike(0),
        1 => Lengths::Alike(8),
        2 => Lengths::Alike(100),
        3 => Lengths::Mixed(3),
        _ => Lengths::Mixed(250),
    };
    (keys, values)
}

/// A folder that is faster than a disk, where there is one.
fn folder_in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Names of the files in a folder.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// That a map says exactly this, asked in every way.
fn check(map: &Map, content: &Content, dice: &mut Dice) {
    assert_eq!((map.len(), map.is_empty()), (content.len() as u64, content.is_empty()));
    for (key, value) in content {
        assert_eq!(map.get(key).unwrap().unwrap(), value.as_slice(), "{}", key.escape_ascii());
        let mut near = key.clone();
        match near.last_mut() {
            Some(last) if key.len() % 2 == 0 => *last ^= 1,
            _ => near.push(0),
        }
        assert_eq!(map.contains(&near).unwrap(), content.contains_key(&near), "{}", near.escape_ascii());
    }
    let together = map.multi_get(content.keys()).unwrap();
    assert!(together.iter().map(|value| value.as_deref()).eq(content.values().map(|value| Some(value.as_slice()))));
    assert_eq!(map.multi_get(["no such key"; 40]).unwrap(), vec![None; 40]);
    for _ in 0..50 {
        let len = dice.below(30);
        let key = dice.bytes(len);
        assert_eq!(map.get(&key).unwrap().as_deref(), content.get(&key).map(Vec::as_slice));
    }
    let forwards: Vec<_> = map.iter().map(Result::unwrap).collect();
    let mut backwards: Vec<_> = map.iter().rev().map(Result::unwrap).collect();
    backwards.reverse();
    assert!(forwards == backwards, "both directions show the same");
    let all: Content = forwards.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
    assert!(all == *content && forwards.len() == content.len(), "the iteration shows everything once");
    // From both ends in turns.
    let (mut iter, mut front, mut back) = (map.iter(), Vec::new(), Vec::new());
    loop {
        assert_eq!(iter.size_hint().0 + front.len() + back.len(), forwards.len());
        let item = if dice.one_in(2) {
            iter.next().map(|item| front.push(item.unwrap()))
        } else {
            iter.next_back().map(|item| back.push(item.unwrap()))
        };
        if item.is_none() {
            break;
        }
    }
    assert!(iter.next().is_none() && iter.next_back().is_none(), "an end stays one");
    back.reverse();
    assert!([front, back].concat() == forwards, "both ends meet once");
    map.verify().unwrap();
}

#[test]
fn what_goes_in_comes_out_whatever_the_order_the_memory_and_the_threads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let mut spilled = 0;
    for case in 0..number_of("CHRONOLITH_MAPS_CASES", 48) {
        let dice = &mut dice_of(case);
        let (keys, values) = draw_lengths(dice);
        let count = draw_count(dice);
        let content = draw_content(dice, count, keys, values);
        let seed = if dice.one_in(3) { 0 } else { dice.next() };
        let mut entries: Vec<_> = content.iter().collect();
        let map = MapBuilder::new().seed(seed).build_to(&path, entries.iter().copied()).unwrap();
        assert_eq!((map.seed(), map.path()), (seed, path.as_path()));
        check(&map, &content, dice);
        let bytes = fs::read(&path).unwrap();
        dice.shuffle(&mut entries);
        let threads = 1 + dice.below(3);
        // Looked at from inside the iterator: whether anything had to be spilled.
        let mut files = 0;
        let entries = entries.into_iter().enumerate().inspect(|(index, _)| {
            if index % 4096 == 0 {
                files = files.max(names(dir.path()).len());
            }
        });
        let builder = MapBuilder::new().seed(seed).memory_budget(0).threads(threads);
        drop(builder.build_to(&path, entries.map(|(_, entry)| entry)).unwrap());
        spilled += u32::from(files > 1);
        assert!(fs::read(&path).unwrap() == bytes, "case {case}: other bytes with {threads} threads and little memory");
        check(&Map::open(&path).unwrap(), &content, dice);
        assert_eq!(names(dir.path()), ["map"], "case {case}: nothing is left beside the map");
    }
    assert!(spilled >= 3, "only {spilled} cases spilled");
}

/// That a merged map holds what the strategy makes of these.
fn check_merged(merged: &Map, strategy: Strategy, all: &BTreeMap<Vec<u8>, Vec<Vec<u8>>>, dice: &mut Dice) {
    if strategy == Strategy::Append {
        assert_eq!(merged.len(), all.len() as u64);
        for (key, values) in all {
            let list = merged.get(key).unwrap().unwrap();
            let items: Vec<_> = append_items(&list).map(|item| item.unwrap().to_vec()).collect();
            assert_eq!(items, *values, "the items of {}", key.escape_ascii());
        }
        return merged.verify().unwrap();
    }
    let content = all.iter().map(|(key, values)| (key.clone(), strategy.fold(values).unwrap())).collect();
    check(merged, &content, dice);
}

#[test]
fn merging_gives_what_the_strategy_says_of_the_values_in_the_order_of_the_maps() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spilled, mut refused) = (0, 0);
    for case in 0..number_of("CHRONOLITH_MAPS_CASES", 36) {
        let dice = &mut dice_of(1000 + case);
        let strategies = [
            Strategy::LastWins,
            Strategy::FirstWins,
            Strategy::Sum,
            Strategy::Append,
            Strategy::ErrorOnDuplicate,
            Strategy::Joined("|"),
        ];
        let strategy = strategies[dice.below(strategies.len())];
        let (keys, mut values) = draw_lengths(dice);
        if strategy == Strategy::Sum && !dice.one_in(8) {
            values = Lengths::Alike(8);
        }
        let how_many = dice.below(4);
        let seeds = [[0; 4], [0, 0, 5, 0], [1, 2, 3, 4]][dice.below(3)];
        let mut all: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
        let mut maps = Vec::new();
        for (number, seed) in seeds.into_iter().enumerate().take(how_many) {
            let count = draw_count(dice);
            let mut content = draw_content(dice, count, keys, values);
            if strategy == Strategy::Sum && !dice.one_in(8) {
                // Sums that fit.
                content.retain(|_, value| value.len() == 8);
                for value in content.values_mut() {
                    value[7] >>= 3;
                }
            }
            let path = dir.path().join(format!("input {number}"));
            maps.push(MapBuilder::new().seed(seed).build_to(path, &content).unwrap());
            for (key, value) in content {
                all.entry(key).or_default().push(value);
            }
        }
        let maps: Vec<&Map> = maps.iter().collect();
        let before = names(dir.path());
        let path = dir.path().join("merged");
        let seed = if dice.one_in(2) { seeds[0] } else { dice.next() };
        let merge = |budget: u64, threads: usize, files: &AtomicU64| {
            let options = MergeOptions::default().memory_budget(budget).threads(threads).seed(seed);
            let told = options.progress(|done| {
                assert!(done.entries <= done.total);
                files.fetch_max(names(dir.path()).len() as u64, Ordering::Relaxed);
                ControlFlow::Continue(())
            });
            merge_to(&path, &maps, &strategy.option(), told)
        };
        let files = AtomicU64::new(0);
        let is_refused = all.values().any(|values| strategy.fold(values).is_none());
        let merged = merge(256 << 20, 2, &files);
        if is_refused {
            refused += 1;
            match (strategy, merged.unwrap_err()) {
                (Strategy::ErrorOnDuplicate, Error::Duplicate { key }) => assert!(all[&key].len() > 1),
                (Strategy::Sum, Error::Invalid { .. }) => {}
                (_, error) => panic!("case {case}, {strategy:?}: {error}"),
            }
            assert_eq!(names(dir.path()), before, "case {case}: nothing is left of a merge that was refused");
        } else {
            check_merged(&merged.unwrap(), strategy, &all, dice);
            let bytes = fs::read(&path).unwrap();
            let (threads, files) = (1 + dice.below(3), AtomicU64::new(0));
            drop(merge(0, threads, &files).unwrap());
            // The inputs, the map before and the one being written are there anyway.
            spilled += u32::from(files.into_inner() > how_many as u64 + 2);
            assert!(fs::read(&path).unwrap() == bytes, "case {case}, {strategy:?}: other bytes with {threads} threads");
            fs::remove_file(&path).unwrap();
            assert_eq!(names(dir.path()), before, "case {case}: nothing is left beside the map");
        }
    }
    assert!(spilled >= 2 && refused >= 2, "{spilled} cases spilled, {refused} were refused");
}

/// Enough entries that the least memory does not hold them.
fn several_mib() -> Vec<(Vec<u8>, Vec<u8>)> {
    (0..30_000_u32).map(|number| (number.to_le_bytes().to_vec(), vec![number.to_le_bytes()[0]; 150])).collect()
}

#[test]
fn a_duplicate_is_named_wherever_it_hides_and_the_file_before_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let old = MapBuilder::new().build_to(&path, [("old", "value")]).unwrap();
    let bytes = fs::read(&path).unwrap();
    let dice = &mut dice_of(7);
    for count in [2, 3, 50, 5000, 30_000] {
        for budget in [SMALL_BUDGET, 256 << 20] {
            let mut entries = several_mib();
            entries.truncate(count);
            let (from, to) = (dice.below(count), dice.below(count));
            let twice = entries[from].0.clone();
            entries.insert(to, (twice.clone(), dice.bytes(150)));
            let built = MapBuilder::new().memory_budget(budget).threads(2).build_to(&path, entries);
            assert!(matches!(built, Err(Error::Duplicate { key }) if key == twice), "{count} keys, {from} and {to}");
            assert_eq!(names(dir.path()), ["map"]);
            assert!(fs::read(&path).unwrap() == bytes, "the file before stays as it was");
        }
    }
    assert_eq!(old.get("old").unwrap().unwrap(), "value");
}

#[test]
fn a_merge_that_is_broken_off_leaves_no_file_and_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("merged");
    drop(MapBuilder::new().build_to(&path, [("old", "value")]).unwrap());
    let build = |name: &str, seed| MapBuilder::new().seed(seed).build_to(dir.path().join(name), several_mib()).unwrap();
    let (one, two) = (build("one", 0), build("two", 3));
    let before: Vec<_> =
        names(dir.path()).into_iter().map(|name| (fs::read(dir.path().join(&name)).unwrap(), name)).collect();
    let mut calls = u64::MAX;
    let mut at = 0;
    while at < calls {
        for threads in [1, 3] {
            let mut told = 0;
            let mut last = 0;
            let options = MergeOptions::default().memory_budget(0).threads(threads).progress(|done| {
                assert!(done.entries >= last && done.total == 60_000, "{done:?} after {last}");
                last = done.entries;
                told += 1;
                if told > at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            let merged = merge_to(&path, &[&one, &two], &MergeStrategy::LastWins, options);
            match merged {
                Err(Error::Cancelled) => {
                    let after: Vec<_> = names(dir.path())
                        .into_iter()
                        .map(|name| (fs::read(dir.path().join(&name)).unwrap(), name))
                        .collect();
                    assert!(after == before, "{:?} after call {at}", names(dir.path()));
                }
                Ok(merged) => {
                    calls = calls.min(told);
                    assert_eq!((last, merged.len()), (60_000, 30_000), "at the end everything was told");
                    fs::write(&path, &before[0].0).unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        }
        at += 1;
    }
    assert!(calls > 3, "it was told {calls} times");
}

/// Runs what must end.
fn within<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let worker = thread::spawn(move || sender.send(work()));
    let result = receiver.recv_timeout(Duration::from_secs(60));
    if matches!(result, Err(mpsc::RecvTimeoutError::Timeout)) {
        panic!("{what}: it never ends");
    }
    worker.join().unwrap_or_else(|_| panic!("{what}: a panic")).unwrap();
    result.unwrap()
}

/// Dawdles over the first key that it is asked about, and panics if it is told to.
struct Slow {
    calls: AtomicU64,
    panics_at: u64,
}

impl Merge for Slow {
    fn merge(&self, _key: &[u8], _older: &[u8], newer: &[u8]) -> chronolith::Result<Vec<u8>> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        if call == 0 {
            thread::sleep(Duration::from_millis(300));
        }
        assert_ne!(call, self.panics_at, "the user's own");
        Ok(newer.to_vec())
    }
}

#[test]
fn what_panics_in_the_hands_of_the_user_goes_on_to_the_caller_and_leaves_nothing() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let path = dir.path().join("map");
    // An iterator of entries, before and after something was spilled.
    for at in [0, 10, 29_000] {
        let entries = several_mib().into_iter().enumerate().map(|(index, entry)| {
            assert_ne!(index, at, "the user's own");
            entry
        });
        let built = catch_unwind(AssertUnwindSafe(|| MapBuilder::new().memory_budget(0).build_to(&path, entries)));
        assert!(built.is_err());
        assert!(names(dir.path()).is_empty(), "{:?}", names(dir.path()));
    }
    // A strategy and a listener, while other workers have run ahead and wait.
    let map = MapBuilder::new().build_to(dir.path().join("in"), several_mib()).unwrap();
    for (panics_at, told_panics, threads) in
        [(0, false, 3), (20_000, false, 3), (u64::MAX, true, 1), (u64::MAX, true, 3), (u64::MAX, true, 8)]
    {
        let (home, path, map) = (Arc::clone(&dir), path.clone(), map.clone());
        let is_panic = within("a merge in which something panics", move || {
            let strategy = MergeStrategy::custom("slow", Slow { calls: AtomicU64::new(0), panics_at });
            let options = MergeOptions::default().memory_budget(0).threads(threads).progress(|_| {
                assert!(!told_panics, "the user's own");
                ControlFlow::Continue(())
            });
            let merged = catch_unwind(AssertUnwindSafe(|| merge_to(&path, &[&map, &map], &strategy, options)));
            drop(home);
            merged.is_err()
        });
        assert!(is_panic);
        assert_eq!(names(dir.path()), ["in"]);
    }
}

#[test]
fn a_file_is_replaced_as_a_whole_even_one_that_is_being_read_or_merged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let build = |name: &str, value: i64| {
        let entries = (0..5000_u32).map(|number| (number.to_le_bytes(), value.to_le_bytes()));
        MapBuilder::new().build_to(dir.path().join(name), entries).unwrap()
    };
    let value = |map: &Map| i64::from_le_bytes(map.get(7_u32.to_le_bytes()).unwrap().unwrap()[..].try_into().unwrap());
    let (old, other) = (build("map", 1), build("other", 10));
    // What was read stays valid, and so does an iteration that has begun.
    let held = old.get(9_u32.to_le_bytes()).unwrap().unwrap();
    let mut begun = old.iter();
    begun.next().unwrap().unwrap();
    let merged = merge_to(&path, &[&old, &other], &MergeStrategy::Sum, MergeOptions::default()).unwrap();
    assert_eq!((value(&old), value(&other), value(&merged)), (1, 10, 11));
    assert_eq!(
        begun.map(|item| item.unwrap().1[0]).fold((0, 0), |(n, sum), v| (n + 1, sum + u32::from(v))),
        (4999, 4999)
    );
    drop(old);
    assert_eq!(held, 1_i64.to_le_bytes().as_slice());
    assert_eq!(value(&Map::open(&path).unwrap()), 11);
    // The same map more than once.
    let merged = merge_to(&path, &[&merged, &merged, &merged], &MergeStrategy::Sum, MergeOptions::default()).unwrap();
    assert_eq!(value(&merged), 33);
    // A directory in the place of the file cannot be replaced, and stays.
    let occupied = dir.path().join("occupied");
    fs::create_dir(&occupied).unwrap();
    fs::write(occupied.join("file"), "precious").unwrap();
    for built in [
        MapBuilder::new().build_to(&occupied, [("a", "b")]),
        merge_to(&occupied, &[&other], &MergeStrategy::LastWins, MergeOptions::default()),
    ] {
        let error = built.unwrap_err();
        assert!(matches!(&error, Error::Io { .. }) && error.to_string().contains("occupied"), "{error}");
    }
    assert_eq!(names(dir.path()), ["map", "occupied", "other"]);
    assert_eq!(fs::read(occupied.join("file")).unwrap(), b"precious");
}

#[cfg(unix)]
#[test]
fn files_are_private_also_those_of_the_way() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (path, mut seen) = (dir.path().join("map"), BTreeSet::new());
    let mut look = || {
        for entry in fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o7777, 0o600, "{}", entry.path().display());
            seen.insert(entry.file_name());
        }
    };
    // A file that others could read is there already: the new one takes its place, not its mode.
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let entries = several_mib();
    let mut count = 0;
    let built = MapBuilder::new().memory_budget(0).build_to(&path, entries.iter().map(|(key, value)| (key, value)));
    let map = built.unwrap();
    look();
    let spilling = entries.iter().map(|(key, value)| {
        count += 1;
        if count % 5000 == 0 {
            look();
        }
        (key, value)
    });
    drop(MapBuilder::new().memory_budget(0).build_to(&path, spilling).unwrap());
    let options = MergeOptions::default().memory_budget(0).seed(9).progress(|_| {
        look();
        ControlFlow::Continue(())
    });
    drop(merge_to(dir.path().join("merged"), &[&map], &MergeStrategy::LastWins, options).unwrap());
    look();
    // Two names of maps, and those that were there on the way.
    assert!(seen.len() >= 6, "{seen:?}");
}

#[test]
fn a_place_where_no_map_can_be_is_told_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("folder")).unwrap();
    fs::write(
        at("text"),
        "no map, but some bytes that might be taken for one; at least as long as header and tail are together",
    )
    .unwrap();
    fs::write(at("empty"), "").unwrap();
    let map = MapBuilder::new().build_to(at("map"), [("a", "b")]).unwrap();
    for (name, build) in [
        ("folder", true),
        ("missing/map", true),
        ("text/map", true),
        ("missing", false),
        ("text", false),
        ("empty", false),
    ] {
        let mut results = vec![Map::open(at(name))];
        if build {
            results.push(MapBuilder::new().build_to(at(name), [("a", "b")]));
            results.push(merge_to(at(name), &[&map], &MergeStrategy::LastWins, MergeOptions::default()));
        }
        for result in results {
            let error = result.unwrap_err();
            let first = name.split('/').next().unwrap();
            assert!(error.to_string().contains(first), "{name}: {error}");
            let is_right = if matches!(name, "text" | "empty") && !build {
                matches!(error, Error::Corrupt { .. })
            } else {
                matches!(error, Error::Io { .. })
            };
            assert!(is_right, "{name}: {error:?}");
        }
    }
    // As long as a name can be: what is written on the way has a shorter one.
    let longest = at(&"x".repeat(255));
    drop(MapBuilder::new().build_to(&longest, [("a", "b")]).unwrap());
    fs::remove_file(longest).unwrap();
    for path in ["", "/", ".", ".."] {
        assert!(matches!(Map::open(path), Err(Error::Invalid { .. })), "{path:?}");
        assert!(matches!(MapBuilder::new().build_to(path, [("a", "b")]), Err(Error::Invalid { .. })), "{path:?}");
    }
    let long = MapBuilder::new().build_to(at("map"), [(vec![0; 65_537], "b")]).unwrap_err();
    assert!(matches!(&long, Error::Invalid { what } if what.contains("65536")), "{long}");
    assert_eq!(names(dir.path()), ["empty", "folder", "map", "text"]);
    assert_eq!(names(&at("folder")), Vec::<String>::new());
    assert_eq!(map.get("a").unwrap().unwrap(), "b");
}

#[cfg(unix)]
#[test]
fn links_of_the_user_are_followed() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("elsewhere")).unwrap();
    drop(MapBuilder::new().build_to(at("elsewhere/map"), [("a", "b")]).unwrap());
    symlink("elsewhere", at("folder")).unwrap();
    symlink("folder/map", at("link")).unwrap();
    symlink(at("link"), at("link to link")).unwrap();
    symlink("elsewhere/new", at("link to nothing")).unwrap();
    for name in ["link", "link to link", "folder/map"] {
        let map = Map::open(at(name)).unwrap();
        assert_eq!(map.get("a").unwrap().unwrap(), "b");
        assert_eq!(map.path(), at(name));
    }
    let missing = Map::open(at("link to nothing")).unwrap_err();
    assert!(matches!(&missing, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound), "{missing}");

    // A map that is built there takes the place of what the link leads to.
    for name in ["link to link", "link to nothing"] {
        drop(MapBuilder::new().build_to(at(name), [("c", "d")]).unwrap());
        assert!(fs::symlink_metadata(at(name)).unwrap().is_symlink(), "{name}");
    }
    for name in ["elsewhere/map", "elsewhere/new", "link"] {
        assert_eq!(Map::open(at(name)).unwrap().get("c").unwrap().unwrap(), "d", "{name}");
    }
    assert_eq!(names(&at("elsewhere")), ["map", "new"]);
}

#[cfg(unix)]
#[test]
fn pipes_and_links_without_end_are_not_opened() {
    use std::{os::unix::fs::symlink, process::Command};
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    symlink("pipe", at("link to pipe")).unwrap();
    symlink("circle", at("circle")).unwrap();
    for name in ["pipe", "link to pipe", "circle"] {
        let path = at(name);
        let error = within(name, move || Map::open(path)).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{name}: {error}");
    }
    let path = at("circle");
    assert!(within("circle", move || MapBuilder::new().build_to(path, [("c", "d")])).is_err());
    assert_eq!(names(dir.path()), ["circle", "link to pipe", "pipe"]);
}

/// A damaged file: refused, or every answer is exact or an error that says so. Tells whether `verify` is content.
fn try_damaged(path: &Path, bytes: &[u8], content: &Content, what: &str) -> bool {
    fs::write(path, bytes).unwrap();
    let map = match Map::open(path) {
        Ok(map) => map,
        Err(error) => {
            let is_typed = matches!(error, Error::Corrupt { .. } | Error::NewerFormat { .. });
            assert!(is_typed && error.to_string().contains("damaged"), "{what}: {error}");
            return false;
        }
    };
    let corrupt = |error: Error| assert!(matches!(error, Error::Corrupt { .. }), "{what}: {error}");
    assert_eq!(map.len(), content.len() as u64, "{what}");
    for (key, value) in content {
        match map.get(key) {
            Ok(found) => assert_eq!(found.as_deref(), Some(value.as_slice()), "{what}: {}", key.escape_ascii()),
            Err(error) => corrupt(error),
        }
    }
    for absent in ["", "never", "nobody", "no one"] {
        let wanted = content.get(absent.as_bytes()).map(Vec::as_slice);
        map.get(absent).map_or_else(corrupt, |found| assert_eq!(found.as_deref(), wanted, "{what}"));
    }
    let items: [Vec<_>; 2] = [map.iter().collect(), map.iter().rev().collect()];
    for items in items {
        let mut count = 0;
        for item in items {
            count += 1;
            match item {
                Ok((key, value)) => assert_eq!(content.get(&key[..]).map(Vec::as_slice), Some(&value[..]), "{what}"),
                Err(error) => corrupt(error),
            }
        }
        assert_eq!(count, content.len(), "{what}");
    }
    map.verify().map_or_else(
        |error| {
            corrupt(error);
            false
        },
        |()| true,
    )
}

#[test]
fn any_flip_and_any_cut_of_a_map_is_told_and_never_gives_a_wrong_answer() {
    let full = std::env::var_os("CHRONOLITH_MAPS_FULL").is_some();
    let dir = folder_in_memory();
    let (path, damaged) = (dir.path().join("map"), dir.path().join("damaged"));
    let mut cases = 0;
    for (keys, values, count) in [
        (Lengths::Alike(8), Lengths::Alike(8), 60),
        (Lengths::Mixed(9), Lengths::Mixed(20), 60),
        (Lengths::Alike(4), Lengths::Alike(0), 1),
        (Lengths::Mixed(3), Lengths::Mixed(3), 3),
    ] {
        let dice = &mut dice_of(count as u64);
        let content: Content =
            draw_content(dice, count, keys, values).into_iter().filter(|(key, _)| key.len() < 100).collect();
        let seed = dice.next();
        drop(MapBuilder::new().seed(seed).build_to(&path, &content).unwrap());
        let good = fs::read(&path).unwrap();
        assert!(try_damaged(&damaged, &good, &content, "undamaged"));
        let mut told = |damage: &Damage| {
            let bad = damage.apply(&good).unwrap();
            if bad != good {
                cases += 1;
                let what = damage.name();
                assert!(!try_damaged(&damaged, &bad, &content, &what), "{count} keys: {what}: nothing told");
            }
        };
        for at in 0..good.len() {
            let masks =
                if full { (0..8).map(|bit| 1 << bit).collect() } else { vec![dice.next().to_le_bytes()[0].max(1)] };
            for mask in masks {
                told(&Damage::Flip(at, mask));
            }
            told(&Damage::Cut(at));
        }
        for more in [1, 40, 4096] {
            told(&Damage::Zeros(more));
            told(&Damage::Garbage(more));
        }
        for at in (0..good.len()).step_by(16) {
            told(&Damage::Hole(at, 64));
        }
    }
    println!("{cases} cases");
}

#[test]
fn damage_in_one_partition_leaves_the_others_readable_and_is_carried_by_no_merge() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let content: Content = several_mib().into_iter().collect();
    drop(MapBuilder::new().build_to(&path, &content).unwrap());
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&path, &bytes).unwrap();
    let map = Map::open(&path).unwrap();
    let answers: Vec<_> = content.iter().map(|(key, value)| (map.get(key), value)).collect();
    let told = answers.iter().filter(|(found, _)| matches!(found, Err(Error::Corrupt { .. }))).count();
    assert!(
        answers
            .iter()
            .all(|(found, value)| found.as_ref().is_err()
                || matches!(found, Ok(Some(found)) if found == value.as_slice()))
    );
    assert!((1000..8000).contains(&told), "{told} keys lie in the damaged partition");
    assert_eq!(map.iter().filter(Result::is_err).count(), told);
    assert!(matches!(map.verify(), Err(Error::Corrupt { .. })));
    for seed in [0, 8] {
        let options = MergeOptions::default().seed(seed);
        let merged = merge_to(dir.path().join("merged"), &[&map], &MergeStrategy::LastWins, options);
        assert!(matches!(merged, Err(Error::Corrupt { .. })));
        assert_eq!(names(dir.path()), ["map"]);
    }
}

// ---------------------------------------------------------------- keys chosen to break the function

type ChosenHashes = (String, Box<dyn Fn(u64) -> Hash>);
type ChosenKeys = (&'static str, usize, Box<dyn Fn(u32) -> Vec<u8>>);

/// Builds over numbers that somebody chose: a function or an error, in bounded time.
fn build(what: &str, hashes: &[Hash]) -> bool {
    let began = Instant::now();
    let built = Mphf::build(hashes, 0);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(20), "{what}: {} hashes took {took:?}", hashes.len());
    match built {
        Err(error) => {
            assert!(matches!(error, Error::Invalid { .. }), "{what}: {error}");
            false
        }
        Ok(function) => {
            let mut numbers: Vec<_> = hashes.iter().map(|hash| function.index(*hash).unwrap()).collect();
            numbers.sort_unstable();
            assert!(numbers.into_iter().eq(0..hashes.len() as u64), "{what}: every key has a number of its own");
            true
        }
    }
}

#[test]
fn numbers_that_are_no_hashes_end_in_a_function_or_an_error_within_bounded_time() {
    let wide = |number: u64| u128::from(number);
    let mut all: Vec<ChosenHashes> = vec![
        ("in a row".to_owned(), Box::new(Hash::from)),
        ("in a row, at the end".to_owned(), Box::new(|number| Hash::from(u64::MAX - number))),
        ("all the same".to_owned(), Box::new(|_| Hash::from(7_u64))),
        ("two of each".to_owned(), Box::new(|number| Hash::from(number / 2))),
        ("squares".to_owned(), Box::new(move |number| Hash::from(wide(number) * wide(number)))),
        ("multiples".to_owned(), Box::new(|number| Hash::from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)))),
        ("both halves alike".to_owned(), Box::new(move |number| Hash::from(wide(number) << 64 | wide(number)))),
        // The high half is a constant of the mixing step: every product is zero, and with it every route.
        ("one route".to_owned(), Box::new(move |number| Hash::from(0x6a09_e667_f3bc_c909 << 64 | wide(number)))),
        ("one place".to_owned(), Box::new(move |number| Hash::from(wide(number) << 64 | 0xbb67_ae85_84ca_a73b))),
    ];
    for shift in (1..128).step_by(9) {
        all.push((format!("in a row, {shift} bits up"), Box::new(move |number| Hash::from(wide(number) << shift))));
        all.push((format!("in a row, turned by {shift}"), Box::new(move |n| Hash::from(wide(n).rotate_right(shift)))));
    }
    let mut functions = 0;
    for (what, hash) in &all {
        for count in [0, 1, 2, 3, 64, 1000, 5000, 60_000] {
            let hashes: Vec<_> = (0..count).map(hash).collect();
            let built = build(what, &hashes);
            assert!(built || count > 1, "{what}: {count} keys");
            functions += u32::from(built);
        }
    }
    println!("{functions} functions of {} sets", 8 * all.len());
    assert!(functions >= 2 * u32::try_from(all.len()).unwrap(), "{functions}");
}

/// The mixing step of `docs/format/phash.md`.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    u64::try_from(product >> 64).unwrap() ^ u64::try_from(product & u128::from(u64::MAX)).unwrap()
}

#[test]
fn a_bucket_chosen_so_that_nothing_in_it_clashes_takes_no_longer() {
    const MIX: [u64; 2] = [0x6a09_e667_f3bc_c909, 0xbb67_ae85_84ca_a73b];
    let dice = &mut dice_of(3);
    for count in [1000, 10_000, 45_000] {
        // All routes are zero; positions under the first multiplier are apart, so that no comparison ends early.
        let positions = (count * 100_usize).div_ceil(99);
        let (mut used, mut hashes) = (vec![false; positions], Vec::new());
        while hashes.len() < count {
            let low = dice.next();
            let place = fold(MIX[0], low ^ MIX[1]).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let base = usize::try_from((u128::from(place) * positions as u128) >> 64).unwrap();
            if !std::mem::replace(&mut used[base], true) {
                hashes.push(Hash::from(u128::from(MIX[0]) << 64 | u128::from(low)));
            }
        }
        let began = Instant::now();
        build("one bucket", &hashes);
        assert!(began.elapsed() < Duration::from_secs(3), "{count} hashes: {:?}", began.elapsed());
    }
}

#[test]
fn keys_with_much_in_common_make_maps_like_any_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let prefix = vec![b'x'; 3000];
    let all: [ChosenKeys; 6] = [
        ("a long beginning", 3000, Box::new(move |number| [&prefix, number.to_be_bytes().as_slice()].concat())),
        ("numbers, big-endian", 50_000, Box::new(|number| number.to_be_bytes().to_vec())),
        ("numbers, little-endian", 50_000, Box::new(|number| number.to_le_bytes().to_vec())),
        ("numbers as text", 50_000, Box::new(|number| number.to_string().into_bytes())),
        ("zeros of many lengths", 3000, Box::new(|number| vec![0; number as usize])),
        (
            "one bit each",
            4096,
            Box::new(|number| (0..512).map(|at| if at == number / 8 { 1 << (number % 8) } else { 0 }).collect()),
        ),
    ];
    for (what, count, key) in all {
        let content: Content =
            (0..u32::try_from(count).unwrap()).map(|number| (key(number), number.to_le_bytes().to_vec())).collect();
        assert_eq!(content.len(), count, "{what}");
        let began = Instant::now();
        let map = MapBuilder::new().build_to(&path, &content).unwrap();
        assert!(began.elapsed() < Duration::from_secs(20), "{what}: {:?}", began.elapsed());
        check(&map, &content, &mut dice_of(0));
    }
}

/// Different keys of 64 bytes with the very same hash of 128 bits: their words meet those of the secret of XXH3,
/// which everybody knows, so that every product is zero, and what is left cancels out.
fn alike(number: u64) -> Vec<u8> {
    const SECRET: [u64; 4] =
        [0xbe4b_a423_396c_feb8, 0xdb97_9083_e96d_d4de, 0x78e5_c0cc_4ee6_79cb, 0x8e24_43f7_7446_08b8];
    let [a, b, c, d] = SECRET;
    let pair = |first: u64| [first, number.wrapping_sub(first)];
    [pair(a), pair(c), pair(d), pair(b)].concat().into_iter().flat_map(u64::to_le_bytes).collect()
}

#[test]
fn keys_made_to_have_the_same_hash_are_refused_by_name_unless_a_seed_tells_them_apart() {
    assert!(alike(1) != alike(2) && Hash::of(&alike(1)) == Hash::of(&alike(2)), "XXH3 is no secret");
    let dir = tempfile::tempdir().unwrap();
    let build = |name: &str, keys: &[u64], seed: u64| {
        let entries: Vec<_> = keys.iter().map(|number| (alike(*number), number.to_le_bytes())).collect();
        MapBuilder::new().seed(seed).build_to(dir.path().join(name), entries)
    };
    let (one, two) = (build("one", &[1], 0).unwrap(), build("two", &[2], 0).unwrap());
    assert_eq!(one.get(alike(1)).unwrap().unwrap(), 1_u64.to_le_bytes().as_slice());
    assert_eq!((one.get(alike(2)).unwrap(), two.get(alike(1)).unwrap()), (None, None));
    for refused in [
        build("both", &[1, 2], 0),
        merge_to(dir.path().join("both"), &[&one, &two], &MergeStrategy::LastWins, MergeOptions::default()),
        merge_to(dir.path().join("both"), &[&one, &two], &MergeStrategy::Sum, MergeOptions::default()),
    ] {
        let error = refused.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::Invalid { .. }), "{text}");
        assert!([1, 2].iter().all(|number| text.contains(&alike(*number).escape_ascii().to_string())), "{text}");
    }
    assert_eq!(names(dir.path()), ["one", "two"]);
    // With a seed that they were not made for they are keys like any others.
    let options = MergeOptions::default().seed(5);
    let merged = merge_to(dir.path().join("both"), &[&one, &two], &MergeStrategy::Sum, options).unwrap();
    for map in [build("77", &[1, 2], 77).unwrap(), merged] {
        assert_eq!([1, 2].map(|number| map.get(alike(number)).unwrap().unwrap()), [1u64, 2].map(u64::to_le_bytes));
    }
}

#[test]
fn keys_made_to_have_the_same_hash_without_a_seed_mean_nothing_to_a_database() {
    let db = Options::new().env(env::Memory::new()).open("my.db").unwrap();
    for (name, options) in [("always", KeyspaceOptions::new().point_index(true)), ("usual", KeyspaceOptions::new())] {
        let keyspace = db.keyspace(name, options).unwrap();
        // Beside others, several alike; one that is not there, which the index would have to tell from them.
        let mut batch = db.batch();
        for number in 0..2000_u64 {
            batch.put(&keyspace, number.to_be_bytes(), number.to_le_bytes());
        }
        (0..5).for_each(|number| batch.put(&keyspace, alike(number), number.to_le_bytes()));
        batch.commit().unwrap();
        for number in [7, 8] {
            db.flush().unwrap();
            db.compact().unwrap();
            for other in 0..10_u64 {
                let found = keyspace.get(alike(other)).unwrap();
                let is_there = other < 5 || other >= 7 && other < number;
                assert_eq!(found.as_deref(), is_there.then(|| other.to_le_bytes()).as_ref().map(<[u8; 8]>::as_slice));
            }
            assert!(
                (0..2000_u64)
                    .all(|number| keyspace.get(number.to_be_bytes()).unwrap().unwrap()
                        == number.to_le_bytes().as_slice())
            );
            keyspace.put(alike(number), number.to_le_bytes()).unwrap();
        }
        assert_eq!(keyspace.range(..).count(), 2007);
    }
    let report = db.verify().unwrap();
    assert!(report.is_clean(), "{report}");
}

#[test]
fn as_many_threads_as_anybody_may_ask_for() {
    let dir = tempfile::tempdir().unwrap();
    for threads in [0, 1, 64, 3000, usize::MAX] {
        let map = MapBuilder::new().threads(threads).build_to(dir.path().join("map"), [("a", "b")]).unwrap();
        let options = MergeOptions::default().threads(threads);
        let merged = merge_to(dir.path().join("merged"), &[&map, &map], &MergeStrategy::LastWins, options).unwrap();
        assert_eq!(merged.get("a").unwrap().unwrap(), "b");
    }
}
