//! The values of a keyspace cut anew, under another chunking; nothing else about them changes.
//!
//! ```text
//!   configure   new values are cut the new way
//!   flush ▸ level 0 down                       below it a segment may be divided
//!   for each tier, in the order of the keys, some recipes at a time:
//!     cut       each value that is cut the old way: read, cut, its chunks stored and held
//!     flush     the packs of those chunks get their names (L2)
//!     replace   every segment that has one of these recipes is written anew with the new ones
//! ```
//!
//! Nothing is remembered: what is cut the new way is passed over, so that the same call goes on after a crash. The main
//! tree comes first: what a compaction moves to the history tier meanwhile is met there.

use std::{fmt, sync::Arc};

use super::{
    Engine, KeyspaceRef,
    catalogue::dropped,
    chunk_store::Writing,
    files::{
        runs::{RunCursor, VersionRunCursor},
        superversion::SuperVersion,
        tree::{HistoryRun, SegmentHandle},
    },
    jobs::{self, Replacements, bring_recipes_down, check_going_on, replace_recipes},
    keyspaces,
    options::Limits,
    read::{Extent, LargeValue, extent},
    watch::Watch,
    write::cut_anew,
};
use crate::{
    base::{Bytes, Error, KeySpan, Kind, Result, Seqno},
    chunk::{
        cut::{Chunking, CutPolicy},
        recipe::Recipe,
    },
    compaction::Tier,
    merge::{Direction, Kway, Source},
};

/// Report of [`Db::rechunk`](crate::Db::rechunk).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rechunked {
    /// Versions of values whose recipe was replaced; among them those that were dropped in the same step, because the
    /// policy does not keep them.
    pub values: u64,
    /// Bytes that were read and cut: a value that many keys or versions share is cut once, or few times.
    pub bytes: u64,
    /// Chunks that were not stored before.
    pub new_chunks: u64,
    /// Bytes that this added to packs, compressed.
    pub stored_bytes: u64,
    /// Versions that stay as they were cut: a chunk of them cannot be read, or their chunks have more than 16 TiB, or
    /// are more than a million of less than 64 bytes on average. One that a compaction moves meanwhile may be counted
    /// twice. [`Db::verify`](crate::Db::verify) names the damaged ones.
    pub left: u64,
}

impl fmt::Display for Rechunked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { values, bytes, new_chunks, stored_bytes, left } = self;
        write!(f, "{values} versions have another recipe; {bytes} bytes were cut, ")?;
        write!(f, "{new_chunks} new chunks of {stored_bytes} bytes stored")?;
        if *left > 0 {
            write!(f, "; {left} versions stay as they were cut")?;
        }
        Ok(())
    }
}

/// Bytes of values that are cut before their recipes are replaced: what a crash or an error gives up.
const BYTES_MAX: u64 = 1 << 30;

/// Most bytes in the chunks of a value that is cut anew; and its most chunks, if they are shorter than [`SHORT`] on
/// average: a recipe of a few KiB can claim 2⁶³ of them (L12).
const LEN_MAX: u64 = 16 << 40;
const CHUNKS_MAX: u64 = 1 << 20;
const SHORT: u64 = 64;

/// Free bytes of the disk below which nothing is cut: jobs need some to give back what was dropped.
const FREE_MIN: u64 = 16 << 20;

/// Memory for a value that was cut beside its recipes.
const VALUE_OVERHEAD: usize = 512;

/// Entries between two looks whether to go on.
const LOOK_EVERY: u32 = 1024;

/// Cuts the values of a keyspace anew.
pub(crate) fn rechunk(
    engine: &Arc<Engine>,
    keyspace: &KeyspaceRef,
    chunking: Chunking,
    watch: &mut Watch<'_>,
) -> Result<Rechunked> {
    engine.health.check_writable()?;
    let policy = chunking.single().map_err(|error| keyspace.named(error))?;
    if keyspace.strategy.folds() {
        return Err(keyspace.named(Error::invalid(
            "it combines values (Sum, Append or custom), which are never cut into chunks; there is nothing to cut anew",
        )));
    }
    let Some(_alone) = jobs::rechunking(engine, keyspace.id) else {
        return Err(keyspace.named(Error::invalid(
            "its values are being cut anew already; wait for the end of that call, or cancel it",
        )));
    };
    keyspaces::set_chunking(engine, keyspace, chunking)?;
    jobs::flush(engine)?;
    engine.health.contain("values cut anew", || {
        bring_recipes_down(engine, keyspace.id)?;
        // The total is not known yet; the call can be cancelled already.
        watch.begin(0)?;
        let mut cut = Cut { engine, keyspace, policy, watch, done: 0, total: 0, report: Rechunked::default() };
        for tier in [Tier::Main, Tier::History] {
            cut.count(tier)?;
        }
        let total = cut.total;
        cut.watch.begin(total)?;
        cut.watch.begin_part(total);
        for tier in [Tier::Main, Tier::History] {
            let mut reached = None;
            loop {
                reached = cut.some(tier, reached.as_ref())?;
                if reached.is_none() {
                    break;
                }
            }
        }
        cut.watch.end();
        Ok(cut.report)
    })
}

