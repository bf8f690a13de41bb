//! Any bytes in any file, anything in place of any file: the exact data or an error that names a file, never anything else.
//!
//! Small databases are damaged one file at a time, then opened, read in every way, verified, written to and opened again:
//!
//! ```text
//!  closed      a clean end: every flip is found, or hit bytes that carry nothing
//!  crashed     logs without an end: what was never known synced may go, as a tail of the commits
//!  layered     segments in levels, tombstones of ranges, versions kept for a view, a sealed log and an open one
//!  folding     sums, lists and first values: operands in segments, memtables and logs, kept apart for a view
//!  indexed     segments with perfect-hash index and filter, small ones and one that is large enough to get it by itself
//!  past        segments of the history tier with differences and open tombstones, a timeline, a pin, a purge; versions in several blocks
//! ```
//!
//! Without `CHRONOLITH_HOSTILE_FULL=1` one drawn bit pattern is flipped in each byte and some lengths are left out. `CHRONOLITH_HOSTILE_ONLY`
//! takes those with that in their names.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::exit,
    reason = "a test fails by panicking and tells what it ran"
)]

#[path = "support/strategies.rs"]
#[expect(dead_code, reason = "a part of it is for other tests")]
mod strategies;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use chronolith::{
    Db, Durability, Error, Keyspace, KeyspaceOptions, Options, Policy, Range, ReadOutcome, ReadStep,
    env::{Fault, Loss, Sim},
};
use strategies::Strategy;

/// No step over files of some kilobytes asks for more memory at once.
const LARGEST_REQUEST: usize = 16 << 20;

/// No case takes longer, whatever else the machine does: they take some milliseconds, and a busy machine may stop for half a minute.
const LONGEST_CASE: Duration = Duration::from_secs(120);

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, noting the largest request of each thread.
struct Watched;

#[expect(unsafe_code, reason = "only an allocator sees what a damaged length asks for")]
// SAFETY: every call goes on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        note(new_size);
        // SAFETY: as the caller promised.
        unsafe { System.realloc(ptr, layout, new_size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static WATCHED: Watched = Watched;

fn note(size: usize) {
    // A thread that ends has no counter any more.
    let _noted = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
}

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// What a keyspace is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Plain,
    /// Every segment has a perfect-hash index.
    Indexed,
    Sum,
    List,
    First,
    /// The past is kept, with an index or without.
    Kept,
    KeptIndexed,
}

/// Keyspaces in the order of their names.
type Spaces = &'static [(&'static str, Sort)];

const PLAIN: Spaces = &[("left", Sort::Plain), ("right", Sort::Plain)];
const INDEXED: Spaces = &[("left", Sort::Indexed), ("right", Sort::Indexed)];
const PAST: Spaces = &[("indexed", Sort::KeptIndexed), ("kept", Sort::Kept)];
const FOLDING: Spaces = &[("first", Sort::First), ("list", Sort::List), ("sum", Sort::Sum)];

fn names(spaces: Spaces) -> Vec<&'static str> {
    spaces.iter().map(|(name, _)| *name).collect()
}

impl Sort {
    fn strategy(self) -> Strategy {
        match self {
            Self::Sum => Strategy::Sum,
            Self::List => Strategy::Append,
            Self::First => Strategy::FirstWins,
            Self::Plain | Self::Indexed | Self::Kept | Self::KeptIndexed => Strategy::LastWins,
        }
    }

    fn options(self) -> KeyspaceOptions {
        let new = KeyspaceOptions::new().merge(self.strategy().option());
        match self {
            Self::Plain | Self::List | Self::First => new,
            Self::Indexed | Self::Sum => new.point_index(true),
            Self::Kept => new.policy(Policy::mvcc(2, Duration::from_secs(3600))),
            Self::KeptIndexed => Self::Kept.options().point_index(true),
        }
    }

    /// What a put makes of a keyspace.
    fn put(self, content: &mut Content, key: &[u8], value: &[u8]) {
        if !(self.strategy().decides() && content.contains_key(key)) {
            content.insert(key.to_vec(), self.strategy().fold([value]).unwrap());
        }
    }

    /// What an operand makes of it.
    fn merge(self, content: &mut Content, key: &[u8], operand: &[u8]) {
        match content.get_mut(key) {
            Some(value) if self.strategy().folds() => *value = self.strategy().add(value, operand).unwrap(),
            _ => self.put(content, key, operand),
        }
    }

    /// A value for a late write.
    fn late(self) -> &'static [u8] {
        if self == Self::Sum { b"\x07\0\0\0\0\0\0\0" } else { b"late" }
    }
}

/// The database just after a commit.
#[derive(Clone, Debug)]
struct Moment {
    seqno: u64,
    time: SystemTime,
    spaces: Vec<Content>,
}

/// A record of a log, as `docs/format/wal.md` draws it.
#[derive(Clone, Copy, Debug)]
struct Record {
    start: usize,
    end: usize,
    synced_upto: usize,
    is_data: bool,
}

const LOG_HEADER_LEN: usize = 32;
const RECORD_HEADER_LEN: usize = 24;

fn records(bytes: &[u8]) -> Vec<Record> {
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let mut found = Vec::new();
    let mut start = LOG_HEADER_LEN;
    while start + RECORD_HEADER_LEN <= bytes.len() && bytes[start..start + RECORD_HEADER_LEN].iter().any(|b| *b != 0) {
        let end = start + RECORD_HEADER_LEN + number(start + 4);
        found.push(Record { start, end, synced_upto: number(start + 16), is_data: bytes[start + 20] == 1 });
        start = end.next_multiple_of(8);
    }
    found
}

/// A database to damage.
struct Template {
    name: &'static str,
    spaces: Spaces,
    sim: Sim,
    clean: bool,
    moments: Vec<Moment>,
    /// Pins, each with the number of its moment.
    pins: Vec<(String, usize)>,
    /// Seqnos at which the undamaged database answers.
    answered: BTreeSet<u64>,
    files: Vec<(PathBuf, Vec<u8>)>,
    /// What files held earlier, oldest first.
    older: BTreeMap<PathBuf, Vec<Vec<u8>>>,
}

fn options(sim: &Sim, mmap: bool) -> Options {
    Options::new().env(sim.clone()).memory_budget(4 << 20).durability(Durability::Buffered).mmap(mmap)
}

struct Builder {
    sim: Sim,
    db: Db,
    sorts: Spaces,
    spaces: Vec<Keyspace>,
    moments: Vec<Moment>,
    older: BTreeMap<PathBuf, Vec<Vec<u8>>>,
}

enum Op {
    Put(usize, String, Vec<u8>),
    Merge(usize, String, Vec<u8>),
    Delete(usize, String),
    Range(usize, String, String),
    Purge(usize, String),
}

fn put(space: usize, key: usize, round: usize) -> Op {
    // Inline, copied and shared lengths.
    let len = match (key * 7 + round) % 9 {
        0 => 0,
        4 => 600,
        6 => 90,
        n => n * 3,
    };
    let text = format!("{space}.{key}.{round}.");
    Op::Put(space, name(key), text.bytes().cycle().take(len).collect())
}

fn name(key: usize) -> String {
    format!("key-{key:02}")
}

fn delete(space: usize, key: usize) -> Op {
    Op::Delete(space, name(key))
}

fn delete_range(space: usize, from: usize, to: usize) -> Op {
    Op::Range(space, name(from), name(to))
}

