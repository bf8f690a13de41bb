//! Appending to a log and syncing it.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    batch::BatchBuf,
    record::{FIRST_RECORD, RECORD_HEADER_LEN, RecordKind, seal_record},
};
use crate::{
    base::{FileNumber, IoContext, Result},
    env::{Dir, File, written},
    format::{FileKind, Header, name},
};

/// Space is reserved in these steps: in a growing file, each sync would also write a new length.
const RESERVE_STEP: u64 = 1 << 20;

/// A log file that can still be synced, by any waiting thread, while others append.
#[derive(Debug)]
pub(crate) struct LogFile {
    pub(crate) number: FileNumber,
    path: PathBuf,
    file: Arc<dyn File>,
    /// Every byte below is known to be on disk.
    synced_upto: AtomicU64,
}

impl LogFile {
    /// Makes the bytes durable, but does not let later records claim it.
    pub(crate) fn sync_bytes(&self) -> Result<()> {
        self.file.sync().at("sync", || self.path.clone())
    }

    /// Makes everything appended so far durable; `end` is the writer's offset when the caller read it.
    pub(crate) fn sync(&self, end: u64) -> Result<()> {
        self.sync_bytes()?;
        self.mark_synced(end);
        Ok(())
    }

    /// Lets later records claim that everything before `end` is durable, with all that it needs: the writer's offset
    /// when the caller read it, before the sync.
    pub(crate) fn mark_synced(&self, end: u64) {
        self.synced_upto.fetch_max(end, Ordering::Release);
    }
}

/// The writing end of the newest log.
#[derive(Debug)]
pub(crate) struct LogWriter {
    log: Arc<LogFile>,
    seed: u32,
    offset: u64,
    previous: u32,
    reserved: u64,
    /// Whether reserving space failed once: this file system or disk does not support it.
    reserve_off: bool,
}

impl LogWriter {
    /// Creates the log with the given header. Its name is durable after the caller syncs the directory.
    pub(crate) fn create(dir: &dyn Dir, header: Header) -> Result<Self> {
        // A manifest is synced with each edit and read whole: reserved space would only be in the way.
        let (name, reserve_off) = match header.kind {
            FileKind::Manifest => (name::manifest(header.number), true),
            _ => (name::log(header.number), false),
        };
        let path = dir.path().join(&name);
        let file = written(dir.create(&name).at("create", || path.clone())?);
        file.write_at(0, &header.encode()).at("write", || path.clone())?;
        let log = Arc::new(LogFile { number: header.number, path, file, synced_upto: AtomicU64::new(0) });
        Ok(Self {
            log,
            seed: header.record_seed(),
            offset: FIRST_RECORD,
            previous: 0,
            reserved: FIRST_RECORD,
            reserve_off,
        })
    }

    pub(crate) fn file(&self) -> &Arc<LogFile> {
        &self.log
    }

    /// Returns the offset of the next record: the length of the log so far.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Appends a batch. After an error the offset is unchanged: the next record overwrites what may have been written
    /// of this one.
    pub(crate) fn append(&mut self, batch: &mut BatchBuf) -> Result<()> {
        self.write(batch.record_mut(), RecordKind::Data)
    }

    /// Appends other bytes as a record.
    pub(crate) fn append_bytes(&mut self, payload: &[u8]) -> Result<()> {
        self.write(&mut [&[0; RECORD_HEADER_LEN], payload].concat(), RecordKind::Data)
    }

    /// Ends the log: nothing is appended afterwards.
    pub(crate) fn seal(&mut self, kind: RecordKind) -> Result<()> {
        self.write(&mut vec![0; RECORD_HEADER_LEN], kind)
    }

    /// Releases reserved space that the log did not use. The log is sealed and will never be mapped.
    pub(crate) fn trim(&self) -> Result<()> {
        if self.reserved > self.offset {
            self.log.file.set_len(self.offset).at("truncate", || self.log.path.clone())?;
        }
        Ok(())
    }

    fn write(&mut self, record: &mut Vec<u8>, kind: RecordKind) -> Result<()> {
        let synced = u32::try_from(self.log.synced_upto.load(Ordering::Acquire)).unwrap_or(u32::MAX);
        let crc = seal_record(record, self.seed, self.offset, self.previous, synced, kind);
        let end = self.offset + record.len() as u64;
        self.reserve(end);
        if let Err(e) = self.log.file.write_at(self.offset, record) {
            // A record written whole although the call failed must not reappear after a crash. Best effort: a file that
            // cannot be written cannot be cleared either, and then only this one batch is in doubt.
            let _cleared = self.log.file.write_at(self.offset, &[0; RECORD_HEADER_LEN]);
            return Err(e).at("append to", || self.log.path.clone());
        }
        self.offset = end;
        self.previous = crc;
        Ok(())
    }

    /// Reserves space ahead, so that appends seldom change the file's length. Best effort: a full disk is reported by
    /// the write itself.
    fn reserve(&mut self, end: u64) {
        if end > self.reserved && !self.reserve_off {
            let upto = end.next_multiple_of(RESERVE_STEP);
            match self.log.file.allocate(upto) {
                Ok(()) => self.reserved = upto,
                Err(_) => self.reserve_off = true,
            }
        }
    }
}
