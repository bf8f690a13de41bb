//! When chunks are collected by themselves.
//!
//! ```text
//!   a job drops recipes · a writer gives up ─▶ dropped bytes, a hint ─┐
//!   the last close was not clean: hints are lost ─────────────────────┼─▶ a collection, a group of packs at a time,
//!   many small packs ─────────────────────────────────────────────────┘   resting most of the time
//! ```

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use super::collect::{Extent, collect};
use crate::{
    base::{Error, FileNumber, Micros, Result},
    engine::{Engine, files::copies::PACK_BYTES, watch::Watch},
    manifest::Version,
};

/// Bytes below which a pack is small, and small packs up to which they are left alone.
pub(super) const SMALL: u64 = PACK_BYTES / 8;
const SMALL_MAX: usize = 64;

/// Shortest time between a collection that failed and the next one that nobody has asked for.
const TRY_AGAIN: Micros = Micros(10_000_000);

/// Times as long as a collection takes none begins that nobody has asked for.
const SHARE: u64 = 10;

/// Rest behind a group of packs, in times of its work, and the longest one. Beside a thread that writes 600 MB a second
/// on two cores: resting as long as it worked, a collection left that thread 57% of its rate.
const IDLE: u64 = 4;
const REST_MAX: Micros = Micros(2_000_000);

/// Free bytes of the disk below which a collection does not rest.
const SCARCE: u64 = 1 << 30;

/// Interval at which whoever rests looks whether to go on.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What is known of chunks that nothing needs.
#[derive(Debug, Default)]
pub(crate) struct Garbage {
    /// Bytes of large values that jobs have dropped since the last collection. Others may share their chunks.
    dropped: AtomicU64,
    /// Whether more was dropped, of which nobody knows how much.
    unknown: AtomicBool,
    /// Time before which no collection begins by itself, in monotonic microseconds.
    not_before: AtomicU64,
    /// Callers that wait until a collection has ended.
    waiting: AtomicUsize,
    /// Bytes that the last collection found needed, and those that it left.
    live: AtomicU64,
    dead: AtomicU64,
}

impl Garbage {
    /// Records that the recipes of so many bytes were dropped; the maximum says that nobody knows how many.
    pub(in crate::engine) fn record_dropped(&self, bytes: u64) {
        if bytes == u64::MAX {
            self.record_unknown();
        } else {
            self.dropped.fetch_add(bytes, Relaxed);
        }
    }

    /// Returns what the next process is to know of what was dropped.
    pub(in crate::engine) fn for_close(&self, abandoned: u64) -> u64 {
        let known = self.dropped.load(Relaxed).saturating_add(abandoned);
        if self.unknown.load(Relaxed) { u64::MAX } else { known }
    }

    /// Returns what has been dropped by now: what a collection that begins now will have looked for.
    pub(super) fn stock(&self, abandoned: &AtomicU64) -> Stock {
        let (dropped, unknown) = (self.dropped.load(Relaxed), self.unknown.swap(false, Relaxed));
        Stock { dropped, unknown, abandoned: abandoned.swap(0, Relaxed) }
    }

    /// Forgets what a collection has looked for, or takes it back if that has failed.
    pub(super) fn settle(&self, stock: &Stock, abandoned: &AtomicU64, is_collected: bool) {
        if is_collected {
            // Somebody else may have collected it meanwhile.
            let rest = |dropped: u64| Some(dropped.saturating_sub(stock.dropped));
            let _before = self.dropped.fetch_update(Relaxed, Relaxed, rest);
        } else {
            self.unknown.fetch_or(stock.unknown, Relaxed);
            abandoned.fetch_add(stock.abandoned, Relaxed);
        }
    }

    /// Records that nobody knows what was dropped.
    pub(in crate::engine) fn record_unknown(&self) {
        self.unknown.store(true, Relaxed);
    }

    pub(super) fn record_found(&self, live: u64, dead: u64) {
        self.live.store(live, Relaxed);
        self.dead.store(dead, Relaxed);
    }

    /// Returns the bytes that the last collection found needed, those that it left, and those dropped since.
    pub(in crate::engine) fn told(&self) -> (u64, u64, u64) {
        (self.live.load(Relaxed), self.dead.load(Relaxed), self.dropped.load(Relaxed))
    }

