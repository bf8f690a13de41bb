//! One reader's request for one key, and its answer: the newest version at a seqno, absence, or that this history was
//! dropped.
//!
//! ```text
//!   versions of one key, newest first        asked for S = 25
//!     v5@50  gap_start 42
//!     v3@30  gap_start 20     n: the kept entry just above S; its gap reaches down to 20 ≤ 25: trimmed
//!     v1@10                   c: the newest kept entry at or below S
//! ```
//!
//! Rules R1, R2, R4 and R5 of `docs/versions.md`. A range tombstone counts as an entry of every key it covers. Point
//! reads show a [`Lookup`] the entries of each of their sources, newer sources first; a scan shows it those of its
//! merge.

use std::sync::Arc;

use super::strategy::{MergeStrategy, wide_sum};
use crate::base::{Bytes, Error, Kind, Micros, Result, Seqno};

/// Request of a reader.
#[derive(Clone, Debug)]
pub(crate) struct ReadAt {
    /// Seqno of the moment to read.
    pub(crate) seqno: Seqno,
    /// Below this seqno, absence may mean that data was dropped.
    pub(crate) vanished: Seqno,
    /// Newest seqno when the reader was opened: purges up to it hide everything older, whatever the moment (R1).
    pub(crate) purge_horizon: Seqno,
    /// Whether values visible at the moment have expired since, and may have been dropped.
    pub(crate) expired_by_then: bool,
    /// Seqno from which on nothing is refused, for a reader of many keys; `None` for a single key.
    pub(crate) horizon: Option<Seqno>,
    /// Expiry at the moment, if values expire.
    pub(crate) cutoffs: Option<Arc<Cutoffs>>,
}

impl ReadAt {
    /// Returns a request for the newest state: everything dropped was superseded at or below `seqno`.
    pub(crate) fn present(seqno: Seqno, cutoffs: Option<Arc<Cutoffs>>) -> Self {
        Self { seqno, vanished: Seqno(0), purge_horizon: seqno, expired_by_then: false, horizon: None, cutoffs }
    }

    /// Returns the refusal of this moment. It names a later one; for a single key that is a guess, which the caller
    /// verifies.
    #[cold]
    pub(crate) fn refused(&self, guess: Seqno) -> Error {
        Error::HistoryTrimmed { oldest: self.horizon.unwrap_or(guess).max(self.seqno.next()) }
    }
}

/// Returns what an entry means to a reader that may see it, in either tier and for any verb: the one place where that
/// is decided. `None`: it may have expired at the moment of the cutoffs, which is not known exactly.
///
/// A new kind is one more branch here; if its value is not what is stored, also one in [`Answer::into_stored`].
#[inline]
pub(crate) fn meaning(kind: Kind, seqno: Seqno, time: Option<Micros>, cutoffs: Option<&Cutoffs>) -> Option<Meaning> {
    if let Some(cutoffs) = cutoffs.filter(|_| kind.is_value()) {
        if cutoffs.expired(seqno, time) {
            return Some(Meaning::Deleted);
        }
        if cutoffs.unsure(seqno, time) {
            return None;
        }
    }
    Some(match kind {
        Kind::Put => Meaning::Value,
        Kind::Recipe => Meaning::Recipe,
        Kind::WideSum => Meaning::Wide,
        Kind::Operand => Meaning::Operand,
        Kind::Delete | Kind::RangeDelete | Kind::Purge | Kind::RangePurge => Meaning::Deleted,
    })
}

/// Returns the error for an operand above a large value. Strategies with operands take no large values, so only a file
/// that lies has one.
#[cold]
fn operand_on_recipe(key: &[u8]) -> Error {
    Error::invalid(format!(
        "key \"{}\" has an operand on a value in chunks, which no write leaves behind; `verify` names damaged files",
        key.escape_ascii()
    ))
}

