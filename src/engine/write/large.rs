//! Large values, written: cut, named by their content, and stored where they are new.
//!
//! ```text
//!   bytes ▸ cut ▸ id ▸ reserve ▸ stored already? ─yes──────────────────────▶ a reference
//!                                   └─no─▶ compress ▸ pack of the active epoch ─┘
//!   references ▸ nodes, stored like chunks ▸ recipe ▸ an operation of a batch
//! ```
//!
//! Rules L1, L2 and L11 of `docs/chunks.md`.

use std::{
    mem,
    panic::resume_unwind,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{room, stage::check_key_of};
use crate::{
    base::{Bytes, ChunkId, Corruption, Error, Result},
    chunk::{
        cut::Chunking,
        id::{ChunkKind, Scope},
        recipe::{self, Reference},
        record::{EncodedChunk, ORIGIN_LEN_MAX},
        tree::RecipeBuilder,
    },
    engine::{
        Engine, KeyspaceRef,
        catalogue::dropped,
        chunk_store::{ReadRoom, Writing},
        files::{
            chunks::{ChunkFacts, ChunkSet},
            epoch::Epoch,
        },
        jobs::flush_recovered_chunks,
        options::UNCUT_MAX,
        read::{LargeValue, Leaves, Recipe, ValueReader, decode, get_stored},
    },
    manifest::StoredChunking,
    merge::Stored as StoredValue,
};

/// Zeros to compare with.
static ZEROS: [u8; 4096] = [0; 4096];

/// Returns whether all bytes are zero.
fn is_hole(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0) && bytes.chunks(ZEROS.len()).all(|part| ZEROS.starts_with(part))
}

/// How the large values of a keyspace are written now; `None` if none are.
fn options_of(engine: &Engine, keyspace: &KeyspaceRef) -> Option<StoredChunking> {
    if keyspace.strategy.folds() {
        return None;
    }
    engine.files.with_current(|now| {
        let alive = now.version.keyspaces.get(&keyspace.id).filter(|keyspace| keyspace.dropped.is_none());
        alive.map(|keyspace| keyspace.options.large)
    })
}

/// Returns how a value of this length is to be cut; `None` if it is kept in its entry.
pub(super) fn cut_by(engine: &Engine, keyspace: &KeyspaceRef, len: usize) -> Option<StoredChunking> {
    let len = len as u64;
    let options = options_of(engine, keyspace)?;
    (len > UNCUT_MAX || options.threshold.is_some_and(|threshold| len >= threshold)).then_some(options)
}

/// What was stored of one value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Chunks of the value, holes not counted.
    pub(crate) chunks: u64,
    /// Those that were not stored before, nodes not counted.
    pub(crate) new_chunks: u64,
    /// Bytes of those, before compression.
    pub(crate) new_bytes: u64,
    /// Bytes that this value added to packs, nodes included.
    pub(crate) stored_bytes: u64,
}

/// Stores the chunks of one value.
#[derive(Debug)]
struct ChunkWriter {
    engine: Arc<Engine>,
    keyspace: KeyspaceRef,
    scope: Scope,
    level: Option<i32>,
    chunking: Chunking,
    origin: String,
    builder: RecipeBuilder,
    tally: Tally,
    writing: Arc<Writing>,
    /// Chunks found or stored since it last told what it refers to, and whether it ever has.
    untold: usize,
    has_told: bool,
}

/// Chunks after which a writer tells what it refers to: nodes stand for most of them.
const UNTOLD_MAX: usize = 4096;

impl ChunkWriter {
    /// Begins a value.
    ///
    /// # Errors
    /// If nothing can be written.
    fn begin(engine: &Arc<Engine>, keyspace: &KeyspaceRef, options: StoredChunking, origin: String) -> Result<Self> {
        engine.health.check_writable()?;
        // A new recipe may refer to what a recovery found only once that is in packs with a name (L4).
        flush_recovered_chunks(engine)?;
        let StoredChunking { chunking, level, threshold: _ } = options;
        let scope = engine.files.current().chunks.scope(keyspace.scope)?.clone();
        let writing = engine.store.begin_writing(keyspace);
        Ok(Self {
            engine: Arc::clone(engine),
            keyspace: keyspace.clone(),
            scope,
            level,
            chunking,
            origin,
            builder: RecipeBuilder::new(chunking),
            tally: Tally::default(),
            writing,
            untold: 0,
            has_told: false,
        })
    }

