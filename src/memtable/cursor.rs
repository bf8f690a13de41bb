//! Reading a memtable in order.
//!
//! A live table is read a few entries at a time: the skip list returns guards that borrow it, and a cursor must own its
//! current entry. Entries inserted after they were fetched are newer than any reader of this cursor asks for.

use std::{ops::Bound, sync::Arc};

use super::{Key, Memtable, Store, Value};
use crate::{
    base::{Bytes, KeyspaceId, Result, Seqno},
    merge::{Direction, EntryRef, Source},
};

/// Entries fetched at a time: few at first, for look-ups of one key, then more.
const FETCH_FIRST: usize = 4;
const FETCH_MAX: usize = 128;

/// A position in a memtable, within one keyspace.
#[derive(Debug)]
pub(crate) struct MemCursor {
    table: Arc<Memtable>,
    keyspace: KeyspaceId,
    direction: Direction,
    /// Entries fetched from a live table, and the position among them.
    fetched: Vec<(Key, Value)>,
    at: usize,
    fetch: usize,
    /// Position in a sorted run.
    run_at: Option<usize>,
}

impl MemCursor {
    /// Returns a cursor that is not positioned yet.
    pub(crate) fn new(table: &Arc<Memtable>, keyspace: KeyspaceId, direction: Direction) -> Self {
        let table = Arc::clone(table);
        Self { table, keyspace, direction, fetched: Vec::new(), at: 0, fetch: FETCH_FIRST, run_at: None }
    }

    fn current(&self) -> Option<(&Key, &Value)> {
        let (key, value) = match &self.table.store {
            Store::Live(_) => self.fetched.get(self.at)?,
            Store::Run(run) => run.get(self.run_at?)?,
        };
        (key.keyspace == self.keyspace).then_some((key, value))
    }

    /// Fetches the next entries of a live table, starting at a bound.
    fn fill(&mut self, from: Bound<&Key>) {
        let Store::Live(map) = &self.table.store else { return };
        self.fetched.clear();
        self.at = 0;
        let count = self.fetch;
        let copy = |key: &Key, value: &Value| (key.clone(), value.clone());
        match self.direction {
            Direction::Forward => {
                let entries = map.range::<Key, _>((from, Bound::Unbounded)).take(count);
                self.fetched.extend(entries.map(|entry| copy(entry.key(), entry.value())));
            }
            Direction::Backward => {
                let entries = map.range::<Key, _>((Bound::Unbounded, from)).rev().take(count);
                self.fetched.extend(entries.map(|entry| copy(entry.key(), entry.value())));
            }
        }
        self.fetch = (count * 2).min(FETCH_MAX);
    }
}

impl Source for MemCursor {
    fn seek(&mut self, key: Option<&[u8]>) -> Result<()> {
        self.fetch = FETCH_FIRST;
        self.fetched.clear();
        self.run_at = None;
        // Before every version of `key`; without a key, before everything of the next keyspace.
        let edge = match key {
            Some(key) => Key::newest(self.keyspace, key, Seqno::MAX),
            None => match self.keyspace.0.checked_add(1) {
                Some(next) => Key::newest(KeyspaceId(next), &[], Seqno::MAX),
                None => return Ok(()),
            },
        };
        match (&self.table.store, self.direction) {
            (Store::Run(run), direction) => {
                let after = run.partition_point(|(entry, _)| *entry < edge);
                self.run_at = match direction {
                    Direction::Forward => Some(after),
                    Direction::Backward => after.checked_sub(1),
                };
            }
            (Store::Live(_), Direction::Forward) => self.fill(Bound::Included(&edge)),
            (Store::Live(_), Direction::Backward) => self.fill(Bound::Excluded(&edge)),
        }
        Ok(())
    }

    #[inline]
    fn entry(&self) -> Option<EntryRef<'_>> {
        let (key, value) = self.current()?;
        Some(EntryRef {
            key: &key.user,
            seqno: key.seqno,
            ordinal: key.ordinal,
            kind: value.kind,
            gap_start: None,
            moved: false,
            time: Some(value.time),
            until: None,
            value: &value.bytes,
        })
    }

    fn value(&self) -> Bytes {
        self.current().map(|(_, value)| value.bytes.clone()).unwrap_or_default()
    }

    fn advance(&mut self) -> Result<()> {
        match (&self.table.store, self.direction) {
            (Store::Run(_), Direction::Forward) => self.run_at = self.run_at.map(|at| at + 1),
            (Store::Run(_), Direction::Backward) => self.run_at = self.run_at.and_then(|at| at.checked_sub(1)),
            (Store::Live(_), _) => {
                self.at += 1;
                if self.at == self.fetched.len()
                    && let Some((last, _)) = self.fetched.pop()
                {
                    self.fill(Bound::Excluded(&last));
                }
            }
        }
        Ok(())
    }

    fn skip_newer(&mut self, key: &[u8], seqno: Seqno, purge_horizon: Seqno) -> Result<()> {
        debug_assert_eq!(self.direction, Direction::Forward, "a walk against the order of versions");
        let wanted = if self.table.has_purges() { seqno.max(purge_horizon) } else { seqno };
        let edge = Key::newest(self.keyspace, key, wanted);
        let above = match &self.table.store {
            Store::Live(map) => map.upper_bound(Bound::Excluded(&edge)).map(|entry| entry.key().clone()),
            Store::Run(run) => {
                let after = run.partition_point(|(entry, _)| *entry < edge);
                after.checked_sub(1).and_then(|before| run.get(before)).map(|(entry, _)| entry.clone())
            }
        };
        let is_key = |above: &Key| above.keyspace == self.keyspace && *above.user == *key;
        let is_further = |above: &Key| self.current().is_some_and(|(current, _)| current.seqno > above.seqno);
        let Some(above) = above.filter(|above| is_key(above) && is_further(above)) else { return Ok(()) };
        // Include everything that its commit wrote.
        let edge = Key { ordinal: u32::MAX, ..above };
        match &self.table.store {
            Store::Live(_) => {
                self.fetch = FETCH_FIRST;
                self.fill(Bound::Included(&edge));
            }
            Store::Run(run) => self.run_at = Some(run.partition_point(|(entry, _)| *entry < edge)),
        }
        Ok(())
    }

    fn turned(&self) -> Self {
        Self::new(&self.table, self.keyspace, Direction::Forward)
    }

    fn newest(&self) -> Seqno {
        // A live table grows while it is read.
        match &self.table.store {
            Store::Live(_) => Seqno::MAX,
            Store::Run(_) => self.table.last_seqno(),
        }
    }
}
