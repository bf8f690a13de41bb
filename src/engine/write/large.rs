//! Large values, written: as streams, copied by their recipes, adopted.
//!
//! ```text
//!   bytes ▸ cutter.rs ▸ recipe ▸ an operation of a batch
//! ```
//!
//! Rules L1, L2 and L9 of `docs/chunks.md`.

use std::{
    collections::HashSet,
    io,
    sync::{Arc, atomic::Ordering},
};

use super::{
    chunks::level_of,
    cutter::{Cutting, ValueCutter, WINDOW_LEN, is_hole, record_trial},
    stage::check_key_of,
};
use crate::{
    base::{Bytes, Corruption, Error, Result},
    chunk::{
        cut::{Chunking, CutPolicy},
        id::ChunkKind,
        recipe::{self, Reference},
        record::{ChunkHeader, ORIGIN_LEN_MAX},
    },
    engine::{
        Engine, KeyspaceRef,
        catalogue::dropped,
        chunk_store::{ArmCounts, ReadRoom, Tally, Writing},
        files::chunks::ChunkSet,
        jobs::flush_recovered_chunks,
        options::UNCUT_MAX,
        read::{self, LargeValue, Leaves, Recipe, ValueReader, decode, get_stored},
    },
    manifest::StoredChunking,
    merge::Stored as StoredValue,
};

/// How the large values of a keyspace are written now; `None` if none are.
pub(super) fn options_of(engine: &Engine, keyspace: &KeyspaceRef) -> Option<StoredChunking> {
    if keyspace.strategy.folds() {
        return None;
    }
    engine.files.with_current(|now| {
        let alive = now.version.keyspaces.get(&keyspace.id).filter(|keyspace| keyspace.dropped.is_none());
        alive.map(|keyspace| keyspace.options.large)
    })
}

/// Returns how the value of a key is to be cut; `None` if it is kept in its entry.
pub(super) fn cut_by(engine: &Engine, keyspace: &KeyspaceRef, key: &[u8], value: &[u8]) -> Option<Cutting> {
    let len = value.len() as u64;
    let options = options_of(engine, keyspace)?;
    let is_cut = len > UNCUT_MAX || options.threshold.is_some_and(|threshold| len >= threshold);
    is_cut.then(|| Cutting::of_key(options, key))
}

/// A value that arrives in pieces. It is in no key until a batch adopts it; dropped before, it is nobody's.
#[derive(Debug)]
pub(crate) struct LargeWriter {
    value: ValueCutter,
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

impl StagedLarge {
    /// Returns the recipe as it stands in an entry, and what keeps its chunks until it does; `None` if the value is
    /// kept in its entry.
    pub(crate) fn into_recipe(self) -> Option<(Bytes, Arc<Writing>)> {
        match self.entry {
            StagedEntry::Kept(_) => None,
            StagedEntry::Recipe(entry) => Some((entry.into(), self.writing)),
        }
    }

    /// Returns the recipe of the value; `None` if it is kept in its entry.
    pub(crate) fn recipe(&self) -> Option<Recipe> {
        match &self.entry {
            StagedEntry::Kept(_) => None,
            StagedEntry::Recipe(entry) => {
                let recipe = Recipe::decode_in(self.scope, entry);
                assert!(recipe.is_ok(), "a staged recipe of {} bytes that its own reader refuses", entry.len());
                recipe.ok()
            }
        }
    }
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
        let value = ValueCutter::begin(engine, keyspace, Cutting::of_key(options, key), origin)?;
        Ok(Self { value, cut_from, gathered: Vec::new(), failed: false })
    }

    /// Begins a value that is cut unless it is empty.
    fn of(value: ValueCutter) -> Self {
        Self { value, cut_from: 1, gathered: Vec::new(), failed: false }
    }

