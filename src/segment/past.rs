//! Reading segments of the history tier: versions that were superseded, each with the interval in which it was the truth.
//!
//! ```text
//!  ann  v5 [50,60) whole · v4 [40,50) difference · v3 [30,40) difference · …      as of 37: v3, out of v5 and two differences
//! ```
//!
//! A point read goes by the perfect-hash index to the newest version of the key, and down from there while that is near; further down it
//! searches by fences, so that a read costs about the same however many versions there are. A scan meets one version of each key: the one
//! whose interval holds the moment.

use std::sync::Arc;

use super::{
    Entry, PointKey, Probe, Segment, SegmentCursor,
    block::Layout,
    difference,
    entry::{Decoded, decode},
    index::{may_hold, pages},
    reader::BlockData,
};
use crate::{
    base::{Bytes, Corruption, Kind, Result},
    merge::{Direction, EntryRef, Source, Until},
};

/// A point read walks this many versions down from the newest before it searches.
const STEPS_MAX: usize = 20;

/// A version in the history tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PastVersion {
    pub(crate) seqno: u64,
    pub(crate) time: Option<u64>,
    pub(crate) until: Until,
    pub(crate) kind: Kind,
    pub(crate) value: Bytes,
}

/// What a segment of the history tier knows of a key at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PastFound {
    /// The version whose interval holds the moment.
    Holds(PastVersion),
    /// What was there then is gone.
    Gone,
    Nothing,
}

