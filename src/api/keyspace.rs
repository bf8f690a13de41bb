//! [`Keyspace`]: one named, ordered, independent set of keys.

use std::{fmt, ops::ControlFlow, sync::Arc, time::Duration};

use super::{Cursor, History, HistoryRange, Range, View};
use crate::{
    base::{Bytes, Error, KeyRange, KeySpan, KeyspaceId, Receipt, Result, Seqno, SeqnoRange},
    compaction::Policy,
    engine::{
        Compacted, Engine, Explain, KeyspaceSpace, Opened, Progress, Running, Watch,
        jobs::{self, Scope},
        keyspaces,
        read::{self, ViewCore},
        write::{self, Write},
    },
    merge::MergeStrategy,
};

/// A named, ordered set of keys. Cheap to clone.
///
/// Every write returns a [`Receipt`]: its place in the order of all commits, and its time.
#[derive(Clone)]
pub struct Keyspace {
    owner: Arc<Running>,
    opened: Opened,
}

impl fmt::Debug for Keyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyspace({:?})", self.name())
    }
}

impl Keyspace {
    pub(super) fn new(owner: &Arc<Running>, opened: Opened) -> Self {
        Self { owner: Arc::clone(owner), opened }
    }

    pub(super) fn id(&self) -> KeyspaceId {
        self.opened.id
    }

    pub(crate) fn opened(&self) -> &Opened {
        &self.opened
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        self.owner.engine()
    }

    pub(super) fn belongs_to(&self, owner: &Arc<Running>) -> bool {
        Arc::ptr_eq(&self.owner, owner)
    }

    /// The name it was opened with.
    pub fn name(&self) -> &str {
        &self.opened.name
    }

    /// Sets a key; what that means where the key is there already, the merge strategy says. With
    /// [`Append`](MergeStrategy::Append) the value is one item, and what a read
    /// answers is a list: put back, it would be a list of one item, that list.
    ///
    /// # Errors
    /// As [`Batch::commit`].
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Receipt> {
        self.write(Write::Put(key.as_ref(), value.as_ref()))
    }

    /// Adds an operand to a key, without reading it: what comes of it, the [`MergeStrategy`] says. With a strategy
    /// that knows no operands it is [`put`](Keyspace::put).
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
    /// As [`Batch::commit`].
    pub fn merge(&self, key: impl AsRef<[u8]>, operand: impl AsRef<[u8]>) -> Result<Receipt> {
        self.write(Write::Merge(key.as_ref(), operand.as_ref()))
    }

