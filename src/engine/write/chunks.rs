//! Chunks, named by their content and stored where they are new.
//!
//! ```text
//!   bytes ▸ id ▸ reserve ▸ stored already? ─yes─────────────────────────────▶ held
//!                             └─no─▶ compress ▸ pack of the active epoch ─────┘
//! ```
//!
//! Rules L9 and L11 of `docs/chunks.md`.

use std::{sync::Arc, thread};

use super::{large::options_of, room};
use crate::{
    base::{ChunkId, Error, PLACES, Result},
    chunk::{
        cut::CHUNK_LEN_MAX,
        id::{ChunkKind, Scope},
        recipe,
        record::{EncodedChunk, NewChunk},
    },
    engine::{
        Engine, KeyspaceRef,
        catalogue::dropped,
        chunk_store::Writing,
        files::{chunks::StoredAt, epoch::Epoch},
        jobs::flush_recovered_chunks,
        read::{chunk, header},
    },
    manifest::StoredChunking,
};

/// A chunk that is stored and held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    pub(super) id: ChunkId,
    /// Bytes that this added to a pack; `None` if it was there before.
    pub(super) added: Option<u64>,
}

/// Stores chunks for one writer, and holds them for it.
#[derive(Debug)]
pub(super) struct ChunkSink {
    pub(super) engine: Arc<Engine>,
    pub(super) keyspace: KeyspaceRef,
    pub(super) origin: String,
    pub(super) writing: Arc<Writing>,
    scope: Scope,
    level: Option<i32>,
}

impl ChunkSink {
    /// Begins a writer whose chunks are compressed at a level of zstd.
    ///
    /// # Errors
    /// If nothing can be written.
    pub(super) fn begin(
        engine: &Arc<Engine>,
        keyspace: &KeyspaceRef,
        level: Option<i32>,
        origin: String,
    ) -> Result<Self> {
        engine.health.check_writable()?;
        // A new recipe may refer to what a recovery found only once that is in packs with a name (L4).
        flush_recovered_chunks(engine)?;
        let scope = engine.files.current().chunks.scope(keyspace.scope)?.clone();
        let writing = engine.store.begin_writing(keyspace);
        let (engine, keyspace) = (Arc::clone(engine), keyspace.clone());
        Ok(Self { engine, keyspace, origin, writing, scope, level })
    }

    /// Stores a chunk unless it is stored already, and holds it.
    pub(super) fn store(&self, kind: ChunkKind, bytes: &[u8]) -> Result<Stored> {
        let Self { engine, keyspace, origin, writing, scope, level } = self;
        let (store, id) = (&engine.store, scope.id(kind, bytes));
        make_room(engine, keyspace, Epoch::is_full)?;
        if store.is_damaged(Some(&id)) {
            // No id stands twice in a pack: the one that has it is ended.
            make_room(engine, keyspace, |epoch| epoch.place(&id).is_some())?;
        }
        let reserved = store.reserve(id, || engine.health.check_writable())?;
        let mut first = None;
        loop {
            // Taken after the reservation: whoever stored it before has made it visible by then (L11).
            let current = engine.files.current();
            let Some(StoredAt { pack, is_named, .. }) = current.chunks.known(&id)? else { break };
            let is_active = || current.chunks.epochs.first().is_some_and(|epoch| epoch.place(&id).is_some());
            if store.is_damaged(Some(&id)) && !is_active() {
                break;
            }
            // In one section with the version: in the next one the pack may have a name, or be gone (L9).
            let held = engine.files.with_current(|now| now.chunks.has_pack(pack).then(|| writing.hold_found(id, pack)));
            match held {
                Some(true) => {
                    store.counts.known(bytes.len());
                    return Ok(Stored { id, added: None });
                }
                Some(false) if is_named => {
                    // The same chunk in another pack: who stored it first, and when, stays as it was. If its record
                    // cannot be read any more, it is new.
                    first = current.chunks.record(&id, &mut Vec::new()).ok().flatten();
                    break;
                }
                // Its pack has got a name meanwhile, or what it held stands elsewhere.
                _ => engine.health.check_writable()?,
            }
        }
        let (origin, time) = match &first {
            Some(first) => (first.origin(), first.header.time),
            None => (origin.as_str(), engine.now()),
        };
        let chunk = NewChunk { kind, scope: keyspace.scope, id, bytes, origin, time };
        let encoded =
            store.with_encoder(*level, |encoder| EncodedChunk::new(&chunk, |out| encoder.encode(bytes, out)))?;
        // Before it is anywhere: a collection must not find it in a pack and with nobody.
        writing.hold_new(id, encoded.len());
        loop {
            let epoch = engine.files.with_current(|now| now.chunks.epochs.first().cloned());
            // A database that was opened read-only is refused before.
            let Some(epoch) = epoch else { return Err(Error::Closed) };
            let appended = || epoch.append(&encoded, || engine.files.take_number());
            if engine.health.contain("a chunk", appended)? {
                break;
            }
            // Its memtable is being sealed: the next epoch is current in a moment.
            engine.health.check_writable()?;
            thread::yield_now();
        }
        store.record_stored(&id);
        drop(reserved);
        store.counts.stored(bytes.len(), encoded.len());
        Ok(Stored { id, added: Some(encoded.len() as u64) })
    }
}

