//! The range tombstones of a live memtable.
//!
//! Most are cut into fragments; the newest few wait in a tail that point reads walk, so that deletes of ranges and reads
//! may alternate without cutting all of them anew each time.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::RwLock;

use crate::{
    base::{KeySpan, KeyspaceId},
    merge::{Fragments, Mark, RangeTombstone},
};

/// The longest tail while there are few.
const TAIL_MAX: usize = 32;

/// Range tombstones of all keyspaces.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    /// How many there are: zero spares readers the lock.
    count: AtomicU64,
    sets: RwLock<Vec<(KeyspaceId, Set)>>,
}

#[derive(Debug, Default)]
struct Set {
    all: Vec<RangeTombstone>,
    /// The first `cut_len` of `all`, cut.
    cut: Arc<Fragments>,
    cut_len: usize,
}

impl Set {
    fn tail(&self) -> &[RangeTombstone] {
        self.all.get(self.cut_len..).unwrap_or_default()
    }

    fn cut_all(&mut self) {
        self.cut = Arc::new(Fragments::cut(&self.all));
        self.cut_len = self.all.len();
    }
}

impl Ranges {
    /// Adds a tombstone. One that covers nothing is dropped.
    pub(super) fn insert(&self, keyspace: KeyspaceId, start: &[u8], end: Option<&[u8]>, mark: Mark) {
        let span = KeySpan { start: start.to_vec(), end: end.map(<[u8]>::to_vec) };
        if span.is_empty() {
            return;
        }
        let tombstone = RangeTombstone { span, mark };
        let mut sets = self.sets.write();
        if let Some((_, set)) = sets.iter_mut().find(|(id, _)| *id == keyspace) {
            set.all.push(tombstone);
            // Cutting all of them anew each time the tail has grown by half costs little in all.
            if set.tail().len() > TAIL_MAX.max(set.cut_len / 2) {
                set.cut_all();
            }
        } else {
            sets.push((keyspace, Set { all: vec![tombstone], ..Set::default() }));
        }
        self.count.fetch_add(1, Ordering::Release);
    }

    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    pub(super) fn keyspaces(&self) -> Vec<KeyspaceId> {
        self.sets.read().iter().map(|(id, _)| *id).collect()
    }

    /// All tombstones of a keyspace, cut.
    pub(super) fn fragments(&self, keyspace: KeyspaceId) -> Arc<Fragments> {
        if self.count() == 0 {
            return Arc::default();
        }
        let mut sets = self.sets.write();
        let Some((_, set)) = sets.iter_mut().find(|(id, _)| *id == keyspace) else { return Arc::default() };
        if !set.tail().is_empty() {
            set.cut_all();
        }
        Arc::clone(&set.cut)
    }

    /// The newest tombstone at or below `asked`, or purge at or below `opened`, that covers `key`.
    pub(super) fn newest_covering(&self, keyspace: KeyspaceId, key: &[u8], asked: u64, opened: u64) -> Option<Mark> {
        if self.count() == 0 {
            return None;
        }
        let sets = self.sets.read();
        let (_, set) = sets.iter().find(|(id, _)| *id == keyspace)?;
        let covers = |tombstone: &&RangeTombstone| {
            let KeySpan { start, end } = &tombstone.span;
            start.as_slice() <= key && end.as_deref().is_none_or(|end| key < end)
        };
        let tail = set.tail().iter().filter(covers).map(|tombstone| tombstone.mark);
        let cut = set.cut.covering(key).into_iter().flat_map(|fragment| fragment.marks.iter().copied());
        let counts = |mark: &Mark| mark.seqno <= asked || mark.purge && mark.seqno <= opened;
        tail.chain(cut).filter(counts).max_by_key(|mark| (mark.seqno, mark.ordinal))
    }
}
