//! Perfect-hash index of a segment: from the hash of a key straight to its newest entry.
//!
//! ```text
//!  in the data, checked page by page      filter lines (64 bytes each) │ partition │ partition │ …
//!                                         partition: pilots · remap · slots
//!                                         slot: fingerprint u8 · offset of the entry / 4 (3 or 4 bytes)
//!
//!  section INDX: seed of the hash u64 · seed u64 · slot length u8 · filter at u64 · filter lines u32 │ directory of the partitions
//!
//!  key ─ hash ─▶ filter line: not here ─▶ absent
//!                     │ perhaps
//!                     ▼
//!               partition ─▶ slot: other fingerprint ─▶ absent
//!                     │ same
//!                     ▼
//!               entry: is it the key?
//! ```
//!
//! The filter is a blocked Bloom filter (Putze, Sanders and Singler, 2007) with one bit in each of the eight words of a
//! line, as in the split block filter of Apache Parquet. It is built where a read may pass the segment without finding
//! the key. The bytes of a partition are contiguous, and each partition is verified when it is first touched.

use std::ops::Range;

use super::{pages::Mapped, sizes::ALIGN};
use crate::{
    base::{Corruption, Result},
    format::{Reader, Writer},
    phash::{Builder, Directory, Hash, Line, Part, Partitioned, Seed, Seeded, encode_partition, partition_count},
};

/// Unit of entry offsets, in bytes.
const UNIT: u32 = 4;
const _: () = assert!(UNIT as usize == ALIGN);

/// Length of a line of the filter: one cache line.
const FILTER_LINE: usize = 64;

/// Bits of the filter for each key.
const FILTER_BITS: usize = 10;

/// Minimum number of keys for an index: in smaller segments fences are as fast, and cost nothing.
const KEYS_MIN: usize = 1024;

/// Memory for each key while the index is built, in bytes.
const BUILD_BYTES: u64 = 56;

/// Choice of the index of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum PointIndex {
    /// An index where it pays: with 1024 keys or more.
    #[default]
    Auto,
    /// No index: only ranges are read.
    Never,
    /// Always an index, however few the keys.
    Always,
}

impl PointIndex {
    /// Returns the choice of a user, who may leave it to the engine.
    pub(crate) fn chosen(index: Option<bool>) -> Self {
        index.map_or(Self::Auto, |index| if index { Self::Always } else { Self::Never })
    }

    /// Returns the number in the manifest; never changed or reused.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Auto => 0,
            Self::Never => 1,
            Self::Always => 2,
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        [Self::Auto, Self::Never, Self::Always].into_iter().find(|choice| choice.number() == number)
    }
}

/// Collects keys while a segment is written.
#[derive(Debug)]
pub(super) struct IndexWriter {
    hash_seed: u64,
    seed: u64,
    mode: PointIndex,
    keys: Vec<Seeded>,
    /// Where the newest entry of each key begins, in units of [`ALIGN`].
    places: Vec<u32>,
}

/// A finished index: the bytes that go into the data, and its section.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) data: Vec<u8>,
    pub(super) section: Vec<u8>,
}

impl IndexWriter {
    /// Returns a writer that hashes keys with the seed of the database, and then with one of the segment's own.
    pub(super) fn new(hash_seed: u64, seed: u64, mode: PointIndex) -> Self {
        Self { hash_seed, seed, mode, keys: Vec::new(), places: Vec::new() }
    }

    /// Records that the newest entry of a key begins at `offset`.
    #[inline]
    pub(super) fn push(&mut self, key: &[u8], offset: u32) {
        debug_assert!(offset.is_multiple_of(UNIT), "an entry at {offset}");
        if self.mode != PointIndex::Never {
            self.keys.push(Hash::with_seed(key, self.hash_seed).seeded(Seed::new(self.seed)));
            self.places.push(offset / UNIT);
        }
    }

    /// Returns the memory that building the index would take, in bytes; 0 if none is built.
    pub(super) fn build_bytes(&self) -> u64 {
        (self.keys.len() as u64).saturating_mul(BUILD_BYTES)
    }

