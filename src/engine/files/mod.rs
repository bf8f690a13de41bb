//! The files of the database, their readers, and the one place where that set changes.
//!
//! ```text
//!   edit ──▶ manifest: appended, synced ──▶ a version ──▶ superversion: what new reads take
//!                                                             │ last reader of the old one ends
//!                                                             ▼
//!                                                        files to remove
//! ```
//!
//! Every edit is committed and installed through [`Editing`], under one lock. So the durable state and the visible
//! state change in the same order, and a file is named in the manifest before it is read and removed after its last
//! read (E3).

pub(super) mod chunks;
pub(super) mod copies;
pub(super) mod epoch;
mod reclaim;
mod registry;
pub(super) mod runs;
pub(super) mod superversion;
pub(super) mod tree;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use chunks::{ChunkSet, RecoveredChunks};
use epoch::Epoch;
use reclaim::Reclaim;
use registry::{Held, Registry};
pub(super) use registry::{JobInputs, ReaderList, ViewHold};
use superversion::{Moment, SuperVersion};
use tree::Opener;

use crate::{
    base::{FileNumber, KeyspaceId, Micros, Result, Seqno},
    compaction::Reader,
    engine::{
        context::Context,
        health::Health,
        locks::{Guard, Lock, LockOrder, Rank, RwLock},
        work::Work,
    },
    format::name,
    manifest::{Change, CommitFailure, Edit, KeyspaceVersion, ManifestStore, PinnedAt, Version},
    memtable::Memtable,
};

/// The files of an open database.
#[derive(Debug)]
pub(crate) struct FileSet {
    ctx: Arc<Context>,
    health: Arc<Health>,
    work: Arc<Work>,
    manifest: Lock<ManifestStore>,
    registry: Lock<Registry>,
    current: RwLock<Arc<SuperVersion>>,
    /// Generation of `current`, by which views see cheaply whether their files are still current.
    generation: AtomicU64,
    /// Generation of the files that idle views were last given.
    rebased: AtomicU64,
    /// Numbers for new segment files.
    next_file: AtomicU64,
    /// Set when a failed decision may still prove committed after a crash: nothing is written until that is resolved.
    in_doubt: AtomicBool,
    /// Set when segments with purges have been compacted away: the manifest names keys of them until it is rewritten.
    names_purged: AtomicBool,
    /// Files that failed edits name, kept until the next edit has been committed.
    doubtful: Lock<Vec<String>>,
    /// Packs of a recovery, and the log of its newest memtable: with the flush of that they are needed no more.
    recovered: Lock<Option<(FileNumber, Arc<RecoveredChunks>)>>,
    opener: Arc<Opener>,
    reclaim: Arc<Reclaim>,
}

/// What is in memory when a database is opened.
#[derive(Debug)]
pub(super) struct InMemory {
    pub(super) active: Arc<Memtable>,
    /// Recovered memtables, newest first.
    pub(super) sealed: Vec<Arc<Memtable>>,
    /// Moment of the newest commit in the memtables and segments.
    pub(super) newest: Moment,
    pub(super) chunks: ChunkSet,
}

/// Files that a job has made and that no edit names yet.
#[derive(Clone, Debug, Default)]
pub(super) struct NewFiles {
    pub(super) segments: Vec<FileNumber>,
    pub(super) packs: Vec<FileNumber>,
}

impl From<Vec<FileNumber>> for NewFiles {
    fn from(segments: Vec<FileNumber>) -> Self {
        Self { segments, packs: Vec::new() }
    }
}

impl NewFiles {
    /// Takes the number of a new pack.
    pub(super) fn take_pack(&mut self, files: &FileSet) -> FileNumber {
        let number = files.take_number();
        self.packs.push(number);
        number
    }

    fn names(&self) -> impl Iterator<Item = String> {
        let segments = self.segments.iter().copied().map(name::segment);
        segments.chain(self.packs.iter().copied().map(name::pack))
    }
}

