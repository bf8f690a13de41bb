//! Point look-up in the history tier: the version whose interval holds a moment.

use std::ops::Range;

use super::delta;
use crate::{
    base::{Bytes, Corruption, Kind, Micros, Result, Seqno},
    merge::Until,
    segment::{
        entry::{Decoded, Entry, Glance, HEAD_LEN_MAX, RunLen, glance},
        index::Probe,
        lookup::{Placed, PointKey},
        pages::Mapped,
        reader::{Entries, Segment},
        sizes::ALIGN,
    },
};

/// Number of followers up to which a run is walked down from the newest version; a longer one is searched.
const STEPS_MAX: usize = 20;

/// Bytes of a run that are prefetched before it is walked over: ten versions of a small record.
pub(super) const FETCH_AHEAD: usize = 640;

/// Number of equal parts of a block whose beginnings a search prefetches together, a power of two, and the bytes it
/// prefetches at each of them.
const FETCH_TOGETHER: usize = 8;
const PROBE_LEN: usize = 100;

/// A version in the history tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HistoryVersion {
    pub(crate) seqno: Seqno,
    pub(crate) time: Option<Micros>,
    pub(crate) kind: Kind,
    pub(crate) value: Bytes,
}

/// What a segment of the history tier knows of a key at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HistoryAnswer {
    /// The version whose interval holds the moment.
    Holds(HistoryVersion),
    /// The version of that moment was dropped: the gap of the newer version with this seqno says so.
    Gone(Seqno),
    Nothing,
}

impl HistoryAnswer {
    fn gone(above: Option<Seqno>) -> Self {
        above.map_or(Self::Nothing, Self::Gone)
    }
}

/// Returns the seqno of a version above a moment, if the version of that moment was dropped beneath it.
fn refusing(above: Seqno, gap_start: Option<Seqno>, seqno: Seqno) -> Option<Seqno> {
    gap_start.filter(|gap| *gap <= seqno).map(|_| above)
}

impl Segment {
    /// Looks up a key as of `seqno`.
    ///
    /// Asks the filter only if other segments may have the key as well: the only segment holds most keys that are
    /// looked up.
    pub(crate) fn get_history(
        &self,
        key: &mut PointKey<'_>,
        seqno: Seqno,
        only: bool,
        probe: &mut Probe,
    ) -> Result<HistoryAnswer> {
        let Some((index, data)) = self.index() else { return self.search_history(key.key(), seqno, probe) };
        let Some(at) = index.probe(data, key.seeded(index), !only, probe)? else { return Ok(HistoryAnswer::Nothing) };
        probe.blocks += 1;
        // Loads the lines of the versions together, not one by one during the walk.
        data.fetch(at, FETCH_AHEAD);
        let first = self.entry_at(data, at)?;
        if first.key() != key.key() {
            return Ok(HistoryAnswer::Nothing);
        }
        probe.key_found = true;
        let followers = first.entry().run.map_or(0, RunLen::followers);
        if followers > STEPS_MAX && first.entry().seqno > seqno {
            return self.search_run(at, followers, key.key(), seqno, probe);
        }
        if first.entry().seqno <= seqno {
            return self.found(&first, &first, seqno, None, None);
        }
        let mut gone = refusing(first.entry().seqno, first.entry().gap_start, seqno);
        let (mut above, mut older_follows) = (first.entry().seqno, first.entry().older_follows);
        let mut at = first.end().next_multiple_of(ALIGN);
        for _ in 0..followers {
            let (glance, next) = self.glance_at(data, at)?;
            if glance.seqno <= seqno {
                let version = self.entry_at(data, at)?;
                return self.found(&version, &first, seqno, Some(above), gone);
            }
            gone = refusing(glance.seqno, glance.gap_start, seqno).or(gone);
            (above, older_follows, at) = (glance.seqno, glance.older_follows, next);
        }
        if older_follows { self.search_history(key.key(), seqno, probe) } else { Ok(HistoryAnswer::gone(gone)) }
    }

