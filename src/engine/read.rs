//! Point reads: memtables newest first, then segments newest first, to the first version at or below the seqno, and on to the base
//! while operands are met.

use std::sync::atomic::Ordering;

use super::{
    Engine,
    stats::Counters,
    superversion::{SuperVersion, Table},
};
use crate::{
    base::{Bytes, Error, KeyspaceId, Result},
    memtable::Memtable,
    merge::{Answer, Asked, Lookup, MergeStrategy},
    segment::{PointKey, Probe},
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
        self.check_open()?;
        self.counters.gets.fetch_add(1, Ordering::Relaxed);
        let current = self.current();
        if current.trees.get(&keyspace.id).is_none_or(|tree| tree.dropped) {
            return Err(dropped(&current, keyspace.id));
        }
        let asked = Asked { seqno: self.visible(), vanished: 0 };
        get_in(&current, keyspace, key, asked, &self.counters)
    }
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
    let mut lookup = Lookup::new(asked);
    let met = |place: Place<'_>| tally.count(&place);
    let found = look_up(current, keyspace.id, key, &mut lookup, |table| table.matters_at(asked.seqno), met)
        .and_then(|answer| lookup.finish(answer, &keyspace.strategy, key));
    tally.add_to(counters);
    match found {
        // Which moment is readable instead depends also on what the answer itself does not.
        Err(Error::HistoryTrimmed { .. }) => {
            let mut lookup = Lookup::new(asked);
            let answer = look_up(current, keyspace.id, key, &mut lookup, |_| true, |_| {})?;
            lookup.finish(answer, &keyspace.strategy, key)
        }
        found => found,
    }
}

/// Shows a look-up everything of a key, newest first, until it is answered; `met` is told of each place.
#[inline]
pub(super) fn look_up(
    current: &SuperVersion,
    keyspace: KeyspaceId,
    key: &[u8],
    lookup: &mut Lookup,
    matters: impl Fn(&Table) -> bool,
    mut met: impl FnMut(Place<'_>),
) -> Result<Option<Answer>> {
    for table in current.memtables(lookup.seqno()) {
        let operands = lookup.operands();
        let answer = table.get(keyspace, key, lookup)?;
        met(Place::Memtable(table, answer.is_some() || lookup.operands() > operands));
        if answer.is_some() {
            return Ok(answer);
        }
    }
    let Some(tree) = current.trees.get(&keyspace) else { return Ok(None) };
    let mut point_key = PointKey::new(key);
    for table in tree.holding(key).filter(|table| matters(table)) {
        let mut probe = Probe::default();
        let answer = table.segment()?.get(&mut point_key, lookup, &mut probe);
        met(Place::Segment(table, probe));
        if let Some(answer) = answer? {
            return Ok(Some(answer));
        }
    }
    Ok(None)
}

/// What the reads of one look-up are counted as.
#[derive(Debug, Default)]
struct Tally {
    filtered: u64,
    passed_by: u64,
    slots: u64,
    fingerprints: u64,
    strangers: u64,
    blocks: u64,
}

impl Tally {
    #[inline]
    fn count(&mut self, place: &Place<'_>) {
        let Place::Segment(_, probe) = place else { return };
        self.filtered += u64::from(probe.filter == Some(false));
        self.passed_by += u64::from(probe.filter == Some(true) && !probe.key_found);
        self.slots += u64::from(probe.slot.is_some());
        self.fingerprints += u64::from(probe.slot.is_some() && probe.entry_at.is_none());
        self.strangers += u64::from(probe.entry_at.is_some() && !probe.key_found);
        self.blocks += u64::from(probe.blocks);
    }

    /// Adds what is not nothing: in the usual case one or two numbers.
    #[inline]
    fn add_to(&self, counters: &Counters) {
        for (counter, count) in [
            (&counters.filter_rejections, self.filtered),
            (&counters.filter_false_positives, self.passed_by),
            (&counters.slot_probes, self.slots),
            (&counters.fingerprint_rejections, self.fingerprints),
            (&counters.fingerprint_false_positives, self.strangers),
            (&counters.block_probes, self.blocks),
        ] {
            if count > 0 {
                counter.fetch_add(count, Ordering::Relaxed);
            }
        }
    }
}

/// That a keyspace is gone, by its name if that is still known.
#[cold]
pub(super) fn dropped(current: &SuperVersion, keyspace: KeyspaceId) -> Error {
    let name = current.version.keyspaces.get(&keyspace).map_or("", |keyspace| &keyspace.name);
    Error::invalid(format!("keyspace \"{name}\" was dropped; `Db::keyspace` makes it anew"))
}
