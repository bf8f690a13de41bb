//! What a database must answer when several verbs run at the same moment: everything that was ever said, in the order
//! of the commits.
//!
//! Whoever commits tells the seqno of the receipt and what the batch said, in whatever order; what a key is as of a
//! seqno is worked out from all that was said of it up to there. What an update or a swap leads to depends on what is
//! before it in that order, so a lost one shows as a wrong value.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use chronolith::{Bytes, Chunking, CompactionPolicy, Db, Error, Keyspace, KeyspaceOptions, Policy, VersionInfo, View};

#[path = "../support/dice.rs"]
#[expect(dead_code, reason = "a part of it is for other tests")]
mod dice;

#[path = "../support/outcome.rs"]
mod outcome;
#[path = "../support/strategies.rs"]
#[expect(dead_code, reason = "a part of it is for other tests")]
mod strategies;

pub(crate) use dice::Dice;
pub(crate) use outcome::{Outcome, ensure};
pub(crate) use strategies::Strategy;

/// Longer than any run.
pub(crate) const WINDOW: Duration = Duration::from_secs(3600);

/// What is kept of the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeping {
    LastWriterWins,
    Tombstones,
    Mvcc,
    /// The newest, and of what was before it only what somebody reads.
    Brief,
    /// The user's own: everything.
    All,
    /// Now this, now that.
    Turning,
}

struct KeepAll;

impl CompactionPolicy for KeepAll {
    fn keep(&self, _version: &VersionInfo, _now: SystemTime) -> bool {
        true
    }
}

impl Keeping {
    pub(crate) fn policy(self) -> Policy {
        match self {
            Self::LastWriterWins | Self::Turning => Policy::last_writer_wins(),
            Self::Tombstones => Policy::tombstones(WINDOW),
            Self::Mvcc => Policy::mvcc(1, WINDOW),
            Self::Brief => Policy::mvcc(1, Duration::ZERO),
            Self::All => Policy::custom("keep all", KeepAll),
        }
    }

    /// Whether every moment stays readable, for as long as a test runs.
    pub(crate) fn keeps_all(self) -> bool {
        matches!(self, Self::Mvcc | Self::All)
    }
}

/// How a keyspace is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) strategy: Strategy,
    pub(crate) keeping: Keeping,
    pub(crate) ttl: Option<Duration>,
}

const fn kind(name: &'static str, strategy: Strategy, keeping: Keeping) -> Kind {
    Kind { name, strategy, keeping, ttl: None }
}

/// All of them; the first is the default one.
pub(crate) const KINDS: [Kind; 13] = [
    kind("last", Strategy::LastWins, Keeping::LastWriterWins),
    kind("kept", Strategy::LastWins, Keeping::Mvcc),
    kind("brief", Strategy::LastWins, Keeping::Brief),
    kind("totals", Strategy::Sum, Keeping::Brief),
    kind("graves", Strategy::LastWins, Keeping::Tombstones),
    kind("own", Strategy::LastWins, Keeping::All),
    kind("turning", Strategy::LastWins, Keeping::Turning),
    kind("first", Strategy::FirstWins, Keeping::Mvcc),
    kind("once", Strategy::ErrorOnDuplicate, Keeping::LastWriterWins),
    kind("sum", Strategy::Sum, Keeping::LastWriterWins),
    kind("sums", Strategy::Sum, Keeping::Mvcc),
    kind("list", Strategy::Append, Keeping::Tombstones),
    kind("joined", Strategy::Joined("|"), Keeping::Mvcc),
];

impl Kind {
    pub(crate) fn options(&self) -> KeyspaceOptions {
        let mut options = KeyspaceOptions::new().merge(self.strategy.option()).policy(self.keeping.policy());
        if !self.strategy.folds() {
            // Values of a few hundred bytes are cut already.
            options = options.chunk_threshold(512).chunking(Chunking::content_defined(1024));
        }
        self.ttl.map_or(options.clone(), |ttl| options.ttl(ttl))
    }

    /// A value that this keyspace takes.
    pub(crate) fn value(&self, tag: u64, len: usize) -> Vec<u8> {
        if self.strategy == Strategy::Sum {
            return tag.to_le_bytes().to_vec();
        }
        let mut value = tag.to_string().into_bytes();
        // Values share their second half with others, and most of their chunks.
        let half = value.len().max(len / 2);
        value.resize(half, b'a' + u8::try_from(tag % 5).unwrap_or_default());
        value.resize(half.max(len), b'.');
        value
    }
}

