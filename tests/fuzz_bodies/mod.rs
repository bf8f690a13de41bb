//! What the fuzzer runs, as plain functions over bytes: they fail by panicking.
//!
//! The first three damage one file of a small database. The input says how:
//!
//! ```text
//!  odd first byte    the rest is the whole file
//!  even              patches: offset u16 · length u8 · bytes …, over the real file
//! ```
//!
//! [`operations`] takes the input as calls, checked against a map. Perfect-hash functions and map files are damaged
//! in [`maps`], the past is in [`past`], large values are in [`chunks`].

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use chronolith::{
    Commit, Db, Durability, Error, Keyspace, KeyspaceOptions, Options, View,
    env::{Loss, Sim},
};

mod chunks;
mod maps;
mod past;
#[path = "../support/strategies.rs"]
#[expect(dead_code, reason = "a part of it is for other tests")]
mod strategies;

pub use chunks::{chunker, pack_open, recipe_decode};
pub use maps::{map_merge, map_open, mphf_open};
pub use past::{past_open, timeline_open, versions};

/// A function that a fuzzer calls.
pub type Body = fn(&[u8]);

/// A body by its name, which is also that of its corpus.
pub const TARGETS: [(&str, Body); 13] = [
    ("wal_replay", wal_replay),
    ("segment_open", segment_open),
    ("manifest_replay", manifest_replay),
    ("operations", operations),
    ("mphf_open", mphf_open),
    ("map_open", map_open),
    ("map_merge", map_merge),
    ("past_open", past_open),
    ("timeline_open", timeline_open),
    ("versions", versions),
    ("recipe_decode", recipe_decode),
    ("pack_open", pack_open),
    ("chunker", chunker),
];

fn options(sim: &Sim) -> Options {
    Options::new().env(sim.clone()).memory_budget(4 << 20).durability(Durability::Buffered).mmap(false)
}

fn space(db: &Db) -> Keyspace {
    space_with(db, KeyspaceOptions::new())
}

fn space_with(db: &Db, options: KeyspaceOptions) -> Keyspace {
    db.keyspace("data", options).expect("a keyspace of a healthy database")
}

/// A machine whose power went: one segment, and a log without an end that was synced once.
fn template() -> &'static Sim {
    static TEMPLATE: OnceLock<Sim> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let sim = Sim::new(7);
        // Too little to reserve room in logs: they stay short.
        sim.set_space(Some(900 << 10));
        let db = options(&sim).open("db").expect("a new database");
        let data = space(&db);
        for round in 0..3_u8 {
            for key in 0..10_u8 {
                let value = vec![b'a' + round; usize::from(key) * 9];
                let _receipt = data.put([b'k', key * (round + 1)], value).expect("a put");
            }
            let _receipt = data.delete_range([b'k', 4]..[b'k', 6 + round]).expect("a range");
            if round == 0 {
                db.flush().expect("a flush");
            } else if round == 1 {
                db.persist().expect("a sync");
            }
        }
        sim.cut_power_with(Loss::Nothing);
        sim
    })
}

fn first_file(sim: &Sim, wanted: &str) -> PathBuf {
    let files = sim.files();
    let found = files.iter().find(|path| path.to_string_lossy().contains(wanted));
    found.expect("a file of each kind").clone()
}

/// The bytes that the input makes of a file. The other bits of its first byte are left to the body.
fn damaged(original: Vec<u8>, data: &[u8]) -> Vec<u8> {
    let Some((how, mut rest)) = data.split_first() else { return original };
    if how % 2 == 1 {
        return rest.to_vec();
    }
    let mut bytes = original;
    while let Some(([low, high, len], more)) = rest.split_first_chunk() {
        let at = usize::from(u16::from_le_bytes([*low, *high]));
        let patch = more.get(..usize::from(*len)).unwrap_or(more);
        for (place, byte) in bytes.iter_mut().skip(at).zip(patch) {
            *place = *byte;
        }
        rest = more.get(patch.len()..).unwrap_or_default();
    }
    bytes
}

/// Opens and reads a database with one damaged file.
fn check(wanted: &str, data: &[u8]) {
    let template = template();
    let sim = template.fork();
    let path = first_file(template, wanted);
    let original = template.read_file(&path).expect("a file that was listed");
    sim.write_file(&path, damaged(original, data));
    for _ in 0..2 {
        let Ok(db) = options(&sim).open("db") else { return };
        if !read(&db) {
            return;
        }
        // Where nothing was found, nothing may go wrong later either.
        db.flush().expect("a flush where nothing is wrong");
        let _compacted = db.compact().expect("a compaction where nothing is wrong");
        db.close().expect("a close where nothing is wrong");
    }
}