/// The place of an entry in a tier. Others come and go; it stays.
#[derive(Clone, Debug, PartialEq, Eq)]
struct At {
    key: Vec<u8>,
    seqno: Seqno,
}

/// The call under way.
struct Cut<'c, 'w> {
    engine: &'c Arc<Engine>,
    keyspace: &'c KeyspaceRef,
    policy: CutPolicy,
    watch: &'c mut Watch<'w>,
    /// Bytes of values passed so far, and those that were met at the beginning.
    done: u64,
    total: u64,
    report: Rechunked,
}

/// Recipes that are to be replaced together.
#[derive(Default)]
struct Group {
    by: Replacements,
    /// Keeps the chunks of the new ones.
    held: Vec<Arc<Writing>>,
    recipe_bytes: usize,
    value_bytes: u64,
    first: Option<Vec<u8>>,
    last: Option<At>,
}

impl Group {
    fn is_full(&self, limits: &Limits) -> bool {
        self.recipe_bytes >= limits.rechunk_bytes
            || self.by.recipes.len() >= limits.rechunk_values
            || self.value_bytes >= BYTES_MAX
    }
}

impl Cut<'_, '_> {
    /// Counts the bytes that are cut the old way in a tier.
    fn count(&mut self, tier: Tier) -> Result<()> {
        let files = self.engine.files.current();
        let (policy, mut total) = (self.policy, 0u64);
        let Self { engine, keyspace, watch, .. } = self;
        each_recipe(engine, &files, keyspace, tier, None, |step| {
            let Step::Recipe(_, entry) = step else { return watch.step(0, 1).map(|()| true) };
            if let Ok(recipe) = Recipe::decode(&entry)
                && recipe.chunking != policy
            {
                total = total.saturating_add(recipe.len.min(LEN_MAX));
            }
            Ok(true)
        })?;
        self.total = self.total.saturating_add(total);
        Ok(())
    }

    /// Replaces the next recipes of a tier; returns where they end, `None` if that is the end of the tier.
    fn some(&mut self, tier: Tier, from: Option<&At>) -> Result<Option<At>> {
        let (engine, keyspace) = (self.engine, self.keyspace);
        let mut group = Group::default();
        // Values are read in the files that their recipes are in (L7).
        let files = engine.files.current();
        let mut is_cut_short = false;
        let walked = each_recipe(engine, &files, keyspace, tier, from, |step| {
            let Step::Recipe(at, entry) = step else {
                let (done, total) = (self.done, self.total);
                return self.watch.step(done, total).map(|()| true);
            };
            // Versions of one commit stay together: the place does not tell them apart.
            is_cut_short = group.is_full(&engine.ctx.options.limits) && group.last.as_ref() != Some(&at);
            if !is_cut_short {
                self.add(&mut group, at, entry, &files)?;
            }
            Ok(!is_cut_short)
        });
        drop(files);
        let is_cancelled = matches!(walked, Err(Error::Cancelled));
        if !is_cancelled {
            walked?;
        }
        let Group { by, held, value_bytes, first, last, .. } = group;
        if let (Some(start), Some(At { key, .. })) = (first, &last) {
            // No edit names a recipe before the packs of its chunks (L2).
            jobs::flush(engine)?;
            let span = KeySpan { start, end: Some([key, &[0][..]].concat()) };
            let (watch, done, total) = (&mut *self.watch, self.done, self.total);
            // What is cut is not given up: a call that is cancelled every night comes to an end some night.
            let mut go_on = || if is_cancelled { Ok(()) } else { watch.step(done, total) };
            self.report.values += replace_recipes(engine, keyspace.id, tier, &span, &Arc::new(by), &mut go_on)?;
            engine.jobs.garbage.record_dropped(value_bytes);
            for writing in held {
                writing.set_committed();
            }
        }
        if is_cancelled { Err(Error::Cancelled) } else { Ok(last.filter(|_| is_cut_short)) }
    }

