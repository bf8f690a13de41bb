//! What is done with the past, and held against the model: times, histories, differences, pins, options, copies.

use std::{fmt::Write as _, path::Path, time::Duration};

use chronolith::{Error, Keyspace, KeyspaceOptions, Options, Seqno, env};

use super::{
    ALL, Held, KEYS, MARK_LEN, Machine, Opening, Outcome, PINS, Shift, Span, State, What, World, Write,
    dice::Dice,
    is_of_a_key, names,
    past::{Era, HOUR, Keeping, Life, Moment, SECOND, micros, time_of},
    quoted, shown,
    strategies::Strategy,
    told,
};

/// A batch: its commit, its time, and how many operations it may be told to have had.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    pub(super) seqno: u64,
    pub(super) time: u64,
    pub(super) writes: (usize, usize),
    /// It is no commit: a keyspace came, changed or went, or a pin did.
    pub(super) decides: bool,
}

impl Life {
    /// Notes which values a write purges, if they can be told from others.
    pub(super) fn note_purged(&self, seqno: u64, write: &Write, purged: &mut Vec<(u64, Vec<u8>)>) {
        if matches!(self.strategy, Strategy::Sum | Strategy::Ends) {
            return;
        }
        for key in KEYS.into_iter().filter(|key| write.purges(key)) {
            for said in self.keys.get(key).into_iter().flatten().filter(|said| said.seqno < seqno) {
                if let What::Put(value) | What::Merge(value) = &said.what
                    && let Some(mark) = value.get(..MARK_LEN)
                {
                    purged.push((seqno, mark.to_vec()));
                }
            }
        }
    }
}

impl World {
    /// The time of the database.
    pub(super) fn now(&self) -> u64 {
        let now = self.db.as_ref().map_or(0, |db| micros(db.snapshot().time()));
        self.latest.set(self.latest.get().max(now));
        now
    }

    /// A keyspace as this view can be asked for it.
    pub(super) fn handle_in(&self, held: &Held, at: usize) -> Outcome<Option<Keyspace>> {
        let Some(life) = self.lives.get(at) else { return Ok(None) };
        let alive = life.born <= held.seqno && life.dropped.is_none_or(|dropped| dropped > held.seqno);
        if held.pinned && alive {
            return match held.view.keyspace(life.name) {
                Ok(keyspace) => Ok(Some(keyspace)),
                Err(Error::Invalid { .. }) if life.strategy.is_custom() && life.handle.is_none() => Ok(None),
                Err(error) => Err(format!("a pinned view does not give {}: {error}", life.name)),
            };
        }
        Ok(life.handle.clone())
    }

    /// Whether a view shows the present of its opening: nothing may be refused then.
    pub(super) fn is_present(&self, held: &Held, at: usize) -> bool {
        // Where values expire, the moment of the newest commit lies before now.
        held.safe || held.seqno == held.opened && self.lives.get(at).is_none_or(|life| !life.has_ttl())
    }

    /// That nothing promises what was refused: a key, or something in a span.
    pub(super) fn may_refuse(&self, held: &Held, at: usize, key: Option<&'static [u8]>, span: &Span) -> Outcome {
        ensure!(!held.safe, "what it shows was the present once, or is pinned");
        let Some(life) = self.lives.get(at) else { return Ok(()) };
        self.now();
        let latest = self.latest.get();
        let promised = match key {
            Some(key) => life.promises(held.moment(), key, latest),
            None => life.promises_all(held.moment(), span, latest),
        };
        // Where only samples of the times are left, what expired about then is known to nobody.
        let sampled = life.has_ttl() && held.seqno < self.exact_from_at_most();
        ensure!(!promised || sampled, "it is promised at {latest}: {:?}, ttls {:?}", life.eras, life.ttls);
        if let Some(keyspace) = life.handle.as_ref().filter(|_| life.dropped.is_none()) {
            let horizon = u64::from(keyspace.horizon());
            ensure!(held.seqno < horizon, "the horizon is {horizon}");
        }
        Ok(())
    }

