//! What all readers and writers of large values share: ids that are being stored, coders, and decoded chunks.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use super::{
    catalogue::KeyspaceRef,
    locks::{Condvar, Lock, LockOrder, Rank},
};
use crate::{
    base::{Bytes, ChunkId, FileNumber, KeyspaceId, Micros, Result},
    chunk::{
        codec::{Decoder, Encoder},
        cut::{Arm, Chunking},
        recipe::Recipe,
    },
};

/// Interval at which a writer that waits for another checks whether to go on.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Coders kept for the next user; more are made when more threads read or write at once, and dropped afterwards.
const CODERS_MAX: usize = 16;

/// Most threads that help to store values, on however many cores.
const HELPERS_MAX: usize = 7;

/// Damaged chunks that are remembered: more of them are found again by the next read.
const DAMAGED_MAX: usize = 1 << 16;

/// What readers and writers of large values share.
#[derive(Debug)]
pub(crate) struct ChunkStore {
    /// Ids that a writer is storing: nobody else stores them meanwhile (L11).
    reserved: Lock<HashSet<ChunkId>>,
    freed: Condvar,
    writers: Lock<Writers>,
    /// Chunks that a read has found damaged: a writer that has one of them stores it anew.
    damaged: Lock<HashSet<ChunkId>>,
    /// Bytes in packs of writers that gave up, since they were last asked for.
    abandoned: AtomicU64,
    readers: Lock<Vec<ReadRoom>>,
    encoders: Lock<Vec<(Option<i32>, Encoder)>>,
    cache: Lock<Cache>,
    cache_bytes: usize,
    /// Threads that may help to store values, of all writers together.
    helpers: AtomicUsize,
    pub(super) counts: ChunkCounts,
    trials: Lock<BTreeMap<KeyspaceId, TrialCounts>>,
}

/// Counts since the database was opened.
#[derive(Debug, Default)]
pub(crate) struct ChunkCounts {
    /// Large values written, and their bytes.
    pub(super) values: AtomicU64,
    pub(super) value_bytes: AtomicU64,
    /// Chunks and nodes that were stored, the bytes in them, and the bytes that they take.
    pub(super) new_chunks: AtomicU64,
    pub(super) new_bytes: AtomicU64,
    pub(super) stored_bytes: AtomicU64,
    /// Chunks that were there already, and their bytes.
    pub(super) known_chunks: AtomicU64,
    pub(super) known_bytes: AtomicU64,
    /// Bytes of zeros, which are never stored.
    pub(super) hole_bytes: AtomicU64,
    /// Bytes that flushes of recoveries and collections have copied from pack to pack.
    pub(super) copied_bytes: AtomicU64,
    /// Chunks found in the cache, read into it, and read beside it.
    pub(super) cache_hits: AtomicU64,
    pub(super) cache_misses: AtomicU64,
    pub(super) read_aside: AtomicU64,
    /// New chunks by length: up to 1 KiB, 2 KiB, and so on up to 1 MiB.
    pub(super) lens: [AtomicU64; LEN_CLASSES],
}

/// What was stored of values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Chunks, holes not counted.
    pub(crate) chunks: u64,
    /// Those that were not stored before, nodes not counted.
    pub(crate) new_chunks: u64,
    /// Bytes of those, before compression.
    pub(crate) new_bytes: u64,
    /// Bytes that this added to packs, nodes included.
    pub(crate) stored_bytes: u64,
}

/// What one side of a trial has stored, and the time that took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ArmCounts {
    pub(crate) values: u64,
    pub(crate) value_bytes: u64,
    pub(crate) stored: Tally,
    pub(crate) time: Micros,
}

