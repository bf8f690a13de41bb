//! [`View`]: the whole database at one moment.

use std::{fmt, sync::Arc};

use super::{Cursor, Keyspace, Range, db::Owner, foreign};
use crate::{
    base::{Bytes, KeyRange, KeySpan, Result, Seqno},
    engine::ViewCore,
};

/// The whole database as it was at one moment. Cheap to clone; while a view lives, what it sees is kept.
///
/// Reads answer exactly as of that moment, or with [`HistoryTrimmed`](crate::Error::HistoryTrimmed) where the history was already
/// gone when the view was opened; never with something else.
#[derive(Clone)]
pub struct View {
    owner: Arc<Owner>,
    core: Arc<ViewCore>,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "View({})", self.seqno())
    }
}

impl View {
    pub(super) fn new(owner: &Arc<Owner>, core: Arc<ViewCore>) -> Self {
        Self { owner: Arc::clone(owner), core }
    }

    pub(super) fn core(&self) -> &Arc<ViewCore> {
        &self.core
    }

    /// The moment: the newest commit that this view sees.
    pub fn seqno(&self) -> Seqno {
        Seqno(self.core.seqno())
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
