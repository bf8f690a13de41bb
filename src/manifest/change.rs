//! Changes that lead from one version to the next.

use super::options::StoredOptions;
use crate::{
    base::{FileNumber, KeyspaceId, Micros, Seqno},
    chunk::pack::PackMeta,
    segment::SegmentMeta,
    wal::LogEnd,
};

/// One change of a version. `changes` defines its encoding, [`Version`](super::Version) its effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Creates a keyspace, at its own seqno.
    Create { id: KeyspaceId, name: String, options: StoredOptions, seqno: Seqno },
    /// Changes the options of a keyspace, at its own seqno. The merge strategy stays.
    Configure { id: KeyspaceId, options: StoredOptions, seqno: Seqno },
    /// Drops a keyspace, at its own seqno. It stays, hidden, while it may still be read.
    Drop { id: KeyspaceId, seqno: Seqno },
    /// Removes a dropped keyspace with all its segments.
    Forget { id: KeyspaceId },
    /// Adds a segment to a level.
    Add { level: u8, segment: SegmentMeta },
    /// Removes a segment.
    Remove { keyspace: KeyspaceId, number: FileNumber },
    /// Raises the watermarks of dropped data (K5, K6).
    Watermarks { keyspace: KeyspaceId, vanished: Seqno, horizon: Seqno, expired_upto: Micros },
    /// Logs below this number are no longer needed.
    LogsFrom { number: FileNumber },
    /// End of a log, as far as it is known.
    LogEnd { number: FileNumber, end: LogEnd },
    /// File numbers below this may have been used.
    NextFile { number: FileNumber },
    /// Keyspace numbers below this have been used.
    NextKeyspace { number: u32 },
    /// The newest commit is `last`. After a clean close numbering continues at `next` at the earliest, otherwise at
    /// `ceiling`: seqnos below it may have been assigned. Commits up to `time` have happened. Each only grows: 0
    /// changes nothing.
    Seqnos { last: Seqno, next: Seqno, ceiling: Seqno, time: Micros },
    /// Keeps a moment readable under a name.
    Pin { name: String, seqno: Seqno, time: Micros },
    /// Removes a pin.
    Unpin { name: String },
    /// Adds a pack of chunks.
    AddPack { pack: PackMeta },
    /// Removes a pack.
    RemovePack { number: FileNumber },
    /// Sets the secret that the keys of dedup scopes are made from, once.
    Secret { secret: [u8; 32] },
    /// Gives the next number to the dedup scope of a name.
    Scope { number: u32, name: String },
    /// Bytes of a segment that are kept only for readers of a seqno. A hint: readers may skip it.
    Held { number: FileNumber, bytes: Vec<(Seqno, u64)> },
    /// Bytes of large values that were dropped since chunks were last collected; the maximum if nobody knows. A hint:
    /// readers may skip it.
    Dropped { bytes: u64 },
}

impl Change {
    /// Records the newest commit, or a decision at a seqno of its own.
    pub(crate) fn reached(last: Seqno, time: Micros) -> Self {
        Self::Seqnos { last, next: Seqno(0), ceiling: Seqno(0), time }
    }

    /// Reserves the seqnos below a ceiling.
    pub(crate) fn reserved(ceiling: Seqno) -> Self {
        Self::Seqnos { last: Seqno(0), next: Seqno(0), ceiling, time: Micros::ZERO }
    }

    /// Returns the keyspace to which this adds a segment.
    pub(super) fn reordered(&self) -> Option<KeyspaceId> {
        match self {
            Self::Add { segment, .. } => Some(segment.summary.keyspace),
            _ => None,
        }
    }
}
