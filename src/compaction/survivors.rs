//! Decides which versions survive, and what the others leave behind.
//!
//! ```text
//!   one key, newest first      last_writer_wins, a view at 25 is open      mvcc, all inside the window
//!     put@50                   kept: the newest                            kept; gap 10, moved
//!     put@42                   dropped: gap_start of put@50 becomes 42     history [42, 50)
//!     put@20                   kept: the newest ≤ 25                       history [20, 42)
//!     put@10                   dropped: gap_start of put@20 becomes 10     history [10, 20)
//! ```
//!
//! Implements rules K1 to K6, K8, K11, M2 and M3 of `docs/versions.md`. The versions of a key arrive newest first,
//! point entries and range tombstones alike, and each is judged by itself: it is kept, folded into the operand above
//! it, or dropped and recorded as a gap of the version above it. The versions of a key that are kept wait in
//! [`KeyVersions`], which decides where each of them goes when the key ends.

use std::sync::Arc;

use super::{
    dropped::Dropped,
    output::Output,
    placement::{KeptVersion, KeyVersions},
    policy::{PolicyCandidate, entry_bytes},
    rules::{Retention, Rules},
    tombstones::JobTombstones,
};
use crate::{
    base::{Bytes, KeySpan, Kind, Micros, Result, Seqno},
    merge::{EntryRef, Tombstone, Tombstones},
    segment::Entry,
};

/// What decides about the next older version of the key.
#[derive(Clone, Copy, Debug)]
struct Above {
    /// Seqno of the version just above, whether that was kept or not.
    seqno: Seqno,
    /// Its commit time, in microseconds.
    time: Micros,
    /// Whether a delete ended the next version, or may have.
    is_delete: bool,
    /// Time of the oldest delete.
    deleted_since: Option<Micros>,
    /// Number of versions above.
    count: u64,
    /// Seqno of the oldest purge.
    purge: Option<Seqno>,
    /// Lowest gap of all versions above: further down, only versions below it can be read.
    floor: Seqno,
}

impl Above {
    /// Returns where the interval of the next older version ends, in seqno and time: at the version above, or at the
    /// lowest gap, if something between the two was dropped.
    fn end_below(&self, rules: &Rules) -> (Seqno, Micros) {
        if self.floor < self.seqno {
            (self.floor, self.time.min(rules.time_of(self.floor)))
        } else {
            (self.seqno, self.time)
        }
    }
}

/// A version of the current key that is to be judged.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    kind: Kind,
    seqno: Seqno,
    gap_start: Option<Seqno>,
    moved: bool,
    /// Commit time in microseconds; 0 where nothing depends on it.
    time: Micros,
    /// Length of its key and value.
    bytes: u64,
    /// Whether it is a range tombstone, as a version of the key.
    by_tombstone: bool,
}

impl Candidate {
    /// Returns the smallest seqno that can no longer be read once it is dropped.
    fn lowest(&self) -> Seqno {
        self.gap_start.map_or(self.seqno, |gap| gap.min(self.seqno))
    }
}

/// Takes entries in order and passes on those that survive.
#[derive(Debug)]
pub(crate) struct Survivors {
    retention: Retention,
    tombstones: JobTombstones,
    dropped: Dropped,
    key: Vec<u8>,
    in_key: bool,
    above: Option<Above>,
    /// Whether a range tombstone was skipped since the last version that was kept, as no version of the key.
    skipped_tombstone: bool,
    kept: KeyVersions,
    /// Range tombstones kept as versions of a key: each may be written as an entry.
    tombstones_kept: u64,
}

impl Survivors {
    /// Returns the survivors of a merge of entries and range tombstones, all of one keyspace.
    pub(crate) fn new(retention: Retention, tombstones: &[Arc<Tombstones>]) -> Self {
        let Retention { rules, .. } = &retention;
        let timed = rules.timed || !rules.policy.keeps_history() && rules.ttls.is_empty();
        assert!(timed, "{rules:?} needs times, but entries carry none");
        let mut dropped = Dropped::default();
        let tombstones = JobTombstones::new(tombstones, &retention, &mut dropped);
        let kept = KeyVersions::default();
        Self {
            retention,
            tombstones,
            dropped,
            key: Vec::new(),
            in_key: false,
            above: None,
            skipped_tombstone: false,
            kept,
            tombstones_kept: 0,
        }
    }

