//! Chunks by their ids: for programs that cut, send, check and adopt values by themselves.

use std::{
    fmt,
    io::{self, Read},
    sync::Arc,
};

use super::{Keyspace, StagedValue};
use crate::{
    base::{Bytes, ChunkId, Error, Result},
    chunk::{
        cut::Chunking,
        exchange::{Have, HaveYou},
        id::ChunkKind,
    },
    engine::{
        ChunkFacts, ChunkHolders, Engine, KeyspaceRef, Recipe, Running, jobs,
        read::{self, ChunkWalk},
        write::{self, HeldChunk, LargeWriter},
    },
};

/// The chunks of one dedup scope: see [`Db::chunks`](crate::Db::chunks) and [`Keyspace::chunks`]. Cheap to clone.
///
/// Large values are cut and stored by [`put`](Keyspace::put) and [`writer`](Keyspace::writer). This is for programs
/// that work with chunks: that cut elsewhere, ask which chunks are there before they send them
/// ([`answer`](Chunks::answer)), and give a key a value of which every chunk is there ([`Keyspace::adopt`]).
///
/// A chunk stays while a value in force, a version of the past, a writer or a [`Lease`] needs it.
///
/// An id of the default scope follows from the bytes: whoever knows a chunk can learn whether it is stored, and whoever
/// knows an id can read it. Hand this out as you would the data, and keep apart what tenants may not learn of each
/// other by [`dedup_scope`](crate::KeyspaceOptions::dedup_scope).
///
/// ```
/// # use chronolith::{env::Memory, KeyspaceOptions, Options};
/// # let (here, there) = (Options::new().env(Memory::new()).open("a.db")?, Options::new().env(Memory::new()).open("b.db")?);
/// # let models = here.keyspace("models", KeyspaceOptions::new())?;
/// # let copies = there.keyspace("models", KeyspaceOptions::new())?;
/// // A value of at most 256 chunks goes from one database to another: the recipe, and the chunks that are not there.
/// // The recipe of a longer one lists nodes, which `put_node` stores, and which list chunks.
/// models.put("model.bin", vec![7; 200_000])?;
/// let recipe = models.recipe("model.bin")?.unwrap();
/// let mut leases = Vec::new(); // what is there already must stay until the value is adopted
/// for (id, _) in recipe.references() {
///     let Some(id) = id else { continue };
///     leases.push(match there.chunks().lease(&id)? {
///         Some(lease) => lease,
///         None => there.chunks().put(here.chunks().get(&id)?.unwrap())?,
///     });
/// }
/// copies.adopt("model.bin", &there.chunks().recipe(&recipe.encode())?)?;
/// assert_eq!(copies.get("model.bin")?, models.get("model.bin")?);
/// # Ok::<_, chronolith::Error>(())
/// ```
#[derive(Clone)]
pub struct Chunks {
    owner: Arc<Running>,
    /// Of whose scope they are, and whose options count for new ones.
    keyspace: KeyspaceRef,
}

impl fmt::Debug for Chunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunks(scope {})", self.keyspace.scope)
    }
}

impl Chunks {
    pub(super) fn of_database(owner: &Arc<Running>) -> Self {
        Self { owner: Arc::clone(owner), keyspace: KeyspaceRef::of_chunks() }
    }

    pub(super) fn of_keyspace(keyspace: &Keyspace) -> Self {
        Self { owner: Arc::clone(keyspace.owner()), keyspace: keyspace.keyspace_ref().clone() }
    }

    fn engine(&self) -> &Arc<Engine> {
        self.owner.engine()
    }

    /// Stores a chunk of 1 byte to 1 MiB, unless it is stored already. It stays while the lease does, and from then on
    /// if a value needs it. Compressed as the keyspace says; by default with level 1 of zstd.
    ///
    /// ```
    /// # use chronolith::{env::Memory, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// let lease = db.chunks().put("some bytes")?;
    /// assert_eq!(db.chunks().get(&lease.id())?.unwrap(), b"some bytes");
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for no bytes or too many, and for a keyspace that was dropped;
    /// [`DiskFull`](Error::DiskFull), [`Poisoned`](Error::Poisoned), [`Closed`](Error::Closed) and others if nothing
    /// can be written.
    pub fn put(&self, bytes: impl AsRef<[u8]>) -> Result<Lease> {
        self.store(ChunkKind::Data, bytes.as_ref())
    }

