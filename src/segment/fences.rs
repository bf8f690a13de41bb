//! Fences of a segment: which block may hold a key.
//!
//! ```text
//!  0       4          8                       …             …
//!  ├───────┼──────────┼───────────────────────┼─────────────┼─────────┤
//!  │ count │ data end │ offset of each block  │ end of each │ keys    │
//!  │       │          │ (u32)                 │ key (u32)   │         │
//! ```
//!
//! A fence is the shortest key above everything before its block, which is enough to find the block of a key. In memory
//! each also has the first eight bytes after the prefix that all fences share, as a number: most searches compare
//! nothing else.

use super::sizes::ALIGN;
use crate::{
    base::{Corruption, head},
    format::{Reader, Writer},
};

/// Collects fences while a segment is written.
#[derive(Debug, Default)]
pub(super) struct FenceWriter {
    offsets: Vec<u32>,
    ends: Vec<u32>,
    keys: Vec<u8>,
}

impl FenceWriter {
    /// Records that a block begins at `offset` with the key `first`, after a block that ended with `last`.
    pub(super) fn push(&mut self, offset: u32, last: Option<&[u8]>, first: &[u8]) {
        let fence = last.map_or(first, |last| separator(last, first));
        self.offsets.push(offset);
        self.keys.extend_from_slice(fence);
        self.ends.push(u32::try_from(self.keys.len()).unwrap_or(u32::MAX));
    }

    pub(super) fn encode(&self, data_end: u32) -> Vec<u8> {
        let (count, len) = (self.offsets.len(), self.keys.len());
        // Keys and offsets take no more than the data before `data_end`.
        assert!(len <= data_end as usize && count <= data_end as usize, "{count} fences of {len} bytes to {data_end}");
        let mut out = Writer::default();
        out.u32(u32::try_from(self.offsets.len()).unwrap_or(u32::MAX));
        out.u32(data_end);
        for number in self.offsets.iter().chain(&self.ends) {
            out.u32(*number);
        }
        out.raw(&self.keys);
        out.into_bytes()
    }
}

/// Returns the shortest prefix of `first` that is above `last`; all of `first` if the keys are equal.
fn separator<'a>(last: &[u8], first: &'a [u8]) -> &'a [u8] {
    let shared = last.iter().zip(first).take_while(|(a, b)| a == b).count();
    first.get(..=shared).unwrap_or(first)
}

/// Fences of an open segment.
#[derive(Debug)]
pub(super) struct Fences {
    /// Where each block begins, and where the last one ends.
    offsets: Vec<u32>,
    ends: Vec<u32>,
    keys: Vec<u8>,
    /// Length of the prefix that all fences share.
    shared: usize,
    heads: Vec<u64>,
}

impl Fences {
    /// Decodes and checks everything once: blocks in order and inside `data`, keys in order.
    pub(super) fn decode(bytes: &[u8], data_start: u32, data_limit: u64) -> Result<Self, Corruption> {
        let mut reader = Reader::new(bytes);
        let count = reader.u32("fence count")? as usize;
        let data_end = reader.u32("end of the data")?;
        let numbers = |reader: &mut Reader<'_>, what| {
            let len = count.checked_mul(4).ok_or_else(|| reader.corrupt(what))?;
            let raw = reader.take(len, what)?;
            let numbers = raw.chunks_exact(4).map(|four| Reader::new(four).u32(what));
            numbers.collect::<Result<Vec<u32>, Corruption>>()
        };
        let mut offsets = numbers(&mut reader, "block offsets")?;
        offsets.push(data_end);
        let ends = numbers(&mut reader, "fence ends")?;
        let keys = reader.take(reader.remaining(), "fence keys")?.to_vec();

