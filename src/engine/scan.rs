//! Reading a span in order, in either direction.

use std::sync::Arc;

use super::{
    read::Opened,
    superversion::{SuperVersion, Table},
};
use crate::{
    base::{Bytes, KeySpan, Result},
    memtable::MemCursor,
    merge::{Asked, DeadSpans, Direction, EntryRef, Kway, Source, Tombstones, Visible},
    segment::{PastCursor, SegmentCursor, VersionCursor},
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
            (next, key) = following(at, self.direction);
        }
        Ok(())
    }
}

impl Source for RunCursor {
    fn seek(&mut self, key: Option<&[u8]>) -> Result<()> {
        self.open_from(entry_point(&self.tables, self.direction, key), key)
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
        let (next, key) = following(self.at, self.direction);
        self.open_from(next, key)
    }

    fn newest(&self) -> u64 {
        self.newest
    }
}

/// A run of the history tier as of a moment, its segments opened one at a time as they are reached.
#[derive(Debug)]
pub(crate) struct PastRunCursor {
    /// In key order.
    tables: Vec<Arc<Table>>,
    direction: Direction,
    seqno: u64,
    at: usize,
    cursor: Option<PastCursor>,
    newest: u64,
}

impl PastRunCursor {
    fn new(tables: Vec<Arc<Table>>, direction: Direction, seqno: u64) -> Self {
        let newest = tables.iter().map(|table| table.meta.summary.max_seqno).max().unwrap_or(0);
        Self { tables, direction, seqno, at: 0, cursor: None, newest }
    }

    /// Opens table number `at` and seeks in it; goes on to the next ones while they have nothing there.
    fn open_from(&mut self, at: Option<usize>, key: Option<&[u8]>) -> Result<()> {
        self.cursor = None;
        let (mut next, mut key) = (at, key);
        while let Some(at) = next
            && let Some(table) = self.tables.get(at)
        {
            self.at = at;
            let mut cursor = PastCursor::new(Arc::clone(table.segment()?), self.direction, self.seqno);
            cursor.seek(key)?;
            if cursor.entry().is_some() {
                self.cursor = Some(cursor);
                return Ok(());
            }
            (next, key) = following(at, self.direction);
        }
        Ok(())
    }
}

/// The segment of a run behind one, and where a walk enters it.
fn following(at: usize, direction: Direction) -> (Option<usize>, Option<&'static [u8]>) {
    match direction {
        Direction::Forward => (at.checked_add(1), Some(&[])),
        Direction::Backward => (at.checked_sub(1), None),
    }
}

/// The segment of a run in which a walk from `key` begins.
fn entry_point(tables: &[Arc<Table>], direction: Direction, key: Option<&[u8]>) -> Option<usize> {
    let starts_before = |key: &[u8], inclusive: bool| {
        tables.partition_point(|table| {
            let start = table.meta.summary.span.start.as_slice();
            start < key || inclusive && start == key
        })
    };
    match (direction, key) {
        (Direction::Forward, None) => None,
        (Direction::Forward, Some(key)) => Some(starts_before(key, true).saturating_sub(1)),
        (Direction::Backward, Some(key)) => starts_before(key, false).checked_sub(1),
        (Direction::Backward, None) => tables.len().checked_sub(1),
    }
}

impl Source for PastRunCursor {
    fn seek(&mut self, key: Option<&[u8]>) -> Result<()> {
        self.open_from(entry_point(&self.tables, self.direction, key), key)
    }

    fn entry(&self) -> Option<EntryRef<'_>> {
        self.cursor.as_ref()?.entry()
    }

    fn value(&self) -> Bytes {
        self.cursor.as_ref().map(Source::value).unwrap_or_default()
    }

    fn advance(&mut self) -> Result<()> {
        let Some(cursor) = &mut self.cursor else { return Ok(()) };
        cursor.advance()?;
        if cursor.entry().is_some() {
            return Ok(());
        }
        let (next, key) = following(self.at, self.direction);
        self.open_from(next, key)
    }

    fn newest(&self) -> u64 {
        self.newest
    }
}

/// A run of the history tier, every version of it.
#[derive(Debug)]
pub(super) struct VersionRunCursor {
    tables: Vec<Arc<Table>>,
    at: usize,
    cursor: Option<VersionCursor>,
}

impl VersionRunCursor {
    /// A walk over tables in key order, forward.
    pub(super) fn new(tables: Vec<Arc<Table>>) -> Self {
        Self { tables, at: 0, cursor: None }
    }