/// Returns a reader for each pin. Every purge applies to it, since its views will be opened later than any purge so
/// far.
fn pinned_readers(version: &Version) -> Vec<Reader> {
    let reader = |pin: &PinnedAt| Reader { seqno: pin.seqno, purge_horizon: Seqno::MAX, time: pin.time };
    version.pins.values().map(reader).collect()
}

impl FileSet {
    /// Creates the file set of a database that is being opened.
    pub(super) fn new(
        ctx: &Arc<Context>,
        health: &Arc<Health>,
        work: &Arc<Work>,
        manifest: ManifestStore,
        recovered: InMemory,
    ) -> Self {
        let InMemory { active, sealed, newest, chunks } = recovered;
        let version = Arc::clone(manifest.version());
        let reclaim = Arc::new(Reclaim::new(ctx, health, work));
        let opener = Arc::new(Opener::new(ctx, &reclaim));
        let newest_log = sealed.first().map(|newest| newest.log());
        let recovered = newest_log.zip(chunks.recovered.clone());
        let mut current = SuperVersion::new(active, sealed, chunks).with_version(&version, &opener);
        match current.sealed.first() {
            // Only all of them together reach this moment; the moments at which older ones were sealed are not known.
            Some(memtable) => drop(current.sealed_at.insert(memtable.log(), newest)),
            None => current.flushed = Some(newest),
        }
        let mut registry = Registry::default();
        registry.set_pins(pinned_readers(&version));
        Self {
            ctx: Arc::clone(ctx),
            health: Arc::clone(health),
            work: Arc::clone(work),
            manifest: ctx.order.lock(Rank::Manifest, manifest),
            registry: ctx.order.lock(Rank::Registry, registry),
            generation: AtomicU64::new(current.generation),
            current: ctx.order.rw_lock(Rank::Current, Arc::new(current)),
            rebased: AtomicU64::new(0),
            next_file: AtomicU64::new(version.next_file.0),
            in_doubt: AtomicBool::new(false),
            names_purged: AtomicBool::new(false),
            doubtful: ctx.order.lock(Rank::Doubtful, Vec::new()),
            recovered: ctx.order.lock(Rank::RecoveredPacks, recovered),
            opener,
            reclaim,
        }
    }

    /// Returns the superversion that new reads use.
    #[inline]
    pub(crate) fn current(&self) -> Arc<SuperVersion> {
        Arc::clone(&self.current.read())
    }

    /// Calls `run` with the current superversion, without cloning it.
    pub(super) fn with_current<T>(&self, run: impl FnOnce(&SuperVersion) -> T) -> T {
        run(&self.current.read())
    }

    /// Returns the current version of a keyspace.
    pub(super) fn keyspace(&self, id: KeyspaceId) -> Option<Arc<KeyspaceVersion>> {
        self.with_current(|now| now.version.keyspaces.get(&id).cloned())
    }

    /// Makes another superversion current. The old one is dropped outside the lock.
    fn replace(&self, next: impl FnOnce(&SuperVersion) -> SuperVersion) {
        let mut current = self.current.write();
        let next = next(&current);
        debug_assert!(next.generation > current.generation, "generation {} again", next.generation);
        self.generation.store(next.generation, Ordering::Release);
        let old = std::mem::replace(&mut *current, Arc::new(next));
        drop(current);
        drop(old);
    }

    /// Seals the active memtable at a moment and replaces it with `active`.
    pub(super) fn seal(&self, active: Arc<Memtable>, epoch: Arc<Epoch>, moment: impl FnOnce(&Arc<Version>) -> Moment) {
        self.replace(|current| current.with_sealed(active, epoch, moment(&current.version)));
    }

    /// Records a moment at which the active memtable is empty.
    pub(super) fn record_idle_moment(&self, moment: impl FnOnce(&Arc<Version>) -> Moment) {
        self.replace(|current| current.with_idle_moment(moment(&current.version)));
    }

    /// Takes a number for a new segment file.
    pub(super) fn take_number(&self) -> FileNumber {
        FileNumber(self.next_file.fetch_add(1, Ordering::Relaxed))
    }

