//! Write path: the one way in for writes.
//!
//! ```text
//!  1 stage      strategies and limits; large values are stored (large.rs, cutter.rs, chunks.rs); the batch is encoded, once (stage.rs)
//!  2 decide     first values that stay, duplicates that are refused (decide.rs)
//!  3 room       slow down or wait while flushes and compactions are behind (room.rs)
//!  4 check      keyspaces alive, reads still hold (conflicts.rs)
//!  5 log        rotate if the memtable is full; append         ┐
//!  6 memtable   insert                                          ├ engine/log, one commit at a time
//!  7 publish    the seqno becomes visible (E1)                  ┘
//!  8 sync       as asked: waiting writers share one (durability.rs)
//! ```
//!
//! Everything that can be refused is checked before the append. After it there are two results: the receipt, or
//! [`Error::NotDurable`] with the receipt.

mod chunks;
mod conflicts;
mod cutter;
mod decide;
mod durability;
mod large;
mod room;
mod stage;
mod update;

use std::sync::{Arc, atomic::Ordering};

pub(crate) use chunks::{HeldChunk, hold_chunk, put_chunk};
pub(crate) use durability::persist;
pub(super) use durability::sync_at_intervals;
pub(crate) use large::{LargeWriter, StagedLarge, cut_anew, stage_copy, stage_recipe};
pub(crate) use room::health;
pub(crate) use stage::{Staged, Write};
pub(crate) use update::update;

use crate::{
    base::{Error, Receipt, Result, Seqno},
    engine::{
        Durability, Engine, KeyspaceRef,
        catalogue::dropped,
        chunk_store::Writing,
        jobs::{drawn_step, flush_recovered},
        locks::Guard,
        log::CommitState,
    },
    manifest::{Change, Edit},
    merge::MergeStrategy,
    wal::{BATCH_LEN_MAX, BatchBuf},
};
use conflicts::{ReadCheck, ReadSet};

/// Commits staged writes.
pub(crate) fn commit(engine: &Arc<Engine>, staged: Staged, durability: Option<Durability>) -> Result<Receipt> {
    // Held to the end: from then on the recipes in the log keep their chunks.
    let Staged { batch, keyspaces, writing, wrong } = staged;
    let committed = match wrong {
        Some(error) => Err(error),
        None => decide_and_commit(engine, batch, &keyspaces, durability, None),
    };
    committed.inspect(|_| record_committed(&writing, &keyspaces))
}

/// Records that what was stored for a commit is referred to now. Where the first value wins, it may not be: then it
/// counts as given up.
fn record_committed(writing: &[Arc<Writing>], keyspaces: &[KeyspaceRef]) {
    if !keyspaces.iter().any(|keyspace| matches!(keyspace.strategy, MergeStrategy::FirstWins)) {
        for writing in writing {
            writing.set_committed();
        }
    }
}

/// Commits a single write, without what a batch of several needs.
pub(crate) fn commit_one(engine: &Arc<Engine>, keyspace: &KeyspaceRef, write: Write<'_>) -> Result<Receipt> {
    let mut batch = BatchBuf::default();
    let writing = stage::stage(engine, &mut batch, keyspace, write)?;
    let committed = decide_and_commit(engine, batch, std::slice::from_ref(keyspace), None, None);
    committed.inspect(|_| record_committed(writing.as_slice(), std::slice::from_ref(keyspace)))
}

/// Commits a batch if what was read for it still holds; decides it first if the strategy of a keyspace decides at the
/// write.
fn decide_and_commit(
    engine: &Arc<Engine>,
    batch: BatchBuf,
    keyspaces: &[KeyspaceRef],
    durability: Option<Durability>,
    reads: Option<&ReadSet>,
) -> Result<Receipt> {
    engine.health.check_writable()?;
    if batch.len() > BATCH_LEN_MAX {
        let len = batch.len();
        return Err(Error::invalid(format!("a batch encodes to at most {BATCH_LEN_MAX} bytes, not {len}; split it")));
    }
    if keyspaces.iter().any(|keyspace| keyspace.strategy.decides_at_write()) {
        decide::commit_decided(engine, &batch, keyspaces, durability, reads)
    } else {
        commit_checked(engine, batch, keyspaces, durability, reads.as_slice())
    }
}

