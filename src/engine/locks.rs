//! The locks of the engine, and the order in which they are taken.
//!
//! A thread that holds a lock takes only locks that stand below it in this table. A debug build checks that at every
//! lock and panics with both names; a release build records nothing.
//!
//! | rank | part | guards | work done under it |
//! | --- | --- | --- | --- |
//! | `Threads` | open | the threads of the database, and the right to close | joining them; closing |
//! | `Leading` | log | the right to sync the log for all waiters | flushes what was recovered; syncs logs |
//! | `Collecting` | jobs | the right to condemn packs | the whole collection, with its wait for writers |
//! | `Flushing` | jobs | the right to flush, and to close | the whole flush; closing |
//! | `Compacting` | jobs | the right to compact one keyspace | the whole compaction |
//! | `Manifest` | files | the log of edits | appending and syncing an edit; reading it back to verify it |
//! | `Commit` | log | log writer, active memtable, next seqno, recent batches | appending; rotating; of a decision, under `Manifest`: syncing the log, then its edit; folding long chains |
//! | `Registry` | files | the registered readers and pins | fixing the moment of a view; building the next superversion |
//! | `ViewFiles` | files | the files that one view reads next | none |
//! | `Current` | files | the superversion that new reads take | building the next one |
//! | `Epoch` | files | the pack of a memtable and its places | creating the pack and making its name durable; writing what was appended; sealing it |
//! | `Clock` | clock | the time of the database | none |
//! | `Policies`, `Strategies` | catalogue | custom policies and merge strategies of this process | none |
//! | `Slots` | jobs | the keyspaces under compaction | none |
//! | `Rechunked` | jobs | the keyspaces whose values are being cut anew | none |
//! | `Idle`, `Cleared` | jobs | start of the time without commits; when keyspaces were cleared out | none |
//! | `Reserved` | chunk store | ids of chunks that are being stored | none |
//! | `Writers` | chunk store | writers of large values under way, condemned packs | none |
//! | `Trials` | chunk store | what each side of a trial has stored | none |
//! | `Damaged` | chunk store | chunks that were found damaged | none |
//! | `Coders`, `Cache` | chunk store | coders to be used again; decoded chunks | none |
//! | `Doubtful` | files | segments of edits that failed | none |
//! | `RecoveredPacks` | files | the packs of a recovery, until they are needed no more | none |
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
    Collecting,
    Flushing,
    Compacting,
    Manifest,
    Commit,
    Registry,
    ViewFiles,
    Current,
    Epoch,
    Clock,
    Policies,
    Strategies,
    Slots,
    Rechunked,
    Idle,
    Cleared,
    Reserved,
    Writers,
    Damaged,
    Trials,
    Coders,
    Cache,
    Doubtful,
    RecoveredPacks,
    Removing,
    Unread,
    Synced,
    Due,
    Poison,
    Work,
    Room,
}

/// The order of the locks of one database: those of another database have nothing to do with it, even on one thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct LockOrder {
    /// Number of the database in this process.
    #[cfg(debug_assertions)]
    database: u64,
}

/// Token that records, while it lives, that this thread holds a lock or a right of a rank. Costs nothing in a release
/// build.
#[derive(Debug)]
pub(super) struct Held {
    #[cfg(debug_assertions)]
    place: (u64, Rank),
}

#[cfg(debug_assertions)]
mod order {
    use std::{
        cell::RefCell,
        sync::atomic::{AtomicU64, Ordering},
    };

    use crate::engine::locks::{Held, LockOrder, Rank};

    // Databases and ranks that this thread holds. An ending thread no longer has a list: what its last handles lock is
    // not checked.
    thread_local!(static HELD: RefCell<Vec<(u64, Rank)>> = const { RefCell::new(Vec::new()) });

    impl LockOrder {
        pub(in crate::engine) fn new() -> Self {
            static DATABASES: AtomicU64 = AtomicU64::new(0);
            Self { database: DATABASES.fetch_add(1, Ordering::Relaxed) }
        }

        /// Records that this thread is about to hold a lock or a right.
        pub(in crate::engine) fn hold(self, rank: Rank) -> Held {
            let place = (self.database, rank);
            let _checked = HELD.try_with(|held| {
                let mut held = held.borrow_mut();
                let last = held.iter().filter(|(database, _)| *database == self.database).map(|(_, rank)| rank).max();
                assert!(last.is_none_or(|last| *last < rank), "{rank:?} is locked under {last:?}");
                held.push(place);
            });
            Held { place }
        }
    }

