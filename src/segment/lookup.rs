//! Looking a key up in a segment: by the perfect-hash index, else by the fences.

use std::sync::atomic::Ordering;

use super::{
    block::Layout,
    entry::{Decoded, Entry, decode},
    index::{Index, may_hold, pages},
    reader::{ENTRY_HEAD_MAX, Segment},
    sizes::PAGE,
};
use crate::{
    base::{Bytes, Error, Kind, Result},
    env::Region,
    merge::{Answer, Found, Lookup, Shown, step},
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

    #[inline]
    pub(super) fn hash(&mut self, seed: u64) -> Hash {
        match self.hash {
            Some((known, hash)) if known == seed => hash,
            _ => self.hash.insert((seed, Hash::with_seed(self.key, seed))).1,
        }
    }
}

/// Where a look-up has looked in a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Probe {
    /// Whether the filter let the key pass, where there is one.
    pub(crate) filter: Option<bool>,
    /// The partition and the slot of the index that were looked at.
    pub(crate) slot: Option<(u64, u64)>,
    /// Where the entry begins that the slot names, if the fingerprint was the key's.
    pub(crate) entry_at: Option<u64>,
    /// Blocks of which an entry was read.
    pub(crate) blocks: u32,
    /// An entry of the key was there.
    pub(crate) key_found: bool,
}

impl Segment {
    /// Looks a key up: the value, absence, or nothing to say. Every version from the newest down, and every operand on
    /// the way, is shown to the look-up; `probe` is told where it was looked.
    pub(crate) fn get(&self, key: &mut PointKey<'_>, lookup: &mut Lookup, probe: &mut Probe) -> Result<Option<Answer>> {
        let mut marks = Marks(self.ranges.shown(key.key, lookup.seqno(), lookup.opened()));
        let answer = match (&self.index, &self.region) {
            (Some(index), Some(region)) => self.get_indexed(index, region, key, &mut marks, lookup, probe)?,
            _ => self.get_by_fences(key.key, &mut marks, lookup, probe)?,
        };
        if answer.is_some() {
            return Ok(answer);
        }
        marks.show_above(None, lookup)
    }

    /// The hash of a key as this segment sees it; nothing without an index.
    #[inline]
    pub(crate) fn seeded(&self, key: &mut PointKey<'_>) -> Option<Seeded> {
        let index = self.index.as_ref().filter(|_| self.region.is_some())?;
        Some(index.seeded(key.hash(index.hash_seed())))
    }

    /// Has the pilot of a key fetched, by which its slot is found; `false` where the filter rules the key out, or the
    /// pages have never been verified. A hint, as [`Segment::fetch_slot`] and [`Segment::fetch_entry`] are: they answer
    /// nothing.
    #[inline]
    pub(crate) fn fetch_pilot(&self, hash: Seeded) -> bool {
        let (Some(index), Some(region)) = (&self.index, self.region.as_deref()) else { return false };
        if let Some((start, end)) = index.filter_line(hash) {
            let passes = || region.get(start..end).is_some_and(|line| may_hold(line, hash));
            if !self.is_verified(start / PAGE) || !passes() {
                return false;
            }
        }
        let Some((partition, ..)) = index.partition(hash) else { return false };
        let word = usize::try_from(partition / 64).ok().and_then(|word| self.verified_partitions.get(word));
        let verified = word.is_some_and(|word| word.load(Ordering::Relaxed) & 1 << (partition % 64) != 0);
        if verified {
            std::hint::black_box(index.pilot_at(hash).and_then(|at| region.get(at)).copied());
        }
        verified
    }

    /// Has the slot of a key fetched: where the entry is that it names.
    #[inline]
    pub(crate) fn fetch_slot(&self, hash: Seeded) -> Option<usize> {
        self.index.as_ref()?.slot(self.region.as_deref()?, hash)?.entry_at
    }