    /// That horizons only move forward.
    pub(super) fn check_horizons(&mut self) -> Outcome {
        let newest = self.newest();
        for life in &mut self.lives {
            let Some(keyspace) = life.handle.as_ref().filter(|_| life.dropped.is_none()) else { continue };
            let horizon = u64::from(keyspace.horizon());
            ensure!(horizon >= life.horizon, "{}: the horizon went from {} to {horizon}", life.name, life.horizon);
            // When what the newest commit left has expired, only the next one is readable for ever.
            let next = newest + u64::from(life.has_ttl());
            ensure!(horizon <= next, "{}: the horizon is {horizon}, and the newest commit {newest}", life.name);
            life.horizon = horizon;
        }
        Ok(())
    }

    /// From this commit on, at the latest, every one must be told with its time.
    fn exact_from_at_most(&self) -> u64 {
        self.now();
        let latest = self.latest.get();
        let mut limit = latest.saturating_sub(HOUR);
        for life in self.lives.iter().filter(|life| life.dropped.is_none()) {
            let Some(era) = life.eras.last() else { continue };
            let window = latest.saturating_sub(era.keeping.window());
            limit = limit.min(window.max(era.since.saturating_sub(HOUR)));
        }
        limit = self.pins.values().map(|(_, time)| *time).fold(limit, u64::min);
        self.stamp_at(limit).map_or(0, |stamp| stamp.seqno)
    }

    fn stamp_at(&self, time: u64) -> Option<Stamp> {
        let after = self.stamps.partition_point(|stamp| stamp.time <= time);
        self.stamps.get(after.checked_sub(1)?).copied()
    }

    /// That a view as of a commit has its time.
    pub(super) fn check_time_of(&self, held: &Held) -> Outcome {
        let after = self.stamps.partition_point(|stamp| stamp.seqno <= held.seqno);
        let stamp = after.checked_sub(1).and_then(|at| self.stamps.get(at));
        let time = stamp.map_or(0, |stamp| stamp.time);
        let exact = stamp.is_none_or(|stamp| stamp.seqno >= self.exact_from_at_most());
        let right = held.time == time || !exact && held.time < time && time - held.time <= SECOND;
        ensure!(right, "a view as of {} has the time {}, and the model says {time}", held.seqno, held.time);
        Ok(())
    }

    /// A time near a commit, or at no commit at all.
    fn time(&self, at: usize, shift: Shift) -> u64 {
        let now = self.now();
        let at = at % self.stamps.len().max(1);
        let Some(stamp) = self.stamps.get(at) else { return now };
        match shift {
            Shift::By(by) => stamp.time.saturating_add_signed(by),
            Shift::Halfway => {
                let next = self.stamps.get(at + 1).map_or(now, |next| next.time);
                stamp.time + next.saturating_sub(stamp.time) / 2
            }
            Shift::Now => now,
            Shift::Future => now + HOUR,
            Shift::Beginning => self.stamps.first().map_or(0, |first| first.time.saturating_sub(HOUR)),
        }
    }

    /// A view of a time, if there is one.
    fn view_at_time(&mut self, time: u64) -> Outcome<Option<Held>> {
        // A commit behind a question for the time now is a little ahead of the clock.
        let newest = self.stamps.last().map_or(0, |last| last.time);
        let before = self.now().max(newest);
        let seqno = self.stamp_at(time).map_or(0, |stamp| stamp.seqno);
        match self.db()?.as_of_time(time_of(time)) {
            Ok(view) => {
                ensure!(time <= self.now().max(newest), "as_of_time({time}) is opened, and it is {before}");
                let held = self.held_at(view, seqno).map_err(|e| format!("as_of_time({time}): {e}"))?;
                ensure!(held.time == time, "a view of the time {time} says {}", held.time);
                self.fixed = self.fixed.max(time);
                Ok(Some(held))
            }
            Err(Error::InTheFuture) => {
                ensure!(time > before, "as_of_time({time}) is in the future, and it is {before}");
                Ok(None)
            }
            Err(Error::HistoryTrimmed { oldest }) => {
                let exact = self.exact_from_at_most();
                ensure!(seqno < exact, "as_of_time({time}) is refused ({oldest}), and all from {exact} on are told");
                ensure!(u64::from(oldest) > seqno, "as_of_time({time}) is of {seqno}, and names {oldest}");
                self.count("refused times");
                Ok(None)
            }
            Err(error) => Err(format!("as_of_time({time}): {error}")),
        }
    }

