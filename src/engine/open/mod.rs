//! Opening a database: lock, inspect, recover, start.
//!
//! ```text
//!  1 lock       the directory itself; a second opener gets `Locked`
//!  2 inspect    only our own files; CURRENT, or nothing that would need it
//!  3 manifest   which segments and logs must exist; each is checked for existence
//!  4 replay     logs in order, up to the first torn tail; what follows is void (W3)
//!  5 record     a new manifest: where each log ended, and seqnos above all that may have been used
//!  6 begin      a new log; what no manifest names is removed; background work starts
//! ```
//!
//! Before step 5 only `LOCK` and the directories of a new database are written, and step 5 is one atomic switch: after
//! a crash at any point, the next open recovers from the same state.

mod recover;
mod threads;

use std::{
    collections::HashSet,
    io::ErrorKind,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

pub(crate) use threads::Running;

use crate::{
    base::{Error, FileNumber, IoContext, PLACES, Result, Seqno},
    engine::{
        Catalogue, ChunkStore, Clock, Context, Counters, Engine, FileSet, Health, Jobs, Log, Options, Work,
        files::{
            InMemory,
            chunks::{ChunkSet, RecoveredChunks},
            epoch::Epoch,
            superversion::Moment,
        },
        jobs::flush_recovered,
        keyspaces::closest,
        locks::LockOrder,
        log::LogStart,
    },
    env::{Dir, Env, Files},
    format::{FileKind, Header, name},
    manifest::{Change, CommitFailure, Edit, ManifestStore, Version, read_all},
    memtable::Memtable,
    merge::DeadSpans,
    wal::LogWriter,
};
use recover::{Recovered, pack_numbers, replay_logs};

/// Opens the database in a directory.
fn open(options: &Options, path: &Path) -> Result<Engine> {
    let env = Arc::clone(&options.env);
    let held = open_dir(&*env, path, options)?;
    let pool = Arc::new(Files::new(held, options.open_segments_max()));
    let dir: Arc<dyn Dir> = Arc::<Files>::clone(&pool);
    lock(&*dir, options.read_only)?;

    look_around(&*dir)?;
    let manifest = match ManifestStore::open(Arc::clone(&dir))? {
        Some(manifest) => manifest,
        None => create(&*env, &dir, options)?,
    };
    check_files(&*dir, manifest.version())?;
    let recovered = replay_logs(&pool, &manifest)?;
    if !options.read_only {
        sign(&*dir)?;
    }
    let database_id = manifest.database_id();
    let ctx = Context { env, dir, pool, options: options.clone(), database_id, order: LockOrder::new() };
    begin(Arc::new(ctx), manifest, recovered)
}

/// Runs steps 5 and 6.
fn begin(ctx: Arc<Context>, mut manifest: ManifestStore, recovered: Recovered) -> Result<Engine> {
    let clean = manifest.was_clean();
    let before = Arc::clone(manifest.version());
    let last = recovered.last_seqno.max(before.last_seqno);
    // After a crash, seqnos up to the old ceiling may have been returned to callers and lost.
    let first = if clean { before.next_seqno } else { before.seqno_ceiling }.max(last.next());
    let ceiling = Seqno(first.0.saturating_add(ctx.options.limits.seqno_reserve));
    let time = recovered.time.max(before.time);
    let log_number = recovered.next_log;

    let mut writer = None;
    if !ctx.options.read_only {
        // Commits that only an unsynced log holds may be lost in the next crash: they are not recorded as existing.
        let known = if clean { last } else { before.last_seqno };
        let mut edit = Edit::new([Change::Seqnos { last: known, next: first, ceiling, time }]);
        let oldest = recovered.memtables.last().map_or(log_number, |memtable| memtable.log());
        edit.push(Change::LogsFrom { number: oldest });
        for (&number, &end) in recovered.ends.range(oldest..) {
            edit.push(Change::LogEnd { number, end });
        }
        edit.push(Change::NextFile { number: unused_file(&*ctx.dir)?.max(before.next_file) });
        manifest.commit(&edit).map_err(|(CommitFailure::NotCommitted(e) | CommitFailure::Unknown(e))| e)?;
        if ctx.dir.list(name::PACKS).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            make_dir(&*ctx.dir, name::PACKS)?;
            ctx.dir.sync_dir("").at("sync", || ctx.path())?;
        }
        writer = Some(begin_log(&ctx, log_number)?);
        remove_strangers(&*ctx.dir, &manifest, &recovered, log_number);
    }

    let active = Arc::new(Memtable::new(log_number));
    let health = Arc::new(Health::new(ctx.path(), ctx.options.read_only, ctx.order));
    let epoch = Arc::new(Epoch::new(&ctx, &health, log_number));
    let store = Arc::new(ChunkStore::new(ctx.order, ctx.options.chunk_cache_bytes()));
    let mut chunks = ChunkSet::new(&store, ctx.dir.path().join(name::PACKS));
    chunks.epochs.push(Arc::clone(&epoch));
    let Recovered { memtables, mut packs, .. } = recovered;
    packs.retain(|_, scanned| !scanned.lines.is_empty());
    let oldest = memtables.last().map(|oldest| oldest.log()).filter(|_| !packs.is_empty());
    chunks.recovered = oldest.map(|log| Arc::new(RecoveredChunks::new(log, packs)));
    let (work, counters) = (Arc::new(Work::new(ctx.order)), Arc::<Counters>::default());
    let opened = Moment { seqno: last, time, version: Arc::clone(manifest.version()) };
    let replayed = memtables.first().map(|newest| newest.log()).filter(|_| !clean);
    let in_memory = InMemory { active: Arc::clone(&active), sealed: memtables, newest: opened, chunks };
    let start = LogStart {
        writer,
        memtable: Arc::clone(&active),
        epoch,
        visible: last,
        next_seqno: first,
        ceiling,
        time,
        synced: if replayed.is_some() { before.last_seqno } else { last },
        recovered: replayed,
    };
    let jobs = Jobs::new(ctx.order);
    // What was dropped before a crash is not known any more.
    jobs.garbage.record_dropped(if clean { before.dropped } else { u64::MAX });
    Ok(Engine {
        clock: Clock::new(Arc::clone(&ctx.env), time, ctx.order),
        catalogue: Catalogue::new(ctx.order),
        files: FileSet::new(&ctx, &health, &work, manifest, in_memory),
        log: Log::new(&ctx, &health, &work, &counters, start),
        jobs,
        store,
        dead: Arc::new(DeadSpans::new(ctx.options.dead_bytes())),
        ctx,
        health,
        work,
        counters,
    })
}

