//! Opening: lock, look, recover, start.
//!
//! ```text
//!  1 lock       the directory itself; a second opener gets `Locked`
//!  2 look       only files of ours; CURRENT, or nothing that would miss it
//!  3 manifest   which segments and logs there must be; each is checked for being there
//!  4 replay     logs in order, up to the first torn tail: what lies behind is void (W3)
//!  5 write down a new manifest: where each log ended, and seqnos from above everything that may have been given out
//!  6 begin      a new log; what no manifest names is removed; background work starts
//! ```
//!
//! Nothing is written before step 5, and step 5 is one atomic switch: a crash at any point is the same crash again.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use parking_lot::{Condvar, Mutex, RwLock};

use super::{
    Commit, Engine, Options,
    clock::Clock,
    keyspaces::closest,
    pins::pinned_readers,
    registry::Registry,
    superversion::{Moment, Reclaim, SuperVersion},
    sync::sync_bytes,
};
use crate::{
    base::{Corruption, Error, IoContext, Result},
    env::{Dir, Env, Files},
    format::{FileKind, Header, name},
    manifest::{Change, CommitFailure, Edit, ManifestStore, Version, read_all},
    memtable::Memtable,
    merge::DeadSpans,
    wal::{BatchView, Ending, LogEnd, LogWriter, RecordKind, Verdict, replay},
};

/// What the logs held.
#[derive(Debug, Default)]
struct Recovered {
    /// Newest first, none empty.
    memtables: Vec<Arc<Memtable>>,
    /// What is known of each log's end now.
    ends: BTreeMap<u64, LogEnd>,
    last_seqno: u64,
    time_us: u64,
    next_log: u64,
}

impl Engine {
    /// Opens the database in a directory.
    pub(crate) fn open(options: &Options, path: &Path) -> Result<Self> {
        let env = Arc::clone(&options.env);
        let held = open_dir(&*env, path, options)?;
        let files = Arc::new(Files::new(held, options.open_segments_max()));
        let dir: Arc<dyn Dir> = Arc::<Files>::clone(&files);
        lock(&*dir, options.read_only)?;

        look_around(&*dir)?;
        let manifest = match ManifestStore::open(Arc::clone(&dir))? {
            Some(manifest) => manifest,
            None => create(&*env, &dir, options)?,
        };
        check_files(&*dir, manifest.version())?;
        let recovered = replay_logs(&*dir, &manifest)?;
        if !options.read_only {
            sign(&*dir)?;
        }
        Self::begin(env, files, options, manifest, recovered)
    }

