//! Choosing the next compaction: pure, from metadata alone.
//!
//! Levelled: level 0 holds the output of flushes, newest first; each deeper level is sorted, its segments do not
//! overlap, and it may be `level_ratio` times as large as the one above. The level furthest over its bound is compacted
//! first.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    base::{FileNumber, KeySpan, KeyspaceId, Micros, Seqno},
    manifest::KeyspaceVersion,
    segment::SegmentMeta,
};

/// Bounds that give the levels of a keyspace their shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Number of segments at which level 0 is over its bound.
    pub(crate) l0_threshold: usize,
    /// How many times larger each level may be than the one above.
    pub(crate) level_ratio: u64,
    /// Bound of level 1, in bytes.
    pub(crate) base_bytes: u64,
    /// Deepest level.
    pub(crate) level_max: usize,
}

/// A compaction to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) keyspace: KeyspaceId,
    /// Inputs, newest first.
    pub(crate) inputs: Vec<Arc<SegmentMeta>>,
    pub(crate) output_level: u8,
    /// Segments outside the task that may hold older entries of its keys.
    pub(crate) below: Vec<Arc<SegmentMeta>>,
    /// Whether the only input just changes its level, without being rewritten.
    pub(crate) just_move: bool,
    /// Whether it only clears out what is dead in its inputs, and no level is over its bound: then it may wait.
    pub(crate) clears_out: bool,
}

/// What the choice in the main tree depends on, beside the shape.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Waste {
    /// Values written at or before this time, in microseconds, may have expired for every reader.
    pub(crate) expiry_cutoff: Option<Micros>,
    /// Whether nothing has been written for a while: then everything dead may be cleared out.
    pub(crate) idle: bool,
}

/// Maximum bytes of segments whose values have all expired that one task drops.
const EXPIRED_BYTES_MAX: u64 = 256 << 20;

/// A task in the history tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HistoryTask {
    /// Drops segments that nothing needs any more.
    Drop(Vec<Arc<SegmentMeta>>),
    /// Merges segments into one run.
    Merge(Vec<Arc<SegmentMeta>>),
}

/// What the choice in the history tier depends on.
#[derive(Clone, Debug)]
pub(crate) struct Aging {
    /// Retention window of the policy in microseconds, and whether nothing but age decides (K7).
    pub(crate) window: Micros,
    pub(crate) only_age_counts: bool,
    /// Time of the database, in microseconds.
    pub(crate) now: Micros,
    /// Registered seqnos, ascending.
    pub(crate) registered: Vec<Seqno>,
}

/// Number of runs in a bucket from which on some of them are merged, if their sizes are alike.
const RUNS_MIN: usize = 4;

/// Number of runs in a bucket from which on the smallest are merged, whatever their sizes.
const RUNS_MAX: usize = 10;

/// Minimum number of tombstones for a compaction of their own: segments with fewer wait for the bounds of their level.
const DEAD_MIN: u64 = 64;

/// Number of steps in which a window ages out: a merge stays inside one of them.
const BUCKETS: u64 = 8;

impl Aging {
    /// Returns whether a segment of the history tier can be dropped as a whole: it left the window, and no reader needs
    /// it.
    fn is_unneeded(&self, keyspace: &KeyspaceVersion, segment: &SegmentMeta) -> bool {
        let history = segment.intervals();
        // A view above a tombstone without an end, but below `vanished`, would take the absence of the tombstone for
        // lost history.
        let end = if history.open {
            history.end.max(keyspace.vanished).max(segment.summary.max_seqno.next())
        } else {
            history.end
        };
        let lowest = segment.summary.lowest_affected.min(segment.summary.min_seqno);
        let at = self.registered.partition_point(|seqno| *seqno < lowest);
        let read = self.registered.get(at).is_some_and(|seqno| *seqno < end);
        self.only_age_counts && self.now.saturating_sub(history.until_max) >= self.window && !read
    }

