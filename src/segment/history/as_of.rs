//! Ordered reading of a segment of the history tier as of a moment, in either direction.

use std::{ops::Range, path::Path, sync::Arc};

use super::{delta, lookup::FETCH_AHEAD};
use crate::{
    base::{Bytes, Micros, Result, Seqno},
    merge::{Direction, EntryRef, Source, Until, step},
    segment::{
        cursor::check_side,
        entry::{Decoded, Entry, RunLen},
        reader::{Block, Entries, Segment},
    },
};

/// Parts of the versions of a key that a scan steps over; beyond that it searches.
const PARTS_MAX: usize = 4;

/// Yields, for each key, the version whose interval holds a moment; if it was dropped, the newer version whose gap says
/// so.
#[derive(Debug)]
pub(crate) struct AsOfCursor {
    segment: Arc<Segment>,
    direction: Direction,
    seqno: Seqno,
    /// Number of the current block, the block, and the entry to continue from: the first of a run, or backward the last
    /// one.
    number: usize,
    block: Option<Block>,
    index: Option<usize>,
    found: Option<Current>,
    /// The whole value, if it is stored as a difference.
    value: Vec<u8>,
}

/// Current version of an [`AsOfCursor`].
#[derive(Debug)]
struct Current {
    block: Block,
    key: Range<usize>,
    entry: Entry,
    /// Position of its value, if that is stored whole.
    whole: Option<Range<usize>>,
    /// End of its interval; `None` if it only reports that the version of the moment was dropped.
    until: Option<Until>,
}

/// Versions of a key that are stored together in a block: a run.
struct Part {
    first: Decoded,
    /// Entries from the first number up to, but not including, the second.
    entries: Range<usize>,
}

impl AsOfCursor {
    /// Returns a cursor that is not positioned.
    pub(crate) fn new(segment: Arc<Segment>, direction: Direction, seqno: Seqno) -> Self {
        Self { segment, direction, seqno, number: 0, block: None, index: None, found: None, value: Vec::new() }
    }

    /// Loads a block and moves to its first entry, backward to its last; to none if there is no block of that number.
    fn load(&mut self, number: Option<usize>) -> Result<()> {
        self.block = None;
        self.index = None;
        let Some(number) = number.filter(|number| *number < self.segment.fences().count()) else { return Ok(()) };
        self.number = number;
        let block = self.segment.block(number)?;
        self.index = match self.direction {
            Direction::Forward => Some(0),
            Direction::Backward => block.count().checked_sub(1),
        };
        self.block = Some(block);
        Ok(())
    }

