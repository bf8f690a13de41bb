//! The newest writes, sorted in memory: one table for all keyspaces.
//!
//! A live table is a `crossbeam-skiplist` 0.1.3 map of (keyspace, key, seqno descending, ordinal descending). That
//! release has known bugs: `get` may miss a key while the same key is overwritten, `remove` may succeed twice, a range
//! may leak entries that are overwritten under it. None of them affects us, because internal keys are unique (the
//! ordinal distinguishes the operations of a batch), nothing is ever removed or overwritten, and the map is dropped
//! whole; the test `internal_keys_are_unique_and_all_are_found` guards this.
//!
//! A table recovered from a log is a sorted run instead: sorting half a million entries takes a tenth of the time of
//! inserting them.
//!
//! Range tombstones are kept beside the entries, unfragmented: see `ranges`.

mod cursor;
mod ranges;

use std::{
    cmp::{Ordering, Reverse},
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crossbeam_skiplist::SkipMap;
use parking_lot::RwLock;

use crate::{
    base::{Bytes, FileNumber, KeyspaceId, Kind, Micros, Result, Seqno},
    merge::{Answer, EntryMeta, Lookup, Meaning, RangeTombstone, Tombstone, Tombstones},
    wal::BatchView,
};

pub(crate) use cursor::MemCursor;
use ranges::Ranges;

/// Cost of an entry beyond its key and value: node, tower, counters.
const ENTRY_OVERHEAD: u64 = 120;

/// Cost of a batch beyond its entries: even one that stores nothing takes space in the log.
const BATCH_OVERHEAD: u64 = 64;

/// Cost of a range tombstone beyond its two keys: itself, its edges, and its part of the skyline and of the structures
/// for readers of older moments.
const RANGE_OVERHEAD: u64 = 280;

/// An internal key. Its order is the order of every sorted structure here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    user: Bytes,
    seqno: Seqno,
    keyspace: KeyspaceId,
    ordinal: u32,
}

impl Key {
    /// Returns the key at which the newest version of `user` at or below `seqno` would be found.
    fn newest(keyspace: KeyspaceId, user: &[u8], seqno: Seqno) -> Self {
        Self { user: Bytes::copy_from(user), seqno, keyspace, ordinal: u32::MAX }
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.keyspace.cmp(&other.keyspace).then_with(|| self.user.cmp(&other.user)).then_with(|| {
            (Reverse(self.seqno), Reverse(self.ordinal)).cmp(&(Reverse(other.seqno), Reverse(other.ordinal)))
        })
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[derive(Clone, Debug)]
struct Value {
    kind: Kind,
    /// Commit time, in microseconds.
    time: Micros,
    bytes: Bytes,
}

impl Value {
    fn meta(&self, seqno: Seqno) -> EntryMeta {
        let Self { kind, time, .. } = *self;
        EntryMeta { seqno, gap_start: None, moved: false, kind, time: Some(time), interval: false }
    }
}

/// A commit, as recorded in the timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) seqno: Seqno,
    pub(crate) time: Micros,
    /// Number of operations in its batch.
    pub(crate) writes: u32,
}

/// Contents of a table that belong to one keyspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    /// Entries that may be the value of a key: all but point and range tombstones.
    pub(crate) values: u64,
    /// Approximate memory, in bytes.
    pub(crate) bytes: u64,
}

impl Share {
    fn add(&mut self, more: Self) {
        self.values += more.values;
        self.bytes += more.bytes;
    }
}

/// Metadata of a table, besides its entries.
#[derive(Debug, Default)]
struct Metadata {
    /// Commits in the table, in order.
    stamps: Vec<Stamp>,
    shares: BTreeMap<KeyspaceId, Share>,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one value per memtable")]
enum Store {
    Live(SkipMap<Key, Value>),
    Run(Vec<(Key, Value)>),
}

/// The newest writes, from seqno `first` to `last`.
#[derive(Debug)]
pub(crate) struct Memtable {
    store: Store,
    ranges: Ranges,
    /// The log file that holds exactly these writes.
    log: FileNumber,
    bytes: AtomicU64,
    entries: AtomicU64,
    /// Range of seqnos; `first` is `u64::MAX` while the table is empty.
    first: AtomicU64,
    last: AtomicU64,
    /// Newest commit time in the table.
    time: AtomicU64,
    /// Number of purges: they concern readers of earlier moments too.
    purges: AtomicU64,
    metadata: RwLock<Metadata>,
}

impl Memtable {
    /// Returns an empty table for the writes of log file `log`.
    pub(crate) fn new(log: FileNumber) -> Self {
        Self::with(Store::Live(SkipMap::new()), log)
    }

