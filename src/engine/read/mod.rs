//! Point reads: memtables, then segments, newest first, down to the first version at or below the seqno; past operands,
//! down to their base.
//!
//! ```text
//!   the present      memtables ▸ main tree
//!   as of a moment   history tier: the interval that holds it? ▸ memtables ▸ main tree
//! ```
//!
//! `merge/lookup.rs` ([`meaning`](crate::merge::meaning)) alone decides what an entry means to a reader, for every
//! verb; this module only finds the entries.

mod chunks;
mod equal;
pub(super) mod explain;
mod history;
mod large;
mod references;
mod scan;
mod value;
mod view;

use std::sync::Arc;

pub use chunks::ChunkFacts;
pub(crate) use chunks::{ChunkSearch, ChunkWalk, answer, chunk, facts, header};
pub(crate) use equal::equal;
pub(crate) use explain::explain;
pub(crate) use history::{KeyVersion, RangeWalk, VersionWalk, history, history_range, newest_version};
pub(crate) use large::{LargeValue, Leaves, VALUE_LEN_MAX, assemble, decode};
pub(crate) use references::{Records, References};
pub(crate) use scan::Scan;
pub(crate) use value::{Extent, ValueReader, extent, read_at, recipe, stat};
pub use value::{Recipe, Stat};
pub(crate) use view::ViewCore;

pub(crate) use crate::engine::timeline::CommitWalk;
use crate::{
    base::{Bytes, Error, KeyspaceId, Kind, Micros, Result, Seqno},
    engine::{
        Engine, KeyspaceRef,
        catalogue::dropped,
        counters::{Counters, READS},
        files::{
            chunks::ChunkSet,
            superversion::SuperVersion,
            tree::{SegmentHandle, Tree},
        },
        timeline::Timeline,
    },
    manifest::KeyspaceVersion,
    memtable::Memtable,
    merge::{Answer, Cutoffs, Lookup, ReadAt, Stored},
    phash::Seeded,
    segment::{HistoryAnswer, HistoryVersion, PointKey, Probe, Segment},
};

