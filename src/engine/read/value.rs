//! One value that is read in pieces, or only described: streams, parts, facts, recipes.

use std::{
    collections::HashMap,
    io::{self, Read, Seek, SeekFrom},
    sync::Arc,
};

use super::large::{LargeValue, Leaves, decode};
use crate::{
    base::{Bytes, ChunkId, Corruption, Error, Result},
    chunk::{
        cut::Chunking,
        recipe::{self, Reference},
    },
    engine::{Engine, KeyspaceRef, chunk_store::ReadRoom, files::chunks::ChunkSet},
    merge::Stored,
};

/// What is known of a value without reading it, as [`Keyspace::stat`](crate::Keyspace::stat) returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stat {
    /// Length in bytes.
    pub bytes: u64,
    /// Number of chunks, stretches of zeros not counted; 0 for a value stored inline.
    pub chunks: u64,
    /// How it was cut; `None` for a value stored inline.
    pub chunking: Option<Chunking>,
    /// Where it came from, as its writer said.
    pub origin: Option<String>,
}

/// Returns what is known of a value. Of a value of more than 256 chunks this reads the nodes that list them, never a
/// chunk.
pub(crate) fn stat(keyspace: &KeyspaceRef, key: &[u8], stored: &Stored, chunks: &ChunkSet) -> Result<Stat> {
    let entry = match stored {
        Stored::Bytes(bytes) => {
            return Ok(Stat { bytes: bytes.len() as u64, chunks: 0, chunking: None, origin: None });
        }
        Stored::Recipe(entry) => entry,
    };
    let recipe = decode(keyspace, key, entry)?;
    let (bytes, chunking) = (recipe.len, Some(Chunking::of(recipe.chunking)));
    let origin = Some(recipe.origin.clone()).filter(|origin| !origin.is_empty());
    let Extent { chunks: count, .. } = extent(LargeValue { chunks, keyspace, key }, &recipe)?;
    Ok(Stat { bytes, chunks: count, chunking, origin })
}

/// What a value consists of beside stretches of zeros.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extent {
    /// Chunks, each as often as it occurs, and the bytes in them.
    pub(crate) chunks: u64,
    pub(crate) bytes: u64,
}

/// Returns what a value consists of; reads the nodes of its recipe and no chunk.
pub(crate) fn extent(value: LargeValue<'_>, recipe: &recipe::Recipe) -> Result<Extent> {
    let mut known = HashMap::new();
    let measure = |reader: &mut _| extent_of(value, &recipe.references, recipe.height, reader, &mut known);
    value.chunks.store.with_reader(measure)
}

/// Returns what references stand for. Nodes are read once, however often they occur: a value may claim more chunks than
/// anybody could count (L12).
fn extent_of(
    value: LargeValue<'_>,
    references: &[Reference],
    height: u32,
    reader: &mut ReadRoom,
    known: &mut HashMap<ChunkId, Extent>,
) -> Result<Extent> {
    let mut all = Extent::default();
    for reference in references {
        let Some(id) = reference.id else { continue };
        let here = match (height.checked_sub(1), known.get(&id)) {
            (None, _) => Extent { chunks: 1, bytes: reference.len },
            (Some(_), Some(known)) => *known,
            (Some(below), None) => {
                let node = value.node(reference, below, reader)?;
                let found = extent_of(value, &node, below, reader, known)?;
                known.insert(id, found);
                found
            }
        };
        // Each chunk has at least one byte, and the sum of all fits 64 bits.
        all = Extent { chunks: all.chunks + here.chunks, bytes: all.bytes + here.bytes };
    }
    Ok(all)
}

/// The list of a large value's chunks, as [`Keyspace::recipe`](crate::Keyspace::recipe) returns it:
/// [`Keyspace::adopt`](crate::Keyspace::adopt) gives the value to another key.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipe {
    pub(in crate::engine) recipe: recipe::Recipe,
    pub(in crate::engine) scope: u32,
}

impl std::fmt::Debug for Recipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Recipe({} bytes in {} references)", self.len(), self.recipe.references.len())
    }
}

impl Recipe {
    /// Returns the recipe of these bytes, of a dedup scope.
    pub(crate) fn decode_in(scope: u32, bytes: &[u8]) -> Result<Self> {
        let recipe = recipe::Recipe::decode(bytes).map_err(|Corruption { offset, what }| {
            Error::invalid(format!("these bytes are no recipe: at byte {offset}, not {what}"))
        })?;
        Ok(Self { recipe, scope })
    }