/// A single chunk that is stored and held, in no value.
#[derive(Debug)]
pub(crate) struct HeldChunk {
    pub(crate) id: ChunkId,
    pub(crate) is_new: bool,
    _writing: Arc<Writing>,
}

/// Stores a chunk or node, and holds it.
///
/// # Errors
/// For bytes that no chunk or node has; if nothing can be written.
pub(crate) fn put_chunk(
    engine: &Arc<Engine>,
    keyspace: &KeyspaceRef,
    kind: ChunkKind,
    bytes: &[u8],
) -> Result<HeldChunk> {
    if !(1..=CHUNK_LEN_MAX).contains(&bytes.len()) {
        let what = format!("a chunk has 1 to {CHUNK_LEN_MAX} bytes, not {}; cut it, or write a value", bytes.len());
        return Err(Error::invalid(what));
    }
    if kind == ChunkKind::Node {
        recipe::check_node(bytes).map_err(|bad| {
            Error::invalid(format!("these bytes are no node: at byte {}, not {}", bad.offset, bad.what))
        })?;
    }
    let sink = ChunkSink::begin(engine, keyspace, level_of(engine, keyspace)?, String::new())?;
    let Stored { id, added } = sink.store(kind, bytes)?;
    Ok(HeldChunk { id, is_new: added.is_some(), _writing: sink.writing })
}

/// Holds a chunk or node that is stored; `None` if the scope has none of that id.
pub(crate) fn hold_chunk(engine: &Arc<Engine>, keyspace: &KeyspaceRef, id: &ChunkId) -> Result<Option<HeldChunk>> {
    engine.health.check_writable()?;
    flush_recovered_chunks(engine)?;
    let writing = engine.store.begin_writing(keyspace);
    loop {
        let files = engine.files.current();
        files.chunks.write_out()?;
        let Some(found) = header(&files.chunks, keyspace.scope, id)? else { return Ok(None) };
        let Some(StoredAt { pack, is_named, .. }) = files.chunks.known(id)? else { return Ok(None) };
        match engine.files.with_current(|now| now.chunks.has_pack(pack).then(|| writing.hold_found(*id, pack))) {
            Some(true) => return Ok(Some(HeldChunk { id: *id, is_new: false, _writing: writing })),
            // Its pack may be about to go: what can still be read is stored anew.
            Some(false) if is_named => {
                let Some(bytes) = chunk(engine, keyspace.scope, id)? else { return Ok(None) };
                return put_chunk(engine, keyspace, found.kind, &bytes).map(Some);
            }
            _ => engine.health.check_writable()?,
        }
    }
}

/// Returns the level of zstd for chunks that no value decides about.
pub(super) fn level_of(engine: &Engine, keyspace: &KeyspaceRef) -> Result<Option<i32>> {
    if keyspace.id == PLACES || keyspace.strategy.folds() {
        return Ok(StoredChunking::default().level);
    }
    options_of(engine, keyspace).map(|options| options.level).ok_or_else(|| dropped(keyspace))
}

/// Ends the active epoch if it has no room, before a chunk is added: whoever does waits like a commit. Several writers
/// at once may go beyond the bound by a chunk each.
fn make_room(engine: &Engine, keyspace: &KeyspaceRef, is_full: impl Fn(&Epoch) -> bool) -> Result<()> {
    let active = || engine.files.with_current(|now| now.chunks.epochs.first().cloned());
    let Some(full) = active().filter(|epoch| is_full(epoch)) else { return Ok(()) };
    room::wait_for_room(engine, std::slice::from_ref(keyspace))?;
    engine.health.contain("the end of an epoch", || {
        let mut commit = engine.log.lock();
        engine.health.check_writable()?;
        if commit.is_active(&full) {
            engine.log.rotate(&mut commit, &engine.files)?;
        }
        Ok(())
    })
}
