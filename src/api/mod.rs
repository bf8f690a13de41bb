//! Public API. Thin: arguments are checked here, and everything else is the engine's.

mod batch;
mod changes;
mod chunks;
mod db;
mod iter;
mod keyspace;
mod large;
mod options;
mod view;

pub use batch::Batch;
pub use changes::{Change, Commit, Commits, Diff, History, HistoryRange, Version};
pub use chunks::{ChunkIds, Chunks, Lease};
pub use db::Db;
pub use iter::{Cursor, Range, RangeKeys};
pub use keyspace::Keyspace;
pub use large::{StagedValue, Stored, ValueReader, ValueWriter, WriteOptions};
pub use view::View;

use std::panic::{RefUnwindSafe, UnwindSafe};

use crate::base::Error;

// A panic while one of these is used comes from a callback of the user, or is a broken invariant of ours. Unwinding
// releases every lock and poisons none. Steps that change what locks guard call no callbacks: a merge that panics in a
// write or a job counts as one that fails, a policy as one that says yes; in a read it is called after the engine's
// state was taken, and changes nothing. Iterators that a panic leaves between two steps have ended. So a caller that
// catches it may go on with the database.
macro_rules! safe_to_unwind {
    ($($handle:ty),*) => {
        $(impl UnwindSafe for $handle {}
        impl RefUnwindSafe for $handle {})*
    };
}
safe_to_unwind!(
    Db,
    Keyspace,
    View,
    Batch,
    Range,
    RangeKeys,
    Cursor,
    Diff,
    History,
    HistoryRange,
    Commits,
    ValueWriter,
    ValueReader,
    StagedValue,
    Chunks,
    ChunkIds,
    Lease
);

/// Returns the error for a keyspace that was opened through another database.
fn foreign(keyspace: &Keyspace) -> Error {
    let name = keyspace.name();
    Error::invalid(format!("keyspace \"{name}\" was opened through another `Db`; get it from this one with `keyspace`"))
}
