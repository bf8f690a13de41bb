//! Range tombstones, cut where they overlap.
//!
//! ```text
//!   tombstones           fragments
//!   a────────────m  @9   a──f @9    f───m @9 @5    m──∞ @5
//!        f──────────∞ @5
//! ```
//!
//! Fragments do not overlap and are sorted; each lists its seqnos newest first, and each seqno carries its own gap, so that a
//! point read treats a fragment as entries of every key it covers.

use std::{cmp::Reverse, sync::Arc};

use super::Seen;
use crate::base::{KeySpan, Kind};

/// A deletion of every key from `span.start` up to `span.end`, as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RangeTombstone {
    pub(crate) span: KeySpan,
    pub(crate) mark: Mark,
}

/// One deletion of a fragment's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) seqno: u64,
    /// As in [`EntryRef`](super::EntryRef).
    pub(crate) ordinal: u32,
    /// The smallest seqno of the older deletions that were dropped directly beneath this one. What was dropped of a single key is noted on that key.
    pub(crate) gap_start: Option<u64>,
    /// Commit time in microseconds; 0 where it is not known.
    pub(crate) time: u64,
    /// It hides what is older from views of the past too.
    pub(crate) purge: bool,
}

impl Mark {
    pub(crate) fn kind(&self) -> Kind {
        if self.purge { Kind::RangePurge } else { Kind::RangeDelete }
    }

    /// What a look-up is shown of it.
    #[inline]
    pub(crate) fn seen(&self) -> Seen {
        let Self { seqno, gap_start, .. } = *self;
        Seen { seqno, gap_start, moved: false, kind: self.kind(), time: None, interval: false }
    }

    /// Notes that something at `seqno` was dropped directly beneath.
    pub(crate) fn widen_gap(&mut self, seqno: u64) {
        self.gap_start = Some(self.gap_start.map_or(seqno, |gap| gap.min(seqno)));
    }
}

/// Keys that the same range tombstones cover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) span: KeySpan,
    /// Newest first, never empty.
    pub(crate) marks: Vec<Mark>,
}

/// Sorted fragments that do not overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fragments(Vec<Fragment>);

impl Fragments {
    /// Fragments that are already sorted and apart; `None` if they are not.
    pub(crate) fn from_sorted(fragments: Vec<Fragment>) -> Option<Self> {
        let whole = fragments.iter().all(|fragment| {
            let newest_first = fragment.marks.is_sorted_by_key(|mark| Reverse((mark.seqno, mark.ordinal)));
            !fragment.span.is_empty() && !fragment.marks.is_empty() && newest_first
        });
        let apart =
            fragments.is_sorted_by(|left, right| left.span.end.as_ref().is_some_and(|end| *end <= right.span.start));
        (whole && apart).then_some(Self(fragments))
    }

    /// Cuts tombstones, in any order, where they overlap.
    pub(crate) fn cut(tombstones: &[RangeTombstone]) -> Self {
        let mut edges: Vec<&[u8]> = Vec::new();
        for tombstone in tombstones.iter().filter(|tombstone| !tombstone.span.is_empty()) {
            edges.push(&tombstone.span.start);
            edges.extend(tombstone.span.end.as_deref());
        }
        edges.sort_unstable();
        edges.dedup();

        // Tombstones by start; those that still reach are carried from edge to edge.
        let mut waiting: Vec<&RangeTombstone> =
            tombstones.iter().filter(|tombstone| !tombstone.span.is_empty()).collect();
        waiting.sort_unstable_by(|a, b| b.span.start.cmp(&a.span.start));
        let mut open: Vec<&RangeTombstone> = Vec::new();
        let mut fragments = Vec::new();
        for (index, &start) in edges.iter().enumerate() {
            let end = edges.get(index + 1).map(|end| end.to_vec());
            open.retain(|tombstone| tombstone.span.end.as_deref().is_none_or(|end| end > start));
            while let Some(next) = waiting.pop_if(|tombstone| tombstone.span.start.as_slice() <= start) {
                open.push(next);
            }
            if open.is_empty() {
                continue;
            }
            let mut marks: Vec<Mark> = open.iter().map(|tombstone| tombstone.mark).collect();
            marks.sort_unstable_by_key(|mark| Reverse((mark.seqno, mark.ordinal)));
            fragments.push(Fragment { span: KeySpan { start: start.to_vec(), end }, marks });
        }
        Self(fragments)
    }

