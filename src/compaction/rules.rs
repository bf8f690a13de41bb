//! By what it is decided which versions stay, and what is told of those that go.

use std::{fmt, sync::Arc};

use super::{Policy, policy::Judged};
use crate::{
    base::{KeySpan, KeyspaceId, Kind},
    manifest::Change,
    merge::{MergeStrategy, ttl_at},
    segment::{Entry, Finished},
};

/// By what is decided.
pub(crate) struct Rules {
    pub(crate) policy: Policy,
    /// Without one operands stay as they are: a custom strategy that this process has not been given yet.
    pub(crate) strategy: Option<MergeStrategy>,
    /// The time of the database, in microseconds.
    pub(crate) now: u64,
    /// From which seqno on what is written lives how long: see [`StoredOptions`](crate::manifest::StoredOptions).
    pub(crate) ttls: Arc<[(u64, u64)]>,
    /// Entries carry their commit time.
    pub(crate) timed: bool,
    /// When a seqno was committed, for entries that do not say; never too early.
    pub(crate) time_of: Box<dyn Fn(u64) -> u64>,
    /// The history tier holds nothing that a purge at or below this seqno hides.
    pub(crate) purged_upto: u64,
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rules({:?} at {})", self.policy, self.now)
    }
}

impl Rules {
    /// The time of a seqno, where anybody asks for it.
    pub(super) fn time_of(&self, seqno: u64) -> u64 {
        if self.timed { (self.time_of)(seqno) } else { 0 }
    }

    /// When a value expires, in microseconds.
    fn expiry(&self, seqno: u64, time: Option<u64>) -> Option<u64> {
        let ttl = ttl_at(&self.ttls, seqno)?;
        Some(time?.saturating_add(ttl))
    }

    /// Whether the policy keeps a version that no view needs.
    pub(super) fn owe(&self, judged: &Judged) -> bool {
        self.policy.keeps_past() && self.policy.owes(judged, self.now)
    }

    /// When the newest value of a key expired, if it is gone for everybody, also for those who look back.
    pub(super) fn lapsed(&self, entry: &Entry, bytes: usize, demands: &Demands) -> Option<u64> {
        let Entry { seqno, gap_start, time, kind, .. } = *entry;
        let expiry = self.expiry(seqno, time).filter(|expiry| kind == Kind::Put && *expiry <= self.now)?;
        let owed = self.owe(&Judged {
            rank: 0,
            seqno,
            time: time.unwrap_or(0),
            superseded_at: Some(expiry),
            is_delete: false,
            ended_by_delete: true,
            // An expiry is as good as a delete: number protects nothing that is older than the window.
            deleted_since: Some(expiry),
            bytes,
        });
        let reads = |reader: &Reader| reader.seqno >= seqno && reader.time < expiry;
        let read = demands.readers.iter().any(reads) || demands.holds_tombstone(seqno, gap_start);
        (!owed && !read).then_some(expiry)
    }
}

/// Somebody who reads a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reader {
    pub(crate) seqno: u64,
    /// Purges up to this seqno hide from them what is older.
    pub(crate) opened: u64,
    /// The time of the moment, in microseconds.
    pub(crate) time: u64,
}

/// Who may still read old versions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Demands {
    /// The seqnos that views and pins may read, ascending.
    pub(crate) registered: Vec<u64>,
    /// The same, one by one.
    pub(crate) readers: Vec<Reader>,
    /// The keyspace's `vanished` when the job began.
    pub(crate) vanished: u64,
    /// The keyspace's `lapsed` when the job began.
    pub(crate) lapsed: u64,
}

impl Demands {
    /// The oldest registered seqno in `from..to`.
    pub(super) fn any_in(&self, from: u64, to: u64) -> Option<u64> {
        let at = self.registered.partition_point(|seqno| *seqno < from);
        self.registered.get(at).copied().filter(|seqno| *seqno < to)
    }

    /// Whether a tombstone that hides nothing any more must stay for the sake of a view. One at or above it, but below a mark of the keyspace, would
    /// take its absence for lost history. One below it that its gap refuses would take the absence for "never there".
    pub(super) fn holds_tombstone(&self, seqno: u64, gap_start: Option<u64>) -> bool {
        let above = self.readers.iter().any(|reader| reader.seqno >= seqno && self.distrusts_absence(reader));
        above || gap_start.is_some_and(|gap| self.any_in(gap, seqno).is_some())
    }

    /// The newest seqno of anybody who takes it for lost history when nothing is found.
    pub(super) fn newest_distrusting(&self) -> Option<u64> {
        self.readers.iter().filter(|reader| self.distrusts_absence(reader)).map(|reader| reader.seqno).max()
    }

