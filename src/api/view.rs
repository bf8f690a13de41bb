//! [`View`]: the whole database at one moment.

use std::{fmt, ops::ControlFlow, path::Path, sync::Arc, time::SystemTime};

use super::{Cursor, History, HistoryRange, Keyspace, Range, ValueReader, foreign};
use crate::{
    base::{Bytes, Error, KeyRange, KeySpan, Result, Seqno, SeqnoRange},
    engine::{
        Progress, Recipe, Running, Stat, Watch, checkpoint,
        read::{self, ViewCore},
    },
};

/// The whole database as it was at one moment: a snapshot, a moment of the past, or a pin. Cheap to clone. While a view
/// lives, what it shows is kept.
///
/// A read is exact as of that moment, or fails with [`HistoryTrimmed`](crate::Error::HistoryTrimmed) where that history
/// had been dropped before the view was opened. It never answers anything else.
///
/// ```
/// # use chronolith::{env::Memory, KeyspaceOptions, Options};
/// # let db = Options::new().env(Memory::new()).open("my.db")?;
/// # let users = db.keyspace("users", KeyspaceOptions::new())?;
/// users.put("ann", "25")?;
/// let view = db.snapshot();
/// users.put("ann", "26")?;
/// assert_eq!(view.get(&users, "ann")?.unwrap(), b"25");
/// assert_eq!(view.range(&users, ..).count(), 1);
/// # Ok::<_, chronolith::Error>(())
/// ```
#[derive(Clone)]
pub struct View {
    owner: Arc<Running>,
    core: Arc<ViewCore>,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "View({})", self.seqno())
    }
}

impl View {
    pub(super) fn new(owner: &Arc<Running>, core: Arc<ViewCore>) -> Self {
        Self { owner: Arc::clone(owner), core }
    }

    pub(super) fn core(&self) -> &Arc<ViewCore> {
        &self.core
    }

    /// Returns the newest commit that this view shows.
    pub fn seqno(&self) -> Seqno {
        self.core.seqno()
    }

    /// Returns the moment this view shows: when the snapshot was taken, when the seqno was committed, or the time that
    /// was asked for.
    pub fn time(&self) -> SystemTime {
        self.core.time().to_time()
    }

    /// Opens the keyspace that had this name at the view's moment. One that has been dropped since can be read through
    /// views that were opened before, and through pins; its own verbs, and writes to it, fail.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) when there was none, or when it has a custom merge strategy that this process has
    /// not been given.
    pub fn keyspace(&self, name: impl AsRef<str>) -> Result<Keyspace> {
        let name = name.as_ref();
        self.core.engine().check_open()?;
        let found = self
            .core
            .keyspace(name)
            .ok_or_else(|| Error::invalid(format!("there was no keyspace \"{name}\" at seqno {}", self.seqno())))?;
        Ok(Keyspace::new(&self.owner, self.core.keyspace_ref(found)?))
    }

