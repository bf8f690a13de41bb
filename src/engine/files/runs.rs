//! Cursors over runs of segments, which are opened one at a time as they are reached.

use std::{fmt::Debug, path::Path, sync::Arc};

use super::tree::SegmentHandle;
use crate::{
    base::{Bytes, Result, Seqno},
    merge::{Direction, EntryRef, Source},
    segment::{AsOfCursor, Segment, SegmentCursor, VersionCursor},
};

/// Cursor over one segment, as a run opens it.
pub(crate) trait InSegment: Source + Sized {
    /// Parameter of `open`, beside the direction.
    type Of: Copy + Debug;

    /// Returns an unpositioned cursor.
    fn open(segment: Arc<Segment>, direction: Direction, of: Self::Of) -> Self;

    /// Returns a bound on the seqnos in these segments that range tombstones may hide.
    fn newest_of(handles: &[Arc<SegmentHandle>]) -> Seqno;
}

impl InSegment for SegmentCursor {
    type Of = ();

    fn open(segment: Arc<Segment>, direction: Direction, _of: ()) -> Self {
        Self::new(segment, direction)
    }

    fn newest_of(handles: &[Arc<SegmentHandle>]) -> Seqno {
        handles.iter().map(|handle| handle.meta.summary.max_seqno).max().unwrap_or(Seqno(0))
    }
}

/// Reads as of a seqno.
impl InSegment for AsOfCursor {
    type Of = Seqno;

    fn open(segment: Arc<Segment>, direction: Direction, of: Seqno) -> Self {
        Self::new(segment, direction, of)
    }

    /// Returns the maximum: range tombstones hide nothing here. An interval that holds the seqno is authoritative (R3);
    /// if it were skipped, the key would be refused because its version was moved here.
    fn newest_of(_: &[Arc<SegmentHandle>]) -> Seqno {
        Seqno::MAX
    }
}

impl InSegment for VersionCursor {
    type Of = ();

    fn open(segment: Arc<Segment>, direction: Direction, _of: ()) -> Self {
        assert_eq!(direction, Direction::Forward, "versions are walked forward");
        Self::new(segment)
    }

    fn newest_of(_: &[Arc<SegmentHandle>]) -> Seqno {
        Seqno::MAX
    }
}

/// Cursor over segments in key order, one of which is open at a time.
#[derive(Debug)]
pub(crate) struct Run<C: InSegment> {
    segments: Vec<Arc<SegmentHandle>>,
    direction: Direction,
    of: C::Of,
    at: usize,
    cursor: Option<C>,
    newest: Seqno,
}

/// Cursor over a run of the main tree.
pub(crate) type RunCursor = Run<SegmentCursor>;
/// Cursor over a run of the history tier as of a seqno.
pub(crate) type AsOfRunCursor = Run<AsOfCursor>;
/// Cursor over every version in a run of the history tier; forward only.
pub(crate) type VersionRunCursor = Run<VersionCursor>;

impl<C: InSegment> Run<C> {
    /// Returns an unpositioned cursor over segments in key order that share no key.
    pub(in crate::engine) fn new(segments: Vec<Arc<SegmentHandle>>, direction: Direction, of: C::Of) -> Self {
        let newest = C::newest_of(&segments);
        Self { segments, direction, of, at: 0, cursor: None, newest }
    }

    /// Opens segment `at` and seeks in it; continues with the following ones until one has an entry.
    fn open_from(&mut self, at: Option<usize>, key: Option<&[u8]>) -> Result<()> {
        self.cursor = None;
        let (mut next, mut key) = (at, key);
        while let Some(at) = next
            && let Some(handle) = self.segments.get(at)
        {
            self.at = at;
            let mut cursor = C::open(Arc::clone(handle.segment()?), self.direction, self.of);
            cursor.seek(key)?;
            if cursor.entry().is_some() {
                self.cursor = Some(cursor);
                return Ok(());
            }
            (next, key) = self.following();
        }
        Ok(())
    }

    /// Returns the next segment, and the key to seek to in it.
    fn following(&self) -> (Option<usize>, Option<&'static [u8]>) {
        match self.direction {
            Direction::Forward => (self.at.checked_add(1), Some(&[])),
            Direction::Backward => (self.at.checked_sub(1), None),
        }
    }

    /// Returns the segment in which a walk from `key` begins.
    fn entry_point(&self, key: Option<&[u8]>) -> Option<usize> {
        let starts_before = |key: &[u8], inclusive: bool| {
            self.segments.partition_point(|handle| {
                let start = handle.meta.summary.span.start.as_slice();
                start < key || inclusive && start == key
            })
        };
        match (self.direction, key) {
            (Direction::Forward, None) => None,
            (Direction::Forward, Some(key)) => Some(starts_before(key, true).saturating_sub(1)),
            (Direction::Backward, Some(key)) => starts_before(key, false).checked_sub(1),
            (Direction::Backward, None) => self.segments.len().checked_sub(1),
        }
    }
}

impl<C: InSegment> Source for Run<C> {
    fn seek(&mut self, key: Option<&[u8]>) -> Result<()> {
        self.open_from(self.entry_point(key), key)
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
        let (next, key) = self.following();
        self.open_from(next, key)
    }

    fn skip_newer(&mut self, key: &[u8], seqno: Seqno, purge_horizon: Seqno) -> Result<()> {
        // All versions of a key are in one segment of a run.
        self.cursor.as_mut().map_or(Ok(()), |cursor| cursor.skip_newer(key, seqno, purge_horizon))
    }

    fn turned(&self) -> Self {
        Self::new(self.segments.clone(), Direction::Forward, self.of)
    }

    fn newest(&self) -> Seqno {
        self.newest
    }

    fn file(&self) -> Option<&Path> {
        self.cursor.as_ref()?.file()
    }
}
