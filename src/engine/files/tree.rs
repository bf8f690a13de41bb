//! The segments of one keyspace as reads look them up: levels, and the runs of the history tier.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use super::reclaim::Reclaim;
use crate::{
    base::{FileNumber, KeySpan, Result, Seqno, head},
    engine::context::Context,
    manifest::KeyspaceVersion,
    segment::{HistorySummary, IndexNumbers, Segment, SegmentMeta},
};

/// Opens segments, and has their files removed in the end.
#[derive(Debug)]
pub(super) struct Opener {
    pub(super) ctx: Arc<Context>,
    pub(super) reclaim: Arc<Reclaim>,
}

impl Opener {
    pub(super) fn new(ctx: &Arc<Context>, reclaim: &Arc<Reclaim>) -> Self {
        Self { ctx: Arc::clone(ctx), reclaim: Arc::clone(reclaim) }
    }
}

/// A segment of a version, opened when it is first read.
#[derive(Debug)]
pub(crate) struct SegmentHandle {
    pub(crate) meta: Arc<SegmentMeta>,
    opener: Arc<Opener>,
    segment: OnceLock<Arc<Segment>>,
    /// Set when no version names it any more: its file is removed with the last reader.
    obsolete: AtomicBool,
}

impl SegmentHandle {
    fn new(meta: &Arc<SegmentMeta>, opener: &Arc<Opener>) -> Arc<Self> {
        Arc::new(Self {
            meta: Arc::clone(meta),
            opener: Arc::clone(opener),
            segment: OnceLock::new(),
            obsolete: AtomicBool::new(false),
        })
    }

    /// Returns the segment, and opens it on first use.
    #[inline]
    pub(crate) fn segment(&self) -> Result<&Arc<Segment>> {
        match self.segment.get() {
            Some(segment) => Ok(segment),
            None => self.open(),
        }
    }

    /// Returns the segment if it is open already.
    #[inline]
    pub(crate) fn open_segment(&self) -> Option<&Segment> {
        self.segment.get().map(|segment| &**segment)
    }

    #[cold]
    fn open(&self) -> Result<&Arc<Segment>> {
        // Two threads may open it at once; one of the two is kept.
        let segment = self.open_anew()?;
        Ok(self.segment.get_or_init(|| segment))
    }

    /// Opens the file for the caller alone.
    pub(crate) fn open_anew(&self) -> Result<Arc<Segment>> {
        let Context { pool, options, .. } = &*self.opener.ctx;
        Segment::open(pool, &self.meta, options.mmap).map(Arc::new)
    }

    /// Returns the memory that it takes while it is open.
    pub(crate) fn memory(&self) -> usize {
        self.segment.get().map_or(0, |segment| segment.memory())
    }

    /// Returns the size of its index in the file; `None` if it has none or is not open.
    pub(crate) fn index_numbers(&self) -> Option<IndexNumbers> {
        self.segment.get()?.index_numbers()
    }

    /// Returns whether a read at `seqno` can be affected by this segment (K9).
    #[inline]
    pub(crate) fn matters_at(&self, seqno: Seqno) -> bool {
        seqno >= self.meta.summary.lowest_affected
    }
}

impl Drop for SegmentHandle {
    fn drop(&mut self) {
        if self.obsolete.load(Ordering::Acquire) {
            self.opener.reclaim.add_unread(self.meta.number);
        }
    }
}

/// The segments of one keyspace.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// Whether the keyspace was dropped: only older views still read it.
    pub(crate) dropped: bool,
    /// Level 0 newest first, deeper levels by key.
    pub(crate) levels: Vec<Vec<Arc<SegmentHandle>>>,
    /// Heads of the first keys of each level: most searches compare nothing else.
    heads: Vec<Vec<u64>>,
    /// Whether the levels hold purges, which hide history.
    pub(crate) purges: bool,
    /// The history tier.
    pub(crate) history: Vec<HistoryRun>,
    /// Largest end of any interval there: reads at or above it skip the tier.
    pub(crate) history_end: Seqno,
    /// Largest seqno in any segment.
    pub(super) newest: Seqno,
}

/// Segments of the history tier that share no key.
#[derive(Debug)]
pub(crate) struct HistoryRun {
    number: FileNumber,
    /// By key.
    pub(crate) segments: Vec<Arc<SegmentHandle>>,
    /// Reads below `begin`, or at or above `end`, find nothing here.
    begin: Seqno,
    end: Seqno,
}

impl HistoryRun {
    fn new(handle: Arc<SegmentHandle>, history: HistorySummary) -> Self {
        let mut run = Self { number: history.run, segments: Vec::new(), begin: Seqno::MAX, end: Seqno(0) };
        run.add(handle, history);
        run
    }

