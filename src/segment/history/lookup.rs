//! Looking a key up in the history tier: the version whose interval holds a moment.

use std::ops::Range;

use super::delta;
use crate::{
    base::{Bytes, Corruption, Error, Kind, Result},
    merge::Until,
    segment::{
        block::Layout,
        entry::{Decoded, Entry, Glance, RunLen, decode, glance},
        index::{may_hold, pages},
        lookup::{PointKey, Probe},
        reader::{BlockData, Segment},
    },
};

/// A run of more versions than this is searched, not walked down from the newest.
const STEPS_MAX: usize = 20;

/// So many bytes of a run are fetched before it is walked over: ten versions of a small record.
pub(super) const FETCH_AHEAD: usize = 640;

/// A search of a block has so many parts of it fetched at once, for as many steps as that is a power of two, and of
/// each so many bytes.
const FETCH_TOGETHER: usize = 8;
const PROBE_LEN: usize = 100;

/// A version in the history tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PastVersion {
    pub(crate) seqno: u64,
    pub(crate) time: Option<u64>,
    pub(crate) kind: Kind,
    pub(crate) value: Bytes,
}

/// What a segment of the history tier knows of a key at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PastFound {
    /// The version whose interval holds the moment.
    Holds(PastVersion),
    /// What was there then is gone: the version with this seqno, which is newer, says so.
    Gone(u64),
    Nothing,
}

impl PastFound {
    fn gone(above: Option<u64>) -> Self {
        above.map_or(Self::Nothing, Self::Gone)
    }
}

/// The seqno of a version above a moment, if what was there then is gone from beneath it.
fn refusing(above: u64, gap_start: Option<u64>, seqno: u64) -> Option<u64> {
    gap_start.filter(|gap| *gap <= seqno).map(|_| above)
}

impl Segment {
    /// Looks a key up as of `seqno`.
    ///
    /// The filter is asked only where other segments may have the key as well: most keys of the only one are in it.
    pub(crate) fn get_past(
        &self,
        key: &mut PointKey<'_>,
        seqno: u64,
        only: bool,
        probe: &mut Probe,
    ) -> Result<PastFound> {
        let Some((index, region)) = self.index_and_region() else { return self.search_past(key.key(), seqno, probe) };
        let hash = index.seeded(key.hash(index.hash_seed()));
        if let Some((start, end)) = index.filter_line(hash).filter(|_| !only) {
            pages(start, end).try_for_each(|page| self.verify_page(page))?;
            let passed = region.get(start..end).is_some_and(|line| may_hold(line, hash));
            probe.filter = Some(passed);
            if !passed {
                return Ok(PastFound::Nothing);
            }
        }
        let inside = || self.corrupt(0, "a slot of the index inside the data");
        let (partition, start, end) = index.partition(hash).ok_or_else(inside)?;
        self.verify_partition(partition, start, end)?;
        let slot = index.slot(region, hash).ok_or_else(inside)?;
        probe.slot = Some((slot.partition, slot.slot));
        let Some(at) = slot.entry_at else { return Ok(PastFound::Nothing) };
        probe.entry_at = Some(at as u64);
        probe.blocks += 1;

        self.verify_head(at)?;
        // The lines of the versions come all at once, not one by one as they are walked over.
        region.fetch(at, FETCH_AHEAD);
        let first = self.entry_at(region, at)?;
        if region.get(first.key.clone()) != Some(key.key()) {
            return Ok(PastFound::Nothing);
        }
        probe.key_found = true;
        let followers = first.entry.run.map_or(0, RunLen::followers);
        if followers > STEPS_MAX && first.entry.seqno > seqno {
            return self.search_run(at, followers, key.key(), seqno, probe);
        }
        let whole = first.value.clone();
        if first.entry.seqno <= seqno {
            return self.found(region, (first, whole), (seqno, None, None));
        }
        let mut gone = refusing(first.entry.seqno, first.entry.gap_start, seqno);
        let (mut above, mut older_follows, mut at) = (first.entry.seqno, first.entry.older_follows, first.next);
        let entries = region.get(..self.blocks_end()).unwrap_or_default();
        for _ in 0..followers {
            self.verify_head(at)?;
            let glance = glance(entries, at, self.base()).map_err(|bad| self.misplaced(bad))?;
            if glance.seqno <= seqno {
                let decoded = self.entry_at(region, at)?;
                return self.found(region, (decoded, whole), (seqno, Some(above), gone));
            }
            gone = refusing(glance.seqno, glance.gap_start, seqno).or(gone);
            Glance { seqno: above, older_follows, next: at, .. } = glance;
        }
        if older_follows { self.search_past(key.key(), seqno, probe) } else { Ok(PastFound::gone(gone)) }
    }