    /// Stores a node, as [`put`](Chunks::put) stores a chunk: the recipe of a value of more than 256 chunks lists
    /// nodes, and nodes list chunks. A node does not keep what it lists until a value needs it.
    ///
    /// # Errors
    /// Those of [`put`](Chunks::put); [`Invalid`](Error::Invalid) for bytes that are no node.
    pub fn put_node(&self, bytes: impl AsRef<[u8]>) -> Result<Lease> {
        self.store(ChunkKind::Node, bytes.as_ref())
    }

    fn store(&self, kind: ChunkKind, bytes: &[u8]) -> Result<Lease> {
        write::put_chunk(self.engine(), &self.keyspace, kind, bytes).map(|held| Lease::new(&self.owner, held))
    }

    /// Holds a chunk or node that is stored: it stays while the lease does. `None` if there is none of that id.
    ///
    /// # Errors
    /// Those of [`put`](Chunks::put) and of [`get`](Chunks::get).
    pub fn lease(&self, id: &ChunkId) -> Result<Option<Lease>> {
        let held = write::hold_chunk(self.engine(), &self.keyspace, id)?;
        Ok(held.map(|held| Lease::new(&self.owner, held)))
    }

    /// Stores what a reader yields as a value without a key, cut by this policy, in bounded memory: for its
    /// [`recipe`](StagedValue::recipe), or for [`Batch::adopt`](crate::Batch::adopt). It is cut whatever its length,
    /// and stays while the staged value does.
    ///
    /// ```
    /// # use chronolith::{env::Memory, Chunking, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// let staged = db.chunks().put_stream(&[7; 100_000][..], Chunking::fixed(4096))?;
    /// assert_eq!(staged.recipe().unwrap().len(), 100_000);
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of the reader; otherwise an [`Error`] of this crate inside: those of [`put`](Chunks::put), and
    /// [`Invalid`](Error::Invalid) for a policy whose size is out of bounds.
    pub fn put_stream(&self, mut reader: impl Read, chunking: Chunking) -> io::Result<StagedValue> {
        let mut writer = LargeWriter::without_key(self.engine(), &self.keyspace, chunking).map_err(Error::into_io)?;
        io::copy(&mut reader, &mut writer)?;
        let staged = writer.stage().map_err(Error::into_io)?;
        Ok(StagedValue::new(&self.owner, staged))
    }

    /// Reads a chunk or node, and verifies it against its id; `None` if there is none of that id.
    ///
    /// # Errors
    /// [`Corrupt`](Error::Corrupt) for a damaged chunk, naming its pack; [`Io`](Error::Io), [`Closed`](Error::Closed);
    /// [`DiskFull`](Error::DiskFull) for a chunk that no value needs yet and that its pack has no room for. If even the
    /// header of its record is damaged, nobody knows whose scope it is of: in a named scope it is not there. `verify`
    /// names it, and whoever stores it again heals it.
    pub fn get(&self, id: &ChunkId) -> Result<Option<Bytes>> {
        read::chunk(self.engine(), self.keyspace.scope, id)
    }

    /// Returns whether a chunk or node is stored; reads the header of its record. One whose header is damaged is not.
    ///
    /// # Errors
    /// Those of [`get`](Chunks::get).
    pub fn contains(&self, id: &ChunkId) -> Result<bool> {
        let answer = self.answer(&HaveYou::new([*id])?)?;
        Ok(answer.iter().all(|has| has))
    }

    /// Returns what is known of a chunk or node; `None` if there is none of that id.
    ///
    /// # Errors
    /// Those of [`get`](Chunks::get).
    pub fn facts(&self, id: &ChunkId) -> Result<Option<ChunkFacts>> {
        read::facts(self.engine(), self.keyspace.scope, id)
    }

