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

use crate::base::{Error, KEY_LEN_MAX, Result};

fn check_key(key: &[u8]) -> Result<()> {
    if key.len() > KEY_LEN_MAX {
        return Err(Error::invalid(format!("a key has at most {KEY_LEN_MAX} bytes, not {}", key.len())));
    }
    Ok(())
}