    /// Returns its bytes, as other databases and languages read them (`docs/format/exchange.md`):
    /// [`Chunks::recipe`](crate::Chunks::recipe) reads them back.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.recipe.encode()
    }

    /// Returns the length of the value in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.recipe.len
    }

    /// Returns whether the value is empty, which no value with a recipe is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how the value was cut.
    #[must_use]
    pub fn chunking(&self) -> Chunking {
        Chunking::of(self.recipe.chunking)
    }

    /// Returns where the value came from, as its writer said.
    #[must_use]
    pub fn origin(&self) -> Option<&str> {
        Some(self.recipe.origin.as_str()).filter(|origin| !origin.is_empty())
    }

    /// Returns the levels of nodes between the references and the chunks: 0 for a value of at most 256 chunks.
    #[must_use]
    pub fn height(&self) -> u32 {
        self.recipe.height
    }

    /// Iterates over the references: the id of each chunk, or of each node if the recipe has a height, and the bytes of
    /// the value that it stands for. A stretch of zeros has no id.
    pub fn references(&self) -> impl ExactSizeIterator<Item = (Option<ChunkId>, u64)> + '_ {
        self.recipe.references.iter().map(|Reference { id, len }| (*id, *len))
    }
}

/// Returns the recipe of a stored value; `None` if it is kept in its entry.
pub(crate) fn recipe(keyspace: &KeyspaceRef, key: &[u8], stored: &Stored) -> Result<Option<Recipe>> {
    match stored {
        Stored::Bytes(_) => Ok(None),
        Stored::Recipe(entry) => Ok(Some(Recipe { recipe: decode(keyspace, key, entry)?, scope: keyspace.scope })),
    }
}

/// Reads a part of a value: what there is of `len` bytes from `offset` on.
pub(crate) fn read_at(
    keyspace: &KeyspaceRef,
    key: &[u8],
    (stored, chunks): (Stored, Arc<ChunkSet>),
    offset: u64,
    len: usize,
) -> Result<Bytes> {
    let entry = match stored {
        Stored::Bytes(bytes) => {
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            let part = bytes.get(from..).unwrap_or_default();
            return Ok(Bytes::copy_from(part.get(..len).unwrap_or(part)));
        }
        Stored::Recipe(entry) => entry,
    };
    let recipe = decode(keyspace, key, &entry)?;
    let end = offset.saturating_add(len as u64).min(recipe.len);
    let room = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
    if room as u64 > super::VALUE_LEN_MAX {
        let what = format!("at most {} bytes are read at once, not {room}; use `reader`", super::VALUE_LEN_MAX);
        return Err(keyspace.of_key(key, Error::invalid(what)));
    }
    let mut part = vec![0; room];
    let value = LargeValue { chunks: &chunks, keyspace, key };
    chunks.store.with_reader(|reader| {
        let mut leaves = Leaves::new(recipe);
        leaves.seek(offset, |node, height| value.node(node, height, reader))?;
        while let Some((at, Reference { id, len })) = leaves.next(|node, height| value.node(node, height, reader))? {
            if at >= end {
                break;
            }
            let Some(id) = id else { continue };
            let chunk = value.kept(&id, len, reader)?;
            // From where the part and the chunk overlap.
            let skipped = usize::try_from(offset.saturating_sub(at)).unwrap_or(usize::MAX);
            let place = usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX);
            let wanted = chunk.get(skipped..).unwrap_or_default();
            let out = part.get_mut(place..).unwrap_or_default();
            let count = wanted.len().min(out.len());
            if let Some((out, wanted)) = out.get_mut(..count).zip(wanted.get(..count)) {
                out.copy_from_slice(wanted);
            }
        }
        Ok(())
    })?;
    Ok(Bytes::from(part))
}

/// A value that is read in pieces.
#[derive(Debug)]
pub(crate) struct ValueReader {
    engine: Arc<Engine>,
    chunks: Arc<ChunkSet>,
    keyspace: KeyspaceRef,
    key: Vec<u8>,
    source: Source,
    /// Next byte to be read.
    at: u64,
}

#[derive(Debug)]
enum Source {
    Kept(Bytes),
    Large {
        leaves: Leaves,
        /// The reference that was read last: where it begins, its length, and its bytes; none for zeros.
        begins: u64,
        len: u64,
        piece: Option<Vec<u8>>,
        /// Whether `leaves` stands behind that reference.
        follows: bool,
    },
}

impl ValueReader {
    pub(crate) fn new(
        engine: &Arc<Engine>,
        keyspace: &KeyspaceRef,
        key: &[u8],
        (stored, chunks): (Stored, Arc<ChunkSet>),
    ) -> Result<Self> {
        let source = match stored {
            Stored::Bytes(bytes) => Source::Kept(bytes),
            Stored::Recipe(entry) => {
                let leaves = Leaves::new(decode(keyspace, key, &entry)?);
                Source::Large { leaves, begins: 0, len: 0, piece: None, follows: true }
            }
        };
        let (engine, keyspace) = (Arc::clone(engine), keyspace.clone());
        Ok(Self { engine, chunks, keyspace, key: key.to_vec(), source, at: 0 })
    }

