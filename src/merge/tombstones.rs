//! Range tombstones, held whole: what n of them take is linear in n, however they overlap.
//!
//! ```text
//!   tombstones                      skyline: the newest at each key
//!   a────────────m  @9              a────────────m @9   m──∞ @5
//!        f──────────∞ @5
//! ```
//!
//! A set is immutable: the different edges in order, the tombstones oldest first, and the skyline, which answers whoever reads at or above
//! the newest of them. Nested, disjoint or in stairs: it has no more parts than there are edges. What only readers of an older moment need is
//! made when the first of them comes: a segment tree over the parts between edges (n log n numbers of four bytes) that finds the
//! newest tombstone at or below a moment, those above it whose gap refuses the moment, and all that cover a key; each in O(log² n).
//!
//! A set that grows is a stack of sets, newest last, each at least twice as long as the next: see [`push`]. A walk carries the
//! answer with it for as long as it holds: see [`Overhead`].
//!
//! (Rejected: tombstones cut at every edge, each part with the list of all that cover it, as most engines have them. Whoever trims
//! a log by `delete_range(..cutoff)` has n² / 2 of such marks.)

use std::{
    cmp::Reverse,
    collections::BTreeSet,
    ops::Range,
    sync::{Arc, OnceLock},
};

use super::Seen;
use crate::base::{Bytes, KeySpan, Kind};

/// A deletion of every key from `span.start` up to `span.end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RangeTombstone {
    pub(crate) span: KeySpan,
    pub(crate) mark: Mark,
}

/// What a range tombstone says of each key that it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

    /// Whether what was dropped beneath it is needed to answer for a moment.
    fn refuses(&self, asked: u64) -> bool {
        self.seqno > asked && self.gap_start.is_some_and(|gap| gap <= asked)
    }
}

/// Keys that the same tombstones cover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) span: KeySpan,
    /// Newest first, never empty.
    pub(crate) marks: Vec<Mark>,
}

/// The edge behind the last: the end of the keyspace.
const OPEN: u32 = u32::MAX;

/// No tombstone.
const NONE: u32 = u32::MAX;

/// Sets up to this size are walked where the skyline does not do.
const FEW: usize = 8;

/// Cutting is refused where it makes more than so many marks for each tombstone.
const CUT_MAX: usize = 8;

/// A tombstone by the numbers of its edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Placed {
    from: u32,
    /// Exclusive; [`OPEN`] has no end.
    to: u32,
    mark: Mark,
}

impl Placed {
    fn covers(&self, part: usize) -> bool {
        self.from as usize <= part && (self.to == OPEN || part < self.to as usize)
    }

    /// The same where edges have other numbers.
    fn moved(&self, map: &[u32]) -> Self {
        let mapped = |at: u32| map.get(at as usize).copied().unwrap_or(OPEN);
        Self { from: mapped(self.from), to: mapped(self.to), ..*self }
    }

    /// The parts that it covers, of so many.
    fn parts(&self, count: usize) -> Range<usize> {
        self.from as usize..if self.to == OPEN { count } else { self.to as usize }
    }
}

/// Range tombstones of one source.
#[derive(Debug, Default)]
pub(crate) struct Tombstones {
    /// Every key at which one begins or ends, in order. Part i reaches from edge i to the next one.
    edges: Vec<Bytes>,
    /// Oldest first.
    all: Vec<Placed>,
    /// From which edge on which tombstone is the newest, up to the next such edge.
    skyline: Vec<(u32, u32)>,
    /// The newest purge, and of those that have a gap the newest and the lowest gap.
    newest_purge: Option<u64>,
    gapped: Option<(u64, u64)>,
    covers: OnceLock<Cover>,
    gaps: OnceLock<Gaps>,
    purges: OnceLock<Box<Self>>,
}

impl Clone for Tombstones {
    fn clone(&self) -> Self {
        let (edges, all, skyline) = (self.edges.clone(), self.all.clone(), self.skyline.clone());
        let Self { newest_purge, gapped, .. } = *self;
        Self { edges, all, skyline, newest_purge, gapped, ..Self::default() }
    }
}

impl PartialEq for Tombstones {
    fn eq(&self, other: &Self) -> bool {
        (&self.edges, &self.all) == (&other.edges, &other.all)
    }
}

impl Eq for Tombstones {}

/// What a set says of a key at a moment: it holds from edge `from` (of the set; the first key of all without one) to before edge `to`.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    /// The newest at or below the moment.
    newest: Option<u32>,
    /// A purge above the moment that its reader knows.
    purge: Option<Mark>,
    /// One above the moment whose gap refuses it.
    refusing: Option<Mark>,
    from: Option<u32>,
    to: Option<u32>,
}

impl Tombstones {
    /// Those of a source, in any order. Neighbours that a cut has parted are joined again.
    pub(crate) fn new(tombstones: impl IntoIterator<Item = RangeTombstone>) -> Self {
        let all: Vec<RangeTombstone> = tombstones.into_iter().filter(|one| !one.span.is_empty()).collect();
        let mut edges: Vec<&[u8]> = Vec::with_capacity(2 * all.len());
        for one in &all {
            edges.push(&one.span.start);
            edges.extend(one.span.end.as_deref());
        }
        edges.sort_unstable();
        edges.dedup();
        let place = |key: &[u8]| number(edges.partition_point(|edge| *edge < key));
        let placed = |one: &RangeTombstone| Placed {
            from: place(&one.span.start),
            to: one.span.end.as_deref().map_or(OPEN, place),
            mark: one.mark,
        };
        let placed = all.iter().map(placed).collect();
        Self::assembled(edges.into_iter().map(Bytes::copy_from).collect(), placed)
    }

    /// Those of several sources in one set.
    pub(crate) fn joined(sets: &[Arc<Self>]) -> Self {
        let mut edges: Vec<Bytes> = sets.iter().flat_map(|set| set.edges.iter().cloned()).collect();
        edges.sort_unstable();
        edges.dedup();
        let mut all = Vec::with_capacity(sets.iter().map(|set| set.all.len()).sum());
        for set in sets {
            let place = |edge: &Bytes| number(edges.partition_point(|known| **known < **edge));
            let map: Vec<u32> = set.edges.iter().map(place).collect();
            all.extend(set.all.iter().map(|one| one.moved(&map)));
        }
        Self::assembled(edges, all)
    }

