//! Power cuts, failing calls and full disks: at every call of every workload, on a simulated machine.
//!
//! A workload is a list of steps. It runs once to count its changing calls, then once for each of them with a fault there.
//! What may be there afterwards follows from what was answered:
//!
//! * every commit is there whole or not at all, and those that are there are a prefix of those that returned `Ok`;
//! * the prefix holds everything that was acknowledged as durable;
//! * a commit that returned an error is there or not: its mark, a key that only it writes, tells which.
//!
//! Where a policy keeps the past, that is asked for too: every commit is told and shown exactly by its
//! number and by its time, or refused where no policy promises it; pins are there; what was purged is not.
//!
//! What a commit means is what the merge strategy of the keyspace says: operands add up or line up, each once; first values stay.
//!
//! `CHRONOLITH_CRASH_SEED` sets another seed, `CHRONOLITH_CRASH_FULL=1` runs what the ordinary run only samples,
//! `CHRONOLITH_CRASH_ONLY` takes the workloads with that in their names.

#![expect(clippy::print_stdout, reason = "the counts are what the tests show")]
#![expect(clippy::panic, reason = "a test fails by panicking")]

#[path = "support/strategies.rs"]
#[expect(dead_code, reason = "a part of it is for other tests")]
mod strategies;
#[path = "support/workload.rs"]
mod workload;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use chronolith::{
    CompactionPolicy, Db, Durability, Error, Keyspace, KeyspaceOptions, Options, Policy, Range, Receipt, VersionInfo,
    View,
    env::{Background, Dir, Env, Fault, File, Loss, Region, Sim},
    merge::append_items,
};
use strategies::Strategy;
use workload::{Op, Step, Workload, key_of};

const DB: &str = "db";
const COPY: &str = "copy";

// ---------------------------------------------------------------- workloads

fn put(to: &'static str, key: u16, len: usize) -> Op {
    Op::Put { to, key, len }
}

/// What a keyspace is goes by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sort {
    Plain,
    Sum,
    List,
    /// A strategy of the user's own: values of eight bytes, one behind the other.
    Own,
    First,
    Once,
    /// The values of a key differ in a few bytes: old ones are stored as differences.
    Alike,
    /// Values live for [`TTL`].
    Brief,
}

/// How long values of a brief keyspace live.
const TTL: Duration = Duration::from_micros(TTL_US);
const TTL_US: u64 = 100_000_000;

/// For how long the past is promised, where it is.
const WINDOW: Duration = Duration::from_micros(WINDOW_US);
const WINDOW_US: u64 = 3_600_000_000;

/// A policy of the user's own: three versions of each key, and every delete.
struct Odd;

impl CompactionPolicy for Odd {
    fn keep(&self, version: &VersionInfo, _now: SystemTime) -> bool {
        version.rank < 3 || version.is_delete
    }
}

/// What is kept of the past of a keyspace.
fn policy_of(name: &str) -> Option<Policy> {
    match name {
        "graves" => Some(Policy::tombstones(WINDOW)),
        "odd" => Some(Policy::custom("odd", Odd)),
        _ if is_owed(name) => Some(Policy::mvcc(2, WINDOW)),
        _ => None,
    }
}

/// Whether every moment of the last hour is promised.
fn is_owed(name: &str) -> bool {
    name == "wiped" || name.starts_with("kept") || name.ends_with(" kept")
}

impl Sort {
    fn of(name: &str) -> Self {
        match name {
            "sum" | "sum kept" => Self::Sum,
            "list" | "list kept" => Self::List,
            "own" => Self::Own,
            "first" => Self::First,
            "once" => Self::Once,
            "kept" | "kept indexed" | "graves" | "odd" => Self::Alike,
            "brief" | "brief kept" => Self::Brief,
            _ => Self::Plain,
        }
    }

    fn strategy(self) -> Strategy {
        match self {
            Self::Plain | Self::Alike | Self::Brief => Strategy::LastWins,
            Self::Sum => Strategy::Sum,
            Self::List => Strategy::Append,
            Self::Own => Strategy::Joined(""),
            Self::First => Strategy::FirstWins,
            Self::Once => Strategy::ErrorOnDuplicate,
        }
    }

    /// What a put or an operand carries.
    fn value(self, number: usize, key: u16, len: usize) -> Vec<u8> {
        match self {
            Self::Sum | Self::Own => {
                ((number as u64) << 40 | (len as u64) << 20 | u64::from(key)).to_le_bytes().to_vec()
            }
            Self::Alike => {
                let mut value = value_of(0, key, len);
                let stamp = value_of(number, key, 8);
                value.iter_mut().skip(len / 3).zip(stamp).for_each(|(to, from)| *to = from);
                value
            }
            _ => value_of(number, key, len),
        }
    }

