//! Background jobs: flushes, compactions, thinning the timeline, forgetting dropped keyspaces.
//!
//! Every job takes its inputs with the list of readers
//! ([`FileSet::job_inputs`](crate::engine::files::FileSet::job_inputs)), writes new segments ([`Outputs`]), and ends
//! with one edit. This file holds what all of them decide by.

mod collect;
mod compact;
mod flush;
mod forget;
mod garbage;
mod places;
mod recipes;
mod replace;
mod slots;
mod task;
mod thin;
mod urgent;
mod worker;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

pub(super) use collect::check_going_on;
pub use compact::Compacted;
pub(crate) use compact::{Scope, compact};
pub(crate) use flush::flush;
pub(super) use flush::{flush_recovered, flush_recovered_chunks};
use garbage::Garbage;
pub(crate) use places::rebuild;
pub use recipes::ChunkHolders;
pub(crate) use recipes::{freeable, why};
pub(super) use replace::{Replacements, bring_recipes_down, replace_recipes};
use slots::CompactionSlots;
pub(super) use worker::{WorkKind, background_step, drawn_step, idle_step, work_on};

use crate::{
    base::{FileNumber, KeyspaceId, Micros, PLACES, Result, Seqno},
    compaction::{Aging, Demands, OlderSegments, Readers, Retention, Rules, Tier},
    engine::{
        Engine,
        files::{JobInputs, ReaderList, superversion::SuperVersion},
        locks::{Guard, Lock, LockOrder, Rank},
        timeline::Timeline,
    },
    manifest::{KeyspaceVersion, StoredPolicy},
    segment::{Purpose, SegmentMeta, SegmentWriter},
};

/// Shortest time between two clear-outs of a keyspace, and time without commits after which all of it may be cleared
/// out, in microseconds.
const CLEAR_OUT_REST: Micros = Micros(10_000_000);

/// State of the jobs of a database.
#[derive(Debug)]
pub(crate) struct Jobs {
    collecting: Lock<()>,
    pub(super) garbage: Garbage,
    flushing: Lock<()>,
    slots: CompactionSlots,
    /// Keyspaces whose values are being cut anew.
    rechunked: Lock<BTreeSet<KeyspaceId>>,
    /// Number of running checkpoints: while there is one, no dropped keyspace is forgotten.
    copying: AtomicUsize,
    /// Times at which keyspaces were last cleared out, in monotonic microseconds.
    cleared: Lock<BTreeMap<KeyspaceId, Micros>>,
    idle: Lock<Idle>,
}

/// Start of the time without commits.
#[derive(Debug, Default)]
struct Idle {
    visible: Seqno,
    /// In monotonic microseconds.
    since: Micros,
}

impl Jobs {
    pub(super) fn new(order: LockOrder) -> Self {
        Self {
            collecting: order.lock(Rank::Collecting, ()),
            garbage: Garbage::default(),
            flushing: order.lock(Rank::Flushing, ()),
            slots: CompactionSlots::new(order),
            rechunked: order.lock(Rank::Rechunked, BTreeSet::new()),
            copying: AtomicUsize::new(0),
            cleared: order.lock(Rank::Cleared, BTreeMap::new()),
            idle: order.lock(Rank::Idle, Idle::default()),
        }
    }

    /// Prevents further jobs and waits for the running ones, which check whether to stop.
    pub(super) fn end(&self) -> [Guard<'_, ()>; 2] {
        let no_collection = self.collecting.lock();
        let no_flush = self.flushing.lock();
        self.slots.end();
        [no_collection, no_flush]
    }

    /// Returns whether a keyspace may be cleared of dead entries now. Limited in rate, since something may still need
    /// all of them.
    fn may_clear_out(&self, keyspace: KeyspaceId, now: Micros) -> bool {
        let mut cleared = self.cleared.lock();
        let rested = cleared.get(&keyspace).is_none_or(|last| now.saturating_sub(*last) >= CLEAR_OUT_REST);
        if rested {
            // Keyspaces that have rested need not be remembered, so the map is bounded by what is cleared out
            // meanwhile.
            cleared.retain(|_, last| now.saturating_sub(*last) < CLEAR_OUT_REST);
            cleared.insert(keyspace, now);
        }
        rested
    }

    /// Returns whether nothing has been committed for a while.
    fn is_idle(&self, now: Micros, visible: Seqno) -> bool {
        let mut idle = self.idle.lock();
        if idle.visible != visible {
            *idle = Idle { visible, since: now };
        }
        now.saturating_sub(idle.since) >= CLEAR_OUT_REST
    }
}

/// Begins to cut the values of a keyspace anew; `None` while another call does: each would undo what the other has
/// done.
pub(super) fn rechunking(engine: &Engine, keyspace: KeyspaceId) -> Option<Rechunking<'_>> {
    let is_alone = engine.jobs.rechunked.lock().insert(keyspace);
    // Created only once it is known: dropping one gives the right back.
    is_alone.then(|| Rechunking(engine, keyspace))
}

/// The right to cut the values of a keyspace anew, until it is dropped.
#[derive(Debug)]
pub(super) struct Rechunking<'e>(&'e Engine, KeyspaceId);

impl Drop for Rechunking<'_> {
    fn drop(&mut self) {
        self.0.jobs.rechunked.lock().remove(&self.1);
    }
}

/// Keeps dropped keyspaces during a checkpoint, whose moment may precede the drop.
pub(super) fn copying(engine: &Engine) -> Copying<'_> {
    engine.jobs.copying.fetch_add(1, Ordering::SeqCst);
    Copying(engine)
}

/// A running checkpoint.
#[derive(Debug)]
pub(super) struct Copying<'e>(&'e Engine);

