//! Range tombstones on their way through a job.
//!
//! A range tombstone covers many keys, so it may record only what is true of all of them. What concerns one key is
//! recorded on a point tombstone of that key with the same seqno, which [`Survivors`](super::survivors::Survivors)
//! writes next to the range tombstone. (Rejected: recording it on the range tombstone. Then a version dropped from one
//! key refused the reads of its neighbours, and everything that a view read beneath a range tombstone had to be kept
//! twice.) Only a dropped range tombstone is recorded on a range tombstone: on the next newer one (see [`thin`]).
//!
//! ```text
//!   put@50 │ delete@40 │ range tombstones @39 @38 … @31 │ put@20          judged of the row: @39 and @31
//! ```
//!
//! In a row of range tombstones between two entries of a key, the newest and the oldest are versions of the key: the
//! one that came last, and the one that ended what lies beneath. Those in between deleted what was already deleted, and
//! are not judged: otherwise n tombstones over m keys would be n · m versions. One that has a gap or is a purge is
//! always judged.
//!
//! Over the keys between two edges, either all range tombstones leave or none does: if the newest left alone, reads
//! would find an older one, and take that for the answer at moments when it was not.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{Bound, Range},
    sync::Arc,
};

use super::{
    dropped::Dropped,
    rules::{Demands, Retention, Rules},
    thin::{Piece, thin},
};
use crate::{
    base::{Bytes, KeySpan, Micros, Seqno},
    merge::{Tombstone, Tombstones},
};

/// Position of a range tombstone among the versions of a key: seqno and ordinal.
type Place = (Seqno, u32);

/// The range tombstones of one job.
#[derive(Debug)]
pub(super) struct JobTombstones {
    /// Distinct edges in order; part i reaches from edge i to the next one.
    edges: Vec<Bytes>,
    /// Pieces by where they begin.
    pieces: Vec<Piece>,
    /// For each part, whether an entry beneath one of its tombstones was kept: then they must stay to hide it.
    hides: Vec<bool>,
    /// Number of edges at or before the current key, which is in the part before that number; and number of pieces that
    /// begin there or earlier.
    passed: usize,
    begun: usize,
    /// Tombstones over the current key; those of them that are always judged; and the edge at which each of them ends.
    over: BTreeMap<Place, Tombstone>,
    always: BTreeSet<Place>,
    ends: BTreeSet<(usize, Place)>,
    /// Upper bound of the tombstones not yet passed, and whether the previous one that was returned is of the same row.
    upto: Bound<Place>,
    in_row: bool,
    /// Key before which everything has been written; the number of parts and of pieces written; and the pieces among
    /// them that reach further.
    given: Option<Vec<u8>>,
    given_parts: usize,
    given_pieces: usize,
    reaching: Vec<Piece>,
}

impl JobTombstones {
    pub(super) fn new(sets: &[Arc<Tombstones>], retention: &Retention, dropped: &mut Dropped) -> Self {
        let (edges, mut pieces) = thin(sets, &retention.rules, &retention.demands, dropped);
        pieces.sort_unstable_by_key(|piece| piece.from);
        Self {
            hides: vec![false; edges.len()],
            edges,
            pieces,
            passed: 0,
            begun: 0,
            over: BTreeMap::new(),
            always: BTreeSet::new(),
            ends: BTreeSet::new(),
            upto: Bound::Unbounded,
            in_row: false,
            given: None,
            given_parts: 0,
            given_pieces: 0,
            reaching: Vec::new(),
        }
    }

    /// Moves on to a key.
    pub(super) fn begin_key(&mut self, key: &[u8]) {
        (self.upto, self.in_row) = (Bound::Unbounded, false);
        let before = self.passed;
        while self.edges.get(self.passed).is_some_and(|edge| **edge <= *key) {
            self.passed += 1;
        }
        if self.passed == before {
            return;
        }
        while let Some(&(end, place)) = self.ends.first()
            && end < self.passed
        {
            self.ends.pop_first();
            self.over.remove(&place);
            self.always.remove(&place);
        }
        while let Some(Piece { to, tombstone, .. }) =
            self.pieces.get(self.begun).filter(|piece| piece.from < self.passed)
        {
            self.begun += 1;
            if *to >= self.passed {
                let place = (tombstone.seqno, tombstone.ordinal);
                self.over.insert(place, *tombstone);
                self.ends.insert((*to, place));
                if tombstone.purge || tombstone.gap_start.is_some() {
                    self.always.insert(place);
                }
            }
        }
    }

