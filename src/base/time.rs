//! Times and spans of time in whole microseconds: the resolution of commit times.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A time in microseconds, or a span of time. Commit times count from 1970, monotonic times from some start of the
/// machine; the two are never compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Micros(pub(crate) u64);

impl Micros {
    pub(crate) const ZERO: Self = Self(0);

    /// Later than every time, longer than every span.
    pub(crate) const MAX: Self = Self(u64::MAX);

    /// Converts a time, rounded down; earlier ones than 1970 become 0.
    pub(crate) fn of_time(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }

    /// Converts a span, rounded up; one too long to count lasts for ever.
    pub(crate) fn of_duration(duration: Duration) -> Self {
        Self(u64::try_from(duration.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX))
    }

    /// Returns the time; one that the system cannot represent becomes 1970.
    pub(crate) fn to_time(self) -> SystemTime {
        UNIX_EPOCH.checked_add(self.to_duration()).unwrap_or(UNIX_EPOCH)
    }

    /// Returns the span.
    pub(crate) const fn to_duration(self) -> Duration {
        Duration::from_micros(self.0)
    }

    #[inline]
    pub(crate) fn checked_add(self, span: Self) -> Option<Self> {
        self.0.checked_add(span.0).map(Self)
    }

    #[inline]
    pub(crate) fn checked_sub(self, span: Self) -> Option<Self> {
        self.0.checked_sub(span.0).map(Self)
    }

    /// Returns the time a span later; it never gets beyond [`MAX`](Self::MAX).
    #[inline]
    pub(crate) const fn saturating_add(self, span: Self) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// Returns the time a span earlier, 1970 at the earliest; or the span since another time, 0 if that is later.
    #[inline]
    pub(crate) const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
