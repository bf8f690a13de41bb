//! [`Keyspace`]: one named, ordered, independent set of keys.

use std::{fmt, ops::ControlFlow, sync::Arc, time::Duration};

use super::{Chunks, Cursor, History, HistoryRange, Range, ValueReader, ValueWriter, View, WriteOptions, foreign};
use crate::{
    base::{Bytes, Error, KeyRange, KeySpan, KeyspaceId, Micros, Receipt, Result, Seqno, SeqnoRange},
    chunk::cut::Chunking,
    compaction::Policy,
    engine::{
        Compacted, Compression, Engine, Explain, KeyspaceRef, KeyspaceSpace, Progress, Recipe, Running, Stat, Watch,
        jobs::{self, Scope},
        keyspaces,
        read::{self, ViewCore},
        write::{self, Staged, StagedLarge, Write},
    },
    merge::MergeStrategy,
};

/// A named, ordered set of keys. Cheap to clone.
///
/// Every write returns a [`Receipt`]: its place in the order of all commits, and its time.
#[derive(Clone)]
pub struct Keyspace {
    owner: Arc<Running>,
    inner: KeyspaceRef,
}

impl fmt::Debug for Keyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyspace({:?})", self.name())
    }
}

impl Keyspace {
    pub(super) fn new(owner: &Arc<Running>, inner: KeyspaceRef) -> Self {
        Self { owner: Arc::clone(owner), inner }
    }

    pub(super) fn id(&self) -> KeyspaceId {
        self.inner.id
    }

    pub(crate) fn keyspace_ref(&self) -> &KeyspaceRef {
        &self.inner
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        self.owner.engine()
    }

    pub(super) fn owner(&self) -> &Arc<Running> {
        &self.owner
    }

    pub(super) fn belongs_to(&self, owner: &Arc<Running>) -> bool {
        Arc::ptr_eq(&self.owner, owner)
    }

    /// Returns the name it was opened with.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Writes a value. If the key exists, the keyspace's merge strategy decides what that means.
    ///
    /// With [`Append`](MergeStrategy::Append) the value is one item, while a read returns a list: a list that is put
    /// back becomes a list of one item.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// # let users = db.keyspace("users", KeyspaceOptions::new())?;
    /// let receipt = users.put("ann", "25")?;
    /// assert_eq!(users.get("ann")?.unwrap(), b"25");
    /// assert_eq!(receipt.seqno, db.seqno());
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for a key or value that is too long, a value the strategy does not take, or a
    /// dropped keyspace; [`DiskFull`](Error::DiskFull), [`Poisoned`](Error::Poisoned) or [`Io`](Error::Io) when it
    /// cannot be logged; [`NotDurable`](Error::NotDurable) when it was applied and could not be synced. See
    /// [`Batch::commit`](crate::Batch::commit).
    #[doc(alias = "insert", alias = "set")]
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Receipt> {
        self.write(Write::Put(key.as_ref(), value.as_ref()))
    }