impl ArmCounts {
    fn add(&mut self, other: &Self) {
        let Self { values, value_bytes, stored: Tally { chunks, new_chunks, new_bytes, stored_bytes }, time } = other;
        self.values += values;
        // A value may claim 2⁶³ zeros.
        self.value_bytes = self.value_bytes.saturating_add(*value_bytes);
        self.stored.chunks += chunks;
        self.stored.new_chunks += new_chunks;
        self.stored.new_bytes += new_bytes;
        self.stored.stored_bytes += stored_bytes;
        self.time = self.time.saturating_add(*time);
    }
}

/// A trial under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TrialCounts {
    pub(crate) chunking: Chunking,
    pub(crate) control: ArmCounts,
    pub(crate) trial: ArmCounts,
}

/// Classes of lengths of chunks: powers of two from 1 KiB to 1 MiB.
pub(super) const LEN_CLASSES: usize = 11;

impl ChunkCounts {
    /// Counts a chunk that was stored.
    pub(super) fn stored(&self, raw_len: usize, stored_len: usize) {
        self.new_chunks.fetch_add(1, Relaxed);
        self.new_bytes.fetch_add(raw_len as u64, Relaxed);
        self.stored_bytes.fetch_add(stored_len as u64, Relaxed);
        let class = raw_len.next_power_of_two().trailing_zeros().saturating_sub(10) as usize;
        if let Some(count) = self.lens.get(class.min(LEN_CLASSES - 1)) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Counts a chunk that was there already.
    pub(super) fn known(&self, raw_len: usize) {
        self.known_chunks.fetch_add(1, Relaxed);
        self.known_bytes.fetch_add(raw_len as u64, Relaxed);
    }
}

/// Writers of large values that are under way, and packs that no new reference may be made to (L9).
#[derive(Debug, Default)]
struct Writers {
    next: u64,
    active: BTreeMap<u64, Frontier>,
    condemned: BTreeSet<FileNumber>,
    /// Times that packs were condemned.
    condemnations: u64,
}

/// What a writer refers to, beside what committed recipes refer to.
#[derive(Clone, Debug)]
pub(crate) struct Frontier {
    pub(super) keyspace: KeyspaceRef,
    /// Chunks and nodes that it has found or stored since it last told its references.
    pub(super) found: Vec<ChunkId>,
    /// References that are in no node of its value yet, level by level; those of a value that it has ended.
    pub(super) open: Vec<Recipe>,
}

/// A writer of large values, from before it first looks for a chunk until its recipe is committed or given up. What it
/// holds stays.
#[derive(Debug)]
pub(crate) struct Writing {
    store: Arc<ChunkStore>,
    number: u64,
    /// Condemnations before it began; `None` if packs were condemned then.
    began: Option<u64>,
    /// Bytes that it has added to packs.
    stored: AtomicU64,
    is_committed: AtomicBool,
}

impl Writing {
    fn hold(&self, hold: impl FnOnce(&mut Frontier)) {
        if let Some(frontier) = self.store.writers.lock().active.get_mut(&self.number) {
            hold(frontier);
        }
    }

    /// Holds a chunk that it stores.
    pub(super) fn hold_new(&self, id: ChunkId, stored_len: usize) {
        self.hold(|frontier| frontier.found.push(id));
        self.stored.fetch_add(stored_len as u64, Relaxed);
    }

    /// Records that what it holds is committed.
    pub(super) fn set_committed(&self) {
        self.is_committed.store(true, Relaxed);
    }

    /// Holds a chunk that it has found in a pack; `false` if the pack is condemned. The caller keeps the version, which
    /// has the pack, from changing.
    pub(super) fn hold_found(&self, id: ChunkId, pack: FileNumber) -> bool {
        let mut writers = self.store.writers.lock();
        if writers.condemned.contains(&pack) {
            return false;
        }
        if let Some(frontier) = writers.active.get_mut(&self.number) {
            frontier.found.push(id);
        }
        true
    }

    /// Holds what a recipe refers to that was in force, or whose chunks were all there, since this writer began;
    /// `false` if packs have been condemned since: then any of them may be about to go.
    pub(super) fn hold_recipe(&self, recipe: Recipe) -> bool {
        let mut writers = self.store.writers.lock();
        if self.began != Some(writers.condemnations) {
            return false;
        }
        if let Some(frontier) = writers.active.get_mut(&self.number) {
            frontier.open.push(recipe);
        }
        true
    }

