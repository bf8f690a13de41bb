//! Checkpoints: consistent copies in a directory of their own, by hard links where possible.
//!
//! Only finished files are linked: a segment is never written again, so the copy and the original may share it. The
//! copy gets its own manifest, its own id, and no log.

use std::{
    collections::{BTreeMap, HashSet},
    io::ErrorKind,
    path::Path,
    sync::Arc,
};

use super::{
    Engine, KeyspaceRef, Watch,
    catalogue::readers_of,
    files::{
        chunks::{damage, sort_places, write_places},
        copies::PackCopies,
        superversion::{Moment, SuperVersion},
    },
    jobs::{copying, flush},
    read::{References, ViewCore, newest_version, state_as_of},
    timeline::write_stamps,
};
use crate::{
    base::{Corruption, Error, FileNumber, IoContext, Kind, Micros, PLACES, Result, Seqno, TIMELINE},
    chunk::pack::PackMeta,
    env::Dir,
    format::name,
    manifest::{CommitFailure, KeyspaceVersion, ManifestStore, StoredOptions, Version},
    memtable::Stamp,
    merge::{ReadAt, Tombstones},
    segment::{Entry, Purpose, SegmentMeta, SegmentWriter},
};

/// Bytes copied at a time where links are not possible.
const COPY_CHUNK: usize = 1 << 20;

/// Keys between two reports of progress of a view's copy.
const LOOK_EVERY: u64 = 1024;

/// Copies everything committed before the call to a new database at `path`.
pub(crate) fn checkpoint(engine: &Arc<Engine>, path: &Path, watch: &mut Watch<'_>) -> Result<()> {
    if engine.ctx.options.read_only {
        // Recovered writes are in memory only, so the copy is of what a view sees.
        return checkpoint_view(&ViewCore::snapshot(engine), path, watch);
    }
    engine.health.check_writable()?;
    check_outside(engine, path)?;
    let _copying = copying(engine);
    flush(engine)?;
    engine.ctx.pass("checkpoint: flush, then moment");
    let (files, version) = flushed_moment(engine)?;
    engine.ctx.pass("checkpoint: moment, then links");
    copy_to(engine, path, |target| {
        let segments = || version.keyspaces.values().flat_map(|keyspace| keyspace.segments());
        let segments = segments().map(|segment| (name::segment(segment.number), segment.file_len));
        let packs = version.packs.values().map(|pack| (name::pack(pack.number), pack.file_len));
        let all: Vec<_> = segments.chain(packs).collect();
        watch.begin(all.iter().map(|(_, len)| len).sum())?;
        for (name, len) in all {
            watch.begin_part(len);
            link_or_copy(engine, &**target, &name, watch)?;
            watch.end_part()?;
        }
        // Keeps the copied files alive up to here.
        drop(files);
        engine.ctx.pass("checkpoint: links, then manifest");
        name_checkpoint(engine, target, &version)?;
        watch.end();
        Ok(())
    })
}

/// Creates a directory and a copy in it. On failure nothing is left behind, so that the call can be repeated.
fn copy_to(engine: &Engine, path: &Path, write: impl FnOnce(&Arc<dyn Dir>) -> Result<()>) -> Result<()> {
    let is_new = engine.ctx.env.open_dir(path, false).is_err_and(|error| error.kind() == ErrorKind::NotFound);
    let target = checkpoint_dir(engine, path)?;
    // Closing the database fails the copy: a part of one is none.
    let written = write(&target).and_then(|()| engine.check_open());
    written.inspect_err(|_| {
        clear(&*target);
        if is_new {
            engine.ctx.env.remove_dir(path);
        }
    })
}

fn check_outside(engine: &Engine, path: &Path) -> Result<()> {
    if engine.ctx.dir.contains(path) {
        let what = format!("{} lies inside the database; a checkpoint goes elsewhere", path.display());
        return Err(Error::invalid(what));
    }
    Ok(())
}

