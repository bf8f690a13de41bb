//! The living database: open, write, read, scan, flush, compact, reclaim, check.
//!
//! # Locks
//!
//! Always taken in this order; none is held while waiting for a thread.
//!
//! | lock | owns | I/O under it |
//! | --- | --- | --- |
//! | `flushing`, `compacting` | the right to run a flush, a compaction of a keyspace | the whole job |
//! | `manifest` | the log of edits | appending and syncing an edit |
//! | `commit` | log writer, active memtable, next seqno, recent batches | appending to the log |
//! | `registry` | who may read which seqno | none |
//! | `current`, `customs`, `custom_policies` | the superversion that new reads take; the custom strategies and policies | none |
//! | `clock` | the time of the database | none |
//! | `syncing`, `work` | who syncs; what background work met | none |
//!
//! # Invariants
//!
//! * E1: a seqno becomes visible only when everything at or below it is in the log and in a memtable.
//! * E2: memtables are flushed oldest first, all keyspaces of one in one edit, so that a crash leaves a prefix of the commits.
//! * E3: a thing is durable before anything durable points to it.
//! * E4: a superversion that a reader holds is complete: its memtables and segments hold every version that was not dropped
//!   by a job that knew of the reader.

mod busy;
mod check;
mod checkpoint;
mod clock;
mod compact;
mod conflicts;
mod decide;
mod explain;
mod flush;
mod history;
mod keyspaces;
mod open;
mod options;
mod pins;
mod read;
mod registry;
mod scan;
mod stats;
mod superversion;
mod sync;
mod timeline;
mod view;
mod watch;
mod worker;
mod write;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use parking_lot::{Condvar, Mutex, RwLock};

pub use check::{Finding, Report};
pub use compact::Compacted;
pub(crate) use compact::Scope;
pub(crate) use conflicts::{ReadSet, Reading};
pub use explain::{Explain, Outcome as ReadOutcome, Step};
pub(crate) use history::{History as VersionWalk, RangeHistory as RangeWalk, Told};
pub use keyspaces::KeyspaceSpace;
pub use options::{Durability, KeyspaceOptions, Options};
pub use pins::Pin;
pub(crate) use read::Opened;
pub(crate) use scan::Scan;
pub use stats::{LevelStats, PinStats, SpaceUse, Stats, ViewStats};
pub(crate) use timeline::Commits as CommitWalk;
pub(crate) use view::ViewCore;
pub use watch::Progress;
pub(crate) use watch::Watch;
pub(crate) use worker::start as start_threads;

use crate::{
    base::{Error, IoContext, KeyspaceId, Result, in_callback},
    compaction::Policy,
    env::{Background, Dir, Env, Files},
    manifest::{CommitFailure, Edit, KeyspaceVersion, ManifestStore, Version},
    memtable::Memtable,
    merge::{DeadSpans, MergeStrategy},
    wal::{LogFile, LogWriter},
};
use busy::Busy;
use clock::Clock;
use compact::Rest;
use conflicts::Recent;
use decide::Chains;
use pins::pinned_readers;
use registry::{JobInputs, Registry};
use stats::Counters;
use superversion::{Reclaim, SuperVersion};
use sync::Syncing;
use worker::Work;

/// An open database.
#[derive(Debug)]
pub(crate) struct Engine {
    env: Arc<dyn Env>,
    /// The directory, and the segments that are open for reading.
    files: Arc<Files>,
    /// The same directory.
    dir: Arc<dyn Dir>,
    options: Options,
    database_id: u64,

    flushing: Mutex<()>,
    compacting: Busy,
    /// Checkpoints under way: while there is one, no dropped keyspace is forgotten.
    copying: AtomicUsize,
    manifest: Mutex<ManifestStore>,
    commit: Mutex<Commit>,
    registry: Mutex<Registry>,
    current: RwLock<Arc<SuperVersion>>,
    /// That of `current`, for views to see in passing whether their files are still those.
    generation: AtomicU64,