    /// What this thread holds, set aside until this is dropped.
    pub(super) struct Aside(Vec<(u64, Rank)>);

    impl Aside {
        pub(super) fn take() -> Self {
            Self(HELD.try_with(RefCell::take).unwrap_or_default())
        }
    }

    impl Drop for Aside {
        fn drop(&mut self) {
            let _given_back = HELD.try_with(|held| held.replace(std::mem::take(&mut self.0)));
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            let _checked = HELD.try_with(|held| {
                let mut held = held.borrow_mut();
                if let Some(at) = held.iter().rposition(|place| *place == self.place) {
                    held.remove(at);
                }
            });
        }
    }
}

#[cfg(not(debug_assertions))]
impl LockOrder {
    pub(super) fn new() -> Self {
        Self {}
    }

    #[inline]
    pub(super) fn hold(self, _rank: Rank) -> Held {
        Held {}
    }
}

impl LockOrder {
    pub(super) const fn lock<T>(self, rank: Rank, value: T) -> Lock<T> {
        Lock { order: self, rank, inner: parking_lot::Mutex::new(value) }
    }

    pub(super) const fn rw_lock<T>(self, rank: Rank, value: T) -> RwLock<T> {
        RwLock { order: self, rank, inner: parking_lot::RwLock::new(value) }
    }
}

/// Runs what another thread could run at this moment: its locks have an order of their own.
pub(super) fn as_another_thread<T>(run: impl FnOnce() -> T) -> T {
    #[cfg(debug_assertions)]
    let _given_back = order::Aside::take();
    run()
}

/// A mutex that owns what it guards, and has a place in the order.
#[derive(Debug)]
pub(super) struct Lock<T> {
    order: LockOrder,
    rank: Rank,
    inner: parking_lot::Mutex<T>,
}

impl<T> Lock<T> {
    /// The value, for its only owner: no lock is taken.
    pub(super) fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }

    #[inline]
    pub(super) fn lock(&self) -> Guard<'_, T> {
        let held = self.order.hold(self.rank);
        Guard { inner: self.inner.lock(), order: self.order, rank: self.rank, held: Some(held) }
    }
}

/// Access to what a lock guards, until it is dropped.
#[derive(Debug)]
pub(super) struct Guard<'l, T> {
    inner: parking_lot::MutexGuard<'l, T>,
    order: LockOrder,
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
        self.held = Some(self.order.hold(self.rank));
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
    order: LockOrder,
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
    #[inline]
    pub(super) fn read(&self) -> ReadGuard<'_, T> {
        let held = self.order.hold(self.rank);
        ReadGuard { inner: self.inner.read(), _held: held }
    }

    pub(super) fn write(&self) -> WriteGuard<'_, T> {
        let held = self.order.hold(self.rank);
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
        let order = LockOrder::new();
        let (manifest, commit) = (order.lock(Rank::Manifest, 1), order.lock(Rank::Commit, 2));
        let current = order.rw_lock(Rank::Current, 3);
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
        let order = LockOrder::new();
        let (manifest, commit) = (order.lock(Rank::Manifest, ()), order.lock(Rank::Commit, ()));
        let _first = commit.lock();
        drop(manifest.lock());
    }

    #[test]
    fn what_another_thread_could_run_has_an_order_of_its_own() {
        let order = LockOrder::new();
        let (manifest, commit) = (order.lock(Rank::Manifest, 1), order.lock(Rank::Commit, ()));
        let held = commit.lock();
        assert_eq!(as_another_thread(|| *manifest.lock()), 1);
        drop(held);
    }

    #[test]
    fn without_the_lock_anything_may_be_locked() {
        let order = LockOrder::new();
        let (flushing, synced) = (order.lock(Rank::Flushing, 1), order.lock(Rank::Synced, 2));
        let mut state = synced.lock();
        assert_eq!(state.unlocked(|| *flushing.lock()), 1);
        *state += 1;
        drop(state);
        assert_eq!(*synced.lock(), 3);
    }

    #[test]
    fn two_databases_on_one_thread_have_nothing_to_do_with_each_other() {
        let (one, other) = (LockOrder::new(), LockOrder::new());
        let (commit, manifest) = (one.lock(Rank::Commit, 1), other.lock(Rank::Manifest, 2));
        let held = commit.lock();
        assert_eq!(*held + *manifest.lock(), 3);
    }
}