    /// Returns the length so far.
    fn len(&self) -> u64 {
        self.builder.len()
    }

    /// Adds the chunks that the bytes begin with, all of them if no more bytes follow; returns the bytes that they
    /// take.
    fn chunks_of(&mut self, bytes: &[u8], last: bool) -> Result<usize> {
        let mut used = 0;
        while used < bytes.len() {
            let window = bytes.get(used..).unwrap_or_default();
            // What is cut at once bounds what the helpers work on; the end of a window is no end of the value.
            let (window, ends) = match window.get(..WINDOW_LEN) {
                Some(part) if window.len() > WINDOW_LEN => (part, false),
                _ => (window, last),
            };
            let (mut chunks, mut rest) = (Vec::new(), window);
            while !rest.is_empty()
                && let Some(len) = self.chunking.cut(rest, ends)
            {
                let (chunk, behind) = rest.split_at(len);
                chunks.push(chunk);
                rest = behind;
            }
            if chunks.is_empty() {
                break;
            }
            self.add(&chunks)?;
            used += window.len() - rest.len();
        }
        Ok(used)
    }

    /// Adds the next chunks.
    fn add(&mut self, chunks: &[&[u8]]) -> Result<()> {
        let stored = self.store_all(chunks)?;
        let Self { engine, keyspace, scope, level, origin, builder, tally, writing, .. } = self;
        for (chunk, stored) in chunks.iter().zip(stored) {
            let len = chunk.len() as u64;
            let Stored { id, added } = stored;
            let Some(id) = id else {
                engine.store.counts.hole_bytes.fetch_add(len, Ordering::Relaxed);
                builder.zeros(len)?;
                continue;
            };
            tally.chunks += 1;
            if let Some(added) = added {
                tally.new_chunks += 1;
                tally.new_bytes += len;
                tally.stored_bytes += added;
            }
            builder.chunk(id, len, &mut |node: Vec<u8>| {
                let kind = ChunkKind::Node;
                let (id, scope) = (scope.id(kind, &node), keyspace.scope);
                let node = Chunk { kind, id, bytes: &node, scope, level: *level, origin };
                tally.stored_bytes += node.store(engine, keyspace, writing)?.unwrap_or(0);
                Ok(id)
            })?;
        }
        self.untold += chunks.len();
        if self.untold >= UNTOLD_MAX {
            let open = self.builder.frontier();
            self.refer_to(open)?;
        }
        Ok(())
    }

    /// Tells what the value refers to. A collection reads nodes among that, so they are written first.
    fn refer_to(&mut self, open: Vec<recipe::Recipe>) -> Result<()> {
        let epochs = self.engine.files.with_current(|now| now.chunks.epochs.clone());
        epochs.iter().try_for_each(|epoch| epoch.write_out())?;
        self.writing.refer_to(open);
        (self.untold, self.has_told) = (0, true);
        Ok(())
    }

