//! Every version of a segment of the history tier in order, each with its whole value.

use std::{path::Path, sync::Arc};

use super::delta;
use crate::{
    base::{Bytes, Corruption, Micros, Result, Seqno},
    merge::{Direction, EntryRef, Source, Until},
    segment::{cursor::SegmentCursor, reader::Segment},
};

/// Cursor over every version of a segment, with whole values.
#[derive(Debug)]
pub(crate) struct VersionCursor {
    inner: SegmentCursor,
    /// The last value that is stored whole, and the current value if it is stored as a difference.
    whole: Vec<u8>,
    value: Vec<u8>,
    until: Option<Until>,
}

impl VersionCursor {
    /// Returns a cursor that is not positioned.
    pub(crate) fn new(segment: Arc<Segment>) -> Self {
        let inner = SegmentCursor::new(segment, Direction::Forward);
        Self { inner, whole: Vec::new(), value: Vec::new(), until: None }
    }

    fn is_difference(&self) -> bool {
        self.inner.decoded().is_some_and(|decoded| decoded.entry.difference)
    }

    /// Computes the value and interval of the current entry; `newer` is the beginning of the version before it.
    fn materialise(&mut self, newer: Option<(Seqno, Micros)>) -> Result<()> {
        let Self { inner, whole, value, until } = self;
        let Some(entry) = inner.decoded().map(|decoded| decoded.entry) else { return Ok(()) };
        let stored = inner.entry().map_or(&[][..], |entry| entry.value);
        if entry.difference {
            value.clear();
            delta::apply(whole, stored, value).map_err(|bad| inner.wrong(bad))?;
        } else {
            whole.clear();
            whole.extend_from_slice(stored);
        }
        *until = Some(inner.segment().until(&entry, newer)?);
        Ok(())
    }
}

impl Source for VersionCursor {
    fn seek(&mut self, key: Option<&[u8]>) -> Result<()> {
        self.inner.seek(key)?;
        // The first version of a key stores a whole value.
        self.whole.clear();
        self.materialise(None)
    }

    fn entry(&self) -> Option<EntryRef<'_>> {
        let value = if self.is_difference() { &self.value } else { &self.whole };
        Some(EntryRef { value, until: self.until, ..self.inner.entry()? })
    }

    fn value(&self) -> Bytes {
        Bytes::copy_from(if self.is_difference() { &self.value } else { &self.whole })
    }

    fn advance(&mut self) -> Result<()> {
        let newer = self.inner.decoded().map(|decoded| decoded.entry);
        self.inner.advance()?;
        let newer = newer.filter(|newer| newer.older_follows);
        self.materialise(newer.and_then(|newer| Some((newer.seqno, newer.time?))))
    }

    fn skip_newer(&mut self, key: &[u8], seqno: Seqno, purge_horizon: Seqno) -> Result<()> {
        let before = self.inner.place();
        self.inner.skip_newer(key, seqno, purge_horizon)?;
        let Some(entry) = self.inner.decoded().map(|decoded| decoded.entry).filter(|_| self.inner.place() != before)
        else {
            return Ok(());
        };
        self.whole.clear();
        let mut newer = None;
        if let Some(distance) = entry.follower {
            let first = self.inner.entry_before(usize::from(distance))?;
            let bad = Corruption { offset: 0, what: "a whole value before a difference" };
            let (_, whole) = first.ok_or_else(|| self.inner.wrong(bad))?;
            self.whole.extend_from_slice(whole);
            newer = self.inner.entry_before(1)?.and_then(|(newer, _)| Some((newer.entry.seqno, newer.entry.time?)));
        }
        self.materialise(newer)
    }

    fn turned(&self) -> Self {
        Self::new(Arc::clone(self.inner.segment()))
    }

    fn newest(&self) -> Seqno {
        self.inner.newest()
    }

    fn file(&self) -> Option<&Path> {
        self.inner.file()
    }
}
