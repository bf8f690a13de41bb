//! Iterating over the entries of a map, from either end.

use super::reader::Map;
use crate::base::{Bytes, Result};

impl Map {
    /// Iterates over all keys and values, from either end, in the order of their slots: arbitrary, but always the same.
    pub fn iter(&self) -> MapIter {
        MapIter { map: self.clone(), front: 0, back: self.len(), partition: (0, 0) }
    }
}

/// Iterator over all entries of a map: see [`Map::iter`].
#[derive(Clone, Debug)]
#[must_use = "iterators are lazy"]
pub struct MapIter {
    map: Map,
    front: u64,
    back: u64,
    /// Partition that was read last, and the number of keys before it.
    partition: (u64, u64),
}

impl MapIter {
    fn item(&mut self, number: u64) -> Result<(Bytes, Bytes)> {
        let inner = &*self.map.inner;
        let directory = inner.directory();
        let first = |partition: u64| directory.line(partition).map_or(u64::MAX, |line| line.first);
        // Usually it is the partition of the previous entry; otherwise search.
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
