//! What recipes refer to: the packs that copies need and that collections keep.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::large::{LargeValue, Leaves, decode};
use crate::{
    base::{ChunkId, Corruption, Error, FileNumber, Result},
    chunk::{
        pack::ChunkPlace,
        recipe::{Recipe, Reference},
        record::{Line, record_len},
    },
    engine::{KeyspaceRef, chunk_store::Frontier, files::chunks::ChunkSet},
};

/// Records of a pack, a bit for each: 8 MiB for 64 million chunks.
#[derive(Debug, Default)]
pub(crate) struct Records {
    bits: Vec<u64>,
    count: u32,
    bytes: u64,
    /// The ids of the records, added up: numbers of records come from places, which a file may lie about.
    sum: u128,
}

impl Records {
    fn add(&mut self, ordinal: u32, place: &ChunkPlace) {
        let (word, bit) = (ordinal as usize / 64, 1 << (ordinal % 64));
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        if let Some(word) = self.bits.get_mut(word).filter(|word| **word & bit == 0) {
            *word |= bit;
            self.count += 1;
            self.bytes = self.bytes.saturating_add(record_len(place.stored_len));
            self.sum = self.sum.wrapping_add(part(&place.id));
        }
    }

    /// Returns the bytes of the records.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the number of records.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Returns the records among the lines of the pack's table.
    ///
    /// # Errors
    /// [`Corrupt`](Error::Corrupt) if they are not those that were added.
    pub(crate) fn of<'l>(&self, lines: &'l [Line], chunks: &ChunkSet) -> Result<Vec<&'l Line>> {
        let is_in = |at: usize| self.bits.get(at / 64).is_some_and(|word| word & 1 << (at % 64) != 0);
        let found: Vec<&Line> = lines.iter().enumerate().filter(|(at, _)| is_in(*at)).map(|(_, line)| line).collect();
        let sum = found.iter().fold(0u128, |sum, line| sum.wrapping_add(part(&line.id)));
        if found.len() != self.count as usize || sum != self.sum {
            let what = "records where their places say";
            return Err(Corruption { offset: 0, what }.of(chunks.path(), 0));
        }
        Ok(found)
    }
}

/// Returns a part of an id as a number.
fn part(id: &ChunkId) -> u128 {
    id.as_bytes().iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// What the recipes shown to it refer to.
#[derive(Debug, Default)]
pub(crate) struct References {
    packs: BTreeMap<FileNumber, Records>,
    /// Chunks in packs without a name: at most those of the unflushed memtables.
    unnamed: BTreeSet<ChunkId>,
    /// Nodes that have been followed: versions of a value share most of theirs.
    followed: HashSet<ChunkId>,
    /// Whether a chunk was nowhere to be found.
    misses_chunks: bool,
    /// First recipe or node that could not be read.
    unreadable: Option<Error>,
}

impl References {
    /// Adds what the recipe of a key refers to. What is damaged is passed over, and remembered. `go_on` is asked before
    /// each node: a value of a terabyte has half a million.
    pub(crate) fn add(
        &mut self,
        chunks: &ChunkSet,
        (keyspace, key): (&KeyspaceRef, &[u8]),
        entry: &[u8],
        go_on: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        let recipe = match decode(keyspace, key, entry) {
            Ok(recipe) => recipe,
            Err(error) => {
                self.unreadable.get_or_insert(error);
                return Ok(());
            }
        };
        self.add_recipe(LargeValue { chunks, keyspace, key }, recipe, go_on)
    }

    /// Adds what a writer under way refers to.
    pub(crate) fn add_frontier(
        &mut self,
        chunks: &ChunkSet,
        frontier: &Frontier,
        go_on: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        let Frontier { keyspace, found, open } = frontier;
        found.iter().try_for_each(|id| self.add_chunk(chunks, id))?;
        let value = LargeValue { chunks, keyspace, key: &[] };
        open.iter().try_for_each(|recipe| self.add_recipe(value, recipe.clone(), go_on))
    }

    fn add_recipe(&mut self, value: LargeValue<'_>, recipe: Recipe, go_on: &dyn Fn() -> Result<()>) -> Result<()> {
        let chunks = value.chunks;
        chunks.store.with_reader(|reader| {
            let mut leaves = Leaves::new(recipe);
            loop {
                let next = leaves.next(|node, height| {
                    let hole = || vec![Reference { id: None, len: node.len }];
                    let Some(id) = node.id.filter(|id| self.followed.insert(*id)) else { return Ok(hole()) };
                    go_on()?;
                    self.add_chunk(chunks, &id)?;
                    match value.node(node, height, reader) {
                        Err(error @ Error::CorruptChunk { .. }) => {
                            self.unreadable.get_or_insert(error);
                            Ok(hole())
                        }
                        read => read,
                    }
                })?;
                match next {
                    None => return Ok(()),
                    Some((_, Reference { id: Some(id), .. })) => self.add_chunk(chunks, &id)?,
                    Some(_) => {}
                }
            }
        })
    }

    fn add_chunk(&mut self, chunks: &ChunkSet, id: &ChunkId) -> Result<()> {
        // What stands in both is needed in both: a pack without a name may be not on the disk, and it may hold what
        // was stored anew because the copy with a name is damaged.
        let named = chunks.named(id)?;
        if let Some((pack, place, ordinal)) = named {
            self.packs.entry(pack).or_default().add(ordinal, &place);
        }
        let is_unnamed = chunks.stands_unnamed(id);
        if is_unnamed {
            self.unnamed.insert(*id);
        }
        self.misses_chunks |= named.is_none() && !is_unnamed;
        Ok(())
    }

    /// Fails if a recipe or a node could not be read: nobody knows what it refers to.
    pub(crate) fn check_complete(&self) -> Result<()> {
        self.unreadable.as_ref().map_or(Ok(()), |error| Err(error.duplicate()))
    }

    /// Returns whether a chunk was nowhere to be found.
    pub(crate) fn misses_chunks(&self) -> bool {
        self.misses_chunks
    }

    /// Returns the bytes in packs of what is referred to here and not by others.
    pub(crate) fn bytes_beyond(&self, others: &Self, chunks: &ChunkSet) -> Result<u64> {
        let mut bytes = 0;
        for (number, records) in &self.packs {
            let Some(handle) = chunks.packs.get(number) else { continue };
            let (lines, shared) = (handle.lines()?, others.packs.get(number));
            let shared: HashSet<ChunkId> = match shared {
                Some(shared) => shared.of(&lines, chunks)?.iter().map(|line| line.id).collect(),
                None => HashSet::new(),
            };
            let own = records.of(&lines, chunks)?;
            bytes += own.iter().filter(|line| !shared.contains(&line.id)).map(|line| line.record_len()).sum::<u64>();
        }
        for id in self.unnamed.difference(&others.unnamed) {
            let named = chunks.named(id)?.is_some();
            let facts = chunks.stored_at(id)?.filter(|_| !named);
            bytes += facts.map_or(0, |facts| u64::from(facts.place.stored_len));
        }
        Ok(bytes)
    }

    /// Returns the records of a pack that are referred to; `None` if none is.
    pub(crate) fn of(&self, pack: FileNumber) -> Option<&Records> {
        self.packs.get(&pack)
    }

    /// Returns the packs with a name that are referred to, and the chunks in packs without one.
    pub(crate) fn into_packs(self) -> (BTreeMap<FileNumber, Records>, BTreeSet<ChunkId>) {
        (self.packs, self.unnamed)
    }
}
