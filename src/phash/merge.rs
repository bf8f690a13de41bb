//! Merging maps: by ranges of the hash, so that a bounded memory holds what is worked on, and several threads work at once.
//!
//! ```text
//!  map a  ▏p0 ▏p1 ▏p2 ▏p3 ▏          the same seed: partitions follow each other in the order of the hash
//!  map b  ▏ p0   ▏  p1   ▏ p2        in every map, so that a range of it is some partitions of each
//!              └── range ──┘
//!                   ▼ references, by partition of the result; sorted; equal keys combined
//!              partitions of the result, put together by whichever thread is free, written in order
//! ```
//!
//! A map with another seed is read once beforehand, and references to its entries are sorted by the result's. The bytes of the result depend
//! on the maps, their order, the strategy and the seed; not on memory or threads.

use std::{
    any::Any,
    collections::BTreeMap,
    fmt,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use super::{
    build::{Builder, Member},
    builder::{BUDGET_DEFAULT, BUDGET_MIN, threads},
    hash::{Hash, Seed},
    map::{Map, Shape, open_parent},
    mphf::partition_count,
    refs::{REF_LEN, Ref, Refs, SortedRefs},
    write::{MapWriter, Packed, check_entry, pack},
};
use crate::{
    base::{Bytes, Error, Result},
    merge::{MergeStrategy, append_list},
};

/// References that one range has at most: with more, its tables leave the caches.
const RANGE_REFS_MAX: u64 = 1 << 18;

/// Entries that the number of different keys is estimated from, where there are twice as many.
const SAMPLE_FROM: u64 = 1 << 16;

/// Bytes of entries in a partition, on average, at most.
const PARTITION_BYTES: u64 = 1 << 20;

/// More threads than any machine has use for.
const THREADS_MAX: usize = 256;

/// A worker that waits looks this often whether it should go on.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How [`merge_to`] works.
///
/// ```
/// # use std::ops::ControlFlow;
/// use chronolith::phash::MergeOptions;
/// let options = MergeOptions::default().memory_budget(64 << 20).seed(7).progress(|done| {
///     println!("{} of {}", done.entries, done.total);
///     ControlFlow::Continue(())
/// });
/// ```
#[must_use = "options do nothing until `merge_to`"]
pub struct MergeOptions<'p> {
    seed: u64,
    memory_budget: u64,
    threads: usize,
    progress: Option<Box<ProgressFn<'p>>>,
}

type ProgressFn<'p> = dyn FnMut(Progress) -> ControlFlow<()> + Send + 'p;

/// How far a merge has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Entries of the maps that are merged and written.
    pub entries: u64,
    /// Entries of all maps.
    pub total: u64,
}

impl Default for MergeOptions<'_> {
    fn default() -> Self {
        Self { seed: 0, memory_budget: BUDGET_DEFAULT, threads: threads(), progress: None }
    }
}

impl fmt::Debug for MergeOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, memory_budget, threads, .. } = self;
        write!(f, "MergeOptions(seed {seed}, {memory_budget} bytes, {threads} threads)")
    }
}

impl<'p> MergeOptions<'p> {
    /// The seed of the result's hash function; by default 0. Maps with the same seed are merged fastest.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Bytes of memory to work in, about; by default 256 MiB, at least 1 MiB. The pages of the mapped files belong to the system.
    pub fn memory_budget(mut self, bytes: u64) -> Self {
        self.memory_budget = bytes.max(BUDGET_MIN);
        self
    }

    /// How many threads work; by default as many as there are cores.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Is told from time to time, on the calling thread, how far the merge has come, and may break it off: then the answer is
    /// [`Cancelled`](Error::Cancelled), and there is no new file. Maps with another seed are read once before it is first told.
    pub fn progress(mut self, told: impl FnMut(Progress) -> ControlFlow<()> + Send + 'p) -> Self {
        self.progress = Some(Box::new(told));
        self
    }
}