/// Creates the new log, and makes its name durable.
fn begin_log(ctx: &Context, number: FileNumber) -> Result<LogWriter> {
    let header = Header { kind: FileKind::Log, file_id: ctx.database_id, number };
    let created = LogWriter::create(&*ctx.dir, header).and_then(|log| ctx.sync_log_names().map(|()| log));
    created.inspect_err(|_| {
        // Otherwise every open that fails here would leave a log.
        let _removed = ctx.dir.remove(&name::log(number));
    })
}

/// Closes the database, after its threads have ended. Whatever happens, the directory lock is free afterwards.
///
/// Waits for jobs that users run on other threads; they check whether to stop. None begins after the seal, and no file
/// is touched once the lock is free.
fn close(engine: &Engine) -> Result<()> {
    let Engine { ctx, health, files, work, jobs, .. } = engine;
    let read_only = ctx.options.read_only;
    let recovered = if read_only { Ok(()) } else { health.check_writable().and_then(|()| flush_recovered(engine)) };
    ctx.pass("close: asked for, then begun");
    let _no_job = jobs.end();
    let sealed = if read_only { Ok(()) } else { seal(engine, recovered.and_then(|()| ctx.check_there())) };
    {
        // Even if the seal was not reached, the next edit finds the database closed.
        let _no_edit = files.edit();
        health.close();
    }
    // A stream may outlive the database.
    files.with_current(|now| now.chunks.epochs.iter().for_each(|epoch| epoch.end()));
    work.wake_writers();
    files.end();
    ctx.pool.close_all();
    let unlocked = ctx.dir.unlock().at("unlock", || ctx.path());
    sealed.and(unlocked)
}

/// Makes a clean close: syncs everything and records in the manifest where the logs end, so that from then on every
/// changed byte is detected. Whatever prevents a clean close, what was committed is synced first.
fn seal(engine: &Engine, recovered: Result<()>) -> Result<()> {
    let Engine { health, files, log, .. } = engine;
    let mut editing = files.edit();
    let mut commit = log.lock();
    // Nothing is appended after the seal.
    health.close();
    // Syncs the bytes only and records nothing in the log: while commits of an earlier log may be in no segment, no
    // later log may claim to be synced (W1).
    commit.sync_bytes(files).inspect_err(|error| health.poison(error))?;
    recovered?;
    let ends = log.seal(&mut commit, files)?;
    let (last, next, time) = (log.visible(), commit.next_seqno(), commit.time());
    let mut edit = Edit::new([Change::Seqnos { last, next, ceiling: Seqno(0), time }]);
    for (number, end) in ends {
        edit.push(Change::LogEnd { number, end });
    }
    let dropped = engine.jobs.garbage.for_close(engine.store.abandoned().load(Ordering::Relaxed));
    if dropped != editing.version().dropped {
        edit.push(Change::Dropped { bytes: dropped });
    }
    editing.seal(&edit)
}