    /// Of pieces between sorted edges, in any order.
    pub(crate) fn of_pieces(edges: Vec<Bytes>, pieces: impl Iterator<Item = (usize, Option<usize>, Mark)>) -> Self {
        let placed = |(from, to, mark): (usize, Option<usize>, Mark)| Placed {
            from: number(from),
            to: to.map_or(OPEN, number),
            mark,
        };
        Self::assembled(edges, pieces.map(placed).collect())
    }

    /// Of sorted edges and tombstones in any order: joins neighbours that say the same, and lets go of edges that none has.
    fn assembled(edges: Vec<Bytes>, mut all: Vec<Placed>) -> Self {
        all.sort_unstable_by_key(|one| (one.mark, one.from));
        all.dedup_by(|right, left| {
            let touch = left.mark == right.mark && left.to == right.from;
            if touch {
                left.to = right.to;
            }
            touch
        });
        let mut used = vec![false; edges.len()];
        for at in all.iter().flat_map(|one| [one.from, one.to]) {
            used.get_mut(at as usize).into_iter().for_each(|used| *used = true);
        }
        if used.iter().all(|used| *used) {
            return Self::of(edges, all);
        }
        let mut map = Vec::with_capacity(edges.len());
        let mut kept = Vec::new();
        for (edge, used) in edges.into_iter().zip(used) {
            map.push(number(kept.len()));
            kept.extend(Some(edge).filter(|_| used));
        }
        Self::of(kept, all.iter().map(|one| one.moved(&map)).collect())
    }

    /// Of sorted edges, and tombstones in the order of their commits.
    fn of(edges: Vec<Bytes>, all: Vec<Placed>) -> Self {
        let skyline = paint(edges.len(), &all);
        Self::with(edges, all, skyline)
    }

    fn with(edges: Vec<Bytes>, all: Vec<Placed>, skyline: Vec<(u32, u32)>) -> Self {
        let mut set = Self { edges, all, skyline, ..Self::default() };
        set.newest_purge = set.all.iter().rfind(|one| one.mark.purge).map(|one| one.mark.seqno);
        let gaps = set.all.iter().filter_map(|one| Some((one.mark.seqno, one.mark.gap_start?)));
        set.gapped = gaps.reduce(|(newest, lowest), (seqno, gap)| (newest.max(seqno), lowest.min(gap)));
        set
    }

    /// From their encoded form: edges in order; of each tombstone the numbers of its edges, the second nothing where it has no end. Nothing when
    /// they do not make sense.
    pub(crate) fn from_parts(edges: Vec<Bytes>, parts: &[(u32, Option<u32>, Mark)]) -> Option<Self> {
        let within = |at: u32| (at as usize) < edges.len();
        let sound =
            |(from, to, _): &(u32, Option<u32>, Mark)| within(*from) && to.is_none_or(|to| within(to) && *from < to);
        let ordered = parts.is_sorted_by(|(.., a), (.., b)| (a.seqno, a.ordinal) <= (b.seqno, b.ordinal));
        if !edges.is_sorted_by(|a, b| **a < **b) || !parts.iter().all(sound) || !ordered {
            return None;
        }
        let placed = |&(from, to, mark): &(u32, Option<u32>, Mark)| Placed { from, to: to.unwrap_or(OPEN), mark };
        let all = parts.iter().map(placed).collect();
        Some(Self::of(edges, all))
    }

    /// From fragments that are sorted and apart; nothing if they are not.
    pub(crate) fn from_fragments(fragments: Vec<Fragment>) -> Option<Self> {
        let whole = fragments.iter().all(|fragment| {
            let newest_first = fragment.marks.is_sorted_by_key(|mark| Reverse((mark.seqno, mark.ordinal)));
            !fragment.span.is_empty() && !fragment.marks.is_empty() && newest_first
        });
        let apart =
            fragments.is_sorted_by(|left, right| left.span.end.as_ref().is_some_and(|end| *end <= right.span.start));
        if !whole || !apart {
            return None;
        }
        let mut edges: Vec<Bytes> = Vec::with_capacity(2 * fragments.len());
        let mut all = Vec::new();
        for Fragment { span, marks } in fragments {
            if edges.last().is_none_or(|last| **last != *span.start) {
                edges.push(span.start.into());
            }
            let from = number(edges.len() - 1);
            let to = if span.end.is_some() { from + 1 } else { OPEN };
            edges.extend(span.end.map(Bytes::from));
            all.extend(marks.into_iter().map(|mark| Placed { from, to, mark }));
        }
        Some(Self::assembled(edges, all))
    }

    /// Both in one. All of `newer` were written behind all of this.
    fn merged(&self, newer: &Self) -> Self {
        let mut edges: Vec<Bytes> = Vec::with_capacity(self.edges.len() + newer.edges.len());
        let mut maps = [Vec::with_capacity(self.edges.len()), Vec::with_capacity(newer.edges.len())];
        let [old_map, new_map] = &mut maps;
        let (mut old, mut new) = (self.edges.iter().peekable(), newer.edges.iter().peekable());
        loop {
            let next = match (old.peek(), new.peek()) {
                (None, None) => break,
                (Some(edge), None) | (None, Some(edge)) => edge,
                (Some(a), Some(b)) => {
                    if ***a <= ***b {
                        a
                    } else {
                        b
                    }
                }
            };
            let edge = Bytes::clone(next);
            let at = number(edges.len());
            if old.next_if(|old| ***old == *edge).is_some() {
                old_map.push(at);
            }
            if new.next_if(|new| ***new == *edge).is_some() {
                new_map.push(at);
            }
            edges.push(edge);
        }
        let mapped = |map: &[u32], at: u32| map.get(at as usize).copied().unwrap_or(OPEN);
        let mut all: Vec<Placed> = Vec::with_capacity(self.all.len() + newer.all.len());
        all.extend(self.all.iter().map(|one| one.moved(old_map)));
        all.extend(newer.all.iter().map(|one| one.moved(new_map)));

        let behind = number(self.all.len());
        let mut skyline: Vec<(u32, u32)> = Vec::with_capacity(self.skyline.len() + newer.skyline.len());
        let mut old = self.skyline.iter().map(|(at, top)| (mapped(old_map, *at), *top)).peekable();
        let mut new = newer.skyline.iter().map(|(at, top)| (mapped(new_map, *at), *top)).peekable();
        let (mut below, mut above) = (NONE, NONE);
        while let Some(at) = old.peek().into_iter().chain(new.peek()).map(|(at, _)| *at).min() {
            below = old.next_if(|(next, _)| *next == at).map_or(below, |(_, top)| top);
            above = new.next_if(|(next, _)| *next == at).map_or(above, |(_, top)| top);
            let top = if above == NONE { below } else { above + behind };
            if skyline.last().is_none_or(|(_, last)| *last != top) {
                skyline.push((at, top));
            }
        }
        Self::with(edges, all, skyline)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// Bytes of memory.
    pub(crate) fn memory(&self) -> usize {
        let keys: usize = self.edges.iter().map(|edge| size_of::<Bytes>() + edge.len()).sum();
        let covers = self.covers.get().map_or(0, Cover::memory);
        let gaps = self.gaps.get().map_or(0, |gaps| gaps.over.memory() + gaps.starts.memory());
        let purges = self.purges.get().map_or(0, |purges| purges.memory());
        keys + self.all.len() * size_of::<Placed>() + self.skyline.len() * 8 + covers + gaps + purges
    }

    fn newest_seqno(&self) -> u64 {
        self.all.last().map_or(0, |one| one.mark.seqno)
    }

    /// The edges in order, and each tombstone, oldest first, by the numbers of its edges: what [`Tombstones::from_parts`] takes.
    pub(crate) fn parts(&self) -> (&[Bytes], impl Iterator<Item = (u32, Option<u32>, &Mark)>) {
        let end = |to: u32| Some(to).filter(|to| *to != OPEN);
        (&self.edges, self.all.iter().map(move |one| (one.from, end(one.to), &one.mark)))
    }

    /// All of them, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>, &Mark)> {
        self.all.iter().map(|one| (self.edge(one.from).unwrap_or_default(), self.edge(one.to), &one.mark))
    }

