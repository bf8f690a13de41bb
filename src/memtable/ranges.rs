//! The range tombstones of a memtable.
//!
//! Each keyspace has a stack of immutable sets, each longer than the next newer one: an insert merges the small ones on
//! top, so that each tombstone is moved log n times in all, and readers meet at most log n sets. Readers that hold the
//! sets do not see later inserts; they skip tombstones in a set that are above their moment.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::RwLock;

use crate::{
    base::{KeyspaceId, Seqno},
    merge::{RangeTombstone, Tombstone, Tombstones, push},
};

/// Range tombstones of all keyspaces.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    /// Number of tombstones: zero spares readers the lock.
    count: AtomicU64,
    stacks: RwLock<Vec<(KeyspaceId, Vec<Arc<Tombstones>>)>>,
}

impl Ranges {
    /// Adds tombstones, all newer than those present. Empty ones are dropped.
    pub(super) fn insert(&self, mut tombstones: Vec<(KeyspaceId, RangeTombstone)>) {
        tombstones.retain(|(_, tombstone)| !tombstone.span.is_empty());
        if tombstones.is_empty() {
            return;
        }
        self.count.fetch_add(tombstones.len() as u64, Ordering::Release);
        tombstones.sort_by_key(|(keyspace, _)| *keyspace);
        let mut rest = tombstones.into_iter().peekable();
        while let Some(&(keyspace, _)) = rest.peek() {
            let of_it = std::iter::from_fn(|| rest.next_if(|(id, _)| *id == keyspace));
            let newest = Tombstones::new(of_it.map(|(_, tombstone)| tombstone));
            let mut stacks = self.stacks.write();
            match stacks.iter_mut().find(|(id, _)| *id == keyspace) {
                Some((_, stack)) => drop(push(stack, newest)),
                None => stacks.push((keyspace, vec![Arc::new(newest)])),
            }
        }
    }

    pub(super) fn keyspaces(&self) -> Vec<KeyspaceId> {
        self.stacks.read().iter().map(|(id, _)| *id).collect()
    }

    /// Returns all tombstones of a keyspace.
    pub(super) fn sets(&self, keyspace: KeyspaceId) -> Vec<Arc<Tombstones>> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let stacks = self.stacks.read();
        stacks.iter().find(|(id, _)| *id == keyspace).map(|(_, stack)| stack.clone()).unwrap_or_default()
    }

    /// Returns the newest tombstone at or below `read_at`, or purge at or below `purge_horizon`, that covers `key`.
    pub(super) fn newest(
        &self,
        keyspace: KeyspaceId,
        key: &[u8],
        read_at: Seqno,
        purge_horizon: Seqno,
    ) -> Option<Tombstone> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let stacks = self.stacks.read();
        let (_, stack) = stacks.iter().find(|(id, _)| *id == keyspace)?;
        // Anything the newer sets hold for the key is newer.
        stack.iter().rev().find_map(|set| set.newest(key, read_at, purge_horizon))
    }
}
