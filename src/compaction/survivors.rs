//! Which entries survive, where they go, and what trace the others leave.
//!
//! ```text
//!   one key, newest first      last_writer_wins, a view at 25 is open      mvcc, all inside the window
//!     put@50                   kept: the newest                            kept; gap 10, moved
//!     put@42                   dropped: gap_start of put@50 becomes 42     history [42, 50)
//!     put@20                   kept: the newest ≤ 25                       history [20, 42)
//!     put@10                   dropped: gap_start of put@20 becomes 10     history [10, 20)
//! ```
//!
//! Rules K1 to K8 of `docs/versions.md`. Entries stream through, one pending at a time for each lane: what is dropped beneath it is
//! noted on it before it is written. Only operands wait together, until their base is met and they can become states. Marks of range
//! tombstones count as versions of every key they cover; their gaps are noted on the fragment, and the fragments are handed
//! out clipped at each cut between two outputs.
//!
//! Where a policy keeps the past, what was superseded and is owed goes to the history tier, with its interval; the main tree then has one entry
//! of each key. Where it keeps none, what views still read stays in the main tree beside the newest (K10).

use std::{fmt, sync::Arc};

use super::{Policy, policy::Judged};
use crate::{
    base::{Bytes, KeySpan, Kind, Result},
    merge::{EntryRef, Fragment, Fragments, Gathered, Mark, MergeStrategy, Until},
    segment::{Entry, Finished},
};

/// Where an entry goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Main,
    Past,
}

/// By what is decided.
pub(crate) struct Rules {
    pub(crate) policy: Policy,
    /// Without one operands stay as they are: a custom strategy that this process has not been given yet.
    pub(crate) strategy: Option<MergeStrategy>,
    /// The time of the database, in microseconds.
    pub(crate) now: u64,
    /// From which seqno on what is written lives how long: see [`StoredOptions`](crate::manifest::StoredOptions).
    pub(crate) ttls: Vec<(u64, u64)>,
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
    /// When a value expires, in microseconds.
    fn expiry(&self, seqno: u64, time: Option<u64>) -> Option<u64> {
        let (_, ttl) = self.ttls.iter().rfind(|(from, _)| *from <= seqno).filter(|(_, ttl)| *ttl > 0)?;
        Some(time?.saturating_add(*ttl))
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
}

impl Demands {
    /// The oldest registered seqno in `from..to`.
    pub(super) fn any_in(&self, from: u64, to: u64) -> Option<u64> {
        let at = self.registered.partition_point(|seqno| *seqno < from);
        self.registered.get(at).copied().filter(|seqno| *seqno < to)
    }

    /// Whether a tombstone that hides nothing any more must stay for the sake of a view. One at or above it, but below `vanished`, would
    /// take its absence for lost history. One below it that its gap refuses would take the absence for "never there".
    pub(super) fn holds_tombstone(&self, seqno: u64, gap_start: Option<u64>) -> bool {
        let above = self.any_in(seqno, self.vanished);
        above.or_else(|| self.any_in(gap_start?, seqno)).is_some()
    }

    /// The oldest seqno in `from..to` that somebody reads who came before a purge.
    pub(super) fn before_purge(&self, purge: u64, from: u64, to: u64) -> Option<u64> {
        let reads = |reader: &&Reader| reader.opened < purge && (from..to).contains(&reader.seqno);
        self.readers.iter().filter(reads).map(|reader| reader.seqno).min()
    }
}

/// The older segments of the main tree of the keyspace outside the job.
#[derive(Clone, Debug, Default)]
pub(crate) struct Below(pub(crate) Vec<Arc<Finished>>);

impl Below {
    /// Whether none of them can hold a key of the span.
    fn is_clear(&self, span: &KeySpan) -> bool {
        !self.0.iter().any(|segment| segment.summary.overlaps(span))
    }

