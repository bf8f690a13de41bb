//! Which commit happened when.
//!
//! ```text
//!   memtables            the newest commits, one stamp each
//!        ▼ flush
//!   keyspace 1           key: seqno of a commit (u64, highest byte first) · value: that commit and those behind it, packed
//!        ▼ an hour later, or behind the longest window and the oldest pin
//!                        one commit in each second
//! ```
//!
//! The stamps of a memtable are flushed in the edit of its entries, so the timeline is as durable as what it tells of. It is exact from the
//! horizon of its keyspace on; before that it is a sample. Rule C2 of `docs/versions.md`.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use super::{
    Engine,
    scan::RunCursor,
    superversion::{SuperVersion, Table},
};
use crate::{
    base::{Corruption, Error, Kind, Result, Seqno, TIMELINE},
    env::Dir,
    format::{Reader, Writer, name},
    manifest::{Change, Edit},
    memtable::{Memtable, Stamp},
    merge::{Direction, Source, Tombstones, step},
    segment::{Entry, Finished, PointIndex, Purpose, SegmentWriter},
};

/// Commits told by one entry.
const CHUNK: usize = 256;

/// The timeline is exact for this long at least, in microseconds; before that it is a sample with this distance.
const EXACT_MIN: u64 = 3_600_000_000;
const SAMPLE: u64 = 1_000_000;

/// So many segments are thinned out together, or so few of a quarter of the bytes that are let grow.
const THIN_MIN: usize = 4;

/// Where nobody keeps a past, the timeline is exact for no more bytes than this part of the live data.
const TIMELINE_SHARE: u64 = 16;

/// How far ahead an answer about the present is made durable, in microseconds. Less than the slack of the clock.
const AHEAD: u64 = 200_000;

/// Packs commits: key and value of each entry, in order.
pub(super) fn pack(stamps: &[Stamp]) -> impl Iterator<Item = (Entry, [u8; 8], Vec<u8>)> + '_ {
    stamps.chunks(CHUNK).filter_map(|chunk| {
        let first = chunk.first()?;
        let mut out = Writer::default();
        out.varint(chunk.len() as u64);
        out.varint(first.time);
        out.varint(u64::from(first.writes));
        for (before, stamp) in chunk.iter().zip(chunk.iter().skip(1)) {
            out.varint(stamp.seqno.saturating_sub(before.seqno));
            out.varint(stamp.time.saturating_sub(before.time));
            out.varint(u64::from(stamp.writes));
        }
        let entry = Entry { time: Some(first.time), ..Entry::new(Kind::Put, first.seqno) };
        Some((entry, first.seqno.to_be_bytes(), out.into_bytes()))
    })
}

/// The commits of one entry.
fn unpack(key: &[u8], value: &[u8]) -> Result<Vec<Stamp>, Corruption> {
    let mut reader = Reader::new(value);
    let bad = || Corruption { offset: 0, what: "commits of the timeline" };
    let first = key.try_into().map(u64::from_be_bytes).map_err(|_| bad())?;
    let count = reader.length("commits")?;
    let mut stamps: Vec<Stamp> = Vec::new();
    for _ in 0..count {
        let (mut seqno, mut time) = (first, reader.varint("time of a commit")?);
        if let Some(before) = stamps.last() {
            seqno = before.seqno.checked_add(time).ok_or_else(bad)?;
            time = before.time.checked_add(reader.varint("time of a commit")?).ok_or_else(bad)?;
        }
        let writes = u32::try_from(reader.varint("operations of a commit")?).map_err(|_| bad())?;
        stamps.push(Stamp { seqno, time, writes });
    }
    reader.finish("end of the commits")?;
    if stamps.is_empty() { Err(bad()) } else { Ok(stamps) }
}

/// The newer one of a commit and a decision.
fn newer(commit: Option<Stamp>, decided: Option<(u64, u64)>) -> Option<Stamp> {
    let decided = decided.map(|(seqno, time)| Stamp { seqno, time, writes: 0 });
    commit.into_iter().chain(decided).max_by_key(|stamp| stamp.seqno)
}

/// Reads the timeline of a superversion.
#[derive(Debug)]
pub(super) struct Timeline {
    current: Arc<SuperVersion>,
    /// Its segments, oldest first: they follow each other.
    tables: Vec<Arc<Table>>,
}

