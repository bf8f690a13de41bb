//! Options of a database, and of a keyspace.

use std::{
    panic::{RefUnwindSafe, UnwindSafe},
    sync::Arc,
    time::Duration,
};

use crate::{
    base::{Error, Micros, Result},
    chunk::{codec::is_level, cut::Chunking},
    compaction::{Policy, Shape},
    env::{Env, Os},
    manifest::StoredChunking,
    merge::MergeStrategy,
};

/// Time by which an acknowledged write is on the disk. With every setting a write survives the death of the process,
/// and a power cut leaves the database as it was at one moment: a prefix of the commits, each batch whole.
///
/// ```
/// # use chronolith::{env::Memory, Durability, KeyspaceOptions, Options};
/// # let db = Options::new().env(Memory::new()).open("my.db")?;
/// # let users = db.keyspace("users", KeyspaceOptions::new())?;
/// let mut batch = db.batch();
/// batch.put(&users, "ann", "25");
/// batch.commit_with(Durability::Sync)?;
/// # Ok::<_, chronolith::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// When the operating system writes it back. The fastest; a power cut may lose whatever had not been written back.
    Buffered,
    /// At most this long after the write, plus the time of one sync, which writes up to 64 MiB of new chunks of large
    /// values (a tenth of a second on a fast disk). The default, with 100 ms.
    Interval(Duration),
    /// Before the write returns. Concurrent writers share one sync.
    Sync,
}

impl Default for Durability {
    fn default() -> Self {
        Self::Interval(Duration::from_millis(100))
    }
}

/// Smallest and default budgets, in bytes.
const BUDGET_MIN: u64 = 4 << 20;
const BUDGET_DEFAULT: u64 = 256 << 20;

/// Largest memtable: a smaller skip list is a faster one, and four of them bound the live log to 64 MiB, plus one batch
/// each.
const MEMTABLE_MAX: u64 = 16 << 20;

/// Most bytes for spans known to hold nothing.
const DEAD_MAX: usize = 16 << 20;

/// Sealed memtables that may wait for their flush.
pub(crate) const SEALED_MAX: usize = 3;

/// Bounds that no user needs to set, and that tests make small.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Seqnos reserved ahead: after a crash numbering goes on above them, so none is ever given out twice.
    pub(crate) seqno_reserve: u64,
    /// Bytes of recent batches that are kept while a caller is between reading and committing.
    pub(crate) recent_bytes: usize,
    /// Bytes that the exact part of the timeline may take if no history is kept.
    pub(crate) timeline_bytes: u64,
    /// TTLs of one keyspace under each of which something was written that still exists.
    pub(crate) ttls: usize,
    /// Stored bytes of chunks after which a memtable is sealed.
    pub(crate) epoch_bytes: u64,
    /// Places of chunks after which a memtable is sealed: each takes some memory. `None`: by the budget.
    pub(crate) epoch_places: Option<u64>,
    /// Bytes of recipes, with what keeps their chunks, that are cut anew before they are replaced, and the most values.
    pub(crate) rechunk_bytes: usize,
    pub(crate) rechunk_values: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            seqno_reserve: 1 << 32,
            recent_bytes: 16 << 20,
            timeline_bytes: 4 << 20,
            ttls: 1 << 16,
            epoch_bytes: 64 << 20,
            epoch_places: None,
            rechunk_bytes: 16 << 20,
            rechunk_values: 1 << 16,
        }
    }
}

/// Files that are open beside those that reads use: the directories, logs, the manifest, what jobs and checkpoints
/// write.
const OPEN_FILES_OWN: usize = 24;

/// The smallest limit of open files, and the largest that is set by default.
const OPEN_FILES_MIN: usize = 32;
const OPEN_FILES_DEFAULT_MAX: usize = 1024;

/// Opens databases.
///
/// ```
/// use chronolith::{env::Memory, Durability, Options};
/// let db = Options::new()
///     .durability(Durability::Sync)
///     .memory_budget(64 << 20)
///     .env(Memory::new())
///     .open("my.db")?;
/// # Ok::<_, chronolith::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "options do nothing until `open`"]
pub struct Options {
    pub(crate) durability: Durability,
    pub(crate) memory_budget: u64,
    pub(crate) env: Arc<dyn Env>,
    pub(crate) l0_threshold: usize,
    pub(crate) level_ratio: u64,
    pub(crate) mmap: bool,
    pub(crate) max_open_files: Option<usize>,
    pub(crate) read_only: bool,
    pub(crate) limits: Limits,
    pub(crate) create: bool,
}

// A machine is shared by everything that runs on it, and a panic elsewhere does not end it.
impl UnwindSafe for Options {}
impl RefUnwindSafe for Options {}