    fn with(store: Store, log: FileNumber) -> Self {
        Self {
            store,
            ranges: Ranges::default(),
            log,
            bytes: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            first: AtomicU64::new(u64::MAX),
            last: AtomicU64::new(0),
            time: AtomicU64::new(0),
            purges: AtomicU64::new(0),
            metadata: RwLock::default(),
        }
    }

    /// Builds a sorted run from the batches of a log, in order.
    pub(crate) fn from_batches(log: FileNumber, batches: &[BatchView]) -> Self {
        let mut run = Vec::new();
        let table = Self::with(Store::Run(Vec::new()), log);
        let mut ranges = Vec::new();
        for batch in batches {
            table.read(batch, &mut ranges, |key, value| run.push((key, value)));
        }
        table.ranges.insert(ranges);
        run.sort_unstable_by(|a: &(Key, Value), b| a.0.cmp(&b.0));
        Self { store: Store::Run(run), ..table }
    }

    /// Adds a batch. Only the one committing thread calls this, and only on a live table.
    pub(crate) fn insert(&self, batch: &BatchView) {
        assert!(matches!(self.store, Store::Live(_)), "a batch inserted into the recovered table of log {}", self.log);
        let mut ranges = Vec::new();
        self.read(batch, &mut ranges, |key, value| match &self.store {
            Store::Live(map) => drop(map.insert(key, value)),
            Store::Run(_) => {}
        });
        self.ranges.insert(ranges);
    }

    /// Passes the point entries of a batch to `each`, collects its range tombstones, and counts both.
    fn read(
        &self,
        batch: &BatchView,
        ranges: &mut Vec<(KeyspaceId, RangeTombstone)>,
        mut each: impl FnMut(Key, Value),
    ) {
        let (seqno, time) = batch.stamp();
        assert!(seqno > self.last_seqno(), "batch {seqno} after {} in log {}", self.last_seqno(), self.log);
        let owner = batch.owner();
        let mut ordinal = 0;
        // A batch mostly stays in one keyspace: its share is stored only when another keyspace follows.
        let mut shares: Vec<(KeyspaceId, Share)> = Vec::new();
        let mut newest = (KeyspaceId(0), Share::default());
        for op in batch.ops() {
            if op.keyspace != newest.0 {
                shares.push(std::mem::replace(&mut newest, (op.keyspace, Share::default())));
            }
            let is_value = !op.kind.is_range() && !matches!(op.kind, Kind::Delete | Kind::Purge);
            let overhead = if op.kind.is_range() { RANGE_OVERHEAD } else { ENTRY_OVERHEAD };
            let bytes = (op.key.len() + op.value.len()) as u64 + overhead;
            newest.1.add(Share { values: u64::from(is_value), bytes });
            if op.kind.purges() {
                self.purges.fetch_add(1, Relaxed);
            }
            if op.kind.is_range() {
                let tombstone = Tombstone { seqno, ordinal, gap_start: None, time, purge: op.kind.purges() };
                ranges.push((op.keyspace, RangeTombstone { span: op.span(), tombstone }));
            } else {
                let whole = || -> Arc<dyn AsRef<[u8]> + Send + Sync> { Arc::<Vec<u8>>::clone(owner) };
                let user = Bytes::shared(whole, op.key_at, op.key);
                let value = Bytes::shared(whole, op.value_at, op.value);
                each(Key { user, seqno, keyspace: op.keyspace, ordinal }, Value { kind: op.kind, time, bytes: value });
            }
            ordinal += 1;
        }
        let stamp = Stamp { seqno, time, writes: ordinal };
        let mut bytes = BATCH_OVERHEAD;
        {
            let mut metadata = self.metadata.write();
            metadata.stamps.push(stamp);
            for (keyspace, share) in shares.into_iter().chain([newest]).filter(|(_, share)| share.bytes > 0) {
                bytes += share.bytes;
                metadata.shares.entry(keyspace).or_default().add(share);
            }
        }
        self.bytes.fetch_add(bytes, Relaxed);
        self.entries.fetch_add(u64::from(ordinal), Relaxed);
        self.first.fetch_min(seqno.0, Relaxed);
        self.last.fetch_max(seqno.0, Relaxed);
        self.time.fetch_max(time.0, Relaxed);
    }