    /// Steps 5 and 6.
    fn begin(
        env: Arc<dyn Env>,
        files: Arc<Files>,
        options: &Options,
        mut manifest: ManifestStore,
        recovered: Recovered,
    ) -> Result<Self> {
        let dir: Arc<dyn Dir> = Arc::<Files>::clone(&files);
        let clean = manifest.was_clean();
        let before = Arc::clone(manifest.version());
        let last = recovered.last_seqno.max(before.last_seqno);
        // After a crash, seqnos up to the old ceiling may have been seen by somebody and lost.
        let first = if clean { before.next_seqno } else { before.seqno_ceiling }.max(last + 1);
        let ceiling = first.saturating_add(options.limits.seqno_reserve);
        let time_us = recovered.time_us.max(before.time_us);
        let log_number = recovered.next_log;

        let mut log = None;
        if !options.read_only {
            // Commits that only an unsynced log holds may be gone after the next crash: they are not written down as there.
            let known = if clean { last } else { before.last_seqno };
            let mut edit = Edit::new([Change::Seqnos { last: known, next: first, ceiling, time_us }]);
            let oldest = recovered.memtables.last().map_or(log_number, |table| table.log());
            edit.push(Change::LogsFrom { number: oldest });
            for (&number, &end) in recovered.ends.range(oldest..) {
                edit.push(Change::LogEnd { number, end });
            }
            edit.push(Change::NextFile { number: unused_file(&*dir)?.max(before.next_file) });
            manifest.commit(&edit).map_err(|(CommitFailure::NotCommitted(e) | CommitFailure::Unknown(e))| e)?;
            let header = Header { kind: FileKind::Log, file_id: manifest.database_id(), number: log_number };
            let created = LogWriter::create(&*dir, header)
                .and_then(|log| dir.sync_dir(name::LOGS).at("sync", || dir.path().join(name::LOGS)).map(|()| log));
            log = Some(created.inspect_err(|_| {
                // Else every open that fails here would leave one.
                let _removed = dir.remove(&name::log(log_number));
            })?);
            remove_strangers(&*dir, &manifest, log_number);
        }

        let version = Arc::clone(manifest.version());
        let memtable = Arc::new(Memtable::new(log_number));
        let empty = SuperVersion::new(Arc::clone(&memtable), recovered.memtables);
        let work = Arc::new(super::Work::default());
        let reclaim = Arc::new(Reclaim::new(&work));
        let mut current = empty.with_version(&version, &files, options.mmap, &reclaim);
        let opened_at = Moment { seqno: last, time_us, version: Arc::clone(&version) };
        match current.sealed.first() {
            // What an older one of these holds is known to be there only with the newer ones.
            Some(newest) => drop(current.sealed_at.insert(newest.log(), opened_at)),
            None => current.settled = Some(opened_at),
        }
        let monotonic = env.monotonic_us();
        let mut registry = Registry::default();
        registry.set_pins(pinned_readers(&version));
        let engine = Self {
            database_id: manifest.database_id(),
            flushing: Mutex::default(),
            compacting: super::Busy::default(),
            copying: AtomicUsize::new(0),
            manifest: Mutex::new(manifest),
            commit: Mutex::new(Commit {
                log,
                memtable,
                next_seqno: first,
                time_us,
                time_floor: time_us,
                recent: super::Recent::new(options.limits.recent_bytes),
                chains: super::Chains::default(),
                unsynced: Vec::new(),
            }),
            registry: Mutex::new(registry),
            clock: Mutex::new(Clock::new(env.wall_us(), monotonic, time_us)),
            custom_policies: Mutex::default(),
            dead: Arc::new(DeadSpans::new(options.dead_bytes())),
            cleared: Mutex::default(),
            rest: Mutex::default(),
            visible: AtomicU64::new(last),
            seqno_ceiling: AtomicU64::new(ceiling),
            next_file: AtomicU64::new(version.next_file),
            generation: AtomicU64::new(current.generation),
            current: RwLock::new(Arc::new(current)),
            syncing: super::Syncing::default(),
            work,
            rebased: AtomicU64::new(0),
            room: Condvar::new(),
            room_lock: Mutex::default(),
            closed: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            poisoned: Mutex::default(),
            is_poisoned: AtomicBool::new(false),
            doubtful: Mutex::default(),
            in_doubt: AtomicBool::new(false),
            names_purged: AtomicBool::new(false),
            reclaim,
            counters: super::Counters::default(),
            customs: Mutex::default(),
            options: options.clone(),
            env,
            files,
            dir,
        };
        let replayed = engine.current().sealed.first().map(|newest| newest.log()).filter(|_| !clean);
        let durable = if replayed.is_some() { before.last_seqno } else { last };
        engine.syncing.start(durable, replayed);
        Ok(engine)
    }

    /// Ends the database; no thread of its own runs any more. Whatever happens, the lock is free afterwards.
    ///
    /// Jobs that users run on other threads are waited for: they look whether they should stop. None begins behind the seal, and no
    /// file is touched once the lock is free.
    pub(crate) fn close(&self) -> Result<()> {
        let read_only = self.options.read_only;
        let recovered = if read_only { Ok(()) } else { self.check_writable().and_then(|()| self.flush_recovered()) };
        self.env.pass("close: asked for, then begun");
        let _no_flush = self.flushing.lock();
        self.compacting.end();
        let sealed = if read_only { Ok(()) } else { self.seal(recovered.and_then(|()| self.check_there())) };
        {
            // Also where no seal was reached: whoever takes the manifest next finds the database closed.
            let _no_edit = self.manifest.lock();
            self.closed.store(true, Ordering::Release);
        }
        self.wake_writers();
        self.reclaim.end(&*self.dir);
        self.files.close_all();
        let unlocked = self.dir.unlock().at("unlock", || self.path());
        sealed.and(unlocked)
    }

