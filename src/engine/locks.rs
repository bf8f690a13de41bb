//! The locks of the engine, and the order in which they are taken.
//!
//! A thread that holds a lock takes only locks that stand below it in this table. A debug build checks that at every
//! lock and panics with both names; a release build records nothing.
//!
//! | rank | part | guards | work done under it |
//! | --- | --- | --- | --- |
//! | `Threads` | open | the threads of the database, and the right to close | joining them; closing |
//! | `Leading` | log | the right to sync the log for all waiters | flushes what was recovered; syncs logs |
//! | `Flushing` | jobs | the right to flush, and to close | the whole flush; closing |
//! | `Compacting` | jobs | the right to compact one keyspace | the whole compaction |
//! | `Manifest` | files | the log of edits | appending and syncing an edit; reading it back to verify it |
//! | `Commit` | log | log writer, active memtable, next seqno, recent batches | appending; rotating; syncing before a decision; folding long chains |
//! | `Registry` | files | the registered readers and pins | none |
//! | `ViewFiles` | files | the files that one view reads next | none |
//! | `Current` | files | the superversion that new reads take | none |
//! | `Clock` | clock | the time of the database | none |
//! | `Policies`, `Strategies` | catalogue | custom policies and merge strategies of this process | none |
//! | `Slots` | jobs | the keyspaces under compaction | none |
//! | `Idle`, `Cleared` | jobs | start of the time without commits; when keyspaces were cleared out | none |
//! | `Doubtful` | files | segments of edits that failed | none |
//! | `Removing` | files | the right to remove files | removing files |
//! | `Unread` | files | names of files without readers | none |
//! | `Synced` | log | how far the log is synced, and who syncs | none |
//! | `Due` | log | the end of the thread that syncs at intervals | none |
//! | `Poison` | health | why writes have stopped | none |
//! | `Work` | work | pending work, and the errors that it met | none |
//! | `Room` | work | nothing: writers wait under it | none |
//!
//! `Leading` and `Compacting` are rights recorded in a flag or a set; they count as held like a lock. While a thread
//! waits under a lock for another thread, it holds that lock and rights alone: closing waits under `Flushing` for
//! compactions to end, and a flush under it for the threads that sync its files. Locks below the engine (a memtable's
//! ranges, spans that hold nothing, the pool of open files, the simulated machine) are leaves: no lock of this table is
//! taken under them.

use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};

pub(super) use parking_lot::Condvar;

/// The place of a lock in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    Threads,
    Leading,
    Flushing,
    Compacting,
    Manifest,
    Commit,
    Registry,
    ViewFiles,
    Current,
    Clock,
    Policies,
    Strategies,
    Slots,
    Idle,
    Cleared,
    Doubtful,
    Removing,
    Unread,
    Synced,
    Due,
    Poison,
    Work,
    Room,
}

/// Token that records, while it lives, that this thread holds a lock or a right of a rank. Costs nothing in a release
/// build.
#[derive(Debug)]
pub(super) struct Held {
    #[cfg(debug_assertions)]
    rank: Rank,
}

#[cfg(debug_assertions)]
mod order {
    use std::cell::RefCell;

    use crate::engine::locks::{Held, Rank};

    thread_local!(static HELD: RefCell<Vec<Rank>> = const { RefCell::new(Vec::new()) });

    impl Held {
        pub(in crate::engine) fn take(rank: Rank) -> Self {
            // An ending thread no longer has a list: what its last handles lock is not checked.
            let _checked = HELD.try_with(|held| {
                let mut held = held.borrow_mut();
                let last = held.iter().max();
                assert!(last.is_none_or(|last| *last < rank), "{rank:?} is locked under {last:?}");
                held.push(rank);
            });
            Self { rank }
        }
    }

    /// Ranks that this thread holds, set aside until this is dropped.
    pub(super) struct Aside(Vec<Rank>);

    impl Aside {
        pub(super) fn take() -> Self {
            Self(HELD.with(RefCell::take))
        }
    }

    impl Drop for Aside {
        fn drop(&mut self) {
            HELD.with(|held| held.replace(std::mem::take(&mut self.0)));
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            let _checked = HELD.try_with(|held| {
                let mut held = held.borrow_mut();
                if let Some(place) = held.iter().rposition(|rank| *rank == self.rank) {
                    held.remove(place);
                }
            });
        }
    }
}

/// Runs what another thread could run at this moment: its locks have an order of their own.
pub(super) fn as_another_thread<T>(run: impl FnOnce() -> T) -> T {
    #[cfg(debug_assertions)]
    let _given_back = order::Aside::take();
    run()
}

