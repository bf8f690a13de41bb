//! An embedded key-value database engine that remembers: ordered keyspaces, atomic batches, any moment of the past.
//!
//! ```
//! # use chronolith::{env::Memory, KeyspaceOptions, Options};
//! # let open = |path| Options::new().env(Memory::new()).open(path);
//! let db = open("my.db")?; // `Db::open` for a directory on disk
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
//! | to | see |
//! | --- | --- |
//! | open, create, recover | [`Db::open`], [`Options`] |
//! | write one key, or many at once | [`Keyspace::put`], [`Keyspace::delete_range`], [`Batch`] |
//! | write what depends on what is there | [`Keyspace::update`], [`Keyspace::compare_and_swap`], [`Keyspace::insert_if_absent`] |
//! | read one key, or many in order | [`Keyspace::get`], [`Keyspace::range`], [`Keyspace::prefix`], [`Keyspace::cursor`] |
//! | add, append, keep the first, refuse a second | [`MergeStrategy`], [`Keyspace::merge`], [`merge::append_items`] |
//! | know where a read looks | [`Keyspace::explain`] |
//! | keep a fixed table by itself, merge such tables | [`phash`] |
//! | look back | [`Db::snapshot`], [`Db::as_of`], [`Db::as_of_time`], [`View`] |
//! | say how much of the past is kept, and for whom | [`Policy`], [`KeyspaceOptions::ttl`], [`Db::pin`], [`Keyspace::horizon`] |
//! | list versions, commits, differences | [`Keyspace::history`], [`Keyspace::history_range`], [`Db::commits`], [`Db::diff`] |
//! | forget for good | [`Keyspace::purge`], [`Keyspace::purge_prefix`] |
//! | know when a write is on the disk | [`Durability`], [`Db::persist`] |
//! | handle what goes wrong | [`Error`]: a variant for each thing you would do next |
//! | know a keyspace | [`Keyspace::policy`], [`Keyspace::merge_strategy`], [`Keyspace::ttl`], [`Keyspace::space`] |
//! | run it | [`Db::stats`], [`Db::verify`], [`Db::checkpoint`], [`Db::compact`], [`Db::health`] |
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
    Batch, Change, Commit, Commits, Cursor, Db, Diff, History, HistoryRange, Keyspace, Range, RangeKeys, Version, View,
};
pub use base::{Bytes, Corruption, Error, KeyRange, Receipt, Result, Seqno, SeqnoRange};
pub use compaction::{CompactionPolicy, Policy, VersionInfo};
pub use engine::{
    Compacted, Durability, Explain, KeyspaceOptions, KeyspaceSpace, LevelStats, Options, Pin, PinStats, Progress,
    ReadOutcome, ReadStep, Report, SpaceUse, Stats, VerifyFinding, ViewStats,
};
pub use merge::strategy::{CustomMerge, Merge, MergeStrategy};

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct ReadmeDoctests;

#[doc = include_str!("../docs/guide/first-steps.md")]
#[cfg(doctest)]
struct FirstStepsDoctests;
