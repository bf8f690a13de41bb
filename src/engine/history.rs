//! The versions of one key, newest first.
//!
//! What memtables and the main tree have of a key is little, and gathered at once. The history tier is walked as it is asked for: however
//! many versions there are, one is in memory for each run.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::{
    ViewCore,
    read::{Opened, get_in},
    scan::{RunCursor, VersionRunCursor},
    timeline::Timeline,
};
use crate::{
    base::{Bytes, KeyspaceId, Kind, Result},
    manifest::Version,
    memtable::MemCursor,
    merge::{Asked, Direction, EntryRef, Kway, Mark, Source, Tombstones, Until, wide_sum},
};

/// A version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) seqno: u64,
    /// In microseconds.
    pub(crate) time: u64,
    /// Nothing of a delete.
    pub(crate) value: Option<Bytes>,
}

/// A version in a memtable or in the main tree.
#[derive(Clone, Debug)]
struct Live {
    seqno: u64,
    ordinal: u32,
    kind: Kind,
    gap_start: Option<u64>,
    moved: bool,
    time: Option<u64>,
    value: Bytes,
}

impl Live {
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

/// A walk over the versions of a key.
#[derive(Debug)]
pub(crate) struct History {
    view: Arc<ViewCore>,
    /// It goes on in the files that it began with.
    _iterating: Arc<()>,
    opened: Opened,
    key: Vec<u8>,
    asked: Asked,
    /// Seqnos told: from the first to before the second.
    from: u64,
    to: u64,
    live: VecDeque<Live>,
    past: Kway<VersionRunCursor>,
    timeline: Timeline,
    complete: bool,
    /// Where the next older version must end, unless something has gone between; and down to where the newest entry of the main tree says that its
    /// past has been moved.
    begins: Option<u64>,
    moved_from: Option<u64>,
    /// The lowest gap of the entries of the main tree so far.
    floor: u64,
    ended: bool,
}

impl ViewCore {
    /// The versions of a key that this view can see, from those with a seqno in `from..to`; nothing where the keyspace was not yet born.
    pub(crate) fn history(
        self: &Arc<Self>,
        opened: &Opened,
        key: &[u8],
        (from, to): (u64, u64),
    ) -> Result<Option<History>> {
        let Some(asked) = self.asked(opened.id)? else { return Ok(None) };
        let current = self.files();
        let mut live: Vec<Live> = Vec::new();
        // The same one may stand in several segments.
        let mut marks: BTreeMap<(u64, u32, bool), Mark> = BTreeMap::new();
        let mut see_marks = |tombstones: &Tombstones| {
            marks.extend(tombstones.covering(key).map(|mark| ((mark.seqno, mark.ordinal, mark.purge), *mark)));
        };
        for table in current.memtables(u64::MAX) {
            table.tombstones(opened.id).iter().for_each(|set| see_marks(set));
            gather(MemCursor::new(table, opened.id, Direction::Forward), key, &mut live)?;
        }
        let tree = current.trees.get(&opened.id);
        for table in tree.into_iter().flat_map(|tree| tree.holding(key)) {
            see_marks(table.segment()?.ranges());
            gather(RunCursor::new(vec![Arc::clone(table)], Direction::Forward), key, &mut live)?;
        }
        live.extend(marks.values().map(Live::of_mark));
        // The last word of a commit counts; segments keep no order in it: there the point entry comes behind the mark.
        live.sort_by_key(|live| std::cmp::Reverse((live.seqno, live.ordinal, !live.kind.is_range())));
        live.dedup_by(|older, newer| {
            let told = older.seqno == newer.seqno && !older.kind.purges();
            if let Some(gap) = older.gap_start.filter(|_| told) {
                newer.gap_start = Some(newer.gap_start.map_or(gap, |newer| newer.min(gap)));
                newer.moved |= older.moved;
            }
            told
        });

        let runs = tree.into_iter().flat_map(|tree| &tree.past);
        let tables =
            runs.filter_map(|run| run.holding(key)).map(|table| VersionRunCursor::new(vec![Arc::clone(table)]));
        let mut past = Kway::new(tables.collect(), Direction::Forward);
        past.seek(Some(key))?;
        Ok(Some(History {
            complete: nothing_vanished(&current.version, opened.id),
            view: Arc::clone(self),
            _iterating: self.iterating(),
            opened: opened.clone(),
            key: key.to_vec(),
            to: to.min(asked.seqno.saturating_add(1)),
            from,
            asked,
            live: live.into(),
            past,
            timeline: Timeline::new(&current),
            begins: None,
            moved_from: None,
            floor: u64::MAX,
            ended: false,
        }))
    }
}

/// Whether nothing of a keyspace's past has gone without a trace of its own.
fn nothing_vanished(version: &Version, id: KeyspaceId) -> bool {
    version.keyspaces.get(&id).is_none_or(|keyspace| keyspace.vanished == 0 && keyspace.lapsed == 0)
}

/// Adds what a source has of a key.
fn gather<S: Source>(mut source: S, key: &[u8], live: &mut Vec<Live>) -> Result<()> {
    source.seek(Some(key))?;
    while let Some(entry) = source.entry()
        && entry.key == key
    {
        live.push(Live::of(&entry, source.value()));
        source.advance()?;
    }
    Ok(())
}

impl History {
    /// Whether nothing is known to be missing among the versions told so far, and, at the end, before them.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    /// The next older version.
    pub(crate) fn next(&mut self) -> Result<Option<Told>> {
        while !self.ended {
            let past = self.past.top().and_then(Source::entry).filter(|entry| entry.key == self.key);
            let past_seqno = past.map(|entry| entry.seqno);
            let told = match (self.live.front(), past_seqno) {
                // A mark of the same commit says it of the other keys.
                (Some(live), Some(past)) if live.kind == Kind::RangeDelete && past == live.seqno => {
                    self.live.pop_front();
                    None
                }
                (Some(live), Some(past)) if live.kind.purges() && past == live.seqno => self.next_past()?,
                (Some(live), past) if past.is_none_or(|seqno| seqno <= live.seqno) => self.next_live()?,
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

    /// Everything has been told: whether the last one has anything beneath that is gone.
    fn end(&mut self) {
        let last = self.begins;
        self.complete &= self.moved_from.is_none_or(|from| last == Some(from));
        self.ended = true;
    }

    fn next_live(&mut self) -> Result<Option<Told>> {
        let Some(live) = self.live.pop_front() else { return Ok(None) };
        if live.kind.purges() && live.seqno <= self.asked.opened {
            // Nothing older is ever told again, nor missed.
            self.moved_from = self.moved_from.filter(|from| *from >= live.seqno);
            self.end();
            return Ok(None);
        }
        // What stands within a gap is not the whole of its commit: a mark, or an operand that could not be folded.
        let told = live.seqno < self.floor;
        self.floor = live.gap_start.map_or(self.floor, |gap| gap.min(self.floor));
        if !told {
            self.complete = false;
            return Ok(None);
        }
        // What was moved from beneath the entry above has been told by now, or is gone.
        let before = self.begins;
        self.complete &= self.moved_from.take().is_none_or(|from| before == Some(from));
        self.begins = Some(live.seqno);
        match live.gap_start {
            Some(gap) if live.moved => self.moved_from = Some(gap),
            Some(_) => self.complete = false,
            None => {}
        }
        let time = live.time.or_else(|| self.timeline.time_of(live.seqno)).unwrap_or(0);
        let value = match live.kind {
            Kind::Delete | Kind::RangeDelete | Kind::Purge | Kind::RangePurge => None,
            _ if live.seqno < self.to && live.seqno >= self.from => self.value_of(&live)?,
            _ => None,
        };
        Ok(Some(Told { seqno: live.seqno, time, value }))
    }

    /// The value of a version; of an operand what it leads to.
    fn value_of(&self, live: &Live) -> Result<Option<Bytes>> {
        match live.kind {
            Kind::Put => Ok(Some(live.value.clone())),
            Kind::WideSum => wide_sum(&self.key, &live.value).map(Some),
            _ => {
                let asked = Asked { seqno: live.seqno, ..self.asked.clone() };
                get_in(&self.view.files(), &self.opened, &self.key, &asked, self.view.counters())
            }
        }
    }

    fn next_past(&mut self) -> Result<Option<Told>> {
        let told = {
            let Some(source) = self.past.top() else { return Ok(None) };
            let Some(entry) = source.entry() else { return Ok(None) };
            let again = self.begins == Some(entry.seqno);
            if !again {
                self.complete &= match entry.until {
                    Some(Until::At { seqno, .. }) => self.begins == Some(seqno),
                    _ => self.moved_from.take().is_none_or(|from| self.begins == Some(from)),
                };
                // Down to there something was dropped, or moved with it: what is told from here on must reach as far.
                if let Some(gap) = entry.gap_start {
                    self.moved_from = Some(self.moved_from.map_or(gap, |from| from.min(gap)));
                }
                self.begins = Some(entry.seqno);
            }
            let value = match entry.kind {
                Kind::Put => Ok(Some(source.value())),
                Kind::WideSum if entry.seqno < self.to => wide_sum(&self.key, entry.value).map(Some),
                _ => Ok(None),
            };
            (!again).then(|| value.map(|value| Told { seqno: entry.seqno, time: entry.time.unwrap_or(0), value }))
        };
        // Also behind one whose value cannot be told.
        self.past.advance()?;
        told.transpose()
    }
}
