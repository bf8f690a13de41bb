//! Policies: what history a keyspace keeps.
//!
//! ```text
//!   versions of a key           superseded    mvcc(2, 1 h), it is 12:00
//!     v4   written 11:50        —             the newest stays
//!     v3   written 11:10        11:50         one of the newest two, and in the window
//!     v2   written 09:00        11:10         in the window: it was current at 11:05
//!     v1   written 08:00        09:00         may be dropped
//! ```
//!
//! The age of a version counts from when it was superseded, not from when it was written: whatever was current at a
//! moment inside the window is kept, however old it was by then. (Rejected: the age since the write, as in most engines
//! at first. A value written yesterday and replaced a minute ago would be missing from a window of an hour.)

use std::{
    fmt,
    panic::{AssertUnwindSafe, RefUnwindSafe, UnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    base::{Error, Kind as EntryKind, Micros, Result, Seqno, callback},
    chunk::recipe,
    manifest::StoredPolicy,
};

/// Maximum length of the name of a custom policy, in bytes.
const NAME_LEN_MAX: usize = 255;

/// What history a keyspace keeps, beyond what open views and pins need. The newest value of each key always stays,
/// unless it has expired.
///
/// Ages count from when a version was superseded, not from when it was written. They are rounded up to whole
/// microseconds; a duration that is too long to be counted in them means for ever. Flushes and compactions apply the
/// policy to the versions that they meet: until then, reads of the past may find more than it promises.
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

// The state in which a panicking callback leaves itself is its own concern: later calls are made as if it had returned.
impl UnwindSafe for Policy {}
impl RefUnwindSafe for Policy {}

/// A user-defined compaction policy, for [`Policy::custom`].
pub trait CompactionPolicy: Send + Sync + 'static {
    /// Returns whether to keep a version. Flushes and compactions ask about each version that they meet, those of one
    /// key newest first, any number of times; the answer should depend on the arguments alone. The newest value of a
    /// key is kept without asking until it has expired. A version that an open view or a pin still reads is kept
    /// whatever the answer.
    ///
    /// A panic counts as `true`. It runs under the locks of compactions, so it cannot use a database: within it, every
    /// call to one returns [`Invalid`](crate::Error::Invalid).
    ///
    /// A policy belongs to the open database: if it holds a [`Db`](crate::Db) of it, a keyspace or a view, the database
    /// stays open for ever, unless [`Db::close`](crate::Db::close) is called.
    fn keep(&self, version: &VersionInfo, now: SystemTime) -> bool;
}

/// A version of a key that a [`CompactionPolicy`] decides about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VersionInfo {
    /// Number of newer versions of the key, deletes included: 0 is the newest. It may be lower than the true number if
    /// not all versions are at hand, but never higher.
    pub rank: u64,
    /// The commit that wrote it.
    pub seqno: Seqno,
    /// When it was written.
    pub time: SystemTime,
    /// When it stopped being current: when a newer version was written, or when it expired. `None` for a delete that is
    /// the newest version.
    pub superseded_at: Option<SystemTime>,
    /// Whether it is a delete.
    pub is_delete: bool,
    /// Length of its key and value, in bytes: of a large value that of the value itself, whoever shares its chunks.
    pub bytes: usize,
}

/// Returns the length of a key and its value, in bytes: of a large value that of the value, not of its recipe.
pub(super) fn entry_bytes(kind: EntryKind, key: &[u8], value: &[u8]) -> u64 {
    let large = if kind == EntryKind::Recipe { recipe::value_len(value) } else { None };
    key.len() as u64 + large.unwrap_or(value.len() as u64)
}

/// What is known of a version that may be dropped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PolicyCandidate {
    pub(crate) rank: u64,
    pub(crate) seqno: Seqno,
    pub(crate) time: Micros,
    /// `None` for a tombstone that is the newest version.
    pub(crate) superseded_at: Option<Micros>,
    pub(crate) is_delete: bool,
    /// Whether a delete superseded it.
    pub(crate) ended_by_delete: bool,
    /// Time of the oldest delete above it, if there is one.
    pub(crate) deleted_since: Option<Micros>,
    pub(crate) bytes: u64,
}