impl Drop for Copying<'_> {
    fn drop(&mut self) {
        self.0.jobs.copying.fetch_sub(1, Ordering::SeqCst);
        self.0.work.wake();
    }
}

/// Returns what decides about the versions of a keyspace that a job meets; `older` are the segments beneath it.
fn retention(
    engine: &Engine,
    keyspace: &KeyspaceVersion,
    inputs: &JobInputs,
    purged_upto: Seqno,
    older: Vec<Arc<SegmentMeta>>,
) -> Retention {
    let rules = rules(engine, keyspace, &inputs.files, purged_upto);
    Retention { rules, demands: demands(keyspace, &inputs.registered), older: OlderSegments(older) }
}

/// Returns the rules by which versions of a keyspace are kept now.
fn rules(engine: &Engine, keyspace: &KeyspaceVersion, current: &Arc<SuperVersion>, purged_upto: Seqno) -> Rules {
    let policy = engine.catalogue.policy_of(keyspace);
    let now = engine.now();
    let timeline = Timeline::new(current);
    // Without a history tier there is nothing that a purge would have to wait for.
    let purged_upto = if keyspace.history.is_empty() { Seqno::MAX } else { purged_upto };
    Rules {
        strategy: engine.catalogue.strategy_of(keyspace),
        now,
        ttls: Arc::clone(&keyspace.options.ttls),
        timed: engine.catalogue.keeps_time(keyspace),
        // An unknown time counts as now: the version is kept rather longer.
        time_of: Box::new(move |seqno| timeline.time_of(seqno).unwrap_or(now)),
        purged_upto,
        policy,
    }
}

/// Returns the readers for which a job must keep versions. Nobody reads places of the past.
fn demands(keyspace: &KeyspaceVersion, registered: &ReaderList) -> Demands {
    if keyspace.id == PLACES {
        return Demands::new(&Arc::new(Readers::default()), keyspace.vanished, keyspace.expired_upto);
    }
    Demands::new(&registered.readers, keyspace.vanished, keyspace.expired_upto)
}

/// Returns the earliest time that any reader reads at, in microseconds.
fn seen_from(engine: &Engine) -> Micros {
    engine.now().min(engine.files.earliest_read().unwrap_or(Micros::MAX))
}

/// Returns a time, in microseconds: values written at or before it may have expired for every reader at `seen_from` or
/// later. `None` if values do not expire.
fn expiry_cutoff(engine: &Engine, keyspace: &KeyspaceVersion, seen_from: Micros) -> Option<Micros> {
    // Once a TTL has been removed, write times do not show which values live for ever.
    let first = keyspace.options.ttls.iter().position(|(_, ttl)| *ttl > Micros::ZERO)?;
    let since = keyspace.options.ttls.get(first..).unwrap_or_default();
    let longest =
        since.iter().map(|(_, ttl)| *ttl).max().filter(|_| since.iter().all(|(_, ttl)| *ttl > Micros::ZERO))?;
    let policy = engine.catalogue.policy_of(keyspace);
    // What a custom policy keeps is not known.
    let own = matches!(keyspace.options.policy, StoredPolicy::Custom(_));
    seen_from.checked_sub(longest)?.checked_sub(policy.window()).filter(|_| !own)
}

/// Returns what the aging of the history tier depends on.
fn aging(engine: &Engine, keyspace: &KeyspaceVersion, registered: &ReaderList) -> Aging {
    let policy = engine.catalogue.policy_of(keyspace);
    Aging {
        window: policy.window(),
        only_age_counts: policy.only_age_counts(),
        now: engine.now(),
        registered: registered.readers.seqnos().to_vec(),
    }
}

/// The segment files that a job creates for a keyspace.
struct Outputs<'j> {
    engine: &'j Engine,
    keyspace: &'j KeyspaceVersion,
    /// Lower bound of the seqnos inside.
    base: Seqno,
    /// Lower bound of the times inside.
    time_base: Micros,
    /// Number of the history tier's run, once there is one.
    run: Option<FileNumber>,
    /// Numbers of all files created.
    made: Vec<FileNumber>,
}

impl<'j> Outputs<'j> {
    fn new(engine: &'j Engine, keyspace: &'j KeyspaceVersion, base: Seqno, time_base: Micros) -> Self {
        Self { engine, keyspace, base, time_base, run: None, made: Vec::new() }
    }

    /// Creates the outputs of a compaction.
    fn of(engine: &'j Engine, keyspace: &'j KeyspaceVersion, inputs: &[Arc<SegmentMeta>]) -> Self {
        let seqno = inputs.iter().map(|segment| segment.summary.min_seqno).min().unwrap_or(Seqno(0));
        // Entries without a time get one from the timeline, which may be any.
        let time = inputs
            .iter()
            .map(|segment| segment.summary.times.map_or(Micros::ZERO, |times| times.base))
            .min()
            .unwrap_or_default();
        Self::new(engine, keyspace, seqno, time)
    }

    /// Creates a segment file in a tier.
    fn create(&mut self, tier: Tier) -> Result<SegmentWriter> {
        let Self { engine, keyspace, base, time_base, .. } = *self;
        let number = engine.files.take_number();
        self.made.push(number);
        let timed = tier == Tier::History || engine.catalogue.keeps_time(keyspace);
        let purpose = Purpose {
            keyspace: keyspace.id,
            base,
            time_base: timed.then_some(time_base),
            run: (tier == Tier::History).then(|| *self.run.get_or_insert(number)),
            index: keyspace.options.point_index,
            hash_seed: engine.ctx.database_id,
        };
        SegmentWriter::create(&*engine.ctx.dir, number, engine.ctx.env.entropy(), purpose)
    }
}