#[cfg(not(debug_assertions))]
impl Held {
    #[inline]
    pub(super) fn take(_rank: Rank) -> Self {
        Self {}
    }
}

/// A mutex that owns what it guards, and has a place in the order.
#[derive(Debug)]
pub(super) struct Lock<T> {
    rank: Rank,
    inner: parking_lot::Mutex<T>,
}

impl<T> Lock<T> {
    pub(super) const fn new(rank: Rank, value: T) -> Self {
        Self { rank, inner: parking_lot::Mutex::new(value) }
    }

    /// The value, for its only owner: no lock is taken.
    pub(super) fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }

    #[inline]
    pub(super) fn lock(&self) -> Guard<'_, T> {
        let held = Held::take(self.rank);
        Guard { inner: self.inner.lock(), rank: self.rank, held: Some(held) }
    }
}

/// Access to what a lock guards, until it is dropped.
#[derive(Debug)]
pub(super) struct Guard<'l, T> {
    inner: parking_lot::MutexGuard<'l, T>,
    rank: Rank,
    held: Option<Held>,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

impl<T> Guard<'_, T> {
    /// Runs `run` without the lock, then takes it again.
    pub(super) fn unlocked<R>(&mut self, run: impl FnOnce() -> R) -> R {
        self.held = None;
        let ran = parking_lot::MutexGuard::unlocked(&mut self.inner, run);
        self.held = Some(Held::take(self.rank));
        ran
    }

    /// Waits, without the lock, to be woken.
    pub(super) fn wait(&mut self, until: &Condvar) {
        until.wait(&mut self.inner);
    }

    /// Waits, without the lock, to be woken, for at most `longest`.
    pub(super) fn wait_for(&mut self, until: &Condvar, longest: Duration) {
        until.wait_for(&mut self.inner, longest);
    }
}

/// A lock for one writer or several readers, with a place in the order.
#[derive(Debug)]
pub(super) struct RwLock<T> {
    rank: Rank,
    inner: parking_lot::RwLock<T>,
}

/// Shared access to what a lock guards.
#[derive(Debug)]
pub(super) struct ReadGuard<'l, T> {
    inner: parking_lot::RwLockReadGuard<'l, T>,
    _held: Held,
}

/// Exclusive access to what a lock guards.
#[derive(Debug)]
pub(super) struct WriteGuard<'l, T> {
    inner: parking_lot::RwLockWriteGuard<'l, T>,
    _held: Held,
}

impl<T> RwLock<T> {
    pub(super) const fn new(rank: Rank, value: T) -> Self {
        Self { rank, inner: parking_lot::RwLock::new(value) }
    }

    #[inline]
    pub(super) fn read(&self) -> ReadGuard<'_, T> {
        let held = Held::take(self.rank);
        ReadGuard { inner: self.inner.read(), _held: held }
    }

    pub(super) fn write(&self) -> WriteGuard<'_, T> {
        let held = Held::take(self.rank);
        WriteGuard { inner: self.inner.write(), _held: held }
    }
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_taken_downwards() {
        let (manifest, commit) = (Lock::new(Rank::Manifest, 1), Lock::new(Rank::Commit, 2));
        let current = RwLock::new(Rank::Current, 3);
        let first = manifest.lock();
        let second = commit.lock();
        assert_eq!(*first + *second + *current.read(), 6);
        // Given back in any order.
        drop(first);
        drop(second);
        assert_eq!(*manifest.lock(), 1);
    }

    #[test]
    #[should_panic(expected = "Manifest is locked under Some(Commit)")]
    fn a_lock_that_is_taken_upwards_ends_a_debug_build() {
        let (manifest, commit) = (Lock::new(Rank::Manifest, ()), Lock::new(Rank::Commit, ()));
        let _first = commit.lock();
        drop(manifest.lock());
    }

    #[test]
    fn what_another_thread_could_run_has_an_order_of_its_own() {
        let (manifest, commit) = (Lock::new(Rank::Manifest, 1), Lock::new(Rank::Commit, ()));
        let held = commit.lock();
        assert_eq!(as_another_thread(|| *manifest.lock()), 1);
        drop(held);
    }

    #[test]
    fn without_the_lock_anything_may_be_locked() {
        let (flushing, synced) = (Lock::new(Rank::Flushing, 1), Lock::new(Rank::Synced, 2));
        let mut state = synced.lock();
        assert_eq!(state.unlocked(|| *flushing.lock()), 1);
        *state += 1;
        drop(state);
        assert_eq!(*synced.lock(), 3);
    }
}
