//! Statistics, collected on request.

mod render;
mod report;

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering::Relaxed},
};

pub(super) use render::counted;
pub use report::{ArmStats, ChunkStats, LevelStats, PinStats, SpaceUse, Stats, TrialStats, ViewStats};

use crate::{
    base::{FileNumber, IoContext, PLACES, Result, Seqno, TIMELINE},
    chunk::cut::Chunking,
    engine::{
        Engine,
        catalogue::readers_of,
        chunk_store::{ArmCounts, Tally, TrialCounts},
        files::{ViewHold, superversion::SuperVersion},
    },
    format::name,
    manifest::{KeyspaceVersion, PinnedAt, Version},
};

/// Most moments of views that are reported.
const VIEWS_TOLD_MAX: usize = 64;

/// Collects the statistics; if the directory cannot be listed, its bytes count as 0.
pub(crate) fn collect(engine: &Engine) -> Stats {
    if engine.is_forked() {
        let trouble = engine.check_caller().err().map(|error| error.to_string());
        return Stats { trouble, ..Stats::default() };
    }
    let current = engine.files.current();
    let (views, oldest_view) = engine.files.readers();
    let [
        gets,
        filter_rejections,
        filter_false_positives,
        slot_probes,
        fingerprint_rejections,
        fingerprint_false_positives,
        block_probes,
    ] = engine.counters.reads.sums();
    let kept = kept_for(&current.version, &engine.files.registered_seqnos());
    let mut stats = Stats {
        seqno: engine.visible(),
        synced_seqno: engine.log.syncing.synced(),
        commits: engine.counters.commits.load(Relaxed),
        gets,
        scans: engine.counters.scans.load(Relaxed),
        filter_rejections,
        filter_false_positives,
        slot_probes,
        fingerprint_rejections,
        fingerprint_false_positives,
        block_probes,
        log_bytes: engine.counters.log_bytes.load(Relaxed),
        log_syncs: engine.counters.log_syncs.load(Relaxed),
        flushes: engine.counters.flushes.load(Relaxed),
        flushed_bytes: engine.counters.flushed_bytes.load(Relaxed),
        compactions: engine.counters.compactions.load(Relaxed),
        compacted_in_bytes: engine.counters.compacted_in.load(Relaxed),
        compacted_out_bytes: engine.counters.compacted_out.load(Relaxed),
        history_out_bytes: engine.counters.history_out.load(Relaxed),
        stalls: engine.counters.stalls.load(Relaxed),
        memtable_bytes: current.memtables(Seqno::MAX).map(|memtable| memtable.bytes()).sum(),
        sealed_memtables: current.sealed.len() as u64,
        index_bytes: current.segments().map(|handle| handle.memory() as u64).sum(),
        chunks: chunks(engine, &current),
        trials: trials(engine, &current.version),
        views: views as u64,
        oldest_view,
        held_by_views: held_by_views(engine, &current, &kept),
        pins: pins(&current.version, &kept),
        levels: Vec::new(),
        space: space(engine).unwrap_or_default(),
        disk_free_bytes: engine.ctx.dir.available_space().ok(),
        trouble: engine.health.poisoned_by().or_else(|| engine.work.trouble().map(|error| error.in_full())),
    };
    // A dropped keyspace may have the name of another.
    for keyspace in current.version.alive() {
        for (level, segments) in keyspace.levels.iter().enumerate().filter(|(_, segments)| !segments.is_empty()) {
            let sum = |of: fn(&crate::segment::SegmentMeta) -> u64| segments.iter().map(|segment| of(segment)).sum();
            let handles = current.trees.get(&keyspace.id).and_then(|tree| tree.levels.get(level));
            let mut index = (0, 0, 0);
            for (handle, numbers) in handles.into_iter().flatten().filter_map(|t| Some((t, t.index_numbers()?))) {
                index.0 += handle.meta.summary.keys;
                index.1 += numbers.slot_bytes;
                index.2 += numbers.filter_bytes;
            }
            stats.levels.push(LevelStats {
                indexed_keys: index.0,
                index_bytes: index.1,
                filter_bytes: index.2,
                keyspace: keyspace.name.clone(),
                level,
                segments: segments.len() as u64,
                entries: sum(|segment| segment.summary.entries),
                tombstones: sum(|segment| segment.summary.tombstones),
                bytes: sum(|segment| segment.file_len),
                raw_bytes: sum(|segment| segment.summary.raw_bytes),
            });
        }
    }
    stats
}

