//! The segments that make up the database, the logs that are live, and the state of each keyspace.
//!
//! ```text
//!  CURRENT ──▶ MANIFEST-7 ──▶ header · edit (a snapshot) · edit · edit · …
//! ```
//!
//! A [`Version`] is immutable metadata; an [`Edit`] is the difference between two. Every edit is durable before
//! anything acts on it. The format is specified in `docs/format/manifest.md`.

mod change;
mod changes;
mod decisions;
mod edit;
mod fields;
mod keyspace;
mod options;
mod store;
mod version;

pub(crate) use change::Change;
pub(crate) use edit::Edit;
pub(crate) use keyspace::KeyspaceVersion;
pub(crate) use options::{StoredChunking, StoredOptions, StoredPolicy};
pub(crate) use store::{CommitFailure, ManifestStore, read_all};
pub(crate) use version::{PinnedAt, Version};