impl Timeline {
    pub(super) fn new(current: &Arc<SuperVersion>) -> Self {
        let mut tables: Vec<_> =
            current.trees.get(&TIMELINE).into_iter().flat_map(|tree| tree.tables().cloned()).collect();
        tables.sort_by(|a, b| a.meta.summary.span.start.cmp(&b.meta.summary.span.start));
        Self { current: Arc::clone(current), tables }
    }

    /// From this seqno on every commit is told.
    pub(super) fn exact_from(&self) -> u64 {
        self.current.version.keyspaces.get(&TIMELINE).map_or(0, |keyspace| keyspace.horizon)
    }

    /// What was newest at a seqno: a commit, or a decision on a keyspace or pin, which is told with no operation.
    pub(super) fn at_seqno(&self, seqno: u64) -> Result<Option<Stamp>> {
        let decided = self.current.version.decisions.at_seqno(seqno);
        Ok(newer(self.commit_at_seqno(seqno)?, decided))
    }

    fn commit_at_seqno(&self, seqno: u64) -> Result<Option<Stamp>> {
        for table in self.current.memtables(seqno) {
            let found = table.with_stamps(|stamps| {
                let after = stamps.partition_point(|stamp| stamp.seqno <= seqno);
                stamps.get(after.checked_sub(1)?).copied()
            });
            if found.is_some() {
                return Ok(found);
            }
        }
        let chunk = self.chunk_at(seqno)?;
        Ok(chunk.into_iter().rfind(|stamp| stamp.seqno <= seqno))
    }

    /// How much later than its stamp a seqno may have been committed: less than this.
    pub(super) fn slack(&self, at: Option<Stamp>, seqno: u64) -> u64 {
        let between = at.is_some_and(|stamp| stamp.seqno < seqno);
        if between && seqno < self.exact_from() {
            SAMPLE
        } else if between && !self.current.version.decisions.reach(seqno) {
            // It may have been a decision that nobody remembers: as late as just before the next commit.
            let next = self.again().from(seqno).and_then(|mut commits| commits.next()).ok().flatten();
            next.map_or(u64::MAX, |next| next.time).saturating_sub(at.map_or(0, |stamp| stamp.time)).saturating_add(1)
        } else {
            0
        }
    }

    /// The same once more, to walk through it.
    fn again(&self) -> Self {
        Self { current: Arc::clone(&self.current), tables: self.tables.clone() }
    }

    /// When a seqno was committed; where only samples are left, no earlier, and no later than the time between two of them.
    pub(super) fn time_of(&self, seqno: u64) -> Option<u64> {
        let at = self.at_seqno(seqno).ok()?;
        if let Some(stamp) = at.filter(|stamp| stamp.seqno == seqno || seqno >= self.exact_from()) {
            return Some(stamp.time);
        }
        let next = self.again().from(seqno).ok()?.next().ok()?.map(|stamp| stamp.time);
        // Else it would have been kept itself.
        let upto = at.map(|stamp| stamp.time.saturating_add(SAMPLE));
        next.into_iter().chain(upto).min()
    }

    /// What was newest at a time, as [`Timeline::at_seqno`] tells it.
    pub(super) fn at_time(&self, time: u64) -> Result<Option<Stamp>> {
        let decided = self.current.version.decisions.at_time(time);
        Ok(newer(self.commit_at_time(time)?, decided))
    }

