//! One reader's question for one key, and its answer: the newest version at a seqno, absence, or that this history is
//! gone.
//!
//! ```text
//!   versions of one key, newest first        asked for S = 25
//!     v5@50  gap_start 42
//!     v3@30  gap_start 20     n: the kept entry just above S; its gap reaches down to 20 ≤ 25: trimmed
//!     v1@10                   c: the newest kept entry at or below S
//! ```
//!
//! Rules R1, R2, R4 and R5 of `docs/versions.md`. Range tombstones count as entries of every key they cover. Point
//! reads show a [`Lookup`] what each of their sources holds, newer sources first; a scan shows it what the merge stands
//! at.

use std::sync::Arc;

use super::strategy::{MergeStrategy, wide_sum};
use crate::base::{Bytes, Error, Kind, Result, Seqno};

/// What a reader asks for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// The moment.
    pub(crate) seqno: u64,
    /// Below this seqno, finding nothing may mean that what was there is gone.
    pub(crate) vanished: u64,
    /// The newest seqno when the reader came: purges up to it hide everything older, whatever the moment (R1).
    pub(crate) opened: u64,
    /// At the moment, values were there that have expired since, and may be gone.
    pub(crate) lapsed: bool,
    /// From here on nothing is refused, for a reader of many keys; nothing for one of a single key.
    pub(crate) horizon: Option<u64>,
    /// What has expired at the moment, where values expire.
    pub(crate) cutoffs: Option<Arc<Cutoffs>>,
}

impl Asked {
    /// The newest of everything: whatever has gone was superseded at or below `seqno`.
    pub(crate) fn present(seqno: u64, cutoffs: Option<Arc<Cutoffs>>) -> Self {
        Self { seqno, vanished: 0, opened: seqno, lapsed: false, horizon: None, cutoffs }
    }

    /// That the moment is refused, where as much is known of a later one: of a single key a first guess, which whoever
    /// asked for the key tries.
    #[cold]
    pub(crate) fn refused(&self, guess: u64) -> Error {
        Error::HistoryTrimmed { oldest: Seqno(self.horizon.unwrap_or(guess).max(self.seqno.saturating_add(1))) }
    }
}

/// What an entry says to a reader who may see it, whichever tier it stands in and whichever verb meets it: the one place
/// where that is decided. `None`: it may have expired at the moment of the cutoffs, and nobody can tell.
///
/// A kind that is yet to come is one more branch here; and where its value is not what is stored, one in
/// [`Answer::into_value`].
#[inline]
pub(crate) fn meaning(
    kind: Kind,
    (seqno, time): (u64, Option<u64>),
    cutoffs: Option<&Cutoffs>,
) -> Result<Option<Found>> {
    if let Some(cutoffs) = cutoffs.filter(|_| kind == Kind::Put) {
        if cutoffs.expired(seqno, time) {
            return Ok(Some(Found::Deleted));
        }
        if cutoffs.unsure(seqno, time) {
            return Ok(None);
        }
    }
    match kind {
        Kind::Put => Ok(Some(Found::Value)),
        Kind::WideSum => Ok(Some(Found::Wide)),
        Kind::Operand => Ok(Some(Found::Operand)),
        Kind::Delete | Kind::RangeDelete | Kind::Purge | Kind::RangePurge => Ok(Some(Found::Deleted)),
        // Written by a release that knows this kind; files say so in their headers before it comes to this.
        Kind::Recipe => {
            Err(Error::invalid("this release cannot read entries of a later format; open it with a newer one"))
        }
    }
}

/// What has expired at some moment (R7).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cutoffs {
    /// From which seqno on what is written lives how long, in microseconds (0: for ever), oldest first.
    pub(crate) ttls: Arc<[(u64, u64)]>,
    /// The moment, in microseconds.
    pub(crate) time: u64,
    /// The moment may be so much later, in microseconds: less than this.
    pub(crate) slack: u64,
}

impl Cutoffs {
    /// Whether a value written at `seqno`, at that time, is gone.
    pub(crate) fn expired(&self, seqno: u64, time: Option<u64>) -> bool {
        self.cutoff(seqno).zip(time).is_some_and(|(cutoff, time)| time <= cutoff)
    }

    /// Whether nobody can tell if it is.
    pub(crate) fn unsure(&self, seqno: u64, time: Option<u64>) -> bool {
        let within = |(cutoff, time): (u64, u64)| time > cutoff && time - cutoff < self.slack;
        self.cutoff(seqno).zip(time).is_some_and(within)
    }