    /// Steps over an entry of a run, and returns the position of the next one.
    #[inline]
    fn glance_at(&self, data: Mapped<'_>, at: usize) -> Result<(Glance, usize)> {
        let room = self.blocks_end().saturating_sub(at);
        let glance = glance(&data.get(at, room.min(HEAD_LEN_MAX))?, self.base());
        let glance = glance.map_err(|bad| self.in_entry(bad, at))?;
        if glance.len > room {
            return Err(self.in_entry(Corruption { offset: 0, what: "key and value" }, at));
        }
        Ok((glance, (at + glance.len).next_multiple_of(ALIGN)))
    }

    /// Returns what the newest version at or below a moment means; `above` is the seqno of the version before it in its
    /// run, and `whole` is the first version of that run.
    fn found(
        &self,
        version: &Placed<'_>,
        whole: &Placed<'_>,
        seqno: Seqno,
        above: Option<Seqno>,
        gone: Option<Seqno>,
    ) -> Result<HistoryAnswer> {
        // A look-up does not need the end time.
        let until = self.until(version.entry(), above.map(|above| (above, Micros::ZERO)))?;
        if !until.holds(seqno) {
            return Ok(HistoryAnswer::gone(gone));
        }
        let value = put_together(version.entry(), version.value(), whole.value());
        let value = value.map_err(|bad| self.in_entry(bad, version.at()))?;
        let Entry { seqno, time, kind, .. } = *version.entry();
        Ok(HistoryAnswer::Holds(HistoryVersion { seqno, time, kind, value }))
    }

    /// Searches the run of `followers` that begins at a position of the file, without searching for its key again.
    fn search_run(
        &self,
        at: usize,
        followers: usize,
        key: &[u8],
        seqno: Seqno,
        probe: &mut Probe,
    ) -> Result<HistoryAnswer> {
        let number = self.fences().block_at(at);
        let place = number.and_then(|number| Some((number, self.fences().block(number)?.0)));
        let (number, start) = place.ok_or_else(|| self.corrupt(at as u64, "a run of versions inside a block"))?;
        let block = self.block(number)?;
        let entries = block.entries(self);
        let first = entries.index_of(at - start)?;
        let end = (first + 1 + followers).min(entries.count());
        match self.search_followers(entries, first + 1..end, seqno)? {
            Some(found) => Ok(found),
            // Further down, perhaps in the next block.
            None => self.search_history(key, seqno, probe),
        }
    }

    /// Searches versions of one key without comparing keys; `None` if all of them are newer than the moment.
    fn search_followers(
        &self,
        entries: Entries<'_>,
        among: Range<usize>,
        seqno: Seqno,
    ) -> Result<Option<HistoryAnswer>> {
        let end = among.end;
        let low = search(entries, among, |index| Ok(entries.seqno(index)? > seqno))?;
        if low == end {
            return Ok(None);
        }
        if let Some(version) = self.version(entries, low, seqno)? {
            return Ok(Some(HistoryAnswer::Holds(version)));
        }
        let Some(above) = low.checked_sub(1) else { return Ok(Some(HistoryAnswer::Nothing)) };
        let Entry { seqno: above, gap_start, .. } = entries.bare(above)?.entry;
        Ok(Some(HistoryAnswer::gone(refusing(above, gap_start, seqno))))
    }

    /// Returns the end of the interval of an entry; `newer` is the beginning of the entry before it in the block.
    pub(super) fn until(&self, entry: &Entry, newer: Option<(Seqno, Micros)>) -> Result<Until> {
        let follows = || newer.map(|(seqno, time)| Until::At { seqno, time });
        entry.until.or_else(follows).ok_or_else(|| self.corrupt(0, "a version whose interval ends"))
    }

