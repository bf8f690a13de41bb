//! [`Db`]: open, keyspaces, batches, views, care.

use std::{fmt, path::Path, sync::Arc, thread::JoinHandle};

use parking_lot::Mutex;

use super::{Batch, Keyspace, View};
use crate::{
    base::{Result, Seqno},
    engine::{Compacted, Engine, KeyspaceOptions, Opened, Options, Report, Stats, ViewCore, start_threads},
};

/// An open database. Cheap to clone: clones, keyspaces, views and iterators share it, and it is closed when the last of them goes. Call
/// [`close`](Db::close) to learn of errors and to free the lock whoever still holds a handle.
///
/// ```no_run
/// use chronolith::{Db, KeyspaceOptions};
/// let db = Db::open("my.db")?;
/// let users = db.keyspace("users", KeyspaceOptions::new())?;
/// users.put("ann", "25")?;
/// # Ok::<_, chronolith::Error>(())
/// ```
#[derive(Clone)]
pub struct Db {
    owner: Arc<Owner>,
}

/// Ends the threads and closes the engine when the last handle goes.
pub(super) struct Owner {
    pub(super) engine: Arc<Engine>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Db({:?}, seqno {})", self.engine().path(), self.seqno())
    }
}

impl Owner {
    fn close(&self) -> Result<()> {
        // Held to the end: of two who close, the second waits until the first is done.
        let mut threads = self.threads.lock();
        if self.engine.check_open().is_err() {
            return Ok(());
        }
        self.engine.stop_work();
        for thread in threads.drain(..) {
            // A thread that panicked has already said so; closing goes on without it.
            let _ended = thread.join();
        }
        self.engine.close()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Best effort: whoever wants to know calls `close`.
        let _closed = self.close();
    }
}

impl Db {
    /// Opens the database in the directory `path` with the default [`Options`], creating it if need be; it recovers by itself
    /// after a crash.
    ///
    /// # Errors
    /// As [`Options::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Options::new().open(path)
    }

    pub(crate) fn open_with(options: &Options, path: &Path) -> Result<Self> {
        let engine = Arc::new(Engine::open(options, path)?);
        let threads = start_threads(&engine).inspect_err(|_| engine.stop_work())?;
        Ok(Self { owner: Arc::new(Owner { engine, threads: Mutex::new(threads) }) })
    }

    fn engine(&self) -> &Arc<Engine> {
        &self.owner.engine
    }

    /// The keyspace of this name, created if need be. Options that are not set mean "as stored".
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) for a name that is empty or longer than 255 bytes, for another merge strategy than the one that the
    /// keyspace was created with, and for none where that is a custom one.
    #[expect(clippy::needless_pass_by_value, reason = "options are built for the call")]
    pub fn keyspace(&self, name: impl AsRef<str>, options: KeyspaceOptions) -> Result<Keyspace> {
        let (keyspace, strategy) = self.engine().keyspace(name.as_ref(), &options)?;
        Ok(Keyspace::new(&self.owner, Opened { id: keyspace.id, strategy }, &keyspace.name))
    }

    /// The names of all keyspaces, sorted.
    pub fn keyspaces(&self) -> Vec<String> {
        self.engine().keyspace_names()
    }

    /// Drops a keyspace with everything in it. Views opened before go on reading it; later writes to it fail; the name is free
    /// at once.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when there is no such keyspace.
    pub fn drop_keyspace(&self, name: impl AsRef<str>) -> Result<()> {
        self.engine().drop_keyspace(name.as_ref())
    }

    /// A batch of writes that happen together or not at all.
    #[must_use = "a batch does nothing until `commit`"]
    pub fn batch(&self) -> Batch {
        Batch::new(&self.owner)
    }

    /// A view of the present: it goes on showing this moment, whatever is written later.
    #[must_use]
    pub fn snapshot(&self) -> View {
        View::new(&self.owner, ViewCore::snapshot(self.engine()))
    }

    /// A view of the database just after the commit `seqno`; 0 is the empty database.
    ///
    /// Reads answer exactly, or say [`HistoryTrimmed`](crate::Error::HistoryTrimmed) where the policy of the keyspace has let
    /// that past go.
    ///
    /// # Errors
    /// [`InTheFuture`](crate::Error::InTheFuture) for a seqno that has not been committed.
    pub fn as_of(&self, seqno: impl Into<Seqno>) -> Result<View> {
        Ok(View::new(&self.owner, ViewCore::as_of(self.engine(), seqno.into().0)?))
    }

    /// The newest commit.
    pub fn seqno(&self) -> Seqno {
        Seqno(self.engine().visible())
    }

    /// Waits until every write so far is on the disk.
    ///
    /// # Errors
    /// [`Poisoned`](crate::Error::Poisoned) after a sync has failed.
    pub fn persist(&self) -> Result<()> {
        self.engine().persist()
    }

    /// Moves everything in memory to segments.
    ///
    /// # Errors
    /// [`DiskFull`](crate::Error::DiskFull) and [`Io`](crate::Error::Io): nothing is lost, and it is tried again.
    pub fn flush(&self) -> Result<()> {
        self.engine().flush()
    }

    /// Brings everything written before the call to its final shape: one sorted level, with nothing left that may go.
    ///
    /// # Errors
    /// As [`Db::flush`].
    pub fn compact(&self) -> Result<Compacted> {
        self.engine().compact()
    }

    /// Numbers: what was done, what is held in memory, what holds every byte of the directory.
    pub fn stats(&self) -> Stats {
        self.engine().stats()
    }

    /// Reads every byte and checks every checksum and reference. Damage is a finding of the report, not an error.
    ///
    /// # Errors
    /// [`Closed`](crate::Error::Closed) when the database is closed meanwhile.
    pub fn verify(&self) -> Result<Report> {
        self.engine().verify()
    }

    /// Makes a consistent copy of everything committed before the call in a new directory, by hard links where they reach. The copy opens
    /// as a database. Missing parents of the directory are made too.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when something is in that directory already, when it lies inside this database, and when this
    /// database is open read-only.
    pub fn checkpoint(&self, path: impl AsRef<Path>) -> Result<()> {
        self.engine().checkpoint(path.as_ref())
    }

    /// What background work has met: `Ok`, or why it does not go on or writes are refused.
    ///
    /// # Errors
    /// That very reason.
    pub fn health(&self) -> Result<()> {
        self.engine().health()
    }

    /// Closes the database and frees its lock, also while other handles are alive; they answer
    /// [`Closed`](crate::Error::Closed) from then on. Bytes that were handed out stay valid.
    ///
    /// # Errors
    /// What kept the end from being a clean one. Nothing acknowledged is lost even then: the next open recovers.
    pub fn close(self) -> Result<()> {
        self.owner.close()
    }
}
