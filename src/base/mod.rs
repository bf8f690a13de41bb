//! Vocabulary of all modules: keys, seqnos, kinds, shared bytes, errors. No I/O, no locks, no bytes on disk.

mod bytes;
mod callback;
mod error;
mod key;
mod kind;
mod seqno;
mod spans;

pub use bytes::Bytes;
pub(crate) use callback::{callback, in_callback};
pub use error::{Corruption, Error, Result};
pub(crate) use error::{IoContext, is_out_of_files};
pub use key::KeyRange;
pub(crate) use key::{KEY_LEN_MAX, KeySpan, head};
pub(crate) use kind::Kind;
pub(crate) use seqno::from_us;
pub(crate) use seqno::to_us;
pub use seqno::{Receipt, Seqno, SeqnoRange};
pub(crate) use spans::SpanMap;

/// Number of a keyspace within its database, never reused. Numbers below [`FIRST_KEYSPACE`] are the engine's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KeyspaceId(pub(crate) u32);

/// Lowest number of a user's keyspace.
pub(crate) const FIRST_KEYSPACE: u32 = 16;

/// The keyspace that holds the timeline: which commit happened when.
pub(crate) const TIMELINE: KeyspaceId = KeyspaceId(1);
