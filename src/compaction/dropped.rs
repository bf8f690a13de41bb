//! Record of what a job drops: the watermarks that its edit raises.

use crate::{
    base::{KeyspaceId, Micros, Seqno},
    manifest::Change,
};

/// What a job dropped, for the edit that installs its result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dropped {
    /// Largest seqno of a tombstone or expired value that left the main tree with versions missing beneath it, or end
    /// of a version that left the history tier (K5).
    pub(crate) vanished: Seqno,
    /// Newest superseder of anything dropped (K6).
    pub(crate) horizon: Seqno,
    /// Latest expiry of an expired value that was dropped, in microseconds.
    pub(crate) expired_upto: Micros,
    /// Whether a tombstone or an expired value left.
    pub(crate) tombstones_left: bool,
    /// Bytes kept only for registered seqnos: pairs of seqno and bytes.
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

    pub(super) fn record_held(&mut self, by: Option<Seqno>, bytes: u64) {
        let Some(seqno) = by else { return };
        match self.held_by.iter_mut().find(|(known, _)| *known == seqno) {
            Some((_, sum)) => *sum += bytes,
            None => self.held_by.push((seqno, bytes)),
        }
    }

    /// Returns the watermarks to raise.
    pub(crate) fn watermarks(&self, keyspace: KeyspaceId) -> Change {
        let Self { vanished, horizon, expired_upto, .. } = *self;
        Change::Watermarks { keyspace, vanished, horizon, expired_upto }
    }

    /// Returns the seqno below which a view that the job did not know of may have lost data it reads (J1); `vanished`
    /// is the keyspace's watermark when the result is installed. A tombstone that left, with or without its past,
    /// changes the answers of such a view below that watermark. An expired value that left changes the answers of any
    /// view of an earlier time.
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