    /// All of them, to keep.
    pub(crate) fn to_vec(&self) -> Vec<RangeTombstone> {
        let whole = |(start, end, mark): (&[u8], Option<&[u8]>, &Mark)| RangeTombstone {
            span: KeySpan { start: start.to_vec(), end: end.map(<[u8]>::to_vec) },
            mark: *mark,
        };
        self.iter().map(whole).collect()
    }

    /// From the start of the first to the end of the last, which may have none.
    pub(crate) fn span(&self) -> Option<KeySpan> {
        let start = self.edges.first()?.to_vec();
        let open = self.all.iter().any(|one| one.to == OPEN);
        Some(KeySpan { start, end: self.edges.last().filter(|_| !open).map(|end| end.to_vec()) })
    }

    fn edge(&self, at: u32) -> Option<&[u8]> {
        self.edges.get(at as usize).map(|edge| &**edge)
    }

    /// The part that a key is in.
    fn part(&self, key: &[u8]) -> Option<usize> {
        self.edges.partition_point(|edge| **edge <= *key).checked_sub(1)
    }

    /// How many were written at or before a moment.
    fn upto(&self, asked: u64) -> usize {
        self.all.partition_point(|one| one.mark.seqno <= asked)
    }

    /// What readers of a moment, who know the purges up to `opened`, have to be told of a key.
    fn look(&self, key: &[u8], asked: u64, opened: u64) -> Said {
        if asked >= self.newest_seqno() {
            let after = self.skyline.partition_point(|(at, _)| self.edge(*at).is_some_and(|edge| edge <= key));
            let to = self.skyline.get(after).map(|(at, _)| *at);
            let Some((from, top)) = after.checked_sub(1).and_then(|at| self.skyline.get(at)) else {
                return Said { to, ..Said::default() };
            };
            return Said { newest: Some(*top).filter(|top| *top != NONE), from: Some(*from), to, ..Said::default() };
        }
        let purge = self.newest_purge.is_some_and(|newest| newest > asked && opened > asked);
        let gap = self.gapped.is_some_and(|(newest, lowest)| newest > asked && lowest <= asked);
        let upto = self.upto(asked);
        if upto == 0 && !purge && !gap {
            return Said::default();
        }
        let Some(part) = self.part(key) else { return Said { to: Some(0), ..Said::default() } };
        let refusing =
            if gap { self.gaps().over.path(part).find_map(|list| self.refusing(list, upto, asked)) } else { None };
        Said {
            newest: self.newest_below(part, upto),
            purge: if purge { self.newest_purge(key, asked, opened) } else { None },
            refusing,
            from: Some(number(part)),
            to: Some(number(part + 1)).filter(|to| (*to as usize) < self.edges.len()),
        }
    }

    /// The newest of the first `upto` over a part.
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

    fn newest_purge(&self, key: &[u8], asked: u64, opened: u64) -> Option<Mark> {
        let purges = self.purging();
        let newest = purges.look(key, opened, opened).newest?;
        purges.all.get(newest as usize).map(|one| one.mark).filter(|mark| mark.seqno > asked)
    }

    /// Of a list of those with a gap, the one above a moment that reaches lowest, if it refuses the moment.
    fn refusing(&self, list: List<'_>, upto: usize, asked: u64) -> Option<Mark> {
        let above = list.first.partition_point(|rank| (*rank as usize) < upto);
        let mark = self.all.get(*list.lowest.get(above)? as usize)?.mark;
        mark.refuses(asked).then_some(mark)
    }

    /// One that overlaps a span and whose gap refuses a moment.
    fn refusing_in(&self, span: &KeySpan, asked: u64) -> Option<Mark> {
        self.gapped.filter(|(newest, lowest)| *newest > asked && *lowest <= asked)?;
        let gaps = self.gaps();
        let upto = self.upto(asked);
        let from = self.part(&span.start);
        let over = from.into_iter().flat_map(|part| gaps.over.path(part));
        // Behind the first key those that begin there.
        let behind = from.map_or(0, |part| part + 1);
        let end = span.end.as_ref().map_or(self.edges.len(), |end| self.edges.partition_point(|edge| **edge < **end));
        over.chain(gaps.starts.within(behind..end)).find_map(|list| self.refusing(list, upto, asked))
    }

    /// The newest at or below a moment over a key; a purge above the moment comes before it, where its reader knows it.
    pub(crate) fn newest(&self, key: &[u8], asked: u64, opened: u64) -> Option<Mark> {
        let said = self.look(key, asked, opened);
        said.purge.or_else(|| self.all.get(said.newest? as usize).map(|one| one.mark))
    }