    /// Returns the runs of the history tier in buckets by age, each run with its segments.
    pub(crate) fn buckets(&self, keyspace: &KeyspaceVersion) -> Vec<Vec<Vec<Arc<SegmentMeta>>>> {
        let mut runs: BTreeMap<FileNumber, Vec<Arc<SegmentMeta>>> = BTreeMap::new();
        for segment in &keyspace.history {
            runs.entry(segment.intervals().run).or_default().push(Arc::clone(segment));
        }
        let mut buckets: BTreeMap<u64, Vec<Vec<Arc<SegmentMeta>>>> = BTreeMap::new();
        let width = (self.window.0 / BUCKETS).max(1);
        for run in runs.into_values() {
            let newest = run.iter().map(|segment| segment.intervals().until_max).max();
            // Every run has a segment.
            let bucket = if self.only_age_counts { newest.unwrap_or(Micros::ZERO).0 / width } else { 0 };
            buckets.entry(bucket).or_default().push(run);
        }
        buckets.into_values().collect()
    }
}

/// Chooses the next task in the history tier of a keyspace: whole segments are dropped before any are merged.
pub(crate) fn pick_history(keyspace: &KeyspaceVersion, aging: &Aging) -> Option<HistoryTask> {
    let gone: Vec<_> =
        keyspace.history.iter().filter(|segment| aging.is_unneeded(keyspace, segment)).cloned().collect();
    if !gone.is_empty() {
        return Some(HistoryTask::Drop(gone));
    }
    let bytes = |run: &Vec<Arc<SegmentMeta>>| run.iter().map(|segment| segment.file_len).sum::<u64>();
    for mut runs in aging.buckets(keyspace) {
        runs.sort_by_key(bytes);
        // Runs of similar size: so each version is rewritten once for each power of the fan-in.
        let alike = runs.windows(RUNS_MIN).position(|window| match window {
            [first, .., last] => bytes(last) <= bytes(first).saturating_mul(RUNS_MIN as u64),
            _ => false,
        });
        let from = alike.or_else(|| (runs.len() >= RUNS_MAX).then_some(0));
        if let Some(from) = from {
            let merged = runs.into_iter().skip(from).take(RUNS_MIN).flatten().collect();
            return Some(HistoryTask::Merge(merged));
        }
    }
    None
}

/// Returns the size of a level in thousandths of its bound.
fn level_score(keyspace: &KeyspaceVersion, level: usize, shape: &Shape) -> u64 {
    let segments = keyspace.level(level);
    if level == 0 {
        return 1000 * segments.len() as u64 / shape.l0_threshold.max(1) as u64;
    }
    let bytes: u64 = segments.iter().map(|segment| segment.file_len).sum();
    let power = u32::try_from(level - 1).unwrap_or(u32::MAX);
    let bound = shape.base_bytes.saturating_mul(shape.level_ratio.saturating_pow(power)).max(1);
    bytes.saturating_mul(1000) / bound
}

/// Returns the level of a keyspace that is furthest over its bound, and its score; `None` if all are within.
fn over(keyspace: &KeyspaceVersion, shape: &Shape) -> Option<(usize, u64)> {
    (0..shape.level_max)
        .map(|level| (level, level_score(keyspace, level, shape)))
        .filter(|(_, score)| *score >= 1000)
        .max_by_key(|(level, score)| (*score, std::cmp::Reverse(*level)))
}

/// Returns how urgent the next task of a keyspace is; `None` if there is none.
pub(crate) fn score(keyspace: &KeyspaceVersion, shape: &Shape, waste: Waste) -> Option<u64> {
    let over = over(keyspace, shape).map(|(_, score)| score);
    over.or_else(|| wasteful(keyspace, waste).map(|_| 999))
}

