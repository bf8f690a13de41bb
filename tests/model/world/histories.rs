//! Versions of keys, and differences between moments.

use std::fmt::Write as _;

use chronolith::{Error, Keyspace};

use crate::{
    dice::Dice,
    outcome::{Outcome, ensure},
    past::{HOUR, SECOND, micros},
    script::{ALL, KEYS, quoted, shown},
    state::{State, is_of_a_key, names, told},
    world::{Held, World},
};

impl World {
    /// Reads versions of some keys as of a seqno, and of the present.
    pub(crate) fn read_histories(&mut self, seqno: u64, dice: u64) -> Outcome {
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

    /// Reads all versions of a key, newest first, and those from one seqno on to before another.
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
        self.count("histories read");
        *self.counts.entry("versions told").or_default() += seen.len() as u64;
        if history.is_complete() {
            self.count("complete histories");
            if let Some(lost) = missing.iter().find(|version| !version.idle) {
                let (state, seqno) = (lost.state.words(), lost.seqno);
                return Err(format!("tells{words}, says it is complete, and leaves {state} @{seqno} out"));
            }
        }
        if let Some(lost) = missing.iter().find(|version| version.promised) {
            let (state, seqno) = (lost.state.words(), lost.seqno);
            return Err(format!("tells{words}, and leaves {state} @{seqno} out, which is promised"));
        }
        if self.alone() && failed == 0 {
            seen.retain(|(seqno, _)| (from..to).contains(seqno));
            Self::read_between(held, keyspace, key, (from, to), &seen)?;
        }
        Ok(())
    }

    /// Reads a part of a history, which must be as it is in the whole.
    fn read_between(
        held: &Held,
        keyspace: &Keyspace,
        key: &'static [u8],
        (from, to): (u64, u64),
        seen: &[(u64, Option<Vec<u8>>)],
    ) -> Outcome {
        let mut between = Vec::new();
        for version in held.view.history_between(keyspace, key, from..to) {
            let version = version.map_err(told("history_between"))?;
            between.push((u64::from(version.seqno), version.value.map(|value| value.to_vec())));
        }
        let told = |list: &[(u64, Option<Vec<u8>>)]| list.iter().map(|(seqno, _)| *seqno).collect::<Vec<_>>();
        ensure!(between == seen, "between {from} and {to} tells {:?}, and all of it {:?}", told(&between), told(seen));
        Ok(())
    }

    /// Whether a later purge hides what was said of a key.
    fn is_purged(&self, at: usize, key: &[u8], seqno: u64) -> bool {
        let purges = self.lives.get(at).and_then(|life| life.purges.get(key));
        purges.is_some_and(|purges| purges.iter().any(|purge| *purge > seqno))
    }

    pub(crate) fn compare_moments(&mut self, before: u64, after: u64) -> Outcome {
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
}