    /// What a look-up of a key as of a moment has to be shown, newest first: the purge above it, one above it whose gap refuses it, and the
    /// newest at or below it. Whatever else covers the key changes no answer.
    #[inline]
    pub(crate) fn shown(&self, key: &[u8], asked: u64, opened: u64) -> Shown {
        if self.all.is_empty() {
            return Shown::default();
        }
        let said = self.look(key, asked, opened);
        Shown::of(said.purge, said.refusing, said.newest.and_then(|at| self.all.get(at as usize)).map(|one| one.mark))
    }

    /// All that cover a key, in no order.
    pub(crate) fn covering(&self, key: &[u8]) -> impl Iterator<Item = &Mark> {
        let part = if self.all.is_empty() { None } else { self.part(key) };
        let few = self.all.len() <= FEW;
        let walked =
            part.filter(|_| few).into_iter().flat_map(move |part| self.all.iter().filter(move |one| one.covers(part)));
        let found =
            part.filter(|_| !few).into_iter().flat_map(|part| self.covers().path(part).flat_map(|list| list.first));
        walked.chain(found.filter_map(|rank| self.all.get(*rank as usize))).map(|one| &one.mark)
    }

    /// The oldest one above a seqno that covers a key.
    pub(crate) fn oldest_above(&self, key: &[u8], seqno: u64) -> Option<&Mark> {
        let part = self.part(key)?;
        let upto = self.upto(seqno);
        let above =
            |list: List<'_>| list.first.get(list.first.partition_point(|rank| (*rank as usize) < upto)).copied();
        let rank = self.covers().path(part).filter_map(above).min()?;
        self.all.get(rank as usize).map(|one| &one.mark)
    }

    /// The newest that overlaps a span.
    pub(crate) fn newest_in(&self, span: &KeySpan) -> Option<u64> {
        let before =
            |key: &[u8]| self.skyline.partition_point(|(at, _)| self.edge(*at).is_some_and(|edge| edge <= key));
        let from = before(&span.start).saturating_sub(1);
        let to = span.end.as_deref().map_or(self.skyline.len(), |end| {
            self.skyline.partition_point(|(at, _)| self.edge(*at).is_some_and(|edge| edge < end))
        });
        let tops = self.skyline.get(from..to)?.iter().filter(|(_, top)| *top != NONE);
        tops.map(|(_, top)| *top).max().and_then(|top| Some(self.all.get(top as usize)?.mark.seqno))
    }

    fn covers(&self) -> &Cover {
        self.covers.get_or_init(|| {
            let parts = self.edges.len();
            Cover::new(parts, self.all.iter().enumerate().map(|(rank, one)| (number(rank), one.parts(parts))))
        })
    }

    fn gaps(&self) -> &Gaps {
        self.gaps.get_or_init(|| {
            let parts = self.edges.len();
            let gapped = || self.all.iter().enumerate().filter(|(_, one)| one.mark.gap_start.is_some());
            let gap = |rank: u32| self.all.get(rank as usize).and_then(|one| one.mark.gap_start).unwrap_or(u64::MAX);
            let mut over = Cover::new(parts, gapped().map(|(rank, one)| (number(rank), one.parts(parts))));
            let mut starts = Cover::of_points(parts, gapped().map(|(rank, one)| (number(rank), one.from as usize)));
            over.find_lowest(gap);
            starts.find_lowest(gap);
            Gaps { over, starts }
        })
    }

    fn purging(&self) -> &Self {
        self.purges.get_or_init(|| {
            Box::new(Self::of(self.edges.clone(), self.all.iter().filter(|one| one.mark.purge).copied().collect()))
        })
    }

    /// Them cut where they overlap, each part with all that cover it; nothing where that would be many more marks than there are tombstones.
    pub(crate) fn cut(&self) -> Option<Vec<Fragment>> {
        let count = self.edges.len();
        let marks: usize = self.all.iter().map(|one| one.parts(count).len()).sum();
        (marks <= CUT_MAX * self.all.len()).then(|| self.cut_all())
    }

    fn cut_all(&self) -> Vec<Fragment> {
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
                let marks = open.iter().rev().filter_map(|rank| self.all.get(*rank)).map(|one| one.mark).collect();
                fragments.push(Fragment { span, marks });
            }
        }
        fragments
    }
}

fn number(count: usize) -> u32 {
    // A batch is too short for so many, and so is a section of a segment.
    debug_assert!(count < OPEN as usize, "{count} edges or range tombstones");
    u32::try_from(count).unwrap_or(OPEN)
}

/// The skyline of tombstones over so many parts, in almost linear time: the newest first, each where nothing is painted yet.
fn paint(parts: usize, all: &[Placed]) -> Vec<(u32, u32)> {
    let mut tops = vec![NONE; parts];
    // The first part from each on that is not painted.
    let mut free: Vec<u32> = (0..=number(parts)).collect();
    let find = |free: &mut Vec<u32>, from: u32| {
        let next = |free: &Vec<u32>, at: u32| free.get(at as usize).copied().unwrap_or(at);
        let mut at = from;
        while next(free, at) != at {
            let skip = next(free, next(free, at));
            free.get_mut(at as usize).into_iter().for_each(|next| *next = skip);
            at = skip;
        }
        at
    };
    for (rank, one) in all.iter().enumerate().rev() {
        let end = number(one.parts(parts).end);
        let mut at = find(&mut free, one.from);
        while at < end {
            tops.get_mut(at as usize).into_iter().for_each(|top| *top = number(rank));
            free.get_mut(at as usize).into_iter().for_each(|next| *next = at + 1);
            at = find(&mut free, at + 1);
        }
    }
    let mut skyline: Vec<(u32, u32)> = Vec::new();
    for (at, top) in tops.into_iter().enumerate() {
        if skyline.last().is_none_or(|(_, last)| *last != top) {
            skyline.push((number(at), top));
        }
    }
    skyline
}

/// A segment tree: each tombstone is listed, by its number, at the few nodes whose parts it covers whole.
#[derive(Debug, Default)]
struct Cover {
    leaves: usize,
    /// Where the list of each node begins; one more for the end of the last.
    begins: Vec<u32>,
    /// The lists, ascending.
    ranks: Vec<u32>,
    /// Of those from each on, in its list, the one whose gap is lowest: where that is asked.
    lowest: Vec<u32>,
}

