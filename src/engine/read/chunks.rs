//! Chunks by their ids: read, described, listed.
//!
//! Ids of one dedup scope say nothing of the chunks of another: what has another scope is not there.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use super::large::LargeValue;
use crate::{
    base::{Bytes, ChunkId, Error, FileNumber, Result},
    chunk::{
        exchange::{Have, HaveYou},
        id::ChunkKind,
        recipe::{Recipe, Reference},
        record::{ChunkHeader, Line},
    },
    engine::{
        Engine, KeyspaceRef,
        chunk_store::ReadRoom,
        files::{
            chunks::{ChunkSet, damage},
            superversion::SuperVersion,
        },
    },
};

/// What is known of a stored chunk, as [`Chunks::facts`](crate::Chunks::facts) returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChunkFacts {
    /// Length in bytes.
    pub bytes: u64,
    /// Bytes that its record takes in a pack, compressed, with its header.
    pub stored_bytes: u64,
    /// Whether it is a node: a list of chunks that the recipe of a long value refers to.
    pub is_node: bool,
    /// Time at which it was stored first. A chunk that nothing needed any more and that was written again is new.
    pub stored: SystemTime,
    /// Where the value came from whose writer stored it first, if that said so: see
    /// [`WriteOptions::origin`](crate::WriteOptions::origin).
    pub origin: Option<String>,
}

/// Returns files that hold everything that writers have appended so far.
fn written(engine: &Engine) -> Result<Arc<SuperVersion>> {
    engine.check_open()?;
    let files = engine.files.current();
    files.chunks.write_out()?;
    Ok(files)
}

/// Returns what the record of a chunk of a scope says of it; `None` if the scope has no such chunk. Of a record with a
/// damaged header nobody knows the scope: that is told to the default scope alone, whose ids anybody can make.
pub(crate) fn header(chunks: &ChunkSet, scope: u32, id: &ChunkId) -> Result<Option<ChunkHeader>> {
    match chunks.header(id) {
        Err(error) if damage(&error).is_some() => {
            chunks.store.record_damaged(*id);
            if scope == 0 { Err(error) } else { Ok(None) }
        }
        found => Ok(found?.filter(|header| header.scope == scope)),
    }
}

/// Returns whether a scope has a chunk whose header can be read.
fn has(chunks: &ChunkSet, scope: u32, id: &ChunkId) -> Result<bool> {
    match header(chunks, scope, id) {
        Err(error) if damage(&error).is_some() => Ok(false),
        found => Ok(found?.is_some()),
    }
}

/// Records that a chunk is damaged: whoever writes it again stores it anew.
fn record_damage(chunks: &ChunkSet, id: &ChunkId, error: &Error) {
    if damage(error).is_some() {
        chunks.store.record_damaged(*id);
    }
}

/// Returns the bytes of a chunk or node.
pub(crate) fn chunk(engine: &Engine, scope: u32, id: &ChunkId) -> Result<Option<Bytes>> {
    let files = written(engine)?;
    let chunks = &files.chunks;
    let Some(header) = header(chunks, scope, id)? else { return Ok(None) };
    let scope = chunks.scope(scope)?;
    let read = chunks.store.with_reader(|room| chunks.read_cached(id, header.raw_len.into(), scope, room));
    read.inspect_err(|error| record_damage(chunks, id, error)).map(Some)
}

/// Returns what is known of a chunk or node.
pub(crate) fn facts(engine: &Engine, scope: u32, id: &ChunkId) -> Result<Option<ChunkFacts>> {
    let files = written(engine)?;
    let chunks = &files.chunks;
    if header(chunks, scope, id)?.is_none() {
        return Ok(None);
    }
    let read = chunks.store.with_reader(|ReadRoom { room, .. }| chunks.record(id, room));
    let found = read.inspect_err(|error| record_damage(chunks, id, error))?;
    Ok(found.map(|chunk| ChunkFacts {
        bytes: chunk.header.raw_len.into(),
        stored_bytes: chunk.header.record_len(),
        is_node: chunk.header.kind == ChunkKind::Node,
        stored: chunk.header.time.to_time(),
        origin: Some(chunk.origin().to_owned()).filter(|origin| !origin.is_empty()),
    }))
}