    /// Returns the change that records which file numbers have been taken.
    pub(super) fn numbers_taken(&self) -> Change {
        Change::NextFile { number: FileNumber(self.next_file.load(Ordering::Relaxed)) }
    }

    /// Returns the packs of a recovery once its newest memtable is flushed: what they held has been copied, and no log
    /// needs them. They are removed with their last reader.
    fn superseded_packs(&self, flushed: &Memtable) -> Option<Arc<RecoveredChunks>> {
        let (_, packs) = self.recovered.lock().take_if(|(newest, _)| flushed.log() >= *newest)?;
        packs.mark_obsolete(&self.reclaim);
        Some(packs)
    }

    /// Begins an edit; other edits wait until it is dropped.
    pub(super) fn edit(&self) -> Editing<'_> {
        Editing { files: self, manifest: self.manifest.lock() }
    }

    /// Resolves the doubt that a failed decision has left, before anything is written after it.
    pub(super) fn resolve_doubt(&self) -> Result<()> {
        if self.in_doubt.load(Ordering::Acquire) {
            let mut manifest = self.manifest.lock();
            self.health.check_open()?;
            match manifest.resolve_doubt() {
                Ok(()) => self.in_doubt.store(false, Ordering::Release),
                Err(CommitFailure::NotCommitted(error)) => return Err(error),
                Err(CommitFailure::Unknown(error)) => {
                    self.health.poison(&error);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Records that segments with purges have been compacted away.
    pub(super) fn record_purged(&self) {
        self.names_purged.store(true, Ordering::Release);
    }

    /// Rewrites the manifest if it names keys of segments with purges that have been compacted away.
    pub(super) fn forget_purged_names(&self) -> Result<()> {
        if !self.names_purged.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let mut editing = self.edit();
        editing.manifest.roll_at_next();
        let rolled = editing.commit(&Edit::new([self.numbers_taken()]), &NewFiles::default());
        let version = rolled.inspect_err(|_| self.names_purged.store(true, Ordering::Release))?;
        editing.install(&version, None, None);
        Ok(())
    }

    /// Returns the files that a job works on and the readers that it must not drop anything from. The files are taken
    /// first, so every reader that could read a version in them by then is in the list.
    pub(super) fn job_inputs(&self, point: &'static str) -> JobInputs {
        let files = self.current();
        self.ctx.pass(point);
        // Sealed memtables and segments hold nothing newer than the visible seqno.
        let newest = files.newest_below_active();
        let registered = self.registry.lock().list();
        JobInputs { files, registered, newest }
    }

    /// Begins the registration of a reader, whose moment is fixed while this is held: no job that is installed later
    /// can miss it.
    pub(super) fn registering(&self) -> Registering<'_> {
        Registering { files: self, registry: self.registry.lock() }
    }

    /// Ends a registration.
    pub(super) fn release(&self, seat: &Seat) {
        self.registry.lock().release(seat.ticket);
    }

    /// Returns the files for a registered reader: the current ones, unless a job that did not know of it may have
    /// dropped versions that it sees.
    pub(super) fn files_of(&self, seat: &Seat) -> Arc<SuperVersion> {
        let held = Arc::clone(&seat.files.read());
        // A stale generation means files that were current a moment ago: they show the same.
        if held.generation == self.generation.load(Ordering::Acquire) {
            return held;
        }
        let current = self.current();
        // Loaded after the current files: a job freezes views before its files become current.
        if seat.frozen.load(Ordering::SeqCst) {
            return held;
        }
        let old = std::mem::replace(&mut *seat.files.write(), Arc::clone(&current));
        drop(old);
        current
    }

    /// Returns the seqnos of registered readers and pins, ascending, without duplicates.
    pub(super) fn registered_seqnos(&self) -> Vec<Seqno> {
        self.registry.lock().seqnos()
    }

    /// Returns the earliest time that a registered reader or a pin reads at, in microseconds.
    pub(super) fn earliest_read(&self) -> Option<Micros> {
        self.registry.lock().earliest()
    }

    /// Returns the number of registered readers, and the oldest seqno among them.
    pub(super) fn readers(&self) -> (usize, Option<Seqno>) {
        let registry = self.registry.lock();
        (registry.count(), registry.oldest())
    }

    /// Returns each view with what it holds.
    pub(super) fn holders(&self) -> Vec<ViewHold> {
        self.registry.lock().holders().collect()
    }

    /// Gives idle views the current files; returns the seqnos of the views that hold older ones nevertheless.
    pub(super) fn rebase(&self) -> Vec<Seqno> {
        let registry = self.registry.lock();
        // Taken under the lock: files that were current a moment ago may lack commits that a view registered since then
        // sees.
        let (old, holding) = registry.rebase(&self.current());
        drop(registry);
        // Drops memtables and files, outside the lock.
        drop(old);
        holding
    }

    /// Gives idle views the current files, and removes files without readers.
    pub(super) fn release_unread(&self) {
        let generation = self.generation.load(Ordering::Acquire);
        if self.rebased.swap(generation, Ordering::AcqRel) != generation {
            self.rebase();
        }
        self.reclaim.run();
    }

    /// Makes the names of new segments durable.
    pub(super) fn sync_names(&self) -> Result<()> {
        self.ctx.sync_segment_names().inspect_err(|error| self.health.poison_unless_unopened(error))
    }

    /// Makes the names of new packs durable.
    pub(super) fn sync_pack_names(&self) -> Result<()> {
        self.ctx.sync_pack_names().inspect_err(|error| self.health.poison_unless_unopened(error))
    }

    /// Removes files that no edit has named.
    pub(super) fn discard(&self, made: &NewFiles) {
        self.reclaim.add(made.names());
        self.reclaim.run();
    }

    /// Queues logs for removal.
    pub(super) fn discard_logs(&self, numbers: impl Iterator<Item = FileNumber>) {
        self.reclaim.add(numbers.map(name::log));
    }

    /// Removes files without readers.
    pub(super) fn reclaim(&self) {
        self.reclaim.run();
    }

    /// Removes files without readers for the last time: another process may own the directory afterwards.
    pub(super) fn end(&self) {
        self.reclaim.end();
    }
}

/// The right to edit the manifest, until it is dropped.
#[derive(Debug)]
pub(super) struct Editing<'f> {
    files: &'f FileSet,
    manifest: Guard<'f, ManifestStore>,
}

impl Editing<'_> {
    /// Returns the newest committed version.
    pub(super) fn version(&self) -> &Arc<Version> {
        self.manifest.version()
    }

    /// Returns the manifest, to read from.
    pub(super) fn manifest(&self) -> &ManifestStore {
        &self.manifest
    }

    /// Commits an edit. `added` are the new files that it names: if it fails, they are removed as soon as that is safe.
    ///
    /// Fails after the database was closed: another process may hold the directory lock by then.
    pub(super) fn commit(&mut self, edit: &Edit, added: &NewFiles) -> Result<Arc<Version>> {
        let FileSet { health, doubtful, reclaim, .. } = self.files;
        health.check_open()?;
        match self.manifest.commit(edit) {
            Ok(version) => {
                let certain = std::mem::take(&mut *doubtful.lock());
                reclaim.add(certain);
                Ok(version)
            }
            Err(CommitFailure::NotCommitted(error)) => {
                if self.manifest.in_doubt() {
                    doubtful.lock().extend(added.names());
                } else {
                    reclaim.add(added.names());
                }
                Err(error)
            }
            Err(CommitFailure::Unknown(error)) => {
                health.poison(&error);
                Err(error)
            }
        }
    }

    /// Commits a decision of the user. One that fails must not take later commits with it after a crash: if it may
    /// still prove committed, no commit is accepted until that is resolved.
    pub(super) fn commit_decision(&mut self, edit: &Edit) -> Result<Arc<Version>> {
        let committed = self.commit(edit, &NewFiles::default());
        committed.inspect_err(|_| self.files.in_doubt.store(self.manifest.in_doubt(), Ordering::Release))
    }

    /// Makes a version current. `flushed` is a memtable that is now in segments; `job` holds the inputs of a job and
    /// the newest superseder of what it dropped.
    pub(super) fn install(
        &self,
        version: &Arc<Version>,
        flushed: Option<&Arc<Memtable>>,
        job: Option<(&JobInputs, Seqno)>,
    ) {
        let files = self.files;
        assert!(Arc::ptr_eq(version, self.version()), "the installed version is not the newest committed one");
        let mut registry = files.registry.lock();
        registry.set_pins(pinned_readers(version));
        if let Some((inputs, superseder)) = job {
            registry.freeze(inputs, superseder);
        }
        let mut current = files.current.write();
        let mut next = current.with_version(version, &files.opener);
        let mut superseded = None;
        if let Some(flushed) = flushed {
            next.remove_flushed(flushed);
            superseded = files.superseded_packs(flushed);
        }
        files.generation.store(next.generation, Ordering::Release);
        let old = std::mem::replace(&mut *current, Arc::new(next));
        drop(current);
        drop(registry);
        // Outside both locks, since this may drop the last reference to a memtable, a segment or a pack.
        drop((old, superseded));
        files.work.wake_writers();
    }

    /// Commits an edit without new segments, and makes it current.
    pub(super) fn apply(&mut self, edit: &Edit) -> Result<Arc<Version>> {
        let version = self.commit(edit, &NewFiles::default())?;
        self.install(&version, None, None);
        Ok(version)
    }

    /// Queues segments for removal that no edit will name.
    pub(super) fn discard(&self, numbers: impl IntoIterator<Item = FileNumber>) {
        self.files.reclaim.add_segments(numbers);
    }

    /// Commits the last edit and seals the manifest: the database is closed.
    pub(super) fn seal(&mut self, edit: &Edit) -> Result<()> {
        let committed = self.manifest.commit(edit);
        committed.map_err(|(CommitFailure::NotCommitted(e) | CommitFailure::Unknown(e))| e)?;
        self.manifest.seal()
    }
}