    pub(super) fn as_of_time(&mut self, at: usize, shift: Shift) -> Outcome {
        let time = self.time(at, shift);
        self.say("as_of_time", format!("hold a view of the time {time}"));
        let Some(mut held) = self.view_at_time(time)? else { return Ok(()) };
        if let Some(mut second) = self.view_at_time(time)? {
            self.examine(&mut second, false)?;
            (held.exact, held.exact_scans) = (second.exact, second.exact_scans);
        }
        self.held.push(held);
        Ok(())
    }

    pub(super) fn look_at_time(&mut self, at: usize, shift: Shift) -> Outcome {
        let time = self.time(at, shift);
        self.say("look back at a time", format!("read at the time {time}"));
        let Some(held) = self.view_at_time(time)? else { return Ok(()) };
        self.look_with(held, time)
    }

    /// Reads versions of some keys as of a seqno, and of the present.
    pub(super) fn read_histories(&mut self, seqno: u64, dice: u64) -> Outcome {
        self.say("read histories", format!("read histories as of {seqno}"));
        let newest = self.newest();
        let snapshot = self.held_at(self.db()?.snapshot(), newest)?;
        let mut dice = Dice(dice);
        for held in [self.view_as_of(seqno)?, snapshot] {
            for at in 0..self.lives.len() {
                let Some(keyspace) = self.handle(at).cloned() else { continue };
                if self.is_refused_as_dropped(at, &held) {
                    continue;
                }
                for key in KEYS {
                    let ends = (self.moment(dice.below(1 << 20)), self.moment(dice.below(1 << 20)));
                    self.read_history(&held, at, &keyspace, key, ends).map_err(|e| {
                        format!("{}: history of {} as of {}: {e}", keyspace.name(), quoted(key), held.seqno)
                    })?;
                }
            }
        }
        Ok(())
    }

