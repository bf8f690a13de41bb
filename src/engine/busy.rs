//! Which keyspaces a compaction is at work on: one job a keyspace, any number of keyspaces at a time.
//!
//! A job of one keyspace holds up no other: whoever compacts a large one on demand leaves the background thread free to take level 0 of all the
//! others down. (Rejected: one lock for all compactions. One call for one large keyspace then stopped the writers of every other.)

use std::collections::BTreeSet;

use parking_lot::{Condvar, Mutex};

use crate::base::{Error, KeyspaceId, Result};

/// The keyspaces under compaction.
#[derive(Debug, Default)]
pub(super) struct Busy {
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    keyspaces: BTreeSet<KeyspaceId>,
    /// No further job begins.
    ended: bool,
}

/// The right to compact a keyspace, until it is dropped.
#[derive(Debug)]
pub(super) struct Compacting<'a> {
    busy: &'a Busy,
    keyspace: KeyspaceId,
}

impl Drop for Compacting<'_> {
    fn drop(&mut self) {
        self.busy.state.lock().keyspaces.remove(&self.keyspace);
        self.busy.freed.notify_all();
    }
}

impl Busy {
    /// The right to compact a keyspace, if nobody does.
    pub(super) fn try_take(&self, keyspace: KeyspaceId) -> Option<Compacting<'_>> {
        let mut state = self.state.lock();
        let taken = !state.ended && state.keyspaces.insert(keyspace);
        // Not made before it is known: dropping one gives the right back.
        taken.then(|| Compacting { busy: self, keyspace })
    }

    /// The right to compact a keyspace; waits for the job that has it.
    pub(super) fn take(&self, keyspace: KeyspaceId) -> Result<Compacting<'_>> {
        let mut state = self.state.lock();
        loop {
            if state.ended {
                return Err(Error::Closed);
            }
            if state.keyspaces.insert(keyspace) {
                return Ok(Compacting { busy: self, keyspace });
            }
            self.freed.wait(&mut state);
        }
    }

    /// Whether a job is at work on a keyspace.
    pub(super) fn is_taken(&self, keyspace: KeyspaceId) -> bool {
        self.state.lock().keyspaces.contains(&keyspace)
    }

    /// Lets no further job begin, and waits for those at work: they look whether they should stop.
    pub(super) fn end(&self) {
        let mut state = self.state.lock();
        state.ended = true;
        self.freed.notify_all();
        while !state.keyspaces.is_empty() {
            self.freed.wait(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyspace_is_compacted_by_one_and_others_beside_it_until_the_end() {
        let busy = Busy::default();
        let first = busy.try_take(KeyspaceId(16)).unwrap();
        assert!(busy.try_take(KeyspaceId(16)).is_none() && busy.is_taken(KeyspaceId(16)));
        let second = busy.take(KeyspaceId(17)).unwrap();
        drop(first);
        drop(busy.take(KeyspaceId(16)).unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| busy.end());
            while busy.try_take(KeyspaceId(18)).is_some() {
                std::thread::yield_now();
            }
            assert!(matches!(busy.take(KeyspaceId(17)), Err(Error::Closed)), "also one that would have to wait");
            drop(second);
        });
        assert!(!busy.is_taken(KeyspaceId(17)));
    }
}