    /// What a key holds that is only to be there.
    fn plain_value(self, text: &'static [u8]) -> &'static [u8] {
        if matches!(self, Self::Sum | Self::Own) { &[1, 0, 0, 0, 0, 0, 0, 0] } else { text }
    }

    /// What stands for a value as it was put.
    fn digest_of_put(self, value: &[u8]) -> Digest {
        match self {
            Self::Sum => (8, value.try_into().map_or(0, u64::from_le_bytes)),
            Self::List | Self::Own => self.then((0, 0), value),
            _ => digest(value),
        }
    }

    /// What stands for a value with an operand behind it.
    fn then(self, (count, hash): Digest, operand: &[u8]) -> Digest {
        if self == Self::Sum {
            return (count, hash.wrapping_add(operand.try_into().map_or(0, u64::from_le_bytes)));
        }
        (count + 1, (hash ^ digest(operand).1).wrapping_mul(0x0100_0000_01b3).rotate_left(29))
    }

    /// What stands for a value as it was read.
    fn digest_of_read(self, value: &[u8]) -> Digest {
        match self {
            Self::Sum if value.len() != 8 => (usize::MAX, 0),
            Self::List => append_items(value)
                .try_fold((0, 0), |digest, item| item.map(|item| self.then(digest, item)))
                .unwrap_or((usize::MAX, 0)),
            Self::Own => value.chunks(8).fold((0, 0), |digest, item| self.then(digest, item)),
            _ => self.digest_of_put(value),
        }
    }
}

/// How a keyspace is made.
fn options_of(name: &str) -> KeyspaceOptions {
    let new = stored_options_of(name);
    let new = policy_of(name).map_or(new.clone(), |policy| new.policy(policy));
    let new = new.merge(Sort::of(name).strategy().option());
    match Sort::of(name) {
        Sort::Plain | Sort::Alike if name.ends_with("indexed") => new.point_index(true),
        Sort::Sum | Sort::First => new.point_index(true),
        Sort::Brief => new.ttl(TTL),
        _ => new,
    }
}

/// How one that exists is opened.
fn stored_options_of(name: &str) -> KeyspaceOptions {
    let new = KeyspaceOptions::new();
    match name {
        "own" => new.merge(Sort::Own.strategy().option()),
        "odd" => new.policy(Policy::custom("odd", Odd)),
        _ => new,
    }
}

/// All workloads, or those that are asked for.
fn workloads() -> Vec<Workload> {
    let only = std::env::var("CHRONOLITH_CRASH_ONLY").unwrap_or_default();
    let all = [include_str!("crash/present.txt"), include_str!("crash/past.txt")].into_iter().flat_map(workload::parse);
    all.filter(|workload| workload.name.contains(&only)).collect()
}

fn write(to: &'static str, key: u16, len: usize) -> Step {
    Step::Write(vec![put(to, key, len)])
}

// ---------------------------------------------------------------- the oracle

/// What stands for a value: its length and a hash.
type Digest = (usize, u64);

/// The keys of a keyspace.
type Content = BTreeMap<Vec<u8>, Digest>;

/// The keyspaces of a database.
type State = BTreeMap<String, Content>;

/// The digests of values by what they were made from, so that each is made once.
type Values = BTreeMap<(Sort, usize, u16, usize), Digest>;

#[derive(Clone, Debug)]
enum What {
    Create(&'static str),
    Drop(&'static str),
    Write(Vec<Op>),
    Pin(&'static str),
    Unpin(&'static str),
}

/// In a state: the pins, when each value of a brief keyspace was written, and what time it is, in whole seconds.
const PINS: &str = "\0pins";
const NOW: &str = "\0now";
const TIMES: &str = "\0times of ";

fn times_of(name: &str) -> String {
    format!("{TIMES}{name}")
}

fn us(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
}

/// What a keyspace of a state shows at a time.
fn shown<'a>(state: &'a State, name: &'a str, now_us: u64) -> impl Iterator<Item = (&'a Vec<u8>, &'a Digest)> {
    let times = state.get(&times_of(name));
    let lives =
        move |key: &Vec<u8>| times.and_then(|times| times.get(key)).is_none_or(|(_, time)| time + TTL_US > now_us);
    state.get(name).into_iter().flatten().filter(move |(key, _)| lives(key))
}

/// Whether a state is what was seen.
fn is_seen(state: &State, seen: &State) -> bool {
    let now_us = seen.get(NOW).and_then(|now| now.values().next()).map_or(0, |(_, us)| *us);
    let names = state.keys().filter(|name| !name.starts_with(TIMES));
    names.eq(seen.keys().filter(|name| *name != NOW))
        && seen.iter().filter(|(name, _)| *name != NOW).all(|(name, keys)| shown(state, name, now_us).eq(keys))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Sure,
    /// It returned an error: there or not.
    Unknown,
    /// It was looked for, and is not there.
    Void,
}

#[derive(Clone, Debug)]
struct Event {
    number: usize,
    what: What,
    fate: Fate,
    /// The seqno and time that were given out, and the time by the clock before.
    receipt: Option<(u64, u64)>,
    began_us: u64,
}

/// The key that only this commit writes, in the keyspace of its first operation.
fn mark_of(number: usize) -> Vec<u8> {
    format!("~{number:04}").into_bytes()
}

fn value_of(number: usize, key: u16, len: usize) -> Vec<u8> {
    let mut x = ((number as u64 + 1) << 32 | u64::from(key) << 8 | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut value = Vec::with_capacity(len + 8);
    while value.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        value.extend_from_slice(&x.to_le_bytes());
    }
    value.truncate(len);
    value
}

fn digest(bytes: &[u8]) -> Digest {
    let hash = bytes.chunks(8).fold(0xcbf2_9ce4_8422_2325_u64, |hash, chunk| {
        let mut word = [0; 8];
        word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
        (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01b3).rotate_left(29)
    });
    (bytes.len(), hash)
}

impl Event {
    fn apply(&self, state: &mut State, values: &mut Values) {
        match &self.what {
            What::Create(name) => {
                state.entry((*name).to_owned()).or_default();
            }
            What::Drop(name) => {
                state.remove(*name);
                state.remove(&times_of(name));
            }
            What::Pin(name) => {
                state.entry(PINS.to_owned()).or_default().insert(name.as_bytes().to_vec(), (0, 0));
            }
            What::Unpin(name) => {
                let pins = state.entry(PINS.to_owned()).or_default();
                pins.remove(name.as_bytes());
                if pins.is_empty() {
                    state.remove(PINS);
                }
            }
            What::Write(ops) => {
                for op in ops {
                    let sort = Sort::of(op.keyspace());
                    if let (Sort::Brief, Op::Put { key, .. }) = (sort, *op) {
                        let time = self.receipt.map_or(self.began_us, |(_, time)| time);
                        state.entry(times_of(op.keyspace())).or_default().insert(key_of(key), (0, time));
                    }
                    let keys = state.entry(op.keyspace().to_owned()).or_default();
                    match *op {
                        Op::Put { key, .. } | Op::Merge { key, .. }
                            if sort.strategy().decides() && keys.contains_key(&key_of(key)) => {}
                        Op::Merge { key, len, .. } if sort.strategy().folds() => {
                            let operand = sort.value(self.number, key, len);
                            let nothing = if sort == Sort::Sum { (8, 0) } else { (0, 0) };
                            let value = keys.entry(key_of(key)).or_insert(nothing);
                            *value = sort.then(*value, &operand);
                        }
                        Op::Put { key, len, .. } if sort.strategy() != Strategy::LastWins => {
                            keys.insert(key_of(key), sort.digest_of_put(&sort.value(self.number, key, len)));
                        }
                        Op::Put { key, len, .. } | Op::Merge { key, len, .. } => {
                            let value = values
                                .entry((sort, self.number, key, len))
                                .or_insert_with(|| digest(&sort.value(self.number, key, len)));
                            keys.insert(key_of(key), *value);
                        }
                        Op::Delete { key, .. } => {
                            keys.remove(&key_of(key));
                        }
                        Op::DeleteRange { start, end, .. } => {
                            let gone = key_of(start)..key_of(end);
                            keys.retain(|key, _| !gone.contains(key));
                        }
                        Op::Purge { .. } | Op::PurgePrefix { .. } => keys.retain(|key, _| !op.purges(key)),
                    }
                }
                if let Some(first) = ops.first() {
                    let sort = Sort::of(first.keyspace());
                    let mark = sort.digest_of_put(sort.plain_value(b""));
                    state.entry(first.keyspace().to_owned()).or_default().insert(mark_of(self.number), mark);
                }
            }
        }
    }

    fn is_marked(&self, seen: &State) -> bool {
        let What::Write(ops) = &self.what else { return false };
        let keys = ops.first().and_then(|op| seen.get(op.keyspace()));
        keys.is_some_and(|keys| keys.contains_key(&mark_of(self.number)))
    }
}

/// What a run was told.
#[derive(Debug, Default)]
struct Run {
    events: Vec<Event>,
    /// So many of the events are acknowledged as durable.
    floor: usize,
    newest: u64,
    /// Batches that should have been refused and were not: they may be where what they collide with failed.
    accepted: usize,
    /// How many events the checkpoint must hold, and whether it was acknowledged.
    copied: Option<(usize, bool)>,
    errors: Vec<String>,
    values: Mutex<Values>,
    /// Times that were asked for, each with the number of events before.
    asked: Vec<(SystemTime, usize)>,
    /// The highest horizon that each keyspace told, by the event that created it.
    horizons: BTreeMap<usize, u64>,
    /// Which of the moments are looked at closely.
    salt: usize,
}

/// How what was seen came to be.
struct Explained {
    /// Which events happened.
    happened: Vec<bool>,
}

impl Run {
    /// Which events make up what was seen: at least the first `floor`, of the first `upto`.
    fn explain(&self, seen: &State, floor: usize, upto: usize) -> Result<Explained, String> {
        let events = self.events.get(..upto).unwrap_or(&self.events);
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let open = events.iter().filter(|event| event.fate == Fate::Unknown && !matches!(event.what, What::Write(_)));
        let open: Vec<usize> = open.map(|event| event.number).collect();
        for choice in 0..1_u32 << open.len().min(8) {
            let mut state = State::new();
            let mut all_happened = Vec::new();
            for count in 0..=events.len() {
                if count >= floor && is_seen(&state, seen) {
                    return Ok(Explained { happened: all_happened });
                }
                let Some(event) = events.get(count) else { break };
                let chosen = open.iter().position(|number| *number == event.number);
                let happened = match event.fate {
                    Fate::Sure => true,
                    Fate::Void => false,
                    Fate::Unknown => chosen.map_or(event.is_marked(seen), |bit| choice >> bit & 1 == 1),
                };
                all_happened.push(happened);
                if happened {
                    event.apply(&mut state, &mut values);
                }
            }
        }
        let mut text =
            format!("expected a prefix of {} events with at least the first {floor}; there is", events.len());
        for (name, keys) in seen {
            let _ = write!(text, " {name}:");
            for (key, (len, _)) in keys {
                let _ = write!(text, " {}={len}", key.escape_ascii());
            }
        }
        let _ = write!(text, "; the events were");
        for Event { number, what, fate, .. } in events {
            let what = format!("{what:?}");
            let _ = write!(text, "\n    {number} {fate:?} {}", what.get(..160).unwrap_or(&what));
        }
        Err(text)
    }

    fn all(&self) -> usize {
        self.events.len()
    }

    /// Finds out about what returned an error.
    fn resolve(&mut self, seen: &State) {
        for event in &mut self.events {
            if event.fate == Fate::Unknown && matches!(event.what, What::Write(_)) {
                event.fate = if event.is_marked(seen) { Fate::Sure } else { Fate::Void };
            }
        }
    }
}

fn failed(what: &str) -> impl Fn(Error) -> String {
    move |error| format!("{what}: {error} ({error:?})")
}

/// Reads everything, every way, and checks that all ways agree.
fn observe(db: &Db, view: Option<&View>) -> Result<State, String> {
    let mut state = State::new();
    for name in db.keyspaces() {
        let keyspace = db.keyspace(&name, stored_options_of(&name)).map_err(failed("keyspace"))?;
        if Sort::of(&name) == Sort::Brief {
            let now = us(view.map_or_else(|| db.snapshot().time(), View::time));
            state.insert(NOW.to_owned(), Content::from([(Vec::new(), (0, now / 1_000_000 * 1_000_000))]));
        }
        state.insert(name, observe_keyspace(&keyspace, view)?);
    }
    let pins = db.pins();
    if !pins.is_empty() && view.is_none() {
        state.insert(PINS.to_owned(), pins.into_iter().map(|pin| (pin.name.into_bytes(), (0, 0))).collect());
    }
    Ok(state)
}

fn observe_keyspace(keyspace: &Keyspace, view: Option<&View>) -> Result<Content, String> {
    let range = || -> Range { view.map_or_else(|| keyspace.range(..), |view| view.range(keyspace, ..)) };
    let forward: Vec<_> = range().collect::<Result<_, _>>().map_err(failed("scan"))?;
    let mut backward: Vec<_> = range().rev().collect::<Result<_, _>>().map_err(failed("scan backward"))?;
    backward.reverse();
    if forward != backward {
        return Err(format!("forward there are {} keys, backward {}, or they differ", forward.len(), backward.len()));
    }
    let get = |key: &[u8]| match view {
        None => keyspace.get(key),
        Some(view) => view.get(keyspace, key),
    };
    let mut keys = BTreeMap::new();
    for (key, value) in &forward {
        if get(key).map_err(failed("get"))?.as_ref() != Some(value) {
            return Err(format!("the scan has key {}, and get says something else", key.escape_ascii()));
        }
        keys.insert(key.to_vec(), Sort::of(keyspace.name()).digest_of_read(value));
    }
    for absent in (0..12).map(key_of).filter(|key| !keys.contains_key(key)) {
        if get(&absent).map_err(failed("get"))?.is_some() {
            return Err(format!("get has key {}, and the scan has not", absent.escape_ascii()));
        }
    }
    Ok(keys)
}

fn verify(db: &Db) -> Result<(), String> {
    let report = db.verify().map_err(failed("verify"))?;
    if report.is_clean() { Ok(()) } else { Err(format!("verify: {report}")) }
}

impl Workload {
    fn options(&self, env: impl Env) -> Options {
        Options::new().durability(self.durability).memory_budget(4 << 20).l0_threshold(self.l0_threshold).env(env)
    }

    fn open(&self, sim: &Sim) -> Result<Db, Error> {
        self.options(sim.clone()).open(DB)
    }

    /// Of `every` calls of a workload of the past one is tried: each of them is looked at more closely. All of them in a full run.
    fn tries(&self, call: usize, every: usize) -> bool {
        is_full() || !self.has_past() || (call + self.name.len()).is_multiple_of(every)
    }

    /// Whether the past is asked for.
    fn has_past(&self) -> bool {
        let keeps = |step: &Step| matches!(step, Step::Create(name) if policy_of(name).is_some() || Sort::of(name) == Sort::Brief);
        self.steps.iter().any(|step| keeps(step) || matches!(step, Step::Pin(_) | Step::AsOfNow))
    }
}

/// How much is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// That it opens, and what is there.
    Look,
    /// And that it goes on working: writes, closes, opens.
    Work,
    /// And that a power cut after all that was made durable takes nothing.
    CutAgain,
}

/// Opens what a crash left, and checks that it is right.
fn check(sim: &Sim, workload: &Workload, run: &Run, floor: usize, depth: Depth) -> Result<(), String> {
    let db = workload.open(sim).map_err(failed("open"))?;
    let mut seen = observe(&db, None)?;
    let explained = run.explain(&seen, floor, run.all())?;
    let past = workload.has_past().then(|| Past::new(run, &explained));
    if let Some(past) = &past {
        past.check(&db, depth)?;
    }
    verify(&db)?;
    if depth == Depth::Look {
        drop(db);
        return check_copy(sim, workload, run);
    }

    let mut newest = run.newest;
    let names: BTreeSet<String> =
        seen.keys().filter(|name| !name.starts_with('\0')).cloned().chain(["after".to_owned()]).collect();
    for name in names {
        let sort = Sort::of(&name);
        let value = sort.plain_value(b"once more");
        let keyspace = db.keyspace(&name, stored_options_of(&name)).map_err(failed("create afterwards"))?;
        let receipt = keyspace.put("~after", value).map_err(failed("put afterwards"))?;
        let seqno = u64::from(receipt.seqno);
        if seqno <= newest {
            return Err(format!("seqno {seqno} was given out, and {newest} before the crash"));
        }
        newest = seqno;
        if let Some(past) = &past {
            past.check_later(us(receipt.time))?;
        }
        seen.entry(name).or_default().insert(b"~after".to_vec(), sort.digest_of_put(value));
    }
    db.persist().map_err(failed("persist afterwards"))?;
    if depth == Depth::CutAgain {
        let cut = sim.fork();
        cut.cut_power_with(Loss::Everything);
        let again = workload.open(&cut).map_err(failed("open after a cut behind persist"))?;
        if observe(&again, None)? != seen {
            return Err("a power cut behind persist lost something".to_owned());
        }
        verify(&again)?;
        if let Some(past) = &past {
            past.check(&again, Depth::Look).map_err(|e| format!("after another cut: {e}"))?;
        }
    }
    if let Some(past) = past.as_ref().filter(|_| run.salt.is_multiple_of(2)) {
        // What was recovered is moved and merged like anything else.
        db.compact().map_err(failed("compact afterwards"))?;
        past.check_purged(sim)?;
        past.check(&db, Depth::Look).map_err(|e| format!("compacted afterwards: {e}"))?;
    }
    db.close().map_err(failed("close afterwards"))?;
    let db = workload.open(sim).map_err(failed("open again"))?;
    if observe(&db, None)? != seen {
        return Err("closing and opening again changed something".to_owned());
    }
    verify(&db)?;
    if let Some(past) = &past {
        past.check(&db, Depth::Look).map_err(|e| format!("opened again: {e}"))?;
    }
    drop(db);
    check_copy(sim, workload, run)
}

/// A copy that was acknowledged opens; one that opens is complete.
fn check_copy(sim: &Sim, workload: &Workload, run: &Run) -> Result<(), String> {
    let Some((events, acknowledged)) = run.copied else { return Ok(()) };
    match workload.options(sim.clone()).read_only(true).open(COPY) {
        Ok(copy) => {
            let seen = observe(&copy, None).map_err(|e| format!("the copy: {e}"))?;
            run.explain(&seen, events, events).map_err(|e| format!("the copy: {e}"))?;
            verify(&copy).map_err(|e| format!("the copy: {e}"))
        }
        Err(error) if acknowledged => Err(format!("the copy does not open: {error} ({error:?})")),
        Err(_) => Ok(()),
    }
}

// ---------------------------------------------------------------- the past

/// What there was at each moment, as far as it is known from what was answered.
struct Past<'a> {
    run: &'a Run,
    happened: &'a [bool],
    /// After each event.
    states: Vec<State>,
    /// The latest time that was asked for, and how many commits came later.
    latest_us: Cell<u64>,
    later: Cell<usize>,
}

/// The database just after a commit.
#[derive(Clone, Copy, Debug)]
struct Moment {
    seqno: u64,
    time: u64,
    event: usize,
    /// The time of the next commit.
    until: Option<u64>,
}

/// How a view of the past is read: whether it may say that something is gone, and whether by scans alone.
#[derive(Clone, Copy, Debug)]
struct Look {
    owed: bool,
    close: bool,
}

impl<'a> Past<'a> {
    fn new(run: &'a Run, explained: &'a Explained) -> Self {
        let happened = explained.happened.as_slice();
        let mut values = run.values.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = State::new();
        let each = run.events.iter().zip(happened).map(|(event, happened)| {
            if *happened {
                event.apply(&mut state, &mut values);
            }
            state.clone()
        });
        Self { run, happened, states: each.collect(), latest_us: Cell::new(0), later: Cell::new(0) }
    }