    /// Since when a time to live has held that is the newest.
    pub(crate) fn since(&self) -> u64 {
        self.ttls.last().map_or(0, |(from, _)| *from)
    }

    /// The commit time at or below which what was written at `seqno` is gone.
    fn cutoff(&self, seqno: u64) -> Option<u64> {
        self.time.checked_sub(ttl_at(&self.ttls, seqno)?)
    }
}

/// How long what was written at a seqno lives, in microseconds; nothing where it lives for ever.
pub(crate) fn ttl_at(ttls: &[(u64, u64)], seqno: u64) -> Option<u64> {
    let since = ttls.partition_point(|(from, _)| *from <= seqno).checked_sub(1)?;
    ttls.get(since).map(|(_, ttl)| *ttl).filter(|ttl| *ttl > 0)
}

/// What a look-up is shown of an entry or mark.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) seqno: u64,
    pub(crate) gap_start: Option<u64>,
    pub(crate) moved: bool,
    pub(crate) kind: Kind,
    pub(crate) time: Option<u64>,
    /// It comes from the history tier, and its interval holds the moment.
    pub(crate) interval: bool,
}

/// What a look-up has found so far, from newer sources to older ones.
#[derive(Clone, Debug)]
pub(crate) struct Lookup {
    asked: Asked,
    /// Whether the history tier has been asked, or is asked beside the others: a moved version is not looked for there
    /// any more.
    history_asked: bool,
    /// Operands at or below the moment, newest first: what is found beneath is their base.
    operands: Vec<Bytes>,
    /// The seqno of what was seen last.
    last: u64,
    /// The entry just above the moment.
    above: Option<Above>,
}

/// An entry above some moment.
#[derive(Clone, Copy, Debug)]
struct Above {
    seqno: u64,
    gap_start: Option<u64>,
}

impl Above {
    /// Whether what was dropped beneath this entry is needed to answer for `seqno`.
    fn refuses(self, seqno: u64) -> bool {
        self.gap_start.is_some_and(|gap| gap <= seqno)
    }
}

/// What a source answers to a look-up that ends there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Value(Bytes),
    /// A folded sum, which is wide.
    Wide(Bytes),
    Deleted,
    /// The history tier has it, or it is gone.
    Moved,
}

impl Answer {
    /// The value as readers get it.
    pub(crate) fn into_value(self, key: &[u8]) -> Result<Option<Bytes>> {
        assert!(self != Self::Moved, "key \"{}\" has no value here: it was moved", key.escape_ascii());
        match self {
            Self::Value(value) => Ok(Some(value)),
            Self::Wide(value) => wide_sum(key, &value).map(Some),
            Self::Deleted | Self::Moved => Ok(None),
        }
    }

    /// The kind and value of an entry that says the same; `None` of absence.
    pub(crate) fn into_entry(self) -> Option<(Kind, Bytes)> {
        match self {
            Self::Value(value) => Some((Kind::Put, value)),
            Self::Wide(value) => Some((Kind::WideSum, value)),
            Self::Deleted | Self::Moved => None,
        }
    }
}

/// What one entry means for a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// It is newer than the moment: look further down.
    Above,
    /// It is the answer: a value.
    Value,
    /// It is the answer: a folded sum, which is wide.
    Wide,
    /// It is a part of the answer: an operand, to be shown with [`Lookup::push`]. What it is folded upon is further
    /// down.
    Operand,
    /// It is the answer: absence.
    Deleted,
    /// What was beneath it at the moment has been moved to the history tier.
    Moved,
}

impl Found {
    /// The answer of a source that found this, if the look-up ends with it.
    pub(crate) fn answer(self, value: impl FnOnce() -> Bytes) -> Option<Answer> {
        match self {
            Self::Value => Some(Answer::Value(value())),
            Self::Wide => Some(Answer::Wide(value())),
            Self::Deleted => Some(Answer::Deleted),
            Self::Moved => Some(Answer::Moved),
            Self::Above | Self::Operand => None,
        }
    }
}

impl Lookup {
    pub(crate) fn new(asked: Asked) -> Self {
        Self { asked, history_asked: false, operands: Vec::new(), last: 0, above: None }
    }

    /// A look-up that finds the history tier among its sources.
    pub(crate) fn with_history(asked: Asked) -> Self {
        Self { history_asked: true, ..Self::new(asked) }
    }

    /// From now on a version that was moved is looked for further down: the history tier has been asked.
    pub(crate) fn has_asked_history(&mut self) {
        self.history_asked = true;
    }

