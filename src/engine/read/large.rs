//! Large values, put together from their recipes.
//!
//! ```text
//!   recipe ▸ leaves: its references in order, nodes read as they are reached ▸ chunks ▸ bytes
//! ```
//!
//! Only whoever wants the bytes of a value comes here: presence, keys, and equality of equal recipes read no chunk (L14
//! of `docs/chunks.md`). A recipe is resolved in the superversion it was read from, or in the files of its view (L7).

use crate::{
    base::{Bytes, ChunkId, Corruption, Error, Result},
    chunk::recipe::{Recipe, Reference, decode_node},
    engine::{
        KeyspaceRef,
        chunk_store::ReadRoom,
        files::chunks::{ChunkSet, damage},
    },
    merge::Stored,
};

/// Maximum length of a value in memory: offsets in [`Bytes`] have 32 bits.
pub(crate) const VALUE_LEN_MAX: u64 = u32::MAX as u64;

/// Returns the bytes of a value.
///
/// # Errors
/// [`CorruptChunk`](Error::CorruptChunk) for a chunk that is damaged or not there; [`Invalid`](Error::Invalid) for a
/// value of 4 GiB or more, or a recipe that cannot be decoded.
#[inline]
pub(crate) fn assemble(chunks: &ChunkSet, keyspace: &KeyspaceRef, key: &[u8], stored: Stored) -> Result<Bytes> {
    match stored {
        Stored::Bytes(bytes) => Ok(bytes),
        Stored::Recipe(recipe) => LargeValue { chunks, keyspace, key }.whole(&recipe),
    }
}

/// Decodes the recipe of a key.
pub(crate) fn decode(keyspace: &KeyspaceRef, key: &[u8], recipe: &[u8]) -> Result<Recipe> {
    Recipe::decode(recipe).map_err(|Corruption { offset, what }| {
        let key = key.escape_ascii();
        keyspace.named(Error::invalid(format!(
            "key \"{key}\" has no readable recipe (at byte {offset}: {what}); `verify` names damaged files"
        )))
    })
}

/// The value of a key, whose chunks are being read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LargeValue<'v> {
    pub(crate) chunks: &'v ChunkSet,
    pub(crate) keyspace: &'v KeyspaceRef,
    pub(crate) key: &'v [u8],
}