    /// Cuts the value of a recipe anew, unless it is cut this way or cannot be read.
    fn add(&mut self, group: &mut Group, at: At, entry: Bytes, files: &SuperVersion) -> Result<()> {
        let Self { engine, keyspace, policy, watch, done, total, report } = self;
        let recipe = match Recipe::decode(&entry) {
            Ok(recipe) if recipe.chunking == *policy => return Ok(()),
            Ok(recipe) => recipe,
            Err(_) => {
                report.left += 1;
                return Ok(());
            }
        };
        let before = *done;
        *done = done.saturating_add(recipe.len.min(LEN_MAX));
        if !group.by.recipes.contains_key(&entry) {
            let value = LargeValue { chunks: &files.chunks, keyspace, key: &at.key };
            let told = |bytes: u64| {
                check_going_on(engine)?;
                check_room(engine)?;
                watch.step(before.saturating_add(bytes), *total)
            };
            check_room(engine)?;
            let staged = match extent(value, &recipe) {
                Ok(Extent { chunks, bytes })
                    if bytes <= LEN_MAX && (chunks <= CHUNKS_MAX || bytes / chunks >= SHORT) =>
                {
                    cut_anew(engine, keyspace, &at.key, (entry.clone(), &files.chunks), *policy, told)?.map(Some)
                }
                Ok(_) => Ok(None),
                Err(error) => Err(error),
            };
            let staged = match staged {
                Ok(Some(staged)) => staged,
                // Whoever reads it is told; everything else can still be cut anew.
                Err(error) if !is_unreadable(&error) => return Err(error),
                Ok(None) | Err(_) => {
                    report.left += 1;
                    return Ok(());
                }
            };
            let tally = staged.tally;
            report.new_chunks += tally.new_chunks;
            report.stored_bytes += tally.stored_bytes;
            let Some((new, writing)) = staged.into_recipe() else {
                return Err(keyspace.of_key(&at.key, Error::invalid("a recipe of no bytes; `verify` names it")));
            };
            // The new one also stands decoded in what keeps its chunks.
            group.recipe_bytes += entry.len() + 3 * new.len() + VALUE_OVERHEAD;
            group.value_bytes += recipe.len.min(LEN_MAX);
            group.by.recipes.insert(entry, new);
            group.held.push(writing);
            report.bytes = report.bytes.saturating_add(recipe.len);
        }
        group.first.get_or_insert_with(|| at.key.clone());
        group.last = Some(at);
        Ok(())
    }
}

/// Fails while the disk is nearly full: what is cut anew is there twice until it is collected, and a full disk lets
/// nobody collect.
fn check_room(engine: &Engine) -> Result<()> {
    let is_scarce = engine.ctx.dir.available_space().is_ok_and(|free| free < FREE_MIN);
    if is_scarce { Err(Error::DiskFull) } else { Ok(()) }
}

/// Returns whether bytes are damaged, or on a part of the disk that cannot be read.
fn is_unreadable(error: &Error) -> bool {
    match error {
        Error::CorruptChunk { .. } => true,
        Error::Io { source, .. } => source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()),
        _ => false,
    }
}

/// What a walk over the recipes of a tier comes to.
enum Step {
    Recipe(At, Bytes),
    /// Many entries further.
    Further,
}

/// Calls `told` with every recipe of a keyspace in a tier, in the order of their places behind `from`, until it returns
/// `false`. Level 0 is left out: what it has got meanwhile is cut the new way.
fn each_recipe(
    engine: &Engine,
    files: &SuperVersion,
    keyspace: &KeyspaceRef,
    tier: Tier,
    from: Option<&At>,
    told: impl FnMut(Step) -> Result<bool>,
) -> Result<()> {
    let tree = files.trees.get(&keyspace.id).filter(|tree| !tree.dropped).ok_or_else(|| dropped(keyspace))?;
    let run = |handles: &[Arc<SegmentHandle>]| -> Vec<Arc<SegmentHandle>> {
        let is_met = |handle: &&Arc<SegmentHandle>| {
            let summary = &handle.meta.summary;
            summary.recipes && from.is_none_or(|from| summary.span.end.as_ref().is_none_or(|end| *end > from.key))
        };
        handles.iter().filter(is_met).cloned().collect()
    };
    match tier {
        Tier::Main => {
            let levels = tree.levels.iter().skip(1).map(|level| RunCursor::new(run(level), Direction::Forward, ()));
            each_in(engine, levels.collect(), from, told)
        }
        Tier::History => {
            let cursor = |of: &HistoryRun| VersionRunCursor::new(run(&of.segments), Direction::Forward, ());
            each_in(engine, tree.history.iter().map(cursor).collect(), from, told)
        }
    }
}

