//! What can change from a version to the next.

use super::options::StoredOptions;
use crate::{base::KeyspaceId, segment::Finished, wal::LogEnd};

/// One change of a version. `changes` says how it stands on disk, [`Version`](super::Version) what it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A keyspace is born, at a seqno of its own.
    Create { id: KeyspaceId, name: String, options: StoredOptions, seqno: u64 },
    /// A keyspace gets other options, at a seqno of its own. Its merge strategy stays.
    Configure { id: KeyspaceId, options: StoredOptions, seqno: u64 },
    /// A keyspace is dropped, at a seqno of its own. It stays, hidden, while somebody may still read it.
    Drop { id: KeyspaceId, seqno: u64 },
    /// A dropped keyspace goes, with all its segments.
    Forget { id: KeyspaceId },
    /// A segment joins a level.
    Add { level: u8, segment: Finished },
    /// A segment leaves.
    Remove { keyspace: KeyspaceId, number: u64 },
    /// The traces that dropping leaves, raised (K5, K6).
    Marks { keyspace: KeyspaceId, vanished: u64, horizon: u64, lapsed: u64 },
    /// Logs below this number are needed no more.
    LogsFrom { number: u64 },
    /// What is known of the end of a log.
    LogEnd { number: u64, end: LogEnd },
    /// File numbers below this may have been used.
    NextFile { number: u64 },
    /// Keyspace numbers below this have been used.
    NextKeyspace { number: u32 },
    /// The newest commit is `last`. After a clean end numbering goes on at `next` at the earliest, after any other at
    /// `ceiling`: seqnos below may have been given out. Commits up to `time_us` have happened.
    Seqnos { last: u64, next: u64, ceiling: u64, time_us: u64 },
    /// A moment is kept readable under a name.
    Pin { name: String, seqno: u64, time_us: u64 },
    /// And no more.
    Unpin { name: String },
    /// Bytes of a segment that are kept only for those who read a seqno. A hint: readers may skip it.
    Held { number: u64, bytes: Vec<(u64, u64)> },
}

impl Change {
    /// The keyspace whose segments this changes.
    pub(super) fn reordered(&self) -> Option<KeyspaceId> {
        match self {
            Self::Add { segment, .. } => Some(segment.summary.keyspace),
            _ => None,
        }
    }
}
