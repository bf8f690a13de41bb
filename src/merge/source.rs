//! Anything sorted that a merge reads: a memtable, a segment, a run of segments; and what it shows of each version.

use super::lookup::Seen;
use crate::base::{Bytes, Kind, Result};

/// Which way a source runs. A source never turns round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Keys ascending; the versions of a key newest first.
    Forward,
    /// The exact reverse.
    Backward,
}

/// Where the interval of a version in the history tier ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// At the commit that superseded it.
    At {
        seqno: u64,
        /// In microseconds.
        time: u64,
    },
    /// Nobody knows: a tombstone that has left the main tree. It tells when the key was deleted, and answers no read:
    /// without it the key is absent just the same, and what came after it may have come and gone.
    Open,
}

impl Until {
    /// Whether a version that began at or before a moment is known to have been the truth then.
    pub(crate) fn holds(self, asked: u64) -> bool {
        match self {
            Self::At { seqno, .. } => asked < seqno,
            Self::Open => false,
        }
    }
}

/// One version of a key, as it stands in its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryRef<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) seqno: u64,
    /// Position in its batch: only memtables know it, and only equal seqnos need it.
    pub(crate) ordinal: u32,
    pub(crate) kind: Kind,
    /// The smallest seqno that was dropped, folded or moved to the history tier directly beneath this entry.
    pub(crate) gap_start: Option<u64>,
    /// A version from beneath this entry lives in the history tier.
    pub(crate) moved: bool,
    /// Commit time in microseconds, where it is known.
    pub(crate) time: Option<u64>,
    /// Of a version in the history tier: where its interval ends.
    pub(crate) until: Option<Until>,
    pub(crate) value: &'a [u8],
}

impl EntryRef<'_> {
    /// What a look-up is shown of it.
    #[inline]
    pub(crate) fn seen(&self) -> Seen {
        Seen {
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
    /// Goes to the first entry with a key ≥ `key` (forward), or to the last one with a key < `key` (backward). No key
    /// is the end: forward nothing is left there, backward everything lies before it.
    fn seek(&mut self, key: Option<&[u8]>) -> Result<()>;

    /// The entry it stands at.
    fn entry(&self) -> Option<EntryRef<'_>>;

    /// The value of the entry it stands at, to keep.
    fn value(&self) -> Bytes;

    /// Steps to the next entry in its direction.
    fn advance(&mut self) -> Result<()>;

    /// Standing at an entry of `key`, forward: passes by versions that are newer than `seqno`, but for the oldest of
    /// them, whose gap matters at `seqno`, and what else its commit wrote. Where there are purges, those up to `opened`
    /// are not passed by. A source may stay where it is.
    fn skip_newer(&mut self, key: &[u8], seqno: u64, opened: u64) -> Result<()>;

    /// Another one over the same entries that runs forward. It stands nowhere.
    fn turned(&self) -> Self
    where
        Self: Sized;

    /// No entry here is newer than this.
    fn newest(&self) -> u64;
}

/// Counts a step of a walk, for the tests that hold a verb to so many.
#[inline]
pub(crate) fn step() {
    #[cfg(test)]
    super::steps::add();
}