    /// The newest seqno that readers may see.
    visible: AtomicU64,
    /// Seqnos below are reserved in the manifest: no other opening gives them out.
    seqno_ceiling: AtomicU64,
    /// Numbers for new segment files.
    next_file: AtomicU64,
    syncing: Syncing,
    work: Arc<Work>,
    /// The generation of files that idle views were given last.
    rebased: AtomicU64,
    /// Woken when background work has made room.
    room: Condvar,
    room_lock: Mutex<()>,
    closed: AtomicBool,
    /// Set before the threads are joined: jobs give up.
    stopping: AtomicBool,
    /// What poisoned it.
    poisoned: Mutex<Option<String>>,
    is_poisoned: AtomicBool,
    /// A keyspace was refused, and yet may be found created or dropped after a crash: nothing is written before that is settled.
    in_doubt: AtomicBool,
    /// Segments left that purges had been carried out on: the manifest tells keys of them until it is written anew.
    names_purged: AtomicBool,
    /// Segments of edits that failed: they stay until the next edit has been committed.
    doubtful: Mutex<Vec<u64>>,
    reclaim: Arc<Reclaim>,
    counters: Counters,
    clock: Mutex<Clock>,
    /// When keyspaces were last cleared out, in monotonic microseconds.
    cleared: Mutex<BTreeMap<KeyspaceId, u64>>,
    rest: Mutex<Rest>,
    /// Where nothing is left to read.
    dead: Arc<DeadSpans>,
    /// The custom compaction policies that this process has been given.
    custom_policies: Mutex<BTreeMap<KeyspaceId, Policy>>,
    /// The custom merge strategies that this process has been given.
    customs: Mutex<BTreeMap<KeyspaceId, MergeStrategy>>,
}

/// What the one committing thread works with.
#[derive(Debug)]
struct Commit {
    /// Nothing in a read-only database.
    log: Option<LogWriter>,
    memtable: Arc<Memtable>,
    next_seqno: u64,
    /// The commit time of the newest batch, and what that of the next is not below.
    time_us: u64,
    time_floor: u64,
    /// Recent writes, while somebody is between reading and committing.
    recent: Recent,
    /// How long the chains of operands have grown.
    chains: Chains,
    /// Logs that were followed by others and are not known to be synced, oldest first, with their ends.
    unsynced: Vec<(Arc<LogFile>, u64)>,
}

impl Engine {
    /// That whoever calls may take locks here: not a process that was forked from the one that opened the database,
    /// where those who held them
    /// may be missing; and not a callback, whose caller may hold them.
    #[inline]
    pub(crate) fn check_caller(&self) -> Result<()> {
        if self.is_forked() || in_callback() { Err(self.wrong_caller()) } else { Ok(()) }
    }

    /// Whether this process was forked from the one that opened the database: what belongs to that is left alone.
    #[inline]
    pub(crate) fn is_forked(&self) -> bool {
        self.reclaim.origin.is_forked()
    }

    #[cold]
    fn wrong_caller(&self) -> Error {
        let path = self.dir.path().display();
        if !self.is_forked() {
            return Error::invalid(format!(
                "the database {path} was called from within a merge strategy, a compaction policy or a report of progress; those may use their arguments alone"
            ));
        }
        let (opened, here) = (self.reclaim.origin.process(), std::process::id());
        Error::invalid(format!(
            "{path} was opened by process {opened}, and process {here} was forked from it: it cannot use what that opened; open databases after the fork"
        ))
    }

    /// The error of whoever comes too late, or from where nobody may.
    #[inline]
    pub(crate) fn check_open(&self) -> Result<()> {
        self.check_caller()?;
        if self.closed.load(Ordering::Acquire) { Err(Error::Closed) } else { Ok(()) }
    }

    /// That writes are still taken.
    fn check_writable(&self) -> Result<()> {
        self.check_open()?;
        self.check_not_poisoned()?;
        if self.options.read_only {
            return Err(Error::invalid(format!(
                "{} was opened read-only; open it without read_only(true) to write",
                self.dir.path().display()
            )));
        }
        Ok(())
    }

    /// That the directory has not been deleted: whatever is durable in one that was, nobody will find.
    fn check_there(&self) -> Result<()> {
        self.dir.check_there().at("find", || self.path())
    }

    fn check_not_poisoned(&self) -> Result<()> {
        if !self.is_poisoned.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(Error::Poisoned { why: self.poisoned.lock().clone().unwrap_or_default() })
    }