/// Returns a level and its segments that hold dead data: they move down although the level is within its bound, so that
/// what they hide can be dropped and readers need not skip it. More than one segment only if the values of all have
/// expired: none of these are rewritten.
fn wasteful(keyspace: &KeyspaceVersion, waste: Waste) -> Option<(usize, Vec<Arc<SegmentMeta>>)> {
    let deepest = keyspace.levels.iter().rposition(|segments| !segments.is_empty())?;
    let times = |segment: &SegmentMeta| waste.expiry_cutoff.zip(segment.summary.times);
    let is_expired = |segment: &SegmentMeta| {
        times(segment)
            .is_some_and(|(expiry_cutoff, times)| expiry_cutoff >= times.newest && times.newest > Micros::ZERO)
    };
    let is_wasteful = |level: usize, segment: &SegmentMeta| {
        let summary = &segment.summary;
        let is_above = level < deepest || level == 0;
        // Range tombstones, and small numbers of tombstones, deserve a task of their own only when there is nothing
        // else to do.
        let mostly = summary.tombstones >= DEAD_MIN && summary.tombstones * 2 >= summary.entries;
        let dead = mostly || waste.idle && (summary.tombstones > 0 || summary.range_tombstones > 0);
        // Assumes that the times between the oldest and the newest are spread evenly.
        let expired = times(segment).is_some_and(|(expiry_cutoff, times)| {
            let spread = times.newest.saturating_sub(times.oldest);
            expiry_cutoff >= times.oldest && expiry_cutoff.saturating_sub(times.oldest).0 >= spread.0.div_ceil(2)
        });
        // In the deepest level an older range tombstone may prevent expired values from being dropped.
        is_above && dead || expired && (is_above || summary.range_tombstones == 0)
    };
    // Keys that are both in level 0 and elsewhere may wait for the next writes, unless there are none.
    let over_another = |segment: &Arc<SegmentMeta>| {
        let others = keyspace.main().filter(|other| other.number != segment.number);
        others.into_iter().any(|other| other.summary.overlaps(&segment.summary.span))
    };
    let overwrites = |level: usize, segment: &Arc<SegmentMeta>| waste.idle && level == 0 && over_another(segment);
    keyspace.levels.iter().enumerate().find_map(|(level, segments)| {
        let found = segments.iter().find(|segment| is_wasteful(level, segment) || overwrites(level, segment))?;
        let mut bytes = 0;
        let expired = segments.iter().filter(|segment| is_expired(segment) && segment.summary.range_tombstones == 0);
        let expired = expired.take_while(|segment| {
            bytes += segment.file_len;
            bytes <= EXPIRED_BYTES_MAX
        });
        let expired: Vec<_> = expired.cloned().collect();
        Some((level, if expired.is_empty() || level == 0 { vec![Arc::clone(found)] } else { expired }))
    })
}

/// Returns the task that moves wasteful segments one level down, or rewrites them in place in the deepest level.
fn clear_out(keyspace: &KeyspaceVersion, level: usize, segments: Vec<Arc<SegmentMeta>>) -> Option<Task> {
    let deepest = keyspace.levels.iter().rposition(|segments| !segments.is_empty())?;
    if level == 0 {
        return Some(Task {
            just_move: false,
            clears_out: true,
            ..take_down(keyspace, 0, keyspace.level(0).to_vec())?
        });
    }
    let output = if level < deepest { level + 1 } else { level };
    let mut inputs = segments;
    if output > level {
        let span = hull(&inputs)?;
        inputs.extend(overlapping(keyspace.level(output), &span).cloned());
    }
    let below = deeper(keyspace, output, &hull(&inputs)?);
    let output_level = number(output);
    Some(Task { keyspace: keyspace.id, inputs, output_level, below, just_move: false, clears_out: true })
}

