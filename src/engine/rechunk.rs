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
    /// Versions of values that have another recipe now.
    pub values: u64,
    /// Bytes that were read and cut: a value that many keys or versions share is cut once, or few times.
    pub bytes: u64,
    /// Chunks that were not stored before.
    pub new_chunks: u64,
    /// Bytes that this added to packs, compressed.
    pub stored_bytes: u64,
    /// Versions that stay as they were cut, because a chunk of them cannot be read, or because they claim to be longer
    /// than 16 TiB. [`Db::verify`](crate::Db::verify) names the damaged ones.
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

/// Bytes of recipes, old and new, that are replaced together: in memory, with what keeps their chunks.
const RECIPES_MAX: usize = 16 << 20;

/// Bytes of values that are cut before their recipes are replaced: what a crash or a cancellation gives up.
const BYTES_MAX: u64 = 4 << 30;

/// The longest value that is cut anew. A recipe of a few bytes can claim 2⁶³ zeros (L12).
const LEN_MAX: u64 = 16 << 40;

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
    fn is_full(&self, values_max: usize) -> bool {
        self.recipe_bytes >= RECIPES_MAX || self.by.recipes.len() >= values_max || self.value_bytes >= BYTES_MAX
    }
}

impl Cut<'_, '_> {
    /// Counts the bytes that are cut the old way in a tier.
    fn count(&mut self, tier: Tier) -> Result<()> {
        let files = self.engine.files.current();
        let (policy, mut total) = (self.policy, 0u64);
        each_recipe(self.engine, &files, self.keyspace, tier, None, |_, entry| {
            if let Ok(recipe) = Recipe::decode(&entry)
                && recipe.chunking != policy
            {
                total = total.saturating_add(recipe.len);
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
        each_recipe(engine, &files, keyspace, tier, from, |at, entry| {
            // Versions of one commit stay together: the place does not tell them apart.
            is_cut_short = group.is_full(engine.ctx.options.limits.rechunk_values) && group.last.as_ref() != Some(&at);
            if !is_cut_short {
                self.add(&mut group, at, entry, &files)?;
            }
            Ok(!is_cut_short)
        })?;
        drop(files);
        let Group { by, held, value_bytes, first, last, .. } = group;
        if let (Some(start), Some(At { key, .. })) = (first, &last) {
            // No edit names a recipe before the packs of its chunks (L2).
            jobs::flush(engine)?;
            let span = KeySpan { start, end: Some([key, &[0][..]].concat()) };
            self.report.values += replace_recipes(engine, keyspace.id, tier, &span, &Arc::new(by))?;
            engine.jobs.garbage.record_dropped(value_bytes);
            for writing in held {
                writing.set_committed();
            }
        }
        Ok(last.filter(|_| is_cut_short))
    }

    /// Cuts the value of a recipe anew, unless it is cut this way or cannot be read.
    fn add(&mut self, group: &mut Group, at: At, entry: Bytes, files: &SuperVersion) -> Result<()> {
        let Self { engine, keyspace, policy, watch, done, total, report } = self;
        let recipe = match Recipe::decode(&entry) {
            Ok(recipe) if recipe.chunking == *policy => return Ok(()),
            Ok(recipe) if recipe.len <= LEN_MAX => recipe,
            _ => {
                report.left += 1;
                return Ok(());
            }
        };
        if !group.by.recipes.contains_key(&entry) {
            let before = *done;
            let told = |bytes: u64| {
                check_going_on(engine)?;
                watch.step(before.saturating_add(bytes), *total)
            };
            let staged = match cut_anew(engine, keyspace, &at.key, (entry.clone(), &files.chunks), *policy, told) {
                // Whoever reads it is told; everything else can still be cut anew.
                Err(Error::CorruptChunk { .. }) => {
                    report.left += 1;
                    return Ok(());
                }
                staged => staged?,
            };
            let tally = staged.tally;
            report.new_chunks += tally.new_chunks;
            report.stored_bytes += tally.stored_bytes;
            let Some((new, writing)) = staged.into_recipe() else {
                return Err(keyspace.of_key(&at.key, Error::invalid("a recipe of no bytes; `verify` names it")));
            };
            group.recipe_bytes += entry.len() + new.len();
            group.value_bytes += recipe.len;
            group.by.recipes.insert(entry, new);
            group.held.push(writing);
            report.bytes = report.bytes.saturating_add(recipe.len);
        }
        *done = done.saturating_add(recipe.len);
        group.first.get_or_insert_with(|| at.key.clone());
        group.last = Some(at);
        Ok(())
    }
}

/// Calls `told` with every recipe of a keyspace in a tier, in the order of their places behind `from`, until it returns
/// `false`. Level 0 is left out: what it has got meanwhile is cut the new way.
fn each_recipe(
    engine: &Engine,
    files: &SuperVersion,
    keyspace: &KeyspaceRef,
    tier: Tier,
    from: Option<&At>,
    told: impl FnMut(At, Bytes) -> Result<bool>,
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
    mut told: impl FnMut(At, Bytes) -> Result<bool>,
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
        }
        let is_told = from.is_some_and(|from| entry.key == from.key && entry.seqno >= from.seqno);
        if entry.kind == Kind::Recipe && !is_told {
            let at = At { key: entry.key.to_vec(), seqno: entry.seqno };
            if !told(at, source.value())? {
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
        let limits = Limits { rechunk_values, ..Limits::default() };
        Options { limits, ..Options::new().env(machine.clone()) }.open("/db").unwrap()
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
