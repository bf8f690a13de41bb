//! Whether two values are equal, however they are cut.
//!
//! ```text
//!   one    ├── node ──────────────┤├─ chunk ─┤├─ hole ─────┤     both at the start of the same id: passed unread
//!   other  ├─ chunk ─┤├─ chunk ───┤├─ chunk ─┤├─ chunk ────┤     else the longer node is opened, or bytes are compared
//! ```

use std::collections::HashSet;

use super::large::{LargeValue, decode};
use crate::{
    base::{Bytes, ChunkId, Result},
    chunk::recipe::Reference,
    engine::{KeyspaceRef, chunk_store::ReadRoom, files::chunks::ChunkSet},
    merge::Stored,
};

/// Returns whether two values of a key are equal, each resolved in the files that it was read from. Equal values may
/// have different recipes: then they are compared a chunk of each at a time. What both have by the same id is not read;
/// neither is a pair of nodes that was compared before (L12). `go_on` is called now and then, and may stop it.
pub(crate) fn equal(
    keyspace: &KeyspaceRef,
    key: &[u8],
    (one, one_in): (&Stored, &ChunkSet),
    (other, other_in): (&Stored, &ChunkSet),
    go_on: &dyn Fn() -> Result<()>,
) -> Result<bool> {
    if one == other {
        return Ok(true);
    }
    if let (Stored::Bytes(_), Stored::Bytes(_)) = (one, other) {
        return Ok(false);
    }
    if len(keyspace, key, one)? != len(keyspace, key, other)? {
        return Ok(false);
    }
    let mut one = Pieces::new(LargeValue { chunks: one_in, keyspace, key }, one)?;
    let mut other = Pieces::new(LargeValue { chunks: other_in, keyspace, key }, other)?;
    let mut compared: HashSet<[(ChunkId, u32); 2]> = HashSet::new();
    one_in.store.with_reader(|reader| {
        for step in 0u64.. {
            if step.is_multiple_of(LOOK_EVERY) {
                go_on()?;
            }
            let (Some(piece), Some(beside)) = (one.current(), other.current()) else { break };
            if let (Some(id), Some(beside_id)) = (piece.whole(), beside.whole())
                && piece.len == beside.len
            {
                if id == beside_id && piece.height == beside.height {
                    one.pass(piece.len);
                    other.pass(beside.len);
                    continue;
                }
                if piece.height == 0 && beside.height == 0 {
                    // Of one scope: other bytes have another id.
                    return Ok(false);
                }
                // If a pair differs, the first comparison of it ends all.
                let pair = [(id, piece.height), (beside_id, beside.height)];
                if compared.contains(&pair) {
                    one.pass(piece.len);
                    other.pass(beside.len);
                    continue;
                }
                if compared.len() < COMPARED_MAX {
                    compared.insert(pair);
                }
            }
            if piece.height > 0 && (beside.height == 0 || piece.len >= beside.len) {
                one.descend(reader)?;
            } else if beside.height > 0 {
                other.descend(reader)?;
            } else {
                let len = piece.len.min(beside.len);
                if !one.bytes(len, reader)?.is_equal(&other.bytes(len, reader)?) {
                    return Ok(false);
                }
                one.pass(len);
                other.pass(len);
            }
        }
        Ok(one.current().is_none() && other.current().is_none())
    })
}

/// Steps of a comparison between two looks whether to go on.
const LOOK_EVERY: u64 = 256;

/// Pairs of nodes that a comparison remembers.
const COMPARED_MAX: usize = 1 << 16;

/// A walk over the pieces of a value. What is not asked for is not read.
struct Pieces<'v> {
    value: LargeValue<'v>,
    /// From the recipe's own references down: the references of a node, and how many have been passed.
    levels: Vec<(Vec<Reference>, usize)>,
    /// Levels of nodes below the recipe's references.
    height: u32,
    /// What of the current chunk or hole has been passed, and its bytes once they are needed.
    passed: u64,
    read: Option<Bytes>,
}

/// What is left of a chunk, a hole or a node.
#[derive(Clone, Copy)]
struct Piece {
    id: Option<ChunkId>,
    is_whole: bool,
    len: u64,
    /// Levels below it: 0 for a chunk.
    height: u32,
}

impl Piece {
    /// Returns its id if all of it is left.
    fn whole(self) -> Option<ChunkId> {
        self.id.filter(|_| self.is_whole)
    }
}