/// Merges maps into a new one in the file `path`. Where several have a key, the strategy says what becomes of its values, in the order of the
/// maps: the last, the first, their sum, the list of them, what a custom strategy makes of them, or an error.
///
/// With [`MergeStrategy::Append`] each value is one item and the result holds lists, also of one, to be read with
/// [`append_items`](crate::merge::append_items).
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let path = |name: &str| dir.path().join(name);
/// use chronolith::{MergeStrategy, phash::{MapBuilder, MergeOptions, merge_to}};
/// let one = MapBuilder::new().build_to(path("one.pphm"), [("ann", 1i64.to_le_bytes()), ("bob", 2i64.to_le_bytes())])?;
/// let two = MapBuilder::new().build_to(path("two.pphm"), [("bob", 3i64.to_le_bytes())])?;
/// let all = merge_to(path("all.pphm"), &[&one, &two], &MergeStrategy::Sum, MergeOptions::default())?;
/// assert_eq!(all.get("bob")?.unwrap(), 5i64.to_le_bytes().as_slice());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Duplicate`](Error::Duplicate) names a key under [`MergeStrategy::ErrorOnDuplicate`]; [`Invalid`](Error::Invalid) for a sum that no `i64` holds, and
/// what a custom strategy answers; [`Cancelled`](Error::Cancelled); [`Corrupt`](Error::Corrupt), [`Io`](Error::Io), [`DiskFull`](Error::DiskFull). Then there is no new
/// file.
pub fn merge_to(
    path: impl AsRef<Path>,
    maps: &[&Map],
    strategy: &MergeStrategy,
    options: MergeOptions<'_>,
) -> Result<Map> {
    let MergeOptions { seed, memory_budget, threads, mut progress } = options;
    let path = path.as_ref();
    let (dir, _) = open_parent(path)?;
    let others = maps.iter().filter(|map| map.seed() != seed).count() as u64;
    let mixed_seed = Seed::new(seed);
    let mut refs = Vec::new();
    for (source, map) in (0u32..).zip(maps) {
        refs.push(if map.seed() == seed {
            None
        } else {
            let mut refs = Refs::new(&dir, memory_budget / 4 / others.max(1));
            for partition in 0..map.partitions() {
                map.for_each(partition, |entry| {
                    refs.push(Ref { hash: Hash::with_seed(entry.key, seed).seeded(mixed_seed), source, at: entry.at })
                })?;
            }
            Some(refs.finish()?)
        });
    }
    let combine = Combine { strategy, shape: shape_of(maps, strategy) };
    let inputs = Maps { all: maps, refs, number: seed, seed: mixed_seed };
    let go_on = &mut |done| progress.as_mut().map_or(ControlFlow::Continue(()), |told| told(done));
    write_map(path, seed, &inputs, &combine, (memory_budget, threads), go_on)
}

/// The result's entries are alike long if those of all maps are, and the strategy makes no longer ones.
fn shape_of(maps: &[&Map], strategy: &MergeStrategy) -> Shape {
    let mut shapes = maps.iter().filter(|map| !map.is_empty()).map(|map| map.shape());
    let first = shapes.next().unwrap_or(Shape::Mixed);
    let keeps = !matches!(strategy, MergeStrategy::Append | MergeStrategy::Custom(_));
    if keeps && shapes.all(|shape| shape == first) { first } else { Shape::Mixed }
}

/// How entries with the same key become one.
#[derive(Debug)]
pub(super) struct Combine<'a> {
    pub(super) strategy: &'a MergeStrategy,
    pub(super) shape: Shape,
}

/// Where entries come from.
pub(super) trait Inputs: Sync {
    /// How many there are.
    fn count(&self) -> u64;

    /// About how many bytes they take.
    fn bytes(&self) -> u64;

    /// Adds references to those whose routes lie in `from..=to`, in any order.
    fn between(&self, from: u64, to: u64, refs: &mut Vec<Ref>) -> Result<()>;

    /// Key and value.
    fn entry(&self, of: &Ref) -> Result<(&[u8], &[u8])>;
}

struct Maps<'a> {
    all: &'a [&'a Map],
    /// Of maps with another seed.
    refs: Vec<Option<SortedRefs>>,
    number: u64,
    seed: Seed,
}