    fn is_clear_at(&self, key: &[u8]) -> bool {
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

/// A fragment on its way through.
#[derive(Debug)]
struct Passing {
    span: KeySpan,
    marks: Vec<PassingMark>,
}

#[derive(Clone, Copy, Debug)]
struct PassingMark {
    mark: Mark,
    /// A point entry beneath it was kept: the mark must stay to hide it.
    hides: bool,
}

#[derive(Debug)]
struct Pending {
    entry: Entry,
    value: Bytes,
    /// What was folded into it, when it is an operand: its value is made of that when it is emitted.
    gathered: Option<Gathered>,
}

impl Pending {
    fn new(entry: Entry, value: Bytes) -> Self {
        Self { entry, value, gathered: None }
    }

    /// Folds the next older entry into an operand; `false` when they are to stay apart.
    fn fold(&mut self, strategy: &MergeStrategy, key: &[u8], kind: Kind, value: impl FnOnce() -> Bytes) -> bool {
        let Self { value: newest, gathered, .. } = self;
        if gathered.is_none() {
            *gathered = strategy.gather(newest);
        }
        let Some(parts) = gathered else { return false };
        let fits = match kind {
            // A base of nothing: what is gathered is the state.
            Kind::Delete => true,
            Kind::Put | Kind::WideSum | Kind::Operand => parts.store_older(key, &value()),
            Kind::RangeDelete | Kind::RangePurge | Kind::Recipe | Kind::Purge => false,
        };
        if fits && kind != Kind::Operand {
            self.settle(true);
        }
        fits
    }

    /// Makes the entry of what was gathered; a state, when its base is in it.
    fn settle(&mut self, state: bool) {
        if let Some(gathered) = self.gathered.take() {
            (self.entry.kind, self.value) = gathered.into_entry(state);
        }
    }

    fn widen_gap(&mut self, seqno: u64) {
        self.entry.gap_start = Some(self.entry.gap_start.map_or(seqno, |gap| gap.min(seqno)));
    }

    /// Where the interval of the next older version ends: at the oldest of what was dropped between, else here.
    fn begins(&self, time_of: &dyn Fn(u64) -> u64) -> (u64, u64) {
        let own = self.entry.time.unwrap_or_else(|| time_of(self.entry.seqno));
        match self.entry.gap_start {
            Some(gap) => (gap, time_of(gap).min(own)),
            None => (self.entry.seqno, own),
        }
    }
}

/// What is known of the versions of the current key that were seen already.
#[derive(Debug, Default)]
struct Newer {
    /// The seqno of the one seen last.
    seqno: Option<u64>,
    /// Where the interval of the next one ends, in seqno and time.
    end: (u64, u64),
    /// It was a delete.
    is_delete: bool,
    /// The time of the oldest delete.
    deleted_since: Option<u64>,
    /// How many there were.
    count: u64,
    /// The newest purge.
    purge: Option<u64>,
}

/// Takes entries in order and gives out those that survive.
#[derive(Debug)]
pub(crate) struct Survivors {
    rules: Rules,
    demands: Demands,
    below: Below,
    fragments: Vec<Passing>,
    /// The fragment that covers the current key, or the first one behind it.
    fragment: usize,
    traces: Traces,

    key: Vec<u8>,
    in_key: bool,
    newer: Newer,
    /// The oldest entry so far that stays in the main tree: what goes beneath it is noted on it.
    main: Option<Pending>,
    /// Operands beneath it that wait for their base, newest first, and where the interval of the first of them ends.
    chain: Vec<Pending>,
    chain_end: (u64, u64),
    /// The oldest version so far that goes to the history tier.
    past: Option<Pending>,
    /// A tombstone or expired value that was the newest version, and has left.
    left: Option<u64>,
    /// Versions of the key kept, in either lane.
    kept: usize,
    /// The newest version is the pending one.
    newest: bool,
    /// The mark to look at next, and where the one is that stands directly above the next entry.
    next_mark: usize,
    above_mark: Option<(usize, usize)>,
    /// Marks since the version before: they become versions of the key when what is beneath them goes to the history tier.
    passed_marks: Vec<Mark>,
}

/// Where entries are given out.
pub(crate) trait Out: FnMut(Lane, &Entry, &[u8], &[u8]) -> Result<()> {}
impl<F: FnMut(Lane, &Entry, &[u8], &[u8]) -> Result<()>> Out for F {}

impl Survivors {
    /// Survivors of a merge of entries and `fragments`, all of one keyspace.
    pub(crate) fn new(rules: Rules, demands: Demands, below: Below, fragments: &Fragments) -> Self {
        let mut survivors = Self {
            rules,
            demands,
            below,
            fragments: Vec::new(),
            fragment: 0,
            traces: Traces::default(),
            key: Vec::new(),
            in_key: false,
            newer: Newer::default(),
            main: None,
            chain: Vec::new(),
            chain_end: (0, 0),
            past: None,
            left: None,
            kept: 0,
            newest: false,
            next_mark: 0,
            above_mark: None,
            passed_marks: Vec::new(),
        };
        for fragment in fragments.iter() {
            let marks = survivors.thin(&fragment.marks);
            survivors.fragments.push(Passing { span: fragment.span.clone(), marks });
        }
        survivors
    }

    /// Takes the next entry; `out` gets those that are certain to survive, with their final gaps.
    pub(crate) fn take(&mut self, entry: &EntryRef<'_>, value: impl Fn() -> Bytes, out: &mut impl Out) -> Result<()> {
        if !self.in_key || entry.key != self.key {
            self.end_key(out)?;
            self.begin_key(entry.key);
        }
        self.see_marks_above(entry.seqno, entry.ordinal);
        if let Some(purge) = self.newer.purge {
            // What an operand stands upon is read by whoever reads the operand.
            let upto = if self.is_beneath_operand() { None } else { self.newer.seqno };
            let reader = self.demands.before_purge(purge, entry.seqno, upto.unwrap_or(u64::MAX));
            if reader.is_none() {
                // Gone for good, and nothing is to tell of it.
                return Ok(());
            }
            self.traces.held(reader, entry.key.len() + entry.value.len());
        }
        let same_moment = self.newer.seqno == Some(entry.seqno);
        let beneath_operand = self.is_beneath_operand();
        if same_moment && !beneath_operand && entry.kind != Kind::Purge {
            // A later word of the same batch, or its range tombstone, stands for this one, and for what was dropped beneath it. But a gap noted on a
            // mark must not refuse a view for the sake of a neighbour: then this one stays, to say it of its own key.
            let Some(gap) = entry.gap_start else { return Ok(()) };
            let refused = self.mark_gap().and_then(|noted| self.demands.any_in(noted.min(gap), entry.seqno));
            if refused.is_none() {
                self.note_gap(gap, entry.moved);
                self.newer.end.0 = self.newer.end.0.min(gap);
                return Ok(());
            }
            self.traces.held(refused, entry.value.len());
        }
        let lowest = entry.gap_start.unwrap_or(entry.seqno).min(entry.seqno);
        let wanted = match self.newer.seqno {
            None => true,
            // It goes when nothing is left that it hides.
            Some(_) if entry.kind == Kind::Purge => true,
            Some(_) if same_moment => !beneath_operand,
            Some(above) => {
                // A gap noted on a mark speaks for every key that the mark covers: it must not refuse a view for the sake of a neighbour.
                let from = self.mark_gap().map_or(entry.seqno, |gap| lowest.min(gap));
                let reader = self.demands.any_in(from, above);
                let owed = self.owes(entry);
                if !owed {
                    self.traces.held(reader, entry.key.len() + entry.value.len());
                }
                reader.is_some() || owed
            }
        };
        // Nobody reads between an operand and what is beneath it: they may become one. Where they cannot, both stay.
        let folded = !wanted && beneath_operand && self.fold(entry.kind, &value);
        if wanted || beneath_operand && !folded {
            let time = entry.time.or_else(|| self.keeps_time().then(|| (self.rules.time_of)(entry.seqno)));
            let kept = Entry {
                gap_start: entry.gap_start,
                moved: entry.moved,
                time: time.filter(|_| self.keeps_time()),
                ..Entry::new(entry.kind, entry.seqno)
            };
            self.keep(Pending::new(kept, value()), same_moment, out)?;
            // What is dropped from here on is noted on this one.
            self.above_mark = None;
            self.passed_marks.clear();
        } else if same_moment {
            entry.gap_start.into_iter().for_each(|gap| self.note_gap(gap, entry.moved));
        } else {
            self.traces.horizon = self.traces.horizon.max(self.newer.seqno.unwrap_or(0));
            self.note_gap(lowest, entry.moved);
        }
        if folded && entry.kind != Kind::Operand {
            self.resolve(out)?;
        }
        self.saw(entry);
        Ok(())
    }

    /// Ends the current key. To be called before an output is cut, and at the end.
    pub(crate) fn end_key(&mut self, out: &mut impl Out) -> Result<()> {
        if !self.in_key {
            return Ok(());
        }
        self.in_key = false;
        if self.is_beneath_operand() && self.below.is_clear_at(&self.key) && self.fold(Kind::Delete, Bytes::default) {
            // Nothing older is left anywhere: what was gathered is the state.
            self.resolve(out)?;
        }
        if self.is_all_there_is()
            && let Some(pending) = self.main.take()
        {
            self.leave_last(pending);
        }
        self.leave_chain_in_place(out)?;
        self.emit_past(false, out)?;
        self.emit_main(false, out)
    }

    /// Whether an entry with this key begins a new key.
    pub(crate) fn is_new_key(&self, key: &[u8]) -> bool {
        !self.in_key || self.key != key
    }

    /// The range tombstones of everything before `cut` (of all that is left, without one), final.
    pub(crate) fn fragments_before(&mut self, cut: Option<&[u8]>) -> Fragments {
        let mut out = Vec::new();
        let mut rest = Vec::new();
        for passing in std::mem::take(&mut self.fragments) {
            match cut {
                Some(cut) if passing.span.start.as_slice() >= cut => rest.push(passing),
                Some(cut) if passing.span.end.as_deref().is_none_or(|end| end > cut) => {
                    let Passing { span, marks } = passing;
                    let left = KeySpan { start: span.start, end: Some(cut.to_vec()) };
                    let right = KeySpan { start: cut.to_vec(), end: span.end };
                    // The right part begins afresh, but for its gaps: those it may keep, wider than need be.
                    let afresh = marks.iter().map(|passing| PassingMark { hides: false, ..*passing }).collect();
                    out.extend(self.finish(Passing { span: left, marks }));
                    rest.push(Passing { span: right, marks: afresh });
                }
                _ => out.extend(self.finish(passing)),
            }
        }
        self.fragments = rest;
        self.fragment = 0;
        // They come in order and apart, as they went in.
        Fragments::from_sorted(out).unwrap_or_default()
    }

    pub(crate) fn into_traces(mut self) -> Traces {
        self.traces.held_by.sort_unstable();
        self.traces
    }

    /// What was kept only for registered seqnos since this was asked last.
    pub(crate) fn take_held(&mut self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.traces.held_by)
    }

    /// Whether entries carry their commit time.
    fn keeps_time(&self) -> bool {
        self.rules.timed
    }

    /// Whether the policy keeps a version that was superseded.
    fn owes(&self, entry: &EntryRef<'_>) -> bool {
        if !self.rules.policy.keeps_past() || self.mark_gap_hides(entry.seqno) {
            return false;
        }
        self.rules.policy.owes(
            &Judged {
                rank: self.newer.count,
                seqno: entry.seqno,
                time: entry.time.unwrap_or_else(|| (self.rules.time_of)(entry.seqno)),
                superseded_at: Some(self.newer.end.1),
                is_delete: matches!(entry.kind, Kind::Delete | Kind::Purge),
                ended_by_delete: self.newer.is_delete,
                deleted_since: self.newer.deleted_since,
                bytes: entry.key.len() + entry.value.len(),
            },
            self.rules.now,
        )
    }

    /// Whether a mark above has a gap that reaches down to an entry: then nobody can read the entry, whatever is kept.
    fn mark_gap_hides(&self, seqno: u64) -> bool {
        let Some((fragment, mark)) = self.above_mark else { return false };
        let mark = self.fragments.get(fragment).and_then(|fragment| fragment.marks.get(mark));
        mark.and_then(|passing| passing.mark.gap_start).is_some_and(|gap| gap <= seqno)
    }

    /// Drops the marks that no registered seqno asks for, noting them on the mark above.
    fn thin(&mut self, marks: &[Mark]) -> Vec<PassingMark> {
        let mut thinned: Vec<PassingMark> = Vec::new();
        let mut above: Option<Mark> = None;
        for &mark in marks {
            if above.is_some_and(|above| above.seqno == mark.seqno) {
                continue;
            }
            // As for entries beneath a mark: a gap speaks for every key, and whoever stays between two marks needs both.
            let lowest = mark.gap_start.unwrap_or(mark.seqno).min(mark.seqno);
            let from = |kept: &PassingMark| kept.mark.gap_start.map_or(lowest, |gap| gap.min(lowest));
            let reader =
                above.zip(thinned.last()).and_then(|(above, kept)| self.demands.any_in(from(kept), above.seqno));
            let owed = above.is_some_and(|above| mark.purge || self.owes_mark(&mark, &above));
            match thinned.last_mut() {
                Some(kept) if reader.is_none() && !owed => {
                    if !kept.mark.purge {
                        kept.mark.widen_gap(lowest);
                        self.traces.horizon = self.traces.horizon.max(above.map_or(0, |above| above.seqno));
                    }
                }
                _ => {
                    self.traces.held(reader.filter(|_| !owed), 0);
                    thinned.push(PassingMark { mark, hides: false });
                }
            }
            above = Some(mark);
        }
        thinned
    }

    fn owes_mark(&self, mark: &Mark, above: &Mark) -> bool {
        let time = |mark: &Mark| if mark.time == 0 { (self.rules.time_of)(mark.seqno) } else { mark.time };
        self.rules.policy.keeps_past()
            && self.rules.policy.owes(
                &Judged {
                    rank: 1,
                    seqno: mark.seqno,
                    time: time(mark),
                    superseded_at: Some(time(above)),
                    is_delete: true,
                    ended_by_delete: true,
                    deleted_since: Some(time(above)),
                    bytes: 0,
                },
                self.rules.now,
            )
    }

    /// Whether the version just above the next one is an operand, so that the next one is a part of it.
    fn is_beneath_operand(&self) -> bool {
        let last = self.chain.last().filter(|_| self.above_mark.is_none());
        last.is_some_and(|pending| pending.entry.kind == Kind::Operand)
    }

    /// Folds the next older version into the pending operand; `false` when it has to stay apart.
    fn fold(&mut self, kind: Kind, value: impl FnOnce() -> Bytes) -> bool {
        let (Some(pending), Some(strategy)) = (self.chain.last_mut(), &self.rules.strategy) else { return false };
        pending.fold(strategy, &self.key, kind, value)
    }

    /// Keeps a version, in the lane where it belongs.
    fn keep(&mut self, pending: Pending, same_moment: bool, out: &mut impl Out) -> Result<()> {
        let keeps_past = self.rules.policy.keeps_past();
        let first = self.newer.seqno.is_none();
        let Entry { kind, seqno, .. } = pending.entry;
        if kind == Kind::Operand {
            if !keeps_past || self.chain.last().is_some_and(|last| last.entry.seqno == seqno) {
                self.leave_chain_in_place(out)?;
            }
            if keeps_past && !self.passed_marks.is_empty() {
                self.make_marks_versions(out)?;
            }
            self.newest = first;
            if self.chain.is_empty() {
                self.chain_end = self.newer.end;
            }
            self.chain.push(pending);
            return Ok(());
        }
        if self.is_beneath_operand() {
            // The base of what waits.
            if keeps_past && !same_moment {
                return self.resolve_upon(pending, out);
            }
            self.leave_chain_in_place(out)?;
            return self.keep_main(pending, out);
        }
        if first {
            return self.keep_newest(pending, out);
        }
        let ends = self.newer.end.0 > seqno;
        if keeps_past && ends && kind != Kind::Purge && !self.mark_gap_hides(seqno) {
            self.make_marks_versions(out)?;
            return self.keep_past(pending, self.newer.end, out);
        }
        // Operands above a range tombstone stay above what is beneath that.
        self.leave_chain_in_place(out)?;
        self.keep_main(pending, out)
    }

    /// Keeps the newest version of a key; a tombstone with nothing to hide goes at once, its past with it or to the history tier (K4).
    fn keep_newest(&mut self, pending: Pending, out: &mut impl Out) -> Result<()> {
        let Entry { kind, seqno, gap_start, time, .. } = pending.entry;
        let older_mark = self.marks().iter().any(|passing| passing.mark.seqno < seqno);
        let nothing_below = self.below.is_clear_at(&self.key) && !older_mark;
        let time = time.unwrap_or(0);
        // What cannot be folded stays in the main tree, and must not lose what hides it.
        let at_once =
            self.rules.policy.keeps_past() && self.rules.strategy.as_ref().is_some_and(|strategy| !strategy.folds());
        if kind == Kind::Purge && nothing_below && self.purge_may_go(seqno) {
            self.left = Some(0);
            return Ok(());
        }
        if nothing_below && at_once && kind == Kind::Delete && !self.demands.holds_tombstone(seqno, gap_start) {
            self.tombstone_leaves(pending, time);
            return Ok(());
        }
        if nothing_below && at_once && self.has_lapsed(&pending) {
            self.value_leaves(&pending);
            return Ok(());
        }
        self.newest = true;
        self.keep_main(pending, out)
    }

    /// Lets a tombstone go that is all the main tree has of a key: to the history tier while it is owed.
    fn tombstone_leaves(&mut self, mut pending: Pending, time: u64) {
        let Entry { seqno, gap_start, .. } = pending.entry;
        let judged = Judged {
            rank: 0,
            seqno,
            time,
            superseded_at: None,
            is_delete: true,
            ended_by_delete: false,
            deleted_since: None,
            bytes: self.key.len(),
        };
        if self.rules.policy.owes(&judged, self.rules.now) {
            pending.entry.until = Some(Until::Open);
            pending.entry.moved = false;
            self.past = Some(pending);
        } else {
            self.traces.tombstone_left(seqno, gap_start);
            self.left = Some(seqno);
        }
    }

    /// Lets an expired value go that is all the main tree has of a key.
    fn value_leaves(&mut self, pending: &Pending) {
        let Entry { seqno, gap_start, time, .. } = pending.entry;
        self.traces.tombstone_left(seqno, gap_start);
        self.traces.lapsed = self.traces.lapsed.max(self.rules.expiry(seqno, time).unwrap_or(0));
        self.left = Some(seqno);
    }

    /// Whether the newest value of a key is gone for everybody, also for those who look back.
    fn has_lapsed(&self, pending: &Pending) -> bool {
        let Entry { seqno, gap_start, time, kind, .. } = pending.entry;
        let Some(expiry) = self.rules.expiry(seqno, time).filter(|_| kind == Kind::Put) else { return false };
        let judged = Judged {
            rank: 0,
            seqno,
            time: time.unwrap_or(0),
            superseded_at: Some(expiry),
            is_delete: false,
            ended_by_delete: true,
            // An expiry is as good as a delete: number protects nothing that is older than the window.
            deleted_since: Some(expiry),
            bytes: self.key.len() + pending.value.len(),
        };
        let reads = |reader: &Reader| reader.seqno >= seqno && reader.time < expiry;
        let owed = self.rules.policy.keeps_past() && self.rules.policy.owes(&judged, self.rules.now);
        let read = self.demands.readers.iter().any(reads) || self.demands.holds_tombstone(seqno, gap_start);
        expiry <= self.rules.now && !owed && !read
    }

    fn purge_may_go(&self, seqno: u64) -> bool {
        self.rules.purged_upto >= seqno && self.demands.readers.iter().all(|reader| reader.opened >= seqno)
    }

    /// Keeps a version in the main tree, beneath those that are there.
    fn keep_main(&mut self, pending: Pending, out: &mut impl Out) -> Result<()> {
        if pending.entry.kind == Kind::Purge
            && self.main.is_some()
            && self.below.is_clear_at(&self.key)
            && self.purge_may_go(pending.entry.seqno)
        {
            return Ok(());
        }
        self.emit_main(true, out)?;
        self.kept += 1;
        self.hide_from_marks(pending.entry.seqno);
        self.main = Some(pending);
        Ok(())
    }

    /// Moves a version that was superseded to the history tier, with its interval (K8).
    fn keep_past(&mut self, mut pending: Pending, (seqno, time): (u64, u64), out: &mut impl Out) -> Result<()> {
        if seqno <= pending.entry.seqno {
            // Superseded in its own commit: nobody ever saw it.
            return Ok(());
        }
        self.emit_past(true, out)?;
        self.kept += 1;
        let entry = &mut pending.entry;
        let began = entry.time.unwrap_or(0);
        entry.until = Some(Until::At { seqno, time: time.max(began) });
        entry.time = Some(began);
        entry.moved = false;
        let lowest = entry.gap_start.unwrap_or(entry.seqno).min(entry.seqno);
        if let Some(main) = &mut self.main {
            main.widen_gap(lowest);
            main.entry.moved = true;
        }
        self.past = Some(pending);
        Ok(())
    }

    /// Makes versions of the key of the marks just above the next entry, which goes to the history tier: there no mark reaches.
    fn make_marks_versions(&mut self, out: &mut impl Out) -> Result<()> {
        for mark in std::mem::take(&mut self.passed_marks) {
            let time = if mark.time == 0 { (self.rules.time_of)(mark.seqno) } else { mark.time };
            // The end of the mark itself; that of what is beneath was set when the mark was passed.
            let kind = if mark.purge { Kind::Purge } else { Kind::Delete };
            let entry = Entry { gap_start: mark.gap_start, time: Some(time), ..Entry::new(kind, mark.seqno) };
            let pending = Pending::new(entry, Bytes::default());
            if !self.chain.is_empty() {
                self.resolve_upon(pending, out)?;
            } else if self.main.is_none() && self.past.is_none() && self.left.is_none() {
                self.keep_newest(pending, out)?;
            } else if mark.purge {
                self.keep_main(pending, out)?;
            } else if let Some(end) = self.mark_end(mark.seqno) {
                self.keep_past(pending, end, out)?;
            }
        }
        // From here on the point version stands for the mark.
        self.above_mark = None;
        Ok(())
    }

    /// Where the interval of a mark ends that became a version of the key.
    fn mark_end(&self, seqno: u64) -> Option<(u64, u64)> {
        let time_of = &*self.rules.time_of;
        let above = self.past.as_ref().or(self.main.as_ref())?;
        let open = above.entry.seqno <= seqno;
        (!open).then(|| above.begins(time_of))
    }

    /// Ends a chain of operands with its base, when that has been folded into the last of them.
    fn resolve(&mut self, out: &mut impl Out) -> Result<()> {
        if self.rules.policy.keeps_past()
            && let Some(base) = self.chain.pop()
        {
            return self.resolve_upon(base, out);
        }
        self.leave_chain_in_place(out)
    }

    /// Makes states of the operands that wait, upon `base`: the newest stays, the others go to the history tier (M3).
    fn resolve_upon(&mut self, base: Pending, out: &mut impl Out) -> Result<()> {
        let Some(strategy) = &self.rules.strategy else { return self.give_up_chain(base, out) };
        let mut states: Vec<(Kind, Bytes)> = Vec::new();
        let mut below = (base.entry.kind, base.value.clone());
        for operand in self.chain.iter_mut().rev() {
            operand.settle(false);
            let state = strategy.gather(&operand.value).and_then(|mut gathered| {
                let fits = match below.0 {
                    Kind::Put | Kind::WideSum => gathered.store_older(&self.key, &below.1),
                    Kind::Delete => true,
                    _ => false,
                };
                fits.then(|| gathered.into_entry(true))
            });
            let Some(state) = state else { return self.give_up_chain(base, out) };
            below = state.clone();
            states.push(state);
        }
        let chain = std::mem::take(&mut self.chain);
        let newest_is_main = self.main.is_none() && self.past.is_none() && self.left.is_none();
        let mut end = (!newest_is_main).then_some(self.chain_end);
        let states = chain.into_iter().zip(states.into_iter().rev()).map(|(operand, (kind, value))| Pending {
            entry: Entry { kind, ..operand.entry },
            value,
            gathered: None,
        });
        for pending in states.chain([base]) {
            let begins = pending.begins(&*self.rules.time_of);
            match end {
                None => self.keep_main(pending, out)?,
                Some(end) => self.keep_past(pending, end, out)?,
            }
            end = Some(begins);
        }
        Ok(())
    }

    /// What cannot be folded stays in the main tree, with its base.
    fn give_up_chain(&mut self, base: Pending, out: &mut impl Out) -> Result<()> {
        self.leave_chain_in_place(out)?;
        if base.entry.kind == Kind::Operand {
            self.chain.push(base);
            return self.leave_chain_in_place(out);
        }
        self.keep_main(base, out)
    }

    fn leave_chain_in_place(&mut self, out: &mut impl Out) -> Result<()> {
        for mut operand in std::mem::take(&mut self.chain) {
            operand.settle(false);
            self.keep_main(operand, out)?;
        }
        Ok(())
    }

    fn begin_key(&mut self, key: &[u8]) {
        self.key.clear();
        self.key.extend_from_slice(key);
        self.in_key = true;
        self.kept = 0;
        self.newer = Newer::default();
        self.left = None;
        self.next_mark = 0;
        self.above_mark = None;
        self.passed_marks.clear();
        self.newest = false;
        while let Some(fragment) = self.fragments.get(self.fragment)
            && fragment.span.end.as_deref().is_some_and(|end| end <= key)
        {
            self.fragment += 1;
        }
    }

    /// Notes what was seen, for the next older version.
    fn saw(&mut self, entry: &EntryRef<'_>) {
        let time = entry.time.unwrap_or_else(|| self.time_of(entry.seqno));
        let end = match entry.gap_start {
            Some(gap) if gap < entry.seqno => (gap, self.time_of(gap).min(time)),
            _ => (entry.seqno, time),
        };
        let is_delete = matches!(entry.kind, Kind::Delete | Kind::Purge);
        self.saw_version(entry.seqno, end, is_delete.then_some(time));
        // What was moved from beneath it may have been a delete: then that is what ended the next one.
        self.newer.is_delete |= entry.moved;
        if entry.kind == Kind::Purge {
            self.newer.purge = Some(entry.seqno);
        }
    }

    fn saw_version(&mut self, seqno: u64, end: (u64, u64), deleted: Option<u64>) {
        // It only goes down: the gap of one further above may reach beneath this one.
        if self.newer.seqno.is_none() || end.0 <= self.newer.end.0 {
            self.newer.end = end;
        }
        self.newer.seqno = Some(seqno);
        self.newer.is_delete = deleted.is_some();
        if let Some(time) = deleted {
            self.newer.deleted_since = Some(self.newer.deleted_since.map_or(time, |since| since.min(time)));
        }
        self.newer.count += 1;
    }

    /// The time of a seqno, where anybody asks for it.
    fn time_of(&self, seqno: u64) -> u64 {
        if self.keeps_time() { (self.rules.time_of)(seqno) } else { 0 }
    }

    /// The marks that cover the current key.
    fn marks(&self) -> &[PassingMark] {
        let covering = self.fragments.get(self.fragment).filter(|fragment| fragment.span.start <= self.key);
        covering.map_or(&[], |fragment| &fragment.marks)
    }

    fn marks_mut(&mut self) -> &mut [PassingMark] {
        let key = &self.key;
        let covering = self.fragments.get_mut(self.fragment).filter(|fragment| fragment.span.start <= *key);
        covering.map_or(&mut [], |fragment| &mut fragment.marks)
    }

    /// Passes the marks that are newer than a place: each is the newest version of the key so far.
    fn see_marks_above(&mut self, seqno: u64, ordinal: u32) {
        while let Some(PassingMark { mark, .. }) = self.marks().get(self.next_mark).copied()
            && (mark.seqno, mark.ordinal) > (seqno, ordinal)
        {
            let place = (self.fragment, self.next_mark);
            self.next_mark += 1;
            // The entry above stands for a mark of its own commit: that is where gaps are noted; and what lies between that entry and its gap
            // has been told of elsewhere. But of an operand the mark of its commit is the base.
            let told = self.newer.seqno.is_some() && mark.seqno >= self.newer.end.0;
            let base = self.newer.seqno == Some(mark.seqno) && self.is_beneath_operand();
            if told && !base {
                if mark.purge {
                    self.newer.purge = Some(mark.seqno);
                }
                if let Some(gap) = mark.gap_start.filter(|gap| *gap < self.newer.end.0) {
                    self.note_gap(gap, false);
                    self.newer.end = (gap, self.time_of(gap).min(self.newer.end.1));
                }
                continue;
            }
            let time = if mark.time == 0 { self.time_of(mark.seqno) } else { mark.time };
            let end = match mark.gap_start {
                Some(gap) if gap < mark.seqno => (gap, self.time_of(gap).min(time)),
                _ => (mark.seqno, time),
            };
            self.saw_version(mark.seqno, end, Some(time));
            self.passed_marks.push(mark);
            self.above_mark = Some(place);
            if mark.purge {
                self.newer.purge = Some(mark.seqno);
            }
        }
    }

    /// A point entry at `seqno` stays: the marks above it must stay to hide it.
    fn hide_from_marks(&mut self, seqno: u64) {
        for passing in self.marks_mut() {
            passing.hides |= passing.mark.seqno > seqno;
        }
    }

    /// The gap that the next one dropped would be noted with, when a mark holds it: what the mark has of other keys counts too.
    fn mark_gap(&self) -> Option<u64> {
        let (fragment, mark) = self.above_mark?;
        let mark = self.fragments.get(fragment)?.marks.get(mark)?.mark;
        Some(mark.gap_start.unwrap_or(mark.seqno))
    }

    /// Notes on what stands above that something was dropped, or that `moved` something has its past in the history tier.
    fn note_gap(&mut self, seqno: u64, moved: bool) {
        if let Some((fragment, mark)) = self.above_mark {
            let passing = self.fragments.get_mut(fragment).and_then(|fragment| fragment.marks.get_mut(mark));
            if let Some(passing) = passing {
                passing.mark.widen_gap(seqno);
            }
            return;
        }
        if let Some(operand) = self.chain.last_mut() {
            operand.widen_gap(seqno);
            operand.entry.moved |= moved;
            return;
        }
        if let Some(past) = &mut self.past {
            past.widen_gap(seqno);
            if let Some(main) = &mut self.main {
                main.widen_gap(seqno);
            }
            return;
        }
        if let Some(main) = &mut self.main {
            if main.entry.moved {
                // What is beneath the versions that were moved cannot be noted on them: they stand in other files.
                self.traces.vanished = self.traces.vanished.max(self.newer.end.0);
            }
            main.widen_gap(seqno);
            main.entry.moved |= moved;
        } else if let Some(left) = self.left {
            self.traces.vanished = self.traces.vanished.max(left);
        }
    }

    /// Whether the newest version is all that is left of the key, with nothing to hide (K4).
    fn is_all_there_is(&self) -> bool {
        let Some(Pending { entry, .. }) = &self.main else { return false };
        // An older mark would be found once a tombstone is gone, and answer for times it knows nothing of.
        let older_mark = self.marks().iter().any(|passing| passing.mark.seqno < entry.seqno);
        self.kept == 1 && self.newest && self.chain.is_empty() && !older_mark && self.below.is_clear_at(&self.key)
    }

    /// Lets the last version of a key go, if it is a tombstone or has expired and nobody needs it; else it stays.
    fn leave_last(&mut self, pending: Pending) {
        let Entry { kind, seqno, gap_start, time, .. } = pending.entry;
        let held = self.demands.holds_tombstone(seqno, gap_start);
        if kind == Kind::Delete && !held && self.rules.policy.keeps_past() {
            self.tombstone_leaves(pending, time.unwrap_or(0));
        } else if kind == Kind::Delete && !held {
            self.traces.tombstone_left(seqno, gap_start);
        } else if self.has_lapsed(&pending) {
            self.value_leaves(&pending);
        } else {
            self.main = Some(pending);
        }
    }

    fn emit_main(&mut self, older_follows: bool, out: &mut impl Out) -> Result<()> {
        let Some(mut pending) = self.main.take() else { return Ok(()) };
        pending.settle(false);
        out(Lane::Main, &Entry { older_follows, ..pending.entry }, &self.key, &pending.value)
    }

    fn emit_past(&mut self, older_follows: bool, out: &mut impl Out) -> Result<()> {
        let Some(pending) = self.past.take() else { return Ok(()) };
        out(Lane::Past, &Entry { older_follows, ..pending.entry }, &self.key, &pending.value)
    }

    /// Whether reads may go on from a segment of this span to older ones.
    pub(crate) fn passed(&self, span: &KeySpan) -> bool {
        !self.below.is_clear(span)
    }

    /// A fragment as it goes to disk, or nothing when its tombstones may go.
    fn finish(&mut self, passing: Passing) -> Option<Fragment> {
        // Where the past has a tier of its own nothing is left beneath the marks; else the one that goes must be the only one.
        let together = self.rules.policy.keeps_past() || passing.marks.len() == 1;
        let may_go = |passing: &PassingMark| {
            let Mark { seqno, gap_start, purge, .. } = passing.mark;
            !passing.hides && !self.demands.holds_tombstone(seqno, gap_start) && (!purge || self.purge_may_go(seqno))
        };
        if together && self.below.is_clear(&passing.span) && passing.marks.iter().all(may_go) {
            for PassingMark { mark, .. } in passing.marks {
                self.traces.tombstone_left(mark.seqno, mark.gap_start);
            }
            return None;
        }
        let keeps_time = self.keeps_time();
        let mark = |passing: PassingMark| {
            let time = if keeps_time { passing.mark.time } else { 0 };
            Mark { ordinal: 0, time, ..passing.mark }
        };
        Some(Fragment { span: passing.span, marks: passing.marks.into_iter().map(mark).collect() })
    }
}
