//! The range tombstones of several sources over a moving key, as a walk carries them along.

use std::{cmp::Reverse, sync::Arc};

use super::{
    set::Tombstones,
    tombstone::{Shown, Tombstone},
};
use crate::base::{KeySpan, Seqno};

/// The range tombstones of several sources over a key that moves, in either direction.
#[derive(Debug)]
pub(crate) struct Overhead {
    /// Newest first: runs that cannot hold anything newer than what was found are not searched.
    runs: Vec<Run>,
    read_at: Seqno,
    purge_horizon: Seqno,
    /// Answer found last, valid between `from` and `to`.
    shown: Shown,
    /// Newest at or below the moment: its run, its set there, and its number.
    newest: Option<(usize, usize, u32)>,
    from: Option<Edge>,
    to: Option<Edge>,
    /// Whether nothing was looked up yet.
    fresh: bool,
}

/// Sets that follow each other by key, as the segments of a level do.
#[derive(Debug)]
struct Run {
    sets: Vec<Arc<Tombstones>>,
    newest: Seqno,
}

/// An edge: its run, its set in the run, and its number.
type Edge = (usize, usize, u32);

/// The newest tombstone at or below a moment, over some key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Newest<'a> {
    pub(crate) seqno: Seqno,
    pub(crate) start: &'a [u8],
    pub(crate) end: Option<&'a [u8]>,
}

impl Overhead {
    /// Returns the tombstones of several runs of sets; the sets of a run are sorted and disjoint.
    pub(crate) fn new(runs: Vec<Vec<Arc<Tombstones>>>, read_at: Seqno, purge_horizon: Seqno) -> Self {
        let run = |mut sets: Vec<Arc<Tombstones>>| {
            sets.retain(|set| !set.is_empty());
            let newest = sets.iter().map(|set| set.newest_seqno()).max()?;
            Some(Run { sets, newest })
        };
        let mut runs: Vec<Run> = runs.into_iter().filter_map(run).collect();
        runs.sort_by_key(|run| Reverse(run.newest));
        Self { runs, read_at, purge_horizon, shown: Shown::default(), newest: None, from: None, to: None, fresh: true }
    }

    /// Returns what a look-up of a key must be shown.
    #[inline]
    pub(crate) fn over(&mut self, key: &[u8]) -> Shown {
        if !self.runs.is_empty() && !self.holds(key) {
            self.refresh(key);
        }
        self.shown
    }

    fn edge(&self, (run, set, edge): Edge) -> Option<&[u8]> {
        self.runs.get(run)?.sets.get(set)?.edge(edge)
    }

    /// Returns whether the answer found last is valid for a key.
    pub(super) fn holds(&self, key: &[u8]) -> bool {
        let behind = |at| self.edge(at).is_none_or(|edge| edge <= key);
        let before = |at| self.edge(at).is_none_or(|edge| key < edge);
        !self.fresh && self.from.is_none_or(behind) && self.to.is_none_or(before)
    }

    fn refresh(&mut self, key: &[u8]) {
        self.fresh = false;
        (self.newest, self.from, self.to) = (None, None, None);
        let (mut purge, mut refusing, mut best): (Option<Tombstone>, Option<Tombstone>, Option<Tombstone>) =
            (None, None, None);
        for at in 0..self.runs.len() {
            let Some(run) = self.runs.get(at) else { break };
            if best.is_some_and(|best| run.newest < best.seqno) {
                break;
            }
            // The set that begins last at or before the key; it ends before the next one begins.
            let next = run.sets.partition_point(|set| set.edge(0).is_some_and(|edge| edge <= key));
            let next_begins = (next < run.sets.len()).then_some((at, next, 0));
            let Some((within, set)) = next.checked_sub(1).and_then(|within| Some((within, run.sets.get(within)?)))
            else {
                self.narrow(None, next_begins);
                continue;
            };
            let said = set.look(key, self.read_at, self.purge_horizon);
            purge = purge.into_iter().chain(said.purge).max_by_key(|tombstone| tombstone.seqno);
            refusing = refusing.or(said.refusing);
            if let Some(tombstone) = said.newest.and_then(|rank| set.all.get(rank as usize)).map(|one| one.tombstone)
                && best.is_none_or(|best| (best.seqno, best.ordinal) < (tombstone.seqno, tombstone.ordinal))
            {
                best = Some(tombstone);
                self.newest = said.newest.map(|rank| (at, within, rank));
            }
            // An answer before the first edge or after the last is valid up to the neighbours.
            let from = said.from.or_else(|| (within > 0).then_some(0)).map(|edge| (at, within, edge));
            self.narrow(from, said.to.map(|edge| (at, within, edge)).or(next_begins));
        }
        self.shown = Shown::of(purge, refusing, best);
    }

