//! Background work: named threads that flush, compact and sync, or single steps on the caller's thread.
//!
//! One function is the step of both ([`Engine::step`]). A thread steps while there is anything to do, then waits to be woken: by a write that seals a
//! memtable, by a reader that lets the last hold on a file go, by the end of a view or pin. What becomes due by time alone (values that expire,
//! versions that leave their window, the timeline) is looked for every [`LOOK_AGAIN`], in metadata: so an idle database gives its space back too.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use super::Engine;
use crate::base::{Error, IoContext, KeyspaceId, Result, TIMELINE};

/// After an error a worker tries again this much later.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// How often a database at rest looks whether time has made anything due.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// On a simulated machine, one commit in this many is followed by a background step.
const DRAW: u32 = 4;

/// What there is to do, and what doing it has met.
#[derive(Debug, Default)]
pub(crate) struct Work {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Counts up whenever there may be something to do.
    round: u64,
    stop: bool,
    flush_trouble: Option<Error>,
    /// What the compactions of a keyspace met last.
    compact_trouble: BTreeMap<KeyspaceId, Trouble>,
    next_trouble: u64,
}

#[derive(Debug)]
struct Trouble {
    error: Error,
    /// In monotonic microseconds.
    since: u64,
    /// Counted up from one trouble to the next.
    number: u64,
}

impl Work {
    /// There may be something to do.
    pub(super) fn wake(&self) {
        self.state.lock().round += 1;
        self.changed.notify_all();
    }

    pub(super) fn stop(&self) {
        self.state.lock().stop = true;
        self.changed.notify_all();
    }

    /// The error that keeps background work from going on, if there is one.
    pub(super) fn trouble(&self) -> Option<Error> {
        let state = self.state.lock();
        let compactions = || state.compact_trouble.values().next().map(|trouble| &trouble.error);
        state.flush_trouble.as_ref().or_else(compactions).map(Error::duplicate)
    }

    /// The same, of what writers of some keyspaces wait for.
    pub(super) fn trouble_for(&self, mut keyspaces: impl Iterator<Item = KeyspaceId>) -> Option<Error> {
        let state = self.state.lock();
        let compactions = || keyspaces.find_map(|id| state.compact_trouble.get(&id)).map(|trouble| &trouble.error);
        state.flush_trouble.as_ref().or_else(compactions).map(Error::duplicate)
    }

    pub(super) fn note_flush(&self, trouble: Option<Error>) {
        self.state.lock().flush_trouble = trouble;
    }

    /// Notes how a compaction of a keyspace has ended, at a time in monotonic microseconds.
    pub(super) fn note_compaction(&self, keyspace: KeyspaceId, met: Option<&Error>, now: u64) {
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

    /// The error of a compaction that is not to be tried again yet.
    pub(super) fn failed_just_now(&self, keyspace: KeyspaceId, now: u64) -> Option<Error> {
        let state = self.state.lock();
        let trouble = state.compact_trouble.get(&keyspace)?;
        let rests = Duration::from_micros(now.saturating_sub(trouble.since)) < TRY_AGAIN;
        rests.then(|| trouble.error.duplicate())
    }

    /// The number of the next trouble.
    pub(super) fn next_trouble(&self) -> u64 {
        self.state.lock().next_trouble
    }

    /// Forgets what is over: `stays` is asked with the keyspace, and the number of the trouble.
    pub(super) fn keep_troubles(&self, stays: impl Fn(KeyspaceId, u64) -> bool) {
        self.state.lock().compact_trouble.retain(|id, trouble| stays(*id, trouble.number));
    }
}

/// The two kinds of background work.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Flush,
    Compact,
}

/// Starts the threads of a database.
pub(crate) fn start(engine: &Arc<Engine>) -> Result<Vec<JoinHandle<()>>> {
    if engine.options.read_only || engine.runs_inline() {
        return Ok(Vec::new());
    }
    let mut threads = Vec::new();
    let mut spawn = |name: &str, body: fn(&Engine)| {
        let engine = Arc::clone(engine);
        let path = engine.path();
        let spawned = thread::Builder::new().name(name.to_owned()).spawn(move || body(&engine));
        threads.push(spawned.at("start a thread for", || path)?);
        Ok::<_, Error>(())
    };
    spawn("chronolith-flush", |engine| engine.work_on(What::Flush))?;
    // Two: one at work on a large keyspace does not keep level 0 of the others waiting.
    spawn("chronolith-compact", |engine| engine.work_on(What::Compact))?;
    spawn("chronolith-compact-2", |engine| engine.work_on(What::Compact))?;
    spawn("chronolith-sync", Engine::sync_at_intervals)?;
    Ok(threads)
}

impl Engine {
    /// One background step on the caller's thread: `false` when there was nothing to do.
    pub(super) fn background_step(&self) -> Result<bool> {
        Ok(self.step(What::Flush)? || self.step(What::Compact)?)
    }

    /// On a machine without threads: every other time a background step, so that whoever asks now and then how the database is lets it go on. What the
    /// step meets is told by the writes it hinders.
    pub(super) fn idle_step(&self) {
        if self.runs_inline() && self.check_writable().is_ok() && self.env.draw(2) == 0 {
            let _met = self.background_step();
        }
    }

    /// On a machine without threads: a background step at a drawn point. What it meets is told by the writes it hinders.
    pub(super) fn drawn_step(&self) {
        if self.runs_inline() && self.env.draw(DRAW) == 0 {
            let _met = self.background_step();
        }
    }

    /// Does the next thing of a kind, if there is any, and lets go of what that has made superfluous.
    fn step(&self, what: What) -> Result<bool> {
        let stepped = match what {
            What::Flush => {
                let flushed = self.flush_oldest();
                self.work.note_flush(flushed.as_ref().err().map(Error::duplicate));
                flushed.and_then(|flushed| Ok(flushed || self.relieve_timeline()?))
            }
            What::Compact => match self.forget_dropped() {
                Ok(true) => Ok(true),
                Ok(false) => self.compact_most_urgent(),
                // Those who wait for a compaction do not wait for this.
                Err(error) => {
                    let compacted = self.compact_most_urgent();
                    self.work.note_compaction(TIMELINE, Some(&error), self.env.monotonic_us());
                    compacted.and_then(|done| if done { Ok(true) } else { Err(error) })
                }
            },
        };
        self.let_go();
        stepped
    }

    /// Gives idle views the current files, and removes the files that nobody holds.
    pub(super) fn let_go(&self) {
        let generation = self.generation.load(Ordering::Acquire);
        if self.rebased.swap(generation, Ordering::AcqRel) != generation {
            let (old, _holding) = self.registry.lock().rebase(&self.current());
            // Memtables and files go here, outside the lock.
            drop(old);
        }
        self.reclaim.run(&*self.dir);
    }

    fn work_on(&self, what: What) {
        loop {
            let (round, stop) = {
                let state = self.work.state.lock();
                (state.round, state.stop)
            };
            if stop {
                return;
            }
            let stepped = self.step(what);
            self.wake_writers();
            let mut state = self.work.state.lock();
            match stepped {
                Ok(false) if state.round == round && !state.stop => match what {
                    What::Flush => self.work.changed.wait(&mut state),
                    What::Compact => drop(self.work.changed.wait_for(&mut state, LOOK_AGAIN)),
                },
                Err(_) if !state.stop => {
                    self.work.changed.wait_for(&mut state, TRY_AGAIN);
                }
                Ok(_) | Err(_) => {}
            }
        }
    }
}