    /// What the newest version at or below a moment means, where `above` is the one before it in its run.
    fn found(
        &self,
        region: &[u8],
        (decoded, whole): (Decoded, Range<usize>),
        (seqno, above, gone): (u64, Option<u64>, Option<u64>),
    ) -> Result<PastFound> {
        // The time where it ends nobody asks for.
        let until = self.until(&decoded.entry, above.map(|above| (above, 0)))?;
        if !until.holds(seqno) {
            return Ok(PastFound::gone(gone));
        }
        let value = self.put_together(region, whole, &decoded)?;
        let Entry { seqno, time, kind, .. } = decoded.entry;
        Ok(PastFound::Holds(PastVersion { seqno, time, kind, value }))
    }

    /// Searches the run of `followers` that begins at a place of the file, without looking for its key again.
    fn search_run(&self, at: usize, followers: usize, key: &[u8], seqno: u64, probe: &mut Probe) -> Result<PastFound> {
        let inside = || self.corrupt(at as u64, "a run of versions inside a block");
        let (block, start) = self.block_at(at).ok_or_else(inside)?;
        let data = self.block(block)?;
        let bytes = data.bytes(self);
        let wrong = |bad| self.in_block(bad, block);
        let layout = Layout::of(bytes).map_err(wrong)?;
        let first = layout.index_of(bytes, at - start).map_err(wrong)?;
        let end = (first + 1 + followers).min(layout.count());
        match self.search_followers(&data, layout, first + 1..end, (block, seqno))? {
            Some(found) => Ok(found),
            // Further down, perhaps in the next block.
            None => self.search_past(key, seqno, probe),
        }
    }

    /// Searches versions of one key, without looking at the key; nothing when all of them are newer than the moment.
    fn search_followers(
        &self,
        data: &BlockData,
        layout: Layout,
        entries: Range<usize>,
        (block, seqno): (usize, u64),
    ) -> Result<Option<PastFound>> {
        let bytes = data.bytes(self);
        let wrong = |bad| self.in_block(bad, block);
        let end = entries.end;
        let low = self.search(data, layout, entries, |index| {
            layout.seqno(bytes, index, self.base()).map(|found| found > seqno).map_err(wrong)
        })?;
        if low == end {
            return Ok(None);
        }
        if let Some(version) = self.version(data, layout, (low, block), seqno)? {
            return Ok(Some(PastFound::Holds(version)));
        }
        let Some(above) = low.checked_sub(1) else { return Ok(Some(PastFound::Nothing)) };
        let Entry { seqno: above, gap_start, .. } = layout.bare(bytes, above, self.base()).map_err(wrong)?.entry;
        Ok(Some(PastFound::gone(refusing(above, gap_start, seqno))))
    }

