//! [`Batch`]: writes that are applied together.

use std::{borrow::Borrow, fmt, sync::Arc};

use super::{Keyspace, StagedValue, foreign, large::foreign_value};
use crate::{
    base::{KeyRange, KeySpan, Receipt, Result},
    engine::{
        Durability, Running,
        write::{self, Staged, Write},
    },
};

/// Writes that are applied together or not at all, across keyspaces. For a key that is written several times, the last
/// operation counts.
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
///
/// A write that is refused (a key that is too long, a keyspace of another database) makes [`commit`](Batch::commit)
/// fail.
#[doc(alias = "WriteBatch", alias = "Transaction")]
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

    /// Writes a value. See [`Keyspace::put`]. Chunks of a large value are stored at once; if the batch is dropped,
    /// their space is reclaimed in the background, or by [`Db::compact`](crate::Db::compact).
    pub fn put(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.add(keyspace, Write::Put(key.as_ref(), value.as_ref()));
    }

    /// Records an operand. See [`Keyspace::merge`].
    pub fn merge(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>, operand: impl AsRef<[u8]>) {
        self.add(keyspace, Write::Merge(key.as_ref(), operand.as_ref()));
    }

    /// Deletes a key.
    pub fn delete(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>) {
        self.add(keyspace, Write::Delete(key.as_ref()));
    }

    /// Deletes every key in a range with a single entry.
    pub fn delete_range(&mut self, keyspace: &Keyspace, range: impl KeyRange) {
        self.add(keyspace, Write::DeleteRange(&range.span()));
    }

    /// Deletes a key together with its past. See [`Keyspace::purge`].
    pub fn purge(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>) {
        self.add(keyspace, Write::Purge(key.as_ref()));
    }

    /// Purges every key that begins with a prefix. See [`Keyspace::purge`].
    pub fn purge_prefix(&mut self, keyspace: &Keyspace, prefix: impl AsRef<[u8]>) {
        self.add(keyspace, Write::PurgeRange(&KeySpan::prefix(prefix.as_ref())));
    }

    /// Gives a key the value that a [`ValueWriter`](crate::ValueWriter) has stored: the value becomes visible together
    /// with the other writes of the batch. A value may be given to several keys. `commit` refuses a large value in a
    /// keyspace of another dedup scope than it was written for.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # use std::io::Write;
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// # let models = db.keyspace("models", KeyspaceOptions::new())?;
    /// # let catalogue = db.keyspace("catalogue", KeyspaceOptions::new())?;
    /// let mut writer = models.writer("model.bin")?;
    /// writer.write_all(&[7; 100_000])?;
    /// let staged = writer.stage()?;
    /// let mut batch = db.batch();
    /// batch.adopt(&models, "model.bin", &staged);
    /// batch.put(&catalogue, "newest", "model.bin");
    /// batch.commit()?;
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn adopt(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>, staged: impl Borrow<StagedValue>) {
        let staged = staged.borrow();
        if !keyspace.belongs_to(&self.owner) {
            self.staged.refuse(foreign(keyspace));
        } else if staged.belongs_to(&self.owner) {
            self.staged.adopt(keyspace.keyspace_ref(), key.as_ref(), staged.staged());
        } else {
            self.staged.refuse(foreign_value());
        }
    }

    /// Returns the number of operations.
    pub fn len(&self) -> usize {
        self.staged.count()
    }

    /// Returns whether there are no operations.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Commits with the durability of the database.
    ///
    /// # Errors
    /// With every error but the last, nothing was applied:
    /// * [`Invalid`](crate::Error::Invalid): a keyspace that was dropped or belongs to another database, a key over
    ///   65,536 bytes, a batch over 64 MiB, a value the merge strategy does not take.
    /// * [`Duplicate`](crate::Error::Duplicate): a key that exists, under
    ///   [`ErrorOnDuplicate`](crate::MergeStrategy::ErrorOnDuplicate).
    /// * [`Conflict`](crate::Error::Conflict): under that strategy or [`FirstWins`](crate::MergeStrategy::FirstWins),
    ///   other writers changed the keys during each of a hundred tries.
    /// * [`DiskFull`](crate::Error::DiskFull) and [`Io`](crate::Error::Io): the log could not be written.
    ///   [`Poisoned`](crate::Error::Poisoned): an earlier failure has stopped writes. [`Closed`](crate::Error::Closed).
    /// * [`NotDurable`](crate::Error::NotDurable): the batch **was** applied and is visible, but is not known to be on
    ///   the disk. Do not write it again. When the database is opened again, the batch is there as a whole or not at
    ///   all.
    pub fn commit(self) -> Result<Receipt> {
        write::commit(self.owner.engine(), self.staged, None)
    }

    /// Commits with a durability of its own.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid), [`DiskFull`](crate::Error::DiskFull), [`Poisoned`](crate::Error::Poisoned)
    /// and others: see [`commit`](Batch::commit).
    pub fn commit_with(self, durability: Durability) -> Result<Receipt> {
        write::commit(self.owner.engine(), self.staged, Some(durability))
    }

    fn add(&mut self, keyspace: &Keyspace, write: Write<'_>) {
        if keyspace.belongs_to(&self.owner) {
            self.staged.add(self.owner.engine(), keyspace.keyspace_ref(), write);
        } else {
            self.staged.refuse(foreign(keyspace));
        }
    }
}