/// Creates the directory of a copy; it must be empty and not in use.
fn checkpoint_dir(engine: &Engine, path: &Path) -> Result<Arc<dyn Dir>> {
    let made = engine.ctx.pool.sparing(|| engine.ctx.env.open_dir(path, true)).at("create", || path.to_path_buf())?;
    let target: Arc<dyn Dir> = Arc::new(engine.ctx.pool.beside(made));
    let at = || target.path().to_path_buf();
    // The second of two copies to one directory neither adds to the first nor clears it away.
    if !target.try_lock(true).at("lock", at)? {
        let what = format!("{} is in use; a checkpoint goes to a new directory", path.display());
        return Err(Error::invalid(what));
    }
    // Empty apart from empty directories that an earlier copy may have left.
    let is_free = |name: &String| {
        let ours = [name::LOGS, name::SEGMENTS, name::PACKS].contains(&name.as_str());
        Ok::<_, Error>(ours && target.list(name).at("list", at)?.is_empty())
    };
    let names = target.list("").at("list", at)?;
    if !names.iter().map(is_free).collect::<Result<Vec<_>>>()?.into_iter().all(|free| free) {
        let what = format!("{} is not empty; a checkpoint goes to a new directory", path.display());
        return Err(Error::invalid(what));
    }
    target.restrict().at("restrict", at)?;
    for sub in [name::LOGS, name::SEGMENTS, name::PACKS] {
        target.create_dir(sub).at("create", || target.path().join(sub))?;
    }
    Ok(target)
}

/// Turns the segments of a copy into a database. CURRENT comes last, so an interrupted copy is none.
fn name_checkpoint(engine: &Engine, target: &Arc<dyn Dir>, version: &Version) -> Result<()> {
    for sub in [name::SEGMENTS, name::PACKS] {
        target.sync_dir(sub).at("sync", || target.path().join(sub))?;
    }
    target.sync_dir("").at("sync", || target.path().to_path_buf())?;
    let mut manifest = ManifestStore::new(Arc::clone(target), engine.ctx.env.entropy());
    let committed = manifest.commit(&version.snapshot());
    committed.map_err(|(CommitFailure::NotCommitted(e) | CommitFailure::Unknown(e))| e)?;
    manifest.seal()
}

/// Returns the newest moment at which segments hold everything and nothing newer, as a version of its own, with the
/// files.
fn flushed_moment(engine: &Engine) -> Result<(Arc<SuperVersion>, Version)> {
    let files = engine.files.current();
    engine.check_open()?;
    let moment = files.flushed.clone();
    assert!(moment.is_some(), "a flush left {} sealed memtables and no settled moment", files.sealed.len());
    let version = moment.map(|moment| version_at(&moment, &files.version)).unwrap_or_default();
    Ok((files, version))
}

/// Returns the version of a moment: the decisions made by then, and the current segments, which hold nothing newer.
///
/// Everything that users decide comes from the moment, and everything that jobs do from the current version. Each field
/// is named, so that a new one has to be put on one side. (Rejected: the current version with later changes taken back
/// out. It missed the kinds of change that were added afterwards.)
fn version_at(moment: &Moment, now: &Version) -> Version {
    let Version {
        keyspaces,
        next_keyspace,
        pins,
        logs_from,
        decisions,
        // Packs and scopes only grow in what a moment needs of them.
        packs: _,
        scopes: _,
        // The copy has no logs, and numbers of its own.
        log_ends: _,
        next_file: _,
        last_seqno: _,
        next_seqno: _,
        seqno_ceiling: _,
        time: _,
        held: _,
        // A hint of now.
        dropped: _,
    } = &*moment.version;
    // The past of a pin that was removed meanwhile may have been dropped.
    let pins: BTreeMap<_, _> = pins
        .iter()
        .filter(|(name, pin)| now.pins.get(*name) == Some(pin))
        .map(|(name, pin)| (name.clone(), *pin))
        .collect();
    let pinned: Vec<Seqno> = {
        let mut seqnos: Vec<_> = pins.values().map(|pin| pin.seqno).collect();
        seqnos.sort_unstable();
        seqnos
    };
    let mut copied = BTreeMap::new();
    for (&id, now) in &now.keyspaces {
        if now.is_hidden() {
            // The engine's own keyspace is flushed with the commits that it records.
            copied.insert(id, Arc::clone(now));
            continue;
        }
        let Some(then) = keyspaces.get(&id) else { continue };
        let KeyspaceVersion {
            id: _,
            name,
            options,
            born,
            dropped,
            vanished: _,
            horizon: _,
            expired_upto: _,
            levels: _,
            history: _,
        } = &**then;
        if dropped.is_some_and(|dropped| readers_of(*born, dropped, &pinned).is_empty()) {
            continue;
        }
        let keyspace = KeyspaceVersion {
            name: name.clone(),
            options: options.clone(),
            born: *born,
            dropped: *dropped,
            ..KeyspaceVersion::clone(now)
        };
        copied.insert(id, Arc::new(keyspace));
    }
    let alive = keyspaces.values().filter(|keyspace| keyspace.dropped.is_none());
    for missing in alive.filter(|keyspace| !copied.contains_key(&keyspace.id)) {
        assert!(missing.is_hidden(), "keyspace {:?} was forgotten under a copy of {}", missing.id, moment.seqno);
    }
    let copied_files: HashSet<FileNumber> =
        copied.values().flat_map(|keyspace| keyspace.segments()).map(|segment| segment.number).collect();
    // Places are at seqnos of no commit, which the copy must not give out again.
    let places = copied.get(&PLACES).into_iter().flat_map(|keyspace| keyspace.segments());
    let newest = places.map(|segment| segment.summary.max_seqno).max().unwrap_or(Seqno(0)).max(moment.seqno);
    Version {
        keyspaces: copied,
        next_keyspace: *next_keyspace,
        logs_from: *logs_from,
        log_ends: BTreeMap::new(),
        next_file: now.next_file,
        last_seqno: moment.seqno,
        next_seqno: newest.next(),
        seqno_ceiling: newest.next(),
        time: moment.time,
        packs: Arc::clone(&now.packs),
        // What was dropped since the last close is known to nobody in the copy.
        dropped: u64::MAX,
        scopes: Arc::clone(&now.scopes),
        pins,
        decisions: Arc::clone(decisions),
        held: Arc::new(
            now.held.iter().filter(|(number, _)| copied_files.contains(number)).map(|(n, b)| (*n, b.clone())).collect(),
        ),
    }
}