    /// Tells all that it refers to: whatever else it has found is referred to by nodes among these. Those nodes can be
    /// read by now.
    pub(super) fn refer_to(&self, open: Vec<Recipe>) {
        self.hold(|frontier| {
            frontier.found = Vec::new();
            frontier.open = open;
        });
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let gone = self.store.writers.lock().active.remove(&self.number);
        // Dropped outside the lock.
        drop(gone);
        if !self.is_committed.load(Relaxed) {
            self.store.abandoned.fetch_add(self.stored.load(Relaxed), Relaxed);
        }
    }
}

/// The right to helping threads, until it is dropped.
#[derive(Debug)]
pub(crate) struct Helpers<'s> {
    store: &'s ChunkStore,
    pub(super) count: usize,
}

impl Drop for Helpers<'_> {
    fn drop(&mut self) {
        self.store.helpers.fetch_add(self.count, Relaxed);
    }
}

/// What one read of chunks works with: used again by the next.
#[derive(Debug)]
pub(crate) struct ReadRoom {
    pub(super) decoder: Decoder,
    pub(super) room: Vec<u8>,
}

/// The right to store a chunk, until it is dropped. Nobody holds one across a call of the user's.
#[derive(Debug)]
pub(crate) struct Reserved<'s> {
    store: &'s ChunkStore,
    id: ChunkId,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.store.reserved.lock().remove(&self.id);
        self.store.freed.notify_all();
    }
}

impl ChunkStore {
    /// Returns a store whose cache holds at most `cache_bytes`.
    pub(super) fn new(order: LockOrder, cache_bytes: usize) -> Self {
        Self {
            reserved: order.lock(Rank::Reserved, HashSet::new()),
            freed: Condvar::new(),
            writers: order.lock(Rank::Writers, Writers::default()),
            damaged: order.lock(Rank::Damaged, HashSet::new()),
            abandoned: AtomicU64::new(0),
            trials: order.lock(Rank::Trials, BTreeMap::new()),
            readers: order.lock(Rank::Coders, Vec::new()),
            encoders: order.lock(Rank::Coders, Vec::new()),
            cache: order.lock(Rank::Cache, Cache { bytes_max: cache_bytes, ..Cache::default() }),
            cache_bytes,
            helpers: AtomicUsize::new(
                thread::available_parallelism().map_or(0, |cores| (cores.get() - 1).min(HELPERS_MAX)),
            ),
            counts: ChunkCounts::default(),
        }
    }

