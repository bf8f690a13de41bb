//! Making the keyspace of places anew from the tables of the packs, where one of its segments is damaged or gone.

use crate::{
    base::{ChunkId, FileNumber, PLACES, Result},
    chunk::pack::Pack,
    engine::{
        Engine,
        files::{
            NewFiles,
            chunks::{NamedPlace, damage, sort_places, write_places},
        },
    },
    manifest::{Change, Edit},
    segment::SegmentMeta,
};

/// Places that are in memory at once.
const PLACES_MAX: u64 = 1 << 20;

/// Replaces all segments of places. Until then readers ask the tables of the packs themselves.
pub(super) fn rebuild_places(engine: &Engine) -> Result<()> {
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
            let lines = match handle.pack().and_then(Pack::lines) {
                // What only that pack holds cannot be found without its table.
                Err(error) if damage(&error).is_some() => continue,
                lines => lines?,
            };
            let all = NamedPlace::of(handle.meta.number, &lines);
            places.extend(all.filter(|place| part_of(&place.place.id, parts) == part));
        }
        let number: FileNumber = engine.files.take_number();
        made.segments.push(number);
        // The newest copy of a chunk counts.
        sort_places(&mut places);
        written.extend(write_places(&engine.ctx, &*engine.ctx.dir, number, seqno, &places)?);
    }
    if !written.is_empty() {
        engine.files.sync_names()?;
    }
    Ok(written)
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