    /// One set of fragments from several.
    pub(crate) fn merged(sets: &[Arc<Self>]) -> Self {
        let mut tombstones = Vec::new();
        for fragment in sets.iter().flat_map(|set| &set.0) {
            for &mark in &fragment.marks {
                tombstones.push(RangeTombstone { span: fragment.span.clone(), mark });
            }
        }
        Self::cut(&tombstones)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Fragment> {
        self.0.iter()
    }

    /// The place of the fragment that covers `key`.
    pub(crate) fn find(&self, key: &[u8]) -> Option<usize> {
        let after = self.0.partition_point(|fragment| fragment.span.start.as_slice() <= key);
        let index = after.checked_sub(1)?;
        let end = self.0.get(index)?.span.end.as_deref();
        end.is_none_or(|end| key < end).then_some(index)
    }

    /// All marks, in order.
    pub(crate) fn marks_mut(&mut self) -> impl Iterator<Item = &mut Mark> {
        self.0.iter_mut().flat_map(|fragment| &mut fragment.marks)
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Fragment> {
        self.0.get(index)
    }

    /// The fragment that covers `key`.
    pub(crate) fn covering(&self, key: &[u8]) -> Option<&Fragment> {
        self.0.get(self.find(key)?)
    }

    /// The fragments that overlap a span.
    pub(crate) fn overlapping<'a>(&'a self, span: &'a KeySpan) -> impl Iterator<Item = &'a Fragment> {
        let from = self
            .0
            .partition_point(|fragment| fragment.span.end.as_deref().is_some_and(|end| end <= span.start.as_slice()));
        self.0
            .iter()
            .skip(from)
            .take_while(|fragment| span.end.as_deref().is_none_or(|end| fragment.span.start.as_slice() < end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tombstone(start: &str, end: Option<&str>, seqno: u64) -> RangeTombstone {
        let span = KeySpan { start: start.into(), end: end.map(Into::into) };
        RangeTombstone { span, mark: Mark { seqno, ordinal: 0, gap_start: None, time: 0, purge: false } }
    }

    fn seqnos(fragments: &Fragments, key: &str) -> Vec<u64> {
        let covering = fragments.covering(key.as_bytes());
        covering.map_or(Vec::new(), |fragment| fragment.marks.iter().map(|mark| mark.seqno).collect())
    }

    #[test]
    fn overlapping_tombstones_are_cut_at_every_edge() {
        let cut =
            Fragments::cut(&[tombstone("a", Some("m"), 9), tombstone("f", None, 5), tombstone("x", Some("b"), 7)]);
        assert_eq!(seqnos(&cut, "a"), [9]);
        assert_eq!(seqnos(&cut, "f"), [9, 5]);
        assert_eq!(seqnos(&cut, "m"), [5]);
        assert_eq!(seqnos(&cut, "\0"), [0; 0]);
        assert!(Fragments::from_sorted(cut.0.clone()).is_some());
    }

    #[test]
    fn every_key_is_covered_by_exactly_the_tombstones_that_hold_it() {
        let letters: Vec<String> = ('a'..='h').map(String::from).collect();
        let mut all = Vec::new();
        let mut state = 1u64;
        for seqno in 1..40 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (start, end) = ((state >> 33) as usize % 8, (state >> 40) as usize % 9);
            all.push(tombstone(&letters[start], letters.get(end).map(String::as_str), seqno));
            let cut = Fragments::cut(&all);
            assert_eq!(Fragments::merged(&[Arc::new(cut.clone())]), cut);
            for key in &letters {
                let mut expected: Vec<u64> = all
                    .iter()
                    .filter(|t| t.span.start <= key.as_bytes().to_vec())
                    .filter(|t| t.span.end.as_ref().is_none_or(|end| key.as_bytes() < end.as_slice()))
                    .map(|t| t.mark.seqno)
                    .collect();
                expected.reverse();
                assert_eq!(seqnos(&cut, key), expected, "{key}");
            }
        }
    }
}
