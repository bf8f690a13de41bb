//! Writes that depend on what they read: tried again when another writer changes it meanwhile.

use std::sync::Arc;

use super::{
    Write,
    conflicts::{ReadSet, Reading},
    decide_and_commit,
    stage::{check_key_of, stage},
};
use crate::{
    base::{Bytes, Error, Receipt, Result},
    engine::{
        Engine, KeyspaceRef,
        read::{ViewCore, assemble},
    },
    merge::{MergeStrategy, Stored},
    wal::BatchBuf,
};

/// Most tries of a write while other writers change what it depends on.
const TRIES: usize = 100;

/// Tries a write until it meets no conflict.
///
/// # Errors
/// [`Error::Conflict`] after a hundred tries, and the errors of the write.
pub(super) fn optimistic<T>(engine: &Arc<Engine>, mut write: impl FnMut(&Reading) -> Result<T>) -> Result<T> {
    let mut lost = None;
    for _ in 0..TRIES {
        match write(&Reading::begin(engine)) {
            Err(Error::Conflict { key }) => lost = Some(key),
            written => return written,
        }
    }
    Err(Error::Conflict { key: lost.unwrap_or_default() })
}

/// The value that a write depends on; chunks are read only if its bytes are asked for (L14).
#[derive(Debug)]
pub(crate) struct Old<'a> {
    keyspace: &'a KeyspaceRef,
    key: &'a [u8],
    stored: Option<Stored>,
    view: &'a ViewCore,
}

impl Old<'_> {
    /// Returns whether the key has a value.
    pub(crate) fn exists(&self) -> bool {
        self.stored.is_some()
    }

    /// Returns the value.
    pub(crate) fn value(&self) -> Result<Option<Bytes>> {
        self.stored
            .clone()
            .map(|stored| assemble(&self.view.files().chunks, self.keyspace, self.key, stored))
            .transpose()
    }

    /// Returns whether it has this value; `None` is absence.
    pub(crate) fn is(&self, expected: Option<&[u8]>) -> Result<bool> {
        match expected {
            Some(expected) => Ok(self.value()?.as_deref() == Some(expected)),
            None => Ok(!self.exists()),
        }
    }
}

/// Reads a key, has `decide` choose what to write (`None`: nothing; `Some(None)`: a delete), and writes that if the key
/// has not changed.
pub(crate) fn update(
    engine: &Arc<Engine>,
    keyspace: &KeyspaceRef,
    key: &[u8],
    mut decide: impl FnMut(&Old<'_>) -> Result<Option<Option<Bytes>>>,
) -> Result<Option<Receipt>> {
    check_key_of(keyspace, key)?;
    engine.check_open()?;
    optimistic(engine, |reading| {
        let mut reads = ReadSet::new(&reading.view);
        reads.key(keyspace, key);
        let old = Old { keyspace, key, stored: reading.view.get_stored(keyspace, key)?, view: &reading.view };
        let Some(new) = decide(&old)? else { return Ok(None) };
        if old.exists() && new.is_some() && matches!(keyspace.strategy, MergeStrategy::FirstWins) {
            // A put would change nothing, and its receipt would say that it did.
            return Err(Error::invalid(format!(
                "key \"{}\" has its first value, which stays in a keyspace with merge strategy FirstWins; delete it first",
                key.escape_ascii()
            )));
        }
        let write = new.as_ref().map_or(Write::Delete(key), |value| Write::Put(key, value));
        let mut batch = BatchBuf::default();
        let writing = stage(engine, &mut batch, keyspace, write)?;
        let committed = decide_and_commit(engine, batch, std::slice::from_ref(keyspace), None, Some(&reads));
        committed.inspect(|_| writing.iter().for_each(|writing| writing.set_committed())).map(Some)
    })
}
