//! Point reads: memtables newest first, then segments newest first, to the first version at or below the seqno.

use std::sync::atomic::Ordering;

use super::{
    Engine,
    superversion::{SuperVersion, Table},
};
use crate::{
    base::{Bytes, Error, KeyspaceId, Result},
    merge::{Asked, Lookup},
};

impl Engine {
    /// The newest visible value.
    ///
    /// The superversion is taken before the seqno: everything dropped from it was superseded at or below that seqno, so the present
    /// is always complete (E4).
    pub(crate) fn get(&self, keyspace: KeyspaceId, key: &[u8]) -> Result<Option<Bytes>> {
        self.check_open()?;
        self.counters.gets.fetch_add(1, Ordering::Relaxed);
        let current = self.current();
        if current.trees.get(&keyspace).is_none_or(|tree| tree.dropped) {
            return Err(dropped(&current, keyspace));
        }
        let asked = Asked { seqno: self.visible(), vanished: 0 };
        get_in(&current, keyspace, key, asked)
    }
}

/// Looks a key up in a superversion.
pub(super) fn get_in(current: &SuperVersion, keyspace: KeyspaceId, key: &[u8], asked: Asked) -> Result<Option<Bytes>> {
    match look_up(current, keyspace, key, asked, |table| table.matters_at(asked.seqno)) {
        // Which moment is readable instead depends also on what the answer itself does not.
        Err(Error::HistoryTrimmed { .. }) => look_up(current, keyspace, key, asked, |_| true),
        found => found,
    }
}

#[inline]
fn look_up(
    current: &SuperVersion,
    keyspace: KeyspaceId,
    key: &[u8],
    asked: Asked,
    matters: impl Fn(&Table) -> bool,
) -> Result<Option<Bytes>> {
    let mut lookup = Lookup::new(asked);
    for table in current.memtables(asked.seqno) {
        if let Some(found) = table.get(keyspace, key, &mut lookup)? {
            return Ok(found.into_value());
        }
    }
    if let Some(tree) = current.trees.get(&keyspace) {
        for table in tree.holding(key).filter(|table| matters(table)) {
            if let Some(found) = table.segment()?.get(key, &mut lookup)? {
                return Ok(found.into_value());
            }
        }
    }
    lookup.nothing_left()?;
    Ok(None)
}

/// That a keyspace is gone, by its name if that is still known.
#[cold]
pub(super) fn dropped(current: &SuperVersion, keyspace: KeyspaceId) -> Error {
    let name = current.version.keyspaces.get(&keyspace).map_or("", |keyspace| &keyspace.name);
    Error::invalid(format!("keyspace \"{name}\" was dropped; `Db::keyspace` makes it anew"))
}
