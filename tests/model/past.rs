//! What must be left of the past: policies, times to live, purges, and what of all that is promised.
//!
//! ```text
//!   a state of a key ── superseded ──▶ owed by every policy since then, at its latest time?
//!                                         yes ▶ it must be answered       no ▶ it, or HistoryTrimmed
//! ```

use std::{
    cell::RefCell,
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use chronolith::{CompactionPolicy, Keyspace, KeyspaceOptions, Policy, VersionInfo};

use crate::{
    script::{Fill, KEYS, Span, Value, Write},
    state::{State, fold},
    strategies::Strategy,
};

/// In microseconds, as all times here.
pub(crate) const SECOND: u64 = 1_000_000;
pub(crate) const MINUTE: u64 = 60 * SECOND;
pub(crate) const HOUR: u64 = 60 * MINUTE;
pub(crate) const FOREVER: u64 = u64::MAX;

pub(crate) fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

pub(crate) fn time_of(us: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(us)
}

fn duration(us: u64) -> Duration {
    if us == FOREVER { Duration::MAX } else { Duration::from_micros(us) }
}

/// What a keyspace keeps of its past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeping {
    LastWriterWins,
    Tombstones(u64),
    Mvcc(u64, u64),
    /// A policy of the user's own: what even commits wrote.
    Even,
}

impl Keeping {
    pub(crate) fn policy(self) -> Policy {
        match self {
            Self::LastWriterWins => Policy::last_writer_wins(),
            Self::Tombstones(retention) => Policy::tombstones(duration(retention)),
            Self::Mvcc(versions, age) => Policy::mvcc(versions, duration(age)),
            Self::Even => Policy::custom("keep even", KeepEven),
        }
    }

    /// Everything that was the truth for this long is kept, as far as the timeline is concerned.
    pub(crate) fn window(self) -> u64 {
        match self {
            Self::Tombstones(age) | Self::Mvcc(_, age) => age,
            Self::LastWriterWins | Self::Even => 0,
        }
    }
}

struct KeepEven;

impl CompactionPolicy for KeepEven {
    fn keep(&self, version: &VersionInfo, _now: SystemTime) -> bool {
        u64::from(version.seqno).is_multiple_of(2)
    }
}

/// How long a policy was in force.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Era {
    pub(crate) keeping: Keeping,
    /// The time of the database when it began.
    pub(crate) since: u64,
    /// The commit that ended it, and the time of the database then.
    pub(crate) until: Option<(u64, u64)>,
}

/// What is asked for: all commits up to `seqno`, at `time`, by somebody who came when `opened` was the newest commit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) seqno: u64,
    pub(crate) time: u64,
    pub(crate) opened: u64,
}

impl Moment {
    pub(crate) fn present(time: u64) -> Self {
        Self { seqno: u64::MAX, time, opened: u64::MAX }
    }
}

/// Something that was said of a key. Those of one batch have one seqno and stand in their order.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) seqno: u64,
    pub(crate) time: u64,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Put(Value),
    Merge(Value),
    Delete,
}

/// A version of a key, as a history must tell it.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) seqno: u64,
    pub(crate) time: u64,
    pub(crate) state: State,
    /// A delete of what was not there.
    pub(crate) idle: bool,
    /// It must be there still.
    pub(crate) promised: bool,
}

/// States by key, and by the words from one on to before another.
type Folded = BTreeMap<(&'static [u8], usize, usize), State>;

/// One life of a keyspace, from its creation to its drop, with everything that was ever said of its keys.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) name: &'static str,
    pub(crate) strategy: Strategy,
    pub(crate) index: Option<bool>,
    pub(crate) born: u64,
    pub(crate) dropped: Option<u64>,
    /// As long as the database that gave it is open.
    pub(crate) handle: Option<Keyspace>,
    pub(crate) keys: BTreeMap<&'static [u8], Vec<Said>>,
    /// The commits that purged each key.
    pub(crate) purges: BTreeMap<&'static [u8], Vec<u64>>,
    /// The commits that deleted a range, with their times: of no key perhaps.
    pub(crate) ranges: Vec<(u64, u64)>,
    pub(crate) eras: Vec<Era>,
    /// From which commit on what is written lives how long; 0 is for ever.
    pub(crate) ttls: Vec<(u64, u64)>,
    /// The newest horizon that was told.
    pub(crate) horizon: u64,
    /// What was worked out already: by key, and which part of what was said.
    pub(crate) folded: RefCell<Folded>,
}

impl Life {
    pub(crate) fn keeping(&self) -> Keeping {
        self.eras.last().map_or(Keeping::LastWriterWins, |era| era.keeping)
    }

    pub(crate) fn ttl(&self) -> u64 {
        self.ttls.last().map_or(0, |(_, ttl)| *ttl)
    }

    pub(crate) fn has_ttl(&self) -> bool {
        self.ttls.iter().any(|(_, ttl)| *ttl > 0)
    }