    fn read_history(
        &mut self,
        held: &Held,
        at: usize,
        keyspace: &Keyspace,
        key: &'static [u8],
        (from, to): (u64, u64),
    ) -> Outcome {
        let Some(life) = self.lives.get(at) else { return Ok(()) };
        self.now();
        let latest = self.latest.get();
        let mut wanted = life.versions(held.moment(), key, latest).into_iter().peekable();
        let exact_times = life.tells_times();
        let mut history = held.view.history(keyspace, key);
        let mut seen: Vec<(u64, Option<Vec<u8>>)> = Vec::new();
        let mut words = String::new();
        let mut missing = Vec::new();
        let mut failed = 0;
        for version in history.by_ref() {
            let version = match version {
                Ok(version) => version,
                Err(error) => {
                    // It tells of a version that cannot be folded.
                    ensure!(names(&error, key), "after{words}: {error}");
                    failed += 1;
                    ensure!(failed <= self.commits.len(), "the same error again and again: {error}");
                    continue;
                }
            };
            let (seqno, time) = (u64::from(version.seqno), micros(version.time));
            let _infallible = write!(words, " ({seqno}, {})", shown(version.value.as_deref()));
            let mut found = None;
            while let Some(next) = wanted.next_if(|next| next.seqno >= seqno) {
                if next.seqno == seqno {
                    found = Some(next);
                } else {
                    missing.push(next);
                }
            }
            let Some(found) = found else {
                if version.value.is_none() && wanted.peek().is_none() && self.is_purged(at, key, seqno) {
                    // What a purge hides is no value.
                    seen.push((seqno, None));
                    continue;
                }
                return Err(format!("tells{words}, the last of which there never was"));
            };
            let same = match (&found.state, &version.value) {
                (State::Absent, None) => true,
                (State::Is(value), Some(got)) => **got == **value,
                _ => false,
            };
            ensure!(same, "tells{words}, and the model says {} @{seqno}", found.state.words());
            let near = !exact_times && time.abs_diff(found.time) <= SECOND && latest.saturating_sub(found.time) >= HOUR;
            ensure!(time == found.time || near, "tells{words} with the time {time}, and the model says {}", found.time);
            seen.push((seqno, version.value.map(|value| value.to_vec())));
        }
        missing.extend(wanted);
        missing.retain(|version| version.state != State::Unfoldable);
        let complete = history.is_complete();
        let counts = &mut self.counts;
        *counts.entry("histories read").or_default() += 1;
        *counts.entry("versions told").or_default() += seen.len() as u64;
        if complete {
            *counts.entry("complete histories").or_default() += 1;
            if let Some(lost) = missing.iter().find(|version| !version.idle) {
                return Err(format!(
                    "tells{words}, says it is complete, and leaves {} @{} out",
                    lost.state.words(),
                    lost.seqno
                ));
            }
        }
        if let Some(lost) = missing.iter().find(|version| version.promised) {
            return Err(format!(
                "tells{words}, and leaves {} @{} out, which is promised",
                lost.state.words(),
                lost.seqno
            ));
        }
        if self.alone() && failed == 0 {
            let part = held.view.history_between(keyspace, key, from..to);
            let mut between = Vec::new();
            for version in part {
                let version = version.map_err(told("history_between"))?;
                between.push((u64::from(version.seqno), version.value.map(|value| value.to_vec())));
            }
            seen.retain(|(seqno, _)| (from..to).contains(seqno));
            let told = |list: &[(u64, Option<Vec<u8>>)]| list.iter().map(|(seqno, _)| *seqno).collect::<Vec<_>>();
            ensure!(
                between == seen,
                "between {from} and {to} tells {:?}, and all of it {:?}",
                told(&between),
                told(&seen)
            );
        }
        Ok(())
    }

    /// Whether a later purge hides what was said of a key.
    fn is_purged(&self, at: usize, key: &[u8], seqno: u64) -> bool {
        let purges = self.lives.get(at).and_then(|life| life.purges.get(key));
        purges.is_some_and(|purges| purges.iter().any(|purge| *purge > seqno))
    }

    pub(super) fn compare_moments(&mut self, before: u64, after: u64) -> Outcome {
        self.say("compare moments", format!("compare {before} with {after}"));
        let (before, after) = (self.view_as_of(before)?, self.view_as_of(after)?);
        for at in 0..self.lives.len() {
            let Some(keyspace) = self.handle(at).cloned() else { continue };
            let Some(life) = self.lives.get(at) else { continue };
            if self.is_refused_as_dropped(at, &before) || self.is_refused_as_dropped(at, &after) {
                continue;
            }
            let states = KEYS.map(|key| (key, life.at(before.moment(), key), life.at(after.moment(), key)));
            let unfoldable = |(_, a, b): &(_, State, State)| *a == State::Unfoldable || *b == State::Unfoldable;
            let mut wanted = states.iter().filter(|states| states.1 != states.2 || unfoldable(states));
            let words = || format!("{}: from {} to {}", keyspace.name(), before.seqno, after.seqno);
            let mut ended = true;
            for change in self.db()?.diff(&before.view, &after.view, &keyspace) {
                let change = match change {
                    Ok(change) => change,
                    Err(Error::HistoryTrimmed { .. }) => {
                        let may = [&before, &after].map(|held| {
                            ensure!(!self.is_present(held, at), "it is the present");
                            self.may_refuse(held, at, None, &ALL)
                        });
                        if let [Err(first), Err(second)] = may {
                            return Err(format!("{} is refused, and {first}; {second}", words()));
                        }
                        ended = false;
                        break;
                    }
                    Err(error) if is_of_a_key(&error) => {
                        let next = wanted.next();
                        let same = next.is_some_and(|states| unfoldable(states) && names(&error, states.0));
                        ensure!(same, "{} tells {error}, and the model says {next:?}", words());
                        continue;
                    }
                    Err(error) => return Err(format!("{}: {error}", words())),
                };
                let told = |value: &Option<chronolith::Bytes>| {
                    value.as_deref().map_or(State::Absent, |value| State::Is(value.into()))
                };
                let got = (&*change.key, told(&change.before), told(&change.after));
                let next = wanted.next();
                let same = next.is_some_and(|(key, before, after)| (*key, before, after) == (got.0, &got.1, &got.2));
                ensure!(same, "{} tells {change:?}, and the model says {next:?}", words());
            }
            if ended {
                let next = wanted.next();
                ensure!(next.is_none(), "{} ends, and the model says {next:?}", words());
            }
        }
        Ok(())
    }

