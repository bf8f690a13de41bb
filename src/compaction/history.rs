//! Decides which versions stay in the history tier.
//!
//! A version there carries its whole interval, so the window decides about it alone; only the limit on the number of
//! versions needs its neighbours, as far as they are in the same merge (K2). When a version is dropped, no neighbour
//! records it, since the neighbours may be in other segments. Instead `vanished` is raised to the end of the dropped
//! version (K5).

use super::{
    dropped::Dropped,
    policy::{Policy, PolicyCandidate, entry_bytes},
    rules::Demands,
};
use crate::{
    base::{KeySpan, Kind, Micros, Seqno},
    merge::{EntryRef, RangeTombstone, Tombstone, Tombstones, Until},
    segment::Entry,
};

/// Purges of a keyspace, and what they hide.
#[derive(Clone, Debug, Default)]
pub(crate) struct Purges(Tombstones);

impl Purges {
    /// Returns the purges of these spans, each with its seqno.
    pub(crate) fn new(purged: Vec<(KeySpan, Seqno)>) -> Self {
        let tombstone = |(span, seqno)| {
            let tombstone = Tombstone { seqno, ordinal: 0, gap_start: None, time: Micros::ZERO, purge: true };
            RangeTombstone { span, tombstone }
        };
        Self(Tombstones::new(purged.into_iter().map(tombstone)))
    }

    /// Returns the oldest purge that hides a version: every reader that was opened since is subject to one of them.
    fn hides(&self, key: &[u8], seqno: Seqno) -> Option<Seqno> {
        self.0.oldest_above(key, seqno).map(|tombstone| tombstone.seqno)
    }

    /// Returns whether a purge of keys in the span is newer than `oldest`, and so may hide versions from there on.
    pub(crate) fn touch(&self, span: &KeySpan, oldest: Seqno) -> bool {
        self.0.newest_in(span).is_some_and(|newest| newest > oldest)
    }
}

/// Takes versions in order and returns those that stay.
#[derive(Debug)]
pub(crate) struct HistorySurvivors {
    policy: Policy,
    now: Micros,
    demands: Demands,
    purges: Purges,
    dropped: Dropped,
    /// Versions of the current key seen so far, and the time of the oldest delete among them.
    count: u64,
    deleted_since: Option<Micros>,
    /// Whether nothing is known to have superseded the newest of them.
    ends_open: bool,
    /// Lowest gap that one of them records: it may reach beneath versions that were in other segments.
    gap: Option<Seqno>,
}

impl HistorySurvivors {
    pub(crate) fn new(policy: Policy, now: Micros, demands: Demands, purges: Purges) -> Self {
        let dropped = Dropped::default();
        Self { policy, now, demands, purges, dropped, count: 0, deleted_since: None, ends_open: false, gap: None }
    }

    pub(super) fn begin_key(&mut self) {
        self.count = 0;
        self.ends_open = false;
        self.deleted_since = None;
        self.gap = None;
    }

    /// Returns the next version as it is to be written; `None` if it is dropped.
    pub(super) fn take(&mut self, entry: &EntryRef<'_>) -> Option<Entry> {
        let EntryRef { seqno, kind, .. } = *entry;
        // Readers check the gap of the version just above their moment.
        let gap_start = entry.gap_start.into_iter().chain(self.gap.filter(|gap| *gap < seqno)).min();
        assert!(entry.until.is_some() && entry.time.is_some(), "@{seqno} without an interval or a time (K8)");
        let (until, time) = entry.until.zip(entry.time)?;
        let (end, ended) = match until {
            Until::At { seqno, time } => (seqno, Some(time)),
            Until::Open => (Seqno::MAX, None),
        };
        let is_delete = matches!(kind, Kind::Delete);
        self.ends_open |= self.count == 0 && ended.is_none();
        let candidate = PolicyCandidate {
            // Something newer superseded the first one, wherever that version is.
            rank: self.count + u64::from(!self.ends_open),
            seqno,
            time,
            superseded_at: ended,
            is_delete,
            // What ended it may be in another segment, so a delete is assumed. A version that a put ended is kept no
            // longer for that than the others.
            ended_by_delete: true,
            deleted_since: self.deleted_since,
            bytes: entry_bytes(entry.kind, entry.key, entry.value),
        };
        self.count += 1;
        if is_delete {
            self.deleted_since = Some(self.deleted_since.map_or(time, |since| since.min(time)));
        }
        let kept = Entry { gap_start, time: Some(time), until: Some(until), ..Entry::new(kind, seqno) };
        self.gap = gap_start.or(self.gap);
        if let Some(purge) = self.purges.hides(entry.key, seqno) {
            let lowest = gap_start.map_or(seqno, |gap| gap.min(seqno));
            let reader = self.demands.before_purge(purge, lowest, end.min(purge));
            self.dropped.record_held(reader, candidate.bytes);
            return reader.map(|_| kept);
        }
        if self.policy.keeps_history() && self.policy.owes(&candidate, self.now) {
            return Some(kept);
        }
        let lowest = gap_start.map_or(seqno, |gap| gap.min(seqno));
        match until {
            Until::At { seqno: end, .. } => {
                let reader = self.demands.any_in(lowest, end);
                if reader.is_some() {
                    self.dropped.record_held(reader, candidate.bytes);
                    return Some(kept);
                }
                self.dropped.vanished = self.dropped.vanished.max(end);
                self.dropped.horizon = self.dropped.horizon.max(end);
            }
            Until::Open => {
                if self.demands.holds_tombstone(seqno, gap_start) {
                    return Some(kept);
                }
                self.dropped.tombstone_left(seqno, gap_start);
            }
        }
        None
    }

    pub(super) fn take_held(&mut self) -> Vec<(Seqno, u64)> {
        std::mem::take(&mut self.dropped.held_by)
    }

    pub(super) fn into_dropped(self) -> Dropped {
        self.dropped
    }
}
