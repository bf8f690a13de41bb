//! Which entries survive, and what trace the others leave.
//!
//! ```text
//!   one key, newest first      a view at 25 is open
//!     put@50                   kept: the newest
//!     put@42                   dropped: gap_start of put@50 becomes 42
//!     put@20                   kept: the newest ≤ 25
//!     put@10                   dropped: gap_start of put@20 becomes 10
//! ```
//!
//! Rules K1 to K6 of `docs/versions.md`. Entries stream through, one pending at a time: what is dropped beneath it is noted on
//! it before it is written. Marks of range tombstones count as versions of every key they cover; their gaps are noted on
//! the fragment, and the fragments are handed out clipped at each cut between two outputs.

use std::sync::Arc;

use super::Policy;
use crate::{
    base::{Bytes, KeySpan, Kind, Result},
    merge::{EntryRef, Fragment, Fragments, Gathered, Mark, MergeStrategy},
    segment::{Entry, Finished},
};

/// Who may still read old versions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Demands {
    /// The seqnos that views, pins and transactions may read, ascending.
    pub(crate) registered: Vec<u64>,
    /// The keyspace's `vanished` when the job began.
    pub(crate) vanished: u64,
}

impl Demands {
    /// The oldest registered seqno in `from..to`.
    fn any_in(&self, from: u64, to: u64) -> Option<u64> {
        let at = self.registered.partition_point(|seqno| *seqno < from);
        self.registered.get(at).copied().filter(|seqno| *seqno < to)
    }

    /// Whether a tombstone that hides nothing any more must stay for the sake of a view. One at or above it, but below `vanished`, would
    /// take its absence for lost history. One below it that its gap refuses would take the absence for "never there".
    fn holds_tombstone(&self, seqno: u64, gap_start: Option<u64>) -> bool {
        let above = self.any_in(seqno, self.vanished);
        above.or_else(|| self.any_in(gap_start?, seqno)).is_some()
    }
}

/// The older segments of the keyspace outside the job.
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
    /// The largest seqno of a tombstone that left with its past gone (K5).
    pub(crate) vanished: u64,
    /// The newest superseder of anything dropped (K6).
    pub(crate) horizon: u64,
    /// Some tombstone left.
    pub(crate) tombstones_left: bool,
    /// Registered seqnos for whose sake old versions were kept.
    pub(crate) held_by: Vec<u64>,
}

impl Traces {
    fn tombstone_left(&mut self, seqno: u64, gap_start: Option<u64>) {
        self.tombstones_left = true;
        if gap_start.is_some() {
            self.vanished = self.vanished.max(seqno);
        }
    }

    /// The seqno below which a view that the job did not know of may have lost what it stands on; `vanished` is the keyspace's
    /// mark now. A tombstone that left, with or without its past, changes what such a view says below that mark.
    pub(crate) fn newest_change(&self, vanished: u64) -> u64 {
        let marks = self.horizon.max(self.vanished);
        if self.tombstones_left { marks.max(vanished) } else { marks }
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

/// The newest kept version so far of the current key: where the next gap is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Nothing,
    Pending,
    /// A mark of the fragment at this place.
    Mark(usize, usize),
}

#[derive(Debug)]
struct Pending {
    entry: Entry,
    value: Bytes,
    /// What was folded into it, when it is an operand: its value is made of that when it is emitted.
    gathered: Option<Gathered>,
}

impl Pending {
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
            Kind::RangeDelete | Kind::Recipe | Kind::Purge => false,
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
}

/// Takes entries in order and gives out those that survive.
#[derive(Debug)]
pub(crate) struct Survivors {
    policy: Policy,
    /// Without one operands stay as they are: a custom strategy that this process has not been given yet.
    strategy: Option<MergeStrategy>,
    demands: Demands,
    below: Below,
    fragments: Vec<Passing>,
    /// The fragment that covers the current key, or the first one behind it.
    fragment: usize,
    traces: Traces,

    key: Vec<u8>,
    in_key: bool,
    pending: Option<Pending>,
    kept: usize,
    /// The seqno of the version seen last, and the mark to look at next.
    above: Option<u64>,
    next_mark: usize,
    holder: Holder,
    /// Whether the pending entry is the newest version of its key.
    newest: bool,
}

impl Survivors {
    /// Survivors of a merge of entries and `fragments`, all of one keyspace.
    pub(crate) fn new(
        (policy, strategy): (Policy, Option<MergeStrategy>),
        demands: Demands,
        below: Below,
        fragments: &Fragments,
    ) -> Self {
        let mut survivors = Self {
            policy,
            strategy,
            demands,
            below,
            fragments: Vec::new(),
            fragment: 0,
            traces: Traces::default(),
            key: Vec::new(),
            in_key: false,
            pending: None,
            kept: 0,
            above: None,
            next_mark: 0,
            holder: Holder::Nothing,
            newest: false,
        };
        for fragment in fragments.iter() {
            let marks = survivors.thin(&fragment.marks);
            survivors.fragments.push(Passing { span: fragment.span.clone(), marks });
        }
        survivors
    }