    /// Whether somebody takes it for lost history when nothing is found.
    fn distrusts_absence(&self, reader: &Reader) -> bool {
        reader.seqno < self.vanished || reader.time < self.lapsed
    }

    /// The oldest seqno in `from..to` that somebody reads who came before a purge.
    pub(super) fn before_purge(&self, purge: u64, from: u64, to: u64) -> Option<u64> {
        let reads = |reader: &&Reader| reader.opened < purge && (from..to).contains(&reader.seqno);
        self.readers.iter().filter(reads).map(|reader| reader.seqno).min()
    }

    /// Somebody from whom this purge hides what is older, and the next purge above it does not.
    pub(super) fn between_purges(&self, purge: u64, next: u64) -> Option<u64> {
        let hides = |reader: &&Reader| (purge..next).contains(&reader.opened);
        self.readers.iter().find(hides).map(|reader| reader.seqno)
    }

    /// Whether a purge must stay for the sake of a view: of one from before it, which it hides nothing from, or of one that it answers "absent"
    /// and that would take its absence for lost history.
    pub(super) fn holds_purge(&self, purge: u64) -> bool {
        let needs = |reader: &Reader| reader.opened < purge || reader.seqno < purge || self.distrusts_absence(reader);
        self.readers.iter().any(needs)
    }
}

/// The older segments of the main tree of the keyspace outside the job.
#[derive(Clone, Debug, Default)]
pub(crate) struct Below(pub(crate) Vec<Arc<Finished>>);

impl Below {
    /// Whether none of them can hold a key of the span.
    pub(super) fn is_clear(&self, span: &KeySpan) -> bool {
        !self.0.iter().any(|segment| segment.summary.overlaps(span))
    }

    /// The spans that they may hold keys of, in order and apart.
    pub(super) fn spans(&self) -> Vec<KeySpan> {
        let mut all: Vec<&KeySpan> = self.0.iter().map(|segment| &segment.summary.span).collect();
        all.sort_unstable_by(|a, b| a.start.cmp(&b.start));
        let mut spans: Vec<KeySpan> = Vec::new();
        for span in all {
            match spans.last_mut().filter(|last| last.end.as_ref().is_none_or(|end| span.start <= *end)) {
                Some(last) => last.end = last.end.take().zip(span.end.clone()).map(|(a, b)| a.max(b)),
                None => spans.push(span.clone()),
            }
        }
        spans
    }

    pub(super) fn is_clear_at(&self, key: &[u8]) -> bool {
        !self.0.iter().any(|segment| segment.summary.holds(key))
    }
}

/// What was dropped, for the edit that makes it true.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traces {
    /// The largest seqno of a tombstone that left with its past gone, or end of a version that left the history tier (K5).
    pub(crate) vanished: u64,
    /// The newest superseder of anything dropped (K6).
    pub(crate) horizon: u64,
    /// The latest expiry of a value that was collected, in microseconds.
    pub(crate) lapsed: u64,
    /// Some tombstone or expired value left.
    pub(crate) tombstones_left: bool,
    /// What was kept only for a registered seqno, in bytes.
    pub(crate) held_by: Vec<(u64, u64)>,
}

impl Traces {
    pub(super) fn dropped_beneath(&mut self, superseder: u64) {
        self.horizon = self.horizon.max(superseder);
    }

    pub(super) fn tombstone_left(&mut self, seqno: u64, gap_start: Option<u64>) {
        self.tombstones_left = true;
        if gap_start.is_some() {
            self.vanished = self.vanished.max(seqno);
        }
    }

    pub(super) fn held(&mut self, by: Option<u64>, bytes: usize) {
        let Some(seqno) = by else { return };
        match self.held_by.iter_mut().find(|(known, _)| *known == seqno) {
            Some((_, sum)) => *sum += bytes as u64,
            None => self.held_by.push((seqno, bytes as u64)),
        }
    }

    /// The marks that they raise.
    pub(crate) fn marks(&self, keyspace: KeyspaceId) -> Change {
        let Self { vanished, horizon, lapsed, .. } = *self;
        Change::Marks { keyspace, vanished, horizon, lapsed }
    }

    /// The seqno below which a view that the job did not know of may have lost what it stands on; `vanished` is the keyspace's
    /// mark now. A tombstone that left, with or without its past, changes what such a view says below that mark. An expired value that left
    /// changes what any view of an earlier time says.
    pub(crate) fn newest_change(&self, vanished: u64) -> u64 {
        let marks = self.horizon.max(self.vanished);
        if self.lapsed > 0 {
            u64::MAX
        } else if self.tombstones_left {
            marks.max(vanished)
        } else {
            marks
        }
    }
}
