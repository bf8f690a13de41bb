//! Entries of a partition: finding the one of a key, and iterating over all.

use std::ops::Range;

use super::{file::Inner, tail::Shape};
use crate::{
    base::{Corruption, Result},
    format::Reader,
    phash::{
        hash::Seeded,
        partition::{Directory, Slot},
    },
};

/// A key and its value in the file, and their offsets.
pub(super) struct Entry<'a> {
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    /// Offsets of the entry and of its value in the file.
    pub(super) at: u64,
    pub(super) value_at: usize,
}

/// Layout of the entries of one partition.
pub(super) struct Entries {
    keys: u64,
    slots_at: u64,
    slot_len: u64,
    first_at: u64,
}

impl Inner {
    /// Returns the range of a key's value in the file.
    #[inline]
    pub(super) fn find(&self, directory: Directory<'_>, key: &[u8], hash: Seeded) -> Result<Option<Range<usize>>> {
        let bytes: &[u8] = &self.region;
        let Some(slot) = directory.slot(bytes, hash) else { return Ok(None) };
        match self.shape {
            Shape::Alike { key_len, value_len } => {
                let (key_len, value_len) = (key_len as usize, value_len as usize);
                let [slot_at, at] = self.places(&slot);
                let same = bytes.get(slot_at) == Some(&hash.fingerprint());
                // Read before the fingerprint is known: both loads are in flight at once.
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
    pub(super) fn entry_at(&self, at: u64, limit: usize) -> Result<Entry<'_>> {
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

    /// Returns the offset of a slot's fingerprint, and that of its entry if it is known without reading; otherwise the
    /// former twice.
    #[inline]
    pub(super) fn places(&self, slot: &Slot) -> [usize; 2] {
        let (index, keys) = (usize::try_from(slot.index).unwrap_or(0), usize::try_from(slot.keys).unwrap_or(0));
        match self.shape {
            Shape::Alike { key_len, value_len } => {
                [slot.behind + index, slot.behind + keys + index * (key_len as usize + value_len as usize)]
            }
            Shape::Mixed => [slot.behind + index * usize::from(slot.extra); 2],
        }
    }

    pub(super) fn for_each(&self, partition: u64, mut each: impl FnMut(u64, Entry<'_>) -> Result<()>) -> Result<()> {
        let mut place = self.first_entry(partition)?;
        let end = self.end_of(partition);
        let mut room = (end as u64).saturating_sub(place.first_at);
        for index in 0..place.keys {
            let entry = self.entry_at(self.place_of(&mut place, index)?, end)?;
            // Overlapping entries could amount to more than the file: callers that gather them rely on this check.
            let len = (entry.key.len() + entry.value.len()) as u64;
            room = room.checked_sub(len).ok_or_else(|| self.corrupt(entry.at, "entries that do not overlap"))?;
            each(index, entry)?;
        }
        Ok(())
    }

    /// Returns the end of a partition.
    #[inline]
    pub(super) fn end_of(&self, partition: u64) -> usize {
        let extent = self.directory().extent(partition);
        extent.and_then(|(_, end)| usize::try_from(end).ok()).unwrap_or(0)
    }

    /// Returns the layout of the entries of a partition.
    pub(super) fn first_entry(&self, partition: u64) -> Result<Entries> {
        let directory = self.directory();
        let lines = directory.line(partition).zip(directory.line(partition + 1));
        let (line, next) = lines.ok_or_else(|| self.corrupt(self.lines.start as u64, "a partition that exists"))?;
        let keys = next.first - line.first;
        let slots_at = line.at + u64::from(line.buckets) + 2 * (u64::from(line.positions) - keys);
        let slot_len = if self.shape == Shape::Mixed { u64::from(line.extra) } else { 1 };
        Ok(Entries { keys, slots_at, slot_len, first_at: slots_at + keys * slot_len })
    }

    pub(super) fn place_of(&self, entries: &mut Entries, index: u64) -> Result<u64> {
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
}

#[cfg(test)]
mod tests {
    use crate::{
        base::Error,
        format::{Header, crc},
        merge::MergeStrategy,
        phash::{
            Map, MapBuilder, MergeOptions,
            map::tail::{TAIL_LEN, Tail},
            merge_to,
            partition::LINE_LEN,
        },
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
