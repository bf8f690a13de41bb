//! Recipes replaced by others of the same values, wherever a keyspace holds them below level 0.
//!
//! An entry keeps its key, seqno, time and place among its versions: only the recipe changes. Which recipe replaces
//! which follows from its bytes alone, so that it does not matter where a compaction has moved an entry meanwhile.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::task::{rewrite_history, run_task, run_task_over};
use crate::{
    base::{Bytes, KeySpan, KeyspaceId, Kind, Result, Seqno},
    compaction::{Tier, in_place, recipes_down},
    engine::{Engine, files::tree::SegmentHandle, watch::Watch},
    merge::{Direction, EntryRef, Source},
    segment::{SegmentCursor, SegmentMeta, VersionCursor},
};

/// Recipes by the ones that they replace, and how many entries have got one.
#[derive(Debug, Default)]
pub(crate) struct Replacements {
    pub(crate) recipes: HashMap<Bytes, Bytes>,
    replaced: AtomicU64,
}

/// A source whose recipes are replaced.
#[derive(Debug)]
struct Replacing<S> {
    inner: S,
    by: Arc<Replacements>,
    /// The recipe that replaces the current one.
    current: Option<Bytes>,
}

impl<S: Source> Replacing<S> {
    fn new(inner: S, by: &Arc<Replacements>) -> Self {
        Self { inner, by: Arc::clone(by), current: None }
    }

    fn look_up(&mut self) {
        let is_recipe = self.inner.entry().is_some_and(|entry| entry.kind == Kind::Recipe);
        self.current = if is_recipe { self.by.recipes.get(&self.inner.value()).cloned() } else { None };
        self.by.replaced.fetch_add(u64::from(self.current.is_some()), Ordering::Relaxed);
    }
}

impl<S: Source> Source for Replacing<S> {
    fn seek(&mut self, key: Option<&[u8]>) -> Result<()> {
        self.inner.seek(key)?;
        self.look_up();
        Ok(())
    }

    fn entry(&self) -> Option<EntryRef<'_>> {
        let entry = self.inner.entry()?;
        Some(match &self.current {
            Some(recipe) => EntryRef { value: recipe, ..entry },
            None => entry,
        })
    }

    fn value(&self) -> Bytes {
        self.current.clone().unwrap_or_else(|| self.inner.value())
    }

    fn advance(&mut self) -> Result<()> {
        self.inner.advance()?;
        self.look_up();
        Ok(())
    }

    fn skip_newer(&mut self, key: &[u8], seqno: Seqno, purge_horizon: Seqno) -> Result<()> {
        self.inner.skip_newer(key, seqno, purge_horizon)?;
        self.look_up();
        Ok(())
    }

    fn turned(&self) -> Self {
        Self::new(self.inner.turned(), &self.by)
    }

    fn newest(&self) -> Seqno {
        self.inner.newest()
    }

    fn file(&self) -> Option<&Path> {
        self.inner.file()
    }
}

/// Brings level 0 of a keyspace down if it holds recipes: only below it they can be replaced (V1).
pub(crate) fn bring_recipes_down(engine: &Engine, id: KeyspaceId) -> Result<()> {
    let _one = engine.jobs.slots.take(id)?;
    let task = engine.files.keyspace(id).and_then(|keyspace| recipes_down(&keyspace));
    if let Some(task) = task {
        run_task(engine, &task, Seqno(0), &mut Watch::silent())?;
    }
    Ok(())
}

/// Replaces recipes in one tier of a keyspace: in every segment that holds one of them under a key of `span`, level 0
/// left alone. Returns how many entries have got another one. The packs of those are named (L2). `go_on` may stop it
/// between two segments.
pub(crate) fn replace_recipes(
    engine: &Engine,
    id: KeyspaceId,
    tier: Tier,
    span: &KeySpan,
    by: &Arc<Replacements>,
    go_on: &mut dyn FnMut() -> Result<()>,
) -> Result<u64> {
    engine.ctx.pass("rechunk: cut, then replaced");
    let _one = engine.jobs.slots.take(id)?;
    let files = engine.files.current();
    let Some(tree) = files.trees.get(&id) else { return Ok(0) };
    let is_met = |handle: &&Arc<SegmentHandle>| {
        let summary = &handle.meta.summary;
        summary.recipes && summary.overlaps(span)
    };
    // While this has the right to compact, nothing but flushes changes the tree, and they add to level 0.
    match tier {
        Tier::Main => {
            for (level, handles) in tree.levels.iter().enumerate().skip(1) {
                for handle in handles.iter().filter(is_met) {
                    let cursor = SegmentCursor::new(Arc::clone(handle.segment()?), Direction::Forward);
                    if holds_any(cursor, span, by, go_on)? {
                        rewrite_main(engine, id, level, &handle.meta, by)?;
                    }
                }
            }
        }
        Tier::History => {
            for handle in tree.history.iter().flat_map(|run| &run.segments).filter(is_met) {
                let cursor = VersionCursor::new(Arc::clone(handle.segment()?));
                if holds_any(cursor, span, by, go_on)? {
                    let job = engine.files.job_inputs("compact past: files, then list");
                    let Some(keyspace) = job.files.version.keyspaces.get(&id) else { break };
                    let over = |source| Replacing::new(source, by);
                    rewrite_history(engine, &job, keyspace, &handle.meta, &mut Watch::silent(), over)?;
                }
            }
        }
    }
    Ok(by.replaced.load(Ordering::Relaxed))
}

fn rewrite_main(
    engine: &Engine,
    id: KeyspaceId,
    level: usize,
    segment: &Arc<SegmentMeta>,
    by: &Arc<Replacements>,
) -> Result<()> {
    let Some(keyspace) = engine.files.keyspace(id) else { return Ok(()) };
    let task = in_place(&keyspace, level, segment);
    let over = |source, _: &_| Replacing::new(source, by);
    run_task_over(engine, &task, Seqno(0), &mut Watch::silent(), over).map(drop)
}

/// Entries between two looks whether to go on.
const LOOK_EVERY: u32 = 1024;

/// Returns whether a source holds one of these recipes under a key of a span.
fn holds_any(
    mut source: impl Source,
    span: &KeySpan,
    by: &Replacements,
    go_on: &mut dyn FnMut() -> Result<()>,
) -> Result<bool> {
    source.seek(Some(&span.start))?;
    let mut passed = 0u32;
    while let Some(entry) = source.entry()
        && span.end.as_deref().is_none_or(|end| entry.key < end)
    {
        if passed.is_multiple_of(LOOK_EVERY) {
            go_on()?;
        }
        passed = passed.wrapping_add(1);
        if entry.kind == Kind::Recipe && by.recipes.contains_key(&source.value()) {
            return Ok(true);
        }
        source.advance()?;
    }
    Ok(false)
}