impl Default for Options {
    fn default() -> Self {
        Self {
            durability: Durability::default(),
            memory_budget: BUDGET_DEFAULT,
            env: Arc::new(Os),
            l0_threshold: 4,
            level_ratio: 10,
            mmap: true,
            max_open_files: None,
            read_only: false,
            limits: Limits::default(),
            create: true,
        }
    }
}

impl Options {
    /// Returns the defaults, which [`Db::open`](crate::Db::open) uses.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets when acknowledged writes are on the disk; by default [`Interval`](Durability::Interval) with 100 ms.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Sets the bytes for memtables and background work together: at least 4 MiB, by default 256 MiB. Pages of mapped
    /// files belong to the operating system and are not counted.
    #[doc(alias = "cache_size", alias = "write_buffer_size")]
    pub fn memory_budget(mut self, bytes: u64) -> Self {
        self.memory_budget = bytes;
        self
    }

    /// Sets the machine to run on: [`Os`] (the default), [`env::Memory`](crate::env::Memory) or
    /// [`env::Sim`](crate::env::Sim).
    pub fn env(mut self, env: impl Env) -> Self {
        self.env = Arc::new(env);
        self
    }

    /// Sets how many segments flushes may leave in a keyspace before they are compacted: at least 1, by default 4.
    /// Writers to the keyspace slow down at three times as many and stop at eight times.
    #[doc(alias = "level0_file_num_compaction_trigger")]
    pub fn l0_threshold(mut self, segments: usize) -> Self {
        self.l0_threshold = segments;
        self
    }

    /// Sets how many times larger each level may be than the one above: at least 2, by default 10.
    #[doc(alias = "max_bytes_for_level_multiplier")]
    pub fn level_ratio(mut self, ratio: u64) -> Self {
        self.level_ratio = ratio;
        self
    }

    /// Sets how many files the database may have open at once, whatever the number of its files: at least 32. The
    /// default is a quarter of what the process may have open (`ulimit -n`), at most 1024.
    ///
    /// Files that are not being read are closed and opened again. In addition to the limit, each thread that reads at
    /// the moment may have one file open, and each checkpoint under way a few. If the system refuses a file below the
    /// limit, the call is tried again with as few open files as possible. A mapped segment needs no open file for pages
    /// that were verified before; without maps every read needs one.
    pub fn max_open_files(mut self, files: usize) -> Self {
        self.max_open_files = Some(files);
        self
    }

    /// Sets whether segments are read through memory maps (the default) or by positioned reads, each of which is
    /// verified.
    ///
    /// A map is faster. It trusts that no other program shortens the files, and that a page that was verified once
    /// reads the same later; a failing medium under such a page ends the process. Without maps both become errors.
    /// Where the system refuses a map, as Linux does beyond 65,530 of them, that segment is read by position.
    pub fn mmap(mut self, map: bool) -> Self {
        self.mmap = map;
        self
    }

    /// Sets whether to open without changing a byte, alongside other readers but no writer. The database must exist.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Sets whether a database that does not exist is created (the default). With `false`, opening one fails with
    /// [`Invalid`](Error::Invalid), names a similar one beside it if there is one, and creates nothing.
    #[doc(alias = "create_if_missing")]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Fails for invalid options.
    pub(crate) fn check(&self) -> Result<()> {
        if self.memory_budget < BUDGET_MIN {
            return Err(Error::invalid(format!(
                "memory_budget is at least {BUDGET_MIN} bytes, not {}",
                self.memory_budget
            )));
        }
        if let Some(files) = self.max_open_files.filter(|files| *files < OPEN_FILES_MIN) {
            return Err(Error::invalid(format!("max_open_files is at least {OPEN_FILES_MIN}, not {files}")));
        }
        if self.l0_threshold == 0 {
            return Err(Error::invalid("l0_threshold is at least 1, not 0"));
        }
        if self.level_ratio < 2 {
            return Err(Error::invalid(format!("level_ratio is at least 2, not {}", self.level_ratio)));
        }
        if matches!(self.durability, Durability::Interval(every) if every.is_zero()) {
            return Err(Error::invalid("an interval of zero is Durability::Sync"));
        }
        Ok(())
    }

    /// Returns how many segments may be open for reading at once.
    pub(crate) fn open_segments_max(&self) -> usize {
        let default = || {
            let quarter = self.env.open_files_max().map_or(u64::MAX, |limit| limit / 4);
            usize::try_from(quarter).unwrap_or(usize::MAX).clamp(OPEN_FILES_MIN, OPEN_FILES_DEFAULT_MAX)
        };
        self.max_open_files.unwrap_or_else(default) - OPEN_FILES_OWN
    }