    fn open_from(&mut self, at: usize, key: &[u8]) -> Result<()> {
        self.cursor = None;
        let (mut next, mut key) = (at, key);
        while let Some(table) = self.tables.get(next) {
            self.at = next;
            let mut cursor = VersionCursor::new(Arc::clone(table.segment()?));
            cursor.seek(Some(key))?;
            if cursor.entry().is_some() {
                self.cursor = Some(cursor);
                return Ok(());
            }
            (next, key) = (next + 1, &[]);
        }
        Ok(())
    }
}

impl Source for VersionRunCursor {
    fn seek(&mut self, key: Option<&[u8]>) -> Result<()> {
        self.cursor = None;
        let at = entry_point(&self.tables, Direction::Forward, key);
        at.zip(key).map_or(Ok(()), |(at, key)| self.open_from(at, key))
    }

    fn entry(&self) -> Option<EntryRef<'_>> {
        self.cursor.as_ref()?.entry()
    }

    fn value(&self) -> Bytes {
        self.cursor.as_ref().map(Source::value).unwrap_or_default()
    }

    fn advance(&mut self) -> Result<()> {
        let Some(cursor) = &mut self.cursor else { return Ok(()) };
        cursor.advance()?;
        if cursor.entry().is_some() { Ok(()) } else { self.open_from(self.at + 1, &[]) }
    }

    fn newest(&self) -> u64 {
        u64::MAX
    }
}

/// A memtable, a run of segments, or a run of the history tier.
#[derive(Debug)]
pub(crate) enum AnySource {
    Mem(MemCursor),
    Run(RunCursor),
    Past(Box<PastRunCursor>),
}

impl Source for AnySource {
    fn seek(&mut self, key: Option<&[u8]>) -> Result<()> {
        match self {
            Self::Mem(cursor) => cursor.seek(key),
            Self::Run(cursor) => cursor.seek(key),
            Self::Past(cursor) => cursor.seek(key),
        }
    }

    #[inline]
    fn entry(&self) -> Option<EntryRef<'_>> {
        match self {
            Self::Mem(cursor) => cursor.entry(),
            Self::Run(cursor) => cursor.entry(),
            Self::Past(cursor) => cursor.entry(),
        }
    }

    fn value(&self) -> Bytes {
        match self {
            Self::Mem(cursor) => cursor.value(),
            Self::Run(cursor) => cursor.value(),
            Self::Past(cursor) => cursor.value(),
        }
    }

    #[inline]
    fn advance(&mut self) -> Result<()> {
        match self {
            Self::Mem(cursor) => cursor.advance(),
            Self::Run(cursor) => cursor.advance(),
            Self::Past(cursor) => cursor.advance(),
        }
    }

    fn newest(&self) -> u64 {
        match self {
            Self::Mem(cursor) => cursor.newest(),
            Self::Run(cursor) => cursor.newest(),
            Self::Past(cursor) => cursor.newest(),
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
    dead: &Arc<DeadSpans>,
) -> Result<Scan> {
    let keyspace = opened.id;
    let mut sources = Vec::new();
    let mut tombstones: Vec<Vec<Arc<Tombstones>>> = Vec::new();
    for table in current.memtables(asked.seqno) {
        sources.push(AnySource::Mem(MemCursor::new(table, keyspace, direction)));
        tombstones.extend(table.tombstones(keyspace).into_iter().map(|set| vec![set]));
    }
    if let Some(tree) = current.trees.get(&keyspace) {
        for run in tree.runs(&span, asked.seqno) {
            let ranged = run.iter().filter(|table| table.meta.summary.range_tombstones > 0);
            tombstones.push(ranged.map(|table| Ok(Arc::clone(table.segment()?.ranges()))).collect::<Result<_>>()?);
            sources.push(AnySource::Run(RunCursor::new(run, direction)));
        }
        for run in tree.past.iter().filter(|run| run.concerns(asked.seqno)) {
            let tables: Vec<_> =
                run.tables.iter().filter(|table| table.meta.summary.overlaps(&span)).cloned().collect();
            if !tables.is_empty() {
                sources.push(AnySource::Past(Box::new(PastRunCursor::new(tables, direction, asked.seqno))));
            }
        }
    }
    let merge = Kway::new(sources, direction);
    let visible = Visible::new(merge, tombstones, asked, span, (direction, opened.strategy.clone()));
    Ok(visible.with_dead(dead, keyspace))
}