impl Inputs for Maps<'_> {
    fn count(&self) -> u64 {
        self.all.iter().map(|map| map.len()).sum()
    }

    fn bytes(&self) -> u64 {
        self.all.iter().map(|map| map.file_len()).sum()
    }

    fn between(&self, from: u64, to: u64, refs: &mut Vec<Ref>) -> Result<()> {
        for ((source, map), sorted) in (0u32..).zip(self.all).zip(&self.refs) {
            if let Some(sorted) = sorted {
                sorted.between(from, to, |one| refs.push(one))?;
                continue;
            }
            let partition = |route: u64| super::hash::scale(route, map.partitions());
            for partition in partition(from)..=partition(to) {
                map.for_each(partition, |entry| {
                    let hash = Hash::with_seed(entry.key, self.number).seeded(self.seed);
                    if (from..=to).contains(&hash.route) {
                        refs.push(Ref { hash, source, at: entry.at });
                    }
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    fn entry(&self, of: &Ref) -> Result<(&[u8], &[u8])> {
        let map = self.all.get(of.source as usize).ok_or_else(|| Error::invalid("a map that is merged"))?;
        let entry = map.entry_at(of.at)?;
        Ok((entry.key, entry.value))
    }
}

/// The routes of partitions `from..to` of `count`.
fn routes(from: u64, to: u64, count: u64) -> (u64, u64) {
    let lowest = |partition: u64| (u128::from(partition) << 64).div_ceil(u128::from(count));
    let last = lowest(to).saturating_sub(1);
    (u64::try_from(lowest(from)).unwrap_or(u64::MAX), u64::try_from(last).unwrap_or(u64::MAX))
}

/// Work on ranges, some at a time: the writer is never far behind, so that what waits for it is bounded.
struct Window {
    state: Mutex<WindowState>,
    moved: Condvar,
}

struct WindowState {
    next: u64,
    written: u64,
    stopped: bool,
}

impl Window {
    /// The next range to work on; nothing at the end, or when the work is broken off.
    fn take(&self, ranges: u64, ahead: u64) -> Option<u64> {
        let mut state = self.state.lock();
        loop {
            if state.stopped || state.next >= ranges {
                return None;
            }
            if state.next < state.written + ahead {
                state.next += 1;
                return Some(state.next - 1);
            }
            self.moved.wait_for(&mut state, LOOK_AGAIN);
        }
    }

    fn wrote_one(&self) {
        self.state.lock().written += 1;
        self.moved.notify_all();
    }
}

/// Ends the work when it goes: also when whoever writes unwinds.
struct StopAtEnd<'a>(&'a Window);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.state.lock().stopped = true;
        self.0.moved.notify_all();
    }
}

/// What a worker made of a range: its partitions, and how many entries went in.
type Made = Result<(Vec<Packed>, u64), Broken>;

/// Why the work was broken off.
enum Broken {
    Error(Error),
    /// The user's own strategy panicked: the caller carries it on.
    Panic(Box<dyn Any + Send>),
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// Writes a map of everything in `inputs`, with as much memory and as many threads.
pub(super) fn write_map(
    path: &Path,
    seed: u64,
    inputs: &impl Inputs,
    combine: &Combine<'_>,
    (memory, threads): (u64, usize),
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Map> {
    let total = inputs.count();
    // A partition is put together in memory: where entries are long, there are fewer in one. Whatever the budget, so that it changes no byte.
    let partitions = partition_count(different_keys(inputs, total)?).max(inputs.bytes() / PARTITION_BYTES);
    let threads = threads.min(THREADS_MAX);
    let mut writer = MapWriter::create(path, seed)?;

    // References twice over, entries as they come and as they go; in every thread, and waiting for the writer.
    let entry_len = inputs.bytes() / total.max(1) + 1;
    let memory_refs = memory / (3 * threads as u64) / (2 * REF_LEN + 2 * entry_len);
    let range_refs = memory_refs.min(RANGE_REFS_MAX).min(total / (4 * threads as u64));
    let per_range = (range_refs * partitions / total.max(1)).max(1);
    let ranges = partitions.div_ceil(per_range);
    let threads = threads.min(usize::try_from(ranges).unwrap_or(usize::MAX));

    let window =
        Window { state: Mutex::new(WindowState { next: 0, written: 0, stopped: false }), moved: Condvar::new() };
    let work = |builder: &mut Builder, range: u64| {
        let (from, to) = (range * per_range, ((range + 1) * per_range).min(partitions));
        make_range(builder, inputs, combine, (from, to), partitions)
    };
    let (sender, receiver) = sync_channel::<(u64, Made)>(threads);
    let written = std::thread::scope(|scope| {
        // Workers that wait or send when this ends must not do so for ever: the receiver goes first, then the work ends.
        let _stop = StopAtEnd(&window);
        let receiver = receiver;
        for number in 0..threads {
            let (window, work, sender) = (&window, &work, sender.clone());
            let worker = std::thread::Builder::new().name(format!("chronolith-map-{number}"));
            let spawned =
                worker.spawn_scoped(scope, move || run_worker(window, work, &sender, ranges, threads as u64 + 1));
            if let Err(error) = spawned {
                return Err(Broken::Error(Error::io("start a thread for", path, error)));
            }
        }
        drop(sender);
        write_in_order(&mut writer, &receiver, &window, total, progress)
    });
    match written {
        Ok(()) => writer.finish(combine.shape),
        Err(Broken::Error(error)) => Err(error),
        Err(Broken::Panic(panic)) => resume_unwind(panic),
    }
}

fn run_worker(
    window: &Window,
    work: &(impl Fn(&mut Builder, u64) -> Result<(Vec<Packed>, u64)> + Sync),
    sender: &SyncSender<(u64, Made)>,
    ranges: u64,
    ahead: u64,
) {
    let mut builder = Builder::default();
    while let Some(range) = window.take(ranges, ahead) {
        let made = catch_unwind(AssertUnwindSafe(|| work(&mut builder, range)));
        let made = made.map_err(Broken::Panic).and_then(|made| Ok(made?));
        // Nobody receives any more when the work was broken off.
        if sender.send((range, made)).is_err() {
            return;
        }
    }
}

/// Writes ranges in their order. The first error in that order is the one that is told, whichever came first.
fn write_in_order(
    writer: &mut MapWriter,
    receiver: &Receiver<(u64, Made)>,
    window: &Window,
    total: u64,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<(), Broken> {
    let mut early = BTreeMap::new();
    let mut next = 0;
    let mut entries = 0;
    for (range, made) in receiver {
        early.insert(range, made);
        while let Some(made) = early.remove(&next) {
            let (packed, count) = made?;
            for packed in &packed {
                writer.add(packed)?;
            }
            next += 1;
            window.wrote_one();
            entries += count;
            if progress(Progress { entries, total }).is_break() {
                return Err(Error::Cancelled.into());
            }
        }
    }
    Ok(())
}

/// How many different keys there are: counted, or estimated from a part of the hashes, always the same part.
fn different_keys(inputs: &impl Inputs, total: u64) -> Result<u64> {
    let part = (total / SAMPLE_FROM).max(1);
    let mut refs = Vec::new();
    inputs.between(0, routes(0, 1, part).1, &mut refs)?;
    refs.sort_unstable();
    refs.dedup_by_key(|one| one.hash);
    Ok(refs.len() as u64 * part)
}

/// An entry of the result.
struct Kept {
    of: Ref,
    /// Where its value is in those that were combined.
    combined: Option<usize>,
}

/// Puts together the partitions `from..to` of `count`.
fn make_range(
    builder: &mut Builder,
    inputs: &impl Inputs,
    combine: &Combine<'_>,
    (from, to): (u64, u64),
    count: u64,
) -> Result<(Vec<Packed>, u64)> {
    let mut refs = Vec::new();
    let (lowest, highest) = routes(from, to, count);
    inputs.between(lowest, highest, &mut refs)?;
    let entries = refs.len() as u64;
    let (mut refs, ends) = by_partition(&refs, from, to, count);
    let mut made = Vec::with_capacity(ends.len());
    let mut start = 0;
    for end in ends {
        let refs = refs.get_mut(start..end).unwrap_or_default();
        refs.sort_unstable();
        let mut members = Vec::with_capacity(refs.len());
        let mut values = Vec::new();
        for same in refs.chunk_by(|a, b| a.hash == b.hash) {
            let Some(first) = same.first() else { continue };
            let (of, value) = combine.one(inputs, same)?;
            let combined = value.map(|value| {
                values.push(value);
                values.len() - 1
            });
            let (_, rest) = first.hash.partition(count);
            members.push(Member::new(rest, first.hash, Kept { of, combined }));
        }
        let packed = pack(builder, combine.shape, &members, |kept: &Kept| {
            let (key, value) = inputs.entry(&kept.of)?;
            Ok((key, kept.combined.and_then(|index| values.get(index)).map_or(value, |value| value)))
        })?;
        made.push(packed);
        start = end;
    }
    Ok((made, entries))
}

/// References by partition, and where each ends: by counting.
fn by_partition(refs: &[Ref], from: u64, to: u64, count: u64) -> (Vec<Ref>, Vec<usize>) {
    let number = |one: &Ref| usize::try_from(one.hash.partition(count).0.saturating_sub(from)).unwrap_or(0);
    let mut ends = vec![0usize; usize::try_from(to - from).unwrap_or(0) + 1];
    for one in refs {
        ends.get_mut(number(one) + 1).into_iter().for_each(|end| *end += 1);
    }
    let mut sum = 0;
    for end in &mut ends {
        sum += *end;
        *end = sum;
    }
    let mut sorted = vec![Ref::default(); refs.len()];
    for one in refs {
        if let Some(next) = ends.get_mut(number(one)) {
            sorted.get_mut(*next).into_iter().for_each(|room| *room = *one);
            *next += 1;
        }
    }
    ends.pop();
    (sorted, ends)
}

impl Combine<'_> {
    /// What entries of one hash, by their sources, become: one of them, or one of them with another value.
    fn one(&self, inputs: &impl Inputs, same: &[Ref]) -> Result<(Ref, Option<Bytes>)> {
        let (Some(&first), Some(&last)) = (same.first(), same.last()) else {
            return Err(Error::invalid("an entry to combine"));
        };
        let (key, value) = match (self.strategy, same) {
            (MergeStrategy::Sum | MergeStrategy::Append, _) => inputs.entry(&first)?,
            (_, [only]) => return Ok((*only, None)),
            _ => inputs.entry(&first)?,
        };
        let mut values = vec![value];
        for one in same.get(1..).unwrap_or_default() {
            let (other, value) = inputs.entry(one)?;
            if other != key {
                return Err(Error::invalid(format!(
                    "keys \"{}\" and \"{}\" have the same hash of 128 bits",
                    key.escape_ascii(),
                    other.escape_ascii()
                )));
            }
            values.push(value);
        }
        match self.strategy {
            MergeStrategy::LastWins => Ok((last, None)),
            MergeStrategy::FirstWins => Ok((first, None)),
            MergeStrategy::ErrorOnDuplicate => Err(Error::Duplicate { key: key.to_vec() }),
            MergeStrategy::Append => {
                let items = append_list(&values);
                check_entry(key, &items)?;
                Ok((first, Some(Bytes::from(items))))
            }
            MergeStrategy::Sum | MergeStrategy::Custom(_) => {
                for value in &values {
                    self.strategy.check_item(key, value)?;
                }
                if values.len() == 1 {
                    return Ok((first, None));
                }
                let newest_first: Vec<Bytes> = values.iter().rev().map(|value| Bytes::copy_from(value)).collect();
                let folded = self.strategy.fold(key, None, &newest_first)?;
                check_entry(key, &folded)?;
                Ok((first, Some(folded)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        merge::{append_items, strategy::Merge},
        phash::MapBuilder,
    };

    type Model = BTreeMap<Vec<u8>, Vec<Vec<u8>>>;

    fn key(number: u32, mixed: bool) -> Vec<u8> {
        let pad = if mixed { number as usize % 40 } else { 0 };
        [&number.to_be_bytes()[..], &vec![b'x'; pad]].concat()
    }

    /// Maps with some keys in common, and every value of each key in the order of the maps.
    fn maps(dir: &Path, mixed: bool, seeds: [u64; 3]) -> (Vec<Map>, Model) {
        let mut model = Model::new();
        let maps = seeds.iter().zip(0i64..).map(|(seed, number)| {
            let from = u32::try_from(number).unwrap() * 3000;
            let entries: Vec<_> =
                (from..from + 9000).map(|i| (key(i, mixed), (i64::from(i) * 7 + number).to_le_bytes())).collect();
            for (key, value) in &entries {
                model.entry(key.clone()).or_default().push(value.to_vec());
            }
            let path = dir.join(format!("{number}.{mixed}.pphm"));
            MapBuilder::new().seed(*seed).build_to(path, entries.iter().rev().map(|(k, v)| (k, v))).unwrap()
        });
        (maps.collect(), model)
    }

    struct Max;
    impl Merge for Max {
        fn merge(&self, _key: &[u8], older: &[u8], newer: &[u8]) -> Result<Vec<u8>> {
            Ok(older.max(newer).to_vec())
        }
    }

    struct Panics;
    impl Merge for Panics {
        fn merge(&self, _key: &[u8], _older: &[u8], _newer: &[u8]) -> Result<Vec<u8>> {
            panic!("the user's own")
        }
    }

    #[test]
    fn every_strategy_gives_what_the_values_in_the_order_of_the_maps_amount_to() {
        let dir = tempfile::tempdir().unwrap();
        for (mixed, seeds) in [(false, [0, 0, 0]), (true, [0, 0, 0]), (true, [0, 5, 9])] {
            let (maps, model) = maps(dir.path(), mixed, seeds);
            let maps: Vec<&Map> = maps.iter().collect();
            let sum = |values: &[Vec<u8>]| {
                let numbers = values.iter().map(|value| i64::from_le_bytes(value.as_slice().try_into().unwrap()));
                numbers.sum::<i64>().to_le_bytes().to_vec()
            };
            let list = |values: &[Vec<u8>]| append_list(&values.iter().map(Vec::as_slice).collect::<Vec<_>>());
            #[expect(clippy::type_complexity, reason = "a table of strategies and what they mean")]
            let strategies: [(MergeStrategy, &dyn Fn(&[Vec<u8>]) -> Vec<u8>); 5] = [
                (MergeStrategy::LastWins, &|values| values.last().unwrap().clone()),
                (MergeStrategy::FirstWins, &|values| values[0].clone()),
                (MergeStrategy::Sum, &sum),
                (MergeStrategy::Append, &list),
                (MergeStrategy::custom("max", Max), &|values| values.iter().max().unwrap().clone()),
            ];
            for (strategy, expected) in strategies {
                let path = dir.path().join("all.pphm");
                let merged = merge_to(&path, &maps, &strategy, MergeOptions::default()).unwrap();
                merged.verify().unwrap();
                assert_eq!(merged.len(), model.len() as u64, "{strategy:?}");
                for (key, values) in &model {
                    assert_eq!(merged.get(key).unwrap().unwrap(), expected(values), "{strategy:?}");
                }
                assert_eq!(merged.get("never").unwrap(), None);
                let bytes = std::fs::read(&path).unwrap();
                for (budget, threads) in [(BUDGET_MIN, 1), (BUDGET_MIN, 3)] {
                    let options = MergeOptions::default().memory_budget(budget).threads(threads);
                    drop(merge_to(&path, &maps, &strategy, options).unwrap());
                    assert!(std::fs::read(&path).unwrap() == bytes, "{strategy:?}: {threads} threads give other bytes");
                }
            }
            let refused =
                merge_to(dir.path().join("no.pphm"), &maps, &MergeStrategy::ErrorOnDuplicate, MergeOptions::default());
            assert!(matches!(refused, Err(Error::Duplicate { key }) if model[&key].len() > 1));
            assert!(!dir.path().join("no.pphm").exists());
        }
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name.to_string_lossy().ends_with(".pphm")), "{left:?}");
    }

    #[test]
    fn a_merge_that_is_broken_off_or_panics_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (maps, _) = maps(dir.path(), false, [0; 3]);
        let maps: Vec<&Map> = maps.iter().collect();
        let path = dir.path().join("all.pphm");
        let mut told = Vec::new();
        let options = MergeOptions::default().progress(|done| {
            told.push(done);
            ControlFlow::Break(())
        });
        assert!(matches!(merge_to(&path, &maps, &MergeStrategy::LastWins, options), Err(Error::Cancelled)));
        assert!(told.len() == 1 && told[0].total == 27_000);
        let panics = MergeStrategy::custom("panics", Panics);
        let caught = catch_unwind(AssertUnwindSafe(|| merge_to(&path, &maps, &panics, MergeOptions::default())));
        assert!(caught.is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn sums_that_do_not_fit_name_the_key_and_items_are_read_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let build = |name: &str, value: i64| {
            MapBuilder::new().build_to(dir.path().join(name), [("k", value.to_le_bytes())]).unwrap()
        };
        let (one, two) = (build("1", i64::MAX), build("2", 1));
        let path = dir.path().join("all");
        let refused = merge_to(&path, &[&one, &two], &MergeStrategy::Sum, MergeOptions::default()).unwrap_err();
        assert!(refused.to_string().contains("\"k\""), "{refused}");
        let list = merge_to(&path, &[&two], &MergeStrategy::Append, MergeOptions::default()).unwrap();
        let value = list.get("k").unwrap().unwrap();
        assert_eq!(append_items(&value).map(|item| item.unwrap().len()).collect::<Vec<_>>(), [8]);
        let none = merge_to(&path, &[], &MergeStrategy::Sum, MergeOptions::default()).unwrap();
        assert!(none.is_empty() && none.get("k").unwrap().is_none() && none.iter().next().is_none());
    }
}
