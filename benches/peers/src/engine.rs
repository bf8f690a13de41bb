//! What the harness asks of an engine. The adapters that answer are in `engines/`.

use anyhow::{Result, bail};
use std::path::Path;

#[derive(Clone, Debug)]
pub struct OpenOpts {
    /// A write is durable (fsync or fdatasync) when it returns; else it may stay in OS buffers.
    pub sync: bool,
    pub cache_bytes: usize,
    pub write_buffer: usize,
    pub threads: usize,
    /// Values are 64 KiB or more: use the engine's large-value store if it has one.
    pub large_values: bool,
    /// Keep every version, for `put_at` and `get_at`.
    pub versions: bool,
    /// Random reads over more data than the cache holds, from a cold page cache.
    pub cold: bool,
}

/// Sees the value that a read found.
pub type OnValue<'a> = &'a mut dyn FnMut(&[u8]);
/// Sees each entry of a scan.
pub type OnEntry<'a> = &'a mut dyn FnMut(&[u8], &[u8]);

/// A scan of `lo <= key < hi`, of at most `limit` entries, from its end if `rev`.
#[derive(Clone, Copy, Default)]
pub struct Scan<'a> {
    pub lo: Option<&'a [u8]>,
    pub hi: Option<&'a [u8]>,
    pub limit: usize,
    pub rev: bool,
}

impl<'a> Scan<'a> {
    pub fn bounds(&self) -> (std::ops::Bound<&'a [u8]>, std::ops::Bound<&'a [u8]>) {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        (self.lo.map_or(Unbounded, Included), self.hi.map_or(Unbounded, Excluded))
    }
}

/// One write of a batch; no value is a delete.
pub struct Op<'a> {
    pub key: &'a [u8],
    pub value: Option<&'a [u8]>,
}

/// Reads at one point in time, where the engine has snapshots.
pub trait Session {
    fn get(&self, key: &[u8], f: OnValue) -> Result<bool>;
    fn scan(&self, scan: Scan, f: OnEntry) -> Result<usize>;
}

pub trait Engine: Send + Sync {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()>;
    fn delete(&self, key: &[u8]) -> Result<()>;
    /// Writes all of `ops` atomically.
    fn write(&self, ops: &[Op]) -> Result<()>;
    /// Reads the newest value; false if there is none.
    fn get(&self, key: &[u8], f: OnValue) -> Result<bool>;
    fn scan(&self, scan: Scan, f: OnEntry) -> Result<usize>;
    fn session(&self) -> Result<Box<dyn Session + '_>>;

    /// Deletes `lo <= key < hi` in one call; false if the engine has no such call.
    fn delete_range(&self, _lo: &[u8], _hi: &[u8]) -> Result<bool> {
        Ok(false)
    }
    /// Moves what is in memory to the main files.
    fn flush(&self) -> Result<()>;
    /// Compacts everything; false if the engine has no such call.
    fn compact(&self) -> Result<bool> {
        Ok(false)
    }
    fn put_at(&self, _key: &[u8], _value: &[u8], _ts: u64) -> Result<()> {
        bail!("no versions")
    }
    /// Reads the newest value as of `ts`.
    fn get_at(&self, _key: &[u8], _ts: u64, _f: OnValue) -> Result<bool> {
        bail!("no versions")
    }
    /// Scans forward as of `ts`; nothing if the engine has no such call.
    fn scan_at(&self, _scan: Scan, _ts: u64, _f: OnEntry) -> Result<Option<usize>> {
        Ok(None)
    }
    /// Sees the value of every version of a key, newest first; nothing if the engine has no such
    /// call.
    fn history(&self, _key: &[u8], _f: OnValue) -> Result<Option<usize>> {
        Ok(None)
    }
    fn close(self: Box<Self>) -> Result<()>;
}

pub struct Entry {
    pub name: &'static str,
    /// The configuration in words, for the report.
    pub config: &'static str,
    /// The sets the engine runs in; empty means all.
    pub only: &'static [&'static str],
    /// The engine answers `put_at` and `get_at`.
    pub versions: bool,
    /// Runs only when it is named, or with `--all`.
    pub extra: bool,
    pub open: fn(&Path, &OpenOpts) -> Result<Box<dyn Engine>>,
}
