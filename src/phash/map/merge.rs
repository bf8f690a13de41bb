//! Merging maps by ranges of the hash, so that the work in progress fits a bounded memory and several threads can work
//! at once.
//!
//! ```text
//!  map a  ▏p0 ▏p1 ▏p2 ▏p3 ▏          the same seed: partitions follow each other in the order of the hash
//!  map b  ▏ p0   ▏  p1   ▏ p2        in every map, so that a range of it is some partitions of each
//!              └── range ──┘
//!                   ▼ references, by partition of the result; sorted; equal keys combined
//!              partitions of the result, put together by whichever thread is free, written in order
//! ```
//!
//! A map with another seed is read once beforehand, and references to its entries are sorted by the seed of the result.
//! The bytes of the result depend on the maps, their order, the strategy and the seed; not on memory or threads.

use std::{fmt, ops::ControlFlow, path::Path};

use super::{
    dir::open_parent,
    pipeline::{BUDGET_DEFAULT, BUDGET_MIN, Progress, threads, write_map},
    range::{Combine, Inputs},
    reader::Map,
    refs::{Ref, Refs, SortedRefs},
    tail::Shape,
};
use crate::{
    base::{Error, Result},
    merge::MergeStrategy,
    phash::hash::{Hash, Seed, scale},
};

/// Options of [`merge_to`].
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
    /// Sets the seed of the result's hash function; by default 0. Maps with the same seed are merged fastest.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets the approximate memory to work in, in bytes; the default is 256 MiB, the minimum 1 MiB. The pages of the
    /// mapped files belong to the system.
    pub fn memory_budget(mut self, bytes: u64) -> Self {
        self.memory_budget = bytes.max(BUDGET_MIN);
        self
    }

    /// Sets the number of threads that work; by default the number of cores.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Sets a callback that receives the progress from time to time, on the calling thread, and may stop the merge: it
    /// then fails with [`Cancelled`](Error::Cancelled), and there is no new file. Maps with another seed are read once
    /// before the first call.
    pub fn progress(mut self, told: impl FnMut(Progress) -> ControlFlow<()> + Send + 'p) -> Self {
        self.progress = Some(Box::new(told));
        self
    }
}

/// Merges maps into a new one in the file `path`. If several have a key, the strategy decides what becomes of its
/// values, in the order of the maps: the last, the first, their sum, the list of them, the result of a custom strategy,
/// or an error.
///
/// With [`MergeStrategy::Append`] each value is one item, and every value of the result is a list, even of one; read it
/// with [`append_items`](crate::merge::append_items).
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
/// [`Duplicate`](Error::Duplicate) names a key under [`MergeStrategy::ErrorOnDuplicate`]; [`Invalid`](Error::Invalid)
/// for a sum that does not fit an `i64`, and errors of a custom strategy; [`Cancelled`](Error::Cancelled);
/// [`Corrupt`](Error::Corrupt), [`Io`](Error::Io), [`DiskFull`](Error::DiskFull). Then there is no new file.
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
    write_map(path, seed, &inputs, &combine, memory_budget, threads, go_on)
}

/// Returns the shape of the result: its entries have equal lengths if those of all maps do, and the strategy makes no
/// longer ones.
fn shape_of(maps: &[&Map], strategy: &MergeStrategy) -> Shape {
    let mut shapes = maps.iter().filter(|map| !map.is_empty()).map(|map| map.shape());
    let first = shapes.next().unwrap_or(Shape::Mixed);
    let keeps = !matches!(strategy, MergeStrategy::Append | MergeStrategy::Custom(_));
    if keeps && shapes.all(|shape| shape == first) { first } else { Shape::Mixed }
}

struct Maps<'a> {
    all: &'a [&'a Map],
    /// References to the entries of maps with another seed.
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
            let partition = |route: u64| scale(route, map.partitions());
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

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        panic::{AssertUnwindSafe, catch_unwind},
    };

    use super::*;
    use crate::{
        merge::{append_items, append_list, strategy::Merge},
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