    pub(crate) fn log(&self) -> FileNumber {
        self.log
    }

    /// Returns the approximate memory, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Returns whether the table holds no batch.
    pub(crate) fn is_empty(&self) -> bool {
        self.first_seqno() == Seqno::MAX
    }

    pub(crate) fn first_seqno(&self) -> Seqno {
        Seqno(self.first.load(Relaxed))
    }

    pub(crate) fn last_seqno(&self) -> Seqno {
        Seqno(self.last.load(Relaxed))
    }

    /// Returns the newest commit time in the table, in microseconds.
    pub(crate) fn time(&self) -> Micros {
        Micros(self.time.load(Relaxed))
    }

    /// Returns whether anything here can affect a read at `seqno`.
    #[inline]
    pub(crate) fn matters_at(&self, seqno: Seqno) -> bool {
        self.first_seqno() <= seqno || self.purges.load(Relaxed) > 0
    }

    /// Returns whether anything here hides the past.
    pub(crate) fn has_purges(&self) -> bool {
        self.purges.load(Relaxed) > 0
    }

    /// Calls `read` with the commits in the table, in order.
    pub(crate) fn with_stamps<T>(&self, read: impl FnOnce(&[Stamp]) -> T) -> T {
        read(&self.metadata.read().stamps)
    }

    /// Returns the share of a keyspace.
    pub(crate) fn share(&self, keyspace: KeyspaceId) -> Share {
        self.metadata.read().shares.get(&keyspace).copied().unwrap_or_default()
    }

    /// Returns the oldest commit time in the table, in microseconds.
    pub(crate) fn first_time(&self) -> Micros {
        self.with_stamps(|stamps| stamps.first().map_or(Micros::ZERO, |stamp| stamp.time))
    }

    /// Returns the range tombstones of a keyspace, as sets with the newest last. Later writes are not in them.
    pub(crate) fn tombstones(&self, keyspace: KeyspaceId) -> Vec<Arc<Tombstones>> {
        self.ranges.sets(keyspace)
    }