    /// Returns the index of a segment whose blocks end at `at`; `None` if none is wanted, or if two keys have the same
    /// hash: then reads use the fences.
    pub(super) fn finish(self, at: u32, filter: bool) -> Option<Encoded> {
        let Self { hash_seed, seed, mode, keys, places } = self;
        if mode == PointIndex::Never || keys.is_empty() || mode == PointIndex::Auto && keys.len() < KEYS_MIN {
            return None;
        }
        let mut data = Writer::default();
        data.raw(&vec![0; (at as usize).next_multiple_of(FILTER_LINE) - at as usize]);
        let filter_at = u64::from(at) + data.len() as u64;
        let lines = if filter { filter_of(&keys) } else { Vec::new() };
        for word in lines.iter().flatten() {
            data.u64(*word);
        }

        let slot_len: u8 = if at as usize / ALIGN < 1 << 24 { 4 } else { 5 };
        let partitions = partition_count(keys.len() as u64);
        let Partitioned { members, ends } = Partitioned::of(keys.iter().copied().zip(places), partitions);
        drop(keys);
        let mut directory = Writer::default();
        let mut builder = Builder::default();
        let mut slots = Vec::new();
        let mut first = 0;
        for end in ends {
            let members = members.get(first..end)?;
            let built = builder.build(members).ok()?;
            Line::of(&built, first as u64, u64::from(at) + data.len() as u64, 0).encode(&mut directory);
            encode_partition(&mut data, &built);
            let (keys, last) = (members.len(), built.slots.iter().max().map_or(0, |last| usize::from(*last)));
            assert!(built.slots.len() == keys && last < keys.max(1), "{keys} keys, slots up to {last}");
            slots.clear();
            slots.resize(members.len(), (0, 0));
            for (member, slot) in members.iter().zip(&built.slots) {
                *slots.get_mut(usize::from(*slot))? = (member.hash().fingerprint(), member.of);
            }
            for (fingerprint, place) in &slots {
                data.u8(*fingerprint);
                data.raw(place.to_le_bytes().get(..usize::from(slot_len) - 1)?);
            }
            first = end;
        }
        Line::closing(first as u64, u64::from(at) + data.len() as u64).encode(&mut directory);

        let mut section = Writer::default();
        section.u64(hash_seed);
        section.u64(seed);
        section.u8(slot_len);
        section.u64(filter_at);
        let count = u32::try_from(lines.len());
        assert!(count.is_ok(), "{} lines of a filter over {first} keys", lines.len());
        section.u32(count.unwrap_or(0));
        section.raw(directory.bytes());
        Some(Encoded { data: data.into_bytes(), section: section.into_bytes() })
    }
}

/// Returns the lines of a filter over the keys.
fn filter_of(keys: &[Seeded]) -> Vec<[u64; 8]> {
    let mut lines = vec![[0u64; 8]; (keys.len() * FILTER_BITS).div_ceil(8 * FILTER_LINE)];
    let count = lines.len() as u64;
    for key in keys {
        if let Some(line) = lines.get_mut(key.filter_line(count)) {
            for (word, bit) in line.iter_mut().zip(key.filter_bits()) {
                *word |= bit;
            }
        }
    }
    lines
}

/// Index of an open segment.
#[derive(Debug)]
pub(super) struct Index {
    hash_seed: u64,
    seed: Seed,
    slot_len: usize,
    filter_at: usize,
    filter_lines: u64,
    directory: Vec<u8>,
}

/// Record of where a look-up searched in a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Probe {
    /// Whether the filter let the key pass, if it was asked.
    pub(crate) filter: Option<bool>,
    /// Partition and slot of the index that were read.
    pub(crate) slot: Option<(u64, u64)>,
    /// Where the entry that the slot names begins, if the fingerprint was that of the key.
    pub(crate) entry_at: Option<u64>,
    /// Number of blocks from which an entry was read.
    pub(crate) blocks: u32,
    /// Whether an entry of the key was found.
    pub(crate) key_found: bool,
}

/// Contents of the slot of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SlotFound {
    partition: u64,
    /// Number of the slot in the segment.
    slot: u64,
    /// Where the entry begins, if the fingerprint is that of the key.
    entry_at: Option<usize>,
}

impl Index {
    /// Decodes and checks everything once: every partition and the filter lie inside `data`, and the index covers
    /// `keys` keys.
    pub(super) fn decode(section: &[u8], data: Range<u64>, keys: u64) -> Result<Self, Corruption> {
        let mut reader = Reader::new(section);
        let hash_seed = reader.u64("seed of the hash")?;
        let seed = Seed::new(reader.u64("seed of the index")?);
        let slot_len = usize::from(reader.u8("length of a slot")?);
        let filter_at = reader.u64("place of the filter")?;
        let filter_lines = u64::from(reader.u32("lines of the filter")?);
        let behind = reader.position();
        let lines = reader.take(reader.remaining(), "directory of the index")?;
        let filter_end = filter_at.checked_add(filter_lines * FILTER_LINE as u64);
        if !(4..=5).contains(&slot_len) || filter_at < data.start || filter_end.is_none_or(|end| end > data.end) {
            return Err(Corruption { offset: 0, what: "slots and a filter that make sense" });
        }
        let tail = |keys, _| keys * slot_len as u64;
        let directory = Directory::check(lines, data.end, tail).map_err(|bad| bad.behind(behind))?;
        let starts_inside = directory.line(0).is_some_and(|line| line.at >= data.start);
        if directory.keys() != keys || !starts_inside {
            return Err(Corruption { offset: behind as u64, what: "an index over the keys of the segment" });
        }
        let filter_at = usize::try_from(filter_at).unwrap_or(usize::MAX);
        Ok(Self { hash_seed, seed, slot_len, filter_at, filter_lines, directory: lines.to_vec() })
    }