    /// Stops writes for good: what is on the disk is not known any more.
    fn poison(&self, error: &Error) {
        let mut why = self.poisoned.lock();
        why.get_or_insert_with(|| error.in_full());
        self.is_poisoned.store(true, Ordering::Release);
    }

    /// The same after a failed sync of names; unless the directory could not even be opened for it, on a machine that
    /// does not hold it open: then nothing was synced, and nothing is lost.
    fn poison_unless_unopened(&self, error: &Error) {
        if !error.is_out_of_files() {
            self.poison(error);
        }
    }

    /// The superversion for a read of the present.
    #[inline]
    pub(crate) fn current(&self) -> Arc<SuperVersion> {
        Arc::clone(&self.current.read())
    }

    #[inline]
    pub(crate) fn visible(&self) -> u64 {
        self.visible.load(Ordering::Acquire)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().to_path_buf()
    }

    /// Asks background work to end.
    pub(crate) fn stop_work(&self) {
        self.stopping.store(true, Ordering::Release);
        self.work.stop();
        self.syncing.stop();
    }

    /// What background work has met, which on a machine without threads this gives a turn: the error for which it or the writes have stopped.
    pub(crate) fn health(&self) -> Result<()> {
        self.check_open()?;
        self.idle_step();
        self.check_not_poisoned()?;
        self.work.trouble().map_or(Ok(()), Err)
    }

    /// Commits an edit. `added` are segments that it names: they are removed when it fails, as soon as that is safe.
    ///
    /// Nothing is committed behind the seal of a clean end: the lock may be somebody else's by then.
    fn commit_edit(&self, manifest: &mut ManifestStore, edit: &Edit, added: &[u64]) -> Result<Arc<Version>> {
        self.check_open()?;
        match manifest.commit(edit) {
            Ok(version) => {
                let doubtful = std::mem::take(&mut *self.doubtful.lock());
                self.reclaim.add_segments(doubtful);
                Ok(version)
            }
            Err(CommitFailure::NotCommitted(error)) => {
                if manifest.in_doubt() {
                    self.doubtful.lock().extend(added);
                } else {
                    self.reclaim.add_segments(added.iter().copied());
                }
                Err(error)
            }
            Err(CommitFailure::Unknown(error)) => {
                self.poison(&error);
                Err(error)
            }
        }
    }

    /// Ends the doubt that a refused change of a keyspace has left, before anything is written behind it.
    fn settle(&self) -> Result<()> {
        if self.in_doubt.load(Ordering::Acquire) {
            let mut manifest = self.manifest.lock();
            self.check_open()?;
            match manifest.settle() {
                Ok(()) => self.in_doubt.store(false, Ordering::Release),
                Err(CommitFailure::NotCommitted(error)) => return Err(error),
                Err(CommitFailure::Unknown(error)) => {
                    self.poison(&error);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Makes a version current. `job` is what the job worked by and the newest superseder of what it dropped.
    fn install(&self, version: &Arc<Version>, flushed: Option<&Arc<Memtable>>, job: Option<(&JobInputs, u64)>) {
        let mut registry = self.registry.lock();
        registry.set_pins(pinned_readers(version));
        if let Some((inputs, superseder)) = job {
            registry.freeze(inputs, superseder);
        }
        let mut current = self.current.write();
        let mut next = current.with_version(version, &self.files, self.options.mmap, &self.reclaim);
        if let Some(flushed) = flushed {
            next.settle(flushed);
        }
        self.generation.store(next.generation, Ordering::Release);
        let old = std::mem::replace(&mut *current, Arc::new(next));
        drop(current);
        drop(registry);
        // The last reference to a memtable or table may go here: not under a lock.
        drop(old);
        self.wake_writers();
    }

    /// The merge strategy of a keyspace; nothing for a custom one that this process has not been given.
    fn strategy_of(&self, keyspace: &KeyspaceVersion) -> Option<MergeStrategy> {
        MergeStrategy::built_in(keyspace.options.merge).or_else(|| self.customs.lock().get(&keyspace.id).cloned())
    }

    fn wake_writers(&self) {
        drop(self.room_lock.lock());
        self.room.notify_all();
    }

    fn runs_inline(&self) -> bool {
        self.env.background() == Background::Caller
    }
}
