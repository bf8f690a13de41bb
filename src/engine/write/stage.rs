//! Staging: turns writes into operations of a batch. The one place where strategies and limits are applied before the
//! encoding.

use std::sync::Arc;

use super::{
    cutter::Cutting,
    large::{StagedEntry, StagedLarge, check_takes_large, cut_by, store_value},
};
use crate::{
    base::{Error, KEY_LEN_MAX, KeySpan, Kind, Result},
    engine::{Engine, KeyspaceRef, chunk_store::Writing, options::CHUNK_THRESHOLD_MIN, read::VALUE_LEN_MAX},
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
    /// Keeps the chunks of large values until the commit.
    pub(super) writing: Vec<Arc<Writing>>,
    /// First error; the commit returns it.
    pub(super) wrong: Option<Error>,
}

impl Staged {
    /// Adds a write; if it is refused, so is the whole batch.
    pub(crate) fn add(&mut self, engine: &Arc<Engine>, keyspace: &KeyspaceRef, write: Write<'_>) {
        if self.wrong.is_some() {
            return;
        }
        match stage(engine, &mut self.batch, keyspace, write) {
            Err(error) => self.refuse(error),
            Ok(writing) => self.keep(keyspace, writing),
        }
    }

    /// Adds a large value by its recipe.
    #[cfg(test)]
    pub(crate) fn add_recipe(&mut self, keyspace: &KeyspaceRef, key: &[u8], recipe: &[u8]) {
        self.batch.push(Kind::Recipe, keyspace.id, key, recipe);
        self.keyspaces.push(keyspace.clone());
    }

    /// Adds a value whose chunks are stored.
    pub(crate) fn adopt(&mut self, keyspace: &KeyspaceRef, key: &[u8], staged: &StagedLarge) {
        if self.wrong.is_some() {
            return;
        }
        match stage_adopted(&mut self.batch, keyspace, key, staged) {
            Err(error) => self.refuse(error),
            Ok(()) => self.keep(keyspace, Some(Arc::clone(&staged.writing))),
        }
    }

    /// Records what a write needs until the commit.
    fn keep(&mut self, keyspace: &KeyspaceRef, writing: Option<Arc<Writing>>) {
        if let Some(writing) = writing {
            self.writing.push(writing);
        }
        if !self.keyspaces.iter().any(|known| known.id == keyspace.id) {
            self.keyspaces.push(keyspace.clone());
        }
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

/// Adds a write to a batch; adds nothing if it is refused. A large value is stored now, and only its recipe added;
/// returns what keeps its chunks, to be held until the commit.
pub(super) fn stage(
    engine: &Arc<Engine>,
    batch: &mut BatchBuf,
    keyspace: &KeyspaceRef,
    write: Write<'_>,
) -> Result<Option<Arc<Writing>>> {
    let (kind, key, value): (Kind, &[u8], &[u8]) = match write {
        Write::Put(key, value) => (Kind::Put, key, value),
        Write::Merge(key, operand) => (keyspace.strategy.operand_kind(), key, operand),
        Write::Delete(key) => (Kind::Delete, key, &[]),
        Write::Purge(key) => (Kind::Purge, key, &[]),
        Write::DeleteRange(span) => return stage_range(batch, keyspace, Kind::RangeDelete, span).map(|()| None),
        Write::PurgeRange(span) => return stage_range(batch, keyspace, Kind::RangePurge, span).map(|()| None),
    };
    if kind == Kind::Put
        && value.len() as u64 >= CHUNK_THRESHOLD_MIN
        && let Some(cutting) = cut_by(engine, keyspace, key, value)
    {
        return stage_large(engine, batch, keyspace, (key, value), cutting).map(Some);
    }
    let has_value = matches!(write, Write::Put(..) | Write::Merge(..));
    let stored = has_value.then(|| keyspace.strategy.stored(value)).transpose();
    let stored = stored.map_err(|error| refused(keyspace, key, error))?;
    let value = stored.as_deref().unwrap_or_default();
    check_key_of(keyspace, key)?;
    check_len(batch, key.len().saturating_add(value.len()))?;
    batch.push(kind, keyspace.id, key, value);
    Ok(None)
}

fn stage_large(
    engine: &Arc<Engine>,
    batch: &mut BatchBuf,
    keyspace: &KeyspaceRef,
    (key, value): (&[u8], &[u8]),
    cutting: Cutting,
) -> Result<Arc<Writing>> {
    check_key_of(keyspace, key)?;
    if value.len() as u64 > VALUE_LEN_MAX {
        let what = format!("a value has at most {VALUE_LEN_MAX} bytes, not {}; write it with `writer`", value.len());
        return Err(refused(keyspace, key, Error::invalid(what)));
    }
    let (recipe, writing) = store_value(engine, keyspace, key, value, cutting)?;
    check_len(batch, key.len().saturating_add(recipe.len()))?;
    batch.push(Kind::Recipe, keyspace.id, key, &recipe);
    Ok(writing)
}

fn stage_adopted(batch: &mut BatchBuf, keyspace: &KeyspaceRef, key: &[u8], staged: &StagedLarge) -> Result<()> {
    let StagedLarge { entry, scope, .. } = staged;
    check_key_of(keyspace, key)?;
    check_takes_large(keyspace)?;
    let (kind, value) = match entry {
        StagedEntry::Kept(bytes) => (Kind::Put, bytes),
        StagedEntry::Recipe(_) if *scope != keyspace.scope => {
            let what = "the value was written for another dedup scope, where chunks have other ids; write it for this";
            return Err(refused(keyspace, key, Error::invalid(what)));
        }
        StagedEntry::Recipe(recipe) => (Kind::Recipe, recipe),
    };
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
    Error::invalid(format!("key {shown} in keyspace \"{}\": {what}", keyspace.name.escape_debug()))
}
