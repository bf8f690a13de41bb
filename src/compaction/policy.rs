//! What history a keyspace keeps.
//!
//! ```text
//!   versions of a key           superseded    mvcc(2, 1 h), it is 12:00
//!     v4   written 11:50        —             the newest stays
//!     v3   written 11:10        11:50         one of the newest two, and in the window
//!     v2   written 09:00        11:10         in the window: as of 11:05 it was the truth
//!     v1   written 08:00        09:00         may go
//! ```
//!
//! The age of a version counts from when it was superseded, not from when it was written: what was the truth at some
//! moment of the window is kept, however old it was by then. (Rejected: the age since the write, which most engines had
//! at first. A value written yesterday and replaced a minute ago would be gone from a window of an hour.)

use std::{
    fmt,
    panic::{AssertUnwindSafe, RefUnwindSafe, UnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    base::{Error, Micros, Result, Seqno, callback},
    manifest::StoredPolicy,
};

/// The longest name of a custom policy, in bytes.
const NAME_LEN_MAX: usize = 255;

/// Decides what history a keyspace keeps, beyond what open views and pins need. The newest value of each key always
/// stays.
///
/// ```
/// # use std::time::Duration;
/// # use chronolith::{env::Memory, KeyspaceOptions, Options, Policy};
/// # let db = Options::new().env(Memory::new()).open("my.db")?;
/// let week = Policy::mvcc(3, Duration::from_secs(7 * 86_400));
/// let audit = db.keyspace("audit", KeyspaceOptions::new().policy(week))?;
/// let first = audit.put("ann", "25")?;
/// audit.put("ann", "26")?;
/// db.compact()?;
/// assert_eq!(db.as_of(first.seqno)?.get(&audit, "ann")?.unwrap(), b"25");
/// # Ok::<_, chronolith::Error>(())
/// ```
#[derive(Clone)]
pub struct Policy(Kind);

#[derive(Clone)]
enum Kind {
    LastWriterWins,
    Tombstones(Micros),
    Mvcc { versions: u64, age: Micros },
    Custom { name: Arc<str>, by: Arc<dyn CompactionPolicy> },
}

// What a callback leaves of itself when it panics is its own affair: it is called again only as it was the first time.
impl UnwindSafe for Policy {}
impl RefUnwindSafe for Policy {}

/// A compaction policy of your own: see [`Policy::custom`].
pub trait CompactionPolicy: Send + Sync + 'static {
    /// Whether a version is kept. It is asked version by version when a compaction meets them, those of one key newest
    /// first, any number of times; the answer should follow from its arguments alone. It is not asked of the newest
    /// value of a key, nor of what a view or pin still reads: that is kept.
    ///
    /// A panic counts as yes. It runs under the locks of a compaction, so it cannot use a database: every call of one
    /// answers [`Invalid`](crate::Error::Invalid) in it.
    ///
    /// A policy belongs to the open database: one that holds a [`Db`](crate::Db), a keyspace or a view of it keeps it
    /// open for ever, unless somebody calls [`Db::close`](crate::Db::close).
    fn keep(&self, version: &VersionInfo, now: SystemTime) -> bool;
}

/// A version of a key, as a [`CompactionPolicy`] is asked about it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VersionInfo {
    /// How many newer versions of the key are known: 0 is the newest. Where not all versions are at hand it may be
    /// smaller than the truth, never larger.
    pub rank: u64,
    /// The commit that wrote it.
    pub seqno: Seqno,
    /// When it was written.
    pub time: SystemTime,
    /// When it stopped being the truth: by a newer version, or because it expired; nothing of a tombstone that is the
    /// newest version.
    pub superseded_at: Option<SystemTime>,
    /// It says that the key was deleted.
    pub is_delete: bool,
    /// Bytes of its key and value.
    pub bytes: usize,
}

/// What is known of a version that may go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PolicyCandidate {
    pub(crate) rank: u64,
    pub(crate) seqno: Seqno,
    /// In microseconds, as all times here.
    pub(crate) time: Micros,
    /// Nothing of a tombstone that is the newest version.
    pub(crate) superseded_at: Option<Micros>,
    pub(crate) is_delete: bool,
    /// A delete superseded it.
    pub(crate) ended_by_delete: bool,
    /// A delete above it was written at this time at the latest: the oldest such.
    pub(crate) deleted_since: Option<Micros>,
    pub(crate) bytes: usize,
}

impl Policy {
    /// Keeps the newest version of each key. It promises no past: reads as of an earlier seqno are exact while
    /// the history happens to exist, and [`HistoryTrimmed`](crate::Error::HistoryTrimmed) afterwards.
    #[must_use]
    pub fn last_writer_wins() -> Self {
        Self(Kind::LastWriterWins)
    }

    /// As [`last_writer_wins`](Policy::last_writer_wins), but the value that a delete ended stays readable for this
    /// long after the delete.
    #[must_use]
    pub fn tombstones(retention: Duration) -> Self {
        Self(Kind::Tombstones(Micros::of_duration(retention)))
    }

    /// Keeps of each key the newest `max_versions` versions, and besides every version that was the truth at some
    /// moment of the last `min_age`: inside that window every read of the past is exact. Deletes count as versions;
    /// what lies beneath a delete older than `min_age` is not kept by number.
    #[must_use]
    pub fn mvcc(max_versions: u64, min_age: Duration) -> Self {
        Self(Kind::Mvcc { versions: max_versions, age: Micros::of_duration(min_age) })
    }

