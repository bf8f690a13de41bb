//! Every recipe of a database, and what follows from all of them together.

use std::{collections::BTreeSet, sync::Arc};

use super::collect::check_not_stopping;
use crate::{
    base::{Bytes, ChunkId, Kind, Result, Seqno},
    engine::{
        Engine, KeyspaceRef,
        chunk_store::Frontier,
        files::superversion::SuperVersion,
        read::{ChunkSearch, References, decode},
        watch::Watch,
    },
    memtable::MemCursor,
    merge::{Direction, Source},
    segment::{SegmentCursor, VersionCursor},
};

/// Calls `told` with every recipe of a superversion: of every keyspace, dropped ones too, in both tiers and all
/// memtables.
pub(super) fn each_recipe(
    engine: &Engine,
    files: &Arc<SuperVersion>,
    watch: &mut Watch<'_>,
    mut told: impl FnMut(&KeyspaceRef, &[u8], &[u8]) -> Result<()>,
) -> Result<()> {
    for (id, tree) in files.trees.iter() {
        let Some(keyspace) = files.version.keyspaces.get(id).filter(|keyspace| !keyspace.is_hidden()) else {
            continue;
        };
        // Of a strategy that this process was not given: it combines values, which are never cut.
        let Ok(keyspace) = engine.catalogue.keyspace_ref(keyspace) else { continue };
        for memtable in files.memtables(Seqno::MAX) {
            each_in(engine, &keyspace, MemCursor::new(memtable, *id, Direction::Forward), &mut told)?;
        }
        for handle in tree.segments().filter(|handle| handle.meta.summary.recipes) {
            // Whoever watches may cancel.
            watch.step(0, 1)?;
            let segment = Arc::clone(handle.segment()?);
            if handle.meta.summary.history.is_some() {
                each_in(engine, &keyspace, VersionCursor::new(segment), &mut told)?;
            } else {
                each_in(engine, &keyspace, SegmentCursor::new(segment, Direction::Forward), &mut told)?;
            }
        }
    }
    Ok(())
}

fn each_in(
    engine: &Engine,
    keyspace: &KeyspaceRef,
    mut source: impl Source,
    told: &mut impl FnMut(&KeyspaceRef, &[u8], &[u8]) -> Result<()>,
) -> Result<()> {
    source.seek(Some(&[]))?;
    while let Some(entry) = source.entry() {
        if entry.kind == Kind::Recipe {
            check_not_stopping(engine)?;
            let key = entry.key.to_vec();
            told(keyspace, &key, &source.value())?;
        }
        source.advance()?;
    }
    Ok(())
}

/// Returns the bytes on disk that only the versions of one key take: their recipes, and the chunks that nothing else
/// refers to.
pub(crate) fn freeable(engine: &Engine, keyspace: &KeyspaceRef, key: &[u8]) -> Result<u64> {
    engine.check_open()?;
    let (mut own, mut others, mut bytes) = (References::default(), References::default(), 0);
    let go_on = || check_not_stopping(engine);
    let frontiers = engine.store.frontiers();
    let files = engine.files.current();
    each_recipe(engine, &files, &mut Watch::silent(), |of, its_key, recipe| {
        if (of.id, its_key) == (keyspace.id, key) {
            bytes += (its_key.len() + recipe.len()) as u64;
            own.add(&files.chunks, (of, its_key), recipe, &go_on)
        } else {
            others.add(&files.chunks, (of, its_key), recipe, &go_on)
        }
    })?;
    for frontier in &frontiers {
        others.add_frontier(&files.chunks, frontier, &go_on)?;
    }
    own.check_complete()?;
    others.check_complete()?;
    Ok(bytes + own.bytes_beyond(&others, &files.chunks)?)
}

/// What keeps a chunk, as [`Chunks::why`](crate::Chunks::why) returns it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChunkHolders {
    /// Number of versions of values that refer to it, those of the past and of dropped keyspaces included.
    pub references: u64,
    /// The keys of those, each once with the name of its keyspace, ascending: 1000 of them at most.
    pub keys: Vec<(String, Bytes)>,
    /// Writers, staged values, batches and leases that hold it.
    pub writers: u64,
}

/// Keys that are named.
const KEYS_MAX: usize = 1000;

/// Returns what keeps a chunk or node of a scope: reads every recipe.
pub(crate) fn why(engine: &Engine, scope: u32, id: &ChunkId) -> Result<ChunkHolders> {
    engine.check_open()?;
    let (mut references, mut keys, mut writers) = (0, BTreeSet::new(), 0);
    let mut search = ChunkSearch::new(*id);
    // Before the files: what a writer commits in between is in those.
    let frontiers = engine.store.frontiers();
    let files = engine.files.current();
    let chunks = &files.chunks;
    chunks.write_out()?;
    each_recipe(engine, &files, &mut Watch::silent(), |keyspace, key, entry| {
        if keyspace.scope == scope && search.is_in(chunks, (keyspace, key), &decode(keyspace, key, entry)?)? {
            references += 1;
            if keys.len() < KEYS_MAX {
                keys.insert((keyspace.name.to_string(), Bytes::copy_from(key)));
            }
        }
        Ok(())
    })?;
    for Frontier { keyspace, found, open } in frontiers.iter().filter(|frontier| frontier.keyspace.scope == scope) {
        let mut holds = found.contains(id);
        for recipe in open {
            holds = holds || search.is_in(chunks, (keyspace, &[]), recipe)?;
        }
        writers += u64::from(holds);
    }
    Ok(ChunkHolders { references, keys: keys.into_iter().collect(), writers })
}
