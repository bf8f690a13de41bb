//! Timeline: which commit happened when.
//!
//! ```text
//!   memtables            the newest commits, one stamp each
//!        ▼ flush
//!   keyspace 1           key: seqno of a commit (u64, big-endian) · value: that commit and the next ones, packed
//!        ▼ older than an hour, the longest window and the oldest pin
//!                        one commit in each second
//! ```
//!
//! The stamps of a memtable are flushed in the same edit as its entries, so the timeline is as durable as the commits
//! that it records. It is exact from the horizon of its keyspace on, and a sample before that. Rule C2 of
//! `docs/versions.md`.

use std::{collections::VecDeque, ops::Range, path::Path, sync::Arc};

use super::{
    context::Context,
    files::{runs::RunCursor, superversion::SuperVersion, tree::SegmentHandle},
};
use crate::{
    base::{Corruption, Error, FileNumber, Kind, Micros, Result, Seqno, TIMELINE},
    env::Dir,
    format::{Reader, Writer},
    memtable::{Memtable, Stamp},
    merge::{Direction, Source, Tombstones, step},
    segment::{Entry, PointIndex, Purpose, SegmentMeta, SegmentWriter},
};

/// Commits in one entry.
pub(super) const CHUNK: usize = 256;

/// Shortest time for which the timeline is exact, in microseconds.
pub(super) const EXACT_MIN: Micros = Micros(3_600_000_000);

/// Distance of the samples before that, in microseconds.
pub(super) const SAMPLE: Micros = Micros(1_000_000);

/// Packs commits into entries, in order: each with its key and value.
pub(super) fn pack(stamps: &[Stamp]) -> impl Iterator<Item = (Entry, [u8; 8], Vec<u8>)> + '_ {
    stamps.chunks(CHUNK).filter_map(|chunk| {
        let first = chunk.first()?;
        let mut out = Writer::default();
        out.varint(chunk.len() as u64);
        out.varint(first.time.0);
        out.varint(u64::from(first.writes));
        for (before, stamp) in chunk.iter().zip(chunk.iter().skip(1)) {
            assert!(follows(before, stamp), "{stamp:?} behind {before:?} (C2)");
            out.varint(stamp.seqno.0 - before.seqno.0);
            out.varint(stamp.time.0 - before.time.0);
            out.varint(u64::from(stamp.writes));
        }
        let entry = Entry { time: Some(first.time), ..Entry::new(Kind::Put, first.seqno) };
        Some((entry, first.seqno.0.to_be_bytes(), out.into_bytes()))
    })
}

/// Returns whether a commit may follow another: seqnos grow, and times never go back.
pub(super) fn follows(before: &Stamp, stamp: &Stamp) -> bool {
    before.seqno < stamp.seqno && before.time <= stamp.time
}

/// Reads the commits of the entry that a cursor is at; none at the end.
pub(super) fn read_stamps(cursor: &RunCursor) -> Result<Vec<Stamp>> {
    let Some(entry) = cursor.entry() else { return Ok(Vec::new()) };
    unpack(entry.key, entry.value).map_err(|bad| corrupt(cursor, bad.what))
}

/// Returns the error for a file of the timeline that does not hold what was expected.
#[cold]
pub(super) fn corrupt(cursor: &RunCursor, what: &'static str) -> Error {
    Corruption { offset: 0, what }.of(cursor.file().unwrap_or(Path::new("")), 0)
}

/// Unpacks the commits of one entry.
fn unpack(key: &[u8], value: &[u8]) -> Result<Vec<Stamp>, Corruption> {
    let mut reader = Reader::new(value);
    let bad = || Corruption { offset: 0, what: "commits of the timeline" };
    let first = key.try_into().map(u64::from_be_bytes).map(Seqno).map_err(|_| bad())?;
    let count = reader.length("commits")?;
    let mut stamps: Vec<Stamp> = Vec::new();
    for _ in 0..count {
        // The first commit stands as it is, every other one as its distance from the one before.
        let (seqno, time) = match stamps.last() {
            None => (Some(first), Some(Micros(reader.varint("time of a commit")?))),
            Some(before) => (
                before.seqno.checked_add(reader.varint("seqno of a commit")?),
                before.time.checked_add(Micros(reader.varint("time of a commit")?)),
            ),
        };
        let (seqno, time) = seqno.zip(time).ok_or_else(bad)?;
        let writes = u32::try_from(reader.varint("operations of a commit")?).map_err(|_| bad())?;
        stamps.push(Stamp { seqno, time, writes });
    }
    reader.finish("end of the commits")?;
    if stamps.is_empty() { Err(bad()) } else { Ok(stamps) }
}

