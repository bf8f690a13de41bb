//! The keyspace of places: clearing it of packs that are gone, and making it anew from the tables of the packs, where
//! one of its segments is damaged or gone.

use std::{cmp::Reverse, collections::BTreeMap, path::Path, sync::Arc};

use super::task::run_task;
use crate::{
    base::{Bytes, ChunkId, FileNumber, PLACES, Result, Seqno},
    compaction::all_anew,
    engine::{
        Engine,
        files::{
            NewFiles,
            chunks::{NamedPlace, PackHandle, damage, pack_of_place, write_places},
            runs::RunCursor,
            superversion::SuperVersion,
        },
        watch::Watch,
    },
    manifest::{Change, Edit, Version},
    merge::{EntryRef, Source},
    segment::SegmentMeta,
};

/// Places that are in memory at once.
const PLACES_MAX: u64 = 1 << 20;

/// Dead places up to which a background job leaves them alone.
const DEAD_PLACES_MAX: u64 = 1 << 16;

/// The places of chunks in packs that the version names. A pack and the places of its chunks are named in one edit:
/// what points to any other pack is dead for good. Where an older place of a chunk stands behind such a one, it is good
/// again: its pack holds the chunk.
pub(super) struct LivePlaces {
    inner: RunCursor,
    packs: Arc<BTreeMap<FileNumber, Arc<PackHandle>>>,
}

impl LivePlaces {
    pub(super) fn new(inner: RunCursor, packs: &Arc<BTreeMap<FileNumber, Arc<PackHandle>>>) -> Self {
        Self { inner, packs: Arc::clone(packs) }
    }

    fn pass_dead(&mut self) -> Result<()> {
        while self.inner.entry().is_some() {
            // What does not decode stays, for whoever reads it to name.
            match pack_of_place(&self.inner.value()) {
                Some(pack) if !self.packs.contains_key(&pack) => self.inner.advance()?,
                _ => break,
            }
        }
        Ok(())
    }
}

impl Source for LivePlaces {
    fn seek(&mut self, key: Option<&[u8]>) -> Result<()> {
        self.inner.seek(key)?;
        self.pass_dead()
    }

    fn entry(&self) -> Option<EntryRef<'_>> {
        self.inner.entry()
    }

    fn value(&self) -> Bytes {
        self.inner.value()
    }

    fn advance(&mut self) -> Result<()> {
        self.inner.advance()?;
        self.pass_dead()
    }

    fn skip_newer(&mut self, key: &[u8], seqno: Seqno, purge_horizon: Seqno) -> Result<()> {
        self.inner.skip_newer(key, seqno, purge_horizon)?;
        self.pass_dead()
    }

    fn turned(&self) -> Self {
        Self { inner: self.inner.turned(), packs: Arc::clone(&self.packs) }
    }

    fn newest(&self) -> Seqno {
        self.inner.newest()
    }

    fn file(&self) -> Option<&Path> {
        self.inner.file()
    }
}

/// Returns how many places there are beyond one for each record of a pack: these at least are dead.
fn dead_places(version: &Version) -> u64 {
    let segments = version.keyspaces.get(&PLACES).into_iter().flat_map(|keyspace| keyspace.segments());
    let places: u64 = segments.map(|segment| segment.summary.entries).sum();
    places.saturating_sub(records(version))
}

fn records(version: &Version) -> u64 {
    version.packs.values().map(|pack| u64::from(pack.records)).sum()
}

/// Drops every dead place; returns whether there were any. Holds the right to compact the keyspace meanwhile.
pub(super) fn drop_dead_places(engine: &Engine, watch: &mut Watch<'_>) -> Result<bool> {
    let _one = engine.jobs.slots.take(PLACES)?;
    rewrite_places(engine, |dead, _| dead > 0, watch)
}

/// Drops dead places once they are more than the others; the caller holds the right to compact the keyspace.
pub(super) fn relieve_places(engine: &Engine) -> Result<bool> {
    rewrite_places(engine, |dead, records| dead > records.max(DEAD_PLACES_MAX), &mut Watch::silent())
}

fn rewrite_places(engine: &Engine, is_due: impl Fn(u64, u64) -> bool, watch: &mut Watch<'_>) -> Result<bool> {
    let version = Arc::clone(&engine.files.current().version);
    let task = version.keyspaces.get(&PLACES).and_then(|keyspace| all_anew(keyspace, &engine.ctx.options.shape()));
    let Some(task) = task.filter(|_| is_due(dead_places(&version), records(&version))) else { return Ok(false) };
    run_task(engine, &task, Seqno(0), watch)?;
    Ok(true)
}