    /// Returns the length of the value.
    pub(crate) fn len(&self) -> u64 {
        match &self.source {
            Source::Kept(bytes) => bytes.len() as u64,
            Source::Large { leaves, .. } => leaves.len(),
        }
    }

    /// Returns the next byte to be read.
    pub(crate) fn position(&self) -> u64 {
        self.at
    }

    /// Reads into `buf`; 0 at the end. After an error the same bytes can be asked for again.
    pub(crate) fn read_some(&mut self, buf: &mut [u8]) -> Result<usize> {
        self.engine.check_open()?;
        let Self { chunks, keyspace, key, source, at, .. } = self;
        let (leaves, begins, len, piece, follows) = match source {
            Source::Kept(bytes) => {
                let from = usize::try_from(*at).unwrap_or(usize::MAX).min(bytes.len());
                let count = copy(bytes.get(from..).unwrap_or_default(), buf);
                *at += count as u64;
                return Ok(count);
            }
            Source::Large { leaves, begins, len, piece, follows } => (leaves, begins, len, piece, follows),
        };
        if buf.is_empty() || *at >= leaves.len() {
            return Ok(0);
        }
        let value = LargeValue { chunks, keyspace, key };
        if *at < *begins || *at >= *begins + *len {
            let next = chunks.store.with_reader(|reader| {
                if !*follows || *at != *begins + *len {
                    *follows = false;
                    leaves.seek(*at, |node, height| value.node(node, height, reader))?;
                }
                let next = leaves.next(|node, height| value.node(node, height, reader))?;
                // Once the chunk is read: after an error the next call seeks.
                *follows = false;
                let Some((start, Reference { id, len: reference_len })) = next else { return Ok(None) };
                let bytes = usize::try_from(reference_len).unwrap_or(usize::MAX);
                if let (Some(id), true, Some(out)) = (id, start == *at, buf.get_mut(..bytes)) {
                    // A whole chunk that the caller has room for is read in place.
                    value.chunk(&id, reference_len, true, reader, (out, 0))?;
                    (*begins, *len, *follows) = (start, reference_len, true);
                    return Ok(Some(bytes));
                }
                // From here on nothing is at hand: an error leaves no piece that could be taken for another.
                let room = piece.take();
                (*begins, *len) = (start, 0);
                if let Some(id) = id {
                    let mut room = room.unwrap_or_default();
                    room.resize(bytes, 0);
                    value.chunk(&id, reference_len, true, reader, (&mut room, 0))?;
                    *piece = Some(room);
                }
                (*begins, *len, *follows) = (start, reference_len, true);
                Ok(Some(0))
            })?;
            match next {
                None => return Ok(0),
                Some(0) => {}
                Some(count) => {
                    *at += count as u64;
                    // Its bytes are the caller's: they are read again if they are asked for again.
                    (*begins, *len) = (*at, 0);
                    return Ok(count);
                }
            }
        }
        let left = *begins + *len - *at;
        let count = if let Some(bytes) = piece {
            let from = usize::try_from(*at - *begins).unwrap_or(usize::MAX);
            copy(bytes.get(from..).unwrap_or_default(), buf)
        } else {
            let count = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            buf.get_mut(..count).unwrap_or_default().fill(0);
            count
        };
        *at += count as u64;
        Ok(count)
    }

    /// Returns how many zeros follow that stand in no chunk; 0 also where nobody has read into them yet.
    pub(crate) fn hole_left(&self) -> u64 {
        match &self.source {
            Source::Large { begins, len, piece: None, .. } if *begins <= self.at => {
                (*begins + *len).saturating_sub(self.at)
            }
            _ => 0,
        }
    }

    /// Goes to a byte, also behind the end, where nothing is read.
    pub(crate) fn seek_to(&mut self, at: u64) {
        self.at = at;
    }
}

fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let count = from.len().min(to.len());
    if let Some((to, from)) = to.get_mut(..count).zip(from.get(..count)) {
        to.copy_from_slice(from);
    }
    count
}

impl Read for ValueReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.read_some(buf).map_err(Error::into_io)
    }
}

impl Seek for ValueReader {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        let (base, by) = match pos {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::End(by) => (self.len(), by),
            SeekFrom::Current(by) => (self.position(), by),
        };
        let before = || {
            let what = format!("cannot seek to {base}{by:+}: a value begins at byte 0");
            io::Error::new(io::ErrorKind::InvalidInput, what)
        };
        let at = base.checked_add_signed(by).ok_or_else(before)?;
        self.seek_to(at);
        Ok(at)
    }
}
