//! Point reads: memtables newest first, then segments newest first, to the first version at or below the seqno, and on to the base
//! while operands are met.

use std::sync::Arc;

use super::{
    Engine,
    stats::{Counters, READS},
    superversion::{SuperVersion, Table, Tree},
};
use crate::{
    base::{Bytes, Error, KeyspaceId, Kind, Result},
    manifest::KeyspaceVersion,
    memtable::Memtable,
    merge::{Answer, Asked, Cutoffs, Lookup, MergeStrategy, wide_sum},
    phash::Seeded,
    segment::{PastFound, PastVersion, PointKey, Probe, Segment},
};

/// A keyspace as its readers hold it.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    pub(crate) id: KeyspaceId,
    pub(crate) born: u64,
    pub(crate) strategy: MergeStrategy,
    /// The name it was opened with: also when it has been dropped.
    pub(crate) name: Arc<str>,
}

impl Opened {
    /// An error that names a key, with the name of its keyspace.
    #[cold]
    pub(crate) fn named(&self, error: Error) -> Error {
        match error {
            Error::Invalid { what } => Error::invalid(format!("keyspace \"{}\": {what}", self.name)),
            other => other,
        }
    }

    /// An error about a key, met by whoever reads several: it names both, whatever it is.
    #[cold]
    pub(crate) fn of_key(&self, key: &[u8], error: Error) -> Error {
        match error {
            Error::Invalid { .. } => self.named(error),
            other => self.named(Error::invalid(format!("key \"{}\": {}", key.escape_ascii(), other.in_full()))),
        }
    }
}

