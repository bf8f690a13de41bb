//! The versions of one key, newest first.
//!
//! All sources are walked as they are asked for: however many versions there are, one of each is in memory. A walk that
//! begins in the middle begins there: of the newer versions it reads of each source the one above, which tells whether
//! anything between has gone.

use std::{collections::BTreeMap, sync::Arc};

use super::{ViewCore, get_as_of, scan::AnySource};
use crate::{
    base::{Bytes, KeySpan, KeyspaceId, Kind, Result},
    engine::{
        KeyspaceRef,
        files::{
            runs::{RunCursor, VersionRunCursor},
            superversion::SuperVersion,
            tree::SegmentHandle,
        },
        timeline::Timeline,
    },
    manifest::Version,
    memtable::MemCursor,
    merge::{Asked, Direction, EntryRef, Found, Kway, Mark, Source, Tombstones, Until, meaning},
};

/// A version of a key.
#[derive(Debug)]
pub(crate) struct KeyVersion {
    pub(crate) seqno: u64,
    /// In microseconds.
    pub(crate) time: u64,
    /// Nothing of a delete; an error where there is a value that cannot be told, as a sum that no `i64` holds.
    pub(crate) value: Result<Option<Bytes>>,
}

/// A version in a memtable or in the main tree.
#[derive(Clone, Debug)]
struct LiveVersion {
    seqno: u64,
    ordinal: u32,
    kind: Kind,
    gap_start: Option<u64>,
    moved: bool,
    time: Option<u64>,
    value: Bytes,
}

impl LiveVersion {
    fn of(entry: &EntryRef<'_>, value: Bytes) -> Self {
        let EntryRef { seqno, ordinal, kind, gap_start, moved, time, .. } = *entry;
        Self { seqno, ordinal, kind, gap_start, moved, time, value }
    }

    fn of_mark(mark: &Mark) -> Self {
        let Mark { seqno, ordinal, gap_start, time, .. } = *mark;
        let time = (time > 0).then_some(time);
        Self { seqno, ordinal, kind: mark.kind(), gap_start, moved: false, time, value: Bytes::default() }
    }
}

/// The versions of a key in memtables and the main tree, newest first.
#[derive(Debug)]
struct LiveWalk {
    merge: Kway<AnySource>,
    /// Marks that cover the key, oldest first.
    marks: Vec<LiveVersion>,
    next: Option<LiveVersion>,
}

impl LiveWalk {
    /// The version it stands at.
    fn next(&mut self, key: &[u8]) -> Result<Option<&LiveVersion>> {
        if self.next.is_none() {
            self.next = self.pull(key)?;
            while let Some(newer) = &mut self.next
                && let Some((seqno, kind)) = Self::peek(&self.merge, &self.marks, key)
                && seqno == newer.seqno
                && !kind.purges()
            {
                // The last word of a commit counts.
                let Some(older) = Self::take(&mut self.merge, &mut self.marks, key)? else { break };
                if let Some(gap) = older.gap_start {
                    newer.gap_start = Some(newer.gap_start.map_or(gap, |newer| newer.min(gap)));
                    newer.moved |= older.moved;
                }
            }
        }
        Ok(self.next.as_ref())
    }

    fn pull(&mut self, key: &[u8]) -> Result<Option<LiveVersion>> {
        Self::take(&mut self.merge, &mut self.marks, key)
    }

    /// Whether a mark comes before the entry of the merge. Segments keep no order in a commit: there the point entry
    /// comes before the mark.
    fn mark_first(merge: &Kway<AnySource>, marks: &[LiveVersion], key: &[u8]) -> bool {
        let entry = merge.top().and_then(Source::entry).filter(|entry| entry.key == key);
        let Some(mark) = marks.last() else { return false };
        entry.is_none_or(|entry| (mark.seqno, mark.ordinal) > (entry.seqno, entry.ordinal))
    }

    fn peek(merge: &Kway<AnySource>, marks: &[LiveVersion], key: &[u8]) -> Option<(u64, Kind)> {
        if Self::mark_first(merge, marks, key) {
            return marks.last().map(|mark| (mark.seqno, mark.kind));
        }
        let entry = merge.top().and_then(Source::entry).filter(|entry| entry.key == key);
        entry.map(|entry| (entry.seqno, entry.kind))
    }

    fn take(merge: &mut Kway<AnySource>, marks: &mut Vec<LiveVersion>, key: &[u8]) -> Result<Option<LiveVersion>> {
        if Self::mark_first(merge, marks, key) {
            return Ok(marks.pop());
        }
        let Some(source) = merge.top() else { return Ok(None) };
        let Some(entry) = source.entry().filter(|entry| entry.key == key) else { return Ok(None) };
        let live = LiveVersion::of(&entry, source.value());
        merge.advance()?;
        Ok(Some(live))
    }
}