/// An operand of a sum, or of another keyspace.
fn merge(space: usize, key: usize, operand: impl AsRef<[u8]>) -> Op {
    Op::Merge(space, name(key), operand.as_ref().to_vec())
}

impl Builder {
    fn new(seed: u64, sorts: Spaces) -> Self {
        let sim = Sim::new(seed);
        // Too little to reserve room in logs: each byte of a log carries something.
        sim.set_space(Some(900 << 10));
        let db = options(&sim, true).open("db").unwrap();
        let nothing = Moment { seqno: 0, time: sim.now(), spaces: vec![Content::new(); sorts.len()] };
        let mut new = Self { sim, db, sorts, spaces: Vec::new(), moments: vec![nothing], older: BTreeMap::new() };
        new.spaces = new.handles();
        new.capture();
        new
    }

    fn handles(&self) -> Vec<Keyspace> {
        self.sorts.iter().map(|(name, sort)| self.db.keyspace(name, sort.options()).unwrap()).collect()
    }

    fn capture(&mut self) {
        for path in self.sim.files() {
            let bytes = self.sim.read_file(&path).unwrap();
            let seen = self.older.entry(path).or_default();
            if seen.last() != Some(&bytes) {
                seen.push(bytes);
            }
        }
    }

    fn commit(&mut self, ops: Vec<Op>) {
        let mut batch = self.db.batch();
        let mut moment = self.moments.last().unwrap().clone();
        for op in ops {
            match op {
                Op::Put(space, key, value) => {
                    batch.put(&self.spaces[space], &key, &value);
                    self.sorts[space].1.put(&mut moment.spaces[space], key.as_bytes(), &value);
                }
                Op::Merge(space, key, operand) => {
                    batch.merge(&self.spaces[space], &key, &operand);
                    self.sorts[space].1.merge(&mut moment.spaces[space], key.as_bytes(), &operand);
                }
                Op::Delete(space, key) => {
                    batch.delete(&self.spaces[space], &key);
                    moment.spaces[space].remove(key.as_bytes());
                }
                Op::Purge(space, key) => {
                    batch.purge(&self.spaces[space], &key);
                    moment.spaces[space].remove(key.as_bytes());
                    for earlier in &mut self.moments {
                        earlier.spaces[space].remove(key.as_bytes());
                    }
                }
                Op::Range(space, from, to) => {
                    batch.delete_range(&self.spaces[space], from.as_str()..to.as_str());
                    moment.spaces[space]
                        .retain(|key, _| key < &from.clone().into_bytes() || key >= &to.clone().into_bytes());
                }
            }
        }
        if self.sorts == PAST {
            self.sim.set_time(self.sim.now() + Duration::from_millis(3));
        }
        let receipt = batch.commit().unwrap();
        (moment.seqno, moment.time) = (receipt.seqno.into(), receipt.time);
        self.moments.push(moment);
        self.capture();
    }

    fn round(&mut self, round: usize, keys: impl Iterator<Item = usize>) {
        for key in keys {
            self.commit(vec![put(0, key, round), put(1, key * 2 % 20, round)]);
        }
    }

    fn flush(&mut self) {
        self.db.flush().unwrap();
        self.capture();
    }

    fn compact(&mut self) {
        self.db.compact().unwrap();
        self.capture();
    }

    fn persist(&mut self) {
        self.db.persist().unwrap();
        self.capture();
    }

    fn reopen(&mut self) {
        self.spaces.clear();
        self.db = options(&self.sim, true).open("db").unwrap();
        self.spaces = self.handles();
        self.capture();
    }

    fn close(&mut self) {
        self.db.clone().close().unwrap();
        self.capture();
    }

    fn crash(&mut self) {
        self.sim.cut_power_with(Loss::Nothing);
    }

    fn logs(&self) -> Vec<PathBuf> {
        self.sim.files().into_iter().filter(|path| kind(path) == "log").collect()
    }

    /// Adds to a sum and to a list in several ways, and tries to set a first value.
    fn fold(&mut self, round: usize, keys: impl Iterator<Item = usize>) {
        for key in keys {
            let number = i64::try_from(round * 100 + key).unwrap().to_le_bytes();
            self.commit(vec![
                merge(2, key, number),
                merge(2, key * 2 % 20, number),
                merge(1, key, format!("{round}.{key}")),
                merge(1, key, format!("again {round}")),
                Op::Put(0, name(key), format!("first in {round}").into_bytes()),
                merge(0, key + 1, format!("one on in {round}")),
            ]);
        }
    }

    /// Whether gets go through an index, and pass a filter on the way.
    fn is_indexed(&self) -> (bool, bool) {
        let (mut slots, mut filters) = (false, false);
        for step in (0..22).flat_map(|key| self.spaces[0].explain(name(key)).unwrap().steps) {
            if let ReadStep::Segment { slot, filter, .. } = step {
                slots |= slot.is_some();
                filters |= filter.is_some();
            }
        }
        (slots, filters)
    }

    fn end(self, name: &'static str, clean: bool) -> Template {
        let Self { sim, db, sorts, spaces, moments, older } = self;
        drop((db, spaces));
        sim.clear_faults();
        let files = sim.files().into_iter().map(|path| (path.clone(), sim.read_file(&path).unwrap())).collect();
        let (answered, pins) = (BTreeSet::new(), Vec::new());
        let mut template = Template { name, spaces: sorts, sim, clean, moments, pins, answered, files, older };
        template.answered = template.answers();
        template
    }
}

/// Segments and tombstones, and two logs that a clean close ended.
fn closed(seed: u64, spaces: Spaces) -> Option<Template> {
    let mut b = Builder::new(seed, spaces);
    b.round(1, 0..8);
    b.flush();
    b.round(2, (2..12).step_by(3));
    b.commit(vec![delete_range(0, 3, 6), delete(1, 4), put(0, 4, 2)]);
    b.persist();
    b.compact();
    b.round(3, 6..10);
    b.commit(vec![delete_range(1, 0, 5), put(1, 2, 3)]);
    b.flush();
    b.round(4, 10..14);
    b.close();
    b.reopen();
    b.commit(vec![delete(0, 7), put(1, 9, 5)]);
    b.commit(vec![delete_range(0, 0, 2), put(0, 1, 5)]);
    b.close();
    let logs = b.logs();
    (logs.len() == 2).then(|| b.end("closed", true))
}

/// A value that differs from that of another round in a few bytes.
fn alike(space: usize, key: usize, round: usize) -> Op {
    let text = format!(
        "{{\"key\":{key},\"padding\":\"{}\",\"round\":{round:04},\"more\":\"{}\"}}",
        "x".repeat(40),
        "y".repeat(30)
    );
    Op::Put(space, name(key), text.into_bytes())
}

/// Bytes that are like no others.
fn unlike(space: usize, key: usize, round: usize, len: usize) -> Op {
    Op::Put(space, name(key), (0..len).map(|n| noise(n as u64, (round * 100 + key) as u64)).collect())
}