    /// Looks up a key with the fences: first the block, then the version in it.
    fn search_history(&self, key: &[u8], seqno: Seqno, probe: &mut Probe) -> Result<HistoryAnswer> {
        let blocks = self.fences().holding(key);
        // Holds for versions before the one wanted: those of smaller keys, and newer ones.
        let before = |told: &[u8], decoded: &Decoded| told < key || told == key && decoded.entry.seqno > seqno;
        let (mut low, mut high) = (blocks.start, blocks.end);
        while low < high {
            let middle = low.midpoint(high);
            let block = self.block(middle)?;
            let entries = block.entries(self);
            let first = entries.entry(0)?;
            if before(entries.key(&first), &first) { low = middle + 1 } else { high = middle }
        }
        let mut gone = None;
        for number in low.saturating_sub(1).max(blocks.start)..self.fences().count() {
            probe.blocks += 1;
            let block = self.block(number)?;
            let entries = block.entries(self);
            // A block that begins among the versions of a key begins with a run of them.
            let first = entries.entry(0)?;
            let run = 1..(1 + first.entry.run.map_or(0, RunLen::followers)).min(entries.count());
            if first.entry.seqno > seqno
                && entries.key(&first) == key
                && let Some(found) = self.search_followers(entries, run, seqno)?
            {
                probe.key_found = true;
                return Ok(found);
            }
            let at = search(entries, 0..entries.count(), |index| {
                let decoded = entries.entry(index)?;
                Ok(before(entries.key(&decoded), &decoded))
            })?;
            if let Some(above) = at.checked_sub(1) {
                let above = entries.entry(above)?;
                let is_key = entries.key(&above) == key;
                probe.key_found |= is_key;
                gone = refusing(above.entry.seqno, above.entry.gap_start, seqno).filter(|_| is_key);
            }
            if at < entries.count() {
                let found = entries.entry(at)?;
                if entries.key(&found) == key {
                    probe.key_found = true;
                    if let Some(version) = self.version(entries, at, seqno)? {
                        return Ok(HistoryAnswer::Holds(version));
                    }
                }
                break;
            }
        }
        Ok(HistoryAnswer::gone(gone))
    }

    /// Returns version number `at` of a block with its whole value, if its interval holds a moment.
    fn version(&self, entries: Entries<'_>, at: usize, read_at: Seqno) -> Result<Option<HistoryVersion>> {
        let decoded = entries.entry(at)?;
        let entry = decoded.entry;
        let mut newer = None;
        if entry.until.is_none() {
            let before = at.checked_sub(1).ok_or_else(|| self.corrupt(0, "a version whose interval ends"))?;
            let Entry { seqno, time, .. } = entries.entry(before)?.entry;
            newer = time.map(|time| (seqno, time));
        }
        if !self.until(&entry, newer)?.holds(read_at) {
            return Ok(None);
        }
        let whole = whole_before(entries, at, &decoded)?;
        let value = put_together(&entry, entries.value(&decoded), entries.value(&whole));
        let value = value.map_err(|bad| entries.wrong(bad))?;
        Ok(Some(HistoryVersion { seqno: entry.seqno, time: entry.time, kind: entry.kind, value }))
    }
}

/// Returns the first of some entries of a block for which `before` does not hold, by bisection. Prefetches together
/// where the next three steps may look: a search waits for memory, and so waits a third as often.
fn search(entries: Entries<'_>, among: Range<usize>, before: impl Fn(usize) -> Result<bool>) -> Result<usize> {
    let Range { start: mut low, end: mut high } = among;
    let mut fetched = 0;
    while low < high {
        if fetched == 0 && high - low >= FETCH_TOGETHER {
            for part in 1..FETCH_TOGETHER {
                entries.fetch(low + (high - low) * part / FETCH_TOGETHER, PROBE_LEN);
            }
            fetched = FETCH_TOGETHER.ilog2();
        }
        fetched = fetched.saturating_sub(1);
        let middle = low.midpoint(high);
        if before(middle)? { low = middle + 1 } else { high = middle }
    }
    Ok(low)
}

/// Returns the value of an entry from its stored bytes; for a difference, `whole` is the value it is against.
fn put_together(entry: &Entry, stored: &[u8], whole: &[u8]) -> Result<Bytes, Corruption> {
    if !entry.difference {
        return Ok(Bytes::copy_from(stored));
    }
    // Versions of a record mostly have the same length: then one allocation is enough.
    let mut value = Vec::with_capacity(whole.len());
    delta::apply(whole, stored, &mut value)?;
    Ok(Bytes::from(value))
}

/// Returns the entry whose value the difference of another is against, the first of its run; for a whole value, the
/// entry itself.
fn whole_before(entries: Entries<'_>, at: usize, decoded: &Decoded) -> Result<Decoded> {
    let Some(distance) = decoded.entry.follower else { return Ok(decoded.clone()) };
    let wrong = || entries.wrong(Corruption { offset: 0, what: "a whole value before a difference" });
    let first = entries.bare(at.checked_sub(usize::from(distance)).ok_or_else(wrong)?)?;
    if first.entry.difference { Err(wrong()) } else { Ok(first) }
}