/// Expiry at some moment (R7).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cutoffs {
    /// TTLs in microseconds (0: none), each with the seqno from which on it applies to writes, oldest first.
    pub(crate) ttls: Arc<[(Seqno, Micros)]>,
    /// The moment, in microseconds.
    pub(crate) time: Micros,
    /// Uncertainty: the moment may be later, by less than this, in microseconds.
    pub(crate) slack: Micros,
}

impl Cutoffs {
    /// Returns whether a value written at `seqno` and `time` has expired.
    pub(crate) fn expired(&self, seqno: Seqno, time: Option<Micros>) -> bool {
        self.cutoff(seqno).zip(time).is_some_and(|(cutoff, time)| time <= cutoff)
    }

    /// Returns whether that is uncertain.
    pub(crate) fn unsure(&self, seqno: Seqno, time: Option<Micros>) -> bool {
        let within = |(cutoff, time): (Micros, Micros)| time > cutoff && time.saturating_sub(cutoff) < self.slack;
        self.cutoff(seqno).zip(time).is_some_and(within)
    }

    /// Returns the seqno from which on the newest TTL applies.
    pub(crate) fn since(&self) -> Seqno {
        self.ttls.last().map_or(Seqno(0), |(from, _)| *from)
    }

    /// Returns the commit time at or below which a value written at `seqno` has expired.
    fn cutoff(&self, seqno: Seqno) -> Option<Micros> {
        self.time.checked_sub(ttl_at(&self.ttls, seqno)?)
    }
}

/// Returns the TTL of values written at a seqno, in microseconds; `None` if they never expire.
pub(crate) fn ttl_at(ttls: &[(Seqno, Micros)], seqno: Seqno) -> Option<Micros> {
    let since = ttls.partition_point(|(from, _)| *from <= seqno).checked_sub(1)?;
    ttls.get(since).map(|(_, ttl)| *ttl).filter(|ttl| *ttl > Micros::ZERO)
}

/// Metadata of an entry or range tombstone, as shown to a look-up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryMeta {
    pub(crate) seqno: Seqno,
    pub(crate) gap_start: Option<Seqno>,
    pub(crate) moved: bool,
    pub(crate) kind: Kind,
    pub(crate) time: Option<Micros>,
    /// Whether it comes from the history tier, with an interval that holds the moment.
    pub(crate) interval: bool,
}

/// State of a look-up, which goes from newer sources to older ones.
#[derive(Clone, Debug)]
pub(crate) struct Lookup {
    read_at: ReadAt,
    /// Whether the history tier was searched, or is among the sources: moved versions are no longer looked for there.
    history_asked: bool,
    /// Operands at or below the moment, newest first; the entry beneath them is their base.
    operands: Vec<Bytes>,
    /// Seqno of the entry seen last.
    last: Seqno,
    /// Entry just above the moment.
    above: Option<Above>,
}

/// An entry above the moment.
#[derive(Clone, Copy, Debug)]
struct Above {
    seqno: Seqno,
    gap_start: Option<Seqno>,
}

impl Above {
    /// Returns whether versions dropped beneath this entry are needed to answer for `seqno`.
    fn refuses(self, seqno: Seqno) -> bool {
        self.gap_start.is_some_and(|gap| gap <= seqno)
    }
}

/// Answer of the source at which a look-up ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Value(Bytes),
    /// A large value, by its recipe.
    Recipe(Bytes),
    /// A folded sum that is wide.
    Wide(Bytes),
    Deleted,
    /// The version is in the history tier, or was dropped.
    Moved,
}

/// A value as it is stored: whoever wants its bytes puts those of a recipe together, and only then are chunks read
/// (L14).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    Bytes(Bytes),
    Recipe(Bytes),
}

impl Stored {
    /// Returns what the entry holds.
    pub(crate) fn into_bytes(self) -> Bytes {
        match self {
            Self::Bytes(bytes) | Self::Recipe(bytes) => bytes,
        }
    }

    /// Returns whether it is a recipe.
    pub(crate) fn is_recipe(&self) -> bool {
        matches!(self, Self::Recipe(_))
    }
}