    pub(super) fn read_commits(&mut self, dice: u64) -> Outcome {
        let mut dice = Dice(dice);
        let (from, to) = (self.moment(dice.below(1 << 20)), self.moment(dice.below(1 << 20)));
        self.say("read commits", format!("read the commits, and those in {from}..{to}"));
        let exact = self.exact_from_at_most();
        let db = self.db()?.clone();
        for (commits, from, to) in [(db.commits(..), None, u64::MAX), (db.commits(from..to), Some(from), to)] {
            let mut told = Vec::new();
            let mut refused = false;
            for commit in commits {
                match commit {
                    Ok(commit) => told.push(commit),
                    Err(Error::HistoryTrimmed { oldest })
                        if told.is_empty() && from.is_some_and(|from| from < exact) =>
                    {
                        ensure!(
                            from.is_some_and(|from| u64::from(oldest) > from),
                            "commits from {from:?} name {oldest}"
                        );
                        refused = true;
                    }
                    Err(error) => {
                        return Err(format!("commits from {from:?}: {error}, and all from {exact} on are told"));
                    }
                }
            }
            if refused {
                ensure!(told.is_empty(), "commits after an error");
                continue;
            }
            let first = told.first().map_or(u64::MAX, |first| u64::from(first.seqno));
            let begin = from.unwrap_or(first.min(exact));
            let wanted: Vec<_> =
                self.stamps.iter().filter(|stamp| !stamp.decides && (begin..to).contains(&stamp.seqno)).collect();
            let same = wanted.len() == told.len()
                && wanted.iter().zip(&told).all(|(wanted, told)| {
                    let writes = usize::try_from(told.writes).unwrap_or(usize::MAX);
                    (u64::from(told.seqno), micros(told.time)) == (wanted.seqno, wanted.time)
                        && (wanted.writes.0..=wanted.writes.1).contains(&writes)
                });
            ensure!(same, "commits in {from:?}..{to} are {told:?}, and the model says {wanted:?}");
        }
        Ok(())
    }

    pub(super) fn pin(&mut self, which: usize) -> Outcome {
        let Some(&name) = PINS.get(which) else { return Ok(()) };
        self.say("pin", format!("pin {name}"));
        let db = self.db()?.clone();
        let pinned = db.pin(name);
        if self.pins.contains_key(name) {
            ensure!(matches!(pinned, Err(Error::Invalid { .. })), "pinned a second time: {pinned:?}");
            return Ok(());
        }
        let seqno = u64::from(pinned.map_err(told("pin"))?);
        ensure!(seqno > self.newest(), "pinned at {seqno}, after {}", self.newest());
        let pin = db.pins().into_iter().find(|pin| pin.name == name).ok_or("the pin is not listed")?;
        self.changed(seqno)?;
        let time = micros(pin.time);
        let last = self.stamps.last().map_or(0, |stamp| stamp.time);
        ensure!(time == last, "pinned at the time {time}, and a view of it says {last}");
        self.pins.insert(name, (seqno, time));
        self.check_pins()
    }

