//! A file of keys and values that is found by perfect hashing, read in place.
//!
//! ```text
//!  ├────────┬───────────┬───────────┬─────┬──────────────────────────┬──────┤
//!  │ header │ partition │ partition │  …  │ directory, checksums     │ tail │
//!  └────────┴───────────┴───────────┴─────┴──────────────────────────┴──────┘
//!
//!  partition of entries that are all alike long:   pilots · remap · fingerprint of each slot │ entry of each slot
//!  partition of others:                            pilots · remap · slots: fingerprint, offset │ entries in any order
//!
//!  tail: keys u64 · directory at u64 · entries alike u8 · 0 u8 · 0 u16 · key length u32 · value length u32 · directory crc u32 ·
//!        tail crc u32 · "PMPE"
//! ```
//!
//! Where all entries are alike long, the slot is the place: no offset is kept, and the loads of fingerprint and entry overlap. A
//! partition's bytes are verified as a whole when it is first touched, through an ordinary read, and then served from the map.
//!
//! The format is specified in `docs/format/phash.md` and pinned by the bytes in `tests/golden/`.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    hash::{Hash, Seed, Seeded},
    partition::{Directory, LINE_LEN, Slot},
};
use crate::{
    base::{Bytes, Corruption, Error, IoContext, Result},
    env::{Dir, Env, File, Os, Region},
    format::{Checksum, FileKind, Header, Reader, Writer, crc},
};

const MAGIC: u32 = u32::from_le_bytes(*b"PMPE");

const TAIL_LEN: usize = 40;

/// Bytes that are read at a time to be checked.
const CHECK_LEN: usize = 256 << 10;

/// Keys of one call that are looked up together.
const TOGETHER: usize = 32;

/// How the entries of a map are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// All alike long, each at the place of its slot.
    Alike { key_len: u32, value_len: u32 },
    /// Each behind its lengths; the slot says where.
    Mixed,
}

impl Shape {
    /// Bytes behind pilots and remap that a partition of so many keys has at least. In a mixed map `extra` is the length of a slot.
    fn tail(self, keys: u64, extra: u16) -> u64 {
        match self {
            Self::Alike { key_len, value_len } => keys * (1 + u64::from(key_len) + u64::from(value_len)),
            Self::Mixed => keys * u64::from(extra),
        }
    }
}

/// The end of the file: what it holds and where the directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tail {
    pub(super) keys: u64,
    pub(super) directory_at: u64,
    pub(super) shape: Shape,
    pub(super) directory_crc: u32,
}

impl Tail {
    /// Encodes the tail; [`Tail::decode`] is the exact inverse.
    pub(super) fn encode(&self) -> Vec<u8> {
        let (alike, key_len, value_len) = match self.shape {
            Shape::Alike { key_len, value_len } => (1, key_len, value_len),
            Shape::Mixed => (0, 0, 0),
        };
        let mut out = Writer::default();
        out.u64(self.keys);
        out.u64(self.directory_at);
        out.u8(alike);
        out.u8(0);
        out.u16(0);
        out.u32(key_len);
        out.u32(value_len);
        out.u32(self.directory_crc);
        out.u32(crc(&[out.bytes()]));
        out.u32(MAGIC);
        out.into_bytes()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Corruption> {
        let mut reader = Reader::new(bytes);
        let keys = reader.u64("keys")?;
        let directory_at = reader.u64("place of the directory")?;
        let alike = reader.u8("layout of the entries")?;
        let zeros = (reader.u8("zero")?, reader.u16("zero")?);
        let (key_len, value_len) = (reader.u32("key length")?, reader.u32("value length")?);
        let directory_crc = reader.u32("checksum of the directory")?;
        let sum = crc(&[bytes.get(..reader.position()).unwrap_or_default()]);
        reader.expect_u32(sum, "checksum of the tail")?;
        reader.expect_u32(MAGIC, "the magic at the end of a map")?;
        reader.finish("end of the tail")?;
        let shape = match (alike, zeros, key_len, value_len) {
            (0, (0, 0), 0, 0) => Shape::Mixed,
            (1, (0, 0), ..) => Shape::Alike { key_len, value_len },
            _ => return Err(Corruption { offset: 16, what: "a layout that this release knows" }),
        };
        Ok(Self { keys, directory_at, shape, directory_crc })
    }
}

/// A finished map of keys to values, in a file: look-ups go from the key's hash straight to its entry.
///
/// Cheap to clone. It is made by [`MapBuilder`](super::MapBuilder) or [`merge_to`](super::merge_to) and never changes. Keys that are not
/// there are told by a fingerprint of eight bits, then by comparing the key.
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
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    file: Arc<dyn File>,
    region: Region,
    seed_number: u64,
    seed: Seed,
    shape: Shape,
    keys: u64,
    /// Where directory and checksums lie in the file.
    lines: std::ops::Range<usize>,
    checksums: std::ops::Range<usize>,
    /// A bit for each partition that has been verified.
    verified: Vec<AtomicU64>,
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Map({:?}, {} keys)", self.inner.path, self.inner.keys)
    }
}

