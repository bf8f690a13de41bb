//! The open database: open, write, read, scan, flush, compact, reclaim, check.
//!
//! [`Engine`] composes parts that own their state and their locks, out of reach of all others. A module may use those
//! that stand below it, as `tests/layers.rs` checks:
//!
//! ```text
//!   open                                     open and close, recovery, threads
//!   check  checkpoint  stats  rechunk        verification, copies, numbers, values cut anew
//!   write/                                   stage ▸ decide ▸ conflicts ▸ commit ▸ sync
//!   pins  keyspaces                          decisions: durable at once, at a seqno of their own (J2)
//!   jobs/                                    flush, compact, thin, forget; the background step
//!   read/                                    get, scan, view, history, explain
//!   ── Engine: the parts together ──────────────────────────────────────────────────────────────────
//!   timeline                                 which commit happened when
//!   log/                                     log, memtable, the order of commits, syncing
//!   files/                                   manifest, versions, readers, files to remove: all edits
//!   catalogue                                custom policies and strategies of this process
//!   clock  health  work  context  counters   the ground: time, whether it may be used, pending work
//!   chunk_store                              coders, decoded chunks, chunks being stored
//!   watch  options  locks
//! ```
//!
//! The locks and their order are in `locks.rs`.
//!
//! # Invariants
//!
//! * E1: a seqno becomes visible only when everything at or below it is in the log and in a memtable.
//! * E2: memtables are flushed oldest first, all keyspaces of one in one edit, so that a crash leaves a prefix of the
//!   commits.
//! * E3: data is durable before anything durable points to it.
//! * E4: a superversion that a reader holds is complete: its memtables and segments hold every version that was not
//!   dropped by a job that knew of the reader.

mod catalogue;
mod check;
pub(crate) mod checkpoint;
mod chunk_store;
mod clock;
mod context;
mod counters;
mod files;
mod health;
pub(crate) mod jobs;
pub(crate) mod keyspaces;
mod locks;
mod log;
mod open;
mod options;
pub(crate) mod pins;
pub(crate) mod read;
mod rechunk;
mod stats;
mod timeline;
mod watch;
mod work;
pub(crate) mod write;

use std::{path::PathBuf, sync::Arc};

pub(crate) use catalogue::KeyspaceRef;
pub(crate) use check::verify;
pub use check::{Report, VerifyFinding};
pub use jobs::{ChunkHolders, Compacted};
pub use keyspaces::KeyspaceSpace;
pub(crate) use open::Running;
pub use options::{Compression, Durability, KeyspaceOptions, Options};
pub use pins::Pin;
pub use read::{
    ChunkFacts, Recipe, Stat,
    explain::{Explain, ReadOutcome, ReadStep},
};
pub use rechunk::Rechunked;
pub(crate) use rechunk::rechunk;
pub(crate) use stats::collect as stats;
pub use stats::{ArmStats, ChunkStats, LevelStats, PinStats, SpaceUse, Stats, TrialStats, ViewStats};
pub use watch::Progress;
pub(crate) use watch::Watch;

use catalogue::Catalogue;
use chunk_store::ChunkStore;
use clock::Clock;
use context::Context;
use counters::Counters;
use files::FileSet;
use health::Health;
use jobs::Jobs;
use log::Log;
use work::Work;

use crate::{
    base::{Micros, Result, Seqno},
    merge::DeadSpans,
};

/// An open database.
#[derive(Debug)]
pub(crate) struct Engine {
    ctx: Arc<Context>,
    health: Arc<Health>,
    work: Arc<Work>,
    counters: Arc<Counters>,
    clock: Clock,
    catalogue: Catalogue,
    files: FileSet,
    log: Log,
    jobs: Jobs,
    /// What readers and writers of large values share.
    store: Arc<ChunkStore>,
    /// Spans known to hold nothing.
    dead: Arc<DeadSpans>,
}

impl Engine {
    /// Returns whether this process was forked from the one that opened the database, whose resources are left alone.
    #[inline]
    pub(crate) fn is_forked(&self) -> bool {
        self.health.is_forked()
    }

    /// Fails if the caller may take no lock: in a forked process, and in a callback.
    #[inline]
    pub(crate) fn check_caller(&self) -> Result<()> {
        self.health.check_caller()
    }

    /// Fails with [`Closed`](crate::Error::Closed) after the database was closed, and if the caller may take no lock.
    #[inline]
    pub(crate) fn check_open(&self) -> Result<()> {
        self.health.check_open()
    }

    /// Returns the newest seqno that readers may see.
    #[inline]
    pub(crate) fn visible(&self) -> Seqno {
        self.log.visible()
    }

    /// Returns the path at which the database was opened.
    pub(crate) fn path(&self) -> PathBuf {
        self.ctx.path()
    }

    /// Returns the time of the database, in microseconds.
    fn now(&self) -> Micros {
        self.clock.now()
    }
}