impl Segment {
    /// Looks a key up as of `seqno`.
    pub(crate) fn get_past(&self, key: &mut PointKey<'_>, seqno: u64, probe: &mut Probe) -> Result<PastFound> {
        let Some((index, region)) = self.index_and_region() else { return self.search_past(key.key(), seqno, probe) };
        let hash = index.seeded(key.hash(index.hash_seed()));
        if let Some((start, end)) = index.filter_line(hash) {
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
        let Some(mut at) = slot.entry_at else { return Ok(PastFound::Nothing) };
        probe.entry_at = Some(at as u64);
        probe.blocks += 1;

        let mut gone = false;
        // The values on the way from the last whole one, and the interval's end that the version before gives.
        let mut trail: Vec<std::ops::Range<usize>> = Vec::new();
        let mut newer: Option<(u64, u64)> = None;
        for step in 0..STEPS_MAX {
            let decoded = self.entry_at(region, at)?;
            if step == 0 && region.get(decoded.key.clone()) != Some(key.key()) {
                return Ok(PastFound::Nothing);
            }
            probe.key_found = true;
            let entry = decoded.entry;
            if !entry.difference {
                trail.clear();
            }
            trail.push(decoded.value.clone());
            if entry.seqno <= seqno {
                let until = self.until(&entry, newer)?;
                if !until.holds(seqno) {
                    return Ok(if gone { PastFound::Gone } else { PastFound::Nothing });
                }
                let value = self.put_together(region, &trail)?;
                let Entry { seqno, time, kind, .. } = entry;
                return Ok(PastFound::Holds(PastVersion { seqno, time, until, kind, value }));
            }
            gone |= entry.gap_start.is_some_and(|gap| gap <= seqno);
            newer = entry.time.map(|time| (entry.seqno, time));
            if !entry.older_follows {
                return Ok(if gone { PastFound::Gone } else { PastFound::Nothing });
            }
            if !entry.older_in_block {
                break;
            }
            at = decoded.next;
        }
        self.search_past(key.key(), seqno, probe)
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

    /// A whole value and the differences behind it, put together.
    fn put_together(&self, bytes: &[u8], trail: &[std::ops::Range<usize>]) -> Result<Bytes> {
        let mut parts = trail.iter().map(|range| bytes.get(range.clone()).unwrap_or_default());
        let whole = parts.next().unwrap_or_default();
        if trail.len() < 2 {
            return Ok(Bytes::copy_from(whole));
        }
        let (mut newer, mut older) = (whole.to_vec(), Vec::with_capacity(whole.len()));
        for part in parts {
            older.clear();
            difference::apply(&newer, part, &mut older).map_err(|bad| self.misplaced(bad))?;
            std::mem::swap(&mut newer, &mut older);
        }
        Ok(Bytes::from(newer))
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
        let mut gone = false;
        let mut block = low.saturating_sub(1).max(blocks.start);
        while block < self.block_count() {
            probe.blocks += 1;
            let (data, layout) = load(block)?;
            let bytes = data.bytes(self);
            let wrong = |bad| self.in_block(bad, block);
            let at = layout.partition_point(bytes, self.base(), |decoded| before(bytes, decoded)).map_err(wrong)?;
            if let Some(above) = at.checked_sub(1) {
                let above = layout.entry(bytes, above, self.base()).map_err(wrong)?;
                let is_key = bytes.get(above.key.clone()) == Some(key);
                probe.key_found |= is_key;
                gone = is_key && above.entry.gap_start.is_some_and(|gap| gap <= seqno);
            }
            if at < layout.count() {
                let found = layout.entry(bytes, at, self.base()).map_err(wrong)?;
                if bytes.get(found.key.clone()) == Some(key) {
                    probe.key_found = true;
                    let version = self.version(&data, layout, at, block)?;
                    if version.until.holds(seqno) {
                        return Ok(PastFound::Holds(version));
                    }
                }
                break;
            }
            block += 1;
        }
        Ok(if gone { PastFound::Gone } else { PastFound::Nothing })
    }

    /// Version number `at` of a block, put together.
    fn version(&self, data: &BlockData, layout: Layout, at: usize, block: usize) -> Result<PastVersion> {
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
        let until = self.until(&entry, newer)?;
        let mut trail = vec![decoded.value];
        let (mut whole, mut at) = (!entry.difference, at);
        while !whole {
            at = at.checked_sub(1).ok_or_else(|| self.corrupt(0, "a whole value before a difference"))?;
            let decoded = layout.entry(bytes, at, self.base()).map_err(wrong)?;
            whole = !decoded.entry.difference;
            trail.push(decoded.value);
        }
        trail.reverse();
        let value = self.put_together(bytes, &trail)?;
        Ok(PastVersion { seqno: entry.seqno, time: entry.time, until, kind: entry.kind, value })
    }

    /// Reads every version, whole; `each` is shown its place in order.
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
    value: Vec<u8>,
    /// Room for the next value.
    next: Vec<u8>,
    until: Option<Until>,
}

impl VersionCursor {
    /// A cursor that stands nowhere until it is sent somewhere.
    pub(crate) fn new(segment: Arc<Segment>) -> Self {
        let inner = SegmentCursor::new(segment, Direction::Forward);
        Self { inner, value: Vec::new(), next: Vec::new(), until: None }
    }

    /// Puts the value together that the inner cursor stands at, out of the one before.
    fn settle(&mut self, newer: Option<(u64, u64)>) -> Result<()> {
        let Self { inner, value, next, until } = self;
        let Some(entry) = inner.decoded().map(|decoded| decoded.entry) else { return Ok(()) };
        let stored = inner.entry().map_or(&[][..], |entry| entry.value);
        if entry.difference {
            next.clear();
            difference::apply(value, stored, next).map_err(|bad| inner.segment().misplaced(bad))?;
            std::mem::swap(value, next);
        } else {
            value.clear();
            value.extend_from_slice(stored);
        }
        *until = Some(inner.segment().until(&entry, newer)?);
        Ok(())
    }
}

impl Source for VersionCursor {
    fn seek(&mut self, key: Option<&[u8]>) -> Result<()> {
        self.inner.seek(key)?;
        // A key begins with a whole value.
        self.value.clear();
        self.settle(None)
    }

    fn entry(&self) -> Option<EntryRef<'_>> {
        Some(EntryRef { value: &self.value, until: self.until, ..self.inner.entry()? })
    }

    fn value(&self) -> Bytes {
        Bytes::copy_from(&self.value)
    }

    fn advance(&mut self) -> Result<()> {
        let newer = self.inner.decoded().map(|decoded| decoded.entry);
        self.inner.advance()?;
        let newer = newer.filter(|newer| newer.older_follows);
        self.settle(newer.and_then(|newer| Some((newer.seqno, newer.time?))))
    }

    fn newest(&self) -> u64 {
        self.inner.newest()
    }
}

/// Of each key of a segment the version whose interval holds a moment; of a key of which that is gone, the version that says so.
#[derive(Debug)]
pub(crate) struct PastCursor {
    inner: SegmentCursor,
    direction: Direction,
    seqno: u64,
    found: Option<Found>,
    value: Vec<u8>,
    spare: Vec<u8>,
}

/// The version that a [`PastCursor`] stands at.
#[derive(Debug)]
struct Found {
    data: BlockData,
    layout: Layout,
    block: usize,
    index: usize,
    decoded: Decoded,
    /// Nothing of one that only says that what was there is gone.
    until: Option<Until>,
}

impl PastCursor {
    /// A cursor that stands nowhere until it is sent somewhere.
    pub(crate) fn new(segment: Arc<Segment>, direction: Direction, seqno: u64) -> Self {
        let inner = SegmentCursor::new(segment, direction);
        Self { inner, direction, seqno, found: None, value: Vec::new(), spare: Vec::new() }
    }