    /// Has the first bytes of an entry fetched, if its page has been verified.
    #[inline]
    pub(crate) fn fetch_entry(&self, at: usize) {
        if let Some(region) = self.region.as_deref().filter(|_| self.is_verified(at / PAGE)) {
            // Entries of the usual length touch three lines.
            let line = |at: usize| region.get(at).copied().unwrap_or(0);
            std::hint::black_box(line(at) ^ line(at + 60) ^ line(at + 120));
        }
    }

    /// From the key's hash to its newest entry; by the fences when an older one is wanted.
    fn get_indexed(
        &self,
        index: &Index,
        region: &Region,
        key: &mut PointKey<'_>,
        marks: &mut Marks,
        lookup: &mut Lookup,
        probe: &mut Probe,
    ) -> Result<Option<Answer>> {
        let hash = index.seeded(key.hash(index.hash_seed()));
        if let Some((start, end)) = index.filter_line(hash) {
            pages(start, end).try_for_each(|page| self.verify_page(page))?;
            let passed = region.get(start..end).is_some_and(|line| may_hold(line, hash));
            probe.filter = Some(passed);
            if !passed {
                return Ok(None);
            }
        }
        let inside = || self.corrupt(0, "a slot of the index inside the data");
        let (partition, start, end) = index.partition(hash).ok_or_else(inside)?;
        self.verify_partition(partition, start, end)?;
        let slot = index.slot(region, hash).ok_or_else(inside)?;
        probe.slot = Some((slot.partition, slot.slot));
        let Some(at) = slot.entry_at else { return Ok(None) };
        probe.entry_at = Some(at as u64);
        probe.blocks += 1;

        pages(at, (at + ENTRY_HEAD_MAX).min(self.blocks_end)).try_for_each(|page| self.verify_page(page))?;
        // The lines of the value come while the head is decoded and the key compared, not after.
        self.fetch_entry(at);
        let entries = region.get(..self.blocks_end).unwrap_or_default();
        let decoded = decode(entries, at, self.base).map_err(|bad| bad.of(&self.path, 0))?;
        pages(decoded.key.start, decoded.value.end).try_for_each(|page| self.verify_page(page))?;
        if entries.get(decoded.key.clone()) != Some(key.key) {
            return Ok(None);
        }
        probe.key_found = true;
        let entry = decoded.entry;
        if entry.older_follows && (entry.seqno > lookup.seqno() || entry.kind == Kind::Operand) {
            return self.get_by_fences(key.key, marks, lookup, probe);
        }
        let value = || {
            let value = entries.get(decoded.value.clone()).unwrap_or_default();
            Bytes::window(|| region.owner(), decoded.value.start, value)
        };
        marks.show_entry(&entry, value, lookup)
    }