impl LargeValue<'_> {
    /// Returns all bytes of the value.
    #[cold]
    fn whole(self, recipe: &[u8]) -> Result<Bytes> {
        let recipe = decode(self.keyspace, self.key, recipe)?;
        let len = recipe.len;
        let room = Some(len).filter(|len| *len <= VALUE_LEN_MAX).and_then(|len| usize::try_from(len).ok());
        let Some(room) = room else {
            let key = self.key.escape_ascii();
            return Err(self.keyspace.named(Error::invalid(format!(
                "key \"{key}\" has a value of {len} bytes, of which at most {VALUE_LEN_MAX} can be read at once; use `reader` or `read_at`"
            ))));
        };
        // Zeroed memory is not touched before it is filled or read: holes cost nothing.
        let mut value = vec![0; room];
        let aside = self.chunks.store.passes_cache(len);
        self.chunks.store.with_reader(|reader| {
            let mut leaves = Leaves::new(recipe);
            while let Some((at, reference)) = leaves.next(|node, height| self.node(node, height, reader))? {
                let Some(id) = &reference.id else { continue };
                let at = usize::try_from(at).unwrap_or(usize::MAX);
                self.chunk(id, reference.len, aside, reader, (&mut value, at))?;
            }
            Ok(())
        })?;
        Ok(Bytes::from(value))
    }

    /// Fills `value` with a chunk, from `at` on.
    pub(crate) fn chunk(
        self,
        id: &ChunkId,
        len: u64,
        aside: bool,
        reader: &mut ReadRoom,
        (value, at): (&mut [u8], usize),
    ) -> Result<()> {
        let scope = self.chunks.scope(self.keyspace.scope)?;
        let read = if aside {
            self.chunks.read(id, len, scope, reader, (value, at))
        } else {
            self.chunks.read_cached(id, len, scope, reader).map(|chunk| {
                let out = value.get_mut(at..).and_then(|rest| rest.get_mut(..chunk.len())).unwrap_or_default();
                assert_eq!(out.len(), chunk.len(), "room for a chunk at {at} of a value");
                out.copy_from_slice(&chunk);
            })
        };
        read.map_err(|error| self.damaged(*id, error))
    }

    /// Returns a decoded chunk, to keep.
    pub(crate) fn kept(self, id: &ChunkId, len: u64, reader: &mut ReadRoom) -> Result<Bytes> {
        let scope = self.chunks.scope(self.keyspace.scope)?;
        self.chunks.read_cached(id, len, scope, reader).map_err(|error| self.damaged(*id, error))
    }

    /// Reads a node, which makes up so many bytes of the value.
    pub(crate) fn node(self, reference: &Reference, height: u32, reader: &mut ReadRoom) -> Result<Vec<Reference>> {
        let gone = |what| Corruption { offset: 0, what }.of(self.chunks.path(), 0);
        // Holes are references to chunks alone, as the decoder has checked.
        let Some(id) = reference.id else { return Err(gone("a node with an id")) };
        let scope = self.chunks.scope(self.keyspace.scope)?;
        let read = self
            .chunks
            .read_node(&id, scope, reader)
            .and_then(|node| decode_node(&node, height, reference.len).map_err(|Corruption { what, .. }| gone(what)));
        read.map_err(|error| self.damaged(id, error))
    }

    /// Names the value that a damaged chunk belongs to.
    #[cold]
    pub(crate) fn damaged(self, chunk: ChunkId, error: Error) -> Error {
        let Some((path, offset)) = damage(&error) else { return error };
        self.chunks.store.record_damaged(chunk);
        Error::CorruptChunk { path, offset, keyspace: self.keyspace.name.to_string(), key: self.key.to_vec(), chunk }
    }
}

/// The references of a value to chunks and holes, in order. One node of each level is in memory.
#[derive(Debug)]
pub(crate) struct Leaves {
    len: u64,
    /// From the recipe's own references down to those of chunks: the references of a node, and how many have been
    /// passed.
    levels: Vec<(Vec<Reference>, usize)>,
    /// Levels of nodes below the recipe's references.
    height: u32,
    /// Where the next reference begins in the value.
    at: u64,
}

impl Leaves {
    pub(crate) fn new(recipe: Recipe) -> Self {
        Self { len: recipe.len, levels: vec![(recipe.references, 0)], height: recipe.height, at: 0 }
    }

    /// Returns the length of the value.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Returns the next reference and where it begins; `node` reads the references of a node of a height.
    pub(crate) fn next(
        &mut self,
        mut node: impl FnMut(&Reference, u32) -> Result<Vec<Reference>>,
    ) -> Result<Option<(u64, Reference)>> {
        loop {
            let depth = self.levels.len();
            let Some((references, passed)) = self.levels.last_mut() else { return Ok(None) };
            let Some(reference) = references.get(*passed).copied() else {
                if depth == 1 {
                    return Ok(None);
                }
                self.levels.pop();
                continue;
            };
            let below = self.height - u32::try_from(depth - 1).unwrap_or(self.height);
            if below == 0 {
                *passed += 1;
                let at = self.at;
                self.at += reference.len;
                return Ok(Some((at, reference)));
            }
            let references = node(&reference, below - 1)?;
            // Passed only once it was read, so that a failed call can be repeated.
            *passed += 1;
            self.levels.push((references, 0));
        }
    }

