//! Point look-up in a segment: through the perfect-hash index, or through the fences.
//!
//! ```text
//!  key ─ hash ─▶ filter ─▶ slot ─▶ entry ─ newest version wanted ─▶ answer
//!                                    │ an older one
//!  key ─ fences ─▶ block ─▶ entry ◀──┘
//! ```

use super::{
    entry::{Decoded, Entry, HEAD_LEN_MAX, decode},
    index::{Index, Probe},
    pages::{Mapped, Piece},
    reader::Segment,
};
use crate::{
    base::{Bytes, Kind, Result, Seqno},
    merge::{Answer, Lookup, Meaning, Shown, step},
    phash::{Hash, Seeded},
};

/// Versions of a key above the moment that are stepped over one by one; beyond that the wanted one is searched for.
const STEPS_MAX: usize = 8;

/// A key that is looked up in several segments: hashed once, at the first index. All segments of a database share one
/// seed for the hash; only a copy of a database may have others.
#[derive(Debug)]
pub(crate) struct PointKey<'a> {
    key: &'a [u8],
    hash: Option<(u64, Hash)>,
}

impl<'a> PointKey<'a> {
    pub(crate) fn new(key: &'a [u8]) -> Self {
        Self { key, hash: None }
    }

    #[inline]
    pub(crate) fn key(&self) -> &'a [u8] {
        self.key
    }

    /// Returns the hash of the key with the seeds of an index.
    #[inline]
    pub(super) fn seeded(&mut self, index: &Index) -> Seeded {
        index.seeded(self.hash(index.hash_seed()))
    }

    #[inline]
    fn hash(&mut self, seed: u64) -> Hash {
        match self.hash {
            Some((known, hash)) if known == seed => hash,
            _ => self.hash.insert((seed, Hash::with_seed(self.key, seed))).1,
        }
    }
}

/// An entry that was found at a position of the file.
#[derive(Debug)]
pub(super) struct Placed<'a> {
    at: usize,
    bytes: Piece<'a>,
    decoded: Decoded,
}

impl Placed<'_> {
    #[inline]
    pub(super) fn entry(&self) -> &Entry {
        &self.decoded.entry
    }

    #[inline]
    pub(super) fn key(&self) -> &[u8] {
        debug_assert!(self.decoded.key.end <= self.bytes.len(), "{:?} of {} bytes", self.decoded, self.bytes.len());
        self.bytes.get(self.decoded.key.clone()).unwrap_or_default()
    }

    /// Returns the value as it is stored.
    #[inline]
    pub(super) fn value(&self) -> &[u8] {
        self.bytes.get(self.decoded.value.clone()).unwrap_or_default()
    }

    /// Returns where it begins in the file.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Returns where its value ends in the file.
    pub(super) fn end(&self) -> usize {
        self.at + self.decoded.value.end
    }
}

impl Segment {
    /// Looks up a key and returns the value or absence; `None` if older sources decide. The look-up is shown every
    /// version from the newest down, and every operand on the way; `probe` records where the segment was searched.
    pub(crate) fn get(&self, key: &mut PointKey<'_>, lookup: &mut Lookup, probe: &mut Probe) -> Result<Option<Answer>> {
        let mut tombstones = PendingTombstones(self.ranges().shown(key.key, lookup.seqno(), lookup.purge_horizon()));
        let answer = match self.index() {
            Some((index, data)) => self.get_indexed(index, data, key, &mut tombstones, lookup, probe)?,
            None => self.get_by_fences(key.key, &mut tombstones, lookup, probe)?,
        };
        if answer.is_some() {
            return Ok(answer);
        }
        tombstones.show_above(None, lookup)
    }

    /// Returns the hash of a key with the seeds of this segment; `None` without an index.
    #[inline]
    pub(crate) fn seeded(&self, key: &mut PointKey<'_>) -> Option<Seeded> {
        self.index().map(|(index, _)| key.seeded(index))
    }

