//! Databases to damage: each is made by a small history, and the machine's background steps are drawn from a seed.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use chronolith::{
    Db, Durability, Keyspace, KeyspaceOptions, Options, Policy, ReadStep,
    env::{Fault, Loss, Sim},
};

use crate::{
    damage::noise,
    files::{LOG_HEADER_LEN, kind, records},
    strategies::Strategy,
};

pub(crate) type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// What a keyspace is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
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

pub(crate) const PAST: Spaces = &[("indexed", Sort::KeptIndexed), ("kept", Sort::Kept)];

const FOLDING: Spaces = &[("first", Sort::First), ("list", Sort::List), ("sum", Sort::Sum)];

pub(crate) fn names(spaces: Spaces) -> Vec<&'static str> {
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
    pub(crate) fn put(self, content: &mut Content, key: &[u8], value: &[u8]) {
        if !(self.strategy().decides() && content.contains_key(key)) {
            content.insert(key.to_vec(), self.strategy().fold([value]).unwrap());
        }
    }

    /// What an operand makes of it.
    pub(crate) fn merge(self, content: &mut Content, key: &[u8], operand: &[u8]) {
        match content.get_mut(key) {
            Some(value) if self.strategy().folds() => *value = self.strategy().add(value, operand).unwrap(),
            _ => self.put(content, key, operand),
        }
    }

    /// A value for a late write.
    pub(crate) fn late(self) -> &'static [u8] {
        if self == Self::Sum { b"\x07\0\0\0\0\0\0\0" } else { b"late" }
    }
}

/// The database just after a commit.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub(crate) seqno: u64,
    pub(crate) time: SystemTime,
    pub(crate) spaces: Vec<Content>,
}

/// A database to damage.
pub(crate) struct Template {
    pub(crate) name: &'static str,
    pub(crate) spaces: Spaces,
    pub(crate) sim: Sim,
    pub(crate) clean: bool,
    pub(crate) moments: Vec<Moment>,
    /// Pins, each with the number of its moment.
    pub(crate) pins: Vec<(String, usize)>,
    /// Seqnos at which the undamaged database answers.
    pub(crate) answered: BTreeSet<u64>,
    pub(crate) files: Vec<(PathBuf, Vec<u8>)>,
    /// What files held earlier, oldest first.
    pub(crate) older: BTreeMap<PathBuf, Vec<Vec<u8>>>,
}

pub(crate) fn options(sim: &Sim, mmap: bool) -> Options {
    Options::new().env(sim.clone()).memory_budget(4 << 20).durability(Durability::Buffered).mmap(mmap)
}

pub(crate) fn templates() -> Vec<Template> {
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

/// The files of another database of the same history.
pub(crate) fn foreign() -> BTreeMap<PathBuf, Vec<u8>> {
    let mut b = Builder::new(424_242, PLAIN);
    b.round(1, 0..8);
    b.flush();
    b.round(2, 2..6);
    b.compact();
    b.round(3, 0..3);
    b.flush();
    b.round(4, 0..2);
    b.older.into_iter().map(|(path, mut versions)| (path, versions.pop().unwrap())).collect()
}

struct Builder {
    sim: Sim,
    db: Db,
    sorts: Spaces,
    spaces: Vec<Keyspace>,
    moments: Vec<Moment>,
    older: BTreeMap<PathBuf, Vec<Vec<u8>>>,
}

impl Builder {
    pub(crate) fn new(seed: u64, sorts: Spaces) -> Self {
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

    pub(crate) fn handles(&self) -> Vec<Keyspace> {
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

    pub(crate) fn flush(&mut self) {
        self.db.flush().unwrap();
        self.capture();
    }

    pub(crate) fn compact(&mut self) {
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

    pub(crate) fn close(&mut self) {
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

    pub(crate) fn end(self, name: &'static str, clean: bool) -> Template {
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

pub(crate) fn name(key: usize) -> String {
    format!("key-{key:02}")
}

/// Whether the only log has records below a mark, and some beyond.
fn marks(b: &Builder) -> (bool, bool) {
    let found = records(&b.sim.read_file(&b.logs()[0]).unwrap());
    let mark = found.iter().map(|record| record.synced_upto).max().unwrap_or(0);
    (mark > LOG_HEADER_LEN, found.iter().any(|record| record.start >= mark))
}