/// A key and its value where they lie, and where that is.
pub(super) struct Entry<'a> {
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    /// Where the entry begins in the file, and where its value does.
    pub(super) at: u64,
    value_at: usize,
}

impl Map {
    /// Opens the map in the file `path`.
    ///
    /// # Errors
    /// [`Io`](Error::Io), also when the file is not there; [`Corrupt`](Error::Corrupt) for a file that is no whole map: what every look-up relies on is checked
    /// here, the entries when they are first touched; [`NewerFormat`](Error::NewerFormat).
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (dir, name) = open_parent(path)?;
        let file = dir.open(&name).at("open", || path.to_path_buf())?;
        Self::of(path.to_path_buf(), file)
    }

    fn of(path: PathBuf, file: Arc<dyn File>) -> Result<Self> {
        let region = file.map().at("map", || path.clone())?;
        let bytes: &[u8] = &region;
        let len = bytes.len();
        let corrupt = |offset: usize, what| Corruption { offset: offset as u64, what }.of(&path, 0);
        let header =
            Header::decode(bytes.get(..Header::LEN).unwrap_or_default(), FileKind::Map).map_err(|bad| bad.of(&path))?;
        let tail_at =
            len.checked_sub(TAIL_LEN).filter(|at| *at >= Header::LEN).ok_or_else(|| corrupt(len, "a whole map"))?;
        let tail =
            Tail::decode(bytes.get(tail_at..).unwrap_or_default()).map_err(|bad| bad.of(&path, tail_at as u64))?;
        let directory_at = usize::try_from(tail.directory_at).unwrap_or(usize::MAX);
        let directory =
            bytes.get(directory_at..tail_at).ok_or_else(|| corrupt(tail_at, "a directory inside the file"))?;
        // A line and a checksum for each partition, and the closing line.
        let partitions = directory.len().checked_sub(LINE_LEN).map(|len| len / (LINE_LEN + 4));
        let partitions = partitions.filter(|count| directory.len() == (count + 1) * LINE_LEN + count * 4);
        let partitions = partitions.ok_or_else(|| corrupt(directory_at, "whole lines of a directory"))?;
        if crc(&[directory]) != tail.directory_crc {
            return Err(corrupt(directory_at, "checksum of the directory"));
        }
        let lines = directory_at..directory_at + (partitions + 1) * LINE_LEN;
        let shape = tail.shape;
        let directory =
            Directory::check(bytes.get(lines.clone()).unwrap_or_default(), tail.directory_at, |keys, extra| {
                shape.tail(keys, extra)
            });
        let directory = directory.map_err(|bad| bad.of(&path, tail.directory_at))?;
        let behind_header = directory.line(0).is_none_or(|line| line.at >= Header::LEN as u64);
        let slots = |partition| match (shape, directory.line(partition)) {
            (Shape::Mixed, Some(line)) => (2..=9).contains(&line.extra),
            (_, line) => line.is_some_and(|line| line.extra == 0),
        };
        if directory.keys() != tail.keys || !behind_header || !(0..directory.partitions()).all(slots) {
            return Err(corrupt(directory_at, "a directory over the keys of the map"));
        }
        let checksums = lines.end..tail_at;
        let verified = (0..partitions.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let (seed_number, seed) = (header.file_id, Seed::new(header.file_id));
        let inner = Inner { seed_number, seed, shape, keys: tail.keys, lines, checksums, verified, path, file, region };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`Corrupt`](Error::Corrupt) and [`Io`](Error::Io) when the part of the file where the key would be turns out to be damaged.
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

    /// The values of several keys, in the order asked: faster than as many single look-ups, because the memory is asked for the places of many
    /// keys at once.
    ///
    /// # Errors
    /// As [`Map::get`].
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

    /// Whether a key is there.
    ///
    /// # Errors
    /// As [`Map::get`].
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.get(key)?.is_some())
    }

    /// How many keys it holds.
    pub fn len(&self) -> u64 {
        self.inner.keys
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The seed of its hash function.
    pub fn seed(&self) -> u64 {
        self.inner.seed_number
    }

    /// All keys and values, from either end, in the order of their slots: none that means anything, but always the same.
    pub fn iter(&self) -> MapIter {
        MapIter { map: self.clone(), front: 0, back: self.len(), partition: (0, 0) }
    }

    /// Reads and checks everything: that every checksum holds, and that every key is found where it lies.
    ///
    /// # Errors
    /// [`Corrupt`](Error::Corrupt) names the first damage; [`Io`](Error::Io).
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

    /// The file it was opened from.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Bytes of the file.
    pub(super) fn file_len(&self) -> u64 {
        self.inner.region.len() as u64
    }

    /// How many partitions it has.
    pub(super) fn partitions(&self) -> u64 {
        self.inner.directory().partitions()
    }

    /// Calls `each` with the entries of a partition.
    pub(super) fn for_each(&self, partition: u64, mut each: impl FnMut(Entry<'_>) -> Result<()>) -> Result<()> {
        self.inner.verify(partition)?;
        self.inner.for_each(partition, |_, entry| each(entry))
    }

    /// The entry at a place that [`Map::for_each`] named.
    #[inline]
    pub(super) fn entry_at(&self, at: u64) -> Result<Entry<'_>> {
        self.inner.entry_at(at, self.inner.lines.start)
    }
}