    /// The events that happened, of those from one on.
    fn events(&self, from: usize) -> impl DoubleEndedIterator<Item = &'a Event> {
        self.run.events.iter().zip(self.happened).skip(from).filter(|(_, happened)| **happened).map(|(event, _)| event)
    }

    /// A commit was made after the crash.
    fn check_later(&self, time: u64) -> Result<(), String> {
        self.later.set(self.later.get() + 1);
        if time > self.latest_us.get() {
            return Ok(());
        }
        Err(format!("a commit got time {time}, and {} had been asked for", self.latest_us.get()))
    }

    /// Every commit, by what the timeline tells: each that was acknowledged, and no other.
    fn moments(&self, db: &Db, now: u64) -> Result<Vec<Moment>, String> {
        let told: Vec<_> = db.commits(..).collect::<Result<_, _>>().map_err(failed("commits"))?;
        let writes = || self.events(0).filter(|event| matches!(event.what, What::Write(_)));
        let mut known: BTreeMap<u64, &Event> = writes().filter_map(|event| Some((event.receipt?.0, event))).collect();
        let mut unknown = writes().filter(|event| event.receipt.is_none());
        let (mut moments, mut later): (Vec<Moment>, usize) = (Vec::new(), 0);
        for commit in &told {
            let (seqno, time) = (u64::from(commit.seqno), us(commit.time));
            if let Some(last) = moments.last_mut() {
                if last.seqno >= seqno || last.time > time {
                    return Err(format!("commit {seqno} at {time} is told after {last:?}"));
                }
                last.until.get_or_insert(time);
            }
            let event = if let Some(event) = known.remove(&seqno) {
                if event.receipt != Some((seqno, time)) {
                    return Err(format!("commit {seqno} is told at {time}; the receipt was {:?}", event.receipt));
                }
                if let What::Write(ops) = &event.what
                    && ops.len() + 1 != commit.writes as usize
                    && ops.iter().all(|op| Sort::of(op.keyspace()).strategy() == Strategy::LastWins)
                {
                    return Err(format!("commit {seqno} had {} operations, told are {}", ops.len() + 1, commit.writes));
                }
                event
            } else if let Some(event) = unknown.next() {
                event
            } else if later < self.later.get() {
                later += 1;
                continue;
            } else {
                return Err(format!("a commit {seqno} is told that nobody made"));
            };
            moments.push(Moment { seqno, time, event: event.number, until: None });
        }
        let is_near = |time: u64| time + WINDOW_US > now;
        if let Some(lost) = known.values().find(|event| event.receipt.is_some_and(|(_, time)| is_near(time))) {
            return Err(format!("commit {:?} is not told", lost.receipt));
        }
        if let Some(lost) = unknown.find(|event| is_near(event.began_us)) {
            return Err(format!("event {} happened, and is not told", lost.number));
        }
        Ok(moments)
    }

    /// What a keyspace holds after an event, seen at a time by a view opened now.
    fn expected(&self, name: &str, event: usize, time: u64) -> Content {
        let Some(state) = self.states.get(event) else { return Content::new() };
        let later =
            || self.events(event + 1).take_while(|event| !matches!(event.what, What::Drop(gone) if gone == name));
        let is_purged = |key: &Vec<u8>| {
            later().any(|event| match &event.what {
                What::Write(ops) => ops.iter().any(|op| op.keyspace() == name && op.purges(key)),
                _ => false,
            })
        };
        shown(state, name, time).filter(|(key, _)| !is_purged(key)).map(|(key, value)| (key.clone(), *value)).collect()
    }

    /// The event that made a keyspace what it is now.
    fn born(&self, name: &str) -> Option<usize> {
        let made = |event: &&Event| matches!(event.what, What::Create(made) if made == name);
        self.events(0).rfind(made).map(|event| event.number)
    }

    fn check(&self, db: &Db, depth: Depth) -> Result<(), String> {
        let now = us(db.snapshot().time());
        let moments = self.moments(db, now)?;
        let ask = |time: u64| {
            self.latest_us.set(self.latest_us.get().max(time));
            db.as_of_time(UNIX_EPOCH + Duration::from_micros(time))
        };
        let stride = if depth == Depth::Look { 5 } else { 1 };
        let salt = self.run.salt;
        let picked = moments.iter().enumerate().filter(|(index, _)| (index + salt).is_multiple_of(stride));
        for (index, moment) in picked {
            let close = (index + salt).is_multiple_of(5);
            let at = |why: String| format!("as of {moment:?}: {why}");
            let view = db.as_of(moment.seqno).map_err(failed("as_of")).map_err(at)?;
            if us(view.time()) != moment.time {
                return Err(at(format!("the view is of time {}", us(view.time()))));
            }
            self.look_at(db, &view, Some(moment), now, close).map_err(at)?;
            // The last commit of that microsecond, or what was decided behind it.
            let last = moments.iter().rfind(|other| other.time <= moment.time);
            let view = ask(moment.time).map_err(failed("as_of_time")).map_err(at)?;
            let told = moments.iter().rfind(|other| other.seqno <= u64::from(view.seqno()));
            if told.map(|told| told.seqno) != last.map(|last| last.seqno) {
                return Err(at(format!("by its time it is {}, and should be {last:?}", view.seqno())));
            }
            if close {
                self.look_at(db, &view, last, now, false).map_err(|e| at(format!("by its time: {e}")))?;
            }
        }
        for (time, events) in &self.run.asked {
            let last = moments.iter().rfind(|moment| moment.event < *events && moment.time <= us(*time));
            let at = |why: String| format!("as of {}, asked after {events} events: {why}", us(*time));
            let told = ask(us(*time));
            if matches!(told, Err(Error::HistoryTrimmed { .. })) && us(*time) + WINDOW_US <= now {
                continue;
            }
            let view = told.map_err(failed("as_of_time")).map_err(at)?;
            let told = moments.iter().rfind(|other| other.seqno <= u64::from(view.seqno()));
            if told.map(|told| told.seqno) != last.map(|last| last.seqno) {
                return Err(at(format!("it is {}, and should be {last:?}", view.seqno())));
            }
            self.look_at(db, &view, last, now, depth != Depth::Look).map_err(at)?;
        }
        self.check_pins(db)?;
        for name in db.keyspaces() {
            let Some(born) = self.born(&name) else { continue };
            let keyspace = db.keyspace(&name, stored_options_of(&name)).map_err(failed("keyspace"))?;
            let (horizon, seqno) = (u64::from(keyspace.horizon()), u64::from(db.seqno()));
            let before = self.run.horizons.get(&born).copied().unwrap_or(0);
            if horizon < before.min(seqno) {
                return Err(format!("the horizon of {name} was {before} before, and is {horizon} at {seqno}"));
            }
            if depth != Depth::Look && is_owed(&name) && Sort::of(&name) != Sort::Brief {
                for key in (0..6).map(key_of) {
                    self.check_history(&keyspace, born, &key, (&moments, now))
                        .map_err(|e| format!("history of {} in {name}: {e}", key.escape_ascii()))?;
                }
            }
        }
        if let (Some(from), Some(to)) = (moments.get(salt % moments.len().max(1)), moments.last()) {
            self.check_diff(db, (from, to), now)?;
        }
        Ok(())
    }