/// Removes what a failed copy has left; nothing refers to what cannot be removed.
fn clear(target: &dyn Dir) {
    for sub in [name::SEGMENTS, name::LOGS, name::PACKS, ""] {
        for file in target.list(sub).unwrap_or_default() {
            let name = if sub.is_empty() { file } else { format!("{sub}/{file}") };
            let _removed = target.remove(&name);
        }
    }
    for sub in [name::SEGMENTS, name::LOGS, name::PACKS] {
        let _removed = target.remove_dir(sub);
    }
}

/// Writes what this view sees to a new database at `path`.
pub(crate) fn checkpoint_view(view: &Arc<ViewCore>, path: &Path, watch: &mut Watch<'_>) -> Result<()> {
    view.engine().check_open()?;
    check_outside(view.engine(), path)?;
    copy_to(view.engine(), path, |target| copy_into(view, target, watch))
}

fn copy_into(view: &Arc<ViewCore>, target: &Arc<dyn Dir>, watch: &mut Watch<'_>) -> Result<()> {
    let engine = view.engine();
    // One superversion for everything: a collection may move chunks between two of them.
    let files = view.files();
    let mut version = Version {
        next_keyspace: files.version.next_keyspace,
        last_seqno: view.seqno(),
        time: view.time(),
        scopes: Arc::clone(&files.version.scopes),
        ..Version::default()
    };
    let mut needed = References::default();
    engine.ctx.pass("view checkpoint: files, then keyspaces");
    let keyspaces = view.keyspaces()?;
    let bytes_of = |id| {
        let now = files.version.keyspaces.get(&id);
        now.map_or(0, |keyspace| keyspace.main().map(|segment| segment.file_len).sum::<u64>())
    };
    watch.begin(keyspaces.iter().map(|keyspace| bytes_of(keyspace.id)).sum())?;
    for keyspace in keyspaces {
        watch.begin_part(bytes_of(keyspace.id));
        let mut copied = KeyspaceVersion {
            levels: Vec::new(),
            history: Vec::new(),
            dropped: None,
            ..KeyspaceVersion::clone(keyspace)
        };
        // Only the newest versions at the view's moment are copied, so from that moment on every read is exact.
        copied.vanished = view.seqno();
        copied.horizon = view.seqno();
        copied.expired_upto = Micros::ZERO;
        copied.options.ttls = ttls_of_copy(view, &keyspace.options.ttls);
        let reference = engine.catalogue.keyspace_ref(keyspace)?;
        let segments = copy_keyspace(view, &files, &**target, keyspace, &reference, &mut needed, watch)?;
        if !segments.is_empty() {
            copied.levels = vec![Vec::new(), segments];
        }
        version.keyspaces.insert(keyspace.id, Arc::new(copied));
        watch.end_part()?;
        engine.ctx.pass("view checkpoint: one keyspace, then the next");
    }
    // The timeline of the copy has the view's moment alone.
    let mut made = Vec::new();
    let stamp = Stamp { seqno: view.seqno(), time: view.time(), writes: 0 };
    // Numbers of the database itself: what is linked keeps its own.
    let stamps = write_stamps(&engine.ctx, &**target, engine.files.take_number(), &[stamp], &mut made)?;
    let timeline = KeyspaceVersion {
        id: TIMELINE,
        name: String::new(),
        options: StoredOptions::default(),
        born: Seqno(0),
        dropped: None,
        vanished: Seqno(0),
        horizon: view.seqno(),
        expired_upto: Micros::ZERO,
        levels: vec![stamps.map(Arc::new).into_iter().collect()],
        history: Vec::new(),
    };
    version.keyspaces.insert(TIMELINE, Arc::new(timeline));
    copy_chunks(engine, &**target, &files, needed, &mut version, watch)?;
    name_checkpoint(engine, target, &version)?;
    watch.end();
    Ok(())
}

