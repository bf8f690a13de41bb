//! Tombstones cut at every edge, each part with all that cover it: segments store this form if it is small.

use std::{cmp::Reverse, collections::BTreeSet};

use super::{
    set::Tombstones,
    skyline::{OPEN, Placed, number},
    tombstone::Tombstone,
};
use crate::base::{Bytes, KeySpan};

/// Maximum number of pieces per tombstone; a cut that makes more is refused.
const CUT_MAX: usize = 8;

/// Span of keys that the same tombstones cover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) span: KeySpan,
    /// Newest first, never empty.
    pub(crate) tombstones: Vec<Tombstone>,
}

impl Tombstones {
    /// Builds a set from sorted, disjoint fragments; `None` if they are not.
    pub(crate) fn from_fragments(fragments: Vec<Fragment>) -> Option<Self> {
        let whole = fragments.iter().all(|fragment| {
            let newest_first =
                fragment.tombstones.is_sorted_by_key(|tombstone| Reverse((tombstone.seqno, tombstone.ordinal)));
            !fragment.span.is_empty() && !fragment.tombstones.is_empty() && newest_first
        });
        let apart =
            fragments.is_sorted_by(|left, right| left.span.end.as_ref().is_some_and(|end| *end <= right.span.start));
        if !whole || !apart {
            return None;
        }
        let mut edges: Vec<Bytes> = Vec::with_capacity(2 * fragments.len());
        let mut all = Vec::new();
        for Fragment { span, tombstones } in fragments {
            if edges.last().is_none_or(|last| **last != *span.start) {
                edges.push(span.start.into());
            }
            let from = number(edges.len() - 1);
            let to = if span.end.is_some() { from + 1 } else { OPEN };
            edges.extend(span.end.map(Bytes::from));
            all.extend(tombstones.into_iter().map(|tombstone| Placed { from, to, tombstone }));
        }
        Some(Self::assembled(edges, all))
    }

    /// Cuts the tombstones where they overlap, each part with all that cover it; `None` if that makes many more pieces
    /// than there are tombstones.
    pub(crate) fn cut(&self) -> Option<Vec<Fragment>> {
        let count = self.edges.len();
        let tombstones: usize = self.all.iter().map(|one| one.parts(count).len()).sum();
        (tombstones <= CUT_MAX * self.all.len()).then(|| self.cut_all())
    }

    pub(super) fn cut_all(&self) -> Vec<Fragment> {
        let count = self.edges.len();
        let (mut begin, mut end) = (vec![Vec::new(); count], vec![Vec::new(); count + 1]);
        for (rank, one) in self.all.iter().enumerate() {
            let parts = one.parts(count);
            begin.get_mut(parts.start).into_iter().for_each(|list| list.push(rank));
            end.get_mut(parts.end).into_iter().for_each(|list| list.push(rank));
        }
        let mut open: BTreeSet<usize> = BTreeSet::new();
        let mut fragments = Vec::new();
        for (at, edge) in self.edges.iter().enumerate() {
            for rank in end.get(at).into_iter().flatten() {
                open.remove(rank);
            }
            open.extend(begin.get(at).into_iter().flatten());
            if !open.is_empty() {
                let span = KeySpan { start: edge.to_vec(), end: self.edges.get(at + 1).map(|end| end.to_vec()) };
                let tombstones =
                    open.iter().rev().filter_map(|rank| self.all.get(*rank)).map(|one| one.tombstone).collect();
                fragments.push(Fragment { span, tombstones });
            }
        }
        fragments
    }
}