        let bad = |what| Err(Corruption { offset: 0, what });
        let aligned = offsets.iter().all(|offset| (*offset as usize).is_multiple_of(ALIGN));
        let in_order = offsets.is_sorted_by(|a, b| a < b) && offsets.first().is_none_or(|first| *first >= data_start);
        if !aligned || !in_order || u64::from(data_end) > data_limit {
            return bad("block offsets in order, inside the data");
        }
        if !ends.is_sorted() || ends.last().map_or(0, |end| *end as usize) != keys.len() {
            return bad("fence keys that fill their room");
        }
        let mut fences = Self { offsets, ends, keys, shared: 0, heads: Vec::new() };
        if !(1..count).all(|index| fences.key(index - 1) <= fences.key(index)) {
            return bad("fences in order");
        }
        if let Some(last) = count.checked_sub(1) {
            let shared = fences.key(0).iter().zip(fences.key(last)).take_while(|(a, b)| a == b).count();
            fences.shared = shared;
            fences.heads = (0..count).map(|index| head(fences.key(index), shared)).collect();
        }
        Ok(fences)
    }

    /// Returns the number of blocks.
    pub(super) fn count(&self) -> usize {
        self.ends.len()
    }

    /// Returns where the last block ends.
    pub(super) fn blocks_end(&self) -> usize {
        self.offsets.last().map_or(0, |end| *end as usize)
    }

    /// Returns where a block begins and ends in the file.
    #[inline]
    pub(super) fn block(&self, index: usize) -> Option<(usize, usize)> {
        Some((*self.offsets.get(index)? as usize, *self.offsets.get(index + 1)? as usize))
    }

    /// Returns the block with the first entry whose key is ≥ `key`; if that entry is the first of its block, perhaps
    /// the block before.
    #[inline]
    pub(super) fn find(&self, key: &[u8]) -> usize {
        self.below(key).saturating_sub(1)
    }

    /// Returns the block that holds a position of the file.
    pub(super) fn block_at(&self, offset: usize) -> Option<usize> {
        let after = self.offsets.partition_point(|start| *start as usize <= offset);
        after.checked_sub(1).filter(|block| *block < self.count())
    }

    /// Returns the blocks that may hold a key: the versions of one key may fill several.
    pub(super) fn holding(&self, key: &[u8]) -> std::ops::Range<usize> {
        self.find(key)..self.below(&[key, &[0]].concat())
    }

    /// Returns the number of fences below `key`.
    fn below(&self, key: &[u8]) -> usize {
        let common = self.key(0).get(..self.shared).unwrap_or_default();
        match key.get(..self.shared) {
            Some(start) if start == common => {}
            // Shorter than the shared prefix, or different from it: all fences are on one side.
            _ => return if key > common { self.count() } else { 0 },
        }
        let wanted = head(key, self.shared);
        let low = self.heads.partition_point(|head| *head < wanted);
        let alike = self.heads.get(low..).unwrap_or_default().partition_point(|head| *head == wanted);
        let (mut from, mut to) = (low, low + alike);
        while from < to {
            let middle = from.midpoint(to);
            if self.key(middle) < key {
                from = middle + 1;
            } else {
                to = middle;
            }
        }
        from
    }

    fn key(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).map_or(0, |end| *end as usize);
        let end = self.ends.get(index).map_or(0, |end| *end as usize);
        self.keys.get(start..end).unwrap_or_default()
    }

    /// Returns the memory taken, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.keys.len() + 16 * self.ends.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fences(keys: &[&str]) -> Fences {
        let mut writer = FenceWriter::default();
        for (index, key) in keys.iter().enumerate() {
            writer.push(32 + 64 * u32::try_from(index).unwrap(), None, key.as_bytes());
        }
        let end = 32 + 64 * u32::try_from(keys.len()).unwrap();
        Fences::decode(&writer.encode(end), 32, u64::from(end)).unwrap()
    }

    #[test]
    fn a_key_is_found_by_plain_comparison_whatever_the_fences_share() {
        let sets: [&[&str]; 4] = [
            &["", "a", "b"],
            &["user/0001", "user/0001", "user/0200", "user/0200000000001", "user/0200000000002"],
            &["same", "same", "same"],
            &["k"],
        ];
        let probes = ["", "a", "k", "kk", "j", "same", "sam", "same\0", "user/", "user/02", "user/0200000000001a", "z"];
        for keys in sets {
            let fences = fences(keys);
            for probe in probes {
                let below = keys.iter().filter(|key| **key < probe).count();
                assert_eq!(fences.below(probe.as_bytes()), below, "{probe} in {keys:?}");
            }
        }
    }

    #[test]
    fn a_separator_is_short_and_between() {
        assert_eq!(separator(b"apple", b"banana"), b"b");
        assert_eq!(separator(b"car", b"cart"), b"cart");
        assert_eq!(separator(b"same", b"same"), b"same");
        assert_eq!(separator(b"user/0199", b"user/0200"), b"user/02");
    }

    #[test]
    fn fences_out_of_order_are_corruption() {
        let mut writer = FenceWriter::default();
        writer.push(32, None, b"b");
        writer.push(64, None, b"a");
        assert!(Fences::decode(&writer.encode(96), 32, 96).is_err());
        let mut writer = FenceWriter::default();
        writer.push(64, None, b"a");
        writer.push(32, None, b"b");
        assert!(Fences::decode(&writer.encode(96), 32, 96).is_err());
    }
}
