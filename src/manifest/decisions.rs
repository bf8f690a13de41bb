//! Times of decisions that are not commits, and so not in the timeline.

use crate::base::{Micros, Seqno};

/// Moments of decisions that are not commits, and so not in the timeline: a keyspace created, configured or dropped, a
/// pin set or removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decisions {
    /// Seqnos and times in microseconds, ascending: all from `from` on.
    pub(super) stamps: Vec<(Seqno, Micros)>,
    /// Seqno below which decisions were discarded: there were too many.
    from: Seqno,
}

/// Maximum number of decisions remembered.
pub(super) const DECISIONS_MAX: usize = 1 << 14;

impl Decisions {
    pub(super) fn record(&mut self, seqno: Seqno, time: Micros) {
        if self.stamps.last().is_none_or(|(last, _)| *last < seqno) && seqno >= self.from {
            self.stamps.push((seqno, time));
        }
        let over = self.stamps.len().saturating_sub(DECISIONS_MAX);
        if over > 0
            && let Some((gone, _)) = self.stamps.drain(..over).next_back()
        {
            self.from = gone.next();
        }
    }

    /// Returns the newest at or below a seqno.
    pub(crate) fn at_seqno(&self, seqno: Seqno) -> Option<(Seqno, Micros)> {
        let after = self.stamps.partition_point(|(at, _)| *at <= seqno);
        self.stamps.get(after.checked_sub(1)?).copied()
    }

    /// Returns the newest at or before a time in microseconds; times never decrease.
    pub(crate) fn at_time(&self, time: Micros) -> Option<(Seqno, Micros)> {
        let after = self.stamps.partition_point(|(_, at)| *at <= time);
        self.stamps.get(after.checked_sub(1)?).copied()
    }

    /// Returns whether a decision at a seqno would be known.
    pub(crate) fn reach(&self, seqno: Seqno) -> bool {
        seqno >= self.from
    }
}