    pub(super) fn unpin(&mut self, which: usize) -> Outcome {
        let Some(&name) = PINS.get(which) else { return Ok(()) };
        self.say("unpin", format!("unpin {name}"));
        let db = self.db()?.clone();
        let unpinned = db.unpin(name);
        if self.pins.remove(name).is_none() {
            ensure!(matches!(unpinned, Err(Error::Invalid { .. })), "unpinned what is not there: {unpinned:?}");
            let view = db.pinned(name);
            ensure!(matches!(view, Err(Error::Invalid { .. })), "a view of a pin that is not there: {view:?}");
            return Ok(());
        }
        unpinned.map_err(told("unpin"))?;
        let seqno = u64::from(db.seqno());
        ensure!(seqno > self.newest(), "unpinned at {seqno}, after {}", self.newest());
        self.changed(seqno)?;
        self.check_pins()
    }

    fn check_pins(&self) -> Outcome {
        let told = self.db()?.pins();
        let told: Vec<_> =
            told.iter().map(|pin| (pin.name.as_str(), (u64::from(pin.seqno), micros(pin.time)))).collect();
        let wanted: Vec<_> = self.pins.iter().map(|(name, pin)| (*name, *pin)).collect();
        ensure!(told == wanted, "the pins are {told:?}, and the model says {wanted:?}");
        Ok(())
    }

    /// Reads a pinned moment, and holds it if asked to.
    pub(super) fn read_pins(&mut self, which: usize, hold: bool) -> Outcome {
        self.check_pins()?;
        let Some((&name, &(seqno, time))) = self.pins.iter().nth(which % self.pins.len().max(1)) else { return Ok(()) };
        self.say(if hold { "hold a pin" } else { "read pins" }, format!("read what {name} pins"));
        for keep in [false, true] {
            if keep && !hold {
                break;
            }
            let view = self.db()?.pinned(name).map_err(told("pinned"))?;
            let pinned = Held { safe: true, pinned: true, ..self.held_at(view, seqno)? };
            ensure!(pinned.time == time, "a view of a pin of {time} says {}", pinned.time);
            if keep {
                self.held.push(pinned);
            } else {
                self.look_with(pinned, time)?;
            }
        }
        Ok(())
    }

    pub(super) fn set_policy(&mut self, slot: usize, keeping: Keeping) -> Outcome {
        let Some((at, keyspace)) = self.alive(slot) else { return Ok(()) };
        let now = self.now();
        let latest = self.latest.get();
        let Some(life) = self.lives.get_mut(at) else { return Ok(()) };
        let changes = life.keeping() != keeping;
        let asked = life.options(false).policy(keeping.policy());
        self.say("set a policy", format!("{}: keep {keeping:?}", keyspace.name()));
        let seqno = self.set(&keyspace, asked, changes)?;
        if let Some(life) = self.lives.get_mut(at).filter(|_| changes) {
            if let Some(era) = life.eras.last_mut() {
                era.until = Some((seqno, latest));
            }
            life.eras.push(Era { keeping, since: now, until: None });
        }
        Ok(())
    }

    pub(super) fn set_ttl(&mut self, slot: usize, ttl: u64) -> Outcome {
        let Some((at, keyspace)) = self.alive(slot) else { return Ok(()) };
        let Some(life) = self.lives.get(at) else { return Ok(()) };
        let (changes, folds) = (life.ttl() != ttl, life.strategy.folds());
        let asked = life.options(false).ttl(Duration::from_micros(ttl));
        self.say("set a time to live", format!("{}: ttl {ttl}", keyspace.name()));
        if folds && ttl > 0 {
            let refused = self.db()?.keyspace(keyspace.name(), asked);
            ensure!(matches!(refused, Err(Error::Invalid { .. })), "a time to live of what is folded: {refused:?}");
            return self.refused("a time to live is refused");
        }
        let seqno = self.set(&keyspace, asked, changes)?;
        if let Some(life) = self.lives.get_mut(at).filter(|_| changes) {
            life.ttls.push((seqno, ttl));
        }
        Ok(())
    }