/// Returns the newer of a commit and a decision.
fn newer(commit: Option<Stamp>, decided: Option<(Seqno, Micros)>) -> Option<Stamp> {
    let decided = decided.map(|(seqno, time)| Stamp { seqno, time, writes: 0 });
    commit.into_iter().chain(decided).max_by_key(|stamp| stamp.seqno)
}

/// Reader of the timeline of a superversion.
#[derive(Debug)]
pub(super) struct Timeline {
    pub(super) current: Arc<SuperVersion>,
    /// Segments of the timeline, oldest first; they do not overlap.
    pub(super) segments: Vec<Arc<SegmentHandle>>,
}

impl Timeline {
    pub(super) fn new(current: &Arc<SuperVersion>) -> Self {
        let mut segments: Vec<_> =
            current.trees.get(&TIMELINE).into_iter().flat_map(|tree| tree.segments().cloned()).collect();
        segments.sort_by(|a, b| a.meta.summary.span.start.cmp(&b.meta.summary.span.start));
        Self { current: Arc::clone(current), segments }
    }

    /// Returns the seqno from which on every commit is recorded.
    pub(super) fn exact_from(&self) -> Seqno {
        self.current.version.keyspaces.get(&TIMELINE).map_or(Seqno(0), |keyspace| keyspace.horizon)
    }

    /// Returns what was newest at a seqno: a commit, or a decision on a keyspace or pin, which has no writes.
    pub(super) fn at_seqno(&self, seqno: Seqno) -> Result<Option<Stamp>> {
        let decided = self.current.version.decisions.at_seqno(seqno);
        Ok(newer(self.commit_at_seqno(seqno)?, decided))
    }

