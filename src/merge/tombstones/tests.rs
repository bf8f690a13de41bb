//! Every answer of sets and walks held against a walk over all tombstones; and how much they hold, and how often they
//! look.

use std::{cmp::Reverse, sync::Arc};

use super::{Fragment, Newest, Overhead, RangeTombstone, Shown, Tombstone, Tombstones, push};
use crate::base::{Bytes, KeySpan, Micros, Seqno};

struct Dice(u64);

impl Dice {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

fn tombstone(start: &str, end: Option<&str>, seqno: u64) -> RangeTombstone {
    let seqno = Seqno(seqno);
    let span = KeySpan { start: start.into(), end: end.map(Into::into) };
    RangeTombstone {
        span,
        tombstone: Tombstone { seqno, ordinal: 0, gap_start: None, time: Micros::ZERO, purge: false },
    }
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
    let seqno = Seqno(seqno);
    let letter = |at: u64| vec![b'a' + u8::try_from(at).unwrap()];
    let (start, end) = (dice.below(8), dice.below(10));
    let gap_start = (dice.below(3) == 0).then(|| 1 + dice.below(seqno.0));
    let purge = dice.below(8) == 0;
    let span = KeySpan { start: letter(start), end: (end < 9).then(|| letter(end)) };
    RangeTombstone {
        span,
        tombstone: Tombstone { seqno, ordinal, gap_start: gap_start.map(Seqno), time: Micros::ZERO, purge },
    }
}

/// What a walk over all of them finds for a key: the newest, whether a purge hides it, and whether a gap refuses it.
fn naive(all: &[RangeTombstone], key: &[u8], read_at: Seqno, purge_horizon: Seqno) -> (Option<Tombstone>, bool, bool) {
    let over = || all.iter().filter(|one| one.span.holds(key)).map(|one| one.tombstone);
    let newest = over()
        .filter(|tombstone| tombstone.seqno <= read_at)
        .max_by_key(|tombstone| (tombstone.seqno, tombstone.ordinal));
    let known =
        |tombstone: &Tombstone| tombstone.purge && tombstone.seqno > read_at && tombstone.seqno <= purge_horizon;
    (newest, over().any(|tombstone| known(&tombstone)), over().any(|tombstone| tombstone.refuses(read_at)))
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

fn told(shown: Shown, read_at: Seqno, purge_horizon: Seqno) -> (Option<Tombstone>, bool, bool) {
    assert!(shown.iter().is_sorted_by_key(|tombstone| Reverse((tombstone.seqno, tombstone.ordinal))));
    let newest = shown.iter().find(|tombstone| tombstone.seqno <= read_at).copied();
    let known =
        |tombstone: &Tombstone| tombstone.purge && tombstone.seqno > read_at && tombstone.seqno <= purge_horizon;
    (newest, shown.iter().any(known), shown.iter().any(|tombstone| tombstone.refuses(read_at)))
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
        for read_at in 0..=last + 1 {
            let purge_horizon = read_at + dice.below(last + 2 - read_at.min(last));
            let mut sweeps = [stack.clone(), vec![Arc::clone(&whole)]]
                .map(|sets| Overhead::new(alone(&sets), Seqno(read_at), Seqno(purge_horizon)));
            let mut back = Overhead::new(vec![parted(&whole, &mut dice)], Seqno(read_at), Seqno(purge_horizon));
            for (at, key) in keys.iter().enumerate() {
                let wanted = naive(&all, key, Seqno(read_at), Seqno(purge_horizon));
                let alone =
                    told(whole.shown(key, Seqno(read_at), Seqno(purge_horizon)), Seqno(read_at), Seqno(purge_horizon));
                assert_eq!(alone, wanted, "seed {seed}: {key:?} at {read_at}, {purge_horizon}");
                for sweep in &mut sweeps {
                    let walked = told(sweep.over(key), Seqno(read_at), Seqno(purge_horizon));
                    assert_eq!(walked, wanted, "seed {seed}: {key:?} at {read_at}, {purge_horizon} in a walk");
                }
                let other = &keys[keys.len() - 1 - at];
                let wanted = naive(&all, other, Seqno(read_at), Seqno(purge_horizon));
                let (newest, purged, _) = wanted;
                let walked = told(back.over(other), Seqno(read_at), Seqno(purge_horizon));
                assert_eq!(walked, wanted, "seed {seed}: {other:?} at {read_at}, {purge_horizon} backward");
                if let Some(Newest { seqno, start, end }) = back.newest() {
                    assert_eq!(Some(seqno), newest.map(|tombstone| tombstone.seqno));
                    assert!(start <= other && end.is_none_or(|end| other.as_slice() < end));
                }
                let found = stack.iter().rev().find_map(|set| set.newest(other, Seqno(read_at), Seqno(purge_horizon)));
                match found.filter(|tombstone| tombstone.seqno > Seqno(read_at)) {
                    Some(purge) => assert!(purged && purge.purge && purge.seqno <= Seqno(purge_horizon)),
                    None => assert!(!purged && found == newest),
                }

                let mut covering: Vec<Tombstone> = whole.covering(key).copied().collect();
                covering.sort_unstable();
                let over: Vec<Tombstone> =
                    all.iter().filter(|one| one.span.holds(key)).map(|one| one.tombstone).collect();
                assert_eq!(covering, over);
                let oldest = over.iter().find(|tombstone| tombstone.seqno > Seqno(read_at));
                assert_eq!(
                    whole.oldest_above(key, Seqno(read_at)).map(|tombstone| tombstone.seqno),
                    oldest.map(|tombstone| tombstone.seqno)
                );
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
                    let (_, purge, refused) = naive(&all, key, Seqno(read_at), Seqno(purge_horizon));
                    refused && !purge
                });
                let sweep = &sweeps[usize::try_from(seed % 2).unwrap()];
                assert_eq!(
                    sweep.refusing_in(&span).is_some(),
                    refused,
                    "seed {seed}: {span:?} at {read_at}, {purge_horizon}"
                );
                let newest = all.iter().filter(|one| keys.iter().any(|key| span.holds(key) && one.span.holds(key)));
                assert_eq!(whole.newest_in(&span), newest.map(|one| one.tombstone.seqno).max(), "{span:?}");
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
        let parts: Vec<_> = parts.map(|(from, to, tombstone)| (from, to, *tombstone)).collect();
        assert_eq!(Tombstones::from_parts(edges.to_vec(), &parts).as_ref(), Some(&set));
        assert_eq!(Tombstones::from_fragments(set.cut_all()).as_ref(), Some(&set));
        assert_eq!(Tombstones::new(set.to_vec()), set);
    }
    let newer = tombstone("a", None, 5).tombstone;
    let edges = || vec![Bytes::from("a"), Bytes::from("b")];
    assert!(Tombstones::from_parts(edges(), &[(0, Some(1), newer), (1, None, newer)]).is_some());
    for bad in [(0, Some(0), newer), (1, Some(0), newer), (0, Some(2), newer), (2, None, newer)] {
        assert!(Tombstones::from_parts(edges(), &[bad]).is_none(), "{bad:?}");
    }
    assert!(
        Tombstones::from_parts(edges(), &[(0, None, newer), (0, None, tombstone("a", None, 4).tombstone)]).is_none()
    );
    assert!(Tombstones::from_parts(vec![Bytes::from("b"), Bytes::from("a")], &[]).is_none());
}

#[test]
fn overlapping_tombstones_are_cut_at_every_edge_unless_that_makes_too_many() {
    let set = Tombstones::new([tombstone("a", Some("m"), 9), tombstone("f", None, 5), tombstone("x", Some("b"), 7)]);
    let cut = set.cut().unwrap();
    let told = |fragment: &Fragment| {
        (fragment.span.start.clone(), fragment.tombstones.iter().map(|tombstone| tombstone.seqno.0).collect::<Vec<_>>())
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
            assert!(set.newest(b"00000005", Seqno(set.newest_seqno().0 / 2), Seqno(0)).is_some() || name != "trimmed");
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
fn batches_of_falling_size_stack_no_higher_than_the_logarithm_of_their_number() {
    let mut stack = Vec::new();
    let mut n = 0;
    for len in (1..=200).rev() {
        let batch = (0..len).map(|at| tombstone(&format!("{at:08}"), None, n + at));
        push(&mut stack, Tombstones::new(batch));
        n += len;
        assert!(stack.len() as u64 <= u64::from(n.ilog2()) + 1, "{} sets of {n}", stack.len());
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
        let mut sweep = Overhead::new(alone(&stack), Seqno::MAX, Seqno::MAX);
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