    /// A policy of your own. Its name, of 1 to 255 bytes, is kept in the database. A process that opens the keyspace
    /// without giving the policy keeps everything in it until the policy is given.
    #[must_use]
    pub fn custom(name: impl AsRef<str>, policy: impl CompactionPolicy) -> Self {
        Self(Kind::Custom { name: name.as_ref().into(), by: Arc::new(policy) })
    }

    /// That its name, if it has one, can be stored.
    pub(crate) fn check_name(&self) -> Result<()> {
        match &self.0 {
            Kind::Custom { name, .. } if name.is_empty() || name.len() > NAME_LEN_MAX => Err(Error::invalid(format!(
                "the name of a custom policy has 1 to {NAME_LEN_MAX} bytes, not {}",
                name.len()
            ))),
            _ => Ok(()),
        }
    }

    /// How it is stored.
    pub(crate) fn stored(&self) -> StoredPolicy {
        match &self.0 {
            Kind::LastWriterWins => StoredPolicy::LastWriterWins,
            Kind::Tombstones(retention) => StoredPolicy::Tombstones(*retention),
            Kind::Mvcc { versions, age } => StoredPolicy::Mvcc(*versions, *age),
            Kind::Custom { name, .. } => StoredPolicy::Custom(name.as_ref().to_owned()),
        }
    }

    /// The policy that was stored; `custom` is the one that this process was given for the keyspace.
    pub(crate) fn of(stored: &StoredPolicy, custom: Option<&Self>) -> Self {
        match stored {
            StoredPolicy::LastWriterWins => Self(Kind::LastWriterWins),
            StoredPolicy::Tombstones(retention) => Self(Kind::Tombstones(*retention)),
            StoredPolicy::Mvcc(versions, age) => Self(Kind::Mvcc { versions: *versions, age: *age }),
            StoredPolicy::Custom(name) => match custom {
                Some(given) if given.stored() == *stored => given.clone(),
                _ => Self(Kind::Custom { name: name.as_str().into(), by: Arc::new(Everything) }),
            },
        }
    }

    /// Whether versions that were superseded may be kept although no view needs them.
    pub(crate) fn keeps_history(&self) -> bool {
        !matches!(self.0, Kind::LastWriterWins)
    }

    /// The window: every version that was the truth in it is kept, in microseconds.
    pub(crate) fn window(&self) -> Micros {
        match self.0 {
            Kind::LastWriterWins | Kind::Custom { .. } => Micros::ZERO,
            Kind::Tombstones(retention) => retention,
            Kind::Mvcc { age, .. } => age,
        }
    }

    /// Whether age alone decides about what was superseded: then whole segments go by their newest end (K7).
    pub(crate) fn only_age_counts(&self) -> bool {
        match self.0 {
            Kind::LastWriterWins | Kind::Tombstones(_) => true,
            Kind::Mvcc { versions, .. } => versions <= 1,
            Kind::Custom { .. } => false,
        }
    }

    /// Whether the user wrote it.
    pub(crate) fn is_custom(&self) -> bool {
        matches!(self.0, Kind::Custom { .. })
    }

    /// Whether a version is kept at the time `now`, in microseconds (K2).
    pub(crate) fn owes(&self, version: &PolicyCandidate, now: Micros) -> bool {
        let ended = version.superseded_at.unwrap_or(version.time);
        let younger = |age: Micros, since: Micros| now.saturating_sub(since) < age;
        match &self.0 {
            Kind::LastWriterWins => false,
            Kind::Tombstones(retention) => {
                version.ended_by_delete && younger(*retention, ended)
                    || version.is_delete && younger(*retention, version.time)
            }
            Kind::Mvcc { versions, age } => {
                let counts = version.deleted_since.is_none_or(|since| younger(*age, since))
                    && (!version.is_delete || version.superseded_at.is_some() || younger(*age, version.time));
                younger(*age, ended) || counts && version.rank < *versions
            }
            Kind::Custom { by, .. } => {
                let info = VersionInfo {
                    rank: version.rank,
                    seqno: version.seqno,
                    time: version.time.to_time(),
                    superseded_at: version.superseded_at.map(Micros::to_time),
                    is_delete: version.is_delete,
                    bytes: version.bytes,
                };
                callback(|| catch_unwind(AssertUnwindSafe(|| by.keep(&info, now.to_time())))).unwrap_or(true)
            }
        }
    }
}

impl PartialEq for Policy {
    fn eq(&self, other: &Self) -> bool {
        self.stored() == other.stored()
    }
}

impl Eq for Policy {}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::LastWriterWins => write!(f, "Policy(last_writer_wins)"),
            Kind::Tombstones(retention) => write!(f, "Policy(tombstones, {:?})", retention.to_duration()),
            Kind::Mvcc { versions, age } => {
                write!(f, "Policy(mvcc, {versions} versions, {:?})", age.to_duration())
            }
            Kind::Custom { name, .. } => write!(f, "Policy(custom, {name:?})"),
        }
    }
}

/// Stands for a custom policy that this process has not been given.
struct Everything;

impl CompactionPolicy for Everything {
    fn keep(&self, _version: &VersionInfo, _now: SystemTime) -> bool {
        true
    }
}