    /// Waits until nobody else is storing the chunk, then returns the right to. `go_on` fails once waiting is
    /// pointless.
    pub(super) fn reserve(&self, id: ChunkId, go_on: impl Fn() -> Result<()>) -> Result<Reserved<'_>> {
        let mut reserved = self.reserved.lock();
        while !reserved.insert(id) {
            go_on()?;
            reserved.wait_for(&self.freed, LOOK_AGAIN);
        }
        Ok(Reserved { store: self, id })
    }

    /// Takes the right to as many helping threads as there are, up to `most`.
    pub(super) fn take_helpers(&self, most: usize) -> Helpers<'_> {
        let take = |free: usize| Some(free - free.min(most));
        let before = self.helpers.fetch_update(Relaxed, Relaxed, take).unwrap_or(0);
        Helpers { store: self, count: before.min(most) }
    }

    /// Registers a writer.
    pub(super) fn begin_writing(self: &Arc<Self>, keyspace: &KeyspaceRef) -> Arc<Writing> {
        let mut writers = self.writers.lock();
        let number = writers.next;
        writers.next += 1;
        let frontier = Frontier { keyspace: keyspace.clone(), found: Vec::new(), open: Vec::new() };
        writers.active.insert(number, frontier);
        let began = writers.condemned.is_empty().then_some(writers.condemnations);
        let (stored, is_committed) = (AtomicU64::new(0), AtomicBool::new(false));
        Arc::new(Writing { store: Arc::clone(self), number, began, stored, is_committed })
    }

    /// Condemns packs: writers make no reference to them from now on.
    pub(super) fn condemn(&self, packs: impl IntoIterator<Item = FileNumber>) {
        let mut writers = self.writers.lock();
        writers.condemnations += 1;
        writers.condemned.extend(packs);
    }

    /// Returns what writers under way hold now.
    pub(super) fn frontiers(&self) -> Vec<Frontier> {
        self.writers.lock().active.values().cloned().collect()
    }

    /// Returns the bytes in packs of writers that gave up.
    pub(super) fn abandoned(&self) -> &AtomicU64 {
        &self.abandoned
    }

    /// Returns the number of writers under way, and of condemned packs.
    pub(super) fn writers(&self) -> (usize, usize) {
        let writers = self.writers.lock();
        (writers.active.len(), writers.condemned.len())
    }

    /// Adds to what a side of the trial of a keyspace has stored. Another trial there begins with nothing.
    pub(super) fn record_trial(&self, keyspace: KeyspaceId, chunking: Chunking, arm: Arm, counts: &ArmCounts) {
        let begun = TrialCounts { chunking, control: ArmCounts::default(), trial: ArmCounts::default() };
        let mut trials = self.trials.lock();
        let of = trials.entry(keyspace).or_insert(begun);
        if of.chunking != chunking {
            *of = begun;
        }
        match arm {
            Arm::Control => of.control.add(counts),
            Arm::Trial => of.trial.add(counts),
        }
    }

    /// Returns what the trial of a keyspace has stored; `None` if nothing has been written under this chunking.
    pub(super) fn trial(&self, keyspace: KeyspaceId, chunking: Chunking) -> Option<TrialCounts> {
        self.trials.lock().get(&keyspace).copied().filter(|of| of.chunking == chunking)
    }

    /// Records that a chunk was found damaged.
    pub(super) fn record_damaged(&self, id: ChunkId) {
        let mut damaged = self.damaged.lock();
        if damaged.len() < DAMAGED_MAX {
            damaged.insert(id);
        }
    }

    /// Returns whether a chunk was found damaged; with `None`, whether any was.
    pub(super) fn is_damaged(&self, id: Option<&ChunkId>) -> bool {
        let damaged = self.damaged.lock();
        id.map_or(!damaged.is_empty(), |id| damaged.contains(id))
    }

    /// Records that a chunk is stored anew.
    pub(super) fn record_stored(&self, id: &ChunkId) {
        self.damaged.lock().remove(id);
    }

    /// Takes back all packs that are condemned: those that have gone are met by nobody.
    pub(super) fn pardon_all(&self) {
        self.writers.lock().condemned.clear();
    }

    /// Returns whether a pack is condemned.
    pub(super) fn is_condemned(&self, pack: FileNumber) -> bool {
        self.writers.lock().condemned.contains(&pack)
    }

    /// Calls `read` with a decoder and memory that were used before.
    pub(super) fn with_reader<T>(&self, read: impl FnOnce(&mut ReadRoom) -> Result<T>) -> Result<T> {
        let taken = self.readers.lock().pop();
        let mut reader = match taken {
            Some(reader) => reader,
            None => ReadRoom { decoder: Decoder::new()?, room: Vec::new() },
        };
        let done = read(&mut reader);
        let mut readers = self.readers.lock();
        if readers.len() < CODERS_MAX {
            readers.push(reader);
        }
        done
    }

    /// Calls `write` with an encoder for a level of zstd that was used before.
    pub(super) fn with_encoder<T>(&self, level: Option<i32>, write: impl FnOnce(&mut Encoder) -> T) -> Result<T> {
        let taken = {
            let mut encoders = self.encoders.lock();
            let at = encoders.iter().position(|(of, _)| *of == level);
            at.map(|at| encoders.swap_remove(at).1)
        };
        let mut encoder = match taken {
            Some(encoder) => encoder,
            None => Encoder::new(level)?,
        };
        let done = write(&mut encoder);
        let mut encoders = self.encoders.lock();
        if encoders.len() >= CODERS_MAX {
            encoders.remove(0);
        }
        encoders.push((level, encoder));
        Ok(done)
    }

    /// Returns a decoded chunk, if the cache has it.
    pub(super) fn cached(&self, id: &ChunkId) -> Option<Bytes> {
        let found = self.cache.lock().get(id);
        if found.is_some() {
            self.counts.cache_hits.fetch_add(1, Relaxed);
        }
        found
    }

    /// Puts a decoded chunk into the cache.
    pub(super) fn cache(&self, id: ChunkId, chunk: &Bytes) {
        self.counts.cache_misses.fetch_add(1, Relaxed);
        let gone = self.cache.lock().insert(id, chunk.clone());
        // Dropped outside the lock.
        drop(gone);
    }

    /// Returns whether a value of this length is read beside the cache: it would empty the cache, and straight into the
    /// value its chunks are copied less.
    pub(super) fn passes_cache(&self, len: u64) -> bool {
        let passes = len > self.cache_bytes as u64 / 64;
        if passes {
            self.counts.read_aside.fetch_add(1, Relaxed);
        }
        passes
    }

    /// Returns the bytes in the cache.
    pub(super) fn cached_bytes(&self) -> usize {
        self.cache.lock().bytes
    }
}

