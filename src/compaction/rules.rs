//! By what it is decided which versions stay, and what is told of those that go.

use std::{fmt, sync::Arc};

use super::policy::{Policy, PolicyCandidate};
use crate::{
    base::{KeySpan, Kind, Micros, Seqno},
    merge::{MergeStrategy, ttl_at},
    segment::{Entry, SegmentMeta},
};

/// By what is decided.
pub(crate) struct Rules {
    pub(crate) policy: Policy,
    /// Without one operands stay as they are: a custom strategy that this process has not been given yet.
    pub(crate) strategy: Option<MergeStrategy>,
    /// The time of the database, in microseconds.
    pub(crate) now: Micros,
    /// From which seqno on what is written lives how long: see [`StoredOptions`](crate::manifest::StoredOptions).
    pub(crate) ttls: Arc<[(Seqno, Micros)]>,
    /// Entries carry their commit time.
    pub(crate) timed: bool,
    /// When a seqno was committed, for entries that do not say; never too early.
    pub(crate) time_of: Box<dyn Fn(Seqno) -> Micros>,
    /// The history tier holds nothing that a purge at or below this seqno hides.
    pub(crate) purged_upto: Seqno,
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rules({:?} at {})", self.policy, self.now)
    }
}

impl Rules {
    /// The time of a seqno, where anybody asks for it.
    pub(super) fn time_of(&self, seqno: Seqno) -> Micros {
        if self.timed { (self.time_of)(seqno) } else { Micros::ZERO }
    }

    /// When a value that was written at a time expires, in microseconds.
    fn expiry(&self, seqno: Seqno, time: Micros) -> Option<Micros> {
        Some(time.saturating_add(ttl_at(&self.ttls, seqno)?))
    }

    /// Whether the policy keeps a version that no view needs.
    pub(super) fn owe(&self, candidate: &PolicyCandidate) -> bool {
        self.policy.keeps_history() && self.policy.owes(candidate, self.now)
    }

    /// Whether a purge hides nothing from anybody any more.
    pub(super) fn may_go(&self, purge: Seqno, demands: &Demands) -> bool {
        self.purged_upto >= purge && !demands.holds_purge(purge)
    }

    /// When the newest value of a key expired, if it is gone for everybody, also for those who look back.
    pub(super) fn expiry_if_gone(&self, entry: &Entry, bytes: usize, demands: &Demands) -> Option<Micros> {
        let Entry { seqno, gap_start, kind, .. } = *entry;
        let time = entry.time?;
        let expiry = self.expiry(seqno, time).filter(|expiry| kind == Kind::Put && *expiry <= self.now)?;
        let owed = self.owe(&PolicyCandidate {
            rank: 0,
            seqno,
            time,
            superseded_at: Some(expiry),
            is_delete: false,
            ended_by_delete: true,
            // An expiry is as good as a delete: number protects nothing that is older than the window.
            deleted_since: Some(expiry),
            bytes,
        });
        let read = demands.any_before(seqno, expiry) || demands.holds_tombstone(seqno, gap_start);
        (!owed && !read).then_some(expiry)
    }
}

/// Somebody who reads a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reader {
    pub(crate) seqno: Seqno,
    /// Purges up to this seqno hide from them what is older.
    pub(crate) purge_horizon: Seqno,
    /// The time of the moment, in microseconds.
    pub(crate) time: Micros,
}

/// Who may still read old versions, in the orders in which it is asked for: for every key, so each answer is found by a
/// search, however many they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readers {
    /// The seqnos that views and pins may read, ascending, each once.
    registered: Vec<Seqno>,
    /// The readers one by one, by seqno; and the earliest time from each on.
    all: Vec<Reader>,
    earliest_from: Vec<Micros>,
    /// Up to which purge something is hidden from whom, ascending: the purge, and the seqno of the reader.
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

    /// The seqnos that somebody reads, ascending, each once.
    pub(crate) fn seqnos(&self) -> &[Seqno] {
        &self.registered
    }
}

