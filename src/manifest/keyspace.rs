//! One keyspace as metadata: its options and its segments. The invariants are listed in `version`.

use std::{cmp::Reverse, sync::Arc};

use super::{change::Change, edit::Edit, options::StoredOptions};
use crate::{
    base::{Corruption, FIRST_KEYSPACE, FileNumber, KeyspaceId, Micros, Seqno},
    segment::SegmentMeta,
};

/// More levels than any database needs.
pub(crate) const LEVELS_MAX: usize = 8;

/// One keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyspaceVersion {
    pub(crate) id: KeyspaceId,
    pub(crate) name: String,
    pub(crate) options: StoredOptions,
    /// Seqno at which it was created.
    pub(crate) born: Seqno,
    /// Seqno at which it was dropped; hidden from then on.
    pub(crate) dropped: Option<Seqno>,
    pub(crate) vanished: Seqno,
    pub(crate) horizon: Seqno,
    /// Values that expired up to this time, in microseconds, may have been dropped.
    pub(crate) expired_upto: Micros,
    /// The main tree: level 0 newest first, deeper levels by key.
    pub(crate) levels: Vec<Vec<Arc<SegmentMeta>>>,
    /// The history tier, by run and key, newest run first.
    pub(crate) history: Vec<Arc<SegmentMeta>>,
}

impl KeyspaceVersion {
    /// Returns the segments of a level.
    pub(crate) fn level(&self, level: usize) -> &[Arc<SegmentMeta>] {
        self.levels.get(level).map_or(&[], Vec::as_slice)
    }

    /// Iterates over the segments of the main tree, newest level first.
    pub(crate) fn main(&self) -> impl Iterator<Item = &Arc<SegmentMeta>> {
        self.levels.iter().flatten()
    }

    /// Iterates over all segments.
    pub(crate) fn segments(&self) -> impl Iterator<Item = &Arc<SegmentMeta>> {
        self.main().chain(&self.history)
    }

    /// Returns whether it is the engine's own.
    pub(crate) fn is_hidden(&self) -> bool {
        self.id.0 < FIRST_KEYSPACE
    }
    /// Returns a new keyspace, without segments.
    pub(super) fn new(id: KeyspaceId, name: &str, options: &StoredOptions, born: Seqno) -> Self {
        Self {
            id,
            name: name.to_owned(),
            options: options.clone(),
            born,
            dropped: None,
            vanished: Seqno(0),
            horizon: Seqno(0),
            expired_upto: Micros::ZERO,
            levels: Vec::new(),
            history: Vec::new(),
        }
    }

    /// Replaces the options.
    pub(super) fn configure(&mut self, options: &StoredOptions) -> Result<(), Corruption> {
        if (self.options.merge, &self.options.merge_name) != (options.merge, &options.merge_name) {
            return Err(broken("a keyspace that keeps its merge strategy (V5)"));
        }
        if self.options.scope != options.scope {
            return Err(broken("a keyspace that keeps its dedup scope (V8)"));
        }
        self.options = options.clone();
        Ok(())
    }

    /// Raises the watermarks of dropped data (V4).
    pub(super) fn raise_watermarks(&mut self, vanished: Seqno, horizon: Seqno, expired_upto: Micros) {
        self.vanished = self.vanished.max(vanished);
        self.horizon = self.horizon.max(horizon);
        self.expired_upto = self.expired_upto.max(expired_upto);
    }

    /// Adds a segment to a level, or to the history tier.
    pub(super) fn add(&mut self, level: usize, segment: &SegmentMeta) {
        let segment = Arc::new(segment.clone());
        if segment.summary.history.is_some() {
            self.history.push(segment);
            self.history.sort_by_cached_key(|segment| (Reverse(run(segment)), segment.summary.span.start.clone()));
            return;
        }
        if self.levels.len() <= level {
            self.levels.resize(level + 1, Vec::new());
        }
        if let Some(segments) = self.levels.get_mut(level) {
            segments.push(segment);
            if level == 0 {
                segments.sort_by_key(|segment| Reverse(segment.summary.max_seqno));
            } else {
                segments.sort_by(|a, b| a.summary.span.start.cmp(&b.summary.span.start));
            }
        }
    }

    /// Removes the segment of a number, which must exist exactly once.
    pub(super) fn remove(&mut self, number: FileNumber) -> Result<(), Corruption> {
        let before = self.segments().count();
        let others = |segment: &Arc<SegmentMeta>| segment.number != number;
        self.levels.iter_mut().for_each(|segments| segments.retain(others));
        self.history.retain(others);
        if self.segments().count() + 1 != before {
            return Err(broken("a segment to remove that exists"));
        }
        // The last level is never empty: equal versions are equal however they came about.
        let levels = self.levels.iter().rposition(|segments| !segments.is_empty()).map_or(0, |last| last + 1);
        self.levels.truncate(levels);
        Ok(())
    }

    /// Appends the changes that rebuild it from nothing.
    pub(super) fn snapshot(&self, edit: &mut Edit) {
        let Self { id, born, vanished, horizon, expired_upto, .. } = *self;
        if !self.is_hidden() {
            let (name, options) = (self.name.clone(), self.options.clone());
            edit.push(Change::Create { id, name, options, seqno: born });
        }
        edit.push(Change::Watermarks { keyspace: id, vanished, horizon, expired_upto });
        for (level, segments) in (0u8..).zip(&self.levels) {
            for segment in segments {
                edit.push(Change::Add { level, segment: SegmentMeta::clone(segment) });
            }
        }
        for segment in &self.history {
            edit.push(Change::Add { level: 0, segment: SegmentMeta::clone(segment) });
        }
        if let Some(seqno) = self.dropped {
            edit.push(Change::Drop { id, seqno });
        }
    }

    /// Checks the invariants within this keyspace: V1, V2, V6, and that its segments belong to it.
    pub(super) fn check(&self) -> Result<(), Corruption> {
        let newest_first = |a: &Arc<SegmentMeta>, b: &Arc<SegmentMeta>| a.summary.min_seqno > b.summary.max_seqno;
        if !self.level(0).is_sorted_by(newest_first) {
            return Err(broken("level 0 newest first (V1)"));
        }
        let apart = |a: &Arc<SegmentMeta>, b: &Arc<SegmentMeta>| {
            a.summary.span.end.as_ref().is_some_and(|end| *end <= b.summary.span.start)
        };
        if !self.levels.iter().skip(1).all(|segments| segments.is_sorted_by(apart)) {
            return Err(broken("segments of a level that do not overlap (V2)"));
        }
        if !self.history.is_sorted_by(|a, b| run(a) != run(b) || apart(a, b)) {
            return Err(broken("segments of a run that do not overlap (V6)"));
        }
        if !self.segments().all(|segment| segment.summary.keyspace == self.id) {
            return Err(broken("segments that belong to their keyspace (V3)"));
        }
        Ok(())
    }
}

/// Returns the run of the history tier that a segment belongs to.
fn run(segment: &SegmentMeta) -> FileNumber {
    segment.intervals().run
}

/// Reports the invariant that an edit breaks.
pub(super) fn broken(what: &'static str) -> Corruption {
    Corruption { offset: 0, what }
}