    /// Begins a value without a key, which is cut unless it is empty.
    pub(crate) fn without_key(engine: &Arc<Engine>, keyspace: &KeyspaceRef, chunking: Chunking) -> Result<Self> {
        let cutting = Cutting { policy: chunking.single()?, level: level_of(engine, keyspace)?, trial: None };
        Ok(Self::of(ValueCutter::begin(engine, keyspace, cutting, String::new())?))
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// After an error the value cannot be finished: what it was given is stored in part.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.check_whole()?;
        self.value.sink.engine.health.check_writable()?;
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

    /// Adds up to so many zeros without cutting them one chunk after the other; returns how many. None if something
    /// else has not been cut yet.
    fn skip_zeros(&mut self, zeros: u64) -> Result<u64> {
        self.failed = true;
        self.cut(false)?;
        let zeros = if self.gathered.is_empty() || is_hole(&self.gathered) {
            self.value.skip_zeros(self.gathered.len() as u64, zeros)?
        } else {
            0
        };
        self.failed = false;
        Ok(zeros)
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
        self.value.sink.engine.health.check_writable()?;
        let scope = self.value.sink.keyspace.scope;
        if self.value.len() == 0 && self.gathered.len() < self.cut_from {
            let bytes = self.gathered.len() as u64;
            let entry = StagedEntry::Kept(self.gathered);
            return Ok(StagedLarge { entry, scope, bytes, tally: Tally::default(), writing: self.value.sink.writing });
        }
        self.cut(true)?;
        let bytes = self.value.len();
        let (recipe, tally, writing) = self.value.finish()?;
        Ok(StagedLarge { entry: StagedEntry::Recipe(recipe.encode()), scope, bytes, tally, writing })
    }
}

impl io::Write for LargeWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Self::write(self, buf).map_err(Error::into_io)?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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
            copy_value(&mut reader, LargeWriter::begin(engine, to, to_key, origin)?, |_| Ok(()))??
        }
    }))
}

/// Reads a value and writes it like a new one; `told` is called with the bytes copied so far, and may stop it. The
/// inner error is that of reading.
fn copy_value(
    reader: &mut ValueReader,
    mut writer: LargeWriter,
    mut told: impl FnMut(u64) -> Result<()>,
) -> Result<Result<StagedLarge>> {
    let mut room = vec![0; WINDOW_LEN];
    loop {
        let count = match reader.read_some(&mut room) {
            Ok(0) => return writer.stage().map(Ok),
            Ok(count) => count,
            Err(error) => return Ok(Err(error)),
        };
        writer.write(room.get(..count).unwrap_or_default())?;
        // A hole may be longer than anybody could read (L12).
        let hole = reader.hole_left();
        if hole >= WINDOW_LEN as u64 {
            reader.seek_to(reader.position() + writer.skip_zeros(hole)?);
        }
        told(reader.position())?;
    }
}

/// Cuts a stored value in another way. Its bytes and its origin stay; it is in no key until its recipe replaces the old
/// one. `told` is called with the bytes cut so far, and may stop it. The inner error is that of reading.
pub(crate) fn cut_anew(
    engine: &Arc<Engine>,
    keyspace: &KeyspaceRef,
    key: &[u8],
    (entry, chunks): (Bytes, &Arc<ChunkSet>),
    policy: CutPolicy,
    told: impl FnMut(u64) -> Result<()>,
) -> Result<Result<StagedLarge>> {
    let cutting = Cutting { policy, level: level_of(engine, keyspace)?, trial: None };
    let value = ValueCutter::begin(engine, keyspace, cutting, decode(keyspace, key, &entry)?.origin)?;
    let mut reader = ValueReader::new(engine, keyspace, key, (StoredValue::Recipe(entry), Arc::clone(chunks)))?;
    copy_value(&mut reader, LargeWriter::of(value), told)
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
    let chunks = &current.chunks;
    // Chunks of leases may be in memory alone.
    chunks.write_out()?;
    check_stored(chunks, keyspace, key, recipe)?;
    if writing.hold_recipe(recipe.clone()) {
        let (bytes, tally) = (recipe.len, Tally::default());
        return Ok(StagedLarge { entry: StagedEntry::Recipe(recipe.encode()), scope: *scope, bytes, tally, writing });
    }
    // Chunks in a condemned pack may go: the value is read, and stored like a new one.
    let stored = (StoredValue::Recipe(recipe.encode().into()), Arc::clone(chunks));
    let cutting = Cutting { policy: recipe.chunking, level: level_of(engine, keyspace)?, trial: None };
    let writer = ValueCutter::begin(engine, keyspace, cutting, recipe.origin.clone())?;
    let mut reader = ValueReader::new(engine, keyspace, key, stored)?;
    copy_value(&mut reader, LargeWriter::of(writer), |_| Ok(()))?
}

