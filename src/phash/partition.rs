//! One partition of a perfect hash function, as bytes: how a key finds its slot.
//!
//! ```text
//!  directory, a line of 24 bytes for each partition, and one that closes it
//!   first u64 · at u64 · seed u16 · extra u16 · buckets u16 · positions u16
//!
//!  partition: pilots (u8 for each bucket) │ remap (u16 for each position past the last slot) │ what the user of the function adds
//!
//!  key ─ route ─▶ partition ─▶ bucket ─▶ pilot ┐
//!      ─ place ────────────────────────────────┴▶ position ─ past the last slot? remap ─▶ slot
//! ```
//!
//! A pilot is two bits for the number of quarters of a word by which the place is turned, and six bits of shift.
//! `first` counts the keys of the preceding partitions, `at` is the offset of the partition's bytes. Bytes that are not
//! what was written lead to a wrong slot or to none, never out of bounds.

use super::hash::{GOLDEN, Seeded, fold, scale};
use crate::{
    base::Corruption,
    format::{Reader, Writer},
};

/// Average number of keys in a partition.
const PARTITION_KEYS: u64 = 4096;

/// Minimum number of positions of a partition: shifts range over as many.
pub(super) const POSITIONS_MIN: u64 = 64;

/// Spreads the seed of a partition over all bits of a word.
const SPREAD: u64 = 0x2545_f491_4f6c_dd1d;

/// Length of a line of the directory.
pub(crate) const LINE_LEN: usize = 24;

/// Returns the number of partitions for this many keys.
pub(crate) fn partition_count(keys: u64) -> u64 {
    keys.div_ceil(PARTITION_KEYS).max(1)
}

/// A partition put together: the contents of its line and of its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Partition {
    pub(crate) seed: u16,
    pub(crate) pilots: Vec<u8>,
    pub(crate) positions: u16,
    pub(crate) remap: Vec<u16>,
    /// Slot of each key, in the order in which the keys were given.
    pub(crate) slots: Vec<u16>,
}

/// Appends the part of a partition that all users share: what [`Directory::slot`] reads.
pub(crate) fn encode_partition(out: &mut Writer, built: &Partition) {
    out.raw(&built.pilots);
    built.remap.iter().for_each(|slot| out.u16(*slot));
}

/// Location of one partition, and how positions are computed in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Number of keys in the preceding partitions.
    pub(crate) first: u64,
    /// Offset of its bytes.
    pub(crate) at: u64,
    pub(crate) seed: u16,
    /// Data that the user of the function keeps for the partition.
    pub(crate) extra: u16,
    pub(crate) buckets: u16,
    pub(crate) positions: u16,
}

impl Line {
    /// Returns the line of a partition that was built.
    pub(crate) fn of(built: &Partition, first: u64, at: u64, extra: u16) -> Self {
        let buckets = u16::try_from(built.pilots.len()).unwrap_or(u16::MAX);
        Self { first, at, seed: built.seed, extra, buckets, positions: built.positions }
    }

    /// Returns the line after the last partition.
    pub(crate) fn closing(first: u64, at: u64) -> Self {
        Self { first, at, seed: 0, extra: 0, buckets: 0, positions: 0 }
    }

    /// Appends the line; [`Line::read`] is the exact inverse.
    pub(crate) fn encode(&self, out: &mut Writer) {
        out.u64(self.first);
        out.u64(self.at);
        out.u16(self.seed);
        out.u16(self.extra);
        out.u16(self.buckets);
        out.u16(self.positions);
    }

    #[inline]
    fn read(bytes: &[u8]) -> Option<Self> {
        let (first, rest) = bytes.split_first_chunk()?;
        let (at, rest) = rest.split_first_chunk()?;
        let (seed, rest) = rest.split_first_chunk()?;
        let (extra, rest) = rest.split_first_chunk()?;
        let (buckets, rest) = rest.split_first_chunk()?;
        let (positions, _) = rest.split_first_chunk()?;
        Some(Self {
            first: u64::from_le_bytes(*first),
            at: u64::from_le_bytes(*at),
            seed: u16::from_le_bytes(*seed),
            extra: u16::from_le_bytes(*extra),
            buckets: u16::from_le_bytes(*buckets),
            positions: u16::from_le_bytes(*positions),
        })
    }
}