    /// Counts a caller that waits, until the guard is dropped.
    pub(super) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Relaxed);
        Waiting(self)
    }
}

/// What had been dropped when a collection began.
#[derive(Debug)]
pub(super) struct Stock {
    dropped: u64,
    unknown: bool,
    abandoned: u64,
}

/// A caller that waits until a collection has ended.
pub(super) struct Waiting<'g>(&'g Garbage);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

/// Returns whether there are so many small packs that they are to be put together.
pub(super) fn are_small_many(version: &Version) -> bool {
    version.packs.values().filter(|pack| pack.stored_bytes < SMALL).count() > SMALL_MAX
}

/// Collects chunks if there is reason to; returns `false` if there is none. Reason are dropped values that could take
/// as much as all memtables, and a tenth of all packs: a mark reads every recipe.
pub(super) fn collect_if_due(engine: &Engine) -> Result<bool> {
    let (garbage, abandoned) = (&engine.jobs.garbage, engine.store.abandoned());
    // Not the files of that version: packs that go would keep their room until the end.
    let version = Arc::clone(&engine.files.current().version);
    let stored: u64 = version.packs.values().map(|pack| pack.stored_bytes).sum();
    let raw: u64 = version.packs.values().map(|pack| pack.raw_bytes).sum();
    let compressed = u128::from(garbage.dropped.load(Relaxed)) * u128::from(stored) / u128::from(raw.max(1));
    let dropped = u64::try_from(compressed).unwrap_or(u64::MAX).saturating_add(abandoned.load(Relaxed));
    let least = (4 * engine.ctx.options.memtable_bytes()).max(stored / 10);
    let failed = engine.work.has_collection_failed();
    let reason = dropped >= least || garbage.unknown.load(Relaxed) || are_small_many(&version) || failed;
    if stored == 0 || !reason || engine.ctx.monotonic().0 < garbage.not_before.load(Relaxed) {
        return Ok(false);
    }
    let began = engine.ctx.monotonic();
    let stock = garbage.stock(abandoned);
    let collected = collect(engine, Extent::Worth, &mut Watch::silent());
    garbage.settle(&stock, abandoned, collected.is_ok());
    let now = engine.ctx.monotonic();
    let rest = Micros(now.saturating_sub(began).0.saturating_mul(SHARE));
    match &collected {
        Ok(_) => {
            garbage.not_before.store(now.saturating_add(rest).0, Relaxed);
            engine.work.record_collection(None);
        }
        Err(error) => {
            garbage.not_before.store(now.saturating_add(rest.max(TRY_AGAIN)).0, Relaxed);
            if !matches!(error, Error::Closed) {
                engine.work.record_collection(Some(error));
            }
        }
    }
    collected.map(|_| true)
}

/// Collects everything for a caller who has asked for it.
pub(super) fn collect_all(engine: &Engine, watch: &mut Watch<'_>) -> Result<Vec<FileNumber>> {
    let (garbage, abandoned) = (&engine.jobs.garbage, engine.store.abandoned());
    let stock = garbage.stock(abandoned);
    let collected = collect(engine, Extent::All, watch);
    garbage.settle(&stock, abandoned, collected.is_ok());
    if collected.is_ok() {
        engine.work.record_collection(None);
    }
    collected
}

/// Rests four times as long as a group of packs has taken, so that readers and writers keep most of the machine; not
/// where the disk is nearly full. Returns `false` if somebody waits for the end of the collection.
pub(super) fn rest(engine: &Engine, worked_since: Micros) -> bool {
    let worked = engine.ctx.monotonic().saturating_sub(worked_since);
    let longest = Micros(worked.0.saturating_mul(IDLE)).min(REST_MAX);
    let is_wanted = || engine.jobs.garbage.waiting.load(Relaxed) > 0;
    let rests_since = engine.ctx.monotonic();
    let is_over = || engine.ctx.monotonic().saturating_sub(rests_since) >= longest;
    let is_scarce = engine.ctx.dir.available_space().is_ok_and(|free| free < SCARCE);
    while !is_over() && !is_wanted() && !is_scarce && !engine.health.is_stopping() && !engine.ctx.runs_inline() {
        engine.work.pause(LOOK_AGAIN);
    }
    !is_wanted()
}
