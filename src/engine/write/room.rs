//! Back-pressure: slows writers down while background work is behind, and stops them while it must catch up.

use std::{sync::atomic::Ordering, time::Duration};

use crate::{
    base::Result,
    engine::{
        Engine, KeyspaceRef,
        jobs::{background_step, idle_step},
        options::SEALED_MAX,
    },
};

/// Interval at which a waiting writer checks whether to go on waiting.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Longest delay of a writer for one batch.
const DELAY_MAX: Duration = Duration::from_millis(2);

/// Slows writers down while compactions of the keyspaces that they write to are behind, and stops them while those are
/// far behind or flushes are, without burning a core. Every wait ends: with room, or with the error that keeps
/// background work from making any.
pub(super) fn wait_for_room(engine: &Engine, keyspaces: &[KeyspaceRef]) -> Result<()> {
    let threshold = engine.ctx.options.l0_threshold;
    loop {
        let (sealed, l0) = engine.files.with_current(|now| {
            let l0 = keyspaces.iter().map(|keyspace| now.l0_len(keyspace.id)).max();
            (now.sealed.len(), l0.unwrap_or(0))
        });
        let must_wait = sealed >= SEALED_MAX || l0 >= threshold.saturating_mul(8);
        let behind = l0.saturating_sub(threshold.saturating_mul(3));
        if !must_wait && behind == 0 {
            return Ok(());
        }
        if engine.ctx.runs_inline() {
            let stepped = background_step(engine);
            if !must_wait {
                // Only slowed down: an error of the step is returned by the writes that it stops.
                return Ok(());
            }
            if !stepped? {
                return health(engine);
            }
            continue;
        }
        engine.work.wake();
        engine.counters.stalls.fetch_add(1, Ordering::Relaxed);
        if !must_wait {
            // The further behind, the longer: from nothing to the most at the point where writers stop.
            let share = u32::try_from(behind).unwrap_or(u32::MAX);
            let whole = u32::try_from(threshold.saturating_mul(5)).unwrap_or(u32::MAX).max(1);
            engine.work.wait_for_room(DELAY_MAX * share.min(whole) / whole);
            return Ok(());
        }
        engine.work.wait_for_room(LOOK_AGAIN);
        engine.health.check_writable()?;
        if let Some(error) = engine.work.trouble_for(keyspaces.iter().map(|keyspace| keyspace.id)) {
            return Err(error);
        }
    }
}

/// Fails with the error for which writes or background work have stopped. On a machine without threads, gives
/// background work a turn first.
pub(crate) fn health(engine: &Engine) -> Result<()> {
    engine.check_open()?;
    idle_step(engine);
    engine.health.check_not_poisoned()?;
    engine.work.trouble().map_or(Ok(()), Err)
}
