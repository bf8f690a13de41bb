//! Compaction on demand: brings everything, a keyspace, or a span of one to its final shape.

use std::{fmt, path::PathBuf, sync::Arc};

use super::{
    aging,
    collect::{Extent, collect},
    expiry_cutoff,
    flush::flush,
    forget::forget_dropped,
    garbage::collect_all,
    places::{drop_dead_places, rebuild_places},
    seen_from,
    task::{run_history_task, run_task},
    thin::thin_timeline,
};
use crate::{
    base::{Error, KeySpan, KeyspaceId, Kind, Micros, PLACES, Result, Seqno, TIMELINE},
    compaction::{HistoryTask, Purges, down_in_span, everything, pick_history},
    engine::{
        Engine,
        catalogue::{KeyspaceRef, dropped, readers_of},
        files::chunks::damage,
        watch::Watch,
    },
    format::name,
    manifest::KeyspaceVersion,
    merge::{Direction, Source},
    segment::{SegmentCursor, SegmentMeta},
};

/// Report of [`Db::compact`](crate::Db::compact).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compacted {
    /// Seqnos that open views and pins still hold, so that old versions, or purges with the keys that they name, could
    /// not be dropped; and those of running iterators that still read older files. Once they end, the next compaction
    /// drops the versions.
    pub still_held_by: Vec<Seqno>,
    /// Bytes of segments before the compaction, and of packs if it is of the whole database: chunks are shared.
    pub bytes_before: u64,
    /// Bytes of the same after the compaction. What readers hold is not among them.
    pub bytes_after: u64,
    /// Packs that stay with everything in them, because a chunk that is needed of them cannot be read:
    /// [`Db::verify`](crate::Db::verify) names the values.
    pub damaged_packs: Vec<PathBuf>,
    /// Bytes of replaced files that iterators and [`ValueReader`](crate::ValueReader)s under way still read, of the
    /// whole database. They go with the last of those.
    pub still_read: u64,
}

impl fmt::Display for Compacted {
    /// Prints the bytes before and after, and who still holds old versions.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { still_held_by, bytes_before, bytes_after, damaged_packs, still_read } = self;
        write!(f, "{bytes_before} bytes before, {bytes_after} after")?;
        if *still_read > 0 {
            write!(f, "; {still_read} are still read")?;
        }
        for pack in damaged_packs {
            write!(f, "; {} is damaged and stays", pack.display())?;
        }
        match still_held_by.as_slice() {
            [] => Ok(()),
            seqnos => {
                f.write_str("; old versions are held for readers of ")?;
                seqnos
                    .iter()
                    .enumerate()
                    .try_for_each(|(at, seqno)| write!(f, "{}{seqno}", if at == 0 { "" } else { ", " }))
            }
        }
    }
}

/// Scope of a compaction on demand.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scope<'s> {
    All,
    Keyspace(&'s KeyspaceRef),
    /// The keys of a span.
    Span(&'s KeyspaceRef, &'s KeySpan),
}

impl Scope<'_> {
    fn holds(self, id: KeyspaceId) -> bool {
        match self {
            Self::All => true,
            Self::Keyspace(keyspace) | Self::Span(keyspace, _) => keyspace.id == id,
        }
    }
}

/// Brings everything in a scope that was written before the call to its final shape.
pub(crate) fn compact(engine: &Engine, scope: Scope<'_>, watch: &mut Watch<'_>) -> Result<Compacted> {
    engine.health.check_writable()?;
    if let Scope::Keyspace(keyspace) | Scope::Span(keyspace, _) = scope
        && engine.files.current().trees.get(&keyspace.id).is_none_or(|tree| tree.dropped)
    {
        return Err(dropped(keyspace));
    }
    engine.health.contain("a compaction", || compact_scope(engine, scope, watch))
}

fn compact_scope(engine: &Engine, scope: Scope<'_>, watch: &mut Watch<'_>) -> Result<Compacted> {
    let mut report = Compacted::default();
    let mut held: Vec<Seqno> = Vec::new();
    match flush(engine) {
        Err(Error::DiskFull) if matches!(scope, Scope::All) => {
            // What is in segments already may make room for what is not: packs that nothing needs any more.
            compact_keyspaces(engine, scope, &mut held, watch)?;
            collect(engine, Extent::Dead, watch)?;
            flush(engine)?;
        }
        flushed => flushed?,
    }
    forget_dropped(engine)?;
    report.bytes_before = bytes_in(engine, scope);
    watch.begin(report.bytes_before)?;
    let rebuild = compact_keyspaces(engine, scope, &mut held, watch)?;
    engine.files.forget_purged_names()?;
    if rebuild {
        rebuild_places(engine)?;
    }
    if matches!(scope, Scope::All) {
        let kept = collect_all(engine, watch)?;
        report.damaged_packs = kept.into_iter().map(|pack| engine.ctx.dir.path().join(name::pack(pack))).collect();
        watch.begin_part(0);
        drop_dead_places(engine, watch)?;
    }
    watch.end();
    report.still_held_by = still_held_by(engine, scope, held);
    report.bytes_after = bytes_in(engine, scope);
    engine.files.reclaim();
    Ok(report)
}

