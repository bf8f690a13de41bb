//! Reading segments of the history tier: versions that were superseded, each with the interval in which it was the
//! truth.
//!
//! ```text
//!  ann  v5 [50,60) whole · v4 [40,50) difference · v3 [30,40) difference · …      as of 37: v3, out of v5 and two differences
//! ```
//!
//! A point read goes by the perfect-hash index to the newest version of the key, and down from there while that is
//! near; further down it searches by fences, so that a read costs about the same however many versions there are. A
//! scan meets one version of each key: the one whose interval holds the moment.

use std::{ops::Range, sync::Arc};

use super::{
    Entry, PointKey, Probe, Segment, SegmentCursor,
    block::Layout,
    cursor::check_side,
    difference,
    entry::{Decoded, Glance, RunLen, decode, glance},
    index::{may_hold, pages},
    reader::BlockData,
};
use crate::{
    base::{Bytes, Corruption, Kind, Result},
    merge::{Direction, EntryRef, Source, Until, step},
};

/// A run of more versions than this is searched, not walked down from the newest.
const STEPS_MAX: usize = 20;

/// A scan steps over so many parts of the versions of a key, and searches beyond that.
const PARTS_MAX: usize = 4;

/// So many bytes of a run are fetched before it is walked over: ten versions of a small record.
const FETCH_AHEAD: usize = 640;

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
    fn until(&self, entry: &Entry, newer: Option<(u64, u64)>) -> Result<Until> {
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
        difference::apply(whole, stored, &mut value).map_err(|bad| self.misplaced(bad))?;
        Ok(Bytes::from(value))
    }

    /// Looks a key up by the fences: first the block, then the version in it.
    fn search_past(&self, key: &[u8], seqno: u64, probe: &mut Probe) -> Result<PastFound> {
        let blocks = self.blocks_of(key);
        let load = |block: usize| {
            let data = self.block(block)?;
            let layout = Layout::of(data.bytes(self)).map_err(|bad| self.in_block(bad, block))?;
            Ok::<_, crate::base::Error>((data, layout))
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

    /// Reads every version, whole.
    pub(super) fn check_past(self: &Arc<Self>) -> Result<()> {
        let mut cursor = VersionCursor::new(Arc::clone(self));
        cursor.seek(Some(&[]))?;
        while cursor.entry().is_some() {
            cursor.advance()?;
        }
        Ok(())
    }
}

/// Every version of a segment in order, whole.
#[derive(Debug)]
pub(crate) struct VersionCursor {
    inner: SegmentCursor,
    /// The last whole value, and the one it stands at if that is told as a difference.
    whole: Vec<u8>,
    value: Vec<u8>,
    until: Option<Until>,
}

impl VersionCursor {
    /// A cursor that stands nowhere until it is sent somewhere.
    pub(crate) fn new(segment: Arc<Segment>) -> Self {
        let inner = SegmentCursor::new(segment, Direction::Forward);
        Self { inner, whole: Vec::new(), value: Vec::new(), until: None }
    }

    fn is_difference(&self) -> bool {
        self.inner.decoded().is_some_and(|decoded| decoded.entry.difference)
    }

    /// Puts the value together that the inner cursor stands at.
    fn settle(&mut self, newer: Option<(u64, u64)>) -> Result<()> {
        let Self { inner, whole, value, until } = self;
        let Some(entry) = inner.decoded().map(|decoded| decoded.entry) else { return Ok(()) };
        let stored = inner.entry().map_or(&[][..], |entry| entry.value);
        if entry.difference {
            value.clear();
            difference::apply(whole, stored, value).map_err(|bad| inner.segment().misplaced(bad))?;
        } else {
            whole.clear();
            whole.extend_from_slice(stored);
        }
        *until = Some(inner.segment().until(&entry, newer)?);
        Ok(())
    }
}

impl Source for VersionCursor {
    fn seek(&mut self, key: Option<&[u8]>) -> Result<()> {
        self.inner.seek(key)?;
        // A key begins with a whole value.
        self.whole.clear();
        self.settle(None)
    }

    fn entry(&self) -> Option<EntryRef<'_>> {
        let value = if self.is_difference() { &self.value } else { &self.whole };
        Some(EntryRef { value, until: self.until, ..self.inner.entry()? })
    }

    fn value(&self) -> Bytes {
        Bytes::copy_from(if self.is_difference() { &self.value } else { &self.whole })
    }

    fn advance(&mut self) -> Result<()> {
        let newer = self.inner.decoded().map(|decoded| decoded.entry);
        self.inner.advance()?;
        let newer = newer.filter(|newer| newer.older_follows);
        self.settle(newer.and_then(|newer| Some((newer.seqno, newer.time?))))
    }

    fn skip_newer(&mut self, key: &[u8], seqno: u64, opened: u64) -> Result<()> {
        let before = self.inner.place();
        self.inner.skip_newer(key, seqno, opened)?;
        let Some(entry) = self.inner.decoded().map(|decoded| decoded.entry).filter(|_| self.inner.place() != before)
        else {
            return Ok(());
        };
        self.whole.clear();
        let mut newer = None;
        if let Some(distance) = entry.follower {
            if let Some((_, whole)) = self.inner.entry_before(usize::from(distance))? {
                self.whole.extend_from_slice(whole);
            }
            newer = self.inner.entry_before(1)?.and_then(|(newer, _)| Some((newer.entry.seqno, newer.entry.time?)));
        }
        self.settle(newer)
    }

    fn turned(&self) -> Self {
        Self::new(Arc::clone(self.inner.segment()))
    }

    fn newest(&self) -> u64 {
        self.inner.newest()
    }
}

