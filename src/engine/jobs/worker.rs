//! The background step, for the threads of a database and for single steps on the caller's thread.
//!
//! A thread steps while there is work, then waits to be woken: by a write that seals a memtable, by the last reader of
//! a file, by the end of a view or pin. Work that becomes due by time alone (values that expire, versions that leave
//! their window, the timeline) is looked for every [`LOOK_AGAIN`], in metadata, so that an idle database frees space
//! too.

use std::time::Duration;

use super::{
    flush::flush_oldest,
    forget::forget_dropped,
    garbage::collect_if_due,
    urgent::{compact_most_urgent, relieve_timeline},
};
use crate::{
    base::{Error, Result, TIMELINE},
    engine::Engine,
};

/// Interval at which an idle database checks whether time has made work due.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Commits for each background step, on average, on a simulated machine.
const DRAW: u32 = 4;

/// The kinds of background work.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) enum WorkKind {
    Flush,
    Compact,
    Collect,
}

/// Runs a background step on the caller's thread; returns `false` if there was nothing to do.
pub(in crate::engine) fn background_step(engine: &Engine) -> Result<bool> {
    Ok(step(engine, WorkKind::Flush)? || step(engine, WorkKind::Compact)? || step(engine, WorkKind::Collect)?)
}

/// Runs a background step every other time, on a machine without threads, so that a caller that polls the database
/// makes it progress. Errors are reported by the writes that they block.
pub(in crate::engine) fn idle_step(engine: &Engine) {
    if engine.ctx.runs_inline() && engine.health.check_writable().is_ok() && engine.ctx.env.draw(2) == 0 {
        let _met = background_step(engine);
    }
}

/// Runs a background step at a drawn point, on a machine without threads. Errors are reported by the writes that they
/// block.
pub(in crate::engine) fn drawn_step(engine: &Engine) {
    if engine.ctx.runs_inline() && engine.ctx.env.draw(DRAW) == 0 {
        let _met = background_step(engine);
    }
}

/// Runs the next job of a kind, if there is one, and removes the files that it made superfluous.
fn step(engine: &Engine, what: WorkKind) -> Result<bool> {
    engine.health.contain("background work", || {
        let stepped = match what {
            WorkKind::Flush => {
                let flushed = flush_oldest(engine);
                engine.work.record_flush(flushed.as_ref().err().map(Error::duplicate));
                flushed.and_then(|flushed| Ok(flushed || relieve_timeline(engine)?))
            }
            WorkKind::Collect => collect_if_due(engine),
            WorkKind::Compact => match forget_dropped(engine) {
                Ok(true) => Ok(true),
                Ok(false) => compact_most_urgent(engine),
                // Writers that wait for a compaction do not wait for this.
                Err(error) => {
                    let compacted = compact_most_urgent(engine);
                    engine.work.record_compaction(TIMELINE, Some(&error), engine.ctx.monotonic());
                    compacted.and_then(|done| if done { Ok(true) } else { Err(error) })
                }
            },
        };
        engine.files.release_unread();
        stepped
    })
}

/// Steps until the database is closed.
pub(in crate::engine) fn work_on(engine: &Engine, what: WorkKind) {
    while let Some(round) = engine.work.round() {
        let stepped = step(engine, what);
        engine.work.wake_writers();
        match stepped {
            Ok(true) => {}
            Ok(false) => engine.work.rest(round, (!matches!(what, WorkKind::Flush)).then_some(LOOK_AGAIN)),
            Err(_) => engine.work.rest_after_error(),
        }
    }
}