impl Inner {
    #[inline]
    fn directory(&self) -> Directory<'_> {
        Directory::new(self.region.get(self.lines.clone()).unwrap_or_default())
    }

    fn corrupt(&self, offset: u64, what: &'static str) -> Error {
        Corruption { offset, what }.of(&self.path, 0)
    }

    /// Where the value of a key lies.
    #[inline]
    fn find(&self, directory: Directory<'_>, key: &[u8], hash: Seeded) -> Result<Option<std::ops::Range<usize>>> {
        let bytes: &[u8] = &self.region;
        let Some(slot) = directory.slot(bytes, hash) else { return Ok(None) };
        match self.shape {
            Shape::Alike { key_len, value_len } => {
                let (key_len, value_len) = (key_len as usize, value_len as usize);
                let [slot_at, at] = self.places(&slot);
                let same = bytes.get(slot_at) == Some(&hash.fingerprint());
                // Asked for before the fingerprint is known: both loads are on their way at once.
                let is_key = bytes.get(at..at + key_len) == Some(key);
                Ok((same && is_key).then_some(at + key_len..at + key_len + value_len))
            }
            Shape::Mixed => {
                let (index, keys) = (usize::try_from(slot.index).unwrap_or(0), usize::try_from(slot.keys).unwrap_or(0));
                let slot_len = usize::from(slot.extra);
                let at = slot.behind + index * slot_len;
                let Some((fingerprint, offset)) = bytes.get(at..at + slot_len).and_then(<[u8]>::split_first) else {
                    return Ok(None);
                };
                if *fingerprint != hash.fingerprint() {
                    return Ok(None);
                }
                let offset = offset.iter().rev().fold(0u64, |offset, byte| offset << 8 | u64::from(*byte));
                let entries_at = (slot.behind + keys * slot_len) as u64;
                let entry = self.entry_at(entries_at.saturating_add(offset), self.end_of(slot.partition))?;
                Ok((entry.key == key).then(|| entry.value_at..entry.value_at + entry.value.len()))
            }
        }
    }

    #[inline]
    fn entry_at(&self, at: u64, limit: usize) -> Result<Entry<'_>> {
        let bytes = self.region.get(..limit).unwrap_or_default();
        let start = usize::try_from(at).unwrap_or(usize::MAX);
        let mut reader = Reader::starting_at(bytes, start);
        let read = |reader: &mut Reader<'_>| match self.shape {
            Shape::Alike { key_len, value_len } => Ok((key_len as usize, value_len as usize)),
            Shape::Mixed => Ok((reader.length("key length")?, reader.length("value length")?)),
        };
        let entry = read(&mut reader).and_then(|(key_len, value_len)| {
            let key = reader.take(key_len, "key")?;
            let value_at = reader.position();
            Ok(Entry { key, value: reader.take(value_len, "value")?, at, value_at })
        });
        entry.map_err(|bad: Corruption| bad.of(&self.path, 0))
    }

    /// Where the fingerprint of a slot lies, and its entry, if that can be told without reading: else the fingerprint again.
    #[inline]
    fn places(&self, slot: &Slot) -> [usize; 2] {
        let (index, keys) = (usize::try_from(slot.index).unwrap_or(0), usize::try_from(slot.keys).unwrap_or(0));
        match self.shape {
            Shape::Alike { key_len, value_len } => {
                [slot.behind + index, slot.behind + keys + index * (key_len as usize + value_len as usize)]
            }
            Shape::Mixed => [slot.behind + index * usize::from(slot.extra); 2],
        }
    }

    fn for_each(&self, partition: u64, mut each: impl FnMut(u64, Entry<'_>) -> Result<()>) -> Result<()> {
        let mut place = self.first_entry(partition)?;
        let end = self.end_of(partition);
        let mut room = (end as u64).saturating_sub(place.first_at);
        for index in 0..place.keys {
            let entry = self.entry_at(self.place_of(&mut place, index)?, end)?;
            // Entries that overlap would be more than the file holds: whoever gathers them counts on that they are not.
            let len = (entry.key.len() + entry.value.len()) as u64;
            room = room.checked_sub(len).ok_or_else(|| self.corrupt(entry.at, "entries that do not overlap"))?;
            each(index, entry)?;
        }
        Ok(())
    }

    /// Where a partition ends.
    #[inline]
    fn end_of(&self, partition: u64) -> usize {
        let extent = self.directory().extent(partition);
        extent.and_then(|(_, end)| usize::try_from(end).ok()).unwrap_or(0)
    }

    /// Where the entries of a partition lie.
    fn first_entry(&self, partition: u64) -> Result<Entries> {
        let directory = self.directory();
        let lines = directory.line(partition).zip(directory.line(partition + 1));
        let (line, next) = lines.ok_or_else(|| self.corrupt(self.lines.start as u64, "a partition that exists"))?;
        let keys = next.first - line.first;
        let slots_at = line.at + u64::from(line.buckets) + 2 * (u64::from(line.positions) - keys);
        let slot_len = if self.shape == Shape::Mixed { u64::from(line.extra) } else { 1 };
        Ok(Entries { keys, slots_at, slot_len, first_at: slots_at + keys * slot_len })
    }

    fn place_of(&self, entries: &mut Entries, index: u64) -> Result<u64> {
        match self.shape {
            Shape::Alike { key_len, value_len } => {
                Ok(entries.first_at + index * (u64::from(key_len) + u64::from(value_len)))
            }
            Shape::Mixed => {
                let at = usize::try_from(entries.slots_at + index * entries.slot_len).unwrap_or(usize::MAX);
                let slot =
                    self.region.get(at..).and_then(|bytes| bytes.get(1..usize::try_from(entries.slot_len).ok()?));
                let slot = slot.ok_or_else(|| self.corrupt(at as u64, "a slot"))?;
                let offset = slot.iter().rev().fold(0u64, |offset, byte| offset << 8 | u64::from(*byte));
                Ok(entries.first_at.saturating_add(offset))
            }
        }
    }

    /// Checks a partition the first time it is touched.
    #[inline]
    fn verify(&self, partition: u64) -> Result<()> {
        let bit = 1u64 << (partition % 64);
        let word = usize::try_from(partition / 64).ok().and_then(|word| self.verified.get(word));
        if word.is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0) {
            return Ok(());
        }
        self.verified_now(partition)?;
        if let Some(word) = word {
            word.fetch_or(bit, Ordering::Relaxed);
        }
        Ok(())
    }

    #[cold]
    fn verified_now(&self, partition: u64) -> Result<()> {
        let directory = self.directory();
        let extent = directory.extent(partition).ok_or_else(|| self.corrupt(0, "a partition that exists"))?;
        // Piece by piece: what a file claims of itself costs time, never memory.
        let mut buf = vec![0; CHECK_LEN.min(usize::try_from(extent.1 - extent.0).unwrap_or(CHECK_LEN))];
        let mut found = Checksum::default();
        let mut next = extent.0;
        while next < extent.1 {
            let len = buf.len().min(usize::try_from(extent.1 - next).unwrap_or(usize::MAX));
            let piece = buf.get_mut(..len).unwrap_or_default();
            self.file.read_at(next, piece).at("read", || self.path.clone())?;
            found.update(piece);
            next += len as u64;
        }
        let at = self.checksums.start + 4 * usize::try_from(partition).unwrap_or(0);
        let sum = Reader::starting_at(&self.region, at).u32("checksum of a partition");
        if sum.map_err(|bad| bad.of(&self.path, 0))? == found.finish() {
            return Ok(());
        }
        Err(self.corrupt(extent.0, "the checksum of the partition"))
    }
}

