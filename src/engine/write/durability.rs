//! Durability of commits: at once, within an interval, or on request.

use std::time::Duration;

use crate::{
    base::{Micros, Result, Seqno},
    engine::{Engine, jobs::flush_recovered},
};

/// Delay before an interval sync is tried again that failed for another reason than the sync itself, in microseconds.
const TRY_AGAIN: Micros = Micros(500_000);

/// Syncs until every commit at or below `seqno` is durable: first what the log points to, then the log.
pub(super) fn sync_upto(engine: &Engine, seqno: Seqno) -> Result<()> {
    flush_recovered(engine)?;
    engine.log.sync_upto(seqno, &engine.files)
}

/// Schedules a sync of everything visible now within an interval: by the thread that waits for it or, on a machine
/// without threads, by the first commit that finds it due.
///
/// Fails only after a failed sync, on a machine without threads: whatever else keeps a sync from being tried is met
/// again when it is next due.
pub(super) fn sync_within(engine: &Engine, every: Duration) -> Result<()> {
    let was_due = engine.log.syncing.within(every, engine.ctx.monotonic());
    if was_due && engine.ctx.runs_inline() && sync_due(engine).is_err() {
        return engine.health.check_not_poisoned();
    }
    Ok(())
}

/// Syncs what is due. If that fails while syncs themselves still work, it is due again a little later.
fn sync_due(engine: &Engine) -> Result<()> {
    engine.log.syncing.take_due();
    sync_upto(engine, engine.visible()).inspect_err(|_| {
        if engine.health.check_writable().is_ok() {
            engine.log.syncing.due_at(engine.ctx.monotonic().saturating_add(TRY_AGAIN));
        }
    })
}

/// Runs the thread that syncs when it is due.
pub(in crate::engine) fn sync_at_intervals(engine: &Engine) {
    engine.log.syncing.at_intervals(
        || engine.ctx.monotonic(),
        || {
            // A failure poisons the database, or is returned by the writes that it stops; this thread has no caller to
            // return it to.
            let _synced = engine.health.contain("an interval sync", || sync_due(engine));
        },
    );
}

/// Makes everything visible now durable.
pub(crate) fn persist(engine: &Engine) -> Result<()> {
    engine.health.check_writable()?;
    engine.files.resolve_doubt()?;
    sync_upto(engine, engine.visible())?;
    engine.ctx.check_there()
}
