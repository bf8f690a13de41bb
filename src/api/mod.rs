//! What you call. Thin: arguments are checked here, and everything else is the engine's.

mod batch;
mod db;
mod iter;
mod keyspace;
mod options;
mod past;
mod view;

pub use batch::Batch;
pub use db::Db;
pub use iter::{Cursor, Range, RangeKeys};
pub use keyspace::Keyspace;
pub use past::{Change, Commit, Commits, Diff, History, HistoryRange, Version};
pub use view::View;

use std::panic::{RefUnwindSafe, UnwindSafe};

use crate::base::Error;

// A panic while one of these is used comes from a callback of the user, or is a broken invariant of ours. On its way it
// lets go of every lock, and poisons none. What locks guard is changed by steps that call back nobody: a merge that
// panics in a write or a job counts as one that fails, a policy as one that says yes; in a read it is called when the
// engine's state has been taken and nothing is changed. Iterators that a panic leaves between two steps have ended. So
// whoever catches it may go on with the database.
macro_rules! safe_to_unwind {
    ($($handle:ty),*) => {
        $(impl UnwindSafe for $handle {}
        impl RefUnwindSafe for $handle {})*
    };
}
safe_to_unwind!(Db, Keyspace, View, Batch, Range, RangeKeys, Cursor, Diff, History, HistoryRange, Commits);

/// That a keyspace was not opened through this database.
fn foreign(keyspace: &Keyspace) -> Error {
    let name = keyspace.name();
    Error::invalid(format!("keyspace \"{name}\" was opened through another `Db`; get it from this one with `keyspace`"))
}