/// Makes the index of all chunks anew, as a job of its own.
pub(crate) fn rebuild(engine: &Engine) -> Result<()> {
    engine.check_open()?;
    engine.health.check_writable()?;
    engine.health.contain("the index of chunks, made anew", || rebuild_places(engine))
}

/// Replaces all segments of places. Until then readers ask the tables of the packs themselves.
pub(super) fn rebuild_places(engine: &Engine) -> Result<()> {
    // The newest pack counts here, and the newest place elsewhere: behind the mark of a collection no place may move.
    let waiting = engine.jobs.garbage.wait();
    let _no_collection = engine.jobs.collecting.lock();
    drop(waiting);
    // Only one at a time writes places (L6).
    let _one = engine.jobs.flushing.lock();
    let _no_compaction = engine.jobs.slots.take(PLACES)?;
    let mut made = NewFiles::default();
    let written = write_anew(engine, &mut made).inspect_err(|_| engine.files.discard(&made))?;
    let mut editing = engine.files.edit();
    let mut edit = Edit::default();
    let old = editing.version().keyspaces.get(&PLACES).into_iter().flat_map(|keyspace| keyspace.segments());
    edit.changes.extend(old.map(|segment| Change::Remove { keyspace: PLACES, number: segment.number }));
    let level = engine.ctx.options.shape().level_max.try_into().unwrap_or(0);
    edit.changes.extend(written.into_iter().map(|segment| Change::Add { level, segment }));
    edit.push(engine.files.numbers_taken());
    let version = editing.commit(&edit, &made)?;
    editing.install(&version, None, None);
    drop(editing);
    engine.files.reclaim();
    Ok(())
}

/// Writes the places of all packs in a row of segments, a part of all ids in each.
fn write_anew(engine: &Engine, made: &mut NewFiles) -> Result<Vec<SegmentMeta>> {
    let files = engine.files.current();
    let records: u64 = files.version.packs.values().map(|pack| u64::from(pack.records)).sum();
    let parts = records.div_ceil(PLACES_MAX);
    let seqno = engine.log.take_seqno(&mut engine.log.lock())?;
    let mut written = Vec::new();
    for part in 0..parts {
        let mut places: Vec<NamedPlace> = Vec::new();
        for handle in files.chunks.packs.values() {
            engine.health.check_writable()?;
            // Of a pack whose table is damaged the good records: all old places go, and its chunks with them otherwise.
            let lines = match handle.good_lines() {
                // Of one that cannot be opened nothing can be read, whatever says where it is.
                Err(error) if damage(&error).is_some() => continue,
                lines => lines?,
            };
            let all = NamedPlace::of(handle.meta.number, &lines);
            places.extend(all.filter(|place| part_of(&place.place.id, parts) == part));
        }
        let number: FileNumber = engine.files.take_number();
        made.segments.push(number);
        let places = best_places(places, &files)?;
        written.extend(write_places(&engine.ctx, &*engine.ctx.dir, number, seqno, &places)?);
    }
    if !written.is_empty() {
        engine.files.sync_names()?;
    }
    Ok(written)
}

/// Brings places into the order of their ids. Of several copies of a chunk the newest counts that is whole: one may
/// have been stored because another was damaged.
fn best_places(mut places: Vec<NamedPlace>, files: &SuperVersion) -> Result<Vec<NamedPlace>> {
    places.sort_unstable_by_key(|place| (place.place.id, Reverse(place.pack)));
    let mut best: Vec<NamedPlace> = Vec::with_capacity(places.len());
    let mut room = Vec::new();
    for copies in places.chunk_by(|one, next| one.place.id == next.place.id) {
        let mut chosen = copies.first().copied();
        if copies.len() > 1 {
            for copy in copies {
                let handle = files.chunks.packs.get(&copy.pack);
                if handle.map_or(Ok(false), |handle| handle.holds(&copy.place, &mut room))? {
                    chosen = Some(*copy);
                    break;
                }
            }
        }
        best.extend(chosen);
    }
    Ok(best)
}

/// Returns which of some parts of all ids an id belongs to.
fn part_of(id: &ChunkId, parts: u64) -> u64 {
    let head = id.as_bytes().iter().take(4).fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    (head * parts) >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_ascend_with_the_ids_and_are_all_used() {
        let id = |head: u32| {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&head.to_be_bytes());
            ChunkId::from_bytes(id)
        };
        for parts in [1, 2, 3, 7] {
            let of: Vec<u64> = (0..=255).map(|byte| part_of(&id(byte << 24 | 0x00ff_ffff), parts)).collect();
            assert!(of.is_sorted() && of[0] == 0 && of[255] == parts - 1, "{parts}: {of:?}");
        }
    }
}
