//! [`Batch`]: writes that happen together.

use std::{fmt, sync::Arc};

use super::{Keyspace, check_batch_len, check_key, commit, db::Owner, foreign, refused};
use crate::{
    base::{Error, KeyRange, KeySpan, Kind, Receipt, Result},
    engine::{Durability, Opened},
    wal::BatchBuf,
};

/// Writes that happen together or not at all, across keyspaces. The last word on a key counts.
///
/// ```
/// # use chronolith::{env::Memory, KeyspaceOptions, Options};
/// # let db = Options::new().env(Memory::new()).open("my.db")?;
/// # let users = db.keyspace("users", KeyspaceOptions::new())?;
/// let mut batch = db.batch();
/// batch.put(&users, "ann", "25");
/// batch.delete(&users, "bob");
/// let receipt = batch.commit()?;
/// assert_eq!(db.as_of(receipt.seqno)?.get(&users, "ann")?.unwrap(), b"25");
/// # Ok::<_, chronolith::Error>(())
/// ```
#[must_use = "a batch does nothing until `commit`"]
pub struct Batch {
    owner: Arc<Owner>,
    buf: BatchBuf,
    keyspaces: Vec<Opened>,
    /// The first thing that was wrong: told at the commit.
    wrong: Option<Error>,
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} operation{})", self.len(), if self.len() == 1 { "" } else { "s" })
    }
}

impl Batch {
    pub(super) fn new(owner: &Arc<Owner>) -> Self {
        Self { owner: Arc::clone(owner), buf: BatchBuf::default(), keyspaces: Vec::new(), wrong: None }
    }

    /// Sets a key; what that means where the key is there already, the merge strategy of the keyspace says.
    pub fn put(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.push_value(Kind::Put, keyspace, key.as_ref(), value.as_ref());
    }

    /// Adds an operand to a key: see [`Keyspace::merge`].
    pub fn merge(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>, operand: impl AsRef<[u8]>) {
        self.push_value(keyspace.opened().strategy.operand_kind(), keyspace, key.as_ref(), operand.as_ref());
    }

    /// Deletes a key.
    pub fn delete(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>) {
        self.push(Kind::Delete, keyspace, key.as_ref(), &[]);
    }

    /// Deletes every key of a range, as one entry.
    pub fn delete_range(&mut self, keyspace: &Keyspace, range: impl KeyRange) {
        self.push_range(Kind::RangeDelete, keyspace, &range.span());
    }

    /// Purges a key: see [`Keyspace::purge`].
    pub fn purge(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>) {
        self.push(Kind::Purge, keyspace, key.as_ref(), &[]);
    }

    /// Purges all keys that begin with a prefix: see [`Keyspace::purge`].
    pub fn purge_prefix(&mut self, keyspace: &Keyspace, prefix: impl AsRef<[u8]>) {
        self.push_range(Kind::RangePurge, keyspace, &KeySpan::prefix(prefix.as_ref()));
    }

    fn push_range(&mut self, kind: Kind, keyspace: &Keyspace, span: &KeySpan) {
        // An inclusive end is one byte longer than its key.
        let end = span.end.as_deref().map(|end| end.strip_suffix(&[0]).unwrap_or(end));
        let checked = |key: &[u8]| check_key(key).map_err(|error| refused(keyspace, key, error));
        let checked = checked(&span.start).and_then(|()| checked(end.unwrap_or_default()));
        if self.accept(keyspace, checked, span.start.len() + span.end.as_ref().map_or(0, Vec::len)) && !span.is_empty()
        {
            self.buf.push_range(kind, keyspace.id(), &span.start, span.end.as_deref());
        }
    }

    /// How many operations it holds.
    pub fn len(&self) -> usize {
        self.buf.count() as usize
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Commits with the durability of the database.
    ///
    /// # Errors
    /// Nothing was applied with [`Invalid`](Error::Invalid) (a keyspace that was dropped or belongs to another database, a key over 65,536 bytes,
    /// a batch over 64 MiB, a value that the merge strategy does not take),
    /// [`Duplicate`](Error::Duplicate) (a key that is there, under [`ErrorOnDuplicate`](crate::MergeStrategy::ErrorOnDuplicate)),
    /// [`Conflict`](Error::Conflict) (under that strategy or [`FirstWins`](crate::MergeStrategy::FirstWins), when others wrote the keys each of a hundred times), [`DiskFull`](Error::DiskFull), [`Closed`](Error::Closed), and
    /// [`Poisoned`](Error::Poisoned), which an earlier failure causes, and [`Io`](Error::Io), when the log could not be written. One error says the
    /// opposite: with [`NotDurable`](Error::NotDurable) the batch was applied and is visible, but is not known to be on the disk; do not write
    /// it again. When the database has been opened again, it is there as a whole or not at all.
    pub fn commit(self) -> Result<Receipt> {
        self.commit_as(None)
    }

    /// Commits with a durability of its own.
    ///
    /// # Errors
    /// As [`Batch::commit`].
    pub fn commit_with(self, durability: Durability) -> Result<Receipt> {
        self.commit_as(Some(durability))
    }

    fn commit_as(self, durability: Option<Durability>) -> Result<Receipt> {
        let Self { owner, buf, keyspaces, wrong } = self;
        match wrong {
            Some(error) => Err(error),
            None => commit(&owner.engine, buf, &keyspaces, durability, &[]),
        }
    }

    fn push_value(&mut self, kind: Kind, keyspace: &Keyspace, key: &[u8], value: &[u8]) {
        match keyspace.opened().strategy.stored(value) {
            Ok(stored) => self.push(kind, keyspace, key, &stored),
            Err(error) => drop(self.wrong.get_or_insert_with(|| refused(keyspace, key, error))),
        }
    }

    fn push(&mut self, kind: Kind, keyspace: &Keyspace, key: &[u8], value: &[u8]) {
        let checked = check_key(key).map_err(|error| refused(keyspace, key, error));
        if self.accept(keyspace, checked, key.len() + value.len()) {
            self.buf.push(kind, keyspace.id(), key, value);
        }
    }

    /// Whether an operation may join; if not, the reason is kept for the commit.
    fn accept(&mut self, keyspace: &Keyspace, checked: Result<()>, bytes: usize) -> bool {
        let checked = checked.and_then(|()| {
            if !keyspace.belongs_to(&self.owner) {
                return Err(foreign(keyspace));
            }
            check_batch_len(self.buf.len().saturating_add(bytes))
        });
        if let Err(error) = checked {
            self.wrong.get_or_insert(error);
        } else if !self.keyspaces.iter().any(|opened| opened.id == keyspace.id()) {
            self.keyspaces.push(keyspace.opened().clone());
        }
        self.wrong.is_none()
    }
}
