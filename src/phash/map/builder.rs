//! Building a map from entries in any order.

use std::{ops::ControlFlow, path::Path};

use super::{
    dir::{Scratch, open_parent},
    pipeline::{BUDGET_DEFAULT, BUDGET_MIN, threads, write_map},
    range::{Combine, Inputs},
    reader::Map,
    refs::{Ref, Refs, SortedRefs},
    tail::Shape,
    writer::check_entry,
};
use crate::{
    base::{Corruption, Error, Result},
    env::Region,
    format::{Reader, Writer},
    merge::MergeStrategy,
    phash::hash::{Hash, Seed},
};

/// Builds a [`Map`] from entries, sorted or not.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use chronolith::{Error, phash::MapBuilder};
/// let map = MapBuilder::new().build_to(dir.path().join("a.pphm"), [("ann", "25"), ("bob", "31")])?;
/// assert_eq!(map.get("bob")?.unwrap(), "31");
/// let twice = MapBuilder::new().build_to(dir.path().join("b.pphm"), [("ann", "25"), ("ann", "26")]);
/// assert!(matches!(twice, Err(Error::Duplicate { key }) if key == b"ann"));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build_to`"]
pub struct MapBuilder {
    seed: u64,
    memory_budget: u64,
    threads: usize,
}

impl Default for MapBuilder {
    fn default() -> Self {
        Self { seed: 0, memory_budget: BUDGET_DEFAULT, threads: threads() }
    }
}

impl MapBuilder {
    /// Returns the defaults: seed 0, 256 MiB, all cores.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the seed of the hash function. The same entries and seed give the same bytes, whatever their order, the
    /// budget and the threads. If an attacker can choose the keys, use a random seed: it keeps them from choosing keys
    /// over which no function can be built.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets the approximate memory to work in, in bytes; what does not fit is spilled to files beside the map. The
    /// default is 256 MiB, the minimum 1 MiB.
    pub fn memory_budget(mut self, bytes: u64) -> Self {
        self.memory_budget = bytes.max(BUDGET_MIN);
        self
    }

    /// Sets the number of threads that work; by default the number of cores.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Builds the map in the file `path`, mode 0600. It appears as a whole, durable, and replaces a file of that name.
    ///
    /// # Errors
    /// [`Duplicate`](Error::Duplicate) if a key occurs twice; [`Invalid`](Error::Invalid) for a key over 65,536 bytes
    /// or a value of 4 GiB; [`Io`](Error::Io), [`DiskFull`](Error::DiskFull). Then there is no new file.
    pub fn build_to<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        path: impl AsRef<Path>,
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Map> {
        let path = path.as_ref();
        let (dir, _) = open_parent(path)?;
        let seed = Seed::new(self.seed);
        let mut refs = Refs::new(&dir, self.memory_budget / 4);
        let mut held = Writer::default();
        let mut spilled: Option<Scratch> = None;
        let mut shape: Option<Shape> = None;
        let mut count = 0u64;
        let mut bytes = 0u64;
        for (key, value) in entries {
            let (key, value) = (key.as_ref(), value.as_ref());
            check_entry(key, value)?;
            let key_len = u32::try_from(key.len()).unwrap_or(u32::MAX);
            let alike = Shape::Alike { key_len, value_len: u32::try_from(value.len()).unwrap_or(u32::MAX) };
            shape = Some(if shape.is_none_or(|shape| shape == alike) { alike } else { Shape::Mixed });
            refs.push(Ref {
                hash: Hash::with_seed(key, self.seed).seeded(seed),
                source: 0,
                at: bytes + held.len() as u64,
            })?;
            held.varint(key.len() as u64);
            held.varint(value.len() as u64);
            held.raw(key);
            held.raw(value);
            count += 1;
            if held.len() as u64 >= self.memory_budget / 2 {
                let spilled = match &mut spilled {
                    Some(spilled) => spilled,
                    None => spilled.insert(Scratch::create(&dir)?),
                };
                bytes += held.len() as u64;
                spilled.append(held.bytes())?;
                held.clear();
            }
        }
        let data = match &mut spilled {
            None => held.into_bytes().into(),
            Some(spilled) => {
                spilled.append(held.bytes())?;
                spilled.map()?
            }
        };
        let source = Entries { data, count, refs: refs.finish()? };
        let combine = Combine { strategy: &MergeStrategy::ErrorOnDuplicate, shape: shape.unwrap_or(Shape::Mixed) };
        let go_on = &mut |_| ControlFlow::Continue(());
        let map = write_map(path, self.seed, &source, &combine, self.memory_budget, self.threads, go_on);
        drop(spilled);
        map
    }
}

/// Entries given to a builder, in memory or in a file.
#[derive(Debug)]
struct Entries {
    data: Region,
    count: u64,
    refs: SortedRefs,
}

impl Inputs for Entries {
    fn count(&self) -> u64 {
        self.count
    }

    fn bytes(&self) -> u64 {
        self.data.len() as u64
    }

    fn between(&self, from: u64, to: u64, refs: &mut Vec<Ref>) -> Result<()> {
        self.refs.between(from, to, |one| refs.push(one))
    }

    fn entry(&self, of: &Ref) -> Result<(&[u8], &[u8])> {
        let mut reader = Reader::starting_at(&self.data, usize::try_from(of.at).unwrap_or(usize::MAX));
        let mut decode = || {
            let (key_len, value_len) = (reader.length("key length")?, reader.length("value length")?);
            Ok((reader.take(key_len, "key")?, reader.take(value_len, "value")?))
        };
        decode().map_err(|bad: Corruption| Error::invalid(format!("a spilled entry {bad}")))
    }
}
