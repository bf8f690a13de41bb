//! The adapters: a file each, which nothing names but the registry at the end.

#[cfg(feature = "canopydb")]
mod canopy;
#[cfg(feature = "chronolith")]
mod chronolith;
#[cfg(feature = "fjall")]
mod fjall;
#[cfg(feature = "heed")]
mod lmdb;
mod mem;
#[cfg(feature = "redb")]
mod redb;
#[cfg(feature = "rocksdb")]
mod rocks;
#[cfg(feature = "sled")]
mod sled;
#[cfg(feature = "sled1")]
mod sled1;
#[cfg(feature = "surrealkv")]
mod surreal;

use crate::engine::Entry;
use anyhow::{Result, bail};

/// Every engine that was built in, each with its configurations, in the order of the tables.
pub fn registry() -> Vec<Entry> {
    let mut all = Vec::new();
    #[cfg(feature = "chronolith")]
    all.extend(self::chronolith::entries());
    #[cfg(feature = "rocksdb")]
    all.extend(self::rocks::entries());
    #[cfg(feature = "fjall")]
    all.extend(self::fjall::entries());
    #[cfg(feature = "surrealkv")]
    all.extend(self::surreal::entries());
    #[cfg(feature = "heed")]
    all.extend(self::lmdb::entries());
    #[cfg(feature = "redb")]
    all.extend(self::redb::entries());
    #[cfg(feature = "canopydb")]
    all.extend(self::canopy::entries());
    #[cfg(feature = "sled")]
    all.extend(self::sled::entries());
    #[cfg(feature = "sled1")]
    all.extend(self::sled1::entries());
    all.extend(self::mem::entries());
    all
}

/// The engine of a name.
pub fn find(name: &str) -> Result<Entry> {
    match registry().into_iter().find(|e| e.name == name) {
        Some(e) => Ok(e),
        None => bail!("no engine {name}: see `peers list`"),
    }
}