/// Versions in the history tier, a timeline, a pin and a purge; with `long` ones that fill several blocks.
fn past(seed: u64, clean: bool, long: bool) -> Option<Template> {
    let mut b = Builder::new(seed, PAST);
    b.commit((0..7).flat_map(|key| [alike(0, key, 0), alike(1, key, 0), alike(1, key + 10, 0)]).collect());
    b.commit(vec![alike(0, 9, 1), alike(1, 9, 1)]);
    for round in 2..if long { 5 } else { 6 } {
        b.commit(vec![alike(0, 1, round), alike(1, 1, round), alike(1, round, round)]);
        b.commit(vec![alike(0, 1, round + 10), delete(1, 2), delete(0, round)]);
        if long {
            b.commit(vec![unlike(1, 5, round, 30_000), alike(0, 5, round)]);
            b.commit(vec![unlike(1, 5, round + 10, 29_000), alike(0, 5, round + 10)]);
        }
        b.commit(vec![alike(0, 1, round + 20), alike(1, 1, round + 20), delete_range(1, 3, 5)]);
        b.flush();
        match round {
            2 => drop(b.db.pin("second").unwrap()),
            3 => b.commit(vec![Op::Purge(0, name(9)), delete(0, 6)]),
            4 => b.compact(),
            _ => {}
        }
    }
    let pinned = b.moments.iter().rposition(|moment| moment.seqno <= b.db.pins()[0].seqno.into()).unwrap();
    b.commit(vec![alike(0, 3, 30), delete(1, 1)]);
    b.flush();
    b.commit(vec![alike(0, 3, 31), alike(1, 1, 31)]);
    let history = b.db.stats().space.history;
    if clean {
        b.close();
    } else {
        b.persist();
        b.commit(vec![alike(0, 1, 40), delete(1, 3)]);
        b.commit(vec![alike(0, 1, 41), alike(1, 3, 41)]);
        b.crash();
    }
    let found = b.logs().len() == 1 && history > 0 && (clean || marks(&b) == (true, true));
    let name = match (clean, long) {
        (true, true) => "past, long",
        (true, false) => "past",
        (false, _) => "past, crashed",
    };
    found.then(|| {
        let mut template = b.end(name, clean);
        template.pins.push(("second".to_owned(), pinned));
        template
    })
}

/// Segments with indexes and filters, and a clean end.
fn indexed(seed: u64) -> Option<Template> {
    let mut b = Builder::new(seed, INDEXED);
    b.round(1, 0..8);
    b.compact();
    let view = b.db.snapshot();
    b.round(2, (2..12).step_by(3));
    b.commit(vec![delete_range(0, 3, 6), delete(1, 4), put(0, 4, 2)]);
    b.flush();
    b.round(3, 5..8);
    let found = b.is_indexed();
    drop(view);
    b.close();
    (found == (true, true)).then(|| b.end("indexed", true))
}

/// A segment that is large enough to get an index without being told to, and a smaller one above it.
fn large(seed: u64) -> Option<Template> {
    let mut b = Builder::new(seed, PLAIN);
    let many = |space: usize| (0..1100).map(move |n| Op::Put(space, format!("key-{n:02}"), vec![b'v'; n % 4]));
    b.commit(many(0).chain([put(1, 1, 1)]).collect());
    b.compact();
    b.commit(vec![put(0, 3, 2), delete(0, 5)]);
    let found = b.is_indexed();
    b.close();
    found.0.then(|| b.end("large, indexed", true))
}

/// Operands in segments that a view kept apart, in a memtable and in its log; a clean end, or none.
fn folding(seed: u64, clean: bool) -> Option<Template> {
    let mut b = Builder::new(seed, FOLDING);
    b.fold(1, 0..4);
    b.flush();
    let first = b.db.snapshot();
    b.fold(2, 2..5);
    b.commit(vec![delete(0, 2), delete(1, 2), Op::Put(2, name(3), 5_i64.to_le_bytes().to_vec())]);
    b.fold(3, 2..4);
    b.compact();
    b.commit(vec![delete_range(0, 0, 2), delete_range(1, 0, 3), delete_range(2, 0, 1), merge(2, 0, [1; 8])]);
    b.flush();
    b.fold(4, 0..3);
    drop(first);
    if clean {
        b.close();
    } else {
        b.persist();
        b.fold(5, 1..3);
        b.crash();
    }
    let segments = b.sim.files().iter().filter(|path| kind(path) == "segment").count();
    let found = b.logs().len() == 1 && segments >= 4 && (clean || marks(&b) == (true, true));
    found.then(|| b.end(if clean { "folding" } else { "folding, crashed" }, clean))
}

/// One log without an end, synced twice in the middle.
fn crashed(seed: u64) -> Option<Template> {
    let mut b = Builder::new(seed, PLAIN);
    b.round(1, 0..6);
    b.flush();
    b.round(2, 2..6);
    b.persist();
    b.round(3, 4..8);
    b.commit(vec![delete_range(0, 0, 3), delete(1, 8)]);
    b.persist();
    b.round(4, 8..12);
    b.crash();
    (b.logs().len() == 1 && marks(&b) == (true, true)).then(|| b.end("crashed", false))
}

/// A crash, an open that wrote down where the log ended, and another crash.
fn crashed_twice(seed: u64) -> Option<Template> {
    let mut b = Builder::new(seed, PLAIN);
    b.round(1, 0..5);
    b.persist();
    b.round(2, 3..6);
    b.crash();
    b.reopen();
    b.round(3, 5..8);
    b.crash();
    let logs = b.logs();
    (logs.len() == 2).then(|| b.end("crashed twice", false))
}

/// Levels, tombstones, versions that a view kept, a sealed log and an open one. With `synced` the open one has a mark.
fn layered(seed: u64, fail: u64, synced: bool, spaces: Spaces) -> Option<Template> {
    let mut b = Builder::new(seed, spaces);
    b.round(1, 0..8);
    b.compact();
    let first = b.db.snapshot();
    b.round(2, 0..4);
    b.commit(vec![delete_range(0, 2, 7), put(0, 3, 2)]);
    b.flush();
    let second = b.db.snapshot();
    b.round(3, 2..6);
    b.commit(vec![delete_range(1, 3, 9)]);
    b.compact();
    b.round(4, 1..3);
    b.flush();
    b.round(5, 3..6);
    // The log is sealed, but the flush that would end its time fails.
    b.sim.fail_at(b.sim.calls() + fail, Fault::Enospc);
    if b.db.flush().is_ok() || b.logs().len() != 2 {
        return None;
    }
    b.sim.clear_faults();
    b.round(6, 5..7);
    if b.logs().len() != 2 {
        return None;
    }
    if synced {
        b.persist();
        b.round(7, 7..9);
    }
    drop((first, second));
    b.crash();
    let [old, new] = <[PathBuf; 2]>::try_from(b.logs()).ok()?;
    let found = [old, new].map(|path| records(&b.sim.read_file(&path).unwrap()));
    let sealed = found[0].last().is_some_and(|record| !record.is_data);
    let marked = found[1].iter().any(|record| record.synced_upto > 0);
    let segments = b.sim.files().iter().filter(|path| kind(path) == "segment").count();
    let name = if synced { "layered, synced" } else { "layered" };
    (sealed && marked == synced && !found[1].is_empty() && segments >= 4).then(|| b.end(name, false))
}

/// Whether the only log has records below a mark, and some beyond.
fn marks(b: &Builder) -> (bool, bool) {
    let found = records(&b.sim.read_file(&b.logs()[0]).unwrap());
    let mark = found.iter().map(|record| record.synced_upto).max().unwrap_or(0);
    (mark > LOG_HEADER_LEN, found.iter().any(|record| record.start >= mark))
}

