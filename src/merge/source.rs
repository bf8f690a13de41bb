//! Sorted inputs of a merge: a memtable, a segment, a run of segments; and the versions they contain.

use std::path::Path;

use super::lookup::EntryMeta;
use crate::base::{Bytes, Kind, Micros, Result, Seqno};

/// Direction of a source. It never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Keys ascending; the versions of a key newest first.
    Forward,
    /// The exact reverse.
    Backward,
}

/// End of the interval of a version in the history tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// The commit that superseded it.
    At { seqno: Seqno, time: Micros },
    /// Unknown: a tombstone that has left the main tree. It records when the key was deleted, and answers no read:
    /// without it the key is absent just the same, and a later version may have been written and dropped.
    Open,
}

impl Until {
    /// Returns whether a version that began at or before a moment is known to have been current then.
    pub(crate) fn holds(self, read_at: Seqno) -> bool {
        match self {
            Self::At { seqno, .. } => read_at < seqno,
            Self::Open => false,
        }
    }
}

/// One version of a key, as its source stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryRef<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) seqno: Seqno,
    /// Position in its batch: only memtables have it, and only equal seqnos need it.
    pub(crate) ordinal: u32,
    pub(crate) kind: Kind,
    /// Smallest seqno that was dropped, folded or moved to the history tier directly beneath this entry.
    pub(crate) gap_start: Option<Seqno>,
    /// Whether a version from beneath this entry is in the history tier.
    pub(crate) moved: bool,
    /// Commit time in microseconds, if known.
    pub(crate) time: Option<Micros>,
    /// End of the interval, for a version in the history tier.
    pub(crate) until: Option<Until>,
    pub(crate) value: &'a [u8],
}

impl EntryRef<'_> {
    /// Returns the metadata that a look-up is shown.
    #[inline]
    pub(crate) fn meta(&self) -> EntryMeta {
        EntryMeta {
            seqno: self.seqno,
            gap_start: self.gap_start,
            moved: self.moved,
            kind: self.kind,
            time: self.time,
            interval: self.until.is_some(),
        }
    }
}

/// A sorted stream of entries, in one direction.
pub(crate) trait Source {
    /// Moves to the first entry with a key ≥ `key` (forward), or to the last one with a key < `key` (backward). `None`
    /// is the end of the keyspace: forward nothing follows it, backward everything precedes it.
    fn seek(&mut self, key: Option<&[u8]>) -> Result<()>;

    /// Returns the current entry.
    fn entry(&self) -> Option<EntryRef<'_>>;

    /// Returns the value of the current entry, to keep.
    fn value(&self) -> Bytes;

    /// Steps to the next entry in its direction.
    fn advance(&mut self) -> Result<()>;

    /// Skips versions of `key`, the current key, that are newer than `seqno`, except the oldest of them, whose gap
    /// matters at `seqno`, and the rest of its commit. Purges up to `purge_horizon` are not skipped. Forward only; a
    /// source may stay where it is.
    fn skip_newer(&mut self, key: &[u8], seqno: Seqno, purge_horizon: Seqno) -> Result<()>;

    /// Returns a source over the same entries that runs forward, not positioned.
    fn turned(&self) -> Self
    where
        Self: Sized;

    /// Returns a seqno that no entry here exceeds.
    fn newest(&self) -> Seqno;

    /// Returns the file from which the current entry was read, for an error about what it says; `None` for one in
    /// memory.
    fn file(&self) -> Option<&Path> {
        None
    }
}

/// Counts a step of a walk, for tests that bound the steps of a verb.
#[inline]
pub(crate) fn step() {
    #[cfg(test)]
    super::steps::add();
}