    /// Returns the next range tombstone over the current key that must be judged and is newer than the next entry.
    pub(super) fn next_above(&mut self, seqno: Seqno, ordinal: u32) -> Option<Tombstone> {
        let entry = (seqno, ordinal);
        let below = (Bound::Excluded(entry), self.upto);
        if let Bound::Excluded(upto) | Bound::Included(upto) = self.upto
            && upto <= entry
        {
            return None;
        }
        let mut row = self.over.range(below).map(|(place, _)| *place);
        let next = if self.in_row {
            row.next().into_iter().chain(self.always.range(below).next_back().copied()).max()
        } else {
            row.next_back()
        };
        self.in_row = next.is_some();
        // Segments store no order within a commit: a range tombstone may be at the very position of the entry, and
        // comes after it.
        self.upto = next.map_or(Bound::Included(entry), Bound::Excluded);
        self.over.get(&next?).copied()
    }

    /// Returns whether a range tombstone older than `seqno` covers the current key.
    pub(super) fn any_older(&self, seqno: Seqno) -> bool {
        self.over.first_key_value().is_some_and(|((oldest, _), _)| *oldest < seqno)
    }

    /// Records that an entry of the current key at `seqno` stays: the range tombstones above it must stay to hide it.
    pub(super) fn must_hide(&mut self, seqno: Seqno) {
        if self.over.last_key_value().is_some_and(|((newest, _), _)| *newest > seqno) {
            let (part, count) = (self.passed.checked_sub(1), self.hides.len());
            let hides = part.and_then(|part| self.hides.get_mut(part));
            assert!(hides.is_some(), "tombstones over a key in part {part:?} of {count}");
            if let Some(hides) = hides {
                *hides = true;
            }
        }
    }

    /// Returns the range tombstones before `cut` as they go to disk; without a cut, all that are left.
    pub(super) fn take_before(
        &mut self,
        cut: Option<&[u8]>,
        retention: &Retention,
        dropped: &mut Dropped,
    ) -> Tombstones {
        let Retention { rules, demands, older } = retention;
        let count = self.edges.len();
        let first = self.given_parts;
        let end = cut.map_or(count, |cut| self.edges.partition_point(|edge| **edge < *cut)).max(first);
        // If the cut lies between two edges, the part continues after it.
        let parted = cut.is_some_and(|cut| end > first && self.edges.get(end).is_none_or(|edge| **edge != *cut));
        let mut window = std::mem::take(&mut self.reaching);
        while let Some(piece) = self.pieces.get(self.given_pieces).filter(|piece| piece.from < end) {
            window.push(*piece);
            self.given_pieces += 1;
        }
        self.reaching.extend(window.iter().filter(|piece| if parted { piece.to >= end } else { piece.to > end }));
        for piece in &mut window {
            assert!(piece.from <= end && first <= piece.to, "{piece:?} reaches into no part of {first}..{end}");
            (piece.from, piece.to) = (piece.from.max(first) - first, piece.to.min(end) - first);
        }
        let edge = |part: usize| match &self.given {
            Some(given) if part == 0 => Some(given.clone()),
            _ if first + part == end && cut.is_some() => cut.map(<[u8]>::to_vec),
            _ => self.edges.get(first + part).map(|edge| edge.to_vec()),
        };
        let hides = self.hides.get(first..end).unwrap_or_default();
        assert!(hides.len() == end - first, "{} of parts {first}..{end}", hides.len());
        let stays = Leaving { window: &window, rules, demands, clear: older.spans() }.stays(hides, &edge);
        let timed = |tombstone: Tombstone| Tombstone {
            ordinal: 0,
            time: if rules.timed { tombstone.time } else { Micros::ZERO },
            ..tombstone
        };
        let mut out = Vec::new();
        for Piece { from, to, tombstone } in window {
            let mut left = from;
            let after = stays.partition_point(|run| run.end <= from);
            for run in stays.get(after..).unwrap_or_default().iter().take_while(|run| run.start < to) {
                let (start, stop) = (run.start.max(from), run.end.min(to));
                out.push((start, Some(stop).filter(|stop| first + *stop < count || cut.is_some()), timed(tombstone)));
                if left < start {
                    dropped.tombstone_left(tombstone.seqno, tombstone.gap_start);
                }
                left = stop;
            }
            if left < to {
                dropped.tombstone_left(tombstone.seqno, tombstone.gap_start);
            }
        }
        let edges: Vec<Bytes> = (0..=end - first).filter_map(edge).map(Bytes::from).collect();
        // Pieces name their edges by number. The very last part has no end.
        let wanted = end - first + usize::from(cut.is_some());
        assert!(edges.len() == wanted, "{} edges for parts {first}..{end} of {count}, not {wanted}", edges.len());
        self.given = cut.map(<[u8]>::to_vec);
        self.given_parts = end - usize::from(parted);
        if parted {
            self.hides.get_mut(self.given_parts).into_iter().for_each(|hides| *hides = false);
        } else {
            self.given = None;
        }
        Tombstones::of_pieces(edges, out.into_iter())
    }
}

