//! [`Batch`]: writes that happen together.

use std::{fmt, sync::Arc};

use super::{Keyspace, foreign};
use crate::{
    base::{KeyRange, KeySpan, Receipt, Result},
    engine::{
        Durability, Running,
        write::{self, Staged, Write},
    },
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
    owner: Arc<Running>,
    staged: Staged,
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} operation{})", self.len(), if self.len() == 1 { "" } else { "s" })
    }
}

impl Batch {
    pub(super) fn new(owner: &Arc<Running>) -> Self {
        Self { owner: Arc::clone(owner), staged: Staged::default() }
    }

    /// Sets a key; what that means where the key is there already, the merge strategy of the keyspace says.
    pub fn put(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.add(keyspace, Write::Put(key.as_ref(), value.as_ref()));
    }

    /// Adds an operand to a key: see [`Keyspace::merge`].
    pub fn merge(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>, operand: impl AsRef<[u8]>) {
        self.add(keyspace, Write::Merge(key.as_ref(), operand.as_ref()));
    }

    /// Deletes a key.
    pub fn delete(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>) {
        self.add(keyspace, Write::Delete(key.as_ref()));
    }

    /// Deletes every key of a range, as one entry.
    pub fn delete_range(&mut self, keyspace: &Keyspace, range: impl KeyRange) {
        self.add(keyspace, Write::DeleteRange(&range.span()));
    }

    /// Purges a key: see [`Keyspace::purge`].
    pub fn purge(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>) {
        self.add(keyspace, Write::Purge(key.as_ref()));
    }

    /// Purges all keys that begin with a prefix: see [`Keyspace::purge`].
    pub fn purge_prefix(&mut self, keyspace: &Keyspace, prefix: impl AsRef<[u8]>) {
        self.add(keyspace, Write::PurgeRange(&KeySpan::prefix(prefix.as_ref())));
    }

    /// How many operations it holds.
    pub fn len(&self) -> usize {
        self.staged.count()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Commits with the durability of the database.
    ///
    /// # Errors
    /// Nothing was applied with [`Invalid`](crate::Error::Invalid) (a keyspace that was dropped or belongs to another database, a key over 65,536 bytes,
    /// a batch over 64 MiB, a value that the merge strategy does not take),
    /// [`Duplicate`](crate::Error::Duplicate) (a key that is there, under [`ErrorOnDuplicate`](crate::MergeStrategy::ErrorOnDuplicate)),
    /// [`Conflict`](crate::Error::Conflict) (under that strategy or [`FirstWins`](crate::MergeStrategy::FirstWins), when others wrote the keys each of a hundred times), [`DiskFull`](crate::Error::DiskFull), [`Closed`](crate::Error::Closed), and
    /// [`Poisoned`](crate::Error::Poisoned), which an earlier failure causes, and [`Io`](crate::Error::Io), when the log could not be written. One error says the
    /// opposite: with [`NotDurable`](crate::Error::NotDurable) the batch was applied and is visible, but is not known to be on the disk; do not write
    /// it again. When the database has been opened again, it is there as a whole or not at all.
    pub fn commit(self) -> Result<Receipt> {
        write::commit(self.owner.engine(), self.staged, None)
    }

    /// Commits with a durability of its own.
    ///
    /// # Errors
    /// As [`Batch::commit`].
    pub fn commit_with(self, durability: Durability) -> Result<Receipt> {
        write::commit(self.owner.engine(), self.staged, Some(durability))
    }

    fn add(&mut self, keyspace: &Keyspace, write: Write<'_>) {
        if keyspace.belongs_to(&self.owner) {
            self.staged.add(keyspace.opened(), write);
        } else {
            self.staged.refuse(foreign(keyspace));
        }
    }
}
