//! Decides which range tombstones of a job stay, and over which keys.
//!
//! ```text
//!   @9  a───────────z              no reader in between       @9  a──f gap 5   f──k gap 3   k──z
//!   @5  a──────k                   ───────────────────▶
//!   @3       f─k
//! ```
//!
//! Over each key the newest one stays. An older one stays if a reader lies between it and the one above, if the policy
//! keeps it, or if it is a purge. A dropped one is recorded as a gap of the next newer one that is left. Whether a
//! tombstone stays over a key depends only on the next newer one there.
//!
//! So the tombstones need not be cut into fragments: a sweep from edge to edge keeps those over the current keys in
//! commit order. Where one begins or ends, only that one, the one beneath it, and the gap of the next kept one above
//! may change. So n tombstones yield a number of pieces linear in n, in O(n log n), however many of them overlap.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    dropped::Dropped,
    policy::PolicyCandidate,
    rules::{Demands, Rules},
};
use crate::{
    base::{Bytes, Micros, Seqno},
    merge::{Tombstone, Tombstones},
};

/// A range tombstone, or a part of one, from one edge to another; edges are named by their numbers. One without an end
/// ends at the number of edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) tombstone: Tombstone,
}

/// Returns what is left of the range tombstones of a job: their edges, and the pieces in no particular order.
pub(super) fn thin(
    sets: &[Arc<Tombstones>],
    rules: &Rules,
    demands: &Demands,
    dropped: &mut Dropped,
) -> (Vec<Bytes>, Vec<Piece>) {
    let all = Tombstones::joined(sets);
    let (edges, parts) = all.parts();
    let count = edges.len();
    let piece = |(from, to, tombstone): (u32, Option<u32>, &Tombstone)| Piece {
        from: from as usize,
        to: to.map_or(count, |to| to as usize),
        tombstone: *tombstone,
    };
    let parts: Vec<Piece> = parts.map(piece).collect();
    let mut pieces = Vec::with_capacity(parts.len());
    for commit in parts.chunk_by(|a, b| a.tombstone.seqno == b.tombstone.seqno) {
        match commit {
            [only] => pieces.push(*only),
            several => one_word(several, &mut pieces),
        }
    }
    let out = Sweep::new(&pieces, rules, demands, dropped).run(count);
    for Piece { from, to, tombstone } in &out {
        assert!(from < to && *to <= count, "the tombstone @{} from edge {from} to {to} of {count}", tombstone.seqno);
    }
    (edges.to_vec(), out)
}

/// Returns for each edge the pieces that begin there and those that end there.
fn events(pieces: &[Piece]) -> BTreeMap<usize, (Vec<usize>, Vec<usize>)> {
    let mut events: BTreeMap<usize, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
    for (at, piece) in pieces.iter().enumerate() {
        events.entry(piece.from).or_default().0.push(at);
        events.entry(piece.to).or_default().1.push(at);
    }
    events
}

/// Merges the range tombstones of one commit: a later one replaces those before it, but a purge stays in force.
fn one_word(commit: &[Piece], out: &mut Vec<Piece>) {
    let mut open: BTreeSet<usize> = BTreeSet::new();
    let mut purges = 0usize;
    let mut under_way: Option<Piece> = None;
    for (edge, (begin, end)) in events(commit) {
        let is_purge = |at: &&usize| commit.get(**at).is_some_and(|piece| piece.tombstone.purge);
        purges += begin.iter().filter(is_purge).count();
        purges -= end.iter().filter(is_purge).count();
        for at in &end {
            open.remove(at);
        }
        open.extend(begin);
        let newest =
            open.last().and_then(|at| commit.get(*at)).map(|piece| Tombstone { purge: purges > 0, ..piece.tombstone });
        if under_way.map(|under_way| under_way.tombstone) != newest {
            out.extend(under_way.take().map(|under_way| Piece { to: edge, ..under_way }));
            under_way = newest.map(|tombstone| Piece { from: edge, to: edge, tombstone });
        }
    }
    assert!(
        under_way.is_none() && open.is_empty() && purges == 0,
        "{under_way:?} of one commit continues past every edge"
    );
}

/// Sweep over the keys.
struct Sweep<'a> {
    /// Oldest first; those of one commit do not overlap. A rank is an index into this.
    pieces: &'a [Piece],
    rules: &'a Rules,
    demands: &'a Demands,
    dropped: &'a mut Dropped,
    /// Ranks of the pieces over the current keys, and of those among them that stay.
    open: BTreeSet<usize>,
    kept: BTreeSet<usize>,
    /// Lowest seqno lost with each dropped piece over the current keys; a tree of minima.
    lowest: Vec<Seqno>,
    /// For each piece that stays: the edge since which it has its current gap, and that gap.
    under_way: Vec<Option<Piece>>,
    out: Vec<Piece>,
}