    /// Takes the next entry, of the current key or of the next one. Passes the versions that are certain to survive to
    /// `out`, with their final gaps.
    pub(crate) fn take(
        &mut self,
        entry: &EntryRef<'_>,
        begins_key: bool,
        value: impl Fn() -> Bytes,
        out: &mut impl Output,
    ) -> Result<()> {
        if begins_key {
            self.end_key(out)?;
            self.key.clear();
            self.key.extend_from_slice(entry.key);
            self.in_key = true;
            self.above = None;
            self.tombstones.begin_key(&self.key);
        }
        while let Some(tombstone) = self.tombstones.next_above(entry.seqno, entry.ordinal) {
            self.judge_tombstone(&tombstone);
        }
        let candidate = Candidate {
            kind: entry.kind,
            seqno: entry.seqno,
            gap_start: entry.gap_start,
            moved: entry.moved,
            time: entry.time.unwrap_or_else(|| self.retention.rules.time_of(entry.seqno)),
            bytes: entry_bytes(entry.kind, entry.key, entry.value),
            by_tombstone: false,
        };
        self.judge(&candidate, value);
        if self.kept.is_long() {
            self.give_out(true, out)?;
        }
        Ok(())
    }

    /// Ends the current key. Must be called before an output is cut, and at the end.
    pub(crate) fn end_key(&mut self, out: &mut impl Output) -> Result<()> {
        if !self.in_key {
            return Ok(());
        }
        self.in_key = false;
        self.give_out(false, out)
    }

    fn give_out(&mut self, more_follow: bool, out: &mut impl Output) -> Result<()> {
        let Self { retention, tombstones, dropped, .. } = self;
        self.kept.give_out(&self.key, retention, tombstones, dropped, more_follow, out)
    }

    /// Returns the range tombstones before `cut` in their final form; without a cut, all that are left.
    pub(crate) fn tombstones_before(&mut self, cut: Option<&[u8]>) -> Tombstones {
        self.tombstones.take_before(cut, &self.retention, &mut self.dropped)
    }

    /// Returns whether reads may have to continue from a segment of this span to older ones.
    pub(crate) fn passed(&self, span: &KeySpan) -> bool {
        !self.retention.older.is_clear(span)
    }

    /// Returns the bytes kept only for registered seqnos since the last call.
    pub(crate) fn take_held(&mut self) -> Vec<(Seqno, u64)> {
        std::mem::take(&mut self.dropped.held_by)
    }

    /// Returns how many entries may have been written for range tombstones.
    pub(super) fn tombstones_kept(&self) -> u64 {
        self.tombstones_kept
    }

    pub(crate) fn into_dropped(mut self) -> Dropped {
        self.dropped.held_by.sort_unstable();
        self.dropped
    }

    fn judge_tombstone(&mut self, tombstone: &Tombstone) {
        let time =
            if tombstone.time == Micros::ZERO { self.retention.rules.time_of(tombstone.seqno) } else { tombstone.time };
        let candidate = Candidate {
            kind: tombstone.kind(),
            seqno: tombstone.seqno,
            gap_start: tombstone.gap_start,
            moved: false,
            time,
            bytes: 0,
            by_tombstone: true,
        };
        self.judge(&candidate, Bytes::default);
    }

    /// Decides about the next older version of the current key.
    fn judge(&mut self, candidate: &Candidate, value: impl Fn() -> Bytes) {
        let Candidate { kind, seqno, .. } = *candidate;
        let Some(above) = self.above else {
            self.keep(candidate, None, value());
            return self.pass(candidate);
        };
        let same_commit = above.seqno == seqno;
        let in_operand = self.kept.ends_with_operand();
        let mut reader = None;
        if let Some(purge) = above.purge {
            // Every reader of an operand, however new, also reads what lies beneath it.
            let upto = if in_operand { Seqno::MAX } else { above.seqno };
            reader = self.retention.demands.before_purge(purge, candidate.lowest(), upto);
            if kind.purges() {
                reader = reader.or_else(|| self.retention.demands.between_purges(seqno, purge));
            }
            if reader.is_none() {
                // Hidden by the purge from every reader: dropped without a trace (K11).
                return self.pass(candidate);
            }
        }
        if same_commit && !in_operand && !kind.purges() {
            // A later operation of the same batch replaces this one, and takes over the gap beneath it.
            if let Some(gap) = candidate.gap_start {
                if let Some(above) = &mut self.above {
                    above.floor = above.floor.min(gap);
                    above.is_delete |= candidate.moved;
                }
                if !candidate.by_tombstone {
                    self.kept.record_gap(gap, candidate.moved);
                }
            }
            return;
        }
        let readable = seqno < above.floor;
        let wanted = if kind.purges() || reader.is_some() {
            self.dropped.record_held(reader, candidate.bytes);
            true
        } else {
            !same_commit && readable && self.is_wanted(candidate, &above)
        };
        if !wanted && in_operand && self.fold(candidate, &value) {
            if candidate.by_tombstone {
                // It became the base of an operand, so its readers still find it there.
                self.skipped_tombstone = true;
            } else if same_commit {
                candidate.gap_start.into_iter().for_each(|gap| self.kept.record_gap(gap, candidate.moved));
            } else {
                self.kept.record_gap(candidate.lowest(), candidate.moved);
                self.dropped_beneath_last();
            }
        } else if wanted || in_operand {
            if self.skipped_tombstone && self.retention.rules.policy.keeps_history() {
                // When this version is moved, the gap recorded above it also refuses the moments that the skipped
                // tombstone would answer: that counts as a drop (K6).
                self.dropped_beneath_last();
            }
            self.keep(candidate, Some(above.end_below(&self.retention.rules)), value());
        } else if candidate.by_tombstone {
            self.skipped_tombstone = true;
        } else {
            // At or above the floor it could not be read before, either: nothing to record.
            if candidate.lowest() < above.floor {
                self.kept.record_gap(candidate.lowest(), candidate.moved);
                self.dropped_beneath_last();
            }
        }
        self.pass(candidate);
    }