/// Of each key of a segment the version whose interval holds a moment; of a key of which that is gone, the version that
/// says so.
#[derive(Debug)]
pub(crate) struct PastCursor {
    segment: Arc<Segment>,
    direction: Direction,
    seqno: u64,
    /// The block that is read, and the entry to go on from: the first of a run, or backward the last one.
    block: usize,
    data: Option<(BlockData, Layout)>,
    index: Option<usize>,
    found: Option<Found>,
    /// The value that was put together, if it is told as a difference.
    value: Vec<u8>,
}

/// The version that a [`PastCursor`] stands at.
#[derive(Debug)]
struct Found {
    data: BlockData,
    key: Range<usize>,
    entry: Entry,
    /// Where its value stands, if it stands whole.
    whole: Option<Range<usize>>,
    /// Nothing of one that only says that what was there is gone.
    until: Option<Until>,
}

/// The versions of a key that stand together in a block.
struct Part {
    first: Decoded,
    /// Entries from the first to before the second.
    entries: Range<usize>,
}

impl PastCursor {
    /// A cursor that stands nowhere until it is sent somewhere.
    pub(crate) fn new(segment: Arc<Segment>, direction: Direction, seqno: u64) -> Self {
        Self { segment, direction, seqno, block: 0, data: None, index: None, found: None, value: Vec::new() }
    }

    /// Loads a block and goes to its first entry, backward to its last; to nowhere when there is none of that number.
    fn load(&mut self, block: Option<usize>) -> Result<()> {
        self.data = None;
        self.index = None;
        let Some(block) = block.filter(|block| *block < self.segment.block_count()) else { return Ok(()) };
        self.block = block;
        let data = self.segment.block(block)?;
        let layout = Layout::of(data.bytes(&self.segment)).map_err(|bad| self.segment.in_block(bad, block))?;
        self.index = match self.direction {
            Direction::Forward => Some(0),
            Direction::Backward => layout.count().checked_sub(1),
        };
        self.data = Some((data, layout));
        Ok(())
    }

    fn bare(&self, index: usize) -> Result<Decoded> {
        let segment = &self.segment;
        let Some((data, layout)) = &self.data else { return Err(segment.corrupt(0, "a block that was loaded")) };
        layout.bare(data.bytes(segment), index, segment.base()).map_err(|bad| segment.in_block(bad, self.block))
    }

    /// The versions that stand together where the walk is.
    fn part(&self, index: usize) -> Result<Part> {
        let wrong = || self.segment.corrupt(0, "versions of a key in a run");
        step();
        let count = self.data.as_ref().map_or(0, |(_, layout)| layout.count());
        let decoded = self.bare(index)?;
        let (first, at) = match (self.direction, decoded.entry.follower) {
            (_, None) => (decoded, index),
            (Direction::Forward, Some(_)) => return Err(wrong()),
            (Direction::Backward, Some(distance)) => {
                let at = index.checked_sub(usize::from(distance)).ok_or_else(wrong)?;
                (self.bare(at)?, at)
            }
        };
        let end = match self.direction {
            Direction::Forward => at + 1 + first.entry.run.map_or(0, RunLen::followers),
            Direction::Backward => index + 1,
        };
        if first.entry.follower.is_some() || end > count {
            return Err(wrong());
        }
        Ok(Part { first, entries: at..end })
    }

    /// All versions that stand together with one of them.
    fn part_of(&self, index: usize) -> Result<Part> {
        let wrong = || self.segment.corrupt(0, "versions of a key in a run");
        let at = index - usize::from(self.bare(index)?.entry.follower.unwrap_or(0)).min(index);
        let first = self.bare(at)?;
        let end = at + 1 + first.entry.run.map_or(0, RunLen::followers);
        if first.entry.follower.is_some() || end > self.data.as_ref().map_or(0, |(_, layout)| layout.count()) {
            return Err(wrong());
        }
        Ok(Part { first, entries: at..end })
    }