/// A walk over the versions of a key.
#[derive(Debug)]
pub(crate) struct VersionWalk {
    view: Arc<ViewCore>,
    /// It goes on in the files that it began with: for an operand's value too, which is that of a moment that nobody has registered.
    files: Arc<SuperVersion>,
    _iterating: Arc<()>,
    keyspace: KeyspaceRef,
    key: Vec<u8>,
    asked: Asked,
    /// Seqnos told: from the first to before the second.
    from: u64,
    to: u64,
    live: LiveWalk,
    past: Kway<VersionRunCursor>,
    timeline: Timeline,
    complete: bool,
    /// Where the next older version must end, unless something has gone between; and down to where the newest entry of the main tree says that its
    /// past has been moved.
    begins: Option<u64>,
    moved_from: Option<u64>,
    /// The lowest gap of the entries of the main tree so far.
    floor: u64,
    /// A source could not be read further.
    unread: bool,
    ended: bool,
}

/// The versions of a key that this view can see, from those with a seqno in `from..to`; nothing where the keyspace was not yet born.
pub(crate) fn history(
    view: &Arc<ViewCore>,
    keyspace: &KeyspaceRef,
    key: &[u8],
    (from, to): (u64, u64),
) -> Result<Option<VersionWalk>> {
    let Some(asked) = view.asked(keyspace)? else { return Ok(None) };
    history_in(view, &view.files().of_keyspace(keyspace.id), asked, keyspace, key, (from, to)).map(Some)
}

/// The same in files that are held.
fn history_in(
    view: &Arc<ViewCore>,
    current: &Arc<SuperVersion>,
    asked: Asked,
    keyspace: &KeyspaceRef,
    key: &[u8],
    (from, to): (u64, u64),
) -> Result<VersionWalk> {
    let to = to.min(asked.seqno.saturating_add(1));
    let mut sources = Vec::new();
    // The same one may stand in several segments.
    let mut marks: BTreeMap<(u64, u32, bool), Mark> = BTreeMap::new();
    let mut see_marks = |tombstones: &Tombstones| {
        marks.extend(tombstones.covering(key).map(|mark| ((mark.seqno, mark.ordinal, !mark.purge), *mark)));
    };
    for memtable in current.memtables(u64::MAX) {
        memtable.tombstones(keyspace.id).iter().for_each(|set| see_marks(set));
        sources.push(AnySource::Mem(MemCursor::new(memtable, keyspace.id, Direction::Forward)));
    }
    let tree = current.trees.get(&keyspace.id);
    for handle in tree.into_iter().flat_map(|tree| tree.holding(key)) {
        see_marks(handle.segment()?.ranges());
        sources.push(AnySource::Run(RunCursor::new(vec![Arc::clone(handle)], Direction::Forward, ())));
    }
    let runs = tree.into_iter().flat_map(|tree| &tree.past);
    let handles = runs
        .filter_map(|run| run.holding(key))
        .map(|handle| VersionRunCursor::new(vec![Arc::clone(handle)], Direction::Forward, ()));
    let mut past = Kway::new(handles.collect(), Direction::Forward);
    let mut merge = Kway::new(sources, Direction::Forward);
    past.seek(Some(key))?;
    merge.seek(Some(key))?;
    // What is newer is not told; the last of it in each source says what has gone from beneath.
    past.skip_newer(key, to.saturating_sub(1), asked.opened)?;
    merge.skip_newer(key, to.saturating_sub(1), asked.opened)?;
    let live = LiveWalk { merge, marks: marks.values().map(LiveVersion::of_mark).collect(), next: None };
    Ok(VersionWalk {
        complete: nothing_vanished(&current.version, keyspace.id),
        view: Arc::clone(view),
        files: Arc::clone(current),
        _iterating: view.iterating(),
        keyspace: keyspace.clone(),
        key: key.to_vec(),
        to,
        from,
        asked,
        live,
        past,
        timeline: Timeline::new(current),
        begins: None,
        moved_from: None,
        floor: u64::MAX,
        unread: false,
        ended: false,
    })
}

