//! Background work and what is asked of it: flushes, compactions, thinning the timeline, forgetting dropped keyspaces.
//!
//! Every job takes its inputs with the list of readers ([`FileSet::job_inputs`](crate::engine::files::FileSet::job_inputs)),
//! writes new segments ([`Outputs`]), and ends with one edit. What all of them are decided by stands here.

mod compact;
mod flush;
mod forget;
mod slots;
mod task;
mod thin;
mod urgent;
mod worker;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

pub use compact::Compacted;
pub(crate) use compact::{Scope, compact};
pub(crate) use flush::flush;
pub(super) use flush::flush_recovered;
use slots::CompactionSlots;
pub(super) use worker::{WorkKind, background_step, drawn_step, idle_step, work_on};

use crate::{
    base::{KeyspaceId, Result},
    compaction::{Aging, Demands, Lane, Rules},
    engine::{
        Engine,
        catalogue::point_index,
        files::{ReaderList, superversion::SuperVersion},
        locks::{Guard, Lock, Rank},
        timeline::Timeline,
    },
    manifest::{KeyspaceVersion, StoredPolicy},
    segment::{Finished, Purpose, SegmentWriter},
};

/// A keyspace is cleared out no more often than this, and wholly when nothing has been written for as long, in microseconds.
const CLEAR_OUT_REST: u64 = 10_000_000;

/// Who is at work.
#[derive(Debug)]
pub(crate) struct Jobs {
    flushing: Lock<()>,
    slots: CompactionSlots,
    /// Checkpoints under way: while there is one, no dropped keyspace is forgotten.
    copying: AtomicUsize,
    /// When keyspaces were last cleared out, in monotonic microseconds.
    cleared: Lock<BTreeMap<KeyspaceId, u64>>,
    idle: Lock<Idle>,
}

/// Since when nothing has been committed.
#[derive(Debug, Default)]
struct Idle {
    visible: u64,
    /// In monotonic microseconds.
    since: u64,
}

impl Default for Jobs {
    fn default() -> Self {
        Self {
            flushing: Lock::new(Rank::Flushing, ()),
            slots: CompactionSlots::default(),
            copying: AtomicUsize::new(0),
            cleared: Lock::new(Rank::Cleared, BTreeMap::new()),
            idle: Lock::new(Rank::Idle, Idle::default()),
        }
    }
}

impl Jobs {
    /// Lets no further job begin, and waits for those at work: they look whether they should stop.
    pub(super) fn end(&self) -> Guard<'_, ()> {
        let no_flush = self.flushing.lock();
        self.slots.end();
        no_flush
    }

    /// Whether a keyspace may be cleared out for what is dead in it. Not again and again: something may keep it all there.
    fn may_clear_out(&self, keyspace: KeyspaceId, now: u64) -> bool {
        let mut cleared = self.cleared.lock();
        let rested = cleared.get(&keyspace).is_none_or(|last| now.saturating_sub(*last) >= CLEAR_OUT_REST);
        if rested {
            // Those that have rested need not be remembered: so what is remembered is bounded by what is cleared out meanwhile.
            cleared.retain(|_, last| now.saturating_sub(*last) < CLEAR_OUT_REST);
            cleared.insert(keyspace, now);
        }
        rested
    }

    /// Whether nothing has been committed for a while.
    fn is_idle(&self, now: u64, visible: u64) -> bool {
        let mut idle = self.idle.lock();
        if idle.visible != visible {
            *idle = Idle { visible, since: now };
        }
        now.saturating_sub(idle.since) >= CLEAR_OUT_REST
    }
}

/// Keeps dropped keyspaces while a copy is made: its moment may be one at which they were there.
pub(super) fn copying(engine: &Engine) -> Copying<'_> {
    engine.jobs.copying.fetch_add(1, Ordering::SeqCst);
    Copying(engine)
}

/// A checkpoint under way.
#[derive(Debug)]
pub(super) struct Copying<'e>(&'e Engine);

impl Drop for Copying<'_> {
    fn drop(&mut self) {
        self.0.jobs.copying.fetch_sub(1, Ordering::SeqCst);
        self.0.work.wake();
    }
}

