//! The superversion that reads use: the memtables and segments of one moment, as one immutable value.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    chunks::ChunkSet,
    epoch::Epoch,
    tree::{Opener, SegmentHandle, Tree},
};
use crate::{
    base::{FileNumber, KeyspaceId, Micros, PLACES, Seqno, TIMELINE},
    manifest::Version,
    memtable::Memtable,
};

/// The moment just after a commit: its seqno and time, and the version with the keyspaces, options and pins of then.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub(crate) seqno: Seqno,
    pub(crate) time: Micros,
    pub(crate) version: Arc<Version>,
}

/// Memtables and segments of one moment.
#[derive(Debug)]
pub(crate) struct SuperVersion {
    /// Incremented by each change.
    pub(crate) generation: u64,
    pub(crate) active: Arc<Memtable>,
    /// Newest first.
    pub(crate) sealed: Vec<Arc<Memtable>>,
    pub(crate) version: Arc<Version>,
    /// Trees of all keyspaces of the version.
    pub(crate) trees: Arc<BTreeMap<KeyspaceId, Arc<Tree>>>,
    /// Moments at which memtables were sealed, by log number: everything up to the moment is in that memtable and older
    /// ones.
    pub(crate) sealed_at: BTreeMap<FileNumber, Moment>,
    /// Newest moment that the segments hold in full, with nothing newer; `None` while recovered entries are in
    /// memtables.
    pub(crate) flushed: Option<Moment>,
    /// Chunks of large values.
    pub(crate) chunks: Arc<ChunkSet>,
}

impl SuperVersion {
    pub(in crate::engine) fn new(active: Arc<Memtable>, sealed: Vec<Arc<Memtable>>, chunks: ChunkSet) -> Self {
        Self {
            generation: 0,
            active,
            sealed,
            version: Arc::default(),
            trees: Arc::default(),
            sealed_at: BTreeMap::new(),
            flushed: None,
            chunks: Arc::new(chunks),
        }
    }

    /// Returns the memtables that can hold something at or below a seqno, newest first.
    #[inline]
    pub(crate) fn memtables(&self, seqno: Seqno) -> impl Iterator<Item = &Arc<Memtable>> {
        std::iter::once(&self.active).chain(&self.sealed).filter(move |memtable| memtable.matters_at(seqno))
    }

    /// Returns the same memtables over another version. Segments of both are shared; those that it no longer names are
    /// marked.
    pub(super) fn with_version(&self, version: &Arc<Version>, opener: &Arc<Opener>) -> Self {
        let none = Tree::default();
        let mut before = self.version.keyspaces.iter().zip(self.trees.values()).peekable();
        let mut trees: Vec<(KeyspaceId, Arc<Tree>)> = Vec::with_capacity(version.keyspaces.len());
        for (&id, keyspace) in &version.keyspaces {
            while let Some((_, forgotten)) = before.next_if(|((old, _), _)| **old < id) {
                forgotten.mark_obsolete(&none);
            }
            trees.push(match before.next_if(|((old, _), _)| **old == id) {
                // An edit changes a few of thousands of keyspaces.
                Some(((_, old), tree)) if Arc::ptr_eq(old, keyspace) => (id, Arc::clone(tree)),
                Some((_, tree)) => {
                    let next = Tree::of(keyspace, tree, opener);
                    tree.mark_obsolete(&next);
                    (id, Arc::new(next))
                }
                None => (id, Arc::new(Tree::of(keyspace, &none, opener))),
            });
        }
        before.for_each(|(_, forgotten)| forgotten.mark_obsolete(&none));
        let trees: BTreeMap<_, _> = trees.into_iter().collect();
        let Opener { ctx, reclaim, .. } = &**opener;
        let chunks = self.chunks.with_version(version, &self.version, trees.get(&PLACES), ctx, reclaim);
        Self {
            generation: self.generation + 1,
            active: Arc::clone(&self.active),
            sealed: self.sealed.clone(),
            version: Arc::clone(version),
            trees: Arc::new(trees),
            sealed_at: self.sealed_at.clone(),
            flushed: self.flushed.clone(),
            chunks: Arc::new(chunks),
        }
    }

    /// Returns a copy for a scan that stays on these files, with the segments of one keyspace and the timeline alone.
    pub(crate) fn of_keyspace(&self, keyspace: KeyspaceId) -> Arc<Self> {
        let of = |id: KeyspaceId| self.trees.get(&id).map(|tree| (id, Arc::clone(tree)));
        let trees = [keyspace, TIMELINE].into_iter().filter_map(of).collect();
        Arc::new(Self { generation: self.generation, trees: Arc::new(trees), ..self.with_moments(BTreeMap::new()) })
    }