    /// Returns the size at which a memtable is sealed, in bytes.
    pub(crate) fn memtable_bytes(&self) -> u64 {
        (self.memory_budget / 8).min(MEMTABLE_MAX)
    }

    /// Returns the bytes for decoded chunks: a sixteenth of the budget, 16 MiB by default.
    pub(crate) fn chunk_cache_bytes(&self) -> usize {
        usize::try_from(self.memory_budget / 16).unwrap_or(usize::MAX)
    }

    /// Returns the number of new chunks after which a memtable is sealed: their places take about 80 bytes each.
    pub(crate) fn epoch_places(&self) -> u64 {
        self.limits.epoch_places.unwrap_or(self.memtable_bytes() / 256)
    }

    /// Returns the bytes for spans known to hold nothing: a thirty-second of the budget, 8 MiB by default, room for
    /// both ends of ten thousand queues.
    pub(crate) fn dead_bytes(&self) -> usize {
        usize::try_from(self.memory_budget / 32).unwrap_or(usize::MAX).min(DEAD_MAX)
    }

    /// Returns the length at which outputs of compactions are cut.
    pub(crate) fn segment_bytes(&self) -> u64 {
        self.memtable_bytes() * 2
    }

    pub(crate) fn shape(&self) -> Shape {
        Shape {
            l0_threshold: self.l0_threshold,
            level_ratio: self.level_ratio,
            base_bytes: self.memtable_bytes().saturating_mul(self.l0_threshold as u64),
            level_max: 6,
        }
    }
}

/// How the chunks of large values are stored: see [`KeyspaceOptions::compression`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// As they are.
    None,
    /// Compressed by zstd with a level of 1 to 22, or of −7 to −1 for less and faster. A chunk that a quick probe finds
    /// incompressible is stored as it is. The default is level 1.
    Zstd(i32),
}

impl Compression {
    /// Returns the level of zstd, if there is one.
    fn level(self) -> Option<i32> {
        match self {
            Self::None => None,
            Self::Zstd(level) => Some(level),
        }
    }
}

/// Shortest value that is cut: the recipe of a shorter one would not be much shorter.
pub(crate) const CHUNK_THRESHOLD_MIN: u64 = 512;

/// Longest value that is kept in its entry where the threshold allows it.
pub(crate) const UNCUT_MAX: u64 = 1 << 20;

/// Maximum length of the name of a dedup scope, in bytes.
const SCOPE_LEN_MAX: usize = 255;

/// Options of a keyspace. What is not set keeps its stored value; a new keyspace gets the default.
#[derive(Clone, Debug)]
#[must_use = "options do nothing until `Db::keyspace`"]
pub struct KeyspaceOptions {
    pub(crate) policy: Option<Policy>,
    pub(crate) merge: Option<MergeStrategy>,
    pub(crate) point_index: Option<bool>,
    /// In microseconds; 0 is for ever.
    pub(crate) ttl: Option<Micros>,
    pub(crate) chunk_threshold: Option<u64>,
    pub(crate) chunking: Option<Chunking>,
    pub(crate) dedup_scope: Option<String>,
    pub(crate) compression: Option<Compression>,
    pub(crate) create: bool,
}

impl Default for KeyspaceOptions {
    fn default() -> Self {
        Self {
            policy: None,
            merge: None,
            point_index: None,
            ttl: None,
            chunk_threshold: None,
            chunking: None,
            dedup_scope: None,
            compression: None,
            create: true,
        }
    }
}