/// The versions of the keys of a span that this view can see, from those with a seqno in `from..to`; nothing where
/// the keyspace was not yet born.
pub(crate) fn history_range(
    view: &Arc<ViewCore>,
    keyspace: &KeyspaceRef,
    span: KeySpan,
    seqnos: (u64, u64),
) -> Result<Option<RangeWalk>> {
    let Some(asked) = view.asked(keyspace)? else { return Ok(None) };
    let current = view.files().of_keyspace(keyspace.id);
    let mut sources: Vec<AnySource> = Vec::new();
    for memtable in current.memtables(u64::MAX) {
        sources.push(AnySource::Mem(MemCursor::new(memtable, keyspace.id, Direction::Forward)));
    }
    if let Some(tree) = current.trees.get(&keyspace.id) {
        let inside = |handles: &[Arc<SegmentHandle>]| -> Vec<Arc<SegmentHandle>> {
            handles.iter().filter(|handle| handle.meta.summary.overlaps(&span)).cloned().collect()
        };
        for (number, level) in tree.levels.iter().enumerate() {
            // Segments of level 0 overlap each other.
            let handles = inside(level);
            if number == 0 {
                for handle in handles {
                    sources.push(AnySource::Run(RunCursor::new(vec![handle], Direction::Forward, ())));
                }
            } else {
                sources.push(AnySource::Run(RunCursor::new(handles, Direction::Forward, ())));
            }
        }
        for run in &tree.past {
            sources.push(AnySource::Versions(Box::new(VersionRunCursor::new(
                inside(&run.segments),
                Direction::Forward,
                (),
            ))));
        }
    }
    let mut keys = Kway::new(sources, Direction::Forward);
    if !span.is_empty() {
        keys.seek(Some(&span.start))?;
    }
    Ok(Some(RangeWalk {
        view: Arc::clone(view),
        _iterating: view.iterating(),
        keyspace: keyspace.clone(),
        asked,
        seqnos,
        current,
        keys,
        span,
        key: Vec::new(),
        walk: None,
        complete: true,
        ended: false,
    }))
}

/// Versions of a key that are passed one by one on the way to the next key; behind more of them it is looked for.
const PASSED_MAX: usize = 16;

/// A walk over the versions of each key of a span that has left any.
pub(crate) struct RangeWalk {
    view: Arc<ViewCore>,
    /// It goes on in the files that it began with.
    _iterating: Arc<()>,
    keyspace: KeyspaceRef,
    asked: Asked,
    seqnos: (u64, u64),
    current: Arc<SuperVersion>,
    /// Everything that is left of any key, for the keys alone.
    keys: Kway<AnySource>,
    span: KeySpan,
    key: Vec<u8>,
    /// The versions of that key.
    walk: Option<VersionWalk>,
    complete: bool,
    ended: bool,
}

impl RangeWalk {
    /// Whether nothing is known to be missing among the versions of the keys told so far.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete && self.walk.as_ref().is_none_or(VersionWalk::is_complete)
    }

    /// The next older version of the key, or the newest of the next key.
    pub(crate) fn next(&mut self) -> Result<Option<(Bytes, KeyVersion)>> {
        while !self.ended {
            if let Some(walk) = &mut self.walk {
                // An error about one version leaves the others.
                if let Some(told) = walk.next()? {
                    return Ok(Some((Bytes::copy_from(&self.key), told)));
                }
                self.complete &= walk.is_complete();
                self.walk = None;
            }
            // What fails on the way to the next key ends it, and so does a panic.
            self.ended = true;
            self.ended = !self.next_key()?;
        }
        Ok(None)
    }

    /// Goes to the next key that has left anything; `false` when there is none.
    fn next_key(&mut self) -> Result<bool> {
        self.view.engine().check_open()?;
        let Some(entry) = self.keys.top().and_then(Source::entry) else { return Ok(false) };
        if self.span.end.as_deref().is_some_and(|end| entry.key >= end) {
            return Ok(false);
        }
        self.key.clear();
        self.key.extend_from_slice(entry.key);
        let mut passed = 0;
        while self.keys.top().and_then(Source::entry).is_some_and(|entry| entry.key == self.key) {
            if passed == PASSED_MAX {
                self.keys.seek(Some(&[self.key.as_slice(), &[0]].concat()))?;
                break;
            }
            passed += 1;
            self.keys.advance()?;
        }
        let asked = self.asked.clone();
        self.walk = Some(history_in(&self.view, &self.current, asked, &self.keyspace, &self.key, self.seqnos)?);
        Ok(true)
    }
}

/// Whether nothing of a keyspace's past has gone without a trace of its own.
fn nothing_vanished(version: &Version, id: KeyspaceId) -> bool {
    version.keyspaces.get(&id).is_none_or(|keyspace| keyspace.vanished == 0 && keyspace.lapsed == 0)
}

impl VersionWalk {
    /// Whether nothing is known to be missing among the versions told so far, and, at the end, before them.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    /// The next older version.
    pub(crate) fn next(&mut self) -> Result<Option<KeyVersion>> {
        if self.ended {
            return Ok(None);
        }
        self.view.engine().check_open().inspect_err(|_| self.ended = true)?;
        let told = self.try_next();
        if self.unread {
            // What comes behind cannot be read.
            self.complete = false;
            self.ended = true;
        }
        told
    }