    /// Returns the names of the keyspaces that existed, sorted. Empty once the database is closed.
    pub fn keyspaces(&self) -> Vec<String> {
        let keyspaces = self.core.keyspaces().unwrap_or_default();
        let mut names: Vec<String> = keyspaces.iter().map(|keyspace| keyspace.name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// Iterates over the versions of a key up to this moment, newest first. See [`Keyspace::history`].
    pub fn history(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> History {
        self.history_between(keyspace, key, ..)
    }

    /// Iterates over the versions, up to this moment, of every key in a range. See [`Keyspace::history_range`].
    pub fn history_range(&self, keyspace: &Keyspace, range: impl KeyRange) -> HistoryRange {
        let walk = self.check(keyspace).and_then(|()| {
            read::history_range(&self.core, keyspace.keyspace_ref(), range.span(), Seqno(0)..Seqno::MAX)
        });
        HistoryRange::new(walk)
    }

    /// Iterates over the versions of a key up to this moment whose seqnos lie in a range, newest first.
    #[expect(clippy::needless_pass_by_value, reason = "ranges are written for the call")]
    pub fn history_between(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>, range: impl SeqnoRange) -> History {
        let (from, to) = range.ends();
        let walk = self.check(keyspace).and_then(|()| {
            read::history(&self.core, keyspace.keyspace_ref(), key.as_ref(), from.unwrap_or(Seqno(0))..to)
        });
        History::new(walk)
    }

    /// Copies what this view shows to a new directory, as a database of its own: the newest version of each key at this
    /// moment, with its seqno, and none of the past before it. Keyspaces have the options of the moment if the view was
    /// opened then or shows a pin, otherwise the current ones.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid), [`DiskFull`](Error::DiskFull), [`Io`](Error::Io): see
    /// [`Db::checkpoint`](crate::Db::checkpoint); [`HistoryTrimmed`](Error::HistoryTrimmed) when some of the moment
    /// has been dropped.
    pub fn checkpoint(&self, path: impl AsRef<Path>) -> Result<()> {
        self.checkpoint_with(path, |_| ControlFlow::Continue(()))
    }

    /// Copies as [`checkpoint`](View::checkpoint) does, and reports progress; see
    /// [`Db::compact_with`](crate::Db::compact_with). A copy that is cancelled leaves nothing in the directory.
    ///
    /// # Errors
    /// [`Cancelled`](Error::Cancelled), and the errors of [`checkpoint`](View::checkpoint).
    pub fn checkpoint_with(
        &self,
        path: impl AsRef<Path>,
        mut told: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<()> {
        Watch::reporting_to(&mut told).over(|watch| checkpoint::checkpoint_view(&self.core, path.as_ref(), watch))
    }

    /// Reads the value a key had.
    ///
    /// # Errors
    /// [`HistoryTrimmed`](crate::Error::HistoryTrimmed) where that history has been dropped;
    /// [`Invalid`](crate::Error::Invalid) for a keyspace of another database, or one that was dropped before the view
    /// was opened; [`Corrupt`](crate::Error::Corrupt) or [`Io`](crate::Error::Io) from files;
    /// [`Closed`](crate::Error::Closed).
    pub fn get(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        self.check(keyspace)?;
        self.core.get(keyspace.keyspace_ref(), key.as_ref())
    }

    /// Reads the value that a key had as a stream; `None` if it did not exist. See [`Keyspace::reader`].
    ///
    /// # Errors
    /// [`HistoryTrimmed`](Error::HistoryTrimmed), [`Corrupt`](Error::Corrupt), [`Io`](Error::Io) and others: see
    /// [`get`](View::get).
    pub fn reader(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<ValueReader>> {
        self.check(keyspace)?;
        let (keyspace, key) = (keyspace.keyspace_ref(), key.as_ref());
        let Some(stored) = self.core.get_with_chunks(keyspace, key)? else { return Ok(None) };
        let reading = read::ValueReader::new(self.core.engine(), keyspace, key, stored)?;
        Ok(Some(ValueReader::new(&self.owner, reading)))
    }

    /// Reads a part of the value that a key had; `None` if it did not exist. See [`Keyspace::read_at`].
    ///
    /// # Errors
    /// [`HistoryTrimmed`](Error::HistoryTrimmed), [`Corrupt`](Error::Corrupt), [`Io`](Error::Io) and others: see
    /// [`get`](View::get).
    pub fn read_at(
        &self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        offset: u64,
        len: usize,
    ) -> Result<Option<Bytes>> {
        self.check(keyspace)?;
        let (keyspace, key) = (keyspace.keyspace_ref(), key.as_ref());
        let stored = self.core.get_with_chunks(keyspace, key)?;
        stored.map(|stored| read::read_at(keyspace, key, stored, offset, len)).transpose()
    }

    /// Describes the value that a key had; `None` if it did not exist. See [`Keyspace::stat`].
    ///
    /// # Errors
    /// [`HistoryTrimmed`](Error::HistoryTrimmed), [`Corrupt`](Error::Corrupt), [`Io`](Error::Io) and others: see
    /// [`get`](View::get).
    pub fn stat(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Stat>> {
        self.check(keyspace)?;
        let (keyspace, key) = (keyspace.keyspace_ref(), key.as_ref());
        let stored = self.core.get_with_chunks(keyspace, key)?;
        stored.map(|(stored, chunks)| read::stat(keyspace, key, &stored, &chunks)).transpose()
    }

    /// Returns the recipe of the large value that a key had; `None` if it did not exist, or its value is stored inline.
    /// With [`Keyspace::adopt`] an old value becomes the present one without a byte of it being read or written.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// # let models = db.keyspace("models", KeyspaceOptions::new())?;
    /// models.put("model.bin", vec![7; 100_000])?;
    /// let before = db.snapshot();
    /// models.put("model.bin", "a mistake")?;
    /// models.adopt("model.bin", &before.recipe(&models, "model.bin")?.unwrap())?;
    /// assert_eq!(models.get("model.bin")?.unwrap(), [7; 100_000].as_slice());
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`HistoryTrimmed`](Error::HistoryTrimmed), [`Corrupt`](Error::Corrupt), [`Io`](Error::Io) and others: see
    /// [`get`](View::get).
    pub fn recipe(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Recipe>> {
        self.check(keyspace)?;
        let (keyspace, key) = (keyspace.keyspace_ref(), key.as_ref());
        let stored = self.core.get_with_chunks(keyspace, key)?;
        stored.map_or(Ok(None), |(stored, _)| read::recipe(keyspace, key, &stored))
    }

    /// Returns whether a key existed.
    ///
    /// # Errors
    /// [`Corrupt`](Error::Corrupt), [`Io`](Error::Io), [`Closed`](Error::Closed) and others: see
    /// [`get`](View::get).
    pub fn contains(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<bool> {
        self.check(keyspace)?;
        self.core.contains(keyspace.keyspace_ref(), key.as_ref())
    }

    /// Reads the values that several keys had, in the order given. Faster than as many single reads.
    ///
    /// # Errors
    /// [`Corrupt`](Error::Corrupt), [`Io`](Error::Io), [`Closed`](Error::Closed) and others: see
    /// [`get`](View::get).
    pub fn multi_get<K: AsRef<[u8]>>(
        &self,
        keyspace: &Keyspace,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Bytes>>> {
        self.check(keyspace)?;
        self.core.multi_get(keyspace.keyspace_ref(), keys)
    }

    /// Returns whether there was no key.
    ///
    /// # Errors
    /// [`Corrupt`](Error::Corrupt), [`Io`](Error::Io), [`Closed`](Error::Closed) and others: see
    /// [`get`](View::get).
    pub fn is_empty(&self, keyspace: &Keyspace) -> Result<bool> {
        Ok(self.range(keyspace, ..).keys().next().transpose()?.is_none())
    }

    /// Reads the first key and its value.
    ///
    /// # Errors
    /// [`Corrupt`](Error::Corrupt), [`Io`](Error::Io), [`Closed`](Error::Closed) and others: see
    /// [`get`](View::get).
    pub fn first(&self, keyspace: &Keyspace) -> Result<Option<(Bytes, Bytes)>> {
        self.range(keyspace, ..).next().transpose()
    }

    /// Reads the last key and its value.
    ///
    /// # Errors
    /// [`Corrupt`](Error::Corrupt), [`Io`](Error::Io), [`Closed`](Error::Closed) and others: see
    /// [`get`](View::get).
    pub fn last(&self, keyspace: &Keyspace) -> Result<Option<(Bytes, Bytes)>> {
        self.range(keyspace, ..).next_back().transpose()
    }

    /// Iterates over the keys and values that a range had, in order. See [`Keyspace::range`].
    #[must_use = "iterators are lazy"]
    pub fn range(&self, keyspace: &Keyspace, range: impl KeyRange) -> Range {
        self.scan(keyspace, range.span())
    }

    /// Iterates over the keys and values whose keys began with a prefix, in order.
    #[must_use = "iterators are lazy"]
    pub fn prefix(&self, keyspace: &Keyspace, prefix: impl AsRef<[u8]>) -> Range {
        self.scan(keyspace, KeySpan::prefix(prefix.as_ref()))
    }

    /// Opens a cursor over a range; it lends keys and values instead of copying them. See [`Cursor`].
    #[must_use = "cursors are lazy"]
    pub fn cursor(&self, keyspace: &Keyspace, range: impl KeyRange) -> Cursor {
        Cursor::new(self.range(keyspace, range))
    }

    pub(super) fn scan(&self, keyspace: &Keyspace, span: KeySpan) -> Range {
        let wrong = self.check(keyspace).err();
        Range::new(self.clone(), keyspace.keyspace_ref().clone(), span, wrong)
    }

    fn check(&self, keyspace: &Keyspace) -> Result<()> {
        if keyspace.belongs_to(&self.owner) {
            return Ok(());
        }
        Err(foreign(keyspace))
    }
}
