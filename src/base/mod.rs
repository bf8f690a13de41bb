//! Vocabulary of all modules: keys, seqnos, kinds, shared bytes, errors. No I/O, no locks, no bytes on disk.

mod bytes;
mod callback;
mod chunk;
mod error;
mod key;
mod kind;
mod seqno;
mod spans;
mod time;

use std::fmt;

pub use bytes::Bytes;
pub(crate) use callback::{callback, in_callback};
pub use chunk::ChunkId;
pub use error::{Corruption, Error, Result};
pub(crate) use error::{IoContext, is_out_of_files};
pub use key::KeyRange;
pub(crate) use key::{KEY_LEN_MAX, KeySpan, head};
pub(crate) use kind::Kind;
pub use seqno::{Receipt, Seqno, SeqnoRange};
pub(crate) use spans::SpanMap;
pub(crate) use time::Micros;

/// Number of a keyspace within its database, never reused. Numbers below [`FIRST_KEYSPACE`] are the engine's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KeyspaceId(pub(crate) u32);

/// Number of a file, by which it is named: of a log, a segment or a manifest. Counted up, never reused. 0 is no file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FileNumber(pub(crate) u64);

impl FileNumber {
    /// Returns the one after.
    pub(crate) const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Iterates from this one up to `end`, which is left out.
    pub(crate) fn upto(self, end: Self) -> impl Iterator<Item = Self> {
        (self.0..end.0).map(Self)
    }
}

impl fmt::Display for FileNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Lowest number of a user's keyspace.
pub(crate) const FIRST_KEYSPACE: u32 = 16;

/// The keyspace that holds the timeline: which commit happened when.
pub(crate) const TIMELINE: KeyspaceId = KeyspaceId(1);

/// The keyspace that holds the places of chunks.
pub(crate) const PLACES: KeyspaceId = KeyspaceId(2);

/// The engine's own keyspaces. They exist in every database from its first version on: the timeline, the places of
/// chunks, and the receipts of sessions.
pub(crate) const HIDDEN: [KeyspaceId; 3] = [TIMELINE, PLACES, KeyspaceId(3)];