    /// Records an operand without reading the key; reads fold it as the [`MergeStrategy`] defines. With a strategy that
    /// has no operands this is [`put`](Keyspace::put).
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, MergeStrategy, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// let hits = db.keyspace("hits", KeyspaceOptions::new().merge(MergeStrategy::Sum))?;
    /// let before = hits.merge("page/1", 1i64.to_le_bytes())?;
    /// hits.merge("page/1", 1i64.to_le_bytes())?;
    /// assert_eq!(hits.get("page/1")?.unwrap(), 2i64.to_le_bytes().as_slice());
    /// assert_eq!(db.as_of(before.seqno)?.get(&hits, "page/1")?.unwrap(), 1i64.to_le_bytes().as_slice());
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid), [`DiskFull`](Error::DiskFull), [`Poisoned`](Error::Poisoned) and others: see
    /// [`put`](Keyspace::put).
    #[doc(alias = "upsert", alias = "merge_operator")]
    pub fn merge(&self, key: impl AsRef<[u8]>, operand: impl AsRef<[u8]>) -> Result<Receipt> {
        self.write(Write::Merge(key.as_ref(), operand.as_ref()))
    }

    /// Shows where a read of a key looks and what it finds there: which memtables and segments, which slot of the
    /// index, how many blocks.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// # let users = db.keyspace("users", KeyspaceOptions::new())?;
    /// users.put("ann", "25")?;
    /// println!("{}", users.explain("ann")?);
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Corrupt`](Error::Corrupt), [`Io`](Error::Io), [`Closed`](Error::Closed); [`Invalid`](Error::Invalid) for a
    /// dropped keyspace.
    pub fn explain(&self, key: impl AsRef<[u8]>) -> Result<Explain> {
        read::explain(self.engine(), &self.inner, key.as_ref())
    }

    /// Deletes a key. Deleting a key that does not exist is no error.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// # let users = db.keyspace("users", KeyspaceOptions::new())?;
    /// users.put("ann", "25")?;
    /// users.delete("ann")?;
    /// assert!(users.get("ann")?.is_none());
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid), [`DiskFull`](Error::DiskFull), [`Poisoned`](Error::Poisoned) and others: see
    /// [`put`](Keyspace::put).
    #[doc(alias = "remove")]
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<Receipt> {
        self.write(Write::Delete(key.as_ref()))
    }

    /// Deletes every key in a range with a single entry, however many keys there are. `delete_range(..)` empties the
    /// keyspace.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// # let users = db.keyspace("users", KeyspaceOptions::new())?;
    /// users.put("ann", "25")?;
    /// users.delete_range("a".."c")?;
    /// assert!(users.is_empty()?);
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid), [`DiskFull`](Error::DiskFull), [`Poisoned`](Error::Poisoned) and others: see
    /// [`put`](Keyspace::put).
    #[doc(alias = "clear", alias = "remove_range")]
    pub fn delete_range(&self, range: impl KeyRange) -> Result<Receipt> {
        self.write(Write::DeleteRange(&range.span()))
    }

    /// Deletes a key together with its past. Views opened from now on never see a value of it, whatever moment they
    /// show, pinned moments included.
    ///
    /// The next [`Db::compact`](crate::Db::compact) removes the bytes from every file of the database, and reports
    /// which earlier views still hold some. An earlier view keeps the value it can read. An earlier view or pin also
    /// keeps the key itself, without a value, in the files until it is gone and `compact` runs again. Copies made by
    /// [`Db::checkpoint`](crate::Db::checkpoint) are not reached, nor are equal values of other keys. Later writes to
    /// the key are unaffected.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// # let users = db.keyspace("users", KeyspaceOptions::new())?;
    /// let receipt = users.put("ann", "25")?;
    /// users.purge("ann")?;
    /// assert!(db.as_of(receipt.seqno)?.get(&users, "ann")?.is_none());
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid), [`DiskFull`](Error::DiskFull), [`Poisoned`](Error::Poisoned) and others: see
    /// [`put`](Keyspace::put).
    #[doc(alias = "erase", alias = "forget")]
    pub fn purge(&self, key: impl AsRef<[u8]>) -> Result<Receipt> {
        self.write(Write::Purge(key.as_ref()))
    }

    /// Purges every key that begins with a prefix. See [`purge`](Keyspace::purge).
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid), [`DiskFull`](Error::DiskFull), [`Poisoned`](Error::Poisoned) and others: see
    /// [`put`](Keyspace::put).
    pub fn purge_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Receipt> {
        self.write(Write::PurgeRange(&KeySpan::prefix(prefix.as_ref())))
    }

    /// Iterates over the versions of a key that still exist, newest first, deletes included. The keyspace's [`Policy`]
    /// decides how far they reach back; [`History::is_complete`] is `false` if any is known to be missing.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options, Policy};
    /// # use std::time::Duration;
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// let users = db.keyspace("users", KeyspaceOptions::new().policy(Policy::mvcc(10, Duration::ZERO)))?;
    /// users.put("ann", "25")?;
    /// users.delete("ann")?;
    /// let values = users.history("ann").map(|version| version.map(|version| version.value));
    /// assert_eq!(values.collect::<Result<Vec<_>, _>>()?, [None, Some("25".into())]);
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    pub fn history(&self, key: impl AsRef<[u8]>) -> History {
        self.now().history(self, key)
    }

    /// Iterates over the versions of every key in a range, keys in order and newest first for each key. Keys that were
    /// deleted, and so are in no [`range`](Keyspace::range), are listed as long as a version is left.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options, Policy};
    /// # use std::time::Duration;
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// let users = db.keyspace("users", KeyspaceOptions::new().policy(Policy::mvcc(10, Duration::ZERO)))?;
    /// users.put("ann", "25")?;
    /// users.put("bob", "30")?;
    /// users.delete("ann")?;
    /// let versions = users.history_range("a".."c").map(|item| item.map(|(key, version)| (key, version.value)));
    /// let versions: Vec<_> = versions.collect::<Result<_, _>>()?;
    /// assert_eq!(versions, [("ann".into(), None), ("ann".into(), Some("25".into())), ("bob".into(),
    /// Some("30".into()))]);
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    pub fn history_range(&self, range: impl KeyRange) -> HistoryRange {
        self.now().history_range(self, range)
    }

    /// Iterates over the versions of a key whose seqnos lie in a range, newest first.
    pub fn history_between(&self, key: impl AsRef<[u8]>, range: impl SeqnoRange) -> History {
        self.now().history_between(self, key, range)
    }

    /// Returns the oldest seqno from which on every read of every key is exact. Earlier reads may fail, key by key,
    /// with [`HistoryTrimmed`](Error::HistoryTrimmed). It only moves forward.
    ///
    /// If the newest values have expired, this is one past the newest commit, and only a
    /// [snapshot](crate::Db::snapshot) can answer every read. Returns 0 for a dropped keyspace.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// # let users = db.keyspace("users", KeyspaceOptions::new())?;
    /// users.put("ann", "25")?;
    /// let view = db.as_of(users.horizon())?;
    /// assert!(view.get(&users, "ann").is_ok());
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    pub fn horizon(&self) -> Seqno {
        read::horizon(self.engine(), self.id())
    }

    /// Reads the value of a key.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// # let users = db.keyspace("users", KeyspaceOptions::new())?;
    /// users.put("ann", "25")?;
    /// assert_eq!(users.get("ann")?.as_deref(), Some(b"25".as_slice()));
    /// assert_eq!(users.get("bob")?, None);
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Corrupt`](Error::Corrupt) or [`Io`](Error::Io) from files; [`Closed`](Error::Closed);
    /// [`Invalid`](Error::Invalid) for a dropped keyspace, for a sum that no `i64` holds, and whatever a custom
    /// [`Merge`](crate::Merge) returns (its panics are passed on to the caller). Errors of values name the key and the
    /// keyspace.
    #[doc(alias = "lookup", alias = "read")]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        read::get(self.engine(), &self.inner, key.as_ref())
    }

    /// Writes a value of any length as a stream; the key is untouched until [`ValueWriter::finish`]. What is long
    /// enough for [`chunk_threshold`](crate::KeyspaceOptions::chunk_threshold) is cut and stored as it arrives.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for a key that is too long, a dropped keyspace, or one whose strategy combines
    /// values; [`Poisoned`](Error::Poisoned), [`Closed`](Error::Closed) and others if nothing can be written.
    #[doc(alias = "put_stream")]
    pub fn writer(&self, key: impl AsRef<[u8]>) -> Result<ValueWriter> {
        ValueWriter::new(self, key.as_ref(), WriteOptions::new())
    }

    /// Writes a value as a stream, with options of its own. See [`writer`](Keyspace::writer).
    ///
    /// # Errors
    /// Those of [`writer`](Keyspace::writer); [`Invalid`](Error::Invalid) for an origin of more than 255 bytes.
    pub fn writer_with(&self, key: impl AsRef<[u8]>, options: WriteOptions) -> Result<ValueWriter> {
        ValueWriter::new(self, key.as_ref(), options)
    }

    /// Reads the value of a key as a stream; `None` if there is none. The reader keeps that value, whatever is written
    /// to the key afterwards.
    ///
    /// # Errors
    /// [`Corrupt`](Error::Corrupt), [`Io`](Error::Io), [`Closed`](Error::Closed) and others: see
    /// [`get`](Keyspace::get).
    pub fn reader(&self, key: impl AsRef<[u8]>) -> Result<Option<ValueReader>> {
        let (engine, key) = (self.engine(), key.as_ref());
        let Some(stored) = read::get_stored(engine, &self.inner, key)? else { return Ok(None) };
        let reading = read::ValueReader::new(engine, &self.inner, key, stored)?;
        Ok(Some(ValueReader::new(&self.owner, reading)))
    }

    /// Reads a part of a value without the rest: what there is of `len` bytes from `offset` on; `None` if the key does
    /// not exist.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// # let users = db.keyspace("users", KeyspaceOptions::new())?;
    /// users.put("ann", "0123456789")?;
    /// assert_eq!(users.read_at("ann", 8, 100)?.unwrap(), b"89");
    /// assert_eq!(users.read_at("ann", 10, 1)?.unwrap(), b"");
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Corrupt`](Error::Corrupt), [`CorruptChunk`](Error::CorruptChunk) for a damaged chunk in the part,
    /// [`Io`](Error::Io), [`Closed`](Error::Closed) and others: see [`get`](Keyspace::get);
    /// [`Invalid`](Error::Invalid) for a part of 4 GiB or more.
    pub fn read_at(&self, key: impl AsRef<[u8]>, offset: u64, len: usize) -> Result<Option<Bytes>> {
        let key = key.as_ref();
        let stored = read::get_stored(self.engine(), &self.inner, key)?;
        stored.map(|stored| read::read_at(&self.inner, key, stored, offset, len)).transpose()
    }

    /// Returns the length of a value, how it is cut and where it came from; reads no chunk. `None` if the key does not
    /// exist.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// # let users = db.keyspace("users", KeyspaceOptions::new())?;
    /// users.put("ann", "25")?;
    /// let stat = users.stat("ann")?.unwrap();
    /// assert_eq!((stat.bytes, stat.chunks, stat.chunking), (2, 0, None));
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Corrupt`](Error::Corrupt), [`Io`](Error::Io), [`Closed`](Error::Closed) and others: see
    /// [`get`](Keyspace::get).
    #[doc(alias = "len")]
    pub fn stat(&self, key: impl AsRef<[u8]>) -> Result<Option<Stat>> {
        let key = key.as_ref();
        let stored = read::get_stored(self.engine(), &self.inner, key)?;
        stored.map(|(stored, chunks)| read::stat(&self.inner, key, &stored, &chunks)).transpose()
    }

    /// Returns the recipe of a large value; reads no chunk. `None` if the key does not exist, or its value is stored
    /// inline.
    ///
    /// # Errors
    /// [`Corrupt`](Error::Corrupt), [`Io`](Error::Io), [`Closed`](Error::Closed) and others: see
    /// [`get`](Keyspace::get).
    pub fn recipe(&self, key: impl AsRef<[u8]>) -> Result<Option<Recipe>> {
        let key = key.as_ref();
        let stored = read::get_stored(self.engine(), &self.inner, key)?;
        stored.map_or(Ok(None), |(stored, _)| read::recipe(&self.inner, key, &stored))
    }

    /// Returns the chunks of this keyspace's dedup scope, all keyspaces of the scope together.
    pub fn chunks(&self) -> Chunks {
        Chunks::of_keyspace(self)
    }

    /// Gives a key the value of a recipe, whose chunks must be stored. A recipe names chunks by their content: whoever
    /// has it may read the value.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// # let models = db.keyspace("models", KeyspaceOptions::new())?;
    /// models.put("a", vec![7; 100_000])?;
    /// let recipe = models.recipe("a")?.unwrap();
    /// models.adopt("b", &recipe)?;
    /// assert_eq!(models.get("b")?, models.get("a")?);
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for a chunk that is not stored here, and for a recipe of another dedup scope; and
    /// those of [`put`](Keyspace::put).
    pub fn adopt(&self, key: impl AsRef<[u8]>, recipe: &Recipe) -> Result<Receipt> {
        let key = key.as_ref();
        let staged = write::stage_recipe(self.engine(), &self.inner, key, recipe)?;
        self.commit_staged(key, &staged)
    }

    /// Gives the value of a key to a key of the same or another keyspace of this database; `None` if the key does not
    /// exist. Within one dedup scope no byte of a large value is read or written, whatever its length: the copy stays
    /// cut as it is, whatever [`chunking`](crate::KeyspaceOptions::chunking) the other keyspace has. While a compaction
    /// lets chunks go, and across scopes, the value is read and written like a new one.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// # let models = db.keyspace("models", KeyspaceOptions::new())?;
    /// # let backup = db.keyspace("backup", KeyspaceOptions::new())?;
    /// models.put("model.bin", vec![7; 100_000])?;
    /// models.copy("model.bin", &backup, "old.bin")?;
    /// assert_eq!(backup.get("old.bin")?.unwrap().len(), 100_000);
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for a keyspace of another database; those of [`get`](Keyspace::get) and of
    /// [`put`](Keyspace::put).
    pub fn copy(&self, key: impl AsRef<[u8]>, to: &Self, to_key: impl AsRef<[u8]>) -> Result<Option<Receipt>> {
        if !to.belongs_to(&self.owner) {
            return Err(foreign(to));
        }
        let (key, to_key) = (key.as_ref(), to_key.as_ref());
        let staged = write::stage_copy(self.engine(), &self.inner, key, &to.inner, to_key)?;
        staged.map(|staged| to.commit_staged(to_key, &staged)).transpose()
    }

    fn commit_staged(&self, key: &[u8], staged: &StagedLarge) -> Result<Receipt> {
        let mut batch = Staged::default();
        batch.adopt(&self.inner, key, staged);
        write::commit(self.engine(), batch, None)
    }

    /// Returns whether a key exists.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// # let users = db.keyspace("users", KeyspaceOptions::new())?;
    /// users.put("ann", "25")?;
    /// assert!(users.contains("ann")? && !users.contains("bob")?);
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Corrupt`](Error::Corrupt), [`Io`](Error::Io), [`Closed`](Error::Closed) and others: see
    /// [`get`](Keyspace::get).
    #[doc(alias = "contains_key", alias = "exists")]
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        read::contains(self.engine(), &self.inner, key.as_ref())
    }

    /// Reads the values of several keys as of one moment, in the order given. Faster than as many single reads. One key
    /// whose value cannot be read fails the whole call.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// # let users = db.keyspace("users", KeyspaceOptions::new())?;
    /// users.put("ann", "25")?;
    /// let values = users.multi_get(["bob", "ann"])?;
    /// assert_eq!(values, [None, Some("25".into())]);
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Corrupt`](Error::Corrupt), [`Io`](Error::Io), [`Closed`](Error::Closed) and others: see
    /// [`get`](Keyspace::get).
    pub fn multi_get<K: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<Option<Bytes>>> {
        read::multi_get(self.engine(), &self.inner, keys)
    }

    /// Reads the first key and its value.
    ///
    /// # Errors
    /// [`Corrupt`](Error::Corrupt), [`Io`](Error::Io), [`Closed`](Error::Closed) and others: see
    /// [`get`](Keyspace::get).
    #[doc(alias = "first_key_value")]
    pub fn first(&self) -> Result<Option<(Bytes, Bytes)>> {
        self.range(..).next().transpose()
    }

    /// Reads the last key and its value.
    ///
    /// # Errors
    /// [`Corrupt`](Error::Corrupt), [`Io`](Error::Io), [`Closed`](Error::Closed) and others: see
    /// [`get`](Keyspace::get).
    #[doc(alias = "last_key_value")]
    pub fn last(&self) -> Result<Option<(Bytes, Bytes)>> {
        self.range(..).next_back().transpose()
    }

    /// Iterates over the keys and values of a range in order, as of the moment of the call. A key whose value cannot be
    /// read yields an error; iteration continues after it.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// # let users = db.keyspace("users", KeyspaceOptions::new())?;
    /// # for name in ["ann", "bob", "eve"] { users.put(name, "1")?; }
    /// for item in users.range("a".."c").rev() {
    ///     let (key, value) = item?;
    ///     println!("{key:?} = {value:?}");
    /// }
    /// # assert_eq!(users.range("a".."c").count(), 2);
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    #[doc(alias = "iter", alias = "scan")]
    #[must_use = "iterators are lazy"]
    pub fn range(&self, range: impl KeyRange) -> Range {
        self.now().scan(self, range.span())
    }

    /// Iterates over the keys and values whose keys begin with a prefix, in order.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// # let users = db.keyspace("users", KeyspaceOptions::new())?;
    /// users.put("user/1", "ann")?;
    /// users.put("group/1", "all")?;
    /// assert_eq!(users.prefix("user/").count(), 1);
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    #[doc(alias = "scan_prefix")]
    #[must_use = "iterators are lazy"]
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Range {
        self.now().scan(self, KeySpan::prefix(prefix.as_ref()))
    }

    /// Opens a cursor over a range. It lends keys and values instead of copying them: the fastest way through a range.
    /// See [`Cursor`].
    #[must_use = "cursors are lazy"]
    pub fn cursor(&self, range: impl KeyRange) -> Cursor {
        Cursor::new(self.range(range))
    }

    /// Returns whether there is no key.
    ///
    /// # Errors
    /// [`Corrupt`](Error::Corrupt), [`Io`](Error::Io), [`Closed`](Error::Closed) and others: see
    /// [`get`](Keyspace::get).
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.range(..).keys().next().transpose()?.is_none())
    }

    /// Estimates the number of keys without reading anything. Never less than the number of keys, so 0 only when there
    /// are none; never more than the values and operands that memtables and segments hold, where a key that was written
    /// several times, or deleted since, may count several times until it is compacted.
    ///
    /// After [`compact`](crate::Db::compact), with no older view open, it is the number of keys, apart from those that
    /// have expired since. For the exact number, count the keys of [`range`](Self::range); a key whose value cannot be
    /// returned is an error among them.
    #[doc(alias = "count", alias = "len", alias = "estimate_num_keys")]
    pub fn approximate_len(&self) -> u64 {
        keyspaces::approximate_len(self.engine(), self.id())
    }

    /// Returns the policy in force. For a keyspace that was dropped and forgotten, the default.
    pub fn policy(&self) -> Policy {
        keyspaces::policy(self.engine(), self.id())
    }

    /// Returns the merge strategy.
    pub fn merge_strategy(&self) -> MergeStrategy {
        self.inner.strategy.clone()
    }

    /// Returns the time to live of values written from now on; `None` if they live for ever.
    pub fn ttl(&self) -> Option<Duration> {
        keyspaces::ttl(self.engine(), self.id()).map(Micros::to_duration)
    }

    /// Returns the length from which on values are cut into chunks; `None` if only those above 1 MiB are, or none
    /// because the keyspace combines values.
    pub fn chunk_threshold(&self) -> Option<u64> {
        keyspaces::large(self.engine(), self.id())?.threshold
    }

    /// Returns how large values are cut from now on; `None` in a keyspace that combines values.
    pub fn chunking(&self) -> Option<Chunking> {
        keyspaces::large(self.engine(), self.id()).map(|large| large.chunking)
    }

    /// Returns how new chunks are stored; `None` in a keyspace that combines values.
    pub fn compression(&self) -> Option<Compression> {
        let level = keyspaces::large(self.engine(), self.id())?.level;
        Some(level.map_or(Compression::None, Compression::Zstd))
    }

    /// Returns the name of the dedup scope, if the keyspace has one of its own.
    pub fn dedup_scope(&self) -> Option<String> {
        keyspaces::scope_name(self.engine(), self.inner.scope)
    }

    /// Returns the keyspace's bytes by what holds them. What all keyspaces share (chunks of large values, logs,
    /// manifest, timeline) is in [`Stats::space`](crate::Stats::space).
    pub fn space(&self) -> KeyspaceSpace {
        keyspaces::space_of(self.engine(), self.id())
    }

    /// Returns the bytes on disk that only a key takes, with all its versions: its recipes, and the chunks that nothing
    /// else refers to. Deleting the key frees them, once no policy, view or pin keeps a version. 0 for a key that has
    /// no large value. Reads every recipe of the database.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// # let models = db.keyspace("models", KeyspaceOptions::new())?;
    /// models.put("a", (0..=255).cycle().take(100_000).collect::<Vec<u8>>())?;
    /// let alone = models.freeable("a")?;
    /// models.copy("a", &models, "b")?;
    /// assert!(models.freeable("a")? < alone, "the chunks are needed by the copy");
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`CorruptChunk`](Error::CorruptChunk) if a recipe or a node of any value cannot be read, [`Io`](Error::Io),
    /// [`Closed`](Error::Closed).
    pub fn freeable(&self, key: impl AsRef<[u8]>) -> Result<u64> {
        jobs::freeable(self.engine(), &self.inner, key.as_ref())
    }

    /// Compacts this keyspace, as [`Db::compact`](crate::Db::compact) does for all. The report is of this keyspace
    /// alone. Chunks of large values are shared by all keyspaces, and only `Db::compact` lets go of them.
    ///
    /// # Errors
    /// [`DiskFull`](Error::DiskFull), [`Io`](Error::Io), [`Corrupt`](Error::Corrupt): see
    /// [`Db::compact`](crate::Db::compact); [`Invalid`](Error::Invalid) for a dropped keyspace.
    pub fn compact(&self) -> Result<Compacted> {
        Watch::silent().over(|watch| jobs::compact(self.engine(), Scope::Keyspace(&self.inner), watch))
    }

    /// Compacts the keys of a range, and as few others as share segments with them: useful after a large delete. Only
    /// [`compact`](Keyspace::compact) removes what was purged.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// # let events = db.keyspace("events", KeyspaceOptions::new())?;
    /// events.delete_range("2023"..="2024")?;
    /// let done = events.compact_range("2023"..="2024")?;
    /// println!("{} bytes less", done.bytes_before.saturating_sub(done.bytes_after));
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// See [`compact`](Keyspace::compact).
    pub fn compact_range(&self, range: impl KeyRange) -> Result<Compacted> {
        self.compact_range_with(range, |_| ControlFlow::Continue(()))
    }

    /// Compacts as [`compact_range`](Keyspace::compact_range) does, and reports progress; see
    /// [`Db::compact_with`](crate::Db::compact_with). With `..` it compacts the whole keyspace, purges included.
    ///
    /// # Errors
    /// [`Cancelled`](Error::Cancelled), and the errors of [`compact`](Keyspace::compact).
    pub fn compact_range_with(
        &self,
        range: impl KeyRange,
        mut told: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Compacted> {
        let span = range.span();
        let whole = span.start.is_empty() && span.end.is_none();
        let scope = if whole { Scope::Keyspace(&self.inner) } else { Scope::Span(&self.inner, &span) };
        Watch::reporting_to(&mut told).over(|watch| jobs::compact(self.engine(), scope, watch))
    }

    /// Writes a value if the key does not exist. Returns `None`, and writes nothing, if it does.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// # let users = db.keyspace("users", KeyspaceOptions::new())?;
    /// assert!(users.insert_if_absent("ann", "25")?.is_some());
    /// assert!(users.insert_if_absent("ann", "26")?.is_none());
    /// # assert_eq!(users.get("ann")?.unwrap(), b"25");
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Conflict`](Error::Conflict) after a hundred tries against other writers, and the errors of
    /// [`put`](Keyspace::put).
    #[doc(alias = "put_if_absent")]
    pub fn insert_if_absent(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Option<Receipt>> {
        self.compare_and_swap(key, None::<&[u8]>, Some(value))
    }

    /// Writes `new` (`None` deletes the key) if the current value is `expected` (`None`: the key does not exist).
    /// Returns `None`, and writes nothing, if it is something else.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// # let users = db.keyspace("users", KeyspaceOptions::new())?;
    /// assert!(users.compare_and_swap("ann", None::<&str>, Some("25"))?.is_some());
    /// assert!(users.compare_and_swap("ann", Some("24"), Some("26"))?.is_none());
    /// assert!(users.compare_and_swap("ann", Some("25"), None::<&str>)?.is_some());
    /// # assert!(users.is_empty()?);
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// See [`update`](Keyspace::update).
    #[doc(alias = "cas")]
    #[expect(clippy::needless_pass_by_value, reason = "as easy to call as `put`")]
    pub fn compare_and_swap(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<impl AsRef<[u8]>>,
        new: Option<impl AsRef<[u8]>>,
    ) -> Result<Option<Receipt>> {
        let expected = expected.as_ref().map(AsRef::as_ref);
        let new = new.as_ref().map(AsRef::as_ref);
        write::update(self.engine(), &self.inner, key.as_ref(), |old| {
            Ok(old.is(expected)?.then(|| new.map(Bytes::copy_from)))
        })
    }

    /// Reads a key and writes what the closure makes of its value (`None`: the key does not exist, or is to be
    /// deleted). The closure runs again when another writer changed the key meanwhile, up to a hundred times. It holds
    /// no lock and may call the database. With [`Append`](MergeStrategy::Append) it is given a list and returns an
    /// item.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// # let hits = db.keyspace("hits", KeyspaceOptions::new())?;
    /// let one_more = |old: Option<&[u8]>| {
    ///     let count = old.and_then(|old| Some(u64::from_le_bytes(old.try_into().ok()?))).unwrap_or(0);
    ///     Some((count + 1).to_le_bytes())
    /// };
    /// hits.update("page/1", one_more)?;
    /// hits.update("page/1", one_more)?;
    /// assert_eq!(hits.get("page/1")?.unwrap(), 2u64.to_le_bytes().as_slice());
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Conflict`](Error::Conflict) after a hundred tries; [`Invalid`](Error::Invalid) for a new value where
    /// [`FirstWins`](crate::MergeStrategy::FirstWins) keeps the first one; and the errors of [`put`](Keyspace::put).
    #[doc(alias = "read_modify_write", alias = "fetch_update")]
    pub fn update<V: AsRef<[u8]>>(
        &self,
        key: impl AsRef<[u8]>,
        mut change: impl FnMut(Option<&[u8]>) -> Option<V>,
    ) -> Result<Receipt> {
        let key = key.as_ref();
        let written = write::update(self.engine(), &self.inner, key, |old| {
            Ok(Some(change(old.value()?.as_deref()).map(|new| Bytes::copy_from(new.as_ref()))))
        })?;
        written.ok_or_else(|| Error::Conflict { key: key.to_vec() })
    }

    fn write(&self, write: Write<'_>) -> Result<Receipt> {
        write::commit_one(self.engine(), &self.inner, write)
    }

    fn now(&self) -> View {
        View::new(&self.owner, ViewCore::snapshot(self.engine()))
    }
}