/// Reads in every way; `true` if nothing was told. Then scans and gets must agree.
fn read(db: &Db) -> bool {
    let mut is_well = db.verify().is_ok_and(|report| report.is_clean());
    for name in db.keyspaces() {
        let Ok(keyspace) = db.keyspace(&name, KeyspaceOptions::new()) else { return false };
        let forwards: Result<Vec<_>, _> = keyspace.range(..).collect();
        let backwards: Result<Vec<_>, _> = keyspace.range(..).rev().collect();
        let gets: Result<Vec<_>, _> = (0..=255_u8).map(|key| keyspace.get([b'k', key])).collect();
        if let Ok(view) = db.as_of(5) {
            let _past = view.range(&keyspace, ..).flatten().count();
        }
        let (Ok(forwards), Ok(mut backwards), Ok(gets)) = (forwards, backwards, gets) else {
            is_well = false;
            continue;
        };
        backwards.reverse();
        if is_well {
            assert_eq!(forwards, backwards, "both directions show the same");
            for (key, value) in &forwards {
                let got = keyspace.get(key).expect("what a scan could read");
                assert_eq!(got.as_ref(), Some(value), "a get shows what a scan shows");
            }
            let got = gets.iter().flatten().count();
            let scanned = forwards.iter().filter(|(key, _)| key.len() == 2 && key.first() == Some(&b'k')).count();
            assert_eq!(got, scanned, "a scan shows what gets show");
        }
    }
    is_well
}

/// A damaged log.
pub fn wal_replay(data: &[u8]) {
    check(".wal", data);
}

/// A damaged segment.
pub fn segment_open(data: &[u8]) {
    check(".seg", data);
}

/// A damaged manifest.
pub fn manifest_replay(data: &[u8]) {
    check("MANIFEST-", data);
}

/// Calls of one input: what is wrong after more of them is mostly wrong after these, and then there is time for more
/// inputs.
const CALLS_MAX: usize = 200;

/// Calls, each of some bytes, against a map of the latest state, and of every state before: an odd first byte asks
/// for a keyspace that keeps its past, else what is gone may be refused.
pub fn operations(data: &[u8]) {
    let sim = Sim::new(u64::from(data.first().copied().unwrap_or(0)));
    sim.set_space(Some(900 << 10));
    let mut db = options(&sim).open("db").expect("a new database");
    let keeps = data.first().is_some_and(|first| first % 2 == 1);
    let mut keyspace = if keeps { space_with(&db, past::mvcc()) } else { space(&db) };
    let mut moments = Moments { keeps, ..Moments::default() };
    let mut model = Content::new();
    let mut input = Input(data.get(1..).unwrap_or_default());
    let mut calls = 0;
    while let Some(call) = input.call() {
        calls += 1;
        if calls > CALLS_MAX {
            break;
        }
        match (call >= 128, call % 16) {
            (true, _) => call_past(call, &mut input, &sim, &db, &keyspace, &mut model, &mut moments),
            (false, how @ (13 | 14)) => {
                if how == 13 {
                    drop(keyspace);
                    db.close().expect("a close");
                } else {
                    db.persist().expect("a sync");
                    sim.cut_power();
                    drop((keyspace, db));
                }
                db = options(&sim).open("db").expect("a database that was closed, or whose power went");
                keyspace = space(&db);
                check_all(&keyspace, &model);
            }
            (false, _) => call_present(call, &mut input, &db, &keyspace, &mut model),
        }
        moments.push(&db, &model);
    }
    check_all(&keyspace, &model);
    // By the last bytes: of many inputs some ask for each.
    for moment in data.iter().rev().take(3) {
        moments.check_one(&db, &keyspace, *moment);
    }
}

/// The bytes that are left of an input; behind its end there are zeros.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn call(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn next(&mut self) -> u8 {
        self.call().unwrap_or(0)
    }

    fn key(&mut self) -> Vec<u8> {
        vec![self.next() % 32; usize::from(self.next() % 3)]
    }
}