    /// Reads every keyspace of now through a view of a moment; nothing is the time before the first commit.
    fn look_at(&self, db: &Db, view: &View, moment: Option<&Moment>, now: u64, close: bool) -> Result<(), String> {
        for name in db.keyspaces() {
            let Some(born) = self.born(&name) else { continue };
            let keyspace = db.keyspace(&name, stored_options_of(&name)).map_err(failed("keyspace"))?;
            let expected = match moment {
                Some(moment) if moment.event >= born => self.expected(&name, moment.event, us(view.time())),
                _ => Content::new(),
            };
            let owed = u64::from(view.seqno()) >= keyspace.horizon().into()
                || is_owed(&name) && moment.is_some_and(|moment| Self::is_owed(moment, now));
            Self::look(db, view, &keyspace, &expected, Look { owed, close }).map_err(|e| format!("{name}: {e}"))?;
        }
        Ok(())
    }

    /// Whether a moment is in the window: what was the truth then was so until the next commit at least.
    fn is_owed(moment: &Moment, now: u64) -> bool {
        moment.until.is_none_or(|until| until + WINDOW_US > now)
    }

    /// Reads a keyspace: what is expected, or that something is gone where that may be.
    fn look(db: &Db, view: &View, keyspace: &Keyspace, expected: &Content, look: Look) -> Result<(), String> {
        let sort = Sort::of(keyspace.name());
        let scan = |backward: bool| {
            let range = view.range(keyspace, ..);
            let found: Box<dyn Iterator<Item = _>> = if backward { Box::new(range.rev()) } else { Box::new(range) };
            let mut seen = 0;
            for item in found {
                let (key, value) = match item {
                    Ok(item) => item,
                    Err(Error::HistoryTrimmed { .. }) if !look.owed => return Ok(()),
                    Err(error) => return Err(format!("{error} ({error:?})")),
                };
                if expected.get(&*key) != Some(&sort.digest_of_read(&value)) {
                    return Err(format!(
                        "key {} is {} bytes, expected {:?}",
                        key.escape_ascii(),
                        value.len(),
                        expected.get(&*key)
                    ));
                }
                seen += 1;
            }
            if seen == expected.len() { Ok(()) } else { Err(format!("{seen} keys instead of {}", expected.len())) }
        };
        scan(false).map_err(|e| format!("scan: {e}"))?;
        if !look.close {
            return Ok(());
        }
        scan(true).map_err(|e| format!("scan backward: {e}"))?;
        let asked: BTreeSet<_> = (0..9).map(key_of).chain(expected.keys().cloned()).collect();
        for key in asked {
            match view.get(keyspace, &key) {
                Ok(value) if value.as_ref().map(|value| sort.digest_of_read(value)) == expected.get(&key).copied() => {}
                Ok(value) => {
                    let len = value.map(|value| value.len());
                    return Err(format!(
                        "get of {} gives {len:?}, expected {:?}",
                        key.escape_ascii(),
                        expected.get(&key)
                    ));
                }
                Err(Error::HistoryTrimmed { oldest }) if !look.owed => {
                    // There it can be read, whatever it is (R5).
                    match db.as_of(oldest) {
                        Ok(then) => drop(then.get(keyspace, &key).map_err(failed("the oldest told to be readable"))?),
                        // Nothing that has been committed so far.
                        Err(Error::InTheFuture) => {}
                        Err(error) => return Err(format!("as of the oldest, {oldest}: {error}")),
                    }
                }
                Err(error) => return Err(format!("get of {}: {error} ({error:?})", key.escape_ascii())),
            }
        }
        Ok(())
    }

    /// Pins show what was there, whatever has gone since.
    fn check_pins(&self, db: &Db) -> Result<(), String> {
        for pin in db.pins() {
            let at = |why: String| format!("pin \"{}\" of {}: {why}", pin.name, pin.seqno);
            let made = self.events(0).rfind(|event| matches!(event.what, What::Pin(name) if name == pin.name));
            let event = made.ok_or_else(|| at("nobody made it".to_owned()))?;
            if event.receipt.is_some_and(|receipt| receipt != (pin.seqno.into(), us(pin.time))) {
                return Err(at(format!("it was {:?}", event.receipt)));
            }
            let view = db.pinned(&pin.name).map_err(failed("pinned")).map_err(at)?;
            if (view.seqno(), view.time()) != (pin.seqno, pin.time) {
                return Err(at(format!("the view is of {} at {}", view.seqno(), us(view.time()))));
            }
            let names: Vec<_> = self
                .states
                .get(event.number)
                .into_iter()
                .flatten()
                .map(|(name, _)| name.clone())
                .filter(|name| !name.starts_with('\0'))
                .collect();
            if view.keyspaces() != names {
                return Err(at(format!("it shows the keyspaces {:?} instead of {names:?}", view.keyspaces())));
            }
            for name in names {
                let keyspace = view.keyspace(&name).map_err(failed("keyspace")).map_err(at)?;
                let expected = self.expected(&name, event.number, us(pin.time));
                Self::look(db, &view, &keyspace, &expected, Look { owed: true, close: true })
                    .map_err(|e| at(format!("{name}: {e}")))?;
            }
        }
        Ok(())
    }

    /// The versions of a key: nothing that never was, and everything that is owed.
    fn check_history(
        &self,
        keyspace: &Keyspace,
        born: usize,
        key: &[u8],
        (moments, now): (&[Moment], u64),
    ) -> Result<(), String> {
        let (name, sort) = (keyspace.name(), Sort::of(keyspace.name()));
        // Newest last: the moment, the value, and whether it changed anything.
        let mut versions: Vec<(Moment, Option<Digest>, bool)> = Vec::new();
        let mut before = None;
        for event in self.events(born) {
            let What::Write(ops) = &event.what else { continue };
            let touching = || ops.iter().filter(|op| op.keyspace() == name && op.touches(key));
            if touching().next().is_none() {
                continue;
            }
            let after = self.states.get(event.number).and_then(|state| state.get(name)?.get(key)).copied();
            let purged = touching().any(|op| op.purges(key));
            if purged {
                versions.clear();
            }
            // One that is told no more was too long ago.
            if let Some(moment) = moments.iter().find(|moment| moment.event == event.number)
                && (after.is_some() || !purged)
            {
                versions.push((*moment, after, after.is_some() || before.is_some()));
            }
            before = after;
        }
        let mut walk = keyspace.history(key);
        let mut expected = versions.iter().enumerate().rev();
        let is_near = |moment: &Moment| moment.time + WINDOW_US > now;
        // A delete may go when nothing is left beneath it; a value stays until it has been superseded for so long.
        let is_owed = |index: usize| match (versions.get(index), versions.get(index + 1)) {
            (Some((_, Some(_), _)), next) => next.is_none_or(|(next, ..)| is_near(next)),
            (found, _) => found.is_some_and(|(moment, ..)| is_near(moment)),
        };
        let mut skipped = false;
        for told in &mut walk {
            let told = told.map_err(|error| format!("{error} ({error:?})"))?;
            let (seqno, time) = (u64::from(told.seqno), us(told.time));
            let digest = told.value.as_ref().map(|value| sort.digest_of_read(value));
            loop {
                let Some((index, (moment, value, counts))) = expected.next() else {
                    if moments.first().is_some_and(|first| seqno < first.seqno) {
                        break;
                    }
                    return Err(format!("version {seqno} was never written"));
                };
                if moment.seqno == seqno {
                    if (moment.time, *value) != (time, digest) {
                        return Err(format!(
                            "version {seqno} at {time} is {digest:?}, expected {value:?} of {moment:?}"
                        ));
                    }
                    break;
                }
                if moment.seqno < seqno {
                    return Err(format!("version {seqno} was never written; next is {moment:?}"));
                }
                skipped |= *counts;
                if *counts && is_owed(index) {
                    return Err(format!("version {moment:?} is not told"));
                }
            }
        }
        for (index, (moment, _, counts)) in expected {
            skipped |= *counts;
            if *counts && is_owed(index) {
                return Err(format!("version {moment:?} is not told"));
            }
        }
        if skipped && walk.is_complete() {
            return Err("it is complete, and something is not told".to_owned());
        }
        Ok(())
    }