    /// Limits the validity of the answer to between two edges.
    fn narrow(&mut self, from: Option<Edge>, to: Option<Edge>) {
        if from.is_some_and(|from| self.from.is_none_or(|known| self.edge(known) < self.edge(from))) {
            self.from = from;
        }
        if to.is_some_and(|to| self.to.is_none_or(|known| self.edge(to) < self.edge(known))) {
            self.to = to;
        }
    }

    /// Returns the newest at or below the moment over the key that was looked up last.
    pub(crate) fn newest(&self) -> Option<Newest<'_>> {
        let (run, set, rank) = self.newest?;
        let set = self.runs.get(run)?.sets.get(set)?;
        let one = set.all.get(rank as usize)?;
        Some(Newest { seqno: one.tombstone.seqno, start: set.edge(one.from)?, end: set.edge(one.to) })
    }

    fn sets(&self) -> impl Iterator<Item = &Tombstones> {
        self.runs.iter().flat_map(|run| &run.sets).map(|set| &**set)
    }

    /// Returns one in a span whose gap refuses the moment for some key that no purge hides from the reader (R6).
    pub(crate) fn refusing_in(&self, span: &KeySpan) -> Option<Tombstone> {
        let refusing = self.sets().find_map(|set| set.refusing_in(span, self.read_at))?;
        let hides = |tombstone: &Tombstone| {
            tombstone.purge && tombstone.seqno > self.read_at && tombstone.seqno <= self.purge_horizon
        };
        let purged = self.sets().filter(|set| set.newest_purge.is_some_and(|newest| newest > self.read_at));
        let mut purged: Vec<_> = purged.flat_map(Tombstones::iter).filter(|(.., tombstone)| hides(tombstone)).collect();
        if purged.is_empty() {
            return Some(refusing);
        }
        purged.sort_unstable_by_key(|(start, ..)| *start);
        // Sorted and disjoint.
        let mut hidden: Vec<(&[u8], Option<&[u8]>)> = Vec::new();
        for (start, end, _) in purged {
            match hidden.last_mut().filter(|(_, last)| last.is_none_or(|last| start <= last)) {
                Some((_, last)) => *last = last.zip(end).map(|(last, end)| last.max(end)),
                None => hidden.push((start, end)),
            }
        }
        let is_hidden = |start: &[u8], end: Option<&[u8]>| {
            let after = hidden.partition_point(|(from, _)| *from <= start);
            let over = after.checked_sub(1).and_then(|at| hidden.get(at));
            over.is_some_and(|(_, to)| to.is_none_or(|to| end.is_some_and(|end| end <= to)))
        };
        let all = self.sets().flat_map(Tombstones::iter).filter(|(.., tombstone)| tombstone.refuses(self.read_at));
        let mut within = all.filter_map(|(start, end, tombstone)| {
            let start = start.max(&span.start);
            let end = end.into_iter().chain(span.end.as_deref()).min();
            end.is_none_or(|end| start < end).then_some((start, end, tombstone))
        });
        within.find(|(start, end, _)| !is_hidden(start, *end)).map(|(.., tombstone)| *tombstone)
    }
}