/// What is said of a key.
#[derive(Clone, Debug)]
pub(crate) enum What {
    Put(Vec<u8>),
    Merge(Vec<u8>),
    Delete,
    /// What was there becomes [`bump`] of it.
    Bump(u64),
    /// A put that was to happen only where this was before it.
    Swap(Option<Vec<u8>>, Vec<u8>),
}

/// One operation of a batch: what is said of the keys from one number on to before another.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) life: usize,
    pub(crate) keys: (usize, usize),
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
struct Said {
    seqno: u64,
    time: u64,
    what: What,
}

/// One life of a keyspace, from its creation to its drop.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) kind: Kind,
    /// It was made behind the first seqno, and at or before the second; in the same way it was dropped.
    pub(crate) born: (u64, u64),
    pub(crate) dropped: Option<(u64, u64)>,
    keys: BTreeMap<usize, Vec<Said>>,
}

/// Everything that was said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Truth {
    pub(crate) lives: Vec<Life>,
}

/// What a view was opened for: whether it may refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    Present,
    Pinned,
    Past,
}

pub(crate) fn key(number: usize) -> Vec<u8> {
    format!("k{number:03}").into_bytes()
}

pub(crate) fn micros(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
}

/// What an update makes of a value. It depends on all of it.
pub(crate) fn bump(old: Option<&[u8]>, tag: u64) -> Vec<u8> {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = old.map_or(1, |old| old.iter().fold(0xcbf2_9ce4_8422_2325, mix));
    format!("{tag}~{hash:x}").into_bytes()
}

impl Truth {
    pub(crate) fn create(&mut self, kind: Kind, born: (u64, u64)) -> usize {
        self.lives.push(Life { kind, born, dropped: None, keys: BTreeMap::new() });
        self.lives.len() - 1
    }

    /// The life of this name that has not ended.
    pub(crate) fn alive(&self, name: &str) -> Option<usize> {
        self.lives.iter().position(|life| life.kind.name == name && life.dropped.is_none())
    }

    /// Takes what a batch said.
    pub(crate) fn note(&mut self, seqno: u64, time: u64, writes: &[Write]) {
        for Write { life, keys, what } in writes {
            for number in keys.0..keys.1 {
                let said = self.lives[*life].keys.entry(number).or_default();
                let at = said.partition_point(|other| other.seqno <= seqno);
                said.insert(at, Said { seqno, time, what: what.clone() });
            }
        }
    }

    /// Every key that anything was ever said of, with its value where it has one, as of a seqno and a time.
    pub(crate) fn state(&self, life: usize, seqno: u64, time: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
        let life = &self.lives[life];
        let at = |(number, _): (&usize, _)| Some((key(*number), life.at(*number, seqno, time)?));
        life.keys.iter().filter_map(at).collect()
    }
}

impl Life {
    /// The value of a key.
    pub(crate) fn at(&self, number: usize, seqno: u64, time: u64) -> Option<Vec<u8>> {
        let said = self.keys.get(&number)?;
        let said = &said[..said.partition_point(|said| said.seqno <= seqno)];
        let since = said.iter().rposition(|said| matches!(said.what, What::Delete)).map_or(0, |at| at + 1);
        let said = &said[since..];
        let ttl = self.kind.ttl.map_or(u64::MAX, |ttl| u64::try_from(ttl.as_micros()).unwrap_or(u64::MAX));
        if said.last()?.time.saturating_add(ttl) <= time {
            return None;
        }
        // In a keyspace whose values expire nothing builds upon another.
        match self.kind.strategy {
            Strategy::FirstWins | Strategy::ErrorOnDuplicate => match &said.first()?.what {
                What::Put(value) | What::Merge(value) | What::Swap(_, value) => Some(value.clone()),
                _ => Some(b"what no test writes".to_vec()),
            },
            Strategy::LastWins => Some(last(said, true)),
            strategy => Some(folded(strategy, said)),
        }
    }

    /// The commits that said something of a key, and whether they left a value.
    pub(crate) fn told(&self, number: usize, upto: u64) -> Vec<(u64, Option<Vec<u8>>)> {
        let said = self.keys.get(&number).map_or(&[][..], |said| said);
        let mut seqnos: Vec<u64> = said.iter().map(|said| said.seqno).filter(|seqno| *seqno <= upto).collect();
        seqnos.dedup();
        seqnos.into_iter().map(|seqno| (seqno, self.at(number, seqno, 0))).collect()
    }