    /// Where a read of a key looks, and what it finds there: which memtables and segments, which slot of the index, how many blocks.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn explain(&self, key: impl AsRef<[u8]>) -> Result<Explain> {
        read::explain(self.engine(), &self.opened, key.as_ref())
    }

    /// Deletes a key. Deleting a key that is not there is no error.
    ///
    /// # Errors
    /// As [`Batch::commit`].
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<Receipt> {
        self.write(Write::Delete(key.as_ref()))
    }

    /// Deletes every key of a range, as one entry, however many they are; `delete_range(..)` empties the keyspace.
    ///
    /// # Errors
    /// As [`Batch::commit`].
    pub fn delete_range(&self, range: impl KeyRange) -> Result<Receipt> {
        self.write(Write::DeleteRange(&range.span()))
    }

    /// Deletes a key with everything it ever was: views opened from now on never see a value of it again, whatever moment they show, pinned ones included. The bytes are gone from
    /// every file of the database after the next [`Db::compact`](crate::Db::compact), which says which views opened before still hold any. A view or pin of a moment before the
    /// purge may hold the value, and holds the name: the key itself stays in the files until it is dropped or unpinned, and `compact` called again. Copies made by [`Db::checkpoint`](crate::Db::checkpoint)
    /// and equal values of other keys are not reached. What is written to the key later is not concerned.
    ///
    /// # Errors
    /// As [`Batch::commit`].
    pub fn purge(&self, key: impl AsRef<[u8]>) -> Result<Receipt> {
        self.write(Write::Purge(key.as_ref()))
    }

    /// Purges all keys that begin with a prefix: see [`purge`](Keyspace::purge).
    ///
    /// # Errors
    /// As [`Batch::commit`].
    pub fn purge_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Receipt> {
        self.write(Write::PurgeRange(&KeySpan::prefix(prefix.as_ref())))
    }

    /// The versions of a key that still exist, newest first, deletes among them. How far they reach back, the
    /// [`Policy`] says;
    /// [`History::is_complete`] tells whether any is missing.
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

    /// The versions of every key of a range that has left any, newest first for each key: also of keys that were
    /// deleted, which no range shows any more. Keys come in order.
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

    /// The versions of a key whose seqnos are in a range, newest first.
    pub fn history_between(&self, key: impl AsRef<[u8]>, range: impl SeqnoRange) -> History {
        self.now().history_between(self, key, range)
    }

    /// The oldest seqno from which on every read of every key answers exactly. Earlier ones may be refused, key by key. It only moves forward. When what the
    /// newest commit left has expired, it is the one after the newest: then only a [snapshot](crate::Db::snapshot) answers everything. Of a keyspace that was dropped it is 0.
    pub fn horizon(&self) -> Seqno {
        Seqno(read::horizon(self.engine(), self.id()))
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`Corrupt`](Error::Corrupt) and [`Io`](Error::Io) from files, [`Closed`](Error::Closed); [`Invalid`](Error::Invalid) for a sum that no `i64` holds, and
    /// whatever a custom [`Merge`](crate::Merge) answers, whose panics go on to the caller. Both name the key and the
    /// keyspace. `multi_get`
    /// fails as a whole over such a key; ranges go on behind it.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        read::get(self.engine(), &self.opened, key.as_ref())
    }

    /// Whether a key is there.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.get(key)?.is_some())
    }

    /// The values of several keys, in the order asked, all of one moment: faster than as many single reads.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn multi_get<K: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<Option<Bytes>>> {
        read::multi_get(self.engine(), &self.opened, keys)
    }

    /// The first key and its value.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn first(&self) -> Result<Option<(Bytes, Bytes)>> {
        self.range(..).next().transpose()
    }

    /// The last key and its value.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn last(&self) -> Result<Option<(Bytes, Bytes)>> {
        self.range(..).next_back().transpose()
    }

    /// The keys and values of a range, in order, all of the moment of the call.
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
    #[must_use = "iterators are lazy"]
    pub fn range(&self, range: impl KeyRange) -> Range {
        self.now().scan(self, range.span())
    }

    /// The keys and values that begin with a prefix, in order.
    #[must_use = "iterators are lazy"]
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Range {
        self.now().scan(self, KeySpan::prefix(prefix.as_ref()))
    }

    /// A cursor that lends keys and values instead of copying them: the fastest way through a range.
    #[must_use = "cursors are lazy"]
    pub fn cursor(&self, range: impl KeyRange) -> Cursor {
        Cursor::new(self.range(range))
    }

    /// Whether there is no key.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.range(..).keys().next().transpose()?.is_none())
    }

    /// An estimate of how many keys there are, which reads nothing: never less than the keys there are, so 0 only when
    /// there are none; and never more than the values and operands that
    /// memtables and segments hold, of which a key that was written many times, or deleted since, may have several
    /// until it is compacted. After
    /// [`compact`](crate::Db::compact), with no older view open, it is the number of keys, apart from those that have
    /// expired since. For the exact
    /// number: `range(..).keys().count()`.
    pub fn approximate_len(&self) -> u64 {
        keyspaces::approximate_len(self.engine(), self.id())
    }

    /// What history it keeps; of a keyspace that was dropped and forgotten the default.
    pub fn policy(&self) -> Policy {
        keyspaces::policy(self.engine(), self.id())
    }

    /// What several writes of one key mean in it.
    pub fn merge_strategy(&self) -> MergeStrategy {
        self.opened.strategy.clone()
    }

    /// How long what is written to it now lives; nothing where it does for ever.
    pub fn ttl(&self) -> Option<Duration> {
        keyspaces::ttl(self.engine(), self.id()).map(Duration::from_micros)
    }

    /// What holds its bytes. What all keyspaces share (logs, manifest, timeline) is in
    /// [`Stats::space`](crate::Stats::space).
    pub fn space(&self) -> KeyspaceSpace {
        keyspaces::space_of(self.engine(), self.id())
    }

    /// Brings everything in it that was written before the call to its final shape, as [`Db::compact`](crate::Db::compact) does for all keyspaces. The report is of this keyspace alone.
    ///
    /// # Errors
    /// As [`Db::flush`](crate::Db::flush); [`Invalid`](Error::Invalid) when it was dropped.
    pub fn compact(&self) -> Result<Compacted> {
        Watch::silent().over(|watch| jobs::compact(self.engine(), Scope::Keyspace(&self.opened), watch))
    }

    /// Brings the keys of a range to their final shape, with as little of the others as shares segments with them: after a large delete, say. What was purged goes with
    /// [`compact`](Keyspace::compact) alone.
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
    /// As [`Keyspace::compact`].
    pub fn compact_range(&self, range: impl KeyRange) -> Result<Compacted> {
        self.compact_range_with(range, |_| ControlFlow::Continue(()))
    }

    /// As [`compact_range`](Keyspace::compact_range), told how far it has come; see [`Db::compact_with`](crate::Db::compact_with). With `..` it is told of the whole keyspace.
    ///
    /// # Errors
    /// As [`Keyspace::compact`]; [`Cancelled`](Error::Cancelled).
    pub fn compact_range_with(
        &self,
        range: impl KeyRange,
        mut told: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Compacted> {
        let span = range.span();
        let whole = span.start.is_empty() && span.end.is_none();
        let scope = if whole { Scope::Keyspace(&self.opened) } else { Scope::Span(&self.opened, &span) };
        Watch::telling(&mut told).over(|watch| jobs::compact(self.engine(), scope, watch))
    }

    /// Sets a key that is not there; nothing happens, and there is no receipt, when it is.
    ///
    /// # Errors
    /// As [`Keyspace::update`].
    pub fn insert_if_absent(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Option<Receipt>> {
        self.compare_and_swap(key, None::<&[u8]>, Some(value))
    }

    /// Sets a key to `new` (deletes it for `None`) if its value is `expected` (`None`: absent). Without a receipt it was something
    /// else, and nothing happened.
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
    /// As [`Keyspace::update`].
    #[expect(clippy::needless_pass_by_value, reason = "as easy to call as `put`")]
    pub fn compare_and_swap(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<impl AsRef<[u8]>>,
        new: Option<impl AsRef<[u8]>>,
    ) -> Result<Option<Receipt>> {
        let expected = expected.as_ref().map(AsRef::as_ref);
        let new = new.as_ref().map(AsRef::as_ref);
        write::update(self.engine(), &self.opened, key.as_ref(), |old| {
            (old == expected).then(|| new.map(Bytes::copy_from))
        })
    }

    /// Sets a key to what the closure makes of its value (`None`: absent, or to be deleted). The closure runs again when
    /// somebody else wrote the key meanwhile. It holds no lock, and may call the database; with
    /// [`Append`](MergeStrategy::Append) it is given a list and answers an item.
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
    /// As [`Batch::commit`]; [`Conflict`](Error::Conflict) after a hundred tries; [`Invalid`](Error::Invalid) for a new value where
    /// [`FirstWins`](crate::MergeStrategy::FirstWins) lets the first one stay.
    pub fn update<V: AsRef<[u8]>>(
        &self,
        key: impl AsRef<[u8]>,
        mut change: impl FnMut(Option<&[u8]>) -> Option<V>,
    ) -> Result<Receipt> {
        let key = key.as_ref();
        let written = write::update(self.engine(), &self.opened, key, |old| {
            Some(change(old).map(|new| Bytes::copy_from(new.as_ref())))
        })?;
        written.ok_or_else(|| Error::Conflict { key: key.to_vec() })
    }

    fn write(&self, write: Write<'_>) -> Result<Receipt> {
        write::commit_one(self.engine(), &self.opened, write)
    }

    fn now(&self) -> View {
        View::new(&self.owner, ViewCore::snapshot(self.engine()))
    }
}
