//! Who wrote what since when: enough to tell whether something read earlier still holds at the commit.
//!
//! Recent writes are kept only while somebody is between reading and committing, and only so many: what fell out of the table
//! counts as changed. A false conflict costs one more try; a missed one would be a lost update.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
};

use crate::base::{KeySpan, KeyspaceId};

/// Keys remembered at most.
const KEYS_MAX: usize = 1 << 16;

/// Range tombstones remembered at most.
const RANGES_MAX: usize = 1 << 10;

/// The recent writes.
#[derive(Debug, Default)]
pub(crate) struct Conflicts {
    watchers: usize,
    /// Changes at or below this seqno are not in the table.
    floor: u64,
    keys: HashMap<u64, u64>,
    ranges: Vec<(KeyspaceId, KeySpan, u64)>,
    hasher: RandomState,
}

impl Conflicts {
    /// Somebody begins to read at `seqno`.
    pub(crate) fn watch(&mut self, seqno: u64) {
        if self.watchers == 0 {
            self.forget(seqno);
        }
        self.watchers += 1;
    }

    /// That somebody is done.
    pub(crate) fn unwatch(&mut self) {
        self.watchers = self.watchers.saturating_sub(1);
        if self.watchers == 0 {
            self.forget(u64::MAX);
        }
    }

    /// Whether writes have to be noted at all.
    pub(crate) fn is_watched(&self) -> bool {
        self.watchers > 0
    }

    pub(crate) fn note_key(&mut self, keyspace: KeyspaceId, key: &[u8], seqno: u64) {
        if self.keys.len() >= KEYS_MAX {
            self.forget(seqno - 1);
        }
        let hash = self.hash(keyspace, key);
        self.keys.insert(hash, seqno);
    }

    pub(crate) fn note_range(&mut self, keyspace: KeyspaceId, span: KeySpan, seqno: u64) {
        if self.ranges.len() >= RANGES_MAX {
            self.forget(seqno - 1);
        }
        self.ranges.push((keyspace, span, seqno));
    }

    /// Whether a key may have been written after `seqno`.
    pub(crate) fn changed_since(&self, keyspace: KeyspaceId, key: &[u8], seqno: u64) -> bool {
        seqno < self.floor
            || self.keys.get(&self.hash(keyspace, key)).is_some_and(|written| *written > seqno)
            || self.ranges.iter().any(|(id, span, written)| *id == keyspace && *written > seqno && span.holds(key))
    }

    fn forget(&mut self, floor: u64) {
        self.keys.clear();
        self.ranges.clear();
        self.floor = floor;
    }

    fn hash(&self, keyspace: KeyspaceId, key: &[u8]) -> u64 {
        self.hasher.hash_one((keyspace, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KS: KeyspaceId = KeyspaceId(16);

    #[test]
    fn a_write_after_the_read_is_a_conflict_and_one_before_is_not() {
        let mut conflicts = Conflicts::default();
        conflicts.watch(5);
        conflicts.note_key(KS, b"a", 6);
        conflicts.note_range(KS, KeySpan { start: "m".into(), end: None }, 7);
        assert!(conflicts.changed_since(KS, b"a", 5) && !conflicts.changed_since(KS, b"a", 6));
        assert!(conflicts.changed_since(KS, b"x", 6) && !conflicts.changed_since(KS, b"x", 7));
        assert!(!conflicts.changed_since(KS, b"b", 5));
        assert!(!conflicts.changed_since(KeyspaceId(17), b"a", 5));
        conflicts.unwatch();
        assert!(!conflicts.is_watched());
    }

    #[test]
    fn what_fell_out_of_the_table_counts_as_changed() {
        let mut conflicts = Conflicts::default();
        conflicts.watch(0);
        for seqno in 1..=KEYS_MAX as u64 + 1 {
            conflicts.note_key(KS, &seqno.to_le_bytes(), seqno);
        }
        assert!(conflicts.changed_since(KS, b"never written", 3));
    }
}