/// Collects what is known of large values.
fn chunks(engine: &Engine, current: &SuperVersion) -> ChunkStats {
    let counts = &engine.store.counts;
    let (writers, condemned_packs) = engine.store.writers();
    let (live_bytes, dead_bytes, dropped_bytes) = engine.jobs.garbage.told();
    let packs = || current.chunks.packs.values().map(|handle| &handle.meta);
    ChunkStats {
        values: counts.values.load(Relaxed),
        value_bytes: counts.value_bytes.load(Relaxed),
        new_chunks: counts.new_chunks.load(Relaxed),
        new_bytes: counts.new_bytes.load(Relaxed),
        stored_bytes: counts.stored_bytes.load(Relaxed),
        known_chunks: counts.known_chunks.load(Relaxed),
        known_bytes: counts.known_bytes.load(Relaxed),
        hole_bytes: counts.hole_bytes.load(Relaxed),
        copied_bytes: counts.copied_bytes.load(Relaxed),
        lengths: counts.lens.each_ref().map(|count| count.load(Relaxed)),
        cache_hits: counts.cache_hits.load(Relaxed),
        cache_misses: counts.cache_misses.load(Relaxed),
        read_aside: counts.read_aside.load(Relaxed),
        cache_bytes: engine.store.cached_bytes() as u64,
        packs: packs().count() as u64,
        pack_chunks: packs().map(|pack| u64::from(pack.records)).sum(),
        pack_raw_bytes: packs().map(|pack| pack.raw_bytes).sum(),
        pack_stored_bytes: packs().map(|pack| pack.stored_bytes).sum(),
        live_bytes,
        dead_bytes,
        dropped_bytes,
        writers: writers as u64,
        condemned_packs: condemned_packs as u64,
        unflushed_chunks: current.chunks.epochs.iter().map(|epoch| epoch.len()).sum(),
    }
}

/// Collects what the trials under way have stored.
fn trials(engine: &Engine, version: &Version) -> Vec<TrialStats> {
    let trial = |keyspace: &KeyspaceVersion| {
        let TrialCounts { chunking, control, trial } =
            engine.store.trial(keyspace.id, keyspace.options.large.chunking)?;
        let (tried, _) = chunking.tried()?;
        let arm = |policy, counts| {
            let ArmCounts { values, value_bytes, stored, time } = counts;
            let Tally { chunks, new_chunks, new_bytes, stored_bytes } = stored;
            let (chunking, time) = (Chunking::of(policy), time.to_duration());
            ArmStats { chunking, values, value_bytes, chunks, new_chunks, new_bytes, stored_bytes, time }
        };
        let keyspace = keyspace.name.clone();
        Some(TrialStats { keyspace, control: arm(chunking.policy(), control), trial: arm(tried, trial) })
    };
    version.alive().filter_map(|keyspace| trial(keyspace)).collect()
}

/// Returns what views hold, besides the current files.
fn held_by_views(engine: &Engine, current: &Arc<SuperVersion>, kept: &HashMap<Seqno, (u64, u64)>) -> Vec<ViewStats> {
    let holders: Vec<ViewHold> = engine.files.holders();
    let now: HashSet<FileNumber> = current.segments().map(|handle| handle.meta.number).collect();
    let logs: HashSet<FileNumber> = current.memtables(Seqno::MAX).map(|memtable| memtable.log()).collect();
    // Many views share few superversions.
    let mut of_files: HashMap<u64, (u64, u64)> = HashMap::new();
    let mut by_seqno: HashMap<u64, (ViewStats, HashSet<FileNumber>)> = HashMap::new();
    for ViewHold { seqno, iterators, files } in holders {
        let (view, seen) = by_seqno.entry(seqno.0).or_default();
        view.seqno = seqno;
        view.views += 1;
        view.iterators += iterators;
        (view.bytes, view.dropped_bytes) = kept.get(&seqno).copied().unwrap_or((0, 0));
        let Some(files) = files.filter(|files| files.generation != current.generation) else { continue };
        if !seen.insert(FileNumber(files.generation)) {
            continue;
        }
        let (file_bytes, memtable_bytes) = *of_files.entry(files.generation).or_insert_with(|| {
            let old = files.segments().filter(|handle| !now.contains(&handle.meta.number));
            let flushed = files.memtables(Seqno::MAX).filter(|memtable| !logs.contains(&memtable.log()));
            (old.map(|memtable| memtable.meta.file_len).sum(), flushed.map(|memtable| memtable.bytes()).sum())
        });
        view.file_bytes += file_bytes;
        view.memtable_bytes += memtable_bytes;
    }
    let mut views: Vec<ViewStats> = by_seqno.into_values().map(|(view, _)| view).collect();
    views.sort_unstable_by_key(|view| (Reverse(view.all_bytes()), view.seqno));
    views.truncate(VIEWS_TOLD_MAX);
    views
}