fn each_in<S: Source>(
    engine: &Engine,
    sources: Vec<S>,
    from: Option<&At>,
    mut told: impl FnMut(Step) -> Result<bool>,
) -> Result<()> {
    let mut merge = Kway::new(sources, Direction::Forward);
    merge.seek(Some(from.map_or(&[][..], |from| &from.key)))?;
    let mut passed = 0u32;
    while let Some(source) = merge.top()
        && let Some(entry) = source.entry()
    {
        passed = passed.wrapping_add(1);
        if passed.is_multiple_of(LOOK_EVERY) {
            check_going_on(engine)?;
            told(Step::Further)?;
        }
        let is_told = from.is_some_and(|from| entry.key == from.key && entry.seqno >= from.seqno);
        if entry.kind == Kind::Recipe && !is_told {
            let at = At { key: entry.key.to_vec(), seqno: entry.seqno };
            if !told(Step::Recipe(at, source.value()))? {
                return Ok(());
            }
        }
        merge.advance()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use super::*;
    use crate::{
        Db, KeyspaceOptions, Options, Policy,
        engine::options::Limits,
        env::{Fault, Sim},
    };

    const HOUR: Duration = Duration::from_secs(3600);

    fn open(machine: &Sim, rechunk_values: usize) -> Db {
        open_with(machine, Limits { rechunk_values, ..Limits::default() })
    }

    fn open_with(machine: &Sim, limits: Limits) -> Db {
        Options { limits, ..Options::new().env(machine.clone()).memory_budget(4 << 20) }.open("/db").unwrap()
    }

    fn value(seed: u32) -> Vec<u8> {
        (0..2000u32).flat_map(|at| (at ^ seed).wrapping_mul(0x9e37_79b9).to_le_bytes()).collect()
    }

    /// Versions of few keys, so that a group ends within a key, and two in one commit.
    fn fill(db: &Db) {
        let options = KeyspaceOptions::new().chunk_threshold(1000).policy(Policy::mvcc(100, HOUR));
        let k = db.keyspace("k", options.chunking(Chunking::fixed(512))).unwrap();
        for round in 0..5 {
            for key in ["a", "b"] {
                let mut batch = db.batch();
                batch.put(&k, key, value(round * 2));
                batch.put(&k, key, value(round * 2 + 1));
                batch.commit().unwrap();
            }
            db.flush().unwrap();
            if round == 2 {
                db.compact().unwrap();
            }
        }
    }

    fn history(db: &Db) -> Vec<(Seqno, Option<Bytes>)> {
        let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        let versions = ["a", "b"].into_iter().flat_map(|key| k.history(key).map(Result::unwrap));
        versions.map(|version| (version.seqno, version.value)).collect()
    }

    fn are_cut(db: &Db, chunking: Chunking) -> bool {
        let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        history(db).iter().all(|(seqno, _)| {
            let then = db.as_of(*seqno).unwrap();
            let cut = ["a", "b"].map(|key| then.recipe(&k, key).unwrap().map(|recipe| recipe.chunking()));
            cut.into_iter().flatten().all(|cut| cut == chunking)
        })
    }

    #[test]
    fn a_group_may_end_within_a_key_and_a_compaction_come_between_any_two() {
        let new = Chunking::fixed(4096);
        for rechunk_values in [1, 2, 3, 1000] {
            for compacts in [false, true] {
                let machine = Sim::new(1);
                let db = open(&machine, rechunk_values);
                fill(&db);
                let (before, other) = (history(&db), db.clone());
                let groups = Arc::new(AtomicUsize::new(0));
                let counted = Arc::clone(&groups);
                machine.on_point(move |point| {
                    if point == "rechunk: cut, then replaced" {
                        counted.fetch_add(1, Ordering::Relaxed);
                        if compacts {
                            other.compact().unwrap();
                        }
                    }
                });
                let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
                let done = db.rechunk(&k, new).unwrap();
                machine.ignore_points();
                assert_eq!((history(&db) == before, are_cut(&db, new), done.left), (true, true, 0));
                let groups = groups.load(Ordering::Relaxed);
                // Ten versions of five values; those of both keys are replaced together.
                assert_eq!(done.values, 10, "{groups} groups of {rechunk_values}, {done}");
                assert!(
                    (5 / rechunk_values.min(4)..=10).contains(&groups),
                    "{groups} groups of {rechunk_values}, {done}"
                );
                assert_eq!(db.rechunk(&k, new).unwrap().values, 0);
            }
        }
    }

    /// Recipes that are replaced together are bounded by their bytes, and a run of the history tier stays one run,
    /// whichever of its segments are written anew.
    #[test]
    fn groups_are_bounded_by_their_bytes_and_a_run_of_the_past_stays_one() {
        let machine = Sim::new(1);
        let db = open_with(&machine, Limits { rechunk_bytes: 40_000, ..Limits::default() });
        let options = KeyspaceOptions::new().chunk_threshold(1000).policy(Policy::mvcc(100, HOUR));
        let k = db.keyspace("k", options.chunking(Chunking::fixed(512))).unwrap();
        for round in 0..2 {
            for key in 0..100u32 {
                k.put(key.to_be_bytes(), value(round * 1000 + key)).unwrap();
                // Small, so that there are segments without recipes between the others.
                k.put([&key.to_be_bytes()[..], b"small"].concat(), [7; 900]).unwrap();
            }
        }
        for key in 0..6000u32 {
            k.put([&key.to_be_bytes()[..], b"later"].concat(), [round_of(key); 900]).unwrap();
            k.put([&key.to_be_bytes()[..], b"later"].concat(), [8; 900]).unwrap();
        }
        db.compact().unwrap();
        let runs = || -> Vec<usize> {
            let files = db.engine().files.current();
            files.trees[&k.keyspace_ref().id].history.iter().map(|run| run.segments.len()).collect()
        };
        let before = runs();
        assert!(before.len() == 1 && before[0] > 1, "{before:?}");
        let groups = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&groups);
        machine.on_point(move |point| {
            counted.fetch_add(usize::from(point == "rechunk: cut, then replaced"), Ordering::Relaxed);
        });
        let done = db.rechunk(&k, Chunking::fixed(4096)).unwrap();
        machine.ignore_points();
        assert_eq!((done.values, done.left), (200, 0));
        // 16 references of 36 bytes before, two behind, and 512 for each value.
        assert!((4..=10).contains(&groups.load(Ordering::Relaxed)), "{groups:?} groups of 40,000 bytes");
        let after = runs();
        assert_eq!((after.len(), after.iter().sum::<usize>()), (1, before[0]), "{before:?} before, {after:?}");
    }

    fn round_of(key: u32) -> u8 {
        key.to_le_bytes()[0]
    }

    #[test]
    fn what_was_replaced_before_a_failure_is_not_cut_again() {
        let first = Sim::new(1);
        fill(&open(&first, 1));
        let (all, calls) = {
            let machine = first.fork();
            let db = open(&machine, 1);
            let (k, before) = (db.keyspace("k", KeyspaceOptions::new()).unwrap(), machine.calls());
            (db.rechunk(&k, Chunking::fixed(4096)).unwrap().values, machine.calls() - before)
        };
        let mut left = Vec::new();
        for call in (0..calls).step_by(5) {
            let machine = first.fork();
            let db = open(&machine, 1);
            let before = history(&db);
            let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
            machine.fail_at(machine.calls() + call, Fault::Enospc);
            let failed = db.rechunk(&k, Chunking::fixed(4096));
            machine.clear_faults();
            assert!(history(&db) == before, "call {call}");
            // A sync that failed stops writes for good.
            drop((db, k));
            let db = open(&machine, 1);
            let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
            let again = db.rechunk(&k, Chunking::fixed(4096)).unwrap().values;
            if failed.is_err() {
                left.push(again);
            }
            assert!(history(&db) == before && are_cut(&db, Chunking::fixed(4096)), "call {call}");
        }
        assert!(left.len() > 10 && left.first() == Some(&all) && left.is_sorted_by(|a, b| a >= b), "{all}: {left:?}");
        assert!(left.last().is_some_and(|last| *last <= all / 3), "{all}: {left:?}");
    }
}