    /// Stores chunks, with the help of other threads where there are enough bytes to be worth it. Whatever is drawn up
    /// here is bounded by the window; whoever calls waits for all.
    fn store_all(&self, chunks: &[&[u8]]) -> Result<Vec<Stored>> {
        let bytes: usize = chunks.iter().map(|chunk| chunk.len()).sum();
        let most = if self.engine.ctx.runs_inline() { 0 } else { (bytes / HELPED_MIN).min(chunks.len() / 2) };
        let helpers = self.engine.store.take_helpers(most);
        if helpers.count == 0 {
            return chunks.iter().map(|chunk| self.store_one(chunk)).collect();
        }
        let next = AtomicUsize::new(0);
        let work = || -> Result<Vec<(usize, Stored)>> {
            let mut stored = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(chunk) = chunks.get(at) else { return Ok(stored) };
                match self.store_one(chunk) {
                    Ok(one) => stored.push((at, one)),
                    Err(error) => {
                        // The others have nothing more to do.
                        next.store(chunks.len(), Ordering::Relaxed);
                        return Err(error);
                    }
                }
            }
        };
        let parts = thread::scope(|scope| {
            let spawn = |_| thread::Builder::new().name("chronolith-chunks".to_owned()).spawn_scoped(scope, work);
            // A thread that cannot be started is one helper less.
            let started: Vec<_> = (0..helpers.count).map_while(|number| spawn(number).ok()).collect();
            let own = work();
            let joined = started.into_iter().map(|helper| helper.join().unwrap_or_else(|panic| resume_unwind(panic)));
            std::iter::once(own).chain(joined.collect::<Vec<_>>()).collect::<Result<Vec<_>>>()
        });
        let mut stored: Vec<(usize, Stored)> = parts?.into_iter().flatten().collect();
        stored.sort_unstable_by_key(|(at, _)| *at);
        assert_eq!(stored.len(), chunks.len(), "chunks that were stored");
        Ok(stored.into_iter().map(|(_, one)| one).collect())
    }

    /// Names a chunk, and stores it unless it is a hole.
    fn store_one(&self, bytes: &[u8]) -> Result<Stored> {
        if is_hole(bytes) {
            return Ok(Stored { id: None, added: None });
        }
        let Self { engine, keyspace, scope, level, origin, writing, .. } = self;
        let kind = ChunkKind::Data;
        let id = scope.id(kind, bytes);
        let chunk = Chunk { kind, id, bytes, scope: keyspace.scope, level: *level, origin };
        Ok(Stored { id: Some(id), added: chunk.store(engine, keyspace, writing)? })
    }

    /// Ends a value that has at least one byte.
    fn finish(mut self) -> Result<(recipe::Recipe, Tally, Arc<Writing>)> {
        let Self { engine, keyspace, scope, level, origin, builder, chunking, tally, writing, .. } = &mut self;
        let builder = mem::replace(builder, RecipeBuilder::new(*chunking));
        let len = builder.len();
        let mut put = |node: Vec<u8>| {
            let kind = ChunkKind::Node;
            let (id, scope_number) = (scope.id(kind, &node), keyspace.scope);
            let stored = Chunk { kind, id, bytes: &node, scope: scope_number, level: *level, origin };
            tally.stored_bytes += stored.store(engine, keyspace, writing)?.unwrap_or(0);
            Ok(id)
        };
        let recipe = builder.finish(origin.clone(), &mut put)?;
        engine.store.counts.values.fetch_add(1, Ordering::Relaxed);
        engine.store.counts.value_bytes.fetch_add(len, Ordering::Relaxed);
        // A batch may hold thousands of values: of a tree it holds the root alone.
        if self.has_told || recipe.height > 0 {
            self.refer_to(vec![recipe.clone()])?;
        }
        Ok((recipe, self.tally, self.writing))
    }
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

/// A chunk that is stored: `None` for a hole, and the bytes that this added, if it is new.
#[derive(Debug)]
struct Stored {
    id: Option<ChunkId>,
    added: Option<u64>,
}

/// A chunk to store.
struct Chunk<'c> {
    kind: ChunkKind,
    id: ChunkId,
    bytes: &'c [u8],
    scope: u32,
    level: Option<i32>,
    origin: &'c str,
}