/// Adds up the files of the directory by what holds them.
fn space(engine: &Engine) -> Result<SpaceUse> {
    let mut space = SpaceUse::default();
    let current = engine.files.current();
    let handles = current.segments().map(|handle| {
        let summary = &handle.meta.summary;
        let gone = || current.trees.get(&summary.keyspace).is_some_and(|tree| tree.dropped);
        let cause = match summary.history {
            _ if summary.keyspace == TIMELINE => 2,
            _ if summary.keyspace == PLACES => 4,
            _ if gone() => 3,
            history => usize::from(history.is_some()),
        };
        (handle.meta.number, cause)
    });
    let live: HashMap<FileNumber, usize> = handles.collect();
    let list = |sub: &str| engine.ctx.dir.list(sub).at("list", || engine.ctx.dir.path().join(sub));
    // A file may be removed meanwhile.
    let len = |name: &str| engine.ctx.dir.file_len(name).unwrap_or(0);
    for name in list(name::SEGMENTS)? {
        let Some(number) = name::parse(&name, ".seg") else { continue };
        let bytes = len(&name::segment(number));
        let cause = match live.get(&number) {
            Some(0) => &mut space.live,
            Some(1) => &mut space.history,
            Some(2) => &mut space.timeline,
            Some(4) => &mut space.places,
            Some(_) => &mut space.dropped,
            None => &mut space.garbage,
        };
        *cause += bytes;
    }
    for number in list(name::LOGS)?.iter().filter_map(|name| name::parse(name, ".wal")) {
        space.log += len(&name::log(number));
    }
    let unnamed: HashSet<FileNumber> = current.chunks.unnamed_packs().collect();
    for name in engine.ctx.dir.list(name::PACKS).unwrap_or_default() {
        let Some(number) = name::parse(&name, ".pack") else { continue };
        let is_live = current.version.packs.contains_key(&number) || unnamed.contains(&number);
        *if is_live { &mut space.chunks } else { &mut space.garbage } += len(&name::pack(number));
    }
    for name in list("")? {
        if ![name::LOGS, name::SEGMENTS, name::PACKS].contains(&name.as_str()) {
            space.manifest += len(&name);
        }
    }
    Ok(space)
}

/// Returns for each seqno the bytes that jobs have recorded as kept only for its readers, and the bytes of dropped
/// keyspaces that those read.
fn kept_for(version: &Version, registered: &[Seqno]) -> HashMap<Seqno, (u64, u64)> {
    let mut kept: HashMap<Seqno, (u64, u64)> = HashMap::new();
    for (seqno, bytes) in version.held.values().flatten() {
        kept.entry(*seqno).or_default().0 += bytes;
    }
    for keyspace in version.keyspaces.values() {
        let Some(dropped) = keyspace.dropped else { continue };
        let bytes: u64 = keyspace.segments().map(|segment| segment.file_len).sum();
        for reader in readers_of(keyspace.born, dropped, registered) {
            kept.entry(*reader).or_default().1 += bytes;
        }
    }
    kept
}

fn pins(version: &Version, kept: &HashMap<Seqno, (u64, u64)>) -> Vec<PinStats> {
    let pin = |(name, PinnedAt { seqno, .. }): (&String, &PinnedAt)| {
        let (bytes, dropped_bytes) = kept.get(seqno).copied().unwrap_or((0, 0));
        PinStats { name: name.clone(), seqno: *seqno, bytes, dropped_bytes }
    };
    version.pins.iter().map(pin).collect()
}
