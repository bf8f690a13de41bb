//! A consistent copy in a directory of its own, by hard links where they reach.
//!
//! Only finished files are linked: nothing ever writes to a segment again, so the copy and the original may share it. The copy
//! gets its own manifest, its own id, and no log.

use std::{path::Path, sync::Arc};

use super::{Engine, Opened, ViewCore, keyspaces::point_index, superversion::SuperVersion};
use crate::{
    base::{Error, IoContext, KeySpan, Kind, Result, TIMELINE},
    env::Dir,
    format::name,
    manifest::{CommitFailure, KeyspaceVersion, ManifestStore, StoredOptions, Version},
    memtable::Stamp,
    merge::{Direction, Tombstones},
    segment::{Entry, Finished, Purpose, SegmentWriter},
};

/// Bytes copied at a time where links do not reach.
const COPY_CHUNK: usize = 1 << 20;

impl Engine {
    /// Copies everything committed before the call to a new database at `path`.
    pub(crate) fn checkpoint(self: &Arc<Self>, path: &Path) -> Result<()> {
        self.check_writable()?;
        // While this view is open, no keyspace that is dropped from now on is forgotten.
        let held = ViewCore::snapshot(self);
        self.flush()?;
        let (current, mut version) = self.moment()?;
        let target = self.checkpoint_dir(path)?;
        version.log_ends.clear();
        version.seqno_ceiling = version.last_seqno;
        for segment in version.keyspaces.values().flat_map(|keyspace| keyspace.segments()) {
            let name = name::segment(segment.number);
            if self.dir.link(&name, &*target, &name).is_err() {
                copy(&*self.dir, &*target, &name)?;
            }
        }
        self.name_checkpoint(&target, &version)?;
        // The files that are copied live as long as this does.
        drop((current, held));
        Ok(())
    }

    /// Makes the directory of a copy.
    fn checkpoint_dir(&self, path: &Path) -> Result<Arc<dyn Dir>> {
        let inside = std::path::absolute(path).is_ok_and(|path| path.starts_with(self.dir.path()));
        if inside || path.starts_with(self.dir.path()) {
            let what = format!("{} lies inside the database; a checkpoint goes elsewhere", path.display());
            return Err(Error::invalid(what));
        }
        let target = self.env.open_dir(path, true).at("create", || path.to_path_buf())?;
        let at = || target.path().to_path_buf();
        if !target.list("").at("list", at)?.is_empty() {
            let what = format!("{} is not empty; a checkpoint goes to a new directory", path.display());
            return Err(Error::invalid(what));
        }
        target.restrict().at("restrict", at)?;
        for sub in [name::LOGS, name::SEGMENTS] {
            target.create_dir(sub).at("create", || target.path().join(sub))?;
        }
        Ok(target)
    }

    /// Makes a database of the segments of a copy. CURRENT comes last: a copy that was interrupted is none.
    fn name_checkpoint(&self, target: &Arc<dyn Dir>, version: &Version) -> Result<()> {
        target.sync_dir(name::SEGMENTS).at("sync", || target.path().join(name::SEGMENTS))?;
        target.sync_dir("").at("sync", || target.path().to_path_buf())?;
        let mut manifest = ManifestStore::new(Arc::clone(target), self.env.entropy());
        let committed = manifest.commit(&version.snapshot());
        committed.map_err(|(CommitFailure::NotCommitted(e) | CommitFailure::Unknown(e))| e)?;
        manifest.seal()
    }

    /// The segments of now, as the version of one moment: what was committed since the last flush, and the keyspaces that were created
    /// or dropped since, are taken back out.
    fn moment(&self) -> Result<(Arc<SuperVersion>, Version)> {
        let commit = self.commit.lock();
        self.check_open()?;
        let current = self.current();
        let unflushed = std::iter::once(&current.active).chain(&current.sealed).map(|table| table.first_seqno()).min();
        let last = unflushed.map_or(u64::MAX, |first| first.saturating_sub(1)).min(self.visible());
        let mut version = Version::clone(&current.version);
        version.last_seqno = last;
        version.time_us = commit.time_us;
        version.keyspaces.retain(|_, keyspace| {
            let dropped = keyspace.dropped.is_some_and(|dropped| dropped <= last);
            keyspace.born <= last && !dropped
        });
        for keyspace in version.keyspaces.values_mut().filter(|keyspace| keyspace.dropped.is_some()) {
            Arc::make_mut(keyspace).dropped = None;
        }
        Ok((current, version))
    }
}