impl KeyspaceOptions {
    /// Returns options with nothing set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whether a keyspace that does not exist is created (the default). With `false`, opening one fails with
    /// [`Invalid`](Error::Invalid) and names the most similar one.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// db.keyspace("users", KeyspaceOptions::new())?;
    /// let typo = db.keyspace("usres", KeyspaceOptions::new().create(false)).unwrap_err();
    /// assert!(typo.to_string().contains("did you mean \"users\""));
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Sets how much history is kept; by default [`Policy::last_writer_wins`]. For an existing keyspace this replaces
    /// the stored policy, at once and for every handle: if the new one keeps less, the next compaction drops history.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = Some(policy);
        self
    }

    /// Sets how long a value lives, counted from its write; [`Duration::ZERO`] and [`Duration::MAX`] mean for ever,
    /// which is the default. Existing values keep the TTL that was set when they were written.
    ///
    /// Once a value has expired no read shows it, including reads of the past as of a moment after its expiry; moments
    /// before are kept as the policy says. Strategies that combine values (Sum, Append, custom) cannot have a TTL.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # use std::time::Duration;
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// let hour = Duration::from_secs(3600);
    /// let sessions = db.keyspace("sessions", KeyspaceOptions::new().ttl(hour))?;
    /// assert_eq!(sessions.ttl(), Some(hour));
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    #[doc(alias = "expire_after")]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(if ttl == Duration::MAX { Micros::ZERO } else { Micros::of_duration(ttl) });
        self
    }

    /// Sets what several writes of one key mean; by default [`MergeStrategy::LastWins`]. A keyspace keeps the strategy
    /// it was created with: opening it with another one fails, and so does opening it with none where a custom one is
    /// stored.
    pub fn merge(mut self, strategy: MergeStrategy) -> Self {
        self.merge = Some(strategy);
        self
    }

    /// Sets whether new segments carry the perfect-hash index for point reads. By default only segments large enough to
    /// benefit carry it; `false` is for keyspaces that are read by range alone, `true` indexes even the smallest
    /// segment. Existing segments keep what they have.
    pub fn point_index(mut self, index: bool) -> Self {
        self.point_index = Some(index);
        self
    }

    /// Sets the length in bytes from which on a value is stored as a large value: cut into chunks, each of which is
    /// stored once for all values of its [scope](KeyspaceOptions::dedup_scope). By default 32 KiB.
    ///
    /// Values shorter than 512 bytes are never cut; values longer than 1 MiB always are, also with [`u64::MAX`].
    /// Strategies that combine values (Sum, Append, custom) take no options of large values: theirs are never cut.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// let pages = db.keyspace("pages", KeyspaceOptions::new().chunk_threshold(4096))?;
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    #[doc(alias = "min_blob_size")]
    pub fn chunk_threshold(mut self, bytes: u64) -> Self {
        self.chunk_threshold = Some(bytes);
        self
    }

    /// Sets where large values are cut; by default [`Chunking::automatic`]. Existing values stay as they were cut: they
    /// share no chunks with values that are cut in another way, until [`rechunk`](crate::Db::rechunk) cuts them anew. A
    /// [`trial`](Chunking::trial) compares two chunkings.
    pub fn chunking(mut self, chunking: Chunking) -> Self {
        self.chunking = Some(chunking);
        self
    }

    /// Sets the dedup scope: 1 to 255 bytes of UTF-8. Equal chunks are stored once for all keyspaces of one scope, and
    /// once again for those of another. A keyspace keeps the scope it was created with; without one it belongs to the
    /// default scope, in which the id of a chunk is the BLAKE3 hash that `b3sum` prints.
    ///
    /// In a scope with a name, ids are keyed by a secret of this database, so that nobody can tell from ids, or from
    /// how much a write added, what another scope holds.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// let files = db.keyspace("files of 7", KeyspaceOptions::new().dedup_scope("tenant 7"))?;
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    pub fn dedup_scope(mut self, name: impl Into<String>) -> Self {
        self.dedup_scope = Some(name.into());
        self
    }

    /// Sets how chunks are stored from now on; by default [`Zstd`](Compression::Zstd) with level 1.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = Some(compression);
        self
    }

    /// Fails for options of large values that are out of bounds.
    pub(super) fn check_large(&self, keyspace: &str) -> Result<()> {
        let chunking = self.chunking.map_or(Ok(()), Chunking::check);
        chunking.map_err(|error| match error {
            Error::Invalid { what } => Error::invalid(format!("keyspace \"{keyspace}\": {what}")),
            other => other,
        })?;
        if let Some(level) = self.compression.and_then(Compression::level)
            && !is_level(level)
        {
            return Err(Error::invalid(format!(
                "keyspace \"{keyspace}\": zstd has levels from -7 to -1 and from 1 to 22, not {level}"
            )));
        }
        if let Some(name) = self.dedup_scope.as_ref().filter(|name| !(1..=SCOPE_LEN_MAX).contains(&name.len())) {
            return Err(Error::invalid(format!(
                "keyspace \"{keyspace}\": the name of a dedup scope has 1 to {SCOPE_LEN_MAX} bytes, not {}",
                name.len()
            )));
        }
        Ok(())
    }

    /// Applies those that are set to what is stored.
    pub(super) fn large(&self, mut stored: StoredChunking) -> StoredChunking {
        if let Some(bytes) = self.chunk_threshold {
            stored.threshold = Some(bytes.max(CHUNK_THRESHOLD_MIN)).filter(|bytes| *bytes < u64::MAX);
        }
        if let Some(chunking) = self.chunking {
            stored.chunking = chunking;
        }
        if let Some(compression) = self.compression {
            stored.level = compression.level();
        }
        stored
    }
}
