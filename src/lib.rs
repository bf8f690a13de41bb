//! An embedded key-value database engine that remembers: ordered keyspaces, atomic batches, any moment of the past.
//!
//! ```
//! # use chronolith::{env::Memory, KeyspaceOptions, Options};
//! # struct Db;
//! # impl Db { fn open(path: &str) -> chronolith::Result<chronolith::Db> { Options::new().env(Memory::new()).open(path) } }
//! let db = Db::open("my.db")?;
//! let users = db.keyspace("users", KeyspaceOptions::new())?;
//! users.put("ann", "25")?;
//! let before = db.snapshot();
//! users.put("ann", "26")?;
//!
//! assert_eq!(users.get("ann")?.unwrap(), b"26");
//! assert_eq!(before.get(&users, "ann")?.unwrap(), b"25");
//! # Ok::<_, chronolith::Error>(())
//! ```
//!
//! | task | start with |
//! | --- | --- |
//! | open, create, recover | [`Db::open`], [`Options`] |
//! | write one key, a range, or a batch | [`Keyspace::put`], [`Keyspace::delete_range`], [`Batch`] |
//! | read, modify, write | [`Keyspace::update`], [`Keyspace::compare_and_swap`], [`Keyspace::insert_if_absent`] |
//! | read keys and ranges | [`Keyspace::get`], [`Keyspace::range`], [`Keyspace::prefix`], [`Keyspace::cursor`] |
//! | sum, append, keep the first value, reject duplicates | [`MergeStrategy`], [`Keyspace::merge`], [`merge::append_items`] |
//! | store and read large values | [`Keyspace::writer`], [`Keyspace::reader`], [`Keyspace::read_at`], [`Batch::adopt`] |
//! | set how large values are cut and shared | [`KeyspaceOptions::chunk_threshold`], [`Chunking`], [`KeyspaceOptions::dedup_scope`], [`Compression`] |
//! | compare ways to cut, and cut values anew | [`Chunking::trial`], [`Stats::trials`], [`Db::rechunk`] |
//! | describe and copy large values | [`Keyspace::stat`], [`Keyspace::recipe`], [`Keyspace::copy`], [`Keyspace::adopt`] |
//! | read, store and exchange single chunks | [`Db::chunks`], [`Keyspace::chunks`], [`HaveYou`] |
//! | explain a read | [`Keyspace::explain`] |
//! | build and merge static tables in files of their own | [`phash`] |
//! | read the past | [`Db::snapshot`], [`Db::as_of`], [`Db::as_of_time`], [`View`] |
//! | set how long history is kept | [`Policy`], [`KeyspaceOptions::ttl`], [`Db::pin`], [`Keyspace::horizon`] |
//! | list versions, commits and differences | [`Keyspace::history`], [`Keyspace::history_range`], [`Db::commits`], [`Db::diff`] |
//! | erase a key and its history | [`Keyspace::purge`], [`Keyspace::purge_prefix`] |
//! | control durability | [`Durability`], [`Db::persist`] |
//! | handle errors | [`Error`]: one variant for each way to react |
//! | inspect a keyspace | [`Keyspace::policy`], [`Keyspace::merge_strategy`], [`Keyspace::ttl`], [`Keyspace::space`] |
//! | operate a database | [`Db::stats`], [`Db::verify`], [`Db::checkpoint`], [`Db::compact`], [`Db::health`] |
//! | test a program against power cuts | [`env::Sim`] |
//!
//! ```text
//!  put · delete · batch                 get · range · as_of
//!        ▼                                    ▼
//!  log, then memtable  ────────▶  memtables, then segments, newest first
//!        ▼ full                               ▲
//!  flush ▶ segments ▶ compaction ▶ fewer, better segments
//! ```

mod api;
mod base;
mod chunk;
mod compaction;
mod engine;
pub mod env;
mod format;
mod manifest;
mod memtable;
pub mod merge;
pub mod phash;
mod segment;
mod wal;

pub use api::{
    Batch, Change, ChunkIds, Chunks, Commit, Commits, Cursor, Db, Diff, History, HistoryRange, Keyspace, Lease, Range,
    RangeKeys, StagedValue, Stored, ValueReader, ValueWriter, Version, View, WriteOptions,
};
pub use base::{Bytes, ChunkId, Corruption, Error, KeyRange, Receipt, Result, Seqno, SeqnoRange};
pub use chunk::{
    cut::Chunking,
    exchange::{Have, HaveYou},
};
pub use compaction::{CompactionPolicy, Policy, VersionInfo};
pub use engine::{
    ArmStats, ChunkFacts, ChunkHolders, ChunkStats, Compacted, Compression, Durability, Explain, KeyspaceOptions,
    KeyspaceSpace, LevelStats, Options, Pin, PinStats, Progress, ReadOutcome, ReadStep, Rechunked, Recipe, Report,
    SpaceUse, Stat, Stats, TrialStats, VerifyFinding, ViewStats,
};
pub use merge::strategy::{CustomMerge, Merge, MergeStrategy};

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct ReadmeDoctests;

#[doc = include_str!("../docs/guide/first-steps.md")]
#[cfg(doctest)]
struct FirstStepsDoctests;