    /// Prefetches the pilot of a key, which is needed to find its slot; `false` if the filter rules the key out, or the
    /// pages were never verified. A hint, like [`Segment::fetch_slot`] and [`Segment::fetch_entry`]: it answers
    /// nothing.
    #[inline]
    pub(crate) fn fetch_pilot(&self, hash: Seeded) -> bool {
        self.index().is_some_and(|(index, data)| index.fetch_pilot(data, hash))
    }

    /// Prefetches the slot of a key and returns where the entry that it names begins.
    #[inline]
    pub(crate) fn fetch_slot(&self, hash: Seeded) -> Option<usize> {
        let (index, data) = self.index()?;
        index.entry_at_hand(data, hash)
    }

    /// Prefetches the first bytes of an entry, if its page was verified before.
    #[inline]
    pub(crate) fn fetch_entry(&self, at: usize) {
        if let Some(data) = self.pages().mapped() {
            data.fetch_entry(at);
        }
    }

    /// Decodes the entry at a position that the index or another entry names. Only its head has been verified.
    #[expect(clippy::inline_always, reason = "called, it moves what it decoded twice more: 60 instructions of a get")]
    #[inline(always)]
    fn decode_at(&self, data: Mapped<'_>, at: usize) -> Result<Decoded> {
        let room = self.blocks_end().saturating_sub(at);
        let head = data.get(at, room.min(HEAD_LEN_MAX))?;
        decode(&head, 0, room, self.base()).map_err(|bad| self.in_entry(bad, at))
    }