/// A write, a read, or something that changes nothing that is seen.
fn call_present(call: u8, input: &mut Input<'_>, db: &Db, keyspace: &Keyspace, model: &mut Content) {
    match call % 16 {
        0..=4 => {
            let key = input.key();
            let value = vec![input.next(); usize::from(input.next()) * 2];
            let _receipt = keyspace.put(&key, &value).expect("a put");
            model.insert(key, value);
        }
        5 | 6 => {
            let key = input.key();
            let _receipt = keyspace.delete(&key).expect("a delete");
            model.remove(&key);
        }
        7 => {
            let (from, to) = (input.key(), input.key());
            let _receipt = keyspace.delete_range(&from..&to).expect("a range");
            model.retain(|key, _| *key < from || *key >= to);
        }
        8 => {
            let mut batch = db.batch();
            for _ in 0..input.next() % 5 {
                let (key, value) = (vec![input.next() % 32], vec![input.next(); 3]);
                batch.put(keyspace, &key, &value);
                model.insert(key, value);
            }
            let _receipt = batch.commit().expect("a batch");
        }
        9 => {
            let (from, to) = (input.key(), input.key());
            let found: Vec<_> = keyspace.range(&from..&to).map(|item| item.expect("an item")).collect();
            let is_in = |key: &Vec<u8>| *key >= from && *key < to;
            let wanted: Vec<_> = model.iter().filter(|(key, _)| is_in(key)).collect();
            assert_eq!(found.len(), wanted.len(), "a range holds what it should");
            for ((key, value), (k, v)) in found.iter().zip(wanted) {
                assert!(*key == k.as_slice() && *value == v.as_slice(), "a range shows what was written");
            }
        }
        10 => {
            let key = input.key();
            let found = keyspace.get(&key).expect("a get");
            assert_eq!(found.as_deref(), model.get(&key).map(Vec::as_slice), "a get shows what was written");
        }
        11 => db.flush().expect("a flush"),
        12 => {
            let _compacted = db.compact().expect("a compaction");
        }
        _ => {
            let report = db.verify().expect("a check");
            assert!(report.is_clean(), "{report}");
        }
    }
}

/// A purge, a pin, a while, or a question about the past.
fn call_past(
    call: u8,
    input: &mut Input<'_>,
    sim: &Sim,
    db: &Db,
    keyspace: &Keyspace,
    model: &mut Content,
    moments: &mut Moments,
) {
    match call % 8 {
        0 => {
            let key = input.key();
            let _receipt = keyspace.purge(&key).expect("a purge");
            model.remove(&key);
            moments.purge(|there| *there == key);
        }
        1 => {
            let key = input.key();
            let _receipt = keyspace.purge_prefix(&key).expect("a purge");
            model.retain(|there, _| !there.starts_with(&key));
            moments.purge(|there| there.starts_with(&key));
        }
        2 => moments.pin_or_unpin(db, input.next() % 4, model),
        3 => sim.set_time(sim.now() + Duration::from_millis(u64::from(input.next()) * 4)),
        4 | 5 => moments.check_one(db, keyspace, input.next()),
        6 => moments.check_key(keyspace, &input.key(), model),
        _ => moments.check_walks(db, keyspace, input.next(), model),
    }
}

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// What was there after each commit.
#[derive(Default)]
struct Moments {
    keeps: bool,
    each: Vec<(Commit, Content)>,
    pins: BTreeMap<String, Content>,
}

impl Moments {
    /// Notes what the commits since hold.
    fn push(&mut self, db: &Db, model: &Content) {
        let from = self.each.last().map_or(0, |(commit, _)| u64::from(commit.seqno) + 1);
        for commit in db.commits(from..) {
            self.each.push((commit.expect("a commit"), model.clone()));
        }
    }

    fn purge(&mut self, is_gone: impl Fn(&Vec<u8>) -> bool) {
        let each = self.each.iter_mut().map(|(_, content)| content);
        each.chain(self.pins.values_mut()).for_each(|content| content.retain(|key, _| !is_gone(key)));
    }

    fn pin_or_unpin(&mut self, db: &Db, number: u8, model: &Content) {
        let name = format!("pin {number}");
        if self.pins.remove(&name).is_some() {
            db.unpin(&name).expect("an end of a pin");
        } else {
            let _seqno = db.pin(&name).expect("a pin");
            self.pins.insert(name, model.clone());
        }
    }

    /// Whether a view shows a content, or may say that it is gone.
    fn check(view: &View, keyspace: &Keyspace, content: &Content, owed: bool) {
        for backward in [false, true] {
            let range = view.range(keyspace, ..);
            let found: Result<Vec<_>, _> = if backward { range.rev().collect() } else { range.collect() };
            match found {
                Ok(mut found) => {
                    if backward {
                        found.reverse();
                    }
                    let found = found.iter().map(|(key, value)| (&**key, &**value));
                    let wanted = content.iter().map(|(key, value)| (key.as_slice(), value.as_slice()));
                    assert!(found.eq(wanted), "a past view shows what was written");
                }
                Err(error) => assert!(!owed && matches!(error, Error::HistoryTrimmed { .. }), "a past view: {error}"),
            }
        }
        for key in content.keys().take(9) {
            match view.get(keyspace, key) {
                Ok(found) => assert_eq!(found.as_deref(), content.get(key).map(Vec::as_slice), "a past get"),
                Err(error) => assert!(!owed && matches!(error, Error::HistoryTrimmed { .. }), "a past get: {error}"),
            }
        }
    }