/// What is listed at a node.
#[derive(Clone, Copy, Debug)]
struct List<'a> {
    first: &'a [u32],
    lowest: &'a [u32],
}

impl Cover {
    fn new(leaves: usize, spans: impl Iterator<Item = (u32, Range<usize>)> + Clone) -> Self {
        let each = |(rank, span): (u32, Range<usize>)| canonical(leaves, span).map(move |node| (rank, node));
        Self::listing(leaves, spans.flat_map(each))
    }

    /// Of points: each is listed at every node above it.
    fn of_points(leaves: usize, points: impl Iterator<Item = (u32, usize)> + Clone) -> Self {
        let each = |(rank, point): (u32, usize)| upwards(leaves, point).map(move |node| (rank, node));
        Self::listing(leaves, points.flat_map(each))
    }

    fn listing(leaves: usize, listed: impl Iterator<Item = (u32, usize)> + Clone) -> Self {
        let mut begins = vec![0u32; 2 * leaves + 1];
        for (_, node) in listed.clone() {
            begins.get_mut(node + 1).into_iter().for_each(|count| *count += 1);
        }
        let mut sum = 0;
        for begin in &mut begins {
            sum += *begin;
            *begin = sum;
        }
        let mut next = begins.clone();
        let mut ranks = vec![0; sum as usize];
        for (rank, node) in listed {
            if let Some(at) = next.get_mut(node) {
                ranks.get_mut(*at as usize).into_iter().for_each(|room| *room = rank);
                *at += 1;
            }
        }
        Self { leaves, begins, ranks, lowest: Vec::new() }
    }

    fn find_lowest(&mut self, gap: impl Fn(u32) -> u64) {
        self.lowest = self.ranks.clone();
        for node in self.begins.windows(2) {
            let &[from, to] = node else { continue };
            let mut best: Option<u32> = None;
            for rank in self.lowest.get_mut(from as usize..to as usize).into_iter().flatten().rev() {
                let lower = best.filter(|best| gap(*best) <= gap(*rank)).unwrap_or(*rank);
                best = Some(lower);
                *rank = lower;
            }
        }
    }

    fn list(&self, node: usize) -> List<'_> {
        let begin = |node: usize| self.begins.get(node).map_or(0, |begin| *begin as usize);
        let of = |list: &'_ [u32]| -> Range<usize> { begin(node).min(list.len())..begin(node + 1).min(list.len()) };
        List {
            first: self.ranks.get(of(&self.ranks)).unwrap_or_default(),
            lowest: self.lowest.get(of(&self.lowest)).unwrap_or_default(),
        }
    }

    /// The lists that together hold all over a part.
    fn path(&self, part: usize) -> impl Iterator<Item = List<'_>> {
        upwards(self.leaves, part).map(|node| self.list(node))
    }

    /// Of points, the lists that together hold those in a range.
    fn within(&self, range: Range<usize>) -> impl Iterator<Item = List<'_>> {
        canonical(self.leaves, range).map(|node| self.list(node))
    }

    fn memory(&self) -> usize {
        4 * (self.begins.len() + self.ranks.len() + self.lowest.len())
    }
}

/// The nodes from a leaf to the root.
fn upwards(leaves: usize, leaf: usize) -> impl Iterator<Item = usize> + Clone {
    std::iter::successors(Some(leaf + leaves).filter(|_| leaf < leaves), |node| Some(node / 2).filter(|node| *node > 0))
}

/// The fewest nodes that make up a range of leaves.
fn canonical(leaves: usize, range: Range<usize>) -> impl Iterator<Item = usize> + Clone {
    let mut ends = (range.start + leaves, range.end.min(leaves) + leaves);
    let mut second = None;
    std::iter::from_fn(move || {
        if let Some(node) = second.take() {
            return Some(node);
        }
        let (left, right) = &mut ends;
        while *left < *right {
            let first = (*left % 2 == 1).then_some(*left);
            *left += *left % 2;
            second = (*right % 2 == 1).then(|| *right - 1);
            *right -= *right % 2;
            *left /= 2;
            *right /= 2;
            if first.is_some() {
                return first;
            }
            if let Some(node) = second.take() {
                return Some(node);
            }
        }
        None
    })
}

/// What is found of those that have a gap.
#[derive(Debug)]
struct Gaps {
    over: Cover,
    starts: Cover,
}

/// The few marks that a look-up is shown of a key, newest first.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shown([Option<Mark>; 3]);

impl Shown {
    fn of(purge: Option<Mark>, refusing: Option<Mark>, newest: Option<Mark>) -> Self {
        let mut marks = [purge, refusing, newest];
        if let [Some(purge), Some(refusing), _] = marks
            && (purge.seqno, purge.ordinal) < (refusing.seqno, refusing.ordinal)
        {
            marks.swap(0, 1);
        }
        Self(marks)
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Mark> {
        self.0.iter().flatten()
    }

    /// The first of them that is newer than a place, which is then no longer there. Without one, the first.
    #[inline]
    pub(crate) fn next_above(&mut self, place: Option<(u64, u32)>) -> Option<Mark> {
        let newer = |mark: &Mark| place.is_none_or(|place| (mark.seqno, mark.ordinal) > place);
        self.0.iter_mut().find(|mark| mark.is_some())?.take_if(|mark| newer(mark))
    }
}

/// Adds a set to a stack of sets whose newest is last, so that each is longer than the next: there are never more than log n. Gives how
/// many tombstones were moved: each is moved log n times at most.
pub(crate) fn push(stack: &mut Vec<Arc<Tombstones>>, newest: Tombstones) -> usize {
    let mut last = newest;
    let mut moved = 0;
    while let Some(before) = stack.pop_if(|before| before.len() <= last.len()) {
        last = before.merged(&last);
        moved += last.len();
    }
    stack.push(Arc::new(last));
    moved
}

/// The range tombstones of several sources over a key that moves, in either direction.
#[derive(Debug)]
pub(crate) struct Overhead {
    /// The newest first: those that can say nothing newer than what is found are not asked.
    runs: Vec<Run>,
    asked: u64,
    opened: u64,
    /// What was found last, and between which edges it holds.
    shown: Shown,
    /// The newest at or below the moment: its run, its set there, and its number.
    newest: Option<(usize, usize, u32)>,
    from: Option<Edge>,
    to: Option<Edge>,
    /// Nothing was looked up yet.
    fresh: bool,
}

/// Sets that follow each other by key, as the segments of a level do.
#[derive(Debug)]
struct Run {
    sets: Vec<Arc<Tombstones>>,
    newest: u64,
}

/// An edge: of which run, of which set in it, and its number.
type Edge = (usize, usize, u32);

/// The newest tombstone at or below a moment, over some key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Newest<'a> {
    pub(crate) seqno: u64,
    pub(crate) start: &'a [u8],
    pub(crate) end: Option<&'a [u8]>,
}

