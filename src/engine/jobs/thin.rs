//! Thinning of the timeline: old commits are sampled, one in each second.

use std::sync::Arc;

use crate::{
    base::{Error, FileNumber, Micros, Result, Seqno, TIMELINE},
    engine::{
        Engine,
        files::{runs::RunCursor, tree::SegmentHandle},
        timeline::{CHUNK, EXACT_MIN, SAMPLE, Timeline, corrupt, follows, pack, read_stamps, stamp_segment},
    },
    manifest::{Change, Edit},
    memtable::Stamp,
    merge::{Direction, Source, Tombstones},
    segment::{SegmentMeta, SegmentWriter},
};

/// Segments that are thinned together; fewer, if they hold a quarter of the bytes allowed.
const THIN_MIN: usize = 4;

/// Divisor of the live data: without history to keep, the exact part of the timeline may take that share of it.
const TIMELINE_SHARE: u64 = 16;

/// Writes segments of the timeline, with a few commits in memory at a time.
struct StampWriter<'a> {
    engine: &'a Engine,
    made: &'a mut Vec<FileNumber>,
    writer: Option<SegmentWriter>,
    chunk: Vec<Stamp>,
    segments: Vec<SegmentMeta>,
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
            None => self.writer.insert(new_segment(self.engine, first, self.made)?),
        };
        for (entry, key, value) in pack(&self.chunk) {
            writer.add(&entry, &key, &value)?;
        }
        self.chunk.clear();
        Ok(())
    }

    /// Ends the segment; later commits go to another one.
    fn cut(&mut self) -> Result<()> {
        self.write_chunk()?;
        if let Some(writer) = self.writer.take() {
            self.segments.push(writer.finish(&Tombstones::default(), |_| false)?);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<SegmentMeta>> {
        self.cut()?;
        Ok(self.segments)
    }
}

fn new_segment(engine: &Engine, first: &Stamp, made: &mut Vec<FileNumber>) -> Result<SegmentWriter> {
    let number = engine.files.take_number();
    made.push(number);
    stamp_segment(&engine.ctx, &*engine.ctx.dir, number, first)
}

/// Thins the oldest part of the timeline to one commit in each second; returns `false` if there is not enough of it.
/// With `all`, rewrites all of it as one sampled and one exact segment.
pub(super) fn thin_timeline(engine: &Engine, all: bool) -> Result<bool> {
    let current = engine.files.current();
    let Some(keyspace) = current.version.keyspaces.get(&TIMELINE) else { return Ok(false) };
    let timeline = Timeline::new(&current);
    let exact_from = exact_upto(engine, &timeline)?;
    let summary = |handle: &Arc<SegmentHandle>| handle.meta.summary.clone();
    let is_sample = |handle: &&Arc<SegmentHandle>| summary(handle).min_seqno < keyspace.horizon;
    let is_old = |handle: &&Arc<SegmentHandle>| {
        // Its last entry may hold commits above `max_seqno`.
        let next =
            timeline.segments.iter().map(|next| summary(next).min_seqno).find(|n| *n > summary(handle).max_seqno);
        next.is_some_and(|next| next <= exact_from)
    };
    let inputs: Vec<_> = if all {
        timeline.segments.clone()
    } else {
        let (samples, exact): (Vec<_>, Vec<_>) =
            timeline.segments.iter().filter(is_old).cloned().partition(|t| is_sample(&t));
        let bytes: u64 = exact.iter().map(|handle| handle.meta.file_len).sum();
        if exact.len() < THIN_MIN && bytes < engine.ctx.options.limits.timeline_bytes / 4 {
            return Ok(false);
        }
        if samples.len() >= THIN_MIN { samples.into_iter().chain(exact).collect() } else { exact }
    };
    // Otherwise everything that may be sampled is sampled already.
    let begins_before = |handle: &Arc<SegmentHandle>| handle.meta.summary.min_seqno < exact_from;
    if exact_from <= keyspace.horizon || !inputs.iter().any(begins_before) {
        return Ok(false);
    }
    let mut made = Vec::new();
    let thinned = write_thinned(engine, &inputs, exact_from, &mut made).and_then(|thinned| {
        engine.files.sync_names()?;
        Ok(thinned)
    });
    let made = made.into();
    let (segments, horizon) = thinned.inspect_err(|_| engine.files.discard(&made))?;
    let removed = inputs.iter().map(|handle| Change::Remove { keyspace: TIMELINE, number: handle.meta.number });
    let mut edit = Edit::new(removed);
    let level = engine.ctx.options.shape().level_max.try_into().unwrap_or(0);
    for segment in segments {
        edit.push(Change::Add { level, segment });
    }
    edit.push(Change::Watermarks { keyspace: TIMELINE, vanished: Seqno(0), horizon, expired_upto: Micros::ZERO });
    edit.push(engine.files.numbers_taken());
    let mut editing = engine.files.edit();
    engine.health.check_writable()?;
    let version = editing.commit(&edit, &made)?;
    editing.install(&version, None, None);
    Ok(true)
}

/// Returns the seqno from which on every commit must be recorded.
fn exact_upto(engine: &Engine, timeline: &Timeline) -> Result<Seqno> {
    let version = &timeline.current.version;
    let windows = version.keyspaces.values().map(|keyspace| engine.catalogue.policy_of(keyspace).window());
    let longest = windows.max().unwrap_or(Micros::ZERO);
    let pinned = version.pins.values().map(|pin| pin.time).min();
    let from = engine.now().saturating_sub(longest.max(EXACT_MIN)).min(pinned.unwrap_or(Micros::MAX));
    let by_time = timeline.at_time(from)?.map_or(Seqno(0), |stamp| stamp.seqno);
    if longest > Micros::ZERO || pinned.is_some() {
        return Ok(by_time);
    }
    // Without history to keep, the timeline stays small beside the live data.
    let segments = version.keyspaces.values().filter(|keyspace| keyspace.id != TIMELINE);
    let live: u64 = segments.flat_map(|keyspace| keyspace.main()).map(|segment| segment.file_len).sum();
    let mut room = engine.ctx.options.limits.timeline_bytes.max(live / TIMELINE_SHARE);
    let fits = |handle: &&Arc<SegmentHandle>| {
        let before = room;
        room = room.saturating_sub(handle.meta.file_len);
        before > 0
    };
    let kept = timeline.segments.iter().rev().take_while(fits).last();
    Ok(kept.map_or(Seqno(0), |oldest| oldest.meta.summary.min_seqno).max(by_time))
}

/// Rewrites segments of the timeline: before `exact_from` one commit in each second, from then on all of them. Returns
/// the segments, and the seqno from which on all commits are recorded.
fn write_thinned(
    engine: &Engine,
    inputs: &[Arc<SegmentHandle>],
    exact_from: Seqno,
    made: &mut Vec<FileNumber>,
) -> Result<(Vec<SegmentMeta>, Seqno)> {
    let mut cursor = RunCursor::new(inputs.to_vec(), Direction::Forward, ());
    cursor.seek(Some(&[]))?;
    let mut out = StampWriter { engine, made, writer: None, chunk: Vec::new(), segments: Vec::new() };
    let (mut sampled, mut horizon) = (None, Seqno(0));
    let (mut is_exact, mut last) = (false, None::<Stamp>);
    while cursor.entry().is_some() {
        for stamp in read_stamps(&cursor)? {
            // Each entry has been checked by itself; if they are out of order, the files are damaged.
            if last.replace(stamp).is_some_and(|last| !follows(&last, &stamp)) {
                return Err(corrupt(&cursor, "commits of the timeline in order"));
            }
            if stamp.seqno < exact_from {
                horizon = stamp.seqno.next();
                if sampled.is_some_and(|last: Micros| stamp.time < last.saturating_add(SAMPLE)) {
                    continue;
                }
                sampled = Some(stamp.time);
            } else if !std::mem::replace(&mut is_exact, true) {
                out.cut()?;
            }
            out.add(stamp)?;
        }
        cursor.advance()?;
        if engine.health.is_stopping() {
            return Err(Error::Closed);
        }
    }
    Ok((out.finish()?, horizon))
}