/// What readers demand of a keyspace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Demands {
    readers: Arc<Readers>,
    /// The newest seqno of anybody who takes it for lost history when nothing is found.
    newest_distrusting: Option<Seqno>,
}

impl Demands {
    /// What readers demand of a keyspace that has these watermarks when the job begins.
    pub(crate) fn new(readers: &Arc<Readers>, vanished: Seqno, expired_upto: Micros) -> Self {
        let distrusts = |reader: &&Reader| reader.seqno < vanished || reader.time < expired_upto;
        let newest_distrusting = readers.all.iter().rfind(distrusts).map(|reader| reader.seqno);
        Self { readers: Arc::clone(readers), newest_distrusting }
    }

    /// The oldest registered seqno in `from..to`.
    pub(super) fn any_in(&self, from: Seqno, to: Seqno) -> Option<Seqno> {
        let registered = &self.readers.registered;
        let at = registered.partition_point(|seqno| *seqno < from);
        registered.get(at).copied().filter(|seqno| *seqno < to)
    }

    /// Whether somebody looks at a moment from `seqno` on that is before a time.
    fn any_before(&self, seqno: Seqno, time: Micros) -> bool {
        let at = self.readers.all.partition_point(|reader| reader.seqno < seqno);
        self.readers.earliest_from.get(at).is_some_and(|earliest| *earliest < time)
    }

    /// Whether a tombstone that hides nothing any more must stay for the sake of a view. One at or above it, but below
    /// a watermark of the keyspace, would take its absence for lost history. One below it that its gap refuses would
    /// take the absence for "never there".
    pub(super) fn holds_tombstone(&self, seqno: Seqno, gap_start: Option<Seqno>) -> bool {
        let above = self.newest_distrusting.is_some_and(|newest| newest >= seqno);
        above || gap_start.is_some_and(|gap| self.any_in(gap, seqno).is_some())
    }

    /// The newest seqno of anybody who takes it for lost history when nothing is found.
    pub(super) fn newest_distrusting(&self) -> Option<Seqno> {
        self.newest_distrusting
    }

    /// The oldest seqno in `from..to` that somebody reads who came before a purge.
    pub(super) fn before_purge(&self, purge: Seqno, from: Seqno, to: Seqno) -> Option<Seqno> {
        let all = &self.readers.all;
        let at = all.partition_point(|reader| reader.seqno < from);
        let inside = all.get(at..).unwrap_or_default().iter().take_while(|reader| reader.seqno < to);
        // Asked of what a purge is over alone.
        inside.into_iter().find(|reader| reader.purge_horizon < purge).map(|reader| reader.seqno)
    }

    /// Somebody from whom this purge hides what is older, and the next purge above it does not.
    pub(super) fn between_purges(&self, purge: Seqno, next: Seqno) -> Option<Seqno> {
        let purge_horizon = &self.readers.purge_horizon;
        let at = purge_horizon.partition_point(|(purge_horizon, _)| *purge_horizon < purge);
        purge_horizon.get(at).filter(|(purge_horizon, _)| *purge_horizon < next).map(|(_, seqno)| *seqno)
    }

    /// Whether a purge must stay for the sake of a view: of one from before it, which it hides nothing from, or of one
    /// that it answers "absent" and that would take its absence for lost history.
    pub(super) fn holds_purge(&self, purge: Seqno) -> bool {
        let purge_horizon = self.readers.purge_horizon.first().is_some_and(|(purge_horizon, _)| *purge_horizon < purge);
        let reads = self.readers.registered.first().is_some_and(|seqno| *seqno < purge);
        purge_horizon || reads || self.newest_distrusting.is_some()
    }
}

/// The older segments of the main tree of the keyspace outside the job.
#[derive(Clone, Debug, Default)]
pub(crate) struct OlderSegments(pub(crate) Vec<Arc<SegmentMeta>>);

impl OlderSegments {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{Env, Sim};

    /// Each was looked for among all readers, for each key.
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