    fn commit_at_time(&self, time: u64) -> Result<Option<Stamp>> {
        for table in self.current.memtables(u64::MAX) {
            let found = table.with_stamps(|stamps| {
                let after = stamps.partition_point(|stamp| stamp.time <= time);
                stamps.get(after.checked_sub(1)?).copied()
            });
            if found.is_some() {
                return Ok(found);
            }
        }
        // The segment that begins at or before the time, then the entry in it, by halves of the seqnos between.
        let begins = |table: &Arc<Table>| table.meta.summary.times.map_or(0, |times| times.oldest);
        let after = self.tables.partition_point(|table| begins(table) <= time);
        let Some(table) = after.checked_sub(1).and_then(|at| self.tables.get(at)) else { return Ok(None) };
        // The first entry of the segment begins at or before the time.
        let (mut low, mut high) = (table.meta.summary.min_seqno, table.meta.summary.max_seqno);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            match self.chunk_at(middle)?.first() {
                Some(first) if first.time <= time => low = middle,
                Some(first) => high = first.seqno.saturating_sub(1).clamp(low, middle - 1),
                None => high = middle - 1,
            }
        }
        let chunk = self.chunk_at(low)?;
        Ok(chunk.into_iter().rfind(|stamp| stamp.time <= time))
    }

    /// The commits of the entry that a seqno belongs to; none before the first.
    fn chunk_at(&self, seqno: u64) -> Result<Vec<Stamp>> {
        let mut cursor = RunCursor::new(self.tables.clone(), Direction::Backward);
        match seqno.checked_add(1) {
            Some(next) => cursor.seek(Some(&next.to_be_bytes()))?,
            None => cursor.seek(None)?,
        }
        self.read(&cursor)
    }

    fn read(&self, cursor: &RunCursor) -> Result<Vec<Stamp>> {
        let Some(entry) = cursor.entry() else { return Ok(Vec::new()) };
        let path = || self.tables.first().map_or_else(String::new, |table| name::segment(table.meta.number));
        unpack(entry.key, entry.value).map_err(|bad| bad.of(std::path::Path::new(&path()), 0))
    }

    /// The commits from a seqno on, oldest first.
    pub(super) fn from(self, seqno: u64) -> Result<Commits> {
        let mut cursor = RunCursor::new(self.tables.clone(), Direction::Forward);
        let first = self.chunk_at(seqno)?;
        let key = first.first().map_or(seqno, |stamp| stamp.seqno);
        cursor.seek(Some(&key.to_be_bytes()))?;
        let mut memtables = VecDeque::new();
        for table in self.current.memtables(u64::MAX) {
            let left = table.with_stamps(|stamps| stamps.partition_point(|stamp| stamp.seqno < seqno)..stamps.len());
            memtables.push_front((Arc::clone(table), left));
        }
        Ok(Commits { timeline: self, cursor, ready: VecDeque::new(), memtables, from: seqno })
    }
}

/// Walks over commits.
#[derive(Debug)]
pub(crate) struct Commits {
    timeline: Timeline,
    cursor: RunCursor,
    ready: VecDeque<Stamp>,
    /// Those that are in memory come last: the tables, oldest first, and which of their commits are left. More may come
    /// behind them.
    memtables: VecDeque<(Arc<Memtable>, Range<usize>)>,
    from: u64,
}

impl Commits {
    /// The next commit.
    pub(crate) fn next(&mut self) -> Result<Option<Stamp>> {
        loop {
            if let Some(stamp) = self.ready.pop_front() {
                return Ok(Some(stamp));
            }
            step();
            let stamps = if self.cursor.entry().is_some() {
                let stamps = self.timeline.read(&self.cursor)?;
                self.cursor.advance()?;
                stamps
            } else if let Some((table, left)) = self.memtables.front_mut() {
                let some = left.start..left.end.min(left.start + CHUNK);
                left.start = some.end;
                let stamps = table.with_stamps(|stamps| stamps.get(some).unwrap_or_default().to_vec());
                if left.start >= left.end {
                    self.memtables.pop_front();
                }
                stamps
            } else {
                return Ok(None);
            };
            self.ready.extend(stamps.into_iter().filter(|stamp| stamp.seqno >= self.from));
        }
    }
}

/// Writes segments of the timeline, a few commits in memory at a time.
struct StampWriter<'a> {
    engine: &'a Engine,
    made: &'a mut Vec<u64>,
    writer: Option<SegmentWriter>,
    chunk: Vec<Stamp>,
    segments: Vec<Finished>,
}