    /// Returns the entries of the current block.
    #[inline]
    fn entries(&self) -> Result<Entries<'_>> {
        debug_assert!(self.block.is_some(), "no block is read, at entry {:?} of block {}", self.index, self.number);
        let block = self.block.as_ref().ok_or_else(|| self.segment.corrupt(0, "a block that was loaded"))?;
        Ok(block.entries(&self.segment))
    }

    fn count(&self) -> usize {
        self.block.as_ref().map_or(0, Block::count)
    }

    /// Returns the part at an entry; backward only the versions up to that entry.
    fn part(&self, index: usize) -> Result<Part> {
        let wrong = || self.segment.corrupt(0, "versions of a key in a run");
        step();
        let entries = self.entries()?;
        let decoded = entries.bare(index)?;
        let (first, at) = match (self.direction, decoded.entry.follower) {
            (_, None) => (decoded, index),
            (Direction::Forward, Some(_)) => return Err(wrong()),
            (Direction::Backward, Some(distance)) => {
                let at = index.checked_sub(usize::from(distance)).ok_or_else(wrong)?;
                (entries.bare(at)?, at)
            }
        };
        let end = match self.direction {
            Direction::Forward => at + 1 + first.entry.run.map_or(0, RunLen::followers),
            Direction::Backward => index + 1,
        };
        if first.entry.follower.is_some() || end > entries.count() {
            return Err(wrong());
        }
        Ok(Part { first, entries: at..end })
    }

    /// Returns the whole part that an entry belongs to.
    fn part_of(&self, index: usize) -> Result<Part> {
        let wrong = || self.segment.corrupt(0, "versions of a key in a run");
        let entries = self.entries()?;
        let distance = usize::from(entries.bare(index)?.entry.follower.unwrap_or(0));
        let at = index.checked_sub(distance).ok_or_else(wrong)?;
        let first = entries.bare(at)?;
        let end = at + 1 + first.entry.run.map_or(0, RunLen::followers);
        if first.entry.follower.is_some() || end > entries.count() {
            return Err(wrong());
        }
        Ok(Part { first, entries: at..end })
    }

    /// Searches a part, and moves to the version that holds the moment, or to one whose gap says that this was dropped.
    /// Returns whether it holds a version at or before the moment. Parts of a key are shown newest first, or backward
    /// oldest first.
    fn find_in(&mut self, part: &Part, order: Direction) -> Result<bool> {
        let Range { start, end } = part.entries;
        let (mut low, mut high) = (start, end);
        // The interval of a version ends at the version above, unless it stores its end.
        let mut above = None;
        if part.first.entry.seqno > self.seqno {
            above = Some(part.first.entry.seqno);
            low += 1;
            while low < high {
                let middle = low.midpoint(high);
                let seqno = self.entries()?.seqno(middle)?;
                if seqno > self.seqno {
                    above = Some(seqno);
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
        }
        if low < end {
            let other = if low == start { None } else { Some(self.entries()?.bare(low)?) };
            let decoded = other.as_ref().unwrap_or(&part.first);
            // A scan does not need the end time.
            let until = self.segment.until(&decoded.entry, above.map(|above| (above, Micros::ZERO)))?;
            if order == Direction::Backward {
                // Whatever an older part held ended before this version.
                self.found = None;
            }
            if until.holds(self.seqno) {
                self.stand(part, decoded, Some(until))?;
                return Ok(true);
            }
        }
        if above.is_some() && self.found.is_none() {
            // Its gap also says whether the version in between was dropped.
            let entry = if low == start + 1 { part.first.entry } else { self.entries()?.bare(low - 1)?.entry };
            if entry.gap_start.is_some_and(|gap| gap <= self.seqno) {
                self.stand(part, &Decoded { entry, ..part.first.clone() }, None)?;
            }
        }
        Ok(low < end)
    }

    /// Prefetches the versions that begin at an entry of the block: they are read next.
    fn fetch(&self, index: usize) {
        if let Some(block) = &self.block {
            block.entries(&self.segment).fetch(index, FETCH_AHEAD);
        }
    }

    fn stand(&mut self, part: &Part, decoded: &Decoded, until: Option<Until>) -> Result<()> {
        let Self { segment, block, value, .. } = self;
        let Some(block) = block else { return Ok(()) };
        let mut whole = until.map(|_| decoded.value.clone());
        value.clear();
        if until.is_some() && decoded.entry.difference {
            let entries = block.entries(segment);
            let applied = delta::apply(entries.value(&part.first), entries.value(decoded), value);
            applied.map_err(|bad| entries.wrong(bad))?;
            whole = None;
        }
        let (key, entry) = (part.first.key.clone(), decoded.entry);
        self.found = Some(Current { block: block.clone(), key, entry, whole, until });
        Ok(())
    }

    /// Moves on to the next key that has an answer.
    fn advance_to_answer(&mut self) -> Result<()> {
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

    /// Reads the versions of a key, newest first, and moves to the next key.
    fn read_forward(&mut self, index: usize) -> Result<()> {
        let (mut index, mut done) = (index, false);
        for passed in 1.. {
            let part = self.part(index)?;
            self.fetch(part.entries.end);
            if !done {
                done = self.find_in(&part, Direction::Forward)?;
            }
            let goes_on = part.first.entry.run.is_some_and(RunLen::older_run);
            if goes_on && passed >= PARTS_MAX {
                return self.search_key(&part);
            }
            self.step_to(part.entries.end)?;
            match self.index {
                Some(next) if goes_on => index = next,
                _ => break,
            }
        }
        Ok(())
    }

    /// Reads the versions of a key, oldest first, and moves to the key before it.
    fn read_backward(&mut self, index: usize) -> Result<()> {
        let mut index = index;
        for passed in 1.. {
            let part = self.part(index)?;
            self.find_in(&part, Direction::Backward)?;
            let goes_on = part.first.entry.run.is_some_and(RunLen::newer_run);
            if goes_on && passed >= PARTS_MAX {
                return self.search_key(&part);
            }
            if let Some(before) = part.entries.start.checked_sub(1) {
                self.index = Some(before);
            } else {
                self.load(self.number.checked_sub(1))?;
            }
            match self.index {
                Some(next) if goes_on => index = next,
                _ => break,
            }
        }
        Ok(())
    }

    /// Moves to entry `index` of the block, or to the first of the next block.
    fn step_to(&mut self, index: usize) -> Result<()> {
        if index < self.count() {
            self.index = Some(index);
            return Ok(());
        }
        self.load(self.number.checked_add(1))?;
        self.index = self.index.map(|_| 0);
        Ok(())
    }

    /// Finds the one version of a key that is wanted, however many there are, and moves to the next key.
    #[cold]
    fn search_key(&mut self, part: &Part) -> Result<()> {
        let segment = Arc::clone(&self.segment);
        let mut key = self.entries()?.key(&part.first).to_vec();
        let from = (self.number, part.entries.start);
        self.found = None;
        let (number, at) = segment.find_version(&key, self.seqno)?;
        self.load(Some(number))?;
        // Starts with the version above the moment: its gap says whether anything in between was dropped.
        self.step_to(at.saturating_sub(1))?;
        for _ in 0..2 {
            let Some(index) = self.index else { break };
            let part = self.part_of(index)?;
            // There may be versions of other keys before and after those of the key.
            if self.entries()?.key(&part.first) == key && self.find_in(&part, Direction::Forward)? {
                break;
            }
            self.step_to(part.entries.end)?;
        }
        if self.direction == Direction::Forward {
            key.push(0);
        }
        self.enter(&key)?;
        // In a damaged file the fences may lead back: then the walk would never end.
        let onward = self.index.is_none_or(|index| match self.direction {
            Direction::Forward => (self.number, index) > from,
            Direction::Backward => (self.number, index) < from,
        });
        if onward { Ok(()) } else { Err(segment.corrupt(0, "versions of a key between those of its neighbours")) }
    }

    /// Moves to the versions of the first key at or above `key`; backward to those of the last key below it.
    fn enter(&mut self, key: &[u8]) -> Result<()> {
        let number = self.segment.fences().find(key);
        self.load(Some(number))?;
        let Some(block) = &self.block else { return Ok(()) };
        let at = block.entries(&self.segment).lower_bound(key)?;
        match self.direction {
            Direction::Forward if at < block.count() => self.index = Some(at),
            Direction::Forward => self.load(Some(number + 1))?,
            Direction::Backward if at > 0 => self.index = Some(at - 1),
            Direction::Backward => self.load(number.checked_sub(1))?,
        }
        Ok(())
    }
}

impl Source for AsOfCursor {
    fn seek(&mut self, key: Option<&[u8]>) -> Result<()> {
        match (self.direction, key) {
            (Direction::Forward, None) => self.load(None)?,
            (Direction::Backward, None) => self.load(self.segment.fences().count().checked_sub(1))?,
            (_, Some(key)) => self.enter(key)?,
        }
        self.advance_to_answer()?;
        check_side(&self.segment, self.direction, key, self.entry().map(|entry| entry.key))
    }

    fn entry(&self) -> Option<EntryRef<'_>> {
        let found = self.found.as_ref()?;
        let bytes = found.block.bytes(&self.segment);
        let Entry { seqno, kind, gap_start, time, .. } = found.entry;
        Some(EntryRef {
            key: bytes.get(found.key.clone())?,
            seqno,
            // After a purge of its own commit.
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
        self.advance_to_answer()
    }

    fn skip_newer(&mut self, _: &[u8], _: Seqno, _: Seqno) -> Result<()> {
        // It shows only one version of each key.
        Ok(())
    }

    fn turned(&self) -> Self {
        Self::new(Arc::clone(&self.segment), Direction::Forward, self.seqno)
    }

    fn newest(&self) -> Seqno {
        self.segment.max_seqno()
    }

    fn file(&self) -> Option<&Path> {
        Some(self.segment.pages().path())
    }
}