    /// What differs between two moments.
    fn check_diff(&self, db: &Db, (from, to): (&Moment, &Moment), now: u64) -> Result<(), String> {
        for name in db.keyspaces().into_iter().filter(|name| is_owed(name)) {
            let Some(born) = self.born(&name).filter(|born| *born <= from.event && Self::is_owed(from, now)) else {
                continue;
            };
            let keyspace = db.keyspace(&name, stored_options_of(&name)).map_err(failed("keyspace"))?;
            let [before, after] = [from, to].map(|moment| self.expected(&name, moment.event.max(born), moment.time));
            let views = (db.as_of(from.seqno).map_err(failed("as_of"))?, db.as_of(to.seqno).map_err(failed("as_of"))?);
            let sort = Sort::of(&name);
            let mut found = Vec::new();
            for change in db.diff(&views.0, &views.1, &keyspace) {
                let change = change.map_err(failed("diff"))?;
                let [before, after] =
                    [change.before, change.after].map(|value| value.map(|value| sort.digest_of_read(&value)));
                found.push((change.key.to_vec(), before, after));
            }
            let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
            let wanted: Vec<_> = keys
                .into_iter()
                .map(|key| (key.clone(), before.get(key).copied(), after.get(key).copied()))
                .filter(|(_, before, after)| before != after)
                .collect();
            if found != wanted {
                return Err(format!(
                    "{name}: {} keys differ between {from:?} and {to:?}, and should {}",
                    found.len(),
                    wanted.len()
                ));
            }
        }
        Ok(())
    }

    /// After a compaction no file holds what was purged.
    fn check_purged(&self, sim: &Sim) -> Result<(), String> {
        let mut gone: Vec<(usize, Vec<u8>)> = Vec::new();
        for purge in self.events(0) {
            let What::Write(purges) = &purge.what else { continue };
            for purge_op in purges.iter().filter(|op| matches!(op, Op::Purge { .. } | Op::PurgePrefix { .. })) {
                for put in self.events(0).take_while(|event| event.number < purge.number) {
                    let What::Write(ops) = &put.what else { continue };
                    for op in ops.iter().filter(|op| op.keyspace() == purge_op.keyspace()) {
                        if let Op::Put { key, len, .. } = *op
                            && purge_op.purges(&key_of(key))
                            && len >= 16
                        {
                            gone.push((put.number, value_of(put.number, key, 16)));
                        }
                    }
                }
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        for path in sim.files().into_iter().filter(|path| path.starts_with(DB)) {
            let bytes = sim.read_file(&path).unwrap_or_default();
            for window in bytes.windows(16) {
                if let Some((number, _)) = gone.iter().find(|(_, value)| value == window) {
                    return Err(format!(
                        "after a compaction {} holds what event {number} put, which was purged",
                        path.display()
                    ));
                }
            }
        }
        Ok(())
    }
}

// ---------------------------------------------------------------- running a workload

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Stop,
    GoOn,
}

/// A workload under way.
struct Runner<'a> {
    sim: &'a Sim,
    workload: &'a Workload,
    env: Option<Traced>,
    after: After,
    run: Run,
    db: Option<Db>,
    handles: BTreeMap<&'static str, Keyspace>,
    views: Vec<(View, Vec<Keyspace>, State)>,
    now_ms: u64,
    /// When each event happened.
    times_ms: Vec<u64>,
    poisoned: bool,
}

impl<'a> Runner<'a> {
    /// Runs all steps, or up to the first error. `Err` is a broken promise.
    fn run(sim: &'a Sim, workload: &'a Workload, after: After) -> Result<Self, String> {
        Self::run_on(sim, None, workload, after)
    }

    fn run_on(sim: &'a Sim, env: Option<Traced>, workload: &'a Workload, after: After) -> Result<Self, String> {
        let mut runner = Runner {
            sim,
            workload,
            env,
            after,
            run: Run::default(),
            db: None,
            handles: BTreeMap::new(),
            views: Vec::new(),
            now_ms: 0,
            times_ms: Vec::new(),
            poisoned: false,
        };
        if runner.open().is_err() && after == After::Stop {
            return Ok(runner);
        }
        for (number, step) in workload.steps.iter().enumerate() {
            if runner.db.is_none() && runner.open().is_err() {
                continue;
            }
            let at = |why: String| format!("step {number}, {}: {why}", step.brief());
            let was_poisoned = runner.poisoned;
            let stepped = runner.step(step).map_err(at)?;
            let Err(error) = stepped else {
                runner.note_horizons();
                if was_poisoned && step.writes() {
                    return Err(at("succeeded although writes had stopped for good".to_owned()));
                }
                continue;
            };
            runner.run.errors.push(at(error.to_string()));
            if after == After::Stop {
                break;
            }
            runner.after_error(step, &error).map_err(at)?;
        }
        Ok(runner)
    }

    fn open(&mut self) -> Result<(), Error> {
        let opened = match &self.env {
            None => self.workload.open(self.sim),
            Some(env) => self.workload.options(env.clone()).open(DB),
        };
        let db = opened.inspect_err(|error| self.run.errors.push(format!("open: {error}")))?;
        self.db = Some(db);
        self.poisoned = false;
        Ok(())
    }

    /// Reads go on, and show what was acknowledged.
    fn after_error(&mut self, step: &Step, error: &Error) -> Result<(), String> {
        if let Error::Corrupt { .. } | Error::Locked { .. } | Error::NewerFormat { .. } | Error::Conflict { .. } = error
        {
            return Err(format!("a failing call is no reason to say {error}"));
        }
        let Some(db) = &self.db else { return Ok(()) };
        let health = db.health();
        self.poisoned = matches!(health, Err(Error::Poisoned { .. }));
        // A close that says so was followed by opening again.
        if matches!(error, Error::Poisoned { .. }) && !self.poisoned && !matches!(step, Step::Reopen) {
            return Err("writes have stopped, but health does not say so".to_owned());
        }
        let seen = observe(db, None).map_err(|e| format!("reading after an error: {e}"))?;
        self.run.explain(&seen, self.run.all(), self.run.all()).map_err(|e| format!("after an error: {e}"))?;
        Ok(())
    }

    fn handle(&mut self, name: &'static str) -> Option<Keyspace> {
        if let Some(keyspace) = self.handles.get(name) {
            return Some(keyspace.clone());
        }
        let db = self.db.as_ref()?;
        if !db.keyspaces().iter().any(|there| there == name) {
            return None;
        }
        let keyspace = db.keyspace(name, stored_options_of(name)).ok()?;
        self.handles.insert(name, keyspace.clone());
        Some(keyspace)
    }

    fn durable(&mut self) {
        self.run.floor = self.run.all();
    }

    fn event(&mut self, what: What, fate: Fate) {
        let began_us = us(self.sim.now());
        self.run.events.push(Event { number: self.run.all(), what, fate, receipt: None, began_us });
        self.times_ms.push(self.now_ms);
    }

    /// The outer error is a broken promise, the inner one an answer.
    fn step(&mut self, step: &Step) -> Result<Result<(), Error>, String> {
        let Some(db) = self.db.clone() else { return Ok(Ok(())) };
        let done = match step {
            Step::Create(name) => {
                if self.handle(name).is_some() {
                    return Ok(Ok(()));
                }
                let created = db.keyspace(name, options_of(name));
                self.event(What::Create(name), if created.is_ok() { Fate::Sure } else { Fate::Unknown });
                created.map(|keyspace| {
                    self.handles.insert(name, keyspace);
                    self.run.newest = self.run.newest.max(db.snapshot().seqno().into());
                    self.durable();
                })
            }
            Step::Drop(name) => {
                if self.handle(name).is_none() {
                    return Ok(Ok(()));
                }
                let dropped = db.drop_keyspace(name);
                self.event(What::Drop(name), if dropped.is_ok() { Fate::Sure } else { Fate::Unknown });
                dropped.map(|()| {
                    self.handles.remove(name);
                    self.run.newest = self.run.newest.max(db.snapshot().seqno().into());
                    self.durable();
                })
            }
            Step::Write(ops) | Step::Refused(ops) => return self.write(&db, ops, None, step),
            Step::WriteAs(durability, ops) => return self.write(&db, ops, Some(*durability), step),
            Step::Persist => db.persist().map(|()| self.durable()),
            Step::Flush => db.flush().map(|()| self.durable()),
            Step::Compact => db.compact().map(|_| self.durable()),
            Step::Reopen => return self.reopen(db),
            Step::View => {
                let view = db.snapshot();
                let keyspaces: Vec<Keyspace> =
                    db.keyspaces().iter().filter_map(|name| db.keyspace(name, stored_options_of(name)).ok()).collect();
                let state = Self::look(&view, &keyspaces);
                match state {
                    Ok(state) => self.views.push((view, keyspaces, state)),
                    Err(_) if self.after == After::Stop => {}
                    Err(error) => return Err(error),
                }
                Ok(())
            }
            Step::CheckViews => {
                for (view, keyspaces, before) in &self.views {
                    match Self::look(view, keyspaces) {
                        Ok(now) if now == *before => {}
                        Ok(_) => return Err("a view shows something else than before".to_owned()),
                        Err(error) if self.after == After::GoOn => return Err(error),
                        Err(_) => {}
                    }
                }
                Ok(())
            }
            Step::ForgetViews => {
                self.views.clear();
                Ok(())
            }
            Step::Pass(ms) => {
                self.now_ms += ms;
                self.sim.set_time(self.sim.now() + Duration::from_millis(*ms));
                Ok(())
            }
            Step::Pin(name) => {
                if db.pins().iter().any(|pin| pin.name == *name) {
                    return Ok(Ok(()));
                }
                let pinned = db.pin(name);
                self.event(What::Pin(name), if pinned.is_ok() { Fate::Sure } else { Fate::Unknown });
                pinned.map(|seqno| self.numbered(&db, name, seqno.into()))
            }
            Step::Unpin(name) => {
                if !db.pins().iter().any(|pin| pin.name == *name) {
                    return Ok(Ok(()));
                }
                let unpinned = db.unpin(name);
                self.event(What::Unpin(name), if unpinned.is_ok() { Fate::Sure } else { Fate::Unknown });
                unpinned.map(|()| {
                    self.run.newest = self.run.newest.max(db.snapshot().seqno().into());
                    self.durable();
                })
            }
            Step::AsOfNow => {
                let time = self.sim.now();
                db.as_of_time(time).map(|_| self.run.asked.push((time, self.run.all())))
            }
            Step::Checkpoint => {
                let copied = db.checkpoint(COPY);
                self.run.copied = Some((self.run.all(), copied.is_ok()));
                copied.map(|()| self.durable())
            }
        };
        Ok(done)
    }