impl Chunk<'_> {
    /// Stores the chunk unless it is stored already, and holds it for the writer; returns the bytes that this added.
    fn store(&self, engine: &Engine, keyspace: &KeyspaceRef, writing: &Writing) -> Result<Option<u64>> {
        let Self { kind, id, bytes, scope, level, origin } = *self;
        let store = &engine.store;
        make_room(engine, keyspace, Epoch::is_full)?;
        if store.is_damaged(Some(&id)) {
            // No id stands twice in a pack: the one that has it is ended.
            make_room(engine, keyspace, |epoch| epoch.place(&id).is_some())?;
        }
        let reserved = store.reserve(id, || engine.health.check_writable())?;
        loop {
            // Taken after the reservation: whoever stored it before has made it visible by then (L11).
            let current = engine.files.current();
            let Some(ChunkFacts { pack, is_named, .. }) = current.chunks.known(&id)? else { break };
            let is_active = || current.chunks.epochs.first().is_some_and(|epoch| epoch.place(&id).is_some());
            if store.is_damaged(Some(&id)) && !is_active() {
                break;
            }
            // In one section with the version: in the next one the pack may have a name, or be gone (L9).
            let held = engine.files.with_current(|now| now.chunks.has_pack(pack).then(|| writing.hold_found(id, pack)));
            match held {
                Some(true) => {
                    store.counts.known(bytes.len());
                    return Ok(None);
                }
                Some(false) if is_named => break,
                // Its pack has got a name meanwhile, or what it held stands elsewhere.
                _ => engine.health.check_writable()?,
            }
        }
        let encoded = store.with_encoder(level, |encoder| {
            EncodedChunk::new(kind, scope, id, bytes, origin, |out| encoder.encode(bytes, out))
        })?;
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
        Ok(Some(encoded.len() as u64))
    }
}

/// Bytes gathered before they are cut: with so many, all but a last chunk are certain.
const WINDOW_LEN: usize = 4 << 20;

/// Bytes for which another thread is started: that takes some 50 µs, and to compress so many 500.
const HELPED_MIN: usize = 256 << 10;

/// A value that arrives in pieces. It is in no key until a batch adopts it; dropped before, it is nobody's.
#[derive(Debug)]
pub(crate) struct LargeWriter {
    value: ChunkWriter,
    /// Length from which on the value is cut; a shorter one is kept in its entry.
    cut_from: usize,
    /// Bytes that are in no chunk yet.
    gathered: Vec<u8>,
    /// What an earlier write met: what it was given may be stored in part.
    failed: bool,
}

/// A value whose chunks are stored, for a batch to adopt.
#[derive(Debug)]
pub(crate) struct StagedLarge {
    pub(super) entry: StagedEntry,
    /// Scope of its chunks.
    pub(super) scope: u32,
    pub(crate) bytes: u64,
    pub(crate) tally: Tally,
    /// Keeps its chunks until a batch with it is committed.
    pub(super) writing: Arc<Writing>,
}

/// The entry of a staged value.
#[derive(Debug)]
pub(super) enum StagedEntry {
    Kept(Vec<u8>),
    Recipe(Vec<u8>),
}

/// Fails for a keyspace that combines values.
pub(super) fn check_takes_large(keyspace: &KeyspaceRef) -> Result<()> {
    if keyspace.strategy.folds() {
        return Err(keyspace.named(Error::invalid(
            "it combines values (Sum, Append or custom), which are never streamed; use `put` and `merge`",
        )));
    }
    Ok(())
}

impl LargeWriter {
    /// Begins a value.
    ///
    /// # Errors
    /// For a key that is too long, an origin that is too long, a keyspace that was dropped or combines values; if
    /// nothing can be written.
    pub(crate) fn begin(engine: &Arc<Engine>, keyspace: &KeyspaceRef, key: &[u8], origin: String) -> Result<Self> {
        check_key_of(keyspace, key)?;
        check_takes_large(keyspace)?;
        if origin.len() > ORIGIN_LEN_MAX {
            let what = format!("an origin has at most {ORIGIN_LEN_MAX} bytes, not {}", origin.len());
            return Err(of_value(keyspace, key, &what));
        }
        let options = options_of(engine, keyspace).ok_or_else(|| dropped(keyspace))?;
        let most = UNCUT_MAX + 1;
        let cut_from = usize::try_from(options.threshold.map_or(most, |from| from.min(most))).unwrap_or(usize::MAX);
        let value = ChunkWriter::begin(engine, keyspace, options, origin)?;
        Ok(Self { value, cut_from, gathered: Vec::new(), failed: false })
    }

