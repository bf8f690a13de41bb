//! [`Db`]: open, keyspaces, batches, views, care.

use std::{fmt, ops::ControlFlow, path::Path, sync::Arc, time::SystemTime};

use super::{Batch, Commits, Diff, Keyspace, View};
use crate::{
    base::{Result, Seqno, SeqnoRange, to_us},
    engine::{
        Compacted, Engine, KeyspaceOptions, Options, Pin, Progress, Report, Running, Stats, Watch, checkpoint,
        jobs::{self, Scope},
        keyspaces, pins,
        read::{self, ViewCore},
        stats, verify, write,
    },
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
    owner: Arc<Running>,
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Db({:?}, seqno {})", self.engine().path(), self.seqno())
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
        Ok(Self { owner: Arc::new(Running::open(options, path)?) })
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        self.owner.engine()
    }

    /// The keyspace of this name, created if need be. Options that are not set mean "as stored".
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) for a name that is empty or longer than 255 bytes, for another merge strategy than the one that the
    /// keyspace was created with, and for none where that is a custom one.
    #[expect(clippy::needless_pass_by_value, reason = "options are built for the call")]
    pub fn keyspace(&self, name: impl AsRef<str>, options: KeyspaceOptions) -> Result<Keyspace> {
        Ok(Keyspace::new(&self.owner, keyspaces::open(self.engine(), name.as_ref(), &options)?))
    }

    /// The names of all keyspaces, sorted.
    pub fn keyspaces(&self) -> Vec<String> {
        keyspaces::keyspace_names(self.engine())
    }

    /// Drops a keyspace with everything in it. Views opened before go on reading it; later writes to it fail; the name is free
    /// at once.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when there is no such keyspace.
    pub fn drop_keyspace(&self, name: impl AsRef<str>) -> Result<()> {
        keyspaces::drop_keyspace(self.engine(), name.as_ref())
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

    /// A view of everything that had been committed at a time, up to and with that microsecond; before the first commit that is nothing. Asking fixes the answer: commits to come
    /// are later than any time that was asked for, also after a crash.
    ///
    /// Times are those of the database's clock, which `db.snapshot().time()` tells. It follows the system's, but for a while after that was set by more than a moment.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options, Policy};
    /// # use std::time::Duration;
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// # let day = Policy::mvcc(1, Duration::from_secs(86_400));
    /// # let users = db.keyspace("users", KeyspaceOptions::new().policy(day))?;
    /// let receipt = users.put("ann", "25")?;
    /// let then = db.as_of_time(receipt.time)?;
    /// users.put("ann", "26")?;
    /// assert_eq!(then.get(&users, "ann")?.unwrap(), b"25");
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`InTheFuture`](crate::Error::InTheFuture) for a time that has not come; [`HistoryTrimmed`](crate::Error::HistoryTrimmed) for one before which not every commit is told
    /// any more (see [`commits`](Db::commits)). Where the answer has to be made last, errors of writing as in [`Batch::commit`].
    pub fn as_of_time(&self, time: SystemTime) -> Result<View> {
        Ok(View::new(&self.owner, ViewCore::as_of_time(self.engine(), to_us(time))?))
    }

    /// The commits in a range of seqnos, oldest first, each with its exact time. Every commit is told for as long as the longest window of any keyspace, the oldest pin, and
    /// an hour; a range without a start begins with the first of them. Keyspaces created or dropped, options and pins take seqnos too, and are not told.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// # let users = db.keyspace("users", KeyspaceOptions::new())?;
    /// let receipt = users.put("ann", "25")?;
    /// let commit = db.commits(receipt.seqno..).next().unwrap()?;
    /// assert_eq!((commit.seqno, commit.time, commit.writes), (receipt.seqno, receipt.time, 1));
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// The first item is [`HistoryTrimmed`](crate::Error::HistoryTrimmed) when the range begins before that, with the first seqno from which on all are told.
    #[expect(clippy::needless_pass_by_value, reason = "ranges are written for the call")]
    pub fn commits(&self, range: impl SeqnoRange) -> Commits {
        let (from, end) = range.ends();
        let end = end.min(self.engine().visible().saturating_add(1));
        Commits::new(self.engine(), read::commits(self.engine(), from), end)
    }

    /// The keys of a keyspace whose values differ between two views, in order.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// # let users = db.keyspace("users", KeyspaceOptions::new())?;
    /// let before = db.snapshot();
    /// users.put("ann", "25")?;
    /// for change in db.diff(&before, &db.snapshot(), &users) {
    ///     let change = change?;
    ///     assert_eq!((change.key, change.before, change.after), ("ann".into(), None, Some("25".into())));
    /// }
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    pub fn diff(&self, before: &View, after: &View, keyspace: &Keyspace) -> Diff {
        Diff::new(before.range(keyspace, ..), after.range(keyspace, ..))
    }

    /// Keeps the present readable under a name, until [`unpin`](Db::unpin): whatever the policies say, across restarts, and in keyspaces that are dropped later.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// # let users = db.keyspace("users", KeyspaceOptions::new())?;
    /// # users.put("ann", "25")?;
    /// db.pin("before-migration")?;
    /// db.drop_keyspace("users")?;
    /// let then = db.pinned("before-migration")?;
    /// let users = then.keyspace("users")?;
    /// assert_eq!(then.get(&users, "ann")?.unwrap(), b"25");
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when there is a pin of that name, and for a name that is empty or longer than 255 bytes.
    pub fn pin(&self, name: impl AsRef<str>) -> Result<Seqno> {
        pins::pin(self.engine(), name.as_ref())
    }

    /// Keeps a pinned moment no longer.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when there is no such pin.
    pub fn unpin(&self, name: impl AsRef<str>) -> Result<()> {
        pins::unpin(self.engine(), name.as_ref())
    }

    /// A view of a pinned moment.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when there is no such pin.
    pub fn pinned(&self, name: impl AsRef<str>) -> Result<View> {
        Ok(View::new(&self.owner, ViewCore::pinned(self.engine(), name.as_ref())?))
    }

    /// The pins there are, by name.
    pub fn pins(&self) -> Vec<Pin> {
        pins::pins(self.engine())
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
        write::persist(self.engine())
    }

    /// Moves everything in memory to segments.
    ///
    /// # Errors
    /// [`DiskFull`](crate::Error::DiskFull) and [`Io`](crate::Error::Io): nothing is lost, and it is tried again.
    pub fn flush(&self) -> Result<()> {
        jobs::flush(self.engine())
    }

    /// Brings everything written before the call to its final shape: one sorted level, with nothing left that may go.
    ///
    /// # Errors
    /// As [`Db::flush`].
    pub fn compact(&self) -> Result<Compacted> {
        self.compact_with(|_| ControlFlow::Continue(()))
    }

    /// As [`compact`](Db::compact), told from time to time, on the calling thread, how far it has come. [`Break`](ControlFlow::Break) ends it: what was compacted by then stays so,
    /// nothing else has changed. The flush at its beginning is not broken off. Whoever is told may call no database: such calls answer [`Invalid`](crate::Error::Invalid). It is told while the compaction is under
    /// way, so that whoever waits for that waits for it as well. A panic ends the call, and goes on.
    ///
    /// ```
    /// # use std::ops::ControlFlow;
    /// # use chronolith::{env::Memory, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// db.compact_with(|progress| {
    ///     println!("{} of {} bytes", progress.done, progress.total);
    ///     ControlFlow::Continue(())
    /// })?;
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Db::flush`]; [`Cancelled`](crate::Error::Cancelled).
    pub fn compact_with(&self, mut told: impl FnMut(Progress) -> ControlFlow<()>) -> Result<Compacted> {
        Watch::telling(&mut told).over(|watch| jobs::compact(self.engine(), Scope::All, watch))
    }

    /// Numbers: what was done, what is held in memory, what holds every byte of the directory.
    pub fn stats(&self) -> Stats {
        stats(self.engine())
    }

    /// Reads every byte and checks every checksum and reference. Damage is a finding of the report, not an error: a
    /// file that is missing, cut short, of another kind or not what was written. Every file is opened for this and
    /// closed again.
    ///
    /// # Errors
    /// [`Io`](crate::Error::Io) for whatever says nothing about the bytes: too many open files, no permission, a disk
    /// that does not answer. Nothing is known then of the files that come after. [`Closed`](crate::Error::Closed) when
    /// the database is closed meanwhile.
    pub fn verify(&self) -> Result<Report> {
        self.verify_with(|_| ControlFlow::Continue(()))
    }

    /// As [`verify`](Db::verify), told after each segment how far it has come; see [`compact_with`](Db::compact_with).
    ///
    /// # Errors
    /// As [`Db::verify`]; [`Cancelled`](crate::Error::Cancelled).
    pub fn verify_with(&self, mut told: impl FnMut(Progress) -> ControlFlow<()>) -> Result<Report> {
        Watch::telling(&mut told).over(|watch| verify(self.engine(), watch))
    }

    /// Makes a consistent copy of everything committed before the call in a new directory, by hard links where they reach. The copy opens
    /// as a database. Missing parents of the directory are made too. A copy that fails leaves the directory as it was, missing parents aside, and may be repeated. Of a
    /// database that is open read-only it is a copy of the present, as [`View::checkpoint`] makes it. Pins that are taken back while it is made
    /// are not in it.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when something is in that directory already, and when it lies inside this database;
    /// [`Closed`](crate::Error::Closed) when the database is closed meanwhile.
    pub fn checkpoint(&self, path: impl AsRef<Path>) -> Result<()> {
        self.checkpoint_with(path, |_| ControlFlow::Continue(()))
    }

    /// As [`checkpoint`](Db::checkpoint), told how far it has come; see [`compact_with`](Db::compact_with). A copy that was broken off leaves nothing in the directory.
    ///
    /// # Errors
    /// As [`Db::checkpoint`]; [`Cancelled`](crate::Error::Cancelled).
    pub fn checkpoint_with(
        &self,
        path: impl AsRef<Path>,
        mut told: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<()> {
        Watch::telling(&mut told).over(|watch| checkpoint::checkpoint(self.engine(), path.as_ref(), watch))
    }

    /// What background work has met: `Ok`, or why it does not go on or writes are refused. On a simulated machine, which has
    /// no threads, each call may also do a step of that work.
    ///
    /// # Errors
    /// That very reason.
    pub fn health(&self) -> Result<()> {
        write::health(self.engine())
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
