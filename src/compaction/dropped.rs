//! What dropping leaves behind: the watermarks that an edit raises.

use crate::{
    base::{KeyspaceId, Micros, Seqno},
    manifest::Change,
};

/// What was dropped, for the edit that makes it true.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dropped {
    /// The largest seqno of a tombstone that left with its past gone, or end of a version that left the history tier
    /// (K5).
    pub(crate) vanished: Seqno,
    /// The newest superseder of anything dropped (K6).
    pub(crate) horizon: Seqno,
    /// The latest expiry of a value that was collected, in microseconds.
    pub(crate) expired_upto: Micros,
    /// Some tombstone or expired value left.
    pub(crate) tombstones_left: bool,
    /// What was kept only for a registered seqno, in bytes.
    pub(crate) held_by: Vec<(Seqno, u64)>,
}

impl Dropped {
    pub(super) fn dropped_beneath(&mut self, superseder: Seqno) {
        self.horizon = self.horizon.max(superseder);
    }

    pub(super) fn tombstone_left(&mut self, seqno: Seqno, gap_start: Option<Seqno>) {
        self.tombstones_left = true;
        if gap_start.is_some() {
            self.vanished = self.vanished.max(seqno);
        }
    }

    pub(super) fn held(&mut self, by: Option<Seqno>, bytes: usize) {
        let Some(seqno) = by else { return };
        match self.held_by.iter_mut().find(|(known, _)| *known == seqno) {
            Some((_, sum)) => *sum += bytes as u64,
            None => self.held_by.push((seqno, bytes as u64)),
        }
    }

    /// Returns the watermarks to raise.
    pub(crate) fn watermarks(&self, keyspace: KeyspaceId) -> Change {
        let Self { vanished, horizon, expired_upto, .. } = *self;
        Change::Watermarks { keyspace, vanished, horizon, expired_upto }
    }

    /// The seqno below which a view that the job did not know of may have lost what it stands on; `vanished` is the
    /// keyspace's watermark now. A tombstone that left, with or without its past, changes what such a view says below
    /// that watermark. An expired value that left changes what any view of an earlier time says.
    pub(crate) fn newest_change(&self, vanished: Seqno) -> Seqno {
        let tombstones = self.horizon.max(self.vanished);
        if self.expired_upto > Micros::ZERO {
            Seqno::MAX
        } else if self.tombstones_left {
            tombstones.max(vanished)
        } else {
            tombstones
        }
    }
}