    /// Options that change nothing, with which it can be opened again.
    pub(crate) fn options(&self, with_policy: bool) -> KeyspaceOptions {
        let options = KeyspaceOptions::new();
        let options = if self.strategy.is_custom() { options.merge(self.strategy.option()) } else { options };
        if with_policy { options.policy(self.keeping().policy()) } else { options }
    }

    pub(crate) fn say(&mut self, seqno: u64, time: u64, key: &'static [u8], what: What) {
        self.keys.entry(key).or_default().push(Said { seqno, time, what });
    }

    pub(crate) fn put(&mut self, at: (u64, u64), now: u64, key: &'static [u8], what: What) {
        if self.strategy.decides() && !self.at(Moment::present(now), key).is_absent() {
            return;
        }
        self.say(at.0, at.1, key, what);
    }

    /// Takes what was committed as `seqno` at `time`; the decision what is there was made at `now`.
    pub(crate) fn apply(&mut self, (seqno, time): (u64, u64), now: u64, write: &Write) {
        let strategy = self.strategy;
        let value = |fill: &Fill| fill.bytes(strategy);
        match write {
            Write::Put { key, fill } => self.put((seqno, time), now, key, What::Put(value(fill))),
            Write::Merge { key, fill } => self.put((seqno, time), now, key, What::Merge(value(fill))),
            Write::Delete { key } => self.say(seqno, time, key, What::Delete),
            Write::DeleteRange { span } => {
                self.ranges.push((seqno, time));
                for key in KEYS.into_iter().filter(|key| span.holds(key)) {
                    self.say(seqno, time, key, What::Delete);
                }
            }
            Write::Purge { .. } | Write::PurgePrefix { .. } => {
                for key in KEYS.into_iter().filter(|key| write.purges(key)) {
                    self.say(seqno, time, key, What::Delete);
                    self.purges.entry(key).or_default().push(seqno);
                }
            }
        }
    }

    /// What has been said of a key and not been purged, for somebody who came at `opened`: from which on, and all.
    fn heard(&self, key: &[u8], opened: u64) -> (usize, &[Said]) {
        let said = self.keys.get(key).map_or(&[][..], |said| said);
        let purge = self.purges.get(key).and_then(|purges| purges.iter().rfind(|purge| **purge <= opened));
        let from = purge.map_or(0, |purge| said.partition_point(|said| said.seqno < *purge));
        (from, said)
    }

    /// When a value that was said expires.
    fn expiry(&self, said: &Said) -> u64 {
        let ttl = self.ttls.iter().rfind(|(from, _)| *from <= said.seqno).map_or(0, |(_, ttl)| *ttl);
        if ttl == 0 { u64::MAX } else { said.time.saturating_add(ttl) }
    }

    /// What a key is at a moment.
    pub(crate) fn at(&self, moment: Moment, key: &'static [u8]) -> State {
        let (from, said) = self.heard(key, moment.opened);
        let count = said.partition_point(|said| said.seqno <= moment.seqno);
        if said.get(from..count).and_then(<[Said]>::last).is_some_and(|last| self.expiry(last) <= moment.time) {
            return State::Absent;
        }
        self.folded(key, from, count)
    }

    /// What the words from one on to before another amount to.
    fn folded(&self, key: &'static [u8], from: usize, to: usize) -> State {
        if let Some(known) = self.folded.borrow().get(&(key, from, to)) {
            return known.clone();
        }
        let said = self.keys.get(key).map_or(&[][..], |said| said);
        let state = fold(self.strategy, said.get(from..to).unwrap_or_default());
        // Of long values there would be too many.
        if !matches!(&state, State::Is(value) if value.len() > 1 << 16) {
            self.folded.borrow_mut().insert((key, from, to), state.clone());
        }
        state
    }

    /// The keys that are there, with their states.
    pub(crate) fn range_at(&self, moment: Moment, span: &Span) -> Vec<(&'static [u8], State)> {
        let keys = KEYS.into_iter().filter(|key| span.holds(key));
        keys.map(|key| (key, self.at(moment, key))).filter(|(_, state)| !state.is_absent()).collect()
    }

    /// Whether the answer for a key must still be there, at the time `latest` of the database.
    pub(crate) fn promises(&self, moment: Moment, key: &'static [u8], latest: u64) -> bool {
        let (from, said) = self.heard(key, moment.opened);
        let count = said.partition_point(|said| said.seqno <= moment.seqno);
        let newest = said.get(from..count).and_then(<[Said]>::last);
        let there = newest.filter(|newest| !matches!(newest.what, What::Delete) && self.expiry(newest) > moment.time);
        let Some(there) = there else { return self.promises_nothing(moment, latest) };
        let newer = said.get(count..).unwrap_or_default();
        let expiry = self.expiry(there);
        self.eras.iter().all(|era| {
            let (upto, now) = era.until.unwrap_or((u64::MAX, latest));
            let next = newer.first().filter(|next| next.seqno <= upto);
            if next.is_none() && expiry > now {
                // It was not superseded then.
                return true;
            }
            let ended = next.map_or(u64::MAX, |next| next.time).min(expiry);
            let age = now.saturating_sub(ended);
            match era.keeping {
                Keeping::LastWriterWins => false,
                Keeping::Even => there.seqno.is_multiple_of(2),
                Keeping::Tombstones(retention) => {
                    // By a delete, whatever else was said in its batch.
                    let of_next = |said: &&Said| next.is_some_and(|next| next.seqno == said.seqno);
                    let deleted = newer.iter().filter(of_next).all(|said| matches!(said.what, What::Delete));
                    next.is_some() && deleted && expiry > ended && age < retention
                }
                Keeping::Mvcc(versions, min_age) => {
                    age < min_age || self.is_counted((there, newer), (versions, min_age), (upto, now))
                }
            }
        })
    }