    /// Returns the seed that keys are hashed with.
    #[inline]
    pub(super) fn hash_seed(&self) -> u64 {
        self.hash_seed
    }

    #[inline]
    pub(super) fn seeded(&self, hash: Hash) -> Seeded {
        hash.seeded(self.seed)
    }

    /// Looks up a key: first in the filter, if it is to be asked, then in the slot. Returns where the entry that the
    /// slot names begins, which may be that of another key; `probe` records what was read.
    #[inline]
    pub(super) fn probe(
        &self,
        data: Mapped<'_>,
        key: Seeded,
        asks_filter: bool,
        probe: &mut Probe,
    ) -> Result<Option<usize>> {
        if asks_filter && let Some(at) = self.filter_line(key) {
            let passes = may_hold(&data.get(at, FILTER_LINE)?, key);
            probe.filter = Some(passes);
            if !passes {
                return Ok(None);
            }
        }
        let inside = || data.corrupt(0, "a slot of the index inside the data");
        let (part, start, end) = self.part(key).ok_or_else(inside)?;
        let bytes = data.partition(part.partition, start, end)?;
        let slot = self.slot(part, &bytes, key).ok_or_else(inside)?;
        probe.slot = Some((slot.partition, slot.slot));
        probe.entry_at = slot.entry_at.map(|at| at as u64);
        Ok(slot.entry_at)
    }

    /// Prefetches the pilot of a key, which is needed to find its slot; `false` if the filter rules the key out, or the
    /// pages were never verified.
    #[inline]
    pub(super) fn fetch_pilot(&self, data: Mapped<'_>, key: Seeded) -> bool {
        if let Some(at) = self.filter_line(key)
            && !data.at_hand(at, FILTER_LINE).is_some_and(|line| may_hold(&line, key))
        {
            return false;
        }
        let Some((part, start, end)) = self.part(key) else { return false };
        let Some(bytes) = data.partition_at_hand(part.partition, start, end) else { return false };
        std::hint::black_box(part.pilot_at().and_then(|at| bytes.get(at)).copied());
        true
    }

    /// Returns where the entry that the slot of a key names begins, if the pages were verified before.
    #[inline]
    pub(super) fn entry_at_hand(&self, data: Mapped<'_>, key: Seeded) -> Option<usize> {
        let (part, start, end) = self.part(key)?;
        let bytes = data.partition_at_hand(part.partition, start, end)?;
        self.slot(part, &bytes, key)?.entry_at
    }

    /// Returns where the line of the filter for a key begins; `None` without a filter.
    #[inline]
    fn filter_line(&self, key: Seeded) -> Option<usize> {
        (self.filter_lines > 0).then(|| self.filter_at + FILTER_LINE * key.filter_line(self.filter_lines))
    }

    /// Returns the partition of a key, and where its bytes begin and end.
    #[inline]
    fn part(&self, key: Seeded) -> Option<(Part, usize, usize)> {
        let part = Directory::new(&self.directory).find(key)?;
        Some((part, part.start()?, part.end()?))
    }

    /// Reads the slot of a key from the bytes of its partition.
    #[inline]
    fn slot(&self, part: Part, bytes: &[u8], key: Seeded) -> Option<SlotFound> {
        let slot = part.slot(bytes, key)?;
        let at = slot.behind + usize::try_from(slot.index).ok()? * self.slot_len;
        let (fingerprint, place) = bytes.get(at..at + self.slot_len)?.split_first()?;
        let entry_at = (*fingerprint == key.fingerprint()).then(|| {
            place.iter().rev().fold(0usize, |place, byte| place << 8 | usize::from(*byte)).saturating_mul(ALIGN)
        });
        Some(SlotFound { partition: slot.partition, slot: slot.first + slot.index, entry_at })
    }

    pub(super) fn partitions(&self) -> usize {
        usize::try_from(Directory::new(&self.directory).partitions()).unwrap_or(usize::MAX)
    }

    /// Returns the bytes in the file: of the filter, and of partitions and directory.
    pub(super) fn file_bytes(&self) -> (u64, u64) {
        let directory = Directory::new(&self.directory);
        let end = directory.line(directory.partitions()).map_or(0, |line| line.at);
        let start = directory.line(0).map_or(0, |line| line.at);
        (self.filter_lines * FILTER_LINE as u64, end.saturating_sub(start) + self.directory.len() as u64)
    }

    pub(super) fn memory(&self) -> usize {
        self.directory.len()
    }
}

/// Returns whether a line of the filter has all bits of a key; if not, the key was never added.
#[inline]
fn may_hold(line: &[u8], key: Seeded) -> bool {
    // Tests all words without branching: eight loads from one line cost less than a mispredicted branch.
    let missing = line.chunks_exact(8).zip(key.filter_bits()).fold(0, |missing, (word, bit)| {
        let word = word.try_into().map_or(0, u64::from_le_bytes);
        missing | (bit & !word)
    });
    missing == 0
}