    /// Returns a copy with the active memtable sealed at a moment, and a new one.
    pub(in crate::engine) fn with_sealed(&self, active: Arc<Memtable>, epoch: Arc<Epoch>, moment: Moment) -> Self {
        let mut next = self.with_moment(self.active.log(), moment);
        Arc::make_mut(&mut next.chunks).epochs.insert(0, epoch);
        next.sealed.insert(0, std::mem::replace(&mut next.active, active));
        next
    }

    /// Returns a copy for a moment at which the active memtable is empty: it becomes the moment of what is older.
    pub(in crate::engine) fn with_idle_moment(&self, moment: Moment) -> Self {
        match self.sealed.first() {
            Some(newest) => self.with_moment(newest.log(), moment),
            None => Self { flushed: Some(moment), ..self.with_moments(self.sealed_at.clone()) },
        }
    }

    fn with_moment(&self, log: FileNumber, moment: Moment) -> Self {
        let mut sealed_at = self.sealed_at.clone();
        sealed_at.insert(log, moment);
        self.with_moments(sealed_at)
    }

    fn with_moments(&self, sealed_at: BTreeMap<FileNumber, Moment>) -> Self {
        Self {
            generation: self.generation + 1,
            active: Arc::clone(&self.active),
            sealed: self.sealed.clone(),
            version: Arc::clone(&self.version),
            trees: Arc::clone(&self.trees),
            sealed_at,
            flushed: self.flushed.clone(),
            chunks: Arc::clone(&self.chunks),
        }
    }

    /// Removes a memtable that is now in segments.
    pub(in crate::engine) fn remove_flushed(&mut self, flushed: &Arc<Memtable>) {
        self.sealed.retain(|memtable| !Arc::ptr_eq(memtable, flushed));
        Arc::make_mut(&mut self.chunks).remove_flushed(flushed);
        if let Some(moment) = self.sealed_at.remove(&flushed.log()) {
            self.flushed = Some(moment);
        }
    }

    /// Returns the newest seqno of a commit in sealed memtables and segments.
    pub(crate) fn newest_below_active(&self) -> Seqno {
        // A memtable of chunks alone has no commit.
        let sealed = self.sealed.iter().map(|memtable| memtable.last_seqno()).max().unwrap_or(Seqno(0));
        // Places are at seqnos of no commit, which may be above all that is visible.
        let trees = self.trees.iter().filter(|(id, _)| **id != PLACES);
        trees.map(|(_, tree)| tree.newest).max().unwrap_or(Seqno(0)).max(sealed)
    }

    /// Returns whether a log holds entries that no segment does.
    pub(in crate::engine) fn needs_log(&self, number: FileNumber) -> bool {
        self.memtables(Seqno::MAX).any(|memtable| memtable.log() == number)
    }

    /// Returns all segments.
    pub(crate) fn segments(&self) -> impl Iterator<Item = &Arc<SegmentHandle>> {
        self.trees.values().flat_map(|tree| tree.segments())
    }

    /// Returns the number of segments in level 0 of a keyspace.
    pub(crate) fn l0_len(&self, keyspace: KeyspaceId) -> usize {
        self.trees.get(&keyspace).and_then(|tree| tree.levels.first()).map_or(0, Vec::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeyspaceOptions, Options, env::Memory};

    #[test]
    fn an_edit_of_one_keyspace_leaves_the_trees_of_all_others_as_they_are() {
        let db = Options::new().env(Memory::new()).open("db").unwrap();
        let open = |at: u32| db.keyspace(format!("k{at}"), KeyspaceOptions::new()).unwrap();
        let keyspaces: Vec<_> = (0..50).map(open).collect();
        for keyspace in &keyspaces {
            keyspace.put("k", "v").unwrap();
        }
        db.flush().unwrap();
        let before = db.engine().files.current();
        keyspaces[7].put("k", "v").unwrap();
        db.drop_keyspace("k8").unwrap();
        db.flush().unwrap();
        let after = db.engine().files.current();
        let changed = |id: &&KeyspaceId| {
            let shared = before.trees.get(id).zip(after.trees.get(id));
            shared.is_none_or(|(before, after)| !Arc::ptr_eq(before, after))
        };
        let changed: Vec<_> = before.trees.keys().chain(after.trees.keys()).filter(changed).collect();
        let number = |name: &str| before.version.by_name(name).unwrap().id;
        let expected = [number("k7"), number("k8"), TIMELINE];
        assert!(changed.iter().all(|id| expected.contains(id)), "{changed:?} beside {expected:?}");
        assert!(changed.contains(&&expected[0]));
    }
}
