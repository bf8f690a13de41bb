//! Decisions before a commit: first values that stay, duplicates that are refused, sums that do not fit, chains of
//! operands that have grown long.
//!
//! ```text
//!  FirstWins, ErrorOnDuplicate     read what is there ▸ leave out or refuse ▸ commit if that is unchanged, else decide again
//!  Sum                             a base and its operands in one batch: does the sum fit?
//!  Sum, Append, custom             every 256th operand of a key is followed, at the same seqno, by the state it leads to
//! ```
//!
//! The state that ends a long chain is what a reader at that seqno sees anyway, so no answer changes, past ones
//! included; reads stop there. (Rejected: a compaction of the key down to its base, as in the first design. It comes
//! after reads have become slow, and views between the operands keep it from folding them.)

use std::{collections::HashMap, sync::Arc};

use super::{
    commit_checked,
    conflicts::{ReadSet, Reading},
    update::optimistic,
};
use crate::{
    base::{Error, FileNumber, KeySpan, KeyspaceId, Kind, Micros, Receipt, Result, SpanMap},
    engine::{
        Durability, Engine, KeyspaceRef,
        log::CommitState,
        read::{ViewCore, look_up},
    },
    memtable::Memtable,
    merge::{Lookup, MergeStrategy, ReadAt, number, wide_sum},
    segment::PointKey,
    wal::{BATCH_LEN_MAX, BatchBuf},
};

/// Most states appended to one batch: each takes a read under the commit lock.
const STATES_MAX: usize = 16;

/// Upper bound for the numbers of one encoded operation, in bytes.
const OP_HEAD_MAX: usize = 32;

/// Keys, each with its keyspace.
type Keys = Vec<(KeyspaceId, Vec<u8>)>;

/// Effect of a batch on its keys so far. Operations are numbered; the later one counts.
#[derive(Default)]
struct Overlay {
    words: u64,
    /// Whether each key exists, and the operation that decided it.
    keys: HashMap<(KeyspaceId, Vec<u8>), (u64, bool)>,
    ranges: HashMap<KeyspaceId, SpanMap<u64>>,
}

impl Overlay {
    fn range(&mut self, keyspace: KeyspaceId, span: &KeySpan) {
        self.words += 1;
        self.ranges.entry(keyspace).or_default().insert(span, self.words);
    }

    fn key(&mut self, keyspace: KeyspaceId, key: &[u8], is_there: bool) {
        self.words += 1;
        self.keys.insert((keyspace, key.to_vec()), (self.words, is_there));
    }

    /// Returns whether the key exists, if the batch has touched it.
    fn exists(&self, keyspace: KeyspaceId, key: &[u8]) -> Option<bool> {
        let deleted = self.ranges.get(&keyspace).and_then(|ranges| ranges.get(key)).map(|word| (*word, false));
        let said = self.keys.get(&(keyspace, key.to_vec())).copied();
        said.into_iter().chain(deleted).max_by_key(|(word, _)| *word).map(|(_, is_there)| is_there)
    }
}

/// Commits a batch whose puts depend on existing values: those of keyspaces whose strategy decides at the write.
pub(super) fn commit_decided(
    engine: &Arc<Engine>,
    batch: &BatchBuf,
    keyspaces: &[KeyspaceRef],
    durability: Option<Durability>,
    reads: Option<&ReadSet>,
) -> Result<Receipt> {
    let attempt = |reading: &Reading| {
        let (decided, read) = decide(&reading.view, batch, keyspaces)?;
        let all: Vec<&ReadSet> = reads.into_iter().chain([&read]).collect();
        commit_checked(engine, decided, keyspaces, durability, &all)
    };
    // Only the caller can repeat the caller's reads.
    if reads.is_some() { attempt(&Reading::begin(engine)) } else { optimistic(engine, attempt) }
}

/// Fails if a sum whose base is in the batch itself is too large.
pub(super) fn check_sums(batch: &BatchBuf, keyspaces: &[KeyspaceRef]) -> Result<()> {
    let is_sum =
        |id| keyspaces.iter().any(|keyspace| keyspace.id == id && matches!(keyspace.strategy, MergeStrategy::Sum));
    // Only keys with a base in the batch; the sums of other keys are not known here.
    let mut sums: HashMap<(KeyspaceId, &[u8]), (u64, i128)> = HashMap::new();
    let mut ranges: HashMap<KeyspaceId, SpanMap<u64>> = HashMap::new();
    let mut words = 0u64;
    for op in batch.ops() {
        words += 1;
        let deleted = |ranges: &HashMap<KeyspaceId, SpanMap<u64>>| {
            ranges.get(&op.keyspace).and_then(|ranges| ranges.get(op.key)).copied().unwrap_or(0)
        };
        let value = number(op.value).unwrap_or(0);
        match op.kind {
            Kind::Put | Kind::Delete | Kind::Purge if is_sum(op.keyspace) => {
                sums.insert((op.keyspace, op.key), (words, if op.kind == Kind::Put { value } else { 0 }));
            }
            Kind::Operand => {
                // Unless a later range operation of the batch deletes the base.
                if let Some((base, sum)) = sums.get_mut(&(op.keyspace, op.key))
                    && *base > deleted(&ranges)
                {
                    *sum = sum.saturating_add(value);
                }
            }
            Kind::RangeDelete | Kind::RangePurge => {
                ranges.entry(op.keyspace).or_default().insert(&op.span(), words);
            }
            _ => {}
        }
    }
    let deleted = |id, key: &[u8]| ranges.get(&id).and_then(|ranges| ranges.get(key)).copied().unwrap_or(0);
    let mut known = sums.into_iter().filter(|((id, key), (base, _))| *base > deleted(*id, key));
    known.try_for_each(|((id, key), (_, sum))| {
        let keyspace = keyspaces.iter().find(|keyspace| keyspace.id == id);
        let named = |error| match keyspace {
            Some(keyspace) => keyspace.named(error),
            None => error,
        };
        wide_sum(key, &sum.to_le_bytes()).map(drop).map_err(named)
    })
}

