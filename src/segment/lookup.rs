//! Looking a key up in a segment: by the perfect-hash index, else by the fences.
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

/// So many versions of a key above the moment are looked at one by one; beyond that the one that is wanted is searched.
const STEPS_MAX: usize = 8;

/// A key that is looked up in several segments: hashed once, and only where an index is met. Segments of one database
/// have one seed for the hash; only in a copy of a database are there others.
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

    /// The hash of the key as an index sees it.
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

/// An entry that was found by its place in the file.
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

    /// The value as it is stored.
    #[inline]
    pub(super) fn value(&self) -> &[u8] {
        self.bytes.get(self.decoded.value.clone()).unwrap_or_default()
    }

    /// Where it begins in the file.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Where its value ends in the file.
    pub(super) fn end(&self) -> usize {
        self.at + self.decoded.value.end
    }
}

impl Segment {
    /// Looks a key up: the value, absence, or nothing to say. Every version from the newest down, and every operand on
    /// the way, is shown to the look-up; `probe` is told where it was looked.
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

    /// The hash of a key as this segment sees it; nothing without an index.
    #[inline]
    pub(crate) fn seeded(&self, key: &mut PointKey<'_>) -> Option<Seeded> {
        self.index().map(|(index, _)| key.seeded(index))
    }

    /// Has the pilot of a key fetched, by which its slot is found; `false` where the filter rules the key out, or the
    /// pages have never been verified. A hint, as [`Segment::fetch_slot`] and [`Segment::fetch_entry`] are: they answer
    /// nothing.
    #[inline]
    pub(crate) fn fetch_pilot(&self, hash: Seeded) -> bool {
        self.index().is_some_and(|(index, data)| index.fetch_pilot(data, hash))
    }

    /// Has the slot of a key fetched: where the entry is that it names.
    #[inline]
    pub(crate) fn fetch_slot(&self, hash: Seeded) -> Option<usize> {
        let (index, data) = self.index()?;
        index.entry_at_hand(data, hash)
    }

    /// Has the first bytes of an entry fetched, if its page has been verified.
    #[inline]
    pub(crate) fn fetch_entry(&self, at: usize) {
        if let Some(data) = self.pages().mapped() {
            data.fetch_entry(at);
        }
    }

    /// The entry at a place that the index, or another entry, leads to.
    #[expect(clippy::inline_always, reason = "what it finds is large: out of line a look-up would move it twice")]
    #[inline(always)]
    pub(super) fn entry_at<'a>(&self, data: Mapped<'a>, at: usize) -> Result<Placed<'a>> {
        let room = self.blocks_end().saturating_sub(at);
        let head = data.get(at, room.min(HEAD_LEN_MAX))?;
        let decoded = decode(&head, 0, room, self.base()).map_err(|bad| self.in_entry(bad, at))?;
        let bytes = data.get(at, decoded.value.end)?;
        Ok(Placed { at, bytes, decoded })
    }

    /// From the key's hash to its newest entry; by the fences when an older one is wanted.
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
        // The lines of the value come while the head is decoded and the key compared, not after.
        data.fetch_entry(at);
        let found = self.entry_at(data, at)?;
        if found.key() != key.key {
            return Ok(None);
        }
        probe.key_found = true;
        let entry = found.entry();
        if entry.older_follows && (entry.seqno > lookup.seqno() || entry.kind == Kind::Operand) {
            return self.get_by_fences(key.key, tombstones, lookup, probe);
        }
        tombstones.show_entry(entry, || found.bytes.share(found.decoded.value.clone()), lookup)
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

    /// Block and number of the first entry that comes behind every version of `key` above `seqno`; the number may be
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

    /// Block and number of the oldest version of `key` above `seqno`, and of what else its commit wrote the newest;
    /// nothing without one. Where there are purges, above `purge_horizon`: up to there they have to be seen.
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
        // Mostly a commit wrote one version.
        if let Some(other) = before.checked_sub(1)
            && entries.seqno(other)? != above.entry.seqno
        {
            return Ok(Some((number, before)));
        }
        let (number, at) = self.find_version(key, above.entry.seqno)?;
        // It may begin with a block.
        if at < self.block(number)?.count() {
            return Ok(Some((number, at)));
        }
        Ok(Some((number + 1, 0)))
    }
}

/// The range tombstones over a key that are still to be shown.
struct PendingTombstones(Shown);

impl PendingTombstones {
    /// Shows the tombstones above an entry; all that are left, without one.
    #[inline]
    fn show_above(&mut self, seqno: Option<Seqno>, lookup: &mut Lookup) -> Result<Option<Answer>> {
        // Segments keep no order in a commit: the point entry comes behind the tombstone.
        while let Some(tombstone) = self.0.next_above(seqno.map(|seqno| (seqno, u32::MAX))) {
            if lookup.visit(tombstone.meta())? == Meaning::Deleted {
                return Ok(Some(Answer::Deleted));
            }
        }
        Ok(None)
    }

    /// Shows an entry, behind the tombstones above it.
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