/// What decides which range tombstones before a cut leave.
struct Leaving<'a> {
    /// Pieces before the cut; their part numbers count from the first part of these.
    window: &'a [Piece],
    rules: &'a Rules,
    demands: &'a Demands,
    /// Spans that older segments may hold keys of, in order and disjoint.
    clear: Vec<KeySpan>,
}

impl Leaving<'_> {
    /// Returns the runs of parts in which the tombstones stay, in order.
    fn stays(&self, hides: &[bool], edge: &impl Fn(usize) -> Option<Vec<u8>>) -> Vec<Range<usize>> {
        let count = hides.len();
        let trusting = self.demands.newest_distrusting();
        let may_go = |tombstone: &Tombstone| {
            let Tombstone { seqno, gap_start, purge, .. } = *tombstone;
            let held = trusting.is_some_and(|newest| newest >= seqno)
                || gap_start.is_some_and(|gap| self.demands.any_in(gap, seqno).is_some());
            !held && (!purge || self.rules.may_drop_purge(seqno, self.demands))
        };
        // Changes at each part: in the number of tombstones, and in the number of those that must stay.
        let mut steps = vec![(0isize, 0isize); count + 1];
        let mut ending: Vec<Vec<usize>> = vec![Vec::new(); count + 1];
        for piece in self.window {
            let stuck = isize::from(!may_go(&piece.tombstone));
            if let Some(step) = steps.get_mut(piece.from) {
                *step = (step.0 + 1, step.1 + stuck);
            }
            if let Some(step) = steps.get_mut(piece.to) {
                *step = (step.0 - 1, step.1 - stuck);
            }
            ending.get_mut(piece.to).into_iter().for_each(|ending| ending.push(piece.from));
        }
        let (mut depth, mut stuck) = (0, 0);
        let mut depths = Vec::with_capacity(count);
        let mut leaves = Vec::with_capacity(count);
        for (part, hides) in hides.iter().enumerate() {
            let step = steps.get(part).copied().unwrap_or_default();
            (depth, stuck) = (depth + step.0, stuck + step.1);
            depths.push(depth);
            // With a history tier nothing is left beneath the tombstones; without one, a tombstone leaves only if no
            // other covers the part.
            let together = self.rules.policy.keeps_history() || depth == 1;
            let may = depth > 0 && together && stuck == 0 && !hides;
            let start = edge(part);
            assert!(start.is_some(), "part {part} of {count} begins nowhere");
            leaves.push(may && start.is_some_and(|start| self.is_clear(&start, edge(part + 1).as_deref())));
        }
        let mut runs: Vec<Range<usize>> = Vec::new();
        let mut at = 0;
        while at < count {
            let leaving = |at: usize| leaves.get(at).copied().unwrap_or(false);
            let start = at;
            while at < count && leaving(at) == leaving(start) {
                at += 1;
            }
            // A hole that splits several tombstones would double their number: there they stay.
            let parts_many = || {
                let reach = start.checked_sub(1).and_then(|before| depths.get(before)).map_or(0, |depth| *depth);
                let ends = ending.get(start..=at).unwrap_or_default().iter().flatten();
                reach - ends.filter(|from| **from < start).fold(0, |sum, _| sum + 1) > 1
            };
            if !leaving(start) || parts_many() {
                match runs.last_mut().filter(|last| last.end == start) {
                    Some(last) => last.end = at,
                    None => runs.push(start..at),
                }
            }
        }
        runs
    }

    /// Returns whether no older segment can hold a key of a span.
    fn is_clear(&self, start: &[u8], end: Option<&[u8]>) -> bool {
        let behind = self.clear.partition_point(|span| span.end.as_deref().is_some_and(|end| end <= start));
        self.clear.get(behind).is_none_or(|next| end.is_some_and(|end| end <= next.start.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use std::{cmp::Reverse, time::Duration};

    use crate::base::FileNumber;

    use super::{
        super::thin::tests::{Dice, demands, draw, rules},
        *,
    };
    use crate::{
        base::KeyspaceId,
        compaction::{policy::Policy, rules::OlderSegments},
        merge::RangeTombstone,
        segment::{SegmentMeta, Summary},
    };

    fn older(start: u8, end: u8) -> Arc<SegmentMeta> {
        let summary = Summary {
            keyspace: KeyspaceId(16),
            span: KeySpan { start: vec![start], end: Some(vec![end]) },
            keys: 1,
            entries: 1,
            tombstones: 0,
            range_tombstones: 0,
            raw_bytes: 1,
            min_seqno: Seqno(1),
            max_seqno: Seqno(1),
            lowest_affected: Seqno(1),
            recipes: false,
            times: None,
            history: None,
        };
        Arc::new(SegmentMeta { number: FileNumber(1), file_id: 1, file_len: 1, footer_digest: 1, summary })
    }

    #[test]
    fn of_a_row_of_tombstones_the_newest_and_the_oldest_are_judged_and_those_that_tell_of_more() {
        let tombstone = |seqno, gap_start, purge| RangeTombstone {
            span: KeySpan { start: b"a".to_vec(), end: None },
            tombstone: Tombstone { seqno, ordinal: 0, gap_start, time: Micros(seqno.0), purge },
        };
        let all = (20..60).map(|seqno| tombstone(Seqno(seqno), (seqno == 33).then_some(Seqno(31)), seqno == 52));
        let sets = [Arc::new(Tombstones::new(all))];
        let rules = rules(Policy::mvcc(1, Duration::from_secs(1)), Micros(60));
        let retention = Retention { rules, demands: Demands::default(), older: OlderSegments::default() };
        let mut tombstones = JobTombstones::new(&sets, &retention, &mut Dropped::default());
        tombstones.begin_key(b"k");
        let mut rows = Vec::new();
        for entry in [45, 44, 42, 30, 3] {
            let row = std::iter::from_fn(|| tombstones.next_above(Seqno(entry), 0));
            rows.push(row.map(|tombstone| tombstone.seqno.0).collect::<Vec<_>>());
        }
        // A tombstone at the position of an entry comes after it.
        assert_eq!(rows, [vec![59, 52, 46], vec![45], vec![44, 43], vec![42, 33, 31], vec![30, 20]]);
    }

    #[test]
    fn over_every_key_all_marks_leave_or_none_and_none_that_is_needed() {
        for seed in 0..600 {
            let mut dice = Dice(seed);
            let last = 1 + dice.below(10);
            let sets = [Arc::new(Tombstones::new(draw(&mut dice, last)))];
            let policy = if dice.below(2) == 0 {
                Policy::mvcc(1, Duration::from_micros(dice.below(20)))
            } else {
                Policy::last_writer_wins()
            };
            let rules = rules(policy, Micros(last + dice.below(10)));
            let demands = demands(&mut dice, last);
            let mut spans = Vec::new();
            for _ in 0..dice.below(4) {
                let start = b'a' + u8::try_from(dice.below(9)).unwrap();
                spans.push(older(start, start + 1 + u8::try_from(dice.below(2)).unwrap()));
            }
            let retention = Retention { rules, demands, older: OlderSegments(spans) };
            let mut dropped = Dropped::default();
            let (_, thinned) = thin(&sets, &retention.rules, &retention.demands, &mut Dropped::default());
            let edges: Vec<Bytes> = sets[0].parts().0.to_vec();
            let mut tombstones = JobTombstones::new(&sets, &retention, &mut Dropped::default());
            // Every key and its successor; some hold an entry that stays, some begin another segment.
            let mut out: Vec<Tombstones> = Vec::new();
            let mut hidden: Vec<(Vec<u8>, usize)> = Vec::new();
            let keys: Vec<Vec<u8>> = (b'`'..=b'k').flat_map(|byte| [vec![byte], vec![byte, 5]]).collect();
            for key in &keys {
                if dice.below(8) == 0 {
                    out.push(tombstones.take_before(Some(key), &retention, &mut dropped));
                }
                tombstones.begin_key(key);
                let over: Vec<_> = thinned
                    .iter()
                    .filter(|piece| {
                        let end = edges.get(piece.to).is_none_or(|end| **key < **end);
                        edges[piece.from].as_ref() <= key.as_slice() && end
                    })
                    .collect();
                let seqno = dice.below(last + 2);
                assert_eq!(
                    tombstones.any_older(Seqno(seqno)),
                    over.iter().any(|piece| piece.tombstone.seqno < Seqno(seqno))
                );
                if dice.below(4) == 0 {
                    tombstones.must_hide(Seqno(seqno));
                    if over.iter().any(|piece| piece.tombstone.seqno > Seqno(seqno)) {
                        hidden.push((key.clone(), out.len()));
                    }
                }
            }
            out.push(tombstones.take_before(None, &retention, &mut dropped));
            for pair in out.windows(2) {
                let (left, right) = (pair[0].span(), pair[1].span());
                assert!(left.zip(right).is_none_or(|(left, right)| left.end.is_some_and(|end| end <= right.start)));
            }
            for key in &keys {
                let over = |piece: &&Piece| {
                    let end = edges.get(piece.to).is_none_or(|end| **key < **end);
                    edges[piece.from].as_ref() <= key.as_slice() && end
                };
                let newest_first = |mut tombstones: Vec<Tombstone>| {
                    tombstones.sort_unstable_by_key(|tombstone| Reverse(tombstone.seqno));
                    tombstones
                };
                let was = newest_first(
                    thinned.iter().filter(over).map(|piece| Tombstone { ordinal: 0, ..piece.tombstone }).collect(),
                );
                let is = newest_first(out.iter().flat_map(|set| set.covering(key)).copied().collect());
                if is.is_empty() {
                    let Retention { rules, demands, older } = &retention;
                    let alone = rules.policy.keeps_history() || was.len() <= 1;
                    let held =
                        was.iter().any(|tombstone| demands.holds_tombstone(tombstone.seqno, tombstone.gap_start));
                    let purges =
                        was.iter().any(|tombstone| tombstone.purge && !rules.may_drop_purge(tombstone.seqno, demands));
                    let needed = was.is_empty() || alone && !held && !purges && older.is_clear_at(key);
                    assert!(
                        needed && (was.is_empty() || !hidden.iter().any(|(hidden, _)| hidden == key)),
                        "seed {seed}: {key:?}"
                    );
                } else {
                    assert_eq!(is, was, "seed {seed}: {key:?}");
                }
            }
            if out.iter().all(Tombstones::is_empty) {
                assert_eq!(dropped.tombstones_left, !thinned.is_empty(), "seed {seed}");
            }
        }
    }

    #[test]
    fn a_hole_is_left_in_one_tombstone_and_not_in_many() {
        let tombstone = |start: u8, end: u8, seqno| RangeTombstone {
            span: KeySpan { start: vec![start], end: Some(vec![end]) },
            tombstone: Tombstone { seqno, ordinal: 0, gap_start: None, time: Micros(seqno.0), purge: false },
        };
        // Older segments hold keys on both sides of the part from c to d, which a shorter tombstone covers as well.
        let short = [tombstone(b'c', b'd', Seqno(1))];
        let rules = rules(Policy::mvcc(1, Duration::from_secs(1)), Micros(9));
        let older = OlderSegments(vec![older(b'a', b'c'), older(b'd', b'f')]);
        let retention = Retention { rules, demands: Demands::default(), older };
        for (count, kept) in [(1, false), (2, true), (9, true)] {
            let long = (0..count).map(|at| tombstone(b'a', b'f', Seqno(2 + at)));
            let sets = [Arc::new(Tombstones::new(short.iter().cloned().chain(long)))];
            let mut tombstones = JobTombstones::new(&sets, &retention, &mut Dropped::default());
            let out = tombstones.take_before(None, &retention, &mut Dropped::default());
            assert_eq!(out.covering(b"c").count() > 0, kept, "{count}");
            assert_eq!(out.len() as u64, if kept { 1 + count } else { 2 });
        }
    }
}