/// Compacts the keyspaces in a scope; returns whether places are to be made anew.
fn compact_keyspaces(engine: &Engine, scope: Scope<'_>, held: &mut Vec<Seqno>, watch: &mut Watch<'_>) -> Result<bool> {
    let mut rebuild = false;
    let ids: Vec<_> = engine.files.current().version.keyspaces.keys().copied().filter(|id| scope.holds(*id)).collect();
    for id in ids {
        let _one = engine.jobs.slots.take(id)?;
        engine.health.check_writable()?;
        let Some(keyspace) = engine.files.keyspace(id) else { continue };
        watch.begin_part(keyspace.segments().map(|segment| segment.file_len).sum());
        match scope {
            Scope::Span(_, span) => compact_span(engine, id, span, held, watch)?,
            _ if id == TIMELINE && thin_timeline(engine, true)? => {}
            _ => {
                match compact_whole(engine, &keyspace, held, watch) {
                    Err(error) if id == PLACES && damage(&error).is_some() => rebuild = true,
                    compacted => compacted?,
                }
                engine.work.record_compaction(id, None, Micros::ZERO);
            }
        }
        watch.end_part()?;
    }
    Ok(rebuild)
}

/// Brings a keyspace to its final shape, both tiers.
fn compact_whole(
    engine: &Engine,
    keyspace: &KeyspaceVersion,
    held: &mut Vec<Seqno>,
    watch: &mut Watch<'_>,
) -> Result<()> {
    let id = keyspace.id;
    let find = || engine.files.keyspace(id);
    let task = |keyspace: &KeyspaceVersion| {
        everything(keyspace, &engine.ctx.options.shape(), expiry_cutoff(engine, keyspace, seen_from(engine)))
    };
    // What purges hide is dropped from the main tree, then from the history tier; then the purges themselves may be
    // dropped.
    let hides = keyspace.main().any(|segment| segment.summary.has_purges());
    if let Some(task) = task(keyspace) {
        held.extend(run_task(engine, &task, Seqno(0), watch)?.dropped.held_by.iter().map(|(seqno, _)| seqno));
    }
    let Some(keyspace) = find() else { return Ok(()) };
    let (hidden, newest) = purges_of(engine, &keyspace)?;
    held.extend(compact_history(engine, &keyspace, &hidden, None, watch)?);
    let Some(keyspace) = find() else { return Ok(()) };
    if !hides {
        return Ok(());
    }
    if let Some(task) = task(&keyspace) {
        run_task(engine, &task, newest, watch)?;
    }
    // A remaining purge keeps the name of what it hid, for readers below it.
    let kept = find().map(|keyspace| purges_of(engine, &keyspace)).transpose()?.map_or(Seqno(0), |(_, newest)| newest);
    held.extend(engine.files.registered_seqnos().into_iter().filter(|seqno| *seqno < kept));
    Ok(())
}

/// Compacts the segments that overlap a span down to the deepest level, one level after the other, and rewrites those
/// there that hold dead entries; in the history tier, merges the runs that overlap it.
fn compact_span(
    engine: &Engine,
    id: KeyspaceId,
    span: &KeySpan,
    held: &mut Vec<Seqno>,
    watch: &mut Watch<'_>,
) -> Result<()> {
    for level in 0..=engine.ctx.options.shape().level_max {
        let Some(keyspace) = engine.files.keyspace(id) else { return Ok(()) };
        let expiry_cutoff = expiry_cutoff(engine, &keyspace, seen_from(engine));
        if let Some(task) = down_in_span(&keyspace, level, span, expiry_cutoff) {
            held.extend(run_task(engine, &task, Seqno(0), watch)?.dropped.held_by.iter().map(|(seqno, _)| seqno));
        }
    }
    let Some(keyspace) = engine.files.keyspace(id) else { return Ok(()) };
    held.extend(compact_history(engine, &keyspace, &Purges::default(), Some(span), watch)?);
    Ok(())
}

