//! Making the log durable: whoever waits first syncs for all who wait.
//!
//! Logs are synced oldest first (W1), the names of new ones before their bytes count. After the first failed sync nothing more is
//! acknowledged: the system may have thrown the unsynced pages away and report success the next time.

use std::{sync::Arc, time::Duration};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{Commit, Engine};
use crate::{
    base::Result,
    wal::{LogFile, LogWriter},
};

/// A waiter looks again this often: its leader may have died with an error.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Who syncs, and how far.
#[derive(Debug, Default)]
pub(crate) struct Syncing {
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Every commit at or below is durable.
    synced: u64,
    /// Somebody is at it.
    leader: bool,
    /// Commits were recovered from a log that nobody knows to be on the disk: they go to segments before anything is
    /// acknowledged as durable.
    recovered: bool,
    /// When the last sync began, for intervals without a thread of their own.
    last_us: u64,
}

/// Something to run before any sync of the log: what the log is going to point to must be durable first (E3).
type Hook = fn(&Engine) -> Result<()>;

/// Hooks, in order.
const BEFORE_SYNC: [Hook; 1] = [Engine::flush_recovered];

impl Syncing {
    /// At open: what the manifest and the logs prove to be durable, and whether there is more.
    pub(super) fn start(&self, synced: u64, recovered: bool, now_us: u64) {
        *self.state.lock() = State { synced, leader: false, recovered, last_us: now_us };
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
        state.last_us = self.env.monotonic_us();
        let synced = MutexGuard::unlocked(&mut state, || self.sync_log());
        state.leader = false;
        self.syncing.done.notify_all();
        state.synced = state.synced.max(synced?);
        Ok(())
    }

    /// Syncs when an interval has passed since the last time.
    pub(super) fn sync_if_due(&self, every: Duration) -> Result<()> {
        let due = {
            let state = self.syncing.state.lock();
            let passed = self.env.monotonic_us().saturating_sub(state.last_us);
            u128::from(passed) >= every.as_micros()
        };
        if due { self.sync_upto(self.visible()) } else { Ok(()) }
    }

    /// Everything that is visible now is durable when this returns.
    pub(crate) fn persist(&self) -> Result<()> {
        self.check_writable()?;
        self.sync_upto(self.visible())
    }

    /// Syncs what is there, oldest first; gives the seqno up to which everything is durable.
    fn sync_log(&self) -> Result<u64> {
        for hook in BEFORE_SYNC {
            hook(self)?;
        }
        let (upto, files, names_dirty) = {
            let mut commit = self.commit.lock();
            let files = files_to_sync(&commit);
            (self.visible(), files, std::mem::take(&mut commit.names_dirty))
        };
        self.sync_files(&files, names_dirty)?;
        let newest = files.last().map_or(0, |(file, _)| file.number);
        self.commit.lock().unsynced.retain(|(file, _)| file.number >= newest);
        Ok(upto)
    }

    /// The same under the commit lock, for edits that must not overtake the log.
    pub(super) fn sync_log_locked(&self, commit: &mut Commit) -> Result<()> {
        let files = files_to_sync(commit);
        self.sync_files(&files, std::mem::take(&mut commit.names_dirty))?;
        commit.unsynced.clear();
        self.syncing.raise(self.visible());
        Ok(())
    }

    fn sync_files(&self, files: &[(Arc<LogFile>, u64)], names_dirty: bool) -> Result<()> {
        let names = if names_dirty { self.sync_log_names() } else { Ok(()) };
        let synced = names.and_then(|()| files.iter().try_for_each(|(file, end)| self.sync_file(file, *end)));
        synced.inspect_err(|error| self.poison(error))
    }

    fn sync_file(&self, file: &LogFile, end: u64) -> Result<()> {
        file.sync(end)?;
        self.counters.log_syncs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    /// After an unclean end the log was read from pages that may be clean in memory and old on the disk: what it held is
    /// flushed to new files before any sync of a log is taken as proof.
    pub(super) fn flush_recovered(&self) -> Result<()> {
        if self.syncing.state.lock().recovered {
            while self.flush_oldest()? {}
            self.syncing.state.lock().recovered = false;
        }
        Ok(())
    }
}

fn files_to_sync(commit: &Commit) -> Vec<(Arc<LogFile>, u64)> {
    let mut files = commit.unsynced.clone();
    files.extend(commit.log.as_ref().map(|log: &LogWriter| (Arc::clone(log.file()), log.offset())));
    files
}
