//! Reading a span in order, in either direction.

use std::sync::Arc;

use super::{
    read::Opened,
    superversion::{SuperVersion, Table},
};
use crate::{
    base::{Bytes, KeySpan, Result},
    memtable::MemCursor,
    merge::{Asked, Direction, EntryRef, Fragments, Kway, Source, Visible},
    segment::SegmentCursor,
};

/// Segments that follow each other, opened one at a time as they are reached.
#[derive(Debug)]
pub(crate) struct RunCursor {
    /// In key order.
    tables: Vec<Arc<Table>>,
    direction: Direction,
    at: usize,
    cursor: Option<SegmentCursor>,
    newest: u64,
}

impl RunCursor {
    pub(super) fn new(tables: Vec<Arc<Table>>, direction: Direction) -> Self {
        let newest = tables.iter().map(|table| table.meta.summary.max_seqno).max().unwrap_or(0);
        Self { tables, direction, at: 0, cursor: None, newest }
    }

    /// Opens table number `at` and seeks in it; goes on to the next ones while they have nothing there.
    fn open_from(&mut self, at: Option<usize>, key: Option<&[u8]>) -> Result<()> {
        self.cursor = None;
        let mut next = at;
        let mut key = key;
        while let Some(at) = next
            && let Some(table) = self.tables.get(at)
        {
            self.at = at;
            let mut cursor = SegmentCursor::new(Arc::clone(table.segment()?), self.direction);
            cursor.seek(key)?;
            if cursor.entry().is_some() {
                self.cursor = Some(cursor);
                return Ok(());
            }
            (next, key) = match self.direction {
                Direction::Forward => (at.checked_add(1), Some(&[][..])),
                Direction::Backward => (at.checked_sub(1), None),
            };
        }
        Ok(())
    }
}

impl Source for RunCursor {
    fn seek(&mut self, key: Option<&[u8]>) -> Result<()> {
        let starts_before = |key: &[u8], inclusive: bool| {
            self.tables.partition_point(|table| {
                let start = table.meta.summary.span.start.as_slice();
                start < key || inclusive && start == key
            })
        };
        match (self.direction, key) {
            (Direction::Forward, None) => {
                self.cursor = None;
                Ok(())
            }
            (Direction::Forward, Some(key)) => {
                self.open_from(Some(starts_before(key, true).saturating_sub(1)), Some(key))
            }
            (Direction::Backward, Some(key)) => self.open_from(starts_before(key, false).checked_sub(1), Some(key)),
            (Direction::Backward, None) => self.open_from(self.tables.len().checked_sub(1), None),
        }
    }

    #[inline]
    fn entry(&self) -> Option<EntryRef<'_>> {
        self.cursor.as_ref()?.entry()
    }

    fn value(&self) -> Bytes {
        self.cursor.as_ref().map(Source::value).unwrap_or_default()
    }

    #[inline]
    fn advance(&mut self) -> Result<()> {
        let Some(cursor) = &mut self.cursor else { return Ok(()) };
        cursor.advance()?;
        if cursor.entry().is_some() {
            return Ok(());
        }
        match self.direction {
            Direction::Forward => self.open_from(self.at.checked_add(1), Some(&[])),
            Direction::Backward => self.open_from(self.at.checked_sub(1), None),
        }
    }

    fn newest(&self) -> u64 {
        self.newest
    }
}

/// A memtable or a run of segments.
#[derive(Debug)]
pub(crate) enum AnySource {
    Mem(MemCursor),
    Run(RunCursor),
}

impl Source for AnySource {
    fn seek(&mut self, key: Option<&[u8]>) -> Result<()> {
        match self {
            Self::Mem(cursor) => cursor.seek(key),
            Self::Run(cursor) => cursor.seek(key),
        }
    }

    #[inline]
    fn entry(&self) -> Option<EntryRef<'_>> {
        match self {
            Self::Mem(cursor) => cursor.entry(),
            Self::Run(cursor) => cursor.entry(),
        }
    }

    fn value(&self) -> Bytes {
        match self {
            Self::Mem(cursor) => cursor.value(),
            Self::Run(cursor) => cursor.value(),
        }
    }

    #[inline]
    fn advance(&mut self) -> Result<()> {
        match self {
            Self::Mem(cursor) => cursor.advance(),
            Self::Run(cursor) => cursor.advance(),
        }
    }

    fn newest(&self) -> u64 {
        match self {
            Self::Mem(cursor) => cursor.newest(),
            Self::Run(cursor) => cursor.newest(),
        }
    }
}

/// The visible keys and values of a span.
pub(crate) type Scan = Visible<AnySource>;

/// A scan of a superversion; it keeps what it reads alive.
pub(super) fn scan_in(
    current: &SuperVersion,
    opened: &Opened,
    span: KeySpan,
    asked: Asked,
    direction: Direction,
) -> Result<Scan> {
    let keyspace = opened.id;
    let mut sources = Vec::new();
    let mut tombstones: Vec<Arc<Fragments>> = Vec::new();
    for table in current.memtables(asked.seqno) {
        sources.push(AnySource::Mem(MemCursor::new(table, keyspace, direction)));
        tombstones.push(table.fragments(keyspace));
    }
    if let Some(tree) = current.trees.get(&keyspace) {
        for run in tree.runs(&span, asked.seqno) {
            for table in run.iter().filter(|table| table.meta.summary.range_tombstones > 0) {
                tombstones.push(Arc::clone(table.segment()?.ranges()));
            }
            sources.push(AnySource::Run(RunCursor::new(run, direction)));
        }
    }
    tombstones.retain(|fragments| !fragments.is_empty());
    let tombstones = match tombstones.as_slice() {
        [] => Arc::default(),
        [only] => Arc::clone(only),
        several => Arc::new(Fragments::merged(several)),
    };
    Ok(Visible::new(Kway::new(sources, direction), tombstones, asked, span, (direction, opened.strategy.clone())))
}
