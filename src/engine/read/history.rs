//! History of a key, and of the keys of a span: versions, newest first.
//!
//! Sources are read lazily: however many versions there are, one from each source is in memory. A walk that starts in
//! the middle skips newer versions: of those it reads only the one just above in each source, which records whether
//! anything in between was dropped.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use super::{ViewCore, get_as_of, large::assemble, scan::AnySource};
use crate::{
    base::{Bytes, KeySpan, KeyspaceId, Kind, Micros, Result, Seqno},
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
    merge::{Direction, EntryRef, Kway, Meaning, ReadAt, Source, Tombstone, Tombstones, Until, meaning},
};

/// A version of a key.
#[derive(Debug)]
pub(crate) struct KeyVersion {
    pub(crate) seqno: Seqno,
    /// Commit time, in microseconds.
    pub(crate) time: Micros,
    /// `None` for a delete; an error for a value that cannot be returned, such as a sum that no `i64` holds.
    pub(crate) value: Result<Option<Bytes>>,
}

/// A version in a memtable or in the main tree.
#[derive(Clone, Debug)]
struct LiveVersion {
    seqno: Seqno,
    ordinal: u32,
    kind: Kind,
    gap_start: Option<Seqno>,
    moved: bool,
    time: Option<Micros>,
    value: Bytes,
}

impl LiveVersion {
    fn of(entry: &EntryRef<'_>, value: Bytes) -> Self {
        let EntryRef { seqno, ordinal, kind, gap_start, moved, time, .. } = *entry;
        Self { seqno, ordinal, kind, gap_start, moved, time, value }
    }

    fn of_tombstone(tombstone: &Tombstone) -> Self {
        let Tombstone { seqno, ordinal, gap_start, time, .. } = *tombstone;
        let time = (time > Micros::ZERO).then_some(time);
        Self { seqno, ordinal, kind: tombstone.kind(), gap_start, moved: false, time, value: Bytes::default() }
    }
}

/// Versions of a key in memtables and the main tree, newest first.
#[derive(Debug)]
struct LiveWalk {
    merge: Kway<AnySource>,
    /// Range tombstones that cover the key, oldest first.
    tombstones: Vec<LiveVersion>,
    next: Option<LiveVersion>,
}

impl LiveWalk {
    /// Returns the version it stands at.
    fn next(&mut self, key: &[u8]) -> Result<Option<&LiveVersion>> {
        if self.next.is_none() {
            self.next = self.pull(key)?;
            while let Some(newer) = &mut self.next
                && let Some((seqno, kind)) = Self::peek(&self.merge, &self.tombstones, key)
                && seqno == newer.seqno
                && !kind.purges()
            {
                // The last operation of a commit counts.
                let Some(older) = Self::take(&mut self.merge, &mut self.tombstones, key)? else { break };
                if let Some(gap) = older.gap_start {
                    newer.gap_start = Some(newer.gap_start.map_or(gap, |newer| newer.min(gap)));
                    newer.moved |= older.moved;
                }
            }
        }
        Ok(self.next.as_ref())
    }

    fn pull(&mut self, key: &[u8]) -> Result<Option<LiveVersion>> {
        Self::take(&mut self.merge, &mut self.tombstones, key)
    }

    /// Returns whether a range tombstone comes before the merge's entry. Segments do not keep the order within a
    /// commit: there the point entry comes first.
    fn tombstone_first(merge: &Kway<AnySource>, tombstones: &[LiveVersion], key: &[u8]) -> bool {
        let entry = merge.top().and_then(Source::entry).filter(|entry| entry.key == key);
        let Some(tombstone) = tombstones.last() else { return false };
        entry.is_none_or(|entry| (tombstone.seqno, tombstone.ordinal) > (entry.seqno, entry.ordinal))
    }

    fn peek(merge: &Kway<AnySource>, tombstones: &[LiveVersion], key: &[u8]) -> Option<(Seqno, Kind)> {
        if Self::tombstone_first(merge, tombstones, key) {
            return tombstones.last().map(|tombstone| (tombstone.seqno, tombstone.kind));
        }
        let entry = merge.top().and_then(Source::entry).filter(|entry| entry.key == key);
        entry.map(|entry| (entry.seqno, entry.kind))
    }