    fn try_next(&mut self) -> Result<Option<KeyVersion>> {
        while !self.ended {
            let past = self.past.top().and_then(Source::entry).filter(|entry| entry.key == self.key);
            let past_seqno = past.map(|entry| entry.seqno);
            let live = self.live.next(&self.key).inspect_err(|_| self.unread = true)?;
            let told = match (live, past_seqno) {
                // A mark of the same commit says it of the other keys.
                (Some(live), Some(past)) if live.kind == Kind::RangeDelete && past == live.seqno => {
                    self.live.next = None;
                    None
                }
                (Some(live), Some(past)) if live.kind.purges() && past == live.seqno => self.next_past()?,
                (Some(live), past) if past.is_none_or(|seqno| seqno <= live.seqno) => self.next_live(),
                (_, Some(_)) => self.next_past()?,
                (_, None) => {
                    self.end();
                    None
                }
            };
            let Some(told) = told else { continue };
            if told.seqno < self.from {
                self.end();
                break;
            }
            if told.seqno < self.to {
                return Ok(Some(told));
            }
        }
        Ok(None)
    }

    /// Whether a version of a seqno is among those told or older: whether it has gone is the matter of no other walk.
    fn tells(&self, seqno: u64) -> bool {
        seqno < self.to
    }

    /// Everything has been told: whether the last one has anything beneath that is gone.
    fn end(&mut self) {
        let last = self.begins;
        self.complete &= self.moved_from.is_none_or(|from| last == Some(from) || !self.tells(from));
        self.ended = true;
    }

    fn next_live(&mut self) -> Option<KeyVersion> {
        let live = self.live.next.take()?;
        if live.kind.purges() && live.seqno <= self.asked.opened {
            // Nothing older is ever told again, nor missed.
            self.moved_from = self.moved_from.filter(|from| *from >= live.seqno);
            self.end();
            return None;
        }
        // What stands within a gap is not the whole of its commit: a mark, or an operand that could not be folded.
        let told = live.seqno < self.floor;
        self.floor = live.gap_start.map_or(self.floor, |gap| gap.min(self.floor));
        if !told {
            self.complete &= !self.tells(live.gap_start.unwrap_or(live.seqno));
            return None;
        }
        // What was moved from beneath the entry above has been told by now, or is gone.
        let before = self.begins;
        let from = self.moved_from.take().filter(|from| self.tells(*from));
        self.complete &= from.is_none_or(|from| before == Some(from));
        self.begins = Some(live.seqno);
        match live.gap_start.filter(|gap| self.tells(*gap)) {
            Some(gap) if live.moved => self.moved_from = Some(gap),
            Some(_) => self.complete = false,
            None => {}
        }
        let time = live.time.or_else(|| self.timeline.time_of(live.seqno)).unwrap_or(0);
        // What is not told need not be put together.
        let inside = live.seqno < self.to && live.seqno >= self.from;
        let value = if inside { self.value_of(live.kind, live.seqno, || live.value.clone()) } else { Ok(None) };
        Some(KeyVersion { seqno: live.seqno, time, value })
    }

    /// The value of a version, also of one that has expired; of an operand what a read of its moment folds it to.
    fn value_of(&self, kind: Kind, seqno: u64, value: impl FnOnce() -> Bytes) -> Result<Option<Bytes>> {
        let found = meaning(kind, (seqno, None), None)?.unwrap_or(Found::Operand);
        if let Some(answer) = found.answer(value) {
            return answer.into_value(&self.key).map_err(|error| self.keyspace.named(error));
        }
        let asked = Asked { seqno, ..self.asked.clone() };
        get_as_of(&self.files, &self.keyspace, &self.key, asked, self.view.counters())
    }

    fn next_past(&mut self) -> Result<Option<KeyVersion>> {
        let told = {
            let Some(source) = self.past.top() else { return Ok(None) };
            let Some(entry) = source.entry() else { return Ok(None) };
            let again = self.begins == Some(entry.seqno);
            if !again {
                let follows = match entry.until {
                    Some(Until::At { seqno, .. }) => self.begins == Some(seqno),
                    _ => self.moved_from.take().is_none_or(|from| self.begins == Some(from)),
                };
                // Above those that are told not every version was read.
                self.complete &= follows || entry.seqno >= self.to;
                // Down to there something was dropped, or moved with it: what is told from here on must reach as far.
                if let Some(gap) = entry.gap_start {
                    self.moved_from = Some(self.moved_from.map_or(gap, |from| from.min(gap)));
                }
                self.begins = Some(entry.seqno);
            }
            let told = !again && entry.seqno < self.to;
            let value = if told { self.value_of(entry.kind, entry.seqno, || source.value()) } else { Ok(None) };
            (!again).then(|| KeyVersion { seqno: entry.seqno, time: entry.time.unwrap_or(0), value })
        };
        self.past.advance().inspect_err(|_| self.unread = true)?;
        Ok(told)
    }
}
