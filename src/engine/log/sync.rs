//! Making the log durable: whoever waits first syncs for everyone who waits.
//!
//! Logs are synced oldest first (W1); their names are durable since they were created. After the first failed sync
//! nothing more is acknowledged: the system may have thrown the unsynced pages away and report success the next time.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::{
    base::Result,
    engine::locks::{Condvar, Held, Lock, Rank},
};

/// A waiter looks again this often: its leader may have died with an error.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Nobody waits for a sync.
const NOT_DUE: u64 = u64::MAX;

/// Who syncs, and how far.
#[derive(Debug)]
pub(in crate::engine) struct Syncing {
    state: Lock<State>,
    done: Condvar,
    due: SyncDeadline,
}

#[derive(Debug, Default)]
struct State {
    /// Every commit at or below is durable.
    synced: u64,
    /// Somebody is at it.
    leader: bool,
    /// The newest log from which commits were recovered, if nobody knows them to be on the disk: they go to segments
    /// before anything is acknowledged as durable.
    recovered: Option<u64>,
}

impl Syncing {
    /// At open: what the manifest and the logs prove to be durable, and whether there is more.
    pub(super) fn new(synced: u64, recovered: Option<u64>) -> Self {
        let state = State { synced, leader: false, recovered };
        Self { state: Lock::new(Rank::Synced, state), done: Condvar::new(), due: SyncDeadline::default() }
    }

    /// Commits at or below are durable.
    pub(in crate::engine) fn raise(&self, synced: u64) {
        let mut state = self.state.lock();
        state.synced = state.synced.max(synced);
    }

    /// The newest commit that is known to be durable.
    pub(in crate::engine) fn synced(&self) -> u64 {
        self.state.lock().synced
    }

    /// The newest log from which commits were recovered that no segment holds yet.
    pub(in crate::engine) fn recovered(&self) -> Option<u64> {
        self.state.lock().recovered
    }

    /// What was recovered is in segments.
    pub(in crate::engine) fn recovered_is_flushed(&self) {
        self.state.lock().recovered = None;
    }

    /// Returns when every commit at or below `seqno` is durable. One of those who wait runs `sync`, which gives the seqno
    /// that it has synced up to; `go_on` says whether waiting still makes sense.
    pub(super) fn upto(
        &self,
        seqno: u64,
        go_on: impl Fn() -> Result<()>,
        sync: impl FnOnce() -> Result<u64>,
    ) -> Result<()> {
        // Given back behind the lock, which it takes: also behind a panic another one may lead.
        let leading;
        let mut state = self.state.lock();
        loop {
            if state.synced >= seqno {
                return Ok(());
            }
            go_on()?;
            if !state.leader {
                break;
            }
            state.wait_for(&self.done, LOOK_AGAIN);
        }
        leading = SyncLeader(self);
        state.leader = true;
        let synced = state.unlocked(|| {
            let _right = Held::take(Rank::Leading);
            sync()
        });
        if let Ok(synced) = &synced {
            state.synced = state.synced.max(*synced);
        }
        drop(state);
        drop(leading);
        synced.map(drop)
    }
}

/// The right to sync for everyone, until it is dropped.
struct SyncLeader<'s>(&'s Syncing);

impl Drop for SyncLeader<'_> {
    fn drop(&mut self) {
        self.0.state.lock().leader = false;
        self.0.done.notify_all();
    }
}

/// The next moment, in monotonic microseconds, at which commits with an interval must be on the disk, and who waits for it.
#[derive(Debug)]
struct SyncDeadline {
    at_us: AtomicU64,
    ended: Lock<bool>,
    changed: Condvar,
}

impl Default for SyncDeadline {
    fn default() -> Self {
        Self { at_us: AtomicU64::new(NOT_DUE), ended: Lock::new(Rank::Due, false), changed: Condvar::new() }
    }
}

impl Syncing {
    /// Asks for a sync within an interval from now; whether one had been due by now already.
    pub(in crate::engine) fn within(&self, every: Duration, now: u64) -> bool {
        let at = now.saturating_add(u64::try_from(every.as_micros()).unwrap_or(NOT_DUE)).min(NOT_DUE - 1);
        let before = self.due.at_us.fetch_min(at, Ordering::SeqCst);
        if at < before {
            // Under the lock: the thread must not be between looking and waiting.
            drop(self.due.ended.lock());
            self.due.changed.notify_all();
        }
        before <= now
    }

    /// Takes back what is due, before the newest seqno is read, for every processor: a commit that comes later sets a
    /// moment of its own.
    pub(in crate::engine) fn take_due(&self) {
        self.due.at_us.swap(NOT_DUE, Ordering::SeqCst);
    }

    /// Asks for a sync at a moment, without waking the thread that waits.
    pub(in crate::engine) fn due_at(&self, at: u64) {
        self.due.at_us.fetch_min(at, Ordering::SeqCst);
    }

    /// Calls `sync` whenever one is due, until [`Syncing::end`].
    pub(in crate::engine) fn at_intervals(&self, now: impl Fn() -> u64, sync: impl Fn()) {
        let SyncDeadline { at_us, ended, changed } = &self.due;
        let mut ended = ended.lock();
        while !*ended {
            let at = at_us.load(Ordering::Acquire);
            let left = at.saturating_sub(now());
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
    fn one_syncs_for_all_who_wait_and_after_a_failure_another_one_tries() {
        let syncing = Syncing::new(3, None);
        let failed = syncing.upto(5, || Ok(()), || Err(Error::DiskFull));
        assert!(matches!(failed, Err(Error::DiskFull)) && syncing.synced() == 3);
        syncing.upto(5, || Ok(()), || Ok(9)).unwrap();
        syncing.upto(9, || Err(Error::Closed), || Err(Error::DiskFull)).unwrap();
        assert!(matches!(syncing.upto(10, || Err(Error::Closed), || Ok(10)), Err(Error::Closed)));
        assert_eq!(syncing.synced(), 9);
    }

    #[test]
    fn the_right_to_sync_goes_on_behind_a_panic() {
        let syncing = Syncing::new(0, None);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            syncing.upto(1, || Ok(()), || panic!("a broken invariant"))
        }));
        assert!(panicked.is_err());
        syncing.upto(1, || Ok(()), || Ok(1)).unwrap();
    }
}