/// A place that a look-up visited: a memtable and whether it holds anything for the key, or a segment.
pub(super) enum Place<'a> {
    Memtable(&'a Memtable, bool),
    Segment(&'a SegmentHandle, Probe),
}

/// Returns the newest visible value of a key.
///
/// Takes the superversion before the seqno: anything dropped from it was superseded at or below that seqno, so the
/// present is always complete (E4).
pub(crate) fn get(engine: &Engine, keyspace: &KeyspaceRef, key: &[u8]) -> Result<Option<Bytes>> {
    let (current, read_at) = present(engine, keyspace)?;
    let mut tally = Tally::default();
    let found = get_now(&current, keyspace, &mut PointKey::new(key), read_at, &mut tally);
    tally.add_to(&engine.counters, 1);
    found
}

/// Returns whether a key has a value; reads no chunk (L14).
pub(crate) fn contains(engine: &Engine, keyspace: &KeyspaceRef, key: &[u8]) -> Result<bool> {
    let (current, read_at) = present(engine, keyspace)?;
    let mut tally = Tally::default();
    let mut lookup = Lookup::new(read_at);
    let count = |place: Place<'_>| tally.count(&place);
    let found = look_up(&current, keyspace.id, &mut PointKey::new(key), &mut lookup, |_| true, count);
    tally.add_to(&engine.counters, 1);
    Ok(finish(lookup, found, keyspace, key)?.is_some())
}

/// Returns a key's present value as it is stored, with the chunks of the files that it was read from.
pub(crate) fn get_stored(
    engine: &Engine,
    keyspace: &KeyspaceRef,
    key: &[u8],
) -> Result<Option<(Stored, Arc<ChunkSet>)>> {
    let (current, read_at) = present(engine, keyspace)?;
    let mut tally = Tally::default();
    let mut lookup = Lookup::new(read_at);
    let count = |place: Place<'_>| tally.count(&place);
    let found = look_up(&current, keyspace.id, &mut PointKey::new(key), &mut lookup, |_| true, count);
    tally.add_to(&engine.counters, 1);
    Ok(finish(lookup, found, keyspace, key)?.map(|stored| (stored, Arc::clone(&current.chunks))))
}

/// Returns the value that a look-up found, as it is stored.
fn finish(lookup: Lookup, found: Result<Option<Answer>>, keyspace: &KeyspaceRef, key: &[u8]) -> Result<Option<Stored>> {
    let value = found.and_then(|answer| lookup.finish(answer, &keyspace.strategy, key));
    value.map_err(|error| keyspace.named(error))
}

/// Returns the bytes of the value that a look-up found.
#[inline]
fn value_of(
    current: &SuperVersion,
    lookup: Lookup,
    found: Result<Option<Answer>>,
    keyspace: &KeyspaceRef,
    key: &[u8],
) -> Result<Option<Bytes>> {
    match found {
        // The usual answer needs nothing more, and is moved once.
        Ok(Some(Answer::Value(value))) if lookup.operands() == 0 => Ok(Some(value)),
        found => match finish(lookup, found, keyspace, key)? {
            Some(stored) => assemble(&current.chunks, keyspace, key, stored).map(Some),
            None => Ok(None),
        },
    }
}

/// Reads several keys at one moment; see [`get`].
pub(crate) fn multi_get<K: AsRef<[u8]>>(
    engine: &Engine,
    keyspace: &KeyspaceRef,
    keys: impl IntoIterator<Item = K>,
) -> Result<Vec<Option<Bytes>>> {
    let (current, read_at) = present(engine, keyspace)?;
    get_together(&current, keyspace, keys, &engine.counters, |key, tally| {
        get_now(&current, keyspace, key, read_at.clone(), tally)
    })
}

/// Returns the superversion to read and what to ask of it, for a read of the present.
#[inline]
fn present(engine: &Engine, keyspace: &KeyspaceRef) -> Result<(Arc<SuperVersion>, ReadAt)> {
    engine.check_open()?;
    let current = engine.files.current();
    if current.trees.get(&keyspace.id).is_none_or(|tree| tree.dropped) {
        return Err(dropped(keyspace));
    }
    let seqno = engine.visible();
    let cutoffs = match current.version.keyspaces.get(&keyspace.id) {
        Some(keyspace) if !keyspace.options.ttls.is_empty() => cutoffs(keyspace, engine.now(), Micros::ZERO),
        _ => None,
    };
    Ok((current, ReadAt::present(seqno, cutoffs)))
}

/// Returns the oldest seqno from which on no read of a keyspace is refused. Expired values that were dropped are
/// missing at moments before their expiry: then this is the first commit since the latest expiry, or the next one to
/// come.
pub(crate) fn horizon(engine: &Engine, id: KeyspaceId) -> Seqno {
    if engine.is_forked() {
        return Seqno(0);
    }
    let current = engine.files.current();
    let Some(keyspace) = current.version.keyspaces.get(&id) else { return Seqno(0) };
    let mut horizon = keyspace.horizon.max(keyspace.vanished);
    if !keyspace.options.ttls.is_empty() {
        // Commit times before that are samples: what had expired is not known to the microsecond.
        horizon = horizon.max(Timeline::new(&current).exact_from());
    }
    let Some(before) = keyspace.expired_upto.checked_sub(Micros(1)) else { return horizon };
    let since = || {
        let behind = Timeline::new(&current).at_time(before)?.map_or(Seqno(0), |stamp| stamp.seqno.next());
        Timeline::new(&current).from(behind)?.next()
    };
    // If the timeline cannot be read, the next commit is late enough.
    let next = since().ok().flatten().map_or_else(|| engine.visible().next(), |stamp| stamp.seqno);
    horizon.max(next)
}

/// Walks the commits from a seqno on; `None` starts where the timeline becomes exact.
pub(crate) fn commits(engine: &Engine, from: Option<Seqno>) -> Result<CommitWalk> {
    engine.check_open()?;
    let timeline = Timeline::new(&engine.files.current());
    let exact = timeline.exact_from();
    match from {
        Some(from) if from < exact => Err(Error::HistoryTrimmed { oldest: exact }),
        from => timeline.from(from.unwrap_or(exact)),
    }
}

/// Returns what has expired in a keyspace at a time; `None` if nothing in it expires.
pub(super) fn cutoffs(keyspace: &KeyspaceVersion, time: Micros, slack: Micros) -> Option<Arc<Cutoffs>> {
    let ttls = &keyspace.options.ttls;
    if ttls.is_empty() {
        return None;
    }
    Some(Arc::new(Cutoffs { ttls: Arc::clone(ttls), time, slack }))
}

/// Keys of one call that are looked up side by side.
const TOGETHER: usize = 32;

/// Looks several keys up as of a moment; see [`get_as_of`].
pub(super) fn multi_get_as_of<K: AsRef<[u8]>>(
    current: &SuperVersion,
    keyspace: &KeyspaceRef,
    keys: impl IntoIterator<Item = K>,
    read_at: &ReadAt,
    counters: &Counters,
) -> Result<Vec<Option<Bytes>>> {
    get_together(current, keyspace, keys, counters, |key, tally| {
        get_counted(current, keyspace, key, read_at.clone(), tally)
    })
}

/// Looks several keys up in a superversion.
///
/// A look-up stalls on memory three or four times, each time on an address that the load before produced. Look-ups of
/// different keys are independent, so the pilots, slots and entries of several keys are prefetched step by step before
/// each key is looked up.
fn get_together<K: AsRef<[u8]>>(
    current: &SuperVersion,
    keyspace: &KeyspaceRef,
    keys: impl IntoIterator<Item = K>,
    counters: &Counters,
    get: impl Fn(&mut PointKey<'_>, &mut Tally) -> Result<Option<Bytes>>,
) -> Result<Vec<Option<Bytes>>> {
    let mut tally = Tally::default();
    let mut keys = keys.into_iter();
    let mut values = Vec::with_capacity(keys.size_hint().0.min(1 << 10));
    let mut together: Vec<K> = Vec::with_capacity(TOGETHER);
    let mut slots: Vec<(&Segment, Seeded)> = Vec::new();
    let mut entries: Vec<(&Segment, usize)> = Vec::new();
    loop {
        together.clear();
        together.extend(keys.by_ref().take(TOGETHER));
        if together.is_empty() {
            break;
        }
        let mut point_keys: Vec<PointKey<'_>> = together.iter().map(|key| PointKey::new(key.as_ref())).collect();
        // Short steps, so that the processor overlaps the misses of many keys.
        if let Some(tree) = current.trees.get(&keyspace.id) {
            for point_key in &mut point_keys {
                for handle in tree.holding(point_key.key()) {
                    let seen = handle.open_segment().and_then(|open| Some((open, open.seeded(point_key)?)));
                    slots.extend(seen);
                }
            }
            slots.retain(|(open, hash)| open.fetch_pilot(*hash));
            entries.extend(slots.drain(..).filter_map(|(open, hash)| Some((open, open.fetch_slot(hash)?))));
            entries.drain(..).for_each(|(open, at)| open.fetch_entry(at));
        }
        for point_key in &mut point_keys {
            values.push(get(point_key, &mut tally)?);
        }
    }
    tally.add_to(counters, values.len());
    Ok(values)
}

/// Reads a key in a superversion, as of a moment.
pub(super) fn get_as_of(
    current: &SuperVersion,
    keyspace: &KeyspaceRef,
    key: &[u8],
    read_at: ReadAt,
    counters: &Counters,
) -> Result<Option<Bytes>> {
    let mut tally = Tally::default();
    let found = get_counted(current, keyspace, &mut PointKey::new(key), read_at, &mut tally);
    tally.add_to(counters, 1);
    found
}

/// Reads a key as of a moment, as its value is stored: reads no chunk.
pub(super) fn get_stored_as_of(
    current: &SuperVersion,
    keyspace: &KeyspaceRef,
    key: &[u8],
    read_at: ReadAt,
    counters: &Counters,
) -> Result<Option<Stored>> {
    let mut tally = Tally::default();
    let mut lookup = Lookup::new(read_at);
    let found = look_up_as_of(current, keyspace.id, &mut PointKey::new(key), &mut lookup, &mut tally);
    tally.add_to(counters, 1);
    finish(lookup, found, keyspace, key)
}

/// Returns the kind and value of a single entry that holds the state of a key at a moment, including a sum that cannot
/// be returned to readers. `None` if the key is absent, or if its operands cannot be stored as one entry.
pub(super) fn state_as_of(
    current: &SuperVersion,
    keyspace: &KeyspaceRef,
    key: &[u8],
    read_at: ReadAt,
) -> Result<Option<(Kind, Bytes)>> {
    let mut lookup = Lookup::new(read_at);
    let found = look_up_as_of(current, keyspace.id, &mut PointKey::new(key), &mut lookup, &mut Tally::default());
    let answer = found.map_err(|error| keyspace.named(error))?;
    if lookup.operands() > 0 {
        return Ok(lookup.state(answer.as_ref(), &keyspace.strategy, key));
    }
    Ok(answer.and_then(Answer::into_entry))
}

/// Reads a key in the present: nothing that it could see has been moved or dropped.
#[inline]
fn get_now(
    current: &SuperVersion,
    keyspace: &KeyspaceRef,
    key: &mut PointKey<'_>,
    read_at: ReadAt,
    tally: &mut Tally,
) -> Result<Option<Bytes>> {
    let name = key.key();
    let mut lookup = Lookup::new(read_at);
    let found = look_up(current, keyspace.id, key, &mut lookup, |_| true, |place| tally.count(&place));
    value_of(current, lookup, found, keyspace, name)
}

#[inline]
fn get_counted(
    current: &SuperVersion,
    keyspace: &KeyspaceRef,
    key: &mut PointKey<'_>,
    read_at: ReadAt,
    tally: &mut Tally,
) -> Result<Option<Bytes>> {
    let name = key.key();
    let mut lookup = Lookup::new(read_at);
    let found = look_up_as_of(current, keyspace.id, key, &mut lookup, tally);
    value_of(current, lookup, found, keyspace, name)
}

/// Looks a key up as of a moment: in the history tier first, since an interval that holds the moment is the truth, then
/// in memtables and the main tree.
#[inline]
fn look_up_as_of(
    current: &SuperVersion,
    keyspace: KeyspaceId,
    key: &mut PointKey<'_>,
    lookup: &mut Lookup,
    tally: &mut Tally,
) -> Result<Option<Answer>> {
    match current.trees.get(&keyspace) {
        Some(tree) if !tree.history.is_empty() => look_up_in_both(current, keyspace, tree, key, lookup, tally),
        _ => {
            let seqno = lookup.seqno();
            look_up(current, keyspace, key, lookup, |handle| handle.matters_at(seqno), |place| tally.count(&place))
        }
    }
}

/// Looks a key up in the history tier and in the main tree.
///
/// A purge in the main tree may hide a version of the history tier. Then the main tree comes first, and the history
/// tier is asked if that has no value: the newer entry wins.
fn look_up_in_both(
    current: &SuperVersion,
    keyspace: KeyspaceId,
    tree: &Tree,
    key: &mut PointKey<'_>,
    lookup: &mut Lookup,
    tally: &mut Tally,
) -> Result<Option<Answer>> {
    let seqno = lookup.seqno();
    let main_first = tree.purges || current.memtables(Seqno::MAX).any(|memtable| memtable.has_purges());
    let tree = Some(tree).filter(|tree| seqno < tree.history_end);
    let mut history = HistoryAnswer::Nothing;
    if main_first {
        // Stopping at the first trace of a moved version would miss a purge further down.
        lookup.has_asked_history();
    } else if let Some(tree) = tree {
        history = get_history(tree, key, seqno, tally)?;
        if let HistoryAnswer::Holds(version) = &history {
            return answer_of(version, lookup);
        }
    }
    let met = |place: Place<'_>| tally.count(&place);
    let found = look_up(current, keyspace, key, lookup, |handle| handle.matters_at(seqno), met);
    if lookup.operands() > 0 {
        return found;
    }
    let nothing = matches!(found, Ok(None | Some(Answer::Moved)) | Err(Error::HistoryTrimmed { .. }));
    let deleted = matches!(found, Ok(Some(Answer::Deleted)));
    if let Some(tree) = tree.filter(|_| main_first && (nothing || deleted)) {
        history = get_history(tree, key, seqno, tally)?;
    }
    match &history {
        HistoryAnswer::Holds(version) if nothing => answer_of(version, lookup),
        // A version written after a purge may have been moved while the purge stayed.
        HistoryAnswer::Holds(version) if deleted && version.seqno >= lookup.last() => answer_of(version, lookup),
        HistoryAnswer::Gone(above) if nothing => Err(lookup.refused(*above)),
        _ => found,
    }
}

/// Returns the answer of a history-tier version whose interval holds the moment.
fn answer_of(version: &HistoryVersion, lookup: &Lookup) -> Result<Option<Answer>> {
    let HistoryVersion { seqno, time, kind, value } = version;
    lookup.answer_of(*kind, *seqno, *time, || value.clone())
}

/// Looks a key up in the history tier.
fn get_history(tree: &Tree, key: &mut PointKey<'_>, seqno: Seqno, tally: &mut Tally) -> Result<HistoryAnswer> {
    let mut found = HistoryAnswer::Nothing;
    let only = tree.history.iter().filter(|run| run.concerns(seqno)).nth(1).is_none();
    for run in tree.history.iter().filter(|run| run.concerns(seqno)) {
        let Some(handle) = run.holding(key.key()) else { continue };
        let mut probe = Probe::default();
        let read = handle.segment()?.get_history(key, seqno, only, &mut probe);
        tally.count(&Place::Segment(handle, probe));
        match read? {
            HistoryAnswer::Holds(version) => return Ok(HistoryAnswer::Holds(version)),
            HistoryAnswer::Gone(above) => found = HistoryAnswer::Gone(above),
            HistoryAnswer::Nothing => {}
        }
    }
    Ok(found)
}

/// Shows a look-up the entries of a key, newest first, until it is answered; calls `met` with each place visited.
#[inline]
pub(super) fn look_up(
    current: &SuperVersion,
    keyspace: KeyspaceId,
    point_key: &mut PointKey<'_>,
    lookup: &mut Lookup,
    matters: impl Fn(&SegmentHandle) -> bool,
    mut met: impl FnMut(Place<'_>),
) -> Result<Option<Answer>> {
    let key = point_key.key();
    for memtable in current.memtables(lookup.seqno()) {
        let operands = lookup.operands();
        let answer = memtable.get(keyspace, key, lookup)?;
        met(Place::Memtable(memtable, answer.is_some() || lookup.operands() > operands));
        if answer.is_some() {
            return Ok(answer);
        }
    }
    let Some(tree) = current.trees.get(&keyspace) else { return Ok(None) };
    for handle in tree.holding(key).filter(|handle| matters(handle)) {
        let mut probe = Probe::default();
        let answer = handle.segment()?.get(point_key, lookup, &mut probe);
        met(Place::Segment(handle, probe));
        if let Some(answer) = answer? {
            return Ok(Some(answer));
        }
    }
    Ok(None)
}

/// Counts of look-ups, in the order of [`READS`].
#[derive(Debug, Default)]
struct Tally([u64; READS]);

impl Tally {
    #[inline]
    fn count(&mut self, place: &Place<'_>) {
        let Place::Segment(_, probe) = place else { return };
        let met = [
            0,
            u64::from(probe.filter == Some(false)),
            u64::from(probe.filter == Some(true) && !probe.key_found),
            u64::from(probe.slot.is_some()),
            u64::from(probe.slot.is_some() && probe.entry_at.is_none()),
            u64::from(probe.entry_at.is_some() && !probe.key_found),
            u64::from(probe.blocks),
        ];
        self.0.iter_mut().zip(met).for_each(|(sum, met)| *sum += met);
    }

    #[inline]
    fn add_to(mut self, counters: &Counters, reads: usize) {
        let [count, ..] = &mut self.0;
        *count = reads as u64;
        counters.reads.add(&self.0);
    }
}
