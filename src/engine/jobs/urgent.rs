//! Background compaction: what is furthest over its bound, one keyspace at a time.

use std::sync::Arc;

use super::{
    aging, expiry_cutoff,
    places::relieve_places,
    seen_from,
    task::{move_segment, run_history_task, run_task},
    thin::thin_timeline,
};
use crate::{
    base::{Error, KeyspaceId, Micros, PLACES, Result, Seqno, TIMELINE},
    compaction::{Purges, Shape, Waste, pick, pick_history, score},
    engine::{Engine, watch::Watch},
    manifest::KeyspaceVersion,
};

/// Runs the most urgent compaction; returns `false` if every level is within its bounds and the history tier has
/// nothing to drop or merge.
///
/// A failure blocks no other keyspace: its error is kept, and the compaction is retried a while later.
pub(super) fn compact_most_urgent(engine: &Engine) -> Result<bool> {
    let shape = engine.ctx.options.shape();
    // Errors that other threads meet from here on are not forgotten below.
    let began = engine.work.next_trouble();
    let version = Arc::clone(&engine.files.current().version);
    let seen_from = seen_from(engine);
    let idle = engine.jobs.is_idle(engine.ctx.monotonic(), engine.visible());
    let mut urgent: Vec<_> = version
        .keyspaces
        .values()
        .filter_map(|keyspace| Some((score(keyspace, &shape, waste(engine, keyspace, seen_from, idle))?, keyspace.id)))
        .collect();
    urgent.sort_unstable_by_key(|(score, _)| std::cmp::Reverse(*score));
    let mut failed = Vec::new();
    for (_, id) in urgent {
        if try_compaction(engine, id, &mut failed, || compact_levels(engine, id, &shape, seen_from, idle))? {
            return Ok(true);
        }
    }
    for keyspace in version.keyspaces.values().filter(|keyspace| !keyspace.history.is_empty()) {
        if try_compaction(engine, keyspace.id, &mut failed, || compact_history_once(engine, keyspace.id))? {
            return Ok(true);
        }
    }
    if try_compaction(engine, TIMELINE, &mut failed, || thin_timeline(engine, false))? {
        return Ok(true);
    }
    if try_compaction(engine, PLACES, &mut failed, || relieve_places(engine))? {
        return Ok(true);
    }
    // All have been tried: an earlier error that was not met again is over.
    let taken = engine.jobs.slots.taken();
    let met = |id| failed.iter().any(|(at, _)| *at == id) || taken.contains(&id);
    engine.work.keep_troubles(|id, number| number >= began || met(id));
    failed.into_iter().next().map_or(Ok(false), |(_, error)| Err(error))
}

/// Compacts a keyspace, unless another job does or it failed just now. Only errors that stop everything are returned;
/// others go to `failed`.
fn try_compaction(
    engine: &Engine,
    id: KeyspaceId,
    failed: &mut Vec<(KeyspaceId, Error)>,
    compact: impl FnOnce() -> Result<bool>,
) -> Result<bool> {
    let now = engine.ctx.monotonic();
    // Without threads, time does not pass while a writer waits for room.
    if let Some(error) = engine.work.failed_just_now(id, now).filter(|_| !engine.ctx.runs_inline()) {
        failed.push((id, error));
        return Ok(false);
    }
    // Does not wait for another job on this keyspace.
    let Some(_one) = engine.jobs.slots.try_take(id) else { return Ok(false) };
    engine.health.check_writable()?;
    match compact() {
        Ok(done) => {
            if done {
                engine.work.record_compaction(id, None, now);
            }
            Ok(done)
        }
        Err(error) => {
            engine.work.record_compaction(id, Some(&error), now);
            failed.push((id, error));
            Ok(false)
        }
    }
}

/// Compacts the level of a keyspace that is furthest over its bound, or clears out what is dead.
fn compact_levels(engine: &Engine, id: KeyspaceId, shape: &Shape, seen_from: Micros, idle: bool) -> Result<bool> {
    let Some(keyspace) = engine.files.keyspace(id) else { return Ok(false) };
    let Some(task) = pick(&keyspace, shape, waste(engine, &keyspace, seen_from, idle)) else { return Ok(false) };
    if task.clears_out && !engine.jobs.may_clear_out(id, engine.ctx.monotonic()) {
        return Ok(false);
    }
    if task.just_move {
        move_segment(engine, &task)?;
    } else {
        run_task(engine, &task, Seqno(0), &mut Watch::silent())?;
    }
    Ok(true)
}

/// Drops a part of a keyspace's history tier, or merges runs of it.
fn compact_history_once(engine: &Engine, id: KeyspaceId) -> Result<bool> {
    let inputs = engine.files.job_inputs("compact past: files, then list");
    let Some(keyspace) = inputs.files.version.keyspaces.get(&id) else { return Ok(false) };
    let Some(task) = pick_history(keyspace, &aging(engine, keyspace, &inputs.registered)) else { return Ok(false) };
    run_history_task(engine, &inputs, keyspace, task, &Purges::default(), &mut Watch::silent())?;
    Ok(true)
}

fn waste(engine: &Engine, keyspace: &KeyspaceVersion, seen_from: Micros, idle: bool) -> Waste {
    Waste { expiry_cutoff: expiry_cutoff(engine, keyspace, seen_from), idle }
}

/// Compacts level 0 of the timeline if other compactions have left it behind: each flush adds to it, and no writer
/// waits for it.
pub(super) fn relieve_timeline(engine: &Engine) -> Result<bool> {
    if engine.files.current().l0_len(TIMELINE) < engine.ctx.options.l0_threshold.saturating_mul(2) {
        return Ok(false);
    }
    let mut failed = Vec::new();
    let shape = engine.ctx.options.shape();
    let done = try_compaction(engine, TIMELINE, &mut failed, || {
        compact_levels(engine, TIMELINE, &shape, Micros::ZERO, false)
    })?;
    failed.pop().map_or(Ok(done), |(_, error)| Err(error))
}