    fn add(&mut self, handle: Arc<SegmentHandle>, history: HistorySummary) {
        self.begin = self.begin.min(handle.meta.summary.lowest_affected);
        self.end = self.end.max(history.end).max(handle.meta.summary.max_seqno);
        self.segments.push(handle);
    }

    /// Returns whether a read at `seqno` can find anything here.
    #[inline]
    pub(crate) fn concerns(&self, seqno: Seqno) -> bool {
        self.begin <= seqno && seqno < self.end
    }

    /// Returns the segment that can hold a key.
    #[inline]
    pub(crate) fn holding(&self, key: &[u8]) -> Option<&Arc<SegmentHandle>> {
        let after = self.segments.partition_point(|handle| handle.meta.summary.span.start.as_slice() <= key);
        self.segments.get(after.checked_sub(1)?).filter(|handle| handle.meta.summary.holds(key))
    }
}

impl Tree {
    /// Builds the tree of a keyspace, with the segment handles of the tree before it where they are still named.
    pub(super) fn of(keyspace: &KeyspaceVersion, before: &Self, opener: &Arc<Opener>) -> Self {
        let old: BTreeMap<FileNumber, &Arc<SegmentHandle>> =
            before.segments().map(|handle| (handle.meta.number, handle)).collect();
        let handle_of = |meta: &Arc<SegmentMeta>| {
            old.get(&meta.number).map_or_else(|| SegmentHandle::new(meta, opener), |handle| Arc::clone(handle))
        };
        let mut tree = Self { dropped: keyspace.dropped.is_some(), ..Self::default() };
        for segments in &keyspace.levels {
            let handles: Vec<Arc<SegmentHandle>> = segments.iter().map(handle_of).collect();
            tree.purges |= handles.iter().any(|handle| handle.meta.summary.has_purges());
            tree.heads.push(handles.iter().map(|handle| head(&handle.meta.summary.span.start, 0)).collect());
            tree.levels.push(handles);
        }
        for meta in &keyspace.history {
            let history = meta.intervals();
            let handle = handle_of(meta);
            match tree.history.last_mut() {
                Some(run) if run.number == history.run => run.add(handle, history),
                _ => tree.history.push(HistoryRun::new(handle, history)),
            }
        }
        tree.history_end = tree.history.iter().map(|run| run.end).max().unwrap_or(Seqno(0));
        tree.newest = tree.segments().map(|handle| handle.meta.summary.max_seqno).max().unwrap_or(Seqno(0));
        tree
    }

    /// Marks the segments that the next tree no longer has: their files are removed with the last reader.
    pub(super) fn mark_obsolete(&self, next: &Self) {
        let kept: HashSet<FileNumber> = next.segments().map(|handle| handle.meta.number).collect();
        for gone in self.segments().filter(|handle| !kept.contains(&handle.meta.number)) {
            gone.obsolete.store(true, Ordering::Release);
        }
    }

    /// Returns all segments, including those of the history tier.
    pub(crate) fn segments(&self) -> impl Iterator<Item = &Arc<SegmentHandle>> {
        self.levels.iter().flatten().chain(self.history.iter().flat_map(|run| &run.segments))
    }

    /// Returns the segments of the levels that can hold a key, newest first.
    #[inline]
    pub(crate) fn holding<'t>(&'t self, key: &[u8]) -> impl Iterator<Item = &'t Arc<SegmentHandle>> {
        let (top, deeper) = self.levels.split_at(self.levels.len().min(1));
        let top = top.iter().flatten().filter(move |handle| handle.meta.summary.holds(key));
        let wanted = head(key, 0);
        let deeper = deeper.iter().zip(self.heads.iter().skip(1)).filter_map(move |(level, heads)| {
            let low = heads.partition_point(|head| *head < wanted);
            let alike = level.get(low..).unwrap_or_default().iter().zip(heads.get(low..).unwrap_or_default());
            let starts_upto = |handle: &SegmentHandle| handle.meta.summary.span.start.as_slice() <= key;
            let after = low + alike.take_while(|(handle, head)| **head == wanted && starts_upto(handle)).count();
            level.get(after.checked_sub(1)?).filter(|handle| handle.meta.summary.holds(key))
        });
        top.chain(deeper)
    }

    /// Returns the sorted runs that overlap a span and can affect a read at `seqno`: each segment of level 0, and each
    /// deeper level.
    pub(crate) fn runs(&self, span: &KeySpan, seqno: Seqno) -> Vec<Vec<Arc<SegmentHandle>>> {
        let wanted = |handle: &&Arc<SegmentHandle>| handle.meta.summary.overlaps(span) && handle.matters_at(seqno);
        let mut runs = Vec::new();
        for (number, level) in self.levels.iter().enumerate() {
            let handles = level.iter().filter(wanted).cloned();
            if number == 0 {
                runs.extend(handles.map(|handle| vec![handle]));
            } else {
                runs.push(handles.collect());
            }
        }
        runs.retain(|run| !run.is_empty());
        runs
    }
}