/// Returns the task that brings a level within its bound.
pub(crate) fn pick(keyspace: &KeyspaceVersion, shape: &Shape, waste: Waste) -> Option<Task> {
    let Some((level, _)) = over(keyspace, shape) else {
        let (level, segments) = wasteful(keyspace, waste)?;
        return clear_out(keyspace, level, segments);
    };
    let upper: Vec<_> = if level == 0 {
        // All of level 0: its segments overlap, and an older one must never end up above a newer one.
        keyspace.level(0).to_vec()
    } else {
        // The segment that overlaps the fewest bytes of the next level for each of its own.
        let cost = |segment: &&Arc<SegmentMeta>| {
            let dragged: u64 = overlapping(keyspace.level(level + 1), &segment.summary.span).map(|s| s.file_len).sum();
            (dragged.saturating_mul(1000) / segment.file_len.max(1), segment.number)
        };
        keyspace.level(level).iter().min_by_key(cost).cloned().into_iter().collect()
    };
    take_down(keyspace, level, upper)
}

/// Returns the task that moves segments of a level one level down, with what they overlap there.
fn take_down(keyspace: &KeyspaceVersion, level: usize, upper: Vec<Arc<SegmentMeta>>) -> Option<Task> {
    let span = hull(&upper)?;
    let lower: Vec<_> = overlapping(keyspace.level(level + 1), &span).cloned().collect();
    let just_move = upper.len() == 1 && lower.is_empty();
    let inputs: Vec<_> = upper.into_iter().chain(lower).collect();
    // The lower inputs may cover a wider span than the upper ones.
    let below = deeper(keyspace, level + 1, &hull(&inputs)?);
    let output_level = number(level + 1);
    Some(Task { keyspace: keyspace.id, inputs, output_level, below, just_move, clears_out: false })
}

/// Returns the task that brings the main tree of a keyspace to its final shape: everything in one sorted level, with
/// nothing left to drop; `None` if it is in that shape. Values written at or before `expiry_cutoff`, in microseconds,
/// may have expired.
pub(crate) fn everything(keyspace: &KeyspaceVersion, shape: &Shape, expiry_cutoff: Option<Micros>) -> Option<Task> {
    let deepest = keyspace.levels.iter().rposition(|segments| !segments.is_empty())?;
    let settled = |segment: &Arc<SegmentMeta>| is_settled(segment, expiry_cutoff);
    let upper_empty = keyspace.levels.iter().take(deepest).all(Vec::is_empty);
    if deepest > 0 && upper_empty && keyspace.level(deepest).iter().all(settled) {
        return None;
    }
    all_anew(keyspace, shape)
}

/// Returns the task that writes a whole keyspace anew, into one level; `None` if it is empty.
pub(crate) fn all_anew(keyspace: &KeyspaceVersion, shape: &Shape) -> Option<Task> {
    let deepest = keyspace.levels.iter().rposition(|segments| !segments.is_empty())?;
    // The first level that can hold everything, so that later writes need not move it again.
    let bytes: u64 = keyspace.main().map(|segment| segment.file_len).sum();
    let fits = |level: &usize| {
        let power = u32::try_from(level - 1).unwrap_or(u32::MAX);
        shape.base_bytes.saturating_mul(shape.level_ratio.saturating_pow(power)) >= bytes
    };
    let level = (1..shape.level_max).find(fits).unwrap_or(shape.level_max).max(deepest);
    Some(Task {
        keyspace: keyspace.id,
        inputs: keyspace.main().cloned().collect(),
        output_level: number(level),
        below: Vec::new(),
        just_move: false,
        clears_out: false,
    })
}

/// Returns the task that brings level 0 down, if it holds recipes.
pub(crate) fn recipes_down(keyspace: &KeyspaceVersion) -> Option<Task> {
    let has_recipes = keyspace.level(0).iter().any(|segment| segment.summary.recipes);
    let task = take_down(keyspace, 0, keyspace.level(0).to_vec()).filter(|_| has_recipes)?;
    Some(Task { just_move: false, ..task })
}

