//! The range tombstones of a job, on their way through.
//!
//! A mark speaks of every key that it covers, so it may say only what is true of all of them. What is to be noted of one key is noted on a point tombstone of
//! that key with the same seqno, which [`Survivors`](super::survivors::Survivors) writes beside the mark. (Rejected: to note it on the mark. Then
//! one key's dropped version refused the reads of its neighbours, and everything that a view read beneath a mark had to be kept twice.)
//! Only what is dropped of the marks themselves is noted on a mark: an older one, beneath a newer.

use super::{
    kept,
    policy::Judged,
    rules::{Below, Demands, Rules, Traces},
};
use crate::{
    base::KeySpan,
    merge::{Fragment, Fragments, Mark},
};

/// A fragment.
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

/// Those of a job.
#[derive(Debug, Default)]
pub(super) struct Marks {
    fragments: Vec<Passing>,
    /// The fragment that covers the current key, or the first one behind it.
    at: usize,
    /// The mark to look at next.
    next: usize,
}

impl Marks {
    pub(super) fn new(fragments: &Fragments, (rules, demands): (&Rules, &Demands), traces: &mut Traces) -> Self {
        let thinned = |fragment: &Fragment| {
            let marks = thin(&fragment.marks, rules, demands, traces);
            Passing { span: fragment.span.clone(), marks }
        };
        Self { fragments: fragments.iter().map(thinned).collect(), at: 0, next: 0 }
    }

    /// Goes on to a key.
    pub(super) fn begin_key(&mut self, key: &[u8]) {
        self.next = 0;
        while let Some(fragment) = self.fragments.get(self.at)
            && fragment.span.end.as_deref().is_some_and(|end| end <= key)
        {
            self.at += 1;
        }
    }

    fn covering(&self, key: &[u8]) -> &[PassingMark] {
        let covering = self.fragments.get(self.at).filter(|fragment| fragment.span.start.as_slice() <= key);
        covering.map_or(&[], |fragment| &fragment.marks)
    }

    /// The next mark over the current key that is newer than a place.
    pub(super) fn next_above(&mut self, key: &[u8], seqno: u64, ordinal: u32) -> Option<Mark> {
        let PassingMark { mark, .. } = *self.covering(key).get(self.next)?;
        let above = (mark.seqno, mark.ordinal) > (seqno, ordinal);
        self.next += usize::from(above);
        above.then_some(mark)
    }

    /// Whether one that is older than `seqno` covers a key.
    pub(super) fn any_older(&self, key: &[u8], seqno: u64) -> bool {
        self.covering(key).iter().any(|passing| passing.mark.seqno < seqno)
    }

    /// A point entry at `seqno` stays: the marks above it must stay to hide it.
    pub(super) fn must_hide(&mut self, key: &[u8], seqno: u64) {
        let covering = self.fragments.get_mut(self.at).filter(|fragment| fragment.span.start.as_slice() <= key);
        for passing in covering.into_iter().flat_map(|fragment| &mut fragment.marks) {
            passing.hides |= passing.mark.seqno > seqno;
        }
    }

    /// Those before `cut` (all that are left, without one), as they go to disk.
    pub(super) fn take_before(
        &mut self,
        cut: Option<&[u8]>,
        (rules, demands, below): (&Rules, &Demands, &Below),
        traces: &mut Traces,
    ) -> Fragments {
        let mut out = Vec::new();
        let mut rest = Vec::new();
        let mut finish = |passing| out.extend(finish(passing, rules, demands, below, traces));
        for passing in std::mem::take(&mut self.fragments) {
            match cut {
                Some(cut) if passing.span.start.as_slice() >= cut => rest.push(passing),
                Some(cut) if passing.span.end.as_deref().is_none_or(|end| end > cut) => {
                    let Passing { span, marks } = passing;
                    let left = KeySpan { start: span.start, end: Some(cut.to_vec()) };
                    let right = KeySpan { start: cut.to_vec(), end: span.end };
                    let afresh = marks.iter().map(|passing| PassingMark { hides: false, ..*passing }).collect();
                    finish(Passing { span: left, marks });
                    rest.push(Passing { span: right, marks: afresh });
                }
                _ => finish(passing),
            }
        }
        self.fragments = rest;
        self.at = 0;
        // They come in order and apart, as they went in.
        Fragments::from_sorted(out).unwrap_or_default()
    }
}

/// Drops the marks that nobody asks for, noting them on the mark above.
fn thin(marks: &[Mark], rules: &Rules, demands: &Demands, traces: &mut Traces) -> Vec<PassingMark> {
    let mut thinned: Vec<PassingMark> = Vec::new();
    let mut above: Option<Mark> = None;
    // A later word of the same commit stands for those before; but nothing takes a purge back.
    for commit in marks.chunk_by(|newer, older| newer.seqno == older.seqno) {
        let Some(&newest) = commit.first() else { continue };
        let mark = Mark { purge: commit.iter().any(|mark| mark.purge), ..newest };
        let lowest = mark.gap_start.unwrap_or(mark.seqno).min(mark.seqno);
        // A gap speaks for every key: whoever reads between two marks needs both.
        let from = |kept: &PassingMark| kept.mark.gap_start.map_or(lowest, |gap| gap.min(lowest));
        let reader = above.zip(thinned.last()).and_then(|(above, kept)| demands.any_in(from(kept), above.seqno));
        let owed = above.is_some_and(|above| mark.purge || owes(&mark, &above, rules));
        match thinned.last_mut() {
            Some(kept) if reader.is_none() && !owed => {
                if !kept.mark.purge {
                    kept.mark.widen_gap(lowest);
                    traces.dropped_beneath(above.map_or(0, |above| above.seqno));
                }
            }
            _ => thinned.push(PassingMark { mark, hides: false }),
        }
        above = Some(mark);
    }
    thinned
}

fn owes(mark: &Mark, above: &Mark, rules: &Rules) -> bool {
    let time = |mark: &Mark| if mark.time == 0 { rules.time_of(mark.seqno) } else { mark.time };
    let judged = Judged {
        rank: 1,
        seqno: mark.seqno,
        time: time(mark),
        superseded_at: Some(time(above)),
        is_delete: true,
        ended_by_delete: true,
        deleted_since: Some(time(above)),
        bytes: 0,
    };
    // What a policy of the user's own says of one key says nothing of the others.
    rules.policy.is_custom() || rules.owe(&judged)
}

/// A fragment as it goes to disk, or nothing when its marks may go.
fn finish(passing: Passing, rules: &Rules, demands: &Demands, below: &Below, traces: &mut Traces) -> Option<Fragment> {
    // Where the past has a tier of its own nothing is left beneath the marks; else the one that goes must be the only one.
    let together = rules.policy.keeps_past() || passing.marks.len() == 1;
    let may_go = |passing: &PassingMark| {
        let Mark { seqno, gap_start, purge, .. } = passing.mark;
        let held = demands.holds_tombstone(seqno, gap_start);
        !passing.hides && !held && (!purge || kept::may_go(seqno, rules, demands))
    };
    if together && below.is_clear(&passing.span) && passing.marks.iter().all(may_go) {
        for PassingMark { mark, .. } in passing.marks {
            traces.tombstone_left(mark.seqno, mark.gap_start);
        }
        return None;
    }
    let mark = |passing: PassingMark| {
        let time = if rules.timed { passing.mark.time } else { 0 };
        Mark { ordinal: 0, time, ..passing.mark }
    };
    Some(Fragment { span: passing.span, marks: passing.marks.into_iter().map(mark).collect() })
}