impl Policy {
    /// Keeps only the newest version of each key. It promises no past: a read as of an earlier seqno is exact as long
    /// as its history happens to exist, and fails with [`HistoryTrimmed`](crate::Error::HistoryTrimmed) afterwards.
    #[must_use]
    pub fn last_writer_wins() -> Self {
        Self(Kind::LastWriterWins)
    }

    /// Keeps the newest version of each key, like [`last_writer_wins`](Policy::last_writer_wins), and also every value
    /// that a delete ended, for `retention` after that delete.
    #[must_use]
    pub fn tombstones(retention: Duration) -> Self {
        Self(Kind::Tombstones(Micros::of_duration(retention)))
    }

    /// Keeps every version that was current at some moment of the last `min_age`, so every read inside that window
    /// since the policy was set is exact, and the newest `max_versions` versions of each key, whatever their age.
    /// Deletes count as versions. What lies beneath a delete older than `min_age` is not kept by number.
    #[must_use]
    pub fn mvcc(max_versions: u64, min_age: Duration) -> Self {
        Self(Kind::Mvcc { versions: max_versions, age: Micros::of_duration(min_age) })
    }

    /// Creates a user-defined policy. Its name is stored in the database; [`Db::keyspace`](crate::Db::keyspace) returns
    /// [`Invalid`](crate::Error::Invalid) unless it has 1 to 255 bytes. A process that opens the keyspace without
    /// giving it this policy keeps all versions in it, until the policy is given. Unlike a merge strategy, a policy can
    /// be replaced: another one, or this one under another name, takes its place.
    #[must_use]
    pub fn custom(name: impl AsRef<str>, policy: impl CompactionPolicy) -> Self {
        Self(Kind::Custom { name: name.as_ref().into(), by: Arc::new(policy) })
    }

    /// Fails unless a custom name can be stored.
    pub(crate) fn check_name(&self) -> Result<()> {
        match &self.0 {
            Kind::Custom { name, .. } if name.is_empty() || name.len() > NAME_LEN_MAX => Err(Error::invalid(format!(
                "the name of a custom policy has 1 to {NAME_LEN_MAX} bytes, not {}",
                name.len()
            ))),
            _ => Ok(()),
        }
    }

    /// Returns the form in which the policy is stored.
    pub(crate) fn stored(&self) -> StoredPolicy {
        match &self.0 {
            Kind::LastWriterWins => StoredPolicy::LastWriterWins,
            Kind::Tombstones(retention) => StoredPolicy::Tombstones(*retention),
            Kind::Mvcc { versions, age } => StoredPolicy::Mvcc(*versions, *age),
            Kind::Custom { name, .. } => StoredPolicy::Custom(name.as_ref().to_owned()),
        }
    }

    /// Returns the policy that was stored; `custom` is the one that this process was given for the keyspace.
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

    /// Returns whether superseded versions may be kept although no view needs them.
    pub(crate) fn keeps_history(&self) -> bool {
        !matches!(self.0, Kind::LastWriterWins)
    }

    /// Returns the length of the window in microseconds: every version that was current inside it is kept.
    pub(crate) fn window(&self) -> Micros {
        match self.0 {
            Kind::LastWriterWins | Kind::Custom { .. } => Micros::ZERO,
            Kind::Tombstones(retention) => retention,
            Kind::Mvcc { age, .. } => age,
        }
    }

    /// Returns whether age alone decides about superseded versions: then a segment is dropped as a whole by its newest
    /// end (K7).
    pub(crate) fn only_age_counts(&self) -> bool {
        match self.0 {
            Kind::LastWriterWins | Kind::Tombstones(_) => true,
            Kind::Mvcc { versions, .. } => versions <= 1,
            Kind::Custom { .. } => false,
        }
    }

    /// Returns whether it is user-defined.
    pub(crate) fn is_custom(&self) -> bool {
        matches!(self.0, Kind::Custom { .. })
    }

    /// Returns whether a version is kept at the time `now`, in microseconds (K2).
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
                    // On a machine whose memory is smaller than the value: more than it could hold.
                    bytes: usize::try_from(version.bytes).unwrap_or(usize::MAX),
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

/// Stands in for a custom policy that this process has not been given, and keeps everything.
struct Everything;

impl CompactionPolicy for Everything {
    fn keep(&self, _version: &VersionInfo, _now: SystemTime) -> bool {
        true
    }
}