/// By what the versions of a keyspace are judged now.
fn rules(engine: &Engine, keyspace: &KeyspaceVersion, current: &Arc<SuperVersion>, purged_upto: u64) -> Rules {
    let policy = engine.catalogue.policy_of(keyspace);
    let now = engine.now_us();
    let timeline = Timeline::new(current);
    // A keyspace without a past has nothing that a purge would have to wait for.
    let purged_upto = if keyspace.past.is_empty() { u64::MAX } else { purged_upto };
    Rules {
        strategy: engine.catalogue.strategy_of(keyspace),
        now,
        ttls: Arc::clone(&keyspace.options.ttls),
        timed: engine.catalogue.keeps_time(keyspace),
        // What cannot be found counts as of now: it is kept rather longer.
        time_of: Box::new(move |seqno| timeline.time_of(seqno).unwrap_or(now)),
        purged_upto,
        policy,
    }
}

/// What a job must not drop.
fn demands(keyspace: &KeyspaceVersion, registered: &ReaderList) -> Demands {
    Demands::new(&registered.readers, keyspace.vanished, keyspace.lapsed)
}

/// The earliest time that anybody looks at, in microseconds.
fn seen_from(engine: &Engine) -> u64 {
    engine.now_us().min(engine.files.earliest_read().unwrap_or(u64::MAX))
}

/// Values written at or before this time, in microseconds, may have expired for everybody who looks at `seen_from` or later; nothing where
/// none expire.
fn lapsed(engine: &Engine, keyspace: &KeyspaceVersion, seen_from: u64) -> Option<u64> {
    // Once values have lived for ever, nobody can tell by times which of them do.
    let first = keyspace.options.ttls.iter().position(|(_, ttl)| *ttl > 0)?;
    let since = keyspace.options.ttls.get(first..).unwrap_or_default();
    let longest = since.iter().map(|(_, ttl)| *ttl).max().filter(|_| since.iter().all(|(_, ttl)| *ttl > 0))?;
    let policy = engine.catalogue.policy_of(keyspace);
    // What a policy of the user's own says is not known.
    let own = matches!(keyspace.options.policy, StoredPolicy::Custom(_));
    seen_from.checked_sub(longest)?.checked_sub(policy.window()).filter(|_| !own)
}

/// What the age of the history tier is measured by.
fn aging(engine: &Engine, keyspace: &KeyspaceVersion, registered: &ReaderList) -> Aging {
    let policy = engine.catalogue.policy_of(keyspace);
    Aging {
        window: policy.window(),
        only_age_counts: policy.only_age_counts(),
        now: engine.now_us(),
        registered: registered.readers.seqnos().to_vec(),
    }
}

/// The segment files that a job makes of a keyspace.
struct Outputs<'j> {
    engine: &'j Engine,
    keyspace: &'j KeyspaceVersion,
    /// Nothing inside is below these, in seqno and time.
    bases: (u64, u64),
    /// The number of the history tier's run, once there is one.
    run: Option<u64>,
    /// The numbers of all files made.
    made: Vec<u64>,
}

impl<'j> Outputs<'j> {
    fn new(engine: &'j Engine, keyspace: &'j KeyspaceVersion, bases: (u64, u64)) -> Self {
        Self { engine, keyspace, bases, run: None, made: Vec::new() }
    }

    /// Outputs of a compaction.
    fn of(engine: &'j Engine, keyspace: &'j KeyspaceVersion, inputs: &[Arc<Finished>]) -> Self {
        let seqno = inputs.iter().map(|segment| segment.summary.min_seqno).min().unwrap_or(0);
        // Entries without a time get one from the timeline: it may be any.
        let time = inputs.iter().map(|segment| segment.summary.times.map_or(0, |times| times.base)).min().unwrap_or(0);
        Self::new(engine, keyspace, (seqno, time))
    }

    /// Creates a segment file in a lane.
    fn create(&mut self, lane: Lane) -> Result<SegmentWriter> {
        let Self { engine, keyspace, bases: (base, time_base), .. } = *self;
        let number = engine.files.take_number();
        self.made.push(number);
        let timed = lane == Lane::Past || engine.catalogue.keeps_time(keyspace);
        let purpose = Purpose {
            keyspace: keyspace.id,
            base,
            time_base: timed.then_some(time_base),
            run: (lane == Lane::Past).then(|| *self.run.get_or_insert(number)),
            index: point_index(&keyspace.options),
            hash_seed: engine.ctx.database_id,
        };
        SegmentWriter::create(&*engine.ctx.dir, (number, engine.ctx.env.entropy()), purpose)
    }
}