    /// Returns whether a view reads it, or the policy keeps it.
    fn is_wanted(&mut self, candidate: &Candidate, above: &Above) -> bool {
        let owed = self.retention.rules.owe(&PolicyCandidate {
            rank: above.count,
            seqno: candidate.seqno,
            time: candidate.time,
            superseded_at: Some(above.end_below(&self.retention.rules).1),
            is_delete: matches!(candidate.kind, Kind::Delete | Kind::RangeDelete),
            ended_by_delete: above.is_delete,
            deleted_since: above.deleted_since,
            bytes: candidate.bytes,
        });
        let reader = self.retention.demands.any_in(candidate.seqno, above.seqno);
        if !owed {
            self.dropped.record_held(reader, candidate.bytes);
        }
        owed || reader.is_some()
    }

    /// Folds a version into the operand directly above it; `false` if it has to stay separate. Where no reader lies
    /// between them, an operand and what is beneath it may become one (M3).
    fn fold(&mut self, candidate: &Candidate, value: &impl Fn() -> Bytes) -> bool {
        let Some(strategy) = &self.retention.rules.strategy else { return false };
        let kind = if candidate.kind == Kind::RangeDelete { Kind::Delete } else { candidate.kind };
        self.kept.fold(strategy, &self.key, kind, value)
    }

    fn keep(&mut self, candidate: &Candidate, end: Option<(Seqno, Micros)>, value: Bytes) {
        self.skipped_tombstone = false;
        let Candidate { kind, seqno, gap_start, moved, time, by_tombstone, .. } = *candidate;
        let entry = Entry { moved, time: self.retention.rules.timed.then_some(time), ..Entry::new(kind, seqno) };
        self.tombstones_kept += u64::from(by_tombstone);
        self.kept.push(if by_tombstone {
            KeptVersion::by_tombstone(entry, gap_start, end)
        } else {
            KeptVersion::new(Entry { gap_start, ..entry }, value, end)
        });
    }

    /// Records the version just judged, as the one above the next older version.
    fn pass(&mut self, candidate: &Candidate) {
        let Candidate { kind, seqno, gap_start, moved, time, .. } = *candidate;
        let deletes = matches!(kind, Kind::Delete | Kind::RangeDelete) || kind.purges();
        let before = self.above;
        let above = before.map_or(Seqno::MAX, |above| above.seqno);
        debug_assert!(seqno <= above, "a version @{seqno} of a key behind one @{above}");
        debug_assert!(gap_start.is_none_or(|gap| gap <= seqno), "a gap at {gap_start:?} above @{seqno} (K3)");
        let again = before.is_some_and(|above| above.seqno == seqno);
        let deleted_since = before.and_then(|above| above.deleted_since);
        self.above = Some(Above {
            seqno,
            time,
            // A version moved from beneath it may have been a delete, and then ended the next version.
            is_delete: deletes || moved,
            deleted_since: if deletes {
                Some(deleted_since.map_or(time, |since| since.min(time)))
            } else {
                deleted_since
            },
            count: before.map_or(0, |above| above.count) + u64::from(!again),
            purge: if kind.purges() { Some(seqno) } else { before.and_then(|above| above.purge) },
            floor: before.map_or(Seqno::MAX, |above| above.floor).min(gap_start.unwrap_or(Seqno::MAX)),
        });
    }

    /// Raises the horizon to the last version: its gap refuses all moments down from there, including those that a
    /// range tombstone in between would answer.
    fn dropped_beneath_last(&mut self) {
        self.dropped.dropped_beneath(self.kept.last_seqno());
    }
}