    /// A pin was given a seqno.
    fn numbered(&mut self, db: &Db, name: &str, seqno: u64) {
        let time = db.pins().iter().find(|pin| pin.name == name).map_or(0, |pin| us(pin.time));
        if let Some(event) = self.run.events.last_mut() {
            event.receipt = Some((seqno, time));
        }
        self.run.newest = self.run.newest.max(seqno);
        self.durable();
    }

    /// What the keyspaces tell of their horizons.
    fn note_horizons(&mut self) {
        // A database that cannot read when its commits were made tells the seqno after the newest.
        let readable = self.db.as_ref().is_some_and(|db| db.commits(..).all(|commit| commit.is_ok()));
        if !self.workload.has_past() || !readable {
            return;
        }
        for (name, keyspace) in &self.handles {
            let born =
                self.run.events.iter().rposition(|event| matches!(event.what, What::Create(made) if made == *name));
            let Some(born) = born else { continue };
            let horizon = self.run.horizons.entry(born).or_default();
            *horizon = keyspace.horizon().into();
        }
    }

    fn look(view: &View, keyspaces: &[Keyspace]) -> Result<State, String> {
        let each =
            keyspaces.iter().map(|keyspace| Ok((keyspace.name().to_owned(), observe_keyspace(keyspace, Some(view))?)));
        each.collect()
    }

    fn write(
        &mut self,
        db: &Db,
        ops: &[Op],
        durability: Option<Durability>,
        step: &Step,
    ) -> Result<Result<(), Error>, String> {
        let number = self.run.all();
        let mut batch = db.batch();
        for op in ops {
            let Some(keyspace) = self.handle(op.keyspace()) else {
                return Ok(Err(Error::Invalid { what: "the keyspace was never made".to_owned() }));
            };
            let sort = Sort::of(op.keyspace());
            match *op {
                Op::Put { key, len, .. } => batch.put(&keyspace, key_of(key), sort.value(number, key, len)),
                Op::Merge { key, len, .. } => batch.merge(&keyspace, key_of(key), sort.value(number, key, len)),
                Op::Delete { key, .. } => batch.delete(&keyspace, key_of(key)),
                Op::DeleteRange { start, end, .. } => batch.delete_range(&keyspace, key_of(start)..key_of(end)),
                Op::Purge { key, .. } => batch.purge(&keyspace, key_of(key)),
                Op::PurgePrefix { prefix, .. } => batch.purge_prefix(&keyspace, prefix),
            }
        }
        if let Some(keyspace) = ops.first().and_then(|op| self.handle(op.keyspace())) {
            batch.put(&keyspace, mark_of(number), Sort::of(keyspace.name()).plain_value(b""));
        }
        let durability = durability.unwrap_or(self.workload.durability);
        let committed: Result<Receipt, Error> = batch.commit_with(durability);
        if matches!(step, Step::Refused(_)) {
            match committed {
                Err(Error::Duplicate { .. }) => return Ok(Ok(())),
                Ok(_) => self.run.accepted += 1,
                Err(_) => {}
            }
        }
        let fate = match &committed {
            // Applied, whether or not it is on the disk.
            Ok(_) | Err(Error::NotDurable { .. }) => Fate::Sure,
            // Refused before anything was tried.
            Err(Error::Poisoned { .. }) => Fate::Void,
            Err(_) => Fate::Unknown,
        };
        self.event(What::Write(ops.to_vec()), fate);
        let receipt = match committed {
            Ok(receipt) => receipt,
            Err(error) => return Ok(Err(error)),
        };
        let seqno = u64::from(receipt.seqno);
        if seqno <= self.run.newest {
            return Err(format!("seqno {seqno} was given out after {}", self.run.newest));
        }
        if let Some((asked, _)) = self.run.asked.iter().find(|(asked, _)| *asked >= receipt.time) {
            return Err(format!("time {:?} was given out after {asked:?} was asked for", receipt.time));
        }
        if let Some(event) = self.run.events.last_mut() {
            event.receipt = Some((seqno, us(receipt.time)));
        }
        self.run.newest = seqno;
        let is_durable = match durability {
            Durability::Sync => true,
            Durability::Interval(every) => {
                let old = self.times_ms.partition_point(|ms| u128::from(self.now_ms - ms) >= every.as_millis());
                self.run.floor = self.run.floor.max(old);
                false
            }
            _ => false,
        };
        if is_durable {
            self.durable();
        }
        Ok(Ok(()))
    }

    fn reopen(&mut self, db: Db) -> Result<Result<(), Error>, String> {
        self.db = None;
        self.handles.clear();
        self.views.clear();
        let closed = db.close();
        if closed.is_ok() {
            self.run.floor = self.run.all();
        }
        if closed.is_err() && self.after == After::Stop {
            return Ok(closed);
        }
        // A fault that comes once has come.
        let opened = self.open().or_else(|error| if self.after == After::GoOn { self.open() } else { Err(error) });
        if opened.is_ok()
            && self.after == After::GoOn
            && let Some(db) = &self.db
        {
            let seen = observe(db, None)?;
            self.run.explain(&seen, self.run.all(), self.run.all()).map_err(|e| format!("after opening: {e}"))?;
            self.run.resolve(&seen);
        }
        Ok(closed.and(opened))
    }
}

// ---------------------------------------------------------------- what each call is

/// A simulated machine that writes down what each changing call is.
#[derive(Clone, Debug)]
struct Traced {
    sim: Sim,
    trace: Arc<Mutex<Vec<String>>>,
}

#[derive(Debug)]
struct TracedDir {
    inner: Arc<dyn Dir>,
    env: Traced,
}

#[derive(Debug)]
struct TracedFile {
    inner: Arc<dyn File>,
    env: Traced,
    name: String,
}

impl Traced {
    fn new(sim: &Sim) -> Self {
        Self { sim: sim.clone(), trace: Arc::default() }
    }

    /// Notes every call that `what` is counted as.
    fn note<T>(&self, what: &str, call: impl FnOnce() -> T) -> T {
        let before = self.sim.calls();
        let done = call();
        let mut trace = self.trace.lock().unwrap_or_else(PoisonError::into_inner);
        (before..self.sim.calls()).for_each(|_| trace.push(what.to_owned()));
        done
    }
}

impl Env for Traced {
    fn open_dir(&self, path: &Path, create: bool) -> io::Result<Arc<dyn Dir>> {
        Ok(Arc::new(TracedDir { inner: self.sim.open_dir(path, create)?, env: self.clone() }))
    }

    fn wall_us(&self) -> u64 {
        self.sim.wall_us()
    }

    fn monotonic_us(&self) -> u64 {
        self.sim.monotonic_us()
    }

    fn entropy(&self) -> u64 {
        self.sim.entropy()
    }

    fn background(&self) -> Background {
        self.sim.background()
    }

    fn draw(&self, below: u32) -> u32 {
        self.sim.draw(below)
    }
}

impl TracedDir {
    fn file(&self, inner: Arc<dyn File>, name: &str) -> Arc<dyn File> {
        Arc::new(TracedFile { inner, env: self.env.clone(), name: name.to_owned() })
    }
}

impl Dir for TracedDir {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn try_lock(&self, exclusive: bool) -> io::Result<bool> {
        self.inner.try_lock(exclusive)
    }

    fn unlock(&self) -> io::Result<()> {
        self.inner.unlock()
    }

    fn restrict(&self) -> io::Result<()> {
        self.inner.restrict()
    }

    fn check_there(&self) -> io::Result<()> {
        self.inner.check_there()
    }

    fn list(&self, sub: &str) -> io::Result<Vec<String>> {
        self.inner.list(sub)
    }

    fn create_dir(&self, name: &str) -> io::Result<()> {
        self.env.note(&format!("create_dir {name}"), || self.inner.create_dir(name))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.env.note(&format!("create {name}"), || self.inner.create(name)).map(|inner| self.file(inner, name))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.inner.open(name).map(|inner| self.file(inner, name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.env.note(&format!("rename {from} to {to}"), || self.inner.rename(from, to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.env.note(&format!("remove {name}"), || self.inner.remove(name))
    }

    fn remove_dir(&self, name: &str) -> io::Result<()> {
        self.env.note(&format!("remove_dir {name}"), || self.inner.remove_dir(name))
    }

    fn link(&self, name: &str, to: &dyn Dir, to_name: &str) -> io::Result<()> {
        self.env.note(&format!("link {name}"), || self.inner.link(name, to, to_name))
    }

    fn sync_dir(&self, sub: &str) -> io::Result<()> {
        self.env.note(&format!("sync_dir {sub}"), || self.inner.sync_dir(sub))
    }

    fn available_space(&self) -> io::Result<u64> {
        self.inner.available_space()
    }
}

impl File for TracedFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let what = format!("write {} bytes to {} at {offset}", buf.len(), self.name);
        self.env.note(&what, || self.inner.write_at(offset, buf))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.env.note(&format!("allocate {len} for {}", self.name), || self.inner.allocate(len))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.env.note(&format!("cut {} to {len}", self.name), || self.inner.set_len(len))
    }

    fn sync(&self) -> io::Result<()> {
        self.env.note(&format!("sync {}", self.name), || self.inner.sync())
    }

    fn map(&self) -> io::Result<Region> {
        self.inner.map()
    }
}

// ---------------------------------------------------------------- sweeps

fn seed() -> u64 {
    std::env::var("CHRONOLITH_CRASH_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn is_full() -> bool {
    std::env::var("CHRONOLITH_CRASH_FULL").is_ok_and(|text| text == "1")
}

/// What went wrong, and how much was tried.
#[derive(Debug, Default)]
struct Tally {
    tried: AtomicU64,
    /// The kind of each, and the whole text.
    failures: Mutex<Vec<(String, String)>>,
}

impl Tally {
    /// Tries one point; a panic is a failure like any other.
    fn attempt(&self, place: impl FnOnce() -> String, body: impl FnOnce() -> Result<(), String>) {
        self.tried.fetch_add(1, Ordering::Relaxed);
        let why = match catch_unwind(AssertUnwindSafe(body)) {
            Ok(Ok(())) => return,
            Ok(Err(why)) => why,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                format!("panicked: {}", text.unwrap_or_default())
            }
        };
        self.fail(&place(), &why);
    }

    fn fail(&self, place: &str, why: &str) {
        let kind = why.chars().filter(|c| !c.is_ascii_digit()).take(100).collect();
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).push((kind, format!("{place}: {why}")));
    }

    fn tried(&self) -> u64 {
        self.tried.load(Ordering::Relaxed)
    }

    /// Fails with the first failure of each kind; kinds differ by more than numbers.
    fn end(&self, exist: u64) {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kinds: BTreeMap<String, (usize, &str)> = BTreeMap::new();
        for (kind, text) in failures.iter() {
            kinds.entry(kind.clone()).or_insert((0, text)).0 += 1;
        }
        if !kinds.is_empty() {
            let told: Vec<String> = kinds.values().map(|(count, text)| format!("{count} times:{text}")).collect();
            panic!("{} of {} failed:\n\n{}", failures.len(), self.tried(), told.join("\n\n"));
        }
        drop(failures);
        assert_eq!(self.tried(), exist, "not everything that exists was tried");
    }
}

/// Runs `body` for each workload on two threads, with a description of each of its changing calls.
fn for_each_workload(workloads: &[Workload], tally: &Tally, body: impl Fn(&Workload, &[String]) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(workload) = workloads.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match trace(workload) {
                        Ok(trace) => body(workload, &trace),
                        Err(why) => tally.fail(&format!("\n\"{}\", seed {}, undisturbed", workload.name, seed()), &why),
                    }
                }
            });
        }
    });
}