/// Returns the position of a key before the shift of its bucket: its place, as [`mixed`] returned it, turned by so many
/// quarters of a word. One of four multipliers instead, which has to be looked up first, costs a look-up 5 ns of 40.
#[inline]
pub(super) fn base_position(mixed: u64, turn: u32, positions: u64) -> u64 {
    scale(mixed.rotate_left(turn << 4), positions)
}

/// Mixes the place of a key with the seed of its partition.
#[inline]
pub(super) fn mixed(place: u64, seed: u16) -> u64 {
    fold(place ^ u64::from(seed).wrapping_mul(SPREAD), GOLDEN)
}

/// Returns the bucket of a key: the first buckets get more keys, so that the hardest are placed while there is room
/// (the idea of `PtrHash`, Groot Koerkamp 2025; its cubic skew makes first buckets that small partitions cannot place).
#[inline]
pub(super) fn bucket(rest: u64, buckets: u64) -> u64 {
    let square = scale(rest, rest);
    scale(square - (square >> 3) + (rest >> 3), buckets)
}

/// Slot of a key in its partition, and the location of the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) partition: u64,
    /// Number of the slot in the partition.
    pub(crate) index: u64,
    /// Number of keys, and so of slots, of the partition.
    pub(crate) keys: u64,
    /// Number of keys in the preceding partitions.
    pub(crate) first: u64,
    /// Data that the line keeps for the user.
    pub(crate) extra: u16,
    /// Offset of the bytes after pilots and remap.
    pub(crate) behind: usize,
}

/// Directory of a function, read in place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Directory<'a> {
    lines: &'a [u8],
    partitions: u64,
}

impl<'a> Directory<'a> {
    /// Returns the directory in `lines`, which [`Directory::check`] must have accepted.
    #[inline]
    pub(crate) fn new(lines: &'a [u8]) -> Self {
        Self { lines, partitions: (lines.len() / LINE_LEN).saturating_sub(1) as u64 }
    }

    /// Checks everything once: keys and offsets in order, every partition large enough for its contents, including
    /// `tail(keys, extra)` bytes of its user, and none beyond `limit`.
    pub(crate) fn check(lines: &'a [u8], limit: u64, tail: impl Fn(u64, u16) -> u64) -> Result<Self, Corruption> {
        let bad = |index: usize, what| Corruption { offset: (index * LINE_LEN) as u64, what };
        if lines.is_empty() || !lines.len().is_multiple_of(LINE_LEN) {
            return Err(bad(0, "whole lines of a directory"));
        }
        let directory = Self::new(lines);
        let mut before: Option<Line> = None;
        for (index, line) in (0..=directory.partitions).enumerate() {
            let line = directory.line(line).ok_or_else(|| bad(index, "a line of the directory"))?;
            if let Some(before) = before {
                let keys = line.first.checked_sub(before.first);
                let keys = keys.filter(|keys| *keys <= u64::from(before.positions));
                let keys = keys.ok_or_else(|| bad(index, "keys of a partition that fit its positions"))?;
                let remap = 2 * (u64::from(before.positions) - keys);
                let needed = u64::from(before.buckets) + remap + tail(keys, before.extra);
                let fits = before.at.checked_add(needed).is_some_and(|end| end <= line.at);
                if !fits || keys > 0 && before.buckets == 0 {
                    return Err(bad(index, "a partition with room for what it holds"));
                }
            } else if line.first != 0 {
                return Err(bad(index, "a directory that begins with the first key"));
            }
            before = Some(line);
        }
        match before {
            Some(last)
                if last.at <= limit
                    && last.buckets == 0
                    && last.positions == 0
                    && (last.seed, last.extra) == (0, 0) =>
            {
                Ok(directory)
            }
            _ => Err(bad(0, "a closing line inside the file")),
        }
    }