    fn get_by_fences(
        &self,
        key: &[u8],
        marks: &mut Marks,
        lookup: &mut Lookup,
        probe: &mut Probe,
    ) -> Result<Option<Answer>> {
        let mut block = self.fences.find(key);
        let mut from = None;
        let mut above = 0;
        'blocks: while block < self.fences.count() {
            probe.blocks += 1;
            let data = self.block(block)?;
            let bytes = data.bytes(self);
            let layout = Layout::of(bytes).map_err(|bad| self.in_block(bad, block))?;
            let mut index = match from {
                Some(from) => from,
                None => layout.lower_bound(bytes, key, self.base).map_err(|bad| self.in_block(bad, block))?,
            };
            while index < layout.count() {
                step();
                let decoded = layout.entry(bytes, index, self.base).map_err(|bad| self.in_block(bad, block))?;
                if bytes.get(decoded.key.clone()) != Some(key) {
                    return Ok(None);
                }
                probe.key_found = true;
                let answer = marks.show_entry(&decoded.entry, || data.share(self, &decoded), lookup)?;
                if answer.is_some() || !decoded.entry.older_follows {
                    return Ok(answer);
                }
                above += usize::from(decoded.entry.seqno > lookup.seqno());
                if above == STEPS_MAX {
                    above += 1;
                    let wanted = self.just_above(key, lookup.seqno(), lookup.opened())?;
                    if let Some((further, at)) = wanted.filter(|wanted| *wanted > (block, index)) {
                        (block, from) = (further, Some(at));
                        continue 'blocks;
                    }
                }
                index += 1;
            }
            block += 1;
            from = Some(0);
        }
        Ok(None)
    }

    /// Block and number of the first entry that comes behind every version of `key` above `seqno`; the number may be
    /// the count of the block.
    pub(super) fn find_version(&self, key: &[u8], seqno: u64) -> Result<(usize, usize)> {
        let before = |bytes: &[u8], decoded: &Decoded| {
            let told = bytes.get(decoded.key.clone()).unwrap_or_default();
            told < key || told == key && decoded.entry.seqno > seqno
        };
        let load = |block: usize| {
            let data = self.block(block)?;
            let layout = Layout::of(data.bytes(self)).map_err(|bad| self.in_block(bad, block))?;
            Ok::<_, Error>((data, layout))
        };
        let blocks = self.blocks_of(key);
        let (mut low, mut high) = (blocks.start, blocks.end);
        while low < high {
            let middle = low.midpoint(high);
            let (data, layout) = load(middle)?;
            let bytes = data.bytes(self);
            let first = layout.entry(bytes, 0, self.base).map_err(|bad| self.in_block(bad, middle))?;
            if before(bytes, &first) { low = middle + 1 } else { high = middle }
        }
        let block = low.saturating_sub(1).max(blocks.start);
        if block >= self.block_count() {
            return Ok((block, 0));
        }
        let (data, layout) = load(block)?;
        let bytes = data.bytes(self);
        let at = layout.partition_point(bytes, self.base, |decoded| before(bytes, decoded));
        Ok((block, at.map_err(|bad| self.in_block(bad, block))?))
    }

    /// Block and number of the oldest version of `key` above `seqno`, and of what else its commit wrote the newest;
    /// nothing without one. Where there are purges, above `opened`: up to there they have to be seen.
    pub(super) fn just_above(&self, key: &[u8], seqno: u64, opened: u64) -> Result<Option<(usize, usize)>> {
        let wanted = if self.purges { seqno.max(opened) } else { seqno };
        let (block, at) = self.find_version(key, wanted)?;
        let Some(before) = at.checked_sub(1) else { return Ok(None) };
        let data = self.block(block)?;
        let bytes = data.bytes(self);
        let wrong = |bad| self.in_block(bad, block);
        let layout = Layout::of(bytes).map_err(wrong)?;
        let above = layout.entry(bytes, before, self.base).map_err(wrong)?;
        if bytes.get(above.key.clone()) != Some(key) {
            return Ok(None);
        }
        // Mostly a commit wrote one version.
        if let Some(other) = before.checked_sub(1)
            && layout.seqno(bytes, other, self.base).map_err(wrong)? != above.entry.seqno
        {
            return Ok(Some((block, before)));
        }
        let (block, at) = self.find_version(key, above.entry.seqno)?;
        // It may begin with a block.
        if at < Layout::of(self.block(block)?.bytes(self)).map_err(wrong)?.count() {
            return Ok(Some((block, at)));
        }
        Ok(Some((block + 1, 0)))
    }
}

/// The marks of range tombstones over a key that are still to be shown.
struct Marks(Shown);

impl Marks {
    /// Shows the marks above an entry; all that are left, without one.
    #[inline]
    fn show_above(&mut self, seqno: Option<u64>, lookup: &mut Lookup) -> Result<Option<Answer>> {
        // Segments keep no order in a commit: the point entry comes behind the mark.
        while let Some(mark) = self.0.next_above(seqno.map(|seqno| (seqno, u32::MAX))) {
            if lookup.see(mark.seen())? == Found::Deleted {
                return Ok(Some(Answer::Deleted));
            }
        }
        Ok(None)
    }

    /// Shows an entry, behind the marks above it.
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
        match lookup.see(entry.seen())? {
            Found::Operand => {
                lookup.push(value());
                Ok(None)
            }
            found => Ok(found.answer(value)),
        }
    }
}