    fn commit_at_seqno(&self, seqno: Seqno) -> Result<Option<Stamp>> {
        for memtable in self.current.memtables(seqno) {
            let found = memtable.with_stamps(|stamps| {
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

    /// Returns the exclusive bound on how much later than its stamp a seqno may have been committed; 0 if the stamp is
    /// exact.
    pub(super) fn slack(&self, at: Option<Stamp>, seqno: Seqno) -> Micros {
        let between = at.is_some_and(|stamp| stamp.seqno < seqno);
        if between && seqno < self.exact_from() {
            SAMPLE
        } else if between && !self.current.version.decisions.reach(seqno) {
            // It may have been a decision that is no longer recorded: as late as just before the next commit.
            let next = self.again().from(seqno).and_then(|mut commits| commits.next()).ok().flatten();
            next.map_or(Micros::MAX, |next| next.time)
                .saturating_sub(at.map_or(Micros::ZERO, |stamp| stamp.time))
                .saturating_add(Micros(1))
        } else {
            Micros::ZERO
        }
    }

    /// Clones the timeline, to walk through it.
    fn again(&self) -> Self {
        Self { current: Arc::clone(&self.current), segments: self.segments.clone() }
    }

    /// Returns when a seqno was committed. Where only samples are left, the result is never too early, and too late by
    /// no more than the time between two samples.
    pub(super) fn time_of(&self, seqno: Seqno) -> Option<Micros> {
        let at = self.at_seqno(seqno).ok()?;
        if let Some(stamp) = at.filter(|stamp| stamp.seqno == seqno || seqno >= self.exact_from()) {
            return Some(stamp.time);
        }
        let next = self.again().from(seqno).ok()?.next().ok()?.map(|stamp| stamp.time);
        // A later commit would have been kept as a sample itself.
        let upto = at.map(|stamp| stamp.time.saturating_add(SAMPLE));
        next.into_iter().chain(upto).min()
    }

    /// Returns what was newest at a time, as [`Timeline::at_seqno`] does for a seqno.
    pub(super) fn at_time(&self, time: Micros) -> Result<Option<Stamp>> {
        let decided = self.current.version.decisions.at_time(time);
        Ok(newer(self.commit_at_time(time)?, decided))
    }

    fn commit_at_time(&self, time: Micros) -> Result<Option<Stamp>> {
        for memtable in self.current.memtables(Seqno::MAX) {
            let found = memtable.with_stamps(|stamps| {
                let after = stamps.partition_point(|stamp| stamp.time <= time);
                stamps.get(after.checked_sub(1)?).copied()
            });
            if found.is_some() {
                return Ok(found);
            }
        }
        // The last segment that begins at or before the time, then the entry in it, by binary search over the seqnos.
        let begins = |handle: &Arc<SegmentHandle>| handle.meta.summary.times.map_or(Micros::ZERO, |times| times.oldest);
        let after = self.segments.partition_point(|handle| begins(handle) <= time);
        let Some(handle) = after.checked_sub(1).and_then(|at| self.segments.get(at)) else { return Ok(None) };
        // The first entry of the segment begins at or before the time.
        let (mut low, mut high) = (handle.meta.summary.min_seqno, handle.meta.summary.max_seqno);
        while low < high {
            let middle = Seqno(low.0 + (high.0 - low.0).div_ceil(2));
            match self.chunk_at(middle)?.first() {
                Some(first) if first.time <= time => low = middle,
                Some(first) => high = first.seqno.prev().clamp(low, middle.prev()),
                None => high = middle.prev(),
            }
        }
        let chunk = self.chunk_at(low)?;
        Ok(chunk.into_iter().rfind(|stamp| stamp.time <= time))
    }

    /// Returns the commits of the entry that a seqno belongs to; none before the first.
    fn chunk_at(&self, seqno: Seqno) -> Result<Vec<Stamp>> {
        let mut cursor = RunCursor::new(self.segments.clone(), Direction::Backward, ());
        match seqno.checked_add(1) {
            Some(next) => cursor.seek(Some(&next.0.to_be_bytes()))?,
            None => cursor.seek(None)?,
        }
        read_stamps(&cursor)
    }

    /// Walks the commits from a seqno on, oldest first.
    pub(super) fn from(self, seqno: Seqno) -> Result<CommitWalk> {
        let mut cursor = RunCursor::new(self.segments.clone(), Direction::Forward, ());
        let first = self.chunk_at(seqno)?;
        let key = first.first().map_or(seqno, |stamp| stamp.seqno);
        cursor.seek(Some(&key.0.to_be_bytes()))?;
        let mut memtables = VecDeque::new();
        for memtable in self.current.memtables(Seqno::MAX) {
            let left = memtable.with_stamps(|stamps| stamps.partition_point(|stamp| stamp.seqno < seqno)..stamps.len());
            memtables.push_front((Arc::clone(memtable), left));
        }
        Ok(CommitWalk { cursor, ready: VecDeque::new(), memtables, from: seqno })
    }
}

/// A walk over commits, oldest first.
#[derive(Debug)]
pub(crate) struct CommitWalk {
    cursor: RunCursor,
    ready: VecDeque<Stamp>,
    /// Memtables, oldest first, with the range of stamps left in each. They come after the segments; more stamps may be
    /// appended after the range.
    memtables: VecDeque<(Arc<Memtable>, Range<usize>)>,
    from: Seqno,
}

impl CommitWalk {
    /// Returns the next commit.
    pub(crate) fn next(&mut self) -> Result<Option<Stamp>> {
        loop {
            if let Some(stamp) = self.ready.pop_front() {
                return Ok(Some(stamp));
            }
            step();
            let stamps = if self.cursor.entry().is_some() {
                let stamps = read_stamps(&self.cursor)?;
                self.cursor.advance()?;
                stamps
            } else if let Some((memtable, left)) = self.memtables.front_mut() {
                let some = left.start..left.end.min(left.start + CHUNK);
                left.start = some.end;
                let stamps = memtable.with_stamps(|stamps| stamps.get(some).unwrap_or_default().to_vec());
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

/// Writes stamps to a segment of the timeline in `dir`; `None` if there are none.
pub(super) fn write_stamps(
    ctx: &Context,
    dir: &dyn Dir,
    number: FileNumber,
    stamps: &[Stamp],
    made: &mut Vec<FileNumber>,
) -> Result<Option<SegmentMeta>> {
    let Some(first) = stamps.first() else { return Ok(None) };
    made.push(number);
    let mut writer = stamp_segment(ctx, dir, number, first)?;
    for (entry, key, value) in pack(stamps) {
        writer.add(&entry, &key, &value)?;
    }
    writer.finish(&Tombstones::default(), |_| false).map(Some)
}

/// Creates a segment of the timeline, for commits from `first` on.
pub(super) fn stamp_segment(ctx: &Context, dir: &dyn Dir, number: FileNumber, first: &Stamp) -> Result<SegmentWriter> {
    let purpose = Purpose {
        keyspace: TIMELINE,
        base: first.seqno,
        time_base: Some(first.time),
        run: None,
        index: PointIndex::Never,
        hash_seed: ctx.database_id,
    };
    SegmentWriter::create(dir, number, ctx.env.entropy(), purpose)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_come_back_as_they_were_packed() {
        let stamps: Vec<Stamp> = (1..1000u64)
            .map(|i| Stamp { seqno: Seqno(i * 3), time: Micros(i * i), writes: u32::try_from(i % 7).unwrap() })
            .collect();
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
