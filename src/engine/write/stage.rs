//! Staging: turns writes into operations of a batch. The one place where strategies and limits are applied before the
//! encoding.

use crate::{
    base::{Error, KEY_LEN_MAX, KeySpan, Kind, Result},
    engine::KeyspaceRef,
    wal::{BATCH_LEN_MAX, BatchBuf},
};

/// Bytes of a refused key that the error shows.
const KEY_SHOWN_MAX: usize = 100;

/// One write to one keyspace, as the caller asks for it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Write<'a> {
    /// Sets a key to a value.
    Put(&'a [u8], &'a [u8]),
    /// Adds an operand to a key.
    Merge(&'a [u8], &'a [u8]),
    /// Deletes a key.
    Delete(&'a [u8]),
    /// Deletes the keys of a span.
    DeleteRange(&'a KeySpan),
    /// Deletes a key with its past.
    Purge(&'a [u8]),
    /// Deletes the keys of a span with their past.
    PurgeRange(&'a KeySpan),
}

/// Writes that are committed together, added one by one.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    pub(super) batch: BatchBuf,
    pub(super) keyspaces: Vec<KeyspaceRef>,
    /// First error; the commit returns it.
    pub(super) wrong: Option<Error>,
}

impl Staged {
    /// Adds a write; if it is refused, so is the whole batch.
    pub(crate) fn add(&mut self, keyspace: &KeyspaceRef, write: Write<'_>) {
        if self.wrong.is_some() {
            return;
        }
        if let Err(error) = stage(&mut self.batch, keyspace, write) {
            self.refuse(error);
        } else if !self.keyspaces.iter().any(|known| known.id == keyspace.id) {
            self.keyspaces.push(keyspace.clone());
        }
    }

    /// Adds a large value by its recipe.
    #[cfg(test)]
    pub(crate) fn add_recipe(&mut self, keyspace: &KeyspaceRef, key: &[u8], recipe: &[u8]) {
        self.batch.push(Kind::Recipe, keyspace.id, key, recipe);
        self.keyspaces.push(keyspace.clone());
    }

    /// Refuses all writes, including later ones.
    pub(crate) fn refuse(&mut self, error: Error) {
        self.wrong.get_or_insert(error);
    }

    /// Returns the number of operations.
    pub(crate) fn count(&self) -> usize {
        self.batch.count()
    }
}

/// Adds a write to a batch; adds nothing if it is refused.
pub(super) fn stage(batch: &mut BatchBuf, keyspace: &KeyspaceRef, write: Write<'_>) -> Result<()> {
    let (kind, key, value): (Kind, &[u8], &[u8]) = match write {
        Write::Put(key, value) => (Kind::Put, key, value),
        Write::Merge(key, operand) => (keyspace.strategy.operand_kind(), key, operand),
        Write::Delete(key) => (Kind::Delete, key, &[]),
        Write::Purge(key) => (Kind::Purge, key, &[]),
        Write::DeleteRange(span) => return stage_range(batch, keyspace, Kind::RangeDelete, span),
        Write::PurgeRange(span) => return stage_range(batch, keyspace, Kind::RangePurge, span),
    };
    let has_value = matches!(write, Write::Put(..) | Write::Merge(..));
    let stored = has_value.then(|| keyspace.strategy.stored(value)).transpose();
    let stored = stored.map_err(|error| refused(keyspace, key, error))?;
    let value = stored.as_deref().unwrap_or_default();
    check_key_of(keyspace, key)?;
    check_len(batch, key.len().saturating_add(value.len()))?;
    batch.push(kind, keyspace.id, key, value);
    Ok(())
}

fn stage_range(batch: &mut BatchBuf, keyspace: &KeyspaceRef, kind: Kind, span: &KeySpan) -> Result<()> {
    // An inclusive end is one byte longer than its key.
    let end = span.end.as_deref().map(|end| end.strip_suffix(&[0]).unwrap_or(end)).unwrap_or_default();
    for key in [&span.start, end] {
        check_key_of(keyspace, key)?;
    }
    check_len(batch, span.start.len() + span.end.as_ref().map_or(0, Vec::len))?;
    if !span.is_empty() {
        batch.push_range(kind, keyspace.id, &span.start, span.end.as_deref());
    }
    Ok(())
}

/// Fails for a key that is too long, naming it and its keyspace.
pub(super) fn check_key_of(keyspace: &KeyspaceRef, key: &[u8]) -> Result<()> {
    check_key(key).map_err(|error| refused(keyspace, key, error))
}

fn check_key(key: &[u8]) -> Result<()> {
    if key.len() > KEY_LEN_MAX {
        return Err(Error::invalid(format!(
            "a key has at most {KEY_LEN_MAX} bytes, not {}; hash it or move a part of it into the value",
            key.len()
        )));
    }
    Ok(())
}

/// Fails if the batch would get too long. Called before the bytes are copied: a batch never takes much more memory than
/// it may.
fn check_len(batch: &BatchBuf, more: usize) -> Result<()> {
    let len = batch.len().saturating_add(more);
    if len > BATCH_LEN_MAX {
        return Err(Error::invalid(format!(
            "a batch encodes to at most {BATCH_LEN_MAX} bytes, not {len}; split it, or the value into several keys"
        )));
    }
    Ok(())
}

/// Adds key and keyspace to the error of a refused operation: in a batch of many it could not be found otherwise.
#[cold]
fn refused(keyspace: &KeyspaceRef, key: &[u8], error: Error) -> Error {
    let Error::Invalid { what } = error else { return error };
    let shown = key.get(..KEY_SHOWN_MAX).map_or_else(
        || format!("\"{}\"", key.escape_ascii()),
        |start| format!("\"{}\"... of {} bytes", start.escape_ascii(), key.len()),
    );
    Error::invalid(format!("key {shown} in keyspace \"{}\": {what}", keyspace.name))
}