/// Decoded chunks, bounded by bytes. What was not used since it was last considered goes first (the clock algorithm:
/// Corbató, 1968).
#[derive(Debug, Default)]
struct Cache {
    bytes_max: usize,
    bytes: usize,
    chunks: HashMap<ChunkId, (Bytes, bool)>,
    /// The order in which they are considered.
    order: VecDeque<ChunkId>,
}

/// Cost of a cached chunk beyond its bytes.
const CACHED_OVERHEAD: usize = 160;

impl Cache {
    fn get(&mut self, id: &ChunkId) -> Option<Bytes> {
        let (chunk, used) = self.chunks.get_mut(id)?;
        *used = true;
        Some(chunk.clone())
    }

    /// Adds a chunk; returns those that had to go.
    fn insert(&mut self, id: ChunkId, chunk: Bytes) -> Vec<Bytes> {
        let mut gone = Vec::new();
        let cost = |chunk: &Bytes| chunk.len() + CACHED_OVERHEAD;
        if self.chunks.contains_key(&id) || cost(&chunk) > self.bytes_max {
            return gone;
        }
        self.bytes += cost(&chunk);
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.order.pop_front()
        {
            match self.chunks.get_mut(&oldest) {
                Some((_, used)) if *used => {
                    *used = false;
                    self.order.push_back(oldest);
                }
                _ => {
                    if let Some((chunk, _)) = self.chunks.remove(&oldest) {
                        self.bytes -= cost(&chunk);
                        gone.push(chunk);
                    }
                }
            }
        }
        self.order.push_back(id);
        self.chunks.insert(id, (chunk, false));
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::{Error, KeyspaceId, Seqno},
        chunk::{cut::CutPolicy, recipe::Reference},
        merge::MergeStrategy,
    };

    fn id(number: u8) -> ChunkId {
        ChunkId::from_bytes([number; 32])
    }