/// Counts the operands of a batch, and appends a state for each key whose chain has grown long. The batch will get the
/// next seqno.
///
/// A chain that cannot be folded is left as it is and tried again after twice as many operands: each try is a fold
/// under the lock. One that cannot be read, or whose state does not fit into the batch, is tried again at the next
/// operand.
pub(super) fn end_long_chains(
    engine: &Engine,
    commit: &mut CommitState,
    batch: &mut BatchBuf,
    keyspaces: &[KeyspaceRef],
) {
    let mut long = Keys::new();
    for op in batch.ops().filter(|op| op.kind == Kind::Operand) {
        if commit.chains.count(op.keyspace, op.key) && long.len() < STATES_MAX {
            long.push((op.keyspace, op.key.to_vec()));
        }
    }
    if long.is_empty() {
        return;
    }
    long.sort_unstable();
    long.dedup();
    let seqno = commit.next_seqno();
    let mut stamped = batch.clone();
    stamped.stamp(seqno, Micros::ZERO);
    let len = stamped.len();
    let scratch = Memtable::from_batches(FileNumber(0), &[stamped.into_shared(len)]);
    let current = engine.files.current();
    for (id, key) in long {
        let Some(keyspace) = keyspaces.iter().find(|keyspace| keyspace.id == id) else { continue };
        let mut lookup = Lookup::new(ReadAt::present(seqno, None));
        let answer = scratch.get(id, &key, &mut lookup).and_then(|answer| match answer {
            Some(answer) => Ok(Some(answer)),
            None => look_up(&current, id, &mut PointKey::new(&key), &mut lookup, |_| true, |_| {}),
        });
        let Ok(answer) = answer else { continue };
        if lookup.operands() == 0 {
            // The batch itself has ended the chain.
            commit.chains.ended(id, &key, 0);
            continue;
        }
        match lookup.state(answer.as_ref(), &keyspace.strategy, &key) {
            None => commit.chains.gave_up(id, &key),
            Some((kind, value)) if batch.len() + key.len() + value.len() + OP_HEAD_MAX <= BATCH_LEN_MAX => {
                batch.push(kind, id, &key, &value);
                commit.chains.ended(id, &key, value.len());
            }
            Some(_) => {}
        }
    }
}

/// Returns the batch without the puts that change nothing, and the reads that this depends on.
fn decide(view: &Arc<ViewCore>, batch: &BatchBuf, keyspaces: &[KeyspaceRef]) -> Result<(BatchBuf, ReadSet)> {
    let mut decided = BatchBuf::default();
    let mut read = ReadSet::new(view);
    let mut overlay = Overlay::default();
    for op in batch.ops() {
        let deciding =
            keyspaces.iter().find(|keyspace| keyspace.id == op.keyspace && keyspace.strategy.decides_at_write());
        let mut keep = true;
        if let Some(keyspace) = deciding {
            match op.kind {
                Kind::RangeDelete | Kind::RangePurge => overlay.range(op.keyspace, &op.span()),
                Kind::Delete | Kind::Purge => overlay.key(op.keyspace, op.key, false),
                _ if !is_live(view, keyspace, op.key, &overlay, &mut read)? => overlay.key(op.keyspace, op.key, true),
                _ if matches!(keyspace.strategy, MergeStrategy::ErrorOnDuplicate) => {
                    return Err(Error::Duplicate { key: op.key.to_vec() });
                }
                _ => keep = false,
            }
        }
        if keep {
            decided.push(op.kind, op.keyspace, op.key, op.value);
        }
    }
    Ok((decided, read))
}

/// Returns whether a key exists, for a put of the batch.
fn is_live(view: &ViewCore, keyspace: &KeyspaceRef, key: &[u8], overlay: &Overlay, read: &mut ReadSet) -> Result<bool> {
    if let Some(said) = overlay.exists(keyspace.id, key) {
        return Ok(said);
    }
    read.key(keyspace, key);
    view.contains(keyspace, key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_a_batch_on_a_key_is_what_later_ones_are_decided_by() {
        let id = KeyspaceId(16);
        let mut overlay = Overlay::default();
        overlay.key(id, b"b", true);
        overlay.range(id, &KeySpan { start: b"a".to_vec(), end: Some(b"c".to_vec()) });
        assert_eq!(
            (overlay.exists(id, b"b"), overlay.exists(id, b"c"), overlay.exists(KeyspaceId(17), b"b")),
            (Some(false), None, None)
        );
        overlay.key(id, b"b", true);
        assert_eq!(overlay.exists(id, b"b"), Some(true));
    }
}