    /// Returns the number of keys that the function is over.
    pub(crate) fn keys(&self) -> u64 {
        self.line(self.partitions).map_or(0, |line| line.first)
    }

    /// Returns the number of partitions.
    #[inline]
    pub(crate) fn partitions(&self) -> u64 {
        self.partitions
    }

    #[inline]
    pub(crate) fn line(&self, index: u64) -> Option<Line> {
        let start = usize::try_from(index).ok()?.checked_mul(LINE_LEN)?;
        Line::read(self.lines.get(start..start.checked_add(LINE_LEN)?)?)
    }

    /// Returns the range of a partition's bytes.
    pub(crate) fn extent(&self, index: u64) -> Option<(u64, u64)> {
        Some((self.line(index)?.at, self.line(index + 1)?.at))
    }

    /// Returns the partition of a key.
    #[inline]
    pub(crate) fn find(&self, hash: Seeded) -> Option<Part> {
        let (partition, rest) = hash.partition(self.partitions);
        let start = usize::try_from(partition).ok()?.checked_mul(LINE_LEN)?;
        let (line, next) = self.lines.get(start..start.checked_add(2 * LINE_LEN)?)?.split_at_checked(LINE_LEN)?;
        Some(Part { partition, rest, line: Line::read(line)?, next: Line::read(next)? })
    }

    /// Returns the offset of a key's pilot.
    #[inline]
    pub(crate) fn pilot_at(&self, hash: Seeded) -> Option<usize> {
        let part = self.find(hash)?;
        part.start()?.checked_add(part.pilot_at()?)
    }

    /// Returns the slot of a key in `bytes`, to which `at` is relative. For a key that the function was not built over
    /// it is any slot. `None` if the function has no keys there, or if these are not the bytes that were written.
    #[inline]
    pub(crate) fn slot(&self, bytes: &[u8], hash: Seeded) -> Option<Slot> {
        let part = self.find(hash)?;
        let slot = part.slot(bytes.get(part.start()?..)?, hash)?;
        Some(Slot { behind: slot.behind + part.start()?, ..slot })
    }
}

/// Partition of a key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) partition: u64,
    rest: u64,
    line: Line,
    next: Line,
}

impl Part {
    /// Returns the offset of its bytes.
    #[inline]
    pub(crate) fn start(&self) -> Option<usize> {
        usize::try_from(self.line.at).ok()
    }

    /// Returns the end of its bytes.
    #[inline]
    pub(crate) fn end(&self) -> Option<usize> {
        usize::try_from(self.next.at).ok()
    }

    /// Returns the offset of the key's pilot in the bytes of the partition.
    #[inline]
    pub(crate) fn pilot_at(&self) -> Option<usize> {
        usize::try_from(bucket(self.rest, u64::from(self.line.buckets))).ok()
    }

    /// Returns the slot of the key, like [`Directory::slot`], in the bytes of the partition; `behind` is relative to
    /// them.
    #[inline]
    pub(crate) fn slot(&self, bytes: &[u8], hash: Seeded) -> Option<Slot> {
        let Self { partition, line, next, .. } = self;
        let keys = next.first.checked_sub(line.first)?;
        let positions = u64::from(line.positions);
        let pilot = *bytes.get(self.pilot_at()?)?;
        let base = base_position(mixed(hash.place, line.seed), u32::from(pilot >> 6), positions);
        let position = base + u64::from(pilot & 63);
        let position = if position >= positions { position.checked_sub(positions)? } else { position };
        let remap_at = usize::from(line.buckets);
        let behind = remap_at + 2 * usize::try_from(positions.checked_sub(keys)?).ok()?;
        let index = if position < keys {
            position
        } else {
            let entry = remap_at + 2 * usize::try_from(position - keys).ok()?;
            u64::from(Reader::starting_at(bytes, entry).u16("remap").ok()?)
        };
        let (partition, first, extra) = (*partition, line.first, line.extra);
        (index < keys).then_some(Slot { partition, index, keys, first, extra, behind })
    }
}