impl<'a> Sweep<'a> {
    fn new(pieces: &'a [Piece], rules: &'a Rules, demands: &'a Demands, dropped: &'a mut Dropped) -> Self {
        let count = pieces.len();
        let (lowest, under_way) = (vec![Seqno::MAX; 2 * count], vec![None; count]);
        let (open, kept) = (BTreeSet::new(), BTreeSet::new());
        Self { pieces, rules, demands, dropped, open, kept, lowest, under_way, out: Vec::with_capacity(count) }
    }

    fn run(mut self, end: usize) -> Vec<Piece> {
        for (edge, (begin, ended)) in events(self.pieces) {
            let mut touched = Vec::new();
            for rank in &ended {
                self.open.remove(rank);
                self.keep(*rank, false, edge);
                self.set_lowest(*rank, Seqno::MAX);
            }
            self.open.extend(&begin);
            if edge == end {
                break;
            }
            for rank in ended.into_iter().chain(begin) {
                touched.extend(self.open.range(..rank).next_back());
                touched.push(rank);
            }
            touched.sort_unstable();
            touched.dedup();
            for rank in touched.iter().filter(|rank| self.open.contains(rank)).copied().collect::<Vec<_>>() {
                let stays = self.stays(rank);
                self.keep(rank, stays, edge);
                self.set_lowest(rank, if stays { Seqno::MAX } else { self.tombstone(rank).map_or(Seqno::MAX, lowest) });
            }
            // The pieces whose gap may have changed: the next kept one at or above each change.
            let mut above: Vec<usize> = Vec::new();
            for rank in touched {
                above.extend(self.kept.get(&rank));
                above.extend(self.kept.range(rank + 1..).next());
            }
            above.sort_unstable();
            above.dedup();
            for rank in above {
                self.tell(rank, edge);
            }
        }
        let under_way = self.under_way.iter().flatten().count();
        assert!(under_way == 0 && self.kept.is_empty(), "{under_way} tombstones continue past edge {end}, the last");
        self.out
    }

    fn tombstone(&self, rank: usize) -> Option<&'a Tombstone> {
        self.pieces.get(rank).map(|piece| &piece.tombstone)
    }

    /// Returns whether a piece stays over the current keys.
    fn stays(&self, rank: usize) -> bool {
        let above = self.open.range(rank + 1..).next().and_then(|above| self.tombstone(*above));
        let (Some(tombstone), Some(above)) = (self.tombstone(rank), above) else { return true };
        // A gap applies to every key: a reader between two tombstones needs both.
        let from = above.gap_start.map_or(lowest(tombstone), |gap| gap.min(lowest(tombstone)));
        tombstone.purge || owes(tombstone, above, self.rules) || self.demands.any_in(from, above.seqno).is_some()
    }

    fn keep(&mut self, rank: usize, stays: bool, edge: usize) {
        if stays {
            self.kept.insert(rank);
        } else if self.kept.remove(&rank)
            && let Some(under_way) = self.under_way.get_mut(rank).and_then(Option::take)
        {
            self.out.push(Piece { to: edge, ..under_way });
        }
    }

    /// Records that a piece that stays has its current gap from this edge on.
    fn tell(&mut self, rank: usize, edge: usize) {
        debug_assert!(rank < self.pieces.len(), "tombstone {rank} of {}", self.pieces.len());
        let Some(mut tombstone) = self.tombstone(rank).copied() else { return };
        let below = self.kept.range(..rank).next_back().map_or(0, |below| below + 1);
        let dropped = self.lowest_in(below, rank);
        if !tombstone.purge && dropped < Seqno::MAX {
            tombstone.widen_gap(dropped);
            self.dropped.dropped_beneath(tombstone.seqno);
        }
        let Some(under_way) = self.under_way.get_mut(rank) else { return };
        if under_way.is_none_or(|under_way| under_way.tombstone != tombstone) {
            let before = under_way.replace(Piece { from: edge, to: edge, tombstone });
            self.out.extend(before.map(|before| Piece { to: edge, ..before }));
        }
    }

    fn set_lowest(&mut self, rank: usize, seqno: Seqno) {
        debug_assert!(rank < self.pieces.len(), "tombstone {rank} of {}", self.pieces.len());
        let mut node = rank + self.pieces.len();
        self.lowest.get_mut(node).into_iter().for_each(|known| *known = seqno);
        while node > 1 {
            node /= 2;
            let child = |node: usize| self.lowest.get(node).copied().unwrap_or(Seqno::MAX);
            let lower = child(2 * node).min(child(2 * node + 1));
            self.lowest.get_mut(node).into_iter().for_each(|known| *known = lower);
        }
    }

    /// Returns the smallest seqno lost with the dropped pieces in a range of ranks.
    fn lowest_in(&self, from: usize, to: usize) -> Seqno {
        debug_assert!(from <= to && to <= self.pieces.len(), "tombstones {from}..{to} of {}", self.pieces.len());
        let (mut left, mut right) = (from + self.pieces.len(), to + self.pieces.len());
        let mut least = u64::MAX;
        let node = |node: usize| self.lowest.get(node).copied().unwrap_or(Seqno::MAX);
        while left < right {
            if left % 2 == 1 {
                least = least.min(node(left).0);
                left += 1;
            }
            if right % 2 == 1 {
                right -= 1;
                least = least.min(node(right).0);
            }
            left /= 2;
            right /= 2;
        }
        Seqno(least)
    }
}