    /// Returns what keeps a chunk or node: how many versions of values refer to it, their keys, and writers under way.
    /// Reads every recipe of the database, as a collection does: seconds for a million large values.
    ///
    /// ```
    /// # use chronolith::{env::Memory, Chunking, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// # let files = db.keyspace("files", KeyspaceOptions::new().chunking(Chunking::fixed(4096)))?;
    /// files.put("a", vec![7; 100_000])?;
    /// let (id, _) = files.recipe("a")?.unwrap().references().next().unwrap();
    /// let why = db.chunks().why(&id.unwrap())?;
    /// assert_eq!((why.references, &why.keys[..]), (1, &[("files".to_owned(), "a".into())][..]));
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`get`](Chunks::get); [`CorruptChunk`](Error::CorruptChunk) if a node of a value cannot be read.
    #[doc(alias = "reference_count")]
    pub fn why(&self, id: &ChunkId) -> Result<ChunkHolders> {
        jobs::why(self.engine(), self.keyspace.scope, id)
    }

    /// Answers which of some chunks and nodes are stored, as [`contains`](Chunks::contains) does. What is there now may
    /// be gone later unless it is held: see [`lease`](Chunks::lease).
    ///
    /// # Errors
    /// Those of [`get`](Chunks::get).
    pub fn answer(&self, question: &HaveYou) -> Result<Have> {
        read::answer(self.engine(), self.keyspace.scope, question)
    }

    /// Returns the recipe of these bytes, which [`Recipe::encode`] or a program in another language has written.
    /// [`Keyspace::adopt`] checks that its chunks are there.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for bytes that are no recipe.
    pub fn recipe(&self, bytes: &[u8]) -> Result<Recipe> {
        Recipe::decode_in(self.keyspace.scope, bytes)
    }

    /// Iterates over the ids of all chunks and nodes that are stored now, needed or not, each once, in no order. Keeps
    /// the files of this moment while it is there. Items have the errors of [`get`](Chunks::get).
    pub fn iter(&self) -> ChunkIds {
        let walk = ChunkWalk::new(self.engine(), self.keyspace.scope);
        ChunkIds { _owner: Arc::clone(&self.owner), walk: Some(walk) }
    }

    /// Makes the index of all chunks anew from the packs, for every scope of the database.
    /// [`Db::compact`](crate::Db::compact) does so by itself where the index is damaged.
    ///
    /// # Errors
    /// [`DiskFull`](Error::DiskFull), [`Io`](Error::Io), [`Poisoned`](Error::Poisoned), [`Closed`](Error::Closed) and
    /// others: see [`Db::compact`](crate::Db::compact).
    pub fn rebuild(&self) -> Result<()> {
        jobs::rebuild(self.engine())
    }
}

/// A chunk or node that stays while this does: see [`Chunks::put`]. Once a committed value needs it, it stays without.
/// Ends with the process.
#[must_use = "a chunk that nothing needs stays only while its lease does"]
pub struct Lease {
    /// Given back before the database may close.
    held: HeldChunk,
    /// Keeps the database open.
    _owner: Arc<Running>,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({})", self.id())
    }
}

impl Lease {
    fn new(owner: &Arc<Running>, held: HeldChunk) -> Self {
        Self { _owner: Arc::clone(owner), held }
    }

    /// Returns the id of the chunk.
    #[must_use]
    pub fn id(&self) -> ChunkId {
        self.held.id
    }

    /// Returns whether the chunk was not stored before.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.held.is_new
    }
}

/// Iterates over the ids of stored chunks: see [`Chunks::iter`]. Ends after an error.
pub struct ChunkIds {
    /// Keeps the database open.
    _owner: Arc<Running>,
    walk: Option<Result<ChunkWalk>>,
}

impl fmt::Debug for ChunkIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChunkIds")
    }
}

impl Iterator for ChunkIds {
    type Item = Result<ChunkId>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut walk = match self.walk.take()? {
            Ok(walk) => walk,
            Err(error) => return Some(Err(error)),
        };
        let next = walk.next().transpose()?;
        if next.is_ok() {
            self.walk = Some(Ok(walk));
        }
        Some(next)
    }
}

impl IntoIterator for &Chunks {
    type Item = Result<ChunkId>;
    type IntoIter = ChunkIds;

    fn into_iter(self) -> ChunkIds {
        self.iter()
    }
}