/// Where the entries of one partition lie.
struct Entries {
    keys: u64,
    slots_at: u64,
    slot_len: u64,
    first_at: u64,
}

/// The directory that a file is in, and its name there. Links that the user's path leads through are followed.
pub(super) fn open_parent(named: &Path) -> Result<(Arc<dyn Dir>, String)> {
    let path = Os::follow(named).at("open", || named.to_path_buf())?;
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| {
        Error::invalid(format!("the path \"{}\" does not end with the name of a file", path.display()))
    })?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = Os.open_dir(parent, false).at("open", || parent.to_path_buf())?;
    Ok((dir, name.to_owned()))
}

/// All entries of a map: see [`Map::iter`].
#[derive(Clone, Debug)]
#[must_use = "iterators are lazy"]
pub struct MapIter {
    map: Map,
    front: u64,
    back: u64,
    /// The partition that was read last, and how many keys are before it.
    partition: (u64, u64),
}

impl MapIter {
    fn item(&mut self, number: u64) -> Result<(Bytes, Bytes)> {
        let inner = &*self.map.inner;
        let directory = inner.directory();
        let first = |partition: u64| directory.line(partition).map_or(u64::MAX, |line| line.first);
        // The usual case is the partition of the entry before; else search.
        let (mut partition, _) = self.partition;
        if !(first(partition)..first(partition + 1)).contains(&number) {
            let (mut low, mut high) = (0, directory.partitions());
            while low < high {
                let middle = low.midpoint(high);
                if first(middle + 1) <= number { low = middle + 1 } else { high = middle }
            }
            partition = low;
        }
        self.partition = (partition, first(partition));
        inner.verify(partition)?;
        let mut entries = inner.first_entry(partition)?;
        let index = number.saturating_sub(self.partition.1);
        let entry = inner.entry_at(inner.place_of(&mut entries, index)?, inner.end_of(partition))?;
        let share = |at: usize, part: &[u8]| Bytes::window(|| inner.region.owner(), at, part);
        Ok((share(entry.value_at - entry.key.len(), entry.key), share(entry.value_at, entry.value)))
    }
}

