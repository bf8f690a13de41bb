//! What retention depends on: the rules of a keyspace, its readers, and the older segments outside the job.

use std::{fmt, sync::Arc};

use super::policy::{Policy, PolicyCandidate};
use crate::{
    base::{KeySpan, Micros, Seqno},
    merge::{MergeStrategy, ttl_at},
    segment::{Entry, SegmentMeta},
};

/// What decides about versions, beside the readers.
pub(crate) struct Rules {
    pub(crate) policy: Policy,
    /// Merge strategy; `None` if it is a custom one that this process has not been given yet: operands then stay as
    /// they are.
    pub(crate) strategy: Option<MergeStrategy>,
    /// Time of the database, in microseconds.
    pub(crate) now: Micros,
    /// TTLs, each with the seqno from which on it applies to writes: see
    /// [`StoredOptions`](crate::manifest::StoredOptions).
    pub(crate) ttls: Arc<[(Seqno, Micros)]>,
    /// Whether entries carry their commit time.
    pub(crate) timed: bool,
    /// Commit time of a seqno, for entries that do not record it; never too early.
    pub(crate) time_of: Box<dyn Fn(Seqno) -> Micros>,
    /// Seqno up to which purges hide nothing in the history tier any more.
    pub(crate) purged_upto: Seqno,
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rules({:?} at {})", self.policy, self.now)
    }
}

impl Rules {
    /// Returns the commit time of a seqno, in microseconds; 0 if this keyspace needs no times.
    pub(super) fn time_of(&self, seqno: Seqno) -> Micros {
        if self.timed { (self.time_of)(seqno) } else { Micros::ZERO }
    }

    /// Returns when a value written at a seqno and time expires, in microseconds; `None` if it never does.
    fn expiry(&self, seqno: Seqno, time: Micros) -> Option<Micros> {
        Some(time.saturating_add(ttl_at(&self.ttls, seqno)?))
    }

    /// Returns whether the policy keeps a version that no view needs.
    pub(super) fn owe(&self, candidate: &PolicyCandidate) -> bool {
        self.policy.keeps_history() && self.policy.owes(candidate, self.now)
    }

    /// Returns whether a purge has nothing left to hide, and no reader needs it (K11).
    pub(super) fn may_drop_purge(&self, purge: Seqno, demands: &Demands) -> bool {
        self.purged_upto >= purge && !demands.holds_purge(purge)
    }

    /// Returns when the newest value of a key expired, if no view sees it, past ones included, and the policy does not
    /// keep it.
    pub(super) fn expiry_if_gone(&self, entry: &Entry, bytes: u64, demands: &Demands) -> Option<Micros> {
        let Entry { seqno, gap_start, kind, .. } = *entry;
        let time = entry.time?;
        let expiry = self.expiry(seqno, time).filter(|expiry| kind.is_value() && *expiry <= self.now)?;
        let owed = self.owe(&PolicyCandidate {
            rank: 0,
            seqno,
            time,
            superseded_at: Some(expiry),
            is_delete: false,
            ended_by_delete: true,
            // An expiry counts as a delete: the number of versions protects nothing that is older than the window.
            deleted_since: Some(expiry),
            bytes,
        });
        let read = demands.any_before(seqno, expiry) || demands.holds_tombstone(seqno, gap_start);
        (!owed && !read).then_some(expiry)
    }
}

/// A view or pin, and the moment it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reader {
    pub(crate) seqno: Seqno,
    /// Purges up to this seqno hide everything older from it.
    pub(crate) purge_horizon: Seqno,
    /// Time of the moment, in microseconds.
    pub(crate) time: Micros,
}

/// Views and pins that may still read old versions. The job asks about them for every key, so they are sorted for each
/// question: an answer is one search, however many readers there are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readers {
    /// Seqnos that views and pins may read, ascending, without duplicates.
    registered: Vec<Seqno>,
    /// All readers by seqno; and, for each, the earliest time of it and those after it.
    all: Vec<Reader>,
    earliest_from: Vec<Micros>,
    /// Pairs of purge horizon and seqno, one for each reader, ascending: purges up to that horizon hide from that
    /// reader.
    purge_horizon: Vec<(Seqno, Seqno)>,
}

