//! Positions in the order of all writes, and the receipt that a write returns.

use std::{
    fmt,
    num::ParseIntError,
    ops::{Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive},
    str::FromStr,
    time::SystemTime,
};

/// The position of a batch in the one order of all commits. The first is 1; 0 is the empty database. Creating or
/// dropping a keyspace takes a seqno too, and after a crash numbering jumps by 2^32: compare seqnos, do not count with
/// them.
///
/// ```
/// use chronolith::Seqno;
/// assert!(Seqno::from(7) < Seqno::from(8));
/// assert_eq!(u64::from(Seqno::from(7)), 7);
/// assert_eq!("7".parse(), Ok(Seqno::from(7)));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seqno(pub(crate) u64);

impl Seqno {
    /// Seqno that no commit reaches: stands for no end.
    pub(crate) const MAX: Self = Self(u64::MAX);

    /// Returns the one after; [`MAX`](Self::MAX) stays.
    #[inline]
    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Returns the one `count` further on.
    #[inline]
    pub(crate) fn checked_add(self, count: u64) -> Option<Self> {
        self.0.checked_add(count).map(Self)
    }

    /// Returns the one `count` before.
    #[inline]
    pub(crate) fn checked_sub(self, count: u64) -> Option<Self> {
        self.0.checked_sub(count).map(Self)
    }

    /// Returns the one before; 0 stays.
    #[inline]
    pub(crate) const fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

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

impl FromStr for Seqno {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl fmt::Display for Seqno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A range of seqnos: every range type of the standard library over [`Seqno`] or `u64`. The trait is sealed.
pub trait SeqnoRange: sealed::Sealed {
    /// Returns the first seqno inside, if the range is bounded below, and the first one past the end.
    #[doc(hidden)]
    fn ends(&self) -> (Option<Seqno>, Seqno);
}

mod sealed {
    #[expect(unnameable_types, reason = "a trait that cannot be named cannot be implemented")]
    pub trait Sealed {}
}

macro_rules! ranges {
    ($($range:ty, |$r:ident| $start:expr, $end:expr;)*) => {$(
        impl<S: Into<Seqno> + Copy> sealed::Sealed for $range {}
        impl<S: Into<Seqno> + Copy> SeqnoRange for $range {
            fn ends(&self) -> (Option<Seqno>, Seqno) {
                let $r = self;
                ($start, $end)
            }
        }
    )*};
}

fn seqno(seqno: impl Into<Seqno>) -> Seqno {
    seqno.into()
}

ranges! {
    Range<S>, |r| Some(seqno(r.start)), seqno(r.end);
    RangeInclusive<S>, |r| Some(seqno(*r.start())), seqno(*r.end()).next();
    RangeFrom<S>, |r| Some(seqno(r.start)), Seqno::MAX;
    RangeTo<S>, |r| None, seqno(r.end);
    RangeToInclusive<S>, |r| None, seqno(r.end).next();
}

impl sealed::Sealed for RangeFull {}
impl SeqnoRange for RangeFull {
    fn ends(&self) -> (Option<Seqno>, Seqno) {
        (None, Seqno::MAX)
    }
}

/// Result of every write: its position in the order of all commits, and when it was committed. A write of nothing, such
/// as an empty batch, returns the position of the newest commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The commit's position; `db.as_of(receipt.seqno)` is the database just after it.
    pub seqno: Seqno,
    /// The commit's time by the database's clock, in whole microseconds; never before an earlier commit's.
    pub time: SystemTime,
}