    /// A clean end: everything is synced, and the manifest says where the logs end, so that from now on every changed byte is
    /// found. Whatever keeps the end from being a clean one, what was committed is synced first.
    fn seal(&self, recovered: Result<()>) -> Result<()> {
        let mut manifest = self.manifest.lock();
        let mut commit = self.commit.lock();
        // Nothing is appended behind the seal.
        self.closed.store(true, Ordering::Release);
        // Only the bytes, and no word of it in the log: while commits of an earlier log may stand in no segment, no later one may say that it
        // was synced (W1).
        sync_bytes(&commit).inspect_err(|error| self.poison(error))?;
        recovered?;
        if let Some(log) = &mut commit.log {
            log.seal(RecordKind::Closed)?;
            // Giving reserved room back is only thrift.
            let _trimmed = log.trim();
        }
        let mut ends: Vec<_> = commit.unsynced.iter().map(|(file, end)| (file.number, *end)).collect();
        ends.extend(commit.log.as_ref().map(|log| (log.file().number, log.offset())));
        self.sync_log_locked(&mut commit)?;
        let (last, next, time_us) = (self.visible(), commit.next_seqno, commit.time_us);
        let mut edit = Edit::new([Change::Seqnos { last, next, ceiling: 0, time_us }]);
        for (number, end) in ends {
            edit.push(Change::LogEnd { number, end: LogEnd::Exactly(end) });
        }
        // The last edit of all: `commit_edit` takes none any more.
        manifest.commit(&edit).map_err(|(CommitFailure::NotCommitted(e) | CommitFailure::Unknown(e))| e)?;
        manifest.seal()
    }
}

fn open_dir(env: &dyn Env, path: &Path, options: &Options) -> Result<Arc<dyn Dir>> {
    if path.as_os_str().is_empty() {
        return Err(Error::invalid("the path of a database is empty; name a directory"));
    }
    let create = options.create && !options.read_only;
    env.open_dir(path, create).map_err(|source| match source.kind() {
        // What exactly is in the way, where the machine says it: not every part of the path is the user's idea of the
        // database.
        ErrorKind::NotFound | ErrorKind::NotADirectory if source.get_ref().is_some() => {
            Error::invalid(source.to_string())
        }
        ErrorKind::NotFound if !create => no_database(env, path, options),
        ErrorKind::NotADirectory => {
            Error::invalid(format!("{} is a file, or lies below one; a database is a directory", path.display()))
        }
        _ => Error::io("open", path, source),
    })
}

/// Of so many names beside one that is not there is it seen whether they are databases.
const BESIDE_MAX: usize = 8;

/// That there is no database, and what would make one or which one may have been meant.
#[cold]
fn no_database(env: &dyn Env, path: &Path, options: &Options) -> Error {
    let without = if options.read_only { "read_only(true)" } else { "create(false)" };
    let beside = || {
        let name = path.file_name()?.to_str()?;
        let parent = path.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?;
        let mut names = env.open_dir(parent, false).ok()?.list("").ok()?;
        names.retain(|other| other != name);
        names.sort_by_cached_key(|other| closest(name, [other.as_str()]).map_or(usize::MAX, |(distance, _)| distance));
        let is_database =
            |other: &&String| env.open_dir(&parent.join(other), false).and_then(|dir| dir.open(name::CURRENT)).is_ok();
        names.iter().take(BESIDE_MAX).find(is_database).map(|other| path.with_file_name(other))
    };
    let meant = beside().map(|other| format!(", or did you mean {}", other.display())).unwrap_or_default();
    Error::invalid(format!("there is no database at {}; open it without {without} to create it{meant}", path.display()))
}

fn lock(dir: &dyn Dir, shared: bool) -> Result<()> {
    let path = || dir.path().to_path_buf();
    if dir.try_lock(!shared).at("lock", path)? {
        return Ok(());
    }
    // LOCK names the newest writer. When a shared lock can be had, only readers are there, and the name is old.
    if !shared && dir.try_lock(false).at("lock", path)? {
        dir.unlock().at("unlock", path)?;
        return Err(Error::Locked { path: path(), pid: None });
    }
    let pid = dir.open(name::LOCK).ok().and_then(|file| {
        let text = read_all(&*file, dir.path()).ok()?;
        String::from_utf8(text).ok()?.trim().parse().ok()
    });
    Err(Error::Locked { path: path(), pid })
}