impl Readers {
    pub(crate) fn new(mut all: Vec<Reader>) -> Self {
        all.sort_unstable_by_key(|reader| (reader.seqno, reader.purge_horizon, reader.time));
        let mut registered: Vec<Seqno> = all.iter().map(|reader| reader.seqno).collect();
        registered.dedup();
        let mut purge_horizon: Vec<(Seqno, Seqno)> =
            all.iter().map(|reader| (reader.purge_horizon, reader.seqno)).collect();
        purge_horizon.sort_unstable();
        let mut earliest_from: Vec<Micros> = all.iter().map(|reader| reader.time).collect();
        let mut earliest = Micros::MAX;
        for time in earliest_from.iter_mut().rev() {
            earliest = earliest.min(*time);
            *time = earliest;
        }
        Self { registered, all, earliest_from, purge_horizon }
    }

    /// Returns the seqnos that views and pins may read, ascending, without duplicates.
    pub(crate) fn seqnos(&self) -> &[Seqno] {
        &self.registered
    }
}

/// What readers demand of a keyspace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Demands {
    readers: Arc<Readers>,
    /// Newest seqno of a reader that takes absence for lost history: one below a watermark of the keyspace.
    newest_distrusting: Option<Seqno>,
}

impl Demands {
    /// Returns what readers demand of a keyspace that has these watermarks when the job begins.
    pub(crate) fn new(readers: &Arc<Readers>, vanished: Seqno, expired_upto: Micros) -> Self {
        let distrusts = |reader: &&Reader| reader.seqno < vanished || reader.time < expired_upto;
        let newest_distrusting = readers.all.iter().rfind(distrusts).map(|reader| reader.seqno);
        Self { readers: Arc::clone(readers), newest_distrusting }
    }

    /// Returns the oldest registered seqno in `from..to`.
    pub(super) fn any_in(&self, from: Seqno, to: Seqno) -> Option<Seqno> {
        let registered = &self.readers.registered;
        let at = registered.partition_point(|seqno| *seqno < from);
        registered.get(at).copied().filter(|seqno| *seqno < to)
    }

    /// Returns whether a reader at or above `seqno` reads a moment before `time`.
    fn any_before(&self, seqno: Seqno, time: Micros) -> bool {
        let at = self.readers.all.partition_point(|reader| reader.seqno < seqno);
        self.readers.earliest_from.get(at).is_some_and(|earliest| *earliest < time)
    }

    /// Returns whether a view needs a tombstone that hides nothing any more (K4). A view at or above it, but below a
    /// watermark of the keyspace, would take its absence for lost history. A view below it that its gap refuses would
    /// take its absence for "never there".
    pub(super) fn holds_tombstone(&self, seqno: Seqno, gap_start: Option<Seqno>) -> bool {
        let above = self.newest_distrusting.is_some_and(|newest| newest >= seqno);
        above || gap_start.is_some_and(|gap| self.any_in(gap, seqno).is_some())
    }

    /// Returns the newest seqno of a reader that takes absence for lost history.
    pub(super) fn newest_distrusting(&self) -> Option<Seqno> {
        self.newest_distrusting
    }

    /// Returns the oldest seqno in `from..to` of a reader that was opened before a purge.
    pub(super) fn before_purge(&self, purge: Seqno, from: Seqno, to: Seqno) -> Option<Seqno> {
        let all = &self.readers.all;
        let at = all.partition_point(|reader| reader.seqno < from);
        let inside = all.get(at..).unwrap_or_default().iter().take_while(|reader| reader.seqno < to);
        // Linear, but asked only about versions beneath a purge.
        inside.into_iter().find(|reader| reader.purge_horizon < purge).map(|reader| reader.seqno)
    }

    /// Returns the seqno of a reader for which this purge hides what is older and the next newer purge does not.
    pub(super) fn between_purges(&self, purge: Seqno, next: Seqno) -> Option<Seqno> {
        let purge_horizon = &self.readers.purge_horizon;
        let at = purge_horizon.partition_point(|(purge_horizon, _)| *purge_horizon < purge);
        purge_horizon.get(at).filter(|(purge_horizon, _)| *purge_horizon < next).map(|(_, seqno)| *seqno)
    }

