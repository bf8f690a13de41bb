//! [`View`]: the whole database at one moment.

use std::{fmt, ops::ControlFlow, path::Path, sync::Arc, time::SystemTime};

use super::{Cursor, History, HistoryRange, Keyspace, Range, foreign};
use crate::{
    base::{Bytes, Error, KeyRange, KeySpan, Result, Seqno, SeqnoRange, from_us},
    engine::{
        Progress, Running, Watch, checkpoint,
        read::{self, ViewCore},
    },
};

/// The whole database as it was at one moment. Cheap to clone; while a view lives, what it sees is kept.
///
/// Reads answer exactly as of that moment, or with [`HistoryTrimmed`](crate::Error::HistoryTrimmed) where the history was already
/// gone when the view was opened; never with something else.
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

    /// The moment: the newest commit that this view sees.
    pub fn seqno(&self) -> Seqno {
        Seqno(self.core.seqno())
    }

    /// When that was: of a snapshot when it was taken, of a view as of a seqno when that was committed, of one as of a time that time.
    pub fn time(&self) -> SystemTime {
        from_us(self.core.time())
    }

    /// The keyspace that had this name then. One that has been dropped since can be read through views that were opened before it was, and through pinned ones; its own
    /// verbs fail, and so do writes to it.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) when there was none, or when it combines values by a custom strategy that this process has not been given.
    pub fn keyspace(&self, name: impl AsRef<str>) -> Result<Keyspace> {
        let name = name.as_ref();
        self.core.engine().check_open()?;
        let found = self
            .core
            .keyspace(name)
            .ok_or_else(|| Error::invalid(format!("there was no keyspace \"{name}\" at seqno {}", self.seqno())))?;
        let opened = self.core.opened(found)?;
        Ok(Keyspace::new(&self.owner, opened))
    }

    /// The names of the keyspaces that there were, sorted.
    pub fn keyspaces(&self) -> Vec<String> {
        // Of a database that was closed there are none.
        let keyspaces = self.core.keyspaces().unwrap_or_default();
        let mut names: Vec<String> = keyspaces.iter().map(|keyspace| keyspace.name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// The versions of a key up to this moment, newest first: see [`Keyspace::history`].
    pub fn history(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> History {
        self.history_between(keyspace, key, ..)
    }

    /// The versions up to this moment of every key of a range: see [`Keyspace::history_range`].
    pub fn history_range(&self, keyspace: &Keyspace, range: impl KeyRange) -> HistoryRange {
        let walk = self
            .check(keyspace)
            .and_then(|()| read::history_range(&self.core, keyspace.opened(), range.span(), (0, u64::MAX)));
        HistoryRange::new(walk)
    }

    /// The versions of a key up to this moment whose seqnos are in a range, newest first.
    #[expect(clippy::needless_pass_by_value, reason = "ranges are written for the call")]
    pub fn history_between(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>, range: impl SeqnoRange) -> History {
        let (from, to) = range.ends();
        let walk = self
            .check(keyspace)
            .and_then(|()| read::history(&self.core, keyspace.opened(), key.as_ref(), (from.unwrap_or(0), to)));
        History::new(walk)
    }

    /// Writes what this view sees to a new directory, as a database of its own: the newest versions at this moment, with their seqnos, and nothing of what was before them. Pins are not
    /// taken along. The options of a keyspace are those of the moment, where this view was opened then or shows a pin, and else those of now.
    ///
    /// # Errors
    /// As [`Db::checkpoint`](crate::Db::checkpoint), and [`HistoryTrimmed`](Error::HistoryTrimmed) when something of the moment has gone.
    pub fn checkpoint(&self, path: impl AsRef<Path>) -> Result<()> {
        self.checkpoint_with(path, |_| ControlFlow::Continue(()))
    }

    /// As [`checkpoint`](View::checkpoint), told about how far it has come; see [`Db::compact_with`](crate::Db::compact_with). A copy that was broken off leaves nothing in the directory.
    ///
    /// # Errors
    /// As [`View::checkpoint`]; [`Cancelled`](Error::Cancelled).
    pub fn checkpoint_with(
        &self,
        path: impl AsRef<Path>,
        mut told: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<()> {
        Watch::telling(&mut told).over(|watch| checkpoint::checkpoint_view(&self.core, path.as_ref(), watch))
    }

    /// The value that a key had.
    ///
    /// # Errors
    /// [`HistoryTrimmed`](crate::Error::HistoryTrimmed); [`Invalid`](crate::Error::Invalid) for a keyspace of another database or one that was
    /// dropped before the view was opened; [`Corrupt`](crate::Error::Corrupt), [`Io`](crate::Error::Io), [`Closed`](crate::Error::Closed).
    pub fn get(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        self.check(keyspace)?;
        self.core.get(keyspace.opened(), key.as_ref())
    }

    /// Whether a key was there.
    ///
    /// # Errors
    /// As [`View::get`].
    pub fn contains(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.get(keyspace, key)?.is_some())
    }

    /// The values that several keys had, in the order asked: faster than as many single reads.
    ///
    /// # Errors
    /// As [`View::get`].
    pub fn multi_get<K: AsRef<[u8]>>(
        &self,
        keyspace: &Keyspace,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Bytes>>> {
        self.check(keyspace)?;
        self.core.multi_get(keyspace.opened(), keys)
    }

    /// Whether there was no key.
    ///
    /// # Errors
    /// As [`View::get`].
    pub fn is_empty(&self, keyspace: &Keyspace) -> Result<bool> {
        Ok(self.range(keyspace, ..).keys().next().transpose()?.is_none())
    }

    /// The first key and its value.
    ///
    /// # Errors
    /// As [`View::get`].
    pub fn first(&self, keyspace: &Keyspace) -> Result<Option<(Bytes, Bytes)>> {
        self.range(keyspace, ..).next().transpose()
    }

    /// The last key and its value.
    ///
    /// # Errors
    /// As [`View::get`].
    pub fn last(&self, keyspace: &Keyspace) -> Result<Option<(Bytes, Bytes)>> {
        self.range(keyspace, ..).next_back().transpose()
    }

    /// The keys and values that a range had, in order.
    #[must_use = "iterators are lazy"]
    pub fn range(&self, keyspace: &Keyspace, range: impl KeyRange) -> Range {
        self.scan(keyspace, range.span())
    }

    /// The keys and values that began with a prefix, in order.
    #[must_use = "iterators are lazy"]
    pub fn prefix(&self, keyspace: &Keyspace, prefix: impl AsRef<[u8]>) -> Range {
        self.scan(keyspace, KeySpan::prefix(prefix.as_ref()))
    }

    /// A cursor over a range, which lends keys and values instead of copying them.
    #[must_use = "cursors are lazy"]
    pub fn cursor(&self, keyspace: &Keyspace, range: impl KeyRange) -> Cursor {
        Cursor::new(self.range(keyspace, range))
    }

    pub(super) fn scan(&self, keyspace: &Keyspace, span: KeySpan) -> Range {
        let wrong = self.check(keyspace).err();
        Range::new(self.clone(), keyspace.opened().clone(), span, wrong)
    }

    fn check(&self, keyspace: &Keyspace) -> Result<()> {
        if keyspace.belongs_to(&self.owner) {
            return Ok(());
        }
        Err(foreign(keyspace))
    }
}