/// Commits a decided batch, which writes to `keyspaces`, if what was read for it still holds.
fn commit_checked(
    engine: &Engine,
    mut batch: BatchBuf,
    keyspaces: &[KeyspaceRef],
    durability: Option<Durability>,
    reads: &[&ReadSet],
) -> Result<Receipt> {
    if batch.operands() > 0 && batch.count() > 1 {
        decide::check_sums(&batch, keyspaces)?;
    }
    engine.files.resolve_doubt()?;
    extend_reservation(engine)?;
    room::wait_for_room(engine, keyspaces)?;
    let durability = match durability.unwrap_or(engine.ctx.options.durability) {
        Durability::Interval(every) if every.is_zero() => Durability::Sync,
        durability => durability,
    };
    if durability == Durability::Sync {
        // This writes segments, for which the disk may be full: better before the append than after it.
        flush_recovered(engine)?;
    }
    if batch.has_recipes() {
        // Before the log record that needs them (L1). Also those of other writers: their chunks may be in this batch.
        let epochs = engine.files.with_current(|now| now.chunks.epochs.clone());
        epochs.iter().try_for_each(|epoch| epoch.write_out())?;
    }
    engine.ctx.pass("commit: read, then applied");

    let receipt = {
        let mut commit = lock_checked(engine, reads)?;
        check_keyspaces(engine, keyspaces)?;
        if batch.count() == 0 && reads.is_empty() {
            // A write of nothing is no commit: it has the receipt of the newest one, and nothing to sync.
            return Ok(Receipt { seqno: engine.visible(), time: commit.time().to_time() });
        }
        engine.health.contain("a commit", || {
            if commit.is_full(engine.ctx.options.memtable_bytes()) {
                engine.log.rotate(&mut commit, &engine.files)?;
            }
            if batch.operands() > 0 {
                decide::end_long_chains(engine, &mut commit, &mut batch, keyspaces);
            }
            engine.log.append(&mut commit, batch, engine.now(), &engine.dead, &engine.files)
        })?
    };
    engine.counters.commits.fetch_add(1, Ordering::Relaxed);
    engine.ctx.pass("commit: applied, then synced");
    let synced = match durability {
        Durability::Sync => durability::sync_upto(engine, receipt.seqno),
        Durability::Interval(every) => durability::sync_within(engine, every),
        Durability::Buffered => Ok(()),
    };
    // Only a failed sync, which poisons, or the end of the database can get in between; `health` returns which.
    synced.map_err(|_| Error::NotDurable { receipt })?;
    drawn_step(engine);
    Ok(receipt)
}

/// Takes the commit lock once everything that was read is known to hold.
fn lock_checked<'e>(engine: &'e Engine, reads: &[&ReadSet]) -> Result<Guard<'e, CommitState>> {
    let mut checks: Vec<ReadCheck<'_>> = reads.iter().map(|reads| ReadCheck::new(reads)).collect();
    loop {
        checks.iter_mut().try_for_each(|check| check.advance(engine))?;
        engine.ctx.pass("commit: checked, then locked");
        let commit = engine.log.lock();
        // Checked again under the lock: the database may have been closed or poisoned in between.
        engine.health.check_writable()?;
        let mut whole = true;
        for check in &mut checks {
            whole &= check.finish(&commit.recent)?;
        }
        if whole {
            return Ok(commit);
        }
    }
}

/// Reserves more seqnos, long before the reserved ones run out.
fn extend_reservation(engine: &Engine) -> Result<()> {
    let reserve = engine.ctx.options.limits.seqno_reserve;
    let is_low = || engine.visible().0.saturating_add(reserve / 2) >= engine.log.ceiling().0;
    if !is_low() {
        return Ok(());
    }
    let mut editing = engine.files.edit();
    if is_low() {
        let ceiling = Seqno(engine.visible().0.saturating_add(reserve));
        editing.apply(&Edit::new([Change::reserved(ceiling)]))?;
        engine.log.raise_ceiling(ceiling);
    }
    Ok(())
}

fn check_keyspaces(engine: &Engine, keyspaces: &[KeyspaceRef]) -> Result<()> {
    let is_gone = |keyspace: &&KeyspaceRef| {
        engine.files.with_current(|now| now.trees.get(&keyspace.id).is_none_or(|tree| tree.dropped))
    };
    keyspaces.iter().find(is_gone).map_or(Ok(()), |gone| Err(dropped(gone)))
}