    /// A moment by its seqno and by its time.
    fn check_one(&self, db: &Db, keyspace: &Keyspace, which: u8) {
        let Some((commit, content)) = self.each.get(usize::from(which) % self.each.len().max(1)) else { return };
        let view = db.as_of(commit.seqno).expect("a moment");
        Self::check(&view, keyspace, content, self.keeps || commit.seqno >= keyspace.horizon());
        let view = db.as_of_time(commit.time).expect("a time");
        let last = self.each.iter().rfind(|(other, _)| other.time <= commit.time);
        // Behind the last commit of a time a keyspace or pin may have been decided on.
        let told = self.each.iter().rfind(|(other, _)| other.seqno <= view.seqno());
        let seqno = |found: Option<&(Commit, Content)>| found.map(|(commit, _)| commit.seqno);
        assert_eq!(seqno(told), seqno(last), "the last commit of a time");
    }

    fn check_key(&self, keyspace: &Keyspace, key: &[u8], model: &Content) {
        let newest = keyspace.history(key).next().transpose().expect("a version");
        let value = newest.as_ref().and_then(|version| version.value.as_deref());
        assert_eq!(value, model.get(key).map(Vec::as_slice), "the newest version is the value");
        if let Some(version) = newest {
            let commit = self.each.iter().find(|(commit, _)| commit.seqno == version.seqno);
            assert!(commit.is_some_and(|(commit, _)| commit.time == version.time), "a version is of a commit");
        }
        assert!(keyspace.history(key).count() <= self.each.len(), "a version for each commit at most");
    }

    fn check_walks(&self, db: &Db, keyspace: &Keyspace, which: u8, model: &Content) {
        let told: Vec<_> = db.commits(..).map(|commit| commit.expect("a commit")).collect();
        assert!(told.iter().eq(self.each.iter().map(|(commit, _)| commit)), "every commit is told");
        let pins: Vec<_> = db.pins().into_iter().map(|pin| pin.name).collect();
        assert!(pins.iter().eq(self.pins.keys()), "every pin is there");
        for (name, content) in &self.pins {
            Self::check(&db.pinned(name).expect("a pin"), keyspace, content, true);
        }
        let Some((commit, content)) = self.each.get(usize::from(which) % self.each.len().max(1)) else { return };
        let views = (db.as_of(commit.seqno).expect("a moment"), db.snapshot());
        let differ = content.keys().chain(model.keys()).filter(|key| content.get(*key) != model.get(*key));
        let differ: BTreeSet<_> = differ.collect();
        let found: Result<Vec<_>, _> = db.diff(&views.0, &views.1, keyspace).collect();
        match found {
            Ok(found) => {
                let keys = found.iter().map(|change| change.key.to_vec());
                assert!(keys.eq(differ.into_iter().cloned()), "what differs");
            }
            Err(error) => assert!(!self.keeps && matches!(error, Error::HistoryTrimmed { .. }), "{error}"),
        }
    }
}

fn check_all(keyspace: &Keyspace, model: &BTreeMap<Vec<u8>, Vec<u8>>) {
    let found: Vec<_> = keyspace.range(..).map(|item| item.expect("an item")).collect();
    assert_eq!(found.len(), model.len(), "as many keys as were written");
    for ((key, value), (k, v)) in found.iter().zip(model) {
        assert!(*key == k.as_slice() && *value == v.as_slice(), "a scan shows what was written");
    }
}

/// The real file that a body damages, for seeds; `None` where there is none.
#[must_use]
pub fn original(target: &str) -> Option<Vec<u8>> {
    let wanted = match target {
        "mphf_open" | "map_open" | "map_merge" => return maps::original(target),
        "past_open" | "timeline_open" => return past::original(target),
        "recipe_decode" | "pack_open" => return chunks::original(target),
        "wal_replay" => ".wal",
        "segment_open" => ".seg",
        "manifest_replay" => "MANIFEST-",
        _ => return None,
    };
    let sim = template();
    let path: &Path = &first_file(sim, wanted);
    sim.read_file(path)
}
