//! Look-ups of a key in a set, at any moment.
//!
//! Readers at or above the newest tombstone are answered by the skyline. The structures for readers of an older moment
//! are built when the first of them comes.

use super::{
    cover::{Cover, Gaps, List},
    set::Tombstones,
    skyline::{NONE, number},
    tombstone::{Shown, Tombstone},
};
use crate::base::{KeySpan, Seqno};

/// Sets up to this size are scanned where the skyline does not suffice.
const FEW: usize = 8;

/// Answer of a set for a key at a moment; valid from edge `from` (of the set; without one from the lowest key) to
/// before edge `to`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Said {
    /// Newest tombstone at or below the moment.
    pub(super) newest: Option<u32>,
    /// Purge above the moment that its reader sees.
    pub(super) purge: Option<Tombstone>,
    /// Tombstone above the moment whose gap refuses it.
    pub(super) refusing: Option<Tombstone>,
    pub(super) from: Option<u32>,
    pub(super) to: Option<u32>,
}

impl Tombstones {
    /// Returns the part that a key is in.
    fn part(&self, key: &[u8]) -> Option<usize> {
        self.edges.partition_point(|edge| **edge <= *key).checked_sub(1)
    }

    /// Returns the number of tombstones written at or before a moment.
    fn upto(&self, read_at: Seqno) -> usize {
        self.all.partition_point(|one| one.tombstone.seqno <= read_at)
    }

    /// Looks a key up for readers of a moment that see the purges up to `opened`.
    pub(super) fn look(&self, key: &[u8], read_at: Seqno, purge_horizon: Seqno) -> Said {
        if read_at >= self.newest_seqno() {
            let after = self.skyline.partition_point(|(at, _)| self.edge(*at).is_some_and(|edge| edge <= key));
            let to = self.skyline.get(after).map(|(at, _)| *at);
            let Some((from, top)) = after.checked_sub(1).and_then(|at| self.skyline.get(at)) else {
                return Said { to, ..Said::default() };
            };
            return Said { newest: Some(*top).filter(|top| *top != NONE), from: Some(*from), to, ..Said::default() };
        }
        let purge = self.newest_purge.is_some_and(|newest| newest > read_at && purge_horizon > read_at);
        let gap = self.gapped.is_some_and(|(newest, lowest)| newest > read_at && lowest <= read_at);
        let upto = self.upto(read_at);
        if upto == 0 && !purge && !gap {
            return Said::default();
        }
        let Some(part) = self.part(key) else { return Said { to: Some(0), ..Said::default() } };
        let refusing =
            if gap { self.gaps().over.path(part).find_map(|list| self.refusing(list, upto, read_at)) } else { None };
        Said {
            newest: self.newest_below(part, upto),
            purge: if purge { self.newest_purge(key, read_at, purge_horizon) } else { None },
            refusing,
            from: Some(number(part)),
            to: Some(number(part + 1)).filter(|to| (*to as usize) < self.edges.len()),
        }
    }