    /// Whether a key was ever something else than this, or was it, from one seqno to another.
    pub(crate) fn ever(
        &self,
        number: usize,
        (from, to): (u64, u64),
        time: u64,
        is: impl Fn(Option<&[u8]>) -> bool,
    ) -> bool {
        let said = self.keys.get(&number).map_or(&[][..], |said| said);
        let between = said.iter().map(|said| said.seqno).filter(|seqno| (from..=to).contains(seqno));
        std::iter::once(from).chain(between).any(|seqno| is(self.at(number, seqno, time).as_deref()))
    }
}

/// The last word, and what updates made of it. Whether a swap was right is looked at for the newest alone.
fn last(said: &[Said], checked: bool) -> Vec<u8> {
    let base = said.iter().rposition(|said| !matches!(said.what, What::Bump(_))).unwrap_or(0);
    let mut value: Option<Vec<u8>> = None;
    for (at, this) in said.iter().enumerate().skip(base) {
        value = match &this.what {
            What::Put(value) | What::Merge(value) => Some(value.clone()),
            What::Bump(tag) => Some(bump(value.as_deref(), *tag)),
            What::Swap(expected, new) => {
                let before = (checked && at > 0).then(|| last(&said[..at], false));
                let held = !checked || before == *expected;
                Some(if held { new.clone() } else { b"a swap of what was not there".to_vec() })
            }
            What::Delete => None,
        };
    }
    value.unwrap_or_default()
}

fn folded(strategy: Strategy, said: &[Said]) -> Vec<u8> {
    let base = said.iter().rposition(|said| matches!(said.what, What::Put(_))).unwrap_or(0);
    let values = said[base..].iter().filter_map(|said| match &said.what {
        What::Put(value) | What::Merge(value) => Some(value.as_slice()),
        _ => None,
    });
    strategy.fold(values).unwrap_or_else(|| b"what no test adds up".to_vec())
}

/// Entries as a scan tells them, and what ended it before its end.
type Scanned = (Vec<(Vec<u8>, Vec<u8>)>, Option<Error>);

fn scan(view: &View, keyspace: &Keyspace, back: bool) -> Scanned {
    let mut range = view.range(keyspace, ..);
    let (mut entries, mut error) = (Vec::new(), None);
    while let Some(item) = if back { range.next_back() } else { range.next() } {
        match item {
            Ok((key, value)) => entries.push((key.to_vec(), value.to_vec())),
            Err(refused) => {
                error = Some(refused);
                break;
            }
        }
    }
    (entries, error)
}

/// A view, with what must hold of it.
#[derive(Clone, Debug)]
pub(crate) struct Looked {
    pub(crate) view: View,
    pub(crate) sort: Sort,
    /// The newest seqno when it was opened: at least, and at most.
    pub(crate) opened: (u64, u64),
}

impl Looked {
    pub(crate) fn new(view: View, sort: Sort, opened: (u64, u64)) -> Self {
        Self { view, sort, opened }
    }

    pub(crate) fn seqno(&self) -> u64 {
        self.view.seqno().into()
    }

    /// Whether a life can be read: surely, surely not, or nobody knows.
    pub(crate) fn reads(&self, life: &Life) -> Option<bool> {
        let seqno = self.seqno();
        let drops = if self.sort == Sort::Pinned { (seqno, seqno) } else { self.opened };
        if life.born.0 >= seqno || life.dropped.is_some_and(|dropped| dropped.1 <= drops.0) {
            Some(false)
        } else if life.born.1 <= seqno && life.dropped.is_none_or(|dropped| dropped.0 >= drops.1) {
            Some(true)
        } else {
            None
        }
    }

    /// That a refusal is one that nothing forbids.
    fn may_refuse(&self, life: &Life, keyspace: &Keyspace, error: &Error) -> Outcome {
        let Error::HistoryTrimmed { oldest } = error else { return Err(format!("{}: {error}", life.kind.name)) };
        let said = || format!("{} {:?} as of {}: {error}", life.kind.name, self.sort, self.seqno());
        ensure!(self.sort == Sort::Past, "{}, and nothing may refuse it", said());
        ensure!(!life.kind.keeping.keeps_all(), "{}, and its policy keeps it", said());
        ensure!(u64::from(*oldest) > self.seqno(), "{}, which is no later moment", said());
        let horizon = u64::from(keyspace.horizon());
        ensure!(life.dropped.is_some() || horizon > self.seqno(), "{}, and the horizon is {horizon}", said());
        Ok(())
    }