    /// Whether a version is among the newest.
    fn is_counted(
        &self,
        (there, newer): (&Said, &[Said]),
        (versions, min_age): (u64, u64),
        (upto, now): (u64, u64),
    ) -> bool {
        let mut rank = 0;
        let mut last = there.seqno;
        for said in newer.iter().filter(|said| said.seqno <= upto) {
            rank += u64::from(said.seqno != last);
            last = said.seqno;
            if matches!(said.what, What::Delete) && now.saturating_sub(said.time) >= min_age {
                return false;
            }
        }
        rank < versions && std::iter::once(there).chain(newer).all(|said| self.expiry(said) > now)
    }

    /// Whether it must still be known that a key was not there: any key, of those too that were never written. What
    /// leaves the window without a trace of its own refuses everything that is not there before it.
    fn promises_nothing(&self, moment: Moment, latest: u64) -> bool {
        if moment.seqno < self.born {
            return true;
        }
        let after = |said: &Vec<Said>| {
            let next = said.partition_point(|said| said.seqno <= moment.seqno);
            said.get(next).map(|said| (said.seqno, said.time))
        };
        let range = self.ranges.iter().find(|(seqno, _)| *seqno > moment.seqno).copied();
        let next = self.keys.values().filter_map(after).chain(range).min();
        self.eras.iter().all(|era| {
            let (upto, now) = era.until.unwrap_or((u64::MAX, latest));
            let age = if let Keeping::Mvcc(_, age) = era.keeping { age } else { 0 };
            let inside = |time: u64| now.saturating_sub(time) < age;
            let expired = self.has_ttl() && moment.time < now && !inside(moment.time);
            !expired && next.is_none_or(|(seqno, time)| seqno > upto || inside(time))
        })
    }

    /// Whether a scan must still be answered.
    pub(crate) fn promises_all(&self, moment: Moment, span: &Span, latest: u64) -> bool {
        self.promises_nothing(moment, latest)
            && KEYS.into_iter().filter(|key| span.holds(key)).all(|key| self.promises(moment, key, latest))
    }

    /// The versions of a key at a moment, newest first.
    pub(crate) fn versions(&self, moment: Moment, key: &'static [u8], latest: u64) -> Vec<Told> {
        let (from, said) = self.heard(key, moment.opened);
        let purge = said
            .get(from)
            .filter(|_| self.purges.get(key).is_some_and(|purges| purges.first() <= Some(&moment.opened)));
        let purge = purge.map_or(0, |purge| purge.seqno);
        let mut versions: Vec<Told> = Vec::new();
        let mut at = from;
        // Until when what was there before lives.
        let mut lives = 0;
        while let Some(first) = said.get(at).filter(|said| said.seqno <= moment.seqno) {
            let end = said.partition_point(|said| said.seqno <= first.seqno);
            let state = self.folded(key, from, end);
            let absent = state.is_absent();
            let then = Moment { seqno: first.seqno, time: first.time, opened: moment.opened };
            let there = lives > first.time;
            let promised =
                if absent { there && self.keeps_delete(first, latest) } else { self.promises(then, key, latest) };
            // A purge is no version; a delete beside it in its batch may be told as one.
            let purges = absent && first.seqno == purge;
            if !purges || end - at > 1 {
                let idle = absent && (purges || !there);
                let promised = promised && !purges;
                versions.push(Told { seqno: first.seqno, time: first.time, state, idle, promised });
            }
            let last = said.get(end - 1).filter(|_| !absent);
            lives = last.map_or(0, |last| self.expiry(last));
            at = end;
        }
        versions.reverse();
        versions
    }

    /// Whether a delete is inside every window since.
    fn keeps_delete(&self, delete: &Said, latest: u64) -> bool {
        self.eras.iter().all(|era| {
            let (upto, now) = era.until.unwrap_or((u64::MAX, latest));
            let Keeping::Mvcc(_, age) = era.keeping else { return upto < delete.seqno };
            upto < delete.seqno || now.saturating_sub(delete.time) < age
        })
    }

    /// Whether its versions have always carried their times.
    pub(crate) fn tells_times(&self) -> bool {
        self.eras.iter().all(|era| era.keeping != Keeping::LastWriterWins)
    }
}