/// The changing calls of a workload that nothing disturbs.
fn trace(workload: &Workload) -> Result<Vec<String>, String> {
    let sim = Sim::new(seed());
    let traced = Traced::new(&sim);
    let runner = Runner::run_on(&sim, Some(traced.clone()), workload, After::GoOn)?;
    if !runner.run.errors.is_empty() {
        return Err(runner.run.errors.join("; "));
    }
    if runner.run.accepted > 0 {
        return Err("a duplicate was accepted".to_owned());
    }
    // The runner still holds the database: what closing calls comes later.
    let trace = traced.trace.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if trace.len() as u64 == sim.calls() { Ok(trace) } else { Err("calls were made that no trace has".to_owned()) }
}

fn place(workload: &Workload, call: usize, what: &str, how: impl std::fmt::Debug) -> String {
    format!("\n\"{}\", seed {}, call {call} ({what}), {how:?}", workload.name, seed())
}

/// Runs a workload up to a power cut at a call.
fn run_to_cut<'a>(sim: &'a Sim, workload: &'a Workload, call: usize) -> Result<Runner<'a>, String> {
    sim.fail_at(call as u64, Fault::Cut);
    let mut runner = Runner::run(sim, workload, After::Stop)?;
    runner.run.salt = call;
    if sim.calls() == call as u64 + 1 { Ok(runner) } else { Err(format!("the run made {} calls", sim.calls())) }
}

fn cut_everywhere(workloads: &[Workload]) {
    let started = Instant::now();
    let (tally, points) = (Tally::default(), AtomicU64::new(0));
    for_each_workload(workloads, &tally, |workload, trace| {
        let tried = (0..trace.len()).filter(|call| workload.tries(*call, 3)).count();
        points.fetch_add(tried as u64, Ordering::Relaxed);
        println!("  {:<44} {:>5} points, {tried} tried", workload.name, trace.len());
        for (call, what) in trace.iter().enumerate().filter(|(call, _)| workload.tries(*call, 3)) {
            let sim = Sim::new(seed());
            let runner = match catch_unwind(AssertUnwindSafe(|| run_to_cut(&sim, workload, call))) {
                Ok(Ok(runner)) => runner,
                Ok(Err(why)) => {
                    tally.attempt(|| place(workload, call, what, "before the cut"), || Err(why));
                    continue;
                }
                Err(_) => {
                    tally.attempt(|| place(workload, call, what, "before the cut"), || Err("panicked".to_owned()));
                    continue;
                }
            };
            for loss in Loss::ALL {
                let image = sim.fork();
                image.cut_power_with(loss);
                tally.attempt(
                    || place(workload, call, what, loss),
                    || check(&image, workload, &runner.run, runner.run.floor, Depth::Work),
                );
            }
        }
    });
    let points = points.into_inner();
    println!("{points} points x 6 losses = {} images, {:.1?}", tally.tried(), started.elapsed());
    tally.end(points * Loss::ALL.len() as u64);
}

fn named(names: &[&str]) -> Vec<Workload> {
    let found: Vec<_> = workloads().into_iter().filter(|workload| names.contains(&workload.name)).collect();
    assert_eq!(found.len(), names.len());
    found
}

#[test]
fn a_power_cut_at_any_call_leaves_a_prefix_of_whole_batches() {
    cut_everywhere(&workloads());
}

#[test]
fn a_process_that_dies_loses_nothing() {
    let started = Instant::now();
    let (tally, exist) = (Tally::default(), AtomicU64::new(0));
    for_each_workload(&workloads(), &tally, |workload, _| {
        for steps in 0..=workload.steps.len() {
            exist.fetch_add(1, Ordering::Relaxed);
            let start = workload.steps.iter().take(steps).cloned().collect();
            let start = Workload { steps: start, ..workload.clone() };
            tally.attempt(
                || format!("\n\"{}\", seed {}, after {steps} steps", workload.name, seed()),
                || {
                    let sim = Sim::new(seed());
                    let runner = Runner::run(&sim, &start, After::GoOn)?;
                    // What the system has and the disk may not have is still there; nobody closed anything.
                    check(&sim.fork(), &start, &runner.run, runner.run.all(), Depth::CutAgain)
                },
            );
        }
    });
    println!("{} ends of a process, {:.1?}", tally.tried(), started.elapsed());
    tally.end(exist.into_inner());
}

#[test]
fn a_second_power_cut_during_recovery_changes_nothing() {
    let started = Instant::now();
    let (tally, exist) = (Tally::default(), AtomicU64::new(0));
    let some =
        ["batches across keyspaces", "create, drop, create again", "close and open again", "past: asked for by time"];
    // Every call is met in the first sweep already; here every call of a recovery is, after some of them.
    let (workloads, stride) = if is_full() { (workloads(), 1) } else { (named(&some), 5) };
    let losses = [Loss::Everything, Loss::Torn];
    for_each_workload(&workloads, &tally, |workload, trace| {
        for (call, what) in trace.iter().enumerate().step_by(stride).filter(|(call, _)| workload.tries(*call, 7)) {
            let sim = Sim::new(seed());
            let Ok(runner) = run_to_cut(&sim, workload, call) else {
                continue; // Told by the sweep of first cuts.
            };
            let run = &runner.run;
            for first in losses {
                let image = sim.fork();
                image.cut_power_with(first);
                let (counted, before) = (image.fork(), image.calls());
                let opened = workload.open(&counted);
                let calls = counted.calls() - before;
                drop(opened);
                exist.fetch_add(calls * losses.len() as u64, Ordering::Relaxed);
                for within in 0..calls {
                    let again = image.fork();
                    again.fail_at(before + within, Fault::Cut);
                    let opened = catch_unwind(AssertUnwindSafe(|| workload.open(&again)));
                    for second in losses {
                        let depth = if second == Loss::Everything { Depth::Work } else { Depth::Look };
                        let image = again.fork();
                        image.cut_power_with(second);
                        tally.attempt(
                            || place(workload, call, what, (first, "then call", within, "of recovery", second)),
                            || {
                                if opened.is_err() {
                                    return Err("opening panicked".to_owned());
                                }
                                check(&image, workload, run, run.floor, depth)
                            },
                        );
                    }
                }
            }
        }
    });
    println!("{} images after two cuts, {:.1?}", tally.tried(), started.elapsed());
    tally.end(exist.into_inner());
}

/// One call fails; everything goes on. Then: an intact machine, a power cut before the close, one after it.
fn fail_one(workload: &Workload, call: usize, what: &str, fault: Fault) -> Result<(), String> {
    let sim = Sim::new(seed());
    sim.fail_at(call as u64, fault);
    let mut runner = Runner::run(&sim, workload, After::GoOn)?;
    runner.run.salt = call;
    let answers = format!("\n  the run was answered {:?}", runner.run.errors);
    fail_one_and_end(&sim, &mut runner, call, what).map_err(|why| why + &answers)
}

fn fail_one_and_end(sim: &Sim, runner: &mut Runner<'_>, call: usize, what: &str) -> Result<(), String> {
    let workload = runner.workload;
    if sim.calls() <= call as u64 {
        return Err(format!("only {} calls were made", sim.calls()));
    }
    let is_log_sync = what.starts_with("sync wal/") || what == "sync_dir wal";
    // An open that failed, or one that came later, begins anew.
    let reopens = workload.steps.iter().any(|step| matches!(step, Step::Reopen))
        || runner.run.errors.iter().any(|error| error.starts_with("open"));
    sim.clear_faults();
    if let Some(db) = &runner.db {
        let poisoned = matches!(db.health(), Err(Error::Poisoned { .. }));
        if is_log_sync && !reopens && !poisoned {
            return Err(format!("a failed sync of the log did not stop writes; {:?}", runner.run.errors));
        }
        let seen = observe(db, None)?;
        runner.run.explain(&seen, runner.run.all(), runner.run.all()).map_err(|e| format!("still open: {e}"))?;
        // Trouble is over: writes go on, or have stopped for good.
        for step in [Step::Create("a"), Step::WriteAs(Durability::Sync, vec![put("a", 999, 9)]), Step::Flush] {
            match runner.step(&step)? {
                Ok(()) if poisoned && step.writes() => return Err(format!("{step:?} succeeded after a failed sync")),
                Err(error) if !poisoned => return Err(format!("{step:?} fails though the trouble is over: {error}")),
                _ => {}
            }
        }
    }
    let cut = sim.fork();
    cut.cut_power_with(Loss::Everything);
    check(&cut, workload, &runner.run, runner.run.floor, Depth::Look).map_err(|e| format!("cut before close: {e}"))?;

    runner.handles.clear();
    runner.views.clear();
    // A database that did not open again was not closed either.
    let closed = runner.db.take().map(Db::close);
    let is_whole = matches!(closed, Some(Ok(())));
    let run = &runner.run;
    let cut = sim.fork();
    cut.cut_power_with(Loss::Everything);
    let floor = if is_whole { run.all() } else { run.floor };
    check(&cut, workload, run, floor, Depth::Look).map_err(|e| format!("cut after close ({closed:?}): {e}"))?;
    check(sim, workload, run, run.all(), Depth::CutAgain)
        .map_err(|e| format!("opened again after close ({closed:?}): {e}"))
}

