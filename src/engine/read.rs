//! Point reads: memtables newest first, then segments newest first, to the first version at or below the seqno, and on to the base
//! while operands are met.

use std::sync::Arc;

use super::{
    Engine,
    stats::{Counters, READS},
    superversion::{SuperVersion, Table},
};
use crate::{
    base::{Bytes, Error, KeyspaceId, Result},
    memtable::Memtable,
    merge::{Answer, Asked, Lookup, MergeStrategy},
    phash::Seeded,
    segment::{PointKey, Probe, Segment},
};

/// A keyspace as its readers hold it.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    pub(crate) id: KeyspaceId,
    pub(crate) strategy: MergeStrategy,
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
        let (current, asked) = self.present(keyspace.id)?;
        get_in(&current, keyspace, key, asked, &self.counters)
    }

    /// As [`Engine::get`], of several keys at one moment.
    pub(crate) fn multi_get<K: AsRef<[u8]>>(
        &self,
        keyspace: &Opened,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Bytes>>> {
        let (current, asked) = self.present(keyspace.id)?;
        multi_get_in(&current, keyspace, keys, asked, &self.counters)
    }

    /// What a read of the present goes through.
    #[inline]
    fn present(&self, keyspace: KeyspaceId) -> Result<(Arc<SuperVersion>, Asked)> {
        self.check_open()?;
        let current = self.current();
        if current.trees.get(&keyspace).is_none_or(|tree| tree.dropped) {
            return Err(dropped(&current, keyspace));
        }
        let asked = Asked { seqno: self.visible(), vanished: 0 };
        Ok((current, asked))
    }
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
    asked: Asked,
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
    asked: Asked,
    counters: &Counters,
) -> Result<Option<Bytes>> {
    let mut tally = Tally::default();
    let found = get_counted(current, keyspace, &mut PointKey::new(key), asked, &mut tally);
    tally.add_to(counters, 1);
    found
}

#[inline]
fn get_counted(
    current: &SuperVersion,
    keyspace: &Opened,
    key: &mut PointKey<'_>,
    asked: Asked,
    tally: &mut Tally,
) -> Result<Option<Bytes>> {
    let mut lookup = Lookup::new(asked);
    let met = |place: Place<'_>| tally.count(&place);
    let found = look_up(current, keyspace.id, key, &mut lookup, |table| table.matters_at(asked.seqno), met)
        .and_then(|answer| lookup.finish(answer, &keyspace.strategy, key.key()));
    match found {
        // Which moment is readable instead depends also on what the answer itself does not.
        Err(Error::HistoryTrimmed { .. }) => {
            let mut lookup = Lookup::new(asked);
            let answer = look_up(current, keyspace.id, key, &mut lookup, |_| true, |_| {})?;
            lookup.finish(answer, &keyspace.strategy, key.key())
        }
        found => found,
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

/// That a keyspace is gone, by its name if that is still known.
#[cold]
pub(super) fn dropped(current: &SuperVersion, keyspace: KeyspaceId) -> Error {
    let name = current.version.keyspaces.get(&keyspace).map_or("", |keyspace| &keyspace.name);
    Error::invalid(format!("keyspace \"{name}\" was dropped; `Db::keyspace` makes it anew"))
}