/// Brings the history tier of a keyspace to its final shape: one run in each bucket, with nothing left to drop; with a
/// span, only the buckets that hold keys of it. Returns the seqnos for which something was kept.
fn compact_history(
    engine: &Engine,
    keyspace: &KeyspaceVersion,
    purges: &Purges,
    span: Option<&KeySpan>,
    watch: &mut Watch<'_>,
) -> Result<Vec<Seqno>> {
    let mut held = Vec::new();
    let id = keyspace.id;
    {
        let job = engine.files.job_inputs("compact past: files, then list");
        let Some(keyspace) = job.files.version.keyspaces.get(&id) else { return Ok(held) };
        if let Some(task @ HistoryTask::Drop(_)) = pick_history(keyspace, &aging(engine, keyspace, &job.registered)) {
            run_history_task(engine, &job, keyspace, task, purges, watch)?;
        }
    }
    let job = engine.files.job_inputs("compact past: files, then list");
    let Some(keyspace) = job.files.version.keyspaces.get(&id) else { return Ok(held) };
    let aging = aging(engine, keyspace, &job.registered);
    for runs in aging.buckets(keyspace) {
        let several = runs.len() > 1;
        let inputs: Vec<_> = runs.into_iter().flatten().collect();
        if span.is_some_and(|span| !inputs.iter().any(|segment| segment.summary.overlaps(span))) {
            continue;
        }
        let may_go = |segment: &Arc<SegmentMeta>| {
            let history = segment.intervals();
            let aged = aging.now.saturating_sub(history.until_min) >= aging.window;
            let held_for = job.files.version.held.get(&segment.number);
            let is_released = |(seqno, _): &(Seqno, u64)| aging.registered.binary_search(seqno).is_err();
            let released = held_for.is_some_and(|held| held.iter().any(is_released));
            aged || released || purges.touch(&segment.summary.span, segment.summary.min_seqno)
        };
        if several || inputs.iter().any(may_go) {
            let outcome = run_history_task(engine, &job, keyspace, HistoryTask::Merge(inputs), purges, watch)?;
            held.extend(outcome.dropped.held_by.iter().map(|(seqno, _)| seqno));
        }
    }
    Ok(held)
}

/// Returns what purges in the main tree hide, and the newest of them.
fn purges_of(engine: &Engine, keyspace: &KeyspaceVersion) -> Result<(Purges, Seqno)> {
    let current = engine.files.current();
    let mut purges = Vec::new();
    let Some(tree) = current.trees.get(&keyspace.id).filter(|tree| tree.purges) else {
        return Ok((Purges::default(), Seqno(0)));
    };
    for handle in tree.levels.iter().flatten().filter(|handle| handle.meta.summary.has_purges()) {
        let segment = handle.segment()?;
        let ranges = segment.ranges().to_vec().into_iter().filter(|range| range.tombstone.purge);
        purges.extend(ranges.map(|range| (range.span, range.tombstone.seqno)));
        let mut cursor = SegmentCursor::new(Arc::clone(segment), Direction::Forward);
        cursor.seek(Some(&[]))?;
        while let Some(entry) = cursor.entry() {
            if entry.kind == Kind::Purge {
                let span = KeySpan { start: entry.key.to_vec(), end: Some([entry.key, &[0]].concat()) };
                purges.push((span, entry.seqno));
            }
            cursor.advance()?;
        }
    }
    let newest = purges.iter().map(|(_, seqno)| *seqno).max().unwrap_or(Seqno(0));
    Ok((Purges::new(purges), newest))
}

/// Returns the seqnos of current readers for which something is kept; `held` are those for which the compaction kept
/// it.
fn still_held_by(engine: &Engine, scope: Scope<'_>, mut held: Vec<Seqno>) -> Vec<Seqno> {
    let current = engine.files.current();
    let keyspaces = || current.version.keyspaces.values().filter(|keyspace| scope.holds(keyspace.id));
    let segments = keyspaces().flat_map(|keyspace| keyspace.segments());
    let kept = segments.filter_map(|segment| current.version.held.get(&segment.number));
    held.extend(kept.flatten().map(|(seqno, _)| seqno));
    // Idle views move on to the new files; the others hold the old ones.
    held.extend(engine.files.rebase());
    let registered = engine.files.registered_seqnos();
    let dropped = keyspaces().filter_map(|gone| Some((gone.born, gone.dropped?)));
    held.extend(dropped.flat_map(|(born, dropped)| readers_of(born, dropped, &registered)));
    held.sort_unstable();
    held.dedup();
    held.retain(|seqno| registered.binary_search(seqno).is_ok());
    held
}

fn bytes_in(engine: &Engine, scope: Scope<'_>) -> u64 {
    let current = engine.files.current();
    let keyspaces = current.version.keyspaces.values().filter(|keyspace| scope.holds(keyspace.id));
    let segments: u64 = keyspaces.flat_map(|keyspace| keyspace.segments()).map(|segment| segment.file_len).sum();
    let packs = current.version.packs.values().filter(|_| matches!(scope, Scope::All));
    segments + packs.map(|pack| pack.file_len).sum::<u64>()
}