impl Answer {
    /// Returns the value as it is stored for readers.
    pub(crate) fn into_stored(self, key: &[u8]) -> Result<Option<Stored>> {
        assert!(self != Self::Moved, "key \"{}\" has no value here: it was moved", key.escape_ascii());
        match self {
            Self::Value(value) => Ok(Some(Stored::Bytes(value))),
            Self::Recipe(recipe) => Ok(Some(Stored::Recipe(recipe))),
            Self::Wide(value) => wide_sum(key, &value).map(|sum| Some(Stored::Bytes(sum))),
            Self::Deleted | Self::Moved => Ok(None),
        }
    }

    /// Returns the kind and value of an equivalent entry; `None` for absence.
    pub(crate) fn into_entry(self) -> Option<(Kind, Bytes)> {
        match self {
            Self::Value(value) => Some((Kind::Put, value)),
            Self::Recipe(recipe) => Some((Kind::Recipe, recipe)),
            Self::Wide(value) => Some((Kind::WideSum, value)),
            Self::Deleted | Self::Moved => None,
        }
    }
}

/// Meaning of one entry for a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Newer than the moment: the search continues with older entries.
    Above,
    /// The answer: a value.
    Value,
    /// The answer: a large value, by its recipe.
    Recipe,
    /// The answer: a folded sum that is wide.
    Wide,
    /// A part of the answer: an operand, to be added with [`Lookup::push`]. Its base is further down.
    Operand,
    /// The answer: absence.
    Deleted,
    /// The version beneath it at the moment was moved to the history tier.
    Moved,
}

impl Meaning {
    /// Returns the answer of a source that found this, if the look-up ends with it.
    pub(crate) fn answer(self, value: impl FnOnce() -> Bytes) -> Option<Answer> {
        match self {
            Self::Value => Some(Answer::Value(value())),
            Self::Recipe => Some(Answer::Recipe(value())),
            Self::Wide => Some(Answer::Wide(value())),
            Self::Deleted => Some(Answer::Deleted),
            Self::Moved => Some(Answer::Moved),
            Self::Above | Self::Operand => None,
        }
    }
}

impl Lookup {
    pub(crate) fn new(read_at: ReadAt) -> Self {
        Self { read_at, history_asked: false, operands: Vec::new(), last: Seqno(0), above: None }
    }

    /// Returns a look-up whose sources include the history tier.
    pub(crate) fn with_history(read_at: ReadAt) -> Self {
        Self { history_asked: true, ..Self::new(read_at) }
    }

    /// Records that the history tier was searched: from now on moved versions are looked for further down.
    pub(crate) fn has_asked_history(&mut self) {
        self.history_asked = true;
    }

    /// Returns the answer of a version in the history tier whose interval holds the moment.
    pub(crate) fn answer_of(
        &self,
        kind: Kind,
        seqno: Seqno,
        time: Option<Micros>,
        value: impl FnOnce() -> Bytes,
    ) -> Result<Option<Answer>> {
        let found = meaning(kind, seqno, time, self.read_at.cutoffs.as_deref());
        Ok(found.ok_or_else(|| self.read_at.refused(Seqno(0)))?.answer(value))
    }

    /// Returns the refusal of the moment, for an entry above it.
    #[cold]
    pub(crate) fn refused(&self, above: Seqno) -> Error {
        self.read_at.refused(above)
    }

    /// Returns the seqno up to which purges hide everything older.
    pub(crate) fn purge_horizon(&self) -> Seqno {
        self.read_at.purge_horizon
    }

    pub(crate) fn seqno(&self) -> Seqno {
        self.read_at.seqno
    }

