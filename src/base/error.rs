//! The errors: one variant for each thing a caller would do next.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{ChunkId, Receipt, Seqno};

/// Result of every call that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Reason why a call failed. The message says what to do, and names the file, keyspace or key that the variant knows
/// of. The operating system's error is the [`source`](std::error::Error::source) and not part of the message, so that
/// reporters that print the chain print it once.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused. Reads may be retried; for writes, check [`Db::health`](crate::Db::health).
    #[error("cannot {op} {}{}", path.display(), remedy(source))]
    Io {
        /// The operation, in words.
        op: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },

    /// A file does not hold what was written to it. Restore it from a copy; retrying will not help.
    #[error("{} is corrupt at byte {offset}: {what}; restore the file from a copy", path.display())]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// Byte at which the damage was found.
        offset: u64,
        /// Field or structure that was expected there.
        what: &'static str,
    },

    /// A chunk of a large value is damaged or missing. Other values stay readable. Write the value again, or restore
    /// the file from a copy.
    #[error(
        "chunk {chunk} of key \"{}\" in keyspace \"{}\" is {}; write the value again or restore the file from a copy",
        key.escape_ascii(),
        keyspace.escape_debug(),
        lost_from(path, *offset)
    )]
    CorruptChunk {
        /// The pack that should hold it; the folder of the packs if none does.
        path: PathBuf,
        /// Byte of the pack at which the damage was found; 0 if no pack holds the chunk.
        offset: u64,
        /// Keyspace of the value.
        keyspace: String,
        /// Key of the value.
        key: Vec<u8>,
        /// The chunk.
        chunk: ChunkId,
    },

    /// A file of the database is missing. Put it back, or restore the database from a copy.
    #[error("{} is missing and the database needs it; put it back or restore the database from a copy", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },

    /// The write was applied and is visible, but it is not known to be on disk. Do not repeat it: call
    /// [`Db::persist`](crate::Db::persist), which returns once it is, or read it back after reopening the database.
    #[error(
        "commit {} was applied, but is not known to be on disk; do not repeat it: `health` reports why, `persist` retries",
        receipt.seqno
    )]
    NotDurable {
        /// Receipt of the applied commit.
        receipt: Receipt,
    },

    /// The database is open elsewhere. Close it there first.
    #[error("{} is open {}", path.display(), locked(*pid))]
    Locked {
        /// The database.
        path: PathBuf,
        /// The process that holds it, if its pid could be read.
        pid: Option<u32>,
    },

    /// Another writer changed what this write depends on. Read again and retry.
    #[error("key \"{}\" was changed by another writer; run the operation again", key.escape_ascii())]
    Conflict {
        /// A key that changed.
        key: Vec<u8>,
    },

    /// The key already exists, in a keyspace or map whose strategy refuses a second value. Nothing was applied.
    #[error("key \"{}\" already exists and may exist only once (ErrorOnDuplicate, or entries of a map)", key.escape_ascii())]
    Duplicate {
        /// The key.
        key: Vec<u8>,
    },

    /// A progress callback stopped the operation. Nothing is lost; call it again to finish.
    #[error("the operation was cancelled by its progress callback; call it again to finish")]
    Cancelled,

    /// A flush or compaction has dropped the history that was asked for. Ask for `oldest` or later. To keep future
    /// history, set a [`Policy`](crate::Policy), [pin](crate::Db::pin) a moment or hold a view.
    #[error(
        "the history asked for is gone; ask for seqno {oldest} or later; to keep future history, set a `Policy`, pin a moment or hold a view"
    )]
    HistoryTrimmed {
        /// A seqno at which this read is exact: for one key the oldest known, for several keys the keyspace's
        /// [horizon](crate::Keyspace::horizon).
        oldest: Seqno,
    },

    /// The seqno has not been committed yet, or the time lies ahead. [`Db::snapshot`](crate::Db::snapshot) shows the
    /// newest moment.
    #[error("that moment lies in the future; `snapshot` shows the newest")]
    InTheFuture,

    /// The disk is full. Make room and write again: nothing acknowledged was lost.
    #[error("the disk is full; make room and write again")]
    DiskFull,

    /// Writes have stopped: the log or the manifest could not be written or synced, or a step of the engine met a
    /// broken invariant. Nothing more is acknowledged. Reads still work; close the database and open it again.
    #[error("writes have stopped ({why}); close the database and open it again")]
    Poisoned {
        /// Operation and file that failed, or the broken invariant with its numbers.
        why: String,
    },

    /// The database was closed; this handle, view or iterator cannot be used any more.
    #[error("the database is closed; open it again with `Db::open`")]
    Closed,

    /// An argument or option is not valid. Correct the call.
    #[error("{what}")]
    Invalid {
        /// Wrong argument or option, and what would be right.
        what: String,
    },

    /// The database was written by a newer release. Open it with that release; no byte was changed.
    #[error("{} has format {version}, which this release does not know; open it with a newer one", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Format of the file.
        version: u32,
    },
}