/// Where a look-up has been.
pub(super) enum Place<'a> {
    Memtable(&'a Memtable, bool),
    Segment(&'a Table, Probe),
}

impl Engine {
    /// The newest visible value.
    ///
    /// The superversion is taken before the seqno: everything dropped from it was superseded at or below that seqno, so the present
    /// is always complete (E4).
    pub(crate) fn get(&self, keyspace: &Opened, key: &[u8]) -> Result<Option<Bytes>> {
        let (current, asked) = self.present(keyspace)?;
        get_in(&current, keyspace, key, &asked, &self.counters)
    }

    /// As [`Engine::get`], of several keys at one moment.
    pub(crate) fn multi_get<K: AsRef<[u8]>>(
        &self,
        keyspace: &Opened,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Bytes>>> {
        let (current, asked) = self.present(keyspace)?;
        multi_get_in(&current, keyspace, keys, &asked, &self.counters)
    }

    /// What a read of the present goes through.
    #[inline]
    fn present(&self, opened: &Opened) -> Result<(Arc<SuperVersion>, Asked)> {
        self.check_open()?;
        let current = self.current();
        if current.trees.get(&opened.id).is_none_or(|tree| tree.dropped) {
            return Err(dropped(opened));
        }
        let seqno = self.visible();
        let cutoffs = match current.version.keyspaces.get(&opened.id) {
            Some(keyspace) if !keyspace.options.ttls.is_empty() => cutoffs(keyspace, self.now_us(), 0),
            _ => None,
        };
        Ok((current, Asked::present(seqno, cutoffs)))
    }
}

/// What has expired in a keyspace at a time; nothing where nothing expires.
pub(super) fn cutoffs(keyspace: &KeyspaceVersion, time: u64, slack: u64) -> Option<Arc<Cutoffs>> {
    let ttls = &keyspace.options.ttls;
    if ttls.is_empty() {
        return None;
    }
    Some(Arc::new(Cutoffs { ttls: Arc::clone(ttls), time, slack }))
}

/// Keys of one call that are looked up together.
const TOGETHER: usize = 32;

/// Looks several keys up in a superversion.
///
/// A look-up waits for memory three or four times, each time for an address that the time before gave. Those of different keys are
/// independent: so the slots of several keys are fetched first, then their entries, and then each key is looked up.
pub(super) fn multi_get_in<K: AsRef<[u8]>>(
    current: &SuperVersion,
    keyspace: &Opened,
    keys: impl IntoIterator<Item = K>,
    asked: &Asked,
    counters: &Counters,
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
        // Short steps, so that the processor has those of many keys under way.
        if let Some(tree) = current.trees.get(&keyspace.id) {
            for point_key in &mut point_keys {
                for table in tree.holding(point_key.key()) {
                    let seen = table.open_segment().and_then(|open| Some((open, open.seeded(point_key)?)));
                    slots.extend(seen);
                }
            }
            slots.retain(|(open, hash)| open.fetch_pilot(*hash));
            entries.extend(slots.drain(..).filter_map(|(open, hash)| Some((open, open.fetch_slot(hash)?))));
            entries.drain(..).for_each(|(open, at)| open.fetch_entry(at));
        }
        for point_key in &mut point_keys {
            values.push(get_counted(current, keyspace, point_key, asked, &mut tally)?);
        }
    }
    tally.add_to(counters, values.len());
    Ok(values)
}

/// Looks a key up in a superversion.
pub(super) fn get_in(
    current: &SuperVersion,
    keyspace: &Opened,
    key: &[u8],
    asked: &Asked,
    counters: &Counters,
) -> Result<Option<Bytes>> {
    let mut tally = Tally::default();
    let found = get_counted(current, keyspace, &mut PointKey::new(key), asked, &mut tally);
    tally.add_to(counters, 1);
    found
}

/// What an entry that stands for everything a key has at a moment would hold: also a sum that no reader can be given. Nothing where the key is
/// absent, or its operands cannot be stored as one entry.
pub(super) fn state_in(
    current: &SuperVersion,
    keyspace: &Opened,
    key: &[u8],
    asked: &Asked,
) -> Result<Option<(Kind, Bytes)>> {
    find(current, keyspace, &mut PointKey::new(key), asked, &mut Tally::default(), |found| match found {
        Final::Past(version) => {
            let has_value = matches!(version.kind, Kind::Put | Kind::WideSum);
            Ok(has_value.then(|| (version.kind, version.value.clone())))
        }
        Final::Main(lookup, answer) if lookup.operands() > 0 => {
            Ok(lookup.state(answer.as_ref(), &keyspace.strategy, key))
        }
        Final::Main(_, Some(Answer::Value(value))) => Ok(Some((Kind::Put, value))),
        Final::Main(_, Some(Answer::Wide(value))) => Ok(Some((Kind::WideSum, value))),
        Final::Main(..) => Ok(None),
    })
}

#[inline]
fn get_counted(
    current: &SuperVersion,
    keyspace: &Opened,
    key: &mut PointKey<'_>,
    asked: &Asked,
    tally: &mut Tally,
) -> Result<Option<Bytes>> {
    let name = key.key();
    find(current, keyspace, key, asked, tally, |found| match found {
        Final::Past(version) => told(version, asked, name),
        Final::Main(lookup, answer) => lookup.finish(answer, &keyspace.strategy, name),
    })
}

/// Where a look-up has ended.
enum Final<'a> {
    Past(&'a PastVersion),
    Main(Lookup, Option<Answer>),
}

#[inline]
fn find<R>(
    current: &SuperVersion,
    keyspace: &Opened,
    key: &mut PointKey<'_>,
    asked: &Asked,
    tally: &mut Tally,
    finish: impl Fn(Final<'_>) -> Result<R>,
) -> Result<R> {
    let finish = |found: Final<'_>| finish(found).map_err(|error| keyspace.named(error));
    let past = current.trees.get(&keyspace.id).filter(|tree| !tree.past.is_empty());
    // An interval that holds the moment is the truth: whoever looks back asks the history tier first, unless a purge may hide it.
    let hidden = past.is_some_and(|tree| tree.purges || current.memtables(u64::MAX).any(|table| table.has_purges()));
    let mut told_past = PastFound::Nothing;
    let mut asked_past = false;
    if let Some(tree) = past.filter(|tree| !hidden && asked.seqno < tree.past_end) {
        told_past = get_past(tree, key, asked, tally)?;
        asked_past = true;
    }
    if let PastFound::Holds(version) = &told_past {
        return finish(Final::Past(version));
    }
    // A purge further down would be missed by whoever follows the first trace of something moved.
    let mut lookup = if hidden { Lookup::with_history(asked.clone()) } else { Lookup::new(asked.clone()) };
    let met = |place: Place<'_>| tally.count(&place);
    let found = look_up(current, keyspace.id, key, &mut lookup, |table| table.matters_at(asked.seqno), met);
    let nothing = matches!(found, Ok(None | Some(Answer::Moved)) | Err(Error::HistoryTrimmed { .. }));
    // What was written behind a purge may have been moved, and the purge has stayed.
    let perhaps = hidden && matches!(found, Ok(Some(Answer::Deleted)));
    let mut gone = None;
    if let Some(tree) = past.filter(|_| (nothing || perhaps) && lookup.operands() == 0) {
        // Nothing of the moment is left in the main tree, or what there is says where it went.
        if !asked_past {
            told_past = get_past(tree, key, asked, tally)?;
        }
        match &told_past {
            PastFound::Holds(version) if nothing || version.seqno >= lookup.last() => {
                return finish(Final::Past(version));
            }
            PastFound::Gone(above) => gone = Some(*above).filter(|_| nothing),
            PastFound::Holds(_) | PastFound::Nothing => {}
        }
    }
    if let Some(above) = gone {
        return Err(asked.refused(above));
    }
    finish(Final::Main(lookup, found?))
}

/// What the history tier knows of a key at a moment.
fn get_past(tree: &Tree, key: &mut PointKey<'_>, asked: &Asked, tally: &mut Tally) -> Result<PastFound> {
    let mut found = PastFound::Nothing;
    let only = tree.past.iter().filter(|run| run.concerns(asked.seqno)).nth(1).is_none();
    for run in tree.past.iter().filter(|run| run.concerns(asked.seqno)) {
        let Some(table) = run.holding(key.key()) else { continue };
        let mut probe = Probe::default();
        let told = table.segment()?.get_past(key, asked.seqno, only, &mut probe);
        tally.count(&Place::Segment(table, probe));
        match told? {
            PastFound::Holds(version) => return Ok(PastFound::Holds(version)),
            PastFound::Gone(above) => found = PastFound::Gone(above),
            PastFound::Nothing => {}
        }
    }
    Ok(found)
}

/// A version of the history tier as readers get it.
fn told(version: &PastVersion, asked: &Asked, key: &[u8]) -> Result<Option<Bytes>> {
    let PastVersion { seqno, time, kind, value, .. } = version;
    let cutoffs = asked.cutoffs.as_ref().filter(|_| *kind == Kind::Put);
    if cutoffs.is_some_and(|cutoffs| cutoffs.unsure(*seqno, *time)) {
        return Err(asked.refused(0));
    }
    let expired = cutoffs.is_some_and(|cutoffs| cutoffs.expired(*seqno, *time));
    match kind {
        Kind::Put if !expired => Ok(Some(value.clone())),
        Kind::WideSum => wide_sum(key, value).map(Some),
        _ => Ok(None),
    }
}

/// Shows a look-up everything of a key, newest first, until it is answered; `met` is told of each place.
#[inline]
pub(super) fn look_up(
    current: &SuperVersion,
    keyspace: KeyspaceId,
    point_key: &mut PointKey<'_>,
    lookup: &mut Lookup,
    matters: impl Fn(&Table) -> bool,
    mut met: impl FnMut(Place<'_>),
) -> Result<Option<Answer>> {
    let key = point_key.key();
    for table in current.memtables(lookup.seqno()) {
        let operands = lookup.operands();
        let answer = table.get(keyspace, key, lookup)?;
        met(Place::Memtable(table, answer.is_some() || lookup.operands() > operands));
        if answer.is_some() {
            return Ok(answer);
        }
    }
    let Some(tree) = current.trees.get(&keyspace) else { return Ok(None) };
    for table in tree.holding(key).filter(|table| matters(table)) {
        let mut probe = Probe::default();
        let answer = table.segment()?.get(point_key, lookup, &mut probe);
        met(Place::Segment(table, probe));
        if let Some(answer) = answer? {
            return Ok(Some(answer));
        }
    }
    Ok(None)
}

/// What look-ups are counted as, in the order of [`READS`].
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

/// That a keyspace is gone.
#[cold]
pub(super) fn dropped(keyspace: &Opened) -> Error {
    let name = &keyspace.name;
    Error::invalid(format!("keyspace \"{name}\" was dropped; `Db::keyspace` makes it anew"))
}