impl Iterator for MapIter {
    type Item = Result<(Bytes, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.front >= self.back {
            return None;
        }
        self.front += 1;
        Some(self.item(self.front - 1))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.back - self.front);
        (left.unwrap_or(usize::MAX), left.ok())
    }
}

impl ExactSizeIterator for MapIter {}

impl DoubleEndedIterator for MapIter {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.front >= self.back {
            return None;
        }
        self.back -= 1;
        Some(self.item(self.back))
    }
}

impl IntoIterator for &Map {
    type Item = Result<(Bytes, Bytes)>;
    type IntoIter = MapIter;

    fn into_iter(self) -> MapIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        merge::MergeStrategy,
        phash::{MapBuilder, MergeOptions, merge_to},
    };

    /// Makes every checksum of a map of one partition right again.
    fn reseal(bytes: &mut [u8]) {
        let tail_at = bytes.len() - TAIL_LEN;
        let directory_at = usize::try_from(Tail::decode(&bytes[tail_at..]).unwrap().directory_at).unwrap();
        let seal = |bytes: &mut [u8], at: usize, of: std::ops::Range<usize>| {
            let sum = crc(&[&bytes[of]]).to_le_bytes();
            bytes[at..at + 4].copy_from_slice(&sum);
        };
        seal(bytes, directory_at + 2 * LINE_LEN, Header::LEN..directory_at);
        seal(bytes, tail_at + 28, directory_at..tail_at);
        seal(bytes, tail_at + 32, tail_at..tail_at + 32);
    }

    #[test]
    fn entries_that_run_into_each_other_are_corruption_also_for_a_merge() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        let entries = [("a", vec![b'x'; 20]), ("b", vec![b'y'; 30])];
        drop(MapBuilder::new().build_to(&path, entries).unwrap());
        let good = std::fs::read(&path).unwrap();
        // The head of whichever entry stands first: key length, value length, key.
        let heads = [[1, 20, b'a'], [1, 30, b'b']];
        let first = heads.iter().map(|head| good.windows(3).position(|three| three == head).unwrap()).min().unwrap();
        let mut bad = good.clone();
        bad[first + 1] += 9;
        reseal(&mut bad);
        std::fs::write(&path, &bad).unwrap();
        let map = Map::open(&path).unwrap();
        assert!(matches!(map.verify(), Err(Error::Corrupt { .. })));
        let merged = merge_to(dir.path().join("merged"), &[&map], &MergeStrategy::LastWins, MergeOptions::default());
        assert!(matches!(merged, Err(Error::Corrupt { .. })));
        let mut same = good.clone();
        reseal(&mut same);
        assert!(same == good, "resealing what is whole changes nothing");
    }
}
