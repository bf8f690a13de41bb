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
pub use past::{Change, Commit, Commits, Diff, History, Version};
pub use view::View;

use std::sync::Arc;

use crate::{
    base::{Error, KEY_LEN_MAX, Receipt, Result},
    engine::{Durability, Engine, Opened, ReadSet},
    wal::{BATCH_LEN_MAX, BatchBuf},
};

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