    /// Begins a value that is cut, however short.
    fn of(value: ChunkWriter) -> Self {
        Self { value, cut_from: 0, gathered: Vec::new(), failed: false }
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// After an error the value cannot be finished: what it was given is stored in part.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.check_whole()?;
        self.value.engine.health.check_writable()?;
        while !bytes.is_empty() {
            let room = WINDOW_LEN.saturating_sub(self.gathered.len()).min(bytes.len());
            let (now, later) = bytes.split_at(room);
            self.gathered.extend_from_slice(now);
            bytes = later;
            if self.gathered.len() >= WINDOW_LEN {
                self.failed = true;
                self.cut(false)?;
                self.failed = false;
            }
        }
        Ok(())
    }

    fn check_whole(&self) -> Result<()> {
        if self.failed {
            return Err(Error::invalid("an earlier write to this value failed; begin it again with `writer`"));
        }
        Ok(())
    }

    /// Stores what is certain to be a chunk; with `last`, everything.
    fn cut(&mut self, last: bool) -> Result<()> {
        let used = self.value.chunks_of(&self.gathered, last)?;
        self.gathered.drain(..used);
        Ok(())
    }

    /// Ends the value.
    pub(crate) fn stage(mut self) -> Result<StagedLarge> {
        self.check_whole()?;
        self.value.engine.health.check_writable()?;
        let scope = self.value.keyspace.scope;
        if self.value.len() == 0 && self.gathered.len() < self.cut_from {
            let bytes = self.gathered.len() as u64;
            let entry = StagedEntry::Kept(self.gathered);
            return Ok(StagedLarge { entry, scope, bytes, tally: Tally::default(), writing: self.value.writing });
        }
        self.cut(true)?;
        let bytes = self.value.len();
        let (recipe, tally, writing) = self.value.finish()?;
        Ok(StagedLarge { entry: StagedEntry::Recipe(recipe.encode()), scope, bytes, tally, writing })
    }
}

/// Returns the error for a value that is refused.
#[cold]
fn of_value(keyspace: &KeyspaceRef, key: &[u8], what: &str) -> Error {
    keyspace.named(Error::invalid(format!("key \"{}\": {what}", key.escape_ascii())))
}

/// Stages the value of a key for another key: by its recipe within one scope, so that no chunk is read or written.
pub(crate) fn stage_copy(
    engine: &Arc<Engine>,
    from: &KeyspaceRef,
    key: &[u8],
    to: &KeyspaceRef,
    to_key: &[u8],
) -> Result<Option<StagedLarge>> {
    check_key_of(to, to_key)?;
    check_takes_large(to)?;
    engine.health.check_writable()?;
    flush_recovered_chunks(engine)?;
    let writing = engine.store.begin_writing(to);
    let Some((stored, chunks)) = get_stored(engine, from, key)? else { return Ok(None) };
    Ok(Some(match stored {
        StoredValue::Bytes(bytes) => {
            let mut writer = LargeWriter::begin(engine, to, to_key, String::new())?;
            writer.write(&bytes)?;
            writer.stage()?
        }
        StoredValue::Recipe(entry) => {
            let recipe = decode(from, key, &entry)?;
            let (bytes, origin) = (recipe.len, recipe.origin.clone());
            if from.scope == to.scope && writing.hold_recipe(recipe) {
                let (entry, tally) = (StagedEntry::Recipe(entry.to_vec()), Tally::default());
                return Ok(Some(StagedLarge { entry, scope: to.scope, bytes, tally, writing }));
            }
            let mut reader = ValueReader::new(engine, from, key, (StoredValue::Recipe(entry), chunks))?;
            copy_value(&mut reader, LargeWriter::begin(engine, to, to_key, origin)?)?
        }
    }))
}

