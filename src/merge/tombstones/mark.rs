//! A range tombstone, its properties for each key that it covers, and the few that a look-up is shown.

use crate::{
    base::{KeySpan, Kind},
    merge::lookup::Seen,
};

/// A deletion of every key from `span.start` up to `span.end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RangeTombstone {
    pub(crate) span: KeySpan,
    pub(crate) mark: Mark,
}

/// Properties of a range tombstone, the same for each key that it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark {
    pub(crate) seqno: u64,
    /// Same as in [`EntryRef`](crate::merge::EntryRef).
    pub(crate) ordinal: u32,
    /// Smallest seqno of the older deletions that were dropped directly beneath this one. A drop for a single key is
    /// recorded on that key.
    pub(crate) gap_start: Option<u64>,
    /// Commit time in microseconds; 0 if unknown.
    pub(crate) time: u64,
    /// Whether it hides older versions from views of the past too.
    pub(crate) purge: bool,
}

impl Mark {
    #[inline]
    pub(crate) fn kind(&self) -> Kind {
        if self.purge { Kind::RangePurge } else { Kind::RangeDelete }
    }

    /// Returns the metadata that a look-up is shown.
    #[inline]
    pub(crate) fn seen(&self) -> Seen {
        let Self { seqno, gap_start, .. } = *self;
        Seen { seqno, gap_start, moved: false, kind: self.kind(), time: None, interval: false }
    }

    /// Records that a deletion at `seqno` was dropped directly beneath.
    pub(crate) fn widen_gap(&mut self, seqno: u64) {
        self.gap_start = Some(self.gap_start.map_or(seqno, |gap| gap.min(seqno)));
    }

    /// Returns whether deletions dropped beneath it are needed to answer for a moment.
    #[inline]
    pub(super) fn refuses(&self, asked: u64) -> bool {
        self.seqno > asked && self.gap_start.is_some_and(|gap| gap <= asked)
    }
}

/// The few range tombstones that a look-up is shown for a key, newest first.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shown([Option<Mark>; 3]);

impl Shown {
    #[inline]
    pub(super) fn of(purge: Option<Mark>, refusing: Option<Mark>, newest: Option<Mark>) -> Self {
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

    /// Takes the first of them if it is newer than a place, or without a place.
    #[inline]
    pub(crate) fn next_above(&mut self, place: Option<(u64, u32)>) -> Option<Mark> {
        let newer = |mark: &Mark| place.is_none_or(|place| (mark.seqno, mark.ordinal) > place);
        self.0.iter_mut().find(|mark| mark.is_some())?.take_if(|mark| newer(mark))
    }
}