    fn take(merge: &mut Kway<AnySource>, tombstones: &mut Vec<LiveVersion>, key: &[u8]) -> Result<Option<LiveVersion>> {
        if Self::tombstone_first(merge, tombstones, key) {
            return Ok(tombstones.pop());
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
#[expect(clippy::struct_excessive_bools, reason = "independent of each other")]
pub(crate) struct VersionWalk {
    view: Arc<ViewCore>,
    /// Files it started with. It stays with them, also to fold an operand: a read at a seqno that is not registered.
    files: Arc<SuperVersion>,
    _iterating: Arc<()>,
    keyspace: KeyspaceRef,
    key: Vec<u8>,
    read_at: ReadAt,
    /// Seqnos returned: `from..to`.
    from: Seqno,
    to: Seqno,
    live: LiveWalk,
    history: Kway<VersionRunCursor>,
    timeline: Timeline,
    complete: bool,
    /// Seqno of the version before: the next older one must end there, unless something in between was dropped.
    begins: Option<Seqno>,
    /// Seqno that moved versions must reach down to, as the entry above them records.
    moved_from: Option<Seqno>,
    /// Lowest gap of the main-tree entries so far.
    floor: Seqno,
    /// Whether values are read at all.
    reads_values: bool,
    /// Whether a source failed to read on.
    unread: bool,
    ended: bool,
}

/// Walks the versions of a key that this view can see and whose seqno is in `seqnos`; `None` if the keyspace did not
/// exist yet.
pub(crate) fn history(
    view: &Arc<ViewCore>,
    keyspace: &KeyspaceRef,
    key: &[u8],
    seqnos: Range<Seqno>,
) -> Result<Option<VersionWalk>> {
    let Some(read_at) = view.read_at(keyspace)? else { return Ok(None) };
    history_in(view, &view.files().of_keyspace(keyspace.id), read_at, keyspace, key, seqnos).map(Some)
}

/// Returns seqno and time of the newest version of a key that this view can see in files of it; reads no value.
pub(crate) fn newest_version(
    view: &Arc<ViewCore>,
    files: &Arc<SuperVersion>,
    keyspace: &KeyspaceRef,
    key: &[u8],
) -> Result<Option<(Seqno, Micros)>> {
    let Some(read_at) = view.read_at(keyspace)? else { return Ok(None) };
    let mut walk = history_in(view, files, read_at, keyspace, key, Seqno(0)..Seqno::MAX)?;
    walk.reads_values = false;
    Ok(walk.next()?.map(|version| (version.seqno, version.time)))
}

/// Walks the versions of a key in the files given.
fn history_in(
    view: &Arc<ViewCore>,
    current: &Arc<SuperVersion>,
    read_at: ReadAt,
    keyspace: &KeyspaceRef,
    key: &[u8],
    seqnos: Range<Seqno>,
) -> Result<VersionWalk> {
    let Range { start: from, end: to } = seqnos;
    let to = to.min(read_at.seqno.next());
    let mut sources = Vec::new();
    // One range tombstone may be in several segments.
    let mut covering: BTreeMap<(Seqno, u32, bool), Tombstone> = BTreeMap::new();
    let mut add = |set: &Tombstones| {
        let place = |tombstone: &Tombstone| (tombstone.seqno, tombstone.ordinal, !tombstone.purge);
        covering.extend(set.covering(key).map(|tombstone| (place(tombstone), *tombstone)));
    };
    for memtable in current.memtables(Seqno::MAX) {
        memtable.tombstones(keyspace.id).iter().for_each(|set| add(set));
        sources.push(AnySource::Mem(MemCursor::new(memtable, keyspace.id, Direction::Forward)));
    }
    let tree = current.trees.get(&keyspace.id);
    for handle in tree.into_iter().flat_map(|tree| tree.holding(key)) {
        add(handle.segment()?.ranges());
        sources.push(AnySource::Run(RunCursor::new(vec![Arc::clone(handle)], Direction::Forward, ())));
    }
    let runs = tree.into_iter().flat_map(|tree| &tree.history);
    let handles = runs
        .filter_map(|run| run.holding(key))
        .map(|handle| VersionRunCursor::new(vec![Arc::clone(handle)], Direction::Forward, ()));
    let mut history = Kway::new(handles.collect(), Direction::Forward);
    let mut merge = Kway::new(sources, Direction::Forward);
    history.seek(Some(key))?;
    merge.seek(Some(key))?;
    // Newer versions are not returned; the oldest of them in each source records what was dropped beneath it.
    history.skip_newer(key, to.prev(), read_at.purge_horizon)?;
    merge.skip_newer(key, to.prev(), read_at.purge_horizon)?;
    let live = LiveWalk { merge, tombstones: covering.values().map(LiveVersion::of_tombstone).collect(), next: None };
    Ok(VersionWalk {
        complete: nothing_vanished(&current.version, keyspace.id),
        view: Arc::clone(view),
        files: Arc::clone(current),
        _iterating: view.iterating(),
        keyspace: keyspace.clone(),
        key: key.to_vec(),
        to,
        from,
        read_at,
        live,
        history,
        timeline: Timeline::new(current),
        begins: None,
        moved_from: None,
        floor: Seqno::MAX,
        reads_values: true,
        unread: false,
        ended: false,
    })
}

/// Walks the versions of the keys of a span that this view can see and whose seqno is in `seqnos`; `None` if the
/// keyspace did not exist yet.
pub(crate) fn history_range(
    view: &Arc<ViewCore>,
    keyspace: &KeyspaceRef,
    span: KeySpan,
    seqnos: Range<Seqno>,
) -> Result<Option<RangeWalk>> {
    let Some(read_at) = view.read_at(keyspace)? else { return Ok(None) };
    let current = view.files().of_keyspace(keyspace.id);
    let mut sources: Vec<AnySource> = Vec::new();
    for memtable in current.memtables(Seqno::MAX) {
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
        for run in &tree.history {
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
        read_at,
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

/// Versions of a key stepped over one by one on the way to the next key; after that many the walk seeks.
const PASSED_MAX: usize = 16;

/// A walk over the versions of each key of a span that has any left.
pub(crate) struct RangeWalk {
    view: Arc<ViewCore>,
    /// Marks the walk as under way: it stays with the files it started with.
    _iterating: Arc<()>,
    keyspace: KeyspaceRef,
    read_at: ReadAt,
    seqnos: Range<Seqno>,
    current: Arc<SuperVersion>,
    /// Every entry left of any key, for the keys alone.
    keys: Kway<AnySource>,
    span: KeySpan,
    key: Vec<u8>,
    /// Versions of `key`.
    walk: Option<VersionWalk>,
    complete: bool,
    ended: bool,
}

impl RangeWalk {
    /// Returns whether no version is known to be missing among those of the keys returned so far.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete && self.walk.as_ref().is_none_or(VersionWalk::is_complete)
    }

    /// Returns the next older version of the key, or the newest of the next key.
    pub(crate) fn next(&mut self) -> Result<Option<(Bytes, KeyVersion)>> {
        while !self.ended {
            if let Some(walk) = &mut self.walk {
                // An error about one version does not end the walk.
                if let Some(version) = walk.next()? {
                    return Ok(Some((Bytes::copy_from(&self.key), version)));
                }
                self.complete &= walk.is_complete();
                self.walk = None;
            }
            // An error on the way to the next key ends the walk, and so does a panic.
            self.ended = true;
            self.ended = !self.next_key()?;
        }
        Ok(None)
    }

    /// Moves to the next key that has anything left; returns `false` if there is none.
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
        let read_at = self.read_at.clone();
        self.walk =
            Some(history_in(&self.view, &self.current, read_at, &self.keyspace, &self.key, self.seqnos.clone())?);
        Ok(true)
    }
}

/// Returns whether everything dropped from a keyspace has left a gap.
fn nothing_vanished(version: &Version, id: KeyspaceId) -> bool {
    version
        .keyspaces
        .get(&id)
        .is_none_or(|keyspace| keyspace.vanished == Seqno(0) && keyspace.expired_upto == Micros::ZERO)
}

impl VersionWalk {
    /// Returns whether no version is known to be missing among those returned so far and, at the end, before them.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Returns the next older version.
    pub(crate) fn next(&mut self) -> Result<Option<KeyVersion>> {
        if self.ended {
            return Ok(None);
        }
        self.view.engine().check_open().inspect_err(|_| self.ended = true)?;
        let next = self.try_next();
        if self.unread {
            // What follows cannot be read.
            self.complete = false;
            self.ended = true;
        }
        next
    }

    fn try_next(&mut self) -> Result<Option<KeyVersion>> {
        while !self.ended {
            let history = self.history.top().and_then(Source::entry).filter(|entry| entry.key == self.key);
            let history_seqno = history.map(|entry| entry.seqno);
            let live = self.live.next(&self.key).inspect_err(|_| self.unread = true)?;
            let version = match (live, history_seqno) {
                // The history tier holds this commit's version of the key; the range tombstone is for other keys.
                (Some(live), Some(history)) if live.kind == Kind::RangeDelete && history == live.seqno => {
                    self.live.next = None;
                    None
                }
                (Some(live), Some(history)) if live.kind.purges() && history == live.seqno => self.next_history()?,
                (Some(live), history) if history.is_none_or(|seqno| seqno <= live.seqno) => self.next_live(),
                (_, Some(_)) => self.next_history()?,
                (_, None) => {
                    self.end();
                    None
                }
            };
            let Some(version) = version else { continue };
            if version.seqno < self.from {
                self.end();
                break;
            }
            if version.seqno < self.to {
                return Ok(Some(version));
            }
        }
        Ok(None)
    }

    /// Returns whether a seqno is in the range of this walk, or older: drops above it do not concern this walk.
    fn concerns(&self, seqno: Seqno) -> bool {
        seqno < self.to
    }

    /// Ends the walk, and checks whether anything beneath the last version was dropped.
    fn end(&mut self) {
        let last = self.begins;
        self.complete &= self.moved_from.is_none_or(|from| last == Some(from) || !self.concerns(from));
        self.ended = true;
    }

    fn next_live(&mut self) -> Option<KeyVersion> {
        let live = self.live.next.take()?;
        if live.kind.purges() && live.seqno <= self.read_at.purge_horizon {
            // Nothing older is returned any more, nor counts as missing.
            self.moved_from = self.moved_from.filter(|from| *from >= live.seqno);
            self.end();
            return None;
        }
        // An entry inside a gap is not the whole of its commit: a range tombstone, or an operand that could not be
        // folded.
        let is_whole = live.seqno < self.floor;
        self.floor = live.gap_start.map_or(self.floor, |gap| gap.min(self.floor));
        if !is_whole {
            self.complete &= !self.concerns(live.gap_start.unwrap_or(live.seqno));
            return None;
        }
        // Versions moved from beneath the entry above have been returned by now, or were dropped.
        let before = self.begins;
        let from = self.moved_from.take().filter(|from| self.concerns(*from));
        self.complete &= from.is_none_or(|from| before == Some(from));
        self.begins = Some(live.seqno);
        match live.gap_start.filter(|gap| self.concerns(*gap)) {
            Some(gap) if live.moved => self.moved_from = Some(gap),
            Some(_) => self.complete = false,
            None => {}
        }
        let time = live.time.or_else(|| self.timeline.time_of(live.seqno)).unwrap_or(Micros::ZERO);
        // Values that are not returned need not be folded.
        let inside = live.seqno < self.to && live.seqno >= self.from;
        let value = if inside { self.value_of(live.kind, live.seqno, || live.value.clone()) } else { Ok(None) };
        Some(KeyVersion { seqno: live.seqno, time, value })
    }

    /// Returns the value of a version, expired or not; for an operand, what a read at its seqno folds.
    fn value_of(&self, kind: Kind, seqno: Seqno, value: impl FnOnce() -> Bytes) -> Result<Option<Bytes>> {
        if !self.reads_values {
            return Ok(None);
        }
        let found = meaning(kind, seqno, None, None).unwrap_or(Meaning::Operand);
        if let Some(answer) = found.answer(value) {
            let stored = answer.into_stored(&self.key).map_err(|error| self.keyspace.named(error))?;
            return stored.map(|stored| assemble(&self.files.chunks, &self.keyspace, &self.key, stored)).transpose();
        }
        let read_at = ReadAt { seqno, ..self.read_at.clone() };
        get_as_of(&self.files, &self.keyspace, &self.key, read_at, self.view.counters())
    }

    fn next_history(&mut self) -> Result<Option<KeyVersion>> {
        let version = {
            let Some(source) = self.history.top() else { return Ok(None) };
            let Some(entry) = source.entry() else { return Ok(None) };
            let again = self.begins == Some(entry.seqno);
            if !again {
                let follows = match entry.until {
                    Some(Until::At { seqno, .. }) => self.begins == Some(seqno),
                    _ => self.moved_from.take().is_none_or(|from| self.begins == Some(from)),
                };
                // Not every version above `to` was read.
                self.complete &= follows || entry.seqno >= self.to;
                // Down to the gap, versions were dropped or moved along: what follows must reach as far.
                if let Some(gap) = entry.gap_start {
                    self.moved_from = Some(self.moved_from.map_or(gap, |from| from.min(gap)));
                }
                self.begins = Some(entry.seqno);
            }
            let is_wanted = !again && entry.seqno < self.to;
            let value = if is_wanted { self.value_of(entry.kind, entry.seqno, || source.value()) } else { Ok(None) };
            (!again).then(|| KeyVersion { seqno: entry.seqno, time: entry.time.unwrap_or(Micros::ZERO), value })
        };
        self.history.advance().inspect_err(|_| self.unread = true)?;
        Ok(version)
    }
}