/// Reads a value and writes it like a new one.
fn copy_value(reader: &mut ValueReader, mut writer: LargeWriter) -> Result<StagedLarge> {
    let mut room = vec![0; WINDOW_LEN];
    loop {
        let count = reader.read_some(&mut room)?;
        if count == 0 {
            return writer.stage();
        }
        writer.write(room.get(..count).unwrap_or_default())?;
    }
}

/// Stages a value by its recipe: every chunk must be there, as long as the recipe says.
pub(crate) fn stage_recipe(
    engine: &Arc<Engine>,
    keyspace: &KeyspaceRef,
    key: &[u8],
    recipe: &Recipe,
) -> Result<StagedLarge> {
    check_key_of(keyspace, key)?;
    check_takes_large(keyspace)?;
    engine.health.check_writable()?;
    flush_recovered_chunks(engine)?;
    let Recipe { recipe, scope } = recipe;
    if *scope != keyspace.scope {
        let what = "the recipe belongs to another dedup scope, where chunks have other ids; use `copy`";
        return Err(of_value(keyspace, key, what));
    }
    let writing = engine.store.begin_writing(keyspace);
    let current = engine.files.current();
    let value = LargeValue { chunks: &current.chunks, keyspace, key };
    let gone = |error: Error| match error {
        Error::CorruptChunk { chunk, .. } => {
            of_value(keyspace, key, &format!("chunk {chunk} of the recipe is not stored here; write the value"))
        }
        error => error,
    };
    let check = |reference: &Reference, len: Option<u64>| {
        let Some(id) = reference.id else { return Ok(()) };
        let is_there = |facts: &ChunkFacts| len.is_none_or(|len| u64::from(facts.place.raw_len) == len);
        let lost =
            || value.damaged(id, Corruption { offset: 0, what: "a place for the chunk" }.of(current.chunks.path(), 0));
        current.chunks.known(&id)?.filter(is_there).map(drop).ok_or_else(lost)
    };
    let checked = current.chunks.store.with_reader(|reader| {
        let mut leaves = Leaves::new(recipe.clone());
        let node = |node: &Reference, height: u32, reader: &mut ReadRoom| {
            check(node, None)?;
            value.node(node, height, reader)
        };
        while let Some((_, reference)) = leaves.next(|of, height| node(of, height, reader))? {
            check(&reference, Some(reference.len))?;
        }
        Ok(())
    });
    checked.map_err(gone)?;
    if writing.hold_recipe(recipe.clone()) {
        let (bytes, tally) = (recipe.len, Tally::default());
        return Ok(StagedLarge { entry: StagedEntry::Recipe(recipe.encode()), scope: *scope, bytes, tally, writing });
    }
    // Chunks in a condemned pack may go: the value is read, and stored like a new one.
    let stored = (StoredValue::Recipe(recipe.encode().into()), Arc::clone(&current.chunks));
    let options = options_of(engine, keyspace).ok_or_else(|| dropped(keyspace))?;
    let options = StoredChunking { chunking: recipe.chunking, ..options };
    let writer = ChunkWriter::begin(engine, keyspace, options, recipe.origin.clone())?;
    let mut reader = ValueReader::new(engine, keyspace, key, stored)?;
    copy_value(&mut reader, LargeWriter::of(writer)).map_err(gone)
}

/// Stores a value; returns the entry that it gets, and what keeps its chunks until that is committed.
pub(super) fn store_value(
    engine: &Arc<Engine>,
    keyspace: &KeyspaceRef,
    key: &[u8],
    value: &[u8],
    options: StoredChunking,
) -> Result<(Vec<u8>, Arc<Writing>)> {
    let writing = engine.store.begin_writing(keyspace);
    if !engine.store.is_damaged(None)
        && let Some((same, recipe)) = same_value(engine, keyspace, key, value, options.chunking)?
        && writing.hold_recipe(recipe)
    {
        let counts = &engine.store.counts;
        counts.values.fetch_add(1, Ordering::Relaxed);
        counts.value_bytes.fetch_add(value.len() as u64, Ordering::Relaxed);
        counts.known_bytes.fetch_add(value.len() as u64, Ordering::Relaxed);
        return Ok((same.to_vec(), writing));
    }
    let mut writer = ChunkWriter::begin(engine, keyspace, options, String::new())?;
    writer.chunks_of(value, true)?;
    let (recipe, _, writing) = writer.finish()?;
    Ok((recipe.encode(), writing))
}

