//! Constants of an open database: the machine, the directory, the options.

use std::{path::PathBuf, sync::Arc};

use super::{
    locks::{LockOrder, as_another_thread},
    options::Options,
};
use crate::{
    base::{Error, FileNumber, IoContext, Micros, Result},
    env::{Background, Dir, Env, Files},
    format::name,
};

/// Constants that every part of the engine uses.
#[derive(Debug)]
pub(crate) struct Context {
    pub(super) env: Arc<dyn Env>,
    /// The directory of the database.
    pub(super) dir: Arc<dyn Dir>,
    /// The same directory, with the pool of files that are open for reading.
    pub(super) pool: Arc<Files>,
    pub(super) options: Options,
    pub(super) database_id: u64,
    pub(super) order: LockOrder,
}

/// Length of a pack, in bytes, below which a full disk makes none shorter.
const PACK_BYTES_MIN: u64 = 1 << 20;

impl Context {
    /// Returns the path at which the database was opened.
    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().to_path_buf()
    }

    /// Returns whether background steps run on the caller's thread.
    pub(super) fn runs_inline(&self) -> bool {
        self.env.background() == Background::Caller
    }

    /// Returns the monotonic time of the machine.
    pub(super) fn monotonic(&self) -> Micros {
        Micros(self.env.monotonic_us())
    }

    /// Reports to the machine that the engine is at a named point where other threads may interleave. A simulated
    /// machine may run there, on this thread, what another one could run.
    pub(super) fn pass(&self, point: &'static str) {
        as_another_thread(|| self.env.pass(point));
    }

    /// Returns the length after which a pack that is begun now is ended: at most `most`, and a quarter of the free
    /// space of the disk, so that even a full disk has packs that there is room to copy.
    pub(super) fn pack_bytes(&self, most: u64) -> u64 {
        let free = self.dir.available_space().unwrap_or(u64::MAX);
        most.min((free / 4).max(PACK_BYTES_MIN))
    }

    /// Fails if the directory has been deleted: what is durable in a deleted directory is lost all the same.
    pub(super) fn check_there(&self) -> Result<()> {
        self.dir.check_there().at("find", || self.path())
    }

    /// Makes the names of new logs durable.
    pub(super) fn sync_log_names(&self) -> Result<()> {
        self.dir.sync_dir(name::LOGS).at("sync", || self.dir.path().join(name::LOGS))
    }

    /// Makes the names of new segments durable.
    pub(super) fn sync_segment_names(&self) -> Result<()> {
        self.dir.sync_dir(name::SEGMENTS).at("sync", || self.dir.path().join(name::SEGMENTS))
    }

    /// Makes the names of new packs durable.
    pub(super) fn sync_pack_names(&self) -> Result<()> {
        self.dir.sync_dir(name::PACKS).at("sync", || self.dir.path().join(name::PACKS))
    }

    /// Makes segments durable that were written without a sync, several at a time.
    pub(super) fn sync_segments(&self, numbers: &[FileNumber]) -> Result<()> {
        let names: Vec<String> = numbers.iter().copied().map(name::segment).collect();
        self.dir.sync_files(&names).map_err(|(name, error)| Error::io("sync", &self.dir.path().join(name), error))
    }
}