    /// Sets options, which take a seqno if they change anything.
    fn set(&mut self, keyspace: &Keyspace, asked: KeyspaceOptions, changes: bool) -> Outcome<u64> {
        let db = self.db()?.clone();
        db.keyspace(keyspace.name(), asked).map_err(told("keyspace"))?;
        let seqno = u64::from(db.seqno());
        ensure!((seqno > self.newest()) == changes, "setting options leads to {seqno}, after {}", self.newest());
        if changes {
            self.changed(seqno)?;
        }
        Ok(seqno)
    }

    pub(super) fn compact(&mut self) -> Outcome {
        self.say("compact", "compact".to_owned());
        let report = self.db()?.compact().map_err(told("compact"))?;
        let views = self.held.iter().map(|held| held.seqno).chain(self.ranges.iter().map(|range| range.opened));
        let readers: Vec<u64> = views.chain(self.pins.values().map(|(seqno, _)| *seqno)).collect();
        for seqno in &report.still_held_by {
            ensure!(readers.contains(&u64::from(*seqno)), "held by {seqno}, and there are only {readers:?}");
        }
        self.check_horizons()?;
        self.look_for_purged(&report.still_held_by)
    }

    /// That no file holds what was purged, unless a view that came before may read it, or an iterator that is told of still reads the file.
    fn look_for_purged(&mut self, held_by: &[Seqno]) -> Outcome {
        let Machine::Sim(sim) = self.machine.clone() else { return Ok(()) };
        let opened = self.held.iter().map(|held| held.opened).chain(self.ranges.iter().map(|range| range.opened));
        let oldest = opened.min().unwrap_or(u64::MAX);
        let gone: Vec<_> = self.purged.iter().rev().filter(|(purge, _)| *purge <= oldest).take(40).cloned().collect();
        let iterates = self.ranges.iter().any(|range| held_by.contains(&Seqno::from(range.opened)));
        if gone.is_empty() || iterates {
            return Ok(());
        }
        self.count("purged bytes looked for");
        for file in sim.files().into_iter().filter(|file| !is_copy(file)) {
            let bytes = sim.read_file(&file).unwrap_or_default();
            // Every mark begins with one of two bytes.
            for at in memchr(&bytes) {
                let found = gone.iter().find(|(_, mark)| bytes.get(at..at + MARK_LEN) == Some(mark.as_slice()));
                if let Some((purge, mark)) = found {
                    return Err(format!("{} holds {} @{at}, purged @{purge}", file.display(), quoted(mark)));
                }
            }
        }
        Ok(())
    }