/// Returns the task that writes a segment below level 0 anew where it is. What takes the place of a segment of level 0
/// must be one segment as well (V1), of whatever length; below it outputs are cut as usual.
pub(crate) fn in_place(keyspace: &KeyspaceVersion, level: usize, segment: &Arc<SegmentMeta>) -> Task {
    assert!(level > 0, "level 0 is not written in place: its segments cannot be divided (V1)");
    Task {
        keyspace: keyspace.id,
        inputs: vec![Arc::clone(segment)],
        output_level: number(level),
        below: deeper(keyspace, level, &segment.summary.span),
        just_move: false,
        clears_out: false,
    }
}

/// Returns the task that moves what a level holds of a span one level down, or rewrites what can shrink if the level is
/// the deepest; `None` if there is nothing to do.
pub(crate) fn down_in_span(
    keyspace: &KeyspaceVersion,
    level: usize,
    span: &KeySpan,
    expiry_cutoff: Option<Micros>,
) -> Option<Task> {
    let deepest = keyspace.levels.iter().rposition(|segments| !segments.is_empty())?;
    let upper: Vec<_> = overlapping(keyspace.level(level), span).cloned().collect();
    if upper.is_empty() || level > deepest {
        return None;
    }
    if level == 0 {
        // All of them: they overlap, and an older one must never end up above a newer one. If level 0 holds the only
        // segments, they are sorted this way, but still need a rewrite.
        return take_down(keyspace, 0, keyspace.level(0).to_vec()).map(|task| Task { just_move: false, ..task });
    }
    if level < deepest {
        return take_down(keyspace, level, upper);
    }
    let inputs: Vec<_> = upper.into_iter().filter(|segment| !is_settled(segment, expiry_cutoff)).collect();
    // Those in between are rewritten as well, so that the outputs take the place of the inputs.
    let hull = hull(&inputs)?;
    let inputs = overlapping(keyspace.level(level), &hull).cloned().collect();
    let output_level = number(level);
    Some(Task { keyspace: keyspace.id, inputs, output_level, below: Vec::new(), just_move: false, clears_out: false })
}

/// Returns whether nothing can be dropped from a segment of the deepest level.
fn is_settled(segment: &SegmentMeta, expiry_cutoff: Option<Micros>) -> bool {
    let summary = &segment.summary;
    let expires =
        expiry_cutoff.is_some_and(|expiry_cutoff| summary.times.is_some_and(|times| times.oldest <= expiry_cutoff));
    let plain = summary.tombstones == 0 && summary.range_tombstones == 0 && !summary.has_purges();
    plain && summary.entries == summary.keys && !expires
}

/// Returns the segments of the levels below `level` that overlap a span.
fn deeper(keyspace: &KeyspaceVersion, level: usize, span: &KeySpan) -> Vec<Arc<SegmentMeta>> {
    keyspace.levels.iter().skip(level + 1).flat_map(|segments| overlapping(segments, span)).cloned().collect()
}

fn overlapping<'a>(segments: &'a [Arc<SegmentMeta>], span: &'a KeySpan) -> impl Iterator<Item = &'a Arc<SegmentMeta>> {
    segments.iter().filter(|segment| segment.summary.overlaps(span))
}

/// Returns the number of a level as the manifest stores it.
fn number(level: usize) -> u8 {
    let number = u8::try_from(level);
    assert!(number.is_ok(), "level {level}");
    number.unwrap_or(u8::MAX)
}