    /// Returns whether a view needs a purge (K11): one that was opened before it and still reads what it hides, one of
    /// a moment before it, or one that would take absence for lost history, where the purge answers "absent".
    pub(super) fn holds_purge(&self, purge: Seqno) -> bool {
        let purge_horizon = self.readers.purge_horizon.first().is_some_and(|(purge_horizon, _)| *purge_horizon < purge);
        let reads = self.readers.registered.first().is_some_and(|seqno| *seqno < purge);
        purge_horizon || reads || self.newest_distrusting.is_some()
    }
}

/// Segments of the main tree of the keyspace that are outside the job and may hold older entries.
#[derive(Clone, Debug, Default)]
pub(crate) struct OlderSegments(pub(crate) Vec<Arc<SegmentMeta>>);

impl OlderSegments {
    /// Returns whether none of them can hold a key of the span.
    pub(super) fn is_clear(&self, span: &KeySpan) -> bool {
        !self.0.iter().any(|segment| segment.summary.overlaps(span))
    }

    /// Returns the spans whose keys they may hold, in order and disjoint.
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

/// What decides which versions a job keeps: the rules of the keyspace, its readers, and what lies beneath.
#[derive(Debug)]
pub(crate) struct Retention {
    pub(crate) rules: Rules,
    pub(crate) demands: Demands,
    pub(crate) older: OlderSegments,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{Env, Sim};

    /// Each question used to be answered by a look at every reader, for each key: the answers must be the same.
    #[test]
    fn what_is_found_by_a_search_is_what_a_look_at_every_reader_finds() {
        let sim = Sim::new(9);
        let below = |below| u64::from(sim.draw(below));
        let drawn = |limit| Seqno(below(limit));
        for _ in 0..20_000 {
            let all: Vec<Reader> = (0..below(6))
                .map(|_| Reader { seqno: drawn(12), purge_horizon: drawn(12), time: Micros(below(12)) })
                .collect();
            let (vanished, expired_upto) = (drawn(12), below(12));
            let demands = Demands::new(&Arc::new(Readers::new(all.clone())), vanished, Micros(expired_upto));
            let distrusts = |reader: &&Reader| reader.seqno < vanished || reader.time < Micros(expired_upto);
            let seqnos = || all.iter().map(|reader| reader.seqno);
            let (from, to, purge, time) = (drawn(13), drawn(13), drawn(13), below(13));
            let said = format!("{all:?} below {vanished} and {expired_upto}: {from}, {to}, {purge}, {time}");

            assert_eq!(demands.any_in(from, to), seqnos().filter(|at| (from..to).contains(at)).min(), "{said}");
            let before = all.iter().any(|reader| reader.seqno >= from && reader.time < Micros(time));
            assert_eq!(demands.any_before(from, Micros(time)), before, "{said}");
            let newest = all.iter().filter(distrusts).map(|reader| reader.seqno).max();
            assert_eq!(demands.newest_distrusting(), newest, "{said}");
            let above = all.iter().filter(distrusts).any(|reader| reader.seqno >= from);
            let gap = seqnos().any(|at| (to..from).contains(&at));
            assert_eq!(demands.holds_tombstone(from, None), above, "{said}");
            assert_eq!(demands.holds_tombstone(from, Some(to)), above || gap, "{said}");
            let early = all.iter().filter(|reader| reader.purge_horizon < purge && (from..to).contains(&reader.seqno));
            assert_eq!(demands.before_purge(purge, from, to), early.map(|reader| reader.seqno).min(), "{said}");
            let hides = |seqno| all.iter().any(|one| one.seqno == seqno && (from..to).contains(&one.purge_horizon));
            let between = demands.between_purges(from, to);
            assert_eq!(between.is_some(), all.iter().any(|one| (from..to).contains(&one.purge_horizon)), "{said}");
            assert!(between.is_none_or(hides), "{said}");
            let needs = |reader: &Reader| reader.purge_horizon < purge || reader.seqno < purge || distrusts(&reader);
            assert_eq!(demands.holds_purge(purge), all.iter().any(needs), "{said}");
        }
    }
}