/// Returns the recipe of the key's present value, if that has the same bytes and is cut the same way: the new value is
/// hashed along its cuts, up to the first chunk that differs. Nothing is cut, and no chunk is read or looked up.
fn same_value(
    engine: &Arc<Engine>,
    keyspace: &KeyspaceRef,
    key: &[u8],
    value: &[u8],
    chunking: Chunking,
) -> Result<Option<(Bytes, recipe::Recipe)>> {
    // What a recovery found is copied first (L4); what cannot be read says nothing about the new value.
    if engine.log.syncing.recovered().is_some() {
        return Ok(None);
    }
    let Ok(Some((StoredValue::Recipe(entry), chunks))) = get_stored(engine, keyspace, key) else { return Ok(None) };
    let Ok(recipe) = recipe::Recipe::decode(&entry) else { return Ok(None) };
    if recipe.len != value.len() as u64 || recipe.chunking != chunking {
        return Ok(None);
    }
    Ok(is_cut_from(&chunks, keyspace, key, recipe.clone(), value)?.then_some((entry, recipe)))
}

fn is_cut_from(
    chunks: &ChunkSet,
    keyspace: &KeyspaceRef,
    key: &[u8],
    recipe: recipe::Recipe,
    value: &[u8],
) -> Result<bool> {
    let scope = chunks.scope(keyspace.scope)?;
    let old = LargeValue { chunks, keyspace, key };
    chunks.store.with_reader(|reader| {
        let mut leaves = Leaves::new(recipe);
        loop {
            // A node that cannot be read is no reason to refuse a new value.
            let Ok(next) = leaves.next(|node, height| old.node(node, height, reader)) else { return Ok(false) };
            let Some((at, Reference { id, len })) = next else { return Ok(true) };
            let from = usize::try_from(at).unwrap_or(usize::MAX);
            let part = usize::try_from(len).ok().and_then(|len| value.get(from..from.saturating_add(len)));
            let Some(part) = part else { return Ok(false) };
            let same = match id {
                Some(id) => scope.id(ChunkKind::Data, part) == id,
                None => is_hole(part),
            };
            if !same {
                return Ok(false);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeyspaceOptions, Options, env::Sim};

    /// A batch of thousands of values must not take more memory for what they hold than for the values' recipes.
    #[test]
    fn a_value_that_waits_for_its_commit_holds_the_root_of_its_tree_alone() {
        let db = Options::new().env(Sim::new(1)).open("/db").unwrap();
        let k = db.keyspace("k", KeyspaceOptions::new().chunking(Chunking::fixed(512))).unwrap();
        let value: Vec<u8> = (0..512u32 * 3000).map(|at| at.wrapping_mul(0x9e37_79b9).to_le_bytes()[2]).collect();
        let mut batch = db.batch();
        for key in ["a", "b"] {
            batch.put(&k, key, &value);
        }
        let frontiers = db.engine().store.frontiers();
        assert_eq!(frontiers.len(), 2);
        for frontier in frontiers {
            let references: usize = frontier.open.iter().map(|recipe| recipe.references.len()).sum();
            assert!(frontier.found.is_empty() && (1..=256).contains(&references), "{references} references");
        }
        drop(batch);
        assert!(db.engine().store.frontiers().is_empty());
    }

    #[test]
    fn a_hole_is_zero_in_every_byte() {
        for len in [1, 2, 4095, 4096, 4097, 20_000] {
            let mut bytes = vec![0; len];
            assert!(is_hole(&bytes), "{len} zeros");
            for at in [0, len / 2, len - 1] {
                bytes[at] = 1;
                assert!(!is_hole(&bytes), "{len} bytes with a one at {at}");
                bytes[at] = 0;
            }
        }
        assert!(!is_hole(&[]));
    }
}