/// Returns the smallest span around all segments.
fn hull(segments: &[Arc<SegmentMeta>]) -> Option<KeySpan> {
    let start = segments.iter().map(|segment| &segment.summary.span.start).min()?.clone();
    let open = segments.iter().any(|segment| segment.summary.span.end.is_none());
    let end = if open { None } else { segments.iter().filter_map(|segment| segment.summary.span.end.clone()).max() };
    Some(KeySpan { start, end })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{manifest::StoredOptions, segment::Summary};

    const SHAPE: Shape = Shape { l0_threshold: 2, level_ratio: 10, base_bytes: 100, level_max: 6 };

    fn segment(number: FileNumber, start: &str, end: &str, seqno: u64, file_len: u64) -> Arc<SegmentMeta> {
        let seqno = Seqno(seqno);
        Arc::new(SegmentMeta {
            number,
            file_id: 0,
            file_len,
            footer_digest: 0,
            summary: Summary {
                keyspace: KeyspaceId(16),
                span: KeySpan { start: start.into(), end: Some(end.into()) },
                keys: 1,
                entries: 1,
                tombstones: 0,
                range_tombstones: 0,
                raw_bytes: 1,
                min_seqno: seqno,
                max_seqno: seqno,
                lowest_affected: seqno,
                recipes: false,
                times: None,
                history: None,
            },
        })
    }

    fn keyspace(levels: Vec<Vec<Arc<SegmentMeta>>>) -> KeyspaceVersion {
        KeyspaceVersion {
            id: KeyspaceId(16),
            name: "k".into(),
            options: StoredOptions::default(),
            born: Seqno(1),
            dropped: None,
            vanished: Seqno(0),
            horizon: Seqno(0),
            expired_upto: Micros::ZERO,
            levels,
            history: Vec::new(),
        }
    }

    fn numbers(segments: &[Arc<SegmentMeta>]) -> Vec<u64> {
        segments.iter().map(|segment| segment.number.0).collect()
    }

    #[test]
    fn a_full_level_0_goes_down_with_all_that_it_overlaps() {
        let keyspace = keyspace(vec![
            vec![segment(FileNumber(4), "c", "f", 9, 10), segment(FileNumber(3), "a", "d", 8, 10)],
            vec![segment(FileNumber(1), "a", "b", 1, 10), segment(FileNumber(2), "x", "z", 2, 10)],
            vec![segment(FileNumber(5), "b", "c", 0, 10), segment(FileNumber(6), "y", "z", 0, 10)],
        ]);
        let task = pick(&keyspace, &SHAPE, Waste::default()).unwrap();
        assert_eq!((numbers(&task.inputs), task.output_level), (vec![4, 3, 1], 1));
        assert_eq!(numbers(&task.below), [5]);
        assert!(!task.just_move);
    }

    #[test]
    fn a_level_within_its_bounds_rests() {
        assert_eq!(
            pick(&keyspace(vec![vec![segment(FileNumber(1), "a", "b", 1, 1000)]]), &SHAPE, Waste::default()),
            None
        );
        assert_eq!(
            pick(&keyspace(vec![Vec::new(), vec![segment(FileNumber(1), "a", "b", 1, 99)]]), &SHAPE, Waste::default()),
            None
        );
    }

    #[test]
    fn the_cheapest_segment_of_a_large_level_goes_and_a_lone_one_just_moves() {
        let keyspace = keyspace(vec![
            Vec::new(),
            vec![segment(FileNumber(1), "a", "f", 5, 60), segment(FileNumber(2), "g", "k", 6, 60)],
            vec![segment(FileNumber(3), "a", "c", 1, 50)],
        ]);
        let task = pick(&keyspace, &SHAPE, Waste::default()).unwrap();
        assert_eq!((numbers(&task.inputs), task.output_level, task.just_move), (vec![2], 2, true));
    }

    #[test]
    fn everything_ends_in_one_level_and_is_then_left_alone() {
        let one = keyspace(vec![
            vec![segment(FileNumber(2), "a", "c", 5, 60)],
            vec![segment(FileNumber(1), "a", "c", 1, 60)],
        ]);
        let task = everything(&one, &SHAPE, None).unwrap();
        assert_eq!((numbers(&task.inputs), task.output_level), (vec![2, 1], 2));
        assert_eq!(
            everything(&keyspace(vec![Vec::new(), vec![segment(FileNumber(1), "a", "c", 1, 60)]]), &SHAPE, None),
            None
        );
    }
}