/// Writes down who holds the lock. The lock itself is on the directory: without this file nothing is lost.
fn sign(dir: &dyn Dir) -> Result<()> {
    let path = || dir.path().join(name::LOCK);
    match dir.remove(name::LOCK) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e).at("remove", path),
        _ => {}
    }
    let file = dir.create(name::LOCK).at("create", path)?;
    file.write_at(0, format!("{}\n", std::process::id()).as_bytes()).at("write", path)
}

/// That the directory holds a database or nothing: a folder of other files is left as it is.
fn look_around(dir: &dyn Dir) -> Result<()> {
    let names = dir.list("").at("list", || dir.path().to_path_buf())?;
    if names.iter().any(|name| name == name::CURRENT) {
        return Ok(());
    }
    if let Some(stranger) = names.iter().find(|name| !name::is_ours(name)) {
        return Err(Error::invalid(format!(
            "{} holds \"{stranger}\" and no database; give a database a directory of its own",
            dir.path().display()
        )));
    }
    for sub in [name::SEGMENTS, name::LOGS].into_iter().filter(|sub| names.iter().any(|name| name == sub)) {
        let inside = dir.list(sub).at("list", || dir.path().join(sub))?;
        if !inside.is_empty() {
            return Err(Error::Missing { path: dir.path().join(name::CURRENT) });
        }
    }
    Ok(())
}

/// Makes the directories of a new database, and an empty manifest.
fn create(env: &dyn Env, dir: &Arc<dyn Dir>, options: &Options) -> Result<ManifestStore> {
    if options.read_only || !options.create {
        return Err(no_database(env, dir.path(), options));
    }
    dir.restrict().at("restrict", || dir.path().to_path_buf())?;
    for sub in [name::LOGS, name::SEGMENTS] {
        dir.create_dir(sub).at("create", || dir.path().join(sub))?;
    }
    dir.sync_dir("").at("sync", || dir.path().to_path_buf())?;
    Ok(ManifestStore::new(Arc::clone(dir), env.entropy()))
}

/// That every segment the manifest names is there. What is in it, its opening checks.
fn check_files(dir: &dyn Dir, version: &Version) -> Result<()> {
    let names = dir.list(name::SEGMENTS).at("list", || dir.path().join(name::SEGMENTS))?;
    let there: std::collections::HashSet<u64> = names.iter().filter_map(|name| name::parse(name, ".seg")).collect();
    let mut segments = version.keyspaces.values().flat_map(|keyspace| keyspace.segments());
    match segments.find(|segment| !there.contains(&segment.number)) {
        None => Ok(()),
        Some(missing) => Err(Error::Missing { path: dir.path().join(name::segment(missing.number)) }),
    }
}