    /// Reads a keyspace by scans and by keys. Whether everything was answered.
    pub(crate) fn check(&self, truth: &Truth, at: usize, keyspace: &Keyspace, dice: &mut Dice) -> Outcome<bool> {
        let life = &truth.lives[at];
        let (seqno, time) = (self.seqno(), micros(self.view.time()));
        let wanted = truth.state(at, seqno, time);
        let back = dice.one_in(2);
        let (mut got, error) = scan(&self.view, keyspace, back);
        let whole = error.is_none();
        let from = if back { wanted.len().saturating_sub(got.len()) } else { 0 };
        if back {
            got.reverse();
        }
        let part = wanted.get(from..from + got.len());
        let same = part == Some(&got) && (!whole || got.len() == wanted.len());
        let place = || format!("{} {:?} as of {seqno}", life.kind.name, self.sort);
        ensure!(same, "{}: a scan answers\n  {}and not\n  {}", place(), shown(&got), shown(&wanted));
        if let Some(error) = error {
            self.may_refuse(life, keyspace, &error)?;
        }
        let mut answered = whole;
        for number in life.keys.keys().filter(|_| dice.one_in(3)) {
            let wanted = life.at(*number, seqno, time);
            match self.view.get(keyspace, key(*number)) {
                Ok(got) => {
                    let words = || format!("{}: k{number:03} is", place());
                    let value = |value: Option<&[u8]>| {
                        value.map_or("absent".to_owned(), |value| value.escape_ascii().to_string())
                    };
                    ensure!(
                        got.as_deref() == wanted.as_deref(),
                        "{} {}, and not {}",
                        words(),
                        value(got.as_deref()),
                        value(wanted.as_deref())
                    );
                }
                Err(error) => {
                    answered = false;
                    self.may_refuse(life, keyspace, &error)?;
                }
            }
        }
        Ok(answered)
    }

    /// Reads every keyspace there is, and that there are no others.
    pub(crate) fn check_all(&self, truth: &Truth, dice: &mut Dice) -> Outcome {
        let names = self.view.keyspaces();
        for (at, life) in truth.lives.iter().enumerate() {
            if self.reads(life) != Some(true) {
                continue;
            }
            let place = || format!("{} {:?} as of {}", life.kind.name, self.sort, self.seqno());
            let keyspace = match self.view.keyspace(life.kind.name) {
                // One that was dropped, of a strategy that nobody gives any more.
                Err(Error::Invalid { .. }) if life.kind.strategy.is_custom() => continue,
                keyspace => keyspace.map_err(|error| format!("{}: {error}", place()))?,
            };
            // First: on a database that was closed meanwhile this says so.
            self.check(truth, at, &keyspace, dice)?;
            ensure!(names.iter().any(|name| name == life.kind.name), "{}: there is none", place());
        }
        for name in names {
            let known = |life: &Life| life.kind.name == name && self.reads(life) != Some(false);
            ensure!(
                truth.lives.iter().any(known),
                "{:?} as of {}: there is a keyspace {name}",
                self.sort,
                self.seqno()
            );
        }
        Ok(())
    }

    /// Reads the versions of a key.
    pub(crate) fn check_history(&self, truth: &Truth, at: usize, keyspace: &Keyspace, number: usize) -> Outcome {
        let life = &truth.lives[at];
        let mut wanted = life.told(number, self.seqno());
        let place = || format!("history of {} k{number:03} {:?} as of {}", life.kind.name, self.sort, self.seqno());
        let mut history = self.view.history(keyspace, key(number));
        let mut seen: Vec<u64> = Vec::new();
        for version in history.by_ref() {
            let version = version.map_err(|error| format!("{}: {error}", place()))?;
            let seqno = u64::from(version.seqno);
            ensure!(seen.last().is_none_or(|last| *last > seqno), "{}: {seqno} behind {seen:?}", place());
            let state = wanted.iter().find(|(other, _)| *other == seqno).map(|(_, state)| state);
            let right = state.is_some_and(|state| state.as_deref() == version.value.as_deref());
            ensure!(right, "{}: {seqno} tells {:?}, and it was {state:?}", place(), version.value);
            seen.push(seqno);
        }
        if history.is_complete() || self.sort == Sort::Past && life.kind.keeping == Keeping::Mvcc {
            let mut before: Option<Vec<u8>> = None;
            // What changed nothing is no version of its own everywhere.
            wanted.retain(|(_, state)| std::mem::replace(&mut before, state.clone()) != *state);
            let lost = wanted.iter().find(|(seqno, _)| !seen.contains(seqno));
            ensure!(lost.is_none(), "{}: tells {seen:?}, and leaves out {lost:?}", place());
        }
        Ok(())
    }
}