impl Error {
    /// Returns whether rerunning the same operation may succeed: only after [`Error::Conflict`].
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }

    /// Returns the message followed by that of its source.
    pub(crate) fn in_full(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }

    /// Returns whether the error means only that no further file could be opened.
    pub(crate) fn is_out_of_files(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_out_of_files(source))
    }

    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid { what: what.into() }
    }

    /// Wraps the error for callers of [`std::io`], under the kind that they look for.
    pub(crate) fn into_io(self) -> io::Error {
        let kind = match &self {
            Self::Io { source, .. } => source.kind(),
            Self::DiskFull => io::ErrorKind::StorageFull,
            Self::Corrupt { .. } | Self::CorruptChunk { .. } | Self::NewerFormat { .. } => io::ErrorKind::InvalidData,
            Self::Missing { .. } => io::ErrorKind::NotFound,
            Self::Invalid { .. } => io::ErrorKind::InvalidInput,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, self)
    }

    /// Wraps a system error; a full disk or quota and a file too large become [`Error::DiskFull`].
    pub(crate) fn io(op: &'static str, path: &Path, source: io::Error) -> Self {
        let full = matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        );
        if full { Self::DiskFull } else { Self::Io { op, path: path.to_path_buf(), source } }
    }

    /// Copies the error for a second receiver. System errors keep their kind and text.
    pub(crate) fn duplicate(&self) -> Self {
        match self {
            Self::Io { op, path, source } => {
                // Callers look at the number of a system error; any other is copied as text.
                let told = || io::Error::new(source.kind(), source.to_string());
                let source = source.raw_os_error().map_or_else(told, io::Error::from_raw_os_error);
                Self::Io { op, path: path.clone(), source }
            }
            Self::Corrupt { path, offset, what } => Self::Corrupt { path: path.clone(), offset: *offset, what },
            Self::CorruptChunk { path, offset, keyspace, key, chunk } => Self::CorruptChunk {
                path: path.clone(),
                offset: *offset,
                keyspace: keyspace.clone(),
                key: key.clone(),
                chunk: *chunk,
            },
            Self::Locked { path, pid } => Self::Locked { path: path.clone(), pid: *pid },
            Self::Conflict { key } => Self::Conflict { key: key.clone() },
            Self::Duplicate { key } => Self::Duplicate { key: key.clone() },
            Self::Cancelled => Self::Cancelled,
            Self::HistoryTrimmed { oldest } => Self::HistoryTrimmed { oldest: *oldest },
            Self::InTheFuture => Self::InTheFuture,
            Self::DiskFull => Self::DiskFull,
            Self::Poisoned { why } => Self::Poisoned { why: why.clone() },
            Self::Missing { path } => Self::Missing { path: path.clone() },
            Self::NotDurable { receipt } => Self::NotDurable { receipt: *receipt },
            Self::Closed => Self::Closed,
            Self::Invalid { what } => Self::Invalid { what: what.clone() },
            Self::NewerFormat { path, version } => Self::NewerFormat { path: path.clone(), version: *version },
        }
    }
}

impl From<Corruption> for Error {
    /// Reports bytes that came from no file, as of a list or a perfect-hash function.
    fn from(corruption: Corruption) -> Self {
        Self::invalid(format!("these bytes are not what was written: {corruption}"))
    }
}

/// Returns whether no further file could be opened, by this process or by any.
pub(crate) fn is_out_of_files(error: &io::Error) -> bool {
    // EMFILE and ENFILE on every Unix; Windows has one number for both.
    let numbers: &[i32] = if cfg!(windows) { &[4] } else { &[24, 23] };
    error.raw_os_error().is_some_and(|number| numbers.contains(&number))
}

/// Returns what to do about a system error, where that is known.
fn remedy(error: &io::Error) -> &'static str {
    if is_out_of_files(error) {
        "; close files elsewhere, raise the limit of open files, or set Options::max_open_files lower, and try again"
    } else {
        ""
    }
}

/// Returns what is wrong with a chunk, and where.
fn lost_from(path: &Path, offset: u64) -> String {
    if path.extension().is_some() {
        format!("damaged or missing: {} at byte {offset}", path.display())
    } else {
        format!("in no pack of {}", path.display())
    }
}

/// Returns where a database is open, and what to do about it.
fn locked(pid: Option<u32>) -> String {
    match pid {
        Some(pid) if pid == std::process::id() => {
            "in this process: a handle to it or to one of its keyspaces, views or iterators is still alive; close it with `Db::close` first".to_owned()
        }
        Some(pid) => format!("by process {pid}; close it there first"),
        None => "elsewhere, perhaps only for reading; close it there first".to_owned(),
    }
}

/// Adds the operation and the file to a failed system call.
pub(crate) trait IoContext<T> {
    fn at(self, op: &'static str, path: impl FnOnce() -> PathBuf) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, op: &'static str, path: impl FnOnce() -> PathBuf) -> Result<T> {
        self.map_err(|source| Error::io(op, &path(), source))
    }
}

/// Bytes that are not what was written: where, and what was expected there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset}: {what}")]
pub struct Corruption {
    /// Offset from the start of the decoded bytes.
    pub offset: u64,
    /// Expected field or structure.
    pub what: &'static str,
}

impl Corruption {
    /// Returns the same, for bytes that began at `base` of a larger whole.
    pub(crate) fn behind(self, base: usize) -> Self {
        Self { offset: self.offset.saturating_add(base as u64), ..self }
    }

    /// Returns the error that names the file, in which the decoded bytes began at `base`.
    pub(crate) fn of(self, path: &Path, base: u64) -> Error {
        Error::Corrupt { path: path.to_path_buf(), offset: base.saturating_add(self.offset), what: self.what }
    }
}