    /// Lists the keyspaces with anything in this table, in order.
    pub(crate) fn keyspaces(&self) -> Vec<KeyspaceId> {
        let mut found = self.ranges.keyspaces();
        let mut next = Some(KeyspaceId(0));
        while let Some(keyspace) = next {
            let from = Key::newest(keyspace, &[], Seqno::MAX);
            let first = match &self.store {
                Store::Live(map) => map.lower_bound(Bound::Included(&from)).map(|entry| entry.key().keyspace),
                Store::Run(run) => run.get(run.partition_point(|(key, _)| *key < from)).map(|(key, _)| key.keyspace),
            };
            found.extend(first);
            next = first.and_then(|keyspace| keyspace.0.checked_add(1)).map(KeyspaceId);
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Looks a key up: returns the value, absence, or `None` if this table does not decide. Operands on the way are
    /// added to the look-up.
    ///
    /// Entries here have no gaps, so versions above the requested seqno need not be shown to it.
    pub(crate) fn get(&self, keyspace: KeyspaceId, user: &[u8], lookup: &mut Lookup) -> Result<Option<Answer>> {
        let read_at = lookup.seqno();
        let tombstone = self.ranges.newest(keyspace, user, read_at, lookup.purge_horizon());
        // A purge above the moment counts too.
        let newest = if self.has_purges() { read_at.max(lookup.purge_horizon()) } else { read_at };
        let from = Key::newest(keyspace, user, newest);
        let mut each = |key: &Key, value: &Value| -> Option<Result<Answer>> {
            if let Some(tombstone) = tombstone
                && (tombstone.seqno, tombstone.ordinal) > (key.seqno, key.ordinal)
            {
                // Everything that follows is older than the range tombstone.
                return Some(lookup.visit(tombstone.meta()).map(|_| Answer::Deleted));
            }
            match lookup.visit(value.meta(key.seqno)) {
                Ok(Meaning::Operand) => {
                    lookup.push(value.bytes.clone());
                    None
                }
                Ok(found) => found.answer(|| value.bytes.clone()).map(Ok),
                Err(error) => Some(Err(error)),
            }
        };
        let is_same = |key: &Key| key.keyspace == keyspace && key.user == user;
        let answer = match &self.store {
            Store::Live(map) => {
                let mut next = map.lower_bound(Bound::Included(&from));
                loop {
                    let Some(entry) = next.filter(|entry| is_same(entry.key())) else { break None };
                    if let Some(answer) = each(entry.key(), entry.value()) {
                        break Some(answer);
                    }
                    next = entry.next();
                }
            }
            Store::Run(run) => {
                let older = run.get(run.partition_point(|(key, _)| *key < from)..).unwrap_or_default();
                older.iter().take_while(|(key, _)| is_same(key)).find_map(|(key, value)| each(key, value))
            }
        };
        match (answer, tombstone) {
            (Some(answer), _) => answer.map(Some),
            (None, Some(tombstone)) => {
                lookup.visit(tombstone.meta())?;
                Ok(Some(Answer::Deleted))
            }
            (None, None) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        merge::{Direction, ReadAt, Source},
        wal::BatchBuf,
    };

    const KS: KeyspaceId = KeyspaceId(16);

    fn batch(seqno: u64, fill: impl FnOnce(&mut BatchBuf)) -> BatchView {
        let seqno = Seqno(seqno);
        let mut buf = BatchBuf::default();
        fill(&mut buf);
        buf.stamp(seqno, Micros::ZERO);
        let len = buf.len();
        buf.into_shared(len)
    }

    fn get(table: &Memtable, key: &str, seqno: u64) -> Option<Answer> {
        let seqno = Seqno(seqno);
        let mut lookup = Lookup::new(ReadAt::present(seqno, None));
        table.get(KS, key.as_bytes(), &mut lookup).unwrap()
    }

    /// Both kinds of table with the same batches.
    fn both(batches: &[BatchView]) -> [Arc<Memtable>; 2] {
        let live = Memtable::new(FileNumber(1));
        for batch in batches {
            live.insert(batch);
        }
        [Arc::new(live), Arc::new(Memtable::from_batches(FileNumber(1), batches))]
    }

    #[test]
    fn internal_keys_are_unique_and_all_are_found() {
        // The same key again and again in one batch: only the ordinal tells the entries apart.
        let batches: Vec<_> = (1..50)
            .map(|seqno| {
                batch(seqno, |buf| {
                    for i in 0..20u8 {
                        buf.push(Kind::Put, KS, b"k", &[i]);
                    }
                })
            })
            .collect();
        for table in both(&batches) {
            let mut cursor = MemCursor::new(&table, KS, Direction::Forward);
            cursor.seek(Some(b"")).unwrap();
            let mut count = 0;
            let mut last = None;
            while let Some(entry) = cursor.entry() {
                let place = Reverse((entry.seqno, entry.ordinal));
                assert!(last.is_none_or(|last| last < place), "an internal key twice");
                last = Some(place);
                count += 1;
                cursor.advance().unwrap();
            }
            assert_eq!(count, 49 * 20);
        }
    }

    #[test]
    fn the_last_word_on_a_key_in_a_batch_counts() {
        let batches = [batch(5, |buf| {
            buf.push(Kind::Put, KS, b"a", b"1");
            buf.push_range(Kind::RangeDelete, KS, b"a", Some(b"c"));
            buf.push(Kind::Put, KS, b"b", b"2");
        })];
        for table in both(&batches) {
            assert_eq!(get(&table, "a", 5), Some(Answer::Deleted));
            assert_eq!(get(&table, "b", 5), Some(Answer::Value(Bytes::from("2"))));
            assert_eq!(get(&table, "b", 4), None);
            assert_eq!(get(&table, "c", 9), None);
        }
    }

    #[test]
    fn a_version_is_seen_from_its_seqno_on() {
        let batches = [
            batch(1, |buf| buf.push(Kind::Put, KS, b"k", b"one")),
            batch(2, |buf| buf.push(Kind::Delete, KS, b"k", b"")),
            batch(3, |buf| buf.push(Kind::Put, KS, b"k", &[7; 2000])),
        ];
        for table in both(&batches) {
            assert_eq!(get(&table, "k", 0), None);
            assert_eq!(get(&table, "k", 1), Some(Answer::Value(Bytes::from("one"))));
            assert_eq!(get(&table, "k", 2), Some(Answer::Deleted));
            assert_eq!(get(&table, "k", 9), Some(Answer::Value(Bytes::from(vec![7; 2000]))));
            assert_eq!((table.first_seqno(), table.last_seqno()), (Seqno(1), Seqno(3)));
        }
    }

    #[test]
    fn cursors_of_both_directions_see_every_key_of_their_keyspace() {
        let batches: Vec<_> = (1..=300u64)
            .map(|seqno| {
                batch(seqno, |buf| {
                    let key = (seqno * 7919 % 1000).to_be_bytes();
                    buf.push(Kind::Put, KeyspaceId(15 + u32::try_from(seqno % 3).unwrap()), &key, b"v");
                })
            })
            .collect();
        for table in both(&batches) {
            assert_eq!(table.keyspaces(), [15, 16, 17].map(KeyspaceId));
            let keys = |direction, from: Option<&[u8]>| {
                let mut cursor = MemCursor::new(&table, KS, direction);
                cursor.seek(from).unwrap();
                let mut keys = Vec::new();
                while let Some(entry) = cursor.entry() {
                    keys.push(entry.key.to_vec());
                    cursor.advance().unwrap();
                }
                keys
            };
            let mut forward = keys(Direction::Forward, Some(b""));
            assert_eq!(forward.len(), 100);
            assert!(forward.is_sorted());
            forward.reverse();
            assert_eq!(keys(Direction::Backward, None), forward);
            assert!(keys(Direction::Forward, None).is_empty());
            let middle = forward[50].clone();
            assert_eq!(keys(Direction::Backward, Some(&middle)), forward[51..]);
        }
    }

    #[test]
    fn each_keyspace_has_its_share() {
        let batches: Vec<_> = (1..=10)
            .map(|seqno| {
                batch(seqno, |buf| {
                    for keyspace in [16, 17, 16, 9999].map(KeyspaceId) {
                        buf.push(Kind::Put, keyspace, b"key", b"value");
                    }
                    buf.push(Kind::Delete, KS, b"key", b"");
                    buf.push_range(Kind::RangeDelete, KeyspaceId(18), b"a", None);
                })
            })
            .collect();
        for table in both(&batches) {
            let values = [15, 16, 17, 18, 9999].map(|id| table.share(KeyspaceId(id)).values);
            assert_eq!(values, [0, 20, 10, 0, 10]);
            let bytes: u64 = [16, 17, 18, 9999].map(|id| table.share(KeyspaceId(id)).bytes).iter().sum();
            assert_eq!(table.bytes(), bytes + 10 * BATCH_OVERHEAD);
        }
    }

    #[test]
    fn tombstones_of_a_keyspace_are_told_apart_and_counted() {
        let batches = [batch(3, |buf| {
            buf.push_range(Kind::RangeDelete, KS, b"b", None);
            buf.push_range(Kind::RangeDelete, KeyspaceId(99), b"a", Some(b"z"));
        })];
        for table in both(&batches) {
            let count = |id| table.tombstones(id).iter().map(|set| set.len()).sum::<usize>();
            assert_eq!((count(KS), count(KeyspaceId(99)), count(KeyspaceId(1))), (1, 1, 0));
            assert!(table.bytes() > 2 * RANGE_OVERHEAD);
        }
    }
}