    /// Shows the next older version of the key: a point entry or a range tombstone.
    #[inline]
    pub(crate) fn visit(&mut self, meta: EntryMeta) -> Result<Meaning> {
        let EntryMeta { seqno, gap_start, moved, kind, time, interval } = meta;
        self.last = seqno;
        if seqno > self.read_at.seqno {
            if kind.purges() && seqno <= self.read_at.purge_horizon {
                return Ok(Meaning::Deleted);
            }
            let above = Above { seqno, gap_start };
            self.record_above(above);
            let there = moved && !self.history_asked && above.refuses(self.read_at.seqno);
            return Ok(if there { Meaning::Moved } else { Meaning::Above });
        }
        // An interval that holds the moment is the truth, whatever was dropped around it.
        if self.operands.is_empty() && !interval {
            self.check_gap()?;
        }
        meaning(kind, seqno, time, self.read_at.cutoffs.as_deref()).ok_or_else(|| self.trimmed())
    }

    /// Returns the seqno of the entry seen last: the one that answered, if any did.
    pub(crate) fn last(&self) -> Seqno {
        self.last
    }

    /// Adds the value of an operand that was seen.
    pub(crate) fn push(&mut self, operand: Bytes) {
        self.operands.push(operand);
    }

    /// Returns the number of operands seen.
    pub(crate) fn operands(&self) -> usize {
        self.operands.len()
    }

    /// Returns the value as it is stored for readers, once a source has answered or none is left.
    pub(crate) fn finish(self, answer: Option<Answer>, strategy: &MergeStrategy, key: &[u8]) -> Result<Option<Stored>> {
        if !self.operands.is_empty() {
            // There was never anything beneath the oldest operand, or its gap would have shown it.
            let base = match &answer {
                Some(Answer::Value(base) | Answer::Wide(base)) => Some(base),
                Some(Answer::Recipe(_)) => return Err(operand_on_recipe(key)),
                Some(Answer::Deleted | Answer::Moved) | None => None,
            };
            return strategy.fold(key, base, &self.operands).map(|folded| Some(Stored::Bytes(folded)));
        }
        match answer {
            Some(Answer::Moved) => Err(self.trimmed()),
            Some(answer) => answer.into_stored(key),
            None => self.nothing_left().map(|()| None),
        }
    }

    /// Returns the entry that could replace everything found; `None` if no operand was found, or they cannot be stored
    /// as one entry.
    pub(crate) fn state(&self, answer: Option<&Answer>, strategy: &MergeStrategy, key: &[u8]) -> Option<(Kind, Bytes)> {
        let (newest, older) = self.operands.split_first()?;
        let mut gathered = strategy.gather(newest)?;
        let base = match answer {
            Some(Answer::Value(base) | Answer::Wide(base)) => Some(base),
            Some(Answer::Recipe(_)) => return None,
            Some(Answer::Deleted | Answer::Moved) | None => None,
        };
        older.iter().chain(base).all(|older| gathered.store_older(key, older)).then(|| gathered.into_entry(true))
    }

    fn record_above(&mut self, mut entry: Above) {
        // The gap of an entry further above may reach beneath this one.
        if let Some(newer) = self.above {
            entry.gap_start = entry.gap_start.into_iter().chain(newer.gap_start).min();
        }
        self.above = Some(entry);
    }

    /// Ends a look-up without an entry: the key is absent, unless history was dropped.
    fn nothing_left(&self) -> Result<()> {
        self.check_gap()?;
        if self.read_at.seqno < self.read_at.vanished || self.read_at.expired_by_then {
            return Err(self.trimmed());
        }
        Ok(())
    }

    #[inline]
    fn check_gap(&self) -> Result<()> {
        match self.above {
            Some(above) if above.refuses(self.read_at.seqno) => Err(self.trimmed()),
            _ => Ok(()),
        }
    }

    /// Returns the refusal. It names the entry above whose gap reaches down to the moment; without one, the seqno below
    /// which absence proves nothing (R5).
    #[cold]
    pub(crate) fn trimmed(&self) -> Error {
        let above = self.above.filter(|above| above.refuses(self.read_at.seqno));
        self.read_at.refused(above.map_or(self.read_at.vanished, |above| above.seqno))
    }
}