/// Checks that everything is stored that a recipe refers to: in its scope, of the right kind and length.
fn check_stored(chunks: &ChunkSet, keyspace: &KeyspaceRef, key: &[u8], recipe: &recipe::Recipe) -> Result<()> {
    let check = |reference: &Reference, kind: ChunkKind| {
        let Some(id) = reference.id else { return Ok(()) };
        let is_right = |header: &ChunkHeader| {
            header.kind == kind && (kind == ChunkKind::Node || u64::from(header.raw_len) == reference.len)
        };
        if read::header(chunks, keyspace.scope, &id)?.as_ref().is_some_and(is_right) {
            return Ok(());
        }
        let what = match kind {
            ChunkKind::Data => format!("chunk {id} of the recipe ({} bytes)", reference.len),
            ChunkKind::Node => format!("node {id} of the recipe"),
        };
        Err(of_value(keyspace, key, &format!("{what} is not stored here; store it first, or write the value")))
    };
    let value = LargeValue { chunks, keyspace, key };
    let scope = chunks.scope(keyspace.scope)?;
    // A node that lists itself in disguise, 256 times on each of 8 levels, claims 256⁸ chunks (L12).
    let mut checked = HashSet::new();
    chunks.store.with_reader(|reader| {
        let mut leaves = Leaves::new(recipe.clone());
        let mut node = |node: &Reference, height: u32, reader: &mut ReadRoom| {
            // What stands in for a node that was checked goes down to the chunks as a hole.
            if node.id.is_none() || !checked.insert((node.id, node.len, height)) {
                return Ok(vec![Reference { id: None, len: node.len }]);
            }
            check(node, ChunkKind::Node)?;
            let Some(id) = node.id else { return Ok(Vec::new()) };
            let read = chunks.read_node(&id, scope, reader).map_err(|error| value.damaged(id, error))?;
            // A whole node of another length or height is no damage, but a recipe that lies.
            recipe::decode_node(&read, height, node.len).map_err(|Corruption { what, .. }| {
                of_value(keyspace, key, &format!("node {id} of the recipe is not {what}; write the value"))
            })
        };
        while let Some((_, reference)) = leaves.next(|of, height| node(of, height, reader))? {
            check(&reference, ChunkKind::Data)?;
        }
        Ok(())
    })
}

/// Stores a value; returns the entry that it gets, and what keeps its chunks until that is committed.
pub(super) fn store_value(
    engine: &Arc<Engine>,
    keyspace: &KeyspaceRef,
    key: &[u8],
    value: &[u8],
    cutting: Cutting,
) -> Result<(Vec<u8>, Arc<Writing>)> {
    let began = engine.ctx.monotonic();
    let writing = engine.store.begin_writing(keyspace);
    if !engine.store.is_damaged(None)
        && let Some((same, recipe)) = same_value(engine, keyspace, key, value, cutting.policy)?
        && writing.hold_recipe(recipe)
    {
        let (counts, value_bytes) = (&engine.store.counts, value.len() as u64);
        counts.values.fetch_add(1, Ordering::Relaxed);
        counts.value_bytes.fetch_add(value_bytes, Ordering::Relaxed);
        counts.known_bytes.fetch_add(value_bytes, Ordering::Relaxed);
        let time = engine.ctx.monotonic().saturating_sub(began);
        let counts = ArmCounts { values: 1, value_bytes, time, ..ArmCounts::default() };
        record_trial(engine, keyspace, cutting, &counts);
        return Ok((same.to_vec(), writing));
    }
    let mut writer = ValueCutter::begin(engine, keyspace, cutting, String::new())?;
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
    policy: CutPolicy,
) -> Result<Option<(Bytes, recipe::Recipe)>> {
    // What a recovery found is copied first (L4); what cannot be read says nothing about the new value.
    if engine.log.syncing.recovered().is_some() {
        return Ok(None);
    }
    let Ok(Some((StoredValue::Recipe(entry), chunks))) = get_stored(engine, keyspace, key) else { return Ok(None) };
    let Ok(recipe) = recipe::Recipe::decode(&entry) else { return Ok(None) };
    if recipe.len != value.len() as u64 || recipe.chunking != policy {
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
}
