//! Keyspaces under compaction: one job for each, any number of keyspaces at a time.
//!
//! A job blocks no other keyspace: while a large one is compacted on demand, the background threads are free to compact
//! level 0 of all the others. (Rejected: one lock for all compactions. One call for one large keyspace then stopped the
//! writers of every other.)

use std::collections::BTreeSet;

use crate::{
    base::{Error, KeyspaceId, Result},
    engine::locks::{Condvar, Held, Lock, LockOrder, Rank},
};

/// The keyspaces under compaction.
#[derive(Debug)]
pub(super) struct CompactionSlots {
    order: LockOrder,
    state: Lock<State>,
    freed: Condvar,
}

impl CompactionSlots {
    pub(super) fn new(order: LockOrder) -> Self {
        Self { order, state: order.lock(Rank::Slots, State::default()), freed: Condvar::new() }
    }
}

#[derive(Debug, Default)]
struct State {
    keyspaces: BTreeSet<KeyspaceId>,
    /// Whether further jobs are refused.
    ended: bool,
}

/// The right to compact a keyspace, until it is dropped.
#[derive(Debug)]
pub(super) struct CompactionSlot<'a> {
    slots: &'a CompactionSlots,
    keyspace: KeyspaceId,
    _right: Held,
}

impl Drop for CompactionSlot<'_> {
    fn drop(&mut self) {
        self.slots.state.lock().keyspaces.remove(&self.keyspace);
        self.slots.freed.notify_all();
    }
}

impl CompactionSlots {
    /// Takes the right to compact a keyspace, unless a job has it.
    pub(super) fn try_take(&self, keyspace: KeyspaceId) -> Option<CompactionSlot<'_>> {
        let right = self.order.hold(Rank::Compacting);
        let mut state = self.state.lock();
        let taken = !state.ended && state.keyspaces.insert(keyspace);
        // Created only once it is known: dropping one gives the right back.
        taken.then(|| CompactionSlot { slots: self, keyspace, _right: right })
    }

    /// Takes the right to compact a keyspace; waits for the job that has it.
    pub(super) fn take(&self, keyspace: KeyspaceId) -> Result<CompactionSlot<'_>> {
        let right = self.order.hold(Rank::Compacting);
        let mut state = self.state.lock();
        loop {
            if state.ended {
                return Err(Error::Closed);
            }
            if state.keyspaces.insert(keyspace) {
                return Ok(CompactionSlot { slots: self, keyspace, _right: right });
            }
            state.wait(&self.freed);
        }
    }

    /// Returns whether a job is compacting a keyspace.
    pub(super) fn is_taken(&self, keyspace: KeyspaceId) -> bool {
        self.state.lock().keyspaces.contains(&keyspace)
    }

    /// Keyspaces under compaction.
    pub(super) fn taken(&self) -> BTreeSet<KeyspaceId> {
        self.state.lock().keyspaces.clone()
    }

    /// Prevents further jobs and waits for the running ones, which check whether to stop.
    pub(super) fn end(&self) {
        let mut state = self.state.lock();
        state.ended = true;
        self.freed.notify_all();
        while !state.keyspaces.is_empty() {
            state.wait(&self.freed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyspace_is_compacted_by_one_and_others_beside_it_until_the_end() {
        let slots = &CompactionSlots::new(LockOrder::new());
        let first = slots.try_take(KeyspaceId(16)).unwrap();
        // The rights of different keyspaces are those of different threads.
        std::thread::scope(|scope| {
            let other = |taken: fn(&CompactionSlots) -> bool| scope.spawn(move || taken(slots)).join().unwrap();
            assert!(other(|slots| slots.try_take(KeyspaceId(16)).is_none() && slots.is_taken(KeyspaceId(16))));
            assert!(other(|slots| slots.take(KeyspaceId(17)).is_ok()));
            drop(first);
            assert!(other(|slots| slots.take(KeyspaceId(16)).is_ok()));

            let last = slots.take(KeyspaceId(17)).unwrap();
            scope.spawn(|| slots.end());
            while other(|slots| slots.try_take(KeyspaceId(18)).is_some()) {
                std::thread::yield_now();
            }
            let late = other(|slots| matches!(slots.take(KeyspaceId(17)), Err(Error::Closed)));
            assert!(late, "also one that would have to wait");
            drop(last);
        });
        assert!(!slots.is_taken(KeyspaceId(17)));
    }
}