/// Returns the times to live for a copy of a view: those set by the view's moment. Later ones are set again in the copy
/// if wanted there. An incomplete view's moment was not kept, so the one in force then may be forgotten: its copy gets
/// the current options, and with them the current time to live.
fn ttls_of_copy(view: &ViewCore, known: &[(Seqno, Micros)]) -> Arc<[(Seqno, Micros)]> {
    let until = known.partition_point(|(from, _)| *from <= view.seqno());
    let (then, since) = known.split_at(until);
    let now = since.last().filter(|_| !view.is_complete()).map(|(_, ttl)| (view.seqno().next(), *ttl));
    then.iter().copied().chain(now).collect()
}

/// Writes the keys of a keyspace that this view sees to segments, and returns those.
fn copy_keyspace(
    view: &Arc<ViewCore>,
    current: &Arc<SuperVersion>,
    target: &dyn Dir,
    keyspace: &KeyspaceVersion,
    reference: &KeyspaceRef,
    needed: &mut References,
    watch: &mut Watch<'_>,
) -> Result<Vec<Arc<SegmentMeta>>> {
    let engine = view.engine();
    let keeps_time = engine.catalogue.keeps_time(keyspace);
    let Some(mut scan) = view.scan_on(current, reference)? else { return Ok(Vec::new()) };
    let mut segments = Vec::new();
    let mut writer: Option<SegmentWriter> = None;
    let mut finish = |writer: SegmentWriter| {
        segments.push(Arc::new(writer.finish(&Tombstones::default(), |_| false)?));
        Ok::<_, Error>(())
    };
    let read_at = view.read_at(reference)?;
    let main = || current.version.keyspaces.get(&keyspace.id).into_iter().flat_map(|now| now.main());
    let keys = main().map(|segment| segment.summary.keys).sum::<u64>();
    let mut copied = 0;
    let mut last: Option<Vec<u8>> = None;
    loop {
        // A value that cannot be returned, such as a sum that is too large now, is copied all the same.
        let (kind, wide) = match scan.step() {
            Ok(false) => break,
            Ok(true) => (scan.entry().0, None),
            Err(error) if scan.has_ended() => return Err(error),
            Err(error) => {
                let state = |read_at: &ReadAt| state_as_of(current, reference, scan.key(), read_at.clone());
                let state = read_at.as_ref().map(state).transpose()?.flatten();
                let Some((kind, state)) = state else { return Err(reference.of_key(scan.key(), error)) };
                (kind, Some(state))
            }
        };
        // What is written must be in order, and files may lie about theirs.
        if last.as_deref().is_some_and(|last| last >= scan.key()) {
            let what = "keys in order; a verification names the file";
            return Err(Corruption { offset: 0, what }.of(&engine.ctx.dir.path().join(name::SEGMENTS), 0));
        }
        let key = last.get_or_insert_default();
        key.clear();
        key.extend_from_slice(scan.key());
        copied += 1;
        if copied % LOOK_EVERY == 0 {
            watch.step(copied, keys)?;
        }
        if let Some(full) = writer.take_if(|writer| writer.is_full(engine.ctx.options.segment_bytes())) {
            finish(full)?;
        }
        // Its version: the newest in its history up to the moment.
        let version = newest_version(view, current, reference, scan.key())?;
        let (seqno, time) = version.unwrap_or((view.seqno(), view.time()));
        let entry = Entry { time: keeps_time.then_some(time), ..Entry::new(kind, seqno) };
        if writer.is_none() {
            let purpose = Purpose {
                keyspace: keyspace.id,
                base: Seqno(0),
                time_base: keeps_time.then_some(Micros::ZERO),
                run: None,
                index: keyspace.options.point_index,
                hash_seed: engine.ctx.database_id,
            };
            let number = engine.files.take_number();
            writer = Some(SegmentWriter::create(target, number, engine.ctx.env.entropy(), purpose)?);
        }
        let value = wide.as_deref().unwrap_or_else(|| scan.entry().1);
        if kind == Kind::Recipe {
            needed.add(scan.chunks(), (reference, scan.key()), value, &|| view.engine().check_open())?;
        }
        if let Some(open) = &mut writer {
            open.add(&entry, scan.key(), value)?;
        }
    }
    if let Some(last) = writer {
        finish(last)?;
    }
    Ok(segments)
}