fn shown(entries: &[(Vec<u8>, Vec<u8>)]) -> String {
    let mut words = String::new();
    for (key, value) in entries {
        let _infallible = write!(words, "{}={} ", key.escape_ascii(), value.escape_ascii());
    }
    words
}

/// Compares what a difference tells with what it must; a refusal of either side is one that nothing forbids.
pub(crate) fn check_diff(
    truth: &Truth,
    db: &Db,
    at: usize,
    (before, after): (&Looked, &Looked),
    keyspace: &Keyspace,
) -> Outcome {
    let life = &truth.lives[at];
    let state = |looked: &Looked| -> BTreeMap<_, _> {
        truth.state(at, looked.seqno(), micros(looked.view.time())).into_iter().collect()
    };
    let (old, new) = (state(before), state(after));
    let mut keys: Vec<&Vec<u8>> = old.keys().chain(new.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut wanted = keys.into_iter().map(|key| (key, old.get(key), new.get(key))).filter(|(_, old, new)| old != new);
    for change in db.diff(&before.view, &after.view, keyspace) {
        let change = match change {
            Ok(change) => change,
            Err(error) => {
                let allowed = before.may_refuse(life, keyspace, &error);
                return allowed.or_else(|_| after.may_refuse(life, keyspace, &error));
            }
        };
        let next = wanted.next();
        let value = |value: &Option<Bytes>| value.as_ref().map(|value| value.to_vec());
        let (was, is) = (value(&change.before), value(&change.after));
        let same =
            next.is_some_and(|(key, old, new)| **key == *change.key && old == was.as_ref() && new == is.as_ref());
        let seqnos = (before.seqno(), after.seqno());
        ensure!(same, "{}: the difference {seqnos:?} tells {change:?}, and not {next:?}", life.kind.name);
    }
    let left = wanted.next();
    ensure!(left.is_none(), "{}: a difference leaves out {left:?}", life.kind.name);
    Ok(())
}

/// Gives a reopened database, or a copy, the strategies that are not built in.
pub(crate) fn give_strategies(db: &Db) -> Outcome {
    let names = db.keyspaces();
    for kind in KINDS.iter().filter(|kind| kind.strategy.is_custom() && names.iter().any(|name| name == kind.name)) {
        let options = KeyspaceOptions::new().merge(kind.strategy.option());
        db.keyspace(kind.name, options).map_err(|error| format!("keyspace {}: {error}", kind.name))?;
    }
    Ok(())
}

/// Compares a copy with everything that was said up to its newest commit. `past` are seqnos to look back at. A copy
/// of a view has the keyspaces that the view can read.
pub(crate) fn check_copy(truth: &Truth, copy: &Db, of: Option<&Looked>, past: &[u64], dice: &mut Dice) -> Outcome {
    give_strategies(copy)?;
    let newest = u64::from(copy.seqno());
    let opened = of.filter(|of| of.sort != Sort::Pinned).map_or((newest, newest), |of| of.opened);
    ensure!(of.is_none_or(|of| of.seqno() == newest), "the copy of {of:?} is of {newest}");
    Looked { view: copy.snapshot(), sort: Sort::Present, opened }.check_all(truth, dice)?;
    for pin in copy.pins() {
        let view = copy.pinned(&pin.name).map_err(|error| format!("pin {}: {error}", pin.name))?;
        Looked { view, sort: Sort::Pinned, opened }.check_all(truth, dice)?;
    }
    for seqno in past.iter().filter(|seqno| **seqno <= newest) {
        let view = copy.as_of(*seqno).map_err(|error| format!("as_of({seqno}): {error}"))?;
        Looked { view, sort: Sort::Past, opened }.check_all(truth, dice)?;
    }
    let report = copy.verify().map_err(|error| format!("verify: {error}"))?;
    ensure!(report.is_clean(), "{report}");
    Ok(())
}