/// Registration of a reader, and the files that it reads next.
#[derive(Debug)]
pub(super) struct Seat {
    ticket: u64,
    /// Set when it must keep the files that it has.
    frozen: Arc<AtomicBool>,
    files: Arc<RwLock<Arc<SuperVersion>>>,
    /// Cloned by running iterators.
    iterators: Arc<()>,
}

/// Registration of a reader that has begun.
pub(super) struct Registering<'f> {
    files: &'f FileSet,
    registry: Guard<'f, Registry>,
}

impl Registering<'_> {
    /// Registers a reader and returns its seat and the current files. They are taken after its moment was fixed, so
    /// they hold every commit up to it.
    pub(super) fn seat(mut self, reader: Reader) -> (Seat, Arc<SuperVersion>) {
        let files = self.files.current();
        let mut seat = Seat::on(&files, self.files.ctx.order);
        let held = Held { files: Arc::downgrade(&seat.files), iterators: Arc::clone(&seat.iterators) };
        (seat.ticket, seat.frozen) = self.registry.register(reader, held);
        (seat, files)
    }
}

impl Seat {
    fn on(files: &Arc<SuperVersion>, order: LockOrder) -> Self {
        Self {
            ticket: u64::MAX,
            frozen: Arc::default(),
            files: Arc::new(order.rw_lock(Rank::ViewFiles, Arc::clone(files))),
            iterators: Arc::default(),
        }
    }

    /// Returns an unregistered seat on no files, for a view in a forked process, where no lock is taken.
    pub(super) fn outside() -> Self {
        let order = LockOrder::new();
        let memtable = Arc::new(Memtable::new(FileNumber(0)));
        Self::on(&Arc::new(SuperVersion::new(memtable, Vec::new(), ChunkSet::none(order))), order)
    }

    /// Returns a token that marks an iterator as running while it is held.
    pub(super) fn iterating(&self) -> Arc<()> {
        Arc::clone(&self.iterators)
    }
}
