//! A consistent copy in a directory of its own, by hard links where they reach.
//!
//! Only finished files are linked: nothing ever writes to a segment again, so the copy and the original may share it. The copy
//! gets its own manifest, its own id, and no log.

use std::{path::Path, sync::Arc};

use super::{Engine, ViewCore, superversion::SuperVersion};
use crate::{
    base::{Error, IoContext, Result},
    env::Dir,
    format::name,
    manifest::{CommitFailure, ManifestStore, Version},
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
        version.log_ends.clear();
        version.seqno_ceiling = version.last_seqno;
        for segment in version.keyspaces.values().flat_map(|keyspace| keyspace.segments()) {
            let name = name::segment(segment.number);
            if self.dir.link(&name, &*target, &name).is_err() {
                copy(&*self.dir, &*target, &name)?;
            }
        }
        target.sync_dir(name::SEGMENTS).at("sync", || target.path().join(name::SEGMENTS))?;
        target.sync_dir("").at("sync", at)?;
        // CURRENT comes last: a copy that was interrupted is no database.
        let mut manifest = ManifestStore::new(Arc::clone(&target), self.env.entropy());
        let committed = manifest.commit(&version.snapshot());
        committed.map_err(|(CommitFailure::NotCommitted(e) | CommitFailure::Unknown(e))| e)?;
        // The files that are copied live as long as this does.
        drop((current, held));
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
