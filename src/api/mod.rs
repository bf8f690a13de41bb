//! What you call. Thin: arguments are checked here, and everything else is the engine's.

mod batch;
mod db;
mod iter;
mod keyspace;
mod past;
mod view;

pub use batch::Batch;
pub use db::Db;
pub use iter::{Cursor, Keys, Range};
pub use keyspace::Keyspace;
pub use past::{Change, Commit, Commits, Diff, History, HistoryRange, Version};
pub use view::View;

use std::{
    panic::{RefUnwindSafe, UnwindSafe},
    sync::Arc,
};

use crate::{
    base::{Error, KEY_LEN_MAX, Receipt, Result},
    engine::{Durability, Engine, Opened, ReadSet},
    wal::{BATCH_LEN_MAX, BatchBuf},
};

/// So much of a key is shown where it is refused.
const KEY_SHOWN_MAX: usize = 100;

// A panic while one of these is used comes from a callback of the user, or is a broken invariant of ours. On its way it
// lets go of every lock, and poisons none. What locks
// guard is changed by steps that call back nobody: a merge that panics in a write or a job counts as one that fails, a
// policy as one that says yes; in a read it is
// called when the engine's state has been taken and nothing is changed. Iterators that a panic leaves between two steps
// have ended. So whoever catches it
// may go on with the database.
macro_rules! safe_to_unwind {
    ($($handle:ty),*) => {
        $(impl UnwindSafe for $handle {}
        impl RefUnwindSafe for $handle {})*
    };
}
safe_to_unwind!(Db, Keyspace, View, Batch, Range, Keys, Cursor, Diff, History, HistoryRange, Commits);

/// Commits a batch, by way of the decision where a keyspace's strategy wants one.
fn commit(
    engine: &Arc<Engine>,
    batch: BatchBuf,
    keyspaces: &[Opened],
    durability: Option<Durability>,
    reads: &[&ReadSet],
) -> Result<Receipt> {
    if keyspaces.iter().any(|opened| opened.strategy.decides_at_write()) {
        engine.commit_decided(&batch, keyspaces, durability, reads)
    } else {
        engine.commit(batch, keyspaces, durability, reads)
    }
}

/// An operation that is refused, by its key and keyspace: of a batch of many nobody would find it otherwise.
#[cold]
fn refused(keyspace: &Keyspace, key: &[u8], error: Error) -> Error {
    let Error::Invalid { what } = error else { return error };
    let shown = key.get(..KEY_SHOWN_MAX).map_or_else(
        || format!("\"{}\"", key.escape_ascii()),
        |start| format!("\"{}\"... of {} bytes", start.escape_ascii(), key.len()),
    );
    Error::invalid(format!("key {shown} in keyspace \"{}\": {what}", keyspace.name()))
}

fn check_key(key: &[u8]) -> Result<()> {
    if key.len() > KEY_LEN_MAX {
        return Err(Error::invalid(format!("a key has at most {KEY_LEN_MAX} bytes, not {}", key.len())));
    }
    Ok(())
}

/// Checked before the bytes are copied: a batch never takes much more memory than it may.
fn check_batch_len(len: usize) -> Result<()> {
    if len > BATCH_LEN_MAX {
        return Err(Error::invalid(format!(
            "a batch, or one value with its key, encodes to at most {BATCH_LEN_MAX} bytes, not {len}; split it"
        )));
    }
    Ok(())
}

/// That a keyspace was not opened through this database.
fn foreign(keyspace: &Keyspace) -> Error {
    let name = keyspace.name();
    Error::invalid(format!("keyspace \"{name}\" was opened through another `Db`; get it from this one with `keyspace`"))
}
