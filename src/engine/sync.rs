//! Making the log durable: whoever waits first syncs for all who wait.
//!
//! Logs are synced oldest first (W1); their names are durable since they were created. After the first failed sync nothing more is
//! acknowledged: the system may have thrown the unsynced pages away and report success the next time.

use std::{
    io::ErrorKind,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{Commit, Engine};
use crate::{
    base::{Error, Result},
    wal::{LogFile, LogWriter},
};

/// A waiter looks again this often: its leader may have died with an error.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Who syncs, and how far.
#[derive(Debug, Default)]
pub(crate) struct Syncing {
    state: Mutex<State>,
    done: Condvar,
    /// When, in monotonic microseconds, the commits with an interval must be on the disk at the latest.
    due: Due,
}

/// The next moment at which a sync is due, and who waits for it.
#[derive(Debug)]
struct Due {
    at_us: AtomicU64,
    ended: Mutex<bool>,
    changed: Condvar,
}

impl Default for Due {
    fn default() -> Self {
        Self { at_us: AtomicU64::new(NOT_DUE), ended: Mutex::default(), changed: Condvar::new() }
    }
}

#[derive(Debug, Default)]
struct State {
    /// Every commit at or below is durable.
    synced: u64,
    /// Somebody is at it.
    leader: bool,
    /// The newest log from which commits were recovered, if nobody knows them to be on the disk: they go to segments before
    /// anything is acknowledged as durable.
    recovered: Option<u64>,
}

/// An interval sync that failed for another reason than the sync itself is tried again this much later.
const TRY_AGAIN_US: u64 = 500_000;

/// Nobody waits for a sync.
const NOT_DUE: u64 = u64::MAX;

/// Something to run before any sync of the log: what the log is going to point to must be durable first (E3).
type Hook = fn(&Engine) -> Result<()>;

/// Hooks, in order.
const BEFORE_SYNC: [Hook; 1] = [Engine::flush_recovered];

impl Syncing {
    /// At open: what the manifest and the logs prove to be durable, and whether there is more.
    pub(super) fn start(&self, synced: u64, recovered: Option<u64>) {
        *self.state.lock() = State { synced, leader: false, recovered };
    }

    /// Ends the thread that syncs at intervals.
    pub(super) fn stop(&self) {
        *self.due.ended.lock() = true;
        self.due.changed.notify_all();
    }

    /// Commits at or below are durable in segments.
    pub(super) fn raise(&self, synced: u64) {
        let mut state = self.state.lock();
        state.synced = state.synced.max(synced);
    }

    pub(super) fn synced(&self) -> u64 {
        self.state.lock().synced
    }
}

impl Engine {
    /// Returns when every commit at or below `seqno` is durable.
    pub(crate) fn sync_upto(&self, seqno: u64) -> Result<()> {
        let mut state = self.syncing.state.lock();
        loop {
            if state.synced >= seqno {
                return Ok(());
            }
            self.check_writable()?;
            if !state.leader {
                break;
            }
            self.syncing.done.wait_for(&mut state, LOOK_AGAIN);
        }
        state.leader = true;
        let synced = MutexGuard::unlocked(&mut state, || self.sync_log());
        state.leader = false;
        self.syncing.done.notify_all();
        state.synced = state.synced.max(synced?);
        Ok(())
    }

    /// Makes sure that everything visible now is synced within an interval: by the thread that waits for it, or on a machine
    /// without threads by the first commit that finds it due.
    ///
    /// An error means that a sync has failed, on a machine without threads: what only keeps it from being tried now is met again when it is due next.
    pub(super) fn sync_within(&self, every: Duration) -> Result<()> {
        let now = self.env.monotonic_us();
        let due = &self.syncing.due;
        let at = now.saturating_add(u64::try_from(every.as_micros()).unwrap_or(NOT_DUE)).min(NOT_DUE - 1);
        let before = due.at_us.fetch_min(at, Ordering::SeqCst);
        if self.runs_inline() {
            return if before <= now && self.sync_due().is_err() { self.check_not_poisoned() } else { Ok(()) };
        }
        if at < before {
            // Under the lock: the thread must not be between looking and waiting.
            drop(due.ended.lock());
            due.changed.notify_all();
        }
        Ok(())
    }

    /// Syncs what is due. What could not be synced, though syncs themselves still work, is due again a little later.
    fn sync_due(&self) -> Result<()> {
        let due = &self.syncing.due.at_us;
        // Taken back before the newest seqno is read, for every processor: a commit that comes later sets a moment of its own.
        due.swap(NOT_DUE, Ordering::SeqCst);
        self.sync_upto(self.visible()).inspect_err(|_| {
            if self.check_writable().is_ok() {
                due.fetch_min(self.env.monotonic_us().saturating_add(TRY_AGAIN_US), Ordering::SeqCst);
            }
        })
    }

    /// The thread that syncs when it is due.
    pub(super) fn sync_at_intervals(&self) {
        let due = &self.syncing.due;
        let mut ended = due.ended.lock();
        while !*ended {
            let at = due.at_us.load(Ordering::Acquire);
            let left = at.saturating_sub(self.env.monotonic_us());
            if at == NOT_DUE {
                due.changed.wait(&mut ended);
            } else if left > 0 {
                due.changed.wait_for(&mut ended, Duration::from_micros(left));
            } else {
                // A failure poisons the database, or is told by the writes that it stops: there is nobody here to tell.
                let _synced = MutexGuard::unlocked(&mut ended, || self.sync_due());
            }
        }
    }

    /// Everything that is visible now is durable when this returns.
    pub(crate) fn persist(&self) -> Result<()> {
        self.check_writable()?;
        self.settle()?;
        self.sync_upto(self.visible())?;
        self.check_there()
    }

    /// Syncs what is there, oldest first; gives the seqno up to which everything is durable.
    fn sync_log(&self) -> Result<u64> {
        for hook in BEFORE_SYNC {
            hook(self)?;
        }
        let (upto, files) = {
            let commit = self.commit.lock();
            (self.visible(), files_to_sync(&commit))
        };
        self.env.pass("sync: positions, then files");
        self.sync_files(&files)?;
        let newest = files.last().map_or(0, |(file, _)| file.number);
        self.commit.lock().unsynced.retain(|(file, _)| file.number >= newest);
        Ok(upto)
    }

    /// The same under the commit lock, for edits that must not overtake the log. What was recovered has been flushed before.
    pub(super) fn sync_log_locked(&self, commit: &mut Commit) -> Result<()> {
        self.sync_files(&files_to_sync(commit))?;
        commit.unsynced.clear();
        self.syncing.raise(self.visible());
        Ok(())
    }

    fn sync_files(&self, files: &[(Arc<LogFile>, u64)]) -> Result<()> {
        let synced = files.iter().try_for_each(|(file, end)| self.sync_file(file, *end));
        synced.inspect_err(|error| self.poison(error))
    }

    fn sync_file(&self, file: &LogFile, end: u64) -> Result<()> {
        match file.sync(end) {
            // Flushed and removed since the list was made: what it held is durable elsewhere.
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound && !self.needs_log(file.number) => {}
            synced => synced?,
        }
        self.counters.log_syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Whether a log holds what no segment does.
    fn needs_log(&self, number: u64) -> bool {
        let current = self.current();
        std::iter::once(&current.active).chain(&current.sealed).any(|table| table.log() == number)
    }

    /// After an unclean end the log was read from pages that may be clean in memory and old on the disk: what it held is
    /// flushed to new files before any sync of a log is taken as proof.
    pub(super) fn flush_recovered(&self) -> Result<()> {
        let recovered = self.syncing.state.lock().recovered;
        if let Some(newest) = recovered {
            self.flush_upto(newest)?;
            self.syncing.state.lock().recovered = None;
        }
        Ok(())
    }
}

/// Syncs the logs without taking that for proof of anything; after a failed sync nothing is tried any more.
pub(super) fn sync_bytes(commit: &Commit) -> Result<()> {
    files_to_sync(commit).iter().try_for_each(|(file, _)| file.sync_bytes())
}

fn files_to_sync(commit: &Commit) -> Vec<(Arc<LogFile>, u64)> {
    let mut files = commit.unsynced.clone();
    files.extend(commit.log.as_ref().map(|log: &LogWriter| (Arc::clone(log.file()), log.offset())));
    files
}