    /// The first of some entries of a block for which `before` does not hold, by halves. Where it will look in the next
    /// three steps is fetched at once: a search waits for memory, and so waits a third as often.
    fn search(
        &self,
        data: &BlockData,
        layout: Layout,
        entries: Range<usize>,
        before: impl Fn(usize) -> Result<bool>,
    ) -> Result<usize> {
        let Range { start: mut low, end: mut high } = entries;
        let mut fetched = 0;
        while low < high {
            if fetched == 0 && high - low >= FETCH_TOGETHER {
                for part in 1..FETCH_TOGETHER {
                    let index = low + (high - low) * part / FETCH_TOGETHER;
                    if let Ok(offset) = layout.offset(data.bytes(self), index) {
                        self.fetch(data, offset, PROBE_LEN);
                    }
                }
                fetched = FETCH_TOGETHER.ilog2();
            }
            fetched = fetched.saturating_sub(1);
            let middle = low.midpoint(high);
            if before(middle)? { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }

    /// An entry that the index or another entry leads to, its pages verified.
    fn entry_at(&self, region: &[u8], at: usize) -> Result<Decoded> {
        let entries = region.get(..self.blocks_end()).unwrap_or_default();
        self.verify_head(at)?;
        let decoded = decode(entries, at, self.base()).map_err(|bad| self.misplaced(bad))?;
        pages(decoded.key.start, decoded.value.end).try_for_each(|page| self.verify_page(page))?;
        Ok(decoded)
    }

    /// Where the interval of an entry ends; `newer` is where the entry before it in the block begins.
    pub(super) fn until(&self, entry: &Entry, newer: Option<(u64, u64)>) -> Result<Until> {
        let follows = || newer.map(|(seqno, time)| Until::At { seqno, time });
        entry.until.or_else(follows).ok_or_else(|| self.corrupt(0, "a version whose interval ends"))
    }

    /// The value of an entry; of a difference the last whole value before it is needed.
    fn put_together(&self, bytes: &[u8], whole: Range<usize>, decoded: &Decoded) -> Result<Bytes> {
        let stored = bytes.get(decoded.value.clone()).unwrap_or_default();
        if !decoded.entry.difference {
            return Ok(Bytes::copy_from(stored));
        }
        let whole = bytes.get(whole).unwrap_or_default();
        // Versions of a record are mostly of one length: then nothing is allocated twice.
        let mut value = Vec::with_capacity(whole.len());
        delta::apply(whole, stored, &mut value).map_err(|bad| self.misplaced(bad))?;
        Ok(Bytes::from(value))
    }

    /// Looks a key up by the fences: first the block, then the version in it.
    fn search_past(&self, key: &[u8], seqno: u64, probe: &mut Probe) -> Result<PastFound> {
        let blocks = self.blocks_of(key);
        let load = |block: usize| {
            let data = self.block(block)?;
            let layout = Layout::of(data.bytes(self)).map_err(|bad| self.in_block(bad, block))?;
            Ok::<_, Error>((data, layout))
        };
        // Versions that come before the one wanted: those of smaller keys, and newer ones.
        let before = |bytes: &[u8], decoded: &Decoded| {
            let told = bytes.get(decoded.key.clone()).unwrap_or_default();
            told < key || told == key && decoded.entry.seqno > seqno
        };
        let (mut low, mut high) = (blocks.start, blocks.end);
        while low < high {
            let middle = low.midpoint(high);
            let (data, layout) = load(middle)?;
            let bytes = data.bytes(self);
            let first = layout.entry(bytes, 0, self.base()).map_err(|bad| self.in_block(bad, middle))?;
            if before(bytes, &first) { low = middle + 1 } else { high = middle }
        }
        let mut gone = None;
        let mut block = low.saturating_sub(1).max(blocks.start);
        while block < self.block_count() {
            probe.blocks += 1;
            let (data, layout) = load(block)?;
            let bytes = data.bytes(self);
            let wrong = |bad| self.in_block(bad, block);
            // A block deep in the versions of a key begins with a run of them.
            let first = layout.entry(bytes, 0, self.base()).map_err(wrong)?;
            let run = 1..(1 + first.entry.run.map_or(0, RunLen::followers)).min(layout.count());
            if first.entry.seqno > seqno
                && bytes.get(first.key.clone()) == Some(key)
                && let Some(found) = self.search_followers(&data, layout, run, (block, seqno))?
            {
                probe.key_found = true;
                return Ok(found);
            }
            let at = self.search(&data, layout, 0..layout.count(), |index| {
                layout.entry(bytes, index, self.base()).map(|decoded| before(bytes, &decoded)).map_err(wrong)
            })?;
            if let Some(above) = at.checked_sub(1) {
                let above = layout.entry(bytes, above, self.base()).map_err(wrong)?;
                let is_key = bytes.get(above.key.clone()) == Some(key);
                probe.key_found |= is_key;
                gone = refusing(above.entry.seqno, above.entry.gap_start, seqno).filter(|_| is_key);
            }
            if at < layout.count() {
                let found = layout.entry(bytes, at, self.base()).map_err(wrong)?;
                if bytes.get(found.key.clone()) == Some(key) {
                    probe.key_found = true;
                    if let Some(version) = self.version(&data, layout, (at, block), seqno)? {
                        return Ok(PastFound::Holds(version));
                    }
                }
                break;
            }
            block += 1;
        }
        Ok(PastFound::gone(gone))
    }

    /// Version number `at` of a block, put together, if its interval holds a moment.
    fn version(
        &self,
        data: &BlockData,
        layout: Layout,
        (at, block): (usize, usize),
        asked: u64,
    ) -> Result<Option<PastVersion>> {
        let bytes = data.bytes(self);
        let wrong = |bad| self.in_block(bad, block);
        let decoded = layout.entry(bytes, at, self.base()).map_err(wrong)?;
        let entry = decoded.entry;
        let mut newer = None;
        if entry.until.is_none() {
            let before = at.checked_sub(1).ok_or_else(|| self.corrupt(0, "a version whose interval ends"))?;
            let Entry { seqno, time, .. } = layout.entry(bytes, before, self.base()).map_err(wrong)?.entry;
            newer = time.map(|time| (seqno, time));
        }
        if !self.until(&entry, newer)?.holds(asked) {
            return Ok(None);
        }
        let whole = self.whole_before(bytes, layout, at, &decoded).map_err(wrong)?;
        let value = self.put_together(bytes, whole, &decoded)?;
        Ok(Some(PastVersion { seqno: entry.seqno, time: entry.time, kind: entry.kind, value }))
    }

    /// Where the value is that the value of an entry is told against: that of the first of its run.
    fn whole_before(
        &self,
        block: &[u8],
        layout: Layout,
        at: usize,
        decoded: &Decoded,
    ) -> Result<Range<usize>, Corruption> {
        let Some(distance) = decoded.entry.follower else { return Ok(decoded.value.clone()) };
        let bad = Corruption { offset: 0, what: "a whole value before a difference" };
        let first = at.checked_sub(usize::from(distance)).ok_or(bad)?;
        let first = layout.bare(block, first, self.base())?;
        if first.entry.difference { Err(bad) } else { Ok(first.value) }
    }
}
