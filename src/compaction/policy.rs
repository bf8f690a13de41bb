//! What history a keyspace keeps.

/// Decides what history a keyspace keeps, beyond what open views need.
///
/// ```
/// # use chronolith::{env::Memory, KeyspaceOptions, Options, Policy};
/// # let db = Options::new().env(Memory::new()).open("my.db")?;
/// let users = db.keyspace("users", KeyspaceOptions::new().policy(Policy::last_writer_wins()))?;
/// # Ok::<_, chronolith::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    LastWriterWins,
}

impl Policy {
    /// Keeps the newest version of each key. It promises no past: reads as of an earlier seqno are exact while
    /// the history happens to exist, and [`HistoryTrimmed`](crate::Error::HistoryTrimmed) afterwards.
    #[must_use]
    pub fn last_writer_wins() -> Self {
        Self(Kind::LastWriterWins)
    }

    /// Whether a version that was superseded is kept although no view needs it.
    pub(crate) fn owes(self) -> bool {
        match self.0 {
            Kind::LastWriterWins => false,
        }
    }

    /// The number that stands on disk.
    pub(crate) fn number(self) -> u8 {
        match self.0 {
            Kind::LastWriterWins => 0,
        }
    }

    /// The policy with this number on disk; numbers that this release does not know never pass the manifest.
    pub(crate) fn from_number(_number: u8) -> Self {
        Self(Kind::LastWriterWins)
    }
}