impl ViewCore {
    /// Writes what this view sees to a new database at `path`.
    pub(crate) fn checkpoint(self: &Arc<Self>, path: &Path) -> Result<()> {
        let engine = self.engine();
        engine.check_open()?;
        let target = engine.checkpoint_dir(path)?;
        let files = self.files();
        let mut version = Version {
            next_keyspace: files.version.next_keyspace,
            last_seqno: self.seqno(),
            next_seqno: self.seqno() + 1,
            seqno_ceiling: self.seqno() + 1,
            time_us: self.time(),
            ..Version::default()
        };
        for keyspace in self.keyspaces() {
            let mut copied = KeyspaceVersion {
                levels: Vec::new(),
                past: Vec::new(),
                dropped: None,
                ..KeyspaceVersion::clone(keyspace)
            };
            // Of what was before the view's moment only the newest is taken along, and that is whole.
            copied.vanished = self.seqno();
            copied.horizon = self.seqno();
            copied.lapsed = 0;
            // What was set since then is set in the copy by those who want it there.
            copied.options.ttls.retain(|(from, _)| *from <= self.seqno());
            let opened = engine.opened(keyspace)?;
            let segments = self.copy_keyspace(&*target, keyspace, &opened, &mut version.next_file)?;
            if !segments.is_empty() {
                copied.levels = vec![Vec::new(), segments];
            }
            version.keyspaces.insert(keyspace.id, Arc::new(copied));
        }
        // Of the timeline its moment alone.
        let mut made = Vec::new();
        let stamp = Stamp { seqno: self.seqno(), time: self.time(), writes: 0 };
        let stamps = engine.write_stamps(&*target, (&[stamp], version.next_file), &mut made)?;
        version.next_file += 1;
        let timeline = KeyspaceVersion {
            id: TIMELINE,
            name: String::new(),
            options: StoredOptions::default(),
            born: 0,
            dropped: None,
            vanished: 0,
            horizon: self.seqno(),
            lapsed: 0,
            levels: vec![stamps.map(Arc::new).into_iter().collect()],
            past: Vec::new(),
        };
        version.keyspaces.insert(TIMELINE, Arc::new(timeline));
        engine.name_checkpoint(&target, &version)
    }

    /// Writes the keys of a keyspace that this view sees.
    fn copy_keyspace(
        self: &Arc<Self>,
        target: &dyn Dir,
        keyspace: &KeyspaceVersion,
        opened: &Opened,
        next_file: &mut u64,
    ) -> Result<Vec<Arc<Finished>>> {
        let engine = self.engine();
        let keeps_time = engine.keeps_time(keyspace);
        let Some(mut scan) = self.scan(opened, KeySpan { start: Vec::new(), end: None }, Direction::Forward)? else {
            return Ok(Vec::new());
        };
        let mut segments = Vec::new();
        let mut writer: Option<SegmentWriter> = None;
        let mut finish = |writer: SegmentWriter| {
            segments.push(Arc::new(writer.finish(&Tombstones::default(), |_| false)?));
            Ok::<_, Error>(())
        };
        while scan.step()? {
            if let Some(full) = writer.take_if(|writer| writer.is_full(engine.options.segment_bytes())) {
                finish(full)?;
            }
            // Which version it is: the newest one that its history tells up to now.
            let told =
                self.history(opened, scan.key(), (0, u64::MAX))?.map(|mut walk| walk.next()).transpose()?.flatten();
            let (seqno, time) = told.map_or((self.seqno(), self.time()), |told| (told.seqno, told.time));
            let entry = Entry { time: keeps_time.then_some(time), ..Entry::new(Kind::Put, seqno) };
            if writer.is_none() {
                *next_file += 1;
                let purpose = Purpose {
                    keyspace: keyspace.id,
                    base: 0,
                    time_base: keeps_time.then_some(0),
                    run: None,
                    index: point_index(&keyspace.options),
                    hash_seed: engine.database_id,
                };
                writer = Some(SegmentWriter::create(target, (*next_file, engine.env.entropy()), purpose)?);
            }
            if let Some(open) = &mut writer {
                open.add(&entry, scan.key(), scan.value_ref())?;
            }
        }
        if let Some(last) = writer {
            finish(last)?;
        }
        *next_file += 1;
        Ok(segments)
    }
}

fn copy(from: &dyn Dir, to: &dyn Dir, name: &str) -> Result<()> {
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
    }
    target.sync().at("sync", target_path)
}