    /// Copies a moment to a database of its own, and reads that.
    pub(super) fn copy_moment(&mut self, seqno: u64, dice: u64) -> Outcome {
        let which = usize::try_from(dice % 64).unwrap_or(0);
        let mut held = self.view_as_of(seqno)?;
        if let Some(older) = self.held.get(which) {
            let Held { ref view, seqno, time, opened, safe, pinned, .. } = *older;
            held = Held { view: view.clone(), seqno, time, opened, safe, pinned, ..held };
        }
        let there: Vec<usize> = (0..self.lives.len())
            .filter(|at| !self.is_refused_as_dropped(*at, &held))
            .filter(|at| self.lives.get(*at).is_some_and(|life| life.born <= held.seqno))
            .collect();
        let given =
            |at: &usize| self.lives.get(*at).is_some_and(|life| life.handle.is_some() || !life.strategy.is_custom());
        // The copy of nothing at all begins with a commit of its own.
        if held.seqno == 0 || !there.iter().all(given) {
            return Ok(());
        }
        self.say("copy a moment", format!("copy the view as of {} opened at {}", held.seqno, held.opened));
        self.copies += 1;
        let path = format!("copy-{}.db", self.copies);
        let moment = held.moment();
        match held.view.checkpoint(&path) {
            Ok(()) => {}
            Err(Error::HistoryTrimmed { .. }) => {
                let may = |at: &usize| !self.is_present(&held, *at) && self.may_refuse(&held, *at, None, &ALL).is_ok();
                ensure!(there.iter().any(may), "a copy is refused, and all of it is promised");
                self.count("refused copies");
                return Ok(());
            }
            Err(Error::Invalid { what }) => {
                let is = |at: &usize| {
                    let life = self.lives.get(*at);
                    life.is_some_and(|life| KEYS.into_iter().any(|key| life.at(moment, key) == State::Unfoldable))
                };
                ensure!(there.iter().any(is), "a copy is refused: {what}");
                return Ok(());
            }
            Err(error) => return Err(format!("checkpoint: {error}")),
        }
        let copy = match &self.machine {
            Machine::Sim(sim) => Options::new().env(sim.clone()),
            Machine::Memory(memory) => Options::new().env(memory.clone()),
            Machine::Disk(_) => Options::new(),
        };
        let copy = copy.open(&path).map_err(|e| format!("open the copy: {e}"))?;
        let mut names: Vec<&str> = there.iter().filter_map(|at| self.lives.get(*at)).map(|life| life.name).collect();
        names.sort_unstable();
        ensure!(copy.keyspaces() == names, "the copy has {:?}, and the model says {names:?}", copy.keyspaces());
        ensure!(u64::from(copy.seqno()) == held.seqno, "the copy is at {}, not {}", copy.seqno(), held.seqno);
        let mut dice = Dice(dice);
        for round in 0..2 {
            for life in there.iter().filter_map(|at| self.lives.get(*at)) {
                let keyspace = copy.keyspace(life.name, life.options(false)).map_err(told("keyspace of the copy"))?;
                let earlier = self.moment(dice.below(1 << 20)).min(held.seqno);
                for seqno in [None, Some(held.seqno), Some(earlier), Some(held.seqno / 2)] {
                    let view = match seqno {
                        None => copy.snapshot(),
                        Some(seqno) => copy.as_of(seqno).map_err(told("as_of in the copy"))?,
                    };
                    let at = Moment { seqno: u64::from(view.seqno()), time: micros(view.time()), opened: held.opened };
                    for key in KEYS {
                        let wanted = life.at(at, key);
                        let got = view.get(&keyspace, key);
                        let trimmed = matches!(got, Err(Error::HistoryTrimmed { .. }))
                            && seqno.is_some_and(|seqno| seqno < held.seqno || life.has_ttl());
                        ensure!(
                            trimmed || wanted.is_told_by(key, &got),
                            "the copy as of {seqno:?}, round {round}: {}: get {} {}",
                            life.name,
                            quoted(key),
                            super::differs(&got, &wanted)
                        );
                    }
                }
            }
            copy.compact().map(drop).map_err(told("compact the copy"))?;
        }
        let report = copy.verify().map_err(told("verify the copy"))?;
        ensure!(report.is_clean(), "verify of the copy finds {report}");
        copy.close().map_err(told("close the copy"))
    }

    /// The power goes at some call while everything is flushed or compacted: nothing that was there may be lost.
    pub(super) fn crash_at(&mut self, calls: u64, compact: bool, opening: Opening) -> Outcome {
        let Machine::Sim(sim) = self.machine.clone() else { return Ok(()) };
        let what = if compact { "compact" } else { "flush" };
        self.say(
            "crash at a call",
            format!("persist, cut the power at call {calls} of {what}, open{}", opening.words()),
        );
        self.db()?.persist().map_err(told("persist"))?;
        self.unsynced = false;
        sim.fail_at(sim.calls() + calls, env::Fault::Cut);
        let db = self.db()?.clone();
        let done = if compact { db.compact().map(drop) } else { db.flush() };
        drop(db);
        if let Err(error) = done {
            self.add(&format!(" ({error})"));
        }
        sim.cut_power();
        sim.clear_faults();
        drop(self.let_go());
        if opening.look {
            self.look_read_only()?;
        }
        self.open(false, opening)
    }
}

fn is_copy(file: &Path) -> bool {
    file.components().any(|part| part.as_os_str().to_string_lossy().starts_with("copy-"))
}

/// Where a mark may begin.
fn memchr(bytes: &[u8]) -> impl Iterator<Item = usize> + '_ {
    bytes.iter().enumerate().filter(|(_, byte)| matches!(byte, b'v' | b'!')).map(|(at, _)| at)
}