/// Answers which chunks and nodes are there.
pub(crate) fn answer(engine: &Engine, scope: u32, question: &HaveYou) -> Result<Have> {
    let files = written(engine)?;
    let has = question.ids().iter().map(|id| has(&files.chunks, scope, id));
    Ok(Have::new(&has.collect::<Result<Vec<bool>>>()?))
}

/// Walks over the ids of all chunks and nodes of a scope that were stored when it began, each once: first those in
/// packs without a name, then pack by pack. Keeps its files meanwhile.
#[derive(Debug)]
pub(crate) struct ChunkWalk {
    engine: Arc<Engine>,
    files: Arc<SuperVersion>,
    scope: u32,
    /// Ids in packs without a name, ascending: at most those of the unflushed memtables. Writers go on adding to those
    /// packs, so what they held at the beginning is noted.
    unnamed: Vec<ChunkId>,
    /// How many of those are left.
    left: usize,
    /// Packs with a name that are left, the next one last.
    packs: Vec<FileNumber>,
    /// Records that are left of a pack, the next one last.
    lines: (FileNumber, Vec<Line>),
}

impl ChunkWalk {
    pub(crate) fn new(engine: &Arc<Engine>, scope: u32) -> Result<Self> {
        let files = written(engine)?;
        let chunks = &files.chunks;
        let mut unnamed = chunks.unnamed_ids();
        unnamed.sort_unstable();
        unnamed.dedup();
        let (left, packs) = (unnamed.len(), chunks.packs.keys().copied().collect());
        Ok(Self { engine: Arc::clone(engine), files, scope, unnamed, left, packs, lines: (FileNumber(0), Vec::new()) })
    }

    /// Returns the next id.
    pub(crate) fn next(&mut self) -> Result<Option<ChunkId>> {
        let Self { engine, files, scope, unnamed, left, packs, lines: (pack, lines) } = self;
        let chunks = &files.chunks;
        loop {
            engine.check_open()?;
            if let Some(id) = left.checked_sub(1).and_then(|last| unnamed.get(last)) {
                *left -= 1;
                if has(chunks, *scope, id)? {
                    return Ok(Some(*id));
                }
                continue;
            }
            let Some(line) = lines.pop() else {
                let Some(next) = packs.pop() else { return Ok(None) };
                let handle = chunks.packs.get(&next);
                (*pack, *lines) = (next, handle.map_or(Ok(Vec::new()), |handle| handle.good_lines())?);
                continue;
            };
            // A copy in another pack is told there.
            let is_here = chunks.named(&line.id)?.is_some_and(|(place, ..)| place == *pack);
            if is_here && unnamed.binary_search(&line.id).is_err() && has(chunks, *scope, &line.id)? {
                return Ok(Some(line.id));
            }
        }
    }
}

/// Looks for one chunk beneath recipes, and remembers nodes that it has read.
#[derive(Debug)]
pub(crate) struct ChunkSearch {
    id: ChunkId,
    nodes: HashMap<ChunkId, bool>,
}

impl ChunkSearch {
    pub(crate) fn new(id: ChunkId) -> Self {
        Self { id, nodes: HashMap::new() }
    }

    /// Returns whether the recipe of a key refers to the chunk.
    ///
    /// # Errors
    /// If a node cannot be read.
    pub(crate) fn is_in(
        &mut self,
        chunks: &ChunkSet,
        (keyspace, key): (&KeyspaceRef, &[u8]),
        recipe: &Recipe,
    ) -> Result<bool> {
        let value = LargeValue { chunks, keyspace, key };
        chunks.store.with_reader(|room| self.is_among(value, &recipe.references, recipe.height, room))
    }

    fn is_among(
        &mut self,
        value: LargeValue<'_>,
        references: &[Reference],
        height: u32,
        room: &mut ReadRoom,
    ) -> Result<bool> {
        for reference in references {
            let Some(id) = reference.id else { continue };
            if id == self.id {
                return Ok(true);
            }
            let Some(below) = height.checked_sub(1) else { continue };
            let is_below = if let Some(known) = self.nodes.get(&id) {
                *known
            } else {
                let node = value.node(reference, below, room)?;
                let found = self.is_among(value, &node, below, room)?;
                self.nodes.insert(id, found);
                found
            };
            if is_below {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
