//! The past after a crash: every commit is told and shown exactly by its number and by its time, or refused where no
//! policy promises it; pins are there; what was purged is not.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    sync::PoisonError,
    time::{Duration, UNIX_EPOCH},
};

use chronolith::{Db, Error, Keyspace, View, env::Sim};

use crate::{
    keyspaces::{Digest, Sort, WINDOW_US, is_owed, stored_options_of, value_of},
    observe::{Depth, failed},
    oracle::{Content, Event, Explained, Run, State, What, shown, us},
    strategies::Strategy,
    workload::{Op, key_of},
    workloads::DB,
};

/// What there was at each moment, as far as it is known from what was answered.
pub(crate) struct Past<'a> {
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

/// A version: its moment, its value, and whether it changed anything.
type Written = (Moment, Option<Digest>, bool);

impl<'a> Past<'a> {
    pub(crate) fn new(run: &'a Run, explained: &'a Explained) -> Self {
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
    pub(crate) fn check_later(&self, time: u64) -> Result<(), String> {
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

    pub(crate) fn check(&self, db: &Db, depth: Depth) -> Result<(), String> {
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

    /// What was written under a key since its keyspace was made and no purge hides, newest last.
    fn versions(&self, name: &str, born: usize, key: &[u8], moments: &[Moment]) -> Vec<Written> {
        let mut versions: Vec<Written> = Vec::new();
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
        versions
    }

    /// The versions of a key: nothing that never was, and everything that is owed.
    fn check_history(
        &self,
        keyspace: &Keyspace,
        born: usize,
        key: &[u8],
        (moments, now): (&[Moment], u64),
    ) -> Result<(), String> {
        let sort = Sort::of(keyspace.name());
        let versions = self.versions(keyspace.name(), born, key, moments);
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
    pub(crate) fn check_purged(&self, sim: &Sim) -> Result<(), String> {
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
