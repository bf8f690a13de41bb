//! A finished map for its users: look-ups, counts, and a check of everything.

use std::{fmt, path::Path, sync::Arc};

use super::{dir::open_parent, entries::Entry, file::Inner, tail::Shape};
use crate::{
    base::{Bytes, IoContext, Result},
    phash::hash::Hash,
};

/// Number of keys that one call looks up together.
const TOGETHER: usize = 32;

/// A finished map of keys to values, in a file: look-ups go from the key's hash straight to its entry.
///
/// Cheap to clone. It is built by [`MapBuilder`](crate::phash::MapBuilder) or [`merge_to`](crate::phash::merge_to) and
/// never changes. Absent keys are recognised by a fingerprint of eight bits, then by comparing the key.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("ages.pphm");
/// use chronolith::phash::{Map, MapBuilder};
/// MapBuilder::new().build_to(&path, [("ann", "25"), ("bob", "31")])?;
/// let ages = Map::open(&path)?;
/// assert_eq!(ages.get("ann")?.unwrap(), "25");
/// assert_eq!(ages.get("eve")?, None);
/// assert_eq!(ages.len(), 2);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Map {
    pub(super) inner: Arc<Inner>,
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Map({:?}, {} keys)", self.inner.path, self.inner.keys)
    }
}

impl Map {
    /// Opens the map in the file `path`.
    ///
    /// # Errors
    /// [`Io`](crate::Error::Io), also if the file does not exist; [`Corrupt`](crate::Error::Corrupt) for a file that is
    /// not a whole map: everything that look-ups rely on is checked here, the entries when they are first touched;
    /// [`NewerFormat`](crate::Error::NewerFormat).
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (dir, name) = open_parent(path)?;
        let file = dir.open(&name).at("open", || path.to_path_buf())?;
        Ok(Self { inner: Arc::new(Inner::open(path.to_path_buf(), file)?) })
    }

    /// Returns the value of a key.
    ///
    /// # Errors
    /// [`Corrupt`](crate::Error::Corrupt) and [`Io`](crate::Error::Io) if the part of the file that would contain the
    /// key is damaged.
    #[inline]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        let key = key.as_ref();
        let inner = &*self.inner;
        let hash = Hash::with_seed(key, inner.seed_number).seeded(inner.seed);
        let directory = inner.directory();
        let (partition, _) = hash.partition(directory.partitions());
        inner.verify(partition)?;
        let Some(value) = inner.find(directory, key, hash)? else { return Ok(None) };
        let bytes: &[u8] = &inner.region;
        let at = value.start;
        Ok(bytes.get(value).map(|value| Bytes::window(|| inner.region.owner(), at, value)))
    }

    /// Returns the values of several keys, in the order requested: faster than as many single look-ups, because the
    /// memory accesses of many keys overlap.
    ///
    /// # Errors
    /// The same as for [`Map::get`].
    pub fn multi_get<K: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<Option<Bytes>>> {
        let inner = &*self.inner;
        let directory = inner.directory();
        let bytes: &[u8] = &inner.region;
        let touch = |at: usize| std::hint::black_box(bytes.get(at).copied());
        let mut keys = keys.into_iter();
        let mut values = Vec::with_capacity(keys.size_hint().0.min(1 << 10));
        let mut together = Vec::with_capacity(TOGETHER);
        loop {
            together.clear();
            for key in keys.by_ref().take(TOGETHER) {
                let hash = Hash::with_seed(key.as_ref(), inner.seed_number).seeded(inner.seed);
                inner.verify(hash.partition(directory.partitions()).0)?;
                directory.pilot_at(hash).map(touch);
                together.push((key, hash));
            }
            if together.is_empty() {
                return Ok(values);
            }
            for slot in together.iter().filter_map(|(_, hash)| directory.slot(bytes, *hash)) {
                let [slot_at, entry_at] = inner.places(&slot);
                touch(slot_at);
                touch(entry_at);
            }
            for (key, hash) in &together {
                let value = inner.find(directory, key.as_ref(), *hash)?;
                let share = |at: usize, value| Bytes::window(|| inner.region.owner(), at, value);
                values.push(value.and_then(|value| Some(share(value.start, bytes.get(value.clone())?))));
            }
        }
    }

    /// Returns whether the map has a key.
    ///
    /// # Errors
    /// The same as for [`Map::get`].
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.get(key)?.is_some())
    }

    /// Returns the number of keys.
    pub fn len(&self) -> u64 {
        self.inner.keys
    }

    /// Returns whether the map is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the seed of its hash function.
    pub fn seed(&self) -> u64 {
        self.inner.seed_number
    }

    /// Reads and checks everything: that every checksum is right, and that every key is found where it is stored.
    ///
    /// # Errors
    /// [`Corrupt`](crate::Error::Corrupt) names the first damage; [`Io`](crate::Error::Io).
    pub fn verify(&self) -> Result<()> {
        let inner = &*self.inner;
        let directory = inner.directory();
        for partition in 0..directory.partitions() {
            inner.verified_now(partition)?;
            inner.for_each(partition, |index, entry| {
                let hash = Hash::with_seed(entry.key, inner.seed_number).seeded(inner.seed);
                let slot = directory.slot(&inner.region, hash);
                let own = slot.is_some_and(|slot| (slot.partition, slot.index) == (partition, index));
                let found = inner.find(directory, entry.key, hash)?;
                if own && found == Some(entry.value_at..entry.value_at + entry.value.len()) {
                    return Ok(());
                }
                Err(inner.corrupt(entry.at, "a key that is found in its own slot, where it lies"))
            })?;
        }
        Ok(())
    }

    pub(super) fn shape(&self) -> Shape {
        self.inner.shape
    }

    /// Returns the path it was opened by.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Returns the length of the file.
    pub(super) fn file_len(&self) -> u64 {
        self.inner.region.len() as u64
    }

    /// Returns the number of partitions.
    pub(super) fn partitions(&self) -> u64 {
        self.inner.directory().partitions()
    }

    /// Calls `each` with the entries of a partition.
    pub(super) fn for_each(&self, partition: u64, mut each: impl FnMut(Entry<'_>) -> Result<()>) -> Result<()> {
        self.inner.verify(partition)?;
        self.inner.for_each(partition, |_, entry| each(entry))
    }

    /// Returns the entry at an offset that [`Map::for_each`] reported.
    #[inline]
    pub(super) fn entry_at(&self, at: u64) -> Result<Entry<'_>> {
        self.inner.entry_at(at, self.inner.lines.start)
    }
}