    #[test]
    fn the_cache_stays_within_its_bytes_and_keeps_what_is_used() {
        let store = ChunkStore::new(LockOrder::new(), 10 * (1000 + CACHED_OVERHEAD));
        for number in 0..200 {
            store.cache(id(number), &Bytes::from(vec![number; 1000]));
            assert!(store.cached_bytes() <= 10 * (1000 + CACHED_OVERHEAD));
            assert_eq!(store.cached(&id(0)).unwrap(), vec![0; 1000], "used each time");
        }
        assert_eq!(store.cached(&id(199)).unwrap(), vec![199; 1000]);
        assert!(store.cached(&id(100)).is_none());
        store.cache(id(201), &Bytes::from(vec![1; 1 << 20]));
        assert!(store.cached(&id(201)).is_none() && store.cached(&id(0)).is_some(), "larger than the cache");
    }

    /// L9: what a writer has found joins what it holds, or is found condemned; nothing lies in between.
    #[test]
    fn a_writer_holds_what_it_has_found_and_meets_no_condemned_pack() {
        let store = Arc::new(ChunkStore::new(LockOrder::new(), 0));
        let (name, strategy) = (Arc::from("k"), MergeStrategy::LastWins);
        let keyspace = KeyspaceRef { id: KeyspaceId(16), born: Seqno(0), strategy, scope: 0, name };
        let recipe = || Recipe {
            len: 1,
            chunking: CutPolicy::AUTOMATIC,
            height: 0,
            references: vec![Reference { id: Some(id(9)), len: 1 }],
            origin: String::new(),
        };
        let (early, pack) = (store.begin_writing(&keyspace), FileNumber(7));
        assert!(early.hold_found(id(1), pack) && early.hold_recipe(recipe()));
        early.hold_new(id(2), 100);
        store.condemn([pack]);
        let late = store.begin_writing(&keyspace);
        for writer in [&early, &late] {
            assert!(!writer.hold_found(id(3), pack) && writer.hold_found(id(4), FileNumber(8)));
            assert!(!writer.hold_recipe(recipe()), "a pack was condemned since it began, or before");
        }
        let held = store.frontiers();
        assert_eq!(held.len(), 2);
        assert_eq!((held[0].found.as_slice(), held[0].open.len()), ([id(1), id(2), id(4)].as_slice(), 1));
        early.refer_to(vec![recipe(), recipe()]);
        assert_eq!(store.frontiers()[0].found.len() + 10 * store.frontiers()[0].open.len(), 20);
        assert!(store.is_condemned(pack));
        store.pardon_all();
        assert!(!store.is_condemned(pack) && late.hold_found(id(5), pack));
        assert!(!late.hold_recipe(recipe()), "it began beside condemned packs");
        late.set_committed();
        drop((early, late));
        assert_eq!(store.abandoned().load(Relaxed), 100);
        assert!(store.frontiers().is_empty() && store.begin_writing(&keyspace).hold_recipe(recipe()));
    }

    #[test]
    fn helpers_are_given_out_once_and_given_back() {
        let store = ChunkStore::new(LockOrder::new(), 0);
        store.helpers.store(3, Relaxed);
        let (first, second, third) = (store.take_helpers(2), store.take_helpers(9), store.take_helpers(1));
        assert_eq!((first.count, second.count, third.count), (2, 1, 0));
        drop((first, third));
        assert_eq!(store.take_helpers(9).count, 2);
        drop(second);
        assert_eq!(store.take_helpers(9).count, 3);
    }

    #[test]
    fn an_id_is_reserved_by_one_at_a_time_and_handed_on_whatever_happens() {
        let store = ChunkStore::new(LockOrder::new(), 0);
        let first = store.reserve(id(1), || Ok(())).unwrap();
        let other = store.reserve(id(2), || Ok(())).unwrap();
        assert!(store.reserve(id(1), || Err(Error::Closed)).is_err());
        thread::scope(|scope| {
            let waits = scope.spawn(|| store.reserve(id(1), || Ok(())).map(drop));
            drop(first);
            waits.join().unwrap().unwrap();
        });
        drop(other);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _reserved = store.reserve(id(1), || Ok(())).unwrap();
            panic!("in the middle");
        }));
        assert!(panicked.is_err());
        drop(store.reserve(id(1), || Err(Error::Closed)).unwrap());
    }
}