    /// Returns the entry at such a position, with its bytes.
    #[inline]
    pub(super) fn entry_at<'a>(&self, data: Mapped<'a>, at: usize) -> Result<Placed<'a>> {
        let decoded = self.decode_at(data, at)?;
        let bytes = data.get(at, decoded.value.end)?;
        Ok(Placed { at, bytes, decoded })
    }

    /// Goes from the hash of a key to its newest entry; through the fences if an older one is wanted.
    fn get_indexed(
        &self,
        index: &Index,
        data: Mapped<'_>,
        key: &mut PointKey<'_>,
        tombstones: &mut PendingTombstones,
        lookup: &mut Lookup,
        probe: &mut Probe,
    ) -> Result<Option<Answer>> {
        let Some(at) = index.probe(data, key.seeded(index), true, probe)? else { return Ok(None) };
        probe.blocks += 1;
        // Loads the lines of the value while the head is decoded and the key compared, not after.
        data.fetch_entry(at);
        // Not put together with its bytes: what was decoded is large, and would be moved once more.
        let Decoded { entry, key: key_at, value } = self.decode_at(data, at)?;
        let bytes = data.get(at, value.end)?;
        if bytes.get(key_at) != Some(key.key) {
            return Ok(None);
        }
        probe.key_found = true;
        if entry.older_follows && (entry.seqno > lookup.seqno() || entry.kind == Kind::Operand) {
            return self.get_by_fences(key.key, tombstones, lookup, probe);
        }
        tombstones.show_entry(&entry, || bytes.share(value), lookup)
    }

    fn get_by_fences(
        &self,
        key: &[u8],
        tombstones: &mut PendingTombstones,
        lookup: &mut Lookup,
        probe: &mut Probe,
    ) -> Result<Option<Answer>> {
        let mut number = self.fences().find(key);
        let mut from = None;
        let mut above = 0;
        'blocks: while number < self.fences().count() {
            probe.blocks += 1;
            let block = self.block(number)?;
            let entries = block.entries(self);
            let mut index = from.map_or_else(|| entries.lower_bound(key), Ok)?;
            while index < entries.count() {
                step();
                let decoded = entries.entry(index)?;
                if entries.key(&decoded) != key {
                    return Ok(None);
                }
                probe.key_found = true;
                let answer = tombstones.show_entry(&decoded.entry, || entries.share(&decoded), lookup)?;
                if answer.is_some() || !decoded.entry.older_follows {
                    return Ok(answer);
                }
                above += usize::from(decoded.entry.seqno > lookup.seqno());
                if above == STEPS_MAX {
                    above += 1;
                    let wanted = self.just_above(key, lookup.seqno(), lookup.purge_horizon())?;
                    if let Some((further, at)) = wanted.filter(|wanted| *wanted > (number, index)) {
                        (number, from) = (further, Some(at));
                        continue 'blocks;
                    }
                }
                index += 1;
            }
            number += 1;
            from = Some(0);
        }
        Ok(None)
    }

    /// Returns the block and number of the first entry after every version of `key` above `seqno`; the number may be
    /// the count of the block.
    pub(super) fn find_version(&self, key: &[u8], seqno: Seqno) -> Result<(usize, usize)> {
        let before = |told: &[u8], decoded: &Decoded| told < key || told == key && decoded.entry.seqno > seqno;
        let blocks = self.fences().holding(key);
        let (mut low, mut high) = (blocks.start, blocks.end);
        while low < high {
            let middle = low.midpoint(high);
            let block = self.block(middle)?;
            let entries = block.entries(self);
            let first = entries.entry(0)?;
            if before(entries.key(&first), &first) { low = middle + 1 } else { high = middle }
        }
        let number = low.saturating_sub(1).max(blocks.start);
        if number >= self.fences().count() {
            return Ok((number, 0));
        }
        let block = self.block(number)?;
        let entries = block.entries(self);
        Ok((number, entries.partition_point(|decoded| before(entries.key(decoded), decoded))?))
    }

    /// Returns the block and number of the oldest version of `key` above `seqno`, or of the newest that its commit
    /// wrote; `None` if there is none. If the segment has purges, it is above `purge_horizon` too: purges up to there
    /// must be seen.
    pub(super) fn just_above(&self, key: &[u8], seqno: Seqno, purge_horizon: Seqno) -> Result<Option<(usize, usize)>> {
        let wanted = if self.has_purges() { seqno.max(purge_horizon) } else { seqno };
        let (number, at) = self.find_version(key, wanted)?;
        let Some(before) = at.checked_sub(1) else { return Ok(None) };
        let block = self.block(number)?;
        let entries = block.entries(self);
        let above = entries.entry(before)?;
        if entries.key(&above) != key {
            return Ok(None);
        }
        // A commit usually writes one version of a key.
        if let Some(other) = before.checked_sub(1)
            && entries.seqno(other)? != above.entry.seqno
        {
            return Ok(Some((number, before)));
        }
        let (number, at) = self.find_version(key, above.entry.seqno)?;
        // The version may begin the next block.
        if at < self.block(number)?.count() {
            return Ok(Some((number, at)));
        }
        Ok(Some((number + 1, 0)))
    }
}

/// Range tombstones over a key that were not shown yet.
struct PendingTombstones(Shown);

impl PendingTombstones {
    /// Shows the range tombstones above an entry; without one, all that are left.
    #[inline]
    fn show_above(&mut self, seqno: Option<Seqno>, lookup: &mut Lookup) -> Result<Option<Answer>> {
        // Segments store no order within a commit: the point entry comes after the range tombstone.
        while let Some(tombstone) = self.0.next_above(seqno.map(|seqno| (seqno, u32::MAX))) {
            if lookup.visit(tombstone.meta())? == Meaning::Deleted {
                return Ok(Some(Answer::Deleted));
            }
        }
        Ok(None)
    }

    /// Shows an entry, after the range tombstones above it.
    #[inline]
    fn show_entry(
        &mut self,
        entry: &Entry,
        value: impl FnOnce() -> Bytes,
        lookup: &mut Lookup,
    ) -> Result<Option<Answer>> {
        if let Some(answer) = self.show_above(Some(entry.seqno), lookup)? {
            return Ok(Some(answer));
        }
        match lookup.visit(entry.meta())? {
            Meaning::Operand => {
                lookup.push(value());
                Ok(None)
            }
            found => Ok(found.answer(value)),
        }
    }
}