    /// Goes on from the first entry of a key, in this direction, to the next key with something to say.
    fn settle(&mut self) -> Result<()> {
        self.found = None;
        while self.inner.decoded().is_some() {
            match self.direction {
                Direction::Forward => self.read_forward()?,
                Direction::Backward => self.read_backward()?,
            }
            if self.found.is_some() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads the versions of a key newest first, and stands at the next key.
    fn read_forward(&mut self) -> Result<()> {
        let mut newer: Option<(u64, u64)> = None;
        let mut done = false;
        while let Some(decoded) = self.inner.decoded() {
            let entry = decoded.entry;
            if !done && entry.seqno <= self.seqno {
                done = true;
                let until = self.inner.segment().until(&entry, newer)?;
                if until.holds(self.seqno) {
                    self.hold(Some(until))?;
                }
            } else if !done && entry.gap_start.is_some_and(|gap| gap <= self.seqno) {
                self.hold(None)?;
            }
            newer = entry.time.map(|time| (entry.seqno, time));
            self.inner.advance()?;
            if !entry.older_follows {
                break;
            }
        }
        Ok(())
    }

    /// Reads the versions of a key oldest first, and stands at the next key.
    fn read_backward(&mut self) -> Result<()> {
        // The newest at or below the moment, and whether its interval holds it.
        let mut candidate: Option<Found> = None;
        while let Some(decoded) = self.inner.decoded() {
            let entry = decoded.entry;
            if let Some(candidate) = candidate.as_mut().filter(|candidate| candidate.until.is_none()) {
                let newer = entry.time.map(|time| (entry.seqno, time));
                candidate.until = Some(self.inner.segment().until(&candidate.decoded.entry, newer)?);
            }
            if entry.seqno <= self.seqno {
                candidate = self.inner.place().map(|(data, layout, block, index)| Found {
                    data,
                    layout,
                    block,
                    index,
                    decoded: decoded.clone(),
                    until: entry.until,
                });
            } else {
                let holds = candidate.as_ref().is_some_and(|c| c.until.is_some_and(|until| until.holds(self.seqno)));
                if !holds && entry.gap_start.is_some_and(|gap| gap <= self.seqno) {
                    self.hold(None)?;
                }
            }
            self.inner.advance()?;
            if !self.inner.decoded().is_some_and(|newer| newer.entry.older_follows) {
                break;
            }
        }
        if let Some(found) = candidate {
            let until = found.until.ok_or_else(|| self.inner.segment().corrupt(0, "a version whose interval ends"))?;
            if until.holds(self.seqno) {
                self.found = Some(found);
                self.put_together()?;
            }
        }
        Ok(())
    }

    /// Stands at the entry that the inner cursor is at, whatever that does next.
    fn hold(&mut self, until: Option<Until>) -> Result<()> {
        let decoded = self.inner.decoded().cloned();
        self.found = self.inner.place().zip(decoded).map(|((data, layout, block, index), decoded)| Found {
            data,
            layout,
            block,
            index,
            decoded,
            until,
        });
        self.put_together()
    }

    /// Makes the value of what it stands at: the last whole value before it, and the differences since.
    fn put_together(&mut self) -> Result<()> {
        let Self { inner, found, value, spare, .. } = self;
        value.clear();
        let Some(Found { data, layout, block, index, decoded, until: Some(_) }) = found else { return Ok(()) };
        let segment = inner.segment();
        let bytes = data.bytes(segment);
        let wrong = |bad: Corruption| segment.in_block(bad, *block);
        let stored = |decoded: &Decoded| bytes.get(decoded.value.clone()).unwrap_or_default();
        if !decoded.entry.difference {
            value.extend_from_slice(stored(decoded));
            return Ok(());
        }
        let mut whole = *index;
        loop {
            let Some(before) = whole.checked_sub(1) else {
                return Err(segment.corrupt(0, "a whole value before a difference"));
            };
            whole = before;
            let decoded = layout.entry(bytes, whole, segment.base()).map_err(wrong)?;
            if !decoded.entry.difference {
                value.extend_from_slice(stored(&decoded));
                break;
            }
        }
        for at in whole + 1..=*index {
            let decoded = layout.entry(bytes, at, segment.base()).map_err(wrong)?;
            spare.clear();
            difference::apply(value, stored(&decoded), spare).map_err(wrong)?;
            std::mem::swap(value, spare);
        }
        Ok(())
    }
}

impl Source for PastCursor {
    fn seek(&mut self, key: Option<&[u8]>) -> Result<()> {
        self.inner.seek(key)?;
        self.settle()
    }

    fn entry(&self) -> Option<EntryRef<'_>> {
        let found = self.found.as_ref()?;
        let bytes = found.data.bytes(self.inner.segment());
        let Entry { seqno, kind, gap_start, time, .. } = found.decoded.entry;
        Some(EntryRef {
            key: bytes.get(found.decoded.key.clone())?,
            seqno,
            ordinal: 0,
            kind,
            gap_start,
            moved: false,
            time,
            until: found.until,
            value: &self.value,
        })
    }

    fn value(&self) -> Bytes {
        Bytes::copy_from(&self.value)
    }

    fn advance(&mut self) -> Result<()> {
        self.settle()
    }

    fn newest(&self) -> u64 {
        self.inner.newest()
    }
}
