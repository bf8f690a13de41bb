//! The directory of a map, and temporary files in it.

use std::{path::Path, sync::Arc};

use crate::{
    base::{Error, IoContext, Result},
    env::{Dir, Env, File, Os, Region},
};

/// Returns the directory that a file is in, and its name there. Links in the user's path are followed.
pub(super) fn open_parent(named: &Path) -> Result<(Arc<dyn Dir>, String)> {
    let path = Os::follow(named).at("open", || named.to_path_buf())?;
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| {
        Error::invalid(format!("the path \"{}\" does not end with the name of a file", path.display()))
    })?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = Os.open_dir(parent, false).at("open", || parent.to_path_buf())?;
    Ok((dir, name.to_owned()))
}

/// Creates a file in the directory for the duration of one call.
pub(super) fn temporary(dir: &dyn Dir) -> Result<(Arc<dyn File>, String)> {
    // Not derived from the name, which may already be as long as a name can be.
    let temporary = format!("map-{:016x}.tmp", Os.entropy());
    let file = dir.create(&temporary).at("create", || dir.path().join(&temporary))?;
    Ok((file, temporary))
}

/// A file for the duration of one call: removed on drop.
#[derive(Debug)]
pub(super) struct Scratch {
    dir: Arc<dyn Dir>,
    name: String,
    file: Arc<dyn File>,
    pub(super) len: u64,
}

impl Scratch {
    pub(super) fn create(dir: &Arc<dyn Dir>) -> Result<Self> {
        let (file, name) = temporary(&**dir)?;
        Ok(Self { dir: Arc::clone(dir), name, file, len: 0 })
    }

    /// Appends bytes; returns the offset of the first.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<u64> {
        let at = self.len;
        self.file.write_at(at, bytes).at("write", || self.dir.path().join(&self.name))?;
        self.len += bytes.len() as u64;
        Ok(at)
    }

    pub(super) fn map(&self) -> Result<Region> {
        self.file.map().at("map", || self.dir.path().join(&self.name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: a leftover is a file that nothing opens.
        let _removed = self.dir.remove(&self.name);
    }
}