fn templates() -> Vec<Template> {
    // Background steps run at drawn points: the first seed that leaves the files that are wanted.
    let first = |build: &dyn Fn(u64) -> Option<Template>| (1..2000).find_map(build).expect("a seed for each state");
    let layered = |synced, spaces| first(&|n| layered(n / 12, n % 12, synced, spaces));
    let only = std::env::var("CHRONOLITH_HOSTILE_ONLY").unwrap_or_default();
    let all = vec![
        first(&|seed| closed(seed, PLAIN)),
        first(&crashed),
        first(&crashed_twice),
        layered(false, PLAIN),
        layered(true, INDEXED),
        first(&|seed| folding(seed, true)),
        first(&|seed| folding(seed, false)),
        first(&indexed),
        first(&large),
        first(&|seed| past(seed, true, false)),
        first(&|seed| past(seed, false, false)),
        first(&|seed| past(seed, true, true)),
    ];
    all.into_iter().filter(|template| template.name.contains(&only)).collect()
}

fn kind(path: &Path) -> &'static str {
    let text = path.to_string_lossy();
    match () {
        () if text.ends_with(".wal") => "log",
        () if text.ends_with(".seg") => "segment",
        () if text.contains("MANIFEST-") => "manifest",
        () if text.ends_with("CURRENT") => "current",
        () => "lock",
    }
}

/// What happens to one file.
#[derive(Clone, Debug)]
enum Damage {
    None,
    Flip(usize, u8),
    Cut(usize),
    Zeros(usize),
    Garbage(usize),
    Sector(usize),
    Noise,
    Delete,
    /// The bytes of another file, or of this one at another time.
    Replace(&'static str, Vec<u8>),
    Swap(PathBuf),
}

impl Damage {
    fn name(&self) -> String {
        match self {
            Self::Flip(at, mask) => format!("byte {at} flipped by {mask:#04x}"),
            Self::Cut(len) => format!("cut to {len} bytes"),
            Self::Zeros(by) => format!("{by} zeros added"),
            Self::Garbage(by) => format!("{by} bytes of garbage added"),
            Self::Sector(at) => format!("sector at {at} zeroed"),
            Self::Replace(what, bytes) => format!("replaced by {what} of {} bytes", bytes.len()),
            Self::Swap(with) => format!("swapped with {}", with.display()),
            Self::None | Self::Noise | Self::Delete => format!("{self:?}"),
        }
    }

    /// The bytes that stand there afterwards.
    fn apply(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut bad = bytes.to_vec();
        match self {
            Self::None | Self::Swap(_) => {}
            Self::Flip(at, mask) => bad[*at] ^= mask,
            Self::Cut(len) => bad.truncate(*len),
            Self::Zeros(by) => bad.resize(bad.len() + by, 0),
            Self::Garbage(by) => bad.extend((0..*by).map(|n| noise(n as u64, bytes.len() as u64))),
            Self::Sector(at) => {
                let end = bad.len().min(at + 512);
                bad[*at..end].fill(0);
            }
            Self::Noise => bad = (0..bytes.len()).map(|n| noise(n as u64, 7)).collect(),
            Self::Delete => return None,
            Self::Replace(_, other) => bad.clone_from(other),
        }
        Some(bad)
    }
}

/// A drawn byte.
fn noise(a: u64, b: u64) -> u8 {
    let mixed = (a ^ b.rotate_left(32) ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed >> 40).to_le_bytes()[0]
}

#[derive(Clone, Debug)]
struct Case {
    template: usize,
    file: usize,
    damage: Damage,
    mmap: bool,
}

/// Every case of a template.
fn cases(index: usize, template: &Template, foreign: &BTreeMap<PathBuf, Vec<u8>>, full: bool) -> Vec<Case> {
    let mut all = Vec::new();
    for (file, (path, bytes)) in template.files.iter().enumerate() {
        let len = bytes.len();
        let mut damages = vec![Damage::None, Damage::Noise, Damage::Delete];
        // A large segment has more of the same; at its end are filter, index and sections.
        // Of a past more is read in each case.
        let step = if template.spaces == PAST { 5 } else { 1 };
        let near_end = |at: usize| at + 9_000 > len && at.is_multiple_of(7 * step);
        let sampled = |at: usize| {
            full || len < 16_000 && (at + index).is_multiple_of(step) || at.is_multiple_of(61 * step) || near_end(at)
        };
        for at in (0..len).filter(|at| sampled(*at)) {
            if full {
                damages.extend((0..8).map(|bit| Damage::Flip(at, 1 << bit)));
            } else {
                damages.push(Damage::Flip(at, noise(at as u64, (index * 100 + file) as u64).max(1)));
            }
        }
        let starts = if kind(path) == "log" || kind(path) == "manifest" { records(bytes) } else { Vec::new() };
        let near = |at: usize| {
            let edges = [0, LOG_HEADER_LEN, len].into_iter().chain(starts.iter().map(|record| record.start));
            edges.into_iter().any(|edge| at.abs_diff(edge) <= 8)
        };
        let cut = |at: &usize| full || len <= 600 || near(*at) || sampled(*at) && (at / step).is_multiple_of(5);
        damages.extend((0..len).filter(cut).map(Damage::Cut));
        for by in [1, 8, 24, 44, 512, 4096] {
            damages.extend([Damage::Zeros(by), Damage::Garbage(by)]);
        }
        damages.extend((0..len).step_by(512).map(Damage::Sector));
        let alike = |other: &&(PathBuf, Vec<u8>)| kind(&other.0) == kind(path) && other.0 != *path;
        for (other, bytes) in template.files.iter().filter(alike) {
            damages.extend([Damage::Replace("another file", bytes.clone()), Damage::Swap(other.clone())]);
        }
        // Kinds crossed over, once each.
        for (other, bytes) in template.files.iter().filter(|other| kind(&other.0) != kind(path)).take(4) {
            damages.extend([Damage::Replace("a file of another kind", bytes.clone()), Damage::Swap(other.clone())]);
        }
        for old in template.older.get(path).into_iter().flatten().filter(|old| *old != bytes) {
            damages.push(Damage::Replace("its older version", old.clone()));
        }
        // Older files of the kind that exist no more.
        for (other, versions) in template.older.iter().filter(|(other, _)| kind(other) == kind(path) && *other != path)
        {
            let gone = !template.files.iter().any(|(there, _)| there == other);
            damages
                .extend(versions.last().filter(|_| gone).map(|old| Damage::Replace("a file that went", old.clone())));
        }
        damages.extend(foreign.get(path).map(|bytes| Damage::Replace("another database's", bytes.clone())));
        for (n, damage) in damages.into_iter().enumerate() {
            // Only segments are mapped, but what opens them is not theirs alone.
            let both = full || !matches!(damage, Damage::Flip(..) | Damage::Cut(_));
            let wanted = |mmap: bool| match kind(path) {
                "segment" => mmap || n % 4 == 0,
                _ => mmap == (n % 2 == 0),
            };
            for mmap in [true, false].into_iter().filter(|mmap| both || wanted(*mmap)) {
                all.push(Case { template: index, file, damage: damage.clone(), mmap });
            }
        }
    }
    all
}

/// How a case went that is as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// Opening was refused.
    Refused,
    /// A read or `verify` told.
    Found,
    /// All data is there, and nothing was told.
    Exact,
    /// What was never known synced is gone, as a tail of the commits.
    Shorter,
}

