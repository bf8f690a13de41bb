//! What can go wrong: one variant for each thing a caller would do next.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{Receipt, Seqno};

/// The result of everything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed. The message names the file, keyspace or key, and says what to do. What the operating system said
/// is the [`source`](std::error::Error::source) and not part of the message, so that reporters that print the chain
/// print it once.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused. Reads may be tried again; for writes ask [`Db::health`](crate::Db::health).
    #[error("cannot {op} {}{}", path.display(), remedy(source))]
    Io {
        /// What was tried, in words.
        op: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// A file does not hold what was written to it. Restore it from a copy; trying again will not help.
    #[error("{} is corrupt at byte {offset}: {what}; restore the file from a copy", path.display())]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// Where the damage was seen.
        offset: u64,
        /// What was expected there.
        what: &'static str,
    },

    /// A file that the database consists of is not there. Put it back, or restore the database from a copy.
    #[error("{} is missing, and the database needs it; put it back or restore the database from a copy", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },

    /// The write was applied and is visible, but it is not known to be on the disk. Do not write it again: call
    /// [`Db::persist`](crate::Db::persist), which returns once it is, or read it back after the database was opened
    /// again.
    #[error(
        "commit {} was applied, but is not known to be on the disk; do not write it again: `health` says why, `persist` tries again",
        receipt.seqno
    )]
    NotDurable {
        /// The commit, as it was applied.
        receipt: Receipt,
    },

    /// The database is open elsewhere. Close it there first.
    #[error("{} is open {}", path.display(), locked(*pid))]
    Locked {
        /// The database.
        path: PathBuf,
        /// The process that holds it, when it could be read.
        pid: Option<u32>,
    },

    /// Another writer changed what this write depends on. Read again and retry.
    #[error("key \"{}\" was changed by another writer meanwhile; run the operation again", key.escape_ascii())]
    Conflict {
        /// A key that changed.
        key: Vec<u8>,
    },

    /// The key exists, in a keyspace or map whose strategy refuses a second value. Nothing was applied.
    #[error("key \"{}\" is there already, and may be there only once (ErrorOnDuplicate, or entries of a map)", key.escape_ascii())]
    Duplicate {
        /// The key.
        key: Vec<u8>,
    },

    /// A report of progress asked for the operation to stop. Nothing is lost; call it again to finish it.
    #[error("the operation was cancelled, as asked; call it again to finish it")]
    Cancelled,

    /// A flush or compaction has dropped the history that was asked for. Ask for `oldest` or later. To keep future
    /// history, set a [`Policy`](crate::Policy), [pin](crate::Db::pin) a moment or hold a view.
    #[error(
        "the history asked for is gone; ask for seqno {oldest} or later; to keep future history, set a `Policy`, pin a moment or hold a view"
    )]
    HistoryTrimmed {
        /// A seqno at which this read is exact: for one key the oldest that is known, for several keys the keyspace's
        /// [horizon](crate::Keyspace::horizon).
        oldest: Seqno,
    },

    /// The seqno has not been committed yet, or the time has not come. [`Db::snapshot`](crate::Db::snapshot) shows the
    /// newest moment.
    #[error("that moment lies in the future; `snapshot` shows the newest")]
    InTheFuture,

    /// The disk is full. Make room and write again: nothing acknowledged was lost.
    #[error("the disk is full; make room and write again")]
    DiskFull,

    /// Writes have stopped: the log or the manifest could not be written or synced, or a step of the engine met a
    /// broken invariant. Nothing more is acknowledged. Reads go on; close the database and open it again.
    #[error("writes have stopped ({why}); close the database and open it again")]
    Poisoned {
        /// What failed, and on which file; or which invariant was broken, with its numbers.
        why: String,
    },

    /// The database was closed; this handle, view or iterator cannot be used any more.
    #[error("the database is closed; open it again")]
    Closed,

    /// An argument or option is not valid. Correct the call.
    #[error("{what}")]
    Invalid {
        /// What is wrong, and what would be right.
        what: String,
    },

    /// The database was written by a newer release. Open it with that release; no byte was touched.
    #[error("{} has format {version}, which this release does not know; open it with a newer one", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        version: u32,
    },
}

impl Error {
    /// Whether the same operation may succeed when it is simply run again: only after a [`Error::Conflict`].
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }

    /// The message with that of its source.
    pub(crate) fn in_full(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }

    /// Whether it says only that no further file could be opened.
    pub(crate) fn is_out_of_files(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_out_of_files(source))
    }

    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid { what: what.into() }
    }

    /// A system's refusal, with a full disk told from the rest.
    pub(crate) fn io(op: &'static str, path: &Path, source: io::Error) -> Self {
        let full = matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        );
        if full { Self::DiskFull } else { Self::Io { op, path: path.to_path_buf(), source } }
    }

    /// The same error for a second receiver. System errors keep their kind and text.
    pub(crate) fn duplicate(&self) -> Self {
        match self {
            Self::Io { op, path, source } => {
                // The number of a system error is asked for later: only others are told in words.
                let told = || io::Error::new(source.kind(), source.to_string());
                let source = source.raw_os_error().map_or_else(told, io::Error::from_raw_os_error);
                Self::Io { op, path: path.clone(), source }
            }
            Self::Corrupt { path, offset, what } => Self::Corrupt { path: path.clone(), offset: *offset, what },
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
    /// Of bytes that came from no file: of a list, or a function.
    fn from(corruption: Corruption) -> Self {
        Self::invalid(format!("these bytes are not what was written: {corruption}"))
    }
}

/// Whether the system gave no further open file, to this process or to anybody.
pub(crate) fn is_out_of_files(error: &io::Error) -> bool {
    // EMFILE and ENFILE on every Unix; Windows has one for both.
    let numbers: &[i32] = if cfg!(windows) { &[4] } else { &[24, 23] };
    error.raw_os_error().is_some_and(|number| numbers.contains(&number))
}

/// What to do about it, where that can be told.
fn remedy(error: &io::Error) -> &'static str {
    if is_out_of_files(error) {
        "; close files elsewhere, raise the limit of open files, or set Options::max_open_files lower, and try again"
    } else {
        ""
    }
}

/// Where a database is open, and what to do about it.
fn locked(pid: Option<u32>) -> String {
    match pid {
        Some(pid) if pid == std::process::id() => {
            "in this very process: a handle of it, or of a keyspace, view or iterator of it, is still alive; close it with `Db::close` first".to_owned()
        }
        Some(pid) => format!("by process {pid}; close it there first"),
        None => "elsewhere, perhaps only for reading; close it there first".to_owned(),
    }
}

/// Says what was tried on which file when a system call fails.
pub(crate) trait IoContext<T> {
    fn at(self, op: &'static str, path: impl FnOnce() -> PathBuf) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, op: &'static str, path: impl FnOnce() -> PathBuf) -> Result<T> {
        self.map_err(|source| Error::io(op, &path(), source))
    }
}

/// Bytes that are not what they should be: where, and what was expected there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset}: {what}")]
pub struct Corruption {
    /// Offset from the start of the decoded bytes.
    pub offset: u64,
    /// What was expected.
    pub what: &'static str,
}

impl Corruption {
    /// The same, of bytes that began at `base` of a larger whole.
    pub(crate) fn behind(self, base: usize) -> Self {
        Self { offset: self.offset.saturating_add(base as u64), ..self }
    }

    /// The error that names the file: `base` is where in it the decoded bytes began.
    pub(crate) fn of(self, path: &Path, base: u64) -> Error {
        Error::Corrupt { path: path.to_path_buf(), offset: base.saturating_add(self.offset), what: self.what }
    }
}