    /// Takes the next entry; `out` gets those that are certain to survive, with their final gaps.
    pub(crate) fn take(
        &mut self,
        entry: &EntryRef<'_>,
        value: impl Fn() -> Bytes,
        out: &mut impl FnMut(&Entry, &[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        if !self.in_key || entry.key != self.key {
            self.end_key(out)?;
            self.begin_key(entry.key);
        }
        self.see_marks_above(entry.seqno, entry.ordinal);
        let beneath_operand = self.beneath_operand();
        let same_moment = self.above == Some(entry.seqno);
        if same_moment && !beneath_operand {
            // A later word of the same batch, or its range tombstone, stands for this one, and for what was dropped beneath it. But a gap noted on a
            // mark must not refuse a view for the sake of a neighbour: then this one stays, to say it of its own key.
            let Some(gap) = entry.gap_start else { return Ok(()) };
            let refused = self.mark_gap().and_then(|noted| self.demands.any_in(noted.min(gap), entry.seqno));
            if refused.is_none() {
                self.note_gap(gap);
                return Ok(());
            }
            self.traces.held_by.extend(refused);
        }
        let lowest = entry.gap_start.unwrap_or(entry.seqno).min(entry.seqno);
        let wanted = match self.above {
            None => true,
            Some(_) if same_moment => !beneath_operand,
            Some(above) => {
                // A gap noted on a mark speaks for every key that the mark covers: it must not refuse a view for the sake of a neighbour.
                let from = self.mark_gap().map_or(entry.seqno, |gap| lowest.min(gap));
                let wanted = self.demands.any_in(from, above);
                self.traces.held_by.extend(wanted);
                wanted.is_some() || self.policy.owes()
            }
        };
        // Nobody reads between an operand and what is beneath it: they may become one. Where they cannot, both stay.
        let folded = !wanted && beneath_operand && self.fold(entry.kind, &value);
        if wanted || beneath_operand && !folded {
            self.emit_pending(true, out)?;
            self.newest = self.above.is_none();
            self.kept += 1;
            self.hide_from_marks(entry.seqno);
            self.holder = Holder::Pending;
            self.pending = Some(Pending {
                entry: Entry {
                    kind: entry.kind,
                    seqno: entry.seqno,
                    gap_start: entry.gap_start,
                    moved: entry.moved,
                    time: None,
                    until: None,
                    older_follows: false,
                },
                value: value(),
                gathered: None,
            });
        } else if same_moment {
            entry.gap_start.into_iter().for_each(|gap| self.note_gap(gap));
        } else {
            self.traces.horizon = self.traces.horizon.max(self.above.unwrap_or(0));
            self.note_gap(lowest);
        }
        self.above = Some(entry.seqno);
        Ok(())
    }

    /// Ends the current key. To be called before an output is cut, and at the end.
    pub(crate) fn end_key(&mut self, out: &mut impl FnMut(&Entry, &[u8], &[u8]) -> Result<()>) -> Result<()> {
        if self.in_key {
            self.in_key = false;
            if self.beneath_operand() && self.below.is_clear_at(&self.key) {
                // Nothing older is left anywhere: what was gathered is the state.
                self.fold(Kind::Delete, Bytes::default);
            }
            if self.tombstone_may_go()
                && let Some(Pending { entry, .. }) = self.pending.take()
            {
                self.traces.tombstone_left(entry.seqno, entry.gap_start);
            }
            self.emit_pending(false, out)?;
        }
        Ok(())
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
        self.traces.held_by.dedup();
        self.traces
    }

    /// Drops the marks that no registered seqno asks for, noting them on the mark above.
    fn thin(&mut self, marks: &[Mark]) -> Vec<PassingMark> {
        let mut thinned: Vec<PassingMark> = Vec::new();
        let mut above = None;
        for &mark in marks {
            if above == Some(mark.seqno) {
                continue;
            }
            // As for entries beneath a mark: a gap speaks for every key, and whoever stays between two marks needs both.
            let lowest = mark.gap_start.unwrap_or(mark.seqno).min(mark.seqno);
            let from = |kept: &PassingMark| kept.mark.gap_start.map_or(lowest, |gap| gap.min(lowest));
            let wanted = above.zip(thinned.last()).map(|(above, kept)| self.demands.any_in(from(kept), above));
            match (wanted, thinned.last_mut()) {
                (Some(None), Some(kept)) if !self.policy.owes() => {
                    kept.mark.widen_gap(lowest);
                    self.traces.horizon = self.traces.horizon.max(above.unwrap_or(0));
                }
                _ => {
                    self.traces.held_by.extend(wanted.flatten());
                    thinned.push(PassingMark { mark, hides: false });
                }
            }
            above = Some(mark.seqno);
        }
        thinned
    }

    /// Whether the version just above the next one is an operand, so that the next one is a part of it.
    fn beneath_operand(&self) -> bool {
        let operand = |pending: &Pending| pending.entry.kind == Kind::Operand;
        self.holder == Holder::Pending && self.pending.as_ref().is_some_and(operand)
    }

    /// Folds the next older version into the pending operand; `false` when it has to stay apart.
    fn fold(&mut self, kind: Kind, value: impl FnOnce() -> Bytes) -> bool {
        let (Some(pending), Some(strategy)) = (&mut self.pending, &self.strategy) else { return false };
        pending.fold(strategy, &self.key, kind, value)
    }

    fn begin_key(&mut self, key: &[u8]) {
        self.key.clear();
        self.key.extend_from_slice(key);
        self.in_key = true;
        self.kept = 0;
        self.above = None;
        self.next_mark = 0;
        self.holder = Holder::Nothing;
        self.newest = false;
        while let Some(fragment) = self.fragments.get(self.fragment)
            && fragment.span.end.as_deref().is_some_and(|end| end <= key)
        {
            self.fragment += 1;
        }
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
        while let Some(PassingMark { mark, .. }) = self.marks().get(self.next_mark)
            && (mark.seqno, mark.ordinal) > (seqno, ordinal)
        {
            self.above = Some(mark.seqno);
            self.holder = Holder::Mark(self.fragment, self.next_mark);
            self.next_mark += 1;
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
        let Holder::Mark(fragment, mark) = self.holder else { return None };
        let mark = self.fragments.get(fragment)?.marks.get(mark)?.mark;
        Some(mark.gap_start.unwrap_or(mark.seqno))
    }

    fn note_gap(&mut self, seqno: u64) {
        match self.holder {
            // A first version is never dropped, so there is always a holder by then.
            Holder::Nothing => {}
            Holder::Pending => {
                if let Some(Pending { entry, .. }) = &mut self.pending {
                    entry.gap_start = Some(entry.gap_start.map_or(seqno, |gap| gap.min(seqno)));
                }
            }
            Holder::Mark(fragment, mark) => {
                let passing = self.fragments.get_mut(fragment).and_then(|fragment| fragment.marks.get_mut(mark));
                if let Some(passing) = passing {
                    passing.mark.widen_gap(seqno);
                }
            }
        }
    }

    /// Whether all that is left of the key is a tombstone with nothing to hide (K4).
    fn tombstone_may_go(&self) -> bool {
        let Some(Pending { entry, .. }) = &self.pending else { return false };
        // An older mark would be found once the tombstone is gone, and answer for times it knows nothing of.
        let older_mark = self.marks().iter().any(|passing| passing.mark.seqno < entry.seqno);
        entry.kind == Kind::Delete
            && self.kept == 1
            && self.newest
            && !entry.moved
            && !older_mark
            && self.below.is_clear_at(&self.key)
            && !self.demands.holds_tombstone(entry.seqno, entry.gap_start)
    }

    fn emit_pending(
        &mut self,
        older_follows: bool,
        out: &mut impl FnMut(&Entry, &[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        let Some(mut pending) = self.pending.take() else { return Ok(()) };
        pending.settle(false);
        out(&Entry { older_follows, ..pending.entry }, &self.key, &pending.value)
    }

    /// Whether reads may go on from a segment of this span to older ones.
    pub(crate) fn passed(&self, span: &KeySpan) -> bool {
        !self.below.is_clear(span)
    }

    /// A fragment as it goes to disk, or nothing when its tombstones may go.
    fn finish(&mut self, passing: Passing) -> Option<Fragment> {
        if let [only] = passing.marks.as_slice()
            && !only.hides
            && self.below.is_clear(&passing.span)
            && !self.demands.holds_tombstone(only.mark.seqno, only.mark.gap_start)
        {
            self.traces.tombstone_left(only.mark.seqno, only.mark.gap_start);
            return None;
        }
        let marks = passing.marks.into_iter().map(|passing| Mark { ordinal: 0, ..passing.mark }).collect();
        Some(Fragment { span: passing.span, marks })
    }
}