/// The commits that may be gone: after damage, at least `floor` moments must be there.
fn floor(template: &Template, path: &Path, bad: Option<&[u8]>) -> usize {
    let all = template.moments.len();
    if template.clean || kind(path) != "log" {
        return all;
    }
    let logs: Vec<_> = template.files.iter().filter(|(path, _)| kind(path) == "log").collect();
    let found: Vec<_> = logs.iter().map(|(_, bytes)| records(bytes)).collect();
    let log = logs.iter().position(|(there, _)| there == path).unwrap();
    let original = &logs[log].1;
    let bad = bad.unwrap_or_default();
    let same = |from: usize, to: usize| bad.get(from..to) == original.get(from..to);
    let is_data = |record: &&Record| record.is_data;
    let first = if same(0, LOG_HEADER_LEN) { found[log].iter().position(|r| !same(r.start, r.end)) } else { Some(0) };
    let Some(first) = first else { return all };
    let at = if same(0, LOG_HEADER_LEN) { found[log][first].start } else { 0 };
    let marked = found[log].iter().any(|r| same(r.start, r.start + RECORD_HEADER_LEN) && r.synced_upto > at);
    if marked || found[log + 1..].iter().flatten().any(|record| record.synced_upto > 0) {
        return all;
    }
    let lost = found[log][first..].iter().chain(found[log + 1..].iter().flatten()).filter(is_data).count();
    all - lost
}

/// Whether an error says which file, or at least which database.
fn check_named(error: &Error, while_: &str) -> Result<(), String> {
    let is_right = match error {
        Error::Corrupt { path, .. }
        | Error::Missing { path }
        | Error::NewerFormat { path, .. }
        | Error::Io { path, .. } => path.starts_with("db"),
        Error::Invalid { .. } => error.to_string().contains("db"),
        _ => false,
    };
    if is_right { Ok(()) } else { Err(format!("{while_}: an error that names no file: {error:?}")) }
}

/// What reading found: errors that were told, while everything else was exact.
#[derive(Default)]
struct Told {
    errors: Vec<String>,
}

impl Told {
    fn note<T>(&mut self, result: chronolith::Result<T>, while_: &str) -> Result<Option<T>, String> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                check_named(&error, while_)?;
                self.errors.push(format!("{while_}: {error}"));
                Ok(None)
            }
        }
    }

    fn scan<'a>(
        &mut self,
        found: impl Iterator<Item = chronolith::Result<(chronolith::Bytes, chronolith::Bytes)>>,
        expected: impl Iterator<Item = (&'a Vec<u8>, &'a Vec<u8>)>,
        while_: &str,
    ) -> Result<(), String> {
        let mut expected = expected;
        for item in found {
            let Some((key, value)) = self.note(item, while_)? else { return Ok(()) };
            match expected.next() {
                Some((k, v)) if key == k.as_slice() && value == v.as_slice() => {}
                other => return Err(format!("{while_}: found {key:?}, expected {:?}", other.map(|(key, _)| key))),
            }
        }
        match expected.next() {
            None => Ok(()),
            Some((key, _)) => {
                Err(format!("{while_}: it ended before {:?} without an error", key.escape_ascii().to_string()))
            }
        }
    }

    /// Reads everything of one moment, through ranges and gets.
    fn read(
        &mut self,
        content: &Content,
        range: impl Fn() -> Range,
        get: impl Fn(&[u8]) -> chronolith::Result<Option<chronolith::Bytes>>,
        what: &str,
    ) -> Result<(), String> {
        self.scan(range(), content.iter(), &format!("{what}, forwards"))?;
        self.scan(range().rev(), content.iter().rev(), &format!("{what}, backwards"))?;
        for key in (0..22).chain((22..content.len()).step_by(60)) {
            let key = name(key).into_bytes();
            if let Some(found) = self.note(get(&key), &format!("{what}, get"))?
                && found.as_deref() != content.get(&key).map(Vec::as_slice)
            {
                return Err(format!("{what}: get of {} gave {found:?}", key.escape_ascii()));
            }
        }
        Ok(())
    }
}

fn is_trimmed(mut range: Range) -> bool {
    range.any(|item| matches!(item, Err(Error::HistoryTrimmed { .. })))
}

impl Template {
    /// The seqnos at which the past is asked for.
    fn asked(&self, moments: usize) -> impl Iterator<Item = &Moment> {
        let step = (moments / 5).max(1);
        self.moments[..moments].iter().rev().step_by(step)
    }

    /// At which seqnos the undamaged database answers.
    fn answers(&self) -> BTreeSet<u64> {
        let sim = self.sim.fork();
        let db = options(&sim, true).open("db").unwrap();
        let spaces = self.handles(&db);
        let mut answered = BTreeSet::new();
        for moment in self.asked(self.moments.len()) {
            let view = db.as_of(moment.seqno).unwrap();
            if spaces.iter().all(|space| !is_trimmed(view.range(space, ..))) {
                answered.insert(moment.seqno);
            }
        }
        answered
    }

    fn handles(&self, db: &Db) -> Vec<Keyspace> {
        self.spaces.iter().map(|(name, _)| db.keyspace(name, KeyspaceOptions::new()).unwrap()).collect()
    }

    /// Opens, and finds out which moment it is.
    fn open(&self, sim: &Sim, mmap: bool) -> chronolith::Result<(Db, usize)> {
        let db = options(sim, mmap).open("db")?;
        let seqno: u64 = db.snapshot().seqno().into();
        let moments = self.moments.partition_point(|moment| moment.seqno <= seqno);
        Ok((db, moments))
    }

    fn read_present(db: &Db, spaces: &[Keyspace], now: &[Content], told: &mut Told) -> Result<(), String> {
        for (space, content) in spaces.iter().zip(now) {
            told.read(content, || space.range(..), |key| space.get(key), space.name())?;
            for key in 0..22 {
                let key = name(key);
                let Some(explained) = told.note(space.explain(&key), "explain")? else { continue };
                let is_there = matches!(explained.outcome, ReadOutcome::Value | ReadOutcome::Folded(_));
                if is_there != content.contains_key(key.as_bytes()) {
                    return Err(format!("{}: {key} is explained by {explained}", space.name()));
                }
            }
        }
        let report = told.note(db.verify(), "verify")?;
        for finding in report.into_iter().flat_map(|report| report.findings) {
            if !finding.path.starts_with("db") {
                return Err(format!("a finding that names no file: {finding:?}"));
            }
            told.errors.push(format!("verify: {}", finding.what));
        }
        Ok(())
    }

    fn read_past(&self, db: &Db, spaces: &[Keyspace], moments: usize, told: &mut Told) -> Result<(), String> {
        for moment in self.asked(moments) {
            let Some(view) = told.note(db.as_of(moment.seqno), "as_of")? else { continue };
            for (space, content) in spaces.iter().zip(&moment.spaces) {
                let what = format!("{} as of {}", space.name(), moment.seqno);
                if self.answered.contains(&moment.seqno) {
                    told.read(content, || view.range(space, ..), |key| view.get(space, key), &what)?;
                } else {
                    // Some of it is gone in the undamaged database too; what is left is asked for all the same.
                    let _left = view.range(space, ..).flatten().count();
                }
            }
        }
        Ok(())
    }

