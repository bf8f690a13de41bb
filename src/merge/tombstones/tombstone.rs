//! A range tombstone, its properties for each key that it covers, and the few that a look-up is shown.

use crate::{
    base::{KeySpan, Kind, Micros, Seqno},
    merge::lookup::EntryMeta,
};

/// A deletion of every key from `span.start` up to `span.end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RangeTombstone {
    pub(crate) span: KeySpan,
    pub(crate) tombstone: Tombstone,
}

/// Properties of a range tombstone, the same for each key that it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tombstone {
    pub(crate) seqno: Seqno,
    /// Same as in [`EntryRef`](crate::merge::EntryRef).
    pub(crate) ordinal: u32,
    /// Smallest seqno of the older deletions that were dropped directly beneath this one. A drop for a single key is
    /// recorded on that key.
    pub(crate) gap_start: Option<Seqno>,
    /// Commit time in microseconds; 0 if unknown.
    pub(crate) time: Micros,
    /// Whether it hides older versions from views of the past too.
    pub(crate) purge: bool,
}

impl Tombstone {
    #[inline]
    pub(crate) fn kind(&self) -> Kind {
        if self.purge { Kind::RangePurge } else { Kind::RangeDelete }
    }

    /// Returns the metadata that a look-up is shown.
    #[inline]
    pub(crate) fn meta(&self) -> EntryMeta {
        let Self { seqno, gap_start, .. } = *self;
        EntryMeta { seqno, gap_start, moved: false, kind: self.kind(), time: None, interval: false }
    }

    /// Records that a deletion at `seqno` was dropped directly beneath.
    pub(crate) fn widen_gap(&mut self, seqno: Seqno) {
        self.gap_start = Some(self.gap_start.map_or(seqno, |gap| gap.min(seqno)));
    }

    /// Returns whether deletions dropped beneath it are needed to answer for a moment.
    #[inline]
    pub(super) fn refuses(&self, read_at: Seqno) -> bool {
        self.seqno > read_at && self.gap_start.is_some_and(|gap| gap <= read_at)
    }
}

/// The few range tombstones that a look-up is shown for a key, newest first.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shown([Option<Tombstone>; 3]);

impl Shown {
    #[inline]
    pub(super) fn of(purge: Option<Tombstone>, refusing: Option<Tombstone>, newest: Option<Tombstone>) -> Self {
        let mut tombstones = [purge, refusing, newest];
        if let [Some(purge), Some(refusing), _] = tombstones
            && (purge.seqno, purge.ordinal) < (refusing.seqno, refusing.ordinal)
        {
            tombstones.swap(0, 1);
        }
        Self(tombstones)
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Tombstone> {
        self.0.iter().flatten()
    }

    /// Takes the first of them if it is newer than a place, or without a place.
    #[inline]
    pub(crate) fn next_above(&mut self, place: Option<(Seqno, u32)>) -> Option<Tombstone> {
        let newer = |tombstone: &Tombstone| place.is_none_or(|place| (tombstone.seqno, tombstone.ordinal) > place);
        self.0.iter_mut().find(|tombstone| tombstone.is_some())?.take_if(|tombstone| newer(tombstone))
    }
}
