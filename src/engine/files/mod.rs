//! Which files make up the database, who reads them, and the one door through which that changes.
//!
//! ```text
//!   edit ──▶ manifest: appended, synced ──▶ a version ──▶ superversion: what new reads take
//!                                                             │ readers of the old one go
//!                                                             ▼
//!                                                        files to remove
//! ```
//!
//! Every edit is committed and installed by [`Editing`], under one lock; so what is durable and what reads see change in
//! the same order, and a file is named before it is read and removed after it was last read (E3).

mod reclaim;
mod registry;
pub(super) mod runs;
pub(super) mod superversion;
pub(super) mod tree;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use reclaim::Reclaim;
use registry::{Held, Registry};
pub(super) use registry::{JobInputs, ReaderList, ViewHold};
use superversion::{Moment, SuperVersion};
use tree::Opener;

use crate::{
    base::{KeyspaceId, Result},
    compaction::Reader,
    engine::{
        context::Context,
        health::Health,
        locks::{Guard, Lock, Rank, RwLock},
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
    /// That of `current`, for views to see in passing whether their files are still those.
    generation: AtomicU64,
    /// The generation of files that idle views were given last.
    rebased: AtomicU64,
    /// Numbers for new segment files.
    next_file: AtomicU64,
    /// A decision was refused, and yet may be found to have been made after a crash: nothing is written before that is settled.
    in_doubt: AtomicBool,
    /// Segments left that purges had been carried out on: the manifest tells keys of them until it is written anew.
    names_purged: AtomicBool,
    /// Segments of edits that failed: they stay until the next edit has been committed.
    doubtful: Lock<Vec<u64>>,
    opener: Arc<Opener>,
    reclaim: Arc<Reclaim>,
}

/// Those who may read what is pinned. Purges hide from all of them: they will come after.
fn pinned_readers(version: &Version) -> Vec<Reader> {
    let reader = |pin: &PinnedAt| Reader { seqno: pin.seqno, opened: u64::MAX, time: pin.time_us };
    version.pins.values().map(reader).collect()
}

impl FileSet {
    /// The files of a database that is being opened: those of the manifest, and memtables, sealed ones newest first.
    ///
    /// What is in the memtables and segments was newest at `newest`.
    pub(super) fn new(
        (ctx, health, work): (&Arc<Context>, &Arc<Health>, &Arc<Work>),
        manifest: ManifestStore,
        (active, sealed): (Arc<Memtable>, Vec<Arc<Memtable>>),
        newest: Moment,
    ) -> Self {
        let version = Arc::clone(manifest.version());
        let reclaim = Arc::new(Reclaim::new(ctx, health, work));
        let opener = Arc::new(Opener::new(ctx, &reclaim));
        let mut current = SuperVersion::new(active, sealed).with_version(&version, &opener);
        match current.sealed.first() {
            // What an older one of these holds is known to be there only with the newer ones.
            Some(memtable) => drop(current.sealed_at.insert(memtable.log(), newest)),
            None => current.flushed = Some(newest),
        }
        let mut registry = Registry::default();
        registry.set_pins(pinned_readers(&version));
        Self {
            ctx: Arc::clone(ctx),
            health: Arc::clone(health),
            work: Arc::clone(work),
            manifest: Lock::new(Rank::Manifest, manifest),
            registry: Lock::new(Rank::Registry, registry),
            generation: AtomicU64::new(current.generation),
            current: RwLock::new(Rank::Current, Arc::new(current)),
            rebased: AtomicU64::new(0),
            next_file: AtomicU64::new(version.next_file),
            in_doubt: AtomicBool::new(false),
            names_purged: AtomicBool::new(false),
            doubtful: Lock::new(Rank::Doubtful, Vec::new()),
            opener,
            reclaim,
        }
    }

    /// The superversion for a read of the present.
    #[inline]
    pub(crate) fn current(&self) -> Arc<SuperVersion> {
        Arc::clone(&self.current.read())
    }

    /// Looks at the current superversion without keeping it.
    pub(super) fn with_current<T>(&self, run: impl FnOnce(&SuperVersion) -> T) -> T {
        run(&self.current.read())
    }

    /// A keyspace, as it is now.
    pub(super) fn keyspace(&self, id: KeyspaceId) -> Option<Arc<KeyspaceVersion>> {
        self.with_current(|now| now.version.keyspaces.get(&id).cloned())
    }

    /// Makes another superversion current. What only the old one held goes outside the lock.
    fn replace(&self, next: impl FnOnce(&SuperVersion) -> SuperVersion) {
        let mut current = self.current.write();
        let next = next(&current);
        debug_assert!(next.generation > current.generation, "generation {} again", next.generation);
        self.generation.store(next.generation, Ordering::Release);
        let old = std::mem::replace(&mut *current, Arc::new(next));
        drop(current);
        drop(old);
    }

    /// Seals the active memtable at a moment; another one is written to from now on.
    pub(super) fn seal(&self, active: Arc<Memtable>, moment: impl FnOnce(&Arc<Version>) -> Moment) {
        self.replace(|current| current.with_sealed(active, moment(&current.version)));
    }

    /// Notes a moment at which the active memtable is empty.
    pub(super) fn record_idle_moment(&self, moment: impl FnOnce(&Arc<Version>) -> Moment) {
        self.replace(|current| current.with_idle_moment(moment(&current.version)));
    }

    /// A number for a new segment file.
    pub(super) fn take_number(&self) -> u64 {
        self.next_file.fetch_add(1, Ordering::Relaxed)
    }

    /// The change that says which numbers have been taken.
    pub(super) fn numbers_taken(&self) -> Change {
        Change::NextFile { number: self.next_file.load(Ordering::Relaxed) }
    }

    /// Begins an edit; others wait until it is dropped.
    pub(super) fn edit(&self) -> Editing<'_> {
        Editing { files: self, manifest: self.manifest.lock() }
    }

    /// Ends the doubt that a refused decision has left, before anything is written behind it.
    pub(super) fn resolve_doubt(&self) -> Result<()> {
        if self.in_doubt.load(Ordering::Acquire) {
            let mut manifest = self.manifest.lock();
            self.health.check_open()?;
            match manifest.settle() {
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

    /// Notes that segments left on which purges had been carried out.
    pub(super) fn record_purged(&self) {
        self.names_purged.store(true, Ordering::Release);
    }

    /// Writes the manifest anew where it tells keys of segments on which purges were carried out.
    pub(super) fn forget_purged_names(&self) -> Result<()> {
        if !self.names_purged.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let mut editing = self.edit();
        editing.manifest.roll_at_next();
        let rolled = editing.commit(&Edit::new([self.numbers_taken()]), &[]);
        let version = rolled.inspect_err(|_| self.names_purged.store(true, Ordering::Release))?;
        editing.install(&version, None, None);
        Ok(())
    }

    /// What a job works on, and whom it must not take anything from: the files, then the list. So a version in the files
    /// that somebody may read is one that somebody in the list may read.
    pub(super) fn job_inputs(&self, point: &'static str) -> JobInputs {
        let files = self.current();
        self.ctx.pass(point);
        // Files hold what is visible at most, when they are those of sealed memtables and segments.
        let newest = files.newest_below_active();
        let registered = self.registry.lock().list();
        JobInputs { files, registered, newest }
    }

    /// Registers a reader, and gives it the current files. Its moment is asked under the lock, before the files are
    /// taken: no job that is installed later can miss it, and the files hold every commit up to it.
    pub(super) fn register(&self, moment: impl FnOnce() -> Reader) -> (Seat, Arc<SuperVersion>) {
        let mut registry = self.registry.lock();
        let reader = moment();
        let files = self.current();
        let mut seat = Seat::on(&files);
        let held = Held { files: Arc::downgrade(&seat.files), iterators: Arc::clone(&seat.iterators) };
        (seat.ticket, seat.frozen) = registry.register(reader, held);
        (seat, files)
    }

    /// Ends a registration.
    pub(super) fn release(&self, seat: &Seat) {
        self.registry.lock().release(seat.ticket);
    }

    /// The files for a registered reader: the current ones, unless a job dropped what it sees without knowing of it.
    pub(super) fn files_of(&self, seat: &Seat) -> Arc<SuperVersion> {
        let held = Arc::clone(&seat.files.read());
        // Whoever sees an old number reads the files that were current a moment ago: they show the same.
        if held.generation == self.generation.load(Ordering::Acquire) {
            return held;
        }
        let current = self.current();
        // Looked at after the current files: a job freezes views before its files become current.
        if seat.frozen.load(Ordering::SeqCst) {
            return held;
        }
        let old = std::mem::replace(&mut *seat.files.write(), Arc::clone(&current));
        drop(old);
        current
    }

    /// The seqnos that are registered now, ascending, each once.
    pub(super) fn registered_seqnos(&self) -> Vec<u64> {
        self.registry.lock().seqnos()
    }

    /// The earliest time that a registered reader looks at, in microseconds.
    pub(super) fn earliest_read(&self) -> Option<u64> {
        self.registry.lock().earliest()
    }

    /// How many readers are registered, and the oldest seqno among theirs.
    pub(super) fn readers(&self) -> (usize, Option<u64>) {
        let registry = self.registry.lock();
        (registry.count(), registry.oldest())
    }

    /// Each view and what it holds on to.
    pub(super) fn holders(&self) -> Vec<ViewHold> {
        self.registry.lock().holders().collect()
    }

    /// Gives idle views the current files; the seqnos of those that hold older ones all the same.
    pub(super) fn rebase(&self) -> Vec<u64> {
        let registry = self.registry.lock();
        // Taken under the lock: files that were current a moment ago may lack what a view sees that came since.
        let (old, holding) = registry.rebase(&self.current());
        drop(registry);
        // Memtables and files go here, outside the lock.
        drop(old);
        holding
    }

    /// Gives idle views the current files, and removes the files that nobody holds.
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

    /// Lets segment files go that no edit has named.
    pub(super) fn discard(&self, made: &[u64]) {
        self.reclaim.add_segments(made.iter().copied());
        self.reclaim.run();
    }

    /// Lets logs go.
    pub(super) fn discard_logs(&self, numbers: impl Iterator<Item = u64>) {
        self.reclaim.add(numbers.map(name::log));
    }

    /// Removes the files that nobody reads.
    pub(super) fn reclaim(&self) {
        self.reclaim.run();
    }

    /// Removes the files that nobody reads for the last time: the directory may be somebody else's afterwards.
    pub(super) fn end(&self) {
        self.reclaim.end();
    }
}

/// The right to edit, until it is dropped.
#[derive(Debug)]
pub(super) struct Editing<'f> {
    files: &'f FileSet,
    manifest: Guard<'f, ManifestStore>,
}

impl Editing<'_> {
    /// The version in force.
    pub(super) fn version(&self) -> &Arc<Version> {
        self.manifest.version()
    }

    /// The manifest in force, to look at.
    pub(super) fn manifest(&self) -> &ManifestStore {
        &self.manifest
    }

    /// Commits an edit. `added` are segments that it names: they are removed when it fails, as soon as that is safe.
    ///
    /// Nothing is committed behind the seal of a clean end: the lock may be somebody else's by then.
    pub(super) fn commit(&mut self, edit: &Edit, added: &[u64]) -> Result<Arc<Version>> {
        let FileSet { health, doubtful, reclaim, .. } = self.files;
        health.check_open()?;
        match self.manifest.commit(edit) {
            Ok(version) => {
                let certain = std::mem::take(&mut *doubtful.lock());
                reclaim.add_segments(certain);
                Ok(version)
            }
            Err(CommitFailure::NotCommitted(error)) => {
                if self.manifest.in_doubt() {
                    doubtful.lock().extend(added);
                } else {
                    reclaim.add_segments(added.iter().copied());
                }
                Err(error)
            }
            Err(CommitFailure::Unknown(error)) => {
                health.poison(&error);
                Err(error)
            }
        }
    }

    /// Commits a decision of the user. One that is refused must not take later commits with it after a crash: none is
    /// taken before that is certain.
    pub(super) fn commit_decision(&mut self, edit: &Edit) -> Result<Arc<Version>> {
        let committed = self.commit(edit, &[]);
        committed.inspect_err(|_| self.files.in_doubt.store(self.manifest.in_doubt(), Ordering::Release))
    }

    /// Makes a version current. `flushed` is a memtable that is in segments now, `job` what a job worked by and the newest
    /// superseder of what it dropped.
    pub(super) fn install(
        &self,
        version: &Arc<Version>,
        flushed: Option<&Arc<Memtable>>,
        job: Option<(&JobInputs, u64)>,
    ) {
        let files = self.files;
        assert!(Arc::ptr_eq(version, self.version()), "a version that is not in force is installed");
        let mut registry = files.registry.lock();
        registry.set_pins(pinned_readers(version));
        if let Some((inputs, superseder)) = job {
            registry.freeze(inputs, superseder);
        }
        let mut current = files.current.write();
        let mut next = current.with_version(version, &files.opener);
        if let Some(flushed) = flushed {
            next.remove_flushed(flushed);
        }
        files.generation.store(next.generation, Ordering::Release);
        let old = std::mem::replace(&mut *current, Arc::new(next));
        drop(current);
        drop(registry);
        // The last reference to a memtable or table may go here: under none of these locks.
        drop(old);
        files.work.wake_writers();
    }

    /// Commits an edit that names no new segment, and makes it current.
    pub(super) fn apply(&mut self, edit: &Edit) -> Result<Arc<Version>> {
        let version = self.commit(edit, &[])?;
        self.install(&version, None, None);
        Ok(version)
    }

    /// Lets segments go that no edit will name.
    pub(super) fn discard(&self, numbers: impl IntoIterator<Item = u64>) {
        self.files.reclaim.add_segments(numbers);
    }

    /// Commits the last edit of all and seals the manifest: the database is closed.
    pub(super) fn seal(&mut self, edit: &Edit) -> Result<()> {
        let committed = self.manifest.commit(edit);
        committed.map_err(|(CommitFailure::NotCommitted(e) | CommitFailure::Unknown(e))| e)?;
        self.manifest.seal()
    }
}

/// What a registered reader holds: its place in the registry, and the files that it reads next.
#[derive(Debug)]
pub(super) struct Seat {
    ticket: u64,
    /// Set when its files must stay those of its birth.
    frozen: Arc<AtomicBool>,
    files: Arc<RwLock<Arc<SuperVersion>>>,
    /// Cloned by iterators under way.
    iterators: Arc<()>,
}

impl Seat {
    fn on(files: &Arc<SuperVersion>) -> Self {
        Self {
            ticket: u64::MAX,
            frozen: Arc::default(),
            files: Arc::new(RwLock::new(Rank::ViewFiles, Arc::clone(files))),
            iterators: Arc::default(),
        }
    }

    /// A seat that nobody knows of, on no files: for a view in a forked process, where no lock is taken.
    pub(super) fn outside() -> Self {
        Self::on(&Arc::new(SuperVersion::new(Arc::new(Memtable::new(0)), Vec::new())))
    }

    /// Tells, as long as it is held, that an iterator is under way.
    pub(super) fn iterating(&self) -> Arc<()> {
        Arc::clone(&self.iterators)
    }
}