    /// What a version of the history tier answers, whose interval holds the moment.
    pub(crate) fn answer_of(
        &self,
        kind: Kind,
        (seqno, time): (u64, Option<u64>),
        value: impl FnOnce() -> Bytes,
    ) -> Result<Option<Answer>> {
        let found = meaning(kind, (seqno, time), self.asked.cutoffs.as_deref())?;
        Ok(found.ok_or_else(|| self.asked.refused(0))?.answer(value))
    }

    /// That the moment is refused, for an entry above it.
    #[cold]
    pub(crate) fn refused(&self, above: u64) -> Error {
        self.asked.refused(above)
    }

    /// Purges up to this seqno hide what is older.
    pub(crate) fn opened(&self) -> u64 {
        self.asked.opened
    }

    pub(crate) fn seqno(&self) -> u64 {
        self.asked.seqno
    }

    /// Shows the next older version of the key: a point entry or a mark of a range tombstone.
    #[inline]
    pub(crate) fn see(&mut self, seen: Seen) -> Result<Found> {
        let Seen { seqno, gap_start, moved, kind, time, interval } = seen;
        self.last = seqno;
        if seqno > self.asked.seqno {
            if kind.purges() && seqno <= self.asked.opened {
                return Ok(Found::Deleted);
            }
            let above = Above { seqno, gap_start };
            self.see_above(above);
            let there = moved && !self.history_asked && above.refuses(self.asked.seqno);
            return Ok(if there { Found::Moved } else { Found::Above });
        }
        // An interval that holds the moment is the truth, whatever has gone around it.
        if self.operands.is_empty() && !interval {
            self.check_gap()?;
        }
        meaning(kind, (seqno, time), self.asked.cutoffs.as_deref())?.ok_or_else(|| self.trimmed())
    }

    /// The seqno of what was seen last: of what has answered, if anything has.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Takes the value of an operand that was seen.
    pub(crate) fn push(&mut self, operand: Bytes) {
        self.operands.push(operand);
    }

    /// How many operands were seen.
    pub(crate) fn operands(&self) -> usize {
        self.operands.len()
    }

    /// The value as readers get it, once a source has answered or none is left.
    pub(crate) fn finish(self, answer: Option<Answer>, strategy: &MergeStrategy, key: &[u8]) -> Result<Option<Bytes>> {
        if !self.operands.is_empty() {
            // Nothing beneath the oldest operand was ever there, or its gap would have told.
            let base = match &answer {
                Some(Answer::Value(base) | Answer::Wide(base)) => Some(base),
                Some(Answer::Deleted | Answer::Moved) | None => None,
            };
            return strategy.fold(key, base, &self.operands).map(Some);
        }
        match answer {
            Some(Answer::Moved) => Err(self.trimmed()),
            Some(answer) => answer.into_value(key),
            None => self.nothing_left().map(|()| None),
        }
    }

    /// What an entry that replaces everything found would hold; nothing when no operand was found, or they cannot be
    /// stored as one.
    pub(crate) fn state(&self, answer: Option<&Answer>, strategy: &MergeStrategy, key: &[u8]) -> Option<(Kind, Bytes)> {
        let (newest, older) = self.operands.split_first()?;
        let mut gathered = strategy.gather(newest)?;
        let base = match answer {
            Some(Answer::Value(base) | Answer::Wide(base)) => Some(base),
            Some(Answer::Deleted | Answer::Moved) | None => None,
        };
        older.iter().chain(base).all(|older| gathered.store_older(key, older)).then(|| gathered.into_entry(true))
    }

    fn see_above(&mut self, mut entry: Above) {
        // What was dropped beneath one further above may reach beneath this one.
        if let Some(newer) = self.above {
            entry.gap_start = entry.gap_start.into_iter().chain(newer.gap_start).min();
        }
        self.above = Some(entry);
    }

    /// That nothing is left to show: the key is absent, unless history is gone.
    fn nothing_left(&self) -> Result<()> {
        self.check_gap()?;
        if self.asked.seqno < self.asked.vanished || self.asked.lapsed {
            return Err(self.trimmed());
        }
        Ok(())
    }

    #[inline]
    fn check_gap(&self) -> Result<()> {
        match self.above {
            Some(above) if above.refuses(self.asked.seqno) => Err(self.trimmed()),
            _ => Ok(()),
        }
    }

    /// The error that names the entry above whose gap reaches down to the moment; without one, the moment below which
    /// absence says nothing (R5).
    #[cold]
    pub(crate) fn trimmed(&self) -> Error {
        let above = self.above.filter(|above| above.refuses(self.asked.seqno));
        self.asked.refused(above.map_or(self.asked.vanished, |above| above.seqno))
    }
}