fn open_dir(env: &dyn Env, path: &Path, options: &Options) -> Result<Arc<dyn Dir>> {
    if path.as_os_str().is_empty() {
        return Err(Error::invalid("the path of a database is empty; name a directory"));
    }
    let create = options.create && !options.read_only;
    env.open_dir(path, create).map_err(|source| match source.kind() {
        // Reports exactly what is in the way, if the machine names it: it may be another part of the path.
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

/// Most similar names that are checked for being databases, if there is none at the path.
const BESIDE_MAX: usize = 8;

/// Returns the error for a missing database, with what would create one or which one may have been meant.
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
    let meant = beside().map(|other| format!("; did you mean {}?", other.display())).unwrap_or_default();
    Error::invalid(format!("there is no database at {}; open it without {without} to create it{meant}", path.display()))
}

fn lock(dir: &dyn Dir, shared: bool) -> Result<()> {
    let path = || dir.path().to_path_buf();
    if dir.try_lock(!shared).at("lock", path)? {
        return Ok(());
    }
    // LOCK names the newest writer. If a shared lock can be taken, only readers are there and the name is stale.
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

/// Records which process holds the lock. The lock itself is on the directory: without this file nothing is lost.
fn sign(dir: &dyn Dir) -> Result<()> {
    let path = || dir.path().join(name::LOCK);
    match dir.remove(name::LOCK) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e).at("remove", path),
        _ => {}
    }
    let file = dir.create(name::LOCK).at("create", path)?;
    file.write_at(0, format!("{}\n", std::process::id()).as_bytes()).at("write", path)
}

/// Checks that the directory holds a database or nothing: a directory of other files is left untouched.
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
    for sub in [name::SEGMENTS, name::LOGS, name::PACKS].into_iter().filter(|sub| names.iter().any(|name| name == sub))
    {
        let inside = dir.list(sub).at("list", || dir.path().join(sub))?;
        if !inside.is_empty() {
            return Err(Error::Missing { path: dir.path().join(name::CURRENT) });
        }
    }
    Ok(())
}

/// Creates the directories of a new database, and an empty manifest.
fn create(env: &dyn Env, dir: &Arc<dyn Dir>, options: &Options) -> Result<ManifestStore> {
    if options.read_only || !options.create {
        return Err(no_database(env, dir.path(), options));
    }
    dir.restrict().at("restrict", || dir.path().to_path_buf())?;
    for sub in [name::LOGS, name::SEGMENTS, name::PACKS] {
        make_dir(&**dir, sub)?;
    }
    dir.sync_dir("").at("sync", || dir.path().to_path_buf())?;
    Ok(ManifestStore::new(Arc::clone(dir), env.entropy()))
}

fn make_dir(dir: &dyn Dir, name: &str) -> Result<()> {
    dir.create_dir(name).at("create", || dir.path().join(name))
}

/// Checks that every segment and pack that the manifest names exists. Contents are checked when they are opened.
fn check_files(dir: &dyn Dir, version: &Version) -> Result<()> {
    let names = dir.list(name::SEGMENTS).at("list", || dir.path().join(name::SEGMENTS))?;
    let there: HashSet<FileNumber> = names.iter().filter_map(|name| name::parse(name, ".seg")).collect();
    // Places can be made anew from the packs: until then those are asked.
    let kept = version.keyspaces.values().filter(|keyspace| keyspace.id != PLACES);
    let mut segments = kept.flat_map(|keyspace| keyspace.segments());
    match segments.find(|segment| !there.contains(&segment.number)) {
        None => {}
        Some(missing) => return Err(Error::Missing { path: dir.path().join(name::segment(missing.number)) }),
    }
    if version.packs.is_empty() {
        return Ok(());
    }
    let there: HashSet<FileNumber> = pack_numbers(dir)?.into_iter().collect();
    match version.packs.keys().find(|number| !there.contains(number)) {
        None => Ok(()),
        Some(missing) => Err(Error::Missing { path: dir.path().join(name::pack(*missing)) }),
    }
}

/// Returns a file number above that of every existing segment and pack, named or not.
fn unused_file(dir: &dyn Dir) -> Result<FileNumber> {
    let names = dir.list(name::SEGMENTS).at("list", || dir.path().join(name::SEGMENTS))?;
    let segments = names.iter().filter_map(|name| name::parse(name, ".seg"));
    Ok(segments.chain(pack_numbers(dir)?).max().map_or(FileNumber(1), FileNumber::next))
}

/// Removes files that the manifest does not name: leftovers of a crash. Those that cannot be removed are harmless and
/// wait for the next open.
///
/// Packs that a recovery found stay while a memtable of it is in no segment: nothing else holds its chunks.
fn remove_strangers(dir: &dyn Dir, manifest: &ManifestStore, recovered: &Recovered, newest_log: FileNumber) {
    let version = manifest.version();
    let live: HashSet<FileNumber> =
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
    let needed = |number: &FileNumber| {
        let found = recovered.packs.get(number).filter(|_| !recovered.memtables.is_empty());
        version.packs.contains_key(number) || found.is_some_and(|scanned| !scanned.lines.is_empty())
    };
    let packs = pack_numbers(dir).unwrap_or_default().into_iter().filter(|number| !needed(number));
    let gone = segments
        .map(name::segment)
        .chain(packs.map(name::pack))
        .chain(logs.map(name::log))
        .chain(manifests.map(name::manifest));
    for name in gone {
        let _removed = dir.remove(&name);
    }
}
