//! Pending work, the errors that it met, and the threads that wait for it: the meeting point of writers and background
//! threads.
//!
//! ```text
//!   a write seals a memtable · a file loses its last reader · a view or pin ends
//!        │ wake                                                  ▲ wake_writers
//!        ▼                                                       │
//!   threads wait here ──▶ a step of flush or compaction ──▶ room, or trouble of a flush or of one keyspace
//! ```

use std::{collections::BTreeMap, time::Duration};

use super::locks::{Condvar, Lock, LockOrder, Rank};
use crate::base::{Error, KeyspaceId, Micros};

/// Time after an error until a worker tries again.
pub(super) const TRY_AGAIN: Duration = Duration::from_millis(500);

/// The state that background work and writers share.
#[derive(Debug)]
pub(crate) struct Work {
    state: Lock<State>,
    changed: Condvar,
    /// Notified when background work has made room.
    room: Condvar,
    waiting: Lock<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Incremented whenever there may be work.
    round: u64,
    stop: bool,
    flush_trouble: Option<Error>,
    collect_trouble: Option<Error>,
    /// Last error of the compactions of each keyspace.
    compact_trouble: BTreeMap<KeyspaceId, Trouble>,
    next_trouble: u64,
}

#[derive(Debug)]
struct Trouble {
    error: Error,
    /// In monotonic microseconds.
    since: Micros,
    /// Increases from one trouble to the next.
    number: u64,
}

impl Work {
    pub(super) fn new(order: LockOrder) -> Self {
        Self {
            state: order.lock(Rank::Work, State::default()),
            changed: Condvar::new(),
            room: Condvar::new(),
            waiting: order.lock(Rank::Room, ()),
        }
    }

    /// Announces that there may be work.
    pub(super) fn wake(&self) {
        self.state.lock().round += 1;
        self.changed.notify_all();
    }

    /// Asks the threads to end.
    pub(super) fn stop(&self) {
        self.state.lock().stop = true;
        self.changed.notify_all();
    }

    /// Returns the current round; `None` once the threads are to end.
    pub(super) fn round(&self) -> Option<u64> {
        let state = self.state.lock();
        (!state.stop).then_some(state.round)
    }

    /// Waits until there may be work newer than `round`, for at most `longest`, or until the threads are to end.
    pub(super) fn rest(&self, round: u64, longest: Option<Duration>) {
        let mut state = self.state.lock();
        if state.round != round || state.stop {
            return;
        }
        match longest {
            Some(longest) => state.wait_for(&self.changed, longest),
            None => state.wait(&self.changed),
        }
    }

    /// Waits for at most `longest`, or until something changes or the threads are to end.
    pub(super) fn pause(&self, longest: Duration) {
        let mut state = self.state.lock();
        if !state.stop {
            state.wait_for(&self.changed, longest);
        }
    }

    /// Waits a while after an error, or until the threads are to end.
    pub(super) fn rest_after_error(&self) {
        let mut state = self.state.lock();
        if !state.stop {
            state.wait_for(&self.changed, TRY_AGAIN);
        }
    }

    /// Wakes the writers that wait for room.
    pub(super) fn wake_writers(&self) {
        drop(self.waiting.lock());
        self.room.notify_all();
    }

    /// Waits for room, for at most `longest`.
    pub(super) fn wait_for_room(&self, longest: Duration) {
        self.waiting.lock().wait_for(&self.room, longest);
    }

    /// Returns the error that keeps background work from going on, if there is one.
    pub(super) fn trouble(&self) -> Option<Error> {
        let state = self.state.lock();
        let compactions = || state.compact_trouble.values().next().map(|trouble| &trouble.error);
        let met = state.flush_trouble.as_ref().or_else(compactions).or(state.collect_trouble.as_ref());
        met.map(Error::duplicate)
    }

    /// Returns the error that blocks writers of these keyspaces, if there is one.
    pub(super) fn trouble_for(&self, mut keyspaces: impl Iterator<Item = KeyspaceId>) -> Option<Error> {
        let state = self.state.lock();
        let compactions = || keyspaces.find_map(|id| state.compact_trouble.get(&id)).map(|trouble| &trouble.error);
        state.flush_trouble.as_ref().or_else(compactions).map(Error::duplicate)
    }

    pub(super) fn record_flush(&self, trouble: Option<Error>) {
        self.state.lock().flush_trouble = trouble;
    }

    /// Returns whether the last collection of chunks has failed.
    pub(super) fn has_collection_failed(&self) -> bool {
        self.state.lock().collect_trouble.is_some()
    }

    /// Records how a collection of chunks has ended.
    pub(super) fn record_collection(&self, met: Option<&Error>) {
        self.state.lock().collect_trouble = met.map(Error::duplicate);
    }

    /// Records how a compaction of a keyspace has ended, at a time in monotonic microseconds.
    pub(super) fn record_compaction(&self, keyspace: KeyspaceId, met: Option<&Error>, now: Micros) {
        let mut state = self.state.lock();
        match met {
            Some(error) => {
                let number = state.next_trouble;
                state.next_trouble += 1;
                let trouble = Trouble { error: error.duplicate(), since: now, number };
                drop(state.compact_trouble.insert(keyspace, trouble));
            }
            None => drop(state.compact_trouble.remove(&keyspace)),
        }
    }

    /// Returns the error of a compaction that is not to be retried yet.
    pub(super) fn failed_just_now(&self, keyspace: KeyspaceId, now: Micros) -> Option<Error> {
        let state = self.state.lock();
        let trouble = state.compact_trouble.get(&keyspace)?;
        let rests = now.saturating_sub(trouble.since).to_duration() < TRY_AGAIN;
        rests.then(|| trouble.error.duplicate())
    }

    /// Returns the number of the next trouble.
    pub(super) fn next_trouble(&self) -> u64 {
        self.state.lock().next_trouble
    }

    /// Keeps the troubles for which `stays`, given the keyspace and the number, returns `true`.
    pub(super) fn keep_troubles(&self, stays: impl Fn(KeyspaceId, u64) -> bool) {
        self.state.lock().compact_trouble.retain(|id, trouble| stays(*id, trouble.number));
    }
}