    /// Returns the newest of the first `upto` tombstones over a part.
    fn newest_below(&self, part: usize, upto: usize) -> Option<u32> {
        if self.all.len() <= FEW {
            return self.all.get(..upto)?.iter().rposition(|one| one.covers(part)).map(number);
        }
        let below = |list: List<'_>| {
            let at = list.first.partition_point(|rank| (*rank as usize) < upto).checked_sub(1)?;
            list.first.get(at).copied()
        };
        self.covers().path(part).filter_map(below).max()
    }

    fn newest_purge(&self, key: &[u8], read_at: Seqno, purge_horizon: Seqno) -> Option<Tombstone> {
        let purges = self.purging();
        let newest = purges.look(key, purge_horizon, purge_horizon).newest?;
        purges.all.get(newest as usize).map(|one| one.tombstone).filter(|tombstone| tombstone.seqno > read_at)
    }

    /// Returns, from a list of tombstones with a gap, the one above a moment with the lowest gap, if it refuses the
    /// moment.
    fn refusing(&self, list: List<'_>, upto: usize, read_at: Seqno) -> Option<Tombstone> {
        let above = list.first.partition_point(|rank| (*rank as usize) < upto);
        let tombstone = self.all.get(*list.lowest.get(above)? as usize)?.tombstone;
        tombstone.refuses(read_at).then_some(tombstone)
    }

    /// Returns a tombstone that overlaps a span and whose gap refuses a moment.
    pub(super) fn refusing_in(&self, span: &KeySpan, read_at: Seqno) -> Option<Tombstone> {
        self.gapped.filter(|(newest, lowest)| *newest > read_at && *lowest <= read_at)?;
        let gaps = self.gaps();
        let upto = self.upto(read_at);
        let from = self.part(&span.start);
        let over = from.into_iter().flat_map(|part| gaps.over.path(part));
        // After the first key, only those that begin in the span.
        let behind = from.map_or(0, |part| part + 1);
        let end = span.end.as_ref().map_or(self.edges.len(), |end| self.edges.partition_point(|edge| **edge < **end));
        over.chain(gaps.starts.within(behind..end)).find_map(|list| self.refusing(list, upto, read_at))
    }

    /// Returns the newest at or below a moment over a key; a purge above the moment precedes it, if its reader sees it.
    pub(crate) fn newest(&self, key: &[u8], read_at: Seqno, purge_horizon: Seqno) -> Option<Tombstone> {
        let said = self.look(key, read_at, purge_horizon);
        said.purge.or_else(|| self.all.get(said.newest? as usize).map(|one| one.tombstone))
    }

    /// Returns what a look-up of a key as of a moment must be shown, newest first: the purge above it, one above it
    /// whose gap refuses it, and the newest at or below it. Other tombstones over the key change no answer.
    #[inline]
    pub(crate) fn shown(&self, key: &[u8], read_at: Seqno, purge_horizon: Seqno) -> Shown {
        if self.all.is_empty() {
            return Shown::default();
        }
        let said = self.look(key, read_at, purge_horizon);
        Shown::of(
            said.purge,
            said.refusing,
            said.newest.and_then(|at| self.all.get(at as usize)).map(|one| one.tombstone),
        )
    }

    /// Iterates over all that cover a key, in no order.
    pub(crate) fn covering(&self, key: &[u8]) -> impl Iterator<Item = &Tombstone> {
        let part = if self.all.is_empty() { None } else { self.part(key) };
        let few = self.all.len() <= FEW;
        let walked =
            part.filter(|_| few).into_iter().flat_map(move |part| self.all.iter().filter(move |one| one.covers(part)));
        let found =
            part.filter(|_| !few).into_iter().flat_map(|part| self.covers().path(part).flat_map(|list| list.first));
        walked.chain(found.filter_map(|rank| self.all.get(*rank as usize))).map(|one| &one.tombstone)
    }

    /// Returns the oldest one above a seqno that covers a key.
    pub(crate) fn oldest_above(&self, key: &[u8], seqno: Seqno) -> Option<&Tombstone> {
        let part = self.part(key)?;
        let upto = self.upto(seqno);
        let above =
            |list: List<'_>| list.first.get(list.first.partition_point(|rank| (*rank as usize) < upto)).copied();
        let rank = self.covers().path(part).filter_map(above).min()?;
        self.all.get(rank as usize).map(|one| &one.tombstone)
    }

    /// Returns the seqno of the newest that overlaps a span.
    pub(crate) fn newest_in(&self, span: &KeySpan) -> Option<Seqno> {
        let before =
            |key: &[u8]| self.skyline.partition_point(|(at, _)| self.edge(*at).is_some_and(|edge| edge <= key));
        let from = before(&span.start).saturating_sub(1);
        let to = span.end.as_deref().map_or(self.skyline.len(), |end| {
            self.skyline.partition_point(|(at, _)| self.edge(*at).is_some_and(|edge| edge < end))
        });
        let tops = self.skyline.get(from..to)?.iter().filter(|(_, top)| *top != NONE);
        tops.map(|(_, top)| *top).max().and_then(|top| Some(self.all.get(top as usize)?.tombstone.seqno))
    }

    pub(super) fn covers(&self) -> &Cover {
        self.covers.get_or_init(|| {
            let parts = self.edges.len();
            Cover::new(parts, self.all.iter().enumerate().map(|(rank, one)| (number(rank), one.parts(parts))))
        })
    }

    fn gaps(&self) -> &Gaps {
        self.gaps.get_or_init(|| {
            let parts = self.edges.len();
            let gapped = || self.all.iter().enumerate().filter(|(_, one)| one.tombstone.gap_start.is_some());
            let gap =
                |rank: u32| self.all.get(rank as usize).and_then(|one| one.tombstone.gap_start).unwrap_or(Seqno::MAX);
            let mut over = Cover::new(parts, gapped().map(|(rank, one)| (number(rank), one.parts(parts))));
            let mut starts = Cover::of_points(parts, gapped().map(|(rank, one)| (number(rank), one.from as usize)));
            over.find_lowest(gap);
            starts.find_lowest(gap);
            Gaps { over, starts }
        })
    }

    fn purging(&self) -> &Self {
        self.purges.get_or_init(|| {
            Box::new(Self::of(self.edges.clone(), self.all.iter().filter(|one| one.tombstone.purge).copied().collect()))
        })
    }
}
