//! Positions in the order of all writes, and what a write hands back.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The position of a batch in the one order of all commits. The first is 1; 0 is the empty database. Creating or dropping a keyspace takes a
/// seqno too, and after a crash numbering jumps by 2^32: compare seqnos, do not count with them.
///
/// ```
/// use chronolith::Seqno;
/// assert!(Seqno::from(7) < Seqno::from(8));
/// assert_eq!(u64::from(Seqno::from(7)), 7);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seqno(pub(crate) u64);

impl From<u64> for Seqno {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

impl From<Seqno> for u64 {
    fn from(seqno: Seqno) -> Self {
        seqno.0
    }
}

impl fmt::Display for Seqno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What every write returns: where it stands in the order of all commits, and when it was committed. A write of nothing, such as an empty
/// batch, returns where the newest commit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The commit's position; `db.as_of(receipt.seqno)` is the database just after it.
    pub seqno: Seqno,
    /// The commit's time by the database's clock, in whole microseconds; never before an earlier commit's.
    pub time: SystemTime,
}

/// Microseconds since 1970 as a time; times past what the system can say are the latest it can.
pub(crate) fn from_us(us: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_micros(us)).unwrap_or(UNIX_EPOCH)
}
