//! What you call. Thin: arguments are checked here, and everything else is the engine's.

mod batch;
mod db;
mod iter;
mod keyspace;
mod view;

pub use batch::Batch;
pub use db::Db;
pub use iter::{Cursor, Keys, Range};
pub use keyspace::Keyspace;
pub use view::View;

use crate::{
    base::{Error, KEY_LEN_MAX, Result},
    wal::BATCH_LEN_MAX,
};

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
