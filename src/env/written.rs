//! Files that are written and synced by several threads.

use std::{
    io::{self, ErrorKind},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{File, Region};
use crate::base::is_out_of_files;

/// A file whose sync fails for ever once it has failed.
///
/// A system tells a failed write-back once, to one of those who sync the file, and its pages count as clean from then
/// on: a later sync succeeds and proves nothing, and so does one that runs at the same time. So only one runs at a
/// time, and whoever comes behind a failed one is told of it.
#[derive(Debug)]
struct WrittenFile {
    file: Arc<dyn File>,
    /// What the first failed sync met. Held during a sync.
    failed: Mutex<Option<(ErrorKind, String)>>,
}

/// Returns a file of which no sync succeeds behind a failed one.
pub(crate) fn written(file: Arc<dyn File>) -> Arc<dyn File> {
    Arc::new(WrittenFile { file, failed: Mutex::new(None) })
}

impl File for WrittenFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn identity(&self) -> (u64, u64) {
        self.file.identity()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, buf)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        let mut failed = self.failed.lock();
        if let Some((kind, text)) = &*failed {
            return Err(io::Error::new(*kind, format!("an earlier sync of the file failed: {text}")));
        }
        self.file.sync().inspect_err(|error| {
            // Without an open file the system was not asked.
            if !is_out_of_files(error) {
                *failed = Some((error.kind(), error.to_string()));
            }
        })
    }

    fn map(&self) -> io::Result<Region> {
        self.file.map()
    }
}