    /// Asks for the past in all other ways.
    fn read_times(&self, db: &Db, spaces: &[Keyspace], moments: usize, told: &mut Told) -> Result<(), String> {
        let (_stats, there) = (db.stats(), &self.moments[..moments]);
        for moment in self.asked(moments) {
            let Some(view) = told.note(db.as_of_time(moment.time), "as_of_time")? else { continue };
            // The moments are those of commits: behind the last one of a time something may have been decided.
            let told = there.iter().map(|moment| moment.seqno).filter(|seqno| *seqno <= u64::from(view.seqno())).max();
            if moment.seqno > 0 && told != Some(moment.seqno) {
                return Err(format!("as of the time of {} it is {}", moment.seqno, view.seqno()));
            }
        }
        let mut expected = there[1..].iter();
        let mut whole = true;
        for commit in db.commits(..) {
            let Some(commit) = told.note(commit, "commits")? else {
                whole = false;
                break;
            };
            let next = expected.next();
            if next.is_none_or(|next| next.seqno != u64::from(commit.seqno) || next.time != commit.time) {
                return Err(format!("commits tell {commit:?}, expected {:?}", next.map(|next| next.seqno)));
            }
        }
        if let (true, Some(missing)) = (whole, expected.next()) {
            return Err(format!("commits end before {}", missing.seqno));
        }
        for (number, space) in spaces.iter().enumerate() {
            for key in [0, 1, 2, 3, 5, 9, 12] {
                let what = format!("history of key {key} in {}", space.name());
                Self::read_history(space, number, name(key).as_bytes(), there, told, &what)?;
            }
            let (first, last) = (&there[moments / 3], &there[moments - 1]);
            let Some(before) = told.note(db.as_of(first.seqno), "as_of")? else { continue };
            let Some(after) = told.note(db.as_of(last.seqno), "as_of")? else { continue };
            let [old, new] = [first, last].map(|moment| &moment.spaces[number]);
            let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
            let mut differ = keys.into_iter().filter(|key| old.get(*key) != new.get(*key));
            let mut whole = true;
            for change in db.diff(&before, &after, space) {
                let Some(change) = told.note(change, "diff")? else {
                    whole = false;
                    break;
                };
                let next = differ.next();
                let is_right = next.is_some_and(|key| {
                    change.key == key.as_slice()
                        && change.before.as_deref() == old.get(key).map(Vec::as_slice)
                        && change.after.as_deref() == new.get(key).map(Vec::as_slice)
                });
                if !is_right {
                    return Err(format!("diff tells {:?}, expected {next:?}", change.key));
                }
            }
            if let (true, Some(missing)) = (whole, differ.next()) {
                return Err(format!("diff ends before {:?}", missing.escape_ascii().to_string()));
            }
        }
        if db.pins().iter().map(|pin| pin.name.as_str()).ne(self.pins.iter().map(|(name, _)| name.as_str())) {
            return Err(format!("the pins are {:?}", db.pins()));
        }
        for (pin, moment) in &self.pins {
            let Some(view) = told.note(db.pinned(pin), "pinned")? else { continue };
            for (space, content) in spaces.iter().zip(&self.moments[*moment].spaces) {
                let what = format!("{} as pinned", space.name());
                told.read(content, || view.range(space, ..), |key| view.get(space, key), &what)?;
            }
        }
        Ok(())
    }

    fn read_history(
        space: &Keyspace,
        number: usize,
        key: &[u8],
        moments: &[Moment],
        told: &mut Told,
        what: &str,
    ) -> Result<(), String> {
        let value = |moment: &Moment| moment.spaces[number].get(key).cloned();
        let mut expected: Vec<_> = moments
            .windows(2)
            .filter(|pair| value(&pair[0]) != value(&pair[1]))
            .map(|pair| (pair[1].seqno, pair[1].time, value(&pair[1])))
            .collect();
        for version in space.history(key) {
            let Some(version) = told.note(version, what)? else { return Ok(()) };
            let seqno = u64::from(version.seqno);
            // A delete of what was not there may be told or not.
            let there = moments.iter().rev().find(|moment| moment.seqno <= seqno);
            if version.value.is_none()
                && expected.last().is_none_or(|(next, ..)| *next != seqno)
                && there.is_some_and(|there| value(there).is_none())
            {
                continue;
            }
            let found = (seqno, version.time, version.value.map(|value| value.to_vec()));
            let next = expected.pop();
            if next.as_ref() != Some(&found) {
                return Err(format!("{what}: version {seqno}, expected {:?}", next.map(|(seqno, ..)| seqno)));
            }
        }
        match expected.last() {
            None => Ok(()),
            Some((seqno, ..)) => Err(format!("{what}: it ended before {seqno}")),
        }
    }

    /// One case from beginning to end.
    fn run(&self, file: usize, damage: &Damage, mmap: bool) -> Result<Outcome, String> {
        let sim = self.sim.fork();
        let (path, bytes) = &self.files[file];
        let floor = match damage {
            Damage::Swap(with) => {
                let theirs = &self.files.iter().find(|(path, _)| path == with).unwrap().1;
                sim.write_file(path, theirs.clone());
                sim.write_file(with, bytes.clone());
                floor(self, path, Some(theirs)).min(floor(self, with, Some(bytes)))
            }
            damage => {
                let bad = damage.apply(bytes);
                match &bad {
                    Some(bad) => sim.write_file(path, bad.clone()),
                    None => sim.remove_file(path),
                }
                floor(self, path, bad.as_deref())
            }
        };

        let mut told = Told::default();
        let Some((db, moments)) = told.note(self.open(&sim, mmap), "open")? else { return Ok(Outcome::Refused) };
        let all = self.moments.len();
        if moments < floor {
            return Err(format!("{moments} of {all} commits are left, and at least {floor} must be"));
        }
        if db.keyspaces() != names(self.spaces) {
            return Err(format!("the keyspaces are {:?}", db.keyspaces()));
        }
        let spaces = self.handles(&db);
        let mut now = self.moments[moments - 1].spaces.clone();
        Self::read_present(&db, &spaces, &now, &mut told)?;
        self.read_past(&db, &spaces, moments, &mut told)?;
        if self.spaces == PAST {
            self.read_times(&db, &spaces, moments, &mut told)?;
        }
        let outcome = match (told.errors.is_empty(), moments == all) {
            (false, _) => Outcome::Found,
            (true, true) => Outcome::Exact,
            (true, false) => Outcome::Shorter,
        };

        // What was told once may be told again; otherwise it is a healthy database.
        let mut later = Told::default();
        for ((space, (_, sort)), content) in spaces.iter().zip(self.spaces).zip(&mut now) {
            if later.note(space.put("key-11", sort.late()), "put")?.is_some() {
                sort.put(content, b"key-11", sort.late());
            }
            if later.note(space.merge("key-02", sort.late()), "merge")?.is_some() {
                sort.merge(content, b"key-02", sort.late());
            }
            if later.note(space.delete_range("key-03".."key-05"), "delete_range")?.is_some() {
                content.retain(|key, _| !(b"key-03".as_slice()..b"key-05".as_slice()).contains(&key.as_slice()));
            }
        }
        later.note(db.flush(), "flush")?;
        later.note(db.compact(), "compact")?;
        Self::read_present(&db, &spaces, &now, &mut later)?;
        drop(spaces);
        later.note(db.close(), "close")?;
        if let Some((db, _)) = later.note(self.open(&sim, mmap), "open again")? {
            if db.keyspaces() != names(self.spaces) {
                return Err(format!("opened again: the keyspaces are {:?}", db.keyspaces()));
            }
            let spaces = self.handles(&db);
            Self::read_present(&db, &spaces, &now, &mut later).map_err(|what| format!("opened again: {what}"))?;
        }
        match later.errors.first() {
            Some(error) if told.errors.is_empty() => Err(format!("nothing was wrong before: {error}")),
            _ => Ok(outcome),
        }
    }
}