impl Overhead {
    /// Of runs of sets; those of a run are in order and apart.
    pub(crate) fn new(runs: Vec<Vec<Arc<Tombstones>>>, asked: u64, opened: u64) -> Self {
        let run = |mut sets: Vec<Arc<Tombstones>>| {
            sets.retain(|set| !set.is_empty());
            let newest = sets.iter().map(|set| set.newest_seqno()).max()?;
            Some(Run { sets, newest })
        };
        let mut runs: Vec<Run> = runs.into_iter().filter_map(run).collect();
        runs.sort_by_key(|run| Reverse(run.newest));
        Self { runs, asked, opened, shown: Shown::default(), newest: None, from: None, to: None, fresh: true }
    }

    /// What a look-up of a key has to be shown.
    #[inline]
    pub(crate) fn over(&mut self, key: &[u8]) -> Shown {
        if !self.runs.is_empty() && !self.holds(key) {
            self.look(key);
        }
        self.shown
    }

    fn edge(&self, (run, set, edge): Edge) -> Option<&[u8]> {
        self.runs.get(run)?.sets.get(set)?.edge(edge)
    }

    /// Whether what was found last holds for a key.
    fn holds(&self, key: &[u8]) -> bool {
        let behind = |at| self.edge(at).is_none_or(|edge| edge <= key);
        let before = |at| self.edge(at).is_none_or(|edge| key < edge);
        !self.fresh && self.from.is_none_or(behind) && self.to.is_none_or(before)
    }

