//! The time of the database: which moment a time is, and what the timeline tells.

use chronolith::Error;

use crate::{
    dice::Dice,
    outcome::{Outcome, ensure},
    past::{HOUR, SECOND, micros, time_of},
    script::Shift,
    world::{Held, World},
};

/// A batch: its commit, its time, and how many operations it may be told to have had.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub(crate) seqno: u64,
    pub(crate) time: u64,
    pub(crate) writes: (usize, usize),
    /// It is no commit: a keyspace came, changed or went, or a pin did.
    pub(crate) decides: bool,
}

impl World {
    /// The time of the database.
    pub(crate) fn now(&self) -> u64 {
        let now = self.db.as_ref().map_or(0, |db| micros(db.snapshot().time()));
        self.latest.set(self.latest.get().max(now));
        now
    }

    /// From this commit on, at the latest, every one must be told with its time.
    pub(crate) fn exact_from_at_most(&self) -> u64 {
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
    pub(crate) fn check_time_of(&self, held: &Held) -> Outcome {
        let after = self.stamps.partition_point(|stamp| stamp.seqno <= held.seqno);
        let stamp = after.checked_sub(1).and_then(|at| self.stamps.get(at));
        let time = stamp.map_or(0, |stamp| stamp.time);
        let exact = stamp.is_none_or(|stamp| stamp.seqno >= self.exact_from_at_most());
        let right = held.time == time || !exact && held.time < time && time - held.time <= SECOND;
        ensure!(right, "a view as of {} has the time {}, and the model says {time}", held.seqno, held.time);
        Ok(())
    }

    /// A time near a commit, or at no commit at all.
    pub(crate) fn time(&self, at: usize, shift: Shift) -> u64 {
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

    pub(crate) fn as_of_time(&mut self, at: usize, shift: Shift) -> Outcome {
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

    pub(crate) fn look_at_time(&mut self, at: usize, shift: Shift) -> Outcome {
        let time = self.time(at, shift);
        self.say("look back at a time", format!("read at the time {time}"));
        let Some(held) = self.view_at_time(time)? else { return Ok(()) };
        self.look_with(held, time)
    }

    pub(crate) fn read_commits(&mut self, dice: u64) -> Outcome {
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

    /// That horizons only move forward.
    pub(crate) fn check_horizons(&mut self) -> Outcome {
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
}