/// Whether a byte carries anything: padding does not, nor the file that only says who holds the lock.
fn carries(path: &Path, bytes: &[u8], at: usize) -> bool {
    match kind(path) {
        "log" | "manifest" => at < LOG_HEADER_LEN || records(bytes).iter().any(|r| (r.start..r.end).contains(&at)),
        kind => kind == "current" || kind == "segment",
    }
}

/// What a worker is at, for the one who watches.
type Slot = Mutex<Option<(Instant, String)>>;

#[derive(Default)]
struct Tally {
    outcomes: BTreeMap<(&'static str, &'static str), BTreeMap<Outcome, usize>>,
    wrong: Vec<String>,
    flips_unseen: BTreeMap<(&'static str, String), Vec<usize>>,
}

fn run_all(templates: &[Template], cases: &[Case]) -> Tally {
    let tally = Mutex::new(Tally::default());
    let next = AtomicUsize::new(0);
    let done = AtomicBool::new(false);
    let workers = thread::available_parallelism().map_or(2, usize::from);
    let slots: Vec<Slot> = (0..workers).map(|_| Slot::default()).collect();
    thread::scope(|scope| {
        let handles: Vec<_> = slots
            .iter()
            .map(|slot| {
                scope.spawn(|| {
                    while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                        run_one(&templates[case.template], case, slot, &tally);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for slot in &slots {
                    if let Some((since, what)) = &*slot.lock().unwrap()
                        && since.elapsed() > LONGEST_CASE
                    {
                        eprintln!("it does not end: {what}");
                        std::process::exit(101);
                    }
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        for handle in handles {
            handle.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    tally.into_inner().unwrap()
}

fn run_one(template: &Template, case: &Case, slot: &Slot, tally: &Mutex<Tally>) {
    let (path, _) = &template.files[case.file];
    let map = if case.mmap { "mapped" } else { "not mapped" };
    let what = format!("{}: {} {}, {map}", template.name, path.display(), case.damage.name());
    *slot.lock().unwrap() = Some((Instant::now(), what.clone()));
    LARGEST.set(0);
    let run = catch_unwind(AssertUnwindSafe(|| template.run(case.file, &case.damage, case.mmap)));
    *slot.lock().unwrap() = None;
    let largest = LARGEST.get();
    let result = match run {
        Ok(_) if largest > LARGEST_REQUEST => Err(format!("{largest} bytes of memory at once")),
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            Err(format!(
                "panic: {}",
                text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
            ))
        }
    };
    let tally = &mut *tally.lock().unwrap();
    match result {
        Ok(outcome) => {
            *tally.outcomes.entry((template.name, kind(path))).or_default().entry(outcome).or_default() += 1;
            if let (Outcome::Exact, Damage::Flip(at, _)) = (outcome, &case.damage) {
                let unseen = tally.flips_unseen.entry((template.name, path.display().to_string())).or_default();
                if unseen.last() != Some(at) {
                    unseen.push(*at);
                }
            }
        }
        Err(wrong) => tally.wrong.push(format!("{what}: {wrong}")),
    }
}

#[test]
fn any_damage_to_any_one_file_is_told_or_harmless() {
    let full = std::env::var_os("CHRONOLITH_HOSTILE_FULL").is_some();
    let began = Instant::now();
    let templates = templates();
    let foreign: BTreeMap<_, _> = {
        // Another database of the same history.
        let mut b = Builder::new(424_242, PLAIN);
        b.round(1, 0..8);
        b.flush();
        b.round(2, 2..6);
        b.compact();
        b.round(3, 0..3);
        b.flush();
        b.round(4, 0..2);
        b.older.into_iter().map(|(path, mut versions)| (path, versions.pop().unwrap())).collect()
    };
    let cases: Vec<_> = templates.iter().enumerate().flat_map(|(n, t)| cases(n, t, &foreign, full)).collect();
    let tally = run_all(&templates, &cases);

    let mut text = String::new();
    for ((template, kind), outcomes) in &tally.outcomes {
        writeln!(text, "{template:16} {kind:9} {outcomes:?}").unwrap();
    }
    for ((template, path), places) in &tally.flips_unseen {
        writeln!(text, "{template}: {path}: {} flips changed nothing that counts", places.len()).unwrap();
    }
    println!("{text}{} cases in {:?}", cases.len(), began.elapsed());
    let shown: Vec<_> = tally.wrong.iter().take(40).map(String::as_str).collect();
    assert!(tally.wrong.is_empty(), "{} of {} cases went wrong:\n{}", tally.wrong.len(), cases.len(), shown.join("\n"));
    // A clean end seals: what a file carries is all covered.
    for ((template, path), places) in tally.flips_unseen {
        let Some(Template { files, .. }) = templates.iter().find(|one| one.name == template && one.clean) else {
            continue;
        };
        let (path, bytes) = files.iter().find(|(there, _)| there.to_string_lossy() == path).unwrap();
        let uncovered: Vec<_> = places.into_iter().filter(|at| carries(path, bytes, *at)).collect();
        assert!(uncovered.is_empty(), "{template}: {}: flips went unseen at {uncovered:?}", path.display());
    }
}

/// What is planted where a file or directory of the database belongs.
#[cfg(unix)]
mod planted {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
        path::{Path, PathBuf},
        process::Command,
        sync::mpsc,
        thread,
        time::Duration,
    };

    use chronolith::{Db, Durability, Error, KeyspaceOptions, Options};
    use tempfile::TempDir;

    /// No open or close waits this long for anything but a pipe that never speaks.
    const HANG: Duration = Duration::from_secs(30);

    fn open(path: &Path) -> chronolith::Result<Db> {
        Options::new().memory_budget(4 << 20).durability(Durability::Buffered).open(path)
    }

    /// A database with a segment and a log, cleanly closed.
    fn make(path: &Path) {
        let db = open(path).unwrap();
        let data = db.keyspace("data", KeyspaceOptions::new()).unwrap();
        data.put("a", "1").unwrap();
        db.flush().unwrap();
        data.put("b", "2").unwrap();
        db.close().unwrap();
    }

    /// Opens, uses everything, closes; what was there must be there still, or something must tell.
    fn try_all(path: &Path) -> chronolith::Result<()> {
        let db = open(path)?;
        let data = db.keyspace("data", KeyspaceOptions::new())?;
        for (key, value) in [("a", "1"), ("b", "2")] {
            let found = data.get(key)?;
            assert_eq!(found.as_deref(), Some(value.as_bytes()), "{key}");
        }
        data.put("c", "3")?;
        db.flush()?;
        db.compact()?;
        let report = db.verify()?;
        assert!(report.is_clean(), "{report}");
        db.close()
    }

    fn within<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, receiver) = mpsc::channel();
        let worker = thread::spawn(move || sender.send(work()));
        let result = receiver.recv_timeout(HANG);
        if matches!(result, Err(mpsc::RecvTimeoutError::Timeout)) {
            panic!("{what}: it hangs");
        }
        worker.join().unwrap_or_else(|_| panic!("{what}: a panic")).unwrap();
        result.unwrap()
    }

    /// Every file below a directory: its path, length, mode and bytes; links as what they say.
    fn snapshot(root: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
        let mut all = Vec::new();
        let mut todo = vec![root.to_path_buf()];
        while let Some(path) = todo.pop() {
            let meta = fs::symlink_metadata(&path).unwrap();
            let bytes = match () {
                () if meta.is_symlink() => fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes(),
                () if meta.is_file() => fs::read(&path).unwrap(),
                () => Vec::new(),
            };
            if meta.is_dir() {
                todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            all.push((path, meta.mode(), bytes));
        }
        all.sort();
        all
    }

    fn mkfifo(path: &Path) {
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    }

    fn remove(path: &Path) {
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_dir() => fs::remove_dir_all(path).unwrap(),
            Ok(_) => fs::remove_file(path).unwrap(),
            Err(_) => {}
        }
    }

    fn names(path: &Path) -> Vec<String> {
        let all = snapshot(path);
        let inside = all.iter().filter_map(|(file, _, _)| Some(file.strip_prefix(path).ok()?.to_str()?.to_owned()));
        inside.filter(|name| !name.is_empty()).collect()
    }

    /// Names that the next open and its first flushes and compactions will make, beside those that are there.
    fn coming() -> Vec<String> {
        let manifests = (1..6).map(|n| format!("MANIFEST-{n}"));
        let logs = (1..6).map(|n| format!("wal/{n}.wal"));
        let segments = (1..8).map(|n| format!("segments/{n}.seg"));
        manifests.chain(logs).chain(segments).chain(["CURRENT.new".to_owned()]).collect()
    }

    #[test]
    fn what_is_planted_in_place_of_a_file_is_refused_or_harmless_and_never_followed() {
        let (mut refused, mut harmless, mut wrong) = (0, 0, Vec::new());
        let sample = TempDir::new().unwrap();
        make(&sample.path().join("db"));
        let mut places = names(&sample.path().join("db"));
        places.extend(coming());
        places.sort();
        places.dedup();
        for fresh in [false, true] {
            for place in &places {
                for plant in [
                    "link to a file",
                    "link to nothing",
                    "link to a directory",
                    "link to the same",
                    "pipe",
                    "directory",
                ] {
                    let home = TempDir::new().unwrap();
                    let (path, outside) = (home.path().join("db"), home.path().join("outside"));
                    if fresh {
                        fs::create_dir(&path).unwrap();
                        fs::create_dir_all(path.join(place).parent().unwrap()).unwrap();
                    } else {
                        make(&path);
                    }
                    fs::create_dir_all(outside.join("full")).unwrap();
                    fs::write(outside.join("file"), "precious").unwrap();
                    fs::write(outside.join("full/1.wal"), "precious").unwrap();
                    fs::write(outside.join("full/1.seg"), "precious").unwrap();
                    let target = path.join(place);
                    match plant {
                        "link to the same" if fs::symlink_metadata(&target).is_ok() => {
                            // The very file, moved out and linked to.
                            fs::rename(&target, outside.join("moved")).unwrap();
                            symlink(outside.join("moved"), &target).unwrap();
                        }
                        "link to the same" => continue,
                        "pipe" => {
                            remove(&target);
                            mkfifo(&target);
                        }
                        "directory" => {
                            remove(&target);
                            fs::create_dir(&target).unwrap();
                        }
                        link => {
                            remove(&target);
                            let to = match link {
                                "link to a file" => outside.join("file"),
                                "link to nothing" => outside.join("nothing"),
                                _ => outside.join("full"),
                            };
                            symlink(to, &target).unwrap();
                        }
                    }
                    let before = snapshot(&outside);
                    let what = format!("{plant} at {place}{}", if fresh { " of a new database" } else { "" });
                    let run = path.clone();
                    let result =
                        within(&what, move || if fresh { open(&run).and_then(Db::close) } else { try_all(&run) });
                    match result {
                        Ok(()) => harmless += 1,
                        Err(error) => {
                            refused += 1;
                            if !error.to_string().contains("db") {
                                wrong.push(format!("{what}: an error that names no file: {error}"));
                            }
                        }
                    }
                    if snapshot(&outside) != before {
                        wrong.push(format!("{what}: something outside was changed"));
                    }
                }
            }
        }
        println!("{refused} plants refused, {harmless} harmless");
        assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    }

    #[test]
    fn a_folder_with_a_foreign_file_is_left_as_it_was() {
        for extra in [&["notes.txt"][..], &["notes.txt", "wal/1.wal"], &["MANIFEST-x"], &[".hidden", "MANIFEST-1"]] {
            let home = TempDir::new().unwrap();
            for name in extra {
                let path = home.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "mine").unwrap();
            }
            fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
            let before = snapshot(home.path());
            assert!(matches!(open(home.path()), Err(Error::Invalid { .. })), "{extra:?}");
            assert_eq!(snapshot(home.path()), before, "{extra:?}");
        }
    }

    #[test]
    fn a_database_that_lost_its_current_file_is_not_taken_for_a_new_one() {
        for keep in ["segments", "wal"] {
            let home = TempDir::new().unwrap();
            let path = home.path().join("db");
            make(&path);
            fs::remove_file(path.join("CURRENT")).unwrap();
            for other in ["segments", "wal"].into_iter().filter(|other| *other != keep) {
                fs::remove_dir_all(path.join(other)).unwrap();
            }
            let before = snapshot(&path);
            let error = open(&path).expect_err("a database without CURRENT");
            assert!(error.to_string().contains("CURRENT"), "{error}");
            assert_eq!(snapshot(&path), before, "nothing is made beside {keep}");
        }
    }

    /// Run by [`modes_are_private_under_any_umask`] in a process with another umask.
    #[test]
    fn a_database_made_under_the_umask_of_the_process() {
        let Some(path) = std::env::var_os("CHRONOLITH_HOSTILE_UMASK") else { return };
        let path = Path::new(&path);
        make(path);
        let db = open(path).unwrap();
        db.keyspace("data", KeyspaceOptions::new()).unwrap().put("c", "3").unwrap();
        db.flush().unwrap();
        db.checkpoint(path.with_file_name("copy")).unwrap();
        // While it is open: the files of an open database count too.
        for root in [path.to_path_buf(), path.with_file_name("copy")] {
            for (file, mode, _) in snapshot(&root) {
                let wanted = if file.is_dir() { 0o700 } else { 0o600 };
                assert_eq!(mode & 0o7777, wanted, "{}", file.display());
            }
        }
        db.close().unwrap();
        assert!(names(path).len() >= 6);
    }

    #[test]
    fn modes_are_private_under_any_umask() {
        for umask in ["000", "022", "077", "277"] {
            let home = TempDir::new().unwrap();
            let script = format!("umask {umask}; exec \"$0\" --exact {TEST} --nocapture");
            let mut command = Command::new("sh");
            command.arg("-c").arg(script).arg(std::env::current_exe().unwrap());
            let output = command.env("CHRONOLITH_HOSTILE_UMASK", home.path().join("db")).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && text.contains("1 passed"), "umask {umask}: {text}");
            assert!(home.path().join("db/CURRENT").exists(), "umask {umask}: it ran");
        }
    }

    const TEST: &str = "planted::a_database_made_under_the_umask_of_the_process";
}