/// Links the packs that a copy needs, with all places, of which those in other packs say nothing; and copies what is
/// in packs without a name.
fn copy_chunks(
    engine: &Engine,
    target: &dyn Dir,
    files: &SuperVersion,
    needed: References,
    version: &mut Version,
    watch: &mut Watch<'_>,
) -> Result<()> {
    let (packs, unnamed) = needed.into_packs();

    let chunks = &files.chunks;
    let mut writer = PackCopies::new(&engine.ctx, target);
    let mut room = Vec::new();
    for id in unnamed {
        let chunk = match chunks.unnamed(&id, &mut room) {
            Err(error) if damage(&error).is_some() => None,
            read => read?,
        };
        let Some(chunk) = chunk else { continue };
        writer.append(&chunk, || engine.files.take_number())?;
    }
    let (copied, mut places) = writer.finish()?;
    // All of one superversion: what its recipes refer to is in its packs.
    let named = packs.keys().filter_map(|number| chunks.packs.get(number));
    let mut all: BTreeMap<FileNumber, PackMeta> = BTreeMap::new();
    for handle in named {
        link_or_copy(engine, target, &name::pack(handle.meta.number), watch)?;
        all.insert(handle.meta.number, handle.meta);
    }
    let mut keyspace = version.keyspaces.get(&PLACES).map(|places| KeyspaceVersion::clone(places));
    if let Some(keyspace) = keyspace.as_mut().filter(|_| !all.is_empty()) {
        for level in &chunks.places().levels {
            for segment in level {
                link_or_copy(engine, target, &name::segment(segment.meta.number), watch)?;
            }
            keyspace.levels.push(level.iter().map(|segment| Arc::clone(&segment.meta)).collect());
        }
    }
    let newest = keyspace.iter().flat_map(KeyspaceVersion::segments).map(|segment| segment.summary.max_seqno).max();
    // Places are at seqnos of no commit, which the copy must not give out again.
    let mut newest = newest.unwrap_or(Seqno(0)).max(version.last_seqno);
    if !copied.is_empty() {
        sort_places(&mut places);
        newest = newest.next();
        let segment = write_places(&engine.ctx, target, engine.files.take_number(), newest, &places)?;
        if let Some((keyspace, segment)) = keyspace.as_mut().zip(segment) {
            if keyspace.levels.is_empty() {
                keyspace.levels.push(Vec::new());
            }
            // Newer than all others: first in level 0.
            keyspace.levels.iter_mut().take(1).for_each(|level| level.insert(0, Arc::new(segment.clone())));
        }
        all.extend(copied.into_iter().map(|meta| (meta.number, meta)));
    }
    version.next_file = engine.files.take_number();
    version.keyspaces.extend(keyspace.map(|keyspace| (PLACES, Arc::new(keyspace))));
    version.packs = Arc::new(all);
    (version.next_seqno, version.seqno_ceiling) = (newest.next(), newest.next());
    Ok(())
}

/// Gives the copy a finished file: a second name for it, or its bytes where that is not possible.
fn link_or_copy(engine: &Engine, target: &dyn Dir, name: &str, watch: &mut Watch<'_>) -> Result<()> {
    match engine.ctx.dir.link(name, target, name) {
        Ok(()) => Ok(()),
        Err(_) => copy(&*engine.ctx.dir, target, name, watch),
    }
}

fn copy(from: &dyn Dir, to: &dyn Dir, name: &str, watch: &mut Watch<'_>) -> Result<()> {
    let source_path = || from.path().join(name);
    let target_path = || to.path().join(name);
    let source = from.open(name).at("open", source_path)?;
    let target = to.create(name).at("create", target_path)?;
    let len = source.len().at("read the length of", source_path)?;
    let mut buf = vec![0; COPY_CHUNK];
    let mut at = 0;
    while at < len {
        let count = usize::try_from(len - at).unwrap_or(COPY_CHUNK).min(COPY_CHUNK);
        let chunk = buf.get_mut(..count).unwrap_or_default();
        source.read_at(at, chunk).at("read", source_path)?;
        target.write_at(at, chunk).at("write", target_path)?;
        at += count as u64;
        watch.step(at, len)?;
    }
    target.sync().at("sync", target_path)
}