/// Bytes of a chunk or hole.
enum PieceBytes<'p> {
    Zeros,
    Bytes(&'p [u8]),
}

impl PieceBytes<'_> {
    /// Returns whether they equal others of the same length.
    fn is_equal(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Zeros, Self::Zeros) => true,
            (Self::Bytes(one), Self::Bytes(other)) => one == other,
            (Self::Zeros, Self::Bytes(bytes)) | (Self::Bytes(bytes), Self::Zeros) => {
                bytes.iter().all(|byte| *byte == 0)
            }
        }
    }
}

impl<'v> Pieces<'v> {
    fn new(value: LargeValue<'v>, stored: &Stored) -> Result<Self> {
        let (references, height, read) = match stored {
            Stored::Bytes(bytes) => (vec![Reference { id: None, len: bytes.len() as u64 }], 0, Some(bytes.clone())),
            Stored::Recipe(entry) => {
                let recipe = decode(value.keyspace, value.key, entry)?;
                (recipe.references, recipe.height, None)
            }
        };
        Ok(Self { value, levels: vec![(references, 0)], height, passed: 0, read })
    }

    /// Returns what comes next; `None` at the end of the value.
    fn current(&mut self) -> Option<Piece> {
        loop {
            let depth = self.levels.len();
            let (references, passed) = self.levels.last()?;
            if let Some(Reference { id, len }) = references.get(*passed).copied().filter(|piece| piece.len > 0) {
                let height = self.height - u32::try_from(depth - 1).unwrap_or(self.height);
                return Some(Piece { id, is_whole: self.passed == 0, len: len - self.passed, height });
            }
            if depth == 1 {
                return None;
            }
            self.levels.pop();
            if let Some((_, passed)) = self.levels.last_mut() {
                *passed += 1;
            }
        }
    }

    fn reference(&self) -> Option<Reference> {
        let (references, passed) = self.levels.last()?;
        references.get(*passed).copied()
    }

    /// Goes down into the current node.
    fn descend(&mut self, reader: &mut ReadRoom) -> Result<()> {
        let below = self.height - u32::try_from(self.levels.len()).unwrap_or(self.height);
        let Some(node) = self.reference() else { return Ok(()) };
        self.levels.push((self.value.node(&node, below, reader)?, 0));
        Ok(())
    }

    /// Returns the next bytes of the current chunk or hole; there are so many left.
    fn bytes(&mut self, len: u64, reader: &mut ReadRoom) -> Result<PieceBytes<'_>> {
        if let (None, Some(Reference { id: Some(id), len })) = (&self.read, self.reference()) {
            self.read = Some(self.value.kept(&id, len, reader)?);
        }
        let Some(read) = &self.read else { return Ok(PieceBytes::Zeros) };
        let (from, len) = (usize::try_from(self.passed), usize::try_from(len));
        let (from, len) = (from.unwrap_or(usize::MAX), len.unwrap_or(usize::MAX));
        let bytes = read.get(from..from.saturating_add(len));
        assert!(bytes.is_some(), "{len} bytes from {from} of a piece of {}", read.len());
        Ok(PieceBytes::Bytes(bytes.unwrap_or_default()))
    }

    /// Passes so many bytes of what is left of the current piece.
    fn pass(&mut self, len: u64) {
        self.passed += len;
        if let Some((references, at)) = self.levels.last_mut()
            && references.get(*at).is_some_and(|piece| piece.len <= self.passed)
        {
            *at += 1;
            (self.passed, self.read) = (0, None);
        }
    }
}