    fn look(&mut self, key: &[u8]) {
        self.fresh = false;
        (self.newest, self.from, self.to) = (None, None, None);
        let (mut purge, mut refusing, mut best): (Option<Mark>, Option<Mark>, Option<Mark>) = (None, None, None);
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
            let said = set.look(key, self.asked, self.opened);
            purge = purge.into_iter().chain(said.purge).max_by_key(|mark| mark.seqno);
            refusing = refusing.or(said.refusing);
            if let Some(mark) = said.newest.and_then(|rank| set.all.get(rank as usize)).map(|one| one.mark)
                && best.is_none_or(|best| (best.seqno, best.ordinal) < (mark.seqno, mark.ordinal))
            {
                best = Some(mark);
                self.newest = said.newest.map(|rank| (at, within, rank));
            }
            // What is said before the first edge and behind the last is said up to the neighbours.
            let from = said.from.or_else(|| (within > 0).then_some(0)).map(|edge| (at, within, edge));
            self.narrow(from, said.to.map(|edge| (at, within, edge)).or(next_begins));
        }
        self.shown = Shown::of(purge, refusing, best);
    }

    /// What was found holds no further than between two edges.
    fn narrow(&mut self, from: Option<Edge>, to: Option<Edge>) {
        if from.is_some_and(|from| self.from.is_none_or(|known| self.edge(known) < self.edge(from))) {
            self.from = from;
        }
        if to.is_some_and(|to| self.to.is_none_or(|known| self.edge(to) < self.edge(known))) {
            self.to = to;
        }
    }

    /// The newest at or below the moment over the key that was looked up last.
    pub(crate) fn newest(&self) -> Option<Newest<'_>> {
        let (run, set, rank) = self.newest?;
        let set = self.runs.get(run)?.sets.get(set)?;
        let one = set.all.get(rank as usize)?;
        Some(Newest { seqno: one.mark.seqno, start: set.edge(one.from)?, end: set.edge(one.to) })
    }

    fn sets(&self) -> impl Iterator<Item = &Tombstones> {
        self.runs.iter().flat_map(|run| &run.sets).map(|set| &**set)
    }

    /// One in a span whose gap refuses the moment of some key that no purge hides from the reader (R6).
    pub(crate) fn refusing_in(&self, span: &KeySpan) -> Option<Mark> {
        let refusing = self.sets().find_map(|set| set.refusing_in(span, self.asked))?;
        let hides = |mark: &Mark| mark.purge && mark.seqno > self.asked && mark.seqno <= self.opened;
        let purged = self.sets().filter(|set| set.newest_purge.is_some_and(|newest| newest > self.asked));
        let mut purged: Vec<_> = purged.flat_map(Tombstones::iter).filter(|(.., mark)| hides(mark)).collect();
        if purged.is_empty() {
            return Some(refusing);
        }
        purged.sort_unstable_by_key(|(start, ..)| *start);
        // In order, and apart.
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
        let all = self.sets().flat_map(Tombstones::iter).filter(|(.., mark)| mark.refuses(self.asked));
        let mut within = all.filter_map(|(start, end, mark)| {
            let start = start.max(&span.start);
            let end = end.into_iter().chain(span.end.as_deref()).min();
            end.is_none_or(|end| start < end).then_some((start, end, mark))
        });
        within.find(|(start, end, _)| !is_hidden(start, *end)).map(|(.., mark)| *mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dice(u64);

    impl Dice {
        fn below(&mut self, below: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % below
        }
    }

    fn tombstone(start: &str, end: Option<&str>, seqno: u64) -> RangeTombstone {
        let span = KeySpan { start: start.into(), end: end.map(Into::into) };
        RangeTombstone { span, mark: Mark { seqno, ordinal: 0, gap_start: None, time: 0, purge: false } }
    }

    /// The kinds of overlap that programs make: `n` tombstones with the seqnos 1 to `n`.
    fn shapes(n: u64) -> Vec<(&'static str, Vec<RangeTombstone>)> {
        let key = |at: u64| format!("{at:08}");
        let spans = |span: &dyn Fn(u64) -> (String, String)| {
            let one = |i: u64| {
                let (start, end) = span(i);
                tombstone(&start, Some(&end), i)
            };
            (1..=n).map(one).collect::<Vec<_>>()
        };
        let mut dice = Dice(n);
        let mut random = Vec::new();
        for i in 1..=n {
            let (a, b) = (dice.below(2 * n), dice.below(2 * n));
            random.push(tombstone(&key(a.min(b)), Some(&key(a.max(b) + 1)), i));
        }
        vec![
            ("trimmed", spans(&|i| (String::new(), key(i)))),
            ("trimmed the other way", spans(&|i| (String::new(), key(n + 1 - i)))),
            ("nested", spans(&|i| (key(i), key(3 * n - i)))),
            ("nested the other way", spans(&|i| (key(n - i), key(2 * n + i)))),
            ("disjoint", spans(&|i| (key(2 * i), key(2 * i + 1)))),
            ("stairs", spans(&|i| (key(i), key(i + n / 2 + 1)))),
            ("the same", spans(&|_| (key(1), key(2)))),
            ("random", random),
        ]
    }

    fn draw(dice: &mut Dice, seqno: u64, ordinal: u32) -> RangeTombstone {
        let letter = |at: u64| vec![b'a' + u8::try_from(at).unwrap()];
        let (start, end) = (dice.below(8), dice.below(10));
        let gap_start = (dice.below(3) == 0).then(|| 1 + dice.below(seqno));
        let purge = dice.below(8) == 0;
        let span = KeySpan { start: letter(start), end: (end < 9).then(|| letter(end)) };
        RangeTombstone { span, mark: Mark { seqno, ordinal, gap_start, time: 0, purge } }
    }

    /// What a walk over all of them finds for a key: the newest, whether a purge hides it, and whether a gap refuses it.
    fn naive(all: &[RangeTombstone], key: &[u8], asked: u64, opened: u64) -> (Option<Mark>, bool, bool) {
        let over = || all.iter().filter(|one| one.span.holds(key)).map(|one| one.mark);
        let newest = over().filter(|mark| mark.seqno <= asked).max_by_key(|mark| (mark.seqno, mark.ordinal));
        let known = |mark: &Mark| mark.purge && mark.seqno > asked && mark.seqno <= opened;
        (newest, over().any(|mark| known(&mark)), over().any(|mark| mark.refuses(asked)))
    }

    /// Each set as a run of its own.
    fn alone(sets: &[Arc<Tombstones>]) -> Vec<Vec<Arc<Tombstones>>> {
        sets.iter().map(|set| vec![Arc::clone(set)]).collect()
    }

    /// A set as the segments of a level have it.
    fn parted(set: &Tombstones, dice: &mut Dice) -> Vec<Arc<Tombstones>> {
        let mut cuts: Vec<Vec<u8>> =
            (0..dice.below(4)).map(|_| vec![b'`' + u8::try_from(dice.below(11)).unwrap()]).collect();
        cuts.sort_unstable();
        cuts.dedup();
        let ends = cuts.iter().cloned().map(Some).chain([None]);
        let starts = std::iter::once(Vec::new()).chain(cuts.iter().cloned());
        let part = |(from, to): (Vec<u8>, Option<Vec<u8>>)| {
            let clipped = set.to_vec().into_iter().map(|one| {
                let start = one.span.start.max(from.clone());
                let end = one.span.end.into_iter().chain(to.clone()).min();
                RangeTombstone { span: KeySpan { start, end }, ..one }
            });
            Arc::new(Tombstones::new(clipped))
        };
        starts.zip(ends).map(part).collect()
    }

    fn told(shown: Shown, asked: u64, opened: u64) -> (Option<Mark>, bool, bool) {
        assert!(shown.iter().is_sorted_by_key(|mark| Reverse((mark.seqno, mark.ordinal))));
        let newest = shown.iter().find(|mark| mark.seqno <= asked).copied();
        let known = |mark: &Mark| mark.purge && mark.seqno > asked && mark.seqno <= opened;
        (newest, shown.iter().any(known), shown.iter().any(|mark| mark.refuses(asked)))
    }

    #[test]
    fn every_reader_is_told_of_each_key_what_a_walk_over_all_tombstones_finds() {
        let keys: Vec<Vec<u8>> = (b'`'..=b'k').flat_map(|byte| [vec![byte], vec![byte, 0]]).collect();
        for seed in 0..150 {
            let mut dice = Dice(seed);
            let mut all: Vec<RangeTombstone> = Vec::new();
            let mut stack: Vec<Arc<Tombstones>> = Vec::new();
            let last = 1 + dice.below(30);
            for seqno in 1..=last {
                let count = if dice.below(4) == 0 { 1 + dice.below(4) } else { 1 };
                let ordinals = 0..u32::try_from(count).unwrap();
                let batch: Vec<_> = ordinals.map(|ordinal| draw(&mut dice, seqno, ordinal)).collect();
                all.extend(batch.iter().filter(|one| !one.span.is_empty()).cloned());
                push(&mut stack, Tombstones::new(batch));
            }
            let whole = Arc::new(Tombstones::new(all.clone()));
            assert_eq!(whole.len(), all.len());
            for asked in 0..=last + 1 {
                let opened = asked + dice.below(last + 2 - asked.min(last));
                let mut sweeps =
                    [stack.clone(), vec![Arc::clone(&whole)]].map(|sets| Overhead::new(alone(&sets), asked, opened));
                let mut back = Overhead::new(vec![parted(&whole, &mut dice)], asked, opened);
                for (at, key) in keys.iter().enumerate() {
                    let wanted = naive(&all, key, asked, opened);
                    let alone = told(whole.shown(key, asked, opened), asked, opened);
                    assert_eq!(alone, wanted, "seed {seed}: {key:?} at {asked}, {opened}");
                    for sweep in &mut sweeps {
                        let walked = told(sweep.over(key), asked, opened);
                        assert_eq!(walked, wanted, "seed {seed}: {key:?} at {asked}, {opened} in a walk");
                    }
                    let other = &keys[keys.len() - 1 - at];
                    let wanted = naive(&all, other, asked, opened);
                    let (newest, purged, _) = wanted;
                    let walked = told(back.over(other), asked, opened);
                    assert_eq!(walked, wanted, "seed {seed}: {other:?} at {asked}, {opened} backward");
                    if let Some(Newest { seqno, start, end }) = back.newest() {
                        assert_eq!(Some(seqno), newest.map(|mark| mark.seqno));
                        assert!(start <= other && end.is_none_or(|end| other.as_slice() < end));
                    }
                    let found = stack.iter().rev().find_map(|set| set.newest(other, asked, opened));
                    match found.filter(|mark| mark.seqno > asked) {
                        Some(purge) => assert!(purged && purge.purge && purge.seqno <= opened),
                        None => assert!(!purged && found == newest),
                    }

                    let mut covering: Vec<Mark> = whole.covering(key).copied().collect();
                    covering.sort_unstable();
                    let over: Vec<Mark> = all.iter().filter(|one| one.span.holds(key)).map(|one| one.mark).collect();
                    assert_eq!(covering, over);
                    let oldest = over.iter().find(|mark| mark.seqno > asked);
                    assert_eq!(whole.oldest_above(key, asked).map(|mark| mark.seqno), oldest.map(|mark| mark.seqno));
                }
                for _ in 0..8 {
                    let (start, end) = (dice.below(11), dice.below(14));
                    let letter = |at: u64| vec![b'`' + u8::try_from(at).unwrap()];
                    let span = KeySpan { start: letter(start), end: (end < 12).then(|| letter(end)) };
                    if span.is_empty() {
                        continue;
                    }
                    // Keys between the edges stand for all keys.
                    let refused = keys.iter().filter(|key| span.holds(key)).any(|key| {
                        let (_, purge, refused) = naive(&all, key, asked, opened);
                        refused && !purge
                    });
                    let sweep = &sweeps[usize::try_from(seed % 2).unwrap()];
                    assert_eq!(
                        sweep.refusing_in(&span).is_some(),
                        refused,
                        "seed {seed}: {span:?} at {asked}, {opened}"
                    );
                    let newest = all.iter().filter(|one| keys.iter().any(|key| span.holds(key) && one.span.holds(key)));
                    assert_eq!(whole.newest_in(&span), newest.map(|one| one.mark.seqno).max(), "{span:?}");
                }
            }
        }
    }

    #[test]
    fn a_set_comes_back_from_its_parts_and_from_its_fragments() {
        for seed in 0..100 {
            let mut dice = Dice(seed);
            let all = (1..=1 + dice.below(20)).map(|seqno| draw(&mut dice, seqno, 0));
            let set = Tombstones::new(all);
            let (edges, parts) = set.parts();
            let parts: Vec<_> = parts.map(|(from, to, mark)| (from, to, *mark)).collect();
            assert_eq!(Tombstones::from_parts(edges.to_vec(), &parts).as_ref(), Some(&set));
            assert_eq!(Tombstones::from_fragments(set.cut_all()).as_ref(), Some(&set));
            assert_eq!(Tombstones::new(set.to_vec()), set);
        }
        let mark = tombstone("a", None, 5).mark;
        let edges = || vec![Bytes::from("a"), Bytes::from("b")];
        assert!(Tombstones::from_parts(edges(), &[(0, Some(1), mark), (1, None, mark)]).is_some());
        for bad in [(0, Some(0), mark), (1, Some(0), mark), (0, Some(2), mark), (2, None, mark)] {
            assert!(Tombstones::from_parts(edges(), &[bad]).is_none(), "{bad:?}");
        }
        assert!(Tombstones::from_parts(edges(), &[(0, None, mark), (0, None, tombstone("a", None, 4).mark)]).is_none());
        assert!(Tombstones::from_parts(vec![Bytes::from("b"), Bytes::from("a")], &[]).is_none());
    }

    #[test]
    fn overlapping_tombstones_are_cut_at_every_edge_unless_that_makes_too_many() {
        let set =
            Tombstones::new([tombstone("a", Some("m"), 9), tombstone("f", None, 5), tombstone("x", Some("b"), 7)]);
        let cut = set.cut().unwrap();
        let told = |fragment: &Fragment| {
            (fragment.span.start.clone(), fragment.marks.iter().map(|mark| mark.seqno).collect::<Vec<_>>())
        };
        let wanted = [(b"a".to_vec(), vec![9]), (b"f".to_vec(), vec![9, 5]), (b"m".to_vec(), vec![5])];
        assert_eq!(cut.iter().map(told).collect::<Vec<_>>(), wanted);
        for (name, all) in shapes(1000) {
            let cut = Tombstones::new(all).cut();
            assert_eq!(cut.is_some(), matches!(name, "disjoint" | "the same"), "{name}");
        }
    }

    #[test]
    fn what_a_set_holds_is_linear_in_its_number_however_they_overlap() {
        for n in [1000u64, 16_000] {
            for (name, all) in shapes(n) {
                let n = usize::try_from(n).unwrap();
                let set = Tombstones::new(all);
                assert!(set.edges.len() <= 2 * n, "{name}: {} edges of {n}", set.edges.len());
                assert!(set.skyline.len() <= 2 * n, "{name}: {} parts of {n}", set.skyline.len());
                assert!(set.memory() <= 160 * n, "{name}: {} bytes for {n}", set.memory());
                // Once somebody has looked back.
                assert!(set.newest(b"00000005", set.newest_seqno() / 2, 0).is_some() || name != "trimmed");
                let log = usize::BITS - set.edges.len().leading_zeros();
                assert!(set.covers().ranks.len() <= 2 * n * log as usize, "{name}: {}", set.covers().ranks.len());
            }
        }
    }

    #[test]
    fn adding_one_at_a_time_moves_each_no_more_often_than_the_logarithm_of_their_number() {
        for n in [1000u64, 16_000] {
            for (name, all) in shapes(n) {
                let mut stack = Vec::new();
                let moved: usize = all.into_iter().map(|one| push(&mut stack, Tombstones::new([one]))).sum();
                let log = u64::from(n.ilog2()) + 1;
                assert!(moved as u64 <= n * log, "{name}: {moved} moved of {n}");
                assert!(stack.len() as u64 <= log, "{name}: {} sets of {n}", stack.len());
            }
        }
    }

    #[test]
    fn a_walk_looks_anew_only_where_another_tombstone_is_the_newest() {
        let n = 4000;
        for (name, all) in shapes(n) {
            let mut stack = Vec::new();
            for one in all {
                push(&mut stack, Tombstones::new([one]));
            }
            let mut sweep = Overhead::new(alone(&stack), u64::MAX, u64::MAX);
            let mut looks = 0;
            for at in 0..3 * n {
                let key = format!("{at:08}");
                looks += u64::from(!sweep.holds(key.as_bytes()));
                sweep.over(key.as_bytes());
            }
            // Over the stairs each is the newest somewhere; where they are nested, or trim a log, one is over all of them.
            assert!(looks <= if name == "trimmed" { 3 } else { 2 * n + 2 }, "{name}: looked {looks} times");
        }
    }
}
