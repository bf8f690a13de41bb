//! Group sync of the log: the first waiter syncs for all waiters.
//!
//! Logs are synced oldest first (W1); their names have been durable since they were created. After the first failed
//! sync nothing more is acknowledged: the system may have dropped the unsynced pages and may report success the next
//! time.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::{
    base::{FileNumber, Micros, Result, Seqno},
    engine::locks::{Condvar, Held, Lock, LockOrder, Rank},
};

/// Interval at which a waiter checks again: its leader may have failed.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Deadline when no sync is due.
const NOT_DUE: u64 = u64::MAX;

/// Progress and leader of syncing, and the next deadline.
#[derive(Debug)]
pub(in crate::engine) struct Syncing {
    order: LockOrder,
    state: Lock<State>,
    done: Condvar,
    due: SyncDeadline,
}

#[derive(Debug, Default)]
struct State {
    /// Every commit at or below this seqno is durable.
    synced: Seqno,
    /// Whether a thread is syncing.
    leader: bool,
    /// Newest log from which commits were recovered that are not known to be on the disk: they are flushed to segments
    /// before anything is acknowledged as durable.
    recovered: Option<FileNumber>,
}

impl Syncing {
    /// Creates the state at open: the seqno that the manifest and the logs prove durable, and the newest log that holds
    /// more.
    pub(super) fn new(order: LockOrder, synced: Seqno, recovered: Option<FileNumber>) -> Self {
        let state = State { synced, leader: false, recovered };
        Self { order, state: order.lock(Rank::Synced, state), done: Condvar::new(), due: SyncDeadline::new(order) }
    }

    /// Records that commits at or below `synced` are durable.
    pub(in crate::engine) fn raise(&self, synced: Seqno) {
        let mut state = self.state.lock();
        state.synced = state.synced.max(synced);
    }

    /// Returns the newest commit known to be durable.
    pub(in crate::engine) fn synced(&self) -> Seqno {
        self.state.lock().synced
    }

    /// Returns the newest log with recovered commits that no segment holds yet.
    pub(in crate::engine) fn recovered(&self) -> Option<FileNumber> {
        self.state.lock().recovered
    }

    /// Records that the recovered commits are in segments.
    pub(in crate::engine) fn recovered_is_flushed(&self) {
        self.state.lock().recovered = None;
    }

    /// Waits until every commit at or below `seqno` is durable, or this thread is to make it so, for all that wait:
    /// then returns the right to sync. `go_on` fails once waiting is pointless.
    pub(super) fn lead(&self, seqno: Seqno, go_on: impl Fn() -> Result<()>) -> Result<Option<SyncLeader<'_>>> {
        let mut state = self.state.lock();
        loop {
            if state.synced >= seqno {
                return Ok(None);
            }
            go_on()?;
            if !state.leader {
                break;
            }
            state.wait_for(&self.done, LOOK_AGAIN);
        }
        state.leader = true;
        drop(state);
        Ok(Some(SyncLeader { syncing: self, _right: self.order.hold(Rank::Leading) }))
    }
}

/// The right to sync for all waiters, until it is dropped: then, after an error or a panic too, another may lead.
pub(super) struct SyncLeader<'s> {
    syncing: &'s Syncing,
    _right: Held,
}

impl SyncLeader<'_> {
    /// Records what was synced, and wakes those who wait for it.
    pub(super) fn end(self, synced: Seqno) {
        self.syncing.raise(synced);
    }
}

impl Drop for SyncLeader<'_> {
    fn drop(&mut self) {
        self.syncing.state.lock().leader = false;
        self.syncing.done.notify_all();
    }
}

/// Next moment, in monotonic microseconds, at which commits with an interval must be on the disk, and the thread that
/// waits for it.
#[derive(Debug)]
struct SyncDeadline {
    at_us: AtomicU64,
    ended: Lock<bool>,
    changed: Condvar,
}

impl SyncDeadline {
    fn new(order: LockOrder) -> Self {
        Self { at_us: AtomicU64::new(NOT_DUE), ended: order.lock(Rank::Due, false), changed: Condvar::new() }
    }
}

impl Syncing {
    /// Requests a sync within an interval from now; returns whether one was due already.
    pub(in crate::engine) fn within(&self, every: Duration, now: Micros) -> bool {
        let at = now.saturating_add(Micros::of_duration(every)).0.min(NOT_DUE - 1);
        let before = self.due.at_us.fetch_min(at, Ordering::SeqCst);
        if at < before {
            // Takes the lock, so that the thread is not between its check and its wait.
            drop(self.due.ended.lock());
            self.due.changed.notify_all();
        }
        before <= now.0
    }

    /// Clears the deadline. On every processor this comes before the read of the newest seqno: a later commit sets a
    /// deadline of its own.
    pub(in crate::engine) fn take_due(&self) {
        self.due.at_us.swap(NOT_DUE, Ordering::SeqCst);
    }

    /// Requests a sync at a moment, without waking the waiting thread.
    pub(in crate::engine) fn due_at(&self, at: Micros) {
        self.due.at_us.fetch_min(at.0, Ordering::SeqCst);
    }

    /// Calls `sync` whenever one is due, until [`Syncing::end`].
    pub(in crate::engine) fn at_intervals(&self, now: impl Fn() -> Micros, sync: impl Fn()) {
        let SyncDeadline { at_us, ended, changed } = &self.due;
        let mut ended = ended.lock();
        while !*ended {
            let at = at_us.load(Ordering::Acquire);
            let left = at.saturating_sub(now().0);
            if at == NOT_DUE {
                ended.wait(changed);
            } else if left > 0 {
                ended.wait_for(changed, Duration::from_micros(left));
            } else {
                ended.unlocked(&sync);
            }
        }
    }

    /// Ends the thread that syncs at intervals.
    pub(in crate::engine) fn end(&self) {
        *self.due.ended.lock() = true;
        self.due.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Error;

    #[test]
    fn one_syncs_for_all_who_wait_and_after_a_failure_another_one_leads() {
        let syncing = Syncing::new(LockOrder::new(), Seqno(3), None);
        let closed = || Err(Error::Closed);
        // Dropped without an end, as after an error.
        drop(syncing.lead(Seqno(5), || Ok(())).unwrap().unwrap());
        assert_eq!(syncing.synced(), Seqno(3));
        syncing.lead(Seqno(5), || Ok(())).unwrap().unwrap().end(Seqno(9));
        assert!(syncing.lead(Seqno(9), closed).unwrap().is_none());
        assert!(matches!(syncing.lead(Seqno(10), closed), Err(Error::Closed)));
        assert_eq!(syncing.synced(), Seqno(9));
    }

    #[test]
    fn the_right_to_sync_goes_on_behind_a_panic() {
        let syncing = Syncing::new(LockOrder::new(), Seqno(0), None);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _leader = syncing.lead(Seqno(1), || Ok(())).unwrap();
            panic!("a broken invariant");
        }));
        assert!(panicked.is_err());
        syncing.lead(Seqno(1), || Ok(())).unwrap().unwrap().end(Seqno(1));
    }

    #[test]
    fn who_waits_for_the_one_who_syncs_is_woken_by_what_that_one_synced() {
        let syncing = Syncing::new(LockOrder::new(), Seqno(0), None);
        let leader = syncing.lead(Seqno(1), || Ok(())).unwrap().unwrap();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| syncing.lead(Seqno(2), || Ok(())).unwrap().is_none());
            leader.end(Seqno(2));
            assert!(waits.join().unwrap(), "it found its commit synced");
        });
    }
}
