//! [`Db`]: open, keyspaces, batches, views, maintenance.

use std::{fmt, ops::ControlFlow, path::Path, sync::Arc, time::SystemTime};

use super::{Batch, Chunks, Commits, Diff, Keyspace, View, foreign};
use crate::{
    base::{Micros, Result, Seqno, SeqnoRange},
    chunk::cut::Chunking,
    engine::{
        Compacted, Engine, KeyspaceOptions, Options, Pin, Progress, Rechunked, Report, Running, Stats, Watch,
        checkpoint,
        jobs::{self, Scope},
        keyspaces, pins,
        read::{self, ViewCore},
        rechunk, stats, verify, write,
    },
};

/// An open database. Cheap to clone: clones, keyspaces, views and iterators share it, and it closes when the last of
/// them is dropped. Call [`close`](Db::close) to see errors of closing, or to free the lock while other handles are
/// alive.
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
    /// Opens the database in the directory `path` with the default [`Options`], and creates it if it does not exist,
    /// with missing parents; [`Options::create`] guards against a mistyped path. After a crash, opening recovers it.
    ///
    /// ```no_run
    /// let db = chronolith::Db::open("my.db")?;
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Locked`](crate::Error::Locked) while it is open elsewhere; [`Corrupt`](crate::Error::Corrupt) or
    /// [`Missing`](crate::Error::Missing) for a damaged file; [`Invalid`](crate::Error::Invalid) for a path that cannot
    /// hold a database. All of them: [`Options::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Options::new().open(path)
    }

    pub(crate) fn open_with(options: &Options, path: &Path) -> Result<Self> {
        Ok(Self { owner: Arc::new(Running::open(options, path)?) })
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        self.owner.engine()
    }

    /// Opens the keyspace of this name, and creates it if it does not exist. Options that are not set keep their stored
    /// value; a new keyspace gets the default.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// let users = db.keyspace("users", KeyspaceOptions::new())?;
    /// users.put("ann", "25")?;
    /// assert_eq!(db.keyspaces(), ["users"]);
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) for a name that is empty or longer than 255 bytes, for a merge strategy other
    /// than the stored one, and for no strategy where the stored one is custom.
    #[doc(alias = "column_family", alias = "partition", alias = "open_table", alias = "tree")]
    #[expect(clippy::needless_pass_by_value, reason = "options are built for the call")]
    pub fn keyspace(&self, name: impl AsRef<str>, options: KeyspaceOptions) -> Result<Keyspace> {
        Ok(Keyspace::new(&self.owner, keyspaces::open(self.engine(), name.as_ref(), &options)?))
    }

    /// Returns the names of all keyspaces, sorted.
    pub fn keyspaces(&self) -> Vec<String> {
        keyspaces::keyspace_names(self.engine())
    }

    /// Drops a keyspace and everything in it. The name is free at once. Views opened earlier, and pins, can still read
    /// it; writes to it fail.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// let old = db.keyspace("old", KeyspaceOptions::new())?;
    /// db.drop_keyspace("old")?;
    /// assert!(old.put("ann", "25").is_err());
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when there is no such keyspace.
    pub fn drop_keyspace(&self, name: impl AsRef<str>) -> Result<()> {
        keyspaces::drop_keyspace(self.engine(), name.as_ref())
    }

    /// Returns the chunks of the default dedup scope, for pipelines that cut, send and adopt values by themselves.
    /// [`Keyspace::chunks`] are those of a keyspace with a scope of its own.
    pub fn chunks(&self) -> Chunks {
        Chunks::of_database(&self.owner)
    }

    /// Begins a batch: writes that are applied together or not at all. See [`Batch`].
    #[doc(alias = "write_batch")]
    #[must_use = "a batch does nothing until `commit`"]
    pub fn batch(&self) -> Batch {
        Batch::new(&self.owner)
    }

    /// Opens a view of the present. It keeps showing this moment, whatever is written later.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// # let users = db.keyspace("users", KeyspaceOptions::new())?;
    /// users.put("ann", "25")?;
    /// let before = db.snapshot();
    /// users.put("ann", "26")?;
    /// assert_eq!(before.get(&users, "ann")?.unwrap(), b"25");
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    #[doc(alias = "begin_read", alias = "read_txn")]
    #[must_use]
    pub fn snapshot(&self) -> View {
        View::new(&self.owner, ViewCore::snapshot(self.engine()))
    }

    /// Opens a view of the database just after the commit `seqno`. Seqno 0 is the empty database.
    ///
    /// A read of the view is exact, or fails with [`HistoryTrimmed`](crate::Error::HistoryTrimmed) where that part of
    /// the past has been dropped, as the keyspace's [`Policy`](crate::Policy) allows.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options, Policy};
    /// # use std::time::Duration;
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// let day = Policy::mvcc(1, Duration::from_secs(86_400));
    /// let users = db.keyspace("users", KeyspaceOptions::new().policy(day))?;
    /// let first = users.put("ann", "25")?;
    /// users.put("ann", "26")?;
    /// assert_eq!(db.as_of(first.seqno)?.get(&users, "ann")?.unwrap(), b"25");
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`InTheFuture`](crate::Error::InTheFuture) for a seqno that has not been committed.
    #[doc(alias = "time_travel")]
    pub fn as_of(&self, seqno: impl Into<Seqno>) -> Result<View> {
        Ok(View::new(&self.owner, ViewCore::as_of(self.engine(), seqno.into())?))
    }

    /// Opens a view of everything that had been committed at `time`, that microsecond included. Before the first commit
    /// the view is empty.
    ///
    /// The answer never changes: every later commit gets a time after any time that was asked for, also after a crash.
    /// Times are those of the database's clock ([`View::time`] of a snapshot is the time now). It follows the system's
    /// clock, except for up to an hour after that was set.
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
    /// [`InTheFuture`](crate::Error::InTheFuture) for a time that has not come;
    /// [`HistoryTrimmed`](crate::Error::HistoryTrimmed) for a time before the exact commit times that are kept (see
    /// [`commits`](Db::commits)). A time close to now is made durable first, which can fail as a write does:
    /// [`Batch::commit`].
    pub fn as_of_time(&self, time: SystemTime) -> Result<View> {
        Ok(View::new(&self.owner, ViewCore::as_of_time(self.engine(), Micros::of_time(time))?))
    }

    /// Iterates over the commits in a range of seqnos, oldest first, each with its exact time.
    ///
    /// Commits are listed back to the start of the longest retention window of any keyspace, to the oldest pin, and for
    /// at least an hour; a range without a start begins there. Creating, configuring and dropping keyspaces, and pins,
    /// take seqnos too and are not listed.
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
    /// The first item is [`HistoryTrimmed`](crate::Error::HistoryTrimmed) for a range that begins earlier; it names the
    /// first seqno from which on all commits are listed.
    #[expect(clippy::needless_pass_by_value, reason = "ranges are written for the call")]
    pub fn commits(&self, range: impl SeqnoRange) -> Commits {
        let (from, end) = range.ends();
        let end = end.min(self.engine().visible().next());
        Commits::new(self.engine(), read::commits(self.engine(), from), end)
    }

    /// Iterates over the keys of a keyspace whose values differ between two views, in order.
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

    /// Keeps the present readable under a name until [`unpin`](Db::unpin): whatever the policies say, across restarts,
    /// and in keyspaces that are dropped later.
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
    /// [`Invalid`](crate::Error::Invalid) when a pin of that name exists, and for a name that is empty or longer than
    /// 255 bytes.
    #[doc(alias = "named_snapshot", alias = "savepoint")]
    pub fn pin(&self, name: impl AsRef<str>) -> Result<Seqno> {
        pins::pin(self.engine(), name.as_ref())
    }

    /// Removes a pin.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when there is no such pin.
    pub fn unpin(&self, name: impl AsRef<str>) -> Result<()> {
        pins::unpin(self.engine(), name.as_ref())
    }

    /// Opens a view of a pinned moment.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when there is no such pin.
    pub fn pinned(&self, name: impl AsRef<str>) -> Result<View> {
        Ok(View::new(&self.owner, ViewCore::pinned(self.engine(), name.as_ref())?))
    }

    /// Returns all pins, by name.
    pub fn pins(&self) -> Vec<Pin> {
        pins::pins(self.engine())
    }

    /// Returns the seqno of the newest commit.
    pub fn seqno(&self) -> Seqno {
        self.engine().visible()
    }

    /// Waits until every write so far is on the disk.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// # let users = db.keyspace("users", KeyspaceOptions::new())?;
    /// users.put("ann", "25")?;
    /// db.persist()?; // a power cut cannot take it any more
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Poisoned`](crate::Error::Poisoned) once a sync has failed; [`Io`](crate::Error::Io).
    #[doc(alias = "sync", alias = "flush_wal", alias = "fsync")]
    pub fn persist(&self) -> Result<()> {
        write::persist(self.engine())
    }

    /// Writes everything in memory to segments.
    ///
    /// # Errors
    /// [`DiskFull`](crate::Error::DiskFull) or [`Io`](crate::Error::Io). Nothing is lost: the flush is tried again.
    pub fn flush(&self) -> Result<()> {
        jobs::flush(self.engine())
    }

    /// Compacts every keyspace: everything written before the call ends up in one sorted level, without anything that
    /// may be dropped. Then lets go of every chunk that nothing refers to: a pack of which only a part is needed is
    /// copied without the rest, however little that is. What a
    /// [`ValueWriter`](crate::ValueWriter), a [`StagedValue`](crate::StagedValue) or an uncommitted batch refers to
    /// stays.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// let done = db.compact()?;
    /// println!("{} bytes less", done.bytes_before.saturating_sub(done.bytes_after));
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`DiskFull`](crate::Error::DiskFull) or [`Io`](crate::Error::Io), and [`Corrupt`](crate::Error::Corrupt) for a
    /// damaged input. [`CorruptChunk`](crate::Error::CorruptChunk) for a value of which nobody knows what it refers to:
    /// until it is written again or deleted, all chunks stay. What was compacted by then stays so.
    #[doc(alias = "compact_range", alias = "vacuum")]
    pub fn compact(&self) -> Result<Compacted> {
        self.compact_with(|_| ControlFlow::Continue(()))
    }

    /// Compacts as [`compact`](Db::compact) does, and reports progress on the calling thread. Returning
    /// [`Break`](ControlFlow::Break) cancels it: what was compacted by then stays so, and nothing else has changed. The
    /// flush at its beginning cannot be cancelled.
    ///
    /// The closure runs while the compaction is under way, so it may not call the database: such calls fail with
    /// [`Invalid`](crate::Error::Invalid). A panic in it cancels the compaction and is passed on to the caller.
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
    /// [`Cancelled`](crate::Error::Cancelled), and the errors of [`compact`](Db::compact).
    pub fn compact_with(&self, mut told: impl FnMut(Progress) -> ControlFlow<()>) -> Result<Compacted> {
        let mut report =
            Watch::reporting_to(&mut told).over(|watch| jobs::compact(self.engine(), Scope::All, watch))?;
        report.still_read = stats(self.engine()).space.garbage;
        Ok(report)
    }

    /// Cuts the large values of a keyspace anew, all versions of them: [`KeyspaceOptions::chunking`] becomes this
    /// chunking, and what was written before is read, cut the new way and stored, a recipe at a time. Values, seqnos,
    /// times, history and origins stay as they are, and [`commits`](Db::commits) and [`diff`](Db::diff) tell of
    /// nothing. Readers and writers go on; what was read by old recipes stays readable in views and iterators under
    /// way. The old chunks go with the next collection, so that the disk may need room for both meanwhile.
    ///
    /// What is cut this way already is passed over. After a crash, an error or a cancellation the same call goes on: of
    /// what was cut before a crash or an error, up to 1 GiB is cut again. A call with the former chunking leads back.
    /// New values are cut the new way from the first moment, also if the call fails. A program that sets the chunking
    /// when it opens the keyspace should set the new one from then on, and not set another while this runs.
    ///
    /// A value whose writing began before the call may come in the old way behind it. A recipe that is adopted later
    /// stays as it is.
    ///
    /// ```
    /// # use chronolith::{env::Memory, Chunking, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// let files = db.keyspace("files", KeyspaceOptions::new())?;
    /// files.put("a", [7; 100_000])?;
    /// let done = db.rechunk(&files, Chunking::fixed(4096))?;
    /// assert_eq!((done.values, done.bytes), (1, 100_000));
    /// assert_eq!(files.stat("a")?.unwrap().chunking, Some(Chunking::fixed(4096)));
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) for a keyspace that was dropped, combines values or belongs to another
    /// database, for a chunking out of bounds or with a trial, and while another call cuts the same keyspace anew;
    /// [`DiskFull`](crate::Error::DiskFull) already while less than 16 MiB of the disk are free;
    /// [`Io`](crate::Error::Io), and [`Corrupt`](crate::Error::Corrupt) for a damaged segment. A value of which a chunk
    /// cannot be read is no error: it is counted as left.
    pub fn rechunk(&self, keyspace: &Keyspace, chunking: Chunking) -> Result<Rechunked> {
        self.rechunk_with(keyspace, chunking, |_| ControlFlow::Continue(()))
    }

    /// Cuts values anew as [`rechunk`](Db::rechunk) does, and reports progress, in bytes of values; see
    /// [`compact_with`](Db::compact_with). The total is 0 until it is known. Every value that was cut anew before it is
    /// cancelled stays so. A closure that sleeps leaves more to others: it is called at least once for every 4 MiB.
    ///
    /// # Errors
    /// [`Cancelled`](crate::Error::Cancelled), and the errors of [`rechunk`](Db::rechunk).
    pub fn rechunk_with(
        &self,
        keyspace: &Keyspace,
        chunking: Chunking,
        mut told: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Rechunked> {
        if !keyspace.belongs_to(&self.owner) {
            return Err(foreign(keyspace));
        }
        Watch::reporting_to(&mut told).over(|watch| rechunk(self.engine(), keyspace.keyspace_ref(), chunking, watch))
    }

    /// Collects statistics: work done, memory held, and what holds every byte of the directory.
    ///
    /// ```
    /// # use chronolith::{env::Memory, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// let stats = db.stats();
    /// println!("{stats}");
    /// println!("{} bytes of history", stats.space.history);
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    #[doc(alias = "metrics", alias = "property")]
    pub fn stats(&self) -> Stats {
        stats(self.engine())
    }

    /// Reads every byte and checks every checksum and reference. Damage is a finding in the report, not an error: a
    /// file that is missing, cut short, of another kind, or does not hold what was written. Every file is opened for
    /// this and closed again.
    ///
    /// ```
    /// # use chronolith::{env::Memory, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// let report = db.verify()?;
    /// assert!(report.is_clean(), "{report}");
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Io`](crate::Error::Io) for a failure that says nothing about the bytes, such as too many open files; the files
    /// after it have not been read. [`Closed`](crate::Error::Closed) when the database is closed meanwhile.
    #[doc(alias = "check_integrity", alias = "scrub")]
    pub fn verify(&self) -> Result<Report> {
        self.verify_with(|_| ControlFlow::Continue(()))
    }

    /// Verifies as [`verify`](Db::verify) does, and reports progress after each segment. See
    /// [`compact_with`](Db::compact_with).
    ///
    /// # Errors
    /// [`Cancelled`](crate::Error::Cancelled), and the errors of [`verify`](Db::verify).
    pub fn verify_with(&self, mut told: impl FnMut(Progress) -> ControlFlow<()>) -> Result<Report> {
        Watch::reporting_to(&mut told).over(|watch| verify(self.engine(), watch))
    }

    /// Copies everything committed before the call to a new directory, by hard links where possible. The copy opens as
    /// a database of its own.
    ///
    /// Damage is copied as well: [`verify`](Db::verify) the database before, or the copy, where that matters. Missing
    /// parents of the directory are created. A copy that fails removes what it has made, those parents aside,
    /// and can be repeated. Pins removed while it runs are not in the copy. From a database that is open read-only the
    /// present is copied, as [`View::checkpoint`] does.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let disk = Memory::new();
    /// # let db = Options::new().env(disk.clone()).open("my.db")?;
    /// # db.keyspace("users", KeyspaceOptions::new())?.put("ann", "25")?;
    /// db.checkpoint("copy.db")?;
    /// let copy = Options::new().env(disk).open("copy.db")?; // `Db::open` for a directory on disk
    /// assert_eq!(copy.keyspaces(), db.keyspaces());
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when the directory is not empty, in use, or inside this database;
    /// [`DiskFull`](crate::Error::DiskFull) or [`Io`](crate::Error::Io); [`Closed`](crate::Error::Closed) when the
    /// database is closed meanwhile.
    #[doc(alias = "backup", alias = "copy")]
    pub fn checkpoint(&self, path: impl AsRef<Path>) -> Result<()> {
        self.checkpoint_with(path, |_| ControlFlow::Continue(()))
    }

    /// Copies as [`checkpoint`](Db::checkpoint) does, and reports progress; see [`compact_with`](Db::compact_with). A
    /// copy that is cancelled leaves nothing in the directory.
    ///
    /// # Errors
    /// [`Cancelled`](crate::Error::Cancelled), and the errors of [`checkpoint`](Db::checkpoint).
    pub fn checkpoint_with(
        &self,
        path: impl AsRef<Path>,
        mut told: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<()> {
        Watch::reporting_to(&mut told).over(|watch| checkpoint::checkpoint(self.engine(), path.as_ref(), watch))
    }

    /// Fails with the reason if writes have stopped, or if background work cannot continue.
    ///
    /// On a simulated machine, which has no threads, a call may also run a step of that work.
    ///
    /// # Errors
    /// [`Poisoned`](crate::Error::Poisoned) when writes have stopped for good; whatever a flush or compaction failed
    /// with and will try again; [`Closed`](crate::Error::Closed).
    pub fn health(&self) -> Result<()> {
        write::health(self.engine())
    }

    /// Closes the database and frees its lock, even while other handles are alive: they fail with
    /// [`Closed`](crate::Error::Closed) from then on. [`Bytes`](crate::Bytes) that were handed out stay valid.
    ///
    /// ```
    /// # use chronolith::{env::Memory, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// db.close()?;
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    ///
    /// # Errors
    /// Whatever prevented a clean end, such as [`Io`](crate::Error::Io). Nothing acknowledged is lost even then: the
    /// next open recovers.
    pub fn close(self) -> Result<()> {
        self.owner.close()
    }
}