/// Returns the length of a value; reads no chunk.
fn len(keyspace: &KeyspaceRef, key: &[u8], stored: &Stored) -> Result<u64> {
    match stored {
        Stored::Bytes(bytes) => Ok(bytes.len() as u64),
        Stored::Recipe(recipe) => Ok(decode(keyspace, key, recipe)?.len),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Chunking, Error, Keyspace, KeyspaceOptions, Options,
        chunk::{
            cut::CutPolicy,
            recipe::{Recipe, encode_node},
        },
        engine::write::{Staged, commit},
        env::Memory,
    };

    fn is_equal(keyspace: &Keyspace, one: &str, other: &str, steps: u32) -> Result<bool> {
        let (engine, of) = (keyspace.engine(), keyspace.keyspace_ref());
        let files = engine.files.current();
        files.chunks.write_out()?;
        let stored = |key: &str| crate::engine::read::get_stored(engine, of, key.as_bytes()).unwrap().unwrap().0;
        let left = std::cell::Cell::new(steps);
        let go_on = || match left.replace(left.get().saturating_sub(1)) {
            0 => Err(Error::Closed),
            _ => Ok(()),
        };
        equal(of, b"k", (&stored(one), &files.chunks), (&stored(other), &files.chunks), &go_on)
    }

    fn put_recipe(keyspace: &Keyspace, key: &str, recipe: &Recipe) {
        let mut staged = Staged::default();
        staged.add_recipe(keyspace.keyspace_ref(), key.as_bytes(), &recipe.encode());
        commit(keyspace.engine(), staged, None).unwrap();
    }

    #[test]
    fn values_are_equal_if_their_bytes_are_however_they_are_cut() {
        let db = Options::new().env(Memory::new()).open("db").unwrap();
        let mut state = 1u64;
        let mut noise = |len: usize| -> Vec<u8> {
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                state.to_le_bytes()[6]
            };
            (0..len).map(|_| next()).collect()
        };
        let long = noise(400_000);
        let holes = [noise(5000), vec![0; 60_000], noise(300), vec![0; 2000]].concat();
        let zeros = vec![0; 70_000];
        for value in [&long, &holes, &zeros] {
            let mut others = vec![value.clone()];
            for at in [0, 1, value.len() / 2, value.len() - 1] {
                let mut other = value.clone();
                other[at] ^= 1;
                others.push(other);
            }
            let cuts = [Chunking::fixed(512), Chunking::fixed(700), Chunking::content_defined(1024), Chunking::whole()];
            for (at, chunking) in cuts.into_iter().enumerate() {
                let k = db.keyspace("k", KeyspaceOptions::new().chunk_threshold(512).chunking(chunking)).unwrap();
                for (number, other) in others.iter().enumerate() {
                    k.put(format!("{at} {number}"), other).unwrap();
                }
            }
            let k = db.keyspace("k", KeyspaceOptions::new().chunk_threshold(u64::MAX)).unwrap();
            k.put("4 0", value).unwrap();
            for (one, other) in (0..5).flat_map(|one| (0..5).map(move |other| (one, other))) {
                let (one, other) = (format!("{one} 0"), other);
                assert!(is_equal(&k, &one, &format!("{other} 0"), u32::MAX).unwrap(), "{one} and {other}");
                for number in (1..5).filter(|_| other < 4) {
                    let differs = format!("{other} {number}");
                    assert!(!is_equal(&k, &one, &differs, u32::MAX).unwrap(), "{one} and {differs}");
                    assert!(!is_equal(&k, &differs, &one, u32::MAX).unwrap(), "{differs} and {one}");
                }
            }
        }
    }

    /// L12: a tree of a few nodes that claims 256⁷ chunks is compared node by node, and one that cannot be is given up
    /// with the database.
    #[test]
    fn what_was_compared_once_is_not_compared_again() {
        let db = Options::new().env(Memory::new()).open("db").unwrap();
        let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        let chunks = db.chunks();
        let mut leases = Vec::new();
        let mut tree = |first: &[u8], levels: u32| -> Recipe {
            let lease = chunks.put(first).unwrap();
            let mut reference = Reference { id: Some(lease.id()), len: first.len() as u64 };
            leases.push(lease);
            for height in 0..levels {
                let references = vec![reference; 256];
                let node = encode_node(&references, usize::try_from(height).unwrap());
                let lease = chunks.put_node(node).unwrap();
                reference = Reference { id: Some(lease.id()), len: reference.len * 256 };
                leases.push(lease);
            }
            let references = vec![reference; 256];
            let (len, chunking) = (reference.len * 256, CutPolicy::fixed(512));
            Recipe { len, chunking, height: levels, references, origin: String::new() }
        };
        let (short, long) = (tree(&[7; 64], 5), tree(&[7; 128], 5));
        put_recipe(&k, "short", &short);
        put_recipe(&k, "other name", &Recipe { chunking: CutPolicy::fixed(1024), ..short.clone() });
        // As long, of chunks twice as long: half as many nodes at the top.
        put_recipe(&k, "long", &Recipe { len: long.len / 2, references: long.references[..128].to_vec(), ..long });
        assert!(is_equal(&k, "short", "other name", 20).unwrap());
        // No two of its nodes are as long as each other: 256⁶ chunks, until the database is closed.
        assert!(matches!(is_equal(&k, "short", "long", 20), Err(Error::Closed)));
    }
}