/// Replays the logs from the oldest that is needed to the first torn one.
fn replay_logs(dir: &dyn Dir, manifest: &ManifestStore) -> Result<Recovered> {
    let version = manifest.version();
    let names = dir.list(name::LOGS).at("list", || dir.path().join(name::LOGS))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| name::parse(name, ".wal")).collect();
    numbers.retain(|number| *number >= version.logs_from);
    numbers.sort_unstable();

    let newest = numbers.last().copied().max(version.log_ends.keys().next_back().copied());
    let mut recovered =
        Recovered { next_log: newest.map_or(version.logs_from.max(1), |newest| newest + 1), ..Recovered::default() };
    // Where the first log that lost its end is; what follows it is void.
    let mut torn: Option<u64> = None;
    for number in version.logs_from.max(1)..recovered.next_log {
        let path = dir.path().join(name::log(number));
        let known = version.log_ends.get(&number).copied();
        if !numbers.contains(&number) {
            // The name of a log is durable before the next one is begun (W4). Only one that a recovery has seen in the page cache may
            // be gone for no other reason than a power cut.
            if !matches!(known, Some(LogEnd::AtMost(_) | LogEnd::Exactly(0))) {
                return Err(Error::Missing { path });
            }
            if known.is_some_and(|known| known.offset() > 0) {
                torn.get_or_insert(number);
            }
            recovered.ends.insert(number, LogEnd::AtMost(0));
            continue;
        }
        let file = dir.open(&name::log(number)).at("open", || path.clone())?;
        let owner = Arc::new(read_all(&*file, &path)?);
        let header = Header { kind: FileKind::Log, file_id: manifest.database_id(), number };
        let mut batches = Vec::new();
        let replayed = replay(&path, &owner, header, known, |place| {
            batches.push(BatchView::new(Arc::clone(&owner), place.start, place.end));
            Ok(Verdict::Accept)
        })?;
        if let Some(torn) = torn {
            if replayed.was_synced {
                // A log is synced only after all older ones (W1): the older one was whole once.
                let what = "the end of a log that a later log was synced after";
                return Err(Corruption { offset: 0, what }.of(&dir.path().join(name::log(torn)), 0));
            }
            recovered.ends.insert(number, LogEnd::AtMost(0));
            continue;
        }
        recovered.take(number, &batches, version, &path)?;
        let exact = matches!(known, Some(LogEnd::Exactly(_)));
        // A log without a batch is nothing that anybody could miss.
        let end = if batches.is_empty() { 0 } else { replayed.end };
        let end = if exact { LogEnd::Exactly(replayed.end) } else { LogEnd::AtMost(end) };
        recovered.ends.insert(number, end);
        // A log is whole with a seal, or when it reaches the end that an earlier recovery found.
        let whole = known.map_or(replayed.ending != Ending::Torn, |known| known.offset() == replayed.end);
        if !whole {
            torn = Some(number);
        }
    }
    Ok(recovered)
}

impl Recovered {
    fn take(&mut self, number: u64, batches: &[BatchView], version: &Version, path: &Path) -> Result<()> {
        for batch in batches {
            let (seqno, time_us) = batch.stamp().map_err(|bad| bad.of(path, 0))?;
            let mut known = true;
            batch.for_each(|op| known &= op.keyspace.0 < version.next_keyspace).map_err(|bad| bad.of(path, 0))?;
            if seqno <= self.last_seqno || seqno >= version.seqno_ceiling || !known {
                return Err(Corruption { offset: 0, what: "batches in order, of known keyspaces" }.of(path, 0));
            }
            self.last_seqno = seqno;
            self.time_us = self.time_us.max(time_us);
        }
        if !batches.is_empty() {
            let table = Memtable::from_batches(number, batches).map_err(|bad| bad.of(path, 0))?;
            self.memtables.insert(0, Arc::new(table));
        }
        Ok(())
    }
}

/// A file number above every segment there is, named or not.
fn unused_file(dir: &dyn Dir) -> Result<u64> {
    let names = dir.list(name::SEGMENTS).at("list", || dir.path().join(name::SEGMENTS))?;
    Ok(names.iter().filter_map(|name| name::parse(name, ".seg")).max().map_or(1, |newest| newest + 1))
}

/// Removes what no manifest names: leftovers of a crash. What cannot be removed is harmless and waits for the next open.
fn remove_strangers(dir: &dyn Dir, manifest: &ManifestStore, newest_log: u64) {
    let version = manifest.version();
    let live: std::collections::HashSet<u64> =
        version.keyspaces.values().flat_map(|keyspace| keyspace.segments()).map(|segment| segment.number).collect();
    let list = |sub: &str| dir.list(sub).unwrap_or_default();
    let segments = list(name::SEGMENTS);
    let segments = segments.iter().filter_map(|name| name::parse(name, ".seg")).filter(|number| !live.contains(number));
    let logs = list(name::LOGS);
    let logs = logs
        .iter()
        .filter_map(|name| name::parse(name, ".wal"))
        .filter(|number| *number < version.logs_from && *number != newest_log);
    let top = list("");
    let manifests =
        top.iter().filter_map(|name| name::parse_manifest(name)).filter(|number| *number != manifest.number());
    let gone = segments.map(name::segment).chain(logs.map(name::log)).chain(manifests.map(name::manifest));
    for name in gone {
        let _removed = dir.remove(&name);
    }
}