impl StampWriter<'_> {
    fn add(&mut self, stamp: Stamp) -> Result<()> {
        self.chunk.push(stamp);
        if self.chunk.len() == CHUNK { self.write_chunk() } else { Ok(()) }
    }

    fn write_chunk(&mut self) -> Result<()> {
        let Some(first) = self.chunk.first() else { return Ok(()) };
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => self.writer.insert(self.engine.new_stamp_segment(first, self.made)?),
        };
        for (entry, key, value) in pack(&self.chunk) {
            writer.add(&entry, &key, &value)?;
        }
        self.chunk.clear();
        Ok(())
    }

    /// Ends the segment: what follows goes to another one.
    fn cut(&mut self) -> Result<()> {
        self.write_chunk()?;
        if let Some(writer) = self.writer.take() {
            self.segments.push(writer.finish(&Tombstones::default(), |_| false)?);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<Finished>> {
        self.cut()?;
        Ok(self.segments)
    }
}

impl Engine {
    /// Writes down when commits happened, for a database in some directory.
    pub(super) fn write_stamps(
        &self,
        dir: &dyn Dir,
        (stamps, number): (&[Stamp], u64),
        made: &mut Vec<u64>,
    ) -> Result<Option<Finished>> {
        let Some(first) = stamps.first() else { return Ok(None) };
        made.push(number);
        let mut writer = self.stamp_segment(dir, number, first)?;
        for (entry, key, value) in pack(stamps) {
            writer.add(&entry, &key, &value)?;
        }
        writer.finish(&Tombstones::default(), |_| false).map(Some)
    }

    fn new_stamp_segment(&self, first: &Stamp, made: &mut Vec<u64>) -> Result<SegmentWriter> {
        let number = self.next_file.fetch_add(1, Ordering::Relaxed);
        made.push(number);
        self.stamp_segment(&*self.dir, number, first)
    }

    fn stamp_segment(&self, dir: &dyn Dir, number: u64, first: &Stamp) -> Result<SegmentWriter> {
        let purpose = Purpose {
            keyspace: TIMELINE,
            base: first.seqno,
            time_base: Some(first.time),
            run: None,
            index: PointIndex::Never,
            hash_seed: self.database_id,
        };
        SegmentWriter::create(dir, (number, self.env.entropy()), purpose)
    }

    /// Walks over the commits in `from..=to`; a walk that says where to begin begins there or is refused.
    pub(crate) fn commits(&self, from: Option<u64>) -> Result<Commits> {
        self.check_open()?;
        let timeline = Timeline::new(&self.current());
        let exact = timeline.exact_from();
        match from {
            Some(from) if from < exact => Err(Error::HistoryTrimmed { oldest: Seqno(exact) }),
            from => timeline.from(from.unwrap_or(exact)),
        }
    }

    /// Lets the oldest part of the timeline go, but for one commit in each second; `false` when there is not enough of it. With `all`, all of it
    /// is written anew: one segment that is a sample, and one that is exact.
    pub(super) fn thin_timeline(&self, all: bool) -> Result<bool> {
        let current = self.current();
        let Some(keyspace) = current.version.keyspaces.get(&TIMELINE) else { return Ok(false) };
        let timeline = Timeline::new(&current);
        let exact_from = self.exact_upto(&timeline)?;
        let summary = |table: &Arc<Table>| table.meta.summary.clone();
        let is_sample = |table: &&Arc<Table>| summary(table).min_seqno < keyspace.horizon;
        let is_old = |table: &&Arc<Table>| {
            // Its last entry may tell later commits.
            let next =
                timeline.tables.iter().map(|next| summary(next).min_seqno).find(|n| *n > summary(table).max_seqno);
            next.is_some_and(|next| next <= exact_from)
        };
        let inputs: Vec<_> = if all {
            timeline.tables.clone()
        } else {
            let (samples, exact): (Vec<_>, Vec<_>) =
                timeline.tables.iter().filter(is_old).cloned().partition(|t| is_sample(&t));
            let bytes: u64 = exact.iter().map(|table| table.meta.file_len).sum();
            if exact.len() < THIN_MIN && bytes < self.options.limits.timeline_bytes / 4 {
                return Ok(false);
            }
            if samples.len() >= THIN_MIN { samples.into_iter().chain(exact).collect() } else { exact }
        };
        // Else it is a sample already as far as it may be one.
        let begins_before = |table: &Arc<Table>| table.meta.summary.min_seqno < exact_from;
        if exact_from <= keyspace.horizon || !inputs.iter().any(begins_before) {
            return Ok(false);
        }
        let mut made = Vec::new();
        let thinned = self.write_thinned(&timeline, &inputs, exact_from, &mut made).and_then(|thinned| {
            self.sync_segment_names()?;
            Ok(thinned)
        });
        let (segments, horizon) = thinned.inspect_err(|_| self.discard(&made))?;
        let removed = inputs.iter().map(|table| Change::Remove { keyspace: TIMELINE, number: table.meta.number });
        let mut edit = Edit::new(removed);
        let level = self.options.shape().level_max.try_into().unwrap_or(0);
        for segment in segments {
            edit.push(Change::Add { level, segment });
        }
        edit.push(Change::Marks { keyspace: TIMELINE, vanished: 0, horizon, lapsed: 0 });
        edit.push(Change::NextFile { number: self.next_file.load(Ordering::Relaxed) });
        let mut manifest = self.manifest.lock();
        self.check_writable()?;
        let version = self.commit_edit(&mut manifest, &edit, &made)?;
        self.install(&version, None, None);
        Ok(true)
    }

    /// The seqno from which on every commit has to be told.
    fn exact_upto(&self, timeline: &Timeline) -> Result<u64> {
        let version = &timeline.current.version;
        let windows = version.keyspaces.values().map(|keyspace| self.policy_of(keyspace).window());
        let longest = windows.max().unwrap_or(0);
        let pinned = version.pins.values().map(|pin| pin.time_us).min();
        let from = self.now_us().saturating_sub(longest.max(EXACT_MIN)).min(pinned.unwrap_or(u64::MAX));
        let by_time = timeline.at_time(from)?.map_or(0, |stamp| stamp.seqno);
        if longest > 0 || pinned.is_some() {
            return Ok(by_time);
        }
        // Where nobody keeps a past, what tells of it stays small beside what is there.
        let segments = version.keyspaces.values().filter(|keyspace| keyspace.id != TIMELINE);
        let live: u64 = segments.flat_map(|keyspace| keyspace.main()).map(|segment| segment.file_len).sum();
        let mut room = self.options.limits.timeline_bytes.max(live / TIMELINE_SHARE);
        let fits = |table: &&Arc<Table>| {
            let before = room;
            room = room.saturating_sub(table.meta.file_len);
            before > 0
        };
        let kept = timeline.tables.iter().rev().take_while(fits).last();
        Ok(kept.map_or(0, |oldest| oldest.meta.summary.min_seqno).max(by_time))
    }

    /// Writes segments of the timeline anew: of the commits before `exact_from` one in each second, of the others all. Gives the seqno from which on
    /// all are told.
    fn write_thinned(
        &self,
        timeline: &Timeline,
        inputs: &[Arc<Table>],
        exact_from: u64,
        made: &mut Vec<u64>,
    ) -> Result<(Vec<Finished>, u64)> {
        let mut cursor = RunCursor::new(inputs.to_vec(), Direction::Forward);
        cursor.seek(Some(&[]))?;
        let mut out = StampWriter { engine: self, made, writer: None, chunk: Vec::new(), segments: Vec::new() };
        let (mut sampled, mut horizon) = (None, 0);
        let mut is_exact = false;
        while cursor.entry().is_some() {
            for stamp in timeline.read(&cursor)? {
                if stamp.seqno < exact_from {
                    horizon = stamp.seqno + 1;
                    if sampled.is_some_and(|last: u64| stamp.time < last.saturating_add(SAMPLE)) {
                        continue;
                    }
                    sampled = Some(stamp.time);
                } else if !std::mem::replace(&mut is_exact, true) {
                    out.cut()?;
                }
                out.add(stamp)?;
            }
            cursor.advance()?;
            if self.stopping.load(Ordering::Relaxed) {
                return Err(Error::Closed);
            }
        }
        Ok((out.finish()?, horizon))
    }

    /// Makes the answer for a time last: later commits get later times, also after a crash.
    pub(super) fn fix_time(&self, time: u64) -> Result<()> {
        if time > self.now_us() {
            // A commit may be a little ahead of the clock, which was asked for the same time before.
            let newest = Timeline::new(&self.current()).at_seqno(u64::MAX)?;
            if newest.is_none_or(|newest| time > newest.time) {
                return Err(Error::InTheFuture);
            }
        }
        let newest = self.commit.lock().time_us;
        let floor = time.saturating_add(1);
        if time < newest || self.options.read_only {
            return Ok(());
        }
        self.check_writable()?;
        let mut manifest = self.manifest.lock();
        if manifest.version().time_us < floor {
            // A little ahead, so that not every call has to wait for the disk.
            let time_us = floor.saturating_add(AHEAD);
            let edit = Edit::new([Change::Seqnos { last: 0, next: 0, ceiling: 0, time_us }]);
            let version = self.commit_edit(&mut manifest, &edit, &[])?;
            self.install(&version, None, None);
        }
        let mut commit = self.commit.lock();
        commit.time_floor = commit.time_floor.max(floor);
        Ok(())
    }

    /// The time of the database now, in microseconds.
    pub(crate) fn now_us(&self) -> u64 {
        self.clock.lock().now(self.env.wall_us(), self.env.monotonic_us())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_come_back_as_they_were_packed() {
        let stamps: Vec<Stamp> =
            (1..1000u64).map(|i| Stamp { seqno: i * 3, time: i * i, writes: u32::try_from(i % 7).unwrap() }).collect();
        let mut back = Vec::new();
        for (_, key, value) in pack(&stamps) {
            back.extend(unpack(&key, &value).unwrap());
            for len in 0..value.len() {
                assert!(unpack(&key, &value[..len]).is_err());
            }
        }
        assert_eq!(back, stamps);
    }
}