    /// Goes to the reference that holds the byte at `offset`, or to the end; reads no chunk, and one node of each
    /// level.
    pub(crate) fn seek(
        &mut self,
        offset: u64,
        mut node: impl FnMut(&Reference, u32) -> Result<Vec<Reference>>,
    ) -> Result<()> {
        self.levels.truncate(1);
        self.at = 0;
        loop {
            let depth = self.levels.len();
            let Some((references, passed)) = self.levels.last_mut() else { return Ok(()) };
            *passed = 0;
            while let Some(reference) = references.get(*passed).filter(|of| self.at + of.len <= offset) {
                self.at += reference.len;
                *passed += 1;
            }
            let below = self.height - u32::try_from(depth - 1).unwrap_or(self.height);
            let Some(reference) = references.get(*passed).copied() else { return Ok(()) };
            if below == 0 {
                return Ok(());
            }
            let references = node(&reference, below - 1)?;
            *passed += 1;
            self.levels.push((references, 0));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{
        Bytes, ChunkId, Db, Durability, Error, Keyspace, KeyspaceOptions, MergeStrategy, Options, Policy, Receipt,
        chunk::{
            cut::CutPolicy,
            recipe::{Recipe, Reference},
        },
        engine::write::{Staged, commit},
        env::{Memory, Sim},
    };

    const HOUR: Duration = Duration::from_secs(3600);

    fn recipe(references: Vec<Reference>) -> Vec<u8> {
        let len = references.iter().map(|reference| reference.len).sum();
        let chunking = CutPolicy::AUTOMATIC;
        Recipe { len, chunking, height: 0, references, origin: String::new() }.encode()
    }

    fn put_recipe(keyspace: &Keyspace, key: &str, recipe: &[u8]) -> Receipt {
        let mut staged = Staged::default();
        staged.add_recipe(keyspace.keyspace_ref(), key.as_bytes(), recipe);
        commit(keyspace.engine(), staged, None).unwrap()
    }

    /// A value of zeros, which needs no chunk.
    fn put_zeros(keyspace: &Keyspace, key: &str, len: u64) -> Receipt {
        put_recipe(keyspace, key, &recipe(vec![Reference { id: None, len }]))
    }

    /// A value whose chunk is nowhere.
    fn put_lost(keyspace: &Keyspace, key: &str) -> Receipt {
        let id = Some(ChunkId::from_bytes([7; 32]));
        put_recipe(keyspace, key, &recipe(vec![Reference { id: None, len: 5 }, Reference { id, len: 9 }]))
    }

    fn zeros(len: usize) -> Bytes {
        Bytes::from(vec![0; len])
    }

    fn policies() -> [KeyspaceOptions; 4] {
        let new = KeyspaceOptions::new;
        [new(), new().policy(Policy::tombstones(HOUR)), new().policy(Policy::mvcc(9, HOUR)), new().ttl(HOUR)]
    }

    /// The histories that a plain `_ => None` answers wrongly: a large value that reached the history tier was absent
    /// as of its moment, and a delete in the history of its key.
    #[test]
    fn a_large_value_is_read_in_every_verb_in_the_present_and_the_past_wherever_it_lies() {
        for (number, options) in policies().into_iter().enumerate() {
            let keeps = number == 2;
            let machine = Sim::new(1);
            let open = || Options::new().env(machine.clone()).durability(Durability::Buffered).open("/db").unwrap();
            let db = open();
            let k = db.keyspace("k", options).unwrap();
            k.put("a", "small").unwrap();
            let large = put_zeros(&k, "b", 100_000);
            let view = db.snapshot();
            k.put("b", "small").unwrap();
            put_zeros(&k, "c", 40_000);
            drop((k, db.clone()));
            let check = |db: &Db, view: Option<&crate::View>| {
                let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
                assert_eq!(k.get("c").unwrap(), Some(zeros(40_000)));
                assert_eq!(k.multi_get(["c", "a"]).unwrap(), [Some(zeros(40_000)), Some(Bytes::from("small"))]);
                assert!(k.contains("c").unwrap());
                assert_eq!(k.last().unwrap(), Some((Bytes::from("c"), zeros(40_000))));
                let lens = |(key, value): (Bytes, Bytes)| (key.to_vec(), value.len());
                let forward: Vec<_> = k.range(..).map(|item| lens(item.unwrap())).collect();
                assert_eq!(forward, [(b"a".to_vec(), 5), (b"b".to_vec(), 5), (b"c".to_vec(), 40_000)]);
                let backward: Vec<_> = k.range(..).rev().map(|item| lens(item.unwrap())).collect();
                assert!(backward.iter().rev().eq(&forward));
                let mut cursor = k.cursor("b"..);
                assert_eq!(cursor.next_ref().unwrap(), Some((&b"b"[..], &b"small"[..])));
                assert_eq!(cursor.next_ref().unwrap(), Some((&b"c"[..], &zeros(40_000)[..])));
                let then = view.cloned().or_else(|| keeps.then(|| db.as_of(large.seqno).unwrap()));
                if let Some(then) = then {
                    assert_eq!(then.get(&k, "b").unwrap(), Some(zeros(100_000)));
                    assert!(then.contains(&k, "b").unwrap() && !then.contains(&k, "c").unwrap());
                    assert_eq!(then.range(&k, ..).map(|item| lens(item.unwrap())).next_back().unwrap().1, 100_000);
                    let changes: Vec<_> = db.diff(&then, &db.snapshot(), &k).map(|change| change.unwrap()).collect();
                    let told: Vec<_> = changes.iter().map(|change| (&change.key[..], change.before.as_ref())).collect();
                    assert_eq!(told, [(&b"b"[..], Some(&zeros(100_000))), (b"c", None)]);
                }
                if keeps {
                    let history: Vec<_> = k.history("b").map(|version| version.unwrap().value).collect();
                    assert_eq!(history, [Some(Bytes::from("small")), Some(zeros(100_000))]);
                }
            };
            check(&db, Some(&view));
            db.flush().unwrap();
            check(&db, Some(&view));
            db.compact().unwrap();
            check(&db, Some(&view));
            // A copy of a moment holds recipes as recipes.
            view.checkpoint("/copy").unwrap();
            let copy = Options::new().env(machine.clone()).open("/copy").unwrap();
            let copied = copy.keyspace("k", KeyspaceOptions::new()).unwrap();
            assert_eq!(copied.get("b").unwrap(), Some(zeros(100_000)));
            assert!(copied.space().live < 50_000, "{:?}", copied.space());
            assert!(copy.verify().unwrap().is_clean() && db.verify().unwrap().is_clean());
            drop(view);
            db.compact().unwrap();
            check(&db, None);
            db.close().unwrap();
            check(&open(), None);
        }
    }

    /// Expiry that is asked of puts alone leaves a large value for ever, to readers and on the disk.
    #[test]
    fn a_large_value_expires_like_a_small_one_to_readers_and_on_the_disk() {
        let machine = Sim::new(1);
        let db = Options::new().env(machine.clone()).open("/db").unwrap();
        let k = db.keyspace("k", KeyspaceOptions::new().ttl(HOUR)).unwrap();
        put_zeros(&k, "large", 100_000);
        k.put("small", "value").unwrap();
        db.flush().unwrap();
        assert!(k.contains("large").unwrap());
        machine.set_time(machine.now() + HOUR + Duration::from_secs(1));
        for key in ["large", "small"] {
            assert_eq!(k.get(key).unwrap(), None, "{key}");
            assert!(!k.contains(key).unwrap());
        }
        assert_eq!((k.range(..).count(), k.range(..).rev().count()), (0, 0));
        db.compact().unwrap();
        assert_eq!((k.space().live, k.space().history), (0, 0));
    }

    /// L14, and what a lost chunk is to the rest of the database.
    #[test]
    fn a_lost_chunk_is_an_error_of_its_value_alone_and_of_no_verb_that_needs_no_bytes() {
        let db = Options::new().env(Memory::new()).open("/db").unwrap();
        let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        k.put("a", "before").unwrap();
        put_lost(&k, "b");
        k.put("c", "behind").unwrap();
        let then = db.snapshot();
        put_lost(&k, "b");
        for round in 0..2 {
            let lost = k.get("b").unwrap_err();
            let Error::CorruptChunk { keyspace, key, chunk, .. } = &lost else { panic!("{lost}") };
            assert_eq!((keyspace.as_str(), key.as_slice(), *chunk), ("k", &b"b"[..], ChunkId::from_bytes([7; 32])));
            assert!(lost.to_string().contains(&chunk.to_string()) && lost.to_string().contains("\"b\""), "{lost}");
            assert!(k.contains("b").unwrap() && then.contains(&k, "b").unwrap());
            assert!(!k.is_empty().unwrap());
            let keys: Vec<_> = k.range(..).keys().map(|key| key.unwrap().to_vec()).collect();
            assert_eq!(keys, [b"a", b"b", b"c"]);
            assert_eq!(k.range(..).keys().rev().count(), 3);
            // A walk tells the error for that key, and goes on in both directions.
            let told: Vec<_> = k.range(..).map(|item| item.is_ok()).collect();
            assert_eq!(told, [true, false, true]);
            assert_eq!(k.range(..).rev().map(|item| item.is_ok()).collect::<Vec<_>>(), told);
            let mut cursor = k.cursor(..);
            let lent: Vec<_> = (0..4).map(|_| cursor.next_ref().map(|item| item.is_some()).ok()).collect();
            assert_eq!(lent, [Some(true), None, Some(true), Some(false)]);
            // Equal recipes are equal values: nothing is read.
            assert_eq!(db.diff(&then, &db.snapshot(), &k).count(), 0);
            assert!(k.insert_if_absent("b", "other").unwrap().is_none());
            let report = db.verify().unwrap();
            assert!(report.to_string().contains("key \"b\": chunk 0707"), "{report}");
            assert!(report.findings.iter().all(|finding| finding.keyspace.as_deref() == Some("k")), "{report}");
            if round == 0 {
                db.compact().unwrap();
            }
        }
        let first = db.keyspace("first", KeyspaceOptions::new().merge(MergeStrategy::FirstWins)).unwrap();
        put_lost(&first, "b");
        first.put("b", "second").unwrap();
        assert!(matches!(first.get("b"), Err(Error::CorruptChunk { .. })), "the first wins, unread");
    }

    #[test]
    fn a_recipe_of_too_many_bytes_or_that_is_none_is_refused_by_name() {
        let db = Options::new().env(Memory::new()).open("/db").unwrap();
        let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        put_zeros(&k, "bomb", 1 << 62);
        put_recipe(&k, "junk", b"junk");
        put_zeros(&k, "long", 1 << 32);
        for key in ["bomb", "junk", "long"] {
            let refused = k.get(key).unwrap_err();
            let Error::Invalid { what } = &refused else { panic!("{refused}") };
            assert!(what.contains("keyspace \"k\"") && what.contains(&format!("key \"{key}\"")), "{what}");
        }
    }

    #[test]
    fn versions_of_a_recipe_in_the_history_tier_take_what_differs() {
        let db = Options::new().env(Memory::new()).open("/db").unwrap();
        let k = db.keyspace("k", KeyspaceOptions::new().policy(Policy::mvcc(100, HOUR))).unwrap();
        let reference = |number: u8| Reference { id: Some(ChunkId::from_bytes([number; 32])), len: 1000 };
        let mut references: Vec<_> = (0..=255).map(reference).collect();
        for version in 0..50u8 {
            references[100] = reference(version);
            put_recipe(&k, "large", &recipe(references.clone()));
        }
        db.compact().unwrap();
        assert_eq!(k.history("large").count(), 50);
        let (whole, space) = (recipe(references).len() as u64, k.space());
        assert!(space.live + space.history < 4 * whole, "{space:?} for 50 versions of {whole} bytes");
    }
}