    /// Looks a part through: stands at the version that holds the moment, or at one that says it is gone. Whether a
    /// version at or before the moment was met. The parts of a key are shown newest first, or backward oldest first.
    fn look(&mut self, part: &Part, order: Direction) -> Result<bool> {
        let Range { start, end } = part.entries;
        let (mut low, mut high) = (start, end);
        // The version above tells where the interval ends, if that tells it not itself.
        let mut above = None;
        if part.first.entry.seqno > self.seqno {
            above = Some(part.first.entry.seqno);
            low += 1;
            while low < high {
                let middle = low.midpoint(high);
                let seqno = self.seqno_of(middle)?;
                if seqno > self.seqno {
                    above = Some(seqno);
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
        }
        if low < end {
            let other = if low == start { None } else { Some(self.bare(low)?) };
            let decoded = other.as_ref().unwrap_or(&part.first);
            // The time where it ends is told by no scan.
            let until = self.segment.until(&decoded.entry, above.map(|above| (above, 0)))?;
            if order == Direction::Backward {
                // What an older part had is over by then.
                self.found = None;
            }
            if until.holds(self.seqno) {
                self.stand(part, decoded, Some(until))?;
                return Ok(true);
            }
        }
        if above.is_some() && self.found.is_none() {
            // It tells as well whether anything between has gone.
            let entry = if low == start + 1 { part.first.entry } else { self.bare(low - 1)?.entry };
            if entry.gap_start.is_some_and(|gap| gap <= self.seqno) {
                self.stand(part, &Decoded { entry, ..part.first.clone() }, None)?;
            }
        }
        Ok(low < end)
    }

    /// Has the versions fetched that begin at an entry of the block: they are read next.
    fn fetch(&self, index: usize) {
        if let Some((data, layout)) = &self.data
            && let Ok(offset) = layout.offset(data.bytes(&self.segment), index)
        {
            self.segment.fetch(data, offset, FETCH_AHEAD);
        }
    }

    fn seqno_of(&self, index: usize) -> Result<u64> {
        let segment = &self.segment;
        let Some((data, layout)) = &self.data else { return Err(segment.corrupt(0, "a block that was loaded")) };
        layout.seqno(data.bytes(segment), index, segment.base()).map_err(|bad| segment.in_block(bad, self.block))
    }

    fn stand(&mut self, part: &Part, decoded: &Decoded, until: Option<Until>) -> Result<()> {
        let Self { segment, data, value, block, .. } = self;
        let Some((data, _)) = data else { return Ok(()) };
        let mut whole = until.map(|_| decoded.value.clone());
        value.clear();
        if until.is_some() && decoded.entry.difference {
            let bytes = data.bytes(segment);
            let of = |range: &Range<usize>| bytes.get(range.clone()).unwrap_or_default();
            difference::apply(of(&part.first.value), of(&decoded.value), value)
                .map_err(|bad| segment.in_block(bad, *block))?;
            whole = None;
        }
        let (key, entry) = (part.first.key.clone(), decoded.entry);
        self.found = Some(Found { data: data.clone(), key, entry, whole, until });
        Ok(())
    }

    /// Goes on to the next key with something to say.
    fn settle(&mut self) -> Result<()> {
        self.found = None;
        while let Some(index) = self.index
            && self.found.is_none()
        {
            match self.direction {
                Direction::Forward => self.read_forward(index)?,
                Direction::Backward => self.read_backward(index)?,
            }
        }
        Ok(())
    }

    /// Reads the versions of a key, newest first, and goes to the next key.
    fn read_forward(&mut self, index: usize) -> Result<()> {
        let (mut index, mut done) = (index, false);
        for passed in 1.. {
            let part = self.part(index)?;
            self.fetch(part.entries.end);
            if !done {
                done = self.look(&part, Direction::Forward)?;
            }
            let goes_on = part.first.entry.run.is_some_and(RunLen::older_run);
            if goes_on && passed >= PARTS_MAX {
                return self.search_key(&part);
            }
            self.go_on(part.entries.end)?;
            match self.index {
                Some(next) if goes_on => index = next,
                _ => break,
            }
        }
        Ok(())
    }

    /// Reads the versions of a key, oldest first, and goes to the key before it.
    fn read_backward(&mut self, index: usize) -> Result<()> {
        let mut index = index;
        for passed in 1.. {
            let part = self.part(index)?;
            self.look(&part, Direction::Backward)?;
            let goes_on = part.first.entry.run.is_some_and(RunLen::newer_run);
            if goes_on && passed >= PARTS_MAX {
                return self.search_key(&part);
            }
            if let Some(before) = part.entries.start.checked_sub(1) {
                self.index = Some(before);
            } else {
                self.load(self.block.checked_sub(1))?;
            }
            match self.index {
                Some(next) if goes_on => index = next,
                _ => break,
            }
        }
        Ok(())
    }

    /// Goes to entry `index` of the block, or to the first of the next block.
    fn go_on(&mut self, index: usize) -> Result<()> {
        if index < self.data.as_ref().map_or(0, |(_, layout)| layout.count()) {
            self.index = Some(index);
            return Ok(());
        }
        self.load(self.block.checked_add(1))?;
        self.index = self.index.map(|_| 0);
        Ok(())
    }

    /// Reads the one version of a key that is wanted, however many there are, and goes to the next key.
    #[cold]
    fn search_key(&mut self, part: &Part) -> Result<()> {
        let segment = Arc::clone(&self.segment);
        let bytes = self.data.as_ref().and_then(|(data, _)| data.bytes(&segment).get(part.first.key.clone()));
        let mut key = bytes.unwrap_or_default().to_vec();
        let from = (self.block, part.entries.start);
        self.found = None;
        let (block, at) = segment.find_version(&key, self.seqno)?;
        self.load(Some(block))?;
        // The version above the moment first: it tells whether anything between has gone.
        self.go_on(at.saturating_sub(1))?;
        for _ in 0..2 {
            let Some(index) = self.index else { break };
            let part = self.part_of(index)?;
            let is_key = self.data.as_ref().and_then(|(data, _)| data.bytes(&segment).get(part.first.key.clone()));
            // Before the versions of the key there may be another one, and behind them.
            if is_key == Some(&key) && self.look(&part, Direction::Forward)? {
                break;
            }
            self.go_on(part.entries.end)?;
        }
        if self.direction == Direction::Forward {
            key.push(0);
        }
        self.enter(&key)?;
        // In a damaged file the fences may lead back: then the walk would never end.
        let onward = self.index.is_none_or(|index| match self.direction {
            Direction::Forward => (self.block, index) > from,
            Direction::Backward => (self.block, index) < from,
        });
        if onward { Ok(()) } else { Err(segment.corrupt(0, "versions of a key between those of its neighbours")) }
    }

    /// Goes to the versions of the first key that is not below `key`; backward to those of the last one that is.
    fn enter(&mut self, key: &[u8]) -> Result<()> {
        let segment = Arc::clone(&self.segment);
        let block = segment.find_block(key);
        self.load(Some(block))?;
        let Some((data, layout)) = &self.data else { return Ok(()) };
        let found = layout.lower_bound(data.bytes(&segment), key, segment.base());
        let at = found.map_err(|bad| segment.in_block(bad, block))?;
        match self.direction {
            Direction::Forward if at < layout.count() => self.index = Some(at),
            Direction::Forward => self.load(Some(block + 1))?,
            Direction::Backward if at > 0 => self.index = Some(at - 1),
            Direction::Backward => self.load(block.checked_sub(1))?,
        }
        Ok(())
    }
}

impl Source for PastCursor {
    fn seek(&mut self, key: Option<&[u8]>) -> Result<()> {
        let segment = Arc::clone(&self.segment);
        match (self.direction, key) {
            (Direction::Forward, None) => self.load(None)?,
            (Direction::Backward, None) => self.load(segment.block_count().checked_sub(1))?,
            (_, Some(key)) => self.enter(key)?,
        }
        self.settle()?;
        check_side(&self.segment, self.direction, key, self.entry().map(|entry| entry.key))
    }

    fn entry(&self) -> Option<EntryRef<'_>> {
        let found = self.found.as_ref()?;
        let bytes = found.data.bytes(&self.segment);
        let Entry { seqno, kind, gap_start, time, .. } = found.entry;
        Some(EntryRef {
            key: bytes.get(found.key.clone())?,
            seqno,
            // Behind a purge of its own commit.
            ordinal: 1,
            kind,
            gap_start,
            moved: false,
            time,
            until: found.until,
            value: match &found.whole {
                Some(whole) => bytes.get(whole.clone())?,
                None => &self.value,
            },
        })
    }

    fn value(&self) -> Bytes {
        self.entry().map_or_else(Bytes::default, |entry| Bytes::copy_from(entry.value))
    }

    fn advance(&mut self) -> Result<()> {
        self.settle()
    }

    fn skip_newer(&mut self, _: &[u8], _: u64, _: u64) -> Result<()> {
        // It shows one version of a key.
        Ok(())
    }

    fn turned(&self) -> Self {
        Self::new(Arc::clone(&self.segment), Direction::Forward, self.seqno)
    }

    fn newest(&self) -> u64 {
        self.segment.max_seqno()
    }
}