/// Returns the smallest seqno that can no longer be read once a tombstone is dropped.
fn lowest(tombstone: &Tombstone) -> Seqno {
    tombstone.gap_start.map_or(tombstone.seqno, |gap| gap.min(tombstone.seqno))
}

fn owes(tombstone: &Tombstone, above: &Tombstone, rules: &Rules) -> bool {
    let time = |tombstone: &Tombstone| {
        if tombstone.time == Micros::ZERO { rules.time_of(tombstone.seqno) } else { tombstone.time }
    };
    // What a custom policy decides about one key need not hold for the others.
    rules.policy.is_custom()
        || rules.policy.keeps_history()
            && rules.owe(&PolicyCandidate {
                rank: 1,
                seqno: tombstone.seqno,
                time: time(tombstone),
                superseded_at: Some(time(above)),
                is_delete: true,
                ended_by_delete: true,
                deleted_since: Some(time(above)),
                bytes: 0,
            })
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        base::KeySpan,
        compaction::{
            policy::Policy,
            rules::{Reader, Readers},
        },
        merge::RangeTombstone,
    };

    pub(in crate::compaction) struct Dice(pub(in crate::compaction) u64);

    impl Dice {
        pub(in crate::compaction) fn below(&mut self, below: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % below
        }
    }

    pub(in crate::compaction) fn rules(policy: Policy, now: Micros) -> Rules {
        Rules {
            policy,
            strategy: None,
            now,
            ttls: Arc::default(),
            timed: true,
            time_of: Box::new(|_| Micros::ZERO),
            purged_upto: Seqno::MAX,
        }
    }

    pub(in crate::compaction) fn demands(dice: &mut Dice, last: u64) -> Demands {
        let registered = (0..dice.below(4)).map(|_| dice.below(last + 1));
        let readers = registered
            .map(|seqno| Reader { seqno: Seqno(seqno), purge_horizon: Seqno(seqno), time: Micros::ZERO })
            .collect();
        Demands::new(&Arc::new(Readers::new(readers)), Seqno(dice.below(last + 1)), Micros::ZERO)
    }

    /// Draws range tombstones for commits 1 to `last`, one microsecond apart.
    pub(in crate::compaction) fn draw(dice: &mut Dice, last: u64) -> Vec<RangeTombstone> {
        let letter = |at: u64| vec![b'a' + u8::try_from(at).unwrap()];
        let mut all = Vec::new();
        for seqno in 1..=last {
            for ordinal in 0..u32::try_from(1 + dice.below(4) / 3 * 2).unwrap() {
                let (start, end) = (dice.below(8), dice.below(11));
                let gap_start = (dice.below(4) == 0).then(|| 1 + dice.below(seqno));
                let tombstone = Tombstone {
                    seqno: Seqno(seqno),
                    ordinal,
                    gap_start: gap_start.map(Seqno),
                    time: Micros(seqno),
                    purge: dice.below(8) == 0,
                };
                all.push(RangeTombstone {
                    span: KeySpan { start: letter(start), end: (end < 9).then(|| letter(end)) },
                    tombstone,
                });
            }
        }
        all.retain(|one| !one.span.is_empty());
        all
    }

    /// Thins the tombstones over one key by itself, newest first: the reference.
    fn column(tombstones: &[Tombstone], rules: &Rules, demands: &Demands, dropped: &mut Dropped) -> Vec<Tombstone> {
        let mut thinned: Vec<Tombstone> = Vec::new();
        let mut above: Option<Tombstone> = None;
        for commit in tombstones.chunk_by(|newer, older| newer.seqno == older.seqno) {
            let tombstone = Tombstone { purge: commit.iter().any(|tombstone| tombstone.purge), ..commit[0] };
            let from = |kept: &Tombstone| kept.gap_start.map_or(lowest(&tombstone), |gap| gap.min(lowest(&tombstone)));
            let reader = above.zip(thinned.last()).and_then(|(above, kept)| demands.any_in(from(kept), above.seqno));
            let owed = above.is_some_and(|above| tombstone.purge || owes(&tombstone, &above, rules));
            match thinned.last_mut() {
                Some(kept) if reader.is_none() && !owed => {
                    if !kept.purge {
                        kept.widen_gap(lowest(&tombstone));
                        dropped.dropped_beneath(above.map_or(Seqno(0), |above| above.seqno));
                    }
                }
                _ => thinned.push(tombstone),
            }
            above = Some(tombstone);
        }
        thinned
    }

    #[test]
    fn over_every_key_the_same_marks_stay_as_if_it_were_alone() {
        let micros = Duration::from_micros;
        for seed in 0..600 {
            let mut dice = Dice(seed);
            let last = 1 + dice.below(14);
            let all = draw(&mut dice, last);
            let policy = match dice.below(4) {
                0 => Policy::mvcc(1, micros(dice.below(20))),
                1 => Policy::tombstones(micros(dice.below(20))),
                _ => Policy::last_writer_wins(),
            };
            let rules = rules(policy, Micros(last + dice.below(10)));
            let demands = demands(&mut dice, last);
            let mut dropped = Dropped::default();
            // As from several sources.
            let (left, right) = all.split_at(all.len() / 2);
            let sets = [left, right].map(|some| Arc::new(Tombstones::new(some.to_vec())));
            let (edges, pieces) = thin(&sets, &rules, &demands, &mut dropped);
            let mut wanted_dropped = Dropped::default();
            for (part, edge) in edges.iter().enumerate() {
                let mut over: Vec<Tombstone> =
                    all.iter().filter(|one| one.span.holds(edge)).map(|one| one.tombstone).collect();
                over.sort_unstable_by_key(|tombstone| std::cmp::Reverse((tombstone.seqno, tombstone.ordinal)));
                let wanted = column(&over, &rules, &demands, &mut wanted_dropped);
                let here = pieces.iter().filter(|piece| piece.from <= part && part < piece.to);
                let mut found: Vec<Tombstone> = here.map(|piece| piece.tombstone).collect();
                found.sort_unstable_by_key(|tombstone| std::cmp::Reverse(tombstone.seqno));
                assert_eq!(found, wanted, "seed {seed}: {edge:?} of {over:?}, {demands:?}");
            }
            assert_eq!(dropped, wanted_dropped, "seed {seed}");
        }
    }

    #[test]
    fn what_is_left_of_many_is_linear_in_their_number_whatever_is_owed() {
        let key = |at: u64| at.to_be_bytes().to_vec();
        for n in [500u64, 8000] {
            let mut dice = Dice(n);
            let mut random = Vec::new();
            for _ in 0..n {
                let (a, b) = (dice.below(2 * n), dice.below(2 * n));
                random.push((a.min(b), a.max(b) + 1));
            }
            let shapes: Vec<(&str, Vec<(u64, u64)>)> = vec![
                ("trimmed", (1..=n).map(|i| (0, i)).collect()),
                ("nested", (1..=n).map(|i| (i, 3 * n - i)).collect()),
                ("nested the other way", (1..=n).map(|i| (n - i, n + i)).collect()),
                ("stairs", (1..=n).map(|i| (i, i + n)).collect()),
                ("random", random),
            ];
            for (name, spans) in shapes {
                let all = spans.into_iter().zip(1..).map(|((start, end), seqno)| RangeTombstone {
                    span: KeySpan { start: key(start), end: Some(key(end)) },
                    tombstone: Tombstone {
                        seqno: Seqno(seqno),
                        ordinal: 0,
                        gap_start: None,
                        time: Micros(seqno),
                        purge: false,
                    },
                });
                let set = Arc::new(Tombstones::new(all));
                for window in [0, n / 2, n + 1] {
                    for readers in [0, 20] {
                        let registered = (0..readers).map(|reader| reader * n / 20);
                        let all = registered
                            .map(|seqno| Reader {
                                seqno: Seqno(seqno),
                                purge_horizon: Seqno(seqno),
                                time: Micros::ZERO,
                            })
                            .collect();
                        let demands = Demands::new(&Arc::new(Readers::new(all)), Seqno(0), Micros::ZERO);
                        let rules = rules(Policy::mvcc(1, Duration::from_micros(window)), Micros(n));
                        let sets = [Arc::clone(&set)];
                        let (_, pieces) = thin(&sets, &rules, &demands, &mut Dropped::default());
                        let limit = 4 * usize::try_from(n).unwrap();
                        assert!(pieces.len() <= limit, "{name}: {} of {n}, {window}, {readers}", pieces.len());
                    }
                }
            }
        }
    }
}