#[test]
fn a_call_that_fails_is_told_and_costs_nothing_acknowledged() {
    let started = Instant::now();
    let (tally, exist) = (Tally::default(), AtomicU64::new(0));
    let faults = [Fault::Eio, Fault::Enospc, Fault::ShortWrite, Fault::EioForever, Fault::EnospcForever];
    let points = AtomicU64::new(0);
    for_each_workload(&workloads(), &tally, |workload, trace| {
        points.fetch_add(trace.len() as u64, Ordering::Relaxed);
        for (call, what) in trace.iter().enumerate() {
            for fault in faults {
                let drawn = |fault: Fault| faults.iter().position(|other| *other == fault).unwrap_or(0);
                let applies = workload.tries(call + drawn(fault) * 3, 11)
                    && match fault {
                        // To other calls a short write is an `EIO`.
                        Fault::ShortWrite => what.starts_with("write "),
                        Fault::EioForever => is_full() || call % 2 == 0,
                        Fault::EnospcForever => is_full() || call % 2 == 1,
                        _ => true,
                    };
                if !applies {
                    continue;
                }
                exist.fetch_add(1, Ordering::Relaxed);
                tally.attempt(|| place(workload, call, what, fault), || fail_one(workload, call, what, fault));
            }
        }
    });
    println!(
        "{} points x 3 faults, 4 for writes = {} runs x 3 ends, {:.1?}",
        points.into_inner(),
        tally.tried(),
        started.elapsed()
    );
    tally.end(exist.into_inner());
}

/// The process has no open file left for one call, nor when it is tried again: an error, and no more than that.
fn miss_one(workload: &Workload, call: usize) -> Result<(), String> {
    let sim = Sim::new(seed());
    sim.fail_at(call as u64, Fault::Emfile);
    sim.fail_at(call as u64 + 1, Fault::Emfile);
    let mut runner = Runner::run(&sim, workload, After::GoOn)?;
    runner.run.salt = call;
    let answers = format!("\n  the run was answered {:?}", runner.run.errors);
    let poisoned = runner.db.as_ref().is_some_and(|db| matches!(db.health(), Err(Error::Poisoned { .. })));
    if poisoned {
        return Err(format!("writes have stopped for good{answers}"));
    }
    fail_one_and_end(&sim, &mut runner, call, "missed").map_err(|why| why + &answers)
}

#[test]
fn a_moment_without_an_open_file_stops_nothing_for_good() {
    let (tally, exist) = (Tally::default(), AtomicU64::new(0));
    for_each_workload(&workloads(), &tally, |workload, trace| {
        // What needs an open file, or would where directories are not held open. Behind the rename of CURRENT nobody
        // knows which manifest is in force.
        let opens = |what: &str| what.starts_with("create ") || what == "sync_dir wal" || what == "sync_dir segments";
        for (call, what) in trace.iter().enumerate().filter(|(call, what)| opens(what) && workload.tries(*call, 3)) {
            exist.fetch_add(1, Ordering::Relaxed);
            tally.attempt(|| place(workload, call, what, Fault::Emfile), || miss_one(workload, call));
        }
    });
    println!("{} opens failed twice", tally.tried());
    tally.end(exist.into_inner());
}

#[test]
fn a_read_that_fails_is_told_and_never_gives_wrong_data() {
    let started = Instant::now();
    let (tally, exist) = (Tally::default(), AtomicU64::new(0));
    for_each_workload(&workloads(), &tally, |workload, _| {
        let sim = Sim::new(seed());
        let Ok(runner) = Runner::run(&sim, workload, After::GoOn) else { return };
        let crashed = sim.fork();
        let Runner { run, db, .. } = runner;
        drop(db);
        for (image, how) in [(&crashed, "not closed"), (&sim, "closed")] {
            let (counted, before) = (image.fork(), image.reads());
            let opened = workload.open(&counted).map(|db| observe(&db, None));
            let reads = counted.reads() - before;
            drop(opened);
            for read in 0..reads {
                if !workload.tries(usize::try_from(read).unwrap_or(0), 7) {
                    continue;
                }
                exist.fetch_add(1, Ordering::Relaxed);
                let again = image.fork();
                again.fail_read_at(before + read);
                tally.attempt(
                    || format!("\n\"{}\", seed {}, {how}, read {read} of {reads}", workload.name, seed()),
                    || {
                        if let Ok(db) = workload.open(&again)
                            && let Ok(seen) = observe(&db, None)
                        {
                            run.explain(&seen, run.all(), run.all())?;
                        }
                        check(&again, workload, &run, run.all(), Depth::Look).map_err(|e| format!("afterwards: {e}"))
                    },
                );
            }
        }
    });
    println!("{} failing reads, {:.1?}", tally.tried(), started.elapsed());
    tally.end(exist.into_inner());
}

/// Fills a disk of `space` bytes, frees it, fills it again.
fn fill(space: u64, len: usize, durability: Durability) -> Result<u64, String> {
    let workload = Workload { name: "disk full", durability, l0_threshold: 2, steps: Vec::new() };
    let sim = Sim::new(seed());
    let mut runner = Runner::run(&sim, &workload, After::GoOn)?;
    runner.step(&Step::Create("a"))?.map_err(failed("create"))?;
    let (mut key, mut full) = (0, 0);
    for round in 1..=3 {
        sim.set_space(Some(space * round));
        let mut refused = 0;
        for tries in 0.. {
            key = (key + 1) % 400;
            let putting = write("a", key, len);
            match runner.step(&putting)? {
                Ok(()) if tries > 4000 => return Err("the disk never fills".to_owned()),
                Ok(()) => {}
                Err(error @ Error::DiskFull) => {
                    runner.after_error(&putting, &error)?;
                    refused += 1;
                    full += 1;
                    // Whatever needs room may say that there is none, and reads go on.
                    for step in [Step::Flush, Step::Compact, Step::Persist] {
                        match runner.step(&step)? {
                            Err(error @ Error::DiskFull) => runner.after_error(&step, &error)?,
                            Err(error) => return Err(format!("{step:?} on a full disk: {error}")),
                            Ok(()) => {}
                        }
                    }
                    if refused == 3 {
                        break;
                    }
                }
                Err(error) => return Err(format!("a full disk is no reason to say {error}")),
            }
        }
        let cut = sim.fork();
        cut.set_space(None);
        cut.cut_power_with(Loss::Everything);
        check(&cut, &workload, &runner.run, runner.run.floor, Depth::CutAgain)
            .map_err(|e| format!("cut while full: {e}"))?;
        sim.set_space(None);
        for step in [write("a", 900, len), Step::Persist, Step::Flush, Step::Compact] {
            runner.step(&step)?.map_err(failed("with space again"))?;
        }
        if let Some(db) = &runner.db {
            db.health().map_err(failed("health with space again"))?;
            verify(db)?;
        }
        if round == 2 {
            runner.step(&Step::Reopen)?.map_err(failed("reopen"))?;
        }
    }
    runner.step(&Step::Reopen)?.map_err(failed("reopen"))?;
    let Runner { run, db, handles, .. } = runner;
    drop((db, handles));
    check(&sim, &workload, &run, run.all(), Depth::CutAgain)?;
    Ok(full)
}

#[test]
fn a_full_disk_stops_writes_and_nothing_else() {
    let started = Instant::now();
    let (tally, full) = (Tally::default(), AtomicU64::new(0));
    let durabilities = [Durability::Sync, Durability::Buffered];
    // From "hardly a manifest fits" to "some memtables fit", and off every page boundary.
    let spaces: Vec<u64> = (0..24).map(|n| 8_191 + n * 60_013).collect();
    let cases: Vec<_> =
        spaces.iter().flat_map(|s| durabilities.map(|d| [9, 3_000, 40_000].map(|l| (*s, l, d)))).collect();
    let cases: Vec<_> = cases.into_iter().flatten().filter(|(space, len, _)| *len > 9 || *space < 100_000).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(&(space, len, durability)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    tally.attempt(
                        || format!("\ndisk of {space} bytes, values of {len}, {durability:?}, seed {}", seed()),
                        || {
                            fill(space, len, durability).map(|times| {
                                full.fetch_add(times, Ordering::Relaxed);
                            })
                        },
                    );
                }
            });
        }
    });
    println!("{} disks filled, {} writes refused, {:.1?}", tally.tried(), full.into_inner(), started.elapsed());
    tally.end(cases.len() as u64);
}

fn files(sim: &Sim) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    sim.files()
        .into_iter()
        .map(|path| {
            let bytes = sim.read_file(&path).unwrap_or_default();
            (path, bytes)
        })
        .collect()
}

#[test]
fn a_seed_replays_byte_for_byte() {
    let (tally, exist) = (Tally::default(), AtomicU64::new(0));
    for_each_workload(&workloads(), &tally, |workload, trace| {
        // Undisturbed, and with cuts here and there: what survives them is drawn from the seed too.
        let cuts = (0..trace.len()).step_by(if workload.has_past() && !is_full() { 61 } else { 7 });
        let cuts = cuts.map(Some).chain([None]);
        for cut in cuts {
            exist.fetch_add(1, Ordering::Relaxed);
            let once = || {
                let sim = Sim::new(seed());
                if let Some(call) = cut {
                    sim.fail_at(call as u64, Fault::Cut);
                }
                let runner = Runner::run(&sim, workload, After::Stop)?;
                let newest = runner.run.newest;
                drop(runner);
                let closed = files(&sim);
                sim.cut_power();
                let torn = files(&sim);
                drop(workload.open(&sim));
                Ok::<_, String>((newest, sim.calls(), sim.reads(), closed, torn, files(&sim)))
            };
            tally.attempt(
                || format!("\n\"{}\", seed {}, cut at {cut:?}", workload.name, seed()),
                || if once()? == once()? { Ok(()) } else { Err("two runs differ".to_owned()) },
            );
        }
    });
    println!("{} runs, twice each", tally.tried());
    tally.end(exist.into_inner());
}
